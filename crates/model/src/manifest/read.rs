//! Reading single values out of TOML. What is wrong is noted and reading goes on, so that all mistakes come at once.

use std::{collections::BTreeSet, time::Duration};

use bytesize::ByteSize;
use toml_span::{Span, Value, value::Table};

use super::{
    keys::{KeyDoc, TableDoc, reference},
    mistake::{Mistake, Source},
};

/// The TOML type of a value with its article.
fn type_of(value: &Value<'_>) -> &'static str {
    match value.as_ref().type_str() {
        "string" => "a string",
        "integer" => "a number",
        "float" => "a number with a fraction",
        "boolean" => "true or false",
        "array" => "a list",
        _ => "a table",
    }
}

/// Collects the mistakes of one manifest.
pub(super) struct Reader {
    pub source: Source,
    pub mistakes: Vec<Mistake>,
    /// The names of tables that stand twice. Only the first of each was read, so what it lacks may be in the other.
    pub halved: BTreeSet<String>,
}

/// A table whose keys were checked.
#[derive(Clone, Copy)]
pub(super) struct Fields<'v, 'de> {
    table: &'v Table<'de>,
    doc: &'static TableDoc,
}

/// The value of a known key.
#[derive(Clone, Copy)]
pub(super) struct Field<'v, 'de> {
    pub value: &'v Value<'de>,
    pub doc: &'static KeyDoc,
}

impl<'v, 'de> Fields<'v, 'de> {
    /// The value of `key`, which the table's documentation lists.
    pub(super) fn get(&self, key: &str) -> Option<Field<'v, 'de>> {
        let doc = self.doc.find(key);
        debug_assert!(doc.is_some(), "`{key}` is not in the reference");
        Some(Field { value: self.table.get(key)?, doc: doc? })
    }
}

impl Reader {
    /// Notes a mistake. Beyond a bound they are all the same: a manifest of a megabyte can hold hundreds of thousands.
    pub(super) fn refuse(&mut self, span: Span, message: impl Into<String>, remedy: impl Into<String>) {
        self.refuse_places(&[(span, None)], message, remedy);
    }

    /// Notes a mistake at several places.
    pub(super) fn refuse_places(
        &mut self,
        places: &[(Span, Option<&str>)],
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        // Each one looks for its line from the start of the file.
        if self.mistakes.len() < 1000 {
            self.mistakes.push(Mistake::new(&self.source, places, message, remedy));
        }
    }

    fn wrong_type(&mut self, field: Field<'_, '_>) {
        let kind = match field.doc.kind {
            "size" | "time" => "a string with a unit".into(),
            kind if kind.starts_with('`') => kind.to_owned(),
            kind => format!("a {kind}"),
        };
        let message = format!("`{}` is {}, not {kind}", field.doc.key, type_of(field.value));
        self.refuse(field.value.span, message, format!("write for example `{}`", field.doc.example.replace('\n', " ")));
    }

    /// The entries of a table with free keys, in the order of the file.
    pub(super) fn entries<'v, 'de>(&mut self, field: Field<'v, 'de>) -> Vec<(&'v str, Span, &'v Value<'de>)> {
        let Some(table) = field.value.as_table() else {
            self.wrong_type(field);
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().map(|(key, value)| (key.name.as_ref(), key.span, value)).collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        entries
    }

    /// A table with the keys that `doc` lists; every other key is refused.
    pub(super) fn table<'v, 'de>(&mut self, field: Field<'v, 'de>, doc: &'static TableDoc) -> Option<Fields<'v, 'de>> {
        match field.value.as_table() {
            Some(table) => Some(self.fields(table, doc)),
            None => {
                self.wrong_type(field);
                None
            }
        }
    }

    /// Checks the keys of a table.
    pub(super) fn fields<'v, 'de>(&mut self, table: &'v Table<'de>, doc: &'static TableDoc) -> Fields<'v, 'de> {
        for key in table.keys() {
            if doc.find(&key.name).is_none() {
                let shown: String = key.name.chars().take(64).flat_map(char::escape_debug).collect();
                self.refuse(
                    key.span,
                    format!("unknown key `{shown}` in {}", doc.called()),
                    remedy_for_unknown(&key.name, doc),
                );
            }
        }
        Fields { table, doc }
    }

    pub(super) fn string<'v>(&mut self, field: Field<'v, '_>) -> Option<&'v str> {
        match field.value.as_str() {
            Some(text) => Some(text),
            None => {
                self.wrong_type(field);
                None
            }
        }
    }

    /// A list of at most `most` strings, with their places.
    pub(super) fn strings<'v>(&mut self, field: Field<'v, '_>, most: usize) -> Vec<(&'v str, Span)> {
        let Some(list) = field.value.as_array() else {
            self.wrong_type(field);
            return Vec::new();
        };
        self.at_most(field, list.len(), most);
        let mut strings = Vec::new();
        for value in list.iter().take(most) {
            match value.as_str() {
                Some(text) => strings.push((text, value.span)),
                None => self.wrong_entry(field, value, "strings"),
            }
        }
        strings
    }

    /// A list of at most `most` strings and tables.
    pub(super) fn list<'v, 'de>(&mut self, field: Field<'v, 'de>, most: usize) -> Vec<&'v Value<'de>> {
        let Some(list) = field.value.as_array() else {
            self.wrong_type(field);
            return Vec::new();
        };
        self.at_most(field, list.len(), most);
        list.iter().take(most).collect()
    }

    /// An entry of a list that is not what the list holds.
    pub(super) fn wrong_entry(&mut self, field: Field<'_, '_>, value: &Value<'_>, what: &str) {
        let message = format!("`{}` holds {}, not only {what}", field.doc.key, type_of(value));
        self.refuse(value.span, message, format!("write for example `{}`", field.doc.example));
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, field: Field<'_, '_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(field)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let message = format!("`{}` is `{}`", field.doc.key, text.escape_debug());
            self.refuse(field.value.span, message, format!("write {}", known.join(" or ")));
        }
        found
    }

    /// Refuses more than `most` entries.
    pub(super) fn at_most(&mut self, field: Field<'_, '_>, count: usize, most: usize) {
        if count > most {
            self.refuse(
                field.value.span,
                format!("`{}` has {count} entries, the most is {most}", field.doc.key),
                "leave some out, or split the app in two",
            );
        }
    }

    pub(super) fn boolean(&mut self, field: Field<'_, '_>) -> Option<bool> {
        let value = field.value.as_bool();
        if value.is_none() {
            self.wrong_type(field);
        }
        value
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, field: Field<'_, '_>, least: u32, most: u32) -> Option<u32> {
        self.long_number(field, least.into(), most.into())?.try_into().ok()
    }

    /// A whole number within bounds that may be more than 32 bits can hold.
    pub(super) fn long_number(&mut self, field: Field<'_, '_>, least: u64, most: u64) -> Option<u64> {
        let Some(number) = field.value.as_integer() else {
            self.wrong_type(field);
            return None;
        };
        match u64::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                self.out_of_range(field, &number.to_string(), &least.to_string(), &most.to_string());
                None
            }
        }
    }

    /// A size with its unit, in bytes within bounds.
    pub(super) fn size(&mut self, field: Field<'_, '_>, least: u64, most: u64) -> Option<u64> {
        let text = self.string(field)?;
        let unit = text.trim_end().ends_with(|c: char| c.is_ascii_alphabetic());
        let Some(size) = text.parse::<ByteSize>().ok().filter(|_| unit) else {
            let message = format!("`{}` is not a size with a unit", text.escape_debug());
            self.refuse(field.value.span, message, format!("write for example `{}`", field.doc.example));
            return None;
        };
        if !(least..=most).contains(&size.as_u64()) {
            let show = |bytes| ByteSize::b(bytes).display().iec().to_string();
            self.out_of_range(field, text, &show(least), &show(most));
            return None;
        }
        Some(size.as_u64())
    }

    /// A time with its unit, in whole milliseconds within bounds.
    pub(super) fn time(&mut self, field: Field<'_, '_>, least: Duration, most: Duration) -> Option<Duration> {
        let text = self.string(field)?;
        let Ok(time) = humantime::parse_duration(text) else {
            let message = format!("`{}` is not a time with a unit", text.escape_debug());
            self.refuse(field.value.span, message, format!("write for example `{}`", field.doc.example));
            return None;
        };
        if !(least..=most).contains(&time) {
            let show = |time: Duration| humantime::format_duration(time).to_string();
            self.out_of_range(field, text, &show(least), &show(most));
            return None;
        }
        if time.subsec_nanos() % 1_000_000 != 0 {
            let message = format!("`{}` is {text}; times are whole milliseconds", field.doc.key);
            self.refuse(field.value.span, message, format!("write `{}ms`", time.as_millis() + 1));
            return None;
        }
        Some(time)
    }

    fn out_of_range(&mut self, field: Field<'_, '_>, value: &str, least: &str, most: &str) {
        let message = format!("`{}` is {}, out of range", field.doc.key, value.escape_debug());
        self.refuse(field.value.span, message, format!("choose a value from {least} to {most}"));
    }
}

/// What a developer probably meant by an unknown key.
fn remedy_for_unknown(key: &str, doc: &TableDoc) -> String {
    if doc.keys.is_empty() {
        return "it has no keys; remove this one".into();
    }
    let known = || doc.keys.iter().map(|doc| format!("`{}`", doc.key)).collect::<Vec<_>>().join(", ");
    // Long keys are no typing errors, and the distance costs the product of both lengths.
    let short = key.len() <= 32;
    let nearest = doc.keys.iter().map(|doc| (strsim::damerau_levenshtein(&key.to_lowercase(), doc.key), doc.key));
    let nearest = short.then(|| nearest.min()).flatten();
    let guess = |known_key| format!("did you mean `{known_key}`? Known here are {}", known());
    // `lock` of a function is more likely its `locks` than the table of the app.
    let is_slip = |key: &str, distance| distance == 1 && key.len() >= 4;
    let home = reference().into_iter().find(|table| table.find(key).is_some());
    match (nearest, home) {
        (Some((distance, known_key)), Some(_)) if is_slip(known_key, distance) => guess(known_key),
        (_, Some(home)) => format!("it belongs to {}; known here are {}", home.called(), known()),
        (Some((distance, known_key)), None) if distance <= 1 + known_key.len() / 4 => guess(known_key),
        _ => format!("known here are {}", known()),
    }
}
