//! Which permissions are missing, asked of the API server by access reviews.

use super::Finding;
use crate::mirror::cluster::once::{Reading, places};
use crate::mirror::cluster::{Kind, Scope};
use crate::options::{Actuation, WithinFlags};
use anyhow::Context as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the Lease by default.
const LEASE: &str = "inferno-sidecar";

/// Something that the sidecar does.
struct Need {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: Option<Arc<str>>,
    name: Option<String>,
    /// File that grants it.
    file: &'static str,
    /// Decisions are made without it.
    is_dispensable: bool,
}

impl Need {
    fn attributes(&self) -> ResourceAttributes {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        ResourceAttributes {
            verb: text(self.verb),
            group: Some(self.group.to_owned()),
            resource: text(self.resource),
            subresource: text(self.subresource),
            namespace: self.namespace.as_deref().map(str::to_owned),
            name: self.name.clone(),
            ..ResourceAttributes::default()
        }
    }

    /// What is done to what, verbs aside.
    fn place(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        let mut text = format!("{}{slash}{} (API group \"{}\")", self.resource, self.subresource, self.group);
        if let Some(namespace) = &self.namespace {
            text += &format!(" in namespace {namespace}");
        }
        text
    }
}

/// Asks for everything that is needed; one finding for all verbs of one resource.
pub async fn findings(
    client: &Client,
    scope: &Scope,
    reading: &Reading,
    flags: &WithinFlags,
) -> anyhow::Result<Vec<Finding>> {
    let whose = match &flags.service_account {
        Some(account) => Whose::Account(account.split_once('/').with_context(|| {
            format!("--service-account {account}: write NAMESPACE/NAME, e.g. inferno-sidecar/inferno-sidecar")
        })?),
        None => Whose::Own,
    };
    let mut lacks: BTreeMap<(String, &'static str, bool), Vec<&'static str>> = BTreeMap::new();
    for need in needs(scope, reading, flags.actuation.unwrap_or_default()) {
        if !whose.may(client, &need).await.context("permissions cannot be asked for")? {
            let key = (need.place(), need.file, need.is_dispensable);
            lacks.entry(key).or_default().push(need.verb);
        }
    }
    let finding = |((place, file, is_dispensable), verbs): (_, Vec<&str>)| {
        let reason = format!("a permission is missing: {} {place}", verbs.join(" and "));
        let fix = format!("kubectl apply -f deploy/rbac/{file}");
        match is_dispensable {
            true => Finding::warning("permissions", "", reason, format!("it works with less; {fix}")),
            false => Finding::problem("permissions", "", reason, fix),
        }
    };
    Ok(lacks.into_iter().map(finding).collect())
}

/// Whose permissions are asked for.
enum Whose<'f> {
    Own,
    /// A service account by namespace and name.
    Account((&'f str, &'f str)),
}

impl Whose<'_> {
    async fn may(&self, client: &Client, need: &Need) -> Result<bool, kube::Error> {
        let resource_attributes = Some(need.attributes());
        let status = match self {
            Whose::Own => {
                let spec = SelfSubjectAccessReviewSpec { resource_attributes, ..Default::default() };
                let review = SelfSubjectAccessReview { spec, ..Default::default() };
                let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
                api.create(&PostParams::default(), &review).await?.status
            }
            Whose::Account((namespace, name)) => {
                let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(["system:authenticated".to_owned()])
                    .collect();
                let spec = SubjectAccessReviewSpec {
                    user: Some(format!("system:serviceaccount:{namespace}:{name}")),
                    groups: Some(groups),
                    resource_attributes,
                    ..Default::default()
                };
                let review = SubjectAccessReview { spec, ..Default::default() };
                let api: Api<SubjectAccessReview> = Api::all(client.clone());
                api.create(&PostParams::default(), &review).await?.status
            }
        };
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn needs(scope: &Scope, reading: &Reading, actuation: Actuation) -> Vec<Need> {
    let mut needs = reads(scope, reading);
    let mut write = |verb, group, resource, subresource, namespace, name: Option<&str>, file| {
        let name = name.map(str::to_owned);
        let is_dispensable = true;
        needs.push(Need { verb, group, resource, subresource, namespace, name, file, is_dispensable });
    };
    for namespace in places(scope) {
        write("patch", "llmd.ai", "variantautoscalings", "status", namespace.clone(), None, "status.yaml");
        for verb in ["create", "patch"] {
            write(verb, "events.k8s.io", "events", "", namespace.clone(), None, "events.yaml");
        }
        if actuation != Actuation::None {
            for resource in ["deployments", "statefulsets"] {
                write("patch", "apps", resource, "scale", namespace.clone(), None, "actuation.yaml");
            }
            if reading.defined.contains(&Kind::LeaderWorkerSet) {
                let kind = Kind::LeaderWorkerSet;
                write("patch", kind.group(), kind.plural(), "scale", namespace, None, "actuation.yaml");
            }
        }
    }
    for (verb, name) in [("create", None), ("get", Some(LEASE)), ("update", Some(LEASE))] {
        let home = Some(scope.home.clone());
        write(verb, "coordination.k8s.io", "leases", "", home, name, "lease.yaml");
    }
    needs
}

fn reads(scope: &Scope, reading: &Reading) -> Vec<Need> {
    let file = if scope.namespaces.is_empty() { "mirror.yaml" } else { "mirror-namespaced.yaml" };
    let mut needs = Vec::new();
    let mut read = |kind: Kind, namespace: Option<Arc<str>>, name: Option<String>| {
        for verb in ["list", "watch"] {
            needs.push(Need {
                verb,
                group: kind.group(),
                resource: kind.plural(),
                subresource: "",
                namespace: namespace.clone(),
                name: name.clone(),
                file,
                is_dispensable: kind.is_dispensable(),
            });
        }
    };
    for kind in Kind::CUSTOM {
        read(Kind::CustomResourceDefinition, None, kind.definition());
    }
    let is_there = |kind: &Kind| *kind == Kind::VariantAutoscaling || reading.defined.contains(kind);
    for kind in Kind::NAMESPACED.into_iter().chain(Kind::CUSTOM.into_iter().filter(is_there)) {
        places(scope).into_iter().for_each(|namespace| read(kind, namespace, None));
    }
    read(Kind::ConfigMap, Some(scope.home.clone()), None);
    read(Kind::Node, None, None);
    match scope.namespaces.is_empty() {
        true => read(Kind::Namespace, None, None),
        false => scope.namespaces.iter().for_each(|name| read(Kind::Namespace, None, Some(name.to_string()))),
    }
    needs
}
