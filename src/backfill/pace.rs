//! How far back there is time to go: where all of the past would take too long, the middle of it is left out.

use crate::limits::{BACKFILL_RECENT_MS, BACKFILL_SAMPLES_MAX};
use std::time::Duration;

/// Share of the longest wait that may be planned for; the rest is for what takes longer than expected.
const PLANNED: f64 = 0.5;

/// Time and samples that the past has cost so far.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time left that may be planned for, s.
    left_s: f64,
    /// Time and samples of a ms of the past, by the newest slices.
    per_ms: Option<(f64, f64)>,
    samples: f64,
}

impl Pace {
    /// For a start that waits this long.
    pub fn new(wait: Duration) -> Self {
        Pace { left_s: wait.as_secs_f64() * PLANNED, per_ms: None, samples: 0.0 }
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
        let most = (self.left_s / time_s.max(1e-12)).min(left / samples.max(1e-12)).max(0.0);
        rest_ms.min((most as i64).max(BACKFILL_RECENT_MS))
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
    fn the_newest_part_where_time_is_short_and_always_the_last_quarter_of_an_hour() {
        let mut pace = Pace::new(Duration::from_secs(30));
        pace.note(MINUTE_MS, 1000, Duration::from_millis(500));
        let affordable = pace.affordable_ms(119 * MINUTE_MS);
        assert!((28 * MINUTE_MS..=30 * MINUTE_MS).contains(&affordable), "{affordable}");
        pace.note(MINUTE_MS, 1000, Duration::from_secs(20));
        assert_eq!(pace.affordable_ms(118 * MINUTE_MS), BACKFILL_RECENT_MS);
        assert_eq!(pace.affordable_ms(5 * MINUTE_MS), 5 * MINUTE_MS);
    }

    #[test]
    fn the_newest_part_where_there_are_too_many_samples() {
        let mut pace = Pace::new(Duration::from_secs(30));
        pace.note(MINUTE_MS, 1_000_000, Duration::from_millis(1));
        assert_eq!(pace.affordable_ms(119 * MINUTE_MS), 24 * MINUTE_MS);
    }
}
