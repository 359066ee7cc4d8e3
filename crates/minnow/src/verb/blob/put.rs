//! `minnow blob put`: streams a file or stdin into a bucket.

use std::{
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use futures::StreamExt as _;
use minnow_model::{digest::Digester, media_type};
use reqwest::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::ReaderStream;

use super::PutArgs;
use crate::{
    client::NewBlob,
    input,
    output::{self, DIM, GREEN},
    progress::Progress,
    report::Failure,
};

/// Bytes that are read and sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Content on its way, and how much it is where that is known.
struct Source {
    content: Pin<Box<dyn AsyncRead + Send>>,
    bytes: Option<u64>,
}

pub(super) async fn run(args: PutArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let source = open(file).await?;
    let named = file.and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or(&args.key);
    let new = NewBlob {
        content_type: args.content_type.unwrap_or_else(|| media_type(named).into_owned()),
        cache_control: args.cache_control,
        metadata: args.metadata.into_iter().collect(),
        if_absent: args.if_absent,
        bytes: source.bytes,
    };
    let client = args.server.client()?;
    let progress = if args.json.json { Progress::Hidden } else { Progress::Shown };
    let bar = progress.moving("uploading", source.bytes);
    let digester = Arc::new(Mutex::new(Digester::default()));
    let (sent, moved) = (Arc::clone(&digester), bar.clone());
    let pieces = ReaderStream::with_capacity(source.content, PIECE_BYTES).inspect(move |piece| {
        if let Ok(piece) = piece {
            sent.lock().unwrap_or_else(PoisonError::into_inner).update(piece);
            moved.inc(piece.len() as u64);
        }
    });
    let put = client.blob_put(&store, &args.key, &new, Body::wrap_stream(pieces)).await;
    bar.finish_and_clear();
    let blob = put.with_context(|| format!("cannot put `{}` into {store}", output::printable(&args.key)))?;
    let digester = std::mem::take(&mut *digester.lock().unwrap_or_else(PoisonError::into_inner));
    let digest = digester.finish().hex();
    if blob.etag != digest {
        return Err(Failure::new(format!(
            "what has arrived is not what was sent: the blob has the sha256 {}, not {digest}",
            blob.etag
        ))
        .help("something between here and the node changes what passes; put it again, and check the proxies on the way")
        .into());
    }
    if args.json.json {
        return output::json(&blob);
    }
    let size = output::size(blob.size);
    output::line(format_args!("{GREEN}put{GREEN:#} {}  {DIM}{size}{DIM:#}", output::printable(&blob.key)))
}

/// The file, or stdin.
async fn open(file: Option<&Path>) -> anyhow::Result<Source> {
    let Some(path) = file else {
        input::tell_terminal("the content");
        return Ok(Source { content: Box::pin(tokio::io::stdin()), bytes: None });
    };
    let failed = || Failure::new(format!("cannot read {}", path.display()));
    let file = tokio::fs::File::open(path).await.with_context(failed)?;
    let metadata = file.metadata().await.with_context(failed)?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{} is a folder", path.display())).help("put its files one by one").into());
    }
    // A pipe or device does not know how much there is, nor do files of the kernel, such as those in /proc: they say 0.
    let bytes = Some(metadata.len()).filter(|bytes| metadata.is_file() && *bytes > 0);
    Ok(match bytes {
        // What is written to it from now on is not sent: how much comes is said before.
        Some(bytes) => Source { content: Box::pin(file.take(bytes)), bytes: Some(bytes) },
        None => Source { content: Box::pin(file), bytes: None },
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[tokio::test]
    async fn of_a_file_that_grows_is_sent_what_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "early").unwrap();
        let mut source = open(Some(&path)).await.unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b", late").unwrap();
        let mut sent = String::new();
        source.content.read_to_string(&mut sent).await.unwrap();
        assert_eq!((sent.as_str(), source.bytes), ("early", Some(5)));
    }

    #[tokio::test]
    async fn a_file_that_does_not_know_its_length_is_sent_whole() {
        let mut source = open(Some(Path::new("/proc/self/status"))).await.unwrap();
        let mut sent = String::new();
        source.content.read_to_string(&mut sent).await.unwrap();
        assert!(sent.contains("Pid:"), "{sent}");
        assert_eq!(source.bytes, None);
    }
}
