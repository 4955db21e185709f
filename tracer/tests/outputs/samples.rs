//! Connections as they come out of the engine on a busy host.

use std::net::IpAddr;

use tracer::record::{
    Call, Close, CloseCause, CloseKind, EntryPrecision, Evidence, FinWait2, FinWait2Exit,
    Incomplete, IncompleteSet, Initiator, Previous, Process, Record, Role, Source, StateVisit,
    States, TimeWait, TimeWaitExit, TimeWaitSkipped, Traffic, TransitionRow,
};
use tracer::stream::FailedCall;
use tracer::time::{Timestamp, WallOffset};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

/// 2026-11-20 23:58:00 UTC as the host has been up for 800 s.
pub const WALL: WallOffset = WallOffset(1_795_219_080_000_000_000 - 800_000_000_000);

/// Milliseconds after that.
pub const fn at(milliseconds: u64) -> Timestamp {
    Timestamp(800_000_456_789 + milliseconds * 1_000_000)
}

pub fn flow(local: (&str, u16), peer: (&str, u16)) -> Flow {
    let end = |(address, port): (&str, u16)| Endpoint {
        address: address.parse::<IpAddr>().unwrap(),
        port,
    };
    Flow {
        local: end(local),
        peer: end(peer),
    }
}

pub fn process(name: &[u8], pid: u32, source: Source) -> Process {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name);
    Process {
        pid: Some(pid),
        tid: Some(pid),
        comm: Some(padded),
        name: Some(padded),
        source,
    }
}

pub fn close(kind: CloseKind, initiator: Initiator, cause: CloseCause) -> Close {
    Close {
        kind,
        initiator,
        cause: Some(cause),
        errno: None,
        evidence: Evidence::default(),
    }
}

/// A record of which nothing is known but its addresses, opened at 1.000 s and closed at 1.483 s.
pub fn record(flow: Flow, role: Role, close: Close) -> Record {
    Record {
        cookie: 4099,
        generation: 0,
        netns: 4_026_531_840,
        netns_cookie: 1,
        flow,
        socket_is_v6: false,
        role,
        source_port_bound: None,
        opened_at: Some(at(1_000)),
        established_at: None,
        close_began_at: None,
        closed_at: Some(at(1_483)),
        ended_at: None,
        handshake_ns: None,
        syn_retransmits: None,
        states: States::new(),
        close,
        fin_wait2: None,
        time_wait: None,
        time_wait_skipped: None,
        previous: None,
        opener: Process::default(),
        closer: Process::default(),
        uid: None,
        cgroup_id: None,
        timestamps: Some(true),
        traffic: None,
        incomplete: IncompleteSet::new(),
    }
}

pub fn time_wait(entered: u64) -> TimeWait {
    TimeWait {
        entered_at: Some(at(entered)),
        entered_from: Some(TcpState::FinWait2),
        entry_precision: EntryPrecision::Exact,
        dwell_ns: None,
        nominal_ns: 60_000_000_000,
        refreshes: 0,
        fin_retransmits: Some(0),
        old_duplicates: Some(0),
        exit: None,
        late: false,
    }
}

/// php-fpm closes its connection to the database: verdict while the peer's FIN is awaited, and end.
pub fn active() -> (Record, Record) {
    let visit = |state, from: u64, to: Option<u64>| StateVisit {
        state,
        at: at(from),
        for_ns: to.map(|to| (to - from) * 1_000_000),
    };
    let php = process(b"php-fpm", 812, Source::Exact);
    let mut verdict = record(
        flow(("10.0.0.5", 40112), ("10.0.0.9", 3306)),
        Role::Client,
        Close {
            evidence: Evidence {
                words: &["a minisocket was made for the same socket just before"],
                half_close: false,
            },
            ..close(CloseKind::Active, Initiator::Local, CloseCause::Fin)
        },
    );
    verdict.source_port_bound = Some(false);
    verdict.established_at = Some(at(1_001));
    verdict.close_began_at = Some(at(1_440));
    verdict.handshake_ns = Some(324_000);
    verdict.syn_retransmits = Some(0);
    verdict.opener = php;
    verdict.closer = php;
    verdict.uid = Some(33);
    verdict.cgroup_id = Some(9_007_199_254_740_993);
    verdict.traffic = Some(Traffic {
        bytes_sent: 512,
        bytes_received: 2_048,
        segments_sent: 6,
        segments_received: 5,
        retransmits: 0,
        srtt_us: Some(180),
        min_rtt_us: None,
    });
    verdict.states = States::from_iter([
        visit(TcpState::SynSent, 1_000, Some(1_001)),
        visit(TcpState::Established, 1_001, Some(1_440)),
        visit(TcpState::FinWait1, 1_440, Some(1_483)),
        visit(TcpState::FinWait2, 1_483, None),
    ]);
    verdict.fin_wait2 = Some(FinWait2 {
        began_at: Some(at(1_483)),
        dwell_ns: None,
        in_minisocket: true,
        exit: None,
    });

    let mut end = verdict.clone();
    end.ended_at = Some(at(62_601));
    end.states[3] = visit(TcpState::FinWait2, 1_483, Some(1_641));
    end.states
        .push(visit(TcpState::TimeWait, 1_641, Some(62_601)));
    end.fin_wait2 = Some(FinWait2 {
        began_at: Some(at(1_483)),
        dwell_ns: Some(158_000_000),
        in_minisocket: true,
        exit: Some(FinWait2Exit::PeerFin),
    });
    end.time_wait = Some(TimeWait {
        dwell_ns: Some(60_960_000_000),
        refreshes: 2,
        fin_retransmits: Some(1),
        exit: Some(TimeWaitExit::Expired),
        ..time_wait(1_641)
    });
    (verdict, end)
}

/// Its tuple taken over by connect(), over IPv6, and linked to the one before.
pub fn reused() -> (Record, Record) {
    let mut verdict = record(
        flow(
            ("2001:db8:85a3::8a2e:370:7334", 51_234),
            ("2001:db8:85a3:1:2:3:4:5", 443),
        ),
        Role::Client,
        close(CloseKind::Simultaneous, Initiator::Both, CloseCause::Fin),
    );
    verdict.cookie = u64::MAX;
    verdict.generation = 3;
    verdict.socket_is_v6 = true;
    verdict.opener = process(b"prometheus", 1_234_567, Source::Exact);
    verdict.time_wait = Some(TimeWait {
        entered_from: Some(TcpState::Closing),
        ..time_wait(1_483)
    });
    verdict.previous = Some(Previous {
        cookie: 77,
        generation: 0,
        gap_ns: 1_100_000,
    });

    let mut end = verdict.clone();
    end.ended_at = Some(at(2_583));
    end.time_wait = Some(TimeWait {
        entered_from: Some(TcpState::Closing),
        entry_precision: EntryPrecision::LastRefresh,
        dwell_ns: Some(1_100_000_000),
        exit: Some(TimeWaitExit::ReusedByConnect),
        fin_retransmits: None,
        old_duplicates: None,
        ..time_wait(1_483)
    });
    (verdict, end)
}

/// FIN_WAIT2 in a minisocket that the peer never ended.
pub fn fin_wait2_timed_out() -> Record {
    let mut record = record(
        flow(("10.0.0.5", 8080), ("172.31.200.117", 52_001)),
        Role::Server,
        close(CloseKind::Active, Initiator::Local, CloseCause::Fin),
    );
    record.closer = process(b"node", 4_120, Source::Exact);
    record.fin_wait2 = Some(FinWait2 {
        began_at: Some(at(1_483)),
        dwell_ns: Some(60_200_000_000),
        in_minisocket: true,
        exit: Some(FinWait2Exit::TimedOut),
    });
    record.ended_at = Some(at(61_683));
    record
}

/// A connect() that found no port: nothing is known of the local end but its address.
pub fn no_port() -> Record {
    let mut record = record(
        flow(("10.0.0.5", 0), ("10.0.0.9", 3306)),
        Role::Client,
        close(
            CloseKind::ConnectFailed,
            Initiator::Local,
            CloseCause::NoPort,
        ),
    );
    record.closed_at = Some(at(1_000));
    record.opener = process(b"php-fpm", 814, Source::Exact);
    record
}

/// One that was open before us, of a process that would like to own the terminal.
pub fn evil() -> Record {
    let mut record = record(
        flow(("0.0.0.0", 0), ("10.0.0.66", 31_337)),
        Role::Unknown,
        Close {
            kind: CloseKind::Unknown,
            initiator: Initiator::Unknown,
            cause: None,
            errno: Some(999),
            evidence: Evidence::default(),
        },
    );
    record.cookie = 0;
    record.opened_at = None;
    record.opener = process(b"\x1b[31m\"<b>\xff", 666, Source::Inferred);
    record.incomplete =
        IncompleteSet::from_iter([Incomplete::OpeningNotSeen, Incomplete::TransitionLost]);
    record
}

/// One verdict of each kind that holds no tuple.
pub fn verdicts() -> Vec<Record> {
    use CloseCause as Cause;
    use CloseKind as Kind;

    let nginx = process(b"nginx", 2_731, Source::Inherited);
    let local = ("10.0.0.5", 443);
    let server = |peer: (&str, u16), close: Close| Record {
        opener: nginx,
        ..record(flow(local, peer), Role::Server, close)
    };
    let client = |peer: (&str, u16), close: Close| Record {
        opener: process(b"curl", 40_001, Source::Exact),
        ..record(flow(("192.168.100.200", 60_112), peer), Role::Client, close)
    };
    let mut listener = record(
        flow(("0.0.0.0", 8080), ("0.0.0.0", 0)),
        Role::Listener,
        Close {
            cause: None,
            ..close(Kind::ListenerClosed, Initiator::Local, Cause::Fin)
        },
    );
    listener.opened_at = Some(Timestamp(1));
    listener.closer = nginx;
    let mut overflow = server(
        ("10.0.4.17", 40_004),
        close(Kind::Active, Initiator::Local, Cause::Fin),
    );
    overflow.time_wait_skipped = Some(TimeWaitSkipped::Overflow);
    let mut slow = client(
        ("203.0.113.7", 443),
        Close {
            errno: Some(110),
            ..close(Kind::TimedOut, Initiator::None, Cause::Retransmission)
        },
    );
    slow.closed_at = Some(at(1_000 + 924_600));
    vec![
        server(
            ("10.0.4.17", 40_001),
            close(Kind::Passive, Initiator::Peer, Cause::Fin),
        ),
        server(
            ("10.0.4.17", 40_002),
            Close {
                errno: Some(104),
                ..close(Kind::ResetReceived, Initiator::Peer, Cause::PeerReset)
            },
        ),
        server(
            ("10.0.4.17", 40_003),
            close(Kind::ResetSent, Initiator::Local, Cause::UnreadData),
        ),
        overflow,
        client(
            ("127.0.0.1", 9),
            Close {
                errno: Some(111),
                ..close(Kind::ConnectFailed, Initiator::Peer, Cause::Refused)
            },
        ),
        client(
            ("203.0.113.7", 443),
            Close {
                errno: Some(113),
                ..close(Kind::ConnectFailed, Initiator::None, Cause::Unreachable)
            },
        ),
        slow,
        server(
            ("10.0.4.18", 40_005),
            close(Kind::Aborted, Initiator::Local, Cause::HandshakeAborted),
        ),
        listener,
    ]
}

/// The state changes of [`active`], and one of which little is known.
pub fn transitions() -> Vec<TransitionRow> {
    let row = |milliseconds, from, to, for_ns, process| TransitionRow {
        cookie: 4099,
        generation: 0,
        at: at(milliseconds),
        netns: 4_026_531_840,
        netns_cookie: 1,
        flow: flow(("10.0.0.5", 40112), ("10.0.0.9", 3306)),
        from,
        to,
        for_ns,
        process,
        cgroup_id: None,
    };
    let php = process(b"php-fpm", 812, Source::Exact);
    let nobody = Process::default();
    let mut opening = row(1_000, TcpState::Close, TcpState::SynSent, None, php);
    opening.flow = flow(("10.0.0.5", 0), ("10.0.0.9", 3306));
    let mut v6 = row(
        1_500,
        TcpState::SynRecv,
        TcpState::Established,
        Some(1_000),
        nobody,
    );
    v6.flow = flow(
        ("2001:db8:85a3:1000:2000:8a2e:370:7334", 443),
        ("2001:db8::1", 51_234),
    );
    vec![
        opening,
        row(
            1_001,
            TcpState::SynSent,
            TcpState::Established,
            Some(324_000),
            nobody,
        ),
        row(
            1_440,
            TcpState::Established,
            TcpState::FinWait1,
            Some(439_000_000),
            php,
        ),
        row(
            1_483,
            TcpState::FinWait1,
            TcpState::FinWait2,
            Some(42_716_000),
            nobody,
        ),
        v6,
        row(
            1_641,
            TcpState::FinWait2,
            TcpState::TimeWait,
            Some(158_000_000),
            nobody,
        ),
        row(
            62_601,
            TcpState::TimeWait,
            TcpState::Close,
            Some(60_960_000_000),
            nobody,
        ),
    ]
}

/// A connect() that found no route, php-fpm's.
pub fn failed_connect() -> Call {
    let process = process(b"php-fpm", 812, Source::Exact);
    Call {
        at: at(1_000),
        netns: 4_026_531_840,
        netns_cookie: 1,
        flow: flow(("0.0.0.0", 0), ("0.0.0.0", 0)),
        failed: FailedCall {
            call: tracer::stream::Call::Connect,
            errno: 101,
            address: Some("10.9.0.9:3306".parse().unwrap()),
            state: Some(TcpState::Close),
            pid: 812,
            tid: 813,
            comm: process.comm.unwrap(),
            name: process.name.unwrap(),
        },
        has_record: false,
    }
}
