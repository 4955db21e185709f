//! The step from FIN_WAIT2 to TIME_WAIT is silent. Two hooks show it, each on other kernels: the
//! segment that brings it (`free_segment`, Linux 6.11 and later) and the setting of the timer
//! (`schedule`, where fexit programs are let in). Where there are both, they agree.

use std::thread;
use std::time::Duration;

use crate::drivers::{Pair, Route, Sides};
use crate::gate;
use crate::kernel::ms;
use crate::namespace::VethPair;
use crate::ndjson::Record;
use crate::pace;
use crate::tracer::{SOON, Tracer, ports};

const PORTS: [u16; 3] = [33_001, 33_002, 33_003];

/// An address of the link that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

#[test]
fn segments_and_timer_settings_tell_the_same_flips_and_refreshes() {
    gate::quiet(|| {
        let veth = VethPair::new();
        let across = |address| Route {
            name: "veth",
            client: &veth.first,
            server: &veth.second,
            address,
        };
        let by_segment = Tracer::watch(&format!("{} --without schedule", ports(&PORTS)));
        let without = "--without free_segment,free_segment_2";
        let by_setting = Tracer::watch(&format!("{} {without}", ports(&PORTS)));
        let ways = [
            (&by_segment, by_segment.meta().has("free_segment")),
            (&by_setting, by_setting.meta().has("schedule")),
        ];
        // Not to have one is no reason to skip: then just that is to be told.
        let states = [
            by_segment.meta().state("free_segment"),
            by_setting.meta().state("schedule"),
        ];
        println!("free_segment and schedule: {states:?}");
        for state in states {
            let known = ["attached", "refused", "not_needed"];
            assert!(known.contains(&&*state), "{state}");
        }

        let mut all = Vec::new();
        for (address, port) in VethPair::SECOND.into_iter().zip(PORTS) {
            let server = across(address).listen(port);
            for wait in [0, 60, 130, 300] {
                let pair = server.connect();
                let sides = pair.sides();
                drop(pair.client);
                thread::sleep(Duration::from_millis(wait));
                drop(pair.server);
                all.push(sides);
            }
        }
        all.push(with_fins_again(
            &veth,
            across(VethPair::SECOND[0]),
            PORTS[2],
        ));
        // The last ones come to TIME_WAIT; then nobody waits a minute for their ends.
        thread::sleep(pace::bound(Duration::from_millis(100)));
        let waiting = "state time-wait state fin-wait-2";
        veth.first
            .try_command("ss", &format!("-K -tan {waiting}"))
            .expect("destroy what waits");

        for sides in &all {
            let [first, second] = ways.map(|(tracer, sees)| {
                let record = tracer.end_of(sides.client, SOON);
                assert_precise(&record, sees);
                record
            });
            assert_eq!(first.id, second.id);
            let (Some(one), Some(other)) = (&first.time_wait, &second.time_wait) else {
                panic!("{first:#?} {second:#?}");
            };
            assert_eq!(one.exit, other.exit);
            // A flip that moves the timer to another place of the wheel is seen on any kernel.
            if [one, other].iter().all(|it| it.entry_precision == "exact") {
                let (at, other_at) = (one.entered_at.unwrap_or(0), other.entered_at.unwrap_or(0));
                // One is made as the timer is set, the other as the segment is freed, behind the
                // answer to it.
                let apart = at.abs_diff(other_at);
                let most = ms(1) * i64::from(pace::bound(Duration::from_secs(1)).as_secs() as u32);
                assert!(
                    apart <= most.unsigned_abs(),
                    "{apart} ns: {first:#?} {second:#?}"
                );
            }
            if ways.iter().all(|(_, sees)| *sees) {
                assert_eq!(one.refreshes, other.refreshes, "{first:#?} {second:#?}");
            }
        }
        for tracer in [by_segment, by_setting] {
            tracer.stop().assert_clean();
        }
    });
}

/// A close whose last ACK is lost for a while: the peer sends its FIN again, and again.
fn with_fins_again(veth: &VethPair, route: Route<'_>, port: u16) -> Sides {
    let Pair {
        client,
        server,
        client_side,
        server_side,
        ..
    } = route.listen(port).connect();
    drop(client);
    thread::sleep(Duration::from_millis(100));
    let neighbour = "dev veth0 nud permanent";
    veth.first.ip(&format!(
        "neighbour replace 10.77.0.2 lladdr {NOBODY} {neighbour}"
    ));
    drop(server);
    // 0.2 s, 0.6 s and 1.4 s after the first.
    thread::sleep(Duration::from_millis(1_000));
    veth.first.ip("neighbour del 10.77.0.2 dev veth0");
    thread::sleep(Duration::from_millis(800));
    Sides {
        client: client_side,
        server: server_side,
    }
}

fn assert_precise(record: &Record, sees_flips: bool) {
    assert_eq!(record.verdict(), "active/fin", "{record:#?}");
    let time_wait = record.time_wait.as_ref().expect("TIME_WAIT");
    let precision = time_wait.entry_precision.as_str();
    let known: &[&str] = if sees_flips {
        &["exact"]
    } else {
        &["exact", "jiffy", "last_refresh"]
    };
    assert!(known.contains(&precision), "{record:#?}");
}
