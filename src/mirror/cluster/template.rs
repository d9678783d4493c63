//! What pod templates and nodes say about accelerators.
//!
//! Input: scale targets and nodes as the API server sends them. Output: the part of a scale target that
//! `config` reads, and the cards of a node. Must not know watches.

use kube::api::DynamicObject;
use kube::core::ObjectMeta;
use serde_json::{Map, Value, json};

use super::kinds::{Kind, metadata};
use crate::config::resolve::hardware::{CARD_RESOURCES, PRODUCT_LABELS, max_batch, models};

/// The part of a scale target that `config` reads; `None` when it says nothing about accelerators.
pub fn body(kind: Kind, object: &DynamicObject) -> Option<Value> {
    let spec = &object.data["spec"];
    let template = pod_spec(kind, object);
    let containers = template["containers"].as_array().into_iter().flatten();
    let containers: Vec<Value> = containers.filter_map(container).collect();
    let mut pods = Map::new();
    for name in ["nodeSelector", "affinity"] {
        if !template[name].is_null() {
            pods.insert(name.into(), template[name].clone());
        }
    }
    if containers.is_empty() && pods.is_empty() {
        return None;
    }
    pods.insert("containers".into(), containers.into());
    let mut kept = json!({"template": {"spec": pods}});
    if kind == Kind::LeaderWorkerSet {
        kept["size"] = spec["leaderWorkerTemplate"]["size"].clone();
    }
    let resource = kind.api_resource();
    let mut metadata = metadata(&object.metadata);
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("annotations");
        metadata.remove("ownerReferences");
    }
    Some(json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": kept,
    }))
}

fn pod_spec(kind: Kind, object: &DynamicObject) -> &Value {
    let spec = &object.data["spec"];
    match kind {
        Kind::LeaderWorkerSet => &spec["leaderWorkerTemplate"]["workerTemplate"]["spec"],
        _ => &spec["template"]["spec"],
    }
}

/// Names of the models that a scale target's engines are told to serve; empty where no flag says so.
pub fn served_models(kind: Kind, object: &DynamicObject) -> Vec<String> {
    if kind.target().is_none() {
        return Vec::new();
    }
    let containers = pod_spec(kind, object)["containers"].as_array().into_iter().flatten();
    containers.flat_map(models).collect()
}

/// A container that uses cards, with the one flag that is read. Its other words may hold secrets.
fn container(container: &Value) -> Option<Value> {
    let limits = container["resources"]["limits"].as_object()?;
    let cards: Map<String, Value> = limits
        .iter()
        .filter(|(name, _)| CARD_RESOURCES.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let batch = max_batch(container).map(|batch| json!([format!("--max-num-seqs={batch}")]));
    (!cards.is_empty()).then(|| json!({"resources": {"limits": cards}, "args": batch}))
}

/// Product and number of the cards of a node that pods can be placed on.
pub fn node_cards(metadata: &ObjectMeta, data: &Value) -> Option<(String, u64)> {
    let labels = metadata.labels.as_ref()?;
    let product = PRODUCT_LABELS.iter().find_map(|label| labels.get(*label))?;
    let allocatable = &data["status"]["allocatable"];
    let count = |name: &&str| match &allocatable[*name] {
        Value::String(text) => text.parse::<u64>().ok(),
        other => other.as_u64(),
    };
    let cards = CARD_RESOURCES.iter().filter_map(count).fold(0, u64::saturating_add);
    Some((product.clone(), cards))
}
