//! Who holds which tuple: told anew whenever it has changed, where somebody keeps account of it.
//!
//! The table notes which connections may have changed; what they hold now is compared with what was
//! told of them last. So no event's handler needs to know of this.

use tracer_common::tcp::{Flow, TcpState};

use super::connection::{Bit, Connection};
use super::lexicon::Lexicon;
use super::names::listening_places;
use super::table::Id;
use super::timewait::Jiffies;
use super::{Engine, Output};
use crate::record::Role;
use crate::record::holding::{Holding, HoldingChange, Owner, Side, Use};

/// What was told of a connection last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    netns: (u64, u32),
    flow: Flow,
    side: Side,
    holding: Holding,
}

impl Told {
    /// The side, where all else follows from the connection as it is.
    pub fn side_alone(
        &self,
        connection: &Connection,
        lexicon: &Lexicon,
        jiffies: Jiffies,
    ) -> Option<Side> {
        let follows = self.flow == connection.flow
            && holding(connection, lexicon, jiffies) == Some(self.holding);
        follows.then_some(self.side)
    }

    /// What was told, where all but the side follows from the connection.
    pub fn again(
        connection: &Connection,
        side: Side,
        lexicon: &Lexicon,
        jiffies: Jiffies,
    ) -> Option<Self> {
        Some(Self {
            netns: (connection.netns_cookie, connection.netns),
            flow: connection.flow,
            side,
            holding: holding(connection, lexicon, jiffies)?,
        })
    }
}

impl Engine {
    /// Tells of all connections that may have changed.
    pub(super) fn tell_holdings(&mut self) {
        while let Some(id) = self.table.next_touched() {
            self.tell_holding(id);
        }
    }

    fn tell_holding(&mut self, id: Id) {
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        let mut told = connection.told().copied();
        let is = holding(connection, self.table.lexicon(), self.jiffies);
        if told.map(|told| told.holding) == is {
            return;
        }
        let flow = connection.flow;
        // An event of ours that was taken for another's has shown other addresses.
        if let Some(old) = told.take_if(|told| !is_same_route(told.flow, flow)) {
            self.push_change(Some(&old), None);
        }
        let Some(connection) = self.table.connection(id) else {
            return;
        };
        let now = is.map(|holding| Told {
            netns: (connection.netns_cookie, connection.netns),
            flow,
            side: told.map_or_else(|| self.side(connection), |told| told.side),
            holding,
        });
        self.push_change(told.as_ref(), now.as_ref());
        self.table.set_told(id, now);
    }

    /// It has left the table.
    pub(super) fn tell_freed(&mut self, connection: &Connection) {
        self.push_change(connection.told(), None);
    }

    fn push_change(&mut self, was: Option<&Told>, is: Option<&Told>) {
        let Some(named) = is.or(was) else {
            return;
        };
        let (netns_cookie, netns) = named.netns;
        self.outputs.push(Output::Holding(Box::new(HoldingChange {
            at: self.now,
            netns,
            netns_cookie,
            flow: named.flow,
            side: named.side,
            was: was.map(|told| told.holding),
            is: is.map(|told| told.holding),
        })));
    }

    fn side(&self, connection: &Connection) -> Side {
        match connection.role {
            Role::Client => Side::Client {
                bound: connection.source_port_bound(),
            },
            Role::Server => Side::Server,
            Role::Listener => Side::Listener,
            Role::Unknown if self.has_listener(connection) => Side::Server,
            Role::Unknown => Side::Client { bound: None },
        }
    }

    /// Whether something listens where `connection` has its local end.
    fn has_listener(&self, connection: &Connection) -> bool {
        let netns = connection.netns_cookie;
        listening_places(connection.flow.local)
            .any(|local| self.table.listeners(netns, local).next().is_some())
    }
}

/// Whether both name the same tuple, whose local port may not have been known before.
fn is_same_route(one: Flow, other: Flow) -> bool {
    (one.local.address, one.peer) == (other.local.address, other.peer)
}

/// How `connection` holds its tuple now. `None`: not at all, or too little is known of the tuple.
fn holding(connection: &Connection, lexicon: &Lexicon, jiffies: Jiffies) -> Option<Holding> {
    let flow = connection.flow;
    let is_listener = connection.role == Role::Listener;
    let is_named = !connection.is(Bit::Unnamed)
        && !flow.local.address.is_unspecified()
        && !flow.peer.address.is_unspecified()
        && flow.peer.port != 0;
    if !is_named && !is_listener {
        return None;
    }
    let minisocket = connection.minisocket();
    let (by, since, ends_at) = match minisocket.filter(|minisocket| minisocket.is_alive()) {
        Some(minisocket) => {
            let ends_at = Some(minisocket.nominal_end(jiffies));
            match minisocket.entry {
                Some(entry) => (Use::TimeWait, Some(entry.at), ends_at),
                None => {
                    let since = connection.timeline.arrival(TcpState::FinWait2);
                    (Use::FinWait2, since, ends_at)
                }
            }
        }
        None if connection.is_open() => {
            let state = connection.state?;
            let arrival = connection.timeline.current(state);
            let since = match state {
                TcpState::CloseWait => arrival.or(connection.close_wait_since()),
                _ => arrival,
            };
            (use_of(state)?, since, None)
        }
        None => return None,
    };
    Some(Holding {
        by,
        owner: Owner {
            process: lexicon.tell(&connection.opener),
            cgroup_id: connection.cgroup_id(),
        },
        port: flow.local.port,
        since,
        ends_at,
    })
}

const fn use_of(state: TcpState) -> Option<Use> {
    match state {
        TcpState::Listen => Some(Use::Listening),
        TcpState::SynSent | TcpState::SynRecv => Some(Use::Connecting),
        TcpState::Established => Some(Use::Established),
        TcpState::CloseWait => Some(Use::CloseWait),
        TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck => Some(Use::Closing),
        TcpState::FinWait2 => Some(Use::FinWait2),
        TcpState::TimeWait => Some(Use::TimeWait),
        TcpState::Close => None,
    }
}
