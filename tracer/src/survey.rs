//! `tracer ports`: who holds which ports at this moment, from sock_diag alone.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use tracer_common::tcp::{Endpoint, TcpState};

use crate::config::netns;
use crate::engine::{Config, Engine, Output};
use crate::filter::Filter;
use crate::output::ports::{NamespacePorts, PortsReport, Program, RoutePorts};
use crate::ports::{Account, Route, RouteUse, Space};
use crate::stream::{Found, Holder, Inventory, NamespaceReading, Skipped};
use crate::time::Timestamp;
use crate::{clock, inventory, readings};

/// Looks at all network namespaces once.
///
/// # Errors
/// Where not even our own can be looked at.
pub async fn ports(filter: &Filter) -> anyhow::Result<PortsReport> {
    let (inventories, sweep) = inventory::once()
        .await
        .context("failed to look at the sockets")?;
    let (readings, unread) = readings::once().context("failed to read the settings")?;
    let mut skipped = sweep.skipped;
    let is_told = |netns: Option<u32>| {
        skipped
            .iter()
            .any(|told| netns.is_some() && told.netns == netns)
    };
    let unread: Vec<_> = unread
        .into_iter()
        .filter(|unread| unread.netns.is_some() && !is_told(unread.netns))
        // Where nothing is, nothing was missed.
        .filter(|unread| {
            inventories
                .iter()
                .any(|seen| Some(seen.netns) == unread.netns && !seen.found.is_empty())
        })
        .collect();
    skipped.extend(unread);
    let is_found = |asked: &u32| inventories.iter().any(|seen| seen.netns == *asked);
    let is_told = |asked: &u32| skipped.iter().any(|told| told.netns == Some(*asked));
    let missing = filter
        .netns
        .iter()
        .filter(|asked| !is_found(asked) && !is_told(asked));
    let missing: Vec<Skipped> = missing
        .map(|asked| Skipped {
            netns: Some(*asked),
            path: format!("netns {asked}"),
            reason: "no process and no mount leads to it".to_owned(),
        })
        .collect();
    skipped.extend(missing);
    ensure!(
        !inventories.is_empty(),
        "no network namespace could be looked at{}",
        skipped.first().map_or(String::new(), |first| format!(
            ": {}: {}",
            first.path, first.reason
        ))
    );
    let mut report = report(&inventories, &readings, &netns::named().collect(), filter);
    report.at = clock::monotonic();
    report.wall = clock::wall_offset();
    report.skipped = skipped;
    Ok(report)
}

/// What inventories and readings say together.
fn report(
    inventories: &[Inventory],
    readings: &[NamespaceReading],
    names: &BTreeMap<u32, String>,
    filter: &Filter,
) -> PortsReport {
    let account = account(inventories);
    let details = Details::of(inventories);
    let mut report = PortsReport::default();
    let mut spaces: HashMap<u64, Space, RandomState> = HashMap::default();
    for inventory in inventories {
        let cookie = inventory.netns_cookie;
        let reading = readings
            .iter()
            .find(|reading| reading.netns == inventory.netns);
        let settings = reading.map(|reading| &reading.settings);
        let space = settings.and_then(|settings| Space::new(settings, account.bound_ports(cookie)));
        if let Some(space) = &space {
            spaces.insert(cookie, space.clone());
        }
        report.namespaces.push(NamespacePorts {
            netns: inventory.netns,
            netns_cookie: cookie,
            name: names.get(&inventory.netns).cloned(),
            space,
            tw_reuse: settings.and_then(|settings| settings.tw_reuse),
            timestamps: settings.and_then(|settings| settings.timestamps),
        });
    }
    let inodes: HashMap<u64, u32, RandomState> = inventories
        .iter()
        .map(|inventory| (inventory.netns_cookie, inventory.netns))
        .collect();
    for (route, used) in account.routes().filter(|(_, used)| used.counts.total() > 0) {
        let netns = inodes.get(&route.netns_cookie).copied().unwrap_or(0);
        let holds = |port| used.unseen.contains_key(&port);
        if filter.matches_route(netns, route.source, route.destination, holds) {
            let space = spaces.get(&route.netns_cookie);
            let name = names.get(&netns).cloned();
            report
                .routes
                .push(details.route(route, used, space, (netns, name)));
        }
    }
    let shown: HashSet<u64, RandomState> = report
        .routes
        .iter()
        .map(|route| route.netns_cookie)
        .collect();
    report
        .namespaces
        .retain(|namespace| match filter.netns.is_empty() {
            true => shown.contains(&namespace.netns_cookie),
            false => filter.netns.contains(&namespace.netns),
        });
    report.sort();
    report
}

/// The account of what was found, as the engine keeps it.
fn account(inventories: &[Inventory]) -> Account {
    let mut engine = Engine::new(Config {
        hz: clock::hz(),
        sees_timers: true,
        sees_segments: false,
        sees_resets: false,
        sees_schedules: false,
        rows: false,
        transitions: false,
        holdings: true,
        connections: usize::MAX,
    });
    let mut account = Account::default();
    for inventory in inventories {
        engine.handle_inventory(inventory);
        while let Some(output) = engine.poll() {
            if let Output::Holding(change) = output {
                account.handle(&change);
            }
        }
    }
    account
}

/// What inventories tell of routes beside who holds them.
#[derive(Default)]
struct Details {
    /// When the timers of TIME_WAITs end.
    ends: HashMap<Route, Vec<Timestamp>, RandomState>,
    /// Who holds descriptors, how many, and one process of it.
    programs: HashMap<Route, BTreeMap<[u8; 16], Program>, RandomState>,
    /// The same by namespace and destination.
    neighbours: HashMap<(u64, Endpoint), BTreeMap<[u8; 16], Program>, RandomState>,
}

impl Details {
    fn of(inventories: &[Inventory]) -> Self {
        let mut details = Self::default();
        for inventory in inventories {
            let owners: HashMap<u64, _, RandomState> = inventory
                .owners
                .iter()
                .map(|owner| (owner.cookie, owner))
                .collect();
            for found in &inventory.found {
                let route = route_of(inventory.netns_cookie, found);
                if let Holder::Minisocket {
                    substate: TcpState::TimeWait,
                    ends_at,
                } = found.holder
                {
                    details.ends.entry(route).or_default().push(ends_at);
                }
                if let Some(owner) = owners.get(&found.cookie) {
                    let destination = (route.netns_cookie, route.destination);
                    let programs = [
                        details.programs.entry(route).or_default(),
                        details.neighbours.entry(destination).or_default(),
                    ];
                    for programs in programs {
                        let program = programs.entry(owner.name).or_insert(Program {
                            name: owner.name,
                            pid: owner.pid,
                            held: 0,
                        });
                        program.held += 1;
                        program.pid = program.pid.min(owner.pid);
                    }
                }
            }
        }
        details
    }

    fn route(
        &self,
        route: &Route,
        used: &RouteUse,
        space: Option<&Space>,
        (netns, netns_name): (u32, Option<String>),
    ) -> RoutePorts {
        let own = self.programs.get(route);
        let held: u64 = own
            .into_iter()
            .flatten()
            .map(|(_, program)| program.held)
            .sum();
        let destination = (route.netns_cookie, route.destination);
        let inferred = held < used.counts.total();
        // Whose TIME_WAITs they are is not told: like those that are still open, here or from
        // another address.
        let programs = own.or_else(|| self.neighbours.get(&destination));
        let mut programs: Vec<Program> = programs
            .into_iter()
            .flatten()
            .map(|(_, program)| program.clone())
            .collect();
        programs.sort_by_key(|program| (std::cmp::Reverse(program.held), program.name));
        if own.is_none() {
            // They hold nothing on this route.
            programs.iter_mut().for_each(|program| program.held = 0);
        }
        let ends = self.ends.get(route);
        RoutePorts {
            netns,
            netns_cookie: route.netns_cookie,
            netns_name,
            source: route.source,
            destination: route.destination,
            used: space.map_or(used.used(), |space| used.used_of(space)),
            capacity: space.map(Space::capacity),
            counts: used.counts,
            next_end: ends.and_then(|ends| ends.iter().min().copied()),
            last_end: ends.and_then(|ends| ends.iter().max().copied()),
            programs,
            inferred,
        }
    }
}

fn route_of(netns_cookie: u64, found: &Found) -> Route {
    Route {
        netns_cookie,
        source: found.flow.local.address,
        destination: found.flow.peer,
    }
}

#[cfg(test)]
mod tests;
