//! Calls that failed and that no record tells of, of one program together.

use std::collections::{BTreeMap, BTreeSet};

use tracer_common::tcp::Endpoint;

use super::attempts::{Ways, otherwise};
use super::words::{count, finding, list, many, not_time_wait, who};
use crate::diagnosis::{CallKey, Finding, Seen, Severity, Subject};
use crate::output::errno;
use crate::ports::Program;
use crate::record::Source;
use crate::stream::Call;

/// From so many on a failure is no accident.
const ERROR: u64 = 3;

/// Of so many ports at most it is looked whether the program gets through over IPv4.
const PORTS: usize = 16;

/// The failures of one program in one network namespace.
#[derive(Default)]
pub(super) struct Failures {
    pub netns_cookie: u64,
    pub program: Program,
    pub count: u64,
    pub errors: BTreeMap<u16, u64>,
    pub calls: BTreeMap<Call, u64>,
    pub addresses: BTreeMap<Endpoint, u64>,
    pub pids: BTreeSet<u32>,
}

impl Failures {
    /// Those that `fit`, in order of network namespaces and programs.
    pub fn all(seen: &Seen, fits: impl Fn(&CallKey) -> bool) -> Vec<Self> {
        let mut all: BTreeMap<_, Self> = BTreeMap::new();
        for (key, tally) in seen.tallies.calls.iter().filter(|(key, _)| fits(key)) {
            let failed = tally.count.saturating_sub(tally.with_record);
            if failed == 0 {
                continue;
            }
            let (netns_cookie, program) = (key.netns_cookie, key.program);
            let failures = all.entry((netns_cookie, program)).or_insert_with(|| Self {
                netns_cookie,
                program,
                ..Self::default()
            });
            failures.count += failed;
            *failures.errors.entry(key.errno).or_default() += failed;
            *failures.calls.entry(key.call).or_default() += failed;
            if let Some(address) = key.address {
                *failures.addresses.entry(address).or_default() += failed;
            }
            failures.pids.extend(&tally.pids);
        }
        all.into_values().collect()
    }

    /// Whether a call failed with `error`.
    pub fn has(&self, error: i32) -> bool {
        self.errors.keys().any(|errno| i32::from(*errno) == error)
    }

    /// One of the processes.
    pub fn pid(&self) -> Option<u32> {
        self.pids.last().copied()
    }

    /// What was to be connected to: the only destination, or how many there are.
    fn whither(&self) -> String {
        match (self.addresses.len(), self.addresses.keys().next()) {
            (1, Some(address)) => address.to_string(),
            (0, _) | (_, None) => "a destination".to_owned(),
            (several, _) => format!("{} destinations", count(several as u64)),
        }
    }

    /// The busiest first.
    fn by_count<Key: Copy + Ord>(counts: &BTreeMap<Key, u64>) -> Vec<(Key, u64)> {
        let mut counts: Vec<_> = counts.iter().map(|(key, count)| (*key, *count)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    /// `connect() failed with EPERM (12) and EACCES (3).`
    pub fn told(&self) -> String {
        let calls: Vec<_> = self
            .calls
            .keys()
            .map(|call| format!("{}()", call.name()))
            .collect();
        let errors: Vec<_> = Self::by_count(&self.errors)
            .into_iter()
            .map(|(error, times)| match errno::name(error) {
                Some(name) => format!("{name} ({})", count(times)),
                None => format!("error {error} ({})", count(times)),
            })
            .collect();
        format!("{} failed with {}.", list(&calls), list(&errors))
    }

    /// Who, and how often.
    pub fn subject(&self) -> Subject {
        Subject {
            netns_cookie: (self.netns_cookie != 0).then_some(self.netns_cookie),
            program: Some(self.program),
            program_source: match self.program.name {
                Some(_) => Source::Exact,
                None => Source::Unknown,
            },
            pids: self.pids.iter().copied().collect(),
            failed: Some(self.count),
            ..Subject::default()
        }
    }

    /// Where it gets through over IPv4 instead, for each of its addresses for which it does.
    fn other_ways(&self, seen: &Seen) -> Vec<Endpoint> {
        let mut ways = BTreeMap::new();
        let other_way = |(destination, failed): (&Endpoint, &u64)| {
            let address = destination.address;
            let key = (destination.port, address.is_loopback());
            // Who tries so many ports looks for one.
            if address.is_ipv4() || ways.len() >= PORTS && !ways.contains_key(&key) {
                return None;
            }
            let ways = ways
                .entry(key)
                .or_insert_with(|| Ways::of(seen, self.netns_cookie, *destination, &self.program));
            ways.instead(*failed)
        };
        self.addresses.iter().filter_map(other_way).collect()
    }

    /// The finding that connects of this program `fail`: "find no route". Where it gets through to
    /// all of them over IPv4 instead, or where it was once or twice, it is information.
    pub fn finding(&self, seen: &Seen, rule: &'static str, fail: &str) -> Finding {
        let summary = format!(
            "{}: connects to {} {fail}: {}",
            who(seen, &self.program),
            self.whither(),
            many(self.count, "time")
        );
        let others = self.other_ways(seen);
        let is_harmless = !others.is_empty() && others.len() == self.addresses.len();
        let severity = match self.count {
            ERROR.. if !is_harmless => Severity::Error,
            _ => Severity::Info,
        };
        let mut subject = self.subject();
        let only = self
            .addresses
            .keys()
            .next()
            .filter(|_| self.addresses.len() == 1);
        subject.destination = only.copied();
        let mut finding = finding(rule, severity, subject, summary, self.count);
        finding.evidence.push(self.told());
        if self.addresses.len() > 1 {
            let busiest = Self::by_count(&self.addresses).into_iter();
            let busiest = busiest.map(|(address, times)| format!("{address} ({})", count(times)));
            let busiest: Vec<_> = busiest.collect();
            finding.evidence.push(format!("To {}.", list(&busiest)));
        }
        finding
            .evidence
            .extend(others.first().copied().map(otherwise));
        finding.evidence.push(
            "No SYN was sent and no connection was begun: tools that watch connections see nothing \
             of it."
                .to_owned(),
        );
        finding
            .evidence
            .extend(not_time_wait(seen, self.netns_cookie, only.copied()));
        finding
    }

    /// An address that was to be reached, for a command.
    pub fn example(&self) -> String {
        let busiest = Self::by_count(&self.addresses);
        busiest.first().map_or_else(
            || "ADDRESS".to_owned(),
            |(endpoint, _)| endpoint.address.to_string(),
        )
    }
}
