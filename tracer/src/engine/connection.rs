//! What is kept of one connection while it lives: a small part always, the rest in boxes that only
//! those have that need them.

use tracer_common::event::CloseFacts;
use tracer_common::tcp::{Flow, TcpState};

use super::close::Rule;
use super::holdings::Told;
use super::lexicon::Who;
use super::timeline::Timeline;
use super::timewait::{Life, Minisocket};
use crate::record::{Incomplete, IncompleteSet, Previous, Process, Role};
use crate::time::Timestamp;

/// One connection (or listener), from its first event to the end of its minisocket.
///
/// Ten million of these may be open at once, so its size is held by a test: what few connections
/// have is in [`Late`] and [`Rare`], what many do not need in full is in bits.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Connection {
    // The first line of the processor's cache: all that tells whether it is the one.
    pub netns_cookie: u64,
    /// Cookie of its socket; while it is not known, the kernel address.
    key: u64,
    /// Number in the order of first events, over the whole table.
    pub serial: u64,
    pub flow: Flow,
    // The second: what a step changes.
    pub timeline: Timeline,
    bits: u16,
    incomplete: IncompleteSet,
    pub role: Role,
    /// The step that the kernel showed last.
    pub last_step: Option<(TcpState, TcpState)>,
    /// The state that the kernel showed last.
    pub state: Option<TcpState>,
    syn_retransmits: u8,
    /// Number, processor and segments received at FIN_WAIT1 → FIN_WAIT2: see [`FinWait2Step`].
    step_seq: u32,
    /// What its close brings.
    pub late: Option<Box<Late>>,
    // The third.
    /// What few connections have.
    pub rare: Option<Box<Rare>>,
    /// 0: not known.
    cgroup: u64,
    pub opener: Who,
    pub netns: u32,
    pub generation: u32,
    uid: u32,
    /// Number of the latest inventory that it was found in.
    pub found_in: u32,
    step_cpu: u16,
    step_segs_in: u8,
}

/// A yes or no about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Bit {
    /// Its socket is of family AF_INET6.
    SocketV6 = 1 << 0,
    /// Whether its source port was bound is known,
    BoundKnown = 1 << 1,
    /// and that it was.
    Bound = 1 << 2,
    /// A passive child whose cookie and flow do not hold yet: found by its address alone.
    Unnamed = 1 << 3,
    /// Made from a minisocket that ran before we looked: its full socket was never ours.
    MinisocketOnly = 1 << 4,
    /// Its full socket is gone although its CLOSE was not seen.
    Vanished = 1 << 5,
    /// It has come to CLOSE.
    Closed = 1 << 6,
    /// tcp_reset() ran in this state.
    ResetReceived = 1 << 7,
    /// A process still held the socket as it closed.
    HalfClose = 1 << 8,
    /// Who opened it has closed it.
    ClosedByOpener = 1 << 9,
    /// The owner is known.
    UidKnown = 1 << 10,
    /// How many SYNs were sent again is known.
    SynRetransmitsKnown = 1 << 11,
    /// Its opening was seen.
    Opened = 1 << 12,
    /// FIN_WAIT1 → FIN_WAIT2 was seen while no process held the socket's lock.
    StepSeen = 1 << 13,
    /// It was absent from the latest whole inventory.
    Absent = 1 << 14,
    /// Another connection of its socket may be in the table.
    Namesake = 1 << 15,
}

/// What a connection gets with its close.
#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    pub closed_at: Option<Timestamp>,
    /// An RST was sent in this state: when, and on which processor.
    pub reset_sent: Option<(Timestamp, u16)>,
    /// What CLOSE told, once it came.
    pub closing: Closing,
    /// The rule that gave the verdict.
    pub verdict: Option<&'static Rule>,
    pub minisocket: Option<Minisocket>,
}

/// What few connections have.
#[derive(Clone, Debug, Default)]
pub(super) struct Rare {
    /// Who closed it, where that is not who opened it.
    pub closer: Who,
    pub previous: Option<Previous>,
    /// When the peer of a socket in CLOSE_WAIT was last heard of, as an inventory told it.
    pub heard_at: Option<Timestamp>,
    /// What was told of how it holds its tuple.
    pub told: Option<Told>,
}

/// When a connection may be put to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Now,
    /// In a moment.
    Soon,
    /// Not before it has been decided on, or not at all.
    No,
}

/// A step FIN_WAIT1 → FIN_WAIT2 while no process held the socket's lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinWait2Step {
    pub cpu: u16,
    pub seq: u32,
    /// Low byte of the segments received by then.
    pub segs_in: u8,
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
    pub fn new(netns: (u64, u32), cookie: u64, flow: Flow) -> Self {
        Self {
            serial: 0,
            netns_cookie: netns.0,
            key: cookie,
            cgroup: 0,
            late: None,
            rare: None,
            timeline: Timeline::new(),
            opener: Who::default(),
            flow,
            netns: netns.1,
            generation: 0,
            uid: 0,
            found_in: 0,
            step_seq: 0,
            step_cpu: 0,
            step_segs_in: 0,
            bits: 0,
            incomplete: IncompleteSet::new(),
            syn_retransmits: 0,
            role: Role::Unknown,
            state: None,
            last_step: None,
        }
    }

    /// A passive child whose cookie and flow do not hold yet.
    pub fn unnamed(netns: (u64, u32), address: u64, flow: Flow) -> Self {
        let mut connection = Self::new(netns, address, flow);
        connection.set(Bit::Unnamed);
        connection
    }

    /// Something of each line of the cache that it lies in.
    pub fn touch(&self) -> u64 {
        self.key ^ u64::from(self.bits) ^ self.cgroup
    }

    /// Cookie of its socket; 0: not known.
    pub fn cookie(&self) -> u64 {
        if self.is(Bit::Unnamed) { 0 } else { self.key }
    }

    /// Whether that is its cookie, and its network namespace's.
    pub fn is_named(&self, netns: u64, cookie: u64) -> bool {
        self.key == cookie && self.netns_cookie == netns && !self.is(Bit::Unnamed)
    }

    /// Kernel address of its socket, while that is all that it can be found by.
    pub fn address(&self) -> Option<u64> {
        self.is(Bit::Unnamed).then_some(self.key)
    }

    /// Its cookie is known.
    pub fn set_cookie(&mut self, cookie: u64) {
        self.clear(Bit::Unnamed);
        self.key = cookie;
    }

    /// Its cookie and its addresses are known: no event can tell of others.
    pub fn has_all_names(&self) -> bool {
        self.cookie() != 0 && self.flow.is_known()
    }

    pub fn is(&self, bit: Bit) -> bool {
        self.bits & bit as u16 != 0
    }

    pub fn set(&mut self, bit: Bit) {
        self.bits |= bit as u16;
    }

    pub fn clear(&mut self, bit: Bit) {
        self.bits &= !(bit as u16);
    }

    /// Notes that something is not known.
    pub fn lacks(&mut self, what: Incomplete) {
        self.incomplete.insert(what);
    }

    /// What is not known.
    pub const fn incomplete(&self) -> IncompleteSet {
        self.incomplete
    }

    /// What is kept in bits, the owner, and the SYNs sent again, for those who pack it. The step
    /// FIN_WAIT1 → FIN_WAIT2 has served by then, and whether there is a namesake is not known of
    /// one that rests.
    pub fn kept(&self) -> (u16, IncompleteSet, u32, u8) {
        let bits = self.bits & !(Bit::StepSeen as u16 | Bit::Namesake as u16);
        (bits, self.incomplete, self.uid, self.syn_retransmits)
    }

    /// Takes back what [`Self::kept`] gave.
    pub fn restore(&mut self, bits: u16, incomplete: IncompleteSet, uid: u32, syns: u8) {
        (self.bits, self.incomplete) = (bits, incomplete);
        (self.uid, self.syn_retransmits) = (uid, syns);
    }

    /// Its full socket lives, as far as we know.
    pub fn is_open(&self) -> bool {
        let over = Bit::Closed as u16 | Bit::MinisocketOnly as u16 | Bit::Vanished as u16;
        self.bits & over == 0
    }

    /// First transition of the connection, if that was its opening.
    pub fn opened_at(&self) -> Option<Timestamp> {
        self.timeline.first().filter(|_| self.is(Bit::Opened))
    }

    /// When it left ESTABLISHED, or SYN_RECV where it was closed that early.
    pub fn close_began_at(&self) -> Option<Timestamp> {
        let left = self
            .timeline
            .iter()
            .find(|(state, _)| matches!(state, TcpState::FinWait1 | TcpState::CloseWait));
        let closed = || {
            let step = Some((TcpState::Established, TcpState::Close));
            self.closed_at().filter(|_| self.last_step == step)
        };
        left.map(|(_, at)| at).or_else(closed)
    }

    pub fn closed_at(&self) -> Option<Timestamp> {
        self.late.as_ref()?.closed_at
    }

    pub fn uid(&self) -> Option<u32> {
        self.is(Bit::UidKnown).then_some(self.uid)
    }

    pub fn set_uid(&mut self, uid: u32) {
        self.set(Bit::UidKnown);
        self.uid = uid;
    }

    /// Id of its cgroup.
    pub fn cgroup_id(&self) -> Option<u64> {
        (self.cgroup != 0).then_some(self.cgroup)
    }

    /// Its cgroup is known. 0 says nothing.
    pub fn set_cgroup(&mut self, id: u64) {
        if id != 0 {
            self.cgroup = id;
        }
    }

    pub fn syn_retransmits(&self) -> Option<u8> {
        self.is(Bit::SynRetransmitsKnown)
            .then_some(self.syn_retransmits)
    }

    pub fn set_syn_retransmits(&mut self, count: u8) {
        self.set(Bit::SynRetransmitsKnown);
        self.syn_retransmits = count;
    }

    pub fn source_port_bound(&self) -> Option<bool> {
        self.is(Bit::BoundKnown).then_some(self.is(Bit::Bound))
    }

    pub fn set_source_port_bound(&mut self, bound: bool) {
        self.set(Bit::BoundKnown);
        if bound {
            self.set(Bit::Bound);
        }
    }

    /// The step FIN_WAIT1 → FIN_WAIT2, to tell later whether one segment brought ACK and FIN.
    pub fn fin_wait2_step(&self) -> Option<FinWait2Step> {
        let step = FinWait2Step {
            cpu: self.step_cpu,
            seq: self.step_seq,
            segs_in: self.step_segs_in,
        };
        self.is(Bit::StepSeen).then_some(step)
    }

    pub fn set_fin_wait2_step(&mut self, step: FinWait2Step) {
        self.set(Bit::StepSeen);
        (self.step_seq, self.step_cpu, self.step_segs_in) = (step.seq, step.cpu, step.segs_in);
    }

    /// What its close brings, to be filled in.
    pub fn late_mut(&mut self) -> &mut Late {
        self.late.get_or_insert_default()
    }

    /// What few have, to be filled in.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The rule that gave the verdict.
    pub fn verdict(&self) -> Option<&'static Rule> {
        self.late.as_ref()?.verdict
    }

    /// What CLOSE told.
    pub fn facts(&self) -> Option<&CloseFacts> {
        self.late.as_ref()?.closing.facts.as_ref()
    }

    pub fn minisocket(&self) -> Option<&Minisocket> {
        self.late.as_ref()?.minisocket.as_ref()
    }

    pub fn minisocket_mut(&mut self) -> Option<&mut Minisocket> {
        self.late.as_mut()?.minisocket.as_mut()
    }

    /// A minisocket holds the tuple, or its end is not settled.
    pub fn minisocket_lives(&self) -> bool {
        self.minisocket()
            .is_some_and(|minisocket| !minisocket.is_over())
    }

    pub fn previous(&self) -> Option<Previous> {
        self.rare.as_ref()?.previous
    }

    pub fn told(&self) -> Option<&Told> {
        self.rare.as_ref()?.told.as_ref()
    }

    /// Since when a socket that was found in CLOSE_WAIT has been in it, as far as can be told: since
    /// the last that its peer was heard to say. That was its FIN, unless it answered a keepalive.
    pub fn close_wait_since(&self) -> Option<Timestamp> {
        self.rare.as_ref()?.heard_at
    }

    /// Who closed it.
    pub fn closer(&self) -> Who {
        if self.is(Bit::ClosedByOpener) {
            return self.opener;
        }
        self.rare
            .as_ref()
            .map(|rare| rare.closer)
            .unwrap_or_default()
    }

    /// Whether it may be put to rest: nothing is awaited of it but the end of its minisocket.
    /// Forgets what a minisocket remembers for a moment only, once that is over.
    pub fn rest_at(&mut self, now: Timestamp) -> Rest {
        let decided = self.verdict().is_some() || self.is(Bit::MinisocketOnly);
        // A packed one is found by its cookie and its addresses alone. A listener has no minisocket
        // and a child with one has its cookie: what claims otherwise came out of lost events.
        let is_found_otherwise = self.role == Role::Listener || self.address().is_some();
        if self.is_open() || !decided || is_found_otherwise {
            return Rest::No;
        }
        match self.minisocket_mut() {
            Some(minisocket) => minisocket.rest_at(now),
            None => Rest::No,
        }
    }

    /// Whether nothing that comes within moments is awaited of it, so that it can be followed no more
    /// without being taken for another.
    pub fn may_be_let_go(&self) -> bool {
        let Some(late) = &self.late else {
            return self.role != Role::Listener && self.is_open();
        };
        match &late.minisocket {
            None => self.role != Role::Listener && self.is_open(),
            Some(minisocket) => {
                let is_settled = late.verdict.is_some() || self.is(Bit::MinisocketOnly);
                !self.is_open() && is_settled && matches!(minisocket.life, Life::Running)
            }
        }
    }

    /// The latest step that is known of it.
    pub fn last_heard(&self) -> Timestamp {
        let minisocket = self.minisocket();
        let began = minisocket.map(|mini| mini.began.0);
        let entered = minisocket.and_then(|mini| Some(mini.entry?.at));
        [self.timeline.latest(), self.closed_at(), began, entered]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::super::slab::Slab;
    use super::*;

    #[test]
    fn a_connection_is_small() {
        assert_eq!(size_of::<Connection>(), 192);
        assert_eq!(offset_of!(Connection, timeline), 64);
        assert_eq!(offset_of!(Connection, rare), 128);
        assert_eq!(Slab::<Connection>::SLOT, 192, "with what the slab adds");
    }
}
