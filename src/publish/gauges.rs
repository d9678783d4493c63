//! What is published per variant: one table of metric families, from which both `/metrics` and the query
//! API are rendered, so that they cannot differ.

use super::{Decision, Entry};
use crate::config::{SloTargets, Variant};
use crate::units::TimeMs;

/// Type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Goes up and down.
    Gauge,
    /// Only grows.
    Counter,
}

impl FamilyKind {
    /// The word for it in expositions and metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            FamilyKind::Gauge => "gauge",
            FamilyKind::Counter => "counter",
        }
    }
}

/// One metric family per variant.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Metric name.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Type.
    pub kind: FamilyKind,
    /// The reference controller's newer name of a family of ours; switchable.
    pub alias: bool,
    /// Name of the family that the values are those of: its own, or for an alias the family of ours.
    pub origin: &'static str,
    /// An autoscaler acts on it: to answer without it would be read as zero.
    pub vital: bool,
    value: Value,
}

/// Label pairs that a sample has beside the variant's own.
pub type ExtraLabels<'a> = &'a [(&'static str, &'static str)];

#[derive(Clone, Copy, Debug)]
enum Value {
    /// One number, absent when unknown.
    One(fn(&Entry, TimeMs) -> Option<f64>),
    /// One sample per direction and reason.
    Scalings,
    /// 1 or 0 with the worst fault as `reason`.
    Healthy,
}

const fn family(name: &'static str, help: &'static str, value: fn(&Entry, TimeMs) -> Option<f64>) -> Family {
    Family {
        name,
        help,
        kind: FamilyKind::Gauge,
        alias: false,
        origin: name,
        vital: false,
        value: Value::One(value),
    }
}

const fn vital(family: Family) -> Family {
    Family { vital: true, ..family }
}

const fn alias(family: Family, name: &'static str) -> Family {
    Family { name, alias: true, ..family }
}

const DESIRED: Family = vital(family("inferno_desired_replicas", "Replicas wanted.", |entry, _| {
    entry.decision.as_ref().map(|decision| f64::from(decision.desired))
}));
const CURRENT: Family =
    vital(family("inferno_current_replicas", "Replicas there are, ready or not.", |entry, _| {
        entry.decision.as_ref().map(|decision| f64::from(decision.current))
    }));
const RATIO: Family = vital(family(
    "inferno_desired_ratio",
    "Desired replicas divided by current ones; desired ones when there is none.",
    |entry, _| entry.decision.as_ref().map(Decision::desired_ratio),
));

/// All families, in the order of the exposition.
pub const FAMILIES: &[Family] = &[
    DESIRED,
    CURRENT,
    RATIO,
    alias(DESIRED, "wva_desired_replicas"),
    alias(CURRENT, "wva_current_replicas"),
    alias(RATIO, "wva_desired_ratio"),
    family(
        "inferno_wanted_replicas",
        "Replicas asked for if there were cards for everybody; above the desired ones where cards are short.",
        |entry, _| entry.decision.as_ref().map(|decision| f64::from(decision.wanted)),
    ),
    family(
        "inferno_advised_replicas",
        "Replicas that the mode which only advises would want; absent without one.",
        |entry, _| entry.advice.map(|advice| f64::from(advice.replicas)),
    ),
    Family {
        kind: FamilyKind::Counter,
        value: Value::Scalings,
        ..family(
            "inferno_replica_scaling_total",
            "Changes of the desired replicas, by direction and reason.",
            |_, _| None,
        )
    },
    Family {
        value: Value::Healthy,
        ..family(
            "inferno_input_healthy",
            "1 when the inputs are complete and fresh, else 0 with the worst fault as reason.",
            |_, _| None,
        )
    },
    family("inferno_input_age_seconds", "Age of the newest sample about the variant.", |entry, now| {
        entry.health.age_ms(now).map(|ms| ms as f64 / 1000.0)
    }),
    family("inferno_pending_replicas", "Replicas that exist but are not ready.", |entry, _| {
        entry.decision.as_ref().map(|decision| f64::from(decision.pending))
    }),
    family(
        "inferno_arrival_rate_per_second",
        "Requests arriving per second over one minute: completions plus change of requests in the engines.",
        |entry, _| entry.load.arrival_rate_per_s,
    ),
    family("inferno_avg_prompt_tokens", "Average prompt length over one minute, tokens.", |entry, _| {
        entry.load.avg_prompt_tokens
    }),
    family(
        "inferno_avg_generation_tokens",
        "Average generated length over one minute, tokens.",
        |entry, _| entry.load.avg_generation_tokens,
    ),
    family("inferno_kv_cache_usage_ratio", "Average KV cache usage of the replicas, 0 to 1.", |entry, _| {
        entry.load.kv_usage_ratio
    }),
    family("inferno_requests_waiting", "Requests waiting in the engines.", |entry, _| entry.load.waiting),
    family("inferno_requests_running", "Requests running in the engines.", |entry, _| entry.load.running),
    family("inferno_ttft_seconds", "Average time to first token over one minute.", |entry, _| {
        entry.load.ttft_ms.map(|ms| ms / 1000.0)
    }),
    family("inferno_itl_seconds", "Average inter-token latency over one minute.", |entry, _| {
        entry.load.itl_ms.map(|ms| ms / 1000.0)
    }),
    family(
        "inferno_ttft_target_seconds",
        "Target of the time to first token by the service class.",
        |entry, _| target_seconds(entry, |targets| targets.ttft_ms),
    ),
    family(
        "inferno_itl_target_seconds",
        "Target of the inter-token latency by the service class.",
        |entry, _| target_seconds(entry, |targets| targets.itl_ms),
    ),
    family("inferno_max_replicas", "Upper bound on replicas by the variant's object.", |entry, _| {
        entry.variant.max_replicas.map(f64::from)
    }),
    family(
        "inferno_replica_cost_per_hour",
        "Cost of one replica, in the unit of the configuration.",
        |entry, _| Some(entry.variant.cost),
    ),
    family(
        "inferno_capacity_per_replica_per_second",
        "Requests per second that one replica carries up to its thresholds, extrapolated from the load.",
        |entry, _| entry.load.capacity_per_replica_per_s,
    ),
    family(
        "inferno_utilization_ratio",
        "Load relative to the saturation thresholds; 1 is at a threshold.",
        |entry, _| entry.load.utilization_ratio,
    ),
];

/// A target of the variant's service class; none where it is 0.
fn target_seconds(entry: &Entry, of: fn(&SloTargets) -> f64) -> Option<f64> {
    let ms = of(&entry.variant.slo.as_ref()?.targets);
    (ms > 0.0).then_some(ms / 1000.0)
}

impl Family {
    /// Calls `visit` with every sample that the family has for `entry` at `now`.
    pub fn samples(&self, entry: &Entry, now: TimeMs, mut visit: impl FnMut(ExtraLabels<'_>, f64)) {
        match self.value {
            Value::One(value) => {
                if let Some(value) = value(entry, now) {
                    visit(&[], value);
                }
            }
            Value::Scalings => {
                for scaling in &entry.scalings {
                    let (direction, reason) = (scaling.direction.as_str(), scaling.cause.as_str());
                    visit(&[("direction", direction), ("reason", reason)], scaling.count as f64);
                }
            }
            Value::Healthy => match entry.health.worst_at(now) {
                Some(fault) => visit(&[("reason", fault.as_str())], 0.0),
                None => visit(&[("reason", "ok")], 1.0),
            },
        }
    }
}

/// Calls `visit` with the labels under which a variant is published, sorted by name and without
/// `exported_namespace`.
pub fn labels<'a>(variant: &'a Variant, variant_id: &'a str, mut visit: impl FnMut(&'static str, &'a str)) {
    visit("accelerator_type", &variant.accelerator);
    if let Some(instance) = &variant.controller_instance {
        visit("controller_instance", instance);
    }
    visit("namespace", &variant.key.namespace);
    visit("variant_id", variant_id);
    visit("variant_name", &variant.key.name);
}
