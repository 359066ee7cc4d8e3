//! Topics over `kill -9`: every message that was acknowledged to its publisher is delivered at least once, in the order of its key.

use std::{collections::BTreeMap, thread};

use minnow_tests::{App, Connection, Node, Request, eventually};
use serde_json::Value;

use crate::{
    data_kill::{Round, Writer},
    events::{CONSUMER, all_done, seen_of},
};

/// Writes each message down under a number that grows, as `log/NUMBER/KEY/N`.
const LEDGER: &str = r#"
export default {
    async fetch(request, env) {
        const url = new URL(request.url);
        if (url.pathname === "/log") {
            const names = [];
            let cursor;
            do {
                const page = await env.SEEN.list({ prefix: "log/", cursor });
                names.push(...page.keys.map(({ name }) => name));
                cursor = page.list_complete ? undefined : page.cursor;
            } while (cursor !== undefined);
            return Response.json(names);
        }
        for (const { partitionkey, data } of await request.json()) {
            const number = String(await env.SEEN.increment("count")).padStart(8, "0");
            await env.SEEN.put(`log/${number}/${partitionkey}/${data.n}`, "");
        }
        return new Response(null, { status: 204 });
    },
};
"#;

/// Keys, each with a publisher of its own.
const KEYS: [&str; 4] = ["ada", "bob", "cyd", "dot"];

/// So many messages of a round are acknowledged before the node is killed.
const ENOUGH: u64 = 60;

/// Publishes one message; `None` where the node is gone before it answers.
fn publish(node: &Node, token: &str, key: &str, n: u64) -> Option<()> {
    let request = Request::get("node", "/v1/topics/orders?app=event-ledger")
        .method("POST")
        .header("authorization", token)
        .header("ce-specversion", "1.0")
        .header("ce-id", &format!("{key}-{n}"))
        .header("ce-source", "/ledger")
        .header("ce-type", "n")
        .header("ce-partitionkey", key)
        .header("content-type", "application/json")
        .body(format!(r#"{{"n":{n}}}"#));
    let answer = Connection::open(node.admin).and_then(|connection| connection.exchange(&request)?.rest()).ok()?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Some(())
}

#[test]
fn acknowledged_messages_are_delivered_at_least_once_and_in_the_order_of_their_keys() {
    let mut node = Node::start();
    let settings = "routes = [\"/{*rest}\"]\nkv = [\"seen\"]\n\
                    topics = [{ name = \"orders\", batch = 5, order_by = \"key\", backoff = \"100ms\" }]";
    node.serve(&App::new("event-ledger").js("web", "web.js", LEDGER, settings).end("[kv.seen]\n[topic.orders]"));
    let token = format!("Bearer {}", node.token());
    let writers = KEYS.map(|_| Writer::default());
    for _ in 0..4 {
        let round = Round::default();
        thread::scope(|scope| {
            for (key, writer) in KEYS.iter().zip(&writers) {
                let (node, token, round) = (&node, &token, &round);
                scope.spawn(move || writer.work(round, |n| publish(node, token, key, n)));
            }
            round.kill(&node, ENOUGH);
        });
        node = node.kill_and_restart();
    }
    all_done(&node, "event-ledger", "orders");
    let log: Vec<String> = serde_json::from_str(&node.get("event-ledger", "/log").ok()).unwrap();
    let mut found: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for name in &log {
        let parts: Vec<&str> = name.split('/').collect();
        let numbers = found.entry(parts[2]).or_default();
        let n = parts[3].parse().unwrap();
        // What a crash cut off comes again: after it only what comes again, too, until there is something new.
        if !numbers.contains(&n) {
            numbers.push(n);
        }
    }
    println!("{} deliveries of {} messages", log.len(), found.values().map(Vec::len).sum::<usize>());
    for (key, writer) in KEYS.iter().zip(&writers) {
        writer.are(key, found.get(key).map_or(&[], Vec::as_slice));
    }
}

#[test]
fn a_message_that_was_being_delivered_when_the_node_was_killed_comes_again() {
    let node = Node::start();
    let settings = "routes = [\"/{*rest}\"]\nkv = [\"seen\"]\ntopics = [\"hang\"]";
    node.serve(&App::new("event-kill").js("web", "web.js", CONSUMER, settings).end("[kv.seen]\n[topic.hang]"));
    let answer = node.api("POST", "/v1/topics/hang?app=event-kill", "{}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    seen_of(&node, "event-kill", 1);
    let node = node.kill_and_restart();
    let seen: Vec<Value> = eventually("it comes again", || Some(seen_of(&node, "event-kill", 2)));
    assert_eq!(seen[0]["headers"]["ce-id"], seen[1]["headers"]["ce-id"]);
    all_done(&node, "event-kill", "hang");
}
