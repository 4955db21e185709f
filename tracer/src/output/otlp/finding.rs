//! A finding as a log record, in the words of `tracer diagnose`.

use std::borrow::Cow;

use super::facts::{Facts, readable};
use super::logs::{LogRecord, Severity, Value};
use crate::diagnosis::{self, Finding};

/// What has become of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was not there before.
    Began,
    /// It is of another severity.
    Changed,
    /// It is there no more.
    Ended,
}

impl Turn {
    const fn name(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Changed => "changed",
            Self::Ended => "ended",
        }
    }
}

/// The log record of what has become of a finding, which `body` says in a sentence. That was known at
/// `at`, in nanoseconds since 1970.
#[must_use]
pub fn finding(finding: &Finding, turn: Turn, body: String, at: u64) -> LogRecord {
    let subject = &finding.subject;
    let mut facts = Facts::default();
    facts.add("tracer.finding.rule", Some(finding.rule));
    facts.add("tracer.finding.severity", Some(finding.severity.name()));
    facts.add("tracer.finding.change", Some(turn.name()));
    facts.add("tracer.finding.summary", Some(finding.summary.clone()));
    facts.add("tracer.finding.evidence", texts(&finding.evidence));
    facts.add("tracer.finding.warnings", texts(&finding.warnings));
    let commands = finding.advice.iter();
    let commands = commands.map(|advice| advice.command.as_ref().unwrap_or(&advice.what).clone());
    facts.add(
        "tracer.finding.advice",
        texts(&commands.collect::<Vec<_>>()),
    );
    facts.add("tracer.netns", subject.netns);
    let program = subject.program.and_then(|program| program.name);
    let program = program.map(readable);
    facts.add("process.executable.name", program);
    let source = subject.source.map(|address| address.to_string());
    facts.add("network.local.address", source);
    facts.add("network.local.port", subject.local_port.map(u32::from));
    let destination = subject.destination.map(|end| end.address.to_string());
    facts.add("network.peer.address", destination);
    let port = subject.destination.map(|end| u32::from(end.port));
    facts.add("network.peer.port", port);
    facts.add("tracer.finding.used", subject.used);
    facts.add("tracer.finding.capacity", subject.capacity);
    facts.add("tracer.finding.failed", subject.failed);
    LogRecord {
        name: "tracer.finding",
        severity: severity(finding.severity, turn),
        at: Some(at),
        observed_at: at,
        body: body.into(),
        attributes: facts.into(),
    }
}

/// What is over is no error any more.
fn severity(severity: diagnosis::Severity, turn: Turn) -> Severity {
    match severity {
        _ if turn == Turn::Ended => Severity::Info,
        diagnosis::Severity::Error => Severity::Error,
        diagnosis::Severity::Warning => Severity::Warn,
        diagnosis::Severity::Info => Severity::Info,
    }
}

fn texts(texts: &[String]) -> Option<Value> {
    let owned = || texts.iter().cloned().map(Cow::from).collect();
    (!texts.is_empty()).then(|| Value::Texts(owned()))
}
