//! `minnow backup`: apps with all that belongs to them, in one file.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use minnow_control::{
    api_types::LeftOut,
    backup::{Source, read_end},
};
use minnow_model::AppName;
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    cli::{JsonArg, ServerArgs},
    output::{self, GREEN},
    progress::Progress,
    report::{self, Failure},
};

/// What the name of a backup ends in, so that an app or a folder that was mistyped does not become a file.
const SUFFIX: &str = ".tar.zst";

/// Pieces that wait to be read for the end, each as large as what the network brings at once.
const PIECES: usize = 4;

/// Back up apps of a running node
#[derive(Debug, Args)]
#[command(
    override_usage = "minnow backup [OPTIONS] [APP]... <FILE|DIR|->",
    long_about = "Back up apps of a running node into one file, which `minnow restore` reads.

An app goes with its versions, deployments, variables, secrets (encrypted, as they are) and everything in its stores: as it is at one \
moment over all key-value stores, databases and buckets, while the app goes on. Files of volumes are as they are shortly after that \
moment; those that a backup cannot have are named. Logs and metrics are not in it, nor are the node's own configuration, tokens and \
key file.

The file is a tar compressed with zstd. Its name ends in .tar.zst. It replaces one of the same name only when it is whole. With - \
the backup goes to stdout as it comes, and what is said of it to stderr; it is one only when the command succeeds.",
    after_help = "Examples:
  minnow backup /backups                 all apps, into a new file in the folder
  minnow backup shop shop.tar.zst        one app
  minnow backup shop blog both.tar.zst   two
  minnow backup shop shop.tar.zst --json
  minnow backup shop - | ssh vault 'cat > shop.tar.zst'"
)]
pub struct BackupArgs {
    /// The apps (all when none is named), and then the file; or a folder, in which a new file is made; or - for stdout
    #[arg(required = true, value_name = "APP|FILE", value_hint = clap::ValueHint::AnyPath)]
    names: Vec<String>,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Serialize)]
struct Written {
    file: String,
    bytes: u64,
    /// What volumes had and the backup has not, by app.
    left_out: BTreeMap<AppName, LeftOut>,
}

pub async fn run(args: BackupArgs) -> anyhow::Result<()> {
    let Some((target, apps)) = args.names.split_last() else {
        return Err(Failure::usage("name the file that the backup goes to").into());
    };
    let apps = apps_of(apps)?;
    let to_stdout = target == "-";
    if to_stdout && output::is_terminal() {
        return Err(Failure::usage("a backup is not shown on a terminal").help("name a file, or pipe it on").into());
    }
    let path = if to_stdout { None } else { Some(target_of(target, &apps, SystemTime::now())?) };
    let client = args.server.client()?;
    // Somebody who forgot the file, and has a folder of the app's name: not all apps are meant.
    if apps.is_empty()
        && let Ok(name) = target.parse::<AppName>()
        && client.apps().await?.iter().any(|app| app.app == name)
    {
        return Err(Failure::usage(format!("`{name}` is an app of the node, and the file that it goes to is missing"))
            .help(format!("`minnow backup {name} {name}{SUFFIX}`; all apps into the folder: `minnow backup ./{name}`"))
            .into());
    }
    // Before the node begins to work.
    let mut out = Out::open(path)?;
    let progress = if args.json.json { Progress::Hidden } else { Progress::Shown };
    let spinner = progress.waiting("the node copies what is to be backed up");
    let backup = client.backup(&apps).await;
    spinner.finish_and_clear();
    let mut backup = backup?;
    let half = if to_stdout { "what was written is none" } else { "nothing was written" };
    let bar = progress.receiving("backing up");
    let reader = Reader::start();
    let mut bytes = 0;
    while let Some(piece) = backup.chunk().await.map_err(|source| client.broken_off(source)).with_context(|| {
        Failure::new(format!("the backup broke off, and {half}")).help("the node's log says why; try again")
    })? {
        out.write(&piece)?;
        bytes += piece.len() as u64;
        bar.set_position(bytes);
        reader.read(piece).await;
    }
    bar.finish_and_clear();
    // Something between here and the node may have made a proper end of half of it.
    let left_out = reader.end().await.with_context(|| {
        Failure::new(format!("the backup did not come whole, and {half}")).help("the node's log says why; try again")
    })?;
    let file = out.finish()?;
    let what = match apps.as_slice() {
        [] => "all apps".to_owned(),
        apps => apps.iter().map(AppName::as_str).collect::<Vec<_>>().join(", "),
    };
    let said = if args.json.json {
        serde_json::to_string_pretty(&Written { file: file.clone(), bytes, left_out: left_out.clone() })?
    } else {
        format!("{GREEN}backed up{GREEN:#} {what} to {file}  {}", output::size(bytes))
    };
    if to_stdout {
        report::tell(said);
    } else {
        output::line(said)?;
    }
    if !args.json.json {
        for (app, left_out) in &left_out {
            report::left_out(app, left_out);
        }
    }
    Ok(())
}

/// Where a backup goes, piece by piece.
enum Out {
    /// Renamed when it is whole, so that a good backup is not lost to half a one.
    File {
        file: NamedTempFile,
        path: PathBuf,
    },
    Stdout,
}

impl Out {
    fn open(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(folder).with_context(|| cannot_write(&path))?;
        Ok(Self::File { file, path })
    }

    fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::File { file, path } => file.write_all(piece).with_context(|| cannot_write(path)),
            // Also when nobody reads it any more: what has passed is no backup.
            Self::Stdout => io::stdout().lock().write_all(piece).with_context(|| cannot_write(Path::new("stdout"))),
        }
    }

    /// All of it is there: how it is called.
    fn finish(self) -> anyhow::Result<String> {
        match self {
            Self::File { file, path } => {
                file.as_file().sync_all().with_context(|| cannot_write(&path))?;
                file.persist(&path).map_err(|error| error.error).with_context(|| cannot_write(&path))?;
                Ok(path.display().to_string())
            }
            Self::Stdout => {
                io::stdout().flush().with_context(|| cannot_write(Path::new("stdout")))?;
                Ok("stdout".into())
            }
        }
    }
}

fn cannot_write(path: &Path) -> Failure {
    Failure::new(format!("cannot write {}", path.display()))
}

/// Reads a backup on its way: whether it is whole, and what it says that it has not.
struct Reader {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    end: JoinHandle<io::Result<BTreeMap<AppName, LeftOut>>>,
}

impl Reader {
    fn start() -> Self {
        let (pieces, came) = mpsc::channel(PIECES);
        Self { pieces, end: tokio::task::spawn_blocking(|| read_end(Source::new(came))) }
    }

    async fn read(&self, piece: Bytes) {
        // One that has seen enough says so at the end.
        let _ = self.pieces.send(Ok(piece)).await;
    }

    /// After the last piece: what the backup has not, by app.
    async fn end(self) -> io::Result<BTreeMap<AppName, LeftOut>> {
        drop(self.pieces);
        self.end.await.map_err(io::Error::other)?
    }
}

/// The apps that are named, each once.
fn apps_of(names: &[String]) -> Result<Vec<AppName>, Failure> {
    let mut apps = Vec::with_capacity(names.len());
    for name in names {
        let app: AppName = name.parse().map_err(|error| {
            Failure::usage(format!("`{name}` is not the name of an app: {error}"))
                .help("the file comes last: `minnow backup [APP]... FILE`")
        })?;
        if apps.contains(&app) {
            return Err(Failure::usage(format!("the app {app} is named twice")));
        }
        apps.push(app);
    }
    Ok(apps)
}

/// The file that the backup goes to: in a folder, a new one. What is there and is no file of its own is refused, since the backup
/// would replace it: a device, or a link.
fn target_of(target: &str, apps: &[AppName], now: SystemTime) -> Result<PathBuf, Failure> {
    let path = Path::new(target);
    if path.is_dir() {
        let what = match apps {
            [app] => app.as_str(),
            _ => "minnow",
        };
        // Colons are not for file names.
        let time = humantime::format_rfc3339_seconds(now).to_string().replace(':', "-");
        return Ok(path.join(format!("{what}-{time}{SUFFIX}")));
    }
    if target.ends_with('/') {
        return Err(
            Failure::usage(format!("there is no folder {target}")).help(format!("`mkdir -p {target}` makes it"))
        );
    }
    // Also where it is only a link to one.
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return Err(Failure::usage(format!("{target} is not a regular file, and the backup would replace it"))
            .help("name a new file, one of an older backup, or a folder"));
    }
    if !target.ends_with(SUFFIX) {
        let help = match target.parse::<AppName>() {
            Ok(name) => format!("to back up the app {name}: `minnow backup {name} {name}{SUFFIX}`"),
            Err(_) => format!("give the file a name that ends in {SUFFIX}; a folder has to be there before"),
        };
        let what = format!("`{target}` is no folder that is there, and no name of a file that ends in {SUFFIX}");
        return Err(Failure::usage(what).help(help));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_folder_the_file_has_a_name_of_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let name = |apps: &[&str]| {
            let apps: Vec<AppName> = apps.iter().map(|app| app.parse().unwrap()).collect();
            let path = target_of(temp.path().to_str().unwrap(), &apps, now).unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(&["shop"]), "shop-1970-01-01T00-00-00Z.tar.zst");
        assert_eq!(name(&["shop", "blog"]), "minnow-1970-01-01T00-00-00Z.tar.zst");
        assert_eq!(name(&[]), "minnow-1970-01-01T00-00-00Z.tar.zst");
        let file = temp.path().join("a.tar.zst");
        assert_eq!(target_of(file.to_str().unwrap(), &[], now).unwrap(), file);
    }

    #[test]
    fn what_is_no_place_for_a_backup_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("old.tar.zst"), "").unwrap();
        std::os::unix::fs::symlink("old.tar.zst", at("link.tar.zst")).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("dangling.tar.zst")).unwrap();
        let result = |target: &str| target_of(target, &[], SystemTime::UNIX_EPOCH);
        assert!(result(&at("old.tar.zst")).is_ok() && result(&at("new.tar.zst")).is_ok());
        for (target, expected) in [
            ("/dev/null".to_owned(), "not a regular file"),
            (at("link.tar.zst"), "not a regular file"),
            (at("dangling.tar.zst"), "not a regular file"),
            (at("absent/"), "there is no folder"),
            (at("absent"), "ends in .tar.zst"),
            ("no-such-app".to_owned(), "ends in .tar.zst"),
        ] {
            let error = result(&target).unwrap_err().to_string();
            assert!(error.contains(expected), "{target}: {error}");
        }
    }

    #[test]
    fn an_app_is_named_once() {
        let apps = |names: &[&str]| apps_of(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(apps(&["shop", "blog"]).unwrap().len(), 2);
        assert!(apps(&["shop", "blog", "shop"]).unwrap_err().to_string().contains("shop is named twice"));
    }
}
