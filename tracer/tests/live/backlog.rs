//! A reader that is stopped while events pour in loses some, and says exactly how many.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::account::{Books, Network, Stage, Sum};
use crate::drivers::Route;
use crate::drivers::churn::{self, Plan};
use crate::gate;
use crate::tracer::{Tracer, ports};

const PORT: u16 = 28_001;

#[test]
fn a_stopped_reader_accounts_for_every_event_that_it_lost() {
    gate::alone(|| {
        let stage = Stage::new(Network::Loopback);
        let client = stage.client();
        client.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        let tracer = Tracer::watch_load(&format!("{} --buffer 1MiB", ports(&[PORT])));
        let books = Books::open(&stage);
        let plan = Plan {
            connections: u64::MAX,
            lasting: Duration::from_secs(5),
            threads: 4,
        };
        let done = thread::scope(|scope| {
            let load = scope.spawn(|| churn::run(Route::loopback(client), PORT, plan));
            thread::sleep(Duration::from_secs(1));
            tracer.signal(Signal::STOP);
            thread::sleep(Duration::from_secs(3));
            tracer.signal(Signal::CONT);
            load.join().expect("the load ends")
        });
        tracer.wait_for_calm(Duration::from_millis(300));
        let kernel = books.growth();
        let finished = tracer.stop();
        let sum = Sum::of(&finished);
        println!(
            "{:.0} connections a second; {done:?}\n{:?}\n{sum:?}",
            done.rate(),
            finished.summary
        );

        assert!(finished.status.success(), "{}", finished.stderr);
        finished.assert_account();
        let lost = finished.summary.ring_lost;
        assert!(lost > 0, "a full ring loses events");
        let told: u64 = finished.lines.losses.iter().map(|loss| loss.count).sum();
        assert_eq!(told, lost, "the loss lines add up");

        assert!(done.errors.is_empty(), "{:?}", done.errors);
        assert_eq!(
            kernel.active_opens,
            i64::try_from(done.connected).expect("few")
        );
        assert!(
            sum.clients <= kernel.active_opens,
            "no connection is made up"
        );
        assert!(
            sum.servers <= kernel.passive_opens,
            "no connection is made up"
        );
        assert!(
            sum.minisockets <= kernel.minisockets,
            "no minisocket is made up"
        );
        // What it calls complete it must have right: every client closed first.
        for record in finished.lines.verdicts().filter(|record| record.complete) {
            let expected = match record.role.as_str() {
                "client" => "active/fin",
                "server" => "passive/fin",
                _ => continue,
            };
            assert_eq!(record.verdict(), expected, "{record:#?}");
        }
    });
}
