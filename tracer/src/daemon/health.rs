//! Whether the daemon can be believed.

use std::collections::VecDeque;

use serde::Serialize;

use crate::consumer::Books;
use crate::time::Timestamp;

/// How far back losses count, nanoseconds.
const MINUTE: u64 = 60_000_000_000;

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

impl Health {
    /// The verdict on a minute of `hits` and `lost` events, of which the share `limit` may be lost.
    #[must_use]
    pub fn of((hits, lost): (u64, u64), limit: f64, degraded: &[String]) -> Self {
        let mut reasons = Vec::new();
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
    use crate::stream::AccountReading;

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
        assert!(Health::of((0, 0), 0.0, &[]).healthy);
        assert!(Health::of((1_000, 1), 0.001, &[]).healthy);
        let health = Health::of((1_000, 2), 0.001, &[]);
        assert_eq!(
            health.reasons,
            ["2 of 1000 events of the last minute were lost: 0.200 %, more than 0.100 %"]
        );
        assert!(!health.healthy);
    }
}
