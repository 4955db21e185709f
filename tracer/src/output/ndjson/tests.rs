//! The rows are written byte for byte as serde_json writes the same fields.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use serde::Serialize;
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use super::object::Value;
use super::views::{CallView, RecordView, TransitionView};
use super::*;
use crate::record::{
    Close, CloseCause, CloseKind, EntryPrecision, Evidence, FinWait2, FinWait2Exit, Incomplete,
    Initiator, MOST_STATES, Previous, Process, Role, Source, StateVisit, States, TimeWait,
    TimeWaitExit, TimeWaitSkipped, Traffic,
};
use crate::stream;

const ROUNDS: usize = 4_000;

fn assert_same(line: &mut Line, row: impl Value, wall: WallOffset, view: &impl Serialize) {
    let expected = format!("{}\n", serde_json::to_string(view).expect("a view"));
    assert_eq!(String::from_utf8_lossy(line.of(row, wall)), expected);
}

#[test]
fn rows_of_records_are_as_serde_has_them() {
    let mut any = Any(Rng::with_seed(1));
    let (mut line, names) = (Line::default(), names());
    for _ in 0..ROUNDS {
        let (record, wall) = (any.record(), any.wall());
        let about = any.option(Any::moment);
        let view = RecordView::new("end", &record, about, wall, &names);
        let row = rows::record("end", &record, record.ended_at, about, &names);
        assert_same(&mut line, row, wall, &view);
    }
}

#[test]
fn a_close_that_frees_its_tuple_at_once_has_the_lines_of_both() {
    let mut any = Any(Rng::with_seed(3));
    let mut json = Ndjson::new(false);
    json.names = names();
    for _ in 0..ROUNDS {
        let (mut record, wall) = (any.record(), any.wall());
        // Where its minisocket is hidden, the tuple's end is not known.
        if any.0.bool() {
            record.ended_at = record.closed_at;
        }
        let (mut both, mut over) = (BytesMut::new(), BytesMut::new());
        let verdict = Record {
            ended_at: None,
            ..record.clone()
        };
        json.close(&verdict, wall, &mut both);
        json.end(&record, wall, &mut both);
        json.over(&record, wall, &mut over);
        assert_eq!(
            String::from_utf8_lossy(&over),
            String::from_utf8_lossy(&both)
        );
    }
}

#[test]
fn rows_of_transitions_and_calls_are_as_serde_has_them() {
    let mut any = Any(Rng::with_seed(2));
    let mut line = Line::default();
    for _ in 0..ROUNDS {
        let wall = any.wall();
        let row = any.transition();
        let view = TransitionView::new(&row, wall);
        assert_same(&mut line, rows::transition(&row), wall, &view);
        let call = any.call();
        let view = CallView::new(&call, wall);
        assert_same(&mut line, rows::call(&call), wall, &view);
    }
}

/// Some groups by the numbers 1 to 4, and processes by the same.
fn names() -> Names {
    let paths = [
        "/".to_owned(),
        "/system.slice/nginx.service".to_owned(),
        format!("/kubepods/pod{}/{}", "0a".repeat(16), "0b".repeat(32)),
        "/user.slice/\"quoted\\\u{1b}é\n.slice".to_owned(),
        "/lxc/na\"me".to_owned(),
    ];
    let mut names = Names::default();
    for (number, path) in (1..).zip(paths) {
        names.learn(&Name::Cgroup {
            id: number,
            path: Some(path.clone()),
        });
        let pid = 1 + (number % 5) as u32;
        names.learn(&Name::CgroupOfProcess { pid, path });
    }
    for (inode, name) in [(1, None), (2, Some("blue")), (3, Some("\"\u{7}\\"))] {
        let name = name.map(str::to_owned);
        names.learn(&Name::Netns { inode, name });
    }
    names
}

/// Whatever can stand in a row, likely or not.
struct Any(Rng);

impl Any {
    fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.0.bool().then(|| value(self))
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())]
    }

    /// Small numbers and large ones.
    fn number(&mut self) -> u64 {
        let bits = self.0.u32(..64);
        self.0.u64(..) >> bits
    }

    fn u32(&mut self) -> u32 {
        self.number() as u32
    }

    fn moment(&mut self) -> Timestamp {
        match self.0.u8(..8) {
            0 => Timestamp(self.number()),
            _ => Timestamp(800_000_000_000 + self.0.u64(..90_000_000_000)),
        }
    }

    fn wall(&mut self) -> WallOffset {
        match self.0.u8(..8) {
            0 => WallOffset(self.0.i64(..)),
            1 => WallOffset(-800_000_000_000),
            _ => WallOffset(1_795_219_080_000_000_000 - 800_000_000_000),
        }
    }

    fn address(&mut self) -> IpAddr {
        match self.0.u8(..6) {
            0 => Ipv4Addr::UNSPECIFIED.into(),
            1 => Ipv6Addr::UNSPECIFIED.into(),
            2 => Ipv4Addr::from(self.0.u32(..)).to_ipv6_mapped().into(),
            3 => {
                let zeros = self.0.u8(..);
                let segments = std::array::from_fn(|index| match zeros >> index & 1 {
                    0 => self.u32() as u16,
                    _ => 0,
                });
                Ipv6Addr::from(segments).into()
            }
            _ => Ipv4Addr::from(self.0.u32(..)).into(),
        }
    }

    fn end(&mut self) -> Endpoint {
        Endpoint {
            address: self.address(),
            port: self.u32() as u16,
        }
    }

    fn flow(&mut self) -> Flow {
        Flow {
            local: self.end(),
            peer: self.end(),
        }
    }

    fn name(&mut self) -> [u8; 16] {
        match self.0.u8(..8) {
            0 => std::array::from_fn(|_| self.0.u8(..)),
            1 => *b"\x1b[31m\"<b>\\\xff\xc3\xa9\0xx",
            2 => [b'x'; 16],
            3 => [0; 16],
            4 => *b"tab\t\x7f\xc3\0after it\0",
            _ => *b"php-fpm: pool w\0",
        }
    }

    fn process(&mut self) -> Process {
        Process {
            pid: self.option(|any| any.0.u32(..8)),
            tid: self.option(Self::u32),
            comm: self.option(Self::name),
            name: self.option(Self::name),
            source: self.one(&Source::ALL),
        }
    }

    fn state(&mut self) -> TcpState {
        self.one(&TcpState::ALL)
    }

    fn close(&mut self) -> Close {
        const WORDS: [&str; 3] = ["the peer's FIN came", "a \"quoted\" word", "back\\slash"];

        Close {
            kind: self.one(&CloseKind::ALL),
            initiator: self.one(&Initiator::ALL),
            cause: self.option(|any| any.one(&CloseCause::ALL)),
            errno: self.option(|any| any.0.u16(..140)),
            evidence: Evidence {
                words: &WORDS[..self.0.usize(..=WORDS.len())],
                half_close: self.0.bool(),
            },
        }
    }

    fn record(&mut self) -> Record {
        Record {
            cookie: self.number(),
            generation: self.u32(),
            netns: self.0.u32(..5),
            netns_cookie: self.number(),
            flow: self.flow(),
            socket_is_v6: self.0.bool(),
            role: self.one(&Role::ALL),
            source_port_bound: self.option(|any| any.0.bool()),
            opened_at: self.option(Self::moment),
            established_at: self.option(Self::moment),
            close_began_at: self.option(Self::moment),
            closed_at: self.option(Self::moment),
            ended_at: self.option(Self::moment),
            handshake_ns: self.option(Self::number),
            syn_retransmits: self.option(|any| any.0.u8(..)),
            states: self.states(),
            close: self.close(),
            fin_wait2: self.option(|any| FinWait2 {
                began_at: any.option(Self::moment),
                dwell_ns: any.option(Self::number),
                in_minisocket: any.0.bool(),
                exit: any.option(|any| any.one(&FinWait2Exit::ALL)),
            }),
            time_wait: self.option(|any| TimeWait {
                entered_at: any.option(Self::moment),
                entered_from: any.option(Self::state),
                entry_precision: any.one(&EntryPrecision::ALL),
                dwell_ns: any.option(Self::number),
                nominal_ns: any.number(),
                refreshes: any.u32(),
                fin_retransmits: any.option(Self::u32),
                old_duplicates: any.option(Self::u32),
                exit: any.option(|any| any.one(&TimeWaitExit::ALL)),
                late: any.0.bool(),
            }),
            time_wait_skipped: self.option(|_| TimeWaitSkipped::Overflow),
            previous: self.option(|any| Previous {
                cookie: any.number(),
                generation: any.u32(),
                gap_ns: any.number(),
            }),
            opener: self.process(),
            closer: self.process(),
            uid: self.option(Self::u32),
            cgroup_id: self.option(|any| any.0.u64(..8)),
            timestamps: self.option(|any| any.0.bool()),
            traffic: self.option(|any| Traffic {
                bytes_sent: any.number(),
                bytes_received: any.number(),
                segments_sent: any.u32(),
                segments_received: any.u32(),
                retransmits: any.u32(),
                srtt_us: any.option(Self::u32),
                min_rtt_us: any.option(Self::u32),
            }),
            incomplete: Incomplete::ALL
                .into_iter()
                .filter(|_| self.0.bool())
                .collect(),
        }
    }

    fn states(&mut self) -> States {
        (0..self.0.usize(..=MOST_STATES))
            .map(|_| StateVisit {
                state: self.state(),
                at: self.moment(),
                for_ns: self.option(Self::number),
            })
            .collect()
    }

    fn transition(&mut self) -> TransitionRow {
        TransitionRow {
            cookie: self.number(),
            generation: self.u32(),
            at: self.moment(),
            netns: self.0.u32(..5),
            netns_cookie: self.number(),
            flow: self.flow(),
            from: self.state(),
            to: self.state(),
            for_ns: self.option(Self::number),
            process: self.process(),
            cgroup_id: self.option(Self::number),
        }
    }

    fn call(&mut self) -> Call {
        use stream::Call::{Accept, Bind, Connect, Socket};

        Call {
            at: self.moment(),
            netns: self.0.u32(..5),
            netns_cookie: self.number(),
            flow: self.flow(),
            failed: stream::FailedCall {
                call: self.one(&[Connect, Bind, Socket, Accept]),
                errno: self.0.u16(..140),
                address: self.option(|any| SocketAddr::new(any.address(), any.u32() as u16)),
                state: self.option(Self::state),
                pid: self.u32(),
                tid: self.u32(),
                comm: self.name(),
                name: self.name(),
            },
            has_record: self.0.bool(),
        }
    }
}
