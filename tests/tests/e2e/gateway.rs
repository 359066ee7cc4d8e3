//! HTTP from the outside: hosts, routes, static files, and clients that do not behave.

use std::{
    io::{ErrorKind, Read as _},
    thread,
    time::{Duration, Instant},
};

use minnow_tests::{App, Connection, Node, Request, eventually, http2, until, wasm};

/// An app whose functions say their own name.
fn speakers(name: &str, functions: &[(&str, &str)]) -> App {
    functions.iter().fold(App::new(name), |app, (function, routes)| {
        app.code(function, &format!("{function}.wasm"), &wasm::cgi(function), &format!("routes = [{routes}]"))
    })
}

#[test]
fn the_most_specific_route_wins() {
    let node = Node::shared();
    node.serve(&speakers(
        "routes",
        &[
            ("root", r#""/""#),
            ("rest", r#""/api/{*rest}""#),
            ("user", r#""/api/users/{id}""#),
            ("me", r#""/api/users/me""#),
            ("postme", r#""POST /api/users/me""#),
            ("only", r#""GET /only", "DELETE /only""#),
            ("deep", r#""/{a}/x/{b}""#),
        ],
    ));
    for (method, path, expected) in [
        ("GET", "/", "root"),
        ("GET", "/api", "rest"),
        ("GET", "/api/", "rest"),
        ("GET", "/api/a/b/c", "rest"),
        ("GET", "/api/users/7", "user"),
        ("GET", "/api/users/7/", "rest"),
        ("GET", "/api/users/me", "me"),
        ("POST", "/api/users/me", "postme"),
        ("PUT", "/api/users/me", "me"),
        ("GET", "/api/users/me?x=1", "me"),
        ("GET", "/only", "only"),
        ("GET", "/one/x/two", "deep"),
    ] {
        let answer = node.send(&Request::get("routes", path).method(method));
        assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{method} {path}");
    }
    node.get("routes", "/nothing").problem(404, "no_route");
    let not_allowed = node.send(&Request::get("routes", "/only").method("POST"));
    not_allowed.problem(405, "method_not_allowed");
    assert_eq!(not_allowed.header("allow"), Some("DELETE, GET, HEAD"));
    let head = node.send(&Request::get("routes", "/only").method("HEAD"));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn the_host_names_the_app() {
    let node =
        Node::builder().argument("--domain").argument("apps.example.org").argument("--default-app").argument("main");
    let node = node.start();
    node.serve(&speakers("main", &[("main", "\"/\"")]));
    node.serve(&speakers("other", &[("other", "\"/\"")]));
    for (host, expected) in [
        ("main.localhost", "main"),
        ("other.localhost", "other"),
        ("OTHER.LocalHost:7700", "other"),
        ("other.apps.example.org", "other"),
        ("other.apps.example.org.", "other"),
        ("apps.example.org", "main"),
        ("127.0.0.1:7700", "main"),
        ("localhost:80", "main"),
        ("[::1]:80", "main"),
        ("somewhere.else.org", "main"),
    ] {
        let answer = node.send(&Request::get(host, "/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{host}");
    }
    node.get("unknown", "/").problem(404, "unknown_app");
    node.send(&Request::get("unknown.apps.example.org", "/")).problem(404, "unknown_app");
    // A function's own address is the one that the API tells.
    assert!(node.status("other")["url"].as_str().unwrap().starts_with("http://other.apps.example.org:"));
}

#[test]
fn without_a_default_app_a_bare_host_has_nothing() {
    let node = Node::shared();
    for host in ["127.0.0.1:80", "localhost:80", "example.org"] {
        node.send(&Request::get(host, "/")).problem(404, "unknown_app");
    }
}

fn site(name: &str) -> App {
    App::of_guest(name, "lab-p2", "")
        .file("public/index.html", "<h1>home</h1>")
        .file("public/docs/index.html", "docs")
        .file("public/a b.txt", "space")
        .file("public/style.css", "body {}")
        .file("public/digits.txt", "0123456789")
        .file("public/big.bin", (0..300_000u32).map(|n| n as u8).collect::<Vec<u8>>())
        .file("public/.secret", "not for everybody")
        .file("public/.well-known/security.txt", "for everybody")
        .end("[static]\n\"/\" = \"public\"")
}

#[test]
fn static_files_are_served_without_a_function() {
    let node = Node::shared();
    node.serve(&site("files"));
    for (path, content_type, body) in [
        ("/", "text/html; charset=utf-8", "<h1>home</h1>"),
        ("/index.html", "text/html; charset=utf-8", "<h1>home</h1>"),
        ("/docs/", "text/html; charset=utf-8", "docs"),
        ("/a%20b.txt", "text/plain; charset=utf-8", "space"),
        ("/style.css", "text/css; charset=utf-8", "body {}"),
        ("/.well-known/security.txt", "text/plain; charset=utf-8", "for everybody"),
    ] {
        let answer = node.get("files", path);
        assert_eq!(answer.ok(), body, "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    // What is no file goes on to the function, and what is none of its paths is its 404.
    assert_eq!(node.get("files", "/hello").ok(), "Hello, World!\n");
    assert_eq!(node.get("files", "/.secret").status, 404);
    until("both calls of the function have ended", || node.count("files", "running") == 0);
    assert!(node.metric("minnow_static_requests_total", &["status=\"2xx\""]) >= 6.0);
}

#[test]
fn a_static_file_is_not_sent_twice_to_a_client_that_has_it() {
    let node = Node::shared();
    node.serve(&site("etag"));
    let first = node.get("etag", "/digits.txt");
    let etag = first.header("etag").unwrap().to_owned();
    let conditional = |value: &str| {
        let request = Request::get("etag", "/digits.txt").header("if-none-match", value);
        node.send(&request)
    };
    let again = conditional(&etag);
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag.as_str())));
    assert_eq!(conditional("\"other\"").status, 200);
    assert_eq!(conditional("*").status, 304);
    assert_eq!(conditional(&format!("\"other\", W/{etag}")).status, 304);
}

#[test]
fn part_of_a_static_file_can_be_asked_for() {
    let node = Node::shared();
    node.serve(&site("range"));
    let range = |path: &str, range: &str| node.send(&Request::get("range", path).header("range", range));
    for (asked, body, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=5-99", "56789", "bytes 5-9/10"),
    ] {
        let answer = range("/digits.txt", asked);
        assert_eq!((answer.status, answer.text().as_str()), (206, body), "{asked}");
        assert_eq!(answer.header("content-range"), Some(content_range), "{asked}");
    }
    let beyond = range("/digits.txt", "bytes=10-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    assert_eq!(range("/digits.txt", "lines=1-2").status, 200);
    let piece = range("/big.bin", "bytes=65000-70000");
    assert_eq!(piece.body, (65_000..=70_000u32).map(|n| n as u8).collect::<Vec<u8>>());
    assert_eq!(node.get("range", "/big.bin").body.len(), 300_000);
}

#[test]
fn a_static_file_can_only_be_read() {
    let node = Node::shared();
    let app = App::new("readonly").file("public/a.txt", "a").file("public/docs/index.html", "docs");
    node.serve(&app.end("[static]\n\"/files\" = \"public\""));
    let folder = node.get("readonly", "/files/docs?a=1");
    assert_eq!((folder.status, folder.header("location")), (307, Some("/files/docs/?a=1")));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = node.send(&Request::get("readonly", "/files/a.txt").method(method).body("x"));
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    let head = node.send(&Request::get("readonly", "/files/a.txt").method("HEAD"));
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1"), 0));
    for path in ["/a.txt", "/files/../minnow.toml", "/files/%2e%2e/minnow.toml", "/files//a.txt", "/files/a.txt/"] {
        node.get("readonly", path).problem(404, "no_route");
    }
}

/// Sends bytes, and gives the status of the answer; 0 where there is none.
fn status_of(node: &Node, bytes: &[u8]) -> u16 {
    let mut connection = node.connect();
    // The server may have closed by then.
    let _ = connection.write(bytes);
    connection.response(false).map_or(0, |response| response.status)
}

#[test]
fn malformed_requests_are_refused() {
    let node = Node::shared();
    node.serve(&App::of_guest("malformed", "lab-p2", ""));
    let host = "Host: malformed.localhost\r\n";
    for (what, message, allowed) in [
        ("no HTTP at all", "GARBAGE\r\n\r\n".to_owned(), &[400][..]),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), &[400]),
        ("two hosts", format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), &[400]),
        ("a host that is none", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), &[400]),
        ("credentials in the host", "GET / HTTP/1.1\r\nHost: u@malformed.localhost\r\n\r\n".into(), &[400]),
        ("a space in a header's name", format!("GET / HTTP/1.1\r\n{host}a b: c\r\n\r\n"), &[400]),
        ("a line break in a value", format!("GET / HTTP/1.1\r\n{host}a: b\rc\r\n\r\n"), &[400]),
        ("a NUL", format!("GET /\0 HTTP/1.1\r\n{host}\r\n"), &[400]),
        ("an unknown version", format!("GET / HTTP/7.3\r\n{host}\r\n"), &[400, 505]),
        ("a length that is no number", format!("POST /count HTTP/1.1\r\n{host}Content-Length: x\r\n\r\n"), &[400]),
        ("a negative length", format!("POST /count HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n"), &[400]),
        (
            "two lengths",
            format!("POST /count HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            &[400],
        ),
        ("an unknown coding", format!("POST /count HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n"), &[400, 501]),
        ("CONNECT", format!("CONNECT a:1 HTTP/1.1\r\n{host}\r\n"), &[400, 405]),
    ] {
        let status = status_of(node, message.as_bytes());
        assert!(allowed.contains(&status), "{what}: {status}");
    }
    // RFC 9112 section 6.3: of both, the coding counts, and no second request hides in the body.
    let smuggled = "GET /panic HTTP/1.1\r\nHost: malformed.localhost\r\n\r\n";
    let message = format!(
        "POST /echo HTTP/1.1\r\n{host}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        5 + smuggled.len()
    );
    let mut connection = node.connect();
    connection.write(message.as_bytes()).unwrap();
    connection.finish_writing().unwrap();
    let all = String::from_utf8_lossy(&connection.read_to_end().unwrap()).into_owned();
    assert!(all.matches("HTTP/1.1").count() <= 1 || !all.contains("Hello"), "{all}");
    node.get("malformed", "/hello").ok();
}

#[test]
fn a_broken_chunk_fails_only_its_request() {
    let node = Node::shared();
    node.serve(&App::of_guest("chunk", "lab-p2", ""));
    let mut connection = node.connect();
    let head = Request::get("chunk", "/count").method("POST").header("transfer-encoding", "chunked");
    connection.write_head(&head).unwrap();
    connection.write(b"5\r\nhello\r\nnot a size\r\n").unwrap();
    // The guest sees its body break off; the client may get that as an answer, or be cut off.
    if let Ok(answer) = connection.response(false).and_then(|response| response.rest()) {
        assert!(answer.status >= 400 || !answer.json()["error"].is_null(), "{answer:?} {}", answer.text());
    }
    until("it has ended", || node.count("chunk", "running") == 0);
    node.get("chunk", "/hello").ok();
}

#[test]
fn headers_that_are_too_large_are_refused() {
    let node = Node::shared();
    node.serve(&App::of_guest("large", "lab-p2", ""));
    // 32 KiB pass: long tokens of single sign-on.
    node.send(&Request::get("large", "/hello").header("authorization", &"t".repeat(32 * 1024))).ok();
    let large = format!("GET /hello HTTP/1.1\r\nHost: large.localhost\r\nx: {}\r\n\r\n", "x".repeat(80 * 1024));
    assert_eq!(status_of(node, large.as_bytes()), 431);
    let many: String = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET /hello HTTP/1.1\r\nHost: large.localhost\r\n{many}\r\n");
    assert_eq!(status_of(node, many.as_bytes()), 431);
    let long = format!("GET /{} HTTP/1.1\r\nHost: large.localhost\r\n\r\n", "x".repeat(80 * 1024));
    assert!([414, 431].contains(&status_of(node, long.as_bytes())));
    node.get("large", "/hello").ok();
}

#[test]
fn a_client_that_sends_its_headers_too_slowly_is_cut_off() {
    let node = Node::shared();
    node.serve(&App::of_guest("slow", "lab-p2", ""));
    let begun = Instant::now();
    let silent = Connection::open(node.http).unwrap();
    let trickle = |before: &'static str| {
        let mut connection = Connection::open(Node::shared().http).unwrap();
        connection.write(before.as_bytes()).unwrap();
        connection.write(b"GET /hello HTTP/1.1\r\nHost: slow.localhost\r\nx-slow: ").unwrap();
        let mut reader = connection.writer();
        // A byte now and then keeps an idle timeout from noticing; between two of them it is watched whether the server closes.
        reader.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        until("the server closes", || {
            let sent = connection.write(b"x");
            let is_open = match reader.read(&mut [0; 256]) {
                Ok(length) => length > 0,
                Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            };
            sent.is_err() || !is_open
        });
    };
    // Also after a request whose body nobody read.
    let ignored = "POST /hello HTTP/1.1\r\nHost: nobody.localhost\r\ncontent-length: 4\r\n\r\nbody";
    let trickles = ["", ignored].map(|before| thread::spawn(move || trickle(before)));
    // Meanwhile others are served.
    while begun.elapsed() < Duration::from_secs(3) {
        node.get("slow", "/hello").ok();
    }
    for trickle in trickles {
        trickle.join().unwrap();
    }
    // Nor may a client connect and say nothing. An idle connection would stay longer than anybody here waits.
    assert_eq!(silent.read_to_end().unwrap(), b"");
}

#[test]
fn a_body_that_ends_early_fails_only_its_request() {
    let node = Node::shared();
    node.serve(&App::of_guest("half", "lab-p2", ""));
    let mut connection = node.connect();
    let head = Request::get("half", "/count").method("POST").header("content-length", "1000");
    connection.write_head(&head).unwrap();
    connection.write(b"half of it").unwrap();
    connection.finish_writing().unwrap();
    if let Ok(answer) = connection.response(false).and_then(|response| response.rest()) {
        assert!(answer.status >= 400 || !answer.json()["error"].is_null(), "{answer:?} {}", answer.text());
    }
    until("it has ended", || node.count("half", "running") == 0);
    node.get("half", "/hello").ok();
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let node = Node::shared();
    node.serve(&App::of_guest("keep", "lab-p2", ""));
    let mut connection = node.connect();
    for path in ["/hello", "/status?code=404", "/panic", "/count", "/download?bytes=100000", "/hello"] {
        let method = if path == "/count" { "POST" } else { "GET" };
        let request = Request::get("keep", path).method(method);
        let (_, kept) = connection.exchange(&request).unwrap().rest_and_connection().unwrap();
        connection = kept;
    }
    // Two requests in one packet are answered in their order.
    let one = "GET /status?code=201 HTTP/1.1\r\nHost: keep.localhost\r\n\r\n";
    let two = "GET /status?code=202 HTTP/1.1\r\nHost: keep.localhost\r\n\r\n";
    connection.write(format!("{one}{two}").as_bytes()).unwrap();
    let (first, connection) = connection.response(false).unwrap().rest_and_connection().unwrap();
    let second = connection.response(false).unwrap().rest().unwrap();
    assert_eq!((first.status, second.status), (201, 202));
}

#[test]
fn a_body_is_asked_for_before_it_is_sent_where_the_client_waits() {
    let node = Node::shared();
    node.serve(&App::of_guest("expect", "lab-p2", "limits = { request_body = \"1KiB\" }"));
    let expecting = |length: &str| {
        let mut connection = node.connect();
        let head = Request::get("expect", "/count").method("POST").header("content-length", length);
        connection.write_head(&head.header("expect", "100-continue")).unwrap();
        connection
    };
    // One that is too long is refused before it is sent.
    expecting("2000").response(false).unwrap().rest().unwrap().problem(413, "request_too_large");
    let mut connection = expecting("4");
    connection.write(b"body").unwrap();
    assert_eq!(connection.response(false).unwrap().rest().unwrap().json()["bytes"], 4);
}

#[test]
fn more_connections_than_the_node_takes_are_closed() {
    let node = Node::builder().config("[gateway]\nmax_connections = 10").start();
    node.serve(&App::of_guest("conn", "lab-p2", ""));
    until("no connection is open", || node.metric("minnow_connections", &[]) == 0.0);
    let hello = Request::get("conn", "/hello");
    // On a very busy machine the first of them may be closed for being idle before the last one is open; then once more.
    let held = eventually("ten are served, and an eleventh is not", || {
        let open = || node.connect().exchange(&hello).and_then(minnow_tests::Exchange::rest_and_connection).ok();
        let held: Option<Vec<_>> = (0..10).map(|_| open()).collect();
        held.filter(|_| open().is_none())
    });
    assert!(held.iter().all(|(answer, _)| answer.status == 200));
    drop(held);
    until("there is room again", || {
        node.connect().exchange(&Request::get("conn", "/hello")).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn an_http2_response_counts_until_its_client_has_taken_it() {
    let node = Node::builder().config("[gateway]\nmax_connections = 3").start();
    let app = App::new("late").file("public/a.txt", "static");
    node.serve(&app.end("[static]\n\"/\" = \"public\""));
    // Each response has ended for the node before the next request comes.
    let answers = http2::take_late(node.http, "late.localhost", "/a.txt", 4);
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 503], "{answers:?}");
    assert_eq!(answers[0].1, "static");
    assert!(answers[3].1.contains("node_overloaded"), "{answers:?}");
    until("there is room again", || http2::get_all(node.http, "late.localhost", &["/a.txt"])[0].0 == 200);
}
