//! The data services of Minnow for functions in Rust.
//!
//! A function reaches only what its manifest grants it:
//!
//! ```toml
//! [kv.sessions]
//! [sql.main]
//! migrations = "migrations"
//! [blob.uploads]
//! size = "10GiB"
//! [lock]
//! [topic.orders]
//! [functions.api]
//! kv = ["sessions"]
//! sql = ["main"]
//! blob = ["uploads"]
//! locks = true
//! publish = ["orders"]
//! ```
//!
//! ```no_run
//! use minnow_sdk::{blob::Bucket, kv::Store, sql::Database, topic::{Message, Topic}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = Store::open("sessions")?;
//! sessions.set("ada", b"1815")?;
//! assert_eq!(sessions.get("ada")?.as_deref(), Some(&b"1815"[..]));
//!
//! let main = Database::open("main")?;
//! main.run("INSERT INTO boat (name, crew) VALUES (?1, ?2)", ("Minnow", 5))?;
//! for row in main.run("SELECT name, crew FROM boat", ())?.iter() {
//!     let (name, crew): (String, i64) = (row.get("name")?, row.get("crew")?);
//! }
//!
//! Bucket::open("uploads")?.put("logo.svg", b"<svg/>")?;
//!
//! Topic::open("orders")?.send(Message::json(&["fish", "bread"])?.key("ada"))?;
//! # Ok(())
//! # }
//! ```
//!
//! A write is durable when its call returns.

pub mod blob;
pub mod config;
#[cfg(feature = "serde")]
pub mod event;
pub mod kv;
pub mod lock;
pub mod sql;
pub mod topic;

mod bindings {
    #![allow(missing_docs, clippy::all)]
    wit_bindgen::generate!({
        path: [
            "../../wit/keyvalue-draft2",
            "../../wit/keyvalue",
            "../../wit/sql",
            "../../wit/io",
            "../../wit/blob",
            "../../wit/lock",
            "../../wit/topic",
            "../../wit/config",
        ],
        inline: "
            package minnow:sdk;
            world functions {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import minnow:keyvalue/extras@0.1.0;
                import minnow:sql/database@0.1.0;
                import minnow:blob/store@0.1.0;
                import minnow:lock/locks@0.1.0;
                import minnow:topic/publisher@0.1.0;
                import wasi:config/store@0.2.0-rc.1;
            }
        ",
        world: "minnow:sdk/functions",
        generate_all,
    });
}
