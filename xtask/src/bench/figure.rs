//! A figure: one measurement, as it is kept and compared.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The sub-verb: `overhead`, `latency`, `engine`.
    pub bench: String,
    /// `saturated/watch-json/rate_kept`.
    pub name: String,
    /// The median of the rounds; of losses and the like, the worst one.
    pub value: f64,
    /// The lower quartile of the rounds; the engine's benchmark tells the least.
    pub low: f64,
    /// The upper one, or the greatest.
    pub high: f64,
    pub unit: Unit,
    pub better: Better,
    pub rounds: u64,
    /// What must be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// What is aimed at beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<f64>,
}

/// What a figure counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Ratio,
    Ns,
    Us,
    Ms,
    S,
    Bytes,
    Count,
    Percent,
    PerSecond,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

impl Better {
    /// Whether `value` is as good as `bound`.
    pub fn reaches(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Higher => value >= bound,
            Self::Lower => value <= bound,
        }
    }

    /// How a bound is written.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Higher => "≥",
            Self::Lower => "≤",
        }
    }
}

impl Figure {
    /// How far it is from its target, in words; `None`: it has none.
    pub fn judgement(&self) -> Option<&'static str> {
        let target = self.target?;
        Some(if !self.better.reaches(self.value, target) {
            "missed"
        } else if self
            .aim
            .is_some_and(|aim| self.better.reaches(self.value, aim))
        {
            "aim met"
        } else {
            "met"
        })
    }
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub schema: u32,
    pub machine: Machine,
    pub figures: Vec<Figure>,
}

/// Where and when it was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub processors: u64,
    pub cpu_model: String,
    pub memory_bytes: u64,
    /// UTC, RFC 3339.
    pub date: String,
    pub commit: String,
    /// Whether the sources differed from the commit.
    pub dirty: bool,
}

/// The form of the file that this reads and writes.
pub const SCHEMA: u32 = 1;

impl Results {
    /// Reads a file that [`Self::write`] has written.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} holds no results of a bench", path.display()))
    }

    /// Writes one figure a line, so that a change to one is a change to one line.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = format!(
            "{{\"schema\":{},\n\"machine\":{},\n\"figures\":[",
            self.schema,
            serde_json::to_string(&self.machine)?
        );
        for (place, figure) in self.figures.iter().enumerate() {
            text.push_str(if place == 0 { "\n" } else { ",\n" });
            text.push_str(&serde_json::to_string(figure)?);
        }
        text.push_str("\n]}\n");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    /// The figure of that name.
    pub fn figure(&self, bench: &str, name: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.bench == bench && figure.name == name)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A figure to test with.
    pub fn figure(name: &str, value: f64, unit: Unit, better: Better) -> Figure {
        Figure {
            bench: "overhead".into(),
            name: name.into(),
            value,
            low: value,
            high: value,
            unit,
            better,
            rounds: 7,
            target: None,
            aim: None,
        }
    }

    #[test]
    fn a_figure_is_read_as_it_is_printed() {
        let line = r#"{"bench":"overhead","name":"saturated/watch-json/rate_kept","value":0.91,"low":0.89,"high":0.93,"unit":"ratio","better":"higher","rounds":7,"target":0.85,"aim":0.92}"#;
        let figure: Figure = serde_json::from_str(line).unwrap();
        assert_eq!(figure.judgement(), Some("met"));
        assert_eq!(serde_json::to_string(&figure).unwrap(), line);
    }

    #[test]
    fn a_target_is_met_from_its_own_side() {
        let mut lower = figure("kernel/x", 130.0, Unit::Ns, Better::Lower);
        assert_eq!(lower.judgement(), None);
        (lower.target, lower.aim) = (Some(200.0), Some(150.0));
        assert_eq!(lower.judgement(), Some("aim met"));
        lower.value = 170.0;
        assert_eq!(lower.judgement(), Some("met"));
        lower.value = 200.1;
        assert_eq!(lower.judgement(), Some("missed"));
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let results = Results {
            schema: SCHEMA,
            machine: Machine::default(),
            figures: vec![
                figure("a/b", 1.5, Unit::PerSecond, Better::Higher),
                figure("c/d", 0.0, Unit::Count, Better::Lower),
            ],
        };
        let path = std::env::temp_dir().join(format!("xtask-results-{}", std::process::id()));
        results.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 6);
        assert_eq!(Results::read(&path).unwrap(), results);
        fs::remove_file(path).unwrap();
    }
}
