//! The rules, one file each.

mod connects_without_port;
mod ports_exhausted;
mod ports_forecast;

use super::rule::Rule;

/// The rules about ports and TIME_WAIT.
pub const PORTS: &[&dyn Rule] = &[
    &ports_exhausted::PortsExhausted,
    &ports_forecast::PortsForecast,
    &connects_without_port::ConnectsWithoutPort,
];
