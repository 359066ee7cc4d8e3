//! What is particular to JavaScript in events: `queue` and `scheduled`, in the shapes of Workers.

use std::sync::OnceLock;

use minnow_tests::{App, Node, Request, repository, until};
use serde_json::{Value, json};

use crate::{
    events::{all_done, follower, seen, seen_of},
    js_bad::logged,
};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

/// Writes down what it gets, and then does with each message what that says. `/send` publishes what it is sent, at once.
const WORKER: &str = r#"
const shown = (body) => body instanceof ArrayBuffer ? { bytes: [...new Uint8Array(body)] } : body;
async function write(env, what) {
    const number = await env.SEEN.increment("count");
    await env.SEEN.put(`seen/${String(number).padStart(6, "0")}`, JSON.stringify(what));
}
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const acts = {
    none() {},
    ack: (message) => message.ack(),
    retry: (message) => message.attempts === 1 && message.retry({ delaySeconds: 0 }),
    ackRetry(message) { message.ack(); message.retry(); },
    retryAck(message) { if (message.attempts === 1) message.retry({ delay: 0 }); message.ack(); message.ack(); },
    throwOnce(message) { if (message.attempts === 1) throw new Error("thrown once"); },
    poison() { throw new TypeError("it is poison"); },
    ackAll: (_message, batch) => batch.ackAll(),
    retryAll: (message, batch) => message.attempts === 1 && batch.retryAll({ delaySeconds: 0 }),
    lateAck: (message, _batch, ctx) => ctx.waitUntil(pause(50).then(() => message.ack())),
    lateFail(message, _batch, ctx) { if (message.attempts === 1) ctx.waitUntil(Promise.reject(new Error("late"))); },
    take: (_message, batch) => batch.messages.length = 1,
    tooLong(message) { if (message.attempts === 1) message.retry({ delaySeconds: 86_401 }); },
    odd(message) { if (message.attempts === 1) message.retry({ delayseconds: 1 }); },
};
export default {
    async fetch(request, env) {
        const path = new URL(request.url).pathname;
        if (path === "/seen") {
            const { keys } = await env.SEEN.list({ prefix: "seen/" });
            const seen = [];
            for (const { name } of keys) seen.push(JSON.parse(await env.SEEN.get(name)));
            return Response.json(seen);
        }
        if (path === "/send") return Response.json(await env.ORDERS.sendBatch(await request.json()));
        if (path === "/bytes") return Response.json(await env.ORDERS.send(new Uint8Array([1, 254])));
        await write(env, { by: "fetch", path, event: request.headers.get("x-minnow-event"), type: request.headers.get("ce-type") });
        return new Response(`hello ${path}`);
    },
    async queue(batch, env, ctx) {
        const all = [...batch.messages];
        const messages = all.map(({ id, timestamp, body, attempts, key, attributes }) => ({
            id, body: shown(body), attempts, key, attributes, isDate: timestamp instanceof Date && Date.now() - timestamp < 600_000,
        }));
        await write(env, { by: "queue", queue: batch.queue, messages });
        for (const message of all) await acts[message.body?.act ?? "none"](message, batch, ctx);
    },
    async scheduled(event, env, ctx) {
        const { type, name, cron, scheduledTime } = event;
        event.noRetry();
        await write(env, { by: "scheduled", type, name, cron, isTime: Math.abs(scheduledTime - Date.now()) < 600_000 });
        if (name === "fails") throw new Error("it has failed by hand");
    },
};
"#;

const SUBSCRIPTION: &str = "topics = [{ name = \"orders\", batch = 10, backoff = \"100ms..100ms\" }]";

fn worker(name: &str, settings: &str) -> App {
    let settings = format!("kv = [\"seen\"]\npublish = [\"orders\"]\n{settings}");
    App::of_js(name, WORKER, &settings).end("[kv.seen]\n[topic.orders]")
}

/// Publishes messages at once, so that they are one batch.
#[track_caller]
fn send(node: &Node, app: &str, messages: &Value) {
    let sent = node.post(app, "/send", messages.to_string());
    assert_eq!(sent.status, 200, "{}", sent.text());
    assert_eq!(sent.json().as_array().map(Vec::len), messages.as_array().map(Vec::len), "{}", sent.text());
}

#[test]
fn queue_gets_messages_in_the_shape_of_workers() {
    let node = node();
    for (app, batch) in [("jsev-one", 1), ("jsev-many", 10)] {
        node.serve(&worker(app, &format!("topics = [{{ name = \"orders\", batch = {batch} }}]")));
        let messages = json!([
            { "body": { "item": "fish" }, "id": "o-1", "key": "ada å", "type": "order.created", "attributes": { "tries": 5 } },
            { "body": "salt & \"bread\"", "contentType": "text" },
            { "body": "a,b", "contentType": "text/csv" },
            { "body": null },
            { "body": "", "contentType": "text" },
        ]);
        send(node, app, &messages);
        assert_eq!(node.get(app, "/bytes").status, 200);
        all_done(node, app, "orders");
        let seen = seen(node, app);
        assert!(seen.iter().all(|seen| seen["by"] == "queue" && seen["queue"] == "orders"), "{seen:?}");
        let mut got: Vec<&Value> = seen.iter().flat_map(|seen| seen["messages"].as_array().unwrap()).collect();
        assert!(if batch == 1 { seen.len() == 6 } else { seen.len() <= 2 }, "{seen:?}");
        // Batches of one run beside each other.
        got.sort_by_key(|message| message["attributes"]["sequence"].as_str().unwrap().to_owned());
        let bodies: Vec<&Value> = got.iter().map(|message| &message["body"]).collect();
        let expected = [
            json!({ "item": "fish" }),
            json!("salt & \"bread\""),
            json!("a,b"),
            Value::Null,
            json!(""),
            json!({ "bytes": [1, 254] }),
        ];
        assert_eq!(bodies, expected.iter().collect::<Vec<_>>(), "batch = {batch}");
        let first = got[0];
        assert_eq!((&first["id"], &first["key"], &first["attempts"]), (&json!("o-1"), &json!("ada å"), &json!(1)));
        assert!(got.iter().all(|message| message["isDate"] == true), "{got:?}");
        assert!(got[1..].iter().all(|message| message["key"].is_null() && message["id"].as_str().unwrap().len() == 32));
        let attributes = &first["attributes"];
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", "o-1"),
            ("source", &*format!("/apps/{app}/topics/orders")),
            ("type", "order.created"),
            ("tries", "5"),
            ("partitionkey", "ada å"),
            ("datacontenttype", "application/json"),
            ("sequence", "00000000000000000001"),
            ("deliverycount", "1"),
        ] {
            assert_eq!(attributes[name], value, "{name}: {attributes}");
        }
        assert!(attributes.get("data").is_none() && got[5]["attributes"].get("data_base64").is_none(), "{got:?}");
    }
}

#[test]
fn the_first_word_for_a_message_holds_and_without_one_the_end_of_the_handler_does() {
    let (node, app) = (node(), "jsev-words");
    node.serve(&worker(app, SUBSCRIPTION));
    let mut wrong = String::new();
    for (number, (acts, deliveries)) in [
        (&["none", "none"][..], &[1, 1][..]),
        (&["ack", "none"], &[1, 1]),
        (&["retry", "none"], &[2, 1]),
        (&["ackRetry", "none"], &[1, 1]),
        (&["retryAck", "none"], &[2, 1]),
        (&["ack", "throwOnce", "none"], &[1, 2, 2]),
        (&["none", "throwOnce", "none"], &[2, 2, 2]),
        (&["retry", "throwOnce", "none"], &[2, 2, 2]),
        (&["retryAll", "none"], &[2, 2]),
        (&["ack", "retryAll", "retry"], &[1, 2, 2]),
        (&["ackAll", "retry", "throwOnce"], &[1, 1, 1]),
        (&["lateAck", "throwOnce"], &[1, 2]),
        (&["lateFail", "none"], &[2, 2]),
        (&["ack", "lateFail", "none"], &[1, 2, 2]),
        // What the function does to the list is its own matter.
        (&["take", "retryAll", "none"], &[2, 2, 2]),
        (&["tooLong", "none"], &[2, 2]),
        (&["ack", "odd"], &[1, 2]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = |index: usize| format!("c{number}-{index}");
        let messages: Vec<Value> =
            acts.iter().enumerate().map(|(index, act)| json!({ "body": { "act": act }, "id": id(index) })).collect();
        send(node, app, &messages.into());
        all_done(node, app, "orders");
        let seen = seen(node, app);
        let count = |id: &str| {
            let messages = seen.iter().flat_map(|seen| seen["messages"].as_array().unwrap());
            messages.filter(|message| message["id"] == id).count()
        };
        let came: Vec<usize> = (0..acts.len()).map(|index| count(&id(index))).collect();
        if came != deliveries {
            wrong += &format!("{acts:?} came {came:?} times, and not {deliveries:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(follower(node, app, "orders")["dead"], 0);
    logged(node, app, "a message comes again within a day (86400000 ms), not after 86401000 ms");
    logged(node, app, "retry: there is no option `delayseconds` here; it has delay, delaySeconds");
}

#[test]
fn of_a_batch_with_a_poisoned_message_only_that_is_a_dead_letter() {
    let (node, app) = (node(), "jsev-poison");
    let subscription = "topics = [{ name = \"orders\", batch = 10, retries = 1, backoff = \"100ms..100ms\" }]";
    node.serve(&worker(app, subscription));
    let acts = ["none", "none", "poison", "none"];
    let messages: Vec<Value> =
        acts.iter().enumerate().map(|(n, act)| json!({ "body": { "act": act, "n": n } })).collect();
    send(node, app, &messages.into());
    all_done(node, app, "orders");
    let dead = node.api("GET", &format!("/v1/apps/{app}/topics/orders/dead"), "").json();
    let [letter] = dead["letters"].as_array().unwrap().as_slice() else { panic!("{dead}") };
    assert_eq!((&letter["position"], &letter["tries"]), (&json!(3), &json!(2)), "{letter}");
    assert!(letter["reason"].as_str().unwrap().starts_with("function_trapped"), "{letter}");
    assert_eq!(logged(node, app, "Uncaught TypeError: it is poison")["level"], "error");
    // What failed comes again alone.
    let batches = seen(node, app);
    let sizes: Vec<usize> = batches.iter().map(|seen| seen["messages"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [4, 1, 1, 1, 1]);
    assert_eq!(node.metric("minnow_deliveries_total", &[app, "done"]), 3.0);
}

/// Runs a schedule, which is known a moment after its deploy.
#[track_caller]
fn run_now(node: &Node, app: &str, name: &str) {
    until(&format!("{name} is started"), || {
        let answer = node.api("POST", &format!("/v1/apps/{app}/schedules/{name}/run"), "");
        assert!(matches!(answer.status, 202 | 404), "{}", answer.text());
        answer.status == 202
    });
}

#[test]
fn scheduled_runs_for_each_tick() {
    let (node, app) = (node(), "jsev-ticks");
    let schedules = "schedules = [{ cron = \"0 3 * * MON-FRI\", name = \"nightly\" }, { at = \"2999-01-01T00:00:00Z\", name = \"party\" }, \
                     { cron = \"@yearly\", name = \"fails\" }]";
    node.serve(&worker(app, schedules));
    for (index, (name, cron)) in
        [("nightly", json!("0 3 * * MON-FRI")), ("party", Value::Null), ("fails", json!("0 0 1 1 *"))]
            .into_iter()
            .enumerate()
    {
        run_now(node, app, name);
        let expected = json!({ "by": "scheduled", "type": "scheduled", "name": name, "cron": cron, "isTime": true });
        assert_eq!(seen_of(node, app, index + 1)[index], expected);
    }
    logged(node, app, "Uncaught Error: it has failed by hand");
    logged(node, app, "schedule `fails` failed: function_trapped");
    until("they are counted", || node.metric("minnow_schedule_ticks_total", &[app, "run"]) == 2.0);
}

#[test]
fn a_class_handles_events_with_one_instance_for_each() {
    let (node, app) = (node(), "jsev-class");
    let source = r#"
        let instances = 0;
        export default class {
            constructor(ctx, env) {
                this.ctx = ctx;
                this.env = env;
                this.number = ++instances;
            }
            async write(what) {
                const number = await this.env.SEEN.increment("count");
                await this.env.SEEN.put(`seen/${number}`, JSON.stringify({ ...what, number: this.number }));
            }
            async fetch() {
                const { keys } = await this.env.SEEN.list({ prefix: "seen/" });
                return Response.json(await Promise.all(keys.map(({ name }) => this.env.SEEN.get(name, "json"))));
            }
            async queue(batch) { this.ctx.waitUntil(this.write({ by: "queue", body: batch.messages[0].body })); }
            scheduled(event) { return this.write({ by: "scheduled", name: event.name }); }
        }
    "#;
    let settings = "kv = [\"seen\"]\ntopics = [\"orders\"]\nschedules = [{ cron = \"@yearly\", name = \"sweep\" }]";
    node.serve(&App::of_js(app, source, settings).end("[kv.seen]\n[topic.orders]"));
    run_now(node, app, "sweep");
    let first = seen_of(node, app, 1)[0].clone();
    assert_eq!((&first["by"], &first["name"]), (&json!("scheduled"), &json!("sweep")));
    assert_eq!(node.api("POST", &format!("/v1/topics/orders?app={app}"), "{\"n\":1}").status, 200);
    let second = seen_of(node, app, 2)[1].clone();
    assert_eq!((&second["by"], &second["body"]), (&json!("queue"), &json!({ "n": 1 })));
    assert!(second["number"].as_u64() > first["number"].as_u64(), "{first} {second}");
}

#[test]
fn without_a_handler_of_its_name_an_event_is_a_request_and_a_request_is_never_an_event() {
    let (node, app) = (node(), "jsev-fetch");
    let source = WORKER.replace("async scheduled(event", "async other(event");
    let settings = format!(
        "kv = [\"seen\"]\npublish = [\"orders\"]\n{SUBSCRIPTION}\nschedules = [{{ cron = \"@yearly\", name = \"sweep\" }}]"
    );
    node.serve(&App::of_js(app, &source, &settings).end("[kv.seen]\n[topic.orders]"));
    run_now(node, app, "sweep");
    let tick = json!({ "by": "fetch", "path": "/.minnow/schedules/sweep", "event": null, "type": "minnow.schedule" });
    assert_eq!(seen_of(node, app, 1)[0], tick);
    for event in ["queue", "scheduled"] {
        let answer =
            node.send(&Request::get(app, "/orders").header("x-minnow-event", event).header("ce-type", "forged"));
        assert_eq!(answer.ok(), "hello /orders");
    }
    let forged = json!({ "by": "fetch", "path": "/orders", "event": null, "type": "forged" });
    assert_eq!(seen(node, app)[1..], [forged.clone(), forged]);
}

#[test]
fn a_module_that_lacks_a_handler_is_refused_when_it_is_published() {
    let topics = "topics = [\"orders\"]";
    let schedules = "schedules = [{ cron = \"@daily\", name = \"sweep\" }]";
    for (source, settings, says) in [
        (
            "export default { queue() {} };",
            "routes = [\"/\"]",
            &["it has `routes`", "no `fetch`", "`export default { fetch("][..],
        ),
        (
            "export default { scheduled() {} };",
            topics,
            &["it has `topics`", "neither `queue` nor `fetch`", "async queue(batch, env, ctx)"],
        ),
        (
            "export default { queue() {} };",
            schedules,
            &["it has `schedules`", "neither `scheduled` nor `fetch`", "out of [functions.web]"],
        ),
        ("export default class { queue() {} }", "routes = [\"/\"]\n", &["no `fetch`"]),
        ("export function queue() {}", topics, &["it exports queue by name: write `export default { queue }`"]),
        ("export default {};", topics, &["the default export has no fetch, queue or scheduled"]),
    ] {
        let app = App::new("jsev-refused").js("web", "web.js", source, settings).end("[topic.orders]");
        let ran = node().cli().in_dir(app.path()).fails(["publish"]);
        ran.says(&["function `web`: "]);
        ran.says(says);
    }
    assert_eq!(node().api("GET", "/v1/apps/jsev-refused", "").status, 404);
}

#[test]
fn a_function_needs_no_fetch_to_follow_a_topic_and_says_so_when_it_is_invoked() {
    let (node, app) = (node(), "jsev-only");
    let source = "export default { queue(batch) { console.log(`got ${batch.messages[0].body}`); } };";
    node.serve(&App::new(app).js("web", "web.js", source, "topics = [\"orders\"]").end("[topic.orders]"));
    assert_eq!(node.api("POST", &format!("/v1/topics/orders?app={app}"), "7").status, 200);
    logged(node, app, "got 7");
    let answer = node.api("POST", &format!("/v1/apps/{app}/functions/web/invoke"), "{\"path\":\"/\"}");
    assert_eq!(answer.json()["status"], 500, "{}", answer.text());
    logged(node, app, "the function has no fetch, and so takes no requests");
}

/// The example of docs/events.md, as it stands there.
#[test]
fn the_example_of_handlers_in_the_documents_runs() {
    let text = std::fs::read_to_string(repository().join("docs/events.md")).unwrap();
    let (_, part) = text.split_once("## Handlers in JavaScript\n").expect("the part is there");
    let block = |part: &str, language: &str| {
        let (_, block) = part.split_once(&format!("```{language}\n")).expect("it has such a block");
        block.split_once("```").expect("which ends").0.to_owned()
    };
    let (node, app) = (node(), "jsev-docs");
    let manifest = format!("name = \"{app}\"\nversion = \"0.1.0\"\n{}", block(part, "toml"));
    node.serve(&App::with_manifest(manifest).file("src/shop.ts", block(part, "ts")));
    for (item, quantity) in [("fish", 2), ("salt", 0)] {
        let answer = node.post(app, "/orders", json!({ "item": item, "quantity": quantity }).to_string());
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    until("one is done and one waits", || {
        let follower = follower(node, app, "new-orders");
        node.get(app, "/orders/fish").status == 200 && follower["retrying"] == 1
    });
    run_now(node, app, "nightly");
    logged(node, app, "1 orders so far");
}
