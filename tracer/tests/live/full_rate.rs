//! nginx and wrk with `Connection: close`, at the rate that the machine gives: not one event is
//! lost, and the books agree with the kernel's counters and with what both programs did.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use aya::sys::Stats;

use crate::account::{Books, Network, Stage, Sum, assert_both_ends_agree, ring};
use crate::drivers::nginx::{Asked, Nginx, ask};
use crate::gate;
use crate::namespace::VethPair;
use crate::pace;
use crate::tracer::{Tracer, ports};
use crate::witness::{Witness, assert_lacks_at_most};

/// Several ports, so that a tuple seldom comes again within its TIME_WAIT.
const PORTS: [u16; 4] = [26_001, 26_002, 26_003, 26_004];

/// What the issue asks for; the variants make do with less.
const MANY: i64 = 150_000;
const FEWER: i64 = 40_000;

#[test]
fn nothing_is_lost_over_loopback() {
    gate::alone(|| {
        load(Network::Loopback, false, MANY);
    });
}

#[test]
fn nothing_is_lost_over_loopback_with_bpf_statistics() {
    gate::alone(|| {
        load(Network::Loopback, true, FEWER);
    });
}

#[test]
fn nothing_is_lost_over_veth() {
    gate::alone(|| {
        load(Network::Veth, false, FEWER);
    });
}

#[test]
fn nothing_is_lost_over_veth_with_bpf_statistics() {
    gate::alone(|| {
        load(Network::Veth, true, FEWER);
    });
}

#[test]
fn nothing_is_lost_over_veth_with_rps() {
    gate::alone(|| {
        load(Network::VethSpread, false, FEWER);
    });
}

#[test]
fn nothing_is_lost_over_veth_with_rps_and_bpf_statistics() {
    gate::alone(|| {
        load(Network::VethSpread, true, FEWER);
    });
}

fn load(network: Network, statistics: bool, connections: i64) {
    let long = connections == MANY;
    let connections = pace::share(connections.unsigned_abs()).cast_signed();
    // The kernel switches them off again when this descriptor is closed.
    let _statistics =
        statistics.then(|| aya::sys::enable_stats(Stats::RunTime).expect("BPF statistics"));
    let stage = Stage::new(network);
    stage
        .client()
        .sysctl("net.ipv4.ip_local_port_range", "1024 65535");
    let address = match &stage {
        Stage::Lone(_) => [127, 0, 0, 1].into(),
        Stage::Veth(_) => VethPair::SECOND[0],
    };

    let witness = Witness::of_ports(&PORTS);
    // The tracer before nginx: it then sees the listeners' whole lives.
    let tracer = Tracer::watch_load(&format!("{} {}", ports(&PORTS), ring(long)));
    let books = Books::open(&stage);
    let nginx = Nginx::start(stage.server(), &PORTS);
    let started = Instant::now();
    let mut asked: Vec<Asked> = Vec::new();
    for port in PORTS.into_iter().cycle() {
        if books.growth().passive_opens >= connections {
            break;
        }
        assert!(
            // No TIME_WAIT of this load expires while its books are read.
            started.elapsed() < Duration::from_secs(50),
            "too slow: {:?}",
            books.growth()
        );
        let seconds = if long { 3 } else { 1 };
        asked.push(ask(stage.client(), SocketAddr::new(address, port), seconds));
    }
    let took = started.elapsed();
    let accepted = all_accepted(&nginx, &books);
    tracer.wait_for_calm(Duration::from_millis(300));
    nginx.stop();
    tracer.wait_for_calm(Duration::from_millis(300));
    let kernel = books.growth();
    let finished = tracer.stop();
    let hidden = witness.hidden();

    let requests: u64 = asked.iter().map(|asked| asked.requests).sum();
    let sum = Sum::of(&finished);
    println!(
        "{network:?}, statistics {statistics}: {accepted} connections in {took:.1?}, {:.0} a second, \
         {:.0} events a second; wrk: {requests} requests, {:?}\n{:?}\n{:?}\n{:?}",
        accepted as f64 / took.as_secs_f64(),
        finished.summary.hits as f64 / took.as_secs_f64(),
        asked
            .iter()
            .filter_map(|asked| asked.errors.as_ref())
            .collect::<Vec<_>>(),
        finished.summary,
        sum,
        kernel,
    );
    finished.assert_clean_but(hidden);
    sum.assert_agrees_with(&kernel, hidden);
    let pairs = assert_both_ends_agree(&finished, hidden);
    println!("(client, server): {pairs:?}");
    assert!(kernel.passive_opens >= connections);
    assert_lacks_at_most("accept()", sum.servers, accepted, hidden.transitions);
    // wrk does not count what it had begun when its time was up, at most 32 a run, nor the
    // connection by which it tries the server.
    let begun = i64::try_from(requests).expect("fewer than 2^63");
    let at_work = 33 * i64::try_from(asked.len()).expect("few runs");
    assert!(
        (begun..=begun + at_work).contains(&kernel.active_opens)
            || asked.iter().any(|run| run.errors.is_some()),
        "wrk read {begun} answers, the kernel counts {} clients",
        kernel.active_opens
    );
    let listeners = sum
        .verdicts
        .get(&("listener".to_owned(), "listener_closed".to_owned()));
    assert_eq!(
        listeners,
        Some(&(2 * PORTS.len() as u64)),
        "nginx listened on each port twice"
    );
}

/// What nginx accepted, once that is all that the kernel opened.
fn all_accepted(nginx: &Nginx, books: &Books<'_>) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let accepted = i64::try_from(nginx.accepted()).expect("fewer than 2^63");
        let opened = books.growth().passive_opens;
        if accepted == opened {
            return accepted;
        }
        assert!(
            Instant::now() < deadline,
            "nginx accepted {accepted} of {opened}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
