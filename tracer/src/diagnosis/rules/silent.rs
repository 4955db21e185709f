//! connects-unanswered and connects-timing-out: nothing answers our SYNs.
//!
//! The kernel sends a SYN again after 1 s and after 3 s, and gives up after a minute or two
//! (tcp_syn_retries). A connect() that has waited 3 s has therefore had two SYNs unanswered: that
//! the peer is silent is certain long before any time-out. A program that gives up earlier by its
//! own clock has met the same.

use std::time::Duration;

use super::attempts::{Attempts, Failing, findings};
use super::refused::no_sysctl;
use super::words::{count, many};
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen};
use crate::ports::tenth;
use crate::record::CloseCause;

/// connect() has waited longer than two SYNs, or was given up by the program. Thresholds: see
/// [`super::attempts`].
pub(super) struct ConnectsUnanswered;

/// connect() failed with ETIMEDOUT, and none waits now. Thresholds: see [`super::attempts`].
pub(super) struct ConnectsTimingOut;

/// How long a connect() must have waited for its peer to be silent.
const SILENT: Duration = Duration::from_secs(3);

impl Rule for ConnectsUnanswered {
    fn name(&self) -> &'static str {
        "connects-unanswered"
    }

    fn check(&self, seen: &Seen) -> Check {
        let attempts = Attempts::all(seen);
        let failed = |attempts: &Attempts| match Silence::of(attempts) {
            silence if silence.lasts() => silence.all(),
            _ => 0,
        };
        let findings = findings(&attempts, failed, unanswered);
        let may_be_silent = |attempts: &Attempts| attempts.under_way >= 3;
        if seen.watched() < SILENT && attempts.iter().any(may_be_silent) {
            return Check::TooEarly(findings);
        }
        Check::of(findings)
    }
}

impl Rule for ConnectsTimingOut {
    fn name(&self) -> &'static str {
        "connects-timing-out"
    }

    fn check(&self, seen: &Seen) -> Check {
        let attempts = Attempts::all(seen);
        let failed = |attempts: &Attempts| match Silence::of(attempts) {
            silence if silence.lasts() => 0,
            silence => silence.timed_out,
        };
        Check::of(findings(&attempts, failed, timing_out))
    }
}

/// The connects of one program on one route that nothing answers.
struct Silence {
    /// They wait now, for [`SILENT`] at least.
    waiting: u64,
    /// The program gave them up.
    abandoned: u64,
    /// The kernel gave them up.
    timed_out: u64,
}

impl Silence {
    fn of(attempts: &Attempts) -> Self {
        let caused = |cause| attempts.failures(|ending| ending.cause == Some(cause));
        Self {
            waiting: waiting(attempts),
            abandoned: caused(CloseCause::Abandoned),
            timed_out: caused(CloseCause::TimedOut),
        }
    }

    const fn all(&self) -> u64 {
        self.waiting + self.abandoned + self.timed_out
    }

    /// The time-outs alone are left to be told by [`ConnectsTimingOut`].
    const fn lasts(&self) -> bool {
        self.waiting + self.abandoned > 0
    }
}

/// How many have waited for [`SILENT`], at least: at most as many as were opened on the route since
/// then have not.
fn waiting(attempts: &Attempts) -> u64 {
    let seen = attempts.seen;
    if seen.watched() < SILENT {
        return 0;
    }
    let since = tenth(seen.now).saturating_sub(SILENT.as_millis() as u64 / 100);
    let used = seen.ports.route(&attempts.route);
    let recent = used.map_or(0, |used| {
        let openings = used.openings.range(since..);
        openings.map(|(_, count)| u64::from(*count)).sum()
    });
    attempts.under_way.saturating_sub(recent)
}

fn unanswered(attempts: &Attempts) -> Option<Finding> {
    let silence = Silence::of(attempts);
    if !silence.lasts() {
        return None;
    }
    let failing = Failing {
        failed: silence.all(),
        last: attempts.last_failure().filter(|_| silence.waiting == 0),
    };
    let rule = ConnectsUnanswered.name();
    let mut finding = attempts.finding(rule, &failing, "are not answered")?;
    let evidence = &mut finding.evidence;
    if silence.waiting > 0 {
        evidence.push(format!(
            "At least {} now for more than {} s: two SYNs of each went unanswered.",
            match silence.waiting {
                1 => "1 connect waits".to_owned(),
                waiting => format!("{} connects wait", count(waiting)),
            },
            SILENT.as_secs()
        ));
    }
    if silence.abandoned > 0 {
        evidence.push(format!(
            "The program gave up {} itself, before the kernel would have.",
            many(silence.abandoned, "connect")
        ));
    }
    if silence.timed_out > 0 {
        evidence.push(format!(
            "{} ended in ETIMEDOUT.",
            many(silence.timed_out, "connect")
        ));
    }
    explain(attempts, &mut finding);
    Some(finding)
}

fn timing_out(attempts: &Attempts) -> Option<Finding> {
    let silence = Silence::of(attempts);
    if silence.lasts() {
        return None;
    }
    let failing = Failing {
        failed: silence.timed_out,
        last: attempts.last_failure(),
    };
    let mut finding = attempts.finding(ConnectsTimingOut.name(), &failing, "time out")?;
    explain(attempts, &mut finding);
    Some(finding)
}

/// What both have to say.
fn explain(attempts: &Attempts, finding: &mut Finding) {
    let destination = attempts.route.destination;
    let again = attempts
        .traffic
        .map_or(0, |traffic| traffic.syn_retransmits);
    if again > 0 {
        let sent = match again {
            1 => "1 SYN was sent again".to_owned(),
            _ => format!("{} SYNs were sent again", count(again)),
        };
        finding
            .evidence
            .push(format!("{sent} by connects that have ended."));
    }
    finding.evidence.push(
        "A port that nothing listens on answers with an RST; silence is a host that is down, a \
         firewall that drops, a full accept queue there, or a way back that is broken."
            .to_owned(),
    );
    let settings = attempts.seen.settings(attempts.route.netns_cookie);
    let retries = settings.and_then(|settings| settings.syn_retries);
    finding.advice = vec![
        Advice {
            what: format!("see whether the SYNs leave and whether {destination} answers them"),
            command: Some(format!(
                "tcpdump -ni any 'host {} and tcp port {} and tcp[tcpflags] & tcp-syn != 0'",
                destination.address, destination.port
            )),
            effect:
                "tells a SYN that is dropped on the way out from an answer that is lost on the \
                     way back"
                    .to_owned(),
            reference: "RFC 9293 3.8.3; man 2 connect",
            ..Advice::default()
        },
        Advice {
            what: "on the destination, see whether its accept queue is full".to_owned(),
            command: Some(format!("ss -ltn 'sport = :{}'", destination.port)),
            effect:
                "Recv-Q above Send-Q there: the program does not accept(), and the kernel drops \
                     SYNs"
                    .to_owned(),
            reference: "man 2 listen",
            ..Advice::default()
        },
        Advice {
            what: "let the program give up sooner: a time-out of its own on connect(), of some \
                   seconds"
                .to_owned(),
            command: None,
            present: retries.map(|retries| format!("net.ipv4.tcp_syn_retries = {retries}")),
            effect: "each connect that waits holds a port, a descriptor and often a thread until \
                     the kernel gives up, after a minute or two"
                .to_owned(),
            caution: Some(
                "a lower tcp_syn_retries does the same to every program of the network namespace"
                    .to_owned(),
            ),
            reference: "man 7 tcp",
            ..Advice::default()
        },
    ];
    finding.warnings = vec![no_sysctl("a silent peer")];
}

#[cfg(test)]
mod tests {
    use super::super::attempts::tests::{fail, succeed};
    use super::*;
    use crate::diagnosis::Severity;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::holding::Use;

    fn findings(rule: &dyn Rule, example: &Example) -> Vec<Finding> {
        match rule.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is not too early"),
        }
    }

    fn waiting(count: u16) -> Example {
        let mut example = Example::new();
        example.hold(route("10.0.0.9:80"), program("api"), Use::Connecting, count);
        example
    }

    #[test]
    fn connects_that_wait_are_told_before_any_time_out() {
        let example = waiting(40);
        let [finding] = &findings(&ConnectsUnanswered, &example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "api: connects to 10.0.0.9:80 are not answered: 40 of 40"
        );
        assert!(finding.evidence[1].starts_with("It is not TIME_WAIT: 40 of 28,232 ports"));
        assert!(finding.evidence[2].starts_with("At least 40 connects wait now"));
        assert_eq!(findings(&ConnectsTimingOut, &example), []);
    }

    #[test]
    fn connects_under_way_that_may_be_young_are_not_silence() {
        let mut example = waiting(40);
        // Of 13 opened a second, 39 are younger than 3 s: one at least is older.
        example.open(route("10.0.0.9:80"), program("api"), 13);
        assert_eq!(findings(&ConnectsUnanswered, &example), []);
        // 2 may be anything.
        assert_eq!(findings(&ConnectsUnanswered, &waiting(2)), []);
    }

    #[test]
    fn less_than_3_seconds_do_not_tell() {
        let mut example = waiting(40);
        example.seen.now = example.seen.began + Duration::from_millis(2_900);
        let check = ConnectsUnanswered.check(&example.seen);
        assert_eq!(check, Check::TooEarly(vec![]));
        example.seen.now = example.seen.began + Duration::from_secs(3);
        assert_eq!(findings(&ConnectsUnanswered, &example).len(), 1);
    }

    #[test]
    fn connects_that_the_program_gives_up_are_unanswered() {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("10.0.0.9:80"), program("api"));
        succeed(traffic, 46);
        fail(traffic, CloseCause::Abandoned, 5, now);
        // Not a tenth.
        let severity = findings(&ConnectsUnanswered, &example)[0].severity;
        assert_eq!(severity, Severity::Info);
        let traffic = example.traffic(route("10.0.0.9:80"), program("api"));
        fail(traffic, CloseCause::Abandoned, 1, now);
        let finding = &findings(&ConnectsUnanswered, &example)[0];
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.evidence[3].starts_with("The program gave up 6 connects itself"));
    }

    #[test]
    fn time_outs_are_told_by_one_rule_at_a_time() {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("10.0.0.9:80"), program("api"));
        fail(traffic, CloseCause::TimedOut, 2, now);
        assert_eq!(findings(&ConnectsTimingOut, &example), []);
        let traffic = example.traffic(route("10.0.0.9:80"), program("api"));
        fail(traffic, CloseCause::TimedOut, 1, now);
        let [finding] = &findings(&ConnectsTimingOut, &example)[..] else {
            panic!("one finding")
        };
        assert_eq!(
            finding.summary,
            "api: connects to 10.0.0.9:80 time out: 3 of 3"
        );
        assert_eq!(findings(&ConnectsUnanswered, &example), []);
        example.hold(route("10.0.0.9:80"), program("api"), Use::Connecting, 1);
        assert_eq!(findings(&ConnectsTimingOut, &example), []);
        let finding = &findings(&ConnectsUnanswered, &example)[0];
        assert!(finding.summary.ends_with("4 of 4"), "{}", finding.summary);
    }
}
