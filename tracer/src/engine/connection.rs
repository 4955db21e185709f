//! What is kept of one connection while it lives.

use tracer_common::event::CloseFacts;
use tracer_common::tcp::{Flow, TcpState};

use super::close::Rule;
use super::holdings::Told;
use super::inventory::Presence;
use super::timeline::Timeline;
use super::timewait::Minisocket;
use crate::record::{Incomplete, IncompleteSet, Previous, Process, Role};
use crate::time::Timestamp;

/// One connection (or listener), from its first event to the end of its minisocket.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Number in the order of first events, over the whole table.
    pub serial: u64,
    pub netns_cookie: u64,
    pub netns: u32,
    /// Kernel address of the full socket.
    pub address: u64,
    pub cookie: u64,
    pub generation: u32,
    pub flow: Flow,
    pub socket_is_v6: bool,
    pub role: Role,
    pub source_port_bound: Option<bool>,
    /// A passive child whose cookie and flow do not hold yet: found by its address alone.
    pub unnamed: bool,
    /// Made from a minisocket that ran before we looked: its full socket was never ours.
    pub minisocket_only: bool,
    /// Its full socket is gone although its CLOSE was not seen.
    pub vanished: bool,
    /// The state that the kernel showed last.
    pub state: Option<TcpState>,
    /// The step that the kernel showed last.
    pub last_step: Option<(TcpState, TcpState)>,
    pub timeline: Timeline,
    pub opened_at: Option<Timestamp>,
    pub close_began_at: Option<Timestamp>,
    pub closed_at: Option<Timestamp>,
    pub syn_retransmits: Option<u8>,
    pub opener: Process,
    pub closer: Process,
    pub uid: Option<u32>,
    pub cgroup_id: Option<u64>,
    /// The step FIN_WAIT1 → FIN_WAIT2, to tell later whether one segment brought ACK and FIN.
    pub fin_wait2_step: Option<FinWait2Step>,
    /// tcp_reset() ran in this state.
    pub reset_received: bool,
    /// An RST was sent in this state: when, and on which processor.
    pub reset_sent: Option<(Timestamp, u16)>,
    /// What CLOSE told, once it came.
    pub closing: Closing,
    /// The rule that gave the verdict.
    pub verdict: Option<&'static Rule>,
    pub half_close: bool,
    pub minisocket: Option<Minisocket>,
    pub previous: Option<Previous>,
    /// How sock_diag's answers bear on it.
    pub presence: Presence,
    /// What was told of how it holds its tuple.
    pub told: Option<Box<Told>>,
    incomplete: IncompleteSet,
}

/// A step FIN_WAIT1 → FIN_WAIT2.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinWait2Step {
    pub cpu: u16,
    pub seq: u32,
    /// Low byte of the segments received by then.
    pub segs_in: u8,
    /// The socket's lock was held by a process.
    pub owned: bool,
}

/// What came with CLOSE and in the millisecond after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Closing {
    pub facts: Option<CloseFacts>,
    pub owned: bool,
    pub netns_dying: bool,
    pub reset_sent_in_state: bool,
    pub reset_sent_before: bool,
    pub reset_sent_after: bool,
    pub reset_answered: bool,
    /// The task at the step to CLOSE.
    pub task: Process,
    /// The errno of the connect() that ended by it.
    pub failed_call: Option<u16>,
}

impl Connection {
    /// A connection of which nothing but its names is known.
    pub fn new(netns: (u64, u32), address: u64, cookie: u64, flow: Flow) -> Self {
        Self {
            serial: 0,
            netns_cookie: netns.0,
            netns: netns.1,
            address,
            cookie,
            generation: 0,
            flow,
            socket_is_v6: false,
            role: Role::Unknown,
            source_port_bound: None,
            unnamed: false,
            minisocket_only: false,
            vanished: false,
            state: None,
            last_step: None,
            timeline: Timeline::new(),
            opened_at: None,
            close_began_at: None,
            closed_at: None,
            syn_retransmits: None,
            opener: Process::default(),
            closer: Process::default(),
            uid: None,
            cgroup_id: None,
            fin_wait2_step: None,
            reset_received: false,
            reset_sent: None,
            closing: Closing::default(),
            verdict: None,
            half_close: false,
            minisocket: None,
            previous: None,
            presence: Presence::default(),
            told: None,
            incomplete: IncompleteSet::new(),
        }
    }

    /// Notes that something is not known.
    pub fn lacks(&mut self, what: Incomplete) {
        self.incomplete.insert(what);
    }

    /// What is not known.
    pub const fn incomplete(&self) -> IncompleteSet {
        self.incomplete
    }

    /// Its full socket lives, as far as we know.
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none() && !self.minisocket_only && !self.vanished
    }

    /// A minisocket holds the tuple, or its end is not settled.
    pub fn minisocket_lives(&self) -> bool {
        self.minisocket
            .as_ref()
            .is_some_and(|minisocket| !minisocket.is_over())
    }
}
