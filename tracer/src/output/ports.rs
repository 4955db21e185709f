//! Which ports are in use, as `tracer ports` shows it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use anstyle::{AnsiColor, Style};
use bytes::BytesMut;
use serde::Serialize;
use tracer_common::tcp::Endpoint;

use crate::ports::{Counts, Space};
use crate::record::holding::Use;
use crate::stream::Skipped;
use crate::time::{Timestamp, WallOffset};

use super::columns::{Cell, Column, Columns};
use super::json::{EndpointView, Id, Moment, Name};
use super::ndjson::SkippedView;
use super::{Format, Terminal, text};

/// Rows that are shown where not all are asked for.
const BUSIEST: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct PortsReport {
    /// When.
    pub at: Timestamp,
    /// How the wall's clock stood.
    pub wall: WallOffset,
    /// The namespaces of the routes.
    pub namespaces: Vec<NamespacePorts>,
    /// The routes, the fullest first.
    pub routes: Vec<RoutePorts>,
    /// What was not looked at.
    pub skipped: Vec<Skipped>,
}

/// The ports of a network namespace.
#[derive(Clone, Debug)]
pub struct NamespacePorts {
    /// Its inode.
    pub netns: u32,
    /// Its cookie.
    pub netns_cookie: u64,
    /// What people call it.
    pub name: Option<String>,
    /// What connect() chooses from; `None`: it could not be read.
    pub space: Option<Space>,
    /// `tcp_tw_reuse`.
    pub tw_reuse: Option<u8>,
    /// `tcp_timestamps`.
    pub timestamps: Option<u8>,
}

/// The ports of a route.
#[derive(Clone, Debug)]
pub struct RoutePorts {
    /// Inode of the network namespace.
    pub netns: u32,
    /// Its cookie.
    pub netns_cookie: u64,
    /// What people call it.
    pub netns_name: Option<String>,
    /// The local address.
    pub source: IpAddr,
    /// The peer.
    pub destination: Endpoint,
    /// Ports of the capacity that are in use.
    pub used: u64,
    /// How many there are; `None`: not known.
    pub capacity: Option<u64>,
    /// All tuples, by use.
    pub counts: Counts,
    /// When the next of the TIME_WAITs ends nominally,
    pub next_end: Option<Timestamp>,
    /// and when the last does.
    pub last_end: Option<Timestamp>,
    /// Who holds descriptors of it, the most first.
    pub programs: Vec<Program>,
    /// Not all of it is known to be theirs.
    pub inferred: bool,
}

/// A program that holds descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, NUL-padded: the user's bytes.
    pub name: [u8; 16],
    /// One of its processes.
    pub pid: u32,
    /// How many it holds on this route; 0: none here, but some to the same destination.
    pub held: u64,
}

impl RoutePorts {
    /// Of the capacity, how much is used. Where there is none: all.
    fn share(&self) -> Option<f64> {
        self.capacity.map(|capacity| match capacity {
            0 => 1.0,
            capacity => self.used as f64 / capacity as f64,
        })
    }

    fn who(&self) -> String {
        let names: Vec<String> = self
            .programs
            .iter()
            .map(|program| text::name(&program.name))
            .collect();
        match (names.is_empty(), self.inferred) {
            (true, _) => "-".to_owned(),
            (false, true) => format!("{}?", names.join(",")),
            (false, false) => names.join(","),
        }
    }
}

const COLUMNS: [Column; 11] = [
    Column::new("DESTINATION", 11, [14, 17, 47]).cut_in_the_middle(),
    Column::new("SOURCE", 7, [9, 12, 39]).cut_in_the_middle(),
    Column::new("NETNS", 1, [6, 10, 23]).cut_in_the_middle(),
    Column::new("USED", 10, [5, 5, 5]).to_the_right(),
    Column::new("CAPACITY", 9, [8, 8, 8]).to_the_right(),
    Column::new("%", 8, [4, 4, 4]).to_the_right(),
    Column::new("ESTAB", 4, [5, 5, 5]).to_the_right(),
    Column::new("CLOSE-WAIT", 3, [10, 10, 10]).to_the_right(),
    Column::new("FIN-WAIT-2", 2, [10, 10, 10]).to_the_right(),
    Column::new("TIME-WAIT", 6, [9, 9, 9]).to_the_right(),
    Column::new("WHO", 5, [7, 12, 40]),
];

impl PortsReport {
    /// Puts the fullest routes first.
    pub fn sort(&mut self) {
        let share = |route: &RoutePorts| route.share().map_or(0, |share| (share * 1e9) as u64);
        self.routes.sort_by_key(|route| {
            (
                Reverse(share(route)),
                Reverse(route.used),
                route.destination,
                route.source,
                route.netns,
            )
        });
        self.namespaces.sort_by_key(|namespace| namespace.netns);
    }

    /// What was not looked at, a line for each reason.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for skipped in &self.skipped {
            // Whoever mounts a namespace chooses its name.
            let path = skipped.path.escape_debug().to_string();
            by_reason.entry(&skipped.reason).or_default().push(path);
        }
        let line = |(reason, paths): (&str, Vec<String>)| {
            let more = match paths.len() {
                0..=3 => String::new(),
                many => format!(" and {} more", many - 3),
            };
            let shown = paths.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            format!("not looked at: {shown}{more}: {reason}")
        };
        by_reason.into_iter().map(line).collect()
    }

    /// Appends the report: a table of the busiest routes or of `all`, or one JSON object.
    pub fn write(&self, format: Format, terminal: &Terminal, all: bool, out: &mut BytesMut) {
        match format {
            Format::Table => self.table(terminal, all, out),
            Format::Json => super::ndjson::line(&PortsView::from(self), out),
        }
    }

    fn table(&self, terminal: &Terminal, all: bool, out: &mut BytesMut) {
        let mut columns = Columns::new(COLUMNS, terminal.width, terminal.color);
        let shown = if all {
            self.routes.len()
        } else {
            self.routes.len().min(BUSIEST)
        };
        let (busiest, rest) = self.routes.split_at(shown);
        let rows: Vec<[Cell; 11]> = busiest.iter().map(cells).collect();
        for row in &rows {
            columns.make_room(row);
        }
        let mut line = String::new();
        if rows.is_empty() {
            columns.remark("no ephemeral ports are in use", Style::new(), &mut line);
            out.extend_from_slice(line.as_bytes());
        } else {
            columns.header("DESTINATION", &mut line);
            out.extend_from_slice(line.as_bytes());
        }
        for row in &rows {
            columns.line(row, &mut line);
            out.extend_from_slice(line.as_bytes());
        }
        if !rest.is_empty() {
            let most = rest[0].used;
            let text = format!(
                "and {} more, the next with {most} used: --all shows them",
                rest.len()
            );
            columns.remark(&text, Style::new().dimmed(), &mut line);
            out.extend_from_slice(line.as_bytes());
        }
        for namespace in &self.namespaces {
            for text in namespace.lines() {
                columns.remark(&text, Style::new(), &mut line);
                out.extend_from_slice(line.as_bytes());
            }
        }
    }
}

fn cells(route: &RoutePorts) -> [Cell; 11] {
    let style = match route.share() {
        Some(share) if share >= 1.0 => AnsiColor::Red.on_default().bold(),
        Some(share) if share >= 0.8 => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    };
    let counted = |by| Cell::new(route.counts.of(by).to_string());
    let percent = route
        .share()
        .map_or("-".to_owned(), |share| match share * 100.0 {
            few if few < 1.0 => "<1".to_owned(),
            // Not 100 before it is.
            many => format!("{}", many.floor()),
        });
    [
        Cell::new(route.destination.to_string()),
        Cell::new(route.source.to_string()),
        Cell::new(netns(route.netns, route.netns_name.as_deref())),
        Cell::new(route.used.to_string()).style(style),
        Cell::new(
            route
                .capacity
                .map_or("-".to_owned(), |capacity| capacity.to_string()),
        ),
        Cell::new(percent).style(style),
        counted(Use::Established),
        counted(Use::CloseWait),
        counted(Use::FinWait2),
        counted(Use::TimeWait),
        Cell::new(route.who()),
    ]
}

/// A namespace's name, or its inode. Whoever mounts it chooses the name.
fn netns(inode: u32, name: Option<&str>) -> String {
    name.map_or_else(|| inode.to_string(), |name| name.escape_debug().to_string())
}

impl NamespacePorts {
    /// What connect() can choose from, in lines that fit 80 columns as a rule.
    fn lines(&self) -> [String; 2] {
        let name = netns(self.netns, self.name.as_deref());
        let Some(space) = &self.space else {
            let why = "  its settings could not be read".to_owned();
            return [format!("netns {name}: range not known"), why];
        };
        let (first, last) = space.range;
        let reuse = match self.tw_reuse {
            None => "not known".to_owned(),
            Some(0) => "0 (off)".to_owned(),
            Some(1) => "1 (on)".to_owned(),
            Some(2) => "2 (loopback alone)".to_owned(),
            Some(other) => other.to_string(),
        };
        let timestamps = match self.timestamps {
            Some(0) => ", tcp_timestamps 0",
            _ => "",
        };
        [
            format!(
                "netns {name}: range {first}-{last}, {} reserved, {} bound: capacity {}",
                space.reserved,
                space.bound.len(),
                space.capacity()
            ),
            format!("  tcp_tw_reuse {reuse}{timestamps}"),
        ]
    }
}

#[derive(Serialize)]
struct PortsView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    at: Moment,
    monotonic_ns: u64,
    namespaces: Vec<NamespaceView<'a>>,
    routes: Vec<RouteView<'a>>,
    skipped: Vec<SkippedView<'a>>,
}

impl<'a> From<&'a PortsReport> for PortsView<'a> {
    fn from(report: &'a PortsReport) -> Self {
        let route = |route| RouteView::new(route, report.at);
        Self {
            kind: "ports",
            at: Moment(report.at, report.wall),
            monotonic_ns: report.at.0,
            namespaces: report.namespaces.iter().map(NamespaceView::from).collect(),
            routes: report.routes.iter().map(route).collect(),
            skipped: report.skipped.iter().map(SkippedView::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct NamespaceView<'a> {
    netns: u32,
    netns_cookie: Id,
    netns_name: Option<&'a str>,
    range: Option<(u16, u16)>,
    reserved: Option<u32>,
    bound: Option<&'a [u16]>,
    capacity: Option<u64>,
    tcp_tw_reuse: Option<u8>,
    tcp_timestamps: Option<u8>,
}

impl<'a> From<&'a NamespacePorts> for NamespaceView<'a> {
    fn from(namespace: &'a NamespacePorts) -> Self {
        let space = namespace.space.as_ref();
        Self {
            netns: namespace.netns,
            netns_cookie: Id(namespace.netns_cookie),
            netns_name: namespace.name.as_deref(),
            range: space.map(|space| space.range),
            reserved: space.map(|space| space.reserved),
            bound: space.map(|space| &*space.bound),
            capacity: space.map(Space::capacity),
            tcp_tw_reuse: namespace.tw_reuse,
            tcp_timestamps: namespace.timestamps,
        }
    }
}

#[derive(Serialize)]
struct RouteView<'a> {
    netns: u32,
    netns_cookie: Id,
    netns_name: Option<&'a str>,
    source: IpAddr,
    destination: EndpointView,
    used: u64,
    capacity: Option<u64>,
    share: Option<f64>,
    held: u64,
    by_use: BTreeMap<&'static str, u64>,
    time_wait_ends: Option<EndsView>,
    programs: Vec<ProgramView<'a>>,
    programs_source: &'static str,
}

impl<'a> RouteView<'a> {
    fn new(route: &'a RoutePorts, now: Timestamp) -> Self {
        let ends = route.next_end.zip(route.last_end);
        Self {
            netns: route.netns,
            netns_cookie: Id(route.netns_cookie),
            netns_name: route.netns_name.as_deref(),
            source: route.source,
            destination: EndpointView::from(route.destination),
            used: route.used,
            capacity: route.capacity,
            share: route.share(),
            held: route.counts.total(),
            by_use: Use::ALL
                .into_iter()
                .filter(|by| *by != Use::Listening)
                .map(|by| (use_name(by), route.counts.of(by)))
                .collect(),
            time_wait_ends: ends.map(|(next, last)| EndsView {
                next_in_ns: next.since(now),
                last_in_ns: last.since(now),
            }),
            programs: route.programs.iter().map(ProgramView::from).collect(),
            // Who holds a descriptor need not be who opened it.
            programs_source: if route.programs.is_empty() {
                "unknown"
            } else {
                "inferred"
            },
        }
    }
}

/// Nominally; the kernel's timers run up to two seconds later.
#[derive(Serialize)]
struct EndsView {
    next_in_ns: u64,
    last_in_ns: u64,
}

#[derive(Serialize)]
struct ProgramView<'a> {
    name: Name<'a>,
    pid: u32,
    held: u64,
}

impl<'a> From<&'a Program> for ProgramView<'a> {
    fn from(program: &'a Program) -> Self {
        Self {
            name: Name(&program.name),
            pid: program.pid,
            held: program.held,
        }
    }
}

const fn use_name(by: Use) -> &'static str {
    match by {
        Use::Listening => "listening",
        Use::Connecting => "connecting",
        Use::Established => "established",
        Use::CloseWait => "close_wait",
        Use::Closing => "closing",
        Use::FinWait2 => "fin_wait2",
        Use::TimeWait => "time_wait",
    }
}
