//! orphans: the kernel gives up connections that programs have closed.

use super::words::{count, finding, many, percent};
use crate::diagnosis::{Advice, Check, Finding, NamespaceSeen, Rule, Seen, Severity, Subject};
use crate::record::{CloseCause, CloseKind};

/// A connection that close() has left to the kernel is an orphan until its FIN is acknowledged.
/// Where there are more than tcp_max_orphans, or memory is short (tcp_mem), the kernel resets it:
/// what was still to be sent is lost. Error: at least 10 since the watch began; warning: fewer. A
/// healthy host counts none.
pub(super) struct Orphans;

/// From so many on it is more than one burst.
const ERROR: u64 = 10;

impl Rule for Orphans {
    fn name(&self) -> &'static str {
        "orphans"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut namespaces: Vec<_> = seen.namespaces.iter().collect();
        namespaces.sort_unstable_by_key(|(netns_cookie, _)| **netns_cookie);
        let findings = namespaces
            .into_iter()
            .filter_map(|(netns_cookie, namespace)| given_up(seen, *netns_cookie, namespace));
        Check::of(findings.collect())
    }
}

fn given_up(seen: &Seen, netns_cookie: u64, namespace: &NamespaceSeen) -> Option<Finding> {
    let closes = closes(seen, netns_cookie);
    let counted = namespace.growth(|counters| counters.aborts_on_memory);
    let lost = closes.max(counted);
    if lost == 0 {
        return None;
    }
    let severity = match lost {
        ERROR.. => Severity::Error,
        _ => Severity::Warning,
    };
    let orphans = namespace.latest.counters.orphans;
    let most = namespace.latest.settings.max_orphans;
    let subject = Subject {
        netns_cookie: Some(netns_cookie),
        used: orphans,
        capacity: most.map(u64::from),
        failed: Some(lost),
        ..Subject::default()
    };
    let summary = format!(
        "The kernel gave up {} for want of memory or as an orphan",
        many(lost, "closed connection")
    );
    let mut finding = finding(Orphans.name(), severity, subject, summary, lost);
    finding.evidence.push(format!(
        "TcpExtTCPAbortOnMemory grew by {}; {} seen to close so.",
        count(counted),
        match closes {
            1 => "1 connection was".to_owned(),
            _ => format!("{} connections were", count(closes)),
        }
    ));
    if let Some((orphans, most)) = orphans.zip(most) {
        finding.evidence.push(format!(
            "{} now, {} of tcp_max_orphans = {}.",
            match orphans {
                1 => "1 orphan is there".to_owned(),
                _ => format!("{} orphans are there", count(orphans)),
            },
            percent(orphans, most.into()),
            count(most.into())
        ));
    }
    // An orphan that has not got through for a while counts double or fourfold against the limit.
    let is_limit = orphans
        .zip(most)
        .is_some_and(|(orphans, most)| orphans >= u64::from(most) / 4);
    let limit = Advice {
        what: "raise the limit of orphans, for all network namespaces".to_owned(),
        command: most.map(|most| {
            format!(
                "sysctl -w net.ipv4.tcp_max_orphans={}",
                most.saturating_mul(2)
            )
        }),
        present: most.map(|most| format!("net.ipv4.tcp_max_orphans = {most}")),
        proposed: most.map(|most| most.saturating_mul(2).to_string()),
        effect: "orphans are kept until their FIN is acknowledged, or given up after \
                 tcp_orphan_retries"
            .to_owned(),
        caution: Some(
            "an orphan can hold up to about 64 kB of memory that is not swapped".to_owned(),
        ),
        reference: "man 7 tcp",
    };
    let memory = Advice {
        what: "compare the pages that TCP holds with tcp_mem".to_owned(),
        command: Some("grep TCP: /proc/net/sockstat; sysctl net.ipv4.tcp_mem".to_owned()),
        effect:
            "`mem` near the third number of tcp_mem: TCP is out of memory, often for peers that \
                 do not read what is sent to them"
                .to_owned(),
        reference: "man 7 tcp",
        ..Advice::default()
    };
    finding.advice = match is_limit {
        true => vec![limit, memory],
        false => vec![memory, limit],
    };
    finding.warnings.push(
        "A TIME_WAIT is no orphan: neither limit counts it, and tcp_max_tw_buckets changes nothing \
         here."
            .to_owned(),
    );
    Some(finding)
}

/// Closes of that cause.
fn closes(seen: &Seen, netns_cookie: u64) -> u64 {
    let clients = seen
        .tallies
        .routes
        .iter()
        .filter(|(route, _)| route.netns_cookie == netns_cookie);
    let servers = seen
        .tallies
        .services
        .iter()
        .filter(|(service, _)| service.netns_cookie == netns_cookie);
    let clients = clients.flat_map(|(_, programs)| programs.values());
    let servers = servers.flat_map(|(_, programs)| programs.values());
    clients
        .chain(servers)
        .map(|traffic| traffic.caused(CloseKind::ResetSent, CloseCause::OrphanOrMemory))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program};
    use crate::record::Initiator;

    fn found(example: &Example) -> Vec<Finding> {
        match Orphans.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    #[test]
    fn orphans_above_the_limit_are_an_error_about_the_limit() {
        let mut example = Example::new();
        example.counters().aborts_on_memory = Some(30);
        example.counters().orphans = Some(131_000);
        let traffic = example.served(443, program("nginx"));
        let cause = Some(CloseCause::OrphanOrMemory);
        traffic.add_closes(CloseKind::ResetSent, cause, Initiator::Local, 12);
        let finding = &found(&example)[0];
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.evidence[0],
            "TcpExtTCPAbortOnMemory grew by 30; 12 connections were seen to close so."
        );
        let command = finding.advice[0].command.as_deref();
        assert_eq!(command, Some("sysctl -w net.ipv4.tcp_max_orphans=262144"));
    }

    #[test]
    fn few_orphans_point_at_memory_and_few_losses_are_a_warning() {
        let mut example = Example::new();
        example.counters().aborts_on_memory = Some(9);
        example.counters().orphans = Some(32_767);
        let finding = &found(&example)[0];
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.advice[0].what.contains("tcp_mem"));
        example.counters().orphans = Some(32_768);
        assert!(found(&example)[0].advice[1].what.contains("tcp_mem"));
    }

    #[test]
    fn many_orphans_that_are_kept_are_nothing() {
        let mut example = Example::new();
        example.counters().orphans = Some(131_000);
        assert_eq!(found(&example), []);
    }
}
