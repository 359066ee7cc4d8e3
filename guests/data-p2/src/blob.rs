//! Blobs through the SDK.

use std::io::{self, Read, Write};
use std::time::Duration;

use minnow_sdk::blob::{Bucket, Conditions, Error, Get, Info, List, Metadata, Put, Range, Signed, Writer};
use serde_json::{Value, json};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::{
    Done,
    answer::{self, fields},
    request::{Query, wait_ms},
};

/// What is copied at once: a piece of the host's.
const PIECE_BYTES: usize = 256 * 1024;

/// Streams the body of the request into a blob.
pub fn put(query: &Query, request: IncomingRequest) -> Done {
    let bucket = bucket(query)?;
    let mut upload = bucket.upload(query.text("key", ""), &how_to_put(query))?;
    let body = request.consume().map_err(|()| "the request has no body")?;
    let mut stream = body.stream().map_err(|()| "the body was taken")?;
    let bytes = copy(&mut stream, &mut upload)?;
    wait_ms(query.number("hold", 0));
    Ok(json!({ "bytes": bytes, "info": upload.finish()?.map(info) }))
}

/// Streams a blob into the body of the response.
pub fn get(query: &Query, out: ResponseOutparam) {
    let found = bucket(query).and_then(|bucket| bucket.read(query.text("key", ""), &how_to_get(query)));
    let mut reader = match found {
        Ok(Some(reader)) => reader,
        Ok(None) => return answer::with_status(out, 404),
        Err(error) => return answer::json(out, &json!({ "error": error.to_string() })),
    };
    let (size, offset) = (reader.size().to_string(), reader.offset().to_string());
    let mut headers = vec![("content-length", size.as_str()), ("x-offset", &offset), ("etag", &reader.info().etag)];
    if let Some(content_type) = &reader.info().metadata.content_type {
        headers.push(("content-type", content_type));
    }
    let mut sending = answer::start(out, 200, fields(&headers));
    if let Err(error) = copy(&mut reader, &mut sending.stream) {
        // Left as it is, the response is cut off.
        return println!("the blob was not sent: {error}");
    }
    sending.finish(None);
}

pub fn call(what: &str, query: &Query, body: &[u8]) -> Done {
    let bucket = bucket(query)?;
    let key = query.text("key", "");
    Ok(match what {
        // Whole.
        "set" => json!({ "info": bucket.put_with(key, body, &how_to_put(query))?.map(info) }),
        "text" => json!({ "text": bucket.get(key)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) }),
        "head" => json!({ "info": bucket.head(key)?.map(info) }),
        "delete" => json!({ "deleted": bucket.delete_many(&keys(key))? }),
        "list" => {
            let text = |name| Some(query.text(name, "")).filter(|text| !text.is_empty());
            let page = bucket.list(&List {
                prefix: query.text("prefix", ""),
                delimiter: text("delimiter"),
                after: text("after"),
                limit: text("limit").and_then(|limit| limit.parse().ok()),
            })?;
            let keys: Vec<_> = page.blobs.into_iter().map(|blob| blob.key).collect();
            json!({ "keys": keys, "prefixes": page.prefixes, "next": page.next })
        }
        "keys" => {
            let keys: Vec<_> =
                bucket.blobs(query.text("prefix", "")).map(|info| Ok(info?.key)).collect::<Result<_, Error>>()?;
            json!({ "keys": keys })
        }
        "copy" => {
            let to = Bucket::open(query.text("to-store", query.text("store", "uploads")))?;
            let only_if = query.text("only-if", "").eq("absent").then(Conditions::absent);
            json!({ "info": bucket.copy(key, &to, query.text("to", ""), only_if.as_ref())?.map(info) })
        }
        "sign" => {
            let text = |name| Some(query.text(name, "")).filter(|text| !text.is_empty());
            let max_size = text("max-size").and_then(|size| size.parse().ok());
            let signed = match query.text("method", "get") {
                "put" => Signed::Put { max_size, content_type: text("type").map(str::to_owned) },
                _ => Signed::Get,
            };
            json!({ "url": bucket.signed_url(key, &signed, Duration::from_secs(query.number("expires", 60)))? })
        }
        // So many bytes of the guest's own, and what becomes of the upload then.
        "fill" => {
            let mut upload = bucket.upload(key, &how_to_put(query))?;
            if let Err(error) = fill(&mut upload, query.number("bytes", 1)) {
                return Ok(
                    json!({ "written": error.to_string(), "finished": upload.finish().map_err(|error| error.to_string()).err() }),
                );
            }
            match query.text("end", "finish") {
                "drop" => drop(upload),
                "trap" => panic!("in the middle of an upload"),
                "forget" => std::mem::forget(upload),
                "stay" => wait_ms(60_000),
                _ => return Ok(json!({ "info": upload.finish()?.map(info) })),
            }
            json!({})
        }
        // So many at once.
        "uploads" => {
            let mut open = Vec::new();
            let mut refused = None;
            for index in 0..query.number("n", 10) {
                match bucket.upload(&format!("{key}{index}"), &Put::default()) {
                    Ok(upload) => open.push(upload),
                    Err(error) => {
                        refused = Some(error.to_string());
                        break;
                    }
                }
            }
            let count = open.len();
            for upload in &mut open {
                fill(upload, query.number("bytes", 1))?;
            }
            for upload in open {
                upload.finish()?;
            }
            json!({ "open": count, "refused": refused })
        }
        // So many that nobody reads, or of which only the first bytes are read.
        "readers" => {
            let mut open = Vec::new();
            let mut refused = None;
            let mut first = vec![0; query.number("read", 0) as usize];
            for _ in 0..query.number("n", 10) {
                match bucket.read(key, &Get::default()) {
                    Ok(Some(reader)) => open.push(reader),
                    Ok(None) => return Err("there is no such blob".into()),
                    Err(error) => {
                        refused = Some(error.to_string());
                        break;
                    }
                }
            }
            for reader in &mut open {
                reader.read_exact(&mut first)?;
            }
            wait_ms(query.number("hold", 0));
            json!({ "open": open.len(), "refused": refused })
        }
        // A reader goes on with what it has begun, whatever is done to the blob.
        "overtaken" => {
            let mut reader = bucket.read(key, &Get::default())?.ok_or("there is no such blob")?;
            let mut first = [0; 1];
            reader.read_exact(&mut first)?;
            bucket.put(key, b"another")?;
            bucket.delete(key)?;
            json!({ "bytes": 1 + io::copy(&mut reader, &mut io::sink())? })
        }
        _ => return Err("no such call".into()),
    })
}

fn bucket(query: &Query) -> Result<Bucket, Error> {
    Bucket::open(query.text("store", "uploads"))
}

fn keys(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// Like [`io::copy`], in larger pieces.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(bytes);
        }
        to.write_all(&piece[..count])?;
        bytes += count as u64;
    }
}

fn fill(upload: &mut Writer, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(b'b').take(bytes), upload).map(drop)
}

fn how_to_put(query: &Query) -> Put {
    let text = |name| Some(query.text(name, "")).filter(|text| !text.is_empty());
    let metadata = Metadata {
        content_type: text("type").map(str::to_owned),
        custom: text("custom").map(|value| ("custom".to_owned(), value.to_owned())).into_iter().collect(),
        ..Metadata::default()
    };
    let only_if = match text("only-if") {
        Some("absent") => Some(Conditions::absent()),
        Some(etag) => Some(Conditions::is(etag)),
        None => None,
    };
    Put { metadata, only_if }
}

fn how_to_get(query: &Query) -> Get {
    let text = |name| Some(query.text(name, "")).filter(|text| !text.is_empty());
    let range = match (text("last"), text("from"), text("length")) {
        (Some(_), ..) => Some(Range::Last(query.number("last", 0))),
        (None, from, Some(_)) => {
            Some(Range::Part(from.map_or(0, |_| query.number("from", 0)), query.number("length", 0)))
        }
        (None, Some(_), None) => Some(Range::From(query.number("from", 0))),
        (None, None, None) => None,
    };
    Get { range, only_if: text("only-if").map(Conditions::is) }
}

fn info(info: Info) -> Value {
    json!({
        "key": info.key, "size": info.size, "etag": info.etag, "uploaded_ms": info.uploaded_ms,
        "type": info.metadata.content_type, "custom": info.metadata.custom,
    })
}
