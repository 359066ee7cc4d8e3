//! What functions do with files: volumes, and the `/tmp` of their sandbox.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
};

use minnow_tests::{App, Node, Random, Request, until};
use serde_json::{Value, json};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

const VOLUME: &str = "[files.data]\nsize = \"1MiB\"";
const GRANT: &str = "files = { data = \"/data\" }";
const MIB: u64 = 1 << 20;

/// The lab with one volume of 1 MiB under `/data`, deployed.
fn lab(node: &Node, name: &str, settings: &str) -> App {
    let app = App::of_guest(name, "lab-p2", &format!("{GRANT}\n{settings}")).end(VOLUME);
    node.serve(&app);
    app
}

/// Has the lab do these steps in one call.
#[track_caller]
fn steps(node: &Node, app: &str, steps: Value) -> Value {
    steps_at(node, app, "/do-files", steps)
}

#[track_caller]
fn steps_at(node: &Node, app: &str, path: &str, steps: Value) -> Value {
    let answer = node.post(app, path, steps.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What came of one step.
#[track_caller]
fn step(node: &Node, app: &str, step: Value) -> Value {
    steps(node, app, json!([step]))[0].clone()
}

fn error(kind: &str) -> Value {
    json!({ "error": kind })
}

/// The folder of a volume on the disk.
fn volume(node: &Node, app: &str) -> PathBuf {
    node.data_dir().join("files/default").join(app).join("data")
}

/// The folders of sandboxes that are there now.
fn sandboxes(node: &Node) -> usize {
    let entries = fs::read_dir(node.data_dir().join("tmp")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("sandbox-")).count()
}

#[test]
fn a_component_keeps_files_in_its_volume() {
    let (node, app) = (node(), "files-keep");
    let _app = lab(node, app, "");
    let done = steps(
        node,
        app,
        json!([
            { "do": "write", "path": "/data/a.txt", "text": "one" },
            { "do": "append", "path": "/data/a.txt", "text": " two", "sync": true },
            { "do": "make-folder", "path": "/data/folder/deeper" },
            { "do": "write", "path": "/data/folder/deeper/b.txt", "text": "b" },
            { "do": "rename", "path": "/data/folder/deeper/b.txt", "to": "/data/b.txt" },
            { "do": "link", "path": "/data/b.txt", "to": "/data/c.txt" },
            { "do": "read", "path": "/data/a.txt" },
            { "do": "list", "path": "/data" },
            { "do": "size", "path": "/data/a.txt" },
            { "do": "remove-folder", "path": "/data/folder" },
            { "do": "read", "path": "/data/none" },
        ]),
    );
    assert_eq!(
        done,
        json!(["ok", "ok", "ok", "ok", "ok", "ok", "one two", ["a.txt", "b.txt", "c.txt", "folder"], 7, "ok",
            { "error": "NotFound" }])
    );
    let list = json!({ "do": "list", "path": "/data" });
    assert_eq!(step(node, app, list), json!(["a.txt", "b.txt", "c.txt"]), "another sandbox sees them");
    assert_eq!(fs::read_to_string(volume(node, app).join("a.txt")).unwrap(), "one two");
}

#[test]
fn files_outlive_versions_and_the_node() {
    let app_name = "files-stay";
    let node = Node::start();
    let mut app = lab(&node, app_name, "");
    assert_eq!(
        step(&node, app_name, json!({ "do": "append", "path": "/data/log", "text": "one ", "sync": true })),
        "ok"
    );
    let node = node.kill_and_restart();
    app.change("0.1.0", "0.2.0");
    node.serve(&app);
    assert_eq!(
        step(&node, app_name, json!({ "do": "append", "path": "/data/log", "text": "two", "sync": true })),
        "ok"
    );
    node.terminate();
    assert!(node.wait().success());
    let node = node.rebuild().start();
    assert_eq!(step(&node, app_name, json!({ "do": "read", "path": "/data/log" })), "one two");
}

#[test]
fn nothing_that_was_synced_is_lost_when_the_node_is_killed_again_and_again() {
    let app = "files-ledger";
    let mut random = Random::new("nothing_that_was_synced_is_lost_when_the_node_is_killed_again_and_again");
    let mut node = Node::start();
    let _app = lab(&node, app, "");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let lines = 3 + random.below(10);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut told = Vec::new();
                for line in 0.. {
                    let text = format!("{round}-{line};");
                    let append = json!([{ "do": "append", "path": "/data/log", "text": text, "sync": true }]);
                    let request = Request::get(app, "/do-files").method("POST").body(append.to_string());
                    let sent = minnow_tests::Connection::open(node.http)
                        .and_then(|connection| connection.exchange(&request)?.rest());
                    let Ok(answer) = sent else { return told };
                    assert_eq!(answer.json(), json!(["ok"]));
                    told.push(text);
                }
                told
            });
            let log = volume(&node, app).join("log");
            until("enough is written", || {
                let there = fs::read_to_string(&log).unwrap_or_default();
                there.matches(&format!("{round}-")).count() as u64 >= lines
            });
            node.kill();
            acknowledged.extend(writer.join().unwrap());
        });
        node = node.kill_and_restart();
        let found = step(&node, app, json!({ "do": "read", "path": "/data/log" }));
        let found = found.as_str().unwrap();
        for text in &acknowledged {
            assert!(found.contains(text.as_str()), "{text} was acknowledged and is not in {found}");
        }
    }
}

#[test]
fn a_volume_takes_no_more_than_its_size_however_it_is_filled() {
    let (node, app) = (node(), "files-full");
    let _app = lab(node, app, "");
    let full = |step_: Value| {
        let came = step(node, app, step_.clone());
        let kind = came["error"].as_str().unwrap_or_default();
        assert!(["StorageFull", "insufficient-space"].contains(&kind), "{step_}: {came}");
        came
    };
    let ok = |step_: Value| assert_eq!(step(node, app, step_.clone()), "ok", "{step_}");
    // One write too many, and what went before it is there.
    let came = full(json!({ "do": "fill", "path": "/data/a", "bytes": 2 * MIB }));
    let written = came["written"].as_u64().unwrap();
    assert!((MIB - 70_000..MIB).contains(&written), "{written}");
    assert!(fs::metadata(volume(node, app).join("a")).unwrap().len() <= MIB);
    // The file may be written over, in place.
    ok(json!({ "do": "overwrite", "path": "/data/a", "at": 0, "bytes": 500_000 }));
    ok(json!({ "do": "remove", "path": "/data/a" }));
    // What was deleted is free.
    ok(json!({ "do": "fill", "path": "/data/a", "bytes": 800_000 }));
    full(json!({ "do": "grow", "path": "/data/a", "bytes": 400_000 }));
    full(json!({ "do": "overwrite", "path": "/data/a", "at": 2 * MIB, "bytes": 1 }));
    full(json!({ "do": "resize", "path": "/data/a", "bytes": 1u64 << 40 }));
    // Making it smaller frees the rest.
    ok(json!({ "do": "resize", "path": "/data/a", "bytes": 1 }));
    full(json!({ "raw": "write", "in": "/data", "path": "b", "at": 1u64 << 40, "bytes": 1 }));
    for call in ["stream", "append"] {
        full(json!({ "raw": call, "in": "/data", "path": "b", "at": 0, "bytes": 2 * MIB }));
        let length = fs::metadata(volume(node, app).join("b")).unwrap().len();
        assert!((MIB / 2..MIB).contains(&length), "{call}: {length}");
        ok(json!({ "do": "remove", "path": "/data/b" }));
        ok(json!({ "raw": call, "in": "/data", "path": "b", "at": 0, "bytes": MIB / 2 }));
        ok(json!({ "do": "remove", "path": "/data/b" }));
    }
    ok(json!({ "do": "fill", "path": "/data/c", "bytes": 900_000 }));
    // Replacing a file frees what was there.
    ok(json!({ "do": "write", "path": "/data/c", "text": "small" }));
    ok(json!({ "do": "fill", "path": "/data/d", "bytes": 900_000 }));
    ok(json!({ "do": "rename", "path": "/data/a", "to": "/data/d" }));
    ok(json!({ "do": "resize", "path": "/data/d", "bytes": 1_000_000 }));
}

#[test]
fn names_fill_a_volume_too() {
    let (node, app) = (node(), "files-names");
    let _app = lab(node, app, "");
    let long = "n".repeat(240);
    let made = step(node, app, json!({ "do": "many", "path": format!("/data/{long}"), "n": 1000 }));
    // Each takes a block of 4 KiB.
    assert_eq!(made, 256);
    for refused in [
        json!({ "do": "make-folder", "path": "/data/folder" }),
        json!({ "do": "link", "path": format!("/data/{long}0"), "to": "/data/link" }),
        json!({ "raw": "symlink", "in": "/data", "path": "link", "to": "x" }),
        json!({ "raw": "create-new", "in": "/data", "path": "new" }),
    ] {
        let came = step(node, app, refused.clone());
        let kind = came["error"].as_str().unwrap_or_default();
        assert!(["StorageFull", "insufficient-space"].contains(&kind), "{refused}: {came}");
    }
    // One that is there opens, with the flag that would make it.
    assert_eq!(step(node, app, json!({ "raw": "create", "in": "/data", "path": format!("{long}0") })), "ok");
    assert_eq!(fs::read_dir(volume(node, app)).unwrap().count(), 256);
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_takes_its_space_until_it_is_closed() {
    let (node, app) = (node(), "files-deleted");
    let _app = lab(node, app, "instances = \"reuse\"");
    let done = steps(
        node,
        app,
        json!([
            { "do": "fill", "path": "/data/a", "bytes": 900_000 },
            { "do": "hold", "path": "/data/a" },
            { "do": "remove", "path": "/data/a" },
            { "do": "fill", "path": "/data/b", "bytes": 900_000 },
            { "do": "release" },
            { "do": "fill", "path": "/data/b", "bytes": 900_000 },
        ]),
    );
    assert_eq!(done[3]["error"], "StorageFull", "{done}");
    assert_eq!(done[5], "ok", "{done}");
}

#[test]
fn sandboxes_that_fill_a_volume_at_once_stay_within_its_size() {
    let (node, app) = (node(), "files-together");
    let _app = lab(node, app, "");
    thread::scope(|scope| {
        for file in 0..8 {
            scope.spawn(move || {
                let path = format!("/data/{file}");
                for _ in 0..3 {
                    step(node, app, json!({ "do": "fill", "path": path, "bytes": 300_000 }));
                }
            });
        }
    });
    let files = fs::read_dir(volume(node, app)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let bytes: u64 = files.sum();
    assert!((MIB / 2..=MIB).contains(&bytes), "{bytes}");
}

#[test]
fn no_path_leads_out_of_a_volume() {
    let (node, app) = (node(), "files-escape");
    let _app = App::new(app)
        .function("web", "lab-p2", "routes = [\"/{*rest}\"]\nfiles = { data = \"/data\", other = \"/srv/other\" }")
        .end("[files.data]\n[files.other]");
    node.serve(&_app);
    let outside = node.data_dir().join("admin.token");
    assert_eq!(step(node, app, json!({ "do": "write", "path": "/data/file", "text": "x" })), "ok");
    let root = volume(node, app);
    // What the operator, or a restored backup, may have put there.
    symlink(&outside, root.join("planted")).unwrap();
    symlink("../../../../admin.token", root.join("planted-up")).unwrap();
    symlink("/", root.join("planted-root")).unwrap();
    symlink("../../../..", root.join("planted-folder")).unwrap();
    let up = "../../../../admin.token";
    for attempt in [
        json!({ "raw": "read", "in": "/data", "path": up }),
        json!({ "raw": "read", "in": "/data", "path": format!("x/../{up}") }),
        json!({ "raw": "read", "in": "/data", "path": outside }),
        json!({ "raw": "read", "in": "/data", "path": "planted" }),
        json!({ "raw": "read", "in": "/data", "path": "planted-up" }),
        json!({ "raw": "read", "in": "/data", "path": "planted-folder/admin.token" }),
        json!({ "raw": "folder", "in": "/data", "path": ".." }),
        json!({ "raw": "folder", "in": "/data", "path": "/" }),
        json!({ "raw": "folder", "in": "/data", "path": "planted-root" }),
        json!({ "raw": "folder", "in": "/data", "path": "planted-folder" }),
        json!({ "raw": "create-new", "in": "/data", "path": "../escaped" }),
        json!({ "raw": "create", "in": "/data", "path": "planted-folder/escaped" }),
        json!({ "raw": "create", "in": "/data", "path": "planted" }),
        json!({ "raw": "symlink", "in": "/data", "path": "absolute", "to": "/etc/passwd" }),
        json!({ "raw": "symlink", "in": "/data", "path": "../escaped", "to": "file" }),
        json!({ "raw": "link", "in": "/data", "path": up, "into": "/data", "to": "linked" }),
        json!({ "raw": "link", "in": "/data", "path": "file", "into": "/data", "to": "../escaped" }),
        // Between volumes nothing moves, and no file is in both.
        json!({ "raw": "link", "in": "/data", "path": "file", "into": "/srv/other", "to": "linked" }),
        json!({ "raw": "rename", "in": "/data", "path": "file", "into": "/srv/other", "to": "moved" }),
        json!({ "raw": "rename", "in": "/data", "path": "file", "into": "/tmp", "to": "moved" }),
        json!({ "raw": "rename", "in": "/data", "path": "file", "into": "/data", "to": "../escaped" }),
        json!({ "do": "read", "path": "/data/../../../../../admin.token" }),
        json!({ "do": "read", "path": "/etc/passwd" }),
        json!({ "do": "list", "path": "/" }),
    ] {
        let came = step(node, app, attempt.clone());
        assert!(came["error"].is_string() && came["error"] != "no such call", "{attempt}: {came}");
    }
    // A link to the outside may be made, and leads nowhere.
    let link = json!({ "raw": "symlink", "in": "/data", "path": "up", "to": up });
    step(node, app, link);
    let through = step(node, app, json!({ "raw": "read", "in": "/data", "path": "up" }));
    assert!(through["error"].is_string(), "{through}");
    let names = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(!names(root.parent().unwrap()).iter().any(|name| name == "escaped"));
    assert!(names(&root).iter().all(|name| name != "linked" && name != "absolute"));
}

#[test]
fn a_volume_that_is_granted_for_reading_is_not_changed() {
    let (node, app) = (node(), "files-ro");
    let app_ = App::new(app)
        .function("writer", "lab-p2", &format!("routes = [\"/do-files\"]\n{GRANT}"))
        .function("reader", "cgi-component", "routes = [\"/read/{*rest}\"]\nfiles = { \"data:ro\" = \"/data\" }")
        .function("core", "cgi-c", "routes = [\"/core/{*rest}\"]\nfiles = { \"data:ro\" = \"/data\" }")
        .end(VOLUME);
    node.serve(&app_);
    let reader = |step: Value| steps_at(node, app, "/read/files", json!([step]))[0].clone();
    // It was never written: the folder is empty.
    assert_eq!(reader(json!({ "do": "list", "path": "/data" })), json!([]));
    assert_eq!(step(node, app, json!({ "do": "write", "path": "/data/a", "text": "one" })), "ok");
    assert_eq!(reader(json!({ "do": "read", "path": "/data/a" })), "one");
    for attempt in [
        json!({ "do": "write", "path": "/data/a", "text": "two" }),
        json!({ "do": "write", "path": "/data/b", "text": "two" }),
        json!({ "do": "append", "path": "/data/a", "text": "two" }),
        json!({ "do": "resize", "path": "/data/a", "bytes": 0 }),
        json!({ "do": "remove", "path": "/data/a" }),
        json!({ "do": "make-folder", "path": "/data/folder" }),
        json!({ "do": "rename", "path": "/data/a", "to": "/data/b" }),
        json!({ "do": "link", "path": "/data/a", "to": "/data/b" }),
    ] {
        assert_eq!(reader(attempt.clone()), error("PermissionDenied"), "{attempt}");
    }
    let core =
        node.post(app, "/core/files", "read /data/a\nfill /data/a 5\nfill /data/b 5\nmkdir /data/c\nremove /data/a\n");
    assert_eq!(core.text().lines().next(), Some("one"));
    assert!(core.text().lines().skip(1).all(|line| line.contains("not permitted")), "{}", core.text());
    assert_eq!(fs::read_dir(volume(node, app)).unwrap().count(), 1);
}

#[test]
fn another_apps_volume_takes_both_sides() {
    let node = node();
    let mut owner = App::of_guest("files-owner", "lab-p2", GRANT).end(&format!("{VOLUME}\nshare = [\"files-guest\"]"));
    node.serve(&owner);
    step(node, "files-owner", json!({ "do": "write", "path": "/data/a", "text": "shared" }));
    let guest = App::of_guest("files-guest", "lab-p2", "files = { \"files-owner/data:ro\" = \"/shared\" }");
    node.serve(&guest);
    let read = json!({ "do": "read", "path": "/shared/a" });
    assert_eq!(step(node, "files-guest", read.clone()), "shared");
    owner.change("share = [\"files-guest\"]", "");
    owner.change("0.1.0", "0.2.0");
    node.serve(&owner);
    assert!(step(node, "files-guest", read)["error"].is_string());
}

#[test]
fn a_sandbox_has_a_tmp_of_its_own_that_is_gone_with_it() {
    let (node, app) = (Node::start(), "files-tmp");
    node.serve(&App::of_guest(app, "lab-p2", ""));
    assert_eq!(node.get(app, "/hello").status, 200);
    assert_eq!(node.get(app, "/files").json()["preopens"], json!(["/tmp"]));
    assert!(!node.data_dir().join("tmp/sandbox-0").exists(), "it is made when it is used");
    let use_it = json!([
        { "do": "list", "path": "/tmp" },
        { "do": "write", "path": "/tmp/a", "text": "mine" },
        { "do": "make-folder", "path": "/tmp/b/c" },
        { "do": "read", "path": "/tmp/a" },
    ]);
    for _ in 0..3 {
        assert_eq!(steps(&node, app, use_it.clone()), json!([[], "ok", "ok", "mine"]), "each sandbox begins empty");
    }
    until("their folders are gone", || sandboxes(&node) == 0);
}

#[test]
fn nobody_sees_the_tmp_of_another_sandbox_and_a_kill_leaves_none() {
    let (node, app) = (Node::start(), "files-tmp-kill");
    let app_ = App::new(app)
        .function("web", "lab-p2", "routes = [\"/{*rest}\"]\ninstances = \"reuse\"")
        .function("cgi", "cgi-component", "routes = [\"/cgi/{*rest}\"]")
        .function("core", "cgi-c", "routes = [\"/core/{*rest}\"]");
    node.serve(&app_);
    step(&node, app, json!({ "do": "write", "path": "/tmp/secret", "text": "mine" }));
    // The instance stays warm with its folder, and finds it again.
    assert_eq!(step(&node, app, json!({ "do": "read", "path": "/tmp/secret" })), "mine");
    assert_eq!(sandboxes(&node), 1);
    assert_eq!(steps_at(&node, app, "/cgi/files", json!([{ "do": "list", "path": "/tmp" }])), json!([[]]));
    assert_eq!(node.post(app, "/core/files", "list /tmp\n").text().trim(), ". ..");
    let node = node.kill_and_restart();
    assert_eq!(sandboxes(&node), 0);
    assert_eq!(step(&node, app, json!({ "do": "list", "path": "/tmp" })), json!([]));
}

#[test]
fn tmp_is_bounded() {
    let (node, app) = (node(), "files-tmp-full");
    node.serve(&App::of_guest(app, "lab-p2", ""));
    let done = steps(
        node,
        app,
        json!([
            { "do": "fill", "path": "/tmp/a", "bytes": 60 * MIB },
            { "do": "grow", "path": "/tmp/a", "bytes": 8 * MIB },
            { "do": "remove", "path": "/tmp/a" },
            { "do": "many", "path": "/tmp/n", "n": 5000 },
        ]),
    );
    assert_eq!((&done[0], &done[1]["error"], &done[3]), (&json!("ok"), &json!("StorageFull"), &json!(1000)), "{done}");
}

#[test]
fn what_a_sandbox_has_open_is_bounded() {
    let (node, app) = (node(), "files-open");
    let _app = lab(node, app, "");
    let many = json!({ "raw": "open-many", "in": "/data", "path": "one", "n": 1000 });
    let came = step(node, app, many);
    assert_eq!(came["error"], "insufficient-memory", "{came}");
    assert!((100..128).contains(&came["opened"].as_u64().unwrap()), "{came}");
    // They are closed with the sandbox, and the next one has as many.
    let few = json!({ "raw": "open-many", "in": "/data", "path": "one", "n": 100 });
    assert_eq!(step(node, app, few), 100);
}

#[test]
fn guests_of_every_kind_reach_their_files() {
    let (node, app) = (node(), "files-kinds");
    let settings = |path: &str, more: &str| format!("routes = [\"{path}/{{*rest}}\"]\n{GRANT}\n{more}");
    let app_ = App::new(app)
        .function("p3", "lab-p3", &settings("/p3", "").replace("/p3/{*rest}", "/files"))
        .function("p3-reuse", "lab-p3", "routes = [\"/hello\"]\ninstances = \"reuse\"")
        .function("cgi", "cgi-component", &settings("/cgi", ""))
        .function("core", "cgi-c", &settings("/core", ""))
        .end(VOLUME);
    node.serve(&app_);
    let write = |text: &str| json!([{ "do": "append", "path": "/data/log", "text": text }, { "do": "write", "path": "/tmp/a", "text": "" }]);
    assert_eq!(steps_at(node, app, "/files", write("p3 ")), json!(["ok", "ok"]));
    assert_eq!(steps_at(node, app, "/cgi/files", write("cgi ")), json!(["ok", "ok"]));
    let core =
        node.post(app, "/core/files", "append /data/log 3\nread /data/log\nfill /tmp/a 10\nsize /tmp/a\nlist /data\n");
    assert_eq!(core.text(), "ok\np3 cgi xxx\nok\n10\n. .. log \n");
}

#[test]
fn a_core_module_stays_within_its_volume_too() {
    let (node, app) = (node(), "files-core");
    let app_ = App::of_guest(app, "cgi-c", GRANT).end(VOLUME);
    node.serve(&app_);
    symlink("/etc/passwd", {
        fs::create_dir_all(volume(node, app)).unwrap();
        volume(node, app).join("planted")
    })
    .unwrap();
    for (script, expected) in [
        ("fill /data/a 2000000\n", "No space"),
        ("pwrite /data/a 1000 0\n", "ok"),
        ("append /data/a 200000\n", "No space"),
        ("pwrite /data/a 1 9000000\n", "No space"),
        ("resize /data/a 9000000\n", "No space"),
        ("remove /data/a\n", "ok"),
        ("fill /data/a 900000\n", "ok"),
        ("resize /data/a 10\n", "ok"),
        ("fill /data/b 900000\n", "ok"),
        ("hold /data/b\nremove /data/b\nfill /data/c 900000\n", "No space"),
        ("fill /data/c 900000\n", "ok"),
        ("remove /data/c\nmany /data/n 1000\n", "253"),
        ("mkdir /data/folder\n", "No space"),
        ("link /data/a /data/l\n", "No space"),
        ("symlink /data/s a\n", "No space"),
        ("fill /data/a 10\n", "ok"),
        ("read /data/planted\n", "not permitted"),
        ("read /data/../../../../../etc/passwd\n", "not permitted"),
        ("read /etc/passwd\n", "Capabilities insufficient"),
        ("rename /data/a /tmp/a\n", "ross"),
        ("link /data/a /tmp/a\n", "ross"),
        ("remove /data/n0\nsymlink /data/s /etc/passwd\n", "not permitted"),
        ("many /tmp/n 5000\n", "1000"),
        ("fill /tmp/a 70000000\n", "No space"),
        ("sync /data/a\n", "ok"),
    ] {
        let came = node.post(app, "/files", script).text();
        let last = came.lines().last().unwrap_or_default();
        assert!(last.contains(expected), "{script:?}: {came}, expected {expected}");
    }
}

#[test]
fn the_files_of_a_deleted_app_are_kept_or_destroyed_as_it_was_said() {
    let (node, app) = (node(), "files-delete");
    let _app = lab(node, app, "");
    step(node, app, json!({ "do": "write", "path": "/data/a", "text": "x" }));
    let usage = node.api("GET", &format!("/v1/apps/{app}/usage"), "").json();
    assert_eq!(usage["stores"][0]["kind"], "files", "{usage}");
    assert_eq!(usage["stores"][0]["bytes"], 8192, "{usage}");
    let asked = node.api("DELETE", &format!("/v1/apps/{app}"), "");
    assert_eq!(asked.status, 409, "{asked:?}");
    assert!(asked.text().contains("files data"), "{asked:?}");
    let deleted = node.api("DELETE", &format!("/v1/apps/{app}?data=keep"), "");
    assert!(deleted.status < 300, "{deleted:?}");
    let kept = node.data_dir().join("deleted/default");
    until("it lies aside", || {
        let Ok(mut entries) = fs::read_dir(&kept) else { return false };
        entries.any(|entry| entry.unwrap().path().join("files/data/a").exists())
    });
    assert!(!volume(node, app).exists());
}
