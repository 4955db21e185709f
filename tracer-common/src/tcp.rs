//! The TCP states as the kernel numbers and spells them, and the addresses of a connection.

use core::fmt;
use core::net::IpAddr;

/// A state of RFC 9293, section 3.3.2, by the number and name that Linux gives it.
///
/// `NEW_SYN_RECV` (12, a request socket) and `BOUND_INACTIVE` (13, a sock_diag pseudo state) are
/// never seen in a state transition and are left out.
///
/// Source: `include/net/tcp_states.h` at v6.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// Both directions are open.
    Established = 1,
    /// A SYN was sent, no answer yet.
    SynSent = 2,
    /// A SYN was received and answered.
    SynRecv = 3,
    /// We sent a FIN that is not acknowledged yet.
    FinWait1 = 4,
    /// Our FIN is acknowledged; the peer's has not come.
    FinWait2 = 5,
    /// Both FINs are acknowledged; the tuple is held for 60 s.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer sent a FIN; ours is not sent yet.
    CloseWait = 8,
    /// The peer's FIN came first; ours is sent and not acknowledged yet.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both sent a FIN; ours is not acknowledged yet.
    Closing = 11,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// The state with the kernel's number `number`, or `None` for a number that is not a state of
    /// RFC 9293.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        if number >= 1 && number as usize <= Self::ALL.len() {
            Some(Self::ALL[number as usize - 1])
        } else {
            None
        }
    }

    /// The kernel's number of this state.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kernel's name without its `TCP_` prefix, as tcpstates prints it: `FIN_WAIT1`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// The state that [`Self::name`] spells, or `None`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One end of a connection. Port 0 and the unspecified address mean "not known (yet)".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The address; a v4-mapped one is given as IPv4.
    pub address: IpAddr,
    /// The port in host byte order.
    pub port: u16,
}

impl Endpoint {
    /// Whether address and port are both known.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.port != 0 && !self.address.is_unspecified()
    }
}

impl fmt::Display for Endpoint {
    /// `10.0.0.5:40112`, `[2001:db8::1]:443`; what is not known prints as `*`, as `ss` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            address if address.is_unspecified() => f.write_str("*")?,
            IpAddr::V4(address) => write!(f, "{address}")?,
            IpAddr::V6(address) => write!(f, "[{address}]")?,
        }
        match self.port {
            0 => f.write_str(":*"),
            port => write!(f, ":{port}"),
        }
    }
}

/// The addresses of a connection, seen from one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// This socket's end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
}

impl Flow {
    /// Whether all four parts are known, so that the flow names one connection.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.local.is_known() && self.peer.is_known()
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local, self.peer)
    }
}
