//! What sock_diag says of a network namespace: sockets that were there before us, and, after a
//! loss, which of ours are gone.
//!
//! A dump is not ordered with the events, and it may pass over a socket that lives. So what is in
//! it is believed unless a later event says otherwise, and what is not in it is gone only when it
//! was absent from two whole dumps, each begun after the last that we heard of it.

use std::mem;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use tracer_common::tcp::TcpState;

use super::Engine;
use super::connection::{Bit, Connection};
use super::table::Id;
use super::timewait::{Life, Minisocket};
use crate::record::{Incomplete, Process, Role, Source};
use crate::stream::{Found, Holder, Inventory, Ownership, Sweep};
use crate::time::Timestamp;

/// A child that nobody has named yet is gone when it was silent for so long, nanoseconds: longer
/// than any handshake lasts.
const HALF_OPEN: u64 = 300 * 1_000_000_000;
/// What lives in a network namespace that no sweep finds is gone when it was silent for so long,
/// nanoseconds: an open descriptor may keep a namespace that cannot be found.
const NOT_FOUND: u64 = 3_600 * 1_000_000_000;

/// A walk over the table for connections that the kernel no longer has, a stretch at a time.
#[derive(Default)]
pub(super) struct Search {
    /// Number of the latest inventory.
    number: u32,
    /// Cookies of the namespaces that this sweep has looked at so far.
    looked_at: HashSet<u64, RandomState>,
    /// The next place to look at.
    place: usize,
    /// What the walk compares with.
    against: Known,
    /// What the next walk will compare with.
    next: Known,
}

/// What the kernel has said.
#[derive(Default)]
struct Known {
    /// Inventories that were walked to their end, by cookie of the network namespace.
    whole: HashMap<u64, Whole, RandomState>,
    /// All the namespaces that there are, as far as they can be found.
    namespaces: Option<Namespaces>,
}

/// An inventory that was walked to its end.
#[derive(Clone, Copy)]
struct Whole {
    number: u32,
    from: Timestamp,
}

/// The namespaces that a sweep has found.
struct Namespaces {
    at: Timestamp,
    /// Cookies of those that were looked at.
    looked_at: HashSet<u64, RandomState>,
    /// Inodes of those that were not.
    skipped: Vec<u32>,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.namespaces.is_none()
    }

    /// The inventory that `connection` is absent from.
    fn lacks(&self, connection: &Connection) -> Option<Whole> {
        let whole = match self.whole.get(&connection.netns_cookie) {
            Some(whole) => *whole,
            None => self.namespaces.as_ref()?.without(connection)?,
        };
        let is_absent = connection.found_in < whole.number;
        (is_absent && connection.last_heard() < whole.from).then_some(whole)
    }
}

impl Namespaces {
    /// Where its namespace was not found and it was silent for long: as if it was absent.
    fn without(&self, connection: &Connection) -> Option<Whole> {
        let is_there = self.looked_at.contains(&connection.netns_cookie)
            || self.skipped.contains(&connection.netns);
        let from = Timestamp(self.at.0.saturating_sub(NOT_FOUND));
        let number = u32::MAX;
        (!is_there).then_some(Whole { number, from })
    }
}

impl Search {
    /// Whether there is more to look at.
    pub fn is_under_way(&self) -> bool {
        !self.against.is_empty() || !self.next.is_empty()
    }
}

impl Engine {
    pub(super) fn on_inventory(&mut self, inventory: &Inventory) {
        self.search.number += 1;
        let number = self.search.number;
        self.search.looked_at.insert(inventory.netns_cookie);
        // Listeners first: what else has their port is a server's.
        let is_listener = |found: &&Found| {
            let state = TcpState::Listen;
            matches!(found.holder, Holder::Socket { state: is, .. } if is == state)
        };
        let owners = inventory.owners.iter().map(|owner| (owner.cookie, owner));
        let owners: HashMap<u64, &Ownership, RandomState> = owners.collect();
        let listeners = inventory.found.iter().filter(is_listener);
        let others = inventory.found.iter().filter(|found| !is_listener(found));
        for found in listeners.chain(others) {
            let id = self.on_found(inventory, found);
            if let Some(connection) = id.and_then(|id| self.table.connection_mut(id)) {
                connection.found_in = number;
                connection.clear(Bit::Absent);
                note_silence(connection, inventory, found);
            }
            if let Some((id, owner)) = id.zip(owners.get(&found.cookie)) {
                self.infer_opener(id, owner);
            }
            self.tell_holdings();
            self.rest();
        }
        if inventory.whole {
            let from = inventory.from;
            self.search
                .next
                .whole
                .insert(inventory.netns_cookie, Whole { number, from });
        }
    }

    pub(super) fn on_sweep(&mut self, sweep: &Sweep) {
        let looked_at = mem::take(&mut self.search.looked_at);
        // One that is not even named may be any.
        let skipped: Option<Vec<u32>> = sweep.skipped.iter().map(|skipped| skipped.netns).collect();
        self.search.next.namespaces = skipped.map(|skipped| Namespaces {
            at: sweep.at,
            looked_at,
            skipped,
        });
    }

    /// The connection that was found, if it is not over by now.
    fn on_found(&mut self, inventory: &Inventory, found: &Found) -> Option<Id> {
        let netns = inventory.netns_cookie;
        let by_cookie = self.table.by_cookie(netns, found.cookie, |_| true);
        let known = by_cookie.or_else(|| {
            self.table.by_flow(netns, found.flow, |connection| {
                connection.cookie() == 0 && connection.minisocket_lives()
            })
        });
        let Some(id) = known else {
            let ended = self.ended.by_cookie(netns, found.cookie);
            let generation = match ended.map(|ended| (ended.ended_at, ended.generation)) {
                None => 0,
                Some((Some(ended_at), generation)) if ended_at < inventory.from => generation + 1,
                Some(_) => return None,
            };
            return self.adopt_found(inventory, found, generation);
        };
        let connection = self.table.connection(id)?;
        let is_old = connection.last_heard() < inventory.from;
        let (open, lives) = (connection.is_open(), connection.minisocket_lives());
        match found.holder {
            // A later connection of the same socket, whose opening was lost.
            Holder::Socket { .. } if !open && is_old => {
                let generation = connection.generation + 1;
                self.adopt_found(inventory, found, generation)
            }
            Holder::Socket { .. } => open.then_some(id),
            // It closed, and that was lost.
            Holder::Minisocket { .. } if open && is_old => {
                if !lives {
                    self.attach_found(id, inventory, found);
                }
                self.give_up_open(id);
                Some(id)
            }
            Holder::Minisocket { .. } => lives.then_some(id),
        }
    }

    /// Takes up a socket of which no event has told, while there is room: nobody is let go for it but
    /// for a listener. Of those who are followed more is known, and the next inventory finds it again.
    fn adopt_found(&mut self, inventory: &Inventory, found: &Found, generation: u32) -> Option<Id> {
        let listen = TcpState::Listen;
        let is_listener = matches!(found.holder, Holder::Socket { state, .. } if state == listen);
        if !is_listener && self.is_full() {
            self.totals.passed_over += 1;
            return None;
        }
        let netns = (inventory.netns_cookie, inventory.netns);
        // Its kernel address is not told; events will bear its cookie.
        let mut connection = Connection::new(netns, found.cookie, found.flow);
        connection.generation = generation;
        if found.socket_is_v6 {
            connection.set(Bit::SocketV6);
        }
        connection.lacks(Incomplete::OpeningNotSeen);
        match found.holder {
            Holder::Socket { state, uid, .. } => {
                connection.state = Some(state);
                if let Some(uid) = uid {
                    connection.set_uid(uid);
                }
                if state == TcpState::Listen {
                    connection.role = Role::Listener;
                }
                let id = self.take_up(connection)?;
                self.totals.found_open += 1;
                self.totals.open += 1;
                Some(id)
            }
            Holder::Minisocket { .. } => {
                connection.set(Bit::MinisocketOnly);
                let id = self.take_up(connection)?;
                self.totals.minisockets_found += 1;
                self.attach_found(id, inventory, found);
                Some(id)
            }
        }
    }

    fn attach_found(&mut self, id: Id, inventory: &Inventory, found: &Found) {
        let Holder::Minisocket { substate, ends_at } = found.holder else {
            return;
        };
        let minisocket = Minisocket::found(substate, ends_at, inventory.from, self.jiffies);
        if !self
            .table
            .connection(id)
            .is_some_and(|connection| connection.is(Bit::MinisocketOnly))
        {
            self.totals.minisockets_seen += 1;
        }
        self.put_minisocket(id, minisocket);
        if substate == TcpState::TimeWait {
            self.on_entered(id);
        }
    }

    /// Looks at a stretch of the table for what the kernel no longer has.
    #[inline]
    pub(super) fn look_for_absent(&mut self, places: usize) {
        if self.search.is_under_way() {
            self.search_on(places);
        }
    }

    fn search_on(&mut self, places: usize) {
        if self.search.against.is_empty() {
            self.search.against = mem::take(&mut self.search.next);
            self.search.place = 0;
        }
        let until = self.table.places_in_all().min(self.search.place + places);
        for place in self.search.place..until {
            if let Some((id, connection)) = self.table.at(place)
                && let Some(whole) = self.search.against.lacks(&connection)
            {
                drop(connection);
                self.table.wake(id);
                self.on_absent(id, &whole);
            }
        }
        self.search.place = until;
        if until == self.table.places_in_all() {
            self.search.against = Known::default();
        }
    }

    /// Takes the holder of a descriptor for the opener of what nobody was seen to open. As a rule it
    /// is, but a descriptor may be inherited, passed on or come from systemd's socket activation, and
    /// of several holders one is picked: so it is inferred, never exact, and no thread is known.
    fn infer_opener(&mut self, id: Id, owner: &Ownership) {
        let is_unknown = |connection: &Connection| {
            connection.is_open() && connection.opener.source() == Source::Unknown
        };
        if self.table.connection(id).is_some_and(is_unknown) {
            let process = Process {
                pid: Some(owner.pid),
                tid: None,
                comm: None,
                name: Some(owner.name),
                source: Source::Inferred,
            };
            self.table.set_opener(id, &process);
        }
    }

    fn on_absent(&mut self, id: Id, whole: &Whole) {
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        let open = connection.is_open();
        let waits = connection
            .minisocket()
            .is_some_and(|minisocket| matches!(minisocket.life, Life::Running));
        if !open && !waits {
            // It is being settled.
            return;
        }
        let gone = if connection.is(Bit::Unnamed) {
            whole.from.since(connection.last_heard()) >= HALF_OPEN
        } else {
            // Absent from two in a row.
            let again = connection.is(Bit::Absent);
            connection.set(Bit::Absent);
            again
        };
        if !gone {
            return;
        }
        if open {
            self.give_up_open(id);
        }
        if waits {
            self.lose_end(id);
        }
    }
}

/// Keeps the earliest answer: what the peer sends later is no second FIN.
fn note_silence(connection: &mut Connection, inventory: &Inventory, found: &Found) {
    if let Holder::Socket {
        silent_for: Some(silent_for),
        ..
    } = found.holder
        && connection.close_wait_since().is_none()
    {
        let silent_for = u64::try_from(silent_for.as_nanos()).unwrap_or(u64::MAX);
        let heard_at = Timestamp(inventory.until.0.saturating_sub(silent_for));
        connection.rare_mut().heard_at = Some(heard_at);
    }
}
