//! The report of `tracer ports`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::BytesMut;
use tracer::output::ports::{NamespacePorts, PortsReport, Program, RoutePorts};
use tracer::output::{Format, Terminal};
use tracer::ports::{Counts, Space};
use tracer::record::holding::Use;
use tracer::stream::Skipped;
use tracer::time::{Timestamp, WallOffset};
use tracer_common::tcp::Endpoint;

fn name(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

fn space(range: (u16, u16), reserved: u32, bound: &[u16]) -> Space {
    Space {
        range,
        reserved_ports: Vec::new(),
        reserved,
        bound: bound.to_vec(),
    }
}

fn route(destination: IpAddr, port: u16, used: u64, counts: &[(Use, u64)]) -> RoutePorts {
    let counts: Counts = counts.iter().copied().collect();
    RoutePorts {
        netns: 4_026_531_840,
        netns_cookie: 1,
        netns_name: None,
        source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)),
        destination: Endpoint {
            address: destination,
            port,
        },
        used,
        capacity: Some(28_221),
        counts,
        next_end: None,
        last_end: None,
        programs: Vec::new(),
        inferred: true,
    }
}

fn program(text: &str, pid: u32, held: u64) -> Program {
    Program {
        name: name(text),
        pid,
        held,
    }
}

fn report() -> PortsReport {
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0x8a2e, 0x370, 0x7334);
    let waits = [(Use::TimeWait, 28_201), (Use::Established, 20)];
    let mut full = route(v4(9), 3_306, 28_221, &waits);
    full.programs = vec![program("php-fpm", 812, 20)];
    full.next_end = Some(Timestamp(1_400_000_000));
    full.last_end = Some(Timestamp(60_100_000_000));
    let mut pool = route(
        v4(10),
        6_379,
        23_000,
        &[(Use::Established, 22_990), (Use::CloseWait, 10)],
    );
    pool.programs = vec![
        program("worker\x1b[2J", 900, 22_000),
        program("cron", 7, 1_000),
    ];
    pool.inferred = false;
    let mut far = route(v6.into(), 443, 281, &[(Use::FinWait2, 281)]);
    far.source = Ipv6Addr::LOCALHOST.into();
    (far.netns, far.netns_cookie) = (4_026_532_999, 77);
    far.netns_name = Some("web\u{202e}".to_owned());
    far.capacity = None;
    let few = route(v4(11), 80, 1, &[(Use::Established, 1)]);
    let mut report = PortsReport {
        at: Timestamp(1_000_000_000),
        wall: WallOffset(1_763_683_081_000_000_000),
        namespaces: vec![
            NamespacePorts {
                netns: 4_026_532_999,
                netns_cookie: 77,
                name: Some("web\u{202e}".to_owned()),
                space: None,
                tw_reuse: None,
                timestamps: None,
            },
            NamespacePorts {
                netns: 4_026_531_840,
                netns_cookie: 1,
                name: None,
                space: Some(space((32_768, 60_999), 10, &[50_000])),
                tw_reuse: Some(2),
                timestamps: Some(0),
            },
        ],
        routes: vec![few, far, pool, full],
        skipped: vec![Skipped {
            netns: None,
            path: "/proc/1/ns/net\u{1b}".to_owned(),
            reason: "failed to read it: Permission denied (os error 13)".to_owned(),
        }],
    };
    report.sort();
    report
}

fn written(report: &PortsReport, format: Format, width: Option<u16>, all: bool) -> String {
    let terminal = Terminal {
        width,
        ..Terminal::none()
    };
    let mut out = BytesMut::new();
    report.write(format, &terminal, all, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn elsewhere_than_on_a_terminal_nothing_is_cut() {
    insta::assert_snapshot!(written(&report(), Format::Table, None, false));
}

#[test]
fn eighty_columns_are_enough() {
    let text = written(&report(), Format::Table, Some(80), false);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn ports_are_one_json_object() {
    let text = written(&report(), Format::Json, None, false);
    assert_eq!(text.lines().count(), 1);
    insta::assert_snapshot!(text);
}

#[test]
fn the_fullest_are_shown_and_the_rest_counted() {
    let mut report = report();
    report.routes = (1..=45)
        .map(|used| {
            route(
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                1_000 + used as u16,
                used * 200,
                &[],
            )
        })
        .collect();
    report.sort();
    let text = written(&report, Format::Table, None, false);
    let rows: Vec<&str> = text
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("127."))
        .collect();
    assert_eq!(rows.len(), 20);
    assert!(rows[0].starts_with("127.0.0.1:1045 "), "{text}");
    assert!(
        text.contains("and 25 more, the next with 5000 used: --all shows them"),
        "{text}"
    );
    let all = written(&report, Format::Table, None, true);
    assert_eq!(
        all.lines().filter(|line| line.starts_with("127.")).count(),
        45
    );
    assert!(!all.contains("more"), "{all}");
    // JSON is for programs: it has all.
    let json: serde_json::Value =
        serde_json::from_str(&written(&report, Format::Json, None, false)).unwrap();
    assert_eq!(json["routes"].as_array().unwrap().len(), 45);
}

#[test]
fn what_was_not_looked_at_is_told_in_a_line_without_control_codes() {
    assert_eq!(
        report().complaints(),
        [
            "not looked at: /proc/1/ns/net\\u{1b}: failed to read it: Permission denied (os error 13)"
        ]
    );
}

#[test]
fn without_a_route_it_says_so() {
    let text = written(&PortsReport::default(), Format::Table, None, false);
    assert_eq!(text, "no ephemeral ports are in use\n");
}
