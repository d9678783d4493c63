//! What the status of a VariantAutoscaling says: allocations and the three conditions, with the reasons
//! that users of the reference controller know and messages that say what to fix.
//!
//! Pure: decisions and mirrored objects in, JSON out.

use crate::config::cluster::TargetReplicas;
use crate::config::{Problem, ScaleTarget};
use crate::mirror::cluster::Mirrored;
use crate::publish::{Decision, Entry, Fault, Load};
use crate::units::TimeMs;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Longest message of a condition, characters; the API server accepts 32768.
const MESSAGE_MAX_CHARS: usize = 1024;

/// Everything that is known of one VariantAutoscaling.
pub struct Known<'a> {
    /// The object.
    pub object: &'a Mirrored,
    /// Its status as last seen or written.
    pub status: &'a Value,
    /// Its entry on the board, unless its configuration is refused.
    pub entry: Option<&'a Entry>,
    /// What it scales, and its counts if it exists.
    pub target: Option<(&'a ScaleTarget, Option<TargetReplicas>)>,
    /// What is wrong with the object's configuration.
    pub problems: &'a [&'a Problem],
    /// Whether any sample has arrived since the start.
    pub has_stream: bool,
    /// Now, by the readers' clock.
    pub now: TimeMs,
}

/// A condition, without its times.
struct Condition {
    name: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

/// The whole status; to be cut to the installed shape.
pub fn status(known: &Known<'_>) -> Value {
    let conditions = [target_resolved(known), metrics_available(known), optimization_ready(known)];
    let conditions: Vec<Value> = conditions.into_iter().map(|it| condition(it, known)).collect();
    let decided = known.entry.and_then(|entry| Some((entry, entry.decision.as_ref()?)));
    match decided {
        Some((entry, decision)) => json!({
            "currentAlloc": current(entry, decision),
            "desiredOptimizedAlloc": desired(entry, decision),
            "actuation": {"applied": decision.desired == decision.current},
            "conditions": conditions,
        }),
        // What was decided before a restart stays until there is a new decision.
        None => json!({
            "currentAlloc": known.status["currentAlloc"],
            "desiredOptimizedAlloc": known.status["desiredOptimizedAlloc"],
            "actuation": known.status["actuation"],
            "conditions": conditions,
        }),
    }
}

/// The part of a status whose change is worth a write: not times, nor figures that change all the time.
pub fn significant(status: &Value) -> Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<Value> = conditions
        .filter(|it| {
            ["TargetResolved", "MetricsAvailable", "OptimizationReady"].iter().any(|name| it["type"] == *name)
        })
        .map(|it| {
            let message = if it["status"] == "True" { &Value::Null } else { &it["message"] };
            json!([it["type"], it["status"], it["reason"], it["observedGeneration"], message])
        })
        .collect();
    json!([
        status["currentAlloc"]["numReplicas"],
        status["currentAlloc"]["accelerator"],
        status["desiredOptimizedAlloc"]["numReplicas"],
        status["desiredOptimizedAlloc"]["accelerator"],
        status["actuation"],
        conditions,
    ])
}

/// The load that a status shows, if its shape does.
pub fn shown_load(status: &Value) -> Option<f64> {
    status["currentAlloc"]["load"]["arrivalRate"].as_str()?.parse().ok()
}

fn current(entry: &Entry, decision: &Decision) -> Value {
    let number = |value: Option<f64>| format!("{:.2}", value.unwrap_or(0.0).max(0.0));
    let Load { arrival_rate_per_s, avg_prompt_tokens, avg_generation_tokens, ttft_ms, itl_ms, .. } =
        entry.load;
    let variant = &entry.variant;
    let max_batch = variant.profiles.first().map_or(0, |profile| profile.max_batch);
    json!({
        "variantID": &*entry.variant_id,
        "accelerator": &*variant.accelerator,
        "numReplicas": decision.current,
        "maxBatch": max_batch,
        "variantCost": number(Some(variant.cost * f64::from(decision.current))),
        "itlAverage": number(itl_ms),
        "ttftAverage": number(ttft_ms),
        "load": {
            "arrivalRate": number(arrival_rate_per_s.map(|rate| rate * 60.0)),
            "avgInputTokens": number(avg_prompt_tokens),
            "avgOutputTokens": number(avg_generation_tokens),
        },
    })
}

fn desired(entry: &Entry, decision: &Decision) -> Value {
    let reason = cut(&decision.explain());
    let mut last = json!({"reason": reason});
    if let Some((before, at)) = decision.previous {
        last["numReplicasChanged"] = (i64::from(decision.desired) - i64::from(before)).into();
        last["updateTime"] = rfc3339(at).into();
    }
    json!({
        "variantID": &*entry.variant_id,
        "accelerator": &*entry.variant.accelerator,
        "numReplicas": decision.desired,
        "lastRunTime": now(),
        "lastUpdate": last,
        "reason": reason,
    })
}

fn target_resolved(known: &Known<'_>) -> Condition {
    let name = "TargetResolved";
    let found = |is_true, reason, message| Condition { name, is_true, reason, message };
    let namespace = &known.object.name.namespace;
    match known.target {
        Some((target, Some(_))) => {
            let message = format!("{} {} is found", target.kind.as_str(), target.name);
            found(true, "TargetFound", message)
        }
        Some((target, None)) => {
            let (kind, name) = (target.kind.as_str(), &target.name);
            let message = format!(
                "there is no {kind} {name} in namespace {namespace}; create it or correct spec.scaleTargetRef"
            );
            found(false, "TargetNotFound", message)
        }
        None => found(false, "TargetNotFound", "spec.scaleTargetRef names nothing that can be scaled".into()),
    }
}

fn metrics_available(known: &Known<'_>) -> Condition {
    let name = "MetricsAvailable";
    let is = |is_true, reason, message| Condition { name, is_true, reason, message };
    let Some(entry) = known.entry else {
        let message = "not looked at while the configuration is refused".into();
        return is(false, "MetricsMissing", message);
    };
    if !known.has_stream {
        let message = "no remote-write sample has arrived yet; check Prometheus's remote_write".into();
        return is(false, "PrometheusError", message);
    }
    let explain = |fault: &Fault| fault.explain(&entry.variant);
    match entry.health.worst_at(known.now) {
        Some(fault @ Fault::Stale) => is(false, "MetricsStale", explain(fault)),
        Some(
            fault @ (Fault::NoSeries { .. }
            | Fault::NoReplicaReports
            | Fault::MissingSignal { .. }
            | Fault::ModelMismatch { .. }),
        ) => is(false, "MetricsMissing", explain(fault)),
        Some(fault) => is(true, "MetricsFound", explain(fault)),
        None => is(true, "MetricsFound", "all replicas report what decisions need".into()),
    }
}

fn optimization_ready(known: &Known<'_>) -> Condition {
    let name = "OptimizationReady";
    let is = |is_true, reason, message: String| Condition { name, is_true, reason, message };
    let problems: Vec<String> = known
        .problems
        .iter()
        .map(|problem| match problem.field.as_str() {
            "" => format!("{}; {}", problem.reason, problem.fix),
            field => format!("{field}: {}; {}", problem.reason, problem.fix),
        })
        .collect();
    let problems = problems.join(". ");
    match known.entry.map(|entry| (entry, &entry.decision)) {
        None => is(false, "InvalidConfiguration", problems),
        Some((entry, None)) => is(false, "MetricsUnavailable", entry.undecided(known.now)),
        Some((_, Some(decision))) if problems.is_empty() => {
            is(true, "OptimizationSucceeded", decision.explain())
        }
        Some((_, Some(decision))) => {
            is(true, "OptimizationSucceeded", format!("{}. Problem: {problems}", decision.explain()))
        }
    }
}

/// A condition with its times: it has been so since it was last otherwise.
fn condition(it: Condition, known: &Known<'_>) -> Value {
    let status = if it.is_true { "True" } else { "False" };
    let before = known.status["conditions"].as_array().into_iter().flatten();
    let mut before = before.filter(|before| before["type"] == it.name && before["status"] == status);
    let since = before.next().and_then(|before| before["lastTransitionTime"].as_str());
    json!({
        "type": it.name,
        "status": status,
        "reason": it.reason,
        "message": cut(&it.message),
        "observedGeneration": known.object.generation,
        "lastTransitionTime": since.map_or_else(now, str::to_owned),
    })
}

fn cut(text: &str) -> String {
    text.chars().take(MESSAGE_MAX_CHARS).collect()
}

fn now() -> String {
    to_text(Timestamp::now())
}

fn rfc3339(time: TimeMs) -> String {
    to_text(Timestamp::from_millisecond(time.0).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// RFC 3339 in whole seconds, as the API server writes it.
fn to_text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
