//! A stream of Redis: how long a message is under way from its XADD until a loop of XREADGROUP has it.

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use redis::{Commands as _, Connection, streams::StreamReadReply};

use crate::{Done, WARM_UP};

const STREAM: &str = "bench";
const GROUP: &str = "loop";
const FIELD: &str = "number";
/// The message that ends the loop.
const END: &str = "end";

type Failure = Box<dyn Error + Send + Sync>;

/// Adds a message each `pace`, and prints how long each was under way, in nanoseconds. The loop acknowledges each before it waits for
/// the next.
pub fn under_way(address: &str, pace: Duration, duration: Duration) -> Done {
    let client = redis::Client::open(format!("redis://{address}/"))?;
    let (mut adding, mut reading) = (client.get_connection()?, client.get_connection()?);
    // What an earlier run left behind is not read.
    let _: () = adding.del(STREAM)?;
    let _: () = adding.xgroup_create_mkstream(STREAM, GROUP, "$")?;
    let reader = thread::spawn(move || read(&mut reading));
    let began = Instant::now();
    let mut added = Vec::new();
    while began.elapsed() < WARM_UP + duration {
        added.push(Instant::now());
        let _: String = adding.xadd(STREAM, "*", &[(FIELD, added.len().to_string())])?;
        thread::sleep(pace);
    }
    let _: String = adding.xadd(STREAM, "*", &[(FIELD, END)])?;
    let read = reader.join().map_err(|_| "the loop has panicked")?.map_err(|error| error.to_string())?;
    if read.len() != added.len() {
        return Err(format!("{} messages were added and {} read", added.len(), read.len()).into());
    }
    for (added, read) in added.iter().zip(&read).filter(|(added, _)| **added - began >= WARM_UP) {
        println!("{}", read.duration_since(*added).as_nanos());
    }
    Ok(())
}

/// When each message came.
fn read(connection: &mut Connection) -> Result<Vec<Instant>, Failure> {
    let mut read = Vec::new();
    loop {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg("one").arg("COUNT").arg(1).arg("BLOCK").arg(0);
        let reply: StreamReadReply = command.arg("STREAMS").arg(STREAM).arg(">").query(connection)?;
        let now = Instant::now();
        for entry in reply.keys.iter().flat_map(|key| &key.ids) {
            let number: String = entry.get(FIELD).ok_or("a message has no number")?;
            let _: i64 = connection.xack(STREAM, GROUP, &[&entry.id])?;
            if number == END {
                return Ok(read);
            }
            read.push(now);
        }
    }
}
