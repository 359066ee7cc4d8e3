//! One app under `minnow dev`: rebuilt, published and deployed whenever it changes.

use std::{collections::BTreeSet, path::Path};

use minnow_control::api_types::DeployRequest;
use minnow_model::{Digest, FunctionName, Version};

use super::{
    change::{Contents, Interest},
    version::{dev_number, dev_version, next_number},
    watch::Changes,
};
use crate::{
    client::Client,
    pack::Bundle,
    progress::Progress,
    project::Project,
    recipe::{self, Only},
    report::{self, Failure},
    shell::Group,
    upload,
};

/// The app and what of it is live.
pub struct Session {
    client: Client,
    project: Project,
    interest: Interest,
    contents: Contents,
    /// Functions whose sources changed since their last successful build.
    stale: BTreeSet<FunctionName>,
    /// What is live, whatever its version is.
    live: Option<Digest>,
}

impl Session {
    /// Publishes and deploys an app that was built.
    pub async fn start(client: Client, project: Project) -> anyhow::Result<(Self, Version)> {
        let interest = Interest::of(&project)?;
        let contents = Contents::default();
        let mut session = Self { client, project, interest, contents, stale: BTreeSet::new(), live: None };
        let version = session.publish().await?;
        Ok((session, version))
    }

    pub fn project(&self) -> &Project {
        &self.project
    }

    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Acts on changes: builds what is affected, and publishes and deploys when something came of it. `None` when
    /// everything is as it was. After an error the version before keeps serving, and the next change tries again.
    pub async fn apply(&mut self, changes: &Changes) -> anyhow::Result<Option<Version>> {
        let contents = &mut self.contents;
        let affected = self.interest.affected(&changes.paths, |path| contents.is_new(path));
        if affected.is_nothing() && self.stale.is_empty() && !changes.lost {
            return Ok(None);
        }
        self.stale.extend(affected.builds);
        self.reload()?;
        if changes.lost {
            self.stale.extend(self.project.manifest().functions.keys().cloned());
        }
        // Names of functions that the manifest has no more do no harm: there is no command for them.
        recipe::run(&self.project, &Only::These(self.stale.clone()), Group::Own).await?;
        self.stale.clear();
        let fingerprint = self.pack(&Version::new(0, 0, 0)).await?.fingerprint();
        if self.live == Some(fingerprint) {
            return Ok(None);
        }
        self.publish().await.map(Some)
    }

    /// Reads the manifest again. A function with another build command or code file has to be built.
    fn reload(&mut self) -> anyhow::Result<()> {
        let project = Project::load(&self.project.dir)?;
        let (old, new) = (self.project.manifest(), project.manifest());
        if old.name != new.name {
            let what = format!("the app's name changed from {} to {}", old.name, new.name);
            return Err(Failure::new(what).help("stop `minnow dev` and start it again").into());
        }
        let interest = Interest::of(&project)?;
        for (name, function) in &new.functions {
            let same = |before: &minnow_model::manifest::Function| {
                before.build == function.build && before.wasm == function.wasm
            };
            if !old.functions.get(name).is_some_and(same) {
                self.stale.insert(name.clone());
            }
        }
        self.project = project;
        self.interest = interest;
        Ok(())
    }

    /// Publishes and deploys the files as they are, and deletes the dev versions before.
    async fn publish(&mut self) -> anyhow::Result<Version> {
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
        self.client.deploy(&app, &DeployRequest { version: Some(version.clone()), weight: None }).await?;
        self.live = Some(bundle.fingerprint());
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

/// The folder of the node's data, with a `.gitignore` so that it is never committed.
pub fn data_dir(project: &Path) -> std::io::Result<std::path::PathBuf> {
    let dir = project.join(".minnow");
    std::fs::create_dir_all(&dir)?;
    let ignore = dir.join(".gitignore");
    if !ignore.exists() {
        std::fs::write(ignore, "*\n")?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_is_made_once_and_ignored_by_git() {
        let dir = tempfile::tempdir().unwrap();
        let data = data_dir(dir.path()).unwrap();
        assert_eq!(data_dir(dir.path()).unwrap(), data);
        assert_eq!(std::fs::read_to_string(data.join(".gitignore")).unwrap(), "*\n");
    }
}
