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
}

/// One socket of an [`Inventory`]. Request sockets (SYN_RECV without a full socket) are left out.
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
        /// Its owner.
        uid: u32,
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
