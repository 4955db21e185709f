//! The states that a connection has been in, in order, in a place of fixed size.

use tracer_common::tcp::TcpState;

use crate::record::{MOST_STATES, StateVisit, States};
use crate::time::Timestamp;

/// Arrivals in states. A legal life of a full socket makes at most five; what a garbled one makes
/// beyond the capacity replaces the latest, since such a record is marked incomplete anyway.
/// TIME_WAIT is the minisocket's, and stands there.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub(super) struct Timeline {
    arrivals: [Timestamp; Self::CAPACITY],
    /// From the lowest bit: four bits for each state, three for the number of arrivals, and one for
    /// each arrival and the end: what came just before was lost.
    packed: u32,
}

// And TIME_WAIT.
const _: () = assert!(Timeline::CAPACITY < MOST_STATES);

const LEN: u32 = 4 * Timeline::CAPACITY as u32;
const GAPS: u32 = LEN + 3;

impl Timeline {
    /// How many arrivals it holds.
    pub const CAPACITY: usize = 5;

    /// No state yet.
    pub const fn new() -> Self {
        Self {
            arrivals: [Timestamp(0); Self::CAPACITY],
            packed: 0,
        }
    }

    /// The connection came to `state`.
    pub fn arrive(&mut self, state: TcpState, at: Timestamp) {
        let place = self.len().min(Self::CAPACITY - 1);
        self.arrivals[place] = at;
        let shift = 4 * place as u32;
        let others = self.packed & !(0xf << shift) & !(7 << LEN);
        self.packed = others | (state as u32) << shift | (place as u32 + 1) << LEN;
    }

    /// When it left the state that it is in was not seen.
    pub fn lose_end(&mut self) {
        self.packed |= 1 << (GAPS + self.len() as u32);
    }

    /// When it came to its first state.
    pub fn first(&self) -> Option<Timestamp> {
        self.iter().next().map(|(_, at)| at)
    }

    /// When it first came to `state`.
    pub fn arrival(&self, state: TcpState) -> Option<Timestamp> {
        let place = (0..self.len()).find(|place| self.nibble(*place) == state as u32)?;
        Some(self.arrivals[place])
    }

    /// When it came to where it is.
    pub fn latest(&self) -> Option<Timestamp> {
        self.last().map(|(_, at)| at)
    }

    /// When it came to `state`, if that is where it is.
    pub fn current(&self, state: TcpState) -> Option<Timestamp> {
        self.last()
            .filter(|(visited, _)| *visited == state)
            .map(|(_, at)| at)
    }

    /// Adds to `states` the stays and then TIME_WAIT, once it was `entered`; the last of them ended
    /// at `end` (`None`: it lasts, or its end was not seen).
    pub fn tell(&self, states: &mut States, entered: Option<Timestamp>, end: Option<Timestamp>) {
        let gaps = self.packed >> GAPS;
        let end_last = |states: &mut States, end: Option<Timestamp>| {
            let is_known = gaps & (1 << states.len()) == 0;
            if let Some(last) = states.last_mut()
                && is_known
            {
                last.for_ns = end.map(|end| end.since(last.at));
            }
        };
        let begin = |states: &mut States, state, at| {
            end_last(states, Some(at));
            states.push(StateVisit {
                state,
                at,
                for_ns: None,
            });
        };
        for (state, at) in self.iter() {
            begin(states, state, at);
        }
        if let Some(at) = entered {
            begin(states, TcpState::TimeWait, at);
        }
        end_last(states, end);
    }

    /// The states and when each was come to.
    pub fn iter(&self) -> impl Iterator<Item = (TcpState, Timestamp)> + '_ {
        (0..self.len()).filter_map(|place| self.at(place))
    }

    /// Everything, for those who keep it: the arrivals and the rest.
    pub fn parts(&self) -> ([Timestamp; Self::CAPACITY], u32) {
        (self.arrivals, self.packed)
    }

    /// What [`Self::parts`] gave.
    pub fn from_parts(arrivals: [Timestamp; Self::CAPACITY], packed: u32) -> Self {
        Self { arrivals, packed }
    }

    fn last(&self) -> Option<(TcpState, Timestamp)> {
        self.at(self.len().checked_sub(1)?)
    }

    #[inline]
    fn at(&self, place: usize) -> Option<(TcpState, Timestamp)> {
        let state = TcpState::from_number(self.nibble(place) as u8)?;
        Some((state, self.arrivals[place]))
    }

    /// The number of a state.
    #[inline]
    fn nibble(&self, place: usize) -> u32 {
        self.packed >> (4 * place) & 0xf
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        (self.packed >> LEN & 7) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TcpState::*;

    fn visits(timeline: &Timeline, entered: Option<Timestamp>, end: Option<Timestamp>) -> States {
        let mut states = States::new();
        timeline.tell(&mut states, entered, end);
        states
    }

    #[test]
    fn each_stay_ends_where_the_next_begins() {
        let mut timeline = Timeline::new();
        timeline.arrive(SynSent, Timestamp(10));
        timeline.arrive(Established, Timestamp(30));
        let told = visits(&timeline, None, Some(Timestamp(100)));
        assert_eq!(told[0].for_ns, Some(20));
        assert_eq!(told[1].for_ns, Some(70));
        assert_eq!(visits(&timeline, None, None)[1].for_ns, None);
        assert_eq!(timeline.current(SynSent), None);
        assert_eq!(timeline.arrival(SynSent), Some(Timestamp(10)));
    }

    #[test]
    fn time_wait_comes_behind_all_others() {
        let mut timeline = Timeline::new();
        timeline.arrive(FinWait2, Timestamp(10));
        let told = visits(&timeline, Some(Timestamp(30)), Some(Timestamp(100)));
        let told: Vec<_> = told
            .iter()
            .map(|visit| (visit.state, visit.for_ns))
            .collect();
        assert_eq!(told, [(FinWait2, Some(20)), (TimeWait, Some(70))]);
    }

    #[test]
    fn a_stay_whose_end_was_lost_has_no_length() {
        let mut timeline = Timeline::new();
        timeline.arrive(Established, Timestamp(10));
        timeline.lose_end();
        timeline.arrive(FinWait2, Timestamp(30));
        let told = visits(&timeline, None, Some(Timestamp(100)));
        assert_eq!((told[0].for_ns, told[1].for_ns), (None, Some(70)));
        timeline.lose_end();
        assert_eq!(
            visits(&timeline, None, Some(Timestamp(100)))[1].for_ns,
            None
        );
    }

    #[test]
    fn a_garbled_life_does_not_overflow_it() {
        let mut timeline = Timeline::new();
        for step in 0..100 {
            timeline.lose_end();
            timeline.arrive(Established, Timestamp(step));
        }
        assert_eq!(visits(&timeline, None, None).len(), Timeline::CAPACITY);
    }
}
