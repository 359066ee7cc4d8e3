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
[functions.web]
js = "src/web.tsx"
[static]
"/" = "public"
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
        (&with_function("limits = { cpu = \"1500us\" }"), "limits are whole milliseconds; write `2ms`"),
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
    let source = "name = \"a\"\n[functions.api]\nwasm = \"api.wasm\"\n[functions.web]\nwasm = \"web.wasm\"\nbuild = \"make web\"\n[functions.page]\njs = \"page.ts\"\n[static]\n\"/\" = \"public\"\n";
    let parsed = Manifest::parse(source, FILE_NAME).unwrap();
    let mut mistakes: Vec<Mistake> = parsed.manifest.functions.keys().map(|name| parsed.missing_code(name)).collect();
    mistakes.push(parsed.missing_static("/"));
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
    let unknown: String = (0..200).map(|n| format!("k{n} = 1\n")).collect();
    let lines = lines(&format!("{unknown}name = \"a\"\n[static]\n\"/\" = \"p\""));
    assert_eq!((lines.len(), lines.last().unwrap().as_str()), (MAX_MISTAKES + 1, "and 100 more"));
}
