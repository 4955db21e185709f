//! The fields of the rows, each line's in its order. The names are fixed. What was never seen is
//! null.

use std::net::SocketAddr;

use tracer_common::tcp::{Endpoint, Flow, TcpState};

use crate::attribution::{Container, Group, Names};
use crate::record::{Call, Process, Record, TransitionRow};
use crate::time::Timestamp;

use super::object::{Errno, Id, List, Moment, Name, Placed, Text, Value, object};

/// A record, at its verdict or at its end, which is not told at the verdict: `about` is the time of
/// the event that the line is about.
pub(super) fn record<'a>(
    kind: &'static str,
    record: &'a Record,
    ended_at: Option<Timestamp>,
    about: Option<Timestamp>,
    names: &'a Names,
) -> impl Value + 'a {
    let (group, group_source) = names.group_and_source(record);
    object!({
        "type": kind,
        "id": Id(record.cookie),
        "generation": record.generation,
        "netns": unless_zero(record.netns),
        "netns_cookie": Id(record.netns_cookie),
        "netns_name": names.netns(record.netns).map(Text),
        "family": family(&record.flow),
        "socket_family": if record.socket_is_v6 { "ipv6" } else { "ipv4" },
        "local": endpoint(record.flow.local),
        "peer": endpoint(record.flow.peer),
        "role": record.role.name(),
        "source_port_bound": record.source_port_bound,
        "opened_at": record.opened_at.map(Moment),
        "established_at": record.established_at.map(Moment),
        "close_began_at": record.close_began_at.map(Moment),
        "closed_at": record.closed_at.map(Moment),
        "ended_at": Placed(ended_at.map(Moment)),
        "monotonic_ns": about.map(|at| at.0),
        "handshake_ns": record.handshake_ns,
        "syn_retransmits": record.syn_retransmits,
        "states": List(record.states.iter().map(|visit| object!({
            "state": visit.state.name(),
            "at": Moment(visit.at),
            "for_ns": visit.for_ns,
        }))),
        "close": object!({
            "kind": record.close.kind.name(),
            "initiator": record.close.initiator.name(),
            "cause": record.close.cause.map(|cause| cause.name()),
            "errno": record.close.errno.filter(|errno| *errno != 0).map(Errno),
            "evidence": List(record.close.evidence.iter().map(Text)),
        }),
        "fin_wait2": record.fin_wait2.map(|wait| object!({
            "began_at": wait.began_at.map(Moment),
            "dwell_ns": wait.dwell_ns,
            "in_minisocket": wait.in_minisocket,
            "exit": wait.exit.map(|exit| exit.name()),
        })),
        "time_wait": record.time_wait.map(|wait| object!({
            "entered_at": wait.entered_at.map(Moment),
            "entered_from": wait.entered_from.map(TcpState::name),
            "entry_precision": wait.entry_precision.name(),
            "dwell_ns": wait.dwell_ns,
            "nominal_ns": wait.nominal_ns,
            "refreshes": wait.refreshes,
            "fin_retransmits": wait.fin_retransmits,
            "old_duplicates": wait.old_duplicates,
            "exit": wait.exit.map(|exit| exit.name()),
            "late": wait.late,
        })),
        "time_wait_skipped": record.time_wait_skipped.map(|reason| reason.name()),
        "previous": record.previous.map(|previous| object!({
            "id": Id(previous.cookie),
            "generation": previous.generation,
            "gap_ns": previous.gap_ns,
        })),
        "process": object!({
            "opener": process(&record.opener),
            "closer": process(&record.closer),
        }),
        "uid": record.uid,
        "cgroup": group.map(|group| Text(&group.path)),
        "cgroup_source": group_source.name(),
        "cgroup_id": record.cgroup_id.map(Id),
        "unit": group.and_then(Group::unit).map(Text),
        "container": group.and_then(|group| group.container.as_ref()).map(container),
        "timestamps": record.timestamps,
        "traffic": record.traffic.map(|traffic| object!({
            "bytes_sent": traffic.bytes_sent,
            "bytes_received": traffic.bytes_received,
            "segments_sent": traffic.segments_sent,
            "segments_received": traffic.segments_received,
            "retransmits": traffic.retransmits,
            "srtt_us": traffic.srtt_us,
            "min_rtt_us": traffic.min_rtt_us,
        })),
        "complete": record.incomplete.is_empty(),
        "incomplete_reasons": List(record.incomplete.iter().map(|reason| reason.name())),
    })
}

/// A state change.
pub(super) fn transition(row: &TransitionRow) -> impl Value + '_ {
    object!({
        "type": "transition",
        "id": Id(row.cookie),
        "generation": row.generation,
        "at": Moment(row.at),
        "monotonic_ns": row.at.0,
        "netns": unless_zero(row.netns),
        "netns_cookie": Id(row.netns_cookie),
        "family": family(&row.flow),
        "local": endpoint(row.flow.local),
        "peer": endpoint(row.flow.peer),
        "from": row.from.name(),
        "to": row.to.name(),
        "for_ns": row.for_ns,
        "process": process(&row.process),
    })
}

/// A system call that failed.
pub(super) fn call(call: &Call) -> impl Value + '_ {
    let failed = &call.failed;
    object!({
        "type": "call",
        "at": Moment(call.at),
        "monotonic_ns": call.at.0,
        "call": failed.call.name(),
        "errno": Errno(failed.errno),
        "address": failed.address.map(asked),
        "state": failed.state.map(TcpState::name),
        "netns": unless_zero(call.netns),
        "netns_cookie": Id(call.netns_cookie),
        "local": endpoint(call.flow.local),
        "peer": endpoint(call.flow.peer),
        "pid": failed.pid,
        "tid": failed.tid,
        "comm": Name(&failed.comm),
        "name": Name(&failed.name),
        "has_record": call.has_record,
    })
}

fn unless_zero(inode: u32) -> Option<u32> {
    Some(inode).filter(|inode| *inode != 0)
}

/// The addresses' family, which may be known where an address is not.
const fn family(flow: &Flow) -> &'static str {
    match flow.local.address.is_ipv4() {
        true => "ipv4",
        false => "ipv6",
    }
}

fn endpoint(end: Endpoint) -> impl Value {
    object!({
        "address": Some(end.address).filter(|address| !address.is_unspecified()),
        "port": Some(end.port).filter(|port| *port != 0),
    })
}

/// What a call asked for: an unspecified address is that, and not one that was never seen.
fn asked(asked: SocketAddr) -> impl Value {
    object!({
        "address": asked.ip(),
        "port": asked.port(),
    })
}

fn process(process: &Process) -> impl Value + '_ {
    object!({
        "pid": process.pid,
        "tid": process.tid,
        "comm": process.comm.as_ref().map(Name),
        "name": process.name.as_ref().map(Name),
        "source": process.source.name(),
    })
}

fn container(container: &Container) -> impl Value + '_ {
    object!({
        "id": Text(&container.id),
        "runtime": container.runtime.name(),
        "pod_uid": container.pod_uid.as_deref().map(Text),
    })
}
