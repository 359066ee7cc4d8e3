//! What one invocation may use, and what happens beyond it.

use std::thread;

use minnow_tests::{App, Node, Request, eventually, until, wasm};

fn serve(name: &str, code: &str, limits: &str) -> &'static Node {
    let node = Node::shared();
    node.serve(&App::of_guest(name, code, &format!("[functions.web.limits]\n{limits}")));
    node
}

#[test]
fn more_memory_than_the_limit_is_refused_with_its_own_code() {
    let node = serve("memory", "lab-p2", "memory = \"32MiB\"");
    node.get("memory", "/alloc?mb=16").ok();
    // This guest notices that it gets no more and answers 507 itself: that is its right.
    let noticed = node.get("memory", "/alloc?mb=64");
    assert_eq!((noticed.status, noticed.text().as_str()), (507, "the allocation was refused\n"));
    // One that does not is stopped.
    let greedy = wasm::module(
        r#"(module (memory (export "memory") 1) (func (export "_start")
            (if (i32.eq (memory.grow (i32.const 2000)) (i32.const -1)) (then unreachable))))"#,
    );
    node.serve(&App::new("greedy").code("web", "a.wasm", &greedy, "routes = [\"/\"]\nlimits = { memory = \"16MiB\" }"));
    let id = node.get("greedy", "/").problem(500, "memory_limit");
    until("the log says which limit it was", || {
        node.logs("greedy").iter().any(|line| {
            line["request_id"] == id && line["message"].as_str().unwrap().contains("limits.memory = 16.0 MiB")
        })
    });
}

#[test]
fn memory_that_a_module_wants_from_the_start_counts_too() {
    let node = Node::shared();
    for (name, demand) in [("startmemory", "(memory 1024)"), ("starttable", "(memory 480) (table 1000000 funcref)")] {
        let module = wasm::module(&format!("(module {demand} (func (export \"_start\")))"));
        let settings = "routes = [\"/\"]\nlimits = { memory = \"32MiB\" }";
        node.serve(&App::new(name).code("web", "a.wasm", &module, settings));
        node.get(name, "/").problem(500, "memory_limit");
    }
}

#[test]
fn memories_and_tables_of_one_instance_count_together() {
    let node = Node::shared();
    // 20 MiB of memory and a table of 8 MB: each fits into 24 MiB, both do not.
    let both = wasm::module(
        r#"(module (memory (export "memory") 1) (table $t 0 funcref) (func (export "_start")
            (if (i32.eq (memory.grow (i32.const 320)) (i32.const -1)) (then unreachable))
            (if (i32.eq (table.grow $t (ref.null func) (i32.const 1000000)) (i32.const -1)) (then unreachable))))"#,
    );
    node.serve(&App::new("together").code("web", "a.wasm", &both, "routes = [\"/\"]\nlimits = { memory = \"24MiB\" }"));
    node.get("together", "/").problem(500, "memory_limit");
    node.serve(&App::new("together2").code(
        "web",
        "a.wasm",
        &both,
        "routes = [\"/\"]\nlimits = { memory = \"64MiB\" }",
    ));
    // It has the memory, and then has no answer to give.
    node.get("together2", "/").problem(502, "invalid_response");
}

#[test]
fn an_endless_loop_is_stopped_at_its_cpu_limit_while_others_are_served() {
    let node = serve("spin", "lab-p2", "cpu = \"2s\"\ntimeout = \"2m\"\nconcurrency = 4");
    node.serve(&App::of_guest("beside", "lab-p2", "limits = { timeout = \"2m\" }"));
    node.get("beside", "/hello").ok();
    let loops: Vec<_> =
        (0..4).map(|_| thread::spawn(|| Node::shared().get("spin", "/loop").problem(500, "cpu_limit"))).collect();
    until("the loops run", || node.count("spin", "running") == 4);
    let mut served = 0;
    loop {
        node.get("beside", "/hello").ok();
        // Answered while they all run, and not because one of them has ended.
        if loops.iter().any(thread::JoinHandle::is_finished) {
            break;
        }
        served += 1;
    }
    assert!(served >= 2, "only {served} requests were served beside the loops");
    for running in loops {
        running.join().unwrap();
    }
    until("nothing runs any more", || node.count("spin", "running") == 0);
}

#[test]
fn every_kind_of_guest_is_stopped_at_its_cpu_limit() {
    let node = serve("spin3", "lab-p3", "cpu = \"200ms\"");
    node.get("spin3", "/loop").problem(500, "cpu_limit");
    node.get("spin3", "/hello").ok();
    let reuse = "instances = \"reuse\"\nlimits = { cpu = \"200ms\" }";
    for (name, code) in [("spinwarm2", "lab-p2"), ("spinwarm3", "lab-p3")] {
        node.serve(&App::of_guest(name, code, reuse));
        node.get(name, "/hello").ok();
        node.get(name, "/loop").problem(500, "cpu_limit");
        node.get(name, "/hello").ok();
    }
    let spin = wasm::module("(module (func (export \"_start\") (loop (br 0))))");
    node.serve(&App::new("spinc").code("web", "a.wasm", &spin, "routes = [\"/\"]\nlimits = { cpu = \"200ms\" }"));
    node.get("spinc", "/").problem(500, "cpu_limit");
    let start = wasm::module("(module (func $spin (loop (br 0))) (start $spin) (func (export \"_start\")))");
    node.serve(&App::new("spins").code("web", "a.wasm", &start, "routes = [\"/\"]\nlimits = { cpu = \"200ms\" }"));
    node.get("spins", "/").problem(500, "cpu_limit");
}

#[test]
fn cpu_time_that_is_within_the_limit_is_not_cut_short_by_others() {
    let node = serve("burn", "lab-p2", "cpu = \"20s\"\nconcurrency = 8");
    let burning: Vec<_> = (0..6).map(|_| thread::spawn(|| Node::shared().get("burn", "/burn?ms=300").ok())).collect();
    for burns in burning {
        burns.join().unwrap();
    }
    until("nothing runs any more", || node.count("burn", "running") == 0);
}

#[test]
fn an_invocation_that_waits_too_long_gets_a_timeout() {
    // Far more than an answer takes, also on a busy machine, and far less than any of these would wait.
    let settings = "timeout = \"2s\"";
    for (name, code, paths) in
        [("wait2", "lab-p2", &["/sleep?ms=600000", "/never"][..]), ("wait3", "lab-p3", &["/sleep?ms=600000"])]
    {
        let node = serve(name, code, settings);
        for path in paths {
            node.get(name, path).problem(504, "timeout");
        }
        until("others are served", || node.get(name, "/hello").status == 200);
        until("nothing runs any more", || node.count(name, "running") == 0);
    }
    let node = serve("waitcgi", "cgi-component", settings);
    let mut slow = node.open(&Request::get("waitcgi", "/slow?ms=600000"));
    assert_eq!(slow.read_until("first\n"), "first\n");
    assert!(slow.piece().is_err(), "the body must not look complete");
}

#[test]
fn a_response_that_stalls_is_broken_off_at_the_timeout() {
    let node = serve("stall", "lab-p2", "timeout = \"2s\"");
    let mut stalled = node.open(&Request::get("stall", "/stall"));
    assert_eq!(stalled.status, 200);
    assert_eq!(stalled.read_until("stalled\n"), "stalled\n");
    assert!(stalled.piece().is_err(), "the body must not look complete");
    let node = serve("stall3", "lab-p3", "timeout = \"2s\"");
    let mut stalled = node.open(&Request::get("stall3", "/sse?n=2&ms=600000"));
    stalled.read_until("event 1");
    assert!(stalled.drain().is_err(), "the body must not look complete");
    until("nothing runs any more", || node.count("stall", "running") + node.count("stall3", "running") == 0);
}

#[test]
fn a_client_that_uploads_too_slowly_meets_the_timeout() {
    let node = serve("slowup", "lab-p2", "timeout = \"500ms\"");
    let mut connection = node.connect();
    let head = Request::get("slowup", "/count").method("POST").header("content-length", "10");
    connection.write_head(&head).unwrap();
    connection.write(b"half ").unwrap();
    connection.response(false).unwrap().rest().unwrap().problem(504, "timeout");
}

#[test]
fn beyond_concurrency_and_queue_a_request_is_refused_at_once() {
    let node = serve("crowd", "lab-p2", "concurrency = 2\nqueue = 2\ntimeout = \"5m\"");
    // Each waits for a body that comes when it is told to.
    let mut waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut connection = node.connect();
            let head = Request::get("crowd", "/count").method("POST").header("content-length", "4");
            connection.write_head(&head).unwrap();
            connection
        })
        .collect();
    until("two run and two wait", || (node.count("crowd", "running"), node.count("crowd", "queued")) == (2, 2));
    let refused = node.get("crowd", "/hello");
    refused.problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Everybody who was taken in is served.
    for waits in &mut waiting {
        waits.write(b"body").unwrap();
    }
    for waits in waiting {
        let answer = waits.response(false).unwrap().rest().unwrap();
        assert_eq!(answer.json()["bytes"], 4);
    }
    node.get("crowd", "/hello").ok();
    assert!(node.metric("minnow_requests_total", &["app=\"crowd\"", "code=\"overloaded\""]) >= 1.0);
}

#[test]
fn a_request_that_waits_too_long_in_the_queue_is_told_so() {
    let node = serve("patience", "lab-p2", "concurrency = 1\ntimeout = \"3s\"\nqueue = 8");
    let stall = Request::get("patience", "/stall");
    // When the first is stopped, one of the others gets its place, and holds it for longer than the last one may wait; unless
    // the machine is so busy that the last one came late.
    let queued = eventually("one waits too long in the queue", || {
        let _running = node.open(&stall);
        let mut waiting = [node.connect(), node.connect()];
        for connection in &mut waiting {
            connection.write_head(&stall).unwrap();
        }
        let answers = waiting.map(|connection| connection.response(false).unwrap());
        answers.into_iter().find(|answer| answer.status == 503)
    });
    let queued = queued.rest().unwrap();
    queued.problem(503, "queue_timeout");
    assert_eq!(queued.header("retry-after"), Some("1"));
    until("there is a place again", || node.get("patience", "/hello").status == 200);
}

#[test]
fn a_client_that_goes_away_leaves_the_queue() {
    let node = serve("leave", "lab-p2", "concurrency = 1\nqueue = 4\ntimeout = \"60s\"");
    let running = node.open(&Request::get("leave", "/stall"));
    let mut queued = node.connect();
    queued.write_head(&Request::get("leave", "/hello")).unwrap();
    until("one waits", || node.count("leave", "queued") == 1);
    drop(queued);
    until("it has left the queue", || node.count("leave", "queued") == 0);
    drop(running);
    until("nothing runs", || node.count("leave", "running") == 0);
    node.get("leave", "/hello").ok();
}

#[test]
fn when_all_sandboxes_of_the_node_are_in_use_a_request_is_refused() {
    let node = Node::builder().config("[sandboxes]\nmax = 2\nqueue = 0").start();
    node.serve(&App::of_guest("one", "lab-p2", ""));
    node.serve(&App::of_guest("two", "lab-p2", ""));
    let held = [node.open(&Request::get("one", "/stall")), node.open(&Request::get("one", "/stall"))];
    let refused = node.get("two", "/hello");
    refused.problem(503, "node_overloaded");
    assert!(refused.header("retry-after").is_some());
    drop(held);
    until("there is room again", || node.get("two", "/hello").status == 200);
}

#[test]
fn a_body_beyond_the_limit_is_refused_by_its_length() {
    let node = serve("body", "lab-p2", "request_body = \"1KiB\"");
    assert_eq!(node.post("body", "/count", vec![b'x'; 1024]).json()["bytes"], 1024);
    // Nothing of it needs to be sent.
    let mut connection = node.connect();
    let head = Request::get("body", "/count").method("POST").header("content-length", "1025");
    connection.write_head(&head).unwrap();
    connection.response(false).unwrap().rest().unwrap().problem(413, "request_too_large");
    node.post("body", "/count", vec![b'x'; 100_000]).problem(413, "request_too_large");
}

#[test]
fn a_body_beyond_the_limit_is_refused_while_it_streams() {
    let node = serve("streambody", "lab-p2", "request_body = \"100KiB\"");
    let mut connection = node.connect();
    let head = Request::get("streambody", "/count").method("POST").header("transfer-encoding", "chunked");
    connection.write_head(&head).unwrap();
    let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
    // The answer may come, and the connection be closed, before everything is sent.
    let sent = (0..20).try_for_each(|_| connection.write(&chunk));
    let answer = connection.response(false).and_then(|response| response.rest());
    answer.unwrap_or_else(|error| panic!("no answer: {error}, sent: {sent:?}")).problem(413, "request_too_large");
    until("the invocation has ended", || node.count("streambody", "running") == 0);
}

#[test]
fn a_function_without_a_body_limit_of_its_own_takes_32_mib() {
    let node = serve("default", "lab-p2", "");
    let status = node.status("default");
    let limits = &status["functions"][0]["limits"];
    assert_eq!(limits["request_body_bytes"], 32 << 20);
    assert_eq!(limits["memory_bytes"], 128 << 20);
    assert_eq!((&limits["cpu_ms"], &limits["timeout_ms"]), (&1000.into(), &30_000.into()));
    assert_eq!((&limits["concurrency"], &limits["queue"]), (&64.into(), &256.into()));
}

#[test]
fn the_nodes_caps_refuse_a_publish_that_asks_for_more() {
    let node = Node::builder().config("[limits]\nmemory = \"64MiB\"\ntimeout = \"10s\"").start();
    let app = App::of_guest("capped", "lab-p2", "[functions.web.limits]\nmemory = \"65MiB\"\ntimeout = \"11s\"");
    let ran = node.cli().in_dir(app.path()).fails(["publish"]);
    ran.says(&["limits.memory", "65.0 MiB", "64.0 MiB", "limits.timeout", "11s", "10s"]);
    assert_eq!(node.api("GET", "/v1/apps", "").json(), serde_json::json!([]));
}

#[test]
fn a_default_beyond_the_nodes_cap_is_lowered_to_it() {
    let caps = "[limits]\nmemory = \"64MiB\"\ntimeout = \"10s\"\nconcurrency = 2";
    let (low, usual) = (Node::builder().config(caps).start(), Node::shared());
    let app = App::of_guest("lowered", "lab-p2", "limits = { cpu = \"2s\" }");
    let digests = [&low, usual].map(|node| {
        node.serve(&app);
        node.api("GET", "/v1/apps/lowered/versions", "").json()[0]["digest"].clone()
    });
    assert!(
        digests[0].is_string() && digests[0] == digests[1],
        "what is published is the same everywhere: {digests:?}"
    );
    let limits = |node: &Node| {
        let limits = node.status("lowered")["functions"][0]["limits"].clone();
        ["memory_bytes", "timeout_ms", "concurrency", "cpu_ms", "queue"].map(|key| limits[key].as_u64().unwrap())
    };
    assert_eq!(limits(&low), [64 << 20, 10_000, 2, 2000, 256]);
    assert_eq!(limits(usual), [128 << 20, 30_000, 64, 2000, 256]);
    // They are what it runs with.
    low.get("lowered", "/alloc?mb=16").ok();
    assert_eq!(low.get("lowered", "/alloc?mb=100").status, 507);
    let low = low.kill_and_restart();
    assert_eq!(limits(&low), [64 << 20, 10_000, 2, 2000, 256]);
}
