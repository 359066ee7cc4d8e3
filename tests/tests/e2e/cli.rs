//! Every verb as a user types it.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use minnow_tests::{App, Cli, Node, Ran, minnow, wasm};
use serde_json::json;

const VERBS: [&str; 15] = [
    "new",
    "build",
    "dev",
    "node",
    "login",
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
    cli.clone().env("MINNOW_TOKEN", "wrong").fails(["apps"]).says(&["401 unauthorized", "minnow login"]);
    // A token can come through a pipe, too.
    let other = Cli::new();
    let ran = other.run_with(["login", &node.server()], format!("{}\n", node.token()).as_bytes());
    assert_eq!(ran.code(), 0, "{ran:?}");
    other.ok(["apps"]);
    assert_eq!(other.run_with(["login", &node.server()], b"wrong\n").code(), 1);
    assert_eq!(other.run_with(["login", &node.server()], b"\n").code(), 1);
    other.ok(["apps"]);
}

#[test]
fn a_token_that_is_missing_or_wrong_is_told_with_what_to_do() {
    let node = Node::shared();
    let missing = Cli::new().env("MINNOW_SERVER", &node.server());
    let wrong = missing.clone().env("MINNOW_TOKEN", "mnw_wrong");
    for verb in [&["apps"][..], &["versions", "x"], &["status", "x"], &["logs", "x"], &["rollback", "x"]] {
        missing.fails(verb).says(&["no token", "minnow login", "admin.token"]);
        wrong.fails(verb).says(&["401 unauthorized", "minnow login"]);
    }
}

#[test]
fn a_node_that_cannot_be_reached_is_told_with_what_to_do() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cli = Cli::new().env("MINNOW_SERVER", &format!("http://{gone}")).env("MINNOW_TOKEN", "x");
    cli.fails(["apps"]).says(&[&gone.to_string(), "minnow node --data-dir"]);
    // The other listener is a common mistake.
    let node = Node::shared();
    let cli = Cli::new().env("MINNOW_SERVER", &format!("http://{}", node.http)).env("MINNOW_TOKEN", "x");
    cli.fails(["apps"]).says(&["--admin"]);
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
    assert!(cli.in_dir(app.path()).ok(["status"]).starts_with("names "));
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
fn nothing_is_deleted_without_being_asked_or_told() {
    let node = Node::shared();
    node.serve(&App::new("keepme").code("web", "a.wasm", &wasm::cgi("kept"), "routes = [\"/\"]"));
    let ran = node.cli().run(["delete", "keepme"]);
    assert_eq!(ran.code(), 2);
    ran.says(&["--yes"]);
    assert_eq!(node.get("keepme", "/").ok(), "kept");
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
    // What the function does wrong is shown as its answer.
    let failed = cli.ok(["invoke", "invoke/lab", "--path", "/panic"]);
    assert!(failed.contains("500") && failed.contains("function_trapped"), "{failed}");
    let large = cli.fails(["invoke", "invoke/lab", "--path", "/download?bytes=8000000"]);
    large.says(&["6"]);
    assert!(node.get("invoke", "/hello").status == 404, "it has no route");
}

/// Runs `minnow` on a terminal of its own, and gives what it shows there.
fn on_a_terminal(cli: &Cli, arguments: &str) -> String {
    // `script` makes the terminal.
    let mut command = Command::new("script");
    let line = format!("{} {arguments}", minnow().display());
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let like = cli.command([""; 0]);
    command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm-256color");
    command.current_dir(like.get_current_dir().unwrap()).stdin(Stdio::null());
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

#[test]
fn colours_are_for_terminals_and_only_where_they_are_wanted() {
    let node = Node::shared();
    node.serve(&App::new("colour").code("web", "a.wasm", &wasm::cgi("x"), "routes = [\"/\"]"));
    let cli = node.cli();
    assert!(on_a_terminal(&cli, "status colour").contains("\u{1b}["));
    assert!(!on_a_terminal(&cli.env("NO_COLOR", "1"), "status colour").contains("\u{1b}[3"));
}

#[test]
fn on_a_terminal_a_mistake_in_the_manifest_is_shown_in_its_line() {
    let app = App::with_manifest("name = \"a\"\n[functions.web]\nwasm = \"a.wasm\"\nroute = [\"/\"]\n")
        .file("a.wasm", wasm::cgi("x"));
    let shown = on_a_terminal(&Cli::new().env("NO_COLOR", "1").in_dir(app.path()), "build");
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
