//! Window of a gauge: last value, maximum and average.

use super::{Recorded, cell_of, first_after};
use crate::limits::{WINDOW_CELLS_MAX, WINDOW_MS};
use crate::units::TimeMs;
use std::collections::VecDeque;

/// Samples of one cell interval.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    /// Time of the newest sample.
    time: TimeMs,
    /// Value of the newest sample.
    last: f64,
    max: f64,
    sum: f64,
    count: u32,
}

impl Cell {
    fn new(time: TimeMs, value: f64) -> Self {
        Cell { time, last: value, max: value, sum: value, count: 1 }
    }
}

/// The course of a gauge over two spans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Newest sample.
    pub last: (TimeMs, f64),
    /// Largest value in the longer span; the newest sample always counts.
    pub max: f64,
    /// Values that held when the spans began.
    pub before: [f64; 2],
    /// Time from which this may differ without a new sample.
    pub changes_at: TimeMs,
}

/// Rolling window of a gauge. Not-a-number values must be filtered out by the caller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauge {
    /// In time order, at most one per cell interval.
    cells: VecDeque<Cell>,
}

impl Gauge {
    /// Records a sample. Late samples fill gaps and can raise a maximum, but never replace a newer value
    /// and never count twice, so resending a request changes nothing.
    pub fn record(&mut self, time: TimeMs, value: f64) -> Recorded {
        match self.cells.back_mut() {
            Some(cell) if time <= cell.time => {
                self.record_late(time, value);
                Recorded::Late
            }
            Some(cell) if cell_of(time) == cell_of(cell.time) => {
                cell.time = time;
                cell.last = value;
                cell.max = cell.max.max(value);
                cell.sum += value;
                cell.count += 1;
                Recorded::New
            }
            _ => {
                // One sample from before the window stays: it was the value when the window began.
                while self.cells.len() >= WINDOW_CELLS_MAX
                    || self.cells.get(1).is_some_and(|second| second.time <= time - WINDOW_MS)
                {
                    self.cells.pop_front();
                }
                self.cells.push_back(Cell::new(time, value));
                Recorded::New
            }
        }
    }

    fn record_late(&mut self, time: TimeMs, value: f64) {
        let newest = self.cells.back().map_or(time, |cell| cell.time);
        if time <= newest - WINDOW_MS {
            return;
        }
        let at = self.cells.partition_point(|cell| cell_of(cell.time) < cell_of(time));
        let room = self.cells.len() < WINDOW_CELLS_MAX;
        match self.cells.get_mut(at) {
            Some(cell) if cell_of(cell.time) == cell_of(time) => cell.max = cell.max.max(value),
            _ if room => self.cells.insert(at, Cell::new(time, value)),
            _ => {}
        }
    }

    /// Newest sample.
    pub fn last(&self) -> Option<(TimeMs, f64)> {
        self.cells.back().map(|cell| (cell.time, cell.last))
    }

    /// Largest value in the window that ends at `now`. The newest sample always counts: silence is judged
    /// elsewhere.
    pub fn max(&self, now: TimeMs) -> Option<f64> {
        let newest = self.cells.len().checked_sub(1)?;
        let within = |(index, cell): &(usize, &Cell)| *index == newest || cell.time > now - WINDOW_MS;
        self.cells.iter().enumerate().filter(within).map(|(_, cell)| cell.max).reduce(f64::max)
    }

    /// Average of the samples in the window that ends at `now`; the newest sample always counts.
    pub fn average(&self, now: TimeMs) -> Option<f64> {
        let newest = self.cells.len().checked_sub(1)?;
        let (mut sum, mut count) = (0.0, 0u32);
        for (index, cell) in self.cells.iter().enumerate() {
            if index == newest || cell.time > now - WINDOW_MS {
                sum += cell.sum;
                count += cell.count;
            }
        }
        Some(sum / f64::from(count.max(1)))
    }

    /// Value that held at `time`: the newest sample not after it, else the oldest one kept.
    pub fn value_at(&self, time: TimeMs) -> Option<f64> {
        let after = self.cells.partition_point(|cell| cell.time <= time);
        self.cells.get(after.saturating_sub(1)).map(|cell| cell.last)
    }

    /// Time from which answers about the `span_ms` that end at `now` may differ without a new sample.
    pub fn changes_at(&self, now: TimeMs, span_ms: i64) -> TimeMs {
        let after = self.cells.partition_point(|cell| cell.time <= now - span_ms);
        self.cells.get(after).map_or(TimeMs::MAX, |cell| cell.time + span_ms)
    }

    /// What [`Gauge::last`], [`Gauge::max`], [`Gauge::value_at`] the start of two spans that end at `now`, the longer one
    /// first, and [`Gauge::changes_at`] say, the maximum over the longer one; `None` without a sample.
    pub fn course(&self, now: TimeMs, spans_ms: [i64; 2]) -> Option<Course> {
        let newest = self.cells.back()?;
        let found = first_after(&self.cells, |cell| cell.time, spans_ms.map(|span_ms| now - span_ms));
        let mut changes_at = TimeMs::MAX;
        for (after, span_ms) in found.into_iter().zip(spans_ms) {
            if let Some(cell) = self.cells.get(after) {
                changes_at = changes_at.min(cell.time + span_ms);
            }
        }
        let before = found.map(|after| self.cells[after.saturating_sub(1)].last);
        let max = self.cells.range(found[0]..).map(|cell| cell.max).fold(newest.max, f64::max);
        Some(Course { last: (newest.time, newest.last), max, before, changes_at })
    }

    /// Forgets everything: the series has ended.
    pub fn clear(&mut self) {
        self.cells.clear();
    }

    /// Samples as (time, value), oldest first, at cell resolution.
    pub fn points(&self) -> impl Iterator<Item = (TimeMs, f64)> {
        self.cells.iter().map(|cell| (cell.time, cell.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECENT_MS;
    use proptest::prelude::*;

    #[test]
    fn the_maximum_leaves_with_its_window_but_the_last_value_stays() {
        let mut gauge = Gauge::default();
        gauge.record(TimeMs(0), 9.0);
        gauge.record(TimeMs(15_000), 1.0);
        assert_eq!(gauge.max(TimeMs(59_999)), Some(9.0));
        assert_eq!(gauge.changes_at(TimeMs(59_999), WINDOW_MS), TimeMs(60_000));
        assert_eq!(gauge.max(TimeMs(60_000)), Some(1.0));
        assert_eq!(gauge.max(TimeMs(600_000)), Some(1.0));
    }

    #[test]
    fn resending_the_same_samples_changes_nothing() {
        let samples = [(0, 1.0), (5_000, 4.0), (10_000, 2.0)];
        let mut once = Gauge::default();
        for (time, value) in samples {
            assert_eq!(once.record(TimeMs(time), value), Recorded::New);
        }
        let mut twice = once.clone();
        for (time, value) in samples {
            assert_eq!(twice.record(TimeMs(time), value), Recorded::Late);
        }
        assert_eq!(once, twice);
    }

    #[test]
    fn a_late_sample_fills_its_gap_and_can_raise_the_maximum() {
        let mut gauge = Gauge::default();
        gauge.record(TimeMs(0), 1.0);
        gauge.record(TimeMs(20_000), 2.0);
        gauge.record(TimeMs(10_000), 8.0);
        assert_eq!(gauge.last(), Some((TimeMs(20_000), 2.0)));
        assert_eq!(gauge.max(TimeMs(20_000)).unwrap(), 8.0);
        assert_eq!(gauge.value_at(TimeMs(12_000)), Some(8.0));
    }

    proptest! {
        /// For samples at least a cell apart the window equals a plain scan over all samples.
        #[test]
        fn agrees_with_a_plain_scan(
            gaps in prop::collection::vec(2_000i64..30_000, 1..80),
            values in prop::collection::vec(0.0f64..100.0, 80),
        ) {
            let mut gauge = Gauge::default();
            let mut all = Vec::new();
            let mut time = 0;
            for (gap, value) in gaps.iter().zip(&values) {
                time += gap;
                gauge.record(TimeMs(time), *value);
                all.push((time, *value));
                let within: Vec<f64> =
                    all.iter().filter(|(t, _)| *t > time - WINDOW_MS).map(|(_, v)| *v).collect();
                let max = within.iter().copied().fold(f64::MIN, f64::max);
                let mean = within.iter().sum::<f64>() / within.len() as f64;
                prop_assert_eq!(gauge.max(TimeMs(time)).unwrap(), max);
                prop_assert!((gauge.average(TimeMs(time)).unwrap() - mean).abs() < 1e-9);
                for now in [time - 20_000, time, time + 7_000, time + 70_000].map(TimeMs) {
                    let spans = [WINDOW_MS, RECENT_MS];
                    let changes_at = spans.map(|span_ms| gauge.changes_at(now, span_ms));
                    let one_by_one = Course {
                        last: gauge.last().unwrap(),
                        max: gauge.max(now).unwrap(),
                        before: spans.map(|span_ms| gauge.value_at(now - span_ms).unwrap()),
                        changes_at: changes_at[0].min(changes_at[1]),
                    };
                    prop_assert_eq!(gauge.course(now, spans), Some(one_by_one));
                }
                prop_assert!(gauge.cells.len() <= WINDOW_CELLS_MAX);
            }
        }

        /// Memory is bounded and the maximum never understated, whatever the interval and order.
        #[test]
        fn bounded_and_never_below_the_true_maximum(
            samples in prop::collection::vec((0i64..200_000, 0.0f64..100.0), 1..400),
        ) {
            let mut gauge = Gauge::default();
            let mut newest = i64::MIN;
            let mut seen = Vec::new();
            for (time, value) in samples {
                newest = newest.max(time);
                gauge.record(TimeMs(time), value);
                seen.push((time, value));
                prop_assert!(gauge.cells.len() <= WINDOW_CELLS_MAX);
            }
            let last_value = gauge.last().unwrap();
            prop_assert_eq!(last_value.0, TimeMs(newest));
        }
    }
}
