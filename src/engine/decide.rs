//! Recomputes one model: observed load and replica state in, one decision per variant out.

use super::Engine;
use super::change::hold_beside_a_change;
use super::observe::{Observed, observe, scheduler_queue};
use super::plan::{DemandSeen, capacity_per_s};
use super::topology::{ModelId, VariantId};
use crate::analyze::rule::Rule;
use crate::analyze::saturation::{analyze_into, targets};
use crate::analyze::tokens::SchedulerQueue;
use crate::config::{ModelConfig, SaturationConfig};
use crate::limits::{TRANSITION_MAX_MS, WARM_UP_MS};
use crate::optimize::enforcer::{Enforced, enforce};
use crate::publish::{Advice, Cause, CurrentFrom, Decision, Entry, Evidence, Fault, NextReplica};
use crate::units::TimeMs;
use ahash::AHashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Load below which a capacity per replica is not extrapolated from it.
const UTILIZATION_MIN: f64 = 0.05;

impl Engine {
    /// Recomputes the plan of a model.
    pub(super) fn recompute(&mut self, id: ModelId) {
        self.recomputations += 1;
        let mut scratch = std::mem::take(&mut self.scratch);
        let old_deadline = self.topology.models[id as usize].deadline;
        self.deadlines.remove(&(old_deadline, id));
        self.topology.models[id as usize].dirty = false;

        let variants = std::mem::take(&mut self.topology.models[id as usize].variants);
        scratch.loads.clear();
        scratch.tokens.clear();
        scratch.counted.clear();
        scratch.observed.clear();
        scratch.wishes.clear();
        for (index, variant) in variants.iter().enumerate() {
            let variant = &self.topology.variants[*variant as usize];
            let readings = (&mut scratch.loads, &mut scratch.tokens, &mut scratch.counted);
            let mut observed = observe(&self.store, variant, index as u32, self.stream, readings);
            (observed.pods, observed.pending) = replica_counts(&observed, variant.plan.as_ref());
            scratch.observed.push(observed);
        }
        let deadline = self.decide_model(id, &variants, &mut scratch);
        let model = &mut self.topology.models[id as usize];
        model.variants = variants;
        model.deadline = deadline;
        if deadline < TimeMs::MAX {
            self.deadlines.insert((deadline, id));
        }
        self.scratch = scratch;
    }

    fn decide_model(&mut self, id: ModelId, variants: &[VariantId], scratch: &mut super::Scratch) -> TimeMs {
        let model = &self.topology.models[id as usize];
        let (config, key) = (model.config.clone(), model.key.clone());
        let scheduler = scheduler_queue(&self.store, &model.schedulers, self.stream);
        let mut deadline = scheduler.changes_at;
        let seen = self.requests_seen(id, scratch, scheduler.active_at, &mut deadline);
        // A request that the scheduler still holds is one, however long ago it was reported.
        let is_queued = scheduler.queue.is_some_and(|queue| queue.size > 0.0);
        let requests = if is_queued { Some(1.0) } else { seen };

        let analysis = &mut scratch.analysis;
        analyze_into(analysis, &config.saturation, Rule::Guarded, variants.len(), &scratch.loads);
        let idle_allowed = config.scale_to_zero.enabled && !requests.is_some_and(|count| count > 0.0);
        self.replica_states(variants, scratch);
        self.advise((id, &key), &config, variants, scheduler.queue, scratch);
        let seen = self.plan_by_mode((id, &key), &config, variants, (scheduler.queue, idle_allowed), scratch);

        scratch.counts.clear();
        scratch.counts.extend(scratch.plan.iter().map(|(count, _)| *count));
        let states = &scratch.states;
        let enforced =
            enforce(&mut scratch.counts, |index| Some(states[index].cost), &config.scale_to_zero, requests);
        let woken = wake_from_zero(&mut scratch.counts, states, scheduler.queue);
        for (index, variant) in variants.iter().enumerate() {
            let policy = policy_cause(index, scratch, enforced, woken);
            let planned = (scratch.counts[index], policy.unwrap_or(scratch.plan[index].1));
            // Modes that size by demand have taken missing input into account themselves.
            let planned = match scratch.wishes.is_empty() {
                true => self.not_lowered_blindly(*variant, index, scratch, planned),
                false => planned,
            };
            scratch.plan[index] = bounded(planned, &scratch.states[index]);
        }
        self.stabilize(&config, variants, scratch, &mut deadline);
        hold_beside_a_change(scratch);

        let next_replica = self.next_replica(variants, scratch);
        let evidence = Arc::new(evidence(scratch, &config, scheduler.queue, seen, next_replica));
        for (index, variant) in variants.iter().enumerate() {
            let mut observed = std::mem::replace(&mut scratch.observed[index], Observed::nothing());
            deadline = deadline.min(observed.changes_at);
            observed.load.capacity_per_replica_per_s = capacity_per_s(&scratch.wishes, index);
            let (desired, cause) = scratch.plan[index];
            let advice = scratch.advice.get(index).copied();
            let proposal = Proposal { desired, cause, evidence: &evidence, advice };
            self.propose(*variant, proposal, &mut observed, &mut deadline);
        }
        deadline
    }

    /// Number of requests within the retention period: some, none, or unknown because the model was
    /// not watched all that time.
    fn requests_seen(
        &mut self,
        id: ModelId,
        scratch: &super::Scratch,
        queue_active: Option<TimeMs>,
        deadline: &mut TimeMs,
    ) -> Option<f64> {
        let stream = self.stream;
        if stream == TimeMs::MIN {
            return None;
        }
        let model = &mut self.topology.models[id as usize];
        let observed = &scratch.observed;
        let active = observed.iter().filter_map(|o| o.active_at).max().max(queue_active);
        model.last_active = model.last_active.max(active);
        // Pods that exist but do not report may be serving requests that nobody counts.
        let blind = observed.iter().any(|o| o.pods > o.reporting);
        let seen = observed.iter().any(|o| o.reporting > 0 || o.target.is_some());
        if blind || !seen {
            model.watched_since = None;
        } else if model.watched_since.is_none() {
            model.watched_since = Some(stream);
        }
        let retention_ms = model.config.scale_to_zero.retention_ms;
        let ends = |since: TimeMs| since + retention_ms;
        if let Some(active) = model.last_active
            && ends(active) > stream
        {
            *deadline = (*deadline).min(ends(active));
            return Some(1.0);
        }
        let watched = model.watched_since?;
        if ends(watched) > stream {
            *deadline = (*deadline).min(ends(watched));
            return None;
        }
        Some(0.0)
    }

    /// Notes the plan of a variant and leaves its entry to the second phase.
    fn propose(
        &mut self,
        id: VariantId,
        proposal: Proposal<'_>,
        observed: &mut Observed,
        deadline: &mut TimeMs,
    ) {
        let stream = self.stream;
        let variant = &self.topology.variants[id as usize];
        let previous = variant.plan.as_ref();
        let ready = previous.is_some() || observed.target.is_some() && stream > TimeMs::MIN || {
            let settled = observed.first_seen.map(|first| first + WARM_UP_MS);
            if let Some(settled) = settled.filter(|settled| *settled > stream) {
                *deadline = (*deadline).min(settled);
            }
            observed.reporting > 0 && settled.is_some_and(|settled| settled <= stream)
        };
        if stream == TimeMs::MIN {
            // The cluster tells of replicas before the stream has begun; decisions begin with it.
            *deadline = (*deadline).min(TimeMs(0));
        }
        let advice = proposal.advice;
        let plan = ready.then(|| settle(proposal, previous, observed, stream));
        note_faults(self, id, observed, ready);
        if let Some(plan) = &plan {
            let expires = plan.transition_since.map(|since| since + TRANSITION_MAX_MS);
            if let Some(expires) = expires.filter(|expires| *expires > stream) {
                *deadline = (*deadline).min(expires);
            }
        }
        let config = &self.topology.models[self.topology.variants[id as usize].model as usize].config;
        let is_learning = config.mode.slo || config.advisory.is_some_and(|mode| mode.slo);
        finish_load(observed, &config.saturation);
        let variant = &mut self.topology.variants[id as usize];
        (variant.plan, variant.pods) = (plan, observed.pods);
        if self.filling {
            // In the past somebody else decided, whose wishes show in the replicas that there were, a scrape later.
            let target = variant.target.and_then(|id| self.store.targets.get(id as usize));
            let scrape_ms = target.and_then(|target| target.interval.ms()).unwrap_or(0);
            if let Some((pods, _)) = observed.target {
                variant.learned.note_wanted(stream - scrape_ms, pods);
            }
        } else if let Some(plan) = &variant.plan {
            variant.learned.note_wanted(stream, plan.desired);
        }
        let learned = is_learning.then(|| variant.learned.summary());
        let entry = Entry {
            variant: variant.config.clone(),
            variant_id: variant.variant_id.clone(),
            labels: variant.labels.clone(),
            decision: None,
            load: std::mem::take(&mut observed.load),
            learned,
            advice,
            health: std::mem::take(&mut observed.health),
            scalings: Vec::new(),
        };
        self.proposals.push((id, entry));
    }
}

/// What the plan wants for one variant, before it is put beside the previous decision.
struct Proposal<'a> {
    desired: u32,
    cause: Cause,
    evidence: &'a Arc<Evidence>,
    advice: Option<Advice>,
}

/// Turns a proposal into a decision that keeps its cause and dates while nothing changes.
fn settle(
    proposal: Proposal<'_>,
    previous: Option<&Decision>,
    observed: &Observed,
    stream: TimeMs,
) -> Decision {
    let (current, pending) = (observed.pods, observed.pending);
    let Proposal { desired, mut cause, evidence, .. } = proposal;
    let reporting = observed.reporting;
    let same = previous.filter(|old| old.desired == desired);
    if let Some(old) = same
        && desired != current
        && changes_replicas(old.cause)
    {
        cause = old.cause; // still the same change, on its way
    }
    let waiting = desired != current || reporting != current;
    let unmoved = same.filter(|old| (old.current, old.reporting) == (current, reporting));
    Decision {
        desired,
        wanted: desired,
        current,
        pending,
        reporting,
        current_from: match observed.target {
            Some(_) if observed.is_mirrored => CurrentFrom::TargetObject,
            Some(_) => CurrentFrom::TargetSeries,
            None => CurrentFrom::ReportingPods,
        },
        cause,
        limit: None,
        previous: None,
        transition_since: waiting.then(|| unmoved.and_then(|old| old.transition_since).unwrap_or(stream)),
        evidence: evidence.clone(),
    }
}

/// Whether a cause asks for another number of replicas than there are.
fn changes_replicas(cause: Cause) -> bool {
    use Cause::{HoldInput, Stabilizing, Steady, Transition, WaitingForPending};
    !matches!(cause, Steady | Transition | HoldInput | Stabilizing | WaitingForPending)
}

/// At zero everywhere while the scheduler holds requests: the cheapest variant gets a replica.
fn wake_from_zero(
    counts: &mut [u32],
    states: &[targets::VariantState],
    queue: Option<SchedulerQueue>,
) -> Option<usize> {
    if queue.is_none_or(|queue| queue.size <= 0.0) || counts.iter().any(|count| *count > 0) {
        return None;
    }
    let allowed = (0..counts.len()).filter(|index| states[*index].max > 0);
    let cheapest = allowed.min_by(|a, b| states[*a].cost.total_cmp(&states[*b].cost))?;
    counts[cheapest] = 1;
    Some(cheapest)
}

/// The cause of a count that a policy has set over the analyzers' heads.
fn policy_cause(
    index: usize,
    scratch: &super::Scratch,
    enforced: Enforced,
    woken: Option<usize>,
) -> Option<Cause> {
    if woken == Some(index) {
        // A pod that somebody started already is kept; it is not asked for.
        let started = scratch.observed[index].pods == scratch.counts[index];
        return Some(if started { Cause::HoldInput } else { Cause::QueuedAtZero });
    }
    match enforced {
        Enforced::ScaledToZero { .. } => Some(Cause::ScaleToZero),
        Enforced::MinimumRestored { variant } if variant == index => Some(Cause::LastReplica),
        _ => None,
    }
}

fn evidence(
    scratch: &super::Scratch,
    config: &ModelConfig,
    queue: Option<SchedulerQueue>,
    seen: DemandSeen,
    next_replica: [Option<NextReplica>; 2],
) -> Evidence {
    let analysis = &scratch.analysis;
    Evidence {
        mode: config.mode,
        fallback: seen.fallback,
        demand_per_s: seen.rate_per_s,
        demand: seen.demand,
        bridge: seen.bridge,
        avg_spare_kv: analysis.avg_spare_kv,
        avg_spare_queue: analysis.avg_spare_queue,
        saturated: analysis.saturated(),
        reporting: analysis.total,
        scale_down_safe: analysis.scale_down_safe,
        scheduler_queue: queue.map(|queue| queue.size),
        next_replica,
        thresholds: config.saturation.clone(),
    }
}

/// Replica counts (pods, pods not ready): those of the target; without them, the pods that report. Pods
/// that fell silent all at once are not known to be gone, so the last count is held.
fn replica_counts(observed: &Observed, previous: Option<&Decision>) -> (u32, u32) {
    match (observed.target, previous) {
        (Some(counts), _) => counts,
        (None, Some(old)) if observed.reporting == 0 && (old.desired > 0 || old.current > old.reporting) => {
            (old.current, 0)
        }
        (None, _) => (observed.reporting, 0),
    }
}

fn bounded((count, cause): (u32, Cause), state: &targets::VariantState) -> (u32, Cause) {
    if count > state.max {
        (state.max, Cause::MaxReplicas)
    } else if count < state.min {
        (state.min, Cause::MinReplicas)
    } else {
        (count, cause)
    }
}

/// Adds the faults that need the replica state, and sorts them worst first.
fn note_faults(engine: &mut Engine, id: VariantId, observed: &mut Observed, ready: bool) {
    let variant = &engine.topology.variants[id as usize];
    let pods = observed.pods;
    let faults = &mut observed.health.faults;
    let silent = pods.saturating_sub(observed.reporting);
    if variant.replicas.is_empty() && pods > 0 || observed.first_seen.is_none() && observed.target.is_none() {
        let namespace = variant.config.key.namespace.clone();
        faults.insert(0, Fault::NoSeries { models_seen: engine.models_seen(&namespace) });
    } else if observed.reporting == 0 && pods > 0 {
        faults.insert(0, Fault::NoReplicaReports);
    } else if silent > 0 {
        faults.push(Fault::ReplicasSilent { missing: silent });
    }
    if !ready && observed.reporting > 0 {
        faults.push(Fault::WarmingUp);
    }
}

/// Utilization and capacity, relative to the thresholds of the saturation analyzer.
fn finish_load(observed: &mut Observed, thresholds: &SaturationConfig) {
    let load = &mut observed.load;
    let replicas = f64::from(observed.reporting);
    if replicas == 0.0 {
        return;
    }
    let share = |value: Option<f64>, threshold: f64| value.filter(|_| threshold > 0.0).map(|v| v / threshold);
    let kv = share(load.kv_usage_ratio, thresholds.kv_cache_threshold);
    let queue = share(load.waiting.map(|waiting| waiting / replicas), thresholds.queue_length_threshold);
    load.utilization_ratio = [kv, queue].into_iter().flatten().reduce(f64::max);
    if load.capacity_per_replica_per_s.is_none()
        && let (Some(rate), Some(utilization)) = (load.arrival_rate_per_s, load.utilization_ratio)
        && utilization > UTILIZATION_MIN
    {
        load.capacity_per_replica_per_s = Some(rate / replicas / utilization);
    }
}

impl Engine {
    /// Models that pods of a namespace serve without belonging to any variant. All namespaces are looked at in one
    /// pass, when the first variant without series asks.
    fn models_seen(&mut self, namespace: &Arc<str>) -> Vec<Arc<str>> {
        const SHOWN: usize = 5;
        let seen = self.models_unmatched.get_or_insert_with(|| {
            let mut seen: AHashMap<Arc<str>, BTreeSet<Arc<str>>> = AHashMap::new();
            for (_, replica) in self.store.replicas.iter().filter(|(_, replica)| replica.join.is_err()) {
                let Some(model) = &replica.model else { continue };
                let models = seen.entry(replica.namespace.clone()).or_default();
                models.insert(model.clone());
                if models.len() > SHOWN {
                    models.pop_last();
                }
            }
            seen
        });
        seen.get(namespace).map(|models| models.iter().cloned().collect()).unwrap_or_default()
    }
}
