//! The whole life of an orderly close, TIME_WAIT to its last millisecond. One minute serves every
//! address family, the half-close and the FIN_WAIT2 that never gets its FIN.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::drivers::{Pair, Route, Server, Sides, read_to_end, send};
use crate::gate;
use crate::kernel::{Wall, jiffy, latest_expiry, ms, wall};
use crate::lines::Finished;
use crate::namespace::{Namespace, VethPair};
use crate::ndjson::Record;
use crate::pace;
use crate::sock_diag::{Change, FIN_WAIT2, Holder, Poll, TIME_WAIT, change_to};
use crate::tracer::{SOON, Tracer, ports};

/// The name of the threads that close.
const CLOSER: &str = "closes-first";

/// How long the peer makes the closer wait for its FIN.
const PEER_WAITS: Duration = Duration::from_millis(300);

/// RFC 9293's 2 MSL, as Linux has it.
const NOMINAL: Duration = Duration::from_secs(60);

/// How late a softirq may run here while other tests load the host.
fn expiry_delay() -> Duration {
    pace::bound(Duration::from_millis(250))
}

/// Beyond the grain of the poll: the clocks' conversion, and a thread that was not run in time.
fn slack() -> Wall {
    let slack = pace::bound(Duration::from_millis(5));
    ms(i64::try_from(slack.as_millis()).expect("it is short"))
}

/// What a driver did and sock_diag saw of one connection.
struct Story {
    route: &'static str,
    family: &'static str,
    socket_family: &'static str,
    sides: Sides,
    /// Just before and after the first close().
    closed: (Wall, Wall),
    /// Just before and after the peer's close().
    peer_closed: (Wall, Wall),
    poll: Poll,
}

#[test]
fn time_wait_lasts_as_long_as_the_record_says_in_every_address_family() {
    gate::quiet_at_first(|company| {
        let lone = Namespace::new();
        let veth = VethPair::new();
        let across = |name, address| Route {
            name,
            client: &veth.first,
            server: &veth.second,
            address,
        };
        let routes = [
            (Route::loopback(&lone), 21_001),
            (Route::loopback_v6(&lone), 21_002),
            (Route::mapped(&lone), 21_003),
            (across("veth IPv4", VethPair::SECOND[0]), 21_004),
            (across("veth IPv6", VethPair::SECOND[1]), 21_005),
        ];
        let half_closed_port = 21_006;
        let all_ports = [21_001, 21_002, 21_003, 21_004, 21_005, half_closed_port];

        // Full loads of other tests pass it by in the meantime.
        let tracer = Tracer::watch(&format!("{} --buffer 64MiB", ports(&all_ports)));
        // Listeners live as long as the test, so that only connections close.
        let servers: Vec<Server> = routes
            .iter()
            .map(|(route, port)| route.listen(*port))
            .collect();
        let half_closing = Route::loopback(&lone).listen(half_closed_port);
        let stories: Vec<Story> = thread::scope(|scope| {
            let closing: Vec<_> = servers
                .iter()
                .map(|server| {
                    thread::Builder::new()
                        .name(CLOSER.to_owned())
                        .spawn_scoped(scope, || client_closes_first(server))
                        .expect("start a driver")
                })
                .collect();
            closing
                .into_iter()
                .map(|story| story.join().expect("a driver ends"))
                .collect()
        });
        let (half_closed, kept_open) = half_close(&half_closing);
        drop(company);
        let hz = tracer.look(|lines| lines.meta.as_ref().map(|meta| meta.hz));
        let per_second = Duration::from_secs(1).as_nanos() / jiffy().as_nanos();
        assert_eq!(hz.map(u128::from), Some(per_second), "the meta line's hz");

        for story in &stories {
            println!("{}: {:?}", story.route, story.sides.client);
            check_server(&tracer.close_of(story.sides.server), story);
            check_client_verdict(&tracer.close_of(story.sides.client));
        }
        let patience = latest_expiry(NOMINAL) + SOON;
        for story in stories {
            let record = tracer.end_of(story.sides.client, patience);
            check_client_end(&record, story, tracer.meta().sees_flips());
        }
        check_half_close(&tracer.end_of(half_closed.client, patience));
        drop(kept_open);

        tracer.stop().assert_clean();
    });
}

/// Client closes first, the server 300 ms later; sock_diag is polled from before to the end.
fn client_closes_first(server: &Server<'_>) -> Story {
    let pair = server.connect();
    let sides = pair.sides();
    send(&pair.client, &pair.server, b"hello");
    send(&pair.server, &pair.client, b"hi");
    let poll = Poll::start(
        server.route.client,
        pair.client_address,
        pair.server_address,
        latest_expiry(NOMINAL) + SOON,
    );
    let Pair {
        client,
        server: peer,
        ..
    } = pair;
    let closed = timed(|| drop(client));
    thread::sleep(PEER_WAITS);
    let peer_closed = timed(|| drop(peer));
    Story {
        route: server.route.name,
        family: server.route.family(),
        socket_family: server.route.socket_family(),
        sides,
        closed,
        peer_closed,
        poll,
    }
}

/// The client shuts its sending half, the server still sends and then closes: TIME_WAIT begins
/// while the client's descriptor is open. Returns the client's pair of ends and that descriptor.
fn half_close(server: &Server<'_>) -> (Sides, std::net::TcpStream) {
    let pair = server.connect();
    let sides = pair.sides();
    pair.client
        .shutdown(Shutdown::Write)
        .expect("shut the sending half");
    thread::sleep(Duration::from_millis(50));
    send(&pair.server, &pair.client, b"still talking");
    read_to_end(pair.server);
    (sides, pair.client)
}

fn check_server(record: &Record, story: &Story) {
    assert_eq!(record.role, "server");
    assert_eq!(record.verdict(), "passive/fin");
    assert_eq!(record.close.initiator, "peer");
    assert_eq!(record.close.errno, None);
    assert_eq!(
        record.path(),
        ["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"]
    );
    assert_eq!(record.handshake_ns, None, "a server cannot tell");
    assert!(record.time_wait.is_none() && record.fin_wait2.is_none());
    assert_eq!(record.family.as_deref(), Some(story.family));
    assert_eq!(record.socket_family.as_deref(), Some(story.socket_family));
    let waited = record.states[2].for_ns.expect("CLOSE_WAIT is over");
    assert_near(waited, PEER_WAITS, "CLOSE_WAIT");
    let closed_at = record.closed_at.expect("it closed");
    assert_within(closed_at, story.peer_closed, "the server's CLOSE");
    let process = record.process.as_ref().expect("who it was");
    // A child that another test starts has copies of all descriptors until its exec. Where that
    // takes long, its copy may be the last that is closed.
    let closer = process.closer.pid;
    assert!(
        closer == Some(std::process::id()) || pace::is_slow(),
        "{closer:?}"
    );
    assert_eq!(process.closer.source, "exact");
    assert_eq!(process.opener.source, "inherited");
    let traffic = record.traffic.as_ref().expect("its totals");
    assert_eq!(traffic.bytes_sent, 2);
    // The kernel's count takes in the FIN.
    assert!((5..=6).contains(&traffic.bytes_received), "{traffic:?}");
}

fn check_client_verdict(record: &Record) {
    assert_eq!(record.role, "client");
    assert_eq!(record.verdict(), "active/fin");
    assert_eq!(record.close.initiator, "local");
    let handshake = record.handshake_ns.expect("a client can tell");
    assert!((1..1_000_000_000).contains(&handshake), "{handshake}");
    assert_eq!(record.syn_retransmits, Some(0));
    assert_eq!(record.source_port_bound, Some(false));
    assert!(record.previous.is_none(), "{:?}", record.previous);
    assert_eq!(record.uid, Some(rustix::process::geteuid().as_raw()));
    let process = record.process.as_ref().expect("who it was");
    for who in [&process.opener, &process.closer] {
        assert_eq!(who.pid, Some(std::process::id()));
        assert_eq!(who.source, "exact");
    }
    assert_eq!(process.closer.comm.as_deref(), Some(CLOSER));
}

fn check_client_end(record: &Record, story: Story, sees_flips: bool) {
    let route = story.route;
    let changes = story.poll.changes();
    assert_eq!(
        record.path(),
        [
            "SYN_SENT",
            "ESTABLISHED",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "TIME_WAIT"
        ]
    );
    let starts: Vec<Wall> = record.states.iter().filter_map(|visit| visit.at).collect();
    assert_eq!(starts.len(), 5, "each state has its beginning");
    assert!(starts.is_sorted(), "{starts:?}");
    assert_eq!(record.family.as_deref(), Some(story.family));
    assert_eq!(record.socket_family.as_deref(), Some(story.socket_family));
    assert_within(starts[2], story.closed, "FIN_WAIT1");
    assert_eq!(
        record.traffic.as_ref().map(|traffic| traffic.bytes_sent),
        Some(5)
    );

    let fin_wait2 = record.fin_wait2.as_ref().expect("the peer let it wait");
    assert!(fin_wait2.in_minisocket);
    assert_eq!(fin_wait2.exit.as_deref(), Some("peer_fin"));
    // The peer's kernel delays its ACK of our FIN: FIN_WAIT1 is not short.
    let fin_wait1 = record.states[2].for_ns.expect("FIN_WAIT1 is over");
    assert_near(
        fin_wait1 + fin_wait2.dwell_ns.expect("it is over"),
        PEER_WAITS,
        "FIN_WAIT1 and FIN_WAIT2",
    );
    let born = change_to(&changes, FIN_WAIT2).expect("sock_diag saw the minisocket wait");
    assert!(
        born.before < story.peer_closed.0,
        "{route}: before the peer's FIN"
    );
    assert_within(
        starts[3],
        (born.after, born.before),
        "FIN_WAIT2's beginning",
    );

    let time_wait = record.time_wait.as_ref().expect("TIME_WAIT");
    assert_eq!(time_wait.entered_from.as_deref(), Some("FIN_WAIT2"));
    // Where the flip is not seen, it is the last setting of the timer, to the jiffy. It was set
    // then alone: the time is right, and nobody can know that it is.
    let (precisions, jiffies): (&[&str], _) = if sees_flips {
        (&["exact", "jiffy"], 0)
    } else {
        (&["last_refresh"], 2)
    };
    assert!(
        precisions.contains(&time_wait.entry_precision.as_str()),
        "{}",
        time_wait.entry_precision
    );
    let grain = jiffies * i64::try_from(jiffy().as_nanos()).expect("a jiffy is short");
    let within = |(after, before): (Wall, Wall)| (after - grain, before + grain);
    let entered = time_wait.entered_at.expect("its entry is known");
    assert_within(
        entered,
        within(story.peer_closed),
        "TIME_WAIT's entry and the peer's close()",
    );
    let flip = change_to(&changes, TIME_WAIT).expect("sock_diag saw the flip");
    assert_within(
        entered,
        within((flip.after, flip.before)),
        "TIME_WAIT's entry and sock_diag's flip",
    );
    assert_eq!(time_wait.refreshes, 0);
    check_dwell(record, route);

    let gone = changes.last().filter(|change| change.to == Holder::Nobody);
    let gone: &Change = gone.unwrap_or_else(|| panic!("{route}: still there? {changes:?}"));
    let ended = record.ended_at.expect("it ended");
    assert_within(
        ended,
        (gone.after, gone.before),
        "the end and sock_diag's disappearance",
    );
    println!(
        "{route}: entry {} µs after the peer's close(), poll's grain {} µs; end within {} µs of sock_diag's",
        (entered - story.peer_closed.0) / 1_000,
        (flip.before - flip.after) / 1_000,
        (ended - gone.after).abs().max((gone.before - ended).abs()) / 1_000,
    );
}

fn check_half_close(record: &Record) {
    assert_eq!(record.verdict(), "active/fin");
    assert_eq!(record.close.initiator, "local");
    let fin_wait2 = record.fin_wait2.as_ref().expect("it waited for the peer");
    assert!(!fin_wait2.in_minisocket, "its descriptor was open");
    assert_eq!(fin_wait2.exit.as_deref(), Some("peer_fin"));
    check_dwell(record, "half-close");
}

/// Holds a TIME_WAIT that expired to what the timer wheel can do.
fn check_dwell(record: &Record, route: &str) {
    let time_wait = record.time_wait.as_ref().expect("TIME_WAIT");
    // A tick may come between the reckoning of the timer's end and its start.
    let nominal = Duration::from_nanos(time_wait.nominal_ns);
    assert!(
        (NOMINAL - jiffy()..=NOMINAL).contains(&nominal),
        "{route}: {nominal:?}"
    );
    assert_eq!(time_wait.exit.as_deref(), Some("expired"));
    let dwell = Duration::from_nanos(time_wait.dwell_ns.expect("it is over"));
    println!("{route}: TIME_WAIT lasted {dwell:.3?}");
    assert!(dwell >= NOMINAL - jiffy(), "{route}: {dwell:?}");
    assert!(
        dwell <= latest_expiry(NOMINAL) + expiry_delay(),
        "{route}: {dwell:?}"
    );
    if dwell <= latest_expiry(NOMINAL) {
        assert!(!time_wait.late, "{route}: {dwell:?} is not late");
    }
}

#[test]
fn a_fin_wait2_that_never_gets_its_fin_claims_no_time_wait() {
    gate::quiet(|| {
        let lone = Namespace::new();
        lone.sysctl("net.ipv4.tcp_fin_timeout", "3");
        let tracer = Tracer::watch(&ports(&[21_010, 21_011]));
        let before = lone.counters();
        let servers = [
            Route::loopback(&lone).listen(21_010),
            Route::loopback_v6(&lone).listen(21_011),
        ];
        let held: Vec<(Sides, std::net::TcpStream)> = servers
            .iter()
            .map(|server| {
                let pair = server.connect();
                (pair.sides(), pair.server)
            })
            .collect();
        for (sides, _) in &held {
            let verdict = tracer.close_of(sides.client);
            assert_eq!(verdict.verdict(), "active/fin");
            assert_eq!(verdict.close.initiator, "local");
        }
        for (sides, _) in &held {
            let record = tracer.end_of(sides.client, Duration::from_secs(3) + SOON);
            assert!(record.time_wait.is_none(), "{:?}", record.time_wait);
            assert!(!record.path().contains(&"TIME_WAIT"), "{:?}", record.path());
            let fin_wait2 = record.fin_wait2.expect("it waited");
            assert!(fin_wait2.in_minisocket);
            assert_eq!(fin_wait2.exit.as_deref(), Some("timed_out"));
            let dwell = Duration::from_nanos(fin_wait2.dwell_ns.expect("it is over"));
            println!("FIN_WAIT2 with tcp_fin_timeout 3 lasted {dwell:.3?}");
            let nominal = Duration::from_secs(3);
            assert!(dwell >= nominal - jiffy(), "{dwell:?}");
            assert!(
                dwell <= latest_expiry(nominal) + expiry_delay(),
                "{dwell:?}"
            );
        }
        let after = lone.counters();
        let created = after.since(&before, "TW") + after.since(&before, "TWKilled");
        assert_eq!(created, 2, "the kernel made two minisockets");
        // Their FINs come too late: nobody holds the tuple, so a reset answers.
        for (sides, server) in held {
            drop(server);
            let record = tracer.close_of(sides.server);
            assert_eq!(record.verdict(), "reset_received/peer_reset");
        }
        let finished: Finished = tracer.stop();
        finished.assert_clean();
    });
}

/// The times just before and after `act`.
fn timed(act: impl FnOnce()) -> (Wall, Wall) {
    let before = wall();
    act();
    (before, wall())
}

#[track_caller]
fn assert_within(at: Wall, (after, before): (Wall, Wall), what: &str) {
    assert!(
        (after - slack()..=before + slack()).contains(&at),
        "{what}: {} µs after the earliest, {} µs before the latest",
        (at - after) / 1_000,
        (before - at) / 1_000,
    );
}

#[track_caller]
fn assert_near(nanoseconds: u64, expected: Duration, what: &str) {
    let measured = Duration::from_nanos(nanoseconds);
    // A sleep is never short, but may be long on a busy host.
    assert!(
        measured + Duration::from_millis(5) >= expected
            && measured <= expected + pace::bound(Duration::from_millis(200)),
        "{what}: {measured:?}, where {expected:?} was slept"
    );
}
