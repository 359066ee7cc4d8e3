//! Into the namespaces, and out of every privilege.

use std::{io::Write as _, os::fd::OwnedFd};

use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{Gid, Uid},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags},
};

use super::{
    root::{Step, step},
    walls::{Wall, Way},
};

/// Who root's processes become: "nobody", who owns no files.
pub(super) const NOBODY: u32 = 65534;

pub(super) fn flag(wall: Wall) -> UnshareFlags {
    match wall {
        Wall::User => UnshareFlags::NEWUSER,
        Wall::Mount => UnshareFlags::NEWNS,
        Wall::Network => UnshareFlags::NEWNET,
        Wall::Ipc => UnshareFlags::NEWIPC,
        Wall::Pid => UnshareFlags::NEWPID,
        Wall::Uts => UnshareFlags::NEWUTS,
        Wall::Cgroup => UnshareFlags::NEWCGROUP,
        Wall::Landlock | Wall::Seccomp | Wall::Memory => UnshareFlags::empty(),
    }
}

/// The folder /proc/self, which stays open when there is no /proc any more.
pub(super) struct ProcSelf(OwnedFd);

impl ProcSelf {
    pub(super) fn open() -> Step<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(step("cannot open /proc/self", rustix::fs::openat(CWD, "/proc/self", flags, Mode::empty()))?))
    }

    pub(super) fn write(&self, file: &str, text: &str) -> Step<()> {
        let write = || -> std::io::Result<()> {
            let file = rustix::fs::openat(&self.0, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            std::fs::File::from(file).write_all(text.as_bytes())
        };
        step(format_args!("cannot write /proc/self/{file}"), write())
    }
}

/// Leaves the node's namespaces. With `Way::User` this process has every capability over the new ones, and none
/// outside.
pub(super) fn enter(way: Way, flags: UnshareFlags, proc_self: &ProcSelf) -> Step<()> {
    match way {
        Way::None => Ok(()),
        Way::Root => step("cannot unshare", unshare(flags)),
        Way::User => {
            let (uid, gid) = ids();
            step("cannot unshare", unshare(flags | UnshareFlags::NEWUSER))?;
            map_to_itself(uid, gid, proc_self)
        }
    }
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: no flag here is FILES, the one that could take a descriptor from under its owner.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The new user namespace knows this user and this group, under their own numbers, and nobody else.
fn map_to_itself(uid: u32, gid: u32, proc_self: &ProcSelf) -> Step<()> {
    proc_self.write("setgroups", "deny")?;
    proc_self.write("uid_map", &format!("{uid} {uid} 1"))?;
    proc_self.write("gid_map", &format!("{gid} {gid} 1"))
}

/// A user namespace inside: it owns none of the namespaces that this process is in, so that even all of its
/// capabilities would give power over nothing. RLIMIT_NPROC is counted in it for this process alone.
pub(super) fn enter_empty_user_namespace(proc_self: &ProcSelf) -> Step<()> {
    let (uid, gid) = ids();
    step("cannot unshare the user namespace", unshare(UnshareFlags::NEWUSER))?;
    map_to_itself(uid, gid, proc_self)
}

/// Root becomes nobody. This process stays dumpable, as its files in /proc belong to root otherwise and it could not
/// map itself.
pub(super) fn become_nobody() -> Step<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    step("cannot leave the groups", rustix::thread::set_thread_groups(&[]))?;
    step("cannot change the group", rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    step("cannot change the user", rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    let dumpable = rustix::process::DumpableBehavior::Dumpable;
    step("cannot stay dumpable", rustix::process::set_dumpable_behavior(dumpable))
}

/// Gives up every capability, and the means to get one back.
pub(super) fn drop_capabilities() -> Step<()> {
    let empty = CapabilitySet::empty();
    step("cannot clear the ambient capabilities", rustix::thread::clear_ambient_capability_set())?;
    let held = step("cannot read the capabilities", rustix::thread::capabilities(None))?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        step("cannot lock the secure bits", rustix::thread::set_capabilities_secure_bits(bits))?;
        // The kernel says where the list ends, which newer ones have longer.
        for number in 0..64 {
            // SAFETY: this operation takes a number and no pointers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
                let error = std::io::Error::last_os_error();
                if error.raw_os_error() == Some(libc::EINVAL) && number > 0 {
                    break;
                }
                return Err(format!("cannot drop capability {number} for good: {error}"));
            }
        }
    }
    let none = CapabilitySets { effective: empty, permitted: empty, inheritable: empty };
    step("cannot drop the capabilities", rustix::thread::set_capabilities(None, none))
}
