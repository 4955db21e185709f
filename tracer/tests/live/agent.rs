//! The daemon: what it serves is what the drivers did, and it lives as a service manager expects.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::drivers::{Route, reset_on_close};
use crate::gate;
use crate::namespace::Namespace;
use crate::tracer::{BINARY, SOON};

/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE and CAP_SYS_ADMIN: all that it keeps.
const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 21;

/// `tracer agent`, running, and the service manager that started it.
struct Agent {
    child: Child,
    address: SocketAddr,
    manager: UnixDatagram,
    directory: TempDir,
}

impl Agent {
    /// Starts it with `config` added to its file, and waits until it says that it is ready.
    fn start(config: &str) -> Self {
        let _settings = gate::ordinary_settings();
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("notify");
        let manager = UnixDatagram::bind(&socket).expect("a service manager's socket");
        manager.set_read_timeout(Some(SOON)).expect("a timeout");
        // Free, and soon taken again.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let file = directory.path().join("tracer.toml");
        fs::write(&file, config_with(address, config)).expect("its configuration");
        let child = Command::new(BINARY)
            .arg("agent")
            .arg("--config")
            .arg(&file)
            .env("NOTIFY_SOCKET", &socket)
            .env("TRACER_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).expect("its log"))
            .spawn()
            .expect("start the agent");
        let agent = Self {
            child,
            address,
            manager,
            directory,
        };
        agent.wait_until_told("READY=1");
        agent
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("tracer.toml")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("its log")
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("signal it");
    }

    /// Waits until the service manager is told `line`.
    fn wait_until_told(&self, line: &str) {
        let mut told = String::new();
        let mut datagram = [0; 4096];
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            let length = self.manager.recv(&mut datagram);
            let length = length.unwrap_or_else(|error| panic!("{error}: {told}\n{}", self.log()));
            told = String::from_utf8_lossy(&datagram[..length]).into_owned();
            if told.lines().any(|told| told == line) {
                return;
            }
        }
        panic!("the service manager was never told {line}: {told}");
    }

    /// Status and body of a page.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (status.expect("a status"), body.to_owned())
    }

    /// The samples of /metrics by name and labels.
    fn samples(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                (name.to_owned(), value.parse().expect("a number"))
            })
            .collect()
    }

    /// Waits until each of these samples has its value.
    fn wait_for_samples(&self, wanted: &[(String, f64)]) {
        let deadline = Instant::now() + SOON;
        loop {
            let samples = self.samples();
            let found = |(name, _): &(String, f64)| samples.get(name).copied();
            if wanted.iter().all(|sample| found(sample) == Some(sample.1)) {
                return;
            }
            if Instant::now() > deadline {
                let found: Vec<_> = wanted
                    .iter()
                    .map(|sample| (sample, found(sample)))
                    .collect();
                panic!("{found:#?}\n{samples:#?}");
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks it to end; how it did.
    fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.wait_until_told("STOPPING=1");
        (self.child.wait().expect("it ends"), self.log())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Should the test have died: it is ours.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config_with(address: SocketAddr, config: &str) -> String {
    format!("[http]\nlisten = \"{address}\"\n{config}")
}

#[test]
fn what_the_agent_serves_is_what_the_drivers_did() {
    // It tells of the whole host.
    gate::alone(|| {
        let namespace = Namespace::new();
        // So that its settings can be read.
        let _mounted = namespace.mount();
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
        agent.wait_for_samples(&[
            (
                r#"tracer_tcp_connect_failures_total{cause="refused"}"#.into(),
                30.0,
            ),
            (reset("reset_sent", "linger_zero", "local", "client"), 10.0),
            (
                reset("reset_received", "peer_reset", "peer", "server"),
                10.0,
            ),
            // The TIME_WAITs, and nothing else any more.
            (ports("used"), 20.0),
            (r#"tracer_events_total{result="ring_lost"}"#.into(), 0.0),
            (r#"tracer_probe_up{probe="set_state"}"#.into(), 1.0),
        ]);
        let entered = r#"tracer_tcp_time_wait_entries_total{from="FIN_WAIT2"}"#;
        let samples = agent.samples();
        assert!(samples[entered] >= 20.0, "{samples:#?}");
        assert!(samples[&ports("capacity")] > 20.0, "{samples:#?}");
        let (status, health) = agent.get("/healthz");
        assert_eq!(status, 200, "{health}");
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        assert!(
            log.lines()
                .last()
                .is_some_and(|line| line.contains("30 connect failed")),
            "{log}"
        );
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

/// The rows of the Parquet files in the partitions of a directory, columns as text.
fn rows_below(directory: &Path) -> Vec<BTreeMap<String, String>> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    let mut rows = Vec::new();
    for host in entries(directory).iter().flat_map(|date| entries(date)) {
        assert!(host.ends_with("host=a%2Fb"), "{}", host.display());
        for file in entries(&host) {
            assert_eq!(file.extension().and_then(|it| it.to_str()), Some("parquet"));
            let file = fs::File::open(&file).expect("a file");
            let reader = SerializedFileReader::new(file).expect("a Parquet file");
            for row in reader.get_row_iter(None).expect("its rows") {
                let row = row.expect("a row");
                let columns = row.get_column_iter();
                rows.push(
                    columns
                        .map(|(name, value)| (name.clone(), value.to_string()))
                        .collect(),
                );
            }
        }
    }
    rows
}

#[test]
fn no_thread_of_the_agent_keeps_what_it_does_not_need() {
    gate::quiet(|| {
        let agent = Agent::start("");
        // Threads that look at namespaces come and go.
        agent.wait_until_told("WATCHDOG=1");
        let mut threads = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", agent.child.id())).expect("its threads")
        {
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
