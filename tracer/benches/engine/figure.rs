//! One figure a line: JSON to stdout for programs, a row to stderr for people.

use std::io::Write as _;

use serde::Serialize;

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Ratio,
    Ns,
    Us,
    Ms,
    Bytes,
    PerSecond,
    Count,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

/// A figure: the median of its rounds, and the least and the greatest of them.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    bench: &'static str,
    name: String,
    value: f64,
    low: f64,
    high: f64,
    unit: Unit,
    better: Better,
    rounds: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
}

impl Figure {
    /// The figure `name` of what each round gave.
    pub fn new(
        bench: &'static str,
        name: String,
        unit: Unit,
        better: Better,
        mut rounds: Vec<f64>,
    ) -> Self {
        assert!(!rounds.is_empty(), "{name} was not measured");
        rounds.sort_by(f64::total_cmp);
        let middle = rounds.len() / 2;
        let value = if rounds.len() % 2 == 1 {
            rounds[middle]
        } else {
            f64::midpoint(rounds[middle - 1], rounds[middle])
        };
        Self {
            bench,
            name,
            value,
            low: rounds[0],
            high: rounds[rounds.len() - 1],
            unit,
            better,
            rounds: rounds.len(),
            target: None,
        }
    }

    /// What is wanted of it.
    #[must_use]
    pub fn target(mut self, target: Option<f64>) -> Self {
        self.target = target;
        self
    }

    /// Writes both forms.
    pub fn print(&self) {
        let verdict = self.target.map_or(String::new(), |target| {
            let met = match self.better {
                Better::Higher => self.value >= target,
                Better::Lower => self.value <= target,
            };
            let word = if met { "met" } else { "MISSED" };
            format!("  target {} {word}", self.shown(target))
        });
        eprintln!(
            "{:<44} {:>14}  ({} to {}){verdict}",
            self.name,
            self.shown(self.value),
            self.shown(self.low),
            self.shown(self.high),
        );
        let line = serde_json::to_string(self).expect("a figure is plain data");
        writeln!(std::io::stdout().lock(), "{line}").expect("stdout takes a line");
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Ratio => format!("{value:.4}"),
            Unit::Ns => format!("{value:.1} ns"),
            Unit::Us => format!("{value:.1} µs"),
            Unit::Ms => format!("{value:.1} ms"),
            Unit::Bytes => format!("{value:.1} B"),
            Unit::PerSecond if value >= 1e5 => format!("{:.3} M/s", value / 1e6),
            Unit::PerSecond => format!("{value:.0} /s"),
            Unit::Count => format!("{value:.0}"),
        }
    }
}
