//! Variables and secrets: settings of an app that change without a publish.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use minnow_tests::{App, Node, Request, eventually, until};
use serde_json::{Value, json};

const SECRET: &str = "sk_live_51H8xTcKqZ";

/// A function that answers its environment as JSON.
const ENV_JS: &str = "export default { fetch: (request, env) => Response.json(env) };";

/// An app with functions of both kinds that answer their environment, at `/env` and `/js`.
fn app(name: &str, settings: &str) -> App {
    App::new(name).function("wasm", "lab-p2", &format!("routes = [\"/env\"]\n{settings}")).js(
        "js",
        "js.js",
        ENV_JS,
        &format!("routes = [\"/js\"]\n{settings}"),
    )
}

/// What the functions of [`app`] see under a name.
fn seen(node: &Node, app: &str, name: &str) -> [Value; 2] {
    ["/env", "/js"].map(|path| node.get(app, path).json()[name].clone())
}

/// Whether a file under `folder` holds this text.
fn holds(folder: &Path, text: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = if path.is_dir() {
            holds(&path, text)
        } else {
            // Sockets and files that went meanwhile have nothing.
            let content = fs::read(&path).unwrap_or_default();
            content.windows(text.len()).any(|piece| piece == text.as_bytes()).then_some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The messages in the log of an app that contain `text`, once there are some.
#[track_caller]
fn logged(node: &Node, app: &str, text: &str) -> Vec<String> {
    eventually(&format!("`{text}` is in the log of {app}"), || {
        let messages = node.logs(app).into_iter().map(|line| line["message"].as_str().unwrap().to_owned());
        Some(messages.filter(|message| message.contains(text)).collect()).filter(|found: &Vec<_>| !found.is_empty())
    })
}

#[test]
fn a_variable_reaches_running_functions_without_a_publish_and_survives_kill_9() {
    let node = Node::start();
    let app = app("vars", "env = { COLOUR = \"red\", KEPT = \"kept\" }");
    node.serve(&app);
    let cli = node.cli().in_dir(app.path());
    assert_eq!(seen(&node, "vars", "COLOUR"), ["red", "red"]);
    let printed = cli.ok(["config", "set", "COLOUR=blue", "SIZE=a=b c"]);
    assert!(printed.contains("COLOUR, SIZE of vars") && printed.contains("revision 1"), "{printed}");
    assert_eq!(seen(&node, "vars", "COLOUR"), ["blue", "blue"]);
    assert_eq!(seen(&node, "vars", "SIZE"), ["a=b c", "a=b c"]);
    assert_eq!(seen(&node, "vars", "KEPT"), ["kept", "kept"]);

    let node = node.kill_and_restart();
    let cli = node.cli().in_dir(app.path());
    assert_eq!(seen(&node, "vars", "COLOUR"), ["blue", "blue"]);
    // A new version has it too.
    cli.ok(["publish", "0.2.0"]);
    cli.ok(["deploy", "0.2.0"]);
    assert_eq!(seen(&node, "vars", "COLOUR"), ["blue", "blue"]);
    cli.ok(["config", "unset", "COLOUR"]);
    assert_eq!(seen(&node, "vars", "COLOUR"), ["red", "red"], "what the manifest says is there again");
    cli.fails(["config", "unset", "COLOUR"]).says(&["404 not_found", "no variable `COLOUR`", "minnow config list"]);

    let listed = cli.json(["config", "list", "--json"]);
    assert_eq!((&listed[0]["name"], &listed[0]["value"]), (&"SIZE".into(), &"a=b c".into()));
    let history = cli.json(["config", "history", "--json"]);
    let changes: Vec<_> = history.as_array().unwrap().iter().map(|change| &change["changes"]).collect();
    assert_eq!(changes, [&json!({ "COLOUR": null }), &json!({ "COLOUR": "blue", "SIZE": "a=b c" })]);
    assert!(history[0]["time_ms"].as_u64() >= history[1]["time_ms"].as_u64());
    let shown = cli.ok(["config", "history"]);
    assert!(shown.contains("SIZE=a=b c") && shown.contains("COLOUR taken away"), "{shown}");
    logged(&node, "vars", "variables changed, revision 2: COLOUR");
}

#[test]
fn setting_what_is_set_already_starts_nothing_anew() {
    let node = Node::shared();
    let app = App::of_guest("same", "lab-p2", "instances = \"reuse\"");
    let js = "let count = 0; export default { fetch: () => new Response(String(++count)) };";
    let app = app.js("counts", "counts.js", js, "routes = [\"/counts\"]");
    node.serve(&app);
    let cli = node.cli().in_dir(app.path());
    cli.ok(["config", "set", "A=1"]);
    assert_eq!(node.get("same", "/counts").ok(), "1");
    let printed = cli.ok(["config", "set", "A=1"]);
    assert!(printed.contains("nothing changed"), "{printed}");
    assert_eq!(node.get("same", "/counts").ok(), "2");
    // A secret that no function is granted is no reason either.
    assert_eq!(cli.run_with(["secret", "set", "UNUSED"], b"12345").code(), 0);
    assert_eq!(node.get("same", "/counts").ok(), "3");
    cli.ok(["config", "set", "A=2"]);
    assert_eq!(node.get("same", "/counts").ok(), "1");
}

#[test]
fn a_variable_that_a_function_would_not_see_is_refused_with_both_names() {
    let node = Node::shared();
    let js = "export default { fetch: (_, env) => new Response(typeof env.SESSIONS) };";
    let app = App::new("hidden").js("web", "web.js", js, "routes = [\"/\"]\nkv = [\"sessions\"]").end("[kv.sessions]");
    node.serve(&app);
    let cli = node.cli().in_dir(app.path());
    cli.fails(["config", "set", "SESSIONS=x", "OTHER=y"]).says(&[
        "take other names",
        "function `web` of hidden@",
        "has the kv store `sessions` under the name SESSIONS",
    ]);
    assert_eq!(cli.json(["config", "list", "--json"]), serde_json::json!([]));
    cli.ok(["config", "set", "OTHER=y"]);
    assert_eq!(node.get("hidden", "/").ok(), "object");
}

#[test]
fn requests_that_run_while_a_setting_changes_end_as_they_began() {
    let node = Node::shared();
    node.serve(&App::of_guest("during", "lab-p2", ""));
    thread::scope(|scope| {
        let slow = scope.spawn(|| node.get("during", "/sleep?ms=1500").status);
        until("it runs", || node.count("during", "running") == 1);
        node.cli().ok(["config", "set", "A=1", "--app", "during"]);
        assert_eq!(node.get("during", "/env").json()["A"], "1");
        assert_eq!(slow.join().unwrap(), 200);
    });
}

#[test]
fn a_secret_is_seen_by_the_function_that_is_granted_it_and_by_nobody_else() {
    let node = Node::start();
    let app = app("granted", "secrets = [\"STRIPE_KEY\"]").js("other", "other.js", ENV_JS, "routes = [\"/other\"]");
    let cli = node.cli().in_dir(app.path());
    cli.ok(["publish"]);
    cli.fails(["deploy"]).says(&[
        "409 conflict",
        "function `js` of granted@0.1.0 is granted the secret STRIPE_KEY, which is not set",
        "minnow secret set STRIPE_KEY --app granted",
    ]);
    node.get("granted", "/env").problem(404, "unknown_app");
    let set = cli.run_with(["secret", "set", "STRIPE_KEY"], format!("{SECRET}\n").as_bytes());
    assert!(set.code() == 0 && set.stdout.contains("set STRIPE_KEY of granted"), "{set:?}");
    cli.ok(["deploy"]);
    assert_eq!(seen(&node, "granted", "STRIPE_KEY"), [SECRET, SECRET]);
    assert_eq!(node.get("granted", "/other").json(), json!({}));

    let mut shown = vec![format!("{set:?}")];
    for arguments in [&["secret", "list"][..], &["secret", "list", "--json"], &["status"], &["status", "--json"]] {
        shown.push(cli.ok(arguments));
    }
    for path in ["", "/config", "/config/history", "/secrets", "/versions", "/versions/0.1.0/manifest", "/logs"] {
        shown.push(node.api("GET", &format!("/v1/apps/granted{path}"), "").text());
    }
    shown.push(node.call(&Request::get("node", "/metrics")).text());
    shown.push(node.log());
    for text in &shown {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(shown[1].contains("STRIPE_KEY"), "{}", shown[1]);
    assert_eq!(holds(&node.data_dir(), SECRET), None);

    // Another value reaches them without a publish, also after kill -9.
    assert_eq!(cli.run_with(["secret", "set", "STRIPE_KEY"], b"sk_live_other").code(), 0);
    assert_eq!(seen(&node, "granted", "STRIPE_KEY"), ["sk_live_other", "sk_live_other"]);
    let node = node.kill_and_restart();
    assert_eq!(seen(&node, "granted", "STRIPE_KEY"), ["sk_live_other", "sk_live_other"]);
    let cli = node.cli().in_dir(app.path());
    cli.fails(["secret", "delete", "STRIPE_KEY"]).says(&["409 conflict", "`js` of granted@0.1.0", "deploy a version"]);
    assert_eq!(seen(&node, "granted", "STRIPE_KEY"), ["sk_live_other", "sk_live_other"]);
}

#[test]
fn secrets_are_masked_in_the_log() {
    let node = Node::start();
    let js = r#"
    export default {
        fetch(request, env) {
            const path = new URL(request.url).pathname;
            if (path === "/throw") throw new Error(`bad key ${env.KEY}, of course`);
            console.log(`first: ${env.KEY}.`);
            console.error({ key: env.KEY });
            console.log(env.PEM);
            console.log(`short: ${env.SHORT}`);
            console.log(`part: ${env.KEY.slice(0, -1)}`);
            return new Response(env.KEY);
        },
    };"#;
    let secrets = "secrets = [\"KEY\", \"PEM\", \"SHORT\"]";
    let app = App::new("masked").js("js", "js.js", js, &format!("routes = [\"/{{*rest}}\"]\n{secrets}")).function(
        "wasm",
        "lab-p2",
        &format!("routes = [\"/log\"]\n{secrets}"),
    );
    let cli = node.cli().in_dir(app.path());
    for (name, value) in [("KEY", SECRET), ("PEM", "-----BEGIN KEY-----\nMIIEvQ\nlab stderr two\n"), ("SHORT", "abc")] {
        let ran = cli.run_with(["secret", "set", name, "--app", "masked"], value.as_bytes());
        assert_eq!(ran.code(), 0, "{ran:?}");
    }
    node.serve(&app);
    assert_eq!(node.get("masked", "/").ok(), SECRET, "what it answers is its own affair");
    assert_eq!(node.get("masked", "/throw").status, 500);
    node.get("masked", "/log").ok();
    logged(&node, "masked", "bad key ***, of course");
    assert_eq!(logged(&node, "masked", "first: "), ["first: ***."]);
    assert_eq!(logged(&node, "masked", "short: "), ["short: abc"], "too short to be masked");
    assert_eq!(logged(&node, "masked", "part: "), [format!("part: {}", SECRET.strip_suffix('Z').unwrap())]);
    // A line of a secret that has several.
    logged(&node, "masked", "lab stderr one");
    until("the last line is there", || node.logs("masked").iter().any(|line| line["message"] == "***"));
    let messages: Vec<String> = node.logs("masked").iter().map(|line| line["message"].to_string()).collect();
    for hidden in [SECRET, "MIIEvQ", "BEGIN KEY", "lab stderr two"] {
        assert!(!messages.iter().any(|message| message.contains(hidden)), "{hidden}: {messages:#?}");
    }
    assert_eq!(holds(&node.data_dir(), SECRET), None);
}

#[test]
fn a_module_that_needs_a_secret_to_load_can_be_published_once_it_is_set() {
    let node = Node::shared();
    let js = r#"
    const key = Deno.env.get("TOP_KEY");
    if (!key) throw new Error("TOP_KEY is missing");
    if (key === "bad value") throw new Error(`cannot use ${key}`);
    export default { fetch: () => new Response(key) };"#;
    let app = App::of_js("toplevel", js, "secrets = [\"TOP_KEY\"]");
    let cli = node.cli().in_dir(app.path());
    cli.fails(["publish"]).says(&["TOP_KEY is missing"]);
    let set = cli.run_with(["secret", "set", "TOP_KEY"], b"bad value");
    set.says(&["nothing was published of toplevel before"]);
    let refused = cli.fails(["publish"]);
    refused.says(&["cannot use ***"]);
    assert!(!refused.stderr.contains("bad value"), "{refused:?}");
    assert_eq!(cli.run_with(["secret", "set", "TOP_KEY"], b"good value").code(), 0);
    node.serve(&app);
    assert_eq!(node.get("toplevel", "/").ok(), "good value");
}

#[test]
fn a_secret_is_asked_for_without_showing_it_and_is_never_an_argument() {
    let node = Node::shared();
    let cli = node.cli();
    let shown = cli.on_a_terminal("secret set TYPED --app typed", Some(("TYPED of typed: ", &format!("{SECRET}\r"))));
    assert!(shown.code == 0 && shown.text.contains("set"), "{}", shown.text);
    assert!(!shown.text.contains(SECRET), "{}", shown.text);
    assert_eq!(cli.json(["secret", "list", "--app", "typed", "--json"])[0]["name"], "TYPED");
    assert_eq!(cli.run(["secret", "set", "TYPED", SECRET, "--app", "typed"]).code(), 2);
    for (input, part) in
        [(&b""[..], "no secret was given"), (b"a\xffb", "is not UTF-8"), (&[b'x'; 70_000], "is longer")]
    {
        let ran = cli.run_with(["secret", "set", "TYPED", "--app", "typed"], input);
        assert_eq!(ran.code(), 1, "{ran:?}");
        ran.says(&[part]);
    }
    cli.fails(["secret", "delete", "OTHER", "--app", "typed"]).says(&["404 not_found", "no secret `OTHER`"]);
    cli.ok(["secret", "delete", "TYPED", "--app", "typed"]);
    assert_eq!(cli.json(["secret", "list", "--app", "typed", "--json"]), json!([]));
    cli.ok(["delete", "typed", "--yes"]);
}

#[test]
fn the_operator_can_keep_the_key_elsewhere_and_rotate_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("minnow.key");
    let builder = Node::builder().config(&format!("[secrets]\nkey_file = \"{}\"", key.display()));
    builder.clone().refuses().says(&["minnow.key", "is missing", "openssl rand -hex 32"]);
    fs::write(&key, format!("{}\n", "ab".repeat(32))).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    builder.clone().refuses().says(&["minnow.key", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let node = builder.start();
    let app = App::of_guest("rotates", "lab-p2", "secrets = [\"KEY\"]");
    let cli = node.cli().in_dir(app.path());
    assert_eq!(cli.run_with(["secret", "set", "KEY"], SECRET.as_bytes()).code(), 0);
    node.serve(&app);
    assert!(!node.data_dir().join("secrets.key").exists());
    let rotated = cli.json(["secret", "rotate", "--json"]);
    assert_eq!((&rotated["resealed"], &rotated["unreadable"]), (&1.into(), &0.into()));
    // The old key is not needed any more.
    let text = fs::read_to_string(&key).unwrap();
    assert_eq!(text.lines().count(), 2);
    fs::write(&key, text.lines().last().unwrap()).unwrap();
    let node = node.kill_and_restart();
    assert_eq!(node.get("rotates", "/env").json()["KEY"], SECRET);
    // Without any key the node does not start.
    node.kill();
    fs::remove_file(&key).unwrap();
    node.rebuild().refuses().says(&["minnow.key is missing, and 1 secrets are sealed with it"]);
    // A lost key: a function that was granted the secret is not run without it, and its log says so.
    fs::write(&key, "cd".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let node = node.rebuild().start();
    node.get("rotates", "/env").problem(503, "secret_missing");
    logged(&node, "rotates", "the secret KEY, which cannot be read");
    assert!(node.log().contains("minnow secret set KEY --app rotates"), "{}", node.log());
    assert_eq!(node.cli().json(["secret", "list", "--app", "rotates", "--json"])[0]["readable"], false);
    assert_eq!(node.cli().run_with(["secret", "set", "KEY", "--app", "rotates"], SECRET.as_bytes()).code(), 0);
    assert_eq!(node.get("rotates", "/env").json()["KEY"], SECRET);
}
