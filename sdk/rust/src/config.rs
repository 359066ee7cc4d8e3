//! Configuration: the function's environment, with what `minnow config set` and `minnow secret set` have put there.

use crate::bindings::wasi::config::store;

/// The value of a variable, if there is one. `std::env::var` gives the same.
pub fn get(name: &str) -> Option<String> {
    // The node has them in memory: nothing can fail.
    store::get(name).ok().flatten()
}

/// All variables.
pub fn all() -> Vec<(String, String)> {
    store::get_all().unwrap_or_default()
}
