//! The migrations of a SQL store: the scripts in its folder, in the order of their names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use minnow_model::{
    BundledMigration, StoreName,
    bundle::{
        MAX_MIGRATION_BYTES, MAX_MIGRATIONS, MIGRATION_TYPE, migration_mistake, migration_name_mistake, misnumbered,
    },
    manifest::{Mistake, Parsed, Place},
};

use super::{Blob, Content, Packer};
use crate::output;

/// Packs every `*.sql` file of the folder; folders in it and other files are left out, and names that start with a dot.
/// Links may point to what lies in the same folder, and nowhere else.
pub(super) fn collect(
    dir: &Path,
    parsed: &Parsed,
    (store, folder): (&StoreName, &str),
    packer: &mut Packer,
    mistakes: &mut Vec<Mistake>,
) -> Vec<BundledMigration> {
    let mut refuse = |what: String, remedy: &str| mistakes.push(parsed.mistake(Place::Migrations(store), what, remedy));
    let mut migrations = Vec::new();
    let (root, names) = match names(&dir.join(folder)) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            mistakes.push(parsed.missing_migrations(store));
            return migrations;
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            refuse(format!("`{folder}` is a file"), "name the folder that holds it");
            return migrations;
        }
        Err(error) => {
            refuse(format!("cannot read `{folder}`: {error}"), "make the folder readable");
            return migrations;
        }
    };
    if names.is_empty() {
        refuse(
            format!("`{folder}` has no `*.sql` file"),
            "write the first one, such as `0001_init.sql`, or remove `migrations`",
        );
    }
    if names.len() > MAX_MIGRATIONS {
        let what = format!("`{folder}` has {} migrations, the most is {MAX_MIGRATIONS}", names.len());
        refuse(what, "for a new app, join the first ones into one file");
        return migrations;
    }
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some((first, second)) = misnumbered(&texts) {
        refuse(
            format!("`{folder}/{first}` runs before `{second}`: the order is that of the names as text"),
            "give the numbers equally many digits, such as `0009` and `0010`; a name that was deployed stays as it is",
        );
    }
    for name in names {
        match read(&root, &name, packer) {
            Ok(blob) => {
                let size = blob.size;
                let digest = packer.add(MIGRATION_TYPE, &format!("{store}/{name}"), blob);
                migrations.push(BundledMigration { name, digest, size });
            }
            Err((what, remedy)) => refuse(format!("`{folder}/{}`: {what}", name.escape_debug()), remedy),
        }
    }
    migrations
}

/// The folder itself, and the names of its scripts in their order.
fn names(folder: &Path) -> io::Result<(PathBuf, Vec<String>)> {
    let root = folder.canonicalize()?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&root)? {
        let entry = entry?;
        // A name that is not UTF-8 is refused below, with what can be shown of it.
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sql") && !name.starts_with('.') && !entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok((root, names))
}

/// Reads one script; the error is what is wrong with it, and the remedy.
fn read(root: &Path, name: &str, packer: &mut Packer) -> Result<Blob, (String, &'static str)> {
    if let Some(mistake) = migration_name_mistake(name) {
        return Err((mistake.into(), "rename the file"));
    }
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Err(("its name is not UTF-8".into(), "rename the file"));
    }
    let path = root.join(name);
    let cannot = |error: io::Error| (format!("cannot be read: {error}"), "make it readable, or remove a dead link");
    let target = path.canonicalize().map_err(cannot)?;
    if !target.starts_with(root) {
        return Err(("links to a place outside of its folder".into(), "copy the file instead"));
    }
    let metadata = target.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(("is no file".into(), "remove it, or keep it in another folder"));
    }
    if metadata.len() > MAX_MIGRATION_BYTES {
        let size = output::size(metadata.len());
        return Err((
            format!("has {size}, the most is 1 MiB"),
            "split it in two, or bring data in with `minnow sql import`",
        ));
    }
    let blob = packer.read_whole(&path).map_err(cannot)?;
    match &blob.content {
        Content::Bytes(content) => match migration_mistake(content) {
            Some(mistake) => Err((mistake.into(), "write it as SQL in UTF-8")),
            None => Ok(blob),
        },
        Content::File(_) => Ok(blob),
    }
}

#[cfg(test)]
mod tests {
    use minnow_model::{Digest, Manifest, Version, bundle::read_oci_manifest};

    use super::{super::*, *};

    const MANIFEST: &str = "name = \"shop\"\n[static]\n\"/\" = \"public\"\n[sql.main]\nmigrations = \"migrations\"\n";

    /// An app with these files in its `migrations`.
    fn app(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["public", "migrations"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for (name, content) in files {
            let path = dir.path().join("migrations").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn packed(dir: &Path, manifest: &str) -> Result<Bundle, Vec<String>> {
        let parsed = Manifest::parse(manifest, "minnow.toml").unwrap();
        match pack(dir, &parsed, &Version::new(0, 1, 0), Progress::Hidden) {
            Ok(bundle) => Ok(bundle),
            Err(PackError::Manifest(errors)) => Err(errors.lines()),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn scripts_are_layers_in_the_order_of_their_names() {
        let dir = app(&[
            ("0002_b.sql", b"2"),
            ("0001_a.sql", b"1"),
            ("0010_same.sql", b"1"),
            ("README.md", b"no script"),
            (".0000.sql", b"hidden"),
            ("old/0000.sql", b"in a folder"),
        ]);
        let bundle = packed(dir.path(), MANIFEST).unwrap();
        let migrations = &bundle.config.sql["main"].migrations;
        let expected = [("0001_a.sql", "1"), ("0002_b.sql", "2"), ("0010_same.sql", "1")].map(|(name, content)| {
            BundledMigration { name: name.into(), digest: Digest::of(content.as_bytes()), size: 1 }
        });
        assert_eq!(*migrations, expected);
        let image = read_oci_manifest(&bundle.manifest).unwrap();
        assert_eq!(bundle.config.check_layers(&image), Ok(()));
        let mut layers: Vec<_> = image.layers.iter().map(|l| (l.media_type.as_str(), l.title.as_str())).collect();
        layers.sort_unstable();
        assert_eq!(layers, [(MIGRATION_TYPE, "main/0001_a.sql"), (MIGRATION_TYPE, "main/0002_b.sql")]);
        assert_eq!(bundle.blobs.len(), 3, "equal scripts are one blob; the config");
    }

    #[test]
    fn stores_and_grants_are_in_the_bundle() {
        let dir = app(&[("a.sql", b"")]);
        fs::write(dir.path().join("f.wasm"), b"\0asm").unwrap();
        let manifest = format!(
            "{MANIFEST}share = [\"blog\"]\n[kv.sessions]\n[lock]\n[functions.f]\nwasm = \"f.wasm\"\nkv = [\"sessions:ro\"]\nlocks = true\n"
        );
        let config = packed(dir.path(), &manifest).unwrap().config;
        assert_eq!(config.sql["main"].share, ["blog".parse().unwrap()]);
        assert!(config.locks && config.kv.contains_key("sessions"));
        let grants = &config.functions["f"].grants;
        assert_eq!((grants.kv.clone(), grants.locks), (vec!["sessions:ro".parse().unwrap()], true));
        assert_eq!(config.check(&Default::default()), Ok(()));
    }

    #[test]
    fn every_script_that_cannot_be_packed_is_reported() {
        let large = vec![b' '; MAX_MIGRATION_BYTES as usize + 1];
        let dir = app(&[
            ("10_b.sql", b"1"),
            ("9_a.sql", b"1"),
            ("large.sql", &large),
            ("latin.sql", b"-- \xfc"),
            ("nul.sql", b"a\0b"),
            ("a\\b.sql", b"1"),
        ]);
        let migrations = dir.path().join("migrations");
        std::os::unix::fs::symlink("/etc/hostname", migrations.join("link.sql")).unwrap();
        std::os::unix::fs::symlink("nowhere", migrations.join("dead.sql")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(migrations.join("socket.sql")).unwrap();
        let lines = packed(dir.path(), MANIFEST).unwrap_err();
        for part in [
            "`migrations/10_b.sql` runs before `9_a.sql`",
            "`migrations/large.sql`: has 1.0 MiB, the most is 1 MiB",
            "`migrations/latin.sql`: it is not UTF-8",
            "`migrations/nul.sql`: it holds NUL",
            "`migrations/a\\\\b.sql`: the name of a migration holds no slash",
            "`migrations/link.sql`: links to a place outside of its folder",
            "`migrations/dead.sql`: cannot be read",
            "`migrations/socket.sql`: is no file",
        ] {
            assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
        }
        assert_eq!(lines.len(), 8, "{lines:#?}");
        assert!(lines.iter().all(|line| line.starts_with("minnow.toml:5:15: ")), "{lines:#?}");
    }

    #[test]
    fn a_folder_that_is_missing_empty_or_a_file_is_reported() {
        let dir = app(&[("README.md", b"")]);
        assert!(packed(dir.path(), MANIFEST).unwrap_err()[0].contains("`migrations` has no `*.sql` file"));
        let folder = dir.path().join("migrations");
        fs::remove_dir_all(&folder).unwrap();
        let lines = packed(dir.path(), MANIFEST).unwrap_err();
        assert_eq!(
            lines,
            [
                "minnow.toml:5:15: there is no folder `migrations`; make the folder beside the manifest, or correct its name"
            ]
        );
        fs::write(folder, "").unwrap();
        assert!(packed(dir.path(), MANIFEST).unwrap_err()[0].contains("`migrations` is a file"));
    }

    #[test]
    fn the_number_of_scripts_is_bounded() {
        let names: Vec<String> = (0..=MAX_MIGRATIONS).map(|n| format!("{n:04}.sql")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let dir = app(&files);
        assert!(packed(dir.path(), MANIFEST).unwrap_err()[0].contains("has 1001 migrations, the most is 1000"));
        fs::remove_file(dir.path().join("migrations/0000.sql")).unwrap();
        assert!(packed(dir.path(), MANIFEST).is_ok());
        let more = |store: &str| format!("[sql.{store}]\nmigrations = \"migrations\"\n");
        let lines = packed(dir.path(), &format!("{MANIFEST}{}{}", more("a"), more("b"))).unwrap_err();
        assert!(lines.len() == 1 && lines[0].contains("the app has 3000 migrations, the most is 2000"), "{lines:#?}");
    }
}
