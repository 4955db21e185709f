//! A quiet host: an event is printed at once, and waiting costs nothing.

use std::thread;
use std::time::Duration;

use crate::drivers::{Pair, Route, reset_on_close};
use crate::gate;
use crate::kernel::{Wall, cpu_ticks, wall};
use crate::namespace::Namespace;
use crate::tracer::{SOON, Tracer, ports};

/// What the issue promises.
const PROMPT: Duration = Duration::from_millis(5);

/// Connections that are timed.
const TRIES: usize = 50;

#[test]
fn a_quiet_event_is_printed_within_five_milliseconds() {
    gate::alone(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&format!("{} --transitions", ports(&[31_001])));
        let server = Route::loopback(&lone).listen(31_001);
        let mut transitions = Vec::new();
        let mut verdicts = Vec::new();
        for _ in 0..TRIES {
            let pair = server.connect();
            let side = pair.client_side;
            // A reset: the socket is gone at once, where a FIN's ACK may be delayed.
            reset_on_close(&pair.client);
            let Pair { client, server, .. } = pair;
            // Long enough for the reader to sleep.
            thread::sleep(Duration::from_millis(30));
            let closed = wall();
            drop(client);
            let transition = tracer.wait_for("the transition to CLOSE", SOON, |lines| {
                let mut lines = lines.transitions.iter().rev();
                lines
                    .find(|(_, line)| line.local == side.local && line.to == "CLOSE")
                    .map(|(read, _)| *read)
            });
            // The verdict falls a millisecond later.
            let verdict = tracer.wait_for("the verdict", SOON, |lines| {
                let mut lines = lines.closes.iter().rev();
                lines
                    .find(|(_, record)| side.is(record))
                    .map(|(read, _)| *read)
            });
            transitions.push(transition - closed);
            verdicts.push(verdict - closed);
            drop(server);
        }
        for (what, times) in [("transition", transitions), ("verdict", verdicts)] {
            let [median, p90, max] = quantiles(times);
            println!(
                "{what} printed after {median:.3?} (median), {p90:.3?} (p90), {max:.3?} (max)"
            );
            assert!(median <= PROMPT, "{what}: {median:?}");
        }
        tracer.stop().assert_clean();
    });
}

#[test]
fn an_idle_tracer_uses_no_processor_time() {
    gate::alone(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[31_002]));
        // What starting it left to do.
        thread::sleep(Duration::from_millis(500));
        // Others' connections on this host cost it something: the best of three.
        let least = (0..3)
            .map(|_| {
                let before = cpu_ticks(tracer.pid());
                thread::sleep(Duration::from_secs(3));
                cpu_ticks(tracer.pid()) - before
            })
            .inspect(|ticks| println!("{ticks} ticks of 10 ms in 3 s"))
            .find(|ticks| *ticks <= 1);
        assert!(
            least.is_some(),
            "more than a tick in each of three times 3 s"
        );

        // And it still wakes up at once.
        let server = Route::loopback(&lone).listen(31_002);
        let sides = server.connect().close_client_first();
        tracer.close_of(sides.client);
        tracer.close_of(sides.server);
        tracer.stop().assert_clean();
    });
}

/// Median, 90th percentile and greatest.
fn quantiles(mut nanoseconds: Vec<Wall>) -> [Duration; 3] {
    nanoseconds.sort_unstable();
    let last = nanoseconds.len() - 1;
    [last / 2, last * 9 / 10, last]
        .map(|index| Duration::from_nanos(u64::try_from(nanoseconds[index]).unwrap_or(0)))
}
