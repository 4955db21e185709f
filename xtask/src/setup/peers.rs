//! The tools that users would pick instead of tracer, for measurements side by side: tcpstates and
//! tcplife of libbpf-tools, and bpftrace, from one release of Debian's.
//!
//! They bring their own C library and are started with its loader, so they run on any x86_64 machine
//! beside what is installed there.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::{self, Apt, Sources},
    lock, say,
    stamp::{Stamp, remove_if_there},
    tree,
};
use crate::{child, workspace::Workspace};

const SUITE: &str = "trixie";
const PACKAGES: [&str; 2] = ["libbpf-tools", "bpftrace"];
const LOADER: &str = "ld-linux-x86-64.so.2";

/// What we call each program, and its file's name in the packages.
const PROGRAMS: [(&str, &str); 3] = [
    ("tcpstates", "tcpstates-libbpf"),
    ("tcplife", "tcplife-libbpf"),
    ("bpftrace", "bpftrace"),
];

/// A script of bpftrace's own.
const SCRIPT: &str = "tcplife.bt";

/// Where the peers are.
pub struct Peers {
    pub tcpstates: PathBuf,
    pub tcplife: PathBuf,
    pub bpftrace: PathBuf,
    /// bpftrace's own tcplife.
    pub script: PathBuf,
}

/// Finds the peers or fetches them.
pub fn peers(workspace: &Workspace) -> Result<Peers> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let dir = setup.join("bench/peers");
    let stamp = Stamp::new(dir.join("stamp"), &[SUITE]);
    if !stamp.is_current() {
        remove_if_there(&dir)?;
        fs::create_dir_all(&dir)?;
        fetch(&setup, &dir)
            .with_context(|| format!("failed to fetch {} of {SUITE}", PACKAGES.join(" and ")))?;
        stamp.set()?;
    }
    let bin = dir.join("bin");
    Ok(Peers {
        tcpstates: bin.join("tcpstates"),
        tcplife: bin.join("tcplife"),
        bpftrace: bin.join("bpftrace"),
        script: bin.join(SCRIPT),
    })
}

fn fetch(setup: &Path, dir: &Path) -> Result<()> {
    if child::on_path("apt-get").is_none() {
        bail!("this machine has no apt");
    }
    say(format_args!(
        "fetching {} of {SUITE} to measure beside, for this directory alone",
        PACKAGES.join(" and ")
    ));
    let root = dir.join("root");
    let mut failures = Vec::new();
    for mirror in apt::mirrors()? {
        let sources = Sources::Debian {
            mirror: &mirror,
            suite: SUITE,
        };
        let fetched = Apt::update(setup.join("apt/peers"), &sources).and_then(|apt| {
            // As on an empty machine: nothing of this one's is counted on.
            let packages = apt.closure(&PACKAGES)?;
            say(format_args!("unpacking {}", packages.join(" ")));
            apt.unpack(&packages, &root)
        });
        match fetched {
            Ok(()) => {
                remove_if_there(&setup.join("apt"))?;
                return lay_out(dir, &files_below(&root)?);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!("no mirror holds them:\n  {}", failures.join("\n  "))
}

/// Makes a script for each program that starts it with what came with it.
fn lay_out(dir: &Path, files: &[PathBuf]) -> Result<()> {
    let named = |name: &str| {
        files
            .iter()
            .find(|file| file.file_name().is_some_and(|it| it == name))
            .with_context(|| format!("the packages hold no {name}"))
    };
    let loader = named(LOADER)?;
    let libraries: BTreeSet<&Path> = files
        .iter()
        .filter(|file| is_library(file))
        .filter_map(|file| file.parent())
        .collect();
    let bin = dir.join("bin");
    fs::create_dir_all(&bin)?;
    for (name, real) in PROGRAMS {
        let script = bin.join(name);
        fs::write(&script, starter(loader, &libraries, named(real)?))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    fs::copy(named(SCRIPT)?, bin.join(SCRIPT))?;
    Ok(())
}

fn is_library(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name.to_string_lossy().contains(".so"))
}

fn starter(loader: &Path, libraries: &BTreeSet<&Path>, program: &Path) -> String {
    let libraries: Vec<_> = libraries
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    format!(
        "#!/bin/sh\nexec {} --library-path {} {} \"$@\"\n",
        child::quoted(loader),
        child::quoted(Path::new(&libraries.join(":"))),
        child::quoted(program),
    )
}

/// Every file and link below `root`.
fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    tree::visit(root, |entry| {
        files.push(entry.path());
        Ok(())
    })?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_started_by_its_own_loader_with_its_own_libraries() {
        let script = starter(
            Path::new("/p/lib64/ld.so"),
            &BTreeSet::from([Path::new("/p/lib"), Path::new("/p/usr/lib")]),
            Path::new("/p/usr/sbin/tcplife-libbpf"),
        );
        assert_eq!(
            script,
            "#!/bin/sh\nexec '/p/lib64/ld.so' --library-path '/p/lib:/p/usr/lib' \
             '/p/usr/sbin/tcplife-libbpf' \"$@\"\n"
        );
    }
}
