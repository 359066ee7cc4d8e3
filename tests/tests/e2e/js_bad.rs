//! JavaScript that is wrong, broken or greedy: what its author and its clients are told, and that nobody else suffers.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use minnow_tests::{
    Answer, App, Cli, Node, Request, eventually, until,
    upstream::{Upstream, answer},
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start())
}

/// The line of an app's log whose message contains `text`, once it is there.
#[track_caller]
fn logged(node: &Node, app: &str, text: &str) -> Value {
    eventually(&format!("`{text}` is in the log of {app}"), || {
        node.logs(app).into_iter().find(|line| line["message"].as_str().unwrap().contains(text))
    })
}

/// Publishes what must be refused.
#[track_caller]
fn refused(app: &App, says: &[&str]) {
    let ran = node().cli().in_dir(app.path()).fails(["publish"]);
    ran.says(says);
    for part in ["boot.js", "blob:", "ext:", "/run/"] {
        assert!(!ran.stderr.contains(part), "`{part}` helps nobody: {}", ran.stderr);
    }
}

/// What a handler does, by the path that it is asked for; the rest of an object literal.
fn acts(acts: &str) -> String {
    format!(
        "let count = 0;\nconst acts = {{ ok: () => new Response(`ok ${{++count}}`),\n{acts}\n}};\n\
         export default {{ fetch: (request, env, ctx) => acts[new URL(request.url).pathname.split('/').pop()](request, ctx) }};"
    )
}

/// An app with this one source in several functions, so that what one of them suffers does not count for the others.
fn several(name: &str, functions: &[&str], source: &str, limits: &str) -> App {
    functions.iter().fold(App::new(name), |app, function| {
        app.js(function, "acts.js", source, &format!("routes = [\"/{function}/{{*rest}}\"]\nlimits = {{ {limits} }}"))
    })
}

#[test]
fn what_is_wrong_with_the_sources_is_told_with_its_place_before_anything_is_sent() {
    let app = |file: &str, source: &str| App::new("broken").js("web", file, source, "routes = [\"/\"]");
    for (file, source, says) in [
        (
            "src/api.ts",
            "const a: number = 1;\n\nexport default { fetch( { } };\n",
            &["src/api.ts:3:", "fetch( { }"][..],
        ),
        ("api.js", "export default {\n    fetch: () => new Response(`open),\n};\n", &["api.js:", "Unterminated"]),
        ("api.mjs", "const x = 1;\nconst x = 2;\nexport default {};\n", &["api.mjs:2:7", "x"]),
        ("a.js", "import { b } from \"./missing\";\nexport default b;\n", &["a.js:1:19", "./missing"]),
        (
            "a.js",
            "import lodash from \"lodash\";\nexport default lodash;\n",
            &["a.js:1:20", "lodash", "npm install lodash"],
        ),
        ("a.js", "import x from \"https://example.com/x.js\";\nexport default x;\n", &["a.js:1:15", "on the network"]),
        ("a.js", "import { no } from \"./b.js\";\nexport default no;\n", &["a.js:1:10", "No matching export"]),
        ("a.js", "import \"./addon.node\";\nexport default {};\n", &["a.js:1:8", "native add-ons"]),
        ("a.js", "import \"node:nothing\";\nexport default {};\n", &["a.js:1:8", "no module `node:nothing`"]),
    ] {
        let app = app(file, source).file("b.js", "export const yes = 1;").file("addon.node", "\u{7f}ELF");
        let node_less = Cli::new().in_dir(app.path()).fails(["build"]);
        node_less.says(says);
        refused(&app, says);
    }
    // Everything that is wrong is told at once.
    let two = App::new("broken").js("one", "one.js", "let 1;", "routes = [\"/1\"]").js(
        "two",
        "two.ts",
        "let x: = 1;",
        "routes = [\"/2\"]",
    );
    refused(&two, &["one.js:1:", "two.ts:1:"]);
    assert!(node().api("GET", "/v1/apps/broken", "").status == 404, "nothing of it is there");
}

#[test]
fn a_module_that_cannot_be_loaded_is_refused_at_publish_with_the_place_in_its_sources() {
    let limits = "limits = { timeout = \"2s\", cpu = \"300ms\", memory = \"96MiB\" }";
    let mut wrong = String::new();
    for (source, says) in [
        ("", &["no default export", "Deno.serve", "write `export default { fetch(request) { … } }`"][..]),
        ("export const fetch = () => new Response();", &["no default export", "write `export default { fetch }`"]),
        ("export async function fetch() {}\nexport { fetch as other };", &["write `export default { fetch }`"]),
        (
            "export const handler = async (event) => ({ statusCode: 200 });",
            &["no default export", "AWS Lambda", "export default"],
        ),
        (
            "exports.handler = async (event) => ({ statusCode: 200 });",
            &["the default export has no fetch", "AWS Lambda"],
        ),
        (
            "module.exports.handler = (event, context, done) => done();",
            &["AWS Lambda", "a Request and returns a Response"],
        ),
        (
            "addEventListener(\"fetch\", (event) => event.respondWith(new Response()));",
            &["in place of `addEventListener(\"fetch\", …)` write `export default { fetch"],
        ),
        ("self.addEventListener(\"fetch\", () => {});", &["in place of `addEventListener"]),
        ("export default {};", &["the default export has no fetch"]),
        ("export default { fetch: 5 };", &["the default export has no fetch"]),
        ("export default null;", &["the default export is null"]),
        ("export default \"text\";", &["a string"]),
        (
            "export default (request) => new Response(\"hello\");",
            &["the default export has no fetch", "export default { fetch"],
        ),
        (
            "const a = 1;\n\nfunction boom() {\n    throw new RangeError(\"at the start\");\n}\nboom();\nexport default {};",
            &["RangeError: at the start", "web.js:4:11", "web.js:6:1"],
        ),
        ("await Promise.reject(new Error(\"rejected\"));\nexport default {};", &["rejected", "web.js:1:22"]),
        ("throw undefined;\nexport default {};", &["undefined"]),
        ("import { nope } from \"node:path\";\nconsole.log(nope);\nexport default { fetch() {} };", &["nope"]),
        ("await import(\"node:nothing\");\nexport default { fetch() {} };", &["node:nothing"]),
        ("require(\"nothing\");\nexport default { fetch() {} };", &["nothing"]),
        ("process.exit(1);\nexport default { fetch() {} };", &["web.js:1:9"]),
        ("await new Promise(() => {});\nexport default { fetch() {} };", &["top-level `await`", "5s"]),
        ("for (;;);\nexport default { fetch() {} };", &["endless loop"]),
        (
            "(function again() { Promise.resolve().then(again); })();\nawait 0;\nexport default { fetch() {} };",
            &["endless loop"],
        ),
        (
            "const all = [];\nfor (;;) all.push(new Array(1e5).fill(all.length));\nexport default { fetch() {} };",
            &["limits.memory"],
        ),
        ("Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);\nexport default { fetch() {} };", &["5s"]),
    ] {
        let app = App::of_js("unloadable", source, limits);
        let ran = node().cli().in_dir(app.path()).fails(["publish"]);
        let is_told = says.iter().all(|part| ran.stderr.contains(part));
        // Nothing of what lies between the node and the module.
        let is_plain = ["boot.js", "blob:", "ext:", "/run/"].iter().all(|part| !ran.stderr.contains(part));
        if !is_told || !is_plain {
            let _ = writeln!(wrong, "{source}\n  has to say {says:?}, and says\n{}", ran.stderr);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(node().api("GET", "/v1/apps/unloadable", "").status, 404);
    let answer = publish_by_api("unloadable");
    assert_eq!(answer, 422);
}

/// The status with which the node itself refuses a bundle that `minnow publish` has sent: it does not trust the command.
fn publish_by_api(name: &str) -> u16 {
    let app = App::of_js(name, "export default {};", "");
    let ran = node().cli().in_dir(app.path()).fails(["publish"]);
    assert!(ran.stderr.contains("compile_failed"), "{}", ran.stderr);
    ran.stderr.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default()
}

#[test]
fn a_manifest_that_makes_no_sense_for_javascript_is_refused() {
    for (lines, says) in [
        ("js = \"a.js\"\nwasm = \"a.wasm\"", &["both `wasm` and `js`"][..]),
        ("routes = [\"/\"]", &["neither `wasm` nor `js`"]),
        ("js = \"a.js\"\ninstances = \"fresh\"", &["fresh"]),
        ("js = \"a.wasm\"", &["a.wasm"]),
        ("js = \"a.txt\"", &["a.txt"]),
        ("js = \"../outside.js\"", &["leaves its folder"]),
        ("js = \"/etc/outside.js\"", &["the path is absolute"]),
        ("js = \"missing.js\"", &["missing.js"]),
        ("js = \"folder.js\"", &["folder.js"]),
        ("js = \"\"", &["the path is empty"]),
        ("js = 5", &["minnow.toml:4:6"]),
    ] {
        let app = App::with_manifest(format!("name = \"odd\"\nversion = \"0.1.0\"\n[functions.web]\n{lines}\n"));
        let app = app
            .file("a.js", "export default { fetch() {} };")
            .file("folder.js/x", "")
            .file("a.wasm", "")
            .file("a.txt", "");
        refused(&app, says);
    }
}

#[test]
fn a_machine_without_npm_and_deno_says_plainly_what_is_missing() {
    let empty = tempfile::tempdir().unwrap();
    let bin = empty.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let tools = empty.path().join("tools").display().to_string();
    let app = App::of_js("missing", "export default { fetch: () => new Response() };", "");
    let without = |cli: Cli| cli.env("PATH", bin.to_str().unwrap()).env("MINNOW_TOOLS_DIR", &tools);
    without(Cli::new()).in_dir(app.path()).fails(["build"]).says(&["esbuild", "npm"]);

    let node = Node::builder().env("PATH", bin.to_str().unwrap()).env("MINNOW_TOOLS_DIR", &tools).start();
    node.cli().in_dir(app.path()).fails(["publish"]).says(&["javascript_unavailable", "Deno", "npm"]);
    // What needs none of it works.
    node.serve(&App::of_guest("wasm", "hello-p2", ""));
    node.get("wasm", "/").ok();
    assert!(!Path::new(&tools).join("deno").exists());
}

#[test]
fn a_handler_that_gives_no_response_is_told_to_the_client_by_code_and_to_the_log_with_its_reason() {
    let source = acts(
        r#"
        throws() { throw new TypeError("thrown by hand"); },
        async rejects() { await null; throw new Error("rejected by hand"); },
        text() { throw "a text is thrown"; },
        nothing() { throw undefined; },
        getter() { throw { get message() { throw new Error("hostile"); }, get stack() { throw new Error("hostile"); } }; },
        props() { throw Object.assign(new Error("with properties"), { code: 5, info: { a: [1] } }); },
        wraps() { throw new AggregateError([new URIError("first"), Object.assign(new Error("second"), { b: 2 })], "several", { cause: new Error("the cause") }); },
        reads() { Deno.readTextFileSync("/etc/passwd"); },
        async fs() { await (await import("node:fs/promises")).readFile("./data.json"); },
        writes() { Deno.writeTextFileSync("/tmp/x", ""); },
        proxy() { throw new Proxy(new Error("x"), { get() { throw new Error("hostile"); }, getPrototypeOf() { throw 1; } }); },
        async exits() { process.exit(3); },
        exitsToo() { Deno.exit(0); },
        kills() { process.kill(process.pid, 9); },
        deep() { const again = () => again() + 1; again(); },
        undefined() {},
        async later() { await null; },
        nul: () => null,
        number: () => 5,
        string: () => "<p>text",
        fake: () => ({ status: 200, headers: new Headers(), body: "x", text: async () => "x" }),
        prototype: () => Object.create(Response.prototype),
        error: () => Response.error(),
        async used() { const response = new Response("x"); await response.text(); return response; },
        request: (request) => request,
        switching: () => new Response(null, { status: 101 }),
        thenable: () => ({ then(done, failed) { failed(new Error("by a thenable")); } }),
        head: () => new Response("x", { headers: { "x-big": "y".repeat(70_000) } }),
        "#,
    );
    let node = node();
    node.serve(&App::of_js("handlers", &source, ""));
    for (act, status, code, reason) in [
        ("throws", 500, "function_trapped", "Uncaught TypeError: thrown by hand"),
        ("rejects", 500, "function_trapped", "Uncaught Error: rejected by hand"),
        ("text", 500, "function_trapped", "Uncaught a text is thrown"),
        ("nothing", 500, "function_trapped", "Uncaught undefined"),
        ("getter", 500, "function_trapped", "Uncaught"),
        ("proxy", 500, "function_trapped", "Uncaught"),
        ("props", 500, "function_trapped", " {\n  code: 5,\n  info: { a: [ 1 ] }\n}"),
        ("wraps", 500, "function_trapped", " {\n      b: 2\n    }\n  ]\n}"),
        (
            "reads",
            500,
            "function_trapped",
            "Uncaught NotCapable: Requires read access to \"/etc/passwd\": a function has no files",
        ),
        ("fs", 500, "function_trapped", "a function has no files; import them"),
        ("writes", 500, "function_trapped", "Requires write access to \"/tmp/x\": a function has no files"),
        ("exits", 500, "function_trapped", "a function's process serves other requests too"),
        ("exitsToo", 500, "function_trapped", "a function's process serves other requests too"),
        ("kills", 500, "function_trapped", "Uncaught"),
        ("deep", 500, "function_trapped", "Maximum call stack size exceeded"),
        ("undefined", 500, "no_response", "returned nothing"),
        ("later", 500, "no_response", "returned nothing"),
        ("nul", 500, "no_response", "returned nothing"),
        ("number", 502, "invalid_response", "no Response but 5"),
        ("string", 502, "invalid_response", "no Response but <p>text"),
        ("fake", 502, "invalid_response", "no Response but {"),
        ("prototype", 502, "invalid_response", "cannot be sent"),
        ("error", 502, "invalid_response", "cannot be sent"),
        ("used", 502, "invalid_response", "already been consumed"),
        ("request", 502, "invalid_response", "no Response but Request"),
        ("thenable", 500, "function_trapped", "by a thenable"),
        ("head", 502, "invalid_response", ""),
    ] {
        let answer = node.get("handlers", &format!("/{act}"));
        assert_eq!((answer.status, &answer.json()["code"]), (status, &code.into()), "{act}: {}", answer.text());
        let id = answer.problem(status, code);
        until(&format!("the log says why `{act}` failed"), || {
            let says = |line: &Value| line["request_id"] == *id && line["message"].as_str().unwrap().contains(reason);
            node.logs("handlers").iter().any(|line| says(line) && line["level"] == "error")
        });
    }
    // `new Response` itself refuses this status without a WebSocket, or the node does.
    assert!(node.get("handlers", "/switching").status >= 500);
    // The process that all this happened in is still the first one.
    assert_eq!(node.get("handlers", "/ok").ok(), "ok 1");
    assert_eq!(node.count("handlers", "processes"), 1);
    until("nothing runs any more", || node.count("handlers", "running") == 0);
}

#[test]
fn a_body_that_fails_on_its_way_does_not_look_complete() {
    let source = acts(
        r#"
        pieces: () => {
            let sent = 0;
            return new Response(new ReadableStream({
                async pull(controller) {
                    if (++sent > 3) throw new Error("the body broke");
                    controller.enqueue(new Uint8Array(1000));
                    await new Promise((resolve) => setTimeout(resolve, 1));
                },
            }));
        },
        odd: () => new Response(new ReadableStream({ start(controller) { controller.enqueue("text"); controller.close(); } })),
        stalls: () => new Response(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(7)) })),
        short: () => new Response("short", { headers: { "content-length": "1000" } }),
        "#,
    );
    let node = node();
    node.serve(&App::of_js("bodies", &source, "limits = { timeout = \"2s\" }"));
    for (act, reason) in [("pieces", "the body broke"), ("odd", "ArrayBufferView"), ("stalls", "limits.timeout = 2s")] {
        let answer = node.open(&Request::get("bodies", &format!("/{act}")));
        assert_eq!(answer.status, 200, "{act}");
        assert!(answer.drain().is_err(), "{act}: the body must not look complete");
        logged(node, "bodies", reason);
    }
    // A length that is not true is corrected or told; the client never waits for what does not come.
    let short = node.open(&Request::get("bodies", "/short"));
    assert!(short.status >= 500 || short.rest().map_or(true, |answer| answer.text() == "short"));
    node.get("bodies", "/ok").ok();
    until("nothing runs any more", || node.count("bodies", "running") == 0);
}

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
fn a_function_that_keeps_dying_is_held_back_says_so_and_recovers() {
    let node = Node::start();
    node.serve(&App::of_js("dies", &acts("loop() { for (;;); },"), "limits = { cpu = \"50ms\" }"));
    node.serve(&App::of_js("healthy", &acts(""), ""));
    let held = eventually("it is held back", || {
        let answer = node.get("dies", "/loop");
        assert!([500, 503].contains(&answer.status), "{}", answer.text());
        (answer.status == 503).then_some(answer)
    });
    held.problem(503, "held_back");
    let seconds = |answer: &Answer| answer.header("retry-after").expect("retry-after").parse::<u64>().unwrap();
    assert_eq!(seconds(&held), 1);
    let status = node.status("dies");
    let of_function = &status["functions"][0];
    assert!(of_function["held_back_s"].as_u64() >= Some(1) && of_function["processes"] == 0, "{of_function}");
    let printed = node.cli().ok(["status", "dies"]);
    assert!(printed.contains("held back"), "{printed}");
    let line = logged(&node, "dies", "the function keeps failing");
    assert_eq!((&line["level"], &line["source"], &line["function"]), (&"error".into(), &"node".into(), &"web".into()));
    // Others are not.
    node.get("healthy", "/ok").ok();
    until("it is started again", || node.get("dies", "/ok").status == 200);
    assert_eq!(node.status("dies")["functions"][0]["held_back_s"], Value::Null);
    // A new version does not answer for the old one.
    let mut mended = App::of_js("dies", &acts(""), "");
    mended.change("0.1.0", "0.2.0");
    until("it is held back for longer, and says for how long", || {
        let answer = node.get("dies", "/loop");
        answer.status == 503 && seconds(&answer) > 1
    });
    node.serve(&mended);
    assert_eq!(node.get("dies", "/ok").ok(), "ok 1");
}

#[test]
fn a_module_that_fails_only_when_it_is_started_is_told_by_code_and_held_back() {
    /// What the module does when it is started; asked of a server, so that it can change after the publish.
    static MODE: AtomicU8 = AtomicU8::new(0);
    const MODES: [&str; 6] = ["good", "throws", "loops", "hoards", "stalls", "lacks"];
    let switch = Upstream::answering(|_| answer("200 OK", "", MODES[usize::from(MODE.load(Relaxed))]));
    let source = format!(
        r#"
        const mode = await (await fetch("http://{}/")).text();
        const held = [];
        if (mode === "throws") throw new Error("not today");
        while (mode === "loops");
        while (mode === "hoards") held.push(new Array(1e5).fill(held.length));
        if (mode === "stalls") await new Promise(() => {{}});
        export default mode === "lacks" ? undefined : {{ fetch: () => new Response(mode) }};
        "#,
        switch.address
    );
    let node =
        Node::builder().config("[js]\npool = 1\nidle = \"1s\"\n[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start();
    for (mode, status, code, limits) in [
        (1, 500, "load_failed", "timeout = \"1m\""),
        (2, 500, "cpu_limit", "timeout = \"1m\", cpu = \"100ms\""),
        (3, 500, "memory_limit", "timeout = \"1m\", cpu = \"1m\", memory = \"64MiB\""),
        (4, 504, "timeout", "timeout = \"1s\""),
        (5, 500, "load_failed", "timeout = \"1m\""),
    ] {
        let name = MODES[usize::from(mode)];
        MODE.store(0, Relaxed);
        let settings = format!("egress = [\"http://{}\"]\nlimits = {{ {limits} }}", switch.address);
        node.serve(&App::of_js(name, &source, &settings));
        assert_eq!(node.get(name, "/").ok(), "good");
        until("its process is gone", || node.count(name, "processes") == 0);
        MODE.store(mode, Relaxed);
        let answer = node.get(name, "/");
        let logs = || node.logs(name);
        assert_eq!((answer.status, &answer.json()["code"]), (status, &code.into()), "{name}: {:#?}", logs());
        let id = answer.problem(status, code);
        until("the log says why", || {
            node.logs(name).iter().any(|line| line["request_id"] == *id && line["level"] == "error")
        });
        if code == "load_failed" {
            until("it is held back", || node.get(name, "/").json()["code"] == "held_back");
        }
        MODE.store(0, Relaxed);
        until("it is good again", || node.get(name, "/").status == 200);
    }
}

/// Replaces what the code around the function could use, and notes what goes through it.
const PATCHES: &str = r#"
    const seen = [];
    const note = (value) => { if (typeof value === "string" && value.length < 500) seen[seen.length] = value; };
    const patch = (object, name, make) => {
        const original = object[name];
        try { Object.defineProperty(object, name, { configurable: true, writable: true, value: make(original) }); } catch {}
    };
    const apply = Reflect.apply;
    const spy = (original) => function () {
        for (let at = 0; at < arguments.length; at++) note(arguments[at]);
        note(this);
        return apply(original, this, arguments);
    };
    for (const name of ["startsWith", "slice", "indexOf", "split", "toLowerCase", "trim", "endsWith", "replace"]) patch(String.prototype, name, spy);
    for (const name of ["push", "shift", "splice", "map", "forEach", "join", "includes", Symbol.iterator]) patch(Array.prototype, name, spy);
    for (const name of ["get", "set", "has", "delete", "append", "forEach", "entries", Symbol.iterator]) patch(Headers.prototype, name, spy);
    for (const name of ["get", "set", "has", "delete", "forEach", Symbol.iterator]) patch(Map.prototype, name, spy);
    for (const name of ["get", "set", "has", "delete"]) patch(WeakMap.prototype, name, spy);
    for (const name of ["call", "apply", "bind", Symbol.hasInstance]) patch(Function.prototype, name, (original) => original);
    for (const name of ["then", "catch", "finally"]) patch(Promise.prototype, name, spy);
    for (const name of ["stringify", "parse"]) patch(JSON, name, () => () => '{"t":"done","r":"' + "0".repeat(32) + '"}');
    for (const name of ["exec", "test", Symbol.replace]) patch(RegExp.prototype, name, spy);
    for (const name of ["encode", "encodeInto"]) patch(TextEncoder.prototype, name, spy);
    patch(TextDecoder.prototype, "decode", spy);
    for (const name of ["log", "error", "info", "warn", "debug"]) patch(console, name, () => () => {});
    for (const name of ["isArray", "from", "of"]) patch(Array, name, () => () => []);
    for (const name of ["defineProperty", "keys", "entries", "freeze", "assign", "create", "getPrototypeOf"]) patch(Object, name, spy);
    for (const name of ["apply", "construct", "ownKeys", "get"]) patch(Reflect, name, spy);
    patch(EventTarget.prototype, "addEventListener", spy);
    patch(EventTarget.prototype, "dispatchEvent", spy);
    for (const name of ["Promise", "Map", "WeakMap", "Set", "Error", "TypeError", "Headers", "Request", "URL", "Proxy", "Symbol", "queueMicrotask", "setTimeout", "AbortController"]) {
        globalThis[name] = new globalThis.Function("...args", "throw 'replaced " + name + "'");
    }
    const NativeResponse = Response;
    globalThis.Response = class { constructor() { return { status: 200 }; } static [Symbol.hasInstance]() { return true; } };
    for (const name of ["get", "set", "value", "status", "headers", "type", "then", "fetch", "client", "signal", "t", "r", "m", "x-minnow-request"]) {
        if (name === "get" || name === "set" || name === "value" || name === "then") continue;
        Object.prototype[name] = undefined;
        delete Object.prototype[name];
        Object.prototype.__defineSetter__(name, function (value) { note(value); Reflect.defineProperty?.(this, name, { value, writable: true, configurable: true, enumerable: true }); });
    }
    for (const name of ["status", "ok", "headers", "body", "type"]) {
        try { Object.getPrototypeOf(new NativeResponse()).__defineGetter__(name, () => "a lie"); } catch {}
    }
    let waits;
    export default {
        async fetch(request, env, ctx) {
            const path = request.url.split("/").at(-1);
            if (path === "throws") throw "thrown";
            if (path === "nothing") return;
            if (path === "fake") return new Response();
            if (path === "waits") ctx.waitUntil((async () => { await 0; })());
            return new NativeResponse(seen.join("\n"));
        },
    };
"#;

#[test]
fn a_module_that_replaces_what_everything_is_made_of_lies_to_itself_only() {
    let node = node();
    node.serve(&App::of_js("patches", PATCHES, "limits = { timeout = \"5s\" }"));
    for _ in 0..3 {
        let answer = node.get("patches", "/seen");
        let seen = answer.ok();
        // Nothing of the node went through what it has replaced.
        for part in ["x-minnow", answer.header("x-request-id").unwrap(), "/run/"] {
            assert!(!seen.contains(part), "it has seen `{part}`: {seen}");
        }
    }
    let id = node.get("patches", "/throws").problem(500, "function_trapped");
    let line = logged(node, "patches", "Uncaught thrown");
    assert_eq!((&line["level"], &line["request_id"]), (&"error".into(), &id.into()), "{line}");
    node.get("patches", "/nothing").problem(500, "no_response");
    node.get("patches", "/fake").problem(502, "invalid_response");
    node.get("patches", "/waits").ok();
    until("nothing runs any more", || node.count("patches", "running") == 0);
    assert_eq!(node.count("patches", "processes"), 1);
    node.get("patches", "/seen").ok();
}

#[test]
fn what_a_function_writes_in_the_words_of_the_node_changes_nothing_for_others() {
    let source = acts(
        r#"
        // Finishes, begins and says things for requests that are not its own, and then for its own.
        async forges(request, ctx) {
            const { ids } = await request.json();
            const say = (value) => Deno.stdout.writeSync(new TextEncoder().encode(`\x1e${typeof value === "string" ? value : JSON.stringify(value)}\n`));
            for (const r of [...ids, "0".repeat(32), "x", ""]) {
                say({ t: "log", l: "error", r, m: `forged for ${r}` });
                say({ t: "done", r });
                say({ t: "wait", r });
                say({ t: "done", r });
            }
            say({ t: "ready" });
            for (const odd of ["{", "[]", "null", "{}", '{"t":"log"}', '{"t":"unknown","r":1}', "\x1e\x1e", "\u0000"]) say(odd);
            return new Response("forged");
        },
        never: () => new Promise(() => {}),
        "#,
    );
    let node = node();
    node.serve(&App::of_js("victim", &acts("never: () => new Promise(() => {}),"), "limits = { timeout = \"10m\" }"));
    node.serve(&App::of_js("forger", &source, "limits = { timeout = \"1m\" }"));
    let victims: Vec<String> =
        (0..3).map(|_| node.get("victim", "/ok").header("x-request-id").unwrap().to_owned()).collect();
    let mut running = node.connect();
    running.write_head(&Request::get("victim", "/never")).unwrap();
    until("it runs", || node.count("victim", "running") == 1);
    let forged = node.post("forger", "/forges", json!({ "ids": victims }).to_string());
    assert_eq!(forged.ok(), "forged");
    logged(node, "forger", "forged for x");
    until("nothing of the forger runs", || node.count("forger", "running") == 0);
    for id in &victims {
        let line = logged(node, "forger", &format!("forged for {id}"));
        assert_eq!(line["request_id"], Value::Null, "{line}");
    }
    assert!(node.logs("victim").iter().all(|line| !line["message"].as_str().unwrap().contains("forged")));
    assert_eq!(node.count("victim", "running"), 1);
    node.get("forger", "/ok").ok();
    assert_eq!(node.count("forger", "processes"), 1);
}

#[test]
fn answers_that_are_not_http_are_refused() {
    // A head of more fields than the node takes, and one that is larger.
    let source = acts(
        r#"
        many: () => { const headers = new Headers(); for (let at = 0; at < 1000; at++) headers.append(`x-field-${at}`, "v"); return new Response("x", { headers }); },
        large: () => new Response("x", { headers: { "x-large": "y".repeat(1 << 20) } }),
        "#,
    );
    let node = node();
    node.serve(&App::of_js("heads", &source, ""));
    for act in ["many", "large"] {
        node.get("heads", &format!("/{act}")).problem(502, "invalid_response");
    }
    assert_eq!(node.get("heads", "/ok").ok(), "ok 1");
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
