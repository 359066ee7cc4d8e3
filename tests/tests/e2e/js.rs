//! Functions in JavaScript and TypeScript: what they can do, and that the rest means the same as for WebAssembly.

use std::{io::Write as _, sync::OnceLock, thread};

use minnow_tests::{Answer, App, Exchange, Node, Request, eventually, http2, until};
use serde_json::{Value, json};

/// What makes a node's functions reach the tests' servers.
const LOOPBACK: &str = "[egress]\nprivate_networks = [\"127.0.0.0/8\"]";

pub(super) const MIB: u64 = 1 << 20;

/// The node of all tests here that need nothing special. Its functions reach loopback if their manifest says so.
pub(super) fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().config(LOOPBACK).start())
}

/// The line of an app's log whose message contains `text`, once it is there.
#[track_caller]
pub(super) fn logged(node: &Node, app: &str, text: &str) -> Value {
    eventually(&format!("`{text}` is in the log of {app}"), || {
        node.logs(app).into_iter().find(|line| line["message"].as_str().unwrap().contains(text))
    })
}

pub(super) fn processes(node: &Node, app: &str) -> u64 {
    node.count(app, "processes")
}

pub(super) fn request_id(answer: &Answer) -> String {
    answer.header("x-request-id").unwrap().to_owned()
}

#[test]
fn javascript_typescript_and_modules_run_with_the_packages_that_they_import() {
    let node = node();
    let app = App::new("entries")
        .js(
            "plain",
            "src/plain.js",
            r#"
            import { hello } from "tiny-esm";
            import { shout } from "tiny-esm/extra";
            import joined, { inspected } from "tiny-cjs";
            import data from "./data.json";
            export default {
                fetch: () => new Response([hello("Ada"), shout("hey"), joined("a", "b"), inspected, data.name].join("\n")),
            };
            "#,
            "routes = [\"/plain\"]",
        )
        .file("src/data.json", r#"{ "name": "from JSON" }"#)
        .file("node_modules/tiny-esm/package.json", r#"{ "name": "tiny-esm", "type": "module", "exports": { ".": "./index.js", "./extra": "./lib/extra.js" } }"#)
        .file("node_modules/tiny-esm/index.js", "export const hello = (name) => `Hello, ${name}!`;")
        .file("node_modules/tiny-esm/lib/extra.js", "export const shout = (text) => text.toUpperCase();")
        .file("node_modules/tiny-cjs/package.json", r#"{ "name": "tiny-cjs", "main": "main.js" }"#)
        .file(
            "node_modules/tiny-cjs/main.js",
            r#"
            const path = require("path");
            const { inspect } = require("node:util");
            module.exports = (...parts) => require("./more").twice(path.join(...parts));
            module.exports.inspected = inspect({ a: [1] });
            "#,
        )
        .file("node_modules/tiny-cjs/more.js", "exports.twice = (text) => `${text} ${text}`;")
        .js(
            "typed",
            "src/typed.ts",
            r#"
            import { area, type Shape } from "./shape";
            import { Colour } from "./colour.ts";
            const shapes: Shape[] = [{ kind: "square", side: 3 }, { kind: "circle", radius: 1 } as const];
            class Counter { constructor(private count = 0) {} next(): number { return ++this.count; } }
            const counter = new Counter();
            export default {
                async fetch(request: Request): Promise<Response> {
                    const first = shapes[0]!;
                    return Response.json({ area: area(first), colour: Colour[Colour.Blue], count: counter.next() satisfies number });
                },
            };
            "#,
            "routes = [\"/typed\"]",
        )
        .file(
            "src/shape.ts",
            r#"
            export type Shape = { kind: "square"; side: number } | { kind: "circle"; radius: number };
            export function area(shape: Shape): number {
                return shape.kind === "square" ? shape.side ** 2 : Math.PI * shape.radius ** 2;
            }
            "#,
        )
        .file("src/colour.ts", "export enum Colour { Red, Green, Blue }")
        .js(
            "module",
            "module.mjs",
            r#"
            import path from "path";
            import { createHash } from "node:crypto";
            import { EventEmitter } from "events";
            import { Buffer } from "node:buffer";
            import { gzipSync, gunzipSync } from "zlib";
            import { setTimeout as sleep } from "node:timers/promises";
            import { AsyncLocalStorage } from "async_hooks";
            import { Readable } from "node:stream";
            import process from "process";
            const store = new AsyncLocalStorage();
            export default {
                async fetch() {
                    const emitter = new EventEmitter();
                    const heard = new Promise((resolve) => emitter.once("word", resolve));
                    await sleep(1);
                    emitter.emit("word", "heard");
                    let read = "";
                    for await (const piece of Readable.from(["re", "ad"])) read += piece;
                    return Response.json({
                        path: path.resolve("/a/b", "../c"),
                        hash: createHash("sha256").update("abc").digest("hex").slice(0, 8),
                        heard: await heard,
                        buffer: Buffer.from("abc").toString("base64"),
                        zlib: gunzipSync(gzipSync("packed")).toString(),
                        store: await store.run("stored", async () => (await sleep(1), store.getStore())),
                        read,
                        process: typeof process.nextTick,
                    });
                },
            };
            "#,
            "routes = [\"/module\"]",
        );
    node.serve(&app);
    assert_eq!(node.get("entries", "/plain").ok(), "Hello, Ada!\nHEY\na/b a/b\n{ a: [ 1 ] }\nfrom JSON");
    assert_eq!(node.get("entries", "/typed").json(), json!({ "area": 9, "colour": "Blue", "count": 1 }));
    assert_eq!(node.get("entries", "/typed").json()["count"], 2, "a module is loaded once");
    let expected = json!({
        "path": "/a/c", "hash": "ba7816bf", "heard": "heard", "buffer": "YWJj", "zlib": "packed", "store": "stored",
        "read": "read", "process": "function",
    });
    assert_eq!(node.get("entries", "/module").json(), expected);
}

#[test]
fn a_module_that_calls_deno_serve_runs_unchanged() {
    let app = App::new("served")
        .js(
            "bare",
            "bare.ts",
            r#"
            let asked = 0;
            Deno.serve((request: Request, info: Deno.ServeHandlerInfo) =>
                new Response(`${++asked} ${new URL(request.url).pathname} ${typeof info.remoteAddr.hostname}`));
            "#,
            "routes = [\"/bare\"]",
        )
        .js(
            "options",
            "options.js",
            r#"
            Deno.serve({
                port: 8000,
                onListen: ({ port }) => console.log(`listening on ${port}`),
                onError: (error) => new Response(`caught ${error.message}`, { status: 418 }),
            }, () => { throw new Error("boom"); });
            "#,
            "routes = [\"/options\"]",
        )
        .js(
            "late",
            "late.js",
            r#"
            async function main() {
                await new Promise((resolve) => setTimeout(resolve, 1));
                Deno.serve({ handler: async () => new Response("late") });
            }
            main();
            "#,
            "routes = [\"/late\"]",
        )
        .js(
            "class",
            "class.js",
            r#"
            export default class {
                constructor(ctx, env) { this.name = env.NAME; }
                fetch() { return new Response(this.name); }
            }
            "#,
            "routes = [\"/class\"]\nenv = { NAME = \"of a class\" }",
        );
    let node = node();
    node.serve(&app);
    assert_eq!(node.get("served", "/bare").ok(), "1 /bare string");
    assert_eq!(node.get("served", "/bare").ok(), "2 /bare string");
    let caught = node.get("served", "/options");
    assert_eq!((caught.status, &*caught.text()), (418, "caught boom"));
    assert_eq!(logged(node, "served", "listening on 8000")["function"], "options");
    assert_eq!(node.get("served", "/late").ok(), "late");
    assert_eq!(node.get("served", "/class").ok(), "of a class");
}

#[test]
fn the_environment_of_the_manifest_is_there_in_every_way_of_asking_for_it() {
    let source = r#"
        const early = Deno.env.get("GREETING");
        export default {
            fetch(request, env) {
                return Response.json({
                    env, early, deno: Deno.env.toObject(), node: { ...process.env }, frozen: Object.isFrozen(env),
                });
            },
        };
    "#;
    let node = node();
    node.serve(&App::of_js("env", source, "env = { GREETING = \"Ahoy\", EMPTY = \"\", UNICODE = \"ü\\n\" }"));
    let env = json!({ "GREETING": "Ahoy", "EMPTY": "", "UNICODE": "ü\n" });
    let expected = json!({ "env": env, "early": "Ahoy", "deno": env, "node": env, "frozen": true });
    assert_eq!(node.get("env", "/").json(), expected);
    node.serve(&App::of_js("noenv", source, ""));
    let answer = node.get("noenv", "/").json();
    assert_eq!((&answer["env"], &answer["deno"], &answer["node"]), (&json!({}), &json!({}), &json!({})));
}

#[test]
fn a_request_arrives_as_the_client_sent_it() {
    let source = r#"
        export default {
            async fetch(request) {
                const copy = new Request(request.clone());
                return Response.json({
                    method: request.method,
                    url: request.url,
                    body: await request.text(),
                    headers: [...request.headers],
                    own: [...copy.headers.keys(), ...request.headers.keys()].filter((name) => name.startsWith("x-minnow")),
                    asked: ["x-minnow-request", "x-minnow-boot"].map((name) => request.headers.get(name)),
                    copy: [copy.url, await copy.text()],
                });
            },
        };
    "#;
    let node = node();
    node.serve(&App::of_js("request", source, ""));
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let body = if method == "GET" { "" } else { "some text" };
        let path = "/a%20b/%C3%BC?x=1&y=%26";
        let length = body.len().to_string();
        let mut request =
            Request::get("request", path).method(method).body(body).header("x-list", "a").header("x-list", "b");
        // Names of the node's own headers, from somebody else.
        for name in ["x-minnow-request", "x-minnow-boot", "x-minnow-ping", "x-minnow-failure"] {
            request = request.header(name, "1");
        }
        let answer = node.send(&request.header("x-text", "é ~"));
        let got = answer.json();
        let url = format!("http://request.localhost{path}");
        assert_eq!((&got["method"], &got["url"], &got["body"]), (&method.into(), &url.clone().into(), &body.into()));
        assert_eq!((&got["own"], &got["asked"], &got["copy"]), (&json!([]), &json!([null, null]), &json!([url, body])));
        let headers = got["headers"].as_array().unwrap();
        let all = |name: &str| -> Vec<&str> {
            headers.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
        };
        assert_eq!(all("host"), ["request.localhost"]);
        assert_eq!(all("x-list"), ["a, b"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert_eq!(all("content-length"), if body.is_empty() { vec![] } else { vec![length.as_str()] }, "{method}");
    }
    let head = node.send(&Request::get("request", "/").method("HEAD"));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn a_response_arrives_as_the_function_made_it() {
    let source = r#"
        const make = {
            "/created": () => new Response("made", { status: 201, statusText: "Whatever", headers: { "x-own": "1" } }),
            "/empty": () => new Response(null, { status: 204 }),
            "/unchanged": () => new Response(null, { status: 304, headers: { etag: '"1"' } }),
            "/teapot": () => Response.json({ short: true, stout: true }, { status: 418 }),
            "/moved": () => Response.redirect("https://example.com/elsewhere", 307),
            "/cookies": () => {
                const headers = new Headers({ "content-type": "text/html" });
                headers.append("set-cookie", "a=1");
                headers.append("set-cookie", "b=2; Path=/");
                return new Response("<p>", { headers });
            },
            "/bytes": () => new Response(Uint8Array.from({ length: 256 }, (_, index) => index)),
            "/blob": () => new Response(new Blob(["a", "b"], { type: "text/x-blob" })),
            "/form": () => new Response(new URLSearchParams({ a: "1 2" })),
            "/none": () => new Response(),
            "/spoof": () => new Response("mine", { headers: { "X-Minnow-Failure": "threw", "x-minnow-egress-error": "dns" } }),
            "/gzip": () => new Response(new Blob(["x".repeat(1000)]).stream().pipeThrough(new CompressionStream("gzip")),
                { headers: { "content-encoding": "gzip" } }),
        };
        export default { fetch: (request) => make[new URL(request.url).pathname]() };
    "#;
    let node = node();
    node.serve(&App::of_js("response", source, ""));
    let get = |path: &str| node.get("response", path);
    let created = get("/created");
    assert_eq!((created.status, &*created.text(), created.header("x-own")), (201, "made", Some("1")));
    assert_eq!(created.header("content-type"), Some("text/plain;charset=UTF-8"));
    assert_eq!(created.header("content-length"), Some("4"));
    assert_eq!((get("/empty").status, get("/empty").body.len()), (204, 0));
    assert_eq!((get("/unchanged").status, get("/unchanged").header("etag")), (304, Some("\"1\"")));
    assert_eq!((get("/teapot").status, get("/teapot").json()), (418, json!({ "short": true, "stout": true })));
    assert_eq!((get("/moved").status, get("/moved").header("location")), (307, Some("https://example.com/elsewhere")));
    let cookies = get("/cookies");
    let set: Vec<&str> =
        cookies.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect();
    assert_eq!(set, ["a=1", "b=2; Path=/"]);
    assert_eq!(get("/bytes").body, (0..=255).collect::<Vec<u8>>());
    assert_eq!((get("/blob").ok(), get("/blob").header("content-type")), ("ab".into(), Some("text/x-blob")));
    assert_eq!(get("/form").ok(), "a=1+2");
    assert_eq!(get("/none").ok(), "");
    let spoof = get("/spoof");
    assert_eq!(spoof.ok(), "mine");
    assert!(spoof.headers.iter().all(|(name, _)| !name.starts_with("x-minnow")), "{spoof:?}");
    let packed = get("/gzip");
    assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(packed.body[..2], [0x1f, 0x8b]);

    let answers =
        http2::get_all(node.http, "response.localhost", &["/created", "/teapot", "/bytes", "/moved", "/none"]);
    assert_eq!(answers.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [201, 418, 200, 307, 200]);
}

#[test]
fn the_web_platform_is_there() {
    let source = r#"
        const wasm = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97,
            100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11]);
        const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        const things = {
            async digest() { return hex(await crypto.subtle.digest("SHA-256", new TextEncoder().encode("abc"))).slice(0, 8); },
            async sign() {
                const key = await crypto.subtle.generateKey({ name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
                const signature = await crypto.subtle.sign("HMAC", key, new Uint8Array(3));
                return await crypto.subtle.verify("HMAC", key, signature, new Uint8Array(3));
            },
            random: () => crypto.randomUUID().length + crypto.getRandomValues(new Uint8Array(4)).length,
            async wasm() { return (await WebAssembly.instantiate(wasm)).instance.exports.add(40, 2); },
            pattern: () => new URLPattern({ pathname: "/books/:id" }).exec("https://x.y/books/7").pathname.groups.id,
            clone: () => structuredClone(new Map([["a", new Date(0)]])).get("a").toISOString(),
            async compression() {
                const packed = new Blob(["packed"]).stream().pipeThrough(new CompressionStream("deflate"));
                return await new Response(packed.pipeThrough(new DecompressionStream("deflate"))).text();
            },
            base64: () => btoa(atob("aGk=")),
            async timers() {
                let ticks = 0;
                await new Promise((resolve) => { const timer = setInterval(() => ++ticks === 3 && resolve(clearInterval(timer)), 1); });
                return ticks;
            },
            async signal() { return await AbortSignal.timeout(1).constructor.name; },
            async form() {
                const form = new FormData();
                form.set("file", new File(["content"], "a.txt"));
                const read = await new Response(form).formData();
                return `${read.get("file").name} ${await read.get("file").text()}`;
            },
            event() { const target = new EventTarget(); let heard; target.addEventListener("x", (e) => heard = e.detail);
                target.dispatchEvent(new CustomEvent("x", { detail: 5 })); return heard; },
            intl: () => new Intl.NumberFormat("de").format(1234.5),
            async messages() {
                const { port1, port2 } = new MessageChannel();
                const heard = new Promise((resolve) => port2.onmessage = ({ data }) => resolve(data));
                port1.postMessage("ping");
                return await heard.finally(() => port1.close());
            },
            performance: () => performance.now() > 0,
            async text() { return await new Response(new Blob(["ü"]).stream().pipeThrough(new TextDecoderStream())
                .pipeThrough(new TextEncoderStream())).text(); },
            async data() { return await (await fetch("data:text/plain,inline")).text(); },
            async importData() { return (await import("data:text/javascript,export default 6 * 7")).default; },
            agent: () => navigator.userAgent.startsWith("Deno/"),
        };
        export default {
            async fetch() {
                const results = {};
                for (const [name, thing] of Object.entries(things)) {
                    try { results[name] = await thing(); } catch (error) { results[name] = `failed: ${error}`; }
                }
                return Response.json(results);
            },
        };
    "#;
    let node = node();
    node.serve(&App::of_js("platform", source, ""));
    let expected = json!({
        "digest": "ba7816bf", "sign": true, "random": 40, "wasm": 42, "pattern": "7", "clone": "1970-01-01T00:00:00.000Z",
        "compression": "packed", "base64": "aGk=", "timers": 3, "signal": "AbortSignal", "form": "a.txt content", "event": 5,
        "intl": "1.234,5", "messages": "ping", "performance": true, "text": "ü", "data": "inline", "importData": 42,
        "agent": true,
    });
    assert_eq!(node.get("platform", "/").json(), expected);
}

#[test]
fn a_body_streams_up_and_down_at_the_same_time() {
    let node = node();
    node.serve(&App::of_js("duplex", "export default { fetch: (request) => new Response(request.body) };", ""));
    let mut connection = node.connect();
    let head = Request::get("duplex", "/echo").method("POST").header("transfer-encoding", "chunked");
    connection.write_head(&head).unwrap();
    let mut writer = connection.writer();
    let mut send = |text: &str| write!(writer, "{:x}\r\n{text}\r\n", text.len()).unwrap();
    send("first");
    let mut response = connection.response(false).unwrap();
    assert_eq!(response.read_until("first"), "first");
    // The answer to the first part is here before the second part was sent.
    send("second");
    assert_eq!(response.read_until("second"), "second");
    writer.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(response.rest().unwrap().text(), "");
}

#[test]
fn bodies_beyond_the_functions_memory_pass_through_it_in_constant_memory() {
    /// More than the function may hold.
    const BYTES: u64 = 160 * MIB;
    /// What the node's memory may grow by.
    const MOST: u64 = 64 * MIB;
    let source = r#"
        const down = (bytes) => new ReadableStream({
            pull(controller) {
                const piece = new Uint8Array(Math.min(bytes, 1 << 20));
                bytes -= piece.length;
                if (piece.length > 0) controller.enqueue(piece);
                else controller.close();
            },
        });
        export default {
            async fetch(request) {
                const { pathname, searchParams } = new URL(request.url);
                if (pathname === "/down") return new Response(down(+searchParams.get("bytes")));
                if (pathname === "/echo") return new Response(request.body);
                let bytes = 0;
                for await (const piece of request.body) bytes += piece.length;
                return Response.json(bytes);
            },
        };
    "#;
    let node = Node::start();
    let limits =
        "[functions.web.limits]\ncpu = \"60s\"\ntimeout = \"10m\"\nrequest_body = \"2GiB\"\nmemory = \"128MiB\"";
    node.serve(&App::of_js("big", source, limits));
    node.get("big", "/down?bytes=1").ok();
    let before = node.rss_bytes();
    let download = node.open(&Request::get("big", &format!("/down?bytes={BYTES}")));
    assert_eq!(download.drain().unwrap(), BYTES);

    let upload = |path: &str| {
        let mut connection = node.connect();
        let head = Request::get("big", path).method("POST").header("content-length", &BYTES.to_string());
        connection.write_head(&head).unwrap();
        let mut writer = connection.writer();
        let piece = vec![b'e'; 1 << 20];
        let sending = thread::spawn(move || (0..BYTES >> 20).try_for_each(|_| writer.write_all(&piece)));
        (connection, sending)
    };
    let (connection, sending) = upload("/count");
    assert_eq!(connection.response(false).unwrap().rest().unwrap().json(), BYTES);
    sending.join().unwrap().unwrap();
    let (connection, sending) = upload("/echo");
    let drained = connection.response(false).and_then(Exchange::drain);
    assert_eq!(drained.unwrap_or_else(|error| panic!("{error}: {:#?}", node.logs("big"))), BYTES);
    sending.join().unwrap().unwrap();
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < MOST, "the node grew by {} MiB", grown / MIB);
    assert_eq!(processes(&node, "big"), 1);
}

#[test]
fn events_arrive_as_they_are_written_and_end_when_the_client_leaves() {
    let source = r#"
        export default {
            fetch() {
                let sent = 0;
                const body = new ReadableStream({
                    async pull(controller) {
                        // The second event never comes.
                        if (++sent > 1) await new Promise(() => {});
                        controller.enqueue(`id: ${sent}\ndata: event ${sent}\n\n`);
                    },
                    cancel: () => console.log("nobody listens any more"),
                }).pipeThrough(new TextEncoderStream());
                return new Response(body, { headers: { "content-type": "text/event-stream" } });
            },
        };
    "#;
    let node = node();
    node.serve(&App::of_js("events", source, "limits = { timeout = \"5m\" }"));
    let mut events = node.open(&Request::get("events", "/"));
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.read_until("event 1\n\n"), "id: 1\ndata: event 1\n\n");
    assert_eq!(node.count("events", "running"), 1);
    drop(events);
    until("the client's leaving ended the invocation", || node.count("events", "running") == 0);
}

#[test]
fn the_signal_of_a_request_is_aborted_when_its_client_goes_away_and_only_then() {
    let source = r#"
        export default {
            async fetch(request, env, ctx) {
                request.signal.addEventListener("abort", () => console.log(`aborted ${new URL(request.url).pathname}`));
                if (request.url.endsWith("/wait")) await new Promise(() => {});
                if (request.url.endsWith("/upload")) await request.text();
                if (request.url.endsWith("/release")) return release(), new Response("ok");
                const { resolve, promise } = Promise.withResolvers();
                release = () => resolve(console.log(`answered, aborted: ${request.signal.aborted}`));
                if (request.url.endsWith("/answered")) ctx.waitUntil(promise);
                if (request.url.endsWith("/stream")) {
                    return new Response(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(9)) }));
                }
                return new Response("ok");
            },
        };
        let release;
    "#;
    let node = node();
    node.serve(&App::of_js("signal", source, "limits = { timeout = \"10m\" }"));
    node.get("signal", "/answered").ok();
    node.get("signal", "/release").ok();
    logged(node, "signal", "answered, aborted: false");

    let mut waits = node.connect();
    waits.write_head(&Request::get("signal", "/wait")).unwrap();
    until("it runs", || node.count("signal", "running") == 1);
    drop(waits);
    logged(node, "signal", "aborted /wait");
    until("nothing runs any more", || node.count("signal", "running") == 0);

    let mut stream = node.open(&Request::get("signal", "/stream"));
    assert_eq!(stream.piece().unwrap(), Some(vec![0; 9]));
    drop(stream);
    logged(node, "signal", "aborted /stream");

    let mut upload = node.connect();
    let head = Request::get("signal", "/upload").method("POST").header("content-length", "1000");
    upload.write_head(&head).unwrap();
    upload.write(b"half of it").unwrap();
    until("it runs", || node.count("signal", "running") == 1);
    drop(upload);
    logged(node, "signal", "aborted /upload");
    until("nothing runs any more", || node.count("signal", "running") == 0);
    assert!(!node.logs("signal").iter().any(|line| line["message"] == "aborted /answered"));
}

#[test]
fn what_a_function_says_on_its_console_is_in_the_log_with_level_and_request() {
    let source = r#"
        console.log("the module is loaded");
        export default {
            fetch() {
                console.debug("of level debug");
                console.log("of level %s, %d", "info", 5, { a: [1, "b"], nested: new Map([["k", 1]]) });
                console.info("also info");
                console.warn("of level warn");
                console.error("of level error");
                console.assert(1 === 2, "an assertion");
                console.group("a group");
                console.log("two\nlines");
                console.groupEnd();
                console.table([{ a: 1 }]);
                console.log("\u001b[1mstyled\u001b[0m \u0000 end ü");
                process.stdout.write("straight to stdout\n");
                return new Response("ok");
            },
        };
    "#;
    let node = node();
    node.serve(&App::of_js("console", source, ""));
    let answer = node.get("console", "/");
    let id = request_id(&answer);
    for (text, level, source) in [
        ("of level debug", "debug", "stdout"),
        ("of level info, 5 { a: [ 1, \"b\" ], nested: Map(1) { \"k\" => 1 } }", "info", "stdout"),
        ("also info", "info", "stdout"),
        ("of level warn", "warn", "stderr"),
        ("of level error", "error", "stderr"),
        ("Assertion failed: an assertion", "error", "stderr"),
        ("a group", "info", "stdout"),
        ("two\n", "info", "stdout"),
        ("(idx)", "info", "stdout"),
        ("styled", "info", "stdout"),
    ] {
        let line = logged(node, "console", text);
        assert_eq!((&line["level"], &line["source"]), (&level.into(), &source.into()), "{line}");
        assert_eq!((&line["request_id"], &line["function"]), (&id.as_str().into(), &"web".into()), "{line}");
        assert_eq!((&line["app"], &line["version"]), (&"console".into(), &"0.1.0".into()), "{line}");
    }
    let lines = logged(node, "console", "two\n");
    assert_eq!(lines["message"], "  two\n  lines");
    assert_eq!(logged(node, "console", "straight to stdout")["level"], "info");
    let loaded = logged(node, "console", "the module is loaded");
    assert_eq!((&loaded["level"], &loaded["request_id"]), (&"info".into(), &Value::Null), "{loaded}");
}

#[test]
fn a_stack_names_the_lines_of_the_typescript_sources() {
    let app = App::new("stack")
        .js(
            "api",
            "src/api.ts",
            r#"
import { find } from "./lib/find";
import later from "thrower";
interface Order { id: string }

export default {
    async fetch(request: Request): Promise<Response> {
        const order: Order = { id: new URL(request.url).pathname.slice(1) };
        if (order.id === "logged") console.error(new Error("only told"));
        if (order.id === "package") await later();
        if (order.id === "unhandled") Promise.reject(new SyntaxError("nobody waits"));
        if (order.id === "timer") setTimeout(() => { throw new Error("in a timer"); }, 0);
        if (order.id === "cause") throw new Error("outer", { cause: new Error("inner") });
        if (order.id === "text") throw "a text";
        return find(order.id) as Response;
    },
};
"#,
            "routes = [\"/{*rest}\"]",
        )
        .file(
            "src/lib/find.ts",
            "// Finds what is there.\nexport type Found = Response;\n\nexport function find(id: string): Found {\n    \
             if (/^[0-9]+$/.test(id))\n        throw new RangeError(`no order ${id}`);\n    return new Response(id);\n}\n",
        )
        .file("node_modules/thrower/index.js", "exports.default = async () => {\n    await null;\n    throw new Error('in a package');\n};\nexports.__esModule = true;\n");
    let node = node();
    node.serve(&app);
    let throws = |path: &str| {
        let answer = node.get("stack", path);
        let id = answer.problem(500, "function_trapped");
        assert!(!answer.text().contains("order") && !answer.text().contains("find.ts"), "{}", answer.text());
        id
    };
    let id = throws("/7");
    let line = logged(node, "stack", "no order 7");
    assert_eq!((&line["level"], &line["request_id"]), (&"error".into(), &id.into()), "{line}");
    let message = line["message"].as_str().unwrap();
    assert!(message.starts_with("Uncaught RangeError: no order 7\n"), "{message}");
    for part in
        ["at find (src/lib/find.ts:6:15)", "6 |         throw new RangeError(`no order ${id}`);", "src/api.ts:15:16"]
    {
        assert!(message.contains(part), "`{part}` is not in {message}");
    }
    // Nothing of what lies between the node and the module.
    for part in ["boot.js", "ext:", "blob:", "api.js:"] {
        assert!(!message.contains(part), "`{part}` is in {message}");
    }
    throws("/package");
    let message = logged(node, "stack", "in a package")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("node_modules/thrower/index.js:3:11"), "{message}");
    throws("/cause");
    let message = logged(node, "stack", "outer")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("inner") && message.matches("src/api.ts:13:").count() >= 2, "{message}");
    throws("/text");
    logged(node, "stack", "Uncaught a text");
    // What nobody waits for is told, and harms nobody.
    for (path, text, place) in [
        ("/logged", "only told", "src/api.ts:9:"),
        ("/unhandled", "nobody waits", "src/api.ts:11:"),
        ("/timer", "in a timer", "src/api.ts:12:"),
    ] {
        let answer = node.get("stack", path);
        assert_eq!(answer.ok(), path[1..]);
        let line = logged(node, "stack", text);
        let message = line["message"].as_str().unwrap();
        assert!(message.contains(place), "`{place}` is not in {message}");
        assert_eq!((&line["level"], &line["request_id"]), (&"error".into(), &request_id(&answer).into()), "{line}");
    }
    assert_eq!(processes(node, "stack"), 1);
}
