//! `tracer check`: what this host supports, and what the programs cost it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::btf::VMLINUX;
use crate::config::CheckConfig;
use crate::decode;
use crate::fdinfo::ProgramStatistics;
use crate::host;
use crate::output::check::{Capability, CheckReport, Cost, ProgramCost, Verdict};
use crate::probes::{Probes, Ring, Settings, only_adds_precision, tells_calls};
use crate::reader::Reader;
use crate::stream::{Body, ProbeState};
use crate::{clock, object};

/// The ring of a check: it only has to hold what comes in a few milliseconds.
const BUFFER: u32 = 16 << 20;

/// What is needed, by its bit, and for what.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (39, "CAP_BPF", "to load programs and maps"),
    (
        38,
        "CAP_PERFMON",
        "to attach to tracepoints and read the kernel's structures",
    ),
    (
        34,
        "CAP_SYSLOG",
        "to read kernel symbols; without it TIME_WAIT's timer is learned over loopback",
    ),
    (
        21,
        "CAP_SYS_ADMIN",
        "to switch BPF statistics on for --cost, and before Linux 5.8",
    ),
];

/// Finds out what this host supports. What is missing is in the report, not an error.
///
/// # Errors
/// Where the measuring of costs fails half-way.
pub async fn check(config: CheckConfig) -> anyhow::Result<CheckReport> {
    let mut report = facts();
    let settings = Settings {
        calls: true,
        ..Settings::new(object::object(), BUFFER)
    };
    match Probes::attach(&settings) {
        Ok((probes, ring)) => {
            report.probes = probes.reports().to_vec();
            report.verdict = verdict(&report);
            if let Some(duration) = config.cost {
                report.cost = Some(cost(&probes, ring, duration).await?);
            }
        }
        Err(error) => report
            .advice
            .push(format!("{:#}", anyhow::Error::new(error))),
    }
    Ok(report)
}

fn facts() -> CheckReport {
    let held = host::effective_capabilities();
    CheckReport {
        kernel: host::kernel(),
        hz: Ok(clock::hz()),
        btf: match Path::new(VMLINUX).metadata() {
            Ok(_) => Ok(VMLINUX.to_owned()),
            Err(error) => Err(format!("{VMLINUX}: {error}")),
        },
        tracefs: host::tracefs().ok_or_else(|| {
            "not mounted; mounted privately for a moment where it is needed".to_owned()
        }),
        kptr_restrict: host::kptr_restrict(),
        capabilities: CAPABILITIES
            .map(|(bit, name, purpose)| Capability {
                name,
                held: held & (1 << bit) != 0,
                purpose,
            })
            .to_vec(),
        probes: Vec::new(),
        cost: None,
        verdict: Verdict::Cannot,
        advice: Vec::new(),
    }
}

/// How much `watch` can see. It tells failed calls only where that is asked for.
fn verdict(report: &CheckReport) -> Verdict {
    if report.probes.iter().all(|probe| {
        probe.state == ProbeState::Attached
            || only_adds_precision(probe.name)
            || tells_calls(probe.name)
    }) {
        Verdict::Full
    } else {
        Verdict::Degraded
    }
}

/// Measures for `duration` what the kernel's BPF statistics say. They are on only while the file
/// descriptor of the request lives, and cost about 33 ns a run themselves.
async fn cost(probes: &Probes, ring: Ring, duration: Duration) -> anyhow::Result<Cost> {
    let mut reader = Reader::new(ring).context("failed to map the ring buffer")?;
    let statistics_on = aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("failed to switch BPF statistics on (needs CAP_SYS_ADMIN)")?;
    let started = clock::monotonic();
    let before = probes
        .statistics()
        .context("failed to read the programs' statistics")?;
    let end = started + duration;
    let mut transitions = 0;
    loop {
        let batch = reader
            .next_batch(Some(end))
            .await
            .context("failed to read the ring buffer")?;
        let mut records = batch.records;
        while let Some(event) = decode::next_event(&mut records) {
            let is_transition = event.is_ok_and(|event| {
                matches!(event.body, Body::Transition { .. } | Body::Close { .. })
            });
            transitions += u64::from(is_transition);
        }
        if clock::monotonic() >= end {
            break;
        }
    }
    let after = probes
        .statistics()
        .context("failed to read the programs' statistics")?;
    let ended = clock::monotonic();
    drop(statistics_on);
    let lost = probes.account().context("failed to read the accounts")?;
    transitions += lost.lost_by_kind[1] + lost.lost_by_kind[2];
    Ok(Cost {
        duration: Duration::from_nanos(ended.since(started)),
        transitions,
        programs: before.iter().zip(&after).map(difference).collect(),
    })
}

fn difference((before, after): (&ProgramStatistics, &ProgramStatistics)) -> ProgramCost {
    ProgramCost {
        name: after.name.to_owned(),
        runs: after.runs - before.runs,
        nanoseconds: after.nanoseconds - before.nanoseconds,
    }
}
