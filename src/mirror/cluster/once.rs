//! The cluster read once: a list of each kind, into the store that watches otherwise fill.
//!
//! Output: what is there, and what could not be read and why. Must not know what documents mean.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Client;

use super::kinds::{Item, Kind, item, pod_item};
use super::scope::{CONFIG_ENABLED, Scope};
use super::store::{Store, Told, WatchId};
pub use super::watch::Failure;
use super::watch::{api, list};
use super::{pods, template};
use crate::config::ScaleTarget;
use crate::config::cluster::{ObjectName, TargetName};

/// What one look at the cluster shows.
#[derive(Debug, Default)]
pub struct Reading {
    /// Everything that could be read.
    pub store: Store,
    /// What could not be read, and why.
    pub failures: Vec<(WatchId, Failure)>,
    /// Models that the engines of a scale target are told to serve, where their flags say so.
    pub served: BTreeMap<TargetName, Vec<String>>,
    /// Custom kinds that are defined and served.
    pub defined: BTreeSet<Kind>,
    /// Custom kinds that are defined, but not in the version that is read.
    pub unserved: BTreeSet<Kind>,
}

/// Lists every kind once.
pub async fn read(client: &Client, scope: &Scope) -> Reading {
    let mut reading = Reading::default();
    for kind in Kind::CUSTOM {
        let name = kind.definition().map(Into::into);
        reading.list(client, WatchId { kind: Kind::CustomResourceDefinition, namespace: None, name }).await;
    }
    reading.note_definitions();
    let is_told = reading.failures.is_empty();
    for kind in Kind::NAMESPACED.into_iter().chain(Kind::CUSTOM) {
        let is_custom = kind.definition().is_some();
        if is_custom && is_told && !reading.defined.contains(&kind) {
            continue;
        }
        let mut is_known = true;
        for namespace in places(scope) {
            is_known &= reading.list(client, WatchId { kind, namespace, name: None }).await;
        }
        if is_custom && is_known {
            reading.defined.insert(kind);
        }
    }
    reading.list(client, WatchId { kind: Kind::Node, namespace: None, name: None }).await;
    if scope.namespaces.is_empty() {
        reading.list(client, WatchId { kind: Kind::Namespace, namespace: None, name: None }).await;
    }
    for namespace in scope.namespaces.clone() {
        let name = Some(namespace);
        reading.list(client, WatchId { kind: Kind::Namespace, namespace: None, name }).await;
    }
    for namespace in reading.namespaces_with_configuration(scope) {
        let namespace = Some(namespace);
        reading.list(client, WatchId { kind: Kind::ConfigMap, namespace, name: None }).await;
    }
    reading
}

/// The namespaces in scope; one `None` for all of them.
pub fn places(scope: &Scope) -> Vec<Option<Arc<str>>> {
    match scope.namespaces.is_empty() {
        true => vec![None],
        false => scope.namespaces.iter().cloned().map(Some).collect(),
    }
}

impl Reading {
    /// Lists what a watch would follow; answers whether the API server knows the kind.
    async fn list(&mut self, client: &Client, id: WatchId) -> bool {
        let resource = id.kind.api_resource();
        let served = RefCell::new(BTreeMap::new());
        let listed = match id.kind {
            Kind::Pod => {
                let pods = api::<pods::PodView>(client.clone(), &id, &resource);
                list(&pods, &id, &pod_item).await
            }
            kind => {
                let objects = api::<kube::api::DynamicObject>(client.clone(), &id, &resource);
                let read = |object: kube::api::DynamicObject| {
                    let models = template::served_models(kind, &object);
                    let (name, item) = item(kind, object)?;
                    if let Some(target) = target_name(kind, &name).filter(|_| !models.is_empty()) {
                        served.borrow_mut().insert(target, models);
                    }
                    Some((name, item))
                };
                list(&objects, &id, &read).await
            }
        };
        self.served.extend(served.into_inner());
        match listed {
            Ok((items, _)) => {
                self.store.apply(&id, Told::All(items));
                true
            }
            Err(error) => {
                let failure = Failure::of(&error);
                let is_known = !matches!(failure, Failure::Unknown(_));
                if is_known {
                    self.failures.push((id, failure));
                }
                is_known
            }
        }
    }

    fn note_definitions(&mut self) {
        for (name, item) in self.store.of_kind(Kind::CustomResourceDefinition) {
            let Some(kind) = Kind::of_definition(&name.name) else { continue };
            match item {
                Item::Definition(definition) if definition.is_served => self.defined.insert(kind),
                _ => self.unserved.insert(kind),
            };
        }
    }

    fn namespaces_with_configuration(&self, scope: &Scope) -> BTreeSet<Arc<str>> {
        let is_enabled = |item: &Item| {
            let labels = item.object().map(|object| &object.body()["metadata"]["labels"]);
            labels.is_some_and(|labels| labels[CONFIG_ENABLED] == "true")
        };
        let namespaces = self.store.of_kind(Kind::Namespace);
        let enabled = namespaces.filter(|(_, item)| is_enabled(item)).map(|(name, _)| name.name.clone());
        enabled.chain([scope.home.clone()]).collect()
    }
}

fn target_name(kind: Kind, name: &ObjectName) -> Option<TargetName> {
    let target = ScaleTarget { kind: kind.target()?, name: name.name.clone() };
    Some(TargetName { namespace: name.namespace.clone(), target })
}
