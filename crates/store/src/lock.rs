//! Locks of apps: leases with a time limit, and fencing tokens that never go back.
//!
//! Leases are in memory: a restart ends every invocation, and with it the locks that it held. Tokens are on disk, as a mark
//! that all tokens so far are below. It is moved in steps, so that taking a lock costs no write.

use std::{
    collections::{HashMap, VecDeque},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use minnow_model::{AppName, Tenant};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use crate::{StoreError, data_dir::write_atomically, kv::Clock};

/// The longest name of a lock, in bytes: a path or a URL fits, and ten thousand of them are 5 MB.
pub const MAX_NAME_BYTES: usize = 512;
/// Locks that an app may hold at once. Each takes some 300 bytes; more of them guard rows, which a database does better.
pub const MAX_HELD: usize = 10_000;
/// Who may wait for one lock. As many as a node has sandboxes: more than that never get their turn in time.
pub const MAX_WAITING: usize = 1_000;
/// The shortest lease: the resolution of the timers that end it.
pub const MIN_LEASE: Duration = Duration::from_millis(1);
/// The longest lease. No invocation runs for longer than 15 minutes by default, and a lease can be renewed.
pub const MAX_LEASE: Duration = Duration::from_secs(60 * 60);

/// Tokens that one write of the mark is for. A write in a million acquisitions costs nothing, and with so many lost at each
/// restart, tokens last for 2^43 restarts.
const STEP: u64 = 1 << 20;

/// The locks of all apps of a node. Cheap to clone.
#[derive(Clone)]
pub struct Locks(Arc<Shared>);

/// Why a lock could not be asked for. That others have it is none.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the name of a lock has {0} bytes; give it 1 to {MAX_NAME_BYTES}")]
    Name(usize),
    #[error("a lease lasts from 1 ms to 1 h (3600000 ms), not {} ms", .0.as_millis())]
    Lease(Duration),
    #[error("the app holds {MAX_HELD} locks, which is the most; release some first")]
    TooManyHeld,
    #[error("{MAX_WAITING} others wait for this lock, which is the most; try again later")]
    TooManyWaiting,
    /// Tokens could not be put on disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LockError {
    /// Whether the message is about the request alone, and can be shown to the function as it is.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Store(_))
    }
}

struct Shared {
    state: Mutex<State>,
    clock: Clock,
    file: PathBuf,
    /// Held while the mark is written, never together with `state` but for a moment.
    writing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// An app is here while it has locks.
    apps: HashMap<(Tenant, AppName), HashMap<Arc<str>, Lock>>,
    tokens: Tokens,
    is_reserving: bool,
}

/// Where tokens come from.
#[derive(Default)]
struct Tokens {
    next: u64,
    /// The mark on disk: tokens below it may be given out.
    reserved: u64,
    /// One for each who waits, so that handing a lock over never has to write.
    promised: u64,
}

/// One lock that is held.
struct Lock {
    token: u64,
    until: Instant,
    /// In the order in which they came. The first one watches `until`.
    queue: VecDeque<Arc<Waiter>>,
}

struct Waiter {
    lease: Duration,
    /// Something changed: the lock is theirs, or they are first now.
    look: Notify,
    /// 0 until the lock is theirs.
    token: AtomicU64,
}

/// Which lock of which app.
#[derive(Clone)]
struct Place {
    app: (Tenant, AppName),
    name: Arc<str>,
}

/// What asking for a lock came to at first.
enum Entry {
    Granted(u64),
    Busy,
    Waits(Arc<Waiter>),
    /// The mark has to be moved first.
    NoTokens,
}

impl Tokens {
    fn has_room(&self) -> bool {
        self.next.saturating_add(self.promised) < self.reserved
    }

    fn is_short(&self) -> bool {
        self.reserved.saturating_sub(self.next).saturating_sub(self.promised) < STEP / 2
    }

    fn take(&mut self) -> u64 {
        let token = self.next;
        self.next += 1;
        token
    }
}

impl Lock {
    /// Gives the lock to who has waited longest. False when nobody waits.
    fn hand_over(&mut self, tokens: &mut Tokens, now: Instant) -> bool {
        let Some(waiter) = self.queue.pop_front() else { return false };
        tokens.promised -= 1;
        self.token = tokens.take();
        self.until = now + waiter.lease;
        waiter.token.store(self.token, Relaxed);
        waiter.look.notify_one();
        self.tell_first();
        true
    }

    fn tell_first(&self) {
        if let Some(first) = self.queue.front() {
            first.look.notify_one();
        }
    }
}

impl State {
    fn lock_at(&mut self, place: &Place) -> Option<(&mut Lock, &mut Tokens)> {
        Some((self.apps.get_mut(&place.app)?.get_mut(&place.name)?, &mut self.tokens))
    }

    fn remove(&mut self, place: &Place) {
        if let Some(locks) = self.apps.get_mut(&place.app) {
            locks.remove(&place.name);
            if locks.is_empty() {
                self.apps.remove(&place.app);
            }
        }
    }

    /// Ends what `token` stands for. False when its lease was over.
    fn end(&mut self, place: &Place, token: u64) -> bool {
        let now = Instant::now();
        let Some((lock, tokens)) = self.lock_at(place).filter(|(lock, _)| lock.token == token) else { return false };
        let was_held = lock.until > now;
        if !lock.hand_over(tokens, now) {
            self.remove(place);
        }
        was_held
    }
}

impl Locks {
    /// Opens the locks whose mark is in `file`, creating it where it does not exist. Blocking.
    pub fn open(file: &Path, clock: Clock) -> Result<Self, StoreError> {
        let damaged = |detail: String| StoreError::Corrupt { path: file.to_owned(), detail };
        let mark: u64 = match fs::read_to_string(file) {
            Ok(text) => text.trim().parse().map_err(|_| damaged("it does not hold a number".into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(StoreError::io(file, error)),
        };
        // A backup that is restored takes the mark back. The time has gone on by more milliseconds than locks were taken, so
        // beginning there keeps tokens growing all the same.
        let next = mark.max(clock()).max(1);
        let reserved = next.checked_add(STEP).ok_or_else(|| damaged(format!("the mark {next} is too high")))?;
        write_mark(file, reserved)?;
        let state = State { tokens: Tokens { next, reserved, promised: 0 }, ..State::default() };
        Ok(Self(Arc::new(Shared { state: Mutex::new(state), clock, file: file.to_owned(), writing: Mutex::default() })))
    }

    /// Takes the app's lock `name` for `lease`. Waits for it at most for `wait`, behind those who came before; `None` when
    /// that was not enough. A caller that stops waiting is out of the queue.
    pub async fn acquire(
        &self,
        tenant: &Tenant,
        app: &AppName,
        name: &str,
        lease: Duration,
        wait: Duration,
    ) -> Result<Option<Held>, LockError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(LockError::Name(name.len()));
        }
        if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
            return Err(LockError::Lease(lease));
        }
        let place = Place { app: (tenant.clone(), app.clone()), name: name.into() };
        let waiter = loop {
            match self.0.enter(&place, lease, !wait.is_zero())? {
                Entry::Granted(token) => return Ok(Some(self.held(place, token))),
                Entry::Busy => return Ok(None),
                Entry::Waits(waiter) => break waiter,
                Entry::NoTokens => Shared::reserve(&self.0).await?,
            }
        };
        let mut waiting = Waiting { shared: Arc::clone(&self.0), place: place.clone(), waiter, is_over: false };
        Ok(match timeout(wait, waiting.granted()).await {
            Ok(token) => {
                waiting.is_over = true;
                Some(self.held(place, token))
            }
            Err(_) => None,
        })
    }

    fn held(&self, place: Place, token: u64) -> Held {
        // A lease that was handed over began before its new holder was awake.
        let until = self.0.lock().lock_at(&place).filter(|(lock, _)| lock.token == token).map(|(lock, _)| lock.until);
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        let expires_ms = AtomicU64::new(self.0.in_ms(left));
        Held { shared: Arc::clone(&self.0), place, token, expires_ms }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is after this, in milliseconds since the Unix epoch.
    fn in_ms(&self, time: Duration) -> u64 {
        (self.clock)().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    fn enter(self: &Arc<Self>, place: &Place, lease: Duration, may_wait: bool) -> Result<Entry, LockError> {
        let now = Instant::now();
        let mut state = self.lock();
        let State { apps, tokens, is_reserving } = &mut *state;
        if !tokens.has_room() {
            return Ok(Entry::NoTokens);
        }
        if tokens.is_short() && !*is_reserving {
            *is_reserving = true;
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = Self::reserve(&shared).await {
                    tracing::warn!(%error, "tokens of locks cannot be put on disk; trying again");
                }
                shared.lock().is_reserving = false;
            });
        }
        let locks = apps.entry(place.app.clone()).or_default();
        let Some(lock) = locks.get_mut(&place.name) else {
            if locks.len() >= MAX_HELD {
                return Err(LockError::TooManyHeld);
            }
            let token = tokens.take();
            locks.insert(Arc::clone(&place.name), Lock { token, until: now + lease, queue: VecDeque::new() });
            return Ok(Entry::Granted(token));
        };
        if lock.until <= now && !lock.hand_over(tokens, now) {
            lock.token = tokens.take();
            lock.until = now + lease;
            return Ok(Entry::Granted(lock.token));
        }
        if !may_wait {
            return Ok(Entry::Busy);
        }
        if lock.queue.len() >= MAX_WAITING {
            return Err(LockError::TooManyWaiting);
        }
        let waiter = Arc::new(Waiter { lease, look: Notify::new(), token: AtomicU64::new(0) });
        lock.queue.push_back(Arc::clone(&waiter));
        tokens.promised += 1;
        Ok(Entry::Waits(waiter))
    }

    /// Moves the mark, unless it has room.
    async fn reserve(shared: &Arc<Self>) -> Result<(), StoreError> {
        let shared = Arc::clone(shared);
        let moved = tokio::task::spawn_blocking(move || {
            let _writing = shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mark = {
                let state = shared.lock();
                if !state.tokens.is_short() {
                    return Ok(());
                }
                state.tokens.reserved.saturating_add(STEP)
            };
            write_mark(&shared.file, mark)?;
            shared.lock().tokens.reserved = mark;
            Ok(())
        });
        moved.await.map_err(|_| StoreError::Stopped)?
    }
}

fn write_mark(file: &Path, mark: u64) -> Result<(), StoreError> {
    write_atomically(file, format!("{mark}\n").as_bytes(), 0o600).map_err(|error| StoreError::io(file, error))
}

/// A place in the queue of a lock; given up when it is dropped.
struct Waiting {
    shared: Arc<Shared>,
    place: Place,
    waiter: Arc<Waiter>,
    /// The lock was granted and taken.
    is_over: bool,
}

impl Waiting {
    /// The token, once the lock is theirs.
    async fn granted(&self) -> u64 {
        loop {
            let (token, watch) = self.look();
            if token != 0 {
                return token;
            }
            let changed = self.waiter.look.notified();
            match watch {
                Some(until) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The token or 0; and for who is first in the queue, when to look again. Only the first one keeps a timer: a lease that
    /// ends must not wake a thousand.
    fn look(&self) -> (u64, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let token = self.waiter.token.load(Relaxed);
        let Some((lock, tokens)) = state.lock_at(&self.place).filter(|_| token == 0) else { return (token, None) };
        if !lock.queue.front().is_some_and(|first| Arc::ptr_eq(first, &self.waiter)) {
            return (0, None);
        }
        if lock.until <= now {
            lock.hand_over(tokens, now);
            return (lock.token, None);
        }
        (0, Some(lock.until))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.shared.lock();
        let token = self.waiter.token.load(Relaxed);
        if token != 0 {
            state.end(&self.place, token);
            return;
        }
        let Some((lock, tokens)) = state.lock_at(&self.place) else { return };
        if let Some(index) = lock.queue.iter().position(|other| Arc::ptr_eq(other, &self.waiter)) {
            lock.queue.remove(index);
            tokens.promised -= 1;
            if index == 0 {
                lock.tell_first();
            }
        }
    }
}

/// A lock that is held: until it is released or dropped, or its lease is over.
pub struct Held {
    shared: Arc<Shared>,
    place: Place,
    token: u64,
    expires_ms: AtomicU64,
}

impl Held {
    /// The fencing token: greater than that of everyone who held the lock before, also before a restart. What the lock guards
    /// can refuse whoever comes with a smaller one.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// When the lease is over, in milliseconds since the Unix epoch.
    pub fn expires(&self) -> u64 {
        self.expires_ms.load(Relaxed)
    }

    /// Begins a lease anew from now on; a length outside of [`MIN_LEASE`] and [`MAX_LEASE`] becomes the nearest inside.
    /// False when the lease was over: somebody else may have the lock.
    pub fn renew(&self, lease: Duration) -> bool {
        let lease = lease.clamp(MIN_LEASE, MAX_LEASE);
        let now = Instant::now();
        let mut state = self.shared.lock();
        let Some((lock, _)) = state.lock_at(&self.place) else { return false };
        if lock.token != self.token || lock.until <= now {
            return false;
        }
        let until = now + lease;
        // Whoever is first waits for the time that was.
        if until < lock.until {
            lock.tell_first();
        }
        lock.until = until;
        self.expires_ms.store(self.shared.in_ms(lease), Relaxed);
        true
    }

    /// Gives the lock up. False when the lease was over: somebody else may have had it meanwhile.
    pub fn release(self) -> bool {
        self.end()
    }

    fn end(&self) -> bool {
        self.shared.lock().end(&self.place, self.token)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // After a release there is nothing left under this token.
        self.end();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, token, .. } = self;
        f.debug_struct("Held").field("name", &place.name).field("token", token).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::join_all};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Fixture {
        temp: tempfile::TempDir,
        now_ms: Arc<AtomicU64>,
        locks: Locks,
    }

    fn open(temp: &tempfile::TempDir, now_ms: &Arc<AtomicU64>) -> Locks {
        let now_ms = Arc::clone(now_ms);
        Locks::open(&temp.path().join("tokens"), Arc::new(move || now_ms.load(Relaxed))).unwrap()
    }

    impl Fixture {
        fn new() -> Self {
            let (temp, now_ms) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1000)));
            Self { locks: open(&temp, &now_ms), temp, now_ms }
        }

        async fn acquire(&self, name: &str, lease: Duration, wait: Duration) -> Result<Option<Held>, LockError> {
            self.locks.acquire(&Tenant::default(), &"app".parse().unwrap(), name, lease, wait).await
        }

        async fn take(&self, name: &str) -> Held {
            self.acquire(name, MINUTE, Duration::ZERO).await.unwrap().unwrap()
        }

        async fn is_free(&self, name: &str) -> bool {
            self.acquire(name, MINUTE, Duration::ZERO).await.unwrap().is_some()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_has_a_lock_and_others_are_others() {
        let fixture = Fixture::new();
        let held = fixture.take("a").await;
        assert!(!fixture.is_free("a").await);
        assert!(fixture.is_free("b").await);
        let (tenant, app) = (Tenant::default(), "other".parse().unwrap());
        assert!(fixture.locks.acquire(&tenant, &app, "a", MINUTE, Duration::ZERO).await.unwrap().is_some());
        assert!(held.release());
        assert!(fixture.is_free("a").await);
        assert!(fixture.locks.0.lock().apps.is_empty(), "nothing is kept of what was released");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_goes_to_who_has_waited_longest() {
        let fixture = Fixture::new();
        let held = fixture.take("a").await;
        let order = Mutex::new(Vec::new());
        let waiters = (0..10).map(|number| {
            let (fixture, order) = (&fixture, &order);
            async move {
                let held = fixture.acquire("a", MINUTE, 10 * MINUTE).await.unwrap().unwrap();
                order.lock().unwrap().push((number, held.token()));
            }
        });
        let mut all = Box::pin(join_all(waiters));
        assert!((&mut all).now_or_never().is_none());
        let first = held.token();
        drop(held);
        all.await;
        let order = order.into_inner().unwrap();
        assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(order.is_sorted_by_key(|(_, token)| *token) && order[0].1 > first);
        assert_eq!(fixture.locks.0.lock().tokens.promised, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_by_itself_and_can_be_renewed_until_then() {
        let fixture = Fixture::new();
        let held = fixture.take("a").await;
        assert_eq!(held.expires(), 61_000);
        fixture.now_ms.store(40_000, Relaxed);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(held.renew(MINUTE));
        assert_eq!(held.expires(), 100_000);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(!fixture.is_free("a").await);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(!held.renew(MINUTE), "it was over");
        let next = fixture.take("a").await;
        assert!(next.token() > held.token());
        assert!(!held.renew(MINUTE) && !held.release());
        assert!(!fixture.is_free("a").await, "it is the other's");
        drop(next);
        let held = fixture.take("a").await;
        tokio::time::advance(MINUTE).await;
        assert!(!held.release(), "nobody else had it, but the lease was over");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_a_lock_whose_lease_ends_also_one_that_was_made_shorter_or_longer() {
        let fixture = Fixture::new();
        for (lease, renewed, expected_s) in [(60, None, 60), (60, Some(5), 5), (5, Some(60), 60)] {
            let held = fixture.acquire("a", Duration::from_secs(lease), Duration::ZERO).await.unwrap().unwrap();
            let began = Instant::now();
            let mut waits = Box::pin(fixture.acquire("a", MINUTE, 10 * MINUTE));
            assert!((&mut waits).now_or_never().is_none());
            if let Some(renewed) = renewed {
                assert!(held.renew(Duration::from_secs(renewed)));
            }
            let next = waits.await.unwrap().unwrap();
            assert_eq!(began.elapsed().as_secs(), expected_s);
            drop((held, next));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end_and_leaves_the_queue() {
        let fixture = Fixture::new();
        let held = fixture.take("a").await;
        let began = Instant::now();
        assert!(fixture.acquire("a", MINUTE, Duration::from_secs(3)).await.unwrap().is_none());
        assert_eq!(began.elapsed().as_secs(), 3);
        assert!(!fixture.is_free("a").await);
        let mut gone = Box::pin(fixture.acquire("a", MINUTE, 10 * MINUTE));
        let mut stays = Box::pin(fixture.acquire("a", MINUTE, 10 * MINUTE));
        assert!((&mut gone).now_or_never().is_none() && (&mut stays).now_or_never().is_none());
        drop(gone);
        // The one that is first now has to watch the lease.
        let next = stays.await.unwrap().unwrap();
        assert_eq!(began.elapsed().as_secs(), 60);
        let mut granted = Box::pin(fixture.acquire("a", MINUTE, 10 * MINUTE));
        assert!((&mut granted).now_or_never().is_none());
        drop(next);
        // It was handed over, and is dropped before it is looked at.
        drop(granted);
        assert!(fixture.is_free("a").await);
        drop(held);
        let state = fixture.locks.0.lock();
        assert!(state.apps.is_empty() && state.tokens.promised == 0);
    }

    #[tokio::test]
    async fn tokens_grow_also_after_a_crash_and_when_the_mark_is_old() {
        let mut fixture = Fixture::new();
        let mut last = 0;
        for round in 0..5 {
            for _ in 0..3 {
                let token = fixture.take("a").await.token();
                assert!(token > last);
                last = token;
            }
            // As after a kill: nothing is written at the end.
            fixture.locks = open(&fixture.temp, &fixture.now_ms);
            if round == 3 {
                fs::remove_file(fixture.temp.path().join("tokens")).unwrap();
                fixture.now_ms.fetch_add(STEP * 100, Relaxed);
                fixture.locks = open(&fixture.temp, &fixture.now_ms);
            }
        }
        fs::write(fixture.temp.path().join("tokens"), "many").unwrap();
        let Err(error) = Locks::open(&fixture.temp.path().join("tokens"), Arc::new(|| 0)) else { panic!("opened") };
        assert!(error.to_string().contains("tokens is damaged"), "{error}");
    }

    #[tokio::test]
    async fn more_tokens_are_put_on_disk_before_they_are_given_out() {
        let fixture = Fixture::new();
        let mark = || fs::read_to_string(fixture.temp.path().join("tokens")).unwrap().trim().parse::<u64>().unwrap();
        let before = mark();
        // All but one are gone.
        fixture.locks.0.lock().tokens.next = before - 1;
        let held = fixture.take("a").await;
        assert_eq!(held.token(), before - 1);
        let mut waits = Box::pin(fixture.acquire("a", MINUTE, MINUTE));
        assert!((&mut waits).now_or_never().is_none());
        let other = fixture.take("b").await;
        assert_eq!(other.token(), before);
        assert!(mark() > before);
        // One is kept for who waits.
        drop(held);
        assert_eq!(waits.await.unwrap().unwrap().token(), before + 1);
        // What cannot be put on disk is not given out.
        let idle = async {
            while fixture.locks.0.lock().is_reserving {
                tokio::time::sleep(MIN_LEASE).await;
            }
        };
        timeout(MINUTE, idle).await.unwrap();
        let reserved = fixture.locks.0.lock().tokens.reserved;
        fixture.locks.0.lock().tokens.next = reserved;
        fs::remove_dir_all(fixture.temp.path()).unwrap();
        assert!(matches!(fixture.acquire("c", MINUTE, MINUTE).await, Err(LockError::Store(_))));
    }

    #[tokio::test]
    async fn what_is_beyond_the_bounds_is_refused() {
        let fixture = Fixture::new();
        for name in ["", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert!(matches!(fixture.acquire(name, MINUTE, MINUTE).await, Err(LockError::Name(_))));
        }
        for lease in [Duration::ZERO, MAX_LEASE + MIN_LEASE] {
            assert!(matches!(fixture.acquire("a", lease, MINUTE).await, Err(LockError::Lease(_))));
        }
        let mut held = Vec::new();
        for number in 0..MAX_HELD {
            held.push(fixture.take(&number.to_string()).await);
        }
        assert!(matches!(fixture.acquire("one more", MINUTE, MINUTE).await, Err(LockError::TooManyHeld)));
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(fixture.acquire("7", MINUTE, MINUTE))).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        assert!(matches!(fixture.acquire("7", MINUTE, MINUTE).await, Err(LockError::TooManyWaiting)));
        assert!(fixture.acquire("7", MINUTE, Duration::ZERO).await.unwrap().is_none());
        // For ever is as long as the caller waits.
        drop(waiting);
        let mut waits = Box::pin(fixture.acquire("7", MINUTE, Duration::MAX));
        assert!((&mut waits).now_or_never().is_none());
        held.clear();
        assert!(waits.await.unwrap().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn under_contention_nobody_is_inside_with_another() {
        let fixture = Fixture::new();
        let inside = Arc::new(AtomicU64::new(0));
        let tasks = (0..50).map(|_| {
            let (locks, inside) = (fixture.locks.clone(), Arc::clone(&inside));
            tokio::spawn(async move {
                for round in 0..40 {
                    // Some give up at once, some wait for a moment.
                    let wait = [Duration::ZERO, Duration::from_micros(200), MINUTE][round % 3];
                    let held = locks.acquire(&Tenant::default(), &"app".parse().unwrap(), "a", MINUTE, wait).await;
                    if let Some(held) = held.unwrap() {
                        assert_eq!(inside.fetch_add(1, Relaxed), 0);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Relaxed);
                        drop(held);
                    }
                }
            })
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        let state = fixture.locks.0.lock();
        assert!(state.apps.is_empty() && state.tokens.promised == 0);
    }
}
