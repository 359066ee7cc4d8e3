//! What is in a backup: a tar, compressed with zstd.
//!
//! | entry | content |
//! | --- | --- |
//! | `minnow-backup.json` | the first: a [`Head`] |
//! | `apps/APP/app.jsonl` | the app's rows in the registry, a [`Record`](crate::registry::records::Record) a line |
//! | `apps/APP/kv/NAME.db`, `apps/APP/sql/NAME.db`, `apps/APP/topic/NAME.db` | the stores, each a SQLite database |
//! | `apps/APP/blob/NAME.db`, `apps/APP/blob/NAME.objects/AB/ID` | a bucket: its index, and the content that is not in it |
//! | `apps/APP/files/NAME/PATH` | a volume, with its folders and symbolic links |
//! | `blobs/sha256/DIGEST` | what the versions of the apps consist of, each once |
//! | `minnow-backup.end.jsonl` | the last: an [`Entry`] for each of the others in their order, then an [`End`] |
//!
//! There are only files, folders and, in volumes, symbolic links; names are relative, without `.` and `..`.

use std::collections::BTreeMap;

use minnow_model::{AppName, Digest, StoreKind, StoreName};
use serde::{Deserialize, Serialize};

use crate::api_types::LeftOut;

/// The format that is written. It grows when an older node could not read a backup any more.
pub(super) const FORMAT: u32 = 1;
pub(super) const HEAD: &str = "minnow-backup.json";
pub(super) const END: &str = "minnow-backup.end.jsonl";
/// The longest head, in bytes: the names of ten thousand apps.
pub(super) const MAX_HEAD_BYTES: u64 = 1 << 20;
/// The longest path of an entry: Linux's own bound (`PATH_MAX`).
pub(super) const MAX_PATH_BYTES: u64 = 4096;
/// The longest path of an entry in a volume, in bytes: below that of a folder in `tmp/`, for which Linux's bound leaves 1 KiB.
pub(super) const MAX_FILE_PATH_BYTES: usize = 3 << 10;
/// Entries of a backup: as many as a list of them of [`MAX_END_BYTES`] has.
pub(super) const MAX_ENTRIES: u64 = 10_000_000;
/// Symbolic links of all volumes in a backup: a restore keeps each in memory until the end. As many as a volume has entries.
pub(super) const MAX_LINKS: u64 = 100_000;
/// The longest rows of one app, in bytes: a thousand changes of as many variables as there may be, and as much again for versions.
pub(super) const MAX_RECORDS_BYTES: u64 = 1 << 30;
/// The longest end, in bytes: some ten million entries.
pub(super) const MAX_END_BYTES: u64 = 2 << 30;
/// Of what a backup does not have, so many are named, of all apps together: enough to see what kind they are. All are counted.
pub(super) const MAX_LEFT_OUT: usize = 100;
/// The longest path of what is left out, in bytes; one that is longer is told with its beginning.
pub(super) const MAX_LEFT_OUT_PATH_BYTES: usize = 500;
/// What zstd remembers while it unpacks, as a power of two: 8 MiB, four times what is written with. A file may ask for more, and is refused.
pub(super) const WINDOW_LOG: u32 = 23;
/// What is left free of the disk, in bytes, or a twentieth of a small disk: neither a backup nor a restore may take the last of it from
/// functions that write.
const RESERVE_BYTES: u64 = 512 << 20;

/// The content of [`HEAD`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub format: u32,
    /// The version of the node that wrote it.
    pub minnow: String,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// In the order in which they come.
    pub apps: Vec<AppName>,
}

/// A line of [`END`]: an entry as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Of the content of a file, or the target of a symbolic link; of nothing for a folder. In hex, as `sha256sum` writes it.
    pub sha256: String,
}

/// The last line of [`END`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub entries: u64,
    /// All contents together.
    pub bytes: u64,
    /// What is not in the backup though it was in a volume, by app.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<AppName, LeftOut>,
}

/// What an entry is, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Head,
    End,
    Records {
        app: AppName,
    },
    /// The database of a store of kind `kv`, `sql`, `blob` or `topic`.
    Store {
        app: AppName,
        kind: StoreKind,
        store: StoreName,
    },
    /// Content of a bucket.
    Object {
        app: AppName,
        store: StoreName,
    },
    /// A volume: its folder.
    Volume {
        app: AppName,
        volume: StoreName,
    },
    /// In a volume.
    File {
        app: AppName,
        volume: StoreName,
    },
    /// Part of a version.
    Content(Digest),
}

impl Item {
    /// What the entry at `path` is; `None` where a backup has none.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            HEAD => return Some(Self::Head),
            END => return Some(Self::End),
            _ => {}
        }
        // The trailing `/` of a folder says nothing here.
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
            return None;
        }
        match parts.as_slice() {
            ["blobs", "sha256", hex] => Some(Self::Content(format!("sha256:{hex}").parse().ok()?)),
            ["apps", app, "app.jsonl"] => Some(Self::Records { app: app.parse().ok()? }),
            ["apps", app, kind @ ("kv" | "sql" | "blob" | "topic"), file] => {
                let kind = StoreKind::ALL.into_iter().find(|known| known.as_str() == *kind)?;
                Some(Self::Store { app: app.parse().ok()?, kind, store: file.strip_suffix(".db")?.parse().ok()? })
            }
            ["apps", app, "blob", folder, shelf, id] => {
                let store = folder.strip_suffix(".objects")?.parse().ok()?;
                (is_id(id) && id.get(..2) == Some(shelf)).then_some(Self::Object { app: app.parse().ok()?, store })
            }
            ["apps", app, "files", volume] => {
                Some(Self::Volume { app: app.parse().ok()?, volume: volume.parse().ok()? })
            }
            ["apps", app, "files", volume, ..] => {
                Some(Self::File { app: app.parse().ok()?, volume: volume.parse().ok()? })
            }
            _ => None,
        }
    }

    /// The app that it belongs to.
    pub(super) fn app(&self) -> Option<&AppName> {
        match self {
            Self::Records { app }
            | Self::Store { app, .. }
            | Self::Object { app, .. }
            | Self::Volume { app, .. }
            | Self::File { app, .. } => Some(app),
            Self::Head | Self::End | Self::Content(_) => None,
        }
    }
}

/// The name of an object's file: 32 hex digits.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether there is room on the disk under `dir` for `bytes` more, beside what is left free.
pub(super) fn has_room(dir: &std::path::Path, bytes: u64) -> std::io::Result<bool> {
    let disk = rustix::fs::statvfs(dir)?;
    let (free, all) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    Ok(free >= bytes.saturating_add(RESERVE_BYTES.min(all / 20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_backup_has_is_an_entry() {
        let hex = "a".repeat(64);
        for good in [
            HEAD,
            END,
            "apps/shop/app.jsonl",
            "apps/shop/kv/a.db",
            "apps/shop/sql/a-b.db",
            "apps/shop/topic/orders.db",
            "apps/shop/blob/a.db",
            "apps/shop/blob/a.objects/01/0123456789abcdef0123456789abcdef",
            "apps/shop/files/data/a/b c",
            "apps/shop/files/data/",
            &format!("blobs/sha256/{hex}"),
        ] {
            assert!(Item::at(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../minnow.db",
            "minnow.db",
            "apps",
            "apps/shop",
            "apps/../kv/a.db",
            "apps/shop/kv/../a.db",
            "apps/Shop/kv/a.db",
            "apps/shop/kv/a.db-wal",
            "apps/shop/kv/A.db",
            "apps/shop/kv//a.db",
            "/apps/shop/kv/a.db",
            "./apps/shop/kv/a.db",
            "apps/shop/locks/a.db",
            "apps/shop/files/a.db/../../kv/b.db",
            "apps/shop/files/data/./a",
            "apps/shop/files/..",
            "apps/shop/blob/a.objects/0123456789abcdef0123456789abcdef",
            "apps/shop/blob/a.objects/02/0123456789abcdef0123456789abcdef",
            "apps/shop/blob/a.objects/../0123456789abcdef0123456789abcdef",
            "apps/shop/blob/a.objects/new/0123456789abcdef0123456789abcdef",
            &format!("blobs/sha256/{hex}0"),
            &format!("blobs/sha256/{}", hex.to_uppercase()),
            "secrets.key",
        ] {
            assert_eq!(Item::at(bad), None, "{bad}");
        }
    }
}
