//! The apps that the benchmarks deploy, written as a developer would have them: a folder with `minnow.toml` and code.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// An app under construction.
pub(crate) struct App {
    folder: PathBuf,
    manifest: String,
}

impl App {
    /// Begins the app `name` in a new folder of this name within `parent`.
    pub(crate) fn new(parent: &Path, name: &str) -> Result<Self> {
        let folder = parent.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, manifest: format!("name = \"{name}\"\nversion = \"0.1.0\"\n") })
    }

    /// Adds code, for the functions that name this file.
    pub(crate) fn code(self, file: &str, code: &[u8]) -> Result<Self> {
        fs::write(self.folder.join(file), code)?;
        Ok(self)
    }

    /// Adds a function that runs `file` and answers on `route`. `settings` are further lines of its table in the manifest.
    pub(crate) fn function(self, name: &str, file: &str, route: &str, settings: &str) -> Self {
        self.follower(name, file, &format!("routes = [\"{route}\"]\n{settings}"))
    }

    /// Adds a function that runs `file` for what its settings say, and has no route.
    pub(crate) fn follower(mut self, name: &str, file: &str, settings: &str) -> Self {
        let kind = if file.ends_with(".js") { "js" } else { "wasm" };
        // Writing to a String cannot fail.
        let _ = write!(self.manifest, "\n[functions.{name}]\n{kind} = \"{file}\"\n{settings}\n");
        self
    }

    /// Adds tables to the manifest: the stores that the app has.
    pub(crate) fn tables(mut self, tables: &str) -> Self {
        let _ = write!(self.manifest, "\n{tables}\n");
        self
    }

    /// Writes the manifest; returns the app's folder.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        fs::write(self.folder.join("minnow.toml"), self.manifest)?;
        Ok(self.folder)
    }
}

/// One of the prebuilt guests.
pub(crate) fn guest(name: &str) -> Result<Vec<u8>> {
    let path = guest_path(name);
    fs::read(&path).with_context(|| format!("cannot read {}; `cargo xtask guests` builds it", path.display()))
}

pub(crate) fn guest_path(name: &str) -> PathBuf {
    crate::root().join(format!("guests/{name}/{name}.wasm"))
}
