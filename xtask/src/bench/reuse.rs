//! `instances = "reuse"` with WASI 0.2 and 0.3 components, against plain hyper, and against `wasmtime serve`, which reuses
//! instances of 0.3 components, too.

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

const REUSE: &str = "instances = \"reuse\"";

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    let app = App::new(&setup.work, "reuse")?
        .code("p2.wasm", &guest("hello-p2")?)?
        .code("p3.wasm", &guest("hello-p3")?)?
        .function("p2", "p2.wasm", "/p2", REUSE)
        .function("p3", "p3.wasm", "/p3", REUSE)
        .finish()?;
    let node = Node::start(setup, &setup.work.join("reuse-data"), Threads::OneCore, Some("reuse"))?;
    node.publish(setup, &app)?;
    let answer = contest::check_hello(node.http, "/p2")?;
    let hyper = Peer::plain_hyper(setup, &answer)?;
    let wasmtime = Peer::wasmtime_serve(setup, &guest_path("hello-p3"))?;

    let contender = |name: &str, address, path, server| Contender { name: name.into(), address, path, server };
    let contenders = [
        contender("plain hyper", hyper.address, "/", &hyper.server),
        contender("Minnow, 0.2 reused", node.http, "/p2", &node.server),
        contender("Minnow, 0.3 reused", node.http, "/p3", &node.server),
        contender("wasmtime serve, 0.3", wasmtime.address, "/", &wasmtime.server),
    ];
    let standings = contest::run(setup, "reuse", &contenders)?;
    let [plain, p2, p3, serve] = standings.as_slice() else { unreachable!("one standing for each contender") };
    let ratio =
        |of: &contest::Standing, to: &contest::Standing| median_ratio(&of.requests_per_second, &to.requests_per_second);
    Ok(Report {
        figures: vec![
            Figure::new("0.2 component, requests/s against plain hyper", ratio(p2, plain), "×", Target::AtLeast(0.45)),
            Figure::new("0.3 component, requests/s against plain hyper", ratio(p3, plain), "×", Target::AtLeast(0.45)),
            Figure::new("0.3 component, requests/s against wasmtime serve", ratio(p3, serve), "×", Target::AtLeast(2.0)),
        ],
        measured: contest::table(&standings),
        notes: vec![
            "The same wasi:http 0.3 component in Minnow and in wasmtime, which reuses its instances by default; plain \
             hyper sends the same bytes as Minnow. 64 connections, closed loop. Ratios are medians of the ratios of each round."
                .into(),
        ],
        peers: vec![wasmtime.version.clone(), hyper.version.clone(), version_of("wrk", &["--version"])?],
        raw: contest::raw(&standings),
    })
}
