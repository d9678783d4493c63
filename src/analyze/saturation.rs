//! Saturation analyzer: KV-cache and queue headroom of a model's replicas, and the per-variant replica
//! targets that follow from it.
//!
//! Input: one [`ReplicaLoad`] per reporting replica and one [`VariantState`] per variant. Output:
//! [`SaturationAnalysis`] and one [`Target`] per variant, both reused without allocating. It must not
//! know where the readings come from nor what time it is.
//!
//! A replica is *saturated* when `usage >= Tk` or `queue >= Tq`. The *spare* of one that is not is
//! `Tk - usage` and `Tq - queue`; averages run over the replicas that are not saturated (0 if none).
//! The model wants one more replica when an average spare is below its trigger `G`. It can lose one
//! when, with the load of `n` unsaturated replicas spread over `n - 1`, both spares still reach `G`.
//!
//! # Readings that are not numbers
//!
//! A replica with a NaN or infinite reading is [`Reading::Unknown`] unless its other reading alone
//! saturates it. Unknown replicas count in `total` but in no average or maximum. While there is one, a
//! scale-down is never safe; when there are only unknown ones, the model keeps what it has. A NaN
//! threshold or trigger makes its comparisons false: nothing is saturated by it, nothing scales by it.

use super::exact::ExactSum;
use super::rule::Rule;
use crate::config::SaturationConfig;

pub mod targets;

pub use targets::{Cause, Target, VariantState, targets_into};

/// Latest readings of one replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaLoad {
    /// Index of its variant among the model's variants, which are in name order. An index beyond them
    /// is the caller's mistake; such a replica is left out.
    pub variant: u32,
    /// Share of KV-cache blocks in use, 0..1.
    pub kv_cache_usage: f64,
    /// Requests waiting in the replica, >= 0.
    pub queue_length: f64,
}

/// What one replica's readings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// At or over a threshold.
    Saturated,
    /// Under both thresholds.
    Free,
    /// Not a number, so neither can be said.
    Unknown,
}

/// Why the model wants one more replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Average spare KV usage is below `kv_spare_trigger`.
    Kv,
    /// Average spare queue is below `queue_spare_trigger`.
    Queue,
    /// Both of the above.
    KvAndQueue,
    /// Every known replica is saturated although no trigger is set to notice it (guarded rule only).
    AllSaturated,
}

/// Figures of one variant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VariantSaturation {
    /// Replicas that report.
    pub replicas: u32,
    /// Replicas under both thresholds.
    pub non_saturated: u32,
    /// Replicas whose readings are not numbers.
    pub unknown: u32,
    /// Largest KV-cache usage of a known replica, 0..1; 0 if none.
    pub max_kv: f64,
    /// Longest queue of a known replica; 0 if none.
    pub max_queue: f64,
    /// Average spare KV usage of the replicas that are not saturated, 0..1; 0 if none.
    pub avg_spare_kv: f64,
    /// Average spare queue of the replicas that are not saturated; 0 if none.
    pub avg_spare_queue: f64,
    spare: SpareSum,
}

/// Figures of one model. Keep one per model and pass it to [`analyze_into`] again and again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SaturationAnalysis {
    /// Replicas that report.
    pub total: u32,
    /// Replicas under both thresholds.
    pub non_saturated: u32,
    /// Replicas whose readings are not numbers.
    pub unknown: u32,
    /// Average spare KV usage of the replicas that are not saturated, 0..1; 0 if none.
    pub avg_spare_kv: f64,
    /// Average spare queue of the replicas that are not saturated; 0 if none.
    pub avg_spare_queue: f64,
    /// Set when the model wants one more replica.
    pub scale_up: Option<Trigger>,
    /// Whether the model keeps its headroom with one replica less.
    pub scale_down_safe: bool,
    /// Per variant, by index.
    pub variants: Vec<VariantSaturation>,
}

impl SaturationAnalysis {
    /// Whether the model wants one more replica.
    pub fn should_scale_up(&self) -> bool {
        self.scale_up.is_some()
    }

    /// Replicas at or over a threshold.
    pub fn saturated(&self) -> u32 {
        self.total.saturating_sub(self.non_saturated).saturating_sub(self.unknown)
    }
}

/// Sums of spare KV and spare queue: ours, and the reference's, which adds floating-point numbers in the
/// order given; where a figure meets its bound exactly, that order decides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SpareSum {
    kv: ExactSum,
    queue: ExactSum,
    reference_kv: f64,
    reference_queue: f64,
}

impl SpareSum {
    fn add(&mut self, rule: Rule, kv: f64, queue: f64) {
        match rule {
            Rule::Reference => {
                self.reference_kv += kv;
                self.reference_queue += queue;
            }
            Rule::Guarded => {
                self.kv.add(kv);
                self.queue.add(queue);
            }
        }
    }

    fn merge(&mut self, other: SpareSum) {
        self.kv.merge(other.kv);
        self.queue.merge(other.queue);
        self.reference_kv += other.reference_kv;
        self.reference_queue += other.reference_queue;
    }

    /// Average spare KV and spare queue over `n` replicas; 0 when there are none.
    fn average(self, rule: Rule, config: &SaturationConfig, n: u32) -> (f64, f64) {
        let average = |sum: ExactSum, reference: f64, threshold: f64| match rule {
            _ if n == 0 => 0.0,
            Rule::Reference => reference / f64::from(n),
            // The sum cannot carry it, but the spare under an infinite or NaN threshold is just that.
            Rule::Guarded if !threshold.is_finite() => threshold,
            Rule::Guarded => sum.mean(n),
        };
        (
            average(self.kv, self.reference_kv, config.kv_cache_threshold),
            average(self.queue, self.reference_queue, config.queue_length_threshold),
        )
    }
}

/// Classifies one replica; see the module's text for readings that are not numbers.
pub fn reading(config: &SaturationConfig, load: &ReplicaLoad) -> Reading {
    let (kv, queue) = (load.kv_cache_usage, load.queue_length);
    let over_kv = kv.is_finite() && kv >= config.kv_cache_threshold;
    let over_queue = queue.is_finite() && queue >= config.queue_length_threshold;
    match (over_kv || over_queue, kv.is_finite() && queue.is_finite()) {
        (true, _) => Reading::Saturated,
        (false, true) => Reading::Free,
        (false, false) => Reading::Unknown,
    }
}

/// Analyzes one model with `variants` variants into `out`, reusing its memory.
///
/// Under [`Rule::Guarded`] a model whose known replicas are all saturated always wants one more, and a
/// scale-down is safe only while most replicas are not saturated. Without replicas both answers are no.
/// Its answer does not depend on the order of `replicas`; the reference's may, in the last bit.
pub fn analyze_into(
    out: &mut SaturationAnalysis,
    config: &SaturationConfig,
    rule: Rule,
    variants: usize,
    replicas: &[ReplicaLoad],
) {
    out.variants.clear();
    out.variants.resize(variants, VariantSaturation::default());
    for load in replicas {
        if let Some(variant) = out.variants.get_mut(load.variant as usize) {
            variant.add(rule, config, load);
        }
    }
    let mut spare = SpareSum::default();
    (out.total, out.non_saturated, out.unknown) = (0, 0, 0);
    for variant in &mut out.variants {
        (variant.avg_spare_kv, variant.avg_spare_queue) =
            variant.spare.average(rule, config, variant.non_saturated);
        spare.merge(variant.spare);
        out.total += variant.replicas;
        out.non_saturated += variant.non_saturated;
        out.unknown += variant.unknown;
    }
    (out.avg_spare_kv, out.avg_spare_queue) = spare.average(rule, config, out.non_saturated);
    out.scale_up = trigger(out, config, rule);
    out.scale_down_safe = scale_down_safe(out, config, rule);
}

impl VariantSaturation {
    fn add(&mut self, rule: Rule, config: &SaturationConfig, load: &ReplicaLoad) {
        self.replicas += 1;
        let reading = reading(config, load);
        if reading == Reading::Unknown {
            self.unknown += 1;
            return;
        }
        if load.kv_cache_usage.is_finite() {
            self.max_kv = self.max_kv.max(load.kv_cache_usage);
        }
        if load.queue_length.is_finite() {
            self.max_queue = self.max_queue.max(load.queue_length);
        }
        if reading == Reading::Free {
            self.non_saturated += 1;
            self.spare.add(
                rule,
                config.kv_cache_threshold - load.kv_cache_usage,
                config.queue_length_threshold - load.queue_length,
            );
        }
    }
}

fn trigger(out: &SaturationAnalysis, config: &SaturationConfig, rule: Rule) -> Option<Trigger> {
    // Nothing reports, or nothing that can be read: that is no evidence of load.
    if out.total == out.unknown {
        return None;
    }
    let kv = out.avg_spare_kv < config.kv_spare_trigger;
    let queue = out.avg_spare_queue < config.queue_spare_trigger;
    match (kv, queue) {
        (true, true) => Some(Trigger::KvAndQueue),
        (true, false) => Some(Trigger::Kv),
        (false, true) => Some(Trigger::Queue),
        (false, false) if rule == Rule::Guarded && out.non_saturated == 0 => Some(Trigger::AllSaturated),
        (false, false) => None,
    }
}

fn scale_down_safe(out: &SaturationAnalysis, config: &SaturationConfig, rule: Rule) -> bool {
    if out.non_saturated < 2 || out.unknown > 0 {
        return false;
    }
    // The averages leave saturated replicas out, so two idle ones can hide eight that are full.
    if rule == Rule::Guarded && out.saturated() >= out.non_saturated {
        return false;
    }
    let n = f64::from(out.non_saturated);
    let keeps = |threshold: f64, spare: f64, trigger: f64| {
        let load = threshold - spare;
        // The factor first: at an exact boundary the last bit decides, as in the reference.
        threshold - load * (n / (n - 1.0)) >= trigger
    };
    keeps(config.kv_cache_threshold, out.avg_spare_kv, config.kv_spare_trigger)
        && keeps(config.queue_length_threshold, out.avg_spare_queue, config.queue_spare_trigger)
}

#[cfg(test)]
mod tests;
