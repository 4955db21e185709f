//! Hosts made up by hand, for the tests of rules.

use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tracer_common::tcp::{Endpoint, Flow};

use super::seen::{Listener, NamespaceSeen, Seen};
use super::tallies::CallKey;
use super::traffic::{Ending, Traffic};
use crate::ports::{Program, Route, Service};
use crate::record::holding::{Holding, HoldingChange, Owner, Side, Use};
use crate::record::{CloseCause, CloseKind, Initiator, Process, Source};
use crate::stream::{Call, Counters, Name, NamespaceReading, Settings};
use crate::time::Timestamp;

/// Cookie of the host's own network namespace: the kernel makes that one first.
pub(crate) const HOST: u64 = 1;

/// A host that was watched for 10 s, with the kernel's default settings and nothing on it.
pub(crate) struct Example {
    /// What a rule looks at.
    pub seen: Seen,
    ports: HashMap<Route, u16, RandomState>,
    cookies: u64,
}

/// The program `name`, outside any cgroup; "": one that is not known.
pub(crate) fn program(name: &str) -> Program {
    let padded = (!name.is_empty()).then(|| padded(name.as_bytes()));
    Program {
        name: padded,
        cgroup_id: None,
    }
}

/// `bytes` as the kernel keeps a comm.
pub(crate) fn padded(bytes: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    name[..bytes.len()].copy_from_slice(bytes);
    name
}

/// The only process of `program`.
pub(crate) fn pid(program: &Program) -> u32 {
    let name = program.name.unwrap_or_default();
    name.iter().fold(1_000, |pid, byte| pid + u32::from(*byte))
}

/// From the host's 10.0.0.5 to `destination`, as `10.0.0.9:3306`.
pub(crate) fn route(destination: &str) -> Route {
    let address: std::net::SocketAddr = destination.parse().unwrap();
    let source = match address.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => "10.0.0.5".parse().unwrap(),
        IpAddr::V6(_) => "2001:db8::5".parse().unwrap(),
    };
    Route {
        netns_cookie: HOST,
        source,
        destination: endpoint(destination),
    }
}

/// `10.0.0.9:3306`.
pub(crate) fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint {
        address: address.ip(),
        port: address.port(),
    }
}

/// A port of the host's.
pub(crate) fn service(port: u16) -> Service {
    Service {
        netns_cookie: HOST,
        port,
    }
}

impl Example {
    pub fn new() -> Self {
        let began = Timestamp(1_000_000_000_000);
        let seen = Seen {
            began,
            now: began + Duration::from_secs(10),
            ..Seen::default()
        };
        let (ports, cookies) = (HashMap::default(), 100);
        let mut example = Self {
            seen,
            ports,
            cookies,
        };
        example.netns(HOST, 4_026_531_833, None);
        example
    }

    /// A network namespace with the kernel's default settings.
    pub fn netns(&mut self, cookie: u64, inode: u32, name: Option<&str>) {
        let reading = NamespaceReading {
            at: self.seen.began,
            netns: inode,
            netns_cookie: cookie,
            settings: Settings {
                port_range: Some((32_768, 60_999)),
                tw_reuse: Some(2),
                tw_reuse_delay_ms: Some(1_000),
                timestamps: Some(1),
                max_tw_buckets: Some(131_072),
                fin_timeout_s: Some(60),
                rfc1337: Some(0),
                max_orphans: Some(131_072),
                somaxconn: Some(4_096),
                syn_retries: Some(6),
                ..Settings::default()
            },
            counters: Counters {
                time_wait_overflows: Some(0),
                time_waits_reused: Some(0),
                listen_overflows: Some(0),
                listen_drops: Some(0),
                aborts_on_memory: Some(0),
                active_opens: Some(0),
                passive_opens: Some(0),
                retransmitted: Some(0),
                time_waits: Some(0),
                orphans: Some(0),
                ..Counters::default()
            },
        };
        let latest = NamespaceReading {
            at: self.seen.now,
            ..reading.clone()
        };
        let first = reading;
        let namespace = NamespaceSeen {
            inode,
            first,
            latest,
        };
        self.seen.namespaces.insert(cookie, namespace);
        let name = name.map(str::to_owned);
        self.seen.names.learn(&Name::Netns { inode, name });
    }

    /// The settings of the host's own network namespace now.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.namespace().latest.settings
    }

    /// The counters of the host's own network namespace now; at the start they are 0.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.namespace().latest.counters
    }

    fn namespace(&mut self) -> &mut NamespaceSeen {
        self.seen.namespaces.get_mut(&HOST).unwrap()
    }

    /// `count` more ports of a route are held by `program` since before the watch; TIME_WAITs end
    /// evenly over the next 60 s.
    pub fn hold(&mut self, route: Route, program: Program, by: Use, count: u16) {
        self.hold_as(route, program, by, count, None);
    }

    /// As [`Self::hold`], of clients that had bound their port.
    pub fn hold_bound(&mut self, route: Route, program: Program, by: Use, count: u16) {
        self.hold_as(route, program, by, count, Some(true));
    }

    fn hold_as(
        &mut self,
        route: Route,
        program: Program,
        by: Use,
        count: u16,
        bound: Option<bool>,
    ) {
        for index in 0..count {
            let port = self.ports.entry(route).or_insert(32_768);
            let is = Holding {
                port: *port,
                ends_at: (by == Use::TimeWait).then(|| {
                    let left = 60_000 * u64::from(index) / u64::from(count);
                    self.seen.now + Duration::from_millis(left)
                }),
                ..held(program, by)
            };
            *port += 1;
            let at = self.seen.began;
            self.change(
                at,
                flow(&route, is.port),
                route.netns_cookie,
                Side::Client { bound },
                is,
            );
        }
    }

    /// `program` opened `each_second` connections on a route in every second of the watch. They hold
    /// no port any more: see [`Self::hold`] for what is held.
    pub fn open(&mut self, route: Route, program: Program, each_second: u32) {
        for second in 0..self.seen.watched().as_secs() {
            for index in 0..each_second {
                let offset = second * 1_000 + u64::from(index * 1_000 / each_second);
                let at = self.seen.began + Duration::from_millis(offset);
                let is = Holding {
                    since: Some(at),
                    ..held(program, Use::Connecting)
                };
                let side = Side::Client { bound: Some(false) };
                let change = HoldingChange {
                    at,
                    netns: 0,
                    netns_cookie: route.netns_cookie,
                    flow: flow(&route, 0),
                    side,
                    was: None,
                    is: Some(is),
                };
                self.seen.ports.handle(&change);
                self.seen.ports.handle(&HoldingChange {
                    was: Some(is),
                    is: None,
                    ..change
                });
            }
        }
    }

    /// `program` listens on `address`, with SO_REUSEADDR.
    pub fn listen(&mut self, address: &str, program: Program) {
        let (local, peer) = (endpoint(address), unspecified());
        let is = Holding {
            port: local.port,
            ..held(program, Use::Listening)
        };
        self.change(
            self.seen.began,
            Flow { local, peer },
            HOST,
            Side::Listener,
            is,
        );
        self.cookies += 1;
        let listener = Listener {
            service: service(local.port),
            address: local.address,
            program,
            reuse_address: Some(true),
            queued: 0,
            backlog: 4_096,
        };
        self.seen.listeners.insert(self.cookies, listener);
    }

    /// `count` more connections of a server on the host's `port` are held.
    pub fn serve(&mut self, port: u16, program: Program, by: Use, count: u16) {
        let address = "10.0.0.5".parse().unwrap();
        let local = Endpoint { address, port };
        for index in 0..count {
            let address = "10.0.0.77".parse().unwrap();
            let port = 1_024 + index;
            let peer = Endpoint { address, port };
            let is = Holding {
                port: local.port,
                ..held(program, by)
            };
            self.change(
                self.seen.began,
                Flow { local, peer },
                HOST,
                Side::Server,
                is,
            );
        }
    }

    fn change(&mut self, at: Timestamp, flow: Flow, netns_cookie: u64, side: Side, is: Holding) {
        self.seen.ports.handle(&HoldingChange {
            at,
            netns: 0,
            netns_cookie,
            flow,
            side,
            was: None,
            is: Some(is),
        });
    }

    /// What `program` did as a client on a route.
    pub fn traffic(&mut self, route: Route, program: Program) -> &mut Traffic {
        let programs = self.seen.tallies.routes.entry(route).or_default();
        programs.entry(program).or_default()
    }

    /// What `program` did as a server on the host's `port`.
    pub fn served(&mut self, port: u16, program: Program) -> &mut Traffic {
        let programs = self.seen.tallies.services.entry(service(port)).or_default();
        programs.entry(program).or_default()
    }

    /// A call of `program` failed `count` times; `with_record` of these have a record.
    pub fn fail(
        &mut self,
        (call, errno): (Call, i32),
        address: Option<&str>,
        program: Program,
        (count, with_record): (u64, u64),
    ) {
        let key = CallKey {
            netns_cookie: HOST,
            call,
            errno: u16::try_from(errno).unwrap(),
            address: address.map(endpoint),
            program,
        };
        let tally = self.seen.tallies.calls.entry(key).or_default();
        tally.count += count;
        tally.with_record += with_record;
        tally.pids = vec![pid(&program)];
    }
}

impl Traffic {
    /// One more connection that was busy for so long, and held its port no longer.
    pub fn add_life(&mut self, nanoseconds: u64) {
        self.lives.add(nanoseconds);
        self.holds.add(nanoseconds);
    }

    /// `count` more closes.
    pub fn add_closes(
        &mut self,
        kind: CloseKind,
        cause: Option<CloseCause>,
        initiator: Initiator,
        count: u64,
    ) {
        let ending = Ending {
            kind,
            cause,
            initiator,
        };
        *self.endings.entry(ending).or_default() += count;
    }
}

fn held(program: Program, by: Use) -> Holding {
    let process = match program.name {
        Some(_) => Process {
            pid: Some(pid(&program)),
            tid: Some(pid(&program)),
            comm: program.name,
            name: program.name,
            source: Source::Exact,
        },
        None => Process::default(),
    };
    Holding {
        by,
        owner: Owner {
            process,
            cgroup_id: program.cgroup_id,
        },
        port: 0,
        since: None,
        ends_at: None,
    }
}

fn flow(route: &Route, port: u16) -> Flow {
    let local = Endpoint {
        address: route.source,
        port,
    };
    let peer = route.destination;
    Flow { local, peer }
}

fn unspecified() -> Endpoint {
    endpoint("0.0.0.0:0")
}
