//! connects-refused: the peer answers our SYNs with an RST.

use super::attempts::{Attempts, Failing, findings};
use super::words::count;
use crate::diagnosis::{Advice, Check, Ending, Finding, Rule, Seen};
use crate::ports::Service;
use crate::record::{CloseCause, Initiator};

/// connect() fails with ECONNREFUSED. Thresholds: see [`super::attempts`].
pub(super) struct ConnectsRefused;

impl Rule for ConnectsRefused {
    fn name(&self) -> &'static str {
        "connects-refused"
    }

    fn check(&self, seen: &Seen) -> Check {
        let attempts = Attempts::all(seen);
        Check::of(findings(&attempts, failed, refused))
    }
}

fn failed(attempts: &Attempts) -> u64 {
    attempts.failures(|ending: &Ending| match ending.cause {
        Some(cause) => cause == CloseCause::Refused,
        // ECONNREFUSED, where no probe shows whether an RST or an ICMP message brought it.
        None => ending.initiator == Initiator::Peer,
    })
}

fn refused(attempts: &Attempts) -> Option<Finding> {
    let failed = failed(attempts);
    let last = attempts.last_failure();
    let failing = Failing { failed, last };
    let mut finding = attempts.finding(ConnectsRefused.name(), &failing, "are refused")?;
    let destination = attempts.route.destination;
    finding.evidence.push(
        "The answer came at once: the host is there, and nothing listens on the port, or a firewall \
         rejects with an RST."
            .to_owned(),
    );
    let is_local = destination.address.is_loopback();
    if is_local {
        finding.evidence.extend(nobody_listens(attempts));
    }
    let port = destination.port;
    finding.advice = vec![Advice {
        what: match is_local {
            true => format!("start what should listen on {destination}"),
            false => format!("see on {} whether anything listens", destination.address),
        },
        command: Some(format!("ss -ltnp 'sport = :{port}'")),
        effect: format!(
            "each of these connects ({} so far) succeeds once the port is listened on",
            count(failed)
        ),
        caution: Some(
            "a listener on 127.0.0.1 or in another network namespace does not answer here"
                .to_owned(),
        ),
        reference: "RFC 9293 3.5.2; man 2 connect",
        ..Advice::default()
    }];
    finding.warnings = vec![no_sysctl("a refused connect")];
    Some(finding)
}

/// Over loopback the listener would be one of this network namespace.
fn nobody_listens(attempts: &Attempts) -> Option<String> {
    let (seen, port) = (attempts.seen, attempts.route.destination.port);
    let netns_cookie = attempts.route.netns_cookie;
    let service = Service { netns_cookie, port };
    let listeners = seen
        .ports
        .service(&service)
        .map_or(0, |used| used.listeners);
    (seen.swept.is_some() && listeners == 0)
        .then(|| format!("Nothing listens on port {port} of this network namespace."))
}

pub(super) fn no_sysctl(what: &str) -> String {
    format!("tcp_tw_reuse, tcp_fin_timeout and a wider port range change nothing about {what}.")
}

#[cfg(test)]
mod tests {
    use super::super::attempts::tests::{fail, succeed};
    use super::*;
    use crate::diagnosis::Severity;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::holding::Use;

    fn found(example: &Example) -> Vec<Finding> {
        match ConnectsRefused.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => unreachable!("it is never too early"),
        }
    }

    fn curl(failed: u64, succeeded: u64) -> Example {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("10.0.0.9:80"), program("curl"));
        fail(traffic, CloseCause::Refused, failed, now);
        succeed(traffic, succeeded);
        example
    }

    #[test]
    fn all_connects_refused_are_an_error_and_not_time_wait() {
        let mut example = curl(120, 0);
        example.hold(route("10.0.0.9:80"), program("old"), Use::TimeWait, 312);
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "curl: connects to 10.0.0.9:80 are refused: 120 of 120"
        );
        assert!(finding.evidence.contains(
            &"It is not TIME_WAIT: 312 of 28,232 ports to 10.0.0.9:80 are used.".to_owned()
        ));
        assert_eq!(finding.subject.failed, Some(120));
    }

    #[test]
    fn a_backend_that_restarts_behind_many_connections_is_no_error() {
        assert_eq!(found(&curl(2, 0)), []);
        assert_eq!(found(&curl(5, 46))[0].severity, Severity::Info);
        assert_eq!(found(&curl(99, 2_000))[0].severity, Severity::Info);
        assert_eq!(found(&curl(2, 50_000)), []);
        // The same just above.
        assert_eq!(found(&curl(3, 0))[0].severity, Severity::Error);
        assert_eq!(found(&curl(5, 45))[0].severity, Severity::Error);
        assert_eq!(found(&curl(100, 2_000))[0].severity, Severity::Warning);
    }

    #[test]
    fn open_connections_count_as_attempts_if_they_were_opened_since() {
        let mut example = curl(5, 0);
        // A pool from before the watch is no attempt.
        example.hold(route("10.0.0.9:80"), program("curl"), Use::Established, 90);
        assert_eq!(found(&example)[0].severity, Severity::Error);
        // 10 s of 10 openings a second: 95 of them succeeded.
        example.open(route("10.0.0.9:80"), program("curl"), 10);
        let finding = &found(&example)[0];
        assert_eq!(finding.severity, Severity::Info);
        assert!(finding.summary.ends_with("5 of 95"), "{}", finding.summary);
    }

    #[test]
    fn what_is_over_is_a_warning() {
        let mut example = curl(50, 50);
        assert_eq!(found(&example)[0].severity, Severity::Error);
        example.seen.now = example.seen.now + std::time::Duration::from_secs(16);
        assert_eq!(found(&example)[0].severity, Severity::Warning);
    }

    #[test]
    fn a_program_that_tries_ipv6_first_and_gets_through_over_ipv4_is_healthy() {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("[::1]:8080"), program("curl"));
        fail(traffic, CloseCause::Refused, 40, now);
        succeed(
            example.traffic(route("127.0.0.1:8080"), program("curl")),
            39,
        );
        assert_eq!(found(&example)[0].severity, Severity::Error);
        succeed(example.traffic(route("127.0.0.1:8080"), program("curl")), 1);
        assert_eq!(found(&example)[0].severity, Severity::Info);
    }

    #[test]
    fn a_name_cannot_reach_the_terminal() {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("10.0.0.9:80"), program("\x1b[2J\n"));
        fail(traffic, CloseCause::Refused, 3, now);
        let summary = &found(&example)[0].summary;
        assert!(summary.starts_with("\\x1b[2J\\x0a: "), "{summary}");
    }
}
