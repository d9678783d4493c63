//! Sizing: the largest rate of one replica that meets its targets, by bracketed Newton steps in the
//! logarithm of the rate. Every evaluation of the chain serves all targets. Knows nothing of replicas or
//! cost.
//!
//! Each step solves a straightened form of the target, so that a few steps suffice:
//!
//! - A service time `a + b e` at effective concurrency `e` belongs, without a batch limit, exactly to the
//!   rate `(e - 1)/(a + b e)`: the weights are then those of a negative binomial distribution with mean
//!   `L (a + b)/(1 - L b)`. Decode steps and prefill times are compared as such rates.
//! - Waits grow exponentially with the rate and are compared by their logarithm.

use super::chain::Moments;
use super::{Metrics, Queue, QueueError};
use crate::config::SloTargets;

/// Share of the service limit used when a throughput target is set: a stability margin of 0.1, which is a
/// single-precision value, as published.
const TPS_SHARE: f64 = 1.0 - 0.1_f32 as f64;
/// A step of this size in `ln L` is the last one: the next would be about its square.
const LAST_STEP: f64 = 1e-7;
/// Steps after which the interval is halved whenever a step fails to do better.
const PATIENCE: u32 = 8;
/// Bound on evaluations; halving alone needs about 70.
const MAX_EVALUATIONS: u32 = 120;

/// A latency or throughput target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Time to first token; in generation A the mean wait.
    Ttft,
    /// Inter-token latency.
    Itl,
    /// Throughput in tokens/s.
    Tps,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Target::Ttft => "ttft",
            Target::Itl => "itl",
            Target::Tps => "tps",
        })
    }
}

/// What keeps one replica from taking more load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binding {
    /// A target.
    Target(Target),
    /// The service limit of the replica; all targets hold there.
    ServiceLimit,
}

/// A target that one replica misses even at the lightest load.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("unreachable: {target} target {wanted_ms} ms, the best possible is {best_ms} ms")]
pub struct Unreachable {
    /// Which target.
    pub target: Target,
    /// Its value, ms.
    pub wanted_ms: f64,
    /// The metric at the lower end of the rate range, ms.
    pub best_ms: f64,
}

/// Why there is no rate.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SizeError {
    /// The input is nonsensical.
    #[error(transparent)]
    Input(#[from] QueueError),
    /// A target cannot be met.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// The largest rate within the targets and the state there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizing {
    /// Largest arrival rate of one replica that meets all targets, requests/ms.
    pub rate_per_ms: f64,
    /// What binds at that rate.
    pub binding: Binding,
    /// State at that rate: the achieved latencies.
    pub metrics: Metrics,
    /// Evaluations of the chain that were needed.
    pub evaluations: u32,
    /// The rate over the estimate that the search would start from: what a similar sizing learns from
    /// this one. 1 when no target binds.
    pub(super) correction: f64,
    /// The question, so that it is not answered twice.
    asked: (Queue, SloTargets),
}

/// The largest rate for each target on its own, requests/ms; the service limit when it does not bind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// For the time to first token (generation A: wait).
    pub ttft_per_ms: f64,
    /// For the inter-token latency.
    pub itl_per_ms: f64,
    /// For throughput: 0.9 of the service limit when a throughput target is set.
    pub tps_per_ms: f64,
}

/// A value to stay below, with what is needed to straighten it.
#[derive(Clone, Copy)]
struct Goal {
    target: Target,
    limit_ms: f64,
    /// Base and slope of the part that grows with the effective concurrency, ms.
    line: (f64, f64),
}

impl Goal {
    /// Whether the limit is below the value of a lone request, without any wait.
    fn below_idle(&self) -> bool {
        self.limit_ms < self.line.0 + self.line.1
    }
}

/// How one goal stands at one rate.
struct Standing {
    value_ms: f64,
    missed: bool,
    /// Newton step in `ln L` towards the rate where the goal is just met; infinite when unknown.
    step: f64,
}

/// How all goals stand at one rate.
struct Standings<'a> {
    /// The first missed goal and its value, ms.
    missed: Option<(&'a Goal, f64)>,
    /// Step in `ln L` to the nearest limit.
    step: f64,
    /// The target of that limit.
    binding: Option<Target>,
}

impl Queue {
    /// The largest rate within [`Queue::min_rate_per_ms`] and [`Queue::max_rate_per_ms`] at which all
    /// targets hold; a target of 0 is ignored. A throughput target caps the rate at 0.9 of the service
    /// limit. In generation A `ttft_ms` is the mean wait.
    ///
    /// Errors when a target is negative or not finite, and with [`Unreachable`] when one is missed even
    /// at the lowest rate. Metrics that do not vary with the load are decided exactly.
    pub fn size(&self, targets: &SloTargets) -> Result<Sizing, SizeError> {
        self.size_from(targets, None)
    }

    /// As [`Queue::size`], to the last bit, given an answer of [`Queue::size`] or of this function: the
    /// answer to the very same question (a load that moved only in its rate) is returned as it is, another
    /// is worked out anew.
    pub fn size_again(&self, targets: &SloTargets, previous: &Sizing) -> Result<Sizing, SizeError> {
        if previous.asked == (*self, *targets) { Ok(*previous) } else { self.size(targets) }
    }

    /// As [`Queue::size`], starting from the answer to a similar question: other token counts, targets or
    /// parameters, but not by much. The result depends on the start in its rounding; where answers must not
    /// depend on what was asked before, use [`Queue::size_again`].
    pub fn size_warm(&self, targets: &SloTargets, previous: &Sizing) -> Result<Sizing, SizeError> {
        if previous.asked == (*self, *targets) {
            return Ok(*previous);
        }
        self.size_from(targets, Some(previous))
    }

    /// The rate for each target on its own; see [`Queue::size`] for the errors.
    pub fn rates(&self, targets: &SloTargets) -> Result<Rates, SizeError> {
        let only = |ttft_ms, itl_ms| self.size(&SloTargets { ttft_ms, itl_ms, tps: 0.0 });
        check_targets(targets)?;
        Ok(Rates {
            ttft_per_ms: only(targets.ttft_ms, 0.0)?.rate_per_ms,
            itl_per_ms: only(0.0, targets.itl_ms)?.rate_per_ms,
            tps_per_ms: self.ceiling_per_ms(targets),
        })
    }

    /// Upper end of the search.
    fn ceiling_per_ms(&self, targets: &SloTargets) -> f64 {
        if targets.tps > 0.0 { TPS_SHARE * self.max_per_ms } else { self.max_per_ms }
    }

    fn goals(&self, targets: &SloTargets) -> [Option<Goal>; 2] {
        let goal = |target, limit_ms, line| (limit_ms > 0.0).then_some(Goal { target, limit_ms, line });
        [
            goal(Target::Ttft, targets.ttft_ms, self.service.first_token_line()),
            goal(Target::Itl, targets.itl_ms, self.service.decode_line()),
        ]
    }

    fn size_from(&self, targets: &SloTargets, previous: Option<&Sizing>) -> Result<Sizing, SizeError> {
        check_targets(targets)?;
        let goals = self.goals(targets);
        let (floor, ceiling) = (self.min_per_ms, self.ceiling_per_ms(targets).max(self.min_per_ms));
        let limit = if targets.tps > 0.0 { Binding::Target(Target::Tps) } else { Binding::ServiceLimit };
        let (mut rate_per_ms, guesses) = self.start(&goals, ceiling, previous);
        let mut search = Search { met: None, missed: None, floor, ceiling, last_step: f64::INFINITY };
        let mut evaluations = 0;
        loop {
            evaluations += 1;
            let at = self.moments(rate_per_ms);
            let standing = self.standings(&goals, &at);
            let done = |rate_per_ms, binding, at: &Moments| {
                let correction = self.correction(&goals, guesses, binding, rate_per_ms);
                let metrics = self.metrics_from(at);
                let asked = (*self, *targets);
                Ok(Sizing { rate_per_ms, binding, metrics, evaluations, correction, asked })
            };
            match standing.missed {
                None if rate_per_ms >= ceiling => return done(rate_per_ms, limit, &at),
                Some((goal, best_ms)) if rate_per_ms <= floor => {
                    return Err(Unreachable { target: goal.target, wanted_ms: goal.limit_ms, best_ms }.into());
                }
                _ => {}
            }
            let (step, binding) = (standing.step, standing.binding.map_or(limit, Binding::Target));
            if step.abs() <= LAST_STEP {
                let rate_per_ms = (rate_per_ms * (1.0 + step)).max(floor).min(ceiling);
                return done(rate_per_ms, binding, &at.nearby(step));
            }
            let next = search.next(rate_per_ms, standing.missed.is_some(), step, evaluations);
            if next == rate_per_ms || evaluations >= MAX_EVALUATIONS {
                // The interval cannot be halved further; stay where the targets are known to hold.
                let rate_per_ms = search.met.unwrap_or(floor);
                return done(rate_per_ms, binding, &self.moments(rate_per_ms));
            }
            rate_per_ms = next;
        }
    }

    /// First rate to try, and the estimates made on the way.
    fn start(
        &self,
        goals: &[Option<Goal>; 2],
        ceiling: f64,
        previous: Option<&Sizing>,
    ) -> (f64, [Option<f64>; 2]) {
        let mut guesses = [None; 2];
        if goals.iter().flatten().any(Goal::below_idle) {
            // Most likely out of reach; and where the metric falls with load (generation C, batch 1) the
            // target must hold at the lightest load too.
            return (self.min_per_ms, guesses);
        }
        let bound = |goal: &Goal, sizing: &Sizing| sizing.binding == Binding::Target(goal.target);
        let known = previous.filter(|sizing| goals.iter().flatten().any(|goal| bound(goal, sizing)));
        let mut rate = ceiling;
        for (goal, guess) in goals.iter().zip(&mut guesses) {
            let Some(goal) = goal else { continue };
            if known.is_some_and(|sizing| !bound(goal, sizing)) {
                continue;
            }
            let estimate = self.guess(goal);
            *guess = Some(estimate);
            rate = rate.min(estimate * known.map_or(1.0, |sizing| sizing.correction));
        }
        (rate.max(self.min_per_ms), guesses)
    }

    fn correction(
        &self,
        goals: &[Option<Goal>; 2],
        guesses: [Option<f64>; 2],
        binding: Binding,
        rate_per_ms: f64,
    ) -> f64 {
        let bound = goals.iter().zip(guesses).find_map(|(goal, guess)| {
            let goal = goal.as_ref().filter(|goal| binding == Binding::Target(goal.target))?;
            Some(guess.unwrap_or_else(|| self.guess(goal)))
        });
        bound.map_or(1.0, |guess| rate_per_ms / guess)
    }

    /// How all goals stand: the first that is missed, and the step to the nearest limit.
    fn standings<'a>(&self, goals: &'a [Option<Goal>; 2], at: &Moments) -> Standings<'a> {
        let mut all = Standings { missed: None, step: f64::INFINITY, binding: None };
        for goal in goals.iter().flatten() {
            let standing = self.standing(goal, at);
            if standing.missed && all.missed.is_none() {
                all.missed = Some((goal, standing.value_ms));
            }
            if standing.step < all.step {
                all.step = standing.step;
                all.binding = Some(goal.target);
            }
        }
        all
    }

    /// Where a goal stands at the evaluated rate, and the Newton step on its straightened form.
    fn standing(&self, goal: &Goal, at: &Moments) -> Standing {
        let latency = self.service.latency(at.service_ms, at.in_service, self.batch);
        let (itl_slope, first_slope) = self.service.latency_slope(at.service_slope, at.in_service_slope);
        let (wait, wait_slope, rest, rest_slope) = match goal.target {
            Target::Ttft => (at.wait_ms, at.wait_slope, latency.first_token_ms, first_slope),
            _ => (0.0, 0.0, latency.itl_ms, itl_slope),
        };
        let value_ms = wait + rest;
        let missed = value_ms > goal.limit_ms;
        let budget = goal.limit_ms - rest;
        let step = if wait > 0.0 && budget > 0.0 && wait_slope >= rest_slope {
            (budget / wait).ln() / (wait_slope / wait + rest_slope / budget)
        } else {
            self.rest_step(goal, wait, wait_slope, rest, rest_slope)
        };
        // A step that cannot be told, or points the wrong way, becomes a jump to the end of the range.
        let right_way = if missed { step <= 0.0 } else { step >= 0.0 };
        let sound = step.is_finite() && (right_way || step.abs() <= LAST_STEP);
        let jump = if missed { f64::NEG_INFINITY } else { f64::INFINITY };
        Standing { value_ms, missed, step: if sound { step } else { jump } }
    }

    /// Newton step when the part that follows the concurrency dominates.
    fn rest_step(&self, goal: &Goal, wait: f64, wait_slope: f64, rest: f64, rest_slope: f64) -> f64 {
        let (base, slope) = goal.line;
        let floor = base + slope;
        let share = if goal.limit_ms - wait > floor { 1.0 } else { 0.0 };
        let aim = goal.limit_ms - share * wait;
        if !(slope > 0.0 && rest > floor && aim > floor) {
            return (goal.limit_ms - wait - rest) / (wait_slope + rest_slope);
        }
        let (now, wanted) = ((rest - base) / slope, (aim - base) / slope);
        let gap = (self.unlimited_rate(wanted) / self.unlimited_rate(now)).ln();
        let growth =
            self.unlimited_growth(now) * rest_slope + share * self.unlimited_growth(wanted) * wait_slope;
        gap * slope / growth
    }

    /// Rate at which the effective concurrency would be `together > 1` without a batch limit.
    fn unlimited_rate(&self, together: f64) -> f64 {
        (together - 1.0) / self.service.service_ms(together)
    }

    /// Derivative of the logarithm of [`Queue::unlimited_rate`].
    fn unlimited_growth(&self, together: f64) -> f64 {
        self.service.service_ms(1.0) / ((together - 1.0) * self.service.service_ms(together))
    }

    /// Estimate of a goal's rate: the lesser of the rates without a batch limit and of the square-root
    /// staffing rule for the wait.
    fn guess(&self, goal: &Goal) -> f64 {
        let mut rate = self.max_per_ms;
        let (base, slope) = goal.line;
        if slope > 0.0 && goal.limit_ms > base + slope {
            rate = rate.min(self.unlimited_rate((goal.limit_ms - base) / slope));
        }
        if goal.target == Target::Ttft {
            let budget = goal.limit_ms - (base + slope * f64::from(self.batch));
            if budget > 0.0 {
                rate = rate.min(self.staffing_rate(budget));
            }
        }
        rate
    }

    /// Rate at which the mean wait is about `wait_ms`, after Halfin and Whitt: with load `1 - d`, the
    /// probability of waiting is about `1 / (1 + x R(x))`, `x = d s`, where `s` is the spread of the
    /// number in service at full load and `R` the ratio of the normal distribution to its density; a
    /// waiting request waits `1 / (mu(N) d)`.
    fn staffing_rate(&self, wait_ms: f64) -> f64 {
        let batch = f64::from(self.batch);
        let full_ms = self.service.service_ms(batch);
        let spread = (batch * full_ms / self.service.base_ms()).sqrt().min(batch);
        let limit_per_ms = batch / full_ms;
        let wanted = wait_ms * limit_per_ms;
        let mut spare = (1.0 / wanted).min(0.9);
        for _ in 0..3 {
            let x = (spare * spread).min(12.0);
            let tail = 2.0 / (x + (x * x + 8.0 / std::f64::consts::PI).sqrt());
            let ratio = std::f64::consts::TAU.sqrt() * (0.5 * x * x).exp() - tail;
            let inverse = 1.0 + x * ratio;
            let gap = (spare * inverse * wanted).ln();
            let growth = 1.0 + x * x + x * ratio / inverse;
            // exp(-gap/growth), closely enough for a step of Newton's method.
            let half = (0.5 * gap / growth).clamp(-0.9, 0.9);
            spare = (spare * (1.0 - half) / (1.0 + half)).min(0.95);
        }
        limit_per_ms * (1.0 - spare)
    }
}

/// The interval that is known to hold the answer.
struct Search {
    /// Largest rate known to meet the targets.
    met: Option<f64>,
    /// Smallest rate known to miss one.
    missed: Option<f64>,
    floor: f64,
    ceiling: f64,
    last_step: f64,
}

impl Search {
    /// The next rate to try; the same rate again when the interval cannot be narrowed.
    fn next(&mut self, rate: f64, missed: bool, step: f64, evaluations: u32) -> f64 {
        if missed {
            self.missed = Some(rate);
        } else {
            self.met = Some(rate);
        }
        let next = rate * step.exp();
        let (low, high) = (self.met.unwrap_or(self.floor), self.missed.unwrap_or(self.ceiling));
        let slow = evaluations > PATIENCE && step.abs() > 0.5 * self.last_step;
        self.last_step = step.abs();
        match (self.met, self.missed) {
            (Some(met), Some(missed)) if slow || next <= met || next >= missed => {
                let middle = (met * missed).sqrt();
                if middle <= met || middle >= missed { rate } else { middle }
            }
            _ => next.max(low).min(high),
        }
    }
}

fn check_targets(targets: &SloTargets) -> Result<(), QueueError> {
    for (name, value) in [("ttft", targets.ttft_ms), ("itl", targets.itl_ms), ("tps", targets.tps)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(QueueError::Target { name, value });
        }
    }
    Ok(())
}
