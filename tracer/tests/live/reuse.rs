//! Tuples used again while their TIME_WAIT lasts: a new connection, linked to the one before it.

use std::time::Duration;
use std::{iter, thread};

use rustix::time::ClockId;

use crate::drivers::{Route, Sides};
use crate::gate;
use crate::kernel::jiffy;
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::Record;
use crate::tracer::{SOON, Tracer, ports};

#[test]
fn connect_takes_over_the_oldest_ports_where_tcp_tw_reuse_lets_it() {
    gate::quiet(|| {
        let veth = VethPair::new();
        veth.first.sysctl("net.ipv4.tcp_tw_reuse", "1");
        veth.first
            .sysctl("net.ipv4.ip_local_port_range", "40000 40007");
        let tracer = Tracer::watch(&ports(&[25_001, 25_002]));
        let before = veth.first.counters();
        for (address, port) in VethPair::SECOND.into_iter().zip([25_001, 25_002]) {
            let route = Route {
                name: "veth",
                client: &veth.first,
                server: &veth.second,
                address,
            };
            let server = route.listen(port);
            a_new_second();
            let first: Vec<Sides> = iter::repeat_with(|| server.connect().close_client_first())
                .take(8)
                .collect();
            // tcp_tw_reuse_delay is 1 s. Before Linux 6.14, where it cannot be set, it is a full
            // second's beginning: neither half of the test may see one.
            thread::sleep(Duration::from_millis(1_300));
            a_new_second();
            let second: Vec<Sides> = iter::repeat_with(|| server.connect().close_client_first())
                .take(8)
                .collect();
            for old in first {
                let old = tracer.end_of(old.client, SOON);
                let time_wait = old.time_wait.as_ref().expect("it was in TIME_WAIT");
                assert_eq!(time_wait.exit.as_deref(), Some("reused_by_connect"));
                let dwell = Duration::from_nanos(time_wait.dwell_ns.expect("it is over"));
                assert!((1_000..5_000).contains(&dwell.as_millis()), "{dwell:?}");
                let new = successor(&tracer, &second, &old);
                let previous = new.previous.as_ref().expect("it knows whose tuple it took");
                assert_eq!(
                    (&previous.id, previous.generation),
                    (&old.id, old.generation)
                );
                assert!(previous.gap_ns < 1_000_000_000, "{previous:?}");
            }
        }
        let recycled = veth.first.counters().since(&before, "TWRecycled");
        let reused = tracer.look(|lines| {
            lines
                .ends
                .iter()
                .filter(|record| record.time_wait_exit() == Some("reused_by_connect"))
                .count()
        });
        assert_eq!(
            (recycled, reused),
            (16, 16),
            "the kernel's TWRecycled and ours"
        );
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_syn_reopens_a_servers_time_wait() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let veth = VethPair::new();
        let across = Route {
            name: "veth IPv6",
            client: &veth.first,
            server: &veth.second,
            address: VethPair::SECOND[1],
        };
        let routes = [
            (Route::loopback(&lone), 25_010),
            (Route::mapped(&lone), 25_011),
            (across, 25_012),
        ];
        let tracer = Tracer::watch(&ports(&[25_010, 25_011, 25_012]));
        for (route, port) in routes {
            let before = route.server.counters();
            let server = route.listen(port);
            let pair = server.connect();
            let (source, first) = (pair.client_address.port(), pair.sides());
            pair.close_server_first();
            // A newer time stamp (1 ms) is what lets the SYN in.
            thread::sleep(Duration::from_millis(50));
            let pair = server
                .connect_from(source)
                .unwrap_or_else(|error| panic!("{}: connect again: {error}", route.name));
            assert_eq!(pair.server_side, first.server, "the same tuple");
            // The server closes first again: its second TIME_WAIT is no end yet.
            let second = pair.close_server_first();

            let old = tracer.end_of(first.server, SOON);
            assert_eq!(
                old.time_wait_exit(),
                Some("reused_by_syn"),
                "{}",
                route.name
            );
            let dwell = old
                .time_wait
                .as_ref()
                .and_then(|time_wait| time_wait.dwell_ns);
            let dwell = Duration::from_nanos(dwell.expect("it is over"));
            assert!((50..2_000).contains(&dwell.as_millis()), "{dwell:?}");
            for side in [second.server, second.client] {
                let (old, new) = tracer.wait_for("both incarnations", SOON, |lines| {
                    let mut both = lines.verdicts().filter(|record| side.is(record)).cloned();
                    Some((both.next()?, both.next()?))
                });
                let previous = new.previous.as_ref().expect("it knows whose tuple it took");
                assert_eq!(
                    (&previous.id, previous.generation),
                    (&old.id, old.generation)
                );
            }
            let recycled = route.server.counters().since(&before, "TWRecycled");
            assert_eq!(recycled, 0, "connect() took nothing over");
        }
        tracer.stop().assert_clean();
    });
}

/// Waits for the next full second of the clock by which the kernel judges a TIME_WAIT's age.
fn a_new_second() {
    let now = rustix::time::clock_gettime(ClockId::Monotonic).tv_nsec;
    let left = 1_000_000_000 - u64::try_from(now).expect("a part of a second");
    // The kernel's own second comes with its next tick.
    thread::sleep(Duration::from_nanos(left) + 2 * jiffy());
}

/// The verdict on the later connection with the tuple of `old`.
fn successor(tracer: &Tracer, later: &[Sides], old: &Record) -> Record {
    let side = later
        .iter()
        .map(|sides| sides.client)
        .find(|side| side.is(old))
        .unwrap_or_else(|| panic!("nobody took {:?} over", old.local));
    tracer.wait_for("the successor's verdict", SOON, |lines| {
        let mut incarnations = lines.verdicts().filter(|record| side.is(record));
        incarnations.nth(1).cloned()
    })
}
