//! The tables, on terminals of several widths and on none.

use bytes::BytesMut;
use jiff::tz::TimeZone;
use tracer::consumer::Consumer as _;
use tracer::output::{Format, Loss, Summary, Terminal, Writer};
use tracer::record::{CloseKind, Incomplete};
use tracer::stream::{Call, Meta};
use tracer_common::event::Kind;
use unicode_width::UnicodeWidthStr;

use crate::samples::{self, WALL, at};

pub fn meta() -> Meta {
    Meta {
        host: "web-3".to_owned(),
        boot_id: "6a3f".to_owned(),
        kernel: "6.18.44".to_owned(),
        hz: 250,
        probes: Vec::new(),
    }
}

fn terminal(width: u16) -> Terminal {
    Terminal {
        width: Some(width),
        height: Some(50),
        ..Terminal::none()
    }
}

fn loss() -> Loss {
    Loss {
        at: at(1_700),
        count: 1_204,
        by_kind: vec![(Kind::Transition, 900), (Kind::Close, 304)],
        cpus: vec![0, 3],
        missed: 12,
    }
}

fn text(out: &BytesMut) -> &str {
    std::str::from_utf8(out).unwrap()
}

fn closes(terminal: Terminal) -> String {
    let mut writer = Writer::new(Format::Table, terminal, false);
    let mut out = BytesMut::new();
    let (active, active_end) = samples::active();
    let (reused, reused_end) = samples::reused();
    writer.meta(&meta(), at(0), WALL, &mut out);
    writer.close(&active, WALL, &mut out);
    for verdict in samples::verdicts() {
        writer.close(&verdict, WALL, &mut out);
        writer.end(&verdict, WALL, &mut out);
    }
    writer.close(&samples::no_port(), WALL, &mut out);
    writer.close(&samples::evil(), WALL, &mut out);
    writer.loss(&loss(), WALL, &mut out);
    writer.close(&reused, WALL, &mut out);
    writer.end(&reused_end, WALL, &mut out);
    writer.end(&samples::fin_wait2_timed_out(), WALL, &mut out);
    writer.end(&active_end, WALL, &mut out);
    writer.summary(&Summary::default(), &mut out);
    text(&out).to_owned()
}

fn transitions(terminal: Terminal) -> String {
    let mut writer = Writer::new(Format::Table, terminal, true);
    let mut out = BytesMut::new();
    writer.meta(&meta(), at(0), WALL, &mut out);
    for row in samples::transitions() {
        writer.transition(&row, WALL, &mut out);
    }
    writer.close(&samples::active().0, WALL, &mut out);
    writer.loss(&loss(), WALL, &mut out);
    text(&out).to_owned()
}

#[test]
fn closes_are_read_at_a_glance_on_120_columns() {
    insta::assert_snapshot!(closes(terminal(120)));
}

#[test]
fn closes_fit_on_80_columns() {
    insta::assert_snapshot!(closes(terminal(80)));
}

#[test]
fn closes_use_the_room_of_200_columns() {
    insta::assert_snapshot!(closes(terminal(200)));
}

#[test]
fn closes_are_not_cut_elsewhere_than_on_a_terminal() {
    insta::assert_snapshot!(closes(Terminal::none()));
}

#[test]
fn transitions_have_the_columns_of_tcpstates() {
    insta::assert_snapshot!(transitions(terminal(120)));
}

#[test]
fn transitions_fit_on_80_columns() {
    insta::assert_snapshot!(transitions(terminal(80)));
}

#[test]
fn no_line_is_wider_than_its_terminal() {
    for width in 1..=240 {
        for table in [closes(terminal(width)), transitions(terminal(width))] {
            for line in table.lines() {
                assert!(line.width() <= usize::from(width), "{width}: {line}");
            }
        }
    }
}

#[test]
fn colour_adds_nothing_but_colour() {
    let coloured = closes(Terminal {
        color: true,
        ..terminal(120)
    });
    assert!(coloured.contains("\u{1b}[31mRST: unread data\u{1b}[0m"));
    assert!(coloured.contains("\u{1b}[35mno free port\u{1b}[0m"));
    assert!(coloured.contains("\u{1b}[33mACK timeout\u{1b}[0m"));
    let escape = coloured.split('\u{1b}');
    let plain = escape.map(|part| part.split_once('m').filter(|_| part.starts_with('[')));
    let plain: String = plain
        .zip(coloured.split('\u{1b}'))
        .map(|(styled, part)| styled.map_or(part, |(_, text)| text))
        .collect();
    assert_eq!(plain, closes(terminal(120)));
}

#[test]
fn no_colour_unless_told() {
    assert!(!closes(terminal(120)).contains('\u{1b}'));
    assert!(!closes(Terminal::none()).contains('\u{1b}'));
}

#[test]
fn what_cannot_be_seen_is_not_denied() {
    let row = |incomplete: &[Incomplete]| {
        let (mut record, _) = samples::active();
        record.fin_wait2 = None;
        record.incomplete = incomplete.iter().copied().collect();
        let mut out = BytesMut::new();
        Writer::new(Format::Table, Terminal::none(), false).close(&record, WALL, &mut out);
        text(&out)
            .split_whitespace()
            .skip(6)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row(&[]), ["local", "FIN", "483ms", "-"]);
    assert_eq!(
        row(&[Incomplete::TimerProbeMissing]),
        ["local", "FIN", "483ms", "?"]
    );
    assert_eq!(
        row(&[Incomplete::TransitionLost]),
        ["local", "FIN?", "483ms", "-"]
    );
}

#[test]
fn the_header_comes_again_with_each_screenful_of_a_terminal_only() {
    let headers = |terminal: Terminal| {
        let mut writer = Writer::new(Format::Table, terminal, false);
        let mut out = BytesMut::new();
        writer.meta(&meta(), at(0), WALL, &mut out);
        for _ in 0..100 {
            writer.close(&samples::active().0, WALL, &mut out);
        }
        text(&out)
            .lines()
            .filter(|line| line.contains("LOCAL"))
            .count()
    };
    assert_eq!(headers(terminal(120)), 3);
    assert_eq!(headers(Terminal::none()), 1);
}

#[test]
fn a_resized_terminal_is_filled_anew() {
    let mut writer = Writer::new(Format::Table, terminal(80), false);
    let mut out = BytesMut::new();
    writer.resize(Some((120, 50)));
    writer.close(&samples::active().0, WALL, &mut out);
    assert!(text(&out).contains("client"), "{}", text(&out));
}

#[test]
fn times_of_day_are_those_of_the_zone() {
    let table = closes(Terminal {
        zone: TimeZone::fixed(jiff::tz::offset(2)),
        ..Terminal::none()
    });
    assert!(table.starts_with("TIME +02:00 "), "{table}");
    assert!(table.contains("\n01:58:01.483 "), "{table}");
}

#[test]
fn a_failed_call_is_a_line_between_the_rows() {
    for transitions in [false, true] {
        let mut writer = Writer::new(Format::Table, Terminal::none(), transitions);
        let mut call = samples::failed_connect();
        let mut out = BytesMut::new();
        writer.call(&call, WALL, &mut out);
        call.failed.call = Call::Socket;
        (call.failed.address, call.failed.errno) = (None, 24);
        writer.call(&call, WALL, &mut out);
        assert_eq!(
            text(&out),
            "23:58:01.000 × connect() to 10.9.0.9:3306 failed: ENETUNREACH (php-fpm/812)\n\
             23:58:01.000 × socket() failed: EMFILE (php-fpm/812)\n"
        );
    }
}

#[test]
fn the_summary_is_one_line_with_the_losses() {
    let summary = Summary {
        closed: 1_204,
        closed_by_kind: vec![(CloseKind::Active, 1_100), (CloseKind::ResetSent, 104)],
        time_waits_ended: 890,
        in_time_wait: 14,
        received: 12_345,
        ring_lost: 3,
        missed: 1,
        ..Summary::default()
    };
    assert_eq!(
        summary.to_string(),
        "1,204 closes (1,100 active, 104 reset sent), 890 TIME_WAIT ended, 14 still in TIME_WAIT; \
         events: 12,345 received, 3 lost, 1 missed"
    );
    let bounded = Summary {
        evicted: 4_000,
        ..Summary::default()
    };
    assert!(bounded.to_string().ends_with("0 missed; 4,000 let go"));
}
