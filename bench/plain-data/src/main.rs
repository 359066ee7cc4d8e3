//! The benchmarks' peer of the data services: reads what a function reads, in a plain loop over one connection. For events it publishes to
//! NATS, and waits for what is added to a stream of Redis.
//!
//! - `plain-data redis ADDRESS MS`: GET of the key `k`.
//! - `plain-data sqlite FILE SCRIPT MS`: reads `item` by primary key from a database that the script makes.
//! - `plain-data stream ADDRESS PACE_MS MS`: see [`stream`].
//! - `plain-data nats ADDRESS PUBLISHERS CONNECTIONS BYTES ids|none MS`: see [`nats`].
//!
//! The first two read, after a second of warm-up, for so many milliseconds, and print for each hundred reads how many nanoseconds one
//! took: what the guest says of the hundred reads of its request.

mod nats;
mod stream;

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use nats::Publishing;
use rusqlite::Connection;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: plain-data redis ADDRESS MS | sqlite FILE SCRIPT MS | stream ADDRESS PACE_MS MS | nats ADDRESS PUBLISHERS \
                     CONNECTIONS BYTES ids|none MS";
const WARM_UP: Duration = Duration::from_secs(1);
/// As many as the guest reads in one request.
const GETS: u32 = 100;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["redis", address, ms] => redis(address, duration(ms)?),
        ["sqlite", file, script, ms] => sqlite(file, script, duration(ms)?),
        ["stream", address, pace_ms, ms] => stream::under_way(address, duration(pace_ms)?, duration(ms)?),
        ["nats", address, publishers, connections, bytes, ids @ ("ids" | "none"), ms] => {
            let number = |text: &str| text.parse().map_err(|_| USAGE);
            let publishing = Publishing {
                publishers: number(publishers)?,
                connections: number(connections)?,
                bytes: number(bytes)?,
                has_ids: *ids == "ids",
                duration: duration(ms)?,
            };
            nats::publish(address, &publishing)
        }
        _ => Err(USAGE.into()),
    }
}

fn duration(ms: &str) -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::from_millis(ms.parse().map_err(|_| USAGE)?))
}

fn redis(address: &str, duration: Duration) -> Done {
    let mut connection = redis::Client::open(format!("redis://{address}/"))?.get_connection()?;
    measure(duration, |_| {
        let value: Option<Vec<u8>> = redis::cmd("GET").arg("k").query(&mut connection)?;
        black_box(value.ok_or("Redis does not have the key")?);
        Ok(())
    })
}

fn sqlite(file: &str, script: &str, duration: Duration) -> Done {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    if !connection.table_exists(None, "item")? {
        connection.execute_batch(script)?;
    }
    measure(duration, |id| {
        let mut statement = connection.prepare_cached("SELECT name FROM item WHERE id = ?1")?;
        black_box(statement.query_row((id,), |row| row.get::<_, String>(0))?);
        Ok(())
    })
}

/// Prints how long one `get` took, in nanoseconds, for each hundred of them.
fn measure(duration: Duration, mut get: impl FnMut(u32) -> Done) -> Done {
    let mut hundred = || -> Result<u128, Box<dyn Error>> {
        let began = Instant::now();
        (0..GETS).try_for_each(&mut get)?;
        Ok(began.elapsed().as_nanos() / u128::from(GETS))
    };
    let began = Instant::now();
    while began.elapsed() < WARM_UP {
        hundred()?;
    }
    let mut each = Vec::new();
    let began = Instant::now();
    while began.elapsed() < duration {
        each.push(hundred()?);
    }
    each.iter().for_each(|nanoseconds| println!("{nanoseconds}"));
    Ok(())
}
