//! What is acknowledged stays, whatever happens to the node.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use minnow_model::Digest;
use minnow_tests::{App, Connection, Node, PATIENCE, Random, Request, guest, until, wasm};
use serde_json::Value;

#[test]
fn after_kill_9_everything_is_there_and_nothing_is_compiled_again() {
    let node = Node::start();
    let app = App::of_guest("stays", "lab-p2", "").file("public/a.txt", "a").end("[static]\n\"/\" = \"public\"");
    node.serve(&app);
    let cli = node.cli().in_dir(app.path());
    cli.ok(["publish", "0.2.0"]);
    cli.ok(["deploy", "0.2.0", "--weight", "40"]);
    let token = node.api("POST", "/v1/tokens", r#"{"name":"ci"}"#).json()["token"].as_str().unwrap().to_owned();
    node.get("stays", "/log").ok();
    until("the lines are in the log", || node.logs("stays").iter().any(|line| line["message"] == "lab stderr two"));
    assert!(node.metric("minnow_compile_duration_seconds_count", &[]) >= 1.0);
    let forget = |mut status: Value| {
        // What is running and loaded now, what was counted since the start, and the port, are of this moment.
        for function in status["functions"].as_array_mut().unwrap() {
            for key in ["running", "queued", "loaded"] {
                function[key] = Value::Null;
            }
        }
        status["traffic"] = Value::Null;
        status["url"] = Value::Null;
        status
    };
    let (before, versions) = (forget(node.status("stays")), node.api("GET", "/v1/apps/stays/versions", "").json());
    let admin = node.token();

    let node = node.kill_and_restart();
    assert_eq!(node.get("stays", "/hello").ok(), "Hello, World!\n");
    assert_eq!(node.get("stays", "/a.txt").ok(), "a");
    assert_eq!(forget(node.status("stays")), before);
    assert_eq!(node.api("GET", "/v1/apps/stays/versions", "").json(), versions);
    assert_eq!(node.token(), admin);
    let with_token = Request::get("node", "/v1/apps").header("authorization", &format!("Bearer {token}"));
    assert_eq!(node.call(&with_token).status, 200);
    assert!(node.logs("stays").iter().any(|line| line["message"] == "lab stderr two"), "the log is gone");
    assert_eq!(node.metric("minnow_compile_duration_seconds_count", &[]), 0.0);
}

#[test]
fn compiled_code_that_is_lost_is_made_again() {
    let node = Node::start();
    node.serve(&App::new("again").code("web", "a.wasm", &wasm::cgi("again"), "routes = [\"/\"]"));
    node.kill();
    fs::remove_dir_all(node.data_dir().join("compiled")).unwrap();
    let node = node.rebuild().start();
    until("the node is ready", || node.call(&Request::get("node", "/readyz")).status == 200);
    until("the app answers", || node.get("again", "/").status == 200);
    assert_eq!(node.get("again", "/").ok(), "again");
}

/// The compiled form of this code.
fn artifact(node: &Node, wasm: &[u8]) -> PathBuf {
    let name = Digest::of(wasm).hex();
    let engines = fs::read_dir(node.data_dir().join("compiled")).unwrap();
    let mut files = engines.flat_map(|engine| fs::read_dir(engine.unwrap().path()).unwrap());
    files.find_map(|file| Some(file.unwrap().path()).filter(|path| path.to_string_lossy().contains(&name))).unwrap()
}

#[test]
fn compiled_code_that_is_damaged_is_made_again() {
    let node = Node::start();
    // One that is mapped where it is asked for, and a large one, that is mapped on another thread.
    let large = guest("lab-p2");
    let codes = ["half", "empty", "other"].map(|name| (name, wasm::cgi(name), "/")).into_iter();
    let codes: Vec<_> = codes.chain([("large", large, "/hello")]).collect();
    for (name, code, _) in &codes {
        node.serve(&App::new(name).code("web", "a.wasm", code, "routes = [\"/{*rest}\"]"));
    }
    node.kill();
    for (name, code, _) in &codes {
        let path = artifact(&node, code);
        let content = fs::read(&path).unwrap();
        let damaged = match *name {
            "empty" => Vec::new(),
            "other" => b"this is no code".repeat(1000),
            _ => content[..content.len() / 2].to_vec(),
        };
        fs::write(&path, damaged).unwrap();
    }
    let node = node.rebuild().start();
    for (name, _, path) in &codes {
        node.get(name, path).problem(500, "load_failed");
        until("the app answers", || node.get(name, path).status == 200);
    }
    let compiled = || node.metric("minnow_compile_duration_seconds_count", &[]);
    until("each was compiled once", || compiled() == codes.len() as f64);
}

#[test]
fn code_that_does_not_fit_under_a_lowered_cap_is_not_taken_for_damaged() {
    let node = Node::start();
    let code = wasm::module(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory (export "memory") 1600)
            (func (export "_start")))"#,
    );
    node.serve(&App::new("wide").code("web", "a.wasm", &code, "routes = [\"/{*rest}\"]"));
    node.kill();
    let before = fs::read(artifact(&node, &code)).unwrap();
    let node = node.rebuild().config("[limits]\nmemory = \"64MiB\"").start();
    node.get("wide", "/").problem(500, "load_failed");
    assert!(fs::read(artifact(&node, &code)).is_ok_and(|after| after == before));
    assert_eq!(node.metric("minnow_compile_duration_seconds_count", &[]), 0.0);
}

#[test]
fn damaged_code_that_does_not_compile_any_more_keeps_no_compiler_busy() {
    let node = Node::start();
    let code = wasm::cgi("broken");
    node.serve(&App::new("broken").code("web", "a.wasm", &code, "routes = [\"/\"]"));
    node.kill();
    fs::write(artifact(&node, &code), "damaged").unwrap();
    let hex = Digest::of(&code).hex();
    fs::write(node.data_dir().join("blobs/sha256").join(&hex[..2]).join(&hex), "damaged, too").unwrap();
    let node = node.rebuild().start();
    let tried = || node.log().matches("live code does not compile").count();
    node.get("broken", "/").problem(500, "load_failed");
    until("it was compiled again", || tried() > 0);
    // Those who go on asking change nothing.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        node.get("broken", "/").problem(500, "load_failed");
    }
    // A second time, where the first was in the pass that every start begins with.
    assert!(tried() <= 2, "tried {} times", tried());
}

#[test]
fn a_node_whose_database_is_lost_does_not_start_empty() {
    let node = Node::start();
    node.serve(&App::new("kept").code("web", "a.wasm", &wasm::cgi("kept"), "routes = [\"/\"]"));
    node.kill();
    let aside = tempfile::tempdir().unwrap();
    let files: Vec<_> = ["minnow.db", "minnow.db-wal", "minnow.db-shm"]
        .map(|name| (node.data_dir().join(name), aside.path().join(name)))
        .into_iter()
        .filter(|(file, _)| file.exists())
        .collect();
    for (file, copy) in &files {
        fs::copy(file, copy).unwrap();
        fs::remove_file(file).unwrap();
    }
    node.rebuild().refuses().says(&["minnow.db", "missing", "backup", "empty directory"]);
    for (file, copy) in &files {
        fs::copy(copy, file).unwrap();
    }
    let node = node.rebuild().start();
    assert_eq!(node.get("kept", "/").ok(), "kept");
}

#[test]
fn two_nodes_cannot_share_a_data_directory() {
    let node = Node::start();
    let second = Node::builder().data_dir(&node.data_dir()).refuses();
    second.says(&["another node", node.data_dir().to_str().unwrap(), "--data-dir"]);
    node.get("any", "/").problem(404, "unknown_app");
    // It is free again when the first one has ended, also when that was killed.
    let node = node.kill_and_restart();
    node.get("any", "/").problem(404, "unknown_app");
}

#[test]
fn a_port_that_is_in_use_is_named_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--http", "--admin"] {
        let builder = Node::builder().argument(flag).argument(&address);
        builder.refuses().says(&[&address, "in use", flag]);
    }
    // Two nodes share no port either, although both could.
    let node = Node::start();
    let builder = Node::builder().argument("--http").argument(node.http.to_string());
    builder.refuses().says(&[&node.http.to_string(), "in use"]);
    let builder = Node::builder().argument("--admin").argument(node.admin.to_string());
    builder.refuses().says(&[&node.admin.to_string(), "in use"]);
}

#[test]
fn a_folder_with_other_content_is_not_taken_for_data() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "all my work").unwrap();
    Node::builder().data_dir(folder.path()).refuses().says(&["thesis.txt"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn mistakes_in_the_configuration_are_told_with_their_place() {
    for (lines, parts) in [
        ("htpp = \"127.0.0.1:1\"", &["node.toml", "htpp", "line 1"][..]),
        ("[limits]\nmemory = \"lots\"", &["node.toml", "line 2"]),
        ("[egress]\nprivate_networks = [\"10.0.0.0/99\"]", &["node.toml", "line 2"]),
        ("[sandboxes]\nmax = 0", &["node.toml", "sandboxes.max"]),
        ("[limits]\nmemory = \"5GiB\"", &["node.toml", "limits.memory", "at most 4GiB"]),
        ("[gateway]\nworkers = 100000", &["node.toml", "gateway.workers", "at most"]),
    ] {
        Node::builder().config(lines).refuses().says(parts);
    }
    let missing = Node::builder().argument("--config").argument("/nowhere/node.toml");
    missing.refuses().says(&["/nowhere/node.toml"]);
}

#[test]
fn what_the_data_directory_holds_is_for_the_nodes_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::start();
    let mode = |path: &str| fs::metadata(node.data_dir().join(path)).unwrap().permissions().mode() & 0o777;
    for file in ["admin.token", "minnow.db", "minnow.db-wal", "minnow.db-shm"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert_eq!(mode("blobs") & 0o077, 0);
    assert_eq!(mode("compiled") & 0o077, 0);
    node.serve(&App::of_guest("private", "hello-p2", ""));
    until("there is a log", || node.data_dir().join("logs/default/private").exists());
    assert_eq!(mode("logs/default/private") & 0o077, 0);
    // Tokens are stored hashed.
    let token = node.token();
    let node = node.kill_and_restart();
    for file in ["minnow.db", "minnow.db-wal"] {
        let content = fs::read(node.data_dir().join(file)).unwrap_or_default();
        let secret = token.trim_start_matches("mnw_").as_bytes();
        assert!(!content.windows(secret.len()).any(|window| window == secret), "the token is in {file}");
    }
}

#[test]
fn a_full_disk_refuses_a_publish_and_changes_nothing() {
    let node = Node::builder().disk("24m").start();
    let small = App::new("small").code("web", "a.wasm", &wasm::cgi("small"), "routes = [\"/\"]");
    node.serve(&small);
    let mut random = Random::new("a_full_disk_refuses_a_publish_and_changes_nothing");
    let app = App::of_guest("big", "lab-p2", "").file("public/a.bin", random.bytes(20 << 20));
    let app = app.end("[static]\n\"/\" = \"public\"");
    let ballast = node.data_dir().join("ballast");
    fs::write(&ballast, random.bytes(8 << 20)).unwrap();
    let cli = node.cli().in_dir(app.path());
    cli.fails(["publish"]).says(&["507 storage_full"]);
    node.api("GET", "/v1/apps/big", "").problem(404, "not_found");
    assert_eq!(node.get("small", "/").ok(), "small");
    // Not a byte left: the database cannot grow either.
    let free = |node: &Node| rustix::fs::statvfs(node.data_dir()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
    until("what was begun is removed", || free(&node) > 8 << 20);
    let rest = free(&node);
    let _ = fs::write(node.data_dir().join("rest"), vec![0; rest as usize + 1]);
    for _ in 0..3 {
        let other = App::new("other").code("web", "a.wasm", &wasm::cgi("other"), "routes = [\"/\"]");
        node.cli().in_dir(other.path()).fails(["publish"]).says(&["507 storage_full"]);
        assert_eq!(node.get("small", "/").ok(), "small");
    }
    fs::remove_file(node.data_dir().join("rest")).unwrap();
    fs::remove_file(&ballast).unwrap();
    let fits = App::of_guest("big", "lab-p2", "").file("public/a.bin", random.bytes(4 << 20));
    node.serve(&fits.end("[static]\n\"/\" = \"public\""));
    node.get("big", "/hello").ok();
}

/// What the node has acknowledged, and what it may have done beyond that.
#[derive(Debug, Default)]
struct Ledger {
    /// Digest by version.
    published: BTreeMap<String, String>,
    /// The version and revision of the last deployment that was acknowledged.
    deployed: Option<(String, u64)>,
    /// Versions whose deployment was asked for after that.
    asked: Vec<String>,
}

/// What version `number` of the app answers.
fn text(number: u64) -> String {
    format!("version 0.0.{number}")
}

fn app(number: u64) -> App {
    let settings = "routes = [\"/{*rest}\"]";
    let app = App::new("ledger").code("web", "a.wasm", &wasm::cgi(&text(number)), settings);
    app.file("public/number.txt", number.to_string()).end("[static]\n\"/static\" = \"public\"")
}

impl Ledger {
    /// Publishes and deploys one version after another until the node is gone.
    fn work(ledger: &Mutex<Self>, node: &Node, next: &Mutex<u64>) {
        loop {
            let number = {
                let mut next = next.lock().unwrap();
                *next += 1;
                *next
            };
            let (app, version) = (app(number), format!("0.0.{number}"));
            let cli = node.cli().in_dir(app.path());
            let published = cli.run(["publish", &version, "--json"]);
            if published.code() != 0 {
                return;
            }
            let published: Value = serde_json::from_str(&published.stdout).unwrap();
            let digest = published["digest"].as_str().unwrap().to_owned();
            ledger.lock().unwrap().published.insert(version.clone(), digest);
            ledger.lock().unwrap().asked.push(version.clone());
            let deployed = cli.run(["deploy", &version, "--json"]);
            if deployed.code() != 0 {
                return;
            }
            let deployed: Value = serde_json::from_str(&deployed.stdout).unwrap();
            let mut ledger = ledger.lock().unwrap();
            ledger.deployed = Some((version, deployed["revision"].as_u64().unwrap()));
            ledger.asked.clear();
        }
    }

    /// Compares what a node has with what was acknowledged.
    fn verify(&self, node: &Node) {
        let listed = node.api("GET", "/v1/apps/ledger/versions", "");
        if self.published.is_empty() && listed.status == 404 {
            return;
        }
        let listed: BTreeMap<String, String> = listed
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["version"].as_str().unwrap().into(), row["digest"].as_str().unwrap().into()))
            .collect();
        for (version, digest) in &self.published {
            assert_eq!(listed.get(version), Some(digest), "{version} was acknowledged");
        }
        // Every version that is visible is whole, acknowledged or not.
        for (version, digest) in &listed {
            let manifest = node.api("GET", &format!("/v1/apps/ledger/versions/{version}/manifest"), "");
            assert_eq!(&Digest::of(&manifest.body).to_string(), digest);
            let manifest = manifest.json();
            let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
            for layer in layers {
                let digest = layer["digest"].as_str().unwrap();
                let blob = node.api("GET", &format!("/v1/blobs/{digest}"), "");
                assert_eq!(Digest::of(&blob.body).to_string(), digest, "{version}");
            }
        }
        let Some((version, revision)) = &self.deployed else { return };
        let status = node.status("ledger");
        let live = status["deployment"]["shares"][0]["version"].as_str().unwrap().to_owned();
        let live_revision = status["deployment"]["revision"].as_u64().unwrap();
        if live_revision == *revision {
            assert_eq!(&live, version);
        } else {
            assert!(live_revision > *revision, "revision {revision} was acknowledged, {live_revision} is live");
            assert!(self.asked.contains(&live), "{live} is live and nobody asked for it: {self:?}");
        }
        let number: u64 = live.rsplit('.').next().unwrap().parse().unwrap();
        assert_eq!(node.get("ledger", "/").ok(), text(number));
        assert_eq!(node.get("ledger", "/static/number.txt").ok(), number.to_string());
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_node_is_killed_again_and_again() {
    let mut random = Random::new("nothing_acknowledged_is_lost_when_the_node_is_killed_again_and_again");
    let (ledger, next) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(Mutex::new(0)));
    let mut node = Arc::new(Node::start());
    let began = Instant::now();
    // At least twelve times, and until something came of it: on a busy machine a round may be over before the first publish.
    for round in 0.. {
        let done = round >= 12 && ledger.lock().unwrap().published.len() > 5;
        if done || began.elapsed() > PATIENCE * 3 {
            break;
        }
        ledger.lock().unwrap().verify(&node);
        let stop = Arc::new(AtomicBool::new(false));
        let worker = {
            let (ledger, node, next) = (Arc::clone(&ledger), Arc::clone(&node), Arc::clone(&next));
            thread::spawn(move || Ledger::work(&ledger, &node, &next))
        };
        let answered = Arc::new(AtomicU64::new(0));
        let traffic = {
            let (address, stop, answered) = (node.http, Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let request = Request::get("ledger", "/");
                    let sent = Connection::open(address).and_then(|connection| connection.exchange(&request)?.rest());
                    // While the node lives it answers with one of the versions, or has none yet.
                    if let Ok(answer) = sent {
                        let known = answer.status == 404 || answer.text().starts_with("version 0.0.");
                        assert!(known, "{answer:?} {}", answer.text());
                        answered.fetch_add(1, Relaxed);
                    }
                }
            })
        };
        // As good as any moment: the publishes and deploys beside the traffic do not know of it.
        let enough = 20 + random.below(1_000);
        until("some requests are answered", || answered.load(Relaxed) >= enough);
        node.kill();
        worker.join().unwrap();
        stop.store(true, Relaxed);
        traffic.join().unwrap();
        println!("round {round}: {} versions acknowledged", ledger.lock().unwrap().published.len());
        node = Arc::new(node.rebuild().start());
    }
    let ledger = ledger.lock().unwrap();
    ledger.verify(&node);
    assert!(ledger.published.len() > 3, "hardly anything was published: {ledger:?}");
    // What was under way when the node was killed can be done again.
    let last = *next.lock().unwrap();
    for number in last.saturating_sub(3).max(1)..=last {
        let app = app(number);
        node.cli().in_dir(app.path()).ok(["publish", &format!("0.0.{number}")]);
    }
}

#[test]
fn on_sigterm_requests_that_run_end_and_the_node_stops() {
    let node = Node::start();
    node.serve(&App::of_guest("drain", "lab-p2", "limits = { timeout = \"5m\" }"));
    let mut events = node.open(&Request::get("drain", "/sse?n=4&ms=400"));
    events.read_until("event 1\n\n");
    let mut connection = node.connect();
    let (answer, kept) = connection.exchange(&Request::get("drain", "/hello")).unwrap().rest_and_connection().unwrap();
    answer.ok();
    connection = kept;
    node.terminate();
    until("new clients are turned away", || Connection::open(node.http).is_err());
    // A connection that is open is closed, at the latest with its next answer.
    if let Ok(answer) = connection.exchange(&Request::get("drain", "/hello")) {
        assert_eq!(answer.header("connection"), Some("close"));
    }
    events.read_until("event 4\n\n");
    assert_eq!(events.piece().unwrap(), None);
    assert!(node.wait().success());
}

#[test]
fn draining_ends_at_its_bound() {
    let node = Node::builder().config("drain = \"500ms\"").start();
    node.serve(&App::of_guest("endless", "lab-p2", "limits = { timeout = \"10m\" }"));
    let stalled = node.open(&Request::get("endless", "/stall"));
    node.terminate();
    assert!(node.wait().success());
    assert!(stalled.drain().is_err(), "a body that was cut must not look complete");
    // What was stopped in an orderly way starts again.
    let node = node.rebuild().start();
    node.get("endless", "/hello").ok();
}

#[test]
fn a_second_signal_stops_the_node_at_once() {
    let node = Node::start();
    node.serve(&App::of_guest("impatient", "lab-p2", "limits = { timeout = \"10m\" }"));
    let _stalled = node.open(&Request::get("impatient", "/stall"));
    node.terminate();
    until("the node drains", || node.log().contains("draining"));
    node.terminate();
    assert_eq!(node.wait().code(), Some(1));
}
