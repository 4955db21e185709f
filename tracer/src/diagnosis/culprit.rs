//! Who holds a route's ports, and who cannot have one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::finding::Subject;
use super::load::Load;
use super::seen::Seen;
use crate::output::text;
use crate::ports::{Holders, Program, Route};
use crate::record::{CloseCause, CloseKind, Source};
use crate::stream::Call;

/// A program's part in a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The program, of which something is known.
    pub program: Program,
    /// How it is known.
    pub source: Source,
    /// Some of its processes.
    pub pids: Vec<u32>,
    /// Ports that it holds now.
    pub held: u64,
    /// Connections of the watch that have closed, those that failed to open included.
    pub opened: u64,
    /// connect() calls that failed for want of a port.
    pub failed: u64,
}

impl Party {
    fn join(&mut self, other: &Self) {
        self.held += other.held;
        self.opened += other.opened;
        self.failed += other.failed;
        if self.source == Source::Unknown {
            self.source = other.source;
        }
        self.meet(&other.pids);
    }

    fn meet(&mut self, pids: &[u32]) {
        let new = pids.iter().filter(|pid| !self.pids.contains(pid));
        let new: Vec<u32> = new.copied().collect();
        self.pids.extend(new);
        self.pids.truncate(Holders::PIDS);
    }
}

/// Who holds a route's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Culprit {
    /// The program; `None`: nothing tells.
    pub program: Option<Program>,
    /// [`Source::Inferred`]: it is who opens connections there now, while the ports are held by
    /// TIME_WAITs from before the watch, whose opener no kernel tells.
    pub source: Source,
    /// Some of its processes.
    pub pids: Vec<u32>,
    /// Ports that it is seen to hold.
    pub held: u64,
    /// Ports that nobody is seen to hold.
    pub unowned: u64,
}

impl Culprit {
    /// The subject of a finding about `route`.
    #[must_use]
    pub fn subject(&self, route: &Route, load: &Load) -> Subject {
        Subject {
            netns_cookie: Some(route.netns_cookie),
            program: self.program,
            program_source: self.source,
            pids: self.pids.clone(),
            source: Some(route.source),
            destination: Some(route.destination),
            used: Some(load.used),
            capacity: Some(load.capacity.unwrap_or(0)),
            ..Subject::default()
        }
    }
}

/// Who holds the ports of `route`. Where most of them have an owner, the one that holds the most;
/// where not, the one that holds and opens the most there now.
#[must_use]
pub fn culprit(seen: &Seen, route: &Route) -> Culprit {
    let parties = parties(seen, route);
    let used = seen.ports.route(route).map_or(0, |used| used.used());
    let owned: u64 = parties.iter().map(|party| party.held).sum();
    let unowned = used.saturating_sub(owned);
    let holder = parties.iter().max_by_key(|party| party.held);
    if let Some(holder) = holder.filter(|holder| holder.held > unowned) {
        return Culprit {
            program: Some(holder.program),
            source: holder.source,
            pids: holder.pids.clone(),
            held: holder.held,
            unowned,
        };
    }
    // Whoever opened those must be among those who open now, or there is nothing to go by. Another
    // local address tells less, but the same kind of thing.
    let weight = |party: &Party| party.held + party.opened;
    let elsewhere = || {
        let routes = seen.tallies.routes.keys();
        let same = routes.filter(|other| is_beside(other, route));
        same.flat_map(|other| self::parties(seen, other)).collect()
    };
    let mut candidates = parties;
    candidates.retain(|party| weight(party) > 0);
    if candidates.is_empty() {
        candidates = elsewhere();
    }
    match candidates.into_iter().max_by_key(weight) {
        Some(party) if weight(&party) > 0 => Culprit {
            program: Some(party.program),
            source: Source::Inferred,
            pids: party.pids,
            held: party.held,
            unowned,
        },
        _ => Culprit {
            unowned,
            ..Culprit::default()
        },
    }
}

/// Who takes part in `route`, those who hold and open the most first.
#[must_use]
pub fn parties(seen: &Seen, route: &Route) -> Vec<Party> {
    let mut parties: Vec<Party> = Vec::new();
    let holders = seen.ports.route(route).map(|used| &used.programs);
    for (program, holders) in holders.into_iter().flatten() {
        let party = party(&mut parties, *program);
        party.source = holders.source;
        party.pids.clone_from(&holders.pids);
        party.held = holders.counts.total();
    }
    for source in [Some(*route), without_source(seen, route)] {
        for (program, traffic) in source.iter().flat_map(|route| seen.traffic(route)) {
            let party = party(&mut parties, *program);
            if party.source == Source::Unknown {
                party.source = Source::Exact;
            }
            party.opened += traffic.total();
            party.failed += traffic.caused(CloseKind::ConnectFailed, CloseCause::NoPort);
            party.meet(&traffic.pids);
        }
    }
    let calls = seen.tallies.calls.iter().filter(|(key, _)| {
        key.call == Call::Connect
            && i32::from(key.errno) == libc::EADDRNOTAVAIL
            && key.netns_cookie == route.netns_cookie
            && key.address == Some(route.destination)
    });
    let mut calls = calls.peekable();
    // To look at all routes is dear.
    if calls.peek().is_some() && is_busiest(seen, route) {
        for (key, tally) in calls {
            let party = party(&mut parties, key.program);
            let failed = tally.count.saturating_sub(tally.with_record);
            party.source = Source::Exact;
            party.opened += failed;
            party.failed += failed;
            party.meet(&tally.pids);
        }
    }
    parties.retain(|party| is_known(&party.program));
    let mut parties = joined(parties);
    parties.sort_by_key(|party| {
        let weight = party.held + party.opened;
        (std::cmp::Reverse(weight), party.program)
    });
    parties
}

/// connect() calls on `route` that failed for want of a port, whosever they are.
#[must_use]
pub fn failures(seen: &Seen, route: &Route) -> u64 {
    let nobodys = Program::default();
    let unknown = seen
        .traffic(route)
        .filter(|(program, _)| **program == nobodys);
    let unknown =
        unknown.map(|(_, traffic)| traffic.caused(CloseKind::ConnectFailed, CloseCause::NoPort));
    let known = parties(seen, route).into_iter().map(|party| party.failed);
    known.chain(unknown).sum()
}

/// How recent a failure must be for what is held now to tell about it: TIME_WAITs last 60 s, so that
/// in this time a tenth of the ports can hardly have come free.
const RECENT: Duration = Duration::from_secs(3);

/// Whether a connect() on `route` failed for want of a port just now.
#[must_use]
pub fn has_failed_lately(seen: &Seen, route: &Route) -> bool {
    let last = seen
        .traffic(route)
        .filter_map(|(_, traffic)| traffic.last_without_port);
    last.max().is_some_and(|last| seen.now <= last + RECENT)
}

fn party(parties: &mut Vec<Party>, program: Program) -> &mut Party {
    let found = parties.iter().position(|party| party.program == program);
    let index = found.unwrap_or_else(|| {
        parties.push(Party {
            program,
            source: Source::Unknown,
            pids: Vec::new(),
            held: 0,
            opened: 0,
            failed: 0,
        });
        parties.len() - 1
    });
    &mut parties[index]
}

/// Calls and inventories do not tell the cgroup that events tell: who is without is the same as the
/// one of its name that has one, if there is but one, or one that has a process in common.
fn joined(mut parties: Vec<Party>) -> Vec<Party> {
    parties.sort_unstable_by_key(|party| party.program);
    let (mut joined, without): (Vec<Party>, Vec<Party>) = parties
        .into_iter()
        .partition(|party| party.program.cgroup_id.is_some());
    let mut others = Vec::new();
    for party in without {
        let is_namesake = |other: &&mut Party| other.program.name == party.program.name;
        let mut namesakes: Vec<&mut Party> = joined.iter_mut().filter(is_namesake).collect();
        let shares = |other: &&mut Party| other.pids.iter().any(|pid| party.pids.contains(pid));
        let same = match namesakes.len() {
            1 => Some(0),
            _ => namesakes.iter().position(shares),
        };
        match same {
            Some(same) => namesakes.swap_remove(same).join(&party),
            None => others.push(party),
        }
    }
    joined.extend(others);
    joined
}

const fn is_known(program: &Program) -> bool {
    program.name.is_some() || program.cgroup_id.is_some()
}

/// Whether both go to the same place, from different addresses of one network namespace.
fn is_beside(other: &Route, route: &Route) -> bool {
    other.netns_cookie == route.netns_cookie
        && other.destination == route.destination
        && other.source != route.source
}

/// The same route as a connect() tells it that failed before it had an address.
fn without_source(seen: &Seen, route: &Route) -> Option<Route> {
    let source = match route.source {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let without = Route { source, ..*route };
    let is_told = source != route.source && seen.tallies.routes.contains_key(&without);
    (is_told && is_busiest(seen, route)).then_some(without)
}

/// What is told of a destination alone, without a local address, belongs to the route there that has
/// the most ports in use.
fn is_busiest(seen: &Seen, route: &Route) -> bool {
    let used = |route: &Route| seen.ports.route(route).map_or(0, |used| used.used());
    let mut others = seen.ports.routes().map(|(other, _)| other);
    others.all(|other| {
        !is_beside(other, route) || (used(other), other.source) < (used(route), route.source)
    })
}

/// What a program is called: its name, or where it has none the last part of its cgroup's path; safe
/// to show.
#[must_use]
pub fn label(seen: &Seen, program: Option<&Program>) -> String {
    let Some(program) = program else {
        return "an unknown program".to_owned();
    };
    if let Some(name) = &program.name {
        return text::name(name);
    }
    let path = program.cgroup_id.and_then(|id| seen.names.cgroup(id));
    let unit = path.and_then(|path| path.rsplit('/').find(|part| !part.is_empty()));
    unit.map_or_else(
        || "an unknown program".to_owned(),
        |unit| text::escaped(unit.as_bytes()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, padded, pid, program, route};
    use crate::record::Initiator;
    use crate::record::holding::Use;

    #[test]
    fn of_six_programs_the_one_that_holds_the_twenty_thousand_is_named() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        for (name, count) in [
            ("a", 10),
            ("b", 900),
            ("php-fpm", 20_000),
            ("c", 3),
            ("d", 1),
        ] {
            example.hold(there, program(name), Use::TimeWait, count);
        }
        // This one tries the hardest, and holds nothing.
        let victim = example.traffic(there, program("cron"));
        victim.add_closes(
            CloseKind::ConnectFailed,
            Some(CloseCause::NoPort),
            Initiator::Local,
            90_000,
        );
        let found = culprit(&example.seen, &there);
        assert_eq!(found.program, Some(program("php-fpm")));
        assert_eq!(found.source, Source::Exact);
        assert_eq!(found.pids, [pid(&program("php-fpm"))]);
        assert_eq!((found.held, found.unowned), (20_000, 0));
    }

    #[test]
    fn the_owner_of_time_waits_from_before_the_watch_is_inferred_and_never_exact() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program(""), Use::TimeWait, 20_000);
        // A pool of few connections is not what left them.
        example.hold(there, program("pooled"), Use::Established, 8);
        let opener = example.traffic(there, program("php-fpm"));
        opener.add_closes(CloseKind::Active, None, Initiator::Local, 40);
        let found = culprit(&example.seen, &there);
        assert_eq!(found.program, Some(program("php-fpm")));
        assert_eq!(found.source, Source::Inferred);
        assert_eq!(found.unowned, 20_000);
    }

    #[test]
    fn who_opens_connections_to_another_destination_is_no_culprit_here() {
        let mut example = Example::new();
        let (there, elsewhere) = (route("10.0.0.9:3306"), route("10.0.0.9:5432"));
        example.hold(there, program(""), Use::TimeWait, 20_000);
        let opener = example.traffic(elsewhere, program("php-fpm"));
        opener.add_closes(CloseKind::Active, None, Initiator::Local, 40);
        let found = culprit(&example.seen, &there);
        assert_eq!((found.program, found.source), (None, Source::Unknown));
    }

    #[test]
    fn failed_calls_without_a_record_tell_who_opens() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program(""), Use::TimeWait, 20_000);
        let call = (Call::Connect, libc::EADDRNOTAVAIL);
        let address = Some("10.0.0.9:3306");
        example.fail(call, address, program("php-fpm"), (50, 20));
        let found = culprit(&example.seen, &there);
        assert_eq!(found.program, Some(program("php-fpm")));
        assert_eq!(found.pids, [pid(&program("php-fpm"))]);
        assert_eq!(failures(&example.seen, &there), 30);
    }

    #[test]
    fn a_program_is_one_whether_or_not_its_cgroup_was_told() {
        let of = |name: &str, cgroup_id| Program {
            cgroup_id,
            ..program(name)
        };
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        let (web, other) = (of("nginx", Some(8)), of("nginx", Some(9)));
        example.hold(there, of("php-fpm", Some(7)), Use::TimeWait, 10);
        example.hold(there, web, Use::TimeWait, 3);
        example.hold(there, other, Use::TimeWait, 2);
        let call = (Call::Connect, libc::EADDRNOTAVAIL);
        let address = Some("10.0.0.9:3306");
        example.fail(call, address, program("php-fpm"), (50, 0));
        let told = |example: &Example| {
            let parties = parties(&example.seen, &there).into_iter();
            let told = parties.map(|party| (party.program, party.held, party.failed));
            told.collect::<Vec<_>>()
        };
        let php = (of("php-fpm", Some(7)), 10, 50);
        assert_eq!(told(&example), [php, (web, 3, 0), (other, 2, 0)]);
        // Which of two it is, a process in common tells alone.
        example.fail(call, address, program("nginx"), (1, 0));
        assert_eq!(told(&example)[1], (web, 3, 1));
        for tally in example.seen.tallies.calls.values_mut() {
            tally.pids = vec![1];
        }
        let nobodys = (program("nginx"), 0, 1);
        assert!(told(&example).contains(&nobodys), "{:?}", told(&example));
    }

    #[test]
    fn a_label_cannot_reach_the_terminal() {
        let seen = Example::new().seen;
        let evil = Program {
            name: Some(padded(b"\x1b[2Jx")),
            cgroup_id: None,
        };
        assert_eq!(label(&seen, Some(&evil)), "\\x1b[2Jx");
        assert_eq!(label(&seen, None), "an unknown program");
    }
}
