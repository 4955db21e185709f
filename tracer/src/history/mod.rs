//! The history: every connection that ended, in Parquet files, for DuckDB, ClickHouse or Spark.
//!
//! ```text
//! Consumer::end ─> Row::of ─> History::offer ─┐ batches    ┌─ thread ────────────────────┐
//! Consumer::tick ──────────── History::tick ──┴──────────> │ columns ─> file ─> its name │
//!                                             bounded queue└─────────────────────────────┘
//! ```
//!
//! One row is one connection, told when its tuple is free again, with the columns of [`COLUMNS`].
//! The files are `DIRECTORY/date=2026-11-20/host=web-1/tracer-….parquet`: Hive's partitions, by the
//! UTC day on which the row's connection ended and by host. A file holds rows of one day; for some
//! minutes after midnight there are two under way. No two files of any hosts have the same name, so
//! that all hosts' directories can be copied into one bucket.
//!
//! A file is under way for [`Settings::roll_after`] or [`Settings::roll_bytes`], under a name that
//! no engine reads. It is synced before it takes its name: what can be seen is whole. A process that
//! is killed (`kill -9`, a power cut) loses the rows of the file under way, and those that still
//! wait: by default those of the last 5 minutes and a second at most, or, above some 4,000 rows a
//! second, the last 64 MiB, which is about 1.2 million rows of 55 bytes. What it leaves over the next
//! one removes.
//!
//! Where files cannot be written (the disk is full), rows are dropped and counted, and a new file is
//! tried after some seconds. Nobody is kept waiting.

mod batch;
mod file;
mod files;
mod place;
mod retention;
mod row;
mod schema;
mod writer;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use row::Row;
pub use schema::{COLUMNS, Column, VERSION, schema};
pub use writer::History;

/// Where and how a history is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The files' directory; it is made where it is not there.
    pub directory: PathBuf,
    /// The host's name: the value of the partition `host`. What is no letter, digit, `-`, `_` or
    /// `.` stands as `%` and two digits in the path; DuckDB and Spark read that back, ClickHouse
    /// shows it as it stands.
    pub host: String,
    /// The boot, as /proc/sys/kernel/random/boot_id has it; empty: not known.
    pub boot_id: String,
    /// A file ends when it has these bytes.
    pub roll_bytes: u64,
    /// A file ends when it is this old: so old can the latest row be that a query sees.
    pub roll_after: Duration,
    /// Files that were finished longer ago are removed; `Duration::MAX`: none.
    pub keep: Duration,
    /// The oldest whole files in the directory are removed until they have no more bytes than this;
    /// `u64::MAX`: none.
    pub keep_bytes: u64,
    /// Rows that may wait for the thread: 760 bytes each, and their names.
    pub queue_rows: usize,
}

impl Settings {
    /// With 64 MiB or 5 minutes a file, 14 days or 10 GiB kept, 16,384 rows waiting.
    #[must_use]
    pub fn new(directory: PathBuf, host: &str, boot_id: &str) -> Self {
        Self {
            directory,
            host: host.to_owned(),
            boot_id: boot_id.to_owned(),
            roll_bytes: 64 << 20,
            roll_after: Duration::from_secs(300),
            keep: Duration::from_secs(14 * 86_400),
            keep_bytes: 10 << 30,
            queue_rows: 16_384,
        }
    }
}

/// How a history went so far. Every row that was offered is written, dropped or waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows in whole files.
    pub rows_written: u64,
    /// Rows that are in none: the queue was full, or a file failed.
    pub rows_dropped: u64,
    /// Rows on their way: gathered, in the queue, in a file under way.
    pub rows_waiting: u64,
    /// Whole files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files removed by age or for room.
    pub files_removed: u64,
    /// Steps that failed.
    pub errors: u64,
    /// The last of them, in words.
    pub last_error: Option<String>,
}
