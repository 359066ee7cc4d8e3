//! The system calls that a sandboxed Deno may make.
//!
//! The list comes from `strace` over what functions do: HTTP both ways over unix sockets, WebSockets, timers,
//! cryptography, WebAssembly, workers, compression, large heaps, every `node:` module. What is not in it fails with
//! EPERM, as a call without permission does, so that Deno reports an error instead of dying. What reaches far is
//! narrowed by its arguments.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpArgLen::Qword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Calls with any arguments.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Files: what may be opened is the business of the root, Landlock and Deno.
    libc::SYS_openat, libc::SYS_close, libc::SYS_close_range, libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_lseek, libc::SYS_fstat,
    libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_unlinkat, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2,
    // Memory. mmap is below.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mincore, libc::SYS_membarrier,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect,
    // Waiting.
    libc::SYS_futex, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_eventfd2, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Sockets. socket and socketpair are below.
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg,
    libc::SYS_shutdown,
    // Threads and signals of the process itself. clone and tgkill are below.
    libc::SYS_set_robust_list, libc::SYS_set_tid_address, libc::SYS_rseq, libc::SYS_sigaltstack, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_exit, libc::SYS_exit_group,
    // Questions.
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage, libc::SYS_times, libc::SYS_getcpu, libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // It is installed before Deno is executed, so this has to pass once. Later it can only execute what is in the root,
    // which is Deno again, behind the same walls: namespaces, filter, Landlock and no_new_privs stay with a process
    // over exec.
    libc::SYS_execve, libc::SYS_execveat,
    // Allowed here and answered with ENOSYS by the other filter.
    libc::SYS_clone3,
];

/// Calls that newer architectures no longer have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_unlink, libc::SYS_poll, libc::SYS_select,
    libc::SYS_epoll_wait, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_time, libc::SYS_getrlimit, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `PR_SET_VMA`: V8 names its memory.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// An argument that has to be this value, in the bits of the mask.
struct Argument {
    index: u8,
    mask: u64,
    value: u64,
}

fn masked(index: u8, mask: libc::c_int, value: libc::c_int) -> Argument {
    Argument { index, mask: u64::from(mask.cast_unsigned()), value: u64::from(value.cast_unsigned()) }
}

fn exactly(index: u8, value: libc::c_int) -> Argument {
    masked(index, -1, value)
}

/// Calls with the arguments that they need to have, each line one way to be allowed.
fn narrowed(own_pid: i32) -> Vec<(libc::c_long, Vec<Argument>)> {
    let private = masked(3, libc::MAP_TYPE | libc::MAP_GROWSDOWN, libc::MAP_PRIVATE);
    let mut calls = vec![
        // Sockets of files only: no network even if there were one.
        (libc::SYS_socket, vec![exactly(0, libc::AF_UNIX), masked(1, 0xf, libc::SOCK_STREAM)]),
        (libc::SYS_socketpair, vec![exactly(0, libc::AF_UNIX), masked(1, 0xf, libc::SOCK_STREAM)]),
        // Threads, and no processes: a fork would be a process whose CPU time nobody counts.
        (libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD | NAMESPACES, libc::CLONE_THREAD)]),
        // abort() sends itself a signal.
        (libc::SYS_tgkill, vec![exactly(0, own_pid)]),
        // RLIMIT_DATA counts neither memory that is shared nor memory that grows downwards.
        (libc::SYS_mmap, vec![private]),
        (
            libc::SYS_mmap,
            vec![
                masked(3, libc::MAP_TYPE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN, libc::MAP_SHARED),
                masked(2, libc::PROT_WRITE, 0),
            ],
        ),
        // Reading limits, not setting them.
        (libc::SYS_prlimit64, vec![exactly(0, 0), Argument { index: 2, mask: u64::MAX, value: 0 }]),
    ];
    for option in
        [u64::from(libc::PR_SET_NAME.cast_unsigned()), u64::from(libc::PR_GET_NAME.cast_unsigned()), PR_SET_VMA]
    {
        calls.push((libc::SYS_prctl, vec![Argument { index: 0, mask: u64::MAX, value: option }]));
    }
    for request in [libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::TCGETS] {
        // The kernel looks at 32 bits of it.
        calls.push((libc::SYS_ioctl, vec![Argument { index: 1, mask: u64::from(u32::MAX), value: request }]));
    }
    for command in [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GETLK,
        libc::F_SETLK,
        libc::F_SETLKW,
    ] {
        calls.push((libc::SYS_fcntl, vec![exactly(1, command)]));
    }
    calls
}

/// The filters in the order in which they are to be installed.
///
/// The first one answers `clone3` with ENOSYS: its flags are in memory, where no filter can look, and a C library that
/// is told so uses `clone`.
pub(super) fn filters(own_pid: i32) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    for (call, arguments) in narrowed(own_pid) {
        let conditions = arguments
            .into_iter()
            .map(|Argument { index, mask, value }| {
                let length = if mask > u64::from(u32::MAX) { Qword } else { Dword };
                SeccompCondition::new(index, length, SeccompCmpOp::MaskedEq(mask), value)
            })
            .collect::<Result<_, _>>()?;
        rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    }
    let errno = |code: libc::c_int| SeccompAction::Errno(code.cast_unsigned());
    let list = SeccompFilter::new(rules, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    let clone3 = [(libc::SYS_clone3, Vec::new())].into();
    let clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    Ok([clone3.try_into()?, list.try_into()?])
}

/// Puts the calling thread, and what it executes, behind the filters. There is no way back.
pub(super) fn install() -> Result<(), String> {
    let own_pid = rustix::process::getpid().as_raw_nonzero().get();
    for filter in filters(own_pid).map_err(|error| format!("the system call filter: {error}"))? {
        seccompiler::apply_filter(&filter).map_err(|error| format!("seccomp: {error:?}"))?;
    }
    Ok(())
}
