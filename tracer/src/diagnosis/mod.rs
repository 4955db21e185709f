//! What is wrong on this host, who does it, why, and what to change.
//!
//! ```text
//! engine's outputs, names, readings ─> Seen ─> each Rule ─> Findings ─> text, JSON, metrics, log
//! ```
//!
//! [`Seen`] takes everything in and draws no conclusions; a [`Rule`] draws one and keeps nothing. A
//! [`Watch`] is for once, [`Rolling`] goes on and on.

pub mod advice;
mod answer;
pub mod command;
#[cfg(test)]
mod cost;
pub mod culprit;
#[cfg(test)]
pub(crate) mod example;
mod finding;
mod intake;
mod left_out;
pub mod load;
mod outlook;
pub mod relief;
mod report;
mod rolling;
mod rule;
pub mod rules;
mod seen;
mod tallies;
mod traffic;
mod watch;

pub use answer::Answer;
pub use finding::{Advice, Finding, Severity, Subject};
pub use left_out::{LeftOut, Thing};
pub use outlook::{Busiest, RouteOutlook, busiest};
pub use report::{Losses, Report, Verdict};
pub use rolling::{Rolling, WINDOW};
pub use rule::{Check, Rule};
pub use seen::{CloseWaits, Listener, NamespaceSeen, Seen};
pub use tallies::{ByProgram, CallKey, CallTally, Tallies};
pub use traffic::{Ending, Sum, Traffic};
pub use watch::Watch;
