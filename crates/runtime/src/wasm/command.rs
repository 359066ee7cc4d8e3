//! Calls a WASI command (`wasi:cli/run`, or a core module's `_start`) in CGI form.

use std::{pin::pin, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{SinkExt as _, Stream, TryStreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use minnow_model::{LogSource, problem::Code as ProblemCode};
use sync_wrapper::SyncStream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite},
    sync::{mpsc, oneshot},
};
use tokio_util::{
    io::{CopyToBytes, ReaderStream, SinkWriter, StreamReader},
    sync::PollSender,
};
use wasmtime_wasi::{
    I32Exit, WasiCtx,
    cli::{AsyncStdinStream, IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use super::{
    Answer, Code, RequestBody, cgi,
    code::Entry,
    failure,
    files::P1,
    output::LogStream,
    state::{self, GuestState, Owner},
};
use crate::{
    invocation::{BodyError, Invocation},
    meter::{Metered, Run},
    runtime::Place,
};

/// Writes of a guest that may lie between it and the client. Beyond them the guest waits.
const PIPE_WRITES: usize = 4;

/// The longest single write, in bytes.
const WRITE_BYTES: usize = 16 << 10;

/// Runs the command once. Ends when both the command and the reading of its output have ended.
pub(super) async fn serve(
    code: Arc<Code>,
    run: Arc<Run>,
    place: Place,
    invocation: Invocation,
    answer: oneshot::Sender<Answer>,
) {
    let (output, read_output) = mpsc::channel(PIPE_WRITES);
    let (ended, how_it_ended) = oneshot::channel();
    let guest = async {
        let metered = Metered { run: Arc::clone(&run), inner: pin!(call(&code, &run, invocation, output)) };
        let _ = ended.send(metered.await);
    };
    let respond = respond(&run, read_output, how_it_ended, answer);
    let timeout = run.function.spec().limits.timeout;
    {
        // Pinned, so that the reason is noted before the guest is dropped, which ends its body.
        let mut limited = pin!(tokio::time::timeout(timeout, async { tokio::join!(guest, respond) }));
        if limited.as_mut().await.is_err() {
            failure::note_timeout(&run);
        }
    }
    // The next one may find the pool full before the instance is gone.
    drop(place);
}

async fn call(
    code: &Arc<Code>,
    run: &Arc<Run>,
    invocation: Invocation,
    output: mpsc::Sender<Bytes>,
) -> wasmtime::Result<()> {
    let began = Instant::now();
    let owner = Owner::Run(Arc::clone(run));
    let (parts, body) = invocation.request.into_parts();
    let mut wasi = WasiCtx::builder();
    state::restrict(&mut wasi);
    // What the request says comes first: no variable of the app stands in its place.
    let request = cgi::variables(&parts, invocation.scheme, invocation.peer, invocation.script_len);
    for (key, value) in run.function.spec().env.iter() {
        if !request.iter().any(|(of_request, _)| **of_request == **key) {
            wasi.env(key, value);
        }
    }
    for (key, value) in request {
        wasi.env(key, value);
    }
    let body = RequestBody::new(run, body).into_data_stream();
    let input = StreamReader::new(SyncStream::new(body.map_err(std::io::Error::other)));
    wasi.arg(run.function.spec().function.as_str())
        .stdin(AsyncStdinStream::new(input))
        .stdout(Output(output))
        .stderr(LogStream::new(&owner, LogSource::Stderr));
    let mut state = GuestState::new(&run.function, owner);
    let result = match &code.entry {
        Entry::Command(pre) => {
            state.set_wasi(wasi.build());
            let mut store = state::store(code, state);
            let command = pre.instantiate_async(&mut store).await?;
            run.function.metrics().instantiated(began.elapsed());
            match command.wasi_cli_run().call_run(&mut store).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(())) => Err(I32Exit(1).into()),
                Err(error) => Err(error),
            }
        }
        Entry::CommandCore { pre, has_files } => {
            let wasi = wasi.build_p1();
            state.set_p1(if *has_files { P1::with_files(wasi, run)? } else { P1::new(wasi) });
            let mut store = state::store(code, state);
            let instance = pre.instantiate_async(&mut store).await?;
            run.function.metrics().instantiated(began.elapsed());
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await
        }
        Entry::Http02(_) | Entry::Http02Messaging(..) | Entry::Messaging(_) | Entry::Http03(_) => {
            wasmtime::bail!("not a command")
        }
    };
    match result {
        Err(error) if error.downcast_ref::<I32Exit>().is_none_or(|exit| exit.0 != 0) => Err(error),
        Ok(()) | Err(_) => {
            run.returned();
            Ok(())
        }
    }
}

/// Reads the command's output and answers with it.
async fn respond(
    run: &Arc<Run>,
    output: mpsc::Receiver<Bytes>,
    how_it_ended: oneshot::Receiver<wasmtime::Result<()>>,
    answer: oneshot::Sender<Answer>,
) {
    let mut output = StreamReader::new(pipe(output));
    let head = cgi::read_head(&mut output).await;
    let (parts, begun) = match head {
        Ok(head) => head,
        Err(error) => {
            // Let the command end, so that a trap or an exit code is told rather than its consequence.
            drop(output);
            if let Ok(Err(failed)) = how_it_ended.await {
                return failure::note(run, &failed);
            }
            let message = format!("the CGI response is not valid: {error}");
            return failure::note_guest_failure(run, ProblemCode::InvalidResponse, message);
        }
    };
    let rest = ReaderStream::with_capacity(std::io::Cursor::new(begun).chain(output), 16 << 10);
    let rest = rest.map_ok(http_body::Frame::<Bytes>::data).map_err(|_| BodyError::Guest);
    // When the output ends because the command failed, the body must not look complete.
    let failed = futures::stream::once(async move {
        match how_it_ended.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(wasmtime::format_err!("stopped")),
        }
    });
    let ended = {
        let run = Arc::clone(run);
        futures::StreamExt::filter_map(failed, move |failed| {
            let failed = failed.map(|error| {
                failure::note(&run, &error);
                Err(BodyError::Guest)
            });
            std::future::ready(failed)
        })
    };
    let body = StreamBody::new(futures::StreamExt::chain(rest, ended)).boxed_unsync();
    let _ = answer.send(http::Response::from_parts(parts, body));
}

/// The command's standard output. Nothing lies in a task of its own, so what the command wrote is not lost when it exits.
#[derive(Clone)]
struct Output(mpsc::Sender<Bytes>);

fn pipe(mut output: mpsc::Receiver<Bytes>) -> impl Stream<Item = std::io::Result<Bytes>> + Unpin {
    futures::stream::poll_fn(move |cx| output.poll_recv(cx).map(|bytes| bytes.map(Ok)))
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        let sink =
            PollSender::new(self.0.clone()).sink_map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        Box::new(SinkWriter::new(CopyToBytes::new(sink)))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self.0.try_send(bytes) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StreamError::Closed),
            Err(mpsc::error::TrySendError::Full(_)) => Err(StreamError::trap("wrote without a permit")),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if self.0.is_closed() {
            return Err(StreamError::Closed);
        }
        Ok(if self.0.capacity() > 0 { WRITE_BYTES } else { 0 })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        // An error means that nobody reads any more; the next check tells the guest.
        let _ = self.0.reserve().await;
    }
}
