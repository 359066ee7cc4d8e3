//! The walls, and which of them this machine has.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// One thing of the system that keeps a Deno process in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wall {
    /// A user namespace that owns nothing: no capability of a process in it reaches anything.
    User,
    /// A root of its own, with nothing in it but Deno.
    Mount,
    /// No network but the two sockets of its folder.
    Network,
    Ipc,
    /// It sees no process but itself.
    Pid,
    Uts,
    Cgroup,
    Landlock,
    Seccomp,
    /// A memory group, which counts everything; without one, a limit of the process on its own data takes its place.
    Memory,
}

impl Wall {
    pub(super) const NAMESPACES: [Self; 6] =
        [Self::Mount, Self::Network, Self::Ipc, Self::Pid, Self::Uts, Self::Cgroup];
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user namespace",
            Self::Mount => "mount namespace",
            Self::Network => "network namespace",
            Self::Ipc => "IPC namespace",
            Self::Pid => "PID namespace",
            Self::Uts => "UTS namespace",
            Self::Cgroup => "cgroup namespace",
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
            Self::Memory => "cgroup memory",
        })
    }
}

/// How the namespaces are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// As root: the namespaces first, then another user, then a user namespace.
    Root,
    /// As an ordinary user: a user namespace first, which gives the right to the others, then a second one inside.
    User,
    /// No namespaces.
    None,
}

/// A wall that the machine does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) wall: Wall,
    /// For the operator: what was tried and what the system said.
    pub(crate) reason: String,
}

/// The walls of this machine. Those that stand are built for every process: a start fails when one of them does not
/// hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Walls {
    pub(super) way: Way,
    pub(super) standing: BTreeSet<Wall>,
    /// The version of Landlock's interface, 0 without it.
    pub(super) landlock_abi: i32,
    pub(super) missing: Vec<Missing>,
}

impl Walls {
    pub(super) fn none() -> Self {
        Self { way: Way::None, standing: BTreeSet::new(), landlock_abi: 0, missing: Vec::new() }
    }

    pub(crate) fn has(&self, wall: Wall) -> bool {
        self.standing.contains(&wall)
    }

    pub(crate) fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Whether the machine lets code of different tenants be kept apart. These may be missing: the memory group, whose
    /// place RLIMIT_DATA takes; the two namespaces that hide names only; and the empty user namespace, as whoever is in
    /// the others has no privilege over them without it either.
    pub(crate) fn keeps_tenants_apart(&self) -> bool {
        [Wall::Mount, Wall::Network, Wall::Ipc, Wall::Pid, Wall::Landlock, Wall::Seccomp]
            .iter()
            .all(|wall| self.has(*wall))
    }

    pub(super) fn found(&mut self, wall: Wall, result: Result<(), String>) -> bool {
        match result {
            Ok(()) => self.standing.insert(wall),
            Err(reason) => {
                self.missing.push(Missing { wall, reason });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_kept_apart_only_behind_the_walls_that_matter() {
        let mut walls = Walls::none();
        for wall in [Wall::Mount, Wall::Network, Wall::Ipc, Wall::Pid, Wall::Landlock] {
            assert!(walls.found(wall, Ok(())));
        }
        assert!(!walls.found(Wall::Seccomp, Err("not compiled in".into())));
        assert!(!walls.keeps_tenants_apart());
        assert_eq!(walls.missing().len(), 1);
        walls.standing.insert(Wall::Seccomp);
        assert!(walls.keeps_tenants_apart());
    }
}
