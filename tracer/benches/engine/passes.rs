//! The passes: each in a process of its own, so that one's memory is not another's.

use std::hint::black_box;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tracer::decode;

use crate::figure::Better::{Higher, Lower};
use crate::figure::Unit::{Bytes, Count, Ns, PerSecond, Ratio, Us};
use crate::figure::{Better, Figure, Unit};
use crate::meter::{Calls, allocated, longest_in_all, processor_time, resident};
use crate::subject::{Caller, Subject, Untimed};
use crate::traffic::{Roles, SECOND, Traffic};

/// From this size on what is wanted at ten millions is wanted.
const LARGE: usize = 10_000_000;
/// Steps to ESTABLISHED, and to CLOSE.
const ESTABLISHED: u64 = 2;
const CLOSED: u64 = 5;
/// How long the connections take that all come to one state: their timers end together.
const TOGETHER: u64 = 4 * SECOND;
/// When those have all run out, and none is overdue.
const ENDING: u64 = 61 * SECOND;

/// No call may take longer, nanoseconds.
const LONG: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Connections that live at once.
    pub live: usize,
    pub rounds: usize,
    /// Records of a round, about.
    pub records: u64,
}

impl Size {
    fn figure(&self, name: &str, unit: Unit, better: Better, rounds: Vec<f64>) -> Figure {
        Figure::new(
            "engine",
            format!("{}/{name}", self.live),
            unit,
            better,
            rounds,
        )
    }
}

/// Transitions a second, and a plain map's lookups a second beside them.
pub fn speed(size: Size) {
    let mut traffic = Traffic::steady(size.live);
    let before = allocated();
    let mut subject = Subject::new();
    grow(&mut traffic, &mut subject, &mut Untimed);
    let live = traffic.live() as f64;
    assert!(
        (0.95..1.05).contains(&(live / size.live as f64)),
        "{live} connections live where {} were wanted",
        size.live
    );
    let held = (allocated() - before) as f64 / live;
    size.figure("steady_bytes", Bytes, Lower, vec![held])
        .print();
    let reference = Reference::new(size.live);
    let (mut lookups, mut decoding) = (vec![], vec![]);
    let (mut transitions, mut events, mut each, mut ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..size.rounds {
        let (began, told) = (traffic.records(), traffic.told());
        let spent = taking(&mut traffic, &mut subject, size.records);
        let seconds = spent as f64 / SECOND as f64;
        let made = (traffic.records() - began) as f64;
        let speed = (traffic.told().transitions - told.transitions) as f64 / seconds;
        decoding.push(decoding_alone(&mut traffic, &mut subject, size.records / 8));
        let looked = reference.lookups_per_second(size.records);
        transitions.push(speed);
        events.push(made / seconds);
        each.push(spent as f64 / made);
        lookups.push(looked);
        ratios.push(speed / looked);
    }
    subject.check(&traffic, 0);
    let wanted = if size.live >= LARGE { 4e6 } else { 1e7 };
    let wanted = (size.live >= LARGE || size.live <= 10_000).then_some(wanted);
    size.figure("transitions_per_second", PerSecond, Higher, transitions)
        .target(wanted)
        .print();
    size.figure("events_per_second", PerSecond, Higher, events)
        .print();
    size.figure("event_ns", Ns, Lower, each).print();
    size.figure("decoding_ns", Ns, Lower, decoding).print();
    size.figure("lookups_per_second", PerSecond, Higher, lookups)
        .print();
    size.figure("transitions_per_lookup", Ratio, Higher, ratios)
        .print();
}

/// Bytes a connection: clients in ESTABLISHED, the same in TIME_WAIT.
pub fn memory(size: Size) {
    let mut scale = Scale::new(Roles::Clients, size);
    scale.bring_to(ESTABLISHED);
    scale.weigh("established", Some(224.0));
    scale.bring_to(CLOSED);
    scale.weigh("time_wait", Some(160.0));
    let grown = resident("VmHWM").saturating_sub(scale.resident);
    size.figure(
        "peak_resident_bytes",
        Bytes,
        Lower,
        vec![grown as f64 / size.live as f64],
    )
    .print();
}

/// Bytes a connection: servers in ESTABLISHED.
pub fn servers(size: Size) {
    let mut scale = Scale::new(Roles::Servers, size);
    scale.bring_to(ESTABLISHED);
    scale.weigh("established_server", Some(224.0));
}

/// The longest call: from empty to the full number, and on.
pub fn calls(size: Size) {
    let rounds: Vec<Calls> = (0..size.rounds)
        .map(|_| {
            let mut traffic = Traffic::steady(size.live);
            let mut subject = Subject::new();
            let mut calls = Calls::new();
            grow(&mut traffic, &mut subject, &mut calls);
            let until = traffic.records() * 5 / 4;
            while traffic.records() < until {
                let batch = traffic.go_on();
                subject.take(batch, traffic.now(), &mut calls);
            }
            subject.check(&traffic, 0);
            calls
        })
        .collect();
    tell_calls(size, "", &rounds);
    // The machine takes processors away without telling: it does so to calls that do nothing, too.
    let a_minute = |rounds: &[Calls]| {
        let each = rounds.iter().map(|calls| calls.slow_in_a_minute(LONG));
        each.collect()
    };
    let of_nothing: Vec<_> = rounds
        .iter()
        .map(|calls| Calls::of_nothing(calls.spent().min(MINUTE)))
        .collect();
    let figure = |name, rounds| size.figure(name, Count, Lower, a_minute(rounds)).print();
    figure("calls_over_1ms_a_minute", &rounds);
    figure("calls_of_nothing_over_1ms_a_minute", &of_nothing);
}

/// All TIME_WAITs end together: how fast, and the longest call.
pub fn burst(size: Size) {
    let (mut speeds, mut rounds) = (vec![], vec![]);
    for _ in 0..size.rounds {
        let (mut traffic, mut subject) = all_waiting(size);
        subject.reach(traffic.now(), &mut Untimed);
        let mut spent = 0;
        while let Some(batch) = traffic.end_all() {
            let before = processor_time();
            subject.take(batch, traffic.now(), &mut Untimed);
            spent += processor_time() - before;
        }
        subject.check(&traffic, 0);
        speeds.push(size.live as f64 / (spent as f64 / SECOND as f64));
        drop(subject);

        let (mut traffic, mut subject) = all_waiting(size);
        let mut calls = Calls::new();
        // As the reader does that has drained the ring.
        subject.reach(traffic.now(), &mut calls);
        while let Some(batch) = traffic.end_all() {
            subject.take(batch, traffic.now(), &mut calls);
        }
        subject.check(&traffic, 0);
        rounds.push(calls);
    }
    size.figure("burst/ends_per_second", PerSecond, Higher, speeds)
        .print();
    tell_calls(size, "burst/", &rounds);
}

/// All TIME_WAITs have ended and their ends were lost: they are overdue together.
pub fn overdue(size: Size) {
    let rounds: Vec<Calls> = (0..size.rounds)
        .map(|_| {
            let (mut traffic, mut subject) = all_waiting(size);
            let mut calls = Calls::new();
            traffic.wait(ENDING);
            subject.reach(traffic.now(), &mut calls);
            subject.check(&traffic, size.live as u64);
            calls
        })
        .collect();
    tell_calls(size, "overdue/", &rounds);
}

/// Half of the connections are followed: what an event takes, and the longest call.
pub fn bound(size: Size) {
    let mut traffic = Traffic::steady(size.live);
    let mut subject = Subject::bounded(size.live / 2);
    subject.take(traffic.listeners(), traffic.now(), &mut Untimed);
    let began = traffic.now();
    while traffic.now() < began + 2 * ENDING {
        let batch = traffic.go_on();
        subject.take(batch, traffic.now(), &mut Untimed);
    }
    let (mut each, mut evicted, mut rounds) = (vec![], vec![], vec![]);
    for _ in 0..size.rounds {
        let (began, gone) = (traffic.records(), subject.evicted());
        let spent = taking(&mut traffic, &mut subject, size.records);
        let made = (traffic.records() - began) as f64;
        each.push(spent as f64 / made);
        evicted.push((subject.evicted() - gone) as f64 / made);
        let mut calls = Calls::new();
        let until = traffic.records() + size.records / 4;
        while traffic.records() < until {
            let batch = traffic.go_on();
            subject.take(batch, traffic.now(), &mut calls);
        }
        rounds.push(calls);
    }
    size.figure("bound/event_ns", Ns, Lower, each).print();
    size.figure("bound/let_go_by_event", Ratio, Lower, evicted)
        .print();
    tell_calls(size, "bound/", &rounds);
}

/// From empty until as many TIME_WAITs end as begin: all connections open at the beginning, and the
/// last trace of that is the pace at which the first TIME_WAITs were entered.
fn grow(traffic: &mut Traffic, subject: &mut Subject, caller: &mut impl Caller) {
    subject.take(traffic.listeners(), traffic.now(), caller);
    let began = traffic.now();
    while traffic.now() < began + 2 * ENDING {
        let batch = traffic.go_on();
        subject.take(batch, traffic.now(), caller);
    }
    subject.check(traffic, 0);
}

/// Nanoseconds that the subject takes for so many records.
fn taking(traffic: &mut Traffic, subject: &mut Subject, records: u64) -> u64 {
    let began = traffic.records();
    let mut spent = 0;
    while traffic.records() - began < records {
        let batch = traffic.go_on();
        let before = processor_time();
        subject.take(batch, traffic.now(), &mut Untimed);
        spent += processor_time() - before;
    }
    spent
}

/// Nanoseconds that decoding takes of an event's.
fn decoding_alone(traffic: &mut Traffic, subject: &mut Subject, records: u64) -> f64 {
    let began = traffic.records();
    let mut spent = 0;
    while traffic.records() - began < records {
        let batch = traffic.go_on();
        let mut same = batch.clone();
        let before = processor_time();
        while let Some(event) = decode::next_event(&mut same) {
            assert!(black_box(event).is_ok(), "the records can be decoded");
        }
        spent += processor_time() - before;
        subject.take(batch, traffic.now(), &mut Untimed);
    }
    spent as f64 / (traffic.records() - began) as f64
}

/// All connections wait in TIME_WAIT, and all their timers have run out.
fn all_waiting(size: Size) -> (Traffic, Subject) {
    let mut traffic = Traffic::new(Roles::Clients, size.live, TOGETHER);
    let mut subject = Subject::new();
    subject.take(traffic.listeners(), traffic.now(), &mut Untimed);
    while let Some(batch) = traffic.bring_to(CLOSED) {
        subject.take(batch, traffic.now(), &mut Untimed);
    }
    traffic.wait(ENDING);
    (traffic, subject)
}

fn tell_calls(size: Size, of: &str, rounds: &[Calls]) {
    let micro = |ns: u64| ns as f64 / 1e3;
    let each = |name: &str, value: &dyn Fn(&Calls) -> f64, unit, target| {
        let values = rounds.iter().map(value).collect();
        size.figure(&format!("{of}{name}"), unit, Lower, values)
            .target(target)
            .print();
    };
    each(
        "longest_call_wall",
        &|calls| micro(calls.longest(|slow| slow.wall)),
        Us,
        None,
    );
    each(
        "longest_call",
        &|calls| micro(calls.longest(|slow| slow.own)),
        Us,
        Some(1e3),
    );
    let over = |calls: &Calls| calls.slow().iter().filter(|slow| slow.own > LONG).count();
    each(
        "calls_over_1ms",
        &|calls| over(calls) as f64,
        Count,
        Some(0.0),
    );
    each(
        "call_p99999",
        &|calls| micro(calls.quantile(0.99999)),
        Us,
        None,
    );
    each("calls", &|calls| calls.total() as f64, Count, None);
    if rounds.len() > 1 {
        let longest = micro(longest_in_all(rounds));
        size.figure(
            &format!("{of}longest_call_in_all_rounds"),
            Us,
            Lower,
            vec![longest],
        )
        .target(Some(1e3))
        .print();
    }
}

/// An engine whose memory is weighed.
struct Scale {
    size: Size,
    traffic: Traffic,
    subject: Subject,
    allocated: usize,
    resident: usize,
}

impl Scale {
    fn new(roles: Roles, size: Size) -> Self {
        let mut traffic = Traffic::new(roles, size.live, TOGETHER);
        let listeners = traffic.listeners();
        let allocated = allocated() - listeners.len();
        let resident = resident("VmRSS");
        let mut subject = Subject::new();
        subject.take(listeners, traffic.now(), &mut Untimed);
        Self {
            size,
            traffic,
            subject,
            allocated,
            resident,
        }
    }

    fn bring_to(&mut self, stage: u64) {
        while let Some(batch) = self.traffic.bring_to(stage) {
            self.subject.take(batch, self.traffic.now(), &mut Untimed);
        }
        self.subject.check(&self.traffic, 0);
        assert_eq!(self.traffic.live(), self.size.live as u64);
    }

    fn weigh(&self, state: &str, target: Option<f64>) {
        let each = |bytes: usize| vec![bytes as f64 / self.size.live as f64];
        let target = target.filter(|_| self.size.live >= LARGE);
        let held = each(allocated() - self.allocated);
        self.size
            .figure(&format!("{state}_bytes"), Bytes, Lower, held)
            .target(target)
            .print();
        let held = each(resident("VmRSS").saturating_sub(self.resident));
        self.size
            .figure(&format!("{state}_resident_bytes"), Bytes, Lower, held)
            .print();
    }
}

/// What this machine can do: lookups in a map that holds nothing but numbers.
struct Reference {
    map: HashMap<u64, u64, RandomState>,
}

impl Reference {
    fn new(size: usize) -> Self {
        Self {
            map: (0..size as u64)
                .map(|number| (scatter(number), number))
                .collect(),
        }
    }

    fn lookups_per_second(&self, count: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(11);
        let size = self.map.len() as u64;
        let before = processor_time();
        let mut found = 0_u64;
        for _ in 0..count {
            let number = random.u64(..size);
            found += u64::from(self.map.get(&scatter(number)) == Some(&number));
        }
        assert_eq!(black_box(found), count);
        count as f64 / ((processor_time() - before) as f64 / SECOND as f64)
    }
}

fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
