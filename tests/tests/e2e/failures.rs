//! Guests that do what no good guest does. Each fails only its own request.

use minnow_tests::{App, Node, Request, until, wasm};

/// A node with the lab under `name`.
fn lab(name: &str) -> &'static Node {
    let node = Node::shared();
    node.serve(&App::of_guest(name, "lab-p2", ""));
    node
}

/// The message that the app's log has under a request id.
fn logged(node: &Node, app: &str, id: &str) -> String {
    minnow_tests::eventually("the log has a line for the request", || {
        let lines = node.logs(app);
        let line = lines.iter().find(|line| line["request_id"] == id && line["source"] == "node")?;
        assert_eq!(line["level"], "error");
        Some(line["message"].as_str().unwrap().to_owned())
    })
}

#[test]
fn a_guest_that_fails_gets_its_own_code_and_a_line_in_the_log() {
    let node = lab("fail");
    for (path, status, code, message) in [
        ("/panic", 500, "function_trapped", "trapped"),
        ("/exit?code=3", 500, "function_exited", "exited with code 3"),
        ("/exit?code=0", 500, "function_exited", "exited with code 0"),
        ("/noanswer", 500, "no_response", "without setting a response"),
    ] {
        let id = node.get("fail", path).problem(status, code);
        let message_found = logged(node, "fail", &id);
        assert!(message_found.contains(message), "{path}: {message_found}");
        node.get("fail", "/hello").ok();
    }
    until("nothing runs", || node.count("fail", "running") == 0);
    for (code, times) in [("function_trapped", 1.0), ("function_exited", 2.0), ("no_response", 1.0)] {
        let counted = || node.metric("minnow_requests_total", &["app=\"fail\"", &format!("code=\"{code}\"")]);
        until(&format!("{code} is counted"), || counted() == times);
    }
}

#[test]
fn a_trap_in_a_03_guest_or_a_command_gets_the_same_code() {
    let node = Node::shared();
    node.serve(&App::of_guest("trap3", "lab-p3", ""));
    node.get("trap3", "/panic").problem(500, "function_trapped");
    node.get("trap3", "/hello").ok();
    node.serve(&App::of_guest("trapcgi", "cgi-component", ""));
    node.get("trapcgi", "/exit").problem(500, "function_exited");
    node.get("trapcgi", "/bad").problem(502, "invalid_response");
    node.get("trapcgi", "/hello").ok();
}

#[test]
fn a_problem_does_not_tell_what_is_inside() {
    let node = lab("inside");
    for path in ["/panic", "/exit?code=3", "/noanswer"] {
        let answer = node.get("inside", path);
        let text = format!("{:?} {}", answer.headers, answer.text());
        for inner in ["wasm", "lab", "panick", "lib.rs", "backtrace", "unreachable", "/tmp", "code 3"] {
            assert!(!text.contains(inner), "{path} tells `{inner}`: {text}");
        }
    }
}

#[test]
fn a_guest_that_answers_twice_gives_its_first_answer_or_fails_alone() {
    let node = lab("twice");
    let answer = node.connect().exchange(&Request::get("twice", "/twice")).unwrap();
    assert_eq!(answer.status, 200);
    // The guest is stopped at its mistake, which may cut the first answer.
    if let Ok(answer) = answer.rest() {
        assert_eq!(answer.text(), "first\n");
    }
    node.get("twice", "/hello").ok();
    until("nothing runs", || node.count("twice", "running") == 0);
}

#[test]
fn headers_that_are_too_large_fail_only_their_request() {
    let node = lab("headers");
    let fits = node.get("headers", "/bigheaders?kb=16");
    assert_eq!(fits.ok(), "headers sent\n");
    assert_eq!(fits.headers.iter().filter(|(name, _)| name.starts_with("x-big-")).count(), 16);
    for kb in [200, 5000] {
        let answer = node.get("headers", &format!("/bigheaders?kb={kb}"));
        assert!(answer.status >= 500, "{kb} KiB of headers: {}", answer.status);
        node.get("headers", "/hello").ok();
    }
}

#[test]
fn a_body_that_breaks_off_does_not_look_complete() {
    let node = lab("partial");
    let mut answer = node.open(&Request::get("partial", "/partial"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.read_until("partial\n"), "partial\n");
    assert!(answer.piece().is_err(), "the body must not look complete");
    node.get("partial", "/hello").ok();
}

#[test]
fn one_call_that_traps_does_not_end_those_beside_it() {
    let node = lab("beside2");
    let mut beside = node.open(&Request::get("beside2", "/sse?n=3&ms=400"));
    beside.read_until("event 1");
    node.get("beside2", "/panic").problem(500, "function_trapped");
    beside.read_until("event 3\n\n");
    assert_eq!(beside.piece().unwrap(), None);
}

#[test]
fn a_warm_instance_that_traps_is_replaced() {
    let node = Node::shared();
    for (name, code) in [("replace2", "lab-p2"), ("replace3", "lab-p3")] {
        node.serve(&App::of_guest(name, code, "instances = \"reuse\""));
        for _ in 0..3 {
            node.get(name, "/state").ok();
            node.get(name, "/panic").problem(500, "function_trapped");
        }
        node.get(name, "/hello").ok();
        until("nothing runs", || node.count(name, "running") == 0);
    }
}

#[test]
fn a_response_that_cannot_be_sent_is_counted_once_as_what_the_client_saw() {
    let node = Node::start();
    for (name, output, reason) in [
        ("interim", "Status: 103 Early Hints\n\n", "its status 103 is not a final one"),
        ("nolength", "Content-Type: text/plain\nContent-Length: five\n\nhello", "its content-length is not one number"),
    ] {
        node.serve(&App::new(name).code("web", "a.wasm", &wasm::prints(output), "routes = [\"/\"]"));
        let id = node.get(name, "/").problem(502, "invalid_response");
        let message = logged(&node, name, &id);
        assert!(message.contains(reason), "{message}");
        let of_app = format!("app=\"{name}\"");
        until("it is counted", || node.metric("minnow_requests_total", &[&of_app]) >= 1.0);
        assert_eq!(node.metric("minnow_requests_total", &[&of_app]), 1.0);
        let as_seen = [&*of_app, "status=\"5xx\"", "code=\"invalid_response\""];
        assert_eq!(node.metric("minnow_requests_total", &as_seen), 1.0);
    }
    assert_eq!(node.metric("minnow_gateway_requests_total", &["code=\"invalid_response\""]), 0.0);
}

#[test]
fn a_body_that_grows_too_large_is_counted_once_as_what_the_client_saw() {
    let node = Node::start();
    node.serve(&App::of_guest("grows", "lab-p2", "limits = { request_body = \"1KiB\" }"));
    let mut connection = node.connect();
    let head = Request::get("grows", "/count").method("POST").header("transfer-encoding", "chunked");
    connection.write_head(&head).unwrap();
    connection.write(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(0x800)).as_bytes()).unwrap();
    // The guest answers 200 all the same.
    connection.response(false).unwrap().rest().unwrap().problem(413, "request_too_large");
    let counted = |parts: &[&str]| node.metric("minnow_requests_total", &[&["app=\"grows\""], parts].concat());
    until("it is counted", || counted(&[]) >= 1.0);
    assert_eq!((counted(&[]), counted(&["status=\"4xx\"", "code=\"request_too_large\""])), (1.0, 1.0));
    assert_eq!(node.metric("minnow_gateway_requests_total", &["code=\"request_too_large\""]), 0.0);
}
