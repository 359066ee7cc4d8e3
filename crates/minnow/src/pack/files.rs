//! The static files of an app: which files lie under which URL path.

use std::{
    collections::BTreeMap,
    fs::FileType,
    os::unix::fs::FileTypeExt as _,
    path::{Component, Path},
};

use minnow_model::{
    BundledFile,
    manifest::{Mistake, Parsed, Place},
    path::check_served,
};
use walkdir::{DirEntry, WalkDir};

use super::{FILE_TYPE, Packer};

/// Packs every file of the static folders; gives them by the path under which they are served.
///
/// Names that start with a dot are left out (`.env`, `.git`, `.DS_Store` are there by accident), except `.well-known`
/// (RFC 8615). Links may point to what lies in the same folder, and nowhere else.
pub(super) fn collect(
    dir: &Path,
    parsed: &Parsed,
    packer: &mut Packer,
    mistakes: &mut Vec<Mistake>,
) -> BTreeMap<String, BundledFile> {
    let mut files = BTreeMap::new();
    for (prefix, folder) in &parsed.manifest.static_dirs {
        let mut refuse =
            |what: String, remedy: &str| mistakes.push(parsed.mistake(Place::Static(prefix), what, remedy));
        let root = match dir.join(folder).canonicalize() {
            Ok(root) if root.is_dir() => root,
            Ok(_) => {
                refuse(format!("`{folder}` is a file"), "name the folder that holds it");
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                mistakes.push(parsed.missing_static(prefix));
                continue;
            }
            Err(error) => {
                refuse(format!("cannot read `{folder}`: {error}"), "make the folder readable");
                continue;
            }
        };
        let walk = WalkDir::new(&root).follow_links(true).sort_by_file_name().into_iter().filter_entry(is_public);
        for entry in walk {
            let entry = match entry {
                Ok(entry) if entry.file_type().is_file() => entry,
                Ok(entry) if entry.file_type().is_dir() => continue,
                Ok(entry) => {
                    let what = format!("`{}` is {} and no file", entry.path().display(), kind(entry.file_type()));
                    refuse(what, "remove it, or keep it in another folder");
                    continue;
                }
                Err(error) => {
                    refuse(
                        format!("cannot read `{folder}`: {error}"),
                        "make every file readable, and remove dead links",
                    );
                    continue;
                }
            };
            let path = entry.path();
            if !path.canonicalize().is_ok_and(|target| target.starts_with(&root)) {
                refuse(format!("`{}` links to a place outside of `{folder}`", path.display()), "copy the file instead");
                continue;
            }
            let Some(url) = url_path(prefix, path.strip_prefix(&root).unwrap_or(path)) else {
                refuse(format!("the name of `{}` is not UTF-8", path.display()), "rename the file");
                continue;
            };
            if let Err(error) = check_served(&url) {
                refuse(format!("`{}` cannot be served as `{url}`: {error}", path.display()), error.remedy());
                continue;
            }
            match packer.read(path) {
                Ok(blob) => {
                    let size = blob.size;
                    let digest = packer.add(FILE_TYPE, url.trim_start_matches('/'), blob);
                    if files.insert(url.clone(), BundledFile { digest, size }).is_some() {
                        refuse(format!("two static folders have a file for `{url}`"), "remove one of the files");
                    }
                }
                Err(error) => {
                    refuse(format!("cannot read `{}`: {error}", path.display()), "make the file readable");
                }
            }
        }
    }
    files
}

/// What something is that can be neither read nor looked into.
fn kind(found: FileType) -> &'static str {
    if found.is_fifo() {
        "a named pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn is_public(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    entry.depth() == 0 || !name.starts_with('.') || name == ".well-known"
}

/// `PREFIX/RELATIVE`, with one slash between them.
fn url_path(prefix: &str, relative: &Path) -> Option<String> {
    let mut url = prefix.trim_end_matches('/').to_owned();
    for component in relative.components() {
        let Component::Normal(name) = component else { return None };
        url.push('/');
        url.push_str(name.to_str()?);
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_served_under_its_folders_prefix() {
        for (prefix, relative, expected) in [
            ("/", "index.html", "/index.html"),
            ("/assets", "css/a.css", "/assets/css/a.css"),
            ("/assets/", "a.css", "/assets/a.css"),
        ] {
            assert_eq!(url_path(prefix, Path::new(relative)).as_deref(), Some(expected));
        }
    }
}
