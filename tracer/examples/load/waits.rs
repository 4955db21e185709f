//! How long an event takes from the kernel's stamp to the line that tells it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Result, bail};
use memchr::memmem::Finder;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// As much as is read at once: a pipe holds no more.
const CHUNK: usize = 1 << 20;

/// Lines whose kinds tell an event the moment that it is known.
const KINDS: [&str; 2] = ["transition", "close"];

/// What was read.
#[derive(Debug, Default)]
pub struct Waits {
    /// Nanoseconds from `monotonic_ns` to the read, by the line's type.
    by_kind: BTreeMap<&'static str, Vec<u64>>,
    /// When the first line of these types was read.
    first: Option<Instant>,
}

/// Reads a pipe to its end, beside us.
pub struct Reading(JoinHandle<std::io::Result<Waits>>);

impl Reading {
    /// Begins.
    pub fn begin(pipe: File) -> Self {
        // As much as the kernel gives: who reads must not be what is measured.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, CHUNK);
        Self(thread::spawn(move || {
            be_prompt();
            read(pipe)
        }))
    }

    /// Whether the writer has closed the pipe, and all was read.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// To be called when the writer has ended.
    pub fn finish(self) -> Result<Waits> {
        match self.0.join() {
            Ok(waits) => Ok(waits?),
            Err(_) => bail!("the reader has panicked"),
        }
    }
}

/// Reads until the first line that tells an event; when that was.
pub fn first_event(mut pipe: File) -> Result<Instant> {
    let mut waits = Waits::default();
    let mut text = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = pipe.read(&mut chunk)?;
        if length == 0 {
            bail!("it has ended without an event");
        }
        text.extend_from_slice(&chunk[..length]);
        waits.take_lines(&mut text, 0);
        if let Some(first) = waits.first {
            return Ok(first);
        }
    }
}

/// Lets this thread run as soon as there is something to read. On a host whose processors are all
/// taken it would else wait for its turn like every other, and that wait is not the tool's.
fn be_prompt() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is valid for the call; 0 is this thread.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority) };
    if failed != 0 {
        let error = std::io::Error::last_os_error();
        eprintln!("the reader waits for its turn, and its waits are in the figures: {error}");
    }
}

fn read(mut pipe: File) -> std::io::Result<Waits> {
    let mut waits = Waits::default();
    let mut text = Vec::with_capacity(2 * CHUNK);
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = pipe.read(&mut chunk)?;
        let now = clock_gettime(ClockId::Monotonic);
        if length == 0 {
            return Ok(waits);
        }
        let now = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        text.extend_from_slice(&chunk[..length]);
        waits.take_lines(&mut text, now);
    }
}

impl Waits {
    /// Takes whole lines off the text.
    fn take_lines(&mut self, text: &mut Vec<u8>, now: u64) {
        let stamp = Finder::new(r#""monotonic_ns":"#);
        let mut from = 0;
        while let Some(length) = memchr::memchr(b'\n', &text[from..]) {
            let line = &text[from..from + length];
            from += length + 1;
            let Some(kind) = KINDS.into_iter().find(|kind| is_of(line, kind)) else {
                continue;
            };
            self.first.get_or_insert_with(Instant::now);
            // What was never seen has none.
            let at = stamp.find(line).map(|at| at + stamp.needle().len());
            if let Some(at) = at.and_then(|at| number(&line[at..])) {
                let waits = self.by_kind.entry(kind).or_default();
                waits.push(now.saturating_sub(at));
            }
        }
        text.drain(..from);
    }

    /// For the answer.
    pub fn view(mut self) -> Value {
        let mut view = serde_json::Map::new();
        for (kind, waits) in &mut self.by_kind {
            waits.sort_unstable();
            let quantile = |share: f64| {
                let last = waits.len().saturating_sub(1);
                waits.get((last as f64 * share).round() as usize)
            };
            view.insert(
                (*kind).to_owned(),
                json!({
                    "lines": waits.len(), "p50_ns": quantile(0.5), "p99_ns": quantile(0.99),
                    "max_ns": quantile(1.0),
                }),
            );
        }
        view.into()
    }
}

fn is_of(line: &[u8], kind: &str) -> bool {
    line.strip_prefix(br#"{"type":""#)
        .is_some_and(|rest| rest.starts_with(kind.as_bytes()))
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}
