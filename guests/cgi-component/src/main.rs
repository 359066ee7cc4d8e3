//! A wasi:cli command that answers in CGI form (RFC 3875): the request is in the environment and on stdin,
//! the response is headers, a blank line and the body on stdout. `PATH_INFO` picks what it does:
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | JSON of its whole environment |
//! | `/hello` | "Hello, World!" |
//! | `/echo` | stdin, streamed back |
//! | `/count` | how many bytes were on stdin, once it has ended |
//! | `/status` | `Status: 404 Not Found` |
//! | `/redirect` | only a `Location` header |
//! | `/bad` | output that has no CGI header |
//! | `/exit` | nothing; exits with failure |
//! | `/slow?ms=N` | a line at once, another one N milliseconds later (500 by default) |
//! | `/files` | what came of the steps on stdin, see files.rs of lab-p2 |
//! | `/http` | stdin is written to `/run/minnow/http`, and what that answers is streamed back |
//! | `/http/steps` | what came of the steps on stdin, see http.rs |
//! | `/log` | "Hello, World!", and a line on stderr |

use std::io::{self, Write};
use std::time::Duration;

#[path = "../../lab-p2/src/files.rs"]
mod files;
mod http;

fn main() -> io::Result<()> {
    let path = std::env::var("PATH_INFO").unwrap_or_default();
    let mut out = io::stdout().lock();
    match path.as_str() {
        "/" | "" => {
            let env: serde_json::Map<_, _> = std::env::vars().map(|(name, value)| (name, value.into())).collect();
            write!(out, "Content-Type: application/json\n\n")?;
            serde_json::to_writer(&mut out, &env)?;
        }
        "/hello" => write!(out, "Content-Type: text/plain\n\nHello, World!\n")?,
        "/echo" => {
            let kind = std::env::var("CONTENT_TYPE").unwrap_or_else(|_| "application/octet-stream".into());
            write!(out, "Content-Type: {kind}\n\n")?;
            out.flush()?;
            echo(&mut io::stdin().lock(), &mut out)?;
        }
        "/files" => {
            let mut steps = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut steps)?;
            write!(out, "Content-Type: application/json\n\n{}", files::all(&steps, files::step))?;
        }
        "/http" => {
            write!(out, "Content-Type: application/octet-stream\n\n")?;
            if let Err(error) = http::whole(&mut out) {
                write!(out, "{:?}", error.kind())?;
            }
        }
        "/http/steps" => {
            write!(out, "Content-Type: application/octet-stream\n\n")?;
            http::steps(&mut out)?;
        }
        "/count" => {
            let bytes = io::copy(&mut io::stdin().lock(), &mut io::sink())?;
            write!(out, "Content-Type: text/plain\n\n{bytes}\n")?;
        }
        "/status" => {
            write!(out, "Status: 404 Not Found\nContent-Type: text/plain\n\nnothing here\n")?;
        }
        "/redirect" => write!(out, "Location: https://example.com/elsewhere\n\n")?,
        "/bad" => write!(out, "this is not a header\nnor is this\n")?,
        "/exit" => std::process::exit(3),
        "/slow" => {
            write!(out, "Content-Type: text/plain\n\nfirst\n")?;
            out.flush()?;
            std::thread::sleep(Duration::from_millis(query_number("ms").unwrap_or(500)));
            writeln!(out, "second")?;
        }
        "/log" => {
            eprintln!("cgi-component says hello");
            write!(out, "Content-Type: text/plain\n\nHello, World!\n")?;
        }
        _ => {
            write!(out, "Status: 404 Not Found\nContent-Type: text/plain\n\nno such path: {path}\n")?;
        }
    }
    out.flush()
}

/// Copies each chunk as it arrives: stdout is line-buffered, so it is flushed after every read.
fn echo(input: &mut impl io::Read, out: &mut impl Write) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match input.read(&mut chunk)? {
            0 => return Ok(()),
            n => out.write_all(&chunk[..n]).and_then(|()| out.flush())?,
        }
    }
}

fn query_number(name: &str) -> Option<u64> {
    let query = std::env::var("QUERY_STRING").ok()?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    value.parse().ok()
}
