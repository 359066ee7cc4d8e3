//! Which walls stand on this machine: each is tried in a child of the launcher, with the code that builds it later.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::{
    process::{WaitOptions, waitpid},
    thread::UnshareFlags,
};

use super::{
    landlock,
    launch::enter_walls,
    limits::Limits,
    namespaces::{self, ProcSelf},
    root::{Step, step},
    syscalls,
    walls::{Wall, Walls, Way},
    wire::StartOrder,
};

/// Tries them all. The process must have one thread only.
pub(super) fn walls(deno: &Path, libraries: &[PathBuf]) -> Step<Walls> {
    let mut walls = Walls::none();
    match way()? {
        Ok(way) => {
            walls.way = way;
            try_namespaces(&mut walls)?;
        }
        Err(reason) => {
            for wall in Wall::NAMESPACES.into_iter().chain([Wall::User]) {
                walls.found(wall, Err(reason.clone()));
            }
        }
    }
    if walls.has(Wall::Mount) {
        try_root(&mut walls, deno, libraries)?;
    }
    try_user(&mut walls)?;
    let abi = landlock::abi();
    walls.landlock_abi = *abi.as_ref().unwrap_or(&0);
    walls.found(Wall::Landlock, abi.map(|_| ()));
    let seccomp = in_child(|| {
        step("no_new_privs", rustix::thread::set_no_new_privs(true))?;
        syscalls::install()
    })?;
    walls.found(Wall::Seccomp, seccomp);
    Ok(walls)
}

/// The way into the namespaces, or why there is none.
fn way() -> Step<Result<Way, String>> {
    let mut reasons = Vec::new();
    let ways: &[Way] = if rustix::process::geteuid().is_root() { &[Way::Root, Way::User] } else { &[Way::User] };
    for way in ways {
        // The UTS namespace is the one that asks least of the machine.
        match in_child(|| namespaces::enter(*way, UnshareFlags::NEWUTS, &ProcSelf::open()?))? {
            Ok(()) => return Ok(Ok(*way)),
            Err(reason) => reasons.push(reason),
        }
    }
    let who = if ways.len() > 1 { "as root or as a user" } else { "as this user" };
    Ok(Err(format!("namespaces cannot be made {who}: {}", reasons.join("; "))))
}

fn try_namespaces(walls: &mut Walls) -> Step<()> {
    let way = walls.way;
    for wall in Wall::NAMESPACES {
        let result = in_child(|| namespaces::enter(way, namespaces::flag(wall), &ProcSelf::open()?))?;
        walls.found(wall, result);
    }
    Ok(())
}

/// A mount namespace is of use only if a root can be built in it.
fn try_root(walls: &mut Walls, deno: &Path, libraries: &[PathBuf]) -> Step<()> {
    let order = trial(walls, deno, libraries);
    let built = in_child(|| enter_walls(&order, &ProcSelf::open()?).map(|_| ()))?;
    if built.is_err() {
        walls.standing.remove(&Wall::Mount);
        walls.found(Wall::Mount, built);
    }
    Ok(())
}

/// The empty user namespace, from within the others.
fn try_user(walls: &mut Walls) -> Step<()> {
    if walls.way == Way::None {
        return Ok(());
    }
    let flags = Wall::NAMESPACES.into_iter().filter(|wall| walls.has(*wall)).map(namespaces::flag);
    let flags = flags.fold(UnshareFlags::empty(), |a, b| a | b);
    let way = walls.way;
    let result = in_child(|| {
        let proc_self = ProcSelf::open()?;
        namespaces::enter(way, flags, &proc_self)?;
        if rustix::process::geteuid().is_root() {
            namespaces::become_nobody()?;
        }
        namespaces::enter_empty_user_namespace(&proc_self)
    })?;
    walls.found(Wall::User, result);
    Ok(())
}

fn trial(walls: &Walls, deno: &Path, libraries: &[PathBuf]) -> StartOrder {
    StartOrder {
        deno: deno.into(),
        libraries: libraries.into(),
        boot: String::new(),
        args: Vec::new(),
        env: Vec::new(),
        limits: Limits { open_files: 0, threads: 0 },
        data_bytes: 0,
        walls: walls.clone(),
        run_dir: None,
        group: None,
    }
}

/// What comes of it in a child, which it may change as it likes. The outer error is that there was no child.
fn in_child(attempt: impl FnOnce() -> Step<()>) -> Step<Result<(), String>> {
    let (reader, writer) = step("cannot make a pipe", std::io::pipe())?;
    // SAFETY: this process has one thread, so nothing in the child can be locked for ever.
    match unsafe { libc::fork() } {
        0 => {
            drop(reader);
            let result = attempt();
            if let Err(reason) = &result {
                let _ = (&writer).write_all(reason.as_bytes());
            }
            // SAFETY: ends the child without running what the launcher has registered for its end.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        -1 => Err(format!("cannot fork: {}", std::io::Error::last_os_error())),
        pid => {
            drop(writer);
            let mut reason = String::new();
            step("cannot read from a child", (&reader).take(4096).read_to_string(&mut reason))?;
            let waited = step(
                "cannot wait for a child",
                rustix::io::retry_on_intr(|| waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::empty())),
            )?;
            let succeeded = waited.is_some_and(|(_, status)| status.exit_status() == Some(0));
            Ok(match succeeded {
                true => Ok(()),
                false if reason.is_empty() => Err("the attempt ended the process".into()),
                false => Err(reason),
            })
        }
    }
}
