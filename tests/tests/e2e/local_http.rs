//! The data services over `/run/minnow/http`, as commands of both kinds reach them.

use std::sync::OnceLock;

use minnow_tests::{App, Node, Request};
use serde_json::{Value, json};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().start())
}

const STORES: &str = "[kv.items]\n[sql.main]\n[blob.files]\n[lock]\n";
const GRANTS: &str = "kv = [\"items\"]\nsql = [\"main\"]\nblob = [\"files\"]\nlocks = true";

/// A core module of preview 1 in C, and a component of preview 2 in Rust.
const GUESTS: [&str; 2] = ["cgi-c", "cgi-component"];

/// A command with all services as the app `name`, deployed.
fn serve(name: &str, guest: &str) -> (&'static Node, App) {
    let app = App::of_guest(name, guest, GRANTS).end(STORES);
    node().serve(&app);
    (node(), app)
}

/// An answer of the node to a function.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    #[track_caller]
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// A problem document with this code and its status; its detail.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> String {
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert!(problem["request_id"].is_string());
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn done(&self) {
        assert!((200..300).contains(&self.status), "{self:?}");
    }
}

/// A request as a function writes it.
fn request(method: &str, target: &str, more: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = if body.is_empty() && method != "PUT" && method != "POST" {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nhost: minnow\r\n{length}{more}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// What a function is answered that asks once.
#[track_caller]
fn raw(node: &Node, app: &str, bytes: Vec<u8>) -> Answered {
    let answer = node.post(app, "/http", bytes);
    assert_eq!(answer.status, 200, "{}", answer.text());
    Answered::read(&answer.body)
}

#[track_caller]
fn ask(node: &Node, app: &str, method: &str, target: &str, body: impl AsRef<[u8]>) -> Answered {
    raw(node, app, request(method, target, "", body))
}

#[track_caller]
fn post(node: &Node, app: &str, target: &str, body: Value) -> Answered {
    ask(node, app, "POST", target, body.to_string())
}

/// What came of steps within one invocation.
#[track_caller]
fn steps(node: &Node, app: &str, steps: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let all: Vec<u8> = steps.iter().flat_map(|step| step.iter().copied().chain([0])).collect();
    let answer = node.post(app, "/http/steps", all);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut came: Vec<Vec<u8>> = answer.body.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    assert_eq!(came.pop(), Some(Vec::new()), "the last step has ended");
    assert_eq!(came.len(), steps.len());
    came
}

fn step(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    [name.as_bytes(), &bytes].concat()
}

#[test]
fn a_command_keeps_values_under_keys() {
    for guest in GUESTS {
        let app = format!("local-kv-{guest}");
        let (node, _app) = serve(&app, guest);
        let ask = |method: &str, target: &str, body: &str| ask(node, &app, method, target, body);
        ask("GET", "/kv/items/keys/a", "").problem(404, "not_found");
        assert_eq!(ask("PUT", "/kv/items/keys/a?metadata=seen+b%C3%A9&ttl=1h", "one").status, 204);
        let found = ask("GET", "/kv/items/keys/a", "");
        assert_eq!((found.status, found.text().as_str()), (200, "one"));
        assert_eq!(found.header("minnow-metadata"), Some("seen%20b%C3%A9"));
        assert!(found.header("minnow-expires-ms").is_some());
        assert_eq!(found.header("connection"), Some("close"));
        let head = ask("HEAD", "/kv/items/keys/a", "");
        assert_eq!((head.status, head.header("content-length"), head.text().as_str()), (200, Some("3"), ""));

        // A key may be anything that a path may say.
        ask("PUT", "/kv/items/keys/user/1%3F%20%C3%A9", "x").done();
        let listed = ask("GET", "/kv/items/keys?prefix=user/", "").json();
        assert_eq!(listed, json!({ "keys": [{ "key": "user/1? é" }], "cursor": null }));
        let page = ask("GET", "/kv/items/keys?limit=1", "").json();
        assert_eq!(page["keys"][0]["key"], "a");
        let next = format!("/kv/items/keys?cursor={}", page["cursor"].as_str().unwrap());
        assert_eq!(ask("GET", &next, "").json()["keys"][0]["key"], "user/1? é");

        assert_eq!(ask("POST", "/kv/items/keys/n/increment", "").json(), json!({ "value": 1 }));
        assert_eq!(ask("POST", "/kv/items/keys/n/increment", r#"{"by":-5}"#).json(), json!({ "value": -4 }));
        assert_eq!(ask("DELETE", "/kv/items/keys/a", "").status, 204);
        ask("DELETE", "/kv/items/keys/a", "").problem(404, "not_found");
    }
}

#[test]
fn a_write_depends_on_what_is_there() {
    for guest in GUESTS {
        let app = format!("local-cas-{guest}");
        let (node, _app) = serve(&app, guest);
        let put = |more: &str, value: &str| raw(node, &app, request("PUT", "/kv/items/keys/a", more, value));
        put("if-none-match: *\r\n", "one").done();
        put("if-none-match: *\r\n", "two").problem(412, "precondition_failed");
        let etag = ask(node, &app, "GET", "/kv/items/keys/a", "").header("etag").unwrap().to_owned();
        let only_if = format!("if-match: {etag}\r\n");
        put(&only_if, "three").done();
        put(&only_if, "four").problem(412, "precondition_failed");
        raw(node, &app, request("DELETE", "/kv/items/keys/a", &only_if, "")).problem(412, "precondition_failed");
        assert_eq!(ask(node, &app, "GET", "/kv/items/keys/a", "").text(), "three");
        put("if-match: *\r\n", "five").problem(422, "invalid");
    }
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() {
    for guest in GUESTS {
        let app = format!("local-batch-{guest}");
        let (node, _app) = serve(&app, guest);
        let batch = |body: Value| post(node, &app, "/kv/items/batch", body);
        let writes = json!({ "write": [
            { "key": "a", "text": "one", "metadata": "m" },
            { "key": "b", "base64": "AP8=" },
            { "key": "c", "text": "gone" },
            { "key": "c", "delete": true },
        ] });
        batch(writes).done();
        let got = batch(json!({ "get": ["a", "b", "c"] })).json();
        assert_eq!((&got["entries"][0]["text"], &got["entries"][0]["metadata"]), (&json!("one"), &json!("m")));
        assert_eq!((&got["entries"][1]["base64"], &got["entries"][2]), (&json!("AP8="), &Value::Null));
        let refused = batch(json!({ "write": [{ "key": "d", "text": "x" }, { "key": "", "text": "x" }] }));
        refused.problem(422, "invalid");
        ask(node, &app, "GET", "/kv/items/keys/d", "").problem(404, "not_found");
        let many: Vec<_> = (0..1001).map(|n| format!("k{n}")).collect();
        assert!(batch(json!({ "get": many })).problem(422, "invalid").contains("more than 1000"));
        batch(json!({ "write": [{ "key": "a" }] })).problem(422, "invalid");
    }
}

#[test]
fn a_command_asks_its_database() {
    for guest in GUESTS {
        let app = format!("local-sql-{guest}");
        let (node, _app) = serve(&app, guest);
        let query = |body: Value| post(node, &app, "/sql/main/query", body);
        query(json!({ "sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, data BLOB, n REAL)" })).done();
        let inserted = query(json!({
            "sql": "INSERT INTO t (name, data, n) VALUES (?, ?, ?)",
            "params": ["Ada\n", { "base64": "AP8=" }, { "real": "inf" }],
        }));
        assert_eq!((&inserted.json()["changes"], &inserted.json()["last_insert_rowid"]), (&json!(1), &json!(1)));
        let found = query(json!({ "sql": "SELECT * FROM t WHERE id = ?", "params": [1], "read_only": true })).json();
        assert_eq!(found["columns"], json!(["id", "name", "data", "n"]));
        assert_eq!(found["rows"], json!([[1, "Ada\n", { "base64": "AP8=" }, { "real": "inf" }]]));
        // As the control API has it.
        let api = node.api("POST", &format!("/v1/apps/{app}/sql/main/query"), r#"{"sql":"SELECT * FROM t"}"#).json();
        assert_eq!(api["rows"], found["rows"]);

        let batch = |statements: Value| post(node, &app, "/sql/main/batch", json!({ "statements": statements }));
        let insert = json!({ "sql": "INSERT INTO t (id) VALUES (?)", "params": [7] });
        batch(json!([insert, insert])).problem(422, "invalid");
        assert_eq!(query(json!({ "sql": "SELECT count(*) FROM t" })).json()["rows"], json!([[1]]), "it was undone");
        let both = batch(json!([insert, { "sql": "SELECT id FROM t ORDER BY id" }])).json();
        assert_eq!(both["results"][1]["rows"], json!([[1], [7]]));
        assert!(query(json!({ "sql": "SELEKT" })).problem(422, "invalid").contains("syntax error"));
        query(json!({ "sql": "DELETE FROM t", "read_only": true })).problem(403, "not_granted");
    }
}

#[test]
fn a_command_streams_blobs_both_ways() {
    for guest in GUESTS {
        let app = format!("local-blob-{guest}");
        let (node, _app) = serve(&app, guest);
        let ask = |method: &str, target: &str, body: &[u8]| ask(node, &app, method, target, body);
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let fields = "content-type: image/png\r\nminnow-metadata: %7B%22by%22%3A%22Ada%22%7D\r\n";
        let put = raw(node, &app, request("PUT", "/blob/files/keys/a/b.png", fields, &content));
        assert_eq!((put.status, &put.json()["size"]), (201, &json!(3_000_000)), "{put:?}");
        let got = ask("GET", "/blob/files/keys/a/b.png", b"");
        assert_eq!((got.status, got.header("content-type")), (200, Some("image/png")));
        assert_eq!(got.header("minnow-metadata"), Some("%7B%22by%22%3A%22Ada%22%7D"));
        assert!(got.body == content, "{} bytes", got.body.len());

        let with = |method: &str, more: &str, body: &str| {
            raw(node, &app, request(method, "/blob/files/keys/a/b.png", more, body))
        };
        let part = with("GET", "range: bytes=1000000-1000009\r\n", "");
        assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000000-1000009/3000000")));
        assert_eq!(part.body, content[1_000_000..1_000_010]);
        assert_eq!(with("GET", "range: bytes=3000000-\r\n", "").status, 416);
        let etag = got.header("etag").unwrap();
        assert_eq!(with("GET", &format!("if-none-match: {etag}\r\n"), "").status, 304);
        with("PUT", "if-none-match: *\r\n", "other").problem(412, "precondition_failed");
        let head = with("HEAD", "", "");
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("3000000"), 0));

        // Nobody says how long it is.
        let chunked =
            b"PUT /blob/files/keys/c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
        raw(node, &app, chunked.to_vec()).done();
        let listed = ask("GET", "/blob/files/keys?delimiter=/", b"").json();
        assert_eq!((&listed["prefixes"], &listed["blobs"][0]["key"]), (&json!(["a/"]), &json!("c")));
        assert_eq!(listed["blobs"][0]["size"], 6);
        assert_eq!(ask("DELETE", "/blob/files/keys/c", b"").status, 204);
        ask("GET", "/blob/files/keys/c", b"").problem(404, "not_found");
    }
}

#[test]
fn locks_are_held_until_the_invocation_ends() {
    for guest in GUESTS {
        let app = format!("local-lock-{guest}");
        let (node, _app) = serve(&app, guest);
        let ask = |target: &str, body: Value| step("a", request("POST", target, "", body.to_string()));
        let acquire = || ask("/locks/job/acquire", json!({ "lease_ms": 60_000 }));
        let came = steps(node, &app, &[acquire(), acquire()]);
        let first = Answered::read(&came[0]).json()["token"].as_u64().unwrap();
        Answered::read(&came[1]).problem(409, "conflict");
        // That invocation is over, and did not release it.
        let came = steps(node, &app, &[acquire(), ask("/locks/job/release", json!({ "token": first }))]);
        let second = Answered::read(&came[0]).json()["token"].as_u64().unwrap();
        assert!(second > first, "tokens grow");
        Answered::read(&came[1]).problem(404, "not_found");
        let bad = raw(node, &app, request("POST", "/locks/job/acquire", "", r#"{"lease_ms":0}"#));
        bad.problem(422, "invalid");
    }
}

#[test]
fn a_command_renews_and_releases_its_lock() {
    for guest in GUESTS {
        let app = format!("local-renew-{guest}");
        let (node, _app) = serve(&app, guest);
        let ask = |call: &str, body: Value| {
            // The guest writes the token of its lock in the place of `TOKEN`: milliseconds, which have 13 digits.
            let body = body.to_string().replace("\"TOKEN\"", "TOKEN");
            let bytes = request("POST", &format!("/locks/a%2Fb/{call}"), "", body.replace("TOKEN", "0000000000000"));
            step("a", String::from_utf8(bytes).unwrap().replace("0000000000000", "TOKEN").into_bytes())
        };
        let (acquire, release) = (json!({ "lease_ms": 60_000 }), json!({ "token": "TOKEN" }));
        let came = steps(
            node,
            &app,
            &[
                ask("acquire", acquire.clone()),
                ask("renew", json!({ "token": "TOKEN", "lease_ms": 3_600_000 })),
                ask("release", release.clone()),
                ask("renew", json!({ "token": "TOKEN", "lease_ms": 60_000 })),
                ask("acquire", acquire),
                ask("release", release),
            ],
        );
        let came: Vec<_> = came.iter().map(|bytes| Answered::read(bytes)).collect();
        let (first, renewed) = (came[0].json(), came[1].json());
        assert_eq!(first["token"], renewed["token"]);
        let minute = first["expires_ms"].as_u64().unwrap() + 3_000_000;
        assert!(renewed["expires_ms"].as_u64().unwrap() > minute, "{first} {renewed}");
        assert_eq!((came[2].status, came[5].status), (204, 204));
        came[3].problem(404, "not_found");
        assert!(came[4].json()["token"].as_u64() > first["token"].as_u64());
    }
}

#[test]
fn a_lock_is_waited_for() {
    for guest in GUESTS {
        let app = format!("local-wait-{guest}");
        let (node, _app) = serve(&app, guest);
        let wait = json!({ "lease_ms": 60_000, "wait_ms": 60_000 });
        std::thread::scope(|scope| {
            // Each has it until its invocation ends.
            for _ in 0..4 {
                scope.spawn(|| post(node, &app, "/locks/job/acquire", wait.clone()).done());
            }
        });
    }
}

#[test]
fn what_is_not_granted_is_refused_in_words() {
    for guest in GUESTS {
        let app = format!("local-ro-{guest}");
        let reads = "kv = [\"items:ro\"]\nsql = [\"main:ro\"]\nblob = [\"files:ro\"]";
        let app_ = App::of_guest(&app, guest, reads).end(STORES);
        node().serve(&app_);
        let (node, ask) = (node(), |method: &str, target: &str, body: &str| ask(node(), &app, method, target, body));
        assert!(ask("GET", "/kv/others/keys/a", "").problem(403, "not_granted").contains("kv = [\"others\"]"));
        ask("GET", "/kv/items/keys/a", "").problem(404, "not_found");
        for (method, target, body) in [
            ("PUT", "/kv/items/keys/a", "x"),
            ("DELETE", "/kv/items/keys/a", ""),
            ("POST", "/kv/items/keys/a/increment", ""),
            ("POST", "/kv/items/batch", r#"{"write":[{"key":"a","text":"x"}]}"#),
            ("PUT", "/blob/files/keys/a", "x"),
            ("DELETE", "/blob/files/keys/a", ""),
            ("POST", "/sql/main/query", r#"{"sql":"CREATE TABLE t (a)"}"#),
            ("POST", "/sql/main/batch", r#"{"statements":[{"sql":"CREATE TABLE t (a)"}]}"#),
            ("POST", "/locks/a/acquire", r#"{"lease_ms":1000}"#),
            ("POST", "/sql/others/query", r#"{"sql":"SELECT 1"}"#),
            ("GET", "/blob/others/keys/a", ""),
        ] {
            let detail = ask(method, target, body).problem(403, "not_granted");
            assert!(!detail.is_empty(), "{method} {target}");
        }
        assert_eq!(ask("GET", "/kv/items/keys", "").json(), json!({ "keys": [], "cursor": null }));
        assert!(node.get(&app, "/").status == 200);
    }
}

#[test]
fn another_apps_store_is_reached_by_its_whole_name() {
    let owner = App::of_guest("local-owner", "cgi-c", "kv = [\"items\"]").end("[kv.items]\nshare = [\"local-guest\"]");
    node().serve(&owner);
    let guest = App::of_guest("local-guest", "cgi-component", "kv = [\"local-owner/items:ro\"]");
    node().serve(&guest);
    ask(node(), "local-owner", "PUT", "/kv/items/keys/a", "shared").done();
    assert_eq!(ask(node(), "local-guest", "GET", "/kv/local-owner%2Fitems/keys/a", "").text(), "shared");
    ask(node(), "local-guest", "PUT", "/kv/local-owner%2Fitems/keys/a", "x").problem(403, "not_granted");
}

#[test]
fn only_commands_that_were_granted_something_find_it() {
    let app = "local-none";
    let app_ = App::new(app)
        .function("core", "cgi-c", "routes = [\"/core/{*rest}\"]\nfiles = { data = \"/data\" }")
        .function("cgi", "cgi-component", "routes = [\"/cgi/{*rest}\"]")
        .function("http", "lab-p2", "routes = [\"/files\"]\nkv = [\"items\"]")
        .end("[kv.items]\n[files.data]");
    node().serve(&app_);
    let (core, cgi) = (node().post(app, "/core/http", "").text(), node().post(app, "/cgi/http", "").text());
    // What the libraries say of a folder that is none of theirs.
    assert_eq!((core.trim(), cgi.as_str()), ("Capabilities insufficient", "Uncategorized"));
    assert_eq!(node().get(app, "/files").json()["preopens"], json!(["/tmp"]));
}

#[test]
fn what_is_no_request_gets_a_400() {
    for guest in GUESTS {
        let app = format!("local-bad-{guest}");
        let (node, _app) = serve(&app, guest);
        let raw = |bytes: &[u8]| raw(node, &app, bytes.to_vec());
        assert_eq!(raw(b"rubbish\r\n\r\n").status, 400);
        assert_eq!(raw(&[0xff; 100_000]).status, 400);
        assert!(raw(b"").problem(400, "bad_request").contains("before the request was whole"));
        raw(b"GET /kv/items/keys/a HTTP/1.1\r\n").problem(400, "bad_request");
        raw(b"PUT /kv/items/keys/a HTTP/1.1\r\ncontent-length: 10\r\n\r\nshort").problem(400, "bad_request");
        raw(b"PUT /blob/files/keys/a HTTP/1.1\r\ncontent-length: 10\r\n\r\nshort").problem(400, "bad_request");
        raw(&request("GET", "/kv/items/keys/a", "", "a body")).problem(400, "bad_request");
        raw(&request("GET", "/kv/items/keys/%FF", "", "")).problem(400, "bad_request");
        raw(&request("GET", "/nothing", "", "")).problem(404, "no_route");
        let refused = raw(&request("PATCH", "/kv/items/keys/a", "", ""));
        refused.problem(405, "method_not_allowed");
        assert_eq!(refused.header("allow"), Some("GET, HEAD, PUT, DELETE"));
        raw(&request("PUT", "/kv/items/keys/a?expires=1", "", "x")).problem(422, "invalid");
        raw(&request("POST", "/sql/main/query", "", "{")).problem(422, "invalid");
        assert_eq!(
            raw(&request("GET", "/kv/items/keys/a", &format!("x: {}\r\n", "x".repeat(200_000)), "")).status,
            431
        );
        let fields = "x: y\r\n".repeat(200);
        assert_eq!(raw(&request("GET", "/kv/items/keys/a", &fields, "")).status, 431);
        // A second request on the same connection is nobody's.
        let twice = [request("PUT", "/kv/items/keys/b", "", "x"), request("PUT", "/kv/items/keys/c", "", "x")].concat();
        assert_eq!(raw(&twice).status, 204);
        ask(node, &app, "GET", "/kv/items/keys/c", "").problem(404, "not_found");
        ask(node, &app, "GET", "/kv/items/keys/a", "").problem(404, "not_found");
    }
}

#[test]
fn a_body_says_how_long_it_is() {
    for guest in GUESTS {
        let app = format!("local-length-{guest}");
        let (node, _app) = serve(&app, guest);
        ask(node, &app, "PUT", "/kv/items/keys/a", "precious").done();
        for target in ["PUT /kv/items/keys/a", "PUT /blob/files/keys/a", "POST /kv/items/keys/n/increment"] {
            for body in ["", "{\"by\":100}"] {
                let bytes = format!("{target} HTTP/1.1\r\nhost: minnow\r\n\r\n{body}").into_bytes();
                let detail = raw(node, &app, bytes).problem(400, "bad_request");
                assert!(detail.contains("`content-length`"), "{detail}");
            }
        }
        assert_eq!(ask(node, &app, "GET", "/kv/items/keys/a", "").text(), "precious");
        ask(node, &app, "GET", "/blob/files/keys/a", "").problem(404, "not_found");
        ask(node, &app, "GET", "/kv/items/keys/n", "").problem(404, "not_found");
        // Nothing is a length, too.
        ask(node, &app, "PUT", "/kv/items/keys/a", "").done();
        assert_eq!(ask(node, &app, "POST", "/kv/items/keys/n/increment", "").json(), json!({ "value": 1 }));
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_there() {
    for guest in GUESTS {
        let app = format!("local-large-{guest}");
        let (node, _app) = serve(&app, guest);
        let large = vec![b'x'; (25 << 20) + 1];
        let announced =
            node.send(&Request::get(&app, "/http").method("POST").body(request("PUT", "/kv/items/keys/a", "", &large)));
        if announced.status == 413 {
            // The gateway's own bound on bodies comes first.
            announced.problem(413, "request_too_large");
        } else {
            Answered::read(&announced.body).problem(413, "too_large");
        }
        let most = vec![b'x'; 1 << 20];
        ask(node, &app, "PUT", "/kv/items/keys/a", &most).done();
        assert!(ask(node, &app, "GET", "/kv/items/keys/a", "").body == most);
        let long = format!("/kv/items/keys/{}", "k".repeat(3000));
        ask(node, &app, "PUT", &long, "x").problem(422, "invalid");
        ask(node, &app, "POST", "/locks/a/acquire", "x".repeat(100_000)).problem(413, "too_large");
    }
}

#[test]
fn each_opening_is_a_connection_of_its_own() {
    for guest in GUESTS {
        let app = format!("local-two-{guest}");
        let (node, _app) = serve(&app, guest);
        ask(node, &app, "PUT", "/kv/items/keys/a", "one").done();
        ask(node, &app, "PUT", "/kv/items/keys/b", "two").done();
        let get = |key: &str| request("GET", &format!("/kv/items/keys/{key}"), "", "");
        let came = steps(
            node,
            &app,
            &[step("w", get("a")), step("w", get("b")), step("r", b"1".to_vec()), step("r", b"0".to_vec())],
        );
        assert_eq!((Answered::read(&came[2]).text(), Answered::read(&came[3]).text()), ("two".into(), "one".into()));
        // As many as there may be, and then as many again.
        for _ in 0..2 {
            let came = steps(node, &app, &[step("m", Vec::new()), step("m", Vec::new()), step("a", get("a"))]);
            let count = String::from_utf8(came[0].clone()).unwrap();
            assert!(count.starts_with("16 "), "{count}");
            assert_eq!(came[0], came[1]);
            assert_eq!(Answered::read(&came[2]).text(), "one");
        }
    }
}

#[test]
fn who_closes_early_leaves_nothing() {
    for guest in GUESTS {
        let app = format!("local-early-{guest}");
        let (node, _app) = serve(&app, guest);
        let half = |target: &str| {
            let head = format!("PUT {target} HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n").into_bytes();
            step("w", [head, vec![b'x'; 300_000]].concat())
        };
        let close = |number: &str| step("c", number.as_bytes().to_vec());
        let came = steps(node, &app, &[half("/blob/files/keys/a"), close("0"), half("/kv/items/keys/a"), close("1")]);
        assert!(came.iter().all(Vec::is_empty), "{came:?}");
        // Nor who ends without closing.
        steps(node, &app, &[half("/blob/files/keys/b"), half("/kv/items/keys/b")]);
        assert_eq!(ask(node, &app, "GET", "/blob/files/keys", "").json()["blobs"], json!([]));
        assert_eq!(ask(node, &app, "GET", "/kv/items/keys", "").json()["keys"], json!([]));
    }
}

#[test]
fn a_request_whose_answer_nobody_reads_holds_up_nobody() {
    let node = Node::start();
    let shared = "share = [\"idler-cgi-c\", \"idler-cgi-component\"]\n";
    let stores = format!("[kv.items]\n{shared}[sql.main]\n{shared}[blob.files]\n{shared}");
    node.serve(&App::of_guest("own", "cgi-c", "kv = [\"items\"]\nsql = [\"main\"]\nblob = [\"files\"]").end(&stores));
    raw(&node, "own", request("PUT", "/blob/files/keys/a", "", "one")).done();
    let slow =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT count(*) FROM n";
    let select = |target: &str| request("POST", target, "", json!({ "sql": slow, "read_only": true }).to_string());
    let lock = |name: &str, wait_ms: u64| {
        let body = json!({ "lease_ms": 3_600_000, "wait_ms": wait_ms }).to_string();
        request("POST", &format!("/locks/{name}/acquire"), "", body)
    };
    for guest in GUESTS {
        let idler = format!("idler-{guest}");
        let granted =
            "kv = [\"items\", \"own/items:ro\"]\nsql = [\"own/main:ro\"]\nblob = [\"own/files:ro\"]\nlocks = true";
        node.serve(&App::of_guest(&idler, guest, granted).end("[kv.items]\n[lock]\n"));
        let begun = |name: &str| step("a", request("PUT", &format!("/kv/items/keys/{name}-{guest}"), "", ""));
        // It waits for a lock that it has itself.
        let waits = |name: &str| [step("a", lock(name, 0)), step("a", lock(name, 3_600_000))];
        let lists = || (0..6).map(|_| step("w", request("GET", "/blob/own%2Ffiles/keys", "", "")));
        let selects = || (0..7).map(|_| step("w", select("/sql/own%2Fmain/query")));
        let idle = [
            lists().chain([begun("lists")]).chain(waits("lists")).collect::<Vec<_>>(),
            selects().chain([begun("selects")]).chain(waits("selects")).collect(),
        ];
        std::thread::scope(|scope| {
            let idlers = idle.map(|steps| {
                let all: Vec<u8> = steps.iter().flat_map(|step| step.iter().copied().chain([0])).collect();
                let get = Request::get(&idler, "/http/steps").method("POST").body(all);
                scope.spawn(|| {
                    let get = get;
                    node.open(&get).rest()
                })
            });
            for name in ["lists", "selects"] {
                let path = format!("/v1/apps/{idler}/kv/items/value?key={name}-{guest}");
                minnow_tests::until("the requests have been written", || node.api("GET", &path, "").status == 200);
            }
            for _ in 0..2 {
                assert_eq!(raw(&node, "own", request("GET", "/blob/files/keys", "", "")).status, 200);
                assert_eq!(raw(&node, "own", select("/sql/main/query")).json()["rows"], json!([[300_000]]));
                assert_eq!(raw(&node, "own", request("PUT", "/kv/items/keys/a", "", "one")).status, 204);
            }
            let still: Vec<bool> = idlers.iter().map(|idler| !idler.is_finished()).collect();
            assert_eq!(still, [true, true], "nobody had to wait until they ended");
            node.api("DELETE", &format!("/v1/apps/{idler}"), "");
        });
    }
}

#[test]
fn a_lock_that_nobody_looks_at_is_over_with_its_lease() {
    let node = Node::start();
    let lock = |lease_ms: u64| {
        let body = json!({ "lease_ms": lease_ms, "wait_ms": 3_600_000 }).to_string();
        request("POST", "/locks/job/acquire", "", body)
    };
    for guest in GUESTS {
        let app = format!("lease-{guest}");
        node.serve(&App::of_guest(&app, guest, "locks = true").end("[lock]\n"));
        // The second and third ask and do not look; the fourth is behind them.
        let all = [step("a", lock(200)), step("w", lock(200)), step("w", lock(200)), step("a", lock(200))];
        let came = steps(&node, &app, &all);
        let tokens = [&came[0], &came[3]].map(|came| Answered::read(came).json()["token"].as_u64().unwrap());
        assert!(tokens[0] < tokens[1], "{tokens:?}");
    }
}

#[test]
fn what_is_not_read_to_its_end_is_bounded() {
    let node = Node::start();
    for guest in GUESTS {
        let app = format!("local-unread-{guest}");
        node.serve(&App::of_guest(&app, guest, GRANTS).end(STORES));
        let content = vec![b'x'; 20 << 20];
        raw(&node, &app, request("PUT", "/blob/files/keys/a", "", &content)).done();
        raw(&node, &app, request("PUT", "/kv/items/keys/a", "", &content)).done();
        let statuses = |target: &str| {
            let begin = |n: u32| [step("w", request("GET", target, "", "")), step("s", n.to_string().into_bytes())];
            let begun: Vec<_> = (0..16).flat_map(begin).collect();
            let came = steps(&node, &app, &begun).into_iter().skip(1).step_by(2);
            came.map(|status| String::from_utf8(status).unwrap()).collect::<Vec<_>>()
        };
        let before = node.peak_rss_bytes();
        assert!(statuses("/blob/files/keys/a").iter().all(|status| status == "HTTP/1.1 200"));
        let more = node.peak_rss_bytes() - before;
        assert!(more < 64 << 20, "16 blobs of 20 MiB took {more} bytes");
        // A value is in memory as a whole, so there can be fewer.
        let values = statuses("/kv/items/keys/a");
        assert!(values[..6].iter().all(|status| status == "HTTP/1.1 200"), "{values:?}");
        assert!(values[6..].iter().all(|status| status == "HTTP/1.1 413"), "{values:?}");
        assert!(ask(&node, &app, "GET", "/kv/items/keys/a", "").body == content, "it was given back");
    }
}

#[test]
fn who_waits_for_nothing_ends_with_its_time() {
    let node = Node::start();
    let settings = format!("{GRANTS}\nlimits = {{ timeout = \"1s\" }}");
    for guest in GUESTS {
        let app = format!("local-timeout-{guest}");
        node.serve(&App::of_guest(&app, guest, &settings).end(STORES));
        let held = request("POST", "/locks/a/acquire", "", r#"{"lease_ms":3600000}"#);
        let waits = request("POST", "/locks/a/acquire", "", r#"{"lease_ms":1,"wait_ms":3600000}"#);
        let all = [step("a", held.clone()), vec![0], step("a", waits), vec![0]].concat();
        // Its answer had begun, so it breaks off.
        assert!(node.open(&Request::get(&app, "/http/steps").method("POST").body(all)).rest().is_err());
        // The lock went with it.
        raw(&node, &app, held).done();
    }
}

#[test]
fn a_large_blob_passes_in_little_memory() {
    const SIZE: usize = 200 << 20;
    let node = Node::start();
    let settings = format!("{GRANTS}\nlimits = {{ timeout = \"5m\", cpu = \"1m\", request_body = \"1GiB\" }}");
    for guest in GUESTS {
        let app = format!("local-stream-{guest}");
        node.serve(&App::of_guest(&app, guest, &settings).end(STORES));
        let before = node.peak_rss_bytes();
        let put = raw(&node, &app, request("PUT", "/blob/files/keys/a", "", vec![b'x'; SIZE]));
        assert_eq!(put.json()["size"], SIZE);
        let get = Request::get(&app, "/http").method("POST").body(request("GET", "/blob/files/keys/a", "", ""));
        let came = node.open(&get).drain().unwrap();
        assert!(came > SIZE as u64, "{came}");
        let more = node.peak_rss_bytes() - before;
        assert!(more < 64 << 20, "{SIZE} bytes took {more} bytes of memory");
    }
}

#[test]
fn the_file_is_found_and_is_no_file() {
    let app = "local-file";
    let (node, _app) = serve(app, "cgi-c");
    let files = "list /run/minnow\nsize /run/minnow/http\nread /run/minnow/http\nfill /run/minnow/http 5\nfill /run/minnow/other 5\n\
                 remove /run/minnow/http\nmkdir /run/minnow/folder\nrename /run/minnow/http /run/minnow/other\nresize /run/minnow/http 0\n";
    let came = node.post(app, "/files", files).text();
    let lines: Vec<&str> = came.lines().collect();
    let mut names: Vec<&str> = lines[0].split_whitespace().collect();
    names.sort_unstable();
    assert_eq!(names, [".", "..", "http"]);
    assert_eq!(&lines[1..4], ["0", "Permission denied", "Permission denied"]);
    assert!(lines[4..8].iter().all(|line| line.contains("not permitted")), "{came}");
    assert_eq!(lines[8], "Permission denied", "{came}");
    let came = steps(
        node,
        app,
        &[
            step("p", Vec::new()),
            step("f", b"r+".to_vec()),
            step("f", b"w+".to_vec()),
            step("f", b"r".to_vec()),
            step("f", b"a".to_vec()),
            step("f", b"w+x".to_vec()),
        ],
    );
    let came: Vec<_> = came.into_iter().map(|text| String::from_utf8(text).unwrap()).collect();
    assert_eq!(came[0], "-1 Invalid seek;-1 Invalid seek;-1 Operation not permitted;1 0 0");
    assert_eq!(&came[1..], ["ok", "ok", "Permission denied", "Permission denied", "File exists"]);
}

#[test]
fn a_component_opens_it_for_reading_and_writing() {
    let app = "local-modes";
    let (node, _app) = serve(app, "cgi-component");
    let modes = ["r+", "w+", "r", "w", "x"];
    let came = steps(node, app, &modes.map(|mode| step("f", mode.as_bytes().to_vec())));
    let came: Vec<_> = came.into_iter().map(|text| String::from_utf8(text).unwrap()).collect();
    assert_eq!(came, ["ok", "ok", "PermissionDenied", "PermissionDenied", "AlreadyExists"]);
}

#[test]
fn a_stream_of_c_reads_after_it_has_written() {
    let app = "local-stdio";
    let (node, _app) = serve(app, "cgi-c");
    let put = node.post(app, "/http/stdio", request("PUT", "/kv/items/keys/a", "", "one"));
    assert_eq!(Answered::read(&put.body).status, 204);
    for path in ["/http/stdio", "/http/stdio?seek"] {
        let got = node.post(app, path, request("GET", "/kv/items/keys/a", "", ""));
        assert_eq!(Answered::read(&got.body).text(), "one", "{path}");
    }
}
