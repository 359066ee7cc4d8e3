//! Where a node keeps what it acknowledged. Everything that a call here has answered with `Ok` survives `kill -9`.
//!
//! Read in this order: [`data_dir`] (the folder, its lock and its format), [`blobs`] (content by its digest),
//! [`database`] (everything else, in SQLite), [`error`] (what can go wrong, in the words of the caller). Then the services that
//! give functions state: [`open`] (the SQLite file of each store), [`kv`] (values under keys), [`sql`] (a database for each store), [`bucket`] (blobs under keys), [`topic`] (messages in order), [`lock`] (leases), [`volume`] (folders of files), and [`vault`] (secrets, sealed).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod blobs;
pub mod bucket;
pub mod data_dir;
pub mod database;
pub mod error;
mod full;
pub mod kv;
pub mod lock;
pub mod open;
pub mod snapshot;
pub mod sql;
pub mod topic;
pub mod vault;
pub mod volume;

pub use blobs::{BlobWriter, Blobs, StoredBlob, Written};
pub use bucket::{BucketError, Buckets};
pub use data_dir::{DataDir, DataDirError};
pub use database::Database;
pub use error::StoreError;
pub use full::tell_full_disk;
pub use kv::{Kv, KvError};
pub use lock::{Held, LockError, Locks};
pub use open::{OpenBounds, OpenStores};
pub use rusqlite;
pub use snapshot::{Hold, Snapshot};
pub use sql::{Sql, SqlError, SqlLimits};
pub use topic::{TopicError, Topics};
pub use vault::{Sealed, SigningKey, Vault, VaultError};
pub use volume::{Volume, Volumes};
