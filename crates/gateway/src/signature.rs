//! How a request to a webhook says who sent it: from its headers to what has to be signed, and whether it is.
//!
//! A [`Claim`] is read from the head alone, so that what cannot be right is refused before its body is read. Nothing in it is believed
//! until [`Claim::holds`].

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use minnow_model::event::{Encoding, OwnSignature, Provider, Signature};
use serde::Deserialize;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

/// How far the time of a signature may be from the node's, either way: what Stripe and Standard Webhooks recommend.
const TOLERANCE_S: u64 = 5 * 60;

/// The most signatures of one request that are compared. Senders give one for each key that is good while keys are changed: two.
const MAX_SIGNATURES: usize = 16;

/// What a request says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The event's id; `None` where it is in the body, or nowhere.
    id: Option<String>,
    /// The event's type, likewise.
    kind: Option<String>,
    /// What is signed before the body.
    before: Vec<u8>,
    /// One of them has to be right.
    signatures: Vec<[u8; 32]>,
}

/// Why a request is not believed. None of it is secret: the sender may read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    #[error("the header `{0}` is missing")]
    Missing(String),
    #[error("the header `{0}` is there more than once")]
    Twice(String),
    #[error("the header `{0}` is not what it is to be; the documentation of webhooks has its form")]
    Form(String),
    #[error("it was signed more than 5 minutes before or after the node's time")]
    Time,
    #[error("the signature is not that of this body with the secret")]
    Wrong,
}

impl Claim {
    /// What the head of a request says. `now_s` is the time, in seconds since 1970.
    pub(crate) fn read(signature: &Signature, headers: &HeaderMap, now_s: u64) -> Result<Self, Doubt> {
        match signature {
            Signature::Of(Provider::Github) => github(headers),
            Signature::Of(Provider::Stripe) => stripe(headers, now_s),
            Signature::Of(Provider::Standard) => standard(headers, now_s),
            Signature::Own(own) => of_own(own, headers),
        }
    }

    /// Whether one of the signatures is that of `body`. All are compared to their ends, so that the time says nothing.
    pub(crate) fn holds(&self, key: &[u8], body: &[u8]) -> Result<(), Doubt> {
        // A key may have any length.
        let mut hmac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Doubt::Wrong)?;
        hmac.update(&self.before);
        hmac.update(body);
        let right = hmac.finalize().into_bytes();
        let is_one = |found: Choice, signature: &[u8; 32]| found | right.as_slice().ct_eq(signature);
        let found = self.signatures.iter().fold(Choice::from(0), is_one);
        if bool::from(found) { Ok(()) } else { Err(Doubt::Wrong) }
    }

    /// Id and type of the event, of a request that holds.
    pub(crate) fn names(self, signature: &Signature, body: &[u8]) -> (Option<String>, Option<String>) {
        match signature {
            Signature::Of(Provider::Stripe) => {
                // A body that is no JSON is refused by the topic.
                let StripeEvent { id, kind } = serde_json::from_slice(body).unwrap_or_default();
                (id, kind.map(|kind| format!("com.stripe.{kind}")))
            }
            Signature::Of(_) | Signature::Own(_) => (self.id, self.kind),
        }
    }
}

/// What is read of an event of Stripe.
#[derive(Default, Deserialize)]
struct StripeEvent {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The value of a header that may be there once. `None` where it is not there.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Doubt> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Doubt::Twice(name.into()));
    }
    value.to_str().map(Some).map_err(|_| Doubt::Form(name.into()))
}

fn needed<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Doubt> {
    single(headers, name)?.ok_or_else(|| Doubt::Missing(name.into()))
}

/// The signature that is all of a header, behind `prefix`.
fn whole(headers: &HeaderMap, name: &str, prefix: &str, encoding: Encoding) -> Result<Vec<[u8; 32]>, Doubt> {
    let text = needed(headers, name)?;
    let signature = text.strip_prefix(prefix).and_then(|text| encoding.signature(text));
    Ok(vec![signature.ok_or_else(|| Doubt::Form(name.into()))?])
}

/// That a time, in seconds since 1970 and in digits alone, is about now.
fn is_about_now(text: &str, header: &str, now_s: u64) -> Result<(), Doubt> {
    let digits = Some(text).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let time_s: u64 = digits.and_then(|text| text.parse().ok()).ok_or_else(|| Doubt::Form(header.into()))?;
    if time_s.abs_diff(now_s) > TOLERANCE_S { Err(Doubt::Time) } else { Ok(()) }
}

fn github(headers: &HeaderMap) -> Result<Claim, Doubt> {
    let signatures = whole(headers, "x-hub-signature-256", "sha256=", Encoding::Hex)?;
    let id = single(headers, "x-github-delivery")?.map(str::to_owned);
    let kind = single(headers, "x-github-event")?.map(|event| format!("com.github.{event}"));
    Ok(Claim { id, kind, before: Vec::new(), signatures })
}

/// `t=SECONDS,v1=HEX,v1=HEX,v0=…`: others than `v1` are of no use.
fn stripe(headers: &HeaderMap, now_s: u64) -> Result<Claim, Doubt> {
    const HEADER: &str = "stripe-signature";
    let form = || Doubt::Form(HEADER.into());
    let (mut time, mut signatures) = (None, Vec::new());
    for part in needed(headers, HEADER)?.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) if time.is_none() => time = Some(text),
            Some(("t", _)) => return Err(form()),
            Some(("v1", text)) if signatures.len() < MAX_SIGNATURES => {
                signatures.push(Encoding::Hex.signature(text).ok_or_else(form)?);
            }
            _ => {}
        }
    }
    let time = time.ok_or_else(form)?;
    is_about_now(time, HEADER, now_s)?;
    if signatures.is_empty() {
        return Err(form());
    }
    Ok(Claim { id: None, kind: None, before: format!("{time}.").into(), signatures })
}

/// `v1,BASE64 v1,BASE64`: others than `v1` are of no use.
fn standard(headers: &HeaderMap, now_s: u64) -> Result<Claim, Doubt> {
    const HEADER: &str = "webhook-signature";
    const ID: &str = "webhook-id";
    const TIME: &str = "webhook-timestamp";
    let form = || Doubt::Form(HEADER.into());
    let (id, time) = (needed(headers, ID)?, needed(headers, TIME)?);
    // What is signed has dots between its parts: with one in the id, the same signature would be good for another id and body.
    if id.is_empty() || id.contains('.') {
        return Err(Doubt::Form(ID.into()));
    }
    is_about_now(time, TIME, now_s)?;
    let texts = needed(headers, HEADER)?.split(' ').filter_map(|part| part.strip_prefix("v1,"));
    let signatures = texts.take(MAX_SIGNATURES).map(|text| Encoding::Base64.signature(text).ok_or_else(form));
    let signatures = signatures.collect::<Result<Vec<_>, _>>()?;
    if signatures.is_empty() {
        return Err(form());
    }
    Ok(Claim { id: Some(id.to_owned()), kind: None, before: format!("{id}.{time}.").into(), signatures })
}

fn of_own(own: &OwnSignature, headers: &HeaderMap) -> Result<Claim, Doubt> {
    let signatures = whole(headers, &own.header, &own.prefix, own.encoding)?;
    let id = match &own.id_header {
        Some(name) => Some(needed(headers, name)?.to_owned()),
        None => None,
    };
    Ok(Claim { id, kind: None, before: Vec::new(), signatures })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW_S: u64 = 1_795_811_303;
    const GITHUB: Signature = Signature::Of(Provider::Github);
    const STRIPE: Signature = Signature::Of(Provider::Stripe);
    const STANDARD: Signature = Signature::Of(Provider::Standard);

    fn own(prefix: &str, encoding: Encoding, id_header: Option<&str>) -> Signature {
        let id_header = id_header.map(Into::into);
        Signature::Own(OwnSignature { header: "x-sig".into(), prefix: prefix.into(), encoding, id_header })
    }

    fn head(headers: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        headers.iter().map(header).collect()
    }

    fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut hmac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| hmac.update(part));
        hmac.finalize().into_bytes().into()
    }

    /// RFC 4231 section 4: the test cases 1 to 4, 6 and 7. The fifth is of a digest that is cut off.
    #[test]
    fn signatures_are_those_of_rfc_4231() {
        for (key, data, expected) in [
            (vec![0x0b; 20], b"Hi There".to_vec(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?".to_vec(),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (vec![0xaa; 20], vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                (1..=25).collect(),
                vec![0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                vec![0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.".to_vec(),
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ] {
            let headers = head(&[("x-sig", expected)]);
            let claim = Claim::read(&own("", Encoding::Hex, None), &headers, NOW_S).unwrap();
            assert_eq!(claim.holds(&key, &data), Ok(()), "{expected}");
            assert_eq!(claim.holds(&key, &data[1..]), Err(Doubt::Wrong));
            assert_eq!(claim.holds(&key[1..], &data), Err(Doubt::Wrong));
        }
    }

    #[test]
    fn each_form_holds_for_what_was_signed_and_nothing_else() {
        let (key, body) = (b"secret".as_slice(), br#"{"id":"evt_1","type":"charge.paid"}"#.as_slice());
        let time = NOW_S.to_string();
        let hex = |parts: &[&[u8]]| hex::encode(hmac(key, parts));
        let base64 = |parts: &[&[u8]]| BASE64.encode(hmac(key, parts));
        let plain = hex(&[body]);
        let stripe = format!("t={time},v0=ff,v1={},v1={}", "0".repeat(64), hex(&[time.as_bytes(), b".", body]));
        let signed = base64(&[b"msg_1.", time.as_bytes(), b".", body]);
        let standard = format!("v1a,xyz v1,{} v1,{signed}", BASE64.encode([0; 32]));
        let names = |id: Option<&str>, kind: Option<&str>| (id.map(str::to_owned), kind.map(str::to_owned));
        for (signature, headers, expected) in [
            (
                GITHUB,
                vec![
                    ("x-hub-signature-256", format!("sha256={plain}")),
                    ("x-github-delivery", "d-1".into()),
                    ("x-github-event", "push".into()),
                ],
                names(Some("d-1"), Some("com.github.push")),
            ),
            (GITHUB, vec![("x-hub-signature-256", format!("sha256={plain}"))], names(None, None)),
            (STRIPE, vec![("stripe-signature", stripe)], names(Some("evt_1"), Some("com.stripe.charge.paid"))),
            (
                STANDARD,
                vec![
                    ("webhook-id", "msg_1".into()),
                    ("webhook-timestamp", time.clone()),
                    ("webhook-signature", standard),
                ],
                names(Some("msg_1"), None),
            ),
            (
                own("v=", Encoding::Base64, Some("x-id")),
                vec![("x-sig", format!("v={}", base64(&[body]))), ("x-id", "7".into())],
                names(Some("7"), None),
            ),
            (own("", Encoding::Hex, None), vec![("x-sig", plain.to_uppercase())], names(None, None)),
        ] {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let claim = Claim::read(&signature, &head(&headers), NOW_S).unwrap();
            assert_eq!(claim.holds(key, body), Ok(()), "{signature:?}");
            assert_eq!(claim.holds(b"secreT", body), Err(Doubt::Wrong), "{signature:?}");
            assert_eq!(claim.holds(key, &[body, b" "].concat()), Err(Doubt::Wrong), "{signature:?}");
            assert_eq!(claim.holds(key, b""), Err(Doubt::Wrong), "{signature:?}");
            let mut other = Claim::read(&signature, &head(&headers), NOW_S).unwrap();
            other.signatures.clear();
            assert_eq!(other.holds(key, body), Err(Doubt::Wrong), "no signature is never right");
            assert_eq!(claim.names(&signature, body), expected);
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused_by_its_head() {
        let zeros = "0".repeat(64);
        let base = BASE64.encode([0; 32]);
        let at = |time: u64| format!("t={time},v1={zeros}");
        let v1 = format!("v1,{base}");
        let standard = |id: &'static str, time: &str, signature: &str| {
            vec![
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", time.into()),
                ("webhook-signature", signature.into()),
            ]
        };
        let now = NOW_S.to_string();
        let stripe = |value: String| vec![("stripe-signature", value)];
        let missing = |name: &str| Err(Doubt::Missing(name.into()));
        let form = |name: &str| Err(Doubt::Form(name.into()));
        let with_id = own("", Encoding::Hex, Some("x-id"));
        for (signature, headers, expected) in [
            (&GITHUB, vec![], missing("x-hub-signature-256")),
            (&GITHUB, vec![("x-hub-signature", format!("sha1={zeros}"))], missing("x-hub-signature-256")),
            (&GITHUB, vec![("x-hub-signature-256", zeros.clone())], form("x-hub-signature-256")),
            (&GITHUB, vec![("x-hub-signature-256", format!("sha256={}", &zeros[1..]))], form("x-hub-signature-256")),
            (&GITHUB, vec![("x-hub-signature-256", format!("sha256={zeros}00"))], form("x-hub-signature-256")),
            (&GITHUB, vec![("x-hub-signature-256", "sha256=é".into())], form("x-hub-signature-256")),
            (
                &GITHUB,
                vec![("x-hub-signature-256", format!("sha256={zeros}")); 2],
                Err(Doubt::Twice("x-hub-signature-256".into())),
            ),
            (&STRIPE, vec![], missing("stripe-signature")),
            (&STRIPE, stripe(at(NOW_S)), Ok(())),
            (&STRIPE, stripe(at(NOW_S - 300)), Ok(())),
            (&STRIPE, stripe(at(NOW_S - 301)), Err(Doubt::Time)),
            (&STRIPE, stripe(at(NOW_S + 301)), Err(Doubt::Time)),
            (&STRIPE, stripe(at(0)), Err(Doubt::Time)),
            (&STRIPE, stripe(at(u64::MAX)), Err(Doubt::Time)),
            (&STRIPE, stripe(format!("t={now}")), form("stripe-signature")),
            (&STRIPE, stripe(format!("t={now},v0={zeros}")), form("stripe-signature")),
            (&STRIPE, stripe(format!("v1={zeros}")), form("stripe-signature")),
            (&STRIPE, stripe(format!("t=+{now},v1={zeros}")), form("stripe-signature")),
            (&STRIPE, stripe(format!("t=1,t={now},v1={zeros}")), form("stripe-signature")),
            (&STRIPE, stripe(String::new()), form("stripe-signature")),
            (&STANDARD, standard("m", &now, &v1), Ok(())),
            (&STANDARD, standard("m", "1", &v1), Err(Doubt::Time)),
            (&STANDARD, standard("m", "", &v1), form("webhook-timestamp")),
            (&STANDARD, standard("", &now, &v1), form("webhook-id")),
            (&STANDARD, standard("m.1", &now, &v1), form("webhook-id")),
            (&STANDARD, standard("m", &now, "v1,AA=="), form("webhook-signature")),
            (&STANDARD, standard("m", &now, &format!("v2,{base}")), form("webhook-signature")),
            (&STANDARD, standard("m", &now, &v1)[1..].to_vec(), missing("webhook-id")),
            (&STANDARD, standard("m", &now, &v1)[..2].to_vec(), missing("webhook-signature")),
            (&with_id, vec![("x-sig", zeros.clone())], missing("x-id")),
            (&with_id, vec![("x-id", "1".into())], missing("x-sig")),
        ] {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let read = Claim::read(signature, &head(&headers), NOW_S).map(drop);
            assert_eq!(read, expected, "{signature:?} {headers:?}");
        }
        let many = format!("t={now}{}", format!(",v1={zeros}").repeat(1000));
        let claim = Claim::read(&STRIPE, &head(&[("stripe-signature", &many)]), NOW_S).unwrap();
        assert_eq!(claim.signatures.len(), MAX_SIGNATURES);
    }
}
