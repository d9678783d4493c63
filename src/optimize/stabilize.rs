//! Stabilisation windows: a count follows the plan at once in one direction and only after a window in
//! the other, as the HPA's `stabilizationWindowSeconds` does.

use crate::units::TimeMs;
use std::collections::VecDeque;

/// Windows per direction, ms; 0 follows at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// A higher count is followed when every plan of this long asked for it.
    pub up_ms: i64,
    /// A lower count is followed when no plan of this long asked for more.
    pub down_ms: i64,
}

/// Most plans remembered; of a plan that changes more often than that within a window the oldest are coarsened.
const PLANS_MAX: usize = 64;

/// Counts planned from some time on, until the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    since: TimeMs,
    least: u32,
    most: u32,
}

/// Plans of the recent past, one entry per change. What it answers follows from the changes and their times, not
/// from how often it was asked in between.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stabilizer {
    /// Oldest first. Only the oldest may stand for more than one count.
    plans: VecDeque<Plan>,
    /// How far back they were kept, ms.
    kept_ms: i64,
}

impl Stabilizer {
    /// The clock was set back: nobody knows which plans held in the window that ends now.
    pub fn forget(&mut self) {
        self.plans.clear();
    }

    /// Takes in the plan of `now` and returns the count to ask for, given what was asked for before, and
    /// the time at which that may change without a new plan. A past that is not known did not agree.
    pub fn settle(
        &mut self,
        now: TimeMs,
        planned: u32,
        asked: Option<u32>,
        windows: Windows,
    ) -> (u32, TimeMs) {
        if windows == Windows::default() {
            self.plans.clear();
            return (planned, TimeMs::MAX);
        }
        self.remember(now, planned, windows.up_ms.max(windows.down_ms));
        let Some(asked) = asked.filter(|asked| *asked != planned) else { return (planned, TimeMs::MAX) };
        let window_ms = if planned > asked { windows.up_ms } else { windows.down_ms };
        let start = now - window_ms;
        // The plan that held when the window began counts as well.
        let Some(first) = self.plans.iter().rposition(|plan| plan.since <= start) else {
            let known_from = self.plans.front().map_or(now, |plan| plan.since);
            return (asked, known_from + window_ms);
        };
        let within = self.plans.iter().skip(first);
        let settled = match planned > asked {
            true => within.map(|plan| plan.least).min().unwrap_or(planned).max(asked),
            false => within.map(|plan| plan.most).max().unwrap_or(planned).min(asked),
        };
        let changes_at = self.plans.get(first + 1).map_or(TimeMs::MAX, |plan| plan.since + window_ms);
        (settled, if settled == planned { TimeMs::MAX } else { changes_at })
    }

    fn remember(&mut self, now: TimeMs, planned: u32, longest_ms: i64) {
        // A longer window from now on does not bring back what the shorter one has let go.
        self.let_go(now - self.kept_ms);
        self.kept_ms = longest_ms;
        self.let_go(now - longest_ms);
        // Of several plans at one moment the last counts.
        while self.plans.back().is_some_and(|last| last.since >= now) {
            self.plans.pop_back();
        }
        if self.plans.back().is_some_and(|last| (last.least, last.most) == (planned, planned)) {
            return;
        }
        if self.plans.len() >= PLANS_MAX
            && let Some(oldest) = self.plans.pop_front()
            && let Some(next) = self.plans.front_mut()
        {
            let (least, most) = (next.least.min(oldest.least), next.most.max(oldest.most));
            *next = Plan { since: oldest.since, least, most };
        }
        self.plans.push_back(Plan { since: now, least: planned, most: planned });
    }

    /// Forgets the plans that did not hold any more at `start`.
    fn let_go(&mut self, start: TimeMs) {
        while self.plans.get(1).is_some_and(|next| next.since <= start) {
            self.plans.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { up_ms: 0, down_ms: 60_000 };

    #[test]
    fn up_at_once_and_down_after_the_window() {
        let mut stabilizer = Stabilizer::default();
        let mut asked = None;
        let mut step = |time: i64, planned: u32| {
            let (count, changes_at) = stabilizer.settle(TimeMs(time), planned, asked, WINDOWS);
            asked = Some(count);
            (count, changes_at)
        };
        assert_eq!(step(0, 3).0, 3);
        assert_eq!(step(10_000, 5).0, 5);
        // The past is known from 0 s on: the window is full at 60 s, and the plan of 5 leaves it at 80 s.
        assert_eq!(step(20_000, 2), (5, TimeMs(60_000)));
        assert_eq!(step(60_000, 2), (5, TimeMs(70_000)));
        assert_eq!(step(79_999, 2), (5, TimeMs(80_000)));
        assert_eq!(step(80_000, 2).0, 2);
    }

    #[test]
    fn a_short_dip_changes_nothing_and_a_partial_one_settles_on_its_maximum() {
        let mut stabilizer = Stabilizer::default();
        for (time, planned, expected) in
            [(0, 4, 4), (10_000, 1, 4), (20_000, 4, 4), (30_000, 2, 4), (70_000, 3, 4), (95_000, 2, 3)]
        {
            let (count, _) = stabilizer.settle(TimeMs(time), planned, Some(4), WINDOWS);
            assert_eq!(count, expected, "at {time}");
        }
    }

    #[test]
    fn without_windows_every_plan_is_followed_and_nothing_is_remembered() {
        let mut stabilizer = Stabilizer::default();
        for planned in [4, 1, 7] {
            assert_eq!(stabilizer.settle(TimeMs(0), planned, Some(4), Windows::default()).0, planned);
        }
        assert_eq!(stabilizer, Stabilizer::default());
    }

    #[test]
    fn an_upward_window_waits_for_a_lasting_demand() {
        let windows = Windows { up_ms: 30_000, down_ms: 0 };
        let mut stabilizer = Stabilizer::default();
        assert_eq!(stabilizer.settle(TimeMs(0), 2, Some(2), windows).0, 2);
        assert_eq!(stabilizer.settle(TimeMs(1_000), 5, Some(2), windows).0, 2);
        assert_eq!(stabilizer.settle(TimeMs(31_000), 5, Some(2), windows).0, 5);
    }

    #[test]
    fn asking_again_at_the_same_time_changes_nothing() {
        let mut stabilizer = Stabilizer::default();
        stabilizer.settle(TimeMs(0), 4, None, WINDOWS);
        let once = stabilizer.settle(TimeMs(5_000), 2, Some(4), WINDOWS);
        let before = stabilizer.clone();
        assert_eq!(stabilizer.settle(TimeMs(5_000), 2, Some(4), WINDOWS), once);
        assert_eq!(stabilizer, before);
    }

    #[test]
    fn asking_in_between_changes_nothing() {
        let longer = Windows { up_ms: 120_000, down_ms: 300_000 };
        let (mut often, mut seldom) = (Stabilizer::default(), Stabilizer::default());
        // More changes than are remembered, then a longer window.
        let changes = (0..3 * PLANS_MAX as i64).map(|n| (n * 700, (n * 7 % 5) as u32, WINDOWS));
        for (at, planned, windows) in changes.chain([(200_000, 2, WINDOWS), (350_000, 1, longer)]) {
            let answer = seldom.settle(TimeMs(at), planned, Some(3), windows);
            assert_eq!(often.settle(TimeMs(at), planned, Some(3), windows), answer, "at {at}");
            for later in (at..).step_by(97).take(7) {
                often.settle(TimeMs(later), planned, Some(3), windows);
            }
            assert!(often.plans.len() <= PLANS_MAX);
        }
    }

    #[test]
    fn after_the_clock_was_set_back_the_window_begins_anew() {
        let mut stabilizer = Stabilizer::default();
        stabilizer.settle(TimeMs(0), 1, Some(1), WINDOWS);
        stabilizer.settle(TimeMs(3_000_000), 2, Some(1), WINDOWS);
        stabilizer.forget();
        assert_eq!(stabilizer.settle(TimeMs(1_000_000), 1, Some(2), WINDOWS), (2, TimeMs(1_060_000)));
    }
}
