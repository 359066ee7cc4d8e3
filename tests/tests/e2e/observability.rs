//! Seeing what happens: logs, metrics, traces.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
};

use minnow_tests::{App, Node, PATIENCE, Request, eventually, until, upstream::Upstream, wasm};
use serde_json::Value;

fn lab(name: &str) -> &'static Node {
    let node = Node::shared();
    node.serve(&App::of_guest(name, "lab-p2", ""));
    node
}

#[test]
fn what_a_function_prints_is_in_the_log_with_where_it_came_from() {
    let node = lab("lines");
    let answer = node.get("lines", "/log");
    let id = answer.header("x-request-id").unwrap();
    let lines: Vec<Value> = eventually("all lines are in the log", || {
        let lines: Vec<Value> = node.logs("lines").into_iter().filter(|line| line["request_id"] == id).collect();
        (lines.len() >= 5).then_some(lines)
    });
    let found = |message: &str| lines.iter().find(|line| line["message"] == message);
    for (message, source) in [
        ("lab stdout one", "stdout"),
        ("lab stdout two", "stdout"),
        ("lab stderr one", "stderr"),
        ("lab stderr two", "stderr"),
    ] {
        let line = found(message).unwrap_or_else(|| panic!("`{message}` is not in {lines:?}"));
        assert_eq!(line["source"], source);
        assert_eq!(
            (&line["app"], &line["version"], &line["function"]),
            (&"lines".into(), &"0.1.0".into(), &"web".into())
        );
        assert!(line["time_ms"].as_u64().unwrap() > 1_600_000_000_000);
    }
    let long = lines.iter().find_map(|line| line["message"].as_str().filter(|text| text.starts_with("xxx"))).unwrap();
    assert!(long.len() <= 16 * 1024 && long.ends_with('…'), "{} bytes", long.len());
}

#[test]
fn a_commands_stderr_is_in_the_log() {
    let node = Node::shared();
    node.serve(&App::of_guest("stderr", "cgi-component", ""));
    assert_eq!(node.get("stderr", "/log").ok(), "Hello, World!\n");
    until("the line is in the log", || {
        node.logs("stderr")
            .iter()
            .any(|line| line["message"] == "cgi-component says hello" && line["source"] == "stderr")
    });
}

#[test]
fn a_line_without_an_end_is_in_the_log_when_the_guest_has_ended() {
    let node = Node::shared();
    let module = wasm::module(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\0a\00\00\00")
            (data (i32.const 16) "first\0alast")
            (func (export "_start") (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    );
    node.serve(&App::new("noend").code("web", "a.wasm", &module, "routes = [\"/\"]"));
    node.get("noend", "/").problem(502, "invalid_response");
    until("both lines are in the log", || {
        let lines = node.logs("noend");
        ["first", "last"].iter().all(|text| lines.iter().any(|line| line["message"] == *text))
    });
}

#[test]
fn the_log_can_be_followed_and_cut_by_time_function_and_count() {
    let node = Node::shared();
    let app = App::new("follow").function("one", "lab-p2", "routes = [\"/one/{*rest}\", \"/log\"]");
    node.serve(&app.function("two", "cgi-component", "routes = [\"/two/{*rest}\"]"));
    node.get("follow", "/two/log").ok();
    let cli = node.cli();
    until("the first line is there", || cli.ok(["logs", "follow"]).contains("cgi-component says hello"));

    let mut command = cli.command(["logs", "follow", "-f"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut following = cli.start(command);
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(following.stdout.take().unwrap());
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let wait_for = |text: &str| {
        while !lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("`{text}` does not come")).contains(text) {}
    };
    // What was there, and what comes.
    wait_for("cgi-component says hello");
    node.get("follow", "/log").ok();
    wait_for("lab stderr two");
    assert!(following.try_wait().unwrap().is_none(), "it goes on");
    following.kill().unwrap();
    following.wait().unwrap();

    let one = cli.ok(["logs", "follow", "--function", "one"]);
    assert!(one.contains("lab stdout one") && !one.contains("cgi-component"), "{one}");
    assert_eq!(cli.ok(["logs", "follow", "--limit", "2"]).lines().count(), 2);
    assert!(cli.ok(["logs", "follow", "--since", "1h"]).contains("lab stdout one"));
    assert_eq!(cli.ok(["logs", "follow", "--since", "2099-01-01T00:00:00Z"]), "");
    for line in cli.ok(["logs", "follow", "--json"]).lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["app"], "follow");
    }
}

#[test]
fn the_log_is_bounded() {
    let node = Node::builder().config("[logs]\nsegment = \"64KiB\"\nsegments_per_app = 2").start();
    node.serve(&App::of_guest("chatty", "lab-p2", ""));
    // Each prints 16 KiB and more.
    let ids: Vec<String> =
        (0..40).map(|_| node.get("chatty", "/log").header("x-request-id").unwrap().to_owned()).collect();
    let last = ids.last().unwrap().as_str();
    until("the last lines are there", || {
        node.logs("chatty").iter().filter(|line| line["request_id"] == last).count() == 5
    });
    assert!(node.logs("chatty").iter().all(|line| line["request_id"] != ids[0].as_str()), "the oldest lines went");
    let mut bytes = 0;
    let mut folders = vec![node.data_dir().join("logs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.metadata().unwrap().is_dir() {
                folders.push(entry.path())
            } else {
                bytes += entry.metadata().unwrap().len()
            }
        }
    }
    assert!(bytes <= 3 * (64 << 10) + (32 << 10), "{bytes} bytes of log");
}

#[test]
fn metrics_tell_what_happened() {
    let node = lab("metrics");
    for path in ["/hello", "/hello", "/panic", "/burn?ms=500", "/alloc?mb=8"] {
        node.get("metrics", path);
    }
    let of_app = ["app=\"metrics\"", "function=\"web\""];
    let metric = |name: &str| node.metric(name, &of_app);
    // The last of what is counted for each request.
    until("all requests are counted", || {
        metric("minnow_cold_starts_total") + metric("minnow_warm_starts_total") == 5.0
    });
    assert_eq!(metric("minnow_request_duration_seconds_count"), 5.0);
    assert_eq!(node.metric("minnow_requests_total", &["app=\"metrics\"", "status=\"2xx\""]), 4.0);
    assert_eq!(node.metric("minnow_requests_total", &["app=\"metrics\"", "code=\"function_trapped\""]), 1.0);
    assert_eq!(metric("minnow_queue_duration_seconds_count"), 5.0);
    assert_eq!(metric("minnow_peak_memory_bytes_count"), 5.0);
    assert!(metric("minnow_peak_memory_bytes_sum") > f64::from(8 << 20));
    assert_eq!(metric("minnow_instantiate_duration_seconds_count"), 5.0);
    assert!(metric("minnow_cpu_seconds_total") > 0.02, "{}", metric("minnow_cpu_seconds_total"));
    assert_eq!(metric("minnow_sandboxes"), 0.0);
    node.get("nobody", "/").problem(404, "unknown_app");
    assert!(node.metric("minnow_gateway_requests_total", &["code=\"unknown_app\""]) >= 1.0);
    for name in ["minnow_apps", "minnow_versions", "minnow_compile_duration_seconds_count", "minnow_loaded_code_bytes"]
    {
        assert!(node.metric(name, &[]) >= 1.0, "{name}");
    }
    assert!(node.metric("process_resident_memory_bytes", &[]) > 1e6);
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The traceparent that the guest was given.
fn traceparent(answer: &minnow_tests::Answer) -> String {
    let seen = answer.json();
    let headers = seen["headers"].as_array().unwrap();
    let found: Vec<&str> =
        headers.iter().filter(|pair| pair[0] == "traceparent").map(|pair| pair[1].as_str().unwrap()).collect();
    assert_eq!(found.len(), 1, "{headers:?}");
    found[0].to_owned()
}

#[test]
fn the_trace_of_the_caller_goes_on() {
    let node = lab("trace");
    let sent = format!("00-{TRACE}-{PARENT}-01");
    let answer = node.send(&Request::get("trace", "/headers").header("traceparent", &sent));
    let seen = traceparent(&answer);
    assert!(seen.starts_with(&format!("00-{TRACE}-")) && seen.ends_with("-01") && seen != sent, "{seen}");
    // Without one, or with one that is none, a new trace begins.
    let begun = traceparent(&node.get("trace", "/headers"));
    assert!(begun.len() == 55 && !begun.contains(TRACE), "{begun}");
    let broken = Request::get("trace", "/headers").header("traceparent", "00-zz-01");
    assert_eq!(traceparent(&node.send(&broken)).len(), 55);
}

#[test]
fn the_trace_goes_on_to_those_that_a_function_calls() {
    let upstream = Upstream::start("reached");
    let node = Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start();
    node.serve(&App::of_guest("out", "lab-p2", &format!("egress = [\"http://{}\"]", upstream.address)));
    let request = Request::get("out", &format!("/fetch?url={}", upstream.url("/")));
    node.send(&request.header("traceparent", &format!("00-{TRACE}-{PARENT}-01"))).ok();
    let (head, _) = &upstream.requests()[0];
    let sent = head.iter().find_map(|line| line.strip_prefix("traceparent: ")).expect("a traceparent is sent");
    assert!(sent.starts_with(&format!("00-{TRACE}-")), "{sent}");
}

#[test]
fn spans_are_exported_when_the_standard_variables_ask_for_it() {
    let collector = Upstream::start("");
    let node = Node::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address))
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start();
    node.serve(&App::of_guest("spans", "lab-p2", ""));
    let answer =
        node.send(&Request::get("spans", "/hello?q=1").header("traceparent", &format!("00-{TRACE}-{PARENT}-01")));
    answer.ok();
    node.get("spans", "/panic").problem(500, "function_trapped");
    let of_trace = eventually("the span arrives", || {
        collector.spans().into_iter().find(|span| hex::encode(&span.trace_id) == TRACE)
    });
    assert_eq!(hex::encode(&of_trace.parent_span_id), PARENT);
    assert!(of_trace.name.contains("spans/web"), "{}", of_trace.name);
    assert!(of_trace.end_time_unix_nano > of_trace.start_time_unix_nano);
    let attributes = format!("{:?}", of_trace.attributes);
    for part in ["/hello", "spans", "web", "0.1.0"] {
        assert!(attributes.contains(part), "`{part}` is not in {attributes}");
    }
    until("the failed request's span arrives", || {
        collector.spans().iter().any(|span| format!("{:?}", span.attributes).contains("function_trapped"))
    });
    // What was not sampled is not exported.
    let other = TRACE.replace('4', "5");
    node.send(&Request::get("spans", "/hello").header("traceparent", &format!("00-{other}-{PARENT}-00"))).ok();
    node.terminate();
    assert!(node.wait().success());
    assert!(collector.spans().iter().all(|span| hex::encode(&span.trace_id) != other));
}

#[test]
fn a_request_id_is_new_for_each_request_and_in_every_answer() {
    let node = lab("ids");
    let ids: std::collections::BTreeSet<String> = ["/hello", "/hello", "/nothing", "/panic"]
        .into_iter()
        .map(|path| node.get("ids", path).header("x-request-id").unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 4);
}

#[test]
fn the_nodes_own_log_is_structured() {
    let node = Node::start();
    let first = eventually("the node logs", || node.log().lines().next().map(str::to_owned));
    let line: Value = serde_json::from_str(&first).unwrap();
    for key in ["timestamp", "level", "message"] {
        assert!(line[key].is_string(), "{line}");
    }
}
