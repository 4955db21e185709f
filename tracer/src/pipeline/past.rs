//! What had been counted at a time that is past: a reading of the kernel's counters comes to the
//! stream some time after it was taken, under load most of a second.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::engine::Totals;
use crate::time::Timestamp;

/// How far apart the notes are, nanoseconds.
const STEP: u64 = 1_000_000;
/// How many there are at most: some seconds.
const MOST: usize = 8_192;

/// Openings until a time: those that were seen, or those that the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// By connect(); of the kernel's, ActiveOpens: those that sent a SYN.
    pub clients: u64,
    /// By a listener; of the kernel's, PassiveOpens.
    pub servers: u64,
}

impl Opened {
    /// Those of these totals.
    #[must_use]
    pub const fn of(totals: &Totals) -> Self {
        Self {
            clients: totals.opened_clients,
            servers: totals.opened_servers,
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            clients: self.clients.saturating_add(other.clients),
            servers: self.servers.saturating_add(other.servers),
        }
    }

    /// What is left without `other`.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self {
            clients: self.clients.saturating_sub(other.clients),
            servers: self.servers.saturating_sub(other.servers),
        }
    }
}

/// Notes of what had been counted when.
#[derive(Debug, Default)]
pub struct Past {
    notes: VecDeque<(Timestamp, Opened)>,
    due: Timestamp,
}

impl Past {
    /// Whether a note is due before an event of `at` is counted.
    pub fn is_due(&self, at: Timestamp) -> bool {
        at >= self.due
    }

    /// Notes what was counted before `at`.
    #[cold]
    pub fn note(&mut self, at: Timestamp, opened: Opened) {
        if self.notes.len() >= MOST {
            self.notes.pop_front();
        }
        self.notes.push_back((at, opened));
        self.due = Timestamp(at.0 + STEP);
    }

    /// What was counted before `at`; `now`: what is counted by now. What is older is forgotten.
    pub fn at(&mut self, at: Timestamp, now: Opened) -> Opened {
        let later = self.notes.partition_point(|(noted, _)| *noted < at);
        let opened = self.notes.get(later).map_or(now, |(_, opened)| *opened);
        self.notes.drain(..later);
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn opened(clients: u64) -> Opened {
        Opened {
            clients,
            servers: 0,
        }
    }

    #[test]
    fn what_came_after_a_time_does_not_count() {
        let mut past = Past::default();
        for ms in 0..10 {
            let at = Timestamp(ms * STEP);
            assert!(past.is_due(at));
            past.note(at, opened(ms));
            assert!(!past.is_due(Timestamp(ms * STEP + STEP - 1)));
        }
        assert_eq!(past.at(Timestamp(3 * STEP - 1), opened(10)), opened(3));
        assert_eq!(past.at(Timestamp(3 * STEP), opened(10)), opened(3));
        assert_eq!(past.at(Timestamp(20 * STEP), opened(10)), opened(10));
        assert!(past.notes.is_empty());
    }

    #[test]
    fn notes_do_not_grow_for_ever() {
        let mut past = Past::default();
        for ms in 0..2 * MOST as u64 {
            past.note(Timestamp(ms * STEP), opened(ms));
        }
        assert_eq!(past.notes.len(), MOST);
        assert_eq!(past.at(Timestamp(0), opened(0)), opened(MOST as u64));
    }
}
