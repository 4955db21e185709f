//! A tool beside a load: tracer, or another one that does with less.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::children;
use crate::lines::{Lines, numbers_beside};

/// How long a tool may take until its programs are attached.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What is attached by then stays so.
const UNCHANGED_FOR: Duration = Duration::from_millis(400);

/// How long a tool may work on what the load has left.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// How a tool is started.
#[derive(Debug, Deserialize)]
pub struct Spec {
    command: Vec<String>,
    /// Where its output goes, to a file that is removed afterwards.
    directory: PathBuf,
}

/// One that runs.
pub struct Tool {
    child: Child,
    output: NamedTempFile,
    said: NamedTempFile,
}

impl Tool {
    /// Starts it with its output in a file.
    pub fn start(spec: &Spec) -> Result<Self> {
        Self::start_with(spec, |output| {
            Ok(File::options().write(true).open(output)?.into())
        })
    }

    /// Starts it with its output in a pipe: [`Tool::take_pipe`].
    pub fn start_with_pipe(spec: &Spec) -> Result<Self> {
        Self::start_with(spec, |_| Ok(Stdio::piped()))
    }

    fn start_with(spec: &Spec, stdout: impl FnOnce(&Path) -> Result<Stdio>) -> Result<Self> {
        let file = || {
            NamedTempFile::new_in(&spec.directory)
                .with_context(|| format!("failed to make a file in {}", spec.directory.display()))
        };
        let (output, said) = (file()?, file()?);
        let (program, words) = spec.command.split_first().context("no program is named")?;
        let mut command = Command::new(program);
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(stdout(output.path())?)
            .stderr(said.reopen()?);
        let child = children::start(&mut command, None)?;
        Ok(Self {
            child,
            output,
            said,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of the pipe that it writes to.
    pub fn take_pipe(&mut self) -> Result<File> {
        let pipe = self.child.stdout.take().context("it writes to no pipe")?;
        Ok(std::os::fd::OwnedFd::from(pipe).into())
    }

    /// Waits until its programs are attached.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let (mut held, mut since) = (0, Instant::now());
        while held == 0 || since.elapsed() < UNCHANGED_FOR {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended, {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("it has attached no program: {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(20));
            let now = kernel_objects(self.pid())?;
            if now != held {
                (held, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// The processor time that it has used.
    pub fn processor_time(&self) -> Result<Duration> {
        let pid = libc::pid_t::try_from(self.pid())?;
        let mut clock = 0;
        // SAFETY: the clock's number is written to a variable of ours.
        let failed = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        if failed != 0 {
            bail!("process {pid} has no clock");
        }
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the time is written to a variable of ours.
        let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
        if failed != 0 {
            bail!("the clock of process {pid} cannot be read");
        }
        Ok(Duration::new(
            time.tv_sec.try_into()?,
            time.tv_nsec.try_into()?,
        ))
    }

    /// Waits until it has nothing to do any more.
    pub fn wait_until_settled(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut before = self.processor_time()?;
        loop {
            thread::sleep(Duration::from_millis(150));
            let now = self.processor_time()?;
            if now - before < Duration::from_millis(2) || Instant::now() > deadline {
                return Ok(());
            }
            before = now;
        }
    }

    /// A field of its status in KiB: VmRSS, VmHWM.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("{path} tells no {field}"))
    }

    /// Ends it as Ctrl-C does, and tells what it has written.
    pub fn stop(mut self) -> Result<Value> {
        let resident = self.memory("VmRSS")?;
        let clean = self.end()?;
        let lines = Lines::of_file(self.output.path())?;
        let said = self.last_words();
        // tracer's last line has the sums; others tell each loss.
        let account = said.lines().rfind(|line| line.starts_with("tracer:"));
        let account = account.unwrap_or(&said);
        let lost = [&numbers_beside("lost", account)[..], &lines.lost].concat();
        let missed = numbers_beside("missed", account);
        Ok(json!({
            "ended_in_time": clean,
            "resident_kib": resident,
            "lines": lines.view(),
            "said": said,
            // All of them tell losses, and nothing where there are none.
            "lost": lost.iter().sum::<u64>(),
            "missed": missed.iter().sum::<u64>(),
        }))
    }

    /// Ends it; whether it did so in time.
    pub fn end(&mut self) -> Result<bool> {
        children::end(&mut self.child, Signal::INT, ENDED_WITHIN)
    }

    /// The end of what it wrote to stderr.
    pub fn last_words(&self) -> String {
        let said = fs::read(self.said.path()).unwrap_or_default();
        let from = said.len().saturating_sub(2000);
        String::from_utf8_lossy(&said[from..]).trim().to_owned()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Programs, links and perf events that a process holds.
fn kernel_objects(pid: u32) -> Result<usize> {
    let directory = format!("/proc/{pid}/fd");
    let entries =
        fs::read_dir(&directory).with_context(|| format!("failed to read {directory}"))?;
    let is_one = |target: PathBuf| {
        let target = target.to_string_lossy();
        [
            "anon_inode:bpf-prog",
            "anon_inode:bpf_link",
            "anon_inode:[perf_event]",
        ]
        .iter()
        .any(|kind| target.starts_with(kind))
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| is_one(target.clone()))
        .count())
}
