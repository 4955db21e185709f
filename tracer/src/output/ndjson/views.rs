//! The rows as serde writes them: what they were made of before, and are compared with.

use std::net::{IpAddr, SocketAddr};

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use tracer_common::tcp::{Flow, TcpState};

use crate::attribution::{Group, Names};
use crate::output::errno;
use crate::output::json::{ContainerView, EndpointView, Id, Moment, Name};
use crate::record::{
    Call, Close, Evidence, FinWait2, Previous, Process, Record, StateVisit, TimeWait, Traffic,
    TransitionRow,
};
use crate::time::{Timestamp, WallOffset};

/// A symbolic errno.
struct Errno(u16);

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match errno::name(self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&format_args!("E{}", self.0)),
        }
    }
}

/// The addresses' family, which may be known where an address is not.
const fn family(flow: &Flow) -> &'static str {
    match flow.local.address.is_ipv4() {
        true => "ipv4",
        false => "ipv6",
    }
}

/// A state change.
#[derive(Serialize)]
pub(super) struct TransitionView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: Id,
    generation: u32,
    at: Moment,
    monotonic_ns: u64,
    netns: Option<u32>,
    netns_cookie: Id,
    family: &'static str,
    local: EndpointView,
    peer: EndpointView,
    from: &'static str,
    to: &'static str,
    for_ns: Option<u64>,
    process: ProcessView<'a>,
}

impl<'a> TransitionView<'a> {
    pub fn new(row: &'a TransitionRow, wall: WallOffset) -> Self {
        Self {
            kind: "transition",
            id: Id(row.cookie),
            generation: row.generation,
            at: Moment(row.at, wall),
            monotonic_ns: row.at.0,
            netns: (row.netns != 0).then_some(row.netns),
            netns_cookie: Id(row.netns_cookie),
            family: family(&row.flow),
            local: row.flow.local.into(),
            peer: row.flow.peer.into(),
            from: row.from.name(),
            to: row.to.name(),
            for_ns: row.for_ns,
            process: (&row.process).into(),
        }
    }
}

/// A system call that failed.
#[derive(Serialize)]
pub(super) struct CallView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    at: Moment,
    monotonic_ns: u64,
    call: &'static str,
    errno: Errno,
    address: Option<AskedView>,
    state: Option<&'static str>,
    netns: Option<u32>,
    netns_cookie: Id,
    local: EndpointView,
    peer: EndpointView,
    pid: u32,
    tid: u32,
    comm: Name<'a>,
    name: Name<'a>,
    has_record: bool,
}

impl<'a> CallView<'a> {
    pub fn new(call: &'a Call, wall: WallOffset) -> Self {
        let failed = &call.failed;
        Self {
            kind: "call",
            at: Moment(call.at, wall),
            monotonic_ns: call.at.0,
            call: failed.call.name(),
            errno: Errno(failed.errno),
            address: failed.address.map(AskedView::from),
            state: failed.state.map(TcpState::name),
            netns: (call.netns != 0).then_some(call.netns),
            netns_cookie: Id(call.netns_cookie),
            local: call.flow.local.into(),
            peer: call.flow.peer.into(),
            pid: failed.pid,
            tid: failed.tid,
            comm: Name(&failed.comm),
            name: Name(&failed.name),
            has_record: call.has_record,
        }
    }
}

/// What a call asked for: an unspecified address is that, and not one that was never seen.
#[derive(Serialize)]
struct AskedView {
    address: IpAddr,
    port: u16,
}

impl From<SocketAddr> for AskedView {
    fn from(asked: SocketAddr) -> Self {
        Self {
            address: asked.ip(),
            port: asked.port(),
        }
    }
}

/// A record, at its verdict or at its end.
#[derive(Serialize)]
pub(super) struct RecordView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: Id,
    generation: u32,
    netns: Option<u32>,
    netns_cookie: Id,
    netns_name: Option<&'a str>,
    family: &'static str,
    socket_family: &'static str,
    local: EndpointView,
    peer: EndpointView,
    role: &'static str,
    source_port_bound: Option<bool>,
    opened_at: Option<Moment>,
    established_at: Option<Moment>,
    close_began_at: Option<Moment>,
    closed_at: Option<Moment>,
    ended_at: Option<Moment>,
    monotonic_ns: Option<u64>,
    handshake_ns: Option<u64>,
    syn_retransmits: Option<u8>,
    states: States<'a>,
    close: CloseView,
    fin_wait2: Option<FinWait2View>,
    time_wait: Option<TimeWaitView>,
    time_wait_skipped: Option<&'static str>,
    previous: Option<PreviousView>,
    process: Processes<'a>,
    uid: Option<u32>,
    cgroup: Option<&'a str>,
    cgroup_source: &'static str,
    cgroup_id: Option<Id>,
    unit: Option<&'a str>,
    container: Option<ContainerView<'a>>,
    timestamps: Option<bool>,
    traffic: Option<TrafficView>,
    complete: bool,
    incomplete_reasons: Reasons<'a>,
}

impl<'a> RecordView<'a> {
    /// `about` is the time of the event that the line is about.
    pub fn new(
        kind: &'static str,
        record: &'a Record,
        about: Option<Timestamp>,
        wall: WallOffset,
        names: &'a Names,
    ) -> Self {
        let moment = |at: Option<Timestamp>| at.map(|at| Moment(at, wall));
        let group = names.group_of(record);
        Self {
            kind,
            id: Id(record.cookie),
            generation: record.generation,
            netns: (record.netns != 0).then_some(record.netns),
            netns_cookie: Id(record.netns_cookie),
            netns_name: names.netns(record.netns),
            family: family(&record.flow),
            socket_family: if record.socket_is_v6 { "ipv6" } else { "ipv4" },
            local: record.flow.local.into(),
            peer: record.flow.peer.into(),
            role: record.role.name(),
            source_port_bound: record.source_port_bound,
            opened_at: moment(record.opened_at),
            established_at: moment(record.established_at),
            close_began_at: moment(record.close_began_at),
            closed_at: moment(record.closed_at),
            ended_at: moment(record.ended_at),
            monotonic_ns: about.map(|at| at.0),
            handshake_ns: record.handshake_ns,
            syn_retransmits: record.syn_retransmits,
            states: States(&record.states, wall),
            close: (&record.close).into(),
            fin_wait2: record.fin_wait2.map(|wait| FinWait2View::new(wait, wall)),
            time_wait: record.time_wait.map(|wait| TimeWaitView::new(wait, wall)),
            time_wait_skipped: record.time_wait_skipped.map(|reason| reason.name()),
            previous: record.previous.map(PreviousView::from),
            process: Processes {
                opener: (&record.opener).into(),
                closer: (&record.closer).into(),
            },
            uid: record.uid,
            cgroup: group.map(|group| &*group.path),
            cgroup_source: names.group_and_source(record).1.name(),
            cgroup_id: record.cgroup_id.map(Id),
            unit: group.and_then(Group::unit),
            container: group
                .and_then(|group| group.container.as_ref())
                .map(ContainerView::from),
            timestamps: record.timestamps,
            traffic: record.traffic.map(TrafficView::from),
            complete: record.incomplete.is_empty(),
            incomplete_reasons: Reasons(record),
        }
    }
}

struct States<'a>(&'a [StateVisit], WallOffset);

impl Serialize for States<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct VisitView {
            state: &'static str,
            at: Moment,
            for_ns: Option<u64>,
        }

        let mut visits = serializer.serialize_seq(Some(self.0.len()))?;
        for visit in self.0 {
            visits.serialize_element(&VisitView {
                state: visit.state.name(),
                at: Moment(visit.at, self.1),
                for_ns: visit.for_ns,
            })?;
        }
        visits.end()
    }
}

struct Reasons<'a>(&'a Record);

impl Serialize for Reasons<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.incomplete.iter().map(|reason| reason.name()))
    }
}

#[derive(Serialize)]
struct CloseView {
    kind: &'static str,
    initiator: &'static str,
    cause: Option<&'static str>,
    errno: Option<Errno>,
    evidence: Sentences,
}

impl From<&Close> for CloseView {
    fn from(close: &Close) -> Self {
        Self {
            kind: close.kind.name(),
            initiator: close.initiator.name(),
            cause: close.cause.map(|cause| cause.name()),
            errno: close.errno.filter(|errno| *errno != 0).map(Errno),
            evidence: Sentences(close.evidence),
        }
    }
}

struct Sentences(Evidence);

impl Serialize for Sentences {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}

#[derive(Serialize)]
struct FinWait2View {
    began_at: Option<Moment>,
    dwell_ns: Option<u64>,
    in_minisocket: bool,
    exit: Option<&'static str>,
}

impl FinWait2View {
    fn new(wait: FinWait2, wall: WallOffset) -> Self {
        Self {
            began_at: wait.began_at.map(|at| Moment(at, wall)),
            dwell_ns: wait.dwell_ns,
            in_minisocket: wait.in_minisocket,
            exit: wait.exit.map(|exit| exit.name()),
        }
    }
}

#[derive(Serialize)]
struct TimeWaitView {
    entered_at: Option<Moment>,
    entered_from: Option<&'static str>,
    entry_precision: &'static str,
    dwell_ns: Option<u64>,
    nominal_ns: u64,
    refreshes: u32,
    fin_retransmits: Option<u32>,
    old_duplicates: Option<u32>,
    exit: Option<&'static str>,
    late: bool,
}

impl TimeWaitView {
    fn new(wait: TimeWait, wall: WallOffset) -> Self {
        Self {
            entered_at: wait.entered_at.map(|at| Moment(at, wall)),
            entered_from: wait.entered_from.map(|state| state.name()),
            entry_precision: wait.entry_precision.name(),
            dwell_ns: wait.dwell_ns,
            nominal_ns: wait.nominal_ns,
            refreshes: wait.refreshes,
            fin_retransmits: wait.fin_retransmits,
            old_duplicates: wait.old_duplicates,
            exit: wait.exit.map(|exit| exit.name()),
            late: wait.late,
        }
    }
}

#[derive(Serialize)]
struct PreviousView {
    id: Id,
    generation: u32,
    gap_ns: u64,
}

impl From<Previous> for PreviousView {
    fn from(previous: Previous) -> Self {
        Self {
            id: Id(previous.cookie),
            generation: previous.generation,
            gap_ns: previous.gap_ns,
        }
    }
}

#[derive(Serialize)]
struct Processes<'a> {
    opener: ProcessView<'a>,
    closer: ProcessView<'a>,
}

#[derive(Serialize)]
struct ProcessView<'a> {
    pid: Option<u32>,
    tid: Option<u32>,
    comm: Option<Name<'a>>,
    name: Option<Name<'a>>,
    source: &'static str,
}

impl<'a> From<&'a Process> for ProcessView<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            pid: process.pid,
            tid: process.tid,
            comm: process.comm.as_ref().map(Name),
            name: process.name.as_ref().map(Name),
            source: process.source.name(),
        }
    }
}

#[derive(Serialize)]
struct TrafficView {
    bytes_sent: u64,
    bytes_received: u64,
    segments_sent: u32,
    segments_received: u32,
    retransmits: u32,
    srtt_us: Option<u32>,
    min_rtt_us: Option<u32>,
}

impl From<Traffic> for TrafficView {
    fn from(traffic: Traffic) -> Self {
        Self {
            bytes_sent: traffic.bytes_sent,
            bytes_received: traffic.bytes_received,
            segments_sent: traffic.segments_sent,
            segments_received: traffic.segments_received,
            retransmits: traffic.retransmits,
            srtt_us: traffic.srtt_us,
            min_rtt_us: traffic.min_rtt_us,
        }
    }
}
