//! How what was seen comes to be in [`Seen`].

use tracer_common::tcp::TcpState;

use super::left_out::Thing;
use super::seen::{Listener, NamespaceSeen, Seen};
use super::tallies::Place;
use crate::ports::{Program, Route, Service, tenth};
use crate::record::holding::{Holding, HoldingChange, Use};
use crate::record::{Call, Record, Role};
use crate::stream::{Holder, Inventory, NamespaceReading};
use crate::time::Timestamp;

impl Seen {
    /// The most programs in CLOSE_WAIT of which account is kept.
    pub const CLOSE_WAITS: usize = 8_192;
    /// The most listeners.
    pub const LISTENERS: usize = 16_384;
    /// The most network namespaces.
    pub const NAMESPACES: usize = 4_096;

    /// Nothing yet; it begins.
    pub(super) fn begin(&mut self, at: Timestamp) {
        (self.began, self.now) = (at, at);
    }

    /// It is `now`.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.ports.age(self.now);
    }

    /// Where the connection of a record is counted; `None`: it is a listener's, or it has no names.
    pub(super) fn place(&self, record: &Record) -> Option<Place> {
        let (netns_cookie, flow) = (record.netns_cookie, record.flow);
        let service = Service {
            netns_cookie,
            port: flow.local.port,
        };
        let is_server = match record.role {
            Role::Listener => return None,
            Role::Server => true,
            Role::Client => false,
            // Found: as the account of ports has it.
            Role::Unknown => self
                .ports
                .service(&service)
                .is_some_and(|used| used.listeners > 0),
        };
        Some(match is_server {
            true => Place::Service(service),
            false => Place::Route(Route {
                netns_cookie,
                source: flow.local.address,
                destination: flow.peer,
            }),
        })
    }

    /// Takes a verdict in.
    pub(super) fn close(&mut self, place: Place, record: &Record) {
        if !self.tallies.close(place, record) {
            self.left_out.note(Thing::Rows);
        }
    }

    /// Takes an end in.
    pub(super) fn end(&mut self, place: Place, record: &Record) {
        if !self.tallies.end(place, record) {
            self.left_out.note(Thing::Rows);
        }
    }

    /// Takes a failed call in.
    pub(super) fn call(&mut self, call: &Call) {
        if !self.tallies.call(call) {
            self.left_out.note(Thing::Calls);
        }
    }

    /// Takes a change of what is held in.
    pub(super) fn holding(&mut self, change: &HoldingChange) {
        self.ports.handle(change);
        self.count_close_wait(change);
    }

    /// Keeps account of who waits in CLOSE_WAIT.
    fn count_close_wait(&mut self, change: &HoldingChange) {
        let waits = |holding: &&Holding| holding.by == Use::CloseWait;
        let (was, is) = (change.was.as_ref(), change.is.as_ref());
        let key = |holding: &Holding| (change.netns_cookie, Program::from(&holding.owner));
        if let Some(was) = was.filter(waits)
            // Else there was no room for it.
            && let Some(held) = self.close_waits.get_mut(&key(was))
        {
            match was.since.map(tenth) {
                Some(since) => {
                    if let Some(count) = held.since.get_mut(&since) {
                        *count -= 1;
                        if *count == 0 {
                            held.since.remove(&since);
                        }
                    }
                }
                None => held.since_unknown = held.since_unknown.saturating_sub(1),
            }
            held.left += u64::from(is.filter(waits).is_none());
        }
        if let Some(is) = is.filter(waits) {
            let key = key(is);
            if self.close_waits.len() >= Self::CLOSE_WAITS && !self.close_waits.contains_key(&key) {
                return self.left_out.note(Thing::CloseWaits);
            }
            let held = self.close_waits.entry(key).or_default();
            match is.since.map(tenth) {
                Some(since) => *held.since.entry(since).or_default() += 1,
                None => held.since_unknown += 1,
            }
            held.entered += u64::from(was.is_some_and(|was| was.by != Use::CloseWait));
        }
    }

    /// Takes a reading of a network namespace in.
    pub(super) fn namespace(&mut self, reading: &NamespaceReading) {
        let cookie = reading.netns_cookie;
        if let Some(known) = self.namespaces.get_mut(&cookie) {
            known.latest = reading.clone();
        } else if self.namespaces.len() >= Self::NAMESPACES {
            self.left_out.note(Thing::Namespaces);
        } else {
            let seen = NamespaceSeen {
                inode: reading.netns,
                first: reading.clone(),
                latest: reading.clone(),
            };
            self.namespaces.insert(cookie, seen);
        }
    }

    /// Takes the listeners of a network namespace in.
    pub(super) fn inventory(&mut self, inventory: &Inventory) {
        let mut shown = Vec::new();
        for found in &inventory.found {
            let Holder::Socket {
                state: TcpState::Listen,
                queued,
                limit,
                ..
            } = found.holder
            else {
                continue;
            };
            shown.push(found.cookie);
            let known = self.listeners.get(&found.cookie);
            if known.is_none() && self.listeners.len() >= Self::LISTENERS {
                self.left_out.note(Thing::Listeners);
                continue;
            }
            let mut owners = inventory.owners.iter();
            let owner = owners.find(|owner| owner.cookie == found.cookie);
            // Whose they are is not looked for each time.
            let program = match owner {
                Some(owner) => Program {
                    name: Some(owner.name),
                    cgroup_id: None,
                },
                None => known.map_or_else(Program::default, |known| known.program),
            };
            let reuse_address = match owner {
                Some(owner) => owner.reuse_address,
                None => known.and_then(|known| known.reuse_address),
            };
            let listener = Listener {
                service: Service {
                    netns_cookie: inventory.netns_cookie,
                    port: found.flow.local.port,
                },
                address: found.flow.local.address,
                program,
                reuse_address,
                queued,
                backlog: limit,
            };
            self.listeners.insert(found.cookie, listener);
        }
        if inventory.whole {
            shown.sort_unstable();
            self.listeners.retain(|cookie, listener| {
                listener.service.netns_cookie != inventory.netns_cookie
                    || shown.binary_search(cookie).is_ok()
            });
        }
    }
}
