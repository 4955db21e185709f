//! Who holds which ports now.

use std::collections::{BTreeMap, btree_map};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tracer_common::tcp::Endpoint;

use super::Space;
use crate::record::holding::{Holding, HoldingChange, Owner, Side, Use};
use crate::record::{Process, Source};
use crate::time::Timestamp;

/// What connect() shares one space of ports among.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The local address.
    pub source: IpAddr,
    /// The peer's address and port.
    pub destination: Endpoint,
}

/// A port that is listened on, or was when its connections were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The port.
    pub port: u16,
}

/// A program as an operator knows it: its processes come and go, its name and its cgroup stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Program {
    /// The process's name, NUL-padded: the user's bytes. `None`: not known.
    pub name: Option<[u8; 16]>,
    /// Id of its cgroup (v2), where that is known.
    pub cgroup_id: Option<u64>,
}

impl Program {
    /// The program behind a process.
    #[must_use]
    pub const fn of(process: &Process, cgroup_id: Option<u64>) -> Self {
        Self {
            name: process.name,
            cgroup_id,
        }
    }
}

impl From<&Owner> for Program {
    fn from(owner: &Owner) -> Self {
        Self::of(&owner.process, owner.cgroup_id)
    }
}

/// How many tuples are held by each use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Use::ALL.len()]);

impl Counts {
    /// Those held by `by`.
    #[must_use]
    pub const fn of(&self, by: Use) -> u64 {
        self.0[by as usize]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, by: Use) {
        self.0[by as usize] += 1;
    }

    fn take(&mut self, by: Use) {
        let count = &mut self.0[by as usize];
        *count = count.saturating_sub(1);
    }
}

impl FromIterator<(Use, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (Use, u64)>>(counts: I) -> Self {
        let mut all = Self::default();
        for (by, count) in counts {
            all.0[by as usize] += count;
        }
        all
    }
}

/// The tuples of one program.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// By use.
    pub counts: Counts,
    /// How the program is known: the best of what was said of it.
    pub source: Source,
    /// Some of its processes, at most [`Holders::PIDS`], the latest last.
    pub pids: Vec<u32>,
}

impl Holders {
    /// How many processes are remembered.
    pub const PIDS: usize = 8;

    fn learn(&mut self, process: &Process) {
        if self.source == Source::Unknown || process.source == Source::Exact {
            self.source = process.source;
        }
        if let Some(pid) = process.pid
            && !self.pids.contains(&pid)
        {
            if self.pids.len() == Self::PIDS {
                self.pids.remove(0);
            }
            self.pids.push(pid);
        }
    }
}

/// What is held on one [`Route`], by clients.
///
/// A port that a client has bound is none that connect() chose: it is in [`Self::counts`], but not
/// in [`Self::used`], which is what is held against [`Space::capacity`]. Where it lies in the range
/// it has gone from the capacity instead, for all destinations at once; elsewhere it costs nothing.
///
/// [`Space::capacity`]: super::Space::capacity
#[derive(Clone, Debug, Default)]
pub struct RouteUse {
    /// Tuples by use, whose local port is known.
    pub counts: Counts,
    /// connect() calls under way whose port is not known yet.
    pub choosing: u64,
    /// Of [`Self::counts`], those whose port the client had bound before connect().
    pub bound: u64,
    /// Ports of [`Self::counts`] of which it is not known whether the client had bound them, and how
    /// many tuples have each: their opening was not seen.
    pub unseen: BTreeMap<u16, u32>,
    /// By program.
    pub programs: HashMap<Program, Holders, RandomState>,
    /// How many TIME_WAITs (and FIN_WAIT2s of minisockets) end nominally in which tenth of a second
    /// of the monotonic clock.
    pub ends: BTreeMap<u64, u32>,
    /// How many connections opened in which tenth of a second of the monotonic clock, those seen to
    /// open alone.
    pub openings: BTreeMap<u64, u32>,
}

/// What is held on one [`Service`], by servers.
#[derive(Clone, Debug, Default)]
pub struct ServiceUse {
    /// Listeners.
    pub listeners: u64,
    /// Connections by use, listeners left out.
    pub counts: Counts,
    /// By program, listeners included.
    pub programs: HashMap<Program, Holders, RandomState>,
}

/// The account of one or many network namespaces.
#[derive(Clone, Debug, Default)]
pub struct Account {
    routes: HashMap<Route, RouteUse, RandomState>,
    services: HashMap<Service, ServiceUse, RandomState>,
    /// Clients' ports that bind() took, by namespace and port: how many tuples hold each.
    bound: HashMap<Service, u64, RandomState>,
    /// Routes whose openings were forgotten before their time.
    forgotten: u64,
}

/// How long openings are remembered, tenths of a second.
pub(super) const MEMORY: u64 = 600;

/// So many routes are remembered on which nothing is held any more. Who tries a million destinations
/// leaves nothing behind but these.
const REMEMBERED: usize = 65_536;

impl Account {
    /// Takes a change in.
    pub fn handle(&mut self, change: &HoldingChange) {
        let (netns_cookie, flow) = (change.netns_cookie, change.flow);
        match change.side {
            Side::Client { bound } => {
                let route = Route {
                    netns_cookie,
                    source: flow.local.address,
                    destination: flow.peer,
                };
                let is_bound = bound == Some(true);
                let used = self.routes.entry(route).or_default();
                if let Some(was) = &change.was {
                    used.take(was, bound);
                    if is_bound {
                        take_bound(&mut self.bound, netns_cookie, was.port);
                    }
                }
                if let Some(is) = &change.is {
                    used.add(is, bound);
                    if is_bound && is.port != 0 {
                        let port = is.port;
                        *self
                            .bound
                            .entry(Service { netns_cookie, port })
                            .or_default() += 1;
                    }
                }
                if change.was.is_none() {
                    used.note_opening(change);
                }
            }
            Side::Server | Side::Listener => {
                let service = Service {
                    netns_cookie,
                    port: flow.local.port,
                };
                let used = self.services.entry(service).or_default();
                for (holding, is_added) in [(&change.was, false), (&change.is, true)] {
                    if let Some(holding) = holding {
                        used.count(holding, change.side == Side::Listener, is_added);
                    }
                }
            }
        }
    }

    /// Every route that is or was held, in no order.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, &RouteUse)> {
        self.routes.iter()
    }

    /// How many routes that is.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// One route.
    #[must_use]
    pub fn route(&self, route: &Route) -> Option<&RouteUse> {
        self.routes.get(route)
    }

    /// Every service that has or had listeners or connections, in no order.
    pub fn services(&self) -> impl Iterator<Item = (&Service, &ServiceUse)> {
        self.services.iter()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, service: &Service) -> Option<&ServiceUse> {
        self.services.get(service)
    }

    /// The local ports of a namespace that bind() has taken now: listeners', servers', and clients'
    /// that bound theirs. In no order, some perhaps twice.
    pub fn bound_ports(&self, netns_cookie: u64) -> impl Iterator<Item = u16> {
        let services = self.services.iter().filter(|(_, used)| used.is_held());
        let services = services.map(|(service, _)| service);
        services
            .chain(self.bound.keys())
            .filter(move |service| service.netns_cookie == netns_cookie)
            .map(|service| service.port)
    }

    /// The ports of a namespace that are listened on now, in order.
    #[must_use]
    pub fn listened(&self, netns_cookie: u64) -> Vec<u16> {
        let listened = self
            .services
            .iter()
            .filter(|(service, used)| service.netns_cookie == netns_cookie && used.listeners > 0);
        let mut ports: Vec<u16> = listened.map(|(service, _)| service.port).collect();
        ports.sort_unstable();
        ports
    }

    /// How many routes' openings were forgotten before they were a minute old, because too many
    /// others are remembered.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets openings that are too old to matter, and whatever holds nothing any more: to be
    /// called about once a second, so that an account grows with what there is and, up to a limit,
    /// with what has opened in the last minute, not with all that there ever was.
    pub fn age(&mut self, now: Timestamp) {
        let oldest = tenth(now).saturating_sub(MEMORY);
        let mut remembered = 0;
        let forgotten = &mut self.forgotten;
        self.routes.retain(|_, used| {
            if used
                .openings
                .first_key_value()
                .is_some_and(|(first, _)| *first < oldest)
            {
                used.openings = used.openings.split_off(&oldest);
            }
            used.programs
                .retain(|_, holders| holders.counts.total() > 0);
            if !used.is_held() {
                let is_one_too_many = remembered >= REMEMBERED && !used.openings.is_empty();
                *forgotten += u64::from(is_one_too_many);
                remembered += usize::from(!used.openings.is_empty());
                return !used.openings.is_empty() && !is_one_too_many;
            }
            true
        });
        self.services.retain(|_, used| {
            used.programs
                .retain(|_, holders| holders.counts.total() > 0);
            used.is_held()
        });
    }
}

impl RouteUse {
    /// Ports in use that connect() chose, as far as known: those that were not seen to be bound.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.counts.total().saturating_sub(self.bound)
    }

    /// The same, less ports that connect() cannot have chosen from `space`: at the start most
    /// openings have not been seen.
    #[must_use]
    pub fn used_of(&self, space: &Space) -> u64 {
        let ports = self.unseen.iter();
        let others = ports.filter(|(port, _)| !space.is_choosable(**port));
        let others: u64 = others.map(|(_, count)| u64::from(*count)).sum();
        self.used().saturating_sub(others)
    }

    /// Something holds a port, or is about to.
    fn is_held(&self) -> bool {
        self.counts.total() > 0 || self.choosing > 0
    }

    fn add(&mut self, holding: &Holding, bound: Option<bool>) {
        let holders = self.programs.entry((&holding.owner).into()).or_default();
        holders.counts.add(holding.by);
        holders.learn(&holding.owner.process);
        if holding.port == 0 {
            self.choosing += 1;
            return;
        }
        self.counts.add(holding.by);
        match bound {
            Some(is_bound) => self.bound += u64::from(is_bound),
            None => *self.unseen.entry(holding.port).or_default() += 1,
        }
        if let Some(ends_at) = holding.ends_at {
            *self.ends.entry(tenth(ends_at)).or_default() += 1;
        }
    }

    fn take(&mut self, holding: &Holding, bound: Option<bool>) {
        let program = Program::from(&holding.owner);
        if let Some(holders) = self.programs.get_mut(&program) {
            holders.counts.take(holding.by);
            // Who never was more than a place holder leaves no trace.
            if program.name.is_none() && holders.counts.total() == 0 {
                self.programs.remove(&program);
            }
        }
        if holding.port == 0 {
            self.choosing = self.choosing.saturating_sub(1);
            return;
        }
        self.counts.take(holding.by);
        match bound {
            Some(is_bound) => self.bound = self.bound.saturating_sub(u64::from(is_bound)),
            None => take_one(&mut self.unseen, holding.port),
        }
        if let Some(ends_at) = holding.ends_at {
            take_one(&mut self.ends, tenth(ends_at));
        }
    }

    fn note_opening(&mut self, change: &HoldingChange) {
        let is_opening = change
            .is
            .is_some_and(|is| is.by == Use::Connecting && is.since.is_some());
        if is_opening {
            *self.openings.entry(tenth(change.at)).or_default() += 1;
        }
    }
}

impl ServiceUse {
    /// Something holds the port.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.listeners + self.counts.total() > 0
    }

    fn count(&mut self, holding: &Holding, is_listener: bool, is_added: bool) {
        let holders = self.programs.entry((&holding.owner).into()).or_default();
        match is_added {
            true => {
                holders.counts.add(holding.by);
                holders.learn(&holding.owner.process);
            }
            false => holders.counts.take(holding.by),
        }
        match (is_listener, is_added) {
            (true, true) => self.listeners += 1,
            (true, false) => self.listeners = self.listeners.saturating_sub(1),
            (false, true) => self.counts.add(holding.by),
            (false, false) => self.counts.take(holding.by),
        }
    }
}

fn take_bound(bound: &mut HashMap<Service, u64, RandomState>, netns_cookie: u64, port: u16) {
    let service = Service { netns_cookie, port };
    if let Some(count) = bound.get_mut(&service) {
        *count -= 1;
        if *count == 0 {
            bound.remove(&service);
        }
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let btree_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// The tenth of a second of the monotonic clock that `at` lies in.
#[must_use]
pub const fn tenth(at: Timestamp) -> u64 {
    at.0 / 100_000_000
}

#[cfg(test)]
mod tests;
