//! Keeps the values of secrets out of what is logged.

use std::{fmt, sync::Arc};

use minnow_model::log::MAX_MESSAGE_BYTES;

/// What stands in the place of a secret.
const MASK: &str = "***";
/// Shorter values are not masked, in characters: they are in ordinary words, and masking them would tell where.
const LEAST_CHARS: usize = 4;

/// The secrets that a function was granted. Log lines hold `***` where one of them would be in full; so do the single lines
/// of one that has several, since a guest prints line by line. What a guest changes before it prints it, is not known again.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Arc<[Box<str>]>);

impl Secrets {
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let lines = |value: &'a str| value.lines().chain([value]);
        let mut all: Vec<&str> = values.into_iter().flat_map(lines).collect();
        all.retain(|value| value.chars().nth(LEAST_CHARS - 1).is_some());
        // The longest first: one that is part of another must not leave the rest of it to be read.
        all.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then(one.cmp(other)));
        all.dedup();
        Self(all.into_iter().map(Box::from).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text` without secrets.
    pub fn mask(&self, mut text: String) -> String {
        if self.0.is_empty() {
            return text;
        }
        let is_cut = text.len() > MAX_MESSAGE_BYTES;
        for secret in self.0.iter() {
            if text.contains(&**secret) {
                text = text.replace(&**secret, MASK);
            }
        }
        if is_cut { self.mask_end(text) } else { text }
    }

    /// `text` that was cut off, perhaps in the middle of a secret.
    fn mask_end(&self, mut text: String) -> String {
        // Of a character that was cut in two.
        while text.ends_with(char::REPLACEMENT_CHARACTER) {
            text.pop();
        }
        for secret in self.0.iter() {
            let ends = secret.char_indices().map(|(at, _)| at).skip(LEAST_CHARS);
            let begins = ends.filter_map(|end| secret.get(..end));
            // The longest beginning of it that the text ends with.
            if let Some(begin) = begins.filter(|begin| text.ends_with(begin)).last() {
                text.truncate(text.len() - begin.len());
                text.push_str(MASK);
                return text;
            }
        }
        text
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_masked_wherever_they_are_in_full() {
        for (secrets, text, expected) in [
            (&[][..], "sk_live_1", "sk_live_1"),
            (&["sk_live_1"], "key: sk_live_1.", "key: ***."),
            (&["sk_live_1"], "sk_live_1sk_live_1 sk_live_2", "****** sk_live_2"),
            (&["sk_live_1"], "sk_live_", "sk_live_"),
            (&["abc", "", "\n"], "abc and abcd", "abc and abcd"),
            (&["äöüß"], "äöüß", "***"),
            // One is part of the other.
            (&["pass", "password"], "password pass passwor", "*** *** ***wor"),
            (&["-----BEGIN-----\nMIIEvQ\r\nxy\n"], "MIIEvQ\n-----BEGIN-----, xy", "***\n***, xy"),
            (&["-----BEGIN-----\nMIIEvQ"], "got -----BEGIN-----\nMIIEvQ", "got ***"),
        ] {
            let masked = Secrets::new(secrets.iter().copied()).mask(text.into());
            assert_eq!(masked, expected, "{secrets:?}");
        }
    }

    #[test]
    fn a_line_that_is_cut_off_in_a_secret_does_not_show_its_beginning() {
        let secrets = Secrets::new(["sk_live_1äb"]);
        for (end, expected) in [
            ("sk_live_1", "***"),
            ("sk_live_1ä", "***"),
            ("sk_live_1\u{fffd}", "***"),
            ("sk_l", "***"),
            ("sk_", "sk_"),
            ("sk_live_1ä.", "sk_live_1ä."),
        ] {
            let text = "x".repeat(MAX_MESSAGE_BYTES);
            assert_eq!(secrets.mask(format!("{text}{end}")), format!("{text}{expected}"), "{end}");
            assert_eq!(secrets.mask(end.into()), end, "a line that is whole");
        }
    }

    #[test]
    fn no_secret_is_shown_by_its_list() {
        assert_eq!(format!("{:?}", Secrets::new(["sk_live_1"])), "1 secrets");
    }
}
