//! Bundles functions in JavaScript and TypeScript: each with its imports becomes one ES module and its source map, in
//! `.minnow/.build` of the app's folder, where [`pack`](crate::pack) finds them.
//!
//! Read [`esbuild`] (how a bundle is made, with [`packet`] below it) and [`mistake`] (how errors are told).

mod esbuild;
mod mistake;
mod packet;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use minnow_model::{FunctionName, manifest::Code};
use minnow_runtime::js::tools::Tool;

use self::esbuild::{Done, Job, ServiceError};
use super::{Only, tools};
use crate::{
    project::{self, Project},
    report::{self, Failure},
};

/// The most warnings that are shown at a time.
const MAX_WARNINGS: usize = 20;

/// Makes bundles. It knows where esbuild is once it has made one.
#[derive(Debug, Default)]
pub struct Bundler {
    esbuild: Option<PathBuf>,
}

/// What became of the functions.
#[derive(Debug, Default)]
pub struct Bundles {
    /// The files that each function is made of which was bundled.
    pub inputs: BTreeMap<FunctionName, BTreeSet<PathBuf>>,
    /// The functions that could not be bundled, and why.
    pub failed: Option<(BTreeSet<FunctionName>, anyhow::Error)>,
}

impl Bundles {
    /// Only without a failure.
    pub fn whole(self) -> anyhow::Result<BTreeMap<FunctionName, BTreeSet<PathBuf>>> {
        match self.failed {
            Some((_, error)) => Err(error),
            None => Ok(self.inputs),
        }
    }
}

/// Bundles every function of an app that is in JavaScript.
pub async fn all(project: &Project) -> anyhow::Result<()> {
    Bundler::default().run(project, &Only::All).await?.whole().map(drop)
}

impl Bundler {
    /// Bundles the functions in JavaScript among `only`. What is wrong with their sources is told for all of them at once,
    /// and those without a mistake are bundled all the same.
    pub async fn run(&mut self, project: &Project, only: &Only) -> anyhow::Result<Bundles> {
        let (names, jobs): (Vec<&FunctionName>, Vec<Job<'_>>) = jobs(project, only).unzip();
        if jobs.is_empty() {
            return Ok(Bundles::default());
        }
        if let Err(error) = project.check_js(&names) {
            return Ok(Bundles { failed: Some((names.into_iter().cloned().collect(), error)), ..Bundles::default() });
        }
        let esbuild = match &self.esbuild {
            Some(esbuild) => esbuild,
            None => self.esbuild.insert(tools::provide(Tool::Esbuild).await?.path),
        };
        let all = match esbuild::bundle(esbuild, &project.dir, &jobs).await {
            Ok(all) => all,
            Err(error) => {
                let failed = cannot_bundle(error, esbuild);
                // It may be gone, and be installed anew.
                self.esbuild = None;
                return Err(failed);
            }
        };
        finish(project, &names, all)
    }
}

/// The functions that are to be bundled.
fn jobs<'a>(project: &'a Project, only: &Only) -> impl Iterator<Item = (&'a FunctionName, Job<'a>)> {
    project.manifest().functions.iter().filter(|(name, _)| only.includes(name)).filter_map(|(name, function)| {
        let Code::Js(entry) = &function.code else { return None };
        let node_env = function.env.get("NODE_ENV").map_or("production", String::as_str);
        Some((name, Job { entry, node_env }))
    })
}

/// Writes the bundles, and gathers what is wrong with the others.
fn finish(project: &Project, names: &[&FunctionName], all: Vec<Done>) -> anyhow::Result<Bundles> {
    let mut bundles = Bundles::default();
    let (mut failed, mut mistakes, mut warnings) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for (&name, done) in names.iter().zip(all) {
        warnings.extend(done.warnings);
        match done.result {
            Ok(bundled) => {
                write(&project.dir, name, &bundled.module, &bundled.source_map)?;
                bundles.inputs.insert(name.clone(), bundled.inputs);
            }
            Err(messages) => {
                failed.insert(name.clone());
                mistakes.extend(messages);
            }
        }
    }
    for warning in warnings.iter().take(MAX_WARNINGS) {
        report::warn(mistake::warning(warning));
    }
    if !failed.is_empty() {
        let what = Failure::new(format!("cannot bundle {}", listed(&failed)));
        let error = anyhow::Error::msg(mistake::text(&project.dir, mistakes)).context(what);
        bundles.failed = Some((failed, error));
    }
    Ok(bundles)
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &BTreeSet<FunctionName>) -> String {
    let names: Vec<&str> = names.iter().map(FunctionName::as_str).collect();
    match names.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        names => names.concat(),
    }
}

fn cannot_bundle(error: ServiceError, esbuild: &Path) -> anyhow::Error {
    let help = match error {
        ServiceError::TimedOut => "it may wait for a disk; try again".into(),
        _ => format!("`{} --version` has to work; `minnow setup js` shows which esbuild is used", esbuild.display()),
    };
    anyhow::Error::from(error).context(Failure::new("cannot bundle JavaScript").help(help))
}

/// Where the bundle of a function is: its module and its source map.
pub fn paths(dir: &Path, name: &FunctionName) -> (PathBuf, PathBuf) {
    // With a dot: a folder with anything else in it is not taken for a node's data, which `dev` keeps there too.
    let build = project::data_dir_of(dir).join(".build");
    (build.join(format!("{name}.js")), build.join(format!("{name}.js.map")))
}

fn write(dir: &Path, name: &FunctionName, module: &[u8], source_map: &[u8]) -> anyhow::Result<()> {
    let (module_path, map_path) = paths(dir, name);
    let write = || {
        project::data_dir(dir)?;
        write_whole(&module_path, module)?;
        write_whole(&map_path, source_map)
    };
    write().with_context(|| {
        Failure::new(format!("cannot write {}", module_path.display())).help("make the app's folder writable")
    })
}

/// Writes a file so that nobody reads half of it: another `minnow` may pack the same app.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // As any other file: the default is for secrets.
    let permissions = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
    io::Write::write_all(&mut file, content)?;
    file.persist(path)?;
    Ok(())
}
