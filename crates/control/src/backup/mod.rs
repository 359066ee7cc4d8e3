//! Backup and restore: apps with all that belongs to them, in one file, written and read while the node runs.
//!
//! Read in this order: [`format`](self) (what is in the file, and the bounds), [`archive`] (writing it), [`moment`] (how the data of an app
//! is copied as it was at one moment), [`volume`] (files), [`write`] (the backup), [`unpack`] (reading and checking a file), [`restore`] (what comes of it), and [`end`] (what whoever
//! fetches a backup looks at).
//!
//! A backup first copies the databases of an app into `tmp/`, at the speed of the disk, and then sends them at the speed of the client: so
//! whoever reads slowly holds up no write. A restore first has all of the file in `tmp/`, and has checked it; then it takes the name
//! of the app, moves the data into place and makes the app with one transaction. A crash at any line leaves the node without the app, and
//! what was put in place is destroyed at the next start.

mod archive;
mod end;
mod format;
mod moment;
mod restore;
mod unpack;
mod volume;
mod write;

pub use end::read_end;
pub use restore::RestoreChoice;
pub use unpack::Source;
