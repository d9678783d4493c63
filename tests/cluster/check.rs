//! `check --cluster` against a real API server: what is missing is said, with its fix, and nothing else is.

use crate::control_plane::{ADMIN_TOKEN, ControlPlane, Wanted};
use crate::world::*;
use serde_json::Value;
use std::process::Command;

/// Exit status and report.
fn check(plane: &ControlPlane, token: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("INFERNO_") {
            command.env_remove(name);
        }
    }
    command.env("KUBECONFIG", plane.kubeconfig(token)).env("POD_NAMESPACE", HOME);
    let output = command.args(["check", "--cluster"]).args(arguments).output().expect("the binary runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it exits"), text)
}

fn assert_says(report: &str, parts: &[&str]) {
    let is_line = |line: &&str| parts.iter().all(|part| line.contains(part));
    assert!(report.lines().any(|line| is_line(&line)), "no line with {parts:?} in:\n{report}");
}

async fn plane() -> Option<ControlPlane> {
    let plane = ControlPlane::start(Wanted::default()).await?;
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    Some(plane)
}

/// An HPA that follows our metric, up to `max` replicas.
fn scaler(name: &str, max: u32) -> String {
    format!(
        r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {name}, namespace: llm}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}
  maxReplicas: {max}
  metrics:
    - type: External
      external:
        metric: {{name: inferno_desired_replicas}}
        target: {{type: AverageValue, averageValue: "1"}}
"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_anything_then_with_mistakes_then_in_order() {
    let Some(plane) = plane().await else { return };
    let (status, report) = check(&plane, ADMIN_TOKEN, &[]);
    assert_eq!(status, 1, "{report}");
    assert_says(
        &report,
        &["VariantAutoscaling", "is not defined", "kubectl apply -f charts/inferno-sidecar/crds"],
    );

    define(&plane, OWN_DEFINITION);
    deployment(&plane, "llama", 1, 1);
    plane.kubectl(&[
        "patch", "deployment", "llama", "-n", "llm", "--type=json", "-p",
        r#"[{"op":"add","path":"/spec/template/spec/containers/0/args","value":["--model=/m","--served-model-name","other","second"]}]"#,
    ]);
    plane.apply(&variant_yaml("llama", ""));
    plane.apply(&variant_yaml("nowhere", ""));
    plane.apply(&scaler("llama", 30));
    plane.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: saturation-scaling-config, namespace: {HOME}}}\n\
         data:\n  default: |\n    kvCacheThreshold: much\n"
    ));
    let (status, report) = check(&plane, ADMIN_TOKEN, &[]);
    crate::say!("{report}");
    assert_eq!(status, 1, "{report}");
    let nowhere = "VariantAutoscaling llm/nowhere: spec.scaleTargetRef: there is no Deployment llm/nowhere";
    assert_says(&report, &[nowhere, "there are Deployment llm/llama"]);
    let other =
        "spec.modelID: \"model-of-llama\" is not what Deployment llm/llama serves: \"other\", \"second\"";
    assert_says(&report, &["VariantAutoscaling llm/llama", other]);
    assert_says(&report, &["kvCacheThreshold", "much"]);
    assert_says(&report, &["warning: HorizontalPodAutoscaler llm/llama", "tolerance of 10 %"]);
    assert!(!report.contains("permission"), "{report}");
    let (_, json) = check(&plane, ADMIN_TOKEN, &["--json"]);
    let json: Value = serde_json::from_str(json.trim()).expect("one object");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(1), "{json}");

    plane.kubectl(&["delete", "va", "-n", "llm", "nowhere"]);
    plane.kubectl(&["delete", "configmap", "-n", HOME, "saturation-scaling-config"]);
    plane.kubectl(&[
        "patch",
        "va",
        "-n",
        "llm",
        "llama",
        "--type=merge",
        "-p",
        r#"{"spec":{"modelID":"second"}}"#,
    ]);
    plane.kubectl(&[
        "patch",
        "hpa",
        "-n",
        "llm",
        "llama",
        "--type=merge",
        "-p",
        r#"{"spec":{"maxReplicas":9}}"#,
    ]);
    let (status, report) = check(&plane, ADMIN_TOKEN, &[]);
    assert_eq!(status, 0, "{report}");
    assert_says(&report, &["0 to put right, 0 to look at"]);

    // What a running sidecar misses is said, too.
    let sidecar = Sidecar::start(&plane, &["--write-status", "false", "--write-events", "false"]).await;
    sidecar.variant_where("llama", |_| true).await;
    let url = format!("http://{}", sidecar.address);
    let (status, report) = check(&plane, ADMIN_TOKEN, &["--sidecar", &url]);
    assert_eq!(status, 1, "{report}");
    assert_says(&report, &["variant llm/llama", "remote_write"]);
    drop(sidecar);
    let (_, report) = check(&plane, ADMIN_TOKEN, &["--sidecar", &url]);
    assert_says(&report, &["cannot be asked", "port-forward"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_permissions_are_named_with_the_file_that_grants_them() {
    let Some(plane) = plane().await else { return };
    define(&plane, OWN_DEFINITION);
    let account = format!("{HOME}/inferno-sidecar");
    let asked = ["--service-account", &*account, "--actuation", "direct"];
    let (status, report) = check(&plane, ADMIN_TOKEN, &asked);
    assert_eq!(status, 1, "{report}");
    assert_says(
        &report,
        &["list and watch variantautoscalings (API group \"llmd.ai\")", "deploy/rbac/mirror.yaml"],
    );
    assert_says(&report, &["warning", "list and watch nodes", "it works with less"]);
    assert_says(&report, &["patch variantautoscalings/status", "deploy/rbac/status.yaml"]);
    assert_says(&report, &["create and patch events", "deploy/rbac/events.yaml"]);
    assert_says(&report, &["create and get and update leases", HOME, "deploy/rbac/lease.yaml"]);
    assert_says(&report, &["patch deployments/scale", "deploy/rbac/actuation.yaml"]);

    // The sidecar's own token: the same is missing, and what cannot be listed is not called absent.
    let token = grant(&plane, |_| "kind: Namespace\napiVersion: v1\nmetadata: {name: llm}\n".to_owned());
    plane.apply(&variant_yaml("llama", ""));
    let (status, report) = check(&plane, &token, &[]);
    assert_eq!(status, 1, "{report}");
    assert_says(&report, &["list and watch deployments", "deploy/rbac/mirror.yaml"]);
    assert!(!report.contains("there is no Deployment"), "{report}");

    // With the published files nothing is missing, for whoever asks.
    let token = grant(&plane, |rules| rules);
    for (token, arguments) in [(ADMIN_TOKEN, &asked[..]), (&token, &asked[2..])] {
        let (_, report) = check(&plane, token, arguments);
        assert!(!report.contains("permission"), "{report}");
    }
}
