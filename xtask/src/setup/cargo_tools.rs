//! Programs from crates.io that a verb needs, of one version everywhere: one on PATH of another version
//! may judge differently from CI's.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{
    lock, say,
    stamp::{Stamp, remove_if_there},
};
use crate::{child, workspace::Workspace};

/// Finds the cargo-deny under target/setup or builds it: `lint` checks licences, bans and sources
/// with it.
pub fn deny(workspace: &Workspace) -> Result<PathBuf> {
    ensure(workspace, "cargo-deny", "0.20.2")
}

/// Finds the cargo-deb under target/setup or builds it: `dist --deb` packs with it.
pub fn deb(workspace: &Workspace) -> Result<PathBuf> {
    ensure(workspace, "cargo-deb", "3.8.0")
}

fn ensure(workspace: &Workspace, name: &str, version: &str) -> Result<PathBuf> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let dir = setup.join(name);
    let ours = dir.join("bin").join(name);
    let wanted = format!("{name} {version}");
    let stamp = Stamp::new(dir.join("stamp"), &[&wanted]);
    if stamp.is_current() && ours.exists() {
        return Ok(ours);
    }
    say(format_args!(
        "building {wanted} (two or three minutes, once)"
    ));
    let build = dir.join("build");
    stamp.clear()?;
    child::succeed(
        workspace
            .cargo()
            .args(["install", "--quiet", "--locked", "--force", name])
            .args(["--version", version, "--root"])
            .arg(&dir)
            .arg("--target-dir")
            .arg(&build),
    )
    .with_context(|| format!("failed to build {name}"))?;
    remove_if_there(&build)?;
    stamp.set()?;
    Ok(ours)
}
