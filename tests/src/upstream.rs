//! Servers that a node talks to: what functions call, and a collector of spans.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message as _;

/// A request that arrived: the lines of its head, in lower case, and its body.
pub type Received = (Vec<String>, Vec<u8>);

/// What a server answers: status line, headers and body, as they are on the wire.
type Answering = dyn Fn(&Received) -> String + Send + Sync;

/// An HTTP/1.1 server on loopback that remembers what it was asked.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    requests: Vec<Received>,
}

impl Upstream {
    /// Starts one that answers every request with 200 and a text. It ends with the tests.
    pub fn start(text: &'static str) -> Self {
        Self::answering(move |_| answer("200 OK", "", text))
    }

    /// Starts one that sends every request on to the URL in its query: `/?to=URL`.
    pub fn redirecting(status: &'static str) -> Self {
        Self::answering(move |(head, _)| {
            let url = head[0].split_once("?to=").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
            answer(status, &format!("location: {url}\r\n"), "")
        })
    }

    /// Starts one that answers what `answering` says.
    pub fn answering(answering: impl Fn(&Received) -> String + Send + Sync + 'static) -> Self {
        let answering: Arc<Answering> = Arc::new(answering);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = Arc::clone(&upstream.seen);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answering) = (Arc::clone(&seen), Arc::clone(&answering));
                seen.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
                thread::spawn(move || serve(stream, &*answering, &seen));
            }
        });
        upstream
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).connections
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Received> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// The spans in every request so far, where this is a collector (OTLP over HTTP).
    pub fn spans(&self) -> Vec<Span> {
        let requests = self.requests();
        let exports = requests.iter().map(|(_, body)| ExportTraceServiceRequest::decode(&**body).unwrap());
        let resources = exports.flat_map(|export| export.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A server on loopback that takes requests and never answers.
#[derive(Debug, Clone)]
pub struct Silent {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Silent {
    /// Starts one. It ends with the tests.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = Self { address, accepted: Arc::default(), open: Arc::default() };
        let Self { accepted, open, .. } = silent.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let open = Arc::clone(&open);
                open.fetch_add(1, Relaxed);
                accepted.fetch_add(1, Relaxed);
                thread::spawn(move || {
                    // Ends when the other side is gone, in whatever way.
                    let _ = std::io::copy(&mut stream, &mut std::io::sink());
                    open.fetch_sub(1, Relaxed);
                });
            }
        });
        silent
    }

    /// How many connections there were so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }

    /// How many are connected now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A response with this status, further header lines, and body.
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn serve(stream: TcpStream, answering: &Answering, seen: &Mutex<Seen>) {
    let mut stream = BufReader::new(stream);
    loop {
        let lines = stream.by_ref().lines().map_while(Result::ok);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
        if head.is_empty() {
            return;
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let received = (head, body);
        let answer = answering(&received);
        seen.lock().unwrap_or_else(PoisonError::into_inner).requests.push(received);
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
