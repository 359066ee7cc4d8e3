//! Runs WebAssembly. Guests are made, called and stopped here; outside this folder only the compiler child, the epoch clock
//! and the outbound client see wasmtime.
//!
//! `engine` configures it, `code` maps compiled artifacts, `state` is what one sandbox holds. `http02`, `http03` and `command`
//! call the three kinds of guest for requests, `messaging` calls one for messages: `reuse03` in shared instances, `first_piece` sends short responses whole, `cgi` speaks
//! RFC 3875 with commands. `data` gives guests their stores, `files` their volumes and `/tmp`. `output` turns what a guest prints into log lines, `failure` what went wrong into a code.

mod cgi;
mod code;
mod command;
mod data;
mod engine;
mod failure;
mod files;
mod first_piece;
mod http02;
mod http03;
mod messaging;
mod output;
mod reuse03;
mod state;

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

pub(crate) use code::{Code, LoadError};
pub(crate) use engine::{Engines, Flavor, config};
pub(crate) use failure::{note_guest_failure, note_timeout};
pub(crate) use files::Roots;
pub(crate) use http02::WarmInstance;
pub(crate) use reuse03::Crew;
pub(crate) use state::Owner;
use tokio::{sync::oneshot, task::JoinHandle};

use minnow_model::problem::Code as ProblemCode;

use crate::{
    Batch,
    invocation::{Body, BodyError, Invocation},
    kind::GuestKind,
    meter::Run,
    runtime::Place,
};

/// The head and body of a guest's answer, sent as soon as the guest sets it.
pub(crate) type Answer = http::Response<Body>;

/// Starts the guest on the current thread's runtime. The answer comes over the channel; when the channel closes without
/// one, `run.failure()` says why once the task has ended. Aborting the task stops the guest; an instance that others share
/// has none.
pub(crate) fn start(
    code: Arc<Code>,
    run: Arc<Run>,
    place: Place,
    invocation: Invocation,
) -> (oneshot::Receiver<Answer>, Option<JoinHandle<()>>) {
    let (answer, receiver) = oneshot::channel();
    let mut invocation = invocation;
    // Of a kind that takes them; all others get them as a request.
    if let Some(batch) = invocation.request.extensions_mut().remove::<Arc<Batch>>() {
        return (receiver, Some(tokio::spawn(Box::pin(messaging::serve(code, run, place, batch, answer)))));
    }
    // Boxed, since tokio moves a task's future several times on its way in and out: 3.4 KB each time for a 0.2 guest.
    let task = match code.kind() {
        GuestKind::Messaging => {
            let message = "the function takes messages and no requests: it exports no handler of wasi:http";
            note_guest_failure(&run, ProblemCode::NoResponse, message.into());
            return (receiver, None);
        }
        GuestKind::Http02 | GuestKind::Http02Messaging => {
            tokio::spawn(Box::pin(http02::serve(code, run, place, invocation, answer)))
        }
        GuestKind::Http03 => return http03::start(code, run, place, invocation, answer, receiver),
        GuestKind::Command | GuestKind::CommandCore => {
            tokio::spawn(Box::pin(command::serve(code, run, place, invocation, answer)))
        }
    };
    (receiver, Some(task))
}

/// A request's body on its way into a sandbox. The invocation hears how far it came.
pub(crate) struct RequestBody {
    body: Body,
    /// An instance that goes on to other requests may keep the body; the invocation must end all the same.
    run: Weak<Run>,
}

impl RequestBody {
    pub(crate) fn new(run: &Arc<Run>, body: Body) -> Self {
        if !body.is_end_stream() {
            run.request_is_to_be_read(true);
        }
        Self { body, run: Arc::downgrade(run) }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(frame), Some(run)) = (&polled, self.run.upgrade()) {
            match frame {
                Some(Err(error)) => run.request_broke_off(error.clone()),
                Some(Ok(_)) if !self.body.is_end_stream() => {}
                Some(Ok(_)) | None => run.request_is_to_be_read(false),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes the error of a request body what the guest sees as an error code.
fn guest_body_error(error: BodyError) -> wasmtime_wasi_http::Error {
    match error {
        BodyError::TooLarge(limit) => wasmtime_wasi_http::Error::HttpRequestBodySize(Some(limit)),
        BodyError::Disconnected | BodyError::Guest => wasmtime_wasi_http::Error::ConnectionTerminated,
    }
}
