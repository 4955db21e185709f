//! The one ordered stream that everything right of the kernel consumes: a live kernel and a file
//! give the same records, so replay equals live.

use tracer_common::event::{CloseFacts, Kind};
use tracer_common::tcp::{Flow, TcpState};

use crate::fdinfo::ProgramStatistics;
use crate::time::{Timestamp, WallOffset};

mod call;
mod inventory;
mod name;
mod namespace;

pub use call::{Call, FailedCall};
pub use inventory::{Found, Holder, Inventory, Ownership, Purpose, Skipped, Sweep};
pub use name::Name;
pub use namespace::{Counters, NamespaceReading, Settings};

/// One record of the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamRecord {
    /// What the host is and which probes run: the first record.
    Meta(Meta),
    /// Something that the kernel showed.
    Event(Event),
    /// Events between the last one delivered and this time found no room in the ring.
    Lost(Timestamp),
    /// Every event with an earlier stamp has been delivered. Time moves with events and with this.
    Watermark(Timestamp),
    /// Which sockets a network namespace held, between two times that have both passed: every event
    /// up to [`Inventory::until`] that was not lost has been delivered.
    Inventory(Inventory),
    /// All network namespaces have been looked at.
    Swept(Sweep),
    /// What something is called that the events from here on name by number.
    Name(Name),
    /// The settings and counters of a network namespace.
    Namespace(Box<NamespaceReading>),
    /// How the wall's clock stands against the monotonic one from here on.
    Clock(WallOffset),
    /// A reading of the accounts.
    Account(AccountReading),
}

/// What a consumer must know before the first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The host's name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// Timer interrupts a second (CONFIG_HZ): how long a jiffy is.
    pub hz: u32,
    /// Each probe and its state, in the order of attaching.
    pub probes: Vec<ProbeReport>,
}

impl Meta {
    /// Whether the probe `name` is attached.
    #[must_use]
    pub fn has_probe(&self, name: &str) -> bool {
        self.probes
            .iter()
            .any(|probe| probe.name == name && probe.state == ProbeState::Attached)
    }
}

/// One probe and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Name of the BPF program.
    pub name: &'static str,
    /// The kernel's tracepoint.
    pub hook: &'static str,
    /// Attached, or why not.
    pub state: ProbeState,
    /// What cannot be told without it.
    pub purpose: &'static str,
}

/// The state of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// It runs.
    Attached,
    /// It does not; the reason in one line.
    Refused(String),
}

/// The accounts of the kernel side at one time. Totals since the start.
///
/// `hits = (received - doubles) + ring_lost + (unrecovered + doubles)`, where a double is a record
/// that the second program on a hook made of an event that the first had shown already: only the
/// engine can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountReading {
    /// When it was read.
    pub at: Timestamp,
    /// Events that the hooks met.
    pub hits: u64,
    /// Records that found no room in the ring.
    pub ring_lost: u64,
    /// The same by kind, indexed by its number.
    pub lost_by_kind: [u64; Kind::COUNT],
    /// The same by processor, those with any.
    pub lost_by_cpu: Vec<(u16, u64)>,
    /// Events that a first program did not see (the kernel does not run a program that its own
    /// hook interrupts), less the records that the second program made. With the doubles added:
    /// the events that were missed.
    pub unrecovered: i64,
    /// What the kernel has counted for each program.
    pub programs: Vec<ProgramStatistics>,
    /// Programs that were attached and are not any more, though nobody here has detached them.
    pub gone: Vec<&'static str>,
}

/// A socket as an event names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Address of the kernel's socket or minisocket: a key for milliseconds, never shown.
    pub address: u64,
    /// The socket's cookie; 0: none.
    pub cookie: u64,
    /// Its addresses as far as known.
    pub flow: Flow,
}

/// One decoded record of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by the kernel's monotonic clock.
    pub at: Timestamp,
    /// On which processor.
    pub cpu: u16,
    /// Its number on that processor, gaps being losses.
    pub seq: u32,
    /// Bits of [`tracer_common::event::flags`].
    pub flags: u16,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The socket.
    pub socket: Socket,
    /// What happened to it.
    pub body: Body,
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The state changed, not to CLOSE.
    Transition {
        /// State before.
        from: TcpState,
        /// State after.
        to: TcpState,
        /// See [`tracer_common::event::Transition::detail`].
        detail: u8,
    },
    /// The state changed to CLOSE.
    Close {
        /// State before.
        from: TcpState,
        /// Why, and the totals.
        facts: CloseFacts,
    },
    /// Who made the transition just before. `socket.flow` is not known here.
    Task(Task),
    /// A minisocket's timer was started, or moved to another bucket of the wheel.
    TimerStart(Minisocket),
    /// A minisocket's timer was taken off the wheel: expiry, move and kill alike.
    TimerCancel(Minisocket),
    /// A minisocket's timer expired.
    TimerExpire(Minisocket),
    /// A minisocket's timer was set: at its start and at each refresh.
    Schedule(Minisocket),
    /// A segment was handled by a minisocket.
    Segment {
        /// The minisocket after it.
        minisocket: Minisocket,
        /// The segment's flag byte (FIN 1, SYN 2, RST 4, PSH 8, ACK 16).
        tcp_flags: u8,
        /// Its payload in bytes, at most 65,535.
        payload: u16,
    },
    /// `tcp_reset()` ran: the peer's RST, or our own reaction to data after close.
    ResetReceived {
        /// The socket's state (the kernel's number: a request socket's is not in [`TcpState`]).
        state: u8,
    },
    /// An RST was sent.
    ResetSent {
        /// The socket's state (the kernel's number; TIME_WAIT for any minisocket).
        state: u8,
        /// It answers a segment.
        answers_segment: bool,
        /// The kernel's `sk_rst_reason`; `None` before Linux 6.10.
        reason: Option<u32>,
    },
    /// A system call failed. `socket` is all zero where it has none.
    CallFailed(FailedCall),
}

impl Body {
    /// The wire's kind of this event.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Transition { .. } => Kind::Transition,
            Self::Close { .. } => Kind::Close,
            Self::Task(_) => Kind::Task,
            Self::TimerStart(_) => Kind::TimerStart,
            Self::TimerCancel(_) => Kind::TimerCancel,
            Self::TimerExpire(_) => Kind::TimerExpire,
            Self::Schedule(_) => Kind::Schedule,
            Self::Segment { .. } => Kind::Segment,
            Self::ResetReceived { .. } => Kind::ResetReceived,
            Self::ResetSent { .. } => Kind::ResetSent,
            Self::CallFailed(_) => Kind::CallFailed,
        }
    }
}

/// The task behind a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Process (tgid) in the host's namespace.
    pub pid: u32,
    /// Thread in the host's namespace.
    pub tid: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Id of the socket's cgroup (v2); 0: not known.
    pub cgroup: u64,
    /// State before that transition.
    pub from: TcpState,
    /// State after that transition.
    pub to: TcpState,
    /// The thread's name, NUL-padded: the user's bytes, to be escaped where they are shown.
    pub comm: [u8; 16],
    /// The process's name, NUL-padded.
    pub name: [u8; 16],
}

/// A minisocket at the time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minisocket {
    /// FIN_WAIT2 or TIME_WAIT.
    pub substate: TcpState,
    /// The timer's nominal end, in jiffies.
    pub expires: u64,
    /// Jiffies at the time of the event.
    pub jiffies: u64,
    /// `tw_entry_stamp`, monotonic milliseconds (Linux 6.14 and later); 0: not known.
    pub entry_stamp_ms: u32,
    /// The current thread: the one that acts, or the one that was interrupted.
    pub tid: u32,
}
