//! Which connection an event of a full socket belongs to, and the names that it bears: cookie,
//! generation, addresses, and for a passive child its listener's process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer_common::event::flags;
use tracer_common::tcp::{Endpoint, Flow, TcpState};

use super::Engine;
use super::connection::{Bit, Connection};
use super::table::Id;
use crate::record::{Incomplete, Role, Source};
use crate::stream::{Event, Socket};

impl Engine {
    /// The generation of a socket's new connection. Its last one is over, whether we saw that or
    /// not.
    pub(super) fn next_generation(&mut self, event: &Event) -> u32 {
        let (netns, cookie) = (event.netns_cookie, event.socket.cookie);
        if cookie == 0 {
            return 0;
        }
        let last = self.table.by_cookie(netns, cookie, |_| true);
        if let Some(last) = last {
            let generation = self.table.connection(last).map_or(0, |c| c.generation);
            self.give_up_open(last);
            return generation.wrapping_add(1);
        }
        self.ended
            .by_cookie(netns, cookie)
            .map_or(0, |ended| ended.generation.wrapping_add(1))
    }

    /// The connection of a full socket's event, open or closed.
    pub(super) fn find_any(&mut self, event: &Event) -> Option<Id> {
        let (netns, socket) = (event.netns_cookie, &event.socket);
        if socket.cookie != 0
            && let Some(id) = self.table.by_cookie(netns, socket.cookie, |_| true)
        {
            return Some(id);
        }
        self.table.by_child(netns, socket.address).or_else(|| {
            self.table.by_flow(netns, socket.flow, |connection| {
                connection.is_open() && (connection.cookie() == 0 || socket.cookie == 0)
            })
        })
    }

    /// The open connection that an event belongs to, with the names that the event gives; a new one
    /// where its opening was not seen.
    pub(super) fn find_or_adopt(&mut self, event: &Event, from: TcpState) -> Option<Id> {
        if let Some(id) = self.find_any(event)
            && let Some(connection) = self.table.connection(id)
            && connection.is_open()
        {
            if !connection.has_all_names() {
                self.learn_names(id, &event.socket);
            }
            return Some(id);
        }
        if from == TcpState::Close {
            self.totals.impossible += 1;
            return None;
        }
        let mut connection = adopted(event);
        connection.state = Some(from);
        connection.generation = self.next_generation(event);
        if from == TcpState::Listen {
            connection.role = Role::Listener;
        }
        let id = self.take_up(connection)?;
        self.totals.found_open += 1;
        self.totals.open += 1;
        self.on_flow_known(id);
        Some(id)
    }

    /// Takes in the names that an event gives.
    pub(super) fn learn(&mut self, id: Id, socket: &Socket) {
        let connection = self.table.connection(id);
        if connection.is_some_and(|connection| !connection.has_all_names()) {
            self.learn_names(id, socket);
        }
    }

    fn learn_names(&mut self, id: Id, socket: &Socket) {
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        let named = connection.is(Bit::Unnamed);
        let flow = merge(connection.flow, socket.flow);
        let known_now = flow.is_known() && flow != connection.flow;
        let cookie = match connection.cookie() {
            0 => socket.cookie,
            known => known,
        };
        if !named && flow == connection.flow && cookie == connection.cookie() {
            return;
        }
        self.table.name(id, cookie, flow);
        if named {
            self.inherit_opener(id);
            self.row_of_birth(id);
        }
        if known_now {
            self.on_flow_known(id);
        }
    }

    /// A passive child was opened by whoever opened its listener, if that is one and the same: no
    /// surer than that is known. It is in its listener's cgroup, whoever accepts it.
    fn inherit_opener(&mut self, id: Id) {
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        let local = connection.flow.local;
        let netns = connection.netns_cookie;
        let of_listeners = listening_places(local).find_map(|local| {
            let mut listeners = self.table.listeners(netns, local);
            let first = listeners.next()?;
            let mut common = (Some(first.opener), first.cgroup_id());
            for other in listeners {
                common.0 = common.0.filter(|opener| *opener == other.opener);
                common.1 = common.1.filter(|group| Some(*group) == other.cgroup_id());
            }
            Some(common)
        });
        let (Some((opener, cgroup_id)), Some(connection)) =
            (of_listeners, self.table.connection_mut(id))
        else {
            return;
        };
        if connection.cgroup_id().is_none() {
            connection.set_cgroup(cgroup_id.unwrap_or(0));
        }
        let Some(opener) = opener else {
            return;
        };
        let source = match opener.source() {
            Source::Exact | Source::Inherited => Source::Inherited,
            Source::Inferred => Source::Inferred,
            Source::Unknown => return,
        };
        self.table.inherit_opener(id, opener.known_as(source));
    }
}

/// A connection that an event shows without its opening.
pub(super) fn adopted(event: &Event) -> Connection {
    let Socket { cookie, flow, .. } = event.socket;
    let netns = (event.netns_cookie, event.netns);
    let mut connection = Connection::new(netns, cookie, flow);
    if event.flags & flags::SOCKET_V6 != 0 {
        connection.set(Bit::SocketV6);
    }
    connection.lacks(Incomplete::OpeningNotSeen);
    connection
}

/// Where a listener that makes a connection at `local` may listen.
pub(super) fn listening_places(local: Endpoint) -> impl Iterator<Item = Endpoint> {
    let any_v4 = local
        .address
        .is_ipv4()
        .then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let any_v6 = Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    [Some(local.address), any_v4, any_v6]
        .into_iter()
        .flatten()
        .map(move |address| Endpoint { address, ..local })
}

/// What is known of a flow, filled up with what an event says.
fn merge(known: Flow, said: Flow) -> Flow {
    if known.is_known() {
        return known;
    }
    let end = |known: Endpoint, said: Endpoint| Endpoint {
        address: if known.address.is_unspecified() {
            said.address
        } else {
            known.address
        },
        port: if known.port == 0 {
            said.port
        } else {
            known.port
        },
    };
    Flow {
        local: end(known.local, said.local),
        peer: end(known.peer, said.peer),
    }
}
