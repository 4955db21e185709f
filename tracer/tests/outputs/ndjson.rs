//! NDJSON: the fixed field names, and null for what was never seen.

use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tracer::consumer::Consumer as _;
use tracer::output::{Format, Loss, Summary, Terminal, Writer};
use tracer::record::CloseKind;
use tracer::stream::{Meta, Name, ProbeReport, ProbeState, Purpose, Skipped, Sweep};
use tracer_common::event::Kind;

use crate::samples::{self, WALL, at};
use crate::tables::meta;

fn lines(write: impl Fn(&mut Writer, &mut BytesMut)) -> Vec<String> {
    let mut writer = Writer::new(Format::Json, Terminal::none(), true);
    let mut out = BytesMut::new();
    write(&mut writer, &mut out);
    let text = std::str::from_utf8(&out).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

fn line(write: impl Fn(&mut Writer, &mut BytesMut)) -> Value {
    let lines = lines(write);
    assert_eq!(lines.len(), 1);
    serde_json::from_str(&lines[0]).unwrap()
}

#[test]
fn records_are_one_line_each() {
    let lines = lines(|writer, out| {
        let (verdict, end) = samples::active();
        writer.close(&verdict, WALL, out);
        writer.end(&end, WALL, out);
        writer.end(&samples::reused().1, WALL, out);
        writer.close(&samples::no_port(), WALL, out);
        writer.close(&samples::evil(), WALL, out);
    });
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn transitions_are_one_line_each() {
    let lines = lines(|writer, out| {
        for row in &samples::transitions()[..3] {
            writer.transition(row, WALL, out);
        }
    });
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn transitions_are_written_where_asked_for_only() {
    let mut writer = Writer::new(Format::Json, Terminal::none(), false);
    let mut out = BytesMut::new();
    writer.transition(&samples::transitions()[0], WALL, &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_summary_keeps_what_it_rests_on_and_no_row() {
    for (format, expected) in [
        (Format::Json, &["meta", "loss", "summary"][..]),
        (Format::Table, &[]),
    ] {
        let mut writer = Writer::of_summary(format);
        assert!(!writer.wants_rows() && !writer.wants_names());
        let mut out = BytesMut::new();
        writer.meta(&meta(), at(0), WALL, &mut out);
        writer.transition(&samples::transitions()[0], WALL, &mut out);
        writer.close(&samples::evil(), WALL, &mut out);
        writer.end(&samples::evil(), WALL, &mut out);
        writer.call(&samples::failed_connect(), WALL, &mut out);
        writer.loss(&Loss::default(), WALL, &mut out);
        writer.sweep(&sweep(), WALL, &mut out);
        writer.summary(&Summary::default(), &mut out);
        let lines = std::str::from_utf8(&out).unwrap().lines();
        let types = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone());
        assert_eq!(types.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn every_line_begins_with_its_type() {
    let lines = lines(|writer, out| {
        writer.meta(&meta(), at(0), WALL, out);
        writer.transition(&samples::transitions()[0], WALL, out);
        writer.close(&samples::evil(), WALL, out);
        writer.end(&samples::evil(), WALL, out);
        writer.loss(&Loss::default(), WALL, out);
        writer.sweep(&sweep(), WALL, out);
        writer.summary(&Summary::default(), out);
    });
    let types = [
        "meta",
        "transition",
        "close",
        "end",
        "loss",
        "inventory",
        "summary",
    ];
    assert_eq!(lines.len(), types.len());
    for (line, name) in lines.iter().zip(types) {
        assert!(
            line.starts_with(&format!("{{\"type\":\"{name}\",")),
            "{line}"
        );
    }
}

#[test]
fn what_was_never_seen_is_null() {
    let line = line(|writer, out| writer.close(&samples::evil(), WALL, out));
    for field in [
        "id",
        "opened_at",
        "ended_at",
        "traffic",
        "uid",
        "cgroup_id",
        "previous",
    ] {
        assert_eq!(line[field], Value::Null, "{field}");
    }
    assert_eq!(line["local"], json!({"address": null, "port": null}));
    assert_eq!(line["complete"], json!(false));
    assert_eq!(
        line["incomplete_reasons"],
        json!(["opening_not_seen", "transition_lost"])
    );
}

#[test]
fn a_socket_is_called_by_its_cgroup_and_namespace() {
    let id = "0a".repeat(32);
    let path = format!("/kubepods/burstable/pod{}/crio-{id}", "c9".repeat(16));
    let told = |path: Option<&str>, name: Option<&str>| {
        line(|writer, out| {
            let path = path.map(str::to_owned);
            let name = name.map(str::to_owned);
            let cgroup = 9_007_199_254_740_993;
            writer.name(&Name::Cgroup { id: cgroup, path });
            let inode = 4_026_531_840;
            writer.name(&Name::Netns { inode, name });
            writer.close(&samples::active().0, WALL, out);
        })
    };
    let pod = told(Some(&path), Some("blue"));
    assert_eq!(pod["netns_name"], json!("blue"));
    assert_eq!(pod["cgroup"], json!(path));
    assert_eq!(pod["cgroup_source"], "exact");
    assert_eq!(pod["unit"], Value::Null);
    let container = json!({"id": id, "runtime": "cri-o", "pod_uid": "c9".repeat(16)});
    assert_eq!(pod["container"], container);

    let service = told(Some("/system.slice/php-fpm.service"), None);
    assert_eq!(service["unit"], json!("php-fpm.service"));
    for field in ["container", "netns_name"] {
        assert_eq!(service[field], Value::Null, "{field}");
    }
    let gone = told(None, None);
    for field in ["cgroup", "unit", "container"] {
        assert_eq!(gone[field], Value::Null, "{field}");
    }
    assert_eq!(gone["cgroup_id"], json!("9007199254740993"));
    assert_eq!(gone["cgroup_source"], "unknown");

    // In the old hierarchies the socket's own is the root, and the process's is told.
    let of_process = line(|writer, out| {
        let (pid, id) = (812, 9_007_199_254_740_993);
        writer.name(&Name::Cgroup {
            id,
            path: Some("/".to_owned()),
        });
        writer.name(&Name::CgroupOfProcess {
            pid,
            path: path.clone(),
        });
        writer.close(&samples::active().0, WALL, out);
    });
    assert_eq!(of_process["cgroup"], json!(path));
    assert_eq!(of_process["cgroup_source"], "inferred");
}

#[test]
fn a_name_survives_as_text() {
    let line = line(|writer, out| writer.close(&samples::evil(), WALL, out));
    let opener = &line["process"]["opener"];
    assert_eq!(opener["comm"], json!("\u{1b}[31m\"<b>\u{fffd}"));
    assert_eq!(opener["source"], json!("inferred"));
}

#[test]
fn ids_keep_all_their_digits() {
    let line = line(|writer, out| writer.end(&samples::reused().1, WALL, out));
    assert_eq!(line["id"], json!("18446744073709551615"));
    assert_eq!(
        line["previous"],
        json!({"id": "77", "generation": 0, "gap_ns": 1_100_000})
    );
}

#[test]
fn monotonic_ns_is_that_of_the_event_that_the_line_is_about() {
    let (verdict, end) = samples::active();
    let verdict = line(|writer, out| writer.close(&verdict, WALL, out));
    let end = line(|writer, out| writer.end(&end, WALL, out));
    assert_eq!(verdict["monotonic_ns"], json!(at(1_483).0));
    assert_eq!(end["monotonic_ns"], json!(at(62_601).0));
    assert_eq!(end["ended_at"], json!("2026-11-20T23:59:02.601456789Z"));
}

#[test]
fn an_errno_is_symbolic() {
    let errno = |number| {
        let mut record = samples::evil();
        record.close.errno = number;
        let line = line(|writer, out| writer.close(&record, WALL, out));
        line["close"]["errno"].clone()
    };
    assert_eq!(errno(Some(104)), json!("ECONNRESET"));
    assert_eq!(errno(Some(111)), json!("ECONNREFUSED"));
    assert_eq!(errno(Some(110)), json!("ETIMEDOUT"));
    assert_eq!(errno(Some(999)), json!("E999"));
    assert_eq!(errno(Some(0)), Value::Null);
    assert_eq!(errno(None), Value::Null);
}

#[test]
fn a_failed_call_says_what_was_asked_for_and_whether_a_record_tells_of_it() {
    let mut call = samples::failed_connect();
    assert_eq!(
        line(|writer, out| writer.call(&call, WALL, out)),
        json!({
            "type": "call", "at": "2026-11-20T23:58:01.000456789Z", "monotonic_ns": at(1_000).0,
            "call": "connect", "errno": "ENETUNREACH",
            "address": {"address": "10.9.0.9", "port": 3306}, "state": "CLOSE",
            "netns": 4_026_531_840_u32, "netns_cookie": "1",
            "local": {"address": null, "port": null}, "peer": {"address": null, "port": null},
            "pid": 812, "tid": 813, "comm": "php-fpm", "name": "php-fpm", "has_record": false,
        })
    );
    (call.netns, call.netns_cookie) = (0, 0);
    (call.failed.address, call.failed.state) = (None, None);
    call.failed.errno = 24;
    let line = line(|writer, out| writer.call(&call, WALL, out));
    assert_eq!(line["errno"], json!("EMFILE"));
    for unknown in ["address", "state", "netns", "netns_cookie"] {
        assert_eq!(line[unknown], Value::Null, "{unknown}");
    }
}

#[test]
fn the_meta_line_names_each_probe_and_its_state() {
    let meta = Meta {
        probes: vec![
            ProbeReport {
                name: "state",
                hook: "inet_sock_set_state",
                state: ProbeState::Attached,
                purpose: "everything",
            },
            ProbeReport {
                name: "timer_start",
                hook: "timer_start",
                state: ProbeState::Refused("kptr_restrict is 2".to_owned()),
                purpose: "the beginning of each TIME_WAIT",
            },
        ],
        ..meta()
    };
    assert_eq!(
        line(|writer, out| writer.meta(&meta, at(0), WALL, out)),
        json!({
            "type": "meta", "schema": 1, "version": env!("CARGO_PKG_VERSION"),
            "host": "web-3", "boot_id": "6a3f", "kernel": "6.18.44", "hz": 250,
            "started_at": "2026-11-20T23:58:00.000456789Z", "monotonic_ns": 800_000_456_789_u64,
            "probes": [
                {"name": "state", "hook": "inet_sock_set_state", "state": "attached",
                 "reason": null, "purpose": "everything"},
                {"name": "timer_start", "hook": "timer_start", "state": "refused",
                 "reason": "kptr_restrict is 2", "purpose": "the beginning of each TIME_WAIT"},
            ],
        })
    );
}

#[test]
fn a_loss_says_when_how_many_which_and_where() {
    let loss = Loss {
        at: at(1_700),
        count: 1_204,
        by_kind: vec![(Kind::Transition, 900), (Kind::Close, 304)],
        cpus: vec![0, 3],
        missed: 12,
    };
    assert_eq!(
        line(|writer, out| writer.loss(&loss, WALL, out)),
        json!({
            "type": "loss", "at": "2026-11-20T23:58:01.700456789Z", "monotonic_ns": at(1_700).0,
            "count": 1204, "by_kind": {"transition": 900, "close": 304}, "cpus": [0, 3],
            "missed": 12,
        })
    );
}

fn sweep() -> Sweep {
    Sweep {
        at: at(1_700),
        purpose: Purpose::Start,
        namespaces: 12,
        sockets: 340,
        fin_wait2s: 5,
        time_waits: 28_000,
        cpu: Duration::from_micros(21_300),
        skipped: vec![
            Skipped {
                netns: Some(4_026_532_281),
                path: "/run/netns/blue".to_owned(),
                reason: "the budget of 2s was used up".to_owned(),
            },
            Skipped {
                netns: None,
                path: "/proc/1/ns/net".to_owned(),
                reason: "failed to read it: Permission denied (os error 13)".to_owned(),
            },
        ],
    }
}

#[test]
fn an_inventory_says_what_was_found_and_what_was_not_looked_at() {
    assert_eq!(
        line(|writer, out| writer.sweep(&sweep(), WALL, out)),
        json!({
            "type": "inventory", "at": "2026-11-20T23:58:01.700456789Z",
            "monotonic_ns": at(1_700).0, "purpose": "start",
            "namespaces": 12, "sockets": 340, "fin_wait2s": 5, "time_waits": 28_000,
            "cpu_ns": 21_300_000,
            "skipped": [
                {"netns": 4_026_532_281_u32, "path": "/run/netns/blue",
                 "reason": "the budget of 2s was used up"},
                {"netns": null, "path": "/proc/1/ns/net",
                 "reason": "failed to read it: Permission denied (os error 13)"},
            ],
        })
    );
}

#[test]
fn the_summary_is_the_account() {
    let summary = Summary {
        duration: Duration::from_millis(1_500),
        opened: 1,
        closed: 2,
        closed_by_kind: vec![(CloseKind::TimedOut, 2)],
        ended: 3,
        time_waits_ended: 4,
        open: 5,
        evicted: 0,
        in_time_wait: 6,
        shown_open: 11,
        shown_in_time_wait: 12,
        hits: 7,
        received: 8,
        ring_lost: 9,
        missed: 10,
    };
    assert_eq!(
        line(|writer, out| writer.summary(&summary, out)),
        json!({
            "type": "summary", "duration_ns": 1_500_000_000, "opened": 1, "closed": 2,
            "closed_by_kind": {"timed_out": 2}, "ended": 3, "time_waits_ended": 4, "open": 5,
            "in_time_wait": 6, "shown_open": 11, "shown_in_time_wait": 12, "hits": 7, "received": 8, "ring_lost": 9, "missed": 10,
        })
    );
}
