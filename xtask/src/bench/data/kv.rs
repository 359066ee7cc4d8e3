//! The key-value store against Redis: gets from a component and from JavaScript, and durable sets.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    contest::WARM_UP,
    js::{POOL, install_tools, read_source, with_pool},
    machine::version_of,
    node::{Node, Threads},
    peers::{Peer, require},
    report::{Figure, Report, Table, Target},
    stats::{median, median_ratio, micros},
    wrk::{self, Load},
};

use super::{
    CLIENTS, GETS, Gets, VALUE_BYTES, WRITES, ask, gets_row, p50s,
    plain::Plain,
    redis::{self, Sets},
    timed_gets, value, writes_row,
};

struct Round {
    wasm: Gets,
    /// By a client beside Redis on one core, and on another core.
    plain: [Gets; 2],
    js: Gets,
    /// A Deno program beside Redis on one core, and on another core.
    deno: [Gets; 2],
    /// Sets of a request each, and [`WRITES`] of each request.
    set: Load,
    many_sets: Load,
    redis_set: Sets,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    install_tools(setup)?;
    let plain = Plain::build(setup)?;
    let app = App::new(&setup.work, "kv")?
        .code("data.wasm", &guest("data-p2")?)?
        .code("gets.js", read_source("kv-gets.js")?.as_bytes())?
        .function("data", "data.wasm", "/{*rest}", "kv = [\"items\"]")
        .function("gets", "gets.js", "/js", "kv = [\"items\"]")
        .tables("[kv.items]")
        .finish()?;
    let node = Node::start_with(&with_pool(POOL), setup, &setup.work.join("kv-data"), Threads::OneCore, Some("kv"))?;
    node.publish(setup, &app)?;
    ask(&node, "/kv/set?key=k", &value())?;

    // Both on the server's core have what a node has; on two cores they have twice that, and wake each other across cores.
    let beside = redis::start(setup, setup.cores.server)?;
    let apart = redis::start(setup, setup.cores.load)?;
    let (mut plain_gets, mut deno_gets) = (Vec::new(), Vec::new());
    let module = read_source("redis-gets.js")?;
    let mut denos = Vec::new();
    for redis in [&beside, &apart] {
        redis::set(redis, &value())?;
        denos.push(Peer::deno_with_redis(setup, &module, redis.address)?);
    }
    let [deno_beside, deno_apart] = denos.as_slice() else { unreachable!("one for each Redis") };
    let denos = [deno_beside.address, deno_apart.address];
    let bytes = ("bytes", u64::from(GETS) * VALUE_BYTES as u64);
    let url = format!("http://{}/kv/set?key=key-@", node.http);
    let many_url = format!("http://{}/kv/sets?n={WRITES}&key=key-@", node.http);

    let progress = setup.progress("kv", setup.rounds as usize * 9);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        let step = |what: &'static str| {
            progress.inc(1);
            progress.set_message(what);
        };
        step("gets, WebAssembly");
        let of_wasm = timed_gets(setup, node.http, "/kv/gets?key=k&", bytes)?;
        for redis in [&beside, &apart] {
            step("gets, Redis");
            plain_gets.push(plain.redis_gets(setup, setup.cores.server, redis.address)?);
        }
        step("gets, JavaScript");
        let of_js = timed_gets(setup, node.http, "/js?", bytes)?;
        for deno in denos {
            step("gets, Deno and Redis");
            deno_gets.push(timed_gets(setup, deno, "/?", bytes)?);
        }
        step("sets");
        wrk::run_posts(setup, &url, &value(), CLIENTS, WARM_UP)?;
        let set = wrk::run_posts(setup, &url, &value(), CLIENTS, setup.round)?;
        step("many sets");
        let many_sets = wrk::run_posts(setup, &many_url, &value(), CLIENTS, setup.round)?;
        step("sets, Redis");
        rounds.push(Round {
            wasm: of_wasm,
            plain: two(&mut plain_gets),
            js: of_js,
            deno: two(&mut deno_gets),
            set,
            many_sets,
            redis_set: redis::sets(setup, &beside)?,
        });
    }
    progress.finish_and_clear();
    // wrk makes the first request only to look at it.
    let entry = ask(&node, "/kv/get?key=key-2", "")?;
    ensure!(entry.get("value") == Some(&value().into()), "what was set is not there: {entry}");
    let peers = vec![beside.version.clone(), deno_beside.version.clone(), version_of("wrk", &["--version"])?];
    Ok(report(&rounds, peers))
}

/// Takes the gets of both places.
fn two(gets: &mut Vec<Gets>) -> [Gets; 2] {
    let mut taken = gets.drain(..);
    std::array::from_fn(|_| taken.next().unwrap_or_default())
}

/// The p50 of each round, of the place in which it was better.
fn better(rounds: &[Round], places: fn(&Round) -> &[Gets; 2]) -> Vec<f64> {
    let [beside, apart] = [0, 1].map(|place| p50s(rounds.iter().filter_map(|round| places(round).get(place))));
    beside.iter().zip(&apart).map(|(beside, apart)| beside.min(*apart)).collect()
}

fn report(rounds: &[Round], peers: Vec<String>) -> Report {
    let (wasm, js) = (p50s(rounds.iter().map(|round| &round.wasm)), p50s(rounds.iter().map(|round| &round.js)));
    let sets: Vec<f64> = rounds.iter().map(|round| round.set.requests_per_second()).collect();
    let many_sets: Vec<f64> =
        rounds.iter().map(|round| round.many_sets.requests_per_second() * f64::from(WRITES)).collect();
    let redis_sets: Vec<f64> = rounds.iter().map(|round| round.redis_set.per_second).collect();
    let times = |of: fn(&Round) -> std::time::Duration| rounds.iter().map(of).collect::<Vec<_>>();
    let gets = |what: &str, of: fn(&Round) -> Option<&Gets>| gets_row(what, rounds.iter().filter_map(of));
    let raw = |round: &Round| {
        let all = |gets: &Gets| gets.iter().copied().map(micros).collect::<Vec<_>>();
        json!({
            "wasm_get_us": all(&round.wasm),
            "redis_get_us": round.plain.each_ref().map(all),
            "js_get_us": all(&round.js),
            "deno_redis_get_us": round.deno.each_ref().map(all),
            "sets_per_second": round.set.requests_per_second(),
            "requests_of_many_sets_per_second": round.many_sets.requests_per_second(),
            "redis_sets_per_second": round.redis_set.per_second,
        })
    };
    Report {
        figures: vec![
            Figure::new("p50 of a get, WebAssembly", median(&wasm), "µs", Target::AtMost(8.0)),
            Figure::new(
                "p50 of a get, Redis against WebAssembly",
                median_ratio(&better(rounds, |round| &round.plain), &wasm),
                "×",
                Target::AtLeast(5.0),
            ),
            Figure::new(
                "p50 of a get, Deno and Redis against JavaScript",
                median_ratio(&better(rounds, |round| &round.deno), &js),
                "×",
                Target::AtLeast(0.5),
            ),
            Figure::new(
                format!("durable sets/s of {CLIENTS} clients against Redis"),
                median_ratio(&many_sets, &redis_sets),
                "×",
                Target::AtLeast(1.0),
            ),
        ],
        measured: Table {
            header: vec!["what", "p50", "p99", "writes/s"],
            rows: vec![
                gets("get in a function of WebAssembly", |round| Some(&round.wasm)),
                gets("GET of Redis on the client's core", |round| round.plain.first()),
                gets("GET of Redis on another core", |round| round.plain.last()),
                gets("get in a function of JavaScript", |round| Some(&round.js)),
                gets("Deno, GET of Redis on its core", |round| round.deno.first()),
                gets("Deno, GET of Redis on another core", |round| round.deno.last()),
                writes_row(
                    &format!("{WRITES} sets in a request to a function of WebAssembly"),
                    &many_sets,
                    &times(|round| round.many_sets.p50()),
                    &times(|round| round.many_sets.p99()),
                ),
                writes_row(
                    "set in a request to a function of WebAssembly",
                    &sets,
                    &times(|round| round.set.p50()),
                    &times(|round| round.set.p99()),
                ),
                writes_row(
                    "SET of Redis",
                    &redis_sets,
                    &times(|round| round.redis_set.p50),
                    &times(|round| round.redis_set.p99),
                ),
            ],
        },
        notes: vec![
            format!(
                "Gets: a request makes {GETS} gets of one value of {VALUE_BYTES} bytes, one after the other, and times them itself; p50 \
                 and p99 are of these means. Redis's client is a plain loop in Rust over one connection on loopback; Deno's is Redis's \
                 own from npm. The node, with its Deno processes, has the server's core; so have the clients of Redis. Redis is \
                 measured on that core and on the other, and compared where it was faster."
            ),
            format!(
                "Sets: {CLIENTS} clients set a value of {VALUE_BYTES} bytes under a thousand keys, each answered when it is on the \
                 disk before the next begins. wrk sends requests to a function, a fresh instance each; compared is what makes {WRITES} \
                 sets in each, so that HTTP has as little part in it as in the gets. redis-benchmark talks to Redis with \
                 `appendfsync always` and no snapshots. Node and Redis have the server's core."
            ),
        ],
        peers,
        raw: rounds.iter().map(raw).collect(),
    }
}
