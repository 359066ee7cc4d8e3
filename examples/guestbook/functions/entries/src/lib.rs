//! The entries of the guestbook: `GET /api/entries` lists the newest, `POST /api/entries` with `{"name", "text"}` adds one.

use std::io::{Read as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use minnow_sdk::{kv::Store, sql::Database};
use serde::{Deserialize, Serialize};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// Entries in a list.
const SHOWN: i64 = 50;
/// The longest name and text, in characters, and the longest request, in bytes.
const MAX_NAME: usize = 40;
const MAX_TEXT: usize = 500;
const MAX_REQUEST: u64 = 8 << 10;

#[derive(Deserialize)]
struct NewEntry {
    name: String,
    text: String,
}

#[derive(Serialize)]
struct Entry {
    id: i64,
    name: String,
    text: String,
    written_ms: i64,
}

/// What the client is told: the status, and what to say.
type Refusal = (u16, String);

struct Entries;

impl Guest for Entries {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let answered = match request.method() {
            Method::Get => list(),
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

fn list() -> Result<(u16, String), Refusal> {
    let main = Database::open("main").map_err(failed)?;
    let rows = main.run("SELECT id, name, text, written_ms FROM entry ORDER BY id DESC LIMIT ?1", (SHOWN,));
    let rows = rows.map_err(failed)?;
    let entry = |row: minnow_sdk::sql::Row<'_>| {
        Ok(Entry {
            id: row.get("id")?,
            name: row.get("name")?,
            text: row.get("text")?,
            written_ms: row.get("written_ms")?,
        })
    };
    let entries: Result<Vec<Entry>, minnow_sdk::sql::Error> = rows.iter().map(entry).collect();
    Ok((200, serde_json::to_string(&entries.map_err(failed)?).map_err(failed)?))
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
    let main = Database::open("main").map_err(failed)?;
    let added = main.run("INSERT INTO entry (name, text, written_ms) VALUES (?1, ?2, ?3)", (name, text, now));
    let id = added.map_err(failed)?.last_insert_rowid;
    Store::open("counters").and_then(|counters| counters.increment("entries", 1)).map_err(failed)?;
    let entry = Entry { id, name: name.into(), text: text.into(), written_ms: now };
    Ok((201, serde_json::to_string(&entry).map_err(failed)?))
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
