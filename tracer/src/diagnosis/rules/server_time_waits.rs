//! A server's own port bears many TIME_WAITs: seen by many, and no reason for alarm.

use crate::diagnosis::advice::percent;
use crate::diagnosis::culprit::label;
use crate::diagnosis::finding::{Finding, Severity, Subject};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::output::text;
use crate::ports::{Service, ServiceUse};
use crate::record::holding::Use;
use crate::record::{Initiator, Source};

/// `server-time-waits`.
pub struct ServerTimeWaits;

/// From so many on, somebody will ask.
const MANY: u64 = 1_000;

impl Rule for ServerTimeWaits {
    fn name(&self) -> &'static str {
        "server-time-waits"
    }

    fn check(&self, seen: &Seen) -> Check {
        let services = seen.ports.services();
        let mut many: Vec<_> = services
            .filter(|(_, used)| used.counts.of(Use::TimeWait) >= MANY)
            .collect();
        many.sort_unstable_by_key(|(service, _)| **service);
        Check::of(
            many.into_iter()
                .map(|(service, used)| finding(seen, service, used))
                .collect(),
        )
    }
}

fn finding(seen: &Seen, service: &Service, used: &ServiceUse) -> Finding {
    let time_waits = used.counts.of(Use::TimeWait);
    // Who listens owns them, whoever was seen to accept.
    let known = used
        .programs
        .iter()
        .filter(|(program, _)| program.name.is_some());
    let owner = known.max_by_key(|(program, holders)| {
        let counts = holders.counts;
        (
            counts.of(Use::Listening),
            counts.total(),
            std::cmp::Reverse(**program),
        )
    });
    let who = label(seen, owner.map(|(program, _)| program));
    let traffic = seen
        .tallies
        .services
        .get(service)
        .into_iter()
        .flat_map(|programs| programs.values());
    let (mut ours, mut all) = (0, 0);
    for traffic in traffic {
        ours += traffic.sum(|ending| ending.initiator == Initiator::Local);
        all += traffic.total();
    }
    let mut evidence = vec![format!(
        "{} TIME_WAITs are on port {} itself: they hold no ephemeral port, and no connect() of this \
         host fails for them.",
        text::count(time_waits),
        service.port,
    )];
    evidence.push(match all {
        0 => "None of its connections was seen to close.".to_owned(),
        all => format!(
            "{who} closes first in {} of its connections; where its clients did, they would keep \
             the TIME_WAIT, and with it a port of theirs.",
            percent(ours as f64 / all as f64)
        ),
    });
    let settings = seen.settings(service.netns_cookie);
    let limit = settings.and_then(|settings| settings.max_tw_buckets);
    if let Some(limit) = limit {
        evidence.push(format!(
            "They count towards tcp_max_tw_buckets, {} here: {} of it.",
            text::count(limit.into()),
            percent(time_waits as f64 / f64::from(limit.max(1))),
        ));
    }
    Finding {
        rule: ServerTimeWaits.name(),
        severity: Severity::Info,
        summary: format!(
            "{} TIME_WAITs on {who}'s port {}: harmless, they hold no ephemeral port",
            text::count(time_waits),
            service.port,
        ),
        evidence,
        dwell: None,
        advice: Vec::new(),
        warnings: vec![
            "Nothing is to be done: tcp_tw_reuse is for connections that this host opens, and \
             tcp_fin_timeout does not shorten TIME_WAIT."
                .to_owned(),
        ],
        weight: time_waits,
        subject: Subject {
            netns_cookie: Some(service.netns_cookie),
            program: owner.map(|(program, _)| *program),
            program_source: owner.map_or(Source::Unknown, |(_, holders)| holders.source),
            pids: owner
                .map(|(_, holders)| holders.pids.clone())
                .unwrap_or_default(),
            local_port: Some(service.port),
            used: Some(time_waits),
            ..Subject::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program};
    use crate::record::CloseKind;

    #[test]
    fn many_on_a_servers_own_port_are_information_and_say_who_closes_first() {
        let mut example = Example::new();
        example.listen("0.0.0.0:8080", program("nginx"));
        example.serve(8_080, program(""), Use::TimeWait, 20_000);
        let traffic = example.served(8_080, program("nginx"));
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, 75);
        traffic.add_closes(CloseKind::Passive, None, Initiator::Peer, 25);
        let Check::Found(findings) = ServerTimeWaits.check(&example.seen) else {
            panic!("not found");
        };
        let finding = &findings[0];
        assert_eq!(finding.severity, Severity::Info);
        assert_eq!(
            finding.summary,
            "20,000 TIME_WAITs on nginx's port 8080: harmless, they hold no ephemeral port"
        );
        assert!(finding.evidence[1].starts_with("nginx closes first in 75 %"));
        assert!(finding.evidence[2].ends_with("131,072 here: 15 % of it."));
    }

    #[test]
    fn a_thousand_is_many_and_live_connections_are_none() {
        let mut example = Example::new();
        example.serve(8_080, program("nginx"), Use::TimeWait, 999);
        example.serve(8_080, program("nginx"), Use::Established, 5_000);
        assert_eq!(ServerTimeWaits.check(&example.seen), Check::Quiet);
        example.serve(8_080, program("nginx"), Use::TimeWait, 1);
        assert!(matches!(
            ServerTimeWaits.check(&example.seen),
            Check::Found(_)
        ));
    }
}
