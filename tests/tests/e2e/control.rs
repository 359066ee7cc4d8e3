//! The control API and the admin listener.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
};

use minnow_tests::{App, Cli, Node, Request, eventually, minnow, repository, wasm};
use serde_json::json;

#[test]
fn the_api_wants_a_token() {
    let node = Node::shared();
    let call = |path: &str, value: Option<&str>| {
        let request = Request::get("node", path);
        node.call(&value.map_or(request.clone(), |value| request.header("authorization", value)))
    };
    let right = node.token();
    for path in ["/v1/node", "/v1/apps", "/v1/apps/x", "/v1/tokens", "/v1/apps/x/logs", "/v1/nothing-here"] {
        for value in [
            None,
            Some("Bearer wrong".to_owned()),
            Some(format!("Basic {right}")),
            Some("Bearer ".to_owned()),
            Some(format!("Bearer {}", &right[..right.len() - 1])),
            Some(format!("Bearer {right}0")),
        ] {
            let answer = call(path, value.as_deref());
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
        }
    }
    assert_eq!(call("/v1/node", Some(&format!("Bearer {right}"))).status, 200);
    assert_eq!(call("/v1/node", Some(&format!("bearer {right}"))).status, 200);
}

#[test]
fn tokens_can_be_made_listed_and_taken_back() {
    let node = Node::start();
    let made = node.api("POST", "/v1/tokens", r#"{"name":"ci"}"#);
    assert_eq!(made.status, 201);
    let (id, token) =
        (made.json()["id"].as_str().unwrap().to_owned(), made.json()["token"].as_str().unwrap().to_owned());
    let with =
        |token: &str| node.call(&Request::get("node", "/v1/apps").header("authorization", &format!("Bearer {token}")));
    assert_eq!(with(&token).status, 200);
    let listed = node.api("GET", "/v1/tokens", "");
    assert!(!listed.text().contains(token.trim_start_matches("mnw_")), "a token is shown again");
    assert_eq!(listed.json().as_array().unwrap().len(), 2);
    assert_eq!(node.api("DELETE", &format!("/v1/tokens/{id}"), "").status, 204);
    with(&token).problem(401, "unauthorized");
    // The last one is kept, so that nobody locks themselves out.
    let last = node.api("GET", "/v1/tokens", "").json()[0]["id"].as_str().unwrap().to_owned();
    node.api("DELETE", &format!("/v1/tokens/{last}"), "").problem(409, "conflict");
}

#[test]
fn probes_and_metrics_need_no_token() {
    let node = Node::shared();
    let probe = |path: &str| node.call(&Request::get("node", path));
    assert_eq!(probe("/healthz").ok(), "ok\n");
    assert_eq!(probe("/readyz").ok(), "ready\n");
    let metrics = probe("/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.ok().ends_with("# EOF\n"));
}

#[test]
fn the_description_that_is_served_is_the_one_that_is_committed() {
    let node = Node::shared();
    let served = node.call(&Request::get("node", "/v1/openapi.json"));
    assert_eq!(served.ok(), std::fs::read_to_string(repository().join("docs/openapi.json")).unwrap());
    let description = served.json();
    for path in ["/v1/apps", "/v1/apps/{app}/deploy", "/v1/apps/{app}/rollback", "/v1/blobs/{digest}", "/healthz"] {
        assert!(!description["paths"][path].is_null(), "{path} is not described");
    }
}

#[test]
fn what_is_unknown_is_named() {
    let node = Node::shared();
    node.serve(&App::new("known").code("web", "a.wasm", &wasm::cgi("x"), "routes = [\"/\"]"));
    for (method, path, body, part) in [
        ("GET", "/v1/apps/nobody", "", "nobody"),
        ("GET", "/v1/apps/nobody/versions", "", "nobody"),
        ("GET", "/v1/apps/nobody/logs", "", "nobody"),
        ("POST", "/v1/apps/nobody/deploy", "{}", "nobody"),
        ("POST", "/v1/apps/nobody/rollback", "", "nobody"),
        ("DELETE", "/v1/apps/nobody", "", "nobody"),
        ("GET", "/v1/apps/known/versions/7.7.7", "", "7.7.7"),
        ("POST", "/v1/apps/known/deploy", r#"{"version":"7.7.7"}"#, "7.7.7"),
        ("DELETE", "/v1/apps/known/versions/7.7.7", "", "7.7.7"),
        ("POST", "/v1/apps/known/functions/nothing/invoke", "{}", "nothing"),
    ] {
        let request = Request::get("node", path).method(method).header("content-type", "application/json");
        let token = format!("Bearer {}", node.token());
        let answer = node.call(&request.header("authorization", &token).body(body));
        answer.problem(404, "not_found");
        assert!(
            answer.json()["detail"].as_str().unwrap_or_default().contains(part),
            "{method} {path}: {}",
            answer.text()
        );
    }
    node.api("GET", "/v1/nothing-here", "").problem(404, "not_found");
    let wrong_method = node.api("PATCH", "/v1/apps", "");
    wrong_method.problem(405, "method_not_allowed");
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let node = Node::shared();
    let token = format!("Bearer {}", node.token());
    for (method, path, body) in [
        ("POST", "/v1/tokens", "not json"),
        ("POST", "/v1/tokens", r#"{"nam":"x"}"#),
        ("POST", "/v1/apps/x/deploy", r#"{"weight":1000}"#),
        ("POST", "/v1/apps/x/deploy", r#"{"version":"one"}"#),
        ("PUT", "/v1/apps/x/versions/1.0.0", "not json"),
        ("PUT", "/v1/apps/Not-A-Name/versions/1.0.0", "{}"),
        ("PUT", "/v1/apps/x/versions/one", "{}"),
        ("GET", "/v1/apps/x/logs?limit=many", ""),
    ] {
        let request = Request::get("node", path).method(method).header("content-type", "application/json");
        let answer = node.call(&request.header("authorization", &token).body(body));
        assert!([400, 422].contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        let code = answer.json()["code"].as_str().unwrap().to_owned();
        answer.problem(answer.status, &code);
    }
    let long = vec![b' '; 5 << 20];
    node.api("PUT", "/v1/apps/x/versions/1.0.0", long).problem(413, "too_large");
}

#[test]
fn both_listeners_are_on_loopback_unless_told_otherwise() {
    // A network of its own has the default ports free. Its loopback is down, but an address can be bound.
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--map-root-user"]).arg(minnow()).args(["node", "--data-dir"]).arg(data.path().join("data"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let cli = Cli::new();
    let mut node = cli.start(command);
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    let listening = eventually("both ports listen", || {
        assert!(node.try_wait().unwrap().is_none(), "the node ended");
        if network(&node.id().to_string()) == network("self") {
            return None;
        }
        let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", node.id())));
        let lines: String = tables.into_iter().flatten().collect();
        // `local_address` and `st`; 0A is LISTEN.
        let fields = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listen = fields.filter(|fields| fields.get(3) == Some(&"0A")).map(|fields| fields[1].to_owned());
        let listening: BTreeSet<String> = listen.collect();
        (listening.len() >= 2).then_some(listening)
    });
    node.kill().unwrap();
    node.wait().unwrap();
    // 127.0.0.1 as the kernel writes it, ports 7700 and 7701.
    assert_eq!(listening, BTreeSet::from(["0100007F:1E14".to_owned(), "0100007F:1E15".to_owned()]));
}

#[test]
fn the_node_says_what_it_is() {
    let node = Node::builder().argument("--domain").argument("apps.example.org").start();
    let info = node.api("GET", "/v1/node", "").json();
    assert_eq!(info["http"], node.http.to_string());
    assert_eq!(info["domain"], "apps.example.org");
    assert_eq!(info["default_app"], json!(null));
    assert!(info["version"].as_str().unwrap().starts_with("0."));
}

#[test]
fn a_domain_that_is_no_dns_name_is_refused_with_its_place_and_remedy() {
    let refused = |domain: &str| Node::builder().config(&format!("drain = \"1s\"\ndomain = \"{domain}\"")).refuses();
    refused("https://apps.example.org").says(&["node.toml", "line 2", "domain", "write the name alone"]);
    refused("*.apps.example.org").says(&["line 2", "what comes after it"]);
    refused("apps_one.example.org").says(&["line 2", "`apps_one`", "a-z"]);
    let ran = Cli::new().run(["node", "--data-dir", "data", "--domain", "10.0.0.1"]);
    assert_eq!(ran.code(), 2);
    ran.says(&["--domain", "10.0.0.1", "write a DNS name"]);
    // Letters have no case in it, and the dot of an absolute name is left away.
    let node = Node::builder().config("domain = \"Apps.Example.ORG.\"").start();
    assert_eq!(node.api("GET", "/v1/node", "").json()["domain"], "apps.example.org");
    node.serve(&App::new("site").code("web", "a.wasm", &wasm::cgi("found"), "routes = [\"/\"]"));
    assert_eq!(node.send(&Request::get("site.apps.example.org", "/")).ok(), "found");
}
