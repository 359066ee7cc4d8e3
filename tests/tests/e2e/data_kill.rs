//! The data services when the node is killed, its disk is full or a file is damaged: what was acknowledged is there.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use minnow_tests::{App, Node, Random, until};
use serde_json::{Value, json};

use crate::data_calls::{ask, both, call, error, fine, rows, text};

/// All writers between two starts of the node.
#[derive(Debug, Default)]
pub(crate) struct Round {
    acknowledged: AtomicU64,
    killed: AtomicBool,
}

impl Round {
    /// Kills the node when so much is acknowledged: as good as any moment, since the writers do not know of it.
    pub(crate) fn kill(&self, node: &Node, enough: u64) {
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
pub(crate) struct Written {
    pub(crate) asked: u64,
    pub(crate) acknowledged: u64,
    /// Numbers that nobody knows of: the node was killed before it answered.
    pub(crate) unsure: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Mutex<Written>);

impl Writer {
    /// Writes until the node is gone; `write` answers `None` then.
    pub(crate) fn work(&self, round: &Round, mut write: impl FnMut(u64) -> Option<()>) {
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
    pub(crate) fn ends_with(&self, what: &str, found: u64) {
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
    pub(crate) fn are(&self, what: &str, found: &[u64]) {
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
    // Many calls have met it. The operator is told of a full disk, once.
    let log = node.log();
    let told = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(told("no space is left on the disk of the data directory"), 1, "{log}");
    assert_eq!(told("\"level\":\"ERROR\""), 1, "{log}");
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
    node.cli().fails(["kv", "get", "hurt/head", "k1"]).says(&[
        "500 store_damaged",
        "node's log names the file",
        "backup",
    ]);
    // What is put back from a backup is used without a restart, once nobody has the damaged file open.
    for (file, whole) in files.iter().zip(whole).filter(|(file, _)| file.to_str().unwrap().contains("/head")) {
        fs::write(file, whole).unwrap();
    }
    for answer in calls("head") {
        fine(answer);
    }
}
