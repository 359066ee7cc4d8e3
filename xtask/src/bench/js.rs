//! JavaScript functions against other ways to run JavaScript. The modules that all of them run are in bench/js.

pub(crate) mod cold;
pub(crate) mod idle;
pub(crate) mod recovery;
pub(crate) mod warm;
pub(crate) mod work;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Setup,
    app::App,
    http::{Answer, Client},
};

/// Processes that stand ready where a benchmark is with the pool: as many as a node has by default.
pub(crate) const POOL: u32 = 2;

/// Installs what publishing and running JavaScript takes, so that no measurement does. With the developer's environment,
/// in which npm may have its settings.
pub(crate) fn install_tools(setup: &Setup) -> Result<()> {
    // Nodes get no XDG_CACHE_HOME, either.
    crate::must_run(Command::new(&setup.minnow).args(["setup", "js"]).env_remove("XDG_CACHE_HOME"))
}

/// A node's configuration with `pool` processes that stand ready.
pub(crate) fn with_pool(pool: u32) -> String {
    format!("[js]\npool = {pool}\n")
}

/// A file of bench/js.
fn source(name: &str) -> PathBuf {
    crate::root().join("bench/js").join(name)
}

pub(crate) fn read_source(name: &str) -> Result<String> {
    let path = source(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes an app with functions `f0`, `f1` and so on, each a different module, made of bench/js/numbered.js. `settings` are
/// lines in each function's table.
fn numbered_app(parent: &Path, name: &str, first: u32, functions: u32, settings: &str) -> Result<PathBuf> {
    let module = read_source("numbered.js")?;
    let mut app = App::new(parent, name)?;
    for function in 0..functions {
        let file = format!("f{function}.js");
        app = app.code(&file, numbered(&module, first + function).as_bytes())?;
        app = app.function(&format!("f{function}"), &file, &format!("/f{function}"), settings);
    }
    app.finish()
}

/// A copy of bench/js/numbered.js.
fn numbered(module: &str, number: u32) -> String {
    module.replacen("NUMBER = 0", &format!("NUMBER = {number}"), 1)
}

/// Asks a numbered function, checks that it was the one that answered, and returns how long that took.
fn call_numbered(client: &mut Client, host: &str, function: u32, number: u32) -> Result<Duration> {
    let path = format!("/f{function}");
    let started = Instant::now();
    let answer = client.get(host, &path, "").with_context(|| format!("{host}{path}"))?;
    let elapsed = started.elapsed();
    check_numbered(&answer, number).with_context(|| format!("{host}{path}"))?;
    Ok(elapsed)
}

fn check_numbered(answer: &Answer, number: u32) -> Result<()> {
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(
        answer.status == 200 && body == "Hello, World!\n" && answer.header("x-number") == Some(&number.to_string()),
        "unexpected answer: {} {:?} {body}",
        answer.status,
        answer.headers
    );
    Ok(())
}

/// A client that asks an app by its name.
struct AppClient {
    address: SocketAddr,
    host: String,
    client: Client,
}

impl AppClient {
    fn connect(address: SocketAddr, app: &str) -> Result<Self> {
        Ok(Self { address, host: format!("{app}.localhost"), client: Client::connect(address)? })
    }

    /// Asks for `path`. Where the answer ends the connection, the next request gets a new one.
    fn get(&mut self, path: &str) -> Result<Answer> {
        let answer = self.client.get(&self.host, path, "").with_context(|| format!("{}{path}", self.host))?;
        if answer.closes() {
            self.client = Client::connect(self.address)?;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_differ_in_their_number_only() {
        let module = read_source("numbered.js").unwrap();
        assert_eq!(numbered(&module, 0), module);
        let seven = numbered(&module, 7);
        assert!(seven.contains("NUMBER = 7;") && !seven.contains("NUMBER = 0"));
    }
}
