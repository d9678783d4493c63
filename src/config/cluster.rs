//! What a cluster's objects say beside configuration: replica counts, pods and their owners, cards of nodes.
//!
//! The mirror sends it as changes; the engine keeps it beside what the stream says, and it wins over series
//! of the same meaning because it is newer. Must not know where it comes from.

use super::ScaleTarget;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace and name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name in it.
    pub name: Arc<str>,
}

/// A scale target and its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetName {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The object whose replicas are counted.
    pub target: ScaleTarget,
}

/// Replica counts of a scale target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetReplicas {
    /// Replicas asked for (`spec.replicas`).
    pub spec: u32,
    /// Replicas that exist (`status.replicas`).
    pub status: u32,
    /// Replicas that are ready (`status.readyReplicas`).
    pub ready: u32,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFact {
    /// The target at the end of its owner chain; `None` when that is no kind that can be scaled here.
    pub owner: Option<ScaleTarget>,
    /// When it was made, ms since the epoch.
    pub created_ms: Option<i64>,
    /// When it last became ready, ms since the epoch; `None` while it is not.
    pub ready_ms: Option<i64>,
}

/// What changed in the cluster. `None` as a value means that the object is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterChange {
    /// Scale targets.
    pub targets: Vec<(TargetName, Option<TargetReplicas>)>,
    /// Pods.
    pub pods: Vec<(ObjectName, Option<PodFact>)>,
    /// Cards by product name, of all nodes together.
    pub cards: Option<BTreeMap<String, u64>>,
}

impl ClusterChange {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.pods.is_empty() && self.cards.is_none()
    }
}
