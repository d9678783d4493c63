//! Plays the Kubernetes HPA for one variant: looks at the published number at its sync period, follows it
//! up at once and down after a stabilisation window. Pure; times are virtual ms.
//!
//! As in Kubernetes: scale-up is limited by the default policies (double, or four more, per 15 s), and
//! scale-down goes to the highest recommendation within the window. Two things differ. The window is
//! [`DOWN_WINDOW_MS`] instead of 300 s, so that a ten-minute run shows both directions. The tolerance is 0
//! instead of 10 %, because the number is a count of replicas and a step of one must count.

use std::collections::VecDeque;

/// Time between two looks, ms: the HPA's default.
pub const SYNC_MS: i64 = 15_000;
/// Scale-down waits until every recommendation of this long was lower, ms. The HPA's default is 300 s.
pub const DOWN_WINDOW_MS: i64 = 60_000;
/// Replicas that one sync may always add: the HPA's default policy.
const UP_PODS: u32 = 4;

/// Memory of one HPA.
#[derive(Debug, Default)]
pub struct Scaler {
    recommendations: VecDeque<(i64, u32)>,
}

impl Scaler {
    /// Replicas to ask for at a sync: `wanted` is the published number, `current` what the target has.
    pub fn sync(&mut self, at_ms: i64, wanted: u32, current: u32) -> u32 {
        while self.recommendations.front().is_some_and(|(then, _)| at_ms - then >= DOWN_WINDOW_MS) {
            self.recommendations.pop_front();
        }
        // At the start nothing is known of the past: what there is counts as recommended.
        if self.recommendations.is_empty() {
            self.recommendations.push_back((at_ms, current));
        }
        self.recommendations.push_back((at_ms, wanted));
        if wanted >= current {
            let limit = current.saturating_mul(2).max(current.saturating_add(UP_PODS));
            return wanted.min(limit);
        }
        let highest = self.recommendations.iter().map(|&(_, count)| count).max().unwrap_or(wanted);
        highest.min(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_up_at_once_within_the_default_policies() {
        let mut scaler = Scaler::default();
        assert_eq!(scaler.sync(0, 2, 1), 2);
        assert_eq!(scaler.sync(SYNC_MS, 9, 2), 6);
        assert_eq!(scaler.sync(2 * SYNC_MS, 20, 6), 12);
    }

    #[test]
    fn it_follows_down_only_after_the_window_and_to_its_highest_value() {
        let mut scaler = Scaler::default();
        let mut current = 5;
        let wanted = [5, 3, 2, 4, 3, 3, 3, 3, 3];
        let counts: Vec<u32> = (0..)
            .map(|sync| sync * SYNC_MS)
            .zip(wanted)
            .map(|(at_ms, wanted)| {
                current = scaler.sync(at_ms, wanted, current);
                current
            })
            .collect();
        assert_eq!(counts, [5, 5, 5, 5, 4, 4, 4, 3, 3]);
    }
}
