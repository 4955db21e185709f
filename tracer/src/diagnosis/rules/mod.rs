//! The rules, one file each.

mod accept_queue;
mod attempts;
mod bound_source_port;
mod close_wait;
mod connects_without_port;
mod conntrack;
mod denied;
mod descriptors;
mod failures;
mod fin_wait2;
mod last_acks_lost;
mod no_route;
mod orphans;
mod others;
mod places;
mod ports_exhausted;
mod ports_forecast;
mod programs;
mod refused;
mod resets;
mod reuse_address;
mod server_time_waits;
mod short_connections;
mod silent;
mod time_wait_cut_short;
mod time_wait_overflow;
mod unreachable;
mod words;

pub use others::OTHERS;

use super::rule::Rule;

/// The rules about ports and TIME_WAIT.
pub const PORTS: &[&dyn Rule] = &[
    &ports_exhausted::PortsExhausted,
    &ports_forecast::PortsForecast,
    &connects_without_port::ConnectsWithoutPort,
    &bound_source_port::BoundSourcePort,
    &time_wait_overflow::TimeWaitOverflow,
    &time_wait_cut_short::TimeWaitCutShort,
    &last_acks_lost::LastAcksLost,
    &short_connections::ShortConnections,
    &server_time_waits::ServerTimeWaits,
];

/// Every rule.
#[must_use]
pub fn all() -> Vec<&'static dyn Rule> {
    [PORTS, OTHERS].concat()
}
