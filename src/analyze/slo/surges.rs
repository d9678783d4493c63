//! Surges: what is missed of the load of one start-up time when it is served at so many times its level.
//!
//! Input: the level at a moment, and later the arrivals that followed. Output: the headroom over a level at
//! which one more replica's worth of service costs as much as the misses that it prevents (the newsvendor's
//! rule). A load that is at its peak falls rather than rises, and one that is low may double: so moments of a
//! like level count most. Bounded: about two hours.

use std::collections::VecDeque;

use super::arrivals::{Arrivals, BIN_MS, LONG_BINS};

/// Bins between two moments: 15 s.
const STEP: i64 = 3;
/// Moments kept: somewhat over two hours.
const SEEN_MAX: usize = 512;
/// Moments that must have been seen.
const SEEN_MIN: usize = 12;
/// Requests of a minute below which what follows says nothing.
const REQUESTS_MIN: f64 = 10.0;
/// Levels that count as alike: the standard deviation of their logarithm.
const ALIKE: f64 = 0.25;
/// Least weight of a moment, however different its level.
const WEIGHT_FLOOR: f64 = 0.02;
/// Factors of service over the level that are looked at: 1 to about 4.2.
const FACTORS: usize = 16;
/// From one of them to the next.
const FACTOR_STEP: f64 = 1.1;
/// Steps of the rise of the engine time per request that are told apart, each by [`RISE_STEP`].
const RISES: usize = 16;
/// From one rise to the next.
const RISE_STEP: f64 = 1.05;
/// Share of the rises to be ready for.
const RISE_SHARE: f64 = 0.9;
/// Factor by which an old rise counts less with each new one: a memory of some two hours.
const RISE_FADE: f32 = 0.998;
/// Longest lag that is taken into account, s.
const LAG_MAX_S: f64 = 120.0;

/// A moment whose future is known.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    level_ln: f32,
    /// Square roots of the shares that would have been missed, in 255ths, per factor: small shares keep their digits.
    missed: [u8; FACTORS],
}

/// The surges of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surges {
    seen: VecDeque<Seen>,
    /// Moments whose future has not passed: bin and level.
    pending: VecDeque<(i64, f64)>,
    last: Option<i64>,
    /// Engine time per request at the moments before: bin and ms.
    works: VecDeque<(i64, f64)>,
    /// How often it rose by which step within a start-up time.
    rises: [f32; RISES],
}

impl Surges {
    /// Takes in that `arrivals` are now at `level_per_s`. True when a step has passed.
    pub fn note(&mut self, arrivals: &Arrivals, level_per_s: f64, horizon_ms: i64, patience_s: f64) -> bool {
        let now = arrivals.newest_full();
        if self.last.is_some_and(|last| now < last + STEP) {
            return false;
        }
        self.last = Some(now);
        let horizon = (horizon_ms / BIN_MS).max(1);
        while let Some((bin, level)) = self.pending.front().copied()
            && bin + horizon <= now
        {
            self.pending.pop_front();
            if level * (LONG_BINS as i64 * BIN_MS) as f64 / 1000.0 < REQUESTS_MIN {
                continue;
            }
            let bins = arrivals.since((now - bin) as usize, horizon as usize);
            let missed = std::array::from_fn(|index| {
                (missed_share(bins.clone(), level * factor(index), patience_s).sqrt() * 255.0).round() as u8
            });
            if self.seen.len() == SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back(Seen { level_ln: level.ln() as f32, missed });
        }
        self.pending.push_back((now, level_per_s));
        true
    }

    /// Takes in the engine time that a request asks for: requests that get longer are a surge like any other. It is
    /// known from those that completed, so it lags by the time they spent in the engine.
    pub fn note_work(&mut self, work_ms: f64, horizon_ms: i64, residence_s: f64) {
        let Some(now) = self.last else { return };
        let lag = (horizon_ms + (residence_s.clamp(0.0, LAG_MAX_S) * 1000.0) as i64) / BIN_MS;
        while let Some((bin, before)) = self.works.front().copied()
            && bin + lag <= now
        {
            self.works.pop_front();
            let step = (work_ms / before).max(1.0).ln() / RISE_STEP.ln();
            self.rises.iter_mut().for_each(|count| *count *= RISE_FADE);
            self.rises[(step.round() as usize).min(RISES - 1)] += 1.0;
        }
        if work_ms > 0.0 && work_ms.is_finite() {
            self.works.push_back((now, work_ms));
        }
    }

    /// The rise of the engine time per request, as a factor of at least 1, that most moments did not exceed.
    pub fn work_rise(&self) -> f64 {
        let total: f32 = self.rises.iter().sum();
        if total < SEEN_MIN as f32 {
            return 1.0;
        }
        let mut below = 0.0;
        let mut exceeded = |count: &f32| {
            below += count;
            f64::from(below) < RISE_SHARE * f64::from(total)
        };
        RISE_STEP.powi(self.rises.iter().take_while(|count| exceeded(count)).count() as i32)
    }

    /// The factor over a level that costs least, when a missed request costs `miss_cost` times what serving one
    /// does. `None` while too little is known.
    pub fn headroom(&self, level_per_s: f64, miss_cost: f64) -> Option<f64> {
        if level_per_s <= 0.0 || self.seen.len() < SEEN_MIN {
            return None;
        }
        let level_ln = level_per_s.ln();
        let (mut total, mut missed) = (0.0, [0.0; FACTORS]);
        for seen in &self.seen {
            let distance = (f64::from(seen.level_ln) - level_ln) / ALIKE;
            let weight = (-distance * distance / 2.0).exp().max(WEIGHT_FLOOR);
            total += weight;
            for (sum, root) in missed.iter_mut().zip(seen.missed) {
                *sum += weight * (f64::from(root) / 255.0).powi(2);
            }
        }
        let cost = |index: &usize| factor(*index) + miss_cost * missed[*index] / total;
        (0..FACTORS).min_by(|a, b| cost(a).total_cmp(&cost(b))).map(factor)
    }
}

fn factor(index: usize) -> f64 {
    FACTOR_STEP.powi(index as i32)
}

/// Share of the arrivals in `bins` that would wait longer than `patience_s`, if a queue were served at `rate_per_s`.
fn missed_share(bins: impl Iterator<Item = f64>, rate_per_s: f64, patience_s: f64) -> f64 {
    let served = rate_per_s * BIN_MS as f64 / 1000.0;
    let (mut queue, mut missed, mut sum) = (0.0_f64, 0.0, 0.0);
    for bin in bins {
        queue = (queue + bin - served).max(0.0);
        sum += bin;
        if queue > patience_s * rate_per_s {
            missed += bin;
        }
    }
    if sum > 0.0 { missed / sum } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TimeMs;

    const HORIZON_MS: i64 = 60_000;

    /// An hour of a load, noted every second.
    fn watched(rate_per_s: impl Fn(i64) -> f64) -> Surges {
        let (mut arrivals, mut surges) = (Arrivals::default(), Surges::default());
        for second in 0..3600 {
            arrivals.add(TimeMs(second * 1000), TimeMs((second + 1) * 1000), rate_per_s(second));
            if second > 60 {
                surges.note(&arrivals, arrivals.arriving_per_s(0, 1.0), HORIZON_MS, 1.0);
            }
        }
        surges
    }

    #[test]
    fn a_steady_load_needs_no_headroom() {
        assert_eq!(watched(|_| 5.0).headroom(5.0, 60.0), Some(1.0));
    }

    #[test]
    fn a_load_that_jumps_needs_headroom_where_it_jumps_from_and_little_at_its_peak() {
        let surges = watched(|second| if second % 300 < 200 { 5.0 } else { 15.0 });
        let (low, high) = (surges.headroom(5.0, 60.0).unwrap(), surges.headroom(15.0, 60.0).unwrap());
        assert!(low > 2.0, "{low}");
        assert!(high < 1.6, "{high}");
        assert!(surges.headroom(5.0, 1.0).unwrap() < low, "cheap misses are not worth it");
    }

    #[test]
    fn too_little_seen_is_nothing_known() {
        assert_eq!(Surges::default().headroom(5.0, 60.0), None);
        assert_eq!(watched(|_| 0.01).headroom(0.01, 60.0), None);
        assert_eq!(Surges::default().work_rise(), 1.0);
    }

    #[test]
    fn requests_that_get_longer_are_a_rise() {
        let mut surges = watched(|_| 5.0);
        for step in 0..100 {
            surges.last = surges.last.map(|last| last + STEP);
            surges.note_work(100.0 * 1.02_f64.powi(step), HORIZON_MS, 0.0);
        }
        let rise = surges.work_rise();
        assert!((rise - 1.02_f64.powi(4)).abs() < 0.04, "four steps of two percent: {rise}");
    }
}
