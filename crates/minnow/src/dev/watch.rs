//! Watches the folders of an app and gathers what changed.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::Notify, time::Instant};
use walkdir::WalkDir;

use super::change::{Interest, is_ignored, is_in_packages};
use crate::report::{self, Failure};

/// How long nothing may happen before changes are acted on: editors write a file in several steps, and a checkout many files.
const QUIET: Duration = Duration::from_millis(50);
/// Changes are acted on after this long even when they do not end.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most paths that are kept. Beyond it everything counts as changed.
const MAX_PATHS: usize = 10_000;
/// The most folders that are watched: the default limit of Linux is 8192 or more for each user.
const MAX_FOLDERS: usize = 8_000;
/// The most folders of packages among them. What is changed there by hand is seldom seen, and an installation changes
/// `package.json` too.
const MAX_PACKAGE_FOLDERS: usize = 2_000;

/// What happened since the last look.
#[derive(Debug, Default)]
pub struct Changes {
    pub paths: BTreeSet<PathBuf>,
    /// Some changes were not noted: look at everything.
    pub lost: bool,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.lost
    }
}

/// Gathers changes between the watcher's thread and the session.
#[derive(Debug, Default)]
struct Gathered {
    changes: Mutex<Changes>,
    notify: Notify,
}

impl Gathered {
    fn add(&self, event: notify::Result<notify::Event>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            // Reading is no change; our own packing reads everything.
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
            Ok(event) => {
                changes.lost |= event.need_rescan() || changes.paths.len() + event.paths.len() > MAX_PATHS;
                if !changes.lost {
                    changes.paths.extend(event.paths);
                }
            }
            Err(_) => changes.lost = true,
        }
        drop(changes);
        self.notify.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take(&self) -> Changes {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches each folder by itself, so that `target` and its thousands of folders cost nothing.
pub struct Watch {
    watcher: RecommendedWatcher,
    watched: HashSet<PathBuf>,
    gathered: Arc<Gathered>,
    dir: PathBuf,
}

impl Watch {
    /// Watches `dir` and whatever else `interest` names.
    pub fn start(dir: &Path, interest: &Interest) -> anyhow::Result<Self> {
        let gathered = Arc::new(Gathered::default());
        let sink = Arc::clone(&gathered);
        let watcher = notify::recommended_watcher(move |event| sink.add(event)).context("cannot watch files")?;
        let mut watch = Self { watcher, watched: HashSet::new(), gathered, dir: dir.into() };
        watch.add_tree(dir)?;
        watch.update(interest);
        Ok(watch)
    }

    /// Watches folders that are there since, or that a new manifest names.
    pub fn update(&mut self, interest: &Interest) {
        let package_folders = interest.package_folders();
        let folders = interest.code_folders().chain(package_folders.iter().map(PathBuf::as_path));
        // Those of packages last, in the room that the others leave.
        let (of_packages, others): (Vec<&Path>, Vec<&Path>) = folders.partition(|folder| is_in_packages(folder));
        // A folder of build output may not be there yet; then the build's end is when it is looked at.
        for folder in others.into_iter().filter(|folder| folder.is_dir()) {
            // Only the folder itself: Cargo's output beside the code is large.
            let added = self.add(folder);
            warn(folder, added);
        }
        for folder in interest.packed_folders().filter(|folder| folder.is_dir()) {
            let added = self.add_tree(folder).map(drop);
            warn(folder, added);
        }
        let mut room =
            MAX_PACKAGE_FOLDERS.saturating_sub(self.watched.iter().filter(|path| is_in_packages(path)).count());
        for folder in of_packages {
            if room > 0 && !self.watched.contains(folder) && folder.is_dir() {
                room -= 1;
                let added = self.add(folder);
                warn(folder, added);
            }
        }
    }

    /// The next changes, once they have come to rest. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Changes {
        loop {
            if self.gathered.is_empty() {
                self.gathered.notify.notified().await;
            }
            let latest = Instant::now() + PATIENCE;
            while Instant::now() < latest && tokio::time::timeout(QUIET, self.gathered.notify.notified()).await.is_ok()
            {
            }
            let mut changes = self.gathered.take();
            self.watch_new_folders(&mut changes);
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    /// Watches folders that were made, and adds the files that were put into them before they were watched.
    fn watch_new_folders(&mut self, changes: &mut Changes) {
        let mut found = BTreeSet::new();
        for path in &changes.paths {
            // A watch ends with its folder, also when another one takes its name.
            if self.watched.contains(path) {
                let gone: Vec<PathBuf> = self.watched.extract_if(|folder| folder.starts_with(path)).collect();
                for folder in gone {
                    // Fails when the folder is gone, and the watch with it.
                    let _ = self.watcher.unwatch(&folder);
                }
            }
            if path.is_dir() && !self.is_ignored(path) {
                match self.add_tree(path) {
                    Ok(files) => found.extend(files),
                    Err(error) => warn(path, Err(error)),
                }
            }
        }
        changes.paths.extend(found);
    }

    fn is_ignored(&self, path: &Path) -> bool {
        path.strip_prefix(&self.dir).map_or_else(|_| is_in_packages(path), |relative| relative.iter().any(is_ignored))
    }

    /// Watches a folder and those in it; gives the files that are there.
    fn add_tree(&mut self, root: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let walk =
            WalkDir::new(root).into_iter().filter_entry(|entry| entry.depth() == 0 || !is_ignored(entry.file_name()));
        for entry in walk.filter_map(Result::ok) {
            if entry.file_type().is_file() && files.len() < MAX_PATHS {
                files.push(entry.into_path());
            } else if entry.file_type().is_dir() {
                self.add(entry.path())?;
            }
        }
        Ok(files)
    }

    /// Watches one folder.
    fn add(&mut self, folder: &Path) -> anyhow::Result<()> {
        if self.watched.contains(folder) {
            return Ok(());
        }
        if self.watched.len() >= MAX_FOLDERS {
            return Err(Failure::new(format!("more than {MAX_FOLDERS} folders to watch")).into());
        }
        self.watcher.watch(folder, RecursiveMode::NonRecursive).with_context(|| {
            Failure::new(format!("cannot watch {}", folder.display()))
                .help("the system's limit on watches may be reached: raise fs.inotify.max_user_watches")
        })?;
        self.watched.insert(folder.into());
        Ok(())
    }
}

fn warn(folder: &Path, added: anyhow::Result<()>) {
    if let Err(error) = added {
        report::warn(format_args!("changes in {} go unnoticed: {error:#}", folder.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::change::Inputs, *};
    use crate::project::Project;

    async fn changed(watch: &mut Watch, name: &str) -> bool {
        let wanted = watch.dir.join(name);
        let search = async { while !watch.next().await.paths.contains(&wanted) {} };
        tokio::time::timeout(Duration::from_secs(10), search).await.is_ok()
    }

    #[tokio::test]
    async fn changes_are_seen_also_in_new_folders_and_in_build_output() {
        let temporary = tempfile::tempdir().unwrap();
        let text = "name = \"a\"\n[functions.f]\nwasm = \"target/f.wasm\"\nroutes = [\"/\"]\n";
        fs::write(temporary.path().join("minnow.toml"), text).unwrap();
        fs::create_dir_all(temporary.path().join("target/deps")).unwrap();
        let project = Project::load(temporary.path()).unwrap();
        let dir = &project.dir;
        let mut watch = Watch::start(dir, &Interest::of(&project, &Inputs::new()).unwrap()).unwrap();
        fs::write(dir.join("minnow.toml"), text).unwrap();
        assert!(changed(&mut watch, "minnow.toml").await);
        fs::create_dir_all(dir.join("src/deep")).unwrap();
        fs::write(dir.join("src/deep/lib.rs"), "1").unwrap();
        assert!(changed(&mut watch, "src/deep/lib.rs").await);
        fs::write(dir.join("src/deep/lib.rs"), "2").unwrap();
        assert!(changed(&mut watch, "src/deep/lib.rs").await);
        fs::remove_dir_all(dir.join("src")).unwrap();
        assert!(changed(&mut watch, "src").await);
        fs::create_dir_all(dir.join("src")).unwrap();
        fs::write(dir.join("src/lib.rs"), "3").unwrap();
        assert!(changed(&mut watch, "src/lib.rs").await);
        fs::write(dir.join("target/f.wasm"), "4").unwrap();
        assert!(changed(&mut watch, "target/f.wasm").await);
        assert!(!watch.watched.contains(&dir.join("target/deps")), "build output is not walked");
    }
    #[tokio::test]
    async fn the_packages_of_a_bundle_are_watched_where_they_are_used() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("minnow.toml"), "name = \"a\"\n[functions.f]\njs = \"f.js\"\n").unwrap();
        let project = Project::load(temporary.path()).unwrap();
        let dir = &project.dir;
        let used = dir.join("node_modules/used/dist");
        fs::create_dir_all(&used).unwrap();
        fs::create_dir_all(dir.join("node_modules/unused")).unwrap();
        let inputs = Inputs::from([("f".parse().unwrap(), [used.join("index.js")].into())]);
        let mut watch = Watch::start(dir, &Interest::of(&project, &inputs).unwrap()).unwrap();
        fs::write(used.join("index.js"), "1").unwrap();
        assert!(changed(&mut watch, "node_modules/used/dist/index.js").await);
        fs::create_dir(dir.join("node_modules/new")).unwrap();
        assert!(changed(&mut watch, "node_modules/new").await);
        for folder in ["unused", "new"] {
            assert!(!watch.watched.contains(&dir.join("node_modules").join(folder)), "{folder}");
        }
    }
}
