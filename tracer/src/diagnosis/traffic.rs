//! What was seen of connections that share a program and a destination, or a service.

use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::record::{
    CloseCause, CloseKind, EntryPrecision, FinWait2Exit, Initiator, Record, TimeWaitExit,
};
use crate::time::Timestamp;

/// A number of things and the sum of their lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Together, nanoseconds.
    pub nanoseconds: u128,
}

impl Sum {
    /// Adds one.
    pub fn add(&mut self, nanoseconds: u64) {
        self.count += 1;
        self.nanoseconds += u128::from(nanoseconds);
    }

    /// On average; `None`: there are none.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.nanoseconds.checked_div(self.count.into())?;
        u64::try_from(mean).ok().map(Duration::from_nanos)
    }
}

/// How a connection closed, as far as rules tell closes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ending {
    /// The way.
    pub kind: CloseKind,
    /// The reason.
    pub cause: Option<CloseCause>,
    /// Who began it.
    pub initiator: Initiator,
}

/// What was seen of the connections of one program on one route or service, from the start of the
/// watch on. Those from before it count as they close.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Closes by how.
    pub endings: HashMap<Ending, u64, RandomState>,
    /// connect() to the first step of the close, of those whose opening and whose ESTABLISHED were
    /// seen.
    pub lives: Sum,
    /// Opening to the end of the full socket, of those and of connects that failed: how long each
    /// held its port, its TIME_WAIT not counted.
    pub holds: Sum,
    /// SYN to ESTABLISHED, of those that opened during the watch; clients only.
    pub handshakes: Sum,
    /// SYNs sent again; clients only.
    pub syn_retransmits: u64,
    /// Closes of connections that were established and used TCP timestamps,
    pub with_timestamps: u64,
    /// and that did not.
    pub without_timestamps: u64,
    /// TIME_WAITs that ended, by how.
    pub time_wait_exits: HashMap<TimeWaitExit, u64, RandomState>,
    /// From entry to expiry, of those that were seen from their entry on.
    pub dwells: Sum,
    /// From when the timer was set last to expiry, of those whose entry was not seen.
    pub found_dwells: Sum,
    /// FINs that came again to a TIME_WAIT: its last ACK was lost.
    pub fin_retransmits: u64,
    /// TIME_WAITs to which one or more FINs came again.
    pub answered_again: u64,
    /// FIN_WAIT2s that ended, by how.
    pub fin_wait2_exits: HashMap<FinWait2Exit, u64, RandomState>,
    /// How long those waited.
    pub fin_wait2s: Sum,
    /// Closes where a TIME_WAIT was due that the kernel did not make (bucket limit or memory).
    pub overflows: u64,
    /// The first connect() that failed,
    pub first_failure: Option<Timestamp>,
    /// and the latest.
    pub last_failure: Option<Timestamp>,
    /// The latest connect() that failed for want of a port.
    pub last_without_port: Option<Timestamp>,
    /// Clients that had bound their source port before connect().
    pub source_port_bound: u64,
    /// Some processes that opened them, at most [`Traffic::PIDS`], the latest last.
    pub pids: Vec<u32>,
}

impl Traffic {
    /// How many processes are remembered.
    pub const PIDS: usize = 8;

    /// Closes of this kind.
    #[must_use]
    pub fn closed(&self, kind: CloseKind) -> u64 {
        self.sum(|ending| ending.kind == kind)
    }

    /// Closes for this reason.
    #[must_use]
    pub fn caused(&self, kind: CloseKind, cause: CloseCause) -> u64 {
        self.sum(|ending| ending.kind == kind && ending.cause == Some(cause))
    }

    /// All closes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    /// Closes that `fit`.
    pub fn sum(&self, fits: impl Fn(&Ending) -> bool) -> u64 {
        let fitting = self.endings.iter().filter(|(ending, _)| fits(ending));
        fitting.map(|(_, count)| count).sum()
    }

    /// Takes a verdict in, of a watch that began at `since`.
    pub(super) fn close(&mut self, record: &Record, since: Timestamp) {
        let close = &record.close;
        // A firewall's REJECT refuses by an ICMP port unreachable as another host does by RST.
        let cause = match (close.cause, close.errno.map(i32::from)) {
            (Some(CloseCause::Unreachable), Some(libc::ECONNREFUSED)) => Some(CloseCause::Refused),
            (cause, _) => cause,
        };
        let ending = Ending {
            kind: close.kind,
            cause,
            initiator: close.initiator,
        };
        *self.endings.entry(ending).or_default() += 1;
        if let (Some(opened), Some(closed)) = (record.opened_at, record.closed_at) {
            if record.established_at.is_some() {
                let began = record.close_began_at.unwrap_or(closed);
                self.lives.add(began.since(opened));
            }
            // Who found no port held none.
            if close.cause != Some(CloseCause::NoPort) {
                self.holds.add(closed.since(opened));
            }
        }
        // Each is an attempt of the watch, which one from before it is not.
        if let Some(handshake) = record.handshake_ns
            && record.opened_at.is_none_or(|opened| opened >= since)
        {
            self.handshakes.add(handshake);
        }
        self.syn_retransmits += u64::from(record.syn_retransmits.unwrap_or(0));
        if close.kind == CloseKind::ConnectFailed {
            let at = record.closed_at;
            self.first_failure = self.first_failure.or(at);
            self.last_failure = at.or(self.last_failure);
            if close.cause == Some(CloseCause::NoPort) {
                self.last_without_port = at.or(self.last_without_port);
            }
        } else if let Some(with_timestamps) = record.timestamps {
            self.with_timestamps += u64::from(with_timestamps);
            self.without_timestamps += u64::from(!with_timestamps);
        }
        self.overflows += u64::from(record.time_wait_skipped.is_some());
        self.source_port_bound += u64::from(record.source_port_bound == Some(true));
        if let Some(pid) = record.opener.pid
            && !self.pids.contains(&pid)
        {
            if self.pids.len() == Self::PIDS {
                self.pids.remove(0);
            }
            self.pids.push(pid);
        }
    }

    /// Takes an end in.
    pub(super) fn end(&mut self, record: &Record) {
        if let Some(wait) = &record.time_wait {
            if let Some(exit) = wait.exit {
                *self.time_wait_exits.entry(exit).or_default() += 1;
            }
            if let (Some(TimeWaitExit::Expired), Some(dwell)) = (wait.exit, wait.dwell_ns) {
                match wait.entry_precision {
                    EntryPrecision::Exact | EntryPrecision::Jiffy => self.dwells.add(dwell),
                    EntryPrecision::LastRefresh => self.found_dwells.add(dwell),
                    EntryPrecision::Unknown => {}
                }
            }
            let again = wait.fin_retransmits.unwrap_or(0);
            self.fin_retransmits += u64::from(again);
            self.answered_again += u64::from(again > 0);
        }
        if let Some(wait) = &record.fin_wait2 {
            if let Some(exit) = wait.exit {
                *self.fin_wait2_exits.entry(exit).or_default() += 1;
            }
            if let Some(dwell) = wait.dwell_ns {
                self.fin_wait2s.add(dwell);
            }
        }
    }
}
