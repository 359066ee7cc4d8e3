//! Variables and secrets over the API. That functions get them is tested end to end, on the real binary.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use minnow_model::{BundleConfig, BundledCode, BundledFunction, Digest, Grants, Tenant};
use serde_json::json;

use super::{Node, bundle};
use crate::{environment::place, registry::Settings};

const SECRET: &str = "sk_live_51H8xTcKq";

impl Node {
    async fn patch(&self, app: &str, body: serde_json::Value) -> super::Answer {
        self.call(Method::PATCH, &format!("/v1/apps/{app}/config"), body.to_string()).await
    }

    async fn put_secret(&self, app: &str, name: &str, value: &str) -> super::Answer {
        let body = json!({ "value": value }).to_string();
        self.call(Method::PUT, &format!("/v1/apps/{app}/secrets/{name}"), body).await
    }

    /// Whether any file of the node holds this text.
    fn holds(&self, text: &str) -> bool {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read(&path).unwrap().windows(text.len()).any(|piece| piece == text.as_bytes()) {
                    return true;
                }
            }
        }
        false
    }
}

#[tokio::test]
async fn variables_are_set_listed_unset_and_kept() {
    let mut node = Node::new().await;
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "one")).await.ok(201);
    node.deploy("hello", "{}").await.ok(200);
    let set = node.patch("hello", json!({ "A": "1", "B": "" })).await.ok(200);
    assert_eq!(set, json!({ "revision": 1, "changed": true, "app_created": false }));
    node.advance(Duration::from_secs(1));
    let set = node.patch("hello", json!({ "A": "2", "B": null })).await.ok(200);
    assert_eq!(set["revision"], 2);
    assert_eq!(node.patch("hello", json!({ "A": "2" })).await.ok(200)["changed"], false);
    node.restart().await;
    let listed = node.get("/v1/apps/hello/config").await.ok(200);
    let history = node.get("/v1/apps/hello/config/history").await.ok(200);
    let second = history[0]["time_ms"].as_u64().unwrap();
    assert_eq!(listed, json!([{ "name": "A", "value": "2", "revision": 2, "time_ms": second }]));
    assert_eq!(
        history,
        json!([
            { "revision": 2, "time_ms": second, "changes": { "A": "2", "B": null } },
            { "revision": 1, "time_ms": second - 1000, "changes": { "A": "1", "B": "" } },
        ])
    );
    assert_eq!(node.live("hello"), ["1.0.0:100"]);
    let log = String::from_utf8(node.get("/v1/apps/hello/logs").await.body).unwrap();
    assert!(log.contains("variables changed, revision 2: A, B"), "{log}");
}

#[tokio::test]
async fn settings_can_come_before_the_first_version() {
    let node = Node::new().await;
    for path in ["config", "config/history", "secrets"] {
        node.get(&format!("/v1/apps/hello/{path}")).await.problem("not_found");
    }
    node.patch("hello", json!({ "A": null })).await.problem("not_found");
    assert_eq!(node.patch("hello", json!({ "A": "1" })).await.ok(200)["app_created"], true);
    assert_eq!(node.put_secret("hello", "B", SECRET).await.ok(201)["app_created"], false);
    assert_eq!(node.put_secret("other", "B", SECRET).await.ok(201)["app_created"], true);
    assert_eq!(node.get("/v1/apps/hello").await.ok(200)["versions"], 0);
    node.deploy("hello", "{}").await.problem("not_found");
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "one")).await.ok(201);
    node.deploy("hello", "{}").await.ok(200);
    assert_eq!(node.get("/v1/apps/hello/config").await.ok(200)[0]["value"], "1");
    node.call(Method::DELETE, "/v1/apps/hello", "").await.ok(204);
    node.get("/v1/apps/hello/config").await.problem("not_found");
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "one")).await.ok(201);
    for path in ["config", "config/history", "secrets"] {
        assert_eq!(node.get(&format!("/v1/apps/hello/{path}")).await.ok(200), json!([]), "{path} went with the app");
    }
}

#[tokio::test]
async fn a_secret_is_shown_to_nobody_and_is_in_no_file() {
    let mut node = Node::new().await;
    let stored = node.put_secret("hello", "STRIPE_KEY", SECRET).await;
    assert!(!String::from_utf8_lossy(&stored.body).contains(SECRET));
    let stored = stored.ok(201);
    assert_eq!((&stored["name"], &stored["readable"]), (&"STRIPE_KEY".into(), &true.into()));
    node.advance(Duration::from_secs(1));
    node.put_secret("hello", "STRIPE_KEY", SECRET).await.ok(200);
    let created = stored["created_ms"].as_u64().unwrap();
    let listed = node.get("/v1/apps/hello/secrets").await.ok(200);
    assert_eq!(
        listed,
        json!([{ "name": "STRIPE_KEY", "created_ms": created, "changed_ms": created + 1000, "readable": true }])
    );
    node.control().logs.flush().await;
    assert!(!node.holds(SECRET) && node.holds("STRIPE_KEY"));
    node.restart().await;
    assert_eq!(node.get("/v1/apps/hello/secrets").await.ok(200), listed);
    node.call(Method::DELETE, "/v1/apps/hello/secrets/STRIPE_KEY", "").await.ok(204);
    node.call(Method::DELETE, "/v1/apps/hello/secrets/STRIPE_KEY", "").await.problem("not_found");
    let log = String::from_utf8(node.get("/v1/apps/hello/logs").await.body).unwrap();
    assert!(log.contains("the secret STRIPE_KEY was set") && log.contains("was deleted"), "{log}");
}

#[tokio::test]
async fn mistakes_in_settings_are_told_without_the_secret() {
    let node = Node::new().await;
    node.patch("hello", json!({ "A": "1" })).await.ok(200);
    let long = SECRET.repeat(4000);
    for (method, path, body, code, part) in [
        (Method::PATCH, "config", json!({ "a": "1" }), "invalid", "use only A-Z"),
        (Method::PATCH, "config", json!({ "A": 1 }), "invalid", "expected a string"),
        (Method::PATCH, "config", json!({ "A": "\u{0}", "B": long }), "invalid", "NUL"),
        (Method::PATCH, "config", json!({ "A": "2", "B": null }), "not_found", "no variable `B`"),
        (Method::PUT, "secrets/lower", json!({ "value": SECRET }), "bad_request", "use only A-Z"),
        (Method::PUT, "secrets/A", json!({ "value": "" }), "invalid", "is empty"),
        (Method::PUT, "secrets/A", json!({ "value": format!("{SECRET}\0") }), "invalid", "NUL"),
        (Method::PUT, "secrets/A", json!({ "value": long }), "invalid", "the most is 65536"),
        (Method::PUT, "secrets/A", json!({ "value": "x", "secret": SECRET }), "invalid", "unknown field"),
        (Method::DELETE, "secrets/A", json!({}), "not_found", "no secret `A`"),
    ] {
        let problem = node.call(method, &format!("/v1/apps/hello/{path}"), body.to_string()).await.problem(code);
        assert!(problem.to_string().contains(part), "{path}: {problem}");
        assert!(!problem.to_string().contains(SECRET), "{problem}");
    }
    assert_eq!(node.get("/v1/apps/hello/config").await.ok(200)[0]["value"], "1");
    assert_eq!(node.get("/v1/apps/hello/secrets").await.ok(200), json!([]));
}

#[tokio::test]
async fn a_new_key_seals_everything_also_one_that_was_added_by_hand() {
    let mut node = Node::new().await;
    node.put_secret("hello", "A", SECRET).await.ok(201);
    node.put_secret("other", "B", SECRET).await.ok(201);
    let keys = async |node: &Node| {
        let rows = node.control().registry.secrets(&Default::default(), &"hello".parse().unwrap()).await.unwrap();
        rows.into_iter().map(|row| row.sealed.key_id).collect::<Vec<_>>()
    };
    let before = keys(&node).await;
    let rotated = node.call(Method::POST, "/v1/secrets/rotate", "").await.ok(200);
    assert_eq!((&rotated["resealed"], &rotated["unreadable"]), (&2.into(), &0.into()));
    let after = keys(&node).await;
    assert!(after != before && rotated["key_id"] == after[0].as_str());
    let path = node.root.join("secrets.key");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{}\n", "ab".repeat(32))).unwrap();
    node.restart().await;
    assert!(keys(&node).await != after, "the newest key seals");
    assert_eq!(node.get("/v1/apps/hello/secrets").await.ok(200)[0]["readable"], true);
    // Only the newest is needed now.
    std::fs::write(&path, format!("{}\n", "ab".repeat(32))).unwrap();
    node.restart().await;
    assert_eq!(node.get("/v1/apps/other/secrets").await.ok(200)[0]["readable"], true);
}

#[tokio::test]
async fn a_lost_key_is_noticed_and_secrets_can_be_set_again() {
    let mut node = Node::new().await;
    node.put_secret("hello", "A", SECRET).await.ok(201);
    let path = node.root.join("secrets.key");
    let key = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = node.try_restart().await.unwrap_err().to_string();
    assert!(error.contains("secrets.key is missing, and 1 secrets"), "{error}");
    assert!(!path.exists(), "no other key takes its place");
    std::fs::write(&path, &key).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).unwrap();
    node.restart().await;
    assert_eq!(node.get("/v1/apps/hello/secrets").await.ok(200)[0]["readable"], true);
    std::fs::write(&path, "ab".repeat(32)).unwrap();
    node.restart().await;
    assert_eq!(node.get("/v1/apps/hello/secrets").await.ok(200)[0]["readable"], false);
    let rotated = node.call(Method::POST, "/v1/secrets/rotate", "").await.ok(200);
    assert_eq!((&rotated["resealed"], &rotated["unreadable"]), (&0.into(), &1.into()));
    node.put_secret("hello", "A", SECRET).await.ok(200);
    assert_eq!(node.get("/v1/apps/hello/secrets").await.ok(200)[0]["readable"], true);
}

#[tokio::test]
async fn a_function_that_lacks_a_secret_is_not_run() {
    let node = Node::new().await;
    let tenant = Tenant::default();
    let function = |secrets: &[&str]| BundledFunction {
        code: BundledCode::Js { module: Digest::of(b"module"), source_map: Digest::of(b"map") },
        routes: Vec::new(),
        env: BTreeMap::new(),
        egress: Vec::new(),
        instances: Default::default(),
        limits: Default::default(),
        grants: Grants { secrets: secrets.iter().map(|name| name.parse().unwrap()).collect(), ..Grants::default() },
        topics: Vec::new(),
        schedules: Vec::new(),
        asynchronous: None,
    };
    let functions = [("free", function(&[])), ("guarded", function(&["API_KEY"]))];
    let mut config: BundleConfig = serde_json::from_slice(&bundle("shop", "1.0.0", "page").blobs[0]).unwrap();
    config.functions = functions.into_iter().map(|(name, function)| (name.parse().unwrap(), function)).collect();
    let builder = &node.control().builder;
    let lacks = |settings: &Settings| -> Vec<bool> {
        let specs = builder.specs(&tenant, &config, &BTreeMap::new(), settings).unwrap();
        specs.iter().map(|spec| spec.lacks_secrets).collect()
    };
    let sealed_at = |app: &str| {
        let place = place(&tenant, &app.parse().unwrap(), &"API_KEY".parse().unwrap());
        let sealed = node.control().vault.seal(&place, SECRET.as_bytes()).unwrap();
        Settings { secrets: [("API_KEY".parse().unwrap(), sealed)].into(), ..Settings::default() }
    };
    assert_eq!(lacks(&Settings::default()), [false, true], "never set");
    assert_eq!(lacks(&sealed_at("blog")), [false, true], "does not open here");
    assert_eq!(lacks(&sealed_at("shop")), [false, false]);
}
