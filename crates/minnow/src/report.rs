//! How a failure is shown: what happened, where and why, and what to do next.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anstyle::AnsiColor;
use minnow_control::api_types::LeftOut;
use minnow_model::{AppName, manifest::ManifestErrors};

use crate::{client::ApiError, output};

const ERROR: anstyle::Style = AnsiColor::Red.on_default().bold();
const WARNING: anstyle::Style = AnsiColor::Yellow.on_default().bold();
const HELP: anstyle::Style = AnsiColor::Cyan.on_default().bold();

/// The exit code of wrong usage, the same that clap uses.
const USAGE: u8 = 2;

/// A failure with a remedy.
#[derive(Debug)]
pub struct Failure {
    what: String,
    help: Option<String>,
    usage: bool,
}

impl Failure {
    /// Something went wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, usage: false }
    }

    /// The command line asks for something that cannot be (exit code 2).
    pub fn usage(what: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(what) }
    }

    /// What to do next.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Mistakes in a manifest, each with its place and remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ManifestFailure(pub ManifestErrors);

/// How mistakes in a manifest are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// With the lines of the manifest around them, on a terminal.
    Graphical,
    /// One line each, for scripts.
    Plain,
}

impl Style {
    /// Graphical when a person reads stderr and did not ask for JSON.
    pub fn choose(json: bool) -> Self {
        if io::stderr().is_terminal() && !json { Self::Graphical } else { Self::Plain }
    }
}

/// Shows `error` on stderr and says with which code to exit. A reader that went away (`minnow logs | head`) is no failure.
pub fn show(error: &anyhow::Error, style: Style) -> ExitCode {
    // Only stdout's own broken pipe: a connection to a node breaks in the same way, and that is a failure.
    if error.downcast_ref::<StdoutGone>().is_some() {
        return ExitCode::SUCCESS;
    }
    print(error, style);
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.usage => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Prints `error` on stderr. Nothing can be done when that fails too.
pub fn print(error: &anyhow::Error, style: Style) {
    let text = match error.downcast_ref::<ManifestFailure>() {
        Some(ManifestFailure(errors)) if style == Style::Graphical => graphical(errors),
        Some(ManifestFailure(errors)) => {
            let lines: String = errors.lines().iter().map(|line| format!("  {line}\n")).collect();
            format!("{ERROR}error:{ERROR:#} {errors}\n{lines}")
        }
        None => plain(error),
    };
    let _ = write!(anstream::stderr(), "{text}");
}

/// Prints a warning on stderr.
pub fn warn(what: impl Display) {
    let _ = writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {what}");
}

/// Warns that something was set for an app that nobody has published: its name may be misspelt.
pub fn unpublished(app: &AppName) {
    warn(format_args!("nothing was published of {app} before; is this its name?"));
}

/// Warns that a list does not have all: `after` is where the next one begins.
pub fn more(what: &str, limit: u32, after: &str) {
    let limit = u64::from(limit) * 10;
    // A key that a shell could take for something else.
    let after = format!("'{}'", after.replace('\'', r"'\''"));
    let after = output::printable(&after);
    warn(format_args!("there are more {what}; --after={after} shows the next of them, --limit {limit} more at once"));
}

/// Prints a line on stderr: what is said of something that stdout is for.
pub fn tell(what: impl Display) {
    let _ = writeln!(anstream::stderr(), "{what}");
}

/// Warns of what a backup has not, if there is any, and names it.
pub fn left_out(app: &AppName, left_out: &LeftOut) {
    if left_out.count > 0 {
        warn(missing(app, left_out));
    }
}

fn missing(app: &AppName, left_out: &LeftOut) -> String {
    let what = match left_out.count {
        1 => "1 file, folder or link".to_owned(),
        count => format!("{count} files, folders or links"),
    };
    let mut text = format!("{what} in the volumes of {app} could not be backed up, and the backup is without them:");
    for file in &left_out.files {
        text.push_str(&format!("\n  {}: {}", output::printable(&file.path), output::printable(&file.why)));
    }
    let more = left_out.count.saturating_sub(left_out.files.len() as u64);
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}

/// The reader of stdout went away.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output went away")]
pub struct StdoutGone;

/// The manifest's mistakes with the lines that they are on.
fn graphical(errors: &ManifestErrors) -> String {
    let theme = miette::GraphicalTheme::unicode();
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_links(false);
    let mut text = String::new();
    match handler.render_report(&mut text, errors) {
        Ok(()) => text,
        Err(_) => format!("{ERROR}error:{ERROR:#} {}\n", errors.lines().join("\n  ")),
    }
}

/// `error: what`, the reasons indented below it, and `help: remedy`.
fn plain(error: &anyhow::Error) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Libraries often repeat their cause in their own words.
        if lines.iter().any(|line| line.contains(&text)) {
            continue;
        }
        lines.push(text);
        if let Some(api) = cause.downcast_ref::<ApiError>() {
            lines.extend(api.why());
            // Of what the HTTP client says only the root tells something new: `Connection refused`.
            let root = error.root_cause().to_string();
            if root != cause.to_string() {
                lines.push(root);
            }
            break;
        }
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let line = line.trim_end().replace('\n', "\n  ");
        text += &if index == 0 { format!("{ERROR}error:{ERROR:#} {line}\n") } else { format!("  {line}\n") };
    }
    if let Some(help) = remedy(error) {
        text += &format!("{HELP}help:{HELP:#} {}\n", help.replace('\n', "\n  "));
    }
    text
}

/// The remedy that is nearest to the top of the chain.
fn remedy(error: &anyhow::Error) -> Option<String> {
    if let Some(failure) = error.downcast_ref::<Failure>()
        && let Some(help) = &failure.help
    {
        return Some(help.clone());
    }
    error.chain().find_map(|cause| match cause.downcast_ref::<Failure>() {
        Some(failure) => failure.help.clone(),
        None => cause.downcast_ref::<ApiError>().and_then(ApiError::help),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn without_colour(error: &anyhow::Error) -> String {
        anstream::adapter::strip_str(&plain(error)).to_string()
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let cause = io::Error::other("No such file or directory");
        let error = anyhow::Error::from(cause).context(Failure::new("cannot read x").help("create x"));
        assert_eq!(without_colour(&error), "error: cannot read x\n  No such file or directory\nhelp: create x\n");
    }

    #[test]
    fn only_a_reader_of_stdout_that_went_away_is_no_failure() {
        let lost = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot upload");
        assert_eq!(show(&lost, Style::Plain), ExitCode::FAILURE);
        assert_eq!(show(&StdoutGone.into(), Style::Plain), ExitCode::SUCCESS);
    }

    #[test]
    fn a_cause_that_repeats_its_effect_is_shown_once() {
        let error = anyhow!("connection refused").context("cannot connect: connection refused");
        assert_eq!(without_colour(&error), "error: cannot connect: connection refused\n");
    }
}
