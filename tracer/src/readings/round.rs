//! The way through all namespaces.

use crate::inventory::namespaces::{self, EnterError, Whereabouts};
use crate::stream::{NamespaceReading, Skipped};

use super::proc;

/// What a round brings.
#[derive(Debug)]
pub(super) enum Result {
    /// A namespace was read.
    Reading(Box<NamespaceReading>),
    /// All were.
    Over {
        /// The processor time that it took.
        cpu: std::time::Duration,
    },
}

/// Reads all namespaces in the calling thread, which is to end after it: it is left in one of them.
/// Stops where nobody takes the results. Gives what could not be entered.
pub(super) fn go(mut take: impl FnMut(Result) -> bool) -> Vec<Skipped> {
    let mut whereabouts = Whereabouts::here();
    let (found, mut skipped) = namespaces::find();
    let mut max_orphans = None;
    for namespace in found {
        match whereabouts.enter(&namespace) {
            Ok(()) => {}
            Err(EnterError::Gone) => continue,
            Err(error) => {
                skipped.push(Skipped {
                    netns: Some(namespace.inode),
                    path: namespace.path(),
                    reason: error.to_string(),
                });
                continue;
            }
        }
        let mut reading = proc::read(namespace.inode);
        // One for the whole host, and shown in its first namespace alone.
        max_orphans = reading.settings.max_orphans.or(max_orphans);
        reading.settings.max_orphans = max_orphans;
        if !take(Result::Reading(Box::new(reading))) {
            break;
        }
    }
    skipped
}
