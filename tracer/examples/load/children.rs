//! Processes that do not outlive us.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;

use crate::namespace::Namespace;

/// Starts `command`, inside a network namespace if one is given. The kernel ends it when the calling
/// thread ends: call this from the main thread.
pub fn start(command: &mut Command, inside: Option<&Namespace>) -> Result<Child> {
    let place = inside
        .map(|namespace| namespace.run(|| File::open("/proc/thread-self/ns/net")))
        .transpose()
        .context("failed to open a network namespace")?;
    let prepare = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        if let Some(place) = &place {
            rustix::thread::move_into_link_name_space(
                place.as_fd(),
                Some(LinkNameSpaceType::Network),
            )?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec this makes two system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    command
        .spawn()
        .with_context(|| format!("failed to start {}", command.get_program().display()))
}

/// Sends a signal and waits for the end; after `patience` the process is killed, which is `false`.
pub fn end(child: &mut Child, signal: Signal, patience: Duration) -> Result<bool> {
    if child.try_wait()?.is_some() {
        return Ok(true);
    }
    rustix::process::kill_process(Pid::from_child(child), signal)?;
    let ended = ends_within(child, patience)?;
    if !ended {
        child.kill()?;
        child.wait()?;
    }
    Ok(ended)
}

/// Whether it ends by itself.
pub fn ends_within(child: &mut Child, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}
