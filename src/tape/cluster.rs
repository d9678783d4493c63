//! What the cluster says, as it is recorded: changes, and all that is known together.

use crate::config::cluster::{ClusterChange, ObjectName, PodFact, TargetName, TargetReplicas};
use crate::config::{ScaleTarget, TargetKind};
use crate::proto::recording as pb;
use std::collections::BTreeMap;

/// Changes of the cluster, the latest of each object; as large as the cluster is.
#[derive(Debug, Default)]
pub struct Known {
    targets: BTreeMap<TargetName, Option<TargetReplicas>>,
    pods: BTreeMap<ObjectName, Option<PodFact>>,
    cards: Option<BTreeMap<String, u64>>,
}

impl Known {
    /// Takes in a change. Objects that are gone are remembered as such.
    pub fn add(&mut self, change: ClusterChange) {
        self.targets.extend(change.targets);
        self.pods.extend(change.pods);
        self.cards = change.cards.or(self.cards.take());
    }

    /// Forgets objects that are gone.
    pub fn forget_gone(&mut self, change: &ClusterChange) {
        for (name, _) in change.targets.iter().filter(|(_, replicas)| replicas.is_none()) {
            self.targets.remove(name);
        }
        for (name, _) in change.pods.iter().filter(|(_, fact)| fact.is_none()) {
            self.pods.remove(name);
        }
    }

    /// Everything as one change.
    pub fn change(&self) -> ClusterChange {
        ClusterChange {
            targets: self.targets.iter().map(|(name, replicas)| (name.clone(), *replicas)).collect(),
            pods: self.pods.iter().map(|(name, fact)| (name.clone(), fact.clone())).collect(),
            cards: self.cards.clone(),
        }
    }
}

fn scale_target(target: &ScaleTarget) -> pb::ScaleTarget {
    pb::ScaleTarget { kind: target.kind.as_str().into(), name: target.name.to_string() }
}

fn target_of(target: &pb::ScaleTarget) -> Option<ScaleTarget> {
    let kind = TargetKind::ALL.into_iter().find(|kind| kind.as_str() == target.kind)?;
    Some(ScaleTarget { kind, name: target.name.as_str().into() })
}

/// A change as it is recorded.
pub fn recorded(change: &ClusterChange, carried: bool) -> pb::Cluster {
    let target = |(name, replicas): &(TargetName, Option<TargetReplicas>)| pb::ClusterTarget {
        namespace: name.namespace.to_string(),
        target: Some(scale_target(&name.target)),
        replicas: replicas.map(|TargetReplicas { spec, status, ready }| pb::Replicas { spec, status, ready }),
    };
    let pod = |(name, fact): &(ObjectName, Option<PodFact>)| pb::ClusterPod {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        fact: fact.as_ref().map(|fact| pb::PodFact {
            owner: fact.owner.as_ref().map(scale_target),
            created_ms: fact.created_ms,
            ready_ms: fact.ready_ms,
        }),
    };
    pb::Cluster {
        targets: change.targets.iter().map(target).collect(),
        pods: change.pods.iter().map(pod).collect(),
        cards: change.cards.as_ref().map(|cards| pb::Cards {
            counts: cards.iter().map(|(product, count)| (product.clone(), *count)).collect(),
        }),
        carried,
    }
}

/// A recorded change as it was. Targets of kinds that this version does not know are left out.
pub fn change(recorded: pb::Cluster) -> ClusterChange {
    let target = |target: pb::ClusterTarget| {
        let name = TargetName { namespace: target.namespace.into(), target: target_of(&target.target?)? };
        let replicas = target.replicas;
        let replicas =
            replicas.map(|pb::Replicas { spec, status, ready }| TargetReplicas { spec, status, ready });
        Some((name, replicas))
    };
    let pod = |pod: pb::ClusterPod| {
        let fact = pod.fact.map(|fact| PodFact {
            owner: fact.owner.as_ref().and_then(target_of),
            created_ms: fact.created_ms,
            ready_ms: fact.ready_ms,
        });
        (ObjectName { namespace: pod.namespace.into(), name: pod.name.into() }, fact)
    };
    ClusterChange {
        targets: recorded.targets.into_iter().filter_map(target).collect(),
        pods: recorded.pods.into_iter().map(pod).collect(),
        cards: recorded.cards.map(|cards| cards.counts.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_as_they_were_and_what_is_gone_is_not_carried() {
        let owner = ScaleTarget { kind: TargetKind::StatefulSet, name: "web".into() };
        let target = TargetName { namespace: "ns".into(), target: owner.clone() };
        let pod = |name: &str| ObjectName { namespace: "ns".into(), name: name.into() };
        let fact = PodFact { owner: Some(owner), created_ms: Some(7), ready_ms: None };
        let before = ClusterChange {
            targets: vec![(target, Some(TargetReplicas { spec: 3, status: 2, ready: 1 }))],
            pods: vec![(pod("web-0"), Some(fact)), (pod("web-1"), None)],
            cards: Some(BTreeMap::from([("H100".to_owned(), 8)])),
        };
        assert_eq!(change(recorded(&before, false)), before);
        let none = ClusterChange { cards: Some(BTreeMap::new()), ..ClusterChange::default() };
        assert_eq!(change(recorded(&none, true)), none, "no cards are not the same as unknown cards");

        let mut known = Known::default();
        known.add(before.clone());
        known.forget_gone(&before);
        let mut carried = before;
        carried.pods.pop();
        assert_eq!(known.change(), carried);
    }
}
