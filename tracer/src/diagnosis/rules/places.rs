//! Where connections of one kind are: to a destination, or at a port of this host's own.

use std::net::IpAddr;

use tracer_common::tcp::Endpoint;

use crate::diagnosis::finding::Subject;
use crate::diagnosis::seen::Seen;
use crate::diagnosis::traffic::Traffic;
use crate::ports::{Program, Route, Service};
use crate::record::Source;

/// A route of clients, or a service of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// To there.
    To(Route),
    /// At this host's own port.
    At(Service),
}

impl Place {
    /// Cookie of the network namespace.
    pub(super) const fn netns_cookie(&self) -> u64 {
        match self {
            Self::To(route) => route.netns_cookie,
            Self::At(service) => service.netns_cookie,
        }
    }

    /// `to 10.0.0.9:3306`, `at port 8080`.
    pub(super) fn name(&self) -> String {
        match self {
            Self::To(route) => format!("to {}", route.destination),
            Self::At(service) => format!("at port {}", service.port),
        }
    }

    /// A finding's subject here.
    pub(super) fn subject(&self, program: Option<Program>) -> Subject {
        let (source, destination, local_port): (Option<IpAddr>, Option<Endpoint>, Option<u16>) =
            match self {
                Self::To(route) => (Some(route.source), Some(route.destination), None),
                Self::At(service) => (None, None, Some(service.port)),
            };
        let is_known = program.is_some_and(|program| program.name.is_some());
        Subject {
            netns_cookie: Some(self.netns_cookie()),
            program,
            program_source: match is_known {
                true => Source::Exact,
                false => Source::Unknown,
            },
            source,
            destination,
            local_port,
            ..Subject::default()
        }
    }
}

/// Every place with what the programs did there, in order.
pub(super) fn places(seen: &Seen) -> Vec<(Place, Vec<(&Program, &Traffic)>)> {
    let routes = seen.tallies.routes.iter();
    let routes = routes.map(|(route, programs)| (Place::To(*route), programs));
    let services = seen.tallies.services.iter();
    let services = services.map(|(service, programs)| (Place::At(*service), programs));
    let mut places: Vec<_> = routes
        .chain(services)
        .map(|(place, programs)| {
            let mut programs: Vec<_> = programs.iter().collect();
            programs.sort_unstable_by_key(|(program, _)| **program);
            (place, programs)
        })
        .collect();
    places.sort_unstable_by_key(|(place, _)| *place);
    places
}

/// The sum over all programs of a place.
pub(super) fn sum(programs: &[(&Program, &Traffic)], of: impl Fn(&Traffic) -> u64) -> u64 {
    programs.iter().map(|(_, traffic)| of(traffic)).sum()
}

/// The program of which there is the most.
pub(super) fn most(
    programs: &[(&Program, &Traffic)],
    of: impl Fn(&Traffic) -> u64,
) -> Option<Program> {
    let most = programs.iter().max_by_key(|(_, traffic)| of(traffic));
    most.filter(|(_, traffic)| of(traffic) > 0)
        .map(|(program, _)| **program)
}
