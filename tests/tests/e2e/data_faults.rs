//! The data services when something goes wrong: kill -9, a full disk, damaged files, races, and functions that do as they like.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Debug,
    fs,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{
        Mutex, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::Instant,
};

use minnow_tests::{App, Connection, Node, Random, Request, eventually, until};
use serde_json::{Value, json};

/// The node of all tests here whose faults are the functions' own.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

const STORES: &str = "[kv.items]\n[sql.main]\n[lock]";
const GRANTS: &str = "kv = [\"items\"]\nsql = [\"main\"]\nlocks = true";

/// What the functions in JavaScript do, by the path after `/js/`, with the JSON that is posted.
const CALLS_JS: &str = r#"
const calls = {
    set: ({ ITEMS }, { key, value }) => ITEMS.put(key, value),
    delete: ({ ITEMS }, { key }) => ITEMS.delete(key),
    entry: ({ ITEMS }, { key }) => ITEMS.getWithMetadata(key),
    swap: ({ ITEMS }, { key, version, value }) => ITEMS.compareAndSwap(key, version, value),
    batch: ({ ITEMS }, { key, n, value, bytes }) => ITEMS.putMany(Array.from({ length: n }, (_, i) => ({
        key: `${key}${i}`,
        value: value ?? "v".repeat(bytes),
    }))),
    add: ({ ITEMS }, { key }) => ITEMS.increment(key),
    fill: ({ ITEMS }, { key, bytes }) => ITEMS.put(key, "v".repeat(bytes)),
    async append({ ITEMS }, { key, value }) {
        for (;;) {
            const { value: before, version } = await ITEMS.getWithMetadata(key);
            if (await ITEMS.compareAndSwap(key, version, (before ?? "") + value)) return;
        }
    },
    sql: async ({ MAIN }, { sql, params = [] }) => (await MAIN.prepare(sql).bind(...params).raw()),
    sqls: async ({ MAIN }, { sqls }) => (await MAIN.batch(sqls.map((sql) => MAIN.prepare(sql)))).map(({ results }) => results),
    script: ({ MAIN }, { sql }) => MAIN.exec(sql),
    async token({ LOCKS }) {
        const lock = await LOCKS.acquire("boat", { lease: 60_000, wait: 60_000 });
        await lock.release();
        return lock.token;
    },
};
export default {
    async fetch(request, env) {
        try {
            const name = new URL(request.url).pathname.slice(4);
            return Response.json(await calls[name](env, await request.json()) ?? {});
        } catch (error) {
            return Response.json({ error: error.message });
        }
    },
};
"#;

/// The app `name`: the guest of the data services, and [`CALLS_JS`] under `/js/`, with the same stores.
fn both(name: &str, settings: &str) -> App {
    let wasm = "routes = [\"/kv/{*rest}\", \"/sql/{*rest}\", \"/lock\"]";
    App::new(name)
        .function("wasm", "data-p2", &format!("{wasm}\n{GRANTS}\n{settings}"))
        .js("script", "script.js", CALLS_JS, &format!("routes = [\"/js/{{*rest}}\"]\n{GRANTS}\n{settings}"))
        .end(STORES)
}

/// Calls a function; `None` when the node is gone.
fn call(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Option<Value> {
    let request = Request::get(app, path).method("POST").body(body);
    let answer = Connection::open(node.http).and_then(|connection| connection.exchange(&request)?.rest()).ok()?;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    Some(answer.json())
}

/// Calls a function, which may answer with an error.
#[track_caller]
fn ask(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Value {
    call(node, app, path, body).unwrap_or_else(|| panic!("no answer to {path}"))
}

/// [`ask`] in JavaScript.
#[track_caller]
fn js(node: &Node, app: &str, call: &str, given: Value) -> Value {
    ask(node, app, &format!("/js/{call}"), given.to_string())
}

/// The error that a function answered with; empty where it did not.
fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_default()
}

#[track_caller]
fn fine(answer: Value) -> Value {
    assert_eq!(error(&answer), "", "{answer}");
    answer
}

/// The rows of a query.
#[track_caller]
fn rows(node: &Node, app: &str, sql: &str) -> Vec<Vec<Value>> {
    let found = fine(ask(node, app, "/sql/run", json!({ "sql": sql }).to_string()));
    serde_json::from_value(found["rows"].clone()).unwrap()
}

#[track_caller]
fn text(node: &Node, app: &str, key: &str) -> Option<String> {
    fine(ask(node, app, &format!("/kv/get?key={key}"), ""))["value"].as_str().map(str::to_owned)
}

// What was acknowledged, over kill -9.

/// All writers between two starts of the node.
#[derive(Debug, Default)]
struct Round {
    acknowledged: AtomicU64,
    killed: AtomicBool,
}

impl Round {
    /// Kills the node when so much is acknowledged: as good as any moment, since the writers do not know of it.
    fn kill(&self, node: &Node, enough: u64) {
        let goal = || until("enough is acknowledged", || self.acknowledged.load(Relaxed) >= enough);
        let reached = catch_unwind(AssertUnwindSafe(goal));
        self.killed.store(true, SeqCst);
        node.kill();
        // Now that the writers end.
        reached.unwrap_or_else(|panic| resume_unwind(panic));
        println!("{} acknowledged", self.acknowledged.load(Relaxed));
    }
}

/// What one writer did: it writes the numbers from 1 on.
#[derive(Debug, Default)]
struct Written {
    asked: u64,
    acknowledged: u64,
    /// Numbers that nobody knows of: the node was killed before it answered.
    unsure: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Writer(Mutex<Written>);

impl Writer {
    /// Writes until the node is gone; `write` answers `None` then.
    fn work(&self, round: &Round, mut write: impl FnMut(u64) -> Option<()>) {
        loop {
            let number = {
                let mut written = self.0.lock().unwrap();
                written.asked += 1;
                written.asked
            };
            let done = write(number).is_some();
            let mut written = self.0.lock().unwrap();
            if !done {
                assert!(round.killed.load(SeqCst), "the node lives, and did not do {number} of {written:?}");
                written.unsure.insert(number);
                return;
            }
            written.acknowledged = number;
            round.acknowledged.fetch_add(1, Relaxed);
        }
    }

    /// What is found is the last number: one that was acknowledged, or asked for at the end.
    #[track_caller]
    fn ends_with(&self, what: &str, found: u64) {
        let mut written = self.0.lock().unwrap();
        let known = found == written.acknowledged || found > written.acknowledged && written.unsure.contains(&found);
        assert!(known, "{what}: {found} is found, {written:?}");
        written.acknowledged = found;
    }

    /// [`Writer::ends_with`] for what counts, where the next number follows on what is there.
    #[track_caller]
    fn counts_to(&self, what: &str, found: u64) {
        self.ends_with(what, found);
        let mut written = self.0.lock().unwrap();
        written.asked = found;
        written.unsure.clear();
    }

    /// What is found are all the numbers, each once and in order; those that nobody knows of may be missing.
    #[track_caller]
    fn are(&self, what: &str, found: &[u64]) {
        let written = self.0.lock().unwrap();
        assert!(found.is_sorted_by(|one, next| one < next), "{what}: {found:?}");
        let found: BTreeSet<u64> = found.iter().copied().collect();
        let expected: BTreeSet<u64> = (1..=written.asked).collect();
        assert!(found.is_subset(&expected), "{what}: nobody wrote {:?}", found.difference(&expected));
        let missing: Vec<_> = expected.difference(&found).filter(|number| !written.unsure.contains(number)).collect();
        assert!(missing.is_empty(), "{what}: {missing:?} were acknowledged and are lost");
    }
}

/// Numbers of the rows `(writer, number)` for one writer.
fn of_writer(rows: &[Vec<Value>], writer: &str) -> Vec<u64> {
    rows.iter().filter(|row| row[0] == writer).map(|row| row[1].as_u64().unwrap()).collect()
}

const AMOUNT: u64 = 1_000_000;
const BATCH: usize = 5;

/// The writers of one kind of function.
#[derive(Debug, Default)]
struct Writers {
    set: Writer,
    batch: Writer,
    add: Writer,
    append: Writer,
    insert: Writer,
    pair: Writer,
    transfer: Writer,
    lock: Writer,
}

/// One round of all writers of both kinds, until the node is gone. `token` is the greatest of all locks so far.
fn write_everything(node: &Node, writers: &[Writers; 2], token: &AtomicU64, enough: u64) {
    let round = &Round::default();
    let app = "ledger";
    let done = |path: &str, body: String| call(node, app, path, body).map(fine);
    let script = |name: &str, given: Value| done(&format!("/js/{name}"), given.to_string());
    let locked = |taken: &dyn Fn() -> Option<Value>| {
        let before = token.load(SeqCst);
        let taken = taken()?.as_u64().unwrap();
        assert!(taken > before, "the token {taken} after {before}");
        token.fetch_max(taken, SeqCst);
        Some(())
    };
    let (done, script, locked) = (&done, &script, &locked);
    let sum =
        |found: &Value, number: u64| assert_eq!(found.as_u64(), Some(number), "an increment was lost or done twice");
    let left = |found: &Value, number: u64| assert_eq!(found.as_u64(), Some(AMOUNT - number), "an amount was lost");
    let insert = |kind: &str, number: u64| format!("INSERT INTO entry VALUES ('{kind}', {number})");
    let pair = |kind: &str, number: u64| {
        ["a", "b"].map(|half| format!("INSERT INTO pair VALUES ('{kind}', {number}, '{half}')"))
    };
    let [wasm, js] = writers;
    thread::scope(|scope| {
        let (sum, left, insert, pair) = (&sum, &left, &insert, &pair);
        macro_rules! writer {
            ($writer:expr, |$number:ident| $write:expr) => {
                scope.spawn(move || {
                    $writer.work(round, |$number| {
                        $write?;
                        Some(())
                    })
                })
            };
        }
        writer!(wasm.set, |n| done("/kv/set?key=set-wasm", n.to_string()));
        writer!(wasm.batch, |n| done(&format!("/kv/batch?key=batch-wasm-&n={BATCH}"), n.to_string()));
        writer!(wasm.add, |n| done("/kv/add?key=add-wasm", String::new()).map(|found| sum(&found["sum"], n)));
        writer!(wasm.append, |n| done("/kv/append?key=log", format!("wasm:{n};")));
        writer!(wasm.insert, |n| done("/sql/run", json!({ "sql": insert("wasm", n) }).to_string()));
        writer!(wasm.pair, |n| done("/sql/batch", json!(pair("wasm", n).map(|sql| json!({ "sql": sql }))).to_string()));
        writer!(wasm.transfer, |n| done("/sql/transfer?from=1&to=2", String::new())
            .map(|found| left(&found["amount"], n)));
        writer!(wasm.lock, |_n| locked(&|| Some(
            done("/lock?name=boat&lease=60000&wait=60000", String::new())?["token"].clone()
        )));
        writer!(js.set, |n| script("set", json!({ "key": "set-js", "value": n.to_string() })));
        writer!(js.batch, |n| script("batch", json!({ "key": "batch-js-", "n": BATCH, "value": n.to_string() })));
        writer!(js.add, |n| script("add", json!({ "key": "add-js" })).map(|found| sum(&found, n)));
        writer!(js.append, |n| script("append", json!({ "key": "log", "value": format!("js:{n};") })));
        writer!(js.insert, |n| script("sql", json!({ "sql": insert("js", n) })));
        writer!(js.pair, |n| script("sqls", json!({ "sqls": pair("js", n) })));
        writer!(js.transfer, |n| script(
            "sqls",
            json!({ "sqls": [
            "UPDATE account SET amount = amount - 1 WHERE id = 3",
            "UPDATE account SET amount = amount + 1 WHERE id = 4",
            "SELECT amount FROM account WHERE id = 3",
        ] })
        )
        .map(|found| left(&found[2][0]["amount"], n)));
        writer!(js.lock, |_n| locked(&|| script("token", json!({}))));
        round.kill(node, enough);
    });
}

/// Compares what the stores hold with what was acknowledged.
fn verify_everything(node: &Node, writers: &[Writers; 2]) {
    let app = "ledger";
    let number = |key: &str| text(node, app, key).map_or(0, |text| text.parse::<u64>().unwrap());
    let log = text(node, app, "log").unwrap_or_default();
    let log: Vec<Vec<Value>> = log
        .split_terminator(';')
        .map(|piece| piece.split_once(':').unwrap_or_else(|| panic!("half of a piece: {piece}")))
        .map(|(kind, number)| vec![json!(kind), json!(number.parse::<u64>().unwrap())])
        .collect();
    let entries = rows(node, app, "SELECT kind, number FROM entry ORDER BY number");
    let pairs =
        rows(node, app, "SELECT kind, number, group_concat(half, '+') FROM pair GROUP BY kind, number ORDER BY number");
    let amounts = rows(node, app, "SELECT amount FROM account ORDER BY id");
    for (index, (kind, writers)) in ["wasm", "js"].into_iter().zip(writers).enumerate() {
        writers.set.ends_with(&format!("{kind} set"), number(&format!("set-{kind}")));
        let batch: BTreeSet<u64> = (0..BATCH).map(|index| number(&format!("batch-{kind}-{index}"))).collect();
        assert_eq!(batch.len(), 1, "half of a batch of {kind}: {batch:?}");
        writers.batch.ends_with(&format!("{kind} batch"), *batch.first().unwrap());
        writers.add.counts_to(&format!("{kind} increment"), number(&format!("add-{kind}")));
        writers.append.are(&format!("{kind} compare-and-swap"), &of_writer(&log, kind));
        writers.insert.are(&format!("{kind} insert"), &of_writer(&entries, kind));
        writers.pair.are(&format!("{kind} batch of SQL"), &of_writer(&pairs, kind));
        let [from, to] = [0, 1].map(|which| amounts[2 * index + which][0].as_u64().unwrap());
        assert_eq!(from + to, 2 * AMOUNT, "half of a transaction of {kind}");
        writers.transfer.counts_to(&format!("{kind} transaction"), AMOUNT - from);
    }
    assert!(pairs.iter().all(|pair| pair[2] == "a+b"), "half of a batch of SQL: {pairs:?}");
}

#[test]
fn nothing_that_functions_were_told_is_kept_is_lost_when_the_node_is_killed_again_and_again() {
    let mut random =
        Random::new("nothing_that_functions_were_told_is_kept_is_lost_when_the_node_is_killed_again_and_again");
    let mut node = Node::start();
    node.serve(&both("ledger", ""));
    let tables = format!(
        "CREATE TABLE entry (kind TEXT, number INTEGER); CREATE TABLE pair (kind TEXT, number INTEGER, half TEXT);
         CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER);
         INSERT INTO account VALUES (1, {AMOUNT}), (2, {AMOUNT}), (3, {AMOUNT}), (4, {AMOUNT})"
    );
    fine(ask(&node, "ledger", "/sql/script", tables));
    let (writers, token) = (<[Writers; 2]>::default(), AtomicU64::new(0));
    for _ in 0..6 {
        write_everything(&node, &writers, &token, 100 + random.below(500));
        node = node.kill_and_restart();
        verify_everything(&node, &writers);
    }
    for writers in &writers {
        for writer in [&writers.set, &writers.batch, &writers.append, &writers.insert, &writers.pair, &writers.lock] {
            assert!(writer.0.lock().unwrap().acknowledged > 6, "hardly anything was written: {writers:?}");
        }
    }
}

#[test]
fn settings_and_migrations_that_were_acknowledged_are_there_when_the_node_is_killed_again_and_again() {
    let mut random =
        Random::new("settings_and_migrations_that_were_acknowledged_are_there_when_the_node_is_killed_again_and_again");
    let mut node = Node::start();
    let app = App::of_guest("settled", "lab-p2", "secrets = [\"KEY\"]").end("[sql.main]\nmigrations = \"migrations\"");
    app.write("migrations/0000.sql", "CREATE TABLE step (number INTEGER, half TEXT);");
    let set = |node: &Node, number: u64| {
        let cli = node.cli().in_dir(app.path());
        cli.run_with(["secret", "set", "KEY"], format!("secret-{number}").as_bytes()).code() == 0
    };
    assert!(set(&node, 0));
    node.cli().in_dir(app.path()).ok(["publish", "0.0.0"]);
    node.cli().in_dir(app.path()).ok(["deploy", "0.0.0"]);
    node.cli().in_dir(app.path()).ok(["config", "set", "ONE=0", "TWO=0"]);
    let [variables, secret, migrations] = <[Writer; 3]>::default();
    for _ in 0..6 {
        let round = Round::default();
        thread::scope(|scope| {
            let (node, app, round) = (&node, &app, &round);
            scope.spawn(|| {
                let cli = node.cli().in_dir(app.path());
                variables.work(round, |number| {
                    let ran = cli.run(["config", "set", &format!("ONE={number}"), &format!("TWO={number}")]);
                    (ran.code() == 0).then_some(())
                });
            });
            scope.spawn(|| secret.work(round, |number| set(node, number).then_some(())));
            scope.spawn(|| {
                let cli = node.cli().in_dir(app.path());
                migrations.work(round, |number| {
                    let half = |half| format!("INSERT INTO step VALUES ({number}, '{half}');\n");
                    app.write(&format!("migrations/{number:04}.sql"), half("a") + &half("b"));
                    let version = format!("0.0.{number}");
                    let published = cli.run(["publish", &version]).code() == 0;
                    (published && cli.run(["deploy", &version]).code() == 0).then_some(())
                });
            });
            round.kill(node, 3 + random.below(12));
        });
        node = node.kill_and_restart();
        let seen = node.get("settled", "/env").json();
        let number = |name: &str| seen[name].as_str().and_then(|text| text.rsplit('-').next()?.parse::<u64>().ok());
        assert_eq!(number("ONE"), number("TWO"), "half of a change: {seen}");
        variables.ends_with("variables", number("ONE").unwrap());
        secret.ends_with("secret", number("KEY").unwrap_or_else(|| panic!("the secret is gone: {seen}")));
        let query = "SELECT number, group_concat(half, '+') FROM step GROUP BY number ORDER BY number";
        let steps = node.cli().json(["sql", "query", "settled/main", query, "--json"])["rows"].clone();
        let steps: Vec<(u64, String)> = serde_json::from_value(steps).unwrap();
        // A later version brings what an earlier one did not come to.
        let written = migrations.0.lock().unwrap();
        assert!((written.acknowledged..=written.asked).contains(&(steps.len() as u64)), "{steps:?} of {written:?}");
        for (index, (number, halves)) in steps.iter().enumerate() {
            assert_eq!((*number, halves.as_str()), (index as u64 + 1, "a+b"), "{steps:?}");
        }
    }
    for writer in [variables, secret, migrations] {
        assert!(writer.0.lock().unwrap().acknowledged > 2, "hardly anything was written: {writer:?}");
    }
}

// A disk that is full, and files that are damaged.

#[test]
fn a_full_disk_is_told_to_functions_and_loses_nothing() {
    let node = Node::builder().disk("64m").start();
    let app = App::of_guest("full", "data-p2", "kv = [\"items\", \"new\"]\nsql = [\"main\", \"fresh\"]");
    node.serve(&app.end("[kv.items]\n[kv.new]\n[sql.main]\n[sql.fresh]"));
    let run = |sql: &str| ask(&node, "full", "/sql/run", json!({ "sql": sql }).to_string());
    fine(run("CREATE TABLE t (a INTEGER, b BLOB)"));
    fine(ask(&node, "full", "/kv/set?key=first", "kept"));
    let ballast = node.data_dir().join("ballast");
    let free = || rustix::fs::statvfs(node.data_dir()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
    fs::write(&ballast, vec![1; (free() - (8 << 20)) as usize]).unwrap();
    let told = |error: &str| {
        let clear = error.contains("no space is left") || error.contains("the database is full");
        assert!(clear && !error.contains(node.data_dir().to_str().unwrap()), "{error}");
    };
    // Several at once, so that writes share a commit with one that meets the end of the disk. Each goes on until it is told.
    let (written, inserted): (Mutex<BTreeSet<String>>, Mutex<BTreeSet<u64>>) = Default::default();
    thread::scope(|scope| {
        for writer in 0..4 {
            let (node, written, inserted, told, run) = (&node, &written, &inserted, &told, &run);
            scope.spawn(move || {
                for number in 0.. {
                    let key = format!("{writer}-{number}");
                    let answer = ask(node, "full", &format!("/kv/fill?key={key}&bytes=100000"), "");
                    if answer["error"].is_string() {
                        return told(error(&answer));
                    }
                    written.lock().unwrap().insert(key);
                }
            });
            scope.spawn(move || {
                for number in 0.. {
                    let number = number * 4 + writer;
                    let answer = run(&format!("INSERT INTO t VALUES ({number}, randomblob(50000))"));
                    if answer["error"].is_string() {
                        return told(error(&answer));
                    }
                    inserted.lock().unwrap().insert(number);
                }
            });
        }
    });
    let (written, inserted) = (written.into_inner().unwrap(), inserted.into_inner().unwrap());
    assert!(!written.is_empty() && !inserted.is_empty(), "{written:?} {inserted:?}");
    let verify = || {
        assert_eq!(text(&node, "full", "first").as_deref(), Some("kept"));
        for key in &written {
            assert_eq!(fine(ask(&node, "full", &format!("/kv/size?key={key}"), ""))["bytes"], json!(100_000), "{key}");
        }
        let found = rows(&node, "full", "SELECT a FROM t WHERE length(b) = 50000 ORDER BY a");
        let found: Vec<u64> = found.iter().map(|row| row[0].as_u64().unwrap()).collect();
        assert!(found.iter().eq(&inserted), "{found:?} instead of {inserted:?}");
    };
    // Not a byte left: what is there can be read, nothing is written, and no store made.
    let rest = node.data_dir().join("rest");
    let _ = fs::write(&rest, vec![1; free() as usize + 1]);
    verify();
    told(error(&ask(&node, "full", "/kv/set?store=new&key=a", "b")));
    told(error(&ask(&node, "full", "/sql/script?store=fresh", "CREATE TABLE t (a)")));
    node.cli().fails(["config", "set", "A=1", "--app", "full"]).says(&["507 storage_full"]);
    verify();
    fs::remove_file(&rest).unwrap();
    fs::remove_file(&ballast).unwrap();
    fine(ask(&node, "full", "/kv/set?key=after", "yes"));
    fine(ask(&node, "full", "/kv/set?store=new&key=a", "b"));
    fine(run("INSERT INTO t VALUES (-1, NULL)"));
    fine(ask(&node, "full", "/sql/script?store=fresh", "CREATE TABLE t (a)"));
    fine(ask(&node, "full", "/kv/fill?key=large&bytes=5000000", ""));
    verify();
}

/// Makes garbage of a part of a file.
fn damage(path: &Path, from: usize, to: usize) {
    let mut bytes = fs::read(path).unwrap();
    let to = to.min(bytes.len());
    bytes[from..to].fill(0xd9);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_store_is_told_in_the_nodes_log_and_the_others_go_on() {
    let node = Node::start();
    let names = ["head", "body", "short", "whole"];
    let list = |ending: &str| names.map(|name| format!("\"{name}{ending}\"")).join(", ");
    let grants = format!("kv = [{}]\nsql = [{}]", list(""), list("-db"));
    let stores: String = names.iter().map(|name| format!("[kv.{name}]\n[sql.{name}-db]\n")).collect();
    let js = r#"export default { async fetch(request, env) {
        const { searchParams } = new URL(request.url);
        try {
            await env[searchParams.get("kv")].put("js", "x");
            await env[searchParams.get("sql")].prepare("INSERT INTO t VALUES (-1, '')").run();
            return Response.json({});
        } catch (error) { return Response.json({ error: error.message }); }
    } };"#;
    let app = App::new("hurt")
        .function("wasm", "data-p2", &format!("routes = [\"/kv/{{*rest}}\", \"/sql/{{*rest}}\"]\n{grants}"))
        .js("script", "script.js", js, &format!("routes = [\"/js\"]\n{grants}"))
        .end(&stores);
    node.serve(&app);
    let fill = "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t SELECT i, hex(randomblob(50)) FROM n";
    for name in names {
        fine(ask(&node, "hurt", &format!("/sql/script?store={name}-db"), fill));
        fine(ask(&node, "hurt", &format!("/kv/batch?store={name}&key=k&n=500"), "v".repeat(400)));
    }
    // An orderly end puts everything into the file itself.
    node.terminate();
    assert!(node.wait().success());
    let path = |kind: &str, name: &str| node.data_dir().join(format!("{kind}/default/hurt/{name}.db"));
    let files: Vec<_> =
        names[..3].iter().flat_map(|name| [path("kv", name), path("sql", &format!("{name}-db"))]).collect();
    let whole: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for file in &files {
        match file.file_stem().unwrap().to_str().unwrap() {
            "head" | "head-db" => damage(file, 0, 4096),
            "body" | "body-db" => damage(file, 4096, usize::MAX),
            _ => fs::write(file, &fs::read(file).unwrap()[..9000]).unwrap(),
        }
    }
    let node = node.rebuild().start();
    let calls = |name: &str| {
        let read = ask(&node, "hurt", &format!("/kv/get?store={name}&key=k250"), "");
        let write = ask(&node, "hurt", &format!("/kv/set?store={name}&key=k250"), "new");
        let sum = json!({ "sql": "SELECT count(b) FROM t" }).to_string();
        let select = ask(&node, "hurt", &format!("/sql/run?store={name}-db"), sum);
        let update = json!({ "sql": "UPDATE t SET b = 'new' WHERE a % 100 = 0" }).to_string();
        let update = ask(&node, "hurt", &format!("/sql/run?store={name}-db"), update);
        let variable = name.to_uppercase();
        let script = ask(&node, "hurt", &format!("/js?kv={variable}&sql={variable}_DB"), "");
        [read, write, select, update, script]
    };
    for name in &names[..3] {
        for answer in calls(name) {
            assert_eq!(error(&answer), "the store has failed; the log of the node says why", "{name}: {answer}");
        }
    }
    // The log has so many lines a second of failing calls, and not one for each.
    for file in &files {
        let shown = file.to_str().unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap().trim_end_matches("-db");
        until(&format!("{shown} is told"), || {
            calls(name);
            node.log().lines().any(|line| line.contains(shown) && line.contains("damaged") && line.contains("backup"))
        });
    }
    for answer in calls("whole") {
        fine(answer);
    }
    node.cli().fails(["kv", "get", "hurt/head", "k1"]).says(&["500 internal"]);
    // What is put back from a backup is used without a restart, once nobody has the damaged file open.
    for (file, whole) in files.iter().zip(whole).filter(|(file, _)| file.to_str().unwrap().contains("/head")) {
        fs::write(file, whole).unwrap();
    }
    for answer in calls("head") {
        fine(answer);
    }
}

// Races, recorded and judged.

/// What one call did, and between which moments.
#[derive(Debug, Clone)]
struct Seen<O> {
    from: Instant,
    to: Instant,
    did: O,
}

/// Whether there is an order of the calls that agrees with time (a call that ended before another began comes first) and in
/// which each does what it did; `apply` gives the state after a call, or `None` where it would have answered otherwise.
fn is_linearizable<S: Clone + Eq + Hash, O>(calls: &[Seen<O>], start: S, apply: impl Fn(&S, &O) -> Option<S>) -> bool {
    assert!(calls.len() <= 128, "a bit for each call");
    let all = if calls.len() == 128 { u128::MAX } else { (1 << calls.len()) - 1 };
    let (mut tried, mut stack) = (HashSet::new(), vec![(0_u128, start)]);
    while let Some((done, state)) = stack.pop() {
        if done == all {
            return true;
        }
        if !tried.insert((done, state.clone())) {
            continue;
        }
        let left = || calls.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
        let first_end = left().map(|(_, call)| call.to).min();
        for (index, call) in left().filter(|(_, call)| Some(call.from) <= first_end) {
            if let Some(state) = apply(&state, &call.did) {
                stack.push((done | (1 << index), state));
            }
        }
    }
    false
}

#[test]
fn a_history_that_nobody_can_explain_is_told_from_one_that_is_odd() {
    let at = Instant::now();
    let call = |from: u64, to: u64, did: Change| Seen {
        from: at + std::time::Duration::from_secs(from),
        to: at + std::time::Duration::from_secs(to),
        did,
    };
    let (set, get) = (|text: &str| Change::Set(text.into()), |text: &str| Change::Get(Some(text.into())));
    let judge = |calls: &[Seen<Change>]| is_linearizable(calls, None, Change::apply);
    // A read beside a write sees the one or the other.
    assert!(judge(&[call(0, 1, set("a")), call(2, 9, set("b")), call(3, 4, get("a")), call(5, 6, get("b"))]));
    // The old value again after the new one; a write that is lost; two swaps that both had the same before them.
    assert!(!judge(&[call(0, 1, set("a")), call(2, 9, set("b")), call(3, 4, get("b")), call(5, 6, get("a"))]));
    assert!(!judge(&[call(0, 1, set("a")), call(2, 3, set("b")), call(4, 5, get("a"))]));
    let swap = |to: &str| Change::Swap { from: None, to: to.into(), done: true };
    assert!(!judge(&[call(0, 9, swap("a")), call(0, 9, swap("b"))]));
}

/// What a function did to a key. Each text is written once, so that it stands for the version of the key.
#[derive(Debug, Clone)]
enum Change {
    Get(Option<String>),
    Set(String),
    Delete,
    Swap { from: Option<String>, to: String, done: bool },
    Append(String),
}

impl Change {
    fn apply(before: &Option<String>, change: &Self) -> Option<Option<String>> {
        match change {
            Self::Get(found) => (found == before).then(|| before.clone()),
            Self::Set(text) => Some(Some(text.clone())),
            Self::Delete => Some(None),
            Self::Swap { from, to, done } => {
                let could = from == before;
                (could == *done).then(|| if could { Some(to.clone()) } else { before.clone() })
            }
            Self::Append(text) => Some(Some(before.clone().unwrap_or_default() + text)),
        }
    }
}

/// Clients of both kinds of functions make their calls at once; gives what each did.
fn record<O: Send>(random: &mut Random, client: impl Fn(usize, Random) -> Vec<Seen<O>> + Sync) -> Vec<Seen<O>> {
    let seeds: Vec<Random> = (0..4)
        .map(|client| {
            let mut random = random.clone();
            for _ in 0..=client * 1000 {
                random.number();
            }
            random
        })
        .collect();
    random.number();
    let client = &client;
    thread::scope(|scope| {
        let clients: Vec<_> =
            seeds.into_iter().enumerate().map(|(index, random)| scope.spawn(move || client(index, random))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn timed<O>(call: impl FnOnce() -> O) -> Seen<O> {
    let from = Instant::now();
    let did = call();
    Seen { from, to: Instant::now(), did }
}

#[test]
fn what_functions_of_both_kinds_do_to_one_key_happens_in_one_order() {
    let mut random = Random::new("what_functions_of_both_kinds_do_to_one_key_happens_in_one_order");
    let node = node();
    node.serve(&both("key-order", ""));
    for key in ["one", "two", "three"] {
        let history = record(&mut random, |client, mut random| {
            let wasm = client % 2 == 0;
            let mut known: (Option<String>, Value) = (None, Value::Null);
            let calls = (0..25).map(|number| {
                let value = format!("{client}.{number};");
                let post = |what: &str| fine(ask(node, "key-order", &format!("/kv/{what}?key={key}"), value.as_str()));
                let script = |what: &str, version: &Value| {
                    fine(js(node, "key-order", what, json!({ "key": key, "value": value, "version": version })))
                };
                timed(|| match random.below(if wasm { 6 } else { 8 }) {
                    0 | 1 => {
                        let entry = if wasm { post("entry")["entry"].clone() } else { script("entry", &Value::Null) };
                        known = (entry["value"].as_str().map(str::to_owned), entry["version"].clone());
                        Change::Get(known.0.clone())
                    }
                    2 | 3 => {
                        if wasm {
                            post("set")
                        } else {
                            script("set", &Value::Null)
                        };
                        Change::Set(value.clone())
                    }
                    4 => {
                        if wasm {
                            post("append")
                        } else {
                            script("append", &Value::Null)
                        };
                        Change::Append(value.clone())
                    }
                    5 => {
                        if wasm {
                            post("delete")
                        } else {
                            script("delete", &Value::Null)
                        };
                        Change::Delete
                    }
                    _ => {
                        let done = script("swap", &known.1).as_bool().unwrap();
                        Change::Swap { from: known.0.clone(), to: value.clone(), done }
                    }
                })
            });
            calls.collect()
        });
        assert!(is_linearizable(&history, None, Change::apply), "no order explains this: {history:#?}");
    }
}

#[test]
fn transactions_of_functions_of_both_kinds_on_one_row_happen_in_one_order() {
    /// The amount that was found, and what was taken of it.
    type Took = (i64, i64);
    let mut random = Random::new("transactions_of_functions_of_both_kinds_on_one_row_happen_in_one_order");
    let node = node();
    let app = "row-order";
    node.serve(&both(app, ""));
    fine(ask(
        node,
        app,
        "/sql/script",
        "CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER); INSERT INTO account VALUES (1, 1000), (2, 1000);",
    ));
    let history = record(&mut random, |client, mut random| {
        let wasm = client % 2 == 0;
        let calls = (0..25).map(|_| {
            timed(|| -> Took {
                match (random.below(3), wasm) {
                    (0, true) => {
                        let found = rows(node, app, "SELECT sum(amount), min(amount) FROM account");
                        assert_eq!(found[0][0], 2000, "half of a transaction is seen");
                        (found[0][1].as_i64().unwrap(), 0)
                    }
                    (0, false) => {
                        let both =
                            ["SELECT amount FROM account WHERE id = 1", "SELECT amount FROM account WHERE id = 2"];
                        let found = fine(js(node, app, "sqls", json!({ "sqls": both })));
                        let [one, two] = [0, 1].map(|index| found[index][0]["amount"].as_i64().unwrap());
                        assert_eq!(one + two, 2000, "half of a transaction is seen");
                        (one, 0)
                    }
                    (_, true) => {
                        let found = fine(ask(node, app, "/sql/transfer?from=1&to=2", ""));
                        (found["amount"].as_i64().unwrap() + 1, 1)
                    }
                    (_, false) => {
                        let sqls = [
                            "SELECT amount FROM account WHERE id = 1",
                            "UPDATE account SET amount = amount - 1 WHERE id = 1",
                            "UPDATE account SET amount = amount + 1 WHERE id = 2",
                        ];
                        let found = fine(js(node, app, "sqls", json!({ "sqls": sqls })));
                        (found[0][0]["amount"].as_i64().unwrap(), 1)
                    }
                }
            })
        });
        calls.collect()
    });
    let apply = |amount: &i64, (found, took): &Took| (amount == found).then(|| amount - took);
    assert!(is_linearizable(&history, 1000, apply), "no order explains this: {history:#?}");
    let taken: i64 = history.iter().map(|call| call.did.1).sum();
    assert_eq!(rows(node, app, "SELECT amount FROM account WHERE id = 1"), [[json!(1000 - taken)]]);
}

// Functions that do as they like.

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
    // Frames of its own, past the bootstrap. Whoever gets to the socket meets the same gate.
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
        results.after = await env.ITEMS.get("a");
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
