//! How fast a route's connections open, and whether ever faster.

use super::account::{RouteUse, tenth};
use crate::time::Timestamp;

/// How far back openings are looked at, tenths of a second.
const WINDOW: u64 = 300;
/// Tenths of a second that are counted together: half a second. What comes in bursts is then judged
/// by few enough figures that a burst is no jump.
const BIN: usize = 5;
/// Bins without which no line is drawn, and no jump is believed.
const LEAST: usize = 4;
/// So many standard errors from none, growth is growth.
const SIGNIFICANT: f64 = 2.0;

/// The rate at which a route's connections open.
///
/// Of four accounts of the last half minute the one is taken that explains it best for what it costs
/// (the Bayesian information criterion): a rate that stays; one that grows in a straight line; each
/// of them after a jump from another rate, such as a load that has just begun.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    /// Connections a second now.
    pub rate: f64,
    /// By how much that grows each second; 0 unless that cannot be chance.
    pub growth: f64,
    /// For how long the growth has been seen, and is believed, seconds.
    pub lasts: f64,
    /// Openings that were counted.
    pub openings: u64,
}

impl Pace {
    /// The pace at `now` of a route watched since `began`.
    pub fn of(used: &RouteUse, began: Timestamp, now: Timestamp) -> Self {
        let current = tenth(now);
        // The tenths of the start and of now were not seen whole.
        let first = (tenth(began) + 1).max(current.saturating_sub(WINDOW));
        let mut bins = vec![0.0; (current.saturating_sub(first) as usize) / BIN];
        let mut openings = 0;
        for (tenth, count) in used.openings.range(first..current.max(first)) {
            let age = (current - 1 - tenth) as usize / BIN;
            if let Some(bin) = bins.get_mut(age) {
                *bin += f64::from(*count);
            }
            openings += u64::from(*count);
        }
        bins.reverse();
        // From the end of the last bin until now.
        let rest = (now.0 % 100_000_000) as f64 / 1e9;
        Self {
            openings,
            ..best(&bins).map_or_else(Self::default, |line| line.pace(rest))
        }
    }

    /// Openings until `at`, seconds from now; none before now.
    pub fn opened(&self, at: f64) -> f64 {
        if at <= 0.0 {
            return 0.0;
        }
        let growing = at.min(self.lasts);
        let grown = self.rate * growing + self.growth * growing * growing / 2.0;
        grown + (at - growing) * self.last_rate()
    }

    /// The rate once it grows no more.
    pub fn last_rate(&self) -> f64 {
        (self.rate + self.growth * self.lasts).max(0.0)
    }
}

/// A line through the last bins.
#[derive(Clone, Copy, Debug)]
struct Line {
    bins: usize,
    /// Per bin, at the middle of the bins.
    mean: f64,
    /// Per bin and bin.
    slope: f64,
    /// Squares of what it does not explain.
    residue: f64,
}

impl Line {
    /// The mean of the bins, as a line without slope.
    fn flat(bins: &[f64]) -> Self {
        let count = bins.len().max(1) as f64;
        let mean = bins.iter().sum::<f64>() / count;
        Self {
            bins: bins.len(),
            mean,
            slope: 0.0,
            residue: bins.iter().map(|bin| (bin - mean).powi(2)).sum(),
        }
    }

    /// The line of least squares. `None`: its slope may be chance.
    fn sloped(bins: &[f64]) -> Option<Self> {
        let flat = Self::flat(bins);
        let count = bins.len() as f64;
        let place = |index: usize| index as f64 - (count - 1.0) / 2.0;
        let spread = count * (count * count - 1.0) / 12.0;
        let products = bins
            .iter()
            .enumerate()
            .map(|(index, bin)| place(index) * bin);
        let slope = products.sum::<f64>() / spread;
        let residue = (flat.residue - slope * slope * spread).max(0.0);
        let error = ((residue + count * FLOOR) / (count - 2.0) / spread).sqrt();
        (slope.abs() > SIGNIFICANT * error).then_some(Self {
            slope,
            residue,
            ..flat
        })
    }

    fn pace(&self, rest: f64) -> Pace {
        let bin = BIN as f64 / 10.0;
        let count = self.bins as f64;
        let growth = self.slope / bin / bin;
        let rate = self.mean / bin + growth * (count * bin / 2.0 + rest);
        let rate = rate.max(0.0);
        let mut lasts = if growth == 0.0 { 0.0 } else { count * bin };
        if growth < 0.0 {
            // Until there is nothing left to fall.
            lasts = lasts.min(rate / -growth);
        }
        Pace {
            rate,
            growth,
            lasts,
            openings: 0,
        }
    }
}

/// What even the most even pace varies by, since connections are counted whole.
const FLOOR: f64 = 0.25;

/// The account that explains the bins best.
fn best(bins: &[f64]) -> Option<Line> {
    let count = bins.len() as f64;
    let price = count.ln();
    let cost = |residue: f64, terms: f64| {
        let left = (residue + count * FLOOR) / count;
        count * left.ln() + terms * price
    };
    let mut best: Option<(f64, Line)> = None;
    let mut consider = |cost: f64, line: Line| {
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, line));
        }
    };
    let lines = |bins: &[f64]| {
        let sloped = (bins.len() >= LEAST).then(|| Line::sloped(bins)).flatten();
        [
            Some((Line::flat(bins), 1.0)),
            sloped.map(|line| (line, 2.0)),
        ]
    };
    for (line, terms) in lines(bins).into_iter().flatten() {
        consider(cost(line.residue, terms), line);
    }
    // The bin that a jump falls into belongs to neither side.
    for jump in 0..bins.len().saturating_sub(LEAST) {
        let before = Line::flat(&bins[..jump]);
        for (line, terms) in lines(&bins[jump + 1..]).into_iter().flatten() {
            // Where it jumped and from what, and dearly: any place might have been it by chance.
            consider(cost(before.residue + line.residue, terms + 5.0), line);
        }
    }
    best.map(|(_, line)| line)
}
