//! The target rule of the saturation analyzer: from its analysis and the variants' replica state to one
//! target per variant. One step of one replica at a time, and only when nothing is under way.

use super::SaturationAnalysis;
use crate::analyze::rule::Rule;

/// Replica state, cost and bounds of one variant. A model's variants are given in name order, so that
/// the index breaks ties as the name does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VariantState {
    /// Replicas that the scale target runs now. When the cluster does not say, the number of replicas
    /// that report.
    pub current: u32,
    /// Replicas last asked for; `None` when nothing was asked for yet. While it differs from `current`
    /// the model holds still, so a caller drops a wish that the cluster does not carry out in time.
    pub desired: Option<u32>,
    /// Replicas of `current` that are not ready yet.
    pub pending: u32,
    /// Cost of one replica; finite and >= 0. NaN ranks as the most expensive.
    pub cost: f64,
    /// Fewest replicas wanted by configuration (guarded rule only).
    pub min: u32,
    /// Most replicas allowed by configuration, `u32::MAX` for no bound (guarded rule only).
    pub max: u32,
}

impl Default for VariantState {
    fn default() -> Self {
        VariantState { current: 0, desired: None, pending: 0, cost: 0.0, min: 0, max: u32::MAX }
    }
}

/// Why a target is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Neither more nor fewer replicas are wanted here.
    NoChange,
    /// A change of some variant of the model is still being carried out: every variant holds.
    InTransition,
    /// One replica more: the cheapest variant that could take it.
    ScaleUp,
    /// One replica less: the most expensive variant that could give it.
    ScaleDown,
    /// One replica more is wanted, but every variant that could take it has replicas starting.
    WaitingForPending,
    /// One replica more is wanted, but every variant is at its maximum (guarded rule only).
    AtMaximum,
    /// No replica of this variant reports: it holds. The reference has no answer for such a variant.
    NotCovered,
    /// No replica of the whole model reports: every variant holds.
    NoReplicas,
}

/// Target of one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Replicas wanted.
    pub replicas: u32,
    /// Why.
    pub cause: Cause,
}

/// Computes one target per entry of `states` into `out`, reusing its memory.
///
/// A model is *in transition* when a variant's `desired` is set and differs from `current`, or the
/// number of its reporting replicas differs from `current`; then each target is `desired`, else
/// `current`. Otherwise targets start at the reporting replicas and, if more is wanted, the cheapest
/// variant without pending replicas gets one (ties: the first); else, if safe, the most expensive with
/// more than one loses one (ties: the last). Fewer analysed variants than states count as not covered.
///
/// [`Rule::Guarded`] differs as follows:
/// * a variant at zero replicas may be the cheapest choice for one more, and one that was asked for but
///   has not come yet holds the model in transition (the reference never considers such a variant);
/// * `min` and `max` are respected: a variant at its bound is passed over for the next one;
/// * a wanted scale-up that nothing can take is named, [`Cause::WaitingForPending`] or
///   [`Cause::AtMaximum`];
/// * with no replica reporting, targets are what was last asked for, not what happens to run.
pub fn targets_into(
    out: &mut Vec<Target>,
    analysis: &SaturationAnalysis,
    states: &[VariantState],
    rule: Rule,
) {
    out.clear();
    let model = Model { analysis, states, rule };
    if analysis.total == 0 {
        out.extend(states.iter().map(|s| Target { replicas: model.hold(s), cause: Cause::NoReplicas }));
        return;
    }
    if (0..states.len()).any(|i| model.in_transition(i)) {
        out.extend((0..states.len()).map(|i| model.held(i)));
        return;
    }
    out.extend((0..states.len()).map(|i| model.steady(i)));
    if analysis.should_scale_up() {
        model.scale_up(out);
    } else if analysis.scale_down_safe {
        model.scale_down(out);
    }
}

/// One model's input, with the questions the rule asks of it.
struct Model<'a> {
    analysis: &'a SaturationAnalysis,
    states: &'a [VariantState],
    rule: Rule,
}

impl Model<'_> {
    fn replicas(&self, i: usize) -> u32 {
        self.analysis.variants.get(i).map_or(0, |v| v.replicas)
    }

    fn covered(&self, i: usize) -> bool {
        self.replicas(i) > 0
    }

    /// What a variant keeps when the model as a whole reports nothing.
    fn hold(&self, state: &VariantState) -> u32 {
        match self.rule {
            Rule::Reference => state.current,
            Rule::Guarded => self.asked(state),
        }
    }

    fn in_transition(&self, i: usize) -> bool {
        let state = &self.states[i];
        let asked = state.desired.is_some_and(|d| self.is_set(d) && d != state.current);
        match (self.covered(i), self.rule) {
            (true, _) => asked || self.replicas(i) != state.current,
            (false, Rule::Guarded) => asked,
            (false, Rule::Reference) => false,
        }
    }

    /// What was last asked for, else what runs.
    fn asked(&self, state: &VariantState) -> u32 {
        state.desired.filter(|&d| self.is_set(d)).unwrap_or(state.current)
    }

    /// The reference cannot tell a desired count of zero from none.
    fn is_set(&self, desired: u32) -> bool {
        desired != 0 || self.rule == Rule::Guarded
    }

    /// Target of a variant while the model is in transition.
    fn held(&self, i: usize) -> Target {
        let state = &self.states[i];
        let covered = self.covered(i) || self.rule == Rule::Guarded;
        let cause = if covered { Cause::InTransition } else { Cause::NotCovered };
        Target { replicas: self.asked(state), cause }
    }

    /// Target of a variant before anything is added or taken.
    fn steady(&self, i: usize) -> Target {
        match self.covered(i) {
            true => Target { replicas: self.replicas(i), cause: Cause::NoChange },
            false => Target { replicas: self.asked(&self.states[i]), cause: Cause::NotCovered },
        }
    }

    /// Whether the variant may be given one more at all, pending replicas aside.
    fn may_grow(&self, i: usize) -> bool {
        let state = &self.states[i];
        match self.rule {
            Rule::Reference => self.covered(i),
            // A variant that should run but reports nothing is broken or starting: adding to it
            // would wait for the same trouble.
            Rule::Guarded => (self.covered(i) || state.current == 0) && state.current < state.max,
        }
    }

    fn scale_up(&self, out: &mut [Target]) {
        let growing = || (0..out.len()).filter(|&i| self.may_grow(i));
        let free = growing().filter(|&i| self.states[i].pending == 0);
        let cheapest = free.min_by(|&a, &b| self.cost(a).total_cmp(&self.cost(b)));
        if let Some(i) = cheapest {
            out[i].replicas = out[i].replicas.saturating_add(1);
            out[i].cause = Cause::ScaleUp;
            return;
        }
        let waiting = growing().next().is_some() || self.rule == Rule::Reference;
        let cause = if waiting { Cause::WaitingForPending } else { Cause::AtMaximum };
        for target in out.iter_mut().filter(|t| t.cause == Cause::NoChange) {
            target.cause = cause;
        }
    }

    fn scale_down(&self, out: &mut [Target]) {
        let floor = |i: usize| match self.rule {
            Rule::Reference => 1,
            Rule::Guarded => self.states[i].min.max(1),
        };
        let giving = (0..out.len()).filter(|&i| self.covered(i) && out[i].replicas > floor(i));
        // `max_by` takes the last of equals, which is the rule for ties.
        if let Some(i) = giving.max_by(|&a, &b| self.cost(a).total_cmp(&self.cost(b))) {
            out[i].replicas -= 1;
            out[i].cause = Cause::ScaleDown;
        }
    }

    /// Cost for ranking; adding zero makes a negative zero equal to a positive one.
    fn cost(&self, i: usize) -> f64 {
        self.states[i].cost + 0.0
    }
}
