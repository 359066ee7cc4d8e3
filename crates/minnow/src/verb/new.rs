//! `minnow new`: makes a new app.

mod template;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use minnow_model::AppName;

use self::template::Template;
use crate::{
    output::{self, BOLD, DIM, GREEN},
    report::Failure,
};

/// Make a new app in a folder of its name
#[derive(Debug, Args)]
#[command(
    long_about = "Make a new app in a folder of its name.

The app is one function that makes its page, with static files beside it. It is printed what building it takes, and the \
app's README.md says how to install that.",
    after_help = "Examples:
  minnow new hello
  cd hello && minnow dev
  minnow new hello --template python"
)]
pub struct NewArgs {
    /// The app's name: 1 to 63 of a-z, 0-9 and -
    #[arg(value_name = "NAME")]
    name: AppName,

    /// The language that it is written in
    #[arg(long, short, value_name = "TEMPLATE", default_value = "rust")]
    template: Template,
}

pub fn run(args: &NewArgs) -> anyhow::Result<()> {
    let dir = PathBuf::from(args.name.as_str());
    create(&dir, &args.name, args.template)?;
    output::line(format_args!("{GREEN}created{GREEN:#} {BOLD}{}{BOLD:#}", dir.display()))?;
    for (path, _) in args.template.files() {
        output::line(format_args!("  {DIM}{path}{DIM:#}"))?;
    }
    if let Some(needs) = args.template.needs() {
        output::line(format_args!("needs {needs}"))?;
    }
    output::line(format_args!("next: cd {} && minnow dev", dir.display()))
}

/// Writes the files into a folder that is not there yet. Nothing that exists is touched.
fn create(dir: &Path, name: &AppName, template: Template) -> anyhow::Result<()> {
    fs::create_dir(dir).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::Error::from(
            Failure::new(format!("{} exists already", dir.display())).help("choose another name, or remove the folder"),
        ),
        _ => anyhow::Error::from(error).context(format!("cannot create {}", dir.display())),
    })?;
    for (path, text) in template.files() {
        let path = dir.join(path);
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder)
            .and_then(|()| fs::File::create_new(&path)?.write_all(render(text, name).as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A template with the app's name filled in.
fn render(text: &str, name: &AppName) -> String {
    // Cargo refuses a package whose name starts with a digit.
    let starts_with_digit = name.as_str().starts_with(|first: char| first.is_ascii_digit());
    let package = if starts_with_digit { format!("app-{name}") } else { name.to_string() };
    // It names a library's file after the package, with `_` for `-`.
    text.replace("__PACKAGE_SNAKE__", &package.replace('-', "_"))
        .replace("__PACKAGE__", &package)
        .replace("__NAME__", name.as_str())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use minnow_model::{Manifest, manifest::Code};

    use super::*;

    #[test]
    fn a_new_app_has_a_valid_manifest_and_no_blanks_to_fill() {
        let dir = tempfile::tempdir().unwrap();
        let name = AppName::new("my-app").unwrap();
        for &template in Template::value_variants() {
            let app = dir.path().join(format!("{template:?}"));
            create(&app, &name, template).unwrap();
            for (path, _) in template.files() {
                let text = fs::read_to_string(app.join(path)).unwrap();
                assert!(!text.contains("__NAME") && !text.contains("__PACKAGE"), "{path} still has a blank");
            }
            let manifest =
                Manifest::parse(&fs::read_to_string(app.join("minnow.toml")).unwrap(), "minnow.toml").unwrap().manifest;
            assert_eq!(manifest.name, name);
            for function in manifest.functions.values() {
                match &function.code {
                    Code::Wasm(_) => assert!(function.build.is_some() && !function.watch.is_empty(), "{template:?}"),
                    Code::Js(path) => assert!(function.build.is_none() && app.join(path).is_file(), "{path}"),
                }
            }
            for folder in manifest.static_dirs.values() {
                assert!(app.join(folder).is_dir(), "{folder}");
            }
        }
    }

    #[test]
    fn the_types_of_a_new_app_are_those_that_types_writes_for_it() {
        let file = |path| Template::Ts.files().iter().find(|(found, _)| *found == path).unwrap().1;
        let name = AppName::new("my-app").unwrap();
        let manifest = Manifest::parse(&render(file("minnow.toml"), &name), "minnow.toml").unwrap().manifest;
        assert_eq!(crate::verb::types::of(&manifest).unwrap(), render(file("minnow.d.ts"), &name));
    }

    #[test]
    fn a_rust_app_is_a_package_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("my-app");
        create(&app, &AppName::new("my-app").unwrap(), Template::Rust).unwrap();
        let cargo: toml::Table = fs::read_to_string(app.join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(cargo["package"]["name"].as_str(), Some("my-app"));
        assert!(cargo.contains_key("workspace"), "an app inside another workspace builds, too");
        let manifest = fs::read_to_string(app.join("minnow.toml")).unwrap();
        assert!(manifest.contains("/my_app.wasm\""), "{manifest}");
    }

    #[test]
    fn a_package_has_a_name_that_cargo_takes() {
        for (name, expected) in [("my-app", "my-app my_app"), ("2048", "app-2048 app_2048"), ("3d", "app-3d app_3d")] {
            assert_eq!(render("__PACKAGE__ __PACKAGE_SNAKE__", &AppName::new(name).unwrap()), expected);
        }
    }

    #[test]
    fn a_folder_that_exists_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let name = AppName::new("taken").unwrap();
        let error = create(dir.path(), &name, Template::Rust).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
