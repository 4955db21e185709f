//! What a host supports, as `tracer check` tells it.

use std::fmt::Write;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use crate::probes::{only_adds_precision, tells_calls};
use crate::stream::{ProbeReport, ProbeState};

use super::ndjson::ProbeView;
use super::{Format, text};

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckReport {
    /// `uname -r`.
    pub kernel: String,
    /// Timer interrupts a second (CONFIG_HZ).
    pub hz: Result<u32, String>,
    /// Where the kernel's types were read, or why not.
    pub btf: Result<String, String>,
    /// Where tracefs is mounted, or why it cannot be used.
    pub tracefs: Result<String, String>,
    /// `/proc/sys/kernel/kptr_restrict`.
    pub kptr_restrict: Option<u8>,
    /// What this process may do.
    pub capabilities: Vec<Capability>,
    /// Each probe and its state, in the order of attaching.
    pub probes: Vec<ProbeReport>,
    /// What the programs cost, where that was asked for.
    pub cost: Option<Cost>,
    /// The upshot.
    pub verdict: Verdict,
    /// What to do about it, a sentence each.
    pub advice: Vec<String>,
}

/// A capability of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// `CAP_BPF`.
    pub name: &'static str,
    /// Whether this process has it.
    pub held: bool,
    /// What it is needed for.
    pub purpose: &'static str,
}

/// What all programs cost over a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// How long it was measured.
    pub duration: Duration,
    /// State transitions in that time.
    pub transitions: u64,
    /// Each program.
    pub programs: Vec<ProgramCost>,
}

/// What one program cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Name of the program.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// Time in it, nanoseconds.
    pub nanoseconds: u64,
}

/// How much can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything.
    Full,
    /// Not everything.
    Degraded,
    /// Nothing.
    Cannot,
}

impl Verdict {
    /// The spelling in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::Cannot => "cannot",
        }
    }

    /// The exit status of `tracer check`.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Full => 0,
            Self::Degraded => 1,
            Self::Cannot => 2,
        }
    }
}

impl CheckReport {
    /// Appends the report: text for people, or one JSON object, with its line end.
    pub fn write(&self, format: Format, out: &mut BytesMut) {
        match format {
            Format::Table => {
                let mut text = String::new();
                // Writing to a String cannot fail.
                let _ = self.text(&mut text);
                out.extend_from_slice(text.as_bytes());
            }
            Format::Json => super::ndjson::line(&CheckView::from(self), out),
        }
    }

    fn text(&self, out: &mut String) -> std::fmt::Result {
        let found = |fact: &Result<String, String>| match fact {
            Ok(found) => found.clone(),
            Err(reason) => format!("no: {reason}"),
        };
        let hz = match &self.hz {
            Ok(hz) => hz.to_string(),
            Err(reason) => format!("unknown: {reason}"),
        };
        let kptr_restrict = self
            .kptr_restrict
            .map_or("unknown".to_owned(), |n| n.to_string());
        for (name, value) in [
            ("kernel", self.kernel.clone()),
            ("HZ", hz),
            ("BTF", found(&self.btf)),
            ("tracefs", found(&self.tracefs)),
            ("kptr_restrict", kptr_restrict),
        ] {
            writeln!(out, "{name:<14} {value}")?;
        }

        writeln!(out, "\nCapabilities")?;
        let name_width = widest(self.capabilities.iter().map(|capability| capability.name));
        for Capability {
            name,
            held,
            purpose,
        } in &self.capabilities
        {
            let held = if *held { "yes" } else { "no" };
            writeln!(out, "  {held:<3}  {name:<name_width$}  {purpose}")?;
        }

        writeln!(out, "\nProbes")?;
        let name_width = widest(self.probes.iter().map(|probe| probe.name));
        let hook_width = widest(self.probes.iter().map(|probe| probe.hook));
        for probe in &self.probes {
            let (mark, state, without) = match &probe.state {
                ProbeState::Attached => ("yes", "attached".to_owned(), None),
                ProbeState::Refused(reason) if only_adds_precision(probe.name) => (
                    "-",
                    format!("not needed: {reason}"),
                    Some("more exact with it"),
                ),
                ProbeState::Refused(reason) => {
                    ("no", format!("refused: {reason}"), Some("lost without it"))
                }
            };
            let ProbeReport { name, hook, .. } = probe;
            writeln!(
                out,
                "  {mark:<3}  {name:<name_width$}  {hook:<hook_width$}  {state}"
            )?;
            if let Some(without) = without {
                writeln!(out, "       {without}: {}", probe.purpose)?;
            }
        }

        if let Some(cost) = &self.cost {
            cost.text(out)?;
        }

        writeln!(out, "\n{}", self.upshot())?;
        for advice in &self.advice {
            writeln!(out, "  {advice}")?;
        }
        Ok(())
    }

    fn upshot(&self) -> String {
        let attached = |probe: &&ProbeReport| probe.state == ProbeState::Attached;
        let attached = self.probes.iter().filter(attached).count();
        let spared = |probe: &&ProbeReport| {
            probe.state != ProbeState::Attached
                && (only_adds_precision(probe.name) || tells_calls(probe.name))
        };
        let wanted = self.probes.len() - self.probes.iter().filter(spared).count();
        let probes = format!("{attached} of {wanted} probes attached");
        match self.verdict {
            Verdict::Full => format!("This host can be traced in full: {probes}."),
            Verdict::Degraded => format!("This host can be traced in part: {probes}."),
            Verdict::Cannot => format!("This host cannot be traced: {probes}."),
        }
    }
}

fn widest<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(str::len).max().unwrap_or(0)
}

impl Cost {
    fn total(&self) -> ProgramCost {
        ProgramCost {
            name: "all".to_owned(),
            runs: self.programs.iter().map(|program| program.runs).sum(),
            nanoseconds: self
                .programs
                .iter()
                .map(|program| program.nanoseconds)
                .sum(),
        }
    }

    fn text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\nCost: {} transitions in {}",
            text::count(self.transitions),
            text::duration(u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX))
        )?;
        let total = self.total();
        let rows = || self.programs.iter().chain([&total]);
        let name_width = widest(rows().map(|program| &*program.name)).max("PROGRAM".len());
        writeln!(
            out,
            "  {:<name_width$}  {:>13}  {:>8}  {:>13}",
            "PROGRAM", "RUNS", "NS/RUN", "NS/TRANSITION"
        )?;
        for program in rows() {
            let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |n| format!("{n:.1}"));
            writeln!(
                out,
                "  {:<name_width$}  {:>13}  {:>8}  {:>13}",
                program.name,
                text::count(program.runs),
                ratio(program.per_run()),
                ratio(program.per(self.transitions))
            )?;
        }
        Ok(())
    }
}

impl ProgramCost {
    fn per_run(&self) -> Option<f64> {
        self.per(self.runs)
    }

    fn per(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.nanoseconds as f64 / count as f64)
    }
}

#[derive(Serialize)]
struct CheckView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    verdict: &'static str,
    kernel: &'a str,
    hz: Option<u32>,
    btf: FactView<'a>,
    tracefs: FactView<'a>,
    kptr_restrict: Option<u8>,
    capabilities: &'a [Capability],
    probes: Vec<ProbeView<'a>>,
    cost: Option<CostView<'a>>,
    advice: &'a [String],
}

impl<'a> From<&'a CheckReport> for CheckView<'a> {
    fn from(report: &'a CheckReport) -> Self {
        Self {
            kind: "check",
            verdict: report.verdict.name(),
            kernel: &report.kernel,
            hz: report.hz.as_ref().ok().copied(),
            btf: (&report.btf).into(),
            tracefs: (&report.tracefs).into(),
            kptr_restrict: report.kptr_restrict,
            capabilities: &report.capabilities,
            probes: report.probes.iter().map(ProbeView::from).collect(),
            cost: report.cost.as_ref().map(CostView::from),
            advice: &report.advice,
        }
    }
}

#[derive(Serialize)]
struct FactView<'a> {
    available: bool,
    path: Option<&'a str>,
    reason: Option<&'a str>,
}

impl<'a> From<&'a Result<String, String>> for FactView<'a> {
    fn from(fact: &'a Result<String, String>) -> Self {
        Self {
            available: fact.is_ok(),
            path: fact.as_deref().ok(),
            reason: fact.as_ref().err().map(String::as_str),
        }
    }
}

#[derive(Serialize)]
struct CostView<'a> {
    duration_ns: u64,
    transitions: u64,
    ns_per_transition: Option<f64>,
    programs: Vec<ProgramCostView<'a>>,
}

#[derive(Serialize)]
struct ProgramCostView<'a> {
    name: &'a str,
    runs: u64,
    ns: u64,
    ns_per_run: Option<f64>,
    ns_per_transition: Option<f64>,
}

impl<'a> From<&'a Cost> for CostView<'a> {
    fn from(cost: &'a Cost) -> Self {
        let program = |program: &'a ProgramCost| ProgramCostView {
            name: &program.name,
            runs: program.runs,
            ns: program.nanoseconds,
            ns_per_run: program.per_run(),
            ns_per_transition: program.per(cost.transitions),
        };
        Self {
            duration_ns: u64::try_from(cost.duration.as_nanos()).unwrap_or(u64::MAX),
            transitions: cost.transitions,
            ns_per_transition: cost.total().per(cost.transitions),
            programs: cost.programs.iter().map(program).collect(),
        }
    }
}
