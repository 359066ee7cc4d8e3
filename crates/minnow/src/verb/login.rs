//! `minnow login`: checks a node's token and stores it.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use minnow_control::api_types::NodeInfo;
use reqwest::Url;
use serde::Serialize;

use crate::{
    cli::{DEFAULT_ADMIN, JsonArg},
    client::{Client, is_loopback},
    credentials::{self, Credentials, Login, Source},
    output::{self, BOLD, DIM, GREEN},
    report::{self, Failure},
};

/// A token is far shorter; whatever is longer was not meant.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Store the token for a node, after checking it
#[derive(Debug, Args)]
#[command(
    long_about = "Store the token for a node, after checking it.

The token is asked for without showing it, or read from stdin when that is a pipe, or from --token-file. A node writes an \
admin token to DATA_DIR/admin.token when it first starts. It is stored in $XDG_CONFIG_HOME/minnow/credentials.toml \
(~/.config without that variable), readable by you alone.

The server of the last login is the default: every verb goes there unless --server or MINNOW_SERVER names another. Tokens of \
other servers stay stored. --list shows them, --switch makes another one the default, `minnow logout` forgets one.",
    after_help = "Examples:
  minnow login http://127.0.0.1:7701
  minnow login http://127.0.0.1:7701 --token-file /var/lib/minnow/admin.token
  ssh box sudo cat /var/lib/minnow/admin.token | minnow login https://node.example.org
  minnow login --list                   every server with a stored token, and which is the default
  minnow login --switch https://node.example.org
  minnow login --status                 which node, and does the token work?"
)]
pub struct LoginArgs {
    /// The node's control API. Default: MINNOW_SERVER, the server of the last login, or http://127.0.0.1:7701
    #[arg(value_name = "SERVER", env = "MINNOW_SERVER", hide_env = true)]
    server: Option<String>,
    /// Read the token from a file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    token_file: Option<PathBuf>,
    /// Show which node the verbs talk to and check the token; store nothing
    #[arg(long, conflicts_with = "token_file")]
    status: bool,
    /// Show every server with a stored token, and which is the default
    #[arg(long, conflicts_with_all = ["token_file", "status"])]
    list: bool,
    /// Make a server whose token is stored the default
    #[arg(long, requires = "server", conflicts_with_all = ["token_file", "status", "list"])]
    switch: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Serialize)]
struct LoginStatus {
    server: String,
    server_from: Source,
    token_from: Source,
    node: NodeInfo,
}

/// One server in `--list`.
#[derive(Serialize)]
struct Listed<'a> {
    server: &'a str,
    default: bool,
}

pub async fn run(args: LoginArgs) -> anyhow::Result<()> {
    if args.status {
        status(&args).await
    } else if args.list {
        list(&args)
    } else if args.switch {
        switch(&args)
    } else {
        login(&args).await
    }
}

async fn status(args: &LoginArgs) -> anyhow::Result<()> {
    let connection = credentials::resolve(args.server.as_deref())?;
    let (server, token_from, server_from) =
        (credentials::key(&connection.server), connection.token_source, connection.server_source);
    let node = connection.client()?.node().await?;
    if args.json.json {
        return output::json(&LoginStatus { server, server_from, token_from, node });
    }
    let from = |source| match source {
        Source::Given => "from the environment or the command line",
        Source::Login => "from minnow login",
        Source::Default => "the default",
    };
    output::line(format_args!("server  {BOLD}{server}{BOLD:#}  {DIM}{}{DIM:#}", from(server_from)))?;
    output::line(format_args!("token   {GREEN}works{GREEN:#}  {DIM}{}{DIM:#}", from(token_from)))?;
    show(&node)
}

fn list(args: &LoginArgs) -> anyhow::Result<()> {
    let stored = Credentials::load(&credentials::path()?)?;
    let is_default = |server: &String| stored.server.as_ref() == Some(server);
    if args.json.json {
        let servers = stored.servers.keys().map(|server| Listed { server, default: is_default(server) });
        return output::json(&servers.collect::<Vec<_>>());
    }
    if stored.servers.is_empty() {
        output::line(format_args!("{DIM}no tokens are stored; `minnow login SERVER` stores one{DIM:#}"))?;
    } else {
        let mut table = output::table(&["server", "default"]);
        for server in stored.servers.keys() {
            table.add_row([server.as_str(), if is_default(server) { "yes" } else { "" }]);
        }
        output::print_table(table)?;
    }
    if let Some(server) = credentials::variable("MINNOW_SERVER") {
        output::line(format_args!("{DIM}MINNOW_SERVER is set, so verbs go to {server}{DIM:#}"))?;
    }
    Ok(())
}

/// Makes a server the default whose token is there. Nothing is sent, so it also works while the server cannot be reached.
fn switch(args: &LoginArgs) -> anyhow::Result<()> {
    let path = credentials::path()?;
    let mut stored = Credentials::load(&path)?;
    let server = credentials::key(&credentials::parse_server(args.server.as_deref().unwrap_or_default())?);
    if !stored.servers.contains_key(&server) {
        return Err(Failure::new(format!("there is no stored token for {server}"))
            .help(format!("run `minnow login {server}`; `minnow login --list` shows the servers with one"))
            .into());
    }
    let before = stored.server.replace(server.clone());
    stored.save(&path)?;
    if args.json.json {
        return output::json(&Listed { server: &server, default: true });
    }
    show_default(&server, before.as_deref())
}

async fn login(args: &LoginArgs) -> anyhow::Result<()> {
    let path = credentials::path()?;
    let stored = Credentials::load(&path)?;
    let given = args.server.as_ref().filter(|server| !server.is_empty());
    let server = match (given, &stored.server) {
        (Some(server), _) | (None, Some(server)) => credentials::parse_server(server)?,
        (None, None) => credentials::parse_server(DEFAULT_ADMIN)?,
    };
    // A wrong address should neither cost a typed token nor be told one.
    Client::new(server.clone(), None)?.find().await?;
    if server.scheme() == "http" && !is_loopback(&server) {
        report::warn(format_args!(
            "{} is plain http: the token and what you publish can be read on the way",
            credentials::key(&server)
        ));
    }
    let token = read_token(args.token_file.as_deref(), &server)?;
    let client = Client::new(server.clone(), Some(token.clone()))?.with_remedy(remedy(args.token_file.as_deref()));
    let node = client.node().await?;
    let key = credentials::key(&server);
    // Again: while the token was asked for, another command may have stored one.
    let mut stored = Credentials::load(&path)?;
    stored.servers.insert(key.clone(), Login { token });
    let before = stored.server.replace(key.clone());
    stored.save(&path)?;
    if args.json.json {
        return output::json(&LoginStatus { server: key, server_from: Source::Login, token_from: Source::Login, node });
    }
    output::line(format_args!("{GREEN}logged in{GREEN:#} to {BOLD}{key}{BOLD:#}  {DIM}{}{DIM:#}", path.display()))?;
    show(&node)?;
    show_default(&key, before.as_deref())
}

/// Says where verbs go from now on, and how to undo that where they went elsewhere before.
fn show_default(server: &str, before: Option<&str>) -> anyhow::Result<()> {
    output::line(format_args!("default {BOLD}{server}{BOLD:#}: every verb goes there from now on"))?;
    if let Some(before) = before.filter(|before| *before != server) {
        output::line(format_args!("        {DIM}it was {before}; back: minnow login --switch {before}{DIM:#}"))?;
    }
    let elsewhere = credentials::variable("MINNOW_SERVER")
        .filter(|given| credentials::parse_server(given).map_or(true, |given| credentials::key(&given) != server));
    if let Some(elsewhere) = elsewhere {
        report::warn(format_args!("MINNOW_SERVER is set to {elsewhere} and takes precedence"));
    }
    if credentials::variable("MINNOW_TOKEN").is_some() {
        report::warn("MINNOW_TOKEN is set and takes precedence over the stored token");
    }
    Ok(())
}

fn show(node: &NodeInfo) -> anyhow::Result<()> {
    let default_app = node.default_app.as_ref().map(|app| format!(", default app {app}")).unwrap_or_default();
    output::line(format_args!(
        "node    minnow {}, apps at APP.{} on {}{default_app}",
        node.version, node.domain, node.http
    ))
}

/// What to do when the node refuses the token that was given.
fn remedy(file: Option<&Path>) -> String {
    let given = file.map_or_else(|| "that was given".into(), |file| format!("in {}", file.display()));
    format!(
        "the token {given} is not one of the node's; an admin token is in the node's DATA_DIR/admin.token (of `minnow dev`: \
         DIR/.minnow/admin.token)"
    )
}

/// The token from a file, a pipe or the terminal.
fn read_token(file: Option<&Path>, server: &Url) -> anyhow::Result<String> {
    let text = match file {
        Some(path) => fs::File::open(path).and_then(read_bounded).with_context(|| {
            Failure::new(format!("cannot read the token file {}", path.display()))
                .help("a node writes its admin token to DATA_DIR/admin.token, readable by its own user only")
        })?,
        None if io::stdin().is_terminal() => {
            let terminal = console::Term::stderr();
            terminal.write_str(&format!("Token for {}: ", credentials::key(server)))?;
            terminal.read_secure_line().context("cannot read the token")?
        }
        None => read_bounded(io::stdin()).context("cannot read the token from stdin")?,
    };
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::new("no token was given")
            .help("give the content of the node's DATA_DIR/admin.token: at the prompt, through a pipe, or with --token-file")
            .into());
    }
    Ok(token.to_owned())
}

fn read_bounded(from: impl io::Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
