use std::time::Duration;

use tracer_common::tcp::{Flow, TcpState};

use crate::time::Timestamp;

/// The TCP sockets of one network namespace as sock_diag dumped them.
///
/// The dump is a walk, not a picture: a socket that lives through all of it is in it at most once,
/// in the state it had when the walk came by; one that is not in it may have been missed all the
/// same, since the kernel goes on in a bucket by counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Inode of the network namespace.
    pub netns: u32,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Before the first question.
    pub from: Timestamp,
    /// After the last answer.
    pub until: Timestamp,
    /// The walk came to its end: what is not in `found` may be concluded from. Else it was broken
    /// off, and only what is in it counts.
    pub whole: bool,
    /// The sockets, in no order.
    pub found: Vec<Found>,
    /// Who holds descriptors of full sockets, as far as that was looked at.
    pub owners: Vec<Ownership>,
}

/// A process that holds a descriptor of a socket, found in /proc. It need not be who opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Cookie of the socket.
    pub cookie: u64,
    /// Process (tgid) in the host's namespace; the lowest where there are several.
    pub pid: u32,
    /// Its name, NUL-padded: the user's bytes.
    pub name: [u8; 16],
    /// SO_REUSEADDR, of listeners alone; `None`: not known.
    pub reuse_address: Option<bool>,
}

/// One socket of an [`Inventory`]. Request sockets (SYN_RECV without a full socket) and sockets that
/// neither listen nor are connected are left out; a full socket in SYN_RECV is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its cookie, never 0: sock_diag makes one where there was none.
    pub cookie: u64,
    /// Its addresses, v4-mapped ones as IPv4.
    pub flow: Flow,
    /// Whether the socket is of family AF_INET6.
    pub socket_is_v6: bool,
    /// What holds the tuple.
    pub holder: Holder,
}

/// What holds a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A full socket.
    Socket {
        /// Its state.
        state: TcpState,
        /// Its owner. `None`: nobody holds a descriptor of it (it was closed, or never accepted),
        /// and most kernels then say 0.
        uid: Option<u32>,
        /// Inode of the descriptor's file; 0: nobody holds one.
        inode: u32,
        /// Bytes that the application has not read; of a listener: connections that wait for
        /// accept().
        queued: u32,
        /// Bytes that the peer has not acknowledged; of a listener: how many may wait.
        limit: u32,
        /// How long ago the peer was last heard of, of CLOSE_WAIT alone: since its FIN as a rule.
        silent_for: Option<Duration>,
    },
    /// A minisocket.
    Minisocket {
        /// FIN_WAIT2 or TIME_WAIT.
        substate: TcpState,
        /// The timer's nominal end, to about a jiffy: the kernel says how many milliseconds were
        /// left when the walk came by.
        ends_at: Timestamp,
    },
}

impl Holder {
    /// A full socket of which no more than its state and its owner is told.
    #[must_use]
    pub const fn socket(state: TcpState, uid: Option<u32>) -> Self {
        Self::Socket {
            state,
            uid,
            inode: 0,
            queued: 0,
            limit: 0,
            silent_for: None,
        }
    }
}

/// A look at all network namespaces has ended: their inventories stand before this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// When it ended.
    pub at: Timestamp,
    /// Why it was made.
    pub purpose: Purpose,
    /// Namespaces that were looked at, those without sockets included.
    pub namespaces: u64,
    /// Full sockets found.
    pub sockets: u64,
    /// Minisockets found that wait for the peer's FIN.
    pub fin_wait2s: u64,
    /// Minisockets found in TIME_WAIT.
    pub time_waits: u64,
    /// The processor time that it took.
    pub cpu: Duration,
    /// What was not looked at, or not to its end.
    pub skipped: Vec<Skipped>,
}

impl Sweep {
    /// Whether something was skipped that is not in `told`, for the same reason.
    #[must_use]
    pub fn skips_more_than(&self, told: &[Skipped]) -> bool {
        let is_told = |skipped: &Skipped| {
            let mut told = told.iter();
            told.any(|told| told.netns == skipped.netns && told.reason == skipped.reason)
        };
        !self.skipped.iter().all(is_told)
    }
}

/// Why a [`Sweep`] is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To know what was there before the first event.
    Start,
    /// To find out what lost events would have shown.
    Resync,
    /// So that nothing stays for ever of which no end was shown and no loss told.
    Periodic,
}

impl Purpose {
    /// As NDJSON spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Resync => "resync",
            Self::Periodic => "periodic",
        }
    }
}

/// A network namespace, or several, that a [`Sweep`] did not look at, or not to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its inode, where it is known.
    pub netns: Option<u32>,
    /// How it was to be reached.
    pub path: String,
    /// Why it was not looked at, in one line.
    pub reason: String,
}
