//! `minnow js-sandbox`: from a process of the node to a sandboxed Deno.
//!
//! The launcher is started for every Deno. It leaves the node's namespaces, builds the root, and makes one more
//! process, which is the first in the new PID namespace and a child of the *node* (`CLONE_PARENT`): the node can wait
//! for it, and it dies with the node. Then the launcher ends. The new process gives up the rest and executes Deno.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags},
    process::Signal,
    thread::UnshareFlags,
};

use super::{
    landlock::{self, Files},
    limits,
    namespaces::{self, NOBODY, ProcSelf},
    probe,
    root::{self, Step, step},
    syscalls,
    walls::{Wall, Way},
    wire::{self, Go, Order, Report, StartOrder},
};

/// The name of the host in the sandbox.
const HOST: &[u8] = b"minnow";

/// Runs the launcher. Its standard input is the connection to the node, its standard output and error are to be Deno's.
///
/// The process must have one thread only: Linux lets no other enter a user namespace.
pub fn main() -> ExitCode {
    let result = run();
    if let Err(error) = &result {
        // Should the node be gone, nobody wants to know.
        let _ = wire::send(rustix::stdio::stdin(), &Report::Failed(error.clone()), None);
    }
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run() -> Step<()> {
    close_all_but_standard()?;
    // The connection, out of the way of Deno's standard input, and closed when Deno is executed.
    let node = step("no connection to the node", rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3))?;
    let order = step("cannot read the order", wire::receive::<Order>(&node))?;
    match order {
        Some((Order::Probe { deno, libraries }, _)) => {
            step("cannot answer", wire::send(&node, &Report::Walls(probe::walls(&deno, &libraries)?), None))
        }
        Some((Order::Start(order), _)) => start(&node, &order),
        None => Ok(()),
    }
}

fn start(node: &OwnedFd, order: &StartOrder) -> Step<()> {
    let proc_self = ProcSelf::open()?;
    let walls = &order.walls;
    // When memory gets short, Deno goes before the node. Where that may not be written the node's own value stays.
    let _ = proc_self.write("oom_score_adj", "500");
    if let Some(group) = &order.group {
        step("cannot enter the memory group", std::fs::write(group, "0"))?;
    }

    let run = enter_walls(order, &proc_self)?;
    step("cannot report", wire::send(node, &Report::Built, run.as_ref()))?;
    drop(run);
    if step("cannot read from the node", wire::receive::<Go>(node))?.is_none() {
        return Ok(());
    }

    let program = Program::open(order)?;
    if rustix::process::geteuid().is_root() {
        namespaces::become_nobody()?;
    }
    if walls.has(Wall::User) {
        namespaces::enter_empty_user_namespace(&proc_self)?;
    }
    drop(proc_self);

    match step("cannot make Deno's process", clone_sibling())? {
        None => {
            let error = program.execute(node, order);
            let _ = wire::send(node, &Report::Failed(error), None);
            // SAFETY: ends the process without running what the launcher has registered for its end.
            unsafe { libc::_exit(1) }
        }
        Some(pid) => step("cannot report", wire::send(node, &Report::Pid(pid), None)),
    }
}

/// The namespaces and the root. The folder `/run`, where there is a root.
pub(super) fn enter_walls(order: &StartOrder, proc_self: &ProcSelf) -> Step<Option<OwnedFd>> {
    let walls = &order.walls;
    let namespaces = Wall::NAMESPACES.into_iter().filter(|wall| walls.has(*wall));
    namespaces::enter(
        walls.way,
        namespaces.map(namespaces::flag).fold(UnshareFlags::empty(), |a, b| a | b),
        proc_self,
    )?;
    if walls.has(Wall::Uts) {
        step("cannot name the host", rustix::system::sethostname(HOST))?;
        step("cannot name the domain", rustix::system::setdomainname(b""))?;
    }
    let nobody = (walls.way == Way::Root).then_some((NOBODY, NOBODY));
    if walls.has(Wall::Mount) {
        return root::build(&order.deno, &order.libraries, &order.boot, nobody).map(Some);
    }
    if rustix::process::geteuid().is_root()
        && let Some(run_dir) = &order.run_dir
    {
        step("cannot give away the run folder", root::give(run_dir, NOBODY, NOBODY))?;
    }
    Ok(None)
}

/// What is needed to execute Deno, opened while it can be.
struct Program {
    /// Without a root of its own, Deno may be where only root may look: it is executed by its descriptor.
    deno: OwnedFd,
    args: Vec<CString>,
    env: Vec<CString>,
    null: OwnedFd,
}

impl Program {
    fn open(order: &StartOrder) -> Step<Self> {
        let inside = order.walls.has(Wall::Mount);
        let path = if inside { PathBuf::from(root::DENO) } else { order.deno.clone() };
        let open = |path: &Path, flags| {
            let opened = rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
            step(format_args!("cannot open {}", path.display()), opened)
        };
        let c_string = |text: &str| step("an argument of Deno", CString::new(text));
        let mut args = vec![root::c_path(&path)?];
        for arg in &order.args {
            args.push(c_string(arg)?);
        }
        let mut env = Vec::new();
        for (name, value) in &order.env {
            env.push(c_string(&format!("{name}={value}"))?);
        }
        Ok(Self { deno: open(&path, OFlags::PATH)?, null: open(Path::new("/dev/null"), OFlags::RDONLY)?, args, env })
    }

    /// Gives up the rest and becomes Deno. Comes back only with an error.
    fn execute(&self, node: &OwnedFd, order: &StartOrder) -> String {
        match self.seal(node, order) {
            Ok(()) => format!("cannot execute Deno: {}", self.exec()),
            Err(error) => error,
        }
    }

    fn seal(&self, node: &OwnedFd, order: &StartOrder) -> Step<()> {
        let walls = &order.walls;
        // No terminal, and no job control by whoever started the node.
        step("cannot start a session", rustix::process::setsid())?;
        step("cannot enter the root folder", rustix::process::chdir("/"))?;
        step("cannot close standard input", rustix::stdio::dup2_stdin(&self.null))?;
        namespaces::drop_capabilities()?;
        step("no_new_privs", rustix::thread::set_no_new_privs(true))?;
        // A change of user or capabilities takes the signal off, so it is set after them.
        step("cannot die with the node", rustix::process::set_parent_process_death_signal(Some(Signal::KILL)))?;
        if is_closed(node) {
            return Err("the node is gone".into());
        }
        limits::schedule_as_batch();
        limits::set(&order.limits, order.data_bytes, walls.has(Wall::User))?;
        if walls.has(Wall::Landlock) {
            self.restrict_files(order)?;
        }
        if walls.has(Wall::Seccomp) {
            syscalls::install()?;
        }
        Ok(())
    }

    fn restrict_files(&self, order: &StartOrder) -> Step<()> {
        let (boot, run) = match &order.run_dir {
            Some(run_dir) => (run_dir.join(root::BOOT_NAME), run_dir.clone()),
            None => (root::BOOT.into(), root::RUN.into()),
        };
        let files = Files {
            deno: self.deno.as_fd(),
            libraries: &order.libraries,
            boot: &boot,
            run: &run,
            devices: &root::DEVICES,
        };
        landlock::restrict(order.walls.landlock_abi, &files)
    }

    fn exec(&self) -> io::Error {
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (args, env) = (pointers(&self.args), pointers(&self.env));
        // SAFETY: the path is an empty C string; both lists hold C strings that outlive the call and end with a null
        // pointer.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.deno.as_raw_fd(),
                c"".as_ptr(),
                args.as_ptr(),
                env.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        io::Error::last_os_error()
    }
}

/// A process beside this one: its parent is this one's parent. Its number, or `None` in the new process itself.
fn clone_sibling() -> io::Result<Option<i32>> {
    // SAFETY: without CLONE_VM this is a fork; there is no other thread whose locks could stay taken in the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the other end is gone: how a process without a visible parent learns that it has died.
fn is_closed(node: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&node, PollFlags::empty())];
    let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_err() || fds.iter().any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

/// Whatever the node had open does not get here; this is for what it has forgotten.
fn close_all_but_standard() -> Step<()> {
    // SAFETY: nothing has been opened yet that anything here owns.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(format!("cannot close what is open: {}", io::Error::last_os_error())) }
}
