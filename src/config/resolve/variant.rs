//! VariantAutoscaling objects, HorizontalPodAutoscalers and ScaledObjects to drafts of variants.
//!
//! Input: raw objects. Output: [`Draft`]s, to which cost and service class are added later, and the
//! bounds that foreign scalers set. Must not know other objects.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::profile::{self, COUNT_FIX};
use super::read::{Book, Fields, Scope};
use super::value::{
    Checked, accelerator_count, max_replicas, meant, min_replicas, not_negative, scalar_text, show, text,
    truth, word,
};
use crate::config::objects::{Kind, Object, ObjectId, is_dns_name};
use crate::config::{Kept, Profile, Role, ScaleTarget, TargetKind, Variant, VariantKey, VariantSource};

/// A variant as its own object describes it.
pub(super) struct Draft {
    pub origin: Arc<str>,
    pub object: ObjectId,
    /// Complete but for cost and service class.
    pub variant: Variant,
    pub stated_cost: Option<f64>,
    /// The accelerators per replica are stated, not assumed.
    pub is_count_stated: bool,
    pub class_ref: Option<ClassRef>,
}

/// Reference of a variant to its service class.
pub(super) struct ClassRef {
    pub name: String,
    pub key: String,
}

/// Bounds that a scaler of somebody else sets on a scale target.
pub(super) struct Bounds {
    pub namespace: Arc<str>,
    pub target: ScaleTarget,
    pub min: Option<u32>,
    pub max: Option<u32>,
}

impl Bounds {
    /// The bounds of a variant that a scaler declares.
    pub fn of(variant: &Variant) -> Self {
        Bounds {
            namespace: variant.key.namespace.clone(),
            target: variant.target.clone(),
            min: variant.min_replicas,
            max: variant.max_replicas,
        }
    }
}

const TOP: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "generation",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
    "finalizers",
    "managedFields",
];
const SPEC: &[&str] = &[
    "modelID",
    "modelProfile",
    "sloClassRef",
    "scaleTargetRef",
    "variantCost",
    "minReplicas",
    "maxReplicas",
    "variantID",
    "variantProfile",
    "accelerator",
    "acceleratorCount",
];
const CLASS_REF: &[&str] = &["name", "key"];
const TARGET_REF: &[&str] = &["apiVersion", "kind", "name"];
/// Label that names the variant's accelerator.
pub(super) const ACCELERATOR_LABEL: &str = "inference.optimization/acceleratorName";
const INSTANCE_LABEL: &str = "wva.llmd.ai/controller-instance";
const LABELS: &[&str] = &[ACCELERATOR_LABEL, INSTANCE_LABEL, EXCLUDE, ROLE];
/// Label or annotation that takes an object, or a whole namespace, out.
pub(super) const EXCLUDE: &str = "wva.llmd.ai/exclude";
const MANAGED: &str = "llm-d.ai/managed";
const MODEL_ID: &str = "llm-d.ai/model-id";
const VARIANT_COST: &str = "llm-d.ai/variant-cost";
/// Label or annotation that says which part of a request is served.
const ROLE: &str = "llm-d.ai/role";
const ANNOTATIONS: &[&str] = &[MANAGED, MODEL_ID, VARIANT_COST, ROLE];
/// What a VariantAutoscaling's annotations may say.
const OWN_ANNOTATIONS: &[&str] = &[ROLE];

const MODEL_FIX: &str =
    "write the model name as clients send it and as the engine reports it in `model_name`";
const COST_FIX: &str = "write the cost of one replica, a number of at least 0, e.g. \"10.5\"";
const MIN_FIX: &str = "write a whole number of at least 0";
const MAX_FIX: &str = "write a whole number of at least 1";
const LABEL_FIX: &str = "write the accelerator's name as in accelerator-unit-costs";
const ROLE_FIX: &str = "write prefill, decode or both";
pub(super) const UNKNOWN_ACCELERATOR: &str = "unknown";

/// Whether the object is marked to be left alone.
pub(super) fn is_excluded(object: &Object<'_>) -> bool {
    object.mark(EXCLUDE).is_some_and(|mark| truth(&mark.into()) == Ok(true))
}

/// Reads a VariantAutoscaling; `None` when it cannot be used at all.
pub(super) fn variant_autoscaling(book: &mut Book<'_>, object: &Object<'_>) -> Option<Draft> {
    let mut scope = book.at(&object.origin, object.id.to_string());
    let top = scope.open(Some(object.body), "", "", TOP);
    let labels = labels(&mut scope, object, "labels", LABELS);
    let annotations = self::labels(&mut scope, object, "annotations", OWN_ANNOTATIONS);
    let role = role(&mut scope, &labels, &annotations);
    let spec = scope.require_open(&top, "spec", SPEC, "add a spec with at least modelID");
    if spec.is_unreadable() && !scope.remembers_below("spec") {
        return None;
    }
    let model_id = scope.require(&spec, "modelID", word, MODEL_FIX);
    let stated = scope.read(&spec, "accelerator", word, LABEL_FIX, Kept::Nothing);
    let count = scope.read(&spec, "acceleratorCount", accelerator_count, COUNT_FIX, Kept::Default);
    let label = scope.read(&labels, ACCELERATOR_LABEL, word, LABEL_FIX, Kept::Nothing);
    let mut profiles = profile::profiles(&mut scope, &spec, stated.as_deref().or(label.as_deref()), count);
    let accelerator = label.or(stated).or_else(|| match profiles.as_slice() {
        [only] => Some(only.accelerator.to_string()),
        _ => None,
    });
    let own = accelerator.as_deref().and_then(|name| own_profile_first(&mut scope, &mut profiles, name));
    let target = match scope.open_field(&spec, "scaleTargetRef", TARGET_REF) {
        Some(reference) => target(&mut scope, &reference),
        None => Some(ScaleTarget { kind: TargetKind::Deployment, name: object.id.name.clone() }),
    };
    let (min_replicas, max_replicas) = bounds(&mut scope, &spec, "minReplicas", "maxReplicas");
    let stated_cost = scope.read(&spec, "variantCost", not_negative, COST_FIX, Kept::Default);
    let class_ref = class_ref(&mut scope, &spec);
    let instance = scope.read(&labels, INSTANCE_LABEL, text, "write a short text", Kept::Nothing);
    let count = own.or(count);
    let variant = Variant {
        key: VariantKey { namespace: object.id.namespace.clone(), name: object.id.name.clone() },
        model_id: model_id?.into(),
        role,
        target: target?,
        accelerator: accelerator.as_deref().unwrap_or(UNKNOWN_ACCELERATOR).into(),
        acc_count: count.unwrap_or(1),
        cost: 0.0,
        min_replicas,
        max_replicas,
        profiles,
        slo: None,
        controller_instance: instance.filter(|instance| !instance.is_empty()).map(Into::into),
        source: VariantSource::VariantAutoscaling,
    };
    Some(Draft {
        origin: object.origin.clone(),
        object: object.id.clone(),
        variant,
        stated_cost,
        is_count_stated: count.is_some(),
        class_ref,
    })
}

/// Opens the labels or annotations of an object.
fn labels<'v>(
    scope: &mut Scope<'_, '_>,
    object: &Object<'v>,
    name: &'static str,
    known: &'static [&'static str],
) -> Fields<'v> {
    // Absent ones are an empty mapping, not a broken one.
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(serde_json::Map::new()));
    let metadata = scope.open(object.body.get("metadata"), "metadata", "metadata", METADATA);
    match scope.open_field(&metadata, name, known) {
        Some(found) => found,
        None => scope.open(Some(&EMPTY), &metadata.path(name), &metadata.key(name), known),
    }
}

/// The role that a label, or else an annotation, states.
fn role(scope: &mut Scope<'_, '_>, labels: &Fields<'_>, annotations: &Fields<'_>) -> Role {
    let label = scope.read(labels, ROLE, role_word, ROLE_FIX, Kept::Default);
    let annotation = scope.read(annotations, ROLE, role_word, ROLE_FIX, Kept::Default);
    label.or(annotation).unwrap_or_default()
}

fn role_word(value: &Value) -> Checked<Role> {
    let word = text(value)?.to_ascii_lowercase();
    let known = Role::ALL.map(Role::as_str);
    let hint = || meant(&word, &known).map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default();
    let found = Role::ALL.into_iter().find(|role| role.as_str() == word);
    found.ok_or_else(|| format!("{} is no role{}", show(value), hint()))
}

/// Brings the profile of the variant's own accelerator to the front and gives its accelerator count.
fn own_profile_first(scope: &mut Scope<'_, '_>, profiles: &mut [Profile], accelerator: &str) -> Option<u32> {
    if profiles.is_empty() {
        return None;
    }
    let Some(own) = profiles.iter().position(|profile| &*profile.accelerator == accelerator) else {
        let known: Vec<&str> = profiles.iter().map(|profile| &*profile.accelerator).collect();
        scope.problem(
            "spec.modelProfile.accelerators",
            format!(
                "no profile for the variant's own accelerator {}, only for {}",
                show(&accelerator.into()),
                known.join(", ")
            ),
            format!("add its profile, or correct the label {ACCELERATOR_LABEL}"),
            Kept::Nothing,
        );
        return None;
    };
    profiles[..=own].rotate_right(1);
    Some(profiles[0].acc_count)
}

fn class_ref(scope: &mut Scope<'_, '_>, spec: &Fields<'_>) -> Option<ClassRef> {
    let reference = scope.open_field(spec, "sloClassRef", CLASS_REF)?;
    let fix = "write the ConfigMap's name and the key of the service class in it";
    let name = scope.read(&reference, "name", text, fix, Kept::Nothing).unwrap_or_default();
    let key = scope.require(&reference, "key", word, fix)?;
    Some(ClassRef { name, key })
}

fn target_kind(value: &Value) -> Checked<TargetKind> {
    match value.as_str() {
        Some("Deployment") => Ok(TargetKind::Deployment),
        Some("StatefulSet") => Ok(TargetKind::StatefulSet),
        Some("LeaderWorkerSet") => Ok(TargetKind::LeaderWorkerSet),
        _ => Err(format!("{} is no kind that can be scaled here", show(value))),
    }
}

fn target_name(value: &Value) -> Checked<String> {
    let name = word(value)?;
    if is_dns_name(&name, 253) { Ok(name) } else { Err(format!("{} is no valid name", show(value))) }
}

fn target(scope: &mut Scope<'_, '_>, reference: &Fields<'_>) -> Option<ScaleTarget> {
    let fix = "write Deployment, StatefulSet or LeaderWorkerSet";
    let name = scope.require(reference, "name", target_name, "write the name of the object to scale");
    let had_kind = reference.raw("kind").is_some();
    let kind = scope.read(reference, "kind", target_kind, fix, Kept::Nothing);
    // Deployment is what the scalers of Kubernetes assume; a wrong kind is no missing one.
    let kind = kind.or((!had_kind).then_some(TargetKind::Deployment))?;
    Some(ScaleTarget { kind, name: name?.into() })
}

fn bounds(
    scope: &mut Scope<'_, '_>,
    spec: &Fields<'_>,
    min_name: &'static str,
    max_name: &'static str,
) -> (Option<u32>, Option<u32>) {
    let min = scope.read(spec, min_name, min_replicas, MIN_FIX, Kept::Nothing);
    let max = scope.read(spec, max_name, max_replicas, MAX_FIX, Kept::Nothing);
    let refusal = match (min, max) {
        (Some(low), Some(high)) if low > high => Some((
            format!("{min_name} {low} is above {max_name} {high}"),
            "raise the upper bound or lower the lower one",
        )),
        _ => None,
    };
    let (path, key) = (spec.path(min_name), spec.key("bounds"));
    let agreed =
        scope.agreeing((&path, &key), [min, max].map(|bound| bound.map(f64::from)), refusal, Kept::Nothing);
    // Both come from checked `u32`s, or from memory of such.
    let [min, max] = agreed.unwrap_or_default().map(|bound| bound.map(|bound| bound as u32));
    (min, max)
}

/// What a HorizontalPodAutoscaler or ScaledObject means.
pub(super) enum Scaler {
    /// It declares a variant.
    Variant(Box<Draft>),
    /// It bounds a target that may belong to a variant.
    Bounds(Bounds),
    /// Nothing to us, or nothing usable.
    Nothing,
}

/// Reads a HorizontalPodAutoscaler or ScaledObject.
pub(super) fn scaler(book: &mut Book<'_>, object: &Object<'_>) -> Scaler {
    let mut scope = book.at(&object.origin, object.id.to_string());
    let annotations = labels(&mut scope, object, "annotations", ANNOTATIONS);
    let is_managed = scope.read(&annotations, MANAGED, truth, "write \"true\" or \"false\"", Kept::Nothing);
    // The operator copies the annotations of a ScaledObject to the autoscaler it makes of it.
    if is_managed != Some(true) || object.owned_by_scaled_object {
        return foreign(object).map_or(Scaler::Nothing, Scaler::Bounds);
    }
    match managed(&mut scope, object, &annotations) {
        Some(draft) => Scaler::Variant(Box::new(draft)),
        None => Scaler::Nothing,
    }
}

const fn bound_names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::ScaledObject => ("minReplicaCount", "maxReplicaCount"),
        _ => ("minReplicas", "maxReplicas"),
    }
}

fn managed(scope: &mut Scope<'_, '_>, object: &Object<'_>, annotations: &Fields<'_>) -> Option<Draft> {
    let model_id = scope.require(annotations, MODEL_ID, word, MODEL_FIX);
    let stated_cost = scope.read(annotations, VARIANT_COST, not_negative, COST_FIX, Kept::Default);
    let labels = labels(scope, object, "labels", LABELS);
    let role = role(scope, &labels, annotations);
    let accelerator = scope.read(&labels, ACCELERATOR_LABEL, word, LABEL_FIX, Kept::Nothing);
    let instance = scope.read(&labels, INSTANCE_LABEL, text, "write a short text", Kept::Nothing);
    let top = scope.open(Some(object.body), "", "", &[]);
    let spec = scope.require_open(&top, "spec", &[], "add a spec that names the object to scale");
    let reference = scope.require_open(&spec, "scaleTargetRef", &[], "name the object to scale");
    if reference.is_unreadable() && !scope.remembers_below(reference.own_key()) {
        return None;
    }
    let target = target(scope, &reference);
    let (min_name, max_name) = bound_names(object.id.kind);
    let (min_replicas, max_replicas) = bounds(scope, &spec, min_name, max_name);
    let target = target?;
    let variant = Variant {
        key: VariantKey { namespace: object.id.namespace.clone(), name: target.name.clone() },
        model_id: model_id?.into(),
        role,
        target,
        accelerator: accelerator.as_deref().unwrap_or(UNKNOWN_ACCELERATOR).into(),
        acc_count: 1,
        cost: 0.0,
        min_replicas,
        max_replicas,
        profiles: Vec::new(),
        slo: None,
        controller_instance: instance.filter(|instance| !instance.is_empty()).map(Into::into),
        source: match object.id.kind {
            Kind::ScaledObject => VariantSource::ScaledObject,
            _ => VariantSource::HorizontalPodAutoscaler,
        },
    };
    Some(Draft {
        origin: object.origin.clone(),
        object: object.id.clone(),
        variant,
        stated_cost,
        is_count_stated: false,
        class_ref: None,
    })
}

/// Bounds of a scaler that is not ours. What is wrong with it is not ours to tell.
fn foreign(object: &Object<'_>) -> Option<Bounds> {
    let spec = &object.body["spec"];
    let reference = &spec["scaleTargetRef"];
    let kind = match scalar_text(&reference["kind"]) {
        None => TargetKind::Deployment,
        Some(kind) => target_kind(&kind.into()).ok()?,
    };
    let name = target_name(&reference["name"]).ok()?.into();
    let (min_name, max_name) = bound_names(object.id.kind);
    // The autoscaler that KEDA makes of a ScaledObject cannot go to zero; the ScaledObject can.
    let min = min_replicas(&spec[min_name]).ok().filter(|_| !object.owned_by_scaled_object);
    let max = max_replicas(&spec[max_name]).ok();
    Some(Bounds { namespace: object.id.namespace.clone(), target: ScaleTarget { kind, name }, min, max })
}
