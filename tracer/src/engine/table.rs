//! The connections that live, and how an event finds its own.

use hashbrown::HashTable;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use tracer_common::event::CloseFacts;
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use super::close::Rule;
use super::timeline::Timeline;
use super::timewait::Minisocket;
use crate::record::{Incomplete, Previous, Process, Role};
use crate::time::Timestamp;

/// A place in the table, and which of the connections that have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub index: u32,
    pub version: u32,
}

/// One connection (or listener), from its first event to the end of its minisocket.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Number in the order of first events, over the whole table.
    pub serial: u64,
    pub netns_cookie: u64,
    pub netns: u32,
    /// Kernel address of the full socket.
    pub address: u64,
    pub cookie: u64,
    pub generation: u32,
    pub flow: Flow,
    pub socket_is_v6: bool,
    pub role: Role,
    pub source_port_bound: Option<bool>,
    /// A passive child whose cookie and flow do not hold yet: found by its address alone.
    pub unnamed: bool,
    /// Made from a minisocket that ran before we looked: its full socket was never ours.
    pub minisocket_only: bool,
    /// Its full socket is gone although its CLOSE was not seen.
    pub vanished: bool,
    /// The state that the kernel showed last.
    pub state: Option<TcpState>,
    /// The step that the kernel showed last.
    pub last_step: Option<(TcpState, TcpState)>,
    pub timeline: Timeline,
    pub opened_at: Option<Timestamp>,
    pub close_began_at: Option<Timestamp>,
    pub closed_at: Option<Timestamp>,
    pub syn_retransmits: Option<u8>,
    pub opener: Process,
    pub closer: Process,
    pub uid: Option<u32>,
    pub cgroup_id: Option<u64>,
    /// The step FIN_WAIT1 → FIN_WAIT2, to tell later whether one segment brought ACK and FIN.
    pub fin_wait2_step: Option<FinWait2Step>,
    /// tcp_reset() ran in this state.
    pub reset_received: bool,
    /// An RST was sent in this state: when, and on which processor.
    pub reset_sent: Option<(Timestamp, u16)>,
    /// What CLOSE told, once it came.
    pub closing: Closing,
    /// The rule that gave the verdict.
    pub verdict: Option<&'static Rule>,
    pub half_close: bool,
    pub minisocket: Option<Minisocket>,
    pub previous: Option<Previous>,
    incomplete: u8,
}

/// A step FIN_WAIT1 → FIN_WAIT2.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinWait2Step {
    pub cpu: u16,
    pub seq: u32,
    /// Low byte of the segments received by then.
    pub segs_in: u8,
    /// The socket's lock was held by a process.
    pub owned: bool,
}

/// What came with CLOSE and in the millisecond after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Closing {
    pub facts: Option<CloseFacts>,
    pub unbroken: bool,
    pub reset_sent_in_state: bool,
    pub reset_sent_before: bool,
    pub reset_sent_after: bool,
    pub reset_answered: bool,
    /// The task at the step to CLOSE.
    pub task: Process,
}

impl Connection {
    /// A connection of which nothing but its names is known.
    pub fn new(netns: (u64, u32), address: u64, cookie: u64, flow: Flow) -> Self {
        Self {
            serial: 0,
            netns_cookie: netns.0,
            netns: netns.1,
            address,
            cookie,
            generation: 0,
            flow,
            socket_is_v6: false,
            role: Role::Unknown,
            source_port_bound: None,
            unnamed: false,
            minisocket_only: false,
            vanished: false,
            state: None,
            last_step: None,
            timeline: Timeline::new(),
            opened_at: None,
            close_began_at: None,
            closed_at: None,
            syn_retransmits: None,
            opener: Process::default(),
            closer: Process::default(),
            uid: None,
            cgroup_id: None,
            fin_wait2_step: None,
            reset_received: false,
            reset_sent: None,
            closing: Closing::default(),
            verdict: None,
            half_close: false,
            minisocket: None,
            previous: None,
            incomplete: 0,
        }
    }

    /// Notes that something is not known.
    pub fn lacks(&mut self, what: Incomplete) {
        self.incomplete |= 1 << what as u8;
    }

    /// What is not known.
    pub fn incomplete(&self) -> Vec<Incomplete> {
        [
            Incomplete::OpeningNotSeen,
            Incomplete::TransitionLost,
            Incomplete::EndNotSeen,
            Incomplete::TimerProbeMissing,
        ]
        .into_iter()
        .filter(|what| self.incomplete & (1 << *what as u8) != 0)
        .collect()
    }

    /// Its full socket lives, as far as we know.
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none() && !self.minisocket_only && !self.vanished
    }

    /// A minisocket holds the tuple, or its end is not settled.
    pub fn minisocket_lives(&self) -> bool {
        self.minisocket
            .as_ref()
            .is_some_and(|minisocket| !minisocket.is_over())
    }
}

/// The names that an event may find a connection by.
#[derive(Clone, Copy, Debug)]
enum Key {
    Cookie(u64, u64),
    Flow(u64, Flow),
    Child(u64, u64),
    Minisocket(u64, u64),
    Listener(u64, Endpoint),
}

impl Key {
    fn hash(&self, hasher: &RandomState) -> u64 {
        match self {
            Self::Cookie(netns, cookie) => hasher.hash_one((netns, cookie)),
            Self::Flow(netns, flow) => hasher.hash_one((netns, flow)),
            Self::Child(netns, address) => hasher.hash_one((netns, address)),
            Self::Minisocket(netns, address) => hasher.hash_one((netns, address)),
            Self::Listener(netns, local) => hasher.hash_one((netns, local)),
        }
    }

    fn names(&self, connection: &Connection) -> bool {
        match *self {
            Self::Cookie(netns, cookie) => {
                connection.netns_cookie == netns && connection.cookie == cookie
            }
            Self::Flow(netns, flow) => connection.netns_cookie == netns && connection.flow == flow,
            Self::Child(netns, address) => {
                connection.unnamed
                    && connection.netns_cookie == netns
                    && connection.address == address
            }
            Self::Minisocket(netns, address) => {
                connection.netns_cookie == netns
                    && connection
                        .minisocket
                        .as_ref()
                        .is_some_and(|minisocket| minisocket.address == address)
            }
            Self::Listener(netns, local) => {
                connection.netns_cookie == netns
                    && connection.role == Role::Listener
                    && connection.flow.local == local
            }
        }
    }

    /// Number of the index that holds names of this kind.
    fn kind(&self) -> usize {
        match self {
            Self::Cookie(..) => 0,
            Self::Flow(..) => 1,
            Self::Child(..) => 2,
            Self::Minisocket(..) => 3,
            Self::Listener(..) => 4,
        }
    }

    /// The name of `connection` of one kind, if it can be found by such a one.
    fn of(kind: usize, connection: &Connection) -> Option<Self> {
        let netns = connection.netns_cookie;
        match kind {
            0 => (connection.cookie != 0).then_some(Self::Cookie(netns, connection.cookie)),
            1 => connection
                .flow
                .is_known()
                .then_some(Self::Flow(netns, connection.flow)),
            2 => connection
                .unnamed
                .then_some(Self::Child(netns, connection.address)),
            3 => connection
                .minisocket
                .as_ref()
                .map(|minisocket| Self::Minisocket(netns, minisocket.address)),
            _ => (connection.role == Role::Listener)
                .then_some(Self::Listener(netns, connection.flow.local)),
        }
    }

    /// Every name of `connection`.
    fn all(connection: &Connection) -> [Option<Self>; INDICES] {
        std::array::from_fn(|kind| Self::of(kind, connection))
    }
}

/// How many kinds of names there are.
const INDICES: usize = 5;

/// The connections and an index for each kind of name. An index holds several of one name side by
/// side (a socket's minisocket and its next connection have one cookie): the newest that fits is
/// meant. It keeps places alone; the names are in the connections.
pub(super) struct Table {
    /// Of a fixed size each, so that growing moves nothing.
    chunks: Vec<Box<[Slot]>>,
    free: Vec<u32>,
    len: usize,
    indices: [HashTable<u32>; INDICES],
    hasher: RandomState,
    next_serial: u64,
}

#[derive(Clone, Default)]
struct Slot {
    version: u32,
    connection: Option<Connection>,
}

const CHUNK: usize = 1024;

impl Table {
    pub fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
            indices: std::array::from_fn(|_| HashTable::new()),
            hasher: RandomState::default(),
            next_serial: 0,
        }
    }

    /// Takes a connection in.
    pub fn insert(&mut self, mut connection: Connection) -> Id {
        connection.serial = self.next_serial;
        self.next_serial += 1;
        if self.free.is_empty() {
            let base = (self.chunks.len() * CHUNK) as u32;
            self.chunks
                .push(vec![Slot::default(); CHUNK].into_boxed_slice());
            self.free.extend((base..base + CHUNK as u32).rev());
        }
        let index = self.free.pop().unwrap_or_default();
        let keys = Key::all(&connection);
        let slot = self.slot_mut(index);
        slot.connection = Some(connection);
        let version = slot.version;
        self.len += 1;
        for key in keys.into_iter().flatten() {
            self.enter(key, index);
        }
        Id { index, version }
    }

    /// Lets a connection go.
    pub fn remove(&mut self, id: Id) -> Option<Connection> {
        self.connection(id)?;
        let slot = self.slot_mut(id.index);
        let connection = slot.connection.take()?;
        slot.version = slot.version.wrapping_add(1);
        for key in Key::all(&connection).into_iter().flatten() {
            self.leave(key, id.index);
        }
        self.free.push(id.index);
        self.len -= 1;
        Some(connection)
    }

    /// The connection `id`, while it lives.
    pub fn connection(&self, id: Id) -> Option<&Connection> {
        let slot = self.slot(id.index)?;
        slot.connection
            .as_ref()
            .filter(|_| slot.version == id.version)
    }

    /// The connection `id`, while it lives. Its names change through [`Self::rename`] alone.
    pub fn connection_mut(&mut self, id: Id) -> Option<&mut Connection> {
        let slot = self
            .chunks
            .get_mut(id.index as usize / CHUNK)?
            .get_mut(id.index as usize % CHUNK)?;
        let fits = slot.version == id.version;
        slot.connection.as_mut().filter(|_| fits)
    }

    /// Changes what a connection may be found by.
    pub fn rename(&mut self, id: Id, change: impl FnOnce(&mut Connection)) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let before = Key::all(connection);
        change(connection);
        let after = Key::all(connection);
        for key in before.into_iter().flatten() {
            self.leave(key, id.index);
        }
        for key in after.into_iter().flatten() {
            self.enter(key, id.index);
        }
    }

    /// The newest connection of a socket.
    pub fn by_cookie(&self, netns: u64, cookie: u64) -> Option<Id> {
        self.newest(Key::Cookie(netns, cookie), |_| true)
    }

    /// The newest connection of a flow that `fits`.
    pub fn by_flow(
        &self,
        netns: u64,
        flow: Flow,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Id> {
        self.newest(Key::Flow(netns, flow), fits)
    }

    /// The passive child at a kernel address that has no name yet.
    pub fn by_child(&self, netns: u64, address: u64) -> Option<Id> {
        self.newest(Key::Child(netns, address), Connection::is_open)
    }

    /// The newest minisocket at a kernel address that `fits`.
    pub fn by_minisocket(
        &self,
        netns: u64,
        address: u64,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Id> {
        self.newest(Key::Minisocket(netns, address), fits)
    }

    /// The listeners at exactly `local`.
    pub fn listeners(&self, netns: u64, local: Endpoint) -> impl Iterator<Item = &Connection> {
        let key = Key::Listener(netns, local);
        self.named(key)
            .map(|(_, connection)| connection)
            .filter(|connection| connection.is_open())
    }

    /// The serial of the next connection.
    pub fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Connection)> {
        self.chunks
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, slot)| {
                let id = Id {
                    index: index as u32,
                    version: slot.version,
                };
                Some((id, slot.connection.as_ref()?))
            })
    }

    /// Whether each connection is found by each of its names, and nothing else is.
    pub fn index_is_whole(&self) -> bool {
        let mut names = [0; INDICES];
        let found = self.iter().all(|(id, connection)| {
            Key::all(connection).into_iter().flatten().all(|key| {
                names[key.kind()] += 1;
                self.named(key).any(|(index, _)| index == id.index)
            })
        });
        let lens: [usize; INDICES] = std::array::from_fn(|kind| self.indices[kind].len());
        found && names == lens && self.iter().count() == self.len
    }

    fn newest(&self, key: Key, fits: impl Fn(&Connection) -> bool) -> Option<Id> {
        let (index, _) = self
            .named(key)
            .filter(|(_, connection)| fits(connection))
            .max_by_key(|(_, connection)| connection.serial)?;
        let version = self.slot(index)?.version;
        Some(Id { index, version })
    }

    fn named(&self, key: Key) -> impl Iterator<Item = (u32, &Connection)> {
        self.indices[key.kind()]
            .iter_hash(key.hash(&self.hasher))
            .filter_map(move |index| {
                let connection = self.slot(*index)?.connection.as_ref()?;
                key.names(connection).then_some((*index, connection))
            })
    }

    /// Enters a name of a connection that is in its place and bears that name.
    fn enter(&mut self, key: Key, index: u32) {
        let (chunks, hasher, kind) = (&self.chunks, &self.hasher, key.kind());
        let rehash = |index: &u32| {
            let (chunk, place) = (*index as usize / CHUNK, *index as usize % CHUNK);
            chunks[chunk][place]
                .connection
                .as_ref()
                .and_then(|connection| Key::of(kind, connection))
                .map_or(0, |key| key.hash(hasher))
        };
        self.indices[kind].insert_unique(key.hash(hasher), index, rehash);
    }

    fn leave(&mut self, key: Key, index: u32) {
        let hash = key.hash(&self.hasher);
        if let Ok(entry) = self.indices[key.kind()].find_entry(hash, |entry| *entry == index) {
            entry.remove();
        }
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.chunks
            .get(index as usize / CHUNK)?
            .get(index as usize % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}
