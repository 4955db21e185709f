//! Full sockets: their openings, steps, resets and tasks, up to CLOSE.

use tracer_common::event::{CloseFacts, flags};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use super::close::{self, Evidence, Rule};
use super::connection::{Bit, Closing, Connection, FinWait2Step};
use super::loss::Losses;
use super::state;
use super::table::Id;
use super::timers::Timers;
use super::{Config, Engine, Totals, exactly};
use crate::record::{Incomplete, Process, Role, TransitionRow};
use crate::stream::{Event, Socket, Task};
use crate::time::Timestamp;

/// How long before CLOSE an RST may have been sent on the same processor to bear on it, nanoseconds.
/// It is microseconds, but the host of a virtual machine may take the processor away meanwhile.
const JUST_BEFORE: u64 = 100_000_000;

impl Engine {
    pub(super) fn on_transition(
        &mut self,
        event: &Event,
        from: TcpState,
        to: TcpState,
        detail: u8,
    ) {
        if to == TcpState::Close || from == to {
            // CLOSE has a kind of its own, and a step to where one is is none.
            self.totals.impossible += 1;
            return;
        }
        if self.is_double(event, from, to) {
            self.totals.doubles += 1;
        } else if state::is_opening(from, to) {
            self.on_opening(event, from, to);
        } else if let Some(id) = self.find_or_adopt(event, from) {
            self.step(id, event, from, to);
            match (from, to) {
                (TcpState::SynSent, _) => self.on_answered(id, detail),
                (TcpState::FinWait1, TcpState::FinWait2) => self.on_fin_acked(id, event, detail),
                _ => {}
            }
        }
    }

    pub(super) fn on_close(&mut self, event: &Event, from: TcpState, facts: &CloseFacts) {
        if from == TcpState::Close {
            // close() of a socket that is not connected.
            self.totals.doubles += u64::from(self.processors.is_repeated_close(event));
            return;
        }
        if self.is_double(event, from, TcpState::Close) {
            self.totals.doubles += 1;
            return;
        }
        let Some(id) = self.find_or_adopt(event, from) else {
            return;
        };
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        let late = connection.late_mut();
        let reset_sent = late.reset_sent;
        late.closed_at = Some(event.at);
        late.closing = Closing {
            facts: Some(*facts),
            owned: event.flags & flags::OWNED != 0,
            netns_dying: event.flags & flags::NETNS_DYING != 0,
            reset_sent_in_state: reset_sent.is_some(),
            reset_sent_before: reset_sent
                .is_some_and(|(at, cpu)| cpu == event.cpu && event.at.since(at) <= JUST_BEFORE),
            ..Closing::default()
        };
        connection.set_uid(facts.uid);
        if from == TcpState::SynSent {
            connection.set_syn_retransmits(facts.total_retransmits.min(255) as u8);
        }
        connection.set_cgroup(facts.cgroup);
        let listener = connection.role == Role::Listener;
        // It was received in the state that is left: the verdict wants to know.
        let reset_received = connection.is(Bit::ResetReceived);
        let for_ns = take_step(
            connection,
            &mut self.totals,
            event.at,
            (from, TcpState::Close),
        );
        connection.set(Bit::Closed);
        if reset_received {
            connection.set(Bit::ResetReceived);
        }
        // Where a minisocket has taken over, the connection is not at CLOSE yet.
        let hidden = connection.minisocket().is_some();
        refine_entry(connection, from, facts);
        if !hidden {
            self.tell_step(id, event, (from, TcpState::Close), for_ns);
        }
        self.forget_connecting(id);
        self.totals.open -= 1;
        self.totals.closed += 1;
        self.totals.closed_listeners += u64::from(listener);
        if matches!(from, TcpState::Established | TcpState::CloseWait) {
            self.totals.estab_resets += 1;
        }
        self.timers.park_verdict(self.now, id);
    }

    pub(super) fn on_reset_received(&mut self, event: &Event, state: u8) {
        if let Some(id) = self.find_reset(event, state)
            && let Some(connection) = self.table.connection_mut(id)
        {
            let again = event.flags & flags::RECOVERED != 0 && connection.is(Bit::ResetReceived);
            self.totals.doubles += u64::from(again);
            connection.set(Bit::ResetReceived);
        }
    }

    pub(super) fn on_reset_sent(&mut self, event: &Event, state: u8, answers_segment: bool) {
        match TcpState::from_number(state) {
            Some(TcpState::TimeWait) => self.on_reset_of_minisocket(event),
            // It went to CLOSE just before: the verdict waits for this.
            Some(TcpState::Close) => {
                if let Some(id) = self.find_any(event)
                    && let Some(connection) = self.table.connection_mut(id)
                    && let Some(late) = &mut connection.late
                    && late.closed_at.is_some()
                    && late.verdict.is_none()
                {
                    let closing = &mut late.closing;
                    let again = event.flags & flags::RECOVERED != 0 && closing.reset_sent_after;
                    self.totals.doubles += u64::from(again);
                    closing.reset_sent_after = true;
                    closing.reset_answered |= answers_segment;
                }
            }
            _ => {
                if let Some(id) = self.find_reset(event, state)
                    && let Some(connection) = self.table.connection_mut(id)
                {
                    let late = connection.late_mut();
                    let again = event.flags & flags::RECOVERED != 0 && late.reset_sent.is_some();
                    self.totals.doubles += u64::from(again);
                    late.reset_sent = Some((event.at, event.cpu));
                }
            }
        }
    }

    /// The open connection that a reset in `state` bears on. It may be the first that is seen of
    /// it. Listeners and request sockets, which answer strangers, are left alone.
    fn find_reset(&mut self, event: &Event, state: u8) -> Option<Id> {
        use TcpState::{Close, Listen, TimeWait};
        let state = TcpState::from_number(state)?;
        if matches!(state, Close | Listen | TimeWait) {
            return None;
        }
        self.find_or_adopt(event, state)
    }

    pub(super) fn on_task(&mut self, event: &Event, task: &Task) {
        if self.config.transitions {
            self.outputs.complete(event, task);
        }
        let Some(id) = self.find_any(event) else {
            return;
        };
        let Some(connection) = self.table.connection_mut(id) else {
            return;
        };
        if connection.last_step != Some((task.from, task.to)) || connection.verdict().is_some() {
            return;
        }
        connection.set_uid(task.uid);
        connection.set_cgroup(task.cgroup);
        use TcpState::{
            Close, CloseWait, Established, FinWait1, LastAck, Listen, SynRecv, SynSent,
        };
        match (task.from, task.to) {
            (Close, SynSent) => {
                self.table.set_opener(id, &exactly(task));
                self.connecting.begin(task.tid, id);
            }
            (Close, Listen) => self.table.set_opener(id, &exactly(task)),
            (Established | SynRecv, FinWait1) | (CloseWait, LastAck) => {
                self.table.set_closer(id, &exactly(task));
            }
            (_, Close) => connection.late_mut().closing.task = exactly(task),
            _ => {}
        }
    }

    fn on_opening(&mut self, event: &Event, from: TcpState, to: TcpState) {
        let child = to == TcpState::SynRecv;
        let netns = (event.netns_cookie, event.netns);
        if let Some(stale) = self
            .table
            .by_child(event.netns_cookie, event.socket.address)
        {
            self.give_up_open(stale);
        }
        let mut connection = if child {
            // What the event says of cookie and addresses may be the listener's.
            Connection::unnamed(netns, event.socket.address, UNKNOWN_FLOW)
        } else {
            let Socket { cookie, flow, .. } = event.socket;
            Connection::new(netns, cookie, flow)
        };
        if event.flags & flags::SOCKET_V6 != 0 {
            connection.set(Bit::SocketV6);
        }
        connection.set(Bit::Opened);
        connection.role = match to {
            TcpState::SynSent => Role::Client,
            TcpState::Listen => Role::Listener,
            _ => Role::Server,
        };
        if to == TcpState::SynSent {
            connection.set_source_port_bound(event.socket.flow.local.port != 0);
        }
        connection.state = Some(from);
        if !child {
            connection.generation = self.next_generation(event);
        }
        self.totals.count_opening(connection.role);
        if !self.has_room() && connection.role != Role::Listener {
            self.totals.refuse_opening();
            return;
        }
        let id = self.table.insert(connection);
        self.step(id, event, from, to);
        self.on_flow_known(id);
    }

    /// Whether a second program shows again what the first has shown.
    #[inline]
    fn is_double(&mut self, event: &Event, from: TcpState, to: TcpState) -> bool {
        event.flags & flags::RECOVERED != 0 && self.was_shown(event, from, to)
    }

    fn was_shown(&mut self, event: &Event, from: TcpState, to: TcpState) -> bool {
        let (netns, socket) = (event.netns_cookie, &event.socket);
        if (from, to) == (TcpState::Listen, TcpState::SynRecv) {
            return self.table.by_child(netns, socket.address).is_some();
        }
        match self
            .find_any(event)
            .and_then(|id| self.table.connection(id))
        {
            Some(connection) => connection.last_step == Some((from, to)),
            None => {
                to == TcpState::Close
                    && self
                        .ended
                        .by_cookie(netns, socket.cookie)
                        .is_some_and(|ended| ended.closed_from == Some(from))
            }
        }
    }

    /// Makes the step that the kernel shows, not to CLOSE, whatever we knew.
    fn step(&mut self, id: Id, event: &Event, from: TcpState, to: TcpState) {
        if let Some(connection) = self.table.connection_mut(id) {
            let for_ns = take_step(connection, &mut self.totals, event.at, (from, to));
            self.tell_step(id, event, (from, to), for_ns);
        }
    }

    /// The row of a step that was made.
    #[inline]
    fn tell_step(
        &mut self,
        id: Id,
        event: &Event,
        step: (TcpState, TcpState),
        for_ns: Option<u64>,
    ) {
        if self.config.transitions
            && let Some(connection) = self.table.connection(id)
            && !connection.is(Bit::Unnamed)
        {
            let row = row(connection, event.at, step, for_ns);
            if state::may_have_task(step.0, step.1) {
                let until = Timers::soon_after(self.now);
                self.outputs.hold(row, event.socket.address, until);
            } else {
                self.outputs.push_row(row);
            }
        }
    }

    /// The row of a passive child's first step, which had no name at the time.
    pub(super) fn row_of_birth(&mut self, id: Id) {
        if let Some(connection) = self.table.connection(id)
            && let Some(at) = connection.opened_at()
            && self.config.transitions
        {
            let row = row(connection, at, (TcpState::Listen, TcpState::SynRecv), None);
            self.outputs.push_row(row);
        }
    }

    /// Its SYN was answered, after so many were sent again.
    fn on_answered(&mut self, id: Id, syn_retransmits: u8) {
        if let Some(connection) = self.table.connection_mut(id) {
            connection.set_syn_retransmits(syn_retransmits);
        }
        self.forget_connecting(id);
    }

    /// Its FIN was acknowledged, when so many segments had been received.
    fn on_fin_acked(&mut self, id: Id, event: &Event, segs_in: u8) {
        if event.flags & flags::OWNED == 0
            && let Some(connection) = self.table.connection_mut(id)
        {
            connection.set_fin_wait2_step(FinWait2Step {
                cpu: event.cpu,
                seq: event.seq,
                segs_in,
            });
        }
    }

    /// It is past SYN_SENT: its thread's connect() has its tuple.
    pub(super) fn forget_connecting(&mut self, id: Id) {
        let connection = self.table.connection(id);
        let client = connection.filter(|connection| connection.role == Role::Client);
        if let Some(tid) = client.and_then(|client| client.opener.tid()) {
            self.connecting.end(tid, id);
        }
    }
}

/// Makes a step, and returns how long the state that it leaves lasted.
#[inline]
fn take_step(
    connection: &mut Connection,
    totals: &mut Totals,
    at: Timestamp,
    (from, to): (TcpState, TcpState),
) -> Option<u64> {
    if let Err(impossible) = state::check(connection.state, from, to) {
        totals.impossible += 1;
        connection.lacks(Incomplete::TransitionLost);
        if impossible.known != impossible.from {
            connection.timeline.lose_end();
        }
    }
    let since = connection.timeline.current(from);
    connection.state = Some(to);
    connection.last_step = Some((from, to));
    connection.clear(Bit::ResetReceived);
    if let Some(late) = &mut connection.late {
        late.reset_sent = None;
    }
    if to != TcpState::Close {
        connection.timeline.arrive(to, at);
    }
    since.map(|since| at.since(since))
}

/// The rule that tells why a connection is at CLOSE, and what the verdict says beside.
pub(super) fn decide(
    connection: &mut Connection,
    config: &Config,
    losses: &Losses,
) -> &'static Rule {
    let from = match connection.last_step {
        Some((from, TcpState::Close)) => Some(from),
        _ => connection.state,
    };
    let closed_at = connection.closed_at();
    let whole_since = |since: Option<Timestamp>| {
        closed_at
            .zip(since)
            .is_some_and(|(at, since)| !losses.touch(since, at))
    };
    let whole = whole_since(closed_at);
    let unseen = Closing::default();
    let closing = connection
        .late
        .as_ref()
        .map_or(&unseen, |late| &late.closing);
    let evidence = from.map(|from| Evidence {
        from,
        facts: closing.facts.unwrap_or_default(),
        facts_seen: closing.facts.is_some(),
        client: connection.role == Role::Client,
        local_port: connection.flow.local.port != 0,
        timer_started: connection.minisocket().is_some() && !connection.is(Bit::MinisocketOnly),
        sees_timers: config.sees_timers,
        sees_resets: config.sees_resets,
        whole,
        whole_in_state: whole_since(connection.timeline.arrival(from)),
        owned: closing.owned,
        netns_dying: closing.netns_dying,
        reset_received: connection.is(Bit::ResetReceived),
        reset_sent_in_state: closing.reset_sent_in_state,
        reset_sent_before: closing.reset_sent_before,
        reset_sent_after: closing.reset_sent_after,
        reset_answered: closing.reset_answered,
    });
    // Without CLOSE only a minisocket tells how it went.
    let evidence = evidence.filter(|e| e.facts_seen || e.timer_started);
    let rule = evidence.as_ref().map_or(close::unseen(), close::decide);
    if evidence.is_some_and(|e| close::is_half_close(&e, rule)) {
        connection.set(Bit::HalfClose);
    }
    if rule.minisocket_unseen {
        connection.lacks(Incomplete::TimerProbeMissing);
    }
    if rule.rests_on_no_reset && !config.sees_resets {
        connection.lacks(Incomplete::ResetProbeMissing);
    }
    if !whole && !connection.is(Bit::Vanished) {
        connection.lacks(Incomplete::EvidenceLost);
    }
    connection.late_mut().verdict = Some(rule);
    rule
}

/// The row of a state change.
pub(super) fn row(
    connection: &Connection,
    at: Timestamp,
    (from, to): (TcpState, TcpState),
    for_ns: Option<u64>,
) -> TransitionRow {
    TransitionRow {
        cookie: connection.cookie(),
        generation: connection.generation,
        at,
        netns: connection.netns,
        netns_cookie: connection.netns_cookie,
        flow: connection.flow,
        from,
        to,
        for_ns,
        process: Process::default(),
        cgroup_id: connection.cgroup_id(),
    }
}

/// What CLOSE tells of the way into TIME_WAIT: from CLOSING, or straight through from FIN_WAIT1.
fn refine_entry(connection: &mut Connection, from: TcpState, facts: &CloseFacts) {
    let step = connection.fin_wait2_step();
    let Some(minisocket) = connection.minisocket_mut() else {
        return;
    };
    let straight = step.is_some_and(|step| {
        from == TcpState::FinWait2
            && minisocket.straight_after == Some((step.cpu, step.seq))
            && step.segs_in == facts.segs_in as u8
    });
    let made_in_time_wait = !minisocket.began_in_fin_wait2;
    if let Some(entry) = &mut minisocket.entry
        && made_in_time_wait
    {
        entry.from = Some(if straight { TcpState::FinWait1 } else { from });
    }
}

const UNKNOWN_END: Endpoint = Endpoint {
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    port: 0,
};

/// Nothing is known of the addresses.
const UNKNOWN_FLOW: Flow = Flow {
    local: UNKNOWN_END,
    peer: UNKNOWN_END,
};
