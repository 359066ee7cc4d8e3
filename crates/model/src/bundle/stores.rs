//! Checks of the stores and grants in a bundle's config.

use std::collections::{BTreeSet, HashSet};

use super::{
    BundleConfig, BundledMigration, MAX_APP_MIGRATIONS, MAX_MIGRATION_BYTES, MAX_MIGRATIONS, MIGRATION_TYPE, OciBundle,
};
use crate::{
    AppName, BundledCode, BundledFunction, FunctionName, StoreKind,
    grant::{LOCKS_VARIABLE, STORE_BYTES, clashes, publish_mistake},
    manifest::{MAX_GRANTS, MAX_ORIGINS, MAX_SHARES, MAX_STORES},
};

impl BundleConfig {
    /// Counts, shares, migrations, and that every grant names a store that is declared, or another app's.
    pub(super) fn check_stores(&self, messages: &mut Vec<String>) {
        for kind in StoreKind::ALL {
            let names = self.stores(kind);
            if names.len() > MAX_STORES {
                messages.push(format!("the version has {} {}s, the most is {MAX_STORES}", names.len(), kind.noun()));
            }
            for name in names.into_iter().take(MAX_STORES) {
                if let Some(mistake) = self.share(kind, name).and_then(|share| self.share_mistake(share)) {
                    messages.push(format!("the {} `{name}`: {mistake}", kind.noun()));
                }
                let bytes = self.size_bytes(kind, name).filter(|bytes| !STORE_BYTES.contains(bytes));
                if let Some(bytes) = bytes {
                    let (least, most) = (STORE_BYTES.start(), STORE_BYTES.end());
                    messages.push(format!(
                        "the {} `{name}`: its size is {bytes} bytes; it is from {least} to {most}",
                        kind.noun()
                    ));
                }
            }
        }
        for (name, store) in self.blob.iter().take(MAX_STORES).filter(|(_, store)| store.cors.len() > MAX_ORIGINS) {
            let count = store.cors.len();
            messages.push(format!("the blob store `{name}`: `cors` has {count} origins, the most is {MAX_ORIGINS}"));
        }
        for (name, store) in self.sql.iter().take(MAX_STORES) {
            if let Some(mistake) = migrations_mistake(&store.migrations) {
                messages.push(format!("the sql store `{name}`: {mistake}"));
            }
        }
        let migrations: usize = self.sql.values().map(|store| store.migrations.len()).sum();
        if migrations > MAX_APP_MIGRATIONS {
            messages.push(format!("the version has {migrations} migrations, the most is {MAX_APP_MIGRATIONS}"));
        }
    }

    fn share_mistake(&self, share: &[AppName]) -> Option<String> {
        if share.len() > MAX_SHARES {
            return Some(format!("it is shared with {} apps, the most is {MAX_SHARES}", share.len()));
        }
        if share.contains(&self.app) {
            return Some(format!("it is shared with `{}`, its own app", self.app));
        }
        let mut known = HashSet::new();
        let twice = share.iter().find(|app| !known.insert(*app));
        twice.map(|app| format!("it is shared with `{app}` twice"))
    }

    /// What is wrong with the grants of one function.
    pub(super) fn check_grants(&self, name: &FunctionName, function: &BundledFunction, messages: &mut Vec<String>) {
        let grants = &function.grants;
        let mut refuse = |message: String| messages.push(format!("function `{name}`: {message}"));
        if grants.count() > MAX_GRANTS {
            refuse(format!("has {} grants, the most is {MAX_GRANTS}", grants.count()));
            return;
        }
        let mut variables = Vec::new();
        let is_js = matches!(function.code, BundledCode::Js { .. });
        for kind in StoreKind::ALL {
            let key = kind.grant_key();
            let mut known = BTreeSet::new();
            for grant in grants.stores(kind) {
                let is_declared = self.share(kind, &grant.store).is_some();
                if grant.app.as_ref() == Some(&self.app) {
                    refuse(format!("`{key}`: `{grant}` is a store of this app; write `{}`", grant.store));
                } else if let Some(mistake) = publish_mistake(grant).filter(|_| kind == StoreKind::Topic) {
                    refuse(format!("`{key}`: {mistake}"));
                } else if grant.app.is_none() && !is_declared {
                    refuse(format!("`{key}`: the app has no {} `{}`", kind.noun(), grant.store));
                } else if !known.insert(grant.name()) {
                    refuse(format!("`{key}`: the store `{}` stands twice", grant.name()));
                } else if kind != StoreKind::Files || is_js {
                    variables.push((grant.variable(), grant.called(kind)));
                }
            }
        }
        for (at, mount) in grants.files.iter().enumerate() {
            let mut before = grants.files.iter().take(at);
            if let Some(other) = before.find(|other| other.path.overlaps(&mount.path)) {
                refuse(format!("`files`: `{}` and `{}` overlap", other.path, mount.path));
            }
        }
        if grants.locks {
            if !self.locks {
                refuse("`locks` is true, and the app has no locks".into());
            }
            variables.push((LOCKS_VARIABLE.into(), "`locks`".into()));
        }
        variables.extend(grants.secrets.iter().map(|name| (name.to_string(), format!("the secret `{name}`"))));
        let env = function.env.keys().map(|key| (key.clone(), format!("`{}` of its `env`", key.escape_debug())));
        for (variable, first, second) in clashes(env, variables) {
            refuse(format!("has two things called `{}`: {first} and {second}", variable.escape_debug()));
        }
    }

    /// Checks that every migration is a layer of its own media type, with the right size.
    pub(super) fn check_migration_layers(&self, bundle: &OciBundle, messages: &mut Vec<String>) {
        let layers = bundle.layers.iter().filter(|layer| layer.media_type == MIGRATION_TYPE);
        let layers: std::collections::HashMap<_, _> = layers.map(|layer| (layer.digest, layer.size)).collect();
        for (store, migration) in self.migrations() {
            let BundledMigration { name, digest, size } = migration;
            let name = name.escape_debug();
            match layers.get(digest) {
                None => messages.push(format!(
                    "the sql store `{store}`: its migration `{name}`, {digest}, is not a layer of the type {MIGRATION_TYPE}"
                )),
                Some(found) if found != size => messages.push(format!(
                    "the sql store `{store}`: its migration `{name}` has {size} bytes here, its layer {found}"
                )),
                Some(_) => {}
            }
        }
    }
}

/// What is wrong with the migrations of one store.
fn migrations_mistake(migrations: &[BundledMigration]) -> Option<String> {
    if migrations.len() > MAX_MIGRATIONS {
        return Some(format!("it has {} migrations, the most is {MAX_MIGRATIONS}", migrations.len()));
    }
    for BundledMigration { name, size, .. } in migrations {
        if let Some(mistake) = migration_name_mistake(name) {
            return Some(format!("its migration `{}`: {mistake}", name.escape_debug()));
        }
        if *size > MAX_MIGRATION_BYTES {
            return Some(format!("its migration `{name}` has {size} bytes, the most is {MAX_MIGRATION_BYTES}"));
        }
    }
    let mut pairs = migrations.iter().zip(migrations.iter().skip(1));
    let unordered = pairs.find(|(first, second)| first.name >= second.name);
    unordered.map(|(first, second)| {
        format!(
            "its migration `{}` does not come after `{}`; they are in the order of their names",
            second.name, first.name
        )
    })
}

/// Why a file name cannot be that of a migration; `None` when it can.
pub fn migration_name_mistake(name: &str) -> Option<&'static str> {
    if !name.ends_with(".sql") || name.starts_with('.') {
        Some("the name of a migration ends with `.sql`, and has something else before that")
    } else if name.len() > 255 {
        Some("the name of a migration has at most 255 bytes")
    } else if name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        Some("the name of a migration holds no slash, no backslash and no control character")
    } else {
        None
    }
}

/// Why the content of a file cannot be a migration; `None` when it can. Whether it is SQL is for SQLite to say.
pub fn migration_mistake(content: &[u8]) -> Option<&'static str> {
    if content.contains(&0) {
        // SQLite would read up to there and leave out the rest.
        Some("it holds NUL, and is no text")
    } else if std::str::from_utf8(content).is_err() {
        Some("it is not UTF-8")
    } else {
        None
    }
}

/// Two names that follow one another as text and not as numbers: `10_b.sql` runs before `9_a.sql`, which nobody means who
/// counts. `names` are in their order.
pub fn misnumbered<'a>(names: &[&'a str]) -> Option<(&'a str, &'a str)> {
    // As text: a timestamp may be longer than any integer. Without zeros before it, the longer number is the larger one.
    let number = |name: &'a str| {
        let rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = name.strip_suffix(rest)?;
        if digits.is_empty() || !rest.starts_with(['_', '-', '.', ' ']) {
            return None;
        }
        let digits = digits.trim_start_matches('0');
        Some((digits.len(), digits))
    };
    let mut pairs = names.iter().zip(names.iter().skip(1));
    let found = pairs.find(|(first, second)| match (number(first), number(second)) {
        (Some(first), Some(second)) => first > second,
        _ => false,
    });
    found.map(|(first, second)| (*first, *second))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        BlobStore, BundledCode, BundledSql, Digest, FilesStore, Grants, KvStore, LimitCaps, Limits, Mount, StoreGrant,
        StoreName, Version,
        bundle::{FILE_TYPE, Layer},
        manifest::Instances,
    };

    fn names<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn mount(volume: &str, path: &str) -> Mount {
        Mount { volume: volume.parse().unwrap(), path: path.parse().unwrap() }
    }

    fn migration(name: &str) -> BundledMigration {
        BundledMigration { name: name.into(), digest: Digest::of(name.as_bytes()), size: name.len() as u64 }
    }

    /// A sound config with everything of this file in it.
    fn config() -> BundleConfig {
        let function = BundledFunction {
            code: BundledCode::Wasm(Digest::of(b"code")),
            routes: Vec::new(),
            env: [("GREETING".to_owned(), "hello".to_owned())].into(),
            egress: Vec::new(),
            instances: Instances::Fresh,
            limits: Limits::default(),
            grants: Grants {
                kv: names(&["sessions", "shop/sessions:ro", "shop/order-log"]),
                sql: names(&["main"]),
                blob: names(&["uploads"]),
                files: vec![mount("data:ro", "/data")],
                locks: true,
                secrets: names(&["STRIPE_KEY"]),
                publish: Vec::new(),
            },
            topics: Vec::new(),
            schedules: Vec::new(),
            asynchronous: None,
        };
        let share = names(&["blog", "wiki"]);
        let migrations = vec![migration("0001_a.sql"), migration("0002_b.sql")];
        BundleConfig {
            app: "hello".parse().unwrap(),
            version: Version::new(0, 1, 0),
            functions: [("api".parse().unwrap(), function)].into(),
            files: BTreeMap::new(),
            sticky: None,
            kv: [("sessions".parse().unwrap(), KvStore { share: share.clone() })].into(),
            sql: [("main".parse().unwrap(), BundledSql { share: share.clone(), migrations })].into(),
            blob: [("uploads".parse().unwrap(), BlobStore { share, cors: Vec::new(), size_bytes: 10 << 30 })].into(),
            volumes: [("data".parse().unwrap(), FilesStore { share: Vec::new(), size_bytes: 1 << 30 })].into(),
            locks: true,
            topics: BTreeMap::new(),
        }
    }

    fn messages(config: &BundleConfig) -> Vec<String> {
        config.check(&LimitCaps::default()).err().unwrap_or_default()
    }

    #[test]
    fn a_config_with_stores_reads_back() {
        let config = config();
        assert_eq!(messages(&config), [""; 0]);
        let json = serde_json::to_string_pretty(&config).unwrap();
        assert_eq!(serde_json::from_str::<BundleConfig>(&json).unwrap(), config);
        insta::assert_snapshot!(json);
    }

    #[test]
    fn a_config_without_stores_is_written_as_before_there_were_any() {
        let mut config = config();
        (config.kv, config.sql, config.locks) = (BTreeMap::new(), BTreeMap::new(), false);
        (config.blob, config.volumes) = (BTreeMap::new(), BTreeMap::new());
        for function in config.functions.values_mut() {
            function.grants = Grants::default();
        }
        let json = serde_json::to_string(&config).unwrap();
        // As `minnow` 0.1 wrote it. The digest of a version is made of these bytes.
        let code = Digest::of(b"code");
        let expected = format!(
            r#"{{"app":"hello","version":"0.1.0","functions":{{"api":{{"wasm":"{code}","routes":[],"env":{{"GREETING":"hello"}},"egress":[],"instances":"fresh","limits":{{"memory_bytes":134217728,"cpu_ms":1000,"timeout_ms":30000,"concurrency":64,"queue":256,"request_body_bytes":33554432}}}}}},"files":{{}}}}"#
        );
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<BundleConfig>(&expected).unwrap(), config);
    }

    #[test]
    fn every_mistake_of_stores_and_grants_is_refused() {
        type Change = fn(&mut BundleConfig);
        fn grants(config: &mut BundleConfig) -> &mut Grants {
            &mut config.functions.values_mut().next().unwrap().grants
        }
        fn sql(config: &mut BundleConfig) -> &mut BundledSql {
            config.sql.values_mut().next().unwrap()
        }
        let cases: [(Change, &str); 24] = [
            (
                |c| c.blob.values_mut().next().unwrap().cors = vec!["*".parse().unwrap(); MAX_ORIGINS + 1],
                "the blob store `uploads`: `cors` has 101 origins, the most is 100",
            ),
            (|c| c.kv.clear(), "function `api`: `kv`: the app has no kv store `sessions`"),
            (|c| c.sql.clear(), "function `api`: `sql`: the app has no sql store `main`"),
            (|c| c.locks = false, "function `api`: `locks` is true, and the app has no locks"),
            (
                |c| grants(c).kv = names(&["sessions", "sessions:ro"]),
                "function `api`: `kv`: the store `sessions` stands twice",
            ),
            (
                |c| grants(c).kv = names(&["hello/sessions"]),
                "function `api`: `kv`: `hello/sessions` is a store of this app; write `sessions`",
            ),
            (
                |c| grants(c).secrets = names(&["SESSIONS"]),
                "function `api`: has two things called `SESSIONS`: the kv store `sessions` and the secret `SESSIONS`",
            ),
            (
                |c| grants(c).secrets = names(&["GREETING"]),
                "function `api`: has two things called `GREETING`: `GREETING` of its `env` and the secret `GREETING`",
            ),
            (
                |c| grants(c).secrets = names(&["A", "A"]),
                "function `api`: has two things called `A`: the secret `A` and the secret `A`",
            ),
            (
                |c| grants(c).secrets = (0..100).map(|n| format!("S{n}").parse().unwrap()).collect(),
                "function `api`: has 107 grants, the most is 100",
            ),
            (
                |c| c.kv = (0..=MAX_STORES).map(|n| (format!("s{n}").parse().unwrap(), KvStore::default())).collect(),
                "the version has 101 kv stores, the most is 100",
            ),
            (|c| sql(c).share = names(&["hello"]), "the sql store `main`: it is shared with `hello`, its own app"),
            (|c| sql(c).share = names(&["a", "a"]), "the sql store `main`: it is shared with `a` twice"),
            (
                |c| sql(c).share = (0..=MAX_SHARES).map(|n| format!("a{n}").parse().unwrap()).collect(),
                "the sql store `main`: it is shared with 101 apps, the most is 100",
            ),
            (|c| c.blob.clear(), "function `api`: `blob`: the app has no blob store `uploads`"),
            (|c| c.volumes.clear(), "function `api`: `files`: the app has no files store `data`"),
            (
                |c| grants(c).files.push(mount("shop/media", "/data/media")),
                "function `api`: `files`: `/data` and `/data/media` overlap",
            ),
            (
                |c| {
                    let (module, source_map) = (Digest::of(b"module"), Digest::of(b"map"));
                    c.functions.values_mut().next().unwrap().code = BundledCode::Js { module, source_map };
                    grants(c).secrets = names(&["DATA"]);
                },
                "function `api`: has two things called `DATA`: the files store `data` and the secret `DATA`",
            ),
            (
                |c| c.blob.values_mut().next().unwrap().size_bytes = 1000,
                "the blob store `uploads`: its size is 1000 bytes; it is from 1048576 to 1099511627776",
            ),
            (
                |c| sql(c).migrations.reverse(),
                "the sql store `main`: its migration `0001_a.sql` does not come after `0002_b.sql`",
            ),
            (
                |c| sql(c).migrations = vec![migration("a.sql"), migration("a.sql")],
                "the sql store `main`: its migration `a.sql` does not come after `a.sql`",
            ),
            (
                |c| sql(c).migrations = vec![migration("../a.sql")],
                "the sql store `main`: its migration `../a.sql`: the name of a migration",
            ),
            (
                |c| sql(c).migrations[0].size = MAX_MIGRATION_BYTES + 1,
                "the sql store `main`: its migration `0001_a.sql` has 1048577 bytes, the most is 1048576",
            ),
            (
                |c| sql(c).migrations = (0..=MAX_MIGRATIONS).map(|n| migration(&format!("{n:04}.sql"))).collect(),
                "the sql store `main`: it has 1001 migrations, the most is 1000",
            ),
        ];
        for (change, expected) in cases {
            let mut config = config();
            change(&mut config);
            let messages = messages(&config);
            assert!(messages.iter().any(|message| message.starts_with(expected)), "{expected}\n{messages:#?}");
        }
        let mut config = config();
        let many = BundledSql {
            share: Vec::new(),
            migrations: (0..MAX_MIGRATIONS).map(|n| migration(&format!("{n:04}.sql"))).collect(),
        };
        config.sql.extend(["a", "b"].map(|name| (name.parse::<StoreName>().unwrap(), many.clone())));
        assert_eq!(messages(&config), ["the version has 2002 migrations, the most is 2000"]);
    }

    #[test]
    fn grants_that_cannot_be_read_are_refused() {
        let good = serde_json::to_value(config()).unwrap();
        for (pointer, value) in [
            ("/functions/api/grants/kv/0", "Sessions"),
            ("/functions/api/grants/kv/0", "sessions:rw"),
            ("/functions/api/grants/kv/0", "a/b/c"),
            ("/functions/api/grants/secrets/0", "stripe-key"),
            ("/kv/sessions/share/0", "Blog"),
            ("/sql/main/migrations/0/digest", "md5:00"),
            ("/functions/api/grants/files/0/path", "data"),
            ("/functions/api/grants/files/0/path", "/"),
            ("/functions/api/grants/files/0/path", "/data/../etc"),
            ("/functions/api/grants/files/0/path", "/tmp/data"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value.into();
            assert!(serde_json::from_value::<BundleConfig>(bad).is_err(), "{pointer}");
        }
        for pointer in [
            "/functions/api/grants",
            "/kv/sessions",
            "/sql/main",
            "/sql/main/migrations/0",
            "/blob/uploads",
            "/volumes/data",
        ] {
            let mut bad = good.clone();
            bad.pointer_mut(pointer).unwrap()["extra"] = 1.into();
            assert!(serde_json::from_value::<BundleConfig>(bad).is_err(), "{pointer}");
        }
    }

    #[test]
    fn a_migration_is_a_layer_of_its_own_type_and_size() {
        let config = config();
        let layer = |name: &str, size: u64, media_type: &str| Layer {
            digest: Digest::of(name.as_bytes()),
            size,
            media_type: media_type.into(),
            title: String::new(),
        };
        let check = |first: Layer| {
            let layers =
                vec![layer("code", 4, crate::bundle::WASM_TYPE), first, layer("0002_b.sql", 10, MIGRATION_TYPE)];
            config.check_layers(&OciBundle { config: (Digest::of(b"config"), 6), layers }).err().unwrap_or_default()
        };
        assert_eq!(check(layer("0001_a.sql", 10, MIGRATION_TYPE)), [""; 0]);
        for (wrong, part) in [
            (layer("other", 10, MIGRATION_TYPE), "`0001_a.sql`"),
            (layer("0001_a.sql", 10, FILE_TYPE), "is not a layer of the type application/sql"),
            (layer("0001_a.sql", 11, MIGRATION_TYPE), "has 10 bytes here, its layer 11"),
        ] {
            let messages = check(wrong);
            assert!(messages.len() == 1 && messages[0].contains(part), "{part}: {messages:?}");
        }
    }

    #[test]
    fn numbers_that_are_not_in_order_are_seen() {
        for (names, expected) in [
            (&["0001_a.sql", "0002_b.sql", "0010_c.sql"][..], None),
            (&["10_b.sql", "9_a.sql"], Some(("10_b.sql", "9_a.sql"))),
            (&["1.sql", "10.sql", "2.sql"], Some(("10.sql", "2.sql"))),
            (&["20240101_a.sql", "2024_b.sql"], Some(("20240101_a.sql", "2024_b.sql"))),
            (&["99999999999999999999999_a.sql", "9_b.sql"], Some(("99999999999999999999999_a.sql", "9_b.sql"))),
            (&["0199f0.sql", "019a00.sql", "a.sql"], None),
            (&["007.sql", "a.sql", "b.sql"], None),
            (&[], None),
        ] {
            assert_eq!(misnumbered(names), expected, "{names:?}");
        }
    }

    #[test]
    fn a_grant_is_written_as_it_is_read() {
        for (text, variable) in [
            ("sessions", "SESSIONS"),
            ("order-log:ro", "ORDER_LOG"),
            ("shop/catalog", "SHOP_CATALOG"),
            ("my-shop/a-b:ro", "MY_SHOP_A_B"),
        ] {
            let grant: StoreGrant = text.parse().unwrap();
            assert_eq!((grant.to_string().as_str(), grant.variable().as_str()), (text, variable));
            assert_eq!(grant.read_only, text.ends_with(":ro"));
        }
    }
}
