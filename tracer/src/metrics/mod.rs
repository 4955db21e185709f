//! What the agent counts, as families of samples: what Prometheus and OpenTelemetry are told alike.
//!
//! ```text
//! records, books, ports ─> Ledger ─> Family, Family, … ─> output/prometheus.rs
//! ```
//!
//! A [`Ledger`] counts; the families are made of it when somebody asks. The names are fixed. No label
//! bears an ephemeral port, and none bears text that others chose.

mod family;
mod findings;
mod histogram;
mod ledger;
mod routes;

pub use family::{Family, Label, Sample, Unit, Value, limit};
pub use findings::FindingCounts;
pub use histogram::Histogram;
pub use ledger::Ledger;
pub use routes::Outlooks;
