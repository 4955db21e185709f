//! The daemon: what it serves is what the drivers did, and it lives as a service manager expects.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{Agent, config_with, rows_below};
use crate::drivers::{Route, reset_on_close};
use crate::gate;
use crate::namespace::Namespace;
use crate::others::Others;
use crate::tracer::{BINARY, SOON};

/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE and CAP_SYS_ADMIN: all that it keeps.
const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 21;

#[test]
fn what_the_agent_serves_is_what_the_drivers_did() {
    // It tells of the whole host.
    gate::alone(|| {
        let namespace = Namespace::new();
        // So that its settings can be read.
        let _mounted = namespace.mount();
        let others = Others::now();
        let agent = Agent::start("");
        let refused: SocketAddr = "127.0.0.1:24101".parse().expect("an address");
        namespace.run(|| {
            for _ in 0..30 {
                TcpStream::connect(refused).expect_err("nobody listens");
            }
        });
        let server = Route::loopback(&namespace).listen(24_102);
        let destination = server.address();
        for _ in 0..20 {
            server.connect().close_client_first();
        }
        for _ in 0..10 {
            let pair = server.connect();
            reset_on_close(&pair.client);
        }
        let reset = |kind, cause, initiator, role| {
            format!(
                "tracer_tcp_closes_total{{kind=\"{kind}\",cause=\"{cause}\",\
                 initiator=\"{initiator}\",role=\"{role}\"}}"
            )
        };
        let ports = |name: &str| {
            format!(
                "tracer_ephemeral_ports_{name}{{netns=\"{}\",source=\"127.0.0.1\",\
                 destination=\"{destination}\"}}",
                namespace.inode
            )
        };
        agent.wait_for_samples(|| {
            vec![
                (
                    r#"tracer_tcp_connect_failures_total{cause="refused"}"#.into(),
                    others.and_failed(30.0),
                ),
                (
                    reset("reset_sent", "linger_zero", "local", "client"),
                    others.and_reset(10.0),
                ),
                (
                    reset("reset_received", "peer_reset", "peer", "server"),
                    others.and_reset(10.0),
                ),
                // The TIME_WAITs, and nothing else any more.
                (ports("used"), 20.0..=20.0),
                (
                    r#"tracer_events_total{result="ring_lost"}"#.into(),
                    0.0..=0.0,
                ),
                (r#"tracer_probe_up{probe="set_state"}"#.into(), 1.0..=1.0),
            ]
        });
        let entered = r#"tracer_tcp_time_wait_entries_total{from="FIN_WAIT2"}"#;
        let samples = agent.samples();
        assert!(samples[entered] >= 20.0, "{samples:#?}");
        assert!(samples[&ports("capacity")] > 20.0, "{samples:#?}");
        let (status, health) = agent.get("/healthz");
        assert_eq!(status, 200, "{health}");
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        let last = log.lines().last().expect("a summary");
        let (before, _) = last.split_once(" connect failed").expect(last);
        let (_, failed) = before.rsplit_once([' ', '(']).expect(last);
        let failed = failed.parse().expect(last);
        assert!(others.and_failed(30.0).contains(&failed), "{log}");
    });
}

#[test]
fn a_time_wait_that_found_no_room_is_counted() {
    // It tells of the whole host.
    gate::alone(|| {
        let agent = Agent::start("");
        let skipped = r#"tracer_tcp_time_wait_skipped_total{reason="overflow"}"#;
        assert_eq!(agent.samples()[skipped], 0.0, "told before there is one");
        let full = Namespace::new();
        full.sysctl("net.ipv4.tcp_max_tw_buckets", "0");
        let before = full.counters();
        let server = Route::loopback(&full).listen(24_104);
        for _ in 0..5 {
            server.connect().close_client_first();
        }
        agent.wait_for_samples(|| vec![(skipped.into(), 5.0..=5.0)]);
        let overflows = full.counters().since(&before, "TCPTimeWaitOverflow");
        assert_eq!(overflows, 5, "the kernel counts the same");
        assert!(agent.stop().0.success());
    });
}

#[test]
fn a_reload_takes_in_what_is_right_and_keeps_what_was_where_it_is_not() {
    gate::quiet(|| {
        let agent = Agent::start("");
        assert!(agent.samples().len() > 100);
        fs::write(
            agent.file(),
            config_with(agent.address, "[metrics]\nserie = 7\n"),
        )
        .expect("write");
        agent.signal(Signal::HUP);
        agent.wait_until_told("RELOADING=1");
        agent.wait_until_told("READY=1");
        assert!(
            agent.log().contains("tracer.toml:4:1: unknown key `serie`"),
            "{}",
            agent.log()
        );
        assert!(agent.samples().len() > 100);
        fs::write(
            agent.file(),
            config_with(agent.address, "[metrics]\nseries = 100\n"),
        )
        .expect("write");
        agent.signal(Signal::HUP);
        agent.wait_until_told("RELOADING=1");
        let deadline = Instant::now() + SOON;
        while agent.samples().len() > 100 {
            assert!(Instant::now() < deadline, "{:#?}", agent.samples());
            thread::sleep(Duration::from_millis(200));
        }
        assert!(agent.samples()["tracer_series_left_out"] > 0.0);
        agent.wait_until_told("WATCHDOG=1");
        assert!(agent.stop().0.success());
    });
}

#[test]
fn what_has_ended_is_in_the_history_once_the_agent_has_stopped() {
    gate::quiet(|| {
        let namespace = Namespace::new();
        let history = tempfile::tempdir().expect("a directory");
        let directory = history.path().display();
        let agent = Agent::start(&format!(
            "[host]\nname = \"a/b\"\n[history]\ndirectory = \"{directory}\"\n"
        ));
        let server = Route::loopback(&namespace).listen(24_103);
        for _ in 0..10 {
            let pair = server.connect();
            reset_on_close(&pair.client);
        }
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        for date in fs::read_dir(history.path()).expect("its directory") {
            let date = date.expect("an entry").path();
            assert!(date.is_file() || date.join("host=a%2Fb").is_dir());
        }
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for row in rows_below(history.path()) {
            let ends = [row["local_port"].as_str(), row["peer_port"].as_str()];
            if ends.contains(&"24103") {
                *kinds.entry(row["close_kind"].clone()).or_default() += 1;
            }
        }
        let expected = [("\"reset_received\"", 10), ("\"reset_sent\"", 10)];
        let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
        assert_eq!(kinds, BTreeMap::from(expected), "{log}");
    });
}

#[test]
fn no_thread_of_the_agent_keeps_what_it_does_not_need() {
    gate::quiet(|| {
        let agent = Agent::start("");
        // Threads that look at namespaces come and go.
        agent.wait_until_told("WATCHDOG=1");
        let mut threads = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("its threads") {
            let status = thread.expect("a thread").path().join("status");
            // It may have ended by now.
            let Ok(status) = fs::read_to_string(status) else {
                continue;
            };
            threads += 1;
            for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
                let bits = u64::from_str_radix(line.expect("a set").trim(), 16).expect("bits");
                assert_eq!(bits & !KEPT, 0, "{set} {bits:#x}\n{status}");
            }
        }
        assert!(threads >= 2, "the loop's and the server's");
        assert!(agent.stop().0.success());
    });
}

#[test]
fn an_address_that_is_taken_is_told_before_anything_is_traced() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = Command::new(BINARY)
        .args(["agent", "--config", "/dev/null", "--listen", &address])
        .output()
        .expect("run the agent");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("failed to listen on {address}")),
        "{said}"
    );
}
