//! Calls of functions at the same moment, recorded and judged: there is an order in which they happened.

use std::{collections::HashSet, hash::Hash, thread, time::Instant};

use minnow_tests::Random;
use serde_json::{Value, json};

use crate::data_calls::{ask, both, fine, js, node, rows};

/// What one call did, and between which moments.
#[derive(Debug, Clone)]
struct Seen<O> {
    from: Instant,
    to: Instant,
    did: O,
}

/// Whether there is an order of the calls that agrees with time (a call that ended before another began comes first) and in
/// which each does what it did; `apply` gives the state after a call, or `None` where it would have answered otherwise.
fn is_linearizable<S: Clone + Eq + Hash, O>(calls: &[Seen<O>], start: S, apply: impl Fn(&S, &O) -> Option<S>) -> bool {
    assert!(calls.len() <= 128, "a bit for each call");
    let all = if calls.len() == 128 { u128::MAX } else { (1 << calls.len()) - 1 };
    let (mut tried, mut stack) = (HashSet::new(), vec![(0_u128, start)]);
    while let Some((done, state)) = stack.pop() {
        if done == all {
            return true;
        }
        if !tried.insert((done, state.clone())) {
            continue;
        }
        let left = || calls.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
        let first_end = left().map(|(_, call)| call.to).min();
        for (index, call) in left().filter(|(_, call)| Some(call.from) <= first_end) {
            if let Some(state) = apply(&state, &call.did) {
                stack.push((done | (1 << index), state));
            }
        }
    }
    false
}

#[test]
fn a_history_that_nobody_can_explain_is_told_from_one_that_is_odd() {
    let at = Instant::now();
    let call = |from: u64, to: u64, did: Change| Seen {
        from: at + std::time::Duration::from_secs(from),
        to: at + std::time::Duration::from_secs(to),
        did,
    };
    let (set, get) = (|text: &str| Change::Set(text.into()), |text: &str| Change::Get(Some(text.into())));
    let judge = |calls: &[Seen<Change>]| is_linearizable(calls, None, Change::apply);
    // A read beside a write sees the one or the other.
    assert!(judge(&[call(0, 1, set("a")), call(2, 9, set("b")), call(3, 4, get("a")), call(5, 6, get("b"))]));
    // The old value again after the new one; a write that is lost; two swaps that both had the same before them.
    assert!(!judge(&[call(0, 1, set("a")), call(2, 9, set("b")), call(3, 4, get("b")), call(5, 6, get("a"))]));
    assert!(!judge(&[call(0, 1, set("a")), call(2, 3, set("b")), call(4, 5, get("a"))]));
    let swap = |to: &str| Change::Swap { from: None, to: to.into(), done: true };
    assert!(!judge(&[call(0, 9, swap("a")), call(0, 9, swap("b"))]));
}

/// What a function did to a key. Each text is written once, so that it stands for the version of the key.
#[derive(Debug, Clone)]
enum Change {
    Get(Option<String>),
    Set(String),
    Delete,
    Swap { from: Option<String>, to: String, done: bool },
    Append(String),
}

impl Change {
    fn apply(before: &Option<String>, change: &Self) -> Option<Option<String>> {
        match change {
            Self::Get(found) => (found == before).then(|| before.clone()),
            Self::Set(text) => Some(Some(text.clone())),
            Self::Delete => Some(None),
            Self::Swap { from, to, done } => {
                let could = from == before;
                (could == *done).then(|| if could { Some(to.clone()) } else { before.clone() })
            }
            Self::Append(text) => Some(Some(before.clone().unwrap_or_default() + text)),
        }
    }
}

/// Clients of both kinds of functions make their calls at once; gives what each did.
fn record<O: Send>(random: &mut Random, client: impl Fn(usize, Random) -> Vec<Seen<O>> + Sync) -> Vec<Seen<O>> {
    let seeds: Vec<Random> = (0..4)
        .map(|client| {
            let mut random = random.clone();
            for _ in 0..=client * 1000 {
                random.number();
            }
            random
        })
        .collect();
    random.number();
    let client = &client;
    thread::scope(|scope| {
        let clients: Vec<_> =
            seeds.into_iter().enumerate().map(|(index, random)| scope.spawn(move || client(index, random))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn timed<O>(call: impl FnOnce() -> O) -> Seen<O> {
    let from = Instant::now();
    let did = call();
    Seen { from, to: Instant::now(), did }
}

#[test]
fn what_functions_of_both_kinds_do_to_one_key_happens_in_one_order() {
    let mut random = Random::new("what_functions_of_both_kinds_do_to_one_key_happens_in_one_order");
    let node = node();
    node.serve(&both("key-order", ""));
    for key in ["one", "two", "three"] {
        let history = record(&mut random, |client, mut random| {
            let wasm = client % 2 == 0;
            let mut known: (Option<String>, Value) = (None, Value::Null);
            let calls = (0..25).map(|number| {
                let value = format!("{client}.{number};");
                let post = |what: &str| fine(ask(node, "key-order", &format!("/kv/{what}?key={key}"), value.as_str()));
                let script = |what: &str, version: &Value| {
                    fine(js(node, "key-order", what, json!({ "key": key, "value": value, "version": version })))
                };
                timed(|| match random.below(if wasm { 6 } else { 8 }) {
                    0 | 1 => {
                        let entry = if wasm { post("entry")["entry"].clone() } else { script("entry", &Value::Null) };
                        known = (entry["value"].as_str().map(str::to_owned), entry["version"].clone());
                        Change::Get(known.0.clone())
                    }
                    2 | 3 => {
                        if wasm {
                            post("set")
                        } else {
                            script("set", &Value::Null)
                        };
                        Change::Set(value.clone())
                    }
                    4 => {
                        if wasm {
                            post("append")
                        } else {
                            script("append", &Value::Null)
                        };
                        Change::Append(value.clone())
                    }
                    5 => {
                        if wasm {
                            post("delete")
                        } else {
                            script("delete", &Value::Null)
                        };
                        Change::Delete
                    }
                    _ => {
                        let done = script("swap", &known.1).as_bool().unwrap();
                        Change::Swap { from: known.0.clone(), to: value.clone(), done }
                    }
                })
            });
            calls.collect()
        });
        assert!(is_linearizable(&history, None, Change::apply), "no order explains this: {history:#?}");
    }
}

#[test]
fn transactions_of_functions_of_both_kinds_on_one_row_happen_in_one_order() {
    /// The amount that was found, and what was taken of it.
    type Took = (i64, i64);
    let mut random = Random::new("transactions_of_functions_of_both_kinds_on_one_row_happen_in_one_order");
    let node = node();
    let app = "row-order";
    node.serve(&both(app, ""));
    fine(ask(
        node,
        app,
        "/sql/script",
        "CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER); INSERT INTO account VALUES (1, 1000), (2, 1000);",
    ));
    let history = record(&mut random, |client, mut random| {
        let wasm = client % 2 == 0;
        let calls = (0..25).map(|_| {
            timed(|| -> Took {
                match (random.below(3), wasm) {
                    (0, true) => {
                        let found = rows(node, app, "SELECT sum(amount), min(amount) FROM account");
                        assert_eq!(found[0][0], 2000, "half of a transaction is seen");
                        (found[0][1].as_i64().unwrap(), 0)
                    }
                    (0, false) => {
                        let both =
                            ["SELECT amount FROM account WHERE id = 1", "SELECT amount FROM account WHERE id = 2"];
                        let found = fine(js(node, app, "sqls", json!({ "sqls": both })));
                        let [one, two] = [0, 1].map(|index| found[index][0]["amount"].as_i64().unwrap());
                        assert_eq!(one + two, 2000, "half of a transaction is seen");
                        (one, 0)
                    }
                    (_, true) => {
                        let found = fine(ask(node, app, "/sql/transfer?from=1&to=2", ""));
                        (found["amount"].as_i64().unwrap() + 1, 1)
                    }
                    (_, false) => {
                        let sqls = [
                            "SELECT amount FROM account WHERE id = 1",
                            "UPDATE account SET amount = amount - 1 WHERE id = 1",
                            "UPDATE account SET amount = amount + 1 WHERE id = 2",
                        ];
                        let found = fine(js(node, app, "sqls", json!({ "sqls": sqls })));
                        (found[0][0]["amount"].as_i64().unwrap(), 1)
                    }
                }
            })
        });
        calls.collect()
    });
    let apply = |amount: &i64, (found, took): &Took| (amount == found).then(|| amount - took);
    assert!(is_linearizable(&history, 1000, apply), "no order explains this: {history:#?}");
    let taken: i64 = history.iter().map(|call| call.did.1).sum();
    assert_eq!(rows(node, app, "SELECT amount FROM account WHERE id = 1"), [[json!(1000 - taken)]]);
}

#[test]
fn functions_of_both_kinds_have_one_lock_in_one_order() {
    /// The token that a function got, and what it found under the key to which it then added one, if it did.
    type Held = (u64, Option<u64>);
    let mut random = Random::new("functions_of_both_kinds_have_one_lock_in_one_order");
    let node = node();
    let app = "lock-order";
    node.serve(&both(app, ""));
    for round in 0..3 {
        let key = format!("n{round}");
        let start = fine(ask(node, app, "/lock?name=boat&wait=60000", ""))["token"].as_u64().unwrap();
        let history = record(&mut random, |_, mut random| {
            let calls = (0..20).map(|_| {
                timed(|| -> Held {
                    if random.below(3) == 0 {
                        let hold = random.below(3);
                        let held = fine(ask(node, app, &format!("/lock?name=boat&wait=60000&hold={hold}"), ""));
                        return (held["token"].as_u64().unwrap(), None);
                    }
                    // Two calls to the store, between which nobody else comes.
                    let held = fine(js(node, app, "section", json!({ "key": key })));
                    (held["token"].as_u64().unwrap(), held["before"].as_u64())
                })
            });
            calls.collect()
        });
        let apply = |(last, count): &(u64, u64), (token, found): &Held| match found {
            _ if token <= last => None,
            None => Some((*token, *count)),
            Some(found) => (found == count).then_some((*token, count + 1)),
        };
        assert!(is_linearizable(&history, (start, 0), apply), "no order explains this: {history:#?}");
    }
}
