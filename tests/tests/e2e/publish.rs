//! Publishing: what is taken, what is refused, and that nothing is ever half there.

use std::fs;

use minnow_model::Digest;
use minnow_tests::{Answer, App, Node, Ran, Request, guest, until, wasm};
use serde_json::{Value, json};

/// An app with one function of this code.
fn app_of(name: &str, code: &[u8]) -> App {
    App::new(name).code("web", "a.wasm", code, "routes = [\"/\"]")
}

/// Publishes code that has to be refused, with the code `compile_failed`, and gives what was said.
#[track_caller]
fn refused(name: &str, code: &[u8]) -> Ran {
    let node = Node::shared();
    let ran = node.cli().in_dir(app_of(name, code).path()).fails(["publish"]);
    ran.says(&["422 compile_failed", "`web`"]);
    node.api("GET", &format!("/v1/apps/{name}"), "").problem(404, "not_found");
    assert!(!ran.stderr.contains(node.data_dir().to_str().unwrap()), "an inner path is shown: {}", ran.stderr);
    ran
}

#[test]
fn what_is_not_wasm_is_refused() {
    let node = Node::shared();
    for (name, code) in [("notwasm", &b"hello"[..]), ("empty", b""), ("script", b"#!/bin/sh\necho hello")] {
        // The command notices before anything is sent.
        let app = app_of(name, code);
        node.cli().in_dir(app.path()).fails(["publish"]).says(&["minnow.toml:5:9", "not WebAssembly"]);
        // Others may send it all the same.
        let mut bundle = Template::new(&format!("{name}-raw"));
        bundle.set_code(code);
        let answer = bundle.publish();
        answer.problem(422, "compile_failed");
        assert!(answer.text().contains("not WebAssembly"), "{}", answer.text());
        bundle.is_not_there();
    }
}

#[test]
fn truncated_wasm_is_refused() {
    let whole = guest("lab-p2");
    for (index, length) in [9, 100, whole.len() / 2, whole.len() - 1].into_iter().enumerate() {
        refused(&format!("truncated{index}"), &whole[..length]);
    }
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].fill(0xff);
    refused("flipped", &flipped);
}

#[test]
fn an_unknown_import_is_named() {
    let component = wasm::module(
        r#"(component
            (import "acme:db/query@1.0.0" (instance $query (export "run" (func))))
            (core func $run (canon lower (func $query "run")))
            (core module $m (import "query" "run" (func $run)) (func (export "handle") (call $run)))
            (core instance $i (instantiate $m (with "query" (instance (export "run" (func $run))))))
            (func $handle (canon lift (core func $i "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#,
    );
    refused("importc", &component).says(&["acme:db/query@1.0.0"]);
    let module = wasm::module(r#"(module (import "env" "mystery" (func)) (func (export "_start")))"#);
    refused("importm", &module).says(&["env", "mystery"]);
}

#[test]
fn code_without_an_entry_is_refused_and_told_what_it_lacks() {
    refused("nostart", &wasm::module("(module (func (export \"main\")))")).says(&["_start", "`main`"]);
    refused("noentry", &wasm::module("(component)")).says(&["wasi:http/incoming-handler@0.2", "wasi:cli/run"]);
}

#[test]
fn code_that_can_never_fit_is_refused_when_it_is_published() {
    refused("nofit", &wasm::module("(module (memory 65536) (func (export \"_start\")))"));
    refused("nofittable", &wasm::module("(module (table 100000000 funcref) (func (export \"_start\")))"));
}

#[test]
fn code_that_takes_the_compiler_too_long_is_refused_while_the_node_serves() {
    let node = Node::builder().config("[compile]\ncpu = \"1s\"").start();
    node.serve(&app_of("serving", &wasm::cgi("serving")));
    let app = app_of("bomb", &wasm::bomb(1000, 500));
    let publish = node.cli().in_dir(app.path());
    let publish = std::thread::spawn(move || publish.fails(["publish"]));
    let mut served = 0;
    while !publish.is_finished() {
        assert_eq!(node.get("serving", "/").ok(), "serving");
        served += 1;
    }
    publish.join().unwrap().says(&["422 compile_failed", "1s of CPU time", "compile.cpu"]);
    assert!(served > 10, "only {served} requests were served meanwhile");
    node.api("GET", "/v1/apps/bomb", "").problem(404, "not_found");
    node.serve(&app_of("after", &wasm::cgi("after")));
}

#[test]
fn code_that_takes_the_compiler_too_much_memory_is_refused() {
    let node = Node::builder().config("[compile]\nmemory = \"1280MiB\"").start();
    let app = app_of("bomb", &wasm::bomb(40_000, 2000));
    let ran = node.cli().in_dir(app.path()).fails(["publish"]);
    ran.says(&["422 compile_failed", "GiB of memory", "compile.memory"]);
    node.serve(&app_of("after", &wasm::cgi("after")));
    assert_eq!(node.get("after", "/").ok(), "after");
}

#[test]
fn the_least_memory_that_the_compiler_can_be_given_is_told_or_suffices() {
    let node = Node::builder().config("[compile]\nmemory = \"64MiB\"").start();
    let app = app_of("least", &wasm::cgi("least"));
    let ran = node.cli().in_dir(app.path()).run(["publish"]);
    if ran.code() != 0 {
        ran.says(&["422 compile_failed", "64.0 MiB of memory", "compile.memory"]);
    }
}

#[test]
fn a_bundle_of_200_mib_is_refused() {
    let node = Node::shared();
    let app = App::new("huge").file("public/a.bin", "").end("[static]\n\"/\" = \"public\"");
    fs::File::options().write(true).open(app.path().join("public/a.bin")).unwrap().set_len(200 << 20).unwrap();
    let cli = node.cli().in_dir(app.path());
    let ran = cli.run(["publish"]);
    assert_eq!(ran.code(), 1);
    // Before anything is read, and what the node says after that.
    ran.says(&["warning: with ", "a.bin (200.0 MiB)", "128.0 MiB", "413 too_large", "bundles.max_size"]);
    // On a terminal reading so much is shown.
    let shown = cli.on_a_terminal("publish", None).text;
    assert!(shown.contains("warning") && shown.contains("reading "), "{shown:?}");
    node.api("GET", "/v1/apps/huge", "").problem(404, "not_found");
    // Other tests upload to this node, too, and nothing as large as what was taken of this.
    let large = |file: std::io::Result<fs::DirEntry>| {
        file.and_then(|file| file.metadata()).is_ok_and(|file| file.len() > 32 << 20)
    };
    until("nothing of it stays", || !fs::read_dir(node.data_dir().join("tmp")).unwrap().any(large));
}

/// A node that takes 1 MiB, and an upload of 32 MiB to it that nobody has begun to send.
fn too_much(node: &Node, headers: &[(&str, &str)]) -> minnow_tests::Connection {
    let digest = Digest::of(b"whatever").to_string();
    let mut request = Request::get("node", &format!("/v1/blobs/{digest}")).method("PUT");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut connection = minnow_tests::Connection::open(node.admin).unwrap();
    connection.write_head(&request).unwrap();
    connection
}

#[test]
fn a_client_that_reads_its_answer_last_is_told_why_it_was_refused() {
    let node = Node::builder().config("[bundles]\nmax_size = \"1MiB\"").start();
    let token = format!("Bearer {}", node.token());
    let megabyte = vec![b'x'; 1 << 20];
    let chunk = [format!("{:x}\r\n", megabyte.len()).as_bytes(), &megabyte, b"\r\n"].concat();
    let announced = ("content-length", &*(32 << 20).to_string());
    let chunked = ("transfer-encoding", "chunked");
    for (headers, piece, end, status, code) in [
        (&[("authorization", &*token), announced][..], &megabyte, &b""[..], 413, "too_large"),
        (&[("authorization", &*token), chunked], &chunk, b"0\r\n\r\n", 413, "too_large"),
        (&[announced], &megabyte, b"", 401, "unauthorized"),
    ] {
        let mut connection = too_much(&node, headers);
        for _ in 0..32 {
            connection.write(piece).expect("the node takes what it throws away");
        }
        connection.write(end).unwrap();
        let answer = connection.response(false).and_then(minnow_tests::Exchange::rest).expect("an answer");
        answer.problem(status, code);
    }
}

#[test]
fn a_bundle_that_is_too_large_is_told_and_is_no_lost_connection() {
    let node = Node::builder().config("[bundles]\nmax_size = \"1MiB\"").start();
    let app = App::new("toolarge").file("public/a.bin", "").end("[static]\n\"/\" = \"public\"");
    fs::File::options().write(true).open(app.path().join("public/a.bin")).unwrap().set_len(32 << 20).unwrap();
    let cli = node.cli().in_dir(app.path());
    for _ in 0..10 {
        let ran = cli.fails(["publish"]);
        ran.says(&["cannot upload", "a.bin", "32.0 MiB", "at most 1.0 MiB", "413 too_large", "bundles.max_size"]);
    }
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let node = Node::shared();
    let app = App::new("progress").file("public/a.bin", "progress".repeat(1 << 20)).end("[static]\n\"/\" = \"public\"");
    let cli = node.cli().in_dir(app.path());
    let shown = cli.on_a_terminal("publish 0.1.0", None);
    assert_eq!(shown.code, 0, "{}", shown.text);
    for part in ["uploading", "/8.0", "the node checks and compiles", "published", "progress@0.1.0"] {
        assert!(shown.text.contains(part), "`{part}` is not in {:?}", shown.text);
    }
    // It is gone when all is done.
    let last = shown.text.rsplit("uploading").next().unwrap();
    assert!(last.contains("published"), "{last:?}");
    app.write("public/a.bin", "another one".repeat(1 << 20));
    let ran = cli.run(["publish", "0.2.0"]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(!ran.stdout.contains(['\u{1b}', '\r']), "{:?}", ran.stdout);
    app.write("public/a.bin", "and another".repeat(1 << 20));
    let shown = cli.on_a_terminal("publish 0.3.0 --json", None);
    assert!(!shown.text.contains("uploading"), "{:?}", shown.text);
}

#[test]
fn layers_count_together_and_code_has_a_bound_of_its_own() {
    let node = Node::builder().config("[bundles]\nmax_size = \"1MiB\"\nmax_wasm = \"100KiB\"").start();
    let half = vec![b'x'; 600 << 10];
    let two = App::new("two").file("public/a.bin", &half).file("public/b.bin", [&half[1..], b"y"].concat());
    let two = two.end("[static]\n\"/\" = \"public\"");
    node.cli().in_dir(two.path()).fails(["publish"]).says(&["413 too_large", "bundles.max_size"]);
    let code = App::of_guest("code", "lab-p2", "");
    node.cli().in_dir(code.path()).fails(["publish"]).says(&["413 too_large", "`web`", "bundles.max_wasm"]);
}

#[test]
fn a_version_cannot_be_changed_and_publishing_it_again_is_no_error() {
    let node = Node::shared();
    let app = app_of("immutable", &wasm::cgi("one"));
    let cli = node.cli().in_dir(app.path());
    let first = cli.json(["publish", "--json"]);
    assert_eq!(first["created"], true);
    let again = cli.json(["publish", "--json"]);
    assert_eq!((&again["created"], &again["digest"]), (&json!(false), &first["digest"]));
    app.write("a.wasm", wasm::cgi("two"));
    cli.fails(["publish"]).says(&["409 version_exists", "immutable@0.1.0"]);
    // Under another version it is fine, and what did not change is not uploaded again.
    cli.ok(["publish", "0.2.0"]);
    let versions = cli.json(["versions", "--json"]);
    let versions: Vec<&str> = versions.as_array().unwrap().iter().map(|row| row["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["0.2.0", "0.1.0"]);
}

#[test]
fn content_is_uploaded_once() {
    let node = Node::shared();
    let app = App::of_guest("once", "lab-p2", "").file("public/a.txt", "a").end("[static]\n\"/\" = \"public\"");
    let cli = node.cli().in_dir(app.path());
    cli.ok(["publish"]);
    app.write("public/b.txt", "bb");
    let second = cli.ok(["publish", "0.2.0"]);
    // The code and the first file are there: a few hundred bytes of config and 2 of the new file go over the line.
    assert!(second.contains(" B uploaded"), "{second}");
}

/// A published app, to make others from.
struct Template {
    node: &'static Node,
    app: String,
    manifest: Value,
    config: Value,
}

impl Template {
    fn new(app: &str) -> Self {
        let node = Node::shared();
        let folder = app_of(app, &wasm::cgi("template")).file("public/a.txt", "a").end("[static]\n\"/\" = \"public\"");
        node.cli().in_dir(folder.path()).ok(["publish"]);
        let manifest = node.api("GET", &format!("/v1/apps/{app}/versions/0.1.0/manifest"), "").json();
        let digest = manifest["config"]["digest"].as_str().unwrap();
        let mut config = node.api("GET", &format!("/v1/blobs/{digest}"), "").json();
        config["version"] = "9.9.9".into();
        Self { node, app: app.into(), manifest, config }
    }

    fn put_blob(&self, content: &[u8]) -> String {
        let digest = Digest::of(content).to_string();
        let answer = self.node.api("PUT", &format!("/v1/blobs/{digest}"), content);
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        digest
    }

    /// Publishes version 9.9.9 with what the manifest and the config are now.
    fn publish(&mut self) -> Answer {
        let config = serde_json::to_vec(&self.config).unwrap();
        self.manifest["config"]["digest"] = self.put_blob(&config).into();
        self.manifest["config"]["size"] = config.len().into();
        let path = format!("/v1/apps/{}/versions/9.9.9", self.app);
        self.node.api("PUT", &path, serde_json::to_vec(&self.manifest).unwrap())
    }

    /// Makes this the code of the function.
    fn set_code(&mut self, code: &[u8]) {
        let digest = self.put_blob(code);
        self.config["functions"]["web"]["wasm"] = digest.as_str().into();
        let layers = self.manifest["layers"].as_array_mut().unwrap();
        let layer = layers.iter_mut().find(|layer| layer["mediaType"] == "application/wasm").unwrap();
        layer["digest"] = digest.into();
        layer["size"] = code.len().into();
    }

    #[track_caller]
    fn is_not_there(&self) {
        self.node.api("GET", &format!("/v1/apps/{}/versions/9.9.9", self.app), "").problem(404, "not_found");
    }
}

#[test]
fn a_bundle_made_by_hand_is_taken_when_it_is_right() {
    let mut bundle = Template::new("handmade");
    let answer = bundle.publish();
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[test]
fn paths_in_a_bundle_cannot_lead_anywhere() {
    let mut bundle = Template::new("traversal");
    let file = bundle.config["files"]["/a.txt"].clone();
    for path in ["/../../etc/cron.d/x", "../a", "/a/../b", "/a/./b", "/a\\..\\b", "a.txt", "//a", "/a\u{0}b", "/", ""] {
        bundle.config["files"] = json!({ path: file });
        bundle.publish().problem(422, "invalid");
        bundle.is_not_there();
    }
    bundle.config["files"] = json!({ "/a.txt": file });
    let layers = bundle.manifest["layers"].clone();
    for title in ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b"] {
        bundle.manifest["layers"][0]["annotations"] = json!({ "org.opencontainers.image.title": title });
        bundle.publish().problem(422, "invalid");
        bundle.is_not_there();
    }
    bundle.manifest["layers"] = layers.clone();
    for digest in ["sha256:../../../../etc/passwd", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e", "../x"] {
        bundle.manifest["layers"][0]["digest"] = digest.into();
        bundle.publish().problem(422, "invalid");
        bundle.is_not_there();
    }
    for digest in ["..%2f..%2fetc%2fpasswd", "sha256:..", "sha256:%2e%2e%2fx"] {
        let answer = bundle.node.api("PUT", &format!("/v1/blobs/{digest}"), "x");
        assert!((400..500).contains(&answer.status), "{digest}: {answer:?}");
    }
    bundle.manifest["layers"] = layers;
    assert_eq!(bundle.publish().status, 201);
}

#[test]
fn a_bundle_cannot_name_content_that_is_not_its_own() {
    let mut bundle = Template::new("borrow");
    // Content of another app: it is on the node, but no layer of this bundle.
    let other = app_of("lender", &wasm::cgi("secret of another app"));
    bundle.node.cli().in_dir(other.path()).ok(["publish"]);
    let secret = Digest::of(&wasm::cgi("secret of another app")).to_string();
    bundle.config["functions"]["web"]["wasm"] = secret.into();
    bundle.publish().problem(422, "invalid");
    bundle.is_not_there();
}

#[test]
fn a_bundle_whose_content_was_not_uploaded_is_refused() {
    let mut bundle = Template::new("missing");
    let digest = Digest::of(b"never uploaded").to_string();
    let layer = json!({ "mediaType": "application/vnd.minnow.file.v1", "digest": digest, "size": 14 });
    bundle.manifest["layers"].as_array_mut().unwrap().push(layer);
    bundle.config["files"]["/b.txt"] = json!({ "digest": digest, "size": 14 });
    let answer = bundle.publish();
    answer.problem(422, "invalid");
    assert!(answer.text().contains(&digest), "{}", answer.text());
    bundle.is_not_there();
    bundle.put_blob(b"never uploaded");
    assert_eq!(bundle.publish().status, 201);
}

#[test]
fn a_bundle_that_lies_about_itself_is_refused() {
    for (name, pointer, value) in [
        ("lie1", "/config/app", json!("another")),
        ("lie2", "/config/version", json!("1.0.0")),
        ("lie3", "/config/surprise", json!(1)),
        ("lie4", "/config/functions/web/limits/memory_bytes", json!(1u64 << 40)),
        ("lie5", "/config/functions/web/routes", json!(["no slash"])),
        ("lie6", "/config/functions/web/env", json!({ "A=B": "x" })),
        ("lie7", "/config/functions/web/egress", json!(["http://"])),
        ("lie8", "/manifest/artifactType", json!("application/x")),
        ("lie9", "/manifest/layers/0/size", json!(7)),
        ("lie10", "/manifest/layers/0/urls", json!(["http://169.254.169.254/"])),
    ] {
        let mut bundle = Template::new(name);
        let (place, rest) = match pointer.strip_prefix("/config") {
            Some(rest) => (&mut bundle.config, rest),
            None => (&mut bundle.manifest, pointer.strip_prefix("/manifest").unwrap()),
        };
        let (parent, key) = rest.rsplit_once('/').unwrap();
        let parent = place.pointer_mut(parent).unwrap();
        match key.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[key] = value,
        }
        bundle.publish().problem(422, "invalid");
        bundle.is_not_there();
    }
}

#[test]
fn content_under_a_wrong_digest_is_refused() {
    let node = Node::shared();
    let digest = Digest::of(b"what it should be").to_string();
    node.api("PUT", &format!("/v1/blobs/{digest}"), "something else").problem(400, "digest_mismatch");
    assert_eq!(node.api("HEAD", &format!("/v1/blobs/{digest}"), "").status, 404);
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let node = Node::start();
    let content = vec![b'z'; 1 << 20];
    let digest = Digest::of(&content).to_string();
    let mut connection = minnow_tests::Connection::open(node.admin).unwrap();
    let head = Request::get("node", &format!("/v1/blobs/{digest}"))
        .method("PUT")
        .header("authorization", &format!("Bearer {}", node.token()))
        .header("content-length", &content.len().to_string());
    connection.write_head(&head).unwrap();
    connection.write(&content[..700_000]).unwrap();
    // Sandboxes have folders there.
    let has_file = || {
        let mut entries = fs::read_dir(node.data_dir().join("tmp")).unwrap().map(Result::unwrap);
        entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
    };
    until("the upload has begun", has_file);
    drop(connection);
    until("nothing of it stays", || !has_file());
    assert_eq!(node.api("HEAD", &format!("/v1/blobs/{digest}"), "").status, 404);
    assert_eq!(node.api("PUT", &format!("/v1/blobs/{digest}"), content).status, 201);
}

/// How many blobs the node has.
fn blobs(node: &Node) -> usize {
    let folder = node.data_dir().join("blobs/sha256");
    let Ok(folders) = fs::read_dir(folder) else { return 0 };
    folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn a_publish_that_is_interrupted_is_not_visible() {
    let node = Node::start();
    let app = App::of_guest("interrupted", "lab-p2", "").end("[static]\n\"/\" = \"public\"");
    let mut random = minnow_tests::Random::new("a_publish_that_is_interrupted_is_not_visible");
    for index in 0..40 {
        app.write(&format!("public/{index}.bin"), random.bytes(50_000));
    }
    let cli = node.cli().in_dir(app.path());
    for _ in 0..5 {
        let enough = blobs(&node) as u64 + random.below(15);
        let mut command = cli.command(["publish"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut publish = cli.start(command);
        until("some files are uploaded", || blobs(&node) as u64 >= enough || publish.try_wait().unwrap().is_some());
        let _ = publish.kill();
        let finished = publish.wait().unwrap().success();
        // What the node was told to do it may do to its end; then the version is there whole.
        let answer = node.api("GET", "/v1/apps/interrupted/versions/0.1.0", "");
        if answer.status == 404 {
            assert!(!finished);
            node.get("interrupted", "/hello").problem(404, "unknown_app");
        } else {
            assert_eq!(answer.status, 200);
        }
    }
    node.serve(&app);
    for index in 0..40 {
        let served = node.get("interrupted", &format!("/{index}.bin"));
        assert!(served.body == fs::read(app.path().join(format!("public/{index}.bin"))).unwrap(), "{index}");
    }
}

#[test]
fn a_file_that_is_served_cannot_be_reached_by_another_app() {
    let node = Node::shared();
    let one = App::new("mine").file("public/a.txt", "mine").end("[static]\n\"/\" = \"public\"");
    let two = App::new("yours").file("public/b.txt", "yours").end("[static]\n\"/\" = \"public\"");
    node.serve(&one);
    node.serve(&two);
    assert_eq!(node.get("mine", "/a.txt").ok(), "mine");
    node.get("yours", "/a.txt").problem(404, "no_route");
}
