//! accept-queue-overflow: connections come faster than the program accepts them.

use tracer_common::tcp::Endpoint;

use super::programs::{is_there, listening};
use super::words::{count, finding, list, not_time_wait, who};
use crate::diagnosis::command::sysctl;
use crate::diagnosis::{
    Advice, Check, Finding, Listener, NamespaceSeen, Rule, Seen, Severity, Subject,
};

/// The kernel drops SYNs and last ACKs where a listener's queue is full. Error: at least 10 since
/// the watch began; warning: fewer. A healthy host counts none.
pub(super) struct AcceptQueueOverflow;

/// From so many on it is more than one burst.
const ERROR: u64 = 10;

impl Rule for AcceptQueueOverflow {
    fn name(&self) -> &'static str {
        "accept-queue-overflow"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut namespaces: Vec<_> = seen.namespaces.iter().collect();
        namespaces.sort_unstable_by_key(|(netns_cookie, _)| **netns_cookie);
        let findings = namespaces
            .into_iter()
            .filter_map(|(netns_cookie, namespace)| overflow(seen, *netns_cookie, namespace));
        Check::of(findings.collect())
    }
}

fn overflow(seen: &Seen, netns_cookie: u64, namespace: &NamespaceSeen) -> Option<Finding> {
    let dropped = namespace.growth(|counters| counters.listen_overflows);
    if dropped == 0 {
        return None;
    }
    let severity = match dropped {
        ERROR.. => Severity::Error,
        _ => Severity::Warning,
    };
    let listeners = fullest(seen, netns_cookie);
    let culprit = listeners.first().copied();
    let whose = match culprit {
        Some(culprit) => format!(
            "{}: the accept queue of port {}",
            who(seen, &listening(seen, culprit).0),
            culprit.service.port
        ),
        None => "The accept queue of a listener".to_owned(),
    };
    let times = match dropped {
        1 => "once".to_owned(),
        _ => format!("{} times", count(dropped)),
    };
    let summary = format!("{whose} overflowed {times}");
    let subject = Subject {
        netns_cookie: Some(netns_cookie),
        program: culprit.map(|culprit| listening(seen, culprit).0),
        pids: culprit
            .and_then(|culprit| listening(seen, culprit).1)
            .map_or_else(Vec::new, |holders| holders.pids.clone()),
        local_port: culprit.map(|culprit| culprit.service.port),
        used: culprit.map(|culprit| culprit.queued.into()),
        capacity: culprit.map(|culprit| culprit.backlog.into()),
        failed: Some(dropped),
        ..Subject::default()
    };
    let mut finding = finding(
        AcceptQueueOverflow.name(),
        severity,
        subject,
        summary,
        dropped,
    );
    finding.evidence.push(format!(
        "TcpExtListenOverflows grew by {} since the watch began.",
        count(dropped)
    ));
    let shown: Vec<_> = listeners
        .iter()
        .map(|listener| show(seen, listener))
        .collect();
    finding.evidence.push(match shown.is_empty() {
        true => "No listener's queue was near its limit when they were last looked at.".to_owned(),
        false => format!("Full or nearly: {}.", list(&shown)),
    });
    finding.evidence.push(
        "Whoever connects there sees a slow connect(), or one that is not answered.".to_owned(),
    );
    finding
        .evidence
        .extend(not_time_wait(seen, netns_cookie, None));
    finding.advice = advice(seen, netns_cookie, culprit);
    Some(finding)
}

/// The listeners whose queue is full or lacks a tenth, the fullest first. The kernel lets one more
/// wait than the limit says.
fn fullest(seen: &Seen, netns_cookie: u64) -> Vec<&Listener> {
    let mut listeners: Vec<_> = seen
        .listeners
        .values()
        .filter(|listener| {
            let near = u64::from(listener.backlog) * 9 / 10;
            listener.service.netns_cookie == netns_cookie
                && listener.queued > 0
                && is_there(seen, listener)
                && u64::from(listener.queued) >= near
        })
        .collect();
    listeners.sort_by_key(|listener| (std::cmp::Reverse(listener.queued), listener.service));
    listeners
}

fn show(seen: &Seen, listener: &Listener) -> String {
    let local = Endpoint {
        address: listener.address,
        port: listener.service.port,
    };
    format!(
        "{} on {local} ({} of {})",
        who(seen, &listening(seen, listener).0),
        count(listener.queued.into()),
        count(listener.backlog.into())
    )
}

fn advice(seen: &Seen, netns_cookie: u64, culprit: Option<&Listener>) -> Vec<Advice> {
    let accept = Advice {
        what: "accept faster: a thread or event loop that does nothing else, or more workers"
            .to_owned(),
        command: Some("ss -ltn".to_owned()),
        effect:
            "Recv-Q is how many wait for accept() now, Send-Q how many may. A longer queue helps \
                 with bursts alone"
                .to_owned(),
        reference: "man 2 accept; man 2 listen",
        ..Advice::default()
    };
    let somaxconn = seen
        .settings(netns_cookie)
        .and_then(|settings| settings.somaxconn);
    let backlog = culprit.map(|culprit| culprit.backlog);
    // listen() has cut its argument down to somaxconn: where they are equal that is what limits.
    let is_cut = backlog
        .zip(somaxconn)
        .is_some_and(|(backlog, most)| backlog >= most);
    let wanted = backlog.unwrap_or(0).max(512).saturating_mul(2).max(4_096);
    let mut longer = Advice {
        what: "ask for a longer queue: the second argument of listen()".to_owned(),
        command: Some(format!("listen(fd, {wanted})")),
        present: backlog.map(|backlog| backlog.to_string()),
        proposed: Some(wanted.to_string()),
        effect: "the limit is the smaller of this and net.core.somaxconn, when listen() is called"
            .to_owned(),
        caution: Some(
            "a long queue before a program that is too slow makes clients wait instead".to_owned(),
        ),
        reference: "man 2 listen; man 7 tcp",
    };
    if somaxconn.is_some_and(|most| most < wanted) {
        let raise = sysctl(
            seen,
            netns_cookie,
            "net.core.somaxconn",
            &wanted.to_string(),
        );
        longer.command = Some(format!("{raise}; then listen(fd, {wanted})"));
        longer.present = somaxconn.map(|most| format!("net.core.somaxconn = {most}"));
        longer.caution = Some(
            "A new net.core.somaxconn counts from the next listen(): restart the program."
                .to_owned(),
        );
    }
    match is_cut {
        true => vec![longer, accept],
        false => vec![accept, longer],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program};

    fn found(example: &Example) -> Vec<Finding> {
        match AcceptQueueOverflow.check(&example.seen) {
            Check::Found(findings) => findings,
            Check::Quiet => Vec::new(),
            Check::TooEarly(_) => panic!("it is never too early"),
        }
    }

    fn overflowing(dropped: u64, queued: u32) -> Example {
        let mut example = Example::new();
        example.listen("10.0.0.5:8080", program("app"));
        example.listen("10.0.0.5:22", program("sshd"));
        for listener in example.seen.listeners.values_mut() {
            if listener.service.port == 8080 {
                (listener.queued, listener.backlog) = (queued, 128);
            }
        }
        example.counters().listen_overflows = Some(dropped);
        example
    }

    #[test]
    fn an_overflowing_queue_is_an_error_that_names_the_listener() {
        let finding = &found(&overflowing(40, 129))[0];
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "app: the accept queue of port 8080 overflowed 40 times"
        );
        assert_eq!(
            finding.evidence[1],
            "Full or nearly: app on 10.0.0.5:8080 (129 of 128)."
        );
        assert_eq!(
            finding.advice[1].command.as_deref(),
            Some("listen(fd, 4096)")
        );
    }

    #[test]
    fn a_queue_that_somaxconn_has_cut_is_lengthened_there() {
        let mut example = overflowing(40, 129);
        example.settings().somaxconn = Some(128);
        let advice = &found(&example)[0].advice[0];
        assert_eq!(advice.present.as_deref(), Some("net.core.somaxconn = 128"));
        let command = "sysctl -w net.core.somaxconn=4096; then listen(fd, 4096)";
        assert_eq!(advice.command.as_deref(), Some(command));
    }

    #[test]
    fn few_are_a_warning_and_a_full_queue_that_drops_none_is_nothing() {
        assert_eq!(found(&overflowing(10, 129))[0].severity, Severity::Error);
        let finding = &found(&overflowing(9, 3))[0];
        assert_eq!(finding.severity, Severity::Warning);
        assert!(
            finding
                .summary
                .starts_with("The accept queue of a listener")
        );
        assert_eq!(found(&overflowing(0, 129)), []);
    }
}
