//! Rolling windows over one series: what is remembered of its samples.
//!
//! Time is data time. A window holds at most [`WINDOW_CELLS_MAX`](crate::limits::WINDOW_CELLS_MAX) cells,
//! each the summary of the samples in one [`CELL_MS`] interval, so memory is
//! bounded whatever the scrape interval; with at least `CELL_MS` between samples a cell is one sample and
//! every answer is exact.

pub mod counter;
pub mod gauge;

pub use counter::Counter;
pub use gauge::Gauge;

use crate::limits::{CELL_MS, SILENCE_INTERVALS, SILENCE_MIN_MS, SILENCE_UNKNOWN_MS};
use crate::units::TimeMs;
use std::collections::VecDeque;

/// What a sample did to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The newest sample of its series.
    New,
    /// Older than the newest one, or the same again.
    Late,
}

/// Index of the first of `cells`, which are in time order, after each of two moments, the earlier one first. Windows are
/// short and the moments recent, so that a walk from the newest cell is faster than a search.
fn first_after<T>(cells: &VecDeque<T>, time_of: fn(&T) -> TimeMs, starts: [TimeMs; 2]) -> [usize; 2] {
    let behind = |end: usize, start: TimeMs| {
        end - cells.range(..end).rev().take_while(|cell| time_of(cell) > start).count()
    };
    let later = behind(cells.len(), starts[1]);
    [behind(later, starts[0]), later]
}

/// Index of the cell interval that contains `time`.
fn cell_of(time: TimeMs) -> i64 {
    time.0.div_euclid(CELL_MS)
}

/// Scrape interval of a series or replica, learned from the gaps between its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Smoothed gap, ms; 0 until two samples have been seen.
    ms: i32,
}

impl Interval {
    /// Takes in the gap between two successive samples, ms. Zero and negative gaps say nothing.
    pub fn observe(&mut self, gap_ms: i64) {
        if gap_ms <= 0 {
            return;
        }
        let gap = gap_ms.min(SILENCE_UNKNOWN_MS) as i32;
        // An outage is one huge gap: it may at most double the estimate.
        self.ms = if self.ms == 0 { gap } else { self.ms + (gap.min(2 * self.ms) - self.ms) / 4 };
    }

    /// The learned interval, ms; `None` before the second sample.
    pub fn ms(self) -> Option<i64> {
        (self.ms > 0).then_some(i64::from(self.ms))
    }

    /// How long after its last sample the series counts as gone, ms.
    pub fn silence_ms(self) -> i64 {
        match self.ms() {
            None => SILENCE_UNKNOWN_MS,
            Some(interval) => (interval * SILENCE_INTERVALS).max(SILENCE_MIN_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_few_of_a_series_own_intervals() {
        let mut interval = Interval::default();
        assert_eq!(interval.silence_ms(), SILENCE_UNKNOWN_MS);
        interval.observe(30_000);
        assert_eq!(interval.silence_ms(), 120_000);
        for _ in 0..20 {
            interval.observe(1_000);
        }
        assert_eq!(interval.silence_ms(), SILENCE_MIN_MS);
    }

    #[test]
    fn one_outage_hardly_moves_the_interval() {
        let mut interval = Interval::default();
        interval.observe(15_000);
        interval.observe(3_600_000);
        assert!(interval.ms().unwrap() <= 20_000);
    }
}
