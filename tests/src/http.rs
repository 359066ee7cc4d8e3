//! HTTP/1.1 as it is on the wire, with blocking sockets: a test can stop in the middle of a message, or send what no library
//! would.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::PATIENCE;

/// A request whose body is sent whole.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// GET from an app, or from the host `app` where that has a dot in it.
    pub fn get(app: &str, path: &str) -> Self {
        let host = if app.contains(['.', ':']) { app.to_owned() } else { format!("{app}.localhost") };
        Self { method: "GET".into(), host, path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The head, with the headers given so far and none that say how long the body is.
    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.path, self.host);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head
    }
}

/// A connection of a client.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// A response under way.
#[derive(Debug)]
pub struct Exchange {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    trailers: Vec<(String, String)>,
    framing: Framing,
    connection: Connection,
}

/// How the body of a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// What is left of the current chunk; 0 before the next one.
    Chunk(u64),
    Close,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Connection {
    /// Connects. A read that waits longer than [`PATIENCE`] fails.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(64 * 1024, stream) })
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish_writing(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// The sending side as a socket of its own, for another thread.
    pub fn writer(&self) -> TcpStream {
        self.stream.get_ref().try_clone().unwrap()
    }

    /// Sends the head of a request whose body follows in chunks or with the length that a header says.
    pub fn write_head(&mut self, request: &Request) -> io::Result<()> {
        let head = request.head();
        self.write(format!("{head}\r\n").as_bytes())
    }

    /// Sends a request and reads the head of its response.
    pub fn exchange(mut self, request: &Request) -> io::Result<Exchange> {
        let mut message = request.head();
        if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT") {
            let _ = write!(message, "content-length: {}\r\n", request.body.len());
        }
        message.push_str("\r\n");
        let mut message = message.into_bytes();
        message.extend_from_slice(&request.body);
        // A server may answer and close before it has read a body that it does not want.
        let written = self.write(&message);
        let response = self.response(request.method == "HEAD");
        match (response, written) {
            (Ok(response), _) => Ok(response),
            (Err(_), Err(error)) => Err(error),
            (Err(error), Ok(())) => Err(error),
        }
    }

    /// Reads the head of a response. Interim ones (1xx) are passed over.
    pub fn response(mut self, is_head: bool) -> io::Result<Exchange> {
        let (status, headers) = loop {
            let (status, headers) = self.head()?;
            if status >= 200 {
                break (status, headers);
            }
        };
        let find = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let framing = if is_head || status == 204 || status == 304 {
            Framing::Length(0)
        } else if find("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Framing::Chunk(0)
        } else if let Some(length) = find("content-length") {
            Framing::Length(length.parse().map_err(io::Error::other)?)
        } else {
            Framing::Close
        };
        Ok(Exchange { status, headers, trailers: Vec::new(), framing, connection: self })
    }

    fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {line:?}")))?;
        Ok((status, self.fields()?))
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("no field: {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads until the server closes, and gives what it sent.
    pub fn read_to_end(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Exchange {
    /// The next piece of the body, as soon as there is one; `None` at its end. An error where the body breaks off.
    pub fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.framing == Framing::Chunk(0) {
            let line = self.connection.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                self.trailers = self.connection.fields()?;
                self.framing = Framing::Length(0);
                return Ok(None);
            }
            self.framing = Framing::Chunk(size);
        }
        let left = match self.framing {
            Framing::Length(0) => return Ok(None),
            Framing::Length(left) | Framing::Chunk(left) => left,
            Framing::Close => u64::MAX,
        };
        let arrived = self.connection.stream.fill_buf()?;
        let count = arrived.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = arrived[..count].to_vec();
        self.connection.stream.consume(count);
        match &mut self.framing {
            Framing::Close if count == 0 => return Ok(None),
            Framing::Close => {}
            Framing::Length(_) | Framing::Chunk(_) if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Framing::Length(left) => *left -= count as u64,
            Framing::Chunk(left) => {
                *left -= count as u64;
                if *left == 0 {
                    self.connection.line()?;
                }
            }
        }
        Ok(Some(piece))
    }

    /// Reads the body until it contains `text`.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> String {
        let mut read = String::new();
        while !read.contains(text) {
            match self.piece() {
                Ok(Some(piece)) => read.push_str(&String::from_utf8_lossy(&piece)),
                other => panic!("the body ended without `{text}`: {other:?} after {read:?}"),
            }
        }
        read
    }

    /// Reads the body to its end without keeping it, and counts its bytes.
    pub fn drain(mut self) -> io::Result<u64> {
        let mut bytes = 0;
        while let Some(piece) = self.piece()? {
            bytes += piece.len() as u64;
        }
        Ok(bytes)
    }

    /// Reads the rest of the response.
    pub fn rest(self) -> io::Result<Answer> {
        self.rest_and_connection().map(|(answer, _)| answer)
    }

    /// Reads the rest of the response and keeps the connection.
    pub fn rest_and_connection(mut self) -> io::Result<(Answer, Connection)> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            body.extend_from_slice(&piece);
        }
        let Self { status, headers, trailers, connection, .. } = self;
        Ok((Answer { status, headers, body, trailers }, connection))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }

    /// Panics unless this is a 200, and gives its text.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.status, 200, "{self:?} {}", self.text());
        self.text()
    }

    /// Panics unless this is the problem document (RFC 9457) of `code`, whole and with nothing beside it, and gives its id.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("urn:minnow:problem:{code}"));
        assert_eq!(problem["status"], status);
        let known = ["type", "title", "status", "code", "detail", "errors", "request_id"];
        for key in problem.as_object().unwrap().keys() {
            assert!(known.contains(&key.as_str()), "{problem}");
        }
        let id = problem["request_id"].as_str().expect("a problem has the request's id").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_eq!(self.header("x-request-id"), Some(id.as_str()), "{self:?}");
        id
    }
}
