//! Every state change as a row, in the columns of tcpstates.

use std::net::IpAddr;

use anstyle::AnsiColor;
use bytes::BytesMut;

use crate::record::{Call, TransitionRow};
use crate::time::{Timestamp, WallOffset};

use super::columns::{Cell, Column};
use super::page::{MILLISECONDS, Page, SECONDS};
use super::{Loss, Terminal, text, words};

const COLUMNS: [Column; 11] = [
    Column::new("TIME", 8, [SECONDS, MILLISECONDS, MILLISECONDS]).whole(),
    Column::new("PID", 2, [7, 7, 7]),
    Column::new("COMM", 1, [8, 14, 15]),
    Column::new("LADDR", 3, [10, 15, 39]).cut_in_the_middle(),
    Column::new("LPORT", 4, [5, 5, 5]).to_the_right(),
    Column::new("RADDR", 5, [11, 15, 39]).cut_in_the_middle(),
    Column::new("RPORT", 6, [5, 5, 5]).to_the_right(),
    Column::new("OLDSTATE", 9, [11, 11, 11]),
    Column::new("->", 9, [2, 2, 2]),
    Column::new("NEWSTATE", 10, [11, 11, 11]),
    Column::new("MS", 7, [9, 11, 14]).to_the_right(),
];

/// The table of transitions.
#[derive(Debug)]
pub(super) struct Transitions {
    page: Page<11>,
}

impl Transitions {
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

    pub fn row(&mut self, row: &TransitionRow, wall: WallOffset, out: &mut BytesMut) {
        let process = &row.process;
        let cells = [
            self.page.time(Some(row.at), wall),
            process
                .pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            process
                .comm
                .map_or_else(|| "-".to_owned(), |comm| text::name(&comm)),
            address(row.flow.local.address),
            port(row.flow.local.port),
            address(row.flow.peer.address),
            port(row.flow.peer.port),
            row.from.name().to_owned(),
            "->".to_owned(),
            row.to.name().to_owned(),
            row.for_ns.map_or_else(|| "-".to_owned(), milliseconds),
        ];
        self.page
            .row(&cells.map(Cell::new), Some(row.at), wall, out);
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
}

/// What is not known (yet) is `*`, as `ss` writes it.
fn address(address: IpAddr) -> String {
    match address.is_unspecified() {
        true => "*".to_owned(),
        false => address.to_string(),
    }
}

fn port(port: u16) -> String {
    match port {
        0 => "*".to_owned(),
        port => port.to_string(),
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:03}",
        nanoseconds / 1_000_000,
        nanoseconds / 1_000 % 1_000
    )
}
