//! Time as the stream carries it: the kernel's monotonic nanoseconds, and how to show them on a
//! wall's clock. No clock is read here.

use std::ops::Add;
use std::time::Duration;

/// A point on CLOCK_MONOTONIC, in nanoseconds, as `bpf_ktime_get_ns` gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Nanoseconds since `earlier`; 0 where `earlier` is later, since programs nest and a stamp may
    /// precede one that stands before it in the ring.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

/// CLOCK_REALTIME less CLOCK_MONOTONIC, nanoseconds. It moves when the wall's clock is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallOffset(pub i64);

impl WallOffset {
    /// `at` as nanoseconds since 1970 on the wall's clock.
    #[must_use]
    pub const fn unix_nanoseconds(self, at: Timestamp) -> i128 {
        at.0 as i128 + self.0 as i128
    }
}
