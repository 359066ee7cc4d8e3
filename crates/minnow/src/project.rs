//! An app's folder: its manifest, checked, and the files that it names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use minnow_model::{
    FunctionName, Manifest, Version,
    manifest::{FILE_NAME, ManifestErrors, Mistake, Parsed},
};

use crate::{
    pack::{self, Bundle, PackError},
    progress::Progress,
    report::{Failure, ManifestFailure},
};

/// A folder with a valid `minnow.toml`.
#[derive(Debug, Clone)]
pub struct Project {
    /// The manifest's folder, absolute.
    pub dir: PathBuf,
    parsed: Parsed,
}

impl Project {
    /// Reads and checks `DIR/minnow.toml`. A path to the file itself is fine too.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let dir = if dir.file_name().is_some_and(|name| name == FILE_NAME) && dir.is_file() {
            dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        } else {
            dir
        };
        let path = dir.join(FILE_NAME);
        let text = fs::read_to_string(&path).map_err(|error| {
            let help = match error.kind() {
                io::ErrorKind::NotFound => {
                    "name the app's folder (`--app-dir DIR`, or `DIR` with build and dev), or make an app with `minnow new NAME`"
                }
                _ => "the file has to be readable and UTF-8",
            };
            let what = match error.kind() {
                io::ErrorKind::NotFound => format!("there is no {}", path.display()),
                _ => format!("cannot read {}", path.display()),
            };
            anyhow::Error::from(error).context(Failure::new(what).help(help))
        })?;
        let parsed = Manifest::parse(&text, &path.display().to_string())
            .map_err(|errors| ManifestFailure(errors.and_missing(|parsed| missing(dir, parsed))))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        Ok(Self { dir, parsed })
    }

    /// What the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.parsed.manifest
    }

    /// Refuses functions in JavaScript whose first module is not there.
    pub fn check_js(&self, names: &[&FunctionName]) -> anyhow::Result<()> {
        let is_there = |name: &FunctionName| {
            let function = self.manifest().functions.get(name);
            function.is_some_and(|function| self.dir.join(function.code.path()).is_file())
        };
        let missing = names.iter().filter(|name| !is_there(name)).map(|name| self.parsed.missing_code(name));
        ManifestErrors::check(missing.collect()).map_err(|errors| ManifestFailure(errors).into())
    }

    /// Packs the app as `version`, with the bundles that were made of its JavaScript. Files that are missing or cannot be used are reported at their place in the manifest.
    pub fn pack(&self, version: &Version, progress: Progress) -> anyhow::Result<Bundle> {
        pack::pack(&self.dir, &self.parsed, version, progress).map_err(|error| match error {
            PackError::Manifest(errors) => ManifestFailure(errors).into(),
            error @ PackError::Oci(_) => error.into(),
        })
    }
}

/// The folder of what `minnow` keeps in an app's folder: the data of `minnow dev`, and bundles.
pub fn data_dir_of(dir: &Path) -> PathBuf {
    dir.join(".minnow")
}

/// Makes [`data_dir_of`], with a `.gitignore` so that it is never committed.
pub fn data_dir(dir: &Path) -> io::Result<PathBuf> {
    let data = data_dir_of(dir);
    fs::create_dir_all(&data)?;
    let ignore = data.join(".gitignore");
    if !ignore.exists() {
        fs::write(ignore, "*\n")?;
    }
    Ok(data)
}

/// The files and folders that the manifest names and that are not in `dir`, as far as that can be told before a build.
fn missing(dir: &Path, parsed: &Parsed) -> Vec<Mistake> {
    // A build command may also make the code of other functions, and folders.
    if parsed.manifest.functions.values().any(|function| function.build.is_some()) {
        return Vec::new();
    }
    let code =
        parsed.prebuilt().filter(|(_, path)| !dir.join(path).exists()).map(|(name, _)| parsed.missing_code(name));
    let folders = parsed.manifest.static_dirs.iter().filter(|(_, folder)| !dir.join(folder).exists());
    let migrations = parsed
        .manifest
        .sql
        .iter()
        .filter(|(_, store)| store.migrations.as_ref().is_some_and(|folder| !dir.join(folder).exists()));
    code.chain(folders.map(|(prefix, _)| parsed.missing_static(prefix)))
        .chain(migrations.map(|(store, _)| parsed.missing_migrations(store)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_found_by_its_folder_or_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let error = Project::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("there is no"), "{error}");
        fs::write(dir.path().join(FILE_NAME), "name = \"a\"\n[functions.f]\nwasm = \"f.wasm\"\nroutes = [\"/\"]\n")
            .unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join(FILE_NAME)] {
            let project = Project::load(&path).unwrap();
            assert_eq!(project.manifest().name.as_str(), "a");
            assert_eq!(project.dir, dir.path().canonicalize().unwrap());
        }
    }

    #[test]
    fn the_data_folder_is_made_once_and_ignored_by_git() {
        let dir = tempfile::tempdir().unwrap();
        let data = data_dir(dir.path()).unwrap();
        assert_eq!(data_dir(dir.path()).unwrap(), data);
        assert_eq!(fs::read_to_string(data.join(".gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn a_missing_file_is_reported_at_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "name = \"a\"\n[functions.f]\nwasm = \"f.wasm\"\nroutes = [\"/\"]\n")
            .unwrap();
        let error = Project::load(dir.path()).unwrap().pack(&Version::new(0, 1, 0), Progress::Hidden).unwrap_err();
        let lines = error.downcast_ref::<ManifestFailure>().unwrap().0.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("minnow.toml:3:"), "{lines:?}");
    }
}
