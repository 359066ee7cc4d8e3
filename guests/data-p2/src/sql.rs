//! SQL.

use std::time::Instant;

use minnow_sdk::sql::{Database, Rows, Value as Sql};
use serde_json::{Value, json};

use crate::{
    Done,
    request::{Query, wait_ms},
};

pub fn call(what: &str, query: &Query, body: &[u8]) -> Done {
    let database = Database::open(query.text("store", "main"))?;
    let asked: Value = if body.is_empty() || what == "script" { Value::Null } else { serde_json::from_slice(body)? };
    Ok(match what {
        "run" => {
            let (sql, params) = statement(&asked);
            rows(&database.run(&sql, params)?)
        }
        // As a stream: how many rows there were, and how many bytes at most in one piece.
        "query" => {
            let (sql, params) = statement(&asked);
            let mut cursor = database.query(&sql, params)?;
            let mut count = 0;
            loop {
                let piece = cursor.next(query.number("piece", 100) as u32)?;
                if piece.rows.is_empty() {
                    break json!({ "columns": cursor.columns(), "count": count });
                }
                count += piece.rows.len();
            }
        }
        "batch" => {
            let statements = asked.as_array().into_iter().flatten().map(statement);
            let results = database.batch(statements)?;
            json!(results.iter().map(rows).collect::<Vec<_>>())
        }
        "script" => json!({ "statements": database.script(&String::from_utf8_lossy(body))? }),
        // Takes from one row and gives to another, in a transaction.
        "transfer" => {
            let transaction = database.begin()?;
            let (from, to) = (query.number("from", 1) as i64, query.number("to", 2) as i64);
            let found = transaction.run("SELECT amount FROM account WHERE id = ?1", (from,))?;
            let amount: i64 = found.first().ok_or("there is no such account")?.get("amount")?;
            transaction.run("UPDATE account SET amount = ?2 WHERE id = ?1", (from, amount - 1))?;
            transaction.run("UPDATE account SET amount = amount + 1 WHERE id = ?1", (to,))?;
            match query.text("end", "commit") {
                "commit" => transaction.commit()?,
                "rollback" => transaction.rollback()?,
                "trap" => panic!("in the middle of a transaction"),
                _ => drop(transaction),
            }
            json!({ "amount": amount - 1 })
        }
        // A transaction that is open for as long as the function stays, and what becomes of it then.
        "leave-open" => {
            let transaction = database.begin()?;
            let (sql, params) = statement(&asked);
            transaction.run(&sql, params)?;
            wait_ms(query.number("hold", 60_000));
            transaction.commit()?;
            json!({})
        }
        // As a mistake: nobody ends it.
        "forget" => {
            let transaction = database.begin()?;
            let (sql, params) = statement(&asked);
            transaction.run(&sql, params)?;
            std::mem::forget(transaction);
            json!({})
        }
        // How many there are at once of one that is open.
        "cursors" => {
            let (sql, params) = statement(&asked);
            let mut open = Vec::new();
            let error = loop {
                match database.query(&sql, params.clone()) {
                    Ok(cursor) if open.len() < query.number("n", 100) as usize => open.push(cursor),
                    Ok(_) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
            json!({ "open": open.len(), "refused": error })
        }
        // Each durable before the next begins.
        "inserts" => {
            let (sql, params) = statement(&asked);
            let count = query.number("n", 100);
            for _ in 0..count {
                database.run(&sql, params.clone())?;
            }
            json!({ "inserted": count })
        }
        // How long one of many takes, in nanoseconds.
        "gets" => {
            let count = query.number("n", 100);
            let began = Instant::now();
            let mut found = 0;
            for id in 0..count {
                found += database.run("SELECT name FROM item WHERE id = ?1", (id as i64 % 1000,))?.rows.len();
            }
            let each = began.elapsed().as_nanos() / u128::from(count.max(1));
            json!({ "found": found, "each_ns": u64::try_from(each)? })
        }
        _ => return Err("no such call".into()),
    })
}

fn statement(asked: &Value) -> (String, Vec<Sql>) {
    let params = asked["params"].as_array().into_iter().flatten().map(|value| match value {
        Value::Null => Sql::Null,
        Value::Bool(value) => Sql::Integer((*value).into()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Sql::Integer(number),
            None => Sql::Real(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Sql::Text(text.clone()),
        Value::Array(bytes) => Sql::Blob(bytes.iter().map(|byte| byte.as_u64().unwrap_or(0) as u8).collect()),
        Value::Object(_) => Sql::Null,
    });
    (asked["sql"].as_str().unwrap_or_default().to_owned(), params.collect())
}

fn rows(rows: &Rows) -> Value {
    let value = |value: &Sql| match value {
        Sql::Null => Value::Null,
        Sql::Integer(number) => json!(number),
        Sql::Real(number) => json!(number),
        Sql::Text(text) => json!(text),
        Sql::Blob(bytes) => json!(bytes),
    };
    let list: Vec<Vec<Value>> = rows.rows.iter().map(|row| row.iter().map(value).collect()).collect();
    json!({ "columns": rows.columns, "rows": list, "changes": rows.changes, "last_insert_rowid": rows.last_insert_rowid })
}
