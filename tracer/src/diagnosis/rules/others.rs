//! The rules that are not about ports.

use super::accept_queue::AcceptQueueOverflow;
use super::close_wait::CloseWaitGrowing;
use super::conntrack::ConntrackFull;
use super::denied::Denied;
use super::descriptors::DescriptorsExhausted;
use super::fin_wait2::FinWait2Waiting;
use super::no_route::NoRoute;
use super::orphans::Orphans;
use super::refused::ConnectsRefused;
use super::resets::ResetsSent;
use super::reuse_address::ListenerWithoutReuseaddr;
use super::silent::{ConnectsTimingOut, ConnectsUnanswered};
use super::unreachable::ConnectsUnreachable;
use crate::diagnosis::Rule;

/// Each of them. Where connects fail for one of these reasons, its finding says that TIME_WAIT is
/// not to blame.
pub const OTHERS: &[&dyn Rule] = &[
    &ConnectsRefused,
    &ConnectsUnanswered,
    &ConnectsTimingOut,
    &ConnectsUnreachable,
    &NoRoute,
    &Denied,
    &DescriptorsExhausted,
    &ConntrackFull,
    &AcceptQueueOverflow,
    &CloseWaitGrowing,
    &FinWait2Waiting,
    &ResetsSent,
    &ListenerWithoutReuseaddr,
    &Orphans,
];

#[cfg(test)]
mod tests {
    use super::super::attempts::tests::{fail, succeed};
    use super::*;
    use crate::diagnosis::example::{Example, HOST, program, route, service};
    use crate::diagnosis::{Check, CloseWaits, Finding, Severity};
    use crate::record::holding::Use;
    use crate::record::{CloseCause, CloseKind, FinWait2Exit, Initiator};
    use crate::stream::Call;

    fn findings(example: &Example) -> Vec<Finding> {
        let checks = OTHERS.iter().map(|rule| rule.check(&example.seen));
        let findings = checks.flat_map(|check| match check {
            Check::Found(findings) | Check::TooEarly(findings) => findings,
            Check::Quiet => Vec::new(),
        });
        findings.collect()
    }

    /// 50,000 connections of a proxy, with the small misfortunes of every day.
    fn healthy() -> Example {
        let mut example = Example::new();
        let now = example.seen.now;
        let (proxy, nginx) = (program("proxy"), program("nginx"));
        let backend = route("10.0.0.9:8080");
        example.open(backend, proxy, 5_000);
        example.hold(backend, proxy, Use::TimeWait, 20_000);
        example.hold(backend, proxy, Use::FinWait2, 300);
        example.hold(backend, proxy, Use::Connecting, 20);
        example.hold(backend, proxy, Use::Established, 60);
        let traffic = example.traffic(backend, proxy);
        succeed(traffic, 49_000);
        traffic
            .fin_wait2_exits
            .insert(FinWait2Exit::PeerFin, 49_000);
        traffic.fin_wait2_exits.insert(FinWait2Exit::TimedOut, 30);
        // A backend that restarts, a SYN that is lost, a client that hangs up.
        fail(traffic, CloseCause::Refused, 90, now);
        fail(traffic, CloseCause::Abandoned, 20, now);
        fail(traffic, CloseCause::TimedOut, 2, now);
        let (reset, unread) = (CloseKind::ResetSent, Some(CloseCause::UnreadData));
        traffic.add_closes(reset, unread, Initiator::Local, 400);
        example.listen("0.0.0.0:443", nginx);
        example.serve(443, nginx, Use::TimeWait, 9_000);
        example.serve(443, nginx, Use::CloseWait, 100);
        succeed(example.served(443, nginx), 50_000);
        // IPv6 that leads nowhere, tried first.
        let call = (Call::Connect, libc::ENETUNREACH);
        example.fail(call, Some("[2001:db8::9]:8080"), proxy, (2_000, 0));
        let waits = CloseWaits {
            since: [(example.seen.now.0 / 100_000_000 - 1, 100)].into(),
            entered: 50_000,
            left: 49_900,
            ..CloseWaits::default()
        };
        example.seen.close_waits.insert((HOST, nginx), waits);
        let counters = example.counters();
        counters.orphans = Some(900);
        counters.conntrack_entries = Some(80_000);
        example.settings().conntrack_max = Some(262_144);
        example
    }

    #[test]
    fn a_healthy_host_of_50_000_connections_meets_no_error_and_no_warning() {
        let found = findings(&healthy());
        let bad: Vec<_> = found
            .iter()
            .filter(|finding| finding.severity != Severity::Info)
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    #[test]
    fn an_idle_host_is_told_nothing() {
        assert_eq!(findings(&Example::new()), []);
        // Nor is one that nothing is known of.
        let mut blind = Example::new();
        blind.seen.namespaces.clear();
        assert_eq!(findings(&blind), []);
    }

    #[test]
    fn no_two_rules_share_a_name() {
        let mut names: Vec<_> = OTHERS.iter().map(|rule| rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OTHERS.len());
    }

    #[test]
    fn each_finding_has_a_short_summary_a_reason_and_advice() {
        let mut example = healthy();
        let (api, nginx) = (program("api"), program("nginx"));
        let now = example.seen.now;
        for cause in [
            CloseCause::Refused,
            CloseCause::Unreachable,
            CloseCause::TimedOut,
        ] {
            let traffic = example.traffic(route("10.0.0.10:5432"), api);
            fail(traffic, cause, 50, now);
        }
        example.hold(route("10.0.0.11:6379"), api, Use::Connecting, 50);
        for errno in [libc::ENETUNREACH, libc::EPERM] {
            let there = Some("192.0.2.1:443");
            example.fail((Call::Connect, errno), there, api, (50, 0));
        }
        example.fail((Call::Accept, libc::EMFILE), None, nginx, (50, 0));
        let bind = (Call::Bind, libc::EADDRINUSE);
        example.fail(bind, Some("0.0.0.0:8443"), nginx, (50, 0));
        example.serve(8443, nginx, Use::TimeWait, 50);
        example.settings().conntrack_max = Some(80_000);
        let counters = example.counters();
        counters.listen_overflows = Some(50);
        counters.aborts_on_memory = Some(50);
        let traffic = example.served(443, nginx);
        traffic.fin_wait2_exits.insert(FinWait2Exit::TimedOut, 50);
        let linger = Some(CloseCause::LingerZero);
        traffic.add_closes(CloseKind::ResetSent, linger, Initiator::Local, 5_000);
        let waits = CloseWaits {
            since_unknown: 900,
            ..CloseWaits::default()
        };
        example.seen.close_waits.insert((HOST, api), waits);
        assert!(example.seen.ports.service(&service(8443)).is_some());

        let mut found = findings(&example);
        found.retain(|finding| finding.severity != Severity::Info);
        let mut rules: Vec<_> = found.iter().map(|finding| finding.rule).collect();
        rules.dedup();
        let all: Vec<_> = OTHERS.iter().map(|rule| rule.name()).collect();
        assert_eq!(rules, all);
        for finding in &found {
            let Finding { summary, .. } = finding;
            assert!(summary.chars().count() <= 78, "{summary}");
            assert!(!finding.evidence.is_empty() && !finding.advice.is_empty());
            for sentence in finding.evidence.iter().chain(&finding.warnings) {
                assert!(sentence.ends_with('.'), "{sentence}");
                assert!(!sentence.contains("  "), "{sentence}");
            }
            for advice in &finding.advice {
                assert!(!advice.reference.is_empty());
                for clause in [&advice.what, &advice.effect] {
                    assert!(!clause.is_empty() && !clause.ends_with('.'), "{clause}");
                    assert!(!clause.contains("  "), "{clause}");
                }
            }
        }
        let is_not_time_wait = |finding: &&Finding| {
            let mut evidence = finding.evidence.iter();
            evidence.any(|sentence| sentence.starts_with("It is not TIME_WAIT: "))
        };
        let said = found.iter().filter(is_not_time_wait);
        let mut said: Vec<_> = said.map(|finding| finding.rule).collect();
        said.dedup();
        // Those by which connects fail.
        assert_eq!(said, all[..9]);
    }
}
