//! Every object that is shipped, applied to a real API server in a dry run.

use super::*;
use crate::control_plane::{ControlPlane, Wanted};
use serde_json::json;
use std::collections::BTreeSet;

/// Kinds of others, as far as an API server needs to know them to take objects.
const FOREIGN: [(&str, &str, &str, &str); 8] = [
    ("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("monitoring.coreos.com", "v1", "Prometheus", "prometheuses"),
    ("monitoring.googleapis.com", "v1", "PodMonitoring", "podmonitorings"),
    ("cert-manager.io", "v1", "Issuer", "issuers"),
    ("cert-manager.io", "v1", "Certificate", "certificates"),
];

fn definition((group, version, kind, plural): (&str, &str, &str, &str)) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

fn text(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

fn define(plane: &ControlPlane) {
    let mut definitions: Vec<Value> = FOREIGN.into_iter().map(definition).collect();
    let ours = root().join("charts/inferno-sidecar/crds");
    match fs::read_dir(&ours) {
        Ok(files) => {
            for file in files {
                definitions.extend(objects(&fs::read_to_string(file.unwrap().path()).unwrap()));
            }
        }
        Err(_) => {
            println!("the chart has no definition yet; a loose one stands in");
            definitions.push(definition((
                "llmd.ai",
                "v1alpha1",
                "VariantAutoscaling",
                "variantautoscalings",
            )));
        }
    }
    plane.apply(&text(&definitions));
    for definition in &definitions {
        let name = format!("crd/{}", definition["metadata"]["name"].as_str().unwrap());
        plane.kubectl(&["wait", "--for=condition=Established", &name, "--timeout=60s"]);
    }
}

/// Applies objects in a dry run that refuses unknown fields.
fn try_out(plane: &ControlPlane, what: &str, objects: &[Value]) {
    let spaces: BTreeSet<&str> =
        objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    let namespaces: Vec<Value> = spaces
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    plane.apply(&text(&namespaces));
    let file = plane.dir.path().join("objects.yaml");
    fs::write(&file, text(objects)).unwrap();
    let path = file.display().to_string();
    let applied =
        plane.try_kubectl(&["apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", &path]);
    let lines = applied.unwrap_or_else(|complaint| panic!("{what}: {complaint}"));
    assert_eq!(lines.lines().count(), objects.len(), "{what}: {lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_takes_every_object() {
    let Some(plane) = ControlPlane::start(Wanted::default()).await else { return };
    define(&plane);
    for values in [""].iter().chain(&chart::VALUES) {
        try_out(&plane, &format!("chart with {values:?}"), &chart::rendered(values, &[]));
    }
    for base in manifests::BASES {
        try_out(&plane, &format!("deploy/{base}"), &manifests::kustomized(base));
    }
    for (path, objects) in manifests::files("keda").into_iter().chain(manifests::files("hpa")) {
        if !path.ends_with("adapter-values.yaml") {
            try_out(&plane, &path, &objects);
        }
    }
    try_out(&plane, "remote-write.yaml", &objects(&read("deploy/prometheus-operator/remote-write.yaml")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_certificate_is_kept_until_it_is_due() {
    let Some(plane) = ControlPlane::start(Wanted::default()).await else { return };
    let kubeconfig = plane.kubeconfig(control_plane::ADMIN_TOKEN).display().to_string();
    // With the cluster at hand, as an upgrade has it.
    let upgrade = || {
        let more = ["--set", "externalMetrics.enabled=true", "--dry-run=server", "--kubeconfig", &kubeconfig];
        find(&chart::rendered("", &more), "Secret").clone()
    };
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "inferno"}});
    let mut secret = upgrade();
    plane.apply(&text(&[space, secret.clone()]));
    assert_eq!(upgrade()["data"], secret["data"]);
    secret["metadata"]["annotations"]["inferno/renew-after"] = json!("1");
    plane.apply(&text(&[secret.clone()]));
    let renewed = upgrade();
    assert_ne!(renewed["data"]["tls.crt"], secret["data"]["tls.crt"]);
    let due: i64 =
        renewed["metadata"]["annotations"]["inferno/renew-after"].as_str().unwrap().parse().unwrap();
    assert!(due > 1_700_000_000, "{due}");
}
