//! What is shown on a terminal while something takes its time.

use std::{fmt::Display, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report;

/// Reading is shown from this many bytes on, in bytes: less takes no time that a person notices.
const WORTH_SHOWING: u64 = 64 << 20;

/// Whether progress is shown (only ever on a terminal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Shown,
    Hidden,
}

impl Progress {
    /// An upload of `bytes`.
    pub fn uploading(self, bytes: u64) -> ProgressBar {
        if bytes == 0 { ProgressBar::hidden() } else { self.moving("uploading", Some(bytes)) }
    }

    /// Bytes that pass, of which it may be known how many there are. `what` says which way they go.
    pub fn moving(self, what: &'static str, bytes: Option<u64>) -> ProgressBar {
        if self == Self::Hidden {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
        let template = match bytes {
            Some(_) => format!("{what} {{bar:30}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}}"),
            None => format!("{what} {{bytes}} {{bytes_per_sec}}"),
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        // At once, also where the first bytes take their time.
        bar.tick();
        bar
    }

    /// Something of unknown length that comes.
    pub fn receiving(self, what: &'static str) -> ProgressBar {
        if self == Self::Hidden {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_prefix(what);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        bar.tick();
        bar
    }

    /// The node at its work: it checks and compiles, which takes a while for large code.
    pub fn waiting(self, message: &'static str) -> ProgressBar {
        if self == Self::Hidden {
            return ProgressBar::hidden();
        }
        // Without a length the default style is that of a bar, which shows no message.
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_style(ProgressStyle::default_spinner())
            .with_message(message);
        spinner.tick();
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }
}

/// How much of an app's files was read. Dropping it takes it off the terminal.
#[derive(Debug)]
pub struct Reading {
    progress: Progress,
    bytes: u64,
    bar: Option<ProgressBar>,
}

impl Reading {
    pub fn new(progress: Progress) -> Self {
        Self { progress, bytes: 0, bar: None }
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Prints a warning, unless nothing is to be shown.
    pub fn warn(&self, what: impl Display) {
        match (self.progress, &self.bar) {
            (Progress::Hidden, _) => {}
            (Progress::Shown, Some(bar)) => bar.suspend(|| report::warn(what)),
            (Progress::Shown, None) => report::warn(what),
        }
    }

    /// Notes that so many more bytes were read.
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.progress == Progress::Hidden || self.bytes < WORTH_SHOWING {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("reading {bytes}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(self.bytes);
    }
}
