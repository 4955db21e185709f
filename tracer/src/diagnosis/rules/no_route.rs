//! no-route: connect() fails at once because there is no way to the destination.

use super::failures::Failures;
use super::refused::no_sysctl;
use super::words::of_the_worst;
use crate::diagnosis::command::prefix;
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen};
use crate::stream::Call;

/// The routing table has no way, or says so. From the third failure on it is an error, since there
/// is no reason why the next would not fail; the two before are information.
pub(super) struct NoRoute;

impl Rule for NoRoute {
    fn name(&self) -> &'static str {
        "no-route"
    }

    fn check(&self, seen: &Seen) -> Check {
        let failures = Failures::all(seen, |key| {
            let errors = [
                libc::ENETUNREACH,
                libc::EHOSTUNREACH,
                libc::ENETDOWN,
                libc::EHOSTDOWN,
            ];
            key.call == Call::Connect && errors.contains(&key.errno.into())
        });
        let count = |failures: &Failures| failures.count;
        Check::of(of_the_worst(failures, count, |failures| {
            Some(no_route(seen, failures))
        }))
    }
}

fn no_route(seen: &Seen, failures: &Failures) -> Finding {
    let mut finding = failures.finding(seen, NoRoute.name(), "find no route");
    let address = failures.example();
    let command = match failures.netns_cookie {
        0 => format!("ip route get {address}"),
        netns_cookie => format!("{}ip route get {address}", prefix(seen, netns_cookie)),
    };
    finding.advice = vec![Advice {
        what: format!("see what the routing table says of {address}, and add what is missing"),
        command: Some(command),
        effect: "ENETUNREACH: no entry and no default route; EHOSTUNREACH: a route of type \
                 unreachable; ENETDOWN: its interface is down"
            .to_owned(),
        caution: Some(
            "each network namespace has a routing table of its own; policy rules (`ip rule`) may \
             choose another table"
                .to_owned(),
        ),
        reference: "man 2 connect; man 8 ip-route",
        ..Advice::default()
    }];
    finding.warnings = vec![no_sysctl("a missing route")];
    finding
}

#[cfg(test)]
mod tests {
    use super::super::attempts::tests::succeed;
    use super::*;
    use crate::diagnosis::Severity;
    use crate::diagnosis::example::{Example, program, route};

    const NO_NET: (Call, i32) = (Call::Connect, libc::ENETUNREACH);

    fn found(example: &Example) -> Vec<Finding> {
        match NoRoute.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    #[test]
    fn three_connects_without_a_route_are_an_error() {
        let mut example = Example::new();
        example.fail(NO_NET, Some("192.0.2.1:443"), program("curl"), (2, 0));
        assert_eq!(found(&example)[0].severity, Severity::Info);
        example.fail(NO_NET, Some("192.0.2.1:443"), program("curl"), (1, 0));
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "curl: connects to 192.0.2.1:443 find no route: 3 times"
        );
        assert_eq!(
            finding.evidence[0],
            "connect() failed with ENETUNREACH (3)."
        );
        let words = "It is not TIME_WAIT: none of 28,232 ports to 192.0.2.1:443 is used.";
        assert!(finding.evidence.contains(&words.to_owned()));
    }

    #[test]
    fn failures_that_a_record_tells_of_are_left_to_other_rules() {
        let mut example = Example::new();
        example.fail(NO_NET, Some("192.0.2.1:443"), program("curl"), (9, 9));
        assert_eq!(found(&example), []);
    }

    #[test]
    fn several_destinations_of_a_program_are_one_finding() {
        let mut example = Example::new();
        example.fail(NO_NET, Some("192.0.2.1:443"), program("curl"), (2, 0));
        example.fail(NO_NET, Some("192.0.2.2:443"), program("curl"), (5, 0));
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(
            finding.summary,
            "curl: connects to 2 destinations find no route: 7 times"
        );
        assert_eq!(
            finding.evidence[1],
            "To 192.0.2.2:443 (5) and 192.0.2.1:443 (2)."
        );
    }

    #[test]
    fn a_host_without_ipv6_whose_programs_try_it_first_is_healthy() {
        let mut example = Example::new();
        let curl = program("curl");
        example.fail(NO_NET, Some("[2001:db8::9]:443"), curl, (500, 0));
        succeed(example.traffic(route("192.0.2.9:443"), curl), 499);
        assert_eq!(found(&example)[0].severity, Severity::Error);
        succeed(example.traffic(route("192.0.2.9:443"), curl), 1);
        assert_eq!(found(&example)[0].severity, Severity::Info);
    }
}
