//! Decisions as JSON, with inputs and reasons: what `/api/v1/variants` answers.

use super::{Board, CurrentFrom, Decision, Entry, Load, NextReplica};
use crate::analyze::slo::{Demand, Learned};
use crate::config::check::problem_json;
use crate::optimize::planner::Bridge;
use crate::units::TimeMs;
use serde_json::{Value, json};

impl Decision {
    /// One sentence that says why the desired count is what it is, with the figures.
    pub fn explain(&self) -> String {
        let Some(limit) = &self.limit else { return self.explain_cause(self.cause) };
        let kind = limit.accelerator.as_ref().map_or("cards".to_owned(), |name| format!("{name} cards"));
        let room = match (self.cause, &limit.namespace) {
            (super::Cause::Quota, Some(namespace)) => {
                format!("namespace {namespace} may have {} {kind}", limit.cards)
            }
            (super::Cause::Quota, None) => format!("all namespaces together may have {} {kind}", limit.cards),
            _ => format!("there are {} {kind}", limit.cards),
        };
        let why = self.explain_cause(limit.wanted_for);
        format!("{} of {} wanted replicas: {room}; wanted because: {why}", self.desired, self.wanted)
    }

    /// What the wanted replicas do, as the beginning of a sentence.
    fn wanted_do(&self, verb: &str) -> String {
        match self.wanted {
            1 => format!("1 replica {verb}s"),
            wanted => format!("{wanted} replicas {verb}"),
        }
    }

    fn explain_cause(&self, cause: super::Cause) -> String {
        use super::Cause::*;
        let e = &self.evidence;
        let t = &e.thresholds;
        let (kv, queue) = (e.avg_spare_kv, e.avg_spare_queue);
        let low_kv = format!("average spare KV cache {kv:.3} is below {}", t.kv_spare_trigger);
        let low_queue = format!("average spare queue {queue:.2} is below {}", t.queue_spare_trigger);
        let saturated = format!("{} of {} replicas are saturated", e.saturated, e.reporting);
        let counts = format!(
            "desired {}, current {} ({} not ready), reporting {}",
            self.wanted, self.current, self.pending, self.reporting
        );
        let load = match e.demand_per_s {
            _ if e.demand.is_some() => e.demand.as_ref().map(terms).unwrap_or_default(),
            Some(rate) => format!("{rate:.2} requests/s arrive or wait for the model"),
            None => "the arrival rate is not known".into(),
        };
        match cause {
            Steady => format!("load fits: spare KV cache {kv:.3}, spare queue {queue:.2}, {saturated}"),
            KvSaturation => format!("one more replica: {low_kv}; {saturated}"),
            QueueSaturation => format!("one more replica: {low_queue}; {saturated}"),
            KvAndQueueSaturation => format!("one more replica: {low_kv} and {low_queue}; {saturated}"),
            AllSaturated => format!("one more replica: {saturated}"),
            SpareCapacity if e.demand.is_some() => format!("{} the load: {load}", self.wanted_do("handle")),
            SpareCapacity => {
                format!("one replica fewer leaves headroom: spare KV cache {kv:.3}, spare queue {queue:.2}")
            }
            WaitingForPending => format!("more is wanted, but replicas are already starting: {counts}"),
            AtMaximum => "more is wanted, but every variant of the model is at its maximum".into(),
            MinReplicas => "the lower bound of the variant".into(),
            MaxReplicas => "the upper bound of the variant; more is wanted".into(),
            ScaleToZero => "no request within the retention period".into(),
            LastReplica => "the cheapest variant keeps one replica".into(),
            QueuedAtZero => {
                format!("the scheduler holds {} requests and nothing runs", e.scheduler_queue.unwrap_or(0.0))
            }
            TtftTarget => {
                format!("{} the time to first token within its target: {load}", self.wanted_do("keep"))
            }
            ItlTarget => {
                format!("{} the inter-token latency within its target: {load}", self.wanted_do("keep"))
            }
            TpsTarget => format!("{} the promised throughput: {load}", self.wanted_do("give")),
            ServiceLimit => {
                format!("{} the load; no target binds before: {load}", self.wanted_do("handle"))
            }
            Unreachable => format!(
                "unreachable: no replica meets a target even without load; {} keep the queue stable: {load}",
                self.wanted
            ),
            TokenCapacity => format!("the tokens in use and waiting need {} replicas", self.wanted),
            Bridge => format!(
                "{} until slower ones are there: {}",
                self.wanted_do("bridge"),
                e.bridge.as_ref().map_or(load, bridge)
            ),
            Stabilizing => format!("another count is planned, but not for its whole window yet: {counts}"),
            Transition => format!("an earlier change is under way: {counts}"),
            HoldInput => format!("input is missing, so the last known count is held: {counts}"),
            Inventory => "there are not enough cards of the accelerator type".into(),
            Quota => "a quota allows no more cards".into(),
        }
    }
}

/// What a bridge is for, as a clause.
fn bridge(bridge: &Bridge) -> String {
    format!(
        "{} of them beyond the cheapest mix, for {:.2} requests/s that nobody else could carry {} s from now; the others \
         are expected in {} s",
        bridge.replicas,
        bridge.short_per_s,
        bridge.startup_ms / 1000,
        bridge.until_ms / 1000,
    )
}

/// The terms of a demand, as a clause.
fn terms(demand: &Demand) -> String {
    let mut text = format!(
        "{:.2} requests/s are to be carried {} s ahead: {:.2} arrive",
        demand.ready_for_per_s(),
        demand.horizon_ms / 1000,
        demand.arriving_per_s,
    );
    for (rate_per_s, what) in [
        (demand.trend_per_s, "for the trend"),
        (demand.recurring_per_s, "for what came one hour or one day ago"),
        (demand.surge_per_s, "for surges as seen before"),
        (demand.backlog_per_s, "for the queue"),
        (demand.held_per_s, "held from what was needed within a start-up time"),
    ] {
        if rate_per_s >= 0.005 {
            text += &format!(", {rate_per_s:.2} {what}");
        }
    }
    text
}

/// What was learned, in the form that `--profiles` and `--state` read: one profile per variant whose iteration time and
/// KV cache were seen.
pub fn profiles(board: &Board) -> Value {
    let profile = |entry: &Entry| {
        let learned = entry.learned.as_ref().filter(|learned| learned.is_learned)?;
        let (time, kv_tokens) = learned.iteration.zip(learned.kv_tokens)?;
        let variant = &entry.variant;
        let max_seqs = learned.max_seqs.or(variant.profiles.first().map(|own| f64::from(own.max_batch)));
        let mut profile = json!({
            "id": format!("{}/{}", variant.key.namespace, variant.key.name),
            "model": &*variant.model_id,
            "gpu": &*variant.accelerator,
            "gpus_per_replica": variant.acc_count,
            "cost_per_hour": variant.cost,
            "kv_tokens": kv_tokens.round() as u64,
            "iteration_ms": {"a": time.a, "b": time.b, "c": time.c, "d": time.d, "q": 0.0},
            "observations": learned.observations.round() as u64,
            "shortfall_ratio": learned.shortfall_ratio,
        });
        if learned.startup_is_measured {
            profile["startup_s"] = json!(learned.startup_ms as f64 / 1000.0);
        }
        if let Some(max_seqs) = max_seqs.filter(|most| *most >= 1.0) {
            profile["max_num_seqs"] = json!(max_seqs as u64);
        }
        Some(profile)
    };
    json!({"variants": board.entries.values().filter_map(|entry| profile(entry)).collect::<Vec<Value>>()})
}

/// One entry as JSON.
pub fn entry(entry: &Entry, now: TimeMs) -> Value {
    let variant = &entry.variant;
    let faults: Vec<Value> = entry
        .health
        .at(now)
        .iter()
        .map(|fault| json!({"reason": fault.as_str(), "message": fault.explain(variant)}))
        .collect();
    json!({
        "namespace": &*variant.key.namespace,
        "name": &*variant.key.name,
        "variantId": &*entry.variant_id,
        "modelId": &*variant.model_id,
        "role": variant.role.as_str(),
        "accelerator": &*variant.accelerator,
        "cost": variant.cost,
        "scaleTarget": {"kind": variant.target.kind.as_str(), "name": &*variant.target.name},
        "minReplicas": variant.min_replicas,
        "maxReplicas": variant.max_replicas,
        "slo": variant.slo.as_ref().map(|slo| json!({
            "class": &*slo.class,
            "priority": slo.priority,
            "attainment": slo.attainment,
            "missCost": slo.miss_cost,
            "ttftMs": target(slo.targets.ttft_ms),
            "itlMs": target(slo.targets.itl_ms),
            "tokensPerSecond": target(slo.targets.tps),
        })),
        "decision": entry.decision.as_ref().map(|it| decision(it, entry.load.capacity_per_replica_per_s)),
        "load": load(&entry.load),
        "learned": entry.learned.as_ref().map(learned),
        "advice": entry.advice.map(|advice| json!({
            "mode": advice.mode.as_str(),
            "replicas": advice.replicas,
            "reason": advice.cause.as_str(),
        })),
        "input": {
            "healthy": faults.is_empty(),
            "faults": faults,
            "newestSampleMs": entry.health.newest_sample.map(|time| time.0),
            "ageSeconds": entry.health.age_ms(now).map(|ms| ms as f64 / 1000.0),
            "joinedBy": &entry.health.joins,
        },
    })
}

/// A target; 0 is none.
fn target(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

/// What was learned of a variant.
fn learned(learned: &Learned) -> Value {
    json!({
        "start": learned.origin.describe(),
        "isLearned": learned.is_learned,
        "iterationMs": learned.iteration.map(|time| json!({
            "base": time.a,
            "perSequence": time.b,
            "perPromptToken": time.c,
            "perKvToken": time.d,
        })),
        "observations": learned.observations,
        "capacityPerReplicaPerSecond": learned.capacity_per_s,
        "shortfallRatio": learned.shortfall_ratio,
        "ttftCorrection": {"offsetMs": learned.ttft.offset_ms, "factor": learned.ttft.factor},
        "maxSequences": learned.max_seqs,
        "kvCacheTokens": learned.kv_tokens,
        "startupSeconds": learned.startup_ms as f64 / 1000.0,
        "startupIsMeasured": learned.startup_is_measured,
    })
}

/// The terms of a demand, each with the replicas of this variant that would carry it.
fn demand(demand: &Demand, capacity_per_s: Option<f64>) -> Value {
    let term = |rate_per_s: f64| json!({"perSecond": rate_per_s, "replicas": capacity_per_s.map(|capacity| rate_per_s / capacity)});
    json!({
        "readyFor": term(demand.ready_for_per_s()),
        "arriving": term(demand.arriving_per_s),
        "trend": term(demand.trend_per_s),
        "recurring": term(demand.recurring_per_s),
        "surge": term(demand.surge_per_s),
        "backlog": term(demand.backlog_per_s),
        "held": term(demand.held_per_s),
        "horizonSeconds": demand.horizon_ms as f64 / 1000.0,
        "mayShrink": demand.may_shrink,
    })
}

fn decision(decision: &Decision, capacity_per_s: Option<f64>) -> Value {
    let e = &decision.evidence;
    json!({
        "desired": decision.desired,
        "wanted": decision.wanted,
        "current": decision.current,
        "ratio": decision.desired_ratio(),
        "pending": decision.pending,
        "reporting": decision.reporting,
        "currentFrom": match decision.current_from {
            CurrentFrom::TargetObject => "scale target",
            CurrentFrom::TargetSeries => "kube-state-metrics",
            CurrentFrom::ReportingPods => "reporting pods",
        },
        "reason": decision.cause.as_str(),
        "message": decision.explain(),
        "limit": decision.limit.as_ref().map(|limit| json!({
            "cards": limit.cards,
            "accelerator": limit.accelerator.as_deref(),
            "namespace": limit.namespace.as_deref(),
            "wantedReason": limit.wanted_for.as_str(),
        })),
        "previous": decision.previous.map(|(replicas, at)| json!({"desired": replicas, "changedAtMs": at.0})),
        "inTransitionSinceMs": decision.transition_since.map(|time| time.0),
        "mode": e.mode.as_str(),
        "fallback": e.fallback.map(|unknown| format!("saturation decides: {}", unknown.explain())),
        "model": {
            "demandPerSecond": e.demand_per_s,
            "demand": e.demand.as_ref().map(|it| demand(it, capacity_per_s)),
            "bridge": e.bridge.as_ref().map(|it| json!({
                "variant": &*it.variant,
                "replicas": it.replicas,
                "startupSeconds": it.startup_ms as f64 / 1000.0,
                "shortPerSecond": it.short_per_s,
                "untilSeconds": it.until_ms as f64 / 1000.0,
            })),
            "avgSpareKvCache": e.avg_spare_kv,
            "avgSpareQueue": e.avg_spare_queue,
            "saturatedReplicas": e.saturated,
            "reportingReplicas": e.reporting,
            "scaleDownSafe": e.scale_down_safe,
            "schedulerQueue": e.scheduler_queue,
        },
        "nextReplica": e.next_replica[0].as_ref().map(next_replica),
        "runnerUp": e.next_replica[1].as_ref().map(next_replica),
        "thresholds": {
            "kvCacheThreshold": e.thresholds.kv_cache_threshold,
            "queueLengthThreshold": e.thresholds.queue_length_threshold,
            "kvSpareTrigger": e.thresholds.kv_spare_trigger,
            "queueSpareTrigger": e.thresholds.queue_spare_trigger,
        },
    })
}

fn next_replica(next: &NextReplica) -> Value {
    json!({
        "variant": &*next.variant,
        "cost": next.cost,
        "costPerRequestPerSecond": next.cost_per_capacity,
    })
}

fn load(load: &Load) -> Value {
    json!({
        "arrivalRatePerSecond": load.arrival_rate_per_s,
        "avgPromptTokens": load.avg_prompt_tokens,
        "avgGenerationTokens": load.avg_generation_tokens,
        "kvCacheUsage": load.kv_usage_ratio,
        "waiting": load.waiting,
        "running": load.running,
        "ttftMs": load.ttft_ms,
        "itlMs": load.itl_ms,
        "capacityPerReplicaPerSecond": load.capacity_per_replica_per_s,
        "utilization": load.utilization_ratio,
    })
}

/// The whole board as JSON.
pub fn board(board: &Board, now: TimeMs) -> Value {
    json!({
        "version": board.version,
        "streamTimeMs": board.stream_time.map(|time| time.0),
        "notReady": board.not_ready(),
        "variants": board.entries.values().map(|e| entry(e, now)).collect::<Vec<_>>(),
        "problems": board.problems.iter().map(problem_json).collect::<Vec<_>>(),
        "unmatched": unmatched(board),
    })
}

/// What of the stream belongs to no variant.
pub fn unmatched(board: &Board) -> Value {
    json!({
        "replicas": &board.unmatched.replicas,
        "series": &board.unmatched.series,
        "examples": &board.unmatched.examples,
    })
}
