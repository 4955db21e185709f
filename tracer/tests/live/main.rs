//! Live tests: real sockets in network namespaces of the tests' own, the program as users run it,
//! and its word held against sock_diag, the kernel's counters and what the drivers did.
//!
//! They need root and skip without it, saying so; where `CI` or `TRACER_TEST_ROOT=1` is set, a
//! skip is a failure. `cargo test --test live -- --nocapture` shows the figures that they measure.
//!
//! A whole TIME_WAIT is waited for once, by [`dwell`], for every address family at the same time
//! and beside the other tests. [`gate`] keeps full load away from what measures milliseconds.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests are the outside world: they hold the tracer to clocks of their own"
)]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;
use support::{gate, kernel, lines, namespace, ndjson, pace, receiver, sock_diag, tracer, witness};

mod account;
mod daemon;
mod drivers;
mod others;

mod agent;
mod agent_bound;
mod agent_findings;
mod agent_otlp;
mod agent_restart;
mod agent_sight;
mod attribution;
mod backlog;
mod both_ways;
mod calls;
mod client_first;
mod close_order;
mod command_line;
mod degraded;
mod diagnose;
mod dwell;
mod failed_connects;
mod full_rate;
mod inventory;
mod loss;
mod mixed;
mod ports;
mod promptness;
mod resets;
mod reuse;
mod timeouts;
