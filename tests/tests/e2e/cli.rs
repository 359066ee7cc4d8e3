//! Every verb as a user types it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    thread,
};

use minnow_tests::{App, Cli, Node, Ran, TlsFront, eventually, until, upstream::Upstream, wasm};
use serde_json::json;

const VERBS: [&str; 16] = [
    "new",
    "build",
    "dev",
    "node",
    "login",
    "logout",
    "publish",
    "deploy",
    "rollback",
    "apps",
    "versions",
    "status",
    "delete",
    "logs",
    "invoke",
    "completions",
];

#[test]
fn help_teaches_every_verb() {
    let cli = Cli::new();
    let help = cli.ok(["--help"]);
    for verb in VERBS {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} is not in {help}");
        let of_verb = cli.ok([verb, "--help"]);
        assert!(of_verb.contains("Usage: minnow") && of_verb.contains("Examples:"), "{verb}: {of_verb}");
    }
    assert!(!help.contains("compile-worker"), "the compiler is not a verb for people");
    assert!(cli.ok(["--version"]).starts_with("minnow 0."));
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let cli = Cli::new();
    for (arguments, part) in [
        (&["depoly"][..], "deploy"),
        (&["publish", "--vresion"], "--v"),
        (&["deploy", "one"], "one"),
        (&["deploy", "1.0.0", "--weight", "101"], "101"),
        (&["invoke", "hello"], "APP/FUNCTION"),
        (&["new", "Hello World"], "a-z"),
        (&["logs", "hello", "--since", "yesterday"], "10m"),
        (&["logs", "hello", "--limit", "10001"], "10000"),
        (&["invoke", "hello/api", "--path", "foo"], "`foo` does not start with `/`"),
        (&["invoke", "hello/api", "--path", "http://x/y"], "`http://x/y` does not start with `/`"),
        (&["node"], "--data-dir"),
        (&[], "Usage"),
    ] {
        let ran = cli.run(arguments);
        assert_eq!(ran.code(), 2, "{arguments:?}: {ran:?}");
        ran.says(&[part]);
    }
}

#[test]
fn completions_are_there_for_the_common_shells() {
    let cli = Cli::new();
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef minnow"), ("fish", "complete -c minnow")] {
        let script = cli.ok(["completions", shell]);
        assert!(script.contains(part), "{shell}");
        for verb in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
    }
    // Bash takes it, and completes a verb with it.
    let script = cli.home().join("minnow.bash");
    fs::write(&script, cli.ok(["completions", "bash"])).unwrap();
    let complete =
        "source \"$1\"; COMP_WORDS=(minnow dep); COMP_CWORD=1; _minnow minnow dep minnow; echo ${COMPREPLY[@]}";
    let bash = std::process::Command::new("bash").args(["-c", complete, "bash"]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "deploy\n", "{bash:?}");
}

#[test]
fn login_stores_the_token_for_its_user_alone() {
    let node = Node::shared();
    let cli = Cli::new();
    let token_file = node.data_dir().join("admin.token");
    let printed = cli.ok(["login", &node.server(), "--token-file", token_file.to_str().unwrap()]);
    assert!(printed.contains("logged in") && printed.contains(&node.server()), "{printed}");
    let stored = cli.home().join("config/minnow/credentials.toml");
    assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);
    // From now on no address and no token are needed.
    cli.ok(["apps"]);
    let status = cli.json(["login", "--status", "--json"]);
    assert_eq!((&status["server"], &status["token_from"]), (&node.server().into(), &"login".into()));
    assert!(!cli.ok(["login", "--status"]).contains(&node.token()), "the token is shown");
    // The environment takes precedence.
    cli.clone().env("MINNOW_TOKEN", "wrong").fails(["apps"]).says(&["401 unauthorized", "the token in MINNOW_TOKEN"]);
    // A token can come through a pipe, too.
    let other = Cli::new();
    let ran = other.run_with(["login", &node.server()], format!("{}\n", node.token()).as_bytes());
    assert_eq!(ran.code(), 0, "{ran:?}");
    other.ok(["apps"]);
    assert_eq!(other.run_with(["login", &node.server()], b"wrong\n").code(), 1);
    assert_eq!(other.run_with(["login", &node.server()], b"\n").code(), 1);
    other.ok(["apps"]);
}

/// Logs a user in to a node.
fn log_in(cli: &Cli, node: &Node) -> String {
    let token_file = node.data_dir().join("admin.token");
    cli.ok(["login", &node.server(), "--token-file", token_file.to_str().unwrap()])
}

#[test]
fn the_default_server_is_told_listed_and_switched() {
    let (one, two) = (Node::start(), Node::shared());
    let (first, second) = (one.server(), two.server());
    let cli = Cli::new();
    assert_eq!(cli.json(["login", "--list", "--json"]), json!([]));
    assert!(cli.ok(["login", "--list"]).contains("minnow login SERVER"));
    assert!(log_in(&cli, &one).contains(&format!("default {first}:")));
    // Another login moves the default, and says how to move it back.
    let printed = log_in(&cli, two);
    assert!(printed.contains(&format!("default {second}:")), "{printed}");
    assert!(printed.contains(&format!("it was {first}; back: minnow login --switch {first}")), "{printed}");
    let listed = |default: &str| {
        let mut servers = [&first, &second];
        servers.sort();
        json!(servers.map(|server| json!({ "server": server, "default": server == default })))
    };
    assert_eq!(cli.json(["login", "--list", "--json"]), listed(&second));
    let table = cli.ok(["login", "--list"]);
    let line = |server: &str| table.lines().find(|line| line.starts_with(server)).unwrap().trim_end().to_owned();
    assert!(line(&second).ends_with("yes") && !line(&first).ends_with("yes"), "{table}");
    // The token of the first is still there.
    cli.ok(["login", "--switch", &first]);
    assert_eq!(cli.json(["login", "--list", "--json"]), listed(&first));
    assert_eq!(cli.json(["login", "--status", "--json"])["server"], json!(first));
    cli.fails(["login", "--switch", "http://127.0.0.1:1"])
        .says(&["no stored token", "minnow login http://127.0.0.1:1"]);
    // Also by the address that a node prints, and while it cannot be reached.
    one.terminate();
    one.wait();
    cli.ok(["login", "--switch", &second]);
    cli.ok(["login", "--switch", &format!("{first}/v1")]);
    assert_eq!(cli.json(["login", "--list", "--json"]), listed(&first));
    // A variable that overrules the default is told.
    let ran = cli.clone().env("MINNOW_SERVER", &first).run(["login", "--switch", &second]);
    ran.says(&["warning", "MINNOW_SERVER", &first, "precedence"]);
}

#[test]
fn logout_forgets_what_login_stored() {
    let (one, two) = (Node::start(), Node::shared());
    let (first, second) = (one.server(), two.server());
    let cli = Cli::new();
    let stored = cli.home().join("config/minnow/credentials.toml");
    cli.fails(["logout"]).says(&["no server is the default", "minnow login --list"]);
    assert!(cli.ok(["logout", "--all"]).contains("no tokens are stored"));
    for node in [&one, two] {
        log_in(&cli, node);
    }
    let text = |text: &str| fs::read_to_string(&stored).unwrap().contains(text);
    cli.fails(["logout", "http://127.0.0.1:1"]).says(&["no stored token for http://127.0.0.1:1"]);
    // The default goes, the other stays and is not taken for it.
    let printed = cli.ok(["logout"]);
    assert!(printed.contains(&format!("logged out of {second}")), "{printed}");
    assert!(printed.contains(&format!("minnow login --switch {first}")), "{printed}");
    assert!(!text(&two.token()) && text(&one.token()));
    assert_eq!(cli.run(["apps"]).code(), 1);
    cli.ok(["login", "--switch", &first]);
    cli.ok(["apps"]);
    // By its address, with the last one the file.
    let printed = cli.json(["logout", "--server", &first, "--json"]);
    assert_eq!(printed, json!({ "removed": [first], "default": null }));
    assert!(!stored.exists());
    cli.clone().env("MINNOW_SERVER", &first).fails(["apps"]).says(&["no token", "minnow login"]);
    // All at once.
    for node in [&one, two] {
        log_in(&cli, node);
    }
    let printed = cli.ok(["logout", "--all"]);
    assert!(printed.contains(&first) && printed.contains(&second), "{printed}");
    assert!(!stored.exists());
    // The token itself is the node's to take back.
    log_in(&cli, &one);
}

#[test]
fn a_token_that_is_missing_or_wrong_is_told_with_what_to_do() {
    let node = Node::shared();
    let missing = Cli::new().env("MINNOW_SERVER", &node.server());
    let wrong = missing.clone().env("MINNOW_TOKEN", "mnw_wrong");
    for verb in [&["apps"][..], &["versions", "x"], &["status", "x"], &["logs", "x"], &["rollback", "x"]] {
        missing.fails(verb).says(&["no token", "minnow login", "admin.token"]);
        // Logging in would change nothing while the variables are set.
        let ran = wrong.fails(verb);
        ran.says(&["401 unauthorized", "the token in MINNOW_TOKEN", "MINNOW_SERVER"]);
        assert!(!ran.stderr.contains("minnow login"), "{}", ran.stderr);
    }
}

#[test]
fn a_token_that_login_was_given_and_the_node_refuses_is_told_for_what_it_is() {
    let node = Node::shared();
    let cli = Cli::new();
    let file = cli.home().join("wrong.token");
    fs::write(&file, "mnw_wrong\n").unwrap();
    let file = file.to_str().unwrap();
    let ran = cli.fails(["login", &node.server(), "--token-file", file]);
    ran.says(&["401 unauthorized", &format!("the token in {file} is not one of the node's"), "DATA_DIR/admin.token"]);
    assert!(!ran.stderr.contains("minnow login"), "{}", ran.stderr);
    let ran = cli.run_with(["login", &node.server()], b"mnw_wrong\n");
    ran.says(&["the token that was given is not one of the node's", "DATA_DIR/admin.token"]);
    // One that was stored and is void since.
    log_in(&cli, node);
    let stored = cli.home().join("config/minnow/credentials.toml");
    let text = fs::read_to_string(&stored).unwrap().replace(&node.token(), "mnw_void");
    fs::write(&stored, text).unwrap();
    cli.fails(["apps"]).says(&["401 unauthorized", &format!("run `minnow login {}`", node.server())]);
}

#[test]
fn a_node_that_cannot_be_reached_is_told_with_what_to_do() {
    // A port that the kernel gives to nobody: one that was free a moment ago may be another test's by now.
    let gone = "127.0.0.1:1";
    let cli = Cli::new().env("MINNOW_SERVER", &format!("http://{gone}")).env("MINNOW_TOKEN", "x");
    cli.fails(["apps"]).says(&[gone, "minnow node --data-dir"]);
}

/// A server that sends the same bytes to whoever connects, and reads nothing.
fn babbler(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(says);
            open.push(stream);
        }
    });
    address.to_string()
}

#[test]
fn an_address_that_is_not_the_control_apis_is_told_for_what_it_is() {
    let node = Node::builder().argument("--default-app").argument("front").start();
    node.serve(&App::of_guest("front", "lab-p2", ""));
    let front = TlsFront::start(node.admin);
    let cases = [
        // The other listener: an app that has no such path, and nothing that is an app.
        (format!("http://{}", node.http), "is where a node's apps answer, not its control API", "--admin"),
        (format!("http://{}", Node::shared().http), "is where a node's apps answer", "--admin"),
        // Something else.
        (Upstream::start("hello").url(""), "is not a Minnow node (200 OK)", "check the address"),
        (format!("http://{}", babbler(b"SSH-2.0-OpenSSH_9.9\r\n")), "does not speak HTTP", "https://"),
        // TLS where there is none, and none where there is.
        (format!("https://{}", node.admin), "does not speak TLS", &format!("http://{}", node.admin)),
        (format!("https://{}", node.http), "does not speak TLS", "http://"),
        (format!("http://{}", front.address), "does not speak HTTP", &format!("https://{}", front.address)),
    ];
    for (server, what, help) in cases {
        let cli = Cli::new().env("MINNOW_TOKEN", "x");
        let of_verb = cli.clone().env("MINNOW_SERVER", &server);
        of_verb.fails(["apps"]).says(&[&server, what, "help:", help]);
        of_verb.fails(["delete", "front", "--yes"]).says(&[what]);
        // Before it has asked for a token.
        cli.fails(["login", &server]).says(&[&server, what, "help:", help]);
    }
    node.get("front", "/hello").ok();
}

#[test]
fn a_token_is_not_shown_to_a_server_that_is_no_node() {
    let server = Upstream::start("hello");
    let ran = Cli::new().run_with(["login", &server.url("")], b"mnw_secret\n");
    assert_eq!(ran.code(), 1);
    ran.says(&["is not a Minnow node"]);
    let requests = server.requests();
    assert!(!requests.is_empty() && !format!("{requests:?}").contains("secret"), "{requests:?}");
}

#[test]
fn an_app_that_answers_every_path_is_not_taken_for_the_control_api() {
    let node = Node::builder().argument("--default-app").argument("all").start();
    node.serve(&App::new("all").code("web", "a.wasm", &wasm::cgi("anything"), "routes = [\"/{*rest}\"]"));
    let cli = Cli::new().env("MINNOW_SERVER", &format!("http://{}", node.http)).env("MINNOW_TOKEN", "x");
    for arguments in [
        &["apps"][..],
        &["status", "all"],
        &["deploy", "0.1.0", "--app", "all"],
        &["delete", "all", "--yes"],
        &["delete", "all", "--version", "0.1.0", "--yes"],
        &["logs", "all"],
        &["invoke", "all/web"],
        &["login"],
    ] {
        cli.fails(arguments).says(&["is where a node's apps answer", "--admin"]);
    }
    assert_eq!(node.get("all", "/").ok(), "anything");
}

#[test]
fn a_node_behind_tls_is_reached_with_https() {
    let node = Node::shared();
    let (front, stranger) = (TlsFront::start(node.admin), TlsFront::start(node.admin));
    let app = App::of_guest("behindtls", "lab-p2", "");
    let cli = Cli::new().env("MINNOW_SERVER", &front.url()).env("MINNOW_TOKEN", &node.token()).in_dir(app.path());
    let trusting = cli.clone().env("SSL_CERT_FILE", front.authority().to_str().unwrap());
    trusting.ok(["publish"]);
    trusting.ok(["deploy"]);
    assert!(trusting.ok(["status"]).contains("0.1.0"));
    assert!(trusting.ok(["invoke", "behindtls/web", "--path", "/hello"]).contains("Hello, World!"));
    trusting.ok(["login", "--status"]);
    // Whose authority is not known is told nothing.
    let distrusting = cli.env("SSL_CERT_FILE", stranger.authority().to_str().unwrap());
    distrusting.fails(["apps"]).says(&["the certificate of https://localhost", "not trusted", "SSL_CERT_FILE"]);
}

#[test]
fn every_listing_has_a_form_for_people_and_one_for_scripts() {
    let node = Node::start();
    let cli = node.cli();
    assert_eq!(cli.json(["apps", "--json"]), json!([]));
    assert!(cli.ok(["apps"]).contains("no apps yet"));
    let app = App::new("shop").code("web", "a.wasm", &wasm::cgi("shop"), "routes = [\"/\"]").code(
        "job",
        "b.wasm",
        &wasm::cgi("job"),
        "",
    );
    let cli = cli.in_dir(app.path());
    let published = cli.json(["publish", "--json"]);
    assert_eq!((&published["app"], &published["version"]), (&"shop".into(), &"0.1.0".into()));
    assert!(cli.ok(["status"]).contains("live: nothing"));
    let deployed = cli.json(["deploy", "--json"]);
    assert_eq!(deployed["shares"], json!([{ "version": "0.1.0", "weight": 100 }]));

    let apps = cli.json(["apps", "--json"]);
    assert_eq!((&apps[0]["app"], &apps[0]["versions"]), (&"shop".into(), &json!(1)));
    assert!(apps[0]["url"].as_str().unwrap().starts_with("http://shop.localhost:"));
    let versions = cli.json(["versions", "--json"]);
    assert_eq!((&versions[0]["version"], &versions[0]["weight"]), (&"0.1.0".into(), &json!(100)));
    let status = cli.json(["status", "--json"]);
    assert_eq!(status["functions"].as_array().unwrap().len(), 2);
    assert_eq!(status["functions"][1]["routes"], json!(["/"]));
    for (arguments, parts) in [
        (&["apps"][..], &["APP", "shop", "0.1.0", "http://shop.localhost:"][..]),
        (&["versions"], &["VERSION", "0.1.0", "100 %"]),
        (&["status"], &["shop", "FUNCTION", "web", "job", "command-core", "REVISION", "deploy"]),
    ] {
        let printed = cli.ok(arguments);
        for part in parts {
            assert!(printed.contains(part), "{arguments:?}: `{part}` is not in {printed}");
        }
        // Colours are for terminals.
        assert!(!printed.contains('\u{1b}'), "{printed:?}");
    }
}

#[test]
fn a_terminal_that_does_not_know_its_width_shows_whole_lines() {
    let node = Node::shared();
    node.serve(&App::new("wide").code("web", "a.wasm", &wasm::cgi("x"), "routes = [\"/\"]"));
    // `script` has no terminal to take a width from here, and makes one of 0 columns.
    let shown = node.cli().env("NO_COLOR", "1").on_a_terminal("status wide", None);
    let is_whole = |line: &str| line.starts_with("web ") && line.contains("command-core") && line.contains(" MiB ");
    assert!(shown.text.lines().any(is_whole), "{}", shown.text);
}

#[test]
fn an_app_is_found_by_its_folder_by_its_name_and_by_a_flag() {
    let node = Node::shared();
    let app = App::new("names").code("web", "a.wasm", &wasm::cgi("names"), "routes = [\"/\"]");
    let folder = app.path().to_str().unwrap();
    let cli = node.cli();
    cli.ok(["publish", "--app-dir", folder]);
    cli.ok(["deploy", "--app-dir", folder]);
    for arguments in [&["status", "names"][..], &["status", "--app", "names"], &["status", "--app-dir", folder]] {
        assert!(cli.ok(arguments).starts_with("names "), "{arguments:?}");
    }
    assert!(cli.clone().in_dir(app.path()).ok(["status"]).starts_with("names "));
    for arguments in [&["status"][..], &["deploy", "0.1.0"], &["delete", "--yes"]] {
        cli.fails(arguments).says(&["no app is named", "--app NAME", "--app-dir DIR"]);
    }
}

#[test]
fn what_is_unknown_is_told_by_name() {
    let node = Node::shared();
    node.serve(&App::new("found").code("web", "a.wasm", &wasm::cgi("x"), "routes = [\"/\"]"));
    let cli = node.cli();
    for (arguments, part) in [
        (&["status", "nobody"][..], "nobody"),
        (&["versions", "nobody"], "nobody"),
        (&["logs", "nobody"], "nobody"),
        (&["rollback", "nobody"], "nobody"),
        (&["deploy", "1.0.0", "--app", "nobody"], "nobody"),
        (&["delete", "nobody", "--yes"], "nobody"),
        (&["invoke", "nobody/web"], "nobody"),
        (&["invoke", "found/nothing"], "nothing"),
        (&["deploy", "7.7.7", "--app", "found"], "7.7.7"),
        (&["delete", "found", "--version", "7.7.7", "--yes"], "7.7.7"),
    ] {
        cli.fails(arguments).says(&["404 not_found", part]);
    }
}

#[test]
fn what_is_to_be_deleted_and_is_not_there_need_not_be_published() {
    let node = Node::shared();
    node.serve(&App::new("partly").code("web", "a.wasm", &wasm::cgi("x"), "routes = [\"/\"]"));
    let cli = node.cli();
    for (arguments, what, list) in [
        (
            &["delete", "partly", "--version", "9.9.9", "--yes"][..],
            "there is no partly@9.9.9",
            "minnow versions partly",
        ),
        (&["delete", "nobody", "--yes"], "there is no app `nobody`", "minnow apps"),
    ] {
        let ran = cli.fails(arguments);
        ran.says(&["404 not_found", what, list]);
        assert!(!ran.stderr.contains("publish"), "{}", ran.stderr);
    }
    // Another refusal keeps its words.
    cli.fails(["delete", "partly", "--version", "0.1.0", "--yes"]).says(&["409 conflict"]);
}

#[test]
fn a_log_that_is_followed_ends_with_its_app() {
    let node = Node::shared();
    node.serve(&App::of_guest("goneby", "lab-p2", ""));
    node.get("goneby", "/log").ok();
    let cli = node.cli();
    // The most lines that the command line asks for is what the node gives.
    until("there is a line", || !cli.ok(["logs", "goneby", "--limit", "10000"]).is_empty());
    let mut command = cli.command(["logs", "goneby", "-f"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut logs = cli.start(command);
    let mut stdout = BufReader::new(logs.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    cli.ok(["delete", "goneby", "--yes"]);
    let ended = eventually("the log ends", || logs.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let mut said = String::new();
    logs.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the app goneby was deleted"), "{said}");
}

#[test]
fn nothing_is_deleted_without_being_asked_or_told() {
    let node = Node::shared();
    node.serve(&App::new("keepme").code("web", "a.wasm", &wasm::cgi("kept"), "routes = [\"/\"]"));
    let ran = node.cli().run(["delete", "keepme"]);
    assert_eq!(ran.code(), 2);
    ran.says(&["--yes"]);
    assert_eq!(node.get("keepme", "/").ok(), "kept");
    // Neither is asked for what is not there.
    let ran = node.cli().run(["delete", "nobody"]);
    assert_eq!(ran.code(), 2);
    ran.says(&["--yes"]);
    let ran = node.cli().run(["delete", "nobody", "--yes"]);
    assert_eq!(ran.code(), 1);
    ran.says(&["404 not_found", "there is no app `nobody`; `minnow apps` lists those that there are"]);
}

#[test]
fn on_a_terminal_delete_asks_and_only_yes_deletes() {
    let node = Node::shared();
    node.serve(&App::new("asked").code("web", "a.wasm", &wasm::cgi("kept"), "routes = [\"/\"]"));
    let cli = node.cli();
    for answer in ["no\n", "\n", "ye\n"] {
        let shown = cli.on_a_terminal("delete asked", Some(("[yes/no]", answer)));
        assert_eq!(shown.code, 1, "{answer:?}: {}", shown.text);
        for part in ["the app asked with all its versions", &node.server(), "nothing was deleted"] {
            assert!(shown.text.contains(part), "`{part}` is not in {}", shown.text);
        }
        assert_eq!(node.get("asked", "/").ok(), "kept");
    }
    let shown = cli.on_a_terminal("delete asked", Some(("[yes/no]", "yes\n")));
    assert_eq!(shown.code, 0, "{}", shown.text);
    assert!(shown.text.contains("deleted"), "{}", shown.text);
    node.get("asked", "/").problem(404, "unknown_app");
}

#[test]
fn invoke_shows_the_answer_and_what_it_cost() {
    let node = Node::shared();
    let app = App::new("invoke").function("lab", "lab-p2", "").function("core", "cgi-c", "").function(
        "p3",
        "lab-p3",
        "instances = \"reuse\"",
    );
    node.serve(&app);
    let cli = node.cli();
    let printed = cli.ok(["invoke", "invoke/lab", "--path", "/hello"]);
    for part in
        ["200 OK", "content-type: text/plain", "Hello, World!", "time ", "CPU ", "peak memory ", "start", "request "]
    {
        assert!(printed.contains(part), "`{part}` is not in {printed}");
    }
    let burned = cli.json(["invoke", "invoke/lab", "--path", "/burn?ms=100", "--json"]);
    assert_eq!(burned["status"], 200);
    let usage = &burned["usage"];
    let number = |key: &str| usage[key].as_f64().unwrap_or_else(|| panic!("{key} is not in {usage}"));
    let (wall, cpu) = usage.as_object().unwrap().keys().fold((None, None), |(wall, cpu), key| {
        (wall.or(key.starts_with("wall").then_some(key)), cpu.or(key.starts_with("cpu").then_some(key)))
    });
    assert!(number(wall.unwrap()) > 0.0 && number(cpu.unwrap()) > 0.0, "{usage}");
    assert!(number("peak_memory_bytes") >= 65536.0, "{usage}");

    let echo = |arguments: &[&str], input: &[u8]| -> Ran {
        let all = [&["invoke", "invoke/lab", "--path", "/echo"][..], arguments].concat();
        cli.run_with(all, input)
    };
    assert!(echo(&["-d", "from the line"], b"").stdout.contains("from the line"));
    assert!(echo(&["-X", "PUT", "-d", "-"], b"from a pipe").stdout.contains("from a pipe"));
    let file = cli.home().join("body.txt");
    fs::write(&file, "from a file").unwrap();
    assert!(echo(&["-d", &format!("@{}", file.display())], b"").stdout.contains("from a file"));
    let headers = cli.ok(["invoke", "invoke/lab", "--path", "/headers", "-H", "x-thing: one", "-X", "patch"]);
    assert!(headers.contains(r#"["x-thing","one"]"#) && headers.contains("PATCH"), "{headers}");
    assert!(cli.ok(["invoke", "invoke/core", "--path", "/?a=b"]).contains(r#""QUERY_STRING":"a=b""#));
    assert!(cli.ok(["invoke", "invoke/p3", "--path", "/hello"]).contains("Hello, World!"));
    // A body has its length, as it has through the gateway.
    let sent = cli.ok(["invoke", "invoke/core", "-d", "small fish"]);
    assert!(sent.contains(r#""CONTENT_LENGTH":"10""#), "{sent}");
    assert!(
        cli.ok(["invoke", "invoke/core", "-d", "fish", "-H", "content-length: 4"]).contains(r#""CONTENT_LENGTH":"4""#)
    );
    assert!(!cli.ok(["invoke", "invoke/core"]).contains("CONTENT_LENGTH"));
    let wrong = cli.fails(["invoke", "invoke/core", "-d", "fish", "-H", "content-length: 5"]);
    wrong.says(&["422 invalid", "`content-length` is 5, and the body has 4 bytes"]);
    // A path that cannot be sent is told by what is wrong with it, and not in its full length.
    let long = format!("/{} b", "a".repeat(5000));
    for path in ["/a b", &long] {
        let wrong = cli.fails(["invoke", "invoke/core", "--path", path]);
        wrong.says(&["422 invalid", "holds ' '", "`%20`"]);
        assert!(wrong.stderr.len() < 1000, "{}", wrong.stderr);
    }
    // What the function does wrong is shown as its answer.
    let failed = cli.ok(["invoke", "invoke/lab", "--path", "/panic"]);
    assert!(failed.contains("500") && failed.contains("function_trapped"), "{failed}");
    let large = cli.fails(["invoke", "invoke/lab", "--path", "/download?bytes=8000000"]);
    large.says(&["6"]);
    assert!(node.get("invoke", "/hello").status == 404, "it has no route");
}

#[test]
fn colours_are_for_terminals_and_only_where_they_are_wanted() {
    let node = Node::shared();
    node.serve(&App::new("colour").code("web", "a.wasm", &wasm::cgi("x"), "routes = [\"/\"]"));
    let cli = node.cli();
    assert!(cli.on_a_terminal("status colour", None).text.contains("\u{1b}["));
    assert!(!cli.env("NO_COLOR", "1").on_a_terminal("status colour", None).text.contains("\u{1b}[3"));
}

#[test]
fn on_a_terminal_a_mistake_in_the_manifest_is_shown_in_its_line() {
    let app = App::with_manifest("name = \"a\"\n[functions.web]\nwasm = \"a.wasm\"\nroute = [\"/\"]\n")
        .file("a.wasm", wasm::cgi("x"));
    let shown = Cli::new().env("NO_COLOR", "1").in_dir(app.path()).on_a_terminal("build", None).text;
    for part in ["minnow.toml:4:1", "route = [\"/\"]", "did you mean `routes`"] {
        assert!(shown.contains(part), "`{part}` is not in\n{shown}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let node = Node::shared();
    node.serve(&App::of_guest("pipe", "lab-p2", ""));
    for _ in 0..20 {
        node.get("pipe", "/log").ok();
    }
    let cli = node.cli();
    let mut command = cli.command(["logs", "pipe"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut logs = cli.start(command);
    drop(logs.stdout.take());
    assert!(logs.wait().unwrap().success());
    let mut said = String::new();
    logs.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
