//! What a benchmark found: figures against their targets, on the terminal and in bench/RESULTS.md.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

/// What a figure has to be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure that has a target.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    /// `×`, `ms`, `MB`, `s`, or empty for a count.
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: &'static str, target: Target) -> Self {
        Self { what: what.into(), value, unit, target }
    }

    /// A value that was not measured (NaN) reaches nothing.
    pub(crate) fn is_reached(&self) -> bool {
        match self.target {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
        }
    }

    fn row(&self) -> Vec<String> {
        let with_unit = |number: String| format!("{number} {}", self.unit).trim_end().to_owned();
        let target = match self.target {
            Target::AtLeast(least) => format!("≥ {}", with_unit(least.to_string())),
            Target::AtMost(most) => format!("≤ {}", with_unit(most.to_string())),
        };
        let reached = if self.is_reached() { "yes" } else { "no" };
        vec![self.what.clone(), with_unit(three_digits(self.value)), target, reached.into()]
    }
}

/// Rows under a header.
pub(crate) struct Table {
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    fn markdown(&self) -> String {
        let mut text = format!("| {} |\n|{}\n", self.header.join(" | "), " --- |".repeat(self.header.len()));
        for row in &self.rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }

    fn terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(&self.header);
        table.add_rows(&self.rows);
        table.to_string()
    }
}

/// All that one benchmark found.
pub(crate) struct Report {
    pub(crate) figures: Vec<Figure>,
    pub(crate) measured: Table,
    /// How it was measured, a sentence or two each; what a reader has to know to believe it.
    pub(crate) notes: Vec<String>,
    /// What else took part, with versions.
    pub(crate) peers: Vec<String>,
    /// Every single value.
    pub(crate) raw: Value,
}

impl Report {
    fn targets(&self) -> Table {
        Table {
            header: vec!["figure", "value", "target", "reached"],
            rows: self.figures.iter().map(Figure::row).collect(),
        }
    }

    pub(crate) fn terminal(&self, name: &str) -> String {
        format!("{name}\n{}\n{}\n", self.measured.terminal(), self.targets().terminal())
    }

    /// The body of the section in bench/RESULTS.md. `origin` says when and where it was measured, a fact a line.
    pub(crate) fn markdown(&self, origin: &str) -> String {
        let mut text = String::new();
        let facts = origin.lines().map(str::to_owned).chain((!self.peers.is_empty()).then(|| self.peers.join("; ")));
        for line in facts.chain(self.notes.iter().cloned()) {
            let _ = writeln!(text, "- {line}");
        }
        let _ = write!(text, "\n{}\n{}", self.targets().markdown(), self.measured.markdown());
        text
    }

    pub(crate) fn json(&self, name: &str, origin: &str) -> Value {
        let figure = |figure: &Figure| {
            let (least, most) = match figure.target {
                Target::AtLeast(least) => (Some(least), None),
                Target::AtMost(most) => (None, Some(most)),
            };
            json!({
                "what": figure.what, "value": figure.value, "unit": figure.unit,
                "at_least": least, "at_most": most, "reached": figure.is_reached(),
            })
        };
        json!({
            "bench": name,
            "origin": origin.lines().collect::<Vec<_>>(),
            "peers": self.peers,
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
            "raw": self.raw,
        })
    }
}

const PREAMBLE: &str = "\
# Results

Written by `cargo xtask bench`, a section for each benchmark; README.md beside this file says what each one does.
";

/// `document` (bench/RESULTS.md, or nothing) with the section `name` replaced, and the sections in the order of `order`.
pub(crate) fn with_section(document: &str, order: &[&str], name: &str, body: &str) -> String {
    let section_of = |wanted: &str| {
        let mut parts = document.split("\n## ").skip(1);
        parts.find_map(|part| part.split_once("\n\n").filter(|(title, _)| *title == wanted)).map(|(_, old)| old.trim())
    };
    let mut text = PREAMBLE.to_owned();
    for section in order {
        let content = if *section == name { Some(body.trim()) } else { section_of(section) };
        if let Some(content) = content {
            let _ = write!(text, "\n## {section}\n\n{content}\n");
        }
    }
    text
}

/// `12`, `3.46`, `0.00123`: three significant digits.
fn three_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let before_point = value.abs().log10().floor() as i32 + 1;
    format!("{value:.*}", usize::try_from(3 - before_point).unwrap_or(0))
}

pub(crate) fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        ..1e3 => format!("{} µs", three_digits(micros)),
        ..1e6 => format!("{} ms", three_digits(micros / 1e3)),
        _ => format!("{} s", three_digits(micros / 1e6)),
    }
}

/// Bytes in MB (10^6).
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, expected) in
            [(0.0, "0"), (3.456, "3.46"), (34.56, "34.6"), (34567.0, "34567"), (0.00123, "0.00123")]
        {
            assert_eq!(three_digits(value), expected);
        }
        for (micros, expected) in [(7, "7.00 µs"), (1500, "1.50 ms"), (2_000_000, "2.00 s")] {
            assert_eq!(time(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn a_figure_reaches_its_target_or_not() {
        for (value, target, reached) in [
            (3.0, Target::AtLeast(3.0), true),
            (2.9, Target::AtLeast(3.0), false),
            (3.0, Target::AtMost(3.0), true),
            (3.1, Target::AtMost(3.0), false),
            (f64::NAN, Target::AtMost(3.0), false),
            (f64::NAN, Target::AtLeast(3.0), false),
        ] {
            assert_eq!(Figure::new("a", value, "×", target).is_reached(), reached, "{value}");
        }
    }

    #[test]
    fn a_section_is_replaced_and_the_others_stay() {
        let order = ["hello", "reuse", "cold"];
        let cold = with_section("", &order, "cold", "- one\n\n| a |\n| --- |\n| 1 |\n");
        let both = with_section(&cold, &order, "hello", "- two\n");
        assert_eq!(both, format!("{PREAMBLE}\n## hello\n\n- two\n\n## cold\n\n- one\n\n| a |\n| --- |\n| 1 |\n"));
        let replaced = with_section(&both, &order, "cold", "- three");
        assert_eq!(replaced, format!("{PREAMBLE}\n## hello\n\n- two\n\n## cold\n\n- three\n"));
    }

    #[test]
    fn figures_read_as_a_table() {
        let table = Table { header: vec!["a", "b"], rows: vec![vec!["1".into(), "2".into()]] };
        assert_eq!(table.markdown(), "| a | b |\n| --- | --- |\n| 1 | 2 |\n");
        let figure = Figure::new("fast", 3.456, "×", Target::AtLeast(3.0));
        assert_eq!(figure.row(), ["fast", "3.46 ×", "≥ 3 ×", "yes"]);
    }
}
