//! Every kind of guest, and what a guest can see.

use std::collections::BTreeSet;

use minnow_tests::{App, Node, Request, eventually, until, wasm};
use serde_json::Value;

#[test]
fn what_a_file_is_is_read_from_the_file() {
    let node = Node::shared();
    let mut app = App::new("kinds");
    for (name, code) in [("p2", "hello-p2"), ("p3", "hello-p3"), ("component", "cgi-component"), ("core", "cgi-c")] {
        app = app.function(name, code, &format!("routes = [\"/{name}/{{*rest}}\"]"));
    }
    node.serve(&app);
    let status = node.status("kinds");
    let kinds: Vec<(&str, &str)> = status["functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|function| (function["function"].as_str().unwrap(), function["kind"].as_str().unwrap()))
        .collect();
    let expected = [("component", "command"), ("core", "command-core"), ("p2", "http-0.2"), ("p3", "http-0.3")];
    assert_eq!(kinds, expected);
    assert!(node.get("kinds", "/p2/").ok().contains("Hello, World!"));
    assert_eq!(node.get("kinds", "/p3/").ok(), "Hello, World!\n");
    assert_eq!(node.get("kinds", "/component/hello").ok(), "Hello, World!\n");
    assert_eq!(node.get("kinds", "/core/").json()["SCRIPT_NAME"], "/core");
}

#[test]
fn a_command_gets_its_request_in_cgi_form() {
    let node = Node::shared();
    let app = App::new("cgi")
        .function(
            "component",
            "cgi-component",
            "routes = [\"/component/{*rest}\"]\nenv = { GREETING = \"hi\", PATH_INFO = \"x\" }",
        )
        .function("core", "cgi-c", "routes = [\"/core/{*rest}\"]\nenv = { GREETING = \"hi\", PATH_INFO = \"x\" }");
    node.serve(&app);
    for kind in ["component", "core"] {
        let request = Request::get("cgi", &format!("/{kind}/?a=1&b=%20"))
            .method("PUT")
            .header("content-type", "text/x-test")
            .header("x-thing", "one")
            .header("proxy", "http://evil.example")
            .header("authorization", "Bearer secret")
            .body("twelve bytes");
        let variables = node.send(&request).json();
        for (name, value) in [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("REQUEST_METHOD", "PUT"),
            ("SCRIPT_NAME", &format!("/{kind}")),
            ("PATH_INFO", "/"),
            ("QUERY_STRING", "a=1&b=%20"),
            ("CONTENT_TYPE", "text/x-test"),
            ("CONTENT_LENGTH", "12"),
            ("SERVER_NAME", "cgi.localhost"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("HTTP_X_THING", "one"),
            ("GREETING", "hi"),
        ] {
            assert_eq!(variables[name], value, "{kind}: {name} in {variables}");
        }
        // httpoxy: https://httpoxy.org
        assert_eq!(variables.get("HTTP_PROXY"), None, "{kind}");

        let echoed = node.post("cgi", &format!("/{kind}/echo"), vec![7; 300_000]);
        assert_eq!((echoed.status, echoed.body == vec![7; 300_000]), (200, true), "{kind}");
    }
    let not_found = node.get("cgi", "/component/status");
    assert_eq!((not_found.status, not_found.text().as_str()), (404, "nothing here\n"));
    let redirect = node.get("cgi", "/component/redirect");
    assert_eq!((redirect.status, redirect.header("location")), (302, Some("https://example.com/elsewhere")));
}

#[test]
fn a_commands_output_streams() {
    let node = Node::shared();
    node.serve(&App::of_guest("cgistream", "cgi-component", "limits = { timeout = \"10m\" }"));
    // The second line is ten minutes away.
    let mut slow = node.open(&Request::get("cgistream", "/slow?ms=600000"));
    assert_eq!(slow.read_until("first\n"), "first\n");
    assert_eq!(node.count("cgistream", "running"), 1, "the first line came while the command ran");
    drop(slow);
    assert_eq!(node.get("cgistream", "/slow?ms=10").ok(), "first\nsecond\n");
}

#[test]
fn a_module_made_by_hand_answers() {
    let node = Node::shared();
    node.serve(&App::new("byhand").code("web", "a.wasm", &wasm::cgi("by hand"), "routes = [\"/\"]"));
    assert_eq!(node.get("byhand", "/").ok(), "by hand");
}

#[test]
fn a_guest_sees_its_own_environment_and_nothing_of_the_nodes() {
    let node = Node::builder().env("MINNOW_TEST_SECRET", "of the node").start();
    let app = App::new("env")
        .function("p2", "lab-p2", "routes = [\"/{*rest}\"]\nenv = { GREETING = \"hello\", EMPTY = \"\" }")
        .function("core", "cgi-c", "routes = [\"/core/\"]");
    node.serve(&app);
    assert_eq!(node.get("env", "/env").json(), serde_json::json!({"GREETING": "hello", "EMPTY": ""}));
    let cgi = node.get("env", "/core/").json();
    let allowed: BTreeSet<&str> = [
        "GATEWAY_INTERFACE",
        "PATH_INFO",
        "PATH_TRANSLATED",
        "QUERY_STRING",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REQUEST_METHOD",
        "REQUEST_SCHEME",
        "REQUEST_URI",
        "SCRIPT_NAME",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
        "HTTPS",
        "REMOTE_HOST",
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
    ]
    .into();
    for name in cgi.as_object().unwrap().keys() {
        assert!(allowed.contains(name.as_str()) || name.starts_with("HTTP_"), "{name} in {cgi}");
    }
}

#[test]
fn a_guest_reaches_no_files_but_its_own_and_no_sockets() {
    let node = Node::shared();
    node.serve(&App::of_guest("jail", "lab-p2", ""));
    let files = node.get("jail", "/files").json();
    assert_eq!(files["reached"], false, "{files}");
    assert_eq!(files["preopens"], serde_json::json!(["/tmp"]));
    // The node's own admin listener is there to be reached, and the host's name service too.
    for address in [node.admin.to_string(), node.http.to_string(), "localhost:80".into(), "1.1.1.1:80".into()] {
        let socket = node.get("jail", &format!("/socket?addr={address}")).json();
        assert_eq!(socket["connected"], false, "{socket}");
    }
}

#[test]
fn clocks_and_random_numbers_are_real() {
    let node = Node::shared();
    node.serve(&App::of_guest("clock", "lab-p2", ""));
    let clock = node.get("clock", "/clock").json();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(clock["wall_seconds"].as_u64().unwrap().abs_diff(now) < 60, "{clock}");
    assert!(clock["monotonic_resolution_ns"].as_u64().unwrap() > 0, "{clock}");
    let draw = || node.get("clock", "/random").json();
    let draws: BTreeSet<String> = (0..20).map(|_| draw()["bytes"].as_str().unwrap().to_owned()).collect();
    assert_eq!(draws.len(), 20);
}

#[test]
fn a_function_gets_the_request_as_the_client_sent_it() {
    let node = Node::shared();
    node.serve(&App::of_guest("asis", "lab-p2", ""));
    let request = Request::get("asis", "/headers?q=%2F&x=1")
        .method("PATCH")
        .header("x-twice", "a")
        .header("x-twice", "b")
        .header("connection", "x-hop")
        .header("x-hop", "dropped")
        .header("x-forwarded-for", "6.6.6.6")
        .body("abc");
    let seen = node.send(&request).json();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["path_with_query"], "/headers?q=%2F&x=1");
    assert_eq!(seen["scheme"], "http");
    assert_eq!(seen["authority"], "asis.localhost");
    let values = |name: &str| -> Vec<String> {
        let headers = seen["headers"].as_array().unwrap().iter();
        headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(values("x-twice"), ["a", "b"]);
    assert_eq!(values("content-length"), ["3"]);
    assert_eq!(values("x-forwarded-for"), ["127.0.0.1"], "a stranger's word is not taken");
    assert_eq!(values("x-forwarded-host"), ["asis.localhost"]);
    assert_eq!((values("x-hop"), values("connection")), (vec![], vec![]));
}

#[test]
fn trailers_reach_the_client() {
    let node = Node::shared();
    node.serve(&App::of_guest("trailers", "lab-p2", ""));
    let answer = node.send(&Request::get("trailers", "/trailers").header("te", "trailers"));
    assert_eq!(answer.ok(), "the trailers follow\n");
    assert_eq!(answer.trailers, [("x-lab-trailer".to_owned(), "here".to_owned())]);
}

#[test]
fn a_fresh_instance_remembers_nothing_and_a_reused_one_does() {
    let node = Node::shared();
    for (code, kind) in [("lab-p2", "2"), ("lab-p3", "3")] {
        let (fresh, warm) = (format!("fresh{kind}"), format!("warm{kind}"));
        node.serve(&App::of_guest(&fresh, code, "instances = \"fresh\""));
        node.serve(&App::of_guest(&warm, code, "instances = \"reuse\""));
        let state = |app: &str| -> Value { node.get(app, "/state").json() };
        let fresh: Vec<Value> = (0..10).map(|_| state(&fresh)).collect();
        assert!(fresh.iter().all(|state| state["count"] == 1), "{fresh:?}");
        let instances: BTreeSet<&str> = fresh.iter().map(|state| state["instance"].as_str().unwrap()).collect();
        assert_eq!(instances.len(), 10);

        // A request that comes before the instance is back from the one before may get another.
        until(&format!("an instance has served ten requests of {warm}"), || state(&warm)["count"] == 10);
    }
}

#[test]
fn an_instance_is_reused_a_bounded_number_of_times() {
    let node = Node::shared();
    for (name, code) in [("bound2", "lab-p2"), ("bound3", "lab-p3")] {
        node.serve(&App::of_guest(name, code, "instances = \"reuse\""));
        let mut connection = node.connect();
        let (mut most, mut instances) = (0, BTreeSet::new());
        for _ in 0..1500 {
            let (answer, kept) =
                connection.exchange(&Request::get(name, "/state")).unwrap().rest_and_connection().unwrap();
            connection = kept;
            let state = answer.json();
            most = most.max(state["count"].as_u64().unwrap());
            instances.insert(state["instance"].as_str().unwrap().to_owned());
        }
        assert!((100..=1000).contains(&most), "{name}: an instance served {most} requests");
        assert!(instances.len() >= 2, "{name}");
        // Warm starts are counted as such: all but the first.
        let counted = || node.metric("minnow_warm_starts_total", &[&format!("app=\"{name}\"")]);
        until("the warm starts are counted", || counted() > 1400.0);
    }
}

#[test]
fn concurrent_calls_share_one_03_instance_when_it_is_reused() {
    // One worker, so that all connections meet the same instance.
    let node = Node::builder().config("[gateway]\nworkers = 1").start();
    node.serve(&App::of_guest("meet", "lab-p3", "instances = \"reuse\""));
    node.serve(&App::of_guest("alone", "lab-p3", "instances = \"fresh\""));
    let together = |app: &'static str| {
        let address = node.http;
        let calls: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    let connection = minnow_tests::Connection::open(address).unwrap();
                    connection.exchange(&Request::get(app, "/together?n=4")).unwrap().rest().unwrap()
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
    };
    // One that computes when a request comes is left alone, so the four may miss each other.
    let met = eventually("the four meet", || {
        let met = together("meet");
        met.iter().all(|answer| answer.status == 200).then_some(met)
    });
    let instances: BTreeSet<String> = met.iter().map(|answer| answer.json()["instance"].to_string()).collect();
    assert_eq!(instances.len(), 1);
    let apart = together("alone");
    assert!(apart.iter().all(|answer| answer.status == 504), "a fresh instance has nobody to meet: {apart:?}");
}

#[test]
fn idle_code_is_not_loaded() {
    let node = Node::shared();
    node.serve(&App::new("idle").code("web", "a.wasm", &wasm::cgi("never called before"), "routes = [\"/\"]"));
    let is_loaded = || node.status("idle")["functions"][0]["loaded"].as_bool().unwrap();
    let cold = || node.metric("minnow_cold_starts_total", &["app=\"idle\""]);
    assert!(!is_loaded() && cold() == 0.0);
    node.get("idle", "/").ok();
    until("the start is counted", || cold() == 1.0);
    assert!(is_loaded());
}

#[test]
fn the_least_used_code_leaves_memory_when_the_bound_is_reached() {
    let node = Node::builder().config("[sandboxes]\ncode = \"2MiB\"").start();
    let names: Vec<String> = (0..30).map(|index| format!("lru{index}")).collect();
    for name in &names {
        let text = format!("this is {name}");
        node.serve(&App::new(name).code("web", "a.wasm", &wasm::cgi(&text), "routes = [\"/\"]"));
        node.get(name, "/").ok();
    }
    let loaded = names.iter().filter(|name| node.status(name)["functions"][0]["loaded"] == true).count();
    assert!((1..30).contains(&loaded), "{loaded} of 30 are loaded");
    assert!(node.metric("minnow_loaded_code_bytes", &[]) <= f64::from(2 << 20));
    // What left comes back when it is asked for.
    for name in &names {
        assert_eq!(node.get(name, "/").ok(), format!("this is {name}"));
    }
}
