use std::net::Ipv4Addr;

use tracer_common::tcp::{Endpoint, Flow};

use super::super::left_out::Thing;
use super::*;
use crate::diagnosis::example::{HOST, padded};
use crate::diagnosis::{Check, Finding, Severity, rules};
use crate::ports::Route;
use crate::record::holding::{Holding, Owner, Side, Use};
use crate::record::{
    Close, CloseCause, CloseKind, Evidence, IncompleteSet, Initiator, Process, Role, States,
};
use crate::stream::{self, FailedCall};

/// A rolling watch that began at 0, and what was found at the end of each window.
struct Run {
    watch: Rolling,
    second: u64,
    answers: Vec<(u64, Vec<Finding>)>,
}

impl Run {
    fn new() -> Self {
        let mut watch = Rolling::new(rules::all(), true);
        watch.begin(Timestamp(0));
        Self {
            watch,
            second: 0,
            answers: Vec::new(),
        }
    }

    /// Goes on until `second`, with `each` in every second before it.
    fn until(&mut self, second: u64, each: impl Fn(&mut Rolling, u64)) -> &mut Self {
        while self.second < second {
            each(&mut self.watch, self.second);
            self.second += 1;
            let now = Timestamp(self.second * SECOND);
            if let Some(answer) = self.watch.tick(now) {
                self.answers.push((self.second, answer.findings));
            }
        }
        self
    }

    /// At which second what of `rule` was found: its severity and its summary.
    fn found(&self, rule: &str) -> Vec<(u64, Severity, &str)> {
        let answers = self.answers.iter();
        let found = answers.flat_map(|(second, findings)| {
            let findings = findings.iter().filter(|finding| finding.rule == rule);
            findings.map(|finding| (*second, finding.severity, finding.summary.as_str()))
        });
        found.collect()
    }
}

fn destination(number: u32) -> Endpoint {
    Endpoint {
        address: Ipv4Addr::from(0x0a01_0000 + number).into(),
        port: 80,
    }
}

/// A connect() of `name` that ended at `at`, refused or not.
fn connect(name: &str, peer: Endpoint, opened_at: u64, at: u64, is_refused: bool) -> Record {
    let (kind, initiator, cause) = match is_refused {
        true => (
            CloseKind::ConnectFailed,
            Initiator::Peer,
            CloseCause::Refused,
        ),
        false => (CloseKind::Active, Initiator::Local, CloseCause::Fin),
    };
    let succeeded = (!is_refused).then_some(Timestamp(opened_at + 1_000));
    Record {
        cookie: 7,
        generation: 0,
        netns: 1,
        netns_cookie: HOST,
        flow: Flow {
            local: Endpoint {
                address: [10, 0, 0, 5].into(),
                port: 40_000,
            },
            peer,
        },
        socket_is_v6: false,
        role: Role::Client,
        source_port_bound: Some(false),
        opened_at: Some(Timestamp(opened_at)),
        established_at: succeeded,
        close_began_at: succeeded,
        closed_at: Some(Timestamp(at)),
        ended_at: Some(Timestamp(at)),
        handshake_ns: succeeded.map(|_| 1_000),
        syn_retransmits: None,
        states: States::new(),
        close: Close {
            kind,
            initiator,
            cause: Some(cause),
            errno: None,
            evidence: Evidence {
                words: &[],
                half_close: false,
            },
        },
        fin_wait2: None,
        time_wait: None,
        time_wait_skipped: None,
        previous: None,
        opener: Process {
            pid: Some(7),
            tid: Some(7),
            comm: Some(padded(name.as_bytes())),
            name: Some(padded(name.as_bytes())),
            ..Process::default()
        },
        closer: Process::default(),
        uid: None,
        cgroup_id: None,
        timestamps: None,
        traffic: None,
        incomplete: IncompleteSet::default(),
    }
}

/// Ten connects are refused in this second.
fn refused(watch: &mut Rolling, second: u64) {
    for number in 0..10 {
        let at = second * SECOND + number;
        watch.close(&connect("web", destination(1), at, at + 1, true));
    }
}

fn nothing(_: &mut Rolling, _: u64) {}

#[test]
fn a_finding_begins_stays_and_ends_and_its_figures_are_of_the_window() {
    let mut run = Run::new();
    run.until(50, nothing)
        .until(80, refused)
        .until(135, nothing);
    let summary =
        |failed: u64| format!("web: connects to 10.1.0.1:80 are refused: {failed} of {failed}");
    let (error, warning) = (Severity::Error, Severity::Warning);
    let expected = [
        // From 30, from 45, from 60, and from 75: never those of all the time.
        (60, error, summary(100)),
        (75, error, summary(250)),
        (90, error, summary(200)),
        (105, warning, summary(50)),
    ];
    let expected: Vec<_> = (expected.iter())
        .map(|(at, severity, summary)| (*at, *severity, summary.as_str()))
        .collect();
    assert_eq!(run.found("connects-refused"), expected);
    let seconds: Vec<u64> = run.answers.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [15, 30, 45, 60, 75, 90, 105, 120, 135]);
}

#[test]
fn among_many_destinations_the_rules_are_asked_bit_by_bit_and_all_of_them() {
    let mut run = Run::new();
    run.until(30, |watch, second| {
        refused(watch, second);
        let at = second * SECOND;
        for number in 2..2_000 {
            watch.close(&connect("web", destination(number), at, at, false));
        }
    });
    assert_eq!(run.watch.asked, 0, "the next window");
    let found = run.found("connects-refused");
    let seconds: Vec<u64> = found.iter().map(|(second, ..)| *second).collect();
    assert_eq!(seconds, [15, 30]);
    run.until(42, nothing);
    assert_eq!(run.watch.asked, 2);
}

#[test]
fn what_the_window_says_is_what_a_diagnosis_of_half_a_minute_says() {
    // Of two hours, refused in the last half minute.
    let mut run = Run::new();
    run.until(7_170, nothing).until(7_200, refused);
    let mut fresh = Run::new();
    fresh.watch.begin(Timestamp(7_170 * SECOND));
    fresh.second = 7_170;
    fresh.until(7_200, refused);
    let last = |run: &Run| run.answers.last().map(|(_, findings)| findings.clone());
    let found = last(&run).expect("a window");
    assert_eq!(found.len(), 1);
    assert_eq!(Some(found), last(&fresh));
}

#[test]
fn a_connection_from_before_the_window_is_no_attempt_of_it() {
    let mut run = Run::new();
    run.until(100, |watch, second| {
        refused(watch, second);
        let at = second * SECOND;
        // A hundred old ones close.
        for number in 0..100 {
            let opened = number;
            watch.close(&connect("web", destination(1), opened, at + number, false));
        }
    });
    let found = run.found("connects-refused");
    assert_eq!(
        found.last().map(|(_, _, summary)| *summary),
        Some("web: connects to 10.1.0.1:80 are refused: 300 of 300")
    );
}

#[test]
fn counters_are_held_against_those_at_the_start_of_the_window() {
    let mut run = Run::new();
    run.until(300, |watch, second| {
        let mut reading = NamespaceReading {
            at: Timestamp(second * SECOND),
            netns: 1,
            netns_cookie: HOST,
            ..NamespaceReading::default()
        };
        // Up to 100 it overflows.
        reading.counters.listen_overflows = Some(second.min(100));
        watch.namespace(&reading);
    });
    let found = run.found("accept-queue-overflow");
    let seconds: Vec<u64> = found.iter().map(|(second, ..)| *second).collect();
    assert_eq!(seconds, [15, 30, 45, 60, 75, 90, 105, 120]);
    assert!(
        found[4].2.ends_with("overflowed 30 times"),
        "{}",
        found[4].2
    );
}

fn close_wait(number: u32, was: Option<Timestamp>, is: Option<Timestamp>) -> HoldingChange {
    let holding = |since| Holding {
        by: Use::CloseWait,
        owner: Owner {
            process: Process {
                name: Some(padded(number.to_string().as_bytes())),
                ..Process::default()
            },
            cgroup_id: None,
        },
        port: 40_000,
        since: Some(since),
        ends_at: None,
    };
    HoldingChange {
        at: Timestamp(0),
        netns: 1,
        netns_cookie: HOST,
        flow: Flow {
            local: Endpoint {
                address: [10, 0, 0, 5].into(),
                port: 40_000,
            },
            peer: destination(number),
        },
        side: Side::Client { bound: Some(false) },
        was: was.map(holding),
        is: is.map(holding),
    }
}

#[test]
fn close_waits_stay_known_and_their_growth_is_that_of_the_window() {
    let mut run = Run::new();
    run.until(40, |watch, second| {
        let mut change = close_wait(1, None, Some(Timestamp(second * SECOND)));
        change.was = change.is.map(|is| Holding {
            by: Use::Established,
            ..is
        });
        watch.holding(&change);
    });
    let waits = |run: &Run| {
        let waits = run.watch.seen().close_waits.values().next();
        waits.map(|waits| (waits.since.len(), waits.entered, waits.left))
    };
    assert_eq!(waits(&run), Some((40, 25, 0)), "since 15");
    run.until(90, nothing);
    assert_eq!(waits(&run), Some((40, 0, 0)));
    let found = run.found("close-wait-growing");
    assert_eq!(
        found.last().map(|(_, _, summary)| *summary),
        Some("1 does not close 40 connections to 10.1.0.1:80")
    );
    run.until(91, |watch, _| {
        for second in 0..40 {
            watch.holding(&close_wait(1, Some(Timestamp(second * SECOND)), None));
        }
    });
    run.until(150, nothing);
    assert_eq!(waits(&run), None, "who holds none is forgotten");
}

#[test]
fn a_million_of_whatever_others_choose_find_a_bounded_place_and_the_rest_is_told() {
    let mut run = Run::new();
    run.until(1, refused);
    for number in 0..1_000_000_u32 {
        let name = format!("{number:x}");
        let peer = destination(number);
        if number.is_multiple_of(10_000) {
            run.watch.tick(Timestamp(SECOND));
        }
        run.watch.close(&connect(&name, peer, SECOND, SECOND, true));
        let mut change = close_wait(number, None, Some(Timestamp(SECOND)));
        run.watch.holding(&change);
        (change.was, change.is) = (change.is, None);
        run.watch.holding(&change);
        let failed = FailedCall {
            call: stream::Call::Connect,
            errno: 1,
            address: None,
            state: None,
            pid: number,
            tid: number,
            comm: padded(name.as_bytes()),
            name: padded(name.as_bytes()),
        };
        run.watch.call(&Call {
            at: Timestamp(SECOND),
            netns: 1,
            netns_cookie: HOST,
            flow: connect("", peer, 0, 0, true).flow,
            failed,
            has_record: false,
        });
        if number < 10_000 {
            run.watch.namespace(&NamespaceReading {
                at: Timestamp(SECOND),
                netns: number,
                netns_cookie: u64::from(number),
                ..NamespaceReading::default()
            });
        }
    }
    let is_bounded = |run: &Run| {
        let seen = run.watch.seen();
        let pairs = |tallies: &Tallies| tallies.routes.values().map(HashMap::len).sum::<usize>();
        assert_eq!(pairs(&seen.tallies), Tallies::PAIRS);
        assert_eq!(pairs(&run.watch.half.tallies), Tallies::PAIRS);
        assert_eq!(seen.tallies.calls.len(), Tallies::CALLS);
        assert_eq!(seen.close_waits.len(), Seen::CLOSE_WAITS);
        assert_eq!(seen.namespaces.len(), Seen::NAMESPACES);
        let left_out = run.watch.left_out();
        let told = Thing::ALL.map(|thing| left_out.of(thing));
        let expected = [
            1_000_001 - Tallies::PAIRS,
            1_000_000 - Tallies::CALLS,
            1_000_000 - Seen::CLOSE_WAITS,
            0,
            10_000 - Seen::NAMESPACES,
        ];
        assert_eq!(told, expected.map(|count| count as u64));
    };
    is_bounded(&run);
    run.until(14, nothing);
    is_bounded(&run);
    run.until(15, nothing);
    // What was there before still has its place, and says that it is not all.
    let found = run.answers[0].1.iter();
    let found = found.filter(|finding| finding.rule == "connects-refused");
    let finding = found.clone().next().expect("the ten");
    assert_eq!(found.count(), 1);
    let told = finding.evidence.last().expect("a sentence");
    assert!(
        told.starts_with("Not counted in all this: 983,617 closes and ends (no room"),
        "{told}"
    );
    // It passes, and there is room again.
    run.until(60, nothing).until(75, refused);
    assert!(run.watch.seen().close_waits.is_empty());
    assert_eq!(run.watch.seen().tallies.routes.len(), 1);
    let finding = &run.answers[4].1[0];
    assert!(
        !finding
            .evidence
            .iter()
            .any(|told| told.starts_with("Not counted"))
    );
}

#[test]
fn routes_that_hold_nothing_are_remembered_within_limits() {
    let mut run = Run::new();
    for number in 0..100_000 {
        let mut change = close_wait(number, None, Some(Timestamp(0)));
        change.is = change.is.map(|is| Holding {
            by: Use::Connecting,
            ..is
        });
        run.watch.holding(&change);
        (change.was, change.is) = (change.is, None);
        run.watch.holding(&change);
    }
    run.until(1, nothing);
    let ports = &run.watch.seen().ports;
    assert_eq!(
        (ports.routes().count(), ports.forgotten()),
        (65_536, 34_464)
    );
    run.until(70, nothing);
    assert_eq!(run.watch.seen().ports.routes().count(), 0);
}

#[test]
fn while_it_is_off_nothing_is_counted_and_the_ports_are_known() {
    let mut run = Run::new();
    run.watch.turn(false);
    run.until(40, |watch, second| {
        refused(watch, second);
        watch.holding(&close_wait(1, None, Some(Timestamp(0))));
        // Who came and went is nobody any more.
        watch.holding(&close_wait(2, None, Some(Timestamp(0))));
        watch.holding(&close_wait(2, Some(Timestamp(0)), None));
    });
    assert!(run.answers.is_empty());
    assert_eq!(run.watch.seen().close_waits.len(), 1);
    assert!(run.watch.seen().tallies.routes.is_empty());
    let held = |run: &Run| {
        run.watch
            .seen()
            .ports
            .routes()
            .filter(|(_, used)| used.used() > 0)
            .count()
    };
    assert_eq!(held(&run), 1);
    run.watch.turn(true);
    run.until(55, refused);
    let summary = "web: connects to 10.1.0.1:80 are refused: 150 of 150";
    assert_eq!(
        run.found("connects-refused"),
        [(55, Severity::Error, summary)]
    );
}

/// Finds each route that anything closed on.
struct EachRoute;

impl Rule for EachRoute {
    fn name(&self) -> &'static str {
        "each-route"
    }

    fn check(&self, seen: &Seen) -> Check {
        let routes = seen.tallies.routes.keys();
        let finding = |route: &Route| Finding {
            rule: self.name(),
            severity: Severity::Info,
            subject: crate::diagnosis::Subject::default(),
            summary: route.destination.to_string(),
            evidence: Vec::new(),
            dwell: None,
            advice: Vec::new(),
            warnings: Vec::new(),
            weight: 1,
        };
        Check::of(routes.map(finding).collect())
    }
}

#[test]
fn a_rule_tells_of_a_hundred_places_and_how_many_more_there_are() {
    let mut watch = Rolling::new(vec![&EachRoute], true);
    watch.begin(Timestamp(0));
    for number in 0..1_100 {
        watch.close(&connect("web", destination(number), 1, 1, true));
    }
    let answer = watch.tick(Timestamp(15 * SECOND)).expect("a window");
    assert_eq!(answer.findings.len(), 100);
    assert_eq!(
        answer.findings[0].evidence,
        ["The same of 1,000 more, each of less weight, is not told one by one."]
    );
}
