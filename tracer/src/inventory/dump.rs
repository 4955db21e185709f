//! The walk over one namespace's sockets.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use tracer_common::tcp::TcpState;

use crate::clock;
use crate::stream::{Found, Holder, Inventory};
use crate::time::Timestamp;

use super::answer::{AnswerError, read_batch};
use super::budget::Budget;

/// The kernel writes parts of an answer as large as the buffer that they are read into, up to
/// 32 KiB. It writes a part when the one before it is read, so the queue is never full.
const BUFFER: usize = 64 << 10;

/// Why a namespace cannot be dumped, or not to the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum DumpError {
    /// No socket to ask with.
    #[error("failed to open a sock_diag socket: {0}")]
    Open(io::Error),
    /// Linux before 5.14.
    #[error("the kernel does not tell the namespace's cookie: {0}")]
    NoCookie(io::Error),
    /// The question was not taken, or no answer came.
    #[error("failed to ask sock_diag: {0}")]
    Ask(io::Error),
    /// The answer is of no use.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The kernel says that the walk was disturbed.
    #[error("the walk was disturbed")]
    Disturbed,
    /// The sweep has used what it may.
    #[error("{0}")]
    Budget(String),
}

/// A socket for questions about the network namespace that the thread was in when it was opened.
pub(super) struct SockDiag {
    socket: Socket,
    netns_cookie: u64,
}

impl SockDiag {
    /// Opens one.
    pub fn open() -> Result<Self, DumpError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(DumpError::Open)?;
        socket.bind_auto().map_err(DumpError::Open)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(DumpError::Open)?;
        Ok(Self {
            netns_cookie: netns_cookie(&socket).map_err(DumpError::NoCookie)?,
            socket,
        })
    }

    /// Walks over the sockets of the namespace with this inode. What was found before an error
    /// counts.
    pub fn dump(&self, netns: u32, budget: &Budget) -> (Inventory, Result<(), DumpError>) {
        let mut inventory = self.nothing(netns);
        // A kernel without IPv6 answers the second question too: with nothing.
        let result = [AF_INET, AF_INET6].into_iter().try_for_each(|family| {
            // Sockets in CLOSE are bound at most.
            let states = StateFlags::all() - StateFlags::CLOSE;
            let question = question(family, states, ExtensionFlags::empty());
            self.walk(&question, &mut inventory.found, budget)
        });
        self.ask_for_silence(&mut inventory.found, budget);
        inventory.until = clock::monotonic();
        inventory.whole = result.is_ok();
        (inventory, result)
    }

    /// Asks how long ago the peers of sockets in CLOSE_WAIT were heard of: a second question, of
    /// these alone, because a socket's whole statistics make an answer several times as long. What
    /// is not answered stays unknown.
    fn ask_for_silence(&self, found: &mut [Found], budget: &Budget) {
        for family in [AF_INET, AF_INET6] {
            let is_asked = |found: &&mut Found| {
                found.socket_is_v6 == (family == AF_INET6)
                    && matches!(found.holder, Holder::Socket { state, .. } if state == TcpState::CloseWait)
            };
            let mut asked = found.iter_mut().filter(is_asked).peekable();
            if asked.peek().is_none() || budget.is_used_up() {
                continue;
            }
            let mut answers = Vec::new();
            let question = question(family, StateFlags::CLOSE_WAIT, ExtensionFlags::INFO);
            // As far as it came.
            let _ = self.walk(&question, &mut answers, budget);
            let answers: HashMap<u64, Option<Duration>, RandomState> = answers
                .iter()
                .filter_map(|answer| match answer.holder {
                    Holder::Socket { silent_for, .. } => Some((answer.cookie, silent_for)),
                    Holder::Minisocket { .. } => None,
                })
                .collect();
            for found in asked {
                if let Holder::Socket { silent_for, .. } = &mut found.holder {
                    *silent_for = answers.get(&found.cookie).copied().flatten();
                }
            }
        }
    }

    /// The inventory of the namespace with this inode if the kernel counts no socket there.
    pub fn none_counted(&self, netns: u32) -> Option<Inventory> {
        let inventory = self.nothing(netns);
        let count = count_sockets("/proc/thread-self/net")?;
        (count == 0).then(|| Inventory {
            until: clock::monotonic(),
            whole: true,
            ..inventory
        })
    }

    fn nothing(&self, netns: u32) -> Inventory {
        let now = clock::monotonic();
        Inventory {
            netns,
            netns_cookie: self.netns_cookie,
            from: now,
            until: now,
            whole: false,
            found: Vec::new(),
            owners: Vec::new(),
        }
    }

    fn walk(
        &self,
        question: &[u8],
        found: &mut Vec<Found>,
        budget: &Budget,
    ) -> Result<(), DumpError> {
        self.socket.send(question, 0).map_err(DumpError::Ask)?;
        let mut buffer = vec![0; BUFFER];
        let mut is_disturbed = false;
        loop {
            // A part is written while the question is taken or the part before it is read.
            let written: Timestamp = clock::monotonic();
            let length = self
                .socket
                .recv(&mut &mut buffer[..], 0)
                .map_err(DumpError::Ask)?;
            let batch = buffer.get(..length).unwrap_or(&buffer);
            let progress = read_batch(batch, written, found)?;
            is_disturbed |= progress.is_disturbed;
            if progress.has_ended {
                break;
            }
            if budget.is_used_up() {
                return Err(DumpError::Budget(budget.reason()));
            }
        }
        match is_disturbed {
            true => Err(DumpError::Disturbed),
            false => Ok(()),
        }
    }
}

/// How many TCP sockets and minisockets a namespace holds, from its directory `net` in /proc.
/// Request sockets and sockets in CLOSE are not counted.
pub(super) fn count_sockets(net: &str) -> Option<u64> {
    let sockstat = fs::read_to_string(format!("{net}/sockstat")).ok()?;
    // There is none where IPv6 is off.
    let sockstat6 = fs::read_to_string(format!("{net}/sockstat6")).unwrap_or_default();
    let tcp = |text: &str, line: &str, word: &str| -> Option<u64> {
        let mut words = text
            .lines()
            .find_map(|text| text.strip_prefix(line))?
            .split(' ');
        words.find(|found| *found == word)?;
        words.next()?.parse().ok()
    };
    let (v4, v6) = (
        tcp(&sockstat, "TCP:", "inuse")?,
        tcp(&sockstat6, "TCP6:", "inuse").unwrap_or(0),
    );
    Some(v4 + v6 + tcp(&sockstat, "TCP:", "tw")?)
}

fn question(family: u8, states: StateFlags, extensions: ExtensionFlags) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let anybody = match family {
        AF_INET6 => SocketId::new_v6(),
        _ => SocketId::new_v4(),
    };
    let mut message = NetlinkMessage::new(
        header,
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions,
            states,
            socket_id: anybody,
        })
        .into(),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// SO_NETNS_COOKIE of any socket: the cookie of its namespace, as the probes read it.
pub(crate) fn netns_cookie(socket: &Socket) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, and the kernel writes at most `length` bytes into `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}
