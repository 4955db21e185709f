//! Who closed first, seen from both sides.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::drivers::{Pair, Route, Server, Sides};
use crate::gate;
use crate::kernel::shows_resets_of_minisockets;
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::Record;
use crate::tracer::{SOON, Tracer, ports};

#[test]
fn the_server_that_closes_first_is_the_active_side() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let veth = VethPair::new();
        let across = Route {
            name: "veth IPv6",
            client: &veth.first,
            server: &veth.second,
            address: VethPair::SECOND[1],
        };
        let tracer = Tracer::watch(&ports(&[22_001, 22_002, 22_003]));
        for (route, port) in [
            (Route::loopback(&lone), 22_001),
            (Route::mapped(&lone), 22_002),
            (across, 22_003),
        ] {
            let server = route.listen(port);
            let sides = server.connect().close_server_first();

            let active = tracer.close_of(sides.server);
            assert_eq!(active.role, "server");
            assert_eq!(active.verdict(), "active/fin");
            assert_eq!(active.close.initiator, "local");
            assert_eq!(active.path()[..3], ["SYN_RECV", "ESTABLISHED", "FIN_WAIT1"]);
            assert!(active.has_minisocket());
            assert!(active.ended_at.is_none(), "the tuple is still held");

            let passive = tracer.close_of(sides.client);
            assert_eq!(passive.role, "client");
            assert_eq!(passive.verdict(), "passive/fin");
            assert_eq!(passive.close.initiator, "peer");
            assert_eq!(
                passive.path(),
                ["SYN_SENT", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"]
            );
            assert!(passive.handshake_ns.is_some());
            assert!(!passive.has_minisocket());
            // Nothing holds a passive closer's tuple: its end comes with its verdict.
            let ended = tracer.end_of(sides.client, SOON);
            assert_eq!(ended.close.kind, "passive");
        }
        tracer.stop().assert_clean();
    });
}

#[test]
fn transitions_are_an_unbroken_chain() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&format!("{} --transitions", ports(&[22_005])));
        let server = Route::loopback(&lone).listen(22_005);
        let pair = server.connect();
        let sides = pair.sides();
        drop(pair.client);
        // Beyond the delayed ACK, so that the client does wait in FIN_WAIT2.
        thread::sleep(Duration::from_millis(100));
        drop(pair.server);
        let waits = [
            "CLOSE",
            "SYN_SENT",
            "ESTABLISHED",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "TIME_WAIT",
        ];
        // Where the minisocket's own step is not seen, it is not claimed either.
        let seen = if tracer.meta().sees_flips() { 6 } else { 5 };
        for (side, expected) in [
            (sides.client, &waits[..seen]),
            (
                sides.server,
                &[
                    "LISTEN",
                    "SYN_RECV",
                    "ESTABLISHED",
                    "CLOSE_WAIT",
                    "LAST_ACK",
                    "CLOSE",
                ],
            ),
        ] {
            let id = tracer.close_of(side).id;
            // The minisocket's own step may come after the full socket's verdict.
            let chain = tracer.wait_for("all transitions", SOON, |lines| {
                let chain: Vec<_> = lines
                    .transitions
                    .iter()
                    .map(|(_, transition)| transition.clone())
                    .filter(|transition| transition.id == id && transition.netns == side.netns)
                    .collect();
                (chain.last()?.to == *expected.last()?).then_some(chain)
            });
            let mut path = vec![chain[0].from.clone()];
            for step in &chain {
                assert_eq!(Some(&step.from), path.last(), "{chain:#?}");
                // A passive child has no addresses yet when it is cloned from its listener.
                if step.from != "LISTEN" {
                    assert_eq!(step.peer, side.peer);
                }
                path.push(step.to.clone());
            }
            assert_eq!(path, expected);
        }
        tracer.stop().assert_clean();
    });
}

#[test]
fn fins_that_cross_make_both_sides_simultaneous() {
    gate::quiet(|| {
        let veth = VethPair::new();
        let route = Route {
            name: "veth IPv4",
            client: &veth.first,
            server: &veth.second,
            address: VethPair::SECOND[0],
        };
        let tracer = Tracer::watch(&ports(&[22_010]));
        let server = route.listen(22_010);
        let pair = server.connect();
        let sides = pair.sides();

        if let Err(error) = slow_both(&veth) {
            println!("skipped: no queue to cross the FINs in: {error}");
            return;
        }
        drop(pair.client);
        drop(pair.server);

        for side in [sides.client, sides.server] {
            let record = tracer.close_of(side);
            assert_simultaneous(&record);
        }
        tracer.stop().assert_clean();
    });
}

#[test]
fn closes_that_race_agree_on_who_was_first() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[22_011]));
        let server = Route::loopback(&lone).listen(22_011);
        let races: Vec<Sides> = (0..100).map(|_| race(&server)).collect();
        let mut simultaneous = 0;
        for sides in &races {
            let client = tracer.close_of(sides.client);
            let server = tracer.close_of(sides.server);
            let kinds = (client.close.kind.as_str(), server.close.kind.as_str());
            match kinds {
                ("active", "passive") => {
                    assert_eq!(client.close.initiator, "local");
                    assert_eq!(server.close.initiator, "peer");
                }
                ("passive", "active") => {
                    assert_eq!(client.close.initiator, "peer");
                    assert_eq!(server.close.initiator, "local");
                }
                ("simultaneous", "simultaneous") => {
                    simultaneous += 1;
                    assert_simultaneous(&client);
                    assert_simultaneous(&server);
                }
                // The ACK of the peer's FIN overtook our FIN between two processors.
                ("simultaneous", "active") => {
                    assert_simultaneous(&client);
                    assert!(server.path().contains(&"FIN_WAIT2"), "{server:#?}");
                }
                ("active", "simultaneous") => {
                    assert_simultaneous(&server);
                    assert!(client.path().contains(&"FIN_WAIT2"), "{client:#?}");
                }
                other => panic!("{other:?}: {client:#?} {server:#?}"),
            }
        }
        println!(
            "{simultaneous} of {} races were simultaneous closes",
            races.len()
        );
        tracer.stop().assert_clean();
    });
}

#[test]
fn data_into_an_orphans_fin_wait2_ends_it_without_time_wait() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&ports(&[22_020]));
        let server = Route::loopback(&lone).listen(22_020);
        let pair = server.connect();
        let sides = pair.sides();
        drop(pair.client);
        let verdict = tracer.close_of(sides.client);
        (&pair.server)
            .write_all(b"too late")
            .expect("the peer does not know yet");

        assert_eq!(verdict.verdict(), "active/fin");
        let record = tracer.end_of(sides.client, SOON);
        assert!(record.time_wait.is_none(), "{:?}", record.time_wait);
        let fin_wait2 = record.fin_wait2.expect("it waited");
        assert!(fin_wait2.in_minisocket);
        let is_told = shows_resets_of_minisockets();
        let exit = if is_told { "data" } else { "unknown" };
        assert_eq!(fin_wait2.exit.as_deref(), Some(exit));
        let peer = tracer.close_of(sides.server);
        assert_eq!(peer.verdict(), "reset_received/peer_reset");
        assert_eq!(
            peer.close.errno.as_deref(),
            Some("EPIPE"),
            "it was in CLOSE_WAIT"
        );
        tracer.stop().assert_clean();
    });
}

#[test]
fn a_full_table_of_minisockets_is_told_from_a_time_wait() {
    gate::quiet(|| {
        let lone = Namespace::new();
        lone.sysctl("net.ipv4.tcp_max_tw_buckets", "0");
        let tracer = Tracer::watch(&ports(&[22_021]));
        let before = lone.counters();
        let server = Route::loopback(&lone).listen(22_021);
        let sides = server.connect().close_client_first();
        let record = tracer.end_of(sides.client, SOON);
        let overflows = lone.counters().since(&before, "TCPTimeWaitOverflow");
        assert!(overflows >= 1, "the kernel had no room");
        assert!(!record.has_minisocket());
        assert_eq!(record.close.kind, "active");
        assert_eq!(record.time_wait_skipped.as_deref(), Some("overflow"));
        tracer.stop().assert_clean();
    });
}

/// Closes both ends at once, as far as two threads can.
fn race(server: &Server<'_>) -> Sides {
    let pair = server.connect();
    let sides = pair.sides();
    let Pair { client, server, .. } = pair;
    let barrier = std::sync::Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            drop(client);
        });
        barrier.wait();
        drop(server);
    });
    sides
}

fn assert_simultaneous(record: &Record) {
    assert_eq!(record.verdict(), "simultaneous/fin");
    assert_eq!(record.close.initiator, "both");
    assert!(record.path().contains(&"CLOSING"), "{:?}", record.path());
    let time_wait = record.time_wait.as_ref().expect("both sides wait");
    assert_eq!(time_wait.entered_from.as_deref(), Some("CLOSING"));
    assert!(record.fin_wait2.is_none(), "{:?}", record.fin_wait2);
}

/// A slow link with a queue in either direction: what is sent now arrives in 50 ms.
fn slow_both(veth: &VethPair) -> Result<(), String> {
    for (namespace, interface) in [(&veth.first, "veth0"), (&veth.second, "veth1")] {
        namespace.try_command(
            "tc",
            &format!("qdisc add dev {interface} root tbf rate 256kbit burst 1600 latency 2s"),
        )?;
    }
    let sinks = [
        sink(&veth.first, VethPair::FIRST[0]),
        sink(&veth.second, VethPair::SECOND[0]),
    ];
    fill_the_queue(&veth.first, &sinks[1]);
    fill_the_queue(&veth.second, &sinks[0]);
    Ok(())
}

/// Sends more than the shaper's bucket holds, so that what follows waits.
fn fill_the_queue(from: &Namespace, sink: &UdpSocket) {
    let to = sink.local_addr().expect("the sink has an address");
    from.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind a UDP socket");
        for _ in 0..4 {
            let _ = socket.send_to(&[0; 760], to);
        }
    });
}

/// Takes in datagrams, so that no ICMP answers them.
fn sink(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    namespace.run(|| UdpSocket::bind((address, 0)).expect("bind a UDP socket"))
}
