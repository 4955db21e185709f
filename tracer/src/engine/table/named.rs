//! Where an index finds the names of its places again: in the connections.

use std::hint::black_box;

use foldhash::fast::RandomState;

use super::whereabouts::{Entry, Whereabouts};
use super::{Table, glimpse};
use crate::engine::alike::Combinations;
use crate::engine::arena::Arena;
use crate::engine::connection::Connection;
use crate::engine::index::{Index, Names};
use crate::engine::key::{COOKIE, KINDS, Key};
use crate::engine::pack;
use crate::engine::slab::Slab;

/// How many connections are looked at together.
const TOGETHER: usize = 64;

/// The names of one kind.
pub(super) struct Named<'a> {
    kind: usize,
    directory: &'a Slab<Entry>,
    awake: &'a Slab<Connection>,
    packed: &'a Arena,
    combinations: &'a Combinations,
    hasher: &'a RandomState,
}

impl Names for Named<'_> {
    fn hash(&self, place: u32) -> u64 {
        let key = match self
            .directory
            .get(place)
            .map(|entry| entry.whereabouts.told())
        {
            Some(Ok(number)) => self
                .awake
                .get(number)
                .and_then(|connection| Key::of(self.kind, connection)),
            Some(Err(place)) => pack::head(self.packed.get(place), self.combinations)
                .and_then(|head| Key::of_packed(self.kind, &head)),
            None => None,
        };
        key.map_or(0, |key| key.hash(self.hasher))
    }

    fn expect(&self, mut places: impl Iterator<Item = u32>) {
        let mut whereabouts = [None::<Whereabouts>; TOGETHER];
        loop {
            let mut found = 0;
            for (place, whereabouts) in places.by_ref().zip(&mut whereabouts) {
                *whereabouts = self.directory.get(place).map(|entry| entry.whereabouts);
                found += 1;
            }
            if found == 0 {
                return;
            }
            for whereabouts in whereabouts[..found].iter().flatten() {
                black_box(glimpse::peep(*whereabouts, self.awake, self.packed));
            }
        }
    }
}

impl Table {
    /// Enters a name of a connection that is in its place and bears that name.
    pub(super) fn enter(&mut self, key: Key, index: u32) {
        self.last = None;
        let hash = key.hash(&self.hasher);
        if key.kind() == COOKIE {
            self.note_namesakes(&key, hash, index);
        }
        let (indices, named) = self.named(key.kind());
        indices[key.kind()].enter(hash, index, &named);
    }

    /// Takes a name out that a connection bore.
    pub(super) fn leave(&mut self, key: Key, index: u32) {
        let hash = key.hash(&self.hasher);
        let (indices, named) = self.named(key.kind());
        indices[key.kind()].leave(hash, index, &named);
    }

    /// The indices, and the names of one kind that those who are in them bear.
    fn named(&mut self, kind: usize) -> (&mut [Index; KINDS], Named<'_>) {
        let named = Named {
            kind,
            directory: &self.directory,
            awake: &self.awake,
            packed: &self.packed,
            combinations: &self.combinations,
            hasher: &self.hasher,
        };
        (&mut self.indices, named)
    }
}
