//! The far end of the wire: a TUN device whose packets we read and write. To the kernel it is a
//! network full of hosts, one for each script.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::namespace::Namespace;
use crate::segment::Segment;

/// Enough for a packet of the device's MTU of 1500.
const PACKET: usize = 2048;

/// Which addresses a script speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The kernel's end.
    pub fn local(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 99, 0, 1).into(),
            Self::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// Where the listener of the script with this number is, at the kernel's end too.
    pub fn listener(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(10, 98, high, low).into(),
            Self::V6 => Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 1, number).into(),
        }
    }

    /// The host of the script with this number.
    pub fn peer(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        assert!(high < 255, "there are 65,279 hosts");
        match self {
            Self::V4 => Ipv4Addr::new(10, 99, high + 1, low).into(),
            Self::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, number).into(),
        }
    }
}

/// A packet that the kernel sent.
pub struct Packet {
    pub segment: Segment,
    pub bytes: Vec<u8>,
}

/// The device, and what has come for each host.
pub struct Wire {
    device: SyncDevice,
    inboxes: HashMap<IpAddr, VecDeque<Packet>>,
}

impl Wire {
    /// Makes the device there, up and with addresses.
    pub fn new(namespace: &Namespace) -> Self {
        let device = namespace.run(|| {
            let device = DeviceBuilder::new().name("wire").build_sync();
            let device = device.unwrap_or_else(|error| panic!("make a TUN device: {error}"));
            device.set_nonblocking(true).expect("do not wait in read()");
            device
        });
        namespace.ip("address add 10.99.0.1/16 dev wire");
        namespace.ip("address add fd99::1/64 dev wire nodad");
        namespace.ip("link set wire up");
        namespace.ip("route add local 10.98.0.0/16 dev lo");
        namespace.ip("-6 route add local fd98::/64 dev lo");
        Self {
            device,
            inboxes: HashMap::new(),
        }
    }

    /// Whether this kernel has TUN devices: what they are opened with.
    pub fn is_possible() -> bool {
        std::path::Path::new("/dev/net/tun").exists()
    }

    /// From now on what is sent to this host is kept.
    pub fn attend(&mut self, host: IpAddr) {
        self.inboxes.insert(host, VecDeque::new());
    }

    /// From now on what is sent to this host is dropped.
    pub fn leave(&mut self, host: IpAddr) {
        self.inboxes.remove(&host);
    }

    /// The oldest packet to this host that fits.
    pub fn take(&mut self, host: IpAddr, fits: impl Fn(&Segment) -> bool) -> Option<Packet> {
        self.read();
        let inbox = self.inboxes.get_mut(&host)?;
        let index = inbox.iter().position(|packet| fits(&packet.segment))?;
        inbox.remove(index)
    }

    /// Puts a packet on the wire. The kernel has dealt with it when this returns, unless a process
    /// held the socket.
    pub fn send(&self, packet: &[u8]) {
        let sent = self.device.send(packet).expect("write to the TUN device");
        assert_eq!(sent, packet.len(), "a packet goes out as a whole");
    }

    /// Returns when a packet has come, and at this time at the latest.
    pub fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        // poll() counts in milliseconds otherwise, and scripts that wait are many.
        let timeout = Timespec::try_from(left.max(Duration::from_micros(50)))
            .expect("scripts wait for seconds");
        let mut polled = [PollFd::new(&self.device, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll the TUN device: {error}"),
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; PACKET];
        loop {
            let length = match self.device.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("read from the TUN device: {error}"),
            };
            let bytes = &buffer[..length];
            // Neighbour and group messages of IPv6 are no script's.
            if let Some(segment) = Segment::parse(bytes)
                && let Some(inbox) = self.inboxes.get_mut(&segment.to.ip())
            {
                inbox.push_back(Packet {
                    segment,
                    bytes: bytes.to_vec(),
                });
            }
        }
    }
}
