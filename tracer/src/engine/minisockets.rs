//! Minisockets' events: which connection they belong to, and what they change there.

use tracer_common::event::flags;
use tracer_common::tcp::TcpState;

use super::connection::{Bit, Connection};
use super::table::Id;
use super::timers::REUSE;
use super::timewait::{Cancel, Change, End, How, Life, Minisocket, Sign};
use super::{Engine, names, sockets};
use crate::record::{EntryPrecision, Incomplete};
use crate::stream::{self, Event};
use crate::time::Timestamp;

/// How far apart two events of one cause may lie, nanoseconds.
const AT_ONCE: u64 = 1_000_000;
/// How long connect() looks for a port, at the most, nanoseconds.
const CONNECT: u64 = 1_000_000_000;
/// How long an expiry may straggle behind the end that was told for it, nanoseconds.
const STRAGGLE: u64 = 5_000_000_000;
/// How long the expiry of a timer that was due is waited for behind its cancel, nanoseconds: the
/// host of a virtual machine may have taken the processor away between the two.
const DUE: u64 = 1_000_000_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

impl Engine {
    pub(super) fn on_timer_start(&mut self, event: &Event, shown: &stream::Minisocket) {
        if let Some(id) = self.find_minisocket(event, Minisocket::is_alive) {
            self.on_move(id, event, shown);
            return;
        }
        if let Some(id) = self.revived(event) {
            self.on_move(id, event, shown);
            return;
        }
        if self.is_told(event) {
            return;
        }
        let Some(id) = self.full_socket_of(event).or_else(|| {
            let mut connection = names::adopted(event);
            connection.generation = self.next_generation(event);
            let id = self.take_up(connection)?;
            self.totals.found_open += 1;
            self.totals.open += 1;
            Some(id)
        }) else {
            return;
        };
        self.totals.minisockets_seen += 1;
        self.learn(id, &event.socket);
        self.attach(id, event, shown, Sign::Move);
        let jiffies = self.jiffies;
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        let from = connection.state;
        let known = [TcpState::FinWait1, TcpState::FinWait2, TcpState::Closing];
        let from = from.filter(|state| known.contains(state));
        if connection.state.is_some() && from.is_none() {
            connection.lacks(Incomplete::TransitionLost);
        }
        if let Some(minisocket) = connection.minisocket_mut() {
            minisocket.straight_after = Some((event.cpu, event.seq.wrapping_sub(1)));
            if shown.substate == TcpState::TimeWait {
                minisocket.enter(event.at, from, shown, jiffies);
                self.on_entered(id);
            }
        }
    }

    /// The minisocket of a start that was taken for dead and was only moved on the wheel: the
    /// processor was taken away between the two.
    fn revived(&mut self, event: &Event) -> Option<Id> {
        if event.socket.cookie == 0 || self.full_socket_of(event).is_some() {
            return None;
        }
        let id = self.find_minisocket(event, |mini| matches!(mini.life, Life::Killed(_)))?;
        if self.table.connection(id)?.cookie() != event.socket.cookie {
            return None;
        }
        let minisocket = self.minisocket_mut(id)?;
        let Life::Killed(cancel) = minisocket.life else {
            return None;
        };
        minisocket.counted = minisocket.entry.is_some();
        self.totals.in_time_wait += u64::from(minisocket.counted);
        self.totals.minisockets += 1;
        self.totals.minisockets_killed -= 1;
        self.set_life(id, Life::Cancelled(cancel));
        Some(id)
    }

    pub(super) fn on_timer_cancel(&mut self, event: &Event, shown: &stream::Minisocket) {
        let id = match self.find_minisocket(event, Minisocket::is_alive) {
            Some(id) => id,
            None if self.is_told(event) => return,
            None => match self.adopt_minisocket(event, shown) {
                Some(id) => id,
                None => return,
            },
        };
        let jiffies = self.jiffies;
        if let Some(minisocket) = self.minisocket_mut(id) {
            minisocket.recognise(event.at, shown, jiffies);
        }
        let cancel = Cancel {
            at: event.at,
            cpu: event.cpu,
            shown: *shown,
            serial: self.table.next_serial(),
            reset: false,
            data: false,
            candidate: self.connecting_candidate(id, shown.tid),
            in_send: event.flags & flags::IN_SEND != 0,
            in_softirq: event.flags & flags::IN_SOFTIRQ != 0,
            netns_dying: event.flags & flags::NETNS_DYING != 0,
        };
        self.set_life(id, Life::Cancelled(cancel));
        self.timers.park_cancel(self.now, id);
    }

    pub(super) fn on_timer_expire(&mut self, event: &Event, shown: &stream::Minisocket) {
        let id = match self.find_minisocket(event, |_| true) {
            Some(id) => id,
            None if self.is_told(event) => return,
            None => {
                let told = self
                    .ended
                    .by_flow(event.netns_cookie, event.socket.flow)
                    .and_then(|ended| ended.ended_at);
                if told.is_some_and(|told| event.at.since(told) < STRAGGLE) {
                    return;
                }
                match self.adopt_minisocket(event, shown) {
                    Some(id) => id,
                    None => return,
                }
            }
        };
        if self.minisocket(id).is_some_and(Minisocket::is_alive) {
            self.totals.minisockets_expired += 1;
            self.retire(id, event.at, shown);
        } else {
            // It was late by more than a cancel is waited for.
            self.totals.minisockets_killed -= 1;
            self.totals.minisockets_expired += 1;
        }
        let late = self
            .minisocket(id)
            .is_some_and(|minisocket| minisocket.is_late(event.at, self.jiffies));
        self.end_minisocket(
            id,
            End {
                at: Some(event.at),
                how: How::Expired,
                late,
            },
        );
    }

    /// The timer was set, for the first time or anew. What timer_start showed of it is not shown
    /// again; a timer that stays in its bucket is set without one.
    pub(super) fn on_schedule(&mut self, event: &Event, shown: &stream::Minisocket) {
        let jiffies = self.jiffies;
        let Some(id) = self.find_minisocket(event, Minisocket::is_alive) else {
            return;
        };
        let Some(minisocket) = self.minisocket_mut(id) else {
            return;
        };
        if !matches!(minisocket.life, Life::Running) {
            // Too late: it is off the wheel.
            return;
        }
        let change = minisocket.observe(event.at, shown, Sign::Segment, jiffies);
        if change == Change::Entered {
            minisocket.flipped_at = Some((event.at, event.cpu));
        }
        self.on_change(id, change);
    }

    pub(super) fn on_segment(
        &mut self,
        event: &Event,
        shown: &stream::Minisocket,
        tcp_flags: u8,
        payload: u16,
    ) {
        let Some(id) = self.find_minisocket(event, Minisocket::is_alive) else {
            return;
        };
        let jiffies = self.jiffies;
        let Some(minisocket) = self.minisocket_mut(id) else {
            return;
        };
        let segment = (event.at, event.cpu, tcp_flags, payload);
        let again = minisocket
            .last_segment
            .replace(segment)
            .is_some_and(|last| {
                (last.1, last.2, last.3) == (segment.1, segment.2, segment.3)
                    && event.at.since(last.0) <= AT_ONCE
            });
        if again && event.flags & flags::RECOVERED != 0 {
            self.totals.doubles += 1;
            return;
        }
        if let Life::Cancelled(cancel) = &mut minisocket.life {
            // The segment is freed after the kill that it brought.
            cancel.reset |= tcp_flags & RST != 0;
            cancel.data |= tcp_flags & RST == 0 && (payload > 0 || tcp_flags & SYN != 0);
            return;
        }
        let fin = tcp_flags & FIN != 0;
        let flip = minisocket
            .flipped_at
            .take()
            .is_some_and(|(at, cpu)| cpu == event.cpu && event.at.since(at) <= AT_ONCE);
        let sign = if fin { Sign::Segment } else { Sign::Silent };
        let before = minisocket.entry.is_some();
        let change = minisocket.observe(event.at, shown, sign, jiffies);
        if before || sign == Sign::Silent {
            if fin && !flip {
                minisocket.fin_retransmits = minisocket.fin_retransmits.saturating_add(1);
            } else if !fin && payload > 0 && minisocket.entry.is_some() {
                minisocket.old_duplicates = minisocket.old_duplicates.saturating_add(1);
            }
        }
        self.on_change(id, change);
    }

    /// An RST was sent for a minisocket.
    pub(super) fn on_reset_of_minisocket(&mut self, event: &Event) {
        if let Some(id) = self.find_minisocket(event, Minisocket::is_alive)
            && let Some(minisocket) = self.minisocket_mut(id)
        {
            minisocket.reset_sent = Some((event.at, event.cpu));
        }
    }

    /// The millisecond after a cancel is over and nothing followed: the minisocket was killed.
    pub(super) fn on_cancel_alone(&mut self, id: Id) {
        let Some(minisocket) = self.minisocket(id) else {
            return;
        };
        let Life::Cancelled(cancel) = minisocket.life else {
            return;
        };
        if self.now.since(cancel.at) < AT_ONCE {
            // Another cancel than the one that was waited for; its own wait runs.
            return;
        }
        let was_due = cancel.shown.jiffies >= cancel.shown.expires;
        if was_due && self.now.since(cancel.at) < DUE {
            self.timers.park_cancel(self.now, id);
            return;
        }
        // What makes the kernel answer for a minisocket with a reset kills it, however slowly.
        let reset_sent = minisocket
            .reset_sent
            .is_some_and(|(_, cpu)| cpu == cancel.cpu);
        self.kill(id, &cancel);
        let in_time_wait = self.minisocket(id).is_some_and(|mini| mini.entry.is_some());
        let how = if cancel.netns_dying {
            Some(How::Purged)
        } else if cancel.reset {
            Some(How::Reset)
        } else if !in_time_wait {
            let how = if cancel.data || reset_sent {
                How::Data
            } else {
                self.without_successor(id, &cancel)
            };
            (how != How::Unknown).then_some(how)
        } else {
            None
        };
        match how {
            Some(how) => self.end_killed(id, &cancel, how),
            None if in_time_wait => self.seek_successor(id, &cancel),
            // FIN_WAIT2 is never taken over, but this one may prove to be alive.
            None => self.timers.await_reuse(cancel.at, id),
        }
    }

    /// What killed a minisocket, if no event that followed told.
    pub(super) fn without_successor(&self, id: Id, cancel: &Cancel) -> How {
        let from = Timestamp(cancel.at.0.saturating_sub(CONNECT));
        let whole = !self.losses.touch(from, cancel.at);
        let in_time_wait = self.minisocket(id).is_some_and(|mini| mini.entry.is_some());
        if !whole {
            How::Unknown
        } else if cancel.in_send && cancel.candidate.is_none() {
            // Nothing that is sent kills a minisocket but a request to the kernel; or a connect(),
            // which would be known.
            How::Destroyed
        } else if cancel.in_softirq && in_time_wait && self.config.sees_segments {
            // An RST would have been seen: it was a SYN, whose handshake nobody finished.
            How::ReusedBySyn
        } else {
            How::Unknown
        }
    }

    /// The end of a minisocket may have been lost.
    pub(super) fn on_overdue(&mut self, id: Id) {
        let Some(minisocket) = self.minisocket(id) else {
            return;
        };
        let due = minisocket.due;
        match minisocket.life {
            Life::Running if due <= self.now => self.lose_end(id),
            Life::Running | Life::Cancelled(_) => self.timers.await_end(due, id),
            // It may come to life again, and its end is waited for then as before.
            Life::Killed(cancel) if self.now.since(cancel.at) < REUSE => {
                self.timers.await_end(self.now, id);
            }
            Life::Killed(_) => self.on_reuse_timeout(id),
            Life::Ended(_) => {}
        }
    }

    /// A minisocket is gone and its end was not seen.
    pub(super) fn lose_end(&mut self, id: Id) {
        self.totals.minisockets_overdue += 1;
        self.uncount(id);
        if let Some(connection) = self.table.connection_mut(id) {
            connection.lacks(Incomplete::EndNotSeen);
        }
        self.end_minisocket(
            id,
            End {
                at: None,
                how: How::NotSeen,
                late: false,
            },
        );
    }

    /// The cancel was the minisocket's death.
    pub(super) fn kill(&mut self, id: Id, cancel: &Cancel) {
        self.totals.minisockets_killed += 1;
        if self.losses.touch(cancel.at, cancel.at)
            && let Some(connection) = self.table.connection_mut(id)
        {
            // What followed the cancel may have been lost, and tell otherwise.
            connection.lacks(Incomplete::EvidenceLost);
        }
        self.retire(id, cancel.at, &cancel.shown);
        self.set_life(id, Life::Killed(*cancel));
    }

    /// The end of a killed minisocket is settled.
    pub(super) fn end_killed(&mut self, id: Id, cancel: &Cancel, how: How) {
        self.end_minisocket(
            id,
            End {
                at: Some(cancel.at),
                how,
                late: false,
            },
        );
    }

    /// The minisocket of an event that `fits`. Kernel addresses are recycled, and sock_diag tells
    /// none: cookie and flow decide.
    fn find_minisocket(&mut self, event: &Event, fits: impl Fn(&Minisocket) -> bool) -> Option<Id> {
        let (netns, socket) = (event.netns_cookie, &event.socket);
        let (cookie, flow) = (socket.cookie, &socket.flow);
        let is_it = |connection: &Connection| {
            let same_cookie =
                connection.cookie() == cookie || connection.cookie() == 0 || cookie == 0;
            let same_flow =
                connection.flow == *flow || !connection.flow.is_known() || !flow.is_known();
            let minisocket = connection.minisocket();
            let is_meant = |minisocket: &Minisocket| !minisocket.is_over() && fits(minisocket);
            same_cookie && same_flow && minisocket.is_some_and(is_meant)
        };
        let by_cookie = match cookie {
            0 => None,
            cookie => self.table.by_cookie(netns, cookie, is_it),
        };
        by_cookie.or_else(|| self.table.by_flow(netns, *flow, is_it))
    }

    /// Whether the end of this minisocket was told: too early, for want of an event that was lost.
    fn is_told(&mut self, event: &Event) -> bool {
        let (netns, cookie) = (event.netns_cookie, event.socket.cookie);
        cookie != 0
            && self.table.by_cookie(netns, cookie, |_| true).is_none()
            && self.ended.by_cookie(netns, cookie).is_some()
    }

    /// The full socket that a minisocket takes over from: it is still open.
    fn full_socket_of(&mut self, event: &Event) -> Option<Id> {
        let (netns, socket) = (event.netns_cookie, &event.socket);
        let free =
            |connection: &Connection| connection.is_open() && connection.minisocket().is_none();
        let newest = (socket.cookie != 0)
            .then(|| self.table.by_cookie(netns, socket.cookie, |_| true))
            .flatten();
        let by_cookie = newest.filter(|id| self.table.connection(*id).is_some_and(free));
        by_cookie.or_else(|| {
            self.table.by_flow(netns, socket.flow, |connection| {
                free(connection) && (connection.cookie() == 0 || socket.cookie == 0)
            })
        })
    }

    /// A minisocket that ran before we looked, met as its timer is taken off the wheel.
    fn adopt_minisocket(&mut self, event: &Event, shown: &stream::Minisocket) -> Option<Id> {
        let mut connection = names::adopted(event);
        connection.set(Bit::MinisocketOnly);
        let id = self.take_up(connection)?;
        self.totals.minisockets_found += 1;
        self.attach(id, event, shown, Sign::Silent);
        let jiffies = self.jiffies;
        if shown.substate == TcpState::TimeWait
            && let Some(minisocket) = self.minisocket_mut(id)
        {
            minisocket.enter_before(event.at, shown, jiffies);
            self.on_entered(id);
        }
        Some(id)
    }

    fn attach(&mut self, id: Id, event: &Event, shown: &stream::Minisocket, sign: Sign) {
        let minisocket = Minisocket::new(event.at, shown, sign, self.jiffies);
        self.put_minisocket(id, minisocket);
    }

    pub(super) fn put_minisocket(&mut self, id: Id, minisocket: Minisocket) {
        self.totals.minisockets += 1;
        self.timers.await_end(minisocket.due, id);
        if let Some(connection) = self.table.connection_mut(id) {
            connection.late_mut().minisocket = Some(minisocket);
        }
        self.table.doze(id);
    }

    /// The timer was put on the wheel again.
    fn on_move(&mut self, id: Id, event: &Event, shown: &stream::Minisocket) {
        let jiffies = self.jiffies;
        let Some(minisocket) = self.minisocket_mut(id) else {
            return;
        };
        let mut change = Change::None;
        if let Life::Cancelled(cancel) = minisocket.life
            && minisocket.was_set_silently(&cancel.shown)
        {
            change = minisocket.observe(cancel.at, &cancel.shown, Sign::Silent, jiffies);
        }
        minisocket.life = Life::Running;
        self.table.doze(id);
        self.on_change(id, change);
        let Some(minisocket) = self.minisocket_mut(id) else {
            return;
        };
        let change = minisocket.observe(event.at, shown, Sign::Move, jiffies);
        if change == Change::Entered {
            minisocket.flipped_at = Some((event.at, event.cpu));
        }
        self.on_change(id, change);
    }

    fn on_change(&mut self, id: Id, change: Change) {
        if change == Change::Entered {
            self.on_entered(id);
        }
    }

    /// TIME_WAIT was entered: now, or as is worked out now.
    pub(super) fn on_entered(&mut self, id: Id) {
        let transitions = self.config.transitions;
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        let Some(minisocket) = connection.minisocket_mut() else {
            return;
        };
        let Some(entry) = minisocket.entry else {
            return;
        };
        if minisocket.is_alive() && !minisocket.counted {
            minisocket.counted = true;
            self.totals.in_time_wait += 1;
        }
        let from = entry.from.or(connection.state);
        let for_ns = from
            .and_then(|from| connection.timeline.current(from))
            .map(|since| entry.at.since(since));
        let only = connection.is(Bit::MinisocketOnly);
        if !only {
            self.totals.count_entry(entry.from);
        }
        let seen = entry.precision == EntryPrecision::Exact || !only;
        if transitions
            && seen
            && let Some(from) = from.filter(|from| *from != TcpState::Close)
        {
            let row = sockets::row(connection, entry.at, (from, TcpState::TimeWait), for_ns);
            self.outputs.push_row(row);
        }
    }

    /// It is off the wheel for good: what its last event shows, and the count of those alive.
    fn retire(&mut self, id: Id, at: Timestamp, shown: &stream::Minisocket) {
        let jiffies = self.jiffies;
        if let Some(minisocket) = self.minisocket_mut(id) {
            let change = minisocket.observe(at, shown, Sign::Silent, jiffies);
            self.on_change(id, change);
        }
        self.uncount(id);
    }

    fn uncount(&mut self, id: Id) {
        self.totals.minisockets -= 1;
        if let Some(minisocket) = self.minisocket_mut(id)
            && minisocket.counted
        {
            minisocket.counted = false;
            self.totals.in_time_wait -= 1;
        }
    }

    /// The end is settled.
    fn end_minisocket(&mut self, id: Id, end: End) {
        self.set_life(id, Life::Ended(end));
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        let entry = connection.minisocket().and_then(|mini| mini.entry);
        let (from, since) = match entry {
            Some(entry) => (TcpState::TimeWait, Some(entry.at)),
            None => {
                let waits = TcpState::FinWait2;
                (waits, connection.timeline.current(waits))
            }
        };
        let (open, decided) = (connection.is_open(), connection.verdict().is_some());
        if self.config.transitions
            && let Some(at) = end.at
        {
            let for_ns = since.map(|since| at.since(since));
            let row = sockets::row(connection, at, (from, TcpState::Close), for_ns);
            self.outputs.push_row(row);
        }
        if decided || connection_is_lost(self.table.connection(id)) {
            self.conclude(id);
        } else if open {
            // CLOSE follows the first start within microseconds, or it was lost.
            self.timers.park_verdict(self.now, id);
        }
    }

    fn set_life(&mut self, id: Id, life: Life) {
        if let Some(minisocket) = self.minisocket_mut(id) {
            minisocket.life = life;
        }
    }

    pub(super) fn minisocket(&self, id: Id) -> Option<&Minisocket> {
        self.table.connection(id)?.minisocket()
    }

    fn minisocket_mut(&mut self, id: Id) -> Option<&mut Minisocket> {
        self.table.connection_mut(id)?.minisocket_mut()
    }
}

/// The full socket is gone and no CLOSE will come for it.
fn connection_is_lost(connection: Option<&Connection>) -> bool {
    connection.is_some_and(|c| c.is(Bit::MinisocketOnly) || c.is(Bit::Vanished))
}
