//! The minisocket: what waits in FIN_WAIT2 or TIME_WAIT once the full socket is gone, and what its
//! timer tells about that.
//!
//! ```text
//!            timer_start                       first start: it lives
//!                 │
//!                 v          timer_start       moved to another bucket: a flip or a refresh
//!   ┌────────> Running <────────────────┐
//!   │ segment    │ timer_cancel         │
//!   └────────────┤                      │
//!                v                      │
//!            Cancelled ─────────────────┘
//!                │ └─ timer_expire ──────────> Ended: expired
//!                v 1 ms: nothing followed
//!             Killed ── RST, connect(), SYN, ─> Ended: by that
//!                │      netns exit, ss -K
//!                └──── 3 s: nobody took it ──> Ended: unknown
//! ```

use tracer_common::tcp::TcpState;

use super::connection::Rest;
use super::table::Id;
use crate::record::EntryPrecision;
use crate::stream;
use crate::time::Timestamp;

/// TIME_WAIT's length, seconds (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_SECONDS: u64 = 60;
/// A timer that runs this much later than its wheel explains is late.
const LATE: u64 = 100_000_000;
/// How long after its latest nominal end an end is still waited for.
const OVERDUE: u64 = 5_000_000_000;
/// How exactly sock_diag tells a timer's end: milliseconds, jiffies, and the time that a batch of
/// its answers takes.
const TOLD_WITHIN: u64 = 100_000_000;
/// How long what a segment has left behind bears on what follows.
const MOMENT: u64 = 1_000_000;
/// No timer of a minisocket is set for longer than this many jiffies; garbage is cut off here.
const LONGEST: u64 = 1 << 32;

/// What a minisocket is and was.
#[derive(Clone, Debug)]
pub(super) struct Minisocket {
    /// FIN_WAIT2 or TIME_WAIT, as shown last.
    pub substate: TcpState,
    /// It was made in FIN_WAIT2: part of that wait is the minisocket's.
    pub began_in_fin_wait2: bool,
    /// Its first timer_start was seen.
    pub seen_from_start: bool,
    /// The first that was seen of it: stamp and jiffies.
    pub began: (Timestamp, u64),
    /// TIME_WAIT, once entered.
    pub entry: Option<Entry>,
    /// Set anew after entry.
    pub refreshes: u32,
    /// FINs that came again.
    pub fin_retransmits: u32,
    /// Data that came again.
    pub old_duplicates: u32,
    /// Some of either may not have been seen.
    pub segments_lost: bool,
    /// The timer's nominal end as shown last, jiffies.
    expires: u64,
    /// The same as sock_diag told it, while no event has shown it.
    told_end: Option<Timestamp>,
    /// When that was set: jiffies and stamp.
    armed: (u64, Timestamp),
    /// When its end is overdue.
    pub due: Timestamp,
    /// The flip was shown by the timer: the segment that did it is still to come, on this processor
    /// and after this stamp.
    pub flipped_at: Option<(Timestamp, u16)>,
    /// The latest segment: when, on which processor, its flags and payload.
    pub last_segment: Option<(Timestamp, u16, u8, u16)>,
    /// An RST was sent for it: when and where.
    pub reset_sent: Option<(Timestamp, u16)>,
    /// The event before its first timer_start on the same processor: that one's processor and
    /// number.
    pub straight_after: Option<(u16, u32)>,
    /// It is among those that are counted as waiting in TIME_WAIT.
    pub counted: bool,
    pub life: Life,
}

/// Entry into TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub at: Timestamp,
    pub from: Option<TcpState>,
    pub precision: EntryPrecision,
    pub nominal_ns: u64,
}

/// How far the timer's life has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Life {
    /// On the wheel.
    Running,
    /// Off the wheel for less than a millisecond: expiry, move or kill.
    Cancelled(Cancel),
    /// Killed; who took the tuple is not settled.
    Killed(Cancel),
    /// It is over.
    Ended(End),
}

/// A timer_cancel and what bears on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cancel {
    pub at: Timestamp,
    pub cpu: u16,
    pub shown: stream::Minisocket,
    /// Connections that came before it have lower serials.
    pub serial: u64,
    /// An RST was handled right after it.
    pub reset: bool,
    /// Data or a SYN was handled right after it.
    pub data: bool,
    /// The connection whose connect() may have done it.
    pub candidate: Option<Id>,
    /// Its context: a softirq,
    pub in_softirq: bool,
    /// or a process that sends something: to SOCK_DESTROY, for instance.
    pub in_send: bool,
    /// The network namespace was being taken down.
    pub netns_dying: bool,
}

/// The end of a minisocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// `None`: it was not seen.
    pub at: Option<Timestamp>,
    pub how: How,
    pub late: bool,
}

/// How a minisocket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Expired,
    ReusedByConnect,
    ReusedBySyn,
    Reset,
    Data,
    Purged,
    Destroyed,
    Unknown,
    NotSeen,
}

/// What showed a minisocket's timer or substate anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It was put on the wheel: what the timer shows happened now.
    Move,
    /// A segment that may have done it was handled now.
    Segment,
    /// It is shown as it has been for an unknown while.
    Silent,
}

/// What a sign changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// TIME_WAIT was entered.
    Entered,
    /// The timer was set anew.
    Refreshed,
}

impl Minisocket {
    /// A minisocket as it is shown first.
    pub fn new(at: Timestamp, shown: &stream::Minisocket, sign: Sign, jiffies: Jiffies) -> Self {
        let mut minisocket = Self {
            substate: shown.substate,
            began_in_fin_wait2: shown.substate == TcpState::FinWait2,
            seen_from_start: sign == Sign::Move,
            began: (at, shown.jiffies),
            entry: None,
            refreshes: 0,
            fin_retransmits: 0,
            old_duplicates: 0,
            segments_lost: false,
            expires: shown.expires,
            told_end: None,
            armed: (shown.jiffies, at),
            due: at,
            flipped_at: None,
            last_segment: None,
            reset_sent: None,
            straight_after: None,
            counted: false,
            life: Life::Running,
        };
        minisocket.rearm(at, shown, sign, jiffies);
        minisocket
    }

    /// A minisocket as sock_diag told of it: it was there at `at` and is to end at `ends_at`.
    pub fn found(substate: TcpState, ends_at: Timestamp, at: Timestamp, jiffies: Jiffies) -> Self {
        let length = jiffies.time_wait();
        let set_at = Timestamp(ends_at.0.saturating_sub(jiffies.nanoseconds(length)));
        let wheel = jiffies.nanoseconds(latest_expiry(length) - length);
        Self {
            substate,
            began_in_fin_wait2: substate == TcpState::FinWait2,
            seen_from_start: false,
            began: (at, 0),
            entry: (substate == TcpState::TimeWait).then(|| Entry {
                at: set_at,
                from: None,
                precision: EntryPrecision::LastRefresh,
                nominal_ns: jiffies.nanoseconds(length),
            }),
            refreshes: 0,
            fin_retransmits: 0,
            old_duplicates: 0,
            segments_lost: false,
            expires: 0,
            told_end: Some(ends_at),
            armed: (0, set_at),
            due: Timestamp(ends_at.0.saturating_add(wheel).saturating_add(OVERDUE)),
            flipped_at: None,
            last_segment: None,
            reset_sent: None,
            straight_after: None,
            counted: false,
            life: Life::Running,
        }
    }

    /// TIME_WAIT begins now.
    pub fn enter(
        &mut self,
        at: Timestamp,
        from: Option<TcpState>,
        shown: &stream::Minisocket,
        jiffies: Jiffies,
    ) {
        self.entry = Some(Entry {
            at,
            from,
            precision: EntryPrecision::Exact,
            nominal_ns: jiffies.nanoseconds(shown.expires.saturating_sub(shown.jiffies)),
        });
    }

    /// TIME_WAIT was entered some time ago: works out when from what is shown now.
    pub fn enter_before(&mut self, at: Timestamp, shown: &stream::Minisocket, jiffies: Jiffies) {
        let (entered_at, precision) = self.derive_entry(at, shown, jiffies);
        self.entry = Some(Entry {
            at: entered_at,
            from: self.seen_from_start.then_some(TcpState::FinWait2),
            precision,
            nominal_ns: jiffies.nanoseconds(jiffies.time_wait()),
        });
    }

    /// Takes in what an event shows.
    pub fn observe(
        &mut self,
        at: Timestamp,
        shown: &stream::Minisocket,
        sign: Sign,
        jiffies: Jiffies,
    ) -> Change {
        self.recognise(at, shown, jiffies);
        let flipped = self.substate == TcpState::FinWait2 && shown.substate == TcpState::TimeWait;
        let moved = shown.expires > self.expires;
        let change = if flipped && self.entry.is_none() {
            self.substate = TcpState::TimeWait;
            if sign == Sign::Silent {
                self.enter_before(at, shown, jiffies);
            } else {
                self.enter(at, Some(TcpState::FinWait2), shown, jiffies);
            }
            Change::Entered
        } else if moved && self.entry.is_some() {
            self.refreshes = self.refreshes.saturating_add(1);
            Change::Refreshed
        } else {
            Change::None
        };
        if moved || sign == Sign::Move {
            self.rearm(at, shown, sign, jiffies);
        }
        change
    }

    /// The first event of a minisocket that sock_diag told of: is its timer still set as it was?
    pub fn recognise(&mut self, at: Timestamp, shown: &stream::Minisocket, jiffies: Jiffies) {
        let Some(told) = self.told_end.take() else {
            return;
        };
        let left = jiffies.nanoseconds(shown.expires.saturating_sub(shown.jiffies));
        let over = jiffies.nanoseconds(shown.jiffies.saturating_sub(shown.expires));
        let ends_at = (at.0 + left).saturating_sub(over);
        if ends_at <= told.0.saturating_add(TOLD_WITHIN) {
            self.rearm(at, shown, Sign::Silent, jiffies);
        }
    }

    /// Whether the timer ran out at `at` later than its wheel explains.
    pub fn is_late(&self, at: Timestamp, jiffies: Jiffies) -> bool {
        let (set, set_at) = self.armed;
        let latest = latest_expiry(self.expires.saturating_sub(set));
        at.since(set_at) > jiffies.nanoseconds(latest).saturating_add(LATE)
    }

    /// Whether the timer was set since it was last seen, without a sign.
    pub fn was_set_silently(&self, shown: &stream::Minisocket) -> bool {
        shown.expires > self.expires
    }

    /// When its timer ends, its wheel's slack not counted.
    pub fn nominal_end(&self, jiffies: Jiffies) -> Timestamp {
        let (set, set_at) = self.armed;
        let length = jiffies.nanoseconds(self.expires.saturating_sub(set));
        self.told_end
            .unwrap_or(Timestamp(set_at.0.saturating_add(length)))
    }

    /// What it was set for last: jiffies and stamp.
    pub fn armed(&self) -> (u64, Timestamp) {
        self.armed
    }

    /// The timer's nominal end, in jiffies, and as sock_diag told it, while no event has shown it.
    pub fn end_as_shown(&self) -> (u64, Option<Timestamp>) {
        (self.expires, self.told_end)
    }

    /// A minisocket that runs, as it was before. `told_end`: its end as sock_diag told it, and when
    /// that is overdue.
    pub fn again(
        substate: TcpState,
        began: (Timestamp, u64),
        expires: u64,
        armed: (u64, Timestamp),
        told_end: Option<(Timestamp, Timestamp)>,
        jiffies: Jiffies,
    ) -> Self {
        let mut minisocket = Self::found(substate, Timestamp(0), began.0, jiffies);
        minisocket.began = began;
        minisocket.expires = expires;
        minisocket.armed = armed;
        minisocket.told_end = told_end.map(|(ends_at, _)| ends_at);
        minisocket.due = match told_end {
            Some((_, due)) => due,
            None => minisocket.overdue(jiffies),
        };
        minisocket
    }

    /// When it may be put to rest. Forgets what is kept for a moment only, once that is over.
    pub fn rest_at(&mut self, now: Timestamp) -> Rest {
        if !matches!(self.life, Life::Running) || self.reset_sent.is_some() {
            return Rest::No;
        }
        let is_past = |at: Timestamp| now.since(at) > MOMENT;
        self.flipped_at = self.flipped_at.filter(|(at, _)| !is_past(*at));
        self.last_segment = self.last_segment.filter(|(at, ..)| !is_past(*at));
        match (self.flipped_at, self.last_segment) {
            (None, None) => Rest::Now,
            _ => Rest::Soon,
        }
    }

    /// Its end is told.
    pub fn is_over(&self) -> bool {
        matches!(self.life, Life::Ended(_))
    }

    /// On the wheel, or off it for a moment.
    pub fn is_alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Cancelled(_))
    }

    /// The timer is set as `shown`: now, or so long ago that it had TIME_WAIT's length then.
    fn rearm(&mut self, at: Timestamp, shown: &stream::Minisocket, sign: Sign, jiffies: Jiffies) {
        self.expires = shown.expires;
        self.armed = (shown.jiffies, at);
        let left = shown.expires.saturating_sub(shown.jiffies);
        if sign == Sign::Silent && left < jiffies.time_wait() {
            let ago = jiffies.time_wait() - left;
            self.armed = (
                shown.jiffies.saturating_sub(ago),
                Timestamp(at.0.saturating_sub(jiffies.nanoseconds(ago))),
            );
        }
        self.due = self.overdue(jiffies);
    }

    /// When its end is overdue, as the timer is set.
    fn overdue(&self, jiffies: Jiffies) -> Timestamp {
        let (set, set_at) = self.armed;
        let latest = latest_expiry(self.expires.saturating_sub(set));
        let latest_at = set_at.0.saturating_add(jiffies.nanoseconds(latest));
        Timestamp(latest_at.saturating_add(OVERDUE))
    }

    /// When TIME_WAIT was entered, from the entry stamp or from the timer's end.
    fn derive_entry(
        &self,
        at: Timestamp,
        shown: &stream::Minisocket,
        jiffies: Jiffies,
    ) -> (Timestamp, EntryPrecision) {
        let set = shown.expires.saturating_sub(jiffies.time_wait());
        let ago = shown.jiffies.saturating_sub(set);
        let refreshed_at = Timestamp(at.0.saturating_sub(jiffies.nanoseconds(ago)));
        if let Some(stamped_at) = stamp(shown.entry_stamp_ms, at) {
            // The stamp is the entry's own; one that lies after the last refresh is none, and one
            // that lies at the minisocket's birth may be that.
            let born = self.seen_from_start && stamped_at.0 <= self.began.0.0 + 1_000_000;
            if !born && stamped_at.0 <= refreshed_at.0.saturating_add(2 * jiffies.nanoseconds(1)) {
                return (stamped_at, EntryPrecision::Jiffy);
            }
        }
        if self.seen_from_start && set <= self.began.1.saturating_add(1) {
            // The timer was never set after the jiffy in which the minisocket was made.
            return (refreshed_at, EntryPrecision::Jiffy);
        }
        (refreshed_at, EntryPrecision::LastRefresh)
    }
}

/// A stamp of the low 32 bits of monotonic milliseconds, made before `at`.
fn stamp(milliseconds: u32, at: Timestamp) -> Option<Timestamp> {
    if milliseconds == 0 {
        return None;
    }
    let now = at.0 / 1_000_000;
    let ago = (now as u32).wrapping_sub(milliseconds);
    Some(Timestamp(now.checked_sub(u64::from(ago))? * 1_000_000))
}

/// How long a jiffy is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jiffies {
    hz: u64,
}

impl Jiffies {
    /// `hz` jiffies a second.
    pub fn new(hz: u32) -> Self {
        Self {
            hz: u64::from(hz.max(1)),
        }
    }

    /// `jiffies` in nanoseconds.
    pub fn nanoseconds(self, jiffies: u64) -> u64 {
        jiffies.min(LONGEST) * 1_000_000_000 / self.hz
    }

    /// TIME_WAIT's length in jiffies.
    pub fn time_wait(self) -> u64 {
        TIME_WAIT_SECONDS * self.hz
    }
}

/// The latest jiffy, counted from now, at which the timer wheel runs a timer that is set for
/// `delta` jiffies: bucket = ((expires >> 3L) + 1) << 3L, with L the smallest level for which
/// delta < 63·8^L.
///
/// Source: `calc_wheel_index` in `kernel/time/timer.c` at v6.18.
pub(super) fn latest_expiry(delta: u64) -> u64 {
    let granule = (0..8)
        .map(|level| 1_u64 << (3 * level))
        .find(|granule| delta < 63 * granule)
        .unwrap_or(1 << 24);
    delta.saturating_add(granule)
}

#[cfg(test)]
#[path = "timewait_tests.rs"]
mod tests;
