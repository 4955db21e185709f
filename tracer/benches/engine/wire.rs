//! The records of a connection as the kernel side puts them into the ring.

use std::mem::size_of;
use std::slice;

use tracer_common::event::{
    Close, CloseFacts, Header, Kind, Minisocket, Task, Transition, V4, V6, flags, marks,
};
use tracer_common::tcp::TcpState;

/// Processors of the host that is traced.
pub const PROCESSORS: usize = 64;
/// Ports that connect() chooses from, as by default.
const EPHEMERAL: (u64, u64) = (32_768, 28_232);
/// Ports that are listened on.
pub const LISTENED: [u16; 8] = [8000, 8001, 8002, 8003, 8004, 8005, 8006, 8007];
/// Numbers of listeners lie below, those of connections from here on.
pub const FIRST: u64 = 64;

/// Who a connection is: all of it follows from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(pub u64);

impl Identity {
    pub fn is_server(self) -> bool {
        self.0 & 1 != 0
    }

    pub fn is_v6(self) -> bool {
        self.0 & 2 != 0
    }

    pub fn cpu(self) -> u16 {
        (self.0 >> 2) as u16 % PROCESSORS as u16
    }

    pub fn cookie(self) -> u64 {
        self.0
    }

    /// As the slab allocator lays them.
    fn socket(self) -> u64 {
        0xffff_8880_0000_0000 + (self.0 & 0x3ff_ffff) * 2_368
    }

    fn minisocket(self) -> u64 {
        0xffff_8900_0000_0000 + (self.0 & 0x3ff_ffff) * 280
    }

    /// Local and peer.
    pub fn ports(self) -> (u16, u16) {
        let ephemeral = (EPHEMERAL.0 + self.0 % EPHEMERAL.1) as u16;
        let service = LISTENED[(self.far() % 8) as usize];
        if self.is_server() {
            (service, ephemeral)
        } else {
            (ephemeral, service)
        }
    }

    /// Number of the other host: as many as the ports ask for.
    fn far(self) -> u64 {
        self.0 / EPHEMERAL.1
    }

    /// A name that no other connection's thread has.
    pub fn comm(self) -> [u8; 16] {
        let mut comm = *b"w-0000000000000\0";
        let mut rest = self.0;
        for byte in comm[2..15].iter_mut().rev() {
            *byte = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        comm
    }

    /// One of some dozens.
    fn name(self) -> [u8; 16] {
        let mut name = *b"service-00\0\0\0\0\0\0";
        let number = (self.0 / 4 % 48) as u8;
        (name[8], name[9]) = (b'0' + number / 10, b'0' + number % 10);
        name
    }

    fn pid(self) -> u32 {
        1_000 + (self.0 / 4 % 4_096) as u32
    }

    pub fn tid(self) -> u32 {
        10_000 + (self.0 & 0x3f_ffff) as u32
    }

    fn cgroup(self) -> u64 {
        5_000 + self.0 / 4 % 48
    }

    fn uid(self) -> u32 {
        1_000 + (self.0 / 4 % 48) as u32
    }
}

/// Addresses of either family.
pub trait Addresses: Copy {
    const FAMILY: u8;
    /// [`Header::flags`] of a socket of the family.
    const FLAGS: u16;
    fn of(identity: Identity) -> Self;
    /// A listener's.
    fn unspecified() -> Self;
}

impl Addresses for V4 {
    const FAMILY: u8 = 4;
    const FLAGS: u16 = 0;

    fn of(identity: Identity) -> Self {
        Self {
            local: [10, 0, 0, 5],
            peer: (0x0a10_0000 + identity.far() as u32).to_be_bytes(),
        }
    }

    fn unspecified() -> Self {
        Self {
            local: [0; 4],
            peer: [0; 4],
        }
    }
}

impl Addresses for V6 {
    const FAMILY: u8 = 6;
    const FLAGS: u16 = flags::SOCKET_V6;

    fn of(identity: Identity) -> Self {
        let address = |subnet: u32, host: u64| {
            let words = [0x2001_0db8, subnet, (host >> 32) as u32, host as u32];
            words.map(u32::to_be)
        };
        Self {
            local: address(0, 5),
            peer: address(1, 0x1000 + identity.far()),
        }
    }

    fn unspecified() -> Self {
        Self {
            local: [0; 4],
            peer: [0; 4],
        }
    }
}

/// The ring: records one behind the other.
pub struct Ring {
    bytes: Vec<u8>,
    numbers: [u32; PROCESSORS],
    records: u64,
}

impl Ring {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            numbers: [0; PROCESSORS],
            records: 0,
        }
    }

    /// What there is now.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it was read.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// How many records were made.
    pub fn records(&self) -> u64 {
        self.records
    }

    pub fn listener<A: Addresses>(&mut self, at: u64, number: u64, port: u16) {
        let identity = Identity(number);
        let edge = (TcpState::Close, TcpState::Listen);
        let header = self.header::<Transition<A>>(Kind::Transition, A::FAMILY, A::FLAGS, at, 0);
        self.push(&Transition {
            header,
            socket: identity.socket(),
            cookie: identity.cookie(),
            old: edge.0.number(),
            new: edge.1.number(),
            detail: 0,
            padding: 0,
            local_port: port,
            peer_port: 0,
            addresses: A::unspecified(),
        });
        self.task(at, identity, edge);
    }

    pub fn transition<A: Addresses>(
        &mut self,
        at: u64,
        identity: Identity,
        edge: (TcpState, TcpState),
        detail: u8,
    ) {
        let made = self.made::<A, Transition<A>>(Kind::Transition, at, identity, edge, detail);
        self.push(&made);
    }

    pub fn close<A: Addresses>(&mut self, at: u64, identity: Identity, from: TcpState) {
        let edge = (from, TcpState::Close);
        let facts = CloseFacts {
            marks: marks::DEAD
                | marks::ALL_ACKED
                | marks::TIMESTAMPS
                | if identity.is_server() { marks::DONE } else { 0 },
            segs_out: 8,
            segs_in: 9,
            srtt_us: 180 + (identity.0 & 63) as u32,
            min_rtt_us: 120,
            bytes_sent: 512 + (identity.0 & 1_023),
            bytes_received: 2_048 + (identity.0 & 8_191),
            cgroup: identity.cgroup(),
            uid: identity.uid(),
            shutdown: 3,
            ..CloseFacts::default()
        };
        let transition = self.made::<A, Close<A>>(Kind::Close, at, identity, edge, 0);
        self.push(&Close { transition, facts });
    }

    pub fn task(&mut self, at: u64, identity: Identity, edge: (TcpState, TcpState)) {
        let header = self.header::<Task>(Kind::Task, 0, 0, at, identity.cpu());
        self.push(&Task {
            header,
            socket: identity.socket(),
            cookie: identity.cookie(),
            pid: identity.pid(),
            tid: identity.tid(),
            uid: identity.uid(),
            old: edge.0.number(),
            new: edge.1.number(),
            padding: 0,
            cgroup: identity.cgroup(),
            comm: identity.comm(),
            name: identity.name(),
        });
    }

    /// What the timer of a TIME_WAIT's minisocket does.
    pub fn timer<A: Addresses>(
        &mut self,
        kind: Kind,
        at: u64,
        identity: Identity,
        (expires, jiffies): (u64, u64),
    ) {
        let marks = A::FLAGS | flags::IN_SOFTIRQ;
        let header = self.header::<Minisocket<A>>(kind, A::FAMILY, marks, at, identity.cpu());
        let (local_port, peer_port) = identity.ports();
        self.push(&Minisocket {
            header,
            socket: identity.minisocket(),
            cookie: identity.cookie(),
            expires,
            jiffies,
            entry_stamp_ms: 0,
            tid: 0,
            substate: TcpState::TimeWait.number(),
            tcp_flags: 0,
            payload: 0,
            local_port,
            peer_port,
            addresses: A::of(identity),
        });
    }

    fn made<A: Addresses, Whole>(
        &mut self,
        kind: Kind,
        at: u64,
        identity: Identity,
        edge: (TcpState, TcpState),
        detail: u8,
    ) -> Transition<A> {
        let header = self.header::<Whole>(kind, A::FAMILY, A::FLAGS, at, identity.cpu());
        let (mut local_port, peer_port) = identity.ports();
        if edge == (TcpState::Close, TcpState::SynSent) {
            local_port = 0;
        }
        Transition {
            header,
            socket: identity.socket(),
            cookie: identity.cookie(),
            old: edge.0.number(),
            new: edge.1.number(),
            detail,
            padding: 0,
            local_port,
            peer_port,
            addresses: A::of(identity),
        }
    }

    fn header<Whole>(&mut self, kind: Kind, family: u8, flags: u16, at: u64, cpu: u16) -> Header {
        let number = &mut self.numbers[usize::from(cpu)];
        let seq = *number;
        *number = seq.wrapping_add(1);
        Header {
            kind: kind as u8,
            family,
            len: size_of::<Whole>() as u16,
            cpu,
            flags,
            seq,
            netns: 4_026_531_840,
            time_ns: at,
            netns_cookie: 1,
        }
    }

    fn push<Whole>(&mut self, record: &Whole) {
        // SAFETY: the records of the wire are repr(C) without padding (their sizes are asserted
        // where they are declared), so that every byte is initialised.
        let bytes = unsafe {
            slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<Whole>())
        };
        self.bytes.extend_from_slice(bytes);
        self.records += 1;
    }
}
