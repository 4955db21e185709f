//! connects-unreachable: an ICMP error ends connect().

use super::attempts::{Attempts, Failing, findings};
use super::programs::is_same;
use super::refused::no_sysctl;
use super::words::{count, list};
use crate::diagnosis::{Advice, Check, Finding, Rule, Seen};
use crate::output::errno;
use crate::record::CloseCause;
use crate::stream::Call;

/// connect() fails because a router, the peer's host, or this host itself (its neighbour does not
/// answer ARP) says by ICMP that the destination cannot be reached. Thresholds: see
/// [`super::attempts`].
pub(super) struct ConnectsUnreachable;

impl Rule for ConnectsUnreachable {
    fn name(&self) -> &'static str {
        "connects-unreachable"
    }

    fn check(&self, seen: &Seen) -> Check {
        let attempts = Attempts::all(seen);
        Check::of(findings(&attempts, failed, unreachable))
    }
}

fn failed(attempts: &Attempts) -> u64 {
    attempts.failures(|ending| ending.cause == Some(CloseCause::Unreachable))
}

fn unreachable(attempts: &Attempts) -> Option<Finding> {
    let failing = Failing {
        failed: failed(attempts),
        last: attempts.last_failure(),
    };
    let how = "end in ICMP unreachable";
    let mut finding = attempts.finding(ConnectsUnreachable.name(), &failing, how)?;
    let address = attempts.route.destination.address;
    finding.evidence.extend(errors(attempts));
    finding.evidence.push(
        "The SYN left and an ICMP error came back, from a router, from a firewall that rejects, or \
         from this host where its neighbour does not answer."
            .to_owned(),
    );
    finding.advice = vec![
        Advice {
            what: format!("see which way {address} is reached, and whether that neighbour answers"),
            command: Some(format!("ip route get {address}; ip neigh show")),
            effect: "FAILED or INCOMPLETE beside the next hop: the link or that host is down"
                .to_owned(),
            reference: "RFC 1122 3.2.2.1; man 8 ip-neighbour",
            ..Advice::default()
        },
        Advice {
            what: "see who sends the ICMP errors".to_owned(),
            command: Some("tcpdump -ni any 'icmp[icmptype] == 3 or icmp6[0] == 1'".to_owned()),
            effect: "names the router or firewall that refuses, and its code".to_owned(),
            reference: "RFC 792; RFC 4443 3.1",
            ..Advice::default()
        },
    ];
    finding.warnings = vec![no_sysctl("an unreachable destination")];
    Some(finding)
}

/// What the program was told, where its calls show it.
fn errors(attempts: &Attempts) -> Option<String> {
    let calls = attempts.seen.tallies.calls.iter().filter(|(key, tally)| {
        key.call == Call::Connect
            && key.address == Some(attempts.route.destination)
            && is_same(&key.program, &attempts.program)
            && tally.with_record > 0
    });
    let mut told: Vec<_> = calls
        .filter_map(|(key, tally)| Some((tally.with_record, errno::name(key.errno)?)))
        .collect();
    told.sort_unstable();
    let told = told.iter().rev();
    let told = told.map(|(times, name)| format!("{name} ({})", count(*times)));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("connect() failed with {}.", list(&told)))
}

#[cfg(test)]
mod tests {
    use super::super::attempts::tests::{fail, succeed};
    use super::*;
    use crate::diagnosis::Severity;
    use crate::diagnosis::example::{Example, program, route};

    fn found(example: &Example) -> Vec<Finding> {
        match ConnectsUnreachable.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    #[test]
    fn an_unreachable_destination_is_an_error_from_the_third_on() {
        let mut example = Example::new();
        let now = example.seen.now;
        let destination = "192.0.2.1:443";
        let traffic = example.traffic(route(destination), program("curl"));
        fail(traffic, CloseCause::Unreachable, 2, now);
        assert_eq!(found(&example), []);
        let traffic = example.traffic(route(destination), program("curl"));
        fail(traffic, CloseCause::Unreachable, 1, now);
        let call = (Call::Connect, libc::EHOSTUNREACH);
        example.fail(call, Some(destination), program("curl"), (3, 3));
        let [finding] = &found(&example)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "curl: connects to 192.0.2.1:443 end in ICMP unreachable: 3 of 3"
        );
        let told = "connect() failed with EHOSTUNREACH (3).".to_owned();
        assert!(finding.evidence.contains(&told), "{:?}", finding.evidence);
    }

    #[test]
    fn a_few_among_many_and_refusals_are_not_it() {
        let mut example = Example::new();
        let now = example.seen.now;
        let traffic = example.traffic(route("192.0.2.1:443"), program("curl"));
        succeed(traffic, 1_000);
        fail(traffic, CloseCause::Unreachable, 9, now);
        fail(traffic, CloseCause::Refused, 900, now);
        assert_eq!(found(&example)[0].severity, Severity::Info);
    }
}
