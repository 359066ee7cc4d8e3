//! How much memory a statement may take: SQLite's allocator, with a bound for each thread that runs a statement.
//!
//! SQLite's own heap limit counts the whole process, so one statement that sorts too much would fail those of everybody
//! else. A statement runs on one thread, so what the thread takes while it runs is what the statement takes. Beyond the
//! bound SQLite gets no memory, and that statement fails with `SQLITE_NOMEM`; a failed allocation is what SQLite is tested
//! for most (<https://sqlite.org/malloc.html>).

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use rusqlite::ffi;

use crate::StoreError;

/// What all statements that run at one moment may take together, in bytes. A node runs with 1 GiB and less, and statements
/// that need more than some kilobytes are rare.
const ALL: i64 = 512 << 20;
/// How much of [`ALL`] a statement reserves at once, so that the threads do not fight for one counter.
const STEP: i64 = 1 << 20;

/// What running statements reserved of [`ALL`].
static RESERVED: AtomicI64 = AtomicI64::new(0);
static SYSTEM: OnceLock<Result<System, c_int>> = OnceLock::new();

thread_local! {
    static ACCOUNT: Cell<Account> = const { Cell::new(Account::NONE) };
}

/// SQLite's allocator as it was.
struct System {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

#[derive(Clone, Copy)]
struct Account {
    /// 0 while no statement runs.
    limit: i64,
    used: i64,
    reserved: i64,
    refused: bool,
}

/// Memory that a statement keeps between two of its steps. Counts as reserved until this is dropped: after the statement.
#[derive(Debug, Default)]
pub(super) struct Held {
    used: i64,
    reserved: i64,
}

impl Drop for Held {
    fn drop(&mut self) {
        release(self.reserved);
    }
}

fn release(reserved: i64) {
    if reserved > 0 {
        RESERVED.fetch_sub(reserved, Ordering::Relaxed);
    }
}

impl Account {
    const NONE: Self = Self { limit: 0, used: 0, reserved: 0, refused: false };

    fn take(&mut self, bytes: i64) -> bool {
        let used = self.used + bytes;
        if used > self.limit {
            self.refused = true;
            return false;
        }
        while used > self.reserved {
            if RESERVED.fetch_add(STEP, Ordering::Relaxed) + STEP > ALL {
                RESERVED.fetch_sub(STEP, Ordering::Relaxed);
                self.refused = true;
                return false;
            }
            self.reserved += STEP;
        }
        self.used = used;
        true
    }
}

/// Bounds the memory that SQLite takes on this thread, until it is dropped.
pub(super) struct Allowance(PhantomData<*const ()>);

impl Allowance {
    /// `held` is what an earlier part of the same statement holds.
    pub(super) fn begin(limit_bytes: usize, mut held: Held) -> Self {
        // The account has it now.
        let reserved = std::mem::take(&mut held.reserved);
        ACCOUNT.set(Account { limit: limit_bytes as i64, used: held.used, reserved, ..Account::NONE });
        Self(PhantomData)
    }

    /// Ends the counting, and gives what was taken and not given back.
    pub(super) fn hold(self) -> Held {
        let Account { used, reserved, .. } = ACCOUNT.replace(Account::NONE);
        let kept = reserved.min((used + STEP - 1).max(0) / STEP * STEP);
        release(reserved - kept);
        Held { used, reserved: kept }
    }

    /// Does not count what is taken until the result is dropped.
    pub(super) fn pause(&self) -> Paused<'_> {
        let mut account = ACCOUNT.get();
        let limit = std::mem::replace(&mut account.limit, 0);
        ACCOUNT.set(account);
        Paused { limit, _of: PhantomData }
    }

    /// Whether memory was refused: what an `SQLITE_NOMEM` came from.
    pub(super) fn refused(&self) -> bool {
        ACCOUNT.get().refused
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        release(ACCOUNT.replace(Account::NONE).reserved);
    }
}

/// Does what is no statement's own without counting it: what it takes stays.
pub(super) fn outside<T>(work: impl FnOnce() -> T) -> T {
    let before = ACCOUNT.replace(Account::NONE);
    let done = work();
    ACCOUNT.set(before);
    done
}

pub(super) struct Paused<'a> {
    limit: i64,
    _of: PhantomData<&'a Allowance>,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let mut account = ACCOUNT.get();
        account.limit = self.limit;
        ACCOUNT.set(account);
    }
}

/// Puts the bound into SQLite; done once for the process, before its first connection. Also ends the counting of memory for
/// the whole process, which takes a lock at each allocation and which nothing here reads.
pub(crate) fn install() -> Result<(), StoreError> {
    // SAFETY: nobody else configures SQLite, and it answers SQLITE_MISUSE instead of obeying once it is in use.
    let system = SYSTEM.get_or_init(|| unsafe { replace() });
    match system {
        Ok(_) => Ok(()),
        Err(code) => Err(StoreError::Database(rusqlite::Error::SqliteFailure(
            ffi::Error::new(*code),
            Some("SQLite was used before the bound on its memory was set".into()),
        ))),
    }
}

unsafe fn replace() -> Result<System, c_int> {
    let check = |code| if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) };
    let mut methods = ffi::sqlite3_mem_methods {
        xMalloc: None,
        xFree: None,
        xRealloc: None,
        xSize: None,
        xRoundup: None,
        xInit: None,
        xShutdown: None,
        pAppData: std::ptr::null_mut(),
    };
    // SAFETY: the arguments are those of <https://sqlite.org/c3ref/c_config_covering_index_scan.html>; SQLite copies the table.
    unsafe {
        check(ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods))?;
        let (Some(malloc), Some(free), Some(realloc), Some(size)) =
            (methods.xMalloc, methods.xFree, methods.xRealloc, methods.xSize)
        else {
            return Err(ffi::SQLITE_INTERNAL);
        };
        methods.xMalloc = Some(take);
        methods.xFree = Some(give);
        methods.xRealloc = Some(change);
        check(ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods))?;
        check(ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int))?;
        Ok(System { malloc, free, realloc, size })
    }
}

/// `None` only before the first connection.
fn system() -> Option<&'static System> {
    SYSTEM.get()?.as_ref().ok()
}

unsafe extern "C" fn take(bytes: c_int) -> *mut c_void {
    let Some(system) = system() else { return std::ptr::null_mut() };
    let mut account = ACCOUNT.get();
    if account.limit != 0 {
        let taken = account.take(i64::from(bytes));
        ACCOUNT.set(account);
        if !taken {
            return std::ptr::null_mut();
        }
    }
    // SAFETY: called as SQLite would have.
    unsafe { (system.malloc)(bytes) }
}

unsafe extern "C" fn give(memory: *mut c_void) {
    let Some(system) = system() else { return };
    let mut account = ACCOUNT.get();
    // SAFETY: called as SQLite would have; it never frees null through this table.
    unsafe {
        if account.limit != 0 {
            account.used -= i64::from((system.size)(memory));
            ACCOUNT.set(account);
        }
        (system.free)(memory);
    }
}

unsafe extern "C" fn change(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(system) = system() else { return std::ptr::null_mut() };
    let mut account = ACCOUNT.get();
    // SAFETY: called as SQLite would have; it never resizes null through this table.
    unsafe {
        if account.limit != 0 {
            let taken = account.take(i64::from(bytes) - i64::from((system.size)(memory)));
            ACCOUNT.set(account);
            if !taken {
                return std::ptr::null_mut();
            }
        }
        (system.realloc)(memory, bytes)
    }
}

#[cfg(test)]
pub(super) fn reserved_bytes() -> i64 {
    RESERVED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than the other tests take together, and not really taken.
    const MUCH: i64 = 300 << 20;

    #[test]
    fn what_a_statement_holds_stays_reserved_between_its_steps() {
        let allowance = Allowance::begin(MUCH as usize, Held::default());
        let mut account = ACCOUNT.get();
        assert!(account.take(MUCH));
        ACCOUNT.set(account);
        let held = allowance.hold();
        assert_eq!((held.used, held.reserved), (MUCH, MUCH));
        assert!(reserved_bytes() >= MUCH);
        // The next step begins with it, and gives some back.
        let allowance = Allowance::begin(MUCH as usize, held);
        let mut account = ACCOUNT.get();
        assert!(!account.take(1));
        account.used = STEP + 1;
        ACCOUNT.set(account);
        let held = allowance.hold();
        assert_eq!((held.used, held.reserved), (STEP + 1, 2 * STEP));
        assert!(reserved_bytes() < MUCH);
        // A step that panics gives everything back.
        drop(Allowance::begin(1, held));
        assert_eq!(ACCOUNT.get().reserved, 0);
    }
}
