//! What is wrong on this host, who does it, why, and what to change.
//!
//! ```text
//! engine's outputs, names, readings ─> Seen ─> each Rule ─> Findings ─> text, JSON
//! ```
//!
//! [`Seen`] takes everything in and draws no conclusions; a [`Rule`] draws one and keeps nothing.

pub mod advice;
pub mod command;
pub mod culprit;
#[cfg(test)]
pub(crate) mod example;
mod finding;
pub mod load;
mod outlook;
pub mod relief;
mod report;
mod rule;
pub mod rules;
mod seen;
mod traffic;
mod watch;

pub use finding::{Advice, Finding, Severity, Subject};
pub use outlook::{RouteOutlook, busiest};
pub use report::{Losses, Report, Verdict};
pub use rule::{Check, Rule};
pub use seen::{CallKey, CallTally, CloseWaits, Listener, NamespaceSeen, Seen};
pub use traffic::{Ending, Sum, Traffic};
pub use watch::Watch;
