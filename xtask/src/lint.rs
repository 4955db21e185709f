//! `cargo xtask lint`: formatting, clippy, documentation, dependencies, in the order of their cost.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{
    bpf,
    child::{self, Stopwatch},
    setup,
    workspace::Workspace,
};

/// What `cargo xtask lint` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out cargo-deny: licences, banned crates, sources
    #[arg(long)]
    no_deny: bool,
}

/// Stops at the first check that finds something.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let watch = Stopwatch::start();
    step(
        "formatting",
        workspace.cargo().args(["fmt", "--all", "--check"]),
    )?;
    step(
        "clippy",
        workspace
            .cargo()
            .args(["clippy", "--workspace", "--exclude", "tracer-ebpf"])
            .args(["--all-targets", "--", "-Dwarnings"]),
    )?;
    let toolchain = setup::toolchain(workspace)?;
    step(
        "clippy for BPF",
        bpf::cargo(workspace, &toolchain, "clippy").args(["--", "-Dwarnings"]),
    )?;
    step(
        "documentation",
        workspace
            .cargo()
            .args(["doc", "--workspace", "--exclude", "tracer-ebpf"])
            .args(["--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    if !args.no_deny {
        let deny = setup::deny(workspace)?;
        step(
            "licences, bans, sources",
            &mut deny_command(workspace, &deny),
        )?;
    }
    eprintln!("lint: clean ({:.0} s)", watch.elapsed().as_secs_f32());
    Ok(ExitCode::SUCCESS)
}

/// The advisories' database is not a registry: where it cannot be fetched, nothing would be said.
fn deny_command(workspace: &Workspace, deny: &Path) -> Command {
    let mut command = child::command(deny);
    command
        .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
        .args(["licenses", "bans", "sources"])
        .current_dir(&workspace.root);
    command
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("lint: {what}");
    child::succeed(command)
}
