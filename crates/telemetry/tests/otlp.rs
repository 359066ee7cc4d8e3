//! Spans reach a collector. The variables are the process's, so this is one test in a binary of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use minnow_model::Code;
use minnow_telemetry::{SpanRecord, Tracer};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message as _;

/// What a collector was sent: the head's lines in lower case, and the body.
type Received = (Vec<String>, Vec<u8>);

/// A collector that answers each POST with an empty success.
fn collector() -> (String, mpsc::Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let lines = stream.by_ref().lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|l| l.to_lowercase()).collect();
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            sender.send((head, body)).unwrap();
        }
    });
    (endpoint, receiver)
}

fn span(path: &str, flags: u8) -> SpanRecord<'_> {
    let end = SystemTime::now();
    SpanRecord {
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
        span_id: 0xaa,
        parent_id: Some(0xbb),
        flags,
        start: end - Duration::from_millis(5),
        end,
        method: "GET",
        path,
        status: 504,
        app: None,
        function: None,
        version: None,
        error: Some(Code::Timeout),
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[test]
fn spans_reach_the_collector_and_a_silent_one_does_not_hold_up_the_shutdown() {
    let set = |name: &str, value: &str| {
        // SAFETY: the only test of this process; no other thread reads or writes the environment meanwhile.
        unsafe { std::env::set_var(name, value) }
    };
    let (endpoint, received) = collector();
    set("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    set("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue");
    // One thread for everything: what blocks it or needs another runtime thread shows.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    runtime.block_on(async {
        let tracer = Tracer::from_env().unwrap().unwrap();
        assert_eq!(tracer.flags(1, None), 1, "a new trace is sampled");
        assert_eq!(tracer.flags(1, Some((7, 1))), 1, "the parent decides");
        assert_eq!(tracer.flags(1, Some((7, 0))), 0, "the parent decides");
        let (app, function) = ("hello".parse().unwrap(), "api".parse().unwrap());
        tracer.record(SpanRecord { app: Some(&app), function: Some(&function), ..span("/hello", 1) });
        tracer.record(span("/not-sampled", 0));
        assert!(tracer.shutdown(Duration::from_secs(10)).await);
        tracer.record(span("/too-late", 1));
    });

    let (head, body) = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".into()), "{head:?}");
    assert!(head.contains(&"x-team: blue".into()), "{head:?}");
    let sent = ExportTraceServiceRequest::decode(&*body).unwrap();
    let resource = sent.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(text(&resource.attributes, "service.name"), Some("minnow"));
    let spans = &sent.resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].name, "GET hello/api");
    assert_eq!(spans[0].trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(spans[0].span_id, 0xaa_u64.to_be_bytes());
    assert_eq!(spans[0].parent_span_id, 0xbb_u64.to_be_bytes());
    assert_eq!(spans[0].end_time_unix_nano - spans[0].start_time_unix_nano, 5_000_000);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/hello"),
        ("minnow.app", "hello"),
        ("minnow.function", "api"),
        ("error.type", "timeout"),
    ] {
        assert_eq!(text(&spans[0].attributes, key), Some(value), "{key}");
    }

    // A collector that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", silent.local_addr().unwrap()));
    set("OTEL_SERVICE_NAME", "shop");
    runtime.block_on(async {
        let tracer = Tracer::from_env().unwrap().unwrap();
        tracer.record(span("/lost", 1));
        let begun = Instant::now();
        assert!(!tracer.shutdown(Duration::from_millis(200)).await);
        assert!(begun.elapsed() < Duration::from_secs(5));

        set("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1");
        assert!(Tracer::from_env().unwrap().is_some(), "TLS is there for a collector that has it");
    });
}
