//! Which objects are ours: namespaces, and the label that keeps several instances apart.
//!
//! Input: mirrored objects. Output: the documents that `config` sees of them. Must not know watches.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::kinds::{Kind, Mirrored};
use crate::config::objects::{Document, DocumentContent};

/// Label that says which instance an object belongs to.
pub const INSTANCE_LABEL: &str = "wva.llmd.ai/controller-instance";
/// Annotation that makes a scaler declare a variant.
const MANAGED: &str = "llm-d.ai/managed";
/// Label of namespaces that have ConfigMaps of their own.
pub const CONFIG_ENABLED: &str = "wva.llmd.ai/config-enabled";

/// What is mirrored.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Namespaces; empty for all.
    pub namespaces: BTreeSet<Arc<str>>,
    /// The sidecar's own namespace, whose ConfigMaps are for everybody.
    pub home: Arc<str>,
    /// Name of this instance: only objects labelled with it are its own. `None`: all are.
    pub instance: Option<String>,
}

impl Scope {
    /// The document of an object as `config` is to see it; `None` when it is not ours.
    pub fn document<'o>(&self, object: &'o Mirrored) -> Option<Cow<'o, Document>> {
        let document = Cow::Borrowed(&object.document);
        if self.is_own(object) {
            return Some(document);
        }
        match object.kind {
            Kind::VariantAutoscaling => None,
            Kind::HorizontalPodAutoscaler | Kind::ScaledObject => Some(Cow::Owned(unmanaged(object))),
            _ => Some(document),
        }
    }

    /// Whether an object that can belong to an instance belongs to this one.
    pub fn is_own(&self, object: &Mirrored) -> bool {
        let Some(instance) = &self.instance else { return true };
        object.body()["metadata"]["labels"][INSTANCE_LABEL].as_str() == Some(instance)
    }
}

/// A scaler of another instance bounds its target, but declares no variant of ours.
fn unmanaged(object: &Mirrored) -> Document {
    let mut document = object.document.clone();
    if let DocumentContent::Object(Value::Object(body)) = &mut document.content
        && let Some(annotations) =
            body.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
        && let Some(annotations) = annotations.as_object_mut()
    {
        annotations.remove(MANAGED);
    }
    document
}
