//! `minnow sql shell`: statements as they are typed.

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::Context as _;
use minnow_control::api_types::SqlRequest;
use rustyline::{DefaultEditor, error::ReadlineError};

use super::show;
use crate::{
    client::Client,
    output::{self, BOLD, DIM},
    report::{self, Failure, Style},
    sql_text::{Ends, statements},
    store::StorePath,
};

const HELP: &str = "  STATEMENT;        runs it; it may have several lines
  .tables           the tables and views
  .schema [NAME]    how they were declared
  .quit             ends, as Ctrl-D
  Ctrl-C            throws away what was typed";

/// What somebody typed.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    Help,
    Quit,
    Tables,
    Schema(Option<&'a str>),
    Unknown(&'a str),
}

fn command(line: &str) -> Option<Command<'_>> {
    let line = line.trim().strip_prefix('.')?;
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim().trim_end_matches(';');
    Some(match name.trim_end_matches(';') {
        "help" => Command::Help,
        "quit" | "exit" => Command::Quit,
        "tables" => Command::Tables,
        "schema" if argument.is_empty() => Command::Schema(None),
        "schema" => Command::Schema(Some(argument)),
        _ => Command::Unknown(name),
    })
}

/// The shell of one database.
struct Shell<'a> {
    client: &'a Client,
    store: &'a StorePath,
    read_only: bool,
}

pub(super) async fn run(client: &Client, store: &StorePath, read_only: bool) -> anyhow::Result<()> {
    let shell = Shell { client, store, read_only };
    // Tells now when there is no such database, and not after the first statement.
    shell.query("SELECT 1", Vec::new()).await?;
    if !io::stdin().is_terminal() {
        return shell.script().await;
    }
    let mut editor = DefaultEditor::new().context("cannot use this terminal")?;
    let history = history();
    if let Some(history) = &history {
        // There is none yet, or it cannot be read: then it begins anew.
        let _ = editor.load_history(history);
    }
    output::line(format_args!("{BOLD}{store}{BOLD:#}  {DIM}.help shows the commands, Ctrl-D ends{DIM:#}"))?;
    let talked = shell.talk(&mut editor).await;
    if let Some(history) = &history
        && let Err(error) = save(&mut editor, history)
    {
        report::warn(format_args!("what was typed is not remembered: {}: {error}", history.display()));
    }
    talked
}

impl Shell<'_> {
    async fn talk(&self, editor: &mut DefaultEditor) -> anyhow::Result<()> {
        let (mut typed, mut ends) = (String::new(), Ends::default());
        loop {
            let prompt = if typed.is_empty() { format!("{}> ", self.store.store) } else { "   ...> ".into() };
            let line = match editor.readline(&prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    (typed, ends) = Default::default();
                    continue;
                }
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            };
            if typed.is_empty()
                && let Some(command) = command(&line)
            {
                let _ = editor.add_history_entry(line.trim());
                if command == Command::Quit {
                    return Ok(());
                }
                self.told(self.obey(command).await)?;
                continue;
            }
            ends.of_line(line.as_bytes());
            typed.push_str(&line);
            typed.push('\n');
            if ends.is_open() {
                continue;
            }
            let _ = editor.add_history_entry(typed.trim());
            for statement in statements(&typed) {
                let done = self.statement(statement).await;
                let failed = done.is_err();
                self.told(done)?;
                if failed {
                    break;
                }
            }
            (typed, ends) = Default::default();
        }
    }

    /// Runs what comes from a file, up to the first statement that fails.
    async fn script(&self) -> anyhow::Result<()> {
        let (mut typed, mut ends) = (String::new(), Ends::default());
        for line in io::stdin().lines() {
            let line = line.context("cannot read stdin")?;
            match command(&line).filter(|_| typed.is_empty()) {
                Some(Command::Quit) => return Ok(()),
                Some(command) => self.obey(command).await?,
                None => {
                    ends.of_line(line.as_bytes());
                    typed.push_str(&line);
                    typed.push('\n');
                    if !ends.is_open() {
                        for statement in statements(&std::mem::take(&mut typed)) {
                            self.statement(statement).await?;
                        }
                    }
                }
            }
        }
        for statement in statements(&typed) {
            self.statement(statement).await?;
        }
        Ok(())
    }

    /// Shows an error and goes on, unless nobody sees it any more.
    fn told(&self, done: anyhow::Result<()>) -> anyhow::Result<()> {
        match done {
            Err(error) if error.is::<report::StdoutGone>() => Err(error),
            Err(error) => {
                report::print(&error, Style::choose(false));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn statement(&self, statement: &str) -> anyhow::Result<()> {
        show::result(&self.query(statement, Vec::new()).await?)
    }

    async fn query(
        &self,
        sql: &str,
        params: Vec<minnow_control::api_types::SqlValue>,
    ) -> anyhow::Result<minnow_control::api_types::SqlResult> {
        let request = SqlRequest { sql: sql.into(), params, read_only: self.read_only };
        Ok(self.client.sql_query(self.store, &request).await?)
    }

    async fn obey(&self, command: Command<'_>) -> anyhow::Result<()> {
        use minnow_control::api_types::SqlValue;
        let (sql, name) = match command {
            Command::Quit => return Ok(()),
            Command::Help => return output::line(HELP),
            Command::Unknown(name) => {
                return Err(Failure::new(format!("there is no command .{name}")).help(".help shows the commands").into());
            }
            Command::Tables => (
                "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
                 AND ?1 IS NULL ORDER BY name",
                None,
            ),
            Command::Schema(name) => (
                "SELECT sql || ';' FROM sqlite_schema WHERE sql NOT NULL AND (?1 IS NULL OR lower(tbl_name) = lower(?1))
                 ORDER BY tbl_name, type DESC, name",
                name,
            ),
        };
        let name = name.map_or(SqlValue::Null, |name| SqlValue::Text(name.into()));
        for row in self.query(sql, vec![name]).await?.rows {
            if let Some(SqlValue::Text(text)) = row.first() {
                for line in text.lines() {
                    output::line(output::printable(line))?;
                }
            }
        }
        Ok(())
    }
}

/// `$XDG_STATE_HOME/minnow/sql_history`; without that variable in `$HOME/.local/state`.
fn history() -> Option<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("minnow").join("sql_history"))
}

fn save(editor: &mut DefaultEditor, path: &std::path::Path) -> Result<(), ReadlineError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // With mode 0600: statements hold what is in the database.
    editor.save_history(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_dot() {
        for (line, expected) in [
            (".tables", Some(Command::Tables)),
            ("  .quit ;", Some(Command::Quit)),
            (".exit;", Some(Command::Quit)),
            (".schema", Some(Command::Schema(None))),
            (".schema orders;", Some(Command::Schema(Some("orders")))),
            (".dump", Some(Command::Unknown("dump"))),
            ("select .5;", None),
        ] {
            assert_eq!(command(line), expected, "{line}");
        }
    }
}
