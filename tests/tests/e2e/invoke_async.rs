//! Asynchronous invokes: taken when they are durable, run until they worked or are given up, and told of.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use minnow_tests::{App, Node, eventually, until, upstream};
use serde_json::{Value, json};

use crate::events::{consumer, seen_of};

/// Does as its path says, and writes down each try.
const WORKER: &str = r#"
export default {
    async fetch(request, env) {
        const url = new URL(request.url);
        if (url.pathname === "/seen") {
            const { keys } = await env.SEEN.list({ prefix: "seen/" });
            const seen = [];
            for (const { name } of keys) seen.push(JSON.parse(await env.SEEN.get(name)));
            return Response.json(seen);
        }
        const headers = Object.fromEntries(request.headers);
        const times = await env.SEEN.increment(`count/${headers["minnow-run"]}`);
        const number = await env.SEEN.increment("count");
        const body = await request.text();
        const path = url.pathname + url.search;
        await env.SEEN.put(`seen/${String(number).padStart(6, "0")}`, JSON.stringify({ path, method: request.method, headers, body }));
        switch (url.pathname) {
            case "/fail": return new Response("no", { status: 500 });
            case "/twice": return new Response(`try ${times}`, { status: times <= 2 ? 500 : 200 });
            case "/later": return new Response("not yet", { status: 503, headers: { "retry-after": "3600" } });
            case "/hang": if (times === 1) await new Promise(() => {});
        }
        return new Response(`did ${body}`, { status: 201, headers: { "x-own": "1" } });
    },
};
"#;

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

fn worker(name: &str, settings: &str, end: &str) -> App {
    App::of_js(name, WORKER, &format!("kv = [\"seen\"]\n{settings}")).end(&format!("[kv.seen]\n{end}"))
}

/// Has the function run for a request, and answers the id.
#[track_caller]
fn invoke(node: &Node, app: &str, path: &str, body: &str) -> String {
    let request = json!({ "method": "POST", "path": path, "headers": [["x-mine", "7"]], "body": BASE64.encode(body) });
    let answer = node.api("POST", &format!("/v1/apps/{app}/functions/web/invoke-async"), request.to_string());
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn run(node: &Node, app: &str, id: &str) -> Value {
    let answer = node.api("GET", &format!("/v1/apps/{app}/runs/{id}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Waits until the run has ended.
#[track_caller]
fn ended(node: &Node, app: &str, id: &str) -> Value {
    eventually(&format!("the run {id} of {app} ends"), || {
        Some(run(node, app, id)).filter(|run| run["state"] == "succeeded" || run["state"] == "failed")
    })
}

#[track_caller]
fn text(run: &Value) -> String {
    String::from_utf8(BASE64.decode(run["body"].as_str().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_request_is_taken_run_and_its_answer_is_kept() {
    let node = node();
    node.serve(&worker("later-one", "", ""));
    let id = invoke(node, "later-one", "/a%20b?c=d", "it");
    let done = ended(node, "later-one", &id);
    assert_eq!(
        (&done["state"], &done["status"], &done["tries"]),
        (&json!("succeeded"), &json!(201), &json!(1)),
        "{done}"
    );
    assert_eq!((text(&done).as_str(), &done["truncated"], &done["function"]), ("did it", &json!(false), &json!("web")));
    assert!(done["headers"].as_array().unwrap().contains(&json!(["x-own", "1"])), "{done}");
    assert!(done["finished_ms"].as_u64() >= done["created_ms"].as_u64(), "{done}");
    assert!(done["reason"].is_null() && done["next_ms"].is_null() && done["destination"].is_null(), "{done}");
    let [seen] = seen_of(node, "later-one", 1).try_into().unwrap();
    assert_eq!((&seen["path"], &seen["method"], &seen["body"]), (&json!("/a%20b?c=d"), &json!("POST"), &json!("it")));
    for (name, value) in
        [("minnow-run", id.as_str()), ("minnow-try", "1"), ("x-mine", "7"), ("host", "later-one.localhost")]
    {
        assert_eq!(seen["headers"][name], value, "{seen}");
    }
    assert!(seen["headers"]["traceparent"].as_str().unwrap().contains(&id), "{seen}");
    assert_eq!(node.metric("minnow_async_invokes_total", &["later-one", "succeeded"]), 1.0);
    // An app knows its own runs only.
    node.serve(&worker("later-other", "", ""));
    node.api("GET", &format!("/v1/apps/later-other/runs/{id}"), "").problem(404, "not_found");
    node.api("GET", "/v1/apps/later-one/runs/0123", "").problem(404, "not_found");
    node.api("GET", "/v1/apps/later-none/runs/0123", "").problem(404, "not_found");
}

#[test]
fn what_cannot_be_run_is_refused_at_once() {
    let node = node();
    node.serve(&worker("later-bad", "limits = { request_body = \"2MiB\" }", ""));
    let call = |function: &str, request: &Value| {
        node.api("POST", &format!("/v1/apps/later-bad/functions/{function}/invoke-async"), request.to_string())
    };
    call("none", &json!({})).problem(404, "not_found");
    call("web", &json!({ "path": "a" })).problem(422, "invalid");
    call("web", &json!({ "method": "G E T" })).problem(422, "invalid");
    call("web", &json!({ "path": "/", "when": 1 })).problem(422, "invalid");
    let most = BASE64.encode(vec![0; 1 << 20]);
    assert_eq!(call("web", &json!({ "method": "POST", "body": most })).status, 202);
    let more = BASE64.encode(vec![0; (1 << 20) + 1]);
    let refused = call("web", &json!({ "method": "POST", "body": more }));
    refused.problem(413, "too_large");
    assert!(refused.text().contains("at most 1048576"), "{}", refused.text());
}

#[test]
fn a_run_that_fails_is_tried_again_and_then_has_failed() {
    let node = node();
    node.serve(&worker("later-retry", "async = { retries = 2, backoff = \"100ms\" }", ""));
    let twice = invoke(node, "later-retry", "/twice", "");
    let done = ended(node, "later-retry", &twice);
    assert_eq!(
        (&done["state"], &done["tries"], text(&done).as_str()),
        (&json!("succeeded"), &json!(3), "try 3"),
        "{done}"
    );
    let fails = invoke(node, "later-retry", "/fail", "");
    let failed = ended(node, "later-retry", &fails);
    assert_eq!(
        (&failed["state"], &failed["tries"], &failed["status"]),
        (&json!("failed"), &json!(3), &json!(500)),
        "{failed}"
    );
    assert_eq!((failed["reason"].as_str(), text(&failed).as_str()), (Some("the function answered 500"), "no"));
    let logged = || {
        node.logs("later-retry").iter().any(|line| {
            let message = line["message"].as_str().unwrap();
            line["request_id"] == fails.as_str() && message.contains("failed after 3 tries: the function answered 500")
        })
    };
    until("the log tells", logged);
    let counted =
        |outcome| node.metric("minnow_async_invokes_total", &["later-retry", &format!("outcome=\"{outcome}\"")]);
    assert_eq!((counted("taken"), counted("retry"), counted("succeeded"), counted("failed")), (2.0, 4.0, 1.0, 1.0));
}

#[test]
fn a_run_that_would_become_too_old_has_failed() {
    let node = node();
    node.serve(&worker("later-old", "async = { retries = 9, max_age = \"1h\" }", ""));
    let id = invoke(node, "later-old", "/later", "");
    // It asks for an hour, which is over by then.
    let failed = ended(node, "later-old", &id);
    assert_eq!((&failed["state"], &failed["status"]), (&json!("failed"), &json!(503)), "{failed}");
    assert!(failed["reason"].as_str().unwrap().starts_with("max_age: it would be older than 1h at"), "{failed}");
    assert_eq!(seen_of(node, "later-old", 1).len(), 1);
}

#[test]
fn a_topic_is_told_what_became_of_a_run() {
    let node = node();
    let settings = "async = { retries = 0, on_success = \"done\", on_failure = \"lost\" }\n";
    let app = worker("later-told", settings, "[topic.done]\n[topic.lost]");
    let app = app.js("ops", "ops.js", crate::events::CONSUMER, "kv = [\"seen\"]\ntopics = [\"done\", \"lost\"]");
    node.serve(&app);
    let (worked, failed) = (invoke(node, "later-told", "/", "it"), invoke(node, "later-told", "/fail", ""));
    for (id, topic, kind, data) in [
        (
            &worked,
            "done",
            "minnow.invoke.succeeded",
            json!({ "status": 201, "answer": "did it", "state": "succeeded" }),
        ),
        (
            &failed,
            "lost",
            "minnow.invoke.failed",
            json!({ "status": 500, "answer": "no", "state": "failed", "reason": "the function answered 500" }),
        ),
    ] {
        let told = eventually("it is told", || {
            Some(run(node, "later-told", id)).filter(|run| run["destination"]["state"] == "told")
        });
        assert_eq!((&told["destination"]["to"], &told["destination"]["tries"]), (&json!(topic), &json!(1)), "{told}");
        let messages = node.api("GET", &format!("/v1/apps/later-told/topics/{topic}/messages"), "").text();
        let event: Value = serde_json::from_str(messages.trim()).unwrap();
        assert_eq!((&event["id"], &event["type"]), (&json!(id), &json!(kind)), "{event}");
        assert_eq!(event["source"], "/apps/later-told/functions/web", "{event}");
        for (key, value) in data.as_object().unwrap() {
            assert_eq!(&event["data"][key], value, "{key}: {event}");
        }
    }
}

#[test]
fn a_url_is_told_again_until_it_has_taken_it() {
    let node = Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start();
    let count = std::sync::atomic::AtomicU32::new(0);
    let hook = upstream::Upstream::answering(move |_| {
        let first = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        upstream::answer(if first { "500 Internal Server Error" } else { "204 No Content" }, "", "")
    });
    let settings = format!(
        "egress = [\"http://{}\"]\nasync = {{ retries = 0, backoff = \"100ms\", on_failure = \"{}\" }}",
        hook.address,
        hook.url("/hook?a=b")
    );
    node.serve(&worker("later-url", &settings, ""));
    let id = invoke(&node, "later-url", "/fail", "");
    let told = eventually("it is told", || {
        Some(run(&node, "later-url", &id)).filter(|run| run["destination"]["state"] == "told")
    });
    assert_eq!((&told["state"], &told["destination"]["tries"]), (&json!("failed"), &json!(2)), "{told}");
    let requests = hook.requests();
    assert_eq!(requests.len(), 2);
    for (head, body) in requests {
        assert_eq!(head[0], "post /hook?a=b http/1.1");
        for field in
            [format!("ce-id: {id}"), "ce-type: minnow.invoke.failed".into(), "content-type: application/json".into()]
        {
            assert!(head.contains(&field), "{field}: {head:?}");
        }
        let data: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&data["id"], &data["answer"]), (&json!(id), &json!("no")), "{data}");
    }
}

#[test]
fn a_run_whose_function_has_gone_has_failed_and_is_told_as_it_was_then() {
    let node = node();
    let settings = "async = { retries = 5, backoff = \"1s\", on_failure = \"lost\" }";
    let mut app = worker("later-gone", settings, "[topic.lost]").js("other", "other.js", WORKER, "kv = [\"seen\"]");
    node.serve(&app);
    let id = invoke(node, "later-gone", "/fail", "");
    until("it was tried once", || run(node, "later-gone", &id)["tries"] == 1);
    app.change("version = \"0.1.0\"", "version = \"0.2.0\"");
    app.change("[functions.web]", "[functions.web2]");
    node.serve(&app);
    let failed = ended(node, "later-gone", &id);
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["reason"], "no live version has the function any more", "{failed}");
    until("it is told", || run(node, "later-gone", &id)["destination"]["state"] == "told");
    // With the app its runs go.
    node.cli().ok(["delete", "later-gone", "--yes", "--data", "purge"]);
    node.api("GET", &format!("/v1/apps/later-gone/runs/{id}"), "").problem(404, "not_found");
}

#[test]
fn what_was_taken_is_run_also_when_the_node_was_killed_before_or_meanwhile() {
    let node = Node::start();
    // It hangs the first time, and there is one place: the second one waits behind the first.
    let app = worker("later-kill", "limits = { concurrency = 1 }\nasync = { retries = 0 }", "");
    node.serve(&app.js("look", "look.js", WORKER, "routes = [\"/seen\"]\nkv = [\"seen\"]"));
    let hangs = invoke(&node, "later-kill", "/hang", "a");
    seen_of(&node, "later-kill", 1);
    assert_eq!(run(&node, "later-kill", &hangs)["state"], "running");
    let waits = invoke(&node, "later-kill", "/", "b");
    assert_eq!(run(&node, "later-kill", &waits)["state"], "waiting");
    let node = node.kill_and_restart();
    for (id, body) in [(&hangs, "did a"), (&waits, "did b")] {
        let done = ended(&node, "later-kill", id);
        assert_eq!(done["state"], "succeeded", "{done}");
        assert_eq!((&done["state"], text(&done).as_str()), (&json!("succeeded"), body), "{done}");
    }
    let bodies: Vec<Value> = seen_of(&node, "later-kill", 3).into_iter().map(|seen| seen["body"].clone()).collect();
    assert_eq!(bodies.iter().filter(|body| **body == "b").count(), 1, "{bodies:?}");
    // What has ended is known after another end of the node, and is not run again.
    let node = node.kill_and_restart();
    assert_eq!(text(&run(&node, "later-kill", &waits)), "did b");
    assert_eq!(seen_of(&node, "later-kill", 3).len(), 3);
}

#[test]
fn the_command_line_takes_and_shows_runs() {
    let node = node();
    node.serve(&worker("later-cli", "", ""));
    let cli = node.cli();
    let taken = cli.json(["invoke", "later-cli/web", "-d", "it", "--async", "--json"]);
    let id = taken["id"].as_str().unwrap();
    ended(node, "later-cli", id);
    let shown = cli.ok(["run", "show", id, "--app", "later-cli"]);
    for part in ["succeeded web", "1 try", "201 Created", "x-own: 1", "did it"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(cli.json(["run", "show", id, "--app", "later-cli", "--json"]), run(node, "later-cli", id));
    assert!(cli.ok(["invoke", "later-cli/web", "--async"]).contains("minnow run show"));
    cli.fails(["run", "show", "0123", "--app", "later-cli"]).says(&["has no run", "24 hours"]);
}

#[test]
fn webassembly_is_run_later_the_same_way() {
    let node = node();
    node.serve(&App::of_guest("later-wasm", "hello-p2", ""));
    let id = invoke(node, "later-wasm", "/", "");
    let done = ended(node, "later-wasm", &id);
    assert_eq!((&done["state"], &done["status"]), (&json!("succeeded"), &json!(200)), "{done}");
    // `consumer` is what tests of topics use; here it is called like any function.
    node.serve(&consumer("later-any", "", ""));
    let id = invoke(node, "later-any", "/x", "");
    assert_eq!(text(&ended(node, "later-any", &id)), "hello /x");
}
