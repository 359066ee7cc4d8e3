//! Apps to publish.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::repository;

/// The folder of an app.
#[derive(Debug)]
pub struct App {
    dir: TempDir,
    manifest: String,
}

/// The code of a guest in `guests/`.
pub fn guest(name: &str) -> Vec<u8> {
    let path = repository().join("guests").join(name).join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Copies a folder, without what was made in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if [".minnow", "target", "node_modules"].iter().any(|made| entry.file_name() == *made) {
            continue;
        }
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl App {
    /// An app with this manifest.
    pub fn with_manifest(manifest: impl Into<String>) -> Self {
        let app = Self { dir: tempfile::tempdir().unwrap(), manifest: manifest.into() };
        app.write_manifest();
        app
    }

    /// A copy of one of `examples/`, without what `dev`, Cargo and npm left in its folder.
    pub fn of_example(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&repository().join("examples").join(name), dir.path());
        let manifest = fs::read_to_string(dir.path().join("minnow.toml")).unwrap();
        Self { dir, manifest }
    }

    /// The app `name` with nothing in it, at version 0.1.0.
    pub fn new(name: &str) -> Self {
        Self::with_manifest(format!("name = \"{name}\"\nversion = \"0.1.0\"\n"))
    }

    /// The app `name` with one function `web` that is one of `guests/` and gets every request. `settings` are further lines
    /// of its manifest, which may go on to `[functions.web.limits]`.
    pub fn of_guest(name: &str, code: &str, settings: &str) -> Self {
        Self::new(name).function("web", code, &format!("routes = [\"/{{*rest}}\"]\n{settings}"))
    }

    /// Adds a function that is one of `guests/`.
    #[must_use]
    pub fn function(self, name: &str, code: &str, settings: &str) -> Self {
        let wasm = guest(code);
        self.code(name, &format!("{code}.wasm"), &wasm, settings)
    }

    /// Adds a function with this code.
    #[must_use]
    pub fn code(self, name: &str, file: &str, wasm: &[u8], settings: &str) -> Self {
        let mut app = self.file(file, wasm);
        let _ = write!(app.manifest, "\n[functions.{name}]\nwasm = \"{file}\"\n{settings}\n");
        app.write_manifest();
        app
    }

    /// The app `name` with one function `web` in JavaScript that gets every request. `settings` are further lines of its
    /// manifest, which may go on to `[functions.web.limits]`.
    pub fn of_js(name: &str, source: &str, settings: &str) -> Self {
        Self::new(name).js("web", "web.js", source, &format!("routes = [\"/{{*rest}}\"]\n{settings}"))
    }

    /// Adds a function in JavaScript or TypeScript whose entry is this file.
    #[must_use]
    pub fn js(self, name: &str, file: &str, source: &str, settings: &str) -> Self {
        let mut app = self.file(file, source);
        let _ = write!(app.manifest, "\n[functions.{name}]\njs = \"{file}\"\n{settings}\n");
        app.write_manifest();
        app
    }

    /// Adds lines at the top of the manifest.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.manifest = format!("{lines}\n{}", self.manifest);
        self.write_manifest();
        self
    }

    /// Adds lines at the end of the manifest.
    #[must_use]
    pub fn end(mut self, lines: &str) -> Self {
        let _ = write!(self.manifest, "\n{lines}\n");
        self.write_manifest();
        self
    }

    /// Writes a file.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(path, content);
        self
    }

    /// Writes a file, replacing what was there.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Replaces text in the manifest.
    pub fn change(&mut self, from: &str, to: &str) {
        assert!(self.manifest.contains(from), "the manifest has no `{from}`:\n{}", self.manifest);
        self.manifest = self.manifest.replace(from, to);
        self.write_manifest();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn manifest_path(&self) -> PathBuf {
        self.path().join("minnow.toml")
    }

    fn write_manifest(&self) {
        fs::write(self.manifest_path(), &self.manifest).unwrap();
    }
}
