//! What verbs print on stdout: text, tables and JSON.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use bytesize::ByteSize;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use crate::report::StdoutGone;

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();
pub const RED: Style = AnsiColor::Red.on_default();
pub const CYAN: Style = AnsiColor::Cyan.on_default();

/// A column up to this width is never broken: versions, sizes, times, digests. What is wider gives way on a narrow terminal.
const WHOLE_COLUMN: u16 = 16;

/// Prints one line. Colours go where they are wanted: a terminal, without `NO_COLOR`.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    finish(writeln!(anstream::stdout(), "{text}"))
}

/// Prints bytes as they are.
pub fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    finish(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Prints `value` as indented JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints `value` as one line of JSON.
pub fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?)
}

fn finish(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutGone.into()),
        other => Ok(other?),
    }
}

/// A table without lines, as wide as the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

/// Prints a table, without blanks at the ends of its lines.
pub fn print_table(mut table: Table) -> anyhow::Result<()> {
    arrange(&mut table);
    for text in table.lines() {
        line(text.trim_end())?;
    }
    Ok(())
}

/// Sees to it that no word is broken. Where the words take more room than there is, the terminal breaks the line.
fn arrange(table: &mut Table) {
    // A terminal that does not know its width says 0.
    if table.width() == Some(0) {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    let widths = table.column_max_content_widths();
    let words: Vec<usize> = (0..widths.len())
        .map(|index| {
            let cells = table.column_cells_with_header_iter(index).flatten();
            let longest = |text: String| text.split(' ').map(|word| word.chars().count()).max();
            cells.filter_map(|cell| longest(cell.content())).max().unwrap_or(0)
        })
        .collect();
    for (column, (width, word)) in table.column_iter_mut().zip(widths.into_iter().zip(words)) {
        let least = u16::try_from(word).unwrap_or(u16::MAX).max(WHOLE_COLUMN).saturating_add(column.padding_width());
        column.set_constraint(if width <= WHOLE_COLUMN {
            ColumnConstraint::ContentWidth
        } else {
            ColumnConstraint::LowerBoundary(Width::Fixed(least))
        });
    }
}

/// Whether a person reads stdout.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A duration with three digits that matter: `350 µs`, `1.25 ms`, `2.5 s`.
pub fn duration(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        ..1_000.0 => format!("{micros:.0} µs"),
        ..1_000_000.0 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// How long ago a time was, in its largest unit: `12s`, `3m`, `5h`, `9d`.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago a time was, for tables: `3m ago`.
pub fn ago(then_ms: u64, now_ms: u64) -> String {
    format!("{} ago", age(then_ms, now_ms))
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-11-20T18:56:42.123Z`: UTC, so that the lines of servers and people in several places agree.
pub fn timestamp(ms: u64) -> String {
    match std::time::UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // humantime panics beyond the year 9999.
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_millis(time).to_string(),
        _ => ms.to_string(),
    }
}

/// `text` with control characters written out, so that what a guest prints cannot move the cursor, retitle the terminal
/// or hide lines. Tabs stay.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table like that of an app's functions, on a terminal of this width.
    fn shown(width: u16) -> Vec<String> {
        let mut table = table(&["function", "memory", "routes"]);
        table.add_row(["api", "128.0 MiB", "/api/{*rest}, POST /submit"]);
        table.set_width(width);
        arrange(&mut table);
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_table_has_one_line_a_row_where_there_is_room_or_no_width_is_known() {
        let whole = ["FUNCTION  MEMORY     ROUTES", "api       128.0 MiB  /api/{*rest}, POST /submit"];
        for width in [0, 80] {
            assert_eq!(shown(width), whole, "{width}");
        }
    }

    #[test]
    fn a_narrow_terminal_breaks_no_word() {
        let narrow =
            ["FUNCTION  MEMORY     ROUTES", "api       128.0 MiB  /api/{*rest},", "                     POST /submit"];
        for width in [1, 20, 38] {
            assert_eq!(shown(width), narrow, "{width}");
        }
    }

    #[test]
    fn durations_are_short() {
        for (micros, expected) in
            [(0, "0 µs"), (350, "350 µs"), (1_250, "1.25 ms"), (999_990, "999.99 ms"), (2_500_000, "2.50 s")]
        {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, expected) in [(0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m"), (3_600, "1h"), (200_000, "2d")]
        {
            assert_eq!(age(5_000, 5_000 + seconds * 1000), expected);
        }
        assert_eq!(age(9_000, 5_000), "0s", "a clock that is behind");
    }

    #[test]
    fn timestamps_are_utc_and_never_panic() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn control_characters_of_a_guest_are_written_out() {
        assert_eq!(printable("a\tb\u{1b}[2Jc\rd"), "a\tb\\u{1b}[2Jc\\rd");
    }
}
