use std::time::Duration;

use tracer_common::tcp::{Endpoint, Flow};

use super::*;
use crate::diagnosis::rule::Check;
use crate::diagnosis::{Advice, Finding, Verdict};
use crate::engine::Totals;
use crate::record::holding::{Holding, Owner};
use crate::record::{Process, Source};
use crate::stream::{AccountReading, ProbeReport, Skipped};

const SECOND: u64 = 1_000_000_000;

/// Finds an error as long as more than so many are in CLOSE_WAIT.
struct MoreThan(u64);

impl Rule for MoreThan {
    fn name(&self) -> &'static str {
        "more-than"
    }

    fn check(&self, seen: &Seen) -> Check {
        let waits = seen.close_waits.values();
        let held: u64 = waits
            .map(|waits| waits.since_unknown + waits.since.values().sum::<u64>())
            .sum();
        Check::of(match held > self.0 {
            true => vec![finding(held)],
            false => Vec::new(),
        })
    }
}

fn finding(held: u64) -> Finding {
    Finding {
        rule: "more-than",
        severity: Severity::Error,
        subject: Subject {
            destination: Some(peer()),
            ..Subject::default()
        },
        summary: held.to_string(),
        evidence: Vec::new(),
        dwell: None,
        advice: vec![Advice::default()],
        warnings: Vec::new(),
        weight: held,
    }
}

fn peer() -> Endpoint {
    Endpoint {
        address: [10, 0, 0, 9].into(),
        port: 80,
    }
}

fn holding(by: Use, since: Option<u64>) -> Option<Holding> {
    Some(Holding {
        by,
        owner: Owner {
            process: Process {
                name: Some(*b"leaky\0\0\0\0\0\0\0\0\0\0\0"),
                source: Source::Exact,
                ..Process::default()
            },
            cgroup_id: None,
        },
        port: 40_000,
        since: since.map(Timestamp),
        ends_at: None,
    })
}

fn change(was: Option<Holding>, is: Option<Holding>) -> HoldingChange {
    HoldingChange {
        at: Timestamp(SECOND),
        netns: 1,
        netns_cookie: 1,
        flow: Flow {
            local: Endpoint {
                address: [10, 0, 0, 5].into(),
                port: 40_000,
            },
            peer: peer(),
        },
        side: Side::Client { bound: Some(false) },
        was,
        is,
    }
}

fn sweep(skipped: Vec<Skipped>) -> Sweep {
    Sweep {
        at: Timestamp(SECOND),
        purpose: Purpose::Start,
        namespaces: 1,
        sockets: 2,
        fin_wait2s: 0,
        time_waits: 3,
        cpu: Duration::ZERO,
        skipped,
    }
}

fn meta(probes: Vec<ProbeReport>) -> Meta {
    Meta {
        host: "host".to_owned(),
        boot_id: String::new(),
        kernel: "6.18".to_owned(),
        hz: 250,
        probes,
    }
}

fn watch(until_certain: bool, filter: Filter) -> Watch {
    let mut watch = Watch::new(vec![&MoreThan(0)], until_certain, filter);
    let out = &mut BytesMut::new();
    watch.meta(&meta(Vec::new()), Timestamp(0), WallOffset(0), out);
    watch
}

fn swept(watch: &mut Watch) {
    watch.sweep(&sweep(Vec::new()), WallOffset(0), &mut BytesMut::new());
}

fn tick(watch: &mut Watch, seconds: u64) {
    watch.tick(&Books {
        now: Timestamp(seconds * SECOND),
        totals: &Totals::default(),
        reading: &AccountReading::default(),
        received: 0,
        missed: 0,
    });
}

#[test]
fn close_waits_are_counted_as_they_come_and_go() {
    let mut watch = watch(false, Filter::default());
    let established = holding(Use::Established, Some(SECOND));
    let waits = holding(Use::CloseWait, Some(2 * SECOND));
    watch.holding(&change(None, established));
    watch.holding(&change(established, waits));
    // One that was there before.
    let found = holding(Use::CloseWait, None);
    watch.holding(&change(None, found));
    let held = watch.seen.close_waits.values().next().expect("one program");
    assert_eq!((held.entered, held.left), (1, 0));
    assert_eq!((held.since.get(&20), held.since_unknown), (Some(&1), 1));
    watch.holding(&change(waits, holding(Use::Closing, Some(3 * SECOND))));
    watch.holding(&change(found, None));
    let held = watch.seen.close_waits.values().next().expect("one program");
    assert_eq!((held.entered, held.left), (1, 2));
    assert!(held.since.is_empty() && held.since_unknown == 0);
    assert_eq!(watch.opened, 1, "what was found has not opened");
}

#[test]
fn it_is_done_when_an_error_has_stood_for_a_while() {
    let mut watch = watch(true, Filter::default());
    watch.holding(&change(None, holding(Use::CloseWait, None)));
    tick(&mut watch, 1);
    assert!(
        watch.findings().is_empty(),
        "what was there is not known yet"
    );
    swept(&mut watch);
    for seconds in 2..5 {
        tick(&mut watch, seconds);
        assert_eq!(watch.findings().len(), 1);
        assert!(!watch.is_done(), "after {seconds} s");
    }
    tick(&mut watch, 5);
    assert!(watch.is_done());
}

#[test]
fn an_error_that_has_just_come_up_is_not_certain_and_a_set_time_is_kept() {
    let mut sudden = watch(true, Filter::default());
    swept(&mut sudden);
    tick(&mut sudden, 6);
    sudden.holding(&change(None, holding(Use::CloseWait, None)));
    tick(&mut sudden, 7);
    assert!(!sudden.is_done());
    tick(&mut sudden, 8);
    assert!(sudden.is_done());
    let mut patient = watch(false, Filter::default());
    swept(&mut patient);
    patient.holding(&change(None, holding(Use::CloseWait, None)));
    (5..30).for_each(|seconds| tick(&mut patient, seconds));
    assert!(!patient.is_done());
}

#[test]
fn a_filter_chooses_findings_and_not_what_is_counted() {
    let elsewhere = Filter {
        ports: vec![443],
        ..Filter::default()
    };
    let mut watch = watch(true, elsewhere);
    swept(&mut watch);
    watch.holding(&change(None, holding(Use::CloseWait, None)));
    tick(&mut watch, 6);
    assert!(watch.findings().is_empty());
    assert_eq!(watch.seen.ports.routes().count(), 1);
}

#[test]
fn what_could_not_be_seen_makes_it_inconclusive() {
    let refused = ProbeReport {
        name: "timer_expire",
        hook: "timer_expire_entry",
        state: ProbeState::Refused("refused".to_owned()),
        purpose: "TIME_WAIT: its end by expiry",
    };
    let mut blind = watch(false, Filter::default());
    let out = &mut BytesMut::new();
    blind.meta(&meta(vec![refused]), Timestamp(0), WallOffset(0), out);
    blind.opened = 1;
    swept(&mut blind);
    let report = blind.into_report();
    assert_eq!(report.blind, ["TIME_WAIT: its end by expiry: refused"]);
    assert_eq!(report.verdict(), Verdict::Inconclusive);
    assert_eq!((report.found, report.exit_code()), (5, 3));

    // A namespace that could not be looked at, with a name that is none of ours.
    let mut elsewhere = watch(false, Filter::default());
    elsewhere.opened = 1;
    let skipped = Skipped {
        netns: None,
        path: "/run/netns/\x1b[2J".to_owned(),
        reason: "not permitted".to_owned(),
    };
    elsewhere.sweep(&sweep(vec![skipped]), WallOffset(0), out);
    let report = elsewhere.into_report();
    let said = "the sockets of /run/netns/\\u{1b}[2J: not permitted";
    assert_eq!(report.blind, [said]);
    assert_eq!(report.exit_code(), 3);
}
