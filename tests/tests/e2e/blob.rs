//! Blobs as components reach them: through the SDK, and through `wasi:blobstore` in both versions.

use std::{fs, io::Write as _, sync::OnceLock, thread};

use minnow_model::Digest;
use minnow_tests::{App, Exchange, Node, Random, Request, until};
use serde_json::{Value, json};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

/// What the guest answers.
#[track_caller]
fn ask(app: &str, path: &str, body: impl AsRef<[u8]>) -> Value {
    let answer = node().post(app, path, body.as_ref());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What the guest is told that has done something wrong.
#[track_caller]
fn error(app: &str, path: &str, body: &str) -> String {
    let answer = ask(app, path, body);
    answer["error"].as_str().unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
}

const BUCKET: &str = "[blob.uploads]";
const GRANT: &str = "blob = [\"uploads\"]";

/// The guest of the data services as the app `name`, deployed.
fn serve(name: &str) -> App {
    let app = App::of_guest(name, "data-p2", GRANT).end(BUCKET);
    node().serve(&app);
    app
}

fn random(bytes: usize) -> Vec<u8> {
    Random::new("blob").bytes(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

/// The files of a bucket's blobs that are on their way, or were left behind.
fn under_way(app: &str) -> usize {
    let new = node().data_dir().join("blob/default").join(app).join("uploads.objects/new");
    fs::read_dir(new).map_or(0, Iterator::count)
}

#[test]
fn a_component_streams_a_blob_in_and_out() {
    let app = "blob-streams";
    let _app = serve(app);
    let content = random(5 << 20);
    let put = ask(app, "/blob/put?key=a/b.bin&type=image/png&custom=seen", &content);
    assert_eq!(put["bytes"], content.len());
    let info = &put["info"];
    let expected = (json!("a/b.bin"), json!(content.len()), json!(sha256(&content)), json!("image/png"));
    let found = (info["key"].clone(), info["size"].clone(), info["etag"].clone(), info["type"].clone());
    assert_eq!(found, expected);
    assert_eq!(info["custom"], json!([["custom", "seen"]]));
    assert_eq!(ask(app, "/blob/head?key=a/b.bin", "")["info"], *info);
    let got = node().get(app, "/blob/get?key=a/b.bin");
    assert_eq!((got.status, got.header("content-type")), (200, Some("image/png")));
    assert!(got.body == content, "{} bytes", got.body.len());
    for (range, expected) in [
        ("from=1000000", &content[1_000_000..]),
        ("from=4000000&length=300000", &content[4_000_000..4_300_000]),
        ("length=1", &content[..1]),
        ("last=700000", &content[content.len() - 700_000..]),
        // An end beyond the blob's is the blob's.
        ("from=5242879&length=1000", &content[content.len() - 1..]),
        ("last=9000000", &content[..]),
    ] {
        let got = node().get(app, &format!("/blob/get?key=a/b.bin&{range}"));
        assert!(got.status == 200 && got.body == expected, "{range}: {} bytes", got.body.len());
    }
    assert_eq!(node().get(app, "/blob/get?key=a").status, 404);
    // Nothing, and little enough to lie in the index.
    for content in [&b""[..], b"x", &random(16 << 10), &random((16 << 10) + 1)] {
        assert_eq!(ask(app, "/blob/put?key=short", content)["info"]["etag"], sha256(content));
        assert!(node().get(app, "/blob/get?key=short").body == content);
    }
    until("no file is left behind", || under_way(app) == 0);
}

#[test]
fn whole_blobs_are_put_got_copied_listed_and_deleted() {
    let app = "blob-whole";
    let _app = serve(app);
    assert_eq!(ask(app, "/blob/text?key=a", ""), json!({ "text": null }));
    for key in ["a", "b/1", "b/2", "c"] {
        ask(app, &format!("/blob/set?key={key}&type=text/plain"), key);
    }
    assert_eq!(ask(app, "/blob/text?key=b/1", ""), json!({ "text": "b/1" }));
    assert_eq!(ask(app, "/blob/keys", ""), json!({ "keys": ["a", "b/1", "b/2", "c"] }));
    assert_eq!(ask(app, "/blob/keys?prefix=b", ""), json!({ "keys": ["b/1", "b/2"] }));
    assert_eq!(ask(app, "/blob/list?delimiter=/", ""), json!({ "keys": ["a", "c"], "prefixes": ["b/"], "next": null }));
    let page = ask(app, "/blob/list?limit=3", "");
    assert_eq!(page["keys"], json!(["a", "b/1", "b/2"]));
    let rest = ask(app, &format!("/blob/list?after={}", page["next"].as_str().unwrap()), "");
    assert_eq!((&rest["keys"], &rest["next"]), (&json!(["c"]), &Value::Null));
    assert!(error(app, "/blob/list?limit=0", "").contains("1 to 1000"));
    assert!(error(app, "/blob/list?limit=1001", "").contains("1 to 1000"));
    let copied = ask(app, "/blob/copy?key=a&to=d", "")["info"].clone();
    assert_eq!((&copied["key"], &copied["type"]), (&json!("d"), &json!("text/plain")));
    assert_eq!(ask(app, "/blob/copy?key=b/1&to=d&only-if=absent", ""), json!({ "info": null }));
    assert_eq!(ask(app, "/blob/text?key=d", ""), json!({ "text": "a" }));
    assert!(error(app, "/blob/copy?key=none&to=e", "").contains("no blob `none`"));
    assert_eq!(ask(app, "/blob/delete?key=a,d,none", ""), json!({ "deleted": 2 }));
    assert_eq!(ask(app, "/blob/keys", ""), json!({ "keys": ["b/1", "b/2", "c"] }));
    // What is wrong is told in words.
    for (path, expected) in [
        ("/blob/set?key=", "a key is empty"),
        (&format!("/blob/set?key={}", "k".repeat(1025)), "a key has 1025 bytes, the most is 1024"),
        (&format!("/blob/put?key=a&custom={}", "v".repeat(8192)), "the most is 8192"),
        ("/blob/put?key=a&type=a%0Ab", "the content-type is no value of a header"),
        ("/blob/put?key=a&store=other", "`other`"),
    ] {
        let told = error(app, path, "x");
        assert!(told.contains(expected), "{path}: {told}");
    }
}

#[test]
fn conditions_decide_what_is_read_and_written() {
    let app = "blob-conditions";
    let _app = serve(app);
    let first = ask(app, "/blob/put?key=a&only-if=absent", "one")["info"]["etag"].as_str().unwrap().to_owned();
    assert_eq!(ask(app, "/blob/put?key=a&only-if=absent", "two")["info"], Value::Null);
    assert_eq!(ask(app, "/blob/set?key=a&only-if=absent", "two")["info"], Value::Null);
    assert_eq!(ask(app, "/blob/text?key=a", ""), json!({ "text": "one" }));
    assert_eq!(ask(app, &format!("/blob/set?key=a&only-if={first}"), "two")["info"]["size"], 3);
    assert_eq!(ask(app, &format!("/blob/put?key=a&only-if={first}"), "three")["info"], Value::Null);
    assert_eq!(node().get(app, &format!("/blob/get?key=a&only-if={first}")).status, 404);
    assert_eq!(node().get(app, &format!("/blob/get?key=a&only-if={}", sha256(b"two"))).ok(), "two");
    // The condition is that of the end: somebody was faster than this upload.
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(app, "/blob/put?key=b&only-if=absent&hold=300", "slow"));
        until("somebody was faster", || ask(app, "/blob/set?key=b", "fast")["info"]["size"] == 4);
        assert_eq!(slow.join().unwrap()["info"], Value::Null);
    });
    assert_eq!(ask(app, "/blob/text?key=b", ""), json!({ "text": "fast" }));
}

#[test]
fn an_upload_that_does_not_finish_leaves_nothing() {
    let app = "blob-half";
    // The instance would go on with what it holds.
    let _app = {
        let app = App::of_guest(app, "data-p2", &format!("{GRANT}\ninstances = \"reuse\"")).end(BUCKET);
        node().serve(&app);
        app
    };
    let is_empty = || ask(app, "/blob/keys", "")["keys"] == json!([]) && under_way(app) == 0;
    ask(app, "/blob/fill?key=dropped&bytes=3000000&end=drop", "");
    assert_eq!(ask(app, "/blob/head?key=dropped", "")["info"], Value::Null);
    until("what was dropped is gone", is_empty);
    assert_eq!(node().post(app, "/blob/fill?key=trapped&bytes=3000000&end=trap", "").status, 500);
    until("what a guest had that is no more is gone", is_empty);
    // More often than a bucket may have uploads: each ends with its invocation.
    for index in 0..70 {
        assert_eq!(ask(app, &format!("/blob/fill?key=f{index}&bytes=10&end=forget"), ""), json!({}));
    }
    until("what was forgotten is gone", is_empty);
    // A client that goes away in the middle of its body.
    let mut connection = node().connect();
    let head = Request::get(app, "/blob/put?key=cut").method("POST").header("content-length", "8000000");
    connection.write_head(&head).unwrap();
    connection.write(&[b'c'; 3_000_000]).unwrap();
    until("the upload has begun", || under_way(app) == 1);
    drop(connection);
    until("what nobody sends any more is gone", is_empty);
}

#[test]
fn a_bucket_takes_no_more_than_its_size() {
    let app = "blob-full";
    let _app = {
        let app = App::of_guest(app, "data-p2", GRANT).end("[blob.uploads]\nsize = \"2MiB\"");
        node().serve(&app);
        app
    };
    // The stream says so, and so does the end of the upload.
    let refused = ask(app, "/blob/fill?key=a&bytes=3000000", "");
    for told in [&refused["written"], &refused["finished"]] {
        assert!(
            told.as_str().unwrap_or_default().contains("the bucket is full: it may have 2097152 bytes"),
            "{refused}"
        );
    }
    assert!(error(app, "/blob/put?key=a", &"x".repeat(3_000_000)).contains("the bucket is full"));
    assert!(error(app, "/blob/set?key=a", &"x".repeat(3_000_000)).contains("the bucket is full"));
    assert_eq!(ask(app, "/blob/keys", ""), json!({ "keys": [] }));
    ask(app, "/blob/fill?key=b&bytes=1500000", "");
    assert!(ask(app, "/blob/fill?key=c&bytes=1500000", "")["written"].is_string());
    assert!(error(app, "/blob/copy?key=b&to=c", "").contains("the bucket is full"));
    // In one call goes less than in a stream.
    let most = 16 << 20;
    assert!(error(app, "/blob/set?key=d", &"x".repeat(most + 1)).contains("the most is 16777216; use a stream"));
    ask(app, "/blob/delete?key=b", "");
    assert_eq!(ask(app, "/blob/fill?key=c&bytes=1500000", "")["info"]["size"], 1_500_000);
}

#[test]
fn a_whole_blob_of_sixteen_mebibytes_goes_in_and_out_and_a_larger_one_is_only_streamed() {
    let app = "blob-large";
    let _app = serve(app);
    let most = 16 << 20;
    assert_eq!(ask(app, "/blob/set?key=a", vec![b'a'; most])["info"]["size"], most);
    assert_eq!(ask(app, "/blob/text?key=a", "")["text"].as_str().unwrap().len(), most);
    ask(app, &format!("/blob/fill?key=b&bytes={}", most + 1), "");
    assert!(error(app, "/blob/text?key=b", "").contains("the most is 16777216; use a stream"));
    assert!(error(app, "/wasi/draft/get?key=b", "").contains("the most is 16777216; use a stream"));
    assert_eq!(ask(app, "/wasi/draft/get-stream?key=b", ""), json!({ "bytes": most + 1, "error": null }));
}

#[test]
fn a_range_that_begins_beyond_the_end_is_told_with_the_size() {
    let app = "blob-range";
    let _app = serve(app);
    ask(app, "/blob/set?key=a", "0123456789");
    for range in ["from=10", "from=11&length=1", "from=18446744073709551615", "last=0"] {
        let told = node().get(app, &format!("/blob/get?key=a&{range}")).json();
        assert_eq!(told["error"], "the range begins beyond the end of the blob, which has 10 bytes", "{range}");
    }
    assert_eq!(node().get(app, "/blob/get?key=a&from=9&length=18446744073709551615").ok(), "9");
    assert_eq!(node().get(app, "/blob/get?key=a&from=3&length=0").ok(), "");
}

#[test]
fn a_bucket_that_was_not_granted_is_not_reached_and_one_for_reading_is_not_written() {
    let name = "blob-grants";
    let app = App::new(name)
        .function("all", "data-p2", &format!("routes = [\"/all/{{*rest}}\"]\n{GRANT}"))
        .function("reader", "data-p2", "routes = [\"/blob/{*rest}\", \"/wasi/{*rest}\"]\nblob = [\"uploads:ro\"]")
        .function("nothing", "data-p2", "routes = [\"/\"]")
        .end(BUCKET);
    node().serve(&app);
    let writes = ["set?key=a", "put?key=a", "fill?key=a", "delete?key=a", "copy?key=a&to=b", "sign?key=a&method=put"];
    for path in writes {
        let told = error(name, &format!("/blob/{path}"), "x");
        assert!(told.contains("without `:ro`"), "{path}: {told}");
    }
    assert!(error(name, "/blob/head?key=a&store=other", "").contains("`blob = [\"other\"]` to `[functions.reader]`"));
    assert_eq!(ask(name, "/blob/keys", ""), json!({ "keys": [] }));
    for version in ["draft", "2024-09-01"] {
        let path = |call: &str| format!("/wasi/{version}/{call}");
        for call in ["put?key=a", "put-body-first?key=a", "delete?key=a", "clear", "copy?key=a&to=b", "move?key=a&to=b"]
        {
            let told = error(name, &path(call), "x");
            assert!(told.contains("without `:ro`"), "{version} {call}: {told}");
        }
        for call in ["get?key=a&store=other", "container?store=other", "list?store=other", "put?key=a&store=other"] {
            let told = error(name, &path(call), "x");
            assert!(told.contains("`blob = [\"other\"]`"), "{version} {call}: {told}");
        }
        assert_eq!(ask(name, &path("exists?store=other"), ""), json!({ "exists": false }));
        assert_eq!(ask(name, &path("exists"), ""), json!({ "exists": true }));
    }
}

#[test]
fn fifty_uploads_are_open_at_once_and_no_more_than_sixty_four() {
    let app = "blob-many";
    let _app = serve(app);
    let many = ask(app, "/blob/uploads?key=m&n=50&bytes=300000", "");
    assert_eq!(many, json!({ "open": 50, "refused": null }));
    assert_eq!(ask(app, "/blob/keys", "")["keys"].as_array().unwrap().len(), 50);
    let refused = ask(app, "/blob/uploads?key=n&n=65", "");
    assert_eq!(refused["open"], 64);
    assert!(refused["refused"].as_str().unwrap().contains("64"), "{refused}");
    let refused = ask(app, "/blob/readers?key=m1&n=65", "");
    assert_eq!(refused["open"], 64);
    assert!(refused["refused"].as_str().unwrap().contains("64 uploads and bodies of blobs are open"), "{refused}");
    // They were given back.
    assert_eq!(ask(app, "/blob/uploads?key=n&n=64", "")["open"], 64);
}

#[test]
fn readers_that_nobody_reads_take_little_memory() {
    let node = Node::start();
    let app = App::of_guest("blob-idle", "data-p2", GRANT).end(BUCKET);
    node.serve(&app);
    let size: u64 = 64 << 20;
    node.post("blob-idle", &format!("/blob/fill?key=a&bytes={size}"), "").ok();
    node.post("blob-idle", "/blob/readers?key=a&n=1&read=1", "").ok();
    let before = node.rss_bytes();
    // Each of the first bytes has a piece behind it, and another one that was read ahead.
    let open = node.post("blob-idle", "/blob/readers?key=a&n=64&read=1", "").json();
    assert_eq!(open["open"], 64);
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "64 readers took {grown} bytes");
    // A client that does not read its response: of the blob, only what fits between is read.
    let before = node.rss_bytes();
    let stalled: Vec<Exchange> = (0..8).map(|_| node.open(&Request::get("blob-idle", "/blob/get?key=a"))).collect();
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "8 stalled responses took {grown} bytes");
    for response in stalled {
        assert_eq!(response.drain().unwrap(), size);
    }
}

#[test]
fn a_large_blob_goes_through_a_guest_in_constant_memory() {
    let node = Node::start();
    // A guest has little memory of its own.
    let limits =
        "\n[functions.web.limits]\nmemory = \"16MiB\"\nrequest_body = \"1GiB\"\ncpu = \"60s\"\ntimeout = \"60s\"";
    let app = App::of_guest("blob-through", "data-p2", &format!("{GRANT}{limits}")).end(BUCKET);
    node.serve(&app);
    node.post("blob-through", "/blob/put?key=a", "warm").ok();
    let before = node.rss_bytes();
    let size: u64 = 200 << 20;
    let mut connection = node.connect();
    let length = size.to_string();
    let head = Request::get("blob-through", "/blob/put?key=a").method("POST").header("content-length", &length);
    connection.write_head(&head).unwrap();
    let mut writer = connection.writer();
    let sent = thread::spawn(move || {
        let piece = vec![b'p'; 1 << 20];
        (0..size >> 20).try_for_each(|_| writer.write_all(&piece))
    });
    let put = connection.response(false).unwrap().rest().unwrap().json();
    sent.join().unwrap().unwrap();
    assert_eq!(put["info"]["size"], size, "{put}");
    assert_eq!(node.open(&Request::get("blob-through", "/blob/get?key=a")).drain().unwrap(), size);
    let grown = node.peak_rss_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "200 MiB up and down took {grown} bytes");
}

#[test]
fn a_reader_goes_on_with_a_blob_that_is_replaced_and_deleted() {
    let app = "blob-overtaken";
    let _app = serve(app);
    for size in [3, 3_000_000] {
        ask(app, &format!("/blob/fill?key=a&bytes={size}"), "");
        assert_eq!(ask(app, "/blob/overtaken?key=a", ""), json!({ "bytes": size }));
        assert_eq!(ask(app, "/blob/head?key=a", "")["info"], Value::Null);
    }
}

#[test]
fn signed_urls_that_a_component_makes_are_good() {
    let app = "blob-signed";
    let _app = serve(app);
    ask(app, "/blob/set?key=a/b&type=text/plain", "signed");
    let url = ask(app, "/blob/sign?key=a/b", "")["url"].as_str().unwrap().to_owned();
    assert_eq!(node().get(app, &url).ok(), "signed");
    let put =
        ask(app, "/blob/sign?key=c&method=put&max-size=3&type=text/plain", "")["url"].as_str().unwrap().to_owned();
    let send = |body: &str| {
        let request = Request::get(app, &put).method("PUT").header("content-type", "text/plain").body(body);
        node().send(&request).status
    };
    assert_eq!(send("four"), 413);
    assert_eq!(send("abc"), 201);
    assert_eq!(ask(app, "/blob/text?key=c", ""), json!({ "text": "abc" }));
    assert!(error(app, "/blob/sign?key=a&expires=0", "").contains("1 second to 7 days"));
    assert!(error(app, "/blob/sign?key=a&expires=604801", "").contains("1 second to 7 days"));
}

#[test]
fn another_apps_bucket_is_reached_when_it_is_shared() {
    let owner = App::of_guest("blob-owner", "data-p2", GRANT).end("[blob.uploads]\nshare = [\"blob-borrower\"]");
    let borrower =
        App::of_guest("blob-borrower", "data-p2", "blob = [\"blob-owner/uploads:ro\", \"uploads\"]").end(BUCKET);
    node().serve(&owner);
    node().serve(&borrower);
    ask("blob-owner", "/blob/set?key=a", "from the owner");
    let there = "store=blob-owner/uploads";
    assert_eq!(ask("blob-borrower", &format!("/blob/text?key=a&{there}"), ""), json!({ "text": "from the owner" }));
    let got = ask("blob-borrower", &format!("/wasi/draft/get?key=a&{there}"), "");
    assert_eq!(got["text"], "from the owner");
    assert!(error("blob-borrower", &format!("/blob/set?key=a&{there}"), "x").contains(":ro"));
    ask("blob-borrower", &format!("/blob/copy?key=a&to=mine&{there}&to-store=uploads"), "");
    assert_eq!(ask("blob-borrower", "/blob/keys", ""), json!({ "keys": ["mine"] }));
}

#[test]
fn components_for_both_versions_of_wasi_blobstore_run() {
    for (version, a_second) in [("draft", 1), ("2024-09-01", 1_000_000_000_u64)] {
        let app = format!("blobstore-{version}");
        let _app = serve(&app);
        let ask = |call: &str, body: &[u8]| ask(&app, &format!("/wasi/{version}/{call}"), body);
        let error = |call: &str, body: &str| error(&app, &format!("/wasi/{version}/{call}"), body);
        // Writing to what has finished is refused, and changes nothing.
        assert_eq!(ask("put?key=a", b"0123456789"), json!({ "late": "closed", "once": true }));
        assert_eq!(ask("get?key=a", b""), json!({ "size": 10, "text": "0123456789" }));
        // Both ends are inclusive.
        for (range, text) in [("start=2&end=4", "234"), ("start=0&end=0", "0"), ("start=8&end=99", "89")] {
            let got = ask(&format!("get?key=a&{range}"), b"");
            assert_eq!((&got["text"], &got["size"]), (&json!(text), &json!(text.len())), "{range}");
        }
        assert!(error("get?key=a&start=10", "").contains("beyond the end of the blob, which has 10 bytes"));
        assert!(error("get?key=a&start=5&end=4", "").contains("ends at 4, before its begin at 5"));
        assert!(error("get?key=none", "").contains("no object `none` in `uploads`"));
        assert!(error("info?key=none", "").contains("no object `none` in `uploads`"));
        let large = random(1_000_000);
        ask("put-body-first?key=large", &large);
        assert!(node().get(&app, "/blob/get?key=large").body == large);
        assert_eq!(ask("get-stream?key=large", b""), json!({ "bytes": 1_000_000, "error": null }));
        assert_eq!(ask("get-stream?key=large&start=1&end=500000", b""), json!({ "bytes": 500_000, "error": null }));
        // A value that nobody puts anywhere.
        let nowhere = ask("put-nowhere", b"x");
        assert_eq!(nowhere["written"], Value::Null);
        assert!(nowhere["finished"].as_str().unwrap().contains("`write-data`"), "{nowhere}");
        let nowhere = ask("put-nowhere", &large);
        assert!(nowhere["written"].as_str().unwrap().contains("`write-data`"), "{nowhere}");
        assert_eq!(ask("put-half?key=half", &large), json!({ "late": "closed" }));
        let info = ask("info?key=a", b"");
        assert_eq!((&info["name"], &info["container"], &info["size"]), (&json!("a"), &json!("uploads"), &json!(10)));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let age = now.abs_diff(info["created_at"].as_u64().unwrap() / a_second);
        assert!(info["has"] == true && age < 300, "{info}");
        assert_eq!(ask("container", b""), json!({ "name": "uploads", "info": "uploads" }));
        ask("copy?key=a&to=b", b"");
        ask("move?key=b&to=c", b"");
        ask("move?key=c&to=c", b"");
        assert_eq!(ask("list", b""), json!({ "skipped": 0, "names": ["a", "c", "large"] }));
        assert_eq!(ask("list?skip=2&page=1000000", b""), json!({ "skipped": 2, "names": ["large"] }));
        assert_eq!(ask("list?skip=9", b""), json!({ "skipped": 3, "names": [] }));
        assert!(error("copy?key=none&to=b", "").contains("no blob `none`"));
        ask("delete?key=a,none", b"");
        assert_eq!(ask("list", b"")["names"], json!(["c", "large"]));
        assert!(error("create?store=new", "").contains("[blob.NAME]"));
        assert!(error("destroy", "").contains("use `clear`"));
        ask("clear", b"");
        assert_eq!(ask("list", b"")["names"], json!([]));
        until("no file is left behind", || under_way(&app) == 0);
    }
}
