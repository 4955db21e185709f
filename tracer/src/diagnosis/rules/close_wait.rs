//! close-wait-growing: our program does not close what its peers have closed.

use std::cmp::Reverse;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::places::Place;
use super::words::{count, finding, list, many, of_the_worst, seconds, who};
use crate::diagnosis::{Advice, Check, CloseWaits, Finding, Rule, Seen, Severity, Subject};
use crate::ports::{Holders, Program, tenth};
use crate::record::Source;
use crate::record::holding::Use;
use crate::time::Timestamp;

/// CLOSE_WAIT lasts until the program calls close(): a program that reads the end of the stream does
/// so within milliseconds, or once its work on the connection is done.
///
/// - error: at least 20 have waited for [`LONG`], and it closes (nearly) none;
/// - warning: at least 5 of that kind; or at least 20 that have waited twice as long while more and
///   more come to be there: it closes some, on another path it forgets to.
///
/// Quiet where they come and go, however many, and where a pool keeps some that are few.
pub(super) struct CloseWaitGrowing;

/// What has waited so long is not about to be closed.
const LONG: Duration = Duration::from_secs(10);

/// Where none of those was closed that were there before the watch, this much of it tells.
const WATCHED: Duration = Duration::from_secs(5);

/// From so many on,
const ERROR: u64 = 20;
/// and from so many.
const WARNING: u64 = 5;

/// The soft RLIMIT_NOFILE that most programs start with.
const USUAL_LIMIT: u64 = 1_024;

impl Rule for CloseWaitGrowing {
    fn name(&self) -> &'static str {
        "close-wait-growing"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut holders: Vec<_> = seen.close_waits.iter().collect();
        holders.sort_unstable_by_key(|(holder, _)| **holder);
        let leaks: Vec<_> = holders
            .iter()
            .map(|((netns_cookie, program), waits)| Leak::new(seen, *netns_cookie, program, waits))
            .collect();
        let weight = |leak: &&Leak| leak.severity().map_or(0, |_| leak.held);
        let findings = of_the_worst(&leaks, weight, |leak| leak.finding());
        let may_leak = |leak: &Leak| leak.held >= WARNING;
        if seen.watched() < WATCHED && findings.is_empty() && leaks.iter().any(may_leak) {
            return Check::TooEarly(findings);
        }
        Check::of(findings)
    }
}

/// How many are at a place, and whose.
type Held<'a> = (u64, Place, &'a Holders);

/// What one program holds in CLOSE_WAIT.
struct Leak<'a> {
    seen: &'a Seen,
    netns_cookie: u64,
    program: &'a Program,
    waits: &'a CloseWaits,
    /// All of them.
    held: u64,
    /// By how many they are more than as the watch began.
    grown: u64,
}

impl<'a> Leak<'a> {
    fn new(seen: &'a Seen, netns_cookie: u64, program: &'a Program, waits: &'a CloseWaits) -> Self {
        Self {
            seen,
            netns_cookie,
            program,
            waits,
            held: waits.since_unknown + waits.since.values().sum::<u64>(),
            grown: waits.entered.saturating_sub(waits.left),
        }
    }

    /// How many have waited at least so `long`, for certain.
    fn waited(&self, long: Duration) -> u64 {
        let Some(latest) = self.seen.now.0.checked_sub(long.as_nanos() as u64) else {
            return 0;
        };
        let known = self.waits.since.range(..tenth(Timestamp(latest)));
        let known: u64 = known.map(|(_, count)| count).sum();
        let is_told =
            self.waits.left == 0 && self.seen.watched() >= WATCHED || self.seen.watched() >= long;
        known + if is_told { self.waits.since_unknown } else { 0 }
    }

    fn severity(&self) -> Option<Severity> {
        let CloseWaits { entered, left, .. } = *self.waits;
        let closes_none = left == 0 || left * 10 <= entered;
        match self.waited(LONG) {
            ERROR.. if closes_none => Some(Severity::Error),
            WARNING.. if closes_none => Some(Severity::Warning),
            _ => {
                let forgets_some = self.grown >= ERROR && self.grown * 10 >= entered;
                (forgets_some && self.waited(LONG * 2) >= ERROR).then_some(Severity::Warning)
            }
        }
    }

    /// How many more there are each second. Less than a second of watching tells no rate: it counts
    /// as one.
    fn growth(&self) -> f64 {
        self.grown as f64 / self.seen.watched().as_secs_f64().max(1.0)
    }

    /// How long the oldest has waited at least.
    fn oldest(&self) -> Duration {
        let first = self.waits.since.keys().next();
        let known = first.map_or(Duration::ZERO, |first| {
            let tenths = tenth(self.seen.now).saturating_sub(*first);
            Duration::from_millis(tenths * 100)
        });
        match self.waits.since_unknown {
            0 => known,
            _ => known.max(self.seen.watched()),
        }
    }

    fn finding(&self) -> Option<Finding> {
        let severity = self.severity()?;
        let (name, growth) = (who(self.seen, self.program), self.growth());
        let places = self.places();
        let place = match places[..] {
            [(_, place, _)] => format!(" {}", place.name()),
            _ => String::new(),
        };
        let mut summary = format!(
            "{name} does not close {}{place}",
            many(self.held, "connection")
        );
        if growth >= 0.1 {
            summary.push_str(&format!(": {growth:.1} more a second"));
        }
        let rule = CloseWaitGrowing.name();
        let mut finding = finding(rule, severity, self.subject(&places), summary, self.held);
        finding.evidence = self.evidence(&name, growth, &places);
        finding.advice = self.advice(growth, finding.subject.pids.last());
        finding.warnings = vec![
            "No sysctl ends a CLOSE_WAIT: tcp_fin_timeout and tcp_tw_reuse are about other states."
                .to_owned(),
            "Keepalive probes do not end one either while the peer's host answers them.".to_owned(),
        ];
        Some(finding)
    }

    fn evidence(&self, name: &str, growth: f64, places: &[Held]) -> Vec<String> {
        let waits = self.waits;
        let mut evidence = vec![format!(
            "{} in CLOSE_WAIT: the peer has closed, {name} has not; {} of them for more than {} s; the oldest for {} at least.",
            match self.held {
                1 => "1 connection is".to_owned(),
                held => format!("{} connections are", count(held)),
            },
            count(self.waited(LONG)),
            LONG.as_secs(),
            seconds(self.oldest())
        )];
        evidence.push(format!(
            "Since the watch began {} came to be there and {} closed: {growth:.1} more a second.",
            count(waits.entered),
            match waits.left {
                0 => "none was".to_owned(),
                1 => "1 was".to_owned(),
                left => format!("{} were", count(left)),
            }
        ));
        if waits.since_unknown > 0 {
            evidence.push(format!(
                "{} were there before the watch.",
                count(waits.since_unknown)
            ));
        }
        let places: Vec<String> = places
            .iter()
            .map(|(held, place, _)| format!("{} ({})", place.name(), count(*held)))
            .collect();
        if !places.is_empty() {
            evidence.push(format!("Most are {}.", list(&places)));
        }
        evidence
    }

    /// Where they are from or to, the most first, with how many and whose.
    fn places(&self) -> Vec<Held<'a>> {
        let held = |programs: &'a HashMap<Program, Holders, RandomState>| {
            let holders = programs.get(self.program)?;
            let held = holders.counts.of(Use::CloseWait);
            (held > 0).then_some((held, holders))
        };
        let routes = self.seen.ports.routes();
        let routes = routes.filter(|(route, _)| route.netns_cookie == self.netns_cookie);
        let to = routes.filter_map(|(route, used)| {
            let (held, holders) = held(&used.programs)?;
            Some((held, Place::To(*route), holders))
        });
        let services = self.seen.ports.services();
        let services = services.filter(|(service, _)| service.netns_cookie == self.netns_cookie);
        let on = services.filter_map(|(service, used)| {
            let (held, holders) = held(&used.programs)?;
            Some((held, Place::At(*service), holders))
        });
        let mut places: Vec<_> = to.chain(on).collect();
        places.sort_unstable_by_key(|(held, place, _)| (Reverse(*held), *place));
        places
    }

    fn advice(&self, growth: f64, pid: Option<&u32>) -> Vec<Advice> {
        let until = match growth {
            growth if growth >= 0.1 && self.held < USUAL_LIMIT => {
                let left = (USUAL_LIMIT - self.held) as f64 / growth;
                format!(
                    "; at this growth the usual limit of {} is met in {}",
                    count(USUAL_LIMIT),
                    seconds(Duration::from_secs(left as u64))
                )
            }
            _ => String::new(),
        };
        let pid = pid.map_or_else(|| "PID".to_owned(), u32::to_string);
        vec![
            Advice {
                what: "close the connection in the program when read() returns 0, on every path: \
                       errors, time-outs, idle pools"
                    .to_owned(),
                command: Some("if (read(fd, …) == 0) close(fd);".to_owned()),
                effect: format!(
                    "CLOSE_WAIT ends with close() and with nothing else: {} come free",
                    many(self.held, "connection")
                ),
                reference: "RFC 9293 3.6; man 2 close",
                ..Advice::default()
            },
            Advice {
                what:
                    "until then, see how many descriptors are left, and restart the program before \
                       there are none"
                        .to_owned(),
                command: Some(format!(
                    "ss -tnp state close-wait; prlimit --pid {pid} --nofile"
                )),
                effect: format!(
                    "each CLOSE_WAIT holds a descriptor; at RLIMIT_NOFILE accept() and socket() fail \
                     with EMFILE{until}"
                ),
                caution: Some("a higher limit only puts it off".to_owned()),
                reference: "man 2 getrlimit",
                ..Advice::default()
            },
        ]
    }

    fn subject(&self, places: &[Held]) -> Subject {
        let mut pids: Vec<_> = places
            .iter()
            .flat_map(|(.., holders)| &holders.pids)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        // Where they are all of one place, that is what it is about.
        let place = match places {
            [(_, place, _)] => place.subject(None),
            _ => Subject::default(),
        };
        Subject {
            netns_cookie: Some(self.netns_cookie),
            program: Some(*self.program),
            program_source: places
                .first()
                .map_or(Source::Unknown, |(.., holders)| holders.source),
            pids: pids.into_iter().copied().take(Holders::PIDS).collect(),
            used: Some(self.held),
            ..place
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, HOST, program, route};

    fn found(example: &Example) -> Vec<Finding> {
        match CloseWaitGrowing.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is not too early"),
        }
    }

    /// A watch of 30 s, in which so many were entered and left; those that are there were entered so
    /// many seconds ago.
    fn leak(waiting: &[(u64, u64)], (entered, left): (u64, u64)) -> Example {
        let mut example = Example::new();
        example.seen.now = example.seen.began + Duration::from_secs(30);
        let now = tenth(example.seen.now);
        let since = waiting.iter();
        let since = since.map(|(count, seconds)| (now - seconds * 10 - 1, *count));
        let waits = CloseWaits {
            since: since.collect(),
            since_unknown: 0,
            entered,
            left,
        };
        let key = (HOST, program("worker"));
        example.seen.close_waits.insert(key, waits);
        example
    }

    #[test]
    fn a_program_that_never_closes_is_an_error_with_its_growth() {
        let mut example = leak(&[(100, 25), (200, 5)], (300, 0));
        let there = route("10.0.0.9:3306");
        example.hold(there, program("worker"), Use::CloseWait, 300);
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "worker does not close 300 connections to 10.0.0.9:3306: 10.0 more a second"
        );
        assert_eq!(
            finding.evidence,
            [
                "300 connections are in CLOSE_WAIT: the peer has closed, worker has not; 100 of them for more than 10 s; the oldest for \
                 25.10s at least.",
                "Since the watch began 300 came to be there and none was closed: 10.0 more a second.",
                "Most are to 10.0.0.9:3306 (300)."
            ]
        );
        assert!(finding.advice[1].effect.ends_with("is met in 72s"));
        assert_eq!(finding.subject.pids.len(), 1);
    }

    #[test]
    fn few_are_a_warning_and_fewer_nothing() {
        assert_eq!(
            found(&leak(&[(20, 10)], (20, 0)))[0].severity,
            Severity::Error
        );
        assert_eq!(
            found(&leak(&[(19, 10)], (19, 0)))[0].severity,
            Severity::Warning
        );
        assert_eq!(
            found(&leak(&[(5, 10)], (5, 0)))[0].severity,
            Severity::Warning
        );
        assert_eq!(found(&leak(&[(4, 10)], (4, 0))), []);
        // Many, but they may yet be closed.
        assert_eq!(found(&leak(&[(500, 9)], (500, 0))), []);
    }

    #[test]
    fn close_waits_that_come_and_go_are_nothing() {
        // Each takes 15 s of work before it is closed.
        assert_eq!(found(&leak(&[(100, 14), (200, 5)], (900, 900))), []);
        // The same as its load begins.
        assert_eq!(found(&leak(&[(100, 14), (200, 5)], (600, 300))), []);
    }

    #[test]
    fn a_program_that_forgets_a_fifth_is_a_warning() {
        let example = leak(&[(100, 21), (200, 5)], (1_500, 1_200));
        assert_eq!(found(&example)[0].severity, Severity::Warning);
        // As many, but of so many more that these may be slow ones.
        assert_eq!(found(&leak(&[(100, 21), (200, 5)], (30_000, 29_700))), []);
    }

    #[test]
    fn those_from_before_the_watch_count_after_5_seconds_if_none_is_closed() {
        let mut example = Example::new();
        let key = (HOST, program("worker"));
        let waits = CloseWaits {
            since_unknown: 20,
            ..CloseWaits::default()
        };
        example.seen.close_waits.insert(key, waits);
        example.seen.now = example.seen.began + Duration::from_millis(4_900);
        let check = CloseWaitGrowing.check(&example.seen);
        assert_eq!(check, Check::TooEarly(vec![]));
        example.seen.now = example.seen.began + Duration::from_secs(5);
        assert_eq!(found(&example)[0].severity, Severity::Error);
        // Of those, 3 were closed: the others may be next.
        let waits = example.seen.close_waits.get_mut(&key).unwrap();
        waits.left = 3;
        assert_eq!(found(&example), []);
    }
}
