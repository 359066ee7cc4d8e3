use futures::{FutureExt as _, future::join_all};

use super::*;

#[tokio::test]
async fn a_transaction_is_kept_when_it_commits_and_gone_when_it_is_dropped() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let mut transaction = stores.sql.begin(&stores.main, RW).await.unwrap();
    let inserted = transaction.run(statement("INSERT INTO t VALUES (1)")).await.unwrap();
    assert_eq!((inserted.changes, inserted.last_insert_rowid), (1, 1));
    // A mistake ends the statement, not the transaction.
    transaction.run(statement("INSERT INTO t VALUES (1)")).await.unwrap_err();
    transaction.run(statement("INSERT INTO t VALUES (2)")).await.unwrap();
    assert_eq!(transaction.run(statement("SELECT count(*) FROM t")).await.unwrap().rows, [[Value::Integer(2)]]);
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 0);
    transaction.commit().await.unwrap();
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 2);

    let mut transaction = stores.sql.begin(&stores.main, RW).await.unwrap();
    transaction.run(statement("INSERT INTO t VALUES (3)")).await.unwrap();
    drop(transaction);
    // Waits for the end of the one before it.
    stores.run("INSERT INTO t VALUES (4)").await;
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 7);

    let mut transaction = stores.sql.begin(&stores.main, RW).await.unwrap();
    transaction.run(statement("INSERT OR ROLLBACK INTO t VALUES (4)")).await.unwrap_err();
    let error = transaction.run(statement("INSERT INTO t VALUES (5)")).await.unwrap_err();
    assert!(matches!(&error, SqlError::Ended(why) if why.contains("UNIQUE")), "{error:?}");
    assert!(matches!(transaction.commit().await, Err(SqlError::Ended(_))));
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 7);
}

#[tokio::test]
async fn racing_transactions_lose_no_update() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)").await;
    stores.run("INSERT INTO t VALUES (1, 0)").await;
    let race = (0..8).map(|_| {
        let (sql, store) = (stores.sql.clone(), stores.main.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                let mut transaction = sql.begin(&store, RW).await.unwrap();
                let read = transaction.run(statement("SELECT n FROM t WHERE id = 1")).await.unwrap();
                let Value::Integer(n) = read.rows[0][0] else { panic!("{read:?}") };
                tokio::task::yield_now().await;
                transaction
                    .run(Statement::new("UPDATE t SET n = ? WHERE id = 1", [Value::Integer(n + 1)]))
                    .await
                    .unwrap();
                transaction.commit().await.unwrap();
            }
        })
    });
    join_all(race).await.into_iter().for_each(|done| done.unwrap());
    assert_eq!(stores.number("SELECT n FROM t").await, 80);
}

#[tokio::test]
async fn a_transaction_that_is_never_ended_ends_by_itself() {
    let stores = Stores::with(SqlLimits { statement: NEVER, ..quick() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let mut forgotten = stores.sql.begin(&stores.main, RW).await.unwrap();
    forgotten.run(statement("INSERT INTO t VALUES (1)")).await.unwrap();
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 0);
    // This one waits until it is over.
    in_time(stores.run("INSERT INTO t VALUES (3)")).await;
    let error = forgotten.run(statement("INSERT INTO t VALUES (4)")).await.unwrap_err();
    assert!(matches!(&error, SqlError::Ended(why) if why.contains("longer than")), "{error:?}");
    assert!(forgotten.commit().await.is_err());
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 3);
}

#[tokio::test]
async fn who_waits_for_a_transaction_hears_that_it_is_busy_in_its_own_time() {
    let stores = Stores::with(SqlLimits { transaction: NEVER, ..quick() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let block = stores.sql.begin(&stores.main, RW).await.unwrap();
    assert_eq!(in_time(stores.try_run("INSERT INTO t VALUES (2)", [])).await, Err(SqlError::Busy));
    drop(block);
    stores.run("INSERT INTO t VALUES (3)").await;
    // What gave up never ran.
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 3);
}

#[tokio::test]
async fn a_statement_that_runs_for_ever_ends_its_transaction() {
    let stores = Stores::with(quick());
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let mut transaction = stores.sql.begin(&stores.main, RW).await.unwrap();
    transaction.run(statement("INSERT INTO t VALUES (1)")).await.unwrap();
    let endless = format!("INSERT INTO t {ENDLESS}");
    assert_eq!(transaction.run(statement(&endless)).await, Err(SqlError::Timeout));
    assert!(matches!(transaction.commit().await, Err(SqlError::Ended(_))));
    stores.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_a_statement_stops_it() {
    let stores = Stores::with(SqlLimits { statement: NEVER, transaction: NEVER, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let mut transaction = stores.sql.begin(&stores.main, RW).await.unwrap();
    let endless = format!("INSERT INTO t {ENDLESS}");
    assert!(begun(transaction.run(statement(&endless))).await.is_none());
    drop(transaction);
    in_time(stores.run("INSERT INTO t VALUES (2)")).await;
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 2);
}

/// The writes of one group are made to wait together behind a transaction.
#[tokio::test]
async fn a_write_that_fails_takes_no_other_along() {
    // The time is no matter here, on a machine that has other things to do.
    let stores = Stores::with(SqlLimits { statement: Duration::from_secs(60), ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    stores.run("CREATE TABLE c (id INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)").await;
    stores.run("INSERT INTO t VALUES (1000)").await;
    let block = stores.sql.begin(&stores.main, RW).await.unwrap();
    let writes = (0..40).map(|number: i64| {
        let sql = match number {
            // SQLite rolls the whole transaction back.
            13 | 39 => "INSERT OR ROLLBACK INTO t VALUES (1000)".into(),
            // Found at the commit.
            22 => "INSERT INTO c VALUES (99)".into(),
            31 => "INSERT INTO t VALUES (1000)".into(),
            number => format!("INSERT INTO t VALUES ({number})"),
        };
        let (sql, store, statement) = (stores.sql.clone(), stores.main.clone(), statement(&sql));
        tokio::spawn(async move { sql.run(&store, RW, statement).await })
    });
    let writes: Vec<_> = writes.collect();
    let begun = Instant::now();
    while stores.sql.waiting(&stores.main).await.unwrap() < 40 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the writes do not come to wait");
        tokio::task::yield_now().await;
    }
    drop(block);
    for (number, write) in writes.into_iter().enumerate() {
        let result = write.await.unwrap();
        match number {
            13 | 22 | 31 | 39 => assert!(
                matches!(&result, Err(SqlError::Constraint(text)) if text.contains("constraint failed")),
                "{number}: {result:?}"
            ),
            _ => assert_eq!(result.unwrap().last_insert_rowid, number as i64),
        }
    }
    assert_eq!(stores.number("SELECT count(*) FROM t").await, 37);
    assert_eq!(stores.number("SELECT count(*) FROM c").await, 0);
}

#[tokio::test]
async fn a_write_whose_caller_stopped_waiting_is_not_begun() {
    let stores = Stores::with(SqlLimits { statement: NEVER, transaction: NEVER, ..SqlLimits::default() });
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    let block = stores.sql.begin(&stores.main, RW).await.unwrap();
    // The store is open, so that they come to wait when they are asked first.
    assert!(stores.try_run("INSERT INTO t VALUES (1)", []).now_or_never().is_none());
    assert!(stores.sql.begin(&stores.main, RW).now_or_never().is_none());
    drop(block);
    in_time(stores.run("INSERT INTO t VALUES (2)")).await;
    assert_eq!(stores.number("SELECT sum(id) FROM t").await, 2);
}

#[tokio::test]
async fn many_writers_share_commits_and_none_is_lost() {
    let stores = Stores::new();
    stores.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n)").await;
    let writes = (0..64).map(|client: i64| {
        let (sql, store) = (stores.sql.clone(), stores.main.clone());
        tokio::spawn(async move {
            for number in 0..20 {
                let values = [Value::Integer(client), Value::Integer(number)];
                let wrote = sql
                    .run(&store, RW, Statement::new("INSERT INTO t (n) VALUES (? * 100 + ?)", values))
                    .await
                    .unwrap();
                // What was answered is seen by the next read.
                let read = Statement::new("SELECT n FROM t WHERE id = ?", [Value::Integer(wrote.last_insert_rowid)]);
                assert_eq!(sql.run(&store, RO, read).await.unwrap().rows, [[Value::Integer(client * 100 + number)]]);
            }
        })
    });
    join_all(writes.collect::<Vec<_>>()).await.into_iter().for_each(|done| done.unwrap());
    assert_eq!(stores.number("SELECT count(DISTINCT n) FROM t").await, 1280);
}
