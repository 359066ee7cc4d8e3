//! Guests and clients that take what they can get: what they make the node hold, and for how long, is bounded.

use std::{io::Write as _, net::Shutdown, time::Duration};

use minnow_tests::{App, Connection, Node, Request, eventually, http2, until, upstream::Silent, wasm};

/// What makes a node's functions reach the tests' servers.
const LOOPBACK: &str = "[egress]\nprivate_networks = [\"127.0.0.0/8\"]";

const MIB: u64 = 1 << 20;

#[test]
fn what_a_03_guest_does_after_its_answer_ends_with_the_invocations_time() {
    let node = Node::builder().config(LOOPBACK).start();
    let silent: Vec<(&str, Silent)> = ["fresh", "reuse"].map(|instances| (instances, Silent::start())).into();
    for (instances, silent) in &silent {
        let settings = format!("instances = \"{instances}\"\negress = [\"http://{}\"]", silent.address);
        node.serve(&App::of_guest(instances, "lab-p3", &format!("{settings}\nlimits = {{ timeout = \"5s\" }}")));
        let answer = node.get(instances, &format!("/after-fetch?url={}", silent.url("/")));
        assert_eq!(answer.ok(), "the work follows\n");
    }
    for (instances, silent) in &silent {
        // The connection is the guest's, and goes with it.
        until("the work has begun and ended", || (silent.accepted(), silent.open()) == (1, 0));
        until("nothing runs any more", || node.count(instances, "running") == 0);
        node.get(instances, "/hello").ok();
    }
}

#[test]
fn a_03_guest_that_computes_after_its_answer_is_stopped_at_its_cpu_limit() {
    let node = Node::builder().config(LOOPBACK).start();
    for instances in ["fresh", "reuse"] {
        let silent = Silent::start();
        let settings = format!("instances = \"{instances}\"\negress = [\"http://{}\"]", silent.address);
        let limits = "limits = { cpu = \"500ms\", timeout = \"10m\" }";
        node.serve(&App::of_guest(instances, "lab-p3", &format!("{settings}\n{limits}")));
        node.get(instances, "/hello").ok();
        let before = node.cpu();
        let answer = node.get(instances, &format!("/after-loop?url={}", silent.url("/")));
        assert_eq!(answer.ok(), "the work follows\n");
        until("it has computed", || node.cpu() - before > Duration::from_millis(400));
        // The connection is the guest's, and goes with it.
        until("it has been stopped", || (silent.accepted(), silent.open()) == (1, 0));
        until("nothing runs any more", || node.count(instances, "running") == 0);
        node.get(instances, "/hello").ok();
    }
    until("the log says why", || {
        node.logs("fresh").iter().any(|line| line["message"].as_str().unwrap().contains("limits.cpu = 500ms"))
    });
}

#[test]
fn a_shared_instance_that_sleeps_after_its_answer_holds_up_nobody_and_ends_with_its_time() {
    let node = Node::start();
    node.serve(&App::of_guest("asleep", "lab-p3", "instances = \"reuse\"\nlimits = { timeout = \"5s\" }"));
    // One connection, so that all requests come to the thread that has the instance.
    let mut connection = node.connect();
    for path in ["/after-block?ms=3600000", "/hello", "/hello"] {
        let (answer, kept) = connection.exchange(&Request::get("asleep", path)).unwrap().rest_and_connection().unwrap();
        answer.ok();
        connection = kept;
        // A call that is in the instance when it falls asleep sleeps with it.
        until("it sleeps", || node.logs("asleep").iter().any(|line| line["message"] == "falls asleep"));
    }
    until("its place is free again", || node.count("asleep", "running") == 0);
    until("the log says why", || {
        let told =
            |line: &serde_json::Value| line["message"].as_str().unwrap().contains("stopped after its last answer");
        node.logs("asleep").iter().any(told)
    });
}

#[test]
fn what_a_guest_makes_the_node_hold_for_it_is_bounded() {
    // See `MAX_HANDLES`: 100 MiB, and what the guests themselves have.
    const MOST: u64 = 160 * MIB;
    let node = Node::start();
    let limits = "limits = { cpu = \"60s\", timeout = \"10m\", memory = \"32MiB\" }";
    let hoards = [
        ("lab-p2", &["fields", "responses", "requests", "pollables"][..]),
        ("lab-p3", &["fields", "streams", "waits"]),
    ];
    for (code, _) in hoards {
        node.serve(&App::of_guest(code, code, limits));
        node.get(code, "/hello").ok();
    }
    let before = node.rss_bytes();
    for (code, things) in hoards {
        for thing in things {
            assert_eq!(node.get(code, &format!("/hoard?what={thing}&n=50")).json()["held"], 50, "{code} {thing}");
            let answer = node.get(code, &format!("/hoard?what={thing}&n=6000"));
            assert_eq!(answer.status, 500, "{code} {thing}: {}", answer.text());
            answer.problem(500, "function_trapped");
            let grown = node.peak_rss_bytes().saturating_sub(before);
            assert!(grown < MOST, "{code} {thing}: the node grew by {} MiB", grown / MIB);
            node.get(code, "/hello").ok();
        }
    }
}

#[test]
fn an_http2_client_that_takes_nothing_costs_little_and_its_invocations_end() {
    const STREAMS: usize = 40;
    const MOST: u64 = 64 * MIB;
    let node = Node::start();
    node.serve(&App::of_guest("full", "lab-p2", "limits = { timeout = \"5s\", cpu = \"60s\" }"));
    node.get("full", "/hello").ok();
    let before = node.rss_bytes();
    let stopped = || {
        let lines = node.logs("full");
        lines.iter().filter(|line| line["message"].as_str().unwrap().contains("limits.timeout = 5s")).count()
    };
    let path = format!("/download?bytes={}", 1024 * MIB);
    let heads = http2::take_nothing(node.http, "full.localhost", &path, STREAMS, || stopped() == STREAMS);
    assert_eq!(heads, [200; STREAMS]);
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < MOST, "the node grew by {} MiB", grown / MIB);
    until("nothing runs any more", || node.count("full", "running") == 0);
    node.get("full", "/hello").ok();
}

#[test]
fn those_that_run_and_those_that_wait_always_have_room_beside_each_other() {
    for code in ["lab-p2", "lab-p3"] {
        let node = Node::builder().config("[sandboxes]\nmax = 4\nqueue = 0").start();
        node.serve(&App::of_guest("other", code, "limits = { timeout = \"10m\" }"));
        let warm = [0, 1, 2, 3].map(|index| format!("warm{index}"));
        for name in &warm {
            node.serve(&App::of_guest(name, code, "instances = \"reuse\""));
        }
        for _ in 0..3 {
            // More than may wait.
            for name in &warm {
                node.get(name, "/hello").ok();
            }
            until("all places are free", || warm.iter().all(|name| node.count(name, "running") == 0));
            // As many as may run.
            let mut held: Vec<_> = (0..4).map(|_| node.open(&Request::get("other", "/sse?n=2&ms=600000"))).collect();
            for response in &mut held {
                assert_eq!(response.status, 200, "{code}");
                response.read_until("event 1\n");
            }
            drop(held);
            until("all places are free", || node.count("other", "running") == 0);
        }
    }
}

#[test]
fn a_shared_instance_that_works_on_after_its_answers_counts_as_one_that_runs() {
    let node = Node::builder().config(&format!("{LOOPBACK}\n[sandboxes]\nmax = 2")).start();
    let silent = Silent::start();
    let work_on = format!("/after-fetch?url={}", silent.url("/"));
    // Beyond the two, a request waits until one of those before it has come to its end, and then gets its instance.
    for (name, timeout, path) in
        [("first", "3s", &*work_on), ("second", "3s", &work_on), ("third", "5m", &work_on), ("fourth", "5m", "/hello")]
    {
        let settings = format!("instances = \"reuse\"\negress = [\"http://{}\"]", silent.address);
        node.serve(&App::of_guest(name, "lab-p3", &format!("{settings}\nlimits = {{ timeout = \"{timeout}\" }}")));
        node.get(name, path).ok();
    }
}

#[test]
fn code_that_is_a_large_part_of_the_cache_stays_loaded() {
    let node = Node::builder().config("[sandboxes]\ncode = \"24MiB\"").start();
    let data = "x".repeat(14 << 20);
    let answer = "Content-Type: text/plain\\0a\\0alarge";
    // Its data is in the compiled artifact, whole.
    let large = wasm::module(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 256)
            (data (i32.const 0) "\10\00\00\00\1f\00\00\00")
            (data (i32.const 16) "{answer}")
            (data (i32.const 65536) "{data}")
            (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    ));
    node.serve(&App::new("large").code("web", "a.wasm", &large, "routes = [\"/\"]\nlimits = { memory = \"32MiB\" }"));
    for _ in 0..5 {
        assert_eq!(node.get("large", "/").ok(), "large");
    }
    assert_eq!(node.metric("minnow_load_duration_seconds_count", &["app=\"large\""]), 1.0);
    assert!(node.metric("minnow_loaded_code_bytes", &[]) > f64::from(14 << 20));
}

#[test]
fn a_client_that_leaves_a_shared_instance_is_counted_out_and_the_others_finish() {
    // One worker, so that all connections meet the same instance.
    let node = Node::builder().config("[gateway]\nworkers = 1").start();
    node.serve(&App::of_guest("shared", "lab-p3", "instances = \"reuse\"\nlimits = { timeout = \"10m\" }"));
    let instance = || node.get("shared", "/state").json()["instance"].clone();
    let first = instance();
    let mut beside = node.connect();
    let head = Request::get("shared", "/echo").method("POST").header("content-length", "10");
    beside.write_head(&head).unwrap();
    beside.write(b"first").unwrap();
    let mut writer = beside.writer();
    let mut beside = beside.response(false).unwrap();
    assert_eq!(beside.read_until("first"), "first");
    let mut leaving = node.connect();
    leaving.write_head(&Request::get("shared", "/sleep?ms=600000")).unwrap();
    until("both run", || node.count("shared", "running") == 2);
    assert_eq!(instance(), first, "one instance serves them all");

    drop(leaving);
    until("its call is counted out", || node.count("shared", "running") == 1);
    let next = instance();
    assert_ne!(next, first, "the instance in which it still goes on takes no more");
    writer.write_all(b"final").unwrap();
    assert_eq!(beside.rest().unwrap().text(), "final");
    until("nothing runs any more", || node.count("shared", "running") == 0);
    assert_eq!(instance(), next);
}

/// Sends half a body to `path`. Gives the connection and its sending side.
fn send_half(node: &Node, app: &str, path: &str) -> (Connection, std::net::TcpStream) {
    let mut connection = node.connect();
    let head = Request::get(app, path).method("POST").header("content-length", "1000");
    connection.write_head(&head).unwrap();
    connection.write(b"half of it").unwrap();
    let writer = connection.writer();
    (connection, writer)
}

/// How many requests of an app were counted with a label.
fn counted(node: &Node, app: &str, label: &str) -> f64 {
    node.metric("minnow_requests_total", &[&format!("app=\"{app}\""), label])
}

#[test]
fn a_request_that_breaks_off_is_not_told_as_the_commands_failure() {
    let node = Node::shared();
    for (name, code) in [("broken-cgi", "cgi-component"), ("broken-core", "cgi-c")] {
        node.serve(&App::of_guest(name, code, "limits = { timeout = \"10m\" }"));
        // Its answer has begun when the client says that nothing more will come, or is gone altogether.
        let (connection, writer) = send_half(node, name, "/echo");
        let mut answer = connection.response(false).unwrap();
        assert_eq!(answer.read_until("half of it"), "half of it");
        writer.shutdown(Shutdown::Write).unwrap();
        assert!(answer.drain().is_err(), "{name}: the answer must not look complete");
        until("it is counted as the client's", || counted(node, name, "status=\"4xx\"") == 1.0);
        let line = eventually("the log says why", || {
            let lines = node.logs(name);
            lines.into_iter().find(|line| line["source"] == "node" && line["function"] == "web")
        });
        let message = line["message"].as_str().unwrap();
        assert!(
            message.starts_with("the request's body broke off") && message.contains("exited with code 1"),
            "{line}"
        );
        assert_eq!(line["level"], "warn");

        let (connection, writer) = send_half(node, name, "/echo");
        let mut answer = connection.response(false).unwrap();
        assert_eq!(answer.read_until("half of it"), "half of it");
        drop((writer, answer));
        until("it is counted as the client's", || counted(node, name, "status=\"4xx\"") == 2.0);

        // With HTTP/2 the command is stopped before it sees why.
        let is_counted = || counted(node, name, "status=\"4xx\"") == 3.0;
        http2::take_back_upload(node.http, &format!("{name}.localhost"), "/echo", is_counted);
        assert_eq!(
            (counted(node, name, "status=\"2xx\""), counted(node, name, "status=\"5xx\"")),
            (0.0, 0.0),
            "{name}"
        );
    }

    // Its answer has not begun.
    let (connection, writer) = send_half(node, "broken-cgi", "/count");
    writer.shutdown(Shutdown::Write).unwrap();
    connection.response(false).unwrap().rest().unwrap().problem(400, "bad_request");
    until("it is counted so", || counted(node, "broken-cgi", "code=\"bad_request\"") >= 1.0);
    assert_eq!(counted(node, "broken-cgi", "code=\"function_exited\""), 0.0);
    // A command that fails of itself is told as before, whatever is left of its request.
    node.post("broken-cgi", "/exit", vec![b'x'; 100_000]).problem(500, "function_exited");
}

#[test]
fn a_body_that_is_cut_short_does_not_look_complete_to_the_guest() {
    let node = Node::shared();
    for (name, code, instances, error) in [
        ("short2", "lab-p2", "fresh", "Some("),
        ("short2warm", "lab-p2", "reuse", "Some("),
        ("short3", "lab-p3", "fresh", "Some(\"connection-terminated\")"),
        ("short3warm", "lab-p3", "reuse", "Some(\"connection-terminated\")"),
    ] {
        node.serve(&App::of_guest(
            name,
            code,
            &format!("instances = \"{instances}\"\nlimits = {{ timeout = \"10m\" }}"),
        ));
        let last = || node.logs(name).last().map(|line| line["message"].as_str().unwrap().to_owned());
        assert_eq!(node.post(name, "/count", "whole").json(), serde_json::json!({ "bytes": 5, "error": null }));
        until("the guest has seen its end", || last().as_deref() == Some("the body had 5 bytes and ended with None"));

        let (connection, writer) = send_half(node, name, "/count");
        writer.shutdown(Shutdown::Write).unwrap();
        let line = eventually("the guest has seen it break off", || last().filter(|line| line.contains("10 bytes")));
        assert!(line.starts_with(&format!("the body had 10 bytes and ended with {error}")), "{name}: {line}");
        if let Ok(answer) = connection.response(false).and_then(|response| response.rest()) {
            assert!(answer.status >= 400 || !answer.json()["error"].is_null(), "{name}: {}", answer.text());
        }

        // Chunks that are none.
        let mut connection = node.connect();
        let head = Request::get(name, "/count").method("POST").header("transfer-encoding", "chunked");
        connection.write_head(&head).unwrap();
        connection.write(b"7\r\nchunked\r\nnot a size\r\n").unwrap();
        let line = eventually("the guest has seen it break off", || last().filter(|line| line.contains("7 bytes")));
        assert!(line.starts_with(&format!("the body had 7 bytes and ended with {error}")), "{name}: {line}");
        until("nothing runs any more", || node.count(name, "running") == 0);
    }
}

#[test]
fn a_function_that_prints_without_end_does_not_flood_the_log() {
    const LINES: u64 = 600_000;
    let node = Node::start();
    node.serve(&App::of_guest("quiet", "lab-p2", ""));
    node.serve(&App::of_guest("noisy", "lab-p2", "limits = { cpu = \"60s\", timeout = \"10m\" }"));
    node.get("quiet", "/log").ok();
    node.serve(&App::of_guest("burst", "lab-p2", "limits = { cpu = \"60s\" }"));
    node.get("burst", "/print?n=10000").ok();
    assert_eq!(node.metric("minnow_log_lines_dropped_total", &[]), 0.0);
    let began = std::time::Instant::now();
    node.get("noisy", &format!("/print?n={LINES}")).ok();
    let most = 10_000 + 10_000 * (began.elapsed().as_secs() + 1);
    node.get("quiet", "/log").ok();
    let dropped = || node.metric("minnow_log_lines_dropped_total", &[]) as u64;
    let kept = LINES - dropped();
    assert!(kept <= most, "{kept} lines were kept");
    if most < LINES {
        let is_told = |line: &serde_json::Value| line["message"].as_str().unwrap().ends_with("log lines were dropped");
        until("the log says how many are missing", || node.logs("noisy").iter().any(is_told));
    }
    let quiet = node.logs("quiet");
    let heard = quiet.iter().filter(|line| line["message"] == "lab stdout one").count();
    assert_eq!(heard, 2, "{quiet:?}");
}

#[test]
fn a_host_that_never_completes_tls_is_given_up() {
    let (node, silent) = (Node::builder().config(LOOPBACK).start(), Silent::start());
    // Longer than the test waits.
    let settings = format!("egress = [\"https://{}\"]\nlimits = {{ timeout = \"10m\" }}", silent.address);
    node.serve(&App::of_guest("tls", "lab-p2", &settings));
    let answer = node.get("tls", &format!("/fetch?url=https://{}/", silent.address));
    assert_eq!(answer.json(), serde_json::json!({ "error": "connection-timeout" }));
    until("the connection is closed", || (silent.accepted(), silent.open()) == (1, 0));
}
