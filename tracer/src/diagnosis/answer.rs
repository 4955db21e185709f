//! What the rules say of what was seen.

use std::cmp::Reverse;

use super::left_out::{LeftOut, Thing};
use super::rule::{Check, Rule};
use super::seen::Seen;
use super::tallies::Tallies;
use super::{Finding, Severity};
use crate::output::text::count;

/// Of so many places a rule tells one by one: nobody reads ten thousand, and words for all of them
/// would take seconds.
pub(super) const PLACES: usize = 100;

/// What all rules say.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The findings, once sorted the worst first.
    pub findings: Vec<Finding>,
    /// Rules for which the evidence did not suffice.
    pub too_early: Vec<&'static str>,
}

impl Answer {
    /// Adds what `rules` say.
    pub fn ask(&mut self, rules: &[&'static dyn Rule], seen: &Seen) {
        let not_counted = not_counted(&seen.left_out);
        for rule in rules {
            let mut findings = match rule.check(seen) {
                Check::Found(findings) => findings,
                Check::Quiet => Vec::new(),
                Check::TooEarly(findings) => {
                    self.too_early.push(rule.name());
                    findings
                }
            };
            keep_the_worst(&mut findings);
            for finding in &mut findings {
                let netns_cookie = finding.subject.netns_cookie;
                let namespace = netns_cookie.and_then(|cookie| seen.namespaces.get(&cookie));
                finding.subject.netns = namespace.map(|namespace| namespace.inode);
                finding.evidence.extend(not_counted.clone());
            }
            self.findings.append(&mut findings);
        }
    }

    /// Puts the worst first.
    pub fn sort(&mut self) {
        self.findings.sort_by_key(badness);
    }
}

fn badness(finding: &Finding) -> (Severity, Reverse<u64>) {
    (finding.severity, Reverse(finding.weight))
}

fn keep_the_worst(findings: &mut Vec<Finding>) {
    let Some(more) = findings.len().checked_sub(PLACES + 1) else {
        return;
    };
    findings.sort_by_key(badness);
    findings.truncate(PLACES);
    tell_of_more(findings, more + 1);
}

/// Says in the first of `findings` that `more` are not told of.
pub(super) fn tell_of_more(findings: &mut [Finding], more: usize) {
    if let Some(finding) = findings.first_mut() {
        finding.evidence.push(format!(
            "The same of {} more, each of less weight, is not told one by one.",
            count(more as u64)
        ));
    }
}

/// That not all is in the figures, in a sentence. `None`: all is.
pub(super) fn not_counted(left_out: &LeftOut) -> Option<String> {
    let what = |thing| match thing {
        Thing::Rows => (
            "closes and ends",
            Tallies::PAIRS,
            "pairs of program and place",
        ),
        Thing::Calls => ("failed calls", Tallies::CALLS, "kinds"),
        Thing::CloseWaits => ("CLOSE_WAITs", Seen::CLOSE_WAITS, "programs"),
        Thing::Listeners => ("listeners", Seen::LISTENERS, "are kept"),
        Thing::Namespaces => ("readings", Seen::NAMESPACES, "network namespaces"),
    };
    let parts: Vec<String> = (Thing::ALL.into_iter())
        .filter(|thing| left_out.of(*thing) > 0)
        .map(|thing| {
            let (things, most, of) = what(thing);
            let (number, most) = (count(left_out.of(thing)), count(most as u64));
            format!("{number} {things} (no room: more than {most} {of})")
        })
        .collect();
    (!parts.is_empty()).then(|| format!("Not counted in all this: {}.", parts.join(", ")))
}
