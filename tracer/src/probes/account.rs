//! What the kernel side has counted.

use std::io;

use tracer_common::event::Account;

use super::Probes;
use super::table::{PROBES, Role};
use crate::clock;
use crate::fdinfo::{self, ProgramStatistics};
use crate::stream::AccountReading;

impl Probes {
    /// Reads the accounts.
    ///
    /// # Errors
    /// Where the map or a program's fdinfo cannot be read.
    pub fn account(&self) -> io::Result<AccountReading> {
        let statistics = self.statistics()?;
        let mut reading = AccountReading {
            at: clock::monotonic(),
            ..AccountReading::default()
        };
        let mut attempts = 0;
        let mut unrecovered: i64 = statistics
            .iter()
            .filter(|program| {
                PROBES.iter().any(|probe| {
                    probe.name == program.name && !matches!(probe.role, Role::Second(_))
                })
            })
            .map(|program| i64::try_from(program.recursion_misses).unwrap_or(i64::MAX))
            .sum();
        for (cpu, account) in self.per_cpu()?.iter().enumerate() {
            attempts += account.attempts;
            let lost: u64 = account.lost.iter().sum();
            if lost > 0 {
                reading
                    .lost_by_cpu
                    .push((u16::try_from(cpu).unwrap_or(u16::MAX), lost));
            }
            reading.ring_lost += lost;
            for (total, lost) in reading.lost_by_kind.iter_mut().zip(account.lost) {
                *total += lost;
            }
            let seen_by_second: u64 =
                account.recovered.iter().sum::<u64>() + account.foreign.iter().sum::<u64>();
            unrecovered -= i64::try_from(seen_by_second).unwrap_or(i64::MAX);
        }
        reading.programs = statistics;
        reading.gone = self.gone();
        reading.unrecovered = unrecovered;
        reading.hits = attempts.saturating_add_signed(unrecovered);
        Ok(reading)
    }

    /// What the kernel has counted for each attached program.
    ///
    /// # Errors
    /// Where a program's fdinfo cannot be read.
    pub fn statistics(&self) -> io::Result<Vec<ProgramStatistics>> {
        let mut all = Vec::with_capacity(PROBES.len());
        for probe in &PROBES {
            if let Some(program) = self.ebpf.program(probe.name)
                && let Ok(fd) = program.fd()
            {
                all.push(fdinfo::of_program(probe.name, fd)?);
            }
        }
        Ok(all)
    }

    fn per_cpu(&self) -> io::Result<Vec<Account>> {
        self.account
            .get(&0, 0)
            .map(|values| values.iter().copied().collect())
            .map_err(io::Error::other)
    }
}
