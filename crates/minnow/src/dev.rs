//! `minnow dev`: the production node on this machine, and an app that follows its sources.
//!
//! [`session`] builds, publishes and deploys through the same client and API as production; [`watch`] tells it when;
//! [`change`] decides what a changed file means; [`version`] numbers what is published; [`secrets`] and [`seed`] are what it begins with;
//! [`banner`] greets.

pub mod banner;
pub mod change;
pub mod ports;
pub mod secrets;
pub mod seed;
pub mod session;
pub mod version;
pub mod watch;
