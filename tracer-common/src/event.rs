//! The records on the ring buffer. Each starts with a [`Header`] whose kind and length come first,
//! so that a reader can step over a kind that it does not know. One place in the ring may hold
//! several, one behind the other.
//!
//! All numbers are in the host's byte order, ports included; addresses are in network order. The
//! records of one socket appear in the order in which things happened to it, because the socket's
//! lock is held while they are made. Time stamps are taken after the place in the ring is reserved:
//! a record that is reserved later than a reader looked bears a later stamp than that look.

use core::mem::{offset_of, size_of};

/// What a record tells. The numbers are part of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A state change that does not end in CLOSE: [`Transition`].
    Transition = 1,
    /// A state change to CLOSE, with what is needed to tell why: [`Close`].
    Close = 2,
    /// The task behind the transition of the same socket just before: [`Task`].
    Task = 3,
    /// A minisocket's timer was started or moved to another wheel bucket: [`Minisocket`].
    TimerStart = 4,
    /// A minisocket's timer was taken off the wheel (expiry, move and kill alike): [`Minisocket`].
    TimerCancel = 5,
    /// A minisocket's timer expired: [`Minisocket`].
    TimerExpire = 6,
    /// `tcp_reset()` ran on the socket: [`Reset`].
    ResetReceived = 7,
    /// An RST was sent for the socket, or for its minisocket: [`Reset`].
    ResetSent = 8,
    /// A segment was handled by a minisocket and freed: [`Minisocket`].
    Segment = 9,
    /// `__inet_twsk_schedule()` has set a minisocket's timer, for the first time or anew
    /// ([`Minisocket`] as it is after that). Only where fexit programs are allowed.
    Schedule = 10,
    /// A system call on a socket failed: [`CallFailed`]. Only where that was asked for.
    CallFailed = 11,
}

impl Kind {
    /// One more than the highest number of a kind: the size of tables indexed by kind.
    pub const COUNT: usize = 12;

    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT - 1] = [
        Self::Transition,
        Self::Close,
        Self::Task,
        Self::TimerStart,
        Self::TimerCancel,
        Self::TimerExpire,
        Self::ResetReceived,
        Self::ResetSent,
        Self::Segment,
        Self::Schedule,
        Self::CallFailed,
    ];

    /// The kind with the wire's number `number`, or `None` for one of a later version.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        if number >= 1 && (number as usize) < Self::COUNT {
            Some(Self::ALL[number as usize - 1])
        } else {
            None
        }
    }

    /// The name that accounts and scenario files use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Close => "close",
            Self::Task => "task",
            Self::TimerStart => "timer_start",
            Self::TimerCancel => "timer_cancel",
            Self::TimerExpire => "timer_expire",
            Self::ResetReceived => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::Segment => "segment",
            Self::Schedule => "schedule",
            Self::CallFailed => "call_failed",
        }
    }
}

/// Bits of [`Header::flags`].
pub mod flags {
    /// The second program on the hook made this record: the first was interrupted by it, or this
    /// is a double of what the first one made.
    pub const RECOVERED: u16 = 1 << 0;
    /// A process holds the socket's lock (`sk_lock.owned`): the change comes from a system call or
    /// from a segment that was queued during one.
    pub const OWNED: u16 = 1 << 1;
    /// The socket is of family AF_INET6 (its addresses may be v4-mapped all the same).
    pub const SOCKET_V6: u16 = 1 << 2;
    /// The first record that found room after others had found none: something that happened
    /// between the record before this in the ring and this one is not told. Several may bear it
    /// for one loss, where processors raced.
    pub const AFTER_LOSS: u16 = 1 << 3;
    /// Made in a softirq (or above). With [`IN_TASK`] clear too: not known. Told of
    /// [`super::Kind::TimerCancel`].
    pub const IN_SOFTIRQ: u16 = 1 << 4;
    /// Made in process context, by a thread that is not the kernel's. What a system call makes is not
    /// all of its own doing: segments that came while it held the socket's lock are handled as it
    /// lets go. Told of [`super::Kind::TimerCancel`].
    pub const IN_TASK: u16 = 1 << 5;
    /// The network namespace is being taken down: nobody holds it any more. Told of
    /// [`super::Kind::TimerCancel`] and at CLOSE.
    pub const NETNS_DYING: u16 = 1 << 6;
    /// The current thread is in sendto() or sendmsg(), and acts: the way to SOCK_DESTROY. Told of
    /// [`super::Kind::TimerCancel`].
    pub const IN_SEND: u16 = 1 << 7;
}

/// Bits of [`CloseFacts::marks`].
pub mod marks {
    /// SOCK_DEAD: no process holds the socket any more.
    pub const DEAD: u16 = 1 << 0;
    /// SOCK_DONE: the peer's FIN was received.
    pub const DONE: u16 = 1 << 1;
    /// SOCK_KEEPOPEN: keepalive is on.
    pub const KEEP_OPEN: u16 = 1 << 2;
    /// SOCK_LINGER: SO_LINGER is on.
    pub const LINGER: u16 = 1 << 3;
    /// The linger time is 0.
    pub const LINGER_ZERO: u16 = 1 << 4;
    /// `sk_socket` is NULL: orphaned, or never accepted.
    pub const NO_SOCKET: u16 = 1 << 5;
    /// TCP_REPAIR is on.
    pub const REPAIR: u16 = 1 << 6;
    /// The local port was bound by bind().
    pub const PORT_BOUND: u16 = 1 << 7;
    /// All that was sent is acknowledged, the FIN included where there was one.
    pub const ALL_ACKED: u16 = 1 << 8;
    /// TCP timestamps were agreed on (`tp->rx_opt.tstamp_ok`).
    pub const TIMESTAMPS: u16 = 1 << 9;
}

/// The start of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// A [`Kind`].
    pub kind: u8,
    /// 4 or 6: which addresses follow; 0: none.
    pub family: u8,
    /// Bytes of the whole record, this header included; a multiple of 8.
    pub len: u16,
    /// The processor that made the record.
    pub cpu: u16,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Number of the record on that processor. It counts attempts, so what found no room in the
    /// ring leaves a gap. Programs nest: not in the ring's order.
    pub seq: u32,
    /// Inode of the network namespace (`ns.inum`), recycled by the kernel: for display.
    pub netns: u32,
    /// CLOCK_MONOTONIC, nanoseconds (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// Cookie of the network namespace, never recycled.
    pub netns_cookie: u64,
}

/// Addresses of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct V4 {
    /// This socket's address.
    pub local: [u8; 4],
    /// The other end's address.
    pub peer: [u8; 4],
}

/// Addresses of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct V6 {
    /// This socket's address.
    pub local: [u32; 4],
    /// The other end's address.
    pub peer: [u32; 4],
}

/// A state change of a full socket ([`Kind::Transition`]; the start of a [`Close`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Transition<A> {
    /// The common start.
    pub header: Header,
    /// Address of the kernel's socket; recycled within milliseconds.
    pub socket: u64,
    /// The socket's cookie. At LISTEN → SYN_RECV it may be the listener's.
    pub cookie: u64,
    /// The state before (the kernel's number).
    pub old: u8,
    /// The state after (the kernel's number).
    pub new: u8,
    /// At SYN_SENT → anything: SYNs retransmitted, at most 255. At FIN_WAIT1 → FIN_WAIT2: the low
    /// byte of `segs_in`, to tell whether one segment brought both ACK and FIN. Else 0.
    pub detail: u8,
    /// Always 0.
    pub padding: u8,
    /// Local port, 0 while the kernel has not chosen one.
    pub local_port: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// The addresses.
    pub addresses: A,
}

/// What the socket held as it went to CLOSE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CloseFacts {
    /// `sk_err` as a positive errno.
    pub error: u16,
    /// `sk_err_soft` as a positive errno.
    pub soft_error: u16,
    /// Bits of [`marks`].
    pub marks: u16,
    /// `icsk_retransmits`: unanswered retransmissions in a row.
    pub retransmits: u8,
    /// `icsk_probes_out`: unanswered probes in a row.
    pub probes_out: u8,
    /// TCP_LINGER2, in jiffies; negative: no FIN_WAIT2.
    pub linger2: i32,
    /// TCP_USER_TIMEOUT, milliseconds; 0: not set.
    pub user_timeout_ms: u32,
    /// Bytes received in order and not read by the application (the FIN's own number taken off).
    pub unread: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments retransmitted in the connection's whole life.
    pub total_retransmits: u32,
    /// Smoothed round-trip time, microseconds; 0: none measured.
    pub srtt_us: u32,
    /// Least round-trip time of the recent past, microseconds; u32::MAX: none measured.
    pub min_rtt_us: u32,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Id of the socket's cgroup (v2), which is its directory's inode; 0: not known.
    pub cgroup: u64,
    /// Owner of the socket.
    pub uid: u32,
    /// `sk_shutdown`: 1 receive, 2 send, 3 both.
    pub shutdown: u8,
    /// Always 0.
    pub padding: [u8; 3],
}

/// A state change to CLOSE ([`Kind::Close`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Close<A> {
    /// The change itself.
    pub transition: Transition<A>,
    /// Why, and the totals.
    pub facts: CloseFacts,
}

/// The task that made the transition of the same socket just before ([`Kind::Task`]). Beside a
/// [`Transition`] it lies in the same place of the ring, with the same time.
///
/// It is made only on edges where the current task can be the one that acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Task {
    /// The common start; `family` is 0.
    pub header: Header,
    /// Address of the kernel's socket.
    pub socket: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// Process (tgid), in the host's namespace.
    pub pid: u32,
    /// Thread, in the host's namespace.
    pub tid: u32,
    /// The socket's owner (`sk_uid`).
    pub uid: u32,
    /// The state before (the kernel's number).
    pub old: u8,
    /// The state after (the kernel's number).
    pub new: u8,
    /// Always 0.
    pub padding: u16,
    /// Id of the socket's cgroup (v2), which is its directory's inode; 0: not known.
    pub cgroup: u64,
    /// The thread's name, NUL-padded.
    pub comm: [u8; 16],
    /// The process's name (its leading thread's), NUL-padded.
    pub name: [u8; 16],
}

/// Something that happened to a minisocket ([`Kind::TimerStart`], [`Kind::TimerCancel`],
/// [`Kind::TimerExpire`], [`Kind::Segment`], [`Kind::Schedule`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Minisocket<A> {
    /// The common start.
    pub header: Header,
    /// Address of the kernel's minisocket; recycled within milliseconds.
    pub socket: u64,
    /// The full socket's cookie, where that had one; 0: none.
    pub cookie: u64,
    /// The timer's nominal end, in jiffies.
    pub expires: u64,
    /// Jiffies at the time of the record.
    pub jiffies: u64,
    /// `tw_entry_stamp`, monotonic milliseconds (Linux 6.14 and later); 0: not known.
    pub entry_stamp_ms: u32,
    /// The current thread: the one that acts, or the one that was interrupted.
    pub tid: u32,
    /// `tw_substate`: FIN_WAIT2 or TIME_WAIT (the kernel's number).
    pub substate: u8,
    /// [`Kind::Segment`]: the segment's flag byte (FIN 1, SYN 2, RST 4, PSH 8, ACK 16). Else 0.
    pub tcp_flags: u8,
    /// [`Kind::Segment`]: its payload in bytes, at most 65,535. Else 0.
    pub payload: u16,
    /// Local port.
    pub local_port: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// The addresses.
    pub addresses: A,
}

/// A reset, received or sent ([`Kind::ResetReceived`], [`Kind::ResetSent`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Reset<A> {
    /// The common start.
    pub header: Header,
    /// Address of the kernel's socket or minisocket.
    pub socket: u64,
    /// Its cookie.
    pub cookie: u64,
    /// Its state (the kernel's number; TIME_WAIT for a minisocket of either substate).
    pub state: u8,
    /// [`Kind::ResetSent`]: 1 if it answers a segment.
    pub answers_segment: u8,
    /// Always 0.
    pub padding: u16,
    /// Local port.
    pub local_port: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// [`Kind::ResetSent`]: the kernel's `sk_rst_reason` plus 1; 0: not told (before 6.10).
    pub reason: u32,
    /// Always 0.
    pub padding2: u32,
    /// The addresses.
    pub addresses: A,
}

/// Numbers of [`CallFailed::call`].
pub mod calls {
    /// connect().
    pub const CONNECT: u8 = 1;
    /// bind().
    pub const BIND: u8 = 2;
    /// socket().
    pub const SOCKET: u8 = 3;
    /// accept() and accept4().
    pub const ACCEPT: u8 = 4;
}

/// A system call that failed ([`Kind::CallFailed`]). Where it has no TCP socket, all that a socket
/// tells is 0, and the addresses are of family 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CallFailed<A> {
    /// The common start.
    pub header: Header,
    /// Address of the kernel's socket; 0: there is none.
    pub socket: u64,
    /// The socket's cookie; 0: none, as on a socket that has never left CLOSE.
    pub cookie: u64,
    /// Process (tgid), in the host's namespace.
    pub pid: u32,
    /// Thread, in the host's namespace.
    pub tid: u32,
    /// The errno, positive.
    pub errno: u16,
    /// One of [`calls`].
    pub call: u8,
    /// State of the socket as the call returned (the kernel's number); 0: there is no socket.
    pub state: u8,
    /// 4 or 6: the family of `asked`; 0: the call has no address, or it could not be read.
    pub asked_family: u8,
    /// Always 0.
    pub padding: u8,
    /// The port that was asked for.
    pub asked_port: u16,
    /// Local port, 0 while the kernel has not chosen one.
    pub local_port: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// Always 0.
    pub padding2: u32,
    /// The address that was asked for; one of family 4 in the first 4 bytes.
    pub asked: [u8; 16],
    /// The thread's name, NUL-padded.
    pub comm: [u8; 16],
    /// The process's name (its leading thread's), NUL-padded.
    pub name: [u8; 16],
    /// The socket's addresses.
    pub addresses: A,
}

/// What each processor has counted and keeps. One per-CPU array element, read by the user side.
///
/// What each event touches comes first: as few cache lines as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Account {
    /// Records that were attempted: the low half is the next [`Header::seq`].
    pub attempts: u64,
    /// Marks of what the first program on a hook has seen and the second has not yet come by, by
    /// [`Hook`]: the programs' own.
    pub marks: [[u64; Account::MARKS]; Hook::COUNT],
    /// Records that found no room in the ring, by [`Kind`].
    pub lost: [u64; Kind::COUNT],
    /// Records that a second program made ([`flags::RECOVERED`]), doubles included, by [`Hook`].
    pub recovered: [u64; Hook::COUNT],
    /// Runs of a second program for events that the first did not see and that are none of ours
    /// (another protocol), by [`Hook`].
    pub foreign: [u64; Hook::COUNT],
}

impl Account {
    /// Marks a hook has at once, a power of two. Two events that wait for their second program share
    /// one in one of so many cases (a task's, and one of the softirq that interrupted it), and then
    /// the first is told twice. Of our own events the engine knows such a double. Of those that are
    /// none of ours, as most of what is freed is, nobody does, and each makes the account one short:
    /// hence so many.
    pub const MARKS: usize = 64;
}

// SAFETY: Account is repr(C), made of u64 alone, without padding; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Account {}

/// Whether records have found no room since the last one that did. One array element, which the
/// user side maps.
///
/// Counts, not a flag that is exchanged: both are read before a place is reserved, so the record
/// that bears [`flags::AFTER_LOSS`] lies before every record that was reserved after the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Losses {
    /// Records that found no room, those of a second program included; wraps.
    pub lost: u32,
    /// [`Losses::lost`] as the last record with [`flags::AFTER_LOSS`] knew it: as long as it
    /// differs, the next record bears the flag.
    pub told: u32,
}

/// A tracepoint that two programs watch, because one alone misses what interrupts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Hook {
    /// `inet_sock_set_state`.
    State = 0,
    /// `tcp_receive_reset`.
    ResetReceived = 1,
    /// `tcp_send_reset`.
    ResetSent = 2,
    /// `kfree_skb`.
    Segment = 3,
}

impl Hook {
    /// How many there are.
    pub const COUNT: usize = 4;
}

const _: () = {
    assert!(size_of::<Header>() == 32 && offset_of!(Header, len) == 2);
    assert!(offset_of!(Header, seq) == 8 && offset_of!(Header, time_ns) == 16);
    assert!(size_of::<Transition<V4>>() == 64 && size_of::<Transition<V6>>() == 88);
    assert!(offset_of!(Transition<V4>, old) == 48 && offset_of!(Transition<V4>, addresses) == 56);
    assert!(size_of::<CloseFacts>() == 72 && offset_of!(CloseFacts, bytes_sent) == 40);
    assert!(offset_of!(CloseFacts, shutdown) % 4 == 0);
    assert!(size_of::<Close<V4>>() == 136 && size_of::<Close<V6>>() == 160);
    assert!(offset_of!(Close<V6>, facts) == 88);
    assert!(size_of::<Task>() == 104 && offset_of!(Task, cgroup) == 64);
    assert!(size_of::<Minisocket<V4>>() == 88 && size_of::<Minisocket<V6>>() == 112);
    assert!(offset_of!(Minisocket<V4>, entry_stamp_ms) == 64);
    assert!(offset_of!(Minisocket<V4>, addresses) == 80);
    assert!(size_of::<Reset<V4>>() == 72 && size_of::<Reset<V6>>() == 96);
    assert!(offset_of!(Reset<V4>, reason) == 56);
    assert!(size_of::<CallFailed<V4>>() == 128 && size_of::<CallFailed<V6>>() == 152);
    assert!(offset_of!(CallFailed<V4>, asked) == 72);
    assert!(offset_of!(CallFailed<V4>, addresses) == 120);
    assert!(size_of::<Account>() == 8 + 2048 + 96 + 32 + 32);
    assert!(size_of::<Losses>() == 8 && offset_of!(Losses, told) == 4);
};
