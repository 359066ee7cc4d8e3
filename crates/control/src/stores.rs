//! The stores of apps, for whoever administers them: reading and writing them, what they take on the disk, and what becomes
//! of them when their app is deleted.
//!
//! The data of a deleted app is moved to `deleted/TENANT/APP.MS`, where MS is the time of its deletion in milliseconds since
//! 1970, and stays there for [`crate::ControlConfig::keep_deleted`]. A rename takes all stores of a kind away at once, when no
//! function can write into them any more. Until then the registry has a deletion in the place of the app, with what is to become
//! of the data, so that nobody gets the data of an app of the same name, and a crash changes nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;
use minnow_model::{AppName, StoreId, StoreKind, StoreName, Tenant};
use minnow_store::{
    StoreError,
    data_dir::sync_parent,
    kv::{Entry, MAX_PAGE, Page, Write},
    sql::{Access, Rows, Statement},
    volume::tree,
};

use crate::{
    Control, ControlError,
    api_types::{AppUsage, DeletedData, NodeUsage, StoreUsage},
    publish::blocking,
};

/// What becomes of the stores of an app that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFate {
    /// They stay aside for a while.
    Keep,
    Purge,
}

impl DataFate {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Purge => "purge",
        }
    }
}

impl FromStr for DataFate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "keep" => Ok(Self::Keep),
            "purge" => Ok(Self::Purge),
            _ => Err("neither `keep` nor `purge`"),
        }
    }
}

/// The time that stands for data that is to go at once.
const AT_ONCE: u64 = 0;

/// How often a key is to be deleted as it was read, before it is deleted as it is.
const DELETE_TRIES: usize = 3;

/// Pieces of a dump, of 64 KiB, that wait for the client. It is made no faster than it is read.
const DUMP_PIECES: usize = 4;
/// How long a client may leave a dump unread. Meanwhile the log of the database grows with each write.
const DUMP_PATIENCE: Duration = Duration::from_secs(30);

impl Control {
    /// The store, if the app has it: a live version declares it, or there is data in it.
    pub async fn store(
        &self,
        tenant: &Tenant,
        app: &AppName,
        kind: StoreKind,
        name: &StoreName,
    ) -> Result<StoreId, ControlError> {
        let id = || StoreId { tenant: tenant.clone(), app: app.clone(), name: name.clone() };
        if self.registry.declares(tenant, app, kind, name).await? {
            return Ok(id());
        }
        let stores = self.app_usage(tenant, app).await?.stores;
        let of_kind = || stores.iter().filter(|store| store.kind == kind).map(|store| &store.name);
        if of_kind().any(|found| found == name) {
            return Ok(id());
        }
        let there: Vec<_> = of_kind().map(ToString::to_string).collect();
        let there = if there.is_empty() { None } else { Some(there.join(", ")) };
        Err(ControlError::NoStore { app: app.clone(), kind, name: name.clone(), there })
    }

    // Key-value stores.

    pub async fn kv_get(&self, store: &StoreId, key: &str) -> Result<Entry, ControlError> {
        let found = self.runtime.data().kv.fetch(store, vec![key.to_owned()]).await?;
        found.into_iter().next().flatten().ok_or_else(|| ControlError::NoKey(key.to_owned()))
    }

    /// `expires_ms` is in milliseconds since 1970.
    pub async fn kv_set(
        &self,
        store: &StoreId,
        key: String,
        value: Bytes,
        metadata: Option<String>,
        expires_ms: Option<u64>,
    ) -> Result<(), ControlError> {
        Ok(self.runtime.data().kv.write(store, vec![Write::Set { key, value, metadata, expires_ms }]).await?)
    }

    /// False where the key was not there: of several that delete it at once one is told that it was.
    pub async fn kv_delete(&self, store: &StoreId, key: String) -> Result<bool, ControlError> {
        let kv = &self.runtime.data().kv;
        for _ in 0..DELETE_TRIES {
            let Some(entry) = kv.fetch(store, vec![key.clone()]).await?.into_iter().next().flatten() else {
                return Ok(false);
            };
            if kv.compare_and_swap(store, Some(entry.version), Write::Delete { key: key.clone() }).await? {
                return Ok(true);
            }
        }
        // It was there all the time: somebody kept writing it.
        kv.write(store, vec![Write::Delete { key }]).await?;
        Ok(true)
    }

    pub async fn kv_list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Page, ControlError> {
        Ok(self.runtime.data().kv.fetch_page(store, prefix, after, limit.unwrap_or(MAX_PAGE)).await?)
    }

    // SQL stores.

    pub async fn sql_run(&self, store: &StoreId, access: Access, statement: Statement) -> Result<Rows, ControlError> {
        Ok(self.runtime.data().sql.run(store, access, statement).await?)
    }

    /// Runs several statements in one transaction, and answers how many they were.
    pub async fn sql_script(&self, store: &StoreId, sql: String) -> Result<u64, ControlError> {
        Ok(self.runtime.data().sql.script(store, Access::ReadWrite, sql).await?)
    }

    /// The database as SQL text, as it is at this moment, in pieces. The last one is an error when it is not whole.
    pub fn sql_dump(&self, store: StoreId, with_schema: bool) -> tokio::sync::mpsc::Receiver<io::Result<Bytes>> {
        let (pieces, dump) = tokio::sync::mpsc::channel(DUMP_PIECES);
        let sql = self.runtime.data().sql.clone();
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            let mut emit = |piece| {
                let sent = runtime.block_on(tokio::time::timeout(DUMP_PATIENCE, pieces.send(Ok(piece))));
                matches!(sent, Ok(Ok(())))
            };
            let dumped = sql.dump(&store, with_schema, &mut emit);
            if let Err(error) = dumped {
                tracing::error!(app = %store.app, store = %store.name, %error, "a database could not be exported");
                // There may be nobody to tell any more.
                let _ = pieces.try_send(Err(io::Error::other("the database could not be exported")));
            }
        });
        dump
    }

    // What stores take.

    /// The stores of an app with the bytes that they take, by kind and name.
    pub async fn app_usage(&self, tenant: &Tenant, app: &AppName) -> Result<AppUsage, ControlError> {
        self.registry.app(tenant, app).await?;
        let mut stores = self.stores_on_disk(tenant, app).await?;
        for row in self.registry.live(tenant, app).await? {
            let of_kind = |kind| row.config.stores(kind).into_iter().map(move |name| (kind, name.clone()));
            for (kind, name) in StoreKind::ALL.into_iter().flat_map(of_kind) {
                match stores.iter_mut().find(|store| store.kind == kind && store.name == name) {
                    Some(store) => store.declared = true,
                    None => stores.push(StoreUsage { kind, name, bytes: 0, declared: true }),
                }
            }
        }
        stores.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
        Ok(AppUsage { app: app.clone(), bytes: stores.iter().map(|store| store.bytes).sum(), stores })
    }

    async fn stores_on_disk(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<StoreUsage>, ControlError> {
        let data = self.runtime.data().clone();
        let (tenant, app) = (tenant.clone(), app.clone());
        blocking(move || {
            let mut stores = Vec::new();
            for (kind, found) in [
                (StoreKind::Kv, data.kv.list_stores(&tenant, &app)?),
                (StoreKind::Sql, data.sql.list_stores(&tenant, &app)?),
                (StoreKind::Blob, data.buckets.list_stores(&tenant, &app)?),
                (StoreKind::Files, data.volumes.list_stores(&tenant, &app)?),
                (StoreKind::Topic, data.topics.list_stores(&tenant, &app)?),
            ] {
                let usage = |(name, bytes)| StoreUsage { kind, name, bytes, declared: false };
                stores.extend(found.into_iter().map(usage));
            }
            Ok(stores)
        })
        .await
    }

    /// The same for every app of the tenant, and what is kept of deleted ones.
    pub async fn usage(&self, tenant: &Tenant) -> Result<NodeUsage, ControlError> {
        let mut apps = Vec::new();
        for row in self.registry.apps(tenant).await? {
            match self.app_usage(tenant, &row.app).await {
                Ok(usage) => apps.push(usage),
                // Deleted meanwhile.
                Err(ControlError::NoApp(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (dir, tenant, keep_ms) = (self.deleted_dir.clone(), tenant.clone(), self.keep_ms());
        let deleted = blocking(move || {
            let mut shown = Vec::new();
            for Deleted { app, time_ms: deleted_ms, path, .. } in
                deleted(&dir)?.into_iter().filter(|found| found.tenant == tenant)
            {
                // What was brought back by hand leaves empty folders, which go when their time is over.
                if !is_empty(&path)? {
                    let purged_ms = deleted_ms.saturating_add(keep_ms);
                    shown.push(DeletedData { app, deleted_ms, purged_ms, bytes: size_of(&path)? });
                }
            }
            Ok(shown)
        })
        .await?;
        Ok(NodeUsage { apps, deleted, kept_ms: keep_ms })
    }

    fn keep_ms(&self) -> u64 {
        u64::try_from(self.config.keep_deleted.as_millis()).unwrap_or(u64::MAX)
    }

    // Deleting.

    /// What an app that is to be deleted has of data. Refuses where nobody has said what becomes of it.
    pub(crate) async fn require_fate(
        &self,
        tenant: &Tenant,
        app: &AppName,
        fate: Option<DataFate>,
    ) -> Result<(), ControlError> {
        if fate.is_some() {
            return Ok(());
        }
        let (data, place) = (self.runtime.data().clone(), (tenant.clone(), app.clone()));
        let stores: Vec<String> = blocking(move || {
            let (tenant, app) = &place;
            let mut stores = Vec::new();
            for (kind, found) in [
                (StoreKind::Kv, data.kv.list_stores(tenant, app)?),
                (StoreKind::Sql, data.sql.list_stores(tenant, app)?),
                (StoreKind::Blob, data.buckets.list_stores(tenant, app)?),
                (StoreKind::Topic, data.topics.list_stores(tenant, app)?),
            ] {
                stores.extend(found.iter().map(|(name, _)| format!("{kind} {name}")));
            }
            // Their files need not be counted.
            let volumes = data.volumes.names(tenant, app)?;
            stores.extend(volumes.iter().map(|name| format!("{} {name}", StoreKind::Files)));
            Ok(stores)
        })
        .await?;
        if stores.is_empty() {
            return Ok(());
        }
        let kept = humantime_of(self.config.keep_deleted);
        Err(ControlError::Conflict(format!(
            "the app `{app}` has data ({}); delete it with `data=keep`, which keeps the data aside for {kept}, or with \
             `data=purge`, which destroys it now",
            stores.join(", ")
        )))
    }

    /// Brings the deletion of an app to its end: its data goes where it is to go, and its name is free. False while functions that
    /// may write into its stores are running: before they have ended nothing is taken away, so that nothing comes back.
    pub(crate) async fn finish_deletion(&self, tenant: &Tenant, app: &AppName) -> Result<bool, ControlError> {
        // One at a time: after the other's end the name may be that of a new app.
        let _turn = self.turns.of(tenant, app).await;
        let Some(fate) = self.registry.fate(tenant, app).await? else { return Ok(true) };
        if self.builder.is_used(tenant, app) {
            return Ok(false);
        }
        self.logs.remove_app(tenant, app).await?;
        self.remove_data(tenant, app, fate).await?;
        self.registry.end_deletion(tenant, app).await?;
        Ok(true)
    }

    /// [`Control::finish_deletion`] for every app that is being deleted. Answers how many are at their end, and how many not.
    pub(crate) async fn finish_deletions(&self) -> Result<(usize, usize), ControlError> {
        let (mut finished, mut left) = (0, 0);
        for (tenant, app) in self.registry.deletions().await? {
            match self.finish_deletion(&tenant, &app).await {
                Ok(true) => finished += 1,
                Ok(false) => left += 1,
                // One that is in use is not in the way of others.
                Err(error) => {
                    tracing::warn!(%app, %error, "the stores of a deleted app are taken away later");
                    left += 1;
                }
            }
        }
        Ok((finished, left))
    }

    /// Takes the stores of an app away that is not in the registry any more.
    pub(crate) async fn remove_data(&self, tenant: &Tenant, app: &AppName, fate: DataFate) -> Result<(), ControlError> {
        let time_ms = match fate {
            DataFate::Keep if !self.config.keep_deleted.is_zero() => self.config.clock.now_ms(),
            DataFate::Keep | DataFate::Purge => AT_ONCE,
        };
        let place = self.deleted_dir.join(tenant.as_str()).join(format!("{app}.{time_ms}"));
        let made = place.clone();
        blocking(move || Ok(make_place(&made, time_ms)?)).await?;
        let data = self.runtime.data();
        let topic = data.topics.move_app(tenant, app, &place.join("topic")).await?;
        let kv = data.kv.move_app(tenant, app, &place.join("kv")).await?;
        let sql = data.sql.move_app(tenant, app, &place.join("sql")).await?;
        let blob = data.buckets.move_app(tenant, app, &place.join("blob")).await?;
        let files = data.volumes.move_app(tenant, app, &place.join("files")).await?;
        if time_ms == AT_ONCE || !(kv || sql || blob || files || topic) {
            blocking(move || Ok(remove(&place)?)).await?;
        }
        Ok(())
    }

    /// Takes away the stores of apps of which the registry knows nothing, not even their deletion: a copy of the data directory
    /// was put together by hand, or a write through the API crossed the deletion. They are kept aside. Publishes wait meanwhile, so
    /// that no app of the same name comes about. Answers for how many apps it was.
    pub(crate) async fn remove_stray_data(&self) -> Result<usize, ControlError> {
        let data = self.runtime.data();
        let mut found = data.kv.apps()?;
        found.extend(data.sql.apps()?);
        found.extend(data.buckets.apps()?);
        found.extend(data.volumes.apps()?);
        found.extend(data.topics.apps()?);
        found.sort();
        found.dedup();
        if found.is_empty() {
            return Ok(0);
        }
        let mut known = self.registry.app_names().await?;
        known.extend(self.registry.deletions().await?);
        let mut removed = 0;
        for (tenant, app) in found.into_iter().filter(|found| !known.contains(found)) {
            match self.remove_data(&tenant, &app, DataFate::Keep).await {
                Ok(()) => removed += 1,
                // One that is in use is not in the way of others.
                Err(error) => tracing::warn!(%app, %error, "the stores of a deleted app are taken away later"),
            }
        }
        Ok(removed)
    }

    /// Destroys the data of deleted apps that was kept for long enough. Answers of how many.
    pub(crate) async fn purge_deleted(&self) -> Result<usize, ControlError> {
        let (dir, now_ms, keep_ms) = (self.deleted_dir.clone(), self.config.clock.now_ms(), self.keep_ms());
        blocking(move || {
            let mut purged = 0;
            for found in deleted(&dir)?.into_iter().filter(|found| found.time_ms.saturating_add(keep_ms) <= now_ms) {
                remove(&found.path)?;
                purged += 1;
            }
            Ok(purged)
        })
        .await
    }
}

/// The data of a deleted app.
struct Deleted {
    tenant: Tenant,
    app: AppName,
    time_ms: u64,
    path: PathBuf,
}

/// All that is kept of deleted apps, the oldest first. Blocking.
fn deleted(dir: &Path) -> Result<Vec<Deleted>, StoreError> {
    let mut all = Vec::new();
    for tenant in entries(dir)? {
        for path in entries(&tenant)? {
            let read = || {
                let (app, time_ms) = name_of(&path)?.rsplit_once('.')?;
                let tenant = name_of(&tenant)?.parse().ok()?;
                Some((tenant, app.parse().ok()?, time_ms.parse().ok()?))
            };
            let Some((tenant, app, time_ms)) = read() else { continue };
            all.push(Deleted { tenant, app, time_ms, path });
        }
    }
    all.sort_by_key(|found| found.time_ms);
    Ok(all)
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// What is in a folder; nothing where it is none, or not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(|error| StoreError::io(dir, error))?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(StoreError::io(dir, error)),
    }
}

/// The bytes of an app's data: what volumes count for themselves, and the files of the other stores.
fn size_of(place: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for of_kind in entries(place)? {
        bytes += if name_of(&of_kind) == Some(StoreKind::Files.as_str()) {
            // As deep as functions like, which a path cannot always name.
            tree::count(&of_kind).map_err(|error| StoreError::io(&of_kind, error))?.bytes
        } else {
            size_of_files(&of_kind)?
        };
    }
    Ok(bytes)
}

/// The bytes of the files in a folder and in its folders, which are few.
fn size_of_files(folder: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for path in entries(folder)? {
        bytes += match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => size_of_files(&path)?,
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(StoreError::io(&path, error)),
        };
    }
    Ok(bytes)
}

/// Whether all that is left are the empty folders of the kinds: somebody brought the data back by hand.
fn is_empty(place: &Path) -> Result<bool, StoreError> {
    for of_kind in entries(place)? {
        if !entries(&of_kind)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the folder for an app's data. What a crash has left of one that was to go at once goes now.
fn make_place(place: &Path, time_ms: u64) -> Result<(), StoreError> {
    if time_ms == AT_ONCE {
        remove(place)?;
    }
    let at = |error| StoreError::io(place, error);
    fs::create_dir_all(place).map_err(at)?;
    // Durable from the root of the data directory down, before anything is moved into it.
    for made in [place, place.parent().unwrap_or(place), place.parent().and_then(Path::parent).unwrap_or(place)] {
        sync_parent(made).map_err(at)?;
    }
    Ok(())
}

fn remove(place: &Path) -> Result<(), StoreError> {
    tree::remove(place).map_err(|error| StoreError::io(place, error))
}

/// A duration as people write it: `7days`.
fn humantime_of(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 86_400 && seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 3600 && seconds % 3600 == 0 => format!("{} hours", seconds / 3600),
        seconds => format!("{seconds} seconds"),
    }
}
