//! Bodies that flow: as they are written, with back-pressure, in constant memory.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use minnow_tests::{App, Node, Request, http2, until};

const GIB: u64 = 1 << 30;
/// What a node's memory may grow by while a gigabyte passes through it, in bytes.
const MEMORY: u64 = 64 << 20;

/// A node whose lab may take long: a debug build on a busy machine moves a few hundred MB a second.
fn patient(code: &str) -> Node {
    let node = Node::start();
    let limits = "[functions.web.limits]\ncpu = \"60s\"\ntimeout = \"10m\"\nrequest_body = \"2GiB\"";
    node.serve(&App::of_guest("big", code, limits));
    node.get("big", "/");
    node
}

#[test]
fn a_gigabyte_comes_down_in_constant_memory() {
    let node = patient("lab-p2");
    let before = node.rss_bytes();
    let mut download = node.open(&Request::get("big", &format!("/download?bytes={GIB}")));
    let (mut bytes, mut most) = (0, 0);
    let mut looked = Instant::now();
    while let Some(piece) = download.piece().unwrap() {
        bytes += piece.len() as u64;
        if looked.elapsed() > Duration::from_millis(20) {
            most = most.max(node.rss_bytes());
            looked = Instant::now();
        }
    }
    assert_eq!(bytes, GIB);
    let grown = most.max(node.rss_bytes()).saturating_sub(before);
    assert!(grown < MEMORY, "the node grew by {grown} bytes");
}

#[test]
fn a_gigabyte_goes_up_in_constant_memory() {
    let node = patient("lab-p2");
    let before = node.rss_bytes();
    let mut connection = node.connect();
    let head = Request::get("big", "/count").method("POST").header("content-length", &GIB.to_string());
    connection.write_head(&head).unwrap();
    let piece = vec![b'u'; 1 << 20];
    let mut most = 0;
    for _ in 0..GIB >> 20 {
        connection.write(&piece).unwrap();
        most = most.max(node.rss_bytes());
    }
    let answer = connection.response(false).unwrap().rest().unwrap();
    assert_eq!(answer.json()["bytes"], GIB);
    let grown = most.max(node.rss_bytes()).saturating_sub(before);
    assert!(grown < MEMORY, "the node grew by {grown} bytes");
}

#[test]
fn a_client_that_does_not_read_holds_the_guest_back() {
    let node = patient("lab-p2");
    let before = node.rss_bytes();
    let mut download = node.open(&Request::get("big", &format!("/download?bytes={GIB}")));
    download.piece().unwrap();
    // The guest stops writing, so the node has nothing to do.
    let mut last = (node.cpu(), Instant::now());
    until("the node has come to rest", || {
        if last.1.elapsed() < Duration::from_millis(300) {
            return false;
        }
        let used = node.cpu() - last.0;
        last = (node.cpu(), Instant::now());
        used < Duration::from_millis(100)
    });
    assert_eq!(node.count("big", "running"), 1);
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < MEMORY, "the node grew by {grown} bytes");
}

#[test]
fn a_body_streams_up_and_down_at_the_same_time() {
    for code in ["lab-p2", "lab-p3", "cgi-component"] {
        let node = Node::shared();
        let name = format!("duplex-{code}");
        node.serve(&App::of_guest(&name, code, ""));
        let mut connection = node.connect();
        let head = Request::get(&name, "/echo").method("POST").header("transfer-encoding", "chunked");
        connection.write_head(&head).unwrap();
        let mut writer = connection.writer();
        let mut send = |text: &str| write!(writer, "{:x}\r\n{text}\r\n", text.len()).unwrap();
        send("first");
        let mut response = connection.response(false).unwrap();
        assert_eq!(response.read_until("first"), "first", "{code}");
        // The answer to the first part is here before the second part was sent.
        send("second");
        assert_eq!(response.read_until("second"), "second", "{code}");
        writer.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(response.rest().unwrap().text(), "", "{code}");
    }
}

#[test]
fn events_arrive_as_they_are_written() {
    let node = Node::shared();
    for (name, code) in [("events2", "lab-p2"), ("events3", "lab-p3")] {
        node.serve(&App::of_guest(name, code, "limits = { timeout = \"5m\" }"));
        // The second event is a minute away.
        let mut events = node.open(&Request::get(name, "/sse?n=2&ms=60000"));
        assert_eq!(events.header("content-type"), Some("text/event-stream"));
        assert_eq!(events.read_until("event 1\n\n"), "id: 1\ndata: event 1\n\n");
        assert_eq!(node.count(name, "running"), 1);
        drop(events);
        until("the client's leaving ended the invocation", || node.count(name, "running") == 0);
    }
}

#[test]
fn a_client_that_goes_away_cancels_its_invocation() {
    let node = Node::shared();
    let limits = "limits = { timeout = \"10m\", cpu = \"60s\" }";
    for (name, code, path) in [
        ("gone2", "lab-p2", "/sleep?ms=600000"),
        ("gone2b", "lab-p2", "/loop"),
        ("gone2c", "lab-p2", "/stall"),
        ("gone3", "lab-p3", "/sleep?ms=600000"),
        ("gonecgi", "cgi-component", "/slow?ms=600000"),
    ] {
        node.serve(&App::of_guest(name, code, limits));
        let mut connection = node.connect();
        connection.write_head(&Request::get(name, path)).unwrap();
        until("it runs", || node.count(name, "running") == 1);
        drop(connection);
        until("it has ended", || node.count(name, "running") == 0);
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_its_upload_cancels_its_invocation() {
    let node = Node::shared();
    node.serve(&App::of_guest("halfup", "lab-p2", "limits = { timeout = \"10m\" }"));
    let mut connection = node.connect();
    let head = Request::get("halfup", "/count").method("POST").header("content-length", "1000000");
    connection.write_head(&head).unwrap();
    connection.write(&[b'x'; 1000]).unwrap();
    until("it runs", || node.count("halfup", "running") == 1);
    drop(connection);
    until("it has ended", || node.count("halfup", "running") == 0);
}

#[test]
fn http2_works_without_an_upgrade_and_runs_requests_side_by_side() {
    let node = Node::shared();
    node.serve(&App::of_guest("h2", "lab-p2", "").file("public/a.txt", "static").end("[static]\n\"/\" = \"public\""));
    let paths = ["/sleep?ms=300", "/hello", "/a.txt", "/panic", "/nothing-here", "/trailers"];
    let answers = http2::get_all(node.http, "h2.localhost", &paths);
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 500, 404, 200]);
    assert_eq!(answers[1].1, "Hello, World!\n");
    assert_eq!(answers[2].1, "static");
    assert!(answers[3].1.contains("function_trapped"));
    let unknown = http2::get_all(node.http, "unknown.localhost", &["/"]);
    assert_eq!(unknown[0].0, 404);
}

#[test]
fn an_http2_request_that_is_taken_back_cancels_its_invocation() {
    let node = Node::shared();
    node.serve(&App::of_guest("h2back", "lab-p2", "limits = { timeout = \"10m\" }"));
    let count = |expected: u64| move || node.count("h2back", "running") == expected;
    http2::take_back(node.http, "h2back.localhost", "/sleep?ms=600000", count(1), count(0));
}

#[test]
fn what_passes_through_a_guest_of_any_kind_takes_constant_memory() {
    const BYTES: u64 = 96 << 20;
    for code in ["lab-p3", "cgi-component", "cgi-c"] {
        let node = patient(code);
        let before = node.rss_bytes();
        let mut connection = node.connect();
        let head = Request::get("big", "/echo").method("POST").header("content-length", &BYTES.to_string());
        connection.write_head(&head).unwrap();
        let mut writer = connection.writer();
        let upload = thread::spawn(move || {
            let piece = vec![b'e'; 1 << 20];
            (0..BYTES >> 20).try_for_each(|_| writer.write_all(&piece))
        });
        let mut response = connection.response(false).unwrap();
        let (mut bytes, mut most) = (0, 0);
        while let Some(piece) = response.piece().unwrap() {
            bytes += piece.len() as u64;
            most = most.max(node.rss_bytes());
        }
        upload.join().unwrap().unwrap();
        assert_eq!(bytes, BYTES, "{code}");
        let grown = most.saturating_sub(before);
        assert!(grown < MEMORY, "{code}: the node grew by {grown} bytes");
    }
}

#[test]
fn many_clients_at_once_all_get_their_own_answer() {
    let node = Node::shared();
    node.serve(&App::of_guest("many", "lab-p2", ""));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            thread::spawn(move || {
                for round in 0..25 {
                    let text = format!("client {client} round {round}");
                    assert_eq!(Node::shared().post("many", "/echo", text.as_str()).ok(), text);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}
