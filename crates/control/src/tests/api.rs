//! What holds for every call: tokens, problems, and the API's description.

use std::path::Path;

use http::{Method, Request};
use minnow_model::Digest;

use super::{Node, bundle};

#[tokio::test]
async fn calls_under_v1_need_a_token_and_probes_do_not() {
    let node = Node::new().await;
    let secret = format!("Bearer mnw_{}", "0".repeat(64));
    for authorization in ["", "Bearer ", "Basic x", secret.as_str()] {
        for path in ["/v1/node", "/v1/apps", "/v1/nothing"] {
            let mut request = Request::builder().uri(path);
            if !authorization.is_empty() {
                request = request.header("authorization", authorization);
            }
            let answer = node.send(request.body("".into()).unwrap()).await;
            answer.problem("unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/v1/openapi.json"] {
        let answer = node.send(Request::builder().uri(path).body("".into()).unwrap()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let info = node.get("/v1/node").await.ok(200);
    assert_eq!((&info["http"], &info["domain"]), (&"127.0.0.1:7700".into(), &"localhost".into()));
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_problem_document() {
    let node = Node::new().await;
    let long = "x".repeat(5 << 20);
    for (method, path, body, code, detail) in [
        (Method::GET, "/v1/nothing", "", "not_found", "openapi"),
        (Method::GET, "/nothing", "", "not_found", "openapi"),
        (Method::POST, "/v1/apps", "", "method_not_allowed", ""),
        (Method::GET, "/v1/apps/none", "", "not_found", "minnow apps"),
        (Method::GET, "/v1/apps/Not%20a%20label", "", "bad_request", "a-z"),
        (Method::GET, "/v1/apps/none/versions/one", "", "bad_request", "version"),
        (Method::GET, "/v1/blobs/md5:00", "", "bad_request", "sha256"),
        (Method::POST, "/v1/apps/none/deploy", "{", "bad_request", "EOF"),
        (Method::POST, "/v1/apps/none/deploy", r#"{"wait": 1}"#, "invalid", "wait"),
        (Method::POST, "/v1/apps/none/deploy", "{}", "not_found", "minnow apps"),
        (Method::POST, "/v1/apps/none/rollback", "", "not_found", "minnow apps"),
        (Method::POST, "/v1/apps/none/functions/f/invoke", "{}", "not_found", "minnow apps"),
        (Method::GET, "/v1/apps/none/logs?limit=1000000", "", "invalid", "limit"),
        (Method::GET, "/v1/apps/none/logs?tail=1", "", "bad_request", "tail"),
        (Method::DELETE, "/v1/apps/none", "", "not_found", "minnow apps"),
        (Method::DELETE, "/v1/tokens/none", "", "not_found", "none"),
        (Method::POST, "/v1/tokens", r#"{"name": " "}"#, "invalid", "name"),
        (Method::PUT, "/v1/apps/a/versions/1.0.0", "{}", "invalid", "manifest"),
        (Method::PUT, "/v1/apps/a/versions/1.0.0", long.as_str(), "too_large", ""),
    ] {
        let answer = node.call(method.clone(), path, body.to_owned()).await;
        let problem = answer.problem(code);
        let found = problem["detail"].as_str().unwrap_or_default();
        assert!(found.contains(detail), "{method} {path}: {found}");
        assert_eq!(code == "method_not_allowed", answer.headers.contains_key("allow"));
    }
}

#[tokio::test]
async fn an_upload_is_checked_and_stored_once() {
    let node = Node::new().await;
    let path = format!("/v1/blobs/{}", Digest::of(b"hello"));
    assert_eq!(node.call(Method::HEAD, &path, "").await.status, 404);
    node.call(Method::PUT, &path, "hullo").await.problem("digest_mismatch");
    let broken = futures::stream::iter([Ok("hel"), Err(std::io::Error::other("gone"))]);
    node.call(Method::PUT, &path, axum::body::Body::from_stream(broken)).await.problem("bad_request");
    assert_eq!(node.call(Method::HEAD, &path, "").await.status, 404);
    assert_eq!(node.put_blob(b"hello").await.ok(201)["size"], 5);
    node.put_blob(b"hello").await.ok(200);
    let found = node.call(Method::HEAD, &path, "").await;
    assert_eq!((found.status.as_u16(), &found.headers["content-length"]), (200, &"5".parse().unwrap()));
    node.get(&path).await.problem("not_found");
    let large = node.put_blob(&vec![0; (64 << 10) + 1]).await.problem("too_large");
    assert!(large["detail"].as_str().unwrap().contains("at most 64.0 KiB (bundles.max_size)"), "{large}");
}

#[tokio::test]
async fn a_token_is_shown_once_and_void_once_deleted() {
    let node = Node::new().await;
    let created = node.call(Method::POST, "/v1/tokens", r#"{"name": "ci"}"#).await.ok(201);
    let (id, secret) = (created["id"].as_str().unwrap(), created["token"].as_str().unwrap());
    let list = node.get("/v1/tokens").await;
    assert!(!String::from_utf8_lossy(&list.body).contains(secret));
    let list = list.ok(200);
    assert_eq!(list.as_array().unwrap().iter().map(|token| &token["name"]).collect::<Vec<_>>(), ["admin", "ci"]);
    let with = |token: &str| {
        Request::builder().uri("/v1/apps").header("authorization", format!("Bearer {token}")).body("".into()).unwrap()
    };
    node.send(with(secret)).await.ok(200);
    node.call(Method::DELETE, &format!("/v1/tokens/{id}"), "").await.ok(204);
    node.send(with(secret)).await.problem("unauthorized");
    let admin = list[0]["id"].as_str().unwrap();
    node.call(Method::DELETE, &format!("/v1/tokens/{admin}"), "").await.problem("conflict");
}

#[tokio::test]
async fn a_deleted_admin_token_does_not_come_back_with_a_restart() {
    let mut node = Node::new().await;
    let admin = node.get("/v1/tokens").await.ok(200)[0]["id"].as_str().unwrap().to_owned();
    node.call(Method::POST, "/v1/tokens", r#"{"name": "ci"}"#).await.ok(201);
    node.call(Method::DELETE, &format!("/v1/tokens/{admin}"), "").await.ok(204);
    node.restart().await;
    assert_eq!(node.opened().token, "", "the file is gone");
    node.get("/v1/apps").await.problem("unauthorized");
}

#[tokio::test]
async fn a_draining_node_is_not_ready() {
    let node = Node::new().await;
    node.control().begin_drain();
    let answer = node.get("/readyz").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (503, b"shutting down\n".as_slice()));
    node.get("/healthz").await;
}

#[tokio::test]
async fn logs_are_json_lines() {
    let node = Node::new().await;
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "one")).await.ok(201);
    node.deploy("hello", "{}").await.ok(200);
    let answer = node.get("/v1/apps/hello/logs?follow=false").await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines: Vec<minnow_model::LogLine> =
        String::from_utf8(answer.body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].message.contains("deployment 1 is live: 1.0.0 100 %"), "{lines:?}");
    node.control().begin_drain();
    assert_eq!(
        node.get("/v1/apps/hello/logs?follow=true").await.status,
        200,
        "a followed log ends when the node drains"
    );
}

/// `MINNOW_UPDATE=1 cargo test -p minnow-control` writes the file.
#[test]
fn the_committed_description_is_current() {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/openapi.json");
    let json = crate::openapi_json();
    if std::env::var_os("MINNOW_UPDATE").is_some() {
        std::fs::write(&path, &json).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == json, "docs/openapi.json is old: run MINNOW_UPDATE=1 cargo test -p minnow-control");
}
