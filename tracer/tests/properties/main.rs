//! What holds for any stream: sockets do not disturb each other, and garbage breaks nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use proptest::prelude::*;
use proptest::sample::Index;
use tracer::engine::{Config, Engine, Output, Remaining, Totals};
use tracer::record::{Record, Role};
use tracer::stream::{Body, Event};
use tracer::time::Timestamp;
use tracer_common::event::flags;

mod books;
mod bound;
mod given;
mod life;
mod short_calls;

use books::Books;
use given::{Given, any_given, nothing_found, without};
use life::{interleave, lives};

const SECOND: u64 = 1_000_000_000;
const HZ: u64 = 250;
const CONFIG: Config = Config {
    hz: HZ as u32,
    sees_timers: true,
    sees_segments: true,
    sees_resets: true,
    sees_schedules: false,
    rows: true,
    transitions: true,
    holdings: true,
    connections: usize::MAX,
};

fn run(events: &[Event]) -> (Vec<String>, Totals) {
    run_with(CONFIG, events)
}

fn run_with(config: Config, events: &[Event]) -> (Vec<String>, Totals) {
    let mut engine = Engine::new(config);
    let mut outputs = Vec::new();
    let mut take = |engine: &mut Engine| {
        while let Some(output) = engine.poll() {
            // When another socket's event brings a change to light is a matter of order.
            if !matches!(output, Output::Holding(_)) {
                outputs.push(format!("{output:?}"));
            }
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
    fn where_nobody_wants_rows_all_is_counted_the_same(lives in lives()) {
        let events = interleave(&lives, &[0]);
        let config = Config { rows: false, transitions: false, holdings: false, ..CONFIG };
        let (outputs, totals) = run_with(config, &events);
        prop_assert_eq!(outputs, Vec::<String>::new());
        prop_assert_eq!(totals, run(&events).1);
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
        let records = no_trace_is_left(CONFIG, &given)?;
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
        no_trace_is_left(CONFIG, &given)?;
    }
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
        if let Output::Close(record) | Output::Over(record) = output {
            records.push(*record);
        }
    }
}

/// No more are followed than may be, but for listeners, which are never let go.
fn is_within(engine: &Engine, connections: usize) -> bool {
    let is_listener = |held: &Remaining| held.record.role == Role::Listener;
    let tracked = engine.totals().tracked() as usize;
    tracked <= connections
        || tracked - connections <= engine.remaining().filter(is_listener).count()
}

/// The invariants hold throughout. Long after the last event nothing is parked, and once sock_diag
/// has found nothing twice, nothing is left, nor held. Gives the verdicts.
fn no_trace_is_left(config: Config, given: &[Given]) -> Result<Vec<Record>, TestCaseError> {
    let mut engine = Engine::new(config);
    let mut verdicts = Vec::new();
    let mut books = Books::default();
    for given in given {
        given.to(&mut engine);
        prop_assert!(
            engine.invariants_hold(),
            "{given:?}\n{:#?}",
            engine.totals()
        );
        prop_assert!(is_within(&engine, config.connections), "{given:?}");
        while let Some(output) = engine.poll() {
            if let Output::Close(record) | Output::End(record) | Output::Over(record) = &output {
                prop_assert!(is_coherent(record), "{record:?}");
            }
            take(output, &mut verdicts, &mut books)?;
        }
    }
    // A garbled timer may claim years; nothing waits for longer than the engine's bound.
    let mut now = 1_000 * SECOND;
    while let Some(due) = engine.poll_timeout() {
        prop_assert!(now < 1 << 63, "something is waited for without end");
        now = now.max(due.0) * 2;
        engine.handle_timeout(Timestamp(now));
        while let Some(output) = engine.poll() {
            take(output, &mut verdicts, &mut books)?;
        }
    }
    prop_assert_eq!(engine.waiting(), 0, "{:#?}", engine.totals());
    for round in 1..=2 {
        for netns in 1..3 {
            let at = Timestamp(now + round * 1_000 * SECOND);
            engine.handle_inventory(&nothing_found(netns, at));
        }
        engine.handle_timeout(Timestamp(now + round * 1_000 * SECOND + SECOND));
        engine.handle_timeout(Timestamp(now + round * 1_000 * SECOND + 2 * SECOND));
        while let Some(output) = engine.poll() {
            take(output, &mut verdicts, &mut books)?;
        }
    }
    prop_assert!(engine.invariants_hold());
    let totals = engine.totals();
    prop_assert_eq!((totals.open, totals.minisockets), (0, 0), "{:#?}", totals);
    prop_assert!(books.held().is_empty(), "{:#?}", books.held());
    Ok(verdicts)
}

fn take(
    output: Output,
    verdicts: &mut Vec<Record>,
    books: &mut Books,
) -> Result<(), TestCaseError> {
    match output {
        Output::Close(record) | Output::Over(record) => verdicts.push(*record),
        Output::Holding(change) => books.take(&change).map_err(TestCaseError::fail)?,
        _ => {}
    }
    Ok(())
}
