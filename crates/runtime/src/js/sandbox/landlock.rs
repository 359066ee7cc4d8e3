//! Landlock: what the process may do with the files that it can see, and with the network and processes should it see
//! any.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::root::{Step, step};

/// The files as the process sees them.
pub(super) struct Files<'a> {
    pub(super) deno: BorrowedFd<'a>,
    pub(super) libraries: &'a [PathBuf],
    pub(super) boot: &'a Path,
    pub(super) run: &'a Path,
    pub(super) devices: &'a [&'a str],
}

/// Asks for everything that this version of the interface can restrict and allows what Deno needs. `abi` is what the
/// kernel said that it has; what it then refuses is an error, not a smaller wall.
pub(super) fn restrict(abi: i32, files: &Files<'_>) -> Step<()> {
    step("Landlock", try_restrict(ABI::from(abi), files))
}

fn try_restrict(abi: ABI, files: &Files<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(abi))?;
    if abi >= ABI::V4 {
        // No rule follows: no TCP at all.
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut ruleset = ruleset.create()?;
    let mut allow = |file: BorrowedFd<'_>, access: BitFlags<AccessFs>| {
        // Rights that this version does not know are not restricted by it either.
        (&mut ruleset).add_rule(PathBeneath::new(file, access & AccessFs::from_all(abi))).map(|_| ())
    };
    // The program's interpreter is one of the libraries, and is executed too.
    allow(files.deno, AccessFs::Execute | AccessFs::ReadFile)?;
    for library in files.libraries {
        allow(PathFd::new(library)?.as_fd(), AccessFs::Execute | AccessFs::ReadFile)?;
    }
    allow(PathFd::new(files.boot)?.as_fd(), AccessFs::ReadFile.into())?;
    for device in files.devices {
        allow(PathFd::new(device)?.as_fd(), AccessFs::ReadFile.into())?;
    }
    // To make its socket, not to remove one.
    allow(PathFd::new(files.run)?.as_fd(), AccessFs::MakeSock | AccessFs::ResolveUnix)?;
    let status = ruleset.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(format!("enforced only in part: {status:?}").into());
    }
    Ok(())
}

/// The version of the interface that this kernel has, or why there is none.
pub(super) fn abi() -> Step<i32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no pointer and answers with a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<()>(), 0_usize, VERSION) };
    match i32::try_from(abi) {
        Ok(abi) if abi > 0 => Ok(abi),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}
