//! What is asked of a route, and what it can bear.

use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::seen::Seen;
use super::traffic::{Ending, Sum, Traffic};
use crate::ports::{Dwell, DwellBasis, Habits, Program, Route, Space, tenth};
use crate::record::holding::Use;
use crate::record::{CloseCause, CloseKind};

/// The kernel's `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Fewer TIME_WAITs than these, seen from entry to end, make no mean.
const DWELLS: u64 = 10;

/// Over how long a rate is taken, tenths of a second.
const RATE_OVER: u64 = 100;

/// What clients ask of a route, and what it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Ports in use that connect() chose: those that bind() took are no part of the capacity either,
    pub used: u64,
    /// of these in TIME_WAIT,
    pub time_waits: u64,
    /// and how many there are; `None`: the network namespace was not read.
    pub capacity: Option<u64>,
    /// connect() calls a second of late, those that fail included.
    pub wanted: f64,
    /// Opening to the first step of the close, on average; `None`: none was seen.
    pub life: Option<Duration>,
    /// Opening to the end of the full socket, on average: how long a port is held, TIME_WAIT not
    /// counted. `None`: none was seen.
    pub held: Option<Duration>,
    /// How long TIME_WAIT holds a port.
    pub dwell: Dwell,
    /// Share of the connections that end in a TIME_WAIT of this side.
    pub time_wait_share: f64,
    /// Share of the connects that had a port and failed all the same: they leave no TIME_WAIT.
    pub failing: f64,
    /// Share of the connections that use TCP timestamps; `None`: none was seen to close.
    pub timestamps: Option<f64>,
    /// Share of all ports in use that clients had bound.
    pub bound_share: f64,
    /// A TIME_WAIT can be taken over after this time, by the settings as they are.
    pub reusable_after: Option<Duration>,
}

/// The loads of many routes: what they share is worked out once.
pub struct Loads<'a> {
    seen: &'a Seen,
    spaces: HashMap<u64, Option<Space>, RandomState>,
}

impl<'a> Loads<'a> {
    /// Of what was seen so far.
    #[must_use]
    pub fn new(seen: &'a Seen) -> Self {
        let spaces = HashMap::default();
        Self { seen, spaces }
    }

    /// The load of `route`.
    pub fn of(&mut self, route: &Route) -> Load {
        let seen = self.seen;
        Load::in_space(seen, route, self.space(route.netns_cookie))
    }

    /// The ports that connect() chooses from in a network namespace.
    pub fn space(&mut self, netns_cookie: u64) -> Option<&Space> {
        let space = self.spaces.entry(netns_cookie);
        let space = space.or_insert_with(|| self.seen.space(netns_cookie));
        space.as_ref()
    }
}

impl Load {
    /// The load of `route` as seen so far. For many routes, see [`Loads`].
    #[must_use]
    pub fn of(seen: &Seen, route: &Route) -> Self {
        Loads::new(seen).of(route)
    }

    fn in_space(seen: &Seen, route: &Route, space: Option<&Space>) -> Self {
        let used = seen.ports.route(route);
        let traffic: Vec<&Traffic> = seen.traffic(route).map(|(_, traffic)| traffic).collect();
        let now = tenth(seen.now);
        let over = (now - tenth(seen.began).min(now)).clamp(1, RATE_OVER);
        let openings = used.map_or(0, |used| {
            let late = used.openings.range(now.saturating_sub(over)..);
            late.map(|(_, count)| u64::from(*count)).sum()
        });
        let time_waits = used.map_or(0, |used| used.counts.of(Use::TimeWait));
        let settings = seen.settings(route.netns_cookie);
        let timestamps = share(
            sum(&traffic, |traffic| traffic.with_timestamps),
            sum(&traffic, |traffic| traffic.without_timestamps),
        );
        let bound_share = used.map_or(0.0, |used| {
            let others = used.counts.total().saturating_sub(used.bound);
            share(used.bound, others).unwrap_or(0.0)
        });
        let may_reuse = settings.is_some_and(|settings| match settings.tw_reuse {
            Some(1) => true,
            Some(2) => route.source.is_loopback(),
            _ => false,
        });
        let delay = settings.and_then(|settings| settings.tw_reuse_delay_ms);
        let reusable_after = (may_reuse && timestamps.unwrap_or(1.0) > 0.9 && bound_share < 0.5)
            .then(|| Duration::from_millis(delay.unwrap_or(1_000).into()));
        Self {
            used: used.map_or(0, |used| match space {
                Some(space) => used.used_of(space),
                None => used.used(),
            }),
            time_waits,
            capacity: space.map(Space::capacity),
            wanted: openings as f64 * 10.0 / over as f64,
            life: total(&traffic, |traffic| traffic.lives).mean(),
            held: total(&traffic, |traffic| traffic.holds).mean(),
            dwell: dwell(
                total(&traffic, |traffic| traffic.dwells),
                total(&traffic, |traffic| traffic.found_dwells),
            ),
            time_wait_share: time_wait_share(&traffic).unwrap_or(match time_waits {
                0 => 0.0,
                _ => 1.0,
            }),
            failing: failing(&traffic),
            timestamps,
            bound_share,
            reusable_after,
        }
    }

    /// How long one connection holds its port, on average, by the settings as they are.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold_with(self.reusable_after.unwrap_or(self.dwell.mean))
    }

    /// The same if TIME_WAIT held a port for `wait`.
    #[must_use]
    pub fn hold_with(&self, wait: Duration) -> Duration {
        let share = self.time_wait_share * (1.0 - self.failing);
        let wait = wait.min(self.dwell.mean).mul_f64(share);
        self.held.unwrap_or_default() + wait
    }

    /// Connections a second that `capacity` ports can bear for ever, by the settings as they are.
    #[must_use]
    pub fn bears(&self, capacity: u64) -> Option<f64> {
        self.bears_with(capacity, self.reusable_after.unwrap_or(self.dwell.mean))
    }

    /// The same if TIME_WAIT held a port for `wait` (Little's law). `None`: how long a connection
    /// holds its port is not known.
    #[must_use]
    pub fn bears_with(&self, capacity: u64, wait: Duration) -> Option<f64> {
        let hold = self.hold_with(wait).as_secs_f64();
        // Connections that stay open leave their ports to nobody.
        let live = self.used.saturating_sub(self.time_waits) as f64;
        let busy = self.wanted * self.held.unwrap_or_default().as_secs_f64();
        let capacity = (capacity as f64 - (live - busy).max(0.0)).max(0.0);
        (hold > 0.0).then(|| capacity / hold)
    }

    /// Ports in use in the end if it goes on so.
    #[must_use]
    pub fn steady_state(&self) -> f64 {
        self.wanted * self.hold().as_secs_f64()
    }

    /// How many connections that are kept open would do the same work: as many as are busy at one
    /// time on average, rounded up. `None`: no life was seen.
    #[must_use]
    pub fn pool(&self) -> Option<u64> {
        let busy = self.wanted * self.life?.as_secs_f64();
        Some((busy.ceil() as u64).max(1))
    }

    /// The same for the forecast.
    #[must_use]
    pub fn habits(&self, seen: &Seen) -> Habits {
        Habits {
            began: seen.began,
            dwell: self.dwell,
            life: self.held,
            time_wait_share: self.time_wait_share * (1.0 - self.failing),
            reusable_after: self.reusable_after,
        }
    }
}

/// The share of `program`'s connections on a route that ended in a TIME_WAIT of this side; `None`:
/// none has closed.
#[must_use]
pub fn time_wait_share_of(seen: &Seen, route: &Route, program: &Program) -> Option<f64> {
    let traffic = seen.tallies.routes.get(route)?.get(program)?;
    time_wait_share(&[traffic])
}

/// The dwell that was measured from entry to end; where too few were, that of the timers which were
/// found and ran out; where too few of either, the nominal one.
#[must_use]
pub fn dwell(measured: Sum, found: Sum) -> Dwell {
    let known = [
        (measured, DwellBasis::Measured),
        (found, DwellBasis::Inventory),
    ];
    let known = known.into_iter().find_map(|(dwells, basis)| {
        let mean = dwells.mean().filter(|_| dwells.count >= DWELLS)?;
        let samples = dwells.count;
        Some(Dwell {
            mean,
            basis,
            samples,
        })
    });
    known.unwrap_or(Dwell {
        mean: TIME_WAIT,
        basis: DwellBasis::Nominal,
        samples: 0,
    })
}

fn time_wait_share(traffic: &[&Traffic]) -> Option<f64> {
    let ours = |kind| matches!(kind, CloseKind::Active | CloseKind::Simultaneous);
    let waits = sum(traffic, |traffic| traffic.sum(|ending| ours(ending.kind)));
    let others = sum(traffic, |traffic| {
        traffic.sum(|ending| !ours(ending.kind) && ending.kind != CloseKind::ConnectFailed)
    });
    share(waits, others)
}

fn failing(traffic: &[&Traffic]) -> f64 {
    let failed = |ending: &Ending| {
        let had_no_port = matches!(
            ending.cause,
            Some(CloseCause::NoPort | CloseCause::TupleInUse)
        );
        ending.kind == CloseKind::ConnectFailed && !had_no_port
    };
    let lived = |ending: &Ending| ending.kind != CloseKind::ConnectFailed;
    let [failed, lived] = [
        sum(traffic, |traffic| traffic.sum(failed)),
        sum(traffic, |traffic| traffic.sum(lived)),
    ];
    share(failed, lived).unwrap_or(0.0)
}

fn sum(traffic: &[&Traffic], of: impl Fn(&Traffic) -> u64) -> u64 {
    traffic.iter().map(|traffic| of(traffic)).sum()
}

fn total(traffic: &[&Traffic], of: impl Fn(&Traffic) -> Sum) -> Sum {
    traffic.iter().fold(Sum::default(), |sum, traffic| {
        let more = of(traffic);
        Sum {
            count: sum.count + more.count,
            nanoseconds: sum.nanoseconds + more.nanoseconds,
        }
    })
}

/// `part` of `part` and `rest`; `None`: there is neither.
fn share(part: u64, rest: u64) -> Option<f64> {
    let whole = part + rest;
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::Initiator;

    #[test]
    fn a_load_is_what_was_seen_and_what_follows_from_it() {
        let mut example = Example::new();
        let (there, php) = (route("10.0.0.9:3306"), program("php-fpm"));
        example.open(there, php, 100);
        let traffic = example.traffic(there, php);
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, 750);
        traffic.add_closes(CloseKind::Passive, None, Initiator::Peer, 250);
        (0..1_000).for_each(|_| traffic.add_life(25_000_000));
        let load = Load::of(&example.seen, &there);
        assert_eq!(load.wanted, 100.0);
        assert_eq!(load.capacity, Some(28_232));
        assert_eq!(load.time_wait_share, 0.75);
        assert_eq!(load.dwell.basis, DwellBasis::Nominal);
        assert_eq!(load.hold(), Duration::from_millis(45_025));
        assert_eq!(load.pool(), Some(3));
        assert_eq!(load.steady_state(), 4_502.5);
    }

    #[test]
    fn ports_that_clients_bound_are_neither_used_nor_to_be_had() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold_bound(there, program("x"), Use::Established, 15_000);
        example.hold(there, program("x"), Use::Established, 5_000);
        let load = Load::of(&example.seen, &there);
        assert_eq!((load.used, load.capacity), (5_000, Some(13_232)));
        assert_eq!(load.bound_share, 0.75);
    }

    #[test]
    fn connects_that_fail_leave_no_time_wait() {
        let mut example = Example::new();
        let (there, php) = (route("10.0.0.9:3306"), program("php-fpm"));
        example.hold(there, php, Use::TimeWait, 400);
        example.open(there, php, 50);
        let traffic = example.traffic(there, php);
        let (failed, local) = (CloseKind::ConnectFailed, Initiator::Local);
        traffic.add_closes(failed, Some(CloseCause::Refused), local, 300);
        (0..300).for_each(|_| traffic.holds.add(50_000));
        let load = Load::of(&example.seen, &there);
        assert_eq!(load.failing, 1.0);
        assert_eq!(load.hold(), Duration::from_micros(50));
        assert_eq!(load.habits(&example.seen).time_wait_share, 0.0);
        // Who found no port says nothing of those who do.
        let traffic = example.traffic(there, php);
        traffic.endings.clear();
        traffic.add_closes(failed, Some(CloseCause::NoPort), local, 300);
        assert_eq!(Load::of(&example.seen, &there).failing, 0.0);
    }

    #[test]
    fn nothing_nominal_is_called_measured() {
        let mut few = Sum::default();
        (0..DWELLS - 1).for_each(|_| few.add(61_000_000_000));
        assert_eq!(dwell(few, Sum::default()).basis, DwellBasis::Nominal);
        few.add(61_000_000_000);
        assert_eq!(dwell(few, Sum::default()).basis, DwellBasis::Measured);
        assert_eq!(dwell(few, Sum::default()).samples, DWELLS);
        assert_eq!(dwell(few, Sum::default()).mean, Duration::from_secs(61));
        let (none, found) = (Sum::default(), few);
        assert_eq!(dwell(none, found).basis, DwellBasis::Inventory);
        assert_eq!(dwell(few, found).basis, DwellBasis::Measured);
    }

    #[test]
    fn reuse_is_reckoned_with_where_the_settings_allow_it() {
        let mut example = Example::new();
        let (there, here) = (route("10.0.0.9:3306"), route("127.0.0.1:3306"));
        let after = |example: &Example, route| Load::of(&example.seen, route).reusable_after;
        let second = Some(Duration::from_secs(1));
        assert_eq!(after(&example, &there), None);
        assert_eq!(after(&example, &here), second);
        example.settings().tw_reuse = Some(1);
        assert_eq!(after(&example, &there), second);
        example.traffic(there, program("x")).without_timestamps = 5;
        assert_eq!(after(&example, &there), None);
    }
}
