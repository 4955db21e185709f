//! The connections that live, and how an event finds its own.
//!
//! A connection is awake, so that it can be changed, or at rest: packed, while nothing is awaited of
//! it but the end of its minisocket (`rest.rs`). Whatever finds one wakes it; [`Table::rest`] puts
//! those that may to rest again.

mod glimpse;
mod named;
mod rest;
mod silent;
mod whereabouts;

use std::num::NonZeroU32;

use foldhash::fast::RandomState;
use tracer_common::tcp::{Endpoint, Flow};

use super::alike::Combinations;
use super::arena::Arena;
use super::connection::{Bit, Connection};
use super::hash;
use super::holdings::Told;
use super::index::Index;
use super::key::{CHILD, COOKIE, KINDS, Key};
use super::lexicon::{Lexicon, Who};
use super::slab::Slab;
use super::timewait::Jiffies;
use crate::record::{Process, Role};
use whereabouts::{Entry, Whereabouts};

pub(super) use glimpse::Glimpse;
pub(super) use whereabouts::Seen;

/// A place in the table, and which of the connections that have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub index: u32,
    pub version: NonZeroU32,
}

/// The connections and an index for each kind of name. An index holds several of one name side by
/// side (a socket's minisocket and its next connection have one cookie): the newest that fits is
/// meant. It keeps places alone; the names are in the connections.
pub(super) struct Table {
    directory: Slab<Entry>,
    versions: NonZeroU32,
    len: usize,
    awake: Slab<Connection>,
    packed: Arena,
    combinations: Combinations,
    lexicon: Lexicon,
    /// Those that may be put to rest.
    drowsy: Vec<Id>,
    indices: [Index; KINDS],
    /// The newest of a socket, as was found last: events come in pairs.
    last: Option<(u64, u64, Id)>,
    hasher: RandomState,
    next_serial: u64,
    /// The place where the next look for a silent one begins.
    hand: u32,
    /// Connections that may have changed since they were last asked for; `None`: nobody asks.
    touched: Option<Vec<Id>>,
    jiffies: Jiffies,
}

impl Table {
    /// An empty table; `is_watched`: it is to note which connections may have changed.
    pub fn new(jiffies: Jiffies, is_watched: bool) -> Self {
        Self {
            directory: Slab::new(),
            versions: NonZeroU32::MIN,
            len: 0,
            awake: Slab::new(),
            packed: Arena::new(),
            combinations: Combinations::default(),
            lexicon: Lexicon::default(),
            drowsy: Vec::new(),
            indices: std::array::from_fn(|_| Index::new()),
            last: None,
            hasher: RandomState::default(),
            next_serial: 0,
            hand: 0,
            touched: is_watched.then(Vec::new),
            jiffies,
        }
    }

    /// Takes a connection in.
    pub fn insert(&mut self, mut connection: Connection) -> Id {
        connection.serial = self.next_serial;
        self.next_serial += 1;
        let number = self.awake.insert(connection);
        let whereabouts = Whereabouts::awake(number);
        let version = self.versions;
        self.versions = version.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let index = self.directory.insert(Entry {
            version,
            whereabouts,
        });
        self.len += 1;
        for kind in 0..KINDS {
            let connection = self.awake.get(number);
            if let Some(key) = connection.and_then(|connection| Key::of(kind, connection)) {
                self.enter(key, index);
            }
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
        if let Some(connection) = self.awake_mut(id)
            && (told.is_some() || connection.rare.is_some())
        {
            connection.rare_mut().told = told;
        }
    }

    #[inline]
    fn touch(&mut self, id: Id) {
        if let Some(touched) = &mut self.touched
            && touched.last() != Some(&id)
        {
            touched.push(id);
        }
    }

    /// Lets a connection go that is awake.
    pub fn remove(&mut self, id: Id) -> Option<Connection> {
        let number = self.number_of(id)?;
        let connection = self.awake.remove(number)?;
        self.directory.remove(id.index);
        for kind in 0..KINDS {
            if let Some(key) = Key::of(kind, &connection) {
                self.leave(key, id.index);
            }
        }
        self.len -= 1;
        Some(connection)
    }

    /// The processes of a connection that was removed, whose names nobody needs to keep for it.
    pub fn dismiss(&mut self, connection: &Connection) {
        self.lexicon.release(&connection.opener);
        if let Some(rare) = &connection.rare {
            self.lexicon.release(&rare.closer);
        }
    }

    /// Names of processes.
    pub fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }

    /// A process in full.
    pub fn tell(&self, who: &Who) -> Process {
        self.lexicon.tell(who)
    }

    /// Who opened a connection is known.
    pub fn set_opener(&mut self, id: Id, process: &Process) {
        let who = self.lexicon.hold(process);
        self.put_opener(id, who);
    }

    /// It was opened by who opened another.
    pub fn inherit_opener(&mut self, id: Id, opener: Who) {
        let who = self.lexicon.hold_again(opener);
        self.put_opener(id, who);
    }

    fn put_opener(&mut self, id: Id, who: Who) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        // Who closed it is told by who opened it no more.
        let was_closer = connection
            .is(Bit::ClosedByOpener)
            .then_some(connection.opener);
        let before = std::mem::replace(&mut connection.opener, who);
        match was_closer {
            Some(closer) if closer != who => {
                connection.clear(Bit::ClosedByOpener);
                connection.rare_mut().closer = closer;
            }
            _ => self.lexicon.release(&before),
        }
    }

    /// Who closed a connection is known.
    pub fn set_closer(&mut self, id: Id, process: &Process) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let is_opener = self.lexicon.is(&connection.opener, process);
        let who = match is_opener {
            true => Who::default(),
            false => self.lexicon.hold(process),
        };
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let mut before = Who::default();
        if is_opener {
            connection.set(Bit::ClosedByOpener);
        } else {
            connection.clear(Bit::ClosedByOpener);
        }
        if !is_opener || connection.rare.is_some() {
            before = std::mem::replace(&mut connection.rare_mut().closer, who);
        }
        self.lexicon.release(&before);
    }

    /// The connection `id`, while it lives and is awake.
    #[inline]
    pub fn connection(&self, id: Id) -> Option<&Connection> {
        self.awake.get(self.number_of(id)?)
    }

    /// The connection `id`, while it lives and is awake. Its names change through [`Self::name`]
    /// alone.
    #[inline]
    pub fn connection_mut(&mut self, id: Id) -> Option<&mut Connection> {
        self.touch(id);
        self.awake_mut(id)
    }

    #[inline]
    fn awake_mut(&mut self, id: Id) -> Option<&mut Connection> {
        self.awake.get_mut(self.number_of(id)?)
    }

    /// Among those that are awake, `id`'s number.
    #[inline]
    fn number_of(&self, id: Id) -> Option<u32> {
        let entry = self.directory.get(id.index)?;
        let number = entry.whereabouts.told().ok()?;
        (entry.version == id.version).then_some(number)
    }

    /// A connection's cookie and addresses are known, or more of them: it is found by these from
    /// now on.
    pub fn name(&mut self, id: Id, cookie: u64, flow: Flow) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let netns = connection.netns_cookie;
        let is_listener = connection.role == Role::Listener;
        let (old_cookie, old_flow) = (connection.cookie(), connection.flow);
        let address = connection.address();
        connection.set_cookie(cookie);
        connection.flow = flow;
        if let Some(address) = address {
            self.leave(Key::Child(netns, address), id.index);
        }
        if cookie != old_cookie {
            let key = |cookie| Key::of_cookie(netns, cookie);
            self.replace(key(old_cookie), key(cookie), id.index);
        }
        if flow != old_flow {
            let key = |flow| Key::of_flow(netns, flow);
            self.replace(key(old_flow), key(flow), id.index);
            if is_listener {
                let key = |flow: Flow| Some(Key::Listener(netns, flow.local));
                self.replace(key(old_flow), key(flow), id.index);
            }
        }
    }

    fn replace(&mut self, before: Option<Key>, after: Option<Key>, index: u32) {
        if let Some(key) = before {
            self.leave(key, index);
        }
        if let Some(key) = after {
            self.enter(key, index);
        }
    }

    /// The newest connection of a socket that `fits`. It is awake now.
    #[inline]
    pub fn by_cookie(
        &mut self,
        netns: u64,
        cookie: u64,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Id> {
        if let Some((last_netns, last_cookie, id)) = self.last
            && (last_netns, last_cookie) == (netns, cookie)
            && self.connection(id).is_some_and(&fits)
        {
            return Some(id);
        }
        let found = match self.only(netns, cookie) {
            Some((id, only)) => fits(only).then_some((id, true)),
            None => self.newest(Key::Cookie(netns, cookie), fits),
        };
        if let Some((id, true)) = found {
            self.last = Some((netns, cookie, id));
        }
        found.map(|(id, _)| id)
    }

    /// The connection of a socket, where it is awake and known to be the only one.
    #[inline]
    fn only(&self, netns: u64, cookie: u64) -> Option<(Id, &Connection)> {
        let hash = hash::of(&self.hasher, netns, cookie);
        let is_it = |index| {
            let awake = self.awake_at(index);
            awake.is_some_and(|(_, connection)| connection.is_named(netns, cookie))
        };
        let index = self.indices[COOKIE].find(hash, is_it)?;
        let (version, connection) = self.awake_at(index)?;
        let is_only = !connection.is(Bit::Namesake);
        is_only.then_some((Id { index, version }, connection))
    }

    #[inline]
    fn awake_at(&self, index: u32) -> Option<(NonZeroU32, &Connection)> {
        let entry = self.directory.get(index)?;
        let number = entry.whereabouts.told().ok()?;
        Some((entry.version, self.awake.get(number)?))
    }

    /// The newest connection of a flow that `fits`. It is awake now.
    pub fn by_flow(
        &mut self,
        netns: u64,
        flow: Flow,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Id> {
        let found = self.newest(Key::Flow(netns, flow), fits);
        found.map(|(id, _)| id)
    }

    /// The passive child at a kernel address that has no name yet.
    pub fn by_child(&mut self, netns: u64, address: u64) -> Option<Id> {
        if self.indices[CHILD].len() == 0 {
            return None;
        }
        let found = self.newest(Key::Child(netns, address), Connection::is_open);
        found.map(|(id, _)| id)
    }

    /// The listeners at exactly `local`.
    pub fn listeners(&self, netns: u64, local: Endpoint) -> impl Iterator<Item = &Connection> {
        let key = Key::Listener(netns, local);
        self.places(key)
            .filter_map(|place| {
                let number = self.directory.get(place)?.whereabouts.told().ok()?;
                self.awake.get(number)
            })
            .filter(move |connection| key.names(connection) && connection.is_open())
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
    pub fn places_in_all(&self) -> usize {
        self.directory.capacity()
    }

    /// The connection in a place.
    pub fn at(&self, place: usize) -> Option<(Id, Seen<'_>)> {
        let index = u32::try_from(place).ok()?;
        let version = self.directory.get(index)?.version;
        Some((Id { index, version }, self.see(index)?))
    }

    /// All of them, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Id, Seen<'_>)> {
        (0..self.places_in_all()).filter_map(|place| self.at(place))
    }

    /// Those that are awake.
    pub fn iter_awake(&self) -> impl Iterator<Item = (Id, &Connection)> {
        (0..self.places_in_all()).filter_map(|place| {
            let index = place as u32;
            let version = self.directory.get(index)?.version;
            let id = Id { index, version };
            Some((id, self.connection(id)?))
        })
    }

    /// Whether each connection is found by each of its names, nothing else is, and those that are
    /// taken for the only ones of their sockets are.
    pub fn index_is_whole(&self) -> bool {
        let mut names = [0; KINDS];
        let found = self.iter().all(|(id, connection)| {
            Key::all(&connection).into_iter().flatten().all(|key| {
                names[key.kind()] += 1;
                self.places(key).any(|place| place == id.index)
            })
        });
        let is_alone = |id: Id, connection: &Connection| {
            let key = Key::Cookie(connection.netns_cookie, connection.cookie());
            self.places(key)
                .filter(|place| *place != id.index)
                .filter_map(|place| self.see(place))
                .all(|other| !key.names(&other))
        };
        let are_alone = self.iter_awake().all(|(id, connection)| {
            connection.cookie() == 0 || connection.is(Bit::Namesake) || is_alone(id, connection)
        });
        let lens: [usize; KINDS] = std::array::from_fn(|kind| self.indices[kind].len());
        found && are_alone && names == lens && self.iter().count() == self.len
    }

    /// The newest that `key` names and that fits, and whether it is the newest of all that it names.
    fn newest(&mut self, key: Key, fits: impl Fn(&Connection) -> bool) -> Option<(Id, bool)> {
        let mut newest: Option<(u64, Id)> = None;
        let mut newest_of_all = 0;
        let mut resting: Option<(u64, Id)> = None;
        for index in self.places(key) {
            let Some(entry) = self.directory.get(index) else {
                continue;
            };
            let version = entry.version;
            let id = Id { index, version };
            match entry.whereabouts.told() {
                Ok(number) => {
                    let named = self.awake.get(number);
                    let Some(connection) = named.filter(|named| key.names(named)) else {
                        continue;
                    };
                    newest_of_all = newest_of_all.max(connection.serial);
                    if newest.is_none_or(|(serial, _)| serial < connection.serial)
                        && fits(connection)
                    {
                        newest = Some((connection.serial, id));
                    }
                }
                Err(place) => {
                    if let Some(serial) = self.serial_at_rest(place, &key) {
                        newest_of_all = newest_of_all.max(serial);
                        resting = resting.max(Some((serial, id)));
                    }
                }
            }
        }
        // Seldom there is one that rests, and it is the one that is meant.
        while let Some((serial, id)) = resting {
            if newest.is_some_and(|(known, _)| known > serial) {
                break;
            }
            self.wake(id);
            if self.connection(id).is_some_and(&fits) {
                newest = Some((serial, id));
                break;
            }
            resting = self.newest_at_rest(&key, serial);
        }
        newest.map(|(serial, id)| (id, serial == newest_of_all))
    }

    /// Places that may be named by `key`.
    fn places(&self, key: Key) -> impl Iterator<Item = u32> {
        self.indices[key.kind()].places(key.hash(&self.hasher))
    }

    fn see(&self, place: u32) -> Option<Seen<'_>> {
        match self.directory.get(place)?.whereabouts.told() {
            Ok(number) => self.awake.get(number).map(Seen::Awake),
            Err(packed) => {
                let (connection, _) = self.unpack(packed)?;
                Some(Seen::AtRest(Box::new(connection)))
            }
        }
    }

    /// `index` is about to be entered with `hash` under `key`, a cookie: whoever has that name
    /// already is not the only one any more.
    fn note_namesakes(&mut self, key: &Key, hash: u64, index: u32) {
        let is_named = |index| match self.directory.get(index).map(|e| e.whereabouts.told()) {
            Some(Ok(number)) => self.awake.get(number).is_some_and(|named| key.names(named)),
            Some(Err(place)) => self.serial_at_rest(place, key).is_some(),
            None => false,
        };
        // Where there are more than one, those bear the mark already, or rest.
        let Some(other) = self.indices[COOKIE].find(hash, is_named) else {
            return;
        };
        for index in [other, index] {
            if let Some(Ok(number)) = self.directory.get(index).map(|e| e.whereabouts.told())
                && let Some(connection) = self.awake.get_mut(number)
            {
                connection.set(Bit::Namesake);
            }
        }
    }
}
