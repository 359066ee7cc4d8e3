//! Reading a backup only for its end: whether it came whole, and what it has not.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, ErrorKind, Read},
};

use minnow_model::AppName;
use tar::{Archive, EntryType};

use super::format::{END, End, Entry, WINDOW_LOG};
use crate::{api_types::LeftOut, registry::records::read_line};

/// Reads a backup to its end, whose last line says what is not in it, by app. Fails where it was cut off, and where
/// it was changed on the way: the whole has a checksum. The entries are not looked at, which a restore does. Blocking; keeps some
/// 8 MiB in memory.
pub fn read_end(source: impl Read) -> io::Result<BTreeMap<AppName, LeftOut>> {
    let mut decoder = zstd::Decoder::new(source)?.single_frame();
    decoder.window_log_max(WINDOW_LOG)?;
    let mut archive = Archive::new(decoder);
    let mut end = None;
    // Raw: what belongs to a long path is passed by as the rest, with no memory for it.
    for entry in archive.entries()?.raw(true) {
        let entry = entry?;
        if entry.header().entry_type() == EntryType::Regular && *entry.path_bytes() == *END.as_bytes() {
            end = last_line(BufReader::new(entry))?;
        }
    }
    let mut decoder = archive.into_inner();
    io::copy(&mut decoder, &mut io::sink())?;
    let rest = decoder.finish().fill_buf()?.len();
    match end {
        Some(end) if rest == 0 => Ok(end.left_out),
        Some(_) => Err(io::Error::new(ErrorKind::InvalidData, "there is something after its end")),
        None => Err(io::Error::new(ErrorKind::UnexpectedEof, "its last entry is missing")),
    }
}

/// The [`End`] after all [`Entry`]s.
fn last_line(mut lines: impl io::BufRead) -> io::Result<Option<End>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Line {
        Entry(#[allow(dead_code, reason = "what a restore compares")] Entry),
        End(End),
    }
    loop {
        match read_line(&mut lines)?.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? {
            Some(Line::Entry(_)) => {}
            Some(Line::End(end)) => return Ok(Some(end)),
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_backup_has_an_end() {
        let temp = tempfile::tempdir().unwrap();
        let mut archive = super::super::archive::Archive::new(Vec::new(), temp.path(), 0).unwrap();
        archive.file("apps/shop/files/data/a", 300_000, io::repeat(7)).unwrap();
        archive.folder(&format!("apps/shop/files/data/{}/", "long".repeat(100))).unwrap();
        archive.leave_out(&"shop".parse().unwrap(), "data/b", "why");
        let backup = archive.finish().unwrap();
        let left_out = read_end(backup.as_slice()).unwrap();
        assert_eq!(left_out.values().map(|of_app| of_app.files[0].path.as_str()).collect::<Vec<_>>(), ["data/b"]);
        for length in 0..backup.len() {
            assert!(read_end(&backup[..length]).is_err(), "{length}");
        }
        assert!(read_end([backup.as_slice(), b"x"].concat().as_slice()).is_err());
        let mut changed = backup.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(read_end(changed.as_slice()).is_err(), "the checksum does not hold");
        assert!(read_end(b"hello, this is not a backup".as_slice()).is_err());
        // A frame that ends as it should, without the last entry.
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        tar.append_data(&mut header, "minnow-backup.json", io::empty()).unwrap();
        let cut = zstd::encode_all(tar.into_inner().unwrap().as_slice(), 3).unwrap();
        assert_eq!(read_end(cut.as_slice()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
