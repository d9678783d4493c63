//! Raw Kubernetes objects: from documents to the objects that configuration is made of.
//!
//! Input: [`Document`]s. Output: `Object`s of known kinds, with checked identity and the untouched
//! body. Objects never leave `config`. Must not know what the fields of a body mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

mod text;

pub use text::documents;
pub(in crate::config) use text::parse_yaml;

use super::resolve::value::{distance, scalar_text, show};

/// One document of a configuration file, or one object of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// File name and document number, `variants.yaml#2`, or another name of the source.
    pub origin: String,
    /// What is in it.
    pub content: DocumentContent,
}

impl Document {
    /// The origin without the document number: all documents of one file share it.
    pub fn file(&self) -> &str {
        file_of(&self.origin)
    }
}

/// The origin without a trailing `#NUMBER`.
pub(in crate::config) fn file_of(origin: &str) -> &str {
    match origin.rsplit_once('#') {
        Some((file, number)) if number.parse::<u32>().is_ok() => file,
        _ => origin,
    }
}

/// Content of a [`Document`].
#[derive(Clone, Debug, PartialEq)]
pub enum DocumentContent {
    /// A parsed document.
    Object(Value),
    /// A document that could not be read: everything that came from its file stays as it was.
    Broken {
        /// What is wrong.
        reason: String,
        /// What to do about it.
        fix: String,
    },
    /// The whole source could not be read: everything stays as it was. The origin names the source.
    SourceLost {
        /// What is wrong.
        reason: String,
        /// What to do about it.
        fix: String,
    },
}

/// Kinds of objects that say something to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) enum Kind {
    VariantAutoscaling,
    HorizontalPodAutoscaler,
    ScaledObject,
    ConfigMap,
    Namespace,
    Deployment,
    StatefulSet,
    LeaderWorkerSet,
}

impl Kind {
    pub(in crate::config) const fn name(self) -> &'static str {
        match self {
            Kind::VariantAutoscaling => "VariantAutoscaling",
            Kind::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Kind::ScaledObject => "ScaledObject",
            Kind::ConfigMap => "ConfigMap",
            Kind::Namespace => "Namespace",
            Kind::Deployment => "Deployment",
            Kind::StatefulSet => "StatefulSet",
            Kind::LeaderWorkerSet => "LeaderWorkerSet",
        }
    }

    /// Whether an object of this kind may come under the given API group.
    fn accepts(self, group: &str) -> bool {
        match self {
            Kind::VariantAutoscaling => OUR_GROUPS.contains(&group),
            Kind::HorizontalPodAutoscaler => group == "autoscaling",
            Kind::ScaledObject => group == "keda.sh",
            Kind::ConfigMap | Kind::Namespace => group.is_empty(),
            Kind::Deployment | Kind::StatefulSet => group == "apps",
            Kind::LeaderWorkerSet => group == "leaderworkerset.x-k8s.io",
        }
    }

    const fn group_hint(self) -> &'static str {
        match self {
            Kind::VariantAutoscaling => "llmd.ai/v1alpha1",
            Kind::HorizontalPodAutoscaler => "autoscaling/v2",
            Kind::ScaledObject => "keda.sh/v1alpha1",
            Kind::ConfigMap | Kind::Namespace => "v1",
            Kind::Deployment | Kind::StatefulSet => "apps/v1",
            Kind::LeaderWorkerSet => "leaderworkerset.x-k8s.io/v1",
        }
    }
}

const OUR_GROUPS: [&str; 2] = ["llmd.ai", "llm-d.ai"];

/// Kinds that declare or configure something.
const KINDS: [Kind; 5] = [
    Kind::VariantAutoscaling,
    Kind::HorizontalPodAutoscaler,
    Kind::ScaledObject,
    Kind::ConfigMap,
    Kind::Namespace,
];

/// Kinds that are scaled; they say which accelerators their pods use.
const TARGET_KINDS: [Kind; 3] = [Kind::Deployment, Kind::StatefulSet, Kind::LeaderWorkerSet];

/// Kinds that commonly lie beside ours in a folder and mean nothing to us.
const QUIET_KINDS: [&str; 41] = [
    "APIService",
    "Certificate",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterServingRuntime",
    "ClusterTriggerAuthentication",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Endpoints",
    "Gateway",
    "HTTPRoute",
    "InferenceModel",
    "InferenceObjective",
    "InferencePool",
    "InferenceService",
    "Ingress",
    "Issuer",
    "Job",
    "Kustomization",
    "LimitRange",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "PodMonitor",
    "PodMonitoring",
    "PriorityClass",
    "Prometheus",
    "PrometheusRule",
    "ReplicaSet",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "StorageClass",
    "TriggerAuthentication",
];

/// Annotation with the whole object as text.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Drops what may hold secrets and says nothing here.
fn drop_foreign_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // Labels may have these names, too; variables are lists.
            let is_variables = |name: &str, value: &Value| name.starts_with("env") && value.is_array();
            fields.retain(|name, value| name != LAST_APPLIED && !is_variables(name, value));
            fields.values_mut().for_each(drop_foreign_fields);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_foreign_fields),
        _ => {}
    }
}

/// The value without objects of kinds that say nothing here, Secrets among them, and without variables of
/// containers; `None` when nothing stays.
pub fn without_foreign(value: &Value) -> Option<Value> {
    let kind = value["kind"].as_str().unwrap_or_default();
    if QUIET_KINDS.contains(&kind) {
        return None;
    }
    // A typed list of a foreign kind, whose items need not say their kind.
    if kind.strip_suffix("List").is_some_and(|item| QUIET_KINDS.contains(&item)) {
        return None;
    }
    let mut value = value.clone();
    if TARGET_KINDS.iter().any(|target| target.name() == kind) {
        drop_foreign_fields(&mut value);
    }
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        *items = items.iter().filter_map(without_foreign).collect();
    }
    Some(value)
}

/// Identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) struct ObjectId {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// An object of a known kind with a valid identity.
#[derive(Clone, Debug)]
pub(in crate::config) struct Object<'v> {
    pub id: ObjectId,
    pub origin: Arc<str>,
    pub labels: BTreeMap<&'v str, String>,
    pub annotations: BTreeMap<&'v str, String>,
    /// Whether another scaler made this object and keeps it up to date.
    pub owned_by_scaled_object: bool,
    pub body: &'v Value,
}

impl<'v> Object<'v> {
    /// An object whose identity was checked before.
    pub(in crate::config) fn new(id: ObjectId, origin: Arc<str>, body: &'v Value) -> Self {
        let metadata = &body["metadata"];
        let owners = metadata["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        Object {
            id,
            origin,
            labels: texts(&metadata["labels"]),
            annotations: texts(&metadata["annotations"]),
            owned_by_scaled_object: owners.iter().any(|owner| owner["kind"] == "ScaledObject"),
            body,
        }
    }

    /// The label or annotation of that name; annotations win.
    pub(in crate::config) fn mark(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).or_else(|| self.labels.get(name)).map(String::as_str)
    }
}

fn texts(value: &Value) -> BTreeMap<&str, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.as_str(), scalar_text(value)?))).collect()
}

/// Which objects of before stay when something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Keep {
    Nothing,
    File,
    Everything,
}

/// A document, or an item of a list, that is no usable object.
#[derive(Debug)]
pub(in crate::config) struct Refused {
    /// Name for messages: kind and name as far as they are known.
    pub object: String,
    pub field: &'static str,
    pub reason: String,
    pub fix: String,
    /// What may have stood here, and so must stay as it was.
    pub keep: Keep,
}

/// Lists nested deeper than this are refused; nobody nests them at all.
const LIST_DEPTH_MAX: usize = 4;

/// Turns a document into objects: unrolls lists, checks identities, drops kinds that mean nothing here.
pub(in crate::config) fn objects<'v>(
    origin: &Arc<str>,
    value: &'v Value,
) -> Vec<Result<Object<'v>, Refused>> {
    let mut found = Vec::new();
    unroll(origin, value, None, LIST_DEPTH_MAX, &mut found);
    found
}

/// Kind and API version that items of a typed list have without saying so.
#[derive(Clone, Copy)]
struct ListType<'v> {
    kind: &'v str,
    api_version: &'v str,
}

fn unroll<'v>(
    origin: &Arc<str>,
    value: &'v Value,
    list: Option<ListType<'v>>,
    depth_left: usize,
    found: &mut Vec<Result<Object<'v>, Refused>>,
) {
    let kind = value["kind"].as_str().or(list.map(|list| list.kind));
    let api_version = value["apiVersion"].as_str().or(list.map(|list| list.api_version));
    let items = match kind.and_then(|kind| kind.strip_suffix("List")) {
        Some(item_kind) => value["items"].as_array().map(|items| (item_kind, items)),
        None => None,
    };
    let Some((item_kind, items)) = items else {
        found.extend(identify(origin, value, kind, api_version).transpose());
        return;
    };
    if depth_left == 0 {
        found.push(Err(refused(
            kind,
            value,
            "items",
            "lists are nested too deep",
            "write the objects directly",
        )));
        return;
    }
    let list = (!item_kind.is_empty())
        .then(|| ListType { kind: item_kind, api_version: api_version.unwrap_or_default() });
    for item in items {
        unroll(origin, item, list, depth_left - 1, found);
    }
}

fn refused(kind: Option<&str>, value: &Value, field: &'static str, reason: &str, fix: &str) -> Refused {
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let object = match (kind, name) {
        (None, _) => String::new(),
        (Some(kind), "") => cut(kind),
        (Some(kind), name) => format!("{} {}", cut(kind), cut(name)),
    };
    Refused { object, field, reason: reason.into(), fix: fix.into(), keep: Keep::File }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Checks kind and identity; `None` for objects that mean nothing here.
fn identify<'v>(
    origin: &Arc<str>,
    value: &'v Value,
    kind: Option<&str>,
    api_version: Option<&str>,
) -> Result<Option<Object<'v>>, Refused> {
    let (Some(kind), Some(api_version)) = (kind, api_version) else {
        return Err(no_object(value, kind));
    };
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let mut known = KINDS.into_iter().chain(TARGET_KINDS);
    let Some(known) = known.find(|known| known.name() == kind) else {
        return if QUIET_KINDS.contains(&kind) || kind.ends_with("List") && !OUR_GROUPS.contains(&group) {
            Ok(None)
        } else {
            Err(unknown_kind(value, kind, group))
        };
    };
    if !known.accepts(group) {
        return Err(refused(
            Some(kind),
            value,
            "apiVersion",
            &format!("API version {} has no {kind}", show(&api_version.into())),
            &format!("write `apiVersion: {}`", known.group_hint()),
        ));
    }
    let metadata = &value["metadata"];
    let name = identifier(value, kind, metadata.get("name"), "metadata.name", 253)?;
    let Some(name) = name else {
        return Err(refused(Some(kind), value, "metadata.name", "the object has no name", "give it one"));
    };
    let namespace = match known {
        Kind::Namespace => Some(name),
        _ => identifier(value, kind, metadata.get("namespace"), "metadata.namespace", 63)?,
    };
    let id = ObjectId { kind: known, namespace: namespace.unwrap_or("default").into(), name: name.into() };
    Ok(Some(Object::new(id, origin.clone(), value)))
}

fn identifier<'v>(
    object: &Value,
    kind: &str,
    value: Option<&'v Value>,
    field: &'static str,
    max_bytes: usize,
) -> Result<Option<&'v str>, Refused> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() && field == "metadata.namespace" => Ok(None),
        Some(Value::String(text)) if is_dns_name(text, max_bytes) => Ok(Some(text)),
        Some(other) => Err(refused(
            Some(kind),
            object,
            field,
            &format!("{} is no valid name", show(other)),
            &format!(
                "use lower-case letters, digits, `-` and `.`, at most {max_bytes} characters, in quotes if it \
                 looks like a number"
            ),
        )),
    }
}

/// Whether `text` is a name as Kubernetes accepts it (RFC 1123 subdomain).
pub(in crate::config) fn is_dns_name(text: &str, max_bytes: usize) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    text.len() <= max_bytes
        && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-' || byte == b'.')
        && bytes.first().is_some_and(|&byte| alphanumeric(byte))
        && bytes.last().is_some_and(|&byte| alphanumeric(byte))
}

fn no_object(value: &Value, kind: Option<&str>) -> Refused {
    let (field, what) = match (value.is_object(), kind) {
        (false, _) => ("", format!("a document must be a Kubernetes object, found {}", show(value))),
        (true, None) => ("kind", "the document has no kind, so it is no Kubernetes object".into()),
        (true, Some(_)) => ("apiVersion", "the object has no apiVersion".into()),
    };
    let fix = if kind.is_some() {
        "add `apiVersion: GROUP/VERSION`"
    } else {
        "put whole objects (apiVersion, kind, metadata ...) into this folder; when a ConfigMap is mounted \
         here, its data values must be such objects, not its own settings"
    };
    refused(kind, value, field, &what, fix)
}

fn unknown_kind(value: &Value, kind: &str, group: &str) -> Refused {
    let near = KINDS.into_iter().find(|known| distance(known.name(), kind) <= 3);
    let known: Vec<&str> = KINDS.iter().map(|known| known.name()).collect();
    let fix = match near {
        Some(near) => format!("did you mean {}?", near.name()),
        None => format!("known are {}; move the object out of the folder", known.join(", ")),
    };
    let mut refused =
        refused(Some(kind), value, "kind", &format!("unknown kind {}", show(&kind.into())), &fix);
    if near.is_none() && !OUR_GROUPS.contains(&group) {
        refused.keep = Keep::Nothing;
    }
    refused
}
