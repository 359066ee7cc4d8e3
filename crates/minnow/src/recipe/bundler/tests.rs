//! Bundles of small apps, made by the real esbuild: npm installs it where it is not there yet.

use std::time::Instant;

use super::*;

/// An app with these files; `minnow.toml` names each function's first module.
struct App {
    dir: tempfile::TempDir,
    bundler: Bundler,
}

impl App {
    fn new(functions: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
        let app = Self { dir: tempfile::tempdir().unwrap(), bundler: Bundler::default() };
        let tables = functions.iter().map(|(name, entry)| format!("[functions.{name}]\njs = \"{entry}\"\n"));
        app.write("minnow.toml", &format!("name = \"a\"\n{}", tables.collect::<String>()));
        for (path, content) in files {
            app.write(path, content);
        }
        app
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn bundle(&mut self) -> Bundles {
        let project = Project::load(self.dir.path()).unwrap();
        self.bundler.run(&project, &Only::All).await.unwrap()
    }

    /// What is wrong, without colours.
    async fn mistakes(&mut self) -> String {
        let (_, error) = self.bundle().await.failed.unwrap();
        anstream::adapter::strip_str(&format!("{error:#}")).to_string()
    }

    fn made(&self, name: &str) -> (String, serde_json::Value) {
        let (module, source_map) = paths(self.dir.path(), &name.parse().unwrap());
        let source_map = serde_json::from_slice(&fs::read(source_map).unwrap()).unwrap();
        (fs::read_to_string(module).unwrap(), source_map)
    }
}

/// One of everything that can be imported.
fn whole() -> App {
    App::new(
        &[("api", "src/api.ts")],
        &[
            (
                "src/api.ts",
                r#"import { readFile } from "fs/promises";
import path from "node:path";
import cjs, { type Unused } from "cjs";
import punycode from "punycode/";
import { View } from "./view.tsx";
import data from "./data.json";
import page from "./page.html" with { type: "text" };
import wasm from "./code.wasm";
import css from "./style.css";
enum Color { Red = "red" }
function logged(method: any, _: ClassMethodDecoratorContext) { return method; }
class Service { accessor count: number = 1; @logged run(): string { return Color.Red; } }
const mode: string = process.env.NODE_ENV ?? "none";
export default {
  async fetch(request: Request): Promise<Response> {
    return Response.json([readFile, path.sep, cjs, punycode, View(), data.answer, page, wasm, css, new Service().run(), mode]);
  },
};
"#,
            ),
            ("src/view.tsx", "export const View = (): unknown => <p>ü</p>;\n"),
            ("src/data.json", r#"{"answer": 42}"#),
            ("src/page.html", "<h1>page</h1>"),
            ("src/code.wasm", "\0asm"),
            ("src/style.css", "b { color: red }"),
            ("tsconfig.json", r#"{"compilerOptions": {"jsx": "react-jsx", "jsxImportSource": "mini"}}"#),
            ("node_modules/mini/jsx-runtime.js", "export const jsx = (type, props) => [type, props];\n"),
            ("node_modules/cjs/package.json", r#"{"main": "main.js"}"#),
            (
                "node_modules/cjs/main.js",
                "const util = require('util');\ntry { require('optional'); } catch {}\nmodule.exports = [util.inspect, __dirname];\n",
            ),
            ("node_modules/punycode/package.json", r#"{"main": "index.js"}"#),
            ("node_modules/punycode/index.js", "module.exports = 'the package';\n"),
        ],
    )
}

#[tokio::test]
async fn everything_that_is_imported_comes_into_one_module() {
    let mut app = whole();
    let inputs = app.bundle().await.whole().unwrap();
    let (module, source_map) = app.made("api");
    for expected in [
        "from \"node:fs/promises\"",
        "from \"node:path\"",
        "\"node:util\"",
        "\"the package\"",
        "<h1>page</h1>",
        "color: red",
        "answer: 42",
        "\"production\"",
        "as default",
        "ü",
    ] {
        assert!(module.contains(expected), "{expected} is not in\n{module}");
    }
    assert!(!module.contains("@logged") && !module.contains("accessor count"), "V8 has no decorators\n{module}");
    let imports =
        module.lines().filter(|line| line.starts_with("import ")).map(|line| line.split_once(" from ").unwrap().1);
    assert!(imports.into_iter().all(|from| from.starts_with("\"node:")), "{module}");

    let sources: Vec<&str> = source_map["sources"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert!(sources.contains(&"src/api.ts") && sources.contains(&"node_modules/cjs/main.js"), "{sources:?}");
    let api = sources.iter().position(|source| *source == "src/api.ts").unwrap();
    assert!(source_map["sourcesContent"][api].as_str().unwrap().contains("enum Color"));
    let lines = source_map["mappings"].as_str().unwrap().split(';').count();
    assert!(module.starts_with("import { createRequire") && source_map["mappings"].as_str().unwrap().starts_with(';'));
    assert!(lines <= module.lines().count(), "a line of the map for each of the module");

    let dir = app.dir.path().canonicalize().unwrap();
    let inputs: Vec<&str> =
        inputs["api"].iter().map(|path| path.strip_prefix(&dir).unwrap().to_str().unwrap()).collect();
    let expected = [
        "node_modules/cjs/main.js",
        "node_modules/mini/jsx-runtime.js",
        "node_modules/punycode/index.js",
        "src/api.ts",
        "src/code.wasm",
        "src/data.json",
        "src/page.html",
        "src/style.css",
        "src/view.tsx",
    ];
    assert_eq!(inputs, expected);
}

#[tokio::test]
async fn the_same_sources_make_the_same_bytes_wherever_they_are() {
    let (mut one, mut other) = (whole(), whole());
    one.bundle().await.whole().unwrap();
    other.bundle().await.whole().unwrap();
    assert_eq!(one.made("api"), other.made("api"));
    let (module, source_map) = one.made("api");
    let folder = one.dir.path().file_name().unwrap().to_str().unwrap();
    assert!(!module.contains(folder) && !source_map.to_string().contains(folder));
}

#[tokio::test]
async fn a_module_without_commonjs_has_nothing_added() {
    let source = "export default { fetch: () => new Response(\"hello\") };\n";
    let mut app = App::new(&[("f", "f.js")], &[("f.js", source)]);
    app.bundle().await.whole().unwrap();
    let (module, _) = app.made("f");
    assert!(module.starts_with("// f.js\n"), "{module}");
}

#[tokio::test]
async fn a_require_of_the_app_does_not_clash_with_that_of_packages() {
    let source = "import { createRequire } from \"module\";\nimport \"./cjs.cjs\";\n\
                  const require = createRequire(import.meta.url);\nexport default { fetch: () => require(\"fs\") };\n";
    let mut app = App::new(&[("f", "f.js")], &[("f.js", source), ("cjs.cjs", "module.exports = require('fs');")]);
    app.bundle().await.whole().unwrap();
    let (module, _) = app.made("f");
    assert_eq!(module.matches("var require =").count(), 1, "{module}");
    assert!(module.contains("var require2 = createRequire"), "{module}");
}

#[tokio::test]
async fn the_manifests_node_env_is_part_of_the_bundle() {
    let mut app = App::new(&[("f", "f.js")], &[("f.js", "export default process.env.NODE_ENV;\n")]);
    app.write("minnow.toml", "name = \"a\"\n[functions.f]\njs = \"f.js\"\nenv = { NODE_ENV = \"te\\\"st\" }\n");
    app.bundle().await.whole().unwrap();
    assert!(app.made("f").0.contains(r#""te\"st""#) || app.made("f").0.contains(r#"'te"st'"#), "{}", app.made("f").0);
}

#[tokio::test]
async fn the_mistakes_of_all_functions_are_told_at_once() {
    let functions = [("bad", "src/bad.ts"), ("good", "src/good.ts"), ("lost", "src/lost.ts")];
    let mut app = App::new(
        &functions,
        &[
            ("src/bad.ts", "export default {\n  fetch() { return new Response(;\n  },\n};\n"),
            ("src/good.ts", "export default { fetch: () => new Response() };\n"),
            (
                "src/lost.ts",
                "import { Hono } from \"hono\";\nimport a from \"npm:itty-router@5\";\nimport b from \"./missing\";\n\
                 import c from \"https://example.org/x.ts\";\nimport d from \"./addon.node\";\n\
                 export default [Hono, a, b, c, d];\n",
            ),
            ("src/addon.node", ""),
        ],
    );
    let bundles = app.bundle().await;
    assert_eq!(bundles.inputs.keys().map(FunctionName::as_str).collect::<Vec<_>>(), ["good"]);
    let (failed, error) = bundles.failed.unwrap();
    assert_eq!(listed(&failed), "bad and lost");
    let shown = anstream::adapter::strip_str(&format!("{error:#}")).to_string();
    let dir = app.dir.path().canonicalize().unwrap();
    assert_eq!(shown.replace(dir.to_str().unwrap(), "DIR"), MISTAKES);
}

const MISTAKES: &str = r#"cannot bundle bad and lost: src/bad.ts:2:33: Unexpected ";"
    fetch() { return new Response(;
                                  ^

src/lost.ts:1:22: the package `hono` is not installed
  import { Hono } from "hono";
                       ^^^^^^
  help: run `npm install hono` in DIR

src/lost.ts:2:15: `npm:itty-router@5` is Deno's way to name a package, and a bundle is made of files
  import a from "npm:itty-router@5";
                ^^^^^^^^^^^^^^^^^^^
  help: import `itty-router`, and run `npm install itty-router@5` in DIR

src/lost.ts:3:15: there is no module `./missing`
  import b from "./missing";
                ^^^^^^^^^^^
  help: write the file, or correct the path

src/lost.ts:4:15: `https://example.org/x.ts` is on the network, and a bundle is made of files
  import c from "https://example.org/x.ts";
                ^^^^^^^^^^^^^^^^^^^^^^^^^^
  help: copy the module into the app, or install it as a package

src/lost.ts:5:15: No loader is configured for ".node" files: src/addon.node
  import d from "./addon.node";
                ^^^^^^^^^^^^^^
  help: native add-ons do not run in the sandbox: use a package that is JavaScript or WebAssembly"#;

#[tokio::test]
async fn a_file_that_is_not_utf8_is_told_with_its_place() {
    let source = "import text from \"./a.txt\" with { type: \"text\" };\nimport bytes from \"./b.bin\" with { type: \"bytes\" };\n\
                  export default [text, bytes];\n";
    let mut app = App::new(&[("f", "src/f.ts")], &[("src/f.ts", source)]);
    let write = |path: &str, content: &[u8]| fs::write(app.dir.path().join("src").join(path), content).unwrap();
    write("a.txt", b"first\nun caf\xe9 noir\n");
    write("b.bin", b"\xff");
    let expected = "src/a.txt:2:7: the file is not UTF-8\n  un caf\u{fffd} noir\n        ^\n  help: save it as UTF-8";
    let mistakes = app.mistakes().await;
    assert!(mistakes.contains(expected) && !mistakes.contains("b.bin"), "{mistakes}");
    app.write("src/a.txt", "un café noir");
    app.bundle().await.whole().unwrap();
}

#[tokio::test]
async fn a_module_of_node_that_there_is_not_is_told_like_every_other_one() {
    let source = "import \"node:nothing\";\nimport \"./missing\";\nimport \"node:sqlite\";\nimport \"node:fs/promises\";\n\
                  try { require(\"node:optional\"); } catch {}\nexport default {};\n";
    let mut app = App::new(&[("f", "f.js")], &[("f.js", source)]);
    let mistakes = app.mistakes().await;
    for part in ["f.js:1:8: there is no module `node:nothing`", "f.js:2:8: there is no module `./missing`"] {
        assert!(mistakes.contains(part), "{mistakes}");
    }
    assert!(!["sqlite", "promises", "optional"].iter().any(|name| mistakes.contains(name)), "{mistakes}");
}

#[tokio::test]
async fn a_mistake_is_gone_once_it_is_mended() {
    let mut app = App::new(&[("f", "f.ts")], &[("f.ts", "export { x as default } from \"./x\";\n")]);
    assert!(app.mistakes().await.contains("f.ts:1:30: there is no module `./x`"));
    app.write("x.ts", "export const x = 1;\n");
    let started = Instant::now();
    app.bundle().await.whole().unwrap();
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    fs::remove_file(app.dir.path().join("f.ts")).unwrap();
    let (_, error) = app.bundle().await.failed.unwrap();
    let mistakes = error.downcast_ref::<crate::report::ManifestFailure>().unwrap().0.lines();
    assert!(mistakes[0].contains(":3:7: there is no file `f.ts`"), "{mistakes:?}");
}

#[tokio::test]
async fn many_functions_are_bundled_in_their_order() {
    let names: Vec<String> = (0..30).map(|n| format!("f{n}")).collect();
    let entries: Vec<String> = names.iter().map(|name| format!("{name}.js")).collect();
    let functions: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(entries.iter().map(String::as_str)).collect();
    let sources: Vec<String> = names.iter().map(|name| format!("export default \"I am {name}\";\n")).collect();
    let files: Vec<(&str, &str)> = entries.iter().map(String::as_str).zip(sources.iter().map(String::as_str)).collect();
    let mut app = App::new(&functions, &files);
    app.bundle().await.whole().unwrap();
    for name in &names {
        assert!(app.made(name).0.contains(&format!("\"I am {name}\"")), "{name}");
    }
}

#[tokio::test]
async fn an_esbuild_that_is_none_is_told() {
    let mut app = App::new(&[("f", "f.js")], &[("f.js", "export default 1;\n")]);
    let project = Project::load(app.dir.path()).unwrap();
    for (program, expected) in [("/bin/false", "cannot talk to esbuild"), ("/nonexistent/esbuild", "No such file")] {
        app.bundler.esbuild = Some(program.into());
        let error = app.bundler.run(&project, &Only::All).await.unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
    assert_eq!(app.bundler.esbuild, None, "it is looked for again");
}
