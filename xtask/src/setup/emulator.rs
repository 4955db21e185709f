//! QEMU, which boots other kernels: the machine's own, or Debian's for this directory alone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::{self, Apt, Sources},
    lock, say,
    stamp::{Stamp, remove_if_there},
    tools::library_dirs,
};
use crate::{child, workspace::Workspace};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// With 7.2 a kernel that rewrites its own code (as it does where a program is attached) now and
/// then runs into the breakpoint that stands there meanwhile, and dies.
const OLDEST: u32 = 10;

/// An emulator that is new enough.
pub struct Emulator {
    /// The program.
    pub program: PathBuf,
    /// Where its package was unpacked, if it was.
    root: Option<PathBuf>,
}

/// Finds QEMU or fetches it.
pub fn emulator(workspace: &Workspace) -> Result<Emulator> {
    if let Some(program) = child::on_path(PROGRAM) {
        let emulator = Emulator {
            program,
            root: None,
        };
        if emulator.version()? >= OLDEST {
            return Ok(emulator);
        }
    }
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let dir = setup.join("vm").join("qemu");
    let root = dir.join("root");
    let stamp = Stamp::new(dir.join("stamp"), &[PACKAGE]);
    let emulator = Emulator {
        program: root.join("usr/bin").join(PROGRAM),
        root: Some(root.clone()),
    };
    if !stamp.is_current() {
        remove_if_there(&dir)?;
        fetch(&setup, &root).with_context(|| {
            format!("failed to fetch QEMU; install {PROGRAM} {OLDEST} or later by hand")
        })?;
        let version = emulator.version()?;
        if version < OLDEST {
            bail!("this Debian has QEMU {version}: {OLDEST} or later is needed, on PATH");
        }
        stamp.set()?;
    }
    Ok(emulator)
}

impl Emulator {
    /// A command that finds its libraries and firmware.
    pub fn command(&self) -> Command {
        let mut command = child::command(&self.program);
        let Some(root) = &self.root else {
            return command;
        };
        // Of the package alone: none of these directories is there without it.
        let libraries = library_dirs(root).unwrap_or_default();
        if let Ok(path) = env::join_paths(&libraries) {
            command.env("LD_LIBRARY_PATH", path);
        }
        if let Some(modules) = libraries
            .iter()
            .map(|dir| dir.join("qemu"))
            .find(|it| it.is_dir())
        {
            command.env("QEMU_MODULE_DIR", modules);
        }
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
        command
    }

    /// The first number of its version.
    fn version(&self) -> Result<u32> {
        let said = child::stdout_of(self.command().arg("--version"))?;
        major(&said).with_context(|| format!("{} tells no version", self.program.display()))
    }
}

fn fetch(setup: &Path, root: &Path) -> Result<()> {
    if child::on_path("apt-get").is_none() {
        bail!("this machine has no apt");
    }
    let base = codename(&fs::read_to_string("/etc/os-release").unwrap_or_default())
        .context("this machine is no Debian")?;
    let backports = format!("{base}-backports");
    let mut failures = Vec::new();
    for mirror in apt::mirrors()? {
        for suite in [&backports, &base] {
            say(format_args!("looking for QEMU in Debian's {suite}"));
            let sources = Sources::Onto {
                mirror: &mirror,
                base: &base,
                suite,
            };
            let fetched = Apt::update(setup.join("apt/qemu"), &sources).and_then(|apt| {
                let packages = apt.closure(&[PACKAGE])?;
                say(format_args!("unpacking {}", packages.join(" ")));
                apt.unpack(&packages, root)
            });
            match fetched {
                Ok(()) => return remove_if_there(&setup.join("apt")),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
    }
    bail!("no suite holds it:\n  {}", failures.join("\n  "))
}

/// The name of this machine's Debian; `None`: it is another system.
fn codename(os_release: &str) -> Option<String> {
    let value = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME").map(str::to_owned))?
}

fn major(said: &str) -> Option<u32> {
    let version = said.split_once("version ")?.1;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003-2025";
        assert_eq!(major(said), Some(10));
        assert_eq!(major("no such thing"), None);
    }

    #[test]
    fn only_debian_has_its_suites() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(codename(debian).as_deref(), Some("bookworm"));
        assert_eq!(codename("ID=other\nVERSION_CODENAME=noble\n"), None);
    }
}
