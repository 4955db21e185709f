//! The names of connections.

use foldhash::fast::RandomState;
use tracer_common::tcp::{Endpoint, Flow};

use super::connection::Connection;
use super::hash;
use super::pack::Head;
use crate::record::Role;

/// The names that an event may find a connection by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Cookie(u64, u64),
    Flow(u64, Flow),
    Child(u64, u64),
    Listener(u64, Endpoint),
}

/// How many kinds of names there are.
pub(super) const KINDS: usize = 4;
/// The kind of cookies.
pub(super) const COOKIE: usize = 0;
/// The kind of the addresses of unnamed children.
pub(super) const CHILD: usize = 2;

impl Key {
    /// Its hash.
    pub fn hash(&self, hasher: &RandomState) -> u64 {
        match *self {
            Self::Cookie(netns, name) | Self::Child(netns, name) => hash::of(hasher, netns, name),
            Self::Flow(netns, flow) => hash::of_flow(hasher, netns, &flow),
            Self::Listener(netns, local) => hash::of_end(hasher, netns, &local),
        }
    }

    /// Whether it is a name of `connection`.
    pub fn names(&self, connection: &Connection) -> bool {
        match *self {
            Self::Cookie(netns, cookie) => connection.is_named(netns, cookie),
            Self::Flow(netns, ref flow) => {
                connection.flow == *flow && connection.netns_cookie == netns
            }
            Self::Child(..) | Self::Listener(..) => {
                Self::of(self.kind(), connection).as_ref() == Some(self)
            }
        }
    }

    /// The same of a packed one.
    pub fn names_packed(&self, head: &Head) -> bool {
        Self::of_packed(self.kind(), head).as_ref() == Some(self)
    }

    /// Number of the index that holds names of this kind.
    pub const fn kind(&self) -> usize {
        match self {
            Self::Cookie(..) => COOKIE,
            Self::Flow(..) => 1,
            Self::Child(..) => CHILD,
            Self::Listener(..) => 3,
        }
    }

    /// Of a socket that has a cookie.
    pub fn of_cookie(netns: u64, cookie: u64) -> Option<Self> {
        (cookie != 0).then_some(Self::Cookie(netns, cookie))
    }

    /// Of addresses that are known.
    pub fn of_flow(netns: u64, flow: Flow) -> Option<Self> {
        flow.is_known().then_some(Self::Flow(netns, flow))
    }

    /// The name of `connection` of one kind, if it can be found by such a one.
    #[inline]
    pub fn of(kind: usize, connection: &Connection) -> Option<Self> {
        let netns = connection.netns_cookie;
        match kind {
            COOKIE => Self::of_cookie(netns, connection.cookie()),
            1 => Self::of_flow(netns, connection.flow),
            CHILD => connection
                .address()
                .map(|address| Self::Child(netns, address)),
            _ => (connection.role == Role::Listener)
                .then_some(Self::Listener(netns, connection.flow.local)),
        }
    }

    /// The same of a packed one, which is neither a listener nor an unnamed child.
    pub fn of_packed(kind: usize, head: &Head) -> Option<Self> {
        match kind {
            COOKIE => Self::of_cookie(head.netns_cookie, head.cookie),
            1 => Self::of_flow(head.netns_cookie, head.flow),
            _ => None,
        }
    }

    /// Every name of `connection`.
    pub fn all(connection: &Connection) -> [Option<Self>; KINDS] {
        std::array::from_fn(|kind| Self::of(kind, connection))
    }
}
