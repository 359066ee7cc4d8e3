//! Checks of paths that come from a manifest or a bundle. Pure text: nothing is looked up on disk.

/// The longest path, in bytes.
pub const MAX_BYTES: usize = 1024;

/// Why a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the path is absolute")]
    Absolute,
    #[error("the path does not start with `/`")]
    Relative,
    #[error("the path leaves its folder (`..`)")]
    Leaves,
    #[error("the path has an empty or `.` segment")]
    Segment,
    #[error("the path has a backslash or a control character")]
    Character,
}

impl PathError {
    /// How to mend it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Empty => "write the path",
            Self::TooLong => "move the file up or shorten its name",
            Self::Absolute => "write it relative to the manifest's folder",
            Self::Relative => "put a `/` before it",
            Self::Leaves => "move the file into the folder",
            Self::Segment => "write one `/` between folders and no `.`",
            Self::Character => "write `/` between folders",
        }
    }
}

/// Checks a path relative to a folder that it must not leave: `a/b.wasm`.
pub fn check_relative(path: &str) -> Result<(), PathError> {
    // `C:` and the like are absolute where such paths exist.
    let drive = path.as_bytes().get(1) == Some(&b':') && path.starts_with(|c: char| c.is_ascii_alphabetic());
    if path.starts_with(['/', '\\', '~']) || drive {
        return Err(PathError::Absolute);
    }
    check_segments(path)
}

/// Checks a path of a served file: `/a/b.html`.
pub fn check_served(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    check_segments(path.strip_prefix('/').ok_or(PathError::Relative)?)
}

fn check_segments(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > MAX_BYTES {
        return Err(PathError::TooLong);
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Err(PathError::Character);
    }
    if path.split('/').any(|segment| segment == "..") {
        return Err(PathError::Leaves);
    }
    if path.split('/').any(|segment| segment.is_empty() || segment == ".") {
        return Err(PathError::Segment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_inside_its_folder() {
        let long = "x".repeat(MAX_BYTES + 1);
        for (path, expected) in [
            ("a.wasm", Ok(())),
            ("target/wasm32-wasip2/release/a.wasm", Ok(())),
            ("..a/b..", Ok(())),
            ("", Err(PathError::Empty)),
            ("/etc/passwd", Err(PathError::Absolute)),
            ("C:/x", Err(PathError::Absolute)),
            ("~/x", Err(PathError::Absolute)),
            ("\\\\host\\x", Err(PathError::Absolute)),
            ("../x", Err(PathError::Leaves)),
            ("a/../../x", Err(PathError::Leaves)),
            ("a/..", Err(PathError::Leaves)),
            ("a//b", Err(PathError::Segment)),
            ("./a", Err(PathError::Segment)),
            ("a/", Err(PathError::Segment)),
            ("a\\..\\b", Err(PathError::Character)),
            ("a\0b", Err(PathError::Character)),
            (&long, Err(PathError::TooLong)),
        ] {
            assert_eq!(check_relative(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_served_path_starts_with_a_slash_and_has_no_tricks() {
        for (path, expected) in [
            ("/index.html", Ok(())),
            ("/a/b c/ü.css", Ok(())),
            ("", Err(PathError::Empty)),
            ("/", Err(PathError::Empty)),
            ("a", Err(PathError::Relative)),
            ("/a/../b", Err(PathError::Leaves)),
            ("//a", Err(PathError::Segment)),
            ("/a/", Err(PathError::Segment)),
            ("/a/./b", Err(PathError::Segment)),
            ("/a\\b", Err(PathError::Character)),
            ("/a\0", Err(PathError::Character)),
        ] {
            assert_eq!(check_served(path), expected, "{path:?}");
        }
    }
}
