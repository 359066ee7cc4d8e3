//! `minnow.toml`: every mistake at once, each with its place and remedy.

use minnow_tests::{App, Cli, Node};

/// What `minnow build` says about a manifest.
fn mistakes(app: &App) -> String {
    Cli::new().in_dir(app.path()).fails(["build"]).stderr
}

#[test]
fn all_mistakes_are_told_at_once_each_with_line_column_and_remedy() {
    let app = App::with_manifest(
        r#"name = "Shop"
colour = "red"
[functions.api]
wasm = "nowhere.wasm"
routes = ["/api/{*rest}", "post /submit"]
egres = []
[functions.api.limits]
memory = "128"
cpu = "2 parsecs"
[functions.web]
wasm = "also-nowhere.wasm"
routes = ["/api/{*path}"]
instances = "sometimes"
[static]
"files" = "public"
"/x" = "nowhere"
[functions.web]
wasm = "web.wasm"
routes = [["not looked at"]]

[functions.api] # again
wasm = "é.wasm"
[functions.third]
later = true
wasm = "minnow.toml"
"#,
    );
    let said = mistakes(&app);
    for (place, parts) in [
        ("minnow.toml:1:9", &["`Shop`", "a-z"][..]),
        ("minnow.toml:2:1", &["unknown key `colour`"]),
        ("minnow.toml:4:9", &["no file `nowhere.wasm`", "`build`"]),
        ("minnow.toml:5:28", &["post", "write `POST`"]),
        ("minnow.toml:6:1", &["did you mean `egress`"]),
        ("minnow.toml:8:11", &["size with a unit", "256MiB"]),
        ("minnow.toml:9:8", &["cpu"]),
        ("minnow.toml:11:9", &["no file `also-nowhere.wasm`"]),
        ("minnow.toml:12:12", &["match the same requests", "`api`", "`web`"]),
        ("minnow.toml:13:14", &["`fresh`", "`reuse`"]),
        ("minnow.toml:15:2", &["does not start with `/`"]),
        ("minnow.toml:16:9", &["no folder `nowhere`"]),
        ("minnow.toml:17:1", &["the table `web` stands twice"]),
        ("minnow.toml:21:1", &["the table `api` stands twice"]),
        ("minnow.toml:24:1", &["unknown key `later`"]),
    ] {
        let line = said.lines().find(|line| line.contains(&format!("{place}:")));
        let line = line.unwrap_or_else(|| panic!("nothing at {place}:\n{said}"));
        for part in parts {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
    }
}

#[test]
fn a_manifest_that_is_no_toml_is_told_with_its_place() {
    let said = mistakes(&App::with_manifest("name = \"a\"\n[functions.api\n"));
    assert!(said.contains("minnow.toml:2:"), "{said}");
}

#[test]
fn files_that_are_missing_are_told_with_the_line_that_names_them() {
    let app = App::with_manifest("name = \"a\"\n[functions.api]\nwasm = \"a.wasm\"\n[static]\n\"/\" = \"public\"\n");
    let said = mistakes(&app);
    assert!(said.contains("minnow.toml:3:9") && said.contains("a.wasm"), "{said}");
    assert!(said.contains("minnow.toml:5:8") && said.contains("public"), "{said}");
}

#[test]
fn two_functions_of_one_name_are_refused() {
    let table = "[functions.api]\nwasm = \"a.wasm\"\n";
    let said = mistakes(&App::with_manifest(format!("name = \"a\"\n{table}{table}")).file("a.wasm", "x"));
    assert!(said.contains("minnow.toml:4") && said.contains("api"), "{said}");
}

#[test]
fn paths_that_lead_out_of_the_apps_folder_are_refused() {
    for line in ["wasm = \"../a.wasm\"", "wasm = \"/etc/passwd\"", "wasm = \"a/../../b.wasm\""] {
        let said = mistakes(&App::with_manifest(format!("name = \"a\"\n[functions.api]\n{line}\n")));
        assert!(said.contains("minnow.toml:3:9"), "{line}: {said}");
    }
    let said = mistakes(&App::with_manifest("name = \"a\"\n[static]\n\"/\" = \"../public\"\n"));
    assert!(said.contains("minnow.toml:3:"), "{said}");
}

#[test]
fn a_link_that_leads_out_of_the_apps_folder_is_not_published() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.txt"), "secret").unwrap();
    let app = App::new("links").file("public/a.txt", "a").end("[static]\n\"/\" = \"public\"");
    std::os::unix::fs::symlink(outside.path().join("secret.txt"), app.path().join("public/link.txt")).unwrap();
    let node = Node::shared();
    let ran = node.cli().in_dir(app.path()).run(["publish"]);
    if ran.code() == 0 {
        node.cli().in_dir(app.path()).ok(["deploy"]);
        assert_eq!(node.get("links", "/link.txt").status, 404);
    } else {
        ran.says(&["link.txt"]);
    }
}

#[test]
fn without_a_manifest_the_error_says_what_to_do() {
    let cli = Cli::new();
    for verb in [&["build"][..], &["publish"], &["dev"], &["deploy"], &["status"]] {
        let ran = cli.fails(verb);
        ran.says(&["minnow.toml", "help:"]);
    }
}

#[test]
fn a_failing_build_command_is_told() {
    let app = App::new("failing").code("web", "a.wasm", b"", "build = \"echo from the build; exit 7\"");
    let ran = Cli::new().in_dir(app.path()).run(["build"]);
    assert_eq!(ran.code(), 1);
    ran.says(&["from the build", "the build of web failed", "exit code 7", "help:"]);
}

#[test]
fn a_build_command_that_functions_share_runs_once() {
    let settings = "build = \"echo run >> count && cp seed.wasm a.wasm\"";
    let app = App::new("share")
        .file("seed.wasm", minnow_tests::wasm::cgi("x"))
        .code("one", "a.wasm", b"", settings)
        .code("two", "a.wasm", b"", settings);
    let printed = Cli::new().in_dir(app.path()).ok(["build"]);
    assert!(printed.contains("one") && printed.contains("two") && printed.contains("a.wasm"), "{printed}");
    assert_eq!(std::fs::read_to_string(app.path().join("count")).unwrap(), "run\n");
}
