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
fn a_canary_is_judged_by_what_each_version_did() {
    let node = Node::shared();
    let cli = publish(node, "judged", &["1.0.0"], "");
    let trap = wasm::module("(module (func (export \"_start\") unreachable))");
    let bad = App::new("judged").code("web", "a.wasm", &trap, "routes = [\"/{*rest}\"]");
    cli.clone().in_dir(bad.path()).ok(["publish", "2.0.0"]);
    cli.ok(["deploy", "1.0.0", "--app", "judged"]);
    for _ in 0..5 {
        node.get("judged", "/").ok();
    }
    let traffic = || node.status("judged")["traffic"].as_array().unwrap().clone();
    until("all requests are counted", || traffic()[0]["requests"] == 5);

    // From here on both are counted anew.
    cli.ok(["deploy", "2.0.0", "--app", "judged", "--weight", "40"]);
    let begun = traffic();
    assert_eq!((&begun[0]["requests"], &begun[1]["requests"]), (&0.into(), &0.into()));
    assert_eq!((&begun[1]["p50_us"], &begun[1]["p99_us"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!(begun[0]["since_ms"], node.status("judged")["deployment"]["time_ms"]);
    let (mut good, mut failed) = (0, 0);
    for _ in 0..80 {
        match node.get("judged", "/").status {
            200 => good += 1,
            500 => failed += 1,
            other => panic!("{other}"),
        }
    }
    assert!(good > 0 && failed > 0, "{good} {failed}");
    until("all requests are counted", || {
        let sum: u64 = traffic().iter().map(|version| version["requests"].as_u64().unwrap()).sum();
        sum == 80
    });
    for (version, name, weight, requests, errors) in [(0, "1.0.0", 60, good, 0), (1, "2.0.0", 40, failed, failed)] {
        let found = &traffic()[version];
        assert_eq!((&found["version"], &found["weight"]), (&name.into(), &weight.into()));
        assert_eq!((&found["requests"], &found["failed"]), (&requests.into(), &errors.into()), "{name}");
        let (p50, p99) = (found["p50_us"].as_u64().unwrap(), found["p99_us"].as_u64().unwrap());
        assert!(0 < p50 && p50 <= p99, "{found}");
        let of_version = ["app=\"judged\"", &format!("version=\"{name}\"")];
        let counted = if version == 0 { good + 5 } else { failed };
        assert_eq!(node.metric("minnow_requests_total", &of_version), f64::from(counted), "{name}");
        let failures = node.metric("minnow_requests_total", &[of_version[0], of_version[1], "status=\"5xx\""]);
        assert_eq!(failures, f64::from(errors), "{name}");
    }
    let printed = cli.ok(["status", "judged"]);
    assert!(printed.contains(&format!("{failed} (100.0 %)")), "{printed}");
    for title in ["REQUESTS", "5XX", "P50", "P99"] {
        assert!(printed.contains(title), "{printed}");
    }

    // What is not live any more is not shown, and stays in the metrics for a while.
    cli.ok(["rollback", "judged"]);
    let after = traffic();
    assert_eq!((after.len(), &after[0]["version"], &after[0]["requests"]), (1, &"1.0.0".into(), &0.into()));
    assert_eq!(node.metric("minnow_requests_total", &["app=\"judged\"", "version=\"2.0.0\""]), f64::from(failed));
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
