//! The files of a history: rows go in, whole files come out. Time is an argument.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use parquet::file::properties::WriterProperties;

use super::batch::Batches;
use super::file::{self, FileError, Open, Operation};
use super::place::{self, Names};
use super::retention;
use super::row::Row;
use super::{Settings, Stats};
use crate::time::{Timestamp, WallOffset};

/// Files that are open at most. At midnight the rows of two days come mixed for a while: one that
/// ended before it may be told after one that ended behind it.
const DAYS: usize = 2;
/// How long nothing is tried after an error: rows that come meanwhile are dropped.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
/// How often old files are looked for, besides when one was finished.
const RETIRE: Duration = Duration::from_secs(3_600);

/// Files under way and how they went so far. A file holds rows of one day, by when they ended, in
/// UTC: a query for a day reads that day's directory and no other.
pub(super) struct Files {
    settings: Arc<Settings>,
    properties: WriterProperties,
    names: Names,
    batches: Batches,
    open: Vec<Open>,
    paused_until: Option<Timestamp>,
    retired_at: Timestamp,
    /// What was told already: no error is told twice before it went well again.
    told: Vec<(Operation, std::io::ErrorKind)>,
    stats: Stats,
}

impl Files {
    /// Of a process that begins `now`. What an earlier one left over goes.
    pub fn new(settings: Arc<Settings>, now: Timestamp, wall: WallOffset) -> Self {
        let mut files = Self {
            properties: file::properties(&settings),
            names: Names::new(&settings.host, &settings.boot_id, now),
            batches: Batches::new(&settings.boot_id),
            open: Vec::new(),
            paused_until: None,
            retired_at: now,
            told: Vec::new(),
            stats: Stats::default(),
            settings,
        };
        let result = retention::remove_left_overs(&files.settings);
        files.account(result);
        files.retire(now, wall);
        files
    }

    /// Takes rows in; what cannot be written is dropped and counted.
    pub fn write(&mut self, rows: &[Row], now: Timestamp, wall: WallOffset) {
        if self.paused_until.is_some_and(|until| now < until) {
            self.stats.rows_dropped += rows.len() as u64;
            return;
        }
        self.paused_until = None;
        let unix_now = wall.unix_nanoseconds(now);
        let date = |row: &Row| place::date(row.filed_under().unwrap_or(unix_now));
        for rows in rows.chunk_by(|one, other| date(one) == date(other)) {
            self.write_day(date(&rows[0]), rows, now);
        }
        self.handle_timeout(now, wall);
    }

    /// Finishes files whose time has come, and removes old ones. Call it when [`Self::timeout`] is
    /// over.
    pub fn handle_timeout(&mut self, now: Timestamp, wall: WallOffset) {
        let roll_after = self.settings.roll_after;
        let due: Vec<_> = self
            .open
            .extract_if(.., |open| open.began_at + roll_after <= now)
            .collect();
        let mut finished = false;
        for open in due {
            finished |= self.finish(open, now);
        }
        if finished || self.retired_at + RETIRE <= now {
            self.retire(now, wall);
        }
    }

    /// How long from `now` nothing is due.
    pub fn timeout(&self, now: Timestamp) -> Duration {
        let rolls = self
            .open
            .iter()
            .map(|open| open.began_at + self.settings.roll_after);
        let next = rolls.fold(self.retired_at + RETIRE, Timestamp::min);
        Duration::from_nanos(next.since(now))
    }

    /// Finishes all files.
    pub fn finish_all(&mut self, now: Timestamp) {
        for open in std::mem::take(&mut self.open) {
            self.finish(open, now);
        }
    }

    /// The account so far.
    pub fn stats(&self) -> Stats {
        Stats {
            rows_waiting: self.open.iter().map(|open| open.rows).sum(),
            ..self.stats.clone()
        }
    }

    fn write_day(&mut self, date: Date, rows: &[Row], now: Timestamp) {
        let mut open = match self.take(date, now) {
            Ok(open) => open,
            Err(error) => return self.failed(error, rows.len() as u64, now),
        };
        let put = self
            .batches
            .of(rows)
            .map_err(|error| open.refused(error))
            .and_then(|batch| open.put(&batch));
        match put {
            Ok(()) if open.bytes() >= self.settings.roll_bytes => {
                self.finish(open, now);
            }
            Ok(()) => self.open.push(open),
            Err(error) => {
                let rows = open.rows + rows.len() as u64;
                open.abandon();
                self.failed(error, rows, now);
            }
        }
    }

    /// The open file of a day, or a new one, for which the oldest makes room.
    fn take(&mut self, date: Date, now: Timestamp) -> Result<Open, FileError> {
        if let Some(index) = self.open.iter().position(|open| open.date == date) {
            return Ok(self.open.swap_remove(index));
        }
        if self.open.len() >= DAYS {
            let oldest = (0..self.open.len()).min_by_key(|index| self.open[*index].began_at);
            let oldest = self.open.swap_remove(oldest.unwrap_or(0));
            self.finish(oldest, now);
        }
        let place = self.names.next(&self.settings.directory, date);
        let schema = self.batches.schema();
        Open::create(place, date, now, schema, self.properties.clone())
    }

    /// Whether there is a whole file more.
    fn finish(&mut self, open: Open, now: Timestamp) -> bool {
        let rows = open.rows;
        match open.finish() {
            Ok((bytes, directory)) => {
                self.stats.files += 1;
                self.stats.bytes += bytes;
                self.stats.rows_written += rows;
                let synced = file::sync_names(&directory);
                if synced.is_ok() && !self.told.is_empty() {
                    tracing::info!("the history is written again, to {}", directory.display());
                    self.told.clear();
                }
                self.account(synced);
                true
            }
            Err(error) => {
                self.failed(error, rows, now);
                false
            }
        }
    }

    fn retire(&mut self, now: Timestamp, wall: WallOffset) {
        self.retired_at = now;
        let result = retention::retire(&self.settings, wall.unix_nanoseconds(now));
        let result = result.map(|gone| self.stats.files_removed += gone);
        self.account(result);
    }

    fn failed(&mut self, error: FileError, rows: u64, now: Timestamp) {
        self.stats.rows_dropped += rows;
        self.paused_until = Some(now + PAUSE);
        self.account(Err(error));
    }

    fn account(&mut self, result: Result<(), FileError>) {
        let Err(error) = result else { return };
        let kind = (error.operation, error.source.kind());
        let text = format!("{error}: {}", error.source);
        if !self.told.contains(&kind) {
            tracing::error!("{text}; the history has a gap until it is written again");
            self.told.push(kind);
        }
        self.stats.errors += 1;
        self.stats.last_error = Some(text);
    }
}
