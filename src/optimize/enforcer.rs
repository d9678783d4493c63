//! Last word on a model's replicas: to zero when scale-to-zero is on and nothing was requested for the
//! retention period; otherwise never all at zero.
//!
//! Input: targets by variant (in name order), costs, the model's policy and the requests counted over
//! the retention period. Output: changed targets and what was done. It must not know where the count
//! comes from nor what time it is.

use crate::config::{DEFAULT_VARIANT_COST, ScaleToZero};

/// What the enforcer did to a model's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// Scale-to-zero is off and some variant keeps a replica: nothing to do.
    Kept,
    /// Requests came within the retention period: targets stay.
    KeptByRequests,
    /// Whether requests came is not known: targets stay.
    KeptByUnknownRequests,
    /// No request within the retention period: every target is now zero. `changed` is false when they
    /// all were before.
    ScaledToZero {
        /// Whether any target was above zero.
        changed: bool,
    },
    /// All targets were zero although scale-to-zero is off: the cheapest variant got one replica.
    MinimumRestored {
        /// Index of that variant.
        variant: usize,
    },
}

impl Enforced {
    /// Whether the reference controller would report its policy as applied; true also when targets
    /// were at zero before.
    pub fn applied(self) -> bool {
        matches!(self, Enforced::ScaledToZero { .. } | Enforced::MinimumRestored { .. })
    }

    /// Whether a target differs from before.
    pub fn changed(self) -> bool {
        matches!(self, Enforced::ScaledToZero { changed: true } | Enforced::MinimumRestored { .. })
    }
}

/// Applies the scale-to-zero policy to `targets`, one per variant in name order.
///
/// `requests` is the number of requests within `policy.retention_ms`, >= 0; it may be a fraction, as
/// rates extrapolate. `cost(i)` is the cost of one replica of variant `i`; `None` and NaN count as the
/// default cost. Ties go to the first variant. An empty `targets` stays empty.
///
/// Deviation from the reference: it scales to zero whenever "count > 0" is false, which is so for a NaN
/// or negative count. Here `None`, NaN and negative counts are unknown, and unknown is not zero.
pub fn enforce(
    targets: &mut [u32],
    cost: impl Fn(usize) -> Option<f64>,
    policy: &ScaleToZero,
    requests: Option<f64>,
) -> Enforced {
    let all_zero = targets.iter().all(|&t| t == 0);
    if policy.enabled {
        return match requests.filter(|&n| n >= 0.0) {
            None => Enforced::KeptByUnknownRequests,
            Some(n) if n > 0.0 => Enforced::KeptByRequests,
            Some(_) => {
                targets.fill(0);
                Enforced::ScaledToZero { changed: !all_zero }
            }
        };
    }
    if !all_zero {
        return Enforced::Kept;
    }
    let known = |i: usize| cost(i).filter(|c| !c.is_nan()).unwrap_or(DEFAULT_VARIANT_COST) + 0.0;
    match (0..targets.len()).min_by(|&a, &b| known(a).total_cmp(&known(b))) {
        Some(variant) => {
            targets[variant] = 1;
            Enforced::MinimumRestored { variant }
        }
        None => Enforced::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: ScaleToZero = ScaleToZero { enabled: true, retention_ms: 600_000 };
    const OFF: ScaleToZero = ScaleToZero { enabled: false, retention_ms: 600_000 };

    fn check(before: &[u32], policy: ScaleToZero, requests: Option<f64>, after: &[u32], what: Enforced) {
        let costs = [Some(40.0), None, Some(10.0), Some(f64::NAN)];
        let mut targets = before.to_vec();
        let done = enforce(&mut targets, |i| costs[i], &policy, requests);
        assert_eq!((targets.as_slice(), done), (after, what));
        // What is enforced needs no second enforcement.
        let again = enforce(&mut targets, |i| costs[i], &policy, requests);
        assert_eq!(targets, after);
        assert!(!again.changed());
    }

    #[test]
    fn idle_model_goes_to_zero_only_when_the_count_is_known_to_be_zero() {
        check(&[2, 1], ON, Some(0.0), &[0, 0], Enforced::ScaledToZero { changed: true });
        check(&[0, 0], ON, Some(-0.0), &[0, 0], Enforced::ScaledToZero { changed: false });
        check(&[2, 1], ON, Some(0.001), &[2, 1], Enforced::KeptByRequests);
        for unknown in [None, Some(f64::NAN), Some(-1.0), Some(f64::NEG_INFINITY)] {
            check(&[2, 1], ON, unknown, &[2, 1], Enforced::KeptByUnknownRequests);
        }
        check(&[2], ON, Some(f64::INFINITY), &[2], Enforced::KeptByRequests);
    }

    #[test]
    fn last_replica_goes_to_the_cheapest_variant() {
        check(&[0, 0, 0, 0], OFF, None, &[0, 1, 0, 0], Enforced::MinimumRestored { variant: 1 });
        check(&[0], OFF, Some(0.0), &[1], Enforced::MinimumRestored { variant: 0 });
        check(&[0, 0, 1, 0], OFF, Some(0.0), &[0, 0, 1, 0], Enforced::Kept);
        check(&[], OFF, None, &[], Enforced::Kept);
    }
}
