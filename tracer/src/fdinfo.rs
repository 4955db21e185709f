//! What the kernel counts for each BPF program, from `/proc/self/fdinfo`.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The counters of one program. Runs and nanoseconds grow only while the kernel's BPF statistics
/// are on (`kernel.bpf_stats_enabled`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramStatistics {
    /// The program.
    pub name: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long, nanoseconds, the statistics' own cost (about 33 ns a run) included.
    pub nanoseconds: u64,
    /// How often it was not run because it was running on that processor already (Linux 5.12).
    pub recursion_misses: u64,
}

/// Reads the counters of the program `name` behind `fd`.
///
/// # Errors
/// Where procfs cannot be read.
pub fn of_program(name: &'static str, fd: impl AsFd) -> io::Result<ProgramStatistics> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    Ok(parse(name, &std::fs::read_to_string(path)?))
}

fn parse(name: &'static str, text: &str) -> ProgramStatistics {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(key)?
                    .strip_prefix(':')?
                    .trim()
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    };
    ProgramStatistics {
        name,
        runs: value("run_cnt"),
        nanoseconds: value("run_time_ns"),
        recursion_misses: value("recursion_misses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text =
            "pos:\t0\nprog_type:\t26\nrun_time_ns:\t120\nrun_cnt:\t3\nrecursion_misses:\t7\n";
        let expected = ProgramStatistics {
            name: "p",
            runs: 3,
            nanoseconds: 120,
            recursion_misses: 7,
        };
        assert_eq!(parse("p", text), expected);
        assert_eq!(parse("p", "pos:\t0\n").runs, 0);
    }
}
