//! Which version gets the traffic: deployments, canaries, rollback, and that a switch loses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use minnow_tests::{App, Cli, Node, Request, until, wasm};

/// Publishes versions that answer with their own number. `top` are lines at the top of the manifest.
fn publish(node: &Node, name: &str, versions: &[&str], top: &str) -> Cli {
    for version in versions {
        let app = App::new(name).code("web", "a.wasm", &wasm::cgi(version), "routes = [\"/{*rest}\"]").top(top);
        node.cli().in_dir(app.path()).ok(["publish", version]);
    }
    node.cli()
}

fn shares(status: &serde_json::Value) -> BTreeMap<String, u64> {
    let shares = status["deployment"]["shares"].as_array().unwrap().iter();
    shares.map(|share| (share["version"].as_str().unwrap().to_owned(), share["weight"].as_u64().unwrap())).collect()
}

#[test]
fn a_version_gets_traffic_once_it_is_deployed() {
    let node = Node::shared();
    let cli = publish(node, "switch", &["1.0.0", "2.0.0"], "");
    node.get("switch", "/").problem(404, "unknown_app");
    cli.ok(["deploy", "1.0.0", "--app", "switch"]);
    assert_eq!(node.get("switch", "/").ok(), "1.0.0");
    // Without a version the one that was published last.
    cli.ok(["deploy", "--app", "switch"]);
    assert_eq!(node.get("switch", "/").ok(), "2.0.0");
    cli.fails(["deploy", "3.0.0", "--app", "switch"]).says(&["404 not_found", "3.0.0"]);
    assert_eq!(node.get("switch", "/").ok(), "2.0.0");
}

#[test]
fn rollback_returns_to_the_deployment_before_and_history_is_kept() {
    let node = Node::shared();
    let cli = publish(node, "back", &["1.0.0", "2.0.0", "3.0.0"], "");
    cli.ok(["deploy", "1.0.0", "--app", "back"]);
    cli.fails(["rollback", "back"]).says(&["409 conflict", "no earlier deployment"]);
    cli.ok(["deploy", "2.0.0", "--app", "back"]);
    cli.ok(["deploy", "3.0.0", "--app", "back", "--weight", "30"]);
    cli.ok(["rollback", "back"]);
    assert_eq!(shares(&node.status("back")), BTreeMap::from([("2.0.0".into(), 100)]));
    assert_eq!(node.get("back", "/").ok(), "2.0.0");
    let rolled = cli.json(["rollback", "back", "--json"]);
    assert_eq!((&rolled["cause"], &rolled["shares"][0]["version"]), (&"rollback".into(), &"1.0.0".into()));
    assert_eq!(node.get("back", "/").ok(), "1.0.0");
    let status = node.status("back");
    let history: Vec<(&str, u64)> = status["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|past| (past["cause"].as_str().unwrap(), past["revision"].as_u64().unwrap()))
        .collect();
    assert_eq!(history, [("rollback", 5), ("rollback", 4), ("deploy", 3), ("deploy", 2), ("deploy", 1)]);
    cli.fails(["rollback", "back"]).says(&["409 conflict"]);
}

#[test]
fn a_canary_gets_its_share_of_the_traffic() {
    let node = Node::shared();
    let cli = publish(node, "canary", &["1.0.0", "2.0.0", "3.0.0"], "");
    cli.fails(["deploy", "2.0.0", "--app", "canary", "--weight", "10"])
        .says(&["409 conflict", "without a weight first"]);
    cli.ok(["deploy", "1.0.0", "--app", "canary"]);
    let printed = cli.ok(["deploy", "2.0.0", "--app", "canary", "--weight", "25"]);
    assert!(printed.contains("1.0.0 75 %, 2.0.0 25 %"), "{printed}");
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(node.get("canary", "/").ok()).or_default() += 1;
    }
    // 100 expected, standard deviation 9: beyond six of them once in a billion runs.
    assert!((46..=154).contains(&counts["2.0.0"]), "{counts:?}");
    assert_eq!(counts["1.0.0"] + counts["2.0.0"], 400);
    // A third version takes the place of the canary.
    cli.ok(["deploy", "3.0.0", "--app", "canary", "--weight", "10"]);
    assert_eq!(shares(&node.status("canary")), BTreeMap::from([("1.0.0".into(), 90), ("3.0.0".into(), 10)]));
    cli.ok(["deploy", "3.0.0", "--app", "canary"]);
    assert_eq!(node.get("canary", "/").ok(), "3.0.0");
}

#[test]
fn a_client_stays_on_its_version() {
    let node = Node::shared();
    for (name, sticky) in [("stickyc", "{ cookie = \"session\" }"), ("stickyh", "{ header = \"x-user\" }")] {
        let cli = publish(node, name, &["1.0.0", "2.0.0"], &format!("sticky = {sticky}"));
        cli.ok(["deploy", "1.0.0", "--app", name]);
        let version_of = |client: usize| {
            let request = match name {
                "stickyc" => Request::get(name, "/").header("cookie", &format!("a=b; session=client-{client}")),
                _ => Request::get(name, "/").header("x-user", &format!("client-{client}")),
            };
            node.send(&request).ok()
        };
        let on_canary = || -> BTreeSet<usize> { (0..60).filter(|client| version_of(*client) == "2.0.0").collect() };
        cli.ok(["deploy", "2.0.0", "--app", name, "--weight", "30"]);
        let first = on_canary();
        assert_eq!(on_canary(), first, "{name}: a client changed its version");
        assert!(!first.is_empty() && first.len() < 60, "{name}: {first:?}");
        // A canary that grows takes clients along and sends none back.
        cli.ok(["deploy", "2.0.0", "--app", name, "--weight", "70"]);
        let grown = on_canary();
        assert!(grown.is_superset(&first) && grown.len() > first.len(), "{name}: {first:?} {grown:?}");
    }
}

#[test]
fn a_request_finishes_on_the_version_on_which_it_began() {
    let node = Node::shared();
    node.serve(&App::of_guest("inflight", "lab-p2", ""));
    let mut events = node.open(&Request::get("inflight", "/sse?n=3&ms=300"));
    events.read_until("event 1\n\n");
    let cli = publish(node, "inflight", &["0.2.0"], "");
    cli.ok(["deploy", "0.2.0", "--app", "inflight"]);
    assert_eq!(node.get("inflight", "/").ok(), "0.2.0");
    events.read_until("event 3\n\n");
    assert_eq!(events.piece().unwrap(), None);
}

#[test]
fn a_switch_under_load_loses_no_request() {
    let node = Node::shared();
    let cli = publish(node, "load", &["1.0.0", "2.0.0"], "");
    cli.ok(["deploy", "1.0.0", "--app", "load"]);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                let mut seen = BTreeSet::new();
                let mut connection = Node::shared().connect();
                while !stop.load(Relaxed) {
                    // Half of them keep their connection.
                    if client % 2 == 0 {
                        connection = Node::shared().connect();
                    }
                    let exchange = connection.exchange(&Request::get("load", "/")).expect("an answer");
                    let (answer, kept) = exchange.rest_and_connection().expect("a whole answer");
                    seen.insert(answer.ok());
                    served.fetch_add(1, Relaxed);
                    connection = kept;
                }
                seen
            })
        })
        .collect();
    for round in 0..16 {
        let before = served.load(Relaxed);
        let version = if round % 2 == 0 { "2.0.0" } else { "1.0.0" };
        match round % 4 {
            3 => cli.ok(["rollback", "load"]),
            1 => cli.ok(["deploy", version, "--app", "load", "--weight", "50"]),
            _ => cli.ok(["deploy", version, "--app", "load"]),
        };
        until("requests are served after the switch", || served.load(Relaxed) > before + 8);
    }
    stop.store(true, Relaxed);
    let both = BTreeSet::from(["1.0.0".to_owned(), "2.0.0".to_owned()]);
    for client in clients {
        assert_eq!(client.join().unwrap(), both);
    }
}

#[test]
fn an_app_that_is_deleted_is_gone_and_can_come_back() {
    let node = Node::shared();
    let cli = publish(node, "delete", &["1.0.0", "2.0.0", "3.0.0"], "");
    cli.ok(["deploy", "1.0.0", "--app", "delete"]);
    cli.ok(["deploy", "2.0.0", "--app", "delete"]);
    cli.fails(["delete", "delete", "--version", "2.0.0", "--yes"]).says(&["409 conflict"]);
    cli.ok(["delete", "delete", "--version", "3.0.0", "--yes"]);
    node.api("GET", "/v1/apps/delete/versions/3.0.0", "").problem(404, "not_found");
    assert_eq!(node.get("delete", "/").ok(), "2.0.0");
    cli.ok(["delete", "delete", "--yes"]);
    node.get("delete", "/").problem(404, "unknown_app");
    cli.fails(["delete", "delete", "--yes"]).says(&["404 not_found"]);
    // Under the same version, with other content: the old one is forgotten.
    publish(node, "delete", &["1.0.0"], "sticky = { cookie = \"x\" }").ok(["deploy", "1.0.0", "--app", "delete"]);
    assert_eq!(node.get("delete", "/").ok(), "1.0.0");
}
