//! NDJSON: one object a line, its `type` first. The field names are fixed.

use std::collections::BTreeMap;

use bytes::BytesMut;
use serde::Serialize;

use crate::attribution::Names;
use crate::probes::only_adds_precision;
use crate::record::{Call, Record, TransitionRow};
use crate::stream::{Meta, Name, ProbeReport, ProbeState, Skipped, Sweep};
use crate::time::{Timestamp, WallOffset};

use super::json::Moment;
use super::{Loss, Summary};

mod moment;
mod object;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod views;

use object::Line;

/// Version of the fields: it changes when one changes its meaning or goes.
const SCHEMA: u32 = 1;

/// NDJSON under way.
#[derive(Debug)]
pub(super) struct Ndjson {
    transitions: bool,
    names: Names,
    line: Line,
}

impl Ndjson {
    pub fn new(transitions: bool) -> Self {
        Self {
            transitions,
            names: Names::default(),
            line: Line::default(),
        }
    }

    pub fn name(&mut self, name: &Name) {
        self.names.learn(name);
    }

    pub fn meta(&self, meta: &Meta, started: Timestamp, wall: WallOffset, out: &mut BytesMut) {
        let view = MetaView {
            kind: "meta",
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            host: &meta.host,
            boot_id: &meta.boot_id,
            kernel: &meta.kernel,
            hz: meta.hz,
            started_at: Moment(started, wall),
            monotonic_ns: started.0,
            probes: meta.probes.iter().map(ProbeView::from).collect(),
        };
        line(&view, out);
    }

    pub fn transition(&mut self, row: &TransitionRow, wall: WallOffset, out: &mut BytesMut) {
        if self.transitions {
            out.extend_from_slice(self.line.of(rows::transition(row), wall));
        }
    }

    pub fn close(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        let line = rows::record("close", record, None, record.closed_at, &self.names);
        out.extend_from_slice(self.line.of(line, wall));
    }

    pub fn end(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        let (ended_at, names) = (record.ended_at, &self.names);
        let line = rows::record("end", record, ended_at, ended_at, names);
        out.extend_from_slice(self.line.of(line, wall));
    }

    /// Both lines, of which the second is the first with another type and the time of the end.
    pub fn over(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        const CLOSE: &[u8] = br#"{"type":"close""#;
        const END: &[u8] = br#"{"type":"end""#;
        self.close(record, wall, out);
        if record.ended_at != record.closed_at {
            return self.end(record, wall, out);
        }
        let [before, ended_at, after] = self.line.with(record.ended_at.map(object::Moment));
        for part in [END, &before[CLOSE.len()..], ended_at, after] {
            out.extend_from_slice(part);
        }
    }

    pub fn call(&mut self, call: &Call, wall: WallOffset, out: &mut BytesMut) {
        out.extend_from_slice(self.line.of(rows::call(call), wall));
    }

    pub fn loss(&self, loss: &Loss, wall: WallOffset, out: &mut BytesMut) {
        let view = LossView {
            kind: "loss",
            at: Moment(loss.at, wall),
            monotonic_ns: loss.at.0,
            count: loss.count,
            by_kind: named(
                loss.by_kind
                    .iter()
                    .map(|(kind, count)| (kind.name(), *count)),
            ),
            cpus: &loss.cpus,
            missed: loss.missed,
        };
        line(&view, out);
    }

    pub fn sweep(&self, sweep: &Sweep, wall: WallOffset, out: &mut BytesMut) {
        let view = SweepView {
            kind: "inventory",
            at: Moment(sweep.at, wall),
            monotonic_ns: sweep.at.0,
            purpose: sweep.purpose.name(),
            namespaces: sweep.namespaces,
            sockets: sweep.sockets,
            fin_wait2s: sweep.fin_wait2s,
            time_waits: sweep.time_waits,
            cpu_ns: u64::try_from(sweep.cpu.as_nanos()).unwrap_or(u64::MAX),
            skipped: sweep.skipped.iter().map(SkippedView::from).collect(),
        };
        line(&view, out);
    }

    pub fn summary(&self, summary: &Summary, out: &mut BytesMut) {
        let kinds = summary.closed_by_kind.iter();
        let view = SummaryView {
            kind: "summary",
            duration_ns: u64::try_from(summary.duration.as_nanos()).unwrap_or(u64::MAX),
            opened: summary.opened,
            closed: summary.closed,
            closed_by_kind: named(kinds.map(|(kind, count)| (kind.name(), *count))),
            ended: summary.ended,
            time_waits_ended: summary.time_waits_ended,
            open: summary.open,
            in_time_wait: summary.in_time_wait,
            shown_open: summary.shown_open,
            shown_in_time_wait: summary.shown_in_time_wait,
            hits: summary.hits,
            received: summary.received,
            ring_lost: summary.ring_lost,
            missed: summary.missed,
        };
        line(&view, out);
    }
}

fn named(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    counts.collect()
}

/// Writes a whole line or, where a view cannot be written, none.
pub(super) fn line(view: &impl Serialize, out: &mut BytesMut) {
    // serde_json writes in small pieces, which a Vec takes faster than a BytesMut.
    let mut text = Vec::with_capacity(2_048);
    match serde_json::to_writer(&mut text, view) {
        Ok(()) => {
            text.push(b'\n');
            out.extend_from_slice(&text);
        }
        Err(error) => tracing::error!(%error, "failed to write a line of NDJSON"),
    }
}

#[derive(Serialize)]
struct MetaView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: u32,
    version: &'static str,
    host: &'a str,
    boot_id: &'a str,
    kernel: &'a str,
    hz: u32,
    started_at: Moment,
    monotonic_ns: u64,
    probes: Vec<ProbeView<'a>>,
}

/// A probe, as the meta line and the check report show it.
#[derive(Serialize)]
pub(super) struct ProbeView<'a> {
    name: &'static str,
    hook: &'static str,
    state: &'static str,
    reason: Option<&'a str>,
    purpose: &'static str,
}

impl<'a> From<&'a ProbeReport> for ProbeView<'a> {
    fn from(probe: &'a ProbeReport) -> Self {
        let (state, reason) = match &probe.state {
            ProbeState::Attached => ("attached", None),
            ProbeState::Refused(reason) if only_adds_precision(probe.name) => {
                ("not_needed", Some(&**reason))
            }
            ProbeState::Refused(reason) => ("refused", Some(&**reason)),
        };
        Self {
            name: probe.name,
            hook: probe.hook,
            state,
            reason,
            purpose: probe.purpose,
        }
    }
}

#[derive(Serialize)]
struct LossView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    at: Moment,
    monotonic_ns: u64,
    count: u64,
    by_kind: BTreeMap<&'static str, u64>,
    cpus: &'a [u16],
    missed: u64,
}

#[derive(Serialize)]
struct SweepView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    at: Moment,
    monotonic_ns: u64,
    purpose: &'static str,
    namespaces: u64,
    sockets: u64,
    fin_wait2s: u64,
    time_waits: u64,
    cpu_ns: u64,
    skipped: Vec<SkippedView<'a>>,
}

#[derive(Serialize)]
pub(super) struct SkippedView<'a> {
    netns: Option<u32>,
    path: &'a str,
    reason: &'a str,
}

impl<'a> From<&'a Skipped> for SkippedView<'a> {
    fn from(skipped: &'a Skipped) -> Self {
        Self {
            netns: skipped.netns,
            path: &skipped.path,
            reason: &skipped.reason,
        }
    }
}

#[derive(Serialize)]
struct SummaryView {
    #[serde(rename = "type")]
    kind: &'static str,
    duration_ns: u64,
    opened: u64,
    closed: u64,
    closed_by_kind: BTreeMap<&'static str, u64>,
    ended: u64,
    time_waits_ended: u64,
    open: u64,
    in_time_wait: u64,
    shown_open: u64,
    shown_in_time_wait: u64,
    hits: u64,
    received: u64,
    ring_lost: u64,
    missed: u64,
}
