//! A full disk, which is the operator's affair, told apart from a store that has reached its size, which is its app's.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Free space below which a write of SQLite that found no room means the disk, in bytes: what it could not write it has tried to put
/// into its log, up to the last block. Others may have freed a little since.
const NOTHING_LEFT_BYTES: u64 = 1 << 20;

/// How often the log tells that the disk is full: each call of each function that writes meets it.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// Whether there is no room left on the disk that `path` is on. What cannot be found out is no full disk.
pub(crate) fn disk_is_full(path: &Path) -> bool {
    let dir = path.parent().unwrap_or(path);
    rustix::fs::statvfs(dir).is_ok_and(|disk| {
        // File systems that have no bound on their files say that there are 0.
        let no_files = disk.f_files > 0 && disk.f_favail == 0;
        disk.f_bavail.saturating_mul(disk.f_frsize) < NOTHING_LEFT_BYTES || no_files
    })
}

/// Tells the operator that the disk is full: once in ten minutes while it is.
pub fn tell_full_disk() {
    /// Of the process, as its log is.
    static TOLD: Mutex<Told> = Mutex::new(Told(None));
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).is_news(Instant::now()) {
        tracing::error!(
            "no space is left on the disk of the data directory: what writes fails, what is there is served; free some space"
        );
    }
}

/// When it was told last.
struct Told(Option<Instant>);

impl Told {
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.0.is_none_or(|last| now.saturating_duration_since(last) >= TOLD_EVERY);
        if is_news {
            self.0 = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_news_once_in_a_while() {
        let start = Instant::now();
        let mut told = Told(None);
        let news = [0, 0, 1, 599, 600, 601, 1199, 1300].map(|s| told.is_news(start + Duration::from_secs(s)));
        assert_eq!(news, [true, false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_disk_with_room_is_not_full_nor_is_one_that_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!disk_is_full(&temp.path().join("a.db")));
        assert!(!disk_is_full(&temp.path().join("none/a.db")));
    }
}
