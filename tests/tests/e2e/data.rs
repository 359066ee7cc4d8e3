//! What functions do with the app's stores and locks, in WebAssembly and in JavaScript.

use std::{
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use minnow_tests::{App, Node, until};
use serde_json::{Value, json};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().start())
}

/// What the guest in WebAssembly answers.
#[track_caller]
fn ask(node: &Node, app: &str, path: &str, body: impl AsRef<[u8]>) -> Value {
    let answer = node.post(app, path, body.as_ref());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

const STORES: &str = "[kv.items]\n[sql.main]\n[lock]";
const GRANTS: &str = "kv = [\"items\"]\nsql = [\"main\"]\nlocks = true";

/// The guest of the data services as the app `name`, deployed.
fn wasm(node: &Node, name: &str) -> App {
    let app = App::of_guest(name, "data-p2", GRANTS).end(STORES);
    node.serve(&app);
    app
}

#[test]
fn a_component_keeps_values_under_keys() {
    let (node, app) = (node(), "kv-wasm");
    let _app = wasm(node, app);
    assert_eq!(ask(node, app, "/kv/get?key=a", ""), json!({ "value": null }));
    ask(node, app, "/kv/set?key=a", "one");
    ask(node, app, "/kv/set?key=b&metadata=seen", "two");
    assert_eq!(ask(node, app, "/kv/get?key=a", ""), json!({ "value": "one" }));
    assert_eq!(ask(node, app, "/kv/exists?key=b", ""), json!({ "exists": true }));
    let entry = ask(node, app, "/kv/entry?key=b", "")["entry"].clone();
    assert_eq!(
        (&entry["value"], &entry["metadata"], &entry["expires_ms"]),
        (&json!("two"), &json!("seen"), &Value::Null)
    );
    assert_eq!(ask(node, app, "/kv/add?key=n&by=5", ""), json!({ "sum": 5 }));
    assert_eq!(ask(node, app, "/kv/add?key=n&by=-7", ""), json!({ "sum": -2 }));
    assert_eq!(ask(node, app, "/kv/keys", ""), json!({ "keys": ["a", "b", "n"] }));
    assert_eq!(ask(node, app, "/kv/keys?prefix=b", ""), json!({ "keys": ["b"] }));
    assert_eq!(ask(node, app, "/kv/many?key=m&n=20", "x"), json!({ "found": 20, "left": 0 }));
    ask(node, app, "/kv/delete?key=a", "");
    assert_eq!(ask(node, app, "/kv/get?key=a", ""), json!({ "value": null }));
}

#[test]
fn nobodys_change_is_lost_when_components_race_for_a_key() {
    let (node, app) = (node(), "kv-race");
    let _app = wasm(node, app);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    ask(node, app, "/kv/append?key=log", "x");
                    ask(node, app, "/kv/add?key=count", "");
                }
            });
        }
    });
    assert_eq!(ask(node, app, "/kv/get?key=log", ""), json!({ "value": "x".repeat(80) }));
    assert_eq!(ask(node, app, "/kv/get?key=count", ""), json!({ "value": "80" }));
}

#[test]
fn a_key_with_a_time_to_live_is_gone_when_it_is_over() {
    let (node, app) = (node(), "kv-ttl");
    let _app = wasm(node, app);
    ask(node, app, "/kv/set?key=short&ttl=50", "x");
    ask(node, app, "/kv/set?key=long&ttl=600000", "y");
    until("the short one is gone", || ask(node, app, "/kv/get?key=short", "")["value"].is_null());
    assert_eq!(ask(node, app, "/kv/keys", ""), json!({ "keys": ["long"] }));
}

#[test]
fn the_largest_value_goes_in_and_out_and_a_larger_one_is_told() {
    let (node, app) = (node(), "kv-large");
    let _app = wasm(node, app);
    let most = 25 << 20;
    assert_eq!(ask(node, app, &format!("/kv/fill?key=a&bytes={most}"), ""), json!({}));
    assert_eq!(ask(node, app, "/kv/size?key=a", ""), json!({ "bytes": most }));
    let refused = ask(node, app, &format!("/kv/fill?key=a&bytes={}", most + 1), "");
    assert!(refused["error"].as_str().unwrap().contains("the most is 26214400"), "{refused}");
    let long = "k".repeat(2049);
    let refused = ask(node, app, &format!("/kv/set?key={long}"), "x");
    assert!(refused["error"].as_str().unwrap().contains("2"), "{refused}");
}

#[test]
fn a_store_that_was_not_granted_is_not_reached_and_one_for_reading_is_not_written() {
    let node = node();
    let app = App::new("grants")
        .function("all", "data-p2", "routes = [\"/all/{*rest}\"]\nkv = [\"items\"]\nsql = [\"main\"]")
        .function(
            "reader",
            "data-p2",
            "routes = [\"/kv/{*rest}\", \"/sql/{*rest}\"]\nkv = [\"items:ro\"]\nsql = [\"main:ro\"]",
        )
        .function("nothing", "data-p2", "routes = [\"/lock\"]")
        .end(STORES);
    node.serve(&app);
    let ask = |path: &str, body: &str| ask(node, "grants", path, body);
    let error = |path: &str, body: &str| ask(path, body)["error"].as_str().unwrap_or_default().to_owned();
    assert!(error("/kv/get?store=other&key=a", "").contains("`other`"));
    assert!(error("/kv/set?key=a", "x").contains(":ro"));
    assert!(error("/kv/add?key=a", "").contains(":ro"));
    assert!(error("/kv/append?key=a", "x").contains(":ro"));
    assert_eq!(ask("/kv/get?key=a", ""), json!({ "value": null }));
    assert!(error("/sql/run?store=other", r#"{"sql":"SELECT 1"}"#).contains("sql = [\"other\"]"));
    assert!(error("/sql/run", r#"{"sql":"CREATE TABLE t (a)"}"#).contains(":ro"));
    assert_eq!(ask("/sql/run", r#"{"sql":"SELECT 1 AS one"}"#)["rows"], json!([[1]]));
    assert!(error("/lock?name=a", "").contains("locks = true"));
}

#[test]
fn a_component_reads_and_writes_rows_of_every_type() {
    let (node, app) = (node(), "sql-wasm");
    let _app = wasm(node, app);
    let run = |statement: Value| ask(node, app, "/sql/run", statement.to_string());
    ask(
        node,
        app,
        "/sql/script",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, size REAL, data BLOB); CREATE INDEX by_name ON item (name);",
    );
    let added = run(
        json!({ "sql": "INSERT INTO item (name, size, data) VALUES (?1, ?2, ?3)", "params": ["boat", 1.5, [0, 255]] }),
    );
    assert_eq!((&added["changes"], &added["last_insert_rowid"]), (&json!(1), &json!(1)));
    run(json!({ "sql": "INSERT INTO item (id, name) VALUES (?, ?)", "params": [i64::MAX, null] }));
    let found = run(json!({ "sql": "SELECT * FROM item ORDER BY id" }));
    assert_eq!(found["columns"], json!(["id", "name", "size", "data"]));
    assert_eq!(found["rows"], json!([[1, "boat", 1.5, [0, 255]], [i64::MAX, null, null, null]]));
    let batch = json!([
        { "sql": "INSERT INTO item (name) VALUES ('a')" },
        { "sql": "INSERT INTO item (id, name) VALUES (1, 'again')" },
    ]);
    // The primary key is taken: nothing of the batch is kept.
    let refused = ask(node, app, "/sql/batch", batch.to_string());
    assert!(refused["error"].as_str().unwrap().contains("UNIQUE"), "{refused}");
    assert_eq!(run(json!({ "sql": "SELECT count(*) FROM item" }))["rows"], json!([[2]]));
    let wrong = run(json!({ "sql": "SELEC 1" }));
    assert!(wrong["error"].as_str().unwrap().contains("SELEC"), "{wrong}");
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) SELECT i, 'row ' || i AS name FROM n";
    let streamed = ask(node, app, "/sql/query?piece=1000", json!({ "sql": many }).to_string());
    assert_eq!(streamed, json!({ "columns": ["i", "name"], "count": 25000 }));
}

#[test]
fn transactions_of_functions_race_and_no_amount_is_lost_also_when_some_trap() {
    let (node, app) = (node(), "sql-race");
    let _app = wasm(node, app);
    ask(
        node,
        app,
        "/sql/script",
        "CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER); INSERT INTO account VALUES (1, 1000), (2, 1000);",
    );
    thread::scope(|scope| {
        for worker in 0..6 {
            scope.spawn(move || {
                for round in 0..5 {
                    let (from, to) = if worker % 2 == 0 { (1, 2) } else { (2, 1) };
                    let end = ["commit", "rollback", "drop", "trap", "commit"][round];
                    let path = format!("/sql/transfer?from={from}&to={to}&end={end}");
                    let answer = node.post(app, &path, "");
                    assert_eq!(answer.status, if end == "trap" { 500 } else { 200 }, "{}", answer.text());
                }
            });
        }
    });
    let found = ask(node, app, "/sql/run", json!({ "sql": "SELECT id, amount FROM account" }).to_string());
    assert_eq!(found["rows"], json!([[1, 1000], [2, 1000]]));
}

#[test]
fn a_lock_is_held_by_one_and_given_up_however_its_invocation_ends() {
    let (node, app) = (node(), "lock-wasm");
    let app_dir =
        App::of_guest(app, "data-p2", &format!("{GRANTS}\n[functions.web.limits]\ncpu = \"200ms\"")).end(STORES);
    node.serve(&app_dir);
    let mut last = 0;
    for end in ["release", "drop", "trap", "loop"] {
        let answer = node.post(app, &format!("/lock?name=boat&lease=600000&end={end}"), "");
        assert_eq!(answer.status == 200, matches!(end, "release" | "drop"), "{end}: {}", answer.text());
        // Free at once, although the lease has ten minutes left; and each holder has a greater token.
        let next = ask(node, app, "/lock?name=boat&wait=5000", "");
        let token = next["token"].as_u64().unwrap_or_else(|| panic!("{end}: {next}"));
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    thread::scope(|scope| {
        let holds = scope.spawn(|| ask(node, app, "/lock?name=held&hold=300&lease=60000", ""));
        until("it is held", || ask(node, app, "/lock?name=held", "")["token"].is_null());
        let waited = ask(node, app, "/lock?name=held&wait=60000", "");
        assert!(waited["token"].as_u64() > holds.join().unwrap()["token"].as_u64());
    });
}

/// The guest with instances that go on to other requests.
fn reused(node: &Node, name: &str) -> App {
    let app = App::of_guest(name, "data-p2", &format!("{GRANTS}\ninstances = \"reuse\"")).end(STORES);
    node.serve(&app);
    app
}

#[test]
fn what_a_reused_instance_keeps_is_given_up_when_its_invocation_ends() {
    let (node, app) = (node(), "kept-wasm");
    let _app = reused(node, app);
    for end in ["keep", "forget"] {
        let kept = ask(node, app, &format!("/lock?name=boat&lease=600000&end={end}"), "");
        let next = ask(node, app, "/lock?name=boat&lease=1000&wait=5000", "");
        assert!(next["token"].as_u64() > kept["token"].as_u64(), "{end}: {kept} {next}");
    }
    ask(node, app, "/sql/script", "CREATE TABLE item (name TEXT)");
    for number in 0..3 {
        ask(node, app, "/sql/forget", json!({ "sql": "INSERT INTO item VALUES ('lost')" }).to_string());
        let began = Instant::now();
        let insert = json!({ "sql": "INSERT INTO item VALUES (?1)", "params": [number] });
        assert_eq!(ask(node, app, "/sql/run", insert.to_string())["changes"], json!(1));
        // A transaction ends by itself after ten seconds.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let found = ask(node, app, "/sql/run", json!({ "sql": "SELECT count(*) FROM item" }).to_string());
    assert_eq!(found["rows"], json!([[3]]));
}

#[test]
fn an_instance_that_gives_up_what_it_held_is_reused() {
    let (node, app) = (node(), "given-up-wasm");
    let _app = reused(node, app);
    let warm = || node.metric("minnow_warm_starts_total", &[&format!("app=\"{app}\"")]);
    ask(
        node,
        app,
        "/sql/script",
        "CREATE TABLE account (id INTEGER, amount INTEGER); INSERT INTO account VALUES (1, 9), (2, 9);",
    );
    let paths = [
        "/lock?name=a&end=drop",
        "/lock?name=a&end=release",
        "/sql/transfer?end=commit",
        "/sql/transfer?end=drop",
        "/sql/query",
    ];
    for path in paths {
        // A request that comes before the instance is back from the one before gets another.
        let before = warm();
        until(path, || {
            ask(node, app, path, json!({ "sql": "SELECT 1" }).to_string());
            warm() > before + 2.0
        });
    }
}

#[test]
fn an_instance_has_a_few_cursors_at_once() {
    let (node, app) = (node(), "cursors-wasm");
    let _app = wasm(node, app);
    let kept = json!({ "sql": "SELECT zeroblob(4000000)" }).to_string();
    let found = ask(node, app, "/sql/cursors?n=100", &kept);
    assert_eq!(found["open"], json!(8), "{found}");
    assert!(found["refused"].as_str().unwrap().contains("8 cursors are open"), "{found}");
    assert_eq!(ask(node, app, "/sql/cursors?n=7", &kept), json!({ "open": 7, "refused": null }));
}

#[test]
fn handles_of_a_large_value_take_none_of_the_nodes_memory() {
    let node = Node::builder().start();
    let app =
        App::of_guest("looks", "data-p2", &format!("{GRANTS}\n[functions.web.limits]\ncpu = \"20s\"")).end(STORES);
    node.serve(&app);
    assert_eq!(ask(&node, "looks", &format!("/kv/fill?key=a&bytes={}", 25 << 20), ""), json!({}));
    assert_eq!(ask(&node, "looks", "/kv/looks?key=a&n=1", ""), json!({}));
    let before = node.peak_rss_bytes();
    assert_eq!(ask(&node, "looks", "/kv/looks?key=a&n=40", ""), json!({}));
    let more = node.peak_rss_bytes() - before;
    assert!(more < 500 << 20, "40 handles of a value of 25 MiB took {more} bytes");
}

#[test]
fn configuration_is_what_the_environment_is() {
    let node = node();
    let app = App::of_guest("config-wasm", "data-p2", "env = { GREETING = \"hello\" }");
    node.serve(&app);
    let found = ask(node, "config-wasm", "/config?name=GREETING", "");
    assert_eq!(found, json!({ "value": "hello", "all": [["GREETING", "hello"]] }));
    assert_eq!(ask(node, "config-wasm", "/config?name=NO", "")["value"], Value::Null);
}

/// Calls what the query names with the arguments in the body, and answers with what comes of it.
const JS: &str = r#"
import { run } from "./calls.js";
export default {
    async fetch(request, env, ctx) {
        try {
            const found = await run(new URL(request.url).pathname, env, ctx, await request.text());
            return Response.json(found === undefined ? { done: true } : found);
        } catch (error) {
            return Response.json({ error: `${error.name}: ${error.message}`, code: error.code });
        }
    },
};
"#;

/// An app whose JavaScript has the stores; `calls` are the branches of `run`.
fn js(node: &Node, name: &str, calls: &str) -> App {
    js_with(node, name, GRANTS, calls)
}

/// The same with other settings of the function.
fn js_with(node: &Node, name: &str, settings: &str, calls: &str) -> App {
    let calls = format!(
        "export async function run(path, env, ctx, body) {{\nswitch (path) {{\n{calls}\n}}\nthrow new Error(path);\n}}"
    );
    let app = App::of_js(name, JS, settings).file("calls.js", calls).end(STORES);
    node.serve(&app);
    app
}

#[test]
fn javascript_has_its_key_value_stores_in_the_shape_of_workers() {
    let node = node();
    let _app = js(
        node,
        "kv-js",
        r#"
        case "/values": {
            const { ITEMS } = env;
            await ITEMS.put("text", "åß🐟");
            await ITEMS.put("json", JSON.stringify({ a: [1, 2] }));
            await ITEMS.put("bytes", new Uint8Array([0, 1, 255]));
            await ITEMS.put("view", new Uint8Array([9, 8, 7, 6]).subarray(1, 3));
            await ITEMS.put("stream", new Blob(["streamed"]).stream());
            await ITEMS.put("empty", "");
            return [
                await ITEMS.get("text"), await ITEMS.get("json", "json"), [...await ITEMS.get("bytes", { type: "bytes" })],
                [...new Uint8Array(await ITEMS.get("view", "arrayBuffer"))],
                await new Response(await ITEMS.get("stream", "stream")).text(), await ITEMS.get("empty"), await ITEMS.get("none"),
                [...(await ITEMS.get(["text", "none"])).entries()],
            ];
        }
        case "/metadata": {
            const { ITEMS } = env;
            await ITEMS.put("m", "v", { metadata: { by: "ada" }, expirationTtl: 3600 });
            const { value, metadata, version } = await ITEMS.getWithMetadata("m");
            const wrong = await ITEMS.compareAndSwap("m", version + 1, "no");
            const right = await ITEMS.compareAndSwap("m", version, "yes");
            const fresh = await ITEMS.compareAndSwap("new", null, "1");
            const again = await ITEMS.compareAndSwap("new", null, "2");
            return [value, metadata, wrong, right, fresh, again, await ITEMS.get("m"), await ITEMS.getWithMetadata("none")];
        }
        case "/list": {
            const { ITEMS } = env;
            await ITEMS.putMany(Array.from({ length: 25 }, (_, i) => ({ key: `l/${String(i).padStart(2, "0")}`, value: `${i}` })));
            const names = [];
            let cursor, pages = 0;
            do {
                const page = await ITEMS.list({ prefix: "l/", limit: 10, cursor });
                names.push(...page.keys.map((key) => key.name));
                cursor = page.cursor;
                pages++;
                if (page.list_complete !== (cursor === undefined)) throw new Error("a page is odd");
            } while (cursor !== undefined);
            await ITEMS.delete(names);
            return [names.length, names[0], names.at(-1), pages, (await ITEMS.list({ prefix: "l/" })).keys];
        }
        case "/add": return await env.ITEMS.increment("n", 3);
        case "/many": {
            const all = Array.from({ length: 200 }, (_, i) => env.ITEMS.put(`c${i}`, `${i}`.repeat(100)));
            await Promise.all(all);
            const values = await Promise.all(all.map((_, i) => env.ITEMS.get(`c${i}`)));
            return values.every((value, i) => value === `${i}`.repeat(100));
        }
        case "/large": {
            const bytes = new Uint8Array(25 << 20).fill(7);
            await env.ITEMS.put("large", bytes);
            return (await env.ITEMS.get("large", "bytes")).every((byte) => byte === 7);
        }
        case "/too-large": return await env.ITEMS.put("large", new Uint8Array((25 << 20) + 1));
        case "/env": return [Object.keys(env).sort(), typeof env.ITEMS.get, Object.isFrozen(env), Deno.env.toObject()];
        "#,
    );
    let ask = |path| ask(node, "kv-js", path, "");
    assert_eq!(
        ask("/values"),
        json!(["åß🐟", { "a": [1, 2] }, [0, 1, 255], [8, 7], "streamed", "", null, [["text", "åß🐟"], ["none", null]]])
    );
    let nothing = json!({ "value": null, "metadata": null, "version": null });
    assert_eq!(ask("/metadata"), json!(["v", { "by": "ada" }, false, true, true, false, "yes", nothing]));
    assert_eq!(ask("/list"), json!([25, "l/00", "l/24", 3, []]));
    assert_eq!((ask("/add"), ask("/add")), (json!(3), json!(6)));
    assert_eq!(ask("/many"), json!(true));
    assert_eq!(ask("/large"), json!(true));
    let refused = ask("/too-large");
    assert!(refused["error"].as_str().unwrap().contains("the most is 26214400"), "{refused}");
    assert_eq!(ask("/env"), json!([["ITEMS", "LOCKS", "MAIN"], "function", true, {}]));
}

#[test]
fn javascript_has_its_databases_in_the_shape_of_d1() {
    let node = node();
    let _app = js(
        node,
        "sql-js",
        r#"
        case "/types": {
            const { MAIN } = env;
            await MAIN.exec("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, size REAL, data BLOB, big INTEGER)");
            const added = await MAIN.prepare("INSERT INTO item (name, size, data, big) VALUES (?1, ?2, ?3, ?4)")
                .bind("boat", 1.5, new Uint8Array([0, 255]), 9007199254740993n).run();
            const row = await MAIN.prepare("SELECT * FROM item WHERE id = ?").bind(1).first();
            const name = await MAIN.prepare("SELECT name FROM item").first("name");
            const none = await MAIN.prepare("SELECT name FROM item WHERE id = 2").first();
            const raw = await MAIN.prepare("SELECT id, name, NULL AS none, 1e999 AS inf, TRUE AS yes FROM item").raw({ columnNames: true });
            return [added.meta.changes, added.meta.last_row_id, row.name, row.size, [...row.data], `${row.big}`, name, none, raw.map((row) => row.map(String))];
        }
        case "/batch": {
            const { MAIN } = env;
            await MAIN.exec("CREATE TABLE pair (a UNIQUE)");
            const add = MAIN.prepare("INSERT INTO pair VALUES (?)");
            const good = await MAIN.batch([add.bind(1), add.bind(2), MAIN.prepare("SELECT count(*) AS n FROM pair")]);
            const bad = await MAIN.batch([add.bind(3), add.bind(1)]).catch((error) => `${error.name}: ${error.message}`);
            const { results } = await MAIN.prepare("SELECT a FROM pair ORDER BY a").all();
            return [good.map((one) => one.results), bad.includes("UNIQUE"), results];
        }
        case "/wrong": return await env.MAIN.prepare("SELEC 1").all();
        case "/odd": return await env.MAIN.prepare("SELECT ?").bind(Symbol()).all();
        case "/attach": return await env.MAIN.prepare("ATTACH 'x.db' AS x").run();
        "#,
    );
    let ask = |path| ask(node, "sql-js", path, "");
    let raw = json!([["id", "name", "none", "inf", "yes"], ["1", "boat", "null", "Infinity", "1"]]);
    assert_eq!(ask("/types"), json!([1, 1, "boat", 1.5, [0, 255], "9007199254740993", "boat", null, raw]));
    assert_eq!(ask("/batch"), json!([[[], [], [{ "n": 2 }]], true, [{ "a": 1 }, { "a": 2 }]]));
    for (path, says) in [("/wrong", "SELEC"), ("/odd", "no value of SQL"), ("/attach", "")] {
        let refused = ask(path);
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(says)), "{path}: {refused}");
    }
}

#[test]
fn locks_of_javascript_end_with_their_invocation() {
    let node = node();
    let _app = js(
        node,
        "lock-js",
        r#"
        case "/take": {
            const lock = await env.LOCKS.acquire("boat", { lease: 600_000 });
            globalThis.kept = lock;
            return lock === null ? null : lock.token;
        }
        case "/throw": {
            await env.LOCKS.acquire("boat", { lease: 600_000 });
            throw new Error("with the lock in hand");
        }
        case "/hold": {
            const lock = await env.LOCKS.acquire("held", { lease: 60_000, wait: 60_000 });
            while ((await env.ITEMS.get("go")) === null) await new Promise((resolve) => setTimeout(resolve, 5));
            return [lock.token, await lock.renew(60_000), await lock.release(), await lock.release()];
        }
        case "/try": return (await env.LOCKS.acquire("held")) === null;
        case "/go": return await env.ITEMS.put("go", "now");
        case "/kept": return await kept.release();
        "#,
    );
    let ask = |path| ask(node, "lock-js", path, "");
    let first = ask("/take").as_u64().unwrap();
    let second = ask("/take").as_u64().unwrap();
    assert!(second > first);
    // It was the lock of an invocation that has ended.
    assert_eq!(ask("/kept"), json!(false));
    ask("/throw");
    assert!(ask("/take").as_u64().unwrap() > second);
    thread::scope(|scope| {
        let holds = scope.spawn(|| ask("/hold"));
        until("it is held", || ask("/try") == json!(true));
        ask("/go");
        let held = holds.join().unwrap();
        assert_eq!((&held[1], &held[2], &held[3]), (&json!(true), &json!(true), &json!(false)));
    });
}

#[test]
fn a_value_is_what_its_bytes_were_at_the_call() {
    let node = node();
    let _app = js(
        node,
        "bytes-js",
        r#"
        case "/taken": {
            const { ITEMS, MAIN } = env;
            await MAIN.exec("CREATE TABLE blob (data)");
            const buffers = Array.from({ length: 4 }, (_, i) => new Uint8Array(8).fill(i + 1));
            const [put, many, swap, bound] = buffers;
            const resized = new ArrayBuffer(8, { maxByteLength: 16 });
            const all = [
                ITEMS.put("put", put), ITEMS.putMany([{ key: "stream", value: new Blob(["s"]).stream() }, { key: "many", value: many.buffer }]),
                ITEMS.compareAndSwap("swap", null, new DataView(swap.buffer, 2, 4)), ITEMS.put("resized", resized),
                MAIN.prepare("INSERT INTO blob VALUES (?)").bind(bound).run(),
            ];
            buffers.forEach((bytes) => bytes.fill(9));
            buffers.forEach((bytes) => bytes.buffer.transfer());
            resized.resize(16);
            // What comes after them on the same connection.
            all.push(...Array.from({ length: 20 }, (_, i) => ITEMS.put(`after${i}`, `${i}`)));
            await Promise.all(all);
            const found = [];
            for (const key of ["put", "many", "swap", "resized"]) found.push([...await ITEMS.get(key, "bytes")]);
            return [found, [...await MAIN.prepare("SELECT data FROM blob").first("data")], await ITEMS.get("after19")];
        }
        case "/detached": {
            const bytes = new Uint8Array(8);
            bytes.buffer.transfer();
            return await env.ITEMS.put("detached", bytes);
        }
        case "/patched": {
            Object.defineProperty(Object.getPrototypeOf(Uint8Array.prototype), "byteLength", { get: () => 3 });
            Object.defineProperty(Object.getPrototypeOf(Uint8Array.prototype), "length", { get: () => 3 });
            Object.defineProperty(Uint8Array.prototype, "constructor", { value: { [Symbol.species]: Array } });
            await env.ITEMS.put("patched", new Uint8Array(100_000).fill(7));
            return (await env.ITEMS.get("patched")).length;
        }
        "#,
    );
    let ask = |path| ask(node, "bytes-js", path, "");
    let found = json!([vec![1; 8], vec![2; 8], vec![3; 4], vec![0; 8]]);
    assert_eq!(ask("/taken"), json!([found, vec![4; 8], "19"]));
    assert!(ask("/detached")["error"].as_str().is_some_and(|error| error.starts_with("TypeError")));
    assert_eq!(ask("/patched"), json!(100_000));
}

#[test]
fn a_call_that_is_too_large_fails_alone() {
    let node = node();
    let calls = r#"
        case "/put": return await env.ITEMS.put("k", new Uint8Array(30 << 20));
        case "/many": return await env.ITEMS.putMany([1, 2].map((i) => ({ key: `k${i}`, value: new Uint8Array(14 << 20) })));
        // 15 MiB, of which each byte is six in JSON.
        case "/answer": return await env.MAIN.prepare("WITH n (i) AS (VALUES (1), (2), (3), (4), (5)) SELECT ?1 FROM n")
            .bind("\u0001".repeat(3 << 20)).raw();
        case "/values": {
            await env.ITEMS.putMany([1, 2].map((i) => ({ key: `v${i}`, value: new Uint8Array(12 << 20) })));
            await env.ITEMS.put("v3", new Uint8Array(12 << 20));
            return await env.ITEMS.get(["v1", "v2", "v3"]);
        }
        case "/big": return await env.MAIN.prepare("SELECT ?").bind(10n ** 5000n).all();
        case "/works": {
            await env.ITEMS.put("a", "b");
            return [await env.ITEMS.get("a"), await env.MAIN.prepare("SELECT 1 AS one").first("one")];
        }
    "#;
    // Several copies of the large ones are in the process.
    let _app = js_with(node, "large-js", &format!("{GRANTS}\n[functions.web.limits]\nmemory = \"512MiB\""), calls);
    let ask = |path| ask(node, "large-js", path, "");
    let cases = [
        ("/put", "the most is 26214400"),
        ("/many", "the most is 26214400"),
        ("/answer", "more than 27262976 bytes"),
        ("/values", "more than 27262976 bytes"),
        ("/big", "does not fit into 64 bits"),
    ];
    for (path, says) in cases {
        let refused = ask(path);
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(says)), "{path}: {refused}");
        assert_eq!(ask("/works"), json!(["b", 1]), "after {path}");
    }
}

#[test]
fn what_the_node_cannot_read_is_made_readable_or_refused() {
    let node = node();
    let _app = js(
        node,
        "odd-js",
        r#"
        case "/halves": {
            const { ITEMS, MAIN, LOCKS } = env;
            const half = "🐟".slice(0, 1);
            await ITEMS.put(half, half, { metadata: half });
            await ITEMS.put("1", "one");
            const { value, metadata, version } = await ITEMS.getWithMetadata(half);
            const text = await MAIN.prepare(`SELECT ? AS "${half}"`).bind(half).first();
            const lock = await LOCKS.acquire(half);
            await lock.release();
            return [
                await ITEMS.get("\ufffd"), value, metadata === half, await ITEMS.compareAndSwap(half, version, "new"),
                [...(await ITEMS.get([half, "1"])).keys()].map((key) => key === half || key), (await ITEMS.get(["1"])).get("1"),
                (await ITEMS.list({ prefix: half })).keys.length, (await ITEMS.list({ cursor: half })).keys.length,
                await ITEMS.increment(`n${half}`), text,
            ];
        }
        case "/swap": return await env.ITEMS.compareAndSwap("a", body, "x");
        case "/swap-part": return await env.ITEMS.compareAndSwap("a", 1.5, "x");
        case "/limit": return await env.ITEMS.list({ limit: 5e9 });
        case "/limit-0": return await env.ITEMS.list({ limit: 0 });
        case "/column": return await env.MAIN.prepare("SELECT 1 AS one").first("toString");
        case "/mark": {
            await env.ITEMS.put("mark", "\ufefftext");
            await env.ITEMS.put("json", "\ufeff[1]");
            return [(await env.ITEMS.get("mark")).length, await env.ITEMS.get("json", "json")];
        }
        "#,
    );
    let ask = |path| ask(node, "odd-js", path, "3");
    let text = json!({ "\u{fffd}": "\u{fffd}" });
    assert_eq!(ask("/halves"), json!(["\u{fffd}", "\u{fffd}", true, true, [true, "1"], "one", 1, 0, 1, text]));
    for (path, says) in [
        ("/swap", "the version is"),
        ("/swap-part", "the version is"),
        ("/limit", "ask for 1 to 1000"),
        ("/limit-0", "limit is a whole number"),
        ("/column", "no column"),
    ] {
        let refused = ask(path);
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(says)), "{path}: {refused}");
    }
    assert_eq!(ask("/mark"), json!([5, [1]]));
}

#[test]
fn whoever_waits_for_a_lock_is_in_nobodys_way() {
    let node = node();
    let calls = r#"
        case "/release": {
            const { ITEMS, LOCKS } = env;
            const lock = await LOCKS.acquire("one", { lease: 600_000 });
            const waits = Array.from({ length: 300 }, () => LOCKS.acquire("one", { wait: 600_000 }).then(
                (lock) => lock.release().then(() => "had it"),
                (error) => error.message,
            ));
            await ITEMS.put("a", "b");
            const through = [await ITEMS.get("a"), await lock.renew(600_000), await lock.release()];
            const became = Object.groupBy(await Promise.all(waits), (end) => end);
            return [through, became["had it"].length, Object.keys(became).length];
        }
        // It ends, and 128 of its calls still wait.
        case "/leave": {
            for (let i = 0; i < 128; i++) env.LOCKS.acquire("two", { wait: 600_000 }).catch(() => {});
            return await env.ITEMS.get("a");
        }
        case "/hold": {
            const lock = await env.LOCKS.acquire("two", { lease: 600_000, wait: 60_000 });
            while ((await env.ITEMS.get("go")) === null) await new Promise((resolve) => setTimeout(resolve, 20));
            return await lock.release();
        }
        case "/try": return (await env.LOCKS.acquire("two", { wait: 50 })) === null;
        case "/go": return await env.ITEMS.put("go", "now");
        case "/many": {
            const { LOCKS } = env;
            const long = [];
            for (let i = 0; i < 500; i++) long.push(await LOCKS.acquire(`long${i}`, { lease: 600_000 }));
            for (let i = 0; i < 11_000; i++) if ((await LOCKS.acquire(`short${i}`, { lease: 1 })) === null) throw new Error("taken");
            return (await Promise.all(long.map((lock) => lock.release()))).every((held) => held);
        }
    "#;
    // Thousands of calls, on a machine that may be busy.
    let settings = format!("{GRANTS}\n[functions.web.limits]\ncpu = \"30s\"\ntimeout = \"60s\"");
    let _app = js_with(node, "waiters-js", &settings, calls);
    let ask = |path| ask(node, "waiters-js", path, "");
    assert_eq!(ask("/release"), json!([["b", true, true], 128, 2]));
    thread::scope(|scope| {
        let holds = scope.spawn(|| ask("/hold"));
        until("it is held", || ask("/try") == json!(true));
        for _ in 0..3 {
            assert_eq!(ask("/leave"), json!("b"));
            until("those who waited for it are gone", || ask("/try") == json!(true));
        }
        ask("/go");
        assert_eq!(holds.join().unwrap(), json!(true));
    });
    // Those whose lease was over made room, and no other did.
    assert_eq!(ask("/many"), json!(true));
}

#[test]
fn what_one_process_has_under_way_is_bounded_in_the_nodes_memory() {
    let node = Node::builder().start();
    let calls = r#"
        case "/fill": return await env.ITEMS.put("large", new Uint8Array(25 << 20));
        case "/read": {
            const all = Array.from({ length: 40 }, () => env.ITEMS.get("large", "bytes").then((bytes) => bytes.length));
            return (await Promise.all(all)).every((length) => length === 25 << 20);
        }
    "#;
    let settings = format!("{GRANTS}\n[functions.web.limits]\nmemory = \"1GiB\"\ncpu = \"30s\"\ntimeout = \"60s\"");
    let _app = js_with(&node, "memory-js", &settings, calls);
    ask(&node, "memory-js", "/fill", "");
    assert_eq!(ask(&node, "memory-js", "/read", ""), json!(true));
    // A gigabyte is asked for. Two values are read at once; then there is what the node itself takes.
    let peak = node.peak_rss_bytes() >> 20;
    assert!(peak < 500, "{peak} MiB");
}

#[test]
fn both_kinds_of_functions_see_the_same_stores() {
    let node = node();
    let app = App::new("both")
        .function("wasm", "data-p2", "routes = [\"/kv/{*rest}\", \"/sql/{*rest}\"]\nkv = [\"items\"]\nsql = [\"main\"]")
        .js(
            "script",
            "script.js",
            r#"export default { async fetch(request, env) {
                await env.ITEMS.put("from", "JavaScript");
                await env.MAIN.exec("CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (7)");
                const { value, metadata } = await env.ITEMS.getWithMetadata("to");
                const { keys } = await env.ITEMS.list({ prefix: "to" });
                return Response.json([value, metadata, keys[0].metadata, Number.isInteger(keys[0].expiration)]);
            } };"#,
            "routes = [\"/js\"]\nkv = [\"items\"]\nsql = [\"main\"]",
        )
        .end(STORES);
    node.serve(&app);
    ask(node, "both", "/kv/set?key=to&metadata=by+hand&ttl=600000", "WebAssembly");
    assert_eq!(ask(node, "both", "/js", ""), json!(["WebAssembly", "by hand", "by hand", true]));
    assert_eq!(ask(node, "both", "/kv/get?key=from", ""), json!({ "value": "JavaScript" }));
    assert_eq!(ask(node, "both", "/sql/run", r#"{"sql":"SELECT a FROM t"}"#)["rows"], json!([[7]]));
}
