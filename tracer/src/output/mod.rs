//! Finished rows as text. A [`Writer`] formats into a buffer; the caller does the I/O.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use bytes::BytesMut;
use clap::ColorChoice;
use jiff::tz::TimeZone;
use tracer_common::event::Kind;

use crate::consumer::Consumer;
use crate::record::{Call, CloseKind, Record, TransitionRow};
use crate::stream::{Meta, Name, Sweep};
use crate::time::{Timestamp, WallOffset};

mod address;
pub mod check;
mod columns;
pub mod diagnosis;
pub(crate) mod errno;
mod json;
mod ndjson;
pub mod otlp;
mod page;
pub mod ports;
pub mod prometheus;
mod table;
pub(crate) mod text;
mod transitions;
mod words;

use ndjson::Ndjson;
use table::Table;
use transitions::Transitions;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

/// What the reader of a table sees it on.
#[derive(Clone, Debug)]
pub struct Terminal {
    /// Columns; `None`: not a terminal, so nothing is cut.
    pub width: Option<u16>,
    /// Lines; `None`: not a terminal, so the header is written once.
    pub height: Option<u16>,
    /// Whether to colour.
    pub color: bool,
    /// In which times of day are shown.
    pub zone: TimeZone,
}

impl Terminal {
    /// A file or a pipe.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            width: None,
            height: None,
            color: false,
            zone: TimeZone::UTC,
        }
    }

    /// What stdout is now, and the host's time zone. `NO_COLOR`, `CLICOLOR` and `TERM` decide where
    /// `color` leaves it open.
    #[must_use]
    pub fn stdout(color: ColorChoice) -> Self {
        let size = Self::stdout_size();
        let wanted = || {
            io::stdout().is_terminal()
                && !anstyle_query::no_color()
                && anstyle_query::clicolor().unwrap_or(true)
                && anstyle_query::term_supports_color()
        };
        Self {
            width: size.map(|(width, _)| width),
            height: size.map(|(_, height)| height),
            color: match color {
                ColorChoice::Always => true,
                ColorChoice::Never => false,
                ColorChoice::Auto => wanted(),
            },
            zone: TimeZone::system(),
        }
    }

    /// Columns and lines of stdout: ask again at SIGWINCH.
    #[must_use]
    pub fn stdout_size() -> Option<(u16, u16)> {
        terminal_size::terminal_size_of(io::stdout())
            .map(|(width, height)| (width.0, height.0))
            .filter(|(width, _)| *width > 0)
    }
}

/// Formats what the engine puts out, in the order in which it does.
#[derive(Debug)]
pub struct Writer(Form);

#[derive(Debug)]
enum Form {
    Closes(Table),
    Transitions(Transitions),
    Json(Ndjson),
    /// Neither rows nor what only they need.
    JsonSummary(Ndjson),
    Nothing,
}

impl Writer {
    /// A writer of `format`. With `transitions` the table shows those alone, NDJSON those too.
    #[must_use]
    pub fn new(format: Format, terminal: Terminal, transitions: bool) -> Self {
        Self(match format {
            Format::Table if transitions => Form::Transitions(Transitions::new(terminal)),
            Format::Table => Form::Closes(Table::new(terminal)),
            Format::Json => Form::Json(Ndjson::new(transitions)),
        })
    }

    /// A writer of no rows. NDJSON still has its first and last line, and losses; of the table
    /// nothing is left: the summary's [`fmt::Display`] is for stderr anyway.
    #[must_use]
    pub fn of_summary(format: Format) -> Self {
        Self(match format {
            Format::Table => Form::Nothing,
            Format::Json => Form::JsonSummary(Ndjson::new(false)),
        })
    }
}

impl Consumer for Writer {
    fn wants_rows(&self) -> bool {
        !matches!(self.0, Form::JsonSummary(_) | Form::Nothing)
    }

    /// Tables show none.
    fn wants_names(&self) -> bool {
        matches!(self.0, Form::Json(_))
    }

    /// The meta line, or the table's header.
    fn meta(&mut self, meta: &Meta, started: Timestamp, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Closes(table) => table.start(started, wall, out),
            Form::Transitions(table) => table.start(started, wall, out),
            Form::Json(json) | Form::JsonSummary(json) => json.meta(meta, started, wall, out),
            Form::Nothing => {}
        }
    }

    /// Writes a transition, where they are shown.
    fn transition(&mut self, row: &TransitionRow, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Transitions(table) => table.row(row, wall, out),
            Form::Json(json) => json.transition(row, wall, out),
            Form::Closes(_) | Form::JsonSummary(_) | Form::Nothing => {}
        }
    }

    /// Writes a verdict.
    fn close(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Closes(table) => table.close(record, wall, out),
            Form::Json(json) => json.close(record, wall, out),
            Form::Transitions(_) | Form::JsonSummary(_) | Form::Nothing => {}
        }
    }

    /// Writes that a tuple is free again. In the table that is a row only where it was held after
    /// CLOSE, so it may be called for every record.
    fn end(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Closes(table) => table.end(record, wall, out),
            Form::Json(json) => json.end(record, wall, out),
            Form::Transitions(_) | Form::JsonSummary(_) | Form::Nothing => {}
        }
    }

    /// Writes both.
    fn over(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Json(json) => json.over(record, wall, out),
            _ => {
                self.close(record, wall, out);
                self.end(record, wall, out);
            }
        }
    }

    /// Writes that a system call failed.
    fn call(&mut self, call: &Call, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Closes(table) => table.call(call, wall, out),
            Form::Transitions(table) => table.call(call, wall, out),
            Form::Json(json) => json.call(call, wall, out),
            Form::JsonSummary(_) | Form::Nothing => {}
        }
    }

    /// Takes in a name, for the records that bear its number.
    fn name(&mut self, name: &Name) {
        if let Form::Json(json) = &mut self.0 {
            json.name(name);
        }
    }

    /// Writes that events were lost, in the place where they are missing.
    fn loss(&mut self, loss: &Loss, wall: WallOffset, out: &mut BytesMut) {
        match &mut self.0 {
            Form::Closes(table) => table.loss(loss, wall, out),
            Form::Transitions(table) => table.loss(loss, wall, out),
            Form::Json(json) | Form::JsonSummary(json) => json.loss(loss, wall, out),
            Form::Nothing => {}
        }
    }

    /// Writes what a look at all network namespaces found. Tables have no such line: what it could
    /// not look at is for stderr.
    fn sweep(&mut self, sweep: &Sweep, wall: WallOffset, out: &mut BytesMut) {
        if let Form::Json(json) = &mut self.0 {
            json.sweep(sweep, wall, out);
        }
    }

    /// Writes what comes last. Tables have no such line: the summary's [`fmt::Display`] is for
    /// stderr, with every format.
    fn summary(&mut self, summary: &Summary, out: &mut BytesMut) {
        if let Form::Json(json) | Form::JsonSummary(json) = &mut self.0 {
            json.summary(summary, out);
        }
    }

    /// The terminal has another size, of `(width, height)`.
    fn resize(&mut self, size: Option<(u16, u16)>) {
        let (width, height) = size.unzip();
        match &mut self.0 {
            Form::Closes(table) => table.resize(width, height),
            Form::Transitions(table) => table.resize(width, height),
            Form::Json(_) | Form::JsonSummary(_) | Form::Nothing => {}
        }
    }
}

/// Events that no record shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// When it was found out.
    pub at: Timestamp,
    /// Records that found no room in the ring since the last loss that was told.
    pub count: u64,
    /// The same by kind, those with any.
    pub by_kind: Vec<(Kind, u64)>,
    /// Processors with any.
    pub cpus: Vec<u16>,
    /// Events that no program was run for since the last loss that was told.
    pub missed: u64,
}

impl fmt::Display for Loss {
    /// `1,204 events lost (900 transition, 304 close) on CPU 0, 3; 12 missed`; `12 events missed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return write!(f, "{} events missed", text::count(self.missed));
        }
        write!(f, "{} events lost", text::count(self.count))?;
        write_parts(
            f,
            self.by_kind
                .iter()
                .map(|(kind, count)| (kind.name(), *count)),
        )?;
        if !self.cpus.is_empty() {
            let cpus: Vec<_> = self.cpus.iter().map(u16::to_string).collect();
            write!(f, " on CPU {}", cpus.join(", "))?;
        }
        if self.missed > 0 {
            write!(f, "; {} missed", text::count(self.missed))?;
        }
        Ok(())
    }
}

/// The account of a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How long it ran.
    pub duration: Duration,
    /// Connections that opened.
    pub opened: u64,
    /// Verdicts given.
    pub closed: u64,
    /// Verdicts by kind, those with any.
    pub closed_by_kind: Vec<(CloseKind, u64)>,
    /// Tuples that came free after CLOSE, or at once with it.
    pub ended: u64,
    /// TIME_WAITs that ended.
    pub time_waits_ended: u64,
    /// Connections still open.
    pub open: u64,
    /// Connections that were let go because there were too many.
    pub evicted: u64,
    /// Connections still in TIME_WAIT.
    pub in_time_wait: u64,
    /// Connections still open, of those that the filters show.
    pub shown_open: u64,
    /// Connections still in TIME_WAIT, of those that the filters show.
    pub shown_in_time_wait: u64,
    /// Events that the hooks met.
    pub hits: u64,
    /// Of these, events that arrived.
    pub received: u64,
    /// Of these, events that found no room in the ring.
    pub ring_lost: u64,
    /// Of these, events that no program was run for.
    pub missed: u64,
}

impl fmt::Display for Summary {
    /// One line with the losses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.closed_by_kind.iter();
        write!(f, "{} closes", text::count(self.closed))?;
        write_parts(f, kinds.map(|(kind, count)| (kind.name(), *count)))?;
        write!(
            f,
            ", {} TIME_WAIT ended, {} still in TIME_WAIT; \
             events: {} received, {} lost, {} missed",
            text::count(self.time_waits_ended),
            text::count(self.in_time_wait),
            text::count(self.received),
            text::count(self.ring_lost),
            text::count(self.missed)
        )?;
        match self.evicted {
            0 => Ok(()),
            evicted => write!(f, "; {} let go", text::count(evicted)),
        }
    }
}

/// ` (900 transition, 304 close)`, or nothing where there are no parts.
fn write_parts<'a>(
    f: &mut fmt::Formatter<'_>,
    parts: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let parts: Vec<_> = parts
        .map(|(name, number)| format!("{} {}", text::count(number), name.replace('_', " ")))
        .collect();
    match parts.is_empty() {
        true => Ok(()),
        false => write!(f, " ({})", parts.join(", ")),
    }
}
