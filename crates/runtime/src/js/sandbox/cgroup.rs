//! A memory group for each process, where this node may make groups: version 2 with a delegated group, or version 1.
//!
//! Everything counts there: heap, buffers, code, thread stacks, what the kernel holds for sockets. When it is full the
//! kernel kills the process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a group may stay busy after its last process has been waited for, on the thread that waited. Measured: it is
/// free at once; a group that is left over is removed by the next node.
const BUSY: Duration = Duration::from_millis(50);

const PREFIX: &str = "minnow-js-";

/// Where this node makes its groups.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    parent: PathBuf,
    version: Version,
    /// Makes names unique in this process.
    next: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Groups {
    /// Finds the place and tries it, or says why there is none.
    pub(super) fn find() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let (version, parent) = place(&mounts, &own)?;
        if version == Version::V2 {
            prepare_v2(&parent)?;
        }
        let groups = Self { parent, version, next: Arc::default() };
        groups.remove_leftovers();
        groups
            .create(1 << 30, 16)
            .map_err(|error| format!("cannot make a group in {}: {error}", groups.parent.display()))?;
        Ok(groups)
    }

    /// A new group with this limit, gone when the value is dropped.
    pub(super) fn create(&self, memory_bytes: u64, threads: u64) -> io::Result<Group> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        let group = Group { path, version: self.version };
        match self.version {
            Version::V1 => {
                group.write("memory.limit_in_bytes", memory_bytes)?;
                // Memory and swap together: no swap. Not there when the kernel does not count swap.
                group.write_if_there("memory.memsw.limit_in_bytes", memory_bytes)?;
            }
            Version::V2 => {
                group.write("memory.max", memory_bytes)?;
                group.write_if_there("memory.swap.max", 0)?;
                group.write_if_there("memory.oom.group", 1)?;
                group.write_if_there("pids.max", threads)?;
            }
        }
        Ok(group)
    }

    /// Groups of nodes that were killed. One that is in use cannot be removed.
    fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(&self.parent) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let node = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
            if node.is_some_and(|node| !Path::new(&format!("/proc/{node}")).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// The memory group of one process.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    version: Version,
}

impl Group {
    /// The file to which a process of one thread writes "0" to move in. What it has in memory stays where it was
    /// counted; its children are born in the group.
    ///
    /// In version 1 it is the one for single threads: it saves the wait for a lock over all processes of the machine, 6
    /// ms.
    pub(super) fn door(&self) -> PathBuf {
        self.path.join(match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        })
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub(super) fn has_killed(&self) -> bool {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        fs::read_to_string(self.path.join(file)).is_ok_and(|text| oom_kills(&text) > 0)
    }

    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.path.join(file), value.to_string())
    }

    fn write_if_there(&self, file: &str, value: u64) -> io::Result<()> {
        match self.write(file, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // What may not be created is reported like this by a cgroup file system.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !self.path.join(file).exists() => Ok(()),
            result => result,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + BUSY;
        while let Err(error) = fs::remove_dir(&self.path) {
            if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// The own group of this process in the hierarchy that has the memory controller. `mounts` is a mountinfo, `own` the
/// file /proc/self/cgroup.
fn place(mounts: &str, own: &str) -> Result<(Version, PathBuf), String> {
    let mount = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let is_kind = after.next()? == kind;
            let options = after.nth(1)?;
            let has_option = option.is_none_or(|option| options.split(',').any(|given| given == option));
            let mut fields = before.split(' ');
            let (root, point) = (fields.nth(3)?, fields.next()?);
            (is_kind && has_option).then(|| (root.to_owned(), point.to_owned()))
        })
    };
    let (version, controller, (root, point)) = if let Some(found) = mount("cgroup", Some("memory")) {
        (Version::V1, "memory", found)
    } else if let Some(found) = mount("cgroup2", None) {
        (Version::V2, "", found)
    } else {
        return Err("no cgroup file system with memory groups is mounted".into());
    };
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let controllers = fields.nth(1)?;
        let matches = controllers.split(',').any(|given| given == controller);
        matches.then(|| fields.next()).flatten()
    });
    let path = path.ok_or("this process is in no memory group")?;
    // In a container the mount shows only a part of the hierarchy, which paths may begin with or not.
    let below = if root == "/" { path } else { path.strip_prefix(root.as_str()).unwrap_or("/") };
    Ok((version, Path::new(&point).join(below.trim_start_matches('/'))))
}

/// Version 2 gives memory only to groups whose parent has no processes: the node moves to a group below its own.
fn prepare_v2(own: &Path) -> Result<(), String> {
    let at = |file: &str| own.join(file);
    let has = |file: &str, controller: &str| {
        fs::read_to_string(at(file)).is_ok_and(|text| text.split_whitespace().any(|given| given == controller))
    };
    if !has("cgroup.controllers", "memory") {
        return Err(format!("the memory controller is not delegated to {}", own.display()));
    }
    if !has("cgroup.subtree_control", "memory") {
        let node = at("minnow-node");
        let moved = || -> io::Result<()> {
            if !node.exists() {
                fs::create_dir(&node)?;
            }
            fs::write(node.join("cgroup.procs"), std::process::id().to_string())?;
            let given = fs::write(at("cgroup.subtree_control"), "+memory");
            if given.is_err() {
                // Others are in the group too, and it is not ours to move them.
                fs::write(at("cgroup.procs"), std::process::id().to_string())?;
                let _ = fs::remove_dir(&node);
            }
            given
        };
        moved().map_err(|error| format!("{} is not the node's alone: {error}", own.display()))?;
    }
    if has("cgroup.controllers", "pids") {
        let _ = fs::write(at("cgroup.subtree_control"), "+pids");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const CONTAINER: &str = "29 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro\n";

    #[test]
    fn the_own_group_is_found_in_the_hierarchy_with_memory() {
        let cases = [
            (V1, "9:name=systemd:/\n4:memory:/a/b\n0::/x\n", Ok((Version::V1, "/sys/fs/cgroup/memory/a/b"))),
            (V1, "4:cpu,memory:/\n", Ok((Version::V1, "/sys/fs/cgroup/memory/"))),
            (V2, "0::/system.slice/minnow.service\n", Ok((Version::V2, "/sys/fs/cgroup/system.slice/minnow.service"))),
            (CONTAINER, "0::/docker/abc/x\n", Ok((Version::V2, "/sys/fs/cgroup/x"))),
            (CONTAINER, "0::/\n", Ok((Version::V2, "/sys/fs/cgroup/"))),
            (V1, "0::/\n", Err("this process is in no memory group")),
            ("", "0::/\n", Err("no cgroup file system with memory groups is mounted")),
        ];
        for (mounts, own, expected) in cases {
            let expected = expected.map(|(version, path)| (version, PathBuf::from(path))).map_err(str::to_owned);
            assert_eq!(place(mounts, own), expected, "{own}");
        }
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(oom_kills(""), 0);
    }
}
