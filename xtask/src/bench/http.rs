//! A small blocking HTTP/1.1 client. It does nothing but what is measured: one request at a time on a kept connection, with
//! one write and as few reads as can be.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// Longer than any answer that a benchmark waits for; a server that hangs ends the benchmark.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// More header lines than any server here sends.
const MAX_HEADERS: usize = 64;
/// The longest answer that is read: the metrics of ten thousand functions are below this.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// A connection.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    /// 204 and 304 have no body, and nothing that says so (RFC 9112, 6.3).
    fn is_empty(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    /// Whether the server closes the connection after this answer.
    pub(crate) fn closes(&self) -> bool {
        let framed = self.is_empty() || self.is_chunked() || self.header("content-length").is_some();
        !framed || self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// `GET path`, with `headers` as lines that each end in `\r\n`.
    pub(crate) fn get(&mut self, host: &str, path: &str, headers: &str) -> Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n"))
    }

    /// `POST path` with a text as its body.
    pub(crate) fn post(&mut self, host: &str, path: &str, body: &str) -> Result<Answer> {
        self.post_with(host, path, "", body)
    }

    /// [`Client::post`] with `headers` as lines that each end in `\r\n`.
    pub(crate) fn post_with(&mut self, host: &str, path: &str, headers: &str, body: &str) -> Result<Answer> {
        let length = body.len();
        self.send(&format!("POST {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n{body}"))
    }

    fn send(&mut self, request: &str) -> Result<Answer> {
        self.stream.write_all(request.as_bytes()).context("cannot send the request")?;
        self.buffer.clear();
        let (mut answer, head) = loop {
            if let Some(parsed) = parse_head(&self.buffer)? {
                break parsed;
            }
            ensure!(self.fill()?, "the connection ended before the answer's head");
        };
        self.buffer.drain(..head);
        answer.body = if answer.is_empty() {
            Vec::new()
        } else if answer.is_chunked() {
            self.chunked_body()?
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().context("content-length is not a number")?;
            self.take(length)?
        } else {
            while self.fill()? {}
            std::mem::take(&mut self.buffer)
        };
        Ok(answer)
    }

    fn chunked_body(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (line, size) = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete(found)) => found,
                Ok(httparse::Status::Partial) => {
                    ensure!(self.fill()?, "the connection ended within the answer's body");
                    continue;
                }
                Err(_) => bail!("a chunk's size is malformed"),
            };
            self.take(line)?;
            // The chunk and the line end after it; after the last chunk that is the empty trailer section.
            let chunk = self.take(usize::try_from(size)?.saturating_add(2))?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(chunk.get(..chunk.len() - 2).unwrap_or_default());
        }
    }

    /// The next `length` bytes.
    fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            ensure!(self.fill()?, "the connection ended within the answer's body");
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads what there is; false at the end of the connection.
    fn fill(&mut self) -> Result<bool> {
        ensure!(self.buffer.len() < MAX_ANSWER_BYTES, "the answer is too long");
        let mut piece = [0; 16 * 1024];
        let length = self.stream.read(&mut piece).context("cannot read the answer")?;
        self.buffer.extend_from_slice(piece.get(..length).unwrap_or_default());
        Ok(length > 0)
    }
}

/// The answer's status and headers, and the length of its head; `None` while the head is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(Answer, usize)>> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(length) = response.parse(bytes).context("the answer is not HTTP")? else {
        return Ok(None);
    };
    let header = |line: &httparse::Header<'_>| {
        (line.name.to_ascii_lowercase(), String::from_utf8_lossy(line.value).into_owned())
    };
    let answer = Answer {
        status: response.code.unwrap_or_default(),
        headers: response.headers.iter().map(header).collect(),
        body: Vec::new(),
    };
    Ok(Some((answer, length)))
}

/// An address on loopback whose port is free now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    /// Answers each request on one connection with the next of `answers`, then closes.
    fn serve(answers: &'static [&'static str]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for answer in answers {
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Client::connect(address).unwrap()
    }

    #[test]
    fn answers_are_read_however_they_are_framed() {
        let mut client = serve(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\n yo\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nto the end",
        ]);
        let expected =
            [(200, "hi", false), (200, "hi yo", false), (204, "", false), (503, "", false), (200, "to the end", true)];
        for (status, body, closes) in expected {
            let answer = client.get("a.localhost", "/", "").unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (status, body.as_bytes()));
            assert_eq!(answer.closes(), closes);
            assert_eq!(answer.header("retry-after").is_some(), status == 503);
        }
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        for answers in
            [&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"], &["HTTP/1.1 200 OK\r\n"], &["nonsense\r\n\r\n"]]
        {
            assert!(serve(answers).get("a.localhost", "/", "").is_err());
        }
    }
}
