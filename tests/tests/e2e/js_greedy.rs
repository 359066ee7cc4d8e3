//! JavaScript that takes all that it can get: time, memory, processes, lines. Nobody else suffers.

use std::{fmt::Write as _, fs, sync::Arc, thread, time::Duration};

use minnow_tests::{App, Node, Request, eventually, until};
use serde_json::Value;

use super::js::MIB;

use super::js_bad::{acts, logged, node, several};

#[test]
fn a_handler_that_never_settles_gets_a_timeout_and_harms_nobody() {
    let source = acts(
        r#"
        never: () => new Promise(() => {}),
        async sleeps() { await new Promise((resolve) => setTimeout(resolve, 600_000)); return new Response("late"); },
        async ticks() { for (;;) await new Promise((resolve) => setTimeout(resolve, 50)); },
        thenable: () => ({ then() {} }),
        "#,
    );
    let node = node();
    node.serve(&App::of_js("settles", &source, "limits = { timeout = \"1s\", cpu = \"1s\" }"));
    for act in ["never", "sleeps", "ticks", "thenable"] {
        let id = node.get("settles", &format!("/{act}")).problem(504, "timeout");
        until("the log says so", || {
            node.logs("settles").iter().any(|line| {
                line["request_id"] == id && line["message"].as_str().unwrap().contains("limits.timeout = 1s")
            })
        });
    }
    assert_eq!(node.get("settles", "/ok").ok(), "ok 1");
    until("nothing runs any more", || node.count("settles", "running") == 0);
}

#[test]
fn a_function_whose_event_loop_is_blocked_for_ever_gets_a_new_process() {
    let source = acts(
        r#"
        blocks() { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); },
        "#,
    );
    let node = node();
    node.serve(&App::of_js("blocked", &source, "limits = { timeout = \"1s\", cpu = \"200ms\" }"));
    assert_eq!(node.get("blocked", "/ok").ok(), "ok 1");
    node.get("blocked", "/blocks").problem(504, "timeout");
    // It uses no CPU time that a limit would hold for, and would never answer again.
    until("it answers again", || node.get("blocked", "/ok").status == 200);
    assert_eq!(node.count("blocked", "processes"), 1);
}

#[test]
fn a_computation_may_take_the_whole_of_cpu_beside_others() {
    let source = acts(
        r#"
        // Less than half of it, in turns that are short.
        stream: () => {
            const start = async (controller) => {
                for (let turn = 0; turn < 6; turn++) { spin(20); await new Promise((resolve) => setTimeout(resolve)); }
                controller.enqueue(new TextEncoder().encode("turned"));
            };
            return new Response(new ReadableStream({ start(controller) { start(controller); } }));
        },
        computes() { spin(220); return new Response("computed"); },
        "#,
    );
    let source = format!(
        "const used = () => {{ const {{ user, system }} = process.cpuUsage(); return (user + system) / 1000; }};\n\
         const spin = (ms) => {{ for (const end = used() + ms; used() < end;); }};\n{source}"
    );
    let node = node();
    node.serve(&App::of_js("whole", &source, "limits = { cpu = \"300ms\", timeout = \"5m\" }"));
    let mut stream = node.open(&Request::get("whole", "/stream"));
    stream.read_until("turned");
    assert_eq!(node.get("whole", "/computes").ok(), "computed");
    assert_eq!(node.count("whole", "processes"), 1);
}

/// Take memory of every kind until there is no more.
const BOMBS: &str = r#"
    const held = [];
    const bombs = {
        heap() { for (;;) held.push({ a: held.length, b: [held.length] }); },
        array() { for (;;) held.push(new Array(1e5).fill(held.length)); },
        string() { for (let text = "x"; ; text += text + held.length) held.push(text.split("").join("-")); },
        buffer() { for (;;) held.push(new Uint8Array(4 << 20).fill(1)); },
        shared() { for (;;) held.push(new Uint8Array(new SharedArrayBuffer(4 << 20)).fill(1)); },
        nodebuffer() { for (;;) held.push(Buffer.alloc(4 << 20, 1)); },
        wasm() {
            const memory = new WebAssembly.Memory({ initial: 1 });
            for (let at = 65536; ; at += 65536 * 16) { memory.grow(16); new Uint8Array(memory.buffer).fill(1, at); }
        },
        async blob() { for (;;) { held.push(new Blob([new Uint8Array(4 << 20).fill(1)])); await null; } },
        async stream() {
            // What nobody reads piles up.
            return new Response(new ReadableStream({
                start(controller) { for (;;) controller.enqueue(new Uint8Array(4 << 20).fill(1)); },
            }));
        },
        async promises() { for (;;) { held.push(new Promise((resolve) => setTimeout(resolve, 1e6))); if (held.length % 1e4 === 0) await null; } },
    };
    export default {
        fetch(request) {
            const [kind, path] = new URL(request.url).pathname.slice(1).split("/");
            return path === "ok" ? new Response("ok") : bombs[kind]();
        },
    };
"#;

#[test]
fn memory_of_every_kind_ends_at_the_limit_and_the_next_request_is_served() {
    let kinds = ["heap", "array", "string", "buffer", "shared", "nodebuffer", "wasm", "blob", "stream", "promises"];
    let node = Node::start();
    node.serve(&several("bombs", &kinds, BOMBS, "memory = \"96MiB\", cpu = \"60s\", timeout = \"5m\""));
    let before = node.rss_bytes();
    let mut wrong = String::new();
    for kind in kinds {
        assert_eq!(node.get("bombs", &format!("/{kind}/ok")).ok(), "ok");
        let answer = node.get("bombs", &format!("/{kind}/bomb"));
        if (answer.status, &answer.json()["code"]) != (500, &"memory_limit".into()) {
            let _ = writeln!(wrong, "{kind}: {}", answer.text());
        }
        let next = node.get("bombs", &format!("/{kind}/ok"));
        if next.status != 200 {
            let _ = writeln!(wrong, "{kind}: the next request: {}", next.text());
        }
    }
    assert_eq!(wrong, "");
    logged(&node, "bombs", "limits.memory = 96.0 MiB");
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "the node grew by {} MiB", grown / MIB);
}

#[test]
fn an_error_in_a_process_that_is_nearly_full_is_told_as_what_it_is() {
    let source = acts(
        r#"
        fills() { while (held.length < 25) held.push(new Uint8Array(4 << 20).fill(1)); return new Response("full"); },
        throws() { throw new Error("no such boat"); },
        deep() { const again = () => again() + 1; again(); },
        "#,
    );
    let node = node();
    node.serve(&App::of_js("nearlyfull", &format!("const held = [];\n{source}"), "limits = { memory = \"128MiB\" }"));
    assert_eq!(node.get("nearlyfull", "/fills").ok(), "full");
    // More often than a function may die.
    for act in ["throws", "deep"].repeat(4) {
        node.get("nearlyfull", &format!("/{act}")).problem(500, "function_trapped");
    }
    assert_eq!(node.get("nearlyfull", "/ok").ok(), "ok 1");
}

/// Computes without end, in every way.
const LOOPS: &str = r#"
    const { setImmediate } = globalThis;
    const loops = {
        handler() { for (;;); },
        async later() { await null; for (;;); },
        async microtask() { (function again() { Promise.resolve().then(again); })(); await new Promise(() => {}); },
        async queued() { (function again() { queueMicrotask(again); })(); await new Promise(() => {}); },
        async tick() { (function again() { process.nextTick(again); })(); await new Promise(() => {}); },
        async immediate() { (function again() { setImmediate(again); })(); await new Promise(() => {}); },
        async turns() { for (;;) { for (const end = performance.now() + 20; performance.now() < end;); await new Promise((resolve) => setTimeout(resolve)); } },
        regexp: () => new Response(/^(a+)+$/.test("a".repeat(60) + "b")),
        bigint: () => new Response(String((10n ** 10000000n) ** 10n)),
        stream: () => new Response(new ReadableStream({ pull() { for (;;); } })),
        wasm() {
            const code = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 9, 1, 7, 0, 3, 64, 12, 0, 11, 11];
            new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(code))).exports.f();
        },
        tostring() { throw { toString() { for (;;); }, get stack() { for (;;); }, get message() { for (;;); }, [Symbol.for("Deno.customInspect")]() { for (;;); } }; },
    };
    export default {
        fetch(request) {
            const [kind, path] = new URL(request.url).pathname.slice(1).split("/");
            if (path === "waits") return new Promise(() => {});
            return path === "ok" ? new Response("ok") : loops[kind]();
        },
    };
"#;

#[test]
fn endless_loops_of_every_kind_end_at_the_cpu_limit_and_the_next_request_is_served() {
    let kinds = [
        "handler",
        "later",
        "microtask",
        "queued",
        "tick",
        "immediate",
        "turns",
        "regexp",
        "bigint",
        "wasm",
        "tostring",
    ];
    let node = node();
    node.serve(&several("loops", &kinds, LOOPS, "cpu = \"300ms\", timeout = \"5m\""));
    let mut wrong = String::new();
    for kind in kinds {
        let answer = node.get("loops", &format!("/{kind}/loop"));
        if (answer.status, &answer.json()["code"]) != (500, &"cpu_limit".into()) {
            let _ = writeln!(wrong, "{kind}: {}", answer.text());
        }
        let next = node.get("loops", &format!("/{kind}/ok"));
        if next.status != 200 {
            let _ = writeln!(wrong, "{kind}: the next request: {}", next.text());
        }
    }
    assert_eq!(wrong, "");
    logged(node, "loops", "limits.cpu = 300ms");
    node.serve(&several("streamloop", &["stream"], LOOPS, "cpu = \"300ms\", timeout = \"5m\""));
    let broken = node.connect().exchange(&Request::get("streamloop", "/stream/loop"));
    assert!(broken.map_or(true, |answer| answer.status == 500 || answer.drain().is_err()));
    assert_eq!(node.get("streamloop", "/stream/ok").ok(), "ok");
}

#[test]
fn an_endless_loop_fails_what_is_in_flight_in_its_function_and_nothing_else() {
    let node = node();
    node.serve(&several("spins", &["handler"], LOOPS, "cpu = \"2s\", timeout = \"5m\""));
    node.serve(&App::of_js(
        "beside",
        "export default { fetch: () => new Response(\"beside\") };",
        "limits = { timeout = \"5m\" }",
    ));
    node.get("beside", "/").ok();
    let waits = thread::spawn(|| self::node().get("spins", "/handler/waits").problem(500, "cpu_limit"));
    until("one waits", || node.count("spins", "running") == 1);
    let loops = thread::spawn(|| self::node().get("spins", "/handler/loop").problem(500, "cpu_limit"));
    until("both run", || node.count("spins", "running") == 2);
    let mut served = 0;
    loop {
        assert_eq!(node.get("beside", "/").ok(), "beside");
        // Answered while it runs, and not because it has ended.
        if loops.is_finished() {
            break;
        }
        served += 1;
    }
    assert!(served >= 2, "only {served} requests were served beside the loop");
    waits.join().unwrap();
    loops.join().unwrap();
    assert_eq!(node.get("spins", "/handler/ok").ok(), "ok");
}

#[test]
fn work_that_computes_without_end_after_its_response_is_stopped() {
    let source = acts(
        r#"
        waits(request, ctx) { ctx.waitUntil(new Promise((resolve) => setTimeout(resolve)).then(() => { for (;;); })); return new Response("waits"); },
        "#,
    );
    let node = node();
    node.serve(&App::of_js("after", &source, "limits = { cpu = \"300ms\", timeout = \"5m\" }"));
    assert_eq!(node.get("after", "/waits").ok(), "waits");
    logged(node, "after", "limits.cpu = 300ms");
    until("nothing runs any more", || node.count("after", "running") == 0);
    node.get("after", "/ok").ok();
}

#[test]
fn programs_threads_and_workers_are_refused_and_bombs_of_them_fail_only_themselves() {
    let source = acts(
        r#"
        async all() {
            const child = await import("node:child_process");
            const cluster = (await import("node:cluster")).default;
            const { Worker: NodeWorker } = await import("node:worker_threads");
            const blob = URL.createObjectURL(new Blob(["postMessage(1)"], { type: "text/javascript" }));
            const event = (emitter) => new Promise((resolve, reject) => {
                emitter.on?.("error", reject);
                emitter.on?.("online", () => resolve("it runs"));
                emitter.on?.("spawn", () => resolve("it runs"));
                if (emitter.addEventListener !== undefined) { emitter.onerror = reject; emitter.onmessage = () => resolve("it runs"); }
            });
            const attempts = {
                command: () => new Deno.Command("/bin/deno", { args: ["--version"] }).outputSync(),
                commandSpawn: () => new Deno.Command("/bin/deno").spawn(),
                run: () => Deno.run({ cmd: ["/bin/deno"] }),
                spawn: () => event(child.spawn("/bin/deno", ["--version"])),
                spawnSync: () => { const { error, status } = child.spawnSync("/bin/deno", ["--version"]); if (status === 0) return "it ran"; throw error; },
                exec: () => new Promise((resolve, reject) => child.exec("true", (error) => error ? reject(error) : resolve("it ran"))),
                execSync: () => child.execSync("true"),
                execFileSync: () => child.execFileSync("/bin/deno", ["--version"]),
                fork: () => event(child.fork("/boot.js")),
                cluster: () => event(cluster.fork()),
                worker: () => event(new Worker(blob, { type: "module" })),
                nodeWorker: () => event(new NodeWorker("for (;;);", { eval: true })),
                nodeWorkerUrl: () => event(new NodeWorker(new URL(blob))),
                dataWorker: () => event(new NodeWorker(new URL("data:text/javascript,for(;;);"))),
            };
            const results = {};
            for (const [name, attempt] of Object.entries(attempts)) {
                try { results[name] = `DONE ${await attempt()}`; } catch (error) { results[name] = `refused: ${error?.message ?? error}`; }
            }
            return Response.json(results);
        },
        async bomb() {
            const { Worker: NodeWorker } = await import("node:worker_threads");
            const { spawn } = await import("node:child_process");
            let refused = 0;
            for (let round = 0; round < 2000; round++) {
                try { new NodeWorker("for (;;);", { eval: true }).on("error", () => {}); } catch { refused++; }
                try { spawn("/bin/deno").on("error", () => refused++); } catch { refused++; }
            }
            return Response.json(refused);
        },
        "#,
    );
    let node = Node::start();
    node.serve(&App::of_js("forks", &source, "limits = { cpu = \"20s\", timeout = \"1m\" }"));
    until("the pool is filled", || node.js_processes().len() == 2);
    let results = node.get("forks", "/all");
    for (name, result) in results.json().as_object().unwrap_or_else(|| panic!("{}", results.text())) {
        assert!(result.as_str().unwrap().starts_with("refused: "), "{name}: {result}");
    }
    let pid = *node.js_processes().iter().max().unwrap();
    let bomb = node.get("forks", "/bomb");
    assert!(bomb.status == 500 || bomb.json().as_u64() >= Some(2000), "{}", bomb.text());
    let threads = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    assert!(threads(pid) < 100, "{} threads", threads(pid));
    until("it serves on", || node.get("forks", "/ok").status == 200);
    // Nothing was left behind: one process for the function, and two that wait.
    until("nothing is left of the bomb", || node.js_processes().len() == 3);
}

#[test]
fn a_line_without_measure_is_cut_and_takes_no_memory_of_the_node() {
    let source = acts(
        r#"
        console() { console.log("x".repeat(50 << 20)); return new Response("said"); },
        object() { console.log({ text: "y".repeat(50 << 20) }, [new Array(1e6).fill("z")]); return new Response("said"); },
        error() { throw new Error("w".repeat(50 << 20)); },
        stdout() {
            const piece = new Uint8Array(1 << 20).fill(118);
            for (let round = 0; round < 50; round++) for (let at = 0; at < piece.length;) at += Deno.stdout.writeSync(piece.subarray(at));
            Deno.stdout.writeSync(new TextEncoder().encode("\n"));
            return new Response("said");
        },
        stderr() {
            const piece = new Uint8Array(1 << 20).fill(117);
            for (let round = 0; round < 50; round++) for (let at = 0; at < piece.length;) at += Deno.stderr.writeSync(piece.subarray(at));
            return new Response("said");
        },
        lines() { for (let line = 0; line < 200_000; line++) console.log(line); return new Response("said"); },
        "#,
    );
    let node = Node::start();
    node.serve(&App::of_js("lines", &source, "limits = { memory = \"1GiB\", cpu = \"60s\", timeout = \"5m\" }"));
    node.get("lines", "/ok").ok();
    let before = node.rss_bytes();
    for (act, text, status) in [
        ("console", "xxxx", 200),
        ("object", "yyyy", 200),
        ("error", "Uncaught Error: wwww", 500),
        ("stdout", "vvvv", 200),
        ("stderr", "uuuu", 200),
    ] {
        assert_eq!(node.get("lines", &format!("/{act}")).status, status, "{act}");
        if act == "stderr" {
            // It has no end yet.
            continue;
        }
        let line = eventually(&format!("the line of `{act}` is there"), || {
            node.logs("lines").into_iter().find(|line| line["message"].as_str().unwrap().contains(text))
        });
        let message = line["message"].as_str().unwrap();
        assert!(message.len() <= 16 << 10, "{act}: {} bytes", message.len());
    }
    assert_eq!(node.get("lines", "/lines").ok(), "said");
    assert!(node.metric("minnow_log_lines_dropped_total", &[]) > 0.0);
    node.get("lines", "/ok").ok();
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "the node grew by {} MiB", grown / MIB);
}

#[test]
fn stacks_are_told_in_the_sources_at_little_cost_for_the_node() {
    // The place that it prints is in the last lines of a million.
    let code = r#"export default { fetch(request) {
        const name = new URL(request.url).pathname.slice(1);
        for (let line = 0; line < 4000; line++) console.log(`${line} ${name}.js:3:1`);
        console.log(`the end of ${name}`);
        return new Response("said");
    } };"#;
    let node = Node::start();
    let source = "\n".repeat(1_000_000) + code;
    node.serve(&App::of_js("stacks", &source, "limits = { cpu = \"60s\", timeout = \"5m\" }"));
    let used_for = |name: &str| {
        let before = node.cpu();
        assert_eq!(node.get("stacks", &format!("/{name}")).ok(), "said");
        logged(&node, "stacks", &format!("the end of {name}"));
        node.cpu() - before
    };
    let (plain, places) = (used_for("plain"), used_for("web"));
    assert!(places < 4 * plain + Duration::from_secs(2), "the node used {places:?}, and {plain:?} without places");
    let is_told = |line: &Value| line["message"].as_str().unwrap().contains(" web.js:100000");
    assert!(node.logs("stacks").iter().any(is_told));
}

#[test]
fn a_process_is_looked_after_while_its_source_map_is_read() {
    let calls = "g();".repeat(450_000);
    let code = format!(
        "const g = () => {{}};\nexport default {{ rest() {{ {calls} }}, fetch() {{ console.error(new Error('before')); for (;;); }} }};"
    );
    let node = Node::start();
    node.serve(&App::of_js("mapped", &code, "limits = { cpu = \"100ms\", timeout = \"5m\" }"));
    node.get("mapped", "/").problem(500, "cpu_limit");
    // What it printed waits for the map, and is told all the same.
    logged(&node, "mapped", "web.js:2:");
    let used = node.metric("minnow_cpu_seconds_total", &["app=\"mapped\""]);
    assert!(used < 0.35, "it was stopped after {used} s of CPU time");
}

#[test]
fn a_crowd_beyond_concurrency_and_queue_is_refused_at_once() {
    let source = acts("async waits(request) { await request.text(); return new Response('waited'); },");
    let node = node();
    node.serve(&App::of_js("crowd", &source, "limits = { concurrency = 2, queue = 1, timeout = \"5m\" }"));
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = node.connect();
            connection
                .write_head(&Request::get("crowd", "/waits").method("POST").header("content-length", "1"))
                .unwrap();
            connection
        })
        .collect();
    until("two run and one waits", || (node.count("crowd", "running"), node.count("crowd", "queued")) == (2, 1));
    let refused = node.get("crowd", "/ok");
    refused.problem(503, "overloaded");
    assert!(refused.header("retry-after").is_some());
    for connection in &mut waiting {
        connection.write(b"x").unwrap();
    }
    for connection in waiting {
        assert_eq!(connection.response(false).unwrap().rest().unwrap().ok(), "waited");
    }
    let mut large = node.connect();
    let head = Request::get("crowd", "/waits").method("POST").header("content-length", &(33 * MIB).to_string());
    large.write_head(&head).unwrap();
    large.response(false).unwrap().rest().unwrap().problem(413, "request_too_large");
}

#[test]
fn many_functions_at_once_share_what_the_node_has() {
    // Memory for three processes of the default size, and one that waits.
    let node = Arc::new(Node::builder().config("[js]\npool = 1\n[sandboxes]\nmemory = \"520MiB\"").start());
    let names: Vec<String> = (0..8).map(|index| format!("f{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node.serve(&several("many", &names, &acts(""), "timeout = \"1m\""));
    for round in 0..2 {
        for name in &names {
            let path = format!("/{name}/ok");
            // One that is idle has to go for another one, which takes a moment.
            until(&format!("{name} answers in round {round}"), || node.get("many", &path).status == 200);
            assert!(node.js_processes().len() <= 5, "{:?}", node.js_processes());
        }
    }
}
