//! The verbs, one file each: its arguments with their help, and what it does.

pub mod apps;
pub mod build;
pub mod compile_worker;
pub mod completions;
pub mod config;
pub mod delete;
pub mod deploy;
pub mod dev;
pub mod invoke;
pub mod js_sandbox;
pub mod kv;
pub mod login;
pub mod logout;
pub mod logs;
pub mod new;
pub mod node;
pub mod publish;
pub mod rollback;
pub mod secret;
pub mod setup;
pub mod sql;
pub mod status;
pub mod types;
pub mod usage;
pub mod versions;
