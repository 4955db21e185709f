//! When a route's ports will be used up.

use std::time::Duration;

use super::account::RouteUse;
use crate::time::Timestamp;

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
    /// From the timers that sock_diag and the probes show of TIME_WAITs that have not ended.
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

/// The forecast for `used` of `capacity` ports at `now`.
#[must_use]
pub fn forecast(used: &RouteUse, capacity: u64, habits: &Habits, now: Timestamp) -> Forecast {
    let _ = (used, capacity, habits, now);
    todo!("written by the ports work")
}
