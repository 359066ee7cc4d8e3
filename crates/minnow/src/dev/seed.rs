//! The first rows of a database under `minnow dev`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use minnow_model::{Digest, StoreKind, StoreName};
use minnow_store::data_dir::write_atomically;

use crate::{
    client::{ApiError, Client},
    output::{self, GREEN, YELLOW},
    project::Project,
    report::Failure,
    store::StorePath,
    verb::sql::import_file,
};

/// What is noted of a database while it is being filled. No digest reads so.
const BEGUN: &str = "begun";
/// The mode of what is noted: as all of the node's data, it is for its user.
const MARK_MODE: u32 = 0o600;

/// A file with SQL, and the database that it goes into.
pub struct Seed {
    file: PathBuf,
    store: StorePath,
}

/// What a start of `minnow dev` does about the database.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    Fill,
    /// It was filled, with a file of this digest; empty where that is not known.
    Skip(String),
    /// It was being filled when `minnow dev` ended: all of it may be there, or a part, or nothing.
    Unknown,
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

    /// What is to be done about the database, before the first deploy makes its tables.
    pub async fn plan(&self, client: &Client, data_dir: &Path) -> anyhow::Result<Plan> {
        let mark = self.mark(data_dir);
        if self.is_gone(client).await? {
            // The mark is of a database that was deleted since.
            match fs::remove_file(&mark) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(anyhow::Error::from(error).context(format!("cannot remove {}", mark.display())));
                }
                _ => return Ok(Plan::Fill),
            }
        }
        noted(&mark)
    }

    /// Fills the database as planned, or says why it does not. What the node refuses is tried again by the next start. Of what was
    /// broken off nobody knows how much of it is there, so that it is not run twice.
    pub async fn run(&self, plan: Plan, client: &Client, data_dir: &Path) -> anyhow::Result<()> {
        let (store, file) = (&self.store, self.file.display());
        let digest = |content: Vec<u8>| Digest::of(&content).to_string();
        let now =
            fs::read(&self.file).map(digest).with_context(|| Failure::new(format!("cannot read the seed {file}")))?;
        let why = match plan {
            Plan::Fill => None,
            Plan::Skip(before) if before.is_empty() => Some("was filled before"),
            Plan::Skip(before) if before == now => Some("was filled with it before"),
            Plan::Skip(_) => Some("was filled before, with another content than it has now"),
            Plan::Unknown => Some("was being filled when `minnow dev` ended, and has all of it, a part or nothing"),
        };
        if let Some(why) = why {
            let again = "to fill it anew, stop `minnow dev`, delete .minnow/sql and start it again";
            return output::line(format_args!("{YELLOW}not seeded{YELLOW:#} {store} {why}; {again}"));
        }
        let mark = self.mark(data_dir);
        let note = |what: &str| {
            write_atomically(&mark, format!("{what}\n").as_bytes(), MARK_MODE)
                .context("cannot note in .minnow that the database is filled")
        };
        note(BEGUN)?;
        let imported = match import_file(client, store, &self.file).await {
            Ok(imported) => imported,
            Err(error) => {
                let help = if may_have_run(&error) {
                    "what of it has run is not known; to fill the database anew, delete .minnow/sql"
                } else {
                    fs::remove_file(&mark).with_context(|| format!("cannot remove {}", mark.display()))?;
                    "nothing is noted: mend the seed, and the next `minnow dev --seed` runs it again from its beginning"
                };
                return Err(error.context(Failure::new(format!("{store} is not seeded")).help(help)));
            }
        };
        note(&now)?;
        let statements = match imported.statements {
            1 => "1 statement".to_owned(),
            statements => format!("{statements} statements"),
        };
        output::line(format_args!("{GREEN}seeded{GREEN:#} {store} with {statements} of {file}"))
    }

    /// Whether the database has no file.
    async fn is_gone(&self, client: &Client) -> anyhow::Result<bool> {
        match client.app_usage(&self.store.app).await {
            Ok(usage) => Ok(!usage
                .stores
                .iter()
                .any(|store| store.kind == StoreKind::Sql && store.name == self.store.store && store.bytes > 0)),
            Err(error) if error.status() == Some(reqwest::StatusCode::NOT_FOUND) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The file that says that the database was filled, and with what.
    fn mark(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!(".seeded-{}-{}", self.store.app, self.store.store))
    }
}

/// What is to be done about a database of which `mark` says something.
fn noted(mark: &Path) -> anyhow::Result<Plan> {
    match fs::read_to_string(mark) {
        Ok(noted) if noted.trim() == BEGUN => Ok(Plan::Unknown),
        Ok(seeded) => Ok(Plan::Skip(seeded.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Plan::Fill),
        Err(error) => Err(anyhow::Error::from(error).context(format!("cannot read {}", mark.display()))),
    }
}

/// Whether an import that failed may have left something that is not told of: the node has not said that it refused.
fn may_have_run(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(|error| !matches!(error, ApiError::Problem { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seed_that_was_broken_off_is_not_run_twice() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seed.sql");
        fs::write(&file, "INSERT INTO t VALUES (1);\n").unwrap();
        let store = StorePath { app: "shop".parse().unwrap(), store: "main".parse().unwrap() };
        let seed = Seed { file, store };
        let mark = seed.mark(dir.path());
        assert_eq!(noted(&mark).unwrap(), Plan::Fill);
        // Nobody answers there.
        let client = Client::new("http://127.0.0.1:1".parse().unwrap(), None).unwrap();
        seed.run(Plan::Fill, &client, dir.path()).await.unwrap_err();
        assert_eq!(noted(&mark).unwrap(), Plan::Unknown);
        seed.run(Plan::Unknown, &client, dir.path()).await.unwrap();
        fs::write(&mark, "sha256:1\n").unwrap();
        assert_eq!(noted(&mark).unwrap(), Plan::Skip("sha256:1".into()));
    }
}
