//! The columns, in one table. What is not known is null: never 0.0.0.0, never port 0.
//!
//! The names are NDJSON's, flattened with underscores. `host` and `date` are no columns: they are in
//! the path, as Hive partitions, and a column of the same name would clash there.
//!
//! Moments are in microseconds, although the kernel's are nanoseconds: Spark refuses
//! `TIMESTAMP(NANOS)` ("Illegal Parquet type") unless it is set to read it as a bare number. What is
//! measured is a `*_ns` of its own, from the kernel's nanoseconds, and `monotonic_ns` is the exact
//! moment. Every number is signed, since Spark has no others.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tracer_common::tcp::{Endpoint, TcpState};

use super::row::Row;
use crate::attribution::{Container, Group};
use crate::filter::until_nul;
use crate::output::errno;
use crate::record::{FinWait2, Previous, Process, Record, TimeWait, Traffic};
use crate::time::Timestamp;

/// Counts up when a column goes or changes its meaning, not when one is added. It is in every
/// file's metadata as `tracer.schema`.
pub const VERSION: u32 = 1;

/// A column of the files.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// As a query names it.
    pub name: &'static str,
    /// What it tells, for people.
    pub meaning: &'static str,
    pub(super) values: Values,
}

/// Of what type a column is, with its unit, and where its values come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// Utf8, one of few: encoded by a dictionary.
    Word(for<'a> fn(&Line<'a>) -> Option<&'a str>),
    /// Utf8, made for the row, and often met again: encoded by a dictionary as far as that goes.
    Text(fn(&Line<'_>, &mut String) -> Option<()>),
    /// Utf8: a 64-bit id in decimal digits, which most readers' numbers have no room for.
    Id(fn(&Line<'_>) -> Option<u64>),
    /// Timestamp, microseconds since 1970, UTC.
    Moment(fn(&Line<'_>) -> Option<Timestamp>),
    /// Int64, nanoseconds.
    Nanoseconds(fn(&Line<'_>) -> Option<u64>),
    /// Int64.
    Long(fn(&Line<'_>) -> Option<u64>),
    /// Int32.
    Short(fn(&Line<'_>) -> Option<u16>),
    /// Boolean.
    Truth(fn(&Line<'_>) -> Option<bool>),
}

/// A row beside what all its columns need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub row: &'a Row,
    pub group: Option<&'a Group>,
    pub boot_id: &'a str,
}

use Values::{Id, Long, Moment, Nanoseconds, Short, Text, Truth, Word};

/// Every column, in the order of the file.
#[rustfmt::skip]
pub const COLUMNS: [Column; 81] = [
    column("id", Id(|l| l.id()), "Cookie of the socket; unique with generation, netns_cookie and boot_id."),
    column("generation", Long(|l| wide(l.rec().generation)), "How many connections the same socket had before."),
    column("boot_id", Word(|l| some(l.boot_id)), "Boot of the host, as /proc/sys/kernel/random/boot_id has it."),
    column("netns", Long(|l| wide(l.rec().netns).filter(|inode| *inode != 0)), "Inode of the network namespace; recycled by the kernel."),
    column("netns_cookie", Id(|l| cookie(l.rec().netns_cookie)), "Cookie of the network namespace; never recycled."),
    column("netns_name", Word(|l| l.row.netns_name.as_deref()), "What people call the network namespace."),
    column("family", Word(|l| Some(family(l.rec().flow.local.address.is_ipv6()))), "The addresses' family: ipv4 (v4-mapped too) or ipv6."),
    column("socket_family", Word(|l| Some(family(l.rec().socket_is_v6))), "The socket's family."),
    column("local_address", Text(|l, out| address(l.rec().flow.local, out)), "This socket's address."),
    column("local_port", Short(|l| port(l.rec().flow.local)), "This socket's port."),
    column("peer_address", Text(|l, out| address(l.rec().flow.peer, out)), "The other end's address."),
    column("peer_port", Short(|l| port(l.rec().flow.peer)), "The other end's port."),
    column("role", Word(|l| Some(l.rec().role.name())), "client, server, listener, unknown."),
    column("source_port_bound", Truth(|l| l.rec().source_port_bound), "Whether a client had bound its source port before connect()."),
    column("opened_at", Moment(|l| l.rec().opened_at), "First transition."),
    column("established_at", Moment(|l| l.rec().established_at), "Arrival in ESTABLISHED."),
    column("close_began_at", Moment(|l| l.rec().close_began_at), "First step of the close: leaving ESTABLISHED."),
    column("closed_at", Moment(|l| l.rec().closed_at), "End of the full socket."),
    column("ended_at", Moment(|l| l.rec().ended_at), "The tuple is free again."),
    column("monotonic_ns", Nanoseconds(|l| l.monotonic()), "ended_at, or else closed_at, on CLOCK_MONOTONIC."),
    column("handshake_ns", Nanoseconds(|l| l.rec().handshake_ns), "SYN_SENT to ESTABLISHED; clients only."),
    column("syn_retransmits", Short(|l| l.rec().syn_retransmits.map(u16::from)), "SYNs sent again; clients only."),
    column("states", Text(states), "The states in order, joined by commas; CLOSE left out."),
    column("syn_sent_ns", Nanoseconds(|l| l.stay(TcpState::SynSent)), "Time in SYN_SENT."),
    column("syn_recv_ns", Nanoseconds(|l| l.stay(TcpState::SynRecv)), "Time in SYN_RECV."),
    column("established_ns", Nanoseconds(|l| l.stay(TcpState::Established)), "Time in ESTABLISHED."),
    column("fin_wait1_ns", Nanoseconds(|l| l.stay(TcpState::FinWait1)), "Time in FIN_WAIT1: our FIN was not acknowledged."),
    column("close_wait_ns", Nanoseconds(|l| l.stay(TcpState::CloseWait)), "Time in CLOSE_WAIT: the program had not closed."),
    column("last_ack_ns", Nanoseconds(|l| l.stay(TcpState::LastAck)), "Time in LAST_ACK."),
    column("closing_ns", Nanoseconds(|l| l.stay(TcpState::Closing)), "Time in CLOSING."),
    column("close_kind", Word(|l| Some(l.rec().close.kind.name())), "active, passive, simultaneous, reset_received, reset_sent, timed_out, connect_failed, aborted, listener_closed, unknown."),
    column("close_initiator", Word(|l| Some(l.rec().close.initiator.name())), "local, peer, both, none, unknown."),
    column("close_cause", Word(|l| l.rec().close.cause.map(|cause| cause.name())), "Why, as NDJSON's close.cause."),
    column("errno", Text(error), "The socket's error at its end: ECONNRESET."),
    column("evidence", Text(evidence), "What the verdict rests on, joined by \"; \"; empty where nothing was noted."),
    column("fin_wait2_began_at", Moment(|l| l.fin_wait2()?.began_at), "When our FIN was acknowledged."),
    column("fin_wait2_dwell_ns", Nanoseconds(|l| l.fin_wait2()?.dwell_ns), "How long the peer's FIN was waited for."),
    column("fin_wait2_in_minisocket", Truth(|l| Some(l.fin_wait2()?.in_minisocket)), "Whether the last part was waited in a minisocket."),
    column("fin_wait2_exit", Word(|l| Some(l.fin_wait2()?.exit?.name())), "peer_fin, timed_out, reset, data, destroyed, purged, unknown."),
    column("time_wait_entered_at", Moment(|l| l.time_wait()?.entered_at), "Entry into TIME_WAIT."),
    column("time_wait_entered_from", Word(|l| Some(l.time_wait()?.entered_from?.name())), "From FIN_WAIT2, CLOSING or FIN_WAIT1."),
    column("time_wait_entry_precision", Word(|l| Some(l.time_wait()?.entry_precision.name())), "exact, jiffy, last_refresh, unknown."),
    column("time_wait_dwell_ns", Nanoseconds(|l| l.time_wait()?.dwell_ns), "Entry to end, measured."),
    column("time_wait_nominal_ns", Nanoseconds(|l| Some(l.time_wait()?.nominal_ns)), "What the timer was set for at entry."),
    column("time_wait_refreshes", Long(|l| wide(l.time_wait()?.refreshes)), "How often the timer was set anew."),
    column("time_wait_fin_retransmits", Long(|l| wide(l.time_wait()?.fin_retransmits?)), "FINs that came again: our last ACK was lost."),
    column("time_wait_old_duplicates", Long(|l| wide(l.time_wait()?.old_duplicates?)), "Old data that came again."),
    column("time_wait_exit", Word(|l| Some(l.time_wait()?.exit?.name())), "expired, reused_by_connect, reused_by_syn, reset, purged, destroyed, unknown."),
    column("time_wait_late", Truth(|l| Some(l.time_wait()?.late)), "Whether it ended later than the timer wheel explains."),
    column("time_wait_skipped", Word(|l| Some(l.rec().time_wait_skipped?.name())), "overflow: there was none where one was due."),
    column("previous_id", Id(|l| cookie(l.previous()?.cookie)), "id of the tuple's last connection."),
    column("previous_generation", Long(|l| wide(l.previous()?.generation)), "generation of the tuple's last connection."),
    column("previous_gap_ns", Nanoseconds(|l| Some(l.previous()?.gap_ns)), "That one's end to this one's opening."),
    column("opener_pid", Long(|l| wide(l.rec().opener.pid?)), "Process that opened it, in the host's pid namespace."),
    column("opener_tid", Long(|l| wide(l.rec().opener.tid?)), "Its thread."),
    column("opener_comm", Text(|l, out| name(l.rec().opener.comm, out)), "The thread's name."),
    column("opener_name", Text(|l, out| name(l.rec().opener.name, out)), "The process's name."),
    column("opener_source", Word(|l| process_source(&l.row.record.opener)), "exact, inherited, inferred, unknown."),
    column("closer_pid", Long(|l| wide(l.rec().closer.pid?)), "Process that closed it, in the host's pid namespace."),
    column("closer_tid", Long(|l| wide(l.rec().closer.tid?)), "Its thread."),
    column("closer_comm", Text(|l, out| name(l.rec().closer.comm, out)), "The thread's name."),
    column("closer_name", Text(|l, out| name(l.rec().closer.name, out)), "The process's name."),
    column("closer_source", Word(|l| process_source(&l.row.record.closer)), "exact, inherited, inferred, unknown."),
    column("uid", Long(|l| wide(l.rec().uid?)), "Owner of the socket."),
    column("cgroup", Word(|l| l.row.cgroup.as_deref()), "Path of the control group."),
    column("cgroup_source", Word(|l| Some(l.row.cgroup_source.name())), "exact: the socket's own; inferred: a process's; unknown."),
    column("cgroup_id", Id(|l| cookie(l.rec().cgroup_id?)), "Id of the socket's cgroup: its directory's inode."),
    column("unit", Word(|l| l.group?.unit()), "Innermost unit of systemd."),
    column("container_id", Word(|l| Some(&l.container()?.id)), "Container, innermost."),
    column("container_runtime", Word(|l| l.container()?.runtime.name()), "docker, containerd, cri-o, podman, lxc."),
    column("container_pod_uid", Word(|l| l.container()?.pod_uid.as_deref()), "UID of the Kubernetes pod."),
    column("timestamps", Truth(|l| l.rec().timestamps), "Whether TCP timestamps were in use, which tcp_tw_reuse needs."),
    column("bytes_sent", Long(|l| Some(l.traffic()?.bytes_sent)), "Payload bytes sent, retransmissions included."),
    column("bytes_received", Long(|l| Some(l.traffic()?.bytes_received)), "Payload bytes received in order."),
    column("segments_sent", Long(|l| wide(l.traffic()?.segments_sent)), "Segments sent."),
    column("segments_received", Long(|l| wide(l.traffic()?.segments_received)), "Segments received."),
    column("retransmits", Long(|l| wide(l.traffic()?.retransmits)), "Segments retransmitted."),
    column("srtt_us", Long(|l| wide(l.traffic()?.srtt_us?)), "Smoothed round-trip time, microseconds."),
    column("min_rtt_us", Long(|l| wide(l.traffic()?.min_rtt_us?)), "Least round-trip time, microseconds."),
    column("complete", Truth(|l| Some(l.rec().incomplete.is_empty())), "Whether all was seen."),
    column("incomplete_reasons", Text(reasons), "What was not seen, joined by commas; empty where complete."),
];

const fn column(name: &'static str, values: Values, meaning: &'static str) -> Column {
    Column {
        name,
        meaning,
        values,
    }
}

impl Column {
    /// The type in Arrow's words.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self.values {
            Word(_) | Text(_) | Id(_) => DataType::Utf8,
            Moment(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Nanoseconds(_) | Long(_) => DataType::Int64,
            Short(_) => DataType::Int32,
            Truth(_) => DataType::Boolean,
        }
    }
}

/// The schema of every file. Any column can be null, also those that never are today.
#[must_use]
pub fn schema() -> SchemaRef {
    let field = |column: &Column| Field::new(column.name, column.data_type(), true);
    Arc::new(Schema::new(COLUMNS.iter().map(field).collect::<Vec<_>>()))
}

impl<'a> Line<'a> {
    fn rec(&self) -> &'a Record {
        &self.row.record
    }

    fn id(&self) -> Option<u64> {
        cookie(self.rec().cookie)
    }

    fn monotonic(&self) -> Option<u64> {
        let at = self.rec().ended_at.or(self.rec().closed_at)?;
        Some(at.0)
    }

    fn stay(&self, state: TcpState) -> Option<u64> {
        let mut states = self.rec().states.iter();
        states.find(|visit| visit.state == state)?.for_ns
    }

    fn fin_wait2(&self) -> Option<&'a FinWait2> {
        self.rec().fin_wait2.as_ref()
    }

    fn time_wait(&self) -> Option<&'a TimeWait> {
        self.rec().time_wait.as_ref()
    }

    fn previous(&self) -> Option<&'a Previous> {
        self.rec().previous.as_ref()
    }

    fn traffic(&self) -> Option<&'a Traffic> {
        self.rec().traffic.as_ref()
    }

    fn container(&self) -> Option<&'a Container> {
        self.group?.container.as_ref()
    }
}

fn wide(number: u32) -> Option<u64> {
    Some(number.into())
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn cookie(cookie: u64) -> Option<u64> {
    Some(cookie).filter(|cookie| *cookie != 0)
}

const fn family(is_v6: bool) -> &'static str {
    if is_v6 { "ipv6" } else { "ipv4" }
}

fn process_source(process: &Process) -> Option<&'static str> {
    Some(process.source.name())
}

fn port(end: Endpoint) -> Option<u16> {
    Some(end.port).filter(|port| *port != 0)
}

fn address(end: Endpoint, out: &mut String) -> Option<()> {
    if end.address.is_unspecified() {
        return None;
    }
    write!(out, "{}", end.address).ok()
}

/// What is not UTF-8 in it is replaced.
fn name(name: Option<[u8; 16]>, out: &mut String) -> Option<()> {
    out.push_str(&String::from_utf8_lossy(until_nul(&name?)));
    Some(())
}

fn error(line: &Line<'_>, out: &mut String) -> Option<()> {
    let errno = line.rec().close.errno.filter(|errno| *errno != 0)?;
    match errno::name(errno) {
        Some(name) => out.push_str(name),
        None => write!(out, "E{errno}").ok()?,
    }
    Some(())
}

fn states(line: &Line<'_>, out: &mut String) -> Option<()> {
    let states = &line.rec().states;
    if states.is_empty() {
        return None;
    }
    join(states.iter().map(|visit| visit.state.name()), ",", out)
}

fn evidence(line: &Line<'_>, out: &mut String) -> Option<()> {
    join(line.rec().close.evidence.iter(), "; ", out)
}

fn reasons(line: &Line<'_>, out: &mut String) -> Option<()> {
    let reasons = line.rec().incomplete.iter();
    join(reasons.map(|reason| reason.name()), ",", out)
}

/// One string rather than a list: it is read and compared alike by all, and a null list is not
/// known to ClickHouse.
fn join(words: impl Iterator<Item = &'static str>, by: &str, out: &mut String) -> Option<()> {
    for word in words {
        if !out.is_empty() {
            out.push_str(by);
        }
        out.push_str(word);
    }
    Some(())
}
