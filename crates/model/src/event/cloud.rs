//! Events as CloudEvents 1.0 writes them: in HTTP, binary (`ce-` headers) and structured, and in JSON, one or a batch.
//!
//! Data that claims to be JSON is checked here when it comes in. So what goes out is put together from pieces of text, and
//! nothing is parsed again.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    AttributeName, DEFAULT_KIND, Event, EventError, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_ATTRIBUTES_BYTES,
    MAX_DATA_BYTES, MAX_PUBLISH, MAX_PUBLISH_BYTES, shown, time_text,
};
use crate::{AppName, StoreName};

/// The media type of one event in JSON.
pub const EVENT_TYPE: &str = "application/cloudevents+json";
/// The media type of several events in JSON.
pub const BATCH_TYPE: &str = "application/cloudevents-batch+json";

/// The version of CloudEvents that is read and written.
const SPEC_VERSION: &str = "1.0";

/// What a header cannot hold as it is (CloudEvents' HTTP binding, 3.1.3.2). What is not ASCII is always encoded.
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// An event before it is whole: what a publisher gives. What is left out is filled in by [`complete`](Self::complete).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    pub id: Option<String>,
    pub source: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    pub subject: Option<String>,
    /// Milliseconds since 1970.
    pub time_ms: Option<u64>,
    /// `datacontenttype`.
    pub content_type: Option<String>,
    pub extensions: BTreeMap<AttributeName, String>,
    pub data: Bytes,
}

impl Draft {
    /// A plain message: data and its type.
    pub fn plain(content_type: Option<String>, data: Bytes) -> Self {
        Self { content_type, data, ..Self::default() }
    }

    /// Sets the key of the message.
    #[must_use]
    pub fn with_key(mut self, key: Option<String>) -> Self {
        if let Some(key) = key {
            self.extensions.insert(AttributeName::partition_key(), key);
        }
        self
    }

    /// The event, once everything of it is known to be right. `id` is what it gets if it has none, `now_ms` its time if it has
    /// none; its source is then `/apps/APP/topics/TOPIC`, and its type `minnow.message`.
    pub fn complete(
        self,
        app: &AppName,
        topic: &StoreName,
        id: impl FnOnce() -> String,
        now_ms: u64,
    ) -> Result<Event, EventError> {
        let Self { source, kind, subject, time_ms, content_type, extensions, data, .. } = self;
        let event = Event {
            id: self.id.unwrap_or_else(id).into(),
            source: source.map_or_else(|| format!("/apps/{app}/topics/{topic}").into(), Into::into),
            kind: kind.map_or_else(|| DEFAULT_KIND.into(), Into::into),
            subject: subject.map(Into::into),
            time_ms: Some(time_ms.unwrap_or(now_ms)),
            content_type: content_type.map(Into::into),
            extensions,
            data,
        };
        event.check()?;
        Ok(event)
    }
}

/// Whether data of this type is JSON: `application/json`, `text/json`, `application/vnd.shop+json; charset=utf-8`.
fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media.split_once('/').is_some_and(|(_, kind)| kind == "json" || kind.ends_with("+json"))
}

fn is_text(content_type: &str) -> bool {
    content_type.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"))
}

/// The media type alone, in lower case.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Event {
    /// Sizes, characters, and that data which is said to be JSON is JSON.
    fn check(&self) -> Result<(), EventError> {
        let Self { id, source, kind, subject, content_type, extensions, data, .. } = self;
        if extensions.len() > MAX_ATTRIBUTES {
            return Err(EventError::ManyAttributes(extensions.len()));
        }
        let own = [
            ("id", Some(id)),
            ("source", Some(source)),
            ("type", Some(kind)),
            ("subject", subject.as_ref()),
            ("datacontenttype", content_type.as_ref()),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, &**value?)));
        let mut bytes = 0;
        for (name, value) in own.chain(extensions.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
            // An extension may be empty; these may not.
            if value.is_empty() && !extensions.contains_key(name) {
                return Err(EventError::Empty(name.into()));
            }
            if value.len() > MAX_ATTRIBUTE_BYTES {
                return Err(EventError::LongAttribute { name: name.into(), bytes: value.len() });
            }
            if value.chars().any(char::is_control) || (name == "datacontenttype" && !value.is_ascii()) {
                return Err(EventError::Character(name.into()));
            }
            bytes += name.len() + value.len();
        }
        if bytes > MAX_ATTRIBUTES_BYTES {
            return Err(EventError::LongAttributes(bytes));
        }
        if let Some(name) = extensions.keys().find(|name| is_reserved(name.as_str())) {
            return Err(EventError::Name(name.to_string()));
        }
        if data.len() > MAX_DATA_BYTES {
            return Err(EventError::LongData(data.len()));
        }
        if let Some(content_type) = content_type.as_deref().filter(|content_type| is_json(content_type))
            && !data.is_empty()
        {
            serde_json::from_slice::<&RawValue>(data).map_err(|error| EventError::NotJson {
                content_type: shown(content_type),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// How much the event takes in a topic: attributes and data, in bytes.
    pub fn size(&self) -> usize {
        let own =
            [Some(&self.id), Some(&self.source), Some(&self.kind), self.subject.as_ref(), self.content_type.as_ref()];
        let own: usize = own.into_iter().flatten().map(|value| value.len()).sum();
        let extensions: usize = self.extensions.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        own + extensions + self.data.len()
    }

    /// How many bytes [`write_json`](Self::write_json) makes of the event without attributes beside its own, and with `data` in the place of
    /// its data.
    pub fn json_size(&self, data: &[u8]) -> usize {
        let mut bytes = JSON_START.len() + 1;
        let mut add = |name: &str, value: &str| bytes += name.len() + 4 + text_size(value);
        self.each(&[], &mut add);
        if let Some(content_type) = &self.content_type {
            add("datacontenttype", content_type);
        }
        if data.is_empty() {
            return bytes;
        }
        let content_type = self.content_type.as_deref().unwrap_or_default();
        bytes
            + match std::str::from_utf8(data).ok().filter(|_| is_text(content_type)) {
                _ if is_json(content_type) => ",\"data\":".len() + data.len(),
                Some(text) => ",\"data\":".len() + text_size(text),
                None => ",\"data_base64\":\"\"".len() + data.len().div_ceil(3) * 4,
            }
    }

    /// The headers of the event in binary mode, `content-type` among them. `extra` are attributes that go out with it, in the
    /// place of its own of the same names.
    pub fn to_headers(&self, extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut headers = vec![("ce-specversion".to_owned(), SPEC_VERSION.to_owned())];
        let mut add = |name: &str, value: &str| {
            headers.push((format!("ce-{name}"), utf8_percent_encode(value, HEADER).to_string()));
        };
        self.each(extra, &mut add);
        if let Some(content_type) = &self.content_type {
            headers.push(("content-type".to_owned(), content_type.to_string()));
        }
        headers
    }

    /// Writes the event as one JSON object, as structured mode and a batch have it. `extra` are as in
    /// [`to_headers`](Self::to_headers).
    pub fn write_json(&self, extra: &[(&str, &str)], out: &mut Vec<u8>) {
        out.extend_from_slice(JSON_START);
        let mut add = |name: &str, value: &str| {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            write_text(value, out);
        };
        self.each(extra, &mut add);
        if let Some(content_type) = &self.content_type {
            add("datacontenttype", content_type);
        }
        if !self.data.is_empty() {
            let content_type = self.content_type.as_deref().unwrap_or_default();
            let text = std::str::from_utf8(&self.data).ok().filter(|_| is_text(content_type));
            if is_json(content_type) {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(&self.data);
            } else if let Some(text) = text {
                out.extend_from_slice(b",\"data\":");
                write_text(text, out);
            } else {
                out.extend_from_slice(b",\"data_base64\":\"");
                out.extend_from_slice(BASE64.encode(&self.data).as_bytes());
                out.push(b'"');
            }
        }
        out.push(b'}');
    }

    /// Every attribute but `specversion` and `datacontenttype`.
    fn each(&self, extra: &[(&str, &str)], add: &mut impl FnMut(&str, &str)) {
        let is_own = |name: &str| !extra.iter().any(|(other, _)| *other == name);
        add("id", &self.id);
        add("source", &self.source);
        add("type", &self.kind);
        if let Some(subject) = &self.subject {
            add("subject", subject);
        }
        if let Some(time_ms) = self.time_ms {
            add("time", &time_text(time_ms));
        }
        for (name, value) in self.extensions.iter().filter(|(name, _)| is_own(name.as_str())) {
            add(name.as_str(), value);
        }
        for (name, value) in extra {
            add(name, value);
        }
    }
}

/// What every event in JSON begins with.
const JSON_START: &[u8] = b"{\"specversion\":\"1.0\"";

/// How many bytes [`write_text`] makes of a text.
fn text_size(text: &str) -> usize {
    let size = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => "\\u0000".len(),
        _ => 1,
    };
    2 + text.bytes().map(size).sum::<usize>()
}

/// Writes text as a string of JSON.
fn write_text(text: &str, out: &mut Vec<u8>) {
    // Writing a string into memory does not fail.
    let _ = serde_json::to_writer(&mut *out, text);
}

/// Several events as one array of JSON, each with the attributes that go out with it.
pub fn write_batch<'a>(events: impl IntoIterator<Item = (&'a Event, Vec<(&'a str, &'a str)>)>) -> Vec<u8> {
    let mut out = vec![b'['];
    for (index, (event, extra)) in events.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        event.write_json(&extra, &mut out);
    }
    out.push(b']');
    out
}

/// Names that an extension cannot have, since they are attributes of their own or no attributes.
fn is_reserved(name: &str) -> bool {
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"].contains(&name)
}

/// The events in a request: a batch, one in structured mode, one in binary mode (there is a `ce-` header), or a plain message.
/// `headers` are all headers of the request, their names in lower case. `body` is all of its body.
pub fn read_http<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Result<Vec<Draft>, EventError> {
    let mut content_type = None;
    let mut attributes: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (name, value) in headers {
        if name == "content-type" {
            let text = std::str::from_utf8(value).map_err(|_| EventError::Character("datacontenttype".into()))?;
            content_type = Some(text.to_owned());
        } else if let Some(name) = name.strip_prefix("ce-")
            && attributes.insert(name, value).is_some()
        {
            return Err(EventError::Twice(shown(name)));
        }
    }
    let drafts = match content_type.as_deref().map(media_type).as_deref() {
        Some(EVENT_TYPE) => vec![Draft::from_json(&body)?],
        Some(BATCH_TYPE) => Draft::batch_from_json(&body)?,
        _ if attributes.is_empty() => vec![Draft::plain(content_type, body)],
        _ => vec![Draft::from_headers(attributes, content_type, body)?],
    };
    check_publish(&drafts)?;
    Ok(drafts)
}

/// That events are not too many, nor too much, to be published at once.
pub(super) fn check_publish(drafts: &[Draft]) -> Result<(), EventError> {
    let bytes: usize = drafts.iter().map(|draft| draft.data.len()).sum();
    match drafts.len() {
        0 => Err(EventError::None),
        count if count > MAX_PUBLISH => Err(EventError::Many(count)),
        _ if bytes > MAX_PUBLISH_BYTES => Err(EventError::Large(bytes)),
        _ => Ok(()),
    }
}

/// Attributes as they are read, before it is known whether all are there.
#[derive(Default)]
struct Attributes {
    version: Option<String>,
    draft: Draft,
}

impl Attributes {
    fn set(&mut self, name: &str, value: String) -> Result<(), EventError> {
        let draft = &mut self.draft;
        let place = match name {
            "specversion" => &mut self.version,
            "id" => &mut draft.id,
            "source" => &mut draft.source,
            "type" => &mut draft.kind,
            "subject" => &mut draft.subject,
            "datacontenttype" => &mut draft.content_type,
            "time" => {
                let time = value.parse::<jiff::Timestamp>().ok().and_then(|time| time.as_millisecond().try_into().ok());
                draft.time_ms = Some(time.ok_or_else(|| EventError::Time(shown(&value)))?);
                return Ok(());
            }
            name => {
                let name: AttributeName = name.parse()?;
                draft.extensions.insert(name, value);
                return Ok(());
            }
        };
        *place = Some(value);
        Ok(())
    }

    /// The event, if what CloudEvents requires is there.
    fn whole(self) -> Result<Draft, EventError> {
        let Self { version, draft } = self;
        match version {
            None => return Err(EventError::Missing("specversion")),
            Some(version) if version != SPEC_VERSION => return Err(EventError::Version(shown(&version))),
            Some(_) => {}
        }
        for (name, value) in [("id", &draft.id), ("source", &draft.source), ("type", &draft.kind)] {
            if value.is_none() {
                return Err(EventError::Missing(name));
            }
        }
        Ok(draft)
    }
}

impl Draft {
    /// One event of binary mode. `attributes` are the headers without their `ce-`.
    fn from_headers(
        attributes: BTreeMap<&str, &[u8]>,
        content_type: Option<String>,
        body: Bytes,
    ) -> Result<Self, EventError> {
        let mut read = Attributes::default();
        for (name, value) in attributes {
            // In HTTP these are no headers with `ce-`.
            if matches!(name, "datacontenttype" | "data") {
                return Err(EventError::Name(shown(&format!("ce-{name}"))));
            }
            let value = unquoted(value);
            let value = percent_decode(&value).decode_utf8().map_err(|_| EventError::Character(shown(name)))?;
            read.set(name, value.into_owned())?;
        }
        let draft = read.whole()?;
        Ok(Self { content_type, data: body, ..draft })
    }

    /// One event in JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, EventError> {
        let object = serde_json::from_slice(json).map_err(|error| EventError::Structure(error.to_string()))?;
        Self::from_object(object)
    }

    /// A list of events in JSON.
    pub fn batch_from_json(json: &[u8]) -> Result<Vec<Self>, EventError> {
        let objects: Vec<Object<'_>> =
            serde_json::from_slice(json).map_err(|error| EventError::Structure(error.to_string()))?;
        if objects.len() > MAX_PUBLISH {
            return Err(EventError::Many(objects.len()));
        }
        objects.into_iter().map(Self::from_object).collect()
    }

    fn from_object(object: Object<'_>) -> Result<Self, EventError> {
        let mut read = Attributes::default();
        let (mut data, mut base64) = (None, None);
        for (name, value) in object.0 {
            match &*name {
                "data" => data = Some(value),
                "data_base64" => base64 = Some(value),
                // A value that is null is one that is not there.
                _ if value.get() == "null" => {}
                name => read.set(name, attribute_text(name, value)?)?,
            }
        }
        let mut draft = read.whole()?;
        draft.data = match (data, base64) {
            (Some(_), Some(_)) => return Err(EventError::TwoData),
            (None, None) => Bytes::new(),
            (None, Some(text)) => {
                let text: Cow<'_, str> = serde_json::from_str(text.get()).map_err(|_| EventError::Base64)?;
                BASE64.decode(text.as_bytes()).map_err(|_| EventError::Base64)?.into()
            }
            (Some(data), None) => match draft.content_type.as_deref().filter(|content_type| !is_json(content_type)) {
                // Without a type it is JSON (CloudEvents' JSON format, 3.1).
                None => {
                    draft.content_type.get_or_insert_with(|| "application/json".into());
                    Bytes::copy_from_slice(data.get().as_bytes())
                }
                Some(content_type) => {
                    let text = serde_json::from_str::<String>(data.get());
                    text.map_err(|_| EventError::NotText(shown(content_type)))?.into()
                }
            },
        };
        Ok(draft)
    }
}

/// The value of an attribute as text: CloudEvents has strings, whole numbers of 32 bits, and truth values.
fn attribute_text(name: &str, value: &RawValue) -> Result<String, EventError> {
    let text = value.get();
    if text.starts_with('"') {
        return serde_json::from_str(text).map_err(|_| EventError::Value(shown(name)));
    }
    let is_value = matches!(text, "true" | "false") || text.parse::<i32>().is_ok();
    if is_value { Ok(text.to_owned()) } else { Err(EventError::Value(shown(name))) }
}

/// A value without the quotes of a quoted string of HTTP (RFC 9110).
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")) else {
        return Cow::Borrowed(value);
    };
    let mut is_escaped = false;
    let kept = inner.iter().copied().filter(|byte| {
        is_escaped = *byte == b'\\' && !is_escaped;
        !is_escaped
    });
    Cow::Owned(kept.collect())
}

/// The members of an object of JSON in their order, none twice.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<'a>(std::marker::PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
            type Value = Object<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'a>, &'a RawValue>()? {
                    // So many are refused anyway, and each is compared with all before it.
                    if members.len() > 2 * MAX_ATTRIBUTES {
                        return Err(serde::de::Error::custom(format!(
                            "more than {MAX_ATTRIBUTES} extension attributes"
                        )));
                    }
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom(format_args!("`{}` stands twice", shown(&name))));
                    }
                    members.push((name, value));
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members(std::marker::PhantomData))
    }
}

/// The name of a member, borrowed where it can be.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AttributeName {
        text.parse().unwrap()
    }

    fn complete(draft: Draft) -> Result<Event, EventError> {
        draft.complete(&"shop".parse().unwrap(), &"orders".parse().unwrap(), || "drawn".into(), 1_000)
    }

    /// What a request with these headers publishes.
    fn http(headers: &[(&str, &str)], body: &[u8]) -> Result<Vec<Event>, EventError> {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        read_http(headers, Bytes::copy_from_slice(body))?.into_iter().map(complete).collect()
    }

    const REQUIRED: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

    fn binary(more: &[(&'static str, &'static str)], body: &[u8]) -> Result<Event, EventError> {
        let headers: Vec<_> = REQUIRED.iter().chain(more).copied().collect();
        http(&headers, body).map(|events| events.into_iter().next().unwrap())
    }

    fn json(text: &str) -> Result<Event, EventError> {
        Draft::from_json(text.as_bytes()).and_then(complete)
    }

    fn written(event: &Event) -> String {
        let mut out = Vec::new();
        event.write_json(&[], &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_size_of_an_event_in_json_is_known_without_writing_it() {
        let long = "\"\\ \n\u{1}\u{8}\u{7f}€".repeat(50);
        for content_type in [None, Some("text/plain"), Some("application/json"), Some("image/png")] {
            for data in [&b""[..], b"[1, 2]", long.as_bytes(), b"\xff\0", b"\xff\0\0", b"\xff\0\0\0"] {
                let event = Event {
                    id: long.as_str().into(),
                    source: "/s".into(),
                    kind: "t".into(),
                    subject: content_type.map(Into::into),
                    time_ms: Some(1),
                    content_type: content_type.map(Into::into),
                    extensions: [(name("partitionkey"), long.clone()), (name("a"), String::new())].into(),
                    data: Bytes::copy_from_slice(data),
                };
                let mut out = Vec::new();
                event.write_json(&[], &mut out);
                assert_eq!(event.json_size(data), out.len(), "{content_type:?} {data:?}");
            }
        }
    }

    #[test]
    fn a_plain_body_is_a_message_with_what_it_lacks() {
        let events = http(&[("content-type", "text/plain"), ("host", "a")], b"hello").unwrap();
        assert_eq!(
            written(&events[0]),
            r#"{"specversion":"1.0","id":"drawn","source":"/apps/shop/topics/orders","type":"minnow.message","time":"1970-01-01T00:00:01Z","datacontenttype":"text/plain","data":"hello"}"#
        );
        assert_eq!(http(&[], b"").unwrap()[0].content_type, None);
    }

    #[test]
    fn an_event_of_binary_mode_reads_back_from_its_headers_and_from_json() {
        let event = binary(
            &[
                ("ce-subject", "%E2%82%AC%20and%20%22%25%22"),
                ("ce-time", "2026-11-27T10:00:00.5+01:00"),
                ("ce-partitionkey", "\"a \\\"b\\\"\""),
                ("content-type", "application/json"),
            ],
            br#"{"total": 1}"#,
        )
        .unwrap();
        assert_eq!(event.subject.as_deref(), Some("€ and \"%\""));
        assert_eq!(event.extensions[&name("partitionkey")], "a \"b\"");
        let headers = event.to_headers(&[("sequence", "00000000000000000007")]);
        insta::assert_snapshot!(
            headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
        );
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut again = http(&headers, &event.data).unwrap().remove(0);
        assert_eq!(again.extensions.remove("sequence").as_deref(), Some("00000000000000000007"));
        assert_eq!(again, event);
        assert_eq!(json(&written(&event)).unwrap(), event);
    }

    #[test]
    fn data_is_written_as_its_type_says() {
        for (content_type, data, member) in [
            ("application/json", &br#"{"a":[1,2]}"#[..], r#","data":{"a":[1,2]}}"#),
            ("application/vnd.shop+json; charset=utf-8", b"null", r#","data":null}"#),
            ("text/plain", b"a\"b", r#","data":"a\"b"}"#),
            ("text/plain", b"\xff", r#","data_base64":"/w=="}"#),
            ("application/octet-stream", b"ab", r#","data_base64":"YWI="}"#),
        ] {
            let event = complete(Draft::plain(Some(content_type.into()), Bytes::copy_from_slice(data))).unwrap();
            let text = written(&event);
            assert!(text.ends_with(member), "{text}");
            let again = json(&text).unwrap();
            assert_eq!(again, event);
        }
        assert!(!written(&complete(Draft::default()).unwrap()).contains("data"));
    }

    #[test]
    fn a_batch_is_read_and_written() {
        let one = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","answer":42,"hot":true,"none":null,"data":[1, 2]}"#;
        let headers = [("content-type", "Application/CloudEvents-Batch+JSON; charset=utf-8")];
        let events = http(&headers, format!("[{one},{}]", one.replace("\"1\"", "\"2\"")).as_bytes()).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].content_type.as_deref(), Some("application/json"));
        assert_eq!((events[0].extensions["answer"].as_str(), events[0].extensions["hot"].as_str()), ("42", "true"));
        assert_eq!(&events[0].data[..], b"[1, 2]");
        let batch = write_batch(events.iter().map(|event| (event, vec![("deliverycount", "1")])));
        let again = Draft::batch_from_json(&batch).unwrap();
        assert_eq!(again.iter().map(|draft| draft.id.as_deref()).collect::<Vec<_>>(), [Some("1"), Some("2")]);
        assert_eq!(again[0].extensions["deliverycount"], "1");
        assert_eq!(write_batch([]), b"[]");
        let headers = [("content-type", "application/cloudevents+json")];
        assert_eq!(http(&headers, one.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_event_is_told() {
        let event = |more: &str| json(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{more}}}"#));
        let long = "x".repeat(1025);
        let many: String = (0..65).map(|n| format!(",\"a{n}\":\"\"")).collect();
        let heavy: String = (0..20).map(|n| format!(",\"a{n}\":\"{}\"", "x".repeat(1000))).collect();
        for (result, expected) in [
            (http(&[("ce-id", "1")], b"").map(drop), "the event has no `specversion`"),
            (http(&REQUIRED[..3], b"").map(drop), "the event has no `type`"),
            (
                http(&[("ce-specversion", "0.3"), REQUIRED[1], REQUIRED[2], REQUIRED[3]], b"").map(drop),
                "`specversion` is `0.3`",
            ),
            (binary(&[("ce-id", "2")], b"").map(drop), "the attribute `id` stands twice"),
            (binary(&[("ce-subject", "")], b"").map(drop), "the attribute `subject` is empty"),
            (binary(&[("ce-my_name", "x")], b"").map(drop), "`my_name` is not the name of an attribute"),
            (binary(&[("ce-data", "x")], b"").map(drop), "`ce-data` is not the name of an attribute"),
            (binary(&[("ce-abcdefghijklmnopqrstu", "x")], b"").map(drop), "is not the name of an attribute"),
            (binary(&[("ce-x", "%ff")], b"").map(drop), "`x` holds a control character, or is not UTF-8"),
            (binary(&[("ce-x", "a%0Ab")], b"").map(drop), "`x` holds a control character"),
            (binary(&[("ce-time", "now")], b"").map(drop), "the time `now` is not one of RFC 3339"),
            (binary(&[("ce-time", "1969-12-31T00:00:00Z")], b"").map(drop), "since 1970"),
            (binary(&[("content-type", "application/json")], b"{").map(drop), "`application/json` and is no JSON"),
            (binary(&[("content-type", "application/json")], b"1 2").map(drop), "is no JSON"),
            (binary(&[("content-type", "application/json")], b"\"\xff\"").map(drop), "is no JSON"),
            (binary(&[], &vec![0; MAX_DATA_BYTES + 1]).map(drop), "the data has 786433 bytes, the most is 786432"),
            (event(&format!(r#","x":"{long}""#)).map(drop), "the attribute `x` has 1025 bytes, the most is 1024"),
            (event(&many).map(drop), "the event has 65 extension attributes, the most is 64"),
            (event(&heavy).map(drop), "bytes together, the most is 16384"),
            (event(r#","x":1.5"#).map(drop), "`x` is neither a string nor a whole number"),
            (event(r#","x":4294967296"#).map(drop), "`x` is neither"),
            (event(r#","x":{}"#).map(drop), "`x` is neither"),
            (event(r#","id":"2""#).map(drop), "`id` stands twice"),
            (event(r#","data":1,"data_base64":"YQ==""#).map(drop), "both `data` and `data_base64`"),
            (event(r#","data_base64":"?""#).map(drop), "`data_base64` is not base64"),
            (
                event(r#","datacontenttype":"text/plain","data":1"#).map(drop),
                "said to be `text/plain`; write it as a string",
            ),
            (json("[]").map(drop), "this is no CloudEvent in JSON"),
            (json("{").map(drop), "this is no CloudEvent in JSON"),
            (http(&[("content-type", BATCH_TYPE)], b"[]").map(drop), "there is no event in the batch"),
            (
                http(&[("content-type", BATCH_TYPE)], format!("[{}{{}}]", "{},".repeat(100)).as_bytes()).map(drop),
                "there are 101 events, the most at once is 100",
            ),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "expected {expected}\ngot {error}");
        }
        let large = Draft { data: Bytes::from(vec![0; MAX_DATA_BYTES]), ..Draft::default() };
        assert_eq!(check_publish(&vec![large; 6]), Err(EventError::Large(6 * MAX_DATA_BYTES)));
        // JSON as deep as it likes takes no stack.
        let deep = format!("{}{}", "[".repeat(300_000), "]".repeat(300_000));
        assert!(complete(Draft::plain(Some("application/json".into()), deep.into())).is_ok());
    }

    #[test]
    fn an_order_is_by_any_attribute() {
        let event =
            complete(Draft { subject: Some("eu".into()), ..Draft::default() }.with_key(Some("ada".into()))).unwrap();
        for (attribute, value) in [
            ("id", Some("drawn")),
            ("type", Some("minnow.message")),
            ("source", Some("/apps/shop/topics/orders")),
            ("subject", Some("eu")),
            ("partitionkey", Some("ada")),
            ("customer", None),
            ("time", None),
        ] {
            assert_eq!(event.attribute(&name(attribute)), value, "{attribute}");
        }
    }
}
