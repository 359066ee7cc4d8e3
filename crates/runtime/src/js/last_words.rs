//! What a process says on its standard error, of which the end tells why it has ended.
//!
//! V8 gives up in some ten lines, of which one has the reason. That one belongs to the line that tells of the process's end,
//! and the others say nothing to whoever wrote the function.

use super::sandbox::says_out_of_memory;

/// How much is kept.
const MAX_BYTES: usize = 4096;

/// What Deno says when it finds no memory for its threads.
const NO_THREADS: &str = "unable to create worker threads";

/// The last lines of the standard error, without those around V8's reasons.
#[derive(Debug, Default)]
pub(super) struct LastWords(String);

impl LastWords {
    /// Takes a line. Whether it is for the function's log.
    pub(super) fn hear(&mut self, line: &str) -> bool {
        if line.trim().is_empty() || is_around_a_reason(line) {
            return false;
        }
        let reason = reason(line);
        self.0.push_str(reason.unwrap_or(line));
        self.0.push('\n');
        if self.0.len() > MAX_BYTES {
            let start = self.0.ceil_char_boundary(self.0.len() - MAX_BYTES);
            self.0.drain(..start);
        }
        reason.is_none()
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.trim()
    }

    /// Whether it ended for want of memory.
    pub(super) fn say_out_of_memory(&self) -> bool {
        // Where no stack for a thread finds room, Deno says only that.
        self.0.lines().any(says_out_of_memory) || self.0.contains(NO_THREADS)
    }
}

/// Why V8 gives up: the line in the middle of what `V8_Fatal` and `FatalOOM` print (`src/base/logging.cc` in its sources).
fn reason(line: &str) -> Option<&str> {
    let text = line.strip_prefix("# ")?;
    let begins = ["Fatal JavaScript ", "Fatal process ", "Fatal error in "];
    begins.iter().any(|begin| text.starts_with(begin)).then_some(text)
}

/// Whether a line is of what V8 prints before and after a reason: its last collections, and the stack of its own code.
fn is_around_a_reason(line: &str) -> bool {
    let is_heading = ["#", "<--- Last few GCs --->", "<--- JS stacktrace --->"].contains(&line)
        || line.starts_with("==== C stack trace ====");
    let is_collection = line.starts_with('[') && line.contains(":0x") && line.contains(" ms: ");
    let is_frame = line.starts_with("    /") && line.contains(" [0x") && line.ends_with(']');
    is_heading || is_collection || is_frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of a standard error, and what of it is for the function's log.
    fn heard(text: &str) -> (LastWords, Vec<&str>) {
        let mut last_words = LastWords::default();
        let logged = text.lines().filter(|line| last_words.hear(line)).collect();
        (last_words, logged)
    }

    /// Deno 2.9.6 with more than its heap takes.
    const OUT_OF_MEMORY: &str = "before

<--- Last few GCs --->

[2624:0x55e381f52000]      223 ms: Mark-Compact (reduce) 60.2 (60.7) -> 60.2 (60.7) MB, pooled: 0.0 MB, 13.63 / 0.00 ms
[2624:0x55e381f52000]      239 ms: Mark-Compact (reduce) 60.2 (60.7) -> 60.2 (60.7) MB, pooled: 0.0 MB, 15.54 / 0.00 ms



#
# Fatal JavaScript out of memory: Reached heap limit
#
==== C stack trace ===============================

    /bin/deno(+0x28b0d2e) [0x55e342d31d2e]
";

    #[test]
    fn of_what_v8_says_when_it_gives_up_only_the_reason_is_kept() {
        let (last_words, logged) = heard(OUT_OF_MEMORY);
        assert_eq!(logged, ["before"]);
        assert_eq!(last_words.as_str(), "before\nFatal JavaScript out of memory: Reached heap limit");
        assert!(last_words.say_out_of_memory());
    }

    #[test]
    fn what_a_function_writes_is_for_its_log() {
        let text = "# A heading\n[1] a list\n    /path [0]\nFatal error in my program: out of memory\n";
        let (last_words, logged) = heard(text);
        assert_eq!(logged, text.lines().collect::<Vec<_>>());
        assert!(!last_words.say_out_of_memory());
    }

    #[test]
    fn the_last_words_are_kept_however_much_was_said_before() {
        let (last_words, _) = heard(&format!("{}memory allocation of 9 bytes failed\n", "é word\n".repeat(MAX_BYTES)));
        assert!(last_words.say_out_of_memory());
        assert!(last_words.as_str().len() <= MAX_BYTES);
    }
}
