//! What our own log is told of failures: the first of them, now and then that they go on, and their
//! end.

use std::time::Duration;

use crate::time::Timestamp;

/// The failures of one kind of request.
#[derive(Debug)]
pub(super) struct Complaints {
    /// What is sent.
    what: &'static str,
    every: Duration,
    told_at: Option<Timestamp>,
    /// Failures since the last success.
    failures: u64,
}

impl Complaints {
    /// Of what is sent: `"metrics"`. No more than one failure is told in a time of `every`.
    pub const fn new(what: &'static str, every: Duration) -> Self {
        Self {
            what,
            every,
            told_at: None,
            failures: 0,
        }
    }

    /// It failed at `now`: what to say, if anything.
    pub fn on_failure(&mut self, why: &str, now: Timestamp) -> Option<String> {
        self.failures += 1;
        if self.told_at.is_some_and(|told| now < told + self.every) {
            return None;
        }
        self.told_at = Some(now);
        let what = self.what;
        Some(match self.failures {
            1 => format!("the collector does not take {what}: {why}"),
            many => format!("the collector does not take {what}, {many} times now: {why}"),
        })
    }

    /// It went well: what to say, if anything.
    pub fn on_success(&mut self) -> Option<String> {
        match std::mem::take(&mut self.failures) {
            0 => None,
            failures => Some(format!(
                "the collector takes {} again, after {failures} failures",
                self.what
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_told_once_a_minute_and_its_end_once() {
        let mut complaints = Complaints::new("metrics", Duration::from_secs(60));
        let said: Vec<String> = (0..130)
            .filter_map(|second| complaints.on_failure("503", Timestamp(second * 1_000_000_000)))
            .collect();
        assert_eq!(
            said,
            [
                "the collector does not take metrics: 503",
                "the collector does not take metrics, 61 times now: 503",
                "the collector does not take metrics, 121 times now: 503",
            ]
        );
        assert_eq!(
            complaints.on_success().unwrap(),
            "the collector takes metrics again, after 130 failures"
        );
        assert_eq!(complaints.on_success(), None);
        // One that comes and goes is told no more often.
        assert_eq!(
            complaints.on_failure("503", Timestamp(131_000_000_000)),
            None
        );
    }
}
