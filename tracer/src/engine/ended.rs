//! A bounded memory of connections that have ended: what the next one of the same tuple or socket
//! wants to know.

use foldhash::fast::RandomState;
use tracer_common::tcp::{Flow, TcpState};

use super::hash;
use super::queue::Queue;
use crate::time::Timestamp;

/// How many are remembered, at most.
const CAPACITY: usize = 131_072;
/// How long they are remembered, nanoseconds; those that age together somewhat longer.
const AGE: u64 = 300 * 1_000_000_000;
/// How many are forgotten in one call for their age, so that none takes long.
const AGED_AT_ONCE: usize = 1_024;

/// A connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub netns_cookie: u64,
    pub cookie: u64,
    pub generation: u32,
    pub flow: Flow,
    /// The step to CLOSE, if it was seen.
    pub closed_from: Option<TcpState>,
    /// When its tuple was free again.
    pub ended_at: Option<Timestamp>,
    /// The connect() that ended by it has been told.
    pub call_told: bool,
}

/// The memory: a ring in the order of ends, and where in it to look for a name.
pub(super) struct Memory {
    queue: Queue<(Timestamp, Ended)>,
    /// Number of the queue's front. Numbers wrap.
    first: u32,
    by_flow: Traces,
    by_cookie: Traces,
    hasher: RandomState,
}

/// Numbers of ends by a name's hash, in sets of sixteen: a set keeps its latest, and those that the
/// queue has forgotten drop out at its end. So an entry costs one line of the processor's cache and
/// is never taken out. With sets half full one name in a thousand is lost early.
struct Traces {
    /// None before the first end.
    sets: Vec<[u32; Self::WAYS]>,
}

/// Bits of a number in the queue; above them a trace has bits of the hash.
const NUMBER: u32 = CAPACITY.ilog2();
const NUMBERS: u32 = (1 << NUMBER) - 1;

impl Traces {
    const WAYS: usize = 16;
    const SETS: usize = 2 * CAPACITY / Self::WAYS;

    const fn new() -> Self {
        Self { sets: Vec::new() }
    }

    fn add(&mut self, hash: u64, number: u32) {
        if self.sets.is_empty() {
            self.sets = vec![[0; Self::WAYS]; Self::SETS];
        }
        let set = &mut self.sets[Self::set(hash)];
        set.copy_within(..Self::WAYS - 1, 1);
        set[0] = Self::tag(hash) | number & NUMBERS;
    }

    /// Numbers that may be of a name with this hash, the latest first.
    fn of(&self, hash: u64) -> impl Iterator<Item = u32> {
        let tag = Self::tag(hash);
        let set = self.sets.get(Self::set(hash));
        set.into_iter()
            .flatten()
            .filter(move |trace| **trace & !NUMBERS == tag)
            .map(|trace| trace & NUMBERS)
    }

    fn set(hash: u64) -> usize {
        hash as usize % Self::SETS
    }

    fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32 & !NUMBERS
    }
}

impl Memory {
    pub fn new() -> Self {
        Self {
            queue: Queue::new(),
            first: 0,
            by_flow: Traces::new(),
            by_cookie: Traces::new(),
            hasher: RandomState::default(),
        }
    }

    /// Remembers an end.
    pub fn remember(&mut self, now: Timestamp, ended: Ended) {
        if self.queue.len() >= CAPACITY {
            self.forget_first();
        }
        let (netns, cookie) = (ended.netns_cookie, ended.cookie);
        let number = self.first.wrapping_add(self.queue.len() as u32);
        if ended.flow.is_known() {
            let hash = hash::of_flow(&self.hasher, netns, &ended.flow);
            self.by_flow.add(hash, number);
        }
        // A minisocket may outlive its socket's next connection.
        let newer = self
            .by_cookie(netns, cookie)
            .is_some_and(|known| known.generation > ended.generation);
        if cookie != 0 && !newer {
            let hash = hash::of(&self.hasher, netns, cookie);
            self.by_cookie.add(hash, number);
        }
        self.queue.push((now, ended));
    }

    /// Forgets what is too old.
    pub fn age(&mut self, now: Timestamp) {
        let is_old = |(at, _): &(Timestamp, Ended)| now.since(*at) > AGE;
        let mut left = AGED_AT_ONCE;
        while left > 0 && self.queue.first().is_some_and(is_old) {
            self.forget_first();
            left -= 1;
        }
    }

    /// The last connection of a tuple.
    pub fn by_flow(&self, netns: u64, flow: Flow) -> Option<&Ended> {
        let hash = hash::of_flow(&self.hasher, netns, &flow);
        self.by_flow
            .of(hash)
            .filter_map(|trace| self.numbered(trace))
            .find(|ended| ended.flow == flow && ended.netns_cookie == netns)
    }

    /// The last connection of a socket.
    pub fn by_cookie(&self, netns: u64, cookie: u64) -> Option<&Ended> {
        let place = self.place_of_cookie(netns, cookie)?;
        self.queue.get(place).map(|(_, ended)| ended)
    }

    /// The last connection of a socket, to note something.
    pub fn by_cookie_mut(&mut self, netns: u64, cookie: u64) -> Option<&mut Ended> {
        let place = self.place_of_cookie(netns, cookie)?;
        self.queue.get_mut(place).map(|(_, ended)| ended)
    }

    fn place_of_cookie(&self, netns: u64, cookie: u64) -> Option<usize> {
        let hash = hash::of(&self.hasher, netns, cookie);
        self.by_cookie
            .of(hash)
            .map(|trace| self.place(trace))
            .find(|place| {
                let ended = self.queue.get(*place).map(|(_, ended)| ended);
                ended.is_some_and(|ended| ended.cookie == cookie && ended.netns_cookie == netns)
            })
    }

    /// Looks where an end of these names is or will be remembered, and returns anything.
    pub fn touch(&self, netns: u64, flow: &Flow, cookie: u64) -> u32 {
        let of_flow = hash::of_flow(&self.hasher, netns, flow);
        let of_cookie = hash::of(&self.hasher, netns, cookie);
        let first =
            |traces: &Traces, hash| traces.sets.get(Traces::set(hash)).map_or(0, |set| set[0]);
        first(&self.by_flow, of_flow) ^ first(&self.by_cookie, of_cookie)
    }

    fn numbered(&self, trace: u32) -> Option<&Ended> {
        self.queue.get(self.place(trace)).map(|(_, ended)| ended)
    }

    /// Where in the queue the end with this number is, or would be.
    fn place(&self, number: u32) -> usize {
        (number.wrapping_sub(self.first) & NUMBERS) as usize
    }

    fn forget_first(&mut self) {
        if self.queue.pop().is_some() {
            self.first = self.first.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use tracer_common::tcp::Endpoint;

    fn ended(cookie: u64, port: u16, generation: u32) -> Ended {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ended {
            netns_cookie: 1,
            cookie,
            generation,
            flow: Flow {
                local: Endpoint { address, port },
                peer: Endpoint { address, port: 80 },
            },
            closed_from: None,
            ended_at: None,
            call_told: false,
        }
    }

    #[test]
    fn the_last_of_a_socket_and_of_a_tuple_is_remembered_for_its_time() {
        let mut memory = Memory::new();
        memory.remember(Timestamp(0), ended(7, 1000, 0));
        memory.remember(Timestamp(AGE), ended(7, 1001, 1));
        let generation = |memory: &Memory| memory.by_cookie(1, 7).map(|ended| ended.generation);
        assert_eq!(generation(&memory), Some(1));
        assert!(memory.by_flow(1, ended(7, 1000, 0).flow).is_some());
        memory.age(Timestamp(AGE + 1));
        assert!(memory.by_flow(1, ended(7, 1000, 0).flow).is_none());
        assert_eq!(generation(&memory), Some(1));
        memory.age(Timestamp(2 * AGE + 1));
        assert_eq!(generation(&memory), None);
    }

    #[test]
    fn those_that_age_together_are_forgotten_by_and_by() {
        let mut memory = Memory::new();
        for cookie in 1..=3 * AGED_AT_ONCE as u64 {
            memory.remember(Timestamp(0), ended(cookie, cookie as u16, 0));
        }
        for left in [2, 1, 0] {
            memory.age(Timestamp(AGE + 1));
            assert_eq!(memory.queue.len(), left * AGED_AT_ONCE);
        }
    }

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        let mut memory = Memory::new();
        for cookie in 1..=CAPACITY as u64 + 10 {
            memory.remember(Timestamp(0), ended(cookie, cookie as u16, 0));
        }
        assert_eq!(memory.queue.len(), CAPACITY);
        assert!(memory.by_cookie(1, 10).is_none());
        let known =
            (11..=CAPACITY as u64 + 10).filter(|cookie| memory.by_cookie(1, *cookie).is_some());
        // Of the oldest some hundred have found their set full.
        assert!(known.count() > CAPACITY - CAPACITY / 400);
    }
}
