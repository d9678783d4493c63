//! The things that series describe: added with their first series, joined to the configuration, forgotten
//! with their last.

use super::Engine;
use super::store::{OwnedKey, Replica, Scheduler, SlotId, SubjectId, SubjectRef};
use super::topology::NoJoin;
use crate::limits::SERIES_FORGET_MS;
use crate::series::{Classified, Owner, Subject};
use crate::units::TimeMs;
use crate::window::Interval;
use std::sync::Arc;

/// Slots looked at per event by the sweep that forgets ended series.
const SWEEP_STEP: usize = 256;

impl Engine {
    /// The subject of a new series; one that is new itself is added.
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
                let known = self.store.target_ids.get(&key).copied();
                SubjectRef::Target(known.unwrap_or_else(|| self.add_target(&key)))
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
        let capacity = classified.kv_capacity_tokens.or(replica.kv_capacity_tokens);
        let has_changed = learned || capacity != replica.kv_capacity_tokens;
        replica.kv_capacity_tokens = capacity;
        if learned {
            self.join_later(id);
        }
        if has_changed {
            // What the pod says of itself is part of the answer, also when it stays where it is joined and none of
            // the series' samples is accepted.
            self.touch_joined(SubjectRef::Replica(id));
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

    /// Forgets series that ended or fell silent long ago, a bounded number of slots per event.
    pub(super) fn sweep(&mut self) {
        let capacity = self.store.slots.capacity();
        for _ in 0..SWEEP_STEP.min(capacity) {
            self.sweep_cursor = (self.sweep_cursor + 1) % capacity;
            let id = self.sweep_cursor as SlotId;
            let Some(slot) = self.store.slots.get(id as usize) else { continue };
            if self.stream.since(slot.last.max(slot.added)) <= SERIES_FORGET_MS {
                continue;
            }
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SlotId) {
        let subject = self.store.slots[id as usize].subject;
        let replica = match subject {
            SubjectRef::Replica(id) => {
                self.store.replicas.get(id as usize).map(|r| (id, r.join, r.namespace.clone()))
            }
            _ => None,
        };
        if let SubjectRef::Unused(Some(why)) = subject
            && let Some(count) = self.unused.get_mut(&why)
        {
            *count -= 1;
            if *count == 0 {
                self.unused.remove(&why);
            }
            self.unmatched_changed = true;
        }
        // Even a silent series was part of the readings, unless it had ended.
        self.touch_joined(subject);
        self.store.remove_slot(id);
        let gone = |id: SubjectId| !self.store.replicas.contains(id as usize);
        if let Some((replica, join, namespace)) = replica
            && gone(replica)
        {
            if join.is_err() {
                self.unmatched_changed = true;
                self.touch_namespace(&namespace);
            }
            self.unjoined.retain(|other| *other != replica);
            if let Ok((variant, _)) = join
                && let Some(variant) = self.topology.variants.get_mut(variant as usize)
            {
                variant.replicas.retain(|other| *other != replica);
                let model = variant.model;
                self.touch(model);
            }
        }
        if let SubjectRef::Target(id) = subject
            && !self.store.targets.contains(id as usize)
        {
            for (_, variant) in self.topology.variants.iter_mut().filter(|(_, v)| v.target == Some(id)) {
                variant.target = None;
            }
        }
        if let SubjectRef::Scheduler(id) = subject
            && !self.store.schedulers.contains(id as usize)
        {
            for (_, model) in &mut self.topology.models {
                model.schedulers.retain(|other| *other != id);
            }
        }
    }
}
