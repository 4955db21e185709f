//! The findings from window to window: which began, which ended, and what is said of it.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tracer_common::tcp::Endpoint;

use crate::diagnosis::{Finding, LeftOut, Severity, rules};
use crate::metrics::{Family, FindingCounts};
use crate::ports::Program;
use crate::time::Timestamp;

/// So many are known by name; the others are counted alone.
const MOST: usize = 1_000;

/// So long nothing more is said of one of which something was said, nanoseconds: what comes and goes
/// is told once a minute.
const QUIET: u64 = 60_000_000_000;

/// So many are told of at one time, the worst first. The others have to wait for the next.
const LINES: usize = 20;

/// All that is found, and what was said of it.
pub struct Findings {
    counts: FindingCounts,
    known: HashMap<Identity, Known, RandomState>,
    /// How often one was one too many.
    left_out: u64,
}

/// What makes a finding the same from window to window, whatever its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Identity {
    rule: &'static str,
    netns_cookie: Option<u64>,
    program: Option<Program>,
    source: Option<IpAddr>,
    destination: Option<Endpoint>,
    local_port: Option<u16>,
}

struct Known {
    /// As it was found last.
    finding: Finding,
    since: Timestamp,
    /// Until the window before,
    was: Option<Severity>,
    /// and now; `None`: it is not found.
    is: Option<Severity>,
    /// What was said of it last,
    told: Option<Severity>,
    /// and when.
    told_at: Option<Timestamp>,
    /// When it was not found any more.
    ended_at: Timestamp,
}

/// A finding has begun, changed or ended: for whoever wants to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// When that was known.
    pub at: Timestamp,
    /// What has happened.
    pub change: Change,
    /// The finding, as it was found last: rule, severity, subject, summary, evidence and advice.
    pub finding: Finding,
}

/// What has happened to a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there when something was last said of it.
    Began,
    /// It was of this severity then.
    Severity(Severity),
    /// It is there no more.
    Ended {
        /// How long it was there.
        after: Duration,
    },
}

impl Findings {
    /// Nothing was found yet.
    pub fn new() -> Self {
        let names = rules::all().into_iter().map(|rule| rule.name());
        Self {
            counts: FindingCounts::new(names),
            known: HashMap::default(),
            left_out: 0,
        }
    }

    /// Takes in what was found at `now`, the worst first; gives what is to be told, the worst first.
    /// What nobody was told of yet for want of room or time is told the next time, if it still is so.
    pub fn take(&mut self, findings: Vec<Finding>, now: Timestamp) -> Vec<Notice> {
        self.counts.clear();
        for known in self.known.values_mut() {
            known.was = known.is.take();
        }
        for finding in findings {
            self.note(finding, now);
        }
        for known in self.known.values_mut() {
            if known.was.is_some() && known.is.is_none() {
                known.ended_at = now;
            }
        }
        let is_due = |known: &Known| {
            let is_quiet = known.told_at.is_some_and(|at| now.since(at) < QUIET);
            known.told != known.is && !is_quiet
        };
        let due = self.known.iter_mut();
        let mut due: Vec<_> = due.filter(|(_, known)| is_due(known)).collect();
        due.sort_by_key(|(identity, known)| {
            let finding = &known.finding;
            (finding.severity, Reverse(finding.weight), **identity)
        });
        let due = due.into_iter().take(LINES);
        let notices = due.map(|(_, known)| known.tell(now)).collect();
        // Of what was told it is remembered when.
        self.known.retain(|_, known| {
            let is_quiet = known.told_at.is_some_and(|at| now.since(at) < QUIET);
            known.is.is_some() || known.told.is_some() || is_quiet
        });
        notices
    }

    /// Forgets what was found: nobody looks any more.
    pub fn stop(&mut self) {
        self.known.clear();
        self.counts.clear();
    }

    /// What is told to Prometheus and OpenTelemetry. `left_out` and `routes` are what the rules did
    /// not get to see.
    pub fn families(&self, left_out: &LeftOut, routes: u64) -> [Family; 3] {
        let others = [("routes", routes), ("findings", self.left_out)];
        self.counts.families(left_out, others)
    }

    fn note(&mut self, finding: Finding, now: Timestamp) {
        let (rule, severity) = (finding.rule, finding.severity);
        self.counts.note(rule, severity);
        let is_full = self.known.len() >= MOST;
        let known = match self.known.entry(Identity::of(&finding)) {
            Entry::Vacant(_) if is_full => {
                self.left_out += 1;
                return;
            }
            Entry::Vacant(place) => place.insert(Known::new(finding, now)),
            Entry::Occupied(known) => {
                let known = known.into_mut();
                // Of two that are one the worse came first.
                if known.is.is_some() {
                    return;
                }
                known.finding = finding;
                known
            }
        };
        known.is = Some(severity);
        if known.was.is_none() {
            known.since = now;
        }
        if known.was != known.is {
            self.counts.note_beginning(rule, severity);
        }
    }
}

impl Identity {
    fn of(finding: &Finding) -> Self {
        let subject = &finding.subject;
        Self {
            rule: finding.rule,
            netns_cookie: subject.netns_cookie,
            program: subject.program,
            source: subject.source,
            destination: subject.destination,
            local_port: subject.local_port,
        }
    }
}

impl Known {
    fn new(finding: Finding, now: Timestamp) -> Self {
        Self {
            finding,
            since: now,
            was: None,
            is: None,
            told: None,
            told_at: None,
            ended_at: now,
        }
    }

    fn tell(&mut self, now: Timestamp) -> Notice {
        let change = match (self.told, self.is) {
            (None, _) => Change::Began,
            (Some(before), Some(_)) => Change::Severity(before),
            (Some(_), None) => Change::Ended {
                after: Duration::from_nanos(self.ended_at.since(self.since)),
            },
        };
        self.told = self.is;
        self.told_at = Some(now);
        Notice {
            at: now,
            change,
            finding: self.finding.clone(),
        }
    }
}

impl Notice {
    /// Writes it to the log: an error as an error, until it is over.
    pub fn log(&self) {
        match (self.finding.severity, self.change) {
            (Severity::Info, _) => tracing::info!("{self}"),
            (Severity::Error, Change::Began | Change::Severity(_)) => tracing::error!("{self}"),
            (Severity::Error | Severity::Warning, _) => tracing::warn!("{self}"),
        }
    }
}

impl fmt::Display for Notice {
    /// One line, with the words of `tracer diagnose`, in which names are escaped already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finding = &self.finding;
        let (rule, summary) = (finding.rule, &finding.summary);
        let severity = finding.severity.name();
        match self.change {
            Change::Began => write!(f, "{rule} began ({severity}): {summary}.")?,
            Change::Severity(before) => {
                let before = before.name();
                write!(
                    f,
                    "{rule} is {severity} now, no longer {before}: {summary}."
                )?;
            }
            Change::Ended { after } => {
                let after = after.as_secs();
                return write!(f, "{rule} ended after {after} s ({severity}): {summary}.");
            }
        }
        for sentence in &finding.evidence {
            write!(f, " {sentence}")?;
        }
        match finding.advice.first() {
            None => Ok(()),
            Some(advice) => match &advice.command {
                None => write!(f, " Change: {}.", advice.what),
                Some(command) => write!(f, " Change: {command}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Advice, Subject};

    const SECOND: u64 = 1_000_000_000;

    fn finding(port: u16, severity: Severity, weight: u64) -> Finding {
        Finding {
            rule: "connects-refused",
            severity,
            subject: Subject {
                netns_cookie: Some(1),
                local_port: Some(port),
                failed: Some(weight),
                ..Subject::default()
            },
            summary: format!("web: {weight} are refused"),
            evidence: vec!["It is so.".to_owned()],
            dwell: None,
            advice: vec![Advice {
                what: "see".to_owned(),
                command: Some("ss -ltn".to_owned()),
                ..Advice::default()
            }],
            warnings: Vec::new(),
            weight,
        }
    }

    fn said(findings: &mut Findings, second: u64, found: Vec<Finding>) -> Vec<String> {
        let notices = findings.take(found, Timestamp(second * SECOND));
        notices.iter().map(Notice::to_string).collect()
    }

    #[test]
    fn a_finding_is_told_when_it_begins_changes_and_ends_whatever_its_figures() {
        let mut findings = Findings::new();
        let (error, warning) = (Severity::Error, Severity::Warning);
        assert_eq!(
            said(&mut findings, 15, vec![finding(80, error, 5)]),
            ["connects-refused began (error): web: 5 are refused. It is so. Change: ss -ltn"]
        );
        assert_eq!(
            said(&mut findings, 30, vec![finding(80, error, 9)]),
            [""; 0]
        );
        assert_eq!(
            said(&mut findings, 90, vec![finding(80, warning, 9)]),
            [
                "connects-refused is warning now, no longer error: web: 9 are refused. It is so. \
                 Change: ss -ltn"
            ]
        );
        // It was said just now that it is there.
        assert_eq!(said(&mut findings, 105, vec![]), [""; 0]);
        assert_eq!(
            said(&mut findings, 150, vec![]),
            ["connects-refused ended after 90 s (warning): web: 9 are refused."]
        );
        assert_eq!(said(&mut findings, 300, vec![]), [""; 0]);
        assert!(findings.known.is_empty());
    }

    #[test]
    fn what_comes_and_goes_is_counted_each_time_and_told_once_a_minute() {
        let mut findings = Findings::new();
        let mut lines = 0;
        for turn in 0..240_u64 {
            let found = match turn % 2 {
                0 => vec![finding(80, Severity::Error, 5)],
                _ => Vec::new(),
            };
            lines += said(&mut findings, turn * 15, found).len();
        }
        // An hour.
        assert!(lines <= 61, "{lines}");
        let families = findings.families(&LeftOut::default(), 0);
        let begun = families[1].samples.iter().find(|sample| {
            sample.labels[0].1 == "connects-refused" && sample.labels[1].1 == "error"
        });
        let value = &begun.expect("the rule's series").value;
        assert_eq!(*value, crate::metrics::Value::Counter(120));
    }

    #[test]
    fn a_thousand_at_once_are_told_bit_by_bit_and_those_beyond_are_counted() {
        let mut findings = Findings::new();
        let found: Vec<_> = (0..1_500_u16)
            .map(|port| finding(port, Severity::Warning, u64::from(1_500 - port)))
            .collect();
        let lines = said(&mut findings, 15, found.clone());
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].contains("1500 are refused"), "{}", lines[0]);
        assert_eq!((findings.known.len(), findings.left_out), (MOST, 500));
        let lines = said(&mut findings, 30, found);
        assert!(lines[0].contains("1480 are refused"), "{}", lines[0]);
        said(&mut findings, 45, Vec::new());
        said(&mut findings, 120, Vec::new());
        said(&mut findings, 200, Vec::new());
        said(&mut findings, 300, Vec::new());
        assert_eq!(findings.known.len(), 0);
    }
}
