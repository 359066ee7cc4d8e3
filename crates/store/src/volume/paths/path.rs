//! Paths as a function writes them, and what went wrong with one.

use std::{fmt, io};

use minnow_model::MountPath;

/// The longest path of a call, in bytes: Linux takes no longer one (PATH_MAX, with its end).
pub const MAX_PATH_BYTES: usize = 4095;

/// The longest name of a file or folder, in bytes: that of all file systems in use (NAME_MAX).
const MAX_NAME_BYTES: usize = 255;

/// The most that an error repeats of a path, in bytes.
const SHOWN_BYTES: usize = 128;

/// A path within a volume: names with `/` between them, none of them empty, `.` or `..`. The empty one is the volume itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilePath(String);

impl FilePath {
    /// Reads a path: relative to the volume, or absolute and below `mount`, where the manifest has put the volume. `.` and `..` are
    /// resolved here, as text: links are not looked at before.
    pub fn parse(text: &str, mount: Option<&MountPath>) -> Result<Self, FileError> {
        let fail = |code, why: &str| Err(FileError::new(code, format!("{} {why}", Shown(text))));
        if text.contains('\0') {
            return fail(FileCode::Invalid, "holds NUL, which no path can");
        }
        if text.len() > MAX_PATH_BYTES {
            return fail(FileCode::NameTooLong, &format!("has {} bytes, the most is {MAX_PATH_BYTES}", text.len()));
        }
        let mut names: Vec<&str> = Vec::new();
        let is_absolute = text.starts_with('/');
        for name in text.split('/') {
            match name {
                "" | "." => {}
                // Above the root is the root, as everywhere.
                ".." if names.pop().is_none() && !is_absolute => {
                    return fail(FileCode::Outside, "leads out of the volume");
                }
                ".." => {}
                _ if name.len() > MAX_NAME_BYTES => {
                    return fail(FileCode::NameTooLong, &format!("has a name of more than {MAX_NAME_BYTES} bytes"));
                }
                _ => names.push(name),
            }
        }
        if !is_absolute {
            return Ok(Self(names.join("/")));
        }
        let mount = mount.map_or("/", MountPath::as_str);
        let mut left = names.into_iter();
        if mount.split('/').filter(|name| !name.is_empty()).all(|name| left.next() == Some(name)) {
            return Ok(Self(left.collect::<Vec<_>>().join("/")));
        }
        fail(FileCode::Outside, &format!("leads out of the volume: absolute paths of it begin with `{mount}`"))
    }

    /// As cap-primitives takes it.
    pub(super) fn as_str(&self) -> &str {
        if self.0.is_empty() { "." } else { &self.0 }
    }

    /// The folder that holds it, and its name there; `None` for the volume itself.
    pub(super) fn split(&self) -> Option<(Self, &str)> {
        match self.0.rsplit_once('/') {
            Some((folder, name)) => Some((Self(folder.to_owned()), name)),
            None if self.0.is_empty() => None,
            None => Some((Self(String::new()), &self.0)),
        }
    }

    /// The folders on the way to it, and itself; the longest first, without the volume.
    pub(super) fn ways(&self) -> Vec<Self> {
        let mut ways = Vec::new();
        let mut next = Some(self.clone());
        while let Some(path) = next.filter(|path| !path.0.is_empty()) {
            next = path.split().map(|(folder, _)| folder);
            ways.push(path);
        }
        ways
    }

    /// What a call of the disk has failed with, for whoever gave the path.
    pub(super) fn failure(&self, error: io::Error) -> FileError {
        let code = FileCode::of(&error);
        let path = Shown(&self.0);
        let message = match code {
            FileCode::NotFound => format!("there is no {path}"),
            FileCode::Exists => format!("{path} is there already"),
            FileCode::NotFolder => format!("{path}, or something on the way to it, is no folder"),
            FileCode::IsFolder => format!("{path} is a folder"),
            FileCode::NotEmpty => format!("{path} is a folder that is not empty"),
            FileCode::Full => {
                format!("{path}: the volume is full, or its disk; delete something, or give the volume a larger `size`")
            }
            FileCode::Outside => format!("{path} leads out of the volume"),
            FileCode::NameTooLong => format!("{path} has a name that is too long"),
            FileCode::TooLarge => format!("{path} would be too large"),
            FileCode::Loop => format!("{path} leads through too many links, or to nothing"),
            FileCode::Invalid => format!("{path} cannot be used that way"),
            FileCode::TooManyOpen => {
                "as many files of functions are open on the node as may be; try again later".into()
            }
            FileCode::Busy => format!("{path} was changed by others meanwhile; try again"),
            FileCode::Failed => format!("{path}: the disk has failed"),
        };
        FileError { code, message, source: Some(error) }
    }

    /// The volume itself can neither be removed nor moved, nor written to.
    pub(super) fn is_volume(&self) -> FileError {
        FileError::new(FileCode::Invalid, format!("{} is the volume itself, which stays where it is", Shown(&self.0)))
    }
}

/// A path in an error: no longer than [`SHOWN_BYTES`], on one line.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.0.is_empty() { "/" } else { self.0 };
        let shown = path.get(..path.floor_char_boundary(SHOWN_BYTES)).unwrap_or_default();
        let rest = if shown.len() < path.len() { "…" } else { "" };
        write!(f, "`{}{rest}`", shown.escape_debug())
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.0).fmt(f)
    }
}

/// Why a call has failed, with the names that POSIX has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileCode {
    NotFound,
    Exists,
    NotFolder,
    IsFolder,
    NotEmpty,
    /// The volume has its size or its number of entries, or the disk is full.
    Full,
    /// The path leads out of the volume.
    Outside,
    NameTooLong,
    /// More bytes or names than one call may have.
    TooLarge,
    Loop,
    Invalid,
    /// As many files are open as may be.
    TooManyOpen,
    /// Others are in the way; it may work the next time.
    Busy,
    /// The node's trouble.
    Failed,
}

impl FileCode {
    /// As node has it in `error.code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "ENOENT",
            Self::Exists => "EEXIST",
            Self::NotFolder => "ENOTDIR",
            Self::IsFolder => "EISDIR",
            Self::NotEmpty => "ENOTEMPTY",
            Self::Full => "ENOSPC",
            Self::Outside => "EACCES",
            Self::NameTooLong => "ENAMETOOLONG",
            Self::TooLarge => "EFBIG",
            Self::Loop => "ELOOP",
            Self::Invalid => "EINVAL",
            Self::TooManyOpen => "EMFILE",
            Self::Busy => "EBUSY",
            Self::Failed => "EIO",
        }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::NotFound,
            Some(libc::EEXIST) => Self::Exists,
            Some(libc::ENOTDIR) => Self::NotFolder,
            Some(libc::EISDIR) => Self::IsFolder,
            Some(libc::ENOTEMPTY) => Self::NotEmpty,
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full,
            Some(libc::ENAMETOOLONG) => Self::NameTooLong,
            Some(libc::EFBIG) => Self::TooLarge,
            Some(libc::ELOOP) => Self::Loop,
            // A pipe that nobody reads is opened for writing.
            Some(libc::EINVAL | libc::ENXIO) => Self::Invalid,
            Some(libc::EMFILE | libc::ENFILE) => Self::TooManyOpen,
            Some(libc::EBUSY) => Self::Busy,
            // What cap-primitives says of a path that leads out.
            None if error.kind() == io::ErrorKind::PermissionDenied => Self::Outside,
            _ => Self::Failed,
        }
    }
}

/// A call that was not done, or not all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct FileError {
    pub code: FileCode,
    message: String,
    source: Option<io::Error>,
}

impl FileError {
    pub fn new(code: FileCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    /// Whether it is the caller's, and not the node's.
    pub fn is_refusal(&self) -> bool {
        self.code != FileCode::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_relative_or_below_where_the_manifest_has_put_the_volume() {
        let mount = "/srv/data".parse().unwrap();
        let long = "n".repeat(256);
        let longest = format!("{}x", "a/".repeat(2047));
        let cases: &[(&str, Result<&str, &str>)] = &[
            ("a/b", Ok("a/b")),
            ("./a//b/", Ok("a/b")),
            ("a/../b/.", Ok("b")),
            ("", Ok("")),
            (".", Ok("")),
            ("srv/data/a", Ok("srv/data/a")),
            ("/srv/data/a/b", Ok("a/b")),
            ("//srv/./data//a", Ok("a")),
            ("/srv/data", Ok("")),
            ("/srv/data/../data/a", Ok("a")),
            ("/../srv/data/a", Ok("a")),
            ("...", Ok("...")),
            ("a\\..\\b", Ok("a\\..\\b")),
            ("..", Err("EACCES")),
            ("a/../../b", Err("EACCES")),
            ("../data/a", Err("EACCES")),
            ("/", Err("EACCES")),
            ("/srv", Err("EACCES")),
            ("/srv/data/../a", Err("EACCES")),
            ("/srv/database", Err("EACCES")),
            ("/etc/passwd", Err("EACCES")),
            ("a\0b", Err("EINVAL")),
            (&long, Err("ENAMETOOLONG")),
            (&long[1..], Ok(&long[1..])),
            (&longest, Ok(&longest)),
        ];
        for (text, expected) in cases {
            let found = FilePath::parse(text, Some(&mount)).map(|path| path.0).map_err(|error| error.code.as_str());
            assert_eq!(found.as_deref().map_err(|code| *code), *expected, "{text}");
        }
        let too_long = FilePath::parse(&format!("{longest}x"), Some(&mount)).unwrap_err();
        assert_eq!(too_long.code, FileCode::NameTooLong);
        assert!(too_long.to_string().len() < 250, "{too_long}");
    }

    #[test]
    fn a_path_knows_its_folders() {
        let path = FilePath("a/b/c".into());
        assert_eq!(path.split(), Some((FilePath("a/b".into()), "c")));
        assert_eq!(FilePath("a".into()).split(), Some((FilePath(String::new()), "a")));
        assert_eq!(FilePath(String::new()).split(), None);
        let ways: Vec<String> = path.ways().into_iter().map(|path| path.0).collect();
        assert_eq!(ways, ["a/b/c", "a/b", "a"]);
        assert!(FilePath(String::new()).ways().is_empty());
    }
}
