//! One TCP segment, or one ICMP error, as bytes of an IP packet and back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket,
    TcpHeader, TcpOptionElement, TransportSlice,
};

/// The routers between us and the kernel, as far as packets show.
const HOPS: u8 = 64;
/// The segment size that our SYNs offer.
const MSS: u16 = 1460;

/// The control bits that scripts name. PSH says nothing here: scripts need not know how the kernel
/// cuts a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub ack: bool,
}

impl Flags {
    /// Sets the bit of this name; false where none has it.
    pub fn set(&mut self, name: &str) -> bool {
        let bit = match name {
            "SYN" => &mut self.syn,
            "FIN" => &mut self.fin,
            "RST" => &mut self.rst,
            "ACK" => &mut self.ack,
            _ => return false,
        };
        *bit = true;
        true
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = [
            (self.syn, "SYN"),
            (self.fin, "FIN"),
            (self.rst, "RST"),
            (self.ack, "ACK"),
        ];
        let names: Vec<_> = bits
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join(" "))
    }
}

/// A segment, with the numbers that stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// Bytes of data.
    pub data: u32,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

impl Segment {
    /// How far it moves the sequence number on.
    pub fn length(&self) -> u32 {
        self.data + u32::from(self.flags.syn) + u32::from(self.flags.fin)
    }

    /// The packet.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut header = TcpHeader::new(self.from.port(), self.to.port(), self.seq, self.window);
        header.syn = self.flags.syn;
        header.fin = self.flags.fin;
        header.rst = self.flags.rst;
        header.ack = self.flags.ack;
        header.psh = self.data > 0;
        header.acknowledgment_number = self.ack;
        let mut options = Vec::new();
        if self.flags.syn {
            options.push(TcpOptionElement::MaximumSegmentSize(MSS));
        }
        if let Some((value, echo)) = self.timestamps {
            options.push(TcpOptionElement::Timestamp(value, echo));
        }
        header
            .set_options(&options)
            .expect("two options fit into a header");
        let data = vec![b'.'; self.data as usize];
        let builder = ip(self.from.ip(), self.to.ip()).tcp_header(header);
        let mut bytes = Vec::with_capacity(builder.size(data.len()));
        builder
            .write(&mut bytes, &data)
            .expect("a small segment fits into a packet");
        bytes
    }

    /// The segment of a packet; `None`: it holds something else.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let (from, to): (IpAddr, IpAddr) = match sliced.net? {
            NetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => return None,
        };
        let TransportSlice::Tcp(tcp) = sliced.transport? else {
            return None;
        };
        let timestamps = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(value, echo)) => Some((value, echo)),
            _ => None,
        });
        Some(Self {
            from: SocketAddr::new(from, tcp.source_port()),
            to: SocketAddr::new(to, tcp.destination_port()),
            flags: Flags {
                syn: tcp.syn(),
                fin: tcp.fin(),
                rst: tcp.rst(),
                ack: tcp.ack(),
            },
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            data: u32::try_from(tcp.payload().len()).ok()?,
            timestamps,
        })
    }
}

/// Why a router or a host says that a segment cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    Host,
    Port,
    Prohibited,
}

impl Unreachable {
    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "host_unreachable" => Self::Host,
            "port_unreachable" => Self::Port,
            "prohibited" => Self::Prohibited,
            _ => return None,
        })
    }

    /// The ICMP error about a packet that the kernel sent.
    pub fn about(self, packet: &[u8]) -> Vec<u8> {
        let segment = Segment::parse(packet).expect("only segments are kept");
        let builder = ip(segment.to.ip(), segment.from.ip());
        let builder = if segment.from.is_ipv4() {
            Icmp::V4(
                builder.icmpv4(Icmpv4Type::DestinationUnreachable(match self {
                    Self::Host => DestUnreachableHeader::Host,
                    Self::Port => DestUnreachableHeader::Port,
                    Self::Prohibited => DestUnreachableHeader::FilterProhibited,
                })),
            )
        } else {
            Icmp::V6(
                builder.icmpv6(Icmpv6Type::DestinationUnreachable(match self {
                    Self::Host => DestUnreachableCode::Address,
                    Self::Port => DestUnreachableCode::Port,
                    Self::Prohibited => DestUnreachableCode::Prohibited,
                })),
            )
        };
        let mut bytes = Vec::new();
        match builder {
            Icmp::V4(builder) => builder.write(&mut bytes, packet),
            Icmp::V6(builder) => builder.write(&mut bytes, packet),
        }
        .expect("a quoted segment fits into a packet");
        bytes
    }
}

enum Icmp {
    V4(PacketBuilderStep<etherparse::Icmpv4Header>),
    V6(PacketBuilderStep<etherparse::Icmpv6Header>),
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOPS),
        mixed => panic!("both ends of a segment have one family: {mixed:?}"),
    }
}

#[test]
fn a_segment_is_read_back_as_it_was_built() {
    for (from, to) in [
        ("10.99.1.1:7000", "10.99.0.1:40000"),
        ("[fd99::1:1]:7000", "[fd99::1]:40000"),
    ] {
        let segment = Segment {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            flags: Flags {
                syn: true,
                ack: true,
                ..Flags::default()
            },
            seq: 7,
            ack: u32::MAX,
            window: 1000,
            data: 10,
            timestamps: Some((1, 2)),
        };
        assert_eq!(Segment::parse(&segment.to_bytes()), Some(segment));
    }
}
