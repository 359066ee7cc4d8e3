//! `minnow types`: the types of what an app's functions find in `env`.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use minnow_model::{FunctionName, Manifest, StoreGrant, StoreKind, grant::LOCKS_VARIABLE, manifest::Function};

use crate::{output, project::Project, report::Failure};

/// What every app's file begins with: the types of stores and locks, and of what a function is and gets.
const COMMON: &str = include_str!("../../../../sdk/js/minnow.d.ts");

/// Write TypeScript types for what the app's functions find in `env`
#[derive(Debug, Args)]
#[command(
    long_about = "Write TypeScript types for what the app's functions find in `env`.

Each function in JavaScript or TypeScript gets an interface with its variables, stores, locks and secrets, as the manifest \
grants them: `ApiEnv` for the function `api`. Where there is one such function, `Env` is the same. What is granted with `:ro` \
has no methods that write. Run it again after a change of the manifest.",
    after_help = "Examples:
  minnow types                                 writes minnow.d.ts in this folder
  minnow types examples/tour                   the same for the app in another one
  minnow types examples/hono --out env.d.ts    into another file

Then in TypeScript, here in a file of src/:
  import type { Env, Handler } from \"../minnow.d.ts\";
  export default {
    async fetch(request, env, ctx) { … },
  } satisfies Handler<Env>;"
)]
pub struct TypesArgs {
    /// The folder with the app's minnow.toml
    #[arg(value_name = "DIR", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// The file to write. Default: minnow.d.ts in the app's folder
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: Option<PathBuf>,
}

pub fn run(args: &TypesArgs) -> anyhow::Result<()> {
    let project = Project::load(&args.dir)?;
    let Some(text) = of(project.manifest()) else {
        let help = "only functions with `js` have an `env`; those of WebAssembly use their language's bindings";
        return Err(Failure::new("the app has no function in JavaScript or TypeScript").help(help).into());
    };
    let out = args.out.clone().unwrap_or_else(|| project.dir.join("minnow.d.ts"));
    write(&out, &text)?;
    output::line(format_args!("wrote {}", out.display()))?;
    Ok(())
}

/// What a file begins with that this verb has written, of any release: how one is told from what somebody else wrote.
const HEAD: &str = "/**\n * What a Minnow function in JavaScript or TypeScript finds in `env` and `ctx`.\n";

/// Whether writing there destroys nothing: nothing is there, or it is empty, a device, or what this verb has written before.
fn is_ours(path: &Path) -> io::Result<bool> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
        Ok(there) if !there.is_file() || there.len() == 0 => return Ok(true),
        Ok(_) => {}
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD.len() as u64).read_to_end(&mut head)?;
    Ok(head == HEAD.as_bytes())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if !is_ours(path).with_context(|| format!("cannot read {}", path.display()))? {
        return Err(Failure::new(format!("{} is there, and `minnow types` has not written it", path.display()))
            .help("move or delete it, or name another file with --out")
            .into());
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The types of an app; `None` where no function is in JavaScript.
pub(super) fn of(manifest: &Manifest) -> Option<String> {
    let functions: Vec<(&FunctionName, &Function)> =
        manifest.functions.iter().filter(|(_, function)| function.code.is_js()).collect();
    if functions.is_empty() { None } else { Some(text(&functions)) }
}

fn text(functions: &[(&FunctionName, &Function)]) -> String {
    let mut text = COMMON.to_owned();
    for (name, function) in functions {
        let interface = interface_name(name);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n/** `env` of the function `{name}`. */\nexport interface {interface} {{");
        for (variable, kind) in variables(function) {
            let _ = writeln!(text, "  {variable}: {kind};");
        }
        text.push_str("}\n");
    }
    if let [(name, _)] = functions {
        let _ = writeln!(text, "\nexport type Env = {};", interface_name(name));
    }
    text
}

/// Each name in `env`, written as TypeScript takes it, and its type.
fn variables(function: &Function) -> Vec<(String, &'static str)> {
    let grants = &function.grants;
    let mut all: Vec<(String, &'static str)> = Vec::new();
    all.extend(function.env.keys().map(|name| (name.clone(), "string")));
    all.extend(grants.secrets.iter().map(|name| (name.to_string(), "string")));
    for (kind, whole, readonly) in [
        (StoreKind::Kv, "KvNamespace", "ReadonlyKvNamespace"),
        (StoreKind::Sql, "Database", "ReadonlyDatabase"),
        (StoreKind::Blob, "Bucket", "ReadonlyBucket"),
        // No grant of a topic is only for reading.
        (StoreKind::Topic, "Topic", "Topic"),
        (StoreKind::Files, "Volume", "ReadonlyVolume"),
    ] {
        let typed = |grant: &StoreGrant| (grant.variable(), if grant.read_only { readonly } else { whole });
        all.extend(grants.stores(kind).map(typed));
    }
    if grants.locks {
        all.push((LOCKS_VARIABLE.to_owned(), "Locks"));
    }
    all.sort_unstable();
    all.into_iter().map(|(name, kind)| (property(&name), kind)).collect()
}

/// A name as the key of a property: quoted where it is no identifier.
fn property(name: &str) -> String {
    let is_identifier = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'));
    if is_identifier { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

/// `order-log` → `OrderLogEnv`. A name may begin with a digit, which an identifier may not.
fn interface_name(name: &FunctionName) -> String {
    let mut text = String::new();
    for part in name.as_str().split('-').filter(|part| !part.is_empty()) {
        let mut letters = part.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text + "Env"
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
name = "shop"
[kv.order-log]
[sql.main]
[blob.uploads]
[blob.old]
[topic.new-orders]
[files.data]
[files.media]
[lock]
[functions.web-api]
js = "api.ts"
env = { GREETING = "hi", "odd.name" = "x" }
kv = ["order-log:ro", "shop-two/items"]
sql = ["main", "shop-two/main:ro"]
blob = ["uploads", "old:ro"]
files = { data = "/data", "media:ro" = "/media" }
locks = true
publish = ["new-orders"]
secrets = ["STRIPE_KEY"]
[functions.other]
wasm = "other.wasm"
"#;

    #[test]
    fn each_function_in_javascript_gets_its_env() {
        let manifest = Manifest::parse(MANIFEST, "minnow.toml").unwrap().manifest;
        let text = of(&manifest).unwrap();
        let expected = "
/** `env` of the function `web-api`. */
export interface WebApiEnv {
  DATA: Volume;
  GREETING: string;
  LOCKS: Locks;
  MAIN: Database;
  MEDIA: ReadonlyVolume;
  NEW_ORDERS: Topic;
  OLD: ReadonlyBucket;
  ORDER_LOG: ReadonlyKvNamespace;
  SHOP_TWO_ITEMS: KvNamespace;
  SHOP_TWO_MAIN: ReadonlyDatabase;
  STRIPE_KEY: string;
  UPLOADS: Bucket;
  \"odd.name\": string;
}

export type Env = WebApiEnv;
";
        assert!(text.starts_with(COMMON));
        assert_eq!(text.strip_prefix(COMMON).unwrap(), expected);
    }

    #[test]
    fn what_somebody_else_wrote_is_not_replaced() {
        assert!(COMMON.starts_with(HEAD));
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("env.d.ts");
        write(&path, COMMON).unwrap();
        write(&path, COMMON).unwrap();
        std::fs::write(&path, "").unwrap();
        write(&path, COMMON).unwrap();
        write(Path::new("/dev/null"), COMMON).unwrap();
        for theirs in ["export default {};", "/"] {
            std::fs::write(&path, theirs).unwrap();
            assert!(write(&path, COMMON).unwrap_err().to_string().contains("has not written it"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), theirs);
        }
    }

    #[test]
    fn a_name_that_begins_with_a_digit_is_an_identifier_too() {
        assert_eq!(interface_name(&"2nd-try".parse().unwrap()), "_2ndTryEnv");
    }
}
