//! What a developer sees: every kind of mistake as a table, and whole reports as snapshots.

use miette::{GraphicalReportHandler, GraphicalTheme};

use super::*;

/// The mistakes of a manifest, one a line.
fn lines(source: &str) -> Vec<String> {
    Manifest::parse(source, FILE_NAME).err().map(|errors| errors.lines()).unwrap_or_default()
}

/// A manifest with one function that has `keys`.
fn with_function(keys: &str) -> String {
    format!("name = \"a\"\n[functions.f]\nwasm = \"a.wasm\"\n{keys}\n")
}

/// A manifest with stores and one function that has `keys`.
fn with_grants(keys: &str) -> String {
    format!("{}[kv.sessions]\n[sql.main]\n[lock]\n", with_function(keys))
}

/// A manifest with one function, and `tables` from line 4 on.
fn with_tables(tables: &str) -> String {
    format!("name = \"a\"\n[functions.f]\nwasm = \"a.wasm\"\n{tables}\n")
}

/// A manifest with one function in JavaScript that has `keys`.
fn with_js(path: &str, keys: &str) -> String {
    format!("name = \"a\"\n[functions.f]\njs = \"{path}\"\n{keys}\n")
}

fn report(errors: &ManifestErrors) -> String {
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    handler.render_report(&mut text, errors).unwrap();
    text
}

#[test]
fn a_manifest_becomes_checked_values() {
    let source = r#"
name = "hello"
version = "0.1.0"
sticky = { header = "X-User" }
[functions.api]
wasm = "target/api.wasm"
build = "cargo build"
watch = ["src/**"]
routes = ["/api/{*rest}", "POST /submit"]
env = { GREETING = "hello" }
egress = ["https://api.example.com"]
instances = "reuse"
limits = { memory = "64 MiB", cpu = "1m 30s", timeout = "500ms", concurrency = 1, queue = 0, request_body = "1MB" }
kv = ["sessions", "shop/catalog:ro"]
sql = ["main:ro"]
blob = ["uploads:ro"]
files = { data = "/data", "shop/media:ro" = "/srv/media" }
locks = true
secrets = ["STRIPE_KEY"]
publish = ["orders"]
topics = ["audit", { name = "orders", batch = 10, wait = "200ms", retries = 3, backoff = "2s", dead_letter = "dead", order_by = "key", types = ["order.*"], subjects = ["eu/*"], from = "start" }]
schedules = [{ cron = " 0  3 * * mon ", timezone = "europe/oslo", name = "weekly", overlap = "queue", missed = "skip" }, { at = "2026-12-24T18:00:00+01:00", name = "party" }]
async = { retries = 0, backoff = "2s", max_age = "1h", on_success = "dead", on_failure = "https://api.example.com/hook" }
[functions.web]
js = "src/web.tsx"
[static]
"/" = "public"
[kv.sessions]
[kv.carts]
share = ["shop", "blog"]
[sql.main]
migrations = "db/migrations"
share = ["shop"]
[sql.audit]
[blob.uploads]
share = ["shop"]
size = "2GiB"
[files.data]
[lock]
[topic.orders]
retention = "30d"
max_size = "2GiB"
max_messages = 1_000_000
when_full = "drop-oldest"
[topic.dead]
[topic.audit]
"#;
    let parsed = Manifest::parse(source, FILE_NAME).unwrap();
    insta::assert_debug_snapshot!(parsed.manifest);
}

#[test]
fn every_mistake_is_told_with_line_column_and_remedy() {
    for (source, expected) in [
        ("", "1:1: the app has no `name`; put for example `name = \"hello\"` in the first line"),
        (
            "name = \"My App\"\n[static]\n\"/\" = \"p\"",
            "1:9: `My App` contains `M`; use only a-z, 0-9 and `-`; write for example `my-app`",
        ),
        ("name = 1\n[static]\n\"/\" = \"p\"", "1:8: `name` is a number, not a string"),
        ("name = \"a\"", "1:9: the app has neither functions nor static files"),
        ("name = \"a\"\n[functions]", "1:9: the app has neither functions nor static files"),
        ("name = \"a\"\nversion = \"v1.0.0\"\n[static]\n\"/\" = \"p\"", "write `1.0.0`"),
        ("name = \"a\"\nversion = \"1\"\n[static]\n\"/\" = \"p\"", "2:12: "),
        ("name = \"a\"\nsticky = {}\n[static]\n\"/\" = \"p\"", "`sticky` names nothing"),
        (
            "name = \"a\"\nsticky = { cookie = \"a\", header = \"b\" }\n[static]\n\"/\" = \"p\"",
            "`sticky` names two things",
        ),
        (
            "name = \"a\"\nsticky = { cookie = \"a b\" }\n[static]\n\"/\" = \"p\"",
            "`a b` cannot be the name of a cookie",
        ),
        (
            "name = \"a\"\n[static]\n\"assets\" = \"p\"",
            "3:2: the prefix `assets` does not start with `/`; write `\"/assets\"`",
        ),
        ("name = \"a\"\n[static]\n\"/{x}\" = \"p\"", "a static prefix has no `{name}`"),
        ("name = \"a\"\n[static]\n\"/\" = 1", "a static folder is a string"),
        ("name = \"a\"\n[static]\n\"/\" = \"/srv\"", "the path is absolute"),
        ("name = \"a\"\n[static]\n\"/\" = \"./public/\"", "write `public`"),
        (
            "name = \"a\"\n[static]\n\"/\" = \".\"",
            "3:8: `.` is the app's own folder, with its manifest and sources; put the files in a folder of their own, such as",
        ),
        ("name = \"a\"\n[static]\n\"/\" = \"./\"", "`./` is the app's own folder"),
        ("name = \"a\"\n[static]\n\"/a\" = \"p\"\n\"/a/\" = \"q\"", "4:2: `/a/` and `/a` are the same prefix"),
        (
            "name = \"a\"\n[functions.f]",
            "2:12: the function `f` has neither `wasm` nor `js`; name its code, for example `js = \"api.ts\"`",
        ),
        (
            &with_function("js = \"a.ts\""),
            "4:7: the function `f` has both `wasm` and `js`; keep the one that names its code, and remove the other",
        ),
        (
            &with_js("a.cjs", ""),
            "3:7: `a.cjs` is not called like JavaScript or TypeScript; name an ES module whose name",
        ),
        (&with_js("a.wasm", ""), "3:7: `a.wasm` is WebAssembly; write `wasm = \"a.wasm\"`"),
        (&with_js("../a.ts", ""), "3:7: the path leaves its folder (`..`)"),
        (&with_js("./a.ts", ""), "write `a.ts`"),
        (
            &with_js("a.ts", "instances = \"fresh\""),
            "4:14: `instances` is `fresh`, and a process that runs JavaScript serves many requests; remove `instances`",
        ),
        (&with_js("a.ts", "instances = \"often\""), "`instances` is `often`; write `fresh`"),
        (&with_js("a.ts", "watch = [\"src/**\"]"), "remove it: `minnow dev` watches every file that `js` is made of"),
        (
            "name = \"a\"\n[functions.f]\nwasm = \"src/a.ts\"",
            "3:9: `src/a.ts` is not WebAssembly; write `js = \"src/a.ts\"`",
        ),
        ("name = \"a\"\n[functions.F_1]\nwasm = \"a.wasm\"", "write for example `f-1`"),
        ("name = \"a\"\n[functions]\nf = \"a.wasm\"", "the function `f` is not a table; write `[functions.NAME]`"),
        ("name = \"a\"\nfunctions = 1", "`functions` is a number, not a table"),
        ("name = \"a\"\n[[functions]]\nwasm = \"x\"", "`functions` is a list, not a table"),
        (
            "name = \"a\"\nnmae = 1\n[static]\n\"/\" = \"p\"",
            "2:1: unknown key `nmae` in the top level; did you mean `name`?",
        ),
        (
            &with_function("memory = \"1MiB\""),
            "4:1: unknown key `memory` in `[functions.NAME]`; it belongs to `[functions.NAME.limits]`",
        ),
        (&with_function("route = [\"/\"]"), "did you mean `routes`?"),
        (&with_function("zzz = 1"), "unknown key `zzz` in `[functions.NAME]`; known here are `wasm`, `js`, `build`"),
        (&with_function("routes = \"/\""), "4:11: `routes` is a string, not a list of strings"),
        (&with_function("routes = [\"/\", 1]"), "4:16: `routes` holds a number, not only strings"),
        (&with_function("routes = [\"get /\"]"), "4:12: `get` is not a method; methods are upper case; write `GET`"),
        (
            &with_function("routes = [\"/a\", \"/a\"]"),
            "4:18: routes `/a` and `/a` match the same requests, both of `f`",
        ),
        (&with_function("egress = [\"ftp://x\"]"), "`ftp` is not a scheme that functions can call"),
        (&with_function("env = { A = 1 }"), "the variable `A` is not a string; put its value in quotes"),
        (&with_function("env = { \"A=B\" = \"\" }"), "cannot hold `=`"),
        (&with_function("env = [\"A\"]"), "`env` is a list, not a table of strings"),
        (&with_function("instances = \"often\""), "`instances` is `often`; write `fresh`"),
        (&with_function("instances = 1"), "`instances` is a number, not `fresh` or `reuse`"),
        (&with_function("watch = [\"src/**\"]"), "`watch` does nothing without `build`"),
        (&with_function("build = \"make\"\nwatch = [\"src/[a\"]"), "`src/[a` is not a glob"),
        (&with_function("build = \"make\"\nwatch = [\"../**\"]"), "leaves its folder"),
        (&with_function("build = \" \""), "the build command is empty"),
        (&with_function("limits = 1"), "`limits` is a number, not a table"),
        (
            &with_function("limits = { memory = \"128\" }"),
            "`128` is not a size with a unit; write for example `memory = \"256MiB\"`",
        ),
        (&with_function("limits = { memory = 128 }"), "`memory` is a number, not a string with a unit"),
        (&with_function("limits = { memory = \"128 apples\" }"), "is not a size with a unit"),
        (
            &with_function("limits = { memory = \"1023KiB\" }"),
            "`memory` is 1023KiB, out of range; choose a value from 1.0 MiB to 4.0 GiB",
        ),
        (&with_function("limits = { memory = \"5GiB\" }"), "out of range"),
        (&with_function("limits = { memory = \"99999999999999999999EiB\" }"), "out of range"),
        (&with_function("limits = { cpu = \"1\" }"), "`1` is not a time with a unit"),
        (&with_function("limits = { cpu = \"1us\" }"), "`cpu` is 1us, out of range; choose a value from 1ms to 1h"),
        (&with_function("limits = { cpu = \"1500us\" }"), "times are whole milliseconds; write `2ms`"),
        (&with_function("limits = { timeout = \"25h\" }"), "choose a value from 1ms to 1day"),
        (
            &with_function("limits = { concurrency = 0 }"),
            "`concurrency` is 0, out of range; choose a value from 1 to 10000",
        ),
        (
            &with_js("a.js", "limits = { concurrency = 513 }"),
            "`concurrency` is 513, out of range; choose a value from 1 to 512",
        ),
        (&with_function("limits = { concurrency = -1 }"), "out of range"),
        (&with_function("limits = { concurrency = \"64\" }"), "`concurrency` is a string, not a number"),
        (&with_function("limits = { queue = 1.5 }"), "`queue` is a number with a fraction, not a number"),
        (&with_function("limits = { cpus = \"1s\" }"), "did you mean `cpu`?"),
        ("name = \"a\"\nname = \"b\"", "2:1: `name` stands twice"),
        ("name = hello", "1:8: this is not a value; put the text in quotes"),
        ("name = \"hello", "the string has no end"),
        ("name =", "1:7: the file ends too early"),
        ("= 1", "this is not TOML"),
        ("name = \"a\"\n[functions.f]\nwasm = \"a\"\n[functions.f]\nwasm = \"b\"", "4:1: the table `f` stands twice"),
        ("name = \"a\"\n[functions.f]\nwasm = \"../a.wasm\"", "3:9: the path leaves its folder (`..`)"),
    ] {
        let lines = lines(source);
        assert!(lines.iter().any(|line| line.contains(expected)), "{source}\n\nexpected {expected}\ngot {lines:#?}");
        assert!(lines.iter().all(|line| line.starts_with("minnow.toml:")), "{lines:#?}");
    }
}

/// A manifest with topics and one function that has `keys`.
fn with_topics(keys: &str) -> String {
    format!("{}[topic.orders]\n[topic.dead]\n[kv.carts]\n", with_function(keys))
}

#[test]
fn every_mistake_of_events_is_told_with_line_column_and_remedy() {
    let mut wrong = Vec::new();
    let order = |keys: &str| with_topics(&format!("topics = [{{ name = \"orders\", {keys} }}]"));
    let schedule = |keys: &str| with_topics(&format!("schedules = [{{ {keys} }}]"));
    let asynchronous = |keys: &str| with_topics(&format!("async = {{ {keys} }}"));
    let many = |count: usize, entry: &str| {
        (0..count).map(|n| entry.replace("{n}", &n.to_string())).collect::<Vec<_>>().join(", ")
    };
    let hook = |webhook: &str| with_tables(&format!("[topic.o]\nwebhook = {webhook}"));
    let hooked = |signature: &str, path: &str| {
        hook(&format!("{{ path = \"{path}\", secret = \"KEY\", signature = {signature} }}"))
    };
    let functions: String = (0..11)
        .map(|n| {
            let schedules = many(100, "{ cron = \"@daily\", name = \"s{n}\" }");
            format!("[functions.f{n}]\nwasm = \"a.wasm\"\nschedules = [{schedules}]\n")
        })
        .collect();
    for (source, expected) in [
        (
            with_tables("[topic.Orders]"),
            "4:8: `Orders` contains `O`; use only a-z, 0-9 and `-`; write for example `orders`",
        ),
        (with_tables("[topic]\norders = 1"), "5:10: the topic `orders` is not a table; write `[topic.NAME]`"),
        (with_tables("[topic.o]\nshare = [\"b\"]"), "unknown key `share` in `[topic.NAME]`"),
        (
            with_tables("[topic.o]\nretention = \"59s\""),
            "5:14: `retention` is 59s, out of range; choose a value from 1m to",
        ),
        (with_tables("[topic.o]\nretention = 7"), "`retention` is a number, not a string with a unit"),
        (
            with_tables("[topic.o]\nmax_size = \"1KiB\""),
            "`max_size` is 1KiB, out of range; choose a value from 1.0 MiB to 1.0 TiB",
        ),
        (
            with_tables("[topic.o]\nmax_messages = 0"),
            "`max_messages` is 0, out of range; choose a value from 1 to 1000000000000",
        ),
        (
            with_tables("[topic.o]\nwhen_full = \"drop\""),
            "5:14: `when_full` is `drop`; write `refuse` or `drop-oldest`",
        ),
        (hook("1"), "5:11: `webhook` is a number, not a table; write for example `webhook = {"),
        (hook("{}"), "5:11: the webhook has no `path`; write for example `webhook = { path ="),
        (hook("{ path = \"/h\", signature = \"github\" }"), "5:11: the webhook has no `secret`"),
        (hook("{ path = \"/h\", secret = \"KEY\" }"), "5:11: the webhook has no `signature`"),
        (hook("{ paht = \"/h\" }"), "unknown key `paht` in `webhook`; did you mean `path`?"),
        (hooked("\"github\"", "POST /h"), "5:21: a webhook takes POST only; write the path alone"),
        (hooked("\"github\"", "/h/{id}"), "5:21: the path of a webhook has no `{name}`; write the path as it stands"),
        (hooked("\"github\"", "h"), "5:21: a route's path starts with `/`"),
        (hooked("\"github\"", "/.minnow/h"), "5:21: paths under `/.minnow/` are the node's own"),
        (
            hook("{ path = \"/h\", secret = \"my-key\", signature = \"github\" }"),
            "5:36: not the name of a secret: the variable `my-key` contains `m`; use only A-Z, 0-9 and `_`; write for example `MY_KEY`",
        ),
        (hooked("\"gitlab\"", "/h"), "5:55: `signature` is `gitlab`; write `github` or `stripe` or `standard`"),
        (hooked("true", "/h"), "5:54: `signature` is true or false, not `github`, `stripe`, `standard` or a table"),
        (hooked("{}", "/h"), "5:54: the signature has no `header`; name the one that has the signature"),
        (hooked("{ header = \"x y\" }", "/h"), "5:54: `header`: `x y` cannot be the name of a header"),
        (hooked("{ header = \"x\", id_header = \"\" }", "/h"), "`id_header`: `` cannot be the name of a header"),
        (
            hooked("{ header = \"x\", id_header = \"X\" }", "/h"),
            "`header` and `id_header` are both `x`; name the header",
        ),
        (hooked("{ header = \"x\", prefix = \"é\" }", "/h"), "`prefix` is not up to 64 visible characters of ASCII"),
        (hooked("{ header = \"x\", encoding = \"hax\" }", "/h"), "`encoding` is `hax`; write `hex` or `base64`"),
        (
            hooked("{ header = \"x\", secret = \"y\" }", "/h"),
            "unknown key `secret` in `signature`; it belongs to `webhook`",
        ),
        (
            with_function("routes = [\"POST /h\"]")
                + "[topic.o]\nwebhook = { path = \"/h\", secret = \"KEY\", signature = \"github\" }",
            "6:11: routes `POST /h` and `POST /h` match the same requests, one of `f` and one of the webhook of `o`; remove one",
        ),
        (
            hooked("\"github\"", "/h")
                + "\n[topic.p]\nwebhook = { path = \"/h\", secret = \"KEY\", signature = \"stripe\" }",
            "8:11: routes `POST /h` and `POST /h` match the same requests, one of the webhook of `o` and one of the webhook of `p`",
        ),
        (
            with_topics("publish = [\"order\"]"),
            "4:13: the app has no topic `order`; did you mean `orders`? Else add `[topic.order]`",
        ),
        (
            with_topics("publish = [\"carts\"]"),
            "4:13: the app has no topic `carts`; it is a kv store: write `kv = [\"carts\"]`",
        ),
        (
            with_topics("kv = [\"orders\"]"),
            "4:8: the app has no kv store `orders`; it is a topic: write `publish = [\"orders\"]`",
        ),
        (
            with_topics("publish = [\"orders:ro\"]"),
            "4:13: `orders:ro` is for reading, and a function publishes to `orders`; write `orders`",
        ),
        (
            with_topics("publish = [\"b/orders\"]"),
            "`b/orders` is a topic of `b`; a function publishes to topics of its own app only; write `orders`",
        ),
        (with_topics("publish = [\"b/other\"]"), "let a function of that app publish what this one sends it over HTTP"),
        (
            with_topics("publish = [\"orders\", \"orders\"]"),
            "4:23: the store `orders` stands twice in `publish`; remove one",
        ),
        (
            with_topics("publish = [\"orders\"]\nsecrets = [\"ORDERS\"]"),
            "the function `f` has two things called `ORDERS`: the secret `ORDERS` and the topic `orders`",
        ),
        (with_topics("topics = \"orders\""), "4:11: `topics` is a string, not a list of strings and tables"),
        (with_topics("topics = [1]"), "4:11: `topics` holds a number, not only strings and tables"),
        (
            with_topics("topics = [\"order\"]"),
            "4:12: the app has no topic `order`; did you mean `orders`? Else add `[topic.order]`",
        ),
        (
            with_topics("topics = [\"b/orders\"]"),
            "4:12: `b/orders` is no topic of this app; a function follows topics of its own app",
        ),
        (with_topics("topics = [\"orders:ro\"]"), "following it takes no grant: write `orders`"),
        (with_topics("topics = [\"Orders\"]"), "not the name of a topic: `Orders` contains `O`"),
        (with_topics("topics = [{ batch = 2 }]"), "4:11: an entry of `topics` has no `name`; name the topic, as"),
        (
            with_topics("topics = [\"orders\", { name = \"orders\" }]"),
            "4:21: the topic `orders` stands twice in `topics`",
        ),
        (order("bacth = 1"), "unknown key `bacth` in `topics`; did you mean `batch`?"),
        (order("batch = 0"), "`batch` is 0, out of range; choose a value from 1 to 1000"),
        (order("batch = 2, wait = \"61s\""), "`wait` is 61s, out of range; choose a value from 0s to 1m"),
        (order("wait = \"1s\""), "`wait` does nothing without `batch`; add `batch`"),
        (order("retries = -1"), "`retries` is -1, out of range; choose a value from 0 to 1000"),
        (order("backoff = \"soon\""), "`soon` is not a range of times; write for example `topics = [{"),
        (order("backoff = \"1s..\""), "`1s..` is not a range of times"),
        (order("backoff = \"10ms..1s\""), "`backoff` is 10ms..1s, out of range; choose times from 100ms to 1day"),
        (order("backoff = \"5m..1s\""), "`backoff` is 5m..1s, which begins with the longer time; write `1s..5m`"),
        (order("dead_letter = \"other\""), "the app has no topic `other`"),
        (
            order("dead_letter = \"orders\""),
            "2:12: dead letters go in a circle: `orders` → `orders`; let the last topic's",
        ),
        (
            with_topics(
                "topics = [{ name = \"orders\", dead_letter = \"dead\" }, { name = \"dead\", dead_letter = \"orders\" }]",
            ),
            "dead letters go in a circle: `dead` → `orders` → `dead`",
        ),
        (
            order("order_by = \"customer_id\""),
            "`customer_id` is not the name of an attribute: use 1 to 20 of a-z and 0-9; write `key`",
        ),
        (order("order_by = \"time\""), "by `time` no messages belong together; write `key`"),
        (order("order_by = \"datacontenttype\""), "by `datacontenttype` no messages belong together"),
        (order("order_by = \"specversion\""), "by `specversion` no messages belong together"),
        (order("types = [\"*.created\"]"), "`*.created` has a `*` that is not its end; write for example"),
        (order("subjects = [\"\"]"), "a pattern needs at least one character"),
        (order(&format!("types = [{}]", many(21, "\"a{n}\""))), "`types` has 21 entries, the most is 20"),
        (order("from = \"end\""), "`from` is `end`; write `now` or `start`"),
        (with_topics("schedules = [\"@daily\"]"), "4:15: `schedules` holds a string, not only tables"),
        (schedule("cron = \"@daily\""), "4:14: a schedule has no `name`; give it one, as `name = \"nightly\"`"),
        (schedule("cron = \"@daily\", name = \"My Job\""), "`My Job` contains `M`"),
        (schedule("name = \"a\""), "4:14: a schedule has neither `cron` nor `at`"),
        (
            schedule("name = \"a\", cron = \"@daily\", at = \"2026-12-24T18:00:00Z\""),
            "a schedule has both `cron` and `at`; keep `cron`",
        ),
        (schedule("name = \"a\", cron = \"0 0 30 2 *\""), "4:36: `0 0 30 2 *` is never due"),
        (schedule("name = \"a\", cron = \"* * * *\""), "`* * * *` has 4 fields; write five fields"),
        (schedule("name = \"a\", cron = \"@daily\", timezone = \"Oslo\""), "there is no time zone `Oslo`"),
        (schedule("name = \"a\", cron = \"@every 1s\", timezone = \"UTC\""), "`@every` knows no time zone"),
        (schedule("name = \"a\", at = \"tomorrow\""), "`tomorrow` is not a time with an offset"),
        (
            schedule("name = \"a\", at = \"2026-12-24T18:00:00Z\", timezone = \"UTC\""),
            "`timezone` does nothing beside `at`",
        ),
        (schedule("name = \"a\", cron = \"@daily\", overlap = \"run\""), "`overlap` is `run`; write `skip` or `queue`"),
        (schedule("name = \"a\", cron = \"@daily\", missed = \"all\""), "`missed` is `all`; write `once` or `skip`"),
        (
            with_topics("schedules = [{ cron = \"@daily\", name = \"a\" }, { cron = \"@hourly\", name = \"a\" }]"),
            "4:47: the schedule `a` stands twice; give each its own name",
        ),
        (
            with_topics(&format!("schedules = [{}]", many(101, "{ cron = \"@daily\", name = \"s{n}\" }"))),
            "`schedules` has 101 entries, the most is 100",
        ),
        (with_topics(&format!("topics = [{}]", many(101, "\"orders\""))), "`topics` has 101 entries, the most is 100"),
        (format!("name = \"a\"\n{functions}"), "the app has more than 1000 schedules, which is the most"),
        (with_topics("async = true"), "4:9: `async` is true or false, not a table"),
        (asynchronous("max_tries = 2"), "unknown key `max_tries` in `async`"),
        (asynchronous("retries = 1001"), "`retries` is 1001, out of range; choose a value from 0 to 1000"),
        (asynchronous("backoff = \"1ms\""), "`backoff` is 1ms, out of range; choose times from 100ms to 1day"),
        (asynchronous("max_age = \"8days\""), "`max_age` is 8days, out of range; choose a value from 1s to 7days"),
        (asynchronous("on_success = \"order\""), "4:25: the app has no topic `order`; did you mean `orders`?"),
        (
            asynchronous("on_failure = \"https://ops.example/hook?a\""),
            "4:25: the function's `egress` does not allow `https://ops.example`; add it: `egress = [\"https://ops.example\"]`",
        ),
        (asynchronous("on_failure = \"ftp://ops.example\""), "`ftp` is not a scheme that functions can call"),
        (
            with_tables(&(0..101).map(|n| format!("[topic.t{n}]\n")).collect::<String>()),
            "`topic` has 101 entries, the most is 100",
        ),
    ] {
        let lines = lines(&source);
        if !lines.iter().any(|line| line.contains(expected)) {
            let source = source.chars().take(300).collect::<String>();
            wrong.push(format!("{source}\nexpected {expected}\ngot {lines:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_mistake_of_stores_and_grants_is_told_with_line_column_and_remedy() {
    let mut wrong = Vec::new();
    for (source, expected) in [
        (
            with_grants("kv = [\"carts\"]"),
            "4:8: the app has no kv store `carts`; add `[kv.carts]`, or write `APP/carts` for another app's",
        ),
        (
            with_grants("kv = [\"session:ro\"]"),
            "4:8: the app has no kv store `session`; did you mean `sessions`? Else add `[kv.session]`, or write `APP/session:ro`",
        ),
        (
            with_grants("kv = [\"main:ro\"]"),
            "4:8: the app has no kv store `main`; it is a sql store: write `sql = [\"main:ro\"]`",
        ),
        (
            with_grants("sql = [\"sessions\"]"),
            "4:9: the app has no sql store `sessions`; it is a kv store: write `kv = [\"sessions\"]`",
        ),
        (with_function("sql = [\"main\"]"), "4:9: the app has no sql store `main`; add `[sql.main]`"),
        (
            with_tables("files = { data = \"data\" }\n[files.data]"),
            "4:19: `data` is no folder for a volume: it does not begin",
        ),
        (with_tables("files = { data = \"/\" }\n[files.data]"), "4:19: `/` is no folder for a volume: it is the root"),
        (with_tables("files = { data = \"/tmp/x\" }\n[files.data]"), "`/tmp` is the sandbox's own"),
        (with_tables("files = { data = \"/run/minnow/x\" }\n[files.data]"), "`/run/minnow` is where"),
        (with_tables("files = { data = \"/run\" }\n[files.data]"), "`/run/minnow` is where"),
        (with_tables("files = { data = \"/a/../b\" }\n[files.data]"), "a part of it is empty, `.` or `..`"),
        (with_tables("files = { data = 1 }\n[files.data]"), "4:18: the folder of the volume `data` is no string"),
        (
            with_tables("files = { dat = \"/data\" }\n[files.data]"),
            "4:11: the app has no files store `dat`; did you mean `data`?",
        ),
        (
            with_tables("files = { a = \"/d\", b = \"/d/e\" }\n[files.a]\n[files.b]"),
            "4:26: the folders `/d` and `/d/e` of volumes overlap",
        ),
        (
            with_tables("files = { data = \"/a\", \"data:ro\" = \"/b\" }\n[files.data]"),
            "the store `data` stands twice in `files`",
        ),
        (with_tables("blob = [\"data\"]\n[files.data]"), "it is a files store: write `files = { data = \"/data\" }`"),
        (
            with_js("a.ts", "files = { data = \"/data\" }\nenv = { DATA = \"x\" }\n[files.data]"),
            "4:11: the function `f` has two things called `DATA`: `DATA` of its `env` and the files store `data`; rename one",
        ),
        (
            with_tables("[blob.b]\nsize = \"1KiB\""),
            "5:9: `size` is 1KiB, out of range; choose a value from 1.0 MiB to 1.0 TiB",
        ),
        (with_tables("[kv.a]\nsize = \"1GiB\""), "unknown key `size`"),
        (with_tables("[kv.a]\ncors = [\"*\"]"), "unknown key `cors`"),
        (
            with_tables("[blob.b]\ncors = [\"https://app.example/\"]"),
            "5:10: not an origin: an origin has a scheme, a host and perhaps a port, and nothing after it",
        ),
        (with_tables("[blob.b]\ncors = [\"*\", \"*\"]"), "5:15: `*` stands twice in `cors`; remove one"),
        (
            with_grants("kv = [\"sessions\", \"sessions:ro\"]"),
            "4:20: the store `sessions` stands twice in `kv`; keep one: with `:ro` for reading",
        ),
        (with_grants("kv = [\"b/x\", \"b/x\"]"), "4:15: the store `b/x` stands twice in `kv`"),
        (with_grants("kv = [\"a/sessions:ro\"]"), "4:8: `a/sessions:ro` is a store of this app; write `sessions:ro`"),
        (
            with_grants("kv = [\"sessions:rw\"]"),
            "4:8: `:rw` is no way to grant a store; write `sessions` for reading and writing, or `sessions:ro` for reading",
        ),
        (
            with_grants("kv = [\"Order_Log\"]"),
            "4:8: not the name of a store: `Order_Log` contains `O`; use only a-z, 0-9 and `-`; write for example `order-log`",
        ),
        (with_grants("kv = [\"A/sessions\"]"), "`A` contains `A`; use only a-z, 0-9 and `-`; write for example `a`"),
        (with_grants("kv = [\"\"]"), "4:7: not the name of a store: a name needs at least one character"),
        (with_grants("kv = [\"b/c/d\"]"), "4:8: `b/c/d` has more than one `/`; write `STORE`, or `APP/STORE`"),
        (with_grants("kv = \"sessions\""), "4:7: `kv` is a string, not a list of strings; write for example `kv = ["),
        (with_grants("kv = [1]"), "4:7: `kv` holds a number, not only strings"),
        (
            with_function("locks = true"),
            "4:9: `locks` is true, and the app has no locks; add the table `[lock]`, or remove `locks`",
        ),
        (
            with_grants("locks = \"yes\""),
            "4:10: `locks` is a string, not `true` or `false`; write for example `locks = true`",
        ),
        (with_grants("lock = true"), "4:1: unknown key `lock` in `[functions.NAME]`; did you mean `locks`?"),
        (with_grants("share = [\"b\"]"), "unknown key `share` in `[functions.NAME]`; it belongs to `[kv.NAME]`"),
        (
            with_grants("secrets = [\"stripe-key\"]"),
            "4:13: not the name of a secret: the variable `stripe-key` contains `s`; use only A-Z, 0-9 and `_`; write for example `STRIPE_KEY`",
        ),
        (with_grants("secrets = [\"1KEY\"]"), "the variable `1KEY` starts with a digit; write for example `KEY`"),
        (with_grants("secrets = [\"\"]"), "a variable needs a name; write for example `STRIPE_KEY`"),
        (with_grants("secrets = [\"KEY\", \"KEY\"]"), "4:20: `KEY` stands twice in `secrets`; remove one"),
        (
            with_grants(&format!("secrets = [\"{}\"]", "K".repeat(129))),
            "the name of a variable has 129 characters, the most is 128",
        ),
        (
            with_grants("kv = [\"sessions\"]\nsecrets = [\"SESSIONS\"]"),
            "5:13: the function `f` has two things called `SESSIONS`: the kv store `sessions` and the secret `SESSIONS`; rename one",
        ),
        (
            with_grants("env = { sessions = \"\" }\nkv = [\"sessions\"]"),
            "5:8: the function `f` has two things called `SESSIONS`: `sessions` of its `env` and the kv store `sessions`; rename one",
        ),
        (
            with_tables("kv = [\"main\"]\nsql = [\"main\"]\n[kv.main]\n[sql.main]"),
            "5:9: the function `f` has two things called `MAIN`: the kv store `main` and the sql store `main`; rename one",
        ),
        (
            with_tables("kv = [\"locks\"]\nlocks = true\n[kv.locks]\n[lock]"),
            "5:9: the function `f` has two things called `LOCKS`: the kv store `locks` and `locks`; rename one",
        ),
        (
            with_grants("kv = [\"b/c-d\", \"b-c/d\"]"),
            "4:17: the function `f` has two things called `B_C_D`: the kv store `b/c-d` and the kv store `b-c/d`",
        ),
        (
            with_tables("[kv.Sessions]"),
            "4:5: `Sessions` contains `S`; use only a-z, 0-9 and `-`; write for example `sessions`",
        ),
        (with_tables("[kv]\nsessions = true"), "5:12: the kv store `sessions` is not a table; write `[kv.NAME]`"),
        (with_tables("[[sql]]"), "`sql` is a list, not a table; write for example `[sql.main]`"),
        (
            with_tables("[kv.sessions]\nmigrations = \"m\""),
            "5:1: unknown key `migrations` in `[kv.NAME]`; it belongs to `[sql.NAME]`; known here are `share`",
        ),
        (
            with_tables("[sql.main]\nmigration = \"m\""),
            "5:1: unknown key `migration` in `[sql.NAME]`; did you mean `migrations`?",
        ),
        (with_tables("[sql.main]\nmigrations = 1"), "5:14: `migrations` is a number, not a string"),
        (with_tables("[sql.main]\nmigrations = \"../m\""), "5:15: the path leaves its folder (`..`)"),
        (with_tables("[sql.main]\nmigrations = \"./m/\""), "5:15: the path has an empty or `.` segment; write `m`"),
        (
            with_tables("[sql.main]\nmigrations = \".\""),
            "5:15: `.` is the app's own folder; put the migrations in a folder of their own, such as `migrations`",
        ),
        (
            with_tables("[sql.main]\nshare = [\"a\"]"),
            "5:11: `a` is this app, whose functions need no `share`; remove it",
        ),
        (with_tables("[sql.main]\nshare = [\"b\", \"b\"]"), "5:16: `b` stands twice in `share`; remove one"),
        (
            with_tables("[sql.main]\nshare = [\"B c\"]"),
            "5:11: not the name of an app: `B c` contains `B`; use only a-z, 0-9 and `-`; write for example `b-c`",
        ),
        (
            with_tables("[lock]\nlease = \"1s\""),
            "5:1: unknown key `lease` in `[lock]`; it has no keys; remove this one",
        ),
        (with_tables("[[lock]]"), "`lock` is a list, not a table; write for example `[lock]`"),
        (with_tables("[locks]"), "4:2: unknown key `locks` in the top level; did you mean `lock`?"),
        (with_tables("[kv.a]\n[kv.a]"), "5:1: the table `a` stands twice"),
    ] {
        let lines = lines(&source);
        if lines.len() != 1 || !lines[0].contains(expected) {
            wrong.push(format!("{source}\nexpected {expected}\ngot {lines:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn names_of_env_may_differ_in_case_alone() {
    let source = with_grants("env = { a = \"1\", A = \"2\" }\nkv = [\"sessions\", \"b/sessions\"]\nsecrets = [\"S\"]");
    assert_eq!(lines(&source), [""; 0]);
}

#[test]
fn a_grant_is_not_said_to_be_missing_where_the_stores_could_not_be_read() {
    for (tables, expected) in [
        ("kv = [\"x\"]\n[[kv]]", "5:1: `kv` is a list"),
        ("kv = [\"x\"]\n[kv]\n[kv]\nx = {}", "6:1: the table `kv` stands twice"),
        ("kv = [\"x\"]\n[kv]\nx = 1", "6:5: the kv store `x` is not a table"),
    ] {
        let lines = lines(&with_tables(tables));
        assert!(lines.len() == 1 && lines[0].starts_with(&format!("minnow.toml:{expected}")), "{lines:#?}");
    }
}

#[test]
fn columns_count_characters_not_bytes() {
    assert!(
        lines("name = \"a\"\n[static]\n\"/\" = \"p\" # ü\nü = 1").iter().any(|line| line.contains(":4:")),
        "bare ü"
    );
    let lines = lines(
        "name = \"a\"\nenv = { \"üü\" = \"ü\", \"x\" = 1 }\n[functions.f]\nwasm = \"a\"\nenv = { \"üü\" = \"ü\", x = 1 }",
    );
    assert!(lines.iter().any(|line| line.starts_with("minnow.toml:5:25: the variable `x`")), "{lines:#?}");
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let source = r#"name = "Hello"
version = "1.0"
colour = "red"

[functions.api]
wasm = "/api.wasm"
routes = ["/api/{*rest}", "post /submit", "/users/:id"]
egres = ["*"]
limits = { memory = "128", cpu = "2h", concurrency = 0 }

[functions.web]
wasm = "web.wasm"
routes = ["/api/{*path}"]
instances = "sometimes"

[static]
public = "public"
"#;
    let errors = Manifest::parse(source, FILE_NAME).unwrap_err();
    insta::assert_snapshot!(report(&errors));
    insta::assert_snapshot!("all_mistakes_as_lines", errors.lines().join("\n"));
}

#[test]
fn two_functions_of_one_name_are_shown_at_both_places() {
    let source = "name = \"a\"\n\n[functions.api]\nwasm = \"a.wasm\"\n\n[functions.api]\nwasm = \"b.wasm\"\n";
    insta::assert_snapshot!(report(&Manifest::parse(source, FILE_NAME).unwrap_err()));
}

#[test]
fn what_only_the_second_of_two_tables_has_is_not_missed() {
    for (source, expected) in [
        ("[functions.f]\nwatch = [\"a\"]\n[functions.f]\nwasm = \"a\"\nbuild = \"make\"", &["4:1: the table `f`"][..]),
        ("[static]\n[static]\n\"/\" = \"p\"", &["3:1: the table `static`"]),
        ("[sticky]\n[sticky]\ncookie = \"c\"\n[static]\n\"/\" = \"p\"", &["3:1: the table `sticky`"]),
        (
            "[functions.f]\n[functions.f]\nwasm = \"a\"\n[functions.g]\n",
            &["3:1: the table `f`", "5:12: the function `g` has neither `wasm` nor `js`"],
        ),
    ] {
        let lines = lines(&format!("name = \"a\"\n{source}"));
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("minnow.toml:{expected}")), "{lines:#?}");
        }
    }
}

#[test]
fn files_that_are_missing_are_reported_at_their_lines() {
    let source = "name = \"a\"\n[functions.api]\nwasm = \"api.wasm\"\n[functions.web]\nwasm = \"web.wasm\"\nbuild = \"make web\"\n[functions.page]\njs = \"page.ts\"\n[static]\n\"/\" = \"public\"\n[sql.main]\nmigrations = \"db\"\n";
    let parsed = Manifest::parse(source, FILE_NAME).unwrap();
    let mut mistakes: Vec<Mistake> = parsed.manifest.functions.keys().map(|name| parsed.missing_code(name)).collect();
    mistakes.push(parsed.missing_static("/"));
    mistakes.push(parsed.missing_migrations(&"main".parse().unwrap()));
    mistakes.push(parsed.mistake(Place::Version, "there is no version to publish", "add `version = \"0.1.0\"`"));
    let errors = ManifestErrors::check(mistakes).unwrap_err();
    insta::assert_snapshot!(errors.lines().join("\n"));
    assert!(ManifestErrors::check(Vec::new()).is_ok());
}

#[test]
fn sizes_are_bounded() {
    let long = format!("name = \"a\" # {}", "x".repeat(MAX_BYTES));
    assert!(lines(&long)[0].contains("the most is 1 MiB"));
    let list = |n: usize| (0..n).map(|n| format!("\"/{n}\",")).collect::<String>();
    assert!(
        lines(&with_function(&format!("routes = [{}]", list(101))))[0]
            .contains("`routes` has 101 entries, the most is 100")
    );
    let functions: String = (0..1001).map(|n| format!("[functions.f{n}]\nwasm = \"a.wasm\"\n")).collect();
    assert!(lines(&format!("name = \"a\"\n{functions}"))[0].contains("`functions` has 1001 entries"));
    let stores: String = (0..101).map(|n| format!("[kv.s{n}]\n")).collect();
    assert!(lines(&with_tables(&stores))[0].contains("`kv` has 101 entries, the most is 100"));
    let names = |prefix: &str, n: usize| (0..n).map(|n| format!("\"{prefix}{n}\",")).collect::<String>();
    assert!(
        lines(&with_tables(&format!("[kv.s]\nshare = [{}]", names("b", 101))))[0]
            .contains("`share` has 101 entries, the most is 100")
    );
    let many = lines(&with_function(&format!("secrets = [{}]\nkv = [{}]", names("S", 60), names("b/s-", 41))));
    assert!(many[0].contains("2:12: the function `f` has 101 grants, the most is 100; leave some out"), "{many:#?}");
    let unknown: String = (0..200).map(|n| format!("k{n} = 1\n")).collect();
    let lines = lines(&format!("{unknown}name = \"a\"\n[static]\n\"/\" = \"p\""));
    assert_eq!((lines.len(), lines.last().unwrap().as_str()), (MAX_MISTAKES + 1, "and 100 more"));
}
