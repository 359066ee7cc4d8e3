//! What can be set about the gateway, and the bounds that cannot.

use std::time::Duration;

use minnow_model::AppName;
use socket2::TcpKeepalive;

/// The settings of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Apps answer to `APP.<domain>`, besides `APP.localhost`.
    pub domain: Option<String>,
    /// The app that answers to every host that names none: IP addresses, `localhost`, the domain itself, foreign names.
    pub default_app: Option<AppName>,
    /// Whether the client is a proxy whose `x-forwarded-*` headers are true. Default no: they are replaced.
    pub trust_forwarded: bool,
    /// The longest head of a request, in bytes; beyond it the answer is 431. Default 64 KiB: eight times what most
    /// servers take, since single sign-on puts long tokens into headers. At least 8 KiB. The same bound holds for the
    /// bytes of a response that wait for the client to read.
    pub max_header_bytes: usize,
    /// How long a client may take from its first byte to the end of a request's head, and a new connection to its first
    /// request. Default 10 s: seconds are enough on the worst of networks, and a slowloris needs more.
    pub header_timeout: Duration,
    /// How long a connection may stay open between requests. Default 75 s, as nginx has it: longer than the 60 s after
    /// which load balancers drop theirs, so that they do not send a request into a closing connection.
    pub idle_timeout: Duration,
    /// How long a client may take for one piece of a response, at most 64 KiB of a file, and for the end of it. Default
    /// 60 s, as nginx has it between two reads: one kilobyte a second is enough. The same for 64 KiB of an upload to a signed
    /// URL, which no function bounds.
    pub write_timeout: Duration,
    /// The most client connections at once, on all workers together; beyond it new ones are closed at once. Default
    /// 20,000: about 20 KiB each while idle, so 400 MB at worst. The process needs as many file descriptors.
    ///
    /// It is also the most HTTP/2 requests at once, from their head until the client has taken the last byte of the
    /// response. A client that takes nothing makes the node hold at most two pieces of 64 KiB for each of its requests (one
    /// that HTTP/2 has, and one that waits for it), for at most `write_timeout`, and then until its connection is closed.
    pub max_connections: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            domain: None,
            default_app: None,
            trust_forwarded: false,
            max_header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            max_connections: 20_000,
        }
    }
}

/// What hyper takes as the smallest buffer; a smaller `max_header_bytes` counts as this.
pub(crate) const MIN_HEADER_BYTES: usize = 8 * 1024;

/// Connections that wait to be accepted, for each worker. A burst beyond it is retried by the clients' kernels; the
/// system's own bound (`net.core.somaxconn`) is 4096 too.
pub(crate) const BACKLOG: i32 = 4096;

/// Streams of one HTTP/2 connection at once: what browsers and proxies ask for (RFC 9113 recommends at least 100).
pub(crate) const HTTP2_STREAMS: u32 = 128;

/// Bytes that an HTTP/2 client may send before the function has read any, for each stream and for the connection. 256 KiB
/// fills a 20 ms path at 100 Mbit/s; the connection's bound keeps 128 idle streams from holding 32 MiB.
pub(crate) const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
pub(crate) const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How often an HTTP/2 client is asked whether it is still there; it has as long again to answer.
pub(crate) const HTTP2_PING: Duration = Duration::from_secs(20);

/// How the kernel watches over a WebSocket's client that sends nothing: it is asked after a minute, then every 15 s, and is
/// gone after four questions. Clients that vanish without a word (a phone that lost its network) would stay for ever.
pub(crate) const KEEP_ALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// How long a connection that answered before it had read the whole request goes on reading, so that the client sees the
/// answer instead of a reset. nginx's `lingering_timeout` is 5 s.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// How long a draining worker waits for the first request of a connection that has sent none.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// Static files up to this size are read whole and kept in [`FILE_CACHE_BYTES`]; larger ones are streamed in pieces of it.
pub(crate) const FILE_PIECE_BYTES: usize = 64 * 1024;

/// Large files that may be sent at once however few connections there may be: what a browser asks for at once, twice.
pub(crate) const MIN_OPEN_FILES: usize = 256;

/// Blobs that may be sent to clients at once, beside those that have no file. Each has up to 512 KiB (a piece and the one that is
/// read ahead), so up to 256 MiB.
pub(crate) const BLOBS_SENT: usize = 512;

/// What has to be there of an upload before it takes one of its bucket's places, in bytes, or all of it: avatars and thumbnails
/// never take one, and who sends a byte now and then gets none.
pub(crate) const EARLY_BYTES: usize = 256 * 1024;

/// Memory for the beginnings of uploads, in bytes: those of 512 at least. Buffers that grow take up to twice as much. Beyond it an
/// upload takes its place at once.
pub(crate) const ALL_EARLY_BYTES: usize = 512 * EARLY_BYTES;

/// Bodies to webhooks of all apps in memory at once: 96 MiB, four times what one webhook may have.
pub(crate) const WEBHOOKS_READ: usize = 128;

/// How long a request to a webhook waits for its place, and how long its body may take then. GitHub gives up after 10 s.
pub(crate) const WEBHOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Memory for small static files of all apps. 8 MiB holds the scripts, styles and pages of dozens of sites; beyond it the
/// page cache serves.
pub(crate) const FILE_CACHE_BYTES: u64 = 8 * 1024 * 1024;
