//! Hello in JavaScript through the whole gateway, against `deno serve` and workerd with the same module.

use anyhow::Result;

use crate::bench::{
    Setup,
    app::App,
    contest::{self, Contender},
    machine::version_of,
    node::{Node, Threads},
    peers::{Peer, require},
    report::{Figure, Report, Target},
    stats::median_ratio,
};

use super::{POOL, install_tools, read_source, source, with_pool};

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    install_tools(setup)?;
    let deno = Peer::deno_serve(setup, &source("hello.js"))?;
    let workerd = Peer::workerd(setup)?;
    let app = App::new(&setup.work, "js-warm")?
        .code("hello.js", read_source("hello.js")?.as_bytes())?
        .function("hello", "hello.js", "/{*rest}", "")
        .finish()?;
    let data_dir = setup.work.join("js-warm-data");
    let node = Node::start_with(&with_pool(POOL), setup, &data_dir, Threads::OneCore, Some("js-warm"))?;
    node.publish(setup, &app)?;

    let contender = |name: &str, address, server| Contender { name: name.into(), address, path: "/", server };
    let contenders = [
        contender("deno serve", deno.address, &deno.server),
        contender("Minnow", node.http, &node.server),
        contender("workerd", workerd.address, &workerd.server),
    ];
    let standings = contest::run(setup, "js-warm", &contenders)?;
    let [bare, minnow, other] = standings.as_slice() else { unreachable!("one standing for each contender") };
    let against = |peer: &contest::Standing| median_ratio(&minnow.requests_per_second, &peer.requests_per_second);
    Ok(Report {
        figures: vec![
            Figure::new("requests/s against deno serve", against(bare), "×", Target::AtLeast(0.25)),
            Figure::new("requests/s against workerd", against(other), "×", Target::AtLeast(1.5)),
        ],
        measured: contest::table(&standings),
        notes: vec![
            "The same module in all three. 64 connections, closed loop. The node and its Deno processes share the one core, \
             and their CPU time and RSS are added up; what they map from one file counts for each."
                .into(),
            format!("The pool is {POOL} processes. Ratios are medians of the ratios of each round."),
        ],
        peers: vec![deno.version.clone(), workerd.version.clone(), version_of("wrk", &["--version"])?],
        raw: contest::raw(&standings),
    })
}
