//! `cargo xtask run`: set up, build, and trace.

use std::{
    env,
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitCode, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    build,
    child::{self, Stopwatch},
    root, sample,
    workspace::Workspace,
};

/// What reads no kernel and therefore runs as the user.
const UNPRIVILEGED: [&str; 4] = ["report", "completions", "man", "help"];

/// What sudo must not take away: the tracer's own settings and what the terminal can show.
const KEPT: [&str; 7] = [
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLORTERM",
    "COLUMNS",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// How long the terminal's Ctrl-C may take to end the tracer before it is told again.
const HEARD_BY: Duration = Duration::from_secs(1);

/// What `cargo xtask run` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Arguments of the tracer; without any: `watch`, beside a little traffic to see
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    tracer: Vec<OsString>,
}

/// Runs the tracer to its end and exits as it does.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let tracer = build::tracer(workspace, true)?;
    let mut command = if is_unprivileged(&args.tracer) {
        child::command(&tracer)
    } else {
        root::ask("run", "tracing")?.command(&tracer, &kept_variables())
    };
    let sample = if args.tracer.is_empty() {
        command.arg("watch");
        Some(sample::Traffic::start()?)
    } else {
        command.args(&args.tracer);
        None
    };
    if let Some(sample) = &sample {
        eprintln!(
            "run: opening a loopback connection a second to {}, so that there is something to see; \
             without it: cargo xtask run -- watch",
            sample.address()
        );
    }
    let (interrupted, ended) = hold_signals()?;
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to start {}", tracer.display()))?;
    let status = wait(&mut child, &interrupted, &ended)?;
    Ok(code(status))
}

/// Signals that would end us before the tracer has said its last word.
fn hold_signals() -> Result<(Arc<AtomicBool>, Arc<AtomicBool>)> {
    // Handlers, not SIG_IGN: the child would inherit that.
    let (interrupted, ended) = (Arc::default(), Arc::default());
    signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))?;
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    Ok((interrupted, ended))
}

/// Waits for the tracer. Ctrl-C reaches it from the terminal; what reached us alone is passed on.
fn wait(child: &mut Child, interrupted: &AtomicBool, ended: &AtomicBool) -> Result<ExitStatus> {
    let mut since_interrupt = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupted.swap(false, Ordering::Relaxed) {
            since_interrupt = Some(Stopwatch::start());
        }
        let unheard = since_interrupt
            .as_ref()
            .is_some_and(|since| since.elapsed() > HEARD_BY);
        if ended.swap(false, Ordering::Relaxed) || unheard {
            since_interrupt = None;
            end(child);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Asks the tracer to end; its sudo is root's and hears only root.
fn end(child: &Child) {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return;
    };
    if kill_process(pid, Signal::TERM) == Err(Errno::PERM) {
        let kill = child::command("sudo")
            .args(["-n", "kill", &child.id().to_string()])
            .status();
        if !kill.is_ok_and(|status| status.success()) {
            eprintln!(
                "run: the tracer runs as root: end it with `sudo kill {}`",
                child.id()
            );
        }
    }
}

fn is_unprivileged(args: &[OsString]) -> bool {
    args.first()
        .is_some_and(|verb| UNPRIVILEGED.iter().any(|known| verb == known))
        || args.iter().any(|arg| {
            ["-h", "--help", "-V", "--version"]
                .iter()
                .any(|known| arg == known)
        })
}

fn kept_variables() -> Vec<(String, OsString)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| KEPT.contains(&name.as_str()) || is_setting(name))
        .collect()
}

/// The tracer's own variables, less those of its build and tests.
fn is_setting(name: &str) -> bool {
    name.starts_with("TRACER_")
        && !name.starts_with("TRACER_BPF_")
        && !name.starts_with("TRACER_TEST_")
}

/// As a shell would tell it: 128 and the signal.
fn code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_no_kernel_runs_without_root() {
        let args = |line: &str| {
            line.split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>()
        };
        for line in [
            "report a.trace --html",
            "--version",
            "watch --help",
            "completions bash",
        ] {
            assert!(is_unprivileged(&args(line)), "{line}");
        }
        for line in ["", "watch --comm man", "check", "ports", "record report"] {
            assert!(!is_unprivileged(&args(line)), "{line}");
        }
    }

    #[test]
    fn the_tracers_exit_is_ours() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(code(ExitStatus::from_raw(2)), ExitCode::from(130));
    }

    #[test]
    fn a_tracer_that_missed_the_interrupt_is_told_to_end() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let interrupted = AtomicBool::new(true);
        let status = wait(&mut child, &interrupted, &AtomicBool::new(false)).unwrap();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }
}
