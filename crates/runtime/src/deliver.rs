//! What is not a request of a client: messages of topics and ticks of schedules, delivered to a function as a request, and what its
//! answer means.
//!
//! A function is called as by CloudEvents 1.0's HTTP binding: binary mode for one message, batch mode for several. The path says who
//! sent it, since nothing from outside reaches a function under [`PREFIX`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use http_body_util::{BodyExt as _, Full};
use minnow_model::{
    Level, LogSource, RequestId, ScheduleName, StoreName,
    event::{self, Event},
    problem::Code,
};
use minnow_store::topic::Delivery;
use serde::Deserialize;

use crate::{
    Body, Function, FunctionCode, Invocation, Outcome, Runtime, TraceContext, egress::set_trace, meter::Run,
    runtime::Place,
};

/// What stands before the paths of events. Nothing from outside reaches a function there.
pub const PREFIX: &str = "/.minnow/";

/// How much of an answer is kept: a list of acknowledgements for the largest batch. What is longer is read and dropped.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The longest time that a `Retry-After` is followed. Longer than the restart of anything takes, and short enough to look again.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The media type of an answer that names messages which are to come again.
pub const ACKS_TYPE: &str = "application/vnd.minnow.acks+json";

/// The type of a schedule's event.
const TICK_KIND: &str = "minnow.schedule";

/// Messages of one topic, for one run.
#[derive(Debug, Clone)]
pub struct Batch {
    pub topic: StoreName,
    /// At least one.
    pub deliveries: Vec<Delivery>,
    /// Whether the function takes several at once: then also one comes in batch mode.
    pub is_batch: bool,
}

/// What a function is run for.
#[derive(Debug, Clone)]
pub enum Happening {
    Messages(Batch),
    /// A due time of a schedule, in milliseconds since 1970. `id` is the same whenever this one is delivered.
    Tick {
        schedule: ScheduleName,
        cron: Option<Arc<str>>,
        due_ms: u64,
        id: String,
    },
}

/// What a request is that comes from the node itself: in its extensions, which no client can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    Messages,
    Tick,
}

/// What a delivery came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// The function answered. `retry_after` is what it asks for, at most [`MAX_RETRY_AFTER`]; `answer` are the first
    /// [`MAX_ANSWER_BYTES`] of the body.
    Answered { status: u16, retry_after: Option<Duration>, answer: Bytes, acks: Option<Acks> },
    /// It failed over what it was given: a trap, a limit, no answer. Also an answer that cannot be read.
    Failed(Code),
    /// It was not run, for a reason that lies with the node or the function and not with what it would have been given. Perhaps after
    /// a time.
    NotNow(Code, Option<Duration>),
}

/// Which messages of a batch are to come again; all others are done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acks {
    pub retry: Vec<RetryAsked>,
    /// Positions of those that the function was not given, since it ended before: as if they had never been delivered.
    pub untried: Vec<u64>,
}

/// A message that is to come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryAsked {
    /// The message's position.
    pub sequence: u64,
    /// How long it is to wait; `None` for what the subscription says.
    pub after: Option<Duration>,
    /// Why, where the function says it.
    pub reason: Option<String>,
}

impl Runtime {
    /// Runs a function for what has happened, if it has a place for that now. `host` is what the function sees as its host:
    /// `APP.DOMAIN`. Dropping the future stops the guest.
    pub async fn deliver(
        self: &Arc<Self>,
        function: &Arc<Function>,
        id: RequestId,
        trace: TraceContext,
        host: &str,
        what: &Happening,
    ) -> Delivered {
        let spec = function.spec();
        if spec.lacks_secrets {
            return Delivered::NotNow(Code::SecretMissing, None);
        }
        if let Some(held) = function.held_for() {
            return Delivered::NotNow(Code::HeldBack, Some(held));
        }
        let request = match request(function, id, &trace, host, what) {
            Ok(request) => request,
            Err(code) => return Delivered::Failed(code),
        };
        let Some(place) = Place::try_take(self, function) else {
            return Delivered::NotNow(Code::Overloaded, None);
        };
        let run = Arc::new(Run::new(Arc::clone(function), id, trace, Duration::ZERO, None));
        let invocation =
            Invocation { id, trace, request, scheme: "http", peer: None, script_len: 0, upgrade: None, on_end: None };
        let outcome = self.run_in(place, Arc::clone(&run), invocation).await;
        read(outcome, function, &run).await
    }
}

impl Function {
    /// Writes a line of the node's own into the function's log.
    pub fn note(&self, level: Level, id: Option<RequestId>, message: String) {
        self.log(level, LogSource::Node, id, message);
    }
}

/// The request that a function gets.
fn request(
    function: &Function,
    id: RequestId,
    trace: &TraceContext,
    host: &str,
    what: &Happening,
) -> Result<Request<Body>, Code> {
    if let (FunctionCode::Wasm { kind, .. }, Happening::Messages(batch)) = (function.spec().code, what)
        && kind.takes_messages()
    {
        return handed(function, batch);
    }
    let (kind, path, pairs, body) = match what {
        Happening::Messages(batch) => {
            let (pairs, body) = messages(batch)?;
            (EventKind::Messages, format!("{PREFIX}topics/{}", batch.topic), pairs, body)
        }
        Happening::Tick { schedule, cron, due_ms, id } => {
            let event = tick(function, schedule, cron.as_deref(), *due_ms, id);
            (EventKind::Tick, format!("{PREFIX}schedules/{schedule}"), event.to_headers(&[]), Bytes::new())
        }
    };
    if body.len() as u64 > function.spec().limits.request_body_bytes {
        return Err(Code::RequestTooLarge);
    }
    let uri: Uri = format!("http://{host}{path}").parse().map_err(|_| Code::Internal)?;
    let mut headers = HeaderMap::with_capacity(pairs.len() + 3);
    for (name, value) in pairs {
        // The names of attributes are names of headers, and values are encoded.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    if let Ok(host) = HeaderValue::try_from(host) {
        headers.insert(HOST, host);
    }
    if !body.is_empty() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len() as u64));
    }
    set_trace(&mut headers, id, trace);
    let mut request = Request::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request.extensions_mut().insert(kind);
    Ok(request)
}

/// Messages for a function that takes them without HTTP.
fn handed(function: &Function, batch: &Batch) -> Result<Request<Body>, Code> {
    let bytes: usize = batch.deliveries.iter().map(|delivery| delivery.event.data.len()).sum();
    if bytes as u64 > function.spec().limits.request_body_bytes {
        return Err(Code::RequestTooLarge);
    }
    let mut request = Request::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    request.extensions_mut().insert(Arc::new(batch.clone()));
    Ok(request)
}

/// The headers and the body of messages.
fn messages(batch: &Batch) -> Result<(Vec<(String, String)>, Bytes), Code> {
    let counts: Vec<(String, String)> = batch.deliveries.iter().map(counts).collect();
    if !batch.is_batch {
        // Whoever delivers to such a function takes one message at a time.
        let ([delivery], [(sequence, count)]) = (batch.deliveries.as_slice(), counts.as_slice()) else {
            return Err(Code::Internal);
        };
        let extra = [("sequence", sequence.as_str()), ("deliverycount", count.as_str())];
        return Ok((delivery.event.to_headers(&extra), delivery.event.data.clone()));
    }
    let events = batch.deliveries.iter().zip(&counts).map(|(delivery, (sequence, count))| {
        (&*delivery.event, vec![("sequence", sequence.as_str()), ("deliverycount", count.as_str())])
    });
    let body = event::write_batch(events);
    Ok((vec![("content-type".to_owned(), event::BATCH_TYPE.to_owned())], body.into()))
}

/// The position as text that sorts (CloudEvents' sequence extension), and how often the message was delivered with this time.
pub(crate) fn counts(delivery: &Delivery) -> (String, String) {
    (format!("{:020}", delivery.position), delivery.tries.saturating_add(1).to_string())
}

fn tick(function: &Function, schedule: &ScheduleName, cron: Option<&str>, due_ms: u64, id: &str) -> Event {
    let spec = function.spec();
    Event {
        id: id.into(),
        source: format!("/apps/{}/functions/{}/schedules/{schedule}", spec.app, spec.function).into(),
        kind: TICK_KIND.into(),
        subject: Some(schedule.as_str().into()),
        time_ms: Some(due_ms),
        content_type: None,
        extensions: cron.and_then(|cron| Some(("cron".parse().ok()?, cron.to_owned()))).into_iter().collect(),
        data: Bytes::new(),
    }
}

/// What the function's answer means.
async fn read(outcome: Outcome, function: &Function, run: &Run) -> Delivered {
    let response = match outcome {
        Ok(response) => response,
        Err(problem) => return of_problem(problem.code, function),
    };
    let (mut head, mut body) = response.into_parts();
    // Of a function that takes messages without HTTP, also where it has ended in the middle. There is no body.
    if let Some(acks) = head.extensions.remove::<Acks>() {
        let status = head.status.as_u16();
        return Delivered::Answered { status, retry_after: None, answer: Bytes::new(), acks: Some(acks) };
    }
    let mut answer = BytesMut::new();
    let mut is_cut = false;
    while let Some(frame) = body.frame().await {
        // What broke the answer off is noted; a function that ends in the middle of one has crashed.
        let Ok(frame) = frame else { return Delivered::Failed(run.failure().unwrap_or(Code::FunctionTrapped)) };
        if let Some(data) = frame.data_ref() {
            let room = MAX_ANSWER_BYTES - answer.len();
            is_cut |= data.len() > room;
            answer.extend_from_slice(data.get(..room).unwrap_or(data));
        }
    }
    let answer = answer.freeze();
    let acks = if head.status.is_success() && is_acks(&head.headers) {
        match read_acks(&answer) {
            Some(acks) if !is_cut => Some(acks),
            _ => return Delivered::Failed(Code::InvalidResponse),
        }
    } else {
        None
    };
    let asks_for_later = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let retry_after = if asks_for_later { retry_after(&head.headers, SystemTime::now()) } else { None };
    Delivered::Answered { status: head.status.as_u16(), retry_after, answer, acks }
}

/// What a run without an answer says about what it was given.
pub(crate) fn of_problem(code: Code, function: &Function) -> Delivered {
    match code {
        Code::HeldBack => Delivered::NotNow(code, function.held_for()),
        Code::Overloaded
        | Code::QueueTimeout
        | Code::NodeOverloaded
        | Code::SecretMissing
        | Code::JavascriptUnavailable
        | Code::ShuttingDown
        | Code::LoadFailed => Delivered::NotNow(code, None),
        _ => Delivered::Failed(code),
    }
}

/// The time that a `Retry-After` asks for: seconds, or a date (RFC 9110, 10.2.3). `None` where there is none that can be read.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(after.min(MAX_RETRY_AFTER))
}

fn is_acks(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(|text| text.split(';').next());
    media.is_some_and(|media| media.trim().eq_ignore_ascii_case(ACKS_TYPE))
}

/// An answer that names messages as it goes over the wire.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireAcks {
    retry: Vec<WireRetry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRetry {
    sequence: String,
    #[serde(default)]
    after_ms: Option<u64>,
}

fn read_acks(answer: &[u8]) -> Option<Acks> {
    let wire: WireAcks = serde_json::from_slice(answer).ok()?;
    let retry = wire.retry.into_iter().map(|retry| {
        let sequence = retry.sequence.parse().ok()?;
        Some(RetryAsked { sequence, after: retry.after_ms.map(Duration::from_millis), reason: None })
    });
    Some(Acks { retry: retry.collect::<Option<_>>()?, untried: Vec::new() })
}

#[cfg(test)]
mod tests {
    use minnow_store::topic::At;

    use super::*;

    fn delivery(position: u64, tries: u32, data: &str) -> Delivery {
        let event = Event {
            id: format!("id-{position}").into(),
            source: "/shop".into(),
            kind: "order.created".into(),
            subject: Some("å".into()),
            time_ms: Some(0),
            content_type: Some("application/json".into()),
            extensions: [("partitionkey".parse().unwrap(), "ada".to_owned())].into(),
            data: data.to_owned().into(),
        };
        Delivery {
            at: At::Log(position),
            generation: 0,
            position,
            event: Arc::new(event),
            time_ms: 0,
            tries,
            first_ms: 0,
            alone: false,
        }
    }

    #[test]
    fn one_message_comes_in_binary_mode_and_several_in_batch_mode() {
        let topic: StoreName = "orders".parse().unwrap();
        let batch = |deliveries, is_batch| Batch { topic: topic.clone(), deliveries, is_batch };
        let (mut headers, body) = messages(&batch(vec![delivery(7, 2, "{\"a\":1}")], false)).unwrap();
        headers.sort();
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            headers,
            [
                "ce-deliverycount: 3",
                "ce-id: id-7",
                "ce-partitionkey: ada",
                "ce-sequence: 00000000000000000007",
                "ce-source: /shop",
                "ce-specversion: 1.0",
                "ce-subject: %C3%A5",
                "ce-time: 1970-01-01T00:00:00Z",
                "ce-type: order.created",
                "content-type: application/json",
            ]
        );
        assert_eq!(body, "{\"a\":1}");
        assert!(messages(&batch(vec![delivery(7, 0, "1"), delivery(8, 0, "2")], false)).is_err());

        let (headers, body) = messages(&batch(vec![delivery(7, 0, "1"), delivery(8, 1, "2")], true)).unwrap();
        assert_eq!(headers, [("content-type".to_owned(), "application/cloudevents-batch+json".to_owned())]);
        let events: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&events[0]["data"], &events[1]["data"]), (&1.into(), &2.into()));
        assert_eq!(events[1]["sequence"], "00000000000000000008");
        assert_eq!(events[1]["deliverycount"], "2");
        // Also one comes in batch mode to a function that takes several.
        let (_, body) = messages(&batch(vec![delivery(7, 0, "1")], true)).unwrap();
        assert!(body.starts_with(b"[{"), "{body:?}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("5", Some(5)),
            (" 0 ", Some(0)),
            ("86400", Some(3600)),
            ("99999999999999999999", None),
            ("-1", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:49:27 GMT", Some(3600)),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn acknowledgements_are_read_or_refused() {
        let asked = |sequence, after| RetryAsked { sequence, after, reason: None };
        for (text, expected) in [
            (r#"{"retry":[]}"#, Some(vec![])),
            (
                r#"{"retry":[{"sequence":"00000000000000000007"},{"sequence":"8","after_ms":5000}]}"#,
                Some(vec![asked(7, None), asked(8, Some(Duration::from_secs(5)))]),
            ),
            (r#"{"retry":[{"sequence":7}]}"#, None),
            (r#"{"retry":[{"sequence":"x"}]}"#, None),
            (r#"{"retry":[{"sequence":"7","after":1}]}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(read_acks(text.as_bytes()).map(|acks| acks.retry), expected, "{text}");
        }
        for (text, expected) in [
            ("application/vnd.minnow.acks+json", true),
            ("Application/vnd.minnow.acks+json; charset=utf-8", true),
            ("application/json", false),
        ] {
            assert_eq!(is_acks(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))])), expected);
        }
    }
}
