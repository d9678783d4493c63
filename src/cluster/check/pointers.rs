//! What variants and their scalers point to: targets, models, metrics.

use super::Finding;
use crate::config::cluster::TargetName;
use crate::config::{Snapshot, Variant, VariantSource};
use crate::mirror::cluster::once::Reading;
use crate::mirror::cluster::{Kind, Mirrored, View};
use crate::options::Actuation;
use serde_json::Value;

/// Counts from which one replica more is within an HPA's usual tolerance of 10 %.
const TOLERATED_FROM: u32 = 10;
/// The numbers that an autoscaler is meant to follow.
const METRICS: [&str; 4] =
    ["inferno_desired_replicas", "wva_desired_replicas", "inferno_desired_ratio", "wva_desired_ratio"];

/// Looks at every variant.
pub fn findings(snapshot: &Snapshot, reading: &Reading, actuation: Actuation) -> Vec<Finding> {
    let view = reading.store.view();
    let mut findings = Vec::new();
    for variant in snapshot.variants.values() {
        let target = TargetName { namespace: variant.key.namespace.clone(), target: variant.target.clone() };
        if !view.targets.contains_key(&target) {
            findings.extend(missing_target(variant, &target, reading, &view));
            continue;
        }
        findings.extend(other_model(variant, &target, reading));
        match view.scalers.get(&target) {
            Some(scaler) => findings.extend(scaler_of(variant, scaler)),
            None if actuation == Actuation::Direct => {}
            None => findings.push(Finding::warning(
                object(variant),
                "",
                format!("nothing scales {}", named(&target)),
                "make an HPA or a ScaledObject for it (deploy/hpa, deploy/keda), or run with --actuation direct",
            )),
        }
    }
    findings
}

fn object(variant: &Variant) -> String {
    let kind = match variant.source {
        VariantSource::VariantAutoscaling => Kind::VariantAutoscaling,
        VariantSource::HorizontalPodAutoscaler => Kind::HorizontalPodAutoscaler,
        VariantSource::ScaledObject => Kind::ScaledObject,
    };
    format!("{} {}", kind.name(), variant.key)
}

fn named(target: &TargetName) -> String {
    format!("{} {}/{}", target.target.kind.as_str(), target.namespace, target.target.name)
}

fn missing_target(variant: &Variant, target: &TargetName, reading: &Reading, view: &View) -> Option<Finding> {
    // What may not be listed is not missing: the permission is.
    let could_look = !reading.failures.iter().any(|(id, _)| id.kind.target() == Some(target.target.kind));
    let near = view.targets.keys().filter(|near| near.namespace == target.namespace).map(named).take(5);
    let near: Vec<String> = near.collect();
    let fix = match near.is_empty() {
        true => format!("create it; there is no scale target in namespace {}", target.namespace),
        false => format!("create it or correct the name; there are {}", near.join(", ")),
    };
    let reason = format!("there is no {}", named(target));
    could_look.then(|| Finding::problem(object(variant), "spec.scaleTargetRef", reason, fix))
}

/// The engine is told to serve something else than the variant names.
fn other_model(variant: &Variant, target: &TargetName, reading: &Reading) -> Option<Finding> {
    let served = reading.served.get(target)?;
    if served.iter().any(|model| **model == *variant.model_id) {
        return None;
    }
    let field = match variant.source {
        VariantSource::VariantAutoscaling => "spec.modelID",
        _ => "metadata.annotations[llm-d.ai/model-id]",
    };
    let reason = format!(
        "\"{}\" is not what {} serves: \"{}\"",
        variant.model_id,
        named(target),
        served.join("\", \"")
    );
    Some(Finding::problem(
        object(variant),
        field,
        reason,
        "write the name that clients send and the engine reports",
    ))
}

fn scaler_of(variant: &Variant, scaler: &Mirrored) -> Option<Finding> {
    if scaler.kind != Kind::HorizontalPodAutoscaler {
        return None;
    }
    let spec = &scaler.body()["spec"];
    let object = format!("{} {}/{}", scaler.kind.name(), scaler.name.namespace, scaler.name.name);
    if !follows_us(spec) {
        let reason = format!("it scales the target of variant {} by other metrics", variant.key);
        let fix = format!("let it follow {} (deploy/hpa)", METRICS[0]);
        return Some(Finding::warning(object, "spec.metrics", reason, fix));
    }
    let max = spec["maxReplicas"].as_u64().unwrap_or(0);
    let is_set = |direction: &str| !spec["behavior"][direction]["tolerance"].is_null();
    let tolerated = max > u64::from(TOLERATED_FROM) && !(is_set("scaleUp") && is_set("scaleDown"));
    tolerated.then(|| {
        Finding::warning(
            object,
            "spec.behavior",
            format!("from {TOLERATED_FROM} replicas on, one more or less is within its tolerance of 10 % and not done"),
            "set scaleUp.tolerance and scaleDown.tolerance to 0 (Kubernetes 1.33 and newer, HPAConfigurableTolerance)",
        )
    })
}

/// Whether one of the HPA's metrics is one of ours.
fn follows_us(spec: &Value) -> bool {
    spec["metrics"].as_array().into_iter().flatten().any(|metric| {
        ["external", "object", "pods"]
            .into_iter()
            .filter_map(|source| metric[source]["metric"]["name"].as_str())
            .any(|name| METRICS.contains(&name))
    })
}
