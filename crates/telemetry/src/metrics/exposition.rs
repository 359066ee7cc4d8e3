//! The text of `/metrics`, made at scrape time.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{FunctionKey, FunctionMetrics, Instruments, Responses, instrument::Histogram};

/// Shows the instruments.
#[derive(Debug)]
pub(super) struct Exposition(pub(super) Arc<Instruments>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let instruments = &*self.0;
        // A copy, so that a slow scrape holds up no first request.
        let functions: Vec<_> = instruments
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(key, metrics)| Shown {
                key: key.clone(),
                version: key.version.to_string(),
                metrics: Arc::clone(metrics),
            })
            .collect();
        encode_functions(&mut encoder, &functions)?;
        instruments.events.encode(&mut encoder)?;
        encode_node(&mut encoder, instruments)?;
        encode_process(&mut encoder)
    }
}

/// A function as it is shown.
struct Shown {
    key: FunctionKey,
    version: String,
    metrics: Arc<FunctionMetrics>,
}

type Functions<'a> = &'a [Shown];

/// The name and value of each label.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// The labels of a function. The default tenant is not named, since most nodes have no other.
fn labels(shown: &Shown) -> Labels<'_> {
    let FunctionKey { tenant, app, function, .. } = &shown.key;
    let mut labels = vec![("app", app.as_str()), ("function", function.as_str()), ("version", shown.version.as_str())];
    if tenant.as_str() != "default" {
        labels.push(("tenant", tenant.as_str()));
    }
    labels
}

fn encode_functions(encoder: &mut DescriptorEncoder<'_>, functions: Functions<'_>) -> fmt::Result {
    if functions.is_empty() {
        return Ok(());
    }
    let help = "Requests that a function was chosen for, by status class and problem code";
    let mut family = encoder.encode_descriptor("minnow_requests", help, None, MetricType::Counter)?;
    for shown in functions {
        encode_responses(&mut family, &labels(shown), &shown.metrics.responses)?;
    }
    histograms(encoder, functions, "minnow_request_duration", Unit::Seconds, |metrics| &metrics.duration, {
        "Wall time of an invocation, from admission to the end of the response"
    })?;
    histograms(encoder, functions, "minnow_queue_duration", Unit::Seconds, |metrics| &metrics.queue, {
        "Time that a request waited for admission"
    })?;
    histograms(encoder, functions, "minnow_instantiate_duration", Unit::Seconds, |metrics| &metrics.instantiate, {
        "Time to make a sandbox"
    })?;
    histograms(encoder, functions, "minnow_load_duration", Unit::Seconds, |metrics| &metrics.load, {
        "Time to map compiled code into memory"
    })?;
    histograms(encoder, functions, "minnow_peak_memory", Unit::Bytes, |metrics| &metrics.peak_memory, {
        "The most that one invocation's linear memories and tables held together"
    })?;
    counters(encoder, functions, "minnow_cold_starts", |metrics| metrics.cold_starts.load(Ordering::Relaxed), {
        "Invocations for which the code had to be loaded"
    })?;
    counters(encoder, functions, "minnow_warm_starts", |metrics| metrics.warm_starts.load(Ordering::Relaxed), {
        "Invocations whose code was in memory"
    })?;
    let help = "CPU time of invocations";
    let mut family = encoder.encode_descriptor("minnow_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
    for shown in functions {
        let seconds = shown.metrics.cpu_ns.load(Ordering::Relaxed) as f64 * 1e-9;
        family.encode_family(&labels(shown).as_slice())?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
    }
    gauges(encoder, functions, "minnow_sandboxes", |metrics| metrics.sandboxes.get(), "Sandboxes that live now")?;
    gauges(encoder, functions, "minnow_queued", |metrics| metrics.queued.get(), "Requests that wait for admission now")
}

fn histograms(
    encoder: &mut DescriptorEncoder<'_>,
    functions: Functions<'_>,
    name: &str,
    unit: Unit,
    histogram: impl Fn(&FunctionMetrics) -> &Histogram,
    help: &str,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
    for shown in functions {
        let histogram = histogram(&shown.metrics);
        // Some twenty lines each: those that never happened (a reused sandbox, a warm function) are left out.
        if histogram.count() > 0 {
            histogram.encode(family.encode_family(&labels(shown).as_slice())?)?;
        }
    }
    Ok(())
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    functions: Functions<'_>,
    name: &str,
    value: impl Fn(&FunctionMetrics) -> u64,
    help: &str,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for shown in functions {
        family
            .encode_family(&labels(shown).as_slice())?
            .encode_counter::<NoLabelSet, _, u64>(&value(&shown.metrics), None)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    functions: Functions<'_>,
    name: &str,
    value: impl Fn(&FunctionMetrics) -> i64,
    help: &str,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for shown in functions {
        family.encode_family(&labels(shown).as_slice())?.encode_gauge(&value(&shown.metrics))?;
    }
    Ok(())
}

fn encode_responses(family: &mut MetricEncoder<'_>, base: &Labels<'_>, responses: &Responses) -> fmt::Result {
    for (class, code, count) in responses.seen() {
        let mut labels = base.clone();
        labels.extend([("status", class), ("code", code)]);
        family.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

/// What belongs to the node as a whole.
fn encode_node(encoder: &mut DescriptorEncoder<'_>, instruments: &Instruments) -> fmt::Result {
    let responses = [
        (
            "minnow_gateway_requests",
            &instruments.gateway,
            "Requests that reached no function, static file, blob or webhook, by status class and problem code",
        ),
        (
            "minnow_blob_requests",
            &instruments.blobs,
            "Requests to signed URLs of blobs, by status class and problem code",
        ),
        ("minnow_webhook_requests", &instruments.webhooks, "Requests to webhooks, by status class and problem code"),
        ("minnow_static_requests", &instruments.statics, "Requests that static files answered, by status class"),
    ];
    for (name, responses, help) in responses {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_responses(&mut family, &Labels::new(), responses)?;
    }
    let help = "Time that the compiler took for one version's function";
    let compile =
        encoder.encode_descriptor("minnow_compile_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    instruments.compile.encode(compile)?;
    let gauges = [
        ("minnow_connections", None, instruments.connections.get(), "Client connections that are open now"),
        (
            "minnow_loaded_code",
            Some(&Unit::Bytes),
            instruments.loaded_code_bytes.get(),
            "Compiled code that is mapped into memory now",
        ),
        ("minnow_apps", None, instruments.apps.get(), "Apps that have a published version"),
        ("minnow_versions", None, instruments.versions.get(), "Published versions"),
    ];
    for (name, unit, value, help) in gauges {
        encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)?;
    }
    let help = "Log lines that were dropped: faster than a function may print or the disk takes them, or it is full";
    encoder
        .encode_descriptor("minnow_log_lines_dropped", help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&instruments.log_lines_dropped.get(), None)?;
    encoder
        .encode_descriptor("minnow_build", "The node's version", None, MetricType::Info)?
        .encode_info(&[("version", instruments.version)])
}

/// What the operating system says about the process, under the names that every Prometheus client uses.
fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if let Some(bytes) = resident_bytes() {
        let help = "Memory of the process that is in RAM";
        encoder
            .encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?
            .encode_gauge(&bytes)?;
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
    encoder
        .encode_descriptor("process_cpu", "User and system CPU time of the process", Some(&Unit::Seconds), {
            MetricType::Counter
        })?
        .encode_counter::<NoLabelSet, _, u64>(&seconds, None)
}

/// `VmRSS` of `/proc/self/status`, which is in KiB.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use minnow_model::{Code, Usage};

    use crate::Metrics;

    /// Reads an exposition: every line must be a comment or `name{labels} value`, the last `# EOF`. Answers the samples.
    fn samples(text: &str) -> BTreeMap<&str, f64> {
        let body = text.strip_suffix("# EOF\n").unwrap();
        let lines = body.lines().filter(|line| !line.starts_with("# "));
        let mut samples = BTreeMap::new();
        for line in lines {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with("minnow_") || series.starts_with("process_"), "{line}");
            let twice = samples.insert(series, value.parse().unwrap());
            assert_eq!(twice, None, "{series} appears twice");
        }
        samples
    }

    fn called(metrics: &Metrics, tenant: &str, app: &str, function: &str) {
        let tenant = tenant.parse().unwrap();
        let version = "0.1.0".parse().unwrap();
        let function = metrics.function(&tenant, &app.parse().unwrap(), &version, &function.parse().unwrap());
        let usage = Usage {
            wall: Duration::from_millis(2),
            queued: Duration::ZERO,
            cpu: Duration::from_millis(500),
            peak_memory_bytes: 1 << 20,
            cold: true,
        };
        function.record(200, None, &usage);
        function.record(201, None, &Usage { cold: false, ..usage });
        function.record(504, Some(Code::Timeout), &usage);
        function.record_refused(Code::Overloaded, Duration::from_millis(1));
    }

    #[test]
    fn what_was_recorded_is_in_the_text() {
        let metrics = Metrics::new("0.1.0");
        called(&metrics, "default", "hello", "api");
        called(&metrics, "acme", "hello", "api");
        let (tenant, app, name) = ("default".parse().unwrap(), "hello".parse().unwrap(), "api".parse().unwrap());
        let function = metrics.function(&tenant, &app, &"0.1.0".parse().unwrap(), &name);
        let held = (function.sandbox(), function.sandbox(), function.waiting(), metrics.connection());
        function.instantiated(Duration::from_micros(15));
        metrics.gateway_request(404, Some(Code::UnknownApp));
        metrics.static_request(304);
        metrics.blob_request(403, Some(Code::SignatureExpired));
        metrics.webhook_request(403, Some(Code::SignatureInvalid));
        metrics.compiled(Duration::from_millis(130));
        metrics.loaded_code_bytes().set(4096);
        metrics.apps().set(1);
        metrics.log_lines_dropped().add(3);
        let text = metrics.encode();
        let samples = samples(&text);
        for (series, expected) in [
            (r#"minnow_requests_total{app="hello",function="api",version="0.1.0",status="2xx",code=""}"#, 2.0),
            (r#"minnow_requests_total{app="hello",function="api",version="0.1.0",status="5xx",code="timeout"}"#, 1.0),
            (
                r#"minnow_requests_total{app="hello",function="api",version="0.1.0",status="5xx",code="overloaded"}"#,
                1.0,
            ),
            (
                r#"minnow_requests_total{app="hello",function="api",version="0.1.0",tenant="acme",status="2xx",code=""}"#,
                2.0,
            ),
            (r#"minnow_request_duration_seconds_count{app="hello",function="api",version="0.1.0"}"#, 3.0),
            (r#"minnow_request_duration_seconds_bucket{le="0.001",app="hello",function="api",version="0.1.0"}"#, 0.0),
            (r#"minnow_request_duration_seconds_bucket{le="0.0025",app="hello",function="api",version="0.1.0"}"#, 3.0),
            (r#"minnow_request_duration_seconds_bucket{le="+Inf",app="hello",function="api",version="0.1.0"}"#, 3.0),
            (r#"minnow_queue_duration_seconds_count{app="hello",function="api",version="0.1.0"}"#, 4.0),
            (r#"minnow_instantiate_duration_seconds_count{app="hello",function="api",version="0.1.0"}"#, 1.0),
            (r#"minnow_peak_memory_bytes_bucket{le="1048576.0",app="hello",function="api",version="0.1.0"}"#, 3.0),
            (r#"minnow_cold_starts_total{app="hello",function="api",version="0.1.0"}"#, 2.0),
            (r#"minnow_warm_starts_total{app="hello",function="api",version="0.1.0"}"#, 1.0),
            (r#"minnow_cpu_seconds_total{app="hello",function="api",version="0.1.0"}"#, 1.5),
            (r#"minnow_sandboxes{app="hello",function="api",version="0.1.0"}"#, 2.0),
            (r#"minnow_queued{app="hello",function="api",version="0.1.0"}"#, 1.0),
            (r#"minnow_gateway_requests_total{status="4xx",code="unknown_app"}"#, 1.0),
            (r#"minnow_static_requests_total{status="3xx",code=""}"#, 1.0),
            (r#"minnow_blob_requests_total{status="4xx",code="signature_expired"}"#, 1.0),
            (r#"minnow_webhook_requests_total{status="4xx",code="signature_invalid"}"#, 1.0),
            ("minnow_compile_duration_seconds_count", 1.0),
            ("minnow_connections", 1.0),
            ("minnow_loaded_code_bytes", 4096.0),
            ("minnow_apps", 1.0),
            ("minnow_versions", 0.0),
            ("minnow_log_lines_dropped_total", 3.0),
            (r#"minnow_build_info{version="0.1.0"}"#, 1.0),
        ] {
            assert_eq!(samples.get(series), Some(&expected), "{series}\n{text}");
        }
        assert!(samples["process_resident_memory_bytes"] > 100_000.0);
        assert!(samples["process_cpu_seconds_total"] > 0.0);
        drop(held);
        assert!(metrics.encode().contains("minnow_sandboxes{app=\"hello\",function=\"api\",version=\"0.1.0\"} 0\n"));
    }

    #[test]
    fn only_functions_that_were_called_have_lines() {
        let metrics = Metrics::new("0.1.0");
        assert!(!metrics.encode().contains("function="));
        called(&metrics, "default", "busy", "api");
        let one = metrics.encode().lines().count();
        called(&metrics, "default", "busy", "api");
        assert_eq!(metrics.encode().lines().count(), one);
    }

    #[test]
    fn a_removed_app_is_forgotten_and_others_stay() {
        let metrics = Metrics::new("0.1.0");
        for app in ["first", "second"] {
            called(&metrics, "default", app, "api");
        }
        metrics.remove_app(&"default".parse().unwrap(), &"first".parse().unwrap());
        let text = metrics.encode();
        assert!(!text.contains("first") && text.contains("second"), "{text}");
    }
}
