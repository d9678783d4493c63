//! What measured times to first token say of the computed ones.
//!
//! Input: mean times that a replica showed over a span, beside those that [`super::capacity`] computes for the same
//! load. Output: a straight line from computed to measured: an engine adds a constant (its front end, its tokenizer)
//! and may queue more, or less, than one server would. The line starts as the identity and is a Bayesian linear
//! regression over sums that fade, like the fit of the iteration time.

/// Standard deviations of the constant, ms, and of the factor around 1, before anything is known.
const PRIOR: (f64, f64) = (50.0, 0.3);
/// Most that the constant can be, ms, and what the factor lies within. A mean that is shorter than computed says little
/// of the slowest requests, which come with bursts: it never makes a capacity larger.
const OFFSET_MAX_MS: f64 = 10_000.0;
const FACTOR_RANGE: (f64, f64) = (1.0, 3.0);
/// Factor by which old observations count less with each new one: a memory of some five hundred.
const FADE: f64 = 0.998;
/// Noise of a mean beside that of its sample, relative to it.
const NOISE: f64 = 0.1;
/// Prompts that an observation must rest on.
const PROMPTS_MIN: f64 = 3.0;
/// An observation further from the line than this factor counts as this far.
const GATE: f64 = 4.0;

/// The line from computed to measured times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TtftCorrection {
    /// What is added to every request, ms.
    pub offset_ms: f64,
    /// What a computed time is multiplied by.
    pub factor: f64,
}

impl TtftCorrection {
    /// Nothing to correct.
    pub const NONE: TtftCorrection = TtftCorrection { offset_ms: 0.0, factor: 1.0 };

    /// The time to expect where `computed_ms` was computed.
    pub fn apply(&self, computed_ms: f64) -> f64 {
        self.offset_ms + self.factor * computed_ms
    }
}

/// Sums over the observations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TtftFit {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl TtftFit {
    /// Takes in that `prompts` prompts took `measured_ms` on average where `computed_ms` was computed.
    pub fn observe(&mut self, computed_ms: f64, measured_ms: f64, prompts: f64) {
        let usable = |value: f64| value.is_finite() && value > 0.0;
        if prompts < PROMPTS_MIN || !usable(computed_ms) || !usable(measured_ms) {
            return;
        }
        let expected = self.correction().apply(computed_ms);
        let y = measured_ms.clamp(expected / GATE, expected * GATE);
        let deviation = expected.max(y) * (1.0 / prompts + NOISE * NOISE).sqrt();
        let weight = 1.0 / (deviation * deviation);
        let fade = |sum: &mut f64, value: f64| *sum = *sum * FADE + weight * value;
        fade(&mut self.weight, 1.0);
        fade(&mut self.x, computed_ms);
        fade(&mut self.y, y);
        fade(&mut self.xx, computed_ms * computed_ms);
        fade(&mut self.xy, computed_ms * y);
    }

    /// The line.
    pub fn correction(&self) -> TtftCorrection {
        let (offset, factor) = (1.0 / (PRIOR.0 * PRIOR.0), 1.0 / (PRIOR.1 * PRIOR.1));
        let (a, b, c) = (self.weight + offset, self.x, self.xx + factor);
        let (p, q) = (self.y, self.xy + factor);
        let determinant = a * c - b * b;
        if !(determinant.is_finite() && determinant > 0.0) {
            return TtftCorrection::NONE;
        }
        TtftCorrection {
            offset_ms: ((p * c - q * b) / determinant).clamp(0.0, OFFSET_MAX_MS),
            factor: ((a * q - b * p) / determinant).clamp(FACTOR_RANGE.0, FACTOR_RANGE.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taught(measured: impl Fn(f64) -> f64) -> TtftCorrection {
        let mut fit = TtftFit::default();
        for step in 0..500 {
            let computed = 100.0 + f64::from(step * 37 % 900);
            fit.observe(computed, measured(computed), 20.0);
        }
        fit.correction()
    }

    #[test]
    fn a_front_end_that_adds_a_constant_is_found() {
        let line = taught(|computed| 150.0 + computed);
        assert!((line.apply(2000.0) - 2150.0).abs() < 60.0, "{line:?}");
    }

    #[test]
    fn queues_that_are_longer_than_computed_are_found() {
        let line = taught(|computed| 1.6 * computed);
        assert!((line.apply(2000.0) - 3200.0).abs() < 200.0, "{line:?}");
    }

    #[test]
    fn what_is_as_computed_stays_and_one_odd_time_hardly_counts() {
        let mut fit = TtftFit::default();
        assert_eq!(fit.correction(), TtftCorrection::NONE);
        (0..200).for_each(|step| fit.observe(100.0 + f64::from(step), 100.0 + f64::from(step), 10.0));
        fit.observe(100.0, 60_000.0, 10.0);
        fit.observe(f64::NAN, f64::INFINITY, 10.0);
        assert!((fit.correction().apply(1000.0) - 1000.0).abs() < 30.0, "{:?}", fit.correction());
    }
}
