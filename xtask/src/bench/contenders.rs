//! What is measured side by side: tracer's ways of telling, and the tools that users have today.

use std::path::Path;

use anyhow::Result;

use super::say;
use crate::{child, setup, workspace::Workspace};

/// A program to run beside a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// As it is called in figures.
    pub name: &'static str,
    pub command: Vec<String>,
    pub telling: Telling,
}

/// What one line stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// A close, and another one the end of the tuple.
    ClosesAndEnds,
    /// A close; ends only where there was a TIME_WAIT.
    Closes,
    /// A change of state.
    Transitions,
    /// Nothing: there is one line in all.
    Sums,
}

/// All that can be had here.
pub struct Contenders {
    pub all: Vec<Contender>,
}

/// tracer's, which writes every record.
pub const JSON: &str = "watch-json";

impl Contenders {
    /// tracer's three, and the peers, or the reason why they are not there.
    pub fn find(workspace: &Workspace, tracer: &Path) -> Result<Self> {
        let contender = |name, telling, command: &[&str]| Contender {
            name,
            telling,
            command: command.iter().map(|&word| word.to_owned()).collect(),
        };
        let tracer = tracer.display().to_string();
        let mut aggregates = vec![tracer.as_str(), "watch"];
        aggregates.extend(sums_alone(&tracer)?);
        let mut all = vec![
            contender("watch-table", Telling::Closes, &[&tracer, "watch"]),
            contender(JSON, Telling::ClosesAndEnds, &[&tracer, "watch", "--json"]),
            contender("aggregates", Telling::Sums, &aggregates),
        ];
        match setup::peers(workspace) {
            Ok(peers) => {
                let path = |path: &Path| path.display().to_string();
                let script = [path(&peers.bpftrace), path(&peers.script)];
                all.extend([
                    contender(
                        "tcpstates",
                        Telling::Transitions,
                        &[&path(&peers.tcpstates)],
                    ),
                    contender("tcplife", Telling::Closes, &[&path(&peers.tcplife)]),
                    contender(
                        "bpftrace-tcplife",
                        Telling::Closes,
                        &script.each_ref().map(String::as_str),
                    ),
                ]);
            }
            Err(error) => say(format_args!("without other tools beside it: {error:#}")),
        }
        Ok(Self { all })
    }
}

/// The words that leave only the sums.
fn sums_alone(tracer: &str) -> Result<&'static [&'static str]> {
    let help = child::stdout_of(child::command(tracer).args(["watch", "--help"]))?;
    Ok(if help.contains("--summary") {
        &["--summary"]
    } else {
        // A tracer without that option: nobody has this port.
        &["--port", "1"]
    })
}
