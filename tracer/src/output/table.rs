//! Closes and ends as rows that an on-call engineer reads at a glance.
//!
//! A connection that holds its tuple after CLOSE has two rows: the verdict, with what is running in
//! the column TIME_WAIT, and, marked └, the end, with what was measured.

use anstyle::{AnsiColor, Style};
use bytes::BytesMut;

use crate::record::{Call, Record};
use crate::time::{Timestamp, WallOffset};

use super::columns::{Cell, Column};
use super::page::{MILLISECONDS, Page, SECONDS};
use super::{Loss, Terminal, address, words};

const COLUMNS: [Column; 10] = [
    Column::new("TIME", 7, [SECONDS, MILLISECONDS, MILLISECONDS]).whole(),
    Column::new("WHO", 3, [8, 13, 23]).cut_in_the_middle(),
    Column::new("LOCAL", 4, [14, 21, 47]).cut_in_the_middle(),
    Column::new("", 5, [1, 1, 1]),
    Column::new("PEER", 6, [14, 21, 47]).cut_in_the_middle(),
    Column::new("ROLE", 1, [6, 6, 6]),
    Column::new("BY", 8, [5, 5, 5]),
    Column::new("HOW", 10, [13, 17, 36]),
    Column::new("AGE", 2, [6, 6, 6]).to_the_right(),
    Column::new("TIME_WAIT", 9, [9, 9, 9]).to_the_right(),
];

/// The table of closes.
#[derive(Debug)]
pub(super) struct Table {
    page: Page<10>,
}

impl Table {
    pub fn new(terminal: Terminal) -> Self {
        Self {
            page: Page::new(COLUMNS, terminal),
        }
    }

    pub fn resize(&mut self, width: Option<u16>, height: Option<u16>) {
        self.page.resize(width, height);
    }

    pub fn start(&mut self, at: Timestamp, wall: WallOffset, out: &mut BytesMut) {
        self.page.header(at, wall, out);
    }

    pub fn close(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        let at = record.closed_at;
        let (how, style) = words::how(record);
        let by = words::by(record.close.initiator);
        let mut cells = self.cells(record, at, wall);
        cells[6] = Cell::new(by).style(style);
        cells[7] = Cell::new(how).style(style);
        cells[8] = Cell::new(words::age(record));
        self.page.row(&cells, at, wall, out);
    }

    pub fn end(&mut self, record: &Record, wall: WallOffset, out: &mut BytesMut) {
        if !words::holds_its_tuple(record) {
            return;
        }
        let at = record.ended_at;
        let dim = Style::new().dimmed();
        let mut cells = self.cells(record, at, wall);
        for cell in &mut cells[1..6] {
            cell.restyle(dim);
        }
        cells[6] = Cell::new(format!("└ {}", words::end(record)));
        self.page.row(&cells, at, wall, out);
    }

    pub fn call(&mut self, call: &Call, wall: WallOffset, out: &mut BytesMut) {
        let time = self.page.time(Some(call.at), wall);
        let text = format!("{time} × {}", words::failed_call(call));
        self.page.remark(&text, AnsiColor::Yellow.on_default(), out);
    }

    pub fn loss(&mut self, loss: &Loss, wall: WallOffset, out: &mut BytesMut) {
        let text = format!("{} ! {loss}", self.page.time(Some(loss.at), wall));
        let style = AnsiColor::Red.on_default().bold();
        self.page.remark(&text, style, out);
    }

    /// What both rows of a connection share; the room of 6 to 8 is one cell.
    fn cells(&mut self, record: &Record, at: Option<Timestamp>, wall: WallOffset) -> [Cell; 10] {
        let (role, arrow) = words::role(record.role);
        [
            Cell::new(self.page.time(at, wall)),
            Cell::new(words::who(record)),
            Cell::new(address::endpoint(record.flow.local)),
            Cell::new(arrow),
            Cell::new(address::endpoint(record.flow.peer)),
            Cell::new(role),
            Cell::joined(),
            Cell::joined(),
            Cell::joined(),
            Cell::new(words::time_wait(record)),
        ]
    }
}
