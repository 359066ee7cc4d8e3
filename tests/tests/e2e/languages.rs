//! Each language that `minnow new` knows, from nothing to answers, as the app's README.md has them.

use minnow_tests::{Answer, App, Cli, Node, Request, repository, toolchains, until};

/// A text of 15 bytes and 3 words.
const TEXT: &[u8] = b"one two  three\n";

/// Makes an app, builds it, serves it, and asks it for everything that it answers. It is of this kind.
fn works(template: &str, node: &Node, cli: &Cli, kind: &str) {
    let app = format!("my-{template}");
    let printed = cli.ok(["new", &app, "--template", template]);
    assert!(printed.contains(&format!("cd {app} && minnow dev")), "{printed}");
    let dir = cli.home().join(&app);
    let cli = cli.clone().in_dir(&dir);
    cli.ok(["build"]);
    cli.ok(["publish", "0.1.0"]);
    cli.ok(["deploy", "0.1.0"]);
    assert_eq!(node.status(&app)["functions"][0]["kind"], kind);

    let page = node.get(&app, "/");
    assert!(page.ok().contains("<h1>Hello, world!</h1>"), "{}", page.text());
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let page = node.get(&app, "/?other=1&name=%3CAda+L%C3%B6%3E&empty");
    let text = page.ok().replace("&#60;", "&lt;").replace("&#62;", "&gt;");
    assert!(text.contains("<h1>Hello, &lt;Ada Lö&gt;!</h1>"), "{text}");
    until("what the function printed is in its log", || {
        node.logs(&app).iter().any(|line| line["message"].as_str().unwrap().ends_with("greeting <Ada Lö>"))
    });
    assert_eq!(node.send(&Request::get(&app, "/").method("HEAD")).status, 200);
    assert_eq!(node.get(&app, "/nothing").status, 404);
    assert!(node.get(&app, "/static/style.css").ok().contains("input"));

    counted(&node.post(&app, "/count", TEXT));
    // The same in two chunks, whose length together nobody said.
    let mut connection = node.connect();
    let head = Request::get(&app, "/count").method("POST").header("transfer-encoding", "chunked");
    connection.write_head(&head).unwrap();
    connection.write(b"5\r\none t\r\na\r\nwo  three\n\r\n0\r\n\r\n").unwrap();
    counted(&connection.response(false).unwrap().rest().unwrap());

    // A variable is read when a request comes, not when the app is built.
    let manifest = dir.join("minnow.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replace("\"Hello\"", "\"Ahoy\"");
    std::fs::write(&manifest, text).unwrap();
    cli.ok(["publish", "0.2.0"]);
    cli.ok(["deploy", "0.2.0"]);
    assert!(node.get(&app, "/?name=Bo").ok().contains("<h1>Ahoy, Bo!</h1>"));
}

#[track_caller]
fn counted(answer: &Answer) {
    answer.ok();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json(), serde_json::json!({ "bytes": 15, "words": 3 }));
}

fn compiled(template: &str, kind: &str) {
    let node = Node::start();
    let cli = toolchains::with_languages(node.cli());
    works(template, &node, &cli, kind);
}

fn javascript(template: &str) {
    let tools = toolchains::js_tools_dir();
    let node = Node::builder().env("MINNOW_TOOLS_DIR", &tools).start();
    let cli = node.cli().env("MINNOW_TOOLS_DIR", &tools);
    works(template, &node, &cli, "js");
}

#[test]
fn a_new_app_in_python_works() {
    compiled("python", "http-0.2");
}

#[test]
fn a_new_app_in_go_works() {
    compiled("go", "command-core");
}

#[test]
fn a_new_app_in_c_works() {
    compiled("c", "command-core");
}

#[test]
fn a_new_app_in_zig_works() {
    compiled("zig", "command-core");
}

#[test]
fn a_new_app_in_javascript_works() {
    javascript("js");
}

#[test]
fn a_new_app_in_typescript_works() {
    javascript("ts");
}

/// The first block of code in this language under "Data" of the page.
fn example(page: &str, language: &str) -> String {
    let path = repository().join("docs/languages").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, data) = text.split_once("\n## Data\n").unwrap();
    let (_, code) = data.split_once(&format!("\n```{language}\n")).unwrap();
    code.split_once("\n```").unwrap().0.to_owned()
}

/// Builds the example of a page, which counts visits in a key-value store, and visits it.
#[track_caller]
fn counts(name: &str, files: &[(&str, String)], build: &str) {
    let node = Node::start();
    let cli = toolchains::with_languages(node.cli());
    let mut app = App::with_manifest(format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\n[kv.visits]\n[functions.web]\nwasm = \"app.wasm\"\nbuild = '{build}'\n\
         routes = [\"/\"]\nkv = [\"visits\"]\n"
    ));
    for (path, content) in files {
        app = app.file(path, content);
    }
    let cli = cli.in_dir(app.path());
    cli.ok(["build"]);
    cli.ok(["publish", "0.1.0"]);
    cli.ok(["deploy", "0.1.0"]);
    for visits in 1..4 {
        let answer = node.get(name, "/");
        answer.ok();
        assert_eq!(answer.json(), serde_json::json!({ "value": visits }));
    }
    let failed = node.logs(name).into_iter().find(|line| line["level"] == "error");
    assert_eq!(failed, None);
}

#[test]
fn the_example_in_c_keeps_data() {
    let build = "zig cc --target=wasm32-wasi -std=c17 -Wall -Wextra -Werror -Os -s -o app.wasm counter.c";
    counts("data-c", &[("counter.c", example("c.md", "c"))], build);
}

#[test]
fn the_example_in_go_keeps_data() {
    let files = [("counter.go", example("go.md", "go")), ("go.mod", "module counter\n\ngo 1.22\n".into())];
    counts("data-go", &files, "GOOS=wasip1 GOARCH=wasm go build -o app.wasm .");
}

#[test]
fn the_example_in_python_keeps_data() {
    let files = [("counter.py", example("python.md", "python")), ("wit/command.wit", example("python.md", "wit"))];
    counts("data-python", &files, "componentize-py --quiet -d wit componentize counter -o app.wasm");
}

#[test]
fn the_example_in_zig_keeps_data() {
    let build = "zig build-exe counter.zig -target wasm32-wasi -O ReleaseSafe -fstrip -femit-bin=app.wasm";
    counts("data-zig", &[("counter.zig", example("zig.md", "zig"))], build);
}

#[test]
fn a_language_that_is_not_known_is_told_with_those_that_are() {
    let ran = Cli::new().run(["new", "hello", "--template", "cobol"]);
    assert_eq!(ran.code(), 2);
    ran.says(&["cobol", "rust, js, ts, python, go, c, zig"]);
}
