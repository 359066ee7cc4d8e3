//! One moment of an app: all writes of its stores are held for some milliseconds, and a snapshot of each is begun; then each is copied.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use minnow_model::{AppName, Digest, StoreId, StoreKind, StoreName, Tenant};
use minnow_store::{Hold, Snapshot, SqlError, StoreError, bucket::KeptFiles, data_dir::create_private};
use tempfile::TempDir;

use super::{format::has_room, unpack::Sizes};
use crate::{
    Control, ControlError,
    publish::blocking,
    registry::records::{self, Record, write_line},
};

/// How long the writes of some stores may wait until those of the others are held, too: less than a write of a database waits for its
/// turn (5 s), so that none fails for it.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried. A transaction of a function keeps its store for up to 10 s.
const HOLD_TRIES: usize = 10;

/// An app as it was at one moment, in a folder that goes with this.
pub(super) struct Copied {
    pub app: AppName,
    /// Holds `app.jsonl` and a folder for each kind of store.
    pub dir: TempDir,
    /// When the app came about, in milliseconds since the Unix epoch: another one of its name has another time.
    pub created_ms: u64,
    /// Those that are in the folder: all but volumes.
    pub stores: Vec<(StoreKind, StoreName)>,
    /// What the versions consist of.
    pub content: Vec<Digest>,
}

/// The snapshots of one moment.
struct Moment {
    registry: Snapshot,
    stores: Vec<Begun>,
}

/// The snapshot of one store.
struct Begun {
    kind: StoreKind,
    name: StoreName,
    snapshot: Snapshot,
    /// Of a bucket.
    files: Option<KeptFiles>,
}

impl Begun {
    fn crowds_log(&self, sizes: Sizes) -> bool {
        let database_bytes = match self.kind {
            StoreKind::Kv => sizes.kv,
            StoreKind::Sql => sizes.sql,
            StoreKind::Blob => sizes.index,
            StoreKind::Topic => sizes.topic,
            StoreKind::Files => return false,
        };
        self.snapshot.crowds_log(database_bytes)
    }
}

impl Control {
    /// Copies what the app has in databases, as it is at one moment. `wanted` may become false meanwhile: nobody waits for it any more.
    pub(super) async fn copy_app(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        wanted: Arc<AtomicBool>,
    ) -> Result<Copied, ControlError> {
        let moment = {
            // No migration has run of which the registry does not know the deployment, and no store is on its way out.
            let _turn = self.turns.of(tenant, app).await;
            self.registry.app(tenant, app).await?;
            self.moment(tenant, app).await?
        };
        let (tenant, app, tmp, sizes) = (tenant.clone(), app.clone(), self.tmp_dir.clone(), self.sizes());
        blocking(move || {
            let dir = tempfile::Builder::new().prefix("backup-").tempdir_in(&tmp);
            let dir = dir.map_err(|error| StoreError::io(&tmp, error))?;
            copy(moment, &tenant, app, dir, sizes, &wanted)
        })
        .await
    }

    async fn moment(self: &Arc<Self>, tenant: &Tenant, app: &AppName) -> Result<Moment, ControlError> {
        let data = self.runtime.data();
        let mut in_the_way = None;
        for _ in 0..HOLD_TRIES {
            let listed = self.stores_listed(tenant, app).await?;
            let mut kept = Vec::with_capacity(listed.len());
            for (kind, name) in &listed {
                kept.push(match kind {
                    StoreKind::Blob => {
                        let kept = data.buckets.keep_files(&id(tenant, app, name)).await;
                        kept.map_err(|error| named(app, error.into()))?
                    }
                    _ => None,
                });
            }
            match tokio::time::timeout(HOLD_PATIENCE, self.hold(tenant, app, &listed)).await {
                Ok(Ok(holds)) => {
                    if let Some(moment) = self.begin(tenant, app, listed, kept, holds).await? {
                        return Ok(moment);
                    }
                }
                Ok(Err(ControlError::Sql(SqlError::Busy))) | Err(_) => in_the_way = Some("a transaction"),
                Ok(Err(error)) => return Err(named(app, error)),
            }
        }
        let in_the_way = in_the_way.unwrap_or("the making of new stores");
        Err(ControlError::Conflict(format!(
            "{in_the_way} of the app `{app}` was in the way of its backup all the time; try again when it is less busy"
        )))
    }

    /// The stores that are to be copied, in a fixed order.
    async fn stores_listed(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreKind, StoreName)>, ControlError> {
        let (data, tenant, app) = (self.runtime.data().clone(), tenant.clone(), app.clone());
        blocking(move || {
            let kinds = [
                (StoreKind::Kv, data.kv.list_stores(&tenant, &app)?),
                (StoreKind::Sql, data.sql.list_stores(&tenant, &app)?),
                (StoreKind::Blob, data.buckets.list_stores(&tenant, &app)?),
                (StoreKind::Topic, data.topics.list_stores(&tenant, &app)?),
            ];
            // Each kind is sorted by name.
            let listed =
                kinds.into_iter().flat_map(|(kind, found)| found.into_iter().map(move |found| (kind, found.0)));
            Ok(listed.collect())
        })
        .await
    }

    /// Holds the writes of all these stores. Databases first, and all at once: of those a transaction may be under way.
    async fn hold(
        &self,
        tenant: &Tenant,
        app: &AppName,
        stores: &[(StoreKind, StoreName)],
    ) -> Result<Vec<Option<Hold>>, ControlError> {
        let data = self.runtime.data();
        let of_kind = |kind| stores.iter().filter(move |store| store.0 == kind).map(|store| id(tenant, app, &store.1));
        let sql = of_kind(StoreKind::Sql).map(|id| async move { data.sql.hold(&id).await });
        let mut holds: Vec<(StoreKind, StoreName, Option<Hold>)> = Vec::new();
        let sql = futures::future::try_join_all(sql).await?;
        let names = |kind| stores.iter().filter(move |store| store.0 == kind).map(|store| store.1.clone());
        holds.extend(names(StoreKind::Sql).zip(sql).map(|(name, hold)| (StoreKind::Sql, name, hold)));
        for name in names(StoreKind::Kv) {
            let hold = data.kv.hold(&id(tenant, app, &name)).await?;
            holds.push((StoreKind::Kv, name, hold));
        }
        for name in names(StoreKind::Blob) {
            let hold = data.buckets.hold(&id(tenant, app, &name)).await?;
            holds.push((StoreKind::Blob, name, hold));
        }
        for name in names(StoreKind::Topic) {
            let hold = data.topics.hold(&id(tenant, app, &name)).await?;
            holds.push((StoreKind::Topic, name, hold));
        }
        holds.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        Ok(holds.into_iter().map(|(_, _, hold)| hold).collect())
    }

    /// Begins the snapshots while all is held. `None` when a store came about that is not held.
    async fn begin(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        listed: Vec<(StoreKind, StoreName)>,
        kept: Vec<Option<KeptFiles>>,
        holds: Vec<Option<Hold>>,
    ) -> Result<Option<Moment>, ControlError> {
        if self.stores_listed(tenant, app).await? != listed || holds.iter().any(Option::is_none) {
            return Ok(None);
        }
        let control = Arc::clone(self);
        blocking(move || {
            let registry = control.registry.snapshot()?;
            let mut stores = Vec::with_capacity(listed.len());
            for (((kind, name), files), hold) in listed.into_iter().zip(kept).zip(holds.iter().flatten()) {
                stores.push(Begun { kind, name, snapshot: hold.snapshot()?, files });
            }
            drop(holds);
            Ok(Some(Moment { registry, stores }))
        })
        .await
    }
}

/// Says of which app a backup has more stores open than there may be.
fn named(app: &AppName, error: ControlError) -> ControlError {
    match error {
        ControlError::Store(StoreError::TooManyOpen { max }) => ControlError::Conflict(format!(
            "a backup of `{app}` has all its stores open for a moment, and with those that are in use they are more than {max} of a kind; \
             try again when the node is less busy"
        )),
        error => error,
    }
}

fn id(tenant: &Tenant, app: &AppName, name: &StoreName) -> StoreId {
    StoreId { tenant: tenant.clone(), app: app.clone(), name: name.clone() }
}

/// Copies the snapshots, giving up each when it is copied. Blocking.
fn copy(
    moment: Moment,
    tenant: &Tenant,
    app: AppName,
    dir: TempDir,
    sizes: Sizes,
    wanted: &AtomicBool,
) -> Result<Copied, ControlError> {
    let Moment { registry, mut stores } = moment;
    // First what a snapshot holds up most while it is there. All apps write into the registry, and its rows are few. Files of buckets that
    // were deleted or replaced take room until they are linked. The log of a database in which functions write without end has a bound. The
    // bound of a key-value store's log is far away.
    let path = dir.path().join("app.jsonl");
    let at = |error| StoreError::io(&path, error);
    let mut lines = BufWriter::new(File::create_new(&path).map_err(at)?);
    let mut created = None;
    let content = records::export(registry.connection(), tenant, &app, |record| {
        if let Record::App { created_ms } = record {
            created = Some(created_ms);
        }
        Ok(write_line(&mut lines, &record).map_err(at)?)
    })?;
    lines.flush().map_err(at)?;
    let created_ms = created.ok_or_else(|| ControlError::NoApp(app.clone()))?;
    drop(registry);
    for Begun { kind, name, snapshot, files } in &mut stores {
        let Some(files) = files.take() else { continue };
        let path = place_for(dir.path(), *kind, name)?;
        // Links: they take no room, and stay when the blobs are replaced or deleted.
        files.link_to(snapshot, &path, || wanted.load(Ordering::Relaxed))?;
    }
    // Taken from the end.
    stores.sort_by_key(|begun| std::cmp::Reverse(copy_rank(begun.kind)));
    let mut copied = Vec::with_capacity(stores.len());
    while let Some(begun) = stores.pop() {
        let path = place_for(dir.path(), begun.kind, &begun.name)?;
        let mut crowded = None;
        let result = copy_store(&begun.snapshot, &path, || {
            // Those that wait for their turn hold their logs up, too.
            crowded = std::iter::once(&begun).chain(&stores).find(|begun| begun.crowds_log(sizes));
            crowded.is_none() && wanted.load(Ordering::Relaxed)
        });
        if let Some(Begun { kind, name, .. }) = crowded {
            return Err(ControlError::Conflict(format!(
                "the app `{app}` writes so much into its {} {name} that its writes would have failed soon for the backup, which was \
                 given up; try again when the app writes less",
                kind.noun()
            )));
        }
        result?;
        copied.push((begun.kind, begun.name));
    }
    Ok(Copied { app, dir, created_ms, stores: copied, content })
}

/// Which kinds of stores are copied first, by number.
fn copy_rank(kind: StoreKind) -> u8 {
    match kind {
        StoreKind::Sql => 0,
        StoreKind::Blob => 1,
        StoreKind::Topic => 2,
        StoreKind::Kv | StoreKind::Files => 3,
    }
}

/// [`store_path`], with the folder made.
fn place_for(dir: &Path, kind: StoreKind, name: &StoreName) -> Result<PathBuf, StoreError> {
    let path = store_path(dir, kind, name);
    let folder = path.parent().unwrap_or(&path);
    create_private(folder).map_err(|error| StoreError::io(folder, error))?;
    Ok(path)
}

/// Where the copy of a store is, or would be.
pub(super) fn store_path(dir: &Path, kind: StoreKind, name: &StoreName) -> PathBuf {
    dir.join(kind.as_str()).join(format!("{name}.db"))
}

fn copy_store(snapshot: &Snapshot, to: &Path, mut go_on: impl FnMut() -> bool) -> Result<(), ControlError> {
    let mut full = false;
    let copied = snapshot.copy_to(to, || {
        // What cannot be told is no reason to stop: a disk that is full says so itself.
        full = !has_room(to.parent().unwrap_or(to), 0).unwrap_or(true);
        !full && go_on()
    });
    match copied {
        Err(StoreError::Stopped) if full => Err(StoreError::Full.into()),
        copied => Ok(copied.map(drop)?),
    }
}
