//! Families of samples, in no format yet.

use std::borrow::Cow;

use super::Histogram;

/// All that is told under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name by OpenTelemetry's rules: parts joined by dots, `tracer` the first, without the unit
    /// and without `_total`. Prometheus is told underscores for the dots, and both of these.
    pub name: &'static str,
    /// What it is, in one sentence without its stop.
    pub help: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// The samples: all of one kind of value.
    pub samples: Vec<Sample>,
}

/// What a family is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things are counted.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// A label: its name and its value.
pub type Label = (&'static str, Cow<'static, str>);

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What tells it from the others of its family.
    pub labels: Vec<Label>,
    /// The value.
    pub value: Value,
}

/// A value and its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// It only grows.
    Counter(u64),
    /// The same, of what is no whole number.
    Sum(f64),
    /// It comes and goes.
    Gauge(f64),
    /// How often a duration was how long.
    Histogram(Histogram),
}

impl Family {
    /// A family of `samples`.
    pub fn new(
        name: &'static str,
        help: &'static str,
        unit: Unit,
        samples: impl IntoIterator<Item = Sample>,
    ) -> Self {
        Self {
            name,
            help,
            unit,
            samples: samples.into_iter().collect(),
        }
    }
}

impl Sample {
    /// A value with labels.
    pub fn of<const N: usize>(
        labels: [(&'static str, Cow<'static, str>); N],
        value: Value,
    ) -> Self {
        Self {
            labels: labels.into(),
            value,
        }
    }

    /// A value without labels.
    #[must_use]
    pub const fn alone(value: Value) -> Self {
        Self {
            labels: Vec::new(),
            value,
        }
    }

    /// How many series it comes to where it is stored.
    fn series(&self) -> usize {
        match &self.value {
            Value::Counter(_) | Value::Sum(_) | Value::Gauge(_) => 1,
            // The buckets, the one without a bound among them, the sum and the count.
            Value::Histogram(histogram) => histogram.buckets().count() + 2,
        }
    }
}

/// Leaves samples out, from the end, until all come to `most` series; how many series are gone.
///
/// So what must stay comes first.
pub fn limit(families: &mut Vec<Family>, most: usize) -> usize {
    let mut left = most;
    let mut gone = 0;
    for family in families.iter_mut() {
        family.samples.retain(|sample| {
            let series = sample.series();
            // Once something is left out all that follows is: what stays does not come and go.
            let fits = gone == 0 && series <= left;
            match fits {
                true => left -= series,
                false => gone += series,
            }
            fits
        });
    }
    families.retain(|family| !family.samples.is_empty());
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(name: &'static str, count: u64) -> Family {
        let samples = (0..count).map(|number| {
            let label = ("number", number.to_string().into());
            Sample::of([label], Value::Counter(number))
        });
        Family::new(name, "", Unit::None, samples)
    }

    #[test]
    fn no_more_series_are_told_than_are_allowed() {
        let mut families = vec![counters("one", 3), counters("two", 3), counters("three", 3)];
        assert_eq!(limit(&mut families.clone(), 9), 0);
        assert_eq!(limit(&mut families, 5), 4);
        let left: Vec<_> = families
            .iter()
            .map(|family| (family.name, family.samples.len()))
            .collect();
        assert_eq!(left, [("one", 3), ("two", 2)]);
    }

    #[test]
    fn a_histogram_is_many_series_and_stays_whole_or_goes() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        histogram.observe(1.5);
        let family = Family::new(
            "seconds",
            "",
            Unit::Seconds,
            [Sample::alone(Value::Histogram(histogram))],
        );
        assert_eq!(limit(&mut vec![family.clone()], 5), 0);
        let mut families = vec![counters("one", 1), family];
        assert_eq!(limit(&mut families, 5), 5);
        assert_eq!(families.len(), 1);
    }
}
