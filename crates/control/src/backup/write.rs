//! A backup: what was copied goes out as an archive, in pieces, as fast as the client takes them.

use std::{
    fs::File,
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use minnow_model::{AppName, Digest, StoreId, Tenant};
use minnow_store::StoreError;
use tokio::{
    runtime::Handle,
    sync::{OwnedMutexGuard, mpsc},
};

use super::{
    archive::Archive,
    format::{FORMAT, HEAD, Head, MAX_HEAD_BYTES, MAX_RECORDS_BYTES},
    moment::{Copied, store_path},
    volume::{Volume, volume},
};
use crate::{Control, ControlError};

/// What is sent at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the client.
const PIECES: usize = 4;
/// How long a client may take for one piece. Meanwhile the copies take their place on the disk, and nobody else makes a backup.
const PATIENCE: Duration = Duration::from_secs(60);

/// A backup that is on its way. Where it ends without being whole, for whatever reason, the last piece is an error: so that no client
/// takes a part of it for a backup.
pub(crate) struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    /// Set when all of it was sent, before the sender goes.
    whole: Arc<AtomicBool>,
    ended: bool,
}

impl Pieces {
    /// Has `write` write a backup, on a thread that may block, to a client that may take up to `patience` for one piece.
    fn of(patience: Duration, write: impl FnOnce(Out) -> Result<(), ControlError> + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let whole = Arc::new(AtomicBool::new(false));
        let backup = Self { pieces, whole: Arc::clone(&whole), ended: false };
        tokio::task::spawn_blocking(move || {
            let out = Out {
                pieces: sender.clone(),
                piece: Vec::with_capacity(PIECE_BYTES),
                runtime: Handle::current(),
                patience,
            };
            match write(out) {
                Ok(()) => whole.store(true, Ordering::Release),
                Err(error) => tracing::error!(%error, cause = cause(&error), "a backup broke off"),
            }
            // Last, also when `write` panics: the end of the pieces says that nothing is added any more.
            drop(sender);
        });
        backup
    }
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(context));
        self.ended = piece.is_none();
        Poll::Ready(match piece {
            Some(piece) => Some(Ok(piece)),
            None if self.whole.load(Ordering::Acquire) => None,
            None => Some(Err(io::Error::other("the backup broke off; the node's log says why"))),
        })
    }
}

impl Control {
    /// Backs up these apps, or all of the tenant when there are none. Each is as it was at one moment of its own. What is wrong before
    /// the first piece is told; what goes wrong later is in the node's log, and ends the pieces with an error.
    pub(crate) async fn backup(self: &Arc<Self>, tenant: &Tenant, apps: Vec<AppName>) -> Result<Pieces, ControlError> {
        let turn = Arc::clone(&self.backing_up).try_lock_owned().map_err(|_| {
            ControlError::Conflict(
                "another backup or restore is under way on this node; try again when it is done".into(),
            )
        })?;
        let mut apps = apps;
        if apps.is_empty() {
            apps = self.registry.apps(tenant).await?.into_iter().map(|row| row.app).collect();
        }
        apps.sort();
        apps.dedup();
        for app in &apps {
            self.registry.app(tenant, app).await?;
        }
        let Some(first) = apps.first() else {
            return Err(ControlError::Conflict("there is no app on this node that could be backed up".into()));
        };
        // Ends the copying when the client goes.
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let first = self.copy_app(tenant, first, Arc::clone(&wanted.0)).await?;
        let (control, tenant) = (Arc::clone(self), tenant.clone());
        Ok(Pieces::of(PATIENCE, move |out| control.write_backup(&tenant, apps, first, turn, out)))
    }

    fn write_backup(
        self: &Arc<Self>,
        tenant: &Tenant,
        apps: Vec<AppName>,
        first: Copied,
        _turn: OwnedMutexGuard<()>,
        out: Out,
    ) -> Result<(), ControlError> {
        let runtime = out.runtime.clone();
        // What the versions consist of stays meanwhile, also of those that are deleted.
        let _publishing = runtime.block_on(self.publishing.read());
        let time_ms = self.config.clock.now_ms();
        let sent = |error| ControlError::Incomplete(format!("the backup was not fetched: {error}"));
        let mut archive = Archive::new(out, &self.tmp_dir, time_ms).map_err(sent)?;
        let head = Head { format: FORMAT, minnow: env!("CARGO_PKG_VERSION").into(), time_ms, apps: apps.clone() };
        let head = serde_json::to_vec(&head).map_err(|error| ControlError::Corrupt(error.to_string()))?;
        if head.len() as u64 > MAX_HEAD_BYTES {
            return Err(ControlError::TooLarge("there are too many apps for one backup; back up fewer at once".into()));
        }
        archive.file(HEAD, head.len() as u64, head.as_slice()).map_err(sent)?;
        let mut contents = std::collections::HashSet::new();
        let mut first = Some(first);
        for app in apps {
            let copied = match first.take() {
                Some(copied) => copied,
                None => runtime.block_on(self.copy_app(tenant, &app, Arc::new(AtomicBool::new(true))))?,
            };
            self.write_app(tenant, &mut archive, copied, &mut contents)?;
        }
        archive.finish().and_then(|mut out| out.flush()).map_err(sent)
    }

    /// Writes one app; `contents` are those that are in the archive already.
    fn write_app(
        &self,
        tenant: &Tenant,
        archive: &mut Archive<Out>,
        copied: Copied,
        contents: &mut std::collections::HashSet<Digest>,
    ) -> Result<(), ControlError> {
        let Copied { app, dir, created_ms, stores, content } = copied;
        let mut add = |path: &str, from: &std::path::Path| -> Result<(), ControlError> {
            let at = |error| StoreError::io(from, error);
            let file = File::open(from).map_err(at)?;
            let size = file.metadata().map_err(at)?.len();
            archive.file(path, size, file).map_err(|error| ControlError::Incomplete(format!("{path}: {error}")))
        };
        let records = dir.path().join("app.jsonl");
        // A restore would refuse it.
        if std::fs::metadata(&records).map_err(|error| StoreError::io(&records, error))?.len() > MAX_RECORDS_BYTES {
            return Err(ControlError::TooLarge(format!(
                "the versions, deployments and variables of `{app}` take more than {MAX_RECORDS_BYTES} bytes in a backup; delete old \
                 versions"
            )));
        }
        add(&format!("apps/{app}/app.jsonl"), &records)?;
        for (kind, name) in stores {
            let from = store_path(dir.path(), kind, &name);
            add(&format!("apps/{app}/{kind}/{name}.db"), &from)?;
            // Its place is free as soon as it is sent.
            std::fs::remove_file(&from).map_err(|error| StoreError::io(&from, error))?;
            let objects = from.with_extension("objects");
            for shelf in names(&objects)? {
                for id in names(&objects.join(&shelf))? {
                    let from = objects.join(&shelf).join(&id);
                    add(&format!("apps/{app}/{kind}/{name}.objects/{shelf}/{id}"), &from)?;
                    std::fs::remove_file(&from).map_err(|error| StoreError::io(&from, error))?;
                }
            }
        }
        for digest in content.into_iter().filter(|digest| contents.insert(*digest)) {
            add(&format!("blobs/sha256/{}", digest.hex()), &self.blobs.path(&digest))?;
        }
        let volumes = &self.runtime.data().volumes;
        for name in volumes.names(tenant, &app)? {
            let root = volumes.path(&StoreId { tenant: tenant.clone(), app: app.clone(), name: name.clone() });
            volume(archive, &Volume { app: &app, name: &name, root: &root }, &self.tmp_dir)?;
        }
        // Its volumes go away with it, and what was not found was left out.
        let now = Handle::current().block_on(self.registry.created_ms(tenant, &app))?;
        if now != Some(created_ms) {
            return Err(ControlError::Incomplete(format!("the app `{app}` was deleted while it was backed up")));
        }
        Ok(())
    }
}

/// The names in a folder; none where it is not there.
fn names(dir: &std::path::Path) -> Result<Vec<String>, StoreError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect::<io::Result<_>>().map_err(|error| StoreError::io(dir, error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io(dir, error)),
    }
}

/// What an error comes from, for the log.
fn cause(error: &ControlError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// Becomes false when it is dropped with its future.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Where the archive goes. On a thread that may block.
pub(super) struct Out {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
    runtime: Handle,
    /// How long the client may take for one piece.
    patience: Duration,
}

impl Out {
    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        match self.runtime.block_on(tokio::time::timeout(self.patience, self.pieces.send(piece.into()))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone")),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client took nothing for {} s", self.patience.as_secs()),
            )),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES.saturating_sub(self.piece.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.piece.extend_from_slice(taken);
        if self.piece.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    /// More than waits for a client.
    const BYTES: usize = 2 * PIECES * PIECE_BYTES;

    /// All pieces together, and whether an error came after them.
    async fn taken(pieces: Pieces) -> (usize, bool) {
        let all: Vec<_> = pieces.collect().await;
        let bytes = all.iter().flatten().map(Bytes::len).sum();
        assert!(all.iter().rev().skip(1).all(Result::is_ok), "only the last may be an error");
        (bytes, all.last().is_some_and(Result::is_err))
    }

    fn sent(mut out: Out) -> Result<(), ControlError> {
        out.write_all(&vec![7; BYTES])
            .and_then(|()| out.flush())
            .map_err(|error| ControlError::Incomplete(error.to_string()))
    }

    #[tokio::test]
    async fn only_a_whole_backup_ends_without_an_error() {
        assert_eq!(taken(Pieces::of(PATIENCE, sent)).await, (BYTES, false));
        let failed = Pieces::of(PATIENCE, |mut out| {
            let _ = out.write_all(&[7; 2 * PIECE_BYTES]);
            Err(ControlError::Incomplete("a store is damaged".into()))
        });
        assert_eq!(taken(failed).await, (2 * PIECE_BYTES, true));
        let panicked = Pieces::of(PATIENCE, |mut out| {
            let _ = out.write_all(&[7; PIECE_BYTES]);
            panic!("on purpose")
        });
        assert_eq!(taken(panicked).await, (PIECE_BYTES, true));
    }

    #[tokio::test]
    async fn a_client_that_stalls_for_too_long_and_goes_on_then_is_told_that_the_backup_broke_off() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let backup = Pieces::of(Duration::from_millis(1), move |out| {
            let result = sent(out);
            let _ = tell.send(result.is_err());
            result
        });
        assert!(told.await.unwrap());
        assert_eq!(taken(backup).await, (PIECES * PIECE_BYTES, true));
    }
}
