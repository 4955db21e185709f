//! A diagnosis as people and programs read it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::BytesMut;
use tracer::attribution::Names;
use tracer::diagnosis::{Advice, Finding, Losses, Report, RouteOutlook, Severity, Subject};
use tracer::output::diagnosis::{Style, write};
use tracer::output::{Format, Terminal};
use tracer::ports::{Dwell, DwellBasis, Forecast, Outlook, Program, Route};
use tracer::record::Source;
use tracer::stream::Name;
use tracer_common::tcp::Endpoint;

/// A name that would clear the screen and end a string, filled up with garbage.
const HOSTILE: [u8; 16] = *b"\x1b[2J\"'\\\n\xff\xfe\x07\x08abcd";

fn endpoint() -> Endpoint {
    Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)),
        port: 3306,
    }
}

fn finding(name: [u8; 16]) -> Finding {
    Finding {
        rule: "ports-exhausted",
        severity: Severity::Error,
        subject: Subject {
            netns: Some(4_026_532_177),
            netns_cookie: Some(7),
            program: Some(Program {
                name: Some(name),
                cgroup_id: Some(42),
            }),
            program_source: Source::Inferred,
            pids: vec![811, 812],
            source: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5))),
            destination: Some(endpoint()),
            used: Some(28_232),
            capacity: Some(28_232),
            failed: Some(1_204),
            ..Subject::default()
        },
        summary: "php-fpm cannot connect to 10.0.0.9:3306: 28,232 of 28,232 ports used".into(),
        evidence: vec![
            "1,204 connects failed with EADDRNOTAVAIL in 5 s.".into(),
            "28,011 of the ports wait in TIME_WAIT, which holds each for 60.9 s.".into(),
            "Its connections live for 3.1ms: they are closed by php-fpm first.".into(),
        ],
        dwell: Some(Dwell {
            mean: Duration::from_millis(60_900),
            basis: DwellBasis::Measured,
            samples: 311,
        }),
        advice: vec![
            Advice {
                what: "let connect() take ports over from TIME_WAIT".into(),
                command: Some("sysctl -w net.ipv4.tcp_tw_reuse=1".into()),
                present: Some("2".into()),
                proposed: Some("1".into()),
                effect: "Ports are free again after 1 s: 28,232 connections a second.".into(),
                caution: Some("timestamps are needed at both ends".into()),
                reference: "man 7 tcp; RFC 6191",
            },
            Advice {
                what: "keep connections open and use them again".into(),
                effect: "2 would do for 463 connections a second of 3.1 ms.".into(),
                reference: "RFC 9293, 3.6.1",
                ..Advice::default()
            },
        ],
        warnings: vec!["tcp_fin_timeout does not shorten TIME_WAIT; nothing on Linux does.".into()],
        weight: 1_204,
    }
}

fn report(findings: Vec<Finding>) -> Report {
    let mut names = Names::default();
    names.learn(&Name::Cgroup {
        id: 42,
        path: Some("/system.slice/php-fpm.service".into()),
    });
    names.learn(&Name::Netns {
        inode: 4_026_532_177,
        name: Some("shop".into()),
    });
    Report {
        watched: Duration::from_millis(5_012),
        opened: 2_311,
        closed: 2_305,
        found: 28_240,
        losses: Losses {
            hits: 120_345,
            received: 120_345,
            ring_lost: 0,
            missed: 0,
        },
        blind: Vec::new(),
        too_early: Vec::new(),
        findings,
        routes: vec![RouteOutlook {
            route: Route {
                netns_cookie: 7,
                source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)),
                destination: endpoint(),
            },
            netns: Some(4_026_532_177),
            used: 14_116,
            capacity: 28_232,
            forecast: Forecast {
                rate: 463.2,
                growth: 0.0,
                steady_state: 28_240.5,
                outlook: Outlook::In(Duration::from_millis(30_474)),
                dwell: Dwell {
                    mean: Duration::from_millis(60_900),
                    basis: DwellBasis::Inventory,
                    samples: 311,
                },
            },
        }],
        names,
    }
}

fn text(report: &Report, width: Option<u16>, verbose: bool) -> String {
    let style = Style {
        format: Format::Table,
        verbose,
        terminal: Terminal {
            width,
            ..Terminal::none()
        },
    };
    shown(report, &style)
}

fn json(report: &Report) -> String {
    let style = Style {
        format: Format::Json,
        verbose: false,
        terminal: Terminal::none(),
    };
    shown(report, &style)
}

fn shown(report: &Report, style: &Style) -> String {
    let mut out = BytesMut::new();
    write(report, style, &mut out);
    String::from_utf8(out.to_vec()).expect("UTF-8")
}

/// Beside the worst, one that is not urgent.
fn two() -> Report {
    let second = Finding {
        rule: "last-acks-lost",
        severity: Severity::Warning,
        summary: "FINs came again to 120 TIME_WAITs of nginx on port 443".into(),
        ..finding(*b"nginx\0\0\0\0\0\0\0\0\0\0\0")
    };
    report(vec![finding(*b"php-fpm\0\0\0\0\0\0\0\0\0"), second])
}

#[test]
fn two_lines_tell_what_fails_and_what_to_change() {
    let page = text(&two(), Some(80), false);
    insta::assert_snapshot!(page);
    assert!(page.lines().count() <= 24, "it fits on a terminal");
}

#[test]
fn verbose_tells_all_of_the_evidence_and_the_advice() {
    insta::assert_snapshot!(text(&two(), Some(80), true));
}

#[test]
fn a_healthy_host_and_a_blind_watch_are_told_apart() {
    let healthy = report(Vec::new());
    let mut blind = report(Vec::new());
    blind
        .blind
        .push("TIME_WAIT: its end by expiry: left out".into());
    let mut idle = report(Vec::new());
    (idle.opened, idle.closed) = (0, 0);
    let pages = [&healthy, &blind, &idle].map(|report| text(report, Some(80), false));
    insta::assert_snapshot!(pages.join("----\n"));
    let codes = [&healthy, &blind, &idle, &two()].map(Report::exit_code);
    assert_eq!(codes, [0, 3, 3, 1]);
}

#[test]
fn much_that_was_lost_is_no_health() {
    let mut lossy = report(Vec::new());
    lossy.losses.ring_lost = 121;
    assert_eq!(lossy.exit_code(), 3);
    lossy.losses.ring_lost = 120;
    assert_eq!(lossy.exit_code(), 0, "a thousandth is borne");
}

#[test]
fn the_report_is_one_json_object() {
    let line = json(&two());
    assert_eq!(line.lines().count(), 1);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(value["type"], "diagnosis");
    insta::assert_snapshot!(line);
}

#[test]
fn a_hostile_name_reaches_neither_terminal_nor_json() {
    let mut report = report(vec![finding(HOSTILE)]);
    report.names.learn(&Name::Cgroup {
        id: 42,
        path: Some("/docker\x1b[2J\n/x".into()),
    });
    for verbose in [false, true] {
        for width in [None, Some(80)] {
            let page = text(&report, width, verbose);
            let harmless = |character: char| character == '\n' || !character.is_control();
            assert!(page.chars().all(harmless), "{page:?}");
        }
    }
    let value: serde_json::Value = serde_json::from_str(&json(&report)).expect("JSON");
    let name = value["findings"][0]["subject"]["process"]["name"].as_str();
    assert!(
        name.is_some_and(|name| name.starts_with("\u{1b}[2J\"'\\")),
        "{name:?}"
    );
}
