//! TIME_WAITs that the kernel does not make, or soon will not, because their number is limited.

use super::places::{Place, places, sum};
use crate::diagnosis::advice::{self, percent};
use crate::diagnosis::command::sysctl;
use crate::diagnosis::culprit::{culprit, label};
use crate::diagnosis::finding::{Advice, Finding, Severity, Subject};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::{NamespaceSeen, Seen};
use crate::output::text;
use crate::record::Source;
use crate::record::holding::Use;

/// `time-wait-overflow`.
pub struct TimeWaitOverflow;

/// From this share of the limit on, the next peak overflows it.
const NEARLY: f64 = 0.9;

/// What a minisocket takes of the kernel's memory, bytes: its slab's object and its bucket's share.
const MINISOCKET: u64 = 320;

impl Rule for TimeWaitOverflow {
    fn name(&self) -> &'static str {
        "time-wait-overflow"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut namespaces: Vec<_> = seen.namespaces.iter().collect();
        namespaces.sort_unstable_by_key(|(cookie, _)| **cookie);
        let findings = namespaces
            .into_iter()
            .filter_map(|(cookie, namespace)| finding(seen, *cookie, namespace));
        Check::of(findings.collect())
    }
}

fn finding(seen: &Seen, netns_cookie: u64, namespace: &NamespaceSeen) -> Option<Finding> {
    let counted = namespace.growth(|counters| counters.time_wait_overflows);
    let here = places(seen);
    let here = here
        .iter()
        .filter(|(place, _)| place.netns_cookie() == netns_cookie);
    let told: u64 = here
        .map(|(_, programs)| sum(programs, |traffic| traffic.overflows))
        .sum();
    // A close whose minisocket was not seen looks the same, so the kernel's own count decides.
    let is_counted = namespace.latest.counters.time_wait_overflows.is_some();
    let overflows = if is_counted { counted } else { told };
    let limit = namespace.latest.settings.max_tw_buckets;
    let time_waits = namespace.latest.counters.time_waits;
    let share = limit
        .zip(time_waits)
        .map(|(limit, time_waits)| time_waits as f64 / f64::from(limit.max(1)));
    let is_nearly = share.is_some_and(|share| share >= NEARLY);
    if overflows == 0 && !is_nearly {
        return None;
    }
    let busiest = busiest(seen, netns_cookie);
    let limit_text = limit.map_or_else(|| "?".to_owned(), |limit| text::count(limit.into()));
    let now = time_waits.map_or_else(|| "?".to_owned(), text::count);
    let (severity, summary) = match overflows {
        0 => (
            Severity::Warning,
            format!("TIME_WAITs are near their limit: {now} of {limit_text} (tcp_max_tw_buckets)"),
        ),
        _ => (
            Severity::Error,
            format!(
                "{} TIME_WAITs were not made: {now} of {limit_text} (tcp_max_tw_buckets)",
                text::count(overflows)
            ),
        ),
    };
    let mut evidence = vec![format!(
        "{now} TIME_WAITs now, of {limit_text} that tcp_max_tw_buckets allows in this network \
         namespace{}.",
        share.map_or_else(String::new, |share| format!(" ({})", percent(share))),
    )];
    if overflows > 0 {
        evidence.push(format!(
            "{} connections closed without the TIME_WAIT that was due (TCPTimeWaitOverflow grew by \
             {}): an old segment can reach the next connection of the same ports, and a peer whose \
             last ACK was lost is answered by a reset.",
            text::count(overflows),
            text::count(counted),
        ));
        if share.is_some_and(|share| share < NEARLY) {
            evidence.push(
                "The limit is not reached now: it was for a moment, or the kernel had no memory."
                    .to_owned(),
            );
        }
    }
    if let Some((subject, place, held)) = &busiest {
        evidence.push(format!(
            "Most of them are held by {}, {place}: {}.",
            label(seen, subject.program.as_ref()),
            text::count(*held),
        ));
    }
    Some(Finding {
        rule: TimeWaitOverflow.name(),
        severity,
        summary,
        evidence,
        dwell: None,
        advice: vec![raise(seen, netns_cookie, limit, overflows)],
        warnings: vec![advice::lower_buckets(&format!(" (now {limit_text})"))],
        weight: overflows,
        subject: Subject {
            netns_cookie: Some(netns_cookie),
            used: time_waits,
            capacity: limit.map(u64::from),
            failed: (overflows > 0).then_some(overflows),
            ..busiest.map(|(subject, ..)| subject).unwrap_or_default()
        },
    })
}

fn raise(seen: &Seen, netns_cookie: u64, limit: Option<u32>, overflows: u64) -> Advice {
    // What was missing in the watch would have been missing in each minute of a TIME_WAIT.
    let watched = seen.watched().as_secs().max(1);
    let missing = u32::try_from(overflows * 60 / watched).unwrap_or(u32::MAX / 2);
    let proposed = limit.map(|limit| {
        let wanted = limit.saturating_add(missing).min(1 << 30);
        wanted
            .next_power_of_two()
            .max(limit.saturating_mul(2))
            .max(65_536)
    });
    let name = "net.ipv4.tcp_max_tw_buckets";
    Advice {
        what: "raise the limit of TIME_WAITs".to_owned(),
        command: proposed.map(|value| sysctl(seen, netns_cookie, name, &value.to_string())),
        present: limit.map(|limit| limit.to_string()),
        proposed: proposed.map(|value| value.to_string()),
        effect: proposed.map_or_else(
            || "every close gets the TIME_WAIT that is due".to_owned(),
            |value| {
                let megabytes = u64::from(value) * MINISOCKET / 1_000_000;
                format!(
                    "every close gets the TIME_WAIT that is due, for at most {} MB of memory",
                    text::count(megabytes)
                )
            },
        ),
        caution: Some(
            "clients' TIME_WAITs hold ports: where those run out too, see what is said of them"
                .to_owned(),
        ),
        reference: "man 7 tcp (tcp_max_tw_buckets); RFC 9293 3.6.1",
    }
}

/// Where most TIME_WAITs of a network namespace are held, by whom, and how many.
fn busiest(seen: &Seen, netns_cookie: u64) -> Option<(Subject, String, u64)> {
    let routes = seen.ports.routes();
    let routes = routes.map(|(route, used)| (Place::To(*route), used.counts.of(Use::TimeWait)));
    let services = seen.ports.services();
    let services =
        services.map(|(service, used)| (Place::At(*service), used.counts.of(Use::TimeWait)));
    let (place, held) = routes
        .chain(services)
        .filter(|(place, held)| place.netns_cookie() == netns_cookie && *held > 0)
        .max_by_key(|(place, held)| (*held, std::cmp::Reverse(*place)))?;
    let subject = match place {
        Place::To(route) => {
            let culprit = culprit(seen, &route);
            Subject {
                program_source: culprit.source,
                pids: culprit.pids,
                ..place.subject(culprit.program)
            }
        }
        Place::At(service) => {
            let programs = seen.ports.service(&service).map(|used| &used.programs);
            let known = programs.into_iter().flatten();
            let owner = known
                .filter(|(program, _)| program.name.is_some())
                .max_by_key(|(program, holders)| {
                    let counts = holders.counts;
                    let is_listener = counts.of(Use::Listening) > 0;
                    (is_listener, counts.total(), std::cmp::Reverse(**program))
                });
            Subject {
                program_source: owner.map_or(Source::Unknown, |(_, holders)| holders.source),
                pids: owner.map_or_else(Vec::new, |(_, holders)| holders.pids.clone()),
                ..place.subject(owner.map(|(program, _)| *program))
            }
        }
    };
    Some((subject, place.name(), held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};

    fn found(example: &Example) -> Finding {
        match TimeWaitOverflow.check(&example.seen) {
            Check::Found(findings) if findings.len() == 1 => findings[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn time_waits_that_were_not_made_are_an_error_with_the_limit_to_raise() {
        let mut example = Example::new();
        example.hold(
            route("10.0.0.9:3306"),
            program("php-fpm"),
            Use::TimeWait,
            20_000,
        );
        example.settings().max_tw_buckets = Some(20_000);
        example.counters().time_waits = Some(20_000);
        example.counters().time_wait_overflows = Some(1_200);
        let finding = found(&example);
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(
            finding.summary,
            "1,200 TIME_WAITs were not made: 20,000 of 20,000 (tcp_max_tw_buckets)"
        );
        assert_eq!(finding.subject.program, Some(program("php-fpm")));
        assert_eq!(
            finding.advice[0].command.as_deref(),
            Some("sysctl -w net.ipv4.tcp_max_tw_buckets=65536")
        );
    }

    #[test]
    fn the_limit_to_set_makes_room_for_those_that_were_missing() {
        let mut example = Example::new();
        example.settings().max_tw_buckets = Some(20_000);
        // 1,000 a second, each for 60 s.
        example.counters().time_wait_overflows = Some(10_000);
        let proposed = found(&example).advice[0].proposed.clone();
        assert_eq!(proposed.as_deref(), Some("131072"));
    }

    #[test]
    fn closes_tell_it_only_where_the_kernel_does_not_count() {
        let mut example = Example::new();
        example
            .traffic(route("10.0.0.9:3306"), program("php-fpm"))
            .overflows = 3;
        assert_eq!(TimeWaitOverflow.check(&example.seen), Check::Quiet);
        example.counters().time_wait_overflows = None;
        assert_eq!(found(&example).subject.failed, Some(3));
    }

    #[test]
    fn it_is_a_warning_from_nine_tenths_of_the_limit_on() {
        let mut example = Example::new();
        example.settings().max_tw_buckets = Some(20_000);
        example.counters().time_waits = Some(17_999);
        assert_eq!(TimeWaitOverflow.check(&example.seen), Check::Quiet);
        example.counters().time_waits = Some(18_000);
        assert_eq!(found(&example).severity, Severity::Warning);
    }

    #[test]
    fn overflows_of_before_the_watch_are_over() {
        let mut example = Example::new();
        let namespaces = example.seen.namespaces.values_mut();
        for namespace in namespaces {
            namespace.first.counters.time_wait_overflows = Some(1_200);
            namespace.latest.counters.time_wait_overflows = Some(1_200);
        }
        assert_eq!(TimeWaitOverflow.check(&example.seen), Check::Quiet);
    }
}
