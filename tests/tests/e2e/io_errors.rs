//! The data services on a disk that fails for a while: calls of the system answer with an error, as strace has them do. A caller
//! is told, nobody else is hurt, and what was acknowledged before, between and after is there, also over a kill right then.

use std::collections::BTreeSet;

use minnow_tests::{App, Node, Request};
use serde_json::json;

use crate::data_calls::{ask, error, fine, rows, text};

const APP: &str = "disk";
/// Writes after the last one that failed.
const AFTER: u64 = 20;

/// A node whose stores have a table and a first value, at rest.
fn prepared() -> Node {
    let node = Node::start();
    let grants = "kv = [\"items\"]\nsql = [\"main\"]\nblob = [\"uploads\"]";
    let app = App::of_guest(APP, "data-p2", grants);
    node.serve(&app.end("[kv.items]\n[sql.main]\n[blob.uploads]"));
    fine(ask(&node, APP, "/sql/run", json!({ "sql": "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)" }).to_string()));
    fine(ask(&node, APP, "/kv/set?key=0", value(0)));
    fine(ask(&node, APP, "/blob/set?key=0", value(0)));
    node.terminate();
    assert!(node.wait().success());
    node
}

/// The value of a number: 5,000 bytes, more than a page, and less than lies in a file of its own.
fn value(number: u64) -> String {
    format!("{number:010}").repeat(500)
}

/// Writes numbers with `write`, which tells why it could not, until the disk has failed and works again: the numbers that were
/// acknowledged and those that were not.
fn write_on(node: &Node, file: &str, write: impl Fn(&Node, u64) -> Result<(), String>) -> [BTreeSet<u64>; 2] {
    let (mut kept, mut failed) = (BTreeSet::new(), BTreeSet::new());
    let mut since = 0;
    for number in 1..2000 {
        match write(node, number) {
            Ok(()) => {
                kept.insert(number);
                since += 1;
            }
            Err(told) => {
                let clear = told.contains("the store has failed; the log of the node says why")
                    || told.contains("no space is left")
                    || told.contains("the database is full")
                    || told.contains("has reached its size");
                assert!(clear && !told.contains(node.data_dir().to_str().unwrap()), "{told}");
                failed.insert(number);
                since = 0;
            }
        }
        if !failed.is_empty() && since >= AFTER {
            let named = node.log().lines().any(|line| line.contains(file) || line.contains("failed"));
            assert!(named, "nothing of {file} in the log:\n{}", node.log());
            println!("{} kept, {failed:?} failed", kept.len());
            return [kept, failed];
        }
    }
    panic!("the disk did not fail, or not for a while: {} kept, {failed:?} failed", kept.len());
}

/// Writes while `faults` happen, and looks for what was acknowledged: while the node runs, and after a kill.
fn survives(
    faults: &[(&str, &str)],
    write: impl Fn(&Node, u64) -> Result<(), String>,
    read: impl Fn(&Node) -> BTreeSet<u64>,
) {
    let node = prepared();
    let (mut kept, mut failed) = (BTreeSet::from([0]), BTreeSet::new());
    let mut builder = node.rebuild();
    for (round, (inject, file)) in faults.iter().enumerate() {
        let node = builder.clone().system_fails(inject, &[file]).start();
        let first = 10_000 * round as u64;
        let [new_kept, new_failed] = write_on(&node, file, |node, number| write(node, first + number));
        kept.extend(new_kept.into_iter().map(|number| first + number));
        failed.extend(new_failed.into_iter().map(|number| first + number));
        assert_eq!(read(&node), kept, "{inject} {file}; these failed: {failed:?}");
        node.kill();
        builder = node.rebuild();
        let node = builder.clone().start();
        assert_eq!(read(&node), kept, "{inject} {file}, killed; these failed: {failed:?}");
        node.terminate();
        assert!(node.wait().success());
    }
}

fn told(answer: &serde_json::Value) -> Result<(), String> {
    match error(answer) {
        "" => Ok(()),
        error => Err(error.to_owned()),
    }
}

#[test]
fn a_key_value_store_on_a_disk_that_fails_loses_nothing_that_was_acknowledged() {
    let log = "kv/default/disk/items.db-wal";
    let read = |node: &Node| {
        let keys = node.cli().json(["kv", "list", "disk/items", "--limit", "1000", "--json"]);
        let keys = keys.as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().parse().unwrap());
        let keys: BTreeSet<u64> = keys.collect();
        for key in &keys {
            assert!(text(node, APP, &key.to_string()) == Some(value(*key)), "{key} is not what was written");
        }
        keys
    };
    survives(
        &[
            ("fsync,fdatasync:error=EIO:when=5..6", log),
            ("pwrite64:error=EIO:when=41..44", log),
            // Writes that are cut short, by all of it.
            ("pwrite64:retval=0:when=30..33", log),
            ("pwrite64:error=ENOSPC:when=29..31", log),
        ],
        |node, number| told(&ask(node, APP, &format!("/kv/set?key={number}"), value(number))),
        read,
    );
}

#[test]
fn a_database_on_a_disk_that_fails_loses_nothing_that_was_acknowledged() {
    let log = "sql/default/disk/main.db-wal";
    survives(
        &[
            ("fsync,fdatasync:error=EIO:when=5..6", log),
            ("pwrite64:error=EIO:when=41..44", log),
            ("pwrite64:retval=0:when=30..33", log),
            ("pwrite64:error=ENOSPC:when=29..31", log),
        ],
        |node, number| {
            let insert = json!({ "sql": "INSERT INTO t VALUES (?1, ?2)", "params": [number, value(number)] });
            told(&ask(node, APP, "/sql/run", insert.to_string()))
        },
        |node| {
            let found = rows(node, APP, "SELECT a, b FROM t");
            let number = |row: &Vec<serde_json::Value>| {
                let number = row[0].as_u64().unwrap();
                assert!(row[1] == json!(value(number)), "{number} is not what was written");
                number
            };
            found.iter().map(number).chain([0]).collect()
        },
    );
}

#[test]
fn a_bucket_on_a_disk_that_fails_loses_nothing_that_was_acknowledged() {
    let (index, folder) = ("blob/default/disk/uploads.db-wal", "blob/default/disk/uploads.objects/new");
    // Every second one lies in a file of its own.
    let content = |number: u64| value(number).repeat(if number.is_multiple_of(2) { 1 } else { 20 });
    survives(
        &[
            ("fsync,fdatasync:error=EIO:when=5..6", index),
            ("pwrite64:error=EIO:when=41..44", index),
            ("fsync,fdatasync:error=EIO:when=3..4", folder),
        ],
        |node, number| told(&ask(node, APP, &format!("/blob/set?key={number}"), content(number))),
        |node| {
            let found = fine(ask(node, APP, "/blob/keys?prefix=", ""));
            let keys = found["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().parse().unwrap());
            let keys: BTreeSet<u64> = keys.collect();
            for key in &keys {
                let answer = node.send(&Request::get(APP, &format!("/blob/get?key={key}")));
                assert!(answer.text() == content(*key), "{key} is not what was put");
            }
            keys
        },
    );
}
