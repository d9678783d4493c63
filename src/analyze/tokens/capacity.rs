//! Capacity of single replicas and variants, in tokens: from readings, from memory, or estimated.

use super::engine::Limits;
use super::memory::{CapacityRecord, Histories, Learned, ModelMemory, OutputLength};
use super::{Means, ReplicaTokens, TokenAnalysis, TokenInput, number};
use crate::analyze::exact::ExactSum;
use crate::analyze::rule::Rule;

/// Observations from which a variant's own history is trusted to lower its capacity (guarded rule).
const OBSERVATIONS_MIN: usize = 3;

/// Working memory of one variant during one call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Whether a replica with a known KV-cache size reports.
    reports: bool,
    /// What the engine's parameters allow, when a deployment stated them.
    limits: Option<Limits>,
    /// Median of the variant's own observations by output length, when there are enough of them.
    observed: [Option<u64>; 3],
    /// Tokens in use and waiting.
    demand: ExactSum,
    /// KV-cache size to remember, tokens.
    total_kv_tokens: u64,
    /// Effective capacity of the last replica, tokens.
    last_effective: u64,
}

/// Computes the demand of every variant and the capacity of those with replicas; then, as they may
/// lean on the former, the capacity of those without.
pub(super) fn variants_into(
    out: &mut TokenAnalysis,
    model: &mut ModelMemory,
    rule: Rule,
    input: &TokenInput,
    means: Means,
) {
    prepare(out, model, rule, input);
    for replica in input.replicas {
        add_replica(out, model, rule, input, replica);
    }
    out.effective.sort_unstable();
    let mut rest = out.effective.as_slice();
    for i in 0..input.variants.len() {
        let (mine, others) = rest.split_at(rest.partition_point(|&(v, _)| v as usize == i));
        rest = others;
        out.variants[i].seen = mine.len() as u32;
        out.variants[i].demand = out.known[i].demand.mean(1);
        if let Some(median) = median(mine) {
            out.variants[i].per_replica = median;
            remember(model, rule, input, i, &out.known[i], median);
        }
    }
    for i in 0..input.variants.len() {
        if out.variants[i].seen == 0 {
            out.variants[i].per_replica = unseen(model, rule, input, i, means);
        }
    }
}

/// Looks up once per variant what its replicas need, so that the loop over replicas does not.
fn prepare(out: &mut TokenAnalysis, model: &mut ModelMemory, rule: Rule, input: &TokenInput) {
    out.effective.clear();
    out.known.clear();
    out.known.resize(input.variants.len(), Known::default());
    for replica in input.replicas.iter().filter(|r| r.total_kv_tokens > 0) {
        if let Some(known) = out.known.get_mut(replica.variant as usize) {
            known.reports = true;
        }
    }
    for (known, variant) in out.known.iter_mut().zip(input.variants) {
        if known.reports && model.get(input.namespace, &variant.name).is_none() {
            model.insert(
                input.namespace,
                &variant.name,
                CapacityRecord {
                    accelerator: variant.accelerator.clone(),
                    gpus_per_replica: variant.gpus_per_replica,
                    params: None,
                    learned: Learned::Live,
                    effective_tokens: 0,
                    total_kv_tokens: 0,
                    last_used: input.now,
                    observed: Histories::default(),
                },
            );
        }
    }
    if rule == Rule::Guarded {
        observe(model, input);
    }
    for (known, variant) in out.known.iter_mut().zip(input.variants) {
        let Some(record) = model.get_mut(input.namespace, &variant.name) else { continue };
        record.last_used = record.last_used.max(input.now);
        known.limits = record.params.as_ref().map(|p| p.limits());
        for (median, history) in known.observed.iter_mut().zip(&record.observed) {
            *median = history.median().filter(|_| history.len() >= OBSERVATIONS_MIN);
        }
    }
}

/// Notes what the replicas under load show, in their variants' own histories.
fn observe(model: &mut ModelMemory, input: &TokenInput) {
    for replica in input.replicas.iter().filter(|r| r.total_kv_tokens > 0 && is_waiting(input, r)) {
        let Some(variant) = input.variants.get(replica.variant as usize) else { continue };
        if let Some(record) = model.get_mut(input.namespace, &variant.name) {
            let length = OutputLength::of(replica.avg_output_tokens) as usize;
            record.observed[length].push_spaced(input.now, replica.tokens_in_use);
        }
    }
}

fn add_replica(
    out: &mut TokenAnalysis,
    model: &mut ModelMemory,
    rule: Rule,
    input: &TokenInput,
    replica: &ReplicaTokens,
) {
    let i = replica.variant as usize;
    let Some(known) = out.known.get_mut(i) else { return };
    if replica.total_kv_tokens == 0 {
        return;
    }
    let queued = number(replica.queue_length) * number(replica.avg_input_tokens).trunc();
    known.demand.add(replica.tokens_in_use as f64 + queued);
    let k1 = (replica.total_kv_tokens as f64 * input.config.kv_cache_threshold) as u64;
    let length = OutputLength::of(replica.avg_output_tokens) as usize;
    let estimate = known.limits.and_then(|l| l.estimate(replica.avg_input_tokens, replica.avg_output_tokens));
    let k2 = match rule {
        Rule::Reference => reference_k2(model, input, replica, length).or(estimate).unwrap_or(k1),
        Rule::Guarded => guarded_k2(known, input, replica, length, estimate.unwrap_or(k1)),
    };
    let effective = k1.min(k2);
    out.effective.push((replica.variant, effective));
    known.last_effective = effective;
    known.total_kv_tokens = match rule {
        Rule::Reference => replica.total_kv_tokens,
        Rule::Guarded => replica.total_kv_tokens.max(known.total_kv_tokens),
    };
}

/// The reference's order: what this replica shows now, else what its accelerator type showed before.
fn reference_k2(
    model: &mut ModelMemory,
    input: &TokenInput,
    replica: &ReplicaTokens,
    length: usize,
) -> Option<u64> {
    let accelerator = &input.variants[replica.variant as usize].accelerator;
    let waiting = number(replica.queue_length) >= input.config.queue_length_threshold.trunc();
    if waiting && replica.tokens_in_use > 0 {
        let histories = model.shared.entry(accelerator.clone()).or_default();
        histories[length].push(input.now, replica.tokens_in_use);
        return Some(replica.tokens_in_use);
    }
    model.shared.get(accelerator)?[length].mean()
}

/// The guarded order: the variant's own history once it has enough, else the estimate, raised by what
/// this replica shows now.
fn guarded_k2(known: &Known, input: &TokenInput, replica: &ReplicaTokens, length: usize, base: u64) -> u64 {
    match known.observed[length] {
        Some(median) => median,
        None if is_waiting(input, replica) => base.max(replica.tokens_in_use),
        None => base,
    }
}

fn is_waiting(input: &TokenInput, replica: &ReplicaTokens) -> bool {
    let queue = replica.queue_length;
    queue.is_finite() && queue >= input.config.queue_length_threshold && replica.tokens_in_use > 0
}

/// Median of sorted capacities; the middle two of an even number are averaged, rounded down.
fn median(sorted: &[(u32, u64)]) -> Option<u64> {
    let (_, upper) = sorted.get(sorted.len() / 2)?;
    let (_, lower) = sorted.get((sorted.len() - 1) / 2)?;
    Some(lower.midpoint(*upper))
}

/// Stores what was measured on the variant's replicas.
fn remember(model: &mut ModelMemory, rule: Rule, input: &TokenInput, i: usize, known: &Known, median: u64) {
    let variant = &input.variants[i];
    if let Some(record) = model.get_mut(input.namespace, &variant.name) {
        record.learned = Learned::Live;
        record.effective_tokens = if rule == Rule::Reference { known.last_effective } else { median };
        record.total_kv_tokens = known.total_kv_tokens;
        record.accelerator = variant.accelerator.clone();
        record.gpus_per_replica = variant.gpus_per_replica;
    }
}

/// Capacity of a replica of a variant without reporting replicas: as last measured; else as its
/// parameters and an interchangeable variant suggest; else the step budget; else unknown, 0.
fn unseen(model: &ModelMemory, rule: Rule, input: &TokenInput, i: usize, means: Means) -> u64 {
    let Some(record) = model.get(input.namespace, &input.variants[i].name) else { return 0 };
    if record.learned == Learned::Live {
        return record.effective_tokens;
    }
    let limits = record.params.as_ref().map(|p| p.limits());
    let Some(estimate) = limits.and_then(|l| l.estimate(means.input, means.output)) else {
        return record.effective_tokens;
    };
    let k1 = match record.total_kv_tokens {
        0 => u64::MAX,
        total => (total as f64 * input.config.kv_cache_threshold) as u64,
    };
    estimate.min(k1).min(model.compatible_live(record, rule).unwrap_or(u64::MAX))
}
