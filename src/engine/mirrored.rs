//! What the cluster's objects say, beside the stream: replica counts, owners of pods, cards of nodes. They
//! are newer than series of the same meaning and win over them.

use super::Engine;
use super::store::{SubjectId, SubjectRef, TargetCounts, Window};
use crate::config::cluster::{ClusterChange, ObjectName, PodFact, TargetName, TargetReplicas};
use crate::optimize::limiter::pool_name;
use std::collections::BTreeMap;

impl Engine {
    /// Takes over a change of the cluster. Only models whose targets or pods it names are recomputed.
    pub fn apply_cluster(&mut self, change: ClusterChange) {
        for (target, replicas) in change.targets {
            self.mirror_target(target, replicas);
        }
        for (pod, fact) in change.pods {
            self.mirror_pod(pod, fact);
        }
        if let Some(cards) = change.cards {
            let mut pools: BTreeMap<String, u64> = BTreeMap::new();
            for (product, count) in cards {
                let sum = pools.entry(pool_name(&product)).or_default();
                *sum = sum.saturating_add(count);
            }
            self.mirrored_cards = Some(pools);
            self.nodes_changed = true;
        }
    }

    fn mirror_target(&mut self, name: TargetName, replicas: Option<TargetReplicas>) {
        let TargetName { namespace, target } = name;
        let key = (namespace, target.kind, target.name);
        let known = self.store.target_ids.get(&key).copied();
        let Some(id) = known.or_else(|| replicas.map(|_| self.add_target(&key))) else { return };
        self.store.targets[id as usize].mirrored = replicas;
        self.touch_joined(SubjectRef::Target(id));
        if self.store.remove_empty_target(id) {
            for (_, variant) in self.topology.variants.iter_mut().filter(|(_, v)| v.target == Some(id)) {
                variant.target = None;
            }
        }
    }

    /// Adds a scale target and joins it to its variant, if there is one.
    pub(super) fn add_target(&mut self, key: &super::store::TargetKey) -> SubjectId {
        let (namespace, kind, name) = key;
        let variant = self.topology.variant_of_target(namespace, *kind, name);
        let target = TargetCounts { variant, ..TargetCounts::default() };
        let id = self.store.targets.insert(target) as SubjectId;
        self.store.target_ids.insert(key.clone(), id);
        if let Some(variant) = variant {
            self.topology.variants[variant as usize].target = Some(id);
            // Even if none of its samples is accepted, the variant now waits for this target's next one.
            self.touch(self.topology.variants[variant as usize].model);
        }
        id
    }

    fn mirror_pod(&mut self, pod: ObjectName, fact: Option<PodFact>) {
        let key = (pod.namespace, pod.name);
        let replica = self.store.replica_ids.get(&key).copied();
        let is_gone = fact.is_none();
        let before = match fact {
            Some(fact) => {
                self.store.pods.insert(key, fact.clone()).filter(|before| before.owner == fact.owner)
            }
            None => self.store.pods.remove(&key),
        };
        let Some(id) = replica else { return };
        if is_gone {
            self.end_replica(id);
        } else if before.is_none() {
            self.join_later(id);
        }
    }

    /// The pod is gone: its series say nothing any more, as after their staleness markers. A newer sample,
    /// of a pod with the same name, brings them back.
    fn end_replica(&mut self, id: SubjectId) {
        self.touch_joined(SubjectRef::Replica(id));
        for slot in &self.store.replicas[id as usize].slots {
            let slot = &mut self.store.slots[*slot as usize];
            slot.stale = true;
            if let Window::Gauge(gauge) = &mut slot.window {
                gauge.clear();
            }
        }
    }
}
