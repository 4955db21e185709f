//! The sysctls and counters of every network namespace: read at the start, and every second.
//!
//! `/proc/sys/net` and `/proc/thread-self/net` are those of the namespace that the reading thread is
//! in. So a round runs in a thread of its own that enters one after the other and ends with it, as a
//! sweep of [`crate::inventory`] does. Without CAP_SYS_ADMIN our own namespace alone is read.
//!
//! The loop drives it as it drives the inventories:
//!
//! ```text
//! poll_timeout()       when to call handle_timeout(), or to bring a watermark
//! handle_timeout(now)  begins the round that is due
//! next().await         in the select!: takes the next result; cancel safe
//! release(watermark)   with each watermark: what the stream may have now
//! ```

use std::future;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock;
use crate::stream::{NamespaceReading, Skipped, StreamRecord};
use crate::time::Timestamp;

mod proc;
mod round;

use round::Result;

/// Between the beginnings of two rounds.
const PERIOD: Duration = Duration::from_secs(1);
/// Rounds take one part in this many of a processor at most: where they are dear they are rarer.
const SHARE: u32 = 100;

/// The rounds as the one loop sees them.
#[derive(Debug)]
pub struct Readings {
    /// When a round is due; `None`: one runs.
    due: Option<Timestamp>,
    /// When the last one began.
    begun: Timestamp,
    /// The round that runs.
    results: Option<mpsc::Receiver<Result>>,
    /// What it brought and the stream may not have yet. While there is such, the round waits.
    held: Option<Box<NamespaceReading>>,
}

impl Readings {
    /// The first round is due at once.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self {
            due: Some(now),
            begun: now,
            results: None,
            held: None,
        }
    }

    /// When [`Self::handle_timeout`] is next to be called, or a watermark is next wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let held = self.held.as_ref().map(|held| held.at);
        [held, self.due].into_iter().flatten().min()
    }

    /// Begins the round that is due at `now`, if one is.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.due.take_if(|due| now >= *due).is_none() {
            return;
        }
        self.begun = now;
        self.results = start();
        if self.results.is_none() {
            self.handle_end(Duration::ZERO);
        }
    }

    /// Waits for the next result of the round that runs. Cancel safe.
    pub async fn next(&mut self) {
        let Some(results) = self.results.as_mut().filter(|_| self.held.is_none()) else {
            return future::pending().await;
        };
        match results.recv().await {
            Some(Result::Reading(reading)) => self.held = Some(reading),
            Some(Result::Over { cpu }) => self.handle_end(cpu),
            // The thread has died; it has said why on stderr.
            None => self.handle_end(Duration::ZERO),
        }
    }

    /// What the stream may have now that every event before `watermark` has been delivered.
    pub fn release(&mut self, watermark: Timestamp) -> Option<StreamRecord> {
        let held = self.held.take_if(|held| held.at <= watermark);
        held.map(StreamRecord::Namespace)
    }

    /// The round is over and took this much processor time.
    fn handle_end(&mut self, cpu: Duration) {
        self.results = None;
        self.due = Some(self.begun + PERIOD.max(cpu * SHARE));
    }
}

/// Starts a round; `None` where there can be no more threads.
fn start() -> Option<mpsc::Receiver<Result>> {
    let (sender, results) = mpsc::channel(1);
    let thread = thread::Builder::new()
        .name("readings".to_owned())
        .spawn(move || {
            let begun = clock::thread_cpu();
            // What cannot be entered, the sweep tells.
            round::go(|result| sender.blocking_send(result).is_ok());
            let cpu = clock::thread_cpu().saturating_sub(begun);
            let _ = sender.blocking_send(Result::Over { cpu });
        });
    match thread {
        Ok(_) => Some(results),
        Err(error) => {
            tracing::error!("failed to start the thread that reads the counters: {error}");
            None
        }
    }
}

/// One reading of every network namespace, at once, and what could not be entered.
///
/// # Errors
/// Where there can be no more threads.
pub fn once() -> std::io::Result<(Vec<NamespaceReading>, Vec<Skipped>)> {
    let round = || {
        let mut readings = Vec::new();
        let skipped = round::go(|result| {
            if let Result::Reading(reading) = result {
                readings.push(*reading);
            }
            true
        });
        (readings, skipped)
    };
    let thread = thread::Builder::new().name("readings".to_owned());
    let thread = thread.spawn(round)?;
    let died = |_| std::io::Error::other("the thread that reads the counters has died");
    thread.join().map_err(died)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: u64) -> Result {
        Result::Reading(Box::new(NamespaceReading {
            at: Timestamp(at),
            ..NamespaceReading::default()
        }))
    }

    /// Readings with a round under way, whose part the test plays.
    fn begun() -> (Readings, mpsc::Sender<Result>) {
        let mut readings = Readings::new(Timestamp(0));
        assert_eq!(readings.due.take(), Some(Timestamp(0)));
        let (sender, results) = mpsc::channel(1);
        readings.results = Some(results);
        (readings, sender)
    }

    #[tokio::test]
    async fn a_reading_waits_for_the_events_of_its_time() {
        let (mut readings, sender) = begun();
        assert_eq!(readings.poll_timeout(), None);
        sender.send(reading(10)).await.expect("it is taken");
        readings.next().await;
        assert_eq!(readings.poll_timeout(), Some(Timestamp(10)));
        sender.send(reading(11)).await.expect("there is room");
        let early = tokio::time::timeout(Duration::from_millis(5), readings.next());
        assert!(early.await.is_err(), "the next waits behind it");
        assert_eq!(readings.release(Timestamp(9)), None);
        let released = readings.release(Timestamp(10));
        assert!(matches!(released, Some(StreamRecord::Namespace(held)) if held.at.0 == 10));
        readings.next().await;
        assert_eq!(readings.poll_timeout(), Some(Timestamp(11)));
    }

    #[tokio::test]
    async fn rounds_begin_every_second_and_dear_ones_less_often() {
        for (cpu, due) in [(1, 1_000), (10, 1_000), (25, 2_500)] {
            let (mut readings, sender) = begun();
            let cpu = Duration::from_millis(cpu);
            sender
                .send(Result::Over { cpu })
                .await
                .expect("it is taken");
            readings.next().await;
            assert_eq!(readings.poll_timeout(), Some(Timestamp(due * 1_000_000)));
        }
    }

    #[tokio::test]
    async fn a_round_that_dies_is_over() {
        let (mut readings, sender) = begun();
        drop(sender);
        readings.next().await;
        assert_eq!(readings.poll_timeout(), Some(Timestamp(1_000_000_000)));
    }

    #[tokio::test]
    async fn our_namespace_is_read_as_the_loop_would() {
        let now = clock::monotonic();
        let mut readings = Readings::new(now);
        readings.handle_timeout(now);
        let mut seen = Vec::new();
        while readings.due.is_none() {
            readings.next().await;
            if let Some(StreamRecord::Namespace(held)) = readings.release(clock::monotonic()) {
                assert!(held.at >= now);
                seen.push(held);
            }
        }
        let own = proc::own_inode().expect("we are in a namespace");
        let own: Vec<_> = seen.iter().filter(|held| held.netns == own).collect();
        let [own] = own[..] else {
            panic!("not one reading of our namespace: {seen:?}");
        };
        assert_ne!(own.netns_cookie, 0);
        let settings = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let settings = settings.expect("there is a range");
        let (first, last) = own.settings.port_range.expect("there is a range");
        assert_eq!(
            settings.split_whitespace().collect::<Vec<_>>(),
            [first.to_string(), last.to_string()]
        );
        assert!(own.counters.time_wait_overflows.is_some(), "{own:?}");
        assert!(own.counters.active_opens.is_some(), "{own:?}");
        assert!(own.counters.passive_opens.is_some(), "{own:?}");
        assert!(own.counters.orphans.is_some(), "{own:?}");
        let (once, _) = once().expect("a thread");
        assert!(once.iter().any(|reading| reading.netns == own.netns));
    }
}
