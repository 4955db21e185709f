//! cargo-deny, which `lint` checks licences, bans and sources with.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{
    lock, say,
    stamp::{Stamp, remove_if_there},
};
use crate::{child, workspace::Workspace};

const VERSION: &str = "0.20.2";

/// Finds the cargo-deny under target/setup or builds it; one on PATH of another version may judge
/// differently from CI's.
pub fn deny(workspace: &Workspace) -> Result<PathBuf> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let dir = setup.join("cargo-deny");
    let ours = dir.join("bin/cargo-deny");
    let stamp = Stamp::new(dir.join("stamp"), &[&format!("cargo-deny {VERSION}")]);
    if stamp.is_current() && ours.exists() {
        return Ok(ours);
    }
    say(format_args!(
        "building cargo-deny {VERSION} (two or three minutes, once)"
    ));
    let build = dir.join("build");
    stamp.clear()?;
    child::succeed(
        workspace
            .cargo()
            .args([
                "install",
                "--quiet",
                "--locked",
                "--force",
                "cargo-deny",
                "--version",
                VERSION,
            ])
            .arg("--root")
            .arg(&dir)
            .arg("--target-dir")
            .arg(&build),
    )
    .context("failed to build cargo-deny")?;
    remove_if_there(&build)?;
    stamp.set()?;
    Ok(ours)
}
