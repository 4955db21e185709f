//! When a route's ports will be used up.

use std::time::Duration;

use super::account::{MEMORY, RouteUse};
use super::pace::Pace;
use crate::record::holding::Use;
use crate::time::Timestamp;

/// The least step of a forecast, seconds,
const STEP: f64 = 0.1;
/// and how large one may be as a share of how far ahead it is.
const STEP_SHARE: f64 = 0.005;

/// How long a port is held by a TIME_WAIT on a route, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dwell {
    /// How long, on average.
    pub mean: Duration,
    /// How that is known.
    pub basis: DwellBasis,
    /// Of how many TIME_WAITs; 0 where it is nominal.
    pub samples: u64,
}

/// How a dwell is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DwellBasis {
    /// TIME_WAITs of the route were seen from their entry to their end.
    Measured,
    /// TIME_WAITs of the route that were there before the watch ran out: from when their timers were
    /// set last, as those tell.
    Inventory,
    /// The kernel's 60 s (`TCP_TIMEWAIT_LEN`): nothing was measured.
    Nominal,
}

impl DwellBasis {
    /// As JSON spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Inventory => "inventory",
            Self::Nominal => "nominal",
        }
    }
}

/// What will become of a route's ports if it goes on as it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Ports taken a second now.
    pub rate: f64,
    /// By how much that rate grows each second (negative: it falls).
    pub growth: f64,
    /// Ports in use once things are as they will stay at that rate (Little's law): rate times how
    /// long a port is held, life and TIME_WAIT together.
    pub steady_state: f64,
    /// What is to come.
    pub outlook: Outlook,
    /// How long TIME_WAIT holds a port.
    pub dwell: Dwell,
}

/// What is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Too little was seen to say.
    TooEarly,
    /// All ports are in use.
    Exhausted,
    /// They will be, after this time.
    In(Duration),
    /// They never will, at this rate.
    Never,
}

/// What is known of a route's connections beside what holds ports now.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Watched since.
    pub began: Timestamp,
    /// How long TIME_WAIT holds a port.
    pub dwell: Dwell,
    /// How long a connection lives before its TIME_WAIT, on average; `None`: none has closed yet.
    pub life: Option<Duration>,
    /// Of the connections, the share that ends in a TIME_WAIT of this side; 0 to 1.
    pub time_wait_share: f64,
    /// A TIME_WAIT can be taken over after this time (tcp_tw_reuse, with timestamps).
    pub reusable_after: Option<Duration>,
}

/// The kernel's TCP_TIMEWAIT_LEN, which [`RouteUse::ends`] rests on.
const NOMINAL: f64 = 60.0;
/// How much later than nominally the timer wheel ends a TIME_WAIT, on average at HZ=250: for where
/// nothing was measured.
const WHEEL_DELAY: f64 = 1.0;
/// Nothing is said after a shorter watch, seconds,
const LEAST_WATCH: f64 = 3.0;
/// or of fewer connections.
const LEAST_OPENINGS: u64 = 10;

/// The forecast for `used` of `capacity` ports at `now`: what happens if the route goes on as it
/// does.
///
/// The rate is that of the last half minute, or of what is left of it since it jumped; it is said to
/// grow only where that cannot be chance, see `pace.rs`. Growth is believed for as long as it has been
/// seen and no longer: from then on the rate stays. A connection holds its port for its life, and
/// `time_wait_share` of them for the TIME_WAIT after it. TIME_WAITs that are there end when their
/// timers say. Connections that are open although they are older than the usual life stay.
///
/// Where no connection has closed yet, none is expected to; the steady state is then the least that
/// it can be, with lives as long as the watch.
///
/// With `reusable_after`, a TIME_WAIT of that age counts as free: connect() takes it over.
#[must_use]
pub fn forecast(used: &RouteUse, capacity: u64, habits: &Habits, now: Timestamp) -> Forecast {
    let pace = Pace::of(used, habits.began, now);
    let watched = seconds(now.since(habits.began));
    let life = habits.life.map(|life| life.as_secs_f64());
    let mut course = Course::new(used, habits, &pace, now);
    let outlook = if course.used >= capacity as f64 {
        Outlook::Exhausted
    } else if watched < LEAST_WATCH || pace.openings < LEAST_OPENINGS {
        Outlook::TooEarly
    } else {
        match course.reaches(capacity as f64) {
            Some(after) => Outlook::In(after),
            None => Outlook::Never,
        }
    };
    Forecast {
        rate: pace.rate,
        growth: pace.growth,
        steady_state: pace.rate * (life.unwrap_or(watched) + course.share * course.hold),
        outlook,
        dwell: habits.dwell,
    }
}

/// Ports in use from now on. Times are seconds from now.
struct Course<'a> {
    pace: &'a Pace,
    /// Now.
    used: f64,
    /// Ports that are in use now and will be free, by when, the latest first.
    ends: Vec<(f64, f64)>,
    /// Connections from before the memory of openings that will close, evenly over this time.
    old: (f64, f64),
    life: Option<f64>,
    share: f64,
    /// How long TIME_WAIT keeps connect() from a port.
    hold: f64,
}

impl<'a> Course<'a> {
    fn new(used: &RouteUse, habits: &Habits, pace: &'a Pace, now: Timestamp) -> Self {
        let dwell = habits.dwell.mean.as_secs_f64();
        let reusable = habits.reusable_after.map(|after| after.as_secs_f64());
        let delay = match habits.dwell.basis {
            DwellBasis::Measured => (dwell - NOMINAL).max(0.0),
            DwellBasis::Inventory | DwellBasis::Nominal => WHEEL_DELAY,
        };
        let mut course = Self {
            pace,
            used: used.used() as f64,
            ends: Vec::new(),
            old: (0.0, 0.0),
            life: habits.life.map(|life| life.as_secs_f64()),
            share: habits.time_wait_share.clamp(0.0, 1.0),
            hold: reusable.map_or(dwell, |reusable| dwell.min(reusable)),
        };
        course.end_minisockets(used, reusable, delay, now);
        course.end_connections(used, habits, now);
        course
            .ends
            .sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
        course
    }

    /// What waits in TIME_WAIT now ends.
    fn end_minisockets(
        &mut self,
        used: &RouteUse,
        reusable: Option<f64>,
        delay: f64,
        now: Timestamp,
    ) {
        let time_waits = used.counts.of(Use::TimeWait) as f64;
        let mut known = 0.0;
        let mut free = 0.0;
        for (tenth, count) in &used.ends {
            let count = f64::from(*count);
            known += count;
            let nominal = middle(*tenth, now);
            let at = reusable.map_or(nominal + delay, |reusable| {
                (nominal - NOMINAL + reusable).min(nominal + delay)
            });
            if reusable.is_some() && at <= 0.0 {
                free += count;
            } else {
                self.ends.push((at.max(0.0), count));
            }
        }
        // Minisockets that wait for the FIN have timers too, but are not taken over.
        self.used -= f64::min(free, time_waits);
        // Of those whose timer is not known, one is as old as another.
        const PARTS: u32 = 100;
        let unknown = (time_waits - known).max(0.0) / f64::from(PARTS);
        if unknown > 0.0 {
            let hold = self.hold;
            let at = |part: u32| hold * (f64::from(part) + 0.5) / f64::from(PARTS);
            self.ends.extend((0..PARTS).map(|part| (at(part), unknown)));
        }
    }

    /// What is open now closes: the latest to open as the usual life says.
    fn end_connections(&mut self, used: &RouteUse, habits: &Habits, now: Timestamp) {
        let Some(life) = self.life else { return };
        let timed: u64 = used.ends.values().map(|count| u64::from(*count)).sum();
        let waiting = used.counts.of(Use::TimeWait).max(timed);
        let open = used.used().saturating_sub(waiting) as f64;
        let watched = seconds(now.since(habits.began)).min(MEMORY as f64 / 10.0);
        let young: Vec<(f64, f64)> = used
            .openings
            .iter()
            .map(|(tenth, count)| (middle(*tenth, now).min(0.0) + life, f64::from(*count)))
            .filter(|(closes, _)| *closes > 0.0)
            .collect();
        let opened: f64 = young.iter().map(|(_, count)| count).sum();
        // Some have closed before their time.
        let left = if opened > open { open / opened } else { 1.0 };
        for (closes, count) in young {
            let count = count * left;
            self.ends.push((closes, count * (1.0 - self.share)));
            self.ends.push((closes + self.hold, count * self.share));
        }
        let unseen = (life - watched).max(0.0);
        let older = (open - opened).max(0.0);
        self.old = (older.min(self.pace.rate.max(0.0) * unseen), unseen);
    }

    /// When this many ports are in use. `None`: never.
    fn reaches(&mut self, capacity: f64) -> Option<Duration> {
        let last_end = self.ends.first().map_or(0.0, |(at, _)| *at);
        let after = self.life.unwrap_or(0.0) + self.hold;
        let settled = last_end.max(self.pace.lasts.max(self.old.1) + after);
        let mut ended = 0.0;
        let (mut before, mut used_before) = (0.0, self.used);
        loop {
            let at = before + f64::max(STEP, before * STEP_SHARE);
            while let Some((_, count)) = self.ends.pop_if(|(end, _)| *end <= at) {
                ended += count;
            }
            let used = self.used + self.pace.opened(at) - ended - self.ended(at);
            if used >= capacity {
                let share = (capacity - used_before) / (used - used_before);
                let after = before + (at - before) * share.clamp(0.0, 1.0);
                return Duration::try_from_secs_f64(after).ok();
            }
            if at > settled {
                // From here on it is a straight line.
                let rate = match self.life {
                    Some(_) => 0.0,
                    None => self.pace.last_rate(),
                };
                let after = at + (capacity - used) / rate;
                return (rate > 0.0)
                    .then(|| Duration::try_from_secs_f64(after).ok())
                    .flatten();
            }
            (before, used_before) = (at, used);
        }
    }

    /// Ports that are free again at `at`, of connections that open from now on and of old ones.
    fn ended(&self, at: f64) -> f64 {
        let Some(life) = self.life else { return 0.0 };
        let closed = |at: f64| {
            let (old, over) = self.old;
            let old = if over > 0.0 {
                old * (at / over).clamp(0.0, 1.0)
            } else {
                0.0
            };
            old + self.pace.opened(at - life)
        };
        (1.0 - self.share) * closed(at) + self.share * closed(at - self.hold)
    }
}

/// The middle of a tenth of a second of the monotonic clock, in seconds from `now`.
fn middle(tenth: u64, now: Timestamp) -> f64 {
    (tenth as f64 + 0.5) / 10.0 - seconds(now.0)
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests;
