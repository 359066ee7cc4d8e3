//! What went wrong in a guest, as the code that the client sees and the line that the log gets.

use minnow_model::{Level, LogSource, problem::Code};

use crate::{invocation::BodyError, meter::Run};

/// A limit was reached: the error with which the guest is stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Limit {
    #[error("used more CPU time than its limit")]
    Cpu,
    #[error("took longer than its time limit")]
    Time,
    #[error("the sandbox has no invocation")]
    NoInvocation,
}

/// Notes on the run why the guest ended, and writes the reason to the app's log.
pub(super) fn note(run: &Run, error: &wasmtime::Error) {
    let limits = &run.function.spec().limits;
    let (code, message) = if let Some(limit) = error.downcast_ref::<Limit>() {
        match limit {
            Limit::Cpu => (
                Code::CpuLimit,
                format!("stopped: used more CPU time than limits.cpu = {}", humantime::format_duration(limits.cpu)),
            ),
            Limit::Time => return note_timeout(run),
            Limit::NoInvocation => (Code::Internal, limit.to_string()),
        }
    } else if run.memory_refused() == Some(Code::NodeOverloaded) {
        (
            Code::NodeOverloaded,
            format!("stopped: the node has no more memory for sandboxes (sandboxes.memory)\n{error:?}"),
        )
    } else if run.memory_refused().is_some() {
        (
            Code::MemoryLimit,
            format!(
                "stopped: needed more memory than limits.memory = {}\n{error:?}",
                bytesize::ByteSize::b(limits.memory_bytes).display().iec()
            ),
        )
    } else if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        return note_guest_failure(run, Code::FunctionExited, format!("exited with code {}", exit.0));
    } else if is_pool_exhausted(error) {
        (Code::NodeOverloaded, format!("no free sandbox: {error}"))
    } else {
        return note_guest_failure(run, Code::FunctionTrapped, format!("trapped: {error:?}"));
    };
    run.fail(code);
    run.log(Level::Error, LogSource::Node, message);
}

/// Notes what a guest did of itself, unless it had found the request's body broken before: then that is why.
pub(crate) fn note_guest_failure(run: &Run, code: Code, message: String) {
    let Some(broken) = run.broken_request() else {
        run.fail(code);
        return run.log(Level::Error, LogSource::Node, message);
    };
    let (code, why) = match broken {
        BodyError::TooLarge(limit) => {
            let limit = bytesize::ByteSize::b(*limit).display().iec();
            (Code::RequestTooLarge, format!("the request's body is larger than limits.request_body = {limit}"))
        }
        BodyError::Disconnected | BodyError::Guest => (
            Code::BadRequest,
            "the request's body broke off: the client went away, or sent something that is not a body".to_owned(),
        ),
    };
    run.fail(code);
    // Not the function's mistake.
    run.log(Level::Warn, LogSource::Node, format!("{why}\nafter that the function failed: {message}"));
}

/// The invocation took longer than its limit.
pub(crate) fn note_timeout(run: &Run) {
    run.fail(Code::Timeout);
    let timeout = humantime::format_duration(run.function.spec().limits.timeout);
    run.log(Level::Error, LogSource::Node, format!("stopped: took longer than limits.timeout = {timeout}"));
}

fn is_pool_exhausted(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some()
}
