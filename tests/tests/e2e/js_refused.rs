//! JavaScript that is refused before it runs: what its author is told, and where.

use std::{fmt::Write as _, fs, path::Path};

use minnow_tests::{App, Cli, Node};

use super::js_bad::node;

/// Publishes what must be refused.
#[track_caller]
fn refused(app: &App, says: &[&str]) {
    let ran = node().cli().in_dir(app.path()).fails(["publish"]);
    ran.says(says);
    for part in ["boot.js", "blob:", "ext:", "/run/"] {
        assert!(!ran.stderr.contains(part), "`{part}` helps nobody: {}", ran.stderr);
    }
}

#[test]
fn what_is_wrong_with_the_sources_is_told_with_its_place_before_anything_is_sent() {
    let app = |file: &str, source: &str| App::new("broken").js("web", file, source, "routes = [\"/\"]");
    for (file, source, says) in [
        (
            "src/api.ts",
            "const a: number = 1;\n\nexport default { fetch( { } };\n",
            &["src/api.ts:3:", "fetch( { }"][..],
        ),
        ("api.js", "export default {\n    fetch: () => new Response(`open),\n};\n", &["api.js:", "Unterminated"]),
        ("api.mjs", "const x = 1;\nconst x = 2;\nexport default {};\n", &["api.mjs:2:7", "x"]),
        ("a.js", "import { b } from \"./missing\";\nexport default b;\n", &["a.js:1:19", "./missing"]),
        (
            "a.js",
            "import lodash from \"lodash\";\nexport default lodash;\n",
            &["a.js:1:20", "lodash", "npm install lodash"],
        ),
        ("a.js", "import x from \"https://example.com/x.js\";\nexport default x;\n", &["a.js:1:15", "on the network"]),
        ("a.js", "import { no } from \"./b.js\";\nexport default no;\n", &["a.js:1:10", "No matching export"]),
        ("a.js", "import \"./addon.node\";\nexport default {};\n", &["a.js:1:8", "native add-ons"]),
        ("a.js", "import \"node:nothing\";\nexport default {};\n", &["a.js:1:8", "no module `node:nothing`"]),
    ] {
        let app = app(file, source).file("b.js", "export const yes = 1;").file("addon.node", "\u{7f}ELF");
        let node_less = Cli::new().in_dir(app.path()).fails(["build"]);
        node_less.says(says);
        refused(&app, says);
    }
    // Everything that is wrong is told at once.
    let two = App::new("broken").js("one", "one.js", "let 1;", "routes = [\"/1\"]").js(
        "two",
        "two.ts",
        "let x: = 1;",
        "routes = [\"/2\"]",
    );
    refused(&two, &["one.js:1:", "two.ts:1:"]);
    assert!(node().api("GET", "/v1/apps/broken", "").status == 404, "nothing of it is there");
}

#[test]
fn a_module_that_cannot_be_loaded_is_refused_at_publish_with_the_place_in_its_sources() {
    let limits = "limits = { timeout = \"2s\", cpu = \"300ms\", memory = \"96MiB\" }";
    let mut wrong = String::new();
    for (source, says) in [
        ("", &["no default export", "Deno.serve", "write `export default { fetch(request) { … } }`"][..]),
        ("export const fetch = () => new Response();", &["no default export", "write `export default { fetch }`"]),
        ("export async function fetch() {}\nexport { fetch as other };", &["write `export default { fetch }`"]),
        (
            "export const handler = async (event) => ({ statusCode: 200 });",
            &["no default export", "AWS Lambda", "export default"],
        ),
        (
            "exports.handler = async (event) => ({ statusCode: 200 });",
            &["the default export has no fetch", "AWS Lambda"],
        ),
        (
            "module.exports.handler = (event, context, done) => done();",
            &["AWS Lambda", "a Request and returns a Response"],
        ),
        (
            "addEventListener(\"fetch\", (event) => event.respondWith(new Response()));",
            &["in place of `addEventListener(\"fetch\", …)` write `export default { fetch"],
        ),
        ("self.addEventListener(\"fetch\", () => {});", &["in place of `addEventListener"]),
        ("export default {};", &["the default export has no fetch"]),
        ("export default { fetch: 5 };", &["the default export has no fetch"]),
        ("export default null;", &["the default export is null"]),
        ("export default \"text\";", &["a string"]),
        (
            "export default (request) => new Response(\"hello\");",
            &["the default export has no fetch", "export default { fetch"],
        ),
        (
            "const a = 1;\n\nfunction boom() {\n    throw new RangeError(\"at the start\");\n}\nboom();\nexport default {};",
            &["RangeError: at the start", "web.js:4:11", "web.js:6:1"],
        ),
        ("await Promise.reject(new Error(\"rejected\"));\nexport default {};", &["rejected", "web.js:1:22"]),
        ("throw undefined;\nexport default {};", &["undefined"]),
        ("import { nope } from \"node:path\";\nconsole.log(nope);\nexport default { fetch() {} };", &["nope"]),
        ("await import(\"node:nothing\");\nexport default { fetch() {} };", &["node:nothing"]),
        ("require(\"nothing\");\nexport default { fetch() {} };", &["nothing"]),
        ("process.exit(1);\nexport default { fetch() {} };", &["web.js:1:9"]),
        ("await new Promise(() => {});\nexport default { fetch() {} };", &["top-level `await`", "5s"]),
        ("for (;;);\nexport default { fetch() {} };", &["endless loop"]),
        (
            "(function again() { Promise.resolve().then(again); })();\nawait 0;\nexport default { fetch() {} };",
            &["endless loop"],
        ),
        (
            "const all = [];\nfor (;;) all.push(new Array(1e5).fill(all.length));\nexport default { fetch() {} };",
            &["limits.memory"],
        ),
        ("Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);\nexport default { fetch() {} };", &["5s"]),
    ] {
        let app = App::of_js("unloadable", source, limits);
        let ran = node().cli().in_dir(app.path()).fails(["publish"]);
        let is_told = says.iter().all(|part| ran.stderr.contains(part));
        // Nothing of what lies between the node and the module.
        let is_plain = ["boot.js", "blob:", "ext:", "/run/"].iter().all(|part| !ran.stderr.contains(part));
        if !is_told || !is_plain {
            let _ = writeln!(wrong, "{source}\n  has to say {says:?}, and says\n{}", ran.stderr);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(node().api("GET", "/v1/apps/unloadable", "").status, 404);
    let answer = publish_by_api("unloadable");
    assert_eq!(answer, 422);
}

/// The status with which the node itself refuses a bundle that `minnow publish` has sent: it does not trust the command.
fn publish_by_api(name: &str) -> u16 {
    let app = App::of_js(name, "export default {};", "");
    let ran = node().cli().in_dir(app.path()).fails(["publish"]);
    assert!(ran.stderr.contains("compile_failed"), "{}", ran.stderr);
    ran.stderr.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default()
}

#[test]
fn a_manifest_that_makes_no_sense_for_javascript_is_refused() {
    for (lines, says) in [
        ("js = \"a.js\"\nwasm = \"a.wasm\"", &["both `wasm` and `js`"][..]),
        ("routes = [\"/\"]", &["neither `wasm` nor `js`"]),
        ("js = \"a.js\"\ninstances = \"fresh\"", &["fresh"]),
        ("js = \"a.wasm\"", &["a.wasm"]),
        ("js = \"a.txt\"", &["a.txt"]),
        ("js = \"../outside.js\"", &["leaves its folder"]),
        ("js = \"/etc/outside.js\"", &["the path is absolute"]),
        ("js = \"missing.js\"", &["missing.js"]),
        ("js = \"folder.js\"", &["folder.js"]),
        ("js = \"\"", &["the path is empty"]),
        ("js = 5", &["minnow.toml:4:6"]),
    ] {
        let app = App::with_manifest(format!("name = \"odd\"\nversion = \"0.1.0\"\n[functions.web]\n{lines}\n"));
        let app = app
            .file("a.js", "export default { fetch() {} };")
            .file("folder.js/x", "")
            .file("a.wasm", "")
            .file("a.txt", "");
        refused(&app, says);
    }
}

#[test]
fn a_machine_without_npm_and_deno_says_plainly_what_is_missing() {
    let empty = tempfile::tempdir().unwrap();
    let bin = empty.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let tools = empty.path().join("tools").display().to_string();
    let app = App::of_js("missing", "export default { fetch: () => new Response() };", "");
    let without = |cli: Cli| cli.env("PATH", bin.to_str().unwrap()).env("MINNOW_TOOLS_DIR", &tools);
    without(Cli::new()).in_dir(app.path()).fails(["build"]).says(&["esbuild", "npm"]);

    let node = Node::builder().env("PATH", bin.to_str().unwrap()).env("MINNOW_TOOLS_DIR", &tools).start();
    node.cli().in_dir(app.path()).fails(["publish"]).says(&["javascript_unavailable", "Deno", "npm"]);
    // What needs none of it works.
    node.serve(&App::of_guest("wasm", "hello-p2", ""));
    node.get("wasm", "/").ok();
    assert!(!Path::new(&tools).join("deno").exists());
}
