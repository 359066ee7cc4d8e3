//! Topics and schedules as people and functions use them: the command line, the API, `env` in JavaScript and the SDK; and what becomes
//! of topics with their app.

use std::sync::OnceLock;

use minnow_tests::{App, Node, Request, eventually, until};
use serde_json::{Value, json};

use super::{
    data_calls::{ask, error},
    events::{all_done, consumer, follower, seen_of},
};

/// Publishes as it is told: `{ calls: [[method, …arguments]] }`, answering each result or error.
const PUBLISHER: &str = r#"
const bytes = (value) => value && value.bytes ? new Uint8Array(value.bytes) : value;
export default {
    async fetch(request, env) {
        const results = [];
        for (const [topic, method, body, options] of await request.json()) {
            try {
                results.push(await env[topic][method](Array.isArray(body) ? body : bytes(body), options));
            } catch (error) {
                results.push({ error: error.message, name: error.name, code: error.code });
            }
        }
        return Response.json(results);
    },
};
"#;

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

/// The messages of a topic, as the API has them.
#[track_caller]
fn messages(node: &Node, app: &str, topic: &str) -> Vec<Value> {
    let answer = node.api("GET", &format!("/v1/apps/{app}/topics/{topic}/messages"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_function_in_javascript_publishes_what_it_is_granted() {
    let node = node();
    let app = App::new("send-js")
        .js("api", "api.js", PUBLISHER, "routes = [\"/{*rest}\"]\npublish = [\"orders\", \"small\"]")
        .js("work", "work.js", "export default { fetch: () => new Response() };", "topics = [\"orders\"]")
        .end("[topic.orders]\n[topic.small]\nmax_messages = 1\n[topic.other]");
    node.serve(&app);
    let send = |calls: Value| -> Vec<Value> {
        serde_json::from_str(&node.post("send-js", "/", calls.to_string()).ok()).unwrap()
    };
    let options = json!({
        "id": "o-1", "type": "order.created", "subject": "caf\u{e9}", "key": "ada",
        "attributes": { "region": "eu", "count": 2, "hot": true, "none": null },
    });
    let sent = send(json!([
        ["ORDERS", "send", { "item": "fish" }, options],
        ["ORDERS", "send", { "item": "fish" }, { "id": "o-1" }],
        ["ORDERS", "send", "text", { "contentType": "text" }],
        ["ORDERS", "send", { "bytes": [0, 255] }],
        ["ORDERS", "send", "a;b", { "contentType": "text/csv" }],
        ["ORDERS", "send", "later", { "delaySeconds": 3600 }],
        ["ORDERS", "sendBatch", [{ "body": 1 }, { "body": 2, "key": "b", "delay": 0 }], { "delay": 3_600_000 }],
        ["ORDERS", "sendBatch", []],
    ]));
    assert_eq!(sent[0], json!({ "id": "o-1", "position": 1, "duplicate": false }));
    assert_eq!(sent[1], json!({ "id": "o-1", "position": 1, "duplicate": true }));
    let positions: Vec<&Value> = sent[2..6].iter().map(|sent| &sent["position"]).collect();
    assert_eq!(positions, [&json!(2), &json!(3), &json!(4), &json!(null)], "{sent:?}");
    assert_eq!((&sent[6][0]["position"], &sent[6][1]["position"]), (&json!(null), &json!(5)), "{sent:?}");
    assert_eq!(sent[7], json!([]));

    let found = messages(node, "send-js", "orders");
    let expected = json!({
        "specversion": "1.0", "id": "o-1", "source": "/apps/send-js/topics/orders", "type": "order.created",
        "subject": "caf\u{e9}", "time": found[0]["time"], "count": "2", "hot": "true", "partitionkey": "ada", "region": "eu",
        "sequence": "00000000000000000001", "datacontenttype": "application/json", "data": { "item": "fish" },
    });
    assert_eq!(found[0], expected);
    assert_eq!((&found[1]["data"], &found[2]["data_base64"]), (&json!("text"), &json!("AP8=")));
    assert_eq!((&found[3]["datacontenttype"], &found[3]["data"]), (&json!("text/csv"), &json!("a;b")));
    assert_eq!((&found[4]["data"], &found[4]["partitionkey"]), (&json!(2), &json!("b")));
    all_done(node, "send-js", "orders");

    let wrong = send(json!([
        ["ORDERS", "send", { "bytes": [1] }, { "contentType": "text" }],
        ["ORDERS", "send", 1, { "contentType": "bytes" }],
        ["ORDERS", "send", 1, { "contentType": "csv" }],
        ["ORDERS", "send", 1, { "dleay": 1 }],
        ["ORDERS", "send", 1, { "delay": -1 }],
        ["ORDERS", "send", 1, { "delay": 1, "delaySeconds": 1 }],
        ["ORDERS", "send", 1, { "attributes": { "a": {} } }],
        ["ORDERS", "sendBatch", 1],
        ["ORDERS", "sendBatch", [1]],
        ["ORDERS", "send", 1, { "attributes": { "a_b": "c" } }],
        ["ORDERS", "send", 1, { "delaySeconds": 700_000 }],
        ["ORDERS", "send", "{", { "contentType": "application/json" }],
        ["ORDERS", "send", "x".repeat(800_000)],
        ["ORDERS", "sendBatch", vec![json!({ "body": 1 }); 101]],
        ["SMALL", "sendBatch", [{ "body": 1 }, { "body": 2 }]],
        ["OTHER", "send", 1],
    ]));
    for (answer, (code, part)) in wrong.iter().zip([
        ("", "a message of the type text is a string"),
        ("", "a message of the type bytes is an ArrayBuffer or a view of one, not 1"),
        ("", "contentType is json, text, bytes or a media type such as text/csv"),
        ("", "send: there is no option `dleay` here; it has contentType, delay"),
        ("", "delay is a whole number of milliseconds, not -1"),
        ("", "say the same; give one of them"),
        ("", "attributes.a is a string, a whole number or a boolean"),
        ("", "sendBatch takes { body } one after the other, not 1"),
        ("", "and 1 is among them"),
        ("bad_argument", "`a_b` is not the name of an attribute"),
        ("bad_argument", "a delay of 700000 s, the most is 604800 s"),
        ("bad_argument", "the data is said to be `application/json` and is no JSON"),
        ("too_large", "the data has 800002 bytes, the most is 786432"),
        ("too_large", "sendBatch takes at most 100 messages"),
        ("full", "the topic is full: it holds its `max_messages` of 1"),
        ("", "undefined"),
    ]) {
        let told = answer["error"].as_str().unwrap_or_else(|| panic!("{part}: {answer}"));
        assert!(told.contains(part), "expected {part}\ngot {answer}");
        assert_eq!(answer["code"].as_str().unwrap_or_default(), code, "{answer}");
    }
    assert_eq!(messages(node, "send-js", "orders").len(), 5);
}

#[test]
fn a_component_publishes_what_it_is_granted() {
    let node = node();
    let app = App::of_guest("send-wasm", "data-p2", "publish = [\"orders\", \"small\"]")
        .end("[topic.orders]\n[topic.small]\nmax_messages = 1");
    node.serve(&app);
    let send = |query: &str, body: &str| ask(node, "send-wasm", &format!("/topic?{query}"), body);
    let sent = send(
        "key=ada&id=o-1&type=order.created&subject=s&attribute=region=eu&content-type=application/json",
        "{\"n\":1}",
    );
    assert_eq!(sent, json!({ "sent": [{ "id": "o-1", "position": 1, "duplicate": false }] }));
    let sent = send("n=3", "text");
    assert_eq!(sent["sent"].as_array().unwrap().len(), 3, "{sent}");
    assert_eq!(send("delay=3600000", "later")["sent"][0]["position"], json!(null));
    let found = messages(node, "send-wasm", "orders");
    assert_eq!(found.len(), 4);
    for (name, expected) in [("type", "order.created"), ("subject", "s"), ("partitionkey", "ada"), ("region", "eu")] {
        assert_eq!(found[0][name], expected, "{}", found[0]);
    }
    assert_eq!((&found[0]["data"], &found[1]["data"]), (&json!({ "n": 1 }), &json!("text")));
    for (query, body, part) in [
        ("topic=other", "x", "the function has no topic `other`; add `publish = [\"other\"]` to `[functions.web]`"),
        ("content-type=application/json", "{", "is no JSON"),
        ("attribute=a_b=c", "x", "`a_b` is not the name of an attribute"),
        ("n=101", "x", "there are 101 events, the most at once is 100"),
        ("delay=604800001", "x", "the most is 604800 s"),
        ("topic=small&n=2", "x", "the topic is full"),
    ] {
        let told = send(query, body);
        assert!(error(&told).contains(part), "expected {part}\ngot {told}");
    }
}

#[test]
fn topics_over_the_api() {
    // Of its own: that an app needs no name is true where one alone has the topic.
    let node = &Node::start();
    node.serve(&consumer("topic-api", "topics = [\"orders\"]", "[topic.orders]\n[topic.twice]"));
    node.serve(&consumer("topic-api-2", "", "[topic.twice]"));
    let publish = |path: &str, headers: &[(&str, &str)], body: &str| {
        let mut request =
            Request::get("127.0.0.1", path).method("POST").header("authorization", &format!("Bearer {}", node.token()));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        node.call(&request.body(body))
    };
    let event = r#"{"specversion":"1.0","id":"a","source":"/s","type":"t","data":{"n": 1}}"#;
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("content-type", "text/plain"),
    ];
    for (headers, body, count) in [
        (&[("content-type", "application/cloudevents+json")][..], event.to_owned(), 1),
        (
            &[("content-type", "application/cloudevents-batch+json")],
            format!("[{},{}]", event.replace("\"a\"", "\"c\""), event.replace("\"a\"", "\"d\"")),
            2,
        ),
        (&binary, "\"binary\"".to_owned(), 1),
        (&[], "\"plain\"".to_owned(), 1),
    ] {
        let answer = publish("/v1/topics/orders", headers, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["sent"].as_array().unwrap().len(), count);
    }
    all_done(node, "topic-api", "orders");
    assert_eq!(seen_of(node, "topic-api", 5).len(), 5);

    for (path, headers, body, status, code, part) in [
        ("/v1/topics/orders", &[("ce-id", "1")][..], "", 400, "invalid_event", "the event has no `specversion`"),
        ("/v1/topics/orders", &[("content-type", "application/json")], "{", 400, "invalid_event", "is no JSON"),
        (
            "/v1/topics/twice",
            &[],
            "x",
            422,
            "invalid",
            "several apps have a topic `twice`: topic-api, topic-api-2; say which with `app`",
        ),
        ("/v1/topics/none", &[], "x", 404, "not_found", "no live app has a topic `none`"),
        (
            "/v1/topics/none?app=topic-api",
            &[],
            "x",
            404,
            "not_found",
            "`topic-api` has no topic `none`; it has orders, twice",
        ),
        ("/v1/topics/orders?app=nobody", &[], "x", 404, "not_found", "nobody"),
        ("/v1/topics/orders?delay_ms=604800001", &[], "x", 422, "invalid", "the most is 604800 s"),
        ("/v1/topics/orders?dleay_ms=1", &[], "x", 400, "bad_request", "dleay_ms"),
    ] {
        let answer = publish(path, headers, body);
        let problem = answer.json();
        assert_eq!((answer.status, problem["code"].as_str().unwrap()), (status, code), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "expected {part}\ngot {problem}");
    }
    let large = publish("/v1/topics/orders", &[], &"x".repeat(786_433));
    assert_eq!((large.status, large.json()["code"].as_str()), (400, Some("invalid_event")));
    let larger = publish("/v1/topics/orders", &[], &"x".repeat(8 << 20));
    assert_eq!(larger.status, 413, "{}", larger.text());

    for (method, path, body, status, part) in [
        ("GET", "/v1/apps/topic-api/topics/none", "", 404, "has no topic `none`"),
        ("GET", "/v1/apps/nobody/topics", "", 404, "nobody"),
        ("GET", "/v1/apps/topic-api/topics/orders/messages?limit=0", "", 422, "1 to 10000"),
        ("GET", "/v1/apps/topic-api/topics/orders/dead/7", "", 404, "there is no dead letter 7"),
        ("POST", "/v1/apps/topic-api/topics/orders/dead/7/retry", "", 404, "there is no dead letter 7"),
        (
            "POST",
            "/v1/apps/topic-api/topics/orders/replay",
            "{\"function\":\"web\"}",
            422,
            "either `position` or `time_ms`",
        ),
        (
            "POST",
            "/v1/apps/topic-api/topics/orders/replay",
            "{\"function\":\"other\",\"position\":1}",
            404,
            "does not follow the topic",
        ),
        ("POST", "/v1/apps/topic-api/schedules/none/run", "", 404, "no schedule `none`"),
    ] {
        let answer = node.api(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains(part), "{method} {path}: {}", answer.text());
    }
    // From the second message on.
    assert_eq!(
        node.api("GET", "/v1/apps/topic-api/topics/orders/messages?after=1&limit=2", "").text().lines().count(),
        2
    );
    let answer = node.api("POST", "/v1/apps/topic-api/topics/orders/replay", "{\"function\":\"web\",\"position\":4}");
    assert_eq!(answer.status, 204, "{}", answer.text());
    let seen = seen_of(node, "topic-api", 7);
    let again: Vec<&str> =
        seen[5..].iter().map(|seen| seen["headers"]["ce-sequence"].as_str().unwrap().trim_start_matches('0')).collect();
    assert_eq!(again, ["4", "5"]);
}

#[test]
fn topics_are_used_by_the_command_line() {
    let node = node();
    let cli = node.cli();
    let settings =
        "topics = [\"orders\"]\nschedules = [{ cron = \"0 3 * * *\", timezone = \"Europe/Oslo\", name = \"nightly\" }]";
    let app = consumer("topic-cli", settings, "[topic.orders]");
    node.serve(&app);
    let told = cli.ok([
        "topic",
        "publish",
        "topic-cli/orders",
        "{\"n\":1}",
        "--id",
        "1",
        "--type",
        "order.created",
        "--key",
        "ada",
    ]);
    assert!(told.contains("published 1") && told.contains("position 1"), "{told}");
    let told = cli.ok([
        "topic",
        "publish",
        "orders",
        "--app",
        "topic-cli",
        "{\"n\":1}",
        "--id",
        "1",
        "--attribute",
        "region=eu",
    ]);
    assert!(told.contains("duplicate 1"), "{told}");
    let sent = cli.json(["topic", "publish", "topic-cli/orders", "later", "--delay", "1h", "--json"]);
    assert_eq!((&sent["sent"][0]["position"], &sent["sent"][0]["duplicate"]), (&Value::Null, &json!(false)), "{sent}");
    let input = cli.run_with(["topic", "publish", "topic-cli/orders"], b"null");
    assert_eq!(input.code(), 0, "{}", input.stderr);
    all_done(node, "topic-cli", "orders");

    let list = cli.ok(["topic", "list", "topic-cli"]);
    assert!(list.lines().nth(1).unwrap().starts_with("orders") && list.contains("web"), "{list}");
    let info = cli.ok(["topic", "info", "topic-cli/orders"]);
    for part in [
        "3 messages",
        "positions 1 to 2",
        "1 held back, the next until",
        "kept for 7days, up to 1.0 GiB; when full: refuse",
    ] {
        assert!(info.contains(part), "{part}: {info}");
    }
    let tail = cli.ok(["topic", "tail", "topic-cli/orders"]);
    let lines: Vec<&str> = tail.lines().collect();
    assert_eq!(lines.len(), 2, "{tail}");
    assert!(lines[0].starts_with("1 ") && lines[0].ends_with(" 1 order.created ada {\"n\":1}"), "{tail}");
    let last = cli.ok(["topic", "tail", "topic-cli/orders", "-n", "1", "--json"]);
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["sequence"], &last["data"]), (&json!("00000000000000000002"), &Value::Null), "{last}");
    cli.ok(["topic", "replay", "topic-cli/orders", "--function", "web", "--since", "1h"]);
    seen_of(node, "topic-cli", 4);

    let schedules = cli.ok(["schedule", "list", "topic-cli"]);
    assert!(schedules.contains("nightly") && schedules.contains("0 3 * * * Europe/Oslo"), "{schedules}");
    let status = cli.ok(["status", "topic-cli"]);
    assert!(status.contains("nightly"), "{status}");
    let run = cli.json(["schedule", "run", "nightly", "--app", "topic-cli", "--json"]);
    assert_eq!(run["id"].as_str().unwrap().len(), 32, "{run}");
    let seen = seen_of(node, "topic-cli", 5);
    assert!(seen.iter().any(|seen| seen["path"] == "/.minnow/schedules/nightly"), "{seen:?}");

    for (arguments, part) in [
        (&["topic", "info", "topic-cli/none"][..], "app `topic-cli` has no topic `none`; it has orders"),
        (&["topic", "publish", "topic-cli/orders", "{", "--content-type", "application/json"], "is no JSON"),
        (
            &["topic", "replay", "topic-cli/orders", "--function", "none", "--position", "1"],
            "does not follow the topic",
        ),
        (&["topic", "dead", "show", "topic-cli/orders", "7"], "there is no dead letter 7"),
        (&["schedule", "run", "none", "--app", "topic-cli"], "no schedule `none`"),
    ] {
        let failed = cli.fails(arguments);
        assert!(failed.stderr.contains(part), "{arguments:?}: {}", failed.stderr);
    }
    let twice = cli.run(["topic", "info", "topic-cli/orders", "--app", "other"]);
    assert!(twice.code() == 2 && twice.stderr.contains("`topic-cli/orders` is not of `other`"), "{}", twice.stderr);
}

#[test]
fn a_topic_is_followed_as_messages_come() {
    let node = node();
    node.serve(&consumer("topic-tail", "", "[topic.orders]"));
    let cli = node.cli();
    let mut command = cli.command(["topic", "tail", "topic-tail/orders", "-f", "--json"]);
    command.stdout(std::process::Stdio::piped());
    let mut tail = cli.start(command);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tail.stdout.take().unwrap()));
    for n in 0..3 {
        cli.ok(["topic", "publish", "topic-tail/orders", &n.to_string()]);
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["data"], n, "{line}");
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn dead_letters_are_seen_to_by_the_command_line() {
    let node = node();
    let cli = node.cli();
    let settings = "topics = [{ name = \"orders\", retries = 0 }]";
    node.serve(&consumer("dead-cli", settings, "[topic.orders]"));
    for _ in 0..3 {
        cli.ok(["topic", "publish", "dead-cli/orders", "{\"act\":\"fail\",\"times\":1}"]);
    }
    until("all are dead", || follower(node, "dead-cli", "orders")["dead"] == 3);
    let list = cli.json(["topic", "dead", "list", "orders", "--app", "dead-cli", "--json"]);
    let letters = list.as_array().unwrap();
    assert_eq!(letters.len(), 3, "{list}");
    let table = cli.ok(["topic", "dead", "list", "dead-cli/orders", "--function", "web"]);
    assert!(table.contains("the function answered 500"), "{table}");
    assert!(cli.ok(["topic", "dead", "list", "dead-cli/orders", "--function", "other"]).contains("no dead letters"));
    let number = |at: usize| letters[at]["number"].to_string();
    let shown = cli.ok(["topic", "dead", "show", "dead-cli/orders", &number(0)]);
    for part in ["reason: the function answered 500", "tries: 1", "last answer: 500", "as told", "\"act\":\"fail\""] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let told = cli.ok(["topic", "dead", "drop", "dead-cli/orders", &number(0)]);
    assert!(told.contains("1 dead letters are removed"), "{told}");
    // The second time they work.
    assert_eq!(cli.json(["topic", "dead", "retry", "dead-cli/orders", &number(1), "--json"]), json!({ "letters": 1 }));
    until("it works", || follower(node, "dead-cli", "orders")["dead"] == 1);
    cli.ok(["topic", "dead", "retry", "dead-cli/orders", "--function", "web"]);
    until("all work", || follower(node, "dead-cli", "orders")["dead"] == 0);
    assert_eq!(
        cli.json(["topic", "dead", "drop", "dead-cli/orders", "--function", "web", "--json"]),
        json!({ "letters": 0 })
    );
}

#[test]
fn topics_count_go_and_come_back_with_their_app() {
    let node = Node::start();
    let cli = node.cli();
    let settings =
        "topics = [{ name = \"orders\", retries = 0 }]\nschedules = [{ cron = \"@hourly\", name = \"sync\" }]";
    node.serve(&consumer("topic-life", settings, "[topic.orders]"));
    cli.ok(["topic", "publish", "topic-life/orders", "{\"act\":\"fail\",\"times\":9}"]);
    cli.ok(["topic", "publish", "topic-life/orders", "{\"n\":2}"]);
    until("one is dead", || follower(&node, "topic-life", "orders")["dead"] == 1);
    all_done(&node, "topic-life", "orders");
    let usage = cli.json(["usage", "--app", "topic-life", "--json"]);
    let topic = usage["stores"].as_array().unwrap().iter().find(|store| store["kind"] == "topic").unwrap();
    assert!(topic["bytes"].as_u64().unwrap() > 0 && topic["declared"] == true, "{usage}");

    // As it was, over a backup: messages, how far the function is, and dead letters.
    let file = cli.home().join("topic-life.tar.zst");
    cli.ok(["backup", "topic-life", file.to_str().unwrap()]);
    cli.ok(["topic", "publish", "topic-life/orders", "{\"n\":3}"]);
    all_done(&node, "topic-life", "orders");
    let refused = cli.run(["delete", "topic-life", "--yes"]);
    assert!(refused.code() == 2 && refused.stderr.contains("topic orders"), "{}", refused.stderr);
    cli.ok(["delete", "topic-life", "--yes", "--data", "keep"]);
    assert_eq!(node.api("GET", "/v1/apps/topic-life/topics", "").status, 404);
    assert!(!node.api("GET", "/metrics", "").text().contains("topic-life"));
    eventually("the name is free", || {
        let restored = cli.run(["restore", file.to_str().unwrap()]);
        (restored.code() == 0).then_some(())
    });
    let of = follower(&node, "topic-life", "orders");
    assert_eq!((&of["lag"], &of["dead"]), (&json!(0), &json!(1)), "{of}");
    assert_eq!(messages(&node, "topic-life", "orders").len(), 2);
    // And it goes on.
    let told = cli.ok(["topic", "publish", "topic-life/orders", "{\"n\":3}"]);
    assert!(told.contains("position 3"), "{told}");
    all_done(&node, "topic-life", "orders");
    assert!(cli.ok(["schedule", "list", "topic-life"]).contains("sync"));

    cli.ok(["delete", "topic-life", "--yes", "--data", "purge"]);
    until("nothing is left", || !node.data_dir().join("topic/default/topic-life").exists());
    node.serve(&consumer("topic-life", settings, "[topic.orders]"));
    assert_eq!(messages(&node, "topic-life", "orders"), Vec::<Value>::new());
}

#[test]
fn a_version_follows_its_topics_from_its_deploy_on() {
    let node = node();
    let mut app = consumer("topic-deploy", "", "[topic.orders]");
    node.serve(&app);
    let publish = |n: u32| node.cli().ok(["topic", "publish", "topic-deploy/orders", &format!("{{\"n\":{n}}}")]);
    publish(1);
    // With a new version that follows: what comes from then on, and with `from = "start"` what was there.
    app.change("version = \"0.1.0\"", "version = \"0.2.0\"");
    app.change("kv = [\"seen\"]", "kv = [\"seen\"]\ntopics = [\"orders\"]");
    node.serve(&app);
    publish(2);
    let seen = seen_of(node, "topic-deploy", 1);
    assert_eq!(seen[0]["body"], "{\"n\":2}", "{seen:?}");
    app.change("version = \"0.2.0\"", "version = \"0.3.0\"");
    app.change(
        "[kv.seen]",
        "[functions.second]\njs = \"second.js\"\ntopics = [{ name = \"orders\", from = \"start\" }]\n[kv.seen]",
    );
    app.write("second.js", "export default { async fetch(request) { console.log('second', await request.text()); return new Response(); } };");
    node.serve(&app);
    until("it got both", || node.logs("topic-deploy").iter().filter(|line| line["function"] == "second").count() == 2);
    // One that cannot be deployed changes nothing about who follows.
    app.change("version = \"0.3.0\"", "version = \"0.4.0\"");
    app.change("\ntopics = [\"orders\"]", "\nsecrets = [\"MISSING\"]");
    node.cli().in_dir(app.path()).ok(["publish"]);
    node.cli().in_dir(app.path()).fails(["deploy"]);
    let consumers = node.api("GET", "/v1/apps/topic-deploy/topics/orders", "").json()["consumers"].clone();
    assert!(consumers.as_array().unwrap().iter().all(|consumer| consumer["left_ms"].is_null()), "{consumers}");
    publish(3);
    assert_eq!(seen_of(node, "topic-deploy", 2)[1]["body"], "{\"n\":3}");
}
