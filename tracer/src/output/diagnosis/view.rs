//! The report as JSON: the field names are fixed.

use std::time::Duration;

use serde::Serialize;
use tracer_common::tcp::Endpoint;

use crate::attribution::Group;
use crate::diagnosis::{Advice, Finding, Report, RouteOutlook, Subject};
use crate::output::json::{ContainerView, EndpointView, Id, Name};
use crate::ports::Outlook;

/// The whole.
#[derive(Serialize)]
pub(super) struct DiagnosisView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    watched_ns: u64,
    connections: u64,
    closed: u64,
    found: u64,
    losses: LossesView,
    verdict: &'static str,
    findings: Vec<FindingView<'a>>,
    routes: Vec<RouteView<'a>>,
    not_seen: &'a [String],
    too_early: &'a [&'static str],
}

#[derive(Serialize)]
struct LossesView {
    hits: u64,
    received: u64,
    ring_lost: u64,
    missed: u64,
}

#[derive(Serialize)]
struct FindingView<'a> {
    rule: &'static str,
    severity: &'static str,
    subject: SubjectView<'a>,
    summary: &'a str,
    evidence: &'a [String],
    dwell_basis: Option<&'static str>,
    dwell_ns: Option<u64>,
    samples: Option<u64>,
    advice: Vec<AdviceView<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct SubjectView<'a> {
    netns: Option<u32>,
    netns_cookie: Option<Id>,
    netns_name: Option<&'a str>,
    process: Option<ProcessView<'a>>,
    cgroup: Option<&'a str>,
    unit: Option<&'a str>,
    container: Option<ContainerView<'a>>,
    source: Option<String>,
    destination: Option<EndpointView>,
    local_port: Option<u16>,
    used: Option<u64>,
    capacity: Option<u64>,
    failed: Option<u64>,
}

#[derive(Serialize)]
struct ProcessView<'a> {
    name: Option<Name<'a>>,
    pids: &'a [u32],
    source: &'static str,
}

#[derive(Serialize)]
struct AdviceView<'a> {
    what: &'a str,
    command: Option<&'a str>,
    present: Option<&'a str>,
    proposed: Option<&'a str>,
    effect: &'a str,
    caution: Option<&'a str>,
    reference: &'a str,
}

impl<'a> From<&'a Report> for DiagnosisView<'a> {
    fn from(report: &'a Report) -> Self {
        let losses = report.losses;
        Self {
            kind: "diagnosis",
            watched_ns: u64::try_from(report.watched.as_nanos()).unwrap_or(u64::MAX),
            connections: report.opened,
            closed: report.closed,
            found: report.found,
            losses: LossesView {
                hits: losses.hits,
                received: losses.received,
                ring_lost: losses.ring_lost,
                missed: losses.missed,
            },
            verdict: report.verdict().name(),
            findings: report
                .findings
                .iter()
                .map(|finding| FindingView::new(report, finding))
                .collect(),
            routes: report
                .routes
                .iter()
                .map(|route| RouteView::new(report, route))
                .collect(),
            not_seen: &report.blind,
            too_early: &report.too_early,
        }
    }
}

#[derive(Serialize)]
struct RouteView<'a> {
    netns: Option<u32>,
    netns_name: Option<&'a str>,
    source: String,
    destination: EndpointView,
    used: u64,
    capacity: u64,
    opened_per_second: f64,
    growth_per_second: f64,
    steady_state: f64,
    outlook: &'static str,
    exhausted_in_ns: Option<u64>,
    dwell_basis: &'static str,
    dwell_ns: u64,
    samples: u64,
}

impl<'a> RouteView<'a> {
    fn new(report: &'a Report, outlook: &RouteOutlook) -> Self {
        let forecast = &outlook.forecast;
        let nanoseconds = |length: Duration| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let (name, left) = match forecast.outlook {
            Outlook::TooEarly => ("too_early", None),
            Outlook::Exhausted => ("exhausted", Some(0)),
            Outlook::In(left) => ("exhausted_later", Some(nanoseconds(left))),
            Outlook::Never => ("never", None),
        };
        Self {
            netns: outlook.netns,
            netns_name: outlook.netns.and_then(|inode| report.names.netns(inode)),
            source: outlook.route.source.to_string(),
            destination: outlook.route.destination.into(),
            used: outlook.used,
            capacity: outlook.capacity,
            opened_per_second: forecast.rate,
            growth_per_second: forecast.growth,
            steady_state: forecast.steady_state,
            outlook: name,
            exhausted_in_ns: left,
            dwell_basis: forecast.dwell.basis.name(),
            dwell_ns: nanoseconds(forecast.dwell.mean),
            samples: forecast.dwell.samples,
        }
    }
}

impl<'a> FindingView<'a> {
    fn new(report: &'a Report, finding: &'a Finding) -> Self {
        let nanoseconds = |dwell: &crate::ports::Dwell| u64::try_from(dwell.mean.as_nanos()).ok();
        let dwell = finding.dwell.as_ref();
        Self {
            rule: finding.rule,
            severity: finding.severity.name(),
            subject: SubjectView::new(report, &finding.subject),
            summary: &finding.summary,
            evidence: &finding.evidence,
            dwell_basis: dwell.map(|dwell| dwell.basis.name()),
            dwell_ns: dwell.and_then(nanoseconds),
            samples: dwell.map(|dwell| dwell.samples),
            advice: finding.advice.iter().map(AdviceView::from).collect(),
            warnings: &finding.warnings,
        }
    }
}

impl<'a> SubjectView<'a> {
    fn new(report: &'a Report, subject: &'a Subject) -> Self {
        let names = &report.names;
        let group = super::group(report, subject);
        let has_process = subject.program.is_some() || !subject.pids.is_empty();
        Self {
            netns: subject.netns,
            netns_cookie: subject.netns_cookie.map(Id),
            netns_name: subject.netns.and_then(|inode| names.netns(inode)),
            process: has_process.then(|| ProcessView {
                name: subject
                    .program
                    .as_ref()
                    .and_then(|program| program.name.as_ref())
                    .map(Name),
                pids: &subject.pids,
                source: subject.program_source.name(),
            }),
            cgroup: group.map(|group| group.path.as_str()),
            unit: group.and_then(Group::unit),
            container: group
                .and_then(|group| group.container.as_ref())
                .map(ContainerView::from),
            source: subject.source.map(|source| source.to_string()),
            destination: subject.destination.map(|end: Endpoint| end.into()),
            local_port: subject.local_port,
            used: subject.used,
            capacity: subject.capacity,
            failed: subject.failed,
        }
    }
}

impl<'a> From<&'a Advice> for AdviceView<'a> {
    fn from(advice: &'a Advice) -> Self {
        Self {
            what: &advice.what,
            command: advice.command.as_deref(),
            present: advice.present.as_deref(),
            proposed: advice.proposed.as_deref(),
            effect: &advice.effect,
            caution: advice.caution.as_deref(),
            reference: advice.reference,
        }
    }
}
