//! Calls of wasi:filesystem as they are, past what a standard library makes of paths.

use serde_json::{Value, json};
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

use crate::files;

/// [`files::step`], and steps whose `raw` names a call. `in` is the folder that it is made in, `into` that of the new name.
pub fn step(step: &Value) -> Value {
    if step["raw"].is_string() {
        one(step).unwrap_or_else(|error| json!({ "error": error.name() }))
    } else {
        files::step(step)
    }
}

fn one(step: &Value) -> Result<Value, ErrorCode> {
    let text = |name: &str| step[name].as_str().unwrap_or_default();
    let number = |name: &str| step[name].as_u64().unwrap_or_default();
    let folders = get_directories();
    let find = |name: &str| folders.iter().find(|(_, path)| path == name).map(|(folder, _)| folder);
    let folder = find(text("in")).ok_or(ErrorCode::NoEntry)?;
    let into = find(text("into"));
    let path = text("path");
    let open =
        |flags: OpenFlags, rights: DescriptorFlags| folder.open_at(PathFlags::SYMLINK_FOLLOW, path, flags, rights);
    let writable = || open(OpenFlags::CREATE, DescriptorFlags::READ | DescriptorFlags::WRITE);
    match text("raw") {
        "read" => {
            let (bytes, _) = open(OpenFlags::empty(), DescriptorFlags::READ)?.read(4096, 0)?;
            return Ok(json!(String::from_utf8_lossy(&bytes)));
        }
        "folder" => drop(open(OpenFlags::DIRECTORY, DescriptorFlags::READ)?),
        "create" => drop(writable()?),
        "create-new" => drop(open(OpenFlags::CREATE | OpenFlags::EXCLUSIVE, DescriptorFlags::WRITE)?),
        "symlink" => folder.symlink_at(text("to"), path)?,
        "readlink" => return Ok(json!(folder.readlink_at(path)?)),
        "link" => folder.link_at(PathFlags::empty(), path, into.ok_or(ErrorCode::NoEntry)?, text("to"))?,
        "rename" => folder.rename_at(path, into.ok_or(ErrorCode::NoEntry)?, text("to"))?,
        "write" => return Ok(json!(writable()?.write(&vec![b'x'; number("bytes") as usize], number("at"))?)),
        "stream" => return Ok(stream(&writable()?, Some(number("at")), number("bytes"))?),
        "append" => return Ok(stream(&writable()?, None, number("bytes"))?),
        "open-many" => {
            let mut opened = Vec::new();
            while opened.len() < number("n") as usize {
                match open(OpenFlags::CREATE, DescriptorFlags::READ) {
                    Ok(file) => opened.push(file),
                    Err(error) => return Ok(json!({ "error": error.name(), "opened": opened.len() })),
                }
            }
            return Ok(json!(opened.len()));
        }
        "flags" => return Ok(json!(format!("{:?}", folder.get_flags()?))),
        other => return Ok(json!({ "error": format!("no such call: {other}") })),
    }
    Ok(json!("ok"))
}

/// Writes through a stream, without waiting for each piece, and waits at the end.
fn stream(file: &Descriptor, at: Option<u64>, bytes: u64) -> Result<Value, ErrorCode> {
    let stream = match at {
        Some(at) => file.write_via_stream(at)?,
        None => file.append_via_stream()?,
    };
    let ready = stream.subscribe();
    let mut left = bytes;
    let written = (|| {
        while left > 0 {
            ready.block();
            let next = left.min(stream.check_write()?);
            stream.write(&vec![b'x'; next as usize])?;
            left -= next;
        }
        stream.blocking_flush()
    })();
    Ok(match written {
        Ok(()) => json!("ok"),
        Err(wasip2::io::streams::StreamError::LastOperationFailed(error)) => {
            let code = wasip2::filesystem::types::filesystem_error_code(&error);
            json!({ "error": code.map_or("unknown", |code| code.name()) })
        }
        Err(wasip2::io::streams::StreamError::Closed) => json!({ "error": "closed" }),
    })
}
