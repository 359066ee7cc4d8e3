//! `minnow node`: runs a node.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use minnow_model::AppName;
use minnow_node::{Config, ConfigError, Domain, Node, Overrides};

use crate::{
    node_log,
    output::{self, BOLD, DIM, GREEN},
    report::Failure,
    signals::Signals,
};

/// Run a node: the gateway for apps and the control API
#[derive(Debug, Args)]
#[command(
    long_about = "Run a node: the gateway for apps and the control API.

Apps answer by host name on --http: APP.localhost, or APP.DOMAIN with --domain. The control API answers on --admin and wants \
a token; the first start writes an admin token to DATA_DIR/admin.token. Both listen on this machine only unless told \
otherwise. What is acknowledged is on disk.

SIGTERM or Ctrl-C lets running requests finish; a second one stops at once. The node's own log goes to stderr, as JSON \
lines unless that is a terminal; MINNOW_LOG sets how much (default: info).",
    after_help = "Examples:
  minnow node --data-dir ./data
  minnow node --data-dir /var/lib/minnow --http 0.0.0.0:80 --domain apps.example.org
  minnow node --config /etc/minnow/node.toml       a file that sets `data_dir` and more
  MINNOW_LOG=debug minnow node --data-dir ./data"
)]
pub struct NodeArgs {
    /// Where everything is kept, unless the configuration's `data_dir` says. One node at a time can use it
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// Where apps answer [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where the control API answers [default: 127.0.0.1:7701]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// A TOML file with more settings; arguments take precedence
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Apps answer at APP.DOMAIN [default: localhost]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<Domain>,
    /// The app that answers hosts that name none
    #[arg(long, value_name = "APP")]
    default_app: Option<AppName>,
}

pub fn run(args: NodeArgs) -> anyhow::Result<()> {
    node_log::start("info")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(args))
}

async fn serve(args: NodeArgs) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    let overrides = Overrides {
        data_dir: args.data_dir,
        http: args.http,
        admin: args.admin,
        domain: args.domain,
        default_app: args.default_app,
    };
    let config = Config::load(args.config.as_deref(), overrides).map_err(|error| match error {
        ConfigError::NoDataDir => Failure::usage(error.to_string()).into(),
        _ => anyhow::Error::from(error),
    })?;
    let (data_dir, drain) = (config.data_dir.clone(), config.drain);
    let node = Node::start(config).await.context("cannot start the node")?;
    let token = data_dir.join("admin.token");
    output::line(format_args!("{GREEN}minnow node{GREEN:#} {} is ready", env!("CARGO_PKG_VERSION")))?;
    output::line(format_args!("  apps         {BOLD}http://{}{BOLD:#}", node.http_addr()))?;
    output::line(format_args!("  control API  {BOLD}http://{}/v1{BOLD:#}", node.admin_addr()))?;
    output::line(format_args!("  data         {}", data_dir.display()))?;
    output::line(format_args!("  admin token  {}", token.display()))?;
    let login = format!("minnow login http://{} --token-file {}", node.admin_addr(), token.display());
    output::line(format_args!("  {DIM}next: {login}{DIM:#}"))?;
    let signal = signals.next().await;
    tracing::info!(signal, "draining; a second signal stops at once");
    tokio::select! {
        () = node.shutdown(drain) => tracing::info!("stopped"),
        signal = signals.next() => {
            tracing::warn!(signal, "stopped before every request had ended");
            // The runtime would wait for what is still running.
            std::process::exit(1);
        }
    }
    Ok(())
}
