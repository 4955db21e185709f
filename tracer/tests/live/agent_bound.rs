//! More connections than the agent follows, and more clients than it serves.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::daemon::Agent;
use crate::drivers::{Route, reset_on_close};
use crate::gate;
use crate::namespace::Namespace;
use crate::others::Others;
use crate::tracer::SOON;

/// The least that can be configured.
const CONNECTIONS: f64 = 1_000.0;
/// Each has two ends, and each end is followed.
const PAIRS: usize = 5_000;

/// What is found under a name, whatever the labels.
fn sum(samples: &BTreeMap<String, f64>, name: &str, label: &str) -> f64 {
    let matching = samples
        .iter()
        .filter(|(sample, _)| sample.split('{').next() == Some(name) && sample.contains(label));
    matching.map(|(_, value)| value).sum()
}

/// Waits until it is so.
fn wait_until(agent: &Agent, what: &str, is_so: impl Fn(&BTreeMap<String, f64>) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let samples = agent.samples();
        let tracked = samples["tracer_connections_tracked"];
        assert!(tracked <= CONNECTIONS, "{tracked} tracked");
        if is_so(&samples) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {samples:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let more = |now: Option<u64>| now.map(|now| now.max(count));
    let limit = Rlimit {
        current: more(limit.current),
        maximum: more(limit.maximum),
    };
    setrlimit(Resource::Nofile, limit).expect("root may have more descriptors");
}

#[test]
fn beyond_the_limit_connections_are_let_go_and_counted_and_their_closes_are_told() {
    // It tells of the whole host.
    gate::alone(|| {
        allow_descriptors(4 * PAIRS as u64);
        let namespace = Namespace::new();
        let others = Others::now();
        let agent = Agent::start("[trace]\nconnections = 1000\n");
        let server = Route::loopback(&namespace).listen(24_104);
        let pairs: Vec<_> = (0..PAIRS).map(|_| server.connect()).collect();
        let evicted = "tracer_connections_evicted_total";
        wait_until(&agent, "evicted", |samples| {
            // The limit leaves room for what the host itself has.
            sum(samples, evicted, "open") >= 2.0 * PAIRS as f64 - CONNECTIONS
        });
        assert_eq!(agent.samples()["tracer_connections_limit"], CONNECTIONS);
        for pair in pairs {
            reset_on_close(&pair.client);
        }
        // Each end is told, most of them met without their opening.
        let both = 2.0 * PAIRS as f64;
        let closes = "tracer_tcp_closes_total";
        wait_until(&agent, "closes", |samples| {
            sum(samples, closes, "reset_") >= both
        });
        let samples = agent.samples();
        for kind in ["reset_sent", "reset_received"] {
            let told = sum(&samples, closes, &format!("kind=\"{kind}\""));
            let wanted = others.and_reset(PAIRS as f64);
            assert!(wanted.contains(&told), "{kind}: {told} of {wanted:?}");
        }
        println!(
            "let go: {}, passed over: {}",
            sum(&samples, evicted, ""),
            samples["tracer_connections_passed_over_total"]
        );
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        let warnings = log.lines().filter(|line| line.contains("were let go;"));
        assert_eq!(warnings.count(), 1, "{log}");
        assert!(
            log.lines()
                .last()
                .is_some_and(|line| line.ends_with(" let go")),
            "{log}"
        );
    });
}

#[test]
fn idle_clients_keep_nobody_from_the_metrics_and_take_few_descriptors() {
    gate::quiet(|| {
        allow_descriptors(16_000);
        let agent = Agent::start("");
        let descriptors = || {
            let path = format!("/proc/{}/fd", agent.pid());
            std::fs::read_dir(path).expect("its descriptors").count()
        };
        let before = descriptors();
        let mut idle: Vec<_> = (0..10_000)
            .map(|_| TcpStream::connect(agent.address).expect("it listens"))
            .collect();
        let asked = Instant::now();
        assert_eq!(agent.get("/metrics").0, 200);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        let taken = descriptors() - before;
        assert!(taken <= 64 + 8, "{taken} descriptors more");
        println!("/metrics took {took:?} beside 10,000 idle clients, {taken} descriptors");
        // Those that were let stay have a few seconds to ask.
        let last = idle.last_mut().expect("the last");
        last.set_read_timeout(Some(SOON)).expect("a timeout");
        assert_eq!(last.read(&mut [0]).ok(), Some(0));
        assert!(agent.stop().0.success());
    });
}
