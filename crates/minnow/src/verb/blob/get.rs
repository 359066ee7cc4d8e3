//! `minnow blob get`: streams a blob to a file or to stdout, and makes sure that it is right.

use std::{
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use minnow_model::digest::Digester;
use tempfile::NamedTempFile;

use super::GetArgs;
use crate::{
    client::{Client, FoundBlob},
    output::{self, DIM, GREEN},
    progress::Progress,
    report::Failure,
};

/// The mode of a new file, of which the user's umask takes away: that of every file that a command writes.
const FILE_MODE: u32 = 0o666;

pub(super) async fn run(args: GetArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let to_stdout = args.file.as_deref().is_none_or(|file| file == Path::new("-"));
    if to_stdout && args.json.json {
        return Err(Failure::usage("with --json, stdout is for what is known of the blob")
            .help("name a file for its content")
            .into());
    }
    if args.file.is_none() && output::is_terminal() {
        return Err(Failure::usage("a blob is not shown on a terminal unless that is asked for")
            .help("name a file, or write - for the terminal")
            .into());
    }
    let client = args.server.client()?;
    let Some(path) = args.file.as_deref().filter(|_| !to_stdout) else {
        let found = client.blob_get(&store, &args.key).await?;
        return receive(&client, found, Progress::Hidden, output::raw).await;
    };
    // Before anything is sent: a large blob would come in vain.
    if path.is_dir() {
        return Err(Failure::new(format!("{} is a folder", path.display())).help("name a file in it").into());
    }
    refuse_what_is_there(path, args.force)?;
    let failed = || Failure::new(format!("cannot write {}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(FILE_MODE))
        .tempfile_in(folder)
        .with_context(failed)?;
    let found = client.blob_get(&store, &args.key).await?;
    let info = found.info.clone();
    let progress = if args.json.json { Progress::Hidden } else { Progress::Shown };
    receive(&client, found, progress, |piece| file.write_all(piece).with_context(failed)).await?;
    file.as_file().sync_all().with_context(failed)?;
    keep(file, path, args.force)?;
    if args.json.json {
        return output::json(&info);
    }
    let (key, size) = (output::printable(&info.key), output::size(info.size));
    output::line(format_args!("{GREEN}got{GREEN:#} {key} as {}  {DIM}{size}{DIM:#}", path.display()))
}

/// Gives the file its name, now that it is whole.
fn keep(file: NamedTempFile, path: &Path, force: bool) -> anyhow::Result<()> {
    // It may have changed while the blob came.
    refuse_what_is_there(path, force)?;
    let kept = if force { file.persist(path) } else { file.persist_noclobber(path) };
    match kept {
        Ok(_) => Ok(()),
        // Somebody made it while the blob came.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(is_there(path)),
        Err(error) => Err(error.error).with_context(|| Failure::new(format!("cannot write {}", path.display()))),
    }
}

/// Refuses to write over what is there: with `force` over what is no file, such as a device or a symbolic link, in whose place
/// the file would come.
fn refuse_what_is_there(path: &Path, force: bool) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Ok(_) if !force => Err(is_there(path)),
        Ok(metadata) if !metadata.is_file() => {
            let what = format!("{} is no file, so that it is not written over", path.display());
            let help = "choose another name, or write - as the name and send stdout where it is to go";
            Err(Failure::new(what).help(help).into())
        }
        // What else is wrong with it is told when the file is written.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn is_there(path: &Path) -> anyhow::Error {
    let what = format!("{} is there already", path.display());
    Failure::new(what).help("choose another name, or write over it with --force").into()
}

/// Writes the content as it comes, and makes sure that it is all of the blob, and nothing else.
async fn receive(
    client: &Client,
    found: FoundBlob,
    progress: Progress,
    mut write: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let FoundBlob { info, mut content } = found;
    let bar = progress.moving("downloading", Some(info.size));
    let mut digester = Digester::default();
    let mut size = 0;
    loop {
        let piece = match content.chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(source) => {
                bar.finish_and_clear();
                return Err(client.broken_off(source).into());
            }
        };
        digester.update(&piece);
        size += piece.len() as u64;
        bar.inc(piece.len() as u64);
        write(&piece)?;
    }
    bar.finish_and_clear();
    let broken = if size != info.size {
        format!("what has come has {size} bytes, the blob {}", info.size)
    } else {
        let digest = digester.finish().hex();
        if digest == info.etag {
            return Ok(());
        }
        format!("what has come has the sha256 {digest}, the blob {}", info.etag)
    };
    Err(anyhow::anyhow!(broken).context(Failure::new("the blob has not come as it is").help(
        "get it again; if that fails too, its file on the node's disk is damaged: restore the bucket from a backup",
    )))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix};

    use super::*;

    #[test]
    fn only_a_file_is_written_over_and_only_when_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "old").unwrap();
        unix::fs::symlink("file", at("link")).unwrap();
        unix::fs::symlink("nothing", at("broken")).unwrap();
        let _socket = unix::net::UnixListener::bind(at("socket")).unwrap();
        let keep = |name: &str, force: bool| {
            let mut new = NamedTempFile::new_in(dir.path()).unwrap();
            new.write_all(b"new").unwrap();
            keep(new, &at(name), force).map_err(|error| error.to_string())
        };
        for name in ["file", "link", "broken", "socket"] {
            let error = keep(name, false).unwrap_err();
            assert!(error.contains("is there already"), "{error}");
        }
        for name in ["link", "broken", "socket"] {
            let error = keep(name, true).unwrap_err();
            assert!(error.contains("is no file"), "{error}");
            assert!(!at(name).symlink_metadata().unwrap().is_file(), "{name}");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "old");
        keep("file", true).unwrap();
        keep("other", true).unwrap();
        keep("another", false).unwrap();
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "new");
        assert!(refuse_what_is_there(Path::new("/dev/null"), true).is_err());
    }
}
