//! What the formats write, and what filters let pass.

mod check;
mod filters;
mod ndjson;
mod samples;
mod tables;
