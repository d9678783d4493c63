//! Arrivals of a model at the stream's own resolution: counts per bin of sample time.
//!
//! Input: how many requests arrived over which span. Output: rates, their spread beyond chance, their
//! trend. Bounded: the last twenty minutes, which hold the longest start-up time.

use std::collections::VecDeque;

use crate::units::TimeMs;

/// Length of a bin, ms.
pub const BIN_MS: i64 = 5_000;
/// Bins kept: twenty minutes.
const BINS_MAX: usize = 240;
/// Bins of the window over which the spread is measured: ten minutes.
const SPREAD_BINS: usize = 120;
/// Bins that are averaged to one value when the spread is measured.
const SPREAD_GROUP: usize = 3;
/// Bins of the long and the short mean: a minute and 15 s.
pub const LONG_BINS: usize = 12;
const SHORT_BINS: usize = 3;
/// Bins of the window over which the trend is fitted: four minutes.
const TREND_BINS: usize = 48;

/// Arrivals per bin, the newest last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrivals {
    bins: VecDeque<f64>,
    /// Index of the newest bin on the axis of sample time.
    newest: i64,
    /// Bins before the newest for which samples are still to come.
    open: i64,
}

/// A straight line through the recent rates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Change of the rate, per s per s.
    pub slope_per_s2: f64,
    /// Standard error of the slope.
    pub error_per_s2: f64,
}

impl Arrivals {
    /// Adds `count` arrivals, spread evenly over `(from, to]`. What lies before the window is dropped.
    pub fn add(&mut self, from: TimeMs, to: TimeMs, count: f64) {
        let span_ms = to.since(from);
        if span_ms <= 0 || !count.is_finite() {
            return;
        }
        let (first, last) = ((from.0).div_euclid(BIN_MS), (to.0 - 1).div_euclid(BIN_MS));
        self.reach(last, first);
        for index in first.max(last - BINS_MAX as i64)..=last {
            let overlap_ms = ((index + 1) * BIN_MS).min(to.0) - (index * BIN_MS).max(from.0);
            let back = (self.newest - index) as usize;
            if let Some(at) = self.bins.len().checked_sub(back + 1) {
                self.bins[at] += count * overlap_ms as f64 / span_ms as f64;
            }
        }
    }

    fn reach(&mut self, last: i64, first: i64) {
        if self.bins.is_empty() {
            self.newest = first - 1;
        }
        let missing = (last - self.newest).max(0);
        for _ in 0..missing.min(BINS_MAX as i64) {
            if self.bins.len() == BINS_MAX {
                self.bins.pop_front();
            }
            self.bins.push_back(0.0);
        }
        self.newest = self.newest.max(last);
    }

    /// Time covered, ms.
    pub fn span_ms(&self) -> i64 {
        self.bins.len() as i64 * BIN_MS
    }

    /// Mean rate over `bins` full bins, as of `back` full bins ago, per s; 0 without any.
    fn mean_per_s(&self, back: usize, bins: usize) -> f64 {
        let (sum, count) =
            self.closed().skip(back).take(bins).fold((0.0_f64, 0.0), |(sum, n), bin| (sum + bin, n + 1.0));
        if count == 0.0 { 0.0 } else { sum.max(0.0) * 1000.0 / (count * BIN_MS as f64) }
    }

    /// Says that everything until `until` has been added: bins are full up to there, but never the newest one.
    pub fn close(&mut self, until: TimeMs) {
        self.open = (self.newest - until.0.div_euclid(BIN_MS)).max(0);
    }

    /// Index of the newest full bin.
    pub fn newest_full(&self) -> i64 {
        self.newest - self.open - 1
    }

    /// Bins at the end that are not full.
    fn unfinished(&self) -> usize {
        self.open as usize + 1
    }

    /// Full bins, newest first.
    fn closed(&self) -> impl Iterator<Item = f64> + '_ {
        self.bins.iter().rev().skip(self.unfinished()).copied()
    }

    /// Variance of the counts over their mean, after the slow changes are taken out by differences; 1 for
    /// independent arrivals, which is also the least that is returned.
    pub fn dispersion(&self) -> f64 {
        let mut sum = 0.0;
        let mut squares = 0.0;
        let (mut groups, mut previous): (u32, Option<f64>) = (0, None);
        let (mut group, mut filled) = (0.0, 0);
        for bin in self.closed().take(SPREAD_BINS) {
            (group, filled) = (group + bin.max(0.0), filled + 1);
            if filled < SPREAD_GROUP {
                continue;
            }
            if let Some(previous) = previous {
                // Half the squared difference of neighbours estimates the variance free of drift.
                squares += (group - previous) * (group - previous) / 2.0;
                sum += (group + previous) / 2.0;
                groups += 1;
            }
            previous = Some(group);
            (group, filled) = (0.0, 0);
        }
        if groups < 4 || sum <= 0.0 { 1.0 } else { (squares / sum).max(1.0) }
    }

    /// Straight line through the rates of the last minutes.
    pub fn trend(&self) -> Trend {
        let bins = self.closed().take(TREND_BINS);
        let (mut n, mut x1, mut x2, mut y1, mut xy, mut y2) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for (index, bin) in bins.enumerate() {
            let x = -(index as f64) * BIN_MS as f64 / 1000.0;
            let y = bin.max(0.0) * 1000.0 / BIN_MS as f64;
            (n, x1, x2) = (n + 1.0, x1 + x, x2 + x * x);
            (y1, xy, y2) = (y1 + y, xy + x * y, y2 + y * y);
        }
        let spread = x2 - x1 * x1 / f64::max(n, 1.0);
        if n < 6.0 || spread <= 0.0 {
            return Trend::default();
        }
        let slope = (xy - x1 * y1 / n) / spread;
        let rest = (y2 - y1 * y1 / n - slope * slope * spread).max(0.0);
        Trend { slope_per_s2: slope, error_per_s2: (rest / (n - 2.0) / spread).sqrt() }
    }

    /// Rate that arrives, as of `back` full bins ago: the minute's mean, or that of the last 15 s where it
    /// is higher by more than its error.
    pub fn arriving_per_s(&self, back: usize, dispersion: f64) -> f64 {
        let (long, short) = (self.mean_per_s(back, LONG_BINS), self.mean_per_s(back, SHORT_BINS));
        let error = (dispersion * short / (SHORT_BINS as f64 * BIN_MS as f64 / 1000.0)).sqrt();
        long.max(short - error)
    }

    /// Bins from `back` full bins ago on, oldest first, `count` of them.
    pub fn since(&self, back: usize, count: usize) -> impl Iterator<Item = f64> + Clone + '_ {
        let full = self.bins.len().saturating_sub(self.unfinished());
        self.bins.iter().take(full).skip(full.saturating_sub(back)).take(count).map(|bin| bin.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(seconds: i64, per_s: f64) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for second in 0..seconds {
            arrivals.add(TimeMs(second * 1000), TimeMs((second + 1) * 1000), per_s);
        }
        arrivals
    }

    #[test]
    fn a_steady_load_has_its_rate_no_trend_and_no_growth() {
        let arrivals = steady(1800, 4.0);
        assert!((arrivals.mean_per_s(0, 12) - 4.0).abs() < 1e-9);
        assert!(arrivals.trend().slope_per_s2.abs() < 1e-9);
        assert_eq!(arrivals.dispersion(), 1.0);
    }

    #[test]
    fn a_ramp_shows_in_trend_and_growth() {
        let mut arrivals = Arrivals::default();
        for second in 0..1800 {
            let count = 5.0 + second as f64 * 0.01;
            arrivals.add(TimeMs(second * 1000), TimeMs((second + 1) * 1000), count);
        }
        let trend = arrivals.trend();
        assert!((trend.slope_per_s2 - 0.01).abs() < 1e-6, "{trend:?}");
    }

    #[test]
    fn memory_stays_bounded_whatever_the_gaps() {
        let mut arrivals = steady(100, 1.0);
        arrivals.add(TimeMs(1_000_000_000), TimeMs(1_000_005_000), 7.0);
        arrivals.add(TimeMs(1_000_005_000), TimeMs(1_000_010_000), 7.0);
        assert!(arrivals.bins.len() <= BINS_MAX);
        assert!((arrivals.mean_per_s(0, 1) - 1.4).abs() < 1e-9);
    }
}
