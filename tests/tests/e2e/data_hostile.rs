//! Functions that do as they like with the data services: they harm themselves at most.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
};

use minnow_tests::{App, Node, eventually, until};
use serde_json::json;

use crate::data_calls::{GRANTS, STORES, ask, both, error, fine, js, node, rows, text};

#[test]
fn a_transaction_that_is_never_ended_ends_by_itself_and_keeps_no_reader_waiting() {
    let node = node();
    let app = "stays-open";
    node.serve(&both(app, "limits = { timeout = \"2m\" }"));
    node.serve(&both("stays-cut", "limits = { timeout = \"2s\" }"));
    let insert = |app: &str, number: u64| {
        let sql = json!({ "sql": format!("INSERT INTO t VALUES ({number})") });
        ask(node, app, "/sql/run", sql.to_string())
    };
    for app in [app, "stays-cut"] {
        fine(ask(node, app, "/sql/script", "CREATE TABLE t (a)"));
    }
    let leave_open = json!({ "sql": "INSERT INTO t VALUES (1)" }).to_string();
    thread::scope(|scope| {
        let open = scope.spawn(|| ask(node, app, "/sql/leave-open?hold=13000", leave_open.as_str()));
        // One whose invocation ends: nobody waits any longer for it.
        node.post("stays-cut", "/sql/leave-open?hold=60000", leave_open.as_str()).problem(504, "timeout");
        fine(insert("stays-cut", 2));
        assert_eq!(rows(node, "stays-cut", "SELECT a FROM t"), [[json!(2)]]);
        // One that goes on: others who write are told so, and those who read are not kept waiting.
        let refused = eventually("a write finds it in its way", || {
            Some(insert(app, 2)).filter(|answer| !error(answer).is_empty())
        });
        assert!(error(&refused).contains("try again"), "{refused}");
        assert!(!rows(node, app, "SELECT a FROM t").contains(&vec![json!(1)]));
        fine(js(node, app, "sqls", json!({ "sqls": ["SELECT a FROM t", "SELECT 1"] })));
        fine(js(node, app, "set", json!({ "key": "a", "value": "b" })));
        until("it has ended by itself", || error(&insert(app, 3)).is_empty());
        let answer = open.join().unwrap();
        assert!(error(&answer).contains("the transaction has ended"), "{answer}");
        assert!(!rows(node, app, "SELECT a FROM t").contains(&vec![json!(1)]));
    });
}

#[test]
fn a_query_that_runs_for_ever_is_stopped_and_others_go_on_meanwhile() {
    let node = node();
    for app in ["endless", "beside"] {
        node.serve(&both(app, ""));
        fine(js(node, app, "script", json!({ "sql": "CREATE TABLE t (a); INSERT INTO t VALUES (1)" })));
    }
    let reads = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let writes =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT count(*) FROM n";
    thread::scope(|scope| {
        let running: Vec<_> = [reads, writes, reads, reads]
            .into_iter()
            .enumerate()
            .map(|(index, sql)| {
                let asked = json!({ "sql": sql });
                scope.spawn(move || match index % 2 {
                    0 => ask(node, "endless", "/sql/run", asked.to_string()),
                    _ => js(node, "endless", "sql", asked),
                })
            })
            .collect();
        until("they run", || node.count("endless", "running") == 4);
        // Each on a store of its own.
        for number in 0..10 {
            fine(js(node, "beside", "sql", json!({ "sql": "INSERT INTO t VALUES (?)", "params": [number] })));
            rows(node, "beside", "SELECT a FROM t");
            fine(ask(node, "endless", "/kv/set?key=a", "b"));
        }
        assert!(running.iter().all(|query| !query.is_finished()), "they were to run meanwhile");
        for query in running {
            let answer = query.join().unwrap();
            let told = ["the statement took too long", "ran for longer than allowed"]
                .iter()
                .any(|told| error(&answer).contains(told));
            assert!(told, "{answer}");
        }
    });
    assert_eq!(rows(node, "endless", "SELECT a FROM t"), [[json!(1)]]);
}

#[test]
fn what_is_too_large_is_told_and_the_next_call_is_served() {
    let node = node();
    let app = "too-large";
    node.serve(&both(app, "limits = { memory = \"512MiB\" }"));
    let many = |what: &str, rows: u64| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT {what} FROM n"
        )
    };
    let statements = [
        (many("hex(randomblob(500000))", 20), "pieces with `query`"),
        ("SELECT zeroblob(5000000)".into(), "4194304"),
        (
            "SELECT length(group_concat(hex(randomblob(500000)), '')) FROM (".to_owned() + &many("i", 20) + ")",
            "larger than",
        ),
        (format!("SELECT '{}'", "x".repeat(1 << 20)), "longer than 1048576 bytes"),
        (format!("SELECT {}", vec!["1"; 3000].join(",")), "too many columns"),
        (format!("SELECT 1{}", "+1".repeat(2000)), "tree is too large"),
        (format!("SELECT {}", vec!["?"; 10_001].join("+")), "parameters"),
    ];
    for (sql, part) in &statements {
        let params = if sql.contains('?') { vec![1; 10_001] } else { Vec::new() };
        let asked = json!({ "sql": sql, "params": params });
        for answer in [ask(node, app, "/sql/run", asked.to_string()), js(node, app, "sql", asked)] {
            let start = sql.get(..60).unwrap_or(sql);
            assert!(
                !error(&answer).is_empty() && error(&answer).contains(part),
                "{start}: {:.300}",
                answer.to_string()
            );
        }
        fine(js(node, app, "sql", json!({ "sql": "SELECT 1" })));
    }
    // Text that takes six bytes for each of its own on the way to JavaScript.
    let odd = many("replace(hex(zeroblob(1500000)), '0', char(1))", 4);
    let answer = js(node, app, "sql", json!({ "sql": odd }));
    assert!(
        !error(&answer).is_empty() || answer[3][0].as_str().unwrap().len() == 3_000_000,
        "{:.300}",
        answer.to_string()
    );
    fine(js(node, app, "sql", json!({ "sql": "SELECT 1" })));

    let long = "k".repeat(2049);
    for (call, given, part) in [
        ("set", json!({ "key": long, "value": "v" }), "the most is 2048"),
        ("entry", json!({ "key": long }), "the most is 2048"),
        ("set", json!({ "key": "", "value": "v" }), "a key is empty"),
        ("batch", json!({ "key": "k", "n": 1001, "value": "v" }), "the most is 1000"),
        ("batch", json!({ "key": "k", "n": 3, "bytes": 10 << 20 }), "the most is 26214400"),
        ("fill", json!({ "key": "k", "bytes": 30 << 20 }), "the most is 26214400"),
    ] {
        let answer = js(node, app, call, given);
        assert!(error(&answer).contains(part), "{call} {part}: {:.300}", answer.to_string());
        // The process goes on with its connection.
        fine(js(node, app, "set", json!({ "key": "after", "value": part })));
    }
    let answer = ask(node, app, "/kv/batch?key=k&n=1001", "v");
    assert!(error(&answer).contains("the most is 1000"), "{answer}");
    fine(ask(node, app, "/kv/set?key=k", "v"));
    let answer = ask(node, app, &format!("/kv/set?key=k&metadata={}", "m".repeat(1025)), "v");
    assert!(error(&answer).contains("the most is 1024"), "{answer}");
    // Nothing of all that was kept but what was fine.
    assert_eq!(fine(ask(node, app, "/kv/keys", ""))["keys"], json!(["after", "k"]));
}

#[test]
fn a_function_that_floods_its_store_keeps_no_other_from_working() {
    let node = node();
    let source = r#"export default { async fetch(request, env) {
        let count = 0;
        while ((await env.ITEMS.get("stop")) === null) {
            await Promise.all(Array.from({ length: 1000 }, (_, i) => env.ITEMS.put(`k${i}`, `${count++}`)));
            await env.ITEMS.put("flooding", "yes");
        }
        const locks = [];
        try { for (;;) locks.push(await env.LOCKS.acquire(`lock ${locks.length}`)); }
        catch (error) { return Response.json({ count, locks: locks.length, error: error.message }); }
    } };"#;
    let settings = "kv = [\"items\"]\nlocks = true\nlimits = { timeout = \"2m\", cpu = \"1m\" }";
    let app = App::new("flood")
        .js("flood", "flood.js", source, &format!("routes = [\"/flood\"]\n{settings}"))
        .function("wasm", "data-p2", &format!("routes = [\"/kv/{{*rest}}\", \"/lock\"]\n{settings}"))
        .end("[kv.items]\n[lock]");
    node.serve(&app);
    node.serve(&both("dry", ""));
    thread::scope(|scope| {
        let flood = scope.spawn(|| ask(node, "flood", "/flood", ""));
        until("it floods", || text(node, "flood", "flooding").is_some());
        for number in 0..20 {
            // Others on another store, and another function on the same.
            fine(js(node, "dry", "add", json!({ "key": "n" })));
            fine(ask(node, "dry", "/kv/set?key=a", "b"));
            let sum = fine(ask(node, "flood", "/kv/add?key=n", ""));
            assert_eq!(sum, json!({ "sum": number + 1 }));
        }
        assert!(!flood.is_finished(), "it was to go on meanwhile");
        fine(ask(node, "flood", "/kv/set?key=stop", "now"));
        let answer = flood.join().unwrap();
        assert!(answer["count"].as_u64().unwrap() >= 1000, "{answer}");
        assert_eq!(answer["locks"], json!(10_000), "{answer}");
        assert!(error(&answer).contains("10000 locks"), "{answer}");
    });
    // They went with the invocation.
    assert!(fine(ask(node, "flood", "/lock?name=lock%201", ""))["token"].is_u64());
}

#[test]
fn many_stores_are_used_and_few_are_open() {
    let node = Node::start();
    let apps = ["many-a", "many-b", "many-c"];
    let names = |kind: &str, count: usize| (0..count).map(|index| format!("{kind}{index}")).collect::<Vec<_>>();
    let (kv, sql) = (names("k", 100), names("s", 17));
    for name in apps {
        let list = |names: &[String]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let stores: String = kv
            .iter()
            .map(|name| format!("[kv.{name}]\n"))
            .chain(sql.iter().map(|name| format!("[sql.{name}]\n")))
            .collect();
        let app = App::new(name)
            .function("kv", "data-p2", &format!("routes = [\"/kv/{{*rest}}\"]\nkv = [{}]", list(&kv)))
            .function("sql", "data-p2", &format!("routes = [\"/sql/{{*rest}}\"]\nsql = [{}]", list(&sql)));
        node.serve(&app.end(&stores));
    }
    let open = || {
        let files = fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap();
        let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let data = node.data_dir();
        let open: BTreeSet<_> =
            files.filter(|file| file.extension().is_some_and(|it| it == "db") && file.starts_with(&data)).collect();
        let of = |kind: &str| open.iter().filter(|file| file.starts_with(data.join(kind))).count();
        (of("kv"), of("sql"))
    };
    let mut most = (0, 0);
    for app in apps {
        thread::scope(|scope| {
            for half in kv.chunks(50) {
                scope.spawn(|| {
                    half.iter().for_each(|name| {
                        fine(ask(&node, app, &format!("/kv/set?store={name}&key=a"), format!("{app} {name}")));
                    })
                });
            }
            for half in sql.chunks(9) {
                scope.spawn(|| {
                    half.iter().for_each(|name| {
                        fine(ask(
                            &node,
                            app,
                            &format!("/sql/script?store={name}"),
                            format!("CREATE TABLE t AS SELECT '{app} {name}' AS a"),
                        ));
                    })
                });
            }
        });
        let now = open();
        most = (most.0.max(now.0), most.1.max(now.1));
    }
    assert!((64..=128).contains(&most.0) && most.1 == 51, "{most:?} open");
    for app in apps {
        for name in &kv {
            let found = fine(ask(&node, app, &format!("/kv/get?store={name}&key=a"), ""));
            assert_eq!(found["value"], json!(format!("{app} {name}")));
        }
        for name in &sql {
            let found = fine(ask(
                &node,
                app,
                &format!("/sql/run?store={name}"),
                json!({ "sql": "SELECT a FROM t" }).to_string(),
            ));
            assert_eq!(found["rows"], json!([[format!("{app} {name}")]]));
        }
    }
    assert!(open().0 <= 128);
    // What is gone is closed.
    for app in apps {
        node.cli().ok(["delete", app, "--yes", "--data", "purge"]);
    }
    until("nothing is open", || open() == (0, 0));
}

#[test]
fn a_function_in_javascript_gets_no_store_that_it_was_not_granted_whatever_it_sends() {
    let node = node();
    let victim = App::of_guest("victim", "data-p2", GRANTS).end(STORES);
    node.serve(&victim);
    fine(ask(node, "victim", "/kv/set?key=a", "the-secret"));
    fine(ask(node, "victim", "/sql/script", "CREATE TABLE t AS SELECT 'the-secret' AS a"));
    let honest = r#"
    const attempts = (env) => {
        const Kv = env.ITEMS.constructor, Db = env.MAIN.constructor;
        const all = {
            own: () => new Kv("items").get("a"),
            noName: () => new Kv("").get("a"),
            readOnly: () => env.READ.put("a", "changed"),
            readOnlySwap: () => env.READ.compareAndSwap("a", null, "changed"),
            readOnlyAdd: () => env.READ.increment("n"),
            readOnlySql: () => env.ONLY.exec("CREATE TABLE x (a)"),
            readOnlyBatch: () => env.ONLY.batch([env.ONLY.prepare("CREATE TABLE x (a)")]),
        };
        for (const store of ["victim/items", "../victim/items", "default/victim/items", "victim", "items\0", "ITEMS", "__proto__"]) {
            all[`kv ${store}`] = () => new Kv(store).get("a");
            all[`kv put ${store}`] = () => new Kv(store).put("a", "changed");
            all[`kv list ${store}`] = async () => (await new Kv(store).list()).keys.map((key) => key.name);
        }
        for (const store of ["victim/main", "victim", "__proto__"]) {
            all[`sql ${store}`] = () => new Db(store).prepare("SELECT a FROM t").first();
            all[`sql exec ${store}`] = () => new Db(store).exec("DROP TABLE t");
            all[`sql batch ${store}`] = () => new Db(store).batch([new Db(store).prepare("SELECT a FROM t")]);
        }
        return all;
    };
    export default { async fetch(request, env) {
        const { stringify } = JSON;
        const all = Object.entries(attempts(env));
        // What the bootstrap uses is not what the function can change.
        JSON.stringify = (value) => stringify(value).replaceAll("items", "victim/items");
        Object.prototype.store = "victim/items";
        Array.prototype.push = function () { throw new Error("push"); };
        const results = await Promise.all(all.map(([name, attempt]) => attempt().then(
            (got) => [name, `GOT ${stringify(got)}`],
            (error) => [name, `refused: ${error?.message ?? error}`],
        )));
        return new Response(stringify(Object.fromEntries(results)));
    } };
    "#;
    // Frames of its own, past the bootstrap: the node takes them from that alone. What connections it leaves open harm nobody.
    let forged = r#"
    import net from "node:net";
    import http from "node:http";
    const frame = (head) => {
        const bytes = new TextEncoder().encode(typeof head === "string" ? head : JSON.stringify(head));
        const frame = new Uint8Array(8 + bytes.length);
        const view = new DataView(frame.buffer);
        view.setUint32(0, 4 + bytes.length, true);
        view.setUint32(4, bytes.length, true);
        frame.set(bytes, 8);
        return frame;
    };
    const path = "/run/data";
    const denoConnect = async (bytes) => {
        const connection = await Deno.connect({ transport: "unix", path });
        await connection.write(bytes);
        const answer = new Uint8Array(10_000);
        const read = await connection.read(answer);
        connection.close();
        if (read === null) throw new Error("closed");
        return new TextDecoder().decode(answer.subarray(0, read));
    };
    const nodeConnect = (bytes) => new Promise((resolve, reject) => {
        const socket = net.connect(path, () => socket.write(bytes));
        socket.on("data", (piece) => { resolve(piece.toString()); socket.destroy(); });
        socket.on("error", reject);
        socket.on("close", () => reject(new Error("closed")));
    });
    const nodeHttp = () => new Promise((resolve, reject) => {
        http.get({ socketPath: path, path: "/" }, () => resolve("answered")).on("error", reject);
    });
    const get = (store) => frame({ id: 1, store, call: { kvGet: { keys: ["a"] } } });
    const attempts = { nodeHttp };
    for (const [what, bytes] of Object.entries({
        own: get("items"), get: get("victim/items"), plain: get("victim"), notJson: frame("{"), tooLong: new Uint8Array(100).fill(255),
        lock: frame({ id: 1, store: "", run: "0".repeat(32), call: { lockAcquire: { name: "a", leaseMs: 1000, waitMs: 0 } } }),
        sql: frame({ id: 1, store: "victim/main", call: { sqlRun: { statements: [{ sql: "SELECT a FROM t" }], isBatch: false } } }),
        script: frame({ id: 1, store: "victim/main", call: { sqlScript: { sql: "DROP TABLE t" } } }),
        write: frame({ id: 1, store: "victim/items", call: { kvWrite: { writes: [{ key: "a", bytes: 0 }] } } }),
    })) {
        attempts[`Deno.connect ${what}`] = () => denoConnect(bytes);
        attempts[`net.connect ${what}`] = () => nodeConnect(bytes);
    }
    const patience = () => new Promise((_, refuse) => setTimeout(() => refuse(new Error("nothing came of it")), 2000));
    export default { async fetch(request, env) {
        const results = {};
        for (const [name, attempt] of Object.entries(attempts)) {
            try { results[name] = `GOT ${await Promise.race([attempt(), patience()])}`; }
            catch (error) { results[name] = `refused: ${error?.message ?? error}`; }
        }
        // Connections that say nothing, or half of something, and stay.
        const held = [];
        for (let i = 0; i < 4; i++) {
            held.push(await new Promise((resolve, reject) => {
                const socket = net.connect(path, () => resolve(socket));
                socket.on("error", reject);
            }));
        }
        held[0].write(new Uint8Array(31));
        results.after = await env.ITEMS.get("a");
        await env.ITEMS.put("b", "written beside them");
        for (const socket of held) socket.destroy();
        return Response.json(results);
    } };
    "#;
    let grants = "kv = [\"items\", \"read:ro\"]\nsql = [\"main\", \"only:ro\"]";
    let app = App::new("forger")
        .js("honest", "honest.js", honest, &format!("routes = [\"/honest\"]\n{grants}"))
        .js(
            "forged",
            "forged.js",
            forged,
            &format!("routes = [\"/forged\"]\n{grants}\nlimits = {{ timeout = \"2m\" }}"),
        )
        .end("[kv.items]\n[kv.read]\n[sql.main]\n[sql.only]");
    node.serve(&app);
    node.cli().ok(["kv", "set", "forger/items", "a", "its own"]);
    node.cli().ok(["kv", "set", "forger/read", "a", "as it was"]);
    let results =
        |path: &str| -> BTreeMap<String, String> { serde_json::from_value(ask(node, "forger", path, "")).unwrap() };
    let mut honest = results("/honest");
    assert_eq!(honest.remove("own").unwrap(), "GOT \"its own\"", "{honest:#?}");
    let mut forged = results("/forged");
    assert_eq!(forged.remove("after").unwrap(), "its own", "{forged:#?}");
    assert!(!forged.remove("net.connect own").unwrap().contains("the-secret"));
    for (name, result) in honest.iter().chain(&forged) {
        let refused = result.starts_with("refused: ") || result.contains("\"failed\":");
        assert!(refused && !result.contains("the-secret"), "{name}: {result}\n{honest:#?}\n{forged:#?}");
    }
    assert_eq!(text(node, "victim", "a").as_deref(), Some("the-secret"));
    assert_eq!(rows(node, "victim", "SELECT a FROM t"), [[json!("the-secret")]]);
    assert_eq!(node.cli().ok(["kv", "get", "forger/read", "a"]), "as it was");
}
