//! How much of a processor a sweep may take.

use std::time::Duration;

use crate::clock;

/// The processor time of one thread, from where it was begun. To be asked in that thread.
#[derive(Debug)]
pub(super) struct Budget {
    begun: Duration,
    limit: Duration,
}

impl Budget {
    /// Begins one of `limit`.
    pub fn begin(limit: Duration) -> Self {
        Self {
            begun: clock::thread_cpu(),
            limit,
        }
    }

    /// What has been used.
    pub fn used(&self) -> Duration {
        clock::thread_cpu().saturating_sub(self.begun)
    }

    /// Whether that is all.
    pub fn is_used_up(&self) -> bool {
        self.used() >= self.limit
    }

    /// What the report says of what it was not enough for.
    pub fn reason(&self) -> String {
        format!("the budget of {:?} was used up", self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_free_and_working_is_not() {
        let budget = Budget::begin(Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!budget.is_used_up(), "{:?}", budget.used());
        let mut turns = 0_u64;
        while !budget.is_used_up() {
            turns = std::hint::black_box(turns + 1);
        }
        assert_eq!(budget.reason(), "the budget of 20ms was used up");
        assert_eq!(
            Budget::begin(Duration::from_secs(2)).reason(),
            "the budget of 2s was used up"
        );
    }
}
