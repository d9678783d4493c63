//! The `slo` mode: hands what the replicas have counted to the analyzer and its demand to the planner.

use super::Engine;
use super::topology::{ModelId, VariantId};
use crate::analyze::queueing::Tokens;
use crate::analyze::slo::fit::Coefficients;
use crate::analyze::slo::{
    Ask, Demand, ModelMemory, ReplicaTotals, Shown, Sized, Targets, VariantMemory, stated,
};
use crate::analyze::tokens::SchedulerQueue;
use crate::config::{ATTAINMENT_DEFAULT, ModelConfig, PerfParms, Variant, miss_cost_of};
use crate::optimize::planner::{PlanVariant, Unknown, own_profile, targets};
use crate::units::TimeMs;

/// What is remembered of one model and its variants, while it is decided.
#[derive(Debug, Default)]
pub(super) struct Recalled {
    pub model: ModelMemory,
    pub variants: Vec<VariantMemory>,
}

impl Engine {
    /// Takes the memory of a model and its variants out, to be given back by [`Engine::remember`].
    pub(super) fn recall(&mut self, id: ModelId, variants: &[VariantId], recalled: &mut Recalled) {
        let learned = |id: &VariantId| std::mem::take(&mut self.topology.variants[*id as usize].learned);
        recalled.variants.clear();
        recalled.variants.extend(variants.iter().map(learned));
        recalled.model = std::mem::take(&mut self.topology.models[id as usize].load);
    }

    /// Puts the memory of a model and its variants back.
    pub(super) fn remember(&mut self, id: ModelId, variants: &[VariantId], recalled: &mut Recalled) {
        for (id, memory) in variants.iter().zip(recalled.variants.drain(..)) {
            self.topology.variants[*id as usize].learned = memory;
            self.note_learned(*id);
        }
        self.topology.models[id as usize].load = std::mem::take(&mut recalled.model);
    }
}

/// What [`look_ahead`] reads and fills.
pub(super) struct Foresight<'a> {
    /// Counts of the replicas that report.
    pub counted: &'a [ReplicaTotals],
    /// Average request, once known.
    pub tokens: Option<Tokens>,
    /// Capacities, filled in.
    pub sized: &'a mut Vec<Sized>,
    /// What is remembered.
    pub recalled: &'a mut Recalled,
}

/// What lies ahead.
pub(super) struct Ahead {
    pub demand: Demand,
    /// Time of the newest sample.
    pub at: TimeMs,
    /// Requests that wait, the scheduler's among them.
    pub waiting: f64,
    /// What a missed request costs, in costs of serving one.
    pub miss_cost: f64,
}

/// Lets the analyzer take in what the replicas show, and asks it for the demand. The capacities of the
/// variants are left in `scratch.sized`.
pub(super) fn look_ahead(
    config: &ModelConfig,
    planned: &[PlanVariant<'_>],
    scheduler: Option<SchedulerQueue>,
    scratch: &mut Foresight<'_>,
) -> Result<Ahead, Unknown> {
    let Recalled { model, variants: memories } = &mut *scratch.recalled;
    for (memory, variant) in memories.iter_mut().zip(planned) {
        memory.begin(prior(variant.config));
    }
    let at = scratch.counted.iter().map(|replica| replica.at).max().ok_or(Unknown::ArrivalRate)?;
    let shown = Shown {
        replicas: scratch.counted,
        held_back: scheduler.map_or(0.0, |queue| queue.size),
        request: scratch.tokens.map(|tokens| (tokens.input, tokens.output)),
        at,
    };
    model.observe(&shown, memories);
    let longest_ms = memories.iter().filter_map(VariantMemory::known_startup_ms).max();
    for memory in memories.iter_mut() {
        memory.note_expected(at);
        memory.note_peers(longest_ms);
    }
    scratch.sized.clear();
    let (mut has_targets, mut ttft_ms) = (false, 0.0_f64);
    for (memory, variant) in memories.iter_mut().zip(planned) {
        let targets = targets(variant.config, config);
        has_targets |= targets.is_some();
        let targets = targets.unwrap_or_default();
        ttft_ms = targets.ttft_ms.max(ttft_ms);
        let attainment = variant.config.slo.as_ref().map_or(ATTAINMENT_DEFAULT, |slo| slo.attainment);
        let targets = Targets { ttft_ms: targets.ttft_ms, itl_ms: targets.itl_ms, attainment };
        let most = own_profile(variant.config).map_or(0.0, |profile| f64::from(profile.max_batch));
        scratch.sized.push(model.capacity(memory, &targets, most));
    }
    if !has_targets {
        return Err(Unknown::Targets);
    }
    let known = |sized: &Sized| match sized {
        Sized::Known(found) | Sized::Unreachable(found) => Some(*found),
        Sized::Unknown => None,
    };
    let typical = scratch.sized.iter().find_map(known).ok_or(Unknown::Learning)?;
    if !model.is_ready() {
        return Err(Unknown::Learning);
    }
    let stated = planned.iter().filter_map(|variant| variant.config.slo.as_ref());
    let miss_cost =
        stated.map(|slo| slo.miss_cost).reduce(f64::max).unwrap_or(miss_cost_of(ATTAINMENT_DEFAULT));
    let carried = |(sized, variant): (&Sized, &PlanVariant<'_>)| {
        known(sized).map(|found| found.rate_per_s * f64::from(variant.state.current))
    };
    let demand = model.demand(&Ask {
        horizon_ms: memories.iter().map(VariantMemory::startup_ms).max().unwrap_or_default(),
        carried_per_s: scratch.sized.iter().zip(planned).filter_map(carried).sum(),
        ttft_ms,
        typical,
        miss_cost,
    });
    let waiting = shown.held_back + shown.replicas.iter().map(|replica| replica.waiting).sum::<f64>();
    Ok(Ahead { demand, at, waiting, miss_cost })
}

/// Parameters of the iteration-time model that the object states, as a start.
fn prior(variant: &Variant) -> Option<Coefficients> {
    match own_profile(variant)?.perf? {
        PerfParms::Iteration { alpha, beta, gamma } => stated(alpha, beta, gamma),
        _ => None,
    }
}
