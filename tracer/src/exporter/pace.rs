//! How soon something is tried again, and when it is given up.

use std::time::Duration;

/// The lengths of time that no configuration has: only tests have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long to wait after a first failure; after each further one twice as long,
    pub first: Duration,
    /// but no longer than this.
    pub longest: Duration,
    /// The longest that a collector may ask us to wait.
    pub asked: Duration,
    /// How long the same log records are tried: something may be wrong with them alone.
    pub patience: Duration,
    /// How long the end may take, all in all.
    pub last_words: Duration,
    /// How often a failure that goes on is told in the log.
    pub told_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            asked: Duration::from_secs(300),
            patience: Duration::from_secs(300),
            last_words: Duration::from_millis(4_500),
            told_every: Duration::from_secs(60),
        }
    }
}
