//! The first rows of a database under `minnow dev`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use minnow_model::{StoreKind, StoreName, Version};

use super::session::{Scripts, Session};
use crate::{
    client::Client,
    output::{self, GREEN},
    project::Project,
    report::Failure,
    store::StorePath,
    verb::sql::{Imported, import_file},
};

/// A file with SQL, and the database that it goes into.
pub struct Seed {
    file: PathBuf,
    store: StorePath,
}

impl Seed {
    /// Makes sure that the file and the database are there. Without `name` it is the app's only one.
    pub fn of(project: &Project, file: &Path, name: Option<&StoreName>) -> anyhow::Result<Self> {
        let stores = &project.manifest().sql;
        let names = || stores.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let store = match name {
            Some(name) if stores.contains_key(name) => name,
            Some(name) => {
                let help = if stores.is_empty() {
                    "declare it with `[sql.NAME]`".into()
                } else {
                    format!("it has {}", names())
                };
                return Err(Failure::new(format!("the app has no database `{name}`")).help(help).into());
            }
            None => match stores.keys().collect::<Vec<_>>().as_slice() {
                [store] => store,
                [] => {
                    let failure = Failure::new("the app has no database to fill with --seed");
                    return Err(failure.help("declare one in minnow.toml: `[sql.main]`").into());
                }
                _ => {
                    let failure = Failure::usage("the app has several databases; --seed-db says which to fill");
                    return Err(failure.help(format!("one of {}", names())).into());
                }
            },
        };
        fs::metadata(file).with_context(|| Failure::new(format!("cannot read the seed {}", file.display())))?;
        let store = StorePath { app: project.manifest().name.clone(), store: store.clone() };
        Ok(Self { file: file.into(), store })
    }

    /// Starts the session, and fills the database after its first deploy, which makes the tables.
    pub async fn start(
        seed: Option<Self>,
        client: Client,
        project: Project,
        scripts: Scripts,
        data_dir: &Path,
    ) -> anyhow::Result<(Session, Version)> {
        let Some(seed) = seed else { return Session::start(client, project, scripts).await };
        let is_new = seed.is_new(&client, data_dir).await?;
        let started = Session::start(client.clone(), project, scripts).await?;
        if is_new {
            let Imported { statements } = import_file(&client, &seed.store, &seed.file).await?;
            fs::write(seed.mark(data_dir), "").context("cannot note in .minnow that the database is filled")?;
            output::line(format_args!(
                "{GREEN}seeded{GREEN:#} {} with {statements} statements of {}",
                seed.store,
                seed.file.display()
            ))?;
        }
        Ok(started)
    }

    /// Whether the database was not filled yet, or is gone since.
    async fn is_new(&self, client: &Client, data_dir: &Path) -> anyhow::Result<bool> {
        if !self.mark(data_dir).exists() {
            return Ok(true);
        }
        match client.app_usage(&self.store.app).await {
            Ok(usage) => Ok(!usage
                .stores
                .iter()
                .any(|store| store.kind == StoreKind::Sql && store.name == self.store.store && store.bytes > 0)),
            Err(error) if error.status() == Some(reqwest::StatusCode::NOT_FOUND) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The file that says that the database was filled.
    fn mark(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!(".seeded-{}-{}", self.store.app, self.store.store))
    }
}
