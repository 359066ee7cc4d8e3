//! Publish, deploy, roll back, delete, clean up.

use std::{sync::Arc, time::Duration};

use http::Method;
use minnow_model::{
    Digest, Tenant,
    bundle::{FILE_TYPE, Layer, MIGRATION_TYPE, WASM_TYPE, oci_manifest},
};

use super::{Bundle, Node, bundle};
use crate::ControlError;

#[tokio::test]
async fn publishing_the_same_again_is_a_no_op_and_other_content_is_refused() {
    let mut node = Node::new().await;
    let first = bundle("hello", "1.0.0", "one");
    let published = node.publish("hello", "1.0.0", &first).await.ok(201);
    assert_eq!((&published["created"], &published["weight"]), (&true.into(), &0.into()));
    let again = node.publish("hello", "1.0.0", &first).await.ok(200);
    assert_eq!((&again["created"], &again["digest"]), (&false.into(), &published["digest"]));
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "other")).await.problem("version_exists");
    node.restart().await;
    assert_eq!(node.publish("hello", "1.0.0", &first).await.ok(200)["created"], false);
    let versions = node.get("/v1/apps/hello/versions").await.ok(200);
    assert_eq!(versions.as_array().unwrap().len(), 1);
    assert_eq!(node.get("/v1/apps/hello/versions/1.0.0/manifest").await.body, first.manifest);
    assert_eq!(node.get(&format!("/v1/blobs/{}", Digest::of(b"one"))).await.body, b"one");
}

#[tokio::test]
async fn two_who_publish_one_version_at_once_get_one_of_them() {
    let node = Node::new().await;
    let bundles = [bundle("hello", "1.0.0", "one"), bundle("hello", "1.0.0", "two")];
    let answers = futures::future::join_all(bundles.iter().map(|bundle| node.publish("hello", "1.0.0", bundle))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort();
    assert_eq!(statuses, [201, 409]);
}

#[tokio::test]
async fn a_bundle_that_is_not_whole_or_not_right_is_not_published() {
    let node = Node::new().await;
    let good = bundle("hello", "1.0.0", "one");
    let problem =
        node.call(Method::PUT, "/v1/apps/hello/versions/1.0.0", good.manifest.clone()).await.problem("invalid");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
    assert!(problem.to_string().contains("index.html"), "{problem}");
    let problem = node.publish("other", "1.0.0", &good).await.problem("invalid");
    assert!(problem.to_string().contains("hello@1.0.0, the URL says other@1.0.0"), "{problem}");
    let page = "x".repeat(40 << 10);
    let mut large = bundle("hello", "1.0.0", &page);
    large.manifest = String::from_utf8(large.manifest).unwrap().replace("40960", "70000").into();
    let problem = node.publish("hello", "1.0.0", &large).await.problem("too_large");
    assert!(problem["detail"].as_str().unwrap().contains("at most 64.0 KiB (bundles.max_size)"), "{problem}");
    assert_eq!(node.get("/v1/apps").await.ok(200).as_array().unwrap().len(), 0, "nothing half visible");
}

#[tokio::test]
async fn deployments_reach_the_gateway_survive_a_restart_and_roll_back() {
    let mut node = Node::new().await;
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        node.publish("hello", version, &bundle("hello", version, version)).await.ok(201);
    }
    node.deploy("hello", r#"{"version": "9.0.0"}"#).await.problem("not_found");
    node.deploy("hello", r#"{"version": "1.0.0", "weight": 10}"#).await.problem("conflict");
    node.deploy("hello", r#"{"version": "1.0.0", "weight": 0}"#).await.problem("invalid");
    let first = node.deploy("hello", r#"{"version": "1.0.0"}"#).await.ok(200);
    assert_eq!((&first["revision"], &first["cause"]), (&1.into(), &"deploy".into()));
    let again = node.deploy("hello", r#"{"version": "1.0.0"}"#).await.ok(200);
    assert_eq!(again, first, "what is live already is not recorded again");
    node.deploy("hello", r#"{"version": "2.0.0", "weight": 10}"#).await.ok(200);
    assert_eq!(node.live("hello"), ["1.0.0:90", "2.0.0:10"]);
    node.deploy("hello", "{}").await.ok(200);
    assert_eq!(node.live("hello"), ["3.0.0:100"], "the newest without a version");
    node.restart().await;
    assert_eq!(node.live("hello"), ["3.0.0:100"]);
    for expected in [&["1.0.0:90", "2.0.0:10"][..], &["1.0.0:100"]] {
        let back = node.call(Method::POST, "/v1/apps/hello/rollback", "").await.ok(200);
        assert_eq!(back["cause"], "rollback");
        assert_eq!(node.live("hello"), expected);
    }
    node.call(Method::POST, "/v1/apps/hello/rollback", "").await.problem("conflict");
    let status = node.get("/v1/apps/hello").await.ok(200);
    assert_eq!(status["url"], "http://hello.localhost:7700");
    assert_eq!(status["versions"], 3);
    assert_eq!(status["deployment"]["revision"], 5);
    let revisions: Vec<_> = status["history"].as_array().unwrap().iter().map(|entry| &entry["revision"]).collect();
    assert_eq!(revisions, [5, 4, 3, 2, 1]);
    let versions = node.get("/v1/apps/hello/versions").await.ok(200);
    let weights: Vec<_> = versions.as_array().unwrap().iter().map(|version| &version["weight"]).collect();
    assert_eq!(weights, [0, 0, 100]);
}

#[tokio::test]
async fn a_rollback_never_goes_to_other_content_under_an_old_number() {
    let node = Node::new().await;
    for version in ["1.0.0", "2.0.0"] {
        node.publish("hello", version, &bundle("hello", version, version)).await.ok(201);
        node.deploy("hello", &format!(r#"{{"version": "{version}"}}"#)).await.ok(200);
    }
    node.call(Method::DELETE, "/v1/apps/hello/versions/1.0.0", "").await.ok(204);
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "other")).await.ok(201);
    node.call(Method::POST, "/v1/apps/hello/rollback", "").await.problem("conflict");
    assert_eq!(node.live("hello"), ["2.0.0:100"]);
    node.call(Method::DELETE, "/v1/apps/hello/versions/1.0.0", "").await.ok(204);
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "1.0.0")).await.ok(201);
    node.call(Method::POST, "/v1/apps/hello/rollback", "").await.ok(200);
    assert_eq!(node.live("hello"), ["1.0.0:100"], "the same content is what was deployed");
}

#[tokio::test]
async fn a_deployment_that_cannot_go_live_is_not_recorded() {
    let node = Node::new().await;
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "one")).await.ok(201);
    let (tenant, app) = (Tenant::default(), "hello".parse().unwrap());
    let registry = &node.control().registry;
    let failing = |_| Err::<(), _>(ControlError::Corrupt("injected".into()));
    registry.deploy(&tenant, &app, None, 100, 1, failing).await.unwrap_err();
    assert_eq!(registry.history(&tenant, &app, 10).await.unwrap(), []);
    node.deploy("hello", "{}").await.ok(200);
    node.opened().live.remove(&app);
    node.deploy("hello", "{}").await.ok(200);
    assert_eq!(node.live("hello"), ["1.0.0:100"], "deploying again mends what is in memory");
}

#[tokio::test]
async fn logs_of_apps_that_are_gone_are_removed_and_others_stay() {
    let node = Node::new().await;
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "one")).await.ok(201);
    node.deploy("hello", "{}").await.ok(200);
    node.control().logs.flush().await;
    let logs = node.root.join("logs/default");
    std::fs::create_dir_all(logs.join("gone")).unwrap();
    std::fs::write(logs.join("gone/0000000000001-00000000.jsonl"), "").unwrap();
    assert_eq!(node.control().reconcile().await.unwrap().logs_removed, 1);
    assert!(!logs.join("gone").exists() && logs.join("hello").exists());
    assert_eq!(node.control().reconcile().await.unwrap().logs_removed, 0);
}

#[tokio::test]
async fn a_version_that_stays_live_stays_the_same_object() {
    let node = Node::new().await;
    for version in ["1.0.0", "2.0.0"] {
        node.publish("hello", version, &bundle("hello", version, version)).await.ok(201);
    }
    node.deploy("hello", r#"{"version": "1.0.0"}"#).await.ok(200);
    let before = Arc::clone(&node.opened().live.load()["hello"].shares[0].1);
    node.deploy("hello", r#"{"version": "2.0.0", "weight": 50}"#).await.ok(200);
    let live = Arc::clone(&node.opened().live.load()["hello"]);
    assert!(live.shares.iter().any(|(_, version)| Arc::ptr_eq(version, &before)), "its queue and warm instances go on");
}

#[tokio::test]
async fn what_is_live_cannot_be_deleted_but_its_app_can() {
    let mut node = Node::new().await;
    for version in ["1.0.0", "2.0.0"] {
        node.publish("hello", version, &bundle("hello", version, version)).await.ok(201);
    }
    node.deploy("hello", r#"{"version": "1.0.0"}"#).await.ok(200);
    node.call(Method::DELETE, "/v1/apps/hello/versions/1.0.0", "").await.problem("conflict");
    node.call(Method::DELETE, "/v1/apps/hello/versions/2.0.0", "").await.ok(204);
    node.call(Method::DELETE, "/v1/apps/hello/versions/2.0.0", "").await.problem("not_found");
    node.call(Method::DELETE, "/v1/apps/hello", "").await.ok(204);
    assert!(node.live("hello").is_empty());
    node.get("/v1/apps/hello").await.problem("not_found");
    node.restart().await;
    assert!(node.live("hello").is_empty());
    node.publish("hello", "1.0.0", &bundle("hello", "1.0.0", "new")).await.ok(201);
}

#[tokio::test]
async fn cleaning_up_keeps_what_is_needed_and_what_is_young() {
    let node = Node::new().await;
    let kept = bundle("hello", "1.0.0", "kept");
    let shared = bundle("hello", "2.0.0", "kept");
    let gone = bundle("hello", "3.0.0", "gone");
    for (version, bundle) in [("1.0.0", &kept), ("2.0.0", &shared), ("3.0.0", &gone)] {
        node.publish("hello", version, bundle).await.ok(201);
    }
    node.put_blob(b"upload").await.ok(201);
    for version in ["2.0.0", "3.0.0"] {
        node.call(Method::DELETE, &format!("/v1/apps/hello/versions/{version}"), "").await.ok(204);
    }
    let has = async |content: &[u8]| node.control().blobs.len(&Digest::of(content)).unwrap().is_some();
    assert_eq!(node.control().reconcile().await.unwrap().blobs_removed, 0);
    assert!(has(b"gone").await && has(b"upload").await);
    node.advance(Duration::from_secs(2 * 60 * 60));
    let pass = node.control().reconcile().await.unwrap();
    // The page, config and manifest of 3.0.0, the config and manifest of 2.0.0, and the upload.
    assert_eq!(pass.blobs_removed, 6, "{pass:?}");
    assert!(has(b"kept").await && has(&kept.manifest).await && has(&kept.blobs[0]).await);
    assert!(!has(b"gone").await && !has(b"upload").await);
    assert_eq!(node.control().reconcile().await.unwrap().blobs_removed, 0);
}

#[tokio::test]
async fn cleaning_up_waits_for_a_publish() {
    let node = Node::new().await;
    node.put_blob(b"upload").await.ok(201);
    node.advance(Duration::from_secs(2 * 60 * 60));
    let publishing = node.control().publishing.read().await;
    let pass = node.control().reconcile().await.unwrap();
    assert!(pass.postponed && pass.blobs_removed == 0);
    drop(publishing);
    assert_eq!(node.control().reconcile().await.unwrap().blobs_removed, 1);
}

#[tokio::test]
async fn compiled_code_that_no_version_needs_is_forgotten_after_a_while() {
    let node = Node::new().await;
    let registry = &node.control().registry;
    let digest = Digest::of(b"code");
    registry.begin_compile(digest, node.control().config.clock.now_ms()).await.unwrap();
    assert_eq!(node.control().reconcile().await.unwrap().code_removed, 0);
    node.advance(Duration::from_secs(2 * 60 * 60));
    assert_eq!(node.control().reconcile().await.unwrap().code_removed, 1);
    assert_eq!(node.control().reconcile().await.unwrap().code_removed, 0);
}

#[tokio::test]
async fn code_that_does_not_compile_leaves_nothing_visible() {
    let node = Node::new().await;
    let code = b"not wasm".to_vec();
    let wasm = Digest::of(&code);
    let function = minnow_model::BundledFunction {
        code: minnow_model::BundledCode::Wasm(wasm),
        routes: vec!["/".parse().unwrap()],
        env: Default::default(),
        egress: Vec::new(),
        instances: Default::default(),
        limits: Default::default(),
        grants: Default::default(),
        topics: Vec::new(),
        schedules: Vec::new(),
        asynchronous: None,
    };
    let config = minnow_model::BundleConfig {
        app: "hello".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        functions: [("api".parse().unwrap(), function)].into(),
        files: Default::default(),
        sticky: None,
        kv: Default::default(),
        sql: Default::default(),
        blob: Default::default(),
        volumes: Default::default(),
        locks: false,
        topics: std::collections::BTreeMap::new(),
    };
    let config = serde_json::to_vec(&config).unwrap();
    let layer = Layer { digest: wasm, size: 8, media_type: WASM_TYPE.into(), title: "api.wasm".into() };
    let manifest = oci_manifest((Digest::of(&config), config.len() as u64), vec![layer]).unwrap();
    let answer = node.publish("hello", "1.0.0", &Bundle { manifest, blobs: vec![config, code] }).await;
    assert!(!answer.status.is_success());
    node.get("/v1/apps/hello").await.problem("not_found");
}

/// A version of `hello` with one migration, whose layer has the given media type.
fn with_migration(version: &str, sql: &[u8], media_type: &str) -> Bundle {
    let digest = Digest::of(sql);
    let size = sql.len() as u64;
    let migration = minnow_model::BundledMigration { name: "0001_init.sql".into(), digest, size };
    let store = minnow_model::BundledSql { share: Vec::new(), migrations: vec![migration] };
    let page = b"<h1>".to_vec();
    let file = minnow_model::BundledFile { digest: Digest::of(&page), size: 4 };
    let config = minnow_model::BundleConfig {
        app: "hello".parse().unwrap(),
        version: version.parse().unwrap(),
        functions: Default::default(),
        files: [("/index.html".to_owned(), file)].into(),
        sticky: None,
        kv: Default::default(),
        sql: [("main".parse().unwrap(), store)].into(),
        blob: Default::default(),
        volumes: Default::default(),
        locks: false,
        topics: std::collections::BTreeMap::new(),
    };
    let config = serde_json::to_vec(&config).unwrap();
    let layers = vec![
        Layer { digest, size, media_type: media_type.into(), title: "main/0001_init.sql".into() },
        Layer { digest: Digest::of(&page), size: 4, media_type: FILE_TYPE.into(), title: "index.html".into() },
    ];
    let manifest = oci_manifest((Digest::of(&config), config.len() as u64), layers).unwrap();
    Bundle { manifest, blobs: vec![config, sql.into(), page] }
}

#[tokio::test]
async fn migrations_are_checked_when_they_are_published() {
    let node = Node::new().await;
    for (sql, media_type, part) in [
        (&b"-- \xfc"[..], MIGRATION_TYPE, "the sql store `main`: its migration `0001_init.sql`: it is not UTF-8"),
        (b"create\0", MIGRATION_TYPE, "it holds NUL"),
        (b"create", FILE_TYPE, "is not a layer of the type application/sql"),
    ] {
        let answer = node.publish("hello", "1.0.0", &with_migration("1.0.0", sql, media_type)).await;
        let problem = answer.problem("invalid");
        assert!(problem["errors"][0].as_str().unwrap().contains(part), "{problem}");
    }
    node.get("/v1/apps/hello").await.problem("not_found");
    let good = with_migration("1.0.0", b"create table t (a)", MIGRATION_TYPE);
    node.publish("hello", "1.0.0", &good).await.ok(201);
}
