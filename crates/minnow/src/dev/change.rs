//! What a changed file means for an app: which functions to build, and whether there is something to publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use minnow_model::{
    Digest, FunctionName,
    digest::Digester,
    manifest::{Code, FILE_NAME},
};

use crate::{project::Project, report::Failure};

/// Folders that hold no sources: the node's data, build output, downloads, history. What a bundle is made of is looked at
/// all the same.
const IGNORED: [&str; 4] = [".minnow", "target", ".git", PACKAGES];
/// Where npm packages are.
const PACKAGES: &str = "node_modules";

/// Whether a folder is never looked into for sources.
pub fn is_ignored(name: &OsStr) -> bool {
    IGNORED.iter().any(|ignored| name == *ignored)
}

/// Whether a path is of an npm package, or of the folder that they are in.
pub fn is_in_packages(path: &Path) -> bool {
    path.iter().any(|name| name == PACKAGES)
}

/// What each function in JavaScript is made of.
pub type Inputs = BTreeMap<FunctionName, BTreeSet<PathBuf>>;

/// The files that matter to an app.
#[derive(Debug)]
pub struct Interest {
    dir: PathBuf,
    /// The manifest and each function's WebAssembly.
    files: BTreeSet<PathBuf>,
    /// The static folders, and those of migrations.
    folders: Vec<PathBuf>,
    /// The sources of each function that is built.
    sources: Vec<(FunctionName, GlobSet)>,
    /// The functions in JavaScript.
    scripts: Vec<(FunctionName, Script)>,
}

/// What a function in JavaScript is made of.
#[derive(Debug)]
struct Script {
    files: BTreeSet<PathBuf>,
    /// The folders of the files. A new file beside another one may be what an import means from now on.
    folders: BTreeSet<PathBuf>,
}

impl Script {
    fn new(files: BTreeSet<PathBuf>) -> Self {
        let folders = files.iter().filter_map(|file| file.parent()).map(Path::to_path_buf).collect();
        Self { files, folders }
    }

    /// Whether one of the files is `path` or in it, as where a package was replaced.
    fn holds(&self, path: &Path) -> bool {
        self.files.range(path.to_path_buf()..).next().is_some_and(|file| file.starts_with(path))
    }

    fn is_beside(&self, path: &Path) -> bool {
        path.parent().is_some_and(|folder| self.folders.contains(folder))
    }
}

/// Whether a file says how imports are resolved or compiled, wherever it is.
fn is_settings(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_config = |kind: &str| name.starts_with(kind) && name.ends_with(".json");
    name == "package.json" || is_config("tsconfig") || is_config("jsconfig")
}

/// What changed files come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Functions whose `watch` names what changed.
    pub builds: BTreeSet<FunctionName>,
    /// Functions whose bundle may change.
    pub bundles: BTreeSet<FunctionName>,
    /// Whether the manifest, code, a static file or a migration changed.
    pub packed: bool,
}

impl Affected {
    pub fn is_nothing(&self) -> bool {
        self.builds.is_empty() && self.bundles.is_empty() && !self.packed
    }
}

impl Interest {
    /// Reads what matters from the manifest. `inputs` are those of the functions that were bundled.
    pub fn of(project: &Project, inputs: &Inputs) -> anyhow::Result<Self> {
        let manifest = project.manifest();
        let dir = project.dir.clone();
        let mut files: BTreeSet<PathBuf> = [dir.join(FILE_NAME)].into();
        let (mut sources, mut scripts) = (Vec::new(), Vec::new());
        for (name, function) in &manifest.functions {
            match &function.code {
                Code::Wasm(path) => {
                    files.insert(dir.join(path));
                }
                Code::Js(entry) => {
                    let mut files = inputs.get(name).cloned().unwrap_or_default();
                    files.insert(dir.join(entry));
                    scripts.push((name.clone(), Script::new(files)));
                }
            }
            if function.build.is_none() {
                continue;
            }
            let mut globs = GlobSetBuilder::new();
            for glob in &function.watch {
                // `*` stays within one folder and `**` crosses them, as in .gitignore.
                let parsed = GlobBuilder::new(glob.trim_start_matches("./")).literal_separator(true).build();
                globs.add(parsed.with_context(|| {
                    Failure::new(format!("`{glob}` in `watch` of {name} is not a glob"))
                        .help("write for example src/**/*.rs")
                })?);
            }
            sources.push((name.clone(), globs.build()?));
        }
        let migrations = manifest.sql.values().filter_map(|store| store.migrations.as_ref());
        let folders = manifest.static_dirs.values().chain(migrations).map(|folder| dir.join(folder)).collect();
        Ok(Self { dir, files, folders, sources, scripts })
    }

    /// Where code lies, often in folders that are otherwise ignored.
    pub fn code_folders(&self) -> impl Iterator<Item = &Path> {
        let scripts = self.scripts.iter().flat_map(|(_, script)| &script.folders);
        self.files.iter().filter_map(|file| file.parent()).chain(scripts.map(PathBuf::as_path))
    }

    /// Where packages come and go, for functions in JavaScript: the `node_modules` in the app's folder and those that are used.
    pub fn package_folders(&self) -> BTreeSet<PathBuf> {
        let own = (!self.scripts.is_empty()).then(|| self.dir.join(PACKAGES));
        let folders = self.scripts.iter().flat_map(|(_, script)| &script.folders);
        let used = folders.flat_map(|folder| folder.ancestors()).filter(|folder| folder.ends_with(PACKAGES));
        own.into_iter().chain(used.map(Path::to_path_buf)).collect()
    }

    /// The static folders and those of migrations, which may be build output too.
    pub fn packed_folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// What `changed` comes to. `is_new` says whether a source has another content than when it was last asked about.
    pub fn affected<'a>(
        &self,
        changed: impl IntoIterator<Item = &'a PathBuf>,
        mut is_new: impl FnMut(&Path) -> bool,
    ) -> Affected {
        let mut affected = Affected::default();
        for path in changed {
            let is_packed = self.folders.iter().any(|folder| path.starts_with(folder));
            affected.packed |= is_packed || self.files.contains(path);
            // One question for each path: the second would get another answer.
            let mut answer = None;
            let mut is_new = || *answer.get_or_insert_with(|| is_new(path));
            let may_change = |script: &Script, is_new: &mut dyn FnMut() -> bool| {
                // A package that was replaced is a folder, whose content is not compared.
                (script.holds(path) && (!script.files.contains(path) || is_new()))
                    || ((script.is_beside(path) || is_settings(path)) && is_new())
            };
            let bundles = self.scripts.iter().filter(|(_, script)| may_change(script, &mut is_new));
            affected.bundles.extend(bundles.map(|(name, _)| name.clone()).collect::<Vec<_>>());
            let Ok(relative) = path.strip_prefix(&self.dir) else { continue };
            if relative.iter().any(is_ignored) {
                continue;
            }
            let mut builds = self.sources.iter().filter(|(_, globs)| globs.is_match(relative)).peekable();
            if builds.peek().is_some() && is_new() {
                affected.builds.extend(builds.map(|(name, _)| name.clone()));
            }
        }
        affected
    }
}

/// The content of the sources when they last changed. A build that writes a source of its own, or an editor that touches
/// a file, would otherwise start builds for ever.
#[derive(Debug, Default)]
pub struct Contents(BTreeMap<PathBuf, Option<Digest>>);

impl Contents {
    /// The most files that are remembered; with more, some builds are started that are not needed.
    const MAX_FILES: usize = 20_000;
    /// A longer file always counts as changed, since reading it takes too long.
    const MAX_BYTES: u64 = 16 * 1024 * 1024;

    /// Whether `path` has another content than at the last call, or is gone since.
    pub fn is_new(&mut self, path: &Path) -> bool {
        if path.is_dir() {
            return false;
        }
        if self.0.len() >= Self::MAX_FILES {
            self.0.clear();
        }
        let digest = digest(path);
        match self.0.insert(path.into(), digest) {
            Some(before) => before != digest || digest.is_none() && path.exists(),
            None => true,
        }
    }
}

/// The digest of a file; `None` when it is gone, cannot be read or is too long.
fn digest(path: &Path) -> Option<Digest> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.len() > Contents::MAX_BYTES {
        return None;
    }
    let mut content = Vec::new();
    file.take(Contents::MAX_BYTES).read_to_end(&mut content).ok()?;
    let mut digester = Digester::default();
    digester.update(&content);
    Some(digester.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MANIFEST: &str = r#"
        name = "a"
        [functions.api]
        wasm = "target/api.wasm"
        build = "make api"
        watch = ["src/**", "*.toml", "views/*.html"]
        routes = ["/api"]
        [functions.web]
        wasm = "web.wasm"
        build = "make web"
        watch = ["src/web/**"]
        routes = ["/web"]
        [functions.prebuilt]
        wasm = "bin/p.wasm"
        routes = ["/p"]
        [static]
        "/" = "public"
        "/dist" = "target/dist"
        [sql.main]
        migrations = "db/migrations"
    "#;

    #[test]
    fn a_change_is_sorted_by_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), MANIFEST).unwrap();
        let project = Project::load(dir.path()).unwrap();
        let interest = Interest::of(&project, &Inputs::new()).unwrap();
        for (path, builds, packed) in [
            ("minnow.toml", vec!["api"], true),
            ("Cargo.toml", vec!["api"], false),
            ("sub/Cargo.toml", vec![], false),
            ("src/lib.rs", vec!["api"], false),
            ("src/web/deep/er.rs", vec!["api", "web"], false),
            ("views/index.html", vec!["api"], false),
            ("views/sub/index.html", vec![], false),
            ("target/api.wasm", vec![], true),
            ("web.wasm", vec![], true),
            ("bin/p.wasm", vec![], true),
            ("bin/other", vec![], false),
            ("public/css/a.css", vec![], true),
            ("target/dist/a.js", vec![], true),
            ("db/migrations/0001.sql", vec![], true),
            ("db/seed.sql", vec![], false),
            ("target/debug/x", vec![], false),
            (".minnow/registry.db", vec![], false),
            ("src/.git/index", vec![], false),
            ("notes.txt", vec![], false),
        ] {
            let affected = interest.affected([&project.dir.join(path)], |_| true);
            let names: Vec<&str> = affected.builds.iter().map(FunctionName::as_str).collect();
            assert_eq!((names, affected.packed), (builds, packed), "{path}");
        }
        assert!(interest.affected([&project.dir.join("src/lib.rs")], |_| false).is_nothing(), "the same content");
    }

    #[test]
    fn a_bundle_is_made_again_when_what_it_is_made_of_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"a\"\n[functions.api]\njs = \"src/api.ts\"\n[functions.web]\njs = \"web/web.ts\"\n";
        fs::write(dir.path().join(FILE_NAME), text).unwrap();
        let project = Project::load(dir.path()).unwrap();
        let files =
            ["src/api.ts", "lib/deep/util.ts", "node_modules/hono/dist/index.js", "../node_modules/ms/index.js"];
        let files: BTreeSet<PathBuf> = files
            .iter()
            .map(|file| match file.strip_prefix("../") {
                Some(file) => project.dir.parent().unwrap().join(file),
                None => project.dir.join(file),
            })
            .collect();
        let inputs = Inputs::from([("api".parse().unwrap(), files)]);
        let interest = Interest::of(&project, &inputs).unwrap();
        let bundles = |path: PathBuf, is_new: bool| -> Vec<String> {
            let affected = interest.affected([&path], |_| is_new);
            assert!(affected.builds.is_empty() && affected.packed == path.ends_with(FILE_NAME));
            affected.bundles.iter().map(ToString::to_string).collect()
        };
        for (path, expected) in [
            ("src/api.ts", vec!["api"]),
            ("src/new.ts", vec!["api"]),
            ("web/web.ts", vec!["web"]),
            ("lib/deep/util.ts", vec!["api"]),
            ("lib/other.ts", vec![]),
            ("node_modules/hono/dist/index.js", vec!["api"]),
            ("node_modules/other", vec![]),
            ("package.json", vec!["api", "web"]),
            ("tsconfig.base.json", vec!["api", "web"]),
            ("lib/deep", vec!["api"]),
            ("notes.txt", vec![]),
            (FILE_NAME, vec![]),
        ] {
            assert_eq!(bundles(project.dir.join(path), true), expected, "{path}");
        }
        assert_eq!(bundles(project.dir.join("src/api.ts"), false), [""; 0], "the same content");
        assert_eq!(bundles(project.dir.join("node_modules/hono"), false), ["api"], "a package is replaced");
        let hoisted = project.dir.parent().unwrap().join("node_modules");
        assert_eq!(bundles(hoisted.join("ms/index.js"), true), ["api"]);
        assert_eq!(interest.package_folders(), BTreeSet::from([project.dir.join("node_modules"), hoisted]));
        assert!(interest.code_folders().any(|folder| folder == project.dir.join("lib/deep")));
    }

    #[test]
    fn a_file_that_is_written_again_with_the_same_content_did_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.rs");
        let mut contents = Contents::default();
        let mut write = |content: &str| {
            fs::write(&path, content).unwrap();
            contents.is_new(&path)
        };
        assert_eq!([write("1"), write("1"), write("2"), write("2")], [true, false, true, false]);
        fs::remove_file(&path).unwrap();
        assert!(contents.is_new(&path));
        assert!(!contents.is_new(&path));
        assert!(!contents.is_new(dir.path()), "a folder has no content");
    }
}
