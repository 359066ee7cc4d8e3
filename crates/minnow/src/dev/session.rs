//! One app under `minnow dev`: rebuilt, published and deployed whenever it changes.

use std::collections::BTreeSet;

use minnow_control::api_types::DeployRequest;
use minnow_model::{Digest, FunctionName, Version, manifest::Function};
use minnow_runtime::js::tools::Tool;

use super::{
    change::{Contents, Inputs, Interest, is_in_packages},
    secrets::Secrets,
    version::{dev_number, dev_version, next_number},
    watch::Changes,
};
use crate::{
    client::{ApiError, Client},
    pack::Bundle,
    progress::Progress,
    project::Project,
    recipe::{self, Only, bundler::Bundler, tools},
    report::{self, Failure},
    shell::Group,
    upload,
};

/// How the node says that a migration was edited.
const RUN_WITH_OTHER: &str = "has run already, with other content";

/// The app and what of it is live.
pub struct Session {
    client: Client,
    project: Project,
    interest: Interest,
    contents: Contents,
    scripts: Scripts,
    secrets: Secrets,
    /// Functions whose sources changed since their last successful build.
    stale: BTreeSet<FunctionName>,
    /// What is live, whatever its version is.
    live: Option<Digest>,
    /// Whether something changed of which it is not known yet that it is live, or makes no difference.
    is_behind: bool,
}

/// What came of changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// Another version is live.
    Live(Version),
    /// The sources are again what is live: a mistake was undone, or nothing that counts has changed.
    AsLive,
    /// Nothing that is to be told.
    Nothing,
}

/// The functions in JavaScript.
#[derive(Debug, Default)]
pub struct Scripts {
    bundler: Bundler,
    inputs: Inputs,
    /// Functions whose sources changed since they were last bundled.
    stale: BTreeSet<FunctionName>,
    /// What was told when that failed.
    told: Option<String>,
    has_deno: bool,
}

impl Scripts {
    /// Bundles all of an app's functions for the first time.
    pub async fn of(project: &Project) -> anyhow::Result<Self> {
        let mut scripts = Self::default();
        scripts.inputs = scripts.bundler.run(project, &Only::All).await?.whole()?;
        scripts.provide_deno(project).await?;
        Ok(scripts)
    }

    /// Installs Deno before the node does it: here somebody sees it.
    async fn provide_deno(&mut self, project: &Project) -> anyhow::Result<()> {
        if !self.has_deno && project.manifest().functions.values().any(|function| function.code.is_js()) {
            tools::provide(Tool::Deno).await?;
            self.has_deno = true;
        }
        Ok(())
    }

    /// Bundles the functions that changed. Those that fail are tried again with the next change of whatever file.
    async fn bundle(&mut self, project: &Project) -> anyhow::Result<()> {
        let functions = &project.manifest().functions;
        self.inputs.retain(|name, _| functions.get(name).is_some_and(|function| function.code.is_js()));
        self.stale.retain(|name| functions.get(name).is_some_and(|function| function.code.is_js()));
        self.provide_deno(project).await?;
        let bundles = self.bundler.run(project, &Only::These(self.stale.clone())).await?;
        self.inputs.extend(bundles.inputs);
        match bundles.failed {
            Some((functions, error)) => {
                self.stale = functions;
                Err(error)
            }
            None => {
                self.stale.clear();
                self.told = None;
                Ok(())
            }
        }
    }

    /// Whether `error` was told before. An installation of packages changes files many times before they are all there.
    fn is_told(&mut self, error: &anyhow::Error, changes: &Changes) -> bool {
        let text = format!("{error:#}");
        let is_told = self.told.as_ref() == Some(&text);
        self.told = Some(text);
        is_told && !changes.lost && changes.paths.iter().all(|path| is_in_packages(path))
    }
}

impl Session {
    /// Publishes and deploys an app that was built and bundled.
    pub async fn start(
        client: Client,
        project: Project,
        scripts: Scripts,
        secrets: Secrets,
    ) -> anyhow::Result<(Self, Version)> {
        let interest = Interest::of(&project, &scripts.inputs)?;
        let (contents, stale) = (Contents::default(), BTreeSet::new());
        let mut session =
            Self { client, project, interest, contents, scripts, secrets, stale, live: None, is_behind: false };
        let version = session.publish().await?;
        Ok((session, version))
    }

    pub fn project(&self) -> &Project {
        &self.project
    }

    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Acts on changes: builds what is affected, and publishes and deploys when something came of it. After an error the
    /// version before keeps serving, and the next change tries again.
    pub async fn apply(&mut self, changes: &Changes) -> anyhow::Result<Applied> {
        // Before anything may fail: a change is told of once.
        self.note(changes);
        if changes.lost || self.secrets.is_in(&changes.paths) {
            self.set_secrets().await?;
        }
        if !self.is_behind {
            return Ok(Applied::Nothing);
        }
        self.reload()?;
        // Names of functions that the manifest has no more do no harm: there is no command for them.
        recipe::run(&self.project, &Only::These(self.stale.clone()), Group::Own).await?;
        // A command may write what is bundled.
        self.scripts.stale.append(&mut self.stale);
        let bundled = self.scripts.bundle(&self.project).await;
        self.interest = Interest::of(&self.project, &self.scripts.inputs)?;
        match bundled {
            Err(error) if self.scripts.is_told(&error, changes) => return Ok(Applied::Nothing),
            bundled => bundled?,
        }
        let fingerprint = self.pack(&Version::new(0, 0, 0)).await?.fingerprint();
        if self.live == Some(fingerprint) {
            self.is_behind = false;
            return Ok(Applied::AsLive);
        }
        self.publish().await.map(Applied::Live)
    }

    /// Keeps what changes come to, until it is live.
    fn note(&mut self, changes: &Changes) {
        let contents = &mut self.contents;
        let affected = self.interest.affected(&changes.paths, |path| contents.is_new(path));
        self.is_behind |= changes.lost || !affected.is_nothing();
        self.stale.extend(affected.builds);
        self.scripts.stale.extend(affected.bundles);
        if changes.lost {
            // Those that the manifest has from now on count as changed when it is read.
            let all: Vec<FunctionName> = self.project.manifest().functions.keys().cloned().collect();
            self.stale.extend(all.iter().cloned());
            self.scripts.stale.extend(all);
        }
    }

    /// Reads the manifest again. A function with another build command or code file has to be built and bundled.
    fn reload(&mut self) -> anyhow::Result<()> {
        let project = Project::load(&self.project.dir)?;
        let (old, new) = (self.project.manifest(), project.manifest());
        if old.name != new.name {
            let what = format!("the app's name changed from {} to {}", old.name, new.name);
            return Err(Failure::new(what).help("stop `minnow dev` and start it again").into());
        }
        let interest = Interest::of(&project, &self.scripts.inputs)?;
        for (name, function) in &new.functions {
            let same = |before: &Function| before.build == function.build && before.code == function.code;
            if !old.functions.get(name).is_some_and(same) {
                self.stale.insert(name.clone());
            }
            // It is part of the bundle.
            let node_env = |function: &Function| function.env.get("NODE_ENV").cloned();
            if old.functions.get(name).map(node_env) != Some(node_env(function)) {
                self.scripts.stale.insert(name.clone());
            }
        }
        self.project = project;
        self.interest = interest;
        Ok(())
    }

    /// Gives the node the secrets that it does not have yet.
    async fn set_secrets(&mut self) -> anyhow::Result<()> {
        self.secrets.apply(&self.client, self.project.manifest()).await
    }

    /// Publishes and deploys the files as they are, and deletes the dev versions before.
    async fn publish(&mut self) -> anyhow::Result<Version> {
        // A manifest that changed may grant more of them.
        self.set_secrets().await?;
        let manifest = self.project.manifest();
        let app = manifest.name.clone();
        let base = manifest.version.clone().unwrap_or(Version::new(0, 0, 0));
        let there = match self.client.versions(&app).await {
            Ok(versions) => versions,
            // An app is there from its first version on.
            Err(error) if error.status() == Some(reqwest::StatusCode::NOT_FOUND) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let number = next_number(there.iter().map(|info| &info.version));
        let version = dev_version(&base, number);
        let bundle = self.pack(&version).await?;
        upload::publish(&self.client, &bundle, Progress::Hidden).await?;
        let request = DeployRequest { version: Some(version.clone()), weight: None };
        self.client.deploy(&app, &request).await.map_err(edited_migration)?;
        self.live = Some(bundle.fingerprint());
        self.is_behind = false;
        for old in there.iter().map(|info| &info.version).filter(|old| dev_number(old).is_some()) {
            if let Err(error) = self.client.delete_version(&app, old).await {
                report::warn(format_args!("cannot delete {app}@{old}: {error}"));
            }
        }
        Ok(version)
    }

    /// Packs without holding up the node, which shares this runtime.
    async fn pack(&self, version: &Version) -> anyhow::Result<Bundle> {
        let (project, version) = (self.project.clone(), version.clone());
        tokio::task::spawn_blocking(move || project.pack(&version, Progress::Hidden)).await?
    }
}

/// Where data is only there to try things, a migration is edited until it is right.
fn edited_migration(error: ApiError) -> anyhow::Error {
    match &error {
        ApiError::Problem { problem, .. }
            if problem.detail.as_ref().is_some_and(|detail| detail.contains(RUN_WITH_OTHER)) =>
        {
            let remedy = "to begin with an empty database, stop `minnow dev`, delete .minnow/sql and start it again; to keep the \
                          data, undo the change and write a new migration";
            anyhow::Error::from(error).context(Failure::new("a migration was edited after it had run").help(remedy))
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    #[tokio::test]
    async fn a_function_that_cannot_be_bundled_is_tried_again_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| fs::write(dir.path().join(path), content).unwrap();
        write("minnow.toml", "name = \"a\"\n[functions.f]\njs = \"f.ts\"\n[functions.g]\njs = \"g.ts\"\n");
        write("f.ts", "import \"./x\";\nexport default {};\n");
        write("g.ts", "export default {};\n");
        let project = Project::load(dir.path()).unwrap();
        let (f, g): (FunctionName, FunctionName) = ("f".parse().unwrap(), "g".parse().unwrap());
        let mut scripts = Scripts { has_deno: true, ..Scripts::default() };
        scripts.stale = [f.clone(), g.clone(), "gone".parse().unwrap()].into();

        let error = scripts.bundle(&project).await.unwrap_err();
        assert_eq!(scripts.stale, [f.clone()].into());
        assert_eq!(scripts.inputs.keys().collect::<Vec<_>>(), [&g]);
        let changed = |path: &str| Changes { paths: [project.dir.join(path)].into(), lost: false };
        assert!(!scripts.is_told(&error, &changed("node_modules/x")), "the first time");
        assert!(scripts.is_told(&error, &changed("node_modules/x")), "npm is at work");
        assert!(!scripts.is_told(&error, &changed("f.ts")), "somebody saved a file and waits");

        write("x.ts", "console.log(1);\n");
        scripts.bundle(&project).await.unwrap();
        assert_eq!(scripts.stale, BTreeSet::new());
        let files: BTreeSet<PathBuf> = ["f.ts", "x.ts"].iter().map(|file| project.dir.join(file)).collect();
        assert_eq!(scripts.inputs[&f], files);
        assert_eq!(scripts.told, None);
    }

    #[tokio::test]
    async fn a_change_beside_a_mistake_in_the_secrets_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| fs::write(dir.path().join(path), content).unwrap();
        fs::create_dir(dir.path().join("public")).unwrap();
        let manifest = "name = \"a\"\n[functions.f]\nwasm = \"f.wasm\"\nbuild = \"make\"\nwatch = [\"f.c\"]\n[static]\n\"/\" = \"public\"\n";
        write("minnow.toml", manifest);
        write("f.c", "int x;");
        let f: FunctionName = "f".parse().unwrap();
        let none = BTreeSet::new;
        for (paths, lost, stale) in [
            (vec!["f.c"], false, BTreeSet::from([f.clone()])),
            (vec!["public/a.css"], false, none()),
            (vec![], true, BTreeSet::from([f])),
        ] {
            write(".dev.vars", "KEY=value\n");
            let project = Project::load(dir.path()).unwrap();
            let (scripts, secrets) = (Scripts::default(), Secrets::of(&project.dir, None).unwrap());
            let interest = Interest::of(&project, &scripts.inputs).unwrap();
            // Nobody answers there, and nobody is asked.
            let client = Client::new("http://127.0.0.1:1".parse().unwrap(), None).unwrap();
            let contents = Contents::default();
            let (live, is_behind) = (None, false);
            let mut session =
                Session { client, project, interest, contents, scripts, secrets, stale: none(), live, is_behind };
            let beside = Changes { paths: [session.project.dir.join("elsewhere")].into(), lost: false };
            assert_eq!(session.apply(&beside).await.unwrap(), Applied::Nothing);

            write(".dev.vars", "half of a line\n");
            let paths = paths.into_iter().chain([".dev.vars"]).map(|path| session.project.dir.join(path)).collect();
            let error = session.apply(&Changes { paths, lost }).await.unwrap_err();
            assert!(error.to_string().contains("line 1"), "{error}");
            assert_eq!((&session.stale, session.is_behind), (&stale, true));
        }
    }
}
