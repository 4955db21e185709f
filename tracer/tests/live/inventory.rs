//! Sockets from before the tracer: what it counts, held against how the test made them.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::drivers::{Pair, Route};
use crate::gate;
use crate::kernel::{latest_expiry, ms, wall};
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::{Inventory, Record, Skipped};
use crate::tracer::{SOON, Tracer, netns};

/// A process in a namespace: what a tracer finds it by.
struct Inhabitant(Child);

impl Inhabitant {
    fn of(namespace: &Namespace) -> Self {
        let child = namespace.run(|| {
            Command::new("sleep")
                .arg("300")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("start a process in the namespace")
        });
        Self(child)
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sockets in every state that lasts without anybody's help.
struct Household {
    /// Closed with the test.
    _open: Vec<TcpStream>,
    _listening: Vec<std::net::TcpListener>,
    _connecting: Vec<Socket>,
}

impl Household {
    /// Makes them, all in one namespace but for the far end of a SYN, which nobody answers.
    fn settle(veth: &VethPair, port: u16) -> Self {
        let home = &veth.first;
        let mut household = Self {
            _open: Vec::new(),
            _listening: Vec::new(),
            _connecting: Vec::new(),
        };
        let routes = [
            Route::loopback(home),
            Route::loopback_v6(home),
            Route::mapped(home),
        ];
        for (route, port) in routes.into_iter().zip(port..) {
            household.settle_route(route, port);
        }
        household.connect_to_nobody(veth, port);
        household
    }

    fn settle_route(&mut self, route: Route<'_>, port: u16) {
        let server = route.listen(port);
        // ESTABLISHED, both ends.
        let Pair {
            client,
            server: end,
            ..
        } = server.connect();
        self._open.extend([client, end]);
        // FIN_WAIT2 and CLOSE_WAIT, full sockets both.
        let Pair {
            client,
            server: end,
            ..
        } = server.connect();
        client.shutdown(Shutdown::Write).expect("close one half");
        wait_for_fin(&end);
        self._open.extend([client, end]);
        // A minisocket in FIN_WAIT2, and CLOSE_WAIT.
        let Pair {
            client,
            server: end,
            ..
        } = server.connect();
        drop(client);
        wait_for_fin(&end);
        self._open.push(end);
        // TIME_WAIT, and nothing.
        server.connect().close_client_first();
        self._listening.push(server.listener);
    }

    /// SYN_SENT: the other end drops what is for an address that nobody has.
    fn connect_to_nobody(&mut self, veth: &VethPair, port: u16) {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 78, 0, 9)), port);
        veth.first.ip("route add 10.78.0.0/24 via 10.77.0.2");
        let socket = veth.first.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
                .expect("make a socket");
            socket.set_nonblocking(true).expect("not wait");
            let refused = socket.connect(&SockAddr::from(nobody));
            assert!(refused.is_err(), "nobody answers");
            // Bound, and neither connected nor listening: no part of an inventory.
            let bound = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
                .expect("make a socket");
            let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            bound.bind(&free.into()).expect("bind a socket");
            [socket, bound]
        });
        self._connecting.extend(socket);
    }
}

/// Returns once the other end's FIN has come, and thereby our ACK of it has gone.
fn wait_for_fin(mut stream: &TcpStream) {
    let read = stream.read(&mut [0]).expect("read the end");
    assert_eq!(read, 0, "the other end has closed");
}

fn inventory(tracer: &Tracer, purpose: &str) -> Inventory {
    tracer.wait_for(&format!("the inventory for {purpose}"), SOON, |lines| {
        let mut inventories = lines.inventories.iter();
        inventories
            .find(|inventory| inventory.purpose == purpose)
            .cloned()
    })
}

/// What a tracer counts with `settle`'s sockets there, less what one counted before. The counts are
/// the whole host's, whose other sockets come and go: a few tries.
fn assert_gain<T>(expected: [u64; 4], settle: impl Fn() -> T) {
    let look = || {
        let found = inventory(&Tracer::watch(""), "start");
        println!("{found:?}");
        [
            found.namespaces,
            found.sockets,
            found.fin_wait2s,
            found.time_waits,
        ]
    };
    let gains = (0..4).map(|_| {
        let before = look();
        let settled = settle();
        let with_them = look();
        drop(settled);
        std::array::from_fn(|index| with_them[index].wrapping_sub(before[index]))
    });
    let mut last = None;
    for gain in gains {
        last = Some(gain);
        if gain == expected {
            break;
        }
    }
    assert_eq!(
        last,
        Some(expected),
        "namespaces, full, FIN_WAIT2, TIME_WAIT"
    );
}

#[test]
fn sockets_from_before_the_start_are_counted_by_what_they_are() {
    gate::alone(|| {
        // Three families, and one SYN without an answer.
        assert_gain([1, 3 * 6 + 1, 3, 3], || {
            let veth = VethPair::new();
            let inhabitant = Inhabitant::of(&veth.first);
            let household = Household::settle(&veth, 32_001);
            (veth, inhabitant, household)
        });
    });
}

#[test]
fn a_namespace_without_a_process_is_found_by_its_mount() {
    gate::alone(|| {
        assert_gain([1, 1, 0, 0], || {
            let lone = Namespace::new();
            let listener = Route::loopback(&lone).listen(32_010).listener;
            (lone.mount(), listener)
        });
    });
}

#[test]
fn a_start_is_one_look_that_hides_nothing_and_loses_nothing() {
    gate::alone(|| {
        let lone = Namespace::new();
        let _inhabitant = Inhabitant::of(&lone);
        let tracer = Tracer::watch(&netns(&lone));
        let found = inventory(&tracer, "start");
        let entered = |skipped: &Skipped| skipped.netns != Some(lone.inode);
        assert!(found.skipped.iter().all(entered), "{found:?}");
        let said = |skipped: &Skipped| !skipped.path.is_empty() && !skipped.reason.is_empty();
        assert!(found.skipped.iter().all(said), "{found:?}");
        let cpu = Duration::from_nanos(found.cpu_ns);
        assert!(!cpu.is_zero() && cpu < Duration::from_secs(2), "{cpu:?}");
        let finished = tracer.stop();
        assert!(finished.status.success(), "{}", finished.status);
        finished.assert_no_loss();
        assert!(finished.lines.meta.is_some(), "it came first");
        assert_eq!(finished.lines.inventories.len(), 1);
    });
}

#[test]
fn losses_are_followed_by_two_looks() {
    gate::alone(|| {
        let lone = Namespace::new();
        // The smallest ring, and a tracer that is held until it has overflown.
        let tracer = Tracer::watch(&format!("{} --buffer 256KiB", netns(&lone)));
        inventory(&tracer, "start");
        let server = Route::loopback(&lone).listen(32_020);
        tracer.signal(rustix::process::Signal::STOP);
        for _ in 0..1_500 {
            server.connect().close_client_first();
        }
        tracer.signal(rustix::process::Signal::CONT);
        tracer.wait_for("two looks after the loss", SOON * 2, |lines| {
            let looks = lines.inventories.iter();
            (looks.filter(|look| look.purpose == "resync").count() == 2).then_some(())
        });
        let finished = tracer.stop();
        assert!(finished.summary.ring_lost > 0, "{:?}", finished.summary);
        finished.assert_account();
    });
}

#[test]
fn connections_from_before_the_start_end_as_what_they_are() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let _inhabitant = Inhabitant::of(&lone);
        let routes = [
            Route::loopback(&lone),
            Route::loopback_v6(&lone),
            Route::mapped(&lone),
        ];
        let servers: Vec<_> = routes
            .into_iter()
            .zip(32_031..)
            .map(|(route, port)| route.listen(port))
            .collect();
        let established: Vec<Pair> = servers.iter().map(|server| server.connect()).collect();
        let in_time_wait: Vec<_> = servers
            .iter()
            .map(|server| (server.connect().close_client_first().client, wall()))
            .collect();
        // The remaining time is not the whole one.
        std::thread::sleep(Duration::from_secs(2));

        let tracer = Tracer::watch(&netns(&lone));
        inventory(&tracer, "start");
        let from_before = |record: &Record| {
            assert_eq!(record.opened_at, None, "{record:#?}");
            assert!(!record.complete, "{record:#?}");
            let reasons = &record.incomplete_reasons;
            assert!(
                reasons.contains(&"opening_not_seen".to_owned()),
                "{record:#?}"
            );
        };
        for (pair, server) in established.into_iter().zip(&servers) {
            let sides = pair.close_client_first();
            let (client, server_end) =
                (tracer.close_of(sides.client), tracer.close_of(sides.server));
            for (record, verdict) in [(&client, "active/fin"), (&server_end, "passive/fin")] {
                from_before(record);
                assert_eq!(record.verdict(), verdict);
                assert_eq!(record.family.as_deref(), Some(server.route.family()));
                assert_eq!(
                    record.socket_family.as_deref(),
                    Some(server.route.socket_family())
                );
            }
            assert!(client.has_minisocket(), "{client:#?}");
        }
        let listeners = servers.len();
        drop(servers);
        tracer.wait_for("the listeners' ends", SOON, |lines| {
            let closed = lines.verdicts().filter(|record| {
                record.netns == lone.inode && record.close.kind == "listener_closed"
            });
            (closed.count() == listeners).then_some(())
        });
        for (side, made) in in_time_wait {
            let record = tracer.end_of(side, Duration::from_secs(70));
            from_before(&record);
            assert_eq!(record.time_wait_exit(), Some("expired"), "{record:#?}");
            let ended = record.ended_at.expect("it has ended") - made;
            let latest = latest_expiry(Duration::from_secs(60)) + Duration::from_millis(200);
            let bounds = ms(60_000) - ms(20)..=i64::try_from(latest.as_nanos()).expect("a minute");
            assert!(bounds.contains(&ended), "{ended} ns: {record:#?}");
        }
        tracer.stop().assert_no_loss();
    });
}

#[test]
fn sockets_from_before_that_do_nothing_are_known_all_the_same() {
    gate::alone(|| {
        let veth = VethPair::new();
        let _inhabitant = Inhabitant::of(&veth.first);
        let _household = Household::settle(&veth, 32_041);
        let tracer = Tracer::watch(&netns(&veth.first));
        let found = inventory(&tracer, "start");
        let summary = tracer.stop().summary;
        // The host has others, of which some may have gone since.
        let least = (3 * 6 + 1, 3);
        assert!(found.sockets >= least.0 && found.time_waits >= least.1);
        assert!(summary.open >= least.0, "{found:?} {summary:?}");
        assert!(summary.in_time_wait >= least.1, "{found:?} {summary:?}");
    });
}
