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
    assert!(message.contains("Not in force: spec.maxReplicas"), "{message}");
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
