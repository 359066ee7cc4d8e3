//! How what is wrong with a function's sources is told: the place, the line, and what to do.

use std::path::Path;

use super::esbuild::{COULD_NOT_RESOLVE, Message, NOT_UTF8, SourcePlace};
use crate::output::{BOLD, CYAN, RED, printable};

/// The most mistakes that are shown; the rest is counted.
const MAX_SHOWN: usize = 50;
/// How much of a line is shown, in characters: lines of bundled code have thousands.
const LINE_WIDTH: usize = 120;

/// The mistakes as text, in the order of files and lines. `dir` is the app's folder.
pub fn text(dir: &Path, mut mistakes: Vec<Message>) -> String {
    // Functions share modules.
    mistakes.sort();
    mistakes.dedup();
    let shown: Vec<String> = mistakes.iter().take(MAX_SHOWN).map(|mistake| one(dir, mistake)).collect();
    let more = mistakes.len() - shown.len();
    let more = if more > 0 { format!("\n\nand {more} more") } else { String::new() };
    shown.join("\n\n") + &more
}

/// A warning as one line.
pub fn warning(message: &Message) -> String {
    format!("{}{}", place(message), printable(&message.text))
}

fn place(message: &Message) -> String {
    let Some(place) = &message.place else { return String::new() };
    let column = characters(&place.line_text, 0, place.column) + 1;
    format!("{}:{}:{column}: ", printable(&place.file), place.line)
}

fn one(dir: &Path, message: &Message) -> String {
    let (text, help) = explained(dir, message);
    let mut shown = format!("{BOLD}{}{BOLD:#}{}", place(message), printable(&text));
    if let Some(place) = &message.place {
        shown += &excerpt(place);
    }
    for note in message.notes.iter().filter(|note| !is_about_esbuild(note)) {
        shown += &format!("\n  {}", printable(note));
    }
    if let Some(help) = help {
        shown += &format!("\n  {CYAN}help:{CYAN:#} {}", printable(&help));
    }
    shown
}

/// Whether a note tells what to do with esbuild's own settings, which nobody has here.
fn is_about_esbuild(note: &str) -> bool {
    note.starts_with("You can mark the path") || note.contains(" as external ")
}

/// The source's line and a mark below what is meant.
fn excerpt(place: &SourcePlace) -> String {
    let line: Vec<char> = place.line_text.chars().collect();
    let at = characters(&place.line_text, 0, place.column);
    let length = characters(&place.line_text, place.column, place.length);
    let start = if line.len() > LINE_WIDTH { at.saturating_sub(LINE_WIDTH / 3) } else { 0 };
    let window: String = line.iter().skip(start).take(LINE_WIDTH).collect();
    let window = window.trim_end();
    if window.trim().is_empty() {
        return String::new();
    }
    let is_blank = |c: &char| if *c == '\t' { '\t' } else { ' ' };
    let indent: String = line.iter().skip(start).take(at - start).map(is_blank).collect();
    let length = length.min((start + window.chars().count()).saturating_sub(at)).max(1);
    format!("\n  {}\n  {indent}{RED}{}{RED:#}", printable(window), "^".repeat(length))
}

/// How many characters the `length` bytes at `start` are.
fn characters(text: &str, start: u32, length: u32) -> usize {
    let start = start as usize;
    let range = start..start.saturating_add(length as usize);
    text.char_indices().filter(|(at, _)| range.contains(at)).count()
}

/// What is wrong in the words of somebody who writes a function, and what to do about it.
fn explained(dir: &Path, message: &Message) -> (String, Option<String>) {
    let text = message.text.clone();
    if let Some(import) = text.strip_prefix(COULD_NOT_RESOLVE).and_then(|quoted| serde_json::from_str(quoted).ok()) {
        let import: String = import;
        let file = message.place.as_ref().map(|place| dir.join(&place.file));
        let from = file.as_deref().and_then(Path::parent).unwrap_or(dir);
        let (text, help) = unresolved(dir, from, &import);
        return (text, Some(help));
    }
    let help = if text == NOT_UTF8 {
        Some("save it as UTF-8; what is no text is imported with `with { type: \"bytes\" }`")
    } else if text.starts_with("No loader is configured for \".node\" files") {
        Some("native add-ons do not run in the sandbox: use a package that is JavaScript or WebAssembly")
    } else if text.starts_with("No loader is configured for ") {
        Some("import it with `with { type: \"text\" }` as a string, or with `with { type: \"bytes\" }` as a Uint8Array")
    } else if text.starts_with("No matching export in ") {
        Some("export it there, or correct the name")
    } else {
        None
    };
    (text, help.map(str::to_owned))
}

/// Why an import is not found, and what to do. `from` is the folder of the module that has it.
fn unresolved(dir: &Path, from: &Path, import: &str) -> (String, String) {
    if let Some(package) = import.strip_prefix("npm:") {
        let package = Package::of(package);
        let (_, manager) = installs(dir, from);
        return (
            format!("`{import}` is Deno's way to name a package, and a bundle is made of files"),
            format!("import `{}`, and run `{}` in {}", package.plain(), manager.add(&package), dir.display()),
        );
    }
    if let Some(package) = import.strip_prefix("jsr:") {
        let package = Package::of(package);
        return (
            format!("`{import}` is Deno's way to name a package, and a bundle is made of files"),
            format!("import `{}`, and run `npx jsr add {}` in {}", package.plain(), package.wanted(), dir.display()),
        );
    }
    if import.starts_with("http://") || import.starts_with("https://") {
        return (
            format!("`{import}` is on the network, and a bundle is made of files"),
            "copy the module into the app, or install it as a package".into(),
        );
    }
    if import.starts_with("node:") {
        return (format!("there is no module `{import}`: Node has none of this name"), "correct the name".into());
    }
    if let Some((scheme, _)) = import.split_once(':') {
        return (
            format!("there is no module `{import}`: `{scheme}:` names modules of another platform"),
            "use the web's own interfaces or those of Node in its place".into(),
        );
    }
    if import.starts_with(['.', '/']) {
        return (format!("there is no module `{import}`"), "write the file, or correct the path".into());
    }
    let package = Package::of(import);
    let (root, manager) = installs(dir, from);
    if from.ancestors().any(|folder| folder.join("node_modules").join(package.name).is_dir()) {
        let text = format!("the package `{}` has no module `{import}`", package.name);
        return (text, "correct the path, or install the release that has it".into());
    }
    let text = format!("the package `{}` is not installed", package.name);
    let command = if declares(root, package.name) { manager.install() } else { manager.add(&package) };
    (text, format!("run `{command}` in {}", root.display()))
}

/// The parts of `@scope/name@^1.2/sub/path`.
#[derive(Debug, PartialEq, Eq)]
struct Package<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// With its `/`, or empty.
    path: &'a str,
}

impl<'a> Package<'a> {
    fn of(import: &'a str) -> Self {
        let import = import.trim_start_matches('/');
        let scope = if import.starts_with('@') { import.find('/').map_or(import.len(), |slash| slash + 1) } else { 0 };
        let (_, after) = import.split_at(scope);
        let end = scope + after.find('/').unwrap_or(after.len());
        let (whole, path) = import.split_at(end);
        match whole.get(1..).and_then(|rest| rest.find('@')) {
            Some(at) => {
                let (name, version) = whole.split_at(at + 1);
                Self { name, version: version.get(1..), path }
            }
            None => Self { name: whole, version: None, path },
        }
    }

    /// What an import of an installed package says.
    fn plain(&self) -> String {
        format!("{}{}", self.name, self.path)
    }

    /// What is installed.
    fn wanted(&self) -> String {
        self.version.map_or_else(|| self.name.to_owned(), |version| format!("{}@{version}", self.name))
    }
}

/// The program that installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manager(&'static str);

impl Manager {
    fn of(root: &Path) -> Self {
        let locks = [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("bun.lock", "bun"), ("bun.lockb", "bun")];
        Self(locks.iter().find(|(lock, _)| root.join(lock).exists()).map_or("npm", |(_, manager)| manager))
    }

    fn install(self) -> String {
        format!("{} install", self.0)
    }

    fn add(self, package: &Package<'_>) -> String {
        let verb = if self.0 == "npm" { "install" } else { "add" };
        format!("{} {verb} {}", self.0, package.wanted())
    }
}

/// The folder in which packages are installed for modules in `from`, and with what: the nearest with a `package.json`, else
/// the app's.
fn installs<'a>(dir: &'a Path, from: &'a Path) -> (&'a Path, Manager) {
    let root = from.ancestors().find(|folder| folder.join("package.json").exists()).unwrap_or(dir);
    (root, Manager::of(root))
}

/// Whether the `package.json` in `root` names the package.
fn declares(root: &Path, package: &str) -> bool {
    let Ok(text) = std::fs::read(root.join("package.json")) else { return false };
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&text) else { return false };
    ["dependencies", "devDependencies", "peerDependencies", "optionalDependencies"]
        .iter()
        .any(|key| json.get(key).is_some_and(|packages| packages.get(package).is_some()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn at(line: u32, column: u32, length: u32, line_text: &str) -> Option<SourcePlace> {
        Some(SourcePlace { file: "src/a.ts".into(), line, column, length, line_text: line_text.into() })
    }

    fn message(text: &str) -> Message {
        Message { place: at(1, 0, 3, "abc"), text: text.into(), notes: Vec::new() }
    }

    #[test]
    fn a_mistake_is_shown_with_its_line_once() {
        let syntax = Message {
            place: at(7, 10, 1, "\tlet ü = ;"),
            text: "Unexpected \";\"".into(),
            notes: vec!["You can mark the path \"x\" as external to exclude it".into(), "a note".into()],
        };
        let first = Message { place: at(2, 0, 0, ""), text: "early".into(), notes: Vec::new() };
        let shown = text(Path::new("/app"), vec![syntax.clone(), first, syntax]);
        let expected = "src/a.ts:2:1: early\n\nsrc/a.ts:7:10: Unexpected \";\"\n  \tlet ü = ;\n  \t        ^\n  a note";
        assert_eq!(plain(&shown), expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}here{}", "a".repeat(5000), "b".repeat(5000));
        let shown = plain(&excerpt(&at(1, 5000, 4, &line).unwrap()));
        let lines: Vec<&str> = shown.lines().skip(1).collect();
        assert_eq!(lines[0].len(), LINE_WIDTH + 2);
        let start = lines[0].find("here").unwrap();
        assert_eq!(lines[1], format!("{}^^^^", " ".repeat(start)));
    }

    #[test]
    fn too_many_mistakes_are_counted() {
        let many = (0..MAX_SHOWN + 7).map(|n| message(&format!("{n}"))).collect();
        assert!(text(Path::new("/app"), many).ends_with("\n\nand 7 more"));
    }

    #[test]
    fn an_import_that_is_not_found_has_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir_all(dir.join("node_modules/there")).unwrap();
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("package.json"), r#"{"devDependencies": {"@org/known": "1"}}"#).unwrap();
        let here = dir.display();
        for (import, text, help) in [
            ("hono", "the package `hono` is not installed", format!("run `npm install hono` in {here}")),
            ("hono/jsx", "the package `hono` is not installed", format!("run `npm install hono` in {here}")),
            ("@org/known/x", "the package `@org/known` is not installed", format!("run `npm install` in {here}")),
            ("there/x", "the package `there` has no module `there/x`", "correct the path".into()),
            ("./x", "there is no module `./x`", "write the file, or correct the path".into()),
            (
                "npm:@s/p@^1.2/a/b",
                "is Deno's way to name a package",
                format!("import `@s/p/a/b`, and run `npm install @s/p@^1.2` in {here}"),
            ),
            ("npm:p", "is Deno's way", format!("import `p`, and run `npm install p` in {here}")),
            (
                "jsr:@std/encoding@1/hex",
                "is Deno's way",
                format!("import `@std/encoding/hex`, and run `npx jsr add @std/encoding@1` in {here}"),
            ),
            ("https://x.org/a.ts", "is on the network", "copy the module".into()),
            ("node:nothing", "`node:nothing`: Node has none of this name", "correct the name".into()),
            ("cloudflare:workers", "`cloudflare:` names modules of another platform", "use the web's own".into()),
        ] {
            let message = message(&format!("{COULD_NOT_RESOLVE}\"{import}\""));
            let (said, remedy) = explained(dir, &message);
            assert!(said.contains(text), "{import}: {said}");
            assert!(remedy.as_ref().unwrap().starts_with(&help), "{import}: {remedy:?}");
        }
        fs::write(dir.join("pnpm-lock.yaml"), "").unwrap();
        let help = unresolved(dir, &dir.join("sub"), "hono").1;
        assert_eq!(help, format!("run `pnpm add hono` in {here}"));
    }

    #[test]
    fn a_package_has_a_name_a_version_and_a_path() {
        for (import, name, version, path) in [
            ("hono", "hono", None, ""),
            ("hono@4/jsx/dom", "hono", Some("4"), "/jsx/dom"),
            ("/hono@4", "hono", Some("4"), ""),
            ("@s/p", "@s/p", None, ""),
            ("@s/p@1.0.0/x", "@s/p", Some("1.0.0"), "/x"),
            ("@s", "@s", None, ""),
            ("", "", None, ""),
            ("@", "@", None, ""),
        ] {
            assert_eq!(Package::of(import), Package { name, version, path }, "{import}");
        }
    }

    #[test]
    fn files_that_cannot_be_imported_have_a_remedy() {
        for (text, expected) in [
            ("No loader is configured for \".node\" files: a.node", "native add-ons do not run"),
            ("No loader is configured for \".html\" files: a.html", "with { type: \"text\" }"),
            ("No matching export in \"src/b.ts\" for import \"x\"", "export it there"),
            (NOT_UTF8, "save it as UTF-8"),
        ] {
            assert!(explained(Path::new("/app"), &message(text)).1.unwrap().contains(expected), "{text}");
        }
        assert_eq!(explained(Path::new("/app"), &message("Unexpected end")).1, None);
    }
}
