//! Functions that run by the clock, on the node's real one. When what is due is tested as tables beside the code.

use std::{collections::BTreeSet, sync::OnceLock};

use minnow_tests::{Node, until};
use serde_json::{Value, json};

use crate::events::{consumer, seen, seen_of};

/// The node of all tests here that need nothing special.
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(Node::start)
}

/// The schedules of an app as the API tells them.
#[track_caller]
fn schedules(node: &Node, app: &str) -> Vec<Value> {
    let answer = node.api("GET", &format!("/v1/apps/{app}/schedules"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["schedules"].as_array().unwrap().clone()
}

#[track_caller]
fn run_now(node: &Node, app: &str, name: &str) {
    let answer = node.api("POST", &format!("/v1/apps/{app}/schedules/{name}/run"), "");
    assert_eq!(answer.status, 202, "{}", answer.text());
}

fn ticks_of<'a>(seen: &'a [Value], name: &str) -> Vec<&'a Value> {
    let path = format!("/.minnow/schedules/{name}");
    seen.iter().filter(|seen| seen["path"] == path.as_str()).collect()
}

#[test]
fn a_function_runs_once_for_each_tick() {
    let node = node();
    node.serve(&consumer("tick-beat", "schedules = [{ cron = \"@every 1s\", name = \"beat\" }]", ""));
    let seen = seen_of(node, "tick-beat", 4);
    let mut ids = BTreeSet::new();
    for tick in ticks_of(&seen, "beat") {
        let headers = &tick["headers"];
        assert_eq!(headers["ce-type"], "minnow.schedule", "{headers}");
        assert_eq!(headers["ce-source"], "/apps/tick-beat/functions/web/schedules/beat", "{headers}");
        assert_eq!(headers["ce-subject"], "beat", "{headers}");
        assert_eq!((&headers["ce-cron"], &tick["body"]), (&json!("@every%201s"), &json!("")), "{headers}");
        let due_ms: u64 = headers["ce-id"].as_str().unwrap().strip_prefix("beat-").unwrap().parse().unwrap();
        assert!(ids.insert(due_ms), "twice: {due_ms}");
    }
    assert_eq!(ids.len(), seen.len());
    // A second apart, since each took less than that.
    let first = *ids.first().unwrap();
    assert!(ids.iter().all(|due_ms| (due_ms - first) % 1000 == 0), "{ids:?}");
    until("they are counted", || node.metric("minnow_schedule_ticks_total", &["tick-beat", "run"]) >= 4.0);
    let [listed] = schedules(node, "tick-beat").try_into().unwrap();
    assert_eq!((&listed["function"], &listed["name"]), (&json!("web"), &json!("beat")));
    assert!(listed["next_ms"].as_u64() > listed["last_ms"].as_u64(), "{listed}");
}

#[test]
fn a_schedule_can_be_run_at_once_and_a_time_that_is_over_is_not_due() {
    let node = node();
    let settings = "schedules = [{ cron = \"0 3 1 1 *\", timezone = \"Europe/Oslo\", name = \"yearly\" }, \
                    { at = \"2020-01-01T00:00:00Z\", name = \"over\" }]";
    node.serve(&consumer("tick-now", settings, ""));
    let listed = schedules(node, "tick-now");
    let named = |name: &str| listed.iter().find(|listed| listed["name"] == name).unwrap();
    assert!(named("yearly")["next_ms"].as_u64().is_some(), "{listed:?}");
    assert!(named("over")["next_ms"].is_null(), "{listed:?}");
    run_now(node, "tick-now", "yearly");
    let seen = seen_of(node, "tick-now", 1);
    assert!(seen[0]["headers"]["ce-id"].as_str().unwrap().starts_with("yearly-"), "{seen:?}");
    let answer = node.api("POST", "/v1/apps/tick-now/schedules/weekly/run", "");
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert!(ticks_of(&seen, "over").is_empty());
}

#[test]
fn a_schedule_that_a_new_version_has_not_is_not_due_any_more() {
    let node = node();
    let both = "schedules = [{ cron = \"@every 1s\", name = \"old\" }, { cron = \"@every 1s\", name = \"kept\" }]";
    let mut app = consumer("tick-gone", both, "");
    node.serve(&app);
    until("both run", || ["old", "kept"].iter().all(|name| !ticks_of(&seen(node, "tick-gone"), name).is_empty()));
    app.change("version = \"0.1.0\"", "version = \"0.2.0\"");
    app.change("{ cron = \"@every 1s\", name = \"old\" }, ", "");
    node.serve(&app);
    until("it is gone", || schedules(node, "tick-gone").len() == 1);
    let kept = ticks_of(&seen(node, "tick-gone"), "kept").len();
    until("the other one goes on", || ticks_of(&seen(node, "tick-gone"), "kept").len() > kept);
    let old = ticks_of(&seen(node, "tick-gone"), "old").len();
    until("the other one goes on", || ticks_of(&seen(node, "tick-gone"), "kept").len() >= kept + 3);
    assert_eq!(ticks_of(&seen(node, "tick-gone"), "old").len(), old);
}

#[test]
fn ticks_beside_one_that_runs_are_skipped() {
    let node = node();
    let settings = "schedules = [{ cron = \"@every 1s\", name = \"hang\" }]\n[functions.web.limits]\ntimeout = \"3s\"";
    node.serve(&consumer("tick-skip", settings, ""));
    let count = |outcome: &str| node.metric("minnow_schedule_ticks_total", &["tick-skip", outcome]);
    until("one is skipped", || {
        assert!(node.count("tick-skip", "running") <= 1);
        count("skipped") >= 1.0
    });
    until("the one before has failed", || count("failed") >= 1.0);
    let logged = || {
        node.logs("tick-skip")
            .iter()
            .any(|line| line["message"].as_str().unwrap().contains("schedule `hang` failed: timeout"))
    };
    until("the log tells", logged);
}

#[test]
fn a_tick_that_the_end_of_the_node_cut_off_is_the_same_one_afterwards() {
    let node = Node::start();
    node.serve(&consumer("tick-kill", "schedules = [{ cron = \"@yearly\", name = \"hang\" }]", ""));
    run_now(&node, "tick-kill", "hang");
    seen_of(&node, "tick-kill", 1);
    let node = node.kill_and_restart();
    let seen = seen_of(&node, "tick-kill", 2);
    assert_eq!(seen[0]["headers"]["ce-id"], seen[1]["headers"]["ce-id"]);
    until("it is counted", || node.metric("minnow_schedule_ticks_total", &["tick-kill", "run"]) == 1.0);
    // It is done, so it does not come again.
    let node = node.kill_and_restart();
    run_now(&node, "tick-kill", "hang");
    let all = seen_of(&node, "tick-kill", 3);
    assert_ne!(all[2]["headers"]["ce-id"], all[0]["headers"]["ce-id"]);
}
