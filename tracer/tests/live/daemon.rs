//! `tracer agent`, as a service manager runs it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::gate;
use crate::tracer::{BINARY, SOON};

/// `tracer agent`, running, and the service manager that started it.
pub struct Agent {
    child: Child,
    /// Where it serves.
    pub address: SocketAddr,
    manager: UnixDatagram,
    directory: TempDir,
}

impl Agent {
    /// Starts it with `config` added to its file, and waits until it says that it is ready.
    pub fn start(config: &str) -> Self {
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

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its configuration.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("tracer.toml")
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("its log")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("signal it");
    }

    /// Waits until the service manager is told `line`.
    pub fn wait_until_told(&self, line: &str) {
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
    pub fn get(&self, path: &str) -> (u16, String) {
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
    pub fn samples(&self) -> BTreeMap<String, f64> {
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

    /// Waits until each of these samples is within what is wanted of it then.
    pub fn wait_for_samples(&self, wanted: impl Fn() -> Vec<(String, RangeInclusive<f64>)>) {
        let deadline = Instant::now() + SOON;
        loop {
            let samples = self.samples();
            let wanted = wanted();
            let mut missing = wanted.iter().filter(|(name, range)| {
                let found = samples.get(name);
                !found.is_some_and(|value| range.contains(value))
            });
            let Some(first) = missing.next() else {
                return;
            };
            if Instant::now() > deadline {
                let missing: Vec<_> = missing.collect();
                panic!("{first:?}, {missing:?}: {samples:#?}");
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks it to end; how it did.
    pub fn stop(mut self) -> (ExitStatus, String) {
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

/// What its file says: where it listens, and `config`.
pub fn config_with(address: SocketAddr, config: &str) -> String {
    format!("[http]\nlisten = \"{address}\"\n{config}")
}

/// The rows of the Parquet files in the partitions of a directory, columns as text.
pub fn rows_below(directory: &Path) -> Vec<BTreeMap<String, String>> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    let is_partition = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("date="))
    };
    let dates = entries(directory);
    let mut rows = Vec::new();
    for host in dates
        .iter()
        .filter(is_partition)
        .flat_map(|date| entries(date))
    {
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
