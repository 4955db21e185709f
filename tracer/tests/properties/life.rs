//! Legal lives of sockets: what the kernel may show of one, and of several at once.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use tracer::stream::{Body, Event, Minisocket, Socket, Task};
use tracer::time::Timestamp;
use tracer_common::event::{CloseFacts, marks};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use crate::{HZ, SECOND};

pub fn flow(local: u16, peer: u16) -> Flow {
    let end = |port| Endpoint {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
    };
    Flow {
        local: end(local),
        peer: end(peer),
    }
}

pub fn shown(substate: TcpState, at: u64, set: u64) -> Minisocket {
    Minisocket {
        substate,
        expires: set * HZ / SECOND + 60 * HZ,
        jiffies: at * HZ / SECOND,
        entry_stamp_ms: 0,
        tid: 0,
    }
}

/// One legal life: the steps of one socket (and of the next with its tuple), stamped.
struct Life {
    events: Vec<Event>,
    socket: Socket,
    cpu: u16,
    at: u64,
}

impl Life {
    fn new(number: u16, start: u64) -> Self {
        Self {
            events: Vec::new(),
            socket: Socket {
                address: 0x1000 + u64::from(number) * 16,
                cookie: 100 + u64::from(number) * 2,
                flow: flow(4000 + number, 80),
            },
            // Sequence numbers are a processor's: each life has one of its own.
            cpu: number,
            at: start,
        }
    }

    fn push(&mut self, after: u64, body: Body) {
        self.at += after;
        let seq = self.events.len() as u32;
        self.events.push(Event {
            at: Timestamp(self.at),
            cpu: self.cpu,
            seq,
            flags: 0,
            netns: 1,
            netns_cookie: 1,
            socket: self.socket,
            body,
        });
    }

    fn step(&mut self, after: u64, from: TcpState, to: TcpState) {
        let detail = 0;
        self.push(after, Body::Transition { from, to, detail });
    }

    fn close(&mut self, after: u64, from: TcpState, facts: CloseFacts) {
        self.push(after, Body::Close { from, facts });
    }

    fn open(&mut self, server: bool) {
        if server {
            let truth = self.socket;
            // The listener's, as the kernel has it there; all children share it.
            self.socket.cookie = 7;
            self.socket.flow = flow(80, 0);
            self.step(0, TcpState::Listen, TcpState::SynRecv);
            self.socket = truth;
            self.step(1_000, TcpState::SynRecv, TcpState::Established);
        } else {
            let port = std::mem::take(&mut self.socket.flow.local.port);
            self.step(0, TcpState::Close, TcpState::SynSent);
            self.push(
                500,
                Body::Task(Task {
                    pid: 5,
                    tid: u32::from(self.cpu),
                    uid: 0,
                    cgroup: 0,
                    from: TcpState::Close,
                    to: TcpState::SynSent,
                    comm: [b'x'; 16],
                    name: [b'x'; 16],
                }),
            );
            self.socket.flow.local.port = port;
            self.step(200_000, TcpState::SynSent, TcpState::Established);
        }
    }

    fn minisocket(&mut self, substate: TcpState, end: u8, wait: u64) {
        let full = self.socket;
        let set = self.at + 1_000;
        let first = shown(substate, set, set);
        self.socket.address += 1;
        self.push(1_000, Body::TimerStart(first));
        self.socket = full;
        let facts = CloseFacts {
            marks: marks::DEAD | marks::ALL_ACKED,
            shutdown: 3,
            segs_in: 9,
            ..CloseFacts::default()
        };
        self.close(1_000, TcpState::FinWait2, facts);
        self.socket.address += 1;
        match end {
            0 => {
                let at = set + 61 * SECOND + wait;
                let last = shown(substate, at, set);
                self.push(at - self.at, Body::TimerCancel(last));
                self.push(2_000, Body::TimerExpire(last));
            }
            1 => {
                let at = set + wait;
                let last = shown(substate, at, set);
                self.push(at - self.at, Body::TimerCancel(last));
                let tcp_flags = 4;
                let payload = 0;
                let minisocket = last;
                self.push(
                    2_000,
                    Body::Segment {
                        minisocket,
                        tcp_flags,
                        payload,
                    },
                );
            }
            2 => {
                let at = set + wait;
                let flipped = shown(TcpState::TimeWait, at, at);
                self.push(at - self.at, Body::TimerCancel(shown(substate, at, set)));
                self.push(1_000, Body::TimerStart(flipped));
                let end = at + 60 * SECOND;
                let last = shown(TcpState::TimeWait, end, at);
                self.push(end - self.at, Body::TimerCancel(last));
                self.push(2_000, Body::TimerExpire(last));
            }
            _ => {
                // connect() of the same thread takes the tuple.
                let mut next = full;
                next.cookie += 1;
                next.address += 8;
                self.socket = next;
                self.at += wait;
                let port = std::mem::take(&mut self.socket.flow.local.port);
                self.step(0, TcpState::Close, TcpState::SynSent);
                self.socket = full;
                self.socket.address += 1;
                let last = shown(substate, self.at, set);
                self.push(5_000, Body::TimerCancel(last));
                self.socket = next;
                self.socket.flow.local.port = port;
                self.step(50_000, TcpState::SynSent, TcpState::Established);
                self.reset();
            }
        }
    }

    fn reset(&mut self) {
        self.push(SECOND, Body::ResetReceived { state: 1 });
        let facts = CloseFacts {
            error: libc::ECONNRESET as u16,
            ..CloseFacts::default()
        };
        self.close(1_000, TcpState::Established, facts);
    }
}

pub fn life(number: u16, (start, server, way, end, wait): (u64, bool, u8, u8, u64)) -> Vec<Event> {
    use TcpState::{CloseWait, Established, FinWait1, FinWait2, LastAck, TimeWait};
    let mut life = Life::new(number, start);
    life.open(server);
    match way {
        0 => life.reset(),
        1 => {
            life.step(SECOND, Established, CloseWait);
            life.step(SECOND, CloseWait, LastAck);
            let facts = CloseFacts {
                marks: marks::DEAD | marks::ALL_ACKED,
                shutdown: 3,
                ..CloseFacts::default()
            };
            life.close(40_000, LastAck, facts);
        }
        2 => {
            let facts = CloseFacts {
                unread: 5,
                shutdown: 3,
                ..CloseFacts::default()
            };
            life.close(SECOND, Established, facts);
            let body = Body::ResetSent {
                state: TcpState::Close.number(),
                answers_segment: false,
                reason: None,
            };
            life.push(20_000, body);
        }
        // Data after close(): tcp_reset(), then an RST of our own.
        5 => {
            life.step(SECOND, Established, FinWait1);
            life.push(SECOND, Body::ResetReceived { state: 4 });
            let facts = CloseFacts {
                marks: marks::DEAD | marks::ALL_ACKED,
                error: libc::ECONNRESET as u16,
                shutdown: 3,
                ..CloseFacts::default()
            };
            life.close(1_000, FinWait1, facts);
            let body = Body::ResetSent {
                state: TcpState::Close.number(),
                answers_segment: true,
                reason: None,
            };
            life.push(2_000, body);
        }
        _ => {
            life.step(SECOND, Established, FinWait1);
            life.step(40_000, FinWait1, FinWait2);
            let substate = if end == 2 || (way == 3 && end != 3) {
                FinWait2
            } else {
                TimeWait
            };
            life.minisocket(substate, end, wait);
        }
    }
    life.events
}

pub fn lives() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let choice = (
        (0..3_u64).prop_map(|tenths| 1_000 * SECOND + tenths * SECOND / 10),
        any::<bool>(),
        0..6_u8,
        0..4_u8,
        SECOND..4 * SECOND,
    );
    prop::collection::vec(choice, 1..7).prop_map(|choices| {
        (0..)
            .zip(choices)
            .map(|(number, choice)| life(number, choice))
            .collect()
    })
}

/// The lives merged: each keeps its order; between them, what lies within `skew` may swap.
pub fn interleave(lives: &[Vec<Event>], jitter: &[u64]) -> Vec<Event> {
    let mut keyed = Vec::new();
    for events in lives {
        let mut latest = 0;
        for event in events {
            let skew = jitter[keyed.len() % jitter.len()];
            latest = latest.max(event.at.0 + skew);
            keyed.push((latest, *event));
        }
    }
    // Stable: what has one key stays in its life's order.
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, event)| event).collect()
}
