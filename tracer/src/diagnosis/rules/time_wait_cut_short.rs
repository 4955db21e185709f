//! TIME_WAITs that end before their time: taken over by a new connection, or by a reset.

use super::places::{Place, most, places, sum};
use crate::diagnosis::advice::percent;
use crate::diagnosis::command::sysctl;
use crate::diagnosis::culprit::label;
use crate::diagnosis::finding::{Advice, Finding, Severity, Subject};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::diagnosis::traffic::Traffic;
use crate::output::text;
use crate::ports::Program;
use crate::record::TimeWaitExit;

/// `time-wait-cut-short`.
pub struct TimeWaitCutShort;

/// So many, and this share of those that ended, are no accident.
const ENOUGH: u64 = 10;
const OFTEN: f64 = 0.01;

fn ended(traffic: &Traffic) -> u64 {
    traffic.time_wait_exits.values().sum()
}

fn exits(traffic: &Traffic, exit: TimeWaitExit) -> u64 {
    traffic.time_wait_exits.get(&exit).copied().unwrap_or(0)
}

impl Rule for TimeWaitCutShort {
    fn name(&self) -> &'static str {
        "time-wait-cut-short"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings = Vec::new();
        for (place, programs) in places(seen) {
            let all = sum(&programs, ended);
            for exit in [
                TimeWaitExit::Reset,
                TimeWaitExit::ReusedByConnect,
                TimeWaitExit::ReusedBySyn,
            ] {
                let count = sum(&programs, |traffic| exits(traffic, exit));
                if count < ENOUGH || (count as f64) < OFTEN * all as f64 {
                    continue;
                }
                let program = most(&programs, |traffic| exits(traffic, exit));
                findings.push(match exit {
                    TimeWaitExit::Reset => reset(seen, &place, program, count, all),
                    _ => reused(seen, &place, program, exit, (count, all)),
                });
            }
        }
        Check::of(findings)
    }
}

fn reset(seen: &Seen, place: &Place, program: Option<Program>, count: u64, all: u64) -> Finding {
    let netns_cookie = place.netns_cookie();
    let present = seen
        .settings(netns_cookie)
        .and_then(|settings| settings.rfc1337);
    let name = "net.ipv4.tcp_rfc1337";
    let ignore = Advice {
        what: "ignore resets in TIME_WAIT".to_owned(),
        command: Some(sysctl(seen, netns_cookie, name, "1")),
        present: present.map(|value| value.to_string()),
        proposed: Some("1".to_owned()),
        effect: format!(
            "the {} that were cut short would have lasted their 60 s",
            text::count(count)
        ),
        caution: Some(
            "they then hold their ports that long: look at `tracer ports` first; and why the peer \
             resets after both FINs (data unread, SO_LINGER 0) is the better question"
                .to_owned(),
        ),
        reference: "RFC 1337; man 7 tcp (tcp_rfc1337)",
    };
    let advice = match present {
        // Where it is on already they were cut short in another way.
        Some(1) => Vec::new(),
        _ => vec![ignore],
    };
    Finding {
        rule: TimeWaitCutShort.name(),
        severity: Severity::Warning,
        summary: format!(
            "{} TIME_WAITs of {} {} were cut short by resets ({})",
            text::count(count),
            label(seen, program.as_ref()),
            place.name(),
            percent(count as f64 / all as f64),
        ),
        evidence: vec![format!(
            "{} of {} TIME_WAITs that ended were ended by an RST: their ports were free before old \
             segments had left the network (RFC 1337).",
            text::count(count),
            text::count(all),
        )],
        dwell: None,
        advice,
        warnings: Vec::new(),
        weight: count,
        subject: subject(place, program, count),
    }
}

fn reused(
    seen: &Seen,
    place: &Place,
    program: Option<Program>,
    exit: TimeWaitExit,
    (count, all): (u64, u64),
) -> Finding {
    let (by, why) = match exit {
        TimeWaitExit::ReusedByConnect => (
            "connect()",
            "tcp_tw_reuse at work: timestamps keep old segments out (RFC 6191, RFC 7323 5)",
        ),
        _ => (
            "a peer's SYN",
            "the peer opened anew from the same port, with a later sequence number or timestamp \
             (RFC 1122 4.2.2.13, RFC 6191)",
        ),
    };
    Finding {
        rule: TimeWaitCutShort.name(),
        severity: Severity::Info,
        summary: format!(
            "{} TIME_WAITs {} were taken over by {by} ({})",
            text::count(count),
            place.name(),
            percent(count as f64 / all as f64),
        ),
        evidence: vec![format!(
            "{} of {} TIME_WAITs of {} that ended were taken over by {by}: {why}.",
            text::count(count),
            text::count(all),
            label(seen, program.as_ref()),
        )],
        dwell: None,
        advice: Vec::new(),
        warnings: Vec::new(),
        weight: count,
        subject: subject(place, program, count),
    }
}

fn subject(place: &Place, program: Option<Program>, count: u64) -> Subject {
    Subject {
        used: Some(count),
        ..place.subject(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};

    fn cut(exit: TimeWaitExit, count: u64, expired: u64) -> Example {
        let mut example = Example::new();
        let traffic = example.traffic(route("10.0.0.9:3306"), program("php-fpm"));
        traffic.time_wait_exits.insert(exit, count);
        traffic
            .time_wait_exits
            .insert(TimeWaitExit::Expired, expired);
        example
    }

    fn found(example: &Example) -> Finding {
        match TimeWaitCutShort.check(&example.seen) {
            Check::Found(findings) if findings.len() == 1 => findings[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn resets_that_end_time_waits_are_a_warning() {
        let mut example = cut(TimeWaitExit::Reset, 50, 950);
        let finding = found(&example);
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.summary,
            "50 TIME_WAITs of php-fpm to 10.0.0.9:3306 were cut short by resets (5 %)"
        );
        assert_eq!(
            finding.advice[0].command.as_deref(),
            Some("sysctl -w net.ipv4.tcp_rfc1337=1")
        );
        example.settings().rfc1337 = Some(1);
        assert!(found(&example).advice.is_empty());
    }

    #[test]
    fn those_taken_over_are_worth_knowing() {
        let finding = found(&cut(TimeWaitExit::ReusedByConnect, 900, 100));
        assert_eq!(finding.severity, Severity::Info);
        assert!(
            finding
                .summary
                .ends_with("were taken over by connect() (90 %)")
        );
        let finding = found(&cut(TimeWaitExit::ReusedBySyn, 900, 100));
        assert_eq!(finding.severity, Severity::Info);
    }

    #[test]
    fn a_few_are_no_finding() {
        let quiet =
            |example: Example| assert_eq!(TimeWaitCutShort.check(&example.seen), Check::Quiet);
        quiet(cut(TimeWaitExit::Reset, 9, 0));
        quiet(cut(TimeWaitExit::Reset, 10, 991));
        quiet(cut(TimeWaitExit::Unknown, 900, 100));
        found(&cut(TimeWaitExit::Reset, 10, 990));
    }
}
