//! However much comes at one time, no call does more than takes a moment; and what comes out is the
//! same as where one call does it all.

use proptest::prelude::*;
use tracer::engine::{Engine, Output};
use tracer::stream::Event;
use tracer::time::Timestamp;

use crate::given::{Given, any_given};
use crate::life::{interleave, life};
use crate::{CONFIG, SECOND};

const LIVES: u16 = 2_000;
/// No call gives more rows than this.
const AT_ONCE: usize = 400;

/// The verdicts and ends that wait to be taken.
fn rows(engine: &mut Engine) -> Vec<String> {
    std::iter::from_fn(|| engine.poll())
        .filter(|output| matches!(output, Output::Close(_) | Output::End(_) | Output::Over(_)))
        .map(|output| format!("{output:?}"))
        .collect()
}

/// Minisockets whose ends were lost are overdue together: no call settles many of them.
#[test]
fn what_is_due_together_is_done_in_many_short_calls() {
    let lives: Vec<_> = (0..LIVES)
        .map(|number| {
            let mut events = life(number, (1_000 * SECOND, false, 4, 0, 0));
            events.truncate(events.len() - 2);
            events
        })
        .collect();
    let events = interleave(&lives, &[0]);
    let mut engine = Engine::new(CONFIG);
    let mut told = 0;
    for event in &events {
        engine.handle_event(event);
        told += rows(&mut engine).len();
    }
    let mut calls = 0;
    let now = Timestamp(events.last().unwrap().at.0 + 100 * SECOND);
    while engine.poll_timeout().is_some_and(|due| due <= now) {
        let overdue = engine.totals().minisockets_overdue;
        engine.handle_timeout(now);
        let overdue = engine.totals().minisockets_overdue - overdue;
        let rows = rows(&mut engine).len();
        let done = rows + overdue as usize;
        assert!(done <= AT_ONCE, "{done} in one call");
        told += rows;
        calls += 1;
    }
    assert!(calls >= usize::from(LIVES) / AT_ONCE, "{calls} calls");
    assert_eq!(told, 2 * usize::from(LIVES), "a verdict and an end of each");
    assert_eq!(engine.totals().minisockets_overdue, u64::from(LIVES));
    assert!(engine.invariants_hold());
}

/// Connections that closed with one stamp, and an event by which all their verdicts are due.
fn closed_together() -> Vec<Event> {
    let lives: Vec<_> = (0..LIVES)
        .map(|number| life(number, (1_000 * SECOND, false, 0, 0, 0)))
        .collect();
    let mut events = interleave(&lives, &[0]);
    let latest = events.last().unwrap().at.0;
    events.extend(life(LIVES, (latest + SECOND, false, 0, 0, 0)));
    events
}

#[test]
fn what_was_parked_together_is_settled_before_an_event_in_many_short_calls() {
    let mut engine = Engine::new(CONFIG);
    let mut most = 0;
    let mut told = Vec::new();
    for event in &closed_together() {
        while engine.settle_before(event) {
            let rows = rows(&mut engine);
            most = most.max(rows.len());
            told.extend(rows);
        }
        engine.handle_event(event);
        let rows = rows(&mut engine);
        most = most.max(rows.len());
        told.extend(rows);
    }
    assert!(most <= AT_ONCE, "{most} in one call");
    assert_eq!(told.len(), usize::from(LIVES));
    let mut whole = Engine::new(CONFIG);
    let mut told_whole = Vec::new();
    for event in &closed_together() {
        whole.handle_event(event);
        told_whole.extend(rows(&mut whole));
    }
    assert_eq!(told, told_whole);
    assert_eq!(engine.totals(), whole.totals());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn to_settle_before_each_event_changes_nothing(
        given in prop::collection::vec(any_given(), 0..200),
    ) {
        let mut engine = Engine::new(CONFIG);
        let mut whole = Engine::new(CONFIG);
        for given in &given {
            let mut told = Vec::new();
            if let Given::Event(event) = given {
                while engine.settle_before(event) {
                    told.extend(rows(&mut engine));
                }
            }
            given.to(&mut engine);
            given.to(&mut whole);
            told.extend(rows(&mut engine));
            prop_assert_eq!(told, rows(&mut whole));
            prop_assert_eq!(engine.totals(), whole.totals());
        }
    }
}
