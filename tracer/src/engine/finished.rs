//! The finished row of a connection, at its verdict and after its end.

use tracer_common::event::marks;
use tracer_common::tcp::TcpState;

use super::Config;
use super::close;
use super::connection::{Bit, Connection};
use super::table::Table;
use super::timewait::{End, How, Life, Minisocket};
use crate::record::{
    Close, CloseCause, Evidence, FinWait2, FinWait2Exit, Record, Role, States, TimeWait,
    TimeWaitExit, TimeWaitSkipped, Traffic,
};
use crate::time::Timestamp;

/// Which row is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The verdict: whatever the minisocket does is not over.
    Verdict,
    /// The whole record.
    End,
}

/// The row, put together in the place that it is given out in.
pub(super) fn record(
    connection: &Connection,
    table: &Table,
    stage: Stage,
    config: &Config,
) -> Box<Record> {
    let ended_at = match stage {
        Stage::Verdict => None,
        Stage::End => ended_at(connection),
    };
    let minisocket = connection.minisocket();
    let states_end = match minisocket {
        None if minisocket_is_hidden(connection) && !peer_fin_came(connection) => None,
        None => connection.closed_at(),
        Some(_) => ended_at,
    };
    let entered_at = minisocket.and_then(|minisocket| Some(minisocket.entry?.at));
    let established_at = connection.timeline.arrival(TcpState::Established);
    let client = connection.role == Role::Client;
    let handshake_ns = connection
        .timeline
        .arrival(TcpState::SynSent)
        .filter(|_| client)
        .and_then(|began| Some(established_at?.since(began)));
    let row = Box::new_uninit();
    let record = Record {
        cookie: connection.cookie(),
        generation: connection.generation,
        netns: connection.netns,
        netns_cookie: connection.netns_cookie,
        flow: connection.flow,
        socket_is_v6: connection.is(Bit::SocketV6),
        role: connection.role,
        source_port_bound: connection.source_port_bound(),
        opened_at: connection.opened_at(),
        established_at,
        close_began_at: connection.close_began_at(),
        closed_at: connection.closed_at(),
        ended_at,
        handshake_ns,
        syn_retransmits: connection.syn_retransmits().filter(|_| client),
        states: States::new(),
        close: verdict(connection),
        fin_wait2: fin_wait2(connection, stage),
        time_wait: time_wait(connection, stage, config),
        time_wait_skipped: connection
            .verdict()
            .filter(|rule| rule.overflow)
            .map(|_| TimeWaitSkipped::Overflow),
        previous: connection.previous(),
        opener: table.tell(&connection.opener),
        closer: table.tell(&connection.closer()),
        uid: connection.uid(),
        cgroup_id: connection.cgroup_id(),
        // Neither a listener nor who was never answered has agreed on anything.
        timestamps: connection
            .facts()
            .filter(|_| connection.role != Role::Listener)
            .filter(|_| !matches!(connection.last_step, Some((TcpState::SynSent, _))))
            .map(|facts| facts.marks & marks::TIMESTAMPS != 0),
        traffic: traffic(connection),
        incomplete: connection.incomplete(),
    };
    let mut row = Box::write(row, record);
    let timeline = &connection.timeline;
    timeline.tell(&mut row.states, entered_at, states_end);
    row
}

/// When the tuple is free again, as far as seen.
pub(super) fn ended_at(connection: &Connection) -> Option<Timestamp> {
    match connection.minisocket() {
        Some(minisocket) => end(minisocket)?.at,
        None if minisocket_is_hidden(connection) => None,
        None => connection.closed_at(),
    }
}

/// A minisocket was due that cannot be seen.
pub(super) fn minisocket_is_hidden(connection: &Connection) -> bool {
    connection
        .verdict()
        .is_some_and(|rule| rule.minisocket_unseen)
}

fn end(minisocket: &Minisocket) -> Option<&End> {
    match &minisocket.life {
        Life::Ended(end) => Some(end),
        _ => None,
    }
}

fn verdict(connection: &Connection) -> Close {
    let rule = connection.verdict().unwrap_or(close::unseen());
    let failed_call = || connection.late.as_ref()?.closing.failed_call;
    Close {
        kind: rule.kind,
        initiator: rule.initiator,
        cause: rule.cause,
        errno: connection
            .facts()
            .map(|facts| facts.error)
            .filter(|error| *error != 0)
            .or_else(failed_call),
        evidence: Evidence {
            words: rule.words,
            half_close: connection.is(Bit::HalfClose),
        },
    }
}

fn fin_wait2(connection: &Connection, stage: Stage) -> Option<FinWait2> {
    let minisocket = connection.minisocket();
    let in_minisocket = minisocket.is_some_and(|minisocket| minisocket.began_in_fin_wait2);
    let began_at = connection.timeline.arrival(TcpState::FinWait2);
    let left = connection
        .last_step
        .is_some_and(|(from, _)| from == TcpState::FinWait2);
    if began_at.is_none() && !left && !in_minisocket {
        return None;
    }
    let entry = minisocket.and_then(|minisocket| minisocket.entry);
    let (ended_at, exit) = match (minisocket, entry) {
        // One segment brought both the ACK of our FIN and the peer's: there was no wait.
        (_, Some(entry)) if entry.from == Some(TcpState::FinWait1) => return None,
        (_, Some(entry)) => (Some(entry.at), Some(FinWait2Exit::PeerFin)),
        (Some(minisocket), None) => match end(minisocket).filter(|_| stage == Stage::End) {
            Some(end) => (end.at, Some(exit_of_minisocket(end.how))),
            None => (None, None),
        },
        // The wait may go on where we cannot see it.
        (None, None) if minisocket_is_hidden(connection) && !peer_fin_came(connection) => {
            (None, Some(FinWait2Exit::Unknown))
        }
        (None, None) => (connection.closed_at(), Some(exit_of_socket(connection))),
    };
    Some(FinWait2 {
        began_at,
        dwell_ns: ended_at
            .zip(began_at)
            .map(|(ended_at, began_at)| ended_at.since(began_at)),
        in_minisocket,
        exit,
    })
}

fn exit_of_minisocket(how: How) -> FinWait2Exit {
    match how {
        How::Expired => FinWait2Exit::TimedOut,
        How::Reset => FinWait2Exit::Reset,
        How::Data => FinWait2Exit::Data,
        How::Purged => FinWait2Exit::Purged,
        How::Destroyed => FinWait2Exit::Destroyed,
        How::ReusedByConnect | How::ReusedBySyn | How::Unknown | How::NotSeen => {
            FinWait2Exit::Unknown
        }
    }
}

/// How the full socket's FIN_WAIT2 ended where no minisocket took over.
fn exit_of_socket(connection: &Connection) -> FinWait2Exit {
    match connection.verdict().and_then(|rule| rule.cause) {
        Some(CloseCause::PeerReset) => FinWait2Exit::Reset,
        Some(CloseCause::DataAfterClose) => FinWait2Exit::Data,
        Some(CloseCause::FinWait2) => FinWait2Exit::TimedOut,
        Some(CloseCause::Destroyed) => FinWait2Exit::Destroyed,
        Some(CloseCause::NetnsExit) => FinWait2Exit::Purged,
        Some(CloseCause::Fin) if peer_fin_came(connection) => FinWait2Exit::PeerFin,
        _ => FinWait2Exit::Unknown,
    }
}

/// The peer's FIN came to the full socket.
fn peer_fin_came(connection: &Connection) -> bool {
    connection
        .facts()
        .is_some_and(|facts| facts.error == 0 && facts.marks & marks::DONE != 0)
}

fn time_wait(connection: &Connection, stage: Stage, config: &Config) -> Option<TimeWait> {
    let minisocket = connection.minisocket()?;
    let entry = minisocket.entry?;
    let end = end(minisocket).filter(|_| stage == Stage::End);
    let segments_seen =
        config.sees_segments && minisocket.seen_from_start && !minisocket.segments_lost;
    Some(TimeWait {
        entered_at: Some(entry.at),
        entered_from: entry.from,
        entry_precision: entry.precision,
        dwell_ns: end.and_then(|end| Some(end.at?.since(entry.at))),
        nominal_ns: entry.nominal_ns,
        refreshes: minisocket.refreshes,
        fin_retransmits: segments_seen.then_some(minisocket.fin_retransmits),
        old_duplicates: segments_seen.then_some(minisocket.old_duplicates),
        exit: end.map(exit_of_time_wait),
        late: end.is_some_and(|end| end.late),
    })
}

fn exit_of_time_wait(end: &End) -> TimeWaitExit {
    match end.how {
        How::Expired => TimeWaitExit::Expired,
        How::ReusedByConnect => TimeWaitExit::ReusedByConnect,
        How::ReusedBySyn => TimeWaitExit::ReusedBySyn,
        How::Reset => TimeWaitExit::Reset,
        How::Purged => TimeWaitExit::Purged,
        How::Destroyed => TimeWaitExit::Destroyed,
        How::Data | How::Unknown | How::NotSeen => TimeWaitExit::Unknown,
    }
}

/// How the TIME_WAIT of a connection ended, if it had one.
pub(super) fn time_wait_exit(connection: &Connection) -> Option<TimeWaitExit> {
    let minisocket = connection.minisocket()?;
    minisocket.entry?;
    end(minisocket).map(exit_of_time_wait)
}

fn traffic(connection: &Connection) -> Option<Traffic> {
    let facts = connection
        .facts()
        .filter(|_| connection.role != Role::Listener)?;
    // The kernel counts the peer's FIN as a byte received.
    let fin = u64::from(facts.marks & marks::DONE != 0);
    Some(Traffic {
        bytes_sent: facts.bytes_sent,
        bytes_received: facts.bytes_received.saturating_sub(fin),
        segments_sent: facts.segs_out,
        segments_received: facts.segs_in,
        retransmits: facts.total_retransmits,
        srtt_us: Some(facts.srtt_us).filter(|srtt| *srtt != 0),
        min_rtt_us: Some(facts.min_rtt_us).filter(|rtt| *rtt != u32::MAX),
    })
}
