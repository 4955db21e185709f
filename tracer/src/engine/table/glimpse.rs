//! Looks at where an event will find its connection. They change nothing.

use tracer_common::tcp::Flow;

use super::whereabouts::Whereabouts;
use super::{Id, Table};
use crate::engine::arena::Arena;
use crate::engine::connection::Connection;
use crate::engine::key::Key;
use crate::engine::slab::Slab;

/// Where a connection may be, as far as was looked.
#[derive(Clone, Copy, Default)]
pub(in crate::engine) struct Glimpse {
    index: Option<u32>,
    whereabouts: Option<Whereabouts>,
}

impl Glimpse {
    /// Of a connection that was named.
    pub fn of(id: Id) -> Self {
        Self {
            index: Some(id.index),
            whereabouts: None,
        }
    }
}

impl Table {
    /// A first look for the connection of a socket: into the index.
    pub fn glimpse(&self, netns: u64, cookie: u64) -> Glimpse {
        let places = self.places(Key::Cookie(netns, cookie));
        Glimpse {
            index: places.last(),
            whereabouts: None,
        }
    }

    /// A second look, into the directory.
    pub fn find(&self, glimpse: &mut Glimpse) {
        let entry = glimpse.index.and_then(|index| self.directory.get(index));
        glimpse.whereabouts = entry.map(|entry| entry.whereabouts);
    }

    /// The last look, at the connection itself; returns anything of it.
    pub fn peep(&self, glimpse: &Glimpse) -> u64 {
        let whereabouts = glimpse.whereabouts;
        whereabouts.map_or(0, |whereabouts| {
            peep(whereabouts, &self.awake, &self.packed)
        })
    }

    /// Looks where a flow is or will be entered in the index, and returns anything.
    pub fn touch_flow(&self, netns: u64, flow: &Flow) -> Option<u32> {
        self.places(Key::Flow(netns, *flow)).last()
    }
}

/// Looks at a connection, and returns anything of it.
pub(super) fn peep(whereabouts: Whereabouts, awake: &Slab<Connection>, packed: &Arena) -> u64 {
    match whereabouts.told() {
        Ok(number) => awake.get(number).map_or(0, Connection::touch),
        Err(place) => {
            let bytes = packed.get(place);
            u64::from(bytes[0] ^ bytes[bytes.len() / 2] ^ bytes[bytes.len() - 1])
        }
    }
}
