//! What only a browser can tell: the example's page, as its visitors see it.

use minnow_tests::{App, Node, run_in_browser};

#[test]
fn an_order_is_seen_on_its_way_in_chromium() {
    let node = Node::start();
    node.serve(&App::of_example("tour"));
    let ran = run_in_browser("shop.mjs", &format!("http://tour.localhost:{}", node.http.port()));
    assert!(ran.status.success() && ran.stdout.ends_with("well\n"), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn a_guestbook_is_signed_in_chromium() {
    let node = Node::start();
    node.serve(&App::of_example("tour"));
    let ran = run_in_browser("guestbook.mjs", &format!("http://tour.localhost:{}", node.http.port()));
    assert!(ran.status.success() && ran.stdout.ends_with("well\n"), "{}{}", ran.stdout, ran.stderr);
    // The stores have what the pages showed.
    let cli = node.cli();
    assert_eq!(cli.ok(["kv", "get", "tour/counters", "entries"]).trim(), "3");
    assert_eq!(cli.ok(["kv", "get", "tour/counters", "visits"]).trim(), "3");
    let is_complaint = |line: &serde_json::Value| line["source"] == "stderr" || line["level"] == "error";
    let complaints: Vec<_> = node.logs("tour").into_iter().filter(is_complaint).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
