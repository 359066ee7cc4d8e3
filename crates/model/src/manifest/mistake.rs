//! What is wrong with a manifest, each mistake with its place and remedy.

use std::{fmt, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use super::Parsed;

/// The most mistakes that are kept; the rest is only counted. Nobody mends more in one go.
pub const MAX_MISTAKES: usize = 100;

/// The text that places point into.
pub(super) type Source = Arc<NamedSource<Arc<str>>>;

/// One mistake in a manifest. Its `Display` is the message alone; [`miette`] prints the place and the remedy too.
#[derive(Clone)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub remedy: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    labels: Vec<LabeledSpan>,
    source: Source,
}

impl Mistake {
    /// A mistake at one or more places, given in bytes; the first one counts for line and column.
    pub(super) fn new(
        source: &Source,
        places: &[(toml_span::Span, Option<&str>)],
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let text = source.inner();
        let start = places.first().map_or(0, |(span, _)| inside(text, span.start));
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let labels = places
            .iter()
            .enumerate()
            .map(|(index, (span, label))| {
                let start = inside(text, span.start);
                let end = inside(text, span.end).max(start);
                let label = label.map(str::to_owned);
                match index {
                    0 => LabeledSpan::new_primary_with_span(label, (start, end - start)),
                    _ => LabeledSpan::new(label, start, end - start),
                }
            })
            .collect();
        Self {
            message: message.into(),
            remedy: remedy.into(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            labels,
            source: Arc::clone(source),
        }
    }

    /// One line: `minnow.toml:12:5: message; remedy`.
    pub fn to_line(&self) -> String {
        format!("{}:{}:{}: {}; {}", self.source.name(), self.line, self.column, self.message, self.remedy)
    }
}

/// The nearest place at or before `at` that is inside the text and between two characters.
fn inside(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

impl fmt::Debug for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_line())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.remedy))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// Everything that is wrong with a manifest, in the order of the file. At least one mistake.
#[derive(Debug, Clone)]
pub struct ManifestErrors {
    mistakes: Vec<Mistake>,
    /// How many there are beyond [`MAX_MISTAKES`].
    more: usize,
    /// What could be read all the same.
    read: Option<Box<Parsed>>,
}

impl ManifestErrors {
    /// `Ok` when there are no mistakes: lets a caller add its own, for example files that are missing.
    pub fn check(mistakes: Vec<Mistake>) -> Result<(), Self> {
        if mistakes.is_empty() { Ok(()) } else { Err(Self::of(mistakes, None)) }
    }

    pub(super) fn one(mistake: Mistake) -> Self {
        Self::of(vec![mistake], None)
    }

    pub(super) fn of(mut mistakes: Vec<Mistake>, read: Option<Parsed>) -> Self {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        let more = mistakes.len().saturating_sub(MAX_MISTAKES);
        mistakes.truncate(MAX_MISTAKES);
        Self { mistakes, more, read: read.map(Box::new) }
    }

    /// Adds what the caller finds wrong with what could be read, for example files that are missing. The manifest that it
    /// gets has only what is right of the text.
    #[must_use]
    pub fn and_missing(self, find: impl FnOnce(&Parsed) -> Vec<Mistake>) -> Self {
        let Self { mut mistakes, more, read } = self;
        if let Some(read) = read {
            mistakes.extend(find(&read));
        }
        let all = Self::of(mistakes, None);
        Self { more: all.more + more, ..all }
    }

    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// One line for each mistake, `minnow.toml:12:5: message; remedy`, for plain and JSON output.
    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.mistakes.iter().map(Mistake::to_line).chain(more).collect()
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.mistakes.first().map_or("the manifest", |mistake| mistake.source.name());
        match self.mistakes.len() + self.more {
            1 => write!(f, "{name} has a mistake"),
            count if self.more > 0 => write!(f, "{name} has {count} mistakes; here are the first {MAX_MISTAKES}"),
            count => write!(f, "{name} has {count} mistakes"),
        }
    }
}

impl std::error::Error for ManifestErrors {}

impl Diagnostic for ManifestErrors {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.mistakes.iter().map(|mistake| mistake as &dyn Diagnostic)))
    }
}
