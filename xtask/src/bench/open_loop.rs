//! Open-loop load: requests arrive at a fixed rate whether or not earlier ones have been answered, as users do.
//!
//! wrk cannot do this: its connections wait for answers, so a slow server is asked less. Latency counts from the moment
//! at which a request was due, so that a late request cannot hide in the generator.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::http::{Answer, Client};

/// Enough for the client's few calls; the default of 2 MiB times hundreds of threads would be a lot of address space.
const STACK_BYTES: usize = 256 * 1024;

/// What to send.
pub(crate) struct Offer<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) per_second: f64,
    pub(crate) duration: Duration,
    /// The most requests that are under way at once. A request that is due while all are busy is not sent, and counted.
    pub(crate) connections: usize,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Answered>,
    /// Connections refused, cut or garbled.
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    /// Not sent since every connection was busy.
    pub(crate) unsent: u64,
}

/// One answer.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) has_retry_after: bool,
    pub(crate) latency: Duration,
}

impl Outcome {
    /// The latencies of the answers with this status.
    pub(crate) fn latencies(&self, status: u16) -> Vec<Duration> {
        self.answers.iter().filter(|answer| answer.status == status).map(|answer| answer.latency).collect()
    }

    fn add(&mut self, other: Self) {
        self.answers.extend(other.answers);
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.unsent += other.unsent;
    }
}

/// The requests that are due and not yet taken by a connection.
#[derive(Default)]
struct Due {
    times: VecDeque<Instant>,
    idle: usize,
    is_over: bool,
}

#[derive(Default)]
struct Schedule {
    due: Mutex<Due>,
    changed: Condvar,
}

impl Schedule {
    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to an idle connection; false where there is none.
    fn offer(&self, at: Instant) -> bool {
        let mut due = self.lock();
        let is_taken = due.idle > due.times.len();
        if is_taken {
            due.times.push_back(at);
            self.changed.notify_one();
        }
        is_taken
    }

    /// The next request for this connection; `None` at the end.
    fn next(&self) -> Option<Instant> {
        let mut due = self.lock();
        due.idle += 1;
        loop {
            if let Some(at) = due.times.pop_front() {
                due.idle -= 1;
                return Some(at);
            }
            if due.is_over {
                return None;
            }
            due = self.changed.wait(due).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }
}

/// Sends all that is due and waits for the answers. Threads run where the calling thread may run.
pub(crate) fn run(offer: &Offer<'_>) -> Result<Outcome> {
    let schedule = Schedule::default();
    let mut outcome = Outcome::default();
    thread::scope(|scope| {
        let mut connections = Vec::new();
        for _ in 0..offer.connections {
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            let connection = thread.spawn_scoped(scope, || connection(offer, &schedule));
            if connection.is_err() {
                // The scope waits for the threads that did start.
                schedule.end();
            }
            connections.push(connection.context("cannot start a thread for a connection")?);
        }
        while schedule.lock().idle < offer.connections {
            thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        let total = (offer.per_second * offer.duration.as_secs_f64()) as u64;
        for number in 0..total {
            let at = start + Duration::from_secs_f64(number as f64 / offer.per_second);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            outcome.unsent += u64::from(!schedule.offer(at));
        }
        schedule.end();
        for connection in connections {
            match connection.join() {
                Ok(part) => outcome.add(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(outcome)
    })
}

/// One connection's requests, one after the other. Opened beforehand, and again whenever it was closed.
fn connection(offer: &Offer<'_>, schedule: &Schedule) -> Outcome {
    let mut outcome = Outcome::default();
    let mut client = Client::connect(offer.address).ok();
    while let Some(at) = schedule.next() {
        let (kept, answer) = request(offer, client.take());
        client = kept;
        match answer {
            Ok(answer) => outcome.answers.push(Answered {
                status: answer.status,
                has_retry_after: answer.header("retry-after").is_some(),
                latency: at.elapsed(),
            }),
            Err(error) => {
                outcome.failed += 1;
                outcome.first_failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
    outcome
}

/// One request, and the connection where it can be used again.
fn request(offer: &Offer<'_>, client: Option<Client>) -> (Option<Client>, Result<Answer>) {
    let connected = match client {
        Some(client) => Ok(client),
        None => Client::connect(offer.address).context("cannot connect"),
    };
    match connected {
        Ok(mut client) => {
            let answer = client.get(offer.host, offer.path, "");
            let is_open = answer.as_ref().is_ok_and(|answer| !answer.closes());
            (is_open.then_some(client), answer)
        }
        Err(error) => (None, Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that takes 20 ms for each request, on any number of connections.
    fn slow_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    while stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
                        thread::sleep(Duration::from_millis(20));
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                    }
                });
            }
        });
        address
    }

    #[test]
    fn every_due_request_is_sent_or_counted() {
        let address = slow_server();
        let offer = |connections| Offer {
            address,
            host: "a.localhost",
            path: "/",
            per_second: 200.0,
            duration: Duration::from_millis(500),
            connections,
        };
        // Four requests are under way at a time: 64 connections are plenty, one is far too few.
        let plenty = run(&offer(64)).unwrap();
        assert_eq!((plenty.answers.len() as u64 + plenty.unsent, plenty.failed), (100, 0));
        assert!(plenty.latencies(200).iter().all(|latency| *latency >= Duration::from_millis(20)));
        let few = run(&offer(1)).unwrap();
        assert_eq!(few.answers.len() as u64 + few.unsent, 100);
        assert!(few.unsent > 0);
    }

    #[test]
    fn a_server_that_is_not_there_is_a_failure() {
        let address = super::super::http::free_address().unwrap();
        let duration = Duration::from_millis(50);
        let offer = Offer { address, host: "a", path: "/", per_second: 100.0, duration, connections: 4 };
        let outcome = run(&offer).unwrap();
        assert_eq!(outcome.failed + outcome.unsent, 5);
        assert!(outcome.first_failure.unwrap().contains("cannot connect"));
    }
}
