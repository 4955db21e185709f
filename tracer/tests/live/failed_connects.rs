//! Connections that never came to be: refused, unanswered, unreachable, given up, without a port.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::drivers::{Route, any_of, connect_from};
use crate::gate;
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::Record;
use crate::tracer::{SOON, Tracer, netns, ports};

/// The verdict on the only client that connected to this port.
fn verdict_on(tracer: &Tracer, port: u16, patience: Duration) -> Record {
    tracer.wait_for(&format!("the verdict on port {port}"), patience, |lines| {
        lines
            .verdicts()
            .find(|record| record.role == "client" && record.peer.port == Some(port))
            .cloned()
    })
}

fn assert_failed(record: &Record, cause: &str, errno: Option<&str>) {
    assert_eq!(record.verdict(), format!("connect_failed/{cause}"));
    assert_eq!(record.close.errno.as_deref(), errno);
    assert_eq!(record.path(), ["SYN_SENT"]);
    assert_eq!(record.handshake_ns, None);
    assert!(!record.has_minisocket());
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let veth = VethPair::new();
        let targets = [
            (&lone, "127.0.0.1:24001"),
            (&lone, "[::1]:24002"),
            (&lone, "[::ffff:127.0.0.1]:24003"),
            (&veth.first, "10.77.0.2:24004"),
            (&veth.first, "[fd77::2]:24005"),
        ];
        let tracer = Tracer::watch(&ports(&[24_001, 24_002, 24_003, 24_004, 24_005]));
        for (namespace, target) in targets {
            let target: SocketAddr = target.parse().expect("an address");
            let refused = namespace.run(|| TcpStream::connect(target).map(drop));
            let refused = refused.expect_err("nobody listens");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            let record = verdict_on(&tracer, target.port(), SOON);
            assert_failed(&record, "refused", Some("ECONNREFUSED"));
            assert_eq!(record.netns, namespace.inode);
            assert_eq!(record.peer, target.into());
            assert!(record.local.port.is_some(), "it had a port");
        }
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_connect_that_nobody_answers_times_out() {
    gate::quiet(|| {
        let veth = VethPair::new();
        veth.first.sysctl("net.ipv4.tcp_syn_retries", "1");
        // Linux 6.5 and later try so often again before they begin to back off.
        veth.first
            .try_sysctl("net.ipv4.tcp_syn_linear_timeouts", "0");
        // Ask for an unknown neighbour once, and not for long: the answer is there before the first
        // SYN is sent again, or its retransmission would take the ICMP error's place.
        for (name, value) in [("mcast_solicit", "1"), ("retrans_time_ms", "200")] {
            veth.first
                .sysctl(&format!("net.ipv4.neigh.veth0.{name}"), value);
        }
        // Neighbours that are known, and not there: what is sent to them is lost without a word.
        for address in ["10.77.0.99", "fd77::99"] {
            veth.first.ip(&format!(
                "neighbour add {address} lladdr 02:00:00:00:00:99 dev veth0 nud permanent"
            ));
        }
        let targets = ["10.77.0.99:24010", "[fd77::99]:24011"];
        // One that nobody knows: the kernel asks for it and gives up.
        let unknown = "10.77.0.98:24012";
        // One that the application does not wait for.
        let abandoned: SocketAddr = "10.77.0.99:24013".parse().expect("an address");

        let tracer = Tracer::watch(&ports(&[24_010, 24_011, 24_012, 24_013]));
        let started = Instant::now();
        thread::scope(|scope| {
            for target in targets.into_iter().chain([unknown]) {
                let first = &veth.first;
                scope.spawn(move || {
                    first.enter();
                    TcpStream::connect(target).expect_err("nobody answers");
                });
            }
            veth.first.run(|| give_up(abandoned));
            let record = verdict_on(&tracer, abandoned.port(), SOON);
            assert_failed(&record, "abandoned", None);
            assert_eq!(record.close.initiator, "local");
        });
        let took = started.elapsed();

        for port in [24_010, 24_011] {
            let record = verdict_on(&tracer, port, SOON);
            assert_failed(&record, "timed_out", Some("ETIMEDOUT"));
            assert!(
                record.syn_retransmits >= Some(1),
                "{:?}",
                record.syn_retransmits
            );
            let tried = Duration::from_nanos(record.states[0].for_ns.expect("it is over"));
            println!("gave up after {tried:.3?}");
            assert!(
                tried >= Duration::from_secs(2) && tried <= took,
                "{tried:?}"
            );
        }
        let record = verdict_on(&tracer, 24_012, SOON);
        assert_failed(&record, "unreachable", Some("EHOSTUNREACH"));
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_connect_that_finds_no_free_port_says_so() {
    gate::quiet(|| {
        let lone = Namespace::new();
        lone.sysctl("net.ipv4.ip_local_port_range", "40000 40003");
        let tracer = Tracer::watch(&netns(&lone));
        let server = Route::loopback(&lone).listen(24_020);
        let held: Vec<_> = (0..4).map(|_| server.connect()).collect();
        let failed = lone.run(|| TcpStream::connect(server.address()).map(drop));
        let failed = failed.expect_err("all four ports are taken");
        assert_eq!(failed.kind(), std::io::ErrorKind::AddrNotAvailable);

        let record = verdict_on(&tracer, 24_020, SOON);
        assert_failed(&record, "no_port", record.close.errno.clone().as_deref());
        assert_eq!(record.local.port, None, "it never had one");
        assert_eq!(record.source_port_bound, Some(false));

        // A source port of the application's choice, whose tuple is taken: not for want of a port.
        let bound = server
            .connect_from(41_000)
            .expect("a port outside the range is free");
        let taken = bound.client_address;
        let again = SocketAddr::new(any_of(taken), taken.port());
        let failed = lone.run(|| connect_from(again, server.address()).map(drop));
        let failed = failed.expect_err("the tuple is taken");
        assert_eq!(failed.kind(), std::io::ErrorKind::AddrNotAvailable);
        let record = tracer.wait_for("the verdict on the taken tuple", SOON, |lines| {
            lines
                .verdicts()
                .find(|record| record.close.kind == "connect_failed" && record.local.port.is_some())
                .cloned()
        });
        assert_failed(
            &record,
            "tuple_in_use",
            record.close.errno.clone().as_deref(),
        );
        assert_eq!(record.local.port, Some(taken.port()));
        assert_eq!(record.source_port_bound, Some(true));

        for pair in held.into_iter().chain([bound]) {
            pair.close_client_first();
        }
        tracer.wait_for("those that held the ports", SOON, |lines| {
            let closed = |kind| {
                lines
                    .verdicts()
                    .filter(move |record| record.close.kind == kind)
            };
            (closed("active").count() == 5 && closed("passive").count() == 5).then_some(())
        });
        tracer.stop().assert_clean();
    });
}

/// Begins to connect and closes at once.
fn give_up(target: SocketAddr) {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .expect("make a socket");
    socket.set_nonblocking(true).expect("do not wait");
    let begun = socket.connect(&target.into()).expect_err("nobody answers");
    assert_eq!(
        begun.raw_os_error(),
        Some(rustix::io::Errno::INPROGRESS.raw_os_error())
    );
    thread::sleep(Duration::from_millis(50));
}
