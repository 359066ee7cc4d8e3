//! Durations on the command line.

use std::time::Duration;

/// Reads a duration such as `30s`, `10m`, `2h` or `7d`, of at least a second: with none, what it is for would be over before it
/// begins.
pub fn positive(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 30s, 10m, 2h or 7d"))?;
    if duration < Duration::from_secs(1) {
        return Err("the least is 1s".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_at_least_a_second() {
        for (text, expected) in [
            ("1s", Ok(1)),
            ("7d", Ok(604_800)),
            ("1h 30m", Ok(5400)),
            ("0s", Err("the least is 1s")),
            ("999ms", Err("the least is 1s")),
            ("0d", Err("the least is 1s")),
            ("-1s", Err("write for example")),
            ("tomorrow", Err("write for example")),
            ("", Err("write for example")),
        ] {
            match (positive(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_secs(), expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
