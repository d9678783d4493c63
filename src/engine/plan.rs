//! What the mode of a model wants: saturation's targets, or the planner's where the mode sizes by demand.

use super::change::saturation_targets;
use super::foresee::{Ahead, Foresight, look_ahead};
use super::observe::{Arrivals, Observed, Totals};
use super::topology::{ModelId, VariantId};
use super::{Engine, Scratch};
use crate::analyze::queueing::Tokens;
use crate::analyze::saturation::targets::VariantState;
use crate::analyze::slo::Demand;
use crate::analyze::tokens::SchedulerQueue;
use crate::config::{ModelConfig, ModelKey};
use crate::limits::{BACKLOG_DRAIN_MS, REQUESTS_MEASURED_MIN};
use crate::optimize::cause::Cause;
use crate::optimize::planner::{
    Bridge, Outlook, PlanInput, PlanVariant, Unknown, Wish, arbitrate, hold, name_causes,
};
use crate::optimize::stabilize::Windows;
use crate::publish::{Advice, NextReplica};
use crate::units::TimeMs;

/// What the demand-driven analyzers were told, for the evidence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DemandSeen {
    /// Requests per second to be carried, over all variants: those that arrive and the backlog's share.
    pub rate_per_s: Option<f64>,
    /// The terms of that rate, where `slo` decided.
    pub demand: Option<Demand>,
    /// Replicas that stand in for slower ones.
    pub bridge: Option<Bridge>,
    /// Why the mode could not decide, so that saturation did.
    pub fallback: Option<Unknown>,
}

/// The demand, and the replicas that stand in for slower ones.
type Foreseen = (Demand, Option<Bridge>);

impl Engine {
    /// Fills `scratch.plan`, one per variant, by the mode of the model. `idle_allowed`: no request was seen that
    /// would keep the model from zero.
    pub(super) fn plan_by_mode(
        &mut self,
        (id, model): (ModelId, &ModelKey),
        config: &ModelConfig,
        variants: &[VariantId],
        (scheduler, idle_allowed): (Option<SchedulerQueue>, bool),
        scratch: &mut Scratch,
    ) -> DemandSeen {
        let held_back = scheduler.map_or(0.0, |queue| queue.size);
        let mut seen = DemandSeen { rate_per_s: demand_per_s(scratch, held_back), ..DemandSeen::default() };
        if config.mode.sizes_by_demand() {
            match self.wishes_of((id, model), config, variants, scheduler, &seen, scratch) {
                Ok(foreseen) => {
                    if let Some((demand, bridge)) = foreseen {
                        (seen.rate_per_s, seen.demand) = (Some(demand.ready_for_per_s()), Some(demand));
                        seen.bridge = bridge;
                    }
                    scratch.plan.clear();
                    scratch.plan.extend(scratch.wishes.iter().map(|wish| (wish.replicas, wish.cause)));
                    return seen;
                }
                Err(unknown) => seen.fallback = Some(unknown),
            }
            scratch.wishes.clear();
        }
        let is_learning = seen.fallback == Some(Unknown::Learning);
        if is_learning {
            self.saturation_of_what_runs(variants, scratch);
        } else {
            self.follow_changes(variants, scratch, idle_allowed);
            saturation_targets(scratch);
        }
        scratch.plan.clear();
        scratch.plan.extend_from_slice(&scratch.saturation);
        if is_learning {
            // Until a replica's capacity is known, nobody knows that fewer would do.
            for ((count, cause), state) in scratch.plan.iter_mut().zip(&scratch.states) {
                if *count < state.current {
                    (*count, *cause) = (state.current, Cause::Steady);
                }
            }
        }
        seen
    }

    /// Fills `scratch.advice` with what the mode that only advises would want; nothing that decides is touched.
    pub(super) fn advise(
        &mut self,
        (id, model): (ModelId, &ModelKey),
        config: &ModelConfig,
        variants: &[VariantId],
        scheduler: Option<SchedulerQueue>,
        scratch: &mut Scratch,
    ) {
        scratch.advice.clear();
        let Some(mode) = config.advisory else { return };
        let config = ModelConfig { mode, ..config.clone() };
        let held_back = scheduler.map_or(0.0, |queue| queue.size);
        let seen = DemandSeen { rate_per_s: demand_per_s(scratch, held_back), ..DemandSeen::default() };
        if self.wishes_of((id, model), &config, variants, scheduler, &seen, scratch).is_ok() {
            let wanted = scratch.wishes.iter().zip(&scratch.states).map(|(wish, state)| Advice {
                mode,
                replicas: wish.replicas.clamp(state.min.min(state.max), state.max),
                cause: wish.cause,
            });
            scratch.advice.extend(wanted);
        }
        scratch.wishes.clear();
        self.replica_states(variants, scratch);
    }

    /// [`Engine::wishes`] with the memory that the mode needs.
    fn wishes_of(
        &mut self,
        (id, model): (ModelId, &ModelKey),
        config: &ModelConfig,
        variants: &[VariantId],
        scheduler: Option<SchedulerQueue>,
        seen: &DemandSeen,
        scratch: &mut Scratch,
    ) -> Result<Option<Foreseen>, Unknown> {
        if !config.mode.slo {
            return self.wishes((id, model), config, variants, scheduler, seen, scratch);
        }
        self.recall(id, variants, &mut scratch.recalled);
        let outcome = self.wishes((id, model), config, variants, scheduler, seen, scratch);
        self.remember(id, variants, &mut scratch.recalled);
        outcome
    }

    /// Saturation's targets from what runs, whatever was asked for: demand is not followed step by step.
    fn saturation_of_what_runs(&mut self, variants: &[VariantId], scratch: &mut Scratch) {
        scratch.states.iter_mut().for_each(|state| state.desired = None);
        saturation_targets(scratch);
        self.replica_states(variants, scratch);
    }

    fn wishes(
        &mut self,
        (id, model): (ModelId, &ModelKey),
        config: &ModelConfig,
        variants: &[VariantId],
        scheduler: Option<SchedulerQueue>,
        seen: &DemandSeen,
        scratch: &mut Scratch,
    ) -> Result<Option<Foreseen>, Unknown> {
        if config.mode.saturation {
            self.saturation_of_what_runs(variants, scratch);
        }
        let Scratch {
            observed, states, tokens, wishes, saturation, analysis, counted, sized, recalled, ..
        } = scratch;
        let of = |(id, state): (&VariantId, &VariantState)| {
            let variant = &self.topology.variants[*id as usize];
            PlanVariant { config: &variant.config, state: *state, sizing: variant.sizing }
        };
        let states_of: Vec<PlanVariant<'_>> = variants.iter().zip(states.iter()).map(of).collect();
        // The request length outlives the window: it says what a request is, not how many there are.
        let model_state = &mut self.topology.models[id as usize];
        model_state.tokens = average_request(observed).or(model_state.tokens);
        let tokens_known = model_state.tokens;
        let silent = |o: &Observed| o.pods.saturating_sub(o.pending) > o.reporting;
        let input = PlanInput {
            model,
            config,
            variants: &states_of,
            replicas: tokens,
            rate_per_s: seen.rate_per_s,
            tokens: tokens_known,
            scheduler,
            is_partial: observed.iter().any(silent),
            observed_at: observed.iter().filter_map(|o| o.health.newest_sample).max().unwrap_or(self.stream),
        };
        let mut foreseen = None;
        if config.mode.slo {
            let mut foresight = Foresight { counted, tokens: tokens_known, sized, recalled };
            let Ahead { demand, at, waiting, miss_cost } =
                look_ahead(config, &states_of, scheduler, &mut foresight)?;
            let memories = &recalled.variants;
            let outlook = Outlook { demand: &demand, memories, at, waiting, miss_cost };
            let bridge = self.planner.by_foresight(wishes, &input, sized, &outlook)?;
            foreseen = Some((demand, bridge));
        } else {
            self.planner.wishes(wishes, config.mode, &mut self.token_memory, &input)?;
        }
        let saturation = config.mode.saturation.then_some(saturation.as_slice());
        if let Some(targets) = saturation {
            arbitrate(wishes, &states_of, analysis, &config.saturation, targets);
        }
        hold(wishes, &states_of, input.is_partial);
        name_causes(wishes, &states_of, saturation, input.is_partial);
        for (id, wish) in variants.iter().zip(wishes.iter()) {
            self.topology.variants[*id as usize].sizing = wish.sizing;
        }
        Ok(foreseen)
    }

    /// Applies the stabilisation windows to a plan that is within bounds; bounds themselves allow no delay.
    pub(super) fn stabilize(
        &mut self,
        config: &ModelConfig,
        variants: &[VariantId],
        scratch: &mut Scratch,
        deadline: &mut TimeMs,
    ) {
        // Saturation in place of a mode that lacks its input steps without windows, as it does by default.
        let falls_back = config.mode.sizes_by_demand() && scratch.wishes.is_empty();
        let windows = match falls_back {
            true => Windows::default(),
            false => Windows { up_ms: config.stabilization.up_ms, down_ms: config.stabilization.down_ms },
        };
        for (index, id) in variants.iter().enumerate() {
            let (count, _) = &scratch.plan[index];
            let state = &scratch.states[index];
            let variant = &mut self.topology.variants[*id as usize];
            let within = |desired: u32| desired.clamp(state.min.min(state.max), state.max);
            let asked = variant.plan.as_ref().map(|plan| within(plan.desired));
            let (settled, changes_at) = variant.stabilizer.settle(self.stream, *count, asked, windows);
            *deadline = (*deadline).min(changes_at);
            if settled == *count {
                continue;
            }
            scratch.plan[index] = match asked {
                // A plan by steps builds on what was asked for, so that a count in between would be taken
                // for another step: it is followed whole or not at all.
                Some(asked) if scratch.wishes.is_empty() => {
                    let observed = &scratch.observed[index];
                    let is_silent = observed.reporting == 0 && observed.pods > 0;
                    let cause = match asked != observed.pods {
                        false => Cause::Stabilizing,
                        // As saturation names what it holds for want of reports.
                        true if is_silent => Cause::HoldInput,
                        true => Cause::Transition,
                    };
                    (asked, cause)
                }
                _ => (
                    settled,
                    if settled < scratch.observed[index].pods {
                        Cause::SpareCapacity
                    } else {
                        Cause::Stabilizing
                    },
                ),
            };
        }
    }
}

impl Engine {
    /// The two cheapest ways to one more replica; of equal ones that of the lesser name.
    pub(super) fn next_replica(&self, variants: &[VariantId], scratch: &Scratch) -> [Option<NextReplica>; 2] {
        let has_room = |index: &usize| scratch.plan[*index].0 < scratch.states[*index].max;
        let capacity = |index: usize| capacity_per_s(&scratch.wishes, index).filter(|value| *value > 0.0);
        let is_sized = (0..variants.len()).filter(has_room).all(|index| capacity(index).is_some());
        let price = |index: usize| {
            let cost = scratch.states[index].cost;
            capacity(index).filter(|_| is_sized).map_or(cost, |capacity| cost / capacity)
        };
        let next = |taken: Option<usize>| {
            let open = (0..variants.len()).filter(has_room).filter(|index| Some(*index) != taken);
            open.min_by(|a, b| price(*a).total_cmp(&price(*b)).then(a.cmp(b)))
        };
        let first = next(None);
        let second = first.and_then(|first| next(Some(first)));
        [first, second].map(|found| {
            found.map(|index| NextReplica {
                variant: self.topology.variants[variants[index] as usize].config.key.name.clone(),
                cost: scratch.states[index].cost,
                cost_per_capacity: is_sized.then(|| price(index)),
            })
        })
    }
}

/// Rate that the replicas must carry: the larger of the arrival rates over the long and the short window, so
/// that a rise is seen at once and a fall when it has lasted, and what drains the requests that wait.
fn demand_per_s(scratch: &Scratch, held_back: f64) -> Option<f64> {
    let (mut long, mut recent) = (Arrivals::default(), Arrivals::default());
    for observed in &scratch.observed {
        long.add(observed.arrivals);
        recent.add(observed.recent);
    }
    let arriving = long.per_s().into_iter().chain(recent.per_s()).reduce(f64::max)?;
    let waiting: f64 = scratch.observed.iter().filter_map(|observed| observed.load.waiting).sum();
    Some(arriving + (waiting + held_back) * 1000.0 / BACKLOG_DRAIN_MS as f64)
}

/// Average request over all variants; `None` while too few have completed to tell.
fn average_request(observed: &[Observed]) -> Option<Tokens> {
    let mut totals = Totals::default();
    observed.iter().for_each(|observed| totals.add(&observed.totals));
    if totals.generated.0 < REQUESTS_MEASURED_MIN {
        return None;
    }
    let (input, output) = (totals.avg_prompt_tokens()?, totals.avg_generation_tokens()?);
    (output > 0.0).then_some(Tokens { input, output })
}

/// Requests per second that one replica carries, where the mode has sized it.
pub fn capacity_per_s(wishes: &[Wish], index: usize) -> Option<f64> {
    wishes.get(index).and_then(|wish| wish.capacity_per_s)
}
