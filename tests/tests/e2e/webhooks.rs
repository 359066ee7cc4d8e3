//! Webhooks: what others sign and send comes to a function as an event, and nothing else does.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use minnow_tests::{Answer, App, Node, Request, until};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::events::{consumer, seen, seen_of};

const SECRET: &str = "whsec_c2VjcmV0LW9mLXRoZS1ob29rcw==";
/// What `SECRET` is for Standard Webhooks.
const KEY: &[u8] = b"secret-of-the-hooks";

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

/// An app whose topics take what `form` signs at `/hook`.
fn hooked(name: &str, form: &str) -> App {
    let webhook = format!("webhook = {{ path = \"/hook\", secret = \"HOOK_SECRET\", signature = {form} }}");
    consumer(name, "topics = [\"hooks\"]", &format!("[topic.hooks]\n{webhook}"))
}

/// Sets the secret of an app, and serves it.
fn serve(node: &Node, name: &str, app: &App) {
    set(node, name, SECRET);
    node.serve(app);
}

fn set(node: &Node, app: &str, secret: &str) {
    let set = node.cli().run_with(["secret", "set", "HOOK_SECRET", "--app", app], secret.as_bytes());
    assert_eq!(set.code(), 0, "{set:?}");
}

fn hmac(key: &[u8], signed: &[u8]) -> [u8; 32] {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    hmac.update(signed);
    hmac.finalize().into_bytes().into()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn post(app: &str, body: &str) -> Request {
    Request::get(app, "/hook").method("POST").header("content-type", "application/json").body(body)
}

/// As GitHub signs.
fn github(app: &str, secret: &str, id: &str, body: &str) -> Request {
    let signature = hex::encode(hmac(secret.as_bytes(), body.as_bytes()));
    post(app, body)
        .header("x-hub-signature-256", &format!("sha256={signature}"))
        .header("x-github-delivery", id)
        .header("x-github-event", "push")
}

/// As Stripe signs, at a time.
fn stripe(app: &str, time_s: u64, body: &str) -> Request {
    let signature = hex::encode(hmac(SECRET.as_bytes(), format!("{time_s}.{body}").as_bytes()));
    post(app, body).header("stripe-signature", &format!("t={time_s},v1={signature},v0=00"))
}

/// As Standard Webhooks has it, at a time.
fn standard(app: &str, id: &str, time_s: u64, body: &str) -> Request {
    let signature = BASE64.encode(hmac(KEY, format!("{id}.{time_s}.{body}").as_bytes()));
    post(app, body)
        .header("webhook-id", id)
        .header("webhook-timestamp", &time_s.to_string())
        .header("webhook-signature", &format!("v1,{signature}"))
}

#[track_caller]
fn taken(answer: &Answer) {
    assert_eq!((answer.status, answer.text().as_str()), (202, ""), "{answer:?}");
}

/// How many messages the app's topic has taken.
#[track_caller]
fn messages(node: &Node, app: &str) -> Value {
    node.api("GET", &format!("/v1/apps/{app}/topics/hooks"), "").json()["messages"].clone()
}

#[test]
fn what_each_form_signs_comes_to_the_function_as_an_event() {
    let node = node();
    let own = "{ header = \"X-Sig\", prefix = \"v1=\", encoding = \"base64\", id_header = \"x-id\" }";
    let own_signature = format!("v1={}", BASE64.encode(hmac(SECRET.as_bytes(), b"{}")));
    let paid = r#"{"id":"evt_1","type":"charge.paid"}"#;
    for (app, form, request, body, id, kind) in [
        ("hook-github", "\"github\"", github("hook-github", SECRET, "d-1", "{}"), "{}", "d-1", "com.github.push"),
        ("hook-stripe", "\"stripe\"", stripe("hook-stripe", now_s(), paid), paid, "evt_1", "com.stripe.charge.paid"),
        (
            "hook-standard",
            "\"standard\"",
            standard("hook-standard", "msg_1", now_s(), "{}"),
            "{}",
            "msg_1",
            "minnow.message",
        ),
        (
            "hook-own",
            own,
            post("hook-own", "{}").header("x-sig", &own_signature).header("x-id", "7"),
            "{}",
            "7",
            "minnow.message",
        ),
    ] {
        serve(node, app, &hooked(app, form));
        // What is not signed names no attributes.
        let request = request.header("ce-subject", "forged").header("ce-specversion", "1.0");
        taken(&node.send(&request));
        let delivery = &seen_of(node, app, 1)[0];
        assert_eq!((&delivery["path"], &delivery["body"]), (&json!("/.minnow/topics/hooks"), &json!(body)));
        let headers = &delivery["headers"];
        for (name, expected) in
            [("ce-id", id), ("ce-type", kind), ("ce-source", "/webhooks/hooks"), ("content-type", "application/json")]
        {
            assert_eq!(headers[name], expected, "{app} {name}: {headers}");
        }
        assert!(headers.get("ce-subject").is_none(), "{headers}");
        // The same once more is one that is known.
        taken(&node.send(&request));
        assert_eq!(messages(node, app), 1, "{app}");
        assert_eq!(node.metric("minnow_topic_published_total", &[app, "duplicate"]), 1.0);
    }
    assert!(node.metric("minnow_webhook_requests_total", &["2xx"]) >= 8.0);
}

#[test]
fn what_is_not_signed_as_it_should_be_is_refused_and_published_nowhere() {
    let node = node();
    for (app, form) in
        [("hook-bad", "\"github\""), ("hook-bad-stripe", "\"stripe\""), ("hook-bad-standard", "\"standard\"")]
    {
        serve(node, app, &hooked(app, form));
    }
    let old = now_s() - 400;
    let right = hex::encode(hmac(SECRET.as_bytes(), b"{}"));
    for (request, detail) in [
        (post("hook-bad", "{}"), "the header `x-hub-signature-256` is missing"),
        (github("hook-bad", "other", "d", "{}"), "the signature is not that of this body"),
        (github("hook-bad", SECRET, "d", "{}").body("{} "), "the signature is not that of this body"),
        (github("hook-bad", SECRET, "d", "{}").body(""), "the signature is not that of this body"),
        (github("hook-bad", "", "d", "{}"), "the signature is not that of this body"),
        (post("hook-bad", "{}").header("x-hub-signature-256", &right), "`x-hub-signature-256` is not what it is to be"),
        (
            github("hook-bad", SECRET, "d", "{}").header("x-hub-signature-256", &format!("sha256={right}")),
            "the header `x-hub-signature-256` is there more than once",
        ),
        (stripe("hook-bad-stripe", old, "{}"), "more than 5 minutes before or after the node's time"),
        (stripe("hook-bad-stripe", now_s() + 400, "{}"), "more than 5 minutes before or after the node's time"),
        (stripe("hook-bad-stripe", now_s(), "{}").body("[]"), "the signature is not that of this body"),
        (github("hook-bad-stripe", SECRET, "d", "{}"), "the header `stripe-signature` is missing"),
        (standard("hook-bad-standard", "m", old, "{}"), "more than 5 minutes before or after the node's time"),
        (standard("hook-bad-standard", "m", now_s(), "{}").body("[]"), "the signature is not that of this body"),
        (
            standard("hook-bad-standard", "m", now_s(), "{}").header("webhook-id", "other"),
            "the header `webhook-id` is there more than once",
        ),
    ] {
        let answer = node.send(&request);
        answer.problem(403, "signature_invalid");
        assert!(answer.text().contains(detail), "{}", answer.text());
        assert!(!answer.text().contains(SECRET) && !answer.text().contains(&right), "{}", answer.text());
    }
    // Right, and no event.
    let answer = node.send(&github("hook-bad", SECRET, "d", "no JSON"));
    answer.problem(400, "invalid_event");
    // Other methods, and other paths.
    let get = node.get("hook-bad", "/hook");
    assert_eq!(get.ok(), "hello /hook", "the function has that path for other methods");
    for app in ["hook-bad", "hook-bad-stripe", "hook-bad-standard"] {
        assert_eq!(messages(node, app), 0, "{app}");
        assert_eq!(seen(node, app), Vec::<Value>::new());
    }
    taken(&node.send(&github("hook-bad", SECRET, "d", "{}")));
    // Neither the secret nor a signature is in a log.
    let logs = format!("{} {:?}", node.log(), node.logs("hook-bad"));
    assert!(!logs.contains(SECRET) && !logs.contains(&right), "{logs}");
    assert!(node.metric("minnow_webhook_requests_total", &["4xx", "signature_invalid"]) >= 14.0);
}

#[test]
fn a_body_is_bounded_by_its_length_and_while_it_comes() {
    const MOST: usize = 768 * 1024;
    let node = node();
    serve(node, "hook-large", &hooked("hook-large", "\"github\""));
    let body = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    taken(&node.send(&github("hook-large", SECRET, "most", &body(MOST))));
    let large = node.send(&github("hook-large", SECRET, "more", &body(MOST + 1)));
    large.problem(413, "too_large");
    // One that does not say how long it is.
    let signature = format!("sha256={}", "0".repeat(64));
    let chunked =
        post("hook-large", "").header("transfer-encoding", "chunked").header("x-hub-signature-256", &signature);
    let mut connection = node.connect();
    connection.write_head(&chunked).unwrap();
    let chunk = [format!("{:x}\r\n", MOST + 1).into_bytes(), vec![b'x'; MOST + 1], b"\r\n".to_vec()].concat();
    // The node may answer before it has read all.
    let _ = connection.write(&chunk);
    connection.response(false).unwrap().rest().unwrap().problem(413, "too_large");
    assert_eq!(messages(node, "hook-large"), 1);
}

#[test]
fn a_full_topic_is_told_so_that_the_sender_tries_again() {
    let node = node();
    let hook = "webhook = { path = \"/hook\", secret = \"HOOK_SECRET\", signature = \"github\" }";
    let app = consumer(
        "hook-full",
        "topics = [{ name = \"hooks\", backoff = \"1m\" }]",
        &format!("[topic.hooks]\nmax_messages = 1\n{hook}"),
    );
    serve(node, "hook-full", &app);
    taken(&node.send(&github("hook-full", SECRET, "1", r#"{"act":"fail","times":9}"#)));
    let second = node.send(&github("hook-full", SECRET, "2", "{}"));
    second.problem(507, "storage_full");
    assert!(second.text().contains("the topic holds as much as it may"), "{}", second.text());
    assert_eq!(messages(node, "hook-full"), 1);
}

#[test]
fn a_version_whose_webhook_has_no_secret_is_not_deployed_and_the_secret_stays_while_it_is_needed() {
    let node = node();
    let app = hooked("hook-secret", "\"standard\"");
    let cli = node.cli().in_dir(app.path());
    cli.ok(["publish"]);
    let deploy = ["deploy", "0.1.0", "--app", "hook-secret"];
    cli.fails(deploy).says(&[
        "the webhook of `hooks` of hook-secret@0.1.0 needs the secret HOOK_SECRET, which is not set",
        "minnow secret set HOOK_SECRET --app hook-secret",
    ]);
    set(node, "hook-secret", "not base64!");
    cli.fails(deploy).says(&["needs the secret HOOK_SECRET, which is not base64, as the signature `standard` has it"]);
    set(node, "hook-secret", SECRET);
    cli.ok(deploy);
    taken(&node.send(&standard("hook-secret", "m1", now_s(), "{}")));
    cli.fails(["secret", "delete", "HOOK_SECRET", "--app", "hook-secret"])
        .says(&["granted to the webhook of `hooks` of hook-secret@0.1.0, which gets traffic"]);
    let bad = cli.run_with(["secret", "set", "HOOK_SECRET", "--app", "hook-secret"], b"not base64!");
    assert_ne!(bad.code(), 0);
    // What was refused changed nothing; another key counts at once.
    taken(&node.send(&standard("hook-secret", "m2", now_s(), "{}")));
    set(node, "hook-secret", &BASE64.encode(b"another"));
    node.send(&standard("hook-secret", "m3", now_s(), "{}")).problem(403, "signature_invalid");
    set(node, "hook-secret", &BASE64.encode(KEY));
    taken(&node.send(&standard("hook-secret", "m3", now_s(), "{}")));
    assert_eq!(seen_of(node, "hook-secret", 3).len(), 3);
}

#[test]
fn a_webhook_whose_secret_cannot_be_read_takes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let key = temp.path().join("minnow.key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let node = Node::builder().config(&format!("[secrets]\nkey_file = {:?}", key.to_str().unwrap())).start();
    serve(&node, "hook-lost", &hooked("hook-lost", "\"github\""));
    taken(&node.send(&github("hook-lost", SECRET, "1", "{}")));
    seen_of(&node, "hook-lost", 1);
    node.kill();
    fs::write(&key, "cd".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let node = node.rebuild().start();
    node.send(&github("hook-lost", SECRET, "2", "{}")).problem(503, "secret_missing");
    // As with no secret, or with the empty one.
    node.send(&github("hook-lost", "", "3", "{}")).problem(503, "secret_missing");
    node.send(&post("hook-lost", "{}")).problem(503, "secret_missing");
    until("the app's log says so", || {
        let message = "the webhook of `hooks` of hook-lost@0.1.0 needs the secret HOOK_SECRET, which cannot be read";
        node.logs("hook-lost").iter().any(|line| line["message"].as_str().unwrap().contains(message))
    });
    set(&node, "hook-lost", SECRET);
    taken(&node.send(&github("hook-lost", SECRET, "4", "{}")));
    assert_eq!(seen_of(&node, "hook-lost", 2).len(), 2);
}

#[test]
fn the_path_of_a_webhook_is_a_route_and_may_not_be_that_of_a_function() {
    let node = node();
    let mut app = hooked("hook-clash", "\"github\"");
    app.change("kv = [\"seen\"]", "kv = [\"seen\"]\nroutes = [\"POST /hook\", \"/{*rest}\"]");
    app.change("routes = [\"/{*rest}\"]\n", "");
    node.cli().in_dir(app.path()).fails(["publish"]).says(&[
        "routes `POST /hook` and `POST /hook` match the same requests, one of `web` and one of the webhook of `hooks`",
    ]);
    // Without a function at that path there is nothing but POST.
    app.change("routes = [\"POST /hook\", \"/{*rest}\"]", "routes = [\"/seen\"]");
    serve(node, "hook-clash", &app);
    let answer = node.get("hook-clash", "/hook");
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    taken(&node.send(&github("hook-clash", SECRET, "1", "{}")));
    node.post("hook-clash", "/hook/", "{}").problem(404, "no_route");
    seen_of(node, "hook-clash", 1);
}

#[test]
fn what_was_answered_is_delivered_also_when_the_node_is_killed() {
    let node = Node::start();
    serve(&node, "hook-kill", &hooked("hook-kill", "\"github\""));
    for n in 0..20 {
        taken(&node.send(&github("hook-kill", SECRET, &format!("d-{n}"), "{}")));
    }
    let node = node.kill_and_restart();
    until("all have come", || {
        let seen = seen(&node, "hook-kill");
        (0..20).all(|n| seen.iter().any(|seen| seen["headers"]["ce-id"] == format!("d-{n}").as_str()))
    });
}
