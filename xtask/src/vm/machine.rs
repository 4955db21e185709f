//! One run of the emulator: its console read line by line, its end bounded.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{guest::MARK, say};
use crate::{
    child::Stopwatch,
    setup::{Emulator, Kernel},
    test::Count,
};

/// A kernel that hangs is ended after this.
const LIMIT: Duration = Duration::from_secs(20 * 60);

const MEMORY_MIB: u32 = 3072;

/// Quiet, but for what has gone wrong; a panic ends the emulator. Mitigations slow what is
/// emulated and protect nobody.
const KERNEL_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off tsc=reliable";

/// What the console said.
#[derive(Debug, Default)]
pub struct Outcome {
    pub count: Count,
    /// Tests that found they could not run, with their reasons.
    pub skipped: Vec<String>,
    /// The binary that is running.
    running: Option<String>,
    /// Tests that failed in it, by its own count.
    failed: u64,
    is_over: bool,
}

/// Runs it to its end and passes on what the tests say. What comes out of the serial ports after
/// the console goes to `files`.
pub fn run(
    emulator: &Emulator,
    kernel: &Kernel,
    initramfs: &Path,
    files: &[PathBuf],
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let mut command = emulator.command();
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(["-machine", "q35", "-m", &MEMORY_MIB.to_string()])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", KERNEL_LINE])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for file in files {
        command
            .arg("-serial")
            .arg(format!("file:{}", file.display()));
    }
    let mut machine = Machine(
        command
            .spawn()
            .with_context(|| format!("failed to start {}", emulator.program.display()))?,
    );
    let console = machine.0.stdout.take().context("stdout is piped")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while matches!(console.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let watch = Stopwatch::start();
    let mut outcome = Outcome::default();
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => outcome.hear(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupted.load(Ordering::Relaxed) {
            say("interrupted");
            break;
        }
        if watch.elapsed() > LIMIT {
            say(format_args!("ended after {} s", LIMIT.as_secs()));
            break;
        }
    }
    drop(machine);
    // Nobody writes to the pipe any more.
    drop(lines);
    if reader.join().is_err() {
        bail!("failed to read the console of Linux {}", kernel.release);
    }
    outcome.conclude();
    Ok(outcome)
}

/// The emulator, which does not outlive us.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended already, or has to.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Outcome {
    /// Takes in a line of the console; what is not ours to note is passed on.
    fn hear(&mut self, line: &str) {
        if let Some(result) = Count::of_result_line(line) {
            self.failed += result.failed;
            self.count += result;
        }
        let Some(note) = line.strip_prefix(MARK) else {
            println!("{line}");
            return;
        };
        match note.split_once(' ').unwrap_or((note, "")) {
            ("begin", name) => {
                println!("--- {name}");
                self.running = Some(name.to_owned());
                self.failed = 0;
            }
            ("end", name_and_status) => {
                if !name_and_status.ends_with(" 0") && self.failed == 0 {
                    println!("ended without a result: {name_and_status}");
                    self.count.failed += 1;
                }
                self.running = None;
            }
            ("skipped", reason) => self.skipped.push(reason.to_owned()),
            ("over", _) => self.is_over = true,
            _ => println!("{line}"),
        }
    }

    /// What did not come to its end has failed.
    fn conclude(&mut self) {
        if !self.is_over {
            let what = self.running.take();
            let what = what.as_deref().unwrap_or("no test");
            println!("the machine ended with {what} running");
            self.count.failed += 1;
        }
        let skips = u64::try_from(self.skipped.len()).unwrap_or(u64::MAX);
        self.count = self.count.with_skips(skips);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        lines.iter().for_each(|line| outcome.hear(line));
        outcome.conclude();
        outcome
    }

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured";

    #[test]
    fn a_whole_run_is_counted_with_its_skips() {
        let outcome = heard(&[
            "@vm@ begin live",
            RESULT,
            "@vm@ end live 0",
            "@vm@ skipped live::it: no tun",
            "@vm@ over",
        ]);
        assert_eq!(outcome.skipped, ["live::it: no tun"]);
        let count = outcome.count;
        assert_eq!((count.passed, count.failed, count.skipped), (2, 0, 1));
    }

    #[test]
    fn a_binary_or_a_kernel_that_dies_has_failed() {
        let killed = heard(&["@vm@ begin live", RESULT, "@vm@ end live 137", "@vm@ over"]);
        assert_eq!(killed.count.failed, 1);
        let panicked = heard(&["@vm@ begin live", "Kernel panic - not syncing"]);
        assert_eq!(panicked.count.failed, 1);
    }
}
