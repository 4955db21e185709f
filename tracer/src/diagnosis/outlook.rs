//! The busiest routes and what will become of them: for who wants to see more than what is wrong.

use super::load::Loads;
use super::seen::Seen;
use crate::ports::{Forecast, Route, forecast};

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

/// The `most` routes on which the largest shares of the ports are in use, of those that are `wanted`,
/// the fullest first.
#[must_use]
pub fn busiest(
    seen: &Seen,
    most: usize,
    wanted: impl Fn(&Route, Option<u32>) -> bool,
) -> Vec<RouteOutlook> {
    let mut loads = Loads::new(seen);
    let mut routes: Vec<RouteOutlook> = seen
        .ports
        .routes()
        .filter_map(|(route, used)| {
            let namespace = seen.namespaces.get(&route.netns_cookie);
            let netns = namespace.map(|namespace| namespace.inode);
            let load = loads.of(route);
            let capacity = load.capacity?;
            let is_shown = load.used > 0 && wanted(route, netns);
            is_shown.then(|| RouteOutlook {
                route: *route,
                netns,
                used: load.used,
                capacity,
                forecast: forecast(used, capacity, &load.habits(seen), seen.now),
            })
        })
        .collect();
    let share = |route: &RouteOutlook| route.used as f64 / (route.capacity as f64).max(1.0);
    routes.sort_by(|one, other| {
        let fuller = share(other).total_cmp(&share(one));
        fuller.then_with(|| one.route.cmp(&other.route))
    });
    routes.truncate(most);
    routes
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
        let routes = busiest(&example.seen, 2, |_, _| true);
        let used: Vec<u64> = routes.iter().map(|route| route.used).collect();
        assert_eq!(used, [90, 40]);
        let wanted = route("10.0.0.9:80");
        let one = busiest(&example.seen, 2, |route, _| *route == wanted);
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].used, 10);
    }
}
