//! `minnow dev`, and the examples that it runs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use minnow_tests::{
    Answer, App, Cli, Connection, Node, Request, eventually, eventually_within, guest, minnow, until, wasm,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// How long a change may take to be live. The compiler has a low priority, so beside other work it may wait for minutes.
const COMPILED: Duration = Duration::from_secs(300);

/// `minnow dev` in a folder.
struct Dev {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
    printed: Arc<Mutex<String>>,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        Self::start_as(&Cli::new(), dir)
    }

    fn start_as(cli: &Cli, dir: &Path) -> Self {
        Self::start_with(cli, dir, &[])
    }

    fn start_with(cli: &Cli, dir: &Path, arguments: &[&str]) -> Self {
        let mut command = cli.command(["dev", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(arguments).arg(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = cli.start(command);
        let printed = Arc::new(Mutex::new(String::new()));
        let collect = |from: Box<dyn std::io::Read + Send>| {
            let printed = Arc::clone(&printed);
            thread::spawn(move || {
                for line in BufReader::new(from).lines().map_while(Result::ok) {
                    printed.lock().unwrap().push_str(&format!("{line}\n"));
                }
            });
        };
        collect(Box::new(child.stdout.take().unwrap()));
        collect(Box::new(child.stderr.take().unwrap()));
        let (http, admin) = eventually_within(COMPILED, "dev says where the app is", || {
            assert!(child.try_wait().unwrap().is_none(), "dev ended:\n{}", printed.lock().unwrap());
            let printed = printed.lock().unwrap();
            let address = |after: &str, end: &str| {
                let line = printed.lines().find(|line| line.trim().starts_with(after))?;
                line.trim().strip_prefix(after)?.strip_suffix(end)?.parse().ok()
            };
            let admin = address("control API  http://", "/v1")?;
            // The line before the one of the host name.
            let http = printed
                .lines()
                .find_map(|line| line.trim().strip_prefix("http://")?.strip_suffix('/')?.parse().ok())?;
            printed.contains("Next").then_some((http, admin))
        });
        Self { child, http, admin, printed }
    }

    fn get(&self, path: &str) -> Answer {
        Connection::open(self.http).unwrap().exchange(&Request::get("localhost:1", path)).unwrap().rest().unwrap()
    }

    fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// Commands that talk to the node of the app in `dir`.
    fn cli(&self, dir: &Path) -> Cli {
        let token = fs::read_to_string(dir.join(".minnow/admin.token")).unwrap();
        Cli::new().env("MINNOW_SERVER", &format!("http://{}", self.admin)).env("MINNOW_TOKEN", token.trim())
    }

    /// Waits until a request is answered by this text.
    #[track_caller]
    fn wait_for(&self, path: &str, text: &str) {
        let what = format!("{path} answers `{text}`");
        eventually_within(COMPILED, &what, || self.get(path).text().contains(text).then_some(()));
    }

    /// Waits until it has printed this text so many times.
    #[track_caller]
    fn wait_for_print(&self, text: &str, times: usize) {
        let what = format!("`{text}` is shown");
        eventually_within(COMPILED, &what, || (self.printed().matches(text).count() >= times).then_some(()));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("dev printed:\n{}", self.printed());
        }
    }
}

#[test]
fn the_tour_runs_and_follows_its_changes() {
    let folder = App::of_example("tour");
    let dev = Dev::start(folder.path());
    let printed = dev.printed();
    for part in [
        "tour@0.1.0-dev.1",
        "http://tour.localhost:",
        "/hello/{name}",
        "/api/{*rest}",
        "/cgi/{*rest}",
        "/static",
        "/guestbook",
    ] {
        assert!(printed.contains(part), "`{part}` is not in {printed}");
    }
    // What its README asks for.
    assert!(dev.get("/").ok().contains("<h1"));
    assert!(dev.get("/hello/Ada").ok().contains("Ada"));
    dev.get("/api").ok();
    assert!(dev.get("/api/hello?name=Ada").ok().contains("Ada"));
    dev.get("/api/time").ok();
    dev.get("/cgi").ok();
    let send = |path: &str, body: &str| {
        let request = Request::get("localhost:1", path).method("POST").body(body);
        Connection::open(dev.http).unwrap().exchange(&request).unwrap().rest().unwrap().ok()
    };
    assert_eq!(send("/api/echo", "small fish"), "small fish");
    assert!(send("/cgi/shout", "small fish").contains("SMALL FISH"));
    let mut clock = Connection::open(dev.http).unwrap().exchange(&Request::get("localhost:1", "/api/clock")).unwrap();
    clock.read_until("data:");
    drop(clock);
    assert_eq!(dev.get("/static/logo.svg").header("content-type"), Some("image/svg+xml"));
    dev.get("/nowhere").problem(404, "no_route");

    // A static file, the environment, and the code.
    fs::write(folder.path().join("static/style.css"), "body { color: teal }").unwrap();
    dev.wait_for("/static/style.css", "teal");
    let manifest = folder.path().join("minnow.toml");
    let changed = fs::read_to_string(&manifest).unwrap().replace("\"Ahoy\"", "\"Howdy\"");
    fs::write(&manifest, &changed).unwrap();
    dev.wait_for("/hello/Ada", "Howdy");
    fs::write(folder.path().join("functions/pages/pages.wasm"), wasm::cgi("another program")).unwrap();
    dev.wait_for("/", "another program");

    // A mistake in the manifest is shown, and the version before keeps serving.
    fs::write(&manifest, format!("colour = 1\n{changed}")).unwrap();
    dev.wait_for_print("unknown key `colour`", 1);
    dev.wait_for_print("the version before keeps serving", 1);
    dev.get("/").ok();
    fs::write(&manifest, changed.replace("Howdy", "Hello again")).unwrap();
    dev.wait_for_print("dev.5", 1);
    assert!(!dev.printed().contains('\u{1b}'), "colours are for terminals");

    // Ctrl-C ends it.
    let mut dev = dev;
    kill_process(Pid::from_raw(dev.child.id() as i32).unwrap(), Signal::INT).unwrap();
    let ended = eventually("dev ends", || dev.child.try_wait().unwrap());
    assert!(ended.success());
    assert_eq!(fs::read_to_string(folder.path().join(".minnow/.gitignore")).unwrap(), "*\n");
}

#[test]
fn a_change_is_built_and_a_failing_build_keeps_the_version_before() {
    // A "compiler" that copies, and fails where it is told to.
    let build = "build = \"sh build.sh\"\nwatch = [\"src/**\"]\nroutes = [\"/{*rest}\"]";
    let app = App::new("built").code("web", "a.wasm", b"", build);
    app.write(
        "build.sh",
        "grep -q fail src/mode && { echo this does not compile; exit 1; }; cp src/code.wasm a.wasm\n",
    );
    app.write("src/mode", "fine");
    app.write("src/code.wasm", wasm::cgi("one"));
    let dev = Dev::start(app.path());
    assert_eq!(dev.get("/").ok(), "one");
    app.write("src/code.wasm", wasm::cgi("two"));
    dev.wait_for("/", "two");
    app.write("src/mode", "fail");
    dev.wait_for_print("this does not compile", 1);
    dev.wait_for_print("the version before keeps serving", 1);
    assert_eq!(dev.get("/").ok(), "two");
    app.write("src/code.wasm", wasm::cgi("three"));
    app.write("src/mode", "fine again");
    dev.wait_for("/", "three");
    // Code that does not compile on the node keeps the version before, too.
    app.write("src/code.wasm", &guest("lab-p2")[..1000]);
    dev.wait_for_print("the version before keeps serving", 2);
    assert_eq!(dev.get("/").ok(), "three");
}

#[test]
fn a_migration_that_was_edited_after_it_ran_is_told_with_what_to_do() {
    let app = App::new("edited").code("web", "a.wasm", &wasm::cgi("ok"), "routes = [\"/{*rest}\"]");
    let app = app.end("[sql.main]\nmigrations = \"migrations\"");
    app.write("migrations/1.sql", "CREATE TABLE t (a);");
    let dev = Dev::start(app.path());
    app.write("migrations/1.sql", "CREATE TABLE t (a, b);");
    dev.wait_for_print("delete .minnow/sql and start it again", 1);
    dev.wait_for_print("the version before keeps serving", 1);
    for part in ["a migration was edited after it had run", "1.sql has run already", "write a new migration"] {
        assert!(dev.printed().contains(part), "{part}");
    }
}

#[test]
fn the_log_of_the_app_is_in_the_terminal() {
    let app = App::of_guest("chatter", "lab-p2", "");
    let dev = Dev::start(app.path());
    dev.get("/log").ok();
    until("what the function prints is shown", || {
        let printed = dev.printed();
        printed.contains("web lab stdout one") && printed.contains("web lab stderr two")
    });
    // The other verbs work against it.
    assert!(dev.cli(app.path()).ok(["status", "chatter"]).contains("0.1.0-dev.1"));
    // A reader that goes away does not end it.
    dev.get("/hello").ok();
}

#[test]
fn dev_does_not_become_the_default_of_later_commands() {
    let node = Node::shared();
    let cli = Cli::new();
    let token_file = node.data_dir().join("admin.token");
    cli.ok(["login", &node.server(), "--token-file", token_file.to_str().unwrap()]);
    let before = cli.json(["login", "--list", "--json"]);
    let app = App::of_guest("aside", "lab-p2", "");
    let dev = Dev::start_as(&cli, app.path());
    assert_eq!(cli.json(["login", "--list", "--json"]), before);
    cli.fails(["status", "aside"]).says(&["404 not_found", &node.server()]);
    // What it says about looking inside works, and holds for that shell alone.
    let printed = dev.printed();
    let export = printed.lines().map(str::trim).find(|line| line.starts_with("export ")).unwrap().to_owned();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{export}; \"$0\" status aside")]).arg(minnow());
    let like = cli.command([""; 0]);
    shell.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = shell.output().unwrap();
    let shown = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && shown.contains("0.1.0-dev.1"), "{export}: {ran:?}");
    assert_eq!(cli.json(["login", "--list", "--json"]), before);
}

#[test]
fn a_build_that_runs_ends_with_dev_whoever_ends_that() {
    for signal in [Signal::INT, Signal::TERM] {
        let app = App::new("lingers").code("web", "a.wasm", b"", "build = \"sleep 600 & echo $! > child; wait\"");
        let cli = Cli::new().in_dir(app.path());
        let mut command = cli.command(["dev", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut dev = cli.start(command);
        let child: i32 = eventually("the build runs", || {
            let written = fs::read_to_string(app.path().join("child")).ok()?;
            written.strip_suffix('\n')?.parse().ok()
        });
        // A process that has ended and was not waited for is a zombie.
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        assert!(runs());
        // To dev alone, as `kill` and a supervisor send it.
        kill_process(Pid::from_raw(dev.id() as i32).unwrap(), signal).unwrap();
        let ended = eventually("dev ends", || dev.try_wait().unwrap());
        assert!(ended.success(), "{signal:?}: {ended:?}");
        assert!(!runs(), "{signal:?}: the build goes on");
    }
}

#[test]
fn a_second_dev_in_a_folder_is_told_of_the_first() {
    let app = App::of_guest("twice", "lab-p2", "");
    let dev = Dev::start(app.path());
    let ran = Cli::new().in_dir(app.path()).run(["dev", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(ran.code(), 1);
    let pid = dev.child.id();
    ran.says(&[&format!("another `minnow dev` (pid {pid}) runs this app"), &format!("kill {pid}")]);
    assert!(!ran.stderr.contains("--data-dir"), "{}", ran.stderr);
    dev.get("/hello").ok();
}

#[test]
fn dev_refuses_an_app_that_cannot_start_and_says_why() {
    let app = App::new("broken").code("web", "a.wasm", b"", "build = \"exit 3\"");
    let ran = Cli::new().in_dir(app.path()).run(["dev", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(ran.code(), 1);
    ran.says(&["the build of web failed", "exit code 3"]);
}

#[test]
fn taken_ports_are_passed_over_unless_they_were_asked_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let app = App::of_guest("taken", "hello-p2", "");
    let ran = Cli::new().in_dir(app.path()).run(["dev", "--http", &taken.to_string(), "--admin", "127.0.0.1:0"]);
    assert_eq!(ran.code(), 1);
    ran.says(&["in use", &taken.to_string()]);
}

#[test]
fn the_hono_example_runs_with_its_packages_from_npm() {
    let app = App::of_example("hono");
    let dev = Dev::start(app.path());
    assert!(dev.get("/?name=Ada").text().contains("<h1>Ahoy, Ada!</h1>"), "{}", dev.get("/?name=Ada").text());
    assert_eq!(dev.get("/nowhere").json()["error"], "there is nothing here");
    assert!(dev.get("/static/style.css").text().contains('{'));
    let down = dev.get("/countdown/2");
    assert_eq!(down.text(), "2\n1\ngo\n");
    let answer = dev.get("/broken");
    assert_eq!((answer.status, &answer.json()["error"]), (500, &"something went wrong".into()));
    dev.wait_for_print("src/app.ts:", 1);
    dev.wait_for_print("throw new Error(\"this boat leaks\")", 1);
}

#[test]
fn the_guestbook_keeps_what_is_written_over_a_restart() {
    let app = App::of_example("tour");
    let send = |dev: &Dev, path: &str, body: &str| {
        let request = Request::get("localhost:1", &format!("/guestbook/api/{path}")).method("POST").body(body);
        Connection::open(dev.http).unwrap().exchange(&request).unwrap().rest().unwrap()
    };
    let dev = Dev::start(app.path());
    assert!(dev.get("/guestbook/").ok().contains("<h1>Guestbook</h1>"));
    assert_eq!(dev.get("/guestbook/api/entries").json(), json!([]));
    let signed = send(&dev, "entries", r#"{"name":" Ada ","text":"What a fine fish."}"#);
    assert_eq!((signed.status, signed.json()), (201, json!({ "id": 1 })));
    for refused in [r#"{"name":"Ada","text":" "}"#, "no JSON", r#"{"name":"Ada","text":"x","photo":"none"}"#] {
        assert_eq!(send(&dev, "entries", refused).status, 400, "{refused}");
    }
    for refused in [r#"{"type":"text/html","size":1}"#, r#"{"type":"image/png","size":5242881}"#, "null", ""] {
        assert_eq!(send(&dev, "photos", refused).status, 400, "{refused}");
    }
    assert_eq!(dev.get("/guestbook/api/photos").status, 405);
    assert_eq!(dev.get("/guestbook/api/entries?after=x").status, 400);
    assert_eq!(send(&dev, "visits", "").json(), json!({ "visits": 1 }));

    // A photo: to the gateway, into an entry, and from the gateway.
    let photo = send(&dev, "photos", r#"{"type":"image/png","size":5}"#).json();
    let put = |body: &str| {
        let url = photo["url"].as_str().unwrap();
        let request = Request::get("localhost:1", url).method("PUT").header("content-type", "image/png").body(body);
        Connection::open(dev.http).unwrap().exchange(&request).unwrap().rest().unwrap()
    };
    put("too large").problem(413, "too_large");
    assert_eq!(put("small").status, 201);
    let entry = json!({ "name": "Grace", "text": "Look!", "photo": photo["key"] });
    assert_eq!(send(&dev, "entries", &entry.to_string()).status, 201);
    let stats = json!({
        "visits": 1, "entries": 2, "newest": 2,
        "writers": [{ "name": "Ada", "entries": 1 }, { "name": "Grace", "entries": 1 }],
    });
    assert_eq!(dev.get("/guestbook/api/stats").json(), stats);
    drop(dev);

    let dev = Dev::start(app.path());
    assert_eq!(dev.get("/guestbook/api/stats").json(), stats);
    let entries = dev.get("/guestbook/api/entries").json();
    assert_eq!((entries.as_array().unwrap().len(), &entries[1]["text"]), (2, &json!("What a fine fish.")));
    let new = dev.get("/guestbook/api/entries?after=1").json();
    assert_eq!((new.as_array().unwrap().len(), &new[0]["name"]), (1, &json!("Grace")));
    let photo = dev.get(new[0]["photo"].as_str().unwrap());
    assert_eq!((photo.header("content-type"), photo.ok()), (Some("image/png"), "small".into()));
}

#[test]
fn an_order_in_the_shop_goes_over_a_topic_to_the_worker_and_onto_the_live_page() {
    let app = App::of_example("tour");
    let dev = Dev::start(app.path());
    assert!(dev.get("/shop/").ok().contains("<h1>Shop</h1>"));
    let live = Request::get("localhost:1", "/shop/api/live");
    let mut live = Connection::open(dev.http).unwrap().exchange(&live).unwrap();
    live.read_until("data: []\n\n");
    let send = |body: &str| {
        let request = Request::get("localhost:1", "/shop/api/orders").method("POST").body(body);
        Connection::open(dev.http).unwrap().exchange(&request).unwrap().rest().unwrap()
    };
    for refused in [
        r#"{"customer":" ","item":"herring","quantity":1}"#,
        r#"{"customer":"Ada","item":"whale","quantity":1}"#,
        r#"{"customer":"Ada","item":"herring","quantity":1.5}"#,
        r#"{"customer":"Ada","item":"herring","quantity":-1}"#,
        "null",
        "",
    ] {
        assert_eq!(send(refused).status, 400, "{refused}");
    }
    let taken = send(r#"{"customer":"Ada","item":"herring","quantity":3}"#);
    assert_eq!(taken.status, 202);
    assert_eq!(taken.json()["id"].as_str().unwrap().len(), 32);
    let shown = live.read_until(r#""state":"packed""#);
    assert!(shown.contains(r#""customer":"Ada","item":"herring","quantity":3,"#), "{shown}");
    // What nobody can pack is tried again, and then a dead letter, whose copy comes back to the shop.
    assert_eq!(send(r#"{"customer":"Grace","item":"sardine","quantity":0}"#).status, 202);
    live.read_until(r#""state":"refused""#);
    drop(live);

    let cli = dev.cli(app.path());
    let dead = cli.json(["topic", "dead", "list", "tour/orders", "--json"]);
    assert_eq!((dead.as_array().unwrap().len(), &dead[0]["tries"]), (1, &json!(3)), "{dead}");
    assert_eq!(dev.get("/shop/api/report").json(), json!({ "orders": 0, "items": {} }));
    cli.ok(["schedule", "run", "nightly", "--app", "tour"]);
    let report = eventually("the orders are counted", || {
        Some(dev.get("/shop/api/report").json()).filter(|report| report["orders"] != 0)
    });
    assert_eq!((&report["orders"], &report["items"]), (&json!(1), &json!({ "herring": 3 })), "{report}");
}

#[test]
fn the_types_of_the_tour_are_what_minnow_types_writes() {
    let app = App::of_example("tour");
    let types = app.path().join("minnow.d.ts");
    let committed = fs::read_to_string(&types).unwrap();
    Cli::new().in_dir(app.path()).ok(["types"]);
    assert!(fs::read_to_string(types).unwrap() == committed, "run `minnow types examples/tour`");
}

#[test]
fn a_change_of_a_typescript_source_is_live_and_an_error_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = "name = \"types\"\n[functions.web]\njs = \"src/web.ts\"\nroutes = [\"/{*rest}\"]\n";
    fs::write(dir.path().join("minnow.toml"), manifest).unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    let web = |body: &str| {
        let text = format!(
            "import {{ word }} from './word.ts';\nexport default {{\n  fetch(request: Request): Response {{\n    {body}\n  }},\n}};\n"
        );
        fs::write(dir.path().join("src/web.ts"), text).unwrap();
    };
    let word = |word: &str| {
        fs::write(dir.path().join("src/word.ts"), format!("export const word: string = '{word}';\n")).unwrap()
    };
    word("first");
    web("return new Response(word);");
    let dev = Dev::start(dir.path());
    dev.wait_for("/", "first");
    // A file that the entry imports.
    word("second");
    dev.wait_for("/", "second");
    web("throw new Error(`no ${word}`);");
    eventually_within(COMPILED, "it throws", || (dev.get("/").status == 500).then_some(()));
    dev.wait_for_print("src/web.ts:4:11", 1);
    dev.wait_for_print("4 |     throw new Error(`no ${word}`);", 1);
    // What is no TypeScript is told, and the version before keeps serving.
    web("return new Response(;");
    dev.wait_for_print("src/web.ts:4:25", 1);
    assert_eq!(dev.get("/").status, 500);
    // A mistake that is undone leaves nothing to publish, and is told too.
    web("throw new Error(`no ${word}`);");
    dev.wait_for_print("as before", 1);
    assert!(dev.printed().contains("live types@0.0.0-dev.3 as before"), "{}", dev.printed());
    web("return new Response('mended');");
    dev.wait_for("/", "mended");
}

/// An app with one function that is granted `grants`, and these tables.
fn granted(name: &str, grants: &str, tables: &str) -> App {
    App::new(name).code("web", "a.wasm", &wasm::cgi("ok"), &format!("routes = [\"/{{*rest}}\"]\n{grants}")).end(tables)
}

#[test]
fn secrets_come_from_a_file_and_what_is_missing_is_told_and_set_while_it_runs() {
    let app = granted("keys", "secrets = [\"FIRST\", \"SECOND\"]", "");
    app.write(".dev.vars", "# mine\nFIRST=\"sk one\"\nOTHER=x\n");
    let dev = Dev::start(app.path());
    dev.wait_for_print("granted the secret SECOND, which is not set", 1);
    dev.wait_for_print("add a line `SECOND=…` to .dev.vars", 1);
    dev.wait_for_print(".dev.vars has OTHER, which no function is granted", 1);
    assert!(!dev.printed().contains("secret FIRST, which is not set") && !dev.printed().contains("sk one"));
    dev.get("/").problem(503, "secret_missing");
    // A mistake is told by its line, and the rest goes on.
    app.write(".dev.vars", "FIRST=\"sk one\"\nsk_live_2\n");
    dev.wait_for_print("line 2: there is no `=`", 1);
    assert!(!dev.printed().contains("sk_live_2"));
    dev.get("/").problem(503, "secret_missing");
    app.write(".dev.vars", "FIRST=\"sk one\"\nSECOND='two'\n");
    dev.wait_for("/", "ok");
    let names = dev.cli(app.path()).json(["secret", "list", "--app", "keys", "--json"]);
    assert_eq!(names.as_array().unwrap().len(), 2, "{names}");
    drop(dev);

    // From elsewhere, and what was set stays.
    fs::remove_file(app.path().join(".dev.vars")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("vars");
    fs::write(&file, "FIRST=another\n").unwrap();
    let dev = Dev::start_with(&Cli::new(), app.path(), &["--secrets", file.to_str().unwrap()]);
    assert_eq!(dev.get("/").ok(), "ok");
    drop(dev);
    let cli = Cli::new().in_dir(app.path());
    cli.fails(["dev", "--secrets", "none"]).says(&["cannot read the secrets none"]);
    fs::write(&file, "FIRST\n").unwrap();
    cli.fails(["dev", "--secrets", file.to_str().unwrap()]).says(&["line 1: there is no `=`"]);
}

#[test]
fn a_store_of_an_app_that_is_not_there_keeps_nothing_else_from_running() {
    let dev_app = granted("alone", "kv = [\"shop/catalog:ro\"]", "");
    let dev = Dev::start(dev_app.path());
    dev.wait_for_print("which no live version of `shop` shares", 1);
    assert_eq!(dev.get("/").ok(), "ok");
    // A node that is in use refuses the same.
    let node = Node::shared();
    let cli = node.cli().in_dir(dev_app.path());
    cli.ok(["publish", "1.0.0"]);
    cli.fails(["deploy", "1.0.0"]).says(&["which no live version of `shop` shares"]);
}

#[test]
fn a_seed_is_run_until_it_has_succeeded_and_then_it_is_told_that_it_is_not() {
    let app = granted("seeded", "", "[sql.main]\nmigrations = \"migrations\"");
    app.write("migrations/1.sql", "CREATE TABLE t (a);");
    let cli = Cli::new().in_dir(app.path());
    let start = |arguments: &[&str]| Dev::start_with(&cli, app.path(), arguments);
    let rows = |dev: &Dev| {
        let query = ["sql", "query", "seeded/main", "SELECT count(*) FROM t", "--json"];
        dev.cli(app.path()).json(query)["rows"][0][0].clone()
    };
    let fails = || cli.fails(["dev", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--seed", "seed.sql"]);
    app.write("seed.sql", "INSERT INTO t VALUES (1), (2);\nINSERT INTO nowhere VALUES (1);\n");
    for _ in 0..2 {
        fails().says(&["seeded/main is not seeded", "no such table: nowhere", "runs it again from its beginning"]);
    }
    app.write("seed.sql", "INSERT INTO t VALUES (1), (2);\n");
    let seed = ["--seed", "seed.sql"];
    let dev = start(&seed);
    assert!(dev.printed().contains("seeded seeded/main with 1 statement of seed.sql"), "{}", dev.printed());
    assert_eq!(rows(&dev), json!(2));
    drop(dev);
    let dev = start(&["--seed", "seed.sql", "--seed-db", "main"]);
    assert!(dev.printed().contains("not seeded seeded/main was filled with it before"), "{}", dev.printed());
    assert!(dev.printed().contains("delete .minnow/sql"), "{}", dev.printed());
    drop(dev);
    app.write("seed.sql", "INSERT INTO t VALUES (3);\n");
    let dev = start(&seed);
    assert!(dev.printed().contains("was filled before, with another content than it has now"), "{}", dev.printed());
    assert_eq!(rows(&dev), json!(2));
    drop(dev);
    // A new database, whose seed fails once more: what was noted of the old one counts no more.
    fs::remove_dir_all(app.path().join(".minnow/sql")).unwrap();
    app.write("seed.sql", "INSERT INTO nowhere VALUES (1);\n");
    fails().says(&["seeded/main is not seeded"]);
    app.write("seed.sql", "INSERT INTO t VALUES (3);\n");
    let dev = start(&seed);
    assert!(dev.printed().contains("seeded seeded/main with 1 statement"), "{}", dev.printed());
    assert_eq!(rows(&dev), json!(1));
    drop(dev);
    // As if it had been killed in the middle.
    app.write(".minnow/.seeded-seeded-main", "begun\n");
    let dev = start(&seed);
    assert!(dev.printed().contains("not seeded seeded/main was being filled when"), "{}", dev.printed());
    assert_eq!(rows(&dev), json!(1));
    drop(dev);
    cli.fails(["dev", "--seed", "none.sql"]).says(&["cannot read the seed none.sql"]);
    cli.fails(["dev", "--seed", "seed.sql", "--seed-db", "other"]).says(&["no database `other`", "it has main"]);
}
