//! `cargo xtask setup`: what building and testing need, fetched and built under target/setup.
//!
//! Nothing that is already right is touched. What was made with another compiler is made again.

mod apt;
mod bpf_linker;
mod cargo_tools;
mod deploy;
mod emulator;
mod kernel;
mod peers;
mod rust_src;
mod stamp;
mod tools;
mod tree;

use std::{
    fmt::Display,
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

use crate::{rustc::Rustc, workspace::Workspace};

pub use self::{
    cargo_tools::{deb, deny},
    deploy::{Checkers, checkers},
    emulator::{Emulator, emulator},
    kernel::{Kernel, kernel, kernel_names},
    peers::{Peers, peers},
    stamp::remove_if_there,
    tools::tests,
};

/// What `cargo xtask setup` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also what only the tests need: nginx and wrk
    #[arg(long)]
    tests: bool,
}

/// What builds the BPF object.
pub struct Toolchain {
    pub rustc: Rustc,
    pub linker: PathBuf,
    /// Stands in for the compiler where rust-src could not be laid into its sysroot.
    pub compiler: Option<PathBuf>,
}

/// Sets everything up and says that it is.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let toolchain = toolchain(workspace)?;
    say(format_args!(
        "ready to build for BPF with rustc {} and {}",
        toolchain.rustc.release,
        toolchain.linker.display()
    ));
    if args.tests {
        tests(workspace)?;
        say("ready to test");
    }
    Ok(ExitCode::SUCCESS)
}

/// What building the BPF object needs; silent when all of it is there already.
pub fn toolchain(workspace: &Workspace) -> Result<Toolchain> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let rustc = Rustc::find()?;
    let compiler = rust_src::ensure(&setup, &rustc)?;
    let linker = bpf_linker::ensure(&setup, &rustc, compiler.as_deref())?;
    Ok(Toolchain {
        rustc,
        linker,
        compiler,
    })
}

/// Waits until no other set-up works in this directory.
fn lock(setup: &Path) -> Result<File> {
    fs::create_dir_all(setup).with_context(|| format!("failed to make {}", setup.display()))?;
    let path = setup.join("lock");
    let lock = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        say("waiting for another set-up to end");
        flock(&lock, FlockOperation::LockExclusive)
            .with_context(|| format!("failed to lock {}", path.display()))?;
    }
    Ok(lock)
}

fn say(what: impl Display) {
    eprintln!("setup: {what}");
}
