//! What holds where more connections come than are followed.

use proptest::prelude::*;
use proptest::sample::Index;
use tracer::engine::{Config, Engine, Output, Totals};
use tracer::record::{CloseKind, EntryPrecision, Incomplete, Record, Role, TimeWaitExit};
use tracer::stream::{Body, Event, Found, Holder, Inventory, Socket};
use tracer::time::Timestamp;
use tracer_common::tcp::TcpState;

use crate::books::Books;
use crate::given::{Given, any_given, without};
use crate::life::{flow, interleave, life, lives};
use crate::{CONFIG, SECOND, no_trace_is_left, take};

const BEGIN: u64 = 1_000 * SECOND;

fn bounded(connections: usize) -> Config {
    Config {
        connections,
        ..CONFIG
    }
}

/// An engine that follows few, and what it told.
struct Few {
    engine: Engine,
    verdicts: Vec<Record>,
    ends: Vec<Record>,
    books: Books,
    connections: u64,
}

impl Few {
    fn new(connections: usize) -> Self {
        Self {
            engine: Engine::new(bounded(connections)),
            verdicts: Vec::new(),
            ends: Vec::new(),
            books: Books::default(),
            connections: connections as u64,
        }
    }

    fn feed(&mut self, events: &[Event]) -> &mut Self {
        for event in events {
            self.engine.handle_event(event);
            self.poll();
        }
        self
    }

    fn poll(&mut self) {
        assert!(self.totals().tracked() <= self.connections);
        while let Some(output) = self.engine.poll() {
            if let Output::End(record) | Output::Over(record) = &output {
                self.ends.push((**record).clone());
            }
            take(output, &mut self.verdicts, &mut self.books).unwrap();
        }
        assert!(self.engine.invariants_hold(), "{:#?}", self.totals());
    }

    fn until(&mut self, at: u64) -> &mut Self {
        self.engine.handle_timeout(Timestamp(at));
        self.poll();
        self
    }

    fn totals(&self) -> Totals {
        self.engine.totals()
    }

    /// The cookies of those that are followed.
    fn followed(&self) -> Vec<u64> {
        let mut cookies: Vec<u64> = self.engine.remaining().map(|it| it.record.cookie).collect();
        cookies.sort_unstable();
        cookies
    }
}

fn cookie(number: u16) -> u64 {
    100 + 2 * u64::from(number)
}

/// A client that is open, and what it does when it closes: it resets.
fn open_and_reset(number: u16, at: u64) -> (Vec<Event>, Vec<Event>) {
    let mut events = life(number, (at, false, 0, 0, 0));
    let rest = events.split_off(3);
    (events, rest)
}

fn listener(number: u16) -> Event {
    Event {
        at: Timestamp(BEGIN + u64::from(number)),
        cpu: 0,
        seq: u32::from(number),
        flags: 0,
        netns: 1,
        netns_cookie: 1,
        socket: Socket {
            address: 0x9000 + u64::from(number) * 16,
            cookie: 900 + u64::from(number),
            flow: flow(9_000 + number, 0),
        },
        body: Body::Transition {
            from: TcpState::Close,
            to: TcpState::Listen,
            detail: 0,
        },
    }
}

/// A client up to TIME_WAIT, and how that runs out.
fn wait_and_expire(number: u16, at: u64) -> (Vec<Event>, Vec<Event>) {
    let mut events = life(number, (at, false, 4, 0, 0));
    let rest = events.split_off(events.len() - 2);
    (events, rest)
}

#[test]
fn the_one_that_was_silent_the_longest_is_let_go() {
    let mut few = Few::new(4);
    let (first, its_close) = open_and_reset(1, BEGIN);
    few.feed(&first);
    for number in 2..4 {
        few.feed(&open_and_reset(number, BEGIN + u64::from(number) * SECOND).0);
    }
    let (waits, expires) = wait_and_expire(4, BEGIN + 10 * SECOND);
    few.feed(&waits).until(BEGIN + 20 * SECOND);
    assert_eq!(few.totals().evicted.all(), 0);
    few.feed(&open_and_reset(5, BEGIN + 30 * SECOND).0);
    assert_eq!(few.followed(), [2, 3, 4, 5].map(cookie));
    few.feed(&open_and_reset(6, BEGIN + 31 * SECOND).0);
    assert_eq!(few.followed(), [3, 4, 5, 6].map(cookie));
    let evicted = few.totals().evicted;
    assert_eq!((evicted.open, evicted.all()), (2, 2));
    // The TIME_WAIT was followed to its end.
    few.feed(&expires).until(BEGIN + 90 * SECOND);
    let [ended] = &few.ends[..] else {
        panic!("{:#?}", few.ends);
    };
    let wait = ended.time_wait.unwrap();
    assert!(ended.incomplete.is_empty());
    assert_eq!(wait.exit, Some(TimeWaitExit::Expired));
    // One that was let go closes: it is met as one that began before us.
    let later = |event: &Event| Event {
        at: Timestamp(event.at.0 + 100 * SECOND),
        ..*event
    };
    let its_close: Vec<_> = its_close.iter().map(later).collect();
    few.feed(&its_close).until(BEGIN + 200 * SECOND);
    let told = few.verdicts.last().unwrap();
    assert_eq!(told.cookie, cookie(1));
    assert_eq!(told.close.kind, CloseKind::ResetReceived);
    assert_eq!(told.opened_at, None);
    assert!(told.incomplete.contains(Incomplete::OpeningNotSeen));
    assert_eq!(few.totals().impossible, 0);
    assert_eq!(few.totals().found_open, 1);
}

#[test]
fn a_time_wait_that_was_let_go_is_told_from_what_the_kernel_shows_at_its_end() {
    let mut few = Few::new(2);
    let (waits, expires) = wait_and_expire(1, BEGIN);
    let entered = waits
        .iter()
        .find(|event| matches!(event.body, Body::TimerStart(_)));
    let entered = entered.unwrap().at;
    few.feed(&waits).until(BEGIN + 10 * SECOND);
    assert_eq!(few.totals().in_time_wait, 1);
    few.feed(&open_and_reset(2, BEGIN + 20 * SECOND).0);
    few.feed(&open_and_reset(3, BEGIN + 21 * SECOND).0);
    let totals = few.totals();
    assert_eq!((totals.evicted.time_wait, totals.in_time_wait), (1, 0));
    assert!(few.ends.is_empty(), "no record is invented");
    few.feed(&expires).until(BEGIN + 80 * SECOND);
    let [ended] = &few.ends[..] else {
        panic!("{:#?}", few.ends);
    };
    assert_eq!(ended.close.kind, CloseKind::Unknown);
    assert!(ended.incomplete.contains(Incomplete::OpeningNotSeen));
    let wait = ended.time_wait.unwrap();
    assert_eq!(wait.entered_from, None);
    assert_eq!(wait.entry_precision, EntryPrecision::LastRefresh);
    // The timer was set as it was entered, to a jiffy.
    let off = wait.entered_at.unwrap().0.abs_diff(entered.0);
    assert!(off <= 2 * SECOND / crate::HZ, "{off} ns");
    assert_eq!(few.totals().evicted.open, 1, "for the one that ended");
}

#[test]
fn a_listener_is_never_let_go_and_where_there_is_nothing_else_nobody_comes_in() {
    let mut few = Few::new(3);
    few.feed(&[listener(1)]);
    for number in 1..6 {
        few.feed(&open_and_reset(number, BEGIN + u64::from(number) * SECOND).0);
    }
    assert_eq!(few.followed(), [cookie(4), cookie(5), 901]);
    few.feed(&[listener(2), listener(3)]);
    assert_eq!(few.followed(), [901, 902, 903]);
    let evicted = few.totals().evicted.open;
    let (opens, closes) = open_and_reset(6, BEGIN + 20 * SECOND);
    few.feed(&opens).feed(&closes).until(BEGIN + 30 * SECOND);
    let totals = few.totals();
    // Its opening, and each event that would have been its first.
    assert_eq!(totals.evicted.open, evicted + 1);
    assert!(totals.passed_over >= 2, "{totals:#?}");
    assert_eq!(totals.opened_clients, 6);
    assert!(few.verdicts.is_empty());
}

/// A connection that is being settled is not let go for a listener, which comes in all the same.
#[test]
fn where_a_listener_came_over_the_bound_one_let_go_makes_no_room() {
    let (waits, _) = wait_and_expire(1, BEGIN);
    let timer_starts = |event: &Event| matches!(event.body, Body::TimerStart(_));
    let started = 1 + waits.iter().position(timer_starts).unwrap();
    let mut few = Few::new(1);
    for event in &waits[..started] {
        few.engine.handle_event(event);
    }
    few.engine.handle_event(&listener(1));
    for event in &waits[started..] {
        few.engine.handle_event(event);
    }
    few.engine.handle_timeout(Timestamp(BEGIN + SECOND));
    assert_eq!(few.followed(), [cookie(1), 901]);
    few.connections = 2;
    few.feed(&open_and_reset(2, BEGIN + 2 * SECOND).0);
    assert_eq!(few.followed(), [901]);
    let totals = few.totals();
    assert_eq!((totals.evicted.time_wait, totals.evicted.open), (1, 1));
}

#[test]
fn an_inventory_lets_nobody_go_but_for_a_listener() {
    let found = |number: u16, state| Found {
        cookie: 500 + u64::from(number),
        flow: flow(
            6_000 + number,
            if state == TcpState::Listen { 0 } else { 80 },
        ),
        socket_is_v6: false,
        holder: Holder::socket(state, Some(1)),
    };
    let mut few = Few::new(3);
    few.feed(&open_and_reset(1, BEGIN).0);
    let mut sockets: Vec<_> = (0..5)
        .map(|number| found(number, TcpState::Established))
        .collect();
    sockets.push(found(9, TcpState::Listen));
    let inventory = Inventory {
        netns: 1,
        netns_cookie: 1,
        from: Timestamp(BEGIN + SECOND),
        until: Timestamp(BEGIN + 2 * SECOND),
        whole: true,
        found: sockets,
        owners: Vec::new(),
    };
    few.engine.handle_inventory(&inventory);
    few.poll();
    assert_eq!(
        few.followed(),
        [cookie(1), 500, 509],
        "the listener is taken up first"
    );
    assert_eq!(
        (few.totals().passed_over, few.totals().evicted.all()),
        (4, 0)
    );
    let listeners = |few: &Few| {
        let held = few.engine.remaining();
        held.filter(|it| it.record.role == Role::Listener).count()
    };
    assert_eq!(listeners(&few), 1);
    let mut another = inventory;
    another.from = Timestamp(BEGIN + 3 * SECOND);
    another.until = Timestamp(BEGIN + 4 * SECOND);
    another.found.push(found(10, TcpState::Listen));
    few.engine.handle_inventory(&another);
    few.poll();
    // For one whose last step nobody has seen.
    assert_eq!(few.followed(), [cookie(1), 509, 510]);
    assert_eq!(few.totals().evicted.open, 1);
}

#[test]
fn the_bound_holds_to_the_one_and_gives_back_what_each_held() {
    const CONNECTIONS: usize = 2_000;
    let mut engine = Engine::new(bounded(CONNECTIONS));
    let mut books = Books::default();
    let mut verdicts = Vec::new();
    let mut most = 0;
    for number in 0..20_000_u16 {
        let at = BEGIN + u64::from(number) * SECOND / 1_000;
        let events = match number % 2 {
            0 => open_and_reset(number, at).0,
            _ => wait_and_expire(number, at).0,
        };
        // One after the other, whatever the stamps: the time does not go back.
        for event in &events {
            engine.handle_event(event);
            while let Some(output) = engine.poll() {
                take(output, &mut verdicts, &mut books).unwrap();
            }
            most = most.max(engine.totals().tracked());
        }
    }
    assert!(engine.invariants_hold(), "{:#?}", engine.totals());
    assert_eq!(most, CONNECTIONS as u64);
    let totals = engine.totals();
    assert_eq!(totals.tracked(), CONNECTIONS as u64);
    assert_eq!(totals.evicted.all(), 20_000 - CONNECTIONS as u64);
    assert_eq!(totals.impossible, 0);
    let held: u32 = books.held().values().sum();
    assert_eq!(held as usize, CONNECTIONS);
}

/// What was told complete, without what was before it: who is let go is nobody's predecessor.
fn told_complete(config: Config, given: &[Given]) -> Vec<String> {
    let mut engine = Engine::new(config);
    let mut told = Vec::new();
    let mut poll = |engine: &mut Engine| {
        while let Some(output) = engine.poll() {
            let (stage, mut record) = match output {
                Output::Close(record) => ("close", record),
                Output::End(record) => ("end", record),
                Output::Over(record) => ("over", record),
                _ => continue,
            };
            if record.incomplete.is_empty() {
                record.previous = None;
                told.push(format!("{stage} {record:?}"));
            }
        }
    };
    for given in given {
        given.to(&mut engine);
        poll(&mut engine);
    }
    engine.handle_timeout(Timestamp(BEGIN + 1_000 * SECOND));
    poll(&mut engine);
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_told_complete_is_told_so_without_a_bound(
        lives in lives(),
        jitter in prop::collection::vec(0..400_000_u64, 1..40),
        connections in 1..6_usize,
    ) {
        let given = without(&interleave(&lives, &jitter), &[]);
        let all = told_complete(CONFIG, &given);
        let few = told_complete(bounded(connections), &given);
        for told in &few {
            prop_assert!(all.contains(told), "{told}\n{all:#?}");
        }
        prop_assert_eq!(told_complete(bounded(connections), &given), few);
    }

    #[test]
    fn losses_and_a_bound_leave_nothing_behind(
        lives in lives(),
        lost in prop::collection::vec(any::<Index>(), 0..30),
        connections in 1..6_usize,
    ) {
        let given = without(&interleave(&lives, &[0]), &lost);
        no_trace_is_left(bounded(connections), &given)?;
    }

    #[test]
    fn garbage_and_a_bound_break_nothing(
        given in prop::collection::vec(any_given(), 0..120),
        connections in 1..8_usize,
    ) {
        no_trace_is_left(bounded(connections), &given)?;
    }
}
