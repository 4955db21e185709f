//! What a rule is.

use super::finding::Finding;
use super::seen::Seen;

/// One thing that may be wrong. A rule keeps nothing: it looks at what was seen so far, as often as
/// it is asked.
pub trait Rule: Sync {
    /// Its name, as `ports-exhausted`.
    fn name(&self) -> &'static str;

    /// What it says of what was seen so far.
    fn check(&self, seen: &Seen) -> Check;
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// It is so, in as many places as there are findings, which are certain: what comes later can
    /// change their figures alone.
    Found(Vec<Finding>),
    /// It is not so, as far as was seen.
    Quiet,
    /// Not enough evidence yet: what was seen does not tell. Beside it, what is certain already.
    TooEarly(Vec<Finding>),
}

impl Check {
    /// Found, or quiet where there are none.
    #[must_use]
    pub fn of(findings: Vec<Finding>) -> Self {
        match findings.is_empty() {
            true => Self::Quiet,
            false => Self::Found(findings),
        }
    }
}
