//! The program under test: started as a user starts it, read as it writes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::mem;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::gate;
use crate::kernel::wall;
use crate::lines::{Finished, Lines, Side};
use crate::namespace::Namespace;
use crate::ndjson::{Meta, Record};

/// How long anything may take that needs no timer of the kernel's.
pub const SOON: Duration = Duration::from_secs(10);

/// The binary that cargo built beside these tests.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tracer");

/// When its lines are parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parsing {
    /// As they come.
    AtOnce,
    /// After its end: under full load the test must not take the processor from it.
    Afterwards,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// The child has ended: what it wrote to a file is all there.
    ended: AtomicBool,
    news: Condvar,
    stderr: Mutex<String>,
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// `tracer watch --json …`, running.
pub struct Tracer {
    child: Child,
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

impl Tracer {
    /// Starts it with these further words and waits until its probes are attached.
    pub fn watch(words: &str) -> Self {
        let _settings = gate::ordinary_settings();
        Self::watch_regardless(words)
    }

    /// The same for a test that has itself changed the host's settings.
    pub fn watch_regardless(words: &str) -> Self {
        Self::start(words, Parsing::AtOnce)
    }

    /// The same for a full load: nothing but `meta` is to be looked at before it is stopped.
    pub fn watch_load(words: &str) -> Self {
        let _settings = gate::ordinary_settings();
        Self::start(words, Parsing::Afterwards)
    }

    fn start(words: &str, parsing: Parsing) -> Self {
        // Under full load it writes to a file: somebody who copies every line from a pipe takes as
        // much of the processors as the tracer itself.
        let file = (parsing == Parsing::Afterwards)
            .then(|| tempfile::tempfile().expect("a file for its lines"));
        let stdout = match &file {
            Some(file) => file.try_clone().expect("the file once more").into(),
            None => Stdio::piped(),
        };
        let mut child = Command::new(BINARY)
            // Should the test die, its tracer does not live on for long.
            .args(["watch", "--json", "--duration", "300s"])
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {BINARY}: {error}"));
        let shared = Arc::new(Shared::default());
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            match (child.stdout.take(), file) {
                (Some(stdout), _) => {
                    // As much as the kernel gives: the tests must not be what slows it.
                    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, 1 << 20);
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || read_lines(stdout, &shared))
                }
                (None, Some(file)) => {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || read_file(&file, &shared))
                }
                (None, None) => unreachable!("stdout is one of both"),
            },
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || keep_stderr(stderr, &shared)
            }),
        ];
        let tracer = Self {
            child,
            shared,
            readers,
        };
        tracer.wait_for("the meta line", Duration::from_secs(30), |lines| {
            lines.meta.is_some().then_some(())
        });
        tracer
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal)
            .expect("signal our own tracer");
    }

    /// Looks at what it printed so far.
    pub fn look<T>(&self, at: impl FnOnce(&Lines) -> T) -> T {
        at(&self.shared.lines())
    }

    /// Its first line.
    pub fn meta(&self) -> Meta {
        self.look(|lines| lines.meta.clone().expect("it was waited for"))
    }

    /// Waits until `found` finds it among the lines; after `patience` the test has failed.
    pub fn wait_for<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut(&Lines) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        let mut lines = self.shared.lines();
        loop {
            if let Some(value) = found(&lines) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.over {
                let why = if lines.over { "it ended" } else { "in vain" };
                let shown = lines.describe();
                drop(lines);
                panic!("waited for {what}: {why}\n{shown}\n{}", self.stderr());
            }
            lines = self
                .shared
                .news
                .wait_timeout(lines, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
    }

    /// The verdict on this end.
    pub fn close_of(&self, side: Side) -> Record {
        self.wait_for(&format!("the close of {side:?}"), SOON, |lines| {
            lines.verdicts().find(|record| side.is(record)).cloned()
        })
    }

    /// The whole record of this end.
    pub fn end_of(&self, side: Side, patience: Duration) -> Record {
        self.wait_for(&format!("the end of {side:?}"), patience, |lines| {
            lines.ends.iter().find(|record| side.is(record)).cloned()
        })
    }

    /// Waits until it has printed nothing for `calm`: a load has been worked off.
    pub fn wait_for_calm(&self, calm: Duration) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = (
            self.look(|lines| lines.read + lines.unread_bytes),
            Instant::now(),
        );
        while seen.1.elapsed() < calm {
            assert!(Instant::now() < deadline, "it prints on and on");
            thread::sleep(Duration::from_millis(20));
            let read = self.look(|lines| lines.read + lines.unread_bytes);
            if read != seen.0 {
                seen = (read, Instant::now());
            }
        }
    }

    /// What it said on stderr so far.
    pub fn stderr(&self) -> String {
        let said = self
            .shared
            .stderr
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        format!("stderr: {said}")
    }

    /// Ends it as Ctrl-C does, and returns all that it said.
    pub fn stop(self) -> Finished {
        self.signal(Signal::INT);
        self.finish()
    }

    /// Waits for its own end.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the tracer") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end\n{}",
                self.stderr()
            );
            thread::sleep(Duration::from_millis(5));
        };
        self.shared.ended.store(true, Ordering::Release);
        for reader in self.readers.drain(..) {
            reader.join().expect("read to the end");
        }
        let stderr = self.stderr();
        let lines = mem::take(&mut *self.shared.lines());
        assert!(
            lines.broken.is_empty(),
            "{} lines break the contract, the first: {}",
            lines.broken.len(),
            lines.broken[0]
        );
        let summary = lines
            .summary
            .clone()
            .unwrap_or_else(|| panic!("no summary line; {status}; {stderr}"));
        Finished {
            lines,
            summary,
            status,
            stderr,
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.shared.ended.store(true, Ordering::Release);
    }
}

/// `--port` with these ports.
pub fn ports(ports: &[u16]) -> String {
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("--port {}", list.join(","))
}

/// `--netns` with this namespace.
pub fn netns(namespace: &Namespace) -> String {
    format!("--netns {}", namespace.inode)
}

fn read_lines(stdout: impl Read, shared: &Shared) {
    let mut stdout = BufReader::with_capacity(1 << 20, stdout);
    let mut line = Vec::new();
    while matches!(stdout.read_until(b'\n', &mut line), Ok(1..)) {
        shared.lines().take(line.trim_ascii_end(), wall());
        shared.news.notify_all();
        line.clear();
    }
    shared.lines().over = true;
    shared.news.notify_all();
}

/// Takes in the first line as it comes, and the others once the child has ended.
fn read_file(file: &File, shared: &Shared) {
    let mut first = vec![0; 64 << 10];
    let mut begun = 0;
    let mut ended = false;
    while !ended {
        ended = shared.ended.load(Ordering::Acquire);
        let written = file.metadata().expect("the file's size").len();
        shared.lines().unread_bytes = written;
        if begun == 0 {
            let length = file.read_at(&mut first, 0).expect("read the file");
            if let Some(end) = first[..length].iter().position(|byte| *byte == b'\n') {
                shared.lines().take(&first[..end], wall());
                shared.news.notify_all();
                begun = end + 1;
            }
        }
        if !ended {
            thread::sleep(Duration::from_millis(10));
        }
    }
    let mut file = file;
    file.seek(SeekFrom::Start(begun as u64))
        .expect("rewind the file");
    let mut rest = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    while matches!(rest.read_until(b'\n', &mut line), Ok(1..)) {
        shared.lines().take(line.trim_ascii_end(), 0);
        line.clear();
    }
    shared.lines().over = true;
    shared.news.notify_all();
}

fn keep_stderr(mut stderr: impl Read, shared: &Shared) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut chunk) {
        shared
            .stderr
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
}
