//! The watch: takes in what the engine puts out, and asks the rules once a second.

use bytes::BytesMut;
use tracer_common::tcp::{Endpoint, TcpState};

use super::outlook::busiest;
use super::report::{Losses, Report};
use super::rule::{Check, Rule};
use super::seen::{CallKey, CallTally, Listener, NamespaceSeen, Seen};
use super::{Finding, Severity, Subject, Traffic};
use crate::attribution::Names;
use crate::consumer::{Books, Consumer};
use crate::filter::Filter;
use crate::output::{Loss, Summary};
use crate::ports::{Holders, Program, Route, Service, tenth};
use crate::probes::only_adds_precision;
use crate::record::holding::{Holding, HoldingChange, Side, Use};
use crate::record::{Call, Record, Role};
use crate::stream::{Holder, Inventory, Meta, Name, NamespaceReading, ProbeState, Purpose, Sweep};
use crate::time::{Timestamp, WallOffset};

/// How long is watched at least before an answer is called certain, nanoseconds: rates want it, and
/// a first second is not like the others.
const AT_LEAST: u64 = 5_000_000_000;

/// How many routes a report tells of.
const ROUTES: usize = 10;

/// A diagnosis under way.
pub struct Watch {
    seen: Seen,
    rules: Vec<&'static dyn Rule>,
    /// It ends by itself once something is certain.
    until_certain: bool,
    /// Which findings are told.
    filter: Filter,
    /// What the rules said last.
    findings: Vec<Finding>,
    too_early: Vec<&'static str>,
    /// Rules that had found an error when they were asked before.
    errors_before: Vec<&'static str>,
    is_done: bool,
    blind: Vec<String>,
    losses: Losses,
    opened: u64,
    closed: u64,
}

impl Watch {
    /// A watch that asks `rules` and tells the findings that `filter` lets pass; with
    /// `until_certain` it is done as soon as an error is certain.
    #[must_use]
    pub fn new(rules: Vec<&'static dyn Rule>, until_certain: bool, filter: Filter) -> Self {
        Self {
            seen: Seen::default(),
            rules,
            until_certain,
            filter,
            findings: Vec::new(),
            too_early: Vec::new(),
            errors_before: Vec::new(),
            is_done: false,
            blind: Vec::new(),
            losses: Losses::default(),
            opened: 0,
            closed: 0,
        }
    }

    /// What is certain so far, the worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What has come of it, once the stream has ended.
    #[must_use]
    pub fn into_report(self) -> Report {
        let found = (self.seen.swept.as_ref()).map_or(0, |sweep| {
            sweep.sockets + sweep.fin_wait2s + sweep.time_waits
        });
        let filter = &self.filter;
        let routes = busiest(&self.seen, ROUTES, |route, netns| {
            let nobodys = |_| false;
            filter.matches_route(
                netns.unwrap_or_default(),
                route.source,
                route.destination,
                nobodys,
            )
        });
        let mut blind = self.blind;
        match &self.seen.swept {
            None => blind.push("the sockets that were there before: they were not counted".into()),
            Some(sweep) => blind.extend(sweep.skipped.iter().map(|skipped| {
                // Whoever mounts a namespace chooses its name.
                let path = skipped.path.escape_debug();
                format!("the sockets of {path}: {}", skipped.reason)
            })),
        }
        Report {
            watched: self.seen.watched(),
            opened: self.opened,
            closed: self.closed,
            found,
            losses: self.losses,
            blind,
            too_early: self.too_early,
            findings: self.findings,
            routes,
            names: self.seen.names,
        }
    }

    /// Asks the rules. Before it is known what was there already, ports that are taken look free.
    fn ask(&mut self) {
        let watched = self.seen.now.since(self.seen.began);
        if self.seen.swept.is_none() && watched < AT_LEAST {
            return;
        }
        self.findings.clear();
        self.too_early.clear();
        for rule in &self.rules {
            match rule.check(&self.seen) {
                Check::Found(findings) => self.findings.extend(findings),
                Check::Quiet => {}
                Check::TooEarly(findings) => {
                    self.findings.extend(findings);
                    self.too_early.push(rule.name());
                }
            }
        }
        for finding in &mut self.findings {
            let netns_cookie = finding.subject.netns_cookie;
            let namespace = netns_cookie.and_then(|cookie| self.seen.namespaces.get(&cookie));
            finding.subject.netns = namespace.map(|namespace| namespace.inode);
        }
        let (filter, names) = (&self.filter, &self.seen.names);
        self.findings
            .retain(|finding| matches(filter, names, &finding.subject));
        self.findings
            .sort_by_key(|finding| (finding.severity, std::cmp::Reverse(finding.weight)));
        let errors = self.findings.iter();
        let errors = errors.filter(|finding| finding.severity == Severity::Error);
        let errors: Vec<&'static str> = errors.map(|finding| finding.rule).collect();
        let is_certain = errors.iter().any(|rule| self.errors_before.contains(rule));
        self.errors_before = errors;
        self.is_done =
            self.until_certain && is_certain && watched >= AT_LEAST && self.seen.swept.is_some();
    }

    /// Where the connection of a record is counted; `None`: it is a listener's, or it has no names.
    fn traffic_of(&mut self, record: &Record) -> Option<&mut Traffic> {
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
                .seen
                .ports
                .service(&service)
                .is_some_and(|used| used.listeners > 0),
        };
        let program = Program::of(&record.opener, record.cgroup_id);
        let by_program = match is_server {
            true => self.seen.services.entry(service).or_default(),
            false => {
                let route = Route {
                    netns_cookie,
                    source: flow.local.address,
                    destination: flow.peer,
                };
                self.seen.routes.entry(route).or_default()
            }
        };
        Some(by_program.entry(program).or_default())
    }

    /// Keeps account of who waits in CLOSE_WAIT.
    fn count_close_wait(&mut self, change: &HoldingChange) {
        let waits = |holding: &&Holding| holding.by == Use::CloseWait;
        let (was, is) = (change.was.as_ref(), change.is.as_ref());
        let key = |holding: &Holding| (change.netns_cookie, Program::from(&holding.owner));
        if let Some(was) = was.filter(waits) {
            let held = self.seen.close_waits.entry(key(was)).or_default();
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
            let held = self.seen.close_waits.entry(key(is)).or_default();
            match is.since.map(tenth) {
                Some(since) => *held.since.entry(since).or_default() += 1,
                None => held.since_unknown += 1,
            }
            held.entered += u64::from(was.is_some_and(|was| was.by != Use::CloseWait));
        }
    }
}

/// Whether a finding about `subject` is told. What it does not name is in no network and is no port.
fn matches(filter: &Filter, names: &Names, subject: &Subject) -> bool {
    let program = subject.program;
    let cgroup_id = program.and_then(|program| program.cgroup_id);
    filter.matches_ends(
        subject.netns,
        (subject.source, subject.local_port),
        (
            subject.destination.map(|end| end.address),
            subject.destination.map(|end| end.port),
        ),
        program.and_then(|program| program.name),
        names.group(cgroup_id, &[subject.pids.last().copied()]),
    )
}

impl Consumer for Watch {
    const WANTS_HOLDINGS: bool = true;
    const WANTS_READINGS: bool = true;

    fn meta(&mut self, meta: &Meta, started: Timestamp, _: WallOffset, _: &mut BytesMut) {
        self.seen.began = started;
        self.seen.now = started;
        self.blind = meta
            .probes
            .iter()
            .filter(|probe| !only_adds_precision(probe.name))
            .filter_map(|probe| match &probe.state {
                ProbeState::Attached => None,
                ProbeState::Refused(reason) => Some(format!("{}: {reason}", probe.purpose)),
            })
            .collect();
    }

    fn close(&mut self, record: &Record, _: WallOffset, _: &mut BytesMut) {
        if let Some(traffic) = self.traffic_of(record) {
            traffic.close(record);
            self.closed += 1;
        }
    }

    fn end(&mut self, record: &Record, _: WallOffset, _: &mut BytesMut) {
        if let Some(traffic) = self.traffic_of(record) {
            traffic.end(record);
        }
    }

    fn holding(&mut self, change: &HoldingChange) {
        self.seen.ports.handle(change);
        self.count_close_wait(change);
        let is_connection = change.side != Side::Listener;
        // What was found has no beginning.
        let is_opening = change.was.is_none() && change.is.is_some_and(|is| is.since.is_some());
        let is_new = change.is.is_some_and(|is| is.by != Use::TimeWait);
        self.opened += u64::from(is_connection && is_opening && is_new);
    }

    fn call(&mut self, call: &Call, _: WallOffset, _: &mut BytesMut) {
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
        let tally: &mut CallTally = self.seen.calls.entry(key).or_default();
        tally.count += 1;
        tally.with_record += u64::from(call.has_record);
        if !tally.pids.contains(&failed.pid) && tally.pids.len() < Holders::PIDS {
            tally.pids.push(failed.pid);
        }
    }

    fn wants_names(&self) -> bool {
        true
    }

    fn name(&mut self, name: &Name) {
        self.seen.names.learn(name);
    }

    fn namespace(&mut self, reading: &NamespaceReading) {
        self.seen
            .namespaces
            .entry(reading.netns_cookie)
            .and_modify(|known| known.latest = reading.clone())
            .or_insert_with(|| NamespaceSeen {
                inode: reading.netns,
                first: reading.clone(),
                latest: reading.clone(),
            });
    }

    fn inventory(&mut self, inventory: &Inventory) {
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
            let owner = inventory
                .owners
                .iter()
                .find(|owner| owner.cookie == found.cookie);
            let listener = Listener {
                service: Service {
                    netns_cookie: inventory.netns_cookie,
                    port: found.flow.local.port,
                },
                address: found.flow.local.address,
                program: Program {
                    name: owner.map(|owner| owner.name),
                    cgroup_id: None,
                },
                reuse_address: owner.and_then(|owner| owner.reuse_address),
                queued,
                backlog: limit,
            };
            self.seen.listeners.insert(found.cookie, listener);
        }
    }

    fn loss(&mut self, _: &Loss, _: WallOffset, _: &mut BytesMut) {}

    fn sweep(&mut self, sweep: &Sweep, _: WallOffset, _: &mut BytesMut) {
        if sweep.purpose == Purpose::Start {
            self.seen.swept = Some(sweep.clone());
        }
    }

    fn tick(&mut self, books: &Books<'_>) {
        self.seen.now = self.seen.now.max(books.now);
        self.seen.ports.age(self.seen.now);
        self.ask();
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn summary(&mut self, summary: &Summary, _: &mut BytesMut) {
        self.losses = Losses {
            hits: summary.hits,
            received: summary.received,
            ring_lost: summary.ring_lost,
            missed: summary.missed,
        };
    }
}

#[cfg(test)]
mod tests;
