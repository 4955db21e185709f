//! The connections that live, and how an event finds its own.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use tracer_common::tcp::{Endpoint, Flow};

use super::connection::Connection;
use super::holdings::Told;
use crate::record::Role;

/// A place in the table, and which of the connections that have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub index: u32,
    pub version: u32,
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
                .filter(|minisocket| minisocket.address != 0)
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
    /// Connections that may have changed since they were last asked for; `None`: nobody asks.
    touched: Option<Vec<Id>>,
}

#[derive(Clone, Default)]
struct Slot {
    version: u32,
    connection: Option<Connection>,
}

const CHUNK: usize = 1024;

impl Table {
    /// An empty table; `is_watched`: it is to note which connections may have changed.
    pub fn new(is_watched: bool) -> Self {
        Self {
            touched: is_watched.then(Vec::new),
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
        let id = Id { index, version };
        self.touch(id);
        id
    }

    /// A connection that may have changed since it was last given, in no order.
    pub fn next_touched(&mut self) -> Option<Id> {
        self.touched.as_mut()?.pop()
    }

    /// Notes what was told of what a connection holds.
    pub fn set_told(&mut self, id: Id, told: Option<Told>) {
        if let Some(connection) = self.slot_of(id) {
            connection.told = told.map(Box::new);
        }
    }

    fn touch(&mut self, id: Id) {
        if let Some(touched) = &mut self.touched
            && touched.last() != Some(&id)
        {
            touched.push(id);
        }
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
        self.touch(id);
        self.slot_of(id)
    }

    fn slot_of(&mut self, id: Id) -> Option<&mut Connection> {
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

    /// How many places there are, taken and free.
    pub fn places(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// The connection in a place.
    pub fn at(&self, place: usize) -> Option<(Id, &Connection)> {
        let index = u32::try_from(place).ok()?;
        let slot = self.slot(index)?;
        let version = slot.version;
        Some((Id { index, version }, slot.connection.as_ref()?))
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
