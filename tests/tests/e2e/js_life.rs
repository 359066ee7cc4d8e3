//! The lives of JavaScript functions: their versions, and the processes that come and go for them.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use minnow_tests::{
    App, Node, Request, eventually, until,
    upstream::{Upstream, answer},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::js::{MIB, logged, node, processes, request_id};

/// The state of a process, as the kernel writes it: `S`, `T`, …; `None` when it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether nothing is left of a process.
fn is_gone(pid: &u32) -> bool {
    matches!(state(*pid), None | Some('Z'))
}

/// Tells its version, and how many requests this copy of it has had.
fn versioned(name: &str, version: &str) -> App {
    let source = format!("let count = 0;\nexport default {{ fetch: () => Response.json(['{version}', ++count]) }};");
    let mut app = App::of_js(name, &source, "");
    app.change("0.1.0", version);
    app
}

#[test]
fn versions_get_their_share_and_a_rollback_returns_to_the_one_before() {
    let node = node();
    let cli = node.cli();
    for version in ["1.0.0", "2.0.0"] {
        cli.clone().in_dir(versioned("weights", version).path()).ok(["publish"]);
    }
    let version_of = || node.get("weights", "/").json()[0].as_str().unwrap().to_owned();
    cli.ok(["deploy", "1.0.0", "--app", "weights"]);
    assert_eq!(version_of(), "1.0.0");
    cli.ok(["deploy", "2.0.0", "--app", "weights", "--weight", "30"]);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        *counts.entry(version_of()).or_default() += 1;
    }
    // 60 expected, standard deviation 6.5: beyond six of them once in a billion runs.
    assert!((21..=99).contains(&counts["2.0.0"]), "{counts:?}");
    assert_eq!(counts["1.0.0"] + counts["2.0.0"], 200);
    let status = node.status("weights");
    let running: Vec<(&Value, &Value)> =
        status["functions"].as_array().unwrap().iter().map(|each| (&each["version"], &each["processes"])).collect();
    assert_eq!(running.len(), 2, "each version has processes of its own: {status}");
    cli.ok(["deploy", "2.0.0", "--app", "weights"]);
    assert_eq!(version_of(), "2.0.0");
    cli.ok(["rollback", "weights"]);
    cli.ok(["rollback", "weights"]);
    assert_eq!(version_of(), "1.0.0");
}

#[test]
fn a_switch_under_load_loses_no_request() {
    let node = node();
    let cli = node.cli();
    for version in ["1.0.0", "2.0.0"] {
        cli.clone().in_dir(versioned("switches", version).path()).ok(["publish"]);
    }
    cli.ok(["deploy", "1.0.0", "--app", "switches"]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut seen = BTreeMap::new();
                while !stop.load(Relaxed) {
                    let version = node.get("switches", "/").json()[0].as_str().unwrap().to_owned();
                    *seen.entry(version).or_insert(0) += 1;
                }
                seen
            })
        })
        .collect();
    for round in 0..8 {
        let version = ["2.0.0", "1.0.0"][round % 2];
        cli.ok(["deploy", version, "--app", "switches"]);
        assert_eq!(node.get("switches", "/").json()[0], version);
    }
    stop.store(true, Relaxed);
    for client in clients {
        assert!(!client.join().unwrap().is_empty());
    }
}

#[test]
fn invocations_side_by_side_keep_their_request_ids_apart() {
    const CLIENTS: usize = 8;
    let source = r#"
        import { setTimeout as sleep } from "node:timers/promises";
        import { EventEmitter, once } from "node:events";
        const shared = new EventEmitter();
        export default {
            async fetch(request) {
                const name = request.headers.get("x-name");
                console.log(`${name} begins`);
                await request.text();
                console.log(`${name} after its body`);
                await new Promise((resolve) => setTimeout(resolve, 1));
                queueMicrotask(() => console.log(`${name} in a microtask`));
                setTimeout(() => console.log(`${name} in a timer`), 0);
                process.nextTick(() => console.log(`${name} in a tick`));
                await Promise.all([sleep(1), (async () => console.warn(`${name} beside`))()]);
                try { await fetch("http://127.0.0.1:1/"); } catch { console.log(`${name} after a fetch`); }
                return new Response(name);
            },
        };
    "#;
    let node = node();
    node.serve(&App::of_js("apart", source, ""));
    let mut waiting: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut connection = node.connect();
            let head = Request::get("apart", "/").method("POST").header("content-length", "1");
            connection.write_head(&head.header("x-name", &format!("client{client}"))).unwrap();
            connection
        })
        .collect();
    until("all of them run", || {
        let has_begun = |line: &&Value| line["message"].as_str().unwrap().ends_with("begins");
        node.logs("apart").iter().filter(has_begun).count() == CLIENTS
    });
    for connection in waiting.iter_mut().rev() {
        connection.write(b"x").unwrap();
    }
    let mut ids = BTreeMap::new();
    for connection in waiting {
        let answer = connection.response(false).unwrap().rest().unwrap();
        ids.insert(answer.ok(), request_id(&answer));
    }
    assert_eq!(ids.len(), CLIENTS);
    let said = ["begins", "after its body", "in a microtask", "in a timer", "in a tick", "beside", "after a fetch"];
    for (name, id) in &ids {
        for what in said {
            let line = logged(node, "apart", &format!("{name} {what}"));
            assert_eq!(line["request_id"], **id, "{line}");
        }
    }
}

/// Counts, so that one sees which copy of the module answers.
const COUNTS: &str = "let count = 0;\nexport default { fetch: () => Response.json(++count) };";

#[test]
fn a_node_without_javascript_starts_no_process_for_it() {
    let node = Node::start();
    node.serve(&App::of_guest("wasm", "hello-p2", ""));
    node.get("wasm", "/").ok();
    assert_eq!(node.js_processes(), [0; 0]);
    // The first function brings them, and with the last one they go.
    node.serve(&App::of_js("script", COUNTS, ""));
    until("the pool is filled", || node.js_processes().len() == 2);
    assert_eq!((processes(&node, "script"), node.count("script", "running")), (0, 0));
    assert_eq!(node.get("script", "/").json(), 1);
    until("the pool is filled again", || node.js_processes().len() == 3);
    assert_eq!(processes(&node, "script"), 1);
    node.cli().ok(["delete", "script", "--yes"]);
    until("they are all gone", || node.js_processes().is_empty());
    node.get("wasm", "/").ok();
}

#[test]
fn a_process_that_nobody_asks_is_paused_and_then_ended() {
    let node = Node::builder().config("[js]\npool = 0\nidle = \"4s\"").start();
    node.serve(&App::of_js("idle", COUNTS, ""));
    assert_eq!(node.get("idle", "/").json(), 1);
    let pid = *node.js_processes().first().expect("a process");
    until("it is paused", || state(pid) == Some('T'));
    // It goes on where it was.
    assert_eq!(node.get("idle", "/").json(), 2);
    assert_ne!(state(pid), Some('T'));
    until("it has ended", || is_gone(&pid));
    assert_eq!((node.js_processes().len() as u64, processes(&node, "idle")), (0, 0));
    assert_eq!(node.status("idle")["functions"][0]["loaded"], false);
    // The next request gets a new one.
    assert_eq!(node.get("idle", "/").json(), 1);
}

/// Blocks its event loop for ever when asked to, without computing: no limit of CPU time would end it.
const BLOCKS: &str = r#"
    const acts = {
        "/ok": () => new Response("ok"),
        "/stream": () => new Response(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(1)) })),
        "/block": () => {
            console.log("blocks");
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
        },
    };
    export default { fetch: (request) => acts[new URL(request.url).pathname]() };
"#;

#[test]
fn a_process_that_is_blocked_is_ended_although_nobody_asks_it_any_more() {
    // It would end for being idle, otherwise.
    let node = Node::builder().config("[js]\npool = 0\nidle = \"1h\"").start();
    for timeout in ["200ms", "1s"] {
        let name = format!("blocks{timeout}");
        node.serve(&App::of_js(&name, BLOCKS, &format!("limits = {{ timeout = \"{timeout}\" }}")));
        // A start may take longer than that.
        until("it answers", || node.get(&name, "/ok").status == 200);
        node.get(&name, "/block").problem(504, "timeout");
        until("its process is gone", || processes(&node, &name) == 0);
        until("another one answers", || node.get(&name, "/ok").status == 200);
    }
}

#[test]
fn a_client_that_goes_away_says_nothing_about_whether_the_process_is_blocked() {
    let node = Node::builder().config("[js]\npool = 0\nidle = \"1h\"").start();
    node.serve(&App::of_js("leaves", BLOCKS, "limits = { timeout = \"2s\" }"));
    let mut stream = node.open(&Request::get("leaves", "/stream"));
    assert!(stream.piece().unwrap().is_some());
    let mut blocked = node.connect();
    blocked.write_head(&Request::get("leaves", "/block")).unwrap();
    logged(&node, "leaves", "blocks");
    drop(blocked);
    until("one is gone", || node.count("leaves", "running") == 1);
    drop(stream);
    until("its process is gone", || processes(&node, "leaves") == 0);
}

#[test]
fn the_connections_to_a_process_that_wait_are_bounded() {
    const CROWD: usize = 300;
    let source = "export default { fetch: async (request) => new Response(await request.text()) };";
    let node = Node::builder().config("[js]\npool = 0").start();
    node.serve(&App::of_js("kept", source, "limits = { timeout = \"5m\", concurrency = 400 }"));
    node.get("kept", "/").ok();
    let open = || fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    let before = open();
    let head = Request::get("kept", "/").method("POST").header("content-length", "1").header("connection", "close");
    let mut clients: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut client = node.connect();
            client.write_head(&head).unwrap();
            client
        })
        .collect();
    until("all of them run", || node.count("kept", "running") == CROWD as u64);
    for client in &mut clients {
        client.write(b"x").unwrap();
    }
    for client in clients {
        assert_eq!(client.response(false).unwrap().rest().unwrap().ok(), "x");
    }
    // Half of what was open, and a few of the node's own.
    until("the others are closed", || open() < before + CROWD / 2);
    assert_eq!(processes(&node, "kept"), 1);
}

#[test]
fn a_module_whose_process_dies_while_it_is_loaded_is_not_loaded_again_for_the_same_request() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static IS_KILLED: AtomicBool = AtomicBool::new(false);
    // The first who asks is the publish, the second the request.
    let upstream = Upstream::answering(|_| {
        if ASKED.fetch_add(1, Relaxed) == 1 {
            until("it was killed", || IS_KILLED.load(Relaxed));
        }
        answer("200 OK", "", "go on")
    });
    let source =
        format!("await fetch(\"http://{}/\");\nexport default {{ fetch: () => new Response() }};", upstream.address);
    let node = Node::builder().config("[js]\npool = 1\n[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start();
    // One that comes from the pool could have died there; whether the pool has one in time is chance.
    for name in ["dies1", "dies2", "dies3", "dies4"] {
        ASKED.store(0, Relaxed);
        IS_KILLED.store(false, Relaxed);
        node.serve(&App::of_js(name, &source, &format!("egress = [\"http://{}\"]", upstream.address)));
        until("the pool is filled", || node.js_processes().len() == 1);
        thread::scope(|scope| {
            let request = scope.spawn(|| node.get(name, "/"));
            until("it is loaded", || ASKED.load(Relaxed) == 2);
            for pid in node.js_processes() {
                let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
            }
            IS_KILLED.store(true, Relaxed);
            request.join().unwrap().problem(500, "load_failed");
        });
        assert_eq!(ASKED.load(Relaxed), 2);
    }
}

#[test]
fn without_a_pool_a_process_is_started_for_the_request_that_needs_it() {
    let node = Node::builder().config("[js]\npool = 0").start();
    node.serve(&App::of_js("nopool", COUNTS, ""));
    until("the one that tried the module at publish is gone", || node.js_processes().is_empty());
    assert_eq!(node.get("nopool", "/").json(), 1);
    assert_eq!(node.get("nopool", "/").json(), 2);
    assert_eq!(node.js_processes().len(), 1);
}

#[test]
fn each_function_has_the_memory_of_its_own_manifest() {
    let source = r#"
        export default {
            fetch(request) {
                const held = [];
                for (let mib = 0; mib < +new URL(request.url).searchParams.get("mib"); mib++) held.push(new Uint8Array(1 << 20).fill(1));
                return Response.json(held.length);
            },
        };
    "#;
    let node = node();
    let limits =
        |memory: &str| format!("routes = [\"/{memory}\"]\nlimits = {{ memory = \"{memory}\", cpu = \"30s\" }}");
    let app =
        App::new("sizes").js("small", "a.js", source, &limits("96MiB")).js("large", "a.js", source, &limits("400MiB"));
    node.serve(&app);
    assert_eq!(node.get("sizes", "/96MiB?mib=20").json(), 20);
    assert_eq!(node.get("sizes", "/400MiB?mib=250").json(), 250);
    node.get("sizes", "/96MiB?mib=250").problem(500, "memory_limit");
    assert_eq!(node.get("sizes", "/96MiB?mib=20").json(), 20);
}

#[test]
fn invoke_status_and_metrics_know_javascript() {
    let source = r#"
        import { createHash } from "node:crypto";
        export default {
            async fetch(request, env) {
                let hash = new Uint8Array(1 << 20);
                for (let round = 0; round < 30; round++) hash = createHash("sha256").update(hash).update(new Uint8Array(1 << 20)).digest();
                return new Response(`${request.method} ${request.url} ${request.headers.get("x-own")} ${await request.text()}`, { status: 201 });
            },
        };
    "#;
    let node = Node::start();
    let app = App::of_js("known", source, "").function("wasm", "hello-p2", "routes = [\"/wasm\"]");
    node.serve(&app.file("public/a.txt", "static").end("[static]\n\"/files\" = \"public\""));
    let cli = node.cli();
    let printed = cli.ok(["invoke", "known/web", "--path", "/x?y=1", "-H", "x-own: 1", "-d", "sent"]);
    assert!(
        printed.contains("201 Created") && printed.contains("/x?y=1 1 sent") && printed.contains("cold start"),
        "{printed}"
    );
    let response = cli.json(["invoke", "known/web", "--json"]);
    assert_eq!(response["status"], 201);
    let usage = response["usage"].as_object().unwrap();
    assert_eq!(usage["cold"], false, "{usage:?}");
    // The SHA-256 of 30 MB takes at least that long, whatever the machine.
    assert!(usage["cpu_us"].as_u64().unwrap() > 5_000, "{usage:?}");
    assert!(usage["peak_memory_bytes"].as_u64().unwrap() > 10 * MIB, "{usage:?}");

    // Beside WebAssembly and files.
    node.get("known", "/wasm").ok();
    assert_eq!(node.get("known", "/files/a.txt").ok(), "static");
    assert_eq!(node.get("known", "/").status, 201);
    let status = cli.json(["status", "known", "--json"]);
    let function =
        |name: &str| status["functions"].as_array().unwrap().iter().find(|each| each["function"] == name).unwrap();
    let of_js = function("web");
    assert_eq!(
        (&of_js["kind"], &of_js["processes"], &of_js["loaded"]),
        (&"js".into(), &1.into(), &true.into()),
        "{of_js}"
    );
    assert_eq!(of_js["held_back_s"], Value::Null);
    assert_eq!(function("wasm")["processes"], 0);
    let printed = cli.ok(["status", "known"]);
    assert!(printed.contains("js"), "{printed}");

    let of_app = ["app=\"known\"", "function=\"web\""];
    let metric = |name: &str| node.metric(name, &of_app);
    until("all invocations are counted", || {
        metric("minnow_cold_starts_total") + metric("minnow_warm_starts_total") == 3.0
    });
    assert_eq!(metric("minnow_cold_starts_total"), 1.0);
    assert_eq!(metric("minnow_requests_total"), 3.0);
    assert!(metric("minnow_cpu_seconds_total") > 0.015, "{}", metric("minnow_cpu_seconds_total"));
    assert!(metric("minnow_peak_memory_bytes_sum") > 10.0 * MIB as f64);
    assert_eq!(metric("minnow_sandboxes"), 0.0);
}

#[test]
fn a_function_that_is_too_busy_for_one_core_gets_a_second_process() {
    let source = r#"
        const name = crypto.randomUUID();
        export default {
            fetch() {
                const end = performance.now() + 40;
                while (performance.now() < end);
                return new Response(name);
            },
        };
    "#;
    let node = Node::start();
    node.serve(&App::of_js("busy", source, "limits = { concurrency = 8, timeout = \"5m\", cpu = \"60s\" }"));
    // One for each core; the test says what it can on one, too.
    let most = thread::available_parallelism().unwrap().get().min(8) as u64;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    node.get("busy", "/").ok();
                }
            });
        }
        // Stops the clients also when this fails.
        let waited = std::panic::catch_unwind(|| {
            until("another process works on it", || processes(&node, "busy") >= most.min(2))
        });
        stop.store(true, Relaxed);
        waited.unwrap();
    });
    assert!(processes(&node, "busy") <= most);
}

#[test]
fn nothing_of_a_node_that_is_gone_goes_on() {
    let loops =
        "export default { fetch(request) { for (;request.url.endsWith('/loop');); return new Response('ok'); } };";
    for is_killed in [true, false] {
        let node = Node::start();
        node.serve(&App::of_js("ends", loops, "limits = { cpu = \"60s\", timeout = \"5m\" }"));
        node.get("ends", "/").ok();
        let mut running = node.connect();
        running.write_head(&Request::get("ends", "/loop")).unwrap();
        until("it runs", || node.count("ends", "running") == 1);
        let pids = eventually("the pool is full", || Some(node.js_processes()).filter(|pids| pids.len() == 3));
        if is_killed {
            node.kill();
        } else {
            // What runs would have its time to end.
            drop(running);
            node.terminate();
            assert!(node.wait().success());
        }
        until("they are all gone", || pids.iter().all(is_gone));
    }
}

#[test]
fn functions_are_there_again_when_their_node_comes_back() {
    let node = Node::start();
    node.serve(&App::of_js("again", COUNTS, ""));
    assert_eq!(node.get("again", "/").json(), 1);
    let node = node.kill_and_restart();
    assert_eq!(node.get("again", "/").json(), 1);
    assert_eq!(node.status("again")["functions"][0]["kind"], "js");
    node.terminate();
    assert!(node.wait().success());
    let node = node.rebuild().start();
    assert_eq!(node.get("again", "/").json(), 1);
}
