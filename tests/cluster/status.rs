//! What is written back: status in every published shape, one writer, conditions that say what to fix.

use crate::control_plane::{ControlPlane, Wanted};
use crate::world::*;
use serde_json::{Value, json};

async fn plane(definition: &str) -> Option<ControlPlane> {
    let plane = ControlPlane::start(Wanted::default()).await?;
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    define(&plane, definition);
    Some(plane)
}

/// A VariantAutoscaling as the API server has it.
fn object(plane: &ControlPlane, name: &str) -> Value {
    let text = plane.kubectl(&["get", "va", "-n", "llm", name, "-o", "json"]);
    serde_json::from_str(&text).expect("kubectl writes JSON")
}

/// Waits until the status of an object is as `is_meant` wants it.
async fn status_where(plane: &ControlPlane, name: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("the status of {name}"), async || {
        let status = object(plane, name)["status"].clone();
        is_meant(&status).then_some(status)
    })
    .await
}

fn condition<'s>(status: &'s Value, name: &str) -> &'s Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|it| it["type"] == name).unwrap_or(&Value::Null)
}

fn is(status: &Value, name: &str, value: &str, reason: &str) -> bool {
    let it = condition(status, name);
    it["status"] == value && it["reason"] == reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_follows_objects_and_samples() {
    let Some(plane) = plane(OWN_DEFINITION).await else { return };
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    let sidecar = Sidecar::start(&plane, &[]).await;
    let status =
        status_where(&plane, "llama", |it| is(it, "TargetResolved", "False", "TargetNotFound")).await;
    assert!(is(&status, "MetricsAvailable", "False", "PrometheusError"), "{status:#}");
    assert!(is(&status, "OptimizationReady", "False", "MetricsUnavailable"), "{status:#}");
    let message = condition(&status, "TargetResolved")["message"].as_str().expect("a text");
    assert!(message.contains("there is no Deployment llama in namespace llm; create it"), "{message}");

    deployment(&plane, "llama", 2, 2);
    sidecar.report("llama", "model-of-llama", 2, BUSY).await;
    let status = status_where(&plane, "llama", |it| it["desiredOptimizedAlloc"]["numReplicas"] == 3).await;
    for (name, reason) in [
        ("TargetResolved", "TargetFound"),
        ("MetricsAvailable", "MetricsFound"),
        ("OptimizationReady", "OptimizationSucceeded"),
    ] {
        assert!(is(&status, name, "True", reason), "{status:#}");
    }
    assert_eq!(status["currentAlloc"]["numReplicas"], 2, "{status:#}");
    assert_eq!(status["actuation"], json!({"applied": false}));
    let why = &status["desiredOptimizedAlloc"]["lastUpdate"]["reason"];
    assert!(why.as_str().expect("a text").contains("2 of 2 replicas are saturated"), "{status:#}");
    let shown = plane.kubectl(&["get", "va", "-n", "llm"]);
    let words: Vec<&str> = shown.lines().flat_map(str::split_whitespace).collect();
    let header = ["NAME", "MODEL", "ACCELERATOR", "CURRENTREPLICAS", "OPTIMIZED", "METRICSREADY", "AGE"];
    assert_eq!(words[..7], header, "{shown}");
    assert_eq!(
        words[7..13],
        ["llama", "model-of-llama", "NVIDIA-H100-80GB-HBM3", "2", "3", "True"],
        "{shown}"
    );

    // A mistake in the object is told there, and the decision stays.
    plane.apply(&variant_yaml("llama", "  maxReplicas: 2000000\n"));
    let status =
        status_where(&plane, "llama", |it| condition(it, "OptimizationReady")["observedGeneration"] == 2)
            .await;
    let message = condition(&status, "OptimizationReady")["message"].as_str().expect("a text").to_owned();
    assert!(message.contains("Problem: spec.maxReplicas"), "{message}");
    assert_eq!(status["desiredOptimizedAlloc"]["numReplicas"], 3);

    // Another's change is put right.
    plane.kubectl(&[
        "patch",
        "va",
        "-n",
        "llm",
        "llama",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"desiredOptimizedAlloc":{"numReplicas":7}}}"#,
    ]);
    status_where(&plane, "llama", |it| it["desiredOptimizedAlloc"]["numReplicas"] == 3).await;

    // After a restart what was decided stays until there is a new decision.
    drop(sidecar);
    let sidecar = Sidecar::start(&plane, &["--lease-name", "another"]).await;
    let status =
        status_where(&plane, "llama", |it| is(it, "MetricsAvailable", "False", "PrometheusError")).await;
    assert_eq!(status["desiredOptimizedAlloc"]["numReplicas"], 3, "{status:#}");
    drop(sidecar);
}

/// Objects as the published definitions want them, in the order of `crds/shapes.yaml`.
const OLDEST: &str = r#"
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata: {name: llama, namespace: llm, labels: {inference.optimization/acceleratorName: A100}}
spec:
  modelID: model-of-llama
  sloClassRef: {name: service-classes-config, key: premium}
  modelProfile:
    accelerators:
      - acc: A100
        accCount: 2
        maxBatchSize: 4
        perfParms:
          decodeParms: {alpha: "20.58", beta: "0.41"}
          prefillParms: {gamma: "5.2", delta: "0.1"}
"#;
const SINGLE: &str = r#"
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata: {name: llama, namespace: llm}
spec:
  modelID: model-of-llama
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama}
  variantID: model-of-llama-A100-2
  accelerator: A100
  acceleratorCount: 2
"#;
const NEWEST: &str = r#"
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata: {name: llama, namespace: llm, labels: {inference.optimization/acceleratorName: A100}}
spec:
  modelID: model-of-llama
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama}
  maxReplicas: 9
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_has_the_shape_that_is_installed() {
    let definitions: Vec<&str> = include_str!("crds/shapes.yaml").split("---\n").collect();
    let Some(plane) = plane(definitions[0]).await else { return };
    deployment(&plane, "llama", 2, 2);
    let sidecar = Sidecar::start(&plane, &[]).await;
    for (definition, object) in definitions.into_iter().zip([OLDEST, SINGLE, NEWEST]) {
        plane.kubectl(&["delete", "crd", "variantautoscalings.llmd.ai"]);
        sidecar.variant_gone("llama").await;
        define(&plane, definition);
        plane.apply(object);
        sidecar.variant_where("llama", |it| it["accelerator"] == "A100").await;
        sidecar.report("llama", "model-of-llama", 2, BUSY).await;
        let status =
            status_where(&plane, "llama", |it| it["desiredOptimizedAlloc"]["numReplicas"] == 3).await;
        assert!(is(&status, "OptimizationReady", "True", "OptimizationSucceeded"), "{status:#}");
        let desired = &status["desiredOptimizedAlloc"];
        match object {
            OLDEST => {
                let current = &status["currentAlloc"];
                assert_eq!(
                    (&current["numReplicas"], &current["maxBatch"]),
                    (&json!(2), &json!(4)),
                    "{status:#}"
                );
                assert_eq!(current["accelerator"], "A100");
                assert!(current["load"]["arrivalRate"].is_string() && current["ttftAverage"].is_string());
                assert_eq!((&desired["accelerator"], &desired["lastUpdate"]), (&json!("A100"), &Value::Null));
            }
            SINGLE => {
                assert_eq!(status["currentAlloc"], json!({"numReplicas": 2}));
                assert!(desired["lastUpdate"]["reason"].is_string(), "{status:#}");
            }
            _ => {
                assert_eq!(status["currentAlloc"], Value::Null);
                assert_eq!(desired["accelerator"], "A100");
            }
        }
    }
    assert_eq!(sidecar.process.lines("cannot be written"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_shapes_live_side_by_side_in_our_definition() {
    let Some(plane) = plane(OWN_DEFINITION).await else { return };
    let named = |yaml: &str, name: &str| yaml.replace("name: llama", &format!("name: {name}"));
    for (name, yaml) in [("oldest", OLDEST), ("single", SINGLE), ("newest", NEWEST)] {
        deployment(&plane, name, 1, 1);
        plane.apply(&named(yaml, name));
    }
    let sidecar = Sidecar::start(&plane, &[]).await;
    for name in ["oldest", "single", "newest"] {
        sidecar.variant_where(name, |it| it["modelId"] == "model-of-llama").await;
        sidecar.report(name, "model-of-llama", 1, IDLE).await;
    }
    for name in ["oldest", "single", "newest"] {
        let status =
            status_where(&plane, name, |it| is(it, "MetricsAvailable", "True", "MetricsFound")).await;
        assert_eq!(status["currentAlloc"]["accelerator"], "A100", "{status:#}");
        assert_eq!(status["currentAlloc"]["numReplicas"], 1, "{status:#}");
    }
}
