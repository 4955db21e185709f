//! Medians, quartiles, and rounds held against those beside them.

/// The middle of several measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    /// A quarter of the measurements lies below, a quarter above.
    pub low: f64,
    pub high: f64,
    pub rounds: u64,
}

impl Spread {
    /// That of at least one measurement.
    pub fn of(measurements: &[f64]) -> Option<Self> {
        let mut sorted = measurements.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
            rounds: sorted.len() as u64,
        })
    }
}

/// Between two measurements it lies where its share of the way says.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? as f64 * share;
    let (below, above) = (place.floor(), place.ceil());
    let at = |place: f64| sorted.get(place as usize).copied();
    let (below_value, above_value) = (at(below)?, at(above)?);
    Some(below_value + (above_value - below_value) * (place - below))
}

/// A measurement against the mean of those before and after it; `None` where that is no number.
pub fn ratio_to_neighbours(before: f64, value: f64, after: f64) -> Option<f64> {
    let beside = f64::midpoint(before, after);
    (beside > 0.0).then(|| value / beside)
}

/// In which order `count` things take their turns in a round: each round begins with the next one,
/// and every other goes backwards, so that none always comes after the same.
pub fn order_of_round(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|place| (place + round) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
        assert_eq!(spread.rounds, 4);
    }

    #[test]
    fn one_wild_round_of_seven_moves_neither_median_nor_quartiles_far() {
        let spread = Spread::of(&[0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 9.0]).unwrap();
        assert_eq!(spread.median, 0.93);
        assert!((spread.low - 0.915).abs() < 1e-9 && (spread.high - 0.945).abs() < 1e-9);
    }

    #[test]
    fn one_measurement_is_its_own_median_and_none_has_none() {
        let spread = Spread::of(&[7.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_machine_that_slows_down_evenly_changes_no_ratio() {
        assert_eq!(ratio_to_neighbours(110.0, 90.0, 90.0), Some(0.9));
        assert_eq!(ratio_to_neighbours(0.0, 90.0, 0.0), None);
    }

    #[test]
    fn every_round_has_all_and_none_is_always_first() {
        let rounds: Vec<_> = (0..6).map(|round| order_of_round(3, round)).collect();
        for order in &rounds {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
        }
        let firsts: Vec<_> = rounds.iter().map(|order| order[0]).collect();
        for thing in 0..3 {
            assert_eq!(firsts.iter().filter(|first| **first == thing).count(), 2);
        }
    }
}
