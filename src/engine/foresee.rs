//! The `slo` mode: hands what the replicas have counted to the analyzer and its demand to the planner.

use super::topology::{ModelId, VariantId};
use super::Engine;
use super::observe::Observed;
use crate::analyze::queueing::Tokens;
use crate::analyze::slo::fit::Coefficients;
use crate::analyze::slo::{Demand, ModelMemory, ReplicaTotals, Shown, Sized, VariantMemory, stated};
use crate::analyze::tokens::SchedulerQueue;
use crate::config::{ModelConfig, PerfParms, Variant};
use crate::optimize::planner::{PlanVariant, Unknown, own_profile, targets};

impl Engine {
    /// Takes the memory of a model and its variants out, to be given back by [`Engine::remember`].
    pub(super) fn recall(
        &mut self,
        id: ModelId,
        variants: &[VariantId],
        memories: &mut Vec<VariantMemory>,
    ) -> ModelMemory {
        memories.clear();
        for id in variants {
            memories.push(std::mem::take(&mut self.topology.variants[*id as usize].learned));
        }
        std::mem::take(&mut self.topology.models[id as usize].load)
    }

    /// Puts the memory of a model and its variants back.
    pub(super) fn remember(
        &mut self,
        id: ModelId,
        variants: &[VariantId],
        memories: &mut Vec<VariantMemory>,
        load: ModelMemory,
    ) {
        for (id, memory) in variants.iter().zip(memories.drain(..)) {
            self.topology.variants[*id as usize].learned = memory;
        }
        self.topology.models[id as usize].load = load;
    }
}

/// What [`look_ahead`] reads and fills.
pub(super) struct Foresight<'a> {
    /// Counts of the replicas that report.
    pub counted: &'a [ReplicaTotals],
    /// What is seen of each variant.
    pub observed: &'a [Observed],
    /// Average request, once known.
    pub tokens: Option<Tokens>,
    /// Capacities, filled in.
    pub sized: &'a mut Vec<Sized>,
    /// What is remembered of each variant.
    pub memories: &'a mut [VariantMemory],
}

/// Lets the analyzer take in what the replicas show, and asks it for the demand. The capacities of the
/// variants are left in `scratch.sized`.
pub(super) fn look_ahead(
    model: &mut ModelMemory,
    config: &ModelConfig,
    planned: &[PlanVariant<'_>],
    scheduler: Option<SchedulerQueue>,
    scratch: &mut Foresight<'_>,
) -> Result<Demand, Unknown> {
    let at = scratch.counted.iter().map(|replica| replica.at).max().ok_or(Unknown::ArrivalRate)?;
    for (memory, variant) in scratch.memories.iter_mut().zip(planned) {
        memory.fit.state(prior(variant.config));
    }
    let shown = Shown {
        replicas: scratch.counted,
        held_back: scheduler.map_or(0.0, |queue| queue.size),
        request: scratch.tokens.map(|tokens| (tokens.input, tokens.output)),
        at,
    };
    let wanted = planned.iter().map(|variant| variant.state.desired.unwrap_or(variant.state.current));
    model.observe(&shown, wanted, scratch.memories);
    scratch.sized.clear();
    let (mut has_targets, mut patience_ms) = (false, 0.0_f64);
    for (memory, variant) in scratch.memories.iter_mut().zip(planned) {
        let targets = targets(variant.config, config);
        has_targets |= targets.is_some();
        let targets = targets.unwrap_or_default();
        patience_ms = targets.ttft_ms.max(patience_ms);
        let most = own_profile(variant.config).map_or(0.0, |profile| f64::from(profile.max_batch));
        scratch.sized.push(model.capacity(memory, targets.ttft_ms, targets.itl_ms, most));
    }
    if !has_targets {
        return Err(Unknown::Targets);
    }
    let known = |sized: &Sized| match sized {
        Sized::Known(found) | Sized::Unreachable(found) => Some(*found),
        Sized::Unknown => None,
    };
    let residence_s = scratch.sized.iter().find_map(known).ok_or(Unknown::Learning)?.residence_s;
    if !model.is_ready() {
        return Err(Unknown::Learning);
    }
    let carried_per_s: f64 = scratch
        .sized
        .iter()
        .zip(planned)
        .filter_map(|(sized, variant)| known(sized).map(|c| c.rate_per_s * f64::from(variant.state.current)))
        .sum();
    let horizon_ms = scratch.memories.iter().map(VariantMemory::startup_ms).max().unwrap_or_default();
    let d = model.demand(horizon_ms, carried_per_s, residence_s + patience_ms / 1000.0);
    if std::env::var_os("SIM_DEBUG").is_some() {
        let inside: f64 = scratch.counted.iter().map(|r| r.inside).sum();
        let waiting: f64 = scratch.counted.iter().map(|r| r.waiting).sum();
        eprintln!("DBG t={:.0} arr={:.2} tr={:.2} gr={:.2} no={:.2} bl={:.2} need={:.2} H={} cap={:?} fit={:?} shape={:?} pods={} rep={} inside={inside} wait={waiting}", (at.0-1_767_225_600_000) as f64/1000.0, d.arriving_per_s, d.trend_per_s, d.growth_per_s, d.noise_per_s, d.backlog_per_s, d.ready_for_per_s, d.horizon_ms/1000, scratch.sized[0], scratch.memories[0].fit.coefficients(), model.shape(), planned[0].state.current, scratch.observed[0].reporting);
    }
    Ok(d)
}

/// Parameters of the iteration-time model that the object states, as a start.
fn prior(variant: &Variant) -> Option<Coefficients> {
    match own_profile(variant)?.perf? {
        PerfParms::Iteration { alpha, beta, gamma } => stated(alpha, beta, gamma),
        _ => None,
    }
}
