//! Topics to functions: what is published is delivered until it is done, comes again when it failed, and is a dead letter at last.

use std::sync::OnceLock;

use minnow_tests::{App, Node, Request, eventually, until};
use serde_json::{Value, json};

/// What the function is to do with a message is in the message. It writes down every delivery before it does that.
pub(crate) const CONSUMER: &str = r#"
const told = (status, headers) => new Response("as told", { status, headers });

async function act({ act, times = 1 }, count, path) {
    if (path.endsWith("/hang") && count === 1) await new Promise(() => {});
    switch (act) {
        case "fail": return told(count <= times ? 500 : 200);
        case "later": return told(count <= times ? 503 : 200, { "retry-after": "0" });
        case "hang": return await new Promise(() => {});
        case "burn": for (;;) {}
        case "slow": await new Promise((done) => setTimeout(done, 300)); return told(200);
        default: return told(200);
    }
}

export default {
    async fetch(request, env) {
        const path = new URL(request.url).pathname;
        if (path === "/seen") {
            const { keys } = await env.SEEN.list({ prefix: "seen/" });
            const seen = [];
            for (const { name } of keys) seen.push(JSON.parse(await env.SEEN.get(name)));
            return Response.json(seen);
        }
        if (!path.startsWith("/.minnow/")) return new Response(`hello ${path}`);
        const headers = Object.fromEntries(request.headers);
        const body = await request.text();
        const isBatch = headers["content-type"] === "application/cloudevents-batch+json";
        const events = isBatch ? JSON.parse(body) : [{ sequence: headers["ce-sequence"], data: body === "" ? null : JSON.parse(body) }];
        const number = await env.SEEN.increment("count");
        await env.SEEN.put(`seen/${String(number).padStart(6, "0")}`, JSON.stringify({ path, headers, body }));
        const seen = await env.SEEN.increment(`count/${path}/${events[0].sequence ?? headers["ce-id"]}`);
        return await act(events[0].data ?? {}, seen, path);
    },
};
"#;

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

pub(crate) fn consumer(name: &str, settings: &str, end: &str) -> App {
    App::of_js(name, CONSUMER, &format!("kv = [\"seen\"]\n{settings}")).end(&format!("[kv.seen]\n{end}"))
}

/// Publishes a message with this data.
#[track_caller]
fn publish(node: &Node, app: &str, topic: &str, data: &Value) -> u64 {
    let answer = node.api("POST", &format!("/v1/topics/{topic}?app={app}"), data.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["sent"][0]["position"].as_u64().unwrap()
}

/// The deliveries so far, in their order.
#[track_caller]
pub(crate) fn seen(node: &Node, app: &str) -> Vec<Value> {
    let seen: Vec<Value> = serde_json::from_str(&node.get(app, "/seen").ok()).unwrap();
    seen
}

/// Waits until there were so many deliveries.
#[track_caller]
pub(crate) fn seen_of(node: &Node, app: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} deliveries to {app}"), || Some(seen(node, app)).filter(|seen| seen.len() >= count))
}

/// How it stands with a function that follows a topic.
#[track_caller]
pub(crate) fn follower(node: &Node, app: &str, topic: &str) -> Value {
    let answer = node.api("GET", &format!("/v1/apps/{app}/topics/{topic}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["consumers"][0].clone()
}

/// Waits until all messages are done or dead.
#[track_caller]
pub(crate) fn all_done(node: &Node, app: &str, topic: &str) {
    until(&format!("all of {app}/{topic} is done"), || follower(node, app, topic)["lag"] == 0);
}

#[test]
fn a_message_comes_to_the_function_as_a_cloudevent_and_is_done_with_its_answer() {
    let node = node();
    node.serve(&consumer("event-one", "topics = [\"orders\"]", "[topic.orders]"));
    let request = Request::get("node", "/v1/topics/orders?app=event-one")
        .method("POST")
        .header("authorization", &format!("Bearer {}", node.token()))
        .header("ce-specversion", "1.0")
        .header("ce-id", "o-1")
        .header("ce-source", "/shop")
        .header("ce-type", "order.created")
        .header("ce-subject", "caf%C3%A9")
        .header("ce-partitionkey", "ada")
        .header("content-type", "application/json")
        .body(r#"{"n":1}"#);
    assert_eq!(node.call(&request).json(), json!({ "sent": [{ "id": "o-1", "position": 1, "duplicate": false }] }));
    // The id is known, so it comes once.
    assert_eq!(node.call(&request).json(), json!({ "sent": [{ "id": "o-1", "position": 1, "duplicate": true }] }));
    let delivery = &seen_of(node, "event-one", 1)[0];
    assert_eq!(delivery["path"], "/.minnow/topics/orders");
    assert_eq!(delivery["body"], r#"{"n":1}"#);
    let headers = &delivery["headers"];
    for (name, expected) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "o-1"),
        ("ce-source", "/shop"),
        ("ce-type", "order.created"),
        ("ce-subject", "caf%C3%A9"),
        ("ce-partitionkey", "ada"),
        ("ce-sequence", "00000000000000000001"),
        ("ce-deliverycount", "1"),
        ("content-type", "application/json"),
        ("host", "event-one.localhost"),
    ] {
        assert_eq!(headers[name], expected, "{name}: {headers}");
    }
    all_done(node, "event-one", "orders");
    assert_eq!(seen(node, "event-one").len(), 1);
    assert_eq!(node.metric("minnow_deliveries_total", &["event-one", "done"]), 1.0);
}

#[test]
fn webassembly_is_called_the_same_way() {
    let node = node();
    let settings = "topics = [{ name = \"orders\", batch = 10 }]";
    node.serve(&App::of_guest("event-wasm", "hello-p2", settings).end("[topic.orders]"));
    for n in 0..20 {
        publish(node, "event-wasm", "orders", &json!({ "n": n }));
    }
    until("all is done", || node.metric("minnow_deliveries_total", &["event-wasm", "done"]) == 20.0);
}

#[test]
fn what_failed_comes_again_and_what_was_put_off_costs_no_try() {
    let node = node();
    let settings = "topics = [{ name = \"orders\", retries = 2, backoff = \"100ms\" }]";
    node.serve(&consumer("event-again", settings, "[topic.orders]"));
    publish(node, "event-again", "orders", &json!({ "act": "fail", "times": 2 }));
    let counts: Vec<Value> =
        seen_of(node, "event-again", 3).iter().map(|seen| seen["headers"]["ce-deliverycount"].clone()).collect();
    assert_eq!(counts, ["1", "2", "3"]);
    all_done(node, "event-again", "orders");
    // More often than it may fail.
    publish(node, "event-again", "orders", &json!({ "act": "later", "times": 5 }));
    let later = seen_of(node, "event-again", 9);
    assert!(later[3..].iter().all(|seen| seen["headers"]["ce-deliverycount"] == "1"), "{later:?}");
    all_done(node, "event-again", "orders");
    assert_eq!(follower(node, "event-again", "orders")["dead"], 0);
}

#[test]
fn what_never_works_is_a_dead_letter_with_its_reason_and_can_be_tried_again() {
    let node = node();
    let settings = "topics = [{ name = \"orders\", retries = 1, backoff = \"100ms\" }]";
    let app = consumer("event-dead", settings, "[topic.orders]");
    node.serve(&app);
    publish(node, "event-dead", "orders", &json!({ "act": "fail", "times": 3 }));
    until("it is dead", || follower(node, "event-dead", "orders")["dead"] == 1);
    let list = node.api("GET", "/v1/apps/event-dead/topics/orders/dead", "").json();
    let letter = &list["letters"][0];
    assert_eq!(letter["tries"], 2, "{list}");
    assert_eq!((&letter["function"], &letter["status"]), (&json!("web"), &json!(500)));
    assert_eq!(letter["reason"], "the function answered 500");
    let number = letter["number"].as_u64().unwrap();
    let shown = node.api("GET", &format!("/v1/apps/event-dead/topics/orders/dead/{number}"), "");
    assert_eq!(shown.status, 200);
    assert!(shown.text().contains("as told") || shown.text().contains("YXMgdG9sZA"), "{}", shown.text());
    let logged =
        node.logs("event-dead").iter().any(|line| line["message"].as_str().unwrap().contains("is a dead letter"));
    assert!(logged, "{:?}", node.logs("event-dead"));

    // Once it fails again, the second time it works.
    let retry = || node.api("POST", &format!("/v1/apps/event-dead/topics/orders/dead/{number}/retry"), "");
    let answer = retry();
    assert!(answer.status < 300, "{}", answer.text());
    until("all is done", || follower(node, "event-dead", "orders")["dead"] == 0);
    assert_eq!(seen(node, "event-dead").len(), 4);
}

#[test]
fn a_dead_letter_goes_to_the_topic_that_is_named_for_it_too() {
    let node = node();
    let app = App::new("event-letters")
        .js("web", "web.js", CONSUMER, "routes = [\"/{*rest}\"]\nkv = [\"seen\"]\ntopics = [\"orders-dead\"]")
        .js(
            "work",
            "work.js",
            "export default { fetch: () => new Response('no', { status: 418 }) };",
            "topics = [{ name = \"orders\", retries = 0, dead_letter = \"orders-dead\" }]",
        )
        .end("[kv.seen]\n[topic.orders]\n[topic.orders-dead]");
    node.serve(&app);
    publish(node, "event-letters", "orders", &json!({ "n": 7 }));
    let seen = seen_of(node, "event-letters", 1);
    assert_eq!(seen[0]["body"], r#"{"n":7}"#);
    let headers = &seen[0]["headers"];
    for (name, expected) in [
        ("ce-deadlettertopic", "orders"),
        ("ce-deadletterfunction", "work"),
        ("ce-deadlettertries", "1"),
        ("ce-deadletterstatus", "418"),
    ] {
        assert_eq!(headers[name], expected, "{name}: {headers}");
    }
}

#[test]
fn of_a_batch_with_poison_only_the_poison_is_left() {
    let node = node();
    let settings = "topics = [{ name = \"orders\", batch = 5, wait = \"5s\", retries = 1, backoff = \"100ms\" }]";
    // The first event of a batch says what becomes of it.
    node.serve(&consumer("event-poison", settings, "[topic.orders]"));
    for n in 0..5 {
        let data = if n == 0 { json!({ "act": "fail", "times": 9 }) } else { json!({ "n": n }) };
        publish(node, "event-poison", "orders", &data);
    }
    until("the poison is dead", || follower(node, "event-poison", "orders")["dead"] == 1);
    all_done(node, "event-poison", "orders");
    let seen = seen(node, "event-poison");
    let batch = |seen: &Value| -> Vec<Value> { serde_json::from_str(seen["body"].as_str().unwrap()).unwrap() };
    // All together, then each alone.
    assert_eq!(batch(&seen[0]).len(), 5, "{seen:?}");
    assert_eq!(seen.len(), 6, "{seen:?}");
    assert!(seen[1..].iter().all(|seen| batch(seen).len() == 1), "{seen:?}");
}

#[test]
fn requests_are_answered_beside_messages_that_hang() {
    let node = node();
    let settings =
        "topics = [{ name = \"orders\", retries = 0 }]\n[functions.web.limits]\nconcurrency = 4\ntimeout = \"2s\"";
    node.serve(&consumer("event-hang", settings, "[topic.orders]"));
    for _ in 0..8 {
        publish(node, "event-hang", "orders", &json!({ "act": "hang" }));
    }
    // A place is left for requests, whatever hangs.
    until("messages hang", || node.count("event-hang", "running") >= 3);
    for _ in 0..5 {
        assert_eq!(node.get("event-hang", "/a").ok(), "hello /a");
        assert!(node.count("event-hang", "running") <= 3);
    }
    until("all are dead", || follower(node, "event-hang", "orders")["dead"] == 8);
    let list = node.api("GET", "/v1/apps/event-hang/topics/orders/dead", "").json();
    assert_eq!(list["letters"][0]["reason"], "timeout: The function took too long", "{list}");
}

#[test]
fn what_exceeds_a_limit_fails_and_is_told_by_its_name() {
    let node = node();
    let settings = "topics = [{ name = \"orders\", retries = 0 }]\n[functions.web.limits]\ncpu = \"200ms\"\nrequest_body = \"1KiB\"";
    node.serve(&consumer("event-limits", settings, "[topic.orders]"));
    publish(node, "event-limits", "orders", &json!({ "act": "burn" }));
    until("it is dead", || follower(node, "event-limits", "orders")["dead"] == 1);
    publish(node, "event-limits", "orders", &json!({ "large": "x".repeat(2000) }));
    until("it is dead", || follower(node, "event-limits", "orders")["dead"] == 2);
    let list = node.api("GET", "/v1/apps/event-limits/topics/orders/dead", "").json();
    let reasons: Vec<&str> =
        list["letters"].as_array().unwrap().iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        ["cpu_limit: The function ran out of CPU time", "it is larger than the function's `limits.request_body`"]
    );
}

#[test]
fn the_next_version_goes_on_where_the_last_one_stood() {
    let node = node();
    let mut app = consumer("event-next", "topics = [\"orders\"]", "[topic.orders]");
    node.serve(&app);
    publish(node, "event-next", "orders", &json!({ "n": 1 }));
    seen_of(node, "event-next", 1);
    all_done(node, "event-next", "orders");
    app.change("version = \"0.1.0\"", "version = \"0.2.0\"");
    app.change("topics = [\"orders\"]", "topics = [{ name = \"orders\", batch = 2 }]");
    node.serve(&app);
    publish(node, "event-next", "orders", &json!({ "n": 2 }));
    let seen = seen_of(node, "event-next", 2);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[1]["body"].as_str().unwrap().starts_with('['), "{seen:?}");
    // Nobody follows the topic now: what is published lies there.
    app.change("version = \"0.2.0\"", "version = \"0.3.0\"");
    app.change("topics = [{ name = \"orders\", batch = 2 }]", "");
    node.serve(&app);
    publish(node, "event-next", "orders", &json!({ "n": 3 }));
    assert!(!follower(node, "event-next", "orders")["left_ms"].is_null());
    // And who comes back gets it.
    node.cli().ok(["rollback", "--app", "event-next"]);
    assert_eq!(seen_of(node, "event-next", 3).len(), 3);
}

#[test]
fn nobody_from_outside_can_act_as_the_node() {
    let node = node();
    node.serve(&consumer("event-wall", "topics = [\"orders\"]", "[topic.orders]"));
    for path in [
        "/.minnow/topics/orders",
        "/%2eminnow/topics/orders",
        "/a/../.minnow/topics/orders",
        "//.minnow/topics/orders",
        "/.minnow%2Ftopics/orders",
        "/\\.minnow/topics/orders",
        "/.minnow//../topics/orders",
        "/.minnow/a%2f..%2f../topics/orders",
        "/.minnow/topics/orders/../../../x",
    ] {
        node.post("event-wall", path, "{}").problem(404, "no_route");
    }
    assert_eq!(seen(node, "event-wall"), Vec::<Value>::new());
    assert_eq!(node.get("event-wall", "/x/.minnow/y").ok(), "hello /x/.minnow/y");
}

#[test]
fn a_node_that_stops_lets_deliveries_end_and_delivers_what_is_left_when_it_runs_again() {
    let node = Node::start();
    let settings = "topics = [\"orders\"]\n[functions.web.limits]\nconcurrency = 2";
    node.serve(&consumer("event-drain", settings, "[topic.orders]"));
    for _ in 0..4 {
        publish(&node, "event-drain", "orders", &json!({ "act": "slow" }));
    }
    until("one is delivered", || node.count("event-drain", "running") > 0);
    node.terminate();
    node.wait();
    let builder = node.rebuild();
    drop(node);
    let node = builder.start();
    all_done(&node, "event-drain", "orders");
    // Each once: what had begun was let through.
    assert_eq!(seen(&node, "event-drain").len(), 4);
}

/// Publishes until the topic is full, or so many times; answers how many were taken, and what the last one was told.
#[track_caller]
fn publish_until_full(node: &Node, app: &str, most: usize) -> (usize, Option<String>) {
    for taken in 0..most {
        let answer = node.api("POST", &format!("/v1/topics/orders?app={app}"), r#"{"act":"slow"}"#);
        if answer.status != 200 {
            answer.problem(507, "storage_full");
            return (taken, answer.json()["detail"].as_str().map(str::to_owned));
        }
    }
    (most, None)
}

#[test]
fn who_publishes_faster_than_the_function_takes_is_refused_and_what_was_taken_is_done() {
    let node = node();
    let settings = "topics = [\"orders\"]\n[functions.web.limits]\nconcurrency = 2";
    node.serve(&consumer("event-full", settings, "[topic.orders]\nmax_messages = 5"));
    let (taken, told) = publish_until_full(node, "event-full", 100);
    let told = told.expect("a hundred messages found room where there is some for five");
    assert!(told.contains("max_messages") && told.contains("drop-oldest"), "{told}");
    assert!(taken >= 5, "{taken}");
    // Each message that was taken is delivered, and then there is room again.
    all_done(node, "event-full", "orders");
    assert_eq!(seen(node, "event-full").len(), taken);
    publish(node, "event-full", "orders", &json!({}));
    all_done(node, "event-full", "orders");
    assert_eq!(seen(node, "event-full").len(), taken + 1);
    assert!(node.metric("minnow_topic_published_total", &["event-full", "full"]) >= 1.0);
}

#[test]
fn a_topic_that_drops_the_oldest_takes_all_and_counts_what_went() {
    let node = node();
    let settings = "topics = [\"orders\"]\n[functions.web.limits]\nconcurrency = 2";
    let topic = "[topic.orders]\nmax_messages = 5\nwhen_full = \"drop-oldest\"";
    node.serve(&consumer("event-drop", settings, topic));
    assert_eq!(publish_until_full(node, "event-drop", 40), (40, None));
    all_done(node, "event-drop", "orders");
    let seen = seen(node, "event-drop");
    let expired = follower(node, "event-drop", "orders")["expired"].as_u64().unwrap();
    assert!(expired > 0, "{seen:?}");
    // What was under way when it went was delivered all the same, and counts as gone.
    assert!(seen.len() as u64 + expired >= 40, "{} came and {expired} went", seen.len());
    let last = "00000000000000000040";
    assert!(seen.iter().any(|seen| seen["headers"]["ce-sequence"] == last), "the newest has gone: {seen:?}");
}
