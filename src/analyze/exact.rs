//! Sums that do not depend on the order of their terms, so that a decision cannot flip because pods are
//! listed differently.

/// 2^60: steps per unit. Far below the last bit of any reading that matters, and with 67 bits above the
/// point for the sum.
const STEPS: f64 = (1u64 << 60) as f64;

/// A sum of terms >= 0 in steps of 2^-60. Saturates at 2^67; NaN adds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExactSum(i128);

impl ExactSum {
    pub(crate) fn add(&mut self, term: f64) {
        self.0 = self.0.saturating_add((term * STEPS) as i128);
    }

    pub(crate) fn merge(&mut self, other: ExactSum) {
        self.0 = self.0.saturating_add(other.0);
    }

    /// The sum over `n`; 0 when `n` is 0.
    pub(crate) fn mean(self, n: u32) -> f64 {
        if n == 0 { 0.0 } else { self.0 as f64 / STEPS / f64::from(n) }
    }
}
