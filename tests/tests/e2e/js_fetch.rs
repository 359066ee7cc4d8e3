//! What functions in JavaScript ask of other hosts: the rules of their manifest hold, at each hop.

use minnow_tests::{
    App, Node,
    upstream::{Upstream, answer},
};
use serde_json::{Value, json};

use super::js::node;

/// Fetches what the query says, and tells what came of it.
const FETCHES: &str = r#"
    export default {
        async fetch(request) {
            const { searchParams: asked, pathname } = new URL(request.url);
            const init = JSON.parse(asked.get("init") ?? "{}");
            if (pathname === "/proxy") return fetch(asked.get("url"), request);
            try {
                const response = await fetch(asked.get("url"), init);
                const { status, redirected, url } = response;
                return Response.json({ status, redirected, url, body: await response.text() });
            } catch (error) {
                return Response.json({ name: error.name, error: error.message, code: error.cause?.code });
            }
        },
    };
"#;

fn fetch(node: &Node, app: &str, url: &str, init: &str) -> Value {
    let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02x}")).collect() };
    node.get(app, &format!("/?url={}&init={}", encoded(url), encoded(init))).json()
}

#[test]
fn fetch_reaches_what_the_manifest_allows_and_nothing_else() {
    let (node, upstream, other) = (node(), Upstream::start("reached"), Upstream::start("other"));
    node.serve(&App::of_js("fetch", FETCHES, &format!("egress = [\"http://{}\"]", upstream.address)));
    let url = upstream.url("/path?q=1");
    let expected = json!({ "status": 200, "redirected": false, "url": url, "body": "reached" });
    let init = r#"{"method":"PUT","body":"sent","headers":{"x-own":"1","x-minnow-scheme":"https"}}"#;
    assert_eq!(fetch(node, "fetch", &url, init), expected);
    let (head, body) = &upstream.requests()[0];
    assert_eq!((&*head[0], &**body), ("put /path?q=1 http/1.1", &b"sent"[..]));
    assert!(head.contains(&format!("host: {}", upstream.address)) && head.contains(&"x-own: 1".into()), "{head:?}");
    assert!(head.iter().all(|line| !line.starts_with("x-minnow")), "{head:?}");
    assert!(head.iter().any(|line| line.starts_with("traceparent: ")), "{head:?}");
    // A request that is passed on, with its body.
    let passed = node.post("fetch", &format!("/proxy?url={url}"), "passed on");
    assert_eq!(passed.ok(), "reached");
    assert_eq!(upstream.requests()[1].1, b"passed on");
    // A request of the function's own continues the trace of its invocation, whose id is that of the client's request.
    let answer = node.get("fetch", &format!("/?url={url}"));
    let trace = format!("traceparent: 00-{}-", answer.header("x-request-id").unwrap());
    let (head, _) = &upstream.requests()[2];
    assert!(head.iter().any(|line| line.starts_with(&trace)), "{trace} {head:?} {}", answer.text());
    // Connections are kept: requests that come one after the other share them.
    for _ in 0..10 {
        assert_eq!(fetch(node, "fetch", &url, "{}")["status"], 200);
    }
    assert!(upstream.connections() < 10, "{} connections", upstream.connections());

    for url in [other.url("/"), format!("https://{}/", upstream.address), "http://example.com/".into()] {
        let denied = fetch(node, "fetch", &url, "{}");
        assert_eq!((&denied["name"], &denied["code"]), (&"TypeError".into(), &"denied".into()), "{url}: {denied}");
        assert!(denied["error"].as_str().unwrap().contains("add \""), "it says what to do: {denied}");
    }
    node.serve(&App::of_js("closed", FETCHES, ""));
    assert_eq!(fetch(node, "closed", &upstream.url("/"), "{}")["code"], "denied");
    assert_eq!(other.connections(), 0);
}

#[test]
fn each_hop_of_a_redirect_passes_the_rules() {
    let (node, upstream, other) = (node(), Upstream::start("reached"), Upstream::start("other"));
    let (found, kept) = (Upstream::redirecting("302 Found"), Upstream::redirecting("307 Temporary Redirect"));
    let rules = [&upstream, &found, &kept].map(|server| format!("\"http://{}\"", server.address)).join(", ");
    node.serve(&App::of_js("hops", FETCHES, &format!("egress = [{rules}]")));
    let (end, secret) = (upstream.url("/end"), r#"{"headers":{"authorization":"secret"}}"#);
    let expected = json!({ "status": 200, "redirected": true, "url": end, "body": "reached" });
    assert_eq!(fetch(node, "hops", &found.url(&format!("/?to={end}")), secret), expected);
    assert!(found.requests()[0].0.contains(&"authorization: secret".into()));
    assert!(
        !upstream.requests()[0].0.iter().any(|line| line.starts_with("authorization")),
        "a secret is not passed on"
    );
    // The method and body stay with one, and not with the other.
    for (server, method, body) in [(&found, "get", &b""[..]), (&kept, "post", b"sent")] {
        fetch(node, "hops", &server.url(&format!("/?to={end}")), r#"{"method":"POST","body":"sent"}"#);
        let (head, sent) = upstream.requests().pop().unwrap();
        assert!(head[0].starts_with(method), "{head:?}");
        assert_eq!(sent, body);
    }
    // To a host that may not be reached: not even through one that may.
    for url in [other.url("/"), format!("http://localhost:{}/", other.address.port()), "file:///etc/passwd".into()] {
        let denied = fetch(node, "hops", &found.url(&format!("/?to={url}")), "{}");
        assert_eq!((&denied["name"], &denied["status"]), (&"TypeError".into(), &Value::Null), "{url}: {denied}");
    }
    assert_eq!(other.connections(), 0);
    let url = found.url(&format!("/?to={}", other.url("/")));
    assert_eq!(fetch(node, "hops", &url, r#"{"redirect":"manual"}"#)["status"], 302);
    assert_eq!(fetch(node, "hops", &url, r#"{"redirect":"error"}"#)["name"], "TypeError");
    let endless = Upstream::answering(|(head, _)| {
        let host = head.iter().find_map(|line| line.strip_prefix("host: ")).unwrap();
        answer("301 Moved Permanently", &format!("location: http://{host}/\r\n"), "")
    });
    node.serve(&App::of_js("endless", FETCHES, &format!("egress = [\"http://{}\"]", endless.address)));
    assert_eq!(fetch(node, "endless", &endless.url("/"), "{}")["name"], "TypeError");
    assert!(endless.requests().len() < 30, "{} hops", endless.requests().len());
}

#[test]
fn event_sources_are_read_through_the_node() {
    let source = r#"
        export default {
            async fetch(request) {
                const events = new EventSource(new URL(request.url).searchParams.get("url"));
                const result = await new Promise((resolve) => {
                    events.addEventListener("news", ({ data, lastEventId }) => resolve({ data, lastEventId }));
                    events.onerror = () => resolve("failed");
                });
                events.close();
                return Response.json(result);
            },
        };
    "#;
    let node = node();
    let events = Upstream::answering(|_| {
        answer(
            "200 OK",
            "content-type: text/event-stream\r\n",
            "event: news\r\nid: 7\r\ndata: one\r\ndata: two\r\n\r\n",
        )
    });
    node.serve(&App::of_js("sources", source, &format!("egress = [\"http://{}\"]", events.address)));
    let got = node.get("sources", &format!("/?url={}", events.url("/"))).json();
    assert_eq!(got, json!({ "data": "one\ntwo", "lastEventId": "7" }));
    node.serve(&App::of_js("nosources", source, ""));
    assert_eq!(node.get("nosources", &format!("/?url={}", events.url("/"))).json(), "failed");
    assert_eq!(events.requests().len(), 1);
}
