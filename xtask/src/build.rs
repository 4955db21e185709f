//! `cargo xtask build`: the BPF object, then the tracer with the object inside.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{bpf, child, setup, workspace::Workspace};

/// What `cargo xtask build` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build the tracer without optimisation; the BPF object is always optimised
    #[arg(long)]
    debug: bool,
}

/// Builds and says where the program is.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let tracer = tracer(workspace, !args.debug)?;
    eprintln!("build: {}", tracer.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds one of tracer's examples: what makes the demo's scenes, the bench's loads.
pub fn example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "tracer", "--example", name]);
    child::succeed(cargo.env_remove("CARGO_BUILD_TARGET"))?;
    Ok(workspace.target.join("debug/examples").join(name))
}

/// Builds everything; returns the program's path.
pub fn tracer(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    let toolchain = setup::toolchain(workspace)?;
    let object = bpf::build(workspace, &toolchain)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "tracer", "--bin", "tracer"]);
    if release {
        cargo.arg("--release");
    }
    // With a target set, cargo would put the program elsewhere.
    child::succeed(cargo.env_remove("CARGO_BUILD_TARGET"))?;
    let tracer = workspace.target.join(if release {
        "release/tracer"
    } else {
        "debug/tracer"
    });
    bpf::verify_embedded(&tracer, &object)?;
    Ok(tracer)
}
