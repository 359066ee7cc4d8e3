//! How a function is invoked without anybody waiting for it.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Backoff, MAX_RETRIES};
use crate::{
    EgressRule, StoreName,
    egress::{HostPattern, any_allows},
};

/// The retries of an asynchronous invoke, unless its function says otherwise: as many as Lambda has.
pub const DEFAULT_ASYNC_RETRIES: u32 = 2;
/// The waits between its tries, likewise: whoever waits for no answer can wait until something has been mended.
pub const DEFAULT_ASYNC_BACKOFF: Backoff = Backoff { least: Duration::from_secs(60), most: Duration::from_secs(300) };
/// How old it may become before it is given up, likewise: Lambda's six hours.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(6 * 3600);
/// The least and the most of that. A week is as long as a message can be held back.
pub const MAX_AGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
/// The longest URL of a destination, in bytes: what servers and proxies commonly take.
pub const MAX_URL_BYTES: usize = 2048;

/// What happens to the asynchronous invokes of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Async {
    /// How often one that failed is tried again after the first time.
    pub retries: u32,
    pub backoff: Backoff,
    /// One that is older has failed.
    #[serde(rename = "max_age_ms", with = "crate::duration::millis")]
    pub max_age: Duration,
    /// Who is told of one that worked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on_success: Option<Destination>,
    /// Who is told of one that never worked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on_failure: Option<Destination>,
}

impl Default for Async {
    fn default() -> Self {
        Self {
            retries: DEFAULT_ASYNC_RETRIES,
            backoff: DEFAULT_ASYNC_BACKOFF,
            max_age: DEFAULT_MAX_AGE,
            on_success: None,
            on_failure: None,
        }
    }
}

impl Async {
    /// Its destinations, each with the key that names it.
    pub fn destinations(&self) -> impl Iterator<Item = (&'static str, &Destination)> {
        let both = [("on_success", &self.on_success), ("on_failure", &self.on_failure)];
        both.into_iter().filter_map(|(key, destination)| Some((key, destination.as_ref()?)))
    }

    /// What is wrong with it, but for its destinations; `None` when it is sound.
    pub(crate) fn mistake(&self) -> Option<String> {
        let show = humantime::format_duration;
        if self.retries > MAX_RETRIES {
            return Some(format!("`retries` is {}, the most is {MAX_RETRIES}", self.retries));
        }
        if let Some(mistake) = self.backoff.mistake() {
            return Some(format!("`backoff`: {mistake}"));
        }
        (!MAX_AGE.contains(&self.max_age)).then(|| {
            let (least, most) = (show(*MAX_AGE.start()), show(*MAX_AGE.end()));
            format!("`max_age` is {}; it is from {least} to {most}", show(self.max_age))
        })
    }
}

/// Who is told what became of an asynchronous invoke: a topic of the app, or a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Topic(StoreName),
    Url(DestinationUrl),
}

/// An absolute URL of `http` or `https`, without user, password and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationUrl {
    text: Arc<str>,
    /// What it would have to match: its scheme, host and port.
    place: EgressRule,
}

/// Why a destination was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct DestinationError {
    /// What is wrong.
    pub reason: String,
    /// How to mend it.
    pub remedy: String,
}

impl DestinationUrl {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a function with these rules may send something there.
    pub fn is_allowed(&self, rules: &[EgressRule]) -> bool {
        let Some(scheme) = self.place.scheme else { return false };
        let host = match &self.place.host {
            HostPattern::Name(name) => name.clone(),
            HostPattern::Address(address) => address.to_string(),
            HostPattern::Any | HostPattern::Below(_) => return false,
        };
        any_allows(rules, scheme.as_str(), &host, self.place.port.unwrap_or(scheme.default_port()))
    }

    /// The rule that would allow it.
    pub fn rule(&self) -> String {
        let end = self.text.find("://").map_or(0, |at| at + 3);
        let rest = self.text.get(end..).unwrap_or_default();
        let host = rest.find(['/', '?']).map_or(rest.len(), |at| at);
        self.text.get(..end + host).unwrap_or_default().to_owned()
    }
}

impl FromStr for DestinationUrl {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        const EXAMPLE: &str = "write for example `https://ops.example/hook`";
        let refuse = |reason: String, remedy: &str| Err(DestinationError { reason, remedy: remedy.into() });
        if text.len() > MAX_URL_BYTES {
            return refuse(format!("the URL has {} bytes", text.len()), "use at most 2048");
        }
        // What is neither printed nor ASCII stands in no URL.
        if let Some(c) = text
            .chars()
            .find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
        {
            return refuse(format!("the URL holds {c:?}, which no URL can"), "percent-encode it");
        }
        if text.contains('#') {
            return refuse("the URL has a fragment, which is not sent".into(), "remove what begins with `#`");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse(format!("`{text}` is no URL"), EXAMPLE);
        };
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let place: EgressRule = format!("{scheme}://{host}").parse().map_err(|error: crate::egress::EgressError| {
            DestinationError { reason: error.reason, remedy: error.remedy }
        })?;
        if !matches!(place.host, HostPattern::Name(_) | HostPattern::Address(_)) {
            return refuse("a URL has one host, not a pattern".into(), EXAMPLE);
        }
        Ok(Self { text: text.into(), place })
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if text.contains("://") {
            return text.parse().map(Self::Url);
        }
        text.parse().map(Self::Topic).map_err(|error: crate::name::NameError| DestinationError {
            reason: format!("neither a URL nor the name of a topic: {error}"),
            remedy: "write the name of a topic, or a URL as `https://ops.example/hook`".into(),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => name.fmt(f),
            Self::Url(url) => f.write_str(&url.text),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_topic_or_a_url_with_one_host() {
        for text in
            ["orders", "https://ops.example/hook", "http://127.0.0.1:8080/?a=b", "https://[::1]:1/x", "HTTP://A.b"]
        {
            let read: Destination = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), text);
            assert_eq!(matches!(read, Destination::Url(_)), text.contains("://"), "{text}");
        }
        let long = format!("https://a/{}", "x".repeat(2048));
        for (text, part) in [
            ("Orders", "neither a URL nor the name of a topic"),
            ("", "neither a URL nor"),
            ("ftp://a.example/", "not a scheme"),
            ("https://*.example/", "one host, not a pattern"),
            ("https:///x", "host"),
            ("https://me:secret@a.example/", "no user or password"),
            ("https://a.example/#top", "has a fragment"),
            ("https://a.example/a b", "holds ' ', which no URL can; percent-encode it"),
            ("https://a.example/å", "holds 'å'"),
            (&long, "has 2058 bytes; use at most 2048"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_url_is_allowed_by_the_rules_that_allow_its_host() {
        let rules = |rules: &[&str]| rules.iter().map(|rule| rule.parse().unwrap()).collect::<Vec<EgressRule>>();
        for (url, allowed, rule) in [
            ("https://ops.example/hook", true, "https://ops.example"),
            ("https://OPS.example?x", true, "https://OPS.example"),
            ("http://ops.example/hook", false, "http://ops.example"),
            ("https://ops.example:8443/hook", false, "https://ops.example:8443"),
            ("https://other.example", false, "https://other.example"),
            ("http://[::1]:9/x", true, "http://[::1]:9"),
        ] {
            let url: DestinationUrl = url.parse().unwrap();
            assert_eq!(url.is_allowed(&rules(&["https://ops.example", "http://[::1]:9"])), allowed, "{url:?}");
            assert!(url.is_allowed(&rules(&[&url.rule()])), "{url:?}");
            assert_eq!(url.rule(), rule);
            assert!(!url.is_allowed(&[]));
        }
    }

    #[test]
    fn bounds_are_told() {
        assert_eq!(Async::default().mistake(), None);
        for (asynchronous, part) in [
            (Async { retries: 1001, ..Async::default() }, "`retries` is 1001, the most is 1000"),
            (
                Async { max_age: Duration::from_millis(999), ..Async::default() },
                "`max_age` is 999ms; it is from 1s to 7days",
            ),
            (
                Async { backoff: Backoff { least: Duration::ZERO, most: Duration::ZERO }, ..Async::default() },
                "`backoff`: waits are from",
            ),
        ] {
            assert!(asynchronous.mistake().unwrap().contains(part), "{asynchronous:?}");
        }
    }
}
