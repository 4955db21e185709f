//! Where a connection is, and a connection that is looked at where it is.

use std::num::NonZeroU32;
use std::ops::Deref;

use crate::engine::arena::Place;
use crate::engine::connection::Connection;

/// Where a connection is.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub version: NonZeroU32,
    pub whereabouts: Whereabouts,
}

/// A number among those that are awake, or a place in the arena. In four bytes: there are as many
/// of these as connections.
#[derive(Clone, Copy)]
pub(super) struct Whereabouts(u32);

/// The bit of those that rest.
const AT_REST: u32 = 1 << 31;
/// Bits of a number in the arena; between the two stands the size.
const NUMBER: u32 = 25;

impl Whereabouts {
    /// It is awake.
    pub fn awake(number: u32) -> Self {
        debug_assert!(number < AT_REST, "memory ends long before");
        Self(number)
    }

    /// It rests. `None`: it is too long, or there are too many.
    pub fn packed(place: Place) -> Option<Self> {
        let fits = place.size < 64 && place.number < 1 << NUMBER;
        fits.then_some(Self(
            AT_REST | u32::from(place.size) << NUMBER | place.number,
        ))
    }

    pub fn told(self) -> Result<u32, Place> {
        if self.0 & AT_REST == 0 {
            return Ok(self.0);
        }
        let rest = self.0 & !AT_REST;
        Err(Place {
            size: (rest >> NUMBER) as u8,
            number: rest & ((1 << NUMBER) - 1),
        })
    }
}

/// A connection that is looked at: in its place, or a copy of a packed one.
pub(in crate::engine) enum Seen<'a> {
    Awake(&'a Connection),
    AtRest(Box<Connection>),
}

impl Deref for Seen<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match self {
            Self::Awake(connection) => connection,
            Self::AtRest(connection) => connection,
        }
    }
}
