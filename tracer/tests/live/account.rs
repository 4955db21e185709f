//! The books of a load: what the records say, held against the kernel's counters.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel::Counters;
use crate::lines::Finished;
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::{Endpoint, Record};
use crate::witness::{Hidden, assert_differs_at_most, assert_lacks_at_most};

/// The ring for a load. Two processors that are wholly taken by a long one leave the tracer too
/// little to keep up with writing every line: it must have room for what waits. The short ones fit
/// the default.
pub fn ring(long: bool) -> &'static str {
    if long { "--buffer 256MiB" } else { "" }
}

/// What a load runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// One namespace's loopback.
    Loopback,
    /// Two namespaces and a veth pair.
    Veth,
    /// The same with RPS: softirqs interrupt the tracer's programs.
    VethSpread,
}

/// The namespaces of a load.
pub enum Stage {
    /// Client and server in one.
    Lone(Namespace),
    /// Client in the first, server in the second.
    Veth(VethPair),
}

impl Stage {
    /// Makes them, with room for as many minisockets as a load leaves.
    pub fn new(network: Network) -> Self {
        let stage = match network {
            Network::Loopback => Self::Lone(Namespace::new()),
            Network::Veth | Network::VethSpread => Self::Veth(VethPair::new()),
        };
        for namespace in stage.namespaces() {
            namespace.sysctl("net.ipv4.tcp_max_tw_buckets", "2000000");
        }
        if let (Network::VethSpread, Self::Veth(pair)) = (network, &stage) {
            pair.first.spread_receive("veth0");
            pair.second.spread_receive("veth1");
        }
        stage
    }

    /// Where the clients live.
    pub fn client(&self) -> &Namespace {
        match self {
            Self::Lone(namespace) => namespace,
            Self::Veth(pair) => &pair.first,
        }
    }

    /// Where the server lives.
    pub fn server(&self) -> &Namespace {
        match self {
            Self::Lone(namespace) => namespace,
            Self::Veth(pair) => &pair.second,
        }
    }

    /// Each namespace once.
    pub fn namespaces(&self) -> Vec<&Namespace> {
        match self {
            Self::Lone(namespace) => vec![namespace],
            Self::Veth(pair) => vec![&pair.first, &pair.second],
        }
    }

    /// Waits until no full socket of IPv4 is left. An ACK and the FIN behind it that two processors
    /// handle can pass each other: the kernel drops the FIN at a socket that the ACK has just closed
    /// for a minisocket, and the peer is in LAST_ACK until it sends it again, 0.2 s later.
    pub fn wait_until_all_are_closed(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        for namespace in self.namespaces() {
            while namespace.counters().of("inuse") > 0 {
                assert!(Instant::now() < deadline, "sockets are left");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The counters of all namespaces of a load, from its beginning.
pub struct Books<'a> {
    namespaces: Vec<&'a Namespace>,
    before: Vec<Counters>,
}

/// How much they grew, all namespaces together.
#[derive(Debug)]
pub struct Growth {
    pub active_opens: i64,
    pub passive_opens: i64,
    pub minisockets: i64,
    pub recycled: i64,
    pub established_resets: i64,
    /// RSTs sent.
    pub resets: i64,
    /// Minisockets alive now.
    pub alive: i64,
}

impl<'a> Books<'a> {
    /// Opens them.
    pub fn open(stage: &'a Stage) -> Self {
        let namespaces = stage.namespaces();
        let before = namespaces.iter().map(|namespace| namespace.counters());
        Self {
            before: before.collect(),
            namespaces,
        }
    }

    /// Reads them now.
    pub fn growth(&self) -> Growth {
        let now: Vec<Counters> = self
            .namespaces
            .iter()
            .map(|namespace| namespace.counters())
            .collect();
        let since = |name: &str| -> i64 {
            let pairs = now.iter().zip(&self.before);
            pairs.map(|(now, before)| now.since(before, name)).sum()
        };
        Growth {
            active_opens: since("ActiveOpens"),
            passive_opens: since("PassiveOpens"),
            minisockets: since("TW") + since("TWKilled"),
            recycled: since("TWRecycled"),
            established_resets: since("EstabResets"),
            resets: since("OutRsts"),
            alive: now.iter().map(|counters| counters.of("tw")).sum(),
        }
    }
}

/// What the records of a load add up to.
#[derive(Debug)]
pub struct Sum {
    pub clients: i64,
    pub servers: i64,
    pub no_port: i64,
    pub minisockets: i64,
    pub minisockets_ended: i64,
    pub reused_by_connect: i64,
    /// Full sockets that sent an RST.
    pub resets: i64,
    /// TIME_WAITs that an RST ended.
    pub ended_by_reset: i64,
    pub established_resets: i64,
    /// How many of which verdict, by role.
    pub verdicts: BTreeMap<(String, String), u64>,
}

impl Sum {
    /// Adds them up. Minisockets are counted by `close` lines, at once: when the verdict falls,
    /// the minisocket of an orderly close has been seen. `end` lines come up to a minute later.
    pub fn of(finished: &Finished) -> Self {
        let count = |is: &dyn Fn(&Record) -> bool| -> i64 {
            let found = finished.lines.verdicts().filter(|record| is(record));
            i64::try_from(found.count()).expect("fewer than 2^63")
        };
        let ended = |is: &dyn Fn(&Record) -> bool| -> i64 {
            let found = finished.lines.ends.iter().filter(|record| is(record));
            i64::try_from(found.count()).expect("fewer than 2^63")
        };
        let has_no_port = |record: &Record| record.close.cause.as_deref() == Some("no_port");
        let mut verdicts = BTreeMap::new();
        for record in finished.lines.verdicts() {
            let role_and_verdict = (record.role.clone(), record.verdict());
            *verdicts.entry(role_and_verdict).or_default() += 1;
        }
        Self {
            clients: count(&|record| record.role == "client" && !has_no_port(record)),
            servers: count(&|record| record.role == "server"),
            no_port: count(&has_no_port),
            minisockets: count(&Record::has_minisocket),
            minisockets_ended: ended(&Record::has_minisocket),
            reused_by_connect: ended(&|record| {
                record.time_wait_exit() == Some("reused_by_connect")
            }),
            resets: count(&|record| record.close.kind == "reset_sent"),
            ended_by_reset: ended(&|record| record.time_wait_exit() == Some("reset")),
            established_resets: count(&|record| {
                record.states.last().is_some_and(|last| {
                    ["ESTABLISHED", "CLOSE_WAIT"].contains(&last.state.as_str())
                })
            }),
            verdicts,
        }
    }

    /// How many RSTs may have ended a TIME_WAIT unseen: where the kernel does not show the segments
    /// that minisockets handle, all but those that full sockets sent.
    pub fn unseen_resets(&self, kernel: &Growth, sees_segments: bool) -> i64 {
        if sees_segments {
            0
        } else {
            kernel.resets - self.resets
        }
    }

    /// Holds them against the kernel's counters, but for what was hidden.
    pub fn assert_agrees_with(&self, kernel: &Growth, hidden: &Hidden) {
        let (transitions, events) = (hidden.transitions, hidden.events());
        let alive = self.minisockets - self.minisockets_ended;
        assert_lacks_at_most(
            "ActiveOpens",
            self.clients,
            kernel.active_opens,
            transitions,
        );
        assert_lacks_at_most(
            "PassiveOpens",
            self.servers,
            kernel.passive_opens,
            transitions,
        );
        assert_lacks_at_most(
            "TW + TWKilled",
            self.minisockets,
            kernel.minisockets,
            events,
        );
        assert_lacks_at_most(
            "TWRecycled",
            self.reused_by_connect,
            kernel.recycled,
            events,
        );
        assert_differs_at_most(
            "EstabResets",
            self.established_resets,
            kernel.established_resets,
            transitions,
        );
        assert!(
            self.ended_by_reset <= kernel.resets,
            "{} TIME_WAITs ended by {} RSTs",
            self.ended_by_reset,
            kernel.resets
        );
        assert_differs_at_most("tw alive", alive, kernel.alive, events);
    }
}

/// Puts the two ends of each connection side by side and counts the pairs of kinds. Both ends
/// closing first, or both last, is impossible. Where an event of either was hidden, one end may be
/// missing, so that what came over the same ports at other times takes its place.
pub fn assert_both_ends_agree(
    finished: &Finished,
    hidden: &Hidden,
) -> BTreeMap<(String, String), u64> {
    type Ends<'a> = [Vec<&'a Record>; 2];
    let mut connections: BTreeMap<(Endpoint, Endpoint), Ends> = BTreeMap::new();
    for record in finished.lines.verdicts() {
        match record.role.as_str() {
            "client" if record.path().contains(&"ESTABLISHED") => {
                connections.entry((record.local, record.peer)).or_default()[0].push(record);
            }
            "server" => {
                connections.entry((record.peer, record.local)).or_default()[1].push(record);
            }
            _ => {}
        }
    }
    let mut pairs = BTreeMap::new();
    for (tuple, [mut clients, mut servers]) in connections {
        let certain = !hidden.is_about(tuple.0, tuple.1) && !hidden.is_about(tuple.1, tuple.0);
        assert!(
            clients.len() == servers.len() || !certain,
            "ends of {tuple:?}: {} and {}",
            clients.len(),
            servers.len()
        );
        // A tuple that was used again: its connections come one after the other. Not in the order
        // of their openings: a connect() that is interrupted before it chooses its port may take one
        // that another has had meanwhile.
        clients.sort_by_key(|record| record.arrival_in("ESTABLISHED"));
        servers.sort_by_key(|record| record.arrival_in("ESTABLISHED"));
        for (client, server) in clients.into_iter().zip(servers) {
            let kinds = (client.close.kind.clone(), server.close.kind.clone());
            let impossible = kinds.0 == kinds.1 && ["active", "passive"].contains(&&*kinds.0);
            assert!(!impossible || !certain, "{client:#?} {server:#?}");
            *pairs.entry(kinds).or_default() += 1;
        }
    }
    pairs
}
