//! Where the sources and the target directory are.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::child;

/// The directories of the workspace that xtask was built from, as cargo tells them.
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
    /// Where cargo keeps intermediate files, if that is another directory than `target`.
    pub elsewhere: bool,
    pub version: String,
}

impl Workspace {
    /// Asks cargo, so that CARGO_TARGET_DIR and the user's configuration are honoured.
    pub fn find() -> Result<Self> {
        // Set at run time by `cargo run`; the one at build time is for a binary started by hand.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let metadata = child::stdout_of(
            child::cargo()
                .args(["metadata", "--no-deps", "--format-version=1"])
                .current_dir(&manifest_dir),
        )?;
        let metadata: Value =
            serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
        let directory = |name: &str| metadata[name].as_str().map(PathBuf::from);
        let target =
            directory("target_directory").context("cargo metadata: no target_directory")?;
        let build = directory("build_directory");
        Ok(Self {
            root: directory("workspace_root").context("cargo metadata: no workspace_root")?,
            elsewhere: build.is_some_and(|build| build != target),
            target,
            version: metadata["packages"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|package| package["name"] == "tracer")
                .and_then(|package| package["version"].as_str())
                .context("cargo metadata: no package `tracer`")?
                .to_owned(),
        })
    }

    /// Where `build` puts the BPF object and the tracer's build script finds it.
    pub fn object(&self) -> PathBuf {
        self.target.join("bpf/tracer.bpf.o")
    }

    /// What set-up keeps.
    pub fn setup(&self) -> PathBuf {
        self.target.join("setup")
    }

    /// Cargo in the workspace's root, where the default members are all but the BPF crate.
    pub fn cargo(&self) -> std::process::Command {
        let mut cargo = child::cargo();
        cargo.current_dir(&self.root);
        if self.elsewhere {
            cargo.env("TRACER_BPF_OBJECT", self.object());
        }
        cargo
    }
}
