//! What holds for any stream: sockets do not disturb each other, and garbage breaks nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use proptest::sample::Index;
use tracer::engine::{Config, Engine, Output, Totals};
use tracer::record::Record;
use tracer::stream::{Body, Event, Found, Holder, Inventory, Minisocket, Socket, Task};
use tracer::time::Timestamp;
use tracer_common::event::{CloseFacts, flags, marks};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

const SECOND: u64 = 1_000_000_000;
const HZ: u64 = 250;
const CONFIG: Config = Config {
    hz: HZ as u32,
    sees_timers: true,
    sees_segments: true,
    sees_resets: true,
    sees_schedules: false,
    transitions: true,
    holdings: false,
};

fn flow(local: u16, peer: u16) -> Flow {
    let end = |port| Endpoint {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
    };
    Flow {
        local: end(local),
        peer: end(peer),
    }
}

fn shown(substate: TcpState, at: u64, set: u64) -> Minisocket {
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

fn life(number: u16, (start, server, way, end, wait): (u64, bool, u8, u8, u64)) -> Vec<Event> {
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

fn lives() -> impl Strategy<Value = Vec<Vec<Event>>> {
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
fn interleave(lives: &[Vec<Event>], jitter: &[u64]) -> Vec<Event> {
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

fn run(events: &[Event]) -> (Vec<String>, Totals) {
    let mut engine = Engine::new(CONFIG);
    let mut outputs = Vec::new();
    let mut take = |engine: &mut Engine| {
        while let Some(output) = engine.poll() {
            outputs.push(format!("{output:?}"));
        }
    };
    for event in events {
        engine.handle_event(event);
        take(&mut engine);
    }
    let last = events.last().map_or(0, |event| event.at.0);
    engine.handle_timeout(Timestamp(last + 10 * SECOND));
    take(&mut engine);
    assert!(engine.invariants_hold(), "{:#?}", engine.totals());
    outputs.sort();
    (outputs, engine.totals())
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

/// Times that a record tells are in order and its parts agree.
fn is_coherent(record: &Record) -> bool {
    let end = record.ended_at.is_none() || record.time_wait.is_none_or(|wait| wait.exit.is_some());
    let unknown_entry = record
        .time_wait
        .is_none_or(|wait| wait.entered_at.is_some());
    end && unknown_entry && record.states.len() <= 8
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_legal_interleaving_of_sockets_gives_the_same_outputs(
        lives in lives(),
        jitter in prop::collection::vec(0..400_000_u64, 1..40),
    ) {
        let (plain, totals) = run(&interleave(&lives, &[0]));
        let (jittered, jittered_totals) = run(&interleave(&lives, &jitter));
        prop_assert_eq!(plain, jittered);
        prop_assert_eq!(totals, jittered_totals);
        prop_assert_eq!(totals.unknown_closes, 0);
        prop_assert_eq!(totals.incomplete_records, 0);
        prop_assert_eq!(totals.impossible, 0);
        prop_assert_eq!(totals.opened, totals.ended);
        prop_assert_eq!(totals.ended_by.unknown, 0);
    }

    #[test]
    fn doubles_of_any_event_with_two_programs_change_nothing(
        lives in lives(),
        picks in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let events = interleave(&lives, &[0]);
        let mut doubled = vec![0; events.len()];
        for pick in picks {
            doubled[pick.index(events.len())] += 1;
        }
        let mut with_doubles = Vec::new();
        let mut expected = 0;
        for (event, times) in events.iter().zip(doubled) {
            with_doubles.push(*event);
            let hooked_twice = matches!(
                event.body,
                Body::Transition { .. }
                    | Body::Close { .. }
                    | Body::ResetReceived { .. }
                    | Body::ResetSent { .. }
                    | Body::Segment { .. }
            );
            if hooked_twice {
                let flags = flags::RECOVERED;
                with_doubles.extend(std::iter::repeat_n(Event { flags, ..*event }, times));
                expected += times as u64;
            }
        }
        let (plain, totals) = run(&events);
        let (doubled, doubled_totals) = run(&with_doubles);
        prop_assert_eq!(plain, doubled);
        prop_assert_eq!(doubled_totals.doubles, expected);
        prop_assert_eq!(Totals { doubles: 0, ..doubled_totals }, totals);
    }

    #[test]
    fn losses_leave_nothing_behind_and_no_wrong_verdict_that_is_called_complete(
        lives in lives(),
        lost in prop::collection::vec(any::<Index>(), 0..30),
    ) {
        let events = interleave(&lives, &[0]);
        let truth = told(&events.iter().copied().map(Given::Event).collect::<Vec<_>>());
        let given = without(&events, &lost);
        let records = no_trace_is_left(&given)?;
        for record in records.iter().filter(|record| record.incomplete.is_empty()) {
            let exact = truth
                .iter()
                .find(|exact| exact.cookie == record.cookie && exact.close == record.close);
            prop_assert!(exact.is_some(), "{record:?}\n{truth:#?}");
        }
    }

    #[test]
    fn garbage_never_breaks_the_account_nor_leaves_a_minisocket(
        given in prop::collection::vec(any_given(), 0..300),
    ) {
        no_trace_is_left(&given)?;
    }
}

/// What an engine may be given.
#[derive(Clone, Debug)]
enum Given {
    Event(Event),
    Loss(Timestamp),
    Inventory(Inventory),
}

impl Given {
    fn to(&self, engine: &mut Engine) {
        match self {
            Self::Event(event) => engine.handle_event(event),
            Self::Loss(at) => engine.handle_loss(*at),
            Self::Inventory(inventory) => engine.handle_inventory(inventory),
        }
    }
}

/// The events without those that were lost, as the kernel side tells of that.
fn without(events: &[Event], lost: &[Index]) -> Vec<Given> {
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

/// The verdicts.
fn told(given: &[Given]) -> Vec<Record> {
    let mut engine = Engine::new(CONFIG);
    let mut records = Vec::new();
    for given in given {
        given.to(&mut engine);
        take_verdicts(&mut engine, &mut records);
    }
    engine.finish();
    take_verdicts(&mut engine, &mut records);
    records
}

fn take_verdicts(engine: &mut Engine, records: &mut Vec<Record>) {
    while let Some(output) = engine.poll() {
        if let Output::Close(record) = output {
            records.push(*record);
        }
    }
}

fn any_given() -> impl Strategy<Value = Given> {
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
fn nothing_found(netns_cookie: u64, at: Timestamp) -> Inventory {
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

/// The invariants hold throughout. Long after the last event nothing is parked, and once sock_diag
/// has found nothing twice, nothing is left. Gives the verdicts.
fn no_trace_is_left(given: &[Given]) -> Result<Vec<Record>, TestCaseError> {
    let mut engine = Engine::new(CONFIG);
    let mut verdicts = Vec::new();
    for given in given {
        given.to(&mut engine);
        prop_assert!(
            engine.invariants_hold(),
            "{given:?}\n{:#?}",
            engine.totals()
        );
        while let Some(output) = engine.poll() {
            if let Output::Close(record) | Output::End(record) = &output {
                prop_assert!(is_coherent(record), "{record:?}");
            }
            if let Output::Close(record) = output {
                verdicts.push(*record);
            }
        }
    }
    // A garbled timer may claim years; nothing waits for longer than the engine's bound.
    let mut now = 1_000 * SECOND;
    while let Some(due) = engine.poll_timeout() {
        prop_assert!(now < 1 << 63, "something is waited for without end");
        now = now.max(due.0) * 2;
        engine.handle_timeout(Timestamp(now));
        take_verdicts(&mut engine, &mut verdicts);
    }
    prop_assert_eq!(engine.waiting(), 0, "{:#?}", engine.totals());
    for round in 1..=2 {
        for netns in 1..3 {
            let at = Timestamp(now + round * 1_000 * SECOND);
            engine.handle_inventory(&nothing_found(netns, at));
        }
        engine.handle_timeout(Timestamp(now + round * 1_000 * SECOND + SECOND));
        engine.handle_timeout(Timestamp(now + round * 1_000 * SECOND + 2 * SECOND));
        take_verdicts(&mut engine, &mut verdicts);
    }
    prop_assert!(engine.invariants_hold());
    let totals = engine.totals();
    prop_assert_eq!((totals.open, totals.minisockets), (0, 0), "{:#?}", totals);
    Ok(verdicts)
}
