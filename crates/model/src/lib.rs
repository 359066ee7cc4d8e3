//! The domain types of Minnow. Pure values and decisions: no I/O, no async, no clock.
//!
//! Read in this order: [`name`] and [`digest`] (how things are called), [`limits`], [`grant`] and [`manifest`] (what a
//! developer writes), [`event`] (messages, topics and schedules), [`bundle`] (what is published), [`deployment`] (what gets live traffic), [`route`] and [`egress`] (where a
//! request may go), [`problem`] (what a client is told when it fails), [`log`] and [`usage`] (what is recorded).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod bundle;
pub mod deployment;
pub mod digest;
mod duration;
pub mod egress;
pub mod event;
#[cfg(test)]
mod fuzz;
pub mod grant;
pub mod limits;
pub mod log;
pub mod manifest;
mod media;
pub mod name;
pub mod origin;
pub mod path;
pub mod problem;
pub mod route;
pub mod usage;

pub use bundle::{BundleConfig, BundledCode, BundledFile, BundledFunction, BundledMigration, BundledSql};
pub use deployment::{Deployment, Share};
pub use digest::Digest;
pub use egress::EgressRule;
pub use event::{Event, Schedule, Subscription, Topic, TopicRules};
pub use grant::{
    BlobStore, FilesStore, Grants, KvStore, Mount, MountPath, SqlStore, StoreGrant, StoreId, StoreKind, VariableName,
};
pub use limits::{LimitCaps, Limits};
pub use log::{Level, LogLine, LogSource};
pub use manifest::Manifest;
pub use media::media_type;
pub use name::{AppName, FunctionName, RequestId, ScheduleName, StoreName, Tenant};
pub use origin::Origin;
pub use problem::{Code, Problem};
pub use route::RoutePattern;
pub use semver::Version;
pub use usage::Usage;
