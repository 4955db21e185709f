//! Figures, names and sentences that these rules share.

use tracer_common::tcp::Endpoint;

use crate::diagnosis::answer::{PLACES, tell_of_more};
use crate::diagnosis::culprit::label;
use crate::diagnosis::{Finding, Seen, Severity, Subject};
use crate::ports::Program;

pub(super) use crate::diagnosis::command::seconds;
pub(super) use crate::output::text::count;

/// What a program is called, escaped: whoever runs it has chosen the name.
pub(super) fn who(seen: &Seen, program: &Program) -> String {
    label(seen, Some(program))
}

/// `part` of `whole`: `12 %`. What is not all is never shown as all, nor what is some as none.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match (u128::from(part) * 100).checked_div(whole.into()) {
        None => "no share".to_owned(),
        Some(0) if part > 0 => "less than 1 %".to_owned(),
        Some(percent) => format!("{percent} %"),
    }
}

/// Whether `part` is at least `percent` hundredths of `whole`.
pub(super) fn is_at_least(part: u64, percent: u64, whole: u64) -> bool {
    u128::from(part) * 100 >= u128::from(whole) * u128::from(percent)
}

/// `1 connection`, `12 connections`.
pub(super) fn many(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{} {one}s", count(number)),
    }
}

/// `a, b and c`, of at most three; `and 4 more` for the rest.
pub(super) fn list(things: &[String]) -> String {
    const SHOWN: usize = 3;
    if let Some(more) = things.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        return format!("{} and {more} more", things[..SHOWN].join(", "));
    }
    match things.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// That connects do not fail for TIME_WAITs: how far the ports are used on the fullest route to
/// `destination`, or on the fullest route there is. `None`: that route is nearly out of ports, or
/// how many there are is not known.
pub(super) fn not_time_wait(
    seen: &Seen,
    netns_cookie: u64,
    destination: Option<Endpoint>,
) -> Option<String> {
    let routes = seen.ports.routes().filter(|(route, _)| {
        (netns_cookie == 0 || route.netns_cookie == netns_cookie)
            && destination.is_none_or(|destination| route.destination == destination)
    });
    let Some((route, used)) = routes.max_by_key(|(route, used)| (used.used(), **route)) else {
        let capacity = seen.space(netns_cookie)?.capacity();
        return Some(match destination {
            Some(destination) => format!(
                "It is not TIME_WAIT: none of {} ports to {destination} is used.",
                count(capacity)
            ),
            None => format!(
                "It is not TIME_WAIT: none of {} ports is used.",
                count(capacity)
            ),
        });
    };
    let capacity = seen.space(route.netns_cookie)?.capacity();
    // From nine tenths on the search for a free port is slow, and may fail for single clients.
    if is_at_least(used.used(), 90, capacity) {
        return None;
    }
    let fullest = match destination {
        Some(destination) => format!("to {destination}"),
        None => format!("to the busiest destination, {},", route.destination),
    };
    let verb = if used.used() == 1 { "is" } else { "are" };
    Some(format!(
        "It is not TIME_WAIT: {} of {} ports {fullest} {verb} used.",
        count(used.used()),
        count(capacity)
    ))
}

/// What `word` says of the worst of `candidates`, those of the most weight, in their order; those
/// without any are none. Whatever a word costs, no more than [`PLACES`] of them are paid for.
pub(super) fn of_the_worst<T>(
    candidates: impl IntoIterator<Item = T>,
    weight: impl Fn(&T) -> u64,
    mut word: impl FnMut(&T) -> Option<Finding>,
) -> Vec<Finding> {
    let weighed = candidates.into_iter().map(|one| (weight(&one), one));
    let mut weighed: Vec<(u64, T)> = weighed.filter(|(weight, _)| *weight > 0).collect();
    let more = weighed.len().saturating_sub(PLACES);
    if more > 0 {
        weighed.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        weighed.truncate(PLACES);
    }
    let findings = weighed.iter().filter_map(|(_, one)| word(one));
    let mut findings: Vec<Finding> = findings.collect();
    if more > 0 {
        tell_of_more(&mut findings, more);
    }
    findings
}

/// A finding without evidence and advice as yet.
pub(super) fn finding(
    rule: &'static str,
    severity: Severity,
    subject: Subject,
    summary: String,
    weight: u64,
) -> Finding {
    Finding {
        rule,
        severity,
        subject,
        summary,
        evidence: Vec::new(),
        dwell: None,
        advice: Vec::new(),
        warnings: Vec::new(),
        weight,
    }
}
