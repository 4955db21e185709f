//! How long to wait before something is tried again.

use std::time::Duration;

use super::Pace;

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure. `chance` is from 0 to 1, so that a thousand agents that lost
    /// the same collector do not come back to it at once. `asked`: what the collector asked for.
    pub fn next(&mut self, pace: &Pace, chance: f64, asked: Option<Duration>) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let wait = pace.first.saturating_mul(doubled).min(pace.longest);
        // Half of it is sure, so that there is no storm.
        let wait = wait.mul_f64(0.5 + chance / 2.0);
        wait.max(asked.unwrap_or_default().min(pace.asked))
    }

    /// It went well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_wait_doubles_up_to_the_longest_and_begins_anew() {
        let pace = Pace::default();
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..7)
            .map(|_| backoff.next(&pace, 1.0, None).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        for _ in 0..100 {
            backoff.next(&pace, 1.0, None);
        }
        assert_eq!(backoff.next(&pace, 0.0, None), 15 * SECOND);
        backoff.reset();
        assert_eq!(backoff.next(&pace, 1.0, None), SECOND);
    }

    #[test]
    fn what_the_collector_asks_for_is_the_least_but_not_for_ever() {
        let pace = Pace::default();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(&pace, 0.3, Some(7 * SECOND)), 7 * SECOND);
        assert_eq!(
            backoff.next(&pace, 0.3, Some(u32::MAX * SECOND)),
            pace.asked
        );
        let soon = Some(Duration::from_millis(1));
        assert_eq!(backoff.next(&pace, 1.0, soon), 4 * SECOND);
    }
}
