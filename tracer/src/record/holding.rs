//! Who holds which tuple, from moment to moment: what accounts of ports are made of.

use tracer_common::tcp::Flow;

use crate::record::Process;
use crate::time::Timestamp;

/// What holds a tuple, and with it a local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// A listener.
    Listening,
    /// SYN_SENT, SYN_RECV.
    Connecting,
    /// ESTABLISHED.
    Established,
    /// CLOSE_WAIT: the peer has closed, this host's program has not.
    CloseWait,
    /// FIN_WAIT1, CLOSING, LAST_ACK.
    Closing,
    /// FIN_WAIT2, of the full socket and of the minisocket: the peer has not closed.
    FinWait2,
    /// TIME_WAIT.
    TimeWait,
}

impl Use {
    /// Every use, in the order of a connection's life.
    pub const ALL: [Self; 7] = [
        Self::Listening,
        Self::Connecting,
        Self::Established,
        Self::CloseWait,
        Self::Closing,
        Self::FinWait2,
        Self::TimeWait,
    ];
}

/// Who opened a connection, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The opener.
    pub process: Process,
    /// Id of the socket's cgroup (v2); `None`: not known.
    pub cgroup_id: Option<u64>,
}

/// How a tuple is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// By what.
    pub by: Use,
    /// For whom.
    pub owner: Owner,
    /// The local port; 0 until connect() has found one.
    pub port: u16,
    /// Since when it has been held by this use; `None`: since before it was seen.
    pub since: Option<Timestamp>,
    /// When its timer ends nominally: of [`Use::TimeWait`] and of a minisocket's [`Use::FinWait2`].
    pub ends_at: Option<Timestamp>,
}

/// Which side of a connection this end is, for an account of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It connects: its local port is one of many to one destination.
    Client {
        /// It had bound its port before; `None`: its opening was not seen.
        bound: Option<bool>,
    },
    /// Its local port is a listener's.
    Server,
    /// It listens.
    Listener,
}

/// A tuple's holding has changed: `was` is what was told of it last. Taken together, in order, all
/// that were told give what is held now: add `is`, take away `was`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldingChange {
    /// When.
    pub at: Timestamp,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// The addresses: the same in all changes of one tuple but for the local port, for which see
    /// [`Holding::port`]. A listener has no peer.
    pub flow: Flow,
    /// The side: the same in all changes of one tuple. Of a connection whose opening was not seen
    /// it is worked out: a server's where something listens on its local port, else a client's.
    pub side: Side,
    /// Before. `None`: the tuple was not held, or not known to be.
    pub was: Option<Holding>,
    /// After. `None`: it is free.
    pub is: Option<Holding>,
}
