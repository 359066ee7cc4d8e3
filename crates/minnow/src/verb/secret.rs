//! `minnow secret`: an app's secrets, which are stored encrypted and never shown again.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use minnow_control::settings::MAX_SECRET_BYTES;
use minnow_model::{AppName, VariableName};
use serde::Serialize;

use crate::{
    cli::{AppFlags, JsonArg, ServerArgs},
    input,
    output::{self, BOLD, DIM, GREEN},
    report::{self, Failure},
};

/// Set, list and delete an app's secrets
#[derive(Debug, Args)]
#[command(
    long_about = "Set, list and delete an app's secrets.

A secret is stored encrypted, and never shown again. Only functions that are granted it (`secrets = [\"NAME\"]` in the \
manifest) find it in their environment, and `***` stands in the place of its value in their log.",
    after_help = "Examples:
  minnow secret set STRIPE_KEY                    asks for it
  minnow secret set TLS_KEY < key.pem             reads it
  minnow secret list --app hello
  minnow secret delete STRIPE_KEY
  minnow secret rotate                            a new key for the node",
    arg_required_else_help = true
)]
pub struct SecretArgs {
    #[command(subcommand)]
    verb: SecretVerb,
}

#[derive(Debug, Subcommand)]
enum SecretVerb {
    Set(SetArgs),
    List(ListArgs),
    Delete(DeleteArgs),
    Rotate(RotateArgs),
}

/// Set a secret: asks for it, or reads it from stdin
#[derive(Debug, Args)]
#[command(
    long_about = "Set a secret: asks for it, or reads it from stdin.

The value is asked for without showing it, or read from stdin when that is a pipe or a file, to its end; one line break at \
the end is left out. It is never an argument, which other users of the machine and the shell's history would see.

Functions that are granted the secret start anew with it; requests that are running end with the value before. An app that \
was not published yet can be given secrets too.",
    after_help = "Examples:
  minnow secret set STRIPE_KEY
  minnow secret set TLS_KEY < key.pem
  pass show stripe | minnow secret set STRIPE_KEY --app hello"
)]
struct SetArgs {
    /// The name, in upper-case letters, digits and `_`
    name: VariableName,
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// List an app's secrets by name, without what is in them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow secret list                   the app in this folder
  minnow secret list --app hello --json")]
struct ListArgs {
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Delete a secret
#[derive(Debug, Args)]
#[command(
    long_about = "Delete a secret.

Refused while a function that gets traffic is granted it: deploy a version without the grant first, or set another value.",
    after_help = "Examples:
  minnow secret delete STRIPE_KEY
  minnow secret delete STRIPE_KEY --app hello"
)]
struct DeleteArgs {
    /// The name
    name: VariableName,
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Encrypt all secrets of a node with a new key
#[derive(Debug, Args)]
#[command(
    long_about = "Encrypt all secrets of a node with a new key.

The new key is added to the node's key file. The old ones stay there, for the secrets in backups; without those they can be \
taken out. No function notices.",
    after_help = "Examples:
  minnow secret rotate
  minnow secret rotate --json"
)]
struct RotateArgs {
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Serialize)]
struct Deleted {
    app: AppName,
    name: VariableName,
    deleted: bool,
}

impl SecretArgs {
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            SecretVerb::Set(args) => args.json.json,
            SecretVerb::List(args) => args.json.json,
            SecretVerb::Delete(args) => args.json.json,
            SecretVerb::Rotate(args) => args.json.json,
        }
    }
}

pub async fn run(args: SecretArgs) -> anyhow::Result<()> {
    match args.verb {
        SecretVerb::Set(args) => set(args).await,
        SecretVerb::List(args) => list(args).await,
        SecretVerb::Delete(args) => delete(args).await,
        SecretVerb::Rotate(args) => rotate(args).await,
    }
}

async fn set(args: SetArgs) -> anyhow::Result<()> {
    let (app, name) = (args.app.name()?, args.name);
    let client = args.server.client()?;
    let value = read(&name, &app)?;
    let stored = client.set_secret(&app, &name, value).await?;
    if stored.app_created {
        report::unpublished(&app);
    }
    if args.json.json {
        return output::json(&stored);
    }
    let what = if stored.created { "set" } else { "replaced" };
    output::line(format_args!("{GREEN}{what}{GREEN:#} {BOLD}{name}{BOLD:#} of {app}"))
}

/// The value, from the terminal or from stdin.
fn read(name: &VariableName, app: &AppName) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        terminal.write_str(&format!("{name} of {app}: "))?;
        let value = terminal.read_secure_line().context("cannot read the secret")?;
        return given(value.into_bytes());
    }
    // A line break more than the most, and one byte to tell that it is too long.
    given(input::stdin(MAX_SECRET_BYTES as u64 + 3)?)
}

/// Checks a value, without the line break that `echo` and editors put at its end.
fn given(mut value: Vec<u8>) -> anyhow::Result<String> {
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    if value.is_empty() {
        return Err(Failure::new("no secret was given")
            .help("type it at the prompt, or give it through a pipe: `minnow secret set NAME < FILE`")
            .into());
    }
    if value.len() > MAX_SECRET_BYTES {
        return Err(
            Failure::new(format!("the secret is longer than {MAX_SECRET_BYTES} bytes, which is the most")).into()
        );
    }
    // The error of `from_utf8` would show the value.
    String::from_utf8(value)
        .map_err(|_| Failure::new("the secret is not UTF-8").help("encode it, for example with `base64`").into())
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let secrets = args.server.client()?.secrets(&app).await?;
    if args.json.json {
        return output::json(&secrets);
    }
    if secrets.is_empty() {
        return output::line(format_args!("{DIM}{app} has no secrets; `minnow secret set NAME` sets one{DIM:#}"));
    }
    let now = output::now_ms();
    let mut table = output::table(&["name", "set", "first set", ""]);
    for secret in secrets {
        let note = if secret.readable { "" } else { "its key is lost: set it again" };
        let [changed, created] = [secret.changed_ms, secret.created_ms].map(|ms| output::ago(ms, now));
        table.add_row([secret.name.to_string(), changed, created, note.into()]);
    }
    output::print_table(table)
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let (app, name) = (args.app.name()?, args.name);
    args.server.client()?.delete_secret(&app, &name).await?;
    if args.json.json {
        return output::json(&Deleted { app, name, deleted: true });
    }
    output::line(format_args!("{GREEN}deleted{GREEN:#} {BOLD}{name}{BOLD:#} of {app}"))
}

async fn rotate(args: RotateArgs) -> anyhow::Result<()> {
    let rotated = args.server.client()?.rotate_key().await?;
    if args.json.json {
        return output::json(&rotated);
    }
    let (key, resealed) = (&rotated.key_id, rotated.resealed);
    output::line(format_args!("{GREEN}new key{GREEN:#} {key}: {resealed} secrets are encrypted with it"))?;
    if rotated.unreadable > 0 {
        report::warn(format_args!(
            "{} secrets could not be read, since their key is lost; the node's log names them: set them again",
            rotated.unreadable
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_a_secret() {
        let most = "x".repeat(MAX_SECRET_BYTES);
        for (value, expected) in [
            ("sk_1", Ok("sk_1")),
            ("sk_1\n", Ok("sk_1")),
            ("sk_1\r\n", Ok("sk_1")),
            (" two\nlines\n\n", Ok(" two\nlines\n")),
            (&format!("{most}\r\n"), Ok(&most)),
            (&format!("{most}x\n"), Err("longer than 65536 bytes")),
            ("\n", Err("no secret was given")),
            ("", Err("no secret was given")),
        ] {
            match (given(value.as_bytes().to_vec()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, _) => panic!("{value:?}: {found:?}"),
            }
        }
        let error = given(b"sk_live\xff".to_vec()).unwrap_err();
        assert!(!format!("{error:?}").contains("sk_live"), "{error:?}");
    }
}
