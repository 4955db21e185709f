//! A bounded memory of connections that have ended: what the next one of the same tuple or socket
//! wants to know.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tracer_common::tcp::{Flow, TcpState};

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
    /// Number of the queue's front.
    first: u64,
    by_flow: HashMap<(u64, Flow), u64, RandomState>,
    by_cookie: HashMap<(u64, u64), u64, RandomState>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            first: 0,
            by_flow: HashMap::default(),
            by_cookie: HashMap::default(),
        }
    }

    /// Remembers an end.
    pub fn remember(&mut self, now: Timestamp, ended: Ended) {
        if self.queue.len() >= CAPACITY {
            self.forget_first();
        }
        let number = self.first + self.queue.len() as u64;
        if ended.flow.is_known() {
            self.by_flow
                .insert((ended.netns_cookie, ended.flow), number);
        }
        // A minisocket may outlive its socket's next connection.
        let newer = self
            .by_cookie(ended.netns_cookie, ended.cookie)
            .is_some_and(|known| known.generation > ended.generation);
        if ended.cookie != 0 && !newer {
            self.by_cookie
                .insert((ended.netns_cookie, ended.cookie), number);
        }
        self.queue.push_back((now, ended));
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
        self.numbered(*self.by_flow.get(&(netns, flow))?)
    }

    /// The last connection of a socket.
    pub fn by_cookie(&self, netns: u64, cookie: u64) -> Option<&Ended> {
        self.numbered(*self.by_cookie.get(&(netns, cookie))?)
    }

    /// The last connection of a socket, to note something.
    pub fn by_cookie_mut(&mut self, netns: u64, cookie: u64) -> Option<&mut Ended> {
        let number = *self.by_cookie.get(&(netns, cookie))?;
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(place).map(|(_, ended)| ended)
    }

    fn numbered(&self, number: u64) -> Option<&Ended> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.queue.get(place).map(|(_, ended)| ended)
    }

    fn forget_first(&mut self) {
        let Some((_, ended)) = self.queue.pop_front() else {
            return;
        };
        let number = self.first;
        self.first += 1;
        let flow = (ended.netns_cookie, ended.flow);
        if self.by_flow.get(&flow) == Some(&number) {
            self.by_flow.remove(&flow);
        }
        let cookie = (ended.netns_cookie, ended.cookie);
        if self.by_cookie.get(&cookie) == Some(&number) {
            self.by_cookie.remove(&cookie);
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
