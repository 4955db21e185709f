//! Telling in the log that there are more connections than are followed.

use std::fmt;

use crate::engine::Totals;
use crate::time::Timestamp;

/// How often it is told at most, nanoseconds.
const TOLD_EVERY: u64 = 600_000_000_000;

/// What was told of it.
#[derive(Debug, Default)]
pub struct Crowd {
    /// When, how many had been let go by then, and how many passed over.
    told: Option<(Timestamp, u64, u64)>,
}

/// What is new.
#[derive(Debug, PartialEq, Eq)]
pub struct Crowded {
    /// Connections that were let go.
    evicted: u64,
    /// How often others were passed over.
    passed_over: u64,
}

impl Crowd {
    /// What is to be told at `now`: at once as it begins, then every ten minutes while it goes on.
    pub fn note(&mut self, now: Timestamp, totals: &Totals) -> Option<Crowded> {
        let (evicted, passed_over) = (totals.evicted.all(), totals.passed_over);
        let (_, evicted_before, passed_over_before) = self.told.unwrap_or_default();
        let crowded = Crowded {
            evicted: evicted - evicted_before,
            passed_over: passed_over - passed_over_before,
        };
        let is_new = crowded.evicted + crowded.passed_over > 0;
        let is_due = (self.told).is_none_or(|(at, ..)| now.since(at) >= TOLD_EVERY);
        if !is_new || !is_due {
            return None;
        }
        self.told = Some((now, evicted, passed_over));
        Some(crowded)
    }
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "more connections than trace.connections: {} were let go; {} times one that began before \
             was not taken up",
            self.evicted, self.passed_over
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Evicted;

    #[test]
    fn it_is_told_as_it_begins_and_then_every_ten_minutes() {
        let mut crowd = Crowd::default();
        let mut note = |minute: u64, open, passed_over| {
            let totals = Totals {
                evicted: Evicted {
                    open,
                    ..Evicted::default()
                },
                passed_over,
                ..Totals::default()
            };
            let crowded = crowd.note(Timestamp(minute * 60_000_000_000), &totals);
            crowded.map(|it| (it.evicted, it.passed_over))
        };
        assert_eq!(note(1, 0, 0), None);
        assert_eq!(note(2, 1, 0), Some((1, 0)));
        assert_eq!(note(3, 70, 5), None);
        assert_eq!(note(12, 80, 5), Some((79, 5)));
        assert_eq!(note(40, 80, 5), None);
        assert_eq!(note(41, 80, 6), Some((0, 1)));
    }
}
