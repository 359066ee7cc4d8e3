//! Calls for the files of volumes. A file that one answer or one call does not hold goes in pieces, as blobs do: the invocation holds a
//! reader or a writer here. `bootstrap/files.js` makes the calls.

use std::sync::Arc;

use bytes::Bytes;
use minnow_model::StoreKind;
use minnow_store::volume::paths::{ByPath, FileCode, FileError, FilePath, Found, How, Kind, MAX_LISTING_BYTES};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    Call,
    blobs::ANSWER_BYTES,
    failure::Failure,
    held::{Begun, FileWriter, What},
};
use crate::{
    Function,
    data::{GrantedStore, Need},
};

/// What one `readFile` or `writeFile` has of bytes: the node's and the process's memory for it are taken at once. Larger files go in
/// parts or as streams. `bootstrap/files.js` knows it too.
const MAX_CONTENT_BYTES: usize = 16 << 20;

/// Calls for files of one process that are at work at once: each may keep a thread of the node waiting for the disk, and all services
/// have 512 of them. The others wait for their turn.
const MAX_WORKING: usize = 32;

/// Folders that one process removes with all that is in them at once: the names of a whole volume may be in memory meanwhile, 28 MiB.
const MAX_REMOVING: usize = 1;

/// Whose turn it is in one process.
pub(super) struct Turns {
    working: Semaphore,
    removing: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { working: Semaphore::new(MAX_WORKING), removing: Semaphore::new(MAX_REMOVING) }
    }
}

/// A call for a volume, or for what was begun in one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Asks {
    /// Without `stream` all of it goes into one value.
    Open {
        path: String,
        offset: u64,
        length: Option<u64>,
        stream: bool,
    },
    Read {
        reader: u64,
    },
    Close {
        reader: u64,
    },
    /// With all of the content, or with `more` its first piece.
    Write {
        path: String,
        how: WireHow,
        sync: bool,
        more: bool,
    },
    Append {
        writer: u64,
    },
    Finish {
        writer: u64,
    },
    Abort {
        writer: u64,
    },
    List {
        path: String,
    },
    MakeFolder {
        path: String,
        recursive: bool,
    },
    Remove {
        path: String,
        recursive: bool,
        force: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    Stat {
        path: String,
    },
    Resize {
        path: String,
        bytes: u64,
    },
}

/// `"w"`, `"wx"` and `"a"` as node has them, and a place to begin at.
#[derive(Deserialize)]
pub(super) enum WireHow {
    #[serde(rename = "w")]
    Replace,
    #[serde(rename = "wx")]
    New,
    #[serde(rename = "a")]
    Append,
    #[serde(rename = "offset")]
    From(u64),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Answer {
    /// `size` is that of the whole file, `length` what is read of it; the frame has the first bytes, and `reader` the rest.
    Opened {
        size: u64,
        length: u64,
        reader: Option<u64>,
    },
    /// Bytes of a file; `more`: the reader is still there.
    Piece {
        more: bool,
    },
    Writer {
        writer: u64,
    },
    /// A letter for each name: `f`, `d`, `l`, or `o`.
    Listed {
        names: Vec<String>,
        kinds: String,
    },
    Found {
        kind: char,
        size: u64,
        modified_ms: i64,
    },
    Done {},
}

impl Asks {
    /// What its answer may take; 0: some hundred bytes.
    pub(super) fn most_bytes(&self) -> usize {
        match self {
            Self::Open { .. } | Self::Read { .. } => ANSWER_BYTES,
            // In memory as a list and as an answer.
            Self::List { .. } => 2 * MAX_LISTING_BYTES,
            _ => 0,
        }
    }
}

/// Makes one call. `name` is the volume as the function knows it, `run` its invocation.
#[expect(clippy::too_many_arguments, reason = "those of a call for a bucket, and turns")]
pub(super) async fn call(
    function: &Arc<Function>,
    name: &str,
    turns: &Turns,
    begun: &Begun,
    run: impl FnOnce() -> Result<Arc<Call>, Failure>,
    asked: Asks,
    content: Bytes,
    payload: &mut Vec<Bytes>,
) -> Result<Answer, Failure> {
    let volume = |need| {
        let granted: &GrantedStore = function.store(StoreKind::Files, name, need)?;
        let files = function.runtime().data().volumes.by_path(&granted.store, granted.size_bytes);
        Ok::<_, Failure>(Volume { files, granted })
    };
    if content.len() > MAX_CONTENT_BYTES {
        return Err(too_large("a call for a file", content.len() as u64));
    }
    // Nobody closes them.
    let removes = matches!(asked, Asks::Remove { recursive: true, .. });
    let _removing = if removes { turns.removing.acquire().await.ok() } else { None };
    let _turn = turns.working.acquire().await.ok();
    match asked {
        Asks::Open { path, offset, length, stream } => {
            let volume = volume(Need::Read)?;
            let mut reader = volume.files.read(volume.path(&path)?, offset, length).await?;
            let (size, length) = (reader.size(), reader.remaining());
            if !stream && length > MAX_CONTENT_BYTES as u64 {
                return Err(too_large("what is to be read", length));
            }
            payload.push(reader.next(ANSWER_BYTES).await?);
            let reader = match reader.remaining() {
                0 => None,
                _ => Some(begun.hold(&run()?.open, What::FileReader(reader), begun.file_place()?)?),
            };
            Ok(Answer::Opened { size, length, reader })
        }
        Asks::Read { reader } => {
            let run = run()?;
            let mut taken = run.open.take(reader)?;
            let Some(What::FileReader(reader)) = taken.what() else { return Err(Failure::malformed()) };
            payload.push(reader.next(ANSWER_BYTES).await?);
            let more = reader.remaining() > 0;
            if more {
                taken.put_back()?;
            }
            Ok(Answer::Piece { more })
        }
        Asks::Write { path, how, sync, more } => {
            let volume = volume(Need::Write)?;
            let path = volume.path(&path)?;
            if !more {
                volume.files.put(path, how.into(), content, sync).await?;
                return Ok(Answer::Done {});
            }
            let (run, place) = (run()?, begun.file_place()?);
            let mut writer = volume.files.write(path, how.into()).await?;
            writer.write(content).await?;
            let writer = What::FileWriter(Box::new(FileWriter { writer, sync }));
            Ok(Answer::Writer { writer: begun.hold(&run.open, writer, place)? })
        }
        Asks::Append { writer } => {
            let run = run()?;
            let mut taken = run.open.take(writer)?;
            let Some(What::FileWriter(writing)) = taken.what() else { return Err(Failure::malformed()) };
            writing.writer.write(content).await?;
            taken.put_back()?;
            Ok(Answer::Done {})
        }
        Asks::Finish { writer } => {
            let Some(What::FileWriter(writing)) = run()?.open.take(writer)?.keep() else {
                return Err(Failure::malformed());
            };
            if writing.sync {
                writing.writer.sync().await?;
            }
            Ok(Answer::Done {})
        }
        Asks::Close { reader: number } | Asks::Abort { writer: number } => {
            // An invocation that has ended has given up all of them.
            if let Ok(run) = run() {
                run.open.give_up(number);
            }
            Ok(Answer::Done {})
        }
        Asks::List { path } => {
            let volume = volume(Need::Read)?;
            let listed = volume.files.list(volume.path(&path)?).await?;
            let kinds = listed.iter().map(|(_, kind)| letter(*kind)).collect();
            Ok(Answer::Listed { names: listed.into_iter().map(|(name, _)| name).collect(), kinds })
        }
        Asks::MakeFolder { path, recursive } => {
            let volume = volume(Need::Write)?;
            volume.files.make_folder(volume.path(&path)?, recursive).await?;
            Ok(Answer::Done {})
        }
        Asks::Remove { path, recursive, force } => {
            let volume = volume(Need::Write)?;
            let path = volume.path(&path)?;
            match volume.files.remove(path, recursive).await {
                Err(error) if force && error.code == FileCode::NotFound => {}
                removed => removed?,
            }
            Ok(Answer::Done {})
        }
        Asks::Rename { from, to } => {
            let volume = volume(Need::Write)?;
            volume.files.rename(volume.path(&from)?, volume.path(&to)?).await?;
            Ok(Answer::Done {})
        }
        Asks::Stat { path } => {
            let volume = volume(Need::Read)?;
            let Found { kind, bytes, modified_ms } = volume.files.stat(volume.path(&path)?).await?;
            Ok(Answer::Found { kind: letter(kind), size: bytes, modified_ms })
        }
        Asks::Resize { path, bytes } => {
            let volume = volume(Need::Write)?;
            volume.files.resize(volume.path(&path)?, bytes).await?;
            Ok(Answer::Done {})
        }
    }
}

/// A volume that the function was granted.
struct Volume<'a> {
    files: ByPath,
    granted: &'a GrantedStore,
}

impl Volume<'_> {
    fn path(&self, text: &str) -> Result<FilePath, FileError> {
        FilePath::parse(text, self.granted.mount.as_ref())
    }
}

impl From<WireHow> for How {
    fn from(wire: WireHow) -> Self {
        match wire {
            WireHow::Replace => Self::Replace,
            WireHow::New => Self::New,
            WireHow::Append => Self::Append,
            WireHow::From(offset) => Self::From(offset),
        }
    }
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::File => 'f',
        Kind::Folder => 'd',
        Kind::Link => 'l',
        Kind::Other => 'o',
    }
}

fn too_large(what: &str, bytes: u64) -> Failure {
    let message = format!(
        "{what} has {bytes} bytes, the most at once is {MAX_CONTENT_BYTES}; give `offset` and `length`, or use a stream"
    );
    FileError::new(FileCode::TooLarge, message).into()
}
