//! Buckets without a function: signed URLs, which the gateway serves, and the operator's side, by the API and the command line.

use std::{fs, io::Write as _, path::Path, process::Stdio, thread};

use minnow_model::digest::Digester;
use minnow_tests::{Answer, App, Connection, Node, Request, eventually, until, wasm};
use serde_json::{Value, json};

/// An app with the bucket `uploads`, of `size`, whose function answers `ok` to everything.
fn app(name: &str, size: &str) -> App {
    App::new(name)
        .code("web", "a.wasm", &wasm::cgi("ok"), "routes = [\"/{*rest}\"]\nblob = [\"uploads\"]")
        .end(&format!("[blob.uploads]\nsize = \"{size}\""))
}

/// The path and query of a signed URL.
#[track_caller]
fn sign(node: &Node, app: &str, request: &Value) -> String {
    let answer = node.api("POST", &format!("/v1/apps/{app}/blob/uploads/sign"), request.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let signed = answer.json();
    let (url, path) = (signed["url"].as_str().unwrap(), signed["path"].as_str().unwrap());
    assert!(url.ends_with(path) && url.starts_with(&format!("http://{app}.localhost:")), "{signed}");
    path.to_owned()
}

fn put(node: &Node, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    node.send(&Request::get(app, path).method("PUT").body(body))
}

/// What a problem says about this case.
#[track_caller]
fn detail(answer: &Answer, status: u16, code: &str) -> String {
    answer.problem(status, code);
    answer.json()["detail"].as_str().unwrap_or_default().to_owned()
}

/// Content of so many bytes that is the same nowhere.
fn content(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).take(bytes).collect()
}

fn sha256(content: &[u8]) -> String {
    let mut digester = Digester::default();
    digester.update(content);
    digester.finish().hex()
}

#[test]
fn a_signed_url_takes_and_gives_a_blob_without_a_function() {
    let node = Node::shared();
    node.serve(&app("signed", "64MiB"));
    let key = "folder/ä b&c%2Fd.bin";
    let content = content(3_000_000);
    let upload = sign(node, "signed", &json!({"key": key, "method": "PUT", "expires_s": 60}));
    let download = sign(node, "signed", &json!({"key": key, "expires_s": 60}));
    node.get("signed", &download).problem(404, "not_found");

    let answer = node.send(
        &Request::get("signed", &upload)
            .method("PUT")
            .header("content-type", "text/html")
            .header("content-disposition", "attachment")
            .header("cache-control", "no-cache")
            .body(content.clone()),
    );
    assert_eq!((answer.status, answer.body.len()), (201, 0), "{}", answer.text());
    let etag = format!("\"{}\"", sha256(&content));
    assert_eq!(answer.header("etag"), Some(&*etag));

    let whole = node.get("signed", &download);
    assert_eq!(whole.status, 200);
    assert!(whole.body == content);
    for (name, expected) in [
        ("etag", Some(&*etag)),
        ("content-length", Some("3000000")),
        ("content-type", Some("text/html")),
        ("content-disposition", Some("attachment")),
        ("cache-control", Some("private, max-age=0, must-revalidate")),
        ("accept-ranges", Some("bytes")),
        ("content-security-policy", Some("sandbox")),
        ("x-content-type-options", Some("nosniff")),
        ("content-range", None),
    ] {
        assert_eq!(whole.header(name), expected, "{name}");
    }

    let get = |method: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get("signed", &download).method(method);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        node.send(&request)
    };
    let part = get("GET", &[("range", "bytes=1000000-1999999")]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000000-1999999/3000000")));
    assert!(part.body == content[1_000_000..2_000_000]);
    let part = get("GET", &[("range", "bytes=-5"), ("if-range", &etag)]);
    assert_eq!((part.status, &*part.body), (206, &content[2_999_995..]));
    let part = get("GET", &[("range", "bytes=3000000-")]);
    assert_eq!((part.status, part.header("content-range"), part.body.len()), (416, Some("bytes */3000000"), 0));
    let same = get("GET", &[("if-none-match", &etag)]);
    assert_eq!((same.status, same.header("etag"), same.body.len()), (304, Some(&*etag), 0));
    assert_eq!(get("GET", &[("if-match", "\"other\"")]).status, 412);
    let head = get("HEAD", &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("3000000"), 0));

    // Replaced, and only as the client expects.
    let replace = |name: &str, value: &str| {
        node.send(&Request::get("signed", &upload).method("PUT").header(name, value).body("new"))
    };
    replace("if-none-match", "*").problem(412, "precondition_failed");
    replace("if-match", "\"other\"").problem(412, "precondition_failed");
    assert!(node.get("signed", &download).body == content);
    assert_eq!(replace("if-match", &etag).status, 201);
    let new = node.get("signed", &download);
    assert_eq!((new.body.as_slice(), new.header("content-type")), (&b"new"[..], Some("application/octet-stream")));
    // An empty one.
    assert_eq!(put(node, "signed", &upload, "").status, 201);
    let empty = node.get("signed", &download);
    assert_eq!((empty.status, empty.header("content-length"), empty.body.len()), (200, Some("0"), 0));

    node.cli().ok(["blob", "delete", "signed/uploads", key]);
    node.get("signed", &download).problem(404, "not_found");
    // Other paths are the app's.
    assert_eq!(node.get("signed", "/other").ok(), "ok");
    node.get("signed", "/.minnow/other").problem(404, "no_route");
    assert!(node.metric("minnow_blob_requests_total", &["status=\"2xx\""]) >= 4.0);
}

#[test]
fn a_signed_url_is_for_what_was_signed_and_nothing_else() {
    let node = Node::shared();
    node.serve(&app("bound", "64MiB"));
    node.serve(&app("bound-other", "64MiB"));
    let cli = node.cli();
    assert_eq!(cli.run_with(["blob", "put", "bound/uploads", "a"], b"secret").code(), 0);
    let download = sign(node, "bound", &json!({"key": "a", "expires_s": 3600}));
    let upload = sign(
        node,
        "bound",
        &json!({"key": "a", "method": "PUT", "expires_s": 3600, "max_size": 10, "content_type": "image/png"}),
    );
    // The same, whether there is something or not: nothing is told of what is there.
    let refuse = |what: &str, answer: Answer| assert_eq!(detail(&answer, 403, "signature_invalid"), "", "{what}");
    refuse("another app", node.get("bound-other", &download));
    refuse("another key", node.get("bound", &download.replace("/a?", "/b?")));
    refuse("another bucket", node.get("bound", &download.replace("/uploads/", "/other/")));
    refuse("no parameters", node.get("bound", "/.minnow/blob/uploads/a"));
    refuse("no key", node.get("bound", "/.minnow/blob/uploads"));
    refuse("a later end", node.get("bound", &download.replace("expires=1", "expires=2")));
    refuse("more parameters", node.get("bound", &format!("{download}&x=1")));
    refuse("an upload with the URL of a download", put(node, "bound", &download, "x"));
    refuse("a download with that of an upload", node.get("bound", &upload));
    refuse("a deletion", node.send(&Request::get("bound", &download).method("DELETE")));
    refuse("a larger size", put(node, "bound", &upload.replace("max-size=10", "max-size=11"), "x"));
    let typed = |content_type: &str, body: &str| {
        let request = Request::get("bound", &upload).method("PUT").header("content-type", content_type);
        node.send(&request.body(body))
    };
    let text = detail(&typed("text/html", "x"), 403, "signature_invalid");
    assert!(text.contains("content-type: image/png"), "{text}");
    refuse("of what is not there", node.get("bound", "/.minnow/blob/uploads/nothing?expires=1&signature=00"));

    // Too large by its length, and where that is not known.
    typed("image/png", "12345678901").problem(413, "too_large");
    let mut connection = node.connect();
    let head = format!(
        "PUT {upload} HTTP/1.1\r\nhost: bound.localhost\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.write(head.as_bytes()).unwrap();
    connection.write(b"6\r\n123456\r\n5\r\n78901\r\n0\r\n\r\n").unwrap();
    connection.response(false).unwrap().rest().unwrap().problem(413, "too_large");
    assert_eq!(node.get("bound", &download).body, b"secret", "nothing was changed");
    assert_eq!(typed("image/png", "1234567890").status, 201);
    // A client that names no type agrees with what was signed.
    assert_eq!(put(node, "bound", &upload, "x").status, 201);
    let got = node.get("bound", &download);
    assert_eq!((got.header("content-type"), &*got.body), (Some("image/png"), &b"x"[..]));

    let soon = sign(node, "bound", &json!({"key": "a", "expires_s": 1}));
    until("it expires", || node.get("bound", &soon).status != 200);
    node.get("bound", &soon).problem(403, "signature_expired");

    for (request, expected) in [
        (json!({"key": "a", "expires_s": 0}), "1 second to 7 days"),
        (json!({"key": "a", "expires_s": 604_801}), "1 second to 7 days"),
        (json!({"key": "", "expires_s": 1}), "1 to 1024 bytes"),
        (json!({"key": "..", "expires_s": 1}), "cannot stand in a URL"),
        (json!({"key": "a", "expires_s": 1, "max_size": 1}), "only for uploads"),
    ] {
        let answer = node.api("POST", "/v1/apps/bound/blob/uploads/sign", request.to_string());
        let text = detail(&answer, 422, "invalid");
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn pages_of_other_origins_use_signed_urls_where_the_manifest_lets_them() {
    const PAGE: &str = "https://app.example";
    let node = Node::shared();
    let buckets = "[blob.uploads]\ncors = [\"https://app.example\"]\n[blob.open]\ncors = [\"*\"]\n[blob.closed]";
    let app = App::new("cors").function("web", "data-p2", "blob = [\"uploads\"]").end(buckets);
    node.serve(&app);
    let url = |bucket: &str, arguments: &[&str]| {
        let store = format!("cors/{bucket}");
        let signed = node.cli().json([&["blob", "sign", store.as_str(), "a b", "--json"], arguments].concat());
        signed["path"].as_str().unwrap().to_owned()
    };
    let preflight = |path: &str, origin: &str, method: &str| {
        let request = Request::get("cors", path).method("OPTIONS").header("origin", origin);
        let request = request.header("access-control-request-method", method);
        node.send(&request.header("access-control-request-headers", "content-type"))
    };
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    // As a browser does it: asks first, puts, and reads what came of it.
    let (put, get) = (url("uploads", &["--put", "--max-size", "1KiB"]), url("uploads", &[]));
    let asked = preflight(&put, PAGE, "PUT");
    assert_eq!((asked.status, allowed(&asked).as_deref()), (204, Some(PAGE)), "{asked:?}");
    assert_eq!(asked.header("access-control-allow-methods"), Some("PUT"));
    assert!(asked.header("access-control-allow-headers").unwrap().contains("content-type"), "{asked:?}");
    assert_eq!(asked.header("vary"), Some("origin"));
    let from = |path: &str, origin: &str| Request::get("cors", path).header("origin", origin);
    let answer = node.send(&from(&put, PAGE).method("PUT").header("content-type", "text/plain").body("hello"));
    assert_eq!((answer.status, allowed(&answer).as_deref()), (201, Some(PAGE)), "{answer:?}");
    assert!(answer.header("access-control-expose-headers").unwrap().contains("etag"), "{answer:?}");
    let answer = node.send(&from(&get, PAGE).header("range", "bytes=0-3"));
    assert_eq!((answer.status, answer.text().as_str(), allowed(&answer).as_deref()), (206, "hell", Some(PAGE)));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("content-range"), "{answer:?}");
    // Also why it was refused.
    let answer = node.send(&from(&put, PAGE).method("PUT").body(vec![0; 2000]));
    assert_eq!((answer.status, allowed(&answer).as_deref()), (413, Some(PAGE)), "{answer:?}");
    // Not for others: of another origin, without a signature, for what was not signed; nor for other buckets.
    for (path, origin, method, status) in [
        (&put, "https://evil.example", "PUT", 405),
        (&put, "null", "PUT", 405),
        (&put, PAGE, "GET", 403),
        (&put.replace("expires=", "expires=1"), PAGE, "PUT", 403),
        (&url("closed", &["--put"]), PAGE, "PUT", 405),
    ] {
        let answer = preflight(path, origin, method);
        assert_eq!((answer.status, allowed(&answer)), (status, None), "{path} {origin} {method}: {answer:?}");
    }
    let answer = node.send(&from(&get, "https://evil.example"));
    assert_eq!((answer.status, allowed(&answer), answer.header("vary")), (200, None, Some("origin")), "{answer:?}");
    let answer = node.send(&from(&url("open", &["--put"]), "https://any.example").method("PUT").body("x"));
    assert_eq!((answer.status, allowed(&answer).as_deref()), (201, Some("*")), "{answer:?}");
    // What is no origin is no manifest.
    let bad = App::new("cors-bad").end("[blob.uploads]\ncors = [\"https://app.example/\"]");
    node.cli().in_dir(bad.path()).fails(["publish"]).says(&["not an origin", "leave the path out"]);
}

#[test]
fn a_signed_url_outlives_a_rotation_of_the_key_and_a_restart_but_not_its_bucket() {
    let node = Node::start();
    node.serve(&app("life", "64MiB"));
    assert_eq!(node.cli().run_with(["blob", "put", "life/uploads", "a"], b"here").code(), 0);
    let old = sign(&node, "life", &json!({"key": "a", "expires_s": 3600}));
    node.cli().ok(["secret", "rotate"]);
    let new = sign(&node, "life", &json!({"key": "a", "expires_s": 3600}));
    assert_eq!((node.get("life", &old).ok(), node.get("life", &new).ok()), ("here".into(), "here".into()));
    let node = node.kill_and_restart();
    assert_eq!((node.get("life", &old).ok(), node.get("life", &new).ok()), ("here".into(), "here".into()));

    let without = App::new("life").code("web", "a.wasm", &wasm::cgi("ok"), "routes = [\"/{*rest}\"]").top("");
    let cli = node.cli().in_dir(without.path());
    cli.ok(["publish", "0.2.0"]);
    cli.ok(["deploy", "0.2.0"]);
    node.get("life", &new).problem(403, "signature_invalid");
    cli.fails(["blob", "sign", "life/uploads", "a"]).says(&["409 conflict", "[blob.uploads]"]);
    // What is in it is still there for the operator.
    assert_eq!(cli.ok(["blob", "get", "life/uploads", "a"]), "here");
    cli.ok(["rollback"]);
    assert_eq!(node.get("life", &new).ok(), "here");

    cli.ok(["delete", "life", "--yes", "--data", "purge"]);
    node.get("life", &new).problem(404, "unknown_app");
    node.serve(&app("life", "64MiB"));
    node.get("life", &new).problem(404, "not_found");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing_and_one_that_is_too_much_is_refused() {
    let node = Node::start();
    node.serve(&app("broken", "16MiB"));
    let upload = sign(&node, "broken", &json!({"key": "a", "method": "PUT", "expires_s": 3600}));
    let objects = node.data_dir().join("blob/default/broken/uploads.objects");
    let files = || count_files(&objects);
    let begin = |length: usize, sent: &[u8]| {
        let mut connection = node.connect();
        let head = format!("PUT {upload} HTTP/1.1\r\nhost: broken.localhost\r\ncontent-length: {length}\r\n\r\n");
        connection.write(head.as_bytes()).unwrap();
        connection.write(sent).unwrap();
        connection
    };
    let half: Connection = begin(8 << 20, &vec![1; 4 << 20]);
    until("half of it lies there", || files() == 1);
    drop(half);
    until("nothing is left", || files() == 0);
    node.cli().fails(["blob", "get", "broken/uploads", "a", "x"]).says(&["404 not_found"]);

    let answer = put(&node, "broken", &upload, vec![1; (16 << 20) + 1]);
    answer.problem(507, "storage_full");
    until("nothing is left", || files() == 0);
    node.send(&Request::get("broken", &upload).method("PUT").header("content-type", "t\u{e4}xt").body("x"))
        .problem(400, "bad_request");
    assert_eq!(put(&node, "broken", &upload, vec![1; 600_000]).status, 201);
    assert_eq!(files(), 1);

    // An upload of which the app is deleted meanwhile holds the deletion up, and its data goes with the rest.
    let half = begin(8 << 20, &vec![1; 4 << 20]);
    until("half of it lies there", || files() == 2);
    let ran = node.cli().run(["delete", "broken", "--yes", "--data", "purge"]);
    assert_eq!(ran.code(), 0, "{ran:?}");
    drop(half);
    until("all of it has gone", || !node.data_dir().join("blob/default/broken").exists());
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}

#[test]
fn blobs_pass_through_the_command_line_as_they_are() {
    let node = Node::shared();
    node.serve(&app("clis", "256MiB"));
    let cli = node.cli();
    let dir = tempfile::tempdir().unwrap();
    let cli = cli.in_dir(dir.path());
    let content = content(30 << 20);
    fs::write(dir.path().join("large.json"), &content).unwrap();

    let blob = cli.json(["blob", "put", "clis/uploads", "a/large", "large.json", "--metadata", "by=Ada ü", "--json"]);
    assert_eq!(
        (&blob["size"], &blob["etag"], &blob["content_type"], &blob["metadata"]["by"]),
        (&json!(30 << 20), &json!(sha256(&content)), &json!("application/json"), &json!("Ada ü"))
    );
    let shown = cli.ok(["blob", "get", "clis/uploads", "a/large", "back.json"]);
    assert!(shown.contains("a/large") && shown.contains("30.0 MiB"), "{shown}");
    assert!(fs::read(dir.path().join("back.json")).unwrap() == content);

    // From stdin and to stdout.
    let ran = cli.run_with(["blob", "put", "clis/uploads", "a/stdin.png", "-"], &content);
    assert_eq!(ran.code(), 0, "{ran:?}");
    let mut get = cli.command(["blob", "get", "clis/uploads", "a/stdin.png"]);
    let got = get.stdout(Stdio::piped()).output().unwrap();
    assert!(got.status.success() && got.stdout == content, "{}", String::from_utf8_lossy(&got.stderr));

    // A file that is there is not written over by accident.
    fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    cli.fails(["blob", "get", "clis/uploads", "a/large", "mine.txt"]).says(&["is there already", "--force"]);
    assert_eq!(fs::read(dir.path().join("mine.txt")).unwrap(), b"mine");
    let info = cli.json(["blob", "get", "clis/uploads", "a/large", "mine.txt", "--force", "--json"]);
    assert_eq!((&info["size"], &info["metadata"]["by"]), (&json!(30 << 20), &json!("Ada ü")));
    assert_eq!(fs::metadata(dir.path().join("mine.txt")).unwrap().len(), 30 << 20);
    cli.fails(["blob", "get", "clis/uploads", "a/large", "."]).says(&["is a folder"]);
    cli.fails(["blob", "get", "clis/uploads", "a/none", "none.txt"]).says(&["404 not_found", "no key `a/none`"]);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing half is left: {names:?}");
    assert_eq!(cli.run(["blob", "get", "clis/uploads", "a/large", "--json"]).code(), 2);

    cli.fails(["blob", "put", "clis/uploads", "a/large", "large.json", "--if-absent"])
        .says(&["412 precondition_failed"]);
    cli.fails(["blob", "put", "clis/uploads", "a", "nothing.txt"]).says(&["cannot read nothing.txt"]);
    cli.fails(["blob", "put", "clis/other", "a", "large.json"]).says(&["no blob store `other`", "it has uploads"]);
    for key in ["a/b/1", "a/b/2", "b"] {
        assert_eq!(cli.run_with(["blob", "put", "clis/uploads", key], b"x").code(), 0);
    }
    let keys = |found: &Value| -> Vec<String> {
        found["blobs"].as_array().unwrap().iter().map(|blob| blob["key"].as_str().unwrap().to_owned()).collect()
    };
    let all = cli.json(["blob", "list", "clis/uploads", "--json"]);
    assert_eq!(keys(&all), ["a/b/1", "a/b/2", "a/large", "a/stdin.png", "b"]);
    assert_eq!((&all["blobs"][3]["content_type"], &all["prefixes"]), (&json!("image/png"), &json!([])));
    let folder = cli.json(["blob", "list", "clis/uploads", "a/", "--delimiter", "/", "--json"]);
    assert_eq!((keys(&folder).len(), &folder["prefixes"]), (2, &json!(["a/b/"])));
    let some = cli.run(["blob", "list", "clis/uploads", "--limit", "2"]);
    some.says(&["there are more blobs", "--after='a/b/2'", "--limit 20"]);
    assert!(some.stdout.contains("a/b/2") && !some.stdout.contains("a/large"), "{some:?}");
    // Page by page, as a script would.
    let mut pages = vec![cli.json(["blob", "list", "clis/uploads", "--limit", "2", "--json"])];
    while let Some(after) = pages.last().unwrap()["cursor"].as_str().map(str::to_owned) {
        assert!(pages.len() < 3, "it goes on and on");
        pages.push(cli.json(["blob", "list", "clis/uploads", "--limit", "2", "--after", &after, "--json"]));
    }
    assert_eq!(pages.len(), 3);
    assert_eq!(pages.iter().flat_map(keys).collect::<Vec<_>>(), keys(&all));
    let rest = cli.run(["blob", "list", "clis/uploads", "--after=a/stdin.png", "--json"]);
    assert!(rest.stdout.contains("\"b\"") && !rest.stdout.contains("a/") && rest.stderr.is_empty(), "{rest:?}");
    let shown = cli.ok(["blob", "list", "clis/uploads", "a/l"]);
    assert!(shown.contains("a/large") && shown.contains("30.0 MiB") && shown.contains("application/json"), "{shown}");

    let usage = cli.json(["usage", "--app", "clis", "--json"]);
    let bucket = usage["stores"].as_array().unwrap().iter().find(|store| store["kind"] == "blob").unwrap();
    assert!(bucket["bytes"].as_u64().unwrap() > 60 << 20 && bucket["declared"] == true, "{usage}");
    cli.ok(["blob", "delete", "clis/uploads", "a/large", "a/stdin.png"]);
    cli.fails(["blob", "delete", "clis/uploads", "a/large"]).says(&["404 not_found"]);

    let url = cli.ok(["blob", "sign", "clis/uploads", "b", "--expires", "5m"]);
    let path = url.trim().split_once(".localhost:").unwrap().1.split_once('/').unwrap().1.to_owned();
    assert_eq!(node.get("clis", &format!("/{path}")).ok(), "x");
    cli.fails(["blob", "sign", "clis/uploads", "b", "--expires", "8d"]).says(&["422 invalid", "7 days"]);
}

#[test]
fn what_has_not_come_as_it_is_is_not_kept() {
    let node = Node::start();
    node.serve(&app("rotten", "64MiB"));
    let cli = node.cli();
    let dir = tempfile::tempdir().unwrap();
    let cli = cli.in_dir(dir.path());
    assert_eq!(cli.run_with(["blob", "put", "rotten/uploads", "a"], &content(100_000)).code(), 0);
    let objects = node.data_dir().join("blob/default/rotten/uploads.objects");
    let file = eventually("the file", || find_file(&objects));
    let mut damaged = fs::read(&file).unwrap();
    damaged[50_000] ^= 1;
    fs::write(&file, damaged).unwrap();
    cli.fails(["blob", "get", "rotten/uploads", "a", "x"]).says(&["has not come as it is", "sha256", "backup"]);
    cli.fails(["blob", "get", "rotten/uploads", "a"]).says(&["has not come as it is"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // One that is short is told before its first byte.
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(40_000).unwrap();
    cli.fails(["blob", "get", "rotten/uploads", "a", "x"]).says(&["500 store_damaged", "log"]);
    let download = sign(&node, "rotten", &json!({"key": "a", "expires_s": 60}));
    node.get("rotten", &download).problem(500, "internal");
    until("the log has it", || node.log().contains("damaged"));
}

fn find_file(folder: &Path) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries
        .map(|entry| entry.unwrap().path())
        .find_map(|path| if path.is_dir() { find_file(&path) } else { Some(path) })
}

#[test]
fn the_api_takes_and_gives_blobs_with_what_is_kept_beside_them() {
    let node = Node::shared();
    node.serve(&app("blob-api", "64MiB"));
    let token = format!("Bearer {}", node.token());
    let object = "/v1/apps/blob-api/blob/uploads/object?key=a%2F..%2F%C3%BC";
    let call = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut request = Request::get("node", path).method(method).header("authorization", &token).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        node.call(&request)
    };
    let headers = [
        ("content-type", "text/plain"),
        ("content-encoding", "identity"),
        ("content-language", "de"),
        ("cache-control", "max-age=60"),
        ("minnow-metadata", "%7B%22by%22%3A%22%C3%BC%22%7D"),
    ];
    let answer = call("PUT", object, &headers, b"hello");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!((&answer.json()["key"], &answer.json()["metadata"]["by"]), (&json!("a/../ü"), &json!("ü")));
    let got = call("GET", object, &[], b"");
    assert_eq!((got.status, &*got.body), (200, &b"hello"[..]));
    let head = call("HEAD", object, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    for (name, expected) in headers.iter().filter(|(name, _)| *name != "minnow-metadata") {
        assert_eq!((got.header(name), head.header(name)), (Some(*expected), Some(*expected)), "{name}");
    }
    assert_eq!(got.header("content-length"), Some("5"));
    assert!(got.header("minnow-uploaded-ms").unwrap().parse::<u64>().unwrap() > 0);
    call("PUT", object, &[("if-none-match", "*")], b"x").problem(412, "precondition_failed");
    call("PUT", object, &[("minnow-metadata", "x")], b"x").problem(422, "invalid");
    call("PUT", object, &[("content-type", "\u{e4}")], b"x").problem(422, "invalid");
    call("PUT", "/v1/apps/blob-api/blob/uploads/object?key=", &[], b"x").problem(422, "invalid");
    call("PUT", &format!("/v1/apps/blob-api/blob/uploads/object?key={}", "x".repeat(1025)), &[], b"x")
        .problem(422, "invalid");
    call("PUT", "/v1/apps/blob-api/blob/other/object?key=a", &[], b"x").problem(404, "not_found");
    let large = vec![0; (64 << 20) + 1];
    let answer = call("PUT", "/v1/apps/blob-api/blob/uploads/object?key=large", &[], &large);
    let text = detail(&answer, 507, "storage_full");
    assert!(text.contains("larger `size`"), "{text}");
    assert_eq!(call("DELETE", object, &[], b"").status, 204);
    call("DELETE", object, &[], b"").problem(404, "not_found");
    call("GET", object, &[], b"").problem(404, "not_found");
    assert_eq!(call("HEAD", object, &[], b"").status, 404);

    for n in 0..5 {
        assert_eq!(call("PUT", &format!("/v1/apps/blob-api/blob/uploads/object?key=k{n}"), &[], b"x").status, 201);
    }
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node.api("GET", &format!("/v1/apps/blob-api/blob/uploads/keys?prefix=k&limit=2{cursor}"), "").json();
        pages.extend(page["blobs"].as_array().unwrap().iter().map(|blob| blob["key"].as_str().unwrap().to_owned()));
        let Some(next) = page["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, ["k0", "k1", "k2", "k3", "k4"]);
    node.api("GET", "/v1/apps/blob-api/blob/uploads/keys?limit=1001", "").problem(422, "invalid");
}

#[test]
fn buckets_of_a_deleted_app_are_kept_and_can_be_brought_back_by_hand() {
    let node = Node::start();
    let cli = node.cli();
    let bucket = app("kept", "64MiB");
    node.serve(&bucket);
    let large = content(100_000);
    assert_eq!(cli.run_with(["blob", "put", "kept/uploads", "small"], b"small").code(), 0);
    assert_eq!(cli.run_with(["blob", "put", "kept/uploads", "large"], &large).code(), 0);
    node.api("DELETE", "/v1/apps/kept", "").problem(409, "conflict");
    cli.ok(["delete", "kept", "--yes", "--data", "keep"]);
    assert!(!node.data_dir().join("blob/default/kept").exists());
    let deleted = cli.json(["usage", "--json"])["deleted"].clone();
    assert!(deleted[0]["app"] == "kept" && deleted[0]["bytes"].as_u64().unwrap() > 100_000, "{deleted}");
    node.serve(&bucket);
    cli.fails(["blob", "get", "kept/uploads", "small"]).says(&["404 not_found"]);

    node.terminate();
    assert!(node.wait().success());
    let aside = fs::read_dir(node.data_dir().join("deleted/default")).unwrap().next().unwrap().unwrap().path();
    let place = node.data_dir().join("blob/default/kept");
    fs::create_dir_all(&place).unwrap();
    for entry in fs::read_dir(aside.join("blob")).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), place.join(entry.file_name())).unwrap();
    }
    let node = node.rebuild().start();
    let cli = node.cli();
    assert_eq!(cli.ok(["blob", "get", "kept/uploads", "small"]), "small");
    let dir = tempfile::tempdir().unwrap();
    cli.clone().in_dir(dir.path()).ok(["blob", "get", "kept/uploads", "large", "large"]);
    assert!(fs::read(dir.path().join("large")).unwrap() == large);
    // What was brought back is not shown as deleted any more.
    assert_eq!(cli.json(["usage", "--json"])["deleted"], json!([]));
    assert!(aside.exists(), "its empty folders go when their time is over");
}

#[test]
fn many_uploads_at_once_take_their_turns_with_the_clock() {
    let node = Node::shared();
    node.serve(&app("blob-crowd", "256MiB"));
    let urls: Vec<_> = (0..8)
        .map(|n| {
            let key = format!("k{n}");
            let upload = sign(node, "blob-crowd", &json!({"key": key, "method": "PUT", "expires_s": 600}));
            (upload, sign(node, "blob-crowd", &json!({"key": key, "expires_s": 600})))
        })
        .collect();
    let content = content(4 << 20);
    thread::scope(|scope| {
        for (upload, download) in &urls {
            let content = &content;
            scope.spawn(move || {
                assert_eq!(put(node, "blob-crowd", upload, content.clone()).status, 201);
                assert!(node.get("blob-crowd", download).body == *content);
            });
        }
    });
    // A client that sends in small pieces gets all of it in.
    let (upload, download) = &urls[0];
    let mut connection = node.connect();
    let head = format!("PUT {upload} HTTP/1.1\r\nhost: blob-crowd.localhost\r\ncontent-length: 3000\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    let mut writer = connection.writer();
    for byte in &content[..3000] {
        writer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(connection.response(false).unwrap().status, 201);
    assert!(node.get("blob-crowd", download).body == content[..3000]);
}
