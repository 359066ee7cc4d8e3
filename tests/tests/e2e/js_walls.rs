//! Attempts of JavaScript to get out of its sandbox, from inside: files, the node, the network, the machine.
//!
//! That each wall of the system holds by itself, without Deno's permissions, is tested where the walls are made.

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use minnow_tests::{App, Node, eventually, upstream::Upstream};
use serde_json::{Map, Value, json};

/// What the node's environment has and no function may see.
const SECRET: &str = "the-nodes-own-secret";

/// The node of all tests here. It lets nobody reach a network that is not public.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().env("SECRET_OF_THE_NODE", SECRET).env("AWS_SECRET_ACCESS_KEY", SECRET).start())
}

/// A function that makes attempts, each with what the test posts as `given`, and answers what became of them:
/// `refused: …`, or `GOT …`.
fn attempts(name: &str, imports: &str, attempts: &str, settings: &str) -> App {
    let source = format!(
        r#"
        {imports}
        const attempts = (given) => ({{
            {attempts}
        }});
        const shown = (value) => {{
            try {{ return typeof value === "string" ? value.slice(0, 300) : JSON.stringify(value)?.slice(0, 300) ?? String(value); }}
            catch {{ return String(value).slice(0, 300); }}
        }};
        const patience = () => new Promise((_, refuse) => setTimeout(() => refuse("nothing came of it"), 3000));
        export default {{
            async fetch(request) {{
                const results = {{}};
                for (const [name, attempt] of Object.entries(attempts(await request.json()))) {{
                    try {{ results[name] = `GOT ${{shown(await Promise.race([attempt(), patience()]))}}`; }}
                    catch (error) {{ results[name] = `refused: ${{shown(error?.message ?? error)}}`; }}
                }}
                return Response.json(results);
            }},
        }};
        "#
    );
    App::of_js(name, &source, &format!("limits = {{ timeout = \"2m\", cpu = \"30s\" }}\n{settings}"))
}

#[track_caller]
fn results(node: &Node, app: &str, given: &Value) -> Map<String, Value> {
    let answer = node.post(app, "/", given.to_string());
    assert_eq!(answer.status, 200, "{} {:?}", answer.text(), node.logs(app));
    answer.json().as_object().unwrap().clone()
}

/// Panics unless every attempt was refused.
#[track_caller]
fn all_refused(results: &Map<String, Value>) {
    let done: Vec<_> =
        results.iter().filter(|(_, result)| !result.as_str().unwrap().starts_with("refused: ")).collect();
    assert!(done.is_empty(), "not refused: {done:#?}");
    assert!(!results.is_empty());
}

/// A server on loopback that nobody may come to. Gives its port and how many came.
fn forbidden() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, came) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&came);
    thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Relaxed);
        }
    });
    (port, came)
}

#[test]
fn files_of_the_machine_and_of_the_node_are_neither_read_nor_written() {
    let node = node();
    let app = attempts(
        "files",
        r#"
        import fs from "node:fs";
        import fsPromises from "node:fs/promises";
        import { createRequire } from "node:module";
        import v8 from "node:v8";
        import { once } from "node:events";
        "#,
        r#"
        ...Object.fromEntries(given.paths.flatMap((path) => [
            [`readTextFile ${path}`, () => Deno.readTextFile(path)],
            [`readFileSync ${path}`, () => Deno.readFileSync(path).length],
            [`open ${path}`, async () => (await Deno.open(path)).read(new Uint8Array(100))],
            [`node readFileSync ${path}`, () => fs.readFileSync(path, "utf8")],
            [`node readFile ${path}`, () => fsPromises.readFile(path, "utf8")],
            [`node openSync ${path}`, () => fs.openSync(path)],
            [`node stream ${path}`, async () => { for await (const piece of fs.createReadStream(path)) return piece.length; }],
            [`import ${path}`, () => import(`file://${path}`)],
            [`import text ${path}`, () => import(`file://${path}`, { with: { type: "text" } })],
            [`import json ${path}`, () => import(`file://${path}`, { with: { type: "json" } })],
            [`require ${path}`, () => createRequire("file:///")(path)],
            [`fetch ${path}`, async () => (await fetch(`file://${path}`)).text()],
            [`wasm ${path}`, () => WebAssembly.compileStreaming(fetch(`file://${path}`))],
            [`worker ${path}`, () => new Worker(`file://${path}`, { type: "module" })],
            [`copy ${path}`, () => Deno.copyFileSync(path, "/run/copy")],
            [`link ${path}`, () => Deno.symlinkSync(path, "/run/link")],
            [`node link ${path}`, () => fs.linkSync(path, "/run/link")],
            [`write ${path}`, () => Deno.writeTextFileSync(path, "x")],
            [`append ${path}`, () => fs.appendFileSync(path, "x")],
            [`remove ${path}`, () => Deno.removeSync(path)],
            [`rename ${path}`, () => fs.renameSync(path, `${path}.x`)],
            [`chmod ${path}`, () => fs.chmodSync(path, 0o777)],
            [`truncate ${path}`, () => Deno.truncateSync(path)],
            [`watch ${path}`, async () => { for await (const event of Deno.watchFs(path)) return event.kind; }],
        ])),
        ...Object.fromEntries(given.folders.flatMap((path) => [
            [`readDir ${path}`, () => [...Deno.readDirSync(path)].map((entry) => entry.name)],
            [`readdirSync ${path}`, () => fs.readdirSync(path)],
            [`mkdir ${path}`, () => Deno.mkdirSync(`${path}/new`)],
            [`create ${path}`, () => fs.writeFileSync(`${path}/new`, "x")],
            [`temp ${path}`, () => Deno.makeTempFileSync({ dir: path })],
            [`chdir ${path}`, () => Deno.chdir(path)],
        ])),
        tempFile: () => Deno.makeTempFileSync(),
        tempDir: () => fs.mkdtempSync("/tmp/x"),
        startupSnapshot: () => v8.startupSnapshot?.setDeserializeMainFunction?.(() => {}) ?? Promise.reject("there is none"),
        coverage: () => v8.takeCoverage?.() ?? Promise.reject("there is none"),
        report: () => process.report?.writeReport?.("/run/report") || Promise.reject("there is none"),
        sqlite: async () => { const { DatabaseSync } = await import("node:sqlite"); return new DatabaseSync("/run/db").exec("create table a (b)"); },
        sqliteAttach: async () => { const { DatabaseSync } = await import("node:sqlite"); return new DatabaseSync(":memory:").exec("attach '/etc/passwd' as a; select * from a.x"); },
        openKv: () => Deno.openKv("/run/kv"),
        localStorage: () => localStorage.setItem("a", "b"),
        caches: async () => (await caches.open("a")).keys(),
        wasi: async () => {
            const { WASI } = await import("node:wasi");
            return new WASI({ version: "preview1", preopens: { "/": "/" } }).getImportObject() && Promise.reject("no file was opened");
        },
        processBinding: () => process.binding("fs").internalModuleReadJSON("/etc/passwd"),
        requestPermission: async () => (await Deno.permissions.request({ name: "read" })).state === "granted" ? "granted" : Promise.reject("denied"),
        requestRun: async () => (await Deno.permissions.request({ name: "run" })).state === "granted" ? "granted" : Promise.reject("denied"),
        env: () => Deno.readTextFileSync("/proc/self/environ"),
        executable: () => Deno.readFileSync(Deno.execPath()).length,
        "#,
        "",
    );
    node.serve(&app);
    let data = node.data_dir();
    let mine = tempfile::NamedTempFile::new().unwrap();
    fs::write(mine.path(), "a file of the machine").unwrap();
    let token = data.join("admin.token");
    let paths = [
        "/etc/passwd",
        "/etc/hostname",
        "/proc/self/environ",
        "/proc/self/maps",
        "/proc/self/mem",
        "/proc/1/cmdline",
        "/proc/1/root/etc/passwd",
        "/proc/self/fd/0",
        "/sys/kernel/notes",
        "/dev/mem",
        "/dev/kmsg",
        "/bin/deno",
        token.to_str().unwrap(),
        mine.path().to_str().unwrap(),
    ];
    let database = data.join("minnow.db");
    let paths: Vec<&str> = paths.into_iter().chain(database.to_str()).collect();
    let folders = ["/", "/etc", "/proc", "/proc/1", "/tmp", "/bin", "/dev", "/sys", data.to_str().unwrap()];
    all_refused(&results(node, "files", &json!({ "paths": paths, "folders": folders })));
    assert_eq!(fs::read_to_string(mine.path()).unwrap(), "a file of the machine");
}

#[test]
fn the_network_is_reached_in_no_way_but_the_nodes() {
    let node = node();
    let (port, came) = forbidden();
    // What the node's own rules refuse, whatever the manifest allows, and ways that do not go through the node at all.
    let app = attempts(
        "network",
        r#"
        import net from "node:net";
        import tls from "node:tls";
        import http from "node:http";
        import https from "node:https";
        import http2 from "node:http2";
        import dgram from "node:dgram";
        import dns from "node:dns";
        import dnsPromises from "node:dns/promises";
        import inspector from "node:inspector";
        import { once } from "node:events";
        const opened = (socket, event = "connect") => new Promise((resolve, refuse) => { socket.on(event, () => resolve("connected")); socket.on("error", refuse); });
        const socket = (url) => new Promise((resolve, refuse) => {
            const socket = new WebSocket(url);
            socket.onopen = () => resolve("opened");
            socket.onerror = () => refuse("it failed");
        });
        "#,
        r#"
        ...Object.fromEntries(given.hosts.flatMap(({ host, port }) => [
            [`fetch ${host}:${port}`, async () => (await fetch(`http://${host}:${port}/`)).status],
            [`fetch https ${host}:${port}`, async () => (await fetch(`https://${host}:${port}/`)).status],
            [`socket ${host}:${port}`, () => socket(`ws://${host}:${port}/`)],
            [`events ${host}:${port}`, () => new Promise((resolve, refuse) => {
                const events = new EventSource(`http://${host}:${port}/`);
                events.onopen = () => resolve("opened");
                events.onerror = () => { events.close(); refuse("it failed"); };
            })],
            [`connect ${host}:${port}`, () => Deno.connect({ hostname: host, port })],
            [`connectTls ${host}:${port}`, () => Deno.connectTls({ hostname: host, port })],
            [`net ${host}:${port}`, () => opened(net.connect(port, host))],
            [`tls ${host}:${port}`, () => opened(tls.connect(port, host), "secureConnect")],
            [`http ${host}:${port}`, () => opened(http.get(`http://${host}:${port}/`), "response")],
            [`https ${host}:${port}`, () => opened(https.get(`https://${host}:${port}/`), "response")],
            [`http2 ${host}:${port}`, () => opened(http2.connect(`http://${host}:${port}/`))],
        ])),
        listen: () => Deno.listen({ port: 0 }),
        listenTls: () => Deno.listenTls({ port: 0, cert: "", key: "" }),
        listenUnix: () => Deno.listen({ transport: "unix", path: "/run/new" }),
        listenDatagram: () => Deno.listenDatagram({ transport: "udp", port: 0 }),
        serve: () => Deno.serve({ port: 8080 }, () => new Response("x")),
        netServer: () => opened(net.createServer().listen(0), "listening"),
        netServerUnix: () => opened(net.createServer().listen("/run/new"), "listening"),
        httpServer: () => opened(http.createServer().listen(0), "listening"),
        datagram: () => opened(dgram.createSocket("udp4").bind(0), "listening"),
        datagramSent: () => new Promise((resolve, refuse) => { const socket = dgram.createSocket("udp4"); socket.on("error", refuse);
            socket.send("x", given.port, "127.0.0.1", (error) => error ? refuse(error) : resolve("sent")); }),
        inspector: () => { inspector.open(0, "127.0.0.1"); return inspector.url() ?? Promise.reject("it is not open"); },
        resolve: () => Deno.resolveDns("localhost", "A"),
        lookup: () => dnsPromises.lookup("localhost"),
        lookupName: () => dnsPromises.lookup("example.com"),
        resolver: () => new Promise((resolve, refuse) => dns.resolve4("localhost", (error, found) => error ? refuse(error) : resolve(found))),
        client: () => Deno.createHttpClient({}),
        unixSocket: () => Deno.connect({ transport: "unix", path: given.socket }),
        netUnixSocket: () => opened(net.connect(given.socket)),
        httpUnixSocket: () => opened(http.get({ socketPath: given.socket, path: "/" }), "response"),
        abstractSocket: () => opened(net.connect(`\0${given.abstractName}`)),
        fetchUnix: async () => (await fetch(`http+unix://${encodeURIComponent(given.socket)}/`)).status,
        fetchClient: async () => (await fetch(`http://127.0.0.1:${given.port}/`, { client: {} })).status,
        quic: () => Deno.connectQuic?.({ hostname: "127.0.0.1", port: given.port }) ?? Promise.reject("there is none"),
        transport: () => new WebTransport(`https://127.0.0.1:${given.port}/`).ready,
        importHttp: () => import(`http://127.0.0.1:${given.port}/x.js`),
        importNpm: () => import(`${given.npm}left-pad`),
        importJsr: () => import(`${given.jsr}@std/path`),
        interfaces: () => { const found = Deno.networkInterfaces(); return found.length > 0 ? found : Promise.reject("there are none"); },
        "#,
        &format!("egress = [\"*\", \"*:{port}\", \"*:{}\"]", node.admin.port()),
    );
    node.serve(&app);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    // One without a file, which a wall around files does not hold back.
    let name = format!("minnow-test-{}", std::process::id());
    let nameless = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    nameless.set_nonblocking(true).unwrap();
    let loopback =
        ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1.2.3", "2130706433", "0x7f.1"];
    let mut hosts: Vec<Value> = loopback.iter().map(|host| json!({ "host": host, "port": port })).collect();
    hosts.push(json!({ "host": "127.0.0.1", "port": node.admin.port() }));
    hosts.push(json!({ "host": "169.254.169.254", "port": 80 }));
    hosts.push(json!({ "host": "[fd00:ec2::254]", "port": 80 }));
    hosts.push(json!({ "host": "10.0.0.1", "port": 80 }));
    let given =
        json!({ "hosts": hosts, "port": port, "socket": path, "abstractName": name, "npm": "npm:", "jsr": "jsr:" });
    all_refused(&results(node, "network", &given));
    assert_eq!(came.load(Relaxed), 0, "somebody came");
    assert!(listener.accept().is_err() && nameless.accept().is_err(), "somebody came");
}

#[test]
fn what_comes_over_the_socket_to_the_node_is_held_to_the_same_rules_however_it_is_made() {
    let node = node();
    let (port, came) = forbidden();
    let (allowed, other) = (Upstream::start("reached"), Upstream::start("other"));
    // Speaks to the node's socket itself, without the wrapper around `fetch`.
    let imports = r#"
        import net from "node:net";
        const raw = (path, text) => new Promise((resolve, refuse) => {
            const socket = net.connect(path);
            let answer = "";
            socket.on("connect", () => socket.write(text));
            socket.on("data", (data) => { answer += data; if (answer.includes("\r\n\r\n")) resolve(answer); });
            socket.on("close", () => answer === "" ? refuse("closed") : resolve(answer));
            socket.on("error", refuse);
        }).then((answer) => answer.startsWith("HTTP/1.1 599") || answer.startsWith("HTTP/1.1 4") ? Promise.reject(answer) : answer);
        const ask = (target, headers = "", method = "GET") => raw("/run/egress", `${method} ${target} HTTP/1.1\r\nhost: x\r\n${headers}\r\n`);
    "#;
    let made = r#"
        ...Object.fromEntries(given.urls.flatMap((url) => [
            [`plain ${url}`, () => ask(url, "x-minnow-scheme: http\r\n")],
            [`https ${url}`, () => ask(url, "x-minnow-scheme: https\r\n")],
            [`ws ${url}`, () => ask(url, "x-minnow-scheme: ws\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n")],
            [`none ${url}`, () => ask(url)],
            [`odd ${url}`, () => ask(url, "x-minnow-scheme: file\r\n")],
            [`two ${url}`, () => ask(url, `x-minnow-scheme: http\r\nx-minnow-port: ${given.port}\r\n`)],
            [`named ${url}`, () => ask(url, `x-minnow-scheme: http\r\nx-minnow-request: ${"0".repeat(32)}\r\n`)],
        ])),
        connect: () => ask(`127.0.0.1:${given.port}`, "x-minnow-scheme: http\r\n", "CONNECT"),
        origin: () => ask("/", "x-minnow-scheme: http\r\n"),
        star: () => ask("*", "x-minnow-scheme: http\r\n", "OPTIONS"),
        user: () => ask(`http://${given.allowed}@127.0.0.1:${given.port}/`, "x-minnow-scheme: http\r\n"),
        smuggled: () => ask(`http://${given.other}/`, `x-minnow-scheme: http\r\nhost: ${given.allowed}\r\n`),
        ownServer: () => raw("/run/http", "POST /load HTTP/1.1\r\nhost: x\r\nx-minnow-boot: 1\r\ncontent-length: 2\r\n\r\n{}"),
    "#;
    let settings = format!("egress = [\"http://{}\", \"http://127.0.0.1:{port}\"]", allowed.address);
    node.serve(&attempts("raw", imports, made, &settings));
    let urls = [
        format!("http://127.0.0.1:{port}/"),
        format!("http://{}/", other.address),
        format!("http://{}/", node.admin),
        "http://169.254.169.254/".into(),
        "file:///etc/passwd".into(),
    ];
    let given = json!({ "urls": urls, "port": port, "allowed": allowed.address, "other": other.address });
    all_refused(&results(node, "raw", &given));
    // Nothing that is left says where it came from: not even the allowed address is public.
    assert_eq!((came.load(Relaxed), allowed.connections(), other.connections()), (0, 0, 0));
    assert_eq!(node.count("raw", "processes"), 1);
}

#[test]
fn nothing_of_the_node_and_the_machine_is_visible() {
    let node = node();
    let app = attempts(
        "visible",
        r#"
        import os from "node:os";
        const all = (object) => { const text = JSON.stringify(object); return text; };
        "#,
        r#"
        env: () => all(Deno.env.toObject()),
        processEnv: () => all(process.env),
        path: () => Deno.env.get("PATH") ?? "nothing",
        hostName: () => os.hostname(),
        pid: () => String(process.pid),
        parent: () => String(process.ppid),
        args: () => all([Deno.args, process.argv.slice(2), process.execArgv]),
        user: () => { try { return os.userInfo().username; } catch { return "nobody"; } },
        home: () => os.homedir() ?? "nothing",
        cwd: () => process.cwd(),
        interfaces: () => all(os.networkInterfaces()),
        "#,
        "env = { OWN = \"1\" }",
    );
    node.serve(&app);
    let seen = results(node, "visible", &json!({}));
    let text = Value::Object(seen.clone()).to_string();
    let work = node.data_dir().parent().unwrap().display().to_string();
    let home = std::env::var("HOME").unwrap_or_else(|_| "/home/nobody".into());
    for hidden in [SECRET, "SECRET_OF_THE_NODE", "MINNOW", &work] {
        assert!(!text.contains(hidden), "`{hidden}` is visible: {text}");
    }
    for (what, expected) in
        [("env", "{\"OWN\":\"1\"}"), ("processEnv", "{\"OWN\":\"1\"}"), ("path", "nothing"), ("cwd", "/")]
    {
        assert_eq!(seen[what], format!("GOT {expected}"), "{what}");
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(seen["hostName"], format!("GOT {}", host.trim()));
    assert_ne!(seen["home"], format!("GOT {home}"));
    // The first process of a machine of its own.
    assert_eq!(seen["pid"], "GOT 1");
}

#[test]
fn programs_native_code_and_the_inside_of_deno_are_out_of_reach() {
    let node = node();
    let app = attempts(
        "native",
        r#"
        import { createRequire } from "node:module";
        import module from "node:module";
        import child from "node:child_process";
        import v8 from "node:v8";
        "#,
        r#"
        dlopen: () => Deno.dlopen("libc.so.6", { getpid: { parameters: [], result: "i32" } }),
        dlopenSelf: () => Deno.dlopen("/bin/deno", {}),
        pointer: () => new Deno.UnsafePointerView(Deno.UnsafePointer.create(4096n)).getUint8(),
        processDlopen: () => process.dlopen({ exports: {} }, "/lib/libc.so.6"),
        addon: () => createRequire("file:///")("/addon.node"),
        command: () => new Deno.Command("/bin/deno", { args: ["--version"] }).outputSync().code,
        spawn: () => { const { error, status } = child.spawnSync("/bin/deno", ["eval", "1"]); return status === 0 ? "it ran" : Promise.reject(error); },
        kill: () => Deno.kill(1, "SIGKILL"),
        killAll: () => process.kill(-1, 9),
        killGroup: () => process.kill(0, 9),
        internal: () => Deno[Deno.internal] === undefined ? Promise.reject("it is gone") : "the inside",
        internalSymbols: () => {
            const found = Object.getOwnPropertySymbols(Deno).map((symbol) => Deno[symbol]).filter((value) => value?.core !== undefined);
            return found.length > 0 ? "the inside" : Promise.reject("there is none");
        },
        core: () => Deno.core?.ops ?? globalThis.__bootstrap ?? Promise.reject("there is none"),
        binding: () => process.binding("spawn_sync").spawn({ file: "/bin/deno", args: [] }).pid ?? Promise.reject("nothing was started"),
        bindings: () => process._linkedBinding("fs"),
        setuid: () => process.setuid(0),
        setgid: () => process.setgid(0),
        priority: async () => (await import("node:os")).setPriority(-20),
        umask: () => { Deno.umask(0); return Promise.reject("there is nothing to create"); },
        gpu: async () => (await navigator.gpu?.requestAdapter()) ?? Promise.reject("there is none"),
        exit: () => Deno.exit(0),
        abort: () => given.end === "abort" ? process.abort() : Promise.reject("asked on its own"),
        snapshot: () => given.end === "snapshot" ? v8.writeHeapSnapshot("/run/heap") : Promise.reject("asked on its own"),
        load: () => module.register?.("data:text/javascript,") ?? Promise.reject("there is nothing to load from"),
        cron: () => Deno.cron?.("name", "* * * * *", () => {}) ?? Promise.reject("there is none"),
        "#,
        "",
    );
    node.serve(&app);
    all_refused(&results(node, "native", &json!({})));
    assert_eq!(node.count("native", "processes"), 1);
    // It may end itself, as it may loop: nobody else notices.
    for end in ["abort", "snapshot"] {
        let answer = node.post("native", "/", json!({ "end": end }).to_string());
        assert!(
            answer.status == 500 || answer.json()["snapshot"].as_str().unwrap().starts_with("refused"),
            "{}",
            answer.text()
        );
        assert_eq!(node.post("native", "/", "{}").status, 200, "{end}");
    }
}

#[test]
fn one_function_sees_nothing_of_another() {
    let node = node();
    let source = r#"
        import fs from "node:fs";
        import { BroadcastChannel as NodeChannel } from "node:worker_threads";
        globalThis.secret = globalThis.secret ?? `of ${Math.random()}`;
        const heard = [];
        for (const Channel of [BroadcastChannel, NodeChannel]) {
            try { new Channel("all").onmessage = ({ data }) => heard.push(data); } catch {}
        }
        export default {
            async fetch(request, env) {
                for (const Channel of [BroadcastChannel, NodeChannel]) {
                    try { const channel = new Channel("all"); channel.postMessage(env.NAME); channel.close(); } catch {}
                }
                await new Promise((resolve) => setTimeout(resolve, 50));
                let folder;
                try { folder = fs.readdirSync("/run").sort(); } catch (error) { folder = "refused"; }
                return Response.json({ secret: globalThis.secret, heard, folder, env: { ...process.env } });
            },
        };
    "#;
    let app = App::new("apart").js("one", "a.js", source, "routes = [\"/one\"]\nenv = { NAME = \"one\" }").js(
        "two",
        "a.js",
        source,
        "routes = [\"/two\"]\nenv = { NAME = \"two\" }",
    );
    node.serve(&app);
    let (one, two, again) =
        (node.get("apart", "/one").json(), node.get("apart", "/two").json(), node.get("apart", "/one").json());
    assert_ne!(one["secret"], two["secret"]);
    assert_eq!(one["secret"], again["secret"]);
    for (seen, name, other) in [(&one, "one", "two"), (&two, "two", "one"), (&again, "one", "two")] {
        assert_eq!(seen["env"], json!({ "NAME": name }));
        assert!(!seen["heard"].as_array().unwrap().contains(&other.into()), "{seen}");
        // Its own sockets at most.
        assert!(seen["folder"] == "refused" || seen["folder"].as_array().unwrap().len() <= 2, "{seen}");
    }
}

#[test]
fn a_process_has_no_privileges_and_walls_around_it() {
    let node = node();
    node.serve(&App::of_js("privileges", "export default { fetch: () => new Response(\"ok\") };", ""));
    node.get("privileges", "/").ok();
    let namespaces = |pid: u32| -> Vec<String> {
        let names = ["mnt", "net", "ipc", "pid", "uts", "user"];
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).map(|path| path.display().to_string());
        names.iter().map(|name| link(name).unwrap_or_else(|error| format!("{name} {error}"))).collect()
    };
    let of_node = namespaces(node.pid());
    // The function's, and one of the pool's, which is filled up a moment after one was taken.
    let pids = eventually("a process waits beside the function's", || {
        Some(node.js_processes()).filter(|pids| pids.len() >= 2)
    });
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert!(!field("Uid").split(' ').any(|id| id == "0"), "{}", field("Uid"));
        let of_process = namespaces(pid);
        for (one, other) in of_process.iter().zip(&of_node) {
            assert_ne!(one, other, "a namespace of the node's");
        }
    }
}
