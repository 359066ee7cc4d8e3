//! Warm instances: what they may hold, and what becomes of them.

use std::thread;

use minnow_tests::{App, Node, until};

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
    let cli = node.cli();
    for (name, code, settings) in [
        ("charge2", "hello-p2", ""),
        ("charge2r", "hello-p2", REUSE),
        ("charge3", "hello-p3", ""),
        ("charge3r", "hello-p3", REUSE),
    ] {
        node.serve(&App::of_guest(name, code, settings));
        // The first call starts the instance, the second meets it.
        for _ in 0..2 {
            let invoked = cli.json(["invoke", &format!("{name}/web"), "--json"]);
            assert!(invoked["usage"]["cpu_us"].as_f64().is_some_and(|cpu| cpu > 0.0), "{name}: {invoked}");
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
fn memory_that_one_call_was_refused_is_not_why_a_later_one_fails() {
    let node = Node::start();
    node.serve(&warm("refused", "lab-p3", "memory = \"16MiB\""));
    assert_eq!(node.get("refused", "/alloc?mb=64").status, 507);
    node.get("refused", "/panic").problem(500, "function_trapped");
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
