//! One test binary at work: its output passed on line by line, and counted.

use std::{
    io::{self, BufRead as _, BufReader},
    process::Command,
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

use super::libtest::Count;

/// A command that runs tests.
pub struct Job {
    pub name: String,
    pub command: Command,
}

impl Job {
    /// Runs it to its end. One that ends without a result counts as one failed test.
    pub fn run(mut self, mut line: impl FnMut(String)) -> Result<Count> {
        line(format!("--- {}", self.name));
        // One pipe for both, so that what a test says stays in order.
        let (reader, writer) = io::pipe().context("failed to make a pipe")?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("failed to start {}", self.name))?;
        // The command holds the pipe's other end; the last line comes when none does.
        drop(self.command);
        let mut count = Count::default();
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches('\n');
            if let Some(result) = Count::of_result_line(text) {
                count += result;
            }
            line(text.to_owned());
            bytes.clear();
        }
        let status = child.wait()?;
        if !status.success() && count.failed == 0 {
            line(format!("{} ended without a result: {status}", self.name));
            count.failed = 1;
        }
        Ok(count)
    }
}

/// Jobs that run beside others; their output is held until it is asked for.
pub struct Beside {
    lines: Receiver<String>,
    thread: JoinHandle<Result<Count>>,
}

impl Beside {
    /// Begins with the first job, the others in turn.
    pub fn start(jobs: Vec<Job>) -> Self {
        let (sender, lines) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut sum = Count::default();
            for job in jobs {
                // Nobody listens any more only when we are ending with an error.
                sum += job.run(|line| drop(sender.send(line)))?;
            }
            Ok(sum)
        });
        Self { lines, thread }
    }

    /// Passes on what was said so far, then the rest as it comes.
    pub fn finish(self, line: impl FnMut(String)) -> Result<Count> {
        self.lines.iter().for_each(line);
        match self.thread.join() {
            Ok(count) => count,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job {
            name: "sh".into(),
            command,
        }
    }

    const RESULT: &str = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";

    #[test]
    fn both_streams_arrive_in_order_and_the_result_is_counted() {
        let mut lines = Vec::new();
        let count = job(&format!("echo one; echo two >&2; {RESULT}"));
        let count = count.run(|line| lines.push(line)).unwrap();
        assert_eq!(lines[1..3], ["one", "two"]);
        assert_eq!(
            count,
            Count {
                passed: 2,
                failed: 0,
                skipped: 0
            }
        );
    }

    #[test]
    fn a_binary_that_dies_counts_as_failed_even_after_a_good_result() {
        let count = job(&format!("{RESULT}; kill -9 $$")).run(drop).unwrap();
        assert_eq!(
            count,
            Count {
                passed: 2,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn jobs_beside_others_are_summed_and_keep_their_order() {
        let beside = Beside::start(vec![job(RESULT), job(&format!("echo last; {RESULT}"))]);
        let mut lines = Vec::new();
        let count = beside.finish(|line| lines.push(line)).unwrap();
        assert_eq!(count.passed, 4);
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("---")).count(),
            2
        );
        assert!(lines[..lines.len() - 1].contains(&"last".to_owned()));
    }
}
