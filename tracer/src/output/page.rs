//! A table as it runs down a terminal: its rows, and its header once a screenful.

use anstyle::Style;
use bytes::BytesMut;
use jiff::tz::TimeZone;

use crate::time::{Timestamp, WallOffset};

use super::columns::{Cell, Column, Columns};
use super::{Terminal, text};

/// Width of a time of day without milliseconds, which go first in a narrow terminal.
pub(super) const SECONDS: usize = 8;

/// Width of a time of day.
pub(super) const MILLISECONDS: usize = 12;

/// A table under way.
#[derive(Debug)]
pub(super) struct Page<const N: usize> {
    columns: Columns<N>,
    zone: TimeZone,
    /// Lines of the terminal; `None`: none, so the header is written once.
    height: Option<u16>,
    /// Lines since the header.
    lines: u16,
    /// Room for one line.
    line: String,
    /// The second since 1970 that was shown last, and how: rows come in the order of time.
    second: Option<(i64, String)>,
}

impl<const N: usize> Page<N> {
    pub fn new(columns: [Column; N], terminal: Terminal) -> Self {
        Self {
            columns: Columns::new(columns, terminal.width, terminal.color),
            zone: terminal.zone,
            height: terminal.height,
            lines: 0,
            line: String::new(),
            second: None,
        }
    }

    pub fn resize(&mut self, width: Option<u16>, height: Option<u16>) {
        self.columns.resize(width);
        self.height = height;
    }

    /// `at` as the first column shows it.
    pub fn time(&mut self, at: Option<Timestamp>, wall: WallOffset) -> String {
        let Some(at) = at else {
            return "?".to_owned();
        };
        let mut time = self.time_of_day(at, wall);
        if self.columns.width(0) < time.len() {
            time.truncate(SECONDS);
        }
        time
    }

    /// The zone is asked once a second.
    fn time_of_day(&mut self, at: Timestamp, wall: WallOffset) -> String {
        const SECOND: i64 = 1_000_000_000;

        let Ok(unix) = i64::try_from(wall.unix_nanoseconds(at)) else {
            return text::time_of_day(at, wall, &self.zone);
        };
        let (second, rest) = (unix.div_euclid(SECOND), unix.rem_euclid(SECOND));
        match &self.second {
            Some((known, text)) if *known == second => {
                let mut time = String::with_capacity(MILLISECONDS);
                time.push_str(text);
                text::push(&mut time, format_args!(".{:03}", rest / 1_000_000));
                time
            }
            _ => {
                let time = text::time_of_day(at, wall, &self.zone);
                self.second = time.get(..SECONDS).map(|text| (second, text.to_owned()));
                time
            }
        }
    }

    /// Writes the titles; the first is the time's, with the zone's name.
    pub fn header(&mut self, at: Timestamp, wall: WallOffset, out: &mut BytesMut) {
        let zone = text::zone_name(at, wall, &self.zone);
        let first = match format!("TIME {zone}") {
            first if first.len() <= self.columns.width(0) => first,
            _ => zone,
        };
        self.columns.header(&first, &mut self.line);
        self.lines = 0;
        out.extend_from_slice(self.line.as_bytes());
    }

    /// Writes a row, and the titles before it where they have left the screen or have moved.
    pub fn row(
        &mut self,
        cells: &[Cell; N],
        at: Option<Timestamp>,
        wall: WallOffset,
        out: &mut BytesMut,
    ) {
        let moved = self.columns.make_room(cells);
        let left = |height: u16| self.lines >= height.saturating_sub(2).max(1);
        if self.height.is_some_and(|height| moved || left(height)) {
            self.header(at.unwrap_or_default(), wall, out);
        }
        self.columns.line(cells, &mut self.line);
        self.lines = self.lines.saturating_add(1);
        out.extend_from_slice(self.line.as_bytes());
    }

    /// Writes a line that is no row.
    pub fn remark(&mut self, text: &str, style: Style, out: &mut BytesMut) {
        self.columns.remark(text, style, &mut self.line);
        self.lines = self.lines.saturating_add(1);
        out.extend_from_slice(self.line.as_bytes());
    }
}
