//! The analyzers that size by demand, behind one interface: what one model is asked to carry in, replicas
//! per variant with their cause out.
//!
//! | mode | wants |
//! | --- | --- |
//! | `model` | the cheapest mix of variants whose sized capacities cover the arrival rate |
//! | `tokens` | the cheapest change that brings token demand and supply into balance |
//! | `hybrid` | as `model`, arbitrated with saturation: any may ask for more, all must agree to less |
//!
//! When what a mode needs is not known (no arrival rate, no profile, no KV capacity) the answer is an
//! [`Unknown`] and the caller falls back to saturation.
//!
//! Wishes are functions of what is observed. What was asked for before is looked at by [`hold`] alone, after
//! them: it keeps what must not be lowered, and given its own answer it gives it again.

mod bridge;
mod foresight;

pub use bridge::{Bridge, Outlook};

use super::cause::Cause;
use super::cost_aware::{self, CostAware, Step};
use super::mix::{self, Mixer};
use crate::analyze::queueing::{
    BatchSource, QUEUE_PER_BATCH, Queue, ServiceTimes, SizeError, Sizing, Tokens, batch_limit,
};
use crate::analyze::rule::Rule;
use crate::analyze::saturation::SaturationAnalysis;
use crate::analyze::saturation::targets::VariantState;
use crate::analyze::tokens::{self, ReplicaTokens, SchedulerQueue, TokenAnalysis, TokenMemory, TokenVariant};
use crate::config::{
    Mode, ModelConfig, ModelKey, PerfParms, Profile, Role, SaturationConfig, SloTargets, Variant,
};
use crate::units::TimeMs;
use std::sync::Arc;

/// Share of the service limit that a replica is loaded to when no target can be met there is none to
/// size by; the rest keeps the queue short.
const STABLE_SHARE: f64 = 0.8;

/// One variant as the planner sees it.
#[derive(Clone, Copy, Debug)]
pub struct PlanVariant<'a> {
    /// Its configuration.
    pub config: &'a Variant,
    /// Replica state and bounds.
    pub state: VariantState,
    /// Its last sizing, to answer the same question without work.
    pub sizing: Option<Sizing>,
}

impl PlanVariant<'_> {
    /// Replicas last asked for, else those that run, as far as the bounds still allow them.
    fn asked(&self) -> u32 {
        let VariantState { current, desired, min, max, .. } = self.state;
        desired.unwrap_or(current).clamp(min.min(max), max)
    }
}

/// What one model is asked to carry.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The model.
    pub model: &'a ModelKey,
    /// Its configuration.
    pub config: &'a ModelConfig,
    /// Its variants in name order.
    pub variants: &'a [PlanVariant<'a>],
    /// Token readings of the replicas that report.
    pub replicas: &'a [ReplicaTokens],
    /// Requests arriving per second, over all variants.
    pub rate_per_s: Option<f64>,
    /// Average request, over all variants.
    pub tokens: Option<Tokens>,
    /// The scheduler's queue.
    pub scheduler: Option<SchedulerQueue>,
    /// Some ready replica does not report: the demand is a lower bound.
    pub is_partial: bool,
    /// Time of the newest sample used.
    pub observed_at: TimeMs,
}

/// What a mode wants for one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// Replicas.
    pub replicas: u32,
    /// Replicas that the analysis alone came to, before anything was held back.
    analyzed: u32,
    /// Nobody knows what a replica carries.
    is_unsized: bool,
    /// A target cannot be met.
    is_missed: bool,
    /// The constraint that binds.
    pub cause: Cause,
    /// Requests per second that one replica carries within the targets, where known.
    pub capacity_per_s: Option<f64>,
    /// The sizing behind it.
    pub sizing: Option<Sizing>,
}

impl Wish {
    /// So many replicas, for no reason yet.
    fn keeping(replicas: u32) -> Self {
        let (cause, capacity_per_s, sizing) = (Cause::Steady, None, None);
        Wish {
            replicas,
            analyzed: replicas,
            is_unsized: false,
            is_missed: false,
            cause,
            capacity_per_s,
            sizing,
        }
    }
}

/// Why a mode has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The arrival rate is not known (yet).
    ArrivalRate,
    /// The length of requests is not known (yet).
    RequestLength,
    /// No variant has performance parameters with a batch size.
    Profile,
    /// No replica reports the size of its KV cache.
    KvCapacity,
    /// No service class states targets for the model.
    Targets,
    /// Too little has been observed to know what a replica carries.
    Learning,
}

impl Unknown {
    /// What to do about it.
    pub fn explain(self) -> &'static str {
        match self {
            Unknown::ArrivalRate => "the arrival rate is not known; forward the completed-requests counter",
            Unknown::RequestLength => "the request length is not known; forward the token counters",
            Unknown::Profile => "no variant has performance parameters and a batch size; add modelProfile",
            Unknown::KvCapacity => "no replica reports its KV cache size; forward vllm:cache_config_info",
            Unknown::Targets => {
                "no service class states targets for the model; add it to service-classes-config"
            }
            Unknown::Learning => {
                "too little has been observed to know what a replica carries; it is learned under load"
            }
        }
    }
}

/// The planner; keeps its working memory from call to call.
#[derive(Debug, Default)]
pub struct Planner {
    mixer: Mixer,
    offers: Vec<mix::Offer>,
    counts: Vec<u32>,
    cost_aware: CostAware,
    token_offers: Vec<cost_aware::Offer>,
    token_plan: Vec<cost_aware::Plan>,
    token_variants: Vec<TokenVariant>,
    token_analysis: TokenAnalysis,
    second: Vec<Wish>,
}

impl Planner {
    /// Wishes of all analyzers of a mode that size by demand, one per variant, into `out`: of two the
    /// larger count. An analyzer that lacks its input is left out while another has an answer.
    pub fn wishes(
        &mut self,
        out: &mut Vec<Wish>,
        mode: Mode,
        memory: &mut TokenMemory,
        input: &PlanInput<'_>,
    ) -> Result<(), Unknown> {
        if !mode.tokens {
            return self.by_model(out, input);
        }
        if !mode.model {
            return self.by_tokens(out, memory, input);
        }
        let mut by_tokens = std::mem::take(&mut self.second);
        let answers = (self.by_model(out, input), self.by_tokens(&mut by_tokens, memory, input));
        let outcome = match answers {
            (Ok(()), Ok(())) => {
                for (wish, other) in out.iter_mut().zip(&by_tokens) {
                    // The cause follows what was analyzed, not what was held back.
                    if other.analyzed > wish.analyzed {
                        (wish.analyzed, wish.cause) = (other.analyzed, other.cause);
                    }
                    wish.replicas = wish.replicas.max(other.replicas);
                }
                Ok(())
            }
            (Err(_), Ok(())) => {
                std::mem::swap(out, &mut by_tokens);
                Ok(())
            }
            (model, _) => model,
        };
        self.second = by_tokens;
        outcome
    }

    /// Wishes by the queueing model, one per variant, into `out`.
    pub fn by_model(&mut self, out: &mut Vec<Wish>, input: &PlanInput<'_>) -> Result<(), Unknown> {
        out.clear();
        let rate_per_s = input.rate_per_s.ok_or(Unknown::ArrivalRate)?;
        let tokens = match input.tokens {
            Some(tokens) => tokens,
            // Without load the length of requests does not matter.
            None if rate_per_s == 0.0 => Tokens { input: 0.0, output: 1.0 },
            None => return Err(Unknown::RequestLength),
        };
        out.extend(input.variants.iter().map(|variant| size(variant, input.config, tokens)));
        if out.iter().all(|wish| wish.capacity_per_s.is_none()) {
            return Err(Unknown::Profile);
        }
        self.cover(out, input.variants, rate_per_s);
        Ok(())
    }

    /// Fills in the cheapest replicas whose capacities cover `rate_per_s`.
    fn cover(&mut self, out: &mut [Wish], variants: &[PlanVariant<'_>], rate_per_s: f64) {
        self.offers.clear();
        for (variant, wish) in variants.iter().zip(out.iter()) {
            // A change is counted from what runs, so that asking again changes nothing.
            let base = variant.state.current;
            let (min, max) = match wish.capacity_per_s {
                Some(_) => (variant.state.min, variant.state.max),
                None => (base, base),
            };
            let capacity = wish.capacity_per_s.unwrap_or(0.0);
            self.offers.push(mix::Offer { capacity, cost: variant.state.cost, base, min, max });
        }
        let unmet = self.mixer.solve_into(&mut self.counts, rate_per_s, &self.offers);
        for ((wish, variant), count) in out.iter_mut().zip(variants).zip(&self.counts) {
            (wish.replicas, wish.analyzed) = (*count, *count);
            if unmet > 0.0 && *count == variant.state.max {
                wish.cause = Cause::AtMaximum;
            }
        }
    }

    /// Wishes by token capacity, one per variant, into `out`.
    pub fn by_tokens(
        &mut self,
        out: &mut Vec<Wish>,
        memory: &mut TokenMemory,
        input: &PlanInput<'_>,
    ) -> Result<(), Unknown> {
        out.clear();
        self.token_variants.clear();
        self.token_variants.extend(input.variants.iter().map(|variant| TokenVariant {
            name: variant.config.key.name.clone(),
            accelerator: variant.config.accelerator.clone(),
            gpus_per_replica: variant.config.acc_count,
            current: variant.state.current,
            pending: variant.state.pending,
        }));
        let question = tokens::TokenInput {
            namespace: &input.model.namespace,
            model_id: &learned_as(input.model),
            config: &input.config.saturation,
            variants: &self.token_variants,
            replicas: input.replicas,
            scheduler: input.scheduler,
            now: input.observed_at,
        };
        tokens::analyze_into(&mut self.token_analysis, memory, Rule::Guarded, &question);
        let analysis = &self.token_analysis;
        if analysis.variants.iter().all(|variant| variant.per_replica == 0) {
            return Err(Unknown::KvCapacity);
        }
        self.token_offers.clear();
        for (variant, figures) in input.variants.iter().zip(&analysis.variants) {
            let VariantState { current, cost, min, max, .. } = variant.state;
            let capacity = Some(figures.per_replica as f64);
            self.token_offers.push(cost_aware::Offer { capacity, cost, current, min, max });
        }
        let spare = if input.is_partial { 0.0 } else { analysis.spare };
        let rule = Rule::Guarded;
        self.cost_aware.solve_into(&mut self.token_plan, rule, analysis.required, spare, &self.token_offers);
        for plan in &self.token_plan {
            let cause = match plan.step {
                Step::NoChange => Cause::Steady,
                Step::ScaleUp => Cause::TokenCapacity,
                Step::ScaleDown => Cause::SpareCapacity,
            };
            out.push(Wish { cause, ..Wish::keeping(plan.replicas) });
        }
        Ok(())
    }
}

/// Name under which the token analyzer keeps what it learns: roles fill their caches differently.
fn learned_as(model: &ModelKey) -> Arc<str> {
    match model.role {
        Role::Both => model.model_id.clone(),
        role => format!("{} ({})", model.model_id, role.as_str()).into(),
    }
}

/// Capacity of one replica of a variant under the model's average request.
fn size(variant: &PlanVariant<'_>, config: &ModelConfig, tokens: Tokens) -> Wish {
    let sized = Wish::keeping(variant.state.current);
    let nothing = Wish { is_unsized: true, ..sized };
    let Some(queue) = own_profile(variant.config).and_then(|profile| queue(profile, tokens)) else {
        return nothing;
    };
    let targets = targets(variant.config, config);
    let asked = targets.unwrap_or_default();
    let answer = match &variant.sizing {
        Some(previous) => queue.size_again(&asked, previous),
        None => queue.size(&asked),
    };
    match answer {
        Ok(sizing) => {
            let share = match targets {
                Some(_) => 1.0,
                // As the reference infers it: the load may slow a request down `k` times, rho = 1 - 1/k.
                None => {
                    1.0 - 1.0 / config.queueing.map_or(QUEUE_SLOWDOWN, |queueing| queueing.slo_multiplier)
                }
            };
            let capacity_per_s = Some(sizing.metrics.throughput_per_ms * 1000.0 * share);
            Wish { cause: Cause::from(sizing.binding), capacity_per_s, sizing: Some(sizing), ..sized }
        }
        Err(SizeError::Unreachable(_)) => {
            let capacity_per_s = Some(queue.max_rate_per_ms() * 1000.0 * STABLE_SHARE);
            Wish { cause: Cause::Unreachable, is_missed: true, capacity_per_s, ..sized }
        }
        Err(SizeError::Input(_)) => nothing,
    }
}

/// Slow-down that an inferred target allows when nothing states one.
const QUEUE_SLOWDOWN: f64 = crate::config::QueueingConfig::SLO_MULTIPLIER;

/// The profile for the accelerator that the variant runs on.
pub fn own_profile(variant: &Variant) -> Option<&Profile> {
    variant.profiles.iter().find(|profile| profile.accelerator == variant.accelerator)
}

fn queue(profile: &Profile, tokens: Tokens) -> Option<Queue> {
    let parms = profile.perf?;
    let source = BatchSource { stated: 0, profile: profile.max_batch, at_tokens: profile.at_tokens };
    let stated = BatchSource { stated: profile.max_batch, profile: 0, at_tokens: 0 };
    let batch = batch_limit(if profile.at_tokens > 0 { source } else { stated }, tokens.output);
    let per_batch = match parms {
        // Generation A counts the requests in service among the ten batches.
        PerfParms::Decode { .. } => QUEUE_PER_BATCH - 1,
        _ => QUEUE_PER_BATCH,
    };
    let service = ServiceTimes::new(&parms, tokens).ok()?;
    Queue::new(service, batch, batch.saturating_mul(per_batch)).ok()
}

/// Explicit targets: those of the queueing entry, else those of the service class.
pub fn targets(variant: &Variant, config: &ModelConfig) -> Option<SloTargets> {
    let entry = config.queueing.map(|queueing| queueing.targets);
    entry
        .filter(SloTargets::is_any)
        .or_else(|| variant.slo.as_ref().map(|slo| slo.targets).filter(SloTargets::is_any))
}

/// Arbitrates the queueing model's wishes with saturation, in place: any may ask for more, all must agree
/// to less.
///
/// * Saturation asks for more while the model does not: `grown`, saturation's own targets from what runs,
///   apply to the variants that they raise.
/// * The model asks for less: at most as many replicas go as leave saturation's headroom, dearest first.
pub fn arbitrate(
    wishes: &mut [Wish],
    variants: &[PlanVariant<'_>],
    analysis: &SaturationAnalysis,
    config: &SaturationConfig,
    grown: &[(u32, Cause)],
) {
    // Measured from what runs, not from what was asked for, so that asking again changes nothing.
    let grows = wishes.iter().zip(variants).any(|(wish, variant)| wish.replicas > variant.state.current);
    if analysis.should_scale_up() && !grows {
        for ((wish, variant), (count, _)) in wishes.iter_mut().zip(variants).zip(grown) {
            wish.replicas = wish.replicas.max(variant.state.current).max(*count);
        }
        return;
    }
    let mut allowed = if analysis.should_scale_up() { 0 } else { safe_removals(analysis, config) };
    let state = |index: usize| &variants[index].state;
    let mut shrinking: Vec<usize> =
        (0..wishes.len()).filter(|index| wishes[*index].replicas < state(*index).current).collect();
    shrinking.sort_by(|a, b| state(*b).cost.total_cmp(&state(*a).cost).then(b.cmp(a)));
    for index in shrinking {
        let removed = (state(index).current - wishes[index].replicas).min(allowed);
        allowed -= removed;
        wishes[index].replicas = state(index).current - removed;
    }
}

/// Keeps what was asked for before where less would rest on too little: on a demand that not all replicas
/// report and which is a lower bound therefore (`is_partial`), on a target that is missed already, or on a
/// variant of which nobody knows what it carries. The only step that knows what was asked for before.
pub fn hold(wishes: &mut [Wish], variants: &[PlanVariant<'_>], is_partial: bool) {
    for (wish, variant) in wishes.iter_mut().zip(variants) {
        // Where nothing is known, what runs says nothing either: it may be one too many for a moment.
        let says_nothing = wish.is_unsized && wish.replicas == variant.state.current;
        if says_nothing {
            wish.replicas = variant.asked();
        } else if is_partial || wish.is_unsized || wish.is_missed {
            wish.replicas = wish.replicas.max(variant.asked());
        }
    }
}

/// Names what binds each wish in the end. It follows from the counts alone, not from what was asked for
/// before, so that asking again gives the same name. `saturation` is given where it was arbitrated with.
pub fn name_causes(
    wishes: &mut [Wish],
    variants: &[PlanVariant<'_>],
    saturation: Option<&[(u32, Cause)]>,
    is_partial: bool,
) {
    for (index, (wish, variant)) in wishes.iter_mut().zip(variants).enumerate() {
        let current = variant.state.current;
        let raised = saturation
            .and_then(|targets| targets.get(index))
            .filter(|(count, cause)| *count == wish.replicas && *count > current && cause.is_saturation());
        if wish.replicas <= wish.analyzed {
            if wish.replicas < current && wish.cause != Cause::AtMaximum {
                wish.cause = Cause::SpareCapacity;
            }
        } else if let Some((_, cause)) = raised {
            wish.cause = *cause;
        } else if wish.cause != Cause::Unreachable {
            wish.cause = match (is_partial, wish.replicas == current) {
                (true, _) => Cause::HoldInput,
                (false, true) => Cause::Steady,
                (false, false) => Cause::Transition,
            };
        }
    }
}

/// Most replicas that may go at once so that the rest keeps its headroom: with `n` replicas that are not
/// saturated and load `T - spare` on average, `T - load n / (n - k) >= G` for KV cache and queue.
fn safe_removals(analysis: &SaturationAnalysis, config: &SaturationConfig) -> u32 {
    if !analysis.scale_down_safe {
        return 0;
    }
    let n = f64::from(analysis.non_saturated);
    let most = |threshold: f64, spare: f64, trigger: f64| {
        let room = threshold - trigger;
        let load = threshold - spare;
        if load <= 0.0 {
            n - 1.0
        } else if room > 0.0 {
            n * (1.0 - load / room)
        } else {
            0.0
        }
    };
    let kv = most(config.kv_cache_threshold, analysis.avg_spare_kv, config.kv_spare_trigger);
    let queue = most(config.queue_length_threshold, analysis.avg_spare_queue, config.queue_spare_trigger);
    // The analyzer has already found that one may go.
    (kv.min(queue).min(n - 1.0).floor() as u32).max(1)
}
