//! The rules, one file each.

mod accept_queue;
mod attempts;
mod close_wait;
mod connects_without_port;
mod conntrack;
mod denied;
mod descriptors;
mod failures;
mod fin_wait2;
mod no_route;
mod orphans;
mod others;
mod ports_exhausted;
mod ports_forecast;
mod programs;
mod refused;
mod resets;
mod reuse_address;
mod silent;
mod unreachable;
mod words;

use super::rule::Rule;

pub use others::OTHERS;

/// The rules about ports and TIME_WAIT.
pub const PORTS: &[&dyn Rule] = &[
    &ports_exhausted::PortsExhausted,
    &ports_forecast::PortsForecast,
    &connects_without_port::ConnectsWithoutPort,
];
