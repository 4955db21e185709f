//! What there was no room for: others choose how many destinations, names and namespaces there are.

use std::ops::{AddAssign, Sub};

/// What is counted where it does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thing {
    /// Verdicts and ends of connections whose program and place are one too many.
    Rows,
    /// Failed calls whose program, address and error are one too many.
    Calls,
    /// Changes of programs that would be one too many in CLOSE_WAIT.
    CloseWaits,
    /// Listeners.
    Listeners,
    /// Readings of network namespaces.
    Namespaces,
}

impl Thing {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Rows,
        Self::Calls,
        Self::CloseWaits,
        Self::Listeners,
        Self::Namespaces,
    ];

    /// As a label spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Calls => "calls",
            Self::CloseWaits => "close_waits",
            Self::Listeners => "listeners",
            Self::Namespaces => "namespaces",
        }
    }
}

/// How many of each thing there was no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut([u64; Thing::ALL.len()]);

impl LeftOut {
    /// Counts one.
    pub fn note(&mut self, thing: Thing) {
        self.0[thing as usize] += 1;
    }

    /// How many of `thing`.
    #[must_use]
    pub const fn of(&self, thing: Thing) -> u64 {
        self.0[thing as usize]
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl AddAssign for LeftOut {
    fn add_assign(&mut self, more: Self) {
        for (count, more) in self.0.iter_mut().zip(more.0) {
            *count += more;
        }
    }
}

impl Sub for LeftOut {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        let mut left = self;
        for (count, less) in left.0.iter_mut().zip(less.0) {
            *count = count.saturating_sub(less);
        }
        left
    }
}
