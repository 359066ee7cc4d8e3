//! When a function runs by the clock.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use croner::parser::{CronParser, Seconds, Year};
use jiff::{Timestamp, tz::TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use crate::name::ScheduleName;

/// The most schedules of one function.
pub const MAX_SCHEDULES: usize = 100;
/// The most schedules of one app. Each costs the node a place in its timer.
pub const MAX_APP_SCHEDULES: usize = 1000;
/// What `@every` takes. The timer of a node is not made for less than a second.
pub const EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
/// The longest expression, in bytes: five fields of every minute, hour, day and month by number fit.
pub const MAX_CRON_BYTES: usize = 512;

/// One schedule of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireSchedule", into = "WireSchedule")]
pub struct Schedule {
    pub name: ScheduleName,
    pub when: When,
    pub overlap: Overlap,
    pub missed: Missed,
}

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum When {
    /// An expression of five fields, kept as text: parsed it takes more than 5 KB.
    Cron { text: Arc<str>, zone: Zone },
    /// Again and again after this time.
    Every(Duration),
    /// Once, in milliseconds since 1970.
    At(u64),
}

/// The name of a time zone of the IANA database, as that writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Zone(Arc<str>);

/// What happens to a tick that is due while the one before is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It does not run.
    #[default]
    Skip,
    /// It runs after the one before.
    Queue,
}

impl Overlap {
    /// What the manifest may say.
    pub const ALL: [Self; 2] = [Self::Skip, Self::Queue];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }

    fn is_skip(&self) -> bool {
        *self == Self::Skip
    }
}

/// What happens to the ticks that were due while the node was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// The last of them runs.
    #[default]
    Once,
    /// None runs.
    Skip,
}

impl Missed {
    /// What the manifest may say.
    pub const ALL: [Self; 2] = [Self::Once, Self::Skip];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Skip => "skip",
        }
    }

    fn is_once(&self) -> bool {
        *self == Self::Once
    }
}

/// Why a schedule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct ScheduleError {
    /// What is wrong.
    pub reason: String,
    /// How to mend it.
    pub remedy: String,
}

impl ScheduleError {
    fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

impl Zone {
    /// A zone of the database that this program holds; no file of the machine is read, so that every machine agrees.
    pub fn new(name: &str) -> Result<Self, ScheduleError> {
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| {
            let reason = format!("there is no time zone `{}`", name.escape_debug());
            ScheduleError::new(reason, "write a name such as `Europe/Oslo` or `UTC`")
        })?;
        Ok(Self(zone.iana_name().unwrap_or("UTC").into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One field of an expression.
struct FieldRule {
    name: &'static str,
    least: u8,
    most: u8,
    /// Names of the values from `least` on.
    names: &'static [&'static str],
}

const FIELDS: [FieldRule; 5] = [
    FieldRule { name: "minute", least: 0, most: 59, names: &[] },
    FieldRule { name: "hour", least: 0, most: 23, names: &[] },
    FieldRule { name: "day of the month", least: 1, most: 31, names: &[] },
    FieldRule {
        name: "month",
        least: 1,
        most: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    FieldRule { name: "day of the week", least: 0, most: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] },
];

/// Short words for expressions, as Vixie cron has them.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// The days of the longest month of each number: February has 29 at times.
const DAYS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl FieldRule {
    fn value(&self, text: &str) -> Result<u8, ScheduleError> {
        let named = self.names.iter().zip(self.least..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        let number = || text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value = named.map(|(_, value)| value).or_else(number);
        value.filter(|value| (self.least..=self.most).contains(value)).ok_or_else(|| {
            let reason = match text.chars().find(|c| matches!(c.to_ascii_uppercase(), 'L' | 'W' | '#' | '+' | '?')) {
                Some(sign) if !text.chars().all(|c| c.is_ascii_alphabetic()) || text.len() == 1 => {
                    format!("the {} `{}` has `{sign}`, which not every cron has", self.name, text.escape_debug())
                }
                _ => format!("the {} is `{}`", self.name, text.escape_debug()),
            };
            let names = match (self.names.first(), self.names.last()) {
                (Some(first), Some(last)) => format!(" or {first} to {last}"),
                _ => String::new(),
            };
            ScheduleError::new(
                reason,
                format!("write numbers from {} to {}{names}, with `*`, `,`, `-` and `/`", self.least, self.most),
            )
        })
    }

    /// The values of a field, a bit for each.
    fn values(&self, text: &str) -> Result<u64, ScheduleError> {
        let mut values = 0;
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (item, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                Some((first, last)) => (self.value(first)?, self.value(last)?),
                None => {
                    let value = self.value(range)?;
                    if step.is_some() {
                        let reason = format!("the {} `{}` has a step and no range", self.name, item.escape_debug());
                        return Err(ScheduleError::new(reason, format!("write `{value}-{}/…`, or `*/…`", self.most)));
                    }
                    (value, value)
                }
            };
            if first > last {
                let reason = format!("the {} `{}` goes backwards", self.name, item.escape_debug());
                return Err(ScheduleError::new(reason, "write the two parts with a `,` between them"));
            }
            let step = match step {
                None => 1,
                Some(step) => match step.parse::<u8>() {
                    Ok(step) if (1..=self.most).contains(&step) => step,
                    _ => {
                        let reason = format!("the {} `{}` has no step that works", self.name, item.escape_debug());
                        return Err(ScheduleError::new(reason, format!("write a step from 1 to {}", self.most)));
                    }
                },
            };
            values |= (first..=last).step_by(step.into()).fold(0_u64, |bits, value| bits | 1 << value);
        }
        Ok(values)
    }
}

/// An expression with one space between its fields and its short word written out, once it is known to be right and to be due
/// at some time.
fn check_cron(text: &str) -> Result<String, ScheduleError> {
    let shown = text.escape_debug();
    let example = "write five fields (minute, hour, day, month, day of the week) such as `*/5 * * * *`, `@daily`, or `@every 10s`";
    if text.len() > MAX_CRON_BYTES {
        let reason = format!("the expression has {} bytes, the most is {MAX_CRON_BYTES}", text.len());
        return Err(ScheduleError::new(reason, "split it in two schedules"));
    }
    if text.starts_with('@') {
        let word = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        let Some((_, fields)) = word else {
            let words: Vec<_> = WORDS.iter().map(|(word, _)| *word).collect();
            let reason = format!("`{shown}` is no schedule");
            return Err(ScheduleError::new(reason, format!("write {} or `@every 10s`", words.join(", "))));
        };
        return Ok((*fields).to_owned());
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, _, day, month, week] = fields.as_slice() else {
        let reason = format!("`{shown}` has {} fields", fields.len());
        let remedy = match fields.len() {
            6 | 7 => "there is no field for seconds or years: write five fields, or `@every 10s` for seconds",
            _ => example,
        };
        return Err(ScheduleError::new(reason, remedy));
    };
    let mut values = Vec::new();
    for (rule, field) in FIELDS.iter().zip(&fields) {
        values.push(rule.values(field)?);
    }
    if *week == "*"
        && let [_, _, days, months, _] = values.as_slice()
    {
        let has_day = |month: u8, most: u8| months & 1 << month != 0 && (1..=most).any(|day| days & 1 << day != 0);
        if !(1..).zip(DAYS).any(|(month, most)| has_day(month, most)) {
            let reason = format!("`{shown}` is never due: no month of `{month}` has the day `{day}`");
            return Err(ScheduleError::new(reason, "write a day that the month has"));
        }
    }
    let text = fields.join(" ");
    parse_cron(&text).map_err(|error| ScheduleError::new(format!("`{shown}`: {error}"), example))?;
    Ok(text)
}

fn parse_cron(text: &str) -> Result<croner::Cron, croner::errors::CronError> {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text)
}

impl When {
    /// Reads the `cron` of a schedule: five fields, `@daily` and its kin, or `@every 10s`. `zone` is `None` where none is given,
    /// which is UTC.
    pub fn parse(cron: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        if let Some(time) = cron.strip_prefix("@every") {
            if zone.is_some() {
                return Err(ScheduleError::new("`@every` knows no time zone", "remove `timezone`"));
            }
            return Self::every(cron, time.trim());
        }
        let zone = Zone::new(zone.unwrap_or("UTC"))?;
        Ok(Self::Cron { text: check_cron(cron)?.into(), zone })
    }

    fn every(shown: &str, time: &str) -> Result<Self, ScheduleError> {
        let shown = shown.escape_debug();
        let Ok(time) = humantime::parse_duration(time) else {
            let reason = format!("`{shown}` has no time with a unit");
            return Err(ScheduleError::new(reason, "write for example `@every 10s`"));
        };
        if !EVERY.contains(&time) || time.subsec_nanos() % 1_000_000 != 0 {
            return Err(ScheduleError::new(
                format!("`{shown}` is out of range"),
                "write a time from 1s to 366days, in whole milliseconds",
            ));
        }
        Ok(Self::Every(time))
    }

    /// Reads the `at` of a schedule: a time of RFC 3339 with its offset.
    pub fn parse_at(text: &str) -> Result<Self, ScheduleError> {
        let time = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
        time.map(Self::At).ok_or_else(|| {
            let reason = format!("`{}` is not a time with an offset", text.escape_debug());
            ScheduleError::new(reason, "write for example `2026-12-24T18:00:00+01:00`")
        })
    }

    /// The first time after `after_ms` at which it is due, in milliseconds since 1970; `None` if there is none. `since_ms` is
    /// where `@every` begins to count.
    ///
    /// In a zone whose clocks change, a fixed time that is left out comes right after the gap, and one that comes twice counts
    /// once; `*` and `*/n` count in both passes (as Vixie cron has it).
    pub fn next_after(&self, since_ms: u64, after_ms: u64) -> Option<u64> {
        match self {
            Self::At(ms) => (*ms > after_ms).then_some(*ms),
            Self::Every(time) => {
                let every = u64::try_from(time.as_millis()).ok().filter(|every| *every > 0)?;
                let passed = after_ms.checked_sub(since_ms).map_or(0, |passed| passed / every);
                since_ms.checked_add(passed.checked_add(1)?.checked_mul(every)?)
            }
            Self::Cron { text, zone } => {
                let seconds = i64::try_from(after_ms / 1000).ok()?;
                let zone = TimeZoneDatabase::bundled().get(zone.as_str()).ok()?;
                let after = Timestamp::from_second(seconds).ok()?.to_zoned(zone);
                let next = parse_cron(text).ok()?.find_next_occurrence(&after, false).ok()?;
                u64::try_from(next.timestamp().as_millisecond()).ok()
            }
        }
    }

    /// The expression: what `cron` says of it; `None` for a time that comes once.
    pub fn cron(&self) -> Option<String> {
        match self {
            Self::Cron { text, .. } => Some(text.to_string()),
            Self::Every(time) => Some(format!("@every {}", humantime::format_duration(*time))),
            Self::At(_) => None,
        }
    }
}

/// As people read it: `*/5 * * * * Europe/Oslo`, `@every 10s`, `2026-12-24T17:00:00Z`. Two that differ are written differently.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron { text, zone } => write!(f, "{text} {zone}"),
            Self::Every(time) => write!(f, "@every {}", humantime::format_duration(*time)),
            Self::At(ms) => f.write_str(&super::time_text(*ms)),
        }
    }
}

/// A schedule as it stands in a bundle's config.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSchedule {
    name: ScheduleName,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Overlap::is_skip", default)]
    overlap: Overlap,
    #[serde(skip_serializing_if = "Missed::is_once", default)]
    missed: Missed,
}

impl TryFrom<WireSchedule> for Schedule {
    type Error = ScheduleError;

    fn try_from(wire: WireSchedule) -> Result<Self, ScheduleError> {
        let when = match (wire.cron, wire.at_ms, &wire.timezone) {
            (Some(cron), None, zone) => When::parse(&cron, zone.as_deref())?,
            (None, Some(at_ms), None) => When::At(at_ms),
            _ => {
                let reason = format!("the schedule `{}` has neither `cron` nor `at_ms`, or both", wire.name);
                return Err(ScheduleError::new(reason, "give it one of them, and `timezone` only with `cron`"));
            }
        };
        Ok(Self { name: wire.name, when, overlap: wire.overlap, missed: wire.missed })
    }
}

impl From<Schedule> for WireSchedule {
    fn from(schedule: Schedule) -> Self {
        let Schedule { name, when, overlap, missed } = schedule;
        let cron = when.cron();
        let (timezone, at_ms) = match when {
            When::Cron { zone, .. } => (Some(zone.to_string()), None),
            When::Every(_) => (None, None),
            When::At(ms) => (None, Some(ms)),
        };
        Self { name, cron, timezone, at_ms, overlap, missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond().try_into().unwrap()
    }

    /// The next three times after `after`, as UTC writes them.
    fn next(cron: &str, zone: &str, after: &str) -> Vec<String> {
        let when = When::parse(cron, (!zone.is_empty()).then_some(zone)).unwrap();
        let mut at = ms(after);
        let mut times = Vec::new();
        while times.len() < 3 {
            let Some(next) = when.next_after(ms("2026-01-01T00:00:00Z"), at) else { break };
            assert!(next > at);
            times.push(super::super::time_text(next));
            at = next;
        }
        times
    }

    #[test]
    fn the_next_times_of_an_expression() {
        for (cron, zone, after, expected) in [
            ("*/5 * * * *", "UTC", "2026-11-27T10:02:00Z", ["27T10:05:00Z", "27T10:10:00Z", "27T10:15:00Z"]),
            ("*/5 * * * *", "UTC", "2026-11-27T10:05:00Z", ["27T10:10:00Z", "27T10:15:00Z", "27T10:20:00Z"]),
            ("*/5 * * * *", "UTC", "2026-11-27T10:04:59.999Z", ["27T10:05:00Z", "27T10:10:00Z", "27T10:15:00Z"]),
            ("*/5 * * * *", "UTC", "2026-11-27T10:05:00.001Z", ["27T10:10:00Z", "27T10:15:00Z", "27T10:20:00Z"]),
            ("@daily", "UTC", "2026-11-27T10:05:00Z", ["28T00:00:00Z", "29T00:00:00Z", "30T00:00:00Z"]),
            ("@Weekly", "", "2026-11-27T10:05:00Z", ["29T00:00:00Z", "06T00:00:00Z", "13T00:00:00Z"]),
            (
                "0 9 * * mon-fri",
                "Europe/Oslo",
                "2026-11-27T10:05:00Z",
                ["30T08:00:00Z", "01T08:00:00Z", "02T08:00:00Z"],
            ),
            ("0 0 29 2 *", "UTC", "2026-11-27T10:05:00Z", ["2028-02-29T00:00:00Z", "2032-02-29T", "2036-02-29T"]),
            // Oslo leaves out 02:00 to 03:00 on 2026-03-29: right after the gap.
            ("30 2 * * *", "Europe/Oslo", "2026-03-28T12:00:00Z", ["29T01:00:00Z", "30T00:30:00Z", "31T00:30:00Z"]),
            // It has 02:00 to 03:00 twice on 2026-10-25: a fixed time once, `*/n` in both passes.
            ("30 2 * * *", "Europe/Oslo", "2026-10-24T12:00:00Z", ["25T00:30:00Z", "26T01:30:00Z", "27T01:30:00Z"]),
            ("*/30 * * * *", "Europe/Oslo", "2026-10-25T00:00:00Z", ["25T00:30:00Z", "25T01:00:00Z", "25T01:30:00Z"]),
            // Lord Howe moves its clocks by half an hour.
            (
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-02T16:00:00Z",
                ["03T15:30:00Z", "04T15:15:00Z", "05T15:15:00Z"],
            ),
            ("@every 90s", "", "2026-01-01T00:02:00Z", ["01T00:03:00Z", "01T00:04:30Z", "01T00:06:00Z"]),
            ("@every 90s", "", "2025-01-01T00:00:00Z", ["2026-01-01T00:01:30Z", "01T00:03:00Z", "01T00:04:30Z"]),
        ] {
            let times = next(cron, zone, after);
            assert_eq!(times.len(), 3, "{cron} {zone}");
            for (time, expected) in times.iter().zip(expected) {
                assert!(time.contains(expected), "{cron} {zone} after {after}: {times:?}");
            }
        }
        assert_eq!(When::At(5).next_after(0, 4), Some(5));
        assert_eq!(When::At(5).next_after(0, 5), None);
        assert_eq!(When::Every(Duration::from_secs(1)).next_after(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn what_is_no_schedule_is_told_with_the_remedy() {
        for (cron, zone, expected) in [
            ("", None, "`` has 0 fields; write five fields"),
            ("* * * *", None, "has 4 fields; write five fields"),
            ("0 */5 * * * *", None, "has 6 fields; there is no field for seconds"),
            ("60 * * * *", None, "the minute is `60`; write numbers from 0 to 59, with"),
            ("* 24 * * *", None, "the hour is `24`"),
            ("* * 0 * *", None, "the day of the month is `0`; write numbers from 1 to 31"),
            ("* * * FOO *", None, "the month is `FOO`; write numbers from 1 to 12 or JAN to DEC"),
            ("* * * * 8", None, "the day of the week is `8`; write numbers from 0 to 7 or SUN to SAT"),
            ("* * L * *", None, "the day of the month `L` has `L`, which not every cron has"),
            ("* * 15W * *", None, "has `W`, which not every cron has"),
            ("* * * * 5#3", None, "has `#`, which not every cron has"),
            ("* * ? * *", None, "has `?`, which not every cron has"),
            ("* * 1 * +MON", None, "has `+`, which not every cron has"),
            ("*/0 * * * *", None, "the minute `*/0` has no step that works; write a step from 1 to 59"),
            ("5/15 * * * *", None, "the minute `5/15` has a step and no range; write `5-59/…`"),
            ("50-10 * * * *", None, "the minute `50-10` goes backwards"),
            ("1,,2 * * * *", None, "the minute is ``"),
            ("-1 * * * *", None, "the minute is ``"),
            ("+1 * * * *", None, "the minute `+1` has `+`"),
            ("0 0 30 2 *", None, "`0 0 30 2 *` is never due: no month of `2` has the day `30`"),
            ("0 0 31 feb,apr,JUN,9-9,11 *", None, "is never due"),
            ("@reboot", None, "`@reboot` is no schedule; write @yearly"),
            ("@every", None, "`@every` has no time with a unit; write for example `@every 10s`"),
            ("@every 5", None, "has no time with a unit"),
            ("@every 10ms", None, "`@every 10ms` is out of range; write a time from 1s to 366days"),
            ("@every 367d", None, "is out of range"),
            ("@every 1s", Some("UTC"), "`@every` knows no time zone"),
            ("@daily", Some("Europe/Olso"), "there is no time zone `Europe/Olso`; write a name such as `Europe/Oslo`"),
            ("@daily", Some("../etc/passwd"), "there is no time zone"),
        ] {
            let error = When::parse(cron, zone).unwrap_err().to_string();
            assert!(error.contains(expected), "{cron}: {error}");
        }
        let long = format!("{}0 * * * *", "0,".repeat(300));
        assert!(When::parse(&long, None).unwrap_err().to_string().contains("the most is 512"));
        for at in ["2026-12-24", "2026-12-24T18:00:00", "tomorrow", "1969-12-31T00:00:00Z"] {
            assert!(When::parse_at(at).unwrap_err().to_string().contains("is not a time with an offset"), "{at}");
        }
        assert_eq!(When::parse_at("1970-01-01T01:00:01+01:00"), Ok(When::At(1000)));
    }

    #[test]
    fn a_day_that_is_there_in_some_month_or_week_is_due() {
        for cron in ["0 0 31 2 MON", "0 0 30 2,3 *", "0 0 29 2 *", "0 0 31 */2 *", "0 0 * 2 *"] {
            let when = When::parse(cron, None).unwrap();
            assert!(when.next_after(0, ms("2026-01-01T00:00:00Z")).is_some(), "{cron}");
        }
    }

    #[test]
    fn a_schedule_is_written_as_it_is_read() {
        for (json, shown) in [
            (r#"{"name":"sweep","cron":"*/5 * * * *","timezone":"Europe/Oslo"}"#, "*/5 * * * * Europe/Oslo"),
            (r#"{"name":"sweep","cron":"@every 1m 30s"}"#, "@every 1m 30s"),
            (r#"{"name":"party","at_ms":1000,"overlap":"queue","missed":"skip"}"#, "1970-01-01T00:00:01Z"),
        ] {
            let schedule: Schedule = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&schedule).unwrap(), json);
            assert_eq!(schedule.when.to_string(), shown);
        }
        for bad in [
            r#"{"name":"a"}"#,
            r#"{"name":"a","cron":"@daily","at_ms":1}"#,
            r#"{"name":"a","at_ms":1,"timezone":"UTC"}"#,
            r#"{"name":"a","cron":"0 0 30 2 *"}"#,
            r#"{"name":"A","cron":"@daily"}"#,
            r#"{"name":"a","cron":"@daily","x":1}"#,
        ] {
            assert!(serde_json::from_str::<Schedule>(bad).is_err(), "{bad}");
        }
    }
}
