//! Pods, read no further than needed: ten thousand of them pass through here whenever a list begins anew.
//!
//! Input: pods as the API server sends them. Output: owner, start and readiness. Must not know watches.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::{DynamicResourceScope, ObjectMeta};
use serde::Deserialize;

use crate::config::cluster::PodFact;
use crate::config::{ScaleTarget, TargetKind};

/// Label that names the LeaderWorkerSet of a pod.
const GROUP_NAME: &str = "leaderworkerset.sigs.k8s.io/name";
/// Label that a ReplicaSet of a Deployment gives to its pods; also the end of the ReplicaSet's own name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The part of a pod that is read.
#[derive(Clone, Debug, Deserialize)]
pub struct PodView {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    status: StatusView,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    #[serde(default)]
    conditions: Vec<ConditionView>,
    #[serde(default)]
    phase: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConditionView {
    #[serde(rename = "type")]
    name: String,
    status: String,
    last_transition_time: Option<Time>,
}

impl Resource for PodView {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl PodView {
    /// What is known of the pod; `None` when it has ended and serves no more.
    pub fn fact(&self) -> Option<PodFact> {
        if matches!(self.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let ready = self.status.conditions.iter().find(|condition| condition.name == "Ready");
        let ready = ready.filter(|condition| condition.status == "True");
        Some(PodFact {
            owner: self.owner(),
            created_ms: self.metadata.creation_timestamp.as_ref().map(milliseconds),
            ready_ms: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(milliseconds),
        })
    }

    /// The scale target at the end of the owner chain. The objects in between are not needed: a Deployment
    /// names its ReplicaSets NAME-HASH and says the hash on their pods.
    fn owner(&self) -> Option<ScaleTarget> {
        let label = |name: &str| self.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        if let Some(name) = label(GROUP_NAME) {
            return Some(ScaleTarget { kind: TargetKind::LeaderWorkerSet, name: name.as_str().into() });
        }
        let owners = self.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true))?;
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let hash = label(TEMPLATE_HASH)?;
                let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
                Some(ScaleTarget { kind: TargetKind::Deployment, name: name.into() })
            }
            "StatefulSet" => {
                Some(ScaleTarget { kind: TargetKind::StatefulSet, name: owner.name.as_str().into() })
            }
            _ => None,
        }
    }
}

fn milliseconds(time: &Time) -> i64 {
    time.0.as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(metadata: serde_json::Value) -> Option<ScaleTarget> {
        let pod: PodView = serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap();
        pod.fact().unwrap().owner
    }

    #[test]
    fn the_owner_chain_ends_at_what_is_scaled() {
        let replica_set = |name: &str| {
            serde_json::json!([{"kind": "ReplicaSet", "name": name, "controller": true,
            "apiVersion": "apps/v1", "uid": "u"}])
        };
        let of = |name: &str, hash: &str| {
            owner_of(
                serde_json::json!({"labels": {TEMPLATE_HASH: hash}, "ownerReferences": replica_set(name)}),
            )
        };
        let llama = |kind| Some(ScaleTarget { kind, name: "llama".into() });
        assert_eq!(of("llama-7d9c5b8f6d", "7d9c5b8f6d"), llama(TargetKind::Deployment));
        assert_eq!(of("llama", "7d9c5b8f6d"), None);
        let group = serde_json::json!({"labels": {GROUP_NAME: "llama"}, "ownerReferences": [
            {"kind": "StatefulSet", "name": "llama-0", "controller": true, "apiVersion": "apps/v1", "uid": "u"}]});
        assert_eq!(owner_of(group), llama(TargetKind::LeaderWorkerSet));
        assert_eq!(owner_of(serde_json::json!({"name": "alone"})), None);
    }
}
