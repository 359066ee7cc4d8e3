//! A fresh instance for each request, through the whole gateway, against `wasmtime serve` and plain hyper.

use anyhow::Result;

use super::{
    Setup,
    app::{App, guest, guest_path},
    contest::{self, Contender},
    machine::version_of,
    node::{Node, Threads},
    peers::{Peer, require},
    report::{Figure, Report, Target},
    stats::median_ratio,
};

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    let app = App::new(&setup.work, "hello")?
        .code("hello.wasm", &guest("hello-p2")?)?
        .function("hello", "hello.wasm", "/{*rest}", "")
        .finish()?;
    let node = Node::start(setup, &setup.work.join("hello-data"), Threads::OneCore, Some("hello"))?;
    node.publish(setup, &app)?;
    let answer = contest::check_hello(node.http, "/")?;
    let hyper = Peer::plain_hyper(setup, &answer)?;
    let wasmtime = Peer::wasmtime_serve(setup, &guest_path("hello-p2"))?;

    let contender = |name: &str, address, server| Contender { name: name.into(), address, path: "/", server };
    let contenders = [
        contender("plain hyper", hyper.address, &hyper.server),
        contender("Minnow, fresh instances", node.http, &node.server),
        contender("wasmtime serve", wasmtime.address, &wasmtime.server),
    ];
    let standings = contest::run(setup, "hello", &contenders)?;
    let [plain, minnow, serve] = standings.as_slice() else { unreachable!("one standing for each contender") };
    let minnow = &minnow.requests_per_second;
    Ok(Report {
        figures: vec![
            Figure::new(
                "requests/s against wasmtime serve",
                median_ratio(minnow, &serve.requests_per_second),
                "×",
                Target::AtLeast(3.0),
            ),
            Figure::new(
                "requests/s against plain hyper",
                median_ratio(minnow, &plain.requests_per_second),
                "×",
                Target::AtLeast(0.25),
            ),
        ],
        measured: contest::table(&standings),
        notes: vec![
            "The same wasi:http 0.2 component in Minnow and in wasmtime; plain hyper sends the same bytes as Minnow. \
             64 connections, closed loop. Ratios are medians of the ratios of each round."
                .into(),
        ],
        peers: vec![wasmtime.version.clone(), hyper.version.clone(), version_of("wrk", &["--version"])?],
        raw: contest::raw(&standings),
    })
}
