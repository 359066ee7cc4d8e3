//! [`contract`] is what any backend has to keep; [`embedded`] is about the files of this one, [`crash`] about what a
//! crash leaves of them.

mod contract;
mod crash;
mod embedded;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use minnow_model::StoreId;
use tempfile::TempDir;

use super::{Blob, Bucket, BucketError, Buckets, Clock, Conditions, Content, Got, Meta, OpenBounds, Range, Upload};

/// A clock that stands until it is moved.
#[derive(Clone)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000_000)))
    }

    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    fn shared(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now_ms())
    }
}

/// An empty backend; the folder goes when the test ends.
fn embedded_buckets() -> (Buckets, TestClock, TempDir) {
    bounded_buckets(OpenBounds::default())
}

fn bounded_buckets(bounds: OpenBounds) -> (Buckets, TestClock, TempDir) {
    let temp = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let buckets = Buckets::open_bounded(&temp.path().join("blob"), clock.shared(), bounds).unwrap();
    (buckets, clock, temp)
}

fn id(app: &str, name: &str) -> StoreId {
    StoreId { tenant: "default".parse().unwrap(), app: app.parse().unwrap(), name: name.parse().unwrap() }
}

/// Large enough for all that a test puts, unless it is about the size.
const ROOM: u64 = 1 << 30;

fn room(store: &StoreId) -> Bucket<'_> {
    Bucket { store, size_bytes: ROOM }
}

/// Content that is not the same everywhere.
fn content(seed: usize, bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at / 251 + at * 7 + seed) as u8).collect::<Vec<_>>().into()
}

async fn put(buckets: &Buckets, store: &StoreId, key: &str, content: impl Into<Bytes>) -> Blob {
    let put = buckets.put_bytes(room(store), key.into(), Meta::default(), Conditions::default(), content.into());
    put.await.unwrap().unwrap()
}

async fn begin(buckets: &Buckets, bucket: Bucket<'_>, key: &str) -> Upload {
    buckets.put(bucket, key.into(), Meta::default(), Conditions::default()).await.unwrap()
}

async fn read(content: &mut Content) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = content.next().await.unwrap() {
        assert!(!piece.is_empty() && piece.len() <= super::PIECE_BYTES);
        all.extend_from_slice(&piece);
    }
    assert_eq!(content.remaining(), 0);
    all
}

/// The content under a key, or a part of it.
async fn get_range(buckets: &Buckets, store: &StoreId, key: &str, range: Option<Range>) -> Option<Vec<u8>> {
    match buckets.get(store, key, &Conditions::default(), range).await.unwrap() {
        Got::Absent => None,
        Got::Unmet(blob) => panic!("{blob:?}"),
        Got::Found { range, mut content, .. } => {
            assert_eq!(content.remaining(), range.end - range.start);
            Some(read(&mut content).await)
        }
    }
}

async fn get(buckets: &Buckets, store: &StoreId, key: &str) -> Option<Vec<u8>> {
    get_range(buckets, store, key, None).await
}

/// The files below a folder, by their path from it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Where the content files of a bucket are.
fn objects(temp: &TempDir, store: &StoreId) -> PathBuf {
    temp.path().join(format!("blob/{}/{}/{}.objects", store.tenant, store.app, store.name))
}

/// Waits until `done`; with a limit, so that what never comes fails.
async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

fn is_full(error: &BucketError) -> bool {
    matches!(error, BucketError::Full { .. }) && error.is_refusal()
}
