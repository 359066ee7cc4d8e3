//! `wasi:messaging`: components that are called for each message without HTTP, and that publish.

use std::sync::OnceLock;

use minnow_tests::{App, Node, Request, until};
use serde_json::{Value, json};

use crate::{
    events::{all_done, follower},
    js_bad::logged,
};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

fn app(name: &str, guest: &str, settings: &str) -> App {
    let settings = format!(
        "topics = [{{ name = \"orders\", batch = 10, retries = 1, backoff = \"100ms..100ms\" }}]\npublish = [\"out\"]\n{settings}"
    );
    App::new(name).function("web", guest, &settings).end("[topic.orders]\n[topic.out]")
}

/// Publishes texts at once, so that they are one batch.
#[track_caller]
fn publish(node: &Node, app: &str, texts: &[&str]) {
    let events: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| {
            json!({
                "specversion": "1.0", "id": format!("{text}-{n}"), "source": "/test", "type": "order.created", "subject": "å",
                "datacontenttype": "text/plain", "partitionkey": "ada", "data": text,
            })
        })
        .collect();
    let request = Request::get("node", &format!("/v1/topics/orders?app={app}"))
        .method("POST")
        .header("authorization", &format!("Bearer {}", node.token()))
        .header("content-type", "application/cloudevents-batch+json")
        .body(Value::from(events).to_string());
    let answer = node.call(&request);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What the guest has printed of the messages that it got, in their order.
fn got(node: &Node, app: &str) -> Vec<String> {
    let lines = node.logs(app).into_iter().map(|line| line["message"].as_str().unwrap().to_owned());
    lines.filter(|line| line.starts_with("call ")).collect()
}

/// How often the message with this text came.
fn count(got: &[String], text: &str) -> usize {
    got.iter().filter(|line| line.contains(&format!(": {text} of orders"))).count()
}

#[track_caller]
fn dead(node: &Node, app: &str) -> Vec<Value> {
    let dead = node.api("GET", &format!("/v1/apps/{app}/topics/orders/dead"), "").json();
    dead["letters"].as_array().unwrap().clone()
}

#[test]
fn a_component_is_handed_each_message_of_a_batch_in_one_instance() {
    let (node, name) = (node(), "msg-batch");
    node.serve(&app(name, "messages-p2", ""));
    publish(node, name, &["one", "fail no stock", "three"]);
    all_done(node, name, "orders");
    until("all is logged", || got(node, name).len() == 4);
    let got = got(node, name);
    let first = "call 1: one of orders as text/plain with deliverycount=1 id=one-0 partitionkey=ada \
                 sequence=00000000000000000001 source=/test subject=å time=";
    assert!(got[0].starts_with(first) && got[0].ends_with(" type=order.created"), "{got:?}");
    assert!(got[1].starts_with("call 2: fail no stock") && got[2].starts_with("call 3: three"), "{got:?}");
    // Only what failed comes again, alone and in another instance.
    assert!(got[3].starts_with("call 1: fail no stock") && got[3].contains("deliverycount=2"), "{got:?}");
    let letters = dead(node, name);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["reason"], "the function answered `other`: no stock");
    assert_eq!((&letters[0]["position"], &letters[0]["tries"]), (&json!(2), &json!(2)));
    logged(node, name, "message 2 of the topic `orders` has failed: the function answered `other`: no stock");
    assert_eq!(node.metric("minnow_deliveries_total", &[name, "done"]), 2.0);
}

#[test]
fn a_message_at_which_the_component_ends_has_failed_and_those_behind_it_were_not_tried() {
    let node = node();
    for (name, text, code) in [
        ("msg-trap", "trap", "function_trapped"),
        ("msg-burn", "burn", "cpu_limit"),
        ("msg-hoard", "hoard", "function_trapped"),
    ] {
        node.serve(&app(name, "messages-p2", "limits = { cpu = \"300ms\", timeout = \"20s\" }"));
        publish(node, name, &["one", text, "three", "four"]);
        all_done(node, name, "orders");
        until("all is logged", || got(node, name).len() >= 5);
        let got = got(node, name);
        let counts = ["one", text, "three", "four"].map(|text| count(&got, text));
        assert_eq!(counts, [1, 2, 1, 1], "{got:?}");
        assert!(
            got.iter().all(|line| line.contains(&format!(": {text} ")) || line.contains("deliverycount=1")),
            "{got:?}"
        );
        let letters = dead(node, name);
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert!(letters[0]["reason"].as_str().unwrap().starts_with(code), "{letters:?}");
        assert_eq!((&letters[0]["position"], &letters[0]["tries"]), (&json!(2), &json!(2)));
    }
    logged(node, "msg-hoard", "has messages of more than 16777216 bytes at once");
}

#[test]
fn a_component_publishes_with_wasi_messaging_what_it_is_granted() {
    let (node, name) = (node(), "msg-send");
    node.serve(&app(name, "messages-p2", ""));
    publish(node, name, &["send out", "forward out", "send orders", "odd", "delay soon", "delay 3600000"]);
    all_done(node, name, "orders");
    logged(node, name, "not sent to orders: Error::PermissionDenied");
    logged(node, name, "not sent to out: Error::Other(\"`Not A Name` is not the name of an attribute");
    logged(node, name, "not sent to out: Error::Other(\"`delay-ms` is a whole number of milliseconds, not `soon`");
    let messages = node.api("GET", &format!("/v1/apps/{name}/topics/out/messages"), "").text();
    let messages: Vec<Value> = messages.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The one that is held back is not there yet.
    assert_eq!(messages.len(), 2, "{messages:?}");
    let sent = &messages[0];
    for (key, value) in [
        ("data", "a message"),
        ("datacontenttype", "text/plain"),
        ("type", "order.sent"),
        ("partitionkey", "ada"),
        ("region", "eu"),
        ("source", "/apps/msg-send/topics/out"),
    ] {
        assert_eq!(sent[key], value, "{key}: {sent}");
    }
    assert!(sent.get("gone").is_none(), "{sent}");
    let forwarded = &messages[1];
    assert_eq!((&forwarded["id"], &forwarded["source"]), (&json!("forward out-1"), &json!("/test")));
    assert_eq!((&forwarded["data"], &forwarded["subject"]), (&json!("forward out"), &json!("å")));
    assert!(forwarded.get("deliverycount").is_none(), "{forwarded}");
    assert_eq!(follower(node, name, "orders")["dead"], 0);
}

#[test]
fn a_component_takes_requests_and_messages() {
    let (node, name) = (node(), "msg-both");
    node.serve(&app(
        name,
        "messages-http-p2",
        "routes = [\"/\"]\nschedules = [{ cron = \"@yearly\", name = \"sweep\" }]",
    ));
    assert_eq!(node.get(name, "/").ok(), "hello\n");
    publish(node, name, &["one", "two"]);
    all_done(node, name, "orders");
    logged(node, name, "call 2: two of orders");
    assert!(node.status(name).to_string().contains("\"http-0.2+messaging\""), "{}", node.status(name));
}

#[test]
fn what_takes_messages_only_is_refused_requests() {
    let node = node();
    for (settings, says) in [
        ("routes = [\"/\"]", "it has `routes` in minnow.toml, and its component takes messages only"),
        ("schedules = [{ cron = \"@daily\", name = \"sweep\" }]", "or take `schedules` out of [functions.web]"),
    ] {
        let app = app("msg-refused", "messages-p2", settings);
        node.cli().in_dir(app.path()).fails(["publish"]).says(&["function `web`: ", says]);
    }
    let other = r#"(component (instance $i) (export "wasi:messaging/incoming-handler@0.2.0-draft" (instance $i)))"#;
    let other = App::new("msg-refused").code("web", "other.wat.wasm", &wat::parse_str(other).unwrap(), "");
    node.cli().in_dir(other.path()).fails(["publish"]).says(&[
        "function `web`: ",
        "in its last shape",
        "wit/messaging-draft",
    ]);
    node.serve(&app("msg-only", "messages-p2", ""));
    assert!(node.status("msg-only").to_string().contains("\"messaging\""), "{}", node.status("msg-only"));
    let answer = node.api("POST", "/v1/apps/msg-only/functions/web/invoke", "{}");
    assert_eq!(answer.json()["status"], 500, "{}", answer.text());
    logged(node, "msg-only", "the function takes messages and no requests");
}
