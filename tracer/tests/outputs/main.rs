//! What the formats write, and what filters let pass.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check;
mod diagnosis;
mod filters;
mod ndjson;
mod ports;
mod samples;
mod tables;
