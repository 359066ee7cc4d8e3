//! Buckets in JavaScript: the shape of R2, streams both ways, what ends with an invocation, and what a function is told when a
//! store does not do what it asks.

use std::{sync::OnceLock, thread};

use minnow_tests::{App, Node, Request, until};
use serde_json::{Value, json};

const STORES: &str = "[kv.items]\n[sql.main]\n[sql.other]\n[blob.files]\n[blob.small]\nsize = \"1MiB\"\n[lock]";
const GRANTS: &str = "kv = [\"items\"]\nsql = [\"main\", \"other\"]\nblob = [\"files\", \"small\"]\nlocks = true";

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().start())
}

/// Runs what the path names, and answers with what comes of it.
const JS: &str = r#"
import { run } from "./calls.js";
export default {
    async fetch(request, env, ctx) {
        try {
            const found = await run(new URL(request.url), env, ctx, request);
            if (found instanceof Response) return found;
            return Response.json(found === undefined ? { done: true } : found);
        } catch (error) {
            return Response.json({ error: `${error.name}: ${error.message}`, code: error.code });
        }
    },
};
"#;

/// An app whose function has all stores; `calls` are the branches of `run`.
fn serve(node: &Node, name: &str, settings: &str, calls: &str) -> App {
    let app = app(name, &format!("{GRANTS}\n{settings}"), calls).end(STORES);
    node.serve(&app);
    app
}

fn app(name: &str, settings: &str, calls: &str) -> App {
    let calls = format!(
        "export async function run(url, env, ctx, request) {{\nconst files = env.FILES;\nswitch (url.pathname) {{\n{calls}\n}}\nthrow new Error(url.pathname);\n}}"
    );
    App::of_js(name, JS, settings).file("calls.js", calls)
}

#[track_caller]
fn ask(node: &Node, app: &str, path: &str) -> Value {
    let answer = node.post(app, path, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Bytes that tell where they are.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

#[test]
fn javascript_has_its_buckets_in_the_shape_of_r2() {
    let node = node();
    let _app = serve(
        node,
        "blob-js",
        "",
        r#"
        case "/values": {
            const large = new Uint8Array(3 << 20).map((_, i) => i % 251);
            const values = {
                text: "åß🐟", bytes: new Uint8Array([0, 1, 255]), view: new Uint8Array([9, 8, 7, 6]).subarray(1, 3), buffer: new ArrayBuffer(4),
                data: new DataView(new Uint8Array([1, 2, 3]).buffer, 1), nothing: null, empty: "", blob: new Blob(["of a ", "blob"]),
                stream: new Blob(["streamed"]).stream(), large, exact: large.subarray(0, 1 << 20), two: large.subarray(0, 2 << 20),
                parts: ReadableStream.from([large.subarray(0, 700_000), large.subarray(700_000).slice().buffer]),
            };
            const found = {};
            for (const [key, value] of Object.entries(values)) {
                const put = await files.put(key, value);
                const got = await files.get(key);
                if (put.etag !== got.etag || put.size !== got.size || got.bodyUsed) throw new Error(key);
                const bytes = await got.bytes();
                const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
                if (digest !== got.etag || got.httpEtag !== `"${got.etag}"` || !got.bodyUsed || bytes.length !== got.size) throw new Error(key);
                found[key] = bytes.length < 20 ? [...bytes] : bytes.length;
            }
            return found;
        }
        case "/reads": {
            await files.put("r", '{"a":[1]}', { httpMetadata: { contentType: "application/json" } });
            const get = () => files.get("r");
            const blob = await (await get()).blob();
            const used = await get();
            await used.text();
            return [
                await (await get()).text(), await (await get()).json(), (await (await get()).arrayBuffer()).byteLength, (await (await get()).bytes()).length,
                blob.type, await blob.text(), await new Response((await get()).body).text(), await files.get("none"), await files.head("none"),
                await used.text().catch((error) => error.name),
            ];
        }
        case "/meta": {
            const uploaded = Date.now();
            await files.put("m", "v", {
                httpMetadata: { contentType: "text/x", cacheControl: "no-store", contentLanguage: "de", contentDisposition: "inline", contentEncoding: "br" },
                customMetadata: { by: "ada ü", "__proto__x": "1", ["__proto__"]: "own" },
            });
            await files.put("h", "v", { httpMetadata: new Headers({ "content-type": "text/y", etag: "no" }) });
            const head = await files.head("m");
            const headers = new Headers();
            head.writeHttpMetadata(headers);
            const listed = await files.list({ prefix: "m", include: ["customMetadata"] });
            return [
                head.key, head.size, Math.abs(head.uploaded.getTime() - uploaded) < 60_000, head.uploaded instanceof Date, head.httpMetadata,
                Object.entries(head.customMetadata).sort(), [...headers], (await files.head("h")).httpMetadata, "body" in head && head.body !== undefined,
                listed.objects[0].customMetadata.by, listed.objects[0].httpMetadata,
            ];
        }
        case "/list": {
            for (const key of ["l/a", "l/b/1", "l/b/2", "l/c", "l/d/x/y"]) await files.put(key, key);
            const pages = [];
            let cursor;
            do {
                const page = await files.list({ prefix: "l/", limit: 2, cursor });
                pages.push(page.objects.map((object) => object.key));
                if (page.truncated !== (page.cursor !== undefined)) throw new Error("a page is odd");
                cursor = page.cursor;
            } while (cursor !== undefined);
            const folders = await files.list({ prefix: "l/", delimiter: "/" });
            const after = await files.list({ prefix: "l/", startAfter: "l/b/2" });
            await files.delete(["l/a", "l/b/1", "l/none"]);
            await files.delete("l/c");
            const left = await files.list({ prefix: "l/" });
            return [pages, folders.objects.map((object) => object.key), folders.delimitedPrefixes, after.objects.length, left.objects.map((object) => object.key)];
        }
        case "/copy": {
            await files.put("from", "content", { customMetadata: { a: "b" } });
            const copy = await files.copy("from", "to");
            const unmet = await files.copy("from", "to", { onlyIf: { etagDoesNotMatch: "*" } });
            const none = await files.copy("absent", "to").catch((error) => [error.name, error.code]);
            return [copy.key, await (await files.get("to")).text(), copy.customMetadata, unmet, none];
        }
        "#,
    );
    let ask = |path| ask(node, "blob-js", path);
    assert_eq!(
        ask("/values"),
        json!({
            "text": "åß🐟".as_bytes(), "bytes": [0, 1, 255], "view": [8, 7], "buffer": [0, 0, 0, 0], "data": [2, 3], "nothing": [],
            "empty": [], "blob": b"of a blob", "stream": b"streamed", "large": 3 << 20, "exact": 1 << 20, "two": 2 << 20,
            "parts": 3 << 20,
        })
    );
    let content = r#"{"a":[1]}"#;
    assert_eq!(
        ask("/reads"),
        json!([content, { "a": [1] }, 9, 9, "application/json", content, content, null, null, "TypeError"])
    );
    let http = json!({
        "contentType": "text/x", "cacheControl": "no-store", "contentLanguage": "de", "contentDisposition": "inline",
        "contentEncoding": "br",
    });
    let headers = json!([
        ["cache-control", "no-store"],
        ["content-disposition", "inline"],
        ["content-encoding", "br"],
        ["content-language", "de"],
        ["content-type", "text/x"],
    ]);
    let custom = json!([["__proto__", "own"], ["__proto__x", "1"], ["by", "ada ü"]]);
    assert_eq!(
        ask("/meta"),
        json!(["m", 1, true, true, http, custom, headers, { "contentType": "text/y" }, false, "ada ü", {}])
    );
    assert_eq!(
        ask("/list"),
        json!([
            [["l/a", "l/b/1"], ["l/b/2", "l/c"], ["l/d/x/y"]],
            ["l/a", "l/c"],
            ["l/b/", "l/d/"],
            2,
            ["l/b/2", "l/d/x/y"],
        ])
    );
    assert_eq!(ask("/copy"), json!(["to", "content", { "a": "b" }, null, ["StoreError", "not_found"]]));
}

#[test]
fn parts_of_blobs_and_conditions_are_those_of_http() {
    let node = node();
    let _app = serve(
        node,
        "parts-js",
        "",
        r#"
        case "/ranges": {
            await files.put("r", "0123456789");
            const long = new Uint8Array(5 << 20).map((_, i) => i >> 16);
            await files.put("long", long);
            const range = async (range) => {
                const got = await files.get("r", { range });
                return [await got.text(), got.range ?? null, got.size];
            };
            const header = (text, more) => range(new Headers({ range: text, ...more }));
            const middle = await files.get("long", { range: { offset: 1 << 20, length: (3 << 20) + 1 } });
            const bytes = await middle.bytes();
            return [
                await range({ offset: 3 }), await range({ offset: 3, length: 2 }), await range({ length: 2 }), await range({ suffix: 4 }), await range({ offset: 8, length: 9 }),
                await header("bytes=2-4"), await header("bytes=7-"), await header("bytes=-2"), await header("bytes=9-99"),
                await header("bytes=1-2,4-5"), await header("lines=1-2"), await header("bytes=4-2"), await header("bytes=x-"), await header("bytes=1-2", { "if-range": '"x"' }),
                bytes.length === (3 << 20) + 1 && bytes.every((byte, i) => byte === long[i + (1 << 20)]),
                await range({ offset: 10 }).catch((error) => error.code), await header("bytes=10-").catch((error) => error.code),
            ];
        }
        case "/conditions": {
            const { etag, uploaded } = await files.put("c", "one");
            const get = async (onlyIf) => {
                const got = await files.get("c", { onlyIf });
                return got.body === undefined ? "unmet" : await got.text();
            };
            const second = (ms) => new Date(uploaded.getTime() + ms);
            const http = (ms) => second(ms).toUTCString();
            const put = async (onlyIf) => (await files.put("c", "one", { onlyIf })) !== null;
            return [
                await get({ etagMatches: etag }), await get({ etagMatches: `"${etag}"` }), await get({ etagMatches: ["x", etag] }), await get({ etagMatches: "x" }),
                await get({ etagDoesNotMatch: etag }), await get({ etagDoesNotMatch: "x" }), await get({ uploadedBefore: second(1) }), await get({ uploadedAfter: second(1) }),
                await get(new Headers({ "if-none-match": `W/"${etag}", "y"` })), await get(new Headers({ "if-match": `W/"${etag}"` })), await get(new Headers({ "if-match": "*" })),
                await get(new Headers({ "if-modified-since": http(0) })), await get(new Headers({ "if-modified-since": http(-1000) })),
                await get(new Headers({ "if-unmodified-since": http(0) })), await get(new Headers({ "if-unmodified-since": http(-1000) })), await get(new Headers({ "if-modified-since": "never" })),
                await put({ etagDoesNotMatch: "*" }), await put(new Headers({ "if-none-match": "*" })), await put({ etagMatches: etag }), await put({ etagMatches: "x" }),
                (await files.put("fresh", "x", { onlyIf: { etagDoesNotMatch: "*" } })) !== null,
                // The condition of what goes in pieces is that of its end.
                await files.put("c", new Uint8Array(3 << 20), { onlyIf: { etagMatches: "x" } }), (await files.head("c")).size,
            ];
        }
        "#,
    );
    let whole = json!(["0123456789", null, 10]);
    let part = |text: &str, offset: usize| json!([text, { "offset": offset, "length": text.len() }, 10]);
    assert_eq!(
        ask(node, "parts-js", "/ranges"),
        json!([
            part("3456789", 3),
            part("34", 3),
            part("01", 0),
            part("6789", 6),
            part("89", 8),
            part("234", 2),
            part("789", 7),
            part("89", 8),
            part("9", 9),
            whole,
            whole,
            whole,
            whole,
            whole,
            true,
            "range",
            "range",
        ])
    );
    let (one, unmet) = ("one", "unmet");
    assert_eq!(
        ask(node, "parts-js", "/conditions"),
        json!([
            one, one, one, unmet, unmet, one, one, unmet, unmet, unmet, one, unmet, one, one, unmet, one, false, false,
            true, false, true, null, 3,
        ])
    );
}

/// What a function that keeps and gives files is made of.
const FILES: &str = r#"
    case "/put": {
        const { size, etag } = await files.put(url.searchParams.get("key"), request.body, { httpMetadata: request.headers });
        return { size, etag };
    }
    case "/get": {
        const key = url.searchParams.get("key");
        let found;
        try {
            found = await files.get(key, { onlyIf: request.headers, range: request.headers });
        } catch (error) {
            if (error.code !== "range") throw error;
            const size = (await files.head(key))?.size ?? 0;
            return new Response(null, { status: 416, headers: { "content-range": `bytes */${size}` } });
        }
        if (found === null) return new Response(null, { status: 404 });
        const headers = new Headers({ etag: found.httpEtag });
        found.writeHttpMetadata(headers);
        if (found.body === undefined) {
            const isWrong = request.headers.has("if-match") || request.headers.has("if-unmodified-since");
            return new Response(null, { status: isWrong ? 412 : 304, headers });
        }
        return new Response(found.body, { status: found.range ? 206 : 200, headers });
    }
    case "/keys": return (await files.list()).objects.map((object) => object.key);
"#;

#[test]
fn blobs_stream_through_a_function_in_constant_memory() {
    const BYTES: usize = 200 << 20;
    let node = Node::builder().start();
    let limits = "[functions.web.limits]\ncpu = \"60s\"\ntimeout = \"10m\"\nrequest_body = \"1GiB\"";
    let _app = serve(&node, "streams-js", limits, FILES);
    ask(&node, "streams-js", "/keys");
    let before = node.rss_bytes();
    let piece = pattern(1 << 20);
    let head = Request::get("streams-js", "/put?key=big").method("POST").header("content-length", &BYTES.to_string());
    let mut connection = node.connect();
    connection.write_head(&head.header("content-type", "video/x")).unwrap();
    for _ in 0..BYTES >> 20 {
        connection.write(&piece).unwrap();
    }
    let put = connection.response(false).unwrap().rest().unwrap().json();
    assert_eq!(put["size"], BYTES);
    let mut download = node.open(&Request::get("streams-js", "/get?key=big"));
    assert_eq!(download.header("content-type"), Some("video/x"));
    let mut bytes = 0;
    while let Some(got) = download.piece().unwrap() {
        let all_right = got.iter().enumerate().all(|(i, byte)| *byte == piece[(bytes + i) % piece.len()]);
        assert!(all_right, "somewhere after {bytes}");
        bytes += got.len();
    }
    assert_eq!(bytes, BYTES);
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "the node grew by {grown} bytes");

    let etag = format!("\"{}\"", put["etag"].as_str().unwrap());
    let get = |name: &str, value: &str| node.send(&Request::get("streams-js", "/get?key=big").header(name, value));
    assert_eq!(get("if-none-match", &etag).status, 304);
    assert_eq!(get("if-match", "\"another\"").status, 412);
    let beyond = get("range", &format!("bytes={BYTES}-"));
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(format!("bytes */{BYTES}").as_str())));
    let part = get("range", "bytes=1048570-1048585");
    assert_eq!((part.status, &part.body[..6], &part.body[6..]), (206, &piece[1048570..], &piece[..10]));
}

#[test]
fn of_an_upload_that_is_not_finished_nothing_is_left() {
    let node = Node::builder().start();
    let calls = format!(
        "{FILES}\n{}",
        r#"
        case "/fails": {
            const chunk = new Uint8Array(700_000);
            let left = Number(url.searchParams.get("chunks"));
            const stream = new ReadableStream({ pull(controller) {
                if (left-- > 0) controller.enqueue(chunk);
                else controller.error(new Error("the source is gone"));
            } });
            return await files.put("never", stream);
        }
        case "/texts": return await files.put("never", ReadableStream.from([new Uint8Array(2 << 20), "text"]));
        case "/small": return await env.SMALL.put("never", ReadableStream.from(Array.from({ length: 10 }, () => new Uint8Array(700_000))));
        case "/small-bytes": return await env.SMALL.put("never", new Uint8Array(2 << 20));
        case "/small-keys": return (await env.SMALL.list()).objects.length;
        // Ends while the upload is under way.
        case "/leave": {
            let given = 0;
            const stream = new ReadableStream({ pull(controller) {
                if (given++ < 5) controller.enqueue(new Uint8Array(1 << 20));
                else return new Promise(() => {});
            } });
            files.put("never", stream).catch(() => {});
            while (given < 5) await new Promise((resolve) => setTimeout(resolve, 1));
            return "left";
        }
        case "/slow": {
            globalThis.begun = (globalThis.begun ?? 0) + 1;
            return await files.put("never", request.body);
        }
        case "/begun": return globalThis.begun ?? 0;
        "#
    );
    let _app = serve(&node, "aborts-js", "", &calls);
    let ask = |path| ask(&node, "aborts-js", path);
    for path in ["/fails?chunks=1", "/fails?chunks=5"] {
        assert_eq!(ask(path)["error"], json!("Error: the source is gone"), "{path}");
    }
    let refused = ask("/texts");
    assert!(refused["error"].as_str().unwrap().contains("gives bytes, not text"), "{refused}");
    for path in ["/small", "/small-bytes"] {
        let full = ask(path);
        assert_eq!(full["code"], "full", "{full}");
    }
    // The space of what failed is free again.
    assert_eq!(ask("/small-keys"), json!(0));
    for _ in 0..100 {
        assert_eq!(ask("/leave"), json!("left"), "there is room for as many as there may be");
    }
    // A client that goes away in the middle.
    let mut connection = node.connect();
    connection
        .write_head(&Request::get("aborts-js", "/slow").method("POST").header("content-length", "9000000"))
        .unwrap();
    connection.write(&vec![1; 4 << 20]).unwrap();
    until("it was begun", || ask("/begun") == json!(1));
    drop(connection);
    until("no files are left", || {
        let new = node.data_dir().join("blob/default/aborts-js/files.objects/new");
        std::fs::read_dir(new).map_or(0, Iterator::count) == 0
    });
    assert_eq!(ask("/keys"), json!([]));
}

#[test]
fn readers_of_blobs_are_bounded_and_end_with_their_invocation() {
    let node = Node::builder().start();
    let calls = format!(
        "{FILES}\n{}",
        r#"
        case "/fill": return await files.put("big", new Uint8Array(4 << 20)).then(() => true);
        // Bodies that nobody reads.
        case "/hoard": {
            const all = await Promise.allSettled(Array.from({ length: 300 }, () => files.get("big")));
            const refused = all.filter((one) => one.status === "rejected").map((one) => one.reason);
            return [all.length - refused.length, refused[0].code, refused[0].message];
        }
        case "/cancel": {
            for (let i = 0; i < 600; i++) await (await files.get("big")).body.cancel();
            return true;
        }
        // The stream has the next piece asked for when it is cancelled.
        case "/leave": {
            for (let i = 0; i < 600; i++) {
                const reader = (await files.get("big")).body.getReader();
                await reader.read();
                await reader.cancel();
            }
            return true;
        }
        case "/keep": {
            globalThis.kept = await files.get("big");
            return true;
        }
        case "/kept": return await globalThis.kept.bytes().then((bytes) => bytes.length, (error) => error.code);
        case "/late": {
            ctx.waitUntil((async () => {
                await new Promise((resolve) => setTimeout(resolve, 50));
                const { size } = await files.put("late", (await files.get("big")).body);
                await env.ITEMS.put("late", `${size}`);
            })());
            return true;
        }
        case "/is-late": return await env.ITEMS.get("late");
        case "/deleted": {
            const found = await files.get("big");
            await files.delete("big");
            const { length } = await found.bytes();
            await files.put("big", new Uint8Array(4 << 20));
            return length;
        }
        "#
    );
    let limits = "[functions.web.limits]\nmemory = \"1GiB\"\ncpu = \"60s\"\ntimeout = \"60s\"";
    let _app = serve(&node, "readers-js", limits, &calls);
    let ask = |path| ask(&node, "readers-js", path);
    assert_eq!(ask("/fill"), json!(true));
    for _ in 0..2 {
        let hoard = ask("/hoard");
        assert_eq!((&hoard[0], &hoard[1]), (&json!(256), &json!("too_many")), "{hoard}");
        assert!(hoard[2].as_str().unwrap().contains("read or cancel"), "{hoard}");
    }
    assert_eq!(ask("/cancel"), json!(true));
    assert_eq!(ask("/leave"), json!(true));
    assert_eq!((ask("/keep"), ask("/kept")), (json!(true), json!("ended")));
    assert_eq!(ask("/late"), json!(true));
    until("work after the response goes on", || ask("/is-late") == json!("4194304"));
    assert_eq!(ask("/deleted"), json!(4 << 20), "what is read stays");
    // Clients that leave in the middle of a response.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..80 {
                    let mut download = node.open(&Request::get("readers-js", "/get?key=big"));
                    assert!(download.piece().unwrap().is_some());
                }
            });
        }
    });
    until("their readers are closed", || ask("/hoard")[0] == json!(256));
}

#[test]
fn a_signed_url_of_a_function_reads_and_writes_without_it() {
    let node = node();
    let _app = serve(
        node,
        "signed-js",
        "",
        r#"
        case "/sign": return await files.signedUrl(url.searchParams.get("key"), JSON.parse(await request.text()));
        case "/read": return await (await files.get("up/a b.txt")).text();
        "#,
    );
    let sign = |options: Value| {
        let answer = node.post("signed-js", "/sign?key=up/a%20b.txt", options.to_string()).json();
        answer.as_str().map(str::to_owned).ok_or(answer)
    };
    let put = sign(json!({ "method": "PUT", "expiresIn": 60, "maxSize": 100, "contentType": "text/plain" })).unwrap();
    assert!(put.starts_with("/.minnow/blob/files/up/a%20b.txt?"), "{put}");
    let upload = Request::get("signed-js", &put).method("PUT").header("content-type", "text/plain").body("direct");
    assert_eq!(node.send(&upload).status, 201);
    assert_eq!(ask(node, "signed-js", "/read"), json!("direct"));
    let get = sign(json!({ "expiresIn": 60 })).unwrap();
    assert_eq!(node.get("signed-js", &get).ok(), "direct");
    assert_eq!(node.send(&Request::get("signed-js", &get).method("PUT").body("x")).status, 403);
    for (options, says) in [
        (json!({}), "TypeError: expiresIn is a whole number of seconds, at least 1, not undefined"),
        (json!({ "expiresIn": 0 }), "TypeError: expiresIn"),
        (json!({ "expiresIn": 604_801 }), "StoreError: a signed URL expires after 1 second to 7 days"),
        (json!({ "expiresIn": 1, "method": "POST" }), "TypeError: signedUrl: method is GET or PUT, not POST"),
        (
            json!({ "expiresIn": 1, "maxsize": 1 }),
            "TypeError: signedUrl: there is no option `maxsize` here; it has method, expiresIn, maxSize, contentType",
        ),
        (json!({ "expiresIn": 1, "maxSize": 1 }), "StoreError: `max-size` is only for uploads"),
        (json!({ "expiresIn": 1, "method": "PUT", "maxSize": -1 }), "TypeError: maxSize is a whole number of bytes"),
    ] {
        let refused = sign(options).unwrap_err();
        assert!(refused["error"].as_str().unwrap().starts_with(says), "{says}: {refused}");
    }
}

#[test]
fn what_is_no_key_option_or_value_is_a_type_error() {
    let node = node();
    let _app = serve(
        node,
        "odd-blob-js",
        "",
        r#"
        case "/all": {
            const { ITEMS, MAIN, OTHER, LOCKS } = env;
            const calls = {
                "kv get undefined": () => ITEMS.get(undefined), "kv get number": () => ITEMS.get(7), "kv get null": () => ITEMS.get(null),
                "kv get array": () => ITEMS.get(["a", undefined]), "kv getWithMetadata": () => ITEMS.getWithMetadata({}),
                "kv put": () => ITEMS.put(undefined, "x"), "kv delete": () => ITEMS.delete(), "kv delete array": () => ITEMS.delete(["a", null]),
                "kv putMany": () => ITEMS.putMany([{ value: "x" }]), "kv putMany null": () => ITEMS.putMany([null]), "kv putMany object": () => ITEMS.putMany({}),
                "kv increment": () => ITEMS.increment({}), "kv compareAndSwap": () => ITEMS.compareAndSwap(undefined, null, "x"),
                "kv list prefix": () => ITEMS.list({ prefix: 7 }), "kv list cursor": () => ITEMS.list({ cursor: {} }), "kv list options": () => ITEMS.list("a"),
                "kv value": () => ITEMS.put("a", undefined), "kv type": () => ITEMS.get("absent", "xml"), "kv metadata": () => ITEMS.put("a", "b", { metadata: () => 1 }),
                "kv ttl": () => ITEMS.put("a", "b", { expirationTtl: 0.5 }),
                "sql prepare": () => MAIN.prepare(7), "sql exec": () => MAIN.exec(undefined), "sql batch": () => MAIN.batch("SELECT 1"),
                "sql batch of texts": () => MAIN.batch(["SELECT 1"]), "sql batch of another": () => MAIN.batch([OTHER.prepare("SELECT 1")]),
                "lock name": () => LOCKS.acquire(undefined), "lock lease": () => LOCKS.acquire("a", { lease: "1s" }), "lock options": () => LOCKS.acquire("a", 7),
                "blob key": () => files.get(undefined), "blob put key": () => files.put(7, "x"), "blob value": () => files.put("a", undefined), "blob object": () => files.put("a", {}),
                "blob delete": () => files.delete([undefined]), "blob copy": () => files.copy("a"), "blob options": () => files.get("a", "text"),
                "blob onlyIf": () => files.get("a", { onlyIf: "x" }), "blob date": () => files.get("a", { onlyIf: { uploadedBefore: "now" } }),
                "blob range": () => files.get("a", { range: { offset: -1 } }), "blob suffix": () => files.get("a", { range: { suffix: 1, offset: 1 } }),
                "blob checksum": () => files.put("a", "b", { sha256: "00" }), "blob expiry": () => files.put("a", "b", { httpMetadata: { cacheExpiry: new Date() } }),
                "blob custom": () => files.put("a", "b", { customMetadata: { a: 1 } }), "blob include": () => files.list({ include: ["all"] }),
                "blob misspelt condition": () => files.put("a", "b", { onlyIf: { etagMatch: "x" } }), "blob misspelt metadata": () => files.put("a", "b", { customMetdata: {} }),
                "blob misspelt prefix": () => files.list({ prefx: "a" }), "blob misspelt type": () => files.put("a", "b", { httpMetadata: { contenttype: "a/b" } }),
                "blob misspelt range": () => files.get("a", { range: { ofset: 1 } }), "blob copy option": () => files.copy("a", "b", { onlyif: {} }),
                "blob signed option": () => files.signedUrl("a", { expiresIn: 1, maxsize: 1 }),
                "blob limit": () => files.list({ limit: 0 }), "blob locked": () => { const { body } = new Response("x"); body.getReader(); return files.put("a", body); },
            };
            const odd = [];
            for (const [name, call] of Object.entries(calls)) {
                try {
                    odd.push([name, await call()]);
                } catch (error) {
                    if (error.name !== "TypeError" || /private|undefined is not|Cannot/.test(error.message) || error.message.length > 200) odd.push([name, `${error}`]);
                }
            }
            return [odd, (await files.list()).objects.length];
        }
        case "/long": return await env.ITEMS.get(["x".repeat(100_000)].concat([{ a: "y".repeat(100_000) }]));
        "#,
    );
    assert_eq!(ask(node, "odd-blob-js", "/all"), json!([[], 0]));
    let long = ask(node, "odd-blob-js", "/long");
    assert!(long["error"].as_str().unwrap().len() < 300, "{long}");
}

#[test]
fn a_store_error_has_a_code_for_its_reason() {
    let node = node();
    let _app = serve(
        node,
        "codes-js",
        "[functions.web.limits]\nmemory = \"512MiB\"\ncpu = \"30s\"\ntimeout = \"60s\"",
        r#"
        case "/all": {
            const { ITEMS, MAIN, LOCKS, SMALL } = env;
            await MAIN.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL); INSERT INTO t VALUES (1, 'a')");
            await ITEMS.put("text", "no number");
            await ITEMS.put("most", "9223372036854775807");
            await files.put("r", "0123");
            const sql = (text, ...params) => MAIN.prepare(text).bind(...params).run();
            const calls = [
                ["bad_argument", () => ITEMS.get("")], ["bad_argument", () => ITEMS.list({ limit: 1001 })], ["bad_argument", () => LOCKS.acquire("")],
                ["bad_argument", () => LOCKS.acquire("a", { lease: 0 })], ["bad_argument", () => sql("SELECT ?", 10n ** 30n)], ["bad_argument", () => files.get("")],
                ["bad_argument", () => files.put("a", "b", { httpMetadata: { contentType: "a\nb" } })], ["bad_argument", () => files.list({ limit: 1001 })],
                ["bad_argument", () => files.put("a", "b", { customMetadata: { a: "x".repeat(9000) } })],
                ["too_large", () => ITEMS.get("k".repeat(2049))], ["too_large", () => ITEMS.put("a", "b", { metadata: "m".repeat(2000) })],
                ["too_large", () => ITEMS.get(Array.from({ length: 1001 }, (_, i) => `${i}`))], ["too_large", () => ITEMS.put("a", new Uint8Array(27 << 20))],
                ["too_large", () => sql("SELECT zeroblob(5000000)")], ["too_large", () => files.delete(Array.from({ length: 1001 }, (_, i) => `${i}`))],
                ["conflict", () => ITEMS.increment("text")], ["conflict", () => ITEMS.increment("most")],
                ["constraint", () => sql("INSERT INTO t VALUES (1, 'b')")], ["constraint", () => sql("INSERT INTO t VALUES (2, NULL)")],
                ["constraint", () => MAIN.exec("INSERT INTO t VALUES (3, 'c'); INSERT INTO t VALUES (3, 'd')")],
                ["constraint", () => MAIN.batch([MAIN.prepare("INSERT INTO t VALUES (1, 'b')")])],
                ["statement", () => sql("SELEC 1")], ["statement", () => sql("SELECT ?")], ["statement", () => sql("ATTACH 'x' AS y")],
                ["timeout", () => sql("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")],
                ["range", () => files.get("r", { range: { offset: 4 } })], ["not_found", () => files.copy("none", "a")],
                ["full", () => SMALL.put("a", new Uint8Array(2 << 20))],
            ];
            const odd = [];
            for (const [code, call] of calls) {
                try {
                    odd.push([`${call}`, await call()]);
                } catch (error) {
                    if (error.name !== "StoreError" || error.code !== code) odd.push([`${call}`, error.code, `${error}`]);
                }
            }
            return odd;
        }
        case "/parameters": {
            const of = async (text, ...params) => env.MAIN.prepare(text).bind(...params).run().catch((error) => error.message);
            return [await of("SELECT ?"), await of("SELECT ?", 1, 2), await of("SELECT ?, ?", 1), await of("SELECT 1", 1)];
        }
        case "/lease": return await env.LOCKS.acquire("a", { lease: 3_600_001 });
        "#,
    );
    assert_eq!(ask(node, "codes-js", "/all"), json!([]));
    assert_eq!(
        ask(node, "codes-js", "/parameters"),
        json!([
            "the statement has 1 parameter, and no values were given",
            "the statement has 1 parameter, and 2 values were given",
            "the statement has 2 parameters, and 1 value was given",
            "the statement has no parameters, and 1 value was given",
        ])
    );
    let lease = ask(node, "codes-js", "/lease");
    assert!(lease["error"].as_str().unwrap().ends_with("not 3600001 ms"), "{lease}");
}

#[test]
fn what_is_granted_for_reading_is_not_written() {
    let node = node();
    let grants = "kv = [\"items:ro\"]\nsql = [\"main:ro\"]\nblob = [\"files:ro\"]";
    let calls = r#"
        case "/all": {
            const { ITEMS, MAIN } = env;
            const calls = [
                () => ITEMS.put("a", "b"), () => ITEMS.delete("a"), () => ITEMS.increment("a"), () => ITEMS.compareAndSwap("a", null, "b"),
                () => MAIN.prepare("CREATE TABLE t (a)").run(), () => MAIN.exec("SELECT 1"),
                () => files.put("a", "b"), () => files.put("a", new Uint8Array(3 << 20)), () => files.delete("a"), () => files.copy("a", "b"),
                () => files.signedUrl("a", { method: "PUT", expiresIn: 1 }),
            ];
            const codes = [];
            for (const call of calls) codes.push(await call().then(() => "done", (error) => error.code === "read_only" && error.message.includes(":ro")));
            return [codes.every((code) => code === true), await ITEMS.get("a"), await files.get("a"), (await files.signedUrl("a", { expiresIn: 1 })).length > 0];
        }
    "#;
    let app = app("reader-js", grants, calls).end(STORES);
    node.serve(&app);
    assert_eq!(ask(node, "reader-js", "/all"), json!([true, null, null, true]));
}

#[test]
fn a_store_that_is_not_shared_any_more_says_so_when_it_is_used() {
    let node = node();
    let shared = "\nshare = [\"borrower\"]";
    let all = format!("[kv.items]{shared}\n[sql.main]{shared}\n[blob.files]{shared}");
    let mut owner = App::of_js("owner", "export default { fetch: () => new Response('ok') };", "").end(&all);
    node.serve(&owner);
    let grants = "kv = [\"owner/items\"]\nsql = [\"owner/main\"]\nblob = [\"owner/files:ro\"]";
    let calls = r#"
        case "/use": {
            const calls = [
                () => env.OWNER_ITEMS.get("a"), () => env.OWNER_MAIN.prepare("SELECT 1 AS one").first("one"), () => env.OWNER_FILES.head("a"),
            ];
            const found = [];
            for (const call of calls) found.push(await call().catch((error) => [error.name, error.code, error.message]));
            return found;
        }
    "#;
    let borrower = app("borrower", grants, calls);
    node.serve(&borrower);
    assert_eq!(ask(node, "borrower", "/use"), json!([null, 1, null]));
    owner.change("0.1.0", "0.2.0");
    for store in ["[kv.items]", "[blob.files]"] {
        owner.change(&format!("{store}{shared}"), store);
    }
    node.serve(&owner);
    let said = |kind: &str, store: &str| {
        let says = format!(
            "`owner` does not share its {kind} store `{store}` with this app any more; add `share = [\"borrower\"]` to \
             `[{kind}.{store}]` of `owner` and deploy it"
        );
        json!(["StoreError", "denied", says])
    };
    until("the function knows", || ask(node, "borrower", "/use")[0] != Value::Null);
    assert_eq!(ask(node, "borrower", "/use"), json!([said("kv", "items"), 1, said("blob", "files")]));
}

#[test]
fn a_function_that_replaces_what_it_shares_with_the_node_reaches_nothing_of_it() {
    let node = node();
    let _app = serve(
        node,
        "patches-js",
        "",
        r#"
        case "/patched": {
            const seen = [];
            const large = new Uint8Array(3 << 20).map((_, i) => i >> 12);
            const patch = (object, names) => {
                for (const name of names) {
                    const { value } = Object.getOwnPropertyDescriptor(object, name);
                    object[name] = function (...given) {
                        if (globalThis.patched) seen[seen.length] = name;
                        return value.apply(this, given);
                    };
                }
            };
            patch(ReadableStream.prototype, ["getReader", "cancel"]);
            patch(ReadableStreamDefaultReader.prototype, ["read", "cancel"]);
            patch(ReadableByteStreamController.prototype, ["enqueue", "close"]);
            patch(Blob.prototype, ["stream", "slice", "arrayBuffer"]);
            patch(Response.prototype, ["text", "bytes", "arrayBuffer", "blob"]);
            patch(Headers.prototype, ["get", "has", "set"]);
            patch(Date.prototype, ["getTime", "valueOf"]);
            patch(String.prototype, ["indexOf", "slice", "trim", "startsWith", "toWellFormed"]);
            patch(Array.prototype, ["push", "map"]);
            patch(Object.getPrototypeOf(Uint8Array.prototype), ["set", "subarray", "slice"]);
            patch(JSON, ["parse", "stringify"]);
            for (const name of ["blob", "get", "reader", "more", "meta", "upload", "found"]) {
                Object.defineProperty(Object.prototype, name, { get() { seen[seen.length] = name; }, set() { seen[seen.length] = name; }, configurable: true });
            }
            globalThis.patched = true;
            await files.put("a", large, { httpMetadata: { contentType: "a/b" }, customMetadata: { a: "b" }, onlyIf: { etagMatches: "*" } }).catch(() => {});
            await files.put("a", large, { customMetadata: { a: "b" } });
            const got = await files.get("a", { range: new Headers({ range: "bytes=1-" }), onlyIf: { uploadedAfter: new Date(0) } });
            const bytes = await got.bytes();
            await (await files.get("a")).blob();
            await files.list({ prefix: "a" });
            globalThis.patched = false;
            for (const name of ["blob", "get", "reader", "more", "meta", "upload", "found"]) delete Object.prototype[name];
            let isFrozen = true;
            for (const part of [files.constructor, got.constructor, Object.getPrototypeOf(got.constructor)]) isFrozen &&= Object.isFrozen(part) && Object.isFrozen(part.prototype);
            return [[...new Set(seen)], bytes.length, bytes.every((byte, i) => byte === large[i + 1]), isFrozen, Object.getOwnPropertyNames(files), Object.getOwnPropertySymbols(got)];
        }
        "#,
    );
    assert_eq!(ask(node, "patches-js", "/patched"), json!([[], (3 << 20) - 1, true, true, [], []]));
}
