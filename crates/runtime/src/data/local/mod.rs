//! The data services over HTTP/1.1, for functions that have no interfaces to import: WASI commands in CGI form. They open a file
//! ([`FILE`] in [`FOLDER`], see `wasm/files`) as others open a socket: each time it is opened is one connection, and takes one
//! request.
//!
//! [`connection`] carries the bytes and hyper reads and writes them; here a path becomes a call. [`kv`], [`sql`], [`blob`] and
//! [`locks`] have the calls, [`answer`] what comes of them, [`memory`] the bound on what the node holds for a sandbox meanwhile.

mod answer;
mod blob;
mod connection;
mod kv;
mod locks;
mod memory;
mod sql;

use std::{fmt, sync::Arc, time::Duration};

use base64::{display::Base64Display, prelude::BASE64_STANDARD};
use http::{
    Method, Request, Response,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use hyper::body::Incoming;
use minnow_model::{Code, StoreKind};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};
use tracing::Instrument as _;

use self::{
    answer::{Body, Refusal},
    connection::Flags,
    memory::Memory,
};
pub(crate) use connection::Connection;

use crate::{
    FunctionCode, GuestKind,
    data::{Data, GrantedStore, Need},
    meter::Run,
};

/// The folder in which a function finds [`FILE`].
pub(crate) const FOLDER: &str = "/run/minnow";

/// The file that is a connection each time it is opened.
pub(crate) const FILE: &str = "http";

/// Connections that an invocation may have at once. Each holds up to 1 MiB beside what [`memory`] counts (pipes, buffers of hyper's, and
/// pieces of a blob of 256 KiB), and an upload up to 2 MiB more, as the store has it: 48 MiB together.
const MAX_CONNECTIONS: usize = 16;

/// The longest body of a call that says little, in bytes.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// The services for one invocation.
pub(crate) struct LocalHttp {
    run: Arc<Run>,
    memory: Arc<Memory>,
    /// One share for each connection.
    connections: Arc<()>,
    locks: locks::Holding,
}

impl LocalHttp {
    /// `None` for functions that have interfaces to import, and for those that were granted no service.
    pub(crate) fn new(run: &Arc<Run>) -> Option<Arc<Self>> {
        let function = &run.function;
        let FunctionCode::Wasm { kind: GuestKind::Command | GuestKind::CommandCore, .. } = function.spec().code else {
            return None;
        };
        let granted = &function.spec().granted;
        let kinds = [StoreKind::Kv, StoreKind::Sql, StoreKind::Blob];
        let has_any = granted.locks
            || kinds.into_iter().any(|kind| !granted.of(kind).is_empty())
            || granted.withdrawn.iter().any(|store| kinds.contains(&store.kind));
        has_any.then(|| {
            Arc::new(Self {
                run: Arc::clone(run),
                memory: Arc::new(Memory::new(Arc::clone(&function.runtime().memory))),
                connections: Arc::default(),
                locks: locks::Holding::default(),
            })
        })
    }

    /// Opens a connection; `None` where there are as many as may be.
    pub(crate) fn connect(self: &Arc<Self>) -> Option<Connection> {
        let counted = Arc::clone(&self.connections);
        (Arc::strong_count(&counted) <= MAX_CONNECTIONS + 1).then(|| Connection::new(self, counted))
    }

    fn data(&self) -> &Data {
        self.run.function.runtime().data()
    }

    /// The store that the function knows as `name`, if it was granted it for what it needs.
    fn store(&self, kind: StoreKind, name: &str, need: Need) -> Result<GrantedStore, Refusal> {
        Ok(self.run.function.store(kind, name, need)?.clone())
    }

    /// Answers one request.
    async fn answer(&self, request: Request<Incoming>, flags: &Flags) -> Response<Body> {
        let spec = self.run.function.spec();
        // The node's log names whose call it is.
        let span = tracing::error_span!(
            "call",
            app = spec.app.as_str(),
            function = spec.function.as_str(),
            request = tracing::field::display(self.run.id),
        );
        match self.call(request, flags).instrument(span).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(self.run.id),
        }
    }

    async fn call(&self, request: Request<Incoming>, flags: &Flags) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        // Whoever sends what is not read would wait for an answer that is not read either.
        if matches!(head.method, Method::GET | Method::HEAD | Method::DELETE) && !http_body::Body::is_end_stream(&body)
        {
            return Err(Refusal::new(Code::BadRequest, format!("a {} has no body here", head.method)));
        }
        // By RFC 9112 it has no body then. But who writes requests by hand forgets the line, and an empty value is not what was meant.
        if matches!(head.method, Method::PUT | Method::POST)
            && !head.headers.contains_key(CONTENT_LENGTH)
            && !head.headers.contains_key(TRANSFER_ENCODING)
        {
            let detail =
                format!("a {} says `content-length`, which is 0 without a body; nothing was done", head.method);
            return Err(Refusal::new(Code::BadRequest, detail));
        }
        let path = head.uri.path().to_owned();
        let no_route = || {
            Refusal::new(
                Code::NoRoute,
                "there is no such path; there are /kv/STORE/…, /sql/STORE/…, /blob/STORE/… and /locks/NAME/…, docs/data.md has all",
            )
        };
        let mut parts = path.splitn(5, '/').skip(1);
        let mut next = || parts.next();
        let (Some(service), Some(name), Some(what), key) = (next(), next(), next(), next()) else {
            return Err(no_route());
        };
        let (name, key) = (decoded(name)?, key.map(decoded).transpose()?);
        match (service, what, key) {
            ("kv", "keys", None) => self.kv_list(&head, &name).await,
            ("kv", "keys", Some(key)) => self.kv_key(&head, body, flags, &name, key).await,
            ("kv", "batch", None) => self.kv_batch(&head, body, flags, &name).await,
            ("sql", "query", None) => self.sql_query(&head, body, flags, &name).await,
            ("sql", "batch", None) => self.sql_batch(&head, body, flags, &name).await,
            ("blob", "keys", None) => self.blob_list(&head, &name).await,
            ("blob", "keys", Some(key)) => self.blob_key(&head, body, flags, &name, key).await,
            ("locks", "acquire", None) => self.lock_acquire(&head, body, flags, name).await,
            ("locks", "renew", None) => self.lock_renew(&head, body, flags, &name).await,
            ("locks", "release", None) => self.lock_release(&head, body, flags, &name).await,
            _ => Err(no_route()),
        }
    }

    /// The body of a call that says little.
    async fn small<T: DeserializeOwned>(&self, body: Incoming, flags: &Flags) -> Result<T, Refusal> {
        let (bytes, _room) = answer::whole_body(body, SMALL_BODY_BYTES, &self.memory, flags).await?;
        parsed(&bytes)
    }
}

/// A part of a path, without its percent-encoding.
fn decoded(part: &str) -> Result<String, Refusal> {
    let text = percent_decode_str(part).decode_utf8();
    let text = text.map_err(|_| Refusal::new(Code::BadRequest, "the path is not UTF-8 after its percent-encoding"))?;
    Ok(text.into_owned())
}

/// Reads JSON that a function has sent.
fn parsed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::invalid(format!("the body cannot be read as JSON: {error}")))
}

fn only(method: &Method, allowed: &Method, allow: &'static str) -> Result<(), Refusal> {
    if method == allowed { Ok(()) } else { Err(Refusal::method(allow)) }
}

/// The query of a request, of which every parameter has to be known.
fn query(
    head: &http::request::Parts,
    mut each: impl FnMut(&str, String) -> Result<bool, Refusal>,
) -> Result<(), Refusal> {
    for (name, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
        if !each(&name, value.into_owned())? {
            return Err(Refusal::invalid(format!("this call has no parameter `{name:.64}`")));
        }
    }
    Ok(())
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| Refusal::invalid(format!("`{name}` is no such number: `{value:.64}`")))
}

/// A time to live, such as `1h` or `90s`.
fn time_to_live(text: &str) -> Result<Duration, Refusal> {
    let invalid = |why: String| Refusal::invalid(format!("`ttl` is a time such as `90s` or `1h`: {why}"));
    let time = humantime::parse_duration(text).map_err(|error| invalid(error.to_string()))?;
    if time.is_zero() { Err(invalid("with 0 the key would be gone at once".into())) } else { Ok(time) }
}

/// A list of at most `N`. What is longer is refused before it takes memory.
struct Bounded<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    if all.len() == N {
                        return Err(de::Error::custom(format_args!("the list has more than {N}; use several calls")));
                    }
                    all.push(item);
                }
                Ok(all)
            }
        }

        deserializer.deserialize_seq(Items::<T, N>(std::marker::PhantomData)).map(Self)
    }
}

/// Bytes as JSON has them: in base64 (RFC 4648, padded).
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &BASE64_STANDARD))
    }
}
