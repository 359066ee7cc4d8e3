//! Where a function may send requests: the manifest's `egress` rules, and the addresses that are refused whatever the
//! rules say.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// One `egress` entry: `[SCHEME://]HOST[:PORT]`. HOST may start with `*.` (any subdomain, not the domain itself) or be `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressRule {
    /// `http` or `https`; `None` allows both.
    pub scheme: Option<Scheme>,
    pub host: HostPattern,
    /// `None` allows the scheme's default port only (80, 443).
    pub port: Option<u16>,
}

/// The schemes of outbound requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port when a URL names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Reads a scheme in any case; `None` when it is neither of the two.
    pub fn read(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }
}

/// Which hosts a rule names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `*.example.org`: every host below `example.org`, at any depth. Lower case, without the `*.`.
    Below(String),
    /// One host name, in lower case.
    Name(String),
    /// One address, written as it is in a URL (IPv6 in brackets).
    Address(IpAddr),
}

/// Why an egress rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct EgressError {
    /// What is wrong.
    pub reason: String,
    /// How to mend it.
    pub remedy: String,
}

impl EgressError {
    fn new<T>(reason: impl Into<String>, remedy: impl Into<String>) -> Result<T, Self> {
        Err(Self { reason: reason.into(), remedy: remedy.into() })
    }
}

impl EgressRule {
    /// Whether this rule allows a request. `host` is a name or an address as it stands in a URL, in any case.
    pub fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        let Some(scheme) = Scheme::read(scheme) else { return false };
        self.scheme.is_none_or(|only| only == scheme)
            && port == self.port.unwrap_or(scheme.default_port())
            && self.host.matches(host)
    }
}

/// Whether one of `rules` allows a request; without rules nothing is allowed.
pub fn any_allows(rules: &[EgressRule], scheme: &str, host: &str, port: u16) -> bool {
    rules.iter().any(|rule| rule.allows(scheme, host, port))
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        // `example.com.` is the same host, written in full.
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Any => !host.is_empty(),
            Self::Name(name) => name.eq_ignore_ascii_case(host),
            Self::Below(domain) => {
                let Some(dot) = host.len().checked_sub(domain.len() + 1) else { return false };
                let (Some(label), Some(end)) = (host.get(..dot), host.get(dot..)) else { return false };
                !label.is_empty() && end.strip_prefix('.').is_some_and(|end| end.eq_ignore_ascii_case(domain))
            }
            Self::Address(address) => read_address(host).is_some_and(|host| host == *address),
        }
    }
}

/// An address as a URL writes it: IPv6 in brackets, or bare where nothing follows it.
fn read_address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(host) => host.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

impl FromStr for EgressRule {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => match Scheme::read(scheme) {
                Some(scheme) => (Some(scheme), rest),
                None => {
                    return EgressError::new(
                        format!("`{scheme}` is not a scheme that functions can call"),
                        "write `http://`, `https://` or no scheme for both",
                    );
                }
            },
            None => (None, text),
        };
        if let Some((host, _)) = rest.split_once(['/', '?', '#']) {
            return EgressError::new(
                "a rule names a host, not a path",
                format!("write `{}{host}`", scheme.map(|scheme| format!("{}://", scheme.as_str())).unwrap_or_default()),
            );
        }
        if rest.contains('@') {
            return EgressError::new(
                "a rule holds no user or password",
                "write the host only and keep secrets elsewhere",
            );
        }
        // A bare IPv6 address is all colons; with a port it needs its brackets.
        if let Ok(address) = rest.parse::<Ipv6Addr>() {
            return Ok(Self { scheme, host: HostPattern::Address(address.into()), port: None });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(read_port(port)?)),
            _ => (rest, None),
        };
        Ok(Self { scheme, host: host.parse()?, port })
    }
}

fn read_port(text: &str) -> Result<u16, EgressError> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => EgressError::new(format!("`{}` is not a port", text.escape_debug()), "write a number from 1 to 65535"),
    }
}

impl FromStr for HostPattern {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(address) = read_address(text) {
            return Ok(Self::Address(address));
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        check_host(name)?;
        let name = name.to_ascii_lowercase();
        Ok(if below { Self::Below(name) } else { Self::Name(name) })
    }
}

/// Checks a DNS host name (RFC 1123, with `_`, which is in use).
fn check_host(name: &str) -> Result<(), EgressError> {
    if name.is_empty() {
        return EgressError::new(
            "the rule has no host",
            "write for example `https://api.example.com` or `*.example.org`",
        );
    }
    if name.contains('*') {
        return EgressError::new(
            "`*` stands for whole names only",
            "write `*.example.org` for all hosts below one, or `*`",
        );
    }
    if name.contains(['[', ']']) {
        return EgressError::new(
            "what stands in brackets is not an IPv6 address",
            "write for example `[2001:db8::1]:8080`",
        );
    }
    if !name.is_ascii() {
        return EgressError::new(
            "the host has characters outside ASCII",
            "write the name in its `xn--` form (punycode)",
        );
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return EgressError::new(
            format!("`{}` is not a host name", name.escape_debug()),
            "use labels of a-z, 0-9 and `-` with dots between them",
        );
    }
    // Such a name is read as an IPv4 address by URL parsers (WHATWG URL, "ends in a number").
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return EgressError::new(format!("`{name}` is not an IPv4 address"), "write four numbers from 0 to 255");
    }
    Ok(())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{}://", scheme.as_str())?;
        }
        write!(f, "{}", self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl Serialize for EgressRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EgressRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// IPv4 networks that are not the public internet, from the IANA special-purpose registry
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>) and multicast.
const REFUSED_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),          // this network, unspecified
    ([10, 0, 0, 0], 8),         // private
    ([100, 64, 0, 0], 10),      // carrier-grade NAT
    ([127, 0, 0, 0], 8),        // loopback
    ([169, 254, 0, 0], 16),     // link-local, where clouds keep their metadata
    ([172, 16, 0, 0], 12),      // private
    ([192, 0, 0, 0], 24),       // protocol assignments
    ([192, 0, 2, 0], 24),       // documentation
    ([192, 88, 99, 0], 24),     // 6to4 relays, deprecated
    ([192, 168, 0, 0], 16),     // private
    ([198, 18, 0, 0], 15),      // benchmarking
    ([198, 51, 100, 0], 24),    // documentation
    ([203, 0, 113, 0], 24),     // documentation
    ([224, 0, 0, 0], 4),        // multicast
    ([240, 0, 0, 0], 4),        // reserved
    ([255, 255, 255, 255], 32), // broadcast
];

/// IPv6 networks within global unicast (2000::/3) that are not the public internet
/// (<https://www.iana.org/assignments/iana-ipv6-special-registry>).
const REFUSED_V6: [([u16; 2], u32); 3] = [
    ([0x2001, 0], 23),      // protocol assignments: Teredo (it hides an IPv4 address), benchmarking, ORCHID
    ([0x2001, 0x0db8], 32), // documentation
    ([0x3fff, 0], 20),      // documentation
];

/// Whether `address` belongs to the public internet. Refused are loopback, private, link-local (with the clouds' metadata
/// services), carrier-grade NAT, unspecified, multicast, broadcast, documentation, benchmarking and reserved addresses,
/// and IPv6 forms that lead to a refused IPv4 address.
pub fn address_is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => v4_is_public(address),
        IpAddr::V6(address) => v6_is_public(address),
    }
}

fn v4_is_public(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !REFUSED_V4.iter().any(|(network, prefix)| (bits ^ u32::from_be_bytes(*network)) >> (32 - prefix) == 0)
}

fn v6_is_public(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        // IPv4-mapped (RFC 4291) and the well-known NAT64 prefix (RFC 6052) lead to the IPv4 address at their end.
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => return v4_is_public(v4(g, h)),
        // 6to4 (RFC 3056) holds it behind its prefix.
        [0x2002, high, low, ..] => return v4_is_public(v4(high, low)),
        _ => {}
    }
    let first = u32::from(a) << 16 | u32::from(b);
    let global_unicast = a >> 13 == 1;
    global_unicast
        && !REFUSED_V6
            .iter()
            .any(|([high, low], prefix)| (first ^ (u32::from(*high) << 16 | u32::from(*low))) >> (32 - prefix) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_in_its_normal_form() {
        for (text, normal) in [
            ("example.com", "example.com"),
            ("HTTPS://API.Example.com", "https://api.example.com"),
            ("http://example.com:8080", "http://example.com:8080"),
            ("*.example.org", "*.example.org"),
            ("*", "*"),
            ("https://*:8443", "https://*:8443"),
            ("10.0.0.1:5432", "10.0.0.1:5432"),
            ("[2001:DB8::1]:80", "[2001:db8::1]:80"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("https://[::1]", "https://[::1]"),
            ("example.com.", "example.com"),
            ("localhost:3000", "localhost:3000"),
        ] {
            let rule: EgressRule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), normal);
            assert_eq!(normal.parse(), Ok(rule.clone()));
            assert_eq!(serde_json::from_str::<EgressRule>(&serde_json::to_string(&rule).unwrap()).unwrap(), rule);
        }
    }

    #[test]
    fn a_bad_rule_says_how_to_mend_it() {
        for (text, part) in [
            ("", "no host"),
            ("https://", "no host"),
            ("ftp://example.com", "scheme"),
            ("https://example.com/", "write `https://example.com`"),
            ("example.com/v1?x", "write `example.com`"),
            ("https://me:secret@example.com", "user or password"),
            ("example.com:0", "port"),
            ("example.com:65536", "port"),
            ("example.com:", "port"),
            ("example.com:+80", "port"),
            ("*.*", "whole names"),
            ("api.*.com", "whole names"),
            ("*example.com", "whole names"),
            ("*.", "no host"),
            ("münchen.de", "xn--"),
            ("a..b", "not a host name"),
            ("-a.com", "not a host name"),
            ("a b", "not a host name"),
            ("1.2.3", "IPv4"),
            ("256.1.1.1", "IPv4"),
            ("*.0.0.1", "IPv4"),
            ("[zz]", "brackets"),
            ("[::1", "brackets"),
            ("[1.2.3.4]", "brackets"),
        ] {
            let error = text.parse::<EgressRule>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_rule_allows_its_scheme_host_and_port_only() {
        for (rule, scheme, host, port, allowed) in [
            ("example.com", "https", "example.com", 443, true),
            ("example.com", "HTTP", "EXAMPLE.com.", 80, true),
            ("example.com", "http", "example.com", 443, false),
            ("example.com", "https", "example.com", 8443, false),
            ("example.com", "ws", "example.com", 80, false),
            ("example.com", "https", "api.example.com", 443, false),
            ("example.com", "https", "notexample.com", 443, false),
            ("https://example.com", "http", "example.com", 80, false),
            ("https://example.com:80", "https", "example.com", 80, true),
            ("example.com:8080", "http", "example.com", 8080, true),
            ("example.com:8080", "http", "example.com", 80, false),
            ("*.example.org", "https", "a.example.org", 443, true),
            ("*.example.org", "https", "a.b.Example.org", 443, true),
            ("*.example.org", "https", "example.org", 443, false),
            ("*.example.org", "https", ".example.org", 443, false),
            ("*.example.org", "https", "notexample.org", 443, false),
            ("*.example.org", "https", "a.example.org.evil.com", 443, false),
            ("*.example.org", "https", "ü", 443, false),
            ("*", "https", "anything.test", 443, true),
            ("*", "https", "1.1.1.1", 443, true),
            ("*", "https", "", 443, false),
            ("1.1.1.1", "https", "1.1.1.1", 443, true),
            ("1.1.1.1", "https", "1.1.1.2", 443, false),
            ("[2606:4700::1111]", "https", "[2606:4700:0::1111]", 443, true),
            ("[2606:4700::1111]", "https", "2606:4700::1111", 443, true),
        ] {
            let rules = [rule.parse().unwrap()];
            assert_eq!(any_allows(&rules, scheme, host, port), allowed, "{rule} {scheme} {host} {port}");
        }
        assert!(!any_allows(&[], "https", "example.com", 443));
    }

    #[test]
    fn only_public_addresses_are_public() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:0:7f00:1::",
            "2001:db8::1",
            "3fff::1",
            "3fff:fff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::",
            "4000::1",
        ] {
            assert!(!address_is_public(refused.parse().unwrap()), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.1.1.1",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2001:200::1",
            "2a00:1450::1",
            "3ffe::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(address_is_public(public.parse().unwrap()), "{public}");
        }
    }
}
