//! What a diagnosis comes to.

use std::time::Duration;

use super::{Finding, RouteOutlook, Severity};
use crate::attribution::Names;

/// What has come of a watch.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long was watched.
    pub watched: Duration,
    /// Connections that opened meanwhile.
    pub opened: u64,
    /// Connections that closed meanwhile.
    pub closed: u64,
    /// Sockets and minisockets that were there before.
    pub found: u64,
    /// The account of events.
    pub losses: Losses,
    /// What could not be seen, a clause each with its reason.
    pub blind: Vec<String>,
    /// Rules for which the evidence did not suffice.
    pub too_early: Vec<&'static str>,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The routes whose ports are used most, the fullest first.
    pub routes: Vec<RouteOutlook>,
    /// What things are called.
    pub names: Names,
}

/// The account of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events that the hooks met.
    pub hits: u64,
    /// Of these, events that arrived.
    pub received: u64,
    /// Of these, events that found no room in the ring.
    pub ring_lost: u64,
    /// Of these, events that no program was run for.
    pub missed: u64,
}

impl Losses {
    /// What is lost at most, in thousands of all events, that leaves a host's health beyond doubt.
    const TOLERABLE: u64 = 1;

    /// Whether so much was lost that what was not found may have been there.
    #[must_use]
    pub const fn matter(&self) -> bool {
        (self.ring_lost + self.missed) * 1000 > self.hits * Self::TOLERABLE
    }
}

/// The upshot of a diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong, and nothing stood in the way of seeing it.
    Healthy,
    /// Something is wrong.
    Findings,
    /// No error was found, but something could not be seen, or too little was to be seen.
    Inconclusive,
}

impl Verdict {
    /// As JSON spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Findings => "findings",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl Report {
    /// The upshot.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let doubts =
            !self.blind.is_empty() || self.losses.matter() || self.opened + self.closed == 0;
        match self.findings.first().map(|finding| finding.severity) {
            Some(Severity::Error) => Verdict::Findings,
            _ if doubts => Verdict::Inconclusive,
            Some(Severity::Warning) => Verdict::Findings,
            Some(Severity::Info) | None => Verdict::Healthy,
        }
    }

    /// The exit status of `tracer diagnose`: 1 where there is an error, 3 where it is inconclusive,
    /// else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let worst = self.findings.first().map(|finding| finding.severity);
        match (self.verdict(), worst) {
            (Verdict::Inconclusive, _) => 3,
            (_, Some(Severity::Error)) => 1,
            _ => 0,
        }
    }
}
