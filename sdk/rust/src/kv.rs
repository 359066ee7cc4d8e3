//! Key-value stores: strongly consistent, durable, with keys to 2 KiB and values to 25 MiB.

use std::time::Duration;

use crate::bindings::{
    minnow::keyvalue::extras,
    wasi::keyvalue::{
        atomics, batch,
        store::{self, Bucket},
    },
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest grants the function no store of this name.
    #[error("the function has no kv store `{0}`; add it to `kv` of the function in minnow.toml")]
    NoSuchStore(String),
    /// The store is granted for reading only.
    #[error("the kv store is granted for reading only; write its name without `:ro` to let the function change it")]
    ReadOnly,
    /// The node refused or failed: why.
    #[error("{0}")]
    Other(String),
    /// A value is not the JSON that was asked for.
    #[cfg(feature = "serde")]
    #[error("the value of `{0}` cannot be read or written as JSON: {1}")]
    Json(String, serde_json::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::NoSuchStore(String::new()),
            store::Error::AccessDenied => Self::ReadOnly,
            store::Error::Other(message) => Self::Other(message),
        }
    }
}

/// A store that the function was granted.
#[derive(Debug)]
pub struct Store(Bucket);

/// A value with what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// At most 1 KiB of text; JSON where JavaScript is to read it.
    pub metadata: Option<String>,
    /// Milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// Another one after each write of the key.
    pub version: u64,
}

/// What can go with a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// At most 1 KiB of text; JSON where JavaScript is to read it.
    pub metadata: Option<String>,
    /// How long the key stays.
    pub time_to_live: Option<Duration>,
}

impl Store {
    /// Opens a store by its name in the manifest, or `APP/STORE` for one that another app shares.
    pub fn open(name: &str) -> Result<Self, Error> {
        store::open(name).map(Self).map_err(|error| match error {
            store::Error::NoSuchStore => Error::NoSuchStore(name.to_owned()),
            error => error.into(),
        })
    }

    /// The value of a key, if there is one.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(key)?)
    }

    /// The value of a key with its metadata and version.
    pub fn get_entry(&self, key: &str) -> Result<Option<Entry>, Error> {
        let entry = extras::get_entry(&self.0, key)?;
        Ok(entry.map(|extras::Entry { value, metadata, expires, version }| Entry {
            value,
            metadata,
            expires_ms: expires,
            version,
        }))
    }

    /// Sets a key.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        Ok(self.0.set(key, value)?)
    }

    /// Sets a key with metadata, or for a time.
    pub fn set_with(&self, key: &str, value: &[u8], options: &Options) -> Result<(), Error> {
        let time_to_live = options.time_to_live.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let options = extras::Options { metadata: options.metadata.clone(), time_to_live };
        Ok(extras::set_entry(&self.0, key, value, &options)?)
    }

    /// Deletes a key, if it is there.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.0.delete(key)?)
    }

    /// Whether there is such a key.
    pub fn exists(&self, key: &str) -> Result<bool, Error> {
        Ok(self.0.exists(key)?)
    }

    /// All keys that begin with `prefix`, in byte order, read in pages as they are needed.
    pub fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Result<String, Error>> + 'a {
        let mut page = Vec::new().into_iter();
        let mut after = Some(None);
        std::iter::from_fn(move || {
            loop {
                if let Some(info) = page.next() {
                    let extras::KeyInfo { key, .. } = info;
                    return Some(Ok(key));
                }
                let from: Option<String> = after.take()?;
                match extras::list_keys(&self.0, prefix, from.as_deref(), 1000) {
                    Ok(found) => {
                        page = found.keys.into_iter();
                        after = found.next.map(Some);
                    }
                    Err(error) => return Some(Err(error.into())),
                }
            }
        })
    }

    /// The values of several keys, all of one moment.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let found = batch::get_many(&self.0, keys)?;
        Ok(found.into_iter().map(|pair| pair.map(|(_, value)| value)).collect())
    }

    /// Sets several keys: all or none.
    pub fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), Error> {
        Ok(batch::set_many(&self.0, pairs)?)
    }

    /// Deletes several keys: all or none.
    pub fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        Ok(batch::delete_many(&self.0, keys)?)
    }

    /// Adds to a decimal integer, of which an absent one counts as 0, and returns the sum.
    pub fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        Ok(atomics::increment(&self.0, key, delta)?)
    }

    /// Sets a key to what `change` makes of its value, and again when somebody else was faster. `None` leaves it as it is.
    pub fn update(&self, key: &str, mut change: impl FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>) -> Result<(), Error> {
        let mut cas = atomics::Cas::new(&self.0, key)?;
        loop {
            let Some(value) = change(cas.current()?) else { return Ok(()) };
            match atomics::swap(cas, &value) {
                Ok(()) => return Ok(()),
                Err(atomics::CasError::StoreError(error)) => return Err(error.into()),
                Err(atomics::CasError::CasFailed(now)) => cas = now,
            }
        }
    }

    /// The value of a key, read as JSON.
    #[cfg(feature = "serde")]
    pub fn get_json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = self.get(key)?;
        let read = |value: Vec<u8>| serde_json::from_slice(&value).map_err(|error| Error::Json(key.to_owned(), error));
        value.map(read).transpose()
    }

    /// Sets a key to a value written as JSON.
    #[cfg(feature = "serde")]
    pub fn set_json<T: serde::Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let value = serde_json::to_vec(value).map_err(|error| Error::Json(key.to_owned(), error))?;
        self.set(key, &value)
    }
}
