//! How many findings there are, and have been.

use std::collections::BTreeMap;

use super::{Family, Sample, Unit, Value};
use crate::diagnosis::{LeftOut, Severity, Thing};

/// By rule and severity; what there is none of counts 0 from the start, so that alerts can be made.
#[derive(Clone, Debug, Default)]
pub struct FindingCounts(BTreeMap<(&'static str, Severity), Count>);

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    now: u64,
    begun: u64,
}

impl FindingCounts {
    /// Nothing was found by `rules` yet.
    pub fn new(rules: impl IntoIterator<Item = &'static str>) -> Self {
        let keys = rules
            .into_iter()
            .flat_map(|rule| Severity::ALL.map(|severity| (rule, severity)));
        Self(keys.map(|key| (key, Count::default())).collect())
    }

    /// Nothing is found any more.
    pub fn clear(&mut self) {
        self.0.values_mut().for_each(|count| count.now = 0);
    }

    /// There is one more now.
    pub fn note(&mut self, rule: &'static str, severity: Severity) {
        self.0.entry((rule, severity)).or_default().now += 1;
    }

    /// One has begun, or has come to be of this severity.
    pub fn note_beginning(&mut self, rule: &'static str, severity: Severity) {
        self.0.entry((rule, severity)).or_default().begun += 1;
    }

    /// As it stands, with what there was no room for.
    #[must_use]
    pub fn families(&self, left_out: &LeftOut, others: [(&'static str, u64); 2]) -> [Family; 3] {
        let each = |value: fn(&Count) -> Value| {
            self.0.iter().map(move |((rule, severity), count)| {
                let labels = [
                    ("rule", (*rule).into()),
                    ("severity", severity.name().into()),
                ];
                Sample::of(labels, value(count))
            })
        };
        let things = Thing::ALL.map(|thing| (thing.name(), left_out.of(thing)));
        let what = things.into_iter().chain(others);
        [
            Family::new(
                "tracer.finding",
                "Findings of a rule now: of the last half minute, looked at every 15 seconds",
                Unit::None,
                each(|count| Value::Gauge(count.now as f64)),
            ),
            Family::new(
                "tracer.findings",
                "Findings that began, or came to be of this severity",
                Unit::None,
                each(|count| Value::Counter(count.begun)),
            ),
            Family::new(
                "tracer.diagnosis.left_out",
                "What the rules are not told of because there is no room for more of its kind",
                Unit::None,
                what.map(|(what, count)| {
                    Sample::of([("what", what.into())], Value::Counter(count))
                }),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_series_from_the_start_and_no_label_is_anything_else() {
        let mut counts = FindingCounts::new(["one", "two"]);
        counts.note("one", Severity::Error);
        counts.note_beginning("one", Severity::Error);
        let told = |counts: &FindingCounts| -> Vec<(usize, f64)> {
            let families = counts.families(&LeftOut::default(), [("routes", 1), ("findings", 0)]);
            let sum = |family: &Family| -> f64 {
                let values = family.samples.iter().map(|sample| match sample.value {
                    Value::Gauge(value) => value,
                    Value::Counter(count) => count as f64,
                    _ => panic!("{sample:?}"),
                });
                values.sum()
            };
            let told = families.iter();
            told.map(|family| (family.samples.len(), sum(family)))
                .collect()
        };
        assert_eq!(told(&counts), [(6, 1.0), (6, 1.0), (7, 1.0)]);
        counts.clear();
        assert_eq!(told(&counts), [(6, 0.0), (6, 1.0), (7, 1.0)]);
    }
}
