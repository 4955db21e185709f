//! What a diagnosis has seen: the only thing that rules look at.

use std::collections::BTreeMap;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::left_out::LeftOut;
use super::tallies::Tallies;
use super::traffic::Traffic;
use crate::attribution::Names;
use crate::ports::{Account, Program, Route, Service, Space};
use crate::stream::{self, NamespaceReading, Sweep};
use crate::time::Timestamp;

/// The readings of a network namespace.
#[derive(Clone, Debug)]
pub struct NamespaceSeen {
    /// Its inode.
    pub inode: u32,
    /// The first.
    pub first: NamespaceReading,
    /// The latest.
    pub latest: NamespaceReading,
}

impl NamespaceSeen {
    /// By how much a counter has grown since the first reading; 0 where it is not counted.
    pub fn growth(&self, counter: impl Fn(&stream::Counters) -> Option<u64>) -> u64 {
        let (first, latest) = (
            counter(&self.first.counters),
            counter(&self.latest.counters),
        );
        latest
            .zip(first)
            .map_or(0, |(latest, first)| latest.saturating_sub(first))
    }
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The watch began,
    pub began: Timestamp,
    /// and this is now.
    pub now: Timestamp,
    /// Who holds which ports.
    pub ports: Account,
    /// What has been counted since it began.
    pub tallies: Tallies,
    /// Network namespaces by cookie.
    pub namespaces: HashMap<u64, NamespaceSeen, RandomState>,
    /// What things are called.
    pub names: Names,
    /// The first look at the sockets that were there already is over, and what it skipped.
    pub swept: Option<Sweep>,
    /// CLOSE_WAITs by network namespace and the program that holds them.
    pub close_waits: HashMap<(u64, Program), CloseWaits, RandomState>,
    /// Listening sockets, as the latest inventories show them, by cookie of the socket.
    pub listeners: HashMap<u64, Listener, RandomState>,
    /// What there was no room for since it began.
    pub left_out: LeftOut,
}

/// The CLOSE_WAITs that a program holds now, in one network namespace.
#[derive(Clone, Debug, Default)]
pub struct CloseWaits {
    /// How many were entered in which tenth of a second of the monotonic clock.
    pub since: BTreeMap<u64, u64>,
    /// How many of which that is not known: they were there before the watch.
    pub since_unknown: u64,
    /// How many were entered since the watch began,
    pub entered: u64,
    /// and how many were left.
    pub left: u64,
}

/// A listening socket as sock_diag shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub service: Service,
    /// At which address.
    pub address: IpAddr,
    /// Whose.
    pub program: Program,
    /// SO_REUSEADDR; `None`: not known.
    pub reuse_address: Option<bool>,
    /// Connections that wait for accept(),
    pub queued: u32,
    /// and how many may.
    pub backlog: u32,
}

impl Seen {
    /// How long was watched.
    #[must_use]
    pub fn watched(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.now.since(self.began))
    }

    /// The latest settings of a network namespace.
    #[must_use]
    pub fn settings(&self, netns_cookie: u64) -> Option<&stream::Settings> {
        Some(&self.namespaces.get(&netns_cookie)?.latest.settings)
    }

    /// The ports that connect() chooses from in a network namespace.
    #[must_use]
    pub fn space(&self, netns_cookie: u64) -> Option<Space> {
        let bound = self.ports.bound_ports(netns_cookie);
        Space::new(self.settings(netns_cookie)?, bound)
    }

    /// The traffic of all programs on a route.
    pub fn traffic(&self, route: &Route) -> impl Iterator<Item = (&Program, &Traffic)> {
        self.tallies.routes.get(route).into_iter().flatten()
    }
}
