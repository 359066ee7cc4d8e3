//! The shared libraries that Deno needs, with its interpreter: found once, by asking the loader.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The libraries of a program that is trusted: its loader runs.
pub(super) fn of(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new(program)
        .arg("--version")
        .env_clear()
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} does not load: {}", program.display(), output.status)));
    }
    parse(&String::from_utf8_lossy(&output.stdout))
        .map_err(|missing| io::Error::other(format!("{} needs {missing}, which is not there", program.display())))
}

/// Reads lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn parse(listing: &str) -> Result<Vec<PathBuf>, &str> {
    let mut libraries = BTreeSet::new();
    for line in listing.lines() {
        let line = line.trim();
        let path = match line.split_once(" => ") {
            Some((name, "not found")) => return Err(name),
            Some((_, path)) => path,
            None => line,
        };
        let path = path.rsplit_once(" (0x").map_or(path, |(path, _)| path);
        // The kernel's own library is no file.
        if path.starts_with('/') {
            libraries.insert(PathBuf::from(path));
        }
    }
    Ok(libraries.into_iter().collect())
}

/// The folders in which the loader is to look: it has no cache inside.
pub(super) fn folders(libraries: &[PathBuf]) -> String {
    let folders: BTreeSet<_> = libraries.iter().filter_map(|library| library.parent()?.to_str()).collect();
    folders.into_iter().collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_listing_is_read() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibm.so.6 => /lib/a/libm.so.6 (0x00007f)\n\
                       \tlibc.so.6 => /lib/a/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let libraries = parse(listing).unwrap();
        let paths = ["/lib/a/libc.so.6", "/lib/a/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries, paths.map(PathBuf::from));
        assert_eq!(folders(&libraries), "/lib/a:/lib64");
        assert_eq!(parse("\tlibx.so.1 => not found\n"), Err("libx.so.1"));
        assert_eq!(parse("\tstatically linked\n"), Ok(Vec::new()));
    }
}
