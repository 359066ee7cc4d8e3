//! Backups of a running node, and what comes back of them: on other nodes, under other names, and when something goes wrong.
//! Each test has nodes of its own: a node does one backup or restore at a time.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use minnow_tests::{App, Connection, Node, Random, Request, until};
use serde_json::{Value, json};

/// The app `name` with stores of all kinds that the guest of the data services uses, and a volume for the lab.
fn app(name: &str) -> App {
    App::new(name)
        .function(
            "web",
            "data-p2",
            "routes = [\"/kv/{*rest}\", \"/sql/{*rest}\", \"/blob/{*rest}\"]\nkv = [\"items\"]\nsql = [\"main\"]\nblob = [\"uploads\"]",
        )
        .function("files", "lab-p2", "routes = [\"/do-files\", \"/env\"]\nfiles = { data = \"/data\" }\nsecrets = [\"TOKEN\"]")
        .end("[kv.items]\n[sql.main]\nmigrations = \"migrations\"\n[blob.uploads]\n[files.data]\nsize = \"10MiB\"")
        .file("migrations/1.sql", "CREATE TABLE pair (client INTEGER PRIMARY KEY, number INTEGER NOT NULL)")
}

fn serve(node: &Node, app: &App, name: &str) {
    assert_eq!(node.cli().run_with(["secret", "set", "TOKEN", "--app", name], b"hush-hush").code(), 0);
    node.serve(app);
}

/// Calls a function of an app; `None` when the node is gone.
fn call(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Option<Value> {
    let request = Request::get(app, path).method("POST").body(body);
    let answer = Connection::open(node.http).and_then(|connection| connection.exchange(&request)?.rest()).ok()?;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let answer = answer.json();
    assert!(answer["error"].is_null(), "{path}: {answer}");
    Some(answer)
}

#[track_caller]
fn ask(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Value {
    call(node, app, path, body).unwrap_or_else(|| panic!("no answer to {path}"))
}

fn run(node: &Node, app: &str, sql: &str) -> Value {
    ask(node, app, "/sql/run", json!({ "sql": sql }).to_string())
}

#[track_caller]
fn back_up(node: &Node, app: &str) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("backup.tar.zst");
    let written = node.cli().json(["backup", app, file.to_str().unwrap(), "--json"]);
    assert_eq!(written["bytes"], fs::metadata(&file).unwrap().len());
    no_leftovers(node);
    (temp, file)
}

/// What backups and restores have in `tmp/`.
fn leftovers(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data_dir().join("tmp")).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        [".", "backup-", "restore-"].iter().any(|start| name.starts_with(start))
    };
    entries.filter(ours).collect()
}

#[track_caller]
fn no_leftovers(node: &Node) {
    until("nothing is left in tmp", || leftovers(node).is_empty());
}

/// The folders of an app's stores that are there.
fn stores(node: &Node, app: &str) -> Vec<&'static str> {
    let kinds = ["kv", "sql", "blob", "files"].into_iter();
    kinds.filter(|kind| node.data_dir().join(kind).join("default").join(app).exists()).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_written_during_a_backup_is_as_it_was_at_one_moment() {
    const CLIENTS: u64 = 8;
    const BACKUPS: u64 = 4;
    let (node, name) = (&Node::start(), "backup-pairs");
    let app = app(name);
    serve(node, &app, name);
    let (done, slowest_ms) = (AtomicBool::new(false), AtomicU64::new(0));
    let written: Vec<AtomicU64> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let temp = tempfile::tempdir().unwrap();
    let file = |backup: u64| temp.path().join(format!("{backup}.tar.zst"));
    /// Ends the clients, also when the test fails.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    thread::scope(|scope| {
        let _ends = Ends(&done);
        for (client, written) in written.iter().enumerate() {
            let (done, slowest_ms) = (&done, &slowest_ms);
            scope.spawn(move || {
                for number in 1.. {
                    if done.load(SeqCst) {
                        return;
                    }
                    let begun = Instant::now();
                    ask(node, name, &format!("/kv/set?key=client-{client}"), number.to_string());
                    let sql = format!("INSERT OR REPLACE INTO pair VALUES ({client}, {number})");
                    run(node, name, &sql);
                    ask(node, name, &format!("/blob/set?key=client-{client}"), number.to_string());
                    slowest_ms.fetch_max(begun.elapsed().as_millis() as u64, SeqCst);
                    written.store(number, SeqCst);
                }
            });
        }
        for backup in 0..BACKUPS {
            let before = written.iter().map(|written| written.load(SeqCst)).min().unwrap();
            until("every client goes on", || written.iter().all(|written| written.load(SeqCst) > before + 2));
            node.cli().ok(["backup", name, path(&file(backup))]);
        }
    });
    assert!(slowest_ms.load(SeqCst) < 10_000, "a write waited for a backup: {slowest_ms:?} ms");
    let mut last = 0;
    for backup in 0..BACKUPS {
        let copy = format!("pairs-{backup}");
        node.cli().ok(["restore", path(&file(backup)), "--as", &copy]);
        let mut sum = 0;
        for client in 0..CLIENTS {
            let text = |path: &str| -> u64 {
                let found = ask(node, &copy, path, "");
                let text = found["value"].as_str().or(found["text"].as_str());
                text.unwrap_or_else(|| panic!("{found}")).parse().unwrap()
            };
            let kv = text(&format!("/kv/get?key=client-{client}"));
            let rows = run(node, &copy, &format!("SELECT number FROM pair WHERE client = {client}"));
            let sql = rows["rows"][0][0].as_u64().unwrap_or_else(|| panic!("{rows}"));
            let blob = text(&format!("/blob/text?key=client-{client}"));
            // They are written in this order.
            assert!(kv == sql || kv == sql + 1, "client {client} in backup {backup}: {kv} {sql} {blob}");
            assert!(sql == blob || sql == blob + 1, "client {client} in backup {backup}: {kv} {sql} {blob}");
            sum += sql;
        }
        assert!(sum > last, "each backup is newer than the one before: {sum} after {last}");
        last = sum;
    }
}

#[test]
fn an_app_comes_back_on_another_node_with_all_that_belongs_to_it() {
    let (one, name) = (&Node::start(), "backup-all");
    let mut app = app(name);
    serve(one, &app, name);
    app.change("0.1.0", "0.2.0");
    one.cli().in_dir(app.path()).ok(["publish"]);
    one.cli().in_dir(app.path()).ok(["deploy", "0.2.0", "--weight", "30"]);
    one.cli().ok(["config", "set", "MODE=one", "--app", name]);
    one.cli().ok(["config", "set", "MODE=two", "--app", name]);
    let large = Random::new("backup").bytes(300_000);
    ask(one, name, "/kv/set?key=a", "kept");
    run(one, name, "INSERT INTO pair VALUES (1, 2)");
    ask(one, name, "/blob/set?key=small&type=text/plain", "small");
    ask(one, name, "/blob/set?key=folder/large", large.as_slice());
    let steps = json!([
        { "do": "make-folder", "path": "/data/folder/empty" },
        { "do": "write", "path": "/data/folder/a.txt", "text": "a" },
        { "do": "write", "path": "/data/b.txt", "text": "b" },
    ]);
    ask(one, name, "/do-files", steps.to_string());
    let volume = one.data_dir().join("files/default").join(name).join("data");
    let long = "x".repeat(200);
    fs::create_dir(volume.join(&long)).unwrap();
    fs::write(volume.join(&long).join("deep"), "deep").unwrap();
    // A function may have made it; it must not bring the node's own files into a backup.
    symlink(one.data_dir().join("secrets.key"), volume.join("key")).unwrap();
    symlink("folder/a.txt", volume.join("link")).unwrap();
    let (_temp, file) = back_up(one, name);

    let two = Node::start();
    let shown = two.cli().ok(["restore", path(&file)]);
    assert!(shown.contains(&format!("restored {name}  2 versions, live: 0.1.0 70 %, 0.2.0 30 %")), "{shown}");
    for store in ["kv items", "sql main", "blob uploads", "files data"] {
        assert!(shown.contains(store), "{store}: {shown}");
    }
    no_leftovers(&two);
    // This node has another key, and the function that needs the secret does not run without it.
    two.post(name, "/do-files", "[]").problem(503, "secret_missing");
    assert_eq!(two.cli().run_with(["secret", "set", "TOKEN", "--app", name], b"other").code(), 0);
    for node in [one, &two] {
        assert_eq!(ask(node, name, "/kv/get?key=a", "")["value"], "kept");
        assert_eq!(run(node, name, "SELECT * FROM pair")["rows"], json!([[1, 2]]));
        assert_eq!(node.get(name, "/blob/get?key=small").header("content-type"), Some("text/plain"));
        assert!(node.get(name, "/blob/get?key=folder/large").body == large);
        let read = json!([
            { "do": "read", "path": "/data/folder/a.txt" },
            { "do": "list", "path": "/data/folder" },
            { "do": "read", "path": "/data/link" },
        ]);
        let read = ask(node, name, "/do-files", read.to_string());
        assert_eq!(read, json!(["a", ["a.txt", "empty"], "a"]));
        assert_eq!(node.get(name, "/env").json()["MODE"], "two");
    }
    let restored = two.data_dir().join("files/default").join(name).join("data");
    assert_eq!(fs::read_to_string(restored.join(&long).join("deep")).unwrap(), "deep");
    assert!(restored.join("key").is_symlink() && restored.join("link").is_symlink());
    for what in [&["versions", name, "--json"][..], &["config", "history", "--app", name, "--json"]] {
        assert_eq!(one.cli().json(what), two.cli().json(what), "{what:?}");
    }
    assert_eq!(one.status(name)["history"], two.status(name)["history"]);
    // Migrations do not run again, and a deploy goes on.
    assert_eq!(two.cli().run_with(["secret", "set", "TOKEN", "--app", name], b"new").code(), 0);
    app.change("0.2.0", "0.3.0");
    two.serve(&app);
    assert_eq!(run(&two, name, "SELECT * FROM pair")["rows"], json!([[1, 2]]));
    // It survives a crash.
    let two = two.kill_and_restart();
    assert_eq!(ask(&two, name, "/kv/get?key=a", "")["value"], "kept");
    assert!(two.get(name, "/blob/get?key=folder/large").body == large);
}

#[test]
fn what_a_backup_has_not_is_named_by_it_and_by_its_restore() {
    let (one, name) = (&Node::start(), "backup-without");
    let app = app(name);
    serve(one, &app, name);
    ask(one, name, "/do-files", json!([{ "do": "write", "path": "/data/a.txt", "text": "a" }]).to_string());
    let volume = one.data_dir().join("files/default").join(name).join("data");
    fs::write(volume.join(OsStr::from_bytes(b"caf\xe9.txt")), "x").unwrap();
    // One that could move the cursor of a terminal.
    let _socket = UnixListener::bind(volume.join("\u{1b}[2Jsocket")).unwrap();
    let (temp, file) = back_up(one, name);
    let left_out = json!({
        "count": 2,
        "files": [
            { "path": "data/\u{1b}[2Jsocket", "why": "it is neither a file nor a folder nor a symbolic link" },
            { "path": "data/caf\u{fffd}.txt", "why": "its name is not UTF-8" },
        ],
    });
    let written = one.cli().json(["backup", name, path(&file), "--json"]);
    assert_eq!(written["left_out"], json!({ name: left_out }));
    let named = [
        "warning: 2 files, folders or links in the volumes of backup-without",
        "data/\\u{1b}[2Jsocket: it is neither a file",
        "data/caf\u{fffd}.txt: its name is not UTF-8",
    ];
    let ran = one.cli().run(["backup", name, path(&temp.path().join("other.tar.zst"))]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    ran.says(&named);
    let ran = one.cli().run(["restore", path(&file), "--as", "backup-without-2"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    ran.says(&[&named[0].replace(name, "backup-without-2"), named[1], named[2]]);
    let restored = one.cli().json(["restore", path(&file), "--as", "backup-without-3", "--json"]);
    assert_eq!(restored["apps"][0]["left_out"], left_out);
    // A backup that has all of it says so.
    fs::remove_file(volume.join(OsStr::from_bytes(b"caf\xe9.txt"))).unwrap();
    fs::remove_file(volume.join("\u{1b}[2Jsocket")).unwrap();
    assert_eq!(one.cli().json(["backup", name, path(&file), "--json"])["left_out"], json!({}));
    let ran = one.cli().run(["backup", name, path(&file)]);
    assert!(ran.code() == 0 && !format!("{ran:?}").contains("warning"), "{ran:?}");
    assert_eq!(one.cli().json(["restore", path(&file), "--replace", "--json"])["apps"][0]["left_out"]["count"], 0);
}

#[test]
fn secrets_open_where_the_key_is_and_are_told_where_it_is_not() {
    let (one, name) = (&Node::start(), "backup-secrets");
    let app = app(name);
    serve(one, &app, name);
    let (_temp, file) = back_up(one, name);
    let content = fs::read(&file).unwrap();
    assert!(!content.windows(9).any(|window| window == b"hush-hush"));

    let same = tempfile::tempdir().unwrap();
    let data = same.path().join("data");
    fs::create_dir(&data).unwrap();
    let key = same.path().join("secrets.key");
    fs::copy(one.data_dir().join("secrets.key"), &key).unwrap();
    let config = format!("[secrets]\nkey_file = {key:?}");
    let two = Node::builder().data_dir(&data).config(&config).start();
    let restored = two.cli().json(["restore", path(&file), "--json"]);
    assert_eq!(restored["apps"][0]["unreadable_secrets"], json!([]));
    assert_eq!(two.get(name, "/env").json()["TOKEN"], "hush-hush");
    // Also under another name, to which they are bound anew.
    two.cli().ok(["restore", path(&file), "--as", "other"]);
    assert_eq!(two.get("other", "/env").json()["TOKEN"], "hush-hush");

    let three = Node::start();
    let ran = three.cli().run(["restore", path(&file)]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    ran.says(&["warning", "the secret TOKEN of backup-secrets cannot be read", "key file does not hold"]);
    three.get(name, "/env").problem(503, "secret_missing");
    until("the log of the app tells it", || {
        three.logs(name).iter().any(|line| line["message"].as_str().unwrap().contains("TOKEN"))
    });
    assert_eq!(three.cli().run_with(["secret", "set", "TOKEN", "--app", name], b"new").code(), 0);
    assert_eq!(three.get(name, "/env").json()["TOKEN"], "new");
}

#[test]
fn an_app_that_is_there_is_not_touched_unless_that_is_asked_for() {
    let (one, name) = (&Node::start(), "backup-there");
    let app = app(name);
    serve(one, &app, name);
    ask(one, name, "/kv/set?key=a", "old");
    let (_temp, file) = back_up(one, name);
    ask(one, name, "/kv/set?key=a", "new");
    one.cli().fails(["restore", path(&file)]).says(&["409 conflict", name, "--replace", "--as"]);
    assert_eq!(ask(one, name, "/kv/get?key=a", "")["value"], "new");
    let shown = one.cli().ok(["restore", path(&file), "--as", "backup-beside"]);
    assert!(shown.contains("restored backup-beside"), "{shown}");
    for (app, expected) in [(name, "new"), ("backup-beside", "old")] {
        assert_eq!(ask(one, app, "/kv/get?key=a", "")["value"], expected);
    }
    one.cli().ok(["restore", path(&file), "--replace"]);
    assert_eq!(ask(one, name, "/kv/get?key=a", "")["value"], "old");
    let usage = one.cli().json(["usage", "--json"]);
    let kept = usage["deleted"].as_array().unwrap();
    assert!(kept.iter().any(|kept| kept["app"] == name), "{usage}");
    // Each is an app like any other.
    one.cli().ok(["delete", "backup-beside", "--yes", "--data", "purge"]);
    one.cli().ok(["restore", path(&file), "--as", "backup-beside"]);
    assert_eq!(ask(one, "backup-beside", "/kv/get?key=a", "")["value"], "old");
    no_leftovers(one);
}

#[test]
fn a_file_that_is_no_whole_backup_is_refused_and_nothing_changes() {
    let (one, name) = (&Node::start(), "backup-cut");
    let app = app(name);
    serve(one, &app, name);
    ask(one, name, "/blob/set?key=a", Random::new("cut").bytes(100_000));
    let (temp, file) = back_up(one, name);
    let whole = fs::read(&file).unwrap();
    let two = Node::start();
    let bad = temp.path().join("bad.tar.zst");
    for length in [0, 1, 100, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&bad, &whole[..length]).unwrap();
        two.cli().fails(["restore", path(&bad)]).says(&["422 invalid", "nothing was changed", "cut off"]);
        no_leftovers(&two);
    }
    for at in [4, whole.len() / 2, whole.len() - 2] {
        let mut changed = whole.clone();
        changed[at] ^= 0xff;
        fs::write(&bad, changed).unwrap();
        two.cli().fails(["restore", path(&bad)]).says(&["422 invalid", "nothing was changed"]);
        no_leftovers(&two);
    }
    two.api("GET", &format!("/v1/apps/{name}"), "").problem(404, "not_found");
    assert!(stores(&two, name).is_empty());
    // A client that goes away in the middle.
    let token = format!("Bearer {}", two.token());
    let head = format!(
        "POST /v1/restore HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\ncontent-length: {}\r\n\r\n",
        whole.len()
    );
    let mut socket = std::net::TcpStream::connect(two.admin).unwrap();
    std::io::Write::write_all(&mut socket, head.as_bytes()).unwrap();
    std::io::Write::write_all(&mut socket, &whole[..whole.len() / 2]).unwrap();
    until("the node reads it", || !leftovers(&two).is_empty());
    drop(socket);
    no_leftovers(&two);
    two.cli().ok(["restore", path(&file)]);
    // Wrong usage, and what is not there.
    two.cli().fails(["restore", path(&temp.path().join("none"))]).says(&["cannot read"]);
    assert_eq!(two.cli().run(["restore", path(temp.path())]).code(), 2);
    two.cli().fails(["backup", "nobody", path(&bad)]).says(&["404 not_found", "nobody"]);
    assert_eq!(two.cli().run(["backup", "Bad.App", path(&bad)]).code(), 2);
    two.cli().fails(["backup", path(&temp.path().join("none/file.tar.zst"))]).says(&["cannot write"]);
    // The file was forgotten, also where there is a folder of that name.
    let in_temp = two.cli().in_dir(temp.path());
    for _ in 0..2 {
        let ran = in_temp.run(["backup", name]);
        assert_eq!(ran.code(), 2, "{ran:?}");
        ran.says(&[&format!("minnow backup {name} {name}.tar.zst")]);
        fs::create_dir_all(temp.path().join(name)).unwrap();
    }
    assert_eq!(fs::read_dir(temp.path().join(name)).unwrap().count(), 0);
    for call in [Request::get("node", "/v1/backup"), Request::get("node", "/v1/restore").method("POST")] {
        two.call(&call).problem(401, "unauthorized");
    }
    let folder = temp.path().join("folder");
    fs::create_dir(&folder).unwrap();
    two.cli().ok(["backup", path(&folder)]);
    let made: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(made.len() == 1 && made[0].to_string_lossy().starts_with("minnow-20"), "{made:?}");
}

/// An app whose stores hold `bytes` that do not compress.
fn heavy(node: &Node, name: &str, bytes: u64) -> App {
    let app = app(name);
    serve(node, &app, name);
    for part in 0..bytes.div_ceil(1 << 20) {
        let content = Random::new(&format!("heavy {part}")).bytes(1 << 20);
        match part % 2 {
            0 => ask(node, name, &format!("/kv/set?key=part-{part}"), content),
            _ => ask(node, name, &format!("/blob/set?key=part-{part}"), content),
        };
    }
    ask(node, name, "/kv/set?key=last", "last");
    app
}

#[test]
fn a_restore_that_is_killed_leaves_the_app_whole_or_not_at_all() {
    let (one, name) = (&Node::start(), "backup-killed");
    let _app = heavy(one, name, 30 << 20);
    let (_temp, file) = back_up(one, name);
    let mut random = Random::new("a_restore_that_is_killed_leaves_the_app_whole_or_not_at_all");
    let mut two = Node::start();
    let (mut whole, mut absent) = (0, 0);
    for round in 0..8 {
        let restoring = two.cli().start(two.cli().command(["restore", path(&file)]));
        match round % 4 {
            // In the middle of reading.
            0 | 1 => {
                let most = random.below(28 << 20);
                until("some of it is there", || {
                    let size = |path: &PathBuf| size_of(path);
                    leftovers(&two).iter().map(size).sum::<u64>() >= most
                });
            }
            // When the first store is in place, and when all are.
            2 => until("a store is in place", || !stores(&two, name).is_empty()),
            _ => until("all stores are in place", || stores(&two, name).len() == 4 || stores(&two, name).len() == 3),
        }
        two.kill();
        drop(restoring);
        two = two.kill_and_restart();
        no_leftovers(&two);
        let status = two.api("GET", &format!("/v1/apps/{name}"), "").status;
        if status == 200 {
            whole += 1;
            assert_eq!(ask(&two, name, "/kv/get?key=last", "")["value"], "last");
            assert_eq!(two.get(name, "/blob/get?key=part-29").body.len(), 1 << 20);
            two.cli().ok(["delete", name, "--yes", "--data", "purge"]);
        } else {
            absent += 1;
            assert_eq!(status, 404);
            assert!(stores(&two, name).is_empty(), "{:?}", stores(&two, name));
            let usage = two.cli().json(["usage", "--json"]);
            assert_eq!((&usage["apps"], &usage["deleted"]), (&json!([]), &json!([])), "{usage}");
        }
    }
    assert!(absent >= 4, "{whole} {absent}");
    two.cli().ok(["restore", path(&file)]);
    assert_eq!(ask(&two, name, "/kv/get?key=last", "")["value"], "last");
}

fn size_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            fs::read_dir(path).map_or(0, |entries| entries.filter_map(|entry| Some(size_of(&entry.ok()?.path()))).sum())
        }
        Ok(found) => found.len(),
        Err(_) => 0,
    }
}

#[test]
fn a_disk_that_becomes_full_ends_a_backup_and_a_restore_and_nothing_else() {
    let (one, name) = (&Node::start(), "backup-full");
    let _app = heavy(one, name, 60 << 20);
    let (_temp, file) = back_up(one, name);
    let two = Node::builder().disk("64m").start();
    let small = app("small");
    serve(&two, &small, "small");
    ask(&two, "small", "/kv/set?key=a", "kept");
    two.cli().fails(["restore", path(&file)]).says(&["507 storage_full"]);
    no_leftovers(&two);
    two.api("GET", &format!("/v1/apps/{name}"), "").problem(404, "not_found");
    assert!(stores(&two, name).is_empty());
    // Functions wrote meanwhile, and do now: the last of the disk was left to them.
    ask(&two, "small", "/kv/set?key=a", "after");
    // A backup needs room for the databases.
    for part in 0..20 {
        ask(&two, "small", &format!("/kv/set?key=part-{part}"), Random::new("part").bytes(1 << 20));
    }
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("small.tar.zst");
    fs::write(&target, "an older backup").unwrap();
    let ballast = two.data_dir().join("ballast");
    let free = rustix::fs::statvfs(two.data_dir()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
    fs::write(&ballast, vec![1; free.saturating_sub(12 << 20) as usize]).unwrap();
    two.cli().fails(["backup", "small", path(&target)]).says(&["507 storage_full"]);
    no_leftovers(&two);
    assert_eq!(fs::read_to_string(&target).unwrap(), "an older backup");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    ask(&two, "small", "/kv/set?key=a", "later");
    fs::remove_file(&ballast).unwrap();
}

#[test]
fn what_a_restored_app_lacks_of_another_is_told_with_both_sides() {
    let one = &Node::start();
    let owner = App::new("b-owner").function("web", "data-p2", "").end("[kv.items]\nshare = [\"a-user\"]");
    one.serve(&owner);
    let user = App::new("a-user").function("web", "data-p2", "kv = [\"b-owner/items:ro\"]");
    one.serve(&user);
    let (temp, file) = back_up(one, "a-user");
    let both = temp.path().join("both.tar.zst");
    one.cli().ok(["backup", path(&both)]);
    let two = Node::start();
    let ran = two.cli().run(["restore", path(&file)]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    ran.says(&[
        "warning: a-user: function `web` is granted the kv store `b-owner/items`",
        "share = [\"a-user\"]",
        "of `b-owner`",
    ]);
    until("the log of the app tells it", || {
        two.logs("a-user").iter().any(|line| line["message"].as_str().unwrap().contains("b-owner/items"))
    });
    // The owner comes after the user, and neither lacks anything.
    let restored = two.cli().json(["restore", path(&both), "--replace", "--json"]);
    let lacks: Vec<_> = restored["apps"].as_array().unwrap().iter().map(|app| &app["missing_shares"]).collect();
    assert_eq!(lacks, [&json!([]), &json!([])]);
    // Under another name it is not the one that the owner shares with.
    let restored = two.cli().json(["restore", path(&file), "--as", "a-copy", "--json"]);
    let lacks = restored["apps"][0]["missing_shares"][0].as_str().unwrap();
    assert!(lacks.contains("b-owner/items") && lacks.contains("a-copy"), "{lacks}");
}

/// Runs a command with its stdin and stdout from and to files: what passes is no text.
fn piped(node: &Node, arguments: &[&str], from: Option<&Path>, to: &Path) -> (i32, String) {
    let cli = node.cli();
    let mut command = cli.command(arguments);
    command.stdin(from.map_or_else(Stdio::null, |from| fs::File::open(from).unwrap().into()));
    let ran = command.stdout(fs::File::create(to).unwrap()).stderr(Stdio::piped()).output().unwrap();
    (ran.status.code().unwrap(), String::from_utf8(ran.stderr).unwrap())
}

#[test]
fn a_backup_goes_through_pipes() {
    let (one, name) = (&Node::start(), "backup-piped");
    let app = app(name);
    serve(one, &app, name);
    ask(one, name, "/kv/set?key=a", "kept");
    let temp = tempfile::tempdir().unwrap();
    let (file, said) = (temp.path().join("stdout"), temp.path().join("said"));
    let (code, told) = piped(one, &["backup", name, "-"], None, &file);
    assert!(code == 0 && told.contains(&format!("backed up {name} to stdout")), "{told}");
    let (code, told) = piped(one, &["backup", name, "-", "--json"], None, &file);
    let told: Value = serde_json::from_str(&told).unwrap();
    let expected = json!({ "file": "stdout", "bytes": fs::metadata(&file).unwrap().len(), "left_out": {} });
    assert_eq!((code, told), (0, expected));
    let two = Node::start();
    let (code, told) = piped(&two, &["restore", "-"], Some(&file), &said);
    assert_eq!((code, told.as_str().contains("error")), (0, false), "{told}");
    assert!(fs::read_to_string(&said).unwrap().contains(&format!("restored {name}")), "{told}");
    assert_eq!(ask(&two, name, "/kv/get?key=a", "")["value"], "kept");
    let (code, told) = piped(&two, &["restore", "-", "--as", "again", "--json"], Some(&file), &said);
    let restored: Value = serde_json::from_slice(&fs::read(&said).unwrap()).unwrap();
    assert_eq!((code, &restored["apps"][0]["app"]), (0, &json!("again")), "{told}");
    // Half a one is refused, and one that nobody takes is a failure.
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let (code, told) = piped(&two, &["restore", "-", "--as", "half"], Some(&file), &said);
    assert!(code == 1 && told.contains("cut off"), "{told}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let cli = one.cli();
    let ran = cli.command(["backup", name, "-"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(1) && told.contains("cannot write stdout"), "{told}");
    for arguments in [format!("backup {name} -"), "restore -".into()] {
        let shown = one.cli().on_a_terminal(&arguments, None);
        assert!(shown.text.contains("terminal"), "{}", shown.text);
    }
    no_leftovers(one);
    no_leftovers(&two);
}

#[test]
fn memory_stays_the_same_whatever_is_backed_up() {
    const BYTES: u64 = 200 << 20;
    let (one, two, name) = (Node::start(), Node::start(), "backup-large");
    let _app = heavy(&one, name, BYTES);
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("large.tar.zst");
    for (node, verb) in [(&one, "backup"), (&two, "restore")] {
        // The peak so far is that of what came before.
        fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").unwrap();
        let before = node.rss_bytes();
        match verb {
            "backup" => node.cli().ok(["backup", name, path(&file)]),
            _ => node.cli().ok(["restore", path(&file)]),
        };
        let grown = node.peak_rss_bytes().saturating_sub(before);
        assert!(grown < 96 << 20, "{verb} took {} MiB", grown >> 20);
    }
    assert!(fs::metadata(&file).unwrap().len() > BYTES * 9 / 10);
    assert_eq!(ask(&two, name, "/kv/get?key=last", "")["value"], "last");
}

#[test]
fn a_client_that_reads_slowly_holds_up_no_write_and_one_that_goes_leaves_nothing() {
    let name = "backup-slow";
    let node = Node::start();
    let _app = heavy(&node, name, 20 << 20);
    let token = format!("Bearer {}", node.token());
    let request = Request::get("node", &format!("/v1/backup?app={name}")).header("authorization", &token);
    let reading = Connection::open(node.admin).unwrap().exchange(&request).unwrap();
    // Nobody reads on. Writes go on, also so many that a reader of the databases would be in their way.
    for number in 0..50 {
        let begun = Instant::now();
        ask(&node, name, "/kv/set?key=more", vec![0; 1 << 20]);
        run(&node, name, &format!("INSERT OR REPLACE INTO pair VALUES (1, {number})"));
        assert!(begun.elapsed() < Duration::from_secs(20), "write {number} took {:?}", begun.elapsed());
    }
    // One at a time.
    node.cli().fails(["backup", name, "second.tar.zst"]).says(&["409 conflict", "under way"]);
    drop(reading);
    no_leftovers(&node);
    let (_temp, _file) = back_up(&node, name);
}
