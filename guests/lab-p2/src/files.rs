//! Does with files what it is told to, in JSON: a list of steps, answered with a list of what came of them. Only the standard library,
//! so that guests of every kind do the same.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};

use serde_json::{Value, json};

/// What is written at once.
const PIECE_BYTES: usize = 64 * 1024;

thread_local! {
    /// Files that stay open until they are released, or the instance ends.
    static HELD: RefCell<Vec<File>> = const { RefCell::new(Vec::new()) };
}

/// What came of each of the steps.
pub fn all(steps: &[u8], step: impl Fn(&Value) -> Value) -> Value {
    let Ok(Value::Array(steps)) = serde_json::from_slice(steps) else { return json!("not a list") };
    steps.iter().map(step).collect()
}

/// What came of a step; the kind of error where it failed.
pub fn step(step: &Value) -> Value {
    one(step).unwrap_or_else(|error| json!({ "error": kind(&error) }))
}

fn kind(error: &io::Error) -> String {
    match format!("{:?}", error.kind()).as_str() {
        "Uncategorized" => error.to_string(),
        kind => kind.to_owned(),
    }
}

fn one(step: &Value) -> io::Result<Value> {
    let text = |name: &str| step[name].as_str().unwrap_or_default();
    let number = |name: &str| step[name].as_u64().unwrap_or_default();
    let path = text("path");
    match text("do") {
        "write" => fs::write(path, text("text"))?,
        "fill" => return fill(File::create(path)?, number("bytes")),
        "append" => {
            let mut file = OpenOptions::new().append(true).create(true).open(path)?;
            file.write_all(text("text").as_bytes())?;
            if step["sync"] == true {
                file.sync_all()?;
            }
        }
        "grow" => return fill(OpenOptions::new().append(true).open(path)?, number("bytes")),
        "overwrite" => {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.seek(SeekFrom::Start(number("at")))?;
            return fill(file, number("bytes"));
        }
        "resize" => OpenOptions::new().write(true).open(path)?.set_len(number("bytes"))?,
        "read" => return Ok(json!(fs::read_to_string(path)?)),
        "size" => return Ok(json!(fs::metadata(path)?.len())),
        "list" => {
            let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<io::Result<Vec<String>>>()?;
            names.sort();
            return Ok(json!(names));
        }
        "remove" => fs::remove_file(path)?,
        "make-folder" => fs::create_dir_all(path)?,
        "remove-folder" => fs::remove_dir_all(path)?,
        "rename" => fs::rename(path, text("to"))?,
        "link" => fs::hard_link(path, text("to"))?,
        "hold" => {
            let file = OpenOptions::new().read(true).open(path)?;
            HELD.with_borrow_mut(|held| held.push(file));
        }
        "release" => HELD.with_borrow_mut(Vec::clear),
        "many" => {
            let made = (0..number("n")).map(|n| File::create(format!("{path}{n}"))).take_while(Result::is_ok);
            return Ok(json!(made.count()));
        }
        other => return Ok(json!({ "error": format!("no such step: {other}") })),
    }
    Ok(json!("ok"))
}

/// Writes `bytes`, or as many as go.
fn fill(mut file: File, bytes: u64) -> io::Result<Value> {
    let piece = vec![b'x'; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let next = left.min(PIECE_BYTES as u64);
        if let Err(error) = file.write_all(&piece[..next as usize]) {
            return Ok(json!({ "error": kind(&error), "written": bytes - left }));
        }
        left -= next;
    }
    Ok(json!("ok"))
}
