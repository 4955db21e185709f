//! What others did on this host while a test looked at all of it: the tests of this project that
//! trace nothing run beside these, and some have their connections refused.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;

use crate::kernel::Counters;

/// The kernel's counters of every network namespace that a process is in, by inode. A test's own
/// namespaces are not among them: only its threads enter these.
pub struct Others(BTreeMap<u64, Counters>);

impl Others {
    /// Those of now.
    pub fn now() -> Self {
        let processes = fs::read_dir("/proc").expect("the processes").flatten();
        let namespaces = processes.filter_map(|process| {
            // A process may have ended by now; what is no process has no namespace.
            let inode = fs::metadata(process.path().join("ns/net")).ok()?.ino();
            Some((inode, Counters::of_process(&process.path())?))
        });
        Self(namespaces.collect())
    }

    /// What a sample is between: `ours`, and as many more as others may have had since that the
    /// kernel counts under `name`.
    pub fn and(&self, ours: f64, name: &str) -> RangeInclusive<f64> {
        let now = Self::now();
        let grown = now.0.iter().map(|(inode, counters)| {
            let before = self.0.get(inode).map_or(0, |before| before.of(name));
            counters.of(name) - before
        });
        ours..=ours + grown.sum::<i64>() as f64
    }

    /// The same for connects that failed.
    pub fn and_failed(&self, ours: f64) -> RangeInclusive<f64> {
        self.and(ours, "AttemptFails")
    }

    /// The same for connections that a reset ended.
    pub fn and_reset(&self, ours: f64) -> RangeInclusive<f64> {
        self.and(ours, "EstabResets")
    }
}
