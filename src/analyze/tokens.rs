//! Token-capacity analyzer: how many tokens a model's replicas hold, how many they could hold, and what
//! is required or spare.
//!
//! A replica is bound by memory (`k1`, a share of its KV cache) or by compute (`k2`, the tokens in use
//! when requests wait although there is memory). `k2` is observed, remembered and, for replicas never
//! seen under load, estimated from the engine's parameters. Input: the readings of one model and the
//! [`TokenMemory`]. Output: [`TokenAnalysis`], reused without allocating. It must not know where the
//! readings come from, nor what time it is other than by `now`.
//!
//! `required = max(demand / up - anticipated, 0)` and `spare = max(supply - demand / down, 0)`, where
//! supply counts ready replicas and anticipated also those on their way.
//!
//! # Readings that are not numbers
//!
//! A negative, NaN or infinite queue or average counts as 0 under both rules, and makes its replica
//! *blind*, as does a KV-cache size of 0. While a model has a blind replica, or a ready one that does
//! not report at all, [`Rule::Guarded`] finds nothing spare: load that is not seen is not absent.

use std::sync::Arc;

use super::exact::ExactSum;
use super::rule::Rule;
use crate::config::SaturationConfig;
use crate::units::TimeMs;

mod capacity;
mod engine;
mod memory;

pub use engine::{EngineParams, Limits};
pub use memory::{
    CapacityRecord, Deployment, HISTORY_LEN, History, Learned, MEMORY_MAX_AGE_MS, OBSERVATION_SPACING_MS,
    OutputLength, RECORDS_PER_MODEL_MAX, TokenMemory,
};

/// Demand over supply from which more is required, when configuration gives 0.
pub const DEFAULT_SCALE_UP: f64 = 0.85;
/// Demand over supply below which something is spare, when configuration gives 0.
pub const DEFAULT_SCALE_DOWN: f64 = 0.70;

/// Latest readings of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReplicaTokens {
    /// Index of its variant; an index beyond the variants is the caller's mistake, and the replica is
    /// left out.
    pub variant: u32,
    /// KV-cache size, tokens; 0 when unknown.
    pub total_kv_tokens: u64,
    /// KV-cache tokens in use.
    pub tokens_in_use: u64,
    /// Requests waiting in the replica, >= 0.
    pub queue_length: f64,
    /// Average prompt length, tokens; 0 when unknown.
    pub avg_input_tokens: f64,
    /// Average generated length, tokens; 0 when unknown.
    pub avg_output_tokens: f64,
    /// Share of prompt tokens served from the prefix cache, 0..1.
    pub prefix_cache_hit_rate: f64,
}

impl ReplicaTokens {
    /// Whether every reading that capacity and demand follow from is a number, and the cache has a size.
    fn is_usable(&self) -> bool {
        let usable = |x: f64| x.is_finite() && x >= 0.0;
        self.total_kv_tokens > 0
            && usable(self.queue_length)
            && usable(self.avg_input_tokens)
            && usable(self.avg_output_tokens)
    }
}

/// One variant of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenVariant {
    /// Variant name.
    pub name: Arc<str>,
    /// Accelerator type.
    pub accelerator: Arc<str>,
    /// Accelerators per replica, at least 1.
    pub gpus_per_replica: u32,
    /// Replicas that the scale target runs now.
    pub current: u32,
    /// Replicas of `current` that are not ready yet.
    pub pending: u32,
}

/// Requests that wait in the inference scheduler, before any replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerQueue {
    /// Requests waiting, >= 0.
    pub size: f64,
    /// Their size, bytes; about four make a token.
    pub bytes: f64,
}

/// One call's input: a model in one namespace.
#[derive(Clone, Copy, Debug)]
pub struct TokenInput<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a Arc<str>,
    /// Model ID.
    pub model_id: &'a Arc<str>,
    /// Thresholds; `kv_cache_threshold`, `queue_length_threshold`, `scale_up_threshold` and
    /// `scale_down_boundary` are used.
    pub config: &'a SaturationConfig,
    /// The model's variants in name order.
    pub variants: &'a [TokenVariant],
    /// Replicas that report.
    pub replicas: &'a [ReplicaTokens],
    /// The scheduler's queue, when it reports.
    pub scheduler: Option<SchedulerQueue>,
    /// Data time of the call.
    pub now: TimeMs,
}

/// Figures of one variant, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VariantTokens {
    /// Replicas that are ready: `current` less `pending`.
    pub ready: u32,
    /// Replicas on their way.
    pub pending: u32,
    /// Capacity of one replica; 0 when nothing is known.
    pub per_replica: u64,
    /// Capacity of the ready replicas.
    pub supply: f64,
    /// Tokens in use and waiting in its replicas.
    pub demand: f64,
    /// Demand over supply; 0 without supply.
    pub utilization: f64,
    /// Reporting replicas whose readings can be used.
    pub seen: u32,
}

/// Figures of one model, in tokens. Keep one per model and pass it to [`analyze_into`] again and again.
#[derive(Clone, Debug, Default)]
pub struct TokenAnalysis {
    /// Capacity of the ready replicas.
    pub supply: f64,
    /// Capacity of the ready and pending replicas.
    pub anticipated: f64,
    /// Tokens in use and waiting, the scheduler's queue included.
    pub demand: f64,
    /// Demand over supply; 0 without supply.
    pub utilization: f64,
    /// Capacity to add; 0 when there is enough.
    pub required: f64,
    /// Capacity that may go; 0 when none, or when some ready replica cannot be seen (guarded rule).
    pub spare: f64,
    /// Whether some ready replica does not report, or some reporting one is blind: how many at least.
    pub blind: u32,
    /// Per variant, by index.
    pub variants: Vec<VariantTokens>,
    /// Effective capacity of each usable replica with its variant.
    effective: Vec<(u32, u64)>,
    known: Vec<capacity::Known>,
}

/// Averages over the replicas that have an average input or output.
#[derive(Clone, Copy, Debug, Default)]
struct Means {
    input: f64,
    output: f64,
    hit_rate: f64,
}

/// Analyzes one model into `out`, learning from its readings.
///
/// [`Rule::Guarded`] differs as follows:
/// * compute-bound capacity is learned per variant, not per accelerator type (the reference mixes 1-GPU
///   and 8-GPU replicas); observations within ten seconds count as one; and fewer than three cannot
///   lower a capacity below its estimate, so that a short queue burst does not;
/// * the queue threshold is not truncated, and the order of the replicas does not matter;
/// * what is remembered of a variant is the median that was decided on, not its last replica's figure;
/// * nothing is spare while a ready replica cannot be seen.
pub fn analyze_into(out: &mut TokenAnalysis, memory: &mut TokenMemory, rule: Rule, input: &TokenInput) {
    let model = memory.models.entry(input.model_id.clone()).or_default();
    let means = means(input);
    out.variants.clear();
    out.variants.resize(input.variants.len(), VariantTokens::default());
    capacity::variants_into(out, model, rule, input, means);
    for (variant, given) in out.variants.iter_mut().zip(input.variants) {
        variant.pending = given.pending;
        variant.ready = given.current.saturating_sub(given.pending);
        variant.supply = f64::from(variant.ready) * variant.per_replica as f64;
        variant.utilization = ratio(variant.demand, variant.supply);
    }
    summarize(out, rule, input, means);
}

fn summarize(out: &mut TokenAnalysis, rule: Rule, input: &TokenInput, means: Means) {
    let (mut supply, mut anticipated, mut demand) = (0.0, 0.0, 0.0);
    let mut blind = input.replicas.iter().filter(|r| !r.is_usable()).count() as u32;
    for variant in &out.variants {
        supply += variant.supply;
        anticipated += (f64::from(variant.ready) + f64::from(variant.pending)) * variant.per_replica as f64;
        demand += variant.demand;
        blind = blind.max(variant.ready.saturating_sub(variant.seen));
    }
    (out.supply, out.anticipated) = (supply, anticipated);
    out.demand = demand + input.scheduler.map_or(0.0, |queue| scheduler_demand(queue, means));
    out.utilization = ratio(out.demand, out.supply);
    out.blind = blind;
    let or = |value: f64, default: f64| if value == 0.0 { default } else { value };
    let up = or(input.config.scale_up_threshold, DEFAULT_SCALE_UP);
    let down = or(input.config.scale_down_boundary, DEFAULT_SCALE_DOWN);
    // `max` with a NaN answers the other operand, so that a NaN threshold asks for nothing.
    out.required = (out.demand / up - out.anticipated).max(0.0);
    out.spare = (out.supply - out.demand / down).max(0.0);
    if rule == Rule::Guarded && out.blind > 0 {
        out.spare = 0.0;
    }
}

/// Tokens that the scheduler's queue will bring: prompts not in the prefix cache, and what they generate.
fn scheduler_demand(queue: SchedulerQueue, means: Means) -> f64 {
    let (size, bytes) = (number(queue.size), number(queue.bytes));
    (bytes / 4.0).max(size * means.input) * (1.0 - means.hit_rate) + size * means.output
}

fn means(input: &TokenInput) -> Means {
    let (mut inputs, mut outputs, mut hit_rates) = <(ExactSum, ExactSum, ExactSum)>::default();
    let mut n = 0;
    for replica in input.replicas {
        let (i, o) = (number(replica.avg_input_tokens), number(replica.avg_output_tokens));
        if i > 0.0 || o > 0.0 {
            n += 1;
            inputs.add(i);
            outputs.add(o);
            hit_rates.add(number(replica.prefix_cache_hit_rate).min(1.0));
        }
    }
    Means { input: inputs.mean(n), output: outputs.mean(n), hit_rate: hit_rates.mean(n) }
}

fn ratio(demand: f64, supply: f64) -> f64 {
    if supply > 0.0 { demand / supply } else { 0.0 }
}

/// A reading that is a number, is finite and not negative; else 0.
fn number(value: f64) -> f64 {
    if value.is_finite() && value > 0.0 { value } else { 0.0 }
}

#[cfg(test)]
mod tests;
