//! Rows to test with.

use std::net::IpAddr;

use tracer_common::tcp::{Endpoint, Flow, TcpState};

use super::row::Row;
use crate::attribution::Names;
use crate::record::{
    Close, CloseCause, CloseKind, EntryPrecision, Evidence, FinWait2, FinWait2Exit, Incomplete,
    IncompleteSet, Initiator, Previous, Process, Record, Role, Source, StateVisit, States,
    TimeWait, TimeWaitExit, Traffic,
};
use crate::stream::Name;
use crate::time::{Timestamp, WallOffset};

/// 2026-11-20 23:58:00 UTC as the host has been up for 800 s.
pub(crate) const WALL: WallOffset = WallOffset(1_795_219_080_000_000_000 - 800_000_000_000);
pub(crate) const CGROUP: &str =
    "/system.slice/docker-0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.scope";

/// Milliseconds after that.
pub(crate) const fn at(milliseconds: u64) -> Timestamp {
    Timestamp(800_000_456_789 + milliseconds * 1_000_000)
}

/// A row of which all is known, ended after `milliseconds`.
pub(crate) fn whole(milliseconds: u64) -> Row {
    let mut names = Names::default();
    names.learn(&Name::Cgroup {
        id: 9_007_199_254_740_993,
        path: Some(CGROUP.to_owned()),
    });
    names.learn(&Name::Netns {
        inode: 4_026_531_840,
        name: Some("blue".to_owned()),
    });
    Row::of(&record(milliseconds), WALL, &names)
}

/// A row of which next to nothing is known.
pub(crate) fn blank(milliseconds: u64) -> Row {
    let nowhere = Endpoint {
        address: IpAddr::from([0, 0, 0, 0]),
        port: 0,
    };
    let mut incomplete = IncompleteSet::new();
    incomplete.insert(Incomplete::OpeningNotSeen);
    incomplete.insert(Incomplete::EndNotSeen);
    let record = Record {
        cookie: 0,
        netns: 0,
        netns_cookie: 0,
        flow: Flow {
            local: nowhere,
            peer: nowhere,
        },
        role: Role::Unknown,
        source_port_bound: None,
        opened_at: None,
        established_at: None,
        close_began_at: None,
        closed_at: Some(at(milliseconds)),
        ended_at: None,
        handshake_ns: None,
        syn_retransmits: None,
        states: States::new(),
        close: Close {
            kind: CloseKind::Unknown,
            initiator: Initiator::Unknown,
            cause: None,
            errno: None,
            evidence: Evidence::default(),
        },
        fin_wait2: None,
        time_wait: None,
        previous: None,
        opener: Process::default(),
        closer: Process::default(),
        uid: None,
        cgroup_id: None,
        timestamps: None,
        traffic: None,
        incomplete,
        ..record(milliseconds)
    };
    Row::of(&record, WALL, &Names::default())
}

fn record(milliseconds: u64) -> Record {
    let end = |address: [u8; 4], port| Endpoint {
        address: address.into(),
        port,
    };
    let mut comm = [0; 16];
    comm[..8].copy_from_slice(b"php\xfffpm!");
    let process = Process {
        pid: Some(812),
        tid: Some(813),
        comm: Some(comm),
        name: Some(*b"0123456789abcdef"),
        source: Source::Exact,
    };
    let visit = |state, for_ns| StateVisit {
        state,
        at: at(0),
        for_ns: Some(for_ns),
    };
    Record {
        cookie: u64::MAX,
        generation: 3,
        netns: 4_026_531_840,
        netns_cookie: 1,
        flow: Flow {
            local: end([10, 0, 0, 5], 40_112),
            peer: end([10, 0, 0, 9], 65_535),
        },
        socket_is_v6: true,
        role: Role::Client,
        source_port_bound: Some(false),
        opened_at: Some(at(0)),
        established_at: Some(at(1)),
        close_began_at: Some(at(2)),
        closed_at: Some(at(3)),
        ended_at: Some(at(milliseconds)),
        handshake_ns: Some(324_001),
        syn_retransmits: Some(1),
        states: States::from_iter([
            visit(TcpState::SynSent, 324_001),
            visit(TcpState::Established, 77),
        ]),
        close: Close {
            kind: CloseKind::Active,
            initiator: Initiator::Local,
            cause: Some(CloseCause::Fin),
            errno: Some(104),
            evidence: Evidence {
                words: &["one", "two"],
                half_close: false,
            },
        },
        fin_wait2: Some(FinWait2 {
            began_at: Some(at(4)),
            dwell_ns: Some(158_000_000),
            in_minisocket: true,
            exit: Some(FinWait2Exit::PeerFin),
        }),
        time_wait: Some(TimeWait {
            entered_at: Some(at(5)),
            entered_from: Some(TcpState::FinWait2),
            entry_precision: EntryPrecision::Exact,
            dwell_ns: Some(60_960_000_001),
            nominal_ns: 60_000_000_000,
            refreshes: 2,
            fin_retransmits: None,
            old_duplicates: Some(0),
            exit: Some(TimeWaitExit::Expired),
            late: false,
        }),
        time_wait_skipped: None,
        previous: Some(Previous {
            cookie: 4_098,
            generation: 1,
            gap_ns: 12,
        }),
        opener: process,
        closer: process,
        uid: Some(33),
        cgroup_id: Some(9_007_199_254_740_993),
        timestamps: Some(true),
        traffic: Some(Traffic {
            bytes_sent: 5_000_000_000,
            bytes_received: 2_048,
            segments_sent: 6,
            segments_received: 5,
            retransmits: 0,
            srtt_us: Some(180),
            min_rtt_us: None,
        }),
        incomplete: IncompleteSet::new(),
    }
}
