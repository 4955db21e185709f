//! When to look at all namespaces: a state machine on the stream's time.

use std::time::Duration;

use crate::stream::Purpose;
use crate::time::Timestamp;

/// No further loss must have been told for this long before a look is worth its cost.
const CALM: Duration = Duration::from_secs(1);
/// The look after a loss is put off no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between the two looks after a loss: the engine takes a socket to be gone once both lacked it.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks that nothing called for.
const PERIOD: Duration = Duration::from_secs(60);
/// A look that nothing called for takes one part in this many of a processor at most.
const PERIODIC_SHARE: u32 = 100;
/// The two looks after a loss take together one part in half of this many of a processor: losses
/// come of too much load, and looking must not become most of it.
const RESYNC_SHARE: u32 = 20;

/// Decides when a sweep begins, and why. One runs at a time.
///
/// Each verb takes the time; [`Self::poll_timeout`] says when [`Self::begin`] is next to be called.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    state: State,
    /// Losses of which no sweep was made yet.
    losses: Option<Losses>,
    /// The second sweep after a loss.
    again_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing was looked at yet.
    New { since: Timestamp },
    /// A sweep runs.
    Running {
        /// After it, another is due because of the same loss.
        is_first_of_two: bool,
    },
    /// The last sweep has ended.
    Idle { since: Timestamp, cpu: Duration },
}

#[derive(Clone, Copy, Debug)]
struct Losses {
    first: Timestamp,
    last: Timestamp,
}

impl Schedule {
    /// A schedule whose first sweep is due at `now`: the probes are attached.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self {
            state: State::New { since: now },
            losses: None,
            again_at: None,
        }
    }

    /// When a sweep is due; `None` while one runs.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match self.state {
            State::New { since } => Some(since),
            State::Running { .. } => None,
            State::Idle { since, cpu } => {
                let periodic = since + PERIOD.max(cpu * PERIODIC_SHARE);
                let resync = self.losses.map(|losses| {
                    let calm = (losses.last + CALM).min(losses.first + PATIENCE);
                    calm.max(since + cpu * RESYNC_SHARE)
                });
                let due = [self.again_at, resync].into_iter().flatten();
                Some(due.fold(periodic, Timestamp::min))
            }
        }
    }

    /// Begins the sweep that is due at `now`, if one is. [`Self::handle_end`] must follow.
    pub fn begin(&mut self, now: Timestamp) -> Option<Purpose> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return None;
        }
        let is_at_start = matches!(self.state, State::New { .. });
        let is_second = self.again_at.take_if(|again_at| now >= *again_at).is_some();
        // The second one of a loss does not stand for the first one of another: the losses that
        // were told meanwhile have two of their own.
        let is_first = !is_at_start && !is_second && self.losses.take().is_some();
        self.state = State::Running {
            is_first_of_two: is_first,
        };
        Some(match (is_at_start, is_first || is_second) {
            (true, _) => Purpose::Start,
            (false, true) => Purpose::Resync,
            (false, false) => Purpose::Periodic,
        })
    }

    /// Events have been told lost at `now`.
    pub fn handle_loss(&mut self, now: Timestamp) {
        let first = self.losses.map_or(now, |losses| losses.first);
        self.losses = Some(Losses { first, last: now });
    }

    /// The running sweep has ended at `now` and took this much processor time.
    pub fn handle_end(&mut self, now: Timestamp, cpu: Duration) {
        if let State::Running { is_first_of_two } = self.state {
            self.state = State::Idle { since: now, cpu };
            if is_first_of_two {
                self.again_at = Some(now + AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Duration = Duration::from_millis(1);

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds * 1_000_000)
    }

    /// A schedule after a start sweep that ended at 100 ms.
    fn started(cpu: Duration) -> Schedule {
        let mut schedule = Schedule::new(at(0));
        assert_eq!(schedule.begin(at(0)), Some(Purpose::Start));
        schedule.handle_end(at(100), cpu);
        schedule
    }

    /// Lets the virtual clock run to `end`, each sweep taking 10 ms: when each began, and why.
    fn run(schedule: &mut Schedule, end: Timestamp, cpu: Duration) -> Vec<(u64, Purpose)> {
        let mut begun = Vec::new();
        while let Some(due) = schedule.poll_timeout().filter(|due| *due <= end) {
            let purpose = schedule.begin(due).expect("it was due");
            begun.push((due.0 / 1_000_000, purpose));
            schedule.handle_end(due + Duration::from_millis(10), cpu);
        }
        begun
    }

    #[test]
    fn the_first_sweep_is_due_at_once() {
        let mut schedule = Schedule::new(at(7));
        assert_eq!(schedule.poll_timeout(), Some(at(7)));
        assert_eq!(schedule.begin(at(6)), None);
        assert_eq!(schedule.begin(at(7)), Some(Purpose::Start));
    }

    #[test]
    fn no_sweep_begins_while_one_runs() {
        let mut schedule = started(CHEAP);
        assert_eq!(schedule.begin(at(60_100)), Some(Purpose::Periodic));
        schedule.handle_loss(at(60_101));
        assert_eq!(schedule.poll_timeout(), None);
        assert_eq!(schedule.begin(at(600_000)), None);
        schedule.handle_end(at(600_000), CHEAP);
        assert_eq!(schedule.begin(at(600_020)), Some(Purpose::Resync));
    }

    #[test]
    fn a_quiet_host_is_looked_at_once_a_minute() {
        let begun = run(&mut started(CHEAP), at(200_000), CHEAP);
        let periodic = [60_100, 120_110, 180_120].map(|begun| (begun, Purpose::Periodic));
        assert_eq!(begun, periodic);
    }

    #[test]
    fn periodic_sweeps_take_a_hundredth_of_a_processor_at_most() {
        let cpu = Duration::from_secs(2);
        let begun = run(&mut started(cpu), at(500_000), cpu);
        let periodic = [200_100, 400_110].map(|begun| (begun, Purpose::Periodic));
        assert_eq!(begun, periodic);
    }

    #[test]
    fn a_loss_is_followed_by_two_sweeps() {
        let mut schedule = started(CHEAP);
        schedule.handle_loss(at(1_000));
        let begun = run(&mut schedule, at(60_000), CHEAP);
        let resync = [2_000, 4_010].map(|begun| (begun, Purpose::Resync));
        assert_eq!(begun, resync);
    }

    #[test]
    fn the_sweep_waits_until_a_second_after_the_last_loss() {
        let mut schedule = started(CHEAP);
        for loss in [1_000, 1_900, 2_800] {
            schedule.handle_loss(at(loss));
        }
        assert_eq!(schedule.poll_timeout(), Some(at(3_800)));
    }

    #[test]
    fn losses_without_an_end_are_looked_at_after_five_seconds() {
        let mut schedule = started(CHEAP);
        for loss in 1..=20 {
            schedule.handle_loss(at(loss * 900));
        }
        assert_eq!(schedule.poll_timeout(), Some(at(900 + 5_000)));
    }

    #[test]
    fn losses_that_are_told_between_the_two_have_two_of_their_own() {
        let mut schedule = started(CHEAP);
        schedule.handle_loss(at(1_000));
        assert_eq!(schedule.begin(at(2_000)), Some(Purpose::Resync));
        schedule.handle_loss(at(2_005));
        schedule.handle_end(at(2_010), CHEAP);
        schedule.handle_loss(at(3_500));
        let begun = run(&mut schedule, at(60_000), CHEAP);
        let resync = [4_010, 4_500, 6_510].map(|begun| (begun, Purpose::Resync));
        assert_eq!(begun, resync);
    }

    #[test]
    fn losses_during_the_start_are_looked_at_after_it() {
        let mut schedule = Schedule::new(at(0));
        schedule.handle_loss(at(0));
        assert_eq!(schedule.begin(at(0)), Some(Purpose::Start));
        schedule.handle_end(at(100), CHEAP);
        let begun = run(&mut schedule, at(60_000), CHEAP);
        let resync = [1_000, 3_010].map(|begun| (begun, Purpose::Resync));
        assert_eq!(begun, resync);
    }

    #[test]
    fn costly_sweeps_are_put_off_under_constant_loss() {
        let cpu = Duration::from_secs(1);
        let mut schedule = started(cpu);
        schedule.handle_loss(at(1_000));
        assert_eq!(schedule.poll_timeout(), Some(at(100 + 20_000)));
        let mut begun = 0;
        for second in 1..=300 {
            schedule.handle_loss(at(second * 1_000));
            begun += run(&mut schedule, at(second * 1_000), cpu).len();
        }
        assert!((25..=30).contains(&begun), "{begun} sweeps of 1 s in 300 s");
    }
}
