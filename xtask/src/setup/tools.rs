//! What only the tests need: nginx and wrk. Neither is installed nor started by us.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::{Apt, Sources},
    lock, say,
    stamp::{Stamp, remove_if_there},
    tree,
};
use crate::{child, workspace::Workspace};

/// Programs that tests start, each in the package of its name.
const FETCHED: [&str; 2] = ["nginx", "wrk"];

/// Finds the tests' programs or fetches them; returns the directories to put before PATH.
pub fn tests(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    if child::on_path("ip").is_none() {
        bail!("the tests need `ip`: install the package iproute2 (apt-get install iproute2)");
    }
    let wanted: Vec<_> = FETCHED
        .into_iter()
        .filter(|program| child::on_path(program).is_none())
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let dir = setup.join("tools");
    let bin = dir.join("bin");
    let stamp = Stamp::new(dir.join("stamp"), &wanted);
    if !stamp.is_current() || !wanted.iter().all(|program| bin.join(program).exists()) {
        remove_if_there(&dir)?;
        fetch(&setup, &dir, &wanted).with_context(|| {
            let names = wanted.join(" ");
            format!("failed to fetch {names}; install by hand: apt-get install {names}")
        })?;
        stamp.set()?;
    }
    Ok(vec![bin])
}

fn fetch(setup: &Path, dir: &Path, wanted: &[&str]) -> Result<()> {
    if child::on_path("apt-get").is_none() {
        bail!("this machine has no apt");
    }
    say(format_args!(
        "fetching {} for the tests, for this directory alone",
        wanted.join(" and ")
    ));
    let apt = Apt::update(setup.join("apt/tools"), &Sources::Machine)?;
    install(&apt, dir, wanted, wanted)?;
    remove_if_there(&setup.join("apt"))
}

/// Unpacks `packages` and what they need, and makes a script for each of `programs` that starts it.
pub fn install(apt: &Apt, dir: &Path, packages: &[&str], programs: &[&str]) -> Result<()> {
    let packages = apt.closure(packages)?;
    say(format_args!("unpacking {}", packages.join(" ")));
    let root = dir.join("root");
    apt.unpack(&packages, &root)?;
    let libraries = library_dirs(&root)?;
    let bin = dir.join("bin");
    fs::create_dir_all(&bin)?;
    for program in programs {
        let real = ["usr/sbin", "usr/bin", "bin"]
            .into_iter()
            .map(|part| root.join(part).join(program))
            .find(|file| file.exists())
            .with_context(|| format!("the packages hold no {program}"))?;
        let script = bin.join(program);
        fs::write(&script, wrapper(&real, &libraries))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Starts a program with the libraries that came with it, before the machine's.
fn wrapper(real: &Path, libraries: &BTreeSet<PathBuf>) -> String {
    let dirs: Vec<_> = libraries
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    let set = match dirs.as_slice() {
        [] => String::new(),
        dirs => format!(
            "export LD_LIBRARY_PATH={}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n",
            child::quoted(Path::new(&dirs.join(":")))
        ),
    };
    format!("#!/bin/sh\n{set}exec {} \"$@\"\n", child::quoted(real))
}

/// The directories below `root` that hold shared libraries which programs link to.
pub fn library_dirs(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    tree::visit(root, |entry| {
        if entry.file_name().to_string_lossy().contains(".so.") {
            found.extend(entry.path().parent().map(Path::to_owned));
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_keeps_the_arguments_and_odd_paths_whole() {
        let libraries = BTreeSet::from([PathBuf::from("/t/it's a lib")]);
        let script = wrapper(Path::new("/t/usr/bin/wrk"), &libraries);
        assert_eq!(
            script,
            "#!/bin/sh\nexport LD_LIBRARY_PATH='/t/it'\\''s a lib'\
             ${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\nexec '/t/usr/bin/wrk' \"$@\"\n"
        );
    }

    #[test]
    fn a_program_without_libraries_of_its_own_gets_no_library_path() {
        let script = wrapper(Path::new("/t/usr/sbin/nginx"), &BTreeSet::new());
        assert_eq!(script, "#!/bin/sh\nexec '/t/usr/sbin/nginx' \"$@\"\n");
    }
}
