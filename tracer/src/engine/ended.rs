//! A bounded memory of connections that have ended: what the next one of the same tuple or socket
//! wants to know.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use tracer_common::tcp::{Flow, TcpState};

use super::hash;
use super::index::Index;
use crate::time::Timestamp;

/// How many are remembered, at most.
const CAPACITY: usize = 131_072;
/// How long they are remembered, nanoseconds.
const AGE: u64 = 300 * 1_000_000_000;

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

/// The memory: a queue in the order of ends, found by flow and by cookie.
pub(super) struct Memory {
    queue: VecDeque<(Timestamp, Ended)>,
    /// Number of the queue's front, which wraps.
    first: u32,
    /// Numbers in the queue: of each tuple, and of each socket, the latest.
    by_flow: Index,
    by_cookie: Index,
    hasher: RandomState,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            // Room that is not used is not resident; grown, the queue would be moved.
            queue: VecDeque::with_capacity(CAPACITY + 1),
            first: 0,
            by_flow: Index::medium(),
            by_cookie: Index::medium(),
            hasher: RandomState::default(),
        }
    }

    /// Remembers an end.
    pub fn remember(&mut self, now: Timestamp, ended: Ended) {
        if self.queue.len() >= CAPACITY {
            self.forget_first();
        }
        let number = self.first.wrapping_add(self.queue.len() as u32);
        let by_flow = self.number_of_flow(ended.netns_cookie, ended.flow);
        let by_cookie = self.number_of_cookie(ended.netns_cookie, ended.cookie);
        // A minisocket may outlive its socket's next connection.
        let newer = by_cookie
            .and_then(|number| self.numbered(number))
            .is_some_and(|known| known.generation > ended.generation);
        self.queue.push_back((now, ended));
        let (queue, first, hasher) = (&self.queue, self.first, &self.hasher);
        let told = |number: u32| queue.get(number.wrapping_sub(first) as usize);
        if ended.flow.is_known() {
            let hash = hash_of_flow(hasher, &ended);
            if let Some(before) = by_flow {
                self.by_flow.leave(hash, before);
            }
            self.by_flow.enter(hash, number, |number| {
                told(*number).map_or(0, |(_, ended)| hash_of_flow(hasher, ended))
            });
        }
        if ended.cookie != 0 && !newer {
            let hash = hash_of_cookie(hasher, &ended);
            if let Some(before) = by_cookie {
                self.by_cookie.leave(hash, before);
            }
            self.by_cookie.enter(hash, number, |number| {
                told(*number).map_or(0, |(_, ended)| hash_of_cookie(hasher, ended))
            });
        }
    }

    /// Forgets what is too old.
    pub fn age(&mut self, now: Timestamp) {
        while self
            .queue
            .front()
            .is_some_and(|(at, _)| now.since(*at) > AGE)
        {
            self.forget_first();
        }
    }

    /// The last connection of a tuple.
    pub fn by_flow(&self, netns: u64, flow: Flow) -> Option<&Ended> {
        self.numbered(self.number_of_flow(netns, flow)?)
    }

    /// The last connection of a socket.
    pub fn by_cookie(&self, netns: u64, cookie: u64) -> Option<&Ended> {
        self.numbered(self.number_of_cookie(netns, cookie)?)
    }

    /// The last connection of a socket, to note something.
    pub fn by_cookie_mut(&mut self, netns: u64, cookie: u64) -> Option<&mut Ended> {
        let place = self
            .number_of_cookie(netns, cookie)?
            .wrapping_sub(self.first);
        self.queue.get_mut(place as usize).map(|(_, ended)| ended)
    }

    fn number_of_flow(&self, netns: u64, flow: Flow) -> Option<u32> {
        let hash = hash::of_flow(&self.hasher, netns, &flow);
        let is_it = |ended: &Ended| (ended.netns_cookie, ended.flow) == (netns, flow);
        self.by_flow
            .places(hash)
            .find(|number| self.numbered(*number).is_some_and(is_it))
    }

    fn number_of_cookie(&self, netns: u64, cookie: u64) -> Option<u32> {
        let hash = hash::of(&self.hasher, netns, cookie);
        let is_it = |ended: &Ended| (ended.netns_cookie, ended.cookie) == (netns, cookie);
        self.by_cookie
            .places(hash)
            .find(|number| self.numbered(*number).is_some_and(is_it))
    }

    fn numbered(&self, number: u32) -> Option<&Ended> {
        let place = number.wrapping_sub(self.first) as usize;
        self.queue.get(place).map(|(_, ended)| ended)
    }

    fn forget_first(&mut self) {
        let Some((_, ended)) = self.queue.pop_front() else {
            return;
        };
        let number = self.first;
        self.first = number.wrapping_add(1);
        // A later one of the same name has taken its number out already.
        self.by_flow
            .leave(hash_of_flow(&self.hasher, &ended), number);
        self.by_cookie
            .leave(hash_of_cookie(&self.hasher, &ended), number);
    }
}

fn hash_of_flow(hasher: &RandomState, ended: &Ended) -> u64 {
    hash::of_flow(hasher, ended.netns_cookie, &ended.flow)
}

fn hash_of_cookie(hasher: &RandomState, ended: &Ended) -> u64 {
    hash::of(hasher, ended.netns_cookie, ended.cookie)
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
    fn it_never_holds_more_than_its_capacity() {
        let mut memory = Memory::new();
        for cookie in 1..=CAPACITY as u64 + 10 {
            memory.remember(Timestamp(0), ended(cookie, cookie as u16, 0));
        }
        assert_eq!(memory.queue.len(), CAPACITY);
        assert_eq!(memory.by_cookie.len(), CAPACITY);
        assert!(memory.by_cookie(1, 10).is_none());
        assert!(memory.by_cookie(1, 11).is_some());
    }
}
