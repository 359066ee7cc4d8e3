use super::*;

#[tokio::test]
async fn every_type_comes_back_as_it_went_in() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    let cases = [
        (Value::Null, Value::Null),
        (Value::Integer(i64::MAX), Value::Integer(i64::MAX)),
        (Value::Integer(i64::MIN), Value::Integer(i64::MIN)),
        (Value::Integer(0), Value::Integer(0)),
        (Value::Real(f64::MAX), Value::Real(f64::MAX)),
        (Value::Real(-0.5), Value::Real(-0.5)),
        (Value::Real(f64::NEG_INFINITY), Value::Real(f64::NEG_INFINITY)),
        // SQLite has no NaN.
        (Value::Real(f64::NAN), Value::Null),
        (Value::Text(String::new()), Value::Text(String::new())),
        (Value::Text("å\0b'\"".into()), Value::Text("å\0b'\"".into())),
        (Value::Blob(Vec::new()), Value::Blob(Vec::new())),
        (Value::Blob(vec![0, 255, 1]), Value::Blob(vec![0, 255, 1])),
    ];
    for (number, (value, expected)) in cases.into_iter().enumerate() {
        let id = Value::Integer(number as i64);
        let wrote = stores.try_run("INSERT INTO t VALUES (?, ?)", [id.clone(), value]).await.unwrap();
        assert_eq!((wrote.changes, wrote.last_insert_rowid), (1, number as i64));
        // The second time from the connection's cache, on this thread.
        for _ in 0..2 {
            let read = stores.try_run("SELECT v AS value FROM t WHERE id = ?", [id.clone()]).await.unwrap();
            assert_eq!((read.columns, read.rows), (vec!["value".to_owned()], vec![vec![expected.clone()]]));
            assert_eq!((read.changes, read.last_insert_rowid), (0, 0));
        }
    }
    let odd = stores.run("SELECT CAST(x'41ff' AS TEXT)").await;
    assert_eq!(odd.rows, [[Value::Text("A\u{fffd}".into())]]);
}

#[tokio::test]
async fn counts_and_columns_are_those_of_the_statement() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)").await;
    assert_eq!(stores.run("INSERT INTO t (v) VALUES ('a'), ('b'), ('c')").await.changes, 3);
    let made = stores.run("CREATE INDEX i ON t (v)").await;
    assert_eq!((made.changes, made.last_insert_rowid), (0, 0));
    let none = stores.run("UPDATE t SET v = 'd' WHERE id = 9").await;
    assert_eq!((none.changes, none.last_insert_rowid), (0, 0));
    let returned = stores.run("DELETE FROM t WHERE id > 1 RETURNING id, v").await;
    assert_eq!((returned.changes, returned.rows.len(), returned.columns.join(",")), (2, 2, "id,v".into()));
    let empty = stores.run("SELECT * FROM t WHERE id = 9").await;
    assert_eq!((empty.columns.join(","), empty.rows.len()), ("id,v".into(), 0));
    stores.run("ALTER TABLE t ADD COLUMN w INTEGER DEFAULT 7").await;
    let wider = stores.run("SELECT * FROM t WHERE id = 9").await;
    assert_eq!(wider.columns.join(","), "id,v,w");
}

#[tokio::test]
async fn mistakes_are_told_with_their_place() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL CHECK (v <> ''))").await;
    stores.run("INSERT INTO t VALUES (1, 'a')").await;
    for (sql, expected) in [
        ("SELECT *\nFORM t", "near \"FORM\": syntax error (line 2, column 1)"),
        ("SELECT x FROM t", "no such column: x (line 1, column 8)"),
        ("SELECT * FROM nobody", "no such table: nobody"),
        ("INSERT INTO t VALUES (1, 'b')", "UNIQUE constraint failed: t.id"),
        ("INSERT INTO t VALUES (2, NULL)", "NOT NULL constraint failed: t.v"),
        ("INSERT INTO t VALUES (2, '')", "CHECK constraint failed"),
        ("SELECT ?", "the statement has 1 parameter, and no values were given"),
        ("SELECT 1; SELECT 2", "more than one statement"),
        ("", "no statement"),
        (" -- nothing", "no statement"),
    ] {
        let error = stores.try_run(sql, []).await.unwrap_err();
        let is_constraint = matches!(error, SqlError::Constraint(_));
        assert!(is_constraint || matches!(error, SqlError::Refused(_)), "{sql}: {error:?}");
        assert_eq!(is_constraint, expected.contains("constraint failed"), "{sql}: {error:?}");
        assert!(error.to_string().contains(expected), "{sql}: {error}");
    }
    let error = stores.try_run("SELECT 1", [Value::Null]).await.unwrap_err().to_string();
    assert!(error.contains("no parameters, and 1 value was given"), "{error}");
    let statements = vec![statement("INSERT INTO t VALUES (5, 'x')"), statement("INSERT INTO t VALUES (1, 'x')")];
    stores.sql.batch(&stores.main, RW, statements).await.unwrap_err();
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn batches_scripts_and_dumps_run_as_one() {
    let stores = Stores::new();
    let dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n\
        CREATE TABLE child (id INTEGER PRIMARY KEY, of INTEGER REFERENCES parent (id));\n\
        INSERT INTO child VALUES(1,7); -- before its parent\n\
        CREATE TABLE parent (id INTEGER PRIMARY KEY);\nINSERT INTO parent VALUES(7);\nCOMMIT;\n";
    assert_eq!(stores.sql.script(&stores.main, RW, dump.into()).await, Ok(7));
    // The keys hold again, and a dump that breaks them is refused as a whole.
    assert!(stores.refused("INSERT INTO child VALUES (2, 8)").await.contains("FOREIGN KEY"), "keys are off");
    let broken = "PRAGMA foreign_keys=OFF; INSERT INTO child VALUES (3, 9);";
    let error = stores.sql.script(&stores.main, RW, broken.into()).await.unwrap_err().to_string();
    assert!(error.contains("FOREIGN KEY"), "{error}");

    let script = "INSERT INTO parent VALUES (8);\n\n  /* two */ ; -- three\n  INSERT INTO nobody VALUES (1);";
    let error = stores.sql.script(&stores.main, RW, script.into()).await.unwrap_err().to_string();
    assert_eq!(error, "no such table: nobody (line 4, column 3)");
    let script = "INSERT INTO parent VALUES (8);\n -- again\n INSERT INTO parent VALUES (8);";
    let error = stores.sql.script(&stores.main, RW, script.into()).await.unwrap_err().to_string();
    assert_eq!(error, "UNIQUE constraint failed: parent.id (line 3, column 2)");
    assert_eq!(stores.number("SELECT count(*) FROM parent").await, 1);

    let results = stores.sql.batch(
        &stores.main,
        RW,
        vec![
            Statement::new("INSERT INTO parent VALUES (?)", [Value::Integer(10)]),
            statement("SELECT last_insert_rowid()"),
            statement("SELECT count(*) FROM parent"),
        ],
    );
    let results = results.await.unwrap();
    assert_eq!((results[1].rows[0][0].clone(), results[2].rows[0][0].clone()), (Value::Integer(10), Value::Integer(2)));
    let read = vec![statement("SELECT 1"), statement("SELECT count(*) FROM parent")];
    for access in [RO, RW] {
        assert_eq!(stores.sql.batch(&stores.main, access, read.clone()).await.unwrap()[1].rows, [[Value::Integer(2)]]);
    }
}

#[tokio::test]
async fn search_json_plans_and_the_schema_can_be_used() {
    let stores = Stores::new();
    let schema = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);
        CREATE VIRTUAL TABLE found USING fts5(body, content='note', content_rowid='id');
        CREATE TRIGGER noted AFTER INSERT ON note BEGIN INSERT INTO found(rowid, body) VALUES (new.id, new.body); END;
        CREATE TRIGGER unnoted AFTER DELETE ON note BEGIN
            INSERT INTO found(found, rowid, body) VALUES ('delete', old.id, old.body);
        END;
        CREATE VIRTUAL TABLE box USING rtree(id, x0, x1);
        CREATE VIEW short AS SELECT id FROM note WHERE length(body) < 10;";
    assert_eq!(stores.sql.script(&stores.main, RW, schema.into()).await, Ok(6));
    stores.run("INSERT INTO note (body) VALUES ('the quick fox'), ('lazy dog')").await;
    stores.run("INSERT INTO box VALUES (1, 0.5, 2.5)").await;
    for _ in 0..2 {
        let found =
            stores.run("SELECT highlight(found, 0, '<', '>') FROM found WHERE found MATCH 'qui*' ORDER BY rank").await;
        assert_eq!(found.rows, [[Value::Text("the <quick> fox".into())]]);
    }
    // An index that was told something else than its table holds is the author's mistake, not a damaged file.
    stores.run("INSERT INTO found(found, rowid, body) VALUES ('delete', 1, 'other words')").await;
    let error = stores.try_run("INSERT INTO found(found, rank) VALUES ('integrity-check', 1)", []).await.unwrap_err();
    assert!(matches!(&error, SqlError::Refused(text) if text.contains("rebuild")), "{error:?}");
    stores.run("INSERT INTO found(found) VALUES ('rebuild')").await;
    stores.run("DELETE FROM note WHERE id = 1").await;
    assert_eq!(stores.number("SELECT count(*) FROM found WHERE found MATCH 'quick'").await, 0);
    assert_eq!(stores.number("SELECT id FROM short").await, 2);
    assert_eq!(stores.number("SELECT id FROM box WHERE x0 < 1").await, 1);
    assert_eq!(stores.number(r#"SELECT '{"a":[1,5]}' ->> '$.a[1]'"#).await, 5);
    assert_eq!(stores.number("SELECT sum(value) FROM json_each('[1,2,3]')").await, 6);
    let plan = stores.run("EXPLAIN QUERY PLAN SELECT * FROM note WHERE id = 1").await;
    assert!(format!("{plan:?}").contains("SEARCH note"), "{plan:?}");
    assert!(!stores.run("EXPLAIN INSERT INTO note VALUES (1, 'x')").await.rows.is_empty());
    assert_eq!(stores.run("PRAGMA table_info(note)").await.rows.len(), 2);
    assert_eq!(stores.number("SELECT count(*) FROM pragma_table_info('note')").await, 2);
    stores.run("PRAGMA user_version = 7").await;
    assert_eq!(stores.number("PRAGMA user_version").await, 7);
    assert_eq!(stores.run("PRAGMA quick_check").await.rows, [[Value::Text("ok".into())]]);
    stores.run("PRAGMA optimize").await;
    stores.run("ANALYZE").await;
    stores.run("ALTER TABLE note RENAME TO notes").await;
    stores.run("ALTER TABLE notes RENAME COLUMN body TO text").await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_opening_again() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    for number in 0..50 {
        stores.try_run("INSERT INTO t VALUES (?)", [Value::Integer(number)]).await.unwrap();
    }
    // As a node that is killed leaves it: with its log, and nothing closed.
    let copy = tempfile::tempdir().unwrap();
    let app = stores.temp.path().join("default/shop");
    std::fs::create_dir_all(copy.path().join("default/shop")).unwrap();
    for file in ["main.db", "main.db-wal"] {
        std::fs::copy(app.join(file), copy.path().join("default/shop").join(file)).unwrap();
    }
    let again = Sql::open(copy.path(), SqlLimits::default()).unwrap();
    let count = again.run(&stores.main, RO, statement("SELECT count(*) FROM t")).await.unwrap();
    assert_eq!(count.rows, [[Value::Integer(50)]]);
    let Stores { sql, temp, main } = stores;
    drop(sql);
    let again = Sql::open(temp.path(), SqlLimits::default()).unwrap();
    let count = again.run(&main, RO, statement("SELECT count(*) FROM t")).await.unwrap();
    assert_eq!(count.rows, [[Value::Integer(50)]]);
}

#[tokio::test]
async fn a_store_that_was_never_written_has_no_file() {
    let stores = Stores::new();
    assert_eq!(stores.number("SELECT 1").await, 1);
    assert!(stores.refused("INSERT INTO t VALUES (1)").await.contains("no such table"));
    assert_eq!(stores.sql.run(&stores.main, RO, statement("CREATE TABLE t (a)")).await, Err(SqlError::ReadOnly));
    assert_eq!(stores.sql.script(&stores.main, RO, "SELECT 1; SELECT 2".into()).await, Ok(2));
    assert_eq!(stores.sql.batch(&stores.main, RO, vec![statement("SELECT 1")]).await.unwrap().len(), 1);
    let app = "shop".parse().unwrap();
    assert_eq!(stores.sql.list_stores(&stores.main.tenant, &app), Ok(Vec::new()));
    stores.run("CREATE TABLE t (a)").await;
    let listed = stores.sql.list_stores(&stores.main.tenant, &app).unwrap();
    assert!(matches!(listed.as_slice(), [(name, bytes)] if name.as_str() == "main" && *bytes > 0), "{listed:?}");
    stores.sql.delete_app(&stores.main.tenant, &app).await.unwrap();
    assert!(stores.refused("SELECT * FROM t").await.contains("no such table"));
    assert_eq!(stores.sql.list_stores(&stores.main.tenant, &app), Ok(Vec::new()));
}

#[tokio::test]
async fn a_damaged_file_is_told_by_name_and_hurts_no_other_store() {
    let stores = Stores::new();
    let app = stores.temp.path().join("default/shop");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("torn.db"), vec![b'x'; 8192]).unwrap();
    for access in [RO, RW] {
        let error = stores.sql.run(&id("torn"), access, statement("SELECT 1")).await.unwrap_err();
        assert!(matches!(&error, SqlError::Corrupt { path, .. } if *path == app.join("torn.db")), "{error:?}");
    }
    stores.run("CREATE TABLE t (v TEXT)").await;
    stores
        .try_run(
            "INSERT INTO t SELECT hex(randomblob(500)) FROM json_each(?)",
            [Value::Text(format!("[0{}]", ",0".repeat(999)))],
        )
        .await
        .unwrap();
    let Stores { sql, temp, main } = stores;
    drop(sql);
    // A thread that has just answered may still have the store; the last one writes the log into the file.
    let deadline = Instant::now() + Duration::from_secs(5);
    while app.join("main.db-wal").exists() {
        assert!(Instant::now() < deadline, "the store is not closed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Pages in the middle of the table.
    let mut bytes = std::fs::read(app.join("main.db")).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 8192].fill(0x5a);
    std::fs::write(app.join("main.db"), bytes).unwrap();
    let sql = Sql::open(temp.path(), SqlLimits::default()).unwrap();
    let error = sql.run(&main, RO, statement("SELECT sum(length(v)) FROM t")).await.unwrap_err();
    assert!(matches!(&error, SqlError::Corrupt { path, .. } if path.ends_with("default/shop/main.db")), "{error:?}");
    sql.run(&id("other"), RW, statement("CREATE TABLE t (a)")).await.unwrap();
}
