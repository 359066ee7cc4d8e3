//! What one process may use.

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::root::{Step, step};

/// The limits of one process, beside its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) open_files: u64,
    /// An idle Deno has one for its work, one for signals, one for its caches, and one of V8 for each core up to a
    /// dozen or so.
    pub(crate) threads: u64,
}

/// The stack of the main thread, and of those threads of V8 that ask for none of a certain size. V8 uses 984 KiB of it
/// for JavaScript. The usual 8 MiB would count as memory for every thread.
const STACK_BYTES: u64 = 2 << 20;

/// Sets the limits of this process and of what it executes. They cannot be raised again.
///
/// `data_bytes` is for memory of its own that it maps. It counts whether it is used or not: of an idle Deno that is 518
/// MiB more than it uses on 2 cores, of which 512 are V8's range for code, and depends on the release and on the
/// machine.
///
/// Threads are counted for each user in each user namespace. Without a namespace of its own the process would be counted
/// together with all others of its user, so there `counts_alone` is false, and only its memory bounds its threads.
pub(super) fn set(limits: &Limits, data_bytes: u64, counts_alone: bool) -> Step<()> {
    let all = [
        (Resource::Core, 0),
        // There is no file that it could write; this is for the case that there were.
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
        (Resource::Stack, STACK_BYTES),
        (Resource::Nofile, limits.open_files),
        (Resource::Nproc, if counts_alone { limits.threads } else { u64::MAX }),
        // The last one: this process allocates too.
        (Resource::Data, data_bytes),
    ];
    for (resource, value) in all {
        // What is lower already stays so.
        let now = rustix::process::getrlimit(resource).maximum;
        let value = now.unwrap_or(u64::MAX).min(value);
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        step(format_args!("cannot limit {resource:?}"), setrlimit(resource, limit))?;
    }
    Ok(())
}

/// Has the system run this process, and what it executes, as a batch job (`sched(7)`): with its full share of the processor, but
/// when it is woken it does not interrupt who runs. So a worker of the gateway hands out all requests that it has before the
/// function's process begins with them, where both share a core: measured, some 40 % more requests. Where the system refuses, it
/// is only slower.
pub(super) fn schedule_as_batch() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live for the call; 0 is the calling thread, which is the only one.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
}
