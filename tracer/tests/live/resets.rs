//! Ends by reset, and the ends of listeners: each test knows which side did what.

use std::io::Write;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::drivers::{Route, reset_on_close, send};
use crate::gate;
use crate::lines::Side;
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::Record;
use crate::tracer::{SOON, Tracer, ports};

/// Both verdicts on a connection that one side has reset.
fn assert_reset(sender: &Record, cause: &str, receiver: &Record) {
    assert_eq!(sender.verdict(), format!("reset_sent/{cause}"));
    assert_eq!(sender.close.initiator, "local");
    assert_eq!(receiver.verdict(), "reset_received/peer_reset");
    assert_eq!(receiver.close.initiator, "peer");
    assert_eq!(receiver.close.errno.as_deref(), Some("ECONNRESET"));
    for record in [sender, receiver] {
        assert!(!record.has_minisocket(), "a reset leaves no TIME_WAIT");
        assert_eq!(record.path().last(), Some(&"ESTABLISHED"));
    }
}

#[test]
fn a_linger_of_zero_resets_in_every_address_family() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let veth = VethPair::new();
        let across = |name, address| Route {
            name,
            client: &veth.first,
            server: &veth.second,
            address,
        };
        let routes = [
            (Route::loopback(&lone), 23_001),
            (Route::loopback_v6(&lone), 23_002),
            (Route::mapped(&lone), 23_003),
            (across("veth IPv4", VethPair::SECOND[0]), 23_004),
            (across("veth IPv6", VethPair::SECOND[1]), 23_005),
        ];
        let tracer = Tracer::watch(&ports(&[23_001, 23_002, 23_003, 23_004, 23_005]));
        for (route, port) in routes {
            let before = (route.client.counters(), route.server.counters());
            let server = route.listen(port);

            let by_client = server.connect();
            let sides = by_client.sides();
            reset_on_close(&by_client.client);
            drop(by_client.client);
            assert_reset(
                &tracer.close_of(sides.client),
                "linger_zero",
                &tracer.close_of(sides.server),
            );

            let by_server = server.connect();
            let sides = by_server.sides();
            reset_on_close(&by_server.server);
            drop(by_server.server);
            assert_reset(
                &tracer.close_of(sides.server),
                "linger_zero",
                &tracer.close_of(sides.client),
            );

            let mut resets = route.client.counters().since(&before.0, "EstabResets");
            if route.client.inode != route.server.inode {
                resets += route.server.counters().since(&before.1, "EstabResets");
            }
            assert_eq!(resets, 4, "{}: the kernel's EstabResets", route.name);
        }
        tracer.stop().assert_clean();
    });
}

#[test]
fn closing_with_data_unread_resets() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[23_010]));
        let before = lone.counters();
        let server = Route::loopback(&lone).listen(23_010);
        let pair = server.connect();
        let sides = pair.sides();
        (&pair.client).write_all(b"unread").expect("send");
        drop(pair.server);
        assert_reset(
            &tracer.close_of(sides.server),
            "unread_data",
            &tracer.close_of(sides.client),
        );
        let after = lone.counters();
        assert_eq!(after.since(&before, "TCPAbortOnClose"), 1);
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_reset_in_close_wait_counts_as_one() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[23_011]));
        let before = lone.counters();
        let server = Route::loopback(&lone).listen(23_011);
        let pair = server.connect();
        let sides = pair.sides();
        pair.client
            .shutdown(std::net::Shutdown::Write)
            .expect("shut the sending half");
        // The ACK of the FIN is delayed by 40 ms.
        thread::sleep(Duration::from_millis(120));
        reset_on_close(&pair.server);
        drop(pair.server);

        let sender = tracer.close_of(sides.server);
        assert_eq!(sender.verdict(), "reset_sent/linger_zero");
        assert_eq!(sender.path().last(), Some(&"CLOSE_WAIT"));
        let receiver = tracer.close_of(sides.client);
        assert_eq!(receiver.verdict(), "reset_received/peer_reset");
        assert_eq!(receiver.path().last(), Some(&"FIN_WAIT2"));
        assert!(!receiver.has_minisocket(), "its descriptor was open");
        let fin_wait2 = tracer.end_of(sides.client, SOON).fin_wait2;
        let exit = fin_wait2.and_then(|fin_wait2| fin_wait2.exit);
        assert_eq!(exit.as_deref(), Some("reset"));
        let after = lone.counters();
        assert_eq!(after.since(&before, "EstabResets"), 1);
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_disconnected_socket_may_connect_again_as_its_next_generation() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[23_020]));
        let server = Route::loopback(&lone).listen(23_020);
        let address = server.address();
        let pair = server.connect();
        let first = pair.sides();
        rustix::net::connect_unspec(&pair.client).expect("connect to nobody");
        assert_reset(
            &tracer.close_of(first.client),
            "disconnect",
            &tracer.close_of(first.server),
        );

        lone.run(|| SockRef::from(&pair.client).connect(&address.into()))
            .expect("connect the same socket again");
        let again = server.accept(pair.client);
        let second = again.close_client_first();
        let first = tracer.close_of(first.client);
        let second = tracer.close_of(second.client);
        assert_eq!(second.verdict(), "active/fin");
        assert_eq!(second.id, first.id, "it is the same socket");
        assert_eq!(second.generation, first.generation + 1);
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_listener_that_closes_resets_whom_nobody_accepted() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[23_030]));
        let server = Route::loopback(&lone).listen(23_030);
        let address = server.address();
        let client = lone
            .run(|| std::net::TcpStream::connect(address))
            .expect("connect");
        let local = client.local_addr().expect("it has an address");
        let listener = Side {
            netns: lone.inode,
            local: server
                .listener
                .local_addr()
                .expect("it has an address")
                .into(),
            peer: local.into(),
        };
        let sides = (
            server.route.client_side(local, address),
            server.route.server_side(address, local),
        );
        drop(server);

        let closed = tracer.wait_for("the listener's close", SOON, |lines| {
            lines
                .verdicts()
                .find(|record| record.role == "listener")
                .cloned()
        });
        assert_eq!(closed.close.kind, "listener_closed");
        assert_eq!(closed.local.port, listener.local.port);
        assert_eq!(closed.peer.port, None, "a listener has no peer");
        assert_eq!(closed.path(), ["LISTEN"]);
        assert_reset(
            &tracer.close_of(sides.1),
            "unaccepted",
            &tracer.close_of(sides.0),
        );
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_listener_is_followed_from_listen_to_close() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[23_031]));
        lone.run(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&std::net::SocketAddr::from(([0_u16; 8], 23_031)).into())?;
            socket.listen(1)?;
            thread::sleep(Duration::from_millis(100));
            std::io::Result::Ok(())
        })
        .expect("listen for a while");
        let closed = tracer.wait_for("the listener's close", SOON, |lines| {
            lines.verdicts().next().cloned()
        });
        assert_eq!(closed.role, "listener");
        assert_eq!(closed.close.kind, "listener_closed");
        assert_eq!(closed.socket_family.as_deref(), Some("ipv6"));
        let lasted = Duration::from_nanos(closed.states[0].for_ns.expect("it is over"));
        assert!(
            (100..400).contains(&lasted.as_millis()),
            "it listened for {lasted:?}"
        );
        tracer.stop().assert_clean();
    });
}

#[test]
fn data_sent_both_ways_is_counted() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[23_040]));
        let server = Route::loopback_v6(&lone).listen(23_040);
        let pair = server.connect();
        for _ in 0..10 {
            send(&pair.client, &pair.server, &[1; 1000]);
            send(&pair.server, &pair.client, &[2; 3000]);
        }
        let sides = pair.close_client_first();
        for (side, sent, received) in [
            (sides.client, 10_000, 30_000),
            (sides.server, 30_000, 10_000),
        ] {
            let traffic = tracer.close_of(side).traffic.expect("its totals");
            assert_eq!(traffic.bytes_sent, sent);
            // The kernel's count takes in a FIN that the full socket received.
            assert!((received..=received + 1).contains(&traffic.bytes_received));
        }
        tracer.stop().assert_clean();
    });
}
