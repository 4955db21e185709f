//! The compiler that builds the BPF object, and the LLVM inside it.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::child;

/// Names the toolchain for the BPF crate alone, where the one in use cannot serve.
pub const PIN: &str = "TRACER_BPF_TOOLCHAIN";

/// The newest toolchain known to work; what is offered where the one in use cannot serve.
pub const KNOWN_GOOD: &str = "1.95.0";

/// What `rustc -vV` and `rustc --print sysroot` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rustc {
    pub release: String,
    /// "unknown" for a compiler that was built outside git.
    pub commit_hash: String,
    pub host: String,
    /// 22 for LLVM 22.1.2.
    pub llvm: u32,
    pub sysroot: PathBuf,
    pin: Option<String>,
}

impl Rustc {
    /// Asks the compiler that builds the BPF crate: the one in use, or the one that [`PIN`] names.
    pub fn find() -> Result<Self> {
        Self::ask(env::var(PIN).ok().filter(|pin| !pin.is_empty()))
    }

    /// Asks the compiler in use, which builds all that is not BPF.
    pub fn of_host() -> Result<Self> {
        Self::ask(None)
    }

    fn ask(pin: Option<String>) -> Result<Self> {
        let facts = child::stdout_of(rustc(pin.as_deref()).arg("-vV"))?;
        let sysroot = child::stdout_of(rustc(pin.as_deref()).args(["--print", "sysroot"]))?;
        Self::parse(&facts, sysroot.trim_end().into(), pin)
    }

    fn parse(facts: &str, sysroot: PathBuf, pin: Option<String>) -> Result<Self> {
        let fact = |name: &str| {
            facts
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("rustc -vV does not say its {name}"))
        };
        let llvm = fact("LLVM version")?;
        let major = llvm.split('.').next().unwrap_or_default();
        Ok(Self {
            release: fact("release")?,
            commit_hash: fact("commit-hash")?,
            host: fact("host")?,
            llvm: major
                .parse()
                .with_context(|| format!("rustc -vV: LLVM version {llvm}"))?,
            sysroot,
            pin,
        })
    }

    /// The cargo that goes with this compiler.
    pub fn cargo(&self) -> Command {
        match &self.pin {
            None => child::cargo(),
            Some(pin) => rustup_run(pin, "cargo"),
        }
    }

    /// The shared LLVM inside this compiler: what follows `-l`.
    pub fn llvm_library(&self) -> Result<String> {
        let dir = self.sysroot.join("lib");
        let prefix = format!("libLLVM-{}-rust-", self.llvm);
        fs::read_dir(&dir)
            .with_context(|| format!("failed to read {}", dir.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find_map(|name| {
                let name = name.strip_prefix("lib")?.strip_suffix(".so")?;
                format!("lib{name}")
                    .starts_with(&prefix)
                    .then(|| name.to_owned())
            })
            .with_context(|| {
                format!(
                    "no {prefix}*.so in {}: not a toolchain of rustup's",
                    dir.display()
                )
            })
    }

    /// One line for a stamp: what was made with another compiler is made again.
    pub fn stamp(&self) -> String {
        format!("rustc {} {}", self.release, self.commit_hash)
    }
}

fn rustc(pin: Option<&str>) -> Command {
    match pin {
        None => child::command(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())),
        Some(pin) => rustup_run(pin, "rustc"),
    }
}

fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = child::command("rustup");
    command
        .args(["run", toolchain, program])
        .env("RUSTUP_TOOLCHAIN", toolchain)
        .env_remove("RUSTC");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\n\
        commit-hash: 59807616e1fa2540724bfbac14d7976d7e4a3860\ncommit-date: 2026-04-14\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";

    #[test]
    fn facts_are_read_by_name() {
        let rustc = Rustc::parse(FACTS, "/toolchain".into(), None).unwrap();
        assert_eq!(rustc.release, "1.95.0");
        assert_eq!(rustc.llvm, 22);
        assert_eq!(rustc.host, "x86_64-unknown-linux-gnu");
        assert_eq!(
            rustc.stamp(),
            "rustc 1.95.0 59807616e1fa2540724bfbac14d7976d7e4a3860"
        );
    }

    #[test]
    fn a_compiler_without_llvm_is_refused_by_name() {
        let cranelift = FACTS.replace("LLVM version: 22.1.2\n", "");
        let error = Rustc::parse(&cranelift, "/toolchain".into(), None).unwrap_err();
        assert!(error.to_string().contains("LLVM version"), "{error}");
    }
}
