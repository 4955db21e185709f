//! What an engine may be given: garbage of every kind, and legal streams of which some was lost.

use proptest::prelude::*;
use proptest::sample::Index;
use tracer::engine::Engine;
use tracer::stream::{Body, Event, Found, Holder, Inventory, Minisocket, Socket, Task};
use tracer::time::Timestamp;
use tracer_common::event::{CloseFacts, flags};
use tracer_common::tcp::TcpState;

use crate::SECOND;
use crate::life::flow;

/// What an engine may be given.
#[derive(Clone, Debug)]
pub enum Given {
    Event(Event),
    Loss(Timestamp),
    Inventory(Inventory),
}

impl Given {
    pub fn to(&self, engine: &mut Engine) {
        match self {
            Self::Event(event) => engine.handle_event(event),
            Self::Loss(at) => engine.handle_loss(*at),
            Self::Inventory(inventory) => engine.handle_inventory(inventory),
        }
    }
}

/// The events without those that were lost, as the kernel side tells of that.
pub fn without(events: &[Event], lost: &[Index]) -> Vec<Given> {
    let lost: Vec<usize> = lost.iter().map(|lost| lost.index(events.len())).collect();
    let mut given = Vec::new();
    let mut after_loss = false;
    for (number, event) in events.iter().enumerate() {
        if lost.contains(&number) {
            after_loss = true;
        } else {
            let mut event = *event;
            if std::mem::take(&mut after_loss) {
                event.flags |= flags::AFTER_LOSS;
            }
            given.push(Given::Event(event));
        }
    }
    if let Some(last) = events.last().filter(|_| after_loss) {
        given.push(Given::Loss(last.at));
    }
    given
}

pub fn any_given() -> impl Strategy<Value = Given> {
    let found = (
        1..5_u64,
        0..4_u16,
        0..3_u16,
        any_state(),
        any::<bool>(),
        0..200_u64,
    );
    let found = found.prop_map(|(cookie, local, peer, state, minisocket, end)| Found {
        cookie,
        flow: flow(local, peer),
        socket_is_v6: false,
        holder: if minisocket {
            Holder::Minisocket {
                substate: state,
                ends_at: Timestamp(end * SECOND),
            }
        } else {
            Holder::socket(state, Some(1))
        },
    });
    let found = prop::collection::vec(found, 0..5);
    let inventory = (1..3_u64, 0..200_u64, 0..3_u64, any::<bool>(), found);
    let inventory = inventory.prop_map(|(netns_cookie, from, lasts, whole, found)| {
        Given::Inventory(Inventory {
            netns: 1,
            netns_cookie,
            from: Timestamp(from * SECOND),
            until: Timestamp((from + lasts) * SECOND),
            whole,
            found,
            owners: Vec::new(),
        })
    });
    prop_oneof![
        20 => any_event().prop_map(Given::Event),
        1 => (0..200_u64).prop_map(|at| Given::Loss(Timestamp(at * SECOND))),
        1 => inventory,
    ]
}

/// Nothing is there any more.
pub fn nothing_found(netns_cookie: u64, at: Timestamp) -> Inventory {
    Inventory {
        netns: 1,
        netns_cookie,
        from: at,
        until: at,
        whole: true,
        found: Vec::new(),
        owners: Vec::new(),
    }
}

fn any_state() -> impl Strategy<Value = TcpState> {
    (1..=11_u8).prop_map(|number| TcpState::from_number(number).unwrap())
}

/// Few names, so that they collide; any order, any stamp.
fn any_event() -> impl Strategy<Value = Event> {
    let names = (0..4_u64, 0..5_u64, 0..4_u16, 0..3_u16, 1..3_u64);
    let bits = prop::sample::select(vec![0, flags::RECOVERED, flags::OWNED, 0x7f]);
    let when = (0..200_u64, 0..2_000_000_u64, 0..3_u16, any::<u32>());
    (names, bits, when, any_body()).prop_map(|(names, flags, when, body)| {
        let (address, cookie, local, peer, netns_cookie) = names;
        Event {
            at: Timestamp(when.0 * SECOND / 2 + when.1),
            cpu: when.2,
            seq: when.3,
            flags,
            netns: 1,
            netns_cookie,
            socket: Socket {
                address,
                cookie,
                flow: flow(local, peer),
            },
            body,
        }
    })
}

fn any_body() -> impl Strategy<Value = Body> {
    let minisocket = (
        any_state(),
        any::<u64>(),
        any::<u64>(),
        any::<u32>(),
        0..3_u32,
    );
    let facts = (
        any::<u16>(),
        any::<u16>(),
        any::<u8>(),
        any::<i32>(),
        0..3_u8,
    );
    let small = (
        0..11_u8,
        any_state(),
        any_state(),
        any::<u8>(),
        any::<u16>(),
    );
    (small, minisocket, facts).prop_map(|((kind, from, to, byte, word), mini, facts)| {
        let near = mini.1 % 2 == 0;
        let minisocket = Minisocket {
            substate: mini.0,
            expires: if near {
                mini.2 % 100_000 + 15_000
            } else {
                mini.1
            },
            jiffies: if near { mini.2 % 100_000 } else { mini.2 },
            entry_stamp_ms: mini.3,
            tid: mini.4,
        };
        match kind {
            0 | 1 => Body::Transition {
                from,
                to,
                detail: byte,
            },
            2 => Body::Close {
                from,
                facts: CloseFacts {
                    error: facts.0 % 120,
                    marks: facts.1,
                    retransmits: facts.2,
                    linger2: facts.3,
                    shutdown: facts.4,
                    unread: u32::from(facts.1),
                    ..CloseFacts::default()
                },
            },
            3 => Body::Task(Task {
                pid: 1,
                tid: mini.4,
                uid: 0,
                cgroup: 1,
                from,
                to,
                comm: [0xff; 16],
                name: [0; 16],
            }),
            4 => Body::TimerStart(minisocket),
            5 => Body::TimerCancel(minisocket),
            6 => Body::TimerExpire(minisocket),
            7 => Body::Segment {
                minisocket,
                tcp_flags: byte,
                payload: word,
            },
            10 => Body::Schedule(minisocket),
            8 => Body::ResetReceived { state: byte % 13 },
            _ => Body::ResetSent {
                state: byte % 13,
                answers_segment: byte > 127,
                reason: None,
            },
        }
    })
}
