use std::fmt;

/// Why a record is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Incomplete {
    /// The first event was not an opening: it was open before us, the opening was lost, or it was let
    /// go meanwhile because there were too many.
    OpeningNotSeen,
    /// A transition was not the next step from the state that we knew: an event was lost.
    TransitionLost,
    /// The end of the minisocket was due and not seen.
    EndNotSeen,
    /// Records were lost just when it closed or its tuple was freed: one may have been its own.
    EvidenceLost,
    /// The minisocket cannot be seen, because its probe is not attached.
    TimerProbeMissing,
    /// The verdict needs to know of resets, whose probes are not attached.
    ResetProbeMissing,
}

/// Some of the reasons, or none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct IncompleteSet(u8);

impl IncompleteSet {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds a reason.
    pub const fn insert(&mut self, reason: Incomplete) {
        self.0 |= Self::bit(reason);
    }

    /// Whether `reason` is one of them.
    #[must_use]
    pub const fn contains(self, reason: Incomplete) -> bool {
        self.0 & Self::bit(reason) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// They, in the order of the declaration.
    pub fn iter(self) -> impl Iterator<Item = Incomplete> {
        Incomplete::ALL
            .into_iter()
            .filter(move |reason| self.contains(*reason))
    }

    const fn bit(reason: Incomplete) -> u8 {
        1 << reason as u8
    }
}

impl FromIterator<Incomplete> for IncompleteSet {
    fn from_iter<T: IntoIterator<Item = Incomplete>>(reasons: T) -> Self {
        let mut set = Self::new();
        reasons.into_iter().for_each(|reason| set.insert(reason));
        set
    }
}

impl fmt::Debug for IncompleteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_no_more() {
        let mut set = IncompleteSet::new();
        assert!(set.is_empty());
        set.insert(Incomplete::EvidenceLost);
        set.insert(Incomplete::OpeningNotSeen);
        set.insert(Incomplete::EvidenceLost);
        assert!(set.contains(Incomplete::EvidenceLost) && !set.contains(Incomplete::EndNotSeen));
        assert_eq!(format!("{set:?}"), "[OpeningNotSeen, EvidenceLost]");
        assert_eq!(set, set.iter().collect());
        assert_eq!(
            Incomplete::ALL
                .into_iter()
                .collect::<IncompleteSet>()
                .iter()
                .count(),
            6
        );
    }
}
