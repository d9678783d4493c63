//! What the mode of a model wants: saturation's targets, or the planner's where the mode sizes by demand.

use super::observe::Observed;
use super::topology::VariantId;
use super::{Engine, Scratch};
use crate::analyze::queueing::Tokens;
use crate::analyze::saturation::targets::{self, VariantState};
use crate::analyze::tokens::SchedulerQueue;
use crate::config::{Mode, ModelConfig, ModelKey};
use crate::optimize::cause::Cause;
use crate::optimize::planner::{PlanInput, PlanVariant, Unknown, Wish, arbitrate, name_causes};
use crate::optimize::stabilize::Windows;
use crate::units::TimeMs;

/// What the demand-driven analyzers were told, for the evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DemandSeen {
    /// Requests arriving per second, over all variants.
    pub rate_per_s: Option<f64>,
    /// Why the mode could not decide, so that saturation did.
    pub fallback: Option<Unknown>,
}

impl Engine {
    /// Fills `scratch.counts` and `scratch.causes`, one per variant, by the mode of the model.
    pub(super) fn plan_by_mode(
        &mut self,
        model: &ModelKey,
        config: &ModelConfig,
        variants: &[VariantId],
        scheduler: Option<SchedulerQueue>,
        scratch: &mut Scratch,
    ) -> DemandSeen {
        let mut seen = DemandSeen { rate_per_s: arrival_rate_per_s(scratch), fallback: None };
        scratch.saturation.clear();
        for index in 0..scratch.targets.len() {
            let plan = (scratch.targets[index].replicas, saturation_cause(scratch, index));
            scratch.saturation.push(plan);
        }
        if config.mode != Mode::Saturation {
            match self.wishes(model, config, variants, scheduler, &seen, scratch) {
                Ok(()) => {
                    scratch.plan.clear();
                    scratch.plan.extend(scratch.wishes.iter().map(|wish| (wish.replicas, wish.cause)));
                }
                Err(unknown) => {
                    seen.fallback = Some(unknown);
                    scratch.wishes.clear();
                }
            }
        }
        if config.mode == Mode::Saturation || seen.fallback.is_some() {
            scratch.plan.clear();
            scratch.plan.extend_from_slice(&scratch.saturation);
        }
        seen
    }

    fn wishes(
        &mut self,
        model: &ModelKey,
        config: &ModelConfig,
        variants: &[VariantId],
        scheduler: Option<SchedulerQueue>,
        seen: &DemandSeen,
        scratch: &mut Scratch,
    ) -> Result<(), Unknown> {
        let Scratch { observed, states, tokens, wishes, saturation, analysis, .. } = scratch;
        // An overdue change counts as what it is here: these modes do not wait for changes.
        let of = |(id, (state, observed)): (&VariantId, (&VariantState, &Observed))| {
            let variant = &self.topology.variants[*id as usize];
            let desired = variant.decision.as_ref().map(|decision| decision.desired);
            let (current, pending) = (observed.pods, observed.pending);
            let state = VariantState { current, pending, desired, ..*state };
            PlanVariant { config: &variant.config, state, sizing: variant.sizing }
        };
        let states_of: Vec<PlanVariant<'_>> =
            variants.iter().zip(states.iter().zip(observed.iter())).map(of).collect();
        let silent = |o: &Observed| o.pods.saturating_sub(o.pending) > o.reporting;
        let input = PlanInput {
            model,
            config,
            variants: &states_of,
            replicas: tokens,
            rate_per_s: seen.rate_per_s,
            tokens: average_request(observed),
            scheduler,
            is_partial: observed.iter().any(silent),
            observed_at: observed.iter().filter_map(|o| o.health.newest_sample).max().unwrap_or(self.stream),
        };
        match config.mode {
            Mode::Saturation => {}
            Mode::Tokens => {
                self.planner.by_tokens(wishes, &mut self.token_memory, &input)?;
                name_causes(wishes, &states_of, None, input.is_partial);
            }
            Mode::Model => {
                self.planner.by_model(wishes, &input)?;
                name_causes(wishes, &states_of, None, input.is_partial);
            }
            Mode::Hybrid => {
                self.planner.by_model(wishes, &input)?;
                arbitrate(wishes, &states_of, analysis, &config.saturation, saturation);
                name_causes(wishes, &states_of, Some(saturation), input.is_partial);
            }
        }
        for (id, wish) in variants.iter().zip(wishes.iter()) {
            self.topology.variants[*id as usize].sizing = wish.sizing;
        }
        Ok(())
    }

    /// Applies the stabilisation windows to a plan that is within bounds; bounds themselves allow no delay.
    pub(super) fn stabilize(
        &mut self,
        config: &ModelConfig,
        variants: &[VariantId],
        scratch: &mut Scratch,
        deadline: &mut TimeMs,
    ) {
        let windows = Windows { up_ms: config.stabilization.up_ms, down_ms: config.stabilization.down_ms };
        for (index, id) in variants.iter().enumerate() {
            let (count, _) = &scratch.plan[index];
            let state = &scratch.states[index];
            let variant = &mut self.topology.variants[*id as usize];
            let within = |desired: u32| desired.clamp(state.min.min(state.max), state.max);
            let asked = variant.decision.as_ref().map(|decision| within(decision.desired));
            let (settled, changes_at) = variant.stabilizer.settle(self.stream, *count, asked, windows);
            *deadline = (*deadline).min(changes_at);
            if settled == *count {
                continue;
            }
            scratch.plan[index] = match asked {
                // A plan by steps builds on what was asked for, so that a count in between would be taken
                // for another step: it is followed whole or not at all.
                Some(asked) if scratch.wishes.is_empty() => {
                    let moving = asked != scratch.observed[index].pods;
                    (asked, if moving { Cause::Transition } else { Cause::Stabilizing })
                }
                _ => (settled, Cause::Stabilizing),
            };
        }
    }
}

/// The larger of the rates over the long and the short window: a rise is seen at once, a fall when it has
/// lasted.
fn arrival_rate_per_s(scratch: &Scratch) -> Option<f64> {
    let sum = |rate: fn(&Observed) -> Option<f64>| {
        scratch.observed.iter().filter_map(rate).fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate))
    };
    let long: Option<f64> = sum(|observed| observed.load.arrival_rate_per_s);
    let recent: Option<f64> = sum(|observed| observed.recent_arrivals_per_s);
    long.into_iter().chain(recent).reduce(f64::max)
}

/// Average request over all variants, weighted by completed requests.
fn average_request(observed: &[Observed]) -> Option<Tokens> {
    let sum = |field: fn(&Observed) -> f64| observed.iter().map(field).sum::<f64>();
    let finished = sum(|o| o.totals.finished);
    let tokens = Tokens {
        input: sum(|o| o.totals.prompt_tokens) / finished,
        output: sum(|o| o.totals.generation_tokens) / finished,
    };
    (finished > 0.0 && tokens.output > 0.0).then_some(tokens)
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

/// Requests per second that one replica carries, where the mode has sized it.
pub fn capacity_per_s(wishes: &[Wish], index: usize) -> Option<f64> {
    wishes.get(index).and_then(|wish| wish.capacity_per_s)
}
