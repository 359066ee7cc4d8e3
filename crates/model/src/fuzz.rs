//! Properties under random input. Each runs for about a second with fresh input; a failure prints its seed, and
//! `arbtest(property).seed(SEED)` runs that input again. The libFuzzer targets in `fuzz/` go on where these stop.

use arbitrary::{Result, Unstructured};
use arbtest::arbtest;

use crate::{
    BundleConfig, BundledCode, BundledMigration, BundledSql, EgressRule, LimitCaps, Manifest, RoutePattern, StoreGrant,
    bundle::{Layer, oci_manifest, read_oci_manifest},
    egress::any_allows,
    manifest::{Code, FILE_NAME},
    route::{Found, Router, Segment},
};

/// How long each property runs.
const BUDGET_MS: u64 = 800;

const MANIFEST: &str = r#"
name = "hello"
version = "0.1.0"
sticky = { cookie = "session" }
[functions.api]
wasm = "api.wasm"
build = "cargo build --release"
watch = ["src/**"]
routes = ["/api/{*rest}", "POST /submit"]
env = { GREETING = "hello" }
egress = ["https://api.example.com", "*.example.org"]
instances = "fresh"
kv = ["sessions", "shop/catalog:ro"]
sql = ["main"]
blob = ["uploads:ro"]
files = { data = "/data", "shop/media:ro" = "/media" }
locks = true
secrets = ["STRIPE_KEY"]
[functions.api.limits]
memory = "128MiB"
cpu = "1s"
concurrency = 64
[functions.web]
js = "src/web.ts"
instances = "reuse"
publish = ["orders"]
topics = ["dead", { name = "orders", batch = 10, wait = "200ms", backoff = "1s..5m", dead_letter = "dead", order_by = "key", types = ["order.*"] }]
schedules = [{ cron = "*/5 1-3,7 * jan *", timezone = "Europe/Oslo", name = "sweep" }, { cron = "@every 10s", name = "tick" }]
async = { retries = 2, backoff = "1m..5m", max_age = "6h", on_success = "orders", on_failure = "https://ops.example/hook" }
egress = ["https://ops.example"]
[static]
"/" = "public"
[kv.sessions]
share = ["other-app"]
[sql.main]
migrations = "migrations"
[blob.uploads]
size = "10GiB"
[files.data]
size = "1GiB"
share = ["other-app"]
[topic.orders]
retention = "7d"
max_messages = 1_000_000
[topic.dead]
when_full = "drop-oldest"
[lock]
"#;

/// Text with a few bytes changed, removed, doubled or put in.
fn mutated(u: &mut Unstructured<'_>, text: &str) -> Result<Vec<u8>> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..u.int_in_range(0..=8)? {
        let at = u.choose_index(bytes.len().max(1))?.min(bytes.len());
        let end = (at + u.int_in_range(0..=12)?).min(bytes.len());
        match u.int_in_range(0..=3)? {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            2 => {
                let piece = *u.choose(&[
                    "\"",
                    "[",
                    "]",
                    "{",
                    "}",
                    "=",
                    ".",
                    "\n",
                    "'''",
                    "\\u",
                    "ü",
                    "\0",
                    "#",
                    "/",
                    "99999999999",
                ])?;
                bytes.splice(at..at, piece.bytes());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u.arbitrary()?;
                }
            }
        }
    }
    Ok(bytes)
}

/// Reads a manifest and every rendering of its mistakes.
fn read_manifest(text: &str) {
    if let Err(errors) = Manifest::parse(text, FILE_NAME) {
        assert!(!errors.mistakes().is_empty());
        assert!(errors.lines().iter().all(|line| line.starts_with(FILE_NAME) || line.starts_with("and ")));
        let mut report = String::new();
        let theme = miette::GraphicalTheme::unicode_nocolor();
        let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(100);
        handler.render_report(&mut report, &errors).unwrap();
    }
}

#[test]
fn any_text_as_a_manifest_gives_a_manifest_or_mistakes() {
    arbtest(|u| {
        read_manifest(&String::from_utf8_lossy(u.bytes(u.len())?));
        Ok(())
    })
    .budget_ms(BUDGET_MS);
    arbtest(|u| {
        read_manifest(&String::from_utf8_lossy(&mutated(u, MANIFEST)?));
        Ok(())
    })
    .budget_ms(BUDGET_MS);
}

/// What `Router::find` has to find, written as plainly as possible: look at every route.
fn plain_find(routes: &[RoutePattern], method: &str, path: &str) -> Found {
    let Some(rest) = path.strip_prefix('/') else { return Found::None };
    let parts: Vec<&str> = rest.split('/').collect();
    let mut best: Option<(Vec<u8>, u8, usize, usize, bool)> = None;
    let mut allow = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let segments: Vec<Segment<'_>> = route.segments().collect();
        let fixed = segments.iter().take_while(|segment| !matches!(segment, Segment::Rest(_))).count();
        let open = fixed < segments.len();
        let fits = if open { parts.len() >= fixed } else { parts.len() == fixed };
        let same = segments.iter().zip(&parts).all(|(segment, part)| match segment {
            Segment::Literal(text) => text == part,
            Segment::Name(_) => !part.is_empty(),
            Segment::Rest(_) => true,
        });
        if !fits || !same {
            continue;
        }
        let method_rank = match route.method.as_deref() {
            Some(own) if own == method => 0,
            Some("GET") if method == "HEAD" => 1,
            None => 2,
            Some(own) => {
                allow.push(own.to_owned());
                if own == "GET" {
                    allow.push("HEAD".into());
                }
                continue;
            }
        };
        let rank = segments.iter().map(|segment| match segment {
            Segment::Literal(_) => 0,
            Segment::Name(_) => 1,
            Segment::Rest(_) => 2,
        });
        let script: usize = parts.iter().take(fixed).map(|part| part.len() + 1).sum();
        let candidate = (rank.collect(), method_rank, index, if open { script } else { path.len() }, open);
        if best.as_ref().is_none_or(|best| candidate < *best) {
            best = Some(candidate);
        }
    }
    match best {
        Some((_, _, index, script_len, by_wildcard)) => Found::Function { index, script_len, by_wildcard },
        None if allow.is_empty() => Found::None,
        None => {
            allow.sort();
            allow.dedup();
            Found::MethodNotAllowed { allow }
        }
    }
}

fn route(u: &mut Unstructured<'_>) -> Result<RoutePattern> {
    let method = *u.choose(&["", "", "GET ", "POST ", "HEAD "])?;
    let mut path = String::new();
    for at in 0..u.int_in_range(0..=4)? {
        path.push('/');
        match u.int_in_range(0..=3)? {
            0 => path.push_str(&format!("{{n{at}}}")),
            _ => path.push_str(u.choose(&["a", "b", "ab"])?),
        }
    }
    path.push_str(if path.is_empty() { u.choose(&["/", "/{*r}"])? } else { u.choose(&["", "", "/", "/{*r}"])? });
    Ok(format!("{method}{path}").parse().unwrap())
}

#[test]
fn the_routing_table_agrees_with_looking_at_every_route() {
    arbtest(|u| {
        let mut routes = Vec::new();
        for _ in 0..u.int_in_range(0..=12)? {
            let route = route(u)?;
            let both = [route.clone()].into_iter().chain(routes.iter().cloned()).map(|route| (route, 0));
            if Router::new(both).is_ok() {
                routes.push(route);
            }
        }
        let router = Router::new(routes.iter().cloned().enumerate().map(|(index, route)| (route, index))).unwrap();
        for _ in 0..8 {
            let mut path = String::new();
            for _ in 0..u.int_in_range(0..=6)? {
                path.push('/');
                path.push_str(u.choose(&["", "a", "b", "ab", "c", "é"])?);
            }
            let method = *u.choose(&["GET", "HEAD", "POST", "PUT"])?;
            assert_eq!(router.find(method, &path), plain_find(&routes, method, &path), "{method} {path} in {routes:?}");
        }
        Ok(())
    })
    .budget_ms(BUDGET_MS);
}

#[test]
fn any_text_as_a_route_is_refused_or_reads_back() {
    arbtest(|u| {
        let text = if u.ratio(1, 2)? {
            String::from_utf8_lossy(u.bytes(u.len())?).into_owned()
        } else {
            String::from_utf8_lossy(&mutated(u, "GET /api/{name}/x/{*rest}")?).into_owned()
        };
        if let Ok(route) = text.parse::<RoutePattern>() {
            assert_eq!(route.to_string(), text);
            let router = Router::new([(route, 3)]).unwrap();
            let _ = router.find("GET", &text);
        }
        Ok(())
    })
    .budget_ms(BUDGET_MS);
}

#[test]
fn any_text_as_an_egress_rule_is_refused_or_reads_back() {
    arbtest(|u| {
        let start = *u.choose(&["https://*.example.org:8443", "[2001:db8::1]:80", "10.0.0.1", "*", "http://a.b"])?;
        let text = String::from_utf8_lossy(&mutated(u, start)?).into_owned();
        if let Ok(rule) = text.parse::<EgressRule>() {
            assert_eq!(rule.to_string().parse(), Ok(rule.clone()), "{text}");
            let host: String = u.arbitrary()?;
            let _ = any_allows(&[rule], "https", &host, u.arbitrary()?);
        }
        Ok(())
    })
    .budget_ms(BUDGET_MS);
}

#[test]
fn any_text_as_a_grant_is_refused_or_reads_back() {
    arbtest(|u| {
        let text = String::from_utf8_lossy(&mutated(u, "shop/order-log:ro")?).into_owned();
        if let Ok(grant) = text.parse::<StoreGrant>() {
            assert_eq!(grant.to_string(), text);
            assert!(grant.variable().bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
        }
        Ok(())
    })
    .budget_ms(BUDGET_MS);
}

#[test]
fn any_bytes_as_a_bundle_are_refused_or_checked() {
    let parsed = Manifest::parse(MANIFEST, FILE_NAME).unwrap().manifest;
    let functions = parsed.functions.into_iter().map(|(name, function)| {
        let code = match function.code {
            Code::Wasm(_) => BundledCode::Wasm(crate::Digest::of(b"code")),
            Code::Js(_) => {
                BundledCode::Js { module: crate::Digest::of(b"module"), source_map: crate::Digest::of(b"map") }
            }
        };
        let function = crate::BundledFunction {
            code,
            routes: function.routes,
            env: function.env,
            egress: function.egress,
            instances: function.instances,
            limits: function.limits,
            grants: function.grants,
            topics: function.topics,
            schedules: function.schedules,
            asynchronous: function.asynchronous,
        };
        (name, function)
    });
    let sql = parsed.sql.into_iter().map(|(name, store)| {
        let migration = BundledMigration { name: "0001.sql".into(), digest: crate::Digest::of(b"migration"), size: 9 };
        (name, BundledSql { share: store.share, migrations: vec![migration] })
    });
    let config = BundleConfig {
        app: parsed.name,
        version: semver::Version::new(0, 1, 0),
        functions: functions.collect(),
        files: [("/a".into(), crate::BundledFile { digest: crate::Digest::of(b"a"), size: 1 })].into(),
        sticky: parsed.sticky,
        kv: parsed.kv,
        sql: sql.collect(),
        blob: parsed.blob,
        volumes: parsed.volumes,
        locks: parsed.locks,
        topics: parsed.topics,
    };
    let json = serde_json::to_string(&config).unwrap();
    let layer = Layer {
        digest: crate::Digest::of(b"code"),
        size: 4,
        media_type: crate::bundle::WASM_TYPE.into(),
        title: "api".into(),
    };
    let manifest =
        String::from_utf8(oci_manifest((crate::Digest::of(json.as_bytes()), 9), vec![layer]).unwrap()).unwrap();
    arbtest(|u| {
        let bytes = mutated(u, &json)?;
        let oci = read_oci_manifest(&mutated(u, &manifest)?);
        if let Ok(config) = serde_json::from_slice::<BundleConfig>(&bytes) {
            if config.check(&LimitCaps::default()).is_ok() {
                assert!(config.router().is_ok());
            }
            if let Ok(oci) = oci {
                let _ = config.check_layers(&oci);
            }
        }
        Ok(())
    })
    .budget_ms(BUDGET_MS);
}
