//! A restore: from a backup that was found sound to an app that serves.
//!
//! The order makes a crash harmless. What the versions consist of comes first; nobody sees it, and what no version needs in the end is
//! removed by the reconciler. Then code is compiled. Only then, with `replace`, an app of the name is deleted. The name is taken by a
//! deletion that destroys data, so that a crash from here on destroys what was put in place; the data is moved there; and one transaction
//! makes an app of the deletion, with all its rows.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use minnow_model::{
    AppName, BundleConfig, Deployment, Digest, Level, StoreKind, Tenant, VariableName, Version,
    bundle::{MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, oci_manifest, read_oci_manifest},
    grant::STORE_BYTES,
};
use minnow_runtime::LiveApp;
use minnow_store::{StoreError, VaultError, bucket::MAX_BLOB_BYTES, kv::KvBounds};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::unpack::{Sizes, Source, Stores, Unpacked, unpack};
use crate::{
    Control, ControlError,
    api_types::{LeftOut, Restored, RestoredApp, RestoredStore, UnreadableSecret},
    deploy::{missing_shares, wasm_of},
    environment::{lacks, open, place},
    publish::{self, blocking, read_blob},
    registry::{
        LiveRow, NewVersion,
        records::{Record, Restored as Rows, SealedText, already_there, read_line, write_line},
    },
    stores::DataFate,
};

/// Pieces of an upload that wait for the disk.
const PIECES: usize = 4;
/// How long nothing may come of an upload. Meanwhile what has come takes its place on the disk, and nobody else restores.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long whoever replaces an app waits for calls that use its data: longer than a function may compute, shorter than one may stream.
const REPLACE_PATIENCE: Duration = Duration::from_secs(60);
const REPLACE_LOOK: Duration = Duration::from_millis(50);
/// The largest file of a topic, in bytes: twice what a manifest may ask for, since pages of a database are not all full.
const TOPIC_FILE_BYTES: u64 = 2 * *STORE_BYTES.end() + (16 << 20);
/// The largest index of a bucket.
const INDEX_BYTES: u64 = 64 << 30;

/// What is to become of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreChoice {
    /// Only this app of it.
    pub app: Option<AppName>,
    /// Under this name; there has to be one app.
    pub rename: Option<AppName>,
    /// Deletes apps that have the name, and keeps their data aside.
    pub replace: bool,
}

/// A backup that is in `tmp/`, which goes with this.
struct Staged {
    dir: TempDir,
    unpacked: Unpacked,
}

/// One app that is ready to be made.
struct Ready {
    name: AppName,
    /// Where its stores are.
    from: PathBuf,
    stores: Stores,
    created_ms: u64,
    versions: PathBuf,
    records: PathBuf,
    live: Option<Deployment>,
    /// Of the versions that will be live.
    configs: Vec<BundleConfig>,
    version_count: u64,
    secret_count: u64,
    unreadable: Vec<UnreadableSecret>,
    /// What its volumes had and the backup has not.
    left_out: LeftOut,
}

impl Ready {
    /// The rows, read from the files in `tmp/`.
    fn rows(&self) -> Result<Rows<Lines<NewVersion>, Lines<Record>>, ControlError> {
        Ok(Rows {
            created_ms: self.created_ms,
            versions: lines_of::<NewVersion>(&self.versions)?,
            records: lines_of::<Record>(&self.records)?,
        })
    }
}

impl Control {
    /// Restores apps from a backup. All of it is read and checked first; what is wrong with it is told, and then nothing has changed.
    pub async fn restore<E: std::fmt::Display>(
        self: &Arc<Self>,
        tenant: &Tenant,
        choice: RestoreChoice,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Restored, ControlError> {
        let turn = Arc::clone(&self.backing_up).try_lock_owned().map_err(|_| {
            ControlError::Conflict(
                "another backup or restore is under way on this node; try again when it is done".into(),
            )
        })?;
        let staged = self.stage(choice.app.clone(), body).await?;
        let (control, tenant) = (Arc::clone(self), tenant.clone());
        // To the end also when the client goes away: a part of it would help nobody.
        Self::to_the_end(async move {
            let _turn = turn;
            control.restore_all(&tenant, choice, staged).await
        })
        .await
    }

    /// How large this node lets the parts of an app become.
    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            kv: KvBounds::default().store_bytes,
            sql: self.runtime.data().sql.limits().database_bytes,
            index: INDEX_BYTES,
            topic: TOPIC_FILE_BYTES,
            object: MAX_BLOB_BYTES,
            content: self.config.max_bundle_bytes.max(MAX_CONFIG_BYTES.max(MAX_MANIFEST_BYTES) as u64),
        }
    }

    /// Reads and checks what comes.
    async fn stage<E: std::fmt::Display>(
        &self,
        only: Option<AppName>,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Staged, ControlError> {
        let (pieces, source) = mpsc::channel(PIECES);
        let tmp = self.tmp_dir.clone();
        let sizes = self.sizes();
        let unpacking = blocking(move || {
            let dir = tempfile::Builder::new().prefix("restore-").tempdir_in(&tmp);
            let dir = dir.map_err(|error| StoreError::io(&tmp, error))?;
            let unpacked = unpack(Source::new(source), dir.path(), only.as_ref(), sizes)?;
            // All of it is on the disk before it is relied on.
            rustix::fs::syncfs(File::open(dir.path()).map_err(|error| StoreError::io(dir.path(), error))?)
                .map_err(|error| StoreError::io(dir.path(), error.into()))?;
            Ok(Staged { dir, unpacked })
        });
        let sending = async move {
            loop {
                let piece = match tokio::time::timeout(PATIENCE, body.next()).await {
                    Ok(None) => return,
                    Ok(Some(piece)) => piece.map_err(|error| io::Error::other(error.to_string())),
                    Err(_) => Err(io::Error::other("nothing came for a minute")),
                };
                let failed = piece.is_err();
                // An error: the reader has seen enough.
                if pieces.send(piece).await.is_err() || failed {
                    return;
                }
            }
        };
        tokio::join!(sending, unpacking).1
    }

    async fn restore_all(
        self: &Arc<Self>,
        tenant: &Tenant,
        choice: RestoreChoice,
        staged: Staged,
    ) -> Result<Restored, ControlError> {
        let Staged { dir, unpacked: Unpacked { head, apps, contents, mut left_out } } = staged;
        if choice.rename.is_some() && apps.len() != 1 {
            let there: Vec<&str> = apps.keys().map(AppName::as_str).collect();
            return Err(ControlError::invalid(format!(
                "the backup has several apps ({}), and only one can be restored under another name: name it with --app",
                there.join(", ")
            )));
        }
        let name = |app: &AppName| choice.rename.clone().unwrap_or_else(|| app.clone());
        for app in apps.keys().map(name) {
            if self.registry.fate(tenant, &app).await?.is_some() {
                return Err(ControlError::BeingDeleted(app));
            }
            if !choice.replace && self.registry.app(tenant, &app).await.is_ok() {
                return Err(already_there(&app));
            }
        }
        // From here to the last commit nothing that the versions rely on is removed.
        let _publishing = self.publishing.read().await;
        let mut ready = Vec::with_capacity(apps.len());
        for (app, stores) in apps {
            let (new, left_out) = (name(&app), left_out.remove(&app).unwrap_or_default());
            let app = self.make_ready(tenant, app, new, stores, dir.path(), &contents).await?;
            ready.push(Ready { left_out, ..app });
        }
        for app in &ready {
            let functions = app.configs.iter().flat_map(|config| &config.functions);
            self.compile_all(wasm_of(functions)).await?;
        }
        // What the registry will say of the rows, it says before an app is deleted for them.
        for app in ready.iter().filter(|_| choice.replace) {
            self.registry.try_restore(tenant, &app.name, app.rows()?, self.to_serve(&app.name)).await?;
        }
        let mut restored = Restored { made_ms: head.time_ms, minnow: head.minnow, apps: Vec::new() };
        for app in ready {
            let name = app.name.clone();
            match self.restore_app(tenant, app, choice.replace).await {
                Ok(app) => restored.apps.push(app),
                Err(error) if restored.apps.is_empty() => return Err(error),
                Err(error) => {
                    let done: Vec<&str> = restored.apps.iter().map(|app| app.app.as_str()).collect();
                    tracing::error!(%error, app = %name, "an app of a backup was not restored, others were");
                    return Err(ControlError::Conflict(format!(
                        "the app `{name}` was not restored: {error}; restored were {}",
                        done.join(", ")
                    )));
                }
            }
        }
        self.nudged.notify_one();
        for app in &mut restored.apps {
            app.missing_shares = self.missing_shares(tenant, &app.app).await;
        }
        let closed = blocking(move || Ok(dir.close().map_err(|error| StoreError::io(Path::new("tmp"), error))?)).await;
        if let Err(error) = closed {
            // The apps are there. The next start empties the folder.
            tracing::warn!(%error, "what a restore had in `tmp/` could not be removed");
        }
        Ok(restored)
    }

    /// What a restored app is granted of other apps and does not get, noted in its log, too.
    async fn missing_shares(&self, tenant: &Tenant, app: &AppName) -> Vec<String> {
        match self.registry.live(tenant, app).await {
            Ok(rows) => {
                let missing: Vec<String> = rows.iter().flat_map(missing_shares).collect();
                for what in &missing {
                    self.note(tenant, app, Level::Warn, self.config.clock.now_ms(), what.clone());
                }
                missing
            }
            // The app is there, and is told without.
            Err(error) => {
                tracing::warn!(%app, %error, "what a restored app lacks of other apps is not known");
                Vec::new()
            }
        }
    }

    /// Checks the rows of an app and what its versions consist of, and puts that among the node's blobs.
    async fn make_ready(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: AppName,
        name: AppName,
        stores: Stores,
        dir: &Path,
        contents: &std::collections::HashSet<Digest>,
    ) -> Result<Ready, ControlError> {
        let from = dir.join("apps").join(app.as_str());
        let (control, tenant, dir, contents) = (Arc::clone(self), tenant.clone(), dir.to_owned(), contents.clone());
        blocking(move || control.read_rows(&tenant, &app, name, stores, from, &dir, &contents)).await
    }

    /// [`Control::make_ready`]. Blocking.
    #[allow(clippy::too_many_arguments, reason = "one caller, which only brings it to a thread that may block")]
    fn read_rows(
        &self,
        tenant: &Tenant,
        app: &AppName,
        name: AppName,
        stores: Stores,
        from: PathBuf,
        dir: &Path,
        contents: &std::collections::HashSet<Digest>,
    ) -> Result<Ready, ControlError> {
        let damaged = |what: String| {
            ControlError::invalid(format!(
                "the backup is refused, and nothing was changed: the rows of `{app}`: {what}"
            ))
        };
        let lines_path = from.join("app.jsonl");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| ControlError::from(StoreError::io(&path, error))
        };
        let mut lines = BufReader::new(File::open(&lines_path).map_err(at(&lines_path))?);
        let (versions, records) = (from.join("versions.jsonl"), from.join("records.jsonl"));
        let mut versions_out = BufWriter::new(File::create_new(&versions).map_err(at(&versions))?);
        let mut records_out = BufWriter::new(File::create_new(&records).map_err(at(&records))?);
        let mut created_ms = None;
        let mut live: Option<Deployment> = None;
        // What became of the digests of manifests, under another name.
        let mut digests: HashMap<Digest, Digest> = HashMap::new();
        let mut known: BTreeSet<Version> = BTreeSet::new();
        let (mut secret_count, mut unreadable) = (0, Vec::new());
        while let Some(record) = read_line::<Record>(&mut lines).map_err(at(&lines_path))?.map_err(damaged)? {
            let record = match record {
                Record::App { created_ms: time } => {
                    if created_ms.replace(time).is_some() {
                        return Err(damaged("the app is there twice".into()));
                    }
                    continue;
                }
                Record::Version { version, digest, published_ms } => {
                    self.adopt(dir, contents, &digest, &damaged)?;
                    let manifest = read_blob(&self.blobs, &digest, MAX_MANIFEST_BYTES)?;
                    let bundle = read_oci_manifest(&manifest).map_err(|error| damaged(error.to_string()))?;
                    for part in bundle.layers.iter().map(|layer| &layer.digest).chain([&bundle.config.0]) {
                        self.adopt(dir, contents, part, &damaged)?;
                    }
                    let manifest = if name == *app { manifest } else { self.renamed(&manifest, &name)? };
                    let new =
                        publish::checked(&self.blobs, &self.config, tenant, &manifest, &name, &version, published_ms)?;
                    digests.insert(digest, new.digest);
                    known.insert(version);
                    write_line(&mut versions_out, &new).map_err(at(&versions))?;
                    continue;
                }
                Record::Deployment { revision, time_ms, cause, restores, shares, digests: of_shares } => {
                    live = Some(Deployment { app: name.clone(), revision, time_ms, cause, shares: shares.clone() });
                    let of_shares = of_shares.iter().map(|old| *digests.get(old).unwrap_or(old)).collect();
                    Record::Deployment { revision, time_ms, cause, restores, shares, digests: of_shares }
                }
                Record::Secret { name: secret, sealed, created_ms, changed_ms } => {
                    secret_count += 1;
                    let text = sealed.read().ok_or_else(|| damaged(format!("the secret {secret} is damaged")))?;
                    let sealed = match open(&self.vault, tenant, app, &secret, &text) {
                        // It is bound to the name of its app. And under the key of today also where that is the same: one that only backups
                        // have need of may be taken out of the key file when the backup is restored.
                        Ok(plain) => {
                            let place = place(tenant, &name, &secret);
                            SealedText::from(&self.vault.seal(&place, plain.as_bytes())?)
                        }
                        Err(error) => {
                            unreadable.push(self.unreadable(&secret, &error, name == *app));
                            if name != *app {
                                continue;
                            }
                            sealed
                        }
                    };
                    Record::Secret { name: secret, sealed, created_ms, changed_ms }
                }
                record @ (Record::Variable { .. } | Record::VariableChange { .. }) => record,
            };
            write_line(&mut records_out, &record).map_err(at(&records))?;
        }
        versions_out.flush().map_err(at(&versions))?;
        records_out.flush().map_err(at(&records))?;
        let created_ms = created_ms.ok_or_else(|| damaged("the app itself is missing".into()))?;
        let shares = live.as_ref().map(|live| live.shares.as_slice()).unwrap_or_default();
        if let Some(share) = shares.iter().find(|share| !known.contains(&share.version)) {
            return Err(damaged(format!("{} is live and was not backed up", share.version)));
        }
        let mut configs = Vec::new();
        for version in lines_of::<NewVersion>(&versions)? {
            let config = version?.config;
            if shares.iter().any(|share| share.version == config.version) {
                configs.push(config);
            }
        }
        let version_count = known.len() as u64;
        Ok(Ready {
            name,
            from,
            stores,
            created_ms,
            versions,
            records,
            live,
            configs,
            version_count,
            secret_count,
            unreadable,
            left_out: LeftOut::default(),
        })
    }

    fn unreadable(&self, secret: &VariableName, error: &VaultError, kept: bool) -> UnreadableSecret {
        let remedy = match (error, kept) {
            (VaultError::UnknownKey { key_id }, true) => format!(
                "it is sealed with the key {key_id}, which this node's key file does not hold: add that key to the file and start \
                 the node again, or set the secret again"
            ),
            (VaultError::UnknownKey { key_id }, false) => format!(
                "it is sealed with the key {key_id}, which this node's key file does not hold, and was left out, as it cannot be \
                 sealed for another name: set it again"
            ),
            (error, _) => format!("{error}: set it again"),
        };
        UnreadableSecret { name: secret.to_string(), detail: remedy }
    }

    /// Makes a blob of the backup one of the node's. Blocking.
    fn adopt(
        &self,
        dir: &Path,
        contents: &std::collections::HashSet<Digest>,
        digest: &Digest,
        damaged: &impl Fn(String) -> ControlError,
    ) -> Result<(), ControlError> {
        let path = self.blobs.path(digest);
        // Touched, so that it stays for as long as this takes.
        if self.blobs.touch(digest).map_err(|error| StoreError::io(&path, error))?.is_some() {
            return Ok(());
        }
        if !contents.contains(digest) {
            return Err(damaged(format!("{digest}, of which a version consists, was not backed up")));
        }
        Ok(self.blobs.adopt(digest, &dir.join("blobs/sha256").join(digest.hex()))?)
    }

    /// The manifest of a version as it is for an app of another name. Blocking.
    fn renamed(&self, manifest: &[u8], name: &AppName) -> Result<Vec<u8>, ControlError> {
        let invalid = |what: String| ControlError::invalid(format!("a version in the backup cannot be read: {what}"));
        let bundle = read_oci_manifest(manifest).map_err(|error| invalid(error.to_string()))?;
        let config = read_blob(&self.blobs, &bundle.config.0, MAX_CONFIG_BYTES)?;
        let mut config: BundleConfig = serde_json::from_slice(&config).map_err(|error| invalid(error.to_string()))?;
        config.app = name.clone();
        let config = serde_json::to_vec(&config).map_err(|error| invalid(error.to_string()))?;
        let written = self.blobs.put_bytes(&config)?;
        oci_manifest((written.digest, written.len), bundle.layers).map_err(|error| invalid(error.to_string()))
    }

    /// Makes the app.
    async fn restore_app(
        self: &Arc<Self>,
        tenant: &Tenant,
        ready: Ready,
        replace: bool,
    ) -> Result<RestoredApp, ControlError> {
        if !replace || self.registry.app(tenant, &ready.name).await.is_err() {
            return self.make(tenant, ready).await;
        }
        let name = ready.name.clone();
        self.make_way(tenant, &name).await?;
        self.make(tenant, ready).await.map_err(|error| {
            tracing::error!(app = %name, %error, "an app was deleted for a restore that failed then");
            ControlError::Conflict(format!(
                "the app `{name}` was deleted to make way for the backup, which could not be restored then: {error}. The data that it had is \
                 kept aside for a while, under `deleted/{tenant}/{name}.MS` in the node's data directory; restore the backup again, without \
                 --replace"
            ))
        })
    }

    /// [`Control::restore_app`] where there is no app of the name.
    async fn make(self: &Arc<Self>, tenant: &Tenant, ready: Ready) -> Result<RestoredApp, ControlError> {
        let name = ready.name.clone();
        let turn = self.turns.of(tenant, &name).await;
        self.registry.reserve(tenant, &name).await?;
        let restored = self.put_in_place(tenant, &ready).await;
        let restored = match restored {
            Ok(()) => self.bring_back(tenant, &ready).await,
            Err(error) => Err(error),
        };
        if restored.is_err()
            && let Err(error) = self.give_up(tenant, &name).await
        {
            // The name stays taken: the next start does it.
            tracing::error!(app = %name, %error, "what was put in place for a restore that failed is removed later");
            self.nudged.notify_one();
        }
        drop(turn);
        restored?;
        self.count().await;
        let stores = ready.stores.of_kind.into_iter();
        Ok(RestoredApp {
            app: name,
            versions: ready.version_count,
            deployment: ready.live,
            stores: stores.map(|((kind, name), bytes)| RestoredStore { kind, name, bytes }).collect(),
            secrets: ready.secret_count,
            unreadable_secrets: ready.unreadable,
            left_out: ready.left_out,
            // Known when all apps of the backup are there.
            missing_shares: Vec::new(),
        })
    }

    /// Deletes the app of the name, keeps its data aside, and waits until the name is free.
    async fn make_way(self: &Arc<Self>, tenant: &Tenant, name: &AppName) -> Result<(), ControlError> {
        let deadline = Instant::now() + REPLACE_PATIENCE;
        let mut gone = self.delete_app(tenant, name, Some(DataFate::Keep)).await?;
        while !gone && Instant::now() < deadline {
            tokio::time::sleep(REPLACE_LOOK).await;
            gone = self.finish_deletion(tenant, name).await?;
        }
        if gone {
            return Ok(());
        }
        Err(ControlError::Conflict(format!(
            "the app `{name}` was deleted to make way for the backup, but calls of its functions go on and use its data; restore again \
             when they have ended (its data is kept aside)"
        )))
    }

    /// Moves the stores to where they belong. The name is taken.
    async fn put_in_place(&self, tenant: &Tenant, ready: &Ready) -> Result<(), ControlError> {
        // What somebody put there by hand must not become the app's. Not where there is nothing: setting that aside removes its folder, which
        // may be that of an app which made way in the same millisecond.
        if self.has_stray_data(tenant, &ready.name).await? {
            self.remove_data(tenant, &ready.name, DataFate::Keep).await?;
        }
        let kinds: BTreeSet<StoreKind> = ready.stores.of_kind.keys().map(|(kind, _)| *kind).collect();
        let data = self.runtime.data();
        for kind in kinds {
            let from = ready.from.join(kind.as_str());
            match kind {
                StoreKind::Kv => data.kv.adopt_app(tenant, &ready.name, &from).await?,
                StoreKind::Sql => data.sql.adopt_app(tenant, &ready.name, &from).await?,
                StoreKind::Blob => data.buckets.adopt_app(tenant, &ready.name, &from).await?,
                StoreKind::Files => data.volumes.adopt_app(tenant, &ready.name, &from).await?,
                StoreKind::Topic => data.topics.adopt_app(tenant, &ready.name, &from).await?,
            }
        }
        Ok(())
    }

    /// Whether there is a folder for stores of an app that is not there.
    async fn has_stray_data(&self, tenant: &Tenant, name: &AppName) -> Result<bool, ControlError> {
        let (data, app) = (self.runtime.data().clone(), (tenant.clone(), name.clone()));
        blocking(move || {
            let all =
                [data.kv.apps()?, data.sql.apps()?, data.buckets.apps()?, data.volumes.apps()?, data.topics.apps()?];
            Ok(all.iter().flatten().any(|found| *found == app))
        })
        .await
    }

    /// Makes the app of its rows, and has it serve.
    async fn bring_back(self: &Arc<Self>, tenant: &Tenant, ready: &Ready) -> Result<(), ControlError> {
        let name = &ready.name;
        let changes = self.changes.lock().await;
        let (live, lacks) = self.registry.restore(tenant, name, ready.rows()?, self.to_serve(name)).await?;
        if let Some(deployment) = &ready.live {
            self.begin_tallies(tenant, deployment);
        }
        self.go_live(name, live);
        self.follow_shares(tenant, name).await;
        drop(changes);
        let now_ms = self.config.clock.now_ms();
        self.note(tenant, name, Level::Info, now_ms, "the app was restored from a backup".into());
        for lack in lacks {
            self.note(tenant, name, Level::Error, now_ms, lack);
        }
        Ok(())
    }

    /// What [`Registry::restore`](crate::registry::Registry::restore) has to make of the rows that are live: the app as it serves, and what
    /// it lacks.
    fn to_serve(
        &self,
        name: &AppName,
    ) -> impl FnOnce(Vec<LiveRow>) -> Result<Serving, ControlError> + Send + 'static + use<> {
        let (vault, build) = (Arc::clone(&self.vault), self.build(name));
        move |rows| {
            let lacks: Vec<String> = lacks(&vault, &rows).iter().map(ToString::to_string).collect();
            Ok((build(rows)?, lacks))
        }
    }

    /// Removes what was put in place, and frees the name.
    async fn give_up(&self, tenant: &Tenant, name: &AppName) -> Result<(), ControlError> {
        self.remove_data(tenant, name, DataFate::Purge).await?;
        self.registry.end_deletion(tenant, name).await
    }
}

/// The app as it serves, and what it lacks.
type Serving = (Option<Arc<LiveApp>>, Vec<String>);

/// The lines of a file of this module's own.
struct Lines<T> {
    path: PathBuf,
    lines: BufReader<File>,
    of: PhantomData<fn() -> T>,
}

fn lines_of<T>(path: &Path) -> Result<Lines<T>, ControlError> {
    let lines = BufReader::new(File::open(path).map_err(|error| StoreError::io(path, error))?);
    Ok(Lines { path: path.to_owned(), lines, of: PhantomData })
}

impl<T: serde::de::DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<T, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        match read_line(&mut self.lines) {
            Ok(Ok(line)) => line.map(Ok),
            Ok(Err(error)) => Some(Err(ControlError::Corrupt(error))),
            Err(error) => Some(Err(StoreError::io(&self.path, error).into())),
        }
    }
}
