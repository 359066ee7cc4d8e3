//! Stores: migrations before a deploy, what becomes of data when its app is deleted, and who is granted what of whom.

use std::{collections::BTreeMap, fs, time::Duration};

use http::Method;
use minnow_model::{
    BundleConfig, BundledCode, BundledFile, BundledFunction, BundledMigration, BundledSql, Digest, Grants, KvStore,
    StoreId,
    bundle::{FILE_TYPE, Layer, MIGRATION_TYPE, oci_manifest},
};
use minnow_runtime::FunctionSpec;
use minnow_store::{kv::Write, sql::Access};
use serde_json::json;

use super::{Bundle, Node};
use crate::{registry::Settings, stores::DataFate};

fn sessions(app: &str) -> StoreId {
    StoreId { tenant: Default::default(), app: app.parse().unwrap(), name: "sessions".parse().unwrap() }
}

/// A version of `app` with a static file, the kv store `sessions` and the sql store `main` with these migrations.
pub(super) fn bundle(app: &str, version: &str, migrations: &[(&str, &str)]) -> Bundle {
    let page = format!("{app} {version}");
    let layer = |name: &str, content: &str, media_type: &str| Layer {
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        media_type: media_type.into(),
        title: name.into(),
    };
    let bundled = |(name, sql): &(&str, &str)| BundledMigration {
        name: (*name).into(),
        digest: Digest::of(sql.as_bytes()),
        size: sql.len() as u64,
    };
    let store = BundledSql { share: Vec::new(), migrations: migrations.iter().map(bundled).collect() };
    let file = BundledFile { digest: Digest::of(page.as_bytes()), size: page.len() as u64 };
    let config = BundleConfig {
        app: app.parse().unwrap(),
        version: version.parse().unwrap(),
        functions: BTreeMap::new(),
        files: [("/index.html".to_owned(), file)].into(),
        sticky: None,
        kv: [("sessions".parse().unwrap(), KvStore::default())].into(),
        sql: [("main".parse().unwrap(), store)].into(),
        blob: Default::default(),
        volumes: Default::default(),
        locks: false,
        topics: std::collections::BTreeMap::new(),
    };
    let config = serde_json::to_vec(&config).unwrap();
    let mut layers = vec![layer("index.html", &page, FILE_TYPE)];
    layers.extend(migrations.iter().map(|(name, sql)| layer(&format!("main/{name}"), sql, MIGRATION_TYPE)));
    let manifest = oci_manifest((Digest::of(&config), config.len() as u64), layers).unwrap();
    let mut blobs = vec![config, page.into_bytes()];
    blobs.extend(migrations.iter().map(|(_, sql)| sql.as_bytes().to_vec()));
    Bundle { manifest, blobs }
}

impl Node {
    pub(super) async fn serve(&self, app: &str, version: &str, migrations: &[(&str, &str)]) {
        self.publish(app, version, &bundle(app, version, migrations)).await.ok(201);
        self.deploy(app, &json!({ "version": version }).to_string()).await.ok(200);
    }

    pub(super) async fn set(&self, app: &str, value: &str) {
        let path = format!("/v1/apps/{app}/kv/sessions/value?key=a");
        self.call(Method::PUT, &path, value.to_owned()).await.ok(204);
    }

    /// What a call of a function of `app` holds that was granted the store `grant`.
    fn call_with(&self, app: &str, grant: &str) -> Vec<FunctionSpec> {
        let function = BundledFunction {
            code: BundledCode::Js { module: Digest::of(b"module"), source_map: Digest::of(b"map") },
            routes: Vec::new(),
            env: BTreeMap::new(),
            egress: Vec::new(),
            instances: Default::default(),
            limits: Default::default(),
            grants: Grants { kv: vec![grant.parse().unwrap()], ..Grants::default() },
            topics: Vec::new(),
            schedules: Vec::new(),
            asynchronous: None,
        };
        let config = BundleConfig {
            app: app.parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            functions: [("web".parse().unwrap(), function)].into(),
            files: BTreeMap::new(),
            sticky: None,
            kv: BTreeMap::new(),
            sql: BTreeMap::new(),
            blob: BTreeMap::new(),
            volumes: BTreeMap::new(),
            locks: false,
            topics: std::collections::BTreeMap::new(),
        };
        let shared = [(minnow_model::StoreKind::Kv, "shop".parse().unwrap(), "sessions".parse().unwrap())];
        let shared = shared.into_iter().map(|store| (store, 0)).collect();
        self.control().builder.specs(&Default::default(), &config, &shared, &Settings::default()).unwrap()
    }

    /// The lines of the app's log.
    async fn logged(&self, app: &str) -> Vec<serde_json::Value> {
        self.control().logs.flush().await;
        let answer = self.get(&format!("/v1/apps/{app}/logs?follow=false")).await;
        let text = String::from_utf8(answer.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Until somebody waits to write into the sql store.
    async fn until_one_waits(&self, store: &StoreId) {
        let sql = &self.control().runtime.data().sql;
        let waits = async {
            while sql.waiting(store).await.unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waits).await.expect("nobody comes to write");
    }

    async fn query(&self, app: &str, sql: &str) -> super::Answer {
        let path = format!("/v1/apps/{app}/sql/main/query");
        self.call(Method::POST, &path, json!({ "sql": sql }).to_string()).await
    }
}

#[tokio::test]
async fn a_migration_that_fails_refuses_the_deploy_and_changes_nothing() {
    let node = Node::new().await;
    let first = ("1.sql", "create table t (a);\ninsert into t values (1);");
    node.serve("shop", "1.0.0", &[first]).await;
    let bad = [first, ("2.sql", "insert into t values (2);\nselect missing;")];
    node.publish("shop", "2.0.0", &bundle("shop", "2.0.0", &bad)).await.ok(201);
    let problem = node.deploy("shop", "{}").await.problem("invalid");
    let detail = problem["detail"].as_str().unwrap();
    for part in ["`main`", "2.sql", "line 2", "no such column: missing", "nothing was deployed"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert_eq!(node.live("shop"), ["1.0.0:100"]);
    assert_eq!(node.query("shop", "select a from t").await.ok(200)["rows"], json!([[1]]));
    // Whoever looks at the app later sees it too.
    let logged = node.logged("shop").await;
    let line = logged.iter().find(|line| line["level"] == "error").expect("a line about the deploy");
    let message = line["message"].as_str().unwrap();
    for part in ["2.0.0 was not deployed: ", "`main`", "2.sql", "line 2", "no such column: missing"] {
        assert!(message.contains(part), "{part}: {message}");
    }

    let good = [first, ("2.sql", "insert into t values (2);")];
    node.serve("shop", "3.0.0", &good).await;
    // Again, and back: what has run does not run again.
    node.deploy("shop", "{\"version\": \"3.0.0\"}").await.ok(200);
    node.call(Method::POST, "/v1/apps/shop/rollback", "").await.ok(200);
    node.deploy("shop", "{\"version\": \"3.0.0\", \"weight\": 10}").await.ok(200);
    assert_eq!(node.query("shop", "select a from t").await.ok(200)["rows"], json!([[1], [2]]));
}

#[tokio::test]
async fn stores_are_known_by_the_live_version_or_by_their_data() {
    let node = Node::new().await;
    node.publish("shop", "1.0.0", &bundle("shop", "1.0.0", &[])).await.ok(201);
    let keys = "/v1/apps/shop/kv/sessions/keys";
    node.get(keys).await.problem("not_found");
    node.deploy("shop", "{}").await.ok(200);
    node.get(keys).await.ok(200);
    let usage = node.get("/v1/apps/shop/usage").await.ok(200);
    let expected = json!([
        {"kind": "kv", "name": "sessions", "bytes": 0, "declared": true},
        {"kind": "sql", "name": "main", "bytes": 0, "declared": true},
    ]);
    assert_eq!(usage["stores"], expected);
    node.set("shop", "x").await;
    // A version without it: what is in it stays, and can be read.
    node.publish("shop", "2.0.0", &super::bundle("shop", "2.0.0", "two")).await.ok(201);
    node.deploy("shop", "{}").await.ok(200);
    let usage = node.get("/v1/apps/shop/usage").await.ok(200);
    assert_eq!((&usage["stores"][0]["declared"], usage["stores"].as_array().unwrap().len()), (&json!(false), 1));
    node.get(keys).await.ok(200);
    node.get("/v1/apps/shop/sql/main/export").await.problem("not_found");
    node.get("/v1/apps/nobody/usage").await.problem("not_found");
}

#[tokio::test]
async fn data_of_a_deleted_app_is_kept_for_its_time_and_no_longer() {
    let node = Node::new().await;
    node.serve("shop", "1.0.0", &[("1.sql", "create table t (a);")]).await;
    node.set("shop", "x").await;
    let problem = node.call(Method::DELETE, "/v1/apps/shop", "").await.problem("conflict");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("kv sessions, sql main") && detail.contains("7 days"), "{detail}");
    assert_eq!(node.live("shop"), ["1.0.0:100"]);

    node.call(Method::DELETE, "/v1/apps/shop?data=keep", "").await.ok(204);
    let deleted = node.get("/v1/usage").await.ok(200)["deleted"].clone();
    assert_eq!(deleted[0]["app"], "shop");
    assert!(deleted[0]["bytes"].as_u64().unwrap() > 0);
    // A new app of the name has nothing of it.
    node.serve("shop", "1.0.0", &[]).await;
    node.get("/v1/apps/shop/kv/sessions/value?key=a").await.problem("not_found");
    node.set("shop", "y").await;
    node.call(Method::DELETE, "/v1/apps/shop?data=purge", "").await.ok(204);
    assert_eq!(node.get("/v1/usage").await.ok(200)["deleted"].as_array().unwrap().len(), 1);

    node.advance(Duration::from_secs(7 * 86_400 - 1));
    assert_eq!(node.control().reconcile().await.unwrap().stores_purged, 0);
    node.advance(Duration::from_secs(2));
    assert_eq!(node.control().reconcile().await.unwrap().stores_purged, 1);
    assert_eq!(node.get("/v1/usage").await.ok(200)["deleted"], json!([]));
}

#[tokio::test]
async fn stores_without_an_app_are_set_aside_by_the_start_and_by_the_reconciler() {
    let mut node = Node::new().await;
    let id = sessions("gone");
    let write = async |node: &Node| {
        node.control().kv_set(&id, "a".into(), "x".into(), None, None).await.unwrap();
    };
    write(&node).await;
    let folder = node.root.join("kv/default/gone");
    assert!(folder.exists());
    assert_eq!(node.control().reconcile().await.unwrap().stores_set_aside, 1);
    assert!(!folder.exists());
    node.advance(Duration::from_secs(1));
    write(&node).await;
    node.restart().await;
    assert!(!folder.exists());
    assert_eq!(fs::read_dir(node.root.join("deleted/default")).unwrap().count(), 2);
    // Half a purge is gone on with.
    let half = node.root.join("deleted/default/gone.0/kv");
    fs::create_dir_all(&half).unwrap();
    node.control().remove_data(&id.tenant, &id.app, DataFate::Purge).await.unwrap();
    assert!(!half.exists());
}

#[tokio::test]
async fn data_goes_as_it_was_asked_once_the_calls_that_use_it_have_ended_and_until_then_the_name_is_taken() {
    let mut node = Node::new().await;
    let folder = node.root.join("kv/default/shop");
    for grant in ["sessions", "shop/sessions"] {
        node.serve("shop", "1.0.0", &[]).await;
        node.set("shop", "x").await;
        let call = node.call_with(if grant == "sessions" { "shop" } else { "other" }, grant);
        node.call(Method::DELETE, "/v1/apps/shop?data=purge", "").await.ok(202);
        assert!(node.live("shop").is_empty());
        node.get("/v1/apps/shop").await.problem("not_found");
        // The call goes on with its data, and nobody else gets it.
        node.control().kv_set(&sessions("shop"), "a".into(), "y".into(), None, None).await.unwrap();
        let again = node.publish("shop", "1.0.0", &bundle("shop", "1.0.0", &[])).await.problem("conflict");
        assert!(again["detail"].as_str().unwrap().contains("`shop` was deleted"), "{again}");
        let variable = json!({ "A": "1" }).to_string();
        node.call(Method::PATCH, "/v1/apps/shop/config", variable).await.problem("conflict");
        node.call(Method::PUT, "/v1/apps/shop/secrets/A", json!({ "value": "x" }).to_string())
            .await
            .problem("conflict");
        let pass = node.control().reconcile().await.unwrap();
        assert_eq!((pass.deletions_finished, pass.deletions_left, pass.stores_set_aside), (0, 1, 0));
        assert!(folder.exists());

        drop(call);
        let pass = node.control().reconcile().await.unwrap();
        assert_eq!((pass.deletions_finished, pass.deletions_left), (1, 0));
        assert!(!folder.exists());
        node.serve("shop", "1.0.0", &[]).await;
        node.get("/v1/apps/shop/kv/sessions/value?key=a").await.problem("not_found");
        node.call(Method::DELETE, "/v1/apps/shop", "").await.ok(204);
    }
    // Over a crash, too, it is purged and not kept.
    node.serve("shop", "1.0.0", &[]).await;
    node.set("shop", "x").await;
    let call = node.call_with("shop", "sessions");
    node.call(Method::DELETE, "/v1/apps/shop?data=purge", "").await.ok(202);
    drop(call);
    node.restart().await;
    assert!(!folder.exists());
    assert_eq!(node.get("/v1/usage").await.ok(200)["deleted"], json!([]));
    node.serve("shop", "1.0.0", &[]).await;
}

#[tokio::test]
async fn a_migration_holds_up_nothing_but_deploys_of_its_app() {
    let node = Node::new().await;
    let first = ("1.sql", "create table t (a);");
    let second = ("2.sql", "insert into t values (1);");
    for app in ["slow", "quick"] {
        node.serve(app, "1.0.0", &[first]).await;
        node.serve(app, "2.0.0", &[first]).await;
    }
    node.publish("slow", "3.0.0", &bundle("slow", "3.0.0", &[first, second])).await.ok(201);
    // The migration waits for this transaction.
    let main = StoreId { name: "main".parse().unwrap(), ..sessions("slow") };
    let mut transaction = node.control().runtime.data().sql.begin(&main, Access::ReadWrite).await.unwrap();
    let statement = minnow_store::sql::Statement { sql: "insert into t values (2)".into(), params: Vec::new() };
    transaction.run(statement).await.unwrap();
    let (control, app) = (node.control().clone(), main.app.clone());
    let deploy = tokio::spawn(async move { control.deploy(&Default::default(), &app, None, 100).await });
    node.until_one_waits(&main).await;

    let others = async {
        node.deploy("quick", "{}").await.ok(200);
        node.call(Method::POST, "/v1/apps/quick/rollback", "").await.ok(200);
        node.call(Method::PATCH, "/v1/apps/quick/config", json!({ "A": "1" }).to_string()).await.ok(200);
        node.call(Method::PUT, "/v1/apps/slow/secrets/A", json!({ "value": "x" }).to_string()).await.ok(201);
        node.call(Method::DELETE, "/v1/apps/quick?data=purge", "").await.ok(204);
        node.call(Method::POST, "/v1/apps/slow/rollback", "").await.ok(200);
    };
    tokio::time::timeout(Duration::from_secs(5), others).await.expect("they do not wait for the migration");
    assert!(!deploy.is_finished());
    assert_eq!(node.live("slow"), ["1.0.0:100"]);
    transaction.commit().await.unwrap();
    deploy.await.unwrap().unwrap();
    assert_eq!(node.live("slow"), ["3.0.0:100"]);
    assert_eq!(node.query("slow", "select a from t order by a").await.ok(200)["rows"], json!([[1], [2]]));
}

#[tokio::test]
async fn what_is_published_anew_while_it_is_deployed_is_not_deployed_without_its_migrations() {
    let node = Node::new().await;
    let first = ("1.sql", "create table t (a);");
    node.serve("shop", "1.0.0", &[first]).await;
    node.publish("shop", "2.0.0", &bundle("shop", "2.0.0", &[first, ("2.sql", "create table u (a);")])).await.ok(201);
    let main = StoreId { name: "main".parse().unwrap(), ..sessions("shop") };
    let transaction = node.control().runtime.data().sql.begin(&main, Access::ReadWrite).await.unwrap();
    let (control, app) = (node.control().clone(), main.app.clone());
    let deploy = tokio::spawn(async move { control.deploy(&Default::default(), &app, None, 100).await });
    node.until_one_waits(&main).await;
    node.call(Method::DELETE, "/v1/apps/shop/versions/2.0.0", "").await.ok(204);
    node.publish("shop", "2.0.0", &bundle("shop", "2.0.0", &[first, ("2.sql", "create table v (a);")])).await.ok(201);
    transaction.commit().await.unwrap();
    let error = deploy.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("published with other content"), "{error}");
    assert_eq!(node.live("shop"), ["1.0.0:100"]);
    // Its migrations have run, and so the log tells both.
    let messages: Vec<_> = node.logged("shop").await.into_iter().map(|line| line["message"].to_string()).collect();
    assert!(messages.iter().any(|line| line.contains("migration 2.sql") && line.contains("has run")), "{messages:?}");
    assert!(messages.iter().any(|line| line.contains("2.0.0 was not deployed")), "{messages:?}");
}

#[tokio::test]
async fn of_several_that_delete_a_key_at_once_one_is_told_that_it_was_there() {
    let node = Node::new().await;
    node.serve("shop", "1.0.0", &[]).await;
    let (control, id) = (node.control(), sessions("shop"));
    for _ in 0..20 {
        node.set("shop", "x").await;
        let deletes = (0..8).map(|_| control.kv_delete(&id, "a".into()));
        let deleted = futures::future::join_all(deletes).await;
        assert_eq!(deleted.into_iter().filter(|deleted| *deleted.as_ref().unwrap()).count(), 1);
    }
    // Somebody who writes it all the time does not keep it from being deleted.
    let writes =
        (0..200).map(|n| Write::Set { key: "a".into(), value: n.to_string().into(), metadata: None, expires_ms: None });
    let kv = &control.runtime.data().kv;
    let write = async {
        for write in writes {
            kv.write(&id, vec![write]).await.unwrap();
        }
    };
    let delete = async {
        for _ in 0..20 {
            control.kv_delete(&id, "a".into()).await.unwrap();
        }
    };
    tokio::join!(write, delete);
}
