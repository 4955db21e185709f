//! What connections and calls did in a length of time, counted by who and where.

use std::hash::Hash;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tracer_common::tcp::Endpoint;

use super::traffic::Traffic;
use crate::ports::{Holders, Program, Route, Service};
use crate::record::{Call, Record};
use crate::stream;
use crate::time::Timestamp;

/// Calls that failed, of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// Cookie of the network namespace; 0: not known.
    pub netns_cookie: u64,
    /// Which call.
    pub call: stream::Call,
    /// Its errno.
    pub errno: u16,
    /// connect(): the destination; bind(): the address.
    pub address: Option<Endpoint>,
    /// The program.
    pub program: Program,
}

/// How often a call failed.
#[derive(Clone, Debug, Default)]
pub struct CallTally {
    /// How often.
    pub count: u64,
    /// Of these, connects that [`Traffic::endings`] counts too.
    pub with_record: u64,
    /// Some processes.
    pub pids: Vec<u32>,
}

/// What programs did at a place.
pub type ByProgram = HashMap<Program, Traffic, RandomState>;

/// The counts. They are bounded: who opens connections to a million destinations, or under a million
/// names, finds room for the first of them alone.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// Since when.
    since: Timestamp,
    /// What clients' connections did, by route and program.
    pub routes: HashMap<Route, ByProgram, RandomState>,
    /// What servers' connections did, by service and program.
    pub services: HashMap<Service, ByProgram, RandomState>,
    /// Calls that failed.
    pub calls: HashMap<CallKey, CallTally, RandomState>,
    /// How many pairs of a place and a program there are.
    pairs: usize,
}

/// Where a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Route(Route),
    Service(Service),
}

impl Tallies {
    /// The most pairs of a place and a program: some 40 MB where all of them are taken.
    pub const PAIRS: usize = 16_384;
    /// The most kinds of failed calls.
    pub const CALLS: usize = 8_192;

    /// Nothing yet.
    pub(super) fn since(at: Timestamp) -> Self {
        Self {
            since: at,
            ..Self::default()
        }
    }

    /// How many pairs of a place and a program there are.
    pub(super) const fn pairs(&self) -> usize {
        self.pairs
    }

    /// Takes a verdict in. False: there is no room.
    pub(super) fn close(&mut self, place: Place, record: &Record) -> bool {
        let since = self.since;
        let traffic = self.traffic(place, record);
        traffic
            .map(|traffic| traffic.close(record, since))
            .is_some()
    }

    /// Takes an end in. False: there is no room.
    pub(super) fn end(&mut self, place: Place, record: &Record) -> bool {
        let traffic = self.traffic(place, record);
        traffic.map(|traffic| traffic.end(record)).is_some()
    }

    /// Takes a call in. False: there is no room.
    pub(super) fn call(&mut self, call: &Call) -> bool {
        let failed = &call.failed;
        let key = CallKey {
            netns_cookie: call.netns_cookie,
            call: failed.call,
            errno: failed.errno,
            address: failed.address.map(|address| Endpoint {
                address: address.ip().to_canonical(),
                port: address.port(),
            }),
            program: Program {
                name: Some(failed.name),
                cgroup_id: None,
            },
        };
        let is_full = self.calls.len() >= Self::CALLS;
        let tally = match self.calls.entry(key) {
            Entry::Vacant(_) if is_full => return false,
            entry => entry.or_default(),
        };
        tally.count += 1;
        tally.with_record += u64::from(call.has_record);
        if !tally.pids.contains(&failed.pid) && tally.pids.len() < Holders::PIDS {
            tally.pids.push(failed.pid);
        }
        true
    }

    fn traffic(&mut self, place: Place, record: &Record) -> Option<&mut Traffic> {
        let program = Program::of(&record.opener, record.cgroup_id);
        match place {
            Place::Route(route) => room(&mut self.routes, &mut self.pairs, route, program),
            Place::Service(service) => room(&mut self.services, &mut self.pairs, service, program),
        }
    }
}

/// The traffic of `program` at a place, which is made if it is not one too many.
fn room<'a, Key: Eq + Hash>(
    places: &'a mut HashMap<Key, ByProgram, RandomState>,
    pairs: &mut usize,
    place: Key,
    program: Program,
) -> Option<&'a mut Traffic> {
    if *pairs >= Tallies::PAIRS {
        return places.get_mut(&place)?.get_mut(&program);
    }
    let traffic = places.entry(place).or_default().entry(program);
    *pairs += usize::from(matches!(traffic, Entry::Vacant(_)));
    Some(traffic.or_default())
}
