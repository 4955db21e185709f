//! The rules, each in a file of its own.

use super::Rule;

/// Every rule.
#[must_use]
pub fn all() -> Vec<&'static dyn Rule> {
    Vec::new()
}
