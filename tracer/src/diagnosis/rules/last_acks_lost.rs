//! FINs come again to TIME_WAITs: the network loses this side's last ACKs.

use super::places::{most, places, sum};
use crate::diagnosis::advice::percent;
use crate::diagnosis::culprit::label;
use crate::diagnosis::finding::{Advice, Finding, Severity, Subject};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::diagnosis::traffic::Traffic;
use crate::output::text;

/// `last-acks-lost`.
pub struct LastAcksLost;

/// So many, and this share of the TIME_WAITs that ended, are more than a network loses now and then.
const ENOUGH: u64 = 10;
const OFTEN: f64 = 0.01;

fn ended(traffic: &Traffic) -> u64 {
    traffic.time_wait_exits.values().sum()
}

impl Rule for LastAcksLost {
    fn name(&self) -> &'static str {
        "last-acks-lost"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings = Vec::new();
        for (place, programs) in places(seen) {
            let all = sum(&programs, ended);
            let again = sum(&programs, |traffic| traffic.answered_again);
            if again < ENOUGH || (again as f64) < OFTEN * all as f64 {
                continue;
            }
            let program = most(&programs, |traffic| traffic.answered_again);
            let fins = sum(&programs, |traffic| traffic.fin_retransmits);
            let share = percent(again as f64 / all as f64);
            findings.push(Finding {
                rule: self.name(),
                severity: Severity::Warning,
                summary: format!(
                    "last ACKs are lost {}: {} of {} FINs came again ({share})",
                    place.name(),
                    text::count(again),
                    text::count(all),
                ),
                evidence: vec![
                    format!(
                        "To {} of {} TIME_WAITs of {} the peer's FIN came again, {} times in all: \
                         the ACK before was lost, or came too late.",
                        text::count(again),
                        text::count(all),
                        label(seen, program.as_ref()),
                        text::count(fins),
                    ),
                    "TIME_WAIT answered each of them: without it the peer would have been reset. \
                     It did what it is for."
                        .to_owned(),
                ],
                dwell: None,
                advice: vec![Advice {
                    what: "look for loss on the way to the peer, from here to there".to_owned(),
                    command: Some("nstat -az TcpRetransSegs; ip -s link".to_owned()),
                    effect: "what loses a last ACK loses data as well, which then waits for its \
                             retransmission"
                        .to_owned(),
                    caution: Some(
                        "a firewall that forgets a connection at its FINs drops last ACKs alone"
                            .to_owned(),
                    ),
                    reference: "RFC 9293 3.6.1",
                    ..Advice::default()
                }],
                warnings: vec![
                    "Whatever makes TIME_WAIT shorter or avoids it turns these into resets at the \
                     peer."
                        .to_owned(),
                ],
                weight: again,
                subject: Subject {
                    failed: Some(again),
                    ..place.subject(program)
                },
            });
        }
        Check::of(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program};
    use crate::record::TimeWaitExit;

    fn lost(again: u64, of: u64) -> Check {
        let mut example = Example::new();
        let traffic = example.served(8_080, program("nginx"));
        traffic.time_wait_exits.insert(TimeWaitExit::Expired, of);
        traffic.answered_again = again;
        traffic.fin_retransmits = again + 2;
        LastAcksLost.check(&example.seen)
    }

    #[test]
    fn fins_that_come_again_often_are_the_networks_fault() {
        let Check::Found(findings) = lost(30, 1_000) else {
            panic!("not found");
        };
        assert_eq!(findings[0].severity, Severity::Warning);
        assert_eq!(
            findings[0].summary,
            "last ACKs are lost at port 8080: 30 of 1,000 FINs came again (3 %)"
        );
        assert_eq!(findings[0].subject.local_port, Some(8_080));
    }

    #[test]
    fn a_network_loses_one_now_and_then() {
        assert_eq!(lost(9, 9), Check::Quiet);
        assert_eq!(lost(10, 1_001), Check::Quiet);
        assert!(matches!(lost(10, 1_000), Check::Found(_)));
    }
}
