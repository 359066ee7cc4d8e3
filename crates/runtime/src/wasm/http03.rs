//! Calls a `wasi:http/handler@0.3.x` component.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Instant};

use http_body_util::BodyExt as _;
use minnow_model::{Level, LogSource, manifest::Instances, problem::Code as ProblemCode};
use tokio::{sync::oneshot, task::JoinHandle};
use wasmtime::component::Accessor;
use wasmtime_wasi_http::{
    FieldMap, WasiHttpView as _,
    p3::{Request, bindings::Service},
};

use super::{
    Answer, Code, RequestBody,
    code::Entry,
    failure,
    first_piece::{self, Idle},
    guest_body_error,
    reuse03::{self, Job},
    state::{self, GuestState, Owner},
};
use crate::{
    invocation::Invocation,
    meter::{Metered, Run},
    runtime::Place,
};

/// Starts a request, in an instance of its own or in one that is shared.
pub(super) fn start(
    code: Arc<Code>,
    run: Arc<Run>,
    place: Place,
    invocation: Invocation,
    answer: oneshot::Sender<Answer>,
    receiver: oneshot::Receiver<Answer>,
) -> (oneshot::Receiver<Answer>, Option<JoinHandle<()>>) {
    if run.function.spec().instances == Instances::Reuse {
        reuse03::dispatch(code, Job { run, place, invocation, answer });
        return (receiver, None);
    }
    let task = tokio::spawn(Box::pin(serve(code, run, place, invocation, answer)));
    (receiver, Some(task))
}

async fn serve(code: Arc<Code>, run: Arc<Run>, place: Place, invocation: Invocation, answer: oneshot::Sender<Answer>) {
    let timeout = run.function.spec().limits.timeout;
    let idle = Idle::default();
    {
        let guest = pin!(in_fresh_instance(&code, &run, &idle, invocation, answer));
        let inner = pin!(idle.drive(guest));
        // Pinned, so that the reason is noted before the guest is dropped, which ends its body.
        let mut limited = pin!(tokio::time::timeout(timeout, Metered { run: Arc::clone(&run), inner }));
        match limited.as_mut().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failure::note(&run, &error),
            Err(_) => failure::note_timeout(&run),
        }
    }
    // The next one may find the pool full before the instance is gone.
    drop(place);
}

async fn in_fresh_instance(
    code: &Arc<Code>,
    run: &Arc<Run>,
    idle: &Idle,
    invocation: Invocation,
    answer: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    let Entry::Http03(pre) = &code.entry else { wasmtime::bail!("not an HTTP 0.3 component") };
    let began = Instant::now();
    let mut store = state::store(code, GuestState::new(&run.function, Owner::Run(Arc::clone(run))));
    let service = pre.instantiate_async(&mut store).await?;
    run.function.metrics().instantiated(began.elapsed());
    store
        .run_concurrent(async |accessor| {
            call(accessor, &service, run, idle, invocation, answer, None).await?;
            // The guest may go on after its response, for example to finish its body.
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await?
}

/// Makes one call and hands over the response as soon as it has a head. `through` is dropped when the response body is.
/// False when the client went away before.
pub(super) async fn call(
    accessor: &Accessor<GuestState>,
    service: &Service,
    run: &Arc<Run>,
    idle: &Idle,
    invocation: Invocation,
    mut answer: oneshot::Sender<Answer>,
    through: Option<oneshot::Sender<()>>,
) -> wasmtime::Result<bool> {
    let (parts, body) = invocation.request.into_parts();
    let scheme = if invocation.scheme == "https" { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP };
    let headers = accessor.with(|mut store| FieldMap::new_immutable(store.data_mut().http().hooks, parts.headers));
    let (request, request_failed) = Request::new(
        parts.method,
        Some(scheme),
        parts.uri.authority().cloned(),
        parts.uri.path_and_query().cloned(),
        headers,
        None,
        RequestBody::new(run, body).map_err(guest_body_error),
    );
    let answered = tokio::select! {
        biased;
        answered = service.handle(accessor, request) => answered?,
        () = answer.closed() => return Ok(false),
    };
    run.returned();
    match answered {
        Ok(response) => {
            let response = accessor.with(|mut store| response.into_http(&mut store, request_failed))?;
            let (parts, body) = response.into_parts();
            let response = http::Response::from_parts(parts, first_piece::wait(body, idle, through).await);
            // Nobody waits when the client has gone away.
            return Ok(answer.send(response).is_ok());
        }
        Err(error) => {
            run.fail(ProblemCode::InvalidResponse);
            run.log(Level::Error, LogSource::Node, format!("answered with an error: {error:?}"));
        }
    }
    Ok(true)
}
