//! From nothing to an answer: what a newcomer does first.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use minnow_tests::{App, Cli, Node};

/// A user who can build for WebAssembly. `cargo xtask test` installs what that takes, and names it here.
fn with_toolchain(cli: Cli) -> Cli {
    let path = env::var("PATH").unwrap();
    let cli = match env::var("MINNOW_TEST_WASM_PATH") {
        Ok(first) if !first.is_empty() => cli.env("PATH", &format!("{first}:{path}")),
        Ok(_) => cli,
        Err(_) => {
            let command = ["--print", "target-libdir", "--target", "wasm32-wasip2"];
            let printed = Command::new("rustc").args(command).output().unwrap();
            let folder = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
            assert!(
                printed.status.success() && folder.is_dir(),
                "this test builds an app, and Rust's target wasm32-wasip2 is not installed: run `cargo xtask test`"
            );
            cli
        }
    };
    with_rust(cli)
}

/// A user with the Rust of this machine: Cargo's own folders stay where they are, so that crates are not fetched again.
fn with_rust(cli: Cli) -> Cli {
    let home = PathBuf::from(env::var("HOME").unwrap());
    let folder = |name: &str, usual: &str| env::var(name).unwrap_or_else(|_| home.join(usual).display().to_string());
    cli.env("CARGO_HOME", &folder("CARGO_HOME", ".cargo")).env("RUSTUP_HOME", &folder("RUSTUP_HOME", ".rustup"))
}

/// Keeps what Cargo builds for the next run of this test: the standard library alone takes more than a minute. The folder is
/// this run's for as long as the answer lives: two runs that share a target folder would build into each other's files.
fn keep_builds(app: &Path) -> fs::File {
    let tests = env::current_exe().unwrap();
    let target = tests.ancestors().nth(3).unwrap().join("e2e-new-app");
    fs::create_dir_all(&target).unwrap();
    let ours = fs::File::create(target.join("in-use")).unwrap();
    ours.lock().unwrap();
    std::os::unix::fs::symlink(target, app.join("target")).unwrap();
    ours
}

#[test]
fn a_new_app_is_built_published_deployed_and_answers() {
    let node = Node::start();
    let cli = with_toolchain(node.cli());
    let printed = cli.ok(["new", "hello"]);
    assert!(printed.contains("cd hello && minnow dev"), "{printed}");
    let dir = cli.home().join("hello");
    for path in [
        "Cargo.toml",
        "README.md",
        "minnow.toml",
        "src/lib.rs",
        "static/script.js",
        "static/style.css",
        "views/index.html",
        "views/layout.html",
    ] {
        assert!(dir.join(path).is_file(), "{path}");
    }
    cli.fails(["new", "hello"]).says(&["exists already"]);
    let _ours = keep_builds(&dir);
    let cli = cli.in_dir(&dir);
    let built = cli.ok(["build"]);
    assert!(built.contains("web") && built.contains("target/wasm32-wasip2/release/hello.wasm"), "{built}");
    cli.ok(["publish", "0.1.0"]);
    cli.ok(["deploy", "0.1.0"]);
    let page = node.get("hello", "/");
    assert!(page.ok().contains("<html") && page.text().contains("<h1>Hello"), "{}", page.text());
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(node.get("hello", "/static/style.css").ok().contains('{'));
    assert!(node.get("hello", "/static/script.js").status == 200);
    assert_eq!(node.metric("minnow_static_requests_total", &["status=\"2xx\""]), 2.0);
    assert_eq!(node.status("hello")["functions"][0]["kind"], "http-0.2");
}

#[test]
fn a_missing_compile_target_is_told_with_its_remedy() {
    // A target that rustc knows and rustup does not have.
    let build = "build = \"cargo build --quiet --target wasm32-wali-linux-musl\"";
    let app = App::new("target").code("web", "a.wasm", b"", build);
    let app = app.file("Cargo.toml", "[package]\nname = \"target\"\nedition = \"2024\"\n").file("src/lib.rs", "");
    let ran = with_rust(Cli::new()).in_dir(app.path()).run(["build"]);
    assert_eq!(ran.code(), 1);
    ran.says(&["the build of web failed", "rustup target add wasm32-wali-linux-musl"]);
}
