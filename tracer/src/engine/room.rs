//! The bound on what is followed. Where there are too many, one is let go for each that comes: the
//! one that has been silent the longest, of a few that are compared.
//!
//! Silent means that its latest step lies far back. A connection that has idled for weeks goes first:
//! it costs its opening, its process, and a port that is counted as free until it is heard of again.
//! What waits in TIME_WAIT was heard of within the last minute and goes only where all others were
//! too: its end is near, and what we are here for. A listener is never let go, for it names its
//! children, nor is what is being settled within moments: it would be taken for another.
//!
//! Whoever is let go gives no record. An event of it makes it one that was met without its opening.

use super::Engine;
use super::connection::Connection;
use super::table::Id;
use crate::record::Role;

impl Engine {
    /// As many are followed as may be.
    pub(super) fn is_full(&self) -> bool {
        self.table.len() >= self.config.connections
    }

    /// Whether there is room for one more, which may take letting one go. Where listeners are over
    /// the bound, one that goes makes no room.
    #[inline]
    pub(super) fn has_room(&mut self) -> bool {
        !self.is_full() || (self.make_room() && !self.is_full())
    }

    /// Takes up a connection that was met without its opening, if there is room. A listener finds
    /// room always.
    pub(super) fn take_up(&mut self, connection: Connection) -> Option<Id> {
        if !self.has_room() && connection.role != Role::Listener {
            self.totals.passed_over += 1;
            return None;
        }
        Some(self.table.insert(connection))
    }

    #[cold]
    fn make_room(&mut self) -> bool {
        let silent = self.table.longest_silent();
        silent.is_some_and(|id| self.let_go(id))
    }

    fn let_go(&mut self, id: Id) -> bool {
        self.table.wake(id);
        self.forget_connecting(id);
        let Some(connection) = self.table.remove(id) else {
            return false;
        };
        self.totals.count_evicted(&connection);
        self.tell_freed(&connection);
        self.table.dismiss(&connection);
        true
    }
}
