//! What a test binary says about itself.

use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Count {
    /// Reads libtest's last line: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub fn of_result_line(line: &str) -> Option<Self> {
        let (_, counts) = line
            .trim_end()
            .strip_prefix("test result: ")?
            .split_once(". ")?;
        let number = |what: &str| {
            counts
                .split("; ")
                .find_map(|part| part.strip_suffix(what)?.trim_end().parse().ok())
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            skipped: number("ignored")?,
        })
    }

    /// The tests that `--list` names, all of them skipped.
    pub fn skipping(list: &str) -> Self {
        let tests = list.lines().filter(|line| line.ends_with(": test")).count();
        Self {
            skipped: u64::try_from(tests).unwrap_or(u64::MAX),
            ..Self::default()
        }
    }

    /// Moves tests that said they had skipped themselves from where libtest counts them.
    pub fn with_skips(self, skips: u64) -> Self {
        let moved = skips.min(self.passed);
        Self {
            passed: self.passed - moved,
            skipped: self.skipped + moved,
            ..self
        }
    }

    pub fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_line_is_counted_whether_good_or_bad() {
        let ok = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s";
        assert_eq!(
            Count::of_result_line(ok),
            Some(Count {
                passed: 3,
                failed: 0,
                skipped: 1
            })
        );
        let bad = "test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9s\n";
        assert_eq!(
            Count::of_result_line(bad),
            Some(Count {
                passed: 12,
                failed: 2,
                skipped: 0
            })
        );
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_a_result() {
        for line in [
            "test a::b ... ok",
            "test result: unknown",
            "running 3 tests",
            "",
        ] {
            assert_eq!(Count::of_result_line(line), None, "{line}");
        }
    }

    #[test]
    fn a_binary_that_is_not_run_skips_each_of_its_tests() {
        let list = "ipv4::closes: test\nipv6::closes: test\nspeed: bench\n\n2 tests, 1 benchmark\n";
        assert_eq!(Count::skipping(list).skipped, 2);
    }

    #[test]
    fn sums_keep_the_kinds_apart_and_read_as_one_plain_line() {
        let mut sum = Count {
            passed: 1,
            failed: 0,
            skipped: 0,
        };
        sum += Count {
            passed: 5,
            failed: 1,
            skipped: 2,
        }
        .with_skips(2);
        assert_eq!(sum.to_string(), "4 passed, 1 failed, 4 skipped");
        assert_eq!(sum.total(), 9);
    }
}
