//! What the kernel counts for each BPF program, from `/proc/self/fdinfo`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _};

/// More than the kernel writes of a program: some 300 bytes.
const MOST: usize = 4096;

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
    // One read: the kernel writes the whole text into a page of its own first. It is done for each
    // program once a second, and read_to_string() would ask seven times.
    let mut text = [0; MOST];
    let length = File::open(path)?.read(&mut text)?;
    let text = text.get(..length).unwrap_or_default();
    Ok(parse(name, &String::from_utf8_lossy(text)))
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
