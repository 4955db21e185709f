//! Who has a tuple after whom: the successor that took a TIME_WAIT's tuple, and the link from a
//! connection to the one before it.
//!
//! connect() kills the minisocket in its own thread, between its socket's CLOSE → SYN_SENT and the
//! next event of that, which tells the tuple. A SYN kills it in a softirq; the child that comes of
//! it is seen a round trip later.

use tracer_common::tcp::TcpState;

use super::Engine;
use super::connection::Connection;
use super::table::Id;
use super::timers::REUSE;
use super::timewait::{Cancel, How, Life};
use crate::record::{Previous, Role};
use crate::time::Timestamp;

/// How long a connect() that may have done it is waited for: longer than one lasts, nanoseconds.
const CONNECT: u64 = 300 * 1_000_000_000;

impl Engine {
    /// The addresses of a connection are complete: who had them before?
    pub(super) fn on_flow_known(&mut self, id: Id) {
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        if !connection.flow.is_known() {
            return;
        }
        let (netns, flow, serial) = (connection.netns_cookie, connection.flow, connection.serial);
        let last = self
            .table
            .by_flow(netns, flow, |other| other.serial < serial);
        let Some(last) = last else {
            if let Some(ended) = self.ended.by_flow(netns, flow).copied()
                && let Some(ended_at) = ended.ended_at
            {
                self.link(id, ended.cookie, ended.generation, ended_at);
            }
            return;
        };
        let life = self.minisocket(last).map(|minisocket| minisocket.life);
        match life {
            Some(Life::Cancelled(cancel)) => {
                if let Some(how) = self.judge(id, &cancel) {
                    self.kill(last, &cancel);
                    self.settle(last, id, &cancel, how);
                }
            }
            Some(Life::Killed(cancel)) => match self.judge(id, &cancel) {
                Some(how) if self.was_in_time_wait(last) => self.settle(last, id, &cancel, how),
                _ => self.link_to(id, last, Some(cancel.at)),
            },
            Some(Life::Ended(end)) => self.link_to(id, last, end.at),
            Some(Life::Running) => {}
            None => {
                let closed_at = self.table.connection(last).and_then(Connection::closed_at);
                self.link_to(id, last, closed_at);
            }
        }
    }

    /// A minisocket in TIME_WAIT was killed: its successor may be known already, or comes.
    pub(super) fn seek_successor(&mut self, id: Id, cancel: &Cancel) {
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        let (netns, flow, serial) = (connection.netns_cookie, connection.flow, connection.serial);
        let successor = self
            .table
            .by_flow(netns, flow, |other| other.serial > serial)
            .and_then(|successor| Some((successor, self.judge(successor, cancel)?)));
        match successor {
            Some((successor, how)) => self.settle(id, successor, cancel, how),
            None => self.timers.await_reuse(cancel.at, id),
        }
    }

    /// Three seconds after a kill: a connect() that has not told its tuple is waited for.
    pub(super) fn on_reuse_timeout(&mut self, id: Id) {
        let Some(Life::Killed(cancel)) = self.minisocket(id).map(|minisocket| minisocket.life)
        else {
            return;
        };
        let waited = self.now.since(cancel.at);
        if waited < REUSE {
            return;
        }
        let connecting = cancel
            .candidate
            .and_then(|candidate| self.table.connection(candidate))
            .is_some_and(|candidate| candidate.is_open() && candidate.flow.local.port == 0);
        if connecting && waited < CONNECT {
            self.timers.await_end(self.now, id);
        } else {
            let how = self.without_successor(id, &cancel);
            self.end_killed(id, &cancel, how);
        }
    }

    /// The stream has ended: no successor will come.
    pub(super) fn give_up_reuse(&mut self, id: Id) {
        if let Some(Life::Killed(cancel)) = self.minisocket(id).map(|minisocket| minisocket.life) {
            let how = self.without_successor(id, &cancel);
            self.end_killed(id, &cancel, how);
        }
    }

    /// Those whose end is not settled, the oldest first.
    pub(super) fn killed(&self) -> Vec<Id> {
        let mut killed: Vec<_> = self
            .table
            .iter_awake()
            .filter(|(_, connection)| {
                connection
                    .minisocket()
                    .is_some_and(|minisocket| matches!(minisocket.life, Life::Killed(_)))
            })
            .map(|(id, connection)| (connection.serial, id))
            .collect();
        killed.sort_unstable_by_key(|(serial, _)| *serial);
        killed.into_iter().map(|(_, id)| id).collect()
    }

    /// The connection that the thread which cancelled a timer was connecting then, if it may have
    /// wanted the minisocket's tuple.
    pub(super) fn connecting_candidate(&self, id: Id, tid: u32) -> Option<Id> {
        let flow = self.table.connection(id)?.flow;
        let netns = self.table.connection(id)?.netns_cookie;
        let candidate = self.connecting.of(tid)?;
        let connection = self.table.connection(candidate)?;
        let (local, peer) = (connection.flow.local, connection.flow.peer);
        let fits = connection.netns_cookie == netns
            && connection.state == Some(TcpState::SynSent)
            && peer == flow.peer
            && (local.address == flow.local.address || local.address.is_unspecified())
            && (local.port == flow.local.port || local.port == 0);
        fits.then_some(candidate)
    }

    /// How `successor`, which has the tuple, came by it, if that took the kill.
    fn judge(&self, successor: Id, cancel: &Cancel) -> Option<How> {
        let connection = self.table.connection(successor)?;
        match connection.role {
            Role::Client if connection.serial < cancel.serial => {
                let by_its_thread = match connection.opener.tid() {
                    Some(tid) => tid == cancel.shown.tid,
                    // A tuple that was not bound was found: it is proof enough.
                    None => connection.source_port_bound() == Some(false),
                };
                by_its_thread.then_some(How::ReusedByConnect)
            }
            Role::Server if connection.serial >= cancel.serial => Some(How::ReusedBySyn),
            _ => None,
        }
    }

    fn was_in_time_wait(&self, id: Id) -> bool {
        self.minisocket(id)
            .is_some_and(|minisocket| minisocket.entry.is_some())
    }

    fn settle(&mut self, id: Id, successor: Id, cancel: &Cancel, how: How) {
        self.link_to(successor, id, Some(cancel.at));
        self.end_killed(id, cancel, how);
    }

    fn link_to(&mut self, id: Id, last: Id, ended_at: Option<Timestamp>) {
        let names = |last: &Connection| (last.cookie(), last.generation);
        if let Some((cookie, generation)) = self.table.connection(last).map(names)
            && let Some(ended_at) = ended_at
        {
            self.link(id, cookie, generation, ended_at);
        }
    }

    fn link(&mut self, id: Id, cookie: u64, generation: u32, ended_at: Timestamp) {
        if let Some(connection) = self.table.connection_mut(id)
            && let Some(opened_at) = connection.opened_at()
        {
            connection.rare_mut().previous = Some(Previous {
                cookie,
                generation,
                gap_ns: opened_at.since(ended_at),
            });
        }
    }
}
