//! What many waiting connections have in common, each combination kept once: the namespace, the
//! owner, the way through the states, the verdict. Packed connections refer to it by number.

use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use tracer_common::tcp::TcpState;

use crate::record::holding::Side;
use crate::record::{EntryPrecision, IncompleteSet, Role};

/// A combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Alike {
    pub netns_cookie: u64,
    pub netns: u32,
    pub cgroup: u64,
    pub uid: u32,
    pub found_in: u32,
    pub bits: u16,
    pub incomplete: IncompleteSet,
    pub syn_retransmits: u8,
    pub role: Role,
    pub state: Option<TcpState>,
    pub last_step: Option<(TcpState, TcpState)>,
    /// The states of the timeline, without their times.
    pub states: u32,
    pub local_is_v6: bool,
    pub peer_is_v6: bool,
    pub opener_name: u16,
    pub opener_known: u8,
    pub verdict: Option<u8>,
    /// `sk_err` and the marks at CLOSE, if that was seen.
    pub facts: Option<(u16, u16)>,
    pub failed_call: Option<u16>,
    pub minisocket: AlikeMinisocket,
    pub told: Option<Side>,
    /// What is kept beside the numbers that all have.
    pub has: Has,
}

/// The part of it that is about the minisocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AlikeMinisocket {
    pub substate: TcpState,
    pub began_in_fin_wait2: bool,
    pub seen_from_start: bool,
    pub segments_lost: bool,
    pub counted: bool,
    /// From where TIME_WAIT was entered, how well that is known, and the nominal length.
    pub entry: Option<(Option<TcpState>, EntryPrecision, u64)>,
}

/// Which numbers few have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Has {
    pub closed_at: bool,
    pub generation: bool,
    pub retransmits: bool,
    pub rearmed: bool,
    pub segments: bool,
    pub told_end: bool,
    pub closer: bool,
    pub previous: bool,
}

impl Alike {
    fn place_among_recent(&self) -> usize {
        let one = self.netns_cookie as u32 ^ self.states ^ u32::from(self.opener_name);
        let other = u32::from(self.local_is_v6) << 16 ^ u32::from(self.bits);
        let shift = u32::BITS - RECENT.ilog2();
        ((one ^ other).wrapping_mul(0x9e37_79b9) >> shift) as usize % RECENT
    }
}

/// The combinations that packed connections refer to now.
pub(super) struct Combinations {
    numbers: std::collections::HashMap<Alike, u16, RandomState>,
    kept: Vec<(Option<Alike>, u32)>,
    free: Vec<u16>,
    /// Those that were referred to last, by something of them that is found at once.
    recent: [u16; RECENT],
}

/// How many of those: a host's services, times two families, come to some hundred combinations, and
/// to look for one costs as much as all else that is done to pack a connection.
const RECENT: usize = 256;

impl Default for Combinations {
    fn default() -> Self {
        Self {
            numbers: std::collections::HashMap::default(),
            kept: Vec::new(),
            free: Vec::new(),
            recent: [0; RECENT],
        }
    }
}

impl Combinations {
    /// The number of a combination, to which one more refers. `None`: there are too many.
    pub fn refer(&mut self, alike: &Alike) -> Option<u16> {
        let place = alike.place_among_recent();
        let mut number = self.recent[place];
        if self.get(number) != Some(alike) {
            number = self.number(alike)?;
            self.recent[place] = number;
        }
        self.kept[usize::from(number)].1 += 1;
        Some(number)
    }

    /// The combination with a number that somebody refers to.
    pub fn get(&self, number: u16) -> Option<&Alike> {
        self.kept.get(usize::from(number))?.0.as_ref()
    }

    /// One that referred to it is gone.
    pub fn release(&mut self, number: u16) {
        let Some((alike, references)) = self.kept.get_mut(usize::from(number)) else {
            return;
        };
        *references -= 1;
        if *references == 0 {
            if let Some(alike) = alike.take() {
                self.numbers.remove(&alike);
            }
            self.free.push(number);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn number(&mut self, alike: &Alike) -> Option<u16> {
        match self.numbers.entry(*alike) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                let number = match self.free.pop() {
                    Some(number) => number,
                    None => {
                        let number = u16::try_from(self.kept.len()).ok()?;
                        self.kept.push((None, 0));
                        number
                    }
                };
                self.kept[usize::from(number)] = (Some(*alike), 0);
                Some(*entry.insert(number))
            }
        }
    }
}
