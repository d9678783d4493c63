//! What the mirror takes in: every kind made, changed and deleted, definitions that come later, scope.

use crate::control_plane::{ControlPlane, Wanted};
use crate::world::*;
use serde_json::json;

async fn plane() -> Option<ControlPlane> {
    let plane = ControlPlane::start(Wanted::default()).await?;
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    Some(plane)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_followed_and_definitions_may_come_later() {
    let Some(plane) = plane().await else { return };
    deployment(&plane, "llama", 2, 1);
    let sidecar = Sidecar::start(&plane, &[]).await;
    sidecar.synced().await;
    assert!(sidecar.variant("llama").await.is_none());

    define(&plane, OWN_DEFINITION);
    plane.apply(&variant_yaml("llama", "  maxReplicas: 9\n"));
    let made = sidecar.variant_where("llama", |_| true).await;
    assert_eq!((&made["maxReplicas"], &made["cost"]), (&json!(9), &json!(10.0)));
    // Product and number of cards come from the pod template.
    assert_eq!(made["accelerator"], "NVIDIA-H100-80GB-HBM3", "{made:#}");
    assert_eq!(made["variantId"], "model-of-llama-NVIDIA-H100-80GB-HBM3-2");
    // Replicas are known, but decisions begin with the stream.
    assert_eq!(made["decision"], json!(null));

    sidecar.report("llama", "model-of-llama", 1, IDLE).await;
    let decided = sidecar.variant_where("llama", |it| it["decision"]["desired"].is_u64()).await;
    let decision = &decided["decision"];
    assert_eq!((&decision["current"], &decision["pending"]), (&json!(2), &json!(1)), "{decided:#}");
    assert_eq!(decision["currentFrom"], "scale target");
    assert_eq!(decided["input"]["joinedBy"], json!({"owner": 1}));
    status(&plane, "llama", 3, 3);
    sidecar.variant_where("llama", |it| it["decision"]["current"] == 3).await;

    configuration_follows(&plane, &sidecar).await;
    scalers_follow(&plane, &sidecar).await;

    plane.kubectl(&["delete", "pod", "-n", "llm", &pod_name("llama", 0), "--force", "--grace-period=0"]);
    sidecar.variant_where("llama", |it| it["decision"]["reporting"] == 0).await;
    plane.kubectl(&["delete", "va", "-n", "llm", "llama"]);
    sidecar.variant_gone("llama").await;
    plane.apply(&variant_yaml("llama", ""));
    sidecar.variant_where("llama", |_| true).await;
    plane.kubectl(&["delete", "crd", "variantautoscalings.llmd.ai"]);
    sidecar.variant_gone("llama").await;
}

async fn configuration_follows(plane: &ControlPlane, sidecar: &Sidecar) {
    let costs = |cost: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: accelerator-unit-costs, namespace: {HOME}}}\n\
             data:\n  H100: '{{\"device\": \"NVIDIA-H100-80GB-HBM3\", \"cost\": \"{cost}\"}}'\n"
        )
    };
    plane.apply(&costs("40"));
    // Two cards each, under the name that the table has for the product.
    sidecar.variant_where("llama", |it| it["cost"] == 80.0 && it["accelerator"] == "H100").await;
    plane.apply(&costs("50"));
    sidecar.variant_where("llama", |it| it["cost"] == 100.0).await;
    plane.kubectl(&["delete", "configmap", "-n", HOME, "accelerator-unit-costs"]);
    sidecar.variant_where("llama", |it| it["cost"] == 10.0).await;

    let thresholds = |namespace: &str, kv: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: saturation-scaling-config, namespace: {namespace}}}\n\
             data:\n  default: |\n    kvCacheThreshold: {kv}\n"
        )
    };
    let in_force = |threshold: f64| {
        move |it: &serde_json::Value| it["decision"]["thresholds"]["kvCacheThreshold"] == threshold
    };
    plane.apply(&thresholds(HOME, "0.7"));
    sidecar.variant_where("llama", in_force(0.7)).await;
    // A namespace's own counts only where the namespace is labelled for it.
    plane.apply(&thresholds("llm", "0.6"));
    plane.apply(&thresholds(HOME, "0.75"));
    sidecar.variant_where("llama", in_force(0.75)).await;
    plane.kubectl(&["label", "namespace", "llm", "wva.llmd.ai/config-enabled=true"]);
    sidecar.variant_where("llama", in_force(0.6)).await;
    plane.kubectl(&["label", "namespace", "llm", "wva.llmd.ai/config-enabled-"]);
    sidecar.variant_where("llama", in_force(0.75)).await;

    plane.kubectl(&["annotate", "namespace", "llm", "wva.llmd.ai/exclude=true"]);
    sidecar.variant_gone("llama").await;
    plane.kubectl(&["annotate", "namespace", "llm", "wva.llmd.ai/exclude-"]);
    sidecar.variant_where("llama", |_| true).await;
}

async fn scalers_follow(plane: &ControlPlane, sidecar: &Sidecar) {
    let hpa = |name: &str, max: u32| {
        format!(
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\n\
             metadata:\n  name: {name}\n  namespace: llm\n  \
             annotations: {{llm-d.ai/managed: \"true\", llm-d.ai/model-id: granite}}\n\
             spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}, maxReplicas: {max}}}\n"
        )
    };
    plane.apply(&hpa("granite", 5));
    sidecar.variant_where("granite", |it| it["maxReplicas"] == 5 && it["minReplicas"] == 1).await;
    plane.apply(&hpa("granite", 6));
    sidecar.variant_where("granite", |it| it["maxReplicas"] == 6).await;
    plane.kubectl(&["delete", "hpa", "-n", "llm", "granite"]);
    sidecar.variant_gone("granite").await;

    // The object wins, and bounds of both hold.
    plane.apply(&hpa("llama", 4));
    sidecar.variant_where("llama", |it| it["maxReplicas"] == 4 && it["modelId"] == "model-of-llama").await;
    let problems = sidecar.problems().await;
    assert!(problems.contains("is claimed by VariantAutoscaling llm/llama"), "{problems}");
    plane.kubectl(&["delete", "hpa", "-n", "llm", "llama"]);
    sidecar.variant_where("llama", |it| it["maxReplicas"] == 9).await;

    define(plane, include_str!("crds/others.yaml"));
    plane.apply(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata:\n  name: qwen\n  namespace: llm\n  \
         annotations: {llm-d.ai/managed: \"true\", llm-d.ai/model-id: qwen}\n\
         spec: {scaleTargetRef: {kind: LeaderWorkerSet, name: qwen}, minReplicaCount: 0, maxReplicaCount: 3}\n",
    );
    sidecar.variant_where("qwen", |it| it["maxReplicas"] == 3).await;
    plane.apply(
        "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\nmetadata: {name: qwen, namespace: llm}\n\
         spec:\n  replicas: 2\n  leaderWorkerTemplate:\n    size: 4\n    workerTemplate:\n      spec:\n        \
         containers: [{name: vllm, resources: {limits: {nvidia.com/gpu: 8}}}]\n",
    );
    // A replica is a group.
    sidecar.variant_where("qwen", |it| it["variantId"] == "qwen-unknown-32").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_and_namespaces_keep_apart() {
    let Some(plane) = plane().await else { return };
    plane.kubectl(&["create", "namespace", "other"]);
    define(&plane, OWN_DEFINITION);
    plane.apply(&variant_yaml("mine", ""));
    plane.apply(&variant_yaml("theirs", ""));
    plane.apply(&variant_yaml("elsewhere", "").replace("namespace: llm", "namespace: other"));
    plane.apply(&variant_yaml("left-alone", ""));
    plane.kubectl(&["label", "va", "-n", "llm", "mine", "wva.llmd.ai/controller-instance=a"]);
    plane.kubectl(&["label", "va", "-n", "llm", "theirs", "wva.llmd.ai/controller-instance=b"]);
    plane.kubectl(&["annotate", "va", "-n", "llm", "left-alone", "wva.llmd.ai/exclude=true"]);

    let names = async |sidecar: &Sidecar| {
        sidecar.synced().await;
        wait_for("a configuration", async || sidecar.metric("inferno_sidecar_config_applied_total").await)
            .await;
        let variants = sidecar.get("/api/v1/variants").await.json();
        let names = variants["variants"].as_array().expect("a list").iter();
        names.map(|it| it["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let all = Sidecar::start(&plane, &[]).await;
    assert_eq!(names(&all).await, ["mine", "theirs", "elsewhere"]);
    let labelled = Sidecar::start(&plane, &["--controller-instance", "a"]).await;
    assert_eq!(names(&labelled).await, ["mine"]);
    let scoped = Sidecar::start(&plane, &["--namespaces", "other"]).await;
    assert_eq!(names(&scoped).await, ["elsewhere"]);

    labelled.report("mine", "model-of-mine", 1, IDLE).await;
    let metrics = labelled.get("/metrics").await;
    assert!(metrics.text().contains("controller_instance=\"a\""), "{}", metrics.text());
}
