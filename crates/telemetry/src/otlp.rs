//! Sends finished spans to an OpenTelemetry collector over OTLP/HTTP, when the standard variables ask for it:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.
//!
//! A node's spans are complete when they are recorded and bring their own ids, so they go to the SDK's batch processor
//! directly: a bounded queue (2048 spans, `OTEL_BSP_MAX_QUEUE_SIZE`) that one thread empties. When it is full, spans are
//! dropped. The exporter's blocking HTTP client lives on that thread and never meets the async runtime.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use minnow_model::{AppName, Code, FunctionName, Version};
use opentelemetry::{
    Context, InstrumentationScope, Key, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfig, BatchSpanProcessor, Config, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
        SpanProcessor as _,
    },
};
use tokio::sync::oneshot;

/// The service name when neither `OTEL_SERVICE_NAME` nor `OTEL_RESOURCE_ATTRIBUTES` gives one.
const SERVICE_NAME: &str = "minnow";
/// A collector that cannot be reached is reported once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// The longest text of a client's in a span, in bytes: a head of 64 KiB may be all path, and thousands of spans wait in the
/// queue. Collectors cut long values too, most at 1 KiB to 4 KiB.
const MAX_TEXT_BYTES: usize = 1024;
/// The methods that the conventions know (RFC 9110, RFC 5789). A client may make up others without end.
const KNOWN_METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Records spans. Clones share the queue.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
    ended: AtomicBool,
}

/// Why spans cannot be exported as the variables say.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    #[error("{variable} is `{value}`; supported: {supported}")]
    Unsupported { variable: &'static str, value: String, supported: String },
    #[error("the OTLP exporter cannot be set up: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// A finished span: one request, as the node saw it.
#[derive(Debug, Clone)]
pub struct SpanRecord<'a> {
    pub trace_id: u128,
    pub span_id: u64,
    /// The caller's span, from its `traceparent`.
    pub parent_id: Option<u64>,
    /// As [`Tracer::flags`] gave them; a span without bit 0 (`sampled`) is not sent.
    pub flags: u8,
    pub start: SystemTime,
    pub end: SystemTime,
    /// As the client sent it. One that the conventions do not know is recorded as `_OTHER`.
    pub method: &'a str,
    /// Without the query. Recorded up to 1,024 bytes.
    pub path: &'a str,
    /// The HTTP status that the client got.
    pub status: u16,
    pub app: Option<&'a AppName>,
    pub function: Option<&'a FunctionName>,
    pub version: Option<&'a Version>,
    /// Why it failed, where the node says so.
    pub error: Option<Code>,
}

impl Tracer {
    /// A tracer, when `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set, `OTEL_SDK_DISABLED`
    /// is not `true` and `OTEL_TRACES_EXPORTER` is not `none`. May be called anywhere, also on a thread of an async
    /// runtime, but waits a moment for a thread.
    ///
    /// # Errors
    /// [`OtlpError`] when a variable asks for something that is not there, or an endpoint is not a URL.
    pub fn from_env() -> Result<Option<Self>, OtlpError> {
        if !is_wanted(|variable| std::env::var(variable).ok())? {
            return Ok(None);
        }
        // The exporter's client takes the process's TLS provider, and panics without one. An error says that there is
        // one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder().with_http().build()?;
        let exporter = Watched { exporter, complained: Mutex::default() };
        let mut processor = BatchSpanProcessor::new(exporter, BatchConfig::default());
        processor.set_resource(&resource());
        let scope = InstrumentationScope::builder(SERVICE_NAME).with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Config::default().sampler;
        Ok(Some(Self(Arc::new(Inner { processor, sampler, scope, ended: AtomicBool::new(false) }))))
    }

    /// The trace flags of a new span: sampled or not, as `OTEL_TRACES_SAMPLER` decides from the trace id and from the
    /// parent's span id and flags. To be asked once, when the request comes, since the flags also go to those that the
    /// function calls.
    pub fn flags(&self, trace_id: u128, parent: Option<(u64, u8)>) -> u8 {
        let trace_id = TraceId::from(trace_id);
        let mut context = Context::new();
        if let Some((span_id, flags)) = parent {
            let (span_id, flags) = (SpanId::from(span_id), TraceFlags::new(flags));
            let parent = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
            context = context.with_remote_span_context(parent);
        }
        let sampling = self.0.sampler.should_sample(Some(&context), trace_id, "", &SpanKind::Server, &[], &[]);
        u8::from(sampling.decision == SamplingDecision::RecordAndSample)
    }

    /// Queues a span, or drops it when the queue is full. Never blocks.
    pub fn record(&self, span: SpanRecord<'_>) {
        let flags = TraceFlags::new(span.flags);
        if !flags.is_sampled() || self.0.ended.load(Ordering::Relaxed) {
            return;
        }
        let trace_id = TraceId::from(span.trace_id);
        let span_context = SpanContext::new(trace_id, SpanId::from(span.span_id), flags, false, TraceState::default());
        // HTTP's conventions: a server's span failed when the server did (5xx), not when the client did.
        let status = if span.status >= 500 { Status::error("") } else { Status::Unset };
        let attributes = attributes(&span);
        self.0.processor.on_end(SpanData {
            span_context,
            parent_span_id: span.parent_id.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: span.parent_id.is_some(),
            span_kind: SpanKind::Server,
            name: name(&span).into(),
            start_time: span.start,
            end_time: span.end,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.0.scope.clone(),
        });
    }

    /// Sends what is queued and ends; answers whether that was done within `timeout`. Spans recorded later are dropped.
    pub async fn shutdown(&self, timeout: Duration) -> bool {
        if self.0.ended.swap(true, Ordering::Relaxed) {
            return true;
        }
        let inner = Arc::clone(&self.0);
        let (reply, answer) = oneshot::channel();
        // A thread of its own: the processor waits, and a runtime that shuts down waits for its blocking threads.
        let thread = thread::Builder::new().name("minnow-otlp-end".into()).spawn(move || {
            let _ = reply.send(inner.processor.shutdown_with_timeout(timeout).is_ok());
        });
        thread.is_ok() && matches!(tokio::time::timeout(timeout, answer).await, Ok(Ok(true)))
    }
}

fn known_method(method: &str) -> Option<&'static str> {
    KNOWN_METHODS.into_iter().find(|known| *known == method)
}

/// The span's name, such as `GET hello/api`. Collectors group by it, so it takes few different values.
fn name(span: &SpanRecord<'_>) -> String {
    let method = known_method(span.method).unwrap_or("HTTP");
    match (span.app, span.function) {
        (Some(app), Some(function)) => format!("{method} {app}/{function}"),
        _ => method.to_owned(),
    }
}

/// The beginning of a client's text, as much as a span keeps.
fn bounded(text: &str) -> String {
    text.split_at(text.floor_char_boundary(MAX_TEXT_BYTES)).0.to_owned()
}

/// Named as OpenTelemetry's HTTP conventions name them:
/// <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server>.
fn attributes(span: &SpanRecord<'_>) -> Vec<KeyValue> {
    let method = known_method(span.method);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
        KeyValue::new("url.path", bounded(span.path)),
        KeyValue::new("http.response.status_code", i64::from(span.status)),
    ];
    if method.is_none() {
        attributes.push(KeyValue::new("http.request.method_original", bounded(span.method)));
    }
    let app = span.app.map(|app| KeyValue::new("minnow.app", app.as_str().to_owned()));
    let function = span.function.map(|function| KeyValue::new("minnow.function", function.as_str().to_owned()));
    let version = span.version.map(|version| KeyValue::new("minnow.version", version.to_string()));
    let error = match span.error {
        Some(code) => Some(KeyValue::new("error.type", code.as_str())),
        None => (span.status >= 500).then(|| KeyValue::new("error.type", span.status.to_string())),
    };
    attributes.extend([app, function, version, error].into_iter().flatten());
    attributes
}

/// Whether the variables ask for an export. What the SDK would silently do otherwise is refused here.
fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> Result<bool, OtlpError> {
    // The standard says to take an empty variable for one that is not set.
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    if set("OTEL_TRACES_EXPORTER").is_some_and(|value| value.eq_ignore_ascii_case("none")) {
        return Ok(false);
    }
    if set("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")).is_none() {
        return Ok(false);
    }
    for (name, supported) in CHOICES {
        if let Some(value) = set(name).filter(|value| !supported.contains(&value.as_str())) {
            return Err(OtlpError::Unsupported { variable: name, value, supported: supported.join(", ") });
        }
    }
    if set("OTEL_TRACES_SAMPLER").is_some_and(|sampler| sampler.ends_with("traceidratio")) {
        let is_ratio = |value: &str| value.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio));
        let variable = "OTEL_TRACES_SAMPLER_ARG";
        let value = set(variable).unwrap_or_default();
        if !is_ratio(&value) {
            return Err(OtlpError::Unsupported { variable, value, supported: "a number from 0 to 1".into() });
        }
    }
    Ok(true)
}

/// What variables may be set to: what the SDK has, as this crate is built.
const CHOICES: &[(&str, &[&str])] = &[
    ("OTEL_TRACES_EXPORTER", &["otlp", "none"]),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", &["http/protobuf"]),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &["http/protobuf"]),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", &["none"]),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", &["none"]),
    (
        "OTEL_TRACES_SAMPLER",
        &[
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ],
    ),
];

/// What the spans come from: what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, and the node's version.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let mut resource = Resource::builder();
    let name = detected.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
    if name.is_none_or(|name| name.starts_with("unknown_service")) {
        resource = resource.with_service_name(SERVICE_NAME);
    }
    if detected.get(&Key::from_static_str("service.version")).is_none() {
        resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    resource.build()
}

/// The exporter, with its failures told to the operator: the SDK keeps them to itself.
struct Watched {
    exporter: SpanExporter,
    complained: Mutex<Option<Instant>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result {
            let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
            if complained.is_none_or(|complained| complained.elapsed() > COMPLAIN_EVERY) {
                *complained = Some(Instant::now());
                tracing::warn!(%error, spans, "spans could not be sent to the OTLP collector and are lost");
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");

    #[test]
    fn what_a_client_makes_up_is_bounded_in_a_span() {
        let app = "hello".parse().unwrap();
        let function = "api".parse().unwrap();
        let long = "/".repeat(64 << 10);
        // An `é` lies across the bound.
        let split = format!("/{}", "é".repeat(1000));
        let made_up = "X".repeat(5000);
        for (method, path, in_name, recorded, original, kept) in [
            ("GET", "/hello", "GET", "GET", None, "/hello"),
            ("PATCH", &*long, "PATCH", "PATCH", None, &long[..1024]),
            ("DELETE", &*split, "DELETE", "DELETE", None, &split[..1023]),
            ("get", "/", "HTTP", "_OTHER", Some("get"), "/"),
            (&*made_up, "/", "HTTP", "_OTHER", Some(&made_up[..1024]), "/"),
        ] {
            let span = SpanRecord {
                trace_id: 1,
                span_id: 1,
                parent_id: None,
                flags: 1,
                start: SystemTime::now(),
                end: SystemTime::now(),
                method,
                path,
                status: 200,
                app: Some(&app),
                function: Some(&function),
                version: None,
                error: None,
            };
            assert_eq!(name(&span), format!("{in_name} hello/api"));
            assert_eq!(name(&SpanRecord { app: None, function: None, ..span.clone() }), in_name);
            let attributes = attributes(&span);
            let value = |key: &str| {
                let found = attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
                Some(found.value.as_str().into_owned())
            };
            assert_eq!(value("http.request.method").as_deref(), Some(recorded));
            assert_eq!(value("http.request.method_original").as_deref(), original);
            assert_eq!(value("url.path").as_deref(), Some(kept));
        }
    }

    #[test]
    fn the_variables_decide_whether_spans_are_exported() {
        type Variables = &'static [(&'static str, &'static str)];
        let cases: &[(Variables, Result<bool, &str>)] = &[
            (&[], Ok(false)),
            (&[("OTEL_SERVICE_NAME", "x")], Ok(false)),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], Ok(false)),
            (&[ENDPOINT], Ok(true)),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces")], Ok(true)),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")], Ok(false)),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "false")], Ok(true)),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], Ok(false)),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "otlp")], Ok(true)),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")], Err("OTEL_TRACES_EXPORTER is `zipkin`")),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], Err("OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`")),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], Ok(true)),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")], Err("OTEL_EXPORTER_OTLP_COMPRESSION is `gzip`")),
            (&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "xray")], Err("OTEL_TRACES_SAMPLER is `xray`")),
            (&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")], Ok(true)),
            (
                &[ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "10%")],
                Err("OTEL_TRACES_SAMPLER_ARG is `10%`"),
            ),
            (&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio")], Err("OTEL_TRACES_SAMPLER_ARG is ``")),
        ];
        for (variables, expected) in cases {
            let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
            match (is_wanted(lookup), expected) {
                (Ok(wanted), Ok(expected)) => assert_eq!(wanted, *expected, "{variables:?}"),
                (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "{error}"),
                (result, _) => panic!("{variables:?}: {result:?}"),
            }
        }
    }
}
