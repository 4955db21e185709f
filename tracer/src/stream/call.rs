use std::net::SocketAddr;

use tracer_common::tcp::TcpState;

/// A system call on TCP sockets that failed at once, as it returned.
///
/// Only those are told whose failure the state changes do not tell, or not exactly. A connect() that
/// goes on (EINPROGRESS) has not failed. Calls made through io_uring do not come by here, nor
/// those of 32-bit programs on a 64-bit kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedCall {
    /// Which call.
    pub call: Call,
    /// Its errno, positive.
    pub errno: u16,
    /// The address that was asked for: where to connect, or what to bind. `None`: the call has
    /// none, or it could not be read.
    pub address: Option<SocketAddr>,
    /// State of the socket as the call returned; `None`: there is no socket (EMFILE).
    pub state: Option<TcpState>,
    /// Process (tgid) in the host's namespace.
    pub pid: u32,
    /// Thread in the host's namespace.
    pub tid: u32,
    /// The thread's name, NUL-padded: the user's bytes, to be escaped where they are shown.
    pub comm: [u8; 16],
    /// The process's name, NUL-padded.
    pub name: [u8; 16],
}

/// A system call that can fail for reasons that a diagnosis wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// connect().
    Connect,
    /// bind().
    Bind,
    /// socket(): told for EMFILE, ENFILE, ENOBUFS and ENOMEM alone, of any family.
    Socket,
    /// accept() and accept4(): told for the same.
    Accept,
}

impl Call {
    /// As a manual page names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
            Self::Socket => "socket",
            Self::Accept => "accept",
        }
    }
}
