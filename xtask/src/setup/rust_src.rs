//! The standard library's sources, of the very compiler in use: BPF's `core` is built from them.

use std::{
    fs, io,
    os::unix::{self, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt::{self, Apt, Sources},
    say,
    stamp::{Stamp, remove_if_there},
};
use crate::{child, rustc::Rustc};

/// In a sysroot of our own: the compiler that takes it for its own.
const COMPILER: &str = "rustc";

/// Where rustup lays them, below a sysroot.
const LAID: &str = "lib/rustlib/src/rust";
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Finds the sources or fetches them; returns the compiler to use where the one in use has its
/// sysroot where we may not write.
pub fn ensure(setup: &Path, rustc: &Rustc) -> Result<Option<PathBuf>> {
    let laid = rustc.sysroot.join(LAID);
    let mark = mark(&laid, rustc);
    if is_whole(&laid) && (!mark.is_set() || mark.is_current()) {
        return Ok(None);
    }
    let private = setup.canonicalize()?.join("sysroot");
    let private_stamp = Stamp::new(
        setup.join("sysroot.stamp"),
        &[&rustc.stamp(), &rustc.sysroot.to_string_lossy()],
    );
    if private_stamp.is_current() {
        return Ok(Some(private.join(COMPILER)));
    }
    say(format_args!("rustc {} lacks its rust-src", rustc.release));

    // rustup refuses to overwrite what it did not lay, so what is ours or half made goes first.
    if laid.exists()
        && !rustc.sysroot.join("lib/rustlib/manifest-rust-src").exists()
        && let Err(error) = fs::remove_dir_all(&laid)
        && error.kind() != io::ErrorKind::PermissionDenied
    {
        return Err(error).with_context(|| format!("failed to remove {}", laid.display()));
    }
    if from_rustup(rustc)? && is_whole(&laid) {
        return Ok(None);
    }

    let unpacked = setup.join("rust-src");
    remove_if_there(&unpacked)?;
    from_debian(setup, rustc, &unpacked)?;
    let library = unpacked.join(format!("usr/src/rustc-{}/library", rustc.release));
    let result = if is_writable(&laid) {
        lay(&library, &laid)?;
        mark.set()?;
        say(format_args!(
            "laid into {}; remove it before a `rustup component add rust-src` of your own",
            laid.display()
        ));
        None
    } else {
        say(format_args!(
            "{} is not ours to write: using {}",
            laid.display(),
            private.display()
        ));
        private_stamp.clear()?;
        remove_if_there(&private)?;
        mirror_sysroot(rustc, &private)?;
        write_compiler(rustc, &private)?;
        lay(&library, &private.join(LAID))?;
        private_stamp.set()?;
        Some(private.join(COMPILER))
    };
    remove_if_there(&unpacked)?;
    Ok(result)
}

/// Says that the sources were laid by us, and for which compiler.
fn mark(laid: &Path, rustc: &Rustc) -> Stamp {
    Stamp::new(laid.join("laid-by-cargo-xtask"), &[&rustc.stamp()])
}

fn is_whole(laid: &Path) -> bool {
    ["core/src/lib.rs", "Cargo.lock"]
        .iter()
        .all(|part| laid.join("library").join(part).exists())
}

fn from_rustup(rustc: &Rustc) -> Result<bool> {
    if child::on_path("rustup").is_none() {
        return Ok(false);
    }
    say("rustup component add rust-src");
    let mut rustup = child::command("rustup");
    // The sysroot's directory is the toolchain's name, for rustup's own and for linked ones.
    if let Some(toolchain) = rustc.sysroot.file_name() {
        rustup
            .args(["component", "add", "rust-src", "--toolchain"])
            .arg(toolchain);
    }
    rustup
        .env("RUSTUP_MAX_RETRIES", "1")
        .env_remove("RUST_BACKTRACE");
    let added = child::succeed_within(RUSTUP_LIMIT, &mut rustup)?;
    let added = added.is_some_and(|status| status.success());
    if !added {
        say("rustup cannot: asking Debian");
    }
    Ok(added)
}

fn from_debian(setup: &Path, rustc: &Rustc, into: &Path) -> Result<()> {
    let by_hand = format!(
        "install it by hand: `rustup component add rust-src`, or lay the \
        sources of rustc {} at {}",
        rustc.release,
        rustc.sysroot.join(LAID).display()
    );
    if child::on_path("apt-get").is_none() {
        bail!("rust-src is out of rustup's reach and this machine has no apt; {by_hand}");
    }
    let mut failures = Vec::new();
    for mirror in apt::mirrors()? {
        for suite in SUITES {
            say(format_args!(
                "looking for rust-src {} in Debian's {suite}",
                rustc.release
            ));
            let dir = setup.join("apt").join(suite);
            let apt = match Apt::update(
                dir,
                &Sources::Debian {
                    mirror: &mirror,
                    suite,
                },
            ) {
                Ok(apt) => apt,
                Err(error) => {
                    failures.push(format!("{suite}: {error:#}"));
                    continue;
                }
            };
            let versions = apt.versions("rust-src")?;
            if let Some(version) = apt::version_of_release(&versions, &rustc.release) {
                say(format_args!("fetching Debian's rust-src {version}"));
                apt.unpack(&[format!("rust-src={version}")], into)?;
                return remove_if_there(&setup.join("apt"));
            }
            failures.push(format!("{suite}: only {}", versions.join(", ")));
        }
    }
    bail!(
        "rust-src {} is neither in rustup's reach nor in Debian's:\n  {}\n{by_hand}",
        rustc.release,
        failures.join("\n  ")
    )
}

/// Whether `laid` can be made: tries on its nearest directory that exists.
fn is_writable(laid: &Path) -> bool {
    laid.ancestors()
        .find(|dir| dir.exists())
        .is_some_and(|dir| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok())
}

/// Copies beside the goal first: a reader never sees half of the sources.
fn lay(library: &Path, laid: &Path) -> Result<()> {
    if !library.join("core/src/lib.rs").exists() {
        bail!("Debian's rust-src holds no {}", library.display());
    }
    let part = laid.with_extension("part");
    remove_if_there(&part)?;
    fs::create_dir_all(&part).with_context(|| format!("failed to make {}", part.display()))?;
    child::succeed(
        child::command("cp")
            .arg("-R")
            .arg(library)
            .arg(part.join("library")),
    )?;
    remove_if_there(laid)?;
    fs::rename(&part, laid).with_context(|| format!("failed to lay {}", laid.display()))
}

/// A sysroot that is the compiler's in all but the sources.
fn mirror_sysroot(rustc: &Rustc, private: &Path) -> Result<()> {
    let below = |path: &str, but: &str| -> Result<()> {
        let (from, to) = (rustc.sysroot.join(path), private.join(path));
        fs::create_dir_all(&to)?;
        for entry in
            fs::read_dir(&from).with_context(|| format!("failed to read {}", from.display()))?
        {
            let name = entry?.file_name();
            if name != but {
                unix::fs::symlink(from.join(&name), to.join(&name))?;
            }
        }
        Ok(())
    };
    below("", "lib")?;
    below("lib", "rustlib")?;
    below("lib/rustlib", "src")
}

/// Cargo looks for the sources where its compiler says that the sysroot is, whatever the flags.
fn write_compiler(rustc: &Rustc, private: &Path) -> Result<()> {
    let script = private.join(COMPILER);
    let real = rustc.sysroot.join("bin/rustc");
    let text = format!(
        "#!/bin/sh\nexec {} --sysroot {} \"$@\"\n",
        child::quoted(&real),
        child::quoted(private)
    );
    fs::write(&script, text).with_context(|| format!("failed to write {}", script.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
