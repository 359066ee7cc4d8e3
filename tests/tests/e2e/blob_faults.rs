//! Blobs when something goes wrong: kill -9, a full disk, files that are damaged, and functions that race for one key.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use minnow_tests::{App, Connection, Node, Random, Request, until};
use serde_json::{Value, json};

use crate::data_kill::{Round, Writer};

const GRANT: &str = "blob = [\"uploads\"]";

/// What the functions in JavaScript do, by the path after `/js/`; the rest is in the query and the body.
const CALLS_JS: &str = r#"
const calls = {
    put: async ({ UPLOADS }, { key, absent }, request) => ({
        info: await UPLOADS.put(key, request.body ?? "", absent && { onlyIf: { etagDoesNotMatch: "*" } }),
    }),
    delete: ({ UPLOADS }, { key }) => UPLOADS.delete(key),
    text: async ({ UPLOADS }, { key }) => ({ text: await (await UPLOADS.get(key))?.text() ?? null }),
};
export default {
    async fetch(request, env) {
        const { pathname, searchParams } = new URL(request.url);
        try {
            return Response.json(await calls[pathname.slice(4)](env, Object.fromEntries(searchParams), request) ?? {});
        } catch (error) {
            return Response.json({ error: error.message });
        }
    },
};
"#;

/// The app `name`: the guest of the data services, and [`CALLS_JS`] under `/js/`, with one bucket.
fn both(name: &str, bucket: &str) -> App {
    App::new(name)
        .function("wasm", "data-p2", &format!("routes = [\"/blob/{{*rest}}\"]\n{GRANT}"))
        .js("script", "script.js", CALLS_JS, &format!("routes = [\"/js/{{*rest}}\"]\n{GRANT}"))
        .end(&format!("[blob.uploads]\n{bucket}"))
}

/// Calls a function; `None` when the node is gone.
fn call(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Option<Value> {
    let request = Request::get(app, path).method("POST").body(body);
    let answer = Connection::open(node.http).and_then(|connection| connection.exchange(&request)?.rest()).ok()?;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    Some(answer.json())
}

#[track_caller]
fn ask(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Value {
    call(node, app, path, body).unwrap_or_else(|| panic!("no answer to {path}"))
}

fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_default()
}

#[track_caller]
fn fine(answer: Value) -> Value {
    assert_eq!(error(&answer), "", "{answer}");
    answer
}

/// All keys that begin with `prefix`.
fn keys(node: &Node, app: &str, prefix: &str) -> Vec<String> {
    let found = fine(ask(node, app, &format!("/blob/keys?prefix={prefix}"), ""));
    serde_json::from_value(found["keys"].clone()).unwrap()
}

/// The content under a key, read through the wasm guest; `None` where there is none.
fn content(node: &Node, app: &str, key: &str) -> Option<Vec<u8>> {
    let answer = node.get(app, &format!("/blob/get?key={key}"));
    match answer.status {
        200 => Some(answer.body.to_vec()),
        404 => None,
        _ => panic!("{key}: {} {}", answer.status, answer.text()),
    }
}

/// The content files of the app's bucket.
fn files(node: &Node, app: &str) -> Vec<PathBuf> {
    let objects = node.data_dir().join(format!("blob/default/{app}/uploads.objects"));
    let folders = |path: &Path| match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>(),
        Err(_) => Vec::new(),
    };
    folders(&objects).iter().flat_map(|folder| folders(folder)).collect()
}

// What was acknowledged, over kill -9.

/// Content that lies in the index, in a file that is written at once, and in one that is written in pieces.
const SIZES: [usize; 4] = [100, 20_000, 1_500_000, 9_000];

/// The content with a number: that number, again and again. Its size follows from the number, too.
fn numbered(number: u64) -> Vec<u8> {
    let line = format!("{number:010}\n");
    line.repeat(SIZES[number as usize % SIZES.len()] / line.len()).into_bytes()
}

/// The number of the content, which has to be whole.
fn number_of(what: &str, content: &[u8]) -> u64 {
    let first = content.get(..10).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let number = first.unwrap_or_else(|| panic!("{what} has {} bytes of something", content.len()));
    assert!(content == numbered(number), "{what} has {} bytes, half of {number}", content.len());
    number
}

/// The writers of one kind of function.
#[derive(Debug, Default)]
struct Writers {
    /// Puts over what is there.
    replace: Writer,
    /// Puts under a key of its own each time.
    add: Writer,
    /// Puts under the next key, and deletes the one before.
    advance: Writer,
}

/// One round of all writers of both kinds, until the node is gone.
fn write_everything(node: &Node, writers: &[Writers; 2], enough: u64) {
    let app = "blob-ledger";
    let round = &Round::default();
    let put = |kind: &str, key: &str, number: u64| {
        let path = if kind == "js" { "/js/put" } else { "/blob/put" };
        let put = call(node, app, &format!("{path}?key={key}"), numbered(number)).map(fine)?;
        assert_eq!(put["info"]["size"], numbered(number).len(), "{put}");
        Some(())
    };
    let delete = |kind: &str, key: &str| {
        let path = if kind == "js" { "/js/delete" } else { "/blob/delete" };
        call(node, app, &format!("{path}?key={key}"), "").map(fine).map(drop)
    };
    let (put, delete) = (&put, &delete);
    thread::scope(|scope| {
        for (kind, writers) in ["wasm", "js"].into_iter().zip(writers) {
            scope.spawn(move || writers.replace.work(round, |number| put(kind, &format!("{kind}-replaced"), number)));
            scope.spawn(move || {
                writers.add.work(round, |number| put(kind, &format!("{kind}-added-{number:06}"), number));
            });
            scope.spawn(move || {
                let key = |number: u64| format!("{kind}-moving-{number:06}");
                writers.advance.work(round, |number| {
                    put(kind, &key(number), number)?;
                    delete(kind, &key(number - 1))
                });
            });
        }
        round.kill(node, enough);
    });
}

/// Compares what the bucket holds with what was acknowledged.
fn verify_everything(node: &Node, writers: &[Writers; 2]) {
    let app = "blob-ledger";
    for (kind, writers) in ["wasm", "js"].into_iter().zip(writers) {
        let read = |key: &str| content(node, app, key).map(|content| number_of(key, &content));
        writers.replace.ends_with(&format!("{kind} replaced"), read(&format!("{kind}-replaced")).unwrap_or(0));
        let found = |prefix: &str| -> Vec<u64> {
            let keys = keys(node, app, prefix);
            let numbers = keys.iter().map(|key| (key, key.rsplit('-').next().unwrap().parse().unwrap()));
            numbers
                .map(|(key, number)| {
                    assert_eq!(read(key), Some(number), "{key} has something else");
                    number
                })
                .collect()
        };
        writers.add.are(&format!("{kind} added"), &found(&format!("{kind}-added-")));
        // Of those that move there is the last one, and where nobody knows the end, one more or the one before.
        let moving: BTreeSet<u64> = found(&format!("{kind}-moving-")).into_iter().collect();
        let written = writers.advance.0.lock().unwrap();
        let known = written.acknowledged;
        let stray: Vec<_> = moving
            .iter()
            .filter(|&&number| {
                number != known && !written.unsure.contains(&number) && !written.unsure.contains(&(number + 1))
            })
            .collect();
        assert!(stray.is_empty(), "{kind}: {stray:?} were deleted, and are there: {written:?}");
        let lost = known > 0 && !moving.contains(&known) && !written.unsure.contains(&(known + 1));
        assert!(!lost, "{kind}: {known} is lost, {moving:?} are there: {written:?}");
    }
    // Neither half a blob nor one that nobody knows lies about.
    let large = keys(node, app, "").iter().filter(|key| content(node, app, key).unwrap().len() > 16 << 10).count();
    let files = files(node, app);
    assert_eq!(files.len(), large, "{files:?}");
    assert!(!files.iter().any(|file| file.parent().unwrap().ends_with("new")), "{files:?}");
}

#[test]
fn no_blob_that_was_acknowledged_is_lost_or_half_when_the_node_is_killed_again_and_again() {
    let mut random =
        Random::new("no_blob_that_was_acknowledged_is_lost_or_half_when_the_node_is_killed_again_and_again");
    let mut node = Node::start();
    node.serve(&both("blob-ledger", ""));
    let writers = <[Writers; 2]>::default();
    for _ in 0..6 {
        write_everything(&node, &writers, 30 + random.below(120));
        node = node.kill_and_restart();
        verify_everything(&node, &writers);
    }
    for writers in &writers {
        for writer in [&writers.replace, &writers.add, &writers.advance] {
            assert!(writer.0.lock().unwrap().acknowledged > 6, "hardly anything was written: {writers:?}");
        }
    }
}

// A disk that is full, and files that are damaged.

#[test]
fn a_full_disk_is_told_to_who_uploads_and_nothing_is_lost_or_left() {
    let node = Node::builder().disk("64m").start();
    let app = "blob-full";
    node.serve(&App::of_guest(app, "data-p2", GRANT).end("[blob.uploads]"));
    let free = || rustix::fs::statvfs(node.data_dir()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
    let put = |key: &str, bytes: usize| ask(&node, app, &format!("/blob/put?key={key}"), vec![b'x'; bytes]);
    let set = |key: &str, bytes: usize| ask(&node, app, &format!("/blob/set?key={key}"), vec![b'x'; bytes]);
    fine(put("first", 3_000_000));
    fine(set("small", 1000));
    let ballast = node.data_dir().join("ballast");
    fs::write(&ballast, vec![1; (free() - (12 << 20)) as usize]).unwrap();
    let told = |answer: &Value| {
        let error = error(answer);
        let clear = error.contains("no space is left on the disk");
        assert!(clear && !error.contains(node.data_dir().to_str().unwrap()), "{error}");
    };
    let kept = AtomicU64::new(0);
    thread::scope(|scope| {
        // One streams, the other brings all at once.
        for name in ["put", "set"] {
            let (put, set, told, kept) = (&put, &set, &told, &kept);
            scope.spawn(move || {
                for number in 0.. {
                    let key = format!("{name}-{number}");
                    let answer = if name == "put" { put(&key, 1_500_000) } else { set(&key, 1_500_000) };
                    if answer["error"].is_string() {
                        return told(&answer);
                    }
                    kept.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let verify = |large: usize| {
        assert_eq!(content(&node, app, "first").unwrap(), vec![b'x'; 3_000_000]);
        assert_eq!(content(&node, app, "small").unwrap(), vec![b'x'; 1000]);
        for key in keys(&node, app, "").iter().filter(|key| key.contains('-')) {
            assert_eq!(content(&node, app, key).unwrap(), vec![b'x'; 1_500_000], "{key}");
        }
        until("what is not a blob is gone", || files(&node, app).len() == large);
    };
    let kept = kept.into_inner() as usize;
    assert!(kept > 0);
    verify(kept + 1);
    // Not a byte left: what is there is read, and nothing is written.
    let rest = node.data_dir().join("rest");
    let _ = fs::write(&rest, vec![1; free() as usize + 1]);
    told(&set("small", 2000));
    told(&put("new", 100_000));
    verify(kept + 1);
    fs::remove_file(&rest).unwrap();
    fs::remove_file(&ballast).unwrap();
    fine(put("after-1", 1_500_000));
    fine(set("after-2", 1_500_000));
    verify(kept + 3);
}

#[test]
fn a_content_file_that_is_lost_or_cut_fails_its_blob_alone_and_the_log_names_it() {
    let node = Node::start();
    let app = "blob-hurt";
    node.serve(&both(app, ""));
    let whole = || {
        fine(ask(&node, app, "/blob/put?key=whole", vec![b'x'; 50_000]));
        assert_eq!(content(&node, app, "whole").unwrap().len(), 50_000);
        assert_eq!(fine(ask(&node, app, "/js/text?key=whole", ""))["text"].as_str().unwrap().len(), 50_000);
    };
    for (key, cut) in [("cut", Some(99_999)), ("lost", None)] {
        let before = files(&node, app);
        fine(ask(&node, app, &format!("/js/put?key={key}"), vec![b'y'; 100_000]));
        let file = files(&node, app).into_iter().find(|file| !before.contains(file)).unwrap();
        match cut {
            Some(bytes) => fs::File::options().write(true).open(&file).unwrap().set_len(bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let failed = "the store has failed; the log of the node says why";
        let read = || {
            for path in ["/blob/text", "/js/text"] {
                let answer = ask(&node, app, &format!("{path}?key={key}"), "");
                assert_eq!(error(&answer), failed, "{path}: {answer}");
            }
        };
        // The log has so many lines a second of failing calls, and not one for each.
        let shown = file.to_str().unwrap();
        until(&format!("{shown} is told"), || {
            read();
            node.log().lines().any(|line| line.contains(shown) && line.contains(&format!("`{key}`")))
        });
        whole();
        // What is put anew is whole, and what is deleted is gone.
        fine(ask(&node, app, &format!("/blob/put?key={key}"), vec![b'z'; 60_000]));
        assert_eq!(content(&node, app, key).unwrap(), vec![b'z'; 60_000]);
        assert_eq!(fine(ask(&node, app, &format!("/blob/delete?key={key}"), ""))["deleted"], json!(1));
        assert_eq!(content(&node, app, key), None);
    }
}

#[test]
fn of_functions_of_both_kinds_that_race_for_one_key_one_gets_it() {
    let node = Node::start();
    let app = "blob-race";
    node.serve(&both(app, ""));
    for round in 0..20 {
        let bytes = SIZES[round % SIZES.len()];
        let won = AtomicU64::new(0);
        let paths = ["/blob/put?only-if=absent&key", "/js/put?absent=1&key"];
        thread::scope(|scope| {
            for racer in 0..6 {
                let (node, won) = (&node, &won);
                let path = format!("{}=race-{round}", paths[racer % 2]);
                scope.spawn(move || {
                    let content = vec![b'a' + racer as u8; bytes];
                    let put = fine(ask(node, app, &path, content.clone()));
                    if !put["info"].is_null() {
                        assert_eq!(won.fetch_add(1, Relaxed), 0, "two have won");
                        assert_eq!(self::content(node, app, &format!("race-{round}")).unwrap(), content);
                    }
                });
            }
        });
        assert_eq!(won.into_inner(), 1, "nobody has won");
    }
    until("what has lost is gone", || {
        files(&node, app).len()
            == keys(&node, app, "").iter().filter(|key| content(&node, app, key).unwrap().len() > 16 << 10).count()
    });
}
