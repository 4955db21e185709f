//! The one finished row: what is known of a connection once it has closed. Every output shows this
//! and nothing else. What was never seen is `None`, never a zero.

use arrayvec::ArrayVec;
use tracer_common::tcp::{Flow, TcpState};

use crate::time::Timestamp;

mod call;
mod evidence;
pub mod holding;
mod incomplete;
mod names;

pub use call::Call;
pub use evidence::Evidence;
pub use incomplete::{Incomplete, IncompleteSet};
pub use names::UnknownName;

/// A connection, at its verdict or after its tuple is free again.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Cookie of the socket; 0: it never had one.
    pub cookie: u64,
    /// How many connections the same socket had before.
    pub generation: u32,
    /// Inode of the network namespace: for display, since the kernel recycles it.
    pub netns: u32,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The addresses; parts that were never seen are unspecified or 0 and shown as null.
    pub flow: Flow,
    /// Whether the socket is of family AF_INET6.
    pub socket_is_v6: bool,
    /// Which side of the handshake.
    pub role: Role,
    /// Whether a client had bound its source port before connect(); `None` where the opening was
    /// not seen or the role has none.
    pub source_port_bound: Option<bool>,
    /// First transition of the connection.
    pub opened_at: Option<Timestamp>,
    /// Arrival in ESTABLISHED.
    pub established_at: Option<Timestamp>,
    /// First step of the close: leaving ESTABLISHED.
    pub close_began_at: Option<Timestamp>,
    /// The full socket's end.
    pub closed_at: Option<Timestamp>,
    /// The tuple is free again. `None` at the verdict.
    pub ended_at: Option<Timestamp>,
    /// SYN_SENT to ESTABLISHED, nanoseconds; clients only.
    pub handshake_ns: Option<u64>,
    /// SYNs sent again; clients only.
    pub syn_retransmits: Option<u8>,
    /// The states in order, TIME_WAIT and the minisocket's FIN_WAIT2 included, CLOSE left out.
    pub states: States,
    /// The verdict.
    pub close: Close,
    /// The wait for the peer's FIN.
    pub fin_wait2: Option<FinWait2>,
    /// The wait after both FINs.
    pub time_wait: Option<TimeWait>,
    /// Why there was no TIME_WAIT where one was due.
    pub time_wait_skipped: Option<TimeWaitSkipped>,
    /// The tuple's last incarnation.
    pub previous: Option<Previous>,
    /// Who opened it.
    pub opener: Process,
    /// Who closed it.
    pub closer: Process,
    /// Owner of the socket.
    pub uid: Option<u32>,
    /// Id of the socket's cgroup (v2), which is its directory's inode.
    pub cgroup_id: Option<u64>,
    /// Whether TCP timestamps (RFC 7323) were in use, without which tcp_tw_reuse does nothing.
    /// `None`: its CLOSE was not seen.
    pub timestamps: Option<bool>,
    /// Totals, as tcp_info gives them.
    pub traffic: Option<Traffic>,
    /// What is not known and why; empty: the record is complete.
    pub incomplete: IncompleteSet,
}

/// Which side of the handshake a socket was on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// It sent the SYN.
    Client,
    /// It answered one.
    Server,
    /// It waits for them.
    Listener,
    /// Its opening was not seen.
    #[default]
    Unknown,
}

/// The stays of one life, in the record itself: a row costs no allocation. A legal life has at most
/// six.
pub type States = ArrayVec<StateVisit, MOST_STATES>;

/// States that a record holds at most.
pub const MOST_STATES: usize = 6;

/// A stay in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateVisit {
    /// The state.
    pub state: TcpState,
    /// Arrival.
    pub at: Timestamp,
    /// How long, nanoseconds; `None` while it lasts.
    pub for_ns: Option<u64>,
}

/// How and why the full socket came to CLOSE. Given once, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The way.
    pub kind: CloseKind,
    /// Who began it.
    pub initiator: Initiator,
    /// The reason; `None` where the kind says all, or nothing is known.
    pub cause: Option<CloseCause>,
    /// `sk_err` at the end.
    pub errno: Option<u16>,
    /// What the verdict rests on.
    pub evidence: Evidence,
}

/// `close.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseKind {
    /// We sent the first FIN.
    Active,
    /// The peer sent the first FIN.
    Passive,
    /// The FINs crossed.
    Simultaneous,
    /// The peer reset it.
    ResetReceived,
    /// We reset it.
    ResetSent,
    /// Nobody answered.
    TimedOut,
    /// connect() failed.
    ConnectFailed,
    /// The kernel or an administrator gave it up.
    Aborted,
    /// A listener was closed.
    ListenerClosed,
    /// The evidence does not suffice.
    Unknown,
}

/// `close.cause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseCause {
    /// Orderly.
    Fin,
    /// An RST came.
    PeerReset,
    /// close() with data unread.
    UnreadData,
    /// close() with SO_LINGER 0.
    LingerZero,
    /// Data came after close().
    DataAfterClose,
    /// TCP_LINGER2 below 0.
    Linger2,
    /// connect(AF_UNSPEC).
    Disconnect,
    /// The listener was closed before accept().
    Unaccepted,
    /// Too many orphans, or memory.
    OrphanOrMemory,
    /// SOCK_DESTROY (`ss -K`).
    Destroyed,
    /// Retransmissions unanswered.
    Retransmission,
    /// Zero-window probes unanswered.
    ZeroWindow,
    /// Keepalive probes unanswered.
    Keepalive,
    /// TCP_USER_TIMEOUT ran out.
    UserTimeout,
    /// The full socket's FIN_WAIT2 ran out.
    FinWait2,
    /// RST to our SYN.
    Refused,
    /// No answer to our SYN.
    TimedOut,
    /// No local port was free.
    NoPort,
    /// The bound port's tuple is taken.
    TupleInUse,
    /// ICMP says so.
    Unreachable,
    /// Closed while connecting.
    Abandoned,
    /// SYN_RECV → CLOSE.
    HandshakeAborted,
    /// TCP_REPAIR.
    Repair,
    /// The network namespace went.
    NetnsExit,
}

/// `close.initiator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Initiator {
    /// This socket.
    Local,
    /// The other end.
    Peer,
    /// Both at once.
    Both,
    /// Neither.
    None,
    /// Not known.
    Unknown,
}

/// The wait for the peer's FIN, in the full socket and in the minisocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinWait2 {
    /// When our FIN was acknowledged.
    pub began_at: Option<Timestamp>,
    /// How long it took, nanoseconds; `None` while it lasts or where an end was not seen.
    pub dwell_ns: Option<u64>,
    /// Whether the last part was waited in a minisocket.
    pub in_minisocket: bool,
    /// How it ended; `None` while it lasts.
    pub exit: Option<FinWait2Exit>,
}

/// `fin_wait2.exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinWait2Exit {
    /// The peer's FIN came.
    PeerFin,
    /// It never came.
    TimedOut,
    /// An RST came.
    Reset,
    /// Data (or a bad SYN) came, and we reset.
    Data,
    /// SOCK_DESTROY.
    Destroyed,
    /// The network namespace went.
    Purged,
    /// Not known.
    Unknown,
}

/// A TIME_WAIT, measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWait {
    /// When it was entered.
    pub entered_at: Option<Timestamp>,
    /// From which state.
    pub entered_from: Option<TcpState>,
    /// How well `entered_at` is known.
    pub entry_precision: EntryPrecision,
    /// Entry to end, nanoseconds; `None` while it lasts or where either is not known.
    pub dwell_ns: Option<u64>,
    /// What the timer was set for at entry, nanoseconds.
    pub nominal_ns: u64,
    /// How often the timer was set anew after entry.
    pub refreshes: u32,
    /// FINs that came again: the last ACK was lost. `None` where segments cannot be seen.
    pub fin_retransmits: Option<u32>,
    /// Old data that came again. `None` where segments cannot be seen.
    pub old_duplicates: Option<u32>,
    /// How it ended; `None` while it lasts.
    pub exit: Option<TimeWaitExit>,
    /// Whether it ended later than the timer wheel explains.
    pub late: bool,
}

/// `time_wait.entry_precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryPrecision {
    /// Seen as it happened.
    Exact,
    /// Worked out from the timer, to the jiffy.
    Jiffy,
    /// The timer tells the last refresh, which may not be the entry.
    LastRefresh,
    /// Not known.
    Unknown,
}

/// `time_wait.exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeWaitExit {
    /// The timer ran out.
    Expired,
    /// connect() took the tuple (tcp_tw_reuse).
    ReusedByConnect,
    /// A SYN reopened it (RFC 1122, 4.2.2.13).
    ReusedBySyn,
    /// An RST came (tcp_rfc1337 = 0).
    Reset,
    /// The network namespace went.
    Purged,
    /// SOCK_DESTROY.
    Destroyed,
    /// Not known.
    Unknown,
}

/// `time_wait_skipped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeWaitSkipped {
    /// tcp_max_tw_buckets, or memory.
    Overflow,
}

/// The last connection with the same tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its cookie.
    pub cookie: u64,
    /// Its generation.
    pub generation: u32,
    /// Its end to this one's opening, nanoseconds.
    pub gap_ns: u64,
}

/// A process and how it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Process (tgid) in the host's namespace.
    pub pid: Option<u32>,
    /// Thread.
    pub tid: Option<u32>,
    /// The thread's name, NUL-padded.
    pub comm: Option<[u8; 16]>,
    /// The process's name, NUL-padded.
    pub name: Option<[u8; 16]>,
    /// How it is known.
    pub source: Source,
}

/// How a process is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// The task made the transition.
    Exact,
    /// A passive child's, from its listener.
    Inherited,
    /// Worked out.
    Inferred,
    /// Not known.
    #[default]
    Unknown,
}

/// Totals of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Segments sent.
    pub segments_sent: u32,
    /// Segments received.
    pub segments_received: u32,
    /// Segments retransmitted.
    pub retransmits: u32,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: Option<u32>,
    /// Least round-trip time, microseconds.
    pub min_rtt_us: Option<u32>,
}

/// One state change, as `watch --transitions` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransitionRow {
    /// Cookie of the socket.
    pub cookie: u64,
    /// How many connections the same socket had before.
    pub generation: u32,
    /// When.
    pub at: Timestamp,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The addresses as far as known.
    pub flow: Flow,
    /// State before. TIME_WAIT and the minisocket's FIN_WAIT2 take part.
    pub from: TcpState,
    /// State after.
    pub to: TcpState,
    /// How long the state before lasted, nanoseconds; `None` where its beginning was not seen.
    pub for_ns: Option<u64>,
    /// Who, where the task can be told.
    pub process: Process,
    /// Id of the socket's cgroup (v2), as far as known by then.
    pub cgroup_id: Option<u64>,
}
