//! The rules, one file each.

use super::rule::Rule;

/// The rules about ports and TIME_WAIT.
pub const PORTS: &[&dyn Rule] = &[];
