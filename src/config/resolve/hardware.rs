//! What a scale target's pod template says: which accelerators, how many per replica, and how many requests
//! the engine serves together.
//!
//! Input: Deployments, StatefulSets and LeaderWorkerSets. Output: [`Hardware`] by target. It fills in what a
//! variant does not state itself. Must not know variants.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::variant::ACCELERATOR_LABEL;
use crate::config::objects::{Kind, Object};
use crate::config::{ScaleTarget, TargetKind};

/// Labels of nodes that name the product of their accelerators.
pub const PRODUCT_LABELS: [&str; 4] = [
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
    "gpu.nvidia.com/model",
];
/// Resources that are accelerators.
pub const CARD_RESOURCES: [&str; 4] =
    ["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "habana.ai/gaudi"];

/// Flags of engines for the most requests that run together: vLLM's and SGLang's.
const BATCH_FLAGS: [&str; 2] = ["--max-num-seqs", "--max-running-requests"];

/// Accelerators of one replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hardware {
    /// Name by label, or product by node selector or affinity.
    pub accelerator: Option<String>,
    /// Cards per replica.
    pub cards: Option<u32>,
    /// Most requests that a replica runs together, by the engine's flag.
    pub max_batch: Option<u32>,
}

/// Hardware of all scale targets, by namespace and target.
pub(super) type ByTarget = BTreeMap<(Arc<str>, ScaleTarget), Hardware>;

/// The kind of scale target that an object is.
pub(super) const fn target_kind(kind: Kind) -> Option<TargetKind> {
    match kind {
        Kind::Deployment => Some(TargetKind::Deployment),
        Kind::StatefulSet => Some(TargetKind::StatefulSet),
        Kind::LeaderWorkerSet => Some(TargetKind::LeaderWorkerSet),
        _ => None,
    }
}

/// Reads the scale targets among all objects. What is wrong with them is not ours to tell.
pub(super) fn by_target(objects: &[Object<'_>]) -> ByTarget {
    let targets = objects.iter().filter_map(|object| Some((object, target_kind(object.id.kind)?)));
    let read = |(object, kind): (&Object<'_>, TargetKind)| {
        let target = ScaleTarget { kind, name: object.id.name.clone() };
        ((object.id.namespace.clone(), target), hardware(object, kind))
    };
    targets.map(read).collect()
}

fn hardware(object: &Object<'_>, kind: TargetKind) -> Hardware {
    let spec = &object.body["spec"];
    let (template, pods) = match kind {
        TargetKind::LeaderWorkerSet => {
            // The mirror has brought the template to the place that it has elsewhere.
            let group = &spec["leaderWorkerTemplate"];
            let size = spec["size"].as_u64().or_else(|| group["size"].as_u64()).unwrap_or(1);
            let own = &group["workerTemplate"]["spec"];
            (if own.is_null() { &spec["template"]["spec"] } else { own }, size)
        }
        _ => (&spec["template"]["spec"], 1),
    };
    let label = object.labels.get(ACCELERATOR_LABEL).cloned().filter(|name| !name.is_empty());
    let containers = template["containers"].as_array().map_or(&[][..], Vec::as_slice);
    let cards: u64 = containers.iter().map(cards).fold(0, u64::saturating_add).saturating_mul(pods);
    Hardware {
        accelerator: label.or_else(|| selected(template)).or_else(|| required(template)),
        cards: u32::try_from(cards).ok().filter(|cards| *cards > 0),
        max_batch: containers.iter().find_map(max_batch),
    }
}

/// The most requests that a container's engine runs together, if a flag says so.
pub fn max_batch(container: &Value) -> Option<u32> {
    let words = words(container);
    let at = words.iter().position(|word| BATCH_FLAGS.contains(word))?;
    words.get(at + 1)?.parse().ok().filter(|count| *count > 0)
}

/// Names under which a container's engine serves its model, if its command says so.
pub fn models(container: &Value) -> Vec<String> {
    let words = words(container);
    let behind =
        |flags: &[&str]| words.iter().position(|word| flags.contains(word)).map(|at| &words[at + 1..]);
    // Several names may follow the flag, up to the next one.
    let named = behind(&["--served-model-name"]).unwrap_or_default();
    let is_name = |word: &&&str| !word.starts_with('-') && !word.starts_with('$');
    let named: Vec<String> = named.iter().take_while(is_name).map(|word| (*word).to_owned()).collect();
    if !named.is_empty() {
        return named;
    }
    let model = behind(&["--model", "--model-path"]).or_else(|| behind(&["serve"]));
    model.and_then(<[&str]>::first).filter(is_name).map(|word| (*word).to_owned()).into_iter().collect()
}

/// The words of a container's command. A flag and its value are two words, one joined by `=`, or part of a line
/// for a shell.
fn words(container: &Value) -> Vec<&str> {
    let lists =
        ["command", "args"].into_iter().flat_map(|list| container[list].as_array().into_iter().flatten());
    lists
        .filter_map(Value::as_str)
        .flat_map(|word| word.split([' ', '=', '\n']))
        .filter(|word| !word.is_empty())
        .collect()
}

fn cards(container: &Value) -> u64 {
    let limits = &container["resources"]["limits"];
    let count = |name: &&str| match &limits[*name] {
        Value::String(text) => text.parse::<u64>().ok(),
        other => other.as_u64(),
    };
    CARD_RESOURCES.iter().filter_map(count).fold(0, u64::saturating_add)
}

fn selected(template: &Value) -> Option<String> {
    let selector = &template["nodeSelector"];
    PRODUCT_LABELS.iter().find_map(|label| Some(selector[*label].as_str()?.to_owned()))
}

/// The only product that the required node affinity allows.
fn required(template: &Value) -> Option<String> {
    let required = &template["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array().into_iter().flatten();
    let expressions = terms.flat_map(|term| term["matchExpressions"].as_array().into_iter().flatten());
    let mut products = expressions
        .filter(|expression| {
            expression["operator"] == "In"
                && expression["key"].as_str().is_some_and(|key| PRODUCT_LABELS.contains(&key))
        })
        .flat_map(|expression| expression["values"].as_array().into_iter().flatten())
        .filter_map(Value::as_str);
    let first = products.next()?;
    products.all(|other| other == first).then(|| first.to_owned())
}
