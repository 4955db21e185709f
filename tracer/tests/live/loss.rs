//! About a tenth of the records lost by force: what is called complete is right, what is gone is
//! found out, and nothing stays behind.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::account::{Books, Network, Stage};
use crate::drivers::Route;
use crate::drivers::mixed::{self, Way};
use crate::gate;
use crate::namespace::Namespace;
use crate::ndjson::Record;
use crate::tracer::{Tracer, ports};

/// The first port of the load.
const FIRST: u16 = 28_201;
/// The load comes in bursts, with time to recover in between.
const BURSTS: u64 = 10;
const CONNECTIONS: u64 = 6_000;
/// The reader is stopped between these of each burst: what they make is a little more than the ring
/// holds.
const STOPPED: Range<u64> = 600..5_300;

#[test]
fn a_tenth_of_the_records_lost_leaves_no_wrong_verdict_and_nothing_behind() {
    gate::alone(|| {
        let stage = Stage::new(Network::Loopback);
        let namespace = stage.client();
        namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        // sock_diag is asked in namespaces that are found, and one that is nothing but open is not.
        let mounted = namespace.mount();
        let tracer = Tracer::watch_load(&format!("{} --buffer 4MiB", ports(&Way::ports(FIRST))));
        let books = Books::open(&stage);
        let mut made = 0;
        for _ in 0..BURSTS {
            made += burst(namespace, &tracer);
            tracer.wait_for_calm(Duration::from_millis(100));
        }
        let kernel = books.growth();
        // Nobody waits a minute for their ends.
        namespace
            .try_command("ss", "-K -tan state time-wait")
            .expect("destroy what waits");
        assert_eq!(namespace.counters().of("tw"), 0);
        // Two dumps after the last loss.
        tracer.wait_for_calm(Duration::from_secs(4));
        drop(mounted);
        let finished = tracer.stop();
        let summary = &finished.summary;
        let lost = summary.ring_lost + summary.missed;
        let share = lost as f64 / summary.hits as f64;
        println!("{:.1} % lost: {summary:?}\n{kernel:?}", share * 100.0);

        assert!(finished.status.success(), "{}", finished.stderr);
        finished.assert_account();
        assert!(
            (0.02..0.3).contains(&share),
            "{share} of the records were lost"
        );
        let told: u64 = finished.lines.losses.iter().map(|loss| loss.count).sum();
        assert_eq!(told, summary.ring_lost, "the loss lines add up");
        assert_eq!(
            (summary.shown_open, summary.shown_in_time_wait),
            (0, 0),
            "an empty table"
        );

        let verdicts: Vec<&Record> = finished.lines.verdicts().collect();
        let complete = verdicts.iter().filter(|record| record.complete).count();
        println!("{} verdicts, {complete} of them complete", verdicts.len());
        for record in verdicts.iter().filter(|record| record.complete) {
            assert_eq!(record.verdict(), expected(record), "{record:#?}");
        }
        let given = verdicts.len() as u64;
        assert!(
            given <= made,
            "{given} verdicts on {made} connections' ends"
        );
        assert!(made - given <= lost, "{} are missing", made - given);
        assert!(
            complete as u64 > made / 2,
            "{complete} of {made} are complete"
        );
    });
}

/// Makes one burst, and says how many ends of connections and listeners that were.
fn burst(namespace: &Namespace, tracer: &Tracer) -> u64 {
    let begun = AtomicU64::new(0);
    let verdicts = thread::scope(|scope| {
        let load =
            scope.spawn(|| mixed::run(Route::loopback(namespace), FIRST, CONNECTIONS, &begun));
        for (connections, signal) in [(STOPPED.start, Signal::STOP), (STOPPED.end, Signal::CONT)] {
            while begun.load(Ordering::Relaxed) < connections {
                thread::sleep(Duration::from_millis(1));
            }
            tracer.signal(signal);
        }
        load.join().expect("the load ends")
    });
    verdicts.values().sum()
}

/// What the drivers did.
fn expected(record: &Record) -> &'static str {
    let server_port = match record.role.as_str() {
        "client" => record.peer.port,
        _ => record.local.port,
    };
    let way = server_port.and_then(|port| Way::of(port, FIRST));
    let (client, server) = way.expect("a port of the load").verdicts();
    match record.role.as_str() {
        "client" => client,
        "server" => server.expect("nobody listens there"),
        "listener" => "listener_closed",
        role => panic!("complete without a role: {role}"),
    }
}
