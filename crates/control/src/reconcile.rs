//! The reconciler: brings the data directory to what the registry says. It takes no input, does nothing twice, and may be
//! killed at any line.
//!
//! It compiles live code that has no compiled form for this engine (after an upgrade, or where that was damaged), and it
//! removes blobs and compiled code that no published version needs (after a delete, or an upload that nothing came of), and
//! the logs of apps that are gone, and their stores. It brings deletions to their end that had to wait for calls.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use minnow_model::{AppName, Tenant};

use crate::{Control, ControlError};

/// How often it runs without being nudged.
const PERIOD: Duration = Duration::from_secs(10 * 60);
/// How long content that no version needs stays: its publish may be under way. An hour is a slow upload of a large bundle.
const KEEP_UNNEEDED: Duration = Duration::from_secs(60 * 60);
/// Removals in one pass, so that publishes, which wait for it, never wait long. The next pass follows at once.
const REMOVALS: usize = 1000;

/// When to look again after a publish was in the way.
const RETRY: Duration = Duration::from_secs(30);
/// When to look again after the data of a deleted app was in use. Whoever wants its name is waiting.
const DELETION_RETRY: Duration = Duration::from_secs(5);
/// How long to wait after a nudge, so that deleting many versions in a row looks at the blobs once.
const SETTLE: Duration = Duration::from_secs(1);

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    pub compiled: usize,
    /// Live code that could not be compiled; it is tried again in the next pass.
    pub failed: usize,
    pub blobs_removed: usize,
    pub code_removed: usize,
    pub logs_removed: usize,
    /// Apps whose deletion is at its end.
    pub deletions_finished: usize,
    /// Apps whose data is still in use after their deletion.
    pub deletions_left: usize,
    /// Apps that are gone and had stores, which are kept aside now.
    pub stores_set_aside: usize,
    /// Apps whose stores were kept for long enough.
    pub stores_purged: usize,
    /// Whether removing stopped at its bound and should go on.
    pub more: bool,
    /// Whether removing was left out, because a publish is under way.
    pub postponed: bool,
}

impl Control {
    /// Runs the reconciler now, after each nudge or loss of compiled code, and every ten minutes, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            let next = match self.reconcile().await {
                Ok(pass) => {
                    let Pass { postponed, deletions_left, .. } = pass;
                    if pass != (Pass { postponed, deletions_left, ..Pass::default() }) {
                        tracing::info!(?pass, "the data directory was tidied");
                    }
                    match pass {
                        Pass { more: true, .. } => SETTLE,
                        Pass { postponed: true, .. } => RETRY,
                        Pass { deletions_left: 1.., .. } => DELETION_RETRY,
                        _ => PERIOD,
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the data directory could not be tidied; trying again later");
                    PERIOD
                }
            };
            tokio::select! {
                () = self.nudged.notified() => tokio::time::sleep(SETTLE).await,
                () = self.runtime.code_discarded() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// One pass.
    pub async fn reconcile(&self) -> Result<Pass, ControlError> {
        let mut pass = Pass::default();
        self.compile_live(&mut pass).await;
        (pass.deletions_finished, pass.deletions_left) = self.finish_deletions().await?;
        pass.stores_purged = self.purge_deleted().await?;
        self.remove_unneeded(&mut pass).await?;
        Ok(pass)
    }

    async fn compile_live(&self, pass: &mut Pass) {
        for (digest, function) in self.live_code_to_compile() {
            match self.compile(digest).await {
                Ok(_) => pass.compiled += 1,
                Err(error) => {
                    pass.failed += 1;
                    tracing::error!(%function, %error, "live code does not compile; the function answers `load_failed`");
                }
            }
        }
        // Code that fails was tried and is in the log: one broken function must not keep the whole node from serving.
        self.uncompiled.store(0, Ordering::Release);
    }

    async fn remove_unneeded(&self, pass: &mut Pass) -> Result<(), ControlError> {
        let cutoff = self.config.clock.now() - KEEP_UNNEEDED;
        let cutoff_ms = self.config.clock.now_ms().saturating_sub(KEEP_UNNEEDED.as_millis() as u64);
        // A publish relies on blobs and code that no version needs yet.
        let Ok(_alone) = self.publishing.try_write() else {
            pass.postponed = true;
            return Ok(());
        };
        let needed = self.registry.needed_blobs().await?;
        let blobs = Arc::clone(&self.blobs);
        let removed = tokio::task::spawn_blocking(move || -> Result<usize, minnow_store::StoreError> {
            let at = |error| minnow_store::StoreError::Io { path: "blobs".into(), source: error };
            let mut removed = 0;
            for blob in blobs.list().map_err(at)? {
                let blob = blob.map_err(at)?;
                if removed < REMOVALS
                    && blob.touched <= cutoff
                    && !needed.contains(&blob.digest)
                    && blobs.remove_untouched_since(&blob.digest, cutoff)?
                {
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await;
        pass.blobs_removed = removed.map_err(|_| ControlError::ShuttingDown)??;
        for code in self.registry.unneeded_code(cutoff_ms, REMOVALS).await? {
            self.runtime.remove_compiled(&code);
            self.registry.forget_code(code).await?;
            self.builder.forget_kind(&code);
            pass.code_removed += 1;
        }
        self.remove_stray_logs(pass).await?;
        pass.stores_set_aside = self.remove_stray_data().await?;
        pass.more = [pass.blobs_removed, pass.code_removed, pass.logs_removed].contains(&REMOVALS);
        Ok(())
    }

    /// Removes the logs of apps that are not there: a crash came between an app's deletion and its log's, or a request
    /// that was still being answered wrote a line after it. Publishes wait meanwhile, so that no app of the same name
    /// comes about.
    async fn remove_stray_logs(&self, pass: &mut Pass) -> Result<(), ControlError> {
        let known = self.registry.app_names().await?;
        let dir = self.logs_dir.clone();
        let found = tokio::task::spawn_blocking(move || logged_apps(&dir)).await;
        let found = found.map_err(|_| ControlError::ShuttingDown)?;
        let found = found.map_err(|source| minnow_store::StoreError::Io { path: self.logs_dir.clone(), source })?;
        for (tenant, app) in found.into_iter().filter(|found| !known.contains(found)).take(REMOVALS) {
            self.logs.remove_app(&tenant, &app).await?;
            pass.logs_removed += 1;
        }
        Ok(())
    }
}

/// The apps that have a folder `TENANT/APP` among the logs. Blocking.
fn logged_apps(dir: &Path) -> io::Result<Vec<(Tenant, AppName)>> {
    let mut found = Vec::new();
    for tenant in folders(dir)? {
        let Some(name) = name_of::<Tenant>(&tenant) else { continue };
        found.extend(folders(&tenant)?.iter().filter_map(|app| Some((name.clone(), name_of::<AppName>(app)?))));
    }
    Ok(found)
}

/// What is in `dir`; nothing when it is not a folder, or not there.
fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn name_of<T: FromStr>(path: &Path) -> Option<T> {
    path.file_name()?.to_str()?.parse().ok()
}
