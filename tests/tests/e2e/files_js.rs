//! Volumes in JavaScript: the methods of node:fs/promises, their errors, their bounds, and what is on the disk when the node is killed.

use std::{fs, os::unix::fs::symlink, path::PathBuf, sync::OnceLock, thread};

use minnow_tests::{App, Node, Request, until};
use serde_json::{Value, json};

use crate::data_kill::{Round, Writer};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

const MIB: usize = 1 << 20;
const VOLUME: &str = "[files.data]\nsize = \"1MiB\"";
const GRANT: &str = "files = { data = \"/srv/data\" }";

/// Makes the calls that it is given, `[method, …arguments]`, one after the other: `/do`; or all at once: `/all`. Bytes come back as a
/// list; `{ "bytes": 7 }` as an argument is so many bytes, `{ "stream": 7 }` a stream of them. What fails is its code.
const JS: &str = r#"
import { run } from "./calls.js";
const pattern = (length) => {
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) bytes[i] = i ^ (i >> 8) ^ (i >> 16);
    return bytes;
};
const given = (value) => {
    if (value?.bytes !== undefined) return pattern(value.bytes);
    if (value?.stream !== undefined) return new Blob([pattern(value.stream)]).stream();
    return value;
};
const told = async (value) => {
    if (value instanceof ReadableStream) value = await new Response(value).bytes();
    if (value instanceof Uint8Array) return value.length < 20 ? [...value] : { length: value.length, right: value.every((byte, i) => byte === ((i ^ (i >> 8) ^ (i >> 16)) & 255)) };
    if (value !== null && typeof value === "object" && "isFile" in value) return [value.size, value.isFile(), value.isDirectory()];
    if (Array.isArray(value)) return value.map((entry) => typeof entry === "string" ? entry : `${entry.isFile() ? "f" : entry.isDirectory() ? "d" : entry.isSymbolicLink() ? "l" : "o"} ${entry.name}`);
    return value === undefined ? "ok" : value;
};
const call = async (files, [method, ...args]) => {
    try {
        return await told(await files[method](...args.map(given)));
    } catch (error) {
        return { error: error.code ?? error.name, message: error.message };
    }
};
export default {
    async fetch(request, env, ctx) {
        const url = new URL(request.url);
        const files = env[url.searchParams.get("in") ?? "DATA"];
        if (url.pathname === "/do") {
            const results = [];
            for (const one of await request.json()) results.push(await call(files, one));
            return Response.json(results);
        }
        if (url.pathname === "/all") return Response.json(await Promise.all((await request.json()).map((one) => call(files, one))));
        try {
            const found = await run(url, env, ctx, request);
            return found instanceof Response ? found : Response.json(found ?? "ok");
        } catch (error) {
            return Response.json({ error: error.code ?? error.name, message: error.message });
        }
    },
};
"#;

fn app(name: &str, settings: &str, calls: &str) -> App {
    let calls = format!(
        "export async function run(url, env, ctx, request) {{\nconst files = env.DATA;\nswitch (url.pathname) {{\n{calls}\n}}\nthrow new Error(url.pathname);\n}}"
    );
    App::of_js(name, JS, settings).file("calls.js", calls)
}

/// A function with one volume of 1 MiB; `calls` are the branches of `run`.
fn serve(node: &Node, name: &str, calls: &str) -> App {
    let app = app(name, GRANT, calls).end(VOLUME);
    node.serve(&app);
    app
}

#[track_caller]
fn ask(node: &Node, app: &str, path: &str, body: impl ToString) -> Value {
    let answer = node.post(app, path, body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What comes of calls, one after the other.
#[track_caller]
fn calls(node: &Node, app: &str, calls: Value) -> Value {
    ask(node, app, "/do", calls)
}

#[track_caller]
fn one(node: &Node, app: &str, call: Value) -> Value {
    calls(node, app, json!([call]))[0].clone()
}

/// The call, and how it has to fail.
#[track_caller]
fn fails(node: &Node, app: &str, code: &str, call: Value) {
    let came = one(node, app, call.clone());
    assert_eq!(came["error"], code, "{call}: {came}");
    if code.starts_with('E') && code != "EROFS" {
        assert!(came["message"].as_str().unwrap().starts_with(&format!("{code}: ")), "{call}: {came}");
    }
}

/// The folder of a volume on the disk.
fn volume(node: &Node, app: &str) -> PathBuf {
    node.data_dir().join("files/default").join(app).join("data")
}

#[test]
fn javascript_has_its_volumes_with_the_methods_of_node() {
    let (node, app) = (node(), "filesjs-keep");
    let _app = serve(node, app, "");
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    for (call, expected) in [
        (json!(["readdir", "/srv/data"]), json!([])),
        (json!(["exists", "a.txt"]), json!(false)),
        (json!(["exists", "a.txt/b"]), json!(false)),
        (json!(["writeFile", "a.txt", "åß🐟"]), json!("ok")),
        (json!(["exists", "a.txt"]), json!(true)),
        (json!(["exists", "a.txt/b"]), json!(false)),
        (json!(["readFile", "/srv/data/a.txt", "utf8"]), json!("åß🐟")),
        (json!(["readFile", "./x/../a.txt"]), json!("åß🐟".as_bytes())),
        (json!(["readFile", "a.txt", { "encoding": "utf-8", "offset": 2, "length": 2 }]), json!("ß")),
        (json!(["readFile", "a.txt", { "offset": 100 }]), json!([])),
        (json!(["readFile", "a.txt", { "offset": 4, "length": 100 }]), json!("🐟".as_bytes())),
        (json!(["writeFile", "a.txt", "one", { "flag": "w", "encoding": "utf8" }]), json!("ok")),
        (json!(["writeFile", "a.txt", " two", { "flag": "a", "sync": false }]), json!("ok")),
        (json!(["writeFile", "a.txt", "O", { "offset": 0 }]), json!("ok")),
        (json!(["writeFile", "a.txt", "!", { "offset": 9 }]), json!("ok")),
        (json!(["readFile", "a.txt", "utf8"]), json!("One two\0\0!")),
        (json!(["truncate", "a.txt", 3]), json!("ok")),
        (json!(["stat", "a.txt"]), json!([3, true, false])),
        (json!(["truncate", "a.txt", 5]), json!("ok")),
        (json!(["readFile", "a.txt", "utf8"]), json!("One\0\0")),
        (json!(["truncate", "a.txt"]), json!("ok")),
        (json!(["readFile", "a.txt"]), json!([])),
        (json!(["writeFile", "new", "new", { "flag": "wx" }]), json!("ok")),
        (json!(["mkdir", "b"]), json!("ok")),
        (json!(["mkdir", "b/c/d", { "recursive": true }]), json!("ok")),
        (json!(["mkdir", "b/c/d", { "recursive": true }]), json!("ok")),
        (json!(["mkdir", "", { "recursive": true }]), json!("ok")),
        (json!(["writeFile", "b/c/d/e", { "bytes": 5 }]), json!("ok")),
        (json!(["stat", "b/c"]).clone(), json!([4096, false, true])),
        (json!(["readdir", "/srv/data/"]), json!(["a.txt", "b", "new"])),
        (json!(["readdir", ".", { "withFileTypes": true }]), json!(["f a.txt", "d b", "f new"])),
        (json!(["rename", "b/c", "moved"]), json!("ok")),
        (json!(["readFile", "moved/d/e"]), json!([0, 1, 2, 3, 4])),
        (json!(["rename", "new", "a.txt"]), json!("ok")),
        (json!(["readFile", "a.txt", "utf8"]), json!("new")),
        (json!(["writeFile", "s", { "stream": 3 }]), json!("ok")),
        (json!(["writeFile", "s", { "stream": 2 }, { "flag": "a" }]), json!("ok")),
        (json!(["stream", "s"]), json!([0, 1, 2, 0, 1])),
        (json!(["stream", "s", { "offset": 1, "length": 2 }]), json!([1, 2])),
        (json!(["rm", "moved", { "recursive": true }]), json!("ok")),
        (json!(["rm", "a.txt"]), json!("ok")),
        (json!(["rm", "a.txt", { "force": true }]), json!("ok")),
        (json!(["readdir", ""]), json!(["b", "s"])),
    ] {
        let mut came = one(node, app, call.clone());
        if call[0] == "stat" && came[2] == true {
            // How large a folder is, is the disk's affair.
            came[0] = json!(4096);
        }
        assert_eq!(came, expected, "{call}");
    }
    assert_eq!(fs::read(volume(node, app).join("s")).unwrap(), [0, 1, 2, 0, 1]);
    let _other = serve(
        node,
        "filesjs-time",
        r#"
        case "/time": {
            await files.writeFile("a", new DataView(new Uint8Array([1, 2, 3]).buffer, 1));
            const { mtime, mtimeMs, size } = await files.stat("a");
            return [mtime instanceof Date, mtime.getTime() === mtimeMs, mtimeMs, size];
        }"#,
    );
    let time = ask(node, "filesjs-time", "/time", "");
    assert_eq!((&time[0], &time[1], &time[3]), (&json!(true), &json!(true), &json!(2)));
    // The disk's clock ticks slower than that of the process.
    assert!((before - 1000..before + 600_000).contains(&time[2].as_i64().unwrap()), "{time}");
}

#[test]
fn errors_of_files_have_the_codes_of_node() {
    let (node, app) = (node(), "filesjs-codes");
    let _app = serve(node, app, "");
    let long = "n".repeat(256);
    let deep = "a/".repeat(2100);
    let made = calls(node, app, json!([["mkdir", "folder/inner", { "recursive": true }], ["writeFile", "file", "x"]]));
    assert_eq!(made, json!(["ok", "ok"]));
    for (code, call) in [
        ("ENOENT", json!(["readFile", "none"])),
        ("ENOENT", json!(["stream", "none"])),
        ("ENOENT", json!(["writeFile", "none/file", "x"])),
        ("ENOENT", json!(["readdir", "none"])),
        ("ENOENT", json!(["stat", "none"])),
        ("ENOENT", json!(["rm", "none"])),
        ("ENOENT", json!(["rename", "none", "other"])),
        ("ENOENT", json!(["rename", "file", "none/other"])),
        ("ENOENT", json!(["truncate", "none", 1])),
        ("ENOENT", json!(["mkdir", "none/inner"])),
        ("EEXIST", json!(["writeFile", "file", "y", { "flag": "wx" }])),
        ("EEXIST", json!(["writeFile", "folder", "y", { "flag": "wx" }])),
        ("EEXIST", json!(["mkdir", "folder"])),
        ("EEXIST", json!(["mkdir", "file"])),
        ("EEXIST", json!(["mkdir", "file", { "recursive": true }])),
        ("EEXIST", json!(["mkdir", ""])),
        ("ENOTDIR", json!(["mkdir", "file/inner", { "recursive": true }])),
        ("ENOTDIR", json!(["readFile", "file/inner"])),
        ("ENOTDIR", json!(["readdir", "file"])),
        ("ENOTDIR", json!(["rename", "folder", "file"])),
        ("EISDIR", json!(["readFile", "folder"])),
        ("EISDIR", json!(["readFile", ""])),
        ("EISDIR", json!(["writeFile", "folder", "x"])),
        ("EISDIR", json!(["writeFile", "", "x"])),
        ("EISDIR", json!(["truncate", "folder"])),
        ("EISDIR", json!(["rm", "folder"])),
        ("EISDIR", json!(["rename", "file", "folder"])),
        ("EINVAL", json!(["rename", "folder", "folder/inner/it"])),
        ("EINVAL", json!(["rm", "", { "recursive": true }])),
        ("EINVAL", json!(["rm", "folder/..", { "recursive": true, "force": true }])),
        ("EINVAL", json!(["rename", "/srv/data", "other"])),
        ("EINVAL", json!(["readFile", "a\0b"])),
        ("ENAMETOOLONG", json!(["writeFile", long, "x"])),
        ("ENAMETOOLONG", json!(["mkdir", deep, { "recursive": true }])),
        ("EFBIG", json!(["writeFile", "large", { "bytes": (16 << 20) + 1 }])),
        ("EACCES", json!(["readFile", "/other/file"])),
        ("TypeError", json!(["readFile", 7])),
        ("TypeError", json!(["readFile"])),
        ("TypeError", json!(["readFile", "file", "base64"])),
        ("TypeError", json!(["readFile", "file", { "ofset": 1 }])),
        ("TypeError", json!(["readFile", "file", { "offset": -1 }])),
        ("TypeError", json!(["writeFile", "file", 7])),
        ("TypeError", json!(["writeFile", "file", "x", { "flag": "r+" }])),
        ("TypeError", json!(["writeFile", "file", "x", { "flag": "a", "offset": 1 }])),
        ("TypeError", json!(["writeFile", "file", "x", { "mode": 0o777 }])),
        ("TypeError", json!(["rm", "file", { "recursive": 1 }])),
        ("TypeError", json!(["truncate", "file", -1])),
        ("TypeError", json!(["unlink", "file"])),
    ] {
        fails(node, app, code, call);
    }
    assert_eq!(
        calls(node, app, json!([["readFile", "file", "utf8"], ["readdir", ""]])),
        json!(["x", ["file", "folder"]])
    );
}

#[test]
fn no_path_of_javascript_leads_out_of_a_volume() {
    let (node, app_name) = (node(), "filesjs-escape");
    let app = app(app_name, GRANT, "")
        .function("wasm", "lab-p2", "routes = [\"/do-files\"]\nfiles = { data = \"/data\" }")
        .end(VOLUME);
    node.serve(&app);
    fs::create_dir_all(volume(node, app_name)).unwrap();
    let root = volume(node, app_name);
    let (outside, beside) = (node.data_dir().join("admin.token"), root.parent().unwrap().join("beside"));
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("file"), "outside").unwrap();
    // What a guest of WebAssembly makes on the same volume, and what a restored backup may have in it.
    for (path, to) in [("inside", "folder/file"), ("up", "../beside"), ("up-file", "../beside/file"), ("loop", "loop")]
    {
        let link = json!([{ "raw": "symlink", "in": "/data", "path": path, "to": to }]);
        node.post(app_name, "/do-files", link.to_string());
        if fs::symlink_metadata(root.join(path)).is_err() {
            symlink(to, root.join(path)).unwrap();
        }
    }
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("/", root.join("root")).unwrap();
    symlink("missing", root.join("dangling")).unwrap();
    let made = json!([["mkdir", "folder"], ["writeFile", "inside", "through a link"]]);
    assert_eq!(calls(node, app_name, made)[0], "ok");
    let through =
        json!([["writeFile", "folder/file", "a"], ["writeFile", "inside", "bc"], ["readFile", "folder/file", "utf8"]]);
    assert_eq!(calls(node, app_name, through), json!(["ok", "ok", "bc"]), "a link within the volume is followed");
    for path in [
        "../beside/file",
        "folder/../../beside/file",
        "/srv/data/../../../etc/passwd",
        "/etc/passwd",
        "/proc/self/environ",
        "up/file",
        "up-file",
        "absolute",
        "root/etc/passwd",
    ] {
        for call in [
            json!(["readFile", path]),
            json!(["stream", path]),
            json!(["stat", path]),
            json!(["exists", path]),
            json!(["writeFile", path, "x"]),
            json!(["writeFile", path, "x", { "flag": "a" }]),
            json!(["writeFile", path, { "stream": 5 }]),
            json!(["truncate", path]),
            json!(["readdir", path]),
        ] {
            fails(node, app_name, "EACCES", call);
        }
    }
    for call in [
        json!(["rename", "folder/file", "../beside/moved"]),
        json!(["rename", "folder/file", "up/moved"]),
        json!(["rename", "up/file", "moved"]),
        json!(["rename", "../beside/file", "moved"]),
        json!(["mkdir", "up/made"]),
        json!(["mkdir", "up/made/deeper", { "recursive": true }]),
        json!(["mkdir", "../made"]),
        json!(["rm", "up/file"]),
        json!(["rm", "..", { "recursive": true, "force": true }]),
        json!(["rm", "root/etc", { "recursive": true }]),
    ] {
        fails(node, app_name, "EACCES", call);
    }
    fails(node, app_name, "ELOOP", json!(["readFile", "loop"]));
    fails(node, app_name, "ELOOP", json!(["writeFile", "dangling", "x"]));
    fails(node, app_name, "EEXIST", json!(["writeFile", "up-file", "x", { "flag": "wx" }]));
    // A link goes, and never what it leads to.
    let gone = json!([["rm", "up", { "recursive": true }], ["rm", "up-file"], ["mkdir", "deep"], ["rename", "root", "deep/root"], ["rm", "deep", { "recursive": true }]]);
    assert_eq!(calls(node, app_name, gone), json!(["ok", "ok", "ok", "ok", "ok"]));
    assert_eq!(fs::read_to_string(beside.join("file")).unwrap(), "outside");
    assert_eq!(fs::read_dir(&beside).unwrap().count(), 1);
    assert!(outside.exists());
}

#[test]
fn a_volume_takes_no_more_than_its_size_from_javascript() {
    let (node, app) = (node(), "filesjs-full");
    let _app = serve(node, app, "");
    let fine = |call: Value| assert_eq!(one(node, app, call.clone()), "ok", "{call}");
    let full = |call: Value| fails(node, app, "ENOSPC", call);
    fine(json!(["writeFile", "a", { "bytes": 800_000 }]));
    // What does not fit takes nothing away.
    full(json!(["writeFile", "a", { "bytes": 2_000_000 }]));
    assert_eq!(one(node, app, json!(["readFile", "a"])), json!({ "length": 800_000, "right": true }));
    full(json!(["writeFile", "a", { "bytes": 400_000 }, { "flag": "a" }]));
    full(json!(["writeFile", "a", "x", { "offset": 2_000_000 }]));
    full(json!(["writeFile", "a", "x", { "offset": 9_007_199_254_740_991_i64 }]));
    full(json!(["truncate", "a", 2_000_000]));
    full(json!(["truncate", "a", 9_007_199_254_740_991_i64]));
    full(json!(["writeFile", "b", { "bytes": 400_000 }]));
    full(json!(["writeFile", "c", { "stream": 3_000_000 }]));
    full(json!(["writeFile", "a", { "stream": 3_000_000 }, { "flag": "a" }]));
    assert_eq!(fs::metadata(volume(node, app).join("a")).unwrap().len(), 800_000);
    // What is there is written over, as often as one likes.
    fine(json!(["rm", "c"]));
    for _ in 0..5 {
        fine(json!(["writeFile", "a", { "bytes": 800_000 }]));
        fine(json!(["writeFile", "a", { "bytes": 700_000 }, { "offset": 0 }]));
    }
    fine(json!(["rm", "a"]));
    fine(json!(["rm", "b"]));
    // What was deleted is free, and so is what was cut off.
    fine(json!(["writeFile", "a", { "stream": 900_000 }]));
    fine(json!(["truncate", "a", 10]));
    fine(json!(["writeFile", "b", { "bytes": 900_000 }]));
    let bytes: u64 =
        fs::read_dir(volume(node, app)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(bytes, 900_010);
    // Names fill it too: each takes a block of 4 KiB.
    fine(json!(["rm", "b"]));
    let many: Vec<Value> = (0..300).map(|n| json!(["writeFile", format!("n{n:03}"), ""])).collect();
    let made = ask(node, app, "/all", json!(many));
    let made = made.as_array().unwrap();
    assert_eq!(
        made.iter().filter(|came| **came == json!("ok")).count(),
        254,
        "256 blocks, two of which are those of `a`"
    );
    assert!(made.iter().all(|came| *came == json!("ok") || came["error"] == "ENOSPC"));
    full(json!(["mkdir", "folder"]));
    full(json!(["mkdir", "folder/inner", { "recursive": true }]));
    full(json!(["writeFile", "one-more", ""]));
    fine(json!(["writeFile", "a", "still"]));
}

#[test]
fn a_volume_is_shared_and_read_as_it_was_granted() {
    let node = node();
    let (owner_name, guest_name) = ("filesjs-owner", "filesjs-guest");
    let share = "\nshare = [\"filesjs-guest\"]";
    let mut owner = app(owner_name, GRANT, "").end(&format!("{VOLUME}{share}"));
    node.serve(&owner);
    let guest = app(
        guest_name,
        "files = { \"filesjs-owner/data:ro\" = \"/theirs\", own = \"/own\" }",
        r#"case "/forge": {
            const { constructor } = env.OWN;
            const codes = [];
            for (const name of ["data", "filesjs-owner/other", "filesjs-escape/data", "", "__proto__"]) {
                for (const call of [(files) => files.readFile("a"), (files) => files.writeFile("a", "x"), (files) => files.rm("a", { recursive: true })]) {
                    codes.push(await call(new constructor(name)).then(() => "done", (error) => error.code));
                }
            }
            // Its own object with the name of the other: the gate knows how it was granted.
            codes.push(await new constructor("filesjs-owner/data").writeFile("a", "x").then(() => "done", (error) => error.code));
            return [...new Set(codes)];
        }"#,
    )
    .end("[files.own]");
    assert_eq!(one(node, owner_name, json!(["writeFile", "a", "theirs"])), "ok");
    node.serve(&guest);
    let theirs = |calls: Value| ask(node, guest_name, "/do?in=FILESJS_OWNER_DATA", calls);
    let read = json!([["readFile", "/theirs/a", "utf8"], ["readdir", "."], ["exists", "a"], ["stream", "a"]]);
    assert_eq!(theirs(read.clone()), json!(["theirs", ["a"], true, b"theirs"]));
    let changes = json!([
        ["writeFile", "a", "x"],
        ["writeFile", "b", "x", { "flag": "wx" }],
        ["writeFile", "a", { "stream": 3_000_000 }],
        ["mkdir", "c", { "recursive": true }],
        ["rm", "a", { "force": true }],
        ["rename", "a", "b"],
        ["truncate", "a"],
    ]);
    for came in theirs(changes).as_array().unwrap() {
        assert_eq!(came["error"], "EROFS", "{came}");
        assert!(came["message"].as_str().unwrap().contains(":ro"), "{came}");
    }
    assert_eq!(ask(node, guest_name, "/forge", ""), json!(["denied", "EROFS"]));
    assert_eq!(one(node, owner_name, json!(["readFile", "a", "utf8"])), "theirs");
    // The owner takes it back.
    owner.change(share, "");
    owner.change("0.1.0", "0.2.0");
    node.serve(&owner);
    until("the share is over", || theirs(read.clone())[0]["error"] == "denied");
    let told = theirs(read);
    assert!(told[0]["message"].as_str().unwrap().contains("does not share its files store `data`"), "{told}");
}

#[test]
fn large_files_go_through_a_function_in_pieces() {
    const BYTES: usize = 120 << 20;
    let node = Node::start();
    let limits = "[functions.web.limits]\ncpu = \"60s\"\ntimeout = \"10m\"\nrequest_body = \"1GiB\"";
    let app_name = "filesjs-large";
    let app = app(
        app_name,
        &format!("{GRANT}\n{limits}"),
        r#"
        case "/put": return await files.writeFile("big", request.body);
        case "/get": return new Response(await files.stream("big"));
        case "/parts": {
            const parts = [];
            for (let offset = 0; offset < 40 << 20; offset += 10 << 20) {
                const part = await files.readFile("big", { offset, length: 10 << 20 });
                await files.writeFile("copy", part, { offset });
                parts.push(part.length);
            }
            return [parts, (await files.stat("copy")).size];
        }
        case "/most": {
            const part = await files.readFile("big", { length: 16 << 20 });
            await files.writeFile("most", part);
            return [(await files.stat("most")).size, (await files.readFile("most")).every((byte, i) => byte === part[i])];
        }
        case "/too-large": return await files.readFile("big");
        case "/too-long": return await files.readFile("big", { offset: 1, length: (16 << 20) + 1 });
        case "/broken": {
            let pulls = 0;
            const broken = new ReadableStream({ pull(controller) { if (pulls++ < 3) controller.enqueue(new Uint8Array(1 << 20).fill(7)); else controller.error(new Error("it broke")); } });
            const error = await files.writeFile("broken", broken).catch((error) => error.message);
            return [error, (await files.stat("broken")).size % (1 << 20)];
        }
        case "/cancel": {
            const stream = await files.stream("big");
            const reader = stream.getReader();
            const { value } = await reader.read();
            await reader.cancel();
            return value.length > 0;
        }
        "#,
    )
    .end("[files.data]");
    node.serve(&app);
    ask(&node, app_name, "/do", json!([["readdir", ""]]));
    let before = node.rss_bytes();
    let piece: Vec<u8> = (0..MIB).map(|i| (i ^ (i >> 8)) as u8).collect();
    let mut connection = node.connect();
    connection
        .write_head(&Request::get(app_name, "/put").method("POST").header("content-length", &BYTES.to_string()))
        .unwrap();
    for _ in 0..BYTES / MIB {
        connection.write(&piece).unwrap();
    }
    assert_eq!(connection.response(false).unwrap().rest().unwrap().json(), "ok");
    assert_eq!(fs::metadata(volume(&node, app_name).join("big")).unwrap().len(), BYTES as u64);
    let mut download = node.open(&Request::get(app_name, "/get"));
    let mut bytes = 0;
    while let Some(got) = download.piece().unwrap() {
        let all_right = got.iter().enumerate().all(|(i, byte)| *byte == piece[(bytes + i) % MIB]);
        assert!(all_right, "somewhere after {bytes}");
        bytes += got.len();
    }
    assert_eq!(bytes, BYTES);
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "the node grew by {grown} bytes");
    assert_eq!(ask(&node, app_name, "/parts", ""), json!([[10 << 20, 10 << 20, 10 << 20, 10 << 20], 40 << 20]));
    assert_eq!(ask(&node, app_name, "/most", ""), json!([16 << 20, true]));
    for path in ["/too-large", "/too-long"] {
        let refused = ask(&node, app_name, path, "");
        assert_eq!(refused["error"], "EFBIG", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("use a stream"), "{refused}");
    }
    // What was written before a stream breaks off is there.
    assert_eq!(ask(&node, app_name, "/broken", ""), json!(["it broke", 0]));
    for _ in 0..200 {
        assert_eq!(ask(&node, app_name, "/cancel", ""), true);
    }
}

#[test]
fn what_a_function_has_open_is_bounded_and_ends_with_its_invocation() {
    let (node, app_name) = (node(), "filesjs-open");
    let _app = app(
        app_name,
        // Each stream has a piece in the process's memory.
        &format!("{GRANT}\n[functions.web.limits]\nmemory = \"512MiB\""),
        r#"case "/open": {
            await files.writeFile("a", new Uint8Array(3 << 20));
            const open = [];
            for (;;) {
                try {
                    open.push(await files.stream("a"));
                } catch (error) {
                    return [open.length, error.code];
                }
            }
        }"#,
    )
    .end("[files.data]\nsize = \"10MiB\"");
    node.serve(&_app);
    for _ in 0..3 {
        assert_eq!(ask(node, app_name, "/open", ""), json!([128, "too_many"]));
    }
}

#[test]
fn many_calls_at_once_are_all_done() {
    let (node, app) = (node(), "filesjs-many");
    let _app = serve(node, app, "");
    let names: Vec<String> = (0..100).map(|n| format!("f{n}")).collect();
    let writes = names.iter().map(|name| json!(["writeFile", name, name]));
    let appends = (0..200).map(|_| json!(["writeFile", "log", "0123456789\n", { "flag": "a" }]));
    let all: Vec<Value> = writes.chain(appends).collect();
    let came = ask(node, app, "/all", json!(all));
    assert!(came.as_array().unwrap().iter().all(|came| *came == json!("ok")), "{came}");
    let reads: Vec<Value> = names.iter().map(|name| json!(["readFile", name, "utf8"])).collect();
    assert_eq!(ask(node, app, "/all", json!(reads)), json!(names));
    let log = fs::read_to_string(volume(node, app).join("log")).unwrap();
    assert_eq!(log, "0123456789\n".repeat(200));
    // Of those who make one file only one succeeds; whoever replaces it does so whole.
    let news: Vec<Value> = (0..50).map(|n| json!(["writeFile", "new", format!("{n}"), { "flag": "wx" }])).collect();
    let came = ask(node, app, "/all", json!(news));
    assert_eq!(came.as_array().unwrap().iter().filter(|came| **came == json!("ok")).count(), 1);
    let made: Vec<Value> = (0..50).map(|_| json!(["mkdir", "a/b/c/d", { "recursive": true }])).collect();
    let came = ask(node, app, "/all", json!(made));
    assert!(came.as_array().unwrap().iter().all(|came| *came == json!("ok")), "{came}");
    let gone: Vec<Value> = (0..50).map(|_| json!(["rm", "a", { "recursive": true, "force": true }])).collect();
    let came = ask(node, app, "/all", json!(gone));
    assert!(came.as_array().unwrap().iter().all(|came| *came == json!("ok")), "{came}");
}

#[test]
fn guests_of_both_kinds_use_one_volume() {
    let (node, app_name) = (node(), "filesjs-both");
    let app = app(app_name, GRANT, "")
        .function("wasm", "lab-p2", "routes = [\"/do-files\"]\nfiles = { data = \"/data\" }")
        .end(VOLUME);
    node.serve(&app);
    let wasm = |step: Value| {
        let answer = node.post(app_name, "/do-files", json!([step]).to_string());
        answer.json()[0].clone()
    };
    assert_eq!(one(node, app_name, json!(["writeFile", "a", "of JavaScript"])), "ok");
    assert_eq!(wasm(json!({ "do": "read", "path": "/data/a" })), "of JavaScript");
    assert_eq!(wasm(json!({ "do": "write", "path": "/data/b", "text": "of WebAssembly" })), "ok");
    assert_eq!(one(node, app_name, json!(["readFile", "b", "utf8"])), "of WebAssembly");
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                assert_eq!(wasm(json!({ "do": "append", "path": "/data/log", "text": "wasm;" })), "ok");
            }
        });
        for _ in 0..20 {
            assert_eq!(one(node, app_name, json!(["writeFile", "log", "js;", { "flag": "a" }])), "ok");
        }
    });
    let log = one(node, app_name, json!(["readFile", "log", "utf8"]));
    let log = log.as_str().unwrap();
    assert_eq!((log.matches("wasm;").count(), log.matches("js;").count(), log.len()), (20, 20, 160), "{log}");
    // Their space is one.
    assert_eq!(wasm(json!({ "do": "fill", "path": "/data/c", "bytes": 900_000 })), "ok");
    fails(node, app_name, "ENOSPC", json!(["writeFile", "d", { "bytes": 300_000 }]));
    assert_eq!(one(node, app_name, json!(["rm", "c"])), "ok");
    assert_eq!(one(node, app_name, json!(["writeFile", "d", { "bytes": 900_000 }])), "ok");
    assert_eq!(wasm(json!({ "do": "fill", "path": "/data/c", "bytes": 300_000 }))["error"], "StorageFull");
}

#[test]
fn no_file_that_was_answered_is_lost_when_the_node_is_killed_again_and_again() {
    let app = "filesjs-ledger";
    let mut node = Node::start();
    let _app = serve(&node, app, "");
    let (append, replace, make) = (Writer::default(), Writer::default(), Writer::default());
    for _ in 0..3 {
        let round = &Round::default();
        let done = |call: Value| {
            let request = Request::get(app, "/do").method("POST").body(json!([call]).to_string());
            let sent = minnow_tests::Connection::open(node.http)
                .and_then(|connection| connection.exchange(&request)?.rest())
                .ok()?;
            assert_eq!(sent.json(), json!(["ok"]), "{call}");
            Some(())
        };
        thread::scope(|scope| {
            let (append, replace, make, done) = (&append, &replace, &make, &done);
            scope.spawn(move || {
                append.work(round, |n| done(json!(["writeFile", "log", format!("{n};"), { "flag": "a" }])))
            });
            scope.spawn(move || {
                replace.work(round, |n| {
                    done(json!(["writeFile", "next", format!("{n}")]))?;
                    done(json!(["rename", "next", "number"]))
                });
            });
            scope.spawn(move || {
                make.work(round, |n| done(json!(["mkdir", format!("folder/{n}"), { "recursive": true }])))
            });
            round.kill(&node, 60);
        });
        node = node.kill_and_restart();
        let number = one(&node, app, json!(["readFile", "number", "utf8"]));
        replace.ends_with("the file that is replaced", number.as_str().unwrap().parse().unwrap());
        let log = one(&node, app, json!(["readFile", "log", "utf8"]));
        let numbers = log.as_str().unwrap().split_terminator(';').map(|number| number.parse().unwrap());
        append.are("the file that is appended to", &numbers.collect::<Vec<u64>>());
        let folders = one(&node, app, json!(["readdir", "folder"]));
        let folders = folders.as_array().unwrap().iter().map(|name| name.as_str().unwrap().parse().unwrap());
        let mut folders: Vec<u64> = folders.collect();
        folders.sort_unstable();
        make.are("the folders", &folders);
    }
}

#[test]
fn a_function_that_replaces_what_it_shares_with_the_node_reaches_nothing_of_its_files() {
    let (node, app) = (node(), "filesjs-patches");
    let _app = serve(
        node,
        app,
        r#"case "/patched": {
            const seen = [];
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
            patch(String.prototype, ["toLowerCase", "toWellFormed", "slice"]);
            patch(Array.prototype, ["push", "map"]);
            patch(Object.getPrototypeOf(Uint8Array.prototype), ["set", "subarray", "slice"]);
            patch(TextDecoder.prototype, ["decode"]);
            patch(JSON, ["parse", "stringify"]);
            const names = ["file", "open", "opened", "reader", "writer", "send", "listed", "found"];
            for (const name of names) {
                Object.defineProperty(Object.prototype, name, { get() { seen[seen.length] = name; }, set() { seen[seen.length] = name; }, configurable: true });
            }
            globalThis.patched = true;
            const large = new Uint8Array(600_000).fill(7);
            await files.writeFile("a", large);
            await files.writeFile("b", new Blob(["of a blob"]));
            const text = await files.readFile("b", "utf8");
            await files.mkdir("c/d", { recursive: true });
            const entries = await files.readdir("", { withFileTypes: true });
            const stats = await files.stat("a");
            const bytes = await files.readFile("a");
            globalThis.patched = false;
            for (const name of names) delete Object.prototype[name];
            let isFrozen = true;
            for (const part of [files.constructor, stats.constructor, entries[0].constructor]) isFrozen &&= Object.isFrozen(part) && Object.isFrozen(part.prototype);
            return [[...new Set(seen)], text, bytes.length, entries.length, isFrozen, Object.getOwnPropertyNames(files)];
        }"#,
    );
    assert_eq!(ask(node, app, "/patched", ""), json!([[], "of a blob", 600_000, 3, true, []]));
}
