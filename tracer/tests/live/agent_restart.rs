//! The daemon is reloaded, stopped and started again under load: what it tells of both runs, and of
//! the time between them, is what the kernel counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{Agent, rows_below};
use crate::drivers::{Route, Server, reset_on_close};
use crate::gate;
use crate::namespace::Namespace;
use crate::tracer::SOON;

const PORT: u16 = 24_104;

/// How many seconds' openings may be told on the wrong side of a stop or a start: the counters are
/// read in some milliseconds, in which the reader may lose the processor.
const DOUBT: f64 = 0.05;

#[test]
fn two_runs_and_the_time_between_them_add_up_to_what_the_kernel_counted() {
    // It tells of the whole host.
    gate::alone(|| {
        let namespace = Namespace::new();
        // So that its counters can be read.
        let _mounted = namespace.mount();
        let history = tempfile::tempdir().expect("a directory");
        let config = format!("[history]\ndirectory = \"{}\"\n", history.path().display());
        let server = Route::loopback(&namespace).listen(PORT);
        let before = namespace.counters();
        let first = Agent::start(&config);
        let over = AtomicBool::new(false);
        let made = AtomicU64::new(0);
        let (first_log, second) = thread::scope(|scope| {
            scope.spawn(|| resets(&server, &over, &made));
            for _ in 0..2 {
                thread::sleep(Duration::from_secs(1));
                first.signal(Signal::HUP);
                first.wait_until_told("RELOADING=1");
            }
            thread::sleep(Duration::from_secs(1));
            let (exit, log) = first.stop();
            assert!(exit.success(), "{log}");
            thread::sleep(Duration::from_secs(1));
            let second = Agent::start(&config);
            thread::sleep(Duration::from_secs(3));
            over.store(true, Ordering::Release);
            (log, second)
        });
        let made = made.into_inner();
        let kernel = namespace.counters().since(&before, "ActiveOpens");
        assert_eq!(kernel, i64::try_from(made).expect("few"));
        let unwatched = r#"tracer_opens_unwatched_total{role="client"}"#;
        let unwatched = second.samples()[unwatched];
        let (exit, second_log) = second.stop();
        assert!(exit.success(), "{second_log}");
        let rows = rows_below(history.path());
        let is_ours = |row: &&_| is_client_of_ours(row);
        let written = rows.iter().filter(is_ours).count() as f64;
        let per_second = made as f64 / 8.0;
        println!("{made} made: {written} rows, {unwatched} unwatched, {per_second} a second");
        assert!(unwatched > 0.5 * per_second, "{unwatched}\n{second_log}");
        assert!(
            (written + unwatched - made as f64).abs() <= DOUBT * per_second,
            "{made} made, {written} rows, {unwatched} unwatched\n{first_log}\n{second_log}"
        );
        assert!(
            second_log.contains("since the last agent stopped"),
            "{second_log}"
        );
    });
}

#[test]
fn what_was_whole_before_a_kill_is_read_after_it() {
    gate::alone(|| {
        let namespace = Namespace::new();
        let _mounted = namespace.mount();
        let history = tempfile::tempdir().expect("a directory");
        let config = format!(
            "[history]\ndirectory = \"{}\"\nroll_after = \"1s\"\n",
            history.path().display()
        );
        let server = Route::loopback(&namespace).listen(PORT);
        let killed = Agent::start(&config);
        let over = AtomicBool::new(false);
        let made = AtomicU64::new(0);
        let unfinished = || files_below(history.path(), "tmp");
        let (had_rolled, second) = thread::scope(|scope| {
            scope.spawn(|| resets(&server, &over, &made));
            // Longer than until the first agent leaves something for the next, and than the socket
            // of a service manager that does not read takes messages.
            thread::sleep(Duration::from_secs(13));
            let had_rolled = made.load(Ordering::Relaxed);
            // A file takes rows for a second, and some time to be finished.
            thread::sleep(Duration::from_millis(2_500));
            let deadline = Instant::now() + SOON;
            while unfinished() == 0 {
                assert!(Instant::now() < deadline, "it writes no more");
                thread::sleep(Duration::from_millis(1));
            }
            killed.signal(Signal::KILL);
            drop(killed);
            let second = Agent::start(&config);
            thread::sleep(Duration::from_secs(2));
            over.store(true, Ordering::Release);
            (had_rolled, second)
        });
        let (exit, log) = second.stop();
        assert!(exit.success(), "{log}");
        assert!(log.contains("since the last agent was killed"), "{log}");
        assert_eq!(unfinished(), 0, "the next one clears up");
        let made = made.into_inner();
        // Every file that is there can be read to its end.
        let rows = rows_below(history.path());
        let written = rows.iter().filter(|row| is_client_of_ours(row)).count() as u64;
        println!("{made} made, {had_rolled} of them in time, {written} rows");
        assert!(
            had_rolled <= written && written < made,
            "{had_rolled} <= {written} < {made}"
        );
    });
}

/// How many files below a directory have this ending.
fn files_below(directory: &Path, ending: &str) -> usize {
    let entries = fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| match path.is_dir() {
            true => files_below(&path, ending),
            false => usize::from(path.extension().is_some_and(|it| it == ending)),
        })
        .sum()
}

fn is_client_of_ours(row: &BTreeMap<String, String>) -> bool {
    row["role"] == "\"client\"" && row["peer_port"] == PORT.to_string()
}

/// Connects and resets until it is over, and counts it.
fn resets(server: &Server, over: &AtomicBool, made: &AtomicU64) {
    while !over.load(Ordering::Acquire) {
        let pair = server.connect();
        reset_on_close(&pair.client);
        made.fetch_add(1, Ordering::Relaxed);
    }
}
