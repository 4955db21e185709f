//! How often something dear may be done at once: in bursts, and rarely for long.

use std::time::Duration;

use crate::time::Timestamp;

/// Leave for a burst, and for one more in each `refill`.
#[derive(Debug)]
pub struct Pace {
    most: u32,
    refill: Duration,
    credits: u32,
    refilled_at: Timestamp,
}

impl Pace {
    /// Leave for `most` at `now`, and for another one after each `refill`, which is not 0.
    #[must_use]
    pub const fn new(most: u32, refill: Duration, now: Timestamp) -> Self {
        Self {
            most,
            refill,
            credits: most,
            refilled_at: now,
        }
    }

    /// Whether it may be done at once, which is taken for done.
    pub fn may(&mut self, now: Timestamp) -> bool {
        let earned = now.since(self.refilled_at) / (self.refill.as_nanos() as u64).max(1);
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.credits = self.credits.saturating_add(earned).min(self.most);
            self.refilled_at = now;
        }
        let may = self.credits > 0;
        self.credits = self.credits.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leave_is_given_in_bursts_and_rarely_for_long() {
        let mut pace = Pace::new(16, Duration::from_millis(2), Timestamp(0));
        let burst = (0..100).filter(|_| pace.may(Timestamp(0))).count();
        assert_eq!(burst, 16);
        let second = 1_000_000_000;
        let granted = (0..100_000)
            .filter(|step| pace.may(Timestamp(step * second / 100_000)))
            .count();
        assert!(
            (495..=501).contains(&granted),
            "{granted} in a second of constant asking"
        );
    }
}
