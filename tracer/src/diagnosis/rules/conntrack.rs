//! conntrack-full: the table of tracked connections has no room for new ones.

use super::words::{count, finding, is_at_least, many, not_time_wait, percent};
use crate::diagnosis::{Advice, Check, Finding, NamespaceSeen, Rule, Seen, Severity, Subject};

/// netfilter's connection tracking drops the first packet of a connection that it has no room for.
/// Error: at least 98 % full, and packets were dropped during the watch; warning: at least 90 % full.
/// A healthy table stays below: the kernel sizes it by memory, far above what is used.
pub(super) struct ConntrackFull;

impl Rule for ConntrackFull {
    fn name(&self) -> &'static str {
        "conntrack-full"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut namespaces: Vec<_> = seen.namespaces.iter().collect();
        namespaces.sort_unstable_by_key(|(netns_cookie, _)| **netns_cookie);
        let findings = namespaces
            .into_iter()
            .filter_map(|(netns_cookie, namespace)| full(seen, *netns_cookie, namespace));
        Check::of(findings.collect())
    }
}

fn full(seen: &Seen, netns_cookie: u64, namespace: &NamespaceSeen) -> Option<Finding> {
    let entries = namespace.latest.counters.conntrack_entries?;
    let most = namespace
        .latest
        .settings
        .conntrack_max
        .filter(|most| *most > 0)?;
    if !is_at_least(entries, 90, most) {
        return None;
    }
    let dropped = namespace.growth(|counters| counters.conntrack_drops);
    let severity = match dropped > 0 && is_at_least(entries, 98, most) {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let subject = Subject {
        netns_cookie: Some(netns_cookie),
        used: Some(entries),
        capacity: Some(most),
        failed: Some(dropped),
        ..Subject::default()
    };
    let summary = match severity {
        Severity::Error => format!(
            "Connection tracking is full: {} of {} entries, {} dropped",
            count(entries),
            count(most),
            many(dropped, "packet")
        ),
        _ => format!(
            "Connection tracking is nearly full: {} of {} entries",
            count(entries),
            count(most)
        ),
    };
    let mut finding = finding(ConntrackFull.name(), severity, subject, summary, dropped);
    finding.evidence = vec![
        format!(
            "{} of nf_conntrack_max = {} entries are in use ({}).",
            count(entries),
            count(most),
            percent(entries, most)
        ),
        format!(
            "{} dropped since the watch began, for want of an entry or to make room.",
            match dropped {
                1 => "1 packet was".to_owned(),
                _ => format!("{} packets were", count(dropped)),
            }
        ),
        "A connect() whose SYN is dropped looks as if the peer were silent.".to_owned(),
    ];
    finding
        .evidence
        .extend(not_time_wait(seen, netns_cookie, None));
    let proposed = most.saturating_mul(2);
    finding.advice = vec![
        Advice {
            what: "double the table".to_owned(),
            command: Some(format!("sysctl -w net.netfilter.nf_conntrack_max={proposed}")),
            present: Some(format!("net.netfilter.nf_conntrack_max = {most}")),
            proposed: Some(proposed.to_string()),
            effect: format!("room for {} more entries, at once", count(proposed - most)),
            caution: Some(
                "each entry takes about 320 bytes of kernel memory. Raise nf_conntrack_buckets with \
                 it, or lookups get slow. Only the host's own network namespace can set either"
                    .to_owned(),
            ),
            reference: "Linux Documentation/networking/nf_conntrack-sysctl.rst",
        },
        Advice {
            what: "keep closed connections tracked for less long".to_owned(),
            command: Some("sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=30".to_owned()),
            proposed: Some("30".to_owned()),
            effect: "this is how long the table remembers a closed connection (120 s by default); \
                     TIME_WAIT itself stays as it is"
                .to_owned(),
            caution: Some(
                "a FIN that comes again later than that is tracked anew, or dropped as invalid"
                    .to_owned(),
            ),
            reference: "Linux Documentation/networking/nf_conntrack-sysctl.rst",
            ..Advice::default()
        },
        Advice {
            what: "leave the busy destination untracked, where no NAT is needed".to_owned(),
            command: Some("iptables -t raw -A OUTPUT -p tcp --dport PORT -j CT --notrack".to_owned()),
            effect: "its connections take no entry at all".to_owned(),
            caution: Some("the answers need the same in PREROUTING; stateful rules no longer match"
                .to_owned()),
            reference: "man 8 iptables-extensions",
            ..Advice::default()
        },
    ];
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, HOST};

    fn table(entries: u64, dropped: u64) -> Vec<Finding> {
        let mut example = Example::new();
        example.settings().conntrack_max = Some(10_000);
        example.counters().conntrack_entries = Some(entries);
        example.counters().conntrack_drops = Some(70 + dropped);
        let namespace = example.seen.namespaces.get_mut(&HOST).unwrap();
        namespace.first.counters.conntrack_drops = Some(70);
        match ConntrackFull.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    #[test]
    fn a_full_table_that_drops_is_an_error() {
        let finding = &table(10_000, 50)[0];
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "Connection tracking is full: 10,000 of 10,000 entries, 50 packets dropped"
        );
        let command = finding.advice[0].command.as_deref();
        assert_eq!(
            command,
            Some("sysctl -w net.netfilter.nf_conntrack_max=20000")
        );
        assert_eq!(table(9_800, 1)[0].severity, Severity::Error);
    }

    #[test]
    fn a_table_that_is_nearly_full_is_a_warning_and_below_nothing() {
        assert_eq!(table(10_000, 0)[0].severity, Severity::Warning);
        assert_eq!(table(9_799, 9)[0].severity, Severity::Warning);
        assert_eq!(table(9_000, 0)[0].severity, Severity::Warning);
        assert_eq!(table(8_999, 9), []);
    }

    #[test]
    fn where_connections_are_not_tracked_there_is_nothing_to_say() {
        assert_eq!(ConntrackFull.check(&Example::new().seen), Check::Quiet);
    }
}
