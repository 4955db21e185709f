//! What the engine counts.

use tracer_common::tcp::TcpState;

use super::connection::Connection;
use crate::record::{CloseKind, IncompleteSet, Role, TimeWaitExit};

/// Totals since the start, and what there is now.
///
/// They hold at all times: `opened + found_open = closed + vanished + evicted + open`, and
/// `minisockets_seen + minisockets_found = minisockets + expired + killed + overdue + evicted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Openings seen: connections of either role, and listeners.
    pub opened: u64,
    /// Of these, connect().
    pub opened_clients: u64,
    /// Of these, connections that a listener made.
    pub opened_servers: u64,
    /// Of these, listen().
    pub opened_listeners: u64,
    /// Full sockets met without their opening.
    pub found_open: u64,
    /// Steps to CLOSE.
    pub closed: u64,
    /// Of these, listeners'.
    pub closed_listeners: u64,
    /// Full sockets that are gone without their CLOSE having been seen.
    pub vanished: u64,
    /// Connections that were let go because there were too many.
    pub evicted: Evicted,
    /// How often a socket was met without its opening and not taken up because there were too many:
    /// each inventory meets it again.
    pub passed_over: u64,
    /// Full sockets that are open now.
    pub open: u64,
    /// Verdicts by kind.
    pub closed_by_kind: [u64; CloseKind::ALL.len()],
    /// Records of ends.
    pub ended: u64,
    /// Minisockets in TIME_WAIT now.
    pub in_time_wait: u64,
    /// Minisockets of either substate now.
    pub minisockets: u64,
    /// First starts of minisockets' timers.
    pub minisockets_seen: u64,
    /// Minisockets that ran before we looked, met at their end.
    pub minisockets_found: u64,
    /// Minisockets whose timer ran out.
    pub minisockets_expired: u64,
    /// Minisockets whose timer was cancelled for good.
    pub minisockets_killed: u64,
    /// Minisockets whose end was due and not seen.
    pub minisockets_overdue: u64,
    /// From where TIME_WAITs were entered, of connections whose minisocket was seen to begin.
    pub entered_from: EnteredFrom,
    /// How TIME_WAITs ended.
    pub ended_by: EndedBy,
    /// Events that a second program showed again.
    pub doubles: u64,
    /// Steps that did not follow from the state that we knew.
    pub impossible: u64,
    /// {ESTABLISHED, CLOSE_WAIT} → CLOSE: the kernel's EstabResets.
    pub estab_resets: u64,
    /// Verdicts without a rule that fits.
    pub unknown_closes: u64,
    /// Records of ends that are not complete.
    pub incomplete_records: u64,
    /// Verdicts that are not complete.
    pub incomplete_closes: u64,
}

/// Connections that were let go, by what they held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// A full socket.
    pub open: u64,
    /// A minisocket in FIN_WAIT2.
    pub fin_wait2: u64,
    /// A minisocket in TIME_WAIT.
    pub time_wait: u64,
}

impl Evicted {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.open + self.fin_wait2 + self.time_wait
    }
}

/// Entries of TIME_WAIT by the state before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnteredFrom {
    /// The peer's FIN came after our FIN had been acknowledged.
    pub fin_wait2: u64,
    /// The FINs crossed.
    pub closing: u64,
    /// One segment brought the acknowledgement and the peer's FIN.
    pub fin_wait1: u64,
    /// Not known.
    pub unknown: u64,
}

impl EnteredFrom {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.fin_wait2 + self.closing + self.fin_wait1 + self.unknown
    }
}

/// Ends of TIME_WAIT by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedBy {
    /// The timer ran out.
    pub expired: u64,
    /// connect() took the tuple.
    pub reused_by_connect: u64,
    /// A SYN took the tuple.
    pub reused_by_syn: u64,
    /// An RST came.
    pub reset: u64,
    /// Its network namespace went.
    pub purged: u64,
    /// SOCK_DESTROY.
    pub destroyed: u64,
    /// Not known.
    pub unknown: u64,
}

impl EndedBy {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.expired
            + self.reused_by_connect
            + self.reused_by_syn
            + self.reset
            + self.purged
            + self.destroyed
            + self.unknown
    }
}

impl Totals {
    pub(super) fn count_opening(&mut self, role: Role) {
        self.opened += 1;
        self.open += 1;
        match role {
            Role::Client => self.opened_clients += 1,
            Role::Server => self.opened_servers += 1,
            Role::Listener => self.opened_listeners += 1,
            Role::Unknown => {}
        }
    }

    /// It was seen to open, and there was no room for it.
    pub(super) fn refuse_opening(&mut self) {
        self.open -= 1;
        self.evicted.open += 1;
    }

    pub(super) fn count_evicted(&mut self, connection: &Connection) {
        if connection.is_open() {
            self.open -= 1;
            self.evicted.open += 1;
            return;
        }
        self.minisockets -= 1;
        if connection.minisocket().is_some_and(|mini| mini.counted) {
            self.in_time_wait -= 1;
            self.evicted.time_wait += 1;
        } else {
            self.evicted.fin_wait2 += 1;
        }
    }

    pub(super) fn count_entry(&mut self, from: Option<TcpState>) {
        let entered = &mut self.entered_from;
        *match from {
            Some(TcpState::FinWait2) => &mut entered.fin_wait2,
            Some(TcpState::Closing) => &mut entered.closing,
            Some(TcpState::FinWait1) => &mut entered.fin_wait1,
            _ => &mut entered.unknown,
        } += 1;
    }

    pub(super) fn count_verdict(&mut self, kind: CloseKind, incomplete: IncompleteSet) {
        self.closed_by_kind[kind as usize] += 1;
        self.unknown_closes += u64::from(kind == CloseKind::Unknown);
        self.incomplete_closes += u64::from(!incomplete.is_empty());
    }

    pub(super) fn count_end(&mut self, exit: Option<TimeWaitExit>, incomplete: IncompleteSet) {
        self.ended += 1;
        self.incomplete_records += u64::from(!incomplete.is_empty());
        let Some(exit) = exit else {
            return;
        };
        *match exit {
            TimeWaitExit::Expired => &mut self.ended_by.expired,
            TimeWaitExit::ReusedByConnect => &mut self.ended_by.reused_by_connect,
            TimeWaitExit::ReusedBySyn => &mut self.ended_by.reused_by_syn,
            TimeWaitExit::Reset => &mut self.ended_by.reset,
            TimeWaitExit::Purged => &mut self.ended_by.purged,
            TimeWaitExit::Destroyed => &mut self.ended_by.destroyed,
            TimeWaitExit::Unknown => &mut self.ended_by.unknown,
        } += 1;
    }

    /// Connections in the table.
    #[must_use]
    pub const fn tracked(&self) -> u64 {
        (self.opened + self.found_open + self.minisockets_found)
            .saturating_sub(self.ended + self.evicted.all())
    }

    pub(super) fn balances(&self) -> bool {
        let evicted = &self.evicted;
        self.opened + self.found_open == self.closed + self.vanished + evicted.open + self.open
            && self.opened == self.opened_clients + self.opened_servers + self.opened_listeners
            && self.minisockets_seen + self.minisockets_found
                == self.minisockets
                    + self.minisockets_expired
                    + self.minisockets_killed
                    + self.minisockets_overdue
                    + evicted.fin_wait2
                    + evicted.time_wait
    }
}
