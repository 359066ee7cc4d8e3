//! Locks among all functions of an app.

use std::time::Duration;

use crate::bindings::minnow::lock::locks;

/// Why a lock could not be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The manifest grants the function no locks; the text says what to add.
    #[error("{0}")]
    NotGranted(String),
    /// A name, a lease or a number of locks beyond what is allowed.
    #[error("{0}")]
    Refused(String),
    /// The node failed.
    #[error("{0}")]
    Other(String),
}

impl From<locks::Error> for Error {
    fn from(error: locks::Error) -> Self {
        match error {
            locks::Error::NotGranted(message) => Self::NotGranted(message),
            locks::Error::Refused(message) => Self::Refused(message),
            locks::Error::Other(message) => Self::Other(message),
        }
    }
}

/// A lock that is held. It is released when this is dropped, and when the invocation ends, however it ends. Where invocations
/// share an instance (0.3 with `instances = "reuse"`) nobody knows whose it is: there, one that is not dropped is held until all
/// of them have ended, or its lease is over.
#[derive(Debug)]
pub struct Lock(locks::Lock);

/// Takes a lock for `lease`, and waits for it for at most `wait`. `None`: others had it all the time.
pub fn acquire(name: &str, lease: Duration, wait: Duration) -> Result<Option<Lock>, Error> {
    Ok(locks::acquire(name, milliseconds(lease), milliseconds(wait))?.map(Lock))
}

impl Lock {
    /// Greater than that of all who held the lock before: whoever guards something by it can refuse an older one.
    pub fn token(&self) -> u64 {
        self.0.token()
    }

    /// Lets the lease begin anew. False: it had run out.
    pub fn renew(&self, lease: Duration) -> Result<bool, Error> {
        Ok(self.0.renew(milliseconds(lease))?)
    }

    /// Gives the lock up. False: the lease had run out.
    pub fn release(self) -> Result<bool, Error> {
        Ok(locks::Lock::release(self.0)?)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
