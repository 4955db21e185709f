//! tracer's example `load`, which makes the loads and measures beside them, as root.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{child, root::Root, workspace::Workspace};

/// The example, running.
pub struct Hands {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Where the tools write to, on a disk.
    directory: PathBuf,
}

/// An order that could not be carried out; the next one may be.
#[derive(Debug)]
pub struct Refusal(pub String);

impl Hands {
    /// Starts it.
    pub fn start(
        workspace: &Workspace,
        root: Root,
        program: &Path,
        path: OsString,
    ) -> Result<Self> {
        let directory = workspace.target.join("tmp/bench");
        if directory.exists() {
            // What an interrupted run has left is root's.
            let mut remove = root.command(Path::new("rm"), &[]);
            child::succeed(remove.args(["-r", "--"]).arg(&directory))?;
        }
        fs::create_dir_all(&directory)?;
        let mut child = root
            .command(
                program,
                &[
                    ("PATH".to_owned(), path),
                    // What an interrupted run leaves is found there by the next one.
                    ("TMPDIR".to_owned(), directory.clone().into_os_string()),
                ],
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let stdin = child.stdin.take().context("its stdin is piped")?;
        let stdout = child.stdout.take().context("its stdout is piped")?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            directory,
        })
    }

    /// How a tool is named in an order.
    pub fn tool(&self, command: &[String]) -> Value {
        json!({ "command": command, "directory": self.directory })
    }

    /// Has an order carried out.
    pub fn order(&mut self, order: &Value) -> Result<Result<Value, Refusal>> {
        writeln!(self.stdin, "{order}").context("the load has ended")?;
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("the load has ended before it answered {order}");
        }
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("the load answered {line:?}"))?;
        Ok(match answer["error"].as_str() {
            Some(error) => Err(Refusal(in_one_line(error))),
            None => Ok(answer),
        })
    }

    /// Ends it, and what it has started ends with it.
    pub fn end(self) -> Result<()> {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        child.wait()?;
        Ok(())
    }
}

/// What a tool says when it fails may be long: its first line and its last tell the most.
fn in_one_line(error: &str) -> String {
    let mut lines = error.lines().filter(|line| !line.trim().is_empty());
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first} … {last}"),
        (Some(only), None) => only.to_owned(),
        (None, _) => "it gave no reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_failure_is_told_by_its_first_line_and_its_last() {
        assert_eq!(in_one_line("ended: a\nb\n\nc\n"), "ended: a … c");
        assert_eq!(in_one_line("ended\n"), "ended");
        assert_eq!(in_one_line(""), "it gave no reason");
    }
}
