//! `minnow logout`: forgets a stored token.

use clap::Args;
use serde::Serialize;

use crate::{
    cli::JsonArg,
    credentials::{self, Credentials},
    output::{self, BOLD, DIM, GREEN},
    report::{self, Failure},
};

/// Forget the token for a node
#[derive(Debug, Args)]
#[command(
    long_about = "Forget the token for a node.

Takes what `minnow login` stored for a server out of the login file, and the file itself with the last one. The token goes on \
working where else it is kept: docs/operations.md says how to delete it on the node.

When the default server goes, none is the default until the next login or `minnow login --switch SERVER`.",
    after_help = "Examples:
  minnow logout                                  the default server
  minnow logout https://node.example.org
  minnow logout --all"
)]
pub struct LogoutArgs {
    /// The server. Default: MINNOW_SERVER, or the server of the last login
    #[arg(value_name = "SERVER", conflicts_with_all = ["server_flag", "all"])]
    server: Option<String>,
    /// The server, as the other verbs take it
    #[arg(id = "server_flag", long = "server", value_name = "URL", conflicts_with = "all")]
    server_flag: Option<String>,
    /// Forget every server
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Serialize)]
struct LoggedOut {
    removed: Vec<String>,
    /// The server that verbs go to now, where one is stored.
    default: Option<String>,
}

pub fn run(args: &LogoutArgs) -> anyhow::Result<()> {
    let path = credentials::path()?;
    let mut stored = Credentials::load(&path)?;
    let given = args.server.clone().or_else(|| args.server_flag.clone());
    let given = given.or_else(|| credentials::variable("MINNOW_SERVER").filter(|_| !args.all));
    let removed = if args.all {
        stored.server = None;
        std::mem::take(&mut stored.servers).into_keys().collect()
    } else {
        vec![remove(&mut stored, given.as_deref())?]
    };
    stored.save(&path)?;
    if args.json.json {
        return output::json(&LoggedOut { removed, default: stored.server });
    }
    if removed.is_empty() {
        return output::line(format_args!("{DIM}no tokens are stored{DIM:#}"));
    }
    for server in &removed {
        output::line(format_args!(
            "{GREEN}logged out{GREEN:#} of {BOLD}{server}{BOLD:#}  {DIM}{}{DIM:#}",
            path.display()
        ))?;
    }
    output::line(format_args!(
        "{DIM}the token is forgotten here and still works on the node until it is deleted there{DIM:#}"
    ))?;
    if stored.server.is_none()
        && let Some(left) = stored.servers.keys().next()
    {
        output::line(format_args!("no server is the default now; to choose one: minnow login --switch {left}"))?;
    }
    if credentials::variable("MINNOW_TOKEN").is_some() {
        report::warn("MINNOW_TOKEN is set and still used");
    }
    Ok(())
}

/// Takes one server out: the one that was named, or the default. Gives its name.
fn remove(stored: &mut Credentials, given: Option<&str>) -> anyhow::Result<String> {
    let server = match (given, &stored.server) {
        (Some(given), _) => credentials::key(&credentials::parse_server(given)?),
        (None, Some(default)) => default.clone(),
        (None, None) => {
            return Err(Failure::new("no server is the default, so there is nothing to log out of")
                .help("name one; `minnow login --list` shows the servers with a stored token")
                .into());
        }
    };
    if stored.servers.remove(&server).is_none() {
        return Err(Failure::new(format!("there is no stored token for {server}"))
            .help("`minnow login --list` shows the servers with one")
            .into());
    }
    if stored.server.as_ref() == Some(&server) {
        stored.server = None;
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Login;

    #[test]
    fn only_the_server_that_is_meant_is_forgotten() {
        let stored = |default: Option<&str>| Credentials {
            server: default.map(Into::into),
            servers: ["http://127.0.0.1:1", "https://a.example"]
                .map(|server| (server.into(), Login { token: "t".into() }))
                .into(),
        };
        for (default, given, expected, default_after) in [
            (Some("https://a.example"), None, Some("https://a.example"), None),
            (Some("https://a.example"), Some("127.0.0.1:1"), Some("http://127.0.0.1:1"), Some("https://a.example")),
            (Some("https://a.example"), Some("https://a.example/"), Some("https://a.example"), None),
            (Some("https://a.example"), Some("https://b.example"), None, Some("https://a.example")),
            (None, None, None, None),
        ] {
            let mut stored = stored(default);
            let removed = remove(&mut stored, given).ok();
            assert_eq!(removed.as_deref(), expected, "{default:?} {given:?}");
            assert_eq!(stored.server.as_deref(), default_after, "{default:?} {given:?}");
            assert_eq!(stored.servers.len(), if expected.is_some() { 1 } else { 2 });
        }
    }
}
