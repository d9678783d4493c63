//! Window of a counter: its increase, across resets.

use super::{Recorded, cell_of, first_after};
use crate::limits::{WINDOW_CELLS_MAX, WINDOW_MS};
use crate::units::TimeMs;
use std::collections::VecDeque;

/// A value above this part of the previous one is no reset: a restarted engine rarely gets so far within one
/// scrape interval, and taken for one it would count all requests since the engine's start at once.
const STEP_BACK_MIN_RATIO: f64 = 7.0 / 8.0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    /// Time of the newest sample in the cell interval.
    time: TimeMs,
    /// Increase since the first sample ever seen, resets taken out.
    total: f64,
}

/// Rolling window of a counter. Not-a-number values must be filtered out by the caller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counter {
    cells: VecDeque<Cell>,
    /// Newest raw value, to see the next increase or reset.
    raw: f64,
    /// Time of the newest sample that was larger than the one before.
    grown_at: Option<TimeMs>,
}

/// Increase of a counter over a span of data time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Increase {
    /// How much the counter grew, in its own unit.
    pub amount: f64,
    /// Span between the first and the last sample used, ms.
    pub span_ms: i64,
}

impl Counter {
    /// Records a sample; a value well below the previous one is a reset, after which it counted from 0. One
    /// slightly below it is a step back, as two Prometheus that scrape the same pod show when their scrapes
    /// overlap: nothing has grown until the highest value is passed.
    /// Late samples say nothing that the newer total does not include.
    pub fn record(&mut self, time: TimeMs, value: f64) -> Recorded {
        let first_only = self.cells.len() == 1;
        let Some(newest) = self.cells.back_mut() else {
            self.raw = value;
            self.cells.push_back(Cell { time, total: 0.0 });
            return Recorded::New;
        };
        if time <= newest.time {
            return Recorded::Late;
        }
        let is_step_back = value < self.raw && value > self.raw * STEP_BACK_MIN_RATIO;
        let grown = if is_step_back {
            0.0
        } else if value >= self.raw {
            value - self.raw
        } else {
            value
        };
        if !is_step_back {
            self.raw = value;
        }
        if grown > 0.0 {
            self.grown_at = Some(time);
        }
        // Absurd values must not make the difference of two totals not a number.
        let total = (newest.total + grown).min(f64::MAX);
        // The very first cell keeps its first sample: it is the base of the first increase.
        if !first_only && cell_of(time) == cell_of(newest.time) {
            *newest = Cell { time, total };
            return Recorded::New;
        }
        while self.cells.len() >= WINDOW_CELLS_MAX
            || self.cells.get(1).is_some_and(|second| second.time <= time - WINDOW_MS)
        {
            self.cells.pop_front();
        }
        self.cells.push_back(Cell { time, total });
        Recorded::New
    }

    /// Declares that the counter stood at zero at `time`, before its first sample: a label value that
    /// appears on a counter that is already watched (a first abort, say) started from nothing.
    pub fn start_at_zero(&mut self, time: TimeMs) {
        if self.cells.is_empty() {
            self.record(time, 0.0);
        }
    }

    /// Time of the newest sample that showed growth.
    pub fn grown_at(&self) -> Option<TimeMs> {
        self.grown_at
    }

    /// Increase since the first sample ever seen.
    pub fn since_first(&self) -> f64 {
        self.cells.back().map_or(0.0, |cell| cell.total)
    }

    /// Newest sample as (time, raw value).
    pub fn last(&self) -> Option<(TimeMs, f64)> {
        self.cells.back().map(|cell| (cell.time, self.raw))
    }

    /// Increase over the `span_ms` that end at `now`, at most the window: from the newest sample at or
    /// before the start, or the oldest one kept, to the newest one. Nothing is extrapolated.
    pub fn increase(&self, now: TimeMs, span_ms: i64) -> Increase {
        let after = self.after(now - span_ms);
        let (Some(base), Some(newest)) = (self.cells.get(after.saturating_sub(1)), self.cells.back()) else {
            return Increase::default();
        };
        Increase { amount: newest.total - base.total, span_ms: newest.time.since(base.time) }
    }

    /// Time from which the increase over `span_ms` may be smaller without a new sample.
    pub fn changes_at(&self, now: TimeMs, span_ms: i64) -> TimeMs {
        self.cells.get(self.after(now - span_ms)).map_or(TimeMs::MAX, |cell| cell.time + span_ms)
    }

    /// Increases over two spans that end at `now`, the longer one first, and the time from which either may be smaller
    /// without a new sample.
    pub fn increases(&self, now: TimeMs, spans_ms: [i64; 2]) -> ([Increase; 2], TimeMs) {
        let Some(newest) = self.cells.back() else { return (Default::default(), TimeMs::MAX) };
        let mut changes_at = TimeMs::MAX;
        let found = first_after(&self.cells, |cell| cell.time, spans_ms.map(|span_ms| now - span_ms));
        let mut increases = [Increase::default(); 2];
        for ((increase, after), span_ms) in increases.iter_mut().zip(found).zip(spans_ms) {
            let base = &self.cells[after.saturating_sub(1)];
            *increase = Increase { amount: newest.total - base.total, span_ms: newest.time.since(base.time) };
            if let Some(cell) = self.cells.get(after) {
                changes_at = changes_at.min(cell.time + span_ms);
            }
        }
        (increases, changes_at)
    }

    /// Index of the first sample after `start`.
    fn after(&self, start: TimeMs) -> usize {
        self.cells.partition_point(|cell| cell.time <= start)
    }

    /// Samples as (time, increase since the first sample), oldest first, at cell resolution.
    pub fn points(&self) -> impl Iterator<Item = (TimeMs, f64)> {
        self.cells.iter().map(|cell| (cell.time, cell.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECENT_MS;
    use proptest::prelude::*;

    #[test]
    fn a_reset_counts_from_zero() {
        let mut counter = Counter::default();
        for (time, value) in [(0, 100.0), (15_000, 130.0), (30_000, 5.0), (45_000, 12.0)] {
            counter.record(TimeMs(time), value);
        }
        let increase = counter.increase(TimeMs(45_000), WINDOW_MS);
        assert_eq!(increase, Increase { amount: 42.0, span_ms: 45_000 });
    }

    #[test]
    fn overlapping_scrapes_of_two_senders_are_no_resets() {
        let mut counter = Counter::default();
        // The first one's answers take half a second, so the other's later samples show less.
        for second in 0..30 {
            let (slow, quick) = (second * 1_000, second * 1_000 + 300);
            counter.record(TimeMs(slow), 1e6 + (slow + 500) as f64);
            counter.record(TimeMs(quick), 1e6 + quick as f64);
        }
        let increase = counter.increase(TimeMs(29_300), WINDOW_MS);
        assert_eq!(increase.amount, 29_000.0);
    }

    #[test]
    fn duplicates_and_late_samples_change_nothing() {
        let mut counter = Counter::default();
        for (time, value) in [(0, 1.0), (10_000, 5.0), (10_000, 5.0), (5_000, 3.0), (20_000, 9.0)] {
            counter.record(TimeMs(time), value);
        }
        assert_eq!(counter.increase(TimeMs(20_000), WINDOW_MS).amount, 8.0);
    }

    proptest! {
        /// Equal to summing the positive steps over all samples of the window.
        #[test]
        fn agrees_with_a_plain_sum(
            steps in prop::collection::vec((2_000i64..20_000, 0.0f64..50.0, prop::bool::weighted(0.1)), 2..60),
        ) {
            let mut counter = Counter::default();
            let (mut time, mut raw) = (0, 10.0);
            counter.record(TimeMs(time), raw);
            let mut all = vec![(time, 0.0)];
            for (gap, step, reset) in steps {
                time += gap;
                let before = all_raw(&counter);
                raw = if reset { before / 2.0 } else { raw + step };
                let grown = if reset { raw } else { raw - before };
                counter.record(TimeMs(time), raw);
                all.push((time, grown));
                let start = time - WINDOW_MS;
                let base = all.iter().rposition(|(t, _)| *t <= start).unwrap_or(0);
                let expected: f64 = all[base + 1..].iter().map(|(_, grown)| grown).sum();
                prop_assert!((counter.increase(TimeMs(time), WINDOW_MS).amount - expected).abs() < 1e-6);
                for now in [time - 20_000, time, time + 7_000, time + 70_000].map(TimeMs) {
                    let spans = [WINDOW_MS, RECENT_MS];
                    let one_by_one = spans.map(|span_ms| counter.increase(now, span_ms));
                    let changes_at = spans.map(|span_ms| counter.changes_at(now, span_ms));
                    let both = counter.increases(now, spans);
                    prop_assert_eq!(both, (one_by_one, changes_at[0].min(changes_at[1])));
                }
                prop_assert!(counter.cells.len() <= WINDOW_CELLS_MAX);
            }
        }
    }

    fn all_raw(counter: &Counter) -> f64 {
        counter.last().map_or(0.0, |(_, raw)| raw)
    }
}
