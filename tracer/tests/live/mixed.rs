//! 100,000 connections that end in many ways at once: as many of each kind are told as the drivers
//! made, and the kernel's counters agree.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::account::{Books, Network, Stage, Sum, ring};
use crate::drivers::mixed::{self, Verdicts, Way};
use crate::drivers::{Pair, Route, reset_on_close};
use crate::gate;
use crate::namespace::VethPair;
use crate::pace;
use crate::tracer::{Tracer, ports};
use crate::witness::{Witness, assert_lacks_at_most};

/// The first port of those that two willing ends end.
const FIRST: u16 = 28_101;
/// Those that the kernel gives up.
const SILENT: u16 = 28_110;

/// Connections that the two ends end.
const WILLING: u64 = 100_000;
/// Connections of each kind that the kernel gives up.
const GIVEN_UP: u64 = 200;

#[test]
fn as_many_of_each_kind_are_told_as_were_made() {
    gate::alone(|| {
        let stage = Stage::new(Network::Veth);
        let client = stage.client();
        client.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        // 1.4 s of retransmissions, 3 s of SYNs.
        client.sysctl("net.ipv4.tcp_retries2", "2");
        client.sysctl("net.ipv4.tcp_syn_retries", "1");
        let route = Route {
            name: "veth IPv4",
            client,
            server: stage.server(),
            address: VethPair::SECOND[0],
        };
        let mut all = Way::ports(FIRST);
        all.push(SILENT);
        let witness = Witness::of_ports(&all);
        let tracer = Tracer::watch_load(&format!("{} {}", ports(&all), ring(true)));
        let books = Books::open(&stage);
        let willing = pace::share(WILLING);
        let mut made = mixed::run(route, FIRST, willing, &AtomicU64::new(0));
        // Who still closes would lose its way below, and stay in LAST_ACK beyond the end.
        stage.wait_until_all_are_closed();
        given_up(route, &mut made);
        tracer.wait_for_calm(Duration::from_millis(300));
        let kernel = books.growth();
        let sees_segments = tracer.meta().has("free_segment");
        let finished = tracer.stop();
        let sum = Sum::of(&finished);
        let resets = sum.unseen_resets(&kernel, sees_segments);
        let hidden = &witness.hidden().and_resets(resets);
        println!("{made:#?}\n{:?}\n{kernel:?}", finished.summary);
        finished.assert_clean_but(hidden);
        sum.assert_agrees_with(&kernel, hidden);
        let told: BTreeMap<(&str, &str), u64> = sum
            .verdicts
            .iter()
            .map(|((role, verdict), count)| ((role.as_str(), verdict.as_str()), *count))
            .collect();
        for (kind, made) in &made {
            let told = told.get(kind).copied().unwrap_or(0);
            assert_lacks_at_most(
                &format!("{kind:?}"),
                i64::try_from(told).expect("few"),
                i64::try_from(*made).expect("few"),
                hidden.events(),
            );
        }
        let others: u64 = told
            .iter()
            .filter(|(kind, _)| !made.contains_key(*kind))
            .map(|(_, count)| count)
            .sum();
        assert!(others <= hidden.events(), "nobody made these: {told:?}");
    });
}

/// Connections whose peer falls silent, and some to an address that nobody has.
fn given_up(route: Route<'_>, made: &mut Verdicts) {
    let server = route.listen(SILENT);
    let pairs: Vec<Pair> = (0..2 * GIVEN_UP).map(|_| server.connect()).collect();
    // From now on the client talks to an address that nobody has.
    for silent in ["10.77.0.2", "10.77.0.99"] {
        route.client.ip(&format!(
            "neighbour replace {silent} lladdr 02:00:00:00:00:99 dev veth0 nud permanent"
        ));
    }
    let nowhere: SocketAddr = ([10, 77, 0, 99], SILENT).into();
    let connecting: Vec<Socket> = (0..GIVEN_UP)
        .map(|_| route.client.run(|| begin_to_connect(nowhere)))
        .collect();
    let mut servers = Vec::new();
    let mut clients: Vec<TcpStream> = Vec::new();
    for (number, pair) in pairs.into_iter().enumerate() {
        let Pair {
            mut client, server, ..
        } = pair;
        if number % 2 == 0 {
            SockRef::from(&client)
                .set_tcp_user_timeout(Some(Duration::from_millis(700)))
                .expect("set TCP_USER_TIMEOUT");
        }
        client.write_all(b"anybody?").expect("send");
        servers.push(server);
        clients.push(client);
    }
    for client in &mut clients {
        let error = client.read(&mut [0]).expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    for socket in &connecting {
        let error = loop {
            match socket.take_error().expect("ask for the error") {
                Some(error) => break error,
                None => thread::sleep(Duration::from_millis(50)),
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    for server in &servers {
        reset_on_close(server);
    }
    for (kind, count) in [
        (("client", "timed_out/user_timeout"), GIVEN_UP),
        (("client", "timed_out/retransmission"), GIVEN_UP),
        (("client", "connect_failed/timed_out"), GIVEN_UP),
        (("server", "reset_sent/linger_zero"), 2 * GIVEN_UP),
        (("listener", "listener_closed"), 1),
    ] {
        *made.entry(kind).or_default() += count;
    }
}

fn begin_to_connect(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("make it non-blocking");
    // EINPROGRESS.
    let _ = socket.connect(&to.into());
    socket
}
