//! From what a series describes to the thing itself: replicas, targets, owners and scheduler queues are found
//! or made, and what a new series says of them is noted.

use super::Engine;
use super::store::{OwnedKey, Replica, Scheduler, SubjectId, SubjectRef, TargetCounts};
use super::topology::NoJoin;
use crate::series::{Classified, Owner, Subject};
use crate::units::TimeMs;
use crate::window::Interval;
use std::sync::Arc;

impl Engine {
    pub(super) fn subject(&mut self, classified: &Classified) -> SubjectRef {
        match &classified.subject {
            Subject::Replica { namespace, pod } => match &classified.owner {
                Some(owner) => self.owner_subject(namespace, false, pod, owner),
                None => SubjectRef::Replica(self.replica_subject(namespace, pod, classified)),
            },
            Subject::ReplicaSet { namespace, name } => match &classified.owner {
                Some(owner) => self.owner_subject(namespace, true, name, owner),
                None => SubjectRef::Unused(None),
            },
            Subject::Target { namespace, kind, name } => {
                let key = (namespace.clone(), *kind, name.clone());
                let targets = &mut self.store.targets;
                let id = *self
                    .store
                    .target_ids
                    .entry(key)
                    .or_insert_with(|| targets.insert(TargetCounts::default()) as SubjectId);
                let variant = self.topology.variant_of_target(namespace, *kind, name);
                targets[id as usize].variant = variant;
                if let Some(variant) = variant {
                    self.topology.variants[variant as usize].target = Some(id);
                }
                SubjectRef::Target(id)
            }
            Subject::Scheduler { namespace, model } => {
                SubjectRef::Scheduler(self.scheduler_subject(namespace, model))
            }
            Subject::Node { name } => self.node_subject(name, classified),
        }
    }

    fn replica_subject(
        &mut self,
        namespace: &Arc<str>,
        pod: &Arc<str>,
        classified: &Classified,
    ) -> SubjectId {
        let key = (namespace.clone(), pod.clone());
        let id = match self.store.replica_ids.get(&key) {
            Some(&id) => id,
            None => {
                let id = self.store.replicas.insert(Replica {
                    namespace: namespace.clone(),
                    pod: pod.clone(),
                    model: None,
                    variant_label: None,
                    kv_capacity_tokens: None,
                    slots: Vec::new(),
                    first_seen: TimeMs::MAX,
                    last_seen: TimeMs::MIN,
                    interval: Interval::default(),
                    join: Err(NoJoin::NoVariantInNamespace),
                    join_due: false,
                }) as SubjectId;
                self.store.replica_ids.insert(key, id);
                self.unmatched_changed = true;
                self.join_later(id);
                id
            }
        };
        let replica = &mut self.store.replicas[id as usize];
        let mut learned = false;
        // A new series says what the pod serves now: a StatefulSet's pod comes back under its old name.
        if classified.model.is_some() && replica.model != classified.model {
            replica.model = classified.model.clone();
            learned = true;
        }
        if classified.variant.is_some() && replica.variant_label != classified.variant {
            replica.variant_label = classified.variant.clone();
            learned = true;
        }
        if classified.kv_capacity_tokens.is_some() {
            replica.kv_capacity_tokens = classified.kv_capacity_tokens;
        }
        if learned {
            self.join_later(id);
        }
        id
    }

    fn owner_subject(
        &mut self,
        namespace: &Arc<str>,
        is_replica_set: bool,
        name: &Arc<str>,
        owner: &Owner,
    ) -> SubjectRef {
        let key = OwnedKey { namespace: namespace.clone(), is_replica_set, name: name.clone() };
        let (id, news) = self.store.add_owner(key.clone(), owner);
        if news {
            self.rejoin_pods_of(&key);
        }
        SubjectRef::Owner(id)
    }

    /// An owner became known: pods that it may decide about are joined again.
    fn rejoin_pods_of(&mut self, key: &OwnedKey) {
        if !key.is_replica_set {
            if let Some(&id) = self.store.replica_ids.get(&(key.namespace.clone(), key.name.clone())) {
                self.join_later(id);
            }
            return;
        }
        // Not by prefix: of a long name the pods carry only the beginning.
        let of_set = |replica: &Replica| {
            replica.namespace == key.namespace && {
                let (namespace, name) = (replica.namespace.clone(), replica.pod.clone());
                let owner = self.store.owner(&OwnedKey { namespace, is_replica_set: false, name });
                owner.is_some_and(|owner| owner.name == key.name)
            }
        };
        let pods = self.store.replicas.iter().filter(|(_, replica)| of_set(replica));
        for id in pods.map(|(id, _)| id as SubjectId).collect::<Vec<_>>() {
            self.join_later(id);
        }
    }

    fn scheduler_subject(&mut self, namespace: &Arc<str>, model: &Arc<str>) -> SubjectId {
        let key = (namespace.clone(), model.clone());
        if let Some(&id) = self.store.scheduler_ids.get(&key) {
            return id;
        }
        let models = self.topology.models_of_queue(namespace, model);
        let (namespace, model) = key.clone();
        let scheduler = Scheduler { namespace, model, slots: Vec::new(), models: models.clone() };
        let id = self.store.schedulers.insert(scheduler) as SubjectId;
        self.store.scheduler_ids.insert(key, id);
        for model in models {
            self.topology.models[model as usize].schedulers.push(id);
        }
        id
    }
}
