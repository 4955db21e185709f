//! What the kernel's BPF statistics say of a process's programs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Runs of one program, and the nanoseconds that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    pub runs: u64,
    pub nanoseconds: u64,
}

impl Runs {
    pub fn since(self, before: Self) -> Self {
        Self {
            runs: self.runs - before.runs,
            nanoseconds: self.nanoseconds - before.nanoseconds,
        }
    }

    /// For the answer.
    pub fn view(self) -> Value {
        json!({ "runs": self.runs, "ns": self.nanoseconds })
    }
}

/// Programs by their number.
pub type Programs = BTreeMap<u32, Runs>;

/// Those that `pid` holds descriptors of.
pub fn of(pid: u32) -> Result<Programs> {
    let mut programs = Programs::new();
    let directory = format!("/proc/{pid}/fdinfo");
    let entries =
        fs::read_dir(&directory).with_context(|| format!("failed to read {directory}"))?;
    for entry in entries {
        // One that has been closed meanwhile is no program that runs.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        if let Some((id, runs)) = parse(&text) {
            programs.insert(id, runs);
        }
    }
    Ok(programs)
}

/// What the program of a descriptor of ours has run.
pub fn of_descriptor(program: impl AsFd) -> Result<Runs> {
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let (_, runs) = parse(&text).with_context(|| format!("{path} is no program's"))?;
    Ok(runs)
}

/// The number and the runs. Links have a program's number too, but none of its runs.
fn parse(text: &str) -> Option<(u32, Runs)> {
    let value = |key: &str| -> Option<u64> {
        text.lines().find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(':')?
                .trim()
                .parse()
                .ok()
        })
    };
    let runs = Runs {
        runs: value("run_cnt")?,
        nanoseconds: value("run_time_ns")?,
    };
    Some((u32::try_from(value("prog_id")?).ok()?, runs))
}

/// What each did from `before` to `after`, with its name.
pub fn difference(before: &Programs, after: &Programs) -> Vec<(String, Runs)> {
    let names: HashMap<u32, String> = aya::programs::loaded_programs()
        .flatten()
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .collect();
    let difference = |(id, runs): (&u32, &Runs)| {
        let name = names.get(id).cloned().unwrap_or_else(|| id.to_string());
        (
            name,
            runs.since(before.get(id).copied().unwrap_or_default()),
        )
    };
    after.iter().map(difference).collect()
}
