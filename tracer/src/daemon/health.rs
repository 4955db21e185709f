//! Whether the daemon can be believed.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use crate::consumer::Books;
use crate::stream::NamespaceReading;
use crate::time::Timestamp;

/// How far back losses count, nanoseconds.
const MINUTE: u64 = 60_000_000_000;

/// So many connections must have begun unseen. A few may have been seen just before the account was
/// read and counted by the kernel just after: one on each processor.
const UNSEEN: u64 = 10;

/// What /healthz answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// Whether all that follows is as it should be.
    pub healthy: bool,
    /// What is not, in words.
    pub reasons: Vec<String>,
    /// Probes that are not attached, which says what is not seen: no reason to be unhealthy.
    pub degraded: Vec<String>,
    /// Events of the last minute.
    pub hits: u64,
    /// Of these, events that are not told of.
    pub lost: u64,
}

/// The losses of the last minute.
#[derive(Debug, Default)]
pub struct Losses {
    /// When, and the totals of hits and of losses until then, the oldest first.
    told: VecDeque<(Timestamp, u64, u64)>,
}

impl Losses {
    /// Takes in how the account stands; gives the hits and losses of the last minute.
    pub fn note(&mut self, books: &Books<'_>) -> (u64, u64) {
        let lost = books.reading.ring_lost + books.missed;
        self.told.push_back((books.now, books.reading.hits, lost));
        // The first is the last one that is a minute old.
        let is_old = |entry: Option<&(Timestamp, u64, u64)>| {
            entry.is_some_and(|(at, ..)| books.now.since(*at) >= MINUTE)
        };
        while is_old(self.told.get(1)) {
            self.told.pop_front();
        }
        let (_, hits_before, lost_before) = self.told.front().copied().unwrap_or_default();
        (
            books.reading.hits.saturating_sub(hits_before),
            lost.saturating_sub(lost_before),
        )
    }
}

/// Whether the probes see what happens: each connect() that gets as far as a SYN is counted by the
/// kernel (ActiveOpens) and met by a probe.
#[derive(Debug, Default)]
pub struct Sight {
    /// Events that the hooks had met when the account was read last.
    hits: u64,
    /// Since when no more were met.
    since: Timestamp,
    /// ActiveOpens of each network namespace since then, first and last, by its cookie.
    opens: HashMap<u64, (u64, u64)>,
}

impl Sight {
    /// Takes in the kernel's counters.
    pub fn note(&mut self, reading: &NamespaceReading) {
        let Some(opens) = reading.counters.active_opens else {
            return;
        };
        if reading.at >= self.since {
            let first_and_last = self.opens.entry(reading.netns_cookie);
            first_and_last.or_insert((opens, opens)).1 = opens;
        }
    }

    /// Takes in how the account stands, after the counters that were read before it; gives how many
    /// connections have begun while no probe met anything.
    pub fn look(&mut self, books: &Books<'_>) -> u64 {
        let reading = books.reading;
        if self.hits != reading.hits {
            (self.hits, self.since) = (reading.hits, reading.at);
            self.opens.clear();
        }
        let opens = self.opens.values();
        opens.map(|(first, last)| last.saturating_sub(*first)).sum()
    }
}

impl Health {
    /// The verdict on a minute of `hits` and `lost` events, of which the share `limit` may be lost,
    /// on the probes that are `gone`, and on `unseen` connections.
    #[must_use]
    pub fn of(
        (hits, lost): (u64, u64),
        limit: f64,
        degraded: &[String],
        gone: &[&str],
        unseen: u64,
    ) -> Self {
        let mut reasons = Vec::new();
        if !gone.is_empty() {
            reasons.push(format!("no longer attached: {}", gone.join(", ")));
        }
        if unseen >= UNSEEN {
            reasons.push(format!(
                "{unseen} connections have begun and the probes met none of them"
            ));
        }
        if lost as f64 > limit * hits as f64 {
            let share = 100.0 * lost as f64 / (hits.max(1) as f64);
            reasons.push(format!(
                "{lost} of {hits} events of the last minute were lost: {share:.3} %, more than {:.3} %",
                100.0 * limit
            ));
        }
        Self {
            healthy: reasons.is_empty(),
            reasons,
            degraded: degraded.to_vec(),
            hits,
            lost,
        }
    }

    /// Before anything is known.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            healthy: false,
            reasons: vec!["the probes are not attached yet".to_owned()],
            degraded: Vec::new(),
            hits: 0,
            lost: 0,
        }
    }

    /// The probes are not attached any more.
    #[must_use]
    pub fn stopped() -> Self {
        Self {
            reasons: vec!["the probes are no longer attached".to_owned()],
            ..Self::starting()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Totals;
    use crate::stream::{AccountReading, Counters};

    const SECOND: u64 = 1_000_000_000;

    fn note(
        losses: &mut Losses,
        second: u64,
        hits: u64,
        ring_lost: u64,
        missed: u64,
    ) -> (u64, u64) {
        losses.note(&Books {
            now: Timestamp(second * SECOND),
            totals: &Totals::default(),
            reading: &AccountReading {
                hits,
                ring_lost,
                ..AccountReading::default()
            },
            received: 0,
            missed,
        })
    }

    #[test]
    fn losses_count_for_a_minute() {
        let mut losses = Losses::default();
        assert_eq!(note(&mut losses, 0, 0, 0, 0), (0, 0));
        assert_eq!(note(&mut losses, 30, 1_000, 4, 1), (1_000, 5));
        assert_eq!(note(&mut losses, 60, 2_000, 4, 1), (2_000, 5));
        assert_eq!(note(&mut losses, 89, 3_000, 4, 1), (3_000, 5));
        assert_eq!(note(&mut losses, 90, 4_000, 4, 1), (3_000, 0));
    }

    #[test]
    fn losses_above_the_limit_are_unhealthy() {
        assert!(Health::of((0, 0), 0.0, &[], &[], 0).healthy);
        assert!(Health::of((1_000, 1), 0.001, &[], &[], 0).healthy);
        let health = Health::of((1_000, 2), 0.001, &[], &[], 0);
        assert_eq!(
            health.reasons,
            ["2 of 1000 events of the last minute were lost: 0.200 %, more than 0.100 %"]
        );
        assert!(!health.healthy);
    }

    #[test]
    fn probes_that_are_gone_are_unhealthy() {
        let health = Health::of((1_000, 0), 0.001, &[], &["set_state", "send_reset"], 0);
        assert_eq!(
            health.reasons,
            ["no longer attached: set_state, send_reset"]
        );
        assert!(!health.healthy);
    }

    /// Counters of network namespace `cookie`, then the account, in a second.
    fn look(sight: &mut Sight, second: u64, opens: &[(u64, u64)], hits: u64) -> u64 {
        for (cookie, active_opens) in opens {
            sight.note(&NamespaceReading {
                at: Timestamp(second * SECOND),
                netns_cookie: *cookie,
                counters: Counters {
                    active_opens: Some(*active_opens),
                    ..Counters::default()
                },
                ..NamespaceReading::default()
            });
        }
        sight.look(&Books {
            now: Timestamp(second * SECOND + 1),
            totals: &Totals::default(),
            reading: &AccountReading {
                at: Timestamp(second * SECOND + 1),
                hits,
                ..AccountReading::default()
            },
            received: 0,
            missed: 0,
        })
    }

    #[test]
    fn connections_that_begin_while_no_probe_meets_anything_are_unseen() {
        let mut sight = Sight::default();
        assert_eq!(look(&mut sight, 1, &[(1, 100), (2, 7)], 50), 0);
        // Nothing happens, then something that is seen.
        assert_eq!(look(&mut sight, 2, &[(1, 100), (2, 7)], 50), 0);
        assert_eq!(look(&mut sight, 3, &[(1, 200), (2, 7)], 90), 0);
        // What began before the account was read may have been seen.
        assert_eq!(look(&mut sight, 4, &[(1, 230), (2, 7)], 90), 0);
        assert_eq!(look(&mut sight, 5, &[(1, 236), (2, 8)], 90), 7);
        assert_eq!(look(&mut sight, 6, &[(1, 240), (2, 9)], 90), 12);
        assert_eq!(look(&mut sight, 7, &[(1, 240), (2, 9)], 91), 0);
        let health = |unseen| Health::of((90, 0), 0.001, &[], &[], unseen);
        assert!(health(9).healthy);
        assert_eq!(
            health(12).reasons,
            ["12 connections have begun and the probes met none of them"]
        );
    }
}
