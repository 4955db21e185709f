//! Connects fail because a route's ports are used up, or will with the next one.

use std::time::Duration;

use crate::diagnosis::advice::{self, duration, percent, rate};
use crate::diagnosis::culprit::{self, Culprit, Party, culprit, label};
use crate::diagnosis::finding::{Finding, Severity, Subject};
use crate::diagnosis::load::{Load, Loads};
use crate::diagnosis::relief::relief;
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::output::text;
use crate::ports::{Route, RouteUse, tenth};
use crate::record::Source;
use crate::record::holding::Use;

/// `ports-exhausted`.
pub struct PortsExhausted;

/// From this share on, ports that cannot be had are missing for want of free ones: what is left are
/// sockets that no event and no inventory shows, and those that came free a moment ago.
const USED_UP: f64 = 0.97;

/// Without a failure, the ports are used up for certain once nobody has tried for so long; tenths of
/// a second.
const STOPPED: u64 = 20;

/// What is known of a route's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There are some.
    Free,
    /// All are in use, and whether a connect() fails is not known yet.
    Full,
    /// There are none.
    Exhausted,
}

/// Whether `route` has ports left.
pub(super) fn state(seen: &Seen, route: &Route, load: &Load) -> State {
    let Some(capacity) = load.capacity else {
        return State::Free;
    };
    let is_used_up = load.used as f64 >= USED_UP * capacity as f64;
    // Where TIME_WAITs may be taken over, all ports in use tell nothing of a failure of some time ago.
    let has_failed = || match load.reusable_after {
        Some(_) => culprit::has_failed_lately(seen, route),
        None => culprit::failures(seen, route) > 0,
    };
    if is_used_up && has_failed() {
        return State::Exhausted;
    }
    // A TIME_WAIT that may be taken over is in use and in nobody's way.
    let in_the_way = match load.reusable_after {
        Some(_) => load.used - load.time_waits,
        None => load.used,
    };
    if in_the_way < capacity || in_the_way == 0 {
        return State::Free;
    }
    let last = seen
        .ports
        .route(route)
        .and_then(|used| used.openings.last_key_value());
    let quiet_since = last.map_or(tenth(seen.began), |(last, _)| *last);
    match tenth(seen.now).saturating_sub(quiet_since) >= STOPPED {
        true => State::Exhausted,
        false => State::Full,
    }
}

impl Rule for PortsExhausted {
    fn name(&self) -> &'static str {
        "ports-exhausted"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings = Vec::new();
        let mut is_too_early = false;
        let mut loads = Loads::new(seen);
        for route in routes(seen) {
            let load = loads.of(&route);
            match state(seen, &route, &load) {
                State::Free => {}
                State::Full => is_too_early = true,
                State::Exhausted => findings.push(finding(seen, &route, &load)),
            }
        }
        match is_too_early {
            true => Check::TooEarly(findings),
            false => Check::of(findings),
        }
    }
}

/// Routes on which a port is held or wanted.
fn routes(seen: &Seen) -> Vec<Route> {
    let held = seen.ports.routes().map(|(route, _)| *route);
    // One that never had a port is told by its failures alone.
    let tried = seen.tallies.routes.keys().copied();
    let mut routes: Vec<Route> = held
        .chain(tried)
        .filter(|route| !route.source.is_unspecified())
        .collect();
    routes.sort_unstable();
    routes.dedup();
    routes
}

fn finding(seen: &Seen, route: &Route, load: &Load) -> Finding {
    let culprit = culprit(seen, route);
    let who = label(seen, culprit.program.as_ref());
    let parties = culprit::parties(seen, route);
    let failed = culprit::failures(seen, route);
    Finding {
        rule: PortsExhausted.name(),
        severity: Severity::Error,
        summary: summary(seen, route, load, &culprit, &parties),
        evidence: evidence(seen, route, load, &culprit, &parties),
        dwell: Some(load.dwell),
        advice: relief(seen, route, load, &who),
        warnings: advice::warnings(seen, route.netns_cookie),
        weight: failed.max(1),
        subject: Subject {
            failed: Some(failed),
            ..culprit.subject(route, load)
        },
    }
}

fn summary(
    seen: &Seen,
    route: &Route,
    load: &Load,
    culprit: &Culprit,
    parties: &[Party],
) -> String {
    let who = label(seen, culprit.program.as_ref());
    let to = route.destination;
    let used = text::count(load.used);
    let capacity = text::count(load.capacity.unwrap_or(0));
    let fails = |party: &&Party| party.failed > 0;
    let worst = parties
        .iter()
        .filter(fails)
        .max_by_key(|party| party.failed);
    let is_culprits_own = |party: &Party| Some(party.program) == culprit.program;
    let does_the_culprit_fail = parties
        .iter()
        .any(|party| party.failed > 0 && is_culprits_own(party));
    match worst {
        // With no owner to name, those who suffer are all there is to tell.
        Some(victim) if !does_the_culprit_fail => {
            let victim = label(seen, Some(&victim.program));
            let used = format!("{used} of {capacity} ports used");
            match (culprit.program, culprit.source) {
                (None, _) => format!("{victim} cannot connect to {to}: {used}"),
                (Some(_), Source::Inferred) => {
                    format!("{victim} cannot connect to {to}: {used}, by {who} it seems")
                }
                (Some(_), _) => {
                    let held = text::count(culprit.held);
                    format!(
                        "{victim} cannot connect to {to}: {who} holds {held} of {capacity} ports"
                    )
                }
            }
        }
        _ if culprit::failures(seen, route) > 0 => {
            format!("{who} cannot connect to {to}: {used} of {capacity} ports used")
        }
        _ => format!("no port is left for {who} to {to}: {used} of {capacity} used"),
    }
}

fn evidence(
    seen: &Seen,
    route: &Route,
    load: &Load,
    culprit: &Culprit,
    parties: &[Party],
) -> Vec<String> {
    let mut evidence = Vec::new();
    let used = seen.ports.route(route);
    evidence.push(format!(
        "From {} to {}, {} of {} ports are in use{}.",
        route.source,
        route.destination,
        text::count(load.used),
        text::count(load.capacity.unwrap_or(0)),
        used.map_or_else(String::new, by_use),
    ));
    evidence.extend(failed(seen, route, parties));
    if load.time_waits > 0
        && let Some(capacity) = load.capacity
        && let Some(bears) = load.bears(capacity)
    {
        let (hold, bears) = (duration(load.hold()), rate(bears));
        let basis = load.dwell.basis.name();
        evidence.push(format!(
            "A connection holds its port for {hold} (TIME_WAIT {basis}), so that {} ports bear \
             {bears} connections/s; {}/s are wanted.",
            text::count(capacity),
            rate(load.wanted),
        ));
    }
    evidence.push(whose(seen, culprit, parties));
    if let Some(space) = seen.space(route.netns_cookie) {
        let (first, last) = space.range;
        evidence.push(format!(
            "connect() chooses from ip_local_port_range {first} {last}: {} ports, less {} reserved, \
             less {} taken by bind().",
            text::count(space.size()),
            text::count(space.reserved.into()),
            text::count(space.bound.len() as u64),
        ));
    }
    evidence
}

/// `: 28,100 TIME_WAIT, 132 ESTABLISHED`.
fn by_use(used: &RouteUse) -> String {
    let mut uses: Vec<(u64, &str)> = Use::ALL
        .into_iter()
        .map(|by| (used.counts.of(by), name(by)))
        .filter(|(count, _)| *count > 0)
        .collect();
    uses.sort_unstable_by(|one, other| other.cmp(one));
    let uses: Vec<String> = uses
        .into_iter()
        .map(|(count, name)| format!("{} {name}", text::count(count)))
        .collect();
    match uses.is_empty() {
        true => String::new(),
        false => format!(": {}", uses.join(", ")),
    }
}

const fn name(by: Use) -> &'static str {
    match by {
        Use::Listening => "LISTEN",
        Use::Connecting => "connecting",
        Use::Established => "ESTABLISHED",
        Use::CloseWait => "CLOSE_WAIT",
        Use::Closing => "closing",
        Use::FinWait2 => "FIN_WAIT2",
        Use::TimeWait => "TIME_WAIT",
    }
}

fn failed(seen: &Seen, route: &Route, parties: &[Party]) -> Option<String> {
    let failed = culprit::failures(seen, route);
    if failed == 0 {
        return None;
    }
    let of: Vec<String> = parties
        .iter()
        .filter(|party| party.failed > 0)
        .map(|party| {
            let who = label(seen, Some(&party.program));
            format!("{who} {}", text::count(party.failed))
        })
        .collect();
    let of = match of.is_empty() {
        true => String::new(),
        false => format!(": {}", of.join(", ")),
    };
    Some(format!(
        "{} connect() calls failed for want of a port (EADDRNOTAVAIL) in {}{of}.",
        text::count(failed),
        duration(Duration::from_secs(seen.watched().as_secs().max(1))),
    ))
}

/// Who holds the ports, and how that is known.
fn whose(seen: &Seen, culprit: &Culprit, parties: &[Party]) -> String {
    let who = label(seen, culprit.program.as_ref());
    let pids: Vec<String> = culprit.pids.iter().map(u32::to_string).collect();
    let pids = match pids.is_empty() {
        true => String::new(),
        false => format!(" (pid {})", pids.join(", ")),
    };
    let held: u64 = parties.iter().map(|party| party.held).sum();
    let opened: u64 = parties.iter().map(|party| party.opened).sum();
    let part = |of: fn(&Party) -> u64, whole: u64| {
        let mut parts = Vec::new();
        let mut sorted: Vec<&Party> = parties.iter().filter(|party| of(party) > 0).collect();
        sorted.sort_by_key(|party| std::cmp::Reverse(of(party)));
        for party in sorted.into_iter().take(6) {
            let name = label(seen, Some(&party.program));
            parts.push(format!(
                "{name} {}",
                percent(of(party) as f64 / whole as f64)
            ));
        }
        parts.join(", ")
    };
    match (culprit.program, culprit.source) {
        (None, _) => format!(
            "{} of them are held by connections from before the watch whose owner no kernel tells, \
             and nobody opens any there now.",
            text::count(culprit.unowned)
        ),
        (Some(_), Source::Inferred) => format!(
            "{} of them are from before the watch, and no kernel tells the owner of a TIME_WAIT; \
             inferred: {who}{pids}, of those who open connections there now ({}).",
            text::count(culprit.unowned),
            part(|party| party.opened, opened.max(1)),
        ),
        (Some(_), _) => format!(
            "{who}{pids} holds {} of them ({} of those whose owner is known: {}).",
            text::count(culprit.held),
            percent(culprit.held as f64 / held.max(1) as f64),
            part(|party| party.held, held.max(1)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, endpoint, program, route};
    use crate::record::{CloseCause, CloseKind, Initiator};

    fn fail(example: &mut Example, route: Route, name: &str, count: u64) {
        let traffic = example.traffic(route, program(name));
        let cause = Some(CloseCause::NoPort);
        traffic.add_closes(CloseKind::ConnectFailed, cause, Initiator::Local, count);
    }

    fn found(example: &Example) -> Vec<Finding> {
        match PortsExhausted.check(&example.seen) {
            Check::Found(findings) => findings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_program_that_has_used_its_ports_up_is_named_with_its_figures() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program("php-fpm"), Use::TimeWait, 28_100);
        example.hold(there, program("php-fpm"), Use::Established, 132);
        fail(&mut example, there, "php-fpm", 412);
        let findings = found(&example);
        assert_eq!(findings.len(), 1);
        let finding = &findings[0];
        assert_eq!(
            finding.summary,
            "php-fpm cannot connect to 10.0.0.9:3306: 28,232 of 28,232 ports used"
        );
        assert_eq!(finding.severity, Severity::Error);
        let subject = &finding.subject;
        assert_eq!(subject.destination, Some(endpoint("10.0.0.9:3306")));
        assert_eq!(
            (subject.used, subject.capacity),
            (Some(28_232), Some(28_232))
        );
        assert_eq!(subject.failed, Some(412));
        assert_eq!(subject.program_source, Source::Exact);
        let evidence = &finding.evidence;
        assert!(
            evidence[0].ends_with(": 28,100 TIME_WAIT, 132 ESTABLISHED."),
            "{evidence:?}"
        );
        assert!(
            evidence[1].starts_with("412 connect() calls failed"),
            "{evidence:?}"
        );
    }

    #[test]
    fn of_those_who_use_a_route_the_holder_is_named_and_the_victim_told() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program("php-fpm"), Use::TimeWait, 28_000);
        example.hold(there, program("java"), Use::Established, 232);
        fail(&mut example, there, "java", 60_000);
        let finding = &found(&example)[0];
        assert_eq!(
            finding.summary,
            "java cannot connect to 10.0.0.9:3306: php-fpm holds 28,000 of 28,232 ports"
        );
        assert_eq!(finding.subject.program, Some(program("php-fpm")));
    }

    #[test]
    fn the_culprit_of_an_incident_from_before_the_watch_is_inferred() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program(""), Use::TimeWait, 28_232);
        fail(&mut example, there, "php-fpm", 80);
        fail(&mut example, there, "cron", 1);
        let finding = &found(&example)[0];
        assert_eq!(finding.subject.program, Some(program("php-fpm")));
        assert_eq!(finding.subject.program_source, Source::Inferred);
        let whose = &finding.evidence[3];
        assert!(whose.contains("inferred: php-fpm"), "{whose}");
        assert!(whose.contains("(php-fpm 99 %, cron 1 %)"), "{whose}");
    }

    #[test]
    fn an_inferred_culprit_is_not_said_to_hold_what_nobody_saw() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program(""), Use::TimeWait, 28_232);
        let opener = example.traffic(there, program("php-fpm"));
        opener.add_closes(CloseKind::Active, None, Initiator::Local, 40);
        fail(&mut example, there, "cron", 1);
        assert_eq!(
            found(&example)[0].summary,
            "cron cannot connect to 10.0.0.9:3306: 28,232 of 28,232 ports used, by php-fpm it seems"
        );
    }

    #[test]
    fn failures_with_ports_to_spare_are_another_matter() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program("php-fpm"), Use::TimeWait, 27_000);
        fail(&mut example, there, "php-fpm", 412);
        assert_eq!(PortsExhausted.check(&example.seen), Check::Quiet);
    }

    #[test]
    fn all_ports_in_use_are_certain_only_once_openings_have_stopped() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program("php-fpm"), Use::TimeWait, 28_231);
        assert_eq!(PortsExhausted.check(&example.seen), Check::Quiet);
        example.hold(there, program("php-fpm"), Use::TimeWait, 1);
        example.open(there, program("php-fpm"), 100);
        assert_eq!(
            PortsExhausted.check(&example.seen),
            Check::TooEarly(Vec::new())
        );
        example.seen.now = example.seen.now + Duration::from_secs(2);
        assert_eq!(
            found(&example)[0].summary,
            "no port is left for php-fpm to 10.0.0.9:3306: 28,232 of 28,232 used"
        );
    }

    #[test]
    fn ports_that_are_taken_over_are_not_used_up() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.settings().tw_reuse = Some(1);
        example.hold(there, program("php-fpm"), Use::TimeWait, 28_232);
        assert_eq!(PortsExhausted.check(&example.seen), Check::Quiet);
    }

    #[test]
    fn a_range_that_is_reserved_altogether_has_no_ports_to_use_up() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.settings().reserved_ports = vec![(1, 65_535)];
        assert_eq!(PortsExhausted.check(&example.seen), Check::Quiet);
        fail(&mut example, there, "php-fpm", 3);
        let finding = &found(&example)[0];
        assert_eq!(
            finding.summary,
            "php-fpm cannot connect to 10.0.0.9:3306: 0 of 0 ports used"
        );
    }
}
