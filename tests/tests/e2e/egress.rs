//! The way out: only where the manifest allows, and never to where the node lives.

use minnow_tests::{App, Node, upstream::Upstream};
use serde_json::json;

/// A node whose functions may reach loopback, where the tests' servers are.
fn open_node() -> Node {
    Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\", \"::1/128\"]").start()
}

fn fetch(node: &Node, app: &str, url: &str) -> serde_json::Value {
    node.get(app, &format!("/fetch?url={}", url.replace('&', "%26"))).json()
}

#[test]
fn nothing_is_reached_by_default() {
    let (node, upstream) = (open_node(), Upstream::start("reached"));
    for (name, code) in [("closed2", "lab-p2"), ("closed3", "lab-p3")] {
        node.serve(&App::of_guest(name, code, ""));
        assert_eq!(fetch(&node, name, &upstream.url("/")), json!({ "error": "http-request-denied" }), "{name}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_the_manifest_allows_is_reached() {
    let (node, upstream) = (open_node(), Upstream::start("reached"));
    let egress = format!("egress = [\"http://{}\"]", upstream.address);
    for (name, code) in [("open2", "lab-p2"), ("open3", "lab-p3")] {
        node.serve(&App::of_guest(name, code, &egress));
        let expected = json!({ "status": 200, "body": "reached" });
        assert_eq!(fetch(&node, name, &upstream.url("/path?q=1")), expected, "{name}");
    }
    let heads: Vec<String> = upstream.requests().into_iter().map(|(head, _)| head[0].clone()).collect();
    assert_eq!(heads, ["get /path?q=1 http/1.1", "get /path http/1.1"].map(|_| heads[0].clone()));
}

#[test]
fn a_rule_is_held_to_its_scheme_host_and_port() {
    let (node, upstream, other) = (open_node(), Upstream::start("reached"), Upstream::start("other"));
    let port = upstream.address.port();
    for (index, (rule, allowed)) in [
        (format!("http://127.0.0.1:{port}"), true),
        (format!("127.0.0.1:{port}"), true),
        (format!("https://127.0.0.1:{port}"), false),
        ("127.0.0.1".into(), false),
        (format!("127.0.0.2:{port}"), false),
        (format!("*.0.0.1:{port}"), false),
        (format!("127.0.0.1:{}", other.address.port()), false),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("rule{index}");
        let app = App::of_guest(&name, "lab-p2", &format!("egress = [\"{rule}\"]"));
        let cli = node.cli().in_dir(app.path());
        let published = cli.run(["publish"]);
        if published.code() != 0 {
            // A rule that makes no sense may be refused at once.
            assert!(!allowed, "{rule}: {}", published.stderr);
            continue;
        }
        cli.ok(["deploy"]);
        let got = fetch(&node, &name, &upstream.url("/"));
        assert_eq!(got["status"] == 200, allowed, "{rule}: {got}");
    }
    assert_eq!(other.connections(), 0);
}

#[test]
fn loopback_and_private_addresses_are_refused_after_resolution() {
    let upstream = Upstream::start("reached");
    // This node's configuration names no private network.
    let node = Node::shared();
    let port = upstream.address.port();
    let rules = "egress = [\"*\"]".to_owned();
    let rules = rules.replace("[\"*\"]", &format!("[\"*\", \"*:{port}\", \"*:{}\"]", node.admin.port()));
    node.serve(&App::of_guest("ssrf", "lab-p2", &rules));
    for url in [
        upstream.url("/"),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://127.1.2.3:{port}/"),
        format!("http://{}/metrics", node.admin),
        format!("http://localhost.:{port}/"),
        "http://169.254.169.254/latest/meta-data/".into(),
        "http://10.0.0.1/".into(),
        "http://192.168.0.1/".into(),
        "http://172.16.0.1/".into(),
        "http://100.64.0.1/".into(),
        "http://[fd00::1]/".into(),
        "http://[fe80::1]/".into(),
    ] {
        let got = fetch(node, "ssrf", &url);
        assert!(got["status"].is_null() && got["error"].is_string(), "{url}: {got}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn connections_are_reused() {
    let (node, upstream) = (open_node(), Upstream::start("reached"));
    node.serve(&App::of_guest("pooled", "lab-p2", &format!("egress = [\"http://{}\"]", upstream.address)));
    let many = node.get("pooled", &format!("/fetch-many?url={}&n=10", upstream.url("/"))).json();
    assert!(many.as_array().unwrap().iter().all(|got| got["status"] == 200), "{many}");
    for _ in 0..10 {
        assert_eq!(fetch(&node, "pooled", &upstream.url("/"))["status"], 200);
    }
    assert_eq!(upstream.requests().len(), 20);
    // Requests one after the other, also of different invocations, share connections. One that comes before the last one's
    // connection is back makes another.
    assert!(upstream.connections() <= 10, "{} connections for 20 requests", upstream.connections());
}

#[test]
fn a_host_that_does_not_answer_is_an_error_for_the_guest() {
    let node = open_node();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    node.serve(&App::of_guest("dead", "lab-p2", &format!("egress = [\"http://{gone}\", \"http://*.invalid\"]")));
    assert_eq!(fetch(&node, "dead", &format!("http://{gone}/")), json!({ "error": "connection-refused" }));
    let unknown = fetch(&node, "dead", "http://no-such-host.invalid/");
    assert!(unknown["error"].is_string(), "{unknown}");
    node.get("dead", "/hello").ok();
}
