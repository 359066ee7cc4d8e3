//! One node: the composition root, where start-up and shutdown order live.
//!
//! [`config`] is what an operator can set; [`Node::start`] turns it into a running node, floor by floor.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod admin;
pub mod config;
pub mod domain;
mod node;

pub use config::{Config, ConfigError, Overrides};
pub use domain::{Domain, DomainError};
pub use node::{Node, StartError};
