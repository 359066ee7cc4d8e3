//! WebSockets: through the gateway to a function, and from a function to other hosts.

use std::{
    io,
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use minnow_tests::{App, Node, PATIENCE, http::Request, until};
use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest as _,
    handshake::client::Response,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Echoes as Deno does it; says in the log how the connection ended.
const ECHO: &str = r#"
    export default {
        fetch(request) {
            if (request.headers.get("upgrade") !== "websocket") return new Response("no WebSocket asked for");
            const asked = request.headers.get("sec-websocket-protocol");
            const { socket, response } = Deno.upgradeWebSocket(request, asked ? { protocol: asked.split(",")[0] } : {});
            socket.onmessage = ({ data }) => {
                if (data === "spin") for (;;);
                if (data === "bye") return socket.close(4001, "as you like");
                socket.send(data);
            };
            socket.onclose = ({ code }) => console.log(`closed with ${code}`);
            return response;
        },
    };
"#;

/// An app with one function in JavaScript that gets every request.
fn app(name: &str, version: &str, source: &str, settings: &str) -> App {
    let manifest = format!(
        "name = \"{name}\"\nversion = \"{version}\"\n\n[functions.web]\njs = \"web.js\"\nroutes = [\"/{{*rest}}\"]\n{settings}\n"
    );
    App::with_manifest(manifest).file("web.js", source)
}

type Client = WebSocket<TcpStream>;

/// Opens a WebSocket to an app.
#[track_caller]
fn open(node: &Node, app: &str, protocol: Option<&str>) -> (Client, Response) {
    let stream = TcpStream::connect(node.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = format!("ws://{app}.localhost:{}/chat?room=1", node.http.port()).into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    tungstenite::client(request, stream).unwrap_or_else(|error| panic!("{error}: {}", node.log()))
}

/// Says something and reads what comes back.
#[track_caller]
fn ask(client: &mut Client, message: impl Into<Message>) -> Message {
    client.send(message.into()).unwrap();
    client.read().unwrap()
}

/// Reads until the other side closes; answers that, and gives the code.
#[track_caller]
fn closed(client: &mut Client) -> CloseCode {
    let frame: CloseFrame = loop {
        match client.read().unwrap() {
            Message::Close(frame) => break frame.unwrap(),
            // Deno asks whether the client is there.
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    };
    // Sends the answer, and waits for the end.
    while client.read().is_ok() {}
    frame.code
}

fn logged(node: &Node, app: &str, text: &str) -> bool {
    node.logs(app).iter().any(|line| line["message"].as_str().is_some_and(|message| message.contains(text)))
}

#[test]
fn messages_go_both_ways() {
    let node = Node::start();
    node.serve(&app("echo", "0.1.0", ECHO, ""));
    let (mut client, response) = open(&node, "echo", Some("chat,other"));
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(response.headers().contains_key("x-request-id") && !response.headers().contains_key("content-length"));
    assert_eq!(ask(&mut client, "hello"), Message::text("hello"));
    for length in [0, 125, 126, 65_535, 65_536, 1 << 20] {
        let bytes = vec![7; length];
        assert_eq!(ask(&mut client, bytes.clone()), Message::binary(bytes), "{length}");
    }
    // It counts for as long as it is open.
    assert_eq!(node.count("echo", "running"), 1);
    assert_eq!(node.metric("minnow_connections", &[]), 1.0);
    client.send("bye".into()).unwrap();
    assert_eq!(closed(&mut client), CloseCode::from(4001));
    until("nothing is left of it", || node.count("echo", "running") == 0);
    assert_eq!(node.metric("minnow_connections", &[]), 0.0);
}

#[test]
fn a_pair_is_answered_as_on_workers() {
    let node = Node::start();
    let source = r#"
        export default {
            fetch(request) {
                const { 0: client, 1: server } = new WebSocketPair();
                server.accept();
                server.addEventListener("message", ({ data }) => server.send(`you said ${data}`));
                return new Response(null, { status: 101, webSocket: client });
            },
        };
    "#;
    node.serve(&app("pair", "0.1.0", source, ""));
    let (mut client, _) = open(&node, "pair", None);
    assert_eq!(ask(&mut client, "hello"), Message::text("you said hello"));
    client.close(None).unwrap();
    while client.read().is_ok() {}
    until("nothing is left of it", || node.count("pair", "running") == 0);
}

#[test]
fn what_is_no_handshake_is_an_ordinary_request() {
    let node = Node::start();
    node.serve(&app("echo", "0.1.0", ECHO, ""));
    node.serve(&App::of_guest("wasm", "lab-p2", ""));
    let right = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in [("upgrade", "h2c"), ("sec-websocket-version", "8"), ("sec-websocket-key", "short")] {
        let request = right.iter().fold(Request::get("echo", "/"), |request, (each, usual)| {
            request.header(each, if *each == name { value } else { usual })
        });
        assert_eq!(node.send(&request).ok(), "no WebSocket asked for", "{name}: {value}");
    }
    // WebAssembly answers as it always does, and the connection goes on.
    let request = right.iter().fold(Request::get("wasm", "/"), |request, (name, value)| request.header(name, value));
    let (answer, connection) = node.open(&request).rest_and_connection().unwrap();
    assert_ne!(answer.status, 101);
    assert_ne!(connection.exchange(&Request::get("wasm", "/")).unwrap().rest().unwrap().status, 101);
}

#[test]
fn a_websocket_may_be_idle_for_longer_than_a_request_may_take() {
    let node = Node::start();
    node.serve(&app("echo", "0.1.0", ECHO, "[functions.web.limits]\ntimeout = \"500ms\"\ncpu = \"200ms\""));
    let (mut client, _) = open(&node, "echo", None);
    // A node that took the silence for a function that is stuck would close it within this time.
    client.get_ref().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match client.read() {
        Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => panic!("nothing was to come: {other:?}"),
    }
    client.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&mut client, "still here"), Message::text("still here"));
}

#[test]
fn a_client_that_goes_away_ends_it() {
    let node = Node::start();
    node.serve(&app("echo", "0.1.0", ECHO, ""));
    let (mut client, _) = open(&node, "echo", None);
    assert_eq!(ask(&mut client, "hello"), Message::text("hello"));
    drop(client);
    until("the function hears of it", || logged(&node, "echo", "closed with 1006"));
    until("nothing is left of it", || node.count("echo", "running") == 0);
}

#[test]
fn both_sides_are_told_when_the_node_stops() {
    // Longer than the test waits for the node's end: it must not come to that.
    let node = Node::builder().config("drain = \"10m\"").start();
    node.serve(&app("echo", "0.1.0", ECHO, ""));
    let mut clients: Vec<Client> = (0..3).map(|_| open(&node, "echo", None).0).collect();
    for client in &mut clients {
        assert_eq!(ask(client, "hello"), Message::text("hello"));
    }
    node.terminate();
    for client in &mut clients {
        assert_eq!(closed(client), CloseCode::Away);
    }
    assert!(node.wait().success());
}

#[test]
fn a_client_that_does_not_answer_holds_nothing_up() {
    // Longer than the test waits for the node's end: it must not come to that.
    let node = Node::builder().config("drain = \"10m\"").start();
    node.serve(&app("echo", "0.1.0", ECHO, ""));
    let (mut client, _) = open(&node, "echo", None);
    assert_eq!(ask(&mut client, "hello"), Message::text("hello"));
    node.terminate();
    assert!(node.wait().success());
    drop(client);
}

#[test]
fn a_version_that_is_not_live_any_more_lets_go_of_its_websockets() {
    let node = Node::start();
    node.serve(&app("echo", "0.1.0", ECHO, ""));
    let (mut old, _) = open(&node, "echo", None);
    assert_eq!(ask(&mut old, "hello"), Message::text("hello"));
    node.serve(&app("echo", "0.2.0", &ECHO.replace("socket.send(data)", "socket.send(`new ${data}`)"), ""));
    // It has a while to come to its end.
    assert_eq!(ask(&mut old, "still here"), Message::text("still here"));
    let (mut new, _) = open(&node, "echo", None);
    assert_eq!(ask(&mut new, "hello"), Message::text("new hello"));
    assert_eq!(closed(&mut old), CloseCode::Away);
    assert_eq!(ask(&mut new, "hello"), Message::text("new hello"));
}

#[test]
fn a_function_that_is_killed_says_goodbye_through_the_node() {
    let node = Node::start();
    node.serve(&app("echo", "0.1.0", ECHO, "[functions.web.limits]\ncpu = \"200ms\""));
    let (mut spinning, _) = open(&node, "echo", None);
    let (mut other, _) = open(&node, "echo", None);
    assert_eq!(ask(&mut other, "hello"), Message::text("hello"));
    spinning.send("spin".into()).unwrap();
    assert_eq!(closed(&mut spinning), CloseCode::Error);
    assert_eq!(closed(&mut other), CloseCode::Error);
    until("nothing is left of them", || node.count("echo", "running") == 0);
    let (mut next, _) = open(&node, "echo", None);
    assert_eq!(ask(&mut next, "hello"), Message::text("hello"));
}

/// Opens a WebSocket to `URL` and answers what it says first, or that it could not.
const CALLS: &str = r#"
    export default {
        fetch(request) {
            const url = new URL(request.url).searchParams.get("url");
            return new Promise((resolve) => {
                const socket = new WebSocket(url);
                socket.onopen = () => socket.send("hello");
                socket.onmessage = ({ data }) => { resolve(new Response(data)); socket.close(); };
                socket.onerror = () => resolve(new Response("failed", { status: 502 }));
            });
        },
    };
"#;

#[test]
fn a_function_opens_websockets_to_hosts_that_it_may_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    let serving = thread::spawn(move || -> io::Result<()> {
        let mut socket = tungstenite::accept(listener.accept()?.0).map_err(io::Error::other)?;
        let said = socket.read().map_err(io::Error::other)?;
        socket.send(format!("you said {said}").into()).map_err(io::Error::other)?;
        while socket.read().is_ok() {}
        Ok(())
    });
    let node = Node::builder().config("[egress]\nprivate_networks = [\"127.0.0.0/8\"]").start();
    node.serve(&app("calls", "0.1.0", CALLS, &format!("egress = [\"http://{host}\"]")));
    node.serve(&app("closed", "0.1.0", CALLS, ""));
    let path = format!("/?url=ws://{host}/chat");
    assert_eq!(node.get("calls", &path).ok(), "you said hello");
    serving.join().unwrap().unwrap();
    let refused = node.get("closed", &path);
    assert_eq!(refused.status, 502);
    let remedy = format!("WebSocket: the function may not reach http://{host}");
    until("the log says why, under the request's id", || {
        let id = refused.header("x-request-id").unwrap();
        let says =
            |line: &serde_json::Value| line["message"].as_str().unwrap().contains(&remedy) && line["request_id"] == id;
        node.logs("closed").iter().any(says)
    });
}
