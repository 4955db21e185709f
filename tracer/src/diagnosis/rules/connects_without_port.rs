//! Connects or binds fail for want of a port though the route's ports are not used up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::words::of_the_worst;
use crate::diagnosis::advice::{self, duration};
use crate::diagnosis::culprit::{self, label, parties};
use crate::diagnosis::finding::{Advice, Finding, Severity, Subject};
use crate::diagnosis::load::{Load, Loads};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::output::text;
use crate::ports::{Program, Route};
use crate::record::{CloseCause, CloseKind, Source};
use crate::stream::Call;

/// `connects-without-port`.
pub struct ConnectsWithoutPort;

/// Below this share of use, a port that could not be had was not missing because all are in use.
/// Between it and what [`super::ports_exhausted`] calls used up, nothing is certain.
const TO_SPARE: f64 = 0.9;

impl Rule for ConnectsWithoutPort {
    fn name(&self) -> &'static str {
        "connects-without-port"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings: Vec<Finding> = binds(seen);
        let mut is_too_early = false;
        let mut loads = Loads::new(seen);
        let mut routes: Vec<&Route> = seen.tallies.routes.keys().collect();
        routes.sort_unstable();
        // What failed without a record tells hardly another order, and costs a look at all routes.
        let weight = |route: &&Route| match culprit::has_failed_lately(seen, route) {
            true => {
                let (kind, cause) = (CloseKind::ConnectFailed, CloseCause::NoPort);
                let traffic = seen.traffic(route);
                let failed = traffic.map(|(_, traffic)| traffic.caused(kind, cause));
                failed.sum::<u64>().max(1)
            }
            false => 0,
        };
        findings.extend(of_the_worst(routes, weight, |route| {
            let load = loads.of(route);
            let Some(capacity) = load.capacity else {
                is_too_early = true;
                return None;
            };
            let has_some = capacity > 0 && (load.used as f64) < TO_SPARE * capacity as f64;
            has_some.then(|| connects(seen, route, &load, culprit::failures(seen, route)))
        }));
        match is_too_early {
            true => Check::TooEarly(findings),
            false => Check::of(findings),
        }
    }
}

fn connects(seen: &Seen, route: &Route, load: &Load, failed: u64) -> Finding {
    let worst = parties(seen, route)
        .into_iter()
        .max_by_key(|party| party.failed);
    let worst = worst.filter(|party| party.failed > 0);
    let who = label(seen, worst.as_ref().map(|party| &party.program));
    let capacity = load.capacity.unwrap_or(0);
    let counts = format!("{} of {}", text::count(load.used), text::count(capacity));
    let evidence = vec![
        format!(
            "{} connect() calls from {} to {} failed for want of a port in {}, the last just \
             now; {counts} ports are in use.",
            text::count(failed),
            route.source,
            route.destination,
            duration(Duration::from_secs(seen.watched().as_secs().max(1))),
        ),
        "What is left: a range of the socket's own (IP_LOCAL_PORT_RANGE) that is narrower than \
         ip_local_port_range, or memory (ENOMEM)."
            .to_owned(),
    ];
    let pid = worst.as_ref().and_then(|party| party.pids.last());
    let pid = pid.map_or_else(|| "PID".to_owned(), u32::to_string);
    let advice = Advice {
        what: format!("look for IP_LOCAL_PORT_RANGE in {who}, and widen or drop it"),
        command: Some(format!("strace -f -e trace=setsockopt,connect -p {pid}")),
        effect: format!("{counts} ports are used: the network namespace has more to give"),
        reference: "man 7 ip (IP_LOCAL_PORT_RANGE)",
        ..Advice::default()
    };
    Finding {
        rule: ConnectsWithoutPort.name(),
        severity: Severity::Error,
        summary: format!(
            "{who} gets no port to {}, with {counts} used",
            route.destination
        ),
        evidence,
        dwell: None,
        advice: vec![advice],
        warnings: vec![
            "A wider ip_local_port_range and tcp_tw_reuse change nothing here: ports are free."
                .to_owned(),
        ],
        weight: failed,
        subject: Subject {
            netns_cookie: Some(route.netns_cookie),
            program: worst.as_ref().map(|party| party.program),
            program_source: worst.as_ref().map_or(Source::Unknown, |party| party.source),
            pids: worst.map(|party| party.pids).unwrap_or_default(),
            source: Some(route.source),
            destination: Some(route.destination),
            used: Some(load.used),
            capacity: load.capacity,
            failed: Some(failed),
            ..Subject::default()
        },
    }
}

/// bind() that asks for any port and gets none: it takes ports from all destinations at once.
fn binds(seen: &Seen) -> Vec<Finding> {
    let mut failed: BTreeMap<(u64, Program), (u64, Vec<u32>)> = BTreeMap::new();
    for (key, tally) in &seen.tallies.calls {
        let is_ours = key.call == Call::Bind
            && i32::from(key.errno) == libc::EADDRINUSE
            && key.address.is_some_and(|address| address.port == 0);
        if is_ours && tally.count > 0 {
            let (count, pids) = failed.entry((key.netns_cookie, key.program)).or_default();
            *count += tally.count;
            pids.extend(&tally.pids);
        }
    }
    let mut findings = Vec::new();
    for ((netns_cookie, program), (count, pids)) in failed {
        let who = label(seen, Some(&program));
        let space = seen.space(netns_cookie);
        let mut evidence = vec![format!(
            "{} bind() calls with port 0 failed with EADDRINUSE in {}: bind() takes a port from all \
             destinations at once, and TIME_WAITs hold theirs against it.",
            text::count(count),
            duration(Duration::from_secs(seen.watched().as_secs().max(1))),
        )];
        if let Some(space) = &space {
            evidence.push(format!(
                "{} of {} ports of the range are taken by bind() now.",
                text::count(space.bound.len() as u64),
                text::count(space.size()),
            ));
        }
        findings.push(Finding {
            rule: ConnectsWithoutPort.name(),
            severity: Severity::Error,
            summary: format!(
                "{who} gets no source port from bind(): {} calls failed (EADDRINUSE)",
                text::count(count)
            ),
            evidence,
            dwell: None,
            advice: vec![advice::leave_the_port_to_the_kernel()],
            warnings: vec![
                "tcp_tw_reuse changes nothing here: bind() takes over no TIME_WAIT.".to_owned(),
            ],
            weight: count,
            subject: Subject {
                netns_cookie: Some(netns_cookie),
                program: Some(program),
                program_source: Source::Exact,
                pids,
                used: space.as_ref().map(|space| space.bound.len() as u64),
                capacity: space.map(|space| space.size()),
                failed: Some(count),
                ..Subject::default()
            },
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::holding::Use;
    use crate::record::{CloseCause, CloseKind, Initiator};

    /// 412 connects that failed a second ago, `used` of 28,232 ports in use.
    fn failing(used: u16) -> Example {
        let mut example = Example::new();
        let (there, php) = (route("10.0.0.9:3306"), program("php-fpm"));
        example.hold(there, php, Use::Established, used);
        let last = Some(example.seen.began + Duration::from_secs(9));
        let traffic = example.traffic(there, php);
        let cause = Some(CloseCause::NoPort);
        traffic.add_closes(CloseKind::ConnectFailed, cause, Initiator::Local, 412);
        traffic.last_without_port = last;
        example
    }

    fn found(example: &Example) -> Vec<Finding> {
        match ConnectsWithoutPort.check(&example.seen) {
            Check::Found(findings) => findings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_socket_that_gets_no_port_where_many_are_free_has_another_reason() {
        let finding = &found(&failing(120))[0];
        assert_eq!(
            finding.summary,
            "php-fpm gets no port to 10.0.0.9:3306, with 120 of 28,232 used"
        );
        assert_eq!(finding.subject.failed, Some(412));
    }

    #[test]
    fn where_the_ports_are_nearly_used_up_that_may_be_the_reason() {
        let rule = &ConnectsWithoutPort;
        assert_eq!(rule.check(&failing(25_409).seen), Check::Quiet);
        assert!(matches!(rule.check(&failing(25_408).seen), Check::Found(_)));
    }

    #[test]
    fn a_failure_of_some_time_ago_may_have_had_a_reason_that_is_gone() {
        let mut example = failing(120);
        example.seen.now = example.seen.now + Duration::from_secs(30);
        assert_eq!(ConnectsWithoutPort.check(&example.seen), Check::Quiet);
    }

    #[test]
    fn without_the_range_nothing_can_be_said() {
        let mut example = failing(120);
        example.settings().port_range = None;
        assert_eq!(
            ConnectsWithoutPort.check(&example.seen),
            Check::TooEarly(Vec::new())
        );
    }

    #[test]
    fn bind_that_finds_no_port_is_told_and_one_of_a_fixed_port_is_not() {
        let mut example = Example::new();
        let bind = (Call::Bind, libc::EADDRINUSE);
        example.fail(bind, Some("10.0.0.5:8080"), program("nginx"), (3, 0));
        example.fail(
            (Call::Bind, libc::EACCES),
            Some("10.0.0.5:0"),
            program("nginx"),
            (3, 0),
        );
        assert_eq!(ConnectsWithoutPort.check(&example.seen), Check::Quiet);
        example.fail(bind, Some("10.0.0.5:0"), program("haproxy"), (1_500, 0));
        let finding = &found(&example)[0];
        assert_eq!(
            finding.summary,
            "haproxy gets no source port from bind(): 1,500 calls failed (EADDRINUSE)"
        );
        assert!(
            finding.advice[0]
                .command
                .as_ref()
                .unwrap()
                .contains("IP_BIND_ADDRESS_NO_PORT")
        );
    }
}
