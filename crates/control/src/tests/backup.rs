//! Backups that are damaged or made up, and what a restore brings back. The whole way, on a real node, is tested end to end.

use std::{collections::BTreeMap, fs, io::Read as _, time::Duration};

use futures::StreamExt as _;
use http::Method;
use minnow_model::{Digest, StoreId, Tenant};
use minnow_store::{
    OpenBounds,
    rusqlite::Connection,
    sql::{Access, Statement},
};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::Node;

/// An entry of a backup.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    kind: EntryType,
    path: String,
    target: String,
    content: Vec<u8>,
    /// What the header says, where that is not the length of the content.
    size: Option<u64>,
}

fn file(path: &str, content: impl Into<Vec<u8>>) -> Entry {
    Entry { kind: EntryType::Regular, path: path.into(), target: String::new(), content: content.into(), size: None }
}

fn entries(backup: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(backup).unwrap());
    let read = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        Entry { kind: entry.header().entry_type(), path, target: String::new(), content, size: None }
    });
    read.collect()
}

/// A tar of these entries, as they are.
fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_size(entry.size.unwrap_or(entry.content.len() as u64));
        // By hand: the library refuses names that lead elsewhere.
        let old = header.as_old_mut();
        let name = entry.path.as_bytes();
        old.name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        let target = entry.target.as_bytes();
        old.linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&entry.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn pack(entries: &[Entry]) -> Vec<u8> {
    zstd::encode_all(tar(entries).as_slice(), 3).unwrap()
}

const END: &str = "minnow-backup.end.jsonl";

/// The entries with an end that is right for them.
fn with_end(entries: &[Entry]) -> Vec<Entry> {
    let mut all: Vec<Entry> = entries.iter().filter(|entry| entry.path != END).cloned().collect();
    let (mut end, mut bytes) = (String::new(), 0);
    for entry in &all {
        let hashed = if entry.kind == EntryType::Symlink { entry.target.as_bytes() } else { &entry.content };
        bytes += entry.content.len();
        let line = json!({ "path": entry.path, "size": entry.content.len(), "sha256": Digest::of(hashed).hex() });
        end.push_str(&format!("{line}\n"));
    }
    end.push_str(&format!("{}\n", json!({ "entries": all.len(), "bytes": bytes })));
    all.push(file(END, end));
    all
}

impl Node {
    async fn backup(&self, app: &str) -> Vec<u8> {
        let answer = self.get(&format!("/v1/backup?app={app}")).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.headers["content-type"], "application/zstd");
        self.no_leftovers();
        answer.body
    }

    async fn restore(&self, query: &str, backup: impl Into<Vec<u8>>) -> super::Answer {
        self.call(Method::POST, &format!("/v1/restore?{query}"), backup.into()).await
    }

    /// Restores what has to be refused, and answers why.
    async fn refuse(&self, what: &str, backup: Vec<u8>) -> String {
        let answer = self.restore("", backup).await;
        assert!(answer.status.is_client_error(), "{what}: {}", String::from_utf8_lossy(&answer.body));
        self.no_leftovers();
        for kind in ["kv", "sql", "blob", "files"] {
            assert!(!self.root.join(kind).join("default/shop").exists(), "{what}: {kind}");
        }
        self.get("/v1/apps/shop").await.problem("not_found");
        answer.json()["detail"].as_str().unwrap_or_default().to_owned()
    }

    fn no_leftovers(&self) {
        let entries = fs::read_dir(self.root.join("tmp")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> =
            names.filter(|name| [".", "backup-", "restore-"].iter().any(|start| name.starts_with(start))).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    async fn shop(&self) {
        self.serve("shop", "1.0.0", &[("1.sql", "CREATE TABLE t (a)")]).await;
        self.serve("shop", "1.1.0", &[("1.sql", "CREATE TABLE t (a)"), ("2.sql", "CREATE TABLE u (a)")]).await;
        self.deploy("shop", &json!({ "version": "1.0.0", "weight": 20 }).to_string()).await.ok(200);
        self.set("shop", "kept").await;
        let query = json!({ "sql": "INSERT INTO t VALUES (?)", "params": ["row"] }).to_string();
        self.call(Method::POST, "/v1/apps/shop/sql/main/query", query).await.ok(200);
        for value in ["1", "2"] {
            self.call(Method::PATCH, "/v1/apps/shop/config", json!({ "MODE": value }).to_string()).await.ok(200);
        }
        self.call(Method::PUT, "/v1/apps/shop/secrets/TOKEN", json!({ "value": "hush" }).to_string()).await.ok(201);
    }

    /// All that the API tells of an app.
    async fn told(&self, app: &str) -> BTreeMap<String, Value> {
        let mut told = BTreeMap::new();
        for path in ["", "/versions", "/config", "/config/history", "/secrets"] {
            let mut answer = self.get(&format!("/v1/apps/{app}{path}")).await.ok(200);
            // Counted since the start of the node.
            answer.as_object_mut().map(|answer| answer.remove("traffic"));
            // Of the node's key file.
            for entry in answer.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                entry.remove("readable");
            }
            told.insert(path.into(), answer);
        }
        let value = self.get(&format!("/v1/apps/{app}/kv/sessions/value?key=a")).await;
        told.insert("kv".into(), json!([value.body, value.headers["minnow-version"].to_str().unwrap()]));
        for sql in ["SELECT a FROM t", "SELECT * FROM _minnow_migrations", "SELECT a FROM u"] {
            let query = json!({ "sql": sql, "read_only": true }).to_string();
            let rows = self.call(Method::POST, &format!("/v1/apps/{app}/sql/main/query"), query).await.ok(200);
            told.insert(sql.into(), rows);
        }
        told
    }
}

#[tokio::test]
async fn all_that_belongs_to_an_app_comes_back() {
    let one = Node::new().await;
    one.shop().await;
    let before = one.told("shop").await;
    let backup = one.backup("shop").await;
    let two = Node::new().await;
    let restored = two.restore("", backup.clone()).await.ok(200);
    let app = &restored["apps"][0];
    assert_eq!((&app["app"], &app["versions"], &app["secrets"]), (&json!("shop"), &json!(2), &json!(1)));
    assert_eq!(app["deployment"]["revision"], 3);
    let stores: Vec<_> = app["stores"].as_array().unwrap().iter().map(|store| &store["name"]).collect();
    assert_eq!(stores, ["sessions", "main"]);
    // Another key file.
    let unreadable = app["unreadable_secrets"][0]["detail"].as_str().unwrap();
    assert!(
        unreadable.contains("key file does not hold") && unreadable.contains("set the secret again"),
        "{unreadable}"
    );
    let after = two.told("shop").await;
    assert_eq!(before, after);
    assert_eq!(two.live("shop"), ["1.1.0:80", "1.0.0:20"]);
    two.no_leftovers();
    // It is the app that it was: nothing has to run again, and the next change goes on from there.
    two.deploy("shop", &json!({ "version": "1.1.0" }).to_string()).await.ok(200);
    assert_eq!(two.get("/v1/apps/shop").await.ok(200)["deployment"]["revision"], 4);
    two.control().reconcile().await.unwrap();

    // There is one now.
    let detail = two.restore("", backup.clone()).await.problem("conflict")["detail"].to_string();
    assert!(detail.contains("--replace") && detail.contains("--as"), "{detail}");
    two.set("shop", "newer").await;
    two.restore("replace=true", backup.clone()).await.ok(200);
    assert_eq!(before, two.told("shop").await);
    let kept = two.get("/v1/usage").await.ok(200);
    assert_eq!(kept["deleted"][0]["app"], "shop", "{kept}");

    // Under another name it is as if it had been published under that.
    let restored = two.restore("rename=other", backup.clone()).await.ok(200);
    assert_eq!(restored["apps"][0]["secrets"], 1);
    let (shop, other) = (two.told("shop").await, two.told("other").await);
    assert_eq!((&shop["kv"], &shop["/config"]), (&other["kv"], &other["/config"]));
    assert_eq!(two.live("other"), ["1.1.0:80", "1.0.0:20"]);
    let published = two
        .publish("other", "1.0.0", &super::stores::bundle("other", "1.0.0", &[("1.sql", "CREATE TABLE t (a)")]))
        .await;
    let (digest, bundled) = (&published.json()["digest"], &other["/versions"][1]["digest"]);
    assert_ne!(digest, bundled, "the page says another name");

    // Where the key is, secrets open; also under another name.
    let restored = one.restore("rename=again", backup.clone()).await.ok(200);
    assert_eq!(restored["apps"][0]["unreadable_secrets"], json!([]));
    // All of it survives a crash.
    let mut two = two;
    two.restart().await;
    assert_eq!(two.live("shop"), ["1.1.0:80", "1.0.0:20"]);
    assert_eq!(shop, two.told("shop").await);
}

#[tokio::test]
async fn several_apps_are_in_one_backup_and_one_of_them_can_be_taken() {
    let one = Node::new().await;
    one.shop().await;
    one.serve("blog", "1.0.0", &[]).await;
    one.set("blog", "b").await;
    let backup = one.get("/v1/backup").await.body;
    let named: Value = serde_json::from_slice(&entries(&backup)[0].content).unwrap();
    assert_eq!(named["apps"], json!(["blog", "shop"]));
    let two = Node::new().await;
    let restored = two.restore("app=blog", backup.clone()).await.ok(200);
    assert_eq!(restored["apps"].as_array().unwrap().len(), 1);
    two.get("/v1/apps/shop").await.problem("not_found");
    // Nothing of the other is left either.
    let usage = two.get("/v1/usage").await.ok(200);
    assert_eq!(usage["apps"].as_array().unwrap().len(), 1, "{usage}");
    two.restore("rename=x", backup.clone()).await.problem("invalid");
    let detail = two.restore("app=nobody", backup.clone()).await.problem("invalid")["detail"].to_string();
    assert!(detail.contains("no app `nobody` in the backup, which has blog, shop"), "{detail}");
    // One of them is there: none is changed.
    two.restore("", backup.clone()).await.problem("conflict");
    two.get("/v1/apps/shop").await.problem("not_found");
    let three = Node::new().await;
    assert_eq!(three.restore("", backup).await.ok(200)["apps"].as_array().unwrap().len(), 2);
    let detail = three.get("/v1/backup?app=shop,nobody").await.problem("not_found")["detail"].to_string();
    assert!(detail.contains("nobody"), "{detail}");
    three.get("/v1/backup?app=Shop").await.problem("invalid");
    Node::new().await.get("/v1/backup").await.problem("conflict");
}

#[tokio::test]
async fn a_backup_that_is_cut_off_anywhere_is_refused() {
    let one = Node::new().await;
    one.shop().await;
    let backup = one.backup("shop").await;
    let two = Node::new().await;
    for length in 0..backup.len() {
        let detail = two.refuse(&format!("{length} of {}", backup.len()), backup[..length].to_vec()).await;
        assert!(detail.contains("cut off"), "{length} of {}: {detail}", backup.len());
    }
    // The same where only what is inside is cut off.
    let inner = zstd::decode_all(backup.as_slice()).unwrap();
    for length in (0..inner.len() - 1024).step_by(509) {
        two.refuse(&format!("{length} inside"), zstd::encode_all(&inner[..length], 3).unwrap()).await;
    }
    two.restore("", backup).await.ok(200);
}

#[tokio::test]
async fn a_byte_that_is_changed_in_any_entry_is_found() {
    let one = Node::new().await;
    one.shop().await;
    let backup = one.backup("shop").await;
    let two = Node::new().await;
    // In what is compressed.
    let inner = zstd::decode_all(backup.as_slice()).unwrap();
    for at in (0..backup.len()).step_by(13).chain(backup.len() - 8..backup.len()) {
        let mut changed = backup.clone();
        changed[at] ^= 0x10;
        // A few bits of what zstd writes mean nothing.
        if zstd::decode_all(changed.as_slice()).is_ok_and(|decoded| decoded == inner) {
            continue;
        }
        let detail = two.refuse(&format!("byte {at}"), changed).await;
        assert!(detail.contains("refused"), "byte {at}: {detail}");
    }
    // And in each entry, compressed anew.
    let good = entries(&backup);
    assert!(good.len() > 8, "{good:?}");
    for index in 0..good.len() {
        for at in [0, good[index].content.len() / 2, good[index].content.len() - 1] {
            let mut changed = good.clone();
            changed[index].content[at] ^= 0x01;
            let detail = two.refuse(&format!("{} at {at}", good[index].path), pack(&changed)).await;
            assert!(!detail.is_empty());
            if good[index].path.starts_with("apps") {
                assert!(detail.contains(&good[index].path), "{}: {detail}", good[index].path);
            }
        }
        // Left out, twice, and in another place.
        let mut without = good.clone();
        let taken = without.remove(index);
        two.refuse(&format!("without {}", taken.path), pack(&without)).await;
        let mut twice = good.clone();
        twice.insert(index, taken.clone());
        two.refuse(&format!("{} twice", taken.path), pack(&twice)).await;
        if let Some(moved) = (index + 2 < good.len()).then(|| {
            let mut moved = good.clone();
            moved.swap(index, index + 1);
            moved
        }) {
            two.refuse(&format!("{} moved", taken.path), pack(&moved)).await;
        }
    }
    // Packed by somebody else it is a backup.
    two.restore("", pack(&with_end(&good))).await.ok(200);
}

/// A database made with `sql`, as a file has it.
fn database(sql: &str) -> Vec<u8> {
    minnow_store::sql::SqlLimits::default();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    fs::read(path).unwrap()
}

#[tokio::test]
async fn a_backup_that_somebody_made_up_is_refused() {
    let one = Node::new().await;
    one.shop().await;
    let good = entries(&one.backup("shop").await);
    let two = Node::new().await;
    let outside = two.root.parent().unwrap().join("outside");
    let add = |entry: Entry| {
        let mut all = good.clone();
        all.insert(all.len() - 1, entry);
        pack(&with_end(&all))
    };
    let of = |kind, path: &str, target: &str| Entry { kind, target: target.into(), ..file(path, "") };
    let outside_text = outside.to_str().unwrap();
    let many = "a/".repeat(5000);
    let link = |path: &str, target: &str| of(EntryType::Symlink, path, target);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a path upwards", add(file("../outside", "x")), "which no backup has"),
        ("a path upwards inside", add(file("apps/shop/kv/../../../../outside", "x")), "which no backup has"),
        (
            "a path upwards in a volume",
            add(file("apps/shop/files/data/../../../../../outside", "x")),
            "which no backup has",
        ),
        ("an absolute path", add(file(outside_text, "x")), "which no backup has"),
        ("a file of the node", add(file("secrets.key", "x")), "which no backup has"),
        ("another file of a store", add(file("apps/shop/kv/sessions.db-wal", "x")), "which no backup has"),
        ("an app that is not named", add(file("apps/other/kv/a.db", "x")), "does not name"),
        ("a link instead of a store", add(link("apps/shop/kv/x.db", outside_text)), "not of the kind"),
        ("a folder instead of a store", add(of(EntryType::Directory, "apps/shop/kv/x.db/", "")), "not of the kind"),
        ("a link instead of a volume", add(link("apps/shop/files/data", "/etc")), "not of the kind"),
        ("a file instead of a volume", add(file("apps/shop/files/data", "x")), "not of the kind"),
        ("a hard link", add(of(EntryType::Link, "apps/shop/files/data/x", "/etc/passwd")), "kind that no backup has"),
        ("a device", add(of(EntryType::Char, "apps/shop/files/data/x", "")), "kind that no backup has"),
        ("a sparse file", add(of(EntryType::GNUSparse, "apps/shop/files/data/x", "")), "kind that no backup has"),
        (
            "extended headers",
            add(Entry { kind: EntryType::XHeader, ..file("x", "12 path=abc\n") }),
            "kind that no backup has",
        ),
        (
            "a path that is too long",
            add(Entry { kind: EntryType::GNULongName, ..file("././@LongLink", many.as_bytes()) }),
            "the most is 4096",
        ),
        (
            "a store that is too large",
            add(Entry { size: Some(1 << 40), ..file("apps/shop/kv/x.db", "") }),
            "the most is 10737418240",
        ),
        (
            "content that is too large",
            add(file(&format!("blobs/sha256/{}", Digest::of(&vec![0; 17 << 20]).hex()), vec![0; 17 << 20])),
            "the most is",
        ),
        (
            "content of another name",
            add(file(&format!("blobs/sha256/{}", Digest::of(b"a").hex()), "b")),
            "other content",
        ),
        ("a store that is none", add(file("apps/shop/kv/x.db", "x".repeat(4096))), "is damaged"),
        ("an empty store", add(file("apps/shop/kv/x.db", "")), "is damaged"),
        ("other tables", add(file("apps/shop/kv/x.db", database("CREATE TABLE a (b)"))), "is damaged"),
        (
            "a bucket without an index",
            add(file(&format!("apps/shop/blob/b.objects/00/{}", "0".repeat(32)), "x")),
            "is damaged",
        ),
    ];
    for (what, backup, part) in cases {
        let detail = two.refuse(what, backup).await;
        assert!(detail.contains(part), "{what}: {detail}");
    }
    // Through a link of the volume itself.
    let mut all = good.clone();
    let at = all.len() - 1;
    all.insert(at, file("apps/shop/files/data/up/outside", "x"));
    all.insert(at, link("apps/shop/files/data/up", outside.parent().unwrap().to_str().unwrap()));
    let detail = two.refuse("through a link", pack(&with_end(&all))).await;
    assert!(detail.contains("beyond a symbolic link"), "{detail}");
    for (first, second) in [
        (link("apps/shop/files/data/a", "/etc"), file("apps/shop/files/data/a", "x")),
        (file("apps/shop/files/data/a", "x"), link("apps/shop/files/data/a", "/etc")),
        (file("apps/shop/files/data/a", "x"), file("apps/shop/files/data/a", "x")),
        (file("apps/shop/files/data/a", "x"), file("apps/shop/files/data/a/b", "x")),
        (file("apps/shop/files/data/a/b", "x"), file("apps/shop/files/data/a", "x")),
        (link("apps/shop/files/data", "/etc"), file("apps/shop/files/data/passwd", "x")),
    ] {
        let what = format!("{first:?} and {second:?}");
        let mut all = good.clone();
        all.splice(at..at, [first, second]);
        two.refuse(&what, pack(&with_end(&all))).await;
    }

    let replaced = |path: &str, content: &[u8]| {
        let mut all = good.clone();
        let found = all.iter_mut().find(|entry| entry.path.ends_with(path)).unwrap();
        found.content = content.to_vec();
        pack(&with_end(&all))
    };
    let head = &good[0].content;
    let newer = String::from_utf8(head.clone()).unwrap().replace("\"format\":1", "\"format\":2");
    assert!(two.refuse("a newer format", replaced("minnow-backup.json", newer.as_bytes())).await.contains("format 2"));
    two.refuse("no head", replaced("minnow-backup.json", b"{}")).await;
    let rows = String::from_utf8(good[1].content.clone()).unwrap();
    assert!(good[1].path.ends_with("app.jsonl"));
    let lines: Vec<&str> = rows.lines().collect();
    for index in 0..lines.len() {
        let mut twice = lines.clone();
        twice.insert(index, lines[index]);
        let what = format!("{} twice", lines[index]);
        two.refuse(&what, replaced("app.jsonl", format!("{}\n", twice.join("\n")).as_bytes())).await;
    }
    for (what, from, to) in [
        ("no JSON", "{\"app\"", "{\"app"),
        ("an unknown row", "{\"app\"", "{\"api\""),
        ("a share of nothing", "\"weight\":80", "\"weight\":0"),
        ("shares beyond 100 %", "\"weight\":80", "\"weight\":81"),
        ("a version that is not there", "\"version\":\"1.1.0\",\"digest\"", "\"version\":\"1.2.0\",\"digest\""),
        ("a bad name", "\"name\":\"MODE\"", "\"name\":\"M ODE\""),
        ("a damaged secret", "\"nonce\":\"", "\"nonce\":\"zz"),
    ] {
        assert!(rows.contains(from), "{from} is not in {rows}");
        two.refuse(what, replaced("app.jsonl", rows.replacen(from, to, 1).as_bytes())).await;
    }
    // What comes after the end, and a frame that wants more memory than is given.
    let whole = pack(&good);
    two.refuse("a second frame", [whole.clone(), whole.clone()].concat()).await;
    two.refuse("something after the end", [whole.clone(), b"x".to_vec()].concat()).await;
    let mut longer = good.clone();
    longer.push(file("apps/shop/kv/x.db", "x"));
    assert!(two.refuse("an entry after the end", pack(&longer)).await.contains("after its end"));
    let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
    wide.window_log(27).unwrap();
    std::io::copy(&mut tar(&good).as_slice(), &mut wide).unwrap();
    two.refuse("a wide window", wide.finish().unwrap()).await;
    two.refuse("no archive at all", b"hello".to_vec()).await;
    two.refuse("another archive", zstd::encode_all(&b"hello"[..], 3).unwrap()).await;
    assert!(!outside.exists());
    two.restore("", whole).await.ok(200);
}

#[tokio::test]
async fn a_restore_that_fails_at_the_end_leaves_the_name_free() {
    let one = Node::new().await;
    one.shop().await;
    let mut all = entries(&one.backup("shop").await);
    // Everything is right but for two rows of which the transaction finds out.
    let rows = String::from_utf8(all[1].content.clone()).unwrap();
    let line = rows.lines().find(|line| line.contains("variable_change")).unwrap();
    all[1].content = format!("{rows}{line}\n").into_bytes();
    let two = Node::new().await;
    let detail = two.refuse("a row twice", pack(&with_end(&all))).await;
    assert!(detail.contains("twice"), "{detail}");
    two.control().reconcile().await.unwrap();
    let usage = two.get("/v1/usage").await.ok(200);
    assert_eq!((&usage["apps"], &usage["deleted"]), (&json!([]), &json!([])));
    two.serve("shop", "1.0.0", &[]).await;
    two.advance(Duration::from_secs(1));
}

#[tokio::test]
async fn an_app_is_not_deleted_for_a_backup_that_cannot_take_its_place() {
    let node = Node::new().await;
    node.shop().await;
    let mut all = entries(&node.backup("shop").await);
    let rows = String::from_utf8(all[1].content.clone()).unwrap();
    let line = rows.lines().find(|line| line.contains("variable_change")).unwrap();
    all[1].content = format!("{rows}{line}\n").into_bytes();
    node.set("shop", "newer").await;
    let before = node.told("shop").await;
    let detail = node.restore("replace=true", pack(&with_end(&all))).await.problem("invalid")["detail"].to_string();
    assert!(detail.contains("twice"), "{detail}");
    assert_eq!(before, node.told("shop").await);
    assert_eq!(node.live("shop"), ["1.1.0:80", "1.0.0:20"]);
    assert_eq!(node.get("/v1/usage").await.ok(200)["deleted"], json!([]));
    node.no_leftovers();
}

#[tokio::test]
async fn secrets_that_are_restored_are_under_the_newest_key() {
    let node = Node::new().await;
    node.shop().await;
    let backup = node.backup("shop").await;
    let rotated = node.call(Method::POST, "/v1/secrets/rotate", "").await.ok(200);
    let restored = node.restore("replace=true", backup).await.ok(200);
    assert_eq!(restored["apps"][0]["unreadable_secrets"], json!([]));
    let secrets = node.control().registry.secrets(&Default::default(), &"shop".parse().unwrap()).await.unwrap();
    let keys: Vec<_> = secrets.iter().map(|secret| secret.sealed.key_id.as_str()).collect();
    assert_eq!(keys, [rotated["key_id"].as_str().unwrap()]);
}

#[tokio::test]
async fn a_backup_of_an_app_that_is_deleted_meanwhile_breaks_off() {
    let node = Node::new().await;
    node.shop().await;
    // More than waits for a client, also when it is compressed.
    let mut value = vec![0; 2 << 20];
    getrandom::fill(&mut value).unwrap();
    node.call(Method::PUT, "/v1/apps/shop/kv/sessions/value?key=large", value).await.ok(204);
    let backup = node.control().backup(&Default::default(), vec!["shop".parse().unwrap()]).await.unwrap();
    node.call(Method::DELETE, "/v1/apps/shop?data=keep", "").await;
    node.get("/v1/apps/shop").await.problem("not_found");
    let pieces: Vec<_> = backup.collect().await;
    assert!(pieces.last().unwrap().is_err());
    node.no_leftovers();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_databases_than_may_be_open_there_is_no_backup_and_it_says_why() {
    let node = Node::new().await;
    node.shop().await;
    let max = OpenBounds::default().max_open;
    // What `shop` had open already counts, too.
    for number in 0..=max {
        let store = StoreId {
            tenant: Tenant::default(),
            app: "shop".parse().unwrap(),
            name: format!("s{number}").parse().unwrap(),
        };
        let create = Statement::new("CREATE TABLE t (a)", []);
        node.control().sql_run(&store, Access::ReadWrite, create).await.unwrap();
    }
    let problem = node.get("/v1/backup?app=shop").await.problem("conflict");
    let detail = problem["detail"].as_str().unwrap();
    let expected = format!("more than {max} of a kind");
    assert!(detail.contains(&expected) && !detail.contains("a transaction"), "{detail}");
    node.no_leftovers();
}
