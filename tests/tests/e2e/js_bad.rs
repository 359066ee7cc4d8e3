//! JavaScript that is wrong or broken, or that lies: what its clients are told, and that nobody else suffers.

use std::sync::{
    OnceLock,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use minnow_tests::{
    Answer, App, Node, Request, eventually, until,
    upstream::{Upstream, answer},
};
use serde_json::{Value, json};

/// The node of all tests here that need nothing special.
pub(super) fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start())
}

/// The line of an app's log whose message contains `text`, once it is there.
#[track_caller]
pub(super) fn logged(node: &Node, app: &str, text: &str) -> Value {
    eventually(&format!("`{text}` is in the log of {app}"), || {
        node.logs(app).into_iter().find(|line| line["message"].as_str().unwrap().contains(text))
    })
}

/// What a handler does, by the path that it is asked for; the rest of an object literal.
pub(super) fn acts(acts: &str) -> String {
    format!(
        "let count = 0;\nconst acts = {{ ok: () => new Response(`ok ${{++count}}`),\n{acts}\n}};\n\
         export default {{ fetch: (request, env, ctx) => acts[new URL(request.url).pathname.split('/').pop()](request, ctx) }};"
    )
}

/// An app with this one source in several functions, so that what one of them suffers does not count for the others.
pub(super) fn several(name: &str, functions: &[&str], source: &str, limits: &str) -> App {
    functions.iter().fold(App::new(name), |app, function| {
        app.js(function, "acts.js", source, &format!("routes = [\"/{function}/{{*rest}}\"]\nlimits = {{ {limits} }}"))
    })
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
