//! Recomputes one model: observed load and replica state in, one decision per variant out.

use super::Engine;
use super::observe::{Observed, observe, scheduler_queue};
use super::plan::{DemandSeen, capacity_per_s};
use super::topology::{ModelId, VariantId};
use crate::analyze::rule::Rule;
use crate::analyze::saturation::{analyze_into, targets};
use crate::analyze::tokens::SchedulerQueue;
use crate::config::{ModelConfig, SaturationConfig};
use crate::limits::{TRANSITION_MAX_MS, WARM_UP_MS};
use crate::optimize::enforcer::{Enforced, enforce};
use crate::publish::{Cause, CurrentFrom, Decision, Entry, Evidence, Fault, NextReplica};
use crate::units::TimeMs;
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
        let requests = self.requests_seen(id, scratch, scheduler.active_at, &mut deadline);

        let rule = Rule::Guarded;
        analyze_into(&mut scratch.analysis, &config.saturation, rule, variants.len(), &scratch.loads);
        let idle_allowed = config.scale_to_zero.enabled && !requests.is_some_and(|count| count > 0.0);
        self.variant_states(variants, scratch, idle_allowed);
        targets::targets_into(&mut scratch.targets, &scratch.analysis, &scratch.states, rule);
        let seen = self.plan_by_mode((id, &key), &config, variants, scheduler.queue, scratch);

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
            let proposal = Proposal { desired, cause, evidence: &evidence };
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

    /// Replica state of each variant as the target rule wants it.
    fn variant_states(&self, variants: &[VariantId], scratch: &mut super::Scratch, idle_allowed: bool) {
        scratch.states.clear();
        for (index, id) in variants.iter().enumerate() {
            let variant = &self.topology.variants[*id as usize];
            let observed = &scratch.observed[index];
            let (pods, pending) = (observed.pods, observed.pending);
            let mut state = targets::VariantState {
                current: pods,
                desired: variant.plan.as_ref().map(|plan| plan.desired),
                pending,
                cost: variant.config.cost,
                min: variant.config.min_replicas.unwrap_or(0),
                max: variant.config.max_replicas.unwrap_or(u32::MAX),
            };
            // A reduction that was not carried out yet is withdrawn when its ground has gone: more is
            // needed, or requests came back before the last pods had left.
            let withdrawn = |desired: u32| {
                desired < state.current
                    && (scratch.analysis.should_scale_up() || desired == 0 && !idle_allowed)
            };
            // So is a change that the bounds no longer allow.
            let forbidden =
                |desired: u32| desired.clamp(state.min, state.max.max(state.min)) == state.current;
            if state.desired.is_some_and(|desired| withdrawn(desired) || forbidden(desired)) {
                state.desired = Some(state.current);
            }
            scratch.states.push(state);
        }
        self.forget_growth(variants, scratch);
        // A model moves as a whole: while one of its changes is fresh, none is given up.
        let awaited =
            |index: usize| self.awaited(variants[index], &scratch.observed[index], &scratch.states[index]);
        if (0..variants.len()).any(|index| awaited(index) == Some(false)) {
            return;
        }
        for ((id, observed), state) in variants.iter().zip(&scratch.observed).zip(&mut scratch.states) {
            if self.awaited(*id, observed, state) == Some(true) {
                // Nothing has moved for long: decide on what there is instead of waiting for ever.
                state.desired = None;
                state.current = if observed.reporting > 0 { observed.reporting } else { observed.pods };
            }
        }
    }

    /// Within an inventory a growth may wait for cards that never come. It is asked for anew every time,
    /// from the load alone, as long as all that runs is heard: a claim must not outlive its ground.
    fn forget_growth(&self, variants: &[VariantId], scratch: &mut super::Scratch) {
        let is_limited = variants.first().is_some_and(|id| {
            let model = self.topology.variants[*id as usize].model;
            self.topology.models[model as usize].is_limited
        });
        let is_heard = |observed: &Observed| observed.reporting == observed.pods;
        if !is_limited || scratch.analysis.total == 0 || !scratch.observed.iter().all(is_heard) {
            return;
        }
        for state in scratch.states.iter_mut().filter(|state| state.desired > Some(state.current)) {
            state.desired = Some(state.current);
        }
    }

    /// Whether the variant's last change is still awaited; `Some(true)` when it has been for too long.
    fn awaited(&self, id: VariantId, observed: &Observed, state: &targets::VariantState) -> Option<bool> {
        let old = self.topology.variants[id as usize].plan.as_ref()?;
        let waiting = state.desired != Some(observed.pods) || observed.reporting != observed.pods;
        let unmoved = (Some(old.desired), old.current, old.reporting)
            == (state.desired, observed.pods, observed.reporting);
        let expired = old.transition_since.is_some_and(|since| since + TRANSITION_MAX_MS <= self.stream);
        waiting.then_some(unmoved && expired)
    }

    /// Keeps the last decision where the change to less would rest on input that is missing, and where
    /// replicas that are slow to start would be given up although they are needed.
    fn not_lowered_blindly(
        &self,
        id: VariantId,
        index: usize,
        scratch: &super::Scratch,
        (count, cause): (u32, Cause),
    ) -> (u32, Cause) {
        let Some(old) = &self.topology.variants[id as usize].plan else { return (count, cause) };
        let observed = &scratch.observed[index];
        if scratch.states[index].desired.is_some() || cause == Cause::ScaleToZero {
            return (count, cause);
        }
        let silent = observed.pods.saturating_sub(observed.pending) > observed.reporting;
        let unseen = observed.reporting == 0 && observed.target.is_none_or(|(pods, _)| pods > 0);
        let (least, why) = match scratch.analysis.should_scale_up() {
            true => (old.desired.max(observed.pods), Cause::Transition),
            false if unseen && observed.pods == 0 => (old.desired, Cause::Transition),
            false if silent || unseen => (old.desired, Cause::HoldInput),
            false => return (count, cause),
        };
        if count < least { (least, why) } else { (count, cause) }
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
        let ready = previous.is_some() || observed.target.is_some() || {
            let settled = observed.first_seen.map(|first| first + WARM_UP_MS);
            if let Some(settled) = settled.filter(|settled| *settled > stream) {
                *deadline = (*deadline).min(settled);
            }
            observed.reporting > 0 && settled.is_some_and(|settled| settled <= stream)
        };
        note_faults(self, id, observed, ready);
        let plan = ready.then(|| settle(proposal, previous, observed, stream));
        if let Some(plan) = &plan {
            let expires = plan.transition_since.map(|since| since + TRANSITION_MAX_MS);
            if let Some(expires) = expires.filter(|expires| *expires > stream) {
                *deadline = (*deadline).min(expires);
            }
        }
        finish_load(
            observed,
            &self.topology.models[self.topology.variants[id as usize].model as usize].config.saturation,
        );
        let variant = &mut self.topology.variants[id as usize];
        (variant.plan, variant.pods) = (plan, observed.pods);
        let entry = Entry {
            variant: variant.config.clone(),
            variant_id: variant.variant_id.clone(),
            decision: None,
            load: std::mem::take(&mut observed.load),
            health: observed.health.clone(),
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
}

/// Turns a proposal into a decision that keeps its cause and dates while nothing changes.
fn settle(
    proposal: Proposal<'_>,
    previous: Option<&Decision>,
    observed: &Observed,
    stream: TimeMs,
) -> Decision {
    let (current, pending) = (observed.pods, observed.pending);
    let Proposal { desired, mut cause, evidence } = proposal;
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
        let started = scratch.states[index].current == scratch.counts[index];
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

/// While one variant of the model changes, or its pods are not all heard, the model holds still: that is
/// the cause from the start, not only from the next recomputation on.
fn hold_beside_a_change(scratch: &mut super::Scratch) {
    use Cause::{AtMaximum, HoldInput, ScaleToZero, Steady, Transition, WaitingForPending};
    // Wishes are there when the mode sizes by demand: then variants move independently.
    if scratch.analysis.total == 0 || !scratch.wishes.is_empty() {
        return;
    }
    let unheard = |observed: &Observed| observed.reporting > 0 && observed.reporting != observed.pods;
    let moves = |((desired, _), observed): (&(u32, Cause), &Observed)| *desired != observed.pods;
    let moving =
        scratch.plan.iter().zip(&scratch.observed).any(moves) || scratch.observed.iter().any(unheard);
    for ((desired, cause), observed) in scratch.plan.iter_mut().zip(&scratch.observed) {
        let holds = match cause {
            Steady | WaitingForPending | AtMaximum | HoldInput => moving,
            ScaleToZero => false,
            _ => unheard(observed) && *desired == observed.pods,
        };
        if holds {
            *cause = Transition;
        }
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
fn note_faults(engine: &Engine, id: VariantId, observed: &mut Observed, ready: bool) {
    let variant = &engine.topology.variants[id as usize];
    let pods = observed.pods;
    let faults = &mut observed.health.faults;
    let silent = pods.saturating_sub(observed.reporting);
    if variant.replicas.is_empty() && pods > 0 || observed.first_seen.is_none() && observed.target.is_none() {
        faults.insert(0, Fault::NoSeries { models_seen: engine.models_seen(&variant.config.key.namespace) });
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
    /// Models that pods of a namespace serve without belonging to any variant.
    fn models_seen(&self, namespace: &Arc<str>) -> Vec<Arc<str>> {
        const SHOWN: usize = 5;
        let unmatched = self.store.replicas.iter().filter(|(_, replica)| replica.join.is_err());
        let models =
            unmatched.filter(|(_, r)| r.namespace == *namespace).filter_map(|(_, r)| r.model.clone());
        let mut models: Vec<Arc<str>> = models.collect();
        models.sort_unstable();
        models.dedup();
        models.truncate(SHOWN);
        models
    }
}
