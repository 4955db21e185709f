//! Clients bind a fixed source port before they connect.

use super::places::{Place, most, places, sum};
use crate::diagnosis::advice::{self, percent};
use crate::diagnosis::culprit::label;
use crate::diagnosis::finding::{Finding, Severity, Subject};
use crate::diagnosis::rule::{Check, Rule};
use crate::diagnosis::seen::Seen;
use crate::diagnosis::traffic::Traffic;
use crate::output::text;
use crate::record::{CloseCause, CloseKind};

/// `bound-source-port`.
pub struct BoundSourcePort;

/// From this share of a route's connections on it is a habit worth telling,
const OFTEN: f64 = 0.1;

/// of so many: one that binds now and then is an `rsh`, or an operator's `nc -p`.
const ENOUGH: u64 = 10;

fn in_use(traffic: &Traffic) -> u64 {
    traffic.caused(CloseKind::ConnectFailed, CloseCause::TupleInUse)
}

impl Rule for BoundSourcePort {
    fn name(&self) -> &'static str {
        "bound-source-port"
    }

    fn check(&self, seen: &Seen) -> Check {
        let mut findings = Vec::new();
        for (place, programs) in places(seen) {
            let Place::To(route) = place else {
                continue;
            };
            let failed = sum(&programs, in_use);
            let bound = sum(&programs, |traffic| traffic.source_port_bound);
            let total = sum(&programs, Traffic::total);
            let share = bound as f64 / total.max(1) as f64;
            if failed == 0 && (bound < ENOUGH || share < OFTEN) {
                continue;
            }
            let program = match failed {
                0 => most(&programs, |traffic| traffic.source_port_bound),
                _ => most(&programs, in_use),
            };
            let who = label(seen, program.as_ref());
            let to = route.destination;
            let (severity, summary) = match failed {
                0 => (
                    Severity::Info,
                    format!(
                        "{who} binds its source port for {} of its connects to {to}",
                        percent(share)
                    ),
                ),
                _ => (
                    Severity::Error,
                    format!(
                        "{who}: {} connects to {to} failed, their bound port being in use",
                        text::count(failed)
                    ),
                ),
            };
            let mut evidence = vec![format!(
                "{} of {} connections bound their source port before connect().",
                text::count(bound),
                text::count(total),
            )];
            if failed > 0 {
                evidence.push(format!(
                    "{} connect() calls failed since the tuple of the port that was bound is held, \
                     as a rule by the TIME_WAIT of the last connection from it.",
                    text::count(failed)
                ));
            }
            findings.push(Finding {
                rule: self.name(),
                severity,
                summary,
                evidence,
                dwell: None,
                advice: vec![advice::leave_the_port_to_the_kernel()],
                warnings: vec![
                    "SO_REUSEADDR on a client: bind() succeeds, and connect() fails all the same."
                        .to_owned(),
                    "tcp_tw_reuse is not looked at for a bound port: where both ends use timestamps \
                     its TIME_WAIT is taken over in any case, where not it never is."
                        .to_owned(),
                ],
                weight: failed.max(bound),
                subject: Subject {
                    failed: Some(failed),
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
    use crate::diagnosis::example::{Example, program, route};
    use crate::record::Initiator;

    fn bound(bound: u64, of: u64, failed: u64) -> Check {
        let mut example = Example::new();
        let traffic = example.traffic(route("10.0.0.9:3306"), program("rsync"));
        traffic.source_port_bound = bound;
        let cause = Some(CloseCause::TupleInUse);
        traffic.add_closes(CloseKind::ConnectFailed, cause, Initiator::Local, failed);
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, of - failed);
        BoundSourcePort.check(&example.seen)
    }

    fn told(check: Check) -> (Severity, String) {
        match check {
            Check::Found(findings) => (findings[0].severity, findings[0].summary.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bound_port_that_is_in_use_is_an_error() {
        assert_eq!(
            told(bound(3, 1_000, 2)),
            (
                Severity::Error,
                "rsync: 2 connects to 10.0.0.9:3306 failed, their bound port being in use"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_habit_of_binding_is_worth_knowing() {
        assert_eq!(
            told(bound(10, 100, 0)),
            (
                Severity::Info,
                "rsync binds its source port for 10 % of its connects to 10.0.0.9:3306".to_owned()
            )
        );
    }

    #[test]
    fn one_that_binds_now_and_then_is_left_in_peace() {
        assert_eq!(bound(9, 9, 0), Check::Quiet);
        assert_eq!(bound(10, 101, 0), Check::Quiet);
    }
}
