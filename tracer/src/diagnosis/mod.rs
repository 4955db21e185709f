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
mod example;
mod finding;
pub mod load;
pub mod relief;
mod rule;
pub mod rules;
mod seen;
#[expect(dead_code, reason = "the consumer is not merged yet")]
mod traffic;

pub use finding::{Advice, Finding, Severity, Subject};
pub use rule::{Check, Rule};
pub use seen::{CallKey, CallTally, CloseWaits, Listener, NamespaceSeen, Seen};
pub use traffic::{Ending, Sum, Traffic};
