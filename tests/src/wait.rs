//! Waiting for something to become true.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test says that it does not happen. Far beyond what a busy machine with two cores
/// needs, since it is only ever reached by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `condition` gives a value, and panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, condition)
}

/// Looks until `condition` gives a value, and panics with `what` after `patience`.
#[track_caller]
pub fn eventually_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "this never happened: {what}");
        thread::sleep(LOOK);
    }
}

/// Looks until `condition` holds, and panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}
