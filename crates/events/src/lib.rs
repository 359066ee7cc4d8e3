//! What is not a request of a client: messages of topics to the functions that follow them, and functions that run by the clock.
//!
//! Read in this order: [`events`] (everything together), `subscriptions` (who follows what), `dispatch` (the task of one follower),
//! `outcome` (what a delivery means for its messages: pure), `pause` (what happens where there is no room), `room` (how much there is), `schedules` (ticks),
//! `timer` (all that is due by the clock), `database` (what is kept of schedules), [`invokes`] (requests that are run later).
//!
//! What is to be delivered lies in topics ([`minnow_store::topic`]), and a delivery is a run like any other
//! ([`minnow_runtime::deliver`]). Here is decided when, how often and to which version.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod database;
mod dispatch;
pub mod events;
pub mod invokes;
mod outcome;
mod pause;
mod room;
mod schedules;
mod subscriptions;
mod timer;

pub use events::{Events, EventsConfig, EventsError, StartError};
pub use invokes::{Invoke, MAX_ASYNC_BYTES, RunState, RunStatus, Told, ToldState};
pub use schedules::NextTick;
