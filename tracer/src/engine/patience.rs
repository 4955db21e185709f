//! What was waited for, once the time has come: how much of it is done in one call, so that none takes
//! long. What was parked is settled before an event is taken in, for the event must not bear on it;
//! what may be overdue, and what is searched for, has time.

use tracer_common::event::flags;

use super::Engine;
use super::timers::Timer;
use crate::stream::Event;
use crate::time::Timestamp;

/// How much is done in one call.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// What was parked for a moment.
    parked: usize,
    /// Ends that may be overdue.
    ends: usize,
    /// Places of the table that are searched for what the kernel no longer has.
    places: usize,
}

impl Patience {
    /// While the ring fills up. Who wants no call to take long has had most of what was parked
    /// settled: see [`Engine::settle_before`].
    pub const AT_AN_EVENT: Self = Self {
        parked: usize::MAX,
        ends: 16,
        places: 16,
    };

    /// Before what comes between events and, like them, must not bear on what was parked.
    pub const BETWEEN: Self = Self {
        parked: usize::MAX,
        ends: 64,
        places: 1024,
    };

    /// When the ring is empty.
    pub const AT_A_WATERMARK: Self = Self {
        parked: 128,
        ..Self::BETWEEN
    };
}

impl Engine {
    /// Settles some of what was waited for until `event`, and tells whether there is more. Call it,
    /// and [`Self::poll`], until there is not; then [`Self::handle_event`], which settles all that
    /// is left, and so may do without: thousands of connections may end with one stamp.
    #[inline]
    #[must_use]
    pub fn settle_before(&mut self, event: &Event) -> bool {
        // What was lost before an event bears on what is settled there, and the event tells of it.
        if event.flags & flags::AFTER_LOSS != 0 || self.timers.is_quiet(event.at) {
            return false;
        }
        self.now = self.now.max(event.at);
        self.settle_parked(Patience::AT_A_WATERMARK.parked);
        self.timers.is_parked_due(self.now)
    }

    /// Moves the time and settles what was waited for until then.
    #[inline]
    pub(super) fn advance(&mut self, now: Timestamp, patience: Patience) {
        self.now = self.now.max(now);
        if !self.timers.is_quiet(self.now) {
            self.settle_due(patience);
        }
        self.look_for_absent(patience.places);
    }

    #[inline(never)]
    fn settle_due(&mut self, patience: Patience) {
        self.settle_parked(patience.parked);
        for _ in 0..patience.ends {
            let Some(id) = self.timers.pop_overdue(self.now) else {
                break;
            };
            self.table.wake(id);
            self.on_overdue(id);
        }
        self.timers.look_up();
        self.ended.age(self.now);
    }

    fn settle_parked(&mut self, most: usize) {
        for _ in 0..most {
            let Some((id, timer)) = self.timers.pop(self.now) else {
                break;
            };
            self.table.wake(id);
            match timer {
                Timer::Verdict => self.give_verdict(id),
                Timer::Cancel => self.on_cancel_alone(id),
                Timer::Rest => self.table.doze(id),
                Timer::Reuse => self.on_reuse_timeout(id),
            }
        }
    }

    /// Puts to rest what may.
    pub(super) fn rest(&mut self) {
        let (now, timers) = (self.now, &mut self.timers);
        self.table.rest(now, |id| timers.park_rest(now, id));
    }
}
