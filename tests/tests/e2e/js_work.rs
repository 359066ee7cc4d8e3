//! Work of functions in JavaScript that goes on after the response.

use minnow_tests::{App, until};
use serde_json::Value;

use super::js::{logged, node, request_id};

/// `/start` answers at once and goes on until `/release` comes, or for ever.
const WAITS: &str = r#"
    let release;
    export default {
        fetch(request, env, ctx) {
            const path = new URL(request.url).pathname;
            if (path === "/start") {
                ctx.waitUntil(new Promise((resolve) => release = resolve).then(() => console.log("the work is done")));
            }
            if (path === "/release") release();
            if (path === "/fails") ctx.waitUntil(Promise.reject(new Error("the work failed")));
            return new Response(path);
        },
    };
"#;

#[test]
fn work_after_the_response_keeps_its_place_until_it_is_done() {
    let node = node();
    // Two places: one for the work, and one for who ends it.
    node.serve(&App::of_js("waits", WAITS, "limits = { timeout = \"10m\", concurrency = 2, queue = 0 }"));
    for round in 0..30 {
        let answer = node.get("waits", "/start");
        assert_eq!(answer.ok(), "/start");
        assert_eq!(node.count("waits", "running"), 1, "round {round}: the work has no place");
        node.get("waits", "/release").ok();
        until("the work is over", || node.count("waits", "running") == 0);
        let id = request_id(&answer);
        let is_told = |line: &Value| line["request_id"] == *id && line["message"] == "the work is done";
        until("the work was done", || node.logs("waits").iter().any(is_told));
    }
    let answer = node.get("waits", "/fails");
    assert_eq!(answer.ok(), "/fails");
    let line = logged(node, "waits", "the work failed");
    assert_eq!((&line["level"], &line["request_id"]), (&"error".into(), &request_id(&answer).into()));
    until("it is over", || node.count("waits", "running") == 0);
}

#[test]
fn work_after_the_response_ends_with_the_time_of_its_invocation() {
    let node = node();
    node.serve(&App::of_js("waitslong", WAITS, "limits = { timeout = \"1s\" }"));
    let answer = node.get("waitslong", "/start");
    assert_eq!(answer.ok(), "/start");
    until("its place is free", || node.count("waitslong", "running") == 0);
    let line = logged(node, "waitslong", "`waitUntil`");
    assert!(line["message"].as_str().unwrap().contains("limits.timeout = 1s"), "{line}");
    assert_eq!((&line["level"], &line["request_id"]), (&"warn".into(), &request_id(&answer).into()));
    node.get("waitslong", "/other").ok();
}

#[test]
fn work_that_is_done_before_the_response_is_sent_frees_its_place() {
    let source = r#"
        let release;
        const acts = {
            done: () => new Response(),
            async later() { await 0; return new Response(); },
            throws() { throw new Error("thrown"); },
            nothing() {},
            async used() { const response = new Response("x"); await response.text(); return response; },
        };
        export default {
            fetch(request, env, ctx) {
                const [, act, when] = new URL(request.url).pathname.split("/");
                if (act === "release") return new Response(release());
                ctx.waitUntil(when === "after" ? new Promise((resolve) => release = resolve) : Promise.resolve());
                return acts[act]();
            },
        };
    "#;
    let node = node();
    // Longer than this test waits: nothing here ends by its time.
    node.serve(&App::of_js("early", source, "limits = { timeout = \"10m\" }"));
    for act in ["done", "later", "throws", "nothing", "used"] {
        for _ in 0..10 {
            node.get("early", &format!("/{act}/before"));
        }
        until(&format!("nothing is left of `{act}`"), || node.count("early", "running") == 0);
        // A response that is none announces what goes on after it, too.
        node.get("early", &format!("/{act}/after"));
        assert_eq!(node.count("early", "running"), 1, "{act}: the work has no place");
        node.get("early", "/release").ok();
        until(&format!("the work of `{act}` is over"), || node.count("early", "running") == 0);
    }
}
