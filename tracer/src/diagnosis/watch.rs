//! The watch: takes in what the engine puts out, and asks the rules once a second.

use bytes::BytesMut;

use super::answer::{Answer, not_counted};
use super::outlook::busiest;
use super::report::{Losses, Report};
use super::rule::Rule;
use super::seen::Seen;
use super::tallies::Tallies;
use super::{Severity, Subject};
use crate::attribution::Names;
use crate::consumer::{Books, Consumer};
use crate::filter::Filter;
use crate::output::{Loss, Summary};
use crate::pipeline::Opened;
use crate::probes::only_adds_precision;
use crate::record::holding::{HoldingChange, Side, Use};
use crate::record::{Call, Record};
use crate::stream::{Inventory, Meta, Name, NamespaceReading, ProbeState, Purpose, Sweep};
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
    answer: Answer,
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
            answer: Answer::default(),
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
    pub fn findings(&self) -> &[super::Finding] {
        &self.answer.findings
    }

    /// What has come of it, once the stream has ended.
    #[must_use]
    pub fn into_report(self) -> Report {
        let found = (self.seen.swept.as_ref()).map_or(0, |sweep| {
            sweep.sockets + sweep.fin_wait2s + sweep.time_waits
        });
        let filter = &self.filter;
        let routes = busiest(&self.seen, ROUTES, |route, _, netns| {
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
        blind.extend(not_counted(&self.seen.left_out));
        Report {
            watched: self.seen.watched(),
            opened: self.opened,
            closed: self.closed,
            found,
            losses: self.losses,
            blind,
            too_early: self.answer.too_early,
            findings: self.answer.findings,
            routes: routes.routes,
            names: self.seen.names,
        }
    }

    /// Asks the rules. Before it is known what was there already, ports that are taken look free.
    fn ask(&mut self) {
        let watched = self.seen.now.since(self.seen.began);
        if self.seen.swept.is_none() && watched < AT_LEAST {
            return;
        }
        self.answer = Answer::default();
        self.answer.ask(&self.rules, &self.seen);
        let (filter, names) = (&self.filter, &self.seen.names);
        let findings = &mut self.answer.findings;
        findings.retain(|finding| matches(filter, names, &finding.subject));
        self.answer.sort();
        let errors = self.answer.findings.iter();
        let errors = errors.filter(|finding| finding.severity == Severity::Error);
        let errors: Vec<&'static str> = errors.map(|finding| finding.rule).collect();
        let is_certain = errors.iter().any(|rule| self.errors_before.contains(rule));
        self.errors_before = errors;
        self.is_done =
            self.until_certain && is_certain && watched >= AT_LEAST && self.seen.swept.is_some();
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
        self.seen.begin(started);
        self.seen.tallies = Tallies::since(started);
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
        if let Some(place) = self.seen.place(record) {
            self.seen.close(place, record);
            self.closed += 1;
        }
    }

    fn end(&mut self, record: &Record, _: WallOffset, _: &mut BytesMut) {
        if let Some(place) = self.seen.place(record) {
            self.seen.end(place, record);
        }
    }

    fn holding(&mut self, change: &HoldingChange) {
        self.seen.holding(change);
        let is_connection = change.side != Side::Listener;
        // What was found has no beginning.
        let is_opening = change.was.is_none() && change.is.is_some_and(|is| is.since.is_some());
        let is_new = change.is.is_some_and(|is| is.by != Use::TimeWait);
        self.opened += u64::from(is_connection && is_opening && is_new);
    }

    fn call(&mut self, call: &Call, _: WallOffset, _: &mut BytesMut) {
        self.seen.call(call);
    }

    fn wants_names(&self) -> bool {
        true
    }

    fn name(&mut self, name: &Name) {
        self.seen.names.learn(name);
    }

    fn namespace(&mut self, reading: &NamespaceReading, _: Opened) {
        self.seen.namespace(reading);
    }

    fn inventory(&mut self, inventory: &Inventory) {
        self.seen.inventory(inventory);
    }

    fn loss(&mut self, _: &Loss, _: WallOffset, _: &mut BytesMut) {}

    fn sweep(&mut self, sweep: &Sweep, _: WallOffset, _: &mut BytesMut) {
        if sweep.purpose == Purpose::Start {
            self.seen.swept = Some(sweep.clone());
        }
    }

    fn tick(&mut self, books: &Books<'_>) {
        self.seen.tick(books.now);
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
