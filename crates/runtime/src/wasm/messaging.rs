//! Calls a component that exports `wasi:messaging/incoming-handler`: once for each message of a batch, in their order, in one fresh
//! instance and as one invocation.
//!
//! A message for which it returns an error comes again. Where it ends in the middle, of itself or at a limit, that message has failed,
//! those before it are done, and those behind it were never tried.

use std::{pin::pin, sync::Arc, time::Instant};

use http::Response;
use http_body_util::{BodyExt as _, Empty};
use minnow_model::{Level, LogSource, problem::Code as ProblemCode};
use tokio::sync::oneshot;

use super::{
    Answer, Code,
    code::Entry,
    data::messaging::bindings::wasi::messaging::types::Error,
    failure,
    state::{self, GuestState, Owner},
};
use crate::{
    Acks, Batch, RetryAsked,
    meter::{Metered, Run},
    runtime::Place,
};

/// The longest reason that is kept of an error, in bytes: enough to read, and little beside what a dead letter holds.
const MAX_REASON_BYTES: usize = 1024;

/// How far the guest has come.
#[derive(Default)]
struct Progress {
    begun: usize,
    ended: usize,
    failed: Vec<RetryAsked>,
}

/// Hands the guest a batch. The answer names what is to come again, in its extensions as [`Acks`].
pub(super) async fn serve(
    code: Arc<Code>,
    run: Arc<Run>,
    place: Place,
    batch: Arc<Batch>,
    answer: oneshot::Sender<Answer>,
) {
    let timeout = run.function.spec().limits.timeout;
    let mut progress = Progress::default();
    {
        let metered = Metered { run: Arc::clone(&run), inner: pin!(call(&code, &run, &batch, &mut progress)) };
        let mut limited = pin!(tokio::time::timeout(timeout, metered));
        if limited.as_mut().await.is_err() {
            failure::note_timeout(&run);
        }
    }
    if let Some(acks) = progress.acks(&batch, run.failure()) {
        let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        response.extensions_mut().insert(acks);
        // Nobody waits when the delivery was given up.
        let _ = answer.send(response);
    }
    // The next one may find the pool full before the instance is gone.
    drop(place);
}

async fn call(code: &Arc<Code>, run: &Arc<Run>, batch: &Batch, progress: &mut Progress) {
    match handle_all(code, run, batch, progress).await {
        Ok(()) => run.returned(),
        Err(error) => failure::note(run, &error),
    }
}

async fn handle_all(code: &Arc<Code>, run: &Arc<Run>, batch: &Batch, progress: &mut Progress) -> wasmtime::Result<()> {
    let (Entry::Messaging(pre) | Entry::Http02Messaging(_, pre)) = &code.entry else {
        wasmtime::bail!("not a component that takes messages");
    };
    let began = Instant::now();
    let mut store = state::store(code, GuestState::new(&run.function, Owner::Run(Arc::clone(run))));
    let guest = pre.instantiate_async(&mut store).await?;
    run.function.metrics().instantiated(began.elapsed());
    for delivery in &batch.deliveries {
        let message = store.data_mut().data().received(&batch.topic, delivery)?;
        progress.begun += 1;
        let handled = guest.wasi_messaging_incoming_handler().call_handle(&mut store, message).await?;
        progress.ended += 1;
        if let Err(error) = handled {
            let reason = reason(&error);
            let message = format!("message {} of the topic `{}` has failed: {reason}", delivery.position, batch.topic);
            run.log(Level::Error, LogSource::Node, message);
            progress.failed.push(RetryAsked { sequence: delivery.position, after: None, reason: Some(reason) });
        }
    }
    Ok(())
}

/// What a guest's error says, for the log and a dead letter.
fn reason(error: &Error) -> String {
    let (case, text) = match error {
        Error::Timeout => return "the function answered `timeout`".into(),
        Error::Connection(text) => ("connection", text),
        Error::PermissionDenied(text) => ("permission-denied", text),
        Error::Other(text) => ("other", text),
    };
    let end = text.floor_char_boundary(MAX_REASON_BYTES);
    format!("the function answered `{case}`: {}", text.get(..end).unwrap_or_default())
}

impl Progress {
    /// What becomes of each message. `failure` is why the guest ended, where it did not return. `None`: the run says it of all of them.
    fn acks(self, batch: &Batch, failure: Option<ProblemCode>) -> Option<Acks> {
        let Self { begun, ended, failed: mut retry } = self;
        // None was tried, or the node had no room for what the guest needs.
        if begun == 0 || matches!(failure, Some(ProblemCode::NodeOverloaded | ProblemCode::ShuttingDown)) {
            return None;
        }
        if let (true, Some(code)) = (ended < begun, failure) {
            let at = batch.deliveries.get(ended)?;
            let reason = format!("{}: {}", code.as_str(), code.title());
            retry.push(RetryAsked { sequence: at.position, after: None, reason: Some(reason) });
        }
        let untried = batch.deliveries.iter().skip(begun).map(|delivery| delivery.position).collect();
        Some(Acks { retry, untried })
    }
}
