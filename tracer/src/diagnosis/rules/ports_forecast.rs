//! A route's ports will be used up within minutes.

use std::time::Duration;

use super::ports_exhausted::{State, state};
use crate::diagnosis::advice::{self, duration, rate};
use crate::diagnosis::culprit::{culprit, label};
use crate::diagnosis::finding::{Finding, Severity};
use crate::diagnosis::load::{Load, Loads};
use crate::diagnosis::relief::relief;
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::output::text;
use crate::ports::{Forecast, Outlook, Route, RouteUse, forecast};

/// `ports-forecast`.
pub struct PortsForecast;

/// Exhaustion that comes so soon fails before anybody can look into it.
const SOON: Duration = Duration::from_secs(60);

/// What comes later may as well not come.
const HORIZON: Duration = Duration::from_secs(600);

/// From this share of use on, or after this time, what fills a route is more than a burst;
const BEGUN: f64 = 0.1;
const LASTING: Duration = Duration::from_secs(10);

/// where no connection was seen to close, from this share on.
const BEGUN_UNCLOSED: f64 = 0.25;

impl Rule for PortsForecast {
    fn name(&self) -> &'static str {
        "ports-forecast"
    }

    fn check(&self, seen: &Seen) -> Check {
        check_with(seen, |used, capacity, load| {
            forecast(used, capacity, &load.habits(seen), seen.now)
        })
    }
}

/// As the forecast is made by `forecast`.
fn check_with(seen: &Seen, forecast: impl Fn(&RouteUse, u64, &Load) -> Forecast) -> Check {
    let mut findings = Vec::new();
    let mut is_too_early = false;
    let mut loads = Loads::new(seen);
    for (route, used) in seen.ports.routes() {
        let load = loads.of(route);
        let Some(capacity) = load.capacity.filter(|capacity| *capacity > 0) else {
            continue;
        };
        // Even if no port came free again, there would be some left.
        let most = load.used as f64 + 2.0 * load.wanted * HORIZON.as_secs_f64();
        let is_far_off = load.wanted == 0.0 || most < capacity as f64;
        if is_far_off || state(seen, route, &load) != State::Free {
            continue;
        }
        let forecast = forecast(used, capacity, &load);
        // A pool that is being filled opens connections as well, and soon no more.
        let share = load.used as f64 / capacity as f64;
        let may_be_a_burst = match load.life {
            Some(_) => share < BEGUN && seen.watched() < LASTING,
            None => share < BEGUN_UNCLOSED,
        };
        match forecast.outlook {
            Outlook::In(left) if left <= HORIZON && may_be_a_burst => is_too_early = true,
            Outlook::In(left) if left <= HORIZON => {
                findings.push(finding(seen, route, &load, &forecast, left));
            }
            Outlook::TooEarly => is_too_early = true,
            Outlook::In(_) | Outlook::Exhausted | Outlook::Never => {}
        }
    }
    findings.sort_by_key(|finding| finding.subject.destination);
    match is_too_early {
        true => Check::TooEarly(findings),
        false => Check::of(findings),
    }
}

fn finding(
    seen: &Seen,
    route: &Route,
    load: &Load,
    forecast: &Forecast,
    left: Duration,
) -> Finding {
    let culprit = culprit(seen, route);
    let who = label(seen, culprit.program.as_ref());
    let capacity = load.capacity.unwrap_or(0);
    let severity = match left <= SOON {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let left = duration(Duration::from_secs(left.as_secs()));
    let mut evidence = vec![
        format!(
            "From {} to {}, {} of {} ports are in use, {} of them in TIME_WAIT.",
            route.source,
            route.destination,
            text::count(load.used),
            text::count(capacity),
            text::count(load.time_waits),
        ),
        format!(
            "{} ports are taken a second now ({}{:.1} each second); at that rate {}{} would be in \
             use in the end.",
            rate(forecast.rate),
            if forecast.growth < 0.0 { "" } else { "+" },
            forecast.growth,
            // Where none has closed, that many are held by those that were opened in the watch.
            if load.life.is_some() {
                ""
            } else {
                "more than "
            },
            text::count(forecast.steady_state as u64),
        ),
    ];
    if let Some(bears) = load.bears(capacity) {
        evidence.push(format!(
            "A connection holds its port for {} (TIME_WAIT {}), so that {} ports bear {} \
             connections/s.",
            duration(load.hold()),
            forecast.dwell.basis.name(),
            text::count(capacity),
            rate(bears),
        ));
    }
    Finding {
        rule: PortsForecast.name(),
        severity,
        summary: format!(
            "{who} will be out of ports to {} in {left}: {} of {} used",
            route.destination,
            text::count(load.used),
            text::count(capacity),
        ),
        evidence,
        dwell: Some(forecast.dwell),
        advice: relief(seen, route, load, &who),
        warnings: advice::warnings(seen, route.netns_cookie),
        weight: (forecast.steady_state as u64)
            .saturating_sub(capacity)
            .max(1),
        subject: culprit.subject(route, load),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::holding::Use;
    use crate::record::{CloseKind, Initiator};

    /// Half of the ports used, `each_second` connects a second.
    fn half_full(each_second: u32) -> Example {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program("php-fpm"), Use::TimeWait, 14_116);
        example.open(there, program("php-fpm"), each_second);
        let traffic = example.traffic(there, program("php-fpm"));
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, 100);
        (0..100).for_each(|_| traffic.add_life(20_000_000));
        example
    }

    fn told(example: &Example, outlook: Outlook) -> Check {
        check_with(&example.seen, |_, _, load| Forecast {
            rate: load.wanted,
            growth: 0.0,
            steady_state: load.steady_state(),
            outlook,
            dwell: load.dwell,
        })
    }

    fn severity(check: Check) -> Option<Severity> {
        match check {
            Check::Found(findings) => Some(findings[0].severity),
            _ => None,
        }
    }

    #[test]
    fn how_soon_it_comes_makes_it_an_error_or_a_warning_or_nothing() {
        let example = half_full(500);
        let after = |seconds| told(&example, Outlook::In(Duration::from_secs(seconds)));
        assert_eq!(severity(after(28)), Some(Severity::Error));
        assert_eq!(severity(after(60)), Some(Severity::Error));
        assert_eq!(severity(after(61)), Some(Severity::Warning));
        assert_eq!(severity(after(600)), Some(Severity::Warning));
        assert_eq!(after(601), Check::Quiet);
        assert_eq!(told(&example, Outlook::Never), Check::Quiet);
        assert_eq!(
            told(&example, Outlook::TooEarly),
            Check::TooEarly(Vec::new())
        );
        let Check::Found(findings) = after(28) else {
            panic!("not found");
        };
        assert_eq!(
            findings[0].summary,
            "php-fpm will be out of ports to 10.0.0.9:3306 in 28s: 14,116 of 28,232 used"
        );
    }

    #[test]
    fn a_route_that_cannot_fill_in_time_is_not_too_early_but_quiet() {
        let example = half_full(1);
        assert_eq!(told(&example, Outlook::TooEarly), Check::Quiet);
        assert_eq!(told(&half_full(0), Outlook::TooEarly), Check::Quiet);
    }

    #[test]
    fn half_full_at_a_steady_rate_the_rest_is_as_near_as_the_forecast_says() {
        // 14,116 ports left, of which 500 a second are taken and 235 come free.
        let Check::Found(findings) = PortsForecast.check(&half_full(500).seen) else {
            panic!("not found");
        };
        assert_eq!(findings[0].severity, Severity::Error);
        // Half of what the ports can bear for ever.
        assert_eq!(PortsForecast.check(&half_full(230).seen), Check::Quiet);
    }

    #[test]
    fn a_pool_that_is_being_filled_is_no_danger_yet() {
        let fill = |held| {
            let mut example = Example::new();
            let there = route("10.0.0.9:3306");
            example.hold(there, program("java"), Use::Established, held);
            example.open(there, program("java"), 300);
            told(&example, Outlook::In(SOON))
        };
        assert_eq!(fill(7_057), Check::TooEarly(Vec::new()));
        assert_eq!(severity(fill(7_058)), Some(Severity::Error));
    }

    #[test]
    fn what_is_exhausted_is_not_forecast() {
        let mut example = half_full(500);
        example.hold(
            route("10.0.0.9:3306"),
            program("php-fpm"),
            Use::TimeWait,
            14_116,
        );
        assert_eq!(told(&example, Outlook::In(SOON)), Check::Quiet);
    }
}
