//! What a command does with the data services: `/run/minnow/http`, a connection each time it is opened.

use std::fs::File;
use std::io::{self, Read, Write};

const HTTP: &str = "/run/minnow/http";

fn open() -> io::Result<File> {
    File::options().read(true).write(true).open(HTTP)
}

/// Writes what is on stdin to a connection, and what that answers to `out`.
pub fn whole(out: &mut impl Write) -> io::Result<()> {
    let mut connection = open()?;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match io::stdin().read(&mut chunk)? {
            0 => break,
            count => connection.write_all(&chunk[..count])?,
        }
    }
    loop {
        match connection.read(&mut chunk)? {
            0 => return Ok(()),
            count => out.write_all(&chunk[..count])?,
        }
    }
}

/// The steps on stdin, each ended by a zero byte; each answers what it has read, or a word, and a zero byte.
///
/// | step | what it does |
/// | --- | --- |
/// | `a REQUEST` | opens, writes, reads to the end, and closes; TOKEN in it stands for the token of the last lock |
/// | `w REQUEST` | opens and writes; the first one is connection 0, and so on |
/// | `r N`, `c N` | reads connection N to its end and closes it; closes it at once |
/// | `s N` | reads the status of the answer on connection N, and leaves it open |
/// | `m` | opens as many as there can be, and closes them |
/// | `f MODE` | opens it as fopen does |
pub fn steps(out: &mut impl Write) -> io::Result<()> {
    let mut all = Vec::new();
    io::stdin().read_to_end(&mut all)?;
    let mut kept = Vec::new();
    let mut token = String::new();
    for step in all.split_inclusive(|byte| *byte == 0) {
        let step = step.strip_suffix(&[0]).unwrap_or(step);
        let mut came = Vec::new();
        let with_token = String::from_utf8_lossy(step).replace("TOKEN", &token);
        let step = if step.starts_with(b"a") { with_token.as_bytes() } else { step };
        if let Err(error) = do_step(step, &mut kept, &mut came) {
            write!(came, "{:?}", error.kind())?;
        }
        if let Some((_, after)) = String::from_utf8_lossy(&came).split_once("\"token\":") {
            token = after.chars().take_while(char::is_ascii_digit).collect();
        }
        came.push(0);
        out.write_all(&came)?;
    }
    Ok(())
}

fn do_step(step: &[u8], kept: &mut Vec<Option<File>>, came: &mut Vec<u8>) -> io::Result<()> {
    let (name, rest) = step.split_first().unwrap_or((&0, &[]));
    let number = || String::from_utf8_lossy(rest).trim().parse().unwrap_or(0_usize);
    match name {
        b'a' => {
            let mut connection = open()?;
            connection.write_all(rest)?;
            connection.read_to_end(came)?;
        }
        b'w' => {
            let mut connection = open()?;
            connection.write_all(rest)?;
            kept.push(Some(connection));
        }
        b'r' => {
            if let Some(mut connection) = kept[number()].take() {
                connection.read_to_end(came)?;
            }
        }
        b's' => {
            if let Some(connection) = &mut kept[number()] {
                let mut status = [0; 12];
                connection.read_exact(&mut status)?;
                came.extend_from_slice(&status);
            }
        }
        b'c' => drop(kept[number()].take()),
        b'm' => {
            let mut many = Vec::new();
            let error = loop {
                match open() {
                    Ok(connection) => many.push(connection),
                    Err(error) => break error,
                }
            };
            write!(came, "{} {:?}", many.len(), error.kind())?;
        }
        b'f' => {
            let mut how = File::options();
            match rest {
                b"r" => how.read(true),
                b"w" => how.write(true).create(true).truncate(true),
                b"w+" => how.read(true).write(true).create(true).truncate(true),
                b"x" => how.read(true).write(true).create_new(true),
                _ => how.read(true).write(true),
            };
            how.open(HTTP)?;
            came.extend_from_slice(b"ok");
        }
        _ => came.extend_from_slice(b"no such step"),
    }
    Ok(())
}
