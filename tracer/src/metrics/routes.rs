//! The ports of the busiest destinations, and of all others together.

use std::net::SocketAddr;

use super::{Family, Label, Sample, Unit, Value};
use crate::diagnosis::{Busiest, RouteOutlook, Seen, busiest};
use crate::ports::{Outlook, Route, RouteUse};

/// The busiest routes, and what the others come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlooks(Busiest);

impl Outlooks {
    /// The `most` routes of `seen` on which the largest shares of the ports are in use.
    #[must_use]
    pub fn of(seen: &Seen, most: usize) -> Self {
        Self(busiest(seen, most, |route, used, _| {
            has_a_destination(seen, route, used)
        }))
    }
}

/// Whether the other end may be called the destination. What was there before us may be the TIME_WAIT
/// of a server whose listener is gone, and the other end's port an ephemeral one: there may be tens
/// of thousands of those.
fn has_a_destination(seen: &Seen, route: &Route, used: &RouteUse) -> bool {
    let settings = seen.settings(route.netns_cookie);
    let range = settings.and_then(|settings| settings.port_range);
    let is_ephemeral = range.is_none_or(|(first, last)| {
        let port = route.destination.port;
        (first..=last).contains(&port)
    });
    // Of what was seen to open it is known who connected.
    let unseen: u64 = used.unseen.values().copied().map(u64::from).sum();
    let was_opened = used.choosing > 0 || used.counts.total() > unseen;
    was_opened || !is_ephemeral
}

/// What is told of them.
pub fn families(routes: &Outlooks) -> Vec<Family> {
    let each = |value: &dyn Fn(&RouteOutlook) -> Option<f64>| {
        let sample = |route: &RouteOutlook| {
            Some(Sample {
                labels: labels(route),
                value: Value::Gauge(value(route)?),
            })
        };
        routes
            .0
            .routes
            .iter()
            .filter_map(sample)
            .collect::<Vec<_>>()
    };
    let mut used = each(&|route| Some(route.used as f64));
    if routes.0.others > 0 {
        let other = ["netns", "source", "destination"].map(|name| (name, "other".into()));
        used.push(Sample::of(other, Value::Gauge(routes.0.others as f64)));
    }
    vec![
        Family::new(
            "tracer.ephemeral_ports.used",
            "Ephemeral ports in use between a source address and a destination, for the busiest",
            Unit::None,
            used,
        ),
        Family::new(
            "tracer.ephemeral_ports.capacity",
            "Ephemeral ports that there are between a source address and a destination",
            Unit::None,
            each(&|route| Some(route.capacity as f64)),
        ),
        Family::new(
            "tracer.ephemeral_ports.exhaustion",
            "Time until all of these ports are in use, if it goes on like this: 0 where they are, \
             and no sample where they never will be",
            Unit::Seconds,
            each(&|route| match route.forecast.outlook {
                Outlook::Exhausted => Some(0.0),
                Outlook::In(time) => Some(time.as_secs_f64()),
                Outlook::TooEarly | Outlook::Never => None,
            }),
        ),
    ]
}

fn labels(route: &RouteOutlook) -> Vec<Label> {
    let destination = route.route.destination;
    let destination = SocketAddr::new(destination.address, destination.port);
    let netns = route
        .netns
        .map_or_else(String::new, |inode| inode.to_string());
    vec![
        ("netns", netns.into()),
        ("source", route.route.source.to_string().into()),
        ("destination", destination.to_string().into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::holding::Use;

    fn series(families: &[Family], name: &str) -> Vec<(String, f64)> {
        let family = families.iter().find(|family| family.name == name);
        let samples = family.into_iter().flat_map(|family| &family.samples);
        samples
            .map(|sample| {
                let Value::Gauge(value) = sample.value else {
                    panic!("a gauge: {sample:?}");
                };
                let destination = sample
                    .labels
                    .iter()
                    .find(|(name, _)| *name == "destination");
                (destination.expect("a destination").1.to_string(), value)
            })
            .collect()
    }

    #[test]
    fn ten_thousand_destinations_come_to_as_many_series_as_are_wanted() {
        let mut example = Example::new();
        for number in 0..10_000 {
            let destination = format!("10.1.{}.{}:80", number / 250, number % 250);
            example.hold(route(&destination), program("scan"), Use::TimeWait, 1);
        }
        example.hold(
            route("10.0.0.9:3306"),
            program("php-fpm"),
            Use::TimeWait,
            500,
        );
        let families = families(&Outlooks::of(&example.seen, 3));
        let used = series(&families, "tracer.ephemeral_ports.used");
        assert_eq!(used.len(), 4);
        assert_eq!(used[0], ("10.0.0.9:3306".to_owned(), 500.0));
        assert_eq!(used[3], ("other".to_owned(), 9_998.0));
        assert_eq!(
            series(&families, "tracer.ephemeral_ports.capacity").len(),
            3
        );
    }
}
