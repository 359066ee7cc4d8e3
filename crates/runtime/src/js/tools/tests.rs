use std::sync::Mutex;

use super::*;

/// A folder for programs, and one for tools.
struct Home {
    dir: tempfile::TempDir,
    tools: Tools,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let pinned = |_| Some(Digest::of(script_that_says(ESBUILD_VERSION).as_bytes()));
    let tools = Tools { folders: vec![dir.path().join("tools")], search: vec![bin], pinned };
    Home { dir, tools }
}

/// The program that [`Home::npm`] installs.
fn script_that_says(release: &str) -> String {
    format!("#!/bin/sh\necho {release}\n")
}

impl Home {
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // In another process: one that a test beside this one starts may inherit the open file, and a file that is open
        // for writing cannot be run.
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""#;
        let status = std::process::Command::new("sh").args(["-c", write, "sh", text]).arg(&path).status().unwrap();
        assert!(status.success());
        path
    }

    /// An npm that installs an esbuild which says that it is release `says`.
    fn npm(&self, says: &str) {
        let program = Tool::Esbuild.in_npm_folder().unwrap();
        self.script(
            "bin/npm",
            &format!(
                "echo \"$@\" >> {log}\nwhile [ $# -gt 0 ]; do [ \"$1\" = --prefix ] && prefix=$2; shift; done\n\
                 mkdir -p $prefix/$(dirname {program})\n\
                 printf '#!/bin/sh\\necho {says}\\n' > $prefix/{program}\nchmod +x $prefix/{program}",
                log = self.dir.path().join("npm.log").display()
            ),
        );
    }

    fn npm_calls(&self) -> usize {
        fs::read_to_string(self.dir.path().join("npm.log")).unwrap_or_default().lines().count()
    }

    async fn provide(&self) -> (Result<Found, ToolError>, Vec<Step>) {
        let steps = Mutex::new(Vec::new());
        let found = self.tools.provide(Tool::Esbuild, &|step| steps.lock().unwrap().push(step.clone())).await;
        (found, steps.into_inner().unwrap())
    }
}

#[test]
fn the_release_is_read_from_what_a_program_says() {
    for (tool, output, expected) in [
        (Tool::Deno, "deno 2.9.6 (stable, release, x86_64-unknown-linux-gnu)\nv8 15.0\n", Some("2.9.6")),
        (Tool::Deno, "node v20", None),
        (Tool::Esbuild, "0.28.2\n", Some("0.28.2")),
        (Tool::Esbuild, "", None),
    ] {
        assert_eq!(tool.release_in(output), expected, "{output}");
    }
}

#[test]
fn the_folder_is_the_named_one_or_a_cache_or_the_nodes() {
    let data = Some(Path::new("/data"));
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(Variables, _, &[&str]); 7] = [
        (&[("MINNOW_TOOLS_DIR", "/t"), ("HOME", "/h")], data, &["/t"]),
        (&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], data, &["/c/minnow/tools", "/data/tools"]),
        (&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")], None, &["/h/.cache/minnow/tools"]),
        (&[("HOME", "/h")], data, &["/h/.cache/minnow/tools", "/data/tools"]),
        (&[("HOME", "/h")], None, &["/h/.cache/minnow/tools"]),
        (&[], data, &["/data/tools"]),
        (&[], None, &[]),
    ];
    for (variables, data_dir, expected) in cases {
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let folders = Tools::of(value, data_dir).folders;
        assert_eq!(folders, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{variables:?}");
    }
}

#[tokio::test]
async fn a_program_of_the_right_release_on_the_path_is_used() {
    let home = home();
    let path = home.script("bin/esbuild", &format!("echo {ESBUILD_VERSION}"));
    let (found, steps) = home.provide().await;
    let path = path.canonicalize().unwrap();
    assert_eq!(found.unwrap(), Found { tool: Tool::Esbuild, path, origin: Origin::Path });
    assert_eq!(steps, []);
}

#[tokio::test]
async fn another_release_is_passed_over_and_the_right_one_installed_once() {
    let home = home();
    home.script("bin/esbuild", "echo 0.1.0");
    home.npm(ESBUILD_VERSION);
    let leftover = home.dir.path().join("tools").join(format!(".{}-x", Tool::Esbuild.folder_name()));
    fs::create_dir_all(&leftover).unwrap();
    assert_eq!(home.tools.find(Tool::Esbuild).await, None);
    let (found, steps) = home.provide().await;
    let found = found.unwrap();
    assert_eq!(found.origin, Origin::Installed);
    assert!(found.path.starts_with(home.dir.path().join("tools")), "{found:?}");
    let [Step::PassedOver { why, .. }, Step::Installing { .. }, Step::Installed { .. }] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(why, "it is release 0.1.0");
    let (again, _) = home.provide().await;
    assert_eq!(again.unwrap(), Found { origin: Origin::Folder, ..found.clone() });
    assert_eq!(home.tools.find(Tool::Esbuild).await.unwrap().path, found.path);
    assert_eq!(home.npm_calls(), 1);
    let mut left: Vec<_> =
        fs::read_dir(home.dir.path().join("tools")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    let name = Tool::Esbuild.folder_name();
    assert_eq!(left, [name.clone().into(), OsString::from(format!("{name}.lock"))], "nothing is left behind");
}

#[tokio::test]
async fn two_that_need_it_at_once_install_it_once() {
    let home = home();
    home.npm(ESBUILD_VERSION);
    let (one, two) = tokio::join!(home.provide(), home.provide());
    assert_eq!(one.0.unwrap().path, two.0.unwrap().path);
    assert_eq!(home.npm_calls(), 1);
}

#[tokio::test]
async fn what_is_missing_or_fails_is_told_with_a_remedy() {
    type Prepare = fn(&Home);
    let cases: [(Prepare, &str, &str); 6] = [
        (|_| {}, "npm, which would install it, is not on PATH", "install Node.js"),
        (
            |home| {
                home.script(
                    "bin/npm",
                    "echo 'npm error code ENOTFOUND\nnpm error at x:1\nnpm error getaddrinfo' >&2; exit 1",
                );
            },
            "cannot reach its registry to install esbuild 0.28.2:\ncode ENOTFOUND\ngetaddrinfo",
            "connect to the network",
        ),
        (
            |home| {
                home.script("bin/npm", "echo 'npm error code ETARGET' >&2; exit 1");
            },
            "npm cannot install esbuild 0.28.2:\ncode ETARGET",
            "mend what npm reports",
        ),
        (
            |home| {
                home.script("bin/npm", "exit 7");
            },
            "exit status: 7",
            "mend what npm reports",
        ),
        (
            |home| {
                home.script("bin/npm", "exit 0");
            },
            "is of no use: it has no node_modules/@esbuild",
            "put esbuild 0.28.2 on PATH",
        ),
        (|home| home.npm("9.9.9"), "is of no use: it is sha256:", "put esbuild"),
    ];
    for (prepare, message, remedy) in cases {
        let home = home();
        prepare(&home);
        let error = home.provide().await.0.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.remedy().contains(remedy), "{}", error.remedy());
    }
    let mut nowhere = home();
    nowhere.tools.folders.clear();
    let error = nowhere.provide().await.0.unwrap_err();
    assert!(error.to_string().contains("neither HOME nor") && error.remedy().contains(FOLDER_VARIABLE), "{error}");
    let mut unwritable = home();
    unwritable.tools.folders = vec![PathBuf::from("/dev/null/tools")];
    let error = unwritable.provide().await.0.unwrap_err();
    assert!(error.to_string().contains("cannot write to /dev/null/tools"), "{error}");
}

#[tokio::test]
async fn a_program_in_the_folder_with_other_bytes_is_replaced() {
    let home = home();
    home.npm(ESBUILD_VERSION);
    let path = home.provide().await.0.unwrap().path;
    let was_run = home.dir.path().join("was-run");
    let other = format!("touch {}; echo {ESBUILD_VERSION}", was_run.display());
    home.script(path.strip_prefix(home.dir.path()).unwrap().to_str().unwrap(), &other);
    let (found, steps) = home.provide().await;
    assert_eq!(found.unwrap().origin, Origin::Installed);
    let [Step::PassedOver { why, .. }, Step::Installing { .. }, Step::Installed { .. }] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert!(why.starts_with("it is sha256:"), "{why}");
    assert_eq!(fs::read_to_string(path).unwrap(), script_that_says(ESBUILD_VERSION));
    assert!(!was_run.exists());
}

#[test]
fn every_program_has_a_digest() {
    for (tool, os, arch, _, digest) in PROGRAMS {
        assert!(digest.parse::<Digest>().is_ok(), "{tool} for {os} on {arch}");
    }
}

#[tokio::test]
async fn the_script_of_an_npm_package_leads_to_its_program() {
    let home = home();
    let script = home.script("lib/node_modules/deno/bin.cjs", "exit 1");
    std::os::unix::fs::symlink(&script, home.dir.path().join("bin/deno")).unwrap();
    let (_, why) = home.tools.on_path(Tool::Deno).await.unwrap();
    assert_eq!(why.unwrap(), "it is a script that starts another program");
    let program = home.script(&format!("lib/{}", Tool::Deno.in_npm_folder().unwrap()), "echo deno 2.9.6");
    let (path, why) = home.tools.on_path(Tool::Deno).await.unwrap();
    assert_eq!((path, why), (program.canonicalize().unwrap(), None));
}
