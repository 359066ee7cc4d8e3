//! The data of apps as whoever administers them sees it: the key-value and SQL stores through the command line and the API,
//! migrations, shares between apps, and what becomes of data when its app is deleted.

use std::{fs, thread};

use minnow_tests::{App, Node, Request, eventually, until, wasm};
use serde_json::{Value, json};

/// An app with these stores, whose function answers `ok`. `settings` are further lines of the function.
fn app(name: &str, stores: &str, settings: &str) -> App {
    App::new(name)
        .code("web", "a.wasm", &wasm::cgi("ok"), &format!("routes = [\"/{{*rest}}\"]\n{settings}"))
        .end(stores)
}

/// A request to the control API with a body that is not JSON.
fn raw(node: &Node, method: &str, path: &str, body: impl Into<Vec<u8>>) -> minnow_tests::Answer {
    let token = format!("Bearer {}", node.token());
    node.call(&Request::get("node", path).method(method).header("authorization", &token).body(body))
}

#[test]
fn keys_are_set_read_listed_and_deleted() {
    let node = Node::shared();
    node.serve(&app("keys", "[kv.sessions]", "kv = [\"sessions\"]"));
    let cli = node.cli();
    cli.ok(["kv", "set", "keys/sessions", "user:1", "Ada", "--metadata", "first\tone ü"]);
    assert_eq!(cli.run_with(["kv", "set", "keys/sessions", "user:2"], &[0, 255, 10]).code(), 0);
    cli.ok(["kv", "set", "keys/sessions", "temporary", "x", "--ttl", "1h"]);
    assert_eq!(cli.ok(["kv", "get", "keys/sessions", "user:1"]), "Ada");
    let got = cli.json(["kv", "get", "keys/sessions", "user:1", "--json"]);
    assert_eq!(
        (&got["value"], &got["metadata"], &got["expires_ms"]),
        (&json!("Ada"), &json!("first\tone ü"), &Value::Null)
    );
    let got = cli.json(["kv", "get", "keys/sessions", "user:2", "--json"]);
    assert_eq!((&got["value"], &got["base64"]), (&Value::Null, &json!("AP8K")));

    let all = cli.json(["kv", "list", "keys/sessions", "--json"]);
    let keys: Vec<&str> = all.as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["temporary", "user:1", "user:2"]);
    assert!(all[0]["expires_ms"].as_u64().unwrap() > 0);
    let shown = cli.ok(["kv", "list", "keys/sessions", "user:"]);
    assert!(shown.contains("user:1") && !shown.contains("temporary"), "{shown}");
    assert_eq!(shown.lines().count(), 3, "{shown}");
    cli.run(["kv", "list", "keys/sessions", "--limit", "2"]).says(&["there are more keys", "--after='user:1'"]);
    let rest = cli.run(["kv", "list", "keys/sessions", "--after", "user:1"]);
    assert!(rest.stdout.contains("user:2") && !rest.stdout.contains("user:1"), "{rest:?}");

    cli.ok(["kv", "delete", "keys/sessions", "user:1", "user:2"]);
    cli.fails(["kv", "get", "keys/sessions", "user:1"]).says(&["404 not_found", "no key `user:1`"]);
    cli.fails(["kv", "delete", "keys/sessions", "user:1"]).says(&["404 not_found"]);
    cli.fails(["kv", "get", "keys/session", "user:1"]).says(&["no kv store `session`", "it has sessions"]);
    cli.fails(["kv", "get", "nobody/sessions", "user:1"]).says(&["no app `nobody`"]);
    assert_eq!(cli.run(["kv", "get", "keys/Sessions", "a"]).code(), 2);
}

#[test]
fn the_store_of_the_app_in_this_folder_needs_no_app() {
    let node = Node::shared();
    let app = app("here", "[kv.sessions]\n[sql.main]", "");
    node.serve(&app);
    let cli = node.cli().in_dir(app.path());
    cli.ok(["kv", "set", "sessions", "a", "b"]);
    assert_eq!(cli.ok(["kv", "get", "sessions", "a"]), "b");
    assert!(cli.ok(["sql", "query", "main", "SELECT 1 AS one"]).starts_with("one\n1\n"));
    node.cli().fails(["kv", "get", "sessions", "a"]).says(&["no app is named", "APP/sessions"]);
}

#[test]
fn the_api_takes_values_as_they_are() {
    let node = Node::shared();
    node.serve(&app("raw", "[kv.sessions]", ""));
    let value = "/v1/apps/raw/kv/sessions/value?key=a%2F..%2F%C3%BC";
    assert_eq!(raw(node, "PUT", &format!("{value}&metadata=%0Aa&expires_ms=99999999999999"), [0, 1, 255]).status, 204);
    let answer = raw(node, "GET", value, "");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &[0, 1, 255][..]));
    assert_eq!(answer.header("minnow-metadata"), Some("%0Aa"));
    assert_eq!(answer.header("minnow-expires-ms"), Some("99999999999999"));
    assert!(answer.header("minnow-version").unwrap().parse::<u64>().unwrap() > 0);
    let listed = node.api("GET", "/v1/apps/raw/kv/sessions/keys", "").json();
    assert_eq!(listed["keys"][0]["key"], "a/../ü");
    assert_eq!(raw(node, "DELETE", value, "").status, 204);
    raw(node, "DELETE", value, "").problem(404, "not_found");

    for n in 0..5 {
        assert_eq!(raw(node, "PUT", &format!("/v1/apps/raw/kv/sessions/value?key=k{n}"), "x").status, 204);
    }
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node.api("GET", &format!("/v1/apps/raw/kv/sessions/keys?prefix=k&limit=2{cursor}"), "").json();
        pages.extend(page["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned()));
        let Some(next) = page["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, ["k0", "k1", "k2", "k3", "k4"]);

    let large = vec![0; (25 << 20) + 1];
    raw(node, "PUT", "/v1/apps/raw/kv/sessions/value?key=large", large.clone()).problem(413, "too_large");
    assert_eq!(raw(node, "PUT", "/v1/apps/raw/kv/sessions/value?key=large", &large[1..]).status, 204);
    assert_eq!(raw(node, "GET", "/v1/apps/raw/kv/sessions/value?key=large", "").body.len(), 25 << 20);
    let long = "x".repeat(2049);
    raw(node, "PUT", &format!("/v1/apps/raw/kv/sessions/value?key={long}"), "").problem(422, "invalid");
    raw(node, "PUT", "/v1/apps/raw/kv/sessions/value?key=a&ttl_s=1&expires_ms=1", "").problem(422, "invalid");
    raw(node, "PUT", "/v1/apps/raw/kv/sessions/value?key=a&ttl_s=0", "").problem(422, "invalid");
    raw(node, "GET", "/v1/apps/raw/kv/sessions/keys?limit=1001", "").problem(422, "invalid");
    raw(node, "GET", "/v1/apps/raw/kv/sessions/value", "").problem(400, "bad_request");
}

#[test]
fn statements_are_run_with_parameters_and_shown_as_a_table() {
    let node = Node::shared();
    node.serve(&app("queries", "[sql.main]", "sql = [\"main\"]"));
    let cli = node.cli();
    let shown = cli.ok(["sql", "query", "queries/main", "CREATE TABLE t (id INTEGER PRIMARY KEY, Name TEXT, b BLOB)"]);
    assert_eq!(shown, "0 rows changed\n");
    let insert = "INSERT INTO t (name, b) VALUES (?, x'00ff'), (?, NULL)";
    assert_eq!(cli.ok(["sql", "query", "queries/main", insert, "-p", "Ada", "-p", "-5"]), "2 rows changed\n");
    let shown = cli.ok(["sql", "query", "queries/main", "SELECT * FROM t"]);
    assert_eq!(shown, "id  Name  b\n1   Ada   x'00ff'\n2   -5    NULL\n2 rows\n");
    let json =
        cli.json(["sql", "query", "queries/main", "SELECT *, 1.0, 9e999 FROM t WHERE id = ?", "-p", "1", "--json"]);
    assert_eq!(json["rows"], json!([[1, "Ada", {"base64": "AP8="}, 1.0, {"real": "inf"}]]));
    let plan = cli.ok(["sql", "query", "queries/main", "EXPLAIN QUERY PLAN SELECT * FROM t WHERE id = 1"]);
    assert!(plan.contains("INTEGER PRIMARY KEY"), "{plan}");
    cli.fails(["sql", "query", "queries/main", "SELECT * FORM t"]).says(&["422 invalid", "syntax error", "FORM"]);
    cli.fails(["sql", "query", "queries/main", "ATTACH 'x' AS y"]).says(&["422 invalid"]);
    cli.fails(["sql", "query", "queries/main", "DELETE FROM t", "--read-only"]).says(&["422 invalid"]);
    cli.fails(["sql", "query", "queries/other", "SELECT 1"]).says(&["no sql store `other`", "it has main"]);

    let request = json!({"sql": "SELECT ?, ?, ?, ?", "params": [null, {"base64": "AP8="}, true, {"real": "-inf"}]});
    let answer = node.api("POST", "/v1/apps/queries/sql/main/query", request.to_string()).json();
    assert_eq!(answer["rows"], json!([[null, {"base64": "AP8="}, 1, {"real": "-inf"}]]));
    let bad = json!({"sql": "SELECT ?", "params": [{"base64": "?"}]});
    node.api("POST", "/v1/apps/queries/sql/main/query", bad.to_string()).problem(422, "invalid");
}

/// A database with everything that a dump has to get right.
const EVERYTHING: &str = "
CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, photo BLOB, upper TEXT AS (upper(name)));
CREATE TABLE \"odd \"\"name\" (\"a b\", c REAL);
CREATE INDEX by_name ON people (name);
CREATE VIEW names AS SELECT name FROM people;
CREATE TABLE log (line TEXT);
CREATE TRIGGER noted AFTER INSERT ON people BEGIN INSERT INTO log VALUES ('new; ' || new.name); END;
CREATE VIRTUAL TABLE search USING fts5(title, body);
INSERT INTO people (name, photo) VALUES ('Ada', x'00ff'), ('it''s; a
name', NULL), ('gone', NULL);
DELETE FROM people WHERE name = 'gone';
INSERT INTO \"odd \"\"name\" VALUES (CAST(x'610062' AS TEXT), 0.1), (NULL, 9e999), (9223372036854775807, -0.0);
INSERT INTO search VALUES ('hello', 'a world of words');
";

#[test]
fn a_dump_holds_everything_and_is_imported_again() {
    let node = Node::shared();
    node.serve(&app("dumps", "[sql.one]\n[sql.two]\n[sql.three]", ""));
    let cli = node.cli();
    let files = tempfile::tempdir().unwrap();
    let sql = files.path().join("everything.sql");
    fs::write(&sql, EVERYTHING).unwrap();
    let sql = sql.to_str().unwrap();
    let shown = cli.ok(["sql", "import", "dumps/one", sql]);
    assert!(shown.contains("imported 11 statements"), "{shown}");
    let dump = cli.ok(["sql", "export", "dumps/one"]);
    assert!(
        dump.starts_with("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n") && dump.ends_with("COMMIT;\n"),
        "{dump}"
    );
    assert_eq!(cli.run_with(["sql", "import", "dumps/two", "-"], dump.as_bytes()).code(), 0);
    assert_eq!(cli.ok(["sql", "export", "dumps/two"]), dump);
    for (query, expected) in [
        (
            "SELECT id, name, hex(photo), upper FROM people",
            json!([[1, "Ada", "00FF", "ADA"], [2, "it's; a\nname", "", "IT'S; A\nNAME"]]),
        ),
        ("SELECT count(*) FROM log", json!([[3]])),
        ("SELECT seq FROM sqlite_sequence", json!([[3]])),
        (
            "SELECT hex(\"a b\"), c FROM \"odd \"\"name\"",
            json!([["610062", 0.1], ["", {"real": "inf"}], ["39323233333732303336383534373735383037", 0.0]]),
        ),
        ("SELECT rowid, title FROM search WHERE search MATCH 'world'", json!([[1, "hello"]])),
    ] {
        let found = cli.json(["sql", "query", "dumps/two", query, "--json"]);
        assert_eq!(found["rows"], expected, "{query}");
    }

    // Only the rows, for a database whose tables its migrations have made.
    let tables: String = EVERYTHING
        .split_inclusive(";\n")
        .filter(|line| !line.trim().starts_with("INSERT") && !line.contains("DELETE"))
        .collect();
    assert_eq!(cli.run_with(["sql", "import", "dumps/three", "-"], tables.as_bytes()).code(), 0);
    let file = files.path().join("data.sql");
    cli.ok(["sql", "export", "dumps/one", "--data-only", "-o", file.to_str().unwrap()]);
    cli.ok(["sql", "import", "dumps/three", file.to_str().unwrap()]);
    assert_eq!(
        cli.json(["sql", "query", "dumps/three", "SELECT count(*) FROM people", "--json"])["rows"],
        json!([[2]])
    );
    // What the trigger did is in the rows, and is not done again; but for rows that come later.
    let lines = ["sql", "query", "dumps/three", "SELECT count(*) FROM log", "--json"];
    let before = cli.json(["sql", "query", "dumps/one", lines[3], "--json"])["rows"].clone();
    assert_eq!(cli.json(lines)["rows"], before);
    cli.ok(["sql", "query", "dumps/three", "INSERT INTO people (name) VALUES ('Grace')"]);
    assert_eq!(cli.json(lines)["rows"], json!([[before[0][0].as_u64().unwrap() + 1]]));

    // All or nothing, and where it failed.
    let bad = "CREATE TABLE x (a);\nINSERT INTO x VALUES (1);\nINSERT INTO y VALUES (1);\n";
    let ran = cli.run_with(["sql", "import", "dumps/three", "-"], bad.as_bytes());
    assert_eq!(ran.code(), 1);
    ran.says(&["no such table: y"]);
    cli.fails(["sql", "query", "dumps/three", "SELECT * FROM x"]).says(&["no such table: x"]);
}

#[test]
fn a_shell_runs_what_is_typed() {
    let node = Node::shared();
    node.serve(&app("typed", "[sql.main]", ""));
    let cli = node.cli();
    let script = "CREATE TABLE t (\n  a -- one; column\n);\nINSERT INTO t VALUES ('x'), ('y'); SELECT * FROM t;\n.tables\n.schema t\n";
    let ran = cli.run_with(["sql", "shell", "typed/main"], script.as_bytes());
    assert_eq!(ran.code(), 0, "{ran:?}");
    let expected = "0 rows changed\n2 rows changed\na\nx\ny\n2 rows\nt\nCREATE TABLE t (\n  a -- one; column\n);\n";
    assert_eq!(ran.stdout, expected);
    // A script stops at the first mistake.
    let ran = cli.run_with(["sql", "shell", "typed/main"], b"SELECT 1 AS a;\nSELECT missing;\nSELECT 2 AS b;\n");
    assert_eq!((ran.code(), ran.stdout.as_str()), (1, "a\n1\n1 row\n"));
    ran.says(&["no such column: missing"]);
    assert_eq!(cli.run_with(["sql", "shell", "typed/main"], b"SELECT 1 AS a").stdout, "a\n1\n1 row\n");

    // A person goes on after one, and finds again what was typed.
    let typed = "SELECT missing;\rSELECT\r41 + 1 AS answer;\r.quit\r";
    let shown = cli.on_a_terminal("sql shell typed/main", Some(("main> ", typed)));
    assert_eq!(shown.code, 0, "{}", shown.text);
    assert!(shown.text.contains("no such column: missing") && shown.text.contains("42"), "{}", shown.text);
    let history = fs::read_to_string(cli.home().join(".local/state/minnow/sql_history")).unwrap();
    assert!(history.contains("SELECT missing;") && history.contains(".quit"), "{history}");
    cli.fails(["sql", "shell", "typed/other"]).says(&["no sql store `other`"]);
}

#[test]
fn migrations_run_before_a_deploy_and_refuse_it_when_they_fail() {
    let node = Node::shared();
    let cli = node.cli();
    let mut app = app("migrated", "[sql.main]\nmigrations = \"migrations\"", "sql = [\"main\"]");
    app.write(
        "migrations/0001_people.sql",
        "CREATE TABLE people (name TEXT NOT NULL);\nINSERT INTO people VALUES ('Ada');\n",
    );
    node.serve(&app);
    let people = || cli.json(["sql", "query", "migrated/main", "SELECT name FROM people", "--json"])["rows"].clone();
    assert_eq!(people(), json!([["Ada"]]));
    // Once.
    cli.ok(["deploy", "--app", "migrated"]);
    assert_eq!(people(), json!([["Ada"]]));

    app.change("0.1.0", "0.2.0");
    app.write("migrations/0002_more.sql", "INSERT INTO people VALUES ('Grace');\n\nINSERT INTO nobody VALUES (1);\n");
    let here = cli.clone().in_dir(app.path());
    here.ok(["publish"]);
    here.fails(["deploy"]).says(&[
        "422 invalid",
        "0002_more.sql",
        "line 3",
        "no such table: nobody",
        "nothing was deployed",
    ]);
    assert_eq!(people(), json!([["Ada"]]), "a migration is all or nothing");
    assert_eq!(node.status("migrated")["deployment"]["shares"][0]["version"], "0.1.0");

    app.change("0.2.0", "0.3.0");
    app.write("migrations/0002_more.sql", "INSERT INTO people VALUES ('Grace');\n");
    here.ok(["publish"]);
    here.ok(["deploy"]);
    assert_eq!(people(), json!([["Ada"], ["Grace"]]));
    until("it is in the log", || {
        node.logs("migrated").iter().any(|line| {
            line["message"].as_str().unwrap().contains("migration 0002_more.sql of the sql store `main` has run")
        })
    });

    // What has run is not what it was.
    app.change("0.3.0", "0.4.0");
    app.write("migrations/0001_people.sql", "CREATE TABLE people (name TEXT);");
    here.ok(["publish"]);
    here.fails(["deploy"]).says(&["0001_people.sql", "has run already, with other content"]);
    assert_eq!(node.status("migrated")["deployment"]["shares"][0]["version"], "0.3.0");
    // Going back needs no migrations.
    cli.ok(["rollback", "migrated"]);
    assert_eq!(node.get("migrated", "/").ok(), "ok");
}

#[test]
fn a_store_of_another_app_is_shared_on_both_sides() {
    let node = Node::shared();
    let cli = node.cli();
    let blog = app("blog-s", "", "kv = [\"shop-s/catalog:ro\"]\nsql = [\"shop-s/main\"]");
    let here = cli.clone().in_dir(blog.path());
    here.ok(["publish"]);
    here.fails(["deploy"]).says(&[
        "422 invalid",
        "shop-s/catalog",
        "share = [\"blog-s\"]",
        "[kv.catalog]",
        "shop-s/main",
    ]);

    let mut shop = app("shop-s", "[kv.catalog]\nshare = [\"blog-s\"]\n[sql.main]", "");
    node.serve(&shop);
    let refused = here.fails(["deploy"]);
    refused.says(&["shop-s/main", "[sql.main]"]);
    assert!(!refused.stderr.contains("shop-s/catalog"), "{refused:?}");
    shop.change("0.1.0", "0.2.0");
    shop.change("[sql.main]", "[sql.main]\nshare = [\"blog-s\"]");
    node.serve(&shop);
    here.ok(["deploy"]);
    assert_eq!(node.get("blog-s", "/").ok(), "ok");

    // The owner takes it back: what uses it goes on without, and is told so.
    shop.change("0.2.0", "0.3.0");
    shop.change("[kv.catalog]\nshare = [\"blog-s\"]", "[kv.catalog]");
    node.serve(&shop);
    let told = eventually("it is in the log of the other app", || {
        let messages = node.logs("blog-s").into_iter().map(|line| line["message"].as_str().unwrap().to_owned());
        messages.into_iter().find(|message| message.contains("shop-s/catalog"))
    });
    assert!(told.contains("no live version of `shop-s` shares"), "{told}");
    assert_eq!(node.get("blog-s", "/").ok(), "ok");
}

#[test]
fn an_app_with_data_is_deleted_with_a_word_about_it() {
    let node = Node::start();
    let cli = node.cli();
    let stores = "[kv.sessions]\n[sql.main]";
    node.serve(&app("shop", stores, ""));
    // Nothing was written: nothing is to be said.
    cli.ok(["delete", "shop", "--yes"]);

    let put = |value: &str| {
        node.serve(&app("shop", stores, ""));
        cli.ok(["kv", "set", "shop/sessions", "a", value]);
        cli.ok(["sql", "query", "shop/main", "CREATE TABLE t (a)"]);
    };
    put("kept");
    let ran = cli.run(["delete", "shop", "--yes"]);
    assert_eq!(ran.code(), 2, "{ran:?}");
    ran.says(&["kv sessions", "sql main", "--data keep", "--data purge"]);
    node.api("DELETE", "/v1/apps/shop", "").problem(409, "conflict");
    assert_eq!(cli.ok(["kv", "get", "shop/sessions", "a"]), "kept");
    let usage = cli.json(["usage", "--app", "shop", "--json"]);
    assert!(usage["bytes"].as_u64().unwrap() > 0 && usage["stores"][0]["declared"] == true, "{usage}");
    assert_eq!(usage["stores"].as_array().unwrap().len(), 2);

    cli.ok(["delete", "shop", "--yes", "--data", "keep"]);
    let kept = node.data_dir().join("deleted/default");
    let folder = fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
    assert!(folder.join("kv/sessions.db").is_file() && folder.join("sql/main.db").is_file());
    let usage = cli.json(["usage", "--json"]);
    assert_eq!((usage["apps"].as_array().unwrap().len(), &usage["deleted"][0]["app"]), (0, &json!("shop")));
    assert_eq!(
        usage["deleted"][0]["purged_ms"].as_u64().unwrap() - usage["deleted"][0]["deleted_ms"].as_u64().unwrap(),
        7 * 86_400_000
    );
    assert!(cli.ok(["usage"]).contains("shop"));

    // An app of the same name begins without data.
    node.serve(&app("shop", stores, ""));
    cli.fails(["kv", "get", "shop/sessions", "a"]).says(&["no key"]);
    put("purged");
    // Asked on a terminal.
    let shown = cli.on_a_terminal("delete shop", Some(("[keep/purge] ", "purge\ryes\r")));
    assert_eq!(shown.code, 0, "{}", shown.text);
    assert!(shown.text.contains("kv sessions (") && shown.text.contains("7days"), "{}", shown.text);
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1, "only what was kept");
    assert!(!node.data_dir().join("kv/default/shop").exists());

    // It goes when its time is over.
    let builder = node.rebuild().config("[data]\nkeep_deleted = \"1ms\"");
    node.kill();
    let node = builder.start();
    until("it is purged", || fs::read_dir(&kept).unwrap().count() == 0);
    assert_eq!(node.cli().json(["usage", "--json"])["deleted"], json!([]));
}

#[test]
fn data_is_gone_before_its_name_is_free_and_calls_are_waited_for() {
    let node = Node::start();
    let app = App::of_guest("busy", "lab-p2", "kv = [\"sessions\"]").end("[kv.sessions]");
    node.serve(&app);
    let cli = node.cli().in_dir(app.path());
    cli.ok(["kv", "set", "sessions", "a", "old"]);
    thread::scope(|scope| {
        let call = scope.spawn(|| node.get("busy", "/sleep?ms=6000").status);
        until("it runs", || node.count("busy", "running") == 1);
        let ran = cli.run(["delete", "--yes", "--data", "purge"]);
        assert_eq!(ran.code(), 0, "{ran:?}");
        ran.says(&["calls still use its data"]);
        cli.fails(["publish", "0.2.0"]).says(&["409 conflict", "`busy` was deleted"]);
        assert_eq!(call.join().unwrap(), 200);
    });
    until("its name is free", || cli.run(["publish", "0.2.0"]).code() == 0);
    cli.ok(["deploy", "0.2.0"]);
    cli.fails(["kv", "get", "sessions", "a"]).says(&["no key `a`"]);
    assert_eq!(node.cli().json(["usage", "--json"])["deleted"], json!([]));
}

#[test]
fn stores_survive_a_crash_and_those_without_an_app_are_set_aside() {
    let node = Node::start();
    node.serve(&app("shop", "[kv.sessions]\n[sql.main]", ""));
    let cli = node.cli();
    cli.ok(["kv", "set", "shop/sessions", "a", "b"]);
    cli.ok(["sql", "query", "shop/main", "CREATE TABLE t AS SELECT 1 AS a"]);
    node.kill();
    let data = node.data_dir();
    fs::create_dir_all(data.join("kv/default/gone")).unwrap();
    fs::copy(data.join("kv/default/shop/sessions.db"), data.join("kv/default/gone/sessions.db")).unwrap();
    let node = node.kill_and_restart();
    let cli = node.cli();
    assert_eq!(cli.ok(["kv", "get", "shop/sessions", "a"]), "b");
    assert_eq!(cli.json(["sql", "query", "shop/main", "SELECT a FROM t", "--json"])["rows"], json!([[1]]));
    assert!(!data.join("kv/default/gone").exists());
    let aside = fs::read_dir(data.join("deleted/default")).unwrap().next().unwrap().unwrap();
    assert!(aside.file_name().to_str().unwrap().starts_with("gone."));
    // Without its database the registry knows no app: nobody's data is taken for that of deleted ones.
    node.kill();
    fs::remove_file(data.join("minnow.db")).unwrap();
    node.rebuild().refuses().says(&["minnow.db", "missing"]);
    assert!(data.join("kv/default/shop/sessions.db").exists());
}
