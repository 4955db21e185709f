//! The busiest routes and what will become of them: for who wants to see more than what is wrong.

use super::load::Loads;
use super::seen::Seen;
use crate::ports::{Forecast, Route, RouteUse, forecast};

/// A route's ports, now and to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteOutlook {
    /// Which.
    pub route: Route,
    /// Inode of its network namespace, where that was read.
    pub netns: Option<u32>,
    /// Ports in use.
    pub used: u64,
    /// How many there are.
    pub capacity: u64,
    /// What is to come.
    pub forecast: Forecast,
}

/// Some routes, and what all others come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Busiest {
    /// Those that are told of, the fullest first.
    pub routes: Vec<RouteOutlook>,
    /// Ports in use on all others.
    pub others: u64,
}

/// The `most` routes on which the largest shares of the ports are in use, of those that are `wanted`,
/// the fullest first. There may be ten thousand: the future is worked out for these alone.
#[must_use]
pub fn busiest(
    seen: &Seen,
    most: usize,
    wanted: impl Fn(&Route, &RouteUse, Option<u32>) -> bool,
) -> Busiest {
    let netns = |route: &Route| Some(seen.namespaces.get(&route.netns_cookie)?.inode);
    let mut loads = Loads::new(seen);
    let mut others = 0;
    let mut fullest = Vec::new();
    for (route, used) in seen.ports.routes() {
        let Some(space) = loads.space(route.netns_cookie) else {
            continue;
        };
        let (number, capacity) = (used.used_of(space), space.capacity());
        if number > 0 && wanted(route, used, netns(route)) {
            fullest.push((number as f64 / (capacity as f64).max(1.0), number, *route));
        } else {
            others += number;
        }
    }
    let fuller = |one: &(f64, u64, Route), other: &(f64, u64, Route)| {
        let share = other.0.total_cmp(&one.0);
        share.then_with(|| one.2.cmp(&other.2))
    };
    if let Some((_, _, rest)) =
        (most < fullest.len()).then(|| fullest.select_nth_unstable_by(most, fuller))
    {
        others += rest.iter().map(|(_, number, _)| number).sum::<u64>();
        others += fullest[most].1;
        fullest.truncate(most);
    }
    fullest.sort_unstable_by(fuller);
    let outlooks = fullest.iter().filter_map(|(_, _, route)| {
        let used = seen.ports.route(route)?;
        let load = loads.of(route);
        let capacity = load.capacity?;
        Some(RouteOutlook {
            route: *route,
            netns: netns(route),
            used: load.used,
            capacity,
            forecast: forecast(used, capacity, &load.habits(seen), seen.now),
        })
    });
    Busiest {
        routes: outlooks.collect(),
        others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::holding::Use;

    #[test]
    fn the_fullest_come_first_and_no_more_than_are_asked_for() {
        let mut example = Example::new();
        for (destination, held) in [
            ("10.0.0.9:80", 10),
            ("10.0.0.8:80", 90),
            ("10.0.0.7:80", 40),
        ] {
            example.hold(route(destination), program("php-fpm"), Use::TimeWait, held);
        }
        let busy = busiest(&example.seen, 2, |_, _, _| true);
        let used: Vec<u64> = busy.routes.iter().map(|route| route.used).collect();
        assert_eq!((used, busy.others), (vec![90, 40], 10));
        let none = busiest(&example.seen, 0, |_, _, _| true);
        assert_eq!((none.routes.len(), none.others), (0, 140));
        let wanted = route("10.0.0.9:80");
        let one = busiest(&example.seen, 2, |route, _, _| *route == wanted);
        assert_eq!((one.routes.len(), one.others), (1, 130));
        assert_eq!(one.routes[0].used, 10);
    }
}
