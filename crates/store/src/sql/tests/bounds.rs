use futures::future::join_all;

use super::*;

#[tokio::test]
async fn a_query_that_runs_for_ever_is_stopped_and_others_go_on() {
    let stores = Stores::with(SqlLimits { statement: NEVER, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    stores.run("INSERT INTO t VALUES (1)").await;
    stores.number("SELECT id FROM t").await;
    let others = async {
        for _ in 0..6 {
            stores.number("SELECT id FROM t").await;
            stores.sql.run(&id("other"), RW, statement("CREATE TABLE IF NOT EXISTS t (a)")).await.unwrap();
            stores.try_run("UPDATE t SET id = 1", []).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        ran = stores.try_run(ENDLESS, []) => panic!("{ran:?}"),
        () = in_time(others) => {}
    }
    let stores = Stores::with(quick());
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    stores.run("INSERT INTO t VALUES (1)").await;
    assert_eq!(stores.try_run(ENDLESS, []).await, Err(SqlError::Timeout));
    // A write, a batch, a script and a cursor are stopped too.
    let write = format!("INSERT INTO t {ENDLESS}");
    assert_eq!(stores.try_run(&write, []).await, Err(SqlError::Timeout));
    assert_eq!(stores.sql.batch(&stores.main, RW, vec![statement(ENDLESS)]).await, Err(SqlError::Timeout));
    assert_eq!(stores.sql.batch(&stores.main, RW, vec![statement(&write)]).await, Err(SqlError::Timeout));
    assert_eq!(stores.sql.script(&stores.main, RW, write).await, Err(SqlError::Timeout));
    assert_eq!(stores.sql.query(&stores.main, RO, statement(ENDLESS)).await.err(), Some(SqlError::Timeout));
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn a_read_whose_caller_went_away_is_stopped() {
    let stores = Stores::with(SqlLimits { statement: NEVER, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (a)").await;
    // As many as may run at once.
    assert!(begun(join_all((0..8).map(|_| stores.try_run(ENDLESS, [])))).await.is_none());
    in_time(stores.run("SELECT count(*), 'long' LIKE '%o%' FROM t")).await;
}

/// Runs on the one thread that everything here shares.
#[tokio::test]
async fn what_cannot_be_interrupted_never_runs_on_the_callers_thread() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (a)").await;
    let text = |letters: usize| Value::Text("a".repeat(letters));
    let sql = "WITH v(a, b) AS (SELECT ?, ?) SELECT a LIKE b || 1, a LIKE b || 2, a LIKE b || 3, a LIKE b || 4, a LIKE b || 5, a LIKE b || 6 FROM v";
    // Short at first, which is how it would be taken for something short.
    for _ in 0..3 {
        stores.try_run(sql, [text(10), text(2)]).await.unwrap();
    }
    let pattern = Value::Text(format!("%{}b", "a".repeat(190)));
    let mut long = Box::pin(stores.try_run(sql, [text(60_000), pattern]));
    // What runs on this thread is over when it was polled once.
    assert!(futures::poll!(&mut long).is_pending());
    long.await.unwrap();
}

#[tokio::test]
async fn results_are_bounded_and_cursors_are_not() {
    let stores = Stores::with(SqlLimits { result_bytes: 1 << 20, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)").await;
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) \
        INSERT INTO t SELECT i, zeroblob(1000) FROM n";
    assert_eq!(stores.run(many).await.changes, 5000);
    let all = statement("SELECT id, v FROM t");
    let error = stores.sql.run(&stores.main, RO, all.clone()).await.unwrap_err();
    assert!(
        matches!(&error, SqlError::TooLarge(text) if text.contains("1048576") && text.contains("`query`")),
        "{error:?}"
    );
    let half = statement("SELECT v FROM t LIMIT 700");
    let batch = stores.sql.batch(&stores.main, RO, vec![half.clone(), half]).await;
    assert!(matches!(batch, Err(SqlError::TooLarge(_))), "{batch:?}");
    // A write that answers too much is not kept.
    let error = stores.try_run("DELETE FROM t RETURNING *", []).await.unwrap_err();
    assert!(matches!(error, SqlError::TooLarge(_)), "{error:?}");

    let mut cursor = stores.sql.query(&stores.main, RO, all).await.unwrap();
    assert_eq!(cursor.columns(), ["id", "v"]);
    let mut next = 1;
    loop {
        let rows = cursor.next(1000).await.unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() < 300, "{}", rows.len());
        for row in rows {
            assert_eq!(row, [Value::Integer(next), Value::Blob(vec![0; 1000])]);
            next += 1;
        }
        // Writes go on meanwhile; the cursor does not see them.
        stores.try_run("INSERT INTO t (v) VALUES (x'01')", []).await.unwrap();
    }
    assert_eq!(next, 5001);
    assert!(cursor.next(1).await.unwrap().is_empty());
    let mut some = stores.sql.query(&stores.main, RO, statement("SELECT id FROM t ORDER BY id")).await.unwrap();
    assert_eq!(some.next(2).await.unwrap(), [[Value::Integer(1)], [Value::Integer(2)]]);
    assert_eq!(some.next(1).await.unwrap(), [[Value::Integer(3)]]);
    drop(some);
    let mut none = stores.sql.query(&stores.main, RO, statement("SELECT id FROM t WHERE id < 0")).await.unwrap();
    assert_eq!((none.columns().join(","), none.next(10).await.unwrap().len()), ("id".into(), 0));
    let mut wrote =
        stores.sql.query(&stores.main, RW, statement("DELETE FROM t WHERE id < 4 RETURNING id")).await.unwrap();
    assert_eq!((wrote.next(2).await.unwrap().len(), wrote.next(2).await.unwrap().len()), (2, 1));
    // Cursors that were dropped gave their places back.
    for _ in 0..40 {
        stores.sql.query(&stores.main, RO, statement("SELECT id FROM t")).await.unwrap().next(1).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_rests_too_long_ends() {
    let limits = SqlLimits { transaction: Duration::from_secs(10), ..SqlLimits::default() };
    let stores = Stores::with(limits);
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    stores.run("INSERT INTO t VALUES (1), (2), (3)").await;
    let mut cursor = stores.sql.query(&stores.main, RO, statement("SELECT id FROM t")).await.unwrap();
    cursor.next(1).await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    // From here on it has its time anew.
    cursor.next(1).await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    settle(|| false).await;
    assert!(!cursor.has_ended());
    tokio::time::advance(Duration::from_secs(2)).await;
    settle(|| cursor.has_ended()).await;
    assert!(matches!(cursor.next(1).await, Err(SqlError::Ended(_))));
}

/// Lets what a timer began come to its end: until `is_done`, or as long as anything can still come of it. The clock stands still.
async fn settle(is_done: impl Fn() -> bool) {
    for _ in 0..100 {
        if is_done() {
            return;
        }
        // Behind what waits for a thread that may block already.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_database_grows_to_its_limit_and_works_on() {
    let stores = Stores::with(SqlLimits { database_bytes: 1 << 20, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (v BLOB)").await;
    let block = [Value::Blob(vec![7; 100_000])];
    let mut written = 0;
    let error = loop {
        match stores.try_run("INSERT INTO t VALUES (?)", block.clone()).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, SqlError::Full);
    assert!((8..=10).contains(&written), "{written}");
    let both = vec![
        Statement::new("INSERT INTO t VALUES (x'01')", []),
        Statement::new("INSERT INTO t VALUES (?)", block.clone()),
    ];
    assert_eq!(stores.sql.batch(&stores.main, RW, both).await, Err(SqlError::Full));
    assert_eq!(stores.number("SELECT count(*) FROM t").await, written);
    stores.run("DELETE FROM t WHERE rowid <= 2").await;
    stores.try_run("INSERT INTO t VALUES (?)", block).await.unwrap();
    assert_eq!(stores.run("PRAGMA integrity_check").await.rows, [[Value::Text("ok".into())]]);
}

#[tokio::test]
async fn values_statements_and_memory_are_bounded() {
    // The time is no matter here, on a machine that has other things to do.
    let stores = Stores::with(SqlLimits { statement: Duration::from_secs(60), ..SqlLimits::default() });
    stores.run("CREATE TABLE t (v)").await;
    let large = Value::Blob(vec![0; MAX_VALUE_BYTES + 1]);
    for (sql, params) in [
        ("INSERT INTO t VALUES (?)", vec![large]),
        ("SELECT zeroblob(100000000)", vec![]),
        ("SELECT printf('%.*c', 100000000, 'x')", vec![]),
        // Forty values of 4 MB, each within the bound.
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 40) SELECT hex(randomblob(2000000)) AS h FROM n ORDER BY h",
            vec![],
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500000) SELECT count(*) FROM (SELECT DISTINCT i || hex(zeroblob(2000)) FROM n)",
            vec![],
        ),
    ] {
        let error = stores.try_run(sql, params).await.expect_err(sql);
        assert!(matches!(error, SqlError::TooLarge(_)), "{sql}: {error:?}");
    }
    let error = stores.try_run(&format!("SELECT 1 -- {}", "x".repeat(MAX_STATEMENT_BYTES)), []).await.unwrap_err();
    assert!(matches!(error, SqlError::TooLarge(_)), "{error:?}");
    for sql in [
        format!("SELECT {}1{}", "(1 + ".repeat(200), ")".repeat(200)),
        format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(200)),
        format!("SELECT {}", ["1"; 600].join(",")),
        format!("SELECT 'x' LIKE '{}'", "%x".repeat(200)),
        "SELECT ?20000".into(),
    ] {
        let error = stores.try_run(&sql, []).await.unwrap_err();
        assert!(matches!(error, SqlError::Refused(_)), "{error:?}");
    }
    // A sort that memory allows is fine, and so is everything after one that it did not.
    let sorted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT max(i) FROM (SELECT i FROM n ORDER BY i % 7)";
    assert_eq!(stores.number(sorted).await, 100_000);
    let trigger = "CREATE TRIGGER again AFTER INSERT ON t BEGIN INSERT INTO t VALUES (new.v + 1); END";
    stores.run(trigger).await;
    stores.run("INSERT INTO t VALUES (1)").await;
}

/// More writes than may wait: none is lost, none panics, and each gets an answer.
#[tokio::test]
async fn the_queue_is_bounded() {
    let stores = Stores::with(SqlLimits { transaction: NEVER, ..quick() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    stores.run("INSERT INTO t VALUES (-1)").await;
    let block = stores.sql.begin(&stores.main, RW).await.unwrap();
    let writes = (0..400).map(|number| stores.try_run("INSERT INTO t VALUES (?)", [Value::Integer(number)]));
    let results = in_time(join_all(writes)).await;
    assert!(results.iter().all(|result| *result == Err(SqlError::Busy)), "{:?}", results[0]);
    drop(block);
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 1);
    stores.run("INSERT INTO t VALUES (1)").await;
}

#[tokio::test]
async fn a_batch_stops_at_the_bound_on_its_answers() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (a)").await;
    let large = statement("SELECT zeroblob(4000000), zeroblob(4000000), zeroblob(4000000)");
    let wrong = statement("SELECT a FROM nowhere");
    let write = statement("INSERT INTO t VALUES (1), (2), (3) RETURNING zeroblob(4000000)");
    for (store, access, statements) in [
        // The mistake is not met.
        ("main", RO, vec![large.clone(), large.clone(), wrong.clone()]),
        ("main", RW, vec![large.clone(), large.clone(), wrong.clone()]),
        ("main", RW, vec![write.clone(), write, wrong.clone()]),
        ("unwritten", RO, vec![large.clone(), large, wrong]),
    ] {
        let error = stores.sql.batch(&id(store), access, statements).await.unwrap_err();
        assert!(matches!(&error, SqlError::TooLarge(_)), "{store} {access:?}: {error:?}");
    }
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 0);
    // 400 MB in one row, none of which is there before it is read.
    let wide = statement(&format!("SELECT {}", ["zeroblob(4000000)"; 100].join(",")));
    let cursor = stores.sql.query(&stores.main, RO, wide).await;
    assert!(matches!(cursor.err(), Some(SqlError::TooLarge(_))));
}

/// Runs `sql` with a small row three times, and then with a large one: whether that left the thread to others.
async fn small_then_large(stores: &Stores, sql: &str) -> bool {
    for _ in 0..3 {
        stores.try_run(sql, [Value::Integer(1)]).await.unwrap();
    }
    let mut large = Box::pin(stores.try_run(sql, [Value::Integer(2)]));
    // What runs on this thread to its end is over when it was polled once.
    let leaves = futures::poll!(&mut large).is_pending();
    if leaves {
        large.await.unwrap();
    }
    leaves
}

/// The functions here are those that take linear time, of which a hundred fit between two looks at the clock.
#[tokio::test]
async fn a_statement_that_was_short_with_small_values_does_not_hold_the_thread_with_large_ones() {
    let stores = Stores::with(SqlLimits { statement: Duration::from_secs(60), ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, a)").await;
    let text = [Value::Text("a".repeat(MAX_VALUE_BYTES - 100))];
    stores.try_run("INSERT INTO t VALUES (1, 'a'), (2, ?)", text).await.unwrap();
    let sum = ["length(upper(a))"; 60].join(" + ");
    assert!(small_then_large(&stores, &format!("SELECT {sum} FROM t WHERE id = ?")).await);
}

#[tokio::test]
async fn a_generated_column_does_not_hide_what_cannot_be_interrupted() {
    let stores = Stores::with(SqlLimits { statement: Duration::from_secs(60), ..SqlLimits::default() });
    // So few that the clock is not looked at between them.
    let columns: Vec<_> = (0..4).map(|number| format!("g{number} AS (a LIKE b || '{number}')")).collect();
    stores.run(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, {})", columns.join(","))).await;
    let values = [Value::Text("a".repeat(60_000)), Value::Text(format!("%{}b", "a".repeat(190)))];
    stores.try_run("INSERT INTO t (id, a, b) VALUES (1, 'a', 'a'), (2, ?, ?)", values).await.unwrap();
    assert!(small_then_large(&stores, "SELECT * FROM t WHERE id = ?").await);
}

#[tokio::test]
async fn what_may_take_long_is_known_by_its_text_and_its_tables() {
    let stores = Stores::new();
    for sql in [
        "CREATE TABLE plain (id INTEGER PRIMARY KEY, a, s AS (instr(a, 'x')) STORED)",
        "CREATE TABLE computed (id INTEGER PRIMARY KEY, a, g AS (a LIKE 'x'))",
        "CREATE VIEW view AS SELECT g FROM computed",
        "CREATE VIRTUAL TABLE words USING fts5 (text)",
        "CREATE VIRTUAL TABLE words_list USING fts5vocab (words, row)",
        "CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1)",
    ] {
        stores.run(sql).await;
    }
    let open = stores.sql.stores.or_create(&stores.main).await.unwrap();
    let reader = open.reader(store::Kind::Read).await.unwrap();
    for (sql, long) in [
        ("SELECT * FROM plain WHERE id = ?", false),
        ("SELECT instr(a, ?), replace(a, 'a', 'b'), trim(a, 'x') FROM plain", false),
        ("SELECT value FROM json_each(?)", false),
        ("SELECT name FROM pragma_table_info('plain')", false),
        ("SELECT 1", false),
        ("SELECT a LIKE ? FROM plain", true),
        ("SELECT count(*) FROM plain JOIN computed USING (id)", true),
        ("SELECT g FROM computed WHERE id = ?", true),
        ("SELECT * FROM view", true),
        ("SELECT text FROM words WHERE words = ?", true),
        ("SELECT text FROM words(?)", true),
        ("SELECT term FROM words_list", true),
        ("SELECT id FROM boxes WHERE x0 > ?", true),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM Words)", true),
    ] {
        let session = reader.session().unwrap();
        assert_eq!(session.is_long(sql, Instant::now() + Duration::from_secs(5)), long, "{sql}");
    }
}

#[tokio::test]
async fn cursors_at_rest_count_for_the_memory_of_all() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (a)").await;
    // 40 MB each.
    let sorted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000) \
        SELECT hex(zeroblob(2000)) || i FROM n ORDER BY i % 7";
    let mut cursors = Vec::new();
    for _ in 0..4 {
        let mut cursor = stores.sql.query(&stores.main, RO, statement(sorted)).await.unwrap();
        cursor.next(1).await.unwrap();
        cursors.push(cursor);
    }
    // Other tests have less for more than a moment.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        assert!(memory::reserved_bytes() > 150 << 20, "{}", memory::reserved_bytes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(cursors);
    while memory::reserved_bytes() > 150 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", memory::reserved_bytes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes of the log beside the store `main`.
fn log_bytes(stores: &Stores) -> u64 {
    let mut log = stores.sql.stores.path(&stores.main).into_os_string();
    log.push("-wal");
    std::fs::metadata(log).unwrap().len()
}

#[tokio::test]
async fn what_reads_does_not_let_the_log_grow_without_bound() {
    let stores = Stores::with(SqlLimits { database_bytes: 1 << 20, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    stores.run("INSERT INTO t VALUES (1, 0), (2, 0)").await;
    let mut cursor = stores.sql.query(&stores.main, RO, statement("SELECT id FROM t")).await.unwrap();
    cursor.next(1).await.unwrap();
    let mut largest = 0;
    for _ in 0..100 {
        stores.run("UPDATE t SET v = randomblob(300000) WHERE id = 1").await;
        largest = largest.max(log_bytes(&stores));
    }
    // It holds back the log for as long as that is within its bound.
    assert!((16 << 20..18 << 20).contains(&largest), "{largest}");
    let ended = cursor.next(1).await;
    assert!(matches!(&ended, Err(SqlError::Ended(why)) if why.contains("written")), "{ended:?}");
    assert_eq!(stores.run("PRAGMA integrity_check").await.rows, [[Value::Text("ok".into())]]);
}

#[tokio::test]
async fn a_write_waits_for_a_transaction_that_holds_a_full_log() {
    let stores = Stores::with(SqlLimits { database_bytes: 1 << 20, transaction: NEVER, ..quick() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    stores.run("INSERT INTO t VALUES (1, 0), (2, 0)").await;
    let mut reading = stores.sql.begin(&stores.main, RO).await.unwrap();
    reading.run(statement("SELECT id FROM t")).await.unwrap();
    let write = "UPDATE t SET v = randomblob(300000) WHERE id = 1";
    let mut wrote = 0;
    // Each adds 300 kB to the log, which is full long before these are done.
    while stores.try_run(write, []).await != Err(SqlError::Busy) {
        wrote += 1;
        assert!(wrote < 100, "{}", log_bytes(&stores));
    }
    assert!(log_bytes(&stores) < 18 << 20, "{} after {wrote} writes", log_bytes(&stores));
    drop(reading);
    // The log begins anew.
    for _ in 0..wrote {
        stores.run(write).await;
        assert!(log_bytes(&stores) < 18 << 20, "{}", log_bytes(&stores));
    }
}

/// The writes wait behind a transaction, and so are one group when it ends.
#[tokio::test]
async fn slow_writes_of_others_keep_a_write_waiting_for_a_bounded_time() {
    let stores = Stores::with(quick());
    stores.run("CREATE TABLE t (a)").await;
    let count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000)";
    let begun = Instant::now();
    stores.run(&format!("{count} SELECT max(i) FROM n")).await;
    let one = begun.elapsed();
    let block = stores.sql.begin(&stores.main, RW).await.unwrap();
    let writes = (0..60).map(|_| {
        let (sql, store) = (stores.sql.clone(), stores.main.clone());
        let write = statement(&format!("{count} INSERT INTO t SELECT max(i) FROM n"));
        tokio::spawn(async move {
            let begun = Instant::now();
            (sql.run(&store, RW, write).await, begun.elapsed())
        })
    });
    let writes: Vec<_> = writes.collect();
    let begun = Instant::now();
    while stores.sql.waiting(&stores.main).await.unwrap() < 60 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the writes do not come to wait");
        tokio::task::yield_now().await;
    }
    drop(block);
    let (mut wrote, mut busy, mut longest) = (0, 0, Duration::ZERO);
    for write in writes {
        let (result, took) = write.await.unwrap();
        longest = longest.max(took);
        match result {
            Ok(_) => wrote += 1,
            Err(SqlError::Busy | SqlError::Timeout) => busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(stores.number("SELECT count(*) FROM t").await, wrote);
    assert!(wrote > 0);
    // 400 ms, a group, and what runs slower because of the other tests.
    let bound = Duration::from_millis(600) + one * 8;
    assert!(longest < bound, "{longest:?}, {bound:?}; {wrote} and {busy}");
}

#[tokio::test]
async fn a_writer_that_lost_its_foreign_keys_is_not_used_again() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    stores.run("CREATE TABLE c (id REFERENCES t)").await;
    let open = stores.sql.stores.or_create(&stores.main).await.unwrap();
    let mut lease = open.queue.take(&open).await.unwrap();
    lease.session().unwrap().control("PRAGMA foreign_keys = off").unwrap();
    drop(lease);
    assert!(stores.refused("INSERT INTO c VALUES (1)").await.contains("FOREIGN KEY"));
}

/// A copy of the rest of the text for each statement makes the time of a script grow with its square: 13 s for 4 MiB of inserts.
#[tokio::test]
async fn a_statement_of_a_script_takes_nothing_for_what_comes_after_it() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (a)").await;
    let open = stores.sql.stores.or_create(&stores.main).await.unwrap();
    let mut lease = open.queue.take(&open).await.unwrap();
    let session = lease.session().unwrap();
    session.allow_memory(1 << 20);
    let script = format!("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); -- {}", "x".repeat(4 << 20));
    let second = Duration::from_secs(60);
    let ran = session.whole_script(&script, second, second, || Ok(()));
    assert_eq!(ran.unwrap(), 2);
}

#[tokio::test]
async fn a_script_is_not_cut_off_at_a_nul() {
    let stores = Stores::new();
    let script = "CREATE TABLE t (a);\nINSERT INTO t VALUES (1);\0 INSERT INTO t VALUES (2);";
    let error = stores.sql.script(&stores.main, RW, script.into()).await.unwrap_err();
    let SqlError::Refused(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("NUL") && text.ends_with("(line 2, column 26)"), "{text}");
    assert!(stores.refused("SELECT * FROM t").await.contains("no such table"));
}

/// SQLite's full-text search steps through tables of its own, and there it looks at the clock. This one ends with its memory on
/// a fast machine, and with its time on a slow one.
#[tokio::test]
async fn a_full_text_search_ends() {
    let stores = Stores::with(SqlLimits { statement: Duration::from_secs(1), ..SqlLimits::default() });
    stores.run("CREATE VIRTUAL TABLE words USING fts5 (text)").await;
    let text = [Value::Text("a b ".repeat(500_000))];
    stores.try_run("INSERT INTO words VALUES (?)", text.clone()).await.unwrap();
    stores.try_run("INSERT INTO words VALUES (?)", text).await.unwrap();
    let near = format!("NEAR({}, 100000)", ["a", "b"].repeat(60).join(" "));
    let ran = stores.try_run("SELECT count(*) FROM words(?)", [Value::Text(near)]).await;
    assert!(matches!(ran, Err(SqlError::Timeout | SqlError::TooLarge(_))), "{ran:?}");
}

#[tokio::test]
async fn json_patch_answers_as_sqlites_own_and_not_for_minutes() {
    let stores = Stores::new();
    let text = |text: &str| Value::Text(text.into());
    for (sql, expected) in [
        (
            r#"SELECT json_patch('{"a":1,"b":{"c":2}}', '{"b":{"c":null,"d":3},"e":"x"}')"#,
            text(r#"{"a":1,"b":{"d":3},"e":"x"}"#),
        ),
        // JSON in JSON, and not the text of it.
        (r#"SELECT json_array(json_patch('{}', '{"a":[1]}'))"#, text(r#"[{"a":[1]}]"#)),
        (r#"SELECT json(jsonb_patch(jsonb('{"a":1}'), '{"a":2.50}'))"#, text(r#"{"a":2.50}"#)),
        (r#"SELECT typeof(jsonb_patch('{}', '{}'))"#, text("blob")),
        ("SELECT json_patch(NULL, '{}')", Value::Null),
        ("SELECT json_patch('{}', NULL)", Value::Null),
        ("SELECT json_patch('{}', 5)", text("5")),
    ] {
        assert_eq!(stores.run(sql).await.rows, [[expected]], "{sql}");
    }
    assert!(stores.refused("SELECT json_patch('{', '{}')").await.contains("malformed JSON"));
    let object = |members: usize, from: usize| {
        let members: Vec<_> = (from..from + members).map(|number| format!("\"{number}\":1")).collect();
        text(&format!("{{{}}}", members.join(",")))
    };
    let large = object(100_000, 1_000_000);
    // By its size, and not after minutes.
    let error = stores.try_run("SELECT json_patch(?1, ?1)", [large.clone()]).await.unwrap_err();
    assert!(matches!(&error, SqlError::Refused(text) if text.contains("32 KiB")), "{error:?}");
    // A large object and a small patch are usual.
    let patched = stores.try_run("SELECT length(json_patch(?, ?))", [large, object(50, 5_000_000)]).await.unwrap();
    // Members of 11 letters, a comma between them, and the braces.
    assert_eq!(patched.rows, [[Value::Integer(100_050 * 12 - 1 + 2)]]);
}
