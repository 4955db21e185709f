//! A histogram with fixed bounds, as Prometheus has it.

/// How many values were at most how large.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds: the last is of what is larger than all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Without values. `bounds` ascend.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// Counts a duration in nanoseconds, in seconds.
    pub fn observe_ns(&mut self, nanoseconds: u64) {
        self.observe(nanoseconds as f64 / 1e9);
    }

    /// All values together.
    #[must_use]
    pub const fn sum(&self) -> f64 {
        self.sum
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bounds, and how many values are in each bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_below_it() {
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        for value in [0.5, 0.6, 1.0, 7.0] {
            histogram.observe(value);
        }
        let counts: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 9.1));
    }
}
