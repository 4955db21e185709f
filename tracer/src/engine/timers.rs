//! What the engine waits for. Time is the stream's, so each wait ends with an event or a watermark.

use super::queue::Queue;
use super::table::Id;
use crate::time::Timestamp;

const SECOND: u64 = 1_000_000_000;
/// How long what follows an event by microseconds is waited for.
const SOON: u64 = 1_000_000;
/// How long a killed minisocket's tuple is watched for a successor.
pub(super) const REUSE: u64 = 3 * SECOND;
/// Buckets of one second; a longer wait is looked at again when its bucket comes round.
const BUCKETS: usize = 128;

/// A wait that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// One millisecond after CLOSE: whatever bears on the verdict has come.
    Verdict,
    /// One millisecond after a minisocket's timer was taken off the wheel: neither expiry nor a new
    /// start followed, so the minisocket was killed.
    Cancel,
    /// One millisecond after a segment: the minisocket may be put to rest.
    Rest,
    /// Three seconds after the kill: a SYN that took the tuple has become a connection by now.
    Reuse,
}

/// The waits, each kind in the cheapest order that fits it.
///
/// The first four have one length each, and the time never goes back, so a queue is sorted as it
/// grows. Ends of minisockets lie anywhere: a coarse wheel holds them, one push each.
pub(super) struct Timers {
    soon: Queue<(Timestamp, Id, Timer)>,
    reuse: Queue<(Timestamp, Id)>,
    wheel: Vec<Pile>,
    fired: Pile,
    tick: u64,
    /// When the next tick begins.
    next_tick: Timestamp,
    /// Nothing ends before.
    quiet_until: Timestamp,
}

/// Ids in no order, in pieces of one size: it grows without moving what it holds.
#[derive(Clone, Default)]
struct Pile {
    full: Vec<Vec<Id>>,
    top: Vec<Id>,
}

impl Pile {
    const PIECE: usize = 1024;

    fn push(&mut self, id: Id) {
        if self.top.len() == Self::PIECE {
            let fresh = Vec::with_capacity(Self::PIECE);
            self.full.push(std::mem::replace(&mut self.top, fresh));
        }
        self.top.push(id);
    }

    fn pop(&mut self) -> Option<Id> {
        if self.top.is_empty() {
            self.top = self.full.pop()?;
        }
        self.top.pop()
    }

    fn is_empty(&self) -> bool {
        self.top.is_empty() && self.full.is_empty()
    }

    /// Takes over all of `other`.
    fn append(&mut self, other: &mut Self) {
        self.full.append(&mut other.full);
        if !other.top.is_empty() {
            self.full.push(std::mem::take(&mut other.top));
        }
    }
}

impl Timers {
    pub fn new() -> Self {
        Self {
            soon: Queue::new(),
            reuse: Queue::new(),
            wheel: vec![Pile::default(); BUCKETS],
            fired: Pile::default(),
            tick: 0,
            next_tick: Timestamp(0),
            quiet_until: Timestamp(0),
        }
    }

    /// Whether no wait has ended by `now`, for those who ask at each event.
    #[inline]
    pub fn is_quiet(&self, now: Timestamp) -> bool {
        now < self.quiet_until
    }

    /// Looks up until when it is quiet: call it once [`Self::pop`] and [`Self::pop_overdue`] have
    /// given what they have.
    pub fn look_up(&mut self) {
        let fired = (!self.fired.is_empty()).then_some(Timestamp(0));
        self.quiet_until = [self.first_parked(), fired]
            .into_iter()
            .flatten()
            .fold(self.next_tick, Timestamp::min);
    }

    /// Starts the wait for a verdict.
    pub fn park_verdict(&mut self, now: Timestamp, id: Id) {
        self.park(now, id, Timer::Verdict);
    }

    /// Starts the wait for what follows a cancel.
    pub fn park_cancel(&mut self, now: Timestamp, id: Id) {
        self.park(now, id, Timer::Cancel);
    }

    /// Starts the wait for the rest after a segment.
    pub fn park_rest(&mut self, now: Timestamp, id: Id) {
        self.park(now, id, Timer::Rest);
    }

    fn park(&mut self, now: Timestamp, id: Id, timer: Timer) {
        let due = Self::soon_after(now);
        self.quiet_until = self.quiet_until.min(due);
        self.soon.push((due, id, timer));
    }

    /// Starts the wait for the successor of a minisocket that was killed at `at`.
    pub fn await_reuse(&mut self, at: Timestamp, id: Id) {
        // Stamps may step back by microseconds; the queue stays sorted.
        let last = self.reuse.last().map_or(Timestamp(0), |(due, _)| *due);
        let due = Timestamp(at.0.saturating_add(REUSE)).max(last);
        self.quiet_until = self.quiet_until.min(due);
        self.reuse.push((due, id));
    }

    /// Starts the wait for an end that is due at `due`. It may fire earlier: ask again then.
    pub fn await_end(&mut self, due: Timestamp, id: Id) {
        let farthest = self.tick + BUCKETS as u64 - 1;
        let tick = (due.0 / SECOND + 1).clamp(self.tick + 1, farthest);
        self.wheel[tick as usize % BUCKETS].push(id);
    }

    /// The next wait of fixed length that has ended by `now`: call until `None`.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Id, Timer)> {
        if self.soon.first().is_some_and(|(due, ..)| *due <= now) {
            return self.soon.pop().map(|(_, id, timer)| (id, timer));
        }
        if self.reuse.first().is_some_and(|(due, _)| *due <= now) {
            return self.reuse.pop().map(|(_, id)| (id, Timer::Reuse));
        }
        None
    }

    /// Whether [`Self::pop`] would give one.
    pub fn is_parked_due(&self, now: Timestamp) -> bool {
        self.first_parked().is_some_and(|due| due <= now)
    }

    /// The next end that was due by `now`, at the end of a second. There may be millions: a caller
    /// who stops early goes on at its next call.
    pub fn pop_overdue(&mut self, now: Timestamp) -> Option<Id> {
        self.turn(now);
        self.fired.pop()
    }

    /// When [`Self::pop`] or [`Self::pop_overdue`] has something next; `None`: nothing is waited for.
    pub fn next(&self) -> Option<Timestamp> {
        if !self.fired.is_empty() {
            return Some(Timestamp(self.tick.saturating_mul(SECOND)));
        }
        let bucket = (1..=BUCKETS as u64)
            .map(|ahead| self.tick + ahead)
            .find(|tick| !self.wheel[*tick as usize % BUCKETS].is_empty())
            .map(|tick| Timestamp(tick.saturating_mul(SECOND)));
        [self.first_parked(), bucket].into_iter().flatten().min()
    }

    /// When the first wait of fixed length ends.
    fn first_parked(&self) -> Option<Timestamp> {
        let soon = self.soon.first().map(|(due, ..)| *due);
        let reuse = self.reuse.first().map(|(due, _)| *due);
        [soon, reuse].into_iter().flatten().min()
    }

    /// Those whose wait of a millisecond ends next, the first of them first.
    pub fn parked(&self) -> impl Iterator<Item = Id> {
        self.soon.iter().map(|(_, id, _)| *id)
    }

    /// When what is parked at `now` has ended its wait.
    pub fn soon_after(now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add(SOON))
    }

    fn turn(&mut self, now: Timestamp) {
        if now < self.next_tick {
            return;
        }
        let target = now.0 / SECOND;
        self.next_tick = Timestamp((target + 1).saturating_mul(SECOND));
        // One turn empties every bucket, however far the time leaps. What is taken first is on top:
        // the earliest.
        let last = target.min(self.tick + BUCKETS as u64);
        for tick in (self.tick + 1..=last).rev() {
            self.fired.append(&mut self.wheel[tick as usize % BUCKETS]);
        }
        self.tick = target;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    /// Places and kinds; an overdue end is of none.
    fn all(timers: &mut Timers, now: u64) -> Vec<(u32, Option<Timer>)> {
        let now = Timestamp(now);
        let mut told: Vec<_> = std::iter::from_fn(|| timers.pop(now))
            .map(|(id, timer)| (id.index, Some(timer)))
            .collect();
        let overdue = std::iter::from_fn(|| timers.pop_overdue(now));
        told.extend(overdue.map(|id| (id.index, None)));
        told
    }

    fn id(index: u32) -> Id {
        let version = NonZeroU32::MIN;
        Id { index, version }
    }

    #[test]
    fn each_wait_ends_at_its_time_and_not_before() {
        let mut timers = Timers::new();
        let now = Timestamp(1_000 * SECOND);
        assert!(all(&mut timers, now.0).is_empty());
        timers.park_verdict(now, id(1));
        timers.park_cancel(now, id(2));
        timers.await_reuse(now, id(3));
        assert!(all(&mut timers, now.0 + SOON - 1).is_empty());
        assert_eq!(timers.next(), Some(Timestamp(now.0 + SOON)));
        assert_eq!(
            all(&mut timers, now.0 + SOON),
            [(1, Some(Timer::Verdict)), (2, Some(Timer::Cancel))]
        );
        assert_eq!(timers.next(), Some(Timestamp(now.0 + REUSE)));
        assert_eq!(all(&mut timers, now.0 + REUSE), [(3, Some(Timer::Reuse))]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_wheel_never_fires_early_within_its_turn_and_never_forgets() {
        let mut timers = Timers::new();
        all(&mut timers, 500 * SECOND);
        timers.await_end(Timestamp(567 * SECOND + 5), id(1));
        timers.await_end(Timestamp(10), id(2));
        timers.await_end(Timestamp(5_000 * SECOND), id(3));
        assert_eq!(all(&mut timers, 501 * SECOND), [(2, None)]);
        assert!(all(&mut timers, 567 * SECOND + 5).is_empty());
        assert_eq!(timers.next(), Some(Timestamp(568 * SECOND)));
        assert_eq!(all(&mut timers, 568 * SECOND), [(1, None)]);
        // Beyond one turn: asked again at its end, and a leap over several turns loses nothing.
        timers.await_end(Timestamp(9_000 * SECOND), id(4));
        assert_eq!(all(&mut timers, 100_000 * SECOND), [(3, None), (4, None)]);
    }
}
