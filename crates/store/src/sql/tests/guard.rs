use super::*;

#[tokio::test]
async fn what_reaches_outside_is_refused() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)").await;
    stores.run("CREATE VIRTUAL TABLE f USING fts5(body)").await;
    stores.run("INSERT INTO t VALUES (1, 'a')").await;
    stores.sql.migrate(&stores.main, vec![Migration { name: "1.sql".into(), sql: "SELECT 1".into() }]).await.unwrap();
    let outside = stores.temp.path().join("outside.db");
    let outside = outside.display();
    let cases = [
        (format!("ATTACH '{outside}' AS o"), "ATTACH"),
        ("ATTACH ':memory:' AS o".into(), "ATTACH"),
        ("DETACH main".into(), "DETACH"),
        (format!("VACUUM INTO '{outside}'"), ""),
        ("VACUUM".into(), ""),
        ("SELECT load_extension('/tmp/x.so')".into(), "load_extension"),
        ("SELECT fts3_tokenizer('simple')".into(), "fts3_tokenizer"),
        ("SELECT fts5('x')".into(), "fts5"),
        ("SELECT sqlite_log(1, 'x')".into(), "sqlite_log"),
        ("CREATE VIRTUAL TABLE v USING fts4(a)".into(), "fts4"),
        ("CREATE VIRTUAL TABLE v USING dbstat".into(), "dbstat"),
        ("CREATE VIRTUAL TABLE v USING fts5(a, tokenize = 'nobody')".into(), ""),
        ("PRAGMA writable_schema = ON".into(), "writable_schema"),
        ("PRAGMA journal_mode = DELETE".into(), "journal_mode"),
        ("PRAGMA synchronous = OFF".into(), "synchronous"),
        ("PRAGMA locking_mode = EXCLUSIVE".into(), "locking_mode"),
        ("PRAGMA temp_store_directory = '/tmp'".into(), "temp_store_directory"),
        ("PRAGMA data_store_directory = '/tmp'".into(), "data_store_directory"),
        ("PRAGMA temp_store = FILE".into(), "temp_store"),
        ("PRAGMA max_page_count = 1000000000".into(), "max_page_count"),
        ("PRAGMA page_size = 512".into(), "page_size"),
        ("PRAGMA cache_size = 1000000".into(), "cache_size"),
        ("PRAGMA mmap_size = 1000000".into(), "mmap_size"),
        ("PRAGMA query_only = OFF".into(), "query_only"),
        ("PRAGMA foreign_keys = OFF".into(), "defer_foreign_keys"),
        ("PRAGMA trusted_schema = ON".into(), "trusted_schema"),
        ("PRAGMA schema_version = 1".into(), "schema_version"),
        ("PRAGMA database_list".into(), "database_list"),
        ("SELECT * FROM pragma_database_list".into(), "database_list"),
        ("PRAGMA wal_checkpoint(TRUNCATE)".into(), "wal_checkpoint"),
        ("PRAGMA wal_autocheckpoint = 0".into(), "wal_autocheckpoint"),
        ("PRAGMA soft_heap_limit = 1".into(), "soft_heap_limit"),
        ("PRAGMA hard_heap_limit = 1".into(), "hard_heap_limit"),
        ("PRAGMA threads = 8".into(), "threads"),
        ("PRAGMA busy_timeout = 100000".into(), "busy_timeout"),
        ("PRAGMA encoding = 'UTF-16'".into(), "encoding"),
        ("PRAGMA nobody_knows_this".into(), "nobody_knows_this"),
        ("INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 2, '')".into(), "sqlite_master"),
        ("UPDATE sqlite_schema SET sql = ''".into(), "sqlite_master"),
        ("DELETE FROM sqlite_master".into(), "sqlite_master"),
        ("UPDATE f_data SET block = x'00'".into(), "f_data"),
        ("DROP TABLE f_data".into(), "f_data"),
        ("CREATE TEMP TABLE x (a)".into(), "temporary"),
        ("CREATE TABLE temp.x (a)".into(), "temporary"),
        ("CREATE INDEX temp.i ON t (v)".into(), ""),
        ("CREATE VIEW temp.x AS SELECT 1".into(), "temporary"),
        ("CREATE TABLE temp.x AS SELECT 1".into(), "temporary"),
        ("CREATE TEMP VIEW x AS SELECT 1".into(), "temporary"),
        ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END".into(), "temporary"),
        ("CREATE VIRTUAL TABLE temp.x USING fts5(a)".into(), "temporary"),
        ("BEGIN".into(), "BEGIN"),
        ("BEGIN IMMEDIATE".into(), "BEGIN"),
        ("COMMIT".into(), "BEGIN"),
        ("ROLLBACK".into(), "BEGIN"),
        ("SAVEPOINT write".into(), "SAVEPOINT"),
        ("RELEASE write".into(), "SAVEPOINT"),
        ("ROLLBACK TO write".into(), "SAVEPOINT"),
        ("INSERT INTO _minnow_migrations VALUES ('x', 'y', 0)".into(), "belongs to Minnow"),
        ("UPDATE _MINNOW_migrations SET sha256 = ''".into(), "belongs to Minnow"),
        ("DELETE FROM \"_minnow_migrations\"".into(), "belongs to Minnow"),
        ("DROP TABLE _minnow_migrations".into(), "belongs to Minnow"),
        ("CREATE TABLE _minnow_other (a)".into(), "belongs to Minnow"),
        ("CREATE VIEW _minnow_other AS SELECT 1".into(), "belongs to Minnow"),
        ("CREATE INDEX i ON _minnow_migrations (sha256)".into(), "belongs to Minnow"),
        ("CREATE TRIGGER x AFTER INSERT ON _minnow_migrations BEGIN SELECT 1; END".into(), "belongs to Minnow"),
        ("ALTER TABLE _minnow_migrations RENAME TO mine".into(), "belongs to Minnow"),
        ("ALTER TABLE _minnow_migrations ADD COLUMN mine".into(), "belongs to Minnow"),
        ("ALTER TABLE t RENAME TO /**/ \"_Minnow_mine\"".into(), "belong to Minnow"),
        ("CREATE VIRTUAL TABLE _minnow USING fts5(a)".into(), "belongs to Minnow"),
        ("REPLACE INTO _minnow_migrations SELECT 'x', 'y', 0".into(), "belongs to Minnow"),
    ];
    for (sql, expected) in &cases {
        // Twice: what a cache keeps must not be let through.
        for _ in 0..2 {
            let error = stores.try_run(sql, []).await.expect_err(sql);
            assert!(matches!(error, SqlError::Refused(_) | SqlError::ReadOnly), "{sql}: {error:?}");
            assert!(error.to_string().contains(expected), "{sql}: {error}");
        }
        // The same in a script, a batch, a transaction and a cursor, but for what dumps bring.
        if !["BEGIN", "BEGIN IMMEDIATE", "COMMIT", "PRAGMA foreign_keys = OFF"].contains(&sql.as_str()) {
            stores.sql.script(&stores.main, RW, sql.clone()).await.expect_err(sql);
        }
        stores.sql.batch(&stores.main, RW, vec![statement("SELECT 1"), statement(sql)]).await.expect_err(sql);
        assert!(stores.sql.query(&stores.main, RW, statement(sql)).await.is_err(), "{sql}");
        let mut transaction = stores.sql.begin(&stores.main, RW).await.unwrap();
        transaction.run(statement(sql)).await.expect_err(sql);
        transaction.commit().await.unwrap();
    }
    // Longer than what SQLite gives back as the text of a statement.
    let long = format!("ALTER TABLE t RENAME TO /*{}*/ _minnow_mine", "x".repeat(MAX_VALUE_BYTES));
    let error = stores.sql.script(&stores.main, RW, long).await.unwrap_err().to_string();
    assert!(error.contains("belong to Minnow"), "{error}");
    assert!(!stores.temp.path().join("outside.db").exists());
    assert_eq!(stores.number("SELECT count(*) FROM _minnow_migrations").await, 1);
    assert_eq!(stores.run("PRAGMA integrity_check").await.rows, [[Value::Text("ok".into())]]);
    assert_eq!(stores.run("PRAGMA journal_mode").await.rows, [[Value::Text("wal".into())]]);
}

#[tokio::test]
async fn triggers_and_views_reach_no_further_than_statements() {
    let stores = Stores::new();
    stores.sql.migrate(&stores.main, vec![Migration { name: "1.sql".into(), sql: "SELECT 1".into() }]).await.unwrap();
    stores.run("CREATE TABLE t (a)").await;
    for body in [
        "DELETE FROM _minnow_migrations",
        "INSERT INTO sqlite_master VALUES (1, 2, 3, 4, 5)",
        "SELECT load_extension('x')",
    ] {
        // Refused where it is made or where it is used.
        let _ = stores.try_run(&format!("CREATE TRIGGER g AFTER INSERT ON t BEGIN {body}; END"), []).await;
        let used = stores.try_run("INSERT INTO t VALUES (1)", []).await;
        let made = stores.number("SELECT count(*) FROM sqlite_schema WHERE name = 'g'").await;
        assert_eq!(used.is_err(), made == 1, "{body}: {used:?}");
        stores.run("DROP TRIGGER IF EXISTS g").await;
    }
    let _ = stores.try_run("CREATE VIEW w AS SELECT load_extension('x') AS a", []).await;
    stores.refused("SELECT * FROM w").await;
    let _ = stores.try_run("CREATE VIEW v AS SELECT name, sha256, applied_ms FROM _minnow_migrations", []).await;
    let _ = stores
        .try_run(
            "CREATE TRIGGER i INSTEAD OF DELETE ON v BEGIN DELETE FROM _minnow_migrations WHERE name = old.name; END",
            [],
        )
        .await;
    stores.refused("DELETE FROM v").await;
    assert_eq!(stores.number("SELECT count(*) FROM _minnow_migrations").await, 1);
    // A table whose default or index calls what is not allowed.
    stores.refused("CREATE TABLE d (a DEFAULT (load_extension('x')))").await;
    stores.refused("CREATE INDEX e ON t (load_extension(a))").await;
    // One that deletes through a foreign key.
    stores.run("CREATE TABLE k (name TEXT REFERENCES _minnow_migrations (name) ON DELETE CASCADE)").await;
    stores.run("INSERT INTO k VALUES ('1.sql')").await;
    assert_eq!(stores.number("SELECT count(*) FROM _minnow_migrations").await, 1);
}

#[tokio::test]
async fn a_store_granted_for_reading_cannot_be_written() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)").await;
    for sql in [
        "INSERT INTO t VALUES (1, 2)",
        "INSERT INTO t VALUES (1, 2) RETURNING id",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE u (a)",
        "PRAGMA user_version = 3",
        "REINDEX",
        "ANALYZE",
    ] {
        for _ in 0..2 {
            assert_eq!(stores.sql.run(&stores.main, RO, statement(sql)).await, Err(SqlError::ReadOnly), "{sql}");
        }
        assert_eq!(stores.sql.batch(&stores.main, RO, vec![statement(sql)]).await, Err(SqlError::ReadOnly), "{sql}");
        assert_eq!(stores.sql.script(&stores.main, RO, sql.into()).await, Err(SqlError::ReadOnly), "{sql}");
        assert_eq!(stores.sql.query(&stores.main, RO, statement(sql)).await.err(), Some(SqlError::ReadOnly), "{sql}");
        let mut transaction = stores.sql.begin(&stores.main, RO).await.unwrap();
        assert_eq!(transaction.run(statement(sql)).await, Err(SqlError::ReadOnly), "{sql}");
    }
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 0);
    assert_eq!(stores.number("PRAGMA user_version").await, 0);
    // Readers do not wait for a writer, nor the other way.
    let mut writing = stores.sql.begin(&stores.main, RW).await.unwrap();
    writing.run(statement("INSERT INTO t VALUES (1, 2)")).await.unwrap();
    let mut reading = stores.sql.begin(&stores.main, RO).await.unwrap();
    let count = statement("SELECT count(*) FROM t");
    assert_eq!(reading.run(count.clone()).await.unwrap().rows, [[Value::Integer(0)]]);
    writing.commit().await.unwrap();
    // It still sees what it saw.
    assert_eq!(reading.run(count.clone()).await.unwrap().rows, [[Value::Integer(0)]]);
    reading.commit().await.unwrap();
    assert_eq!(stores.number(&count.sql).await, 1);
}
