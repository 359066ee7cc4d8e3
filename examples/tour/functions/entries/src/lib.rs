//! The entries of the guestbook: `GET /guestbook/api/entries` lists the newest, `?after=ID` only those after one of them;
//! `POST` with `{"name", "text", "photo"}` adds one. A photo is the key of one that was uploaded, and may be left out.

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minnow_sdk::{
    blob::{Bucket, Signed},
    kv::Store,
    sql::Database,
};
use serde::{Deserialize, Serialize};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// Entries in a list.
const SHOWN: i64 = 50;
/// How long the URL of a photo is good. A page that stays open longer has loaded its photos.
const PHOTO_EXPIRES: Duration = Duration::from_secs(60 * 60);
/// The longest name and text, in characters, and the longest request, in bytes.
const MAX_NAME: usize = 40;
const MAX_TEXT: usize = 500;
const MAX_REQUEST: u64 = 8 << 10;
/// Bytes of a UUID as text.
const MAX_PHOTO_KEY: usize = 36;

#[derive(Deserialize)]
struct NewEntry {
    name: String,
    text: String,
    photo: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    id: i64,
    name: String,
    text: String,
    /// A URL.
    photo: Option<String>,
    written_ms: i64,
}

/// What the client is told: the status, and what to say.
type Refusal = (u16, String);

struct Entries;

impl Guest for Entries {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let answered = match request.method() {
            Method::Get => list(&request),
            Method::Post => add(&request),
            _ => Err((405, "use GET or POST".into())),
        };
        match answered {
            Ok((status, body)) => answer(out, status, &body),
            Err((status, error)) => answer(out, status, &serde_json::json!({ "error": error }).to_string()),
        }
    }
}

wasip2::http::proxy::export!(Entries);

fn list(request: &IncomingRequest) -> Result<(u16, String), Refusal> {
    let after = after(&request.path_with_query().unwrap_or_default())?;
    let (main, photos) = (Database::open("main").map_err(failed)?, Bucket::open("photos").map_err(failed)?);
    let rows = main.run(
        "SELECT id, name, text, photo, written_ms FROM entry WHERE id > ?1 ORDER BY id DESC LIMIT ?2",
        (after, SHOWN),
    );
    let mut entries = Vec::new();
    for row in rows.map_err(failed)?.iter() {
        let photo: Option<String> = row.get("photo").map_err(failed)?;
        let photo = photo.map(|key| photos.signed_url(&key, &Signed::Get, PHOTO_EXPIRES)).transpose();
        entries.push(Entry {
            id: row.get("id").map_err(failed)?,
            name: row.get("name").map_err(failed)?,
            text: row.get("text").map_err(failed)?,
            photo: photo.map_err(failed)?,
            written_ms: row.get("written_ms").map_err(failed)?,
        });
    }
    Ok((200, serde_json::to_string(&entries).map_err(failed)?))
}

/// The number in `?after=`; 0 without.
fn after(path: &str) -> Result<i64, Refusal> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    match query.split('&').find_map(|pair| pair.strip_prefix("after=")) {
        Some(id) => id.parse().map_err(|_| (400, "`after` is the number of an entry".into())),
        None => Ok(0),
    }
}

fn add(request: &IncomingRequest) -> Result<(u16, String), Refusal> {
    let entry: NewEntry = serde_json::from_slice(&body(request))
        .map_err(|error| (400, format!("send {{\"name\", \"text\"}}: {error}")))?;
    let (name, text) = (entry.name.trim(), entry.text.trim());
    if name.is_empty() || text.is_empty() {
        return Err((400, "a name and a text are needed".into()));
    }
    if name.chars().count() > MAX_NAME || text.chars().count() > MAX_TEXT {
        return Err((400, format!("a name has at most {MAX_NAME} characters, a text {MAX_TEXT}")));
    }
    if let Some(photo) = &entry.photo
        && !is_uploaded(photo)?
    {
        return Err((400, "there is no such photo; upload it first".into()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
    let main = Database::open("main").map_err(failed)?;
    let added = main.run(
        "INSERT INTO entry (name, text, photo, written_ms) VALUES (?1, ?2, ?3, ?4)",
        (name, text, entry.photo.as_deref(), now),
    );
    let id = added.map_err(failed)?.last_insert_rowid;
    // The entry is on the disk now, so it is not refused for the sake of a counter.
    if let Err(error) = Store::open("counters").and_then(|counters| counters.increment("entries", 1)) {
        eprintln!("entry {id} is not counted: {error}");
    }
    Ok((201, serde_json::json!({ "id": id }).to_string()))
}

fn is_uploaded(photo: &str) -> Result<bool, Refusal> {
    // Keys of photos are UUIDs. What is longer is not worth a look.
    if photo.is_empty() || photo.len() > MAX_PHOTO_KEY {
        return Ok(false);
    }
    let photos = Bucket::open("photos").map_err(failed)?;
    Ok(photos.head(photo).map_err(failed)?.is_some())
}

/// For the log the reason, for the client that there is one.
fn failed(error: impl std::fmt::Display) -> Refusal {
    eprintln!("{error}");
    (500, "the guestbook cannot be read or written now".into())
}

fn body(request: &IncomingRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume()
        && let Ok(stream) = body.stream()
    {
        // What is longer is cut off, and then no JSON.
        let _ = stream.take(MAX_REQUEST).read_to_end(&mut bytes);
    }
    bytes
}

fn answer(out: ResponseOutparam, status: u16, json: &str) {
    let headers = Fields::from_list(&[("content-type".to_owned(), b"application/json".to_vec())]);
    let response = OutgoingResponse::new(headers.unwrap_or_else(|_| Fields::new()));
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(out, Ok(response));
    if let Ok(mut stream) = body.write() {
        // Fails only when the client has gone.
        let _ = stream.write_all(json.as_bytes());
    }
    let _ = OutgoingBody::finish(body, None);
}
