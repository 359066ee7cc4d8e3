//! [`contract`] is what any backend has to keep, [`history`] the part of it that needs many threads; [`embedded`] is about the files of this one.

mod contract;
mod embedded;
mod history;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use minnow_model::StoreId;
use tempfile::TempDir;

use super::{Clock, Kv, KvBounds, Write};

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
fn embedded_kv() -> (Kv, TestClock, TempDir) {
    bounded_kv(KvBounds::default())
}

fn bounded_kv(bounds: KvBounds) -> (Kv, TestClock, TempDir) {
    let temp = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let kv = Kv::open_bounded(&temp.path().join("kv"), clock.shared(), bounds).unwrap();
    (kv, clock, temp)
}

fn id(app: &str, name: &str) -> StoreId {
    StoreId { tenant: "default".parse().unwrap(), app: app.parse().unwrap(), name: name.parse().unwrap() }
}

fn set(key: &str, value: &str) -> Write {
    Write::Set { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), metadata: None, expires_ms: None }
}

fn set_until(key: &str, value: &str, expires_ms: u64) -> Write {
    Write::Set {
        key: key.into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        metadata: None,
        expires_ms: Some(expires_ms),
    }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

/// The value as text.
fn value(kv: &Kv, store: &StoreId, key: &str) -> Option<String> {
    let entry = kv.get(store, key).unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// The version of a key that is there.
fn version(kv: &Kv, store: &StoreId, key: &str) -> u64 {
    kv.get(store, key).unwrap().unwrap().version
}
