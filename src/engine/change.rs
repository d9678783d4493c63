//! Changes on their way: saturation steps one replica at a time and holds still until a step has been carried
//! out, so that what was asked for before is part of what it decides.

use super::observe::Observed;
use super::topology::VariantId;
use super::{Engine, Scratch};
use crate::analyze::rule::Rule;
use crate::analyze::saturation::targets::{self, VariantState};
use crate::limits::TRANSITION_MAX_MS;
use crate::publish::Cause;

impl Engine {
    /// Replicas that there are and replicas that were asked for, of each variant.
    pub(super) fn replica_states(&self, variants: &[VariantId], scratch: &mut Scratch) {
        scratch.states.clear();
        scratch.states.extend(variants.iter().zip(&scratch.observed).map(|(id, observed)| {
            let variant = &self.topology.variants[*id as usize];
            VariantState {
                current: observed.pods,
                desired: variant.plan.as_ref().map(|plan| plan.desired),
                pending: observed.pending,
                cost: variant.config.cost,
                min: variant.config.min_replicas.unwrap_or(0),
                max: variant.config.max_replicas.unwrap_or(u32::MAX),
            }
        }));
    }

    /// Drops what was asked for where it is not to be waited for any more.
    pub(super) fn follow_changes(&self, variants: &[VariantId], scratch: &mut Scratch, idle_allowed: bool) {
        for state in &mut scratch.states {
            // A reduction that was not carried out yet is withdrawn when its ground has gone: more is
            // needed, or requests came back before the last pods had left.
            let withdrawn = |desired: u32| {
                desired < state.current
                    && (scratch.analysis.should_scale_up() || desired == 0 && !idle_allowed)
            };
            // So is a change that the bounds no longer allow.
            let forbidden =
                |desired: u32| desired.clamp(state.min, state.max.max(state.min)) == state.current;
            if state.desired.is_some_and(|desired| withdrawn(desired) || forbidden(desired)) {
                state.desired = Some(state.current);
            }
        }
        self.forget_growth(variants, scratch);
        // A model moves as a whole: while one of its changes is fresh, none is given up.
        let awaited =
            |index: usize| self.awaited(variants[index], &scratch.observed[index], &scratch.states[index]);
        if (0..variants.len()).any(|index| awaited(index) == Some(false)) {
            return;
        }
        for ((id, observed), state) in variants.iter().zip(&scratch.observed).zip(&mut scratch.states) {
            if self.awaited(*id, observed, state) == Some(true) {
                // Nothing has moved for long: decide on what there is instead of waiting for ever.
                state.desired = None;
                state.current = if observed.reporting > 0 { observed.reporting } else { observed.pods };
            }
        }
    }

    /// Within an inventory a growth may wait for cards that never come. It is asked for anew every time,
    /// from the load alone, as long as all that runs is heard: a claim must not outlive its ground.
    fn forget_growth(&self, variants: &[VariantId], scratch: &mut Scratch) {
        let is_limited = variants.first().is_some_and(|id| {
            let model = self.topology.variants[*id as usize].model;
            self.topology.models[model as usize].is_limited
        });
        let is_heard = |observed: &Observed| observed.reporting == observed.pods;
        if !is_limited || scratch.analysis.total == 0 || !scratch.observed.iter().all(is_heard) {
            return;
        }
        for state in scratch.states.iter_mut().filter(|state| state.desired > Some(state.current)) {
            state.desired = Some(state.current);
        }
    }

    /// Whether the variant's last change is still awaited; `Some(true)` when it has been for too long.
    fn awaited(&self, id: VariantId, observed: &Observed, state: &VariantState) -> Option<bool> {
        let old = self.topology.variants[id as usize].plan.as_ref()?;
        let waiting = state.desired != Some(observed.pods) || observed.reporting != observed.pods;
        let unmoved = (Some(old.desired), old.current, old.reporting)
            == (state.desired, observed.pods, observed.reporting);
        let expired = old.transition_since.is_some_and(|since| since + TRANSITION_MAX_MS <= self.stream);
        waiting.then_some(unmoved && expired)
    }

    /// Keeps the last decision where the change to less would rest on input that is missing, and where
    /// replicas that are slow to start would be given up although they are needed.
    pub(super) fn not_lowered_blindly(
        &self,
        id: VariantId,
        index: usize,
        scratch: &Scratch,
        (count, cause): (u32, Cause),
    ) -> (u32, Cause) {
        let Some(old) = &self.topology.variants[id as usize].plan else { return (count, cause) };
        let observed = &scratch.observed[index];
        if scratch.states[index].desired.is_some() || cause == Cause::ScaleToZero {
            return (count, cause);
        }
        let silent = observed.pods.saturating_sub(observed.pending) > observed.reporting;
        let unseen = observed.reporting == 0 && observed.target.is_none_or(|(pods, _)| pods > 0);
        let (least, why) = match scratch.analysis.should_scale_up() {
            true => (old.desired.max(observed.pods), Cause::Transition),
            false if unseen && observed.pods == 0 => (old.desired, Cause::Transition),
            false if silent || unseen => (old.desired, Cause::HoldInput),
            false => return (count, cause),
        };
        if count < least { (least, why) } else { (count, cause) }
    }
}

/// Saturation's targets for `scratch.states`, with their causes.
pub fn saturation_targets(scratch: &mut Scratch) {
    let rule = Rule::Guarded;
    targets::targets_into(&mut scratch.targets, &scratch.analysis, &scratch.states, rule);
    scratch.saturation.clear();
    for index in 0..scratch.targets.len() {
        let target = (scratch.targets[index].replicas, saturation_cause(scratch, index));
        scratch.saturation.push(target);
    }
}

/// Why saturation's target for variant `index` is what it is.
fn saturation_cause(scratch: &Scratch, index: usize) -> Cause {
    match scratch.targets[index].cause {
        targets::Cause::NoChange => Cause::Steady,
        targets::Cause::InTransition => Cause::Transition,
        targets::Cause::ScaleUp => scratch.analysis.scale_up.map_or(Cause::Steady, Cause::from),
        targets::Cause::ScaleDown => Cause::SpareCapacity,
        targets::Cause::WaitingForPending => Cause::WaitingForPending,
        targets::Cause::AtMaximum => Cause::AtMaximum,
        targets::Cause::NotCovered | targets::Cause::NoReplicas if scratch.states[index].current == 0 => {
            // At zero there is nothing to miss; a first replica may be on its way.
            if scratch.targets[index].replicas > 0 { Cause::Transition } else { Cause::Steady }
        }
        targets::Cause::NotCovered | targets::Cause::NoReplicas => Cause::HoldInput,
    }
}

/// While one variant of the model changes, or its pods are not all heard, the model holds still: that is
/// the cause from the start, not only from the next recomputation on.
pub fn hold_beside_a_change(scratch: &mut Scratch) {
    use Cause::{AtMaximum, HoldInput, ScaleToZero, Steady, Transition, WaitingForPending};
    // Wishes are there when the mode sizes by demand: then variants move independently.
    if scratch.analysis.total == 0 || !scratch.wishes.is_empty() {
        return;
    }
    let unheard = |observed: &Observed| observed.reporting > 0 && observed.reporting != observed.pods;
    let moves = |((desired, _), observed): (&(u32, Cause), &Observed)| *desired != observed.pods;
    let moving =
        scratch.plan.iter().zip(&scratch.observed).any(moves) || scratch.observed.iter().any(unheard);
    for ((desired, cause), observed) in scratch.plan.iter_mut().zip(&scratch.observed) {
        let holds = match cause {
            Steady | WaitingForPending | AtMaximum | HoldInput => moving,
            ScaleToZero => false,
            _ => unheard(observed) && *desired == observed.pods,
        };
        if holds {
            *cause = Transition;
        }
    }
}
