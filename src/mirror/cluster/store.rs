//! The mirrored objects, and what changed since they were handed over last.
//!
//! Input: events of watches; a list that begins anew is one event. Output: documents for `config`, the
//! change of the cluster for the engine, a view for whoever writes. Synchronous: no client, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use serde_json::Value;

use super::kinds::{Item, Kind, Mirrored};
use super::scope::Scope;
use crate::config::ScaleTarget;
use crate::config::cluster::{ClusterChange, ObjectName, PodFact, TargetName, TargetReplicas};
use crate::config::objects::Document;

/// What one watch asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId {
    /// Kind of objects.
    pub kind: Kind,
    /// Namespace they are in; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// The only object asked for, if it is one.
    pub name: Option<Arc<str>>,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Told {
    /// All there is, in place of all that was.
    All(Vec<(ObjectName, Item)>),
    /// An object was made or changed.
    Is(ObjectName, Item),
    /// An object is gone, or says nothing any more.
    Gone(ObjectName),
}

/// What writers see: as of one moment, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// VariantAutoscalings by name.
    pub variants: OrdMap<ObjectName, Arc<Mirrored>>,
    /// Scale targets by name.
    pub targets: OrdMap<TargetName, TargetReplicas>,
    /// HorizontalPodAutoscalers and ScaledObjects by the target that they scale.
    pub scalers: OrdMap<TargetName, Arc<Mirrored>>,
    /// Schema of the status of VariantAutoscalings; null when it is not known.
    pub status_schema: Arc<Value>,
}

/// The mirrored objects.
#[derive(Debug, Default)]
pub struct Store {
    watches: BTreeMap<WatchId, BTreeMap<ObjectName, Item>>,
    view: View,
    change: ClusterChange,
    changed_config: bool,
    changed_view: bool,
    changed_nodes: bool,
    started: Vec<i64>,
    /// Namespaces as texts that all objects share.
    namespaces: BTreeSet<Arc<str>>,
}

/// What changed since the last time it was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// Documents differ.
    pub config: bool,
    /// The view differs.
    pub view: bool,
    /// Change of the cluster.
    pub change: ClusterChange,
    /// Times from creation to readiness of pods that became ready, ms.
    pub started_ms: Vec<i64>,
}

impl Store {
    /// Takes in what a watch tells. Answers whether anything changed.
    pub fn apply(&mut self, watch: &WatchId, told: Told) -> bool {
        let before = self.is_changed();
        match told {
            Told::Is(name, item) => {
                let name = self.shared(name);
                self.put(watch, name, Some(item));
            }
            Told::Gone(name) => self.put(watch, name, None),
            Told::All(items) => {
                let items: BTreeMap<_, _> =
                    items.into_iter().map(|(name, item)| (self.shared(name), item)).collect();
                let known = self.watches.get(watch).into_iter().flat_map(BTreeMap::keys);
                let gone: Vec<_> = known.filter(|name| !items.contains_key(*name)).cloned().collect();
                for name in gone {
                    self.put(watch, name, None);
                }
                for (name, item) in items {
                    self.put(watch, name, Some(item));
                }
            }
        }
        self.is_changed() || before
    }

    /// Forgets all that a watch told.
    pub fn forget(&mut self, watch: &WatchId) {
        self.apply(watch, Told::All(Vec::new()));
        self.watches.remove(watch);
    }

    fn shared(&mut self, name: ObjectName) -> ObjectName {
        let namespace = match self.namespaces.get(&name.namespace) {
            Some(known) => known.clone(),
            None => {
                self.namespaces.insert(name.namespace.clone());
                name.namespace
            }
        };
        ObjectName { namespace, name: name.name }
    }

    fn is_changed(&self) -> bool {
        self.changed_config || self.changed_view || self.changed_nodes || !self.change.is_empty()
    }

    fn put(&mut self, watch: &WatchId, name: ObjectName, item: Option<Item>) {
        let items = self.watches.entry(watch.clone()).or_default();
        let before = match &item {
            Some(item) => items.insert(name.clone(), item.clone()),
            None => items.remove(&name),
        };
        if before == item {
            return;
        }
        let object = |item: &Option<Item>| item.as_ref().and_then(Item::object).cloned();
        let (old, new) = (object(&before), object(&item));
        if old.as_ref().map(|old| &old.document) != new.as_ref().map(|new| &new.document) {
            self.changed_config = true;
        }
        self.note_view(watch.kind, &name, old, new);
        match item.as_ref().or(before.as_ref()) {
            Some(Item::Target(..)) => self.note_target(watch.kind, name, item),
            Some(Item::Pod(_)) => self.note_pod(name, before, item),
            Some(Item::Node(_)) => self.changed_nodes = true,
            Some(Item::Definition(_)) => self.note_definition(&name, item),
            _ => {}
        }
    }

    fn note_view(
        &mut self,
        kind: Kind,
        name: &ObjectName,
        old: Option<Arc<Mirrored>>,
        new: Option<Arc<Mirrored>>,
    ) {
        let target = |object: &Arc<Mirrored>| {
            let target = object.target.clone()?;
            Some(TargetName { namespace: name.namespace.clone(), target })
        };
        match kind {
            Kind::VariantAutoscaling => {
                match new {
                    Some(new) => self.view.variants.insert(name.clone(), new),
                    None => self.view.variants.remove(name),
                };
                self.changed_view = true;
            }
            Kind::HorizontalPodAutoscaler | Kind::ScaledObject => {
                if let Some(gone) = old.as_ref().and_then(target) {
                    self.view.scalers.remove(&gone);
                }
                if let Some((target, new)) = new.and_then(|new| Some((target(&new)?, new))) {
                    self.view.scalers.insert(target, new);
                }
                self.changed_view = true;
            }
            _ => {}
        }
    }

    /// The shape of the status that is written.
    fn note_definition(&mut self, name: &ObjectName, item: Option<Item>) {
        if Kind::of_definition(&name.name) != Some(Kind::VariantAutoscaling) {
            return;
        }
        let schema = match item {
            Some(Item::Definition(definition)) => definition.status_schema.clone(),
            _ => Value::Null,
        };
        self.view.status_schema = Arc::new(schema);
        self.changed_view = true;
    }

    fn note_target(&mut self, kind: Kind, name: ObjectName, item: Option<Item>) {
        let Some(kind) = kind.target() else { return };
        let target = ScaleTarget { kind, name: name.name };
        let target = TargetName { namespace: name.namespace, target };
        let replicas = match item {
            Some(Item::Target(replicas, _)) => Some(replicas),
            _ => None,
        };
        let known = self.view.targets.get(&target).copied();
        if known == replicas {
            return;
        }
        match replicas {
            Some(replicas) => self.view.targets.insert(target.clone(), replicas),
            None => self.view.targets.remove(&target),
        };
        self.changed_view = true;
        self.change.targets.push((target, replicas));
    }

    fn note_pod(&mut self, name: ObjectName, before: Option<Item>, item: Option<Item>) {
        let fact = |item: Option<Item>| match item {
            Some(Item::Pod(fact)) => Some(fact),
            _ => None,
        };
        let (before, now) = (fact(before), fact(item));
        if let (Some(now), Some(before)) = (&now, &before)
            && before.ready_ms.is_none()
        {
            self.started.extend(startup_ms(now));
        }
        self.change.pods.push((name, now));
    }

    /// Takes what changed since the last call.
    pub fn take(&mut self) -> Taken {
        if std::mem::take(&mut self.changed_nodes) {
            self.change.cards = Some(self.cards());
        }
        Taken {
            config: std::mem::take(&mut self.changed_config),
            view: std::mem::take(&mut self.changed_view),
            change: std::mem::take(&mut self.change),
            started_ms: std::mem::take(&mut self.started),
        }
    }

    fn cards(&self) -> BTreeMap<String, u64> {
        let mut cards: BTreeMap<String, u64> = BTreeMap::new();
        for (_, item) in self.of_kind(Kind::Node) {
            if let Item::Node(Some((product, count))) = item {
                let sum = cards.entry(product.clone()).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        cards
    }

    /// Objects of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectName, &Item)> {
        let first = WatchId { kind, namespace: None, name: None };
        let watches = self.watches.range(first..).take_while(move |(watch, _)| watch.kind == kind);
        watches.flat_map(|(_, items)| items)
    }

    /// Objects by kind.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for (watch, items) in &self.watches {
            *counts.entry(watch.kind).or_default() += items.len();
        }
        counts
    }

    /// What `config` reads of what is in scope. An object that two watches see counts once.
    pub fn documents<'s>(&'s self, scope: &Scope) -> Vec<std::borrow::Cow<'s, Document>> {
        let objects = self.watches.values().flat_map(BTreeMap::values).filter_map(Item::object);
        objects.filter_map(|object| scope.document(object)).collect()
    }

    /// Whether an object there is.
    pub fn get(&self, watch: &WatchId, name: &ObjectName) -> Option<&Item> {
        self.watches.get(watch)?.get(name)
    }

    /// What writers see.
    pub fn view(&self) -> View {
        self.view.clone()
    }
}

/// Time from creation to readiness, ms.
fn startup_ms(pod: &PodFact) -> Option<i64> {
    let took = pod.ready_ms?.saturating_sub(pod.created_ms?);
    (took >= 0).then_some(took)
}

#[cfg(test)]
mod tests;
