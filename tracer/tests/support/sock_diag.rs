//! What sock_diag says of one tuple, asked again and again: an account of a minisocket's life
//! that owes nothing to our own hooks.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags, Timer};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use crate::kernel::{Wall, wall};
use crate::namespace::Namespace;

/// The request to end a socket (linux/sock_diag.h).
const SOCK_DESTROY: u16 = 21;

/// What holds a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nothing.
    Nobody,
    /// A full socket in this state (the kernel's number).
    Socket(u8),
    /// A minisocket in this substate: 5 FIN_WAIT2, 6 TIME_WAIT.
    Minisocket(u8),
}

/// A minisocket that waits for the peer's FIN.
pub const FIN_WAIT2: Holder = Holder::Minisocket(5);
/// A minisocket in TIME_WAIT.
pub const TIME_WAIT: Holder = Holder::Minisocket(6);

/// A query socket in one network namespace.
pub struct SockDiag {
    socket: Socket,
}

impl SockDiag {
    /// Opens one there.
    pub fn new(namespace: &Namespace) -> Self {
        let socket = namespace.run(|| {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG).expect("open a sock_diag socket");
            socket.bind_auto().expect("bind the sock_diag socket");
            socket
        });
        socket
            .connect(&NetlinkAddr::new(0, 0))
            .expect("connect to the kernel");
        Self { socket }
    }

    /// Who holds the tuple now. One exact lookup, no walk over the table.
    pub fn holder(&self, local: SocketAddr, peer: SocketAddr) -> Holder {
        match self.ask(None, local, peer) {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                match (found.header.state, &found.header.timer) {
                    // The lookup falls back to who listens there.
                    (TCP_LISTEN, _) => Holder::Nobody,
                    (state, Some(Timer::TimeWait)) => Holder::Minisocket(state),
                    (state, _) => Holder::Socket(state),
                }
            }
            NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Holder::Nobody,
            other => panic!("sock_diag answers {other:?}"),
        }
    }

    /// Ends whatever holds the tuple, as `ss -K` does; the error's number where that fails.
    pub fn destroy(&self, local: SocketAddr, peer: SocketAddr) -> Result<(), i32> {
        match self.ask(Some(SOCK_DESTROY), local, peer) {
            NetlinkPayload::Error(error) if error.raw_code() == 0 => Ok(()),
            NetlinkPayload::Error(error) => Err(-error.raw_code()),
            other => panic!("sock_diag answers {other:?}"),
        }
    }

    /// Asks about one tuple. With a message type of its own, which must be one that is acknowledged.
    fn ask(
        &self,
        acknowledged: Option<u16>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> NetlinkPayload<SockDiagMessage> {
        let (local_ip, peer_ip) = (local.ip().to_canonical(), peer.ip().to_canonical());
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        if acknowledged.is_some() {
            header.flags |= NLM_F_ACK;
        }
        let mut packet = NetlinkMessage::new(
            header,
            SockDiagMessage::InetRequest(InetRequest {
                family: if local_ip.is_ipv4() {
                    AF_INET
                } else {
                    AF_INET6
                },
                protocol: IPPROTO_TCP,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id: SocketId {
                    source_port: local.port(),
                    destination_port: peer.port(),
                    source_address: local_ip,
                    destination_address: peer_ip,
                    interface_id: 0,
                    cookie: [0xff; 8],
                },
            })
            .into(),
        );
        packet.finalize();
        let mut request = vec![0; packet.header.length as usize];
        packet.serialize(&mut request);
        if let Some(kind) = acknowledged {
            // The library knows only the dump's type, which has the same form.
            request[4..6].copy_from_slice(&kind.to_ne_bytes());
        }
        self.socket.send(&request, 0).expect("ask sock_diag");

        let mut answer = [0; 1024];
        let length = self
            .socket
            .recv(&mut &mut answer[..], 0)
            .expect("hear from sock_diag");
        NetlinkMessage::<SockDiagMessage>::deserialize(&answer[..length])
            .expect("understand sock_diag")
            .payload
    }
}

/// A change of a tuple's holder, between two polls.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Who came.
    pub to: Holder,
    /// The old holder was still there after this.
    pub after: Wall,
    /// The new one was there before this.
    pub before: Wall,
}

/// A running poll of one tuple; ends when a minisocket that it saw is gone, or at its deadline.
pub struct Poll(JoinHandle<Vec<Change>>);

impl Poll {
    /// Starts it: closely spaced in the first second, then every few milliseconds.
    pub fn start(
        namespace: &Namespace,
        local: SocketAddr,
        peer: SocketAddr,
        lasting: Duration,
    ) -> Self {
        let diag = SockDiag::new(namespace);
        let started = Instant::now();
        Self(thread::spawn(move || {
            let mut changes: Vec<Change> = Vec::new();
            let mut asked_last = wall();
            while started.elapsed() < lasting {
                let asked = wall();
                let holder = diag.holder(local, peer);
                let answered = wall();
                if changes.last().is_none_or(|change| change.to != holder) {
                    changes.push(Change {
                        to: holder,
                        after: asked_last,
                        before: answered,
                    });
                }
                let had_minisocket = changes
                    .iter()
                    .any(|change| matches!(change.to, Holder::Minisocket(_)));
                if had_minisocket && holder == Holder::Nobody {
                    break;
                }
                asked_last = asked;
                let close_look = started.elapsed() < Duration::from_secs(1);
                thread::sleep(Duration::from_micros(if close_look { 400 } else { 4_000 }));
            }
            changes
        }))
    }

    /// Waits for its end and returns what it saw.
    pub fn changes(self) -> Vec<Change> {
        self.0.join().expect("the poll ends")
    }
}

/// When the tuple came to this holder, if it did.
pub fn change_to(changes: &[Change], holder: Holder) -> Option<&Change> {
    changes.iter().find(|change| change.to == holder)
}
