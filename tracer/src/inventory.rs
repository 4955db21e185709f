//! Which sockets there are: asked at the start, so that those from before it are known, and again
//! whenever what was lost leaves doubt.
//!
//! The probes are attached first and the dump comes after, so that no socket falls between them: one
//! that the dump lacks has shown all of its events, or is gone. An inventory joins the stream only
//! once every event up to its end has.
//!
//! A sweep runs in a thread of its own that ends with it, because it has to enter one namespace
//! after the other, which needs CAP_SYS_ADMIN. A namespace that no process and no mount leads to
//! cannot be found. Nothing is asked while nothing is due.

use std::future;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock;
use crate::stream::{Inventory, Purpose, StreamRecord, Sweep};
use crate::time::Timestamp;

mod answer;
mod budget;
mod dump;
pub(crate) mod namespaces;
mod owners;
mod schedule;
mod sweep;

pub(crate) use dump::netns_cookie;
use schedule::Schedule;

/// The processor time that one sweep may take.
const BUDGET: Duration = Duration::from_secs(2);

/// The sweeps as the one loop sees them: when one is due, and what it brings.
#[derive(Debug)]
pub struct Inventories {
    schedule: Schedule,
    losses: u64,
    /// The sweep that runs.
    results: Option<mpsc::Receiver<StreamRecord>>,
    /// What it brought and the stream may not have yet. While there is such, no more is taken, and
    /// the sweep waits.
    held: Option<StreamRecord>,
}

impl Inventories {
    /// The first sweep is due at once: to be made when the probes are attached.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self {
            schedule: Schedule::new(now),
            losses: 0,
            results: None,
            held: None,
        }
    }

    /// When [`Self::handle_timeout`] is next to be called, or a watermark is next wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let held = self.held.as_ref().map(end_of);
        let due = [held, self.schedule.poll_timeout()].into_iter().flatten();
        due.min()
    }

    /// Begins the sweep that is due at `now`, if one is.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if let Some(purpose) = self.schedule.begin(now) {
            self.results = start(purpose);
            if self.results.is_none() {
                self.schedule.handle_end(now, Duration::ZERO);
            }
        }
    }

    /// This many events have been lost so far, as is known at `now`.
    pub fn handle_losses(&mut self, losses: u64, now: Timestamp) {
        if losses > self.losses {
            self.losses = losses;
            self.schedule.handle_loss(now);
        }
    }

    /// Waits for the next result of the sweep that runs. Cancel safe.
    pub async fn next(&mut self) {
        let Some(results) = self.results.as_mut().filter(|_| self.held.is_none()) else {
            return future::pending().await;
        };
        self.held = results.recv().await;
        let (now, cpu) = match &self.held {
            Some(StreamRecord::Swept(sweep)) => (sweep.at, sweep.cpu),
            Some(_) => return,
            // The thread has died; it has said why on stderr.
            None => (clock::monotonic(), Duration::ZERO),
        };
        self.results = None;
        self.schedule.handle_end(now, cpu);
    }

    /// What the stream may have now that every event before `watermark` has been delivered.
    pub fn release(&mut self, watermark: Timestamp) -> Option<StreamRecord> {
        self.held.take_if(|held| end_of(held) <= watermark)
    }
}

/// Up to when a sweep's result must not be overtaken by events.
fn end_of(result: &StreamRecord) -> Timestamp {
    match result {
        StreamRecord::Inventory(inventory) => inventory.until,
        StreamRecord::Swept(sweep) => sweep.at,
        // A sweep brings nothing else.
        _ => Timestamp::default(),
    }
}

/// One sweep, at once: what each network namespace holds, and what was not looked at.
///
/// # Errors
/// Where there can be no more threads.
pub async fn once() -> std::io::Result<(Vec<Inventory>, Sweep)> {
    let failed = || std::io::Error::other("the thread that looks at the sockets has failed");
    let mut results = start(Purpose::Start).ok_or_else(failed)?;
    let mut inventories = Vec::new();
    loop {
        match results.recv().await {
            Some(StreamRecord::Inventory(inventory)) => inventories.push(inventory),
            Some(StreamRecord::Swept(sweep)) => return Ok((inventories, sweep)),
            // A sweep brings nothing else.
            Some(_) => {}
            None => return Err(failed()),
        }
    }
}

/// Starts a sweep; `None` where there can be no more threads.
fn start(purpose: Purpose) -> Option<mpsc::Receiver<StreamRecord>> {
    let (sender, results) = mpsc::channel(1);
    let thread = thread::Builder::new()
        .name("inventory".to_owned())
        .spawn(move || sweep::sweep(purpose, BUDGET, &sender));
    match thread {
        Ok(_) => Some(results),
        Err(error) => {
            tracing::error!("failed to start the thread that looks at the sockets: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(until: u64) -> StreamRecord {
        StreamRecord::Inventory(Inventory {
            netns: 1,
            netns_cookie: 1,
            from: Timestamp(1),
            until: Timestamp(until),
            whole: true,
            found: Vec::new(),
            owners: Vec::new(),
        })
    }

    /// Inventories with a sweep under way, whose part the test plays.
    fn swept() -> (Inventories, mpsc::Sender<StreamRecord>) {
        let mut inventories = Inventories::new(Timestamp(0));
        assert_eq!(
            inventories.schedule.begin(Timestamp(0)),
            Some(Purpose::Start)
        );
        let (sender, results) = mpsc::channel(1);
        inventories.results = Some(results);
        (inventories, sender)
    }

    #[tokio::test]
    async fn an_inventory_waits_for_the_events_of_its_time() {
        let (mut inventories, sender) = swept();
        assert_eq!(inventories.poll_timeout(), None, "nothing is due");
        sender.send(inventory(10)).await.unwrap();
        inventories.next().await;
        assert_eq!(inventories.poll_timeout(), Some(Timestamp(10)));
        assert_eq!(inventories.release(Timestamp(9)), None);
        assert_eq!(inventories.release(Timestamp(10)), Some(inventory(10)));
        assert_eq!(inventories.release(Timestamp(11)), None);
    }

    #[tokio::test]
    async fn what_comes_next_waits_behind_what_is_held() {
        let (mut inventories, sender) = swept();
        sender.send(inventory(10)).await.unwrap();
        inventories.next().await;
        sender.send(inventory(5)).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(5), inventories.next());
        assert!(early.await.is_err(), "it is not taken");
        assert_eq!(inventories.release(Timestamp(9)), None);
        assert_eq!(inventories.release(Timestamp(12)), Some(inventory(10)));
        inventories.next().await;
        assert_eq!(inventories.release(Timestamp(12)), Some(inventory(5)));
    }

    #[tokio::test]
    async fn a_sweep_that_dies_is_over() {
        let (mut inventories, sender) = swept();
        drop(sender);
        inventories.next().await;
        assert!(
            inventories.poll_timeout().is_some(),
            "another is due some day"
        );
    }

    #[test]
    fn only_new_losses_count() {
        let mut inventories = Inventories::new(Timestamp(0));
        inventories.schedule.begin(Timestamp(0));
        inventories
            .schedule
            .handle_end(Timestamp(0), Duration::ZERO);
        let quiet = inventories.poll_timeout();
        inventories.handle_losses(0, Timestamp(1));
        assert_eq!(inventories.poll_timeout(), quiet);
        inventories.handle_losses(3, Timestamp(2));
        let due = inventories.poll_timeout();
        assert!(due < quiet, "{due:?}");
        inventories.handle_losses(3, Timestamp(500));
        assert_eq!(inventories.poll_timeout(), due);
    }
}
