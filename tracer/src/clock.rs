//! The only clock reads. Everything else takes its time from the stream.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

use crate::time::{Timestamp, WallOffset};

/// CLOCK_MONOTONIC now, the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic() -> Timestamp {
    Timestamp(u64::try_from(nanoseconds(clock_gettime(ClockId::Monotonic))).unwrap_or(0))
}

/// How the wall's clock stands against the monotonic one now.
#[must_use]
pub fn wall_offset() -> WallOffset {
    let before = nanoseconds(clock_gettime(ClockId::Monotonic));
    let wall = nanoseconds(clock_gettime(ClockId::Realtime));
    let after = nanoseconds(clock_gettime(ClockId::Monotonic));
    WallOffset(wall - (before + (after - before) / 2))
}

/// The processor time that the calling thread has used since it began, system calls included.
#[must_use]
pub fn thread_cpu() -> Duration {
    let used = nanoseconds(clock_gettime(ClockId::ThreadCPUTime));
    Duration::from_nanos(u64::try_from(used).unwrap_or(0))
}

/// The kernel's timer interrupts a second (CONFIG_HZ), from the coarse clock's resolution, which is
/// one jiffy.
#[must_use]
pub fn hz() -> u32 {
    let jiffy = nanoseconds(clock_getres(ClockId::MonotonicCoarse)).max(1);
    u32::try_from((1_000_000_000 + jiffy / 2) / jiffy).unwrap_or(u32::MAX)
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hz_is_one_of_the_kernels_choices() {
        assert!([100, 250, 300, 1000].contains(&hz()), "{}", hz());
    }

    #[test]
    fn the_offset_leads_to_this_century() {
        let now = wall_offset().unix_nanoseconds(monotonic());
        assert!(now > 1_600_000_000 * 1_000_000_000, "{now}");
    }
}
