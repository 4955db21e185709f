//! What others did on this host while a test looked at all of it: the tests of this project that
//! trace nothing run beside these, and some have their connections refused.

use std::ops::RangeInclusive;

use crate::kernel::Counters;

/// The kernel's counters of the host's own network namespace, where these tests do nothing that
/// fails: what drivers do, they do in namespaces of their own.
pub struct Others(Counters);

impl Others {
    /// Those of now.
    pub fn now() -> Self {
        Self(Counters::read())
    }

    /// What a sample is between: `ours`, and as many more as others have had fail since.
    pub fn and_failed(&self, ours: f64) -> RangeInclusive<f64> {
        self.and(ours, "AttemptFails")
    }

    /// The same for connections that a reset ended.
    pub fn and_reset(&self, ours: f64) -> RangeInclusive<f64> {
        self.and(ours, "EstabResets")
    }

    fn and(&self, ours: f64, name: &str) -> RangeInclusive<f64> {
        let theirs = Counters::read().since(&self.0, name);
        ours..=ours + theirs as f64
    }
}
