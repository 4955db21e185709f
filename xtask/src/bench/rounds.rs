//! Measurements by name, of which each figure is made when the rounds are over.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    figure::{Better, Figure, Unit},
    statistics::Spread,
};

/// What was measured so far.
#[derive(Debug)]
pub struct Rounds {
    bench: &'static str,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    name: String,
    unit: Unit,
    better: Better,
    values: Vec<f64>,
    /// Of which round the figure is.
    chosen: Chosen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Median,
    /// One round with losses is no better for six without.
    Greatest,
}

impl Rounds {
    pub const fn of(bench: &'static str) -> Self {
        Self {
            bench,
            series: Vec::new(),
        }
    }

    /// Adds one round's measurement to the figure `name`.
    pub fn add(&mut self, name: String, unit: Unit, better: Better, value: f64) {
        self.note(name, unit, better, value, Chosen::Median);
    }

    /// The same for what must never happen, and for greatest values: the figure is the worst
    /// round's, and the spread goes from the least to the greatest.
    pub fn add_worst(&mut self, name: String, unit: Unit, value: f64) {
        self.note(name, unit, Better::Lower, value, Chosen::Greatest);
    }

    fn note(&mut self, name: String, unit: Unit, better: Better, value: f64, chosen: Chosen) {
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                name,
                unit,
                better,
                values: vec![value],
                chosen,
            }),
        }
    }

    /// The figures, in the order in which they were first measured.
    pub fn finish(self) -> Vec<Figure> {
        let figure = |series: Series| {
            let mut spread = Spread::of(&series.values)?;
            if series.chosen == Chosen::Greatest {
                let values = series.values.iter().copied();
                spread.low = values.clone().fold(f64::INFINITY, f64::min);
                spread.high = values.fold(0.0, f64::max);
                spread.median = spread.high;
            }
            Some(Figure {
                bench: self.bench.to_owned(),
                name: series.name,
                value: kept(spread.median),
                low: kept(spread.low),
                high: kept(spread.high),
                unit: series.unit,
                better: series.better,
                rounds: spread.rounds,
                target: None,
                aim: None,
            })
        };
        self.series.into_iter().filter_map(figure).collect()
    }
}

/// Five digits are more than any of these measurements is good for.
fn kept(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// A number of an answer, by its JSON pointer.
pub fn number(answer: &Value, pointer: &str) -> Result<f64> {
    answer
        .pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("the load tells no {pointer}: {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_one_name_become_one_figure() {
        let mut rounds = Rounds::of("overhead");
        for value in [3.0, 1.0, 2.0] {
            rounds.add("a/b".into(), Unit::Us, Better::Lower, value);
        }
        rounds.add("c".into(), Unit::Count, Better::Lower, 123_456.7);
        let figures = rounds.finish();
        assert_eq!(figures.len(), 2);
        assert_eq!((figures[0].value, figures[0].rounds), (2.0, 3));
        assert_eq!(figures[1].value, 123_460.0);
    }

    #[test]
    fn of_faults_the_worst_round_counts() {
        let mut rounds = Rounds::of("overhead");
        for count in [0.0, 0.0, 12.0, 0.0] {
            rounds.add_worst("a/lost".into(), Unit::Count, count);
        }
        let figure = rounds.finish().remove(0);
        assert_eq!((figure.value, figure.low, figure.high), (12.0, 0.0, 12.0));
    }

    #[test]
    fn numbers_are_found_by_their_path() {
        let answer = serde_json::json!({ "load": { "connections": 7 } });
        assert_eq!(number(&answer, "/load/connections").unwrap(), 7.0);
        assert!(number(&answer, "/load/rate").is_err());
    }
}
