//! The control plane of a node: what is published, what is live, who may change it, and the HTTP API over that.
//!
//! Read in this order: [`api_types`] (what goes over the wire), [`registry`] (what is in the database), [`control`] (the
//! actions), [`publish`] (how a version comes to be), [`deploy`] (how it goes live), `snapshot` (how a deployment reaches the gateway), [`settings`] (variables and secrets), [`stores`] (the data of apps), `buckets` (their blobs), `topics` (their messages), `schedules`, [`backup`] (apps in a file and back), [`reconcile`] (how
//! the data directory follows), [`tokens`], [`invoke`], [`logs`], and [`http`] (all of it over HTTP).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod api_types;
pub mod backup;
mod buckets;
pub mod clock;
pub mod config;
pub mod control;
pub mod deploy;
mod environment;
pub mod error;
pub mod http;
pub mod invoke;
pub mod logs;
pub mod publish;
pub mod reconcile;
pub mod registry;
mod schedules;
pub mod settings;
mod snapshot;
pub mod stores;
#[cfg(test)]
mod tests;
pub mod tokens;
mod topics;
mod turns;

pub use clock::Clock;
pub use config::ControlConfig;
pub use control::{Control, OpenError};
pub use error::ControlError;
pub use http::{openapi_json, router};
