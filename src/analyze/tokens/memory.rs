//! What the token analyzer remembers between calls: the capacity of each variant, stated or measured,
//! and the compute-bound capacities observed under load. Everything ages out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::EngineParams;
use crate::analyze::rule::Rule;
use crate::units::TimeMs;

/// Age after which a record that no model used, or an observation, is forgotten: a day.
pub const MEMORY_MAX_AGE_MS: i64 = 24 * 3600 * 1000;
/// Most capacity records per model ID, over all namespaces; the one unused for longest goes first.
pub const RECORDS_PER_MODEL_MAX: usize = 1024;
/// Observations kept per history.
pub const HISTORY_LEN: usize = 10;
/// Observations of one variant within this time count as one, the largest (guarded rule only).
pub const OBSERVATION_SPACING_MS: i64 = 10_000;

/// Class of average output length; capacities are not comparable across classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputLength {
    /// Under 100 tokens.
    Short,
    /// 100 to 500 tokens.
    Medium,
    /// 500 tokens or more.
    Long,
}

impl OutputLength {
    /// Classifies an average; NaN is long, as no comparison holds for it.
    pub fn of(tokens: f64) -> Self {
        if tokens < 100.0 {
            OutputLength::Short
        } else if tokens < 500.0 {
            OutputLength::Medium
        } else {
            OutputLength::Long
        }
    }
}

/// Where a capacity came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// From the deployment's engine parameters.
    Deployment,
    /// From a running replica.
    Live,
}

/// Last observations of compute-bound capacity, oldest first, tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    seen: [(TimeMs, u64); HISTORY_LEN],
    len: usize,
}

impl History {
    /// The observations, oldest first, tokens.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.seen[..self.len].iter().map(|&(_, tokens)| tokens)
    }

    /// Number of observations, at most [`HISTORY_LEN`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, now: TimeMs, tokens: u64) {
        if self.len == HISTORY_LEN {
            self.seen.copy_within(1.., 0);
            self.len -= 1;
        }
        self.seen[self.len] = (now, tokens);
        self.len += 1;
    }

    /// Like `push`, but observations close in time count as one. Tokens in use while requests wait are
    /// a lower bound of the capacity, so the largest of them says most.
    pub(super) fn push_spaced(&mut self, now: TimeMs, tokens: u64) {
        match self.seen[..self.len].last_mut() {
            Some((at, seen)) if now.since(*at) < OBSERVATION_SPACING_MS => *seen = tokens.max(*seen),
            _ => self.push(now, tokens),
        }
    }

    /// Mean, rounded down; `None` when there is none or it is zero.
    pub(super) fn mean(&self) -> Option<u64> {
        let sum = self.iter().fold(0u64, u64::saturating_add);
        sum.checked_div(self.len as u64).filter(|&mean| mean > 0)
    }

    /// The lower median; `None` when there is none.
    pub(super) fn median(&self) -> Option<u64> {
        let mut sorted = [0; HISTORY_LEN];
        let sorted = &mut sorted[..self.len];
        sorted.iter_mut().zip(self.iter()).for_each(|(slot, tokens)| *slot = tokens);
        sorted.sort_unstable();
        sorted.get(self.len.saturating_sub(1) / 2).copied()
    }

    fn evict(&mut self, now: TimeMs) {
        let old =
            self.seen[..self.len].iter().take_while(|(at, _)| now.since(*at) > MEMORY_MAX_AGE_MS).count();
        self.seen.copy_within(old.., 0);
        self.len -= old;
    }
}

/// Histories by output length.
pub(super) type Histories = [History; 3];

/// What is known of one variant's replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct CapacityRecord {
    /// Accelerator type.
    pub accelerator: Arc<str>,
    /// Accelerators per replica.
    pub gpus_per_replica: u32,
    /// Engine parameters, when a deployment stated them.
    pub params: Option<EngineParams>,
    /// Where the capacity came from.
    pub learned: Learned,
    /// Tokens that one replica can hold and compute; the step budget for a deployment's record.
    pub effective_tokens: u64,
    /// KV-cache size, tokens; 0 when unknown.
    pub total_kv_tokens: u64,
    /// When a model last used the record.
    pub last_used: TimeMs,
    /// This variant's own observations by output length (guarded rule only).
    pub(super) observed: Histories,
}

impl CapacityRecord {
    /// Whether replicas behind both records are interchangeable. The reference leaves out the sequence
    /// limit although its estimate depends on it; the guarded rule compares it too.
    pub(super) fn compatible(&self, other: &CapacityRecord, rule: Rule) -> bool {
        let (Some(a), Some(b)) = (&self.params, &other.params) else {
            return false;
        };
        self.accelerator == other.accelerator
            && self.gpus_per_replica == other.gpus_per_replica
            && a.gpu_memory_utilization == b.gpu_memory_utilization
            && a.block_size == b.block_size
            && a.kv_cache_dtype == b.kv_cache_dtype
            && a.tensor_parallel_size == b.tensor_parallel_size
            && a.num_gpu_blocks_override == b.num_gpu_blocks_override
            && a.step_budget() == b.step_budget()
            && (rule == Rule::Reference || a.max_num_seqs == b.max_num_seqs)
    }
}

/// A deployment that serves a variant, as configuration shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Model ID.
    pub model_id: Arc<str>,
    /// Variant name.
    pub variant: Arc<str>,
    /// Accelerator type.
    pub accelerator: Arc<str>,
    /// Accelerators per replica, at least 1.
    pub gpus_per_replica: u32,
    /// Engine parameters.
    pub params: EngineParams,
}

/// Memory of one model ID, over all namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelMemory {
    /// By namespace, then variant; ordered, so that the first match is always the same.
    records: BTreeMap<Arc<str>, BTreeMap<Arc<str>, CapacityRecord>>,
    /// By accelerator: what the reference keeps, shared by everything of that accelerator.
    pub(super) shared: BTreeMap<Arc<str>, Histories>,
}

impl ModelMemory {
    pub(super) fn get(&self, namespace: &str, variant: &str) -> Option<&CapacityRecord> {
        self.records.get(namespace)?.get(variant)
    }

    pub(super) fn get_mut(&mut self, namespace: &str, variant: &str) -> Option<&mut CapacityRecord> {
        self.records.get_mut(namespace)?.get_mut(variant)
    }

    pub(super) fn insert(&mut self, namespace: &Arc<str>, variant: &Arc<str>, record: CapacityRecord) {
        if self.len() >= RECORDS_PER_MODEL_MAX && self.get(namespace, variant).is_none() {
            self.remove_oldest();
        }
        self.records.entry(namespace.clone()).or_default().insert(variant.clone(), record);
    }

    fn len(&self) -> usize {
        self.records.values().map(BTreeMap::len).sum()
    }

    fn remove_oldest(&mut self) {
        let all = self.records.iter().flat_map(|(ns, of)| of.iter().map(move |(v, r)| (r.last_used, ns, v)));
        if let Some((_, namespace, variant)) = all.min() {
            let (namespace, variant) = (namespace.clone(), variant.clone());
            self.remove(&namespace, &variant);
        }
    }

    fn remove(&mut self, namespace: &str, variant: &str) {
        if let Some(of_namespace) = self.records.get_mut(namespace) {
            of_namespace.remove(variant);
            if of_namespace.is_empty() {
                self.records.remove(namespace);
            }
        }
    }

    /// Capacity of a live record that is interchangeable with `record`, tokens. The reference takes any
    /// (here: the first by name); the guarded rule takes the smallest, which errs towards more replicas.
    pub(super) fn compatible_live(&self, record: &CapacityRecord, rule: Rule) -> Option<u64> {
        let all = self.records.values().flat_map(BTreeMap::values);
        let mut live = all
            .filter(|r| r.learned == Learned::Live && r.effective_tokens > 0 && r.compatible(record, rule))
            .map(|r| r.effective_tokens);
        if rule == Rule::Reference { live.next() } else { live.min() }
    }

    fn evict(&mut self, now: TimeMs) {
        for of_namespace in self.records.values_mut() {
            of_namespace.retain(|_, r| now.since(r.last_used) <= MEMORY_MAX_AGE_MS);
            of_namespace.values_mut().flat_map(|r| &mut r.observed).for_each(|h| h.evict(now));
        }
        self.records.retain(|_, of_namespace| !of_namespace.is_empty());
        self.shared.values_mut().flatten().for_each(|h| h.evict(now));
        self.shared.retain(|_, histories| histories.iter().any(|h| !h.is_empty()));
    }
}

/// Memory of the token analyzer over all models.
#[derive(Clone, Debug, Default)]
pub struct TokenMemory {
    pub(super) models: BTreeMap<Arc<str>, ModelMemory>,
}

impl TokenMemory {
    /// Notes what a deployment states. A capacity measured on a running replica stays, except under
    /// [`Rule::Guarded`] when the engine parameters or the accelerator changed: then it was measured on
    /// something else. (The reference keeps it forever.)
    pub fn observe_deployment(&mut self, rule: Rule, deployment: &Deployment, now: TimeMs) {
        let model = self.models.entry(deployment.model_id.clone()).or_default();
        if let Some(record) = model.get_mut(&deployment.namespace, &deployment.variant) {
            record.last_used = record.last_used.max(now);
            let same_place = record.accelerator == deployment.accelerator
                && record.gpus_per_replica == deployment.gpus_per_replica;
            let same = same_place && record.params.as_ref().is_none_or(|p| *p == deployment.params);
            let keep = if rule == Rule::Guarded { same } else { record.learned == Learned::Live };
            if keep {
                if rule == Rule::Guarded {
                    record.params.get_or_insert_with(|| deployment.params.clone());
                }
                return;
            }
        }
        let record = CapacityRecord {
            accelerator: deployment.accelerator.clone(),
            gpus_per_replica: deployment.gpus_per_replica,
            learned: Learned::Deployment,
            effective_tokens: deployment.params.step_budget(),
            total_kv_tokens: deployment.params.stated_kv_tokens().unwrap_or(0),
            params: Some(deployment.params.clone()),
            last_used: now,
            observed: Histories::default(),
        };
        model.insert(&deployment.namespace, &deployment.variant, record);
    }

    /// Forgets a variant, e.g. because it was deleted.
    pub fn forget(&mut self, namespace: &str, model_id: &str, variant: &str) {
        if let Some(model) = self.models.get_mut(model_id) {
            model.remove(namespace, variant);
        }
    }

    /// Forgets whatever is older than [`MEMORY_MAX_AGE_MS`]. To be called now and then, e.g. hourly.
    pub fn evict(&mut self, now: TimeMs) {
        self.models.values_mut().for_each(|model| model.evict(now));
        self.models.retain(|_, model| model.len() > 0 || !model.shared.is_empty());
    }

    /// What is known of a variant.
    pub fn record(&self, namespace: &str, model_id: &str, variant: &str) -> Option<&CapacityRecord> {
        self.models.get(model_id)?.get(namespace, variant)
    }

    /// The reference's history of a model on an accelerator type.
    pub fn shared_history(
        &self,
        model_id: &str,
        accelerator: &str,
        length: OutputLength,
    ) -> Option<&History> {
        Some(&self.models.get(model_id)?.shared.get(accelerator)?[length as usize])
    }

    /// Number of capacity records.
    pub fn len(&self) -> usize {
        self.models.values().map(ModelMemory::len).sum()
    }

    /// Whether there is no capacity record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
