//! `cargo xtask dist`: one static binary to copy to a sick host; with `--deb` a package of it.

mod deb;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64, PT_INTERP},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

use crate::{bpf, child, rustc::Rustc, setup, workspace::Workspace};

/// What `cargo xtask dist` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also pack it for Debian, with the service, its configuration, manual pages and completions
    #[arg(long)]
    deb: bool,
}

/// Builds, checks, and says where the binary is.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let object = bpf::build(workspace, &setup::toolchain(workspace)?)?;
    let target = target()?;
    let mut cargo = workspace.cargo();
    child::succeed(
        cargo
            // With --target the flags leave build scripts and procedural macros alone.
            .args([
                "build",
                "--package",
                "tracer",
                "--bin",
                "tracer",
                "--release",
                "--target",
            ])
            .arg(&target)
            .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
            .env("CARGO_PROFILE_RELEASE_LTO", "thin")
            .env_remove("RUSTFLAGS"),
    )?;
    let built = workspace.target.join(&target).join("release/tracer");
    let bytes = fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
    let name = built.display();
    is_static(&bytes).with_context(|| format!("{name} is not static"))?;
    bpf::verify_embedded(&built, &object)?;

    let arch = target.split('-').next().unwrap_or(&target);
    let dist = workspace.target.join("dist");
    let binary = dist.join(format!("tracer-{}-{arch}-linux", workspace.version));
    fs::create_dir_all(&dist).with_context(|| format!("failed to make {}", dist.display()))?;
    fs::copy(&built, &binary).with_context(|| format!("failed to write {}", binary.display()))?;
    match starts_alone(&binary, &dist.join("empty-root"), &workspace.version)? {
        Alone::Yes => eprintln!("dist: starts in an empty root directory"),
        Alone::Untried(reason) => eprintln!("dist: not tried in an empty root directory: {reason}"),
    }
    eprintln!(
        "dist: {} ({:.1} MB)",
        binary.display(),
        bytes.len() as f64 / 1e6
    );
    if args.deb {
        let package = deb::pack(workspace, &target, &built, &dist)?;
        eprintln!("dist: {package}");
    }
    Ok(ExitCode::SUCCESS)
}

/// musl's target where it is installed, else the host's own.
fn target() -> Result<String> {
    let rustc = Rustc::of_host()?;
    let musl = rustc.host.replace("-gnu", "-musl");
    let installed = rustc
        .sysroot
        .join("lib/rustlib")
        .join(&musl)
        .join("lib")
        .exists();
    Ok(if installed { musl } else { rustc.host })
}

/// Asks for no interpreter and no library.
fn is_static(bytes: &[u8]) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, bytes)? {
        ensure!(
            segment.p_type(endian) != PT_INTERP,
            "it asks for an interpreter"
        );
        for entry in segment.dynamic(endian, bytes)?.into_iter().flatten() {
            ensure!(entry.tag(endian) != DT_NEEDED, "it asks for a library");
        }
    }
    Ok(())
}

enum Alone {
    Yes,
    Untried(String),
}

/// Starts the binary where there is nothing but itself.
fn starts_alone(binary: &Path, root: &Path, version: &str) -> Result<Alone> {
    fs::create_dir_all(root)?;
    let inside = root.join("tracer");
    fs::copy(binary, &inside)?;
    let chroot = |command: &mut Command| {
        command
            .arg(root)
            .args(["/tracer", "--version"])
            .env("PATH", child::path_with(&[]))
            .output()
    };
    let output = if rustix::process::geteuid().is_root() {
        chroot(&mut child::command("chroot"))
    } else {
        let namespace = child::command("unshare").args(["-r", "true"]).output();
        if !namespace.is_ok_and(|output| output.status.success()) {
            return Ok(Alone::Untried("users may not make namespaces here".into()));
        }
        chroot(child::command("unshare").args(["-r", "chroot"]))
    };
    fs::remove_dir_all(root)?;
    let output = output.context("failed to start chroot")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.contains(version) {
        bail!(
            "alone, `tracer --version` {} and said {said:?} {:?}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Alone::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_libraries_is_not_static() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_static(&this).is_err());
        assert!(is_static(b"#!/bin/sh").is_err());
    }
}
