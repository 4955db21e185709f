//! Root, for what cannot be done without, and for nothing else.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, stdin},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::child;

/// How a child becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// It is already.
    Already,
    /// Through sudo, which has been asked and agreed.
    Sudo,
}

/// Finds the way to root; asks for the password where there is someone to ask.
///
/// `verb` and `purpose` tell the person at the terminal who asks, and what for.
pub fn ask(verb: &str, purpose: &str) -> Result<Root> {
    if rustix::process::geteuid().is_root() {
        return Ok(Root::Already);
    }
    if child::on_path("sudo").is_none() {
        bail!("{purpose} needs root, and there is no sudo: run this as root");
    }
    let sudo = |args: &[&str]| {
        child::command("sudo")
            .args(args)
            .stderr(Stdio::inherit())
            .status()
    };
    let quietly = child::command("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if quietly.is_ok_and(|status| status.success()) {
        return Ok(Root::Sudo);
    }
    if !stdin().is_terminal() {
        bail!(
            "{purpose} needs root, and sudo wants a password: run `sudo -v` first, or this as root"
        );
    }
    eprintln!("{verb}: {purpose} needs root: sudo may ask for your password");
    if sudo(&["-v"])?.success() {
        return Ok(Root::Sudo);
    }
    bail!("{purpose} needs root, and sudo refused it")
}

impl Root {
    /// A command that runs as root with these variables, which sudo would otherwise take away.
    pub fn command(self, program: &Path, variables: &[(String, OsString)]) -> Command {
        match self {
            Self::Already => {
                let mut command = child::command(program);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                command
            }
            Self::Sudo => {
                let mut command = child::command("sudo");
                command.arg("env");
                for (name, value) in variables {
                    let mut assignment = OsString::from(name);
                    assignment.push("=");
                    assignment.push(value);
                    command.arg(assignment);
                }
                command.arg(program);
                command
            }
        }
    }
}
