//! Who writes, and what besides status: leadership, Events, scale targets.

use crate::control_plane::{ADMIN_TOKEN, ControlPlane, Wanted};
use crate::world::*;
use serde_json::Value;
use std::time::Duration;

async fn plane() -> Option<ControlPlane> {
    let plane = ControlPlane::start(Wanted::default()).await?;
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    define(&plane, OWN_DEFINITION);
    Some(plane)
}

const QUICK: [&str; 6] =
    ["--lease-duration", "3s", "--lease-renew-deadline", "2s", "--lease-retry-period", "300ms"];

/// Waits until the sidecar leads or not.
async fn leads(sidecar: &Sidecar, whether: bool) {
    let wanted = f64::from(u8::from(whether));
    wait_for(&format!("leadership {whether}"), async || {
        (sidecar.metric("inferno_sidecar_leader").await == Some(wanted)).then_some(())
    })
    .await;
}

fn desired(plane: &ControlPlane, name: &str) -> String {
    let path = "jsonpath={.status.desiredOptimizedAlloc.numReplicas}";
    plane.kubectl(&["get", "va", "-n", "llm", name, "-o", path])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_instances_writes_and_the_other_takes_over() {
    let Some(plane) = plane().await else { return };
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    let mut first = Sidecar::start(&plane, &QUICK).await;
    leads(&first, true).await;
    let mut second = Sidecar::start(&plane, &QUICK).await;
    second.synced().await;
    // Both decide and serve.
    for sidecar in [&first, &second] {
        sidecar.report("llama", "model-of-llama", 2, BUSY).await;
        sidecar.variant_where("llama", |it| it["decision"]["desired"] == 3).await;
    }
    wait_for("the leader's status", async || (desired(&plane, "llama") == "3").then_some(())).await;
    assert_eq!(second.metric("inferno_sidecar_leader").await, Some(0.0));
    assert_eq!(second.metric("inferno_sidecar_status_writes_total").await, None);

    let began = std::time::Instant::now();
    first.process.kill();
    leads(&second, true).await;
    crate::say!(
        "the other instance leads {:.1} s after a kill, with a Lease of 3 s",
        began.elapsed().as_secs_f64()
    );
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
    wait_for("the new leader's status", async || (desired(&plane, "llama") == "3").then_some(())).await;

    // One that ends in good order gives the Lease back: nobody waits for its end.
    let third = Sidecar::start(&plane, &["--lease-duration", "600s", "--lease-retry-period", "200ms"]).await;
    third.synced().await;
    second.process.terminate();
    let began = std::time::Instant::now();
    leads(&third, true).await;
    crate::say!("the next one leads {:.1} s after an orderly end", began.elapsed().as_secs_f64());
    let second = third;

    // Somebody else has the Lease: writing ends.
    plane.kubectl(&[
        "patch",
        "lease",
        "-n",
        HOME,
        "inferno-sidecar",
        "--type=merge",
        "-p",
        r#"{"spec":{"holderIdentity":"somebody-else","leaseDurationSeconds":600}}"#,
    ]);
    leads(&second, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_and_mistakes_become_events_that_count() {
    let Some(plane) = plane().await else { return };
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    let sidecar = Sidecar::start(&plane, &[]).await;
    leads(&sidecar, true).await;
    sidecar.report("llama", "model-of-llama", 2, IDLE).await;
    sidecar.variant_where("llama", |it| it["decision"]["desired"].is_u64()).await;
    let events = |reason: &str| -> Vec<Value> {
        let text = plane.kubectl(&["get", "events.events.k8s.io", "-n", "llm", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
        let items = list["items"].as_array().expect("a list").iter();
        items.filter(|event| event["reason"] == reason).cloned().collect()
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    sidecar.report("llama", "model-of-llama", 2, BUSY).await;
    let up = wait_for("an Event about the decision", async || events("ScaleUp").first().cloned()).await;
    assert_eq!((&up["type"], &up["regarding"]["kind"]), (&"Normal".into(), &"VariantAutoscaling".into()));
    let note = up["note"].as_str().expect("a text");
    assert!(note.contains("desired replicas") && note.contains("2 of 2 replicas are saturated"), "{note}");
    let shown = plane.kubectl(&["describe", "va", "-n", "llm", "llama"]);
    assert!(shown.contains("ScaleUp"), "{shown}");

    status(&plane, "llama", 3, 3);
    plane.apply(&pod_yaml("llama", 2));
    sidecar.report("llama", "model-of-llama", 3, BUSY).await;
    let again = wait_for("the same Event, counted", async || {
        events("ScaleUp").first().filter(|event| event["series"]["count"] == 2).cloned()
    })
    .await;
    assert_eq!(events("ScaleUp").len(), 1, "{again:#}");

    plane.apply(&variant_yaml("llama", "  maxReplicas: 2000000\n"));
    let mistake =
        wait_for("an Event about the mistake", async || events("InvalidConfiguration").first().cloned())
            .await;
    assert_eq!(mistake["type"], "Warning");
    assert!(mistake["note"].as_str().expect("a text").contains("spec.maxReplicas"), "{mistake:#}");
}

fn replicas(plane: &ControlPlane, name: &str) -> String {
    plane.kubectl(&["get", "deployment", "-n", "llm", name, "-o", "jsonpath={.spec.replicas}"])
}

async fn replicas_are(plane: &ControlPlane, name: &str, wanted: &str) {
    wait_for(&format!("{wanted} replicas of {name}"), async || {
        (replicas(plane, name) == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_scales_directly_within_its_guards() {
    let Some(plane) = plane().await else { return };
    deployment(&plane, "llama", 2, 2);
    plane.apply(&variant_yaml("llama", "  minReplicas: 1\n  maxReplicas: 3\n"));
    let sidecar = Sidecar::start(&plane, &["--actuation", "direct"]).await;
    leads(&sidecar, true).await;
    sidecar.report("llama", "model-of-llama", 2, BUSY).await;
    replicas_are(&plane, "llama", "3").await;
    // Two serve and one is starting: nothing is taken back, although there is nothing to do.
    status(&plane, "llama", 3, 2);
    sidecar.report("llama", "model-of-llama", 2, IDLE).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(replicas(&plane, "llama"), "3");

    // Where an autoscaler scales, it is left to it.
    deployment(&plane, "granite", 1, 1);
    plane.apply(&variant_yaml("granite", "  maxReplicas: 3\n"));
    plane.apply(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: granite, namespace: llm}\n\
         spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: granite}, maxReplicas: 2}\n",
    );
    sidecar.variant_where("granite", |it| it["maxReplicas"] == 2).await;
    sidecar.report("granite", "model-of-granite", 1, BUSY).await;
    sidecar.variant_where("granite", |it| it["decision"]["desired"] == 2).await;
    sidecar.process.line("is scaled by an autoscaler already").await;
    assert_eq!(replicas(&plane, "granite"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_first_replica_is_started_when_requests_wait() {
    let Some(plane) = plane().await else { return };
    for (name, cost) in [("cheap", "10"), ("dear", "50")] {
        deployment(&plane, name, 0, 0);
        let more = format!("  variantCost: \"{cost}\"\n  minReplicas: 0\n  maxReplicas: 3\n");
        plane.apply(&variant_yaml(name, &more).replace(&format!("model-of-{name}"), "granite"));
    }
    plane.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: model-scale-to-zero-config, namespace: {HOME}}}\n\
         data:\n  default: |\n    enable_scale_to_zero: true\n    retention_period: 10m\n"
    ));
    let sidecar = Sidecar::start_as(&plane, ADMIN_TOKEN, &["--actuation", "from-zero-only"]).await;
    leads(&sidecar, true).await;
    sidecar.variant_where("cheap", |_| true).await;
    let held = |requests: f64| {
        let labels = [
            ("__name__", "llm_d_epp_flow_control_queue_size"),
            ("target_model_name", "granite"),
            ("model_name", "granite"),
            ("namespace", "llm"),
            ("pod", "scheduler-0"),
        ];
        vec![series(&labels, now_ms(), requests)]
    };
    sidecar.write(held(0.0)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(replicas(&plane, "cheap"), "0");
    let began = std::time::Instant::now();
    sidecar.write(held(4.0)).await;
    replicas_are(&plane, "cheap", "1").await;
    crate::say!("from zero {:.0} ms after the queue's sample", began.elapsed().as_secs_f64() * 1000.0);
    assert_eq!(replicas(&plane, "dear"), "0");
}
