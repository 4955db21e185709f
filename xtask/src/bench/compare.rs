//! A run held against another one.

use super::{
    contenders::is_of_another,
    figure::{Better, Figure, Results, Unit},
};

/// By how much of itself a ratio may get worse: machines are noisy.
const ALLOWED: f64 = 0.1;

/// What has changed for the worse.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    /// Ratios that are worse by more than a tenth; each a sentence.
    pub worse: Vec<String>,
    /// Names of figures that were measured before and are not now.
    pub missing: Vec<String>,
}

impl Comparison {
    /// Compares what `benches` have measured now with what was `before`.
    pub fn of(before: &Results, now: &Results, benches: &[&str]) -> Self {
        let mut comparison = Self::default();
        for old in &before.figures {
            // Another tool's ratio is no doing of ours.
            if !benches.contains(&old.bench.as_str()) || is_of_another(&old.name) {
                continue;
            }
            match now.figure(&old.bench, &old.name) {
                None => comparison.missing.push(full_name(old)),
                Some(new) if is_worse(old, new) => comparison.worse.push(format!(
                    "{}: {:.3}, was {:.3} ({} is better)",
                    full_name(new),
                    new.value,
                    old.value,
                    match new.better {
                        Better::Higher => "higher",
                        Better::Lower => "lower",
                    },
                )),
                Some(_) => {}
            }
        }
        comparison
    }
}

/// Only ratios can be compared between machines, and on one that others use too.
fn is_worse(old: &Figure, new: &Figure) -> bool {
    if new.unit != Unit::Ratio {
        return false;
    }
    match new.better {
        Better::Higher => new.value < old.value * (1.0 - ALLOWED),
        Better::Lower => new.value > old.value * (1.0 + ALLOWED),
    }
}

fn full_name(figure: &Figure) -> String {
    format!("{} {}", figure.bench, figure.name)
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Machine, SCHEMA, tests::figure};
    use super::*;

    fn results(figures: Vec<Figure>) -> Results {
        Results {
            schema: SCHEMA,
            machine: Machine::default(),
            figures,
        }
    }

    fn compared(old: Figure, new: Figure) -> Comparison {
        Comparison::of(&results(vec![old]), &results(vec![new]), &["overhead"])
    }

    #[test]
    fn a_ratio_may_get_worse_by_a_tenth_and_no_more() {
        let kept = |value| figure("saturated/x/rate_kept", value, Unit::Ratio, Better::Higher);
        assert_eq!(compared(kept(0.90), kept(0.82)), Comparison::default());
        assert_eq!(compared(kept(0.90), kept(1.50)), Comparison::default());
        let worse = compared(kept(0.90), kept(0.80)).worse;
        assert_eq!(
            worse,
            ["overhead saturated/x/rate_kept: 0.800, was 0.900 (higher is better)"]
        );
        let p99 = |value| figure("steady/x/p99_ratio", value, Unit::Ratio, Better::Lower);
        assert_eq!(compared(p99(1.0), p99(1.09)), Comparison::default());
        assert_eq!(compared(p99(1.0), p99(0.2)), Comparison::default());
        assert_eq!(compared(p99(1.0), p99(1.11)).worse.len(), 1);
    }

    #[test]
    fn only_ratios_are_judged() {
        let ns = |value| figure("kernel/x", value, Unit::Ns, Better::Lower);
        assert_eq!(compared(ns(100.0), ns(900.0)), Comparison::default());
    }

    #[test]
    fn other_tools_may_get_worse_or_be_absent() {
        let other = |value| {
            figure(
                "saturated/tcplife/rate_kept",
                value,
                Unit::Ratio,
                Better::Higher,
            )
        };
        assert_eq!(compared(other(0.9), other(0.1)), Comparison::default());
        let before = results(vec![other(0.9)]);
        let now = results(Vec::new());
        assert_eq!(
            Comparison::of(&before, &now, &["overhead"]),
            Comparison::default()
        );
    }

    #[test]
    fn what_is_not_measured_any_more_is_named() {
        let old = results(vec![
            figure("a/b", 1.0, Unit::Ratio, Better::Higher),
            figure("c/d", 1.0, Unit::Ns, Better::Lower),
        ]);
        let now = results(vec![figure("a/b", 1.0, Unit::Ratio, Better::Higher)]);
        let comparison = Comparison::of(&old, &now, &["overhead"]);
        assert_eq!(comparison.missing, ["overhead c/d"]);
        // Another sub-verb was asked for: nothing is missed.
        assert_eq!(
            Comparison::of(&old, &now, &["engine"]),
            Comparison::default()
        );
    }
}
