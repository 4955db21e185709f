//! A program opens one short connection after another to the same destination.

use std::time::Duration;

use super::ports_exhausted::{State, state};
use crate::diagnosis::advice::{self, duration, percent, rate};
use crate::diagnosis::culprit::label;
use crate::diagnosis::finding::{Finding, Severity, Subject};
use crate::diagnosis::load::{self, Load, Loads};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::diagnosis::traffic::Traffic;
use crate::output::text;
use crate::ports::{Program, Route};
use crate::record::{CloseKind, Source};

/// `short-connections`.
pub struct ShortConnections;

/// Of how many a second on is worth telling: below, a pool saves next to nothing.
const OFTEN: f64 = 10.0;

/// Of how many closes on a rate and a mean mean something.
const ENOUGH: u64 = 100;

/// What lives longer than this is no connection of one request.
const SHORT: Duration = Duration::from_secs(1);

/// A rate that lasts is told from a burst after this time.
const LASTING: Duration = Duration::from_secs(10);

/// From this share of a route's ports on, its steady state is a danger: the next peak may double it.
const RISKY: f64 = 0.5;

impl Rule for ShortConnections {
    fn name(&self) -> &'static str {
        "short-connections"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings = Vec::new();
        let mut is_too_early = false;
        let mut loads = Loads::new(seen);
        let mut routes: Vec<_> = seen.tallies.routes.iter().collect();
        routes.sort_unstable_by_key(|(route, _)| **route);
        for (route, programs) in routes {
            let load = loads.of(route);
            let own = |(program, traffic)| {
                let own = own_load(seen, route, program, traffic, &load)?;
                Some((program, own))
            };
            let mut programs: Vec<_> = programs.iter().filter_map(own).collect();
            if programs.is_empty() || state(seen, route, &load) != State::Free {
                continue;
            }
            programs.sort_unstable_by_key(|(program, _)| **program);
            for (program, own) in programs {
                let finding = finding(seen, route, program, &own);
                match seen.watched() < LASTING {
                    // What is only worth knowing leaves nothing in doubt.
                    true => is_too_early |= finding.severity < Severity::Info,
                    false => findings.push(finding),
                }
            }
        }
        match is_too_early {
            true => Check::TooEarly(findings),
            false => Check::of(findings),
        }
    }
}

/// The part of a route's load that is `program`'s, if its connections are many and short.
fn own_load(
    seen: &Seen,
    route: &Route,
    program: &Program,
    traffic: &Traffic,
    load: &Load,
) -> Option<Load> {
    let closed = traffic.total() - traffic.closed(CloseKind::ConnectFailed);
    let life = traffic.lives.mean()?;
    // Over the whole watch, and of late: a burst that is over is neither.
    let each_second = closed as f64 / seen.watched().as_secs_f64().max(1.0);
    let wanted = each_second.min(load.wanted);
    let is_many = closed >= ENOUGH && traffic.lives.count >= ENOUGH / 2 && wanted >= OFTEN;
    (is_many && life < SHORT).then(|| Load {
        wanted,
        life: Some(life),
        time_wait_share: load::time_wait_share_of(seen, route, program)
            .unwrap_or(load.time_wait_share),
        ..*load
    })
}

fn finding(seen: &Seen, route: &Route, program: &Program, own: &Load) -> Finding {
    let who = label(seen, Some(program));
    let steady_state = own.steady_state();
    let share = own
        .capacity
        .map(|capacity| steady_state / capacity.max(1) as f64);
    let severity = match share {
        Some(share) if share > RISKY => Severity::Warning,
        _ => Severity::Info,
    };
    let life = own.life.unwrap_or_default();
    let pool = own.pool().unwrap_or(1);
    let held = text::count(steady_state.ceil() as u64);
    let mut evidence = vec![
        format!(
            "{who} opens {} connections/s to {}, each busy for {} on average; this side closes \
             first in {} of them.",
            rate(own.wanted),
            route.destination,
            duration(life),
            percent(own.time_wait_share),
        ),
        format!(
            "If it goes on they hold {held} ports at a time, {} each (TIME_WAIT {}){}.",
            duration(own.hold()),
            own.dwell.basis.name(),
            share.map_or_else(String::new, |share| format!(
                ", {} of the route's",
                percent(share)
            )),
        ),
    ];
    let saved = (steady_state - pool as f64).max(0.0).ceil() as u64;
    evidence.push(format!(
        "{} connections that are kept open do the same work, and save {} ports.",
        text::count(pool),
        text::count(saved),
    ));
    let mut advice = vec![advice::reuse_connections(own, &who)];
    let mut warnings = Vec::new();
    if severity == Severity::Warning {
        advice.extend(advice::let_the_server_close(own));
        advice.extend(advice::reuse_time_waits(seen, route, own));
        advice.extend(advice::widen_the_range(seen, route, own));
        warnings = advice::warnings(seen, route.netns_cookie);
    }
    let holders = seen
        .ports
        .route(route)
        .and_then(|used| used.programs.get(program));
    let pids = holders.map(|holders| holders.pids.clone());
    Finding {
        rule: ShortConnections.name(),
        severity,
        summary: format!(
            "{who}: {} short connections/s to {}; {} kept open would do",
            rate(own.wanted),
            route.destination,
            text::count(pool),
        ),
        evidence,
        dwell: Some(own.dwell),
        advice,
        warnings,
        weight: own.wanted as u64,
        subject: Subject {
            netns_cookie: Some(route.netns_cookie),
            program: Some(*program),
            program_source: holders.map_or(Source::Exact, |holders| holders.source),
            pids: pids.unwrap_or_default(),
            source: Some(route.source),
            destination: Some(route.destination),
            used: Some(own.used),
            capacity: own.capacity,
            ..Subject::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::Initiator;

    /// `each_second` connections a second of `milliseconds`, for 10 s, closed by this side.
    fn busy(each_second: u32, milliseconds: u64) -> Example {
        let mut example = Example::new();
        let (there, php) = (route("10.0.0.9:3306"), program("php-fpm"));
        example.open(there, php, each_second);
        let count = u64::from(each_second) * 10;
        let traffic = example.traffic(there, php);
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, count);
        (0..count).for_each(|_| traffic.add_life(milliseconds * 1_000_000));
        example
    }

    fn found(example: &Example) -> Finding {
        match ShortConnections.check(&example.seen) {
            Check::Found(findings) if findings.len() == 1 => findings[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn many_short_connections_are_told_with_the_pool_that_would_do() {
        let finding = found(&busy(100, 25));
        assert_eq!(finding.severity, Severity::Info);
        assert_eq!(
            finding.summary,
            "php-fpm: 100 short connections/s to 10.0.0.9:3306; 3 kept open would do"
        );
        // 100/s, each for 60.025 s.
        assert!(
            finding.evidence[1].contains("hold 6,003 ports"),
            "{:?}",
            finding.evidence
        );
        assert!(
            finding.evidence[2].ends_with("save 6,000 ports."),
            "{:?}",
            finding.evidence
        );
        let pool = finding.advice[0].proposed.as_deref();
        assert_eq!(pool, Some("a pool of 3 connections or more"));
    }

    #[test]
    fn it_is_a_warning_from_half_of_the_ports_on() {
        assert_eq!(found(&busy(230, 25)).severity, Severity::Info);
        assert_eq!(found(&busy(240, 25)).severity, Severity::Warning);
        let mut reused = busy(240, 25);
        reused.settings().tw_reuse = Some(1);
        assert_eq!(found(&reused).severity, Severity::Info);
    }

    #[test]
    fn few_connections_and_long_ones_are_left_in_peace() {
        let quiet =
            |example: Example| assert_eq!(ShortConnections.check(&example.seen), Check::Quiet);
        quiet(busy(9, 25));
        quiet(busy(100, 1_000));
        found(&busy(10, 999));
    }

    #[test]
    fn a_burst_that_is_over_is_no_rate() {
        let mut example = busy(100, 25);
        example.seen.now = example.seen.now + Duration::from_secs(10);
        assert_eq!(ShortConnections.check(&example.seen), Check::Quiet);
    }

    #[test]
    fn a_rate_is_not_known_at_once() {
        let early = |each_second| {
            let mut example = busy(each_second, 25);
            example.seen.began = example.seen.began + Duration::from_secs(1);
            ShortConnections.check(&example.seen)
        };
        assert_eq!(early(240), Check::TooEarly(Vec::new()));
        assert_eq!(early(100), Check::Quiet);
    }
}
