//! How a program's connects to one destination fare, and how bad it is that some fail.
//!
//! What counts as bad must not be met by a healthy host, where a backend restarts, a health check
//! meets a port that is not open yet, and a name has an IPv6 address that leads nowhere:
//!
//! - error: all that were made, at least 3; or at least 5 that are a tenth of all. A restart behind
//!   a load balancer costs less than that, and one or two failures may be anything.
//! - warning: at least 100 that are a hundredth of all.
//! - info: at least 3.
//!
//! An error whose latest failure is [`OVER`] ago is over: a warning. And where the program gets
//! through over IPv4 to the port that it fails to reach over IPv6, as happy eyeballs (RFC 8305) does
//! all day, it is info.

use std::collections::BTreeMap;
use std::time::Duration;

use tracer_common::tcp::Endpoint;

use super::programs::is_same;
use super::words::{count, finding, is_at_least, many, not_time_wait, of_the_worst, seconds, who};
use crate::diagnosis::{Ending, Finding, Seen, Severity, Subject, Traffic};
use crate::ports::{Holders, Program, Route, tenth};
use crate::record::holding::Use;
use crate::record::{CloseKind, Source};
use crate::time::Timestamp;

/// A trouble that has not shown for this long is over.
const OVER: Duration = Duration::from_secs(15);

/// For how long an account of ports remembers openings.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The connects of one program on one route since the watch began.
pub(super) struct Attempts<'a> {
    pub seen: &'a Seen,
    pub route: Route,
    pub program: Program,
    /// `None`: none of its connections has closed.
    pub traffic: Option<&'a Traffic>,
    /// `None`: it holds no port.
    pub holders: Option<&'a Holders>,
    /// Those that led to a connection, as far as is known.
    pub succeeded: u64,
    /// Those that failed, for whatever reason.
    pub failed: u64,
    /// Those under way.
    pub under_way: u64,
}

/// So few failures may be anything.
const LEAST: u64 = 3;

/// What `word` says of the worst of `attempts`, by how many `failed`.
pub(super) fn findings(
    attempts: &[Attempts<'_>],
    failed: impl Fn(&Attempts) -> u64,
    word: impl Fn(&Attempts) -> Option<Finding>,
) -> Vec<Finding> {
    let weight = |attempts: &&Attempts| match failed(attempts) {
        0..LEAST => 0,
        failed => failed,
    };
    of_the_worst(attempts, weight, |attempts| word(attempts))
}

/// What a kind of failure comes to.
pub(super) struct Failing {
    /// How often it failed for this reason.
    pub failed: u64,
    /// The latest; `None`: it lasts.
    pub last: Option<Timestamp>,
}

impl<'a> Attempts<'a> {
    /// Those of every program on every route, in order.
    pub fn all(seen: &'a Seen) -> Vec<Self> {
        let closing =
            seen.tallies.routes.iter().flat_map(|(route, programs)| {
                programs.keys().map(move |program| (*route, *program))
            });
        let connecting = seen.ports.routes().flat_map(|(route, used)| {
            let connecting = used
                .programs
                .iter()
                .filter(|(_, holders)| holders.counts.of(Use::Connecting) > 0);
            connecting.map(move |(program, _)| (*route, *program))
        });
        let mut keys: Vec<_> = closing.chain(connecting).collect();
        keys.sort_unstable();
        keys.dedup();
        let attempts = keys.into_iter().map(|key| Self::new(seen, key));
        attempts.collect()
    }

    fn new(seen: &'a Seen, (route, program): (Route, Program)) -> Self {
        let traffic = seen.tallies.routes.get(&route);
        let traffic = traffic.and_then(|programs| programs.get(&program));
        let used = seen.ports.route(&route);
        let holders = used.and_then(|used| used.programs.get(&program));
        let held = |by| holders.map_or(0, |holders| holders.counts.of(by));
        let under_way = held(Use::Connecting);
        let open = held(Use::Established) + held(Use::CloseWait);
        // Of those that are open some are older than the watch, and no attempt of it.
        let opened_since = match used {
            Some(used) if seen.watched() <= REMEMBERED => {
                let openings = used.openings.range(tenth(seen.began)..);
                let openings: u64 = openings.map(|(_, count)| u64::from(*count)).sum();
                let over = seen.traffic(&route).map(|(_, traffic)| settled(traffic));
                openings.saturating_sub(over.sum::<u64>() + under_way)
            }
            _ => open,
        };
        Self {
            seen,
            route,
            program,
            traffic,
            holders,
            succeeded: traffic.map_or(0, |traffic| traffic.handshakes.count)
                + open.min(opened_since),
            failed: traffic.map_or(0, |traffic| traffic.closed(CloseKind::ConnectFailed)),
            under_way,
        }
    }

    /// All connects.
    pub fn total(&self) -> u64 {
        self.succeeded + self.failed + self.under_way
    }

    /// The failed connects that `fit`.
    pub fn failures(&self, fit: impl Fn(&Ending) -> bool) -> u64 {
        let fit = |ending: &Ending| ending.kind == CloseKind::ConnectFailed && fit(ending);
        self.traffic.map_or(0, |traffic| traffic.sum(fit))
    }

    /// The latest failure of any reason.
    pub fn last_failure(&self) -> Option<Timestamp> {
        self.traffic?.last_failure
    }

    /// How bad it is. `None`: not at all.
    fn severity(&self, failing: &Failing) -> Option<Severity> {
        let (failed, whole) = (failing.failed, failing.failed + self.succeeded);
        let is_over = failing
            .last
            .is_some_and(|last| u128::from(self.seen.now.since(last)) >= OVER.as_nanos());
        let is_serious = self.succeeded == 0 || (failed >= 5 && is_at_least(failed, 10, whole));
        Some(match failed {
            0..LEAST => return None,
            _ if self.other_way(failed).is_some() => Severity::Info,
            _ if is_serious && !is_over => Severity::Error,
            _ if is_serious => Severity::Warning,
            100.. if is_at_least(failed, 1, whole) => Severity::Warning,
            _ => Severity::Info,
        })
    }

    /// Where the program gets through instead.
    fn other_way(&self, failed: u64) -> Option<Endpoint> {
        let Route {
            netns_cookie,
            destination,
            ..
        } = self.route;
        other_way(self.seen, netns_cookie, destination, &self.program, failed)
    }

    /// The finding that so many connects `failed`, `how`: "are refused". Its evidence is begun, the
    /// advice is left to be given.
    pub fn finding(&self, rule: &'static str, failing: &Failing, how: &str) -> Option<Finding> {
        let failed = failing.failed;
        let severity = self.severity(failing)?;
        let destination = self.route.destination;
        let summary = format!(
            "{}: connects to {destination} {how}: {} of {}",
            who(self.seen, &self.program),
            count(failed),
            count(self.total())
        );
        let mut finding = finding(rule, severity, self.subject(failed), summary, failed);
        let evidence = &mut finding.evidence;
        evidence.push(format!(
            "{} of {} from {} to {destination} {how}; {} succeeded.",
            count(failed),
            many(self.total(), "connect"),
            self.route.source,
            count(self.succeeded)
        ));
        if let Some(last) = failing.last {
            let ago = Duration::from_nanos(self.seen.now.since(last));
            evidence.push(format!("The latest failed {} ago.", seconds(ago)));
        }
        if let Some(other) = self.other_way(failed) {
            evidence.push(otherwise(other));
        }
        let netns_cookie = self.route.netns_cookie;
        evidence.extend(not_time_wait(self.seen, netns_cookie, Some(destination)));
        Some(finding)
    }

    fn subject(&self, failed: u64) -> Subject {
        let netns_cookie = self.route.netns_cookie;
        Subject {
            netns_cookie: Some(netns_cookie),
            program: Some(self.program),
            program_source: self
                .holders
                .map_or(Source::Unknown, |holders| holders.source),
            pids: self
                .holders
                .map_or_else(Vec::new, |holders| holders.pids.clone()),
            source: Some(self.route.source),
            destination: Some(self.route.destination),
            used: self.seen.ports.route(&self.route).map(|used| used.used()),
            capacity: self.seen.space(netns_cookie).map(|space| space.capacity()),
            failed: Some(failed),
            ..Subject::default()
        }
    }
}

/// Connects that have ended, well or not.
fn settled(traffic: &Traffic) -> u64 {
    traffic.handshakes.count + traffic.closed(CloseKind::ConnectFailed)
}

/// Where a program gets through over IPv4 instead of `destination`, of which `failed` connects
/// failed. `None`: nowhere as often.
pub(super) fn other_way(
    seen: &Seen,
    netns_cookie: u64,
    destination: Endpoint,
    program: &Program,
    failed: u64,
) -> Option<Endpoint> {
    if destination.address.is_ipv4() {
        return None;
    }
    Ways::of(seen, netns_cookie, destination, program).instead(failed)
}

/// Where a program gets through over IPv4: the same for all destinations of one port, on this host
/// or all beyond it.
pub(super) struct Ways {
    /// Connections to there.
    all: u64,
    /// Where to most of them are.
    best: Option<Endpoint>,
}

impl Ways {
    /// Those of `program` that can stand for `destination`.
    pub fn of(seen: &Seen, netns_cookie: u64, destination: Endpoint, program: &Program) -> Self {
        let is_loopback = destination.address.is_loopback();
        let is_way = |route: &Route| {
            (netns_cookie == 0 || route.netns_cookie == netns_cookie)
                && route.destination.port == destination.port
                && route.destination.address.is_ipv4()
                && route.destination.address.is_loopback() == is_loopback
        };
        let mut ways: BTreeMap<Endpoint, u64> = BTreeMap::new();
        for (route, used) in seen.ports.routes().filter(|(route, _)| is_way(route)) {
            let own = used.programs.iter();
            let own = own.filter(|(other, _)| is_same(other, program));
            let open = own.map(|(_, holders)| {
                holders.counts.of(Use::Established) + holders.counts.of(Use::CloseWait)
            });
            *ways.entry(route.destination).or_default() += open.sum::<u64>();
        }
        for (route, programs) in seen
            .tallies
            .routes
            .iter()
            .filter(|(route, _)| is_way(route))
        {
            let own = programs.iter();
            let own = own.filter(|(other, _)| is_same(other, program));
            let closed =
                own.map(|(_, traffic)| traffic.total() - traffic.closed(CloseKind::ConnectFailed));
            *ways.entry(route.destination).or_default() += closed.sum::<u64>();
        }
        let all = ways.values().sum();
        let best = ways.into_iter().max_by_key(|(_, reached)| *reached);
        let best = best.map(|(best, _)| best);
        Self { all, best }
    }

    /// The best of them, unless more than they are have `failed`.
    pub fn instead(&self, failed: u64) -> Option<Endpoint> {
        self.best.filter(|_| self.all >= failed)
    }
}

/// A sentence on [`other_way`].
pub(super) fn otherwise(other: Endpoint) -> String {
    format!(
        "It gets through over IPv4, to {other} for one, as programs do that try IPv6 first (RFC 8305)."
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::{CloseCause, Initiator};

    /// `count` more connects that led to connections which have closed.
    pub fn succeed(traffic: &mut Traffic, count: u64) {
        let cause = Some(CloseCause::Fin);
        traffic.add_closes(CloseKind::Active, cause, Initiator::Local, count);
        traffic.handshakes.count += count;
    }

    /// `count` more connects that failed, the latest just now.
    pub fn fail(traffic: &mut Traffic, cause: CloseCause, count: u64, at: Timestamp) {
        let kind = CloseKind::ConnectFailed;
        traffic.add_closes(kind, Some(cause), Initiator::Peer, count);
        traffic.first_failure = traffic.first_failure.or(Some(at));
        traffic.last_failure = Some(at);
    }
}
