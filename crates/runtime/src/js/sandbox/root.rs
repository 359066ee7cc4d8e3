//! The root of a sandboxed process: a small tmpfs with Deno, its libraries, two devices and the bootstrap, all of it
//! read-only, and `/run`, a second tmpfs for sockets.
//!
//! Nothing of the host can be written, and `/run` holds a few inodes and no data, so there is nothing to fill either.
//! The node reaches the sockets in it through a descriptor that the launcher sends; nothing stays behind when the
//! process ends. There is no /sys, no /tmp and no procfs: Deno does without, but for the path of its own program.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::fchown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    },
};

/// Where things are, inside.
pub(super) const DENO: &str = "/bin/deno";
pub(super) const BOOT: &str = "/boot.js";
pub(super) const RUN: &str = "/run";
/// The bootstrap in its folder.
pub(super) const BOOT_NAME: &str = "boot.js";

/// The only devices. /dev/urandom is opened by the cryptography in Deno beside the system call.
pub(super) const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// A folder that is on every Linux and that the root is built over. What is below is held open before.
const STAGE: &str = "/proc";

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;

/// What went wrong, with the step.
pub(super) type Step<T> = Result<T, String>;

pub(super) fn step<T, E: std::fmt::Display>(what: impl std::fmt::Display, result: Result<T, E>) -> Step<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Makes the new root the root of this process, which is in a mount namespace of its own, and returns the folder
/// `/run`. `owner` is who Deno will be.
pub(super) fn build(deno: &Path, libraries: &[PathBuf], boot: &str, owner: Option<(u32, u32)>) -> Step<OwnedFd> {
    // Nothing that is mounted here may show outside, or the other way round.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("cannot make the mounts private", rustix::mount::mount_change("/", private))?;

    // All sources are taken before the first of them could be hidden.
    let mut files = vec![(take(deno)?, PathBuf::from(DENO), libc::MOUNT_ATTR_NODEV)];
    for library in libraries {
        files.push((take(library)?, library.clone(), libc::MOUNT_ATTR_NODEV));
    }
    for device in DEVICES {
        files.push((take(Path::new(device))?, PathBuf::from(device), libc::MOUNT_ATTR_NOEXEC));
    }

    let root = tmpfs(&[("mode", "0755"), ("size", "1m"), ("nr_inodes", "256")], 0)?;
    step("cannot mount the new root", attach(&root, CWD, Path::new(STAGE)))?;
    step("cannot enter the new root", rustix::process::fchdir(&root))?;
    for (source, target, attributes) in &files {
        // Beneath the current folder, which is the new root.
        let target = relative(target)?;
        let make = || {
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::File::create(target)?;
            attach(source, CWD, target)?;
            set_attributes(source, READ_ONLY | *attributes)
        };
        step(format_args!("cannot bring in {}", target.display()), make())?;
    }
    step("cannot write the bootstrap", fs::write(BOOT_NAME, boot))?;
    step("cannot name the program", name_program())?;
    step("cannot make /run", fs::create_dir("run"))?;

    let run = run_folder(owner)?;
    step("cannot mount /run", attach(&run, CWD, Path::new("run")))?;

    // The old root ends up on top of the new one and is taken off. See pivot_root(2).
    step("cannot change the root", rustix::process::pivot_root(".", "."))?;
    step("cannot leave the old root", rustix::mount::unmount(".", UnmountFlags::DETACH))?;
    step("cannot enter the new root", rustix::process::chdir("/"))?;
    let sealed = set_attributes(&root, READ_ONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC);
    step("cannot make the root read-only", sealed)?;
    Ok(run)
}

/// Deno panics where /proc/self/exe is not. A link of that name is all it wants.
fn name_program() -> io::Result<()> {
    fs::create_dir_all("proc/self")?;
    std::os::unix::fs::symlink(DENO, "proc/self/exe")
}

/// `/run`: an inode each for the folder, the two sockets, and a few to spare. No data, and no symbolic links, so that
/// the node cannot be led elsewhere when it connects.
fn run_folder(owner: Option<(u32, u32)>) -> Step<OwnedFd> {
    let attributes =
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSYMFOLLOW;
    let run = tmpfs(&[("mode", "0700"), ("size", "4k"), ("nr_inodes", "8")], attributes)?;
    if let Some((uid, gid)) = owner {
        let folder = rustix::fs::openat(&run, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        step("cannot give /run to its user", fchown(step("/run", folder)?, Some(uid), Some(gid)))?;
    }
    Ok(run)
}

fn tmpfs(options: &[(&str, &str)], attributes: u64) -> Step<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            rustix::mount::fsconfig_set_string(fs.as_fd(), *key, *value)?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        set_attributes(&mount, attributes)?;
        Ok(mount)
    };
    step("cannot make a tmpfs", make())
}

/// A copy of the mount of one file, attached nowhere yet.
fn take(file: &Path) -> Step<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    step(format_args!("cannot take {}", file.display()), rustix::mount::open_tree(CWD, file, flags))
}

fn attach(mount: &OwnedFd, at: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", at, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// `mount_setattr` on a mount, for which there is no safe wrapper.
fn set_attributes(mount: &OwnedFd, attributes: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is an empty C string, and `attr` is a `mount_attr` of the size that is passed; both outlive the
    // call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The path below the root, without tricks.
fn relative(path: &Path) -> Step<&Path> {
    match path.strip_prefix("/") {
        Ok(rest) if rest.components().all(|part| matches!(part, std::path::Component::Normal(_))) => Ok(rest),
        _ => Err(format!("{} is no plain absolute path", path.display())),
    }
}

/// A C string of a path.
pub(super) fn c_path(path: &Path) -> Step<CString> {
    step(path.display(), CString::new(path.as_os_str().as_bytes()))
}

/// The owner of a file, without following links.
pub(super) fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_brought_in() {
        assert_eq!(relative(Path::new("/lib/x.so")).unwrap(), Path::new("lib/x.so"));
        for path in ["lib/x.so", "/lib/../etc/passwd", "../x"] {
            assert!(relative(Path::new(path)).is_err(), "{path}");
        }
    }
}
