//! A close as a log record: OpenTelemetry's attributes where there are any for it, our own as NDJSON
//! has them. What was never seen is left out: there is no 0.0.0.0, no port 0 and no process 0.

use std::borrow::Cow;

use tracer_common::tcp::{Endpoint, TcpState};

use super::facts::{Facts, readable};
use super::logs::{LogRecord, Severity, Value};
use crate::attribution::Group;
use crate::history::Row;
use crate::output::{address, errno, words};
use crate::record::{Close, CloseKind, FinWait2, Process, Record, TimeWait, Traffic};

/// The log record of a verdict, which we came to know of at `observed_at`, in nanoseconds since 1970.
#[must_use]
pub fn close(row: &Row, observed_at: u64) -> LogRecord {
    let record = &row.record;
    let mut facts = Facts::with_capacity(48);
    network(record, &mut facts);
    verdict(&record.close, &mut facts);
    connection(row, &mut facts);
    processes(record, &mut facts);
    owner(row, &mut facts);
    if let Some(wait) = &record.fin_wait2 {
        fin_wait2(wait, &mut facts);
    }
    if let Some(wait) = &record.time_wait {
        time_wait(wait, &mut facts);
    }
    let skipped = record.time_wait_skipped.map(|reason| reason.name());
    facts.add("tracer.time_wait.skipped", skipped);
    if let Some(totals) = &record.traffic {
        traffic(totals, &mut facts);
    }
    let at = record.closed_at.and_then(|at| {
        let nanoseconds = row.wall.unix_nanoseconds(at);
        u64::try_from(nanoseconds).ok()
    });
    let [local, peer] = [record.flow.local, record.flow.peer].map(address::endpoint);
    let (how, _) = words::how(record);
    LogRecord {
        name: "tracer.tcp.close",
        severity: severity(record.close.kind),
        at,
        observed_at,
        body: format!("{local} {} {peer}: {how}", words::role(record.role).1).into(),
        attributes: facts.into(),
    }
}

/// Whether it failed. What nothing is known of is not called a failure.
const fn severity(kind: CloseKind) -> Severity {
    match kind {
        CloseKind::Active
        | CloseKind::Passive
        | CloseKind::Simultaneous
        | CloseKind::ListenerClosed
        | CloseKind::Unknown => Severity::Info,
        CloseKind::ResetReceived
        | CloseKind::ResetSent
        | CloseKind::TimedOut
        | CloseKind::ConnectFailed
        | CloseKind::Aborted => Severity::Warn,
    }
}

fn network(record: &Record, facts: &mut Facts) {
    let address = |end: Endpoint| {
        let known = Some(end.address).filter(|address| !address.is_unspecified());
        known.map(|address| address.to_string())
    };
    let port = |end: Endpoint| Some(u32::from(end.port)).filter(|port| *port != 0);
    let (local, peer) = (record.flow.local, record.flow.peer);
    facts.add("network.transport", Some("tcp"));
    facts.add("network.type", Some(family(local.address.is_ipv6())));
    facts.add("network.local.address", address(local));
    facts.add("network.local.port", port(local));
    facts.add("network.peer.address", address(peer));
    facts.add("network.peer.port", port(peer));
}

const fn family(is_v6: bool) -> &'static str {
    if is_v6 { "ipv6" } else { "ipv4" }
}

fn verdict(close: &Close, facts: &mut Facts) {
    let error = close
        .errno
        .filter(|errno| *errno != 0)
        .map(|errno| errno::name(errno).map_or_else(|| format!("E{errno}").into(), Value::from));
    let cause = close.cause.map(|cause| cause.name());
    if severity(close.kind) != Severity::Info {
        let word = cause.unwrap_or(close.kind.name());
        facts.add("error.type", Some(error.clone().unwrap_or(word.into())));
    }
    facts.add("tracer.close.kind", Some(close.kind.name()));
    facts.add("tracer.close.cause", cause);
    facts.add("tracer.close.initiator", Some(close.initiator.name()));
    facts.add("tracer.close.errno", error);
    let evidence: Vec<_> = close.evidence.iter().collect();
    facts.add("tracer.close.evidence", texts(evidence));
}

fn connection(row: &Row, facts: &mut Facts) {
    let record = &row.record;
    let unless_zero = |cookie: u64| Some(cookie.to_string()).filter(|_| cookie != 0);
    facts.add("tracer.role", Some(record.role.name()));
    facts.add("tracer.id", unless_zero(record.cookie));
    facts.add("tracer.generation", Some(record.generation));
    let netns = Some(record.netns).filter(|inode| *inode != 0);
    facts.add("tracer.netns", netns);
    facts.add("tracer.netns_cookie", unless_zero(record.netns_cookie));
    facts.add("tracer.netns_name", row.netns_name.as_deref().map(owned));
    let socket_family = family(record.socket_is_v6);
    facts.add("tracer.socket_family", Some(socket_family));
    facts.add("tracer.source_port_bound", record.source_port_bound);
    let lived = record.opened_at.zip(record.closed_at);
    let lived = lived.map(|(opened, closed)| closed.since(opened));
    facts.add("tracer.connection_ns", lived);
    facts.add("tracer.handshake_ns", record.handshake_ns);
    let syns = record.syn_retransmits.map(u32::from);
    facts.add("tracer.syn_retransmits", syns);
    facts.add("tracer.timestamps", record.timestamps);
    let states = record.states.iter().map(|visit| visit.state.name());
    facts.add("tracer.states", texts(states.collect()));
    facts.add("tracer.complete", Some(record.incomplete.is_empty()));
    let reasons = record.incomplete.iter().map(|reason| reason.name());
    facts.add("tracer.incomplete_reasons", texts(reasons.collect()));
}

/// A connection is its opener's; who closed it has names of our own.
fn processes(record: &Record, facts: &mut Facts) {
    let name = |process: &Process| Some(readable(process.name.or(process.comm)?));
    let opener = &record.opener;
    facts.add("process.pid", opener.pid);
    facts.add("process.executable.name", name(opener));
    facts.add("thread.id", opener.tid);
    facts.add("thread.name", opener.comm.map(readable));
    facts.add("tracer.process.source", Some(opener.source.name()));
    let closer = &record.closer;
    facts.add("tracer.closer.pid", closer.pid);
    facts.add("tracer.closer.name", name(closer));
    facts.add("tracer.closer.source", Some(closer.source.name()));
}

fn owner(row: &Row, facts: &mut Facts) {
    let group = row.cgroup.as_deref().map(Group::new);
    let container = group.as_ref().and_then(|group| group.container.as_ref());
    facts.add("tracer.uid", row.record.uid);
    facts.add("process.linux.cgroup", row.cgroup.as_deref().map(owned));
    facts.add("tracer.cgroup_source", Some(row.cgroup_source.name()));
    let unit = group.as_ref().and_then(Group::unit);
    facts.add("tracer.unit", unit.map(owned));
    facts.add("container.id", container.map(|it| it.id.clone()));
    let runtime = container.and_then(|it| it.runtime.name());
    facts.add("container.runtime.name", runtime);
    let pod = container.and_then(|it| it.pod_uid.clone());
    facts.add("k8s.pod.uid", pod);
}

fn fin_wait2(wait: &FinWait2, facts: &mut Facts) {
    facts.add("tracer.fin_wait2.dwell_ns", wait.dwell_ns);
    let in_minisocket = wait.in_minisocket;
    facts.add("tracer.fin_wait2.in_minisocket", Some(in_minisocket));
    let exit = wait.exit.map(|exit| exit.name());
    facts.add("tracer.fin_wait2.exit", exit);
}

fn time_wait(wait: &TimeWait, facts: &mut Facts) {
    let from = wait.entered_from.map(TcpState::name);
    facts.add("tracer.time_wait.entered_from", from);
    let precision = wait.entry_precision.name();
    facts.add("tracer.time_wait.entry_precision", Some(precision));
    facts.add("tracer.time_wait.nominal_ns", Some(wait.nominal_ns));
    facts.add("tracer.time_wait.dwell_ns", wait.dwell_ns);
    facts.add("tracer.time_wait.refreshes", Some(wait.refreshes));
    let exit = wait.exit.map(|exit| exit.name());
    facts.add("tracer.time_wait.exit", exit);
}

fn traffic(totals: &Traffic, facts: &mut Facts) {
    facts.add("tracer.bytes_sent", Some(totals.bytes_sent));
    facts.add("tracer.bytes_received", Some(totals.bytes_received));
    facts.add("tracer.segments_sent", Some(totals.segments_sent));
    facts.add("tracer.segments_received", Some(totals.segments_received));
    facts.add("tracer.retransmits", Some(totals.retransmits));
    facts.add("tracer.srtt_us", totals.srtt_us);
    facts.add("tracer.min_rtt_us", totals.min_rtt_us);
}

fn texts(texts: Vec<&'static str>) -> Option<Value> {
    let texts: Vec<_> = texts.into_iter().map(Cow::from).collect();
    (!texts.is_empty()).then_some(Value::Texts(texts))
}

fn owned(text: &str) -> String {
    text.to_owned()
}
