//! The rules, one file each.

mod bound_source_port;
mod connects_without_port;
mod last_acks_lost;
mod places;
mod ports_exhausted;
mod ports_forecast;
mod server_time_waits;
mod short_connections;
mod time_wait_cut_short;
mod time_wait_overflow;

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
    PORTS.to_vec()
}
