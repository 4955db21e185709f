//! The states that a connection has been in, in order, in a place of fixed size.

use tracer_common::tcp::TcpState;

use crate::record::{MOST_STATES, StateVisit, States};
use crate::time::Timestamp;

/// Arrivals in states. A legal life makes at most six; what a garbled one makes beyond the
/// capacity replaces the latest, since such a record is marked incomplete anyway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    arrivals: [Timestamp; Self::CAPACITY],
    states: [TcpState; Self::CAPACITY],
    len: u8,
    /// Bit n: what came just before the arrival of number n was lost.
    gaps: u16,
}

impl Timeline {
    /// How many arrivals it holds.
    pub const CAPACITY: usize = MOST_STATES;

    /// No state yet.
    pub const fn new() -> Self {
        Self {
            arrivals: [Timestamp(0); Self::CAPACITY],
            states: [TcpState::Close; Self::CAPACITY],
            len: 0,
            gaps: 0,
        }
    }

    /// The connection came to `state`.
    pub fn arrive(&mut self, state: TcpState, at: Timestamp) {
        let place = usize::from(self.len).min(Self::CAPACITY - 1);
        self.states[place] = state;
        self.arrivals[place] = at;
        self.len = (place + 1) as u8;
    }

    /// When it left the state that it is in was not seen.
    pub fn lose_end(&mut self) {
        self.gaps |= 1 << self.len;
    }

    /// When it first came to `state`.
    pub fn arrival(&self, state: TcpState) -> Option<Timestamp> {
        self.iter()
            .find(|(visited, _)| *visited == state)
            .map(|(_, at)| at)
    }

    /// When it came to where it is.
    pub fn latest(&self) -> Option<Timestamp> {
        self.iter().last().map(|(_, at)| at)
    }

    /// When it came to `state`, if that is where it is.
    pub fn current(&self, state: TcpState) -> Option<Timestamp> {
        self.iter()
            .last()
            .filter(|(visited, _)| *visited == state)
            .map(|(_, at)| at)
    }

    /// The stays, the last of which ended at `end` (`None`: it lasts, or its end was not seen).
    pub fn visits(&self, end: Option<Timestamp>) -> States {
        let ends = self.iter().skip(1).map(|(_, at)| Some(at)).chain([end]);
        self.iter()
            .zip(ends)
            .enumerate()
            .map(|(number, ((state, at), end))| StateVisit {
                state,
                at,
                for_ns: end
                    .filter(|_| self.gaps & (2 << number) == 0)
                    .map(|end| end.since(at)),
            })
            .collect()
    }

    fn iter(&self) -> impl Iterator<Item = (TcpState, Timestamp)> + '_ {
        let len = usize::from(self.len);
        self.states[..len]
            .iter()
            .copied()
            .zip(self.arrivals[..len].iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TcpState::*;

    #[test]
    fn each_stay_ends_where_the_next_begins() {
        let mut timeline = Timeline::new();
        timeline.arrive(SynSent, Timestamp(10));
        timeline.arrive(Established, Timestamp(30));
        let visits = timeline.visits(Some(Timestamp(100)));
        assert_eq!(visits[0].for_ns, Some(20));
        assert_eq!(visits[1].for_ns, Some(70));
        assert_eq!(timeline.visits(None)[1].for_ns, None);
        assert_eq!(timeline.current(SynSent), None);
        assert_eq!(timeline.arrival(SynSent), Some(Timestamp(10)));
    }

    #[test]
    fn a_stay_whose_end_was_lost_has_no_length() {
        let mut timeline = Timeline::new();
        timeline.arrive(Established, Timestamp(10));
        timeline.lose_end();
        timeline.arrive(FinWait2, Timestamp(30));
        let visits = timeline.visits(Some(Timestamp(100)));
        assert_eq!((visits[0].for_ns, visits[1].for_ns), (None, Some(70)));
        timeline.lose_end();
        assert_eq!(timeline.visits(Some(Timestamp(100)))[1].for_ns, None);
    }

    #[test]
    fn a_garbled_life_does_not_overflow_it() {
        let mut timeline = Timeline::new();
        for step in 0..100 {
            timeline.lose_end();
            timeline.arrive(Established, Timestamp(step));
        }
        assert_eq!(timeline.visits(None).len(), Timeline::CAPACITY);
    }
}
