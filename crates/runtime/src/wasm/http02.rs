//! Calls a `wasi:http/incoming-handler@0.2.x` component: in a fresh instance, or in one that stays warm.

use std::{pin::pin, sync::Arc, time::Instant};

use http_body_util::BodyExt as _;
use minnow_model::{Level, LogSource, manifest::Instances, problem::Code as ProblemCode};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiHttpView as _,
    p2::bindings::{
        Proxy,
        http::types::{ErrorCode, Scheme},
    },
};

use super::{
    Answer, Code, RequestBody,
    code::Entry,
    failure, guest_body_error,
    state::{self, GuestState, Owner},
};
use crate::{
    invocation::{BodyError, Invocation},
    meter::{Metered, Run},
    runtime::{IdleInstance, Place},
};

/// Requests that one warm instance serves before it is replaced: enough that instantiating costs nothing on average, few
/// enough that a guest that leaks does not grow for ever.
const MAX_REUSE: u32 = 1_000;

/// An instance between two requests.
pub(crate) struct WarmInstance {
    store: Store<GuestState>,
    proxy: Proxy,
    /// Kept so that the code stays mapped.
    code: Arc<Code>,
    served: u32,
    /// Set while it waits for its next request.
    idle: Option<IdleInstance>,
    pub(crate) idle_since: Instant,
}

impl WarmInstance {
    fn is_of(&self, code: &Arc<Code>) -> bool {
        Arc::ptr_eq(&self.code, code)
    }
}

/// Serves one request. Ends when the guest has returned, which may be after its response was sent.
pub(super) async fn serve(
    code: Arc<Code>,
    run: Arc<Run>,
    place: Place,
    invocation: Invocation,
    answer: oneshot::Sender<Answer>,
) {
    let timeout = run.function.spec().limits.timeout;
    {
        let metered = Metered { run: Arc::clone(&run), inner: pin!(call(&code, &run, invocation, answer)) };
        // Pinned, so that the reason is noted before the guest is dropped, which ends its body.
        let mut limited = pin!(tokio::time::timeout(timeout, metered));
        if limited.as_mut().await.is_err() {
            failure::note_timeout(&run);
        }
    }
    // The next one may find the pool full before the instance is gone.
    drop(place);
}

async fn call(code: &Arc<Code>, run: &Arc<Run>, invocation: Invocation, answer: oneshot::Sender<Answer>) {
    let reuse = run.function.spec().instances == Instances::Reuse;
    let warm = if reuse { run.function.take_warm(|warm| warm.is_of(code)) } else { None };
    let mut instance = match warm {
        Some(mut warm) => {
            warm.idle = None;
            warm.store.data_mut().serve(Owner::Run(Arc::clone(run)));
            warm.store.set_epoch_deadline(1);
            warm
        }
        None => match instantiate(code, run).await {
            Ok(instance) => instance,
            Err(error) => return failure::note(run, &error),
        },
    };
    match handle(&mut instance, run, invocation, answer).await {
        Ok(()) => {
            instance.served += 1;
            let state = instance.store.data_mut();
            let is_good = run.is_answered() && run.failure().is_none() && !state.holds_stores();
            if reuse && instance.served < MAX_REUSE && is_good {
                state.serve(Owner::None);
                instance.idle_since = Instant::now();
                instance.idle = IdleInstance::begin(run.function.runtime());
                if instance.idle.is_some() {
                    run.function.put_warm(instance);
                }
            }
        }
        Err(error) => failure::note(run, &error),
    }
}

async fn instantiate(code: &Arc<Code>, run: &Arc<Run>) -> wasmtime::Result<WarmInstance> {
    let (Entry::Http02(pre) | Entry::Http02Messaging(pre, _)) = &code.entry else {
        wasmtime::bail!("not an HTTP 0.2 component")
    };
    let began = Instant::now();
    let mut store = state::store(code, GuestState::new(&run.function, Owner::Run(Arc::clone(run))));
    let proxy = pre.instantiate_async(&mut store).await?;
    run.function.metrics().instantiated(began.elapsed());
    Ok(WarmInstance { store, proxy, code: Arc::clone(code), served: 0, idle: None, idle_since: began })
}

async fn handle(
    instance: &mut WarmInstance,
    run: &Arc<Run>,
    invocation: Invocation,
    answer: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    let scheme = if invocation.scheme == "https" { Scheme::Https } else { Scheme::Http };
    let request = invocation.request.map(|body| RequestBody::new(run, body).map_err(guest_body_error));
    let store = &mut instance.store;
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let outparam = store.data_mut().http().new_response_outparam_from_callback({
        let run = Arc::clone(run);
        move |response| answer_with(&run, response, answer)
    })?;
    instance.proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await?;
    run.returned();
    // An outparam that was never set goes with the sandbox, which is not used again.
    Ok(())
}

/// The guest sets its response.
fn answer_with(
    run: &Run,
    response: Result<http::Response<wasmtime_wasi_http::p2::body::HyperOutgoingBody>, ErrorCode>,
    answer: oneshot::Sender<Answer>,
) {
    match response {
        Ok(response) => {
            let response = response.map(|body| body.map_err(|_| BodyError::Guest).boxed_unsync());
            run.answered(response.status().as_u16());
            // Nobody waits when the client has gone away.
            let _ = answer.send(response);
        }
        Err(error) => {
            run.fail(ProblemCode::InvalidResponse);
            run.log(Level::Error, LogSource::Node, format!("answered with an error: {error:?}"));
        }
    }
}
