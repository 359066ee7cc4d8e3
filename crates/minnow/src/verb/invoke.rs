//! `minnow invoke`: one request to one function, without the gateway.

use std::{fs, io::Read as _, str::FromStr};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use minnow_control::api_types::{InvokeRequest, InvokeResponse};
use minnow_model::{AppName, FunctionName};

use crate::{
    cli::{JsonArg, ServerArgs},
    output::{self, BOLD, DIM, GREEN, RED, YELLOW},
    report::Failure,
};

/// Send one request to a function, without the gateway
#[derive(Debug, Args)]
#[command(
    long_about = "Send one request to a function, without the gateway.

The node runs the function's live version with its limits, whatever its routes are, and says what the run cost. Prints the \
status, the headers, the body, and the time, CPU time and peak memory. With --json the body is Base64.

With --async the node keeps the request and runs the function later, again where that fails, as `async` in minnow.toml says. The \
command ends when the request is durable, and prints the id of the run, for `minnow run show`.

Exits with 0 when an answer came, whatever its status: a function that fails is answered with a 5xx. With 1 there was none.",
    after_help = "Examples:
  minnow invoke hello/api
  minnow invoke hello/api --path '/api/users?page=2' -H 'accept: application/json'
  minnow invoke hello/submit -X POST -d '{\"name\": \"Ada\"}' -H 'content-type: application/json'
  minnow invoke hello/upload -X PUT -d @photo.jpg
  date | minnow invoke hello/echo -X POST -d -
  minnow invoke hello/report -d '{\"month\": 11}' --async"
)]
pub struct InvokeArgs {
    /// The app and its function
    #[arg(value_name = "APP/FUNCTION")]
    target: Target,
    /// The method. Default: GET, with -d POST
    #[arg(long, short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// Path and query; starts with /
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// A header; may be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<Header>,
    /// The body: text, @FILE for a file's content, or - for stdin. Its content-length is sent along
    #[arg(long, short, value_name = "DATA", allow_hyphen_values = true)]
    data: Option<String>,
    /// Run it later, and do not wait for the answer
    #[arg(long = "async")]
    is_async: bool,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// `APP/FUNCTION`
#[derive(Debug, Clone)]
struct Target {
    app: AppName,
    function: FunctionName,
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (app, function) =
            text.split_once('/').ok_or("write APP/FUNCTION; `minnow status APP` lists the functions")?;
        Ok(Self {
            app: AppName::new(app).map_err(|error| error.to_string())?,
            function: FunctionName::new(function).map_err(|error| error.to_string())?,
        })
    }
}

/// `name: value`
#[derive(Debug, Clone)]
struct Header(String, String);

impl FromStr for Header {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("write 'name: value'")?;
        let name = reqwest::header::HeaderName::from_str(name.trim()).map_err(|error| error.to_string())?;
        let value = value.trim();
        reqwest::header::HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        Ok(Self(name.to_string(), value.to_owned()))
    }
}

pub async fn run(args: InvokeArgs) -> anyhow::Result<()> {
    check_path(&args.path)?;
    let body = args.data.as_deref().map(body).transpose()?;
    let method = match (args.method, &body) {
        (Some(method), _) => method.to_ascii_uppercase(),
        (None, Some(_)) => "POST".into(),
        (None, None) => "GET".into(),
    };
    let request = InvokeRequest {
        method,
        path: args.path,
        headers: args.header.into_iter().map(|Header(name, value)| (name, value)).collect(),
        body: body.map(|body| BASE64.encode(body)).unwrap_or_default(),
    };
    if args.is_async {
        let Target { app, function } = &args.target;
        let started = args.server.client()?.invoke_async(app, function, &request).await?;
        if args.json.json {
            return output::json(&started);
        }
        return output::line(format_args!(
            "{GREEN}taken{GREEN:#} {}  {DIM}`minnow run show {} --app {app}`{DIM:#}",
            started.id, started.id
        ));
    }
    let response = args.server.client()?.invoke(&args.target.app, &args.target.function, &request).await?;
    if args.json.json { output::json(&response) } else { show(&response) }
}

/// Refuses what is no path. Which characters a path has is for the node to say.
fn check_path(path: &str) -> Result<(), Failure> {
    if path.starts_with('/') {
        return Ok(());
    }
    // Enough to know it by.
    let shown: String = path.chars().take(100).collect();
    let more = if shown.len() < path.len() { "…" } else { "" };
    Err(Failure::usage(format!("the path `{shown}{more}` does not start with `/`"))
        .help("write the path and query alone: --path '/users?page=2'"))
}

/// The bytes that `-d` stands for.
fn body(data: &str) -> anyhow::Result<Vec<u8>> {
    if data == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
        return Ok(bytes);
    }
    match data.strip_prefix('@') {
        Some(path) => fs::read(path).with_context(|| {
            Failure::new(format!("cannot read {path}"))
                .help("`-d @FILE` sends a file; to send a text that starts with @, use `-d -`")
        }),
        None => Ok(data.as_bytes().to_vec()),
    }
}

/// An answer: its status, header fields and body.
pub(super) fn show_answer(status: u16, headers: &[(String, String)], body: &str) -> anyhow::Result<()> {
    let style = match status {
        ..400 => GREEN,
        400..500 => YELLOW,
        500.. => RED,
    };
    let reason = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    output::line(format_args!("{style}{status}{style:#} {BOLD}{}{BOLD:#}", reason.unwrap_or("")))?;
    for (name, value) in headers {
        output::line(format_args!("{DIM}{name}:{DIM:#} {}", output::printable(value)))?;
    }
    output::line("")?;
    let body = BASE64.decode(body).context("the node's answer has a body that is not Base64")?;
    if !body.is_empty() {
        match std::str::from_utf8(&body) {
            Err(_) if output::is_terminal() => {
                let size = output::size(body.len() as u64);
                output::line(format_args!(
                    "{DIM}({size} that are not text; with --json they are there as Base64){DIM:#}"
                ))?;
            }
            Ok(text) if output::is_terminal() => {
                for line in text.lines() {
                    output::line(output::printable(line))?;
                }
            }
            _ => {
                output::raw(&body)?;
                if body.last() != Some(&b'\n') {
                    output::line("")?;
                }
            }
        }
        output::line("")?;
    }
    Ok(())
}

fn show(response: &InvokeResponse) -> anyhow::Result<()> {
    show_answer(response.status, &response.headers, &response.body)?;
    let usage = &response.usage;
    output::line(format_args!(
        "{DIM}time {} · CPU {} · peak memory {} · {} start · request {}{DIM:#}",
        output::duration(usage.wall),
        output::duration(usage.cpu),
        output::size(usage.peak_memory_bytes),
        if usage.cold { "cold" } else { "warm" },
        response.request_id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_starts_with_a_slash() {
        for path in ["/", "/a?b=c", "//a"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        for path in ["", "foo", "http://x/y", "?a=b"] {
            let error = check_path(path).unwrap_err().to_string();
            assert_eq!(error, format!("the path `{path}` does not start with `/`"));
        }
        let long = check_path(&"x".repeat(10_000)).unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn a_body_is_text_a_file_or_stdin() {
        assert_eq!(body("{}").unwrap(), b"{}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"\0\xff").unwrap();
        assert_eq!(body(&format!("@{}", file.path().display())).unwrap(), b"\0\xff");
        assert!(body("@/nowhere").is_err());
    }
}
