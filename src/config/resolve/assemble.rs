//! Putting it together: objects to one snapshot.
//!
//! Input: all objects. Output: the snapshot; claims on one scale target are settled here, and costs and
//! service classes are given to variants. Must not know documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::classes::{accelerators, class_key, main_config, service_classes};
use super::hardware::{ByTarget, Hardware, by_target};
use super::inventory::inventory;
use super::is_scaler;
use super::read::Book;
use super::tables::{Reach, Role, near_miss, role};
use super::thresholds::{PerModel, Sources};
use super::value::{show, truth};
use super::variant::{
    Bounds, ClassRef, Draft, EXCLUDE, Scaler, UNKNOWN_ACCELERATOR, is_excluded, scaler, variant_autoscaling,
};
use crate::config::objects::{Kind, Object};
use crate::config::{
    Accelerator, DEFAULT_VARIANT_COST, Kept, ModelKey, ScaleTarget, ServiceClass, Snapshot, Variant,
    VariantKey, VariantSlo, VariantSource,
};

/// Builds the snapshot of all objects, which come in order of kind, namespace and name.
pub(super) fn snapshot(book: &mut Book<'_>, objects: &[Object<'_>], home: Option<&str>) -> Snapshot {
    let closed = closed_namespaces(objects);
    let (drafts, bounds) = drafts(book, objects, &closed);
    let drafts = settle_claims(book, drafts);
    let roles = roles(book, objects, home);
    let hardware = by_target(objects);
    let of = |role: Role| roles.get(&role).cloned().unwrap_or_default();
    let used: BTreeSet<Arc<str>> = drafts.iter().map(|draft| draft.variant.key.namespace.clone()).collect();
    let sources = Sources {
        saturation: of(Role::Saturation),
        scale_to_zero: of(Role::ScaleToZero),
        queueing: of(Role::Queueing),
    };
    let per_model = PerModel::read(book, &sources, Reach { home, used: &used });
    let mut snapshot = Snapshot {
        accelerators: accelerators(book, &of(Role::AcceleratorCosts)),
        classes: service_classes(book, &of(Role::ServiceClasses)),
        main: main_config(book, &of(Role::Main)),
        ..Snapshot::default()
    };
    snapshot.inventory = inventory(book, &of(Role::Inventory), snapshot.main.limited_mode);
    let mut has_targets: BTreeMap<ModelKey, bool> = BTreeMap::new();
    for draft in drafts {
        let variant = finish(book, draft, &snapshot, &bounds, &hardware);
        *has_targets.entry(variant.model()).or_default() |=
            variant.slo.as_ref().is_some_and(|slo| slo.targets.is_any());
        snapshot.variants.insert(variant.key.clone(), Arc::new(variant));
    }
    for (model, has_targets) in has_targets {
        let config = per_model.of(&model, &snapshot.main, has_targets);
        snapshot.models.insert(model, Arc::new(config));
    }
    snapshot
}

/// Namespaces that are marked to be left alone.
fn closed_namespaces(objects: &[Object<'_>]) -> BTreeSet<Arc<str>> {
    let namespaces = objects.iter().filter(|object| object.id.kind == Kind::Namespace && is_excluded(object));
    namespaces.map(|object| object.id.name.clone()).collect()
}

fn drafts(
    book: &mut Book<'_>,
    objects: &[Object<'_>],
    closed: &BTreeSet<Arc<str>>,
) -> (Vec<Draft>, Vec<Bounds>) {
    let (mut drafts, mut bounds) = (Vec::new(), Vec::new());
    for object in objects.iter().filter(|object| !closed.contains(&object.id.namespace)) {
        note_bad_mark(book, object);
        if is_excluded(object) {
            continue;
        }
        if object.id.kind == Kind::VariantAutoscaling {
            drafts.extend(variant_autoscaling(book, object));
        } else if is_scaler(object.id.kind) {
            match scaler(book, object) {
                Scaler::Variant(draft) => {
                    // They also hold for a VariantAutoscaling that claims the same target.
                    bounds.push(Bounds::of(&draft.variant));
                    drafts.push(*draft);
                }
                Scaler::Bounds(found) => bounds.push(found),
                Scaler::Nothing => {}
            }
        }
    }
    (drafts, bounds)
}

/// A mark to leave an object alone that says neither yes nor no is a problem; the object counts.
fn note_bad_mark(book: &mut Book<'_>, object: &Object<'_>) {
    if object.id.kind == Kind::VariantAutoscaling
        && let Some(Err(reason)) = object.mark(EXCLUDE).map(|mark| truth(&mark.into()))
    {
        let mut scope = book.at(&object.origin, object.id.to_string());
        scope.problem(
            &format!("metadata.annotations.{EXCLUDE}"),
            reason,
            "write \"true\" or \"false\"",
            Kept::Nothing,
        );
    }
}

/// Each scale target, and each variant name, belongs to one object: a VariantAutoscaling before an
/// annotated scaler, and of equals the one with the smaller namespace and name.
fn settle_claims(book: &mut Book<'_>, mut drafts: Vec<Draft>) -> Vec<Draft> {
    drafts.sort_by_cached_key(|draft| {
        let by_annotation = draft.variant.source != VariantSource::VariantAutoscaling;
        (by_annotation, draft.object.namespace.clone(), draft.object.name.clone(), draft.object.kind)
    });
    let mut targets: BTreeMap<(Arc<str>, ScaleTarget), String> = BTreeMap::new();
    let mut keys: BTreeMap<VariantKey, String> = BTreeMap::new();
    drafts.retain(|draft| {
        let key = &draft.variant.key;
        let target = (key.namespace.clone(), draft.variant.target.clone());
        let holder = targets.get(&target).map(|holder| (holder, "scale target", &target.1.name));
        let holder = holder.or_else(|| keys.get(key).map(|holder| (holder, "variant name", &key.name)));
        if let Some((holder, what, name)) = holder {
            let reason = format!("{what} {} is claimed by {holder} already", show(&(&**name).into()));
            let fix = "leave it to one object: delete the other, or let it name another target";
            book.at(&draft.origin, draft.object.to_string()).problem(
                "spec.scaleTargetRef",
                reason,
                fix,
                Kept::Nothing,
            );
            return false;
        }
        let claim = format!("{} ({})", draft.object, draft.origin);
        targets.insert(target, claim.clone());
        keys.insert(key.clone(), claim);
        true
    });
    drafts
}

/// ConfigMaps by role. One without a role whose name nearly has one is a problem.
fn roles<'o, 'v>(
    book: &mut Book<'_>,
    objects: &'o [Object<'v>],
    home: Option<&str>,
) -> BTreeMap<Role, Vec<&'o Object<'v>>> {
    let mut roles: BTreeMap<Role, Vec<&Object<'_>>> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.id.kind == Kind::ConfigMap) {
        match (role(object), near_miss(&object.id.name)) {
            (Some(role), _)
                if role.is_per_model() || home.is_none_or(|home| *object.id.namespace == *home) =>
            {
                roles.entry(role).or_default().push(object);
            }
            (Some(_), _) => {
                let reason = "this ConfigMap is read only in the sidecar's own namespace".to_owned();
                let fix = format!("move it to {}, or delete it here", home.unwrap_or_default());
                book.at(&object.origin, object.id.to_string()).problem(
                    "metadata.namespace",
                    reason,
                    fix,
                    Kept::Nothing,
                );
            }
            (None, Some(near)) => {
                let reason = format!("the ConfigMap {} is not used", show(&(&*object.id.name).into()));
                let fix = format!("did you mean `{near}`?");
                book.at(&object.origin, object.id.to_string()).problem(
                    "metadata.name",
                    reason,
                    fix,
                    Kept::Nothing,
                );
            }
            (None, None) => {}
        }
    }
    roles
}

/// Gives a variant what other objects say about it.
fn finish(
    book: &mut Book<'_>,
    draft: Draft,
    snapshot: &Snapshot,
    bounds: &[Bounds],
    hardware: &ByTarget,
) -> Variant {
    let slo = slo(book, &draft, &snapshot.classes);
    let mut variant = draft.variant;
    variant.slo = slo;
    let place = (variant.key.namespace.clone(), variant.target.clone());
    if let Some(hardware) = hardware.get(&place) {
        fill_in(&mut variant, hardware, draft.is_count_stated, &snapshot.accelerators);
    }
    let listed = snapshot.accelerators.get(&variant.accelerator);
    let listed = listed.map(|accelerator| accelerator.cost * f64::from(variant.acc_count));
    variant.cost =
        draft.stated_cost.or(listed.filter(|cost| cost.is_finite())).unwrap_or(DEFAULT_VARIANT_COST);
    let foreign = bounds
        .iter()
        .filter(|bounds| bounds.namespace == variant.key.namespace && bounds.target == variant.target);
    for bounds in foreign {
        // Whatever scales the target keeps within its own bounds, so both hold.
        let min = variant.min_replicas.max(bounds.min);
        let max = [variant.max_replicas, bounds.max].into_iter().flatten().min();
        if min.zip(max).is_none_or(|(min, max)| min <= max) {
            (variant.min_replicas, variant.max_replicas) = (min, max);
        }
    }
    variant
}

/// Gives a variant what the pods of its target say about accelerators, where it says nothing itself.
fn fill_in(
    variant: &mut Variant,
    hardware: &Hardware,
    is_count_stated: bool,
    accelerators: &BTreeMap<Arc<str>, Accelerator>,
) {
    if let Some(found) =
        hardware.accelerator.as_deref().filter(|_| *variant.accelerator == *UNKNOWN_ACCELERATOR)
    {
        // The name that the cost table has for the product, if it has one.
        let listed = accelerators.values().find(|listed| listed.device.eq_ignore_ascii_case(found));
        variant.accelerator = listed.map_or_else(|| found.into(), |listed| listed.name.clone());
    }
    if let Some(cards) = hardware.cards.filter(|_| !is_count_stated) {
        variant.acc_count = cards;
    }
    if let (Some(own), Some(batch)) = (variant.profiles.first_mut(), hardware.max_batch)
        && own.max_batch == 0
    {
        own.max_batch = batch;
    }
}

/// The class that the variant names, if it lists the model, else the most important one that does.
fn slo(book: &mut Book<'_>, draft: &Draft, classes: &BTreeMap<Arc<str>, ServiceClass>) -> Option<VariantSlo> {
    let model = &*draft.variant.model_id;
    let listing = || classes.iter().filter(|(_, class)| class.targets.contains_key(model));
    let of = |class: &ServiceClass| VariantSlo {
        class: class.name.clone(),
        priority: class.priority,
        attainment: class.attainment,
        miss_cost: class.miss_cost,
        targets: class.targets[model],
    };
    let most_important = listing().min_by_key(|(key, class)| (class.priority, *key)).map(|(_, class)| class);
    let Some(reference) = &draft.class_ref else { return most_important.map(of) };
    if let Some((_, class)) = listing().find(|(key, class)| is_meant(reference, key, class)) {
        return Some(of(class));
    }
    let named = classes.iter().find(|(key, class)| is_meant(reference, key, class));
    let key = show(&reference.key.as_str().into());
    let reason = match named {
        Some(_) => format!("the service class {key} does not list the model {}", show(&model.into())),
        None => format!("there is no service class {key}{}", within(&reference.name)),
    };
    let fix = match most_important {
        Some(class) => format!(
            "add the model to that class, or name one that lists it; {} applies until then",
            class.name
        ),
        None => {
            "add the class with this model to service-classes-config; without it there are no targets".into()
        }
    };
    let kept = if most_important.is_some() { Kept::Default } else { Kept::Nothing };
    book.at(&draft.origin, draft.object.to_string()).problem("spec.sloClassRef.key", reason, fix, kept);
    most_important.map(of)
}

fn within(config_map: &str) -> String {
    if config_map.is_empty() { String::new() } else { format!(" in {}", show(&config_map.into())) }
}

fn is_meant(reference: &ClassRef, key: &str, class: &ServiceClass) -> bool {
    reference.key == key
        || class_key(&reference.key) == class_key(key)
        || reference.key.eq_ignore_ascii_case(&class.name)
}
