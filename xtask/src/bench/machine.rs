//! The machine that was measured on.

use std::fs;

use anyhow::Result;

use super::figure::Machine;
use crate::{child, workspace::Workspace};

/// What differs from the commit, but for what a bench itself has left there.
const CHANGED: [&str; 7] = [
    "status",
    "--porcelain",
    "--untracked-files=no",
    "--",
    ".",
    ":!tracer/benches/results.json",
    ":!README.md",
];

/// This one, now.
pub fn describe(workspace: &Workspace) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let git = |words: &[&str]| {
        child::stdout_of(
            child::command("git")
                .args(words)
                .current_dir(&workspace.root),
        )
    };
    // Sources without a repository have no commit.
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let changed = git(&CHANGED).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    Ok(Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        processors: cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count() as u64,
        cpu_model: value(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        memory_bytes: memory(&read("/proc/meminfo")).unwrap_or_default(),
        date: child::stdout_of(child::command("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?
            .trim()
            .to_owned(),
        commit: commit.trim().to_owned(),
        dirty: !changed.trim().is_empty(),
    })
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim())
}

fn memory(meminfo: &str) -> Option<u64> {
    let kib: u64 = value(meminfo, "MemTotal")?
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        assert_eq!(memory("MemTotal:       2 kB\nMemFree: 1 kB\n"), Some(2048));
        assert_eq!(memory(""), None);
    }
}
