//! What an invocation has open in the node: blobs and files that are read or written piece by piece. It ends with the invocation, and
//! each takes one of the places that the process has for its kind.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use minnow_store::{
    bucket::{Content, Upload},
    volume::paths::{Reader, Writer},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::{Code, Failure};

/// Blobs that one process is reading at once: each is a file that the node has open. As many as its calls under way.
const MAX_READERS: usize = 256;
/// Uploads of one process at once: those of one bucket are bounded by as many, in the node.
const MAX_UPLOADS: usize = 64;
/// Files of volumes that one process reads and writes piece by piece at once: as many as a sandbox of WebAssembly may have open.
pub(super) const MAX_FILES: usize = 128;

/// What one invocation has open of blobs and files, by the numbers under which the process has them.
#[derive(Default)]
pub(crate) struct HeldOpen {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_ended: bool,
    held: HashMap<u64, Entry>,
}

/// What is under a number. A number that a call uses stays: whoever gives it up in the meantime finds it.
enum Entry {
    Here(Held),
    /// A call uses it.
    Used,
    /// A call uses it, and nobody wants it after that.
    GivenUp,
}

/// What was begun, with its place among those of the process.
struct Held {
    what: What,
    _place: OwnedSemaphorePermit,
}

pub(super) enum What {
    Reader(Content),
    /// Several times as large as the others.
    Upload(Box<Upload>),
    FileReader(Reader),
    FileWriter(Box<FileWriter>),
}

impl HeldOpen {
    /// Gives up all of them: the invocation has ended. Of an upload nothing is left.
    pub(crate) fn release(&self) {
        let held = {
            let mut state = self.state();
            state.has_ended = true;
            mem::take(&mut state.held)
        };
        drop(held);
    }

    fn insert(&self, number: u64, held: Held) -> Result<(), Failure> {
        let mut state = self.state();
        if state.has_ended {
            return Err(Failure::ended());
        }
        state.held.insert(number, Entry::Here(held));
        Ok(())
    }

    /// Takes one out while a call uses it. A second call with its number finds nothing.
    pub(super) fn take(&self, number: u64) -> Result<Taken<'_>, Failure> {
        let mut state = self.state();
        let place = state.held.get_mut(&number).ok_or_else(Failure::ended)?;
        match mem::replace(place, Entry::Used) {
            Entry::Here(held) => Ok(Taken { open: self, number, held: Some(held) }),
            used => {
                *place = used;
                Err(Failure::ended())
            }
        }
    }

    /// Gives one up: at once, or when the call that uses it is done. It may have failed or ended by itself.
    pub(super) fn give_up(&self, number: u64) {
        let held = {
            let mut state = self.state();
            match state.held.get_mut(&number) {
                Some(Entry::Here(_)) => state.held.remove(&number),
                Some(used) => Some(mem::replace(used, Entry::GivenUp)),
                None => None,
            }
        };
        drop(held);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that a call uses. When the call fails or is dropped, it is gone.
pub(super) struct Taken<'a> {
    open: &'a HeldOpen,
    number: u64,
    held: Option<Held>,
}

impl Taken<'_> {
    pub(super) fn what(&mut self) -> Option<&mut What> {
        self.held.as_mut().map(|held| &mut held.what)
    }

    /// For the last call that uses it.
    pub(super) fn keep(mut self) -> Option<What> {
        self.open.state().held.remove(&self.number);
        self.held.take().map(|held| held.what)
    }

    /// Puts it back for the next call, unless it was given up while this one used it.
    pub(super) fn put_back(mut self) -> Result<(), Failure> {
        let mut state = self.open.state();
        if state.has_ended {
            return Err(Failure::ended());
        }
        if let Some(entry @ Entry::Used) = state.held.get_mut(&self.number)
            && let Some(held) = self.held.take()
        {
            *entry = Entry::Here(held);
        }
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Not put back, so its number is of nothing any more.
        if self.held.is_some() {
            self.open.state().held.remove(&self.number);
        }
    }
}

/// A file that is written piece by piece.
pub(super) struct FileWriter {
    pub(super) writer: Writer,
    /// Whether it is synced at its end.
    pub(super) sync: bool,
}

/// What one process has begun of blobs and files.
pub(super) struct Begun {
    next: AtomicU64,
    readers: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    files: Arc<Semaphore>,
}

impl Default for Begun {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(1),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            files: Arc::new(Semaphore::new(MAX_FILES)),
        }
    }
}

impl Begun {
    pub(super) fn reader_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.readers).try_acquire_owned().map_err(|_| {
            let message = format!(
                "the function's process is reading {MAX_READERS} large blobs, which is the most; read or cancel the body \
                 of each blob that you get"
            );
            Failure::new(Code::TooMany, message)
        })
    }

    pub(super) fn upload_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{MAX_UPLOADS} uploads of the function's process are under way, which is the most; try again later"
            );
            Failure::new(Code::TooMany, message)
        })
    }

    pub(super) fn file_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.files).try_acquire_owned().map_err(|_| {
            let message = format!(
                "the function's process has {MAX_FILES} files open, which is the most; read or cancel each stream that you get"
            );
            Failure::new(Code::TooMany, message)
        })
    }

    /// Keeps it for the invocation; answers its number.
    pub(super) fn hold(&self, open: &HeldOpen, what: What, place: OwnedSemaphorePermit) -> Result<u64, Failure> {
        let number = self.next.fetch_add(1, Relaxed);
        open.insert(number, Held { what, _place: place })?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use minnow_model::{StoreId, Tenant};
    use minnow_store::{
        Buckets,
        bucket::{Bucket, Conditions, Meta},
    };

    use super::*;

    /// Uploads of one bucket, and their places among those of a process.
    struct Fixture {
        buckets: Buckets,
        store: StoreId,
        begun: Begun,
        _temp: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let buckets = Buckets::open(&temp.path().join("blob"), Arc::new(|| 0)).unwrap();
            let store =
                StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "uploads".parse().unwrap() };
            Self { buckets, store, begun: Begun::default(), _temp: temp }
        }

        async fn held(&self) -> Held {
            let bucket = Bucket { store: &self.store, size_bytes: 1 << 20 };
            let upload = self.buckets.put(bucket, "a".into(), Meta::default(), Conditions::default()).await.unwrap();
            Held { what: What::Upload(Box::new(upload)), _place: self.begun.upload_place().map_err(|_| ()).unwrap() }
        }

        fn under_way(&self) -> usize {
            MAX_UPLOADS - self.begun.uploads.available_permits()
        }
    }

    fn code<T>(result: Result<T, Failure>) -> Option<Code> {
        result.err().map(|failure| failure.code)
    }

    #[tokio::test]
    async fn nothing_is_held_for_an_invocation_that_has_ended() {
        let (fixture, open) = (Fixture::new(), HeldOpen::default());
        assert_eq!(code(open.take(1)), Some(Code::Ended), "there never was one");
        for number in [1, 2] {
            assert_eq!(code(open.insert(number, fixture.held().await)), None);
        }
        let used = open.take(1).map_err(|_| ()).unwrap();
        open.release();
        assert_eq!(fixture.under_way(), 1, "what a call uses is there until it is done");
        assert_eq!(code(used.put_back()), Some(Code::Ended));
        assert_eq!(code(open.insert(3, fixture.held().await)), Some(Code::Ended));
        assert_eq!(fixture.under_way(), 0);
        assert!(open.state().held.is_empty());
    }

    #[tokio::test]
    async fn what_is_given_up_while_a_call_uses_it_is_gone_after_the_call() {
        let (fixture, open) = (Fixture::new(), HeldOpen::default());
        assert_eq!(code(open.insert(1, fixture.held().await)), None);
        let used = open.take(1).map_err(|_| ()).unwrap();
        assert_eq!(code(open.take(1)), Some(Code::Ended), "one call at a time");
        assert_eq!(code(used.put_back()), None);
        let used = open.take(1).map_err(|_| ()).unwrap();
        open.give_up(1);
        open.give_up(1);
        assert_eq!(fixture.under_way(), 1);
        assert_eq!(code(used.put_back()), None);
        assert_eq!((code(open.take(1)), fixture.under_way()), (Some(Code::Ended), 0));
        // One that nobody uses goes at once, and of one that is not there nothing is kept.
        assert_eq!(code(open.insert(2, fixture.held().await)), None);
        open.give_up(2);
        open.give_up(3);
        assert_eq!(fixture.under_way(), 0);
        assert!(open.state().held.is_empty());
    }

    #[tokio::test]
    async fn what_a_call_fails_with_or_ends_is_gone() {
        let (fixture, open) = (Fixture::new(), HeldOpen::default());
        for is_last in [false, true] {
            assert_eq!(code(open.insert(1, fixture.held().await)), None);
            let used = open.take(1).map_err(|_| ()).unwrap();
            if is_last {
                assert!(used.keep().is_some());
            } else {
                drop(used);
            }
            assert_eq!((code(open.take(1)), fixture.under_way()), (Some(Code::Ended), 0));
            assert!(open.state().held.is_empty());
        }
    }
}
