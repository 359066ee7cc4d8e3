//! The command line: the verbs, and the arguments that several of them share.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use minnow_model::{AppName, manifest::FILE_NAME};

use crate::{client::Client, credentials, project::Project, report::Failure, verb};

/// Where the data listener is when nothing else is said.
pub const DEFAULT_HTTP: &str = "127.0.0.1:7700";
/// Where the admin listener (the control API) is when nothing else is said.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:7701";

/// A Lambda that you host yourself: JavaScript and WebAssembly functions behind one gateway.
#[derive(Debug, Parser)]
#[command(
    name = "minnow",
    version,
    about = "A Lambda that you host yourself: JavaScript and WebAssembly functions behind one gateway",
    arg_required_else_help = true,
    after_help = "A first app in two commands:
  minnow new hello
  minnow dev hello

On to a server of your own:
  minnow node --data-dir /var/lib/minnow           on the server
  minnow login http://127.0.0.1:7701               where you work
  minnow publish 0.1.0
  minnow deploy 0.1.0
  minnow rollback                                  if it was a mistake

Exit codes: 0 done, 1 failed, 2 wrong usage.
`minnow VERB --help` has examples for each verb."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    New(verb::new::NewArgs),
    Build(verb::build::BuildArgs),
    Types(verb::types::TypesArgs),
    Dev(verb::dev::DevArgs),
    Node(verb::node::NodeArgs),
    Setup(verb::setup::SetupArgs),
    Login(verb::login::LoginArgs),
    Logout(verb::logout::LogoutArgs),
    Publish(verb::publish::PublishArgs),
    Deploy(verb::deploy::DeployArgs),
    Rollback(verb::rollback::RollbackArgs),
    Apps(verb::apps::AppsArgs),
    Versions(verb::versions::VersionsArgs),
    Status(verb::status::StatusArgs),
    Delete(verb::delete::DeleteArgs),
    Config(verb::config::ConfigArgs),
    Secret(verb::secret::SecretArgs),
    Kv(verb::kv::KvArgs),
    Blob(verb::blob::BlobArgs),
    Sql(verb::sql::SqlArgs),
    Topic(verb::topic::TopicArgs),
    Schedule(verb::schedule::ScheduleArgs),
    Run(verb::run::RunArgs),
    Usage(verb::usage::UsageArgs),
    Backup(verb::backup::BackupArgs),
    Restore(verb::restore::RestoreArgs),
    Logs(verb::logs::LogsArgs),
    Invoke(verb::invoke::InvokeArgs),
    Completions(verb::completions::CompletionsArgs),
}

impl Cli {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            Verb::New(_) | Verb::Build(_) | Verb::Types(_) | Verb::Dev(_) | Verb::Node(_) | Verb::Completions(_) => {
                false
            }
            Verb::Setup(args) => args.json.json,
            Verb::Login(args) => args.json.json,
            Verb::Logout(args) => args.json.json,
            Verb::Publish(args) => args.json.json,
            Verb::Deploy(args) => args.json.json,
            Verb::Rollback(args) => args.json.json,
            Verb::Apps(args) => args.json.json,
            Verb::Versions(args) => args.json.json,
            Verb::Status(args) => args.json.json,
            Verb::Delete(args) => args.json.json,
            Verb::Config(args) => args.wants_json(),
            Verb::Secret(args) => args.wants_json(),
            Verb::Kv(args) => args.wants_json(),
            Verb::Blob(args) => args.wants_json(),
            Verb::Sql(args) => args.wants_json(),
            Verb::Topic(args) => args.wants_json(),
            Verb::Schedule(args) => args.wants_json(),
            Verb::Run(args) => args.wants_json(),
            Verb::Usage(args) => args.json.json,
            Verb::Backup(args) => args.json.json,
            Verb::Restore(args) => args.json.json,
            Verb::Logs(args) => args.json.json,
            Verb::Invoke(args) => args.json.json,
        }
    }

    /// Does what was asked.
    pub fn run(self) -> anyhow::Result<()> {
        match self.verb {
            Verb::New(args) => verb::new::run(&args),
            Verb::Build(args) => block_on(verb::build::run(args)),
            Verb::Types(args) => verb::types::run(&args),
            Verb::Dev(args) => verb::dev::run(args),
            Verb::Node(args) => verb::node::run(args),
            Verb::Setup(args) => block_on(verb::setup::run(args)),
            Verb::Login(args) => block_on(verb::login::run(args)),
            Verb::Logout(args) => verb::logout::run(&args),
            Verb::Publish(args) => block_on(verb::publish::run(args)),
            Verb::Deploy(args) => block_on(verb::deploy::run(args)),
            Verb::Rollback(args) => block_on(verb::rollback::run(args)),
            Verb::Apps(args) => block_on(verb::apps::run(args)),
            Verb::Versions(args) => block_on(verb::versions::run(args)),
            Verb::Status(args) => block_on(verb::status::run(args)),
            Verb::Delete(args) => block_on(verb::delete::run(args)),
            Verb::Config(args) => block_on(verb::config::run(args)),
            Verb::Secret(args) => block_on(verb::secret::run(args)),
            Verb::Kv(args) => block_on(verb::kv::run(args)),
            Verb::Blob(args) => block_on(verb::blob::run(args)),
            Verb::Sql(args) => block_on(verb::sql::run(args)),
            Verb::Topic(args) => block_on(verb::topic::run(args)),
            Verb::Schedule(args) => block_on(verb::schedule::run(args)),
            Verb::Run(args) => block_on(verb::run::run(args)),
            Verb::Usage(args) => block_on(verb::usage::run(args)),
            Verb::Backup(args) => block_on(verb::backup::run(args)),
            Verb::Restore(args) => block_on(verb::restore::run(args)),
            Verb::Logs(args) => block_on(verb::logs::run(args)),
            Verb::Invoke(args) => block_on(verb::invoke::run(args)),
            Verb::Completions(args) => verb::completions::run(&args),
        }
    }
}

/// Runs a verb that is a client: one thread is enough.
fn block_on(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(verb);
    // A thread that waits for stdin is not waited for.
    runtime.shutdown_background();
    done
}

/// The node that a verb talks to.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The node's control API. Default: the server of the last `minnow login`, else http://127.0.0.1:7701.
    /// The token comes from MINNOW_TOKEN or from `minnow login`
    #[arg(long, value_name = "URL", env = "MINNOW_SERVER", hide_env_values = true)]
    server: Option<String>,
}

impl ServerArgs {
    /// A client for the node, with its token.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(credentials::resolve(self.server.as_deref())?.client()?)
    }
}

/// The app that a verb is about, for verbs whose first argument it is.
#[derive(Debug, Args)]
pub struct AppArgs {
    /// The app. Default: the one whose minnow.toml is in --app-dir
    #[arg(value_name = "APP", conflicts_with_all = ["app_flag", "app_dir"])]
    app: Option<AppName>,
    #[command(flatten)]
    flags: AppFlags,
}

impl AppArgs {
    /// The app's name, read from the manifest when it was not given.
    pub fn name(&self) -> anyhow::Result<AppName> {
        self.app.clone().map_or_else(|| self.flags.name(), Ok)
    }
}

/// The app that a verb is about, for verbs whose first argument is a version.
#[derive(Debug, Args)]
pub struct AppFlags {
    /// The app by its name
    #[arg(id = "app_flag", long = "app", value_name = "NAME", conflicts_with = "app_dir")]
    app: Option<AppName>,
    /// The folder with the app's minnow.toml [default: .]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    app_dir: Option<PathBuf>,
}

impl AppFlags {
    /// The app's name, read from the manifest when it was not given.
    pub fn name(&self) -> anyhow::Result<AppName> {
        match &self.app {
            Some(app) => Ok(app.clone()),
            None => Ok(self.project()?.manifest().name.clone()),
        }
    }

    /// Whether the app was named, so that no manifest is needed.
    pub fn is_named(&self) -> bool {
        self.app.is_some()
    }

    /// The project in `--app-dir`.
    pub fn project(&self) -> anyhow::Result<Project> {
        if self.app_dir.is_none() && !Path::new(FILE_NAME).exists() {
            return Err(Failure::new(format!("no app is named, and there is no {FILE_NAME} here"))
                .help("name the app with `--app NAME`, or its folder with `--app-dir DIR`")
                .into());
        }
        let dir = self.app_dir.clone().unwrap_or_else(|| ".".into());
        Project::load(&dir)
    }
}

/// Asks for JSON.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonArg {
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_summary_and_examples() {
        let command = Cli::command();
        let of_verb = |verb: &clap::Command| -> Vec<clap::Command> {
            let below = verb.get_subcommands().flat_map(|verb| verb.get_subcommands().chain([verb]));
            below.chain([verb]).cloned().collect()
        };
        for verb in command.get_subcommands().flat_map(of_verb) {
            assert!(verb.get_about().is_some(), "{} has no summary", verb.get_name());
            let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Examples:"), "{} has no examples", verb.get_name());
        }
    }

    #[test]
    fn arguments_are_accepted_or_refused() {
        let cases: &[(&[&str], bool)] = &[
            (&["new", "hello"], true),
            (&["new", "Hello"], false),
            (&["build"], true),
            (&["build", "dir"], true),
            (&["dev"], true),
            (&["dev", "dir", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"], true),
            (&["dev", "--http", "nonsense"], false),
            (&["node"], true),
            (&["node", "--data-dir"], false),
            (&["node", "--data-dir", "d"], true),
            (&["node", "--data-dir", "d", "--http", "0.0.0.0:80", "--admin", "127.0.0.1:1", "--domain", "x.org"], true),
            (&["setup"], false),
            (&["setup", "js", "--json"], true),
            (&["setup", "java"], false),
            (&["login"], true),
            (&["login", "http://127.0.0.1:7701", "--token-file", "t"], true),
            (&["login", "--status", "--json"], true),
            (&["login", "--status", "--token-file", "t"], false),
            (&["login", "--token", "secret"], false),
            (&["login", "--list", "--json"], true),
            (&["login", "--switch", "http://h"], true),
            (&["login", "--switch"], false),
            (&["login", "http://h", "--switch", "--token-file", "t"], false),
            (&["logout"], true),
            (&["logout", "http://h", "--json"], true),
            (&["logout", "--server", "http://h"], true),
            (&["logout", "--all"], true),
            (&["logout", "http://h", "--all"], false),
            (&["node", "--data-dir", "d", "--domain", "*.x.org"], false),
            (&["publish", "0.1.0", "--app-dir", "d", "--json"], true),
            (&["publish", "one"], false),
            (&["deploy", "0.1.0", "--weight", "10"], true),
            (&["deploy", "0.1.0", "--weight", "0"], false),
            (&["deploy", "0.1.0", "--weight", "101"], false),
            (&["deploy", "--app", "a", "--app-dir", "d"], false),
            (&["rollback", "hello", "--json"], true),
            (&["rollback", "--app", "hello"], true),
            (&["rollback", "hello", "--app", "hello"], false),
            (&["versions", "hello", "--app-dir", "d"], false),
            (&["apps", "--json", "--server", "http://x"], true),
            (&["status"], true),
            (&["delete", "hello", "--version", "0.1.0", "--yes"], true),
            (&["delete", "0.1.0"], false),
            (&["config"], false),
            (&["config", "set", "A=1", "B=", "--app", "hello", "--json"], true),
            (&["config", "set"], false),
            (&["config", "set", "A"], false),
            (&["config", "set", "a=1"], false),
            (&["config", "unset", "A", "B", "--app-dir", "d"], true),
            (&["config", "unset"], false),
            (&["config", "list", "--json"], true),
            (&["config", "history", "--app", "hello"], true),
            (&["secret", "set", "A", "--app", "hello"], true),
            (&["secret", "set", "A", "value"], false),
            (&["secret", "set", "A=value"], false),
            (&["secret", "list", "--json"], true),
            (&["secret", "delete", "A"], true),
            (&["secret", "rotate", "--json"], true),
            (&["kv", "set", "a/b", "k", "v", "--ttl", "1s"], true),
            (&["kv", "set", "a/b", "k", "v", "--ttl", "0s"], false),
            (&["kv", "set", "a/b", "k", "v", "--ttl", "10ms"], false),
            (&["blob"], false),
            (&["blob", "put", "a/b", "k"], true),
            (&["blob", "put", "a/b", "k", "-", "--metadata", "by=Ada", "--metadata", "x=", "--json"], true),
            (&["blob", "put", "a/b", "k", "f", "--metadata", "by"], false),
            (&["blob", "get", "b", "k", "f", "--force"], true),
            (&["blob", "get", "a/b"], false),
            (&["blob", "list", "a/b", "p/", "--delimiter", "/", "--limit", "5"], true),
            (&["blob", "list", "a/b", "--delimiter", ""], false),
            (&["blob", "delete", "a/b"], false),
            (&["blob", "sign", "a/b", "k", "--expires", "7d"], true),
            (&["blob", "sign", "a/b", "k", "--expires", "0s"], false),
            (&["blob", "sign", "a/b", "k", "--max-size", "1MiB"], false),
            (&["blob", "sign", "a/b", "k", "--put", "--max-size", "1MiB", "--content-type", "a/b"], true),
            (&["topic"], false),
            (&["topic", "list", "shop", "--json"], true),
            (&["topic", "info", "shop/orders"], true),
            (&["topic", "info", "orders", "--app", "shop"], true),
            (&["topic", "publish", "shop/orders", "{}", "--key", "ada", "--type", "order.created"], true),
            (&["topic", "publish", "shop/orders", "{}", "--file", "f"], false),
            (&["topic", "publish", "shop/orders", "--attribute", "a=b", "--delay", "10m"], true),
            (&["topic", "publish", "shop/orders", "--attribute", "a_b=c"], false),
            (&["topic", "tail", "shop/orders", "-f", "--limit", "5"], true),
            (&["topic", "tail", "shop/orders", "--limit", "0"], false),
            (&["topic", "replay", "shop/orders", "--function", "f", "--position", "1"], true),
            (&["topic", "replay", "shop/orders", "--function", "f", "--since", "1h"], true),
            (&["topic", "replay", "shop/orders", "--function", "f"], false),
            (&["topic", "replay", "shop/orders", "--position", "1"], false),
            (&["topic", "dead"], false),
            (&["topic", "dead", "list", "orders", "--app", "shop", "--json"], true),
            (&["topic", "dead", "show", "shop/orders", "3"], true),
            (&["topic", "dead", "show", "shop/orders"], false),
            (&["topic", "dead", "retry", "shop/orders", "3", "4"], true),
            (&["topic", "dead", "retry", "shop/orders", "--function", "f"], true),
            (&["topic", "dead", "retry", "shop/orders", "3", "--function", "f"], false),
            (&["topic", "dead", "drop", "shop/orders"], false),
            (&["schedule"], false),
            (&["schedule", "list", "shop", "--json"], true),
            (&["schedule", "run", "nightly", "--app", "shop", "--function", "f"], true),
            (&["schedule", "run", "My Job"], false),
            (&["logs", "hello", "-f", "--since", "10m"], true),
            (&["logs", "hello", "--since", "yesterday"], false),
            (&["logs", "hello", "--limit", "0"], true),
            (&["logs", "hello", "--limit", "10000"], true),
            (&["logs", "hello", "--limit", "10001"], false),
            (&["invoke", "hello/api", "-X", "POST", "-H", "a: b", "-H", "c: d", "-d", "{}", "--path", "/x"], true),
            (&["invoke", "hello"], false),
            (&["invoke", "hello/api", "-H", "nocolon"], false),
            (&["backup"], false),
            (&["backup", "dir"], true),
            (&["backup", "shop", "blog", "both.tar.zst", "--json"], true),
            (&["restore"], false),
            (&["restore", "f", "--app", "shop", "--as", "new", "--replace", "--json"], true),
            (&["restore", "f", "--as", "New"], false),
            (&["restore", "f", "g"], false),
            (&["completions", "bash"], true),
            (&["completions", "cmd.exe"], false),
            (&["unknown"], false),
            (&[], false),
        ];
        for (args, good) in cases {
            let parsed = Cli::try_parse_from(std::iter::once(&"minnow").chain(*args));
            assert_eq!(parsed.is_ok(), *good, "{args:?}: {:?}", parsed.err().map(|error| error.to_string()));
        }
    }
}
