use super::*;

fn migration(name: &str, sql: &str) -> Migration {
    Migration { name: name.into(), sql: sql.into() }
}

#[tokio::test]
async fn migrations_run_once_and_in_order() {
    let stores = Stores::new();
    let first = migration("0001_init.sql", "CREATE TABLE t (id INTEGER PRIMARY KEY);\nINSERT INTO t VALUES (1);");
    let second = migration("0002_more.sql", "ALTER TABLE t ADD COLUMN v TEXT; UPDATE t SET v = 'x';");
    let both = vec![first.clone(), second.clone()];
    assert_eq!(stores.sql.migrate(&stores.main, vec![first.clone()]).await.unwrap(), ["0001_init.sql"]);
    assert_eq!(stores.sql.migrate(&stores.main, both.clone()).await.unwrap(), ["0002_more.sql"]);
    assert_eq!(stores.sql.migrate(&stores.main, both.clone()).await.unwrap(), [""; 0]);
    assert_eq!(stores.number("SELECT count(*) FROM t WHERE v = 'x'").await, 1);
    // An older version that comes back knows fewer of them.
    assert_eq!(stores.sql.migrate(&stores.main, vec![first.clone()]).await.unwrap(), [""; 0]);
    let records =
        stores.run("SELECT name, length(sha256), applied_ms > 1700000000000 FROM _minnow_migrations ORDER BY 1").await;
    let record = |name: &str| vec![Value::Text(name.into()), Value::Integer(64), Value::Integer(1)];
    assert_eq!(records.rows, [record("0001_init.sql"), record("0002_more.sql")]);

    let changed = migration("0001_init.sql", "CREATE TABLE t (id INTEGER PRIMARY KEY);");
    let third = migration("0003.sql", "CREATE TABLE u (a)");
    let error = stores.sql.migrate(&stores.main, vec![changed, second.clone(), third]).await.unwrap_err().to_string();
    assert!(error.contains("0001_init.sql") && error.contains("other content"), "{error}");
    assert!(stores.refused("SELECT * FROM u").await.contains("no such table"));
    let error = stores.sql.migrate(&stores.main, vec![second.clone(), second]).await.unwrap_err().to_string();
    assert!(error.contains("two migrations"), "{error}");
}

#[tokio::test]
async fn a_migration_that_fails_keeps_nothing_and_says_where() {
    let stores = Stores::new();
    let good =
        migration("1.sql", "CREATE TABLE t (id INTEGER PRIMARY KEY REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)");
    for (sql, place, expected) in [
        ("CREATE TABLE u (a);\nINSERT INTO u VALUES (1);\n  SELEC 1;", (3, 3), "syntax error"),
        (
            "CREATE TABLE u (a UNIQUE);\n-- one\nINSERT INTO u VALUES (1);\n\n-- two\n INSERT INTO u VALUES (1);",
            (6, 2),
            "UNIQUE",
        ),
        ("CREATE TABLE u (a);\nATTACH 'x' AS y;", (2, 1), "ATTACH"),
        ("CREATE TABLE u (a);\nDELETE FROM _minnow_migrations;", (2, 1), "belongs to Minnow"),
        ("CREATE TABLE u (a);\nROLLBACK;", (2, 1), "ROLLBACK"),
        (
            "CREATE TABLE u (a UNIQUE);\nINSERT INTO u VALUES (1);\nINSERT OR ROLLBACK INTO u VALUES (1);",
            (3, 1),
            "UNIQUE",
        ),
        ("CREATE TABLE u (a);\nPRAGMA defer_foreign_keys = on;\nINSERT INTO t VALUES (1, 2);", (3, 1), "columns"),
        ("CREATE TABLE u (a);\nSELECT ?;", (2, 1), "parameters"),
        (
            "CREATE TABLE c (a REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO c VALUES (5);",
            (2, 26),
            "FOREIGN KEY",
        ),
    ] {
        let error = stores.sql.migrate(&stores.main, vec![good.clone(), migration("2.sql", sql)]).await.unwrap_err();
        let SqlError::Migration { name, line, column, message } = &error else { panic!("{sql}: {error:?}") };
        assert_eq!((name.as_str(), (*line, *column)), ("2.sql", place), "{sql}: {message}");
        assert!(message.contains(expected), "{sql}: {message}");
        assert_eq!(stores.number("SELECT count(*) FROM sqlite_schema WHERE name IN ('u', 'c')").await, 0, "{sql}");
        assert_eq!(stores.number("SELECT count(*) FROM _minnow_migrations").await, 1, "{sql}");
    }
    // Repaired, it runs; the one before it did not run again.
    let repaired = vec![good, migration("2.sql", "CREATE TABLE u (a)")];
    assert_eq!(stores.sql.migrate(&stores.main, repaired).await.unwrap(), ["2.sql"]);
}

#[tokio::test]
async fn two_deploys_at_once_apply_a_migration_once() {
    let stores = Stores::new();
    let migrations = vec![migration("1.sql", "CREATE TABLE t (a); INSERT INTO t VALUES (1)")];
    let (one, two) = tokio::join!(
        stores.sql.migrate(&stores.main, migrations.clone()),
        stores.sql.migrate(&stores.main, migrations.clone()),
    );
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 1);
}
