//! The report of `tracer check`.

use std::time::Duration;

use bytes::BytesMut;
use tracer::output::Format;
use tracer::output::check::{Capability, CheckReport, Cost, ProgramCost, Verdict};
use tracer::probes::{CALL_PROBES, SCHEDULE_PROBE};
use tracer::stream::{ProbeReport, ProbeState};

fn report() -> CheckReport {
    let probe = |name, hook, state, purpose| ProbeReport {
        name,
        hook,
        state,
        purpose,
    };
    let program = |name: &str, runs, nanoseconds| ProgramCost {
        name: name.to_owned(),
        runs,
        nanoseconds,
    };
    CheckReport {
        kernel: "6.18.44".to_owned(),
        hz: Ok(250),
        btf: Ok("/sys/kernel/btf/vmlinux".to_owned()),
        tracefs: Err("nothing is mounted at /sys/kernel/tracing".to_owned()),
        kptr_restrict: Some(2),
        capabilities: vec![
            Capability {
                name: "CAP_BPF",
                held: true,
                purpose: "load BPF programs",
            },
            Capability {
                name: "CAP_SYSLOG",
                held: false,
                purpose: "read kernel addresses",
            },
        ],
        probes: vec![
            probe(
                "state",
                "inet_sock_set_state",
                ProbeState::Attached,
                "all of it",
            ),
            probe(
                "timer_start",
                "timer_start",
                ProbeState::Refused("the address of tw_timer_handler is hidden".to_owned()),
                "when each TIME_WAIT begins",
            ),
        ],
        cost: Some(Cost {
            duration: Duration::from_secs(10),
            transitions: 100_000,
            programs: vec![
                program("state", 100_000, 17_000_000),
                program("timer_start", 0, 0),
            ],
        }),
        verdict: Verdict::Degraded,
        advice: vec!["Set kernel.kptr_restrict to 1, or run as root.".to_owned()],
    }
}

fn written(report: &CheckReport, format: Format) -> String {
    let mut out = BytesMut::new();
    report.write(format, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn the_report_says_what_is_lost_and_what_to_do() {
    insta::assert_snapshot!(written(&report(), Format::Table));
}

#[test]
fn the_report_is_one_json_object() {
    let text = written(&report(), Format::Json);
    assert_eq!(text.lines().count(), 1);
    insta::assert_snapshot!(text);
}

#[test]
fn a_probe_that_only_adds_precision_is_not_missed() {
    let mut report = report();
    report.verdict = Verdict::Full;
    report.probes.pop();
    report.probes.push(ProbeReport {
        name: SCHEDULE_PROBE,
        hook: "__inet_twsk_schedule",
        state: ProbeState::Refused("this host permits no fexit programs".to_owned()),
        purpose: "each refresh",
    });
    let text = written(&report, Format::Table);
    assert!(
        !text.contains("refused") && !text.contains("lost"),
        "{text}"
    );
    assert!(
        text.contains("not needed: this host permits no fexit programs"),
        "{text}"
    );
    assert!(text.contains("in full: 1 of 1 probes attached"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&written(&report, Format::Json)).unwrap();
    assert_eq!(json["probes"][1]["state"], "not_needed");
}

#[test]
fn a_probe_of_failed_calls_is_told_as_lost_and_not_missed_by_watch() {
    let mut report = report();
    report.verdict = Verdict::Full;
    report.probes.pop();
    report.probes.push(ProbeReport {
        name: CALL_PROBES[0],
        hook: "sys_exit_connect",
        state: ProbeState::Refused("this kernel has no such tracepoint".to_owned()),
        purpose: "diagnose: the errno of connect()",
    });
    let text = written(&report, Format::Table);
    assert!(
        text.contains("lost without it: diagnose: the errno of connect()"),
        "{text}"
    );
    assert!(text.contains("in full: 1 of 1 probes attached"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&written(&report, Format::Json)).unwrap();
    assert_eq!(json["probes"][1]["state"], "refused");
}

#[test]
fn a_cost_without_transitions_has_no_ratio() {
    let mut report = report();
    report.cost.as_mut().unwrap().transitions = 0;
    let json: serde_json::Value = serde_json::from_str(&written(&report, Format::Json)).unwrap();
    assert!(json["cost"]["ns_per_transition"].is_null());
    assert!(!written(&report, Format::Table).contains("NaN"));
}

#[test]
fn the_verdict_is_the_exit_status() {
    let codes = [Verdict::Full, Verdict::Degraded, Verdict::Cannot].map(Verdict::exit_code);
    assert_eq!(codes, [0, 1, 2]);
}
