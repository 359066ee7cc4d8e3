//! Warm instances: what they may hold, and what becomes of them.

use std::thread;

use minnow_tests::{App, Node, until, upstream::Upstream};

const REUSE: &str = "instances = \"reuse\"";

/// An app of one function that keeps its instances, with `limits`.
fn warm(name: &str, code: &str, limits: &str) -> App {
    App::of_guest(name, code, &format!("{REUSE}\n[functions.web.limits]\n{limits}"))
}

#[test]
fn instances_that_wait_take_no_place_from_those_that_run() {
    let node = Node::builder().config("[sandboxes]\nmax = 4").start();
    for (index, code) in ["hello-p2", "hello-p2", "hello-p2", "hello-p3", "hello-p3", "hello-p3"].iter().enumerate() {
        let name = format!("warm{index}");
        node.serve(&warm(&name, code, ""));
        node.get(&name, "/").ok();
    }
    node.serve(&App::of_guest("other", "hello-p2", ""));
    for _ in 0..8 {
        node.get("other", "/").ok();
    }
}

#[test]
fn every_call_is_charged_its_cpu_time() {
    let node = Node::shared();
    for (name, code, settings) in [
        ("charge2", "hello-p2", ""),
        ("charge2r", "hello-p2", REUSE),
        ("charge3", "hello-p3", ""),
        ("charge3r", "hello-p3", REUSE),
    ] {
        node.serve(&App::of_guest(name, code, settings));
        let app = format!("app=\"{name}\"");
        let cpu = || node.metric("minnow_cpu_seconds_total", &[&app]);
        for count in 1..=5 {
            let before = cpu();
            node.get(name, "/").ok();
            until("it is counted", || {
                let counted = ["minnow_cold_starts_total", "minnow_warm_starts_total"];
                counted.iter().map(|metric| node.metric(metric, &[&app])).sum::<f64>() == f64::from(count)
            });
            // A call of a component takes some microseconds on any machine.
            assert!(cpu() - before > 2e-6, "{name}: {} s", cpu() - before);
        }
    }
}

#[test]
fn calls_in_one_instance_do_not_use_up_each_others_cpu_time() {
    let node = Node::shared();
    // Together thirty calls compute three times as long as each of them may.
    node.serve(&warm("apart", "lab-p3", "cpu = \"1s\"\ntimeout = \"5m\""));
    node.get("apart", "/hello").ok();
    let calls: Vec<_> = (0..30).map(|_| thread::spawn(|| Node::shared().get("apart", "/burn?ms=100").ok())).collect();
    for call in calls {
        call.join().unwrap();
    }
}

#[test]
fn an_instance_that_has_served_enough_ends_its_work_before_it_goes() {
    let node = Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start();
    let upstream = Upstream::start("heard");
    let egress = format!("{REUSE}\negress = [\"http://{}\"]", upstream.address);
    node.serve(&App::of_guest("follows", "lab-p3", &egress));
    // An instance is replaced after a thousand.
    for _ in 0..1_010 {
        node.get("follows", &format!("/after-fetch?url={}", upstream.url("/"))).ok();
    }
    until("all work was done", || upstream.requests().len() == 1_010);
}

#[test]
fn a_shared_instance_that_cannot_be_made_fails_its_requests_once() {
    let node = Node::start();
    node.serve(&warm("toosmall", "hello-p3", "memory = \"1MiB\""));
    for _ in 0..3 {
        node.get("toosmall", "/").problem(500, "memory_limit");
    }
    until("nothing runs any more", || node.count("toosmall", "running") == 0);
}

#[test]
fn all_sandboxes_together_hold_no_more_than_the_node_has_for_them() {
    let node = Node::builder().config("[sandboxes]\nmemory = \"48MiB\"").start();
    node.serve(&App::of_guest("lab", "lab-p2", ""));
    node.get("lab", "/alloc?mb=16").ok();
    // The guest notices that it gets no more, well below its own limit, and says so itself.
    assert_eq!(node.get("lab", "/alloc?mb=64").status, 507);
    // What ended gave its memory back.
    until("nothing runs any more", || node.count("lab", "running") == 0);
    node.get("lab", "/alloc?mb=16").ok();
    until("nothing runs any more", || node.count("lab", "running") == 0);
    // One that cannot even begin is told that the node is full.
    let large = minnow_tests::wasm::module("(module (memory 1024) (func (export \"_start\")))");
    node.serve(&App::new("large").code("web", "a.wasm", &large, "routes = [\"/\"]"));
    node.get("large", "/").problem(503, "node_overloaded");
}
