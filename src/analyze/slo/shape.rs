//! The average request of a model, followed as it changes, with the spread of its lengths.

use super::capacity::Shape;
use crate::units::TimeMs;

/// Time constants, ms: when requests get longer, which is a rise of the load like any other, and when they get
/// shorter.
const FOLLOW_MS: (f64, f64) = (45_000.0, 300_000.0);
/// Largest share of a prompt that is taken to come from the prefix cache.
const HIT_MAX: f64 = 0.95;

/// What is remembered of the requests of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    shape: Option<Shape>,
    at: Option<TimeMs>,
    /// Spread of the prompts' lengths.
    pub prompts: Spread,
    /// Spread of the generated lengths.
    pub outputs: Spread,
}

impl Requests {
    /// The average request, once known.
    pub fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// Follows the average of the window: prompt and generated tokens, with the prompt and cached tokens counted so
    /// far. Nothing changes until time has passed.
    pub fn follow(&mut self, at: TimeMs, (prompt, output): (f64, f64), (prompts, cached): (f64, f64)) {
        let passed_ms = self.at.map_or(f64::INFINITY, |before| at.since(before) as f64);
        if passed_ms <= 0.0 {
            return;
        }
        self.at = Some(at);
        let hit = if prompts > 0.0 { (cached / prompts).clamp(0.0, HIT_MAX) } else { 0.0 };
        let computed = prompt * (1.0 - hit);
        let old = self.shape.unwrap_or(Shape { computed, prompt, output, prompt_cv2: 0.0, output_cv2: 0.0 });
        let blend = |old: f64, now: f64| {
            let constant_ms = if now > old { FOLLOW_MS.0 } else { FOLLOW_MS.1 };
            old + (now - old) * (1.0 - (-passed_ms / constant_ms).exp())
        };
        self.shape = Some(Shape {
            computed: blend(old.computed, computed),
            prompt: blend(old.prompt, prompt),
            output: blend(old.output, output),
            prompt_cv2: self.prompts.cv2(),
            output_cv2: self.outputs.cv2(),
        });
    }
}

/// Spread of a length, from sums over intervals: means of `k` and `n` lengths differ by about
/// `sqrt(1/k + 1/n)` standard deviations, however the mean drifts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Lengths in the interval before, and their mean.
    last: (f64, f64),
    /// Weight of the intervals, and their squared coefficient of variation.
    weight: f64,
    cv2: f64,
}

impl Spread {
    /// Factor by which old intervals count less with each new one.
    const FADE: f64 = 0.995;
    /// Intervals that must have been seen.
    const WEIGHT_MIN: f64 = 10.0;
    /// Most that one interval may show, as a multiple of what is known.
    const GATE: f64 = 8.0;
    /// Squared coefficient of variation of common loads.
    const COMMON: f64 = 1.5;
    /// What is plausible.
    const RANGE: (f64, f64) = (0.1, 20.0);

    /// Takes in `count` lengths that sum to `sum`.
    pub fn note(&mut self, count: f64, sum: f64) {
        if !(count >= 1.0 && sum > 0.0 && sum.is_finite()) {
            return;
        }
        let (before, mean) = (self.last, sum / count);
        self.last = (count, mean);
        if before.0 <= 0.0 {
            return;
        }
        let middle = (before.0 * before.1 + sum) / (before.0 + count);
        let difference = (mean - before.1) / middle;
        let shown = difference * difference / (1.0 / count + 1.0 / before.0);
        self.weight = self.weight * Self::FADE + 1.0;
        self.cv2 += (shown.min(Self::GATE * self.cv2()) - self.cv2) / self.weight;
    }

    /// Squared coefficient of variation, within what is plausible; a common one while too little is known.
    pub fn cv2(&self) -> f64 {
        if self.weight < Self::WEIGHT_MIN {
            return Self::COMMON;
        }
        self.cv2.clamp(Self::RANGE.0, Self::RANGE.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Spread as found from sums of exponential lengths (whose squared coefficient of variation is 1).
    fn found(mean: impl Fn(u32) -> f64) -> f64 {
        let mut random = StdRng::seed_from_u64(7);
        let mut spread = Spread::default();
        for interval in 0..2000 {
            let count = random.random_range(1..30);
            let length = |_| -mean(interval) * (1.0 - random.random::<f64>()).ln();
            spread.note(f64::from(count), (0..count).map(length).sum());
        }
        spread.cv2()
    }

    #[test]
    fn the_spread_is_found_whether_the_mean_stays_or_drifts() {
        assert!((found(|_| 300.0) - 1.0).abs() < 0.25, "{}", found(|_| 300.0));
        let drifting = found(|interval| 300.0 + f64::from(interval));
        assert!((drifting - 1.0).abs() < 0.25, "{drifting}");
        let jumping = found(|interval| if interval < 1990 { 300.0 } else { 1200.0 });
        assert!(jumping < 1.5, "a jump of the mean is not a spread: {jumping}");
    }

    #[test]
    fn longer_requests_are_followed_faster_than_shorter_ones() {
        let followed = |from: f64, to: f64| {
            let mut requests = Requests::default();
            requests.follow(TimeMs(0), (from, 100.0), (0.0, 0.0));
            requests.follow(TimeMs(60_000), (to, 100.0), (0.0, 0.0));
            requests.shape().unwrap().prompt
        };
        assert!(followed(100.0, 200.0) > 170.0);
        assert!(followed(200.0, 100.0) > 170.0);
    }
}
