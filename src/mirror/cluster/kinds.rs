//! The kinds of objects that are mirrored, and what is kept of each.
//!
//! Input: objects as the API server sends them. Output: [`Item`]s, stripped of what nobody reads. Must not
//! know watches.

use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use kube::core::ObjectMeta;
use serde_json::{Map, Value, json};

use super::pods::PodView;
use super::template;
use crate::config::cluster::{ObjectName, PodFact, TargetReplicas};
use crate::config::objects::{Document, DocumentContent};
use crate::config::resolve::is_configuration;
use crate::config::{ScaleTarget, TargetKind};

/// A kind of object that is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `llmd.ai` VariantAutoscaling.
    VariantAutoscaling,
    /// HorizontalPodAutoscaler.
    HorizontalPodAutoscaler,
    /// KEDA's ScaledObject.
    ScaledObject,
    /// ConfigMap.
    ConfigMap,
    /// Namespace.
    Namespace,
    /// Deployment.
    Deployment,
    /// StatefulSet.
    StatefulSet,
    /// LeaderWorkerSet.
    LeaderWorkerSet,
    /// Pod.
    Pod,
    /// Node.
    Node,
    /// Definition of a custom resource.
    CustomResourceDefinition,
}

impl Kind {
    /// Kinds that exist only where their custom resource is defined.
    pub const CUSTOM: [Kind; 3] = [Kind::VariantAutoscaling, Kind::ScaledObject, Kind::LeaderWorkerSet];
    /// Kinds that every cluster has and whose objects live in namespaces.
    pub const NAMESPACED: [Kind; 4] =
        [Kind::HorizontalPodAutoscaler, Kind::Deployment, Kind::StatefulSet, Kind::Pod];

    /// Kind, group, version and plural.
    const fn names(self) -> [&'static str; 4] {
        match self {
            Kind::VariantAutoscaling => ["VariantAutoscaling", "llmd.ai", "v1alpha1", "variantautoscalings"],
            Kind::HorizontalPodAutoscaler => {
                ["HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"]
            }
            Kind::ScaledObject => ["ScaledObject", "keda.sh", "v1alpha1", "scaledobjects"],
            Kind::ConfigMap => ["ConfigMap", "", "v1", "configmaps"],
            Kind::Namespace => ["Namespace", "", "v1", "namespaces"],
            Kind::Deployment => ["Deployment", "apps", "v1", "deployments"],
            Kind::StatefulSet => ["StatefulSet", "apps", "v1", "statefulsets"],
            Kind::LeaderWorkerSet => {
                ["LeaderWorkerSet", "leaderworkerset.x-k8s.io", "v1", "leaderworkersets"]
            }
            Kind::Pod => ["Pod", "", "v1", "pods"],
            Kind::Node => ["Node", "", "v1", "nodes"],
            Kind::CustomResourceDefinition => {
                ["CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions"]
            }
        }
    }

    /// The Kubernetes kind.
    pub const fn name(self) -> &'static str {
        self.names()[0]
    }

    /// Name in URLs and in RBAC rules.
    pub const fn plural(self) -> &'static str {
        self.names()[3]
    }

    /// API group; empty for the core.
    pub const fn group(self) -> &'static str {
        self.names()[1]
    }

    /// How the client asks for it.
    pub fn api_resource(self) -> ApiResource {
        let [kind, group, version, plural] = self.names().map(String::from);
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        ApiResource { group, version, api_version, kind, plural }
    }

    /// Version that is read.
    pub const fn version(self) -> &'static str {
        self.names()[2]
    }

    /// Name of the definition that brings the kind, if it is a custom one.
    pub fn definition(self) -> Option<String> {
        Kind::CUSTOM.contains(&self).then(|| format!("{}.{}", self.plural(), self.group()))
    }

    /// The kind that a definition brings.
    pub fn of_definition(name: &str) -> Option<Kind> {
        Kind::CUSTOM.into_iter().find(|kind| kind.definition().as_deref() == Some(name))
    }

    /// Whether decisions can be made without it: then a missing permission is reported and lived with.
    pub const fn is_dispensable(self) -> bool {
        !matches!(
            self,
            Kind::VariantAutoscaling
                | Kind::HorizontalPodAutoscaler
                | Kind::ConfigMap
                | Kind::Deployment
                | Kind::StatefulSet
        )
    }

    /// The kind of scale target that this is.
    pub const fn target(self) -> Option<TargetKind> {
        match self {
            Kind::Deployment => Some(TargetKind::Deployment),
            Kind::StatefulSet => Some(TargetKind::StatefulSet),
            Kind::LeaderWorkerSet => Some(TargetKind::LeaderWorkerSet),
            _ => None,
        }
    }
}

/// An object that says something to `config`, or that is written to.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirrored {
    /// Which kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
    /// What `config` reads: the object without status and bookkeeping.
    pub document: Document,
    /// Its status; null for kinds whose status is not written.
    pub status: Value,
    /// Version of object and status, which grows with every change; 0 for kinds whose status is not written.
    pub version: u64,
    /// Unique identity: another object with the same name has another.
    pub uid: Arc<str>,
    /// Counts changes of the spec.
    pub generation: i64,
    /// What a scaler scales.
    pub target: Option<ScaleTarget>,
}

impl Mirrored {
    /// The object as `config` sees it.
    pub fn body(&self) -> &Value {
        match &self.document.content {
            DocumentContent::Object(body) => body,
            _ => &Value::Null,
        }
    }
}

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An object that says something to `config`.
    Object(Arc<Mirrored>),
    /// A scale target; with an object if its pod template says something.
    Target(TargetReplicas, Option<Arc<Mirrored>>),
    /// A pod.
    Pod(PodFact),
    /// Cards of a node: product and count.
    Node(Option<(String, u64)>),
    /// Definition of a custom resource: served versions, and the schema of the status of ours.
    Definition(Arc<Definition>),
}

impl Item {
    /// The object that says something to `config`, if it is one.
    pub fn object(&self) -> Option<&Arc<Mirrored>> {
        match self {
            Item::Object(object) | Item::Target(_, Some(object)) => Some(object),
            _ => None,
        }
    }
}

/// A definition of a custom resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    /// Whether the version that is read is served.
    pub is_served: bool,
    /// Schema of the status.
    pub status_schema: Value,
}

/// What is kept of an object of any kind but Pod.
pub fn item(kind: Kind, object: DynamicObject) -> Option<(ObjectName, Item)> {
    let name = object_name(&object.metadata)?;
    let item = match kind {
        Kind::Node => Item::Node(template::node_cards(&object.metadata, &object.data)),
        Kind::CustomResourceDefinition => Item::Definition(Arc::new(definition(&name, &object.data))),
        _ => match kind.target() {
            Some(_) => {
                let replicas = replicas(&object.data);
                let body = template::body(kind, &object);
                Item::Target(replicas, body.map(|body| mirrored(kind, &name, &object, body)))
            }
            None => {
                let body = config_body(kind, &object);
                Item::Object(mirrored(kind, &name, &object, body))
            }
        },
    };
    Some((name, item))
}

/// What is kept of a pod.
pub fn pod_item(pod: PodView) -> Option<(ObjectName, Item)> {
    let name = object_name(&pod.metadata)?;
    pod.fact().map(|fact| (name, Item::Pod(fact)))
}

fn object_name(metadata: &ObjectMeta) -> Option<ObjectName> {
    let name = metadata.name.as_deref()?.into();
    Some(ObjectName { namespace: metadata.namespace.as_deref().unwrap_or_default().into(), name })
}

fn replicas(data: &Value) -> TargetReplicas {
    let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
    let status = &data["status"];
    TargetReplicas {
        // The API server's own default.
        spec: count(&data["spec"]["replicas"]).unwrap_or(1),
        status: count(&status["replicas"]).unwrap_or(0),
        ready: count(&status["readyReplicas"]).unwrap_or(0),
    }
}

fn mirrored(kind: Kind, name: &ObjectName, object: &DynamicObject, body: Value) -> Arc<Mirrored> {
    let reference = &body["spec"]["scaleTargetRef"];
    let target_kind = match reference["kind"].as_str() {
        Some("Deployment") | None => Some(TargetKind::Deployment),
        Some("StatefulSet") => Some(TargetKind::StatefulSet),
        Some("LeaderWorkerSet") => Some(TargetKind::LeaderWorkerSet),
        Some(_) => None,
    };
    let target = reference["name"].as_str().zip(target_kind);
    let (status, version) = match kind {
        Kind::VariantAutoscaling => (object.data["status"].clone(), version(&object.metadata)),
        _ => (Value::Null, 0),
    };
    let origin = format!("{} {}/{}", kind.name(), name.namespace, name.name);
    Arc::new(Mirrored {
        kind,
        target: target.map(|(name, kind)| ScaleTarget { kind, name: name.into() }),
        name: name.clone(),
        status,
        version,
        uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
        generation: object.metadata.generation.unwrap_or(0),
        document: Document { origin, content: DocumentContent::Object(body) },
    })
}

/// The version of an object. Kubernetes lets clients compare those of one kind by size.
pub fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The object as `config` reads it: no status, no bookkeeping of the API server and of kubectl.
fn config_body(kind: Kind, object: &DynamicObject) -> Value {
    let mut body = match &object.data {
        Value::Object(data) => data.clone(),
        _ => Map::new(),
    };
    body.retain(|key, _| matches!(key.as_str(), "spec" | "data" | "binaryData"));
    let is_foreign = kind == Kind::ConfigMap
        && !is_configuration(object.metadata.name.as_deref().unwrap_or_default(), &object.data["data"]);
    if kind == Kind::Namespace || is_foreign {
        // Whatever else lies in a namespace can be large.
        body.clear();
    }
    body.insert("metadata".into(), metadata(&object.metadata));
    let resource = kind.api_resource();
    body.insert("apiVersion".into(), resource.api_version.into());
    body.insert("kind".into(), resource.kind.into());
    Value::Object(body)
}

/// Name, labels, annotations and owners.
pub(super) fn metadata(metadata: &ObjectMeta) -> Value {
    let mut kept = Map::new();
    kept.insert("name".into(), json!(metadata.name));
    if let Some(namespace) = &metadata.namespace {
        kept.insert("namespace".into(), json!(namespace));
    }
    if let Some(labels) = metadata.labels.as_ref().filter(|labels| !labels.is_empty()) {
        kept.insert("labels".into(), json!(labels));
    }
    let annotations = metadata.annotations.iter().flatten();
    let annotations: Map<String, Value> = annotations
        .filter(|(key, _)| !key.starts_with("kubectl.kubernetes.io/"))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !annotations.is_empty() {
        kept.insert("annotations".into(), annotations.into());
    }
    let owners: Vec<Value> = metadata
        .owner_references
        .iter()
        .flatten()
        .map(|owner| json!({"kind": owner.kind, "name": owner.name}))
        .collect();
    if !owners.is_empty() {
        kept.insert("ownerReferences".into(), owners.into());
    }
    Value::Object(kept)
}

fn definition(name: &ObjectName, data: &Value) -> Definition {
    let Some(kind) = Kind::of_definition(&name.name) else { return Definition::default() };
    let versions = data["spec"]["versions"].as_array();
    let version = versions.into_iter().flatten().find(|version| version["name"] == kind.version());
    let conditions = data["status"]["conditions"].as_array();
    let is_established = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True");
    let schema = version.map(|version| &version["schema"]["openAPIV3Schema"]["properties"]["status"]);
    Definition {
        is_served: is_established && version.is_some_and(|version| version["served"] == true),
        status_schema: match kind {
            Kind::VariantAutoscaling => schema.cloned().unwrap_or_default(),
            _ => Value::Null,
        },
    }
}
