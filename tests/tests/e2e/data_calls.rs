//! Apps that use the data services as they are told to, for tests of what goes wrong: a component and JavaScript on the same stores.

use std::sync::OnceLock;

use minnow_tests::{App, Connection, Node, Request};
use serde_json::{Value, json};

/// The node of all tests here whose faults are the functions' own.
pub(crate) fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

pub(crate) const STORES: &str = "[kv.items]\n[sql.main]\n[lock]";
pub(crate) const GRANTS: &str = "kv = [\"items\"]\nsql = [\"main\"]\nlocks = true";

/// What the functions in JavaScript do, by the path after `/js/`, with the JSON that is posted.
pub(crate) const CALLS_JS: &str = r#"
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
    async section({ ITEMS, LOCKS }, { key }) {
        const lock = await LOCKS.acquire("boat", { lease: 60_000, wait: 60_000 });
        const before = Number(await ITEMS.get(key) ?? 0);
        await ITEMS.put(key, String(before + 1));
        await lock.release();
        return { token: lock.token, before };
    },
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
pub(crate) fn both(name: &str, settings: &str) -> App {
    let wasm = "routes = [\"/kv/{*rest}\", \"/sql/{*rest}\", \"/lock\"]";
    App::new(name)
        .function("wasm", "data-p2", &format!("{wasm}\n{GRANTS}\n{settings}"))
        .js("script", "script.js", CALLS_JS, &format!("routes = [\"/js/{{*rest}}\"]\n{GRANTS}\n{settings}"))
        .end(STORES)
}

/// Calls a function; `None` when the node is gone.
pub(crate) fn call(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Option<Value> {
    let request = Request::get(app, path).method("POST").body(body);
    let answer = Connection::open(node.http).and_then(|connection| connection.exchange(&request)?.rest()).ok()?;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    Some(answer.json())
}

/// Calls a function, which may answer with an error.
#[track_caller]
pub(crate) fn ask(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Value {
    call(node, app, path, body).unwrap_or_else(|| panic!("no answer to {path}"))
}

/// [`ask`] in JavaScript.
#[track_caller]
pub(crate) fn js(node: &Node, app: &str, call: &str, given: Value) -> Value {
    ask(node, app, &format!("/js/{call}"), given.to_string())
}

/// The error that a function answered with; empty where it did not.
pub(crate) fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_default()
}

#[track_caller]
pub(crate) fn fine(answer: Value) -> Value {
    assert_eq!(error(&answer), "", "{answer}");
    answer
}

/// The rows of a query.
#[track_caller]
pub(crate) fn rows(node: &Node, app: &str, sql: &str) -> Vec<Vec<Value>> {
    let found = fine(ask(node, app, "/sql/run", json!({ "sql": sql }).to_string()));
    serde_json::from_value(found["rows"].clone()).unwrap()
}

#[track_caller]
pub(crate) fn text(node: &Node, app: &str, key: &str) -> Option<String> {
    fine(ask(node, app, &format!("/kv/get?key={key}"), ""))["value"].as_str().map(str::to_owned)
}
