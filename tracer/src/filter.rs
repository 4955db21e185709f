//! Which connections are shown. Filters choose what is shown, never what is counted.
//!
//! The values of one filter are alternatives; the filters themselves must all hold.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use crate::attribution::{Group, Names};
use crate::record::{Call, CloseKind, Process, Record, TransitionRow};
use crate::stream;

/// What to show; an empty list lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ports, of either end.
    pub ports: Vec<u16>,
    /// Networks of the local end.
    pub local: Vec<Network>,
    /// Networks of the other end.
    pub peer: Vec<Network>,
    /// Inodes of network namespaces.
    pub netns: Vec<u32>,
    /// Paths of control groups, each with all that is below it.
    pub cgroups: Vec<CgroupPath>,
    /// Names of a thread or process that opened or closed the connection.
    pub comms: Vec<Comm>,
    /// Verdicts; transitions have none and are not asked.
    pub kinds: Vec<CloseKind>,
}

impl Filter {
    /// Whether everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it asks for something that only [`Names`] tell.
    #[must_use]
    pub fn needs_names(&self) -> bool {
        !self.cgroups.is_empty()
    }

    /// Whether `record` is shown. It is decided on what is known: what was never seen is in no
    /// network, is no port and belongs to no control group.
    #[must_use]
    pub fn matches_record(&self, record: &Record, names: &Names) -> bool {
        let Flow { local, peer } = record.flow;
        passes(&self.kinds, |kind| *kind == record.close.kind)
            && passes(&self.netns, |inode| *inode == record.netns)
            && passes(&self.ports, |port| [local.port, peer.port].contains(port))
            && passes(&self.local, |network| network.contains(local.address))
            && passes(&self.peer, |network| network.contains(peer.address))
            && passes(&self.comms, |comm| {
                comm.names(&record.opener) || comm.names(&record.closer)
            })
            && passes(&self.cgroups, |path| {
                names.group_of(record).is_some_and(|group| path.has(group))
            })
    }

    /// Whether a route is shown, one of whose local ports is what `holds` says.
    #[must_use]
    pub fn matches_route(
        &self,
        netns: u32,
        source: IpAddr,
        destination: Endpoint,
        holds: impl Fn(u16) -> bool,
    ) -> bool {
        passes(&self.netns, |inode| *inode == netns)
            && passes(&self.ports, |port| {
                *port == destination.port || holds(*port)
            })
            && passes(&self.local, |network| network.contains(source))
            && passes(&self.peer, |network| network.contains(destination.address))
    }

    /// Whether `row` is shown. A port or address that is not known yet passes, since it may turn
    /// out to be the one asked for; a listener has no peer that could. A control group must be known.
    #[must_use]
    pub fn matches_transition(&self, row: &TransitionRow, names: &Names) -> bool {
        let Flow { local, peer } = row.flow;
        let has_peer =
            row.to != TcpState::Listen && (row.from, row.to) != (TcpState::Listen, TcpState::Close);
        let may_be_port = |end: Endpoint, port: u16| end.port == port || end.port == 0;
        let may_be_in = |end: Endpoint, net: &Network| {
            end.address.is_unspecified() || net.contains(end.address)
        };

        passes(&self.netns, |inode| *inode == row.netns)
            && passes(&self.ports, |port| {
                may_be_port(local, *port) || (has_peer && may_be_port(peer, *port))
            })
            && passes(&self.local, |network| may_be_in(local, network))
            && passes(&self.peer, |network| has_peer && may_be_in(peer, network))
            && passes(&self.comms, |comm| comm.names(&row.process))
            && passes(&self.cgroups, |path| {
                let group = names.group(row.cgroup_id, &[row.process.pid]);
                group.is_some_and(|group| path.has(group))
            })
    }

    /// Whether `call` is shown. As with transitions, what is not known passes: a socket() that
    /// failed has no namespace, port or address.
    #[must_use]
    pub fn matches_call(&self, call: &Call) -> bool {
        let Flow { local, peer } = call.flow;
        let asked = call.failed.address.map_or(UNKNOWN_END, |asked| Endpoint {
            address: asked.ip(),
            port: asked.port(),
        });
        let (local, peer) = match call.failed.call {
            stream::Call::Connect => (local, asked),
            stream::Call::Bind => (asked, peer),
            stream::Call::Socket | stream::Call::Accept => (local, peer),
        };
        let may_be_in = |end: Endpoint, net: &Network| {
            end.address.is_unspecified() || net.contains(end.address)
        };

        passes(&self.netns, |inode| call.netns == 0 || *inode == call.netns)
            && passes(&self.ports, |port| {
                [local.port, peer.port].contains(port) || (local.port, peer.port) == (0, 0)
            })
            && passes(&self.local, |network| may_be_in(local, network))
            && passes(&self.peer, |network| may_be_in(peer, network))
            && passes(&self.comms, |comm| {
                [&call.failed.comm, &call.failed.name]
                    .into_iter()
                    .any(|name| until_nul(name) == comm.0)
            })
    }

    /// Whether something is shown that has these ends, an address and a port each, and belongs to a
    /// program of this name and group, as far as it has any of them. Kinds of closes are not asked
    /// for.
    #[must_use]
    pub fn matches_ends(
        &self,
        netns: Option<u32>,
        local: (Option<IpAddr>, Option<u16>),
        peer: (Option<IpAddr>, Option<u16>),
        name: Option<[u8; 16]>,
        group: Option<&Group>,
    ) -> bool {
        let process = Process {
            name,
            ..Process::default()
        };
        let is_in = |net: &Network, end: Option<IpAddr>| end.is_some_and(|end| net.contains(end));
        passes(&self.netns, |inode| Some(*inode) == netns)
            && passes(&self.ports, |port| [local.1, peer.1].contains(&Some(*port)))
            && passes(&self.local, |network| is_in(network, local.0))
            && passes(&self.peer, |network| is_in(network, peer.0))
            && passes(&self.comms, |comm| comm.names(&process))
            && passes(&self.cgroups, |path| {
                group.is_some_and(|group| path.has(group))
            })
    }
}

const UNKNOWN_END: Endpoint = Endpoint {
    address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    port: 0,
};

fn passes<T>(wanted: &[T], is: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(is)
}

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether `address` is in it. The unspecified address means "not known" and is in none.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        !address.is_unspecified() && self.0.contains(&address)
    }
}

/// The text is neither a network nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address (10.0.0.9, 2001:db8::1) or a network (10.0.0.0/8, 2001:db8::/32)")]
pub struct InvalidNetwork;

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// A v4-mapped network is the IPv4 one, as in a record.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        const MAPPED_BITS: u8 = 96;

        let network = match text.parse::<IpNet>() {
            Ok(network) => network,
            Err(_) => text.parse::<IpAddr>().map_err(|_| InvalidNetwork)?.into(),
        };
        let mapped = match network {
            IpNet::V6(network) if network.prefix_len() >= MAPPED_BITS => network
                .network()
                .to_ipv4_mapped()
                .and_then(|address| Ipv4Net::new(address, network.prefix_len() - MAPPED_BITS).ok()),
            _ => None,
        };
        Ok(Self(mapped.map_or(network, IpNet::V4)))
    }
}

/// The name of a thread or process as the kernel keeps it: at most 15 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comm(Vec<u8>);

impl Comm {
    /// TASK_COMM_LEN less the NUL: the kernel cuts longer names off there.
    const MAX: usize = 15;

    fn names(&self, process: &Process) -> bool {
        [&process.comm, &process.name]
            .into_iter()
            .flatten()
            .any(|name| until_nul(name) == self.0)
    }
}

impl From<&str> for Comm {
    /// A longer name is cut as the kernel cuts it.
    fn from(name: &str) -> Self {
        Self(name.bytes().take(Self::MAX).collect())
    }
}

/// The path of a control group, which stands for the groups below it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath(String);

impl CgroupPath {
    fn has(&self, group: &Group) -> bool {
        let below = group.path.strip_prefix(&*self.0);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }
}

/// The text is not the path of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a path below the hierarchy's root, such as /system.slice/nginx.service")]
pub struct InvalidCgroupPath;

impl FromStr for CgroupPath {
    type Err = InvalidCgroupPath;

    /// A slash at the end says nothing.
    fn from_str(text: &str) -> Result<Self, InvalidCgroupPath> {
        match text.starts_with('/') {
            true => Ok(Self(text.trim_end_matches('/').to_owned())),
            false => Err(InvalidCgroupPath),
        }
    }
}

/// The bytes of a NUL-padded name.
pub(crate) fn until_nul(name: &[u8; 16]) -> &[u8] {
    let end = name.iter().position(|byte| *byte == 0);
    &name[..end.unwrap_or(name.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        let network: Network = network.parse().unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_may_be_a_bare_address_and_may_have_host_bits() {
        assert!(contains("10.0.0.9", "10.0.0.9"));
        assert!(!contains("10.0.0.9", "10.0.0.10"));
        assert!(contains("10.1.2.3/8", "10.200.0.1"));
        assert!(contains("2001:db8::1", "2001:db8::1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1"));
        assert!(!contains("10.0.0.0/8", "2001:db8::1"));
        assert_eq!("10.0.0.0/33".parse::<Network>(), Err(InvalidNetwork));
        assert_eq!("example.org".parse::<Network>(), Err(InvalidNetwork));
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_one() {
        assert!(contains("::ffff:10.0.0.9", "10.0.0.9"));
        assert!(contains("::ffff:10.0.0.0/104", "10.200.0.1"));
        assert!(!contains("::ffff:10.0.0.0/104", "11.0.0.1"));
    }

    #[test]
    fn what_is_not_known_is_in_no_network() {
        assert!(!contains("0.0.0.0/0", "0.0.0.0"));
        assert!(!contains("::/0", "::"));
        assert!(contains("0.0.0.0/0", "10.0.0.1"));
    }

    #[test]
    fn a_cgroups_path_stands_for_what_is_below_it() {
        let has = |path: &str, group: &str| {
            let path: CgroupPath = path.parse().unwrap();
            path.has(&Group::new(group))
        };
        assert!(has("/system.slice", "/system.slice"));
        assert!(has("/system.slice", "/system.slice/nginx.service"));
        assert!(has("/system.slice/", "/system.slice/nginx.service"));
        assert!(!has("/system.slice/nginx", "/system.slice/nginx.service"));
        assert!(!has("/system.slice/nginx.service", "/system.slice"));
        assert!(has("/", "/system.slice"));
        assert!(has("/", "/"));
        assert_eq!("nginx".parse::<CgroupPath>(), Err(InvalidCgroupPath));
        assert_eq!("".parse::<CgroupPath>(), Err(InvalidCgroupPath));
    }

    #[test]
    fn a_long_name_is_cut_as_the_kernel_cuts_it() {
        let process = Process {
            comm: Some(*b"a-name-of-sixte\0"),
            ..Process::default()
        };
        assert!(Comm::from("a-name-of-sixteen-and-more").names(&process));
        assert!(!Comm::from("a-name-of-sixt").names(&process));
    }
}
