//! What is measured side by side: tracer's ways of telling, and the tools that users have today.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::say;
use crate::{
    child,
    setup::{self, Peers},
    workspace::Workspace,
};

/// There where the kernel has them.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

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

/// Names of the tools that are not ours.
const OTHERS: [&str; 4] = [
    "tcpstates",
    "tcplife",
    "tcplife.bt",
    "tcplife.bt-tracepoint",
];

/// Whether a figure of that name tells of a tool that is not ours.
pub fn is_of_another(figure: &str) -> bool {
    figure.split('/').any(|part| OTHERS.contains(&part))
}

/// tracer's programs in the kernel and a reader that throws all away: what is lost beside them no
/// agent can give back.
pub const PROBES: &str = "probes-alone";

/// All that can be had here.
pub struct Contenders {
    pub all: Vec<Contender>,
}

/// tracer's, which writes every record.
pub const JSON: &str = "watch-json";

impl Contenders {
    /// tracer's three, its probes alone, and the peers, or the reason why they are not there.
    pub fn find(workspace: &Workspace, tracer: &Path, probes: &Path) -> Result<Self> {
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
            contender(PROBES, Telling::Sums, &[&probes.display().to_string()]),
        ];
        match setup::peers(workspace) {
            Ok(peers) => {
                let path = |path: &Path| path.display().to_string();
                let (bpftrace, script) = script(&peers)?;
                let script = [path(&peers.bpftrace), path(&script)];
                all.extend([
                    contender(
                        "tcpstates",
                        Telling::Transitions,
                        &[&path(&peers.tcpstates)],
                    ),
                    contender("tcplife", Telling::Closes, &[&path(&peers.tcplife)]),
                    contender(
                        bpftrace,
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

/// bpftrace's tcplife, as it is called and where it is. It attaches to a function of the kernel's,
/// which takes kprobes; on a kernel without them its body is attached to the tracepoint.
fn script(peers: &Peers) -> Result<(&'static str, PathBuf)> {
    if Path::new(KPROBES).exists() {
        return Ok(("tcplife.bt", peers.script.clone()));
    }
    say("this kernel has no kprobes: bpftrace's tcplife is attached to the tracepoint");
    let text = fs::read_to_string(&peers.script)?;
    let moved = peers.script.with_file_name("tcplife-tracepoint.bt");
    fs::write(
        &moved,
        on_tracepoint(&text).context("tcplife.bt is not the one we know")?,
    )?;
    Ok(("tcplife.bt-tracepoint", moved))
}

fn on_tracepoint(script: &str) -> Option<String> {
    let mut moved = script.to_owned();
    for (from, to) in [
        (
            "kprobe:tcp_set_state",
            "tracepoint:sock:inet_sock_set_state",
        ),
        ("(struct sock *)arg0", "(struct sock *)args.skaddr"),
        ("$newstate = arg1", "$newstate = args.newstate"),
    ] {
        if !moved.contains(from) {
            return None;
        }
        moved = moved.replace(from, to);
    }
    Some(moved)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_moved_to_the_tracepoint_whole_or_not_at_all() {
        let script = "kprobe:tcp_set_state\n{ $sk = (struct sock *)arg0; $newstate = arg1; }";
        assert_eq!(
            on_tracepoint(script).unwrap(),
            "tracepoint:sock:inet_sock_set_state\n\
             { $sk = (struct sock *)args.skaddr; $newstate = args.newstate; }"
        );
        assert_eq!(on_tracepoint("kprobe:tcp_close { arg0 }"), None);
    }
}
