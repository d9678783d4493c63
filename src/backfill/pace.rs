//! How far back there is time to go: where all of the past would take too long, the middle of it is left out.

use crate::limits::{BACKFILL_RECENT_MS, BACKFILL_SAMPLES_MAX, BACKFILL_SLICE_MIN_MS};
use std::time::Duration;

/// Share of the longest wait that may be planned for; the rest is for what takes longer than expected.
const PLANNED: f64 = 0.5;

/// Share of all that is left of the wait in which the newest part must be read, whatever was planned.
const REACHABLE: f64 = 0.8;

/// Time and samples that the past has cost so far.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time left that may be planned for, s.
    left_s: f64,
    /// Time beside it, for what takes longer than expected, s.
    reserve_s: f64,
    /// Time and samples of a ms of the past, by the newest slices.
    per_ms: Option<(f64, f64)>,
    samples: f64,
}

impl Pace {
    /// For a start that waits this long.
    pub fn new(wait: Duration) -> Self {
        let wait_s = wait.as_secs_f64();
        Pace { left_s: wait_s * PLANNED, reserve_s: wait_s * (1.0 - PLANNED), per_ms: None, samples: 0.0 }
    }

    /// Time has passed without anything being read.
    pub fn wait(&mut self, took: Duration) {
        self.left_s -= took.as_secs_f64();
    }

    /// Notes what a slice has cost.
    pub fn note(&mut self, slice_ms: i64, samples: u64, took: Duration) {
        self.wait(took);
        self.samples += samples as f64;
        let span = slice_ms.max(1) as f64;
        let new = (took.as_secs_f64() / span, samples as f64 / span);
        let old = self.per_ms.unwrap_or(new);
        self.per_ms = Some(((old.0 + new.0) / 2.0, (old.1 + new.1) / 2.0));
    }

    /// How much of the `rest_ms` that are left until the present there is time for, ms.
    pub fn affordable_ms(&self, rest_ms: i64) -> i64 {
        let Some((time_s, samples)) = self.per_ms else { return rest_ms };
        // Half a request's worth of samples stays free for slices that hold more than those before.
        let left = BACKFILL_SAMPLES_MAX as f64 * PLANNED - self.samples;
        let planned_ms = (self.left_s / time_s.max(1e-12)).min(left / samples.max(1e-12)).max(0.0);
        // The newest is worth all of the wait; cut off on the way to it, the windows would end in the past.
        let reachable_ms = (self.left_s + self.reserve_s) * REACHABLE / time_s.max(1e-12);
        let recent_ms = (reachable_ms as i64).clamp(BACKFILL_SLICE_MIN_MS, BACKFILL_RECENT_MS);
        rest_ms.min((planned_ms as i64).max(recent_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn all_of_it_where_there_is_time() {
        let mut pace = Pace::new(Duration::from_secs(30));
        assert_eq!(pace.affordable_ms(120 * MINUTE_MS), 120 * MINUTE_MS);
        pace.note(MINUTE_MS, 1000, Duration::from_millis(20));
        assert_eq!(pace.affordable_ms(119 * MINUTE_MS), 119 * MINUTE_MS);
    }

    #[test]
    fn the_newest_part_where_time_is_short() {
        let mut pace = Pace::new(Duration::from_secs(30));
        pace.note(MINUTE_MS, 1000, Duration::from_millis(500));
        let affordable = pace.affordable_ms(119 * MINUTE_MS);
        assert!((28 * MINUTE_MS..=30 * MINUTE_MS).contains(&affordable), "{affordable}");
        pace.wait(Duration::from_secs(12));
        assert_eq!(
            pace.affordable_ms(118 * MINUTE_MS),
            BACKFILL_RECENT_MS,
            "the last quarter of an hour takes 8 s"
        );
        pace.wait(Duration::from_secs(12));
        let affordable = pace.affordable_ms(118 * MINUTE_MS);
        assert!(affordable < 10 * MINUTE_MS, "cut off, the windows would end in the past: {affordable}");
        assert_eq!(pace.affordable_ms(MINUTE_MS), MINUTE_MS);
    }

    #[test]
    fn the_newest_part_where_there_are_too_many_samples() {
        let mut pace = Pace::new(Duration::from_secs(30));
        pace.note(MINUTE_MS, 1_000_000, Duration::from_millis(1));
        assert_eq!(pace.affordable_ms(119 * MINUTE_MS), 24 * MINUTE_MS);
    }
}
