//! How a service's errors become those of an interface: the same for all services.

use std::error::Error;

use minnow_store::{BucketError, KvError, LockError, SqlError, TopicError};
use wasmtime::component::ResourceTableError;

use super::DataView;
use crate::data::Denied;

/// Why a call gives the guest nothing: what it is told, or dies of.
pub enum Failure<E> {
    /// The gate says no.
    Denied(Denied),
    /// The guest's own mistake, of which the service never hears: why.
    Refused(String),
    Service(E),
    Trap(wasmtime::Error),
}

impl<E> From<wasmtime::Error> for Failure<E> {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl<E> From<ResourceTableError> for Failure<E> {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl<E> From<Denied> for Failure<E> {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl<E: ServiceError> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Service(error)
    }
}

/// An error of one of the services in the store.
pub trait ServiceError: Error {
    /// Whether the message is about the request alone, and can be shown to the function as it is.
    fn is_refusal(&self) -> bool;
}

macro_rules! service_error {
    ($($error:ty),+) => {
        $(impl ServiceError for $error {
            fn is_refusal(&self) -> bool {
                <$error>::is_refusal(self)
            }
        })+
    };
}

service_error!(KvError, SqlError, LockError, BucketError, TopicError);

/// An error of an interface.
pub(super) trait Told<E>: Sized {
    fn denied(denied: Denied) -> Self;

    /// The guest's own mistake: why.
    fn refused(why: String) -> Self;

    /// The node failed.
    fn other(message: String) -> Self;

    /// One for which the interface has a case of its own; all others are `refused` or `other`.
    fn of(error: E) -> Result<Self, E> {
        Err(error)
    }
}

impl DataView<'_> {
    /// What the guest is told. An error ends it.
    pub(super) fn tell<E: ServiceError, T: Told<E>>(&self, failure: Failure<E>) -> wasmtime::Result<T> {
        let error = match failure {
            Failure::Trap(error) => return Err(error),
            Failure::Denied(denied) => return Ok(T::denied(denied)),
            Failure::Refused(why) => return Ok(T::refused(why)),
            Failure::Service(error) => error,
        };
        Ok(match T::of(error) {
            Ok(told) => told,
            Err(error) if error.is_refusal() => T::refused(error.to_string()),
            Err(error) => T::other(self.told(&error)),
        })
    }
}
