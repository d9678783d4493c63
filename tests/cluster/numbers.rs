//! What it costs: a large cluster is mirrored, a ConfigMap changes, load steps, and nothing happens. Prints
//! what it measures. `cargo test --test cluster -- --ignored --nocapture`.

use crate::control_plane::{ADMIN_TOKEN, ControlPlane, Wanted, http_get};
use crate::world::*;
use futures_util::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const VARIANTS: usize = 1_000;
const PODS_PER_VARIANT: usize = 10;
/// Requests under way while the cluster is filled.
const PARALLEL: usize = 32;

fn resource(kind: &str, group: &str, version: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

async fn create_all(client: &kube::Client, resource: &ApiResource, objects: Vec<Value>) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "llm", resource);
    let made = futures_util::stream::iter(objects).map(|object| {
        let api = api.clone();
        async move {
            let object: DynamicObject = serde_json::from_value(object).expect("an object");
            api.create(&PostParams::default(), &object).await.expect("it can be made")
        }
    });
    made.buffer_unordered(PARALLEL).for_each(|_| std::future::ready(())).await;
}

/// A pod as large as they usually are.
fn pod(variant: usize, number: usize) -> Value {
    let name = pod_name(&format!("v{variant}"), number);
    let environment: Vec<Value> = (0..40)
        .map(|at| json!({"name": format!("SETTING_{at}"), "value": "a value of some length"}))
        .collect();
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("v{variant}-7d9c5b8f6d"),
        "controller": true, "uid": "1"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "llm", "labels": {"pod-template-hash": "7d9c5b8f6d"},
            "ownerReferences": [owner]},
        "spec": {"containers": [{"name": "vllm", "image": "vllm", "env": environment}]},
    })
}

fn deployment(variant: usize) -> Value {
    let name = format!("v{variant}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "llm"},
        "spec": {"replicas": PODS_PER_VARIANT, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "vllm", "image": "vllm",
                "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}},
    })
}

async fn fill(plane: &ControlPlane) {
    let client = plane.client(ADMIN_TOKEN).await;
    let variants = (0..VARIANTS).map(|at| {
        let name = format!("v{at}");
        json!({"apiVersion": "llmd.ai/v1alpha1", "kind": "VariantAutoscaling",
            "metadata": {"name": name, "namespace": "llm",
                "labels": {"inference.optimization/acceleratorName": "H100"}},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "modelID": format!("model-of-{name}"), "variantCost": "10.0", "maxReplicas": 100}})
    });
    create_all(&client, &resource("VariantAutoscaling", "llmd.ai", "v1alpha1"), variants.collect()).await;
    let deployments = resource("Deployment", "apps", "v1");
    create_all(&client, &deployments, (0..VARIANTS).map(deployment).collect()).await;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "llm", &deployments);
    let running = json!({"status": {"replicas": PODS_PER_VARIANT, "readyReplicas": PODS_PER_VARIANT}});
    let patched = futures_util::stream::iter(0..VARIANTS).map(|at| {
        let (api, patch) = (api.clone(), Patch::Merge(running.clone()));
        async move {
            let patched = api.patch_status(&format!("v{at}"), &PatchParams::default(), &patch).await;
            patched.expect("it can be changed")
        }
    });
    patched.buffer_unordered(PARALLEL).for_each(|_| std::future::ready(())).await;
    let pods = (0..VARIANTS).flat_map(|at| (0..PODS_PER_VARIANT).map(move |number| pod(at, number)));
    create_all(&client, &resource("Pod", "", "v1"), pods.collect()).await;
}

/// Requests that the API server has counted, by a part of their labels.
async fn requests(plane: &ControlPlane, parts: &[&str]) -> f64 {
    let text = plane.client(ADMIN_TOKEN).await.request_text(http_get("/metrics")).await.expect("metrics");
    let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
    let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// One sample of each signal for every pod.
async fn report_all(sidecar: &Sidecar, load: Load) {
    let now = now_ms();
    let mut all = Vec::new();
    for variant in 0..VARIANTS {
        let model = format!("model-of-v{variant}");
        for number in 0..PODS_PER_VARIANT {
            let pod = pod_name(&format!("v{variant}"), number);
            for (metric, value) in [
                ("vllm:kv_cache_usage_perc", load.kv_cache),
                ("vllm:num_requests_waiting", load.waiting),
                ("vllm:num_requests_running", load.running),
            ] {
                let labels =
                    [("__name__", metric), ("model_name", &*model), ("namespace", "llm"), ("pod", &*pod)];
                all.push(series(&labels, now, value));
            }
        }
    }
    sidecar.write(all).await;
}

async fn count(sidecar: &Sidecar, condition: &str) -> usize {
    let query = crate::client::form(&[("query", &format!("count(inferno_desired_replicas{condition})"))]);
    let answer = sidecar.get(&format!("/api/v1/query?{query}")).await;
    if answer.status != 200 {
        return 0;
    }
    let value = answer.json()["data"]["result"][0]["value"][1].clone();
    value.as_str().and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn writes(sidecar: &Sidecar) -> f64 {
    sidecar.metric("inferno_sidecar_status_writes_total{outcome=\"written\"}").await.unwrap_or(0.0)
}

/// Waits until no status has been written for a while.
async fn quiet(sidecar: &Sidecar) -> f64 {
    let (mut last, mut since) = (writes(sidecar).await, Instant::now());
    while since.elapsed() < Duration::from_secs(8) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = writes(sidecar).await;
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[ignore = "measures; takes minutes"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_cluster() {
    let Some(plane) = ControlPlane::start(Wanted::default()).await else { return };
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    define(&plane, OWN_DEFINITION);
    let idle = Sidecar::start(&plane, &["--leader-elect", "false", "--write-status", "false"]).await;
    idle.synced().await;
    let empty_kib = idle.process.resident_kib();
    drop(idle);
    let began = Instant::now();
    fill(&plane).await;
    crate::say!("cluster filled in {:.0} s", began.elapsed().as_secs_f64());

    let sidecar = Sidecar::start(&plane, &[]).await;
    sidecar.synced().await;
    wait_for("a configuration", async || sidecar.metric("inferno_sidecar_config_applied_total").await).await;
    let sync = sidecar.metric("inferno_sidecar_cluster_sync_seconds").await.unwrap_or(f64::NAN);
    let kib = sidecar.process.resident_kib();
    crate::say!(
        "initial sync of {VARIANTS} variants, {VARIANTS} Deployments and {} pods: {sync:.2} s; {} MiB resident, \
         {} MiB of an empty cluster",
        VARIANTS * PODS_PER_VARIANT,
        kib / 1024,
        empty_kib / 1024
    );
    wait_for("leadership", async || {
        (sidecar.metric("inferno_sidecar_leader").await == Some(1.0)).then_some(())
    })
    .await;
    let first = quiet(&sidecar).await;
    crate::say!("first statuses: {first}");
    assert_eq!(first, VARIANTS as f64);

    // A load step: at most one write each.
    report_all(&sidecar, IDLE).await;
    wait_for("decisions", async || (count(&sidecar, " >= 0").await == VARIANTS).then_some(())).await;
    let before = quiet(&sidecar).await;
    let patches = requests(&plane, &["resource=\"variantautoscalings\"", "subresource=\"status\""]).await;
    let began = Instant::now();
    report_all(&sidecar, BUSY).await;
    sidecar.variant_where("v999", |it| it["decision"]["desired"] == 11).await;
    wait_for("the step's decisions", async || (count(&sidecar, " == 11").await == VARIANTS).then_some(()))
        .await;
    let decided = began.elapsed();
    let after = quiet(&sidecar).await;
    let patched =
        requests(&plane, &["resource=\"variantautoscalings\"", "subresource=\"status\""]).await - patches;
    crate::say!(
        "a load step over {VARIANTS} variants: decided after {:.0} ms, {} statuses written, {patched} requests",
        decided.as_secs_f64() * 1000.0,
        after - before
    );
    assert!(after - before <= VARIANTS as f64 && patched <= VARIANTS as f64, "at most one each");

    config_map(&plane, &sidecar).await;
    steady(&plane, &sidecar).await;
    crate::say!("resident at the end: {} MiB", sidecar.process.resident_kib() / 1024);
}

/// One changed ConfigMap, from the request to the last of a thousand decisions.
async fn config_map(plane: &ControlPlane, sidecar: &Sidecar) {
    let client = plane.client(ADMIN_TOKEN).await;
    let api: Api<DynamicObject> = Api::namespaced_with(client, HOME, &resource("ConfigMap", "", "v1"));
    let mut threshold = 0.5;
    let map = |kv: f64| -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "saturation-scaling-config"},
            "data": {"default": format!("kvCacheThreshold: {kv}\n")}}))
        .expect("an object")
    };
    api.create(&PostParams::default(), &map(threshold)).await.expect("it can be made");
    let mut took = Vec::new();
    for _ in 0..5 {
        threshold += 0.05;
        let params = PatchParams::apply("test").force();
        let began = Instant::now();
        let patch = Patch::Apply(map(threshold));
        api.patch("saturation-scaling-config", &params, &patch).await.expect("it can be changed");
        let answered = began.elapsed();
        // The last of all is in force when all are: one publication.
        loop {
            let seen = sidecar.variant(&format!("v{}", VARIANTS - 1)).await.expect("it is there");
            let in_force = seen["decision"]["thresholds"]["kvCacheThreshold"].as_f64().unwrap_or(0.0);
            if (in_force - threshold).abs() < 1e-9 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push((answered, began.elapsed()));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for (answered, all) in took {
        crate::say!(
            "a ConfigMap changed: API server answered after {:.0} ms, {VARIANTS} decisions after {:.0} ms",
            answered.as_secs_f64() * 1000.0,
            all.as_secs_f64() * 1000.0
        );
    }
}

async fn steady(plane: &ControlPlane, sidecar: &Sidecar) {
    quiet(sidecar).await;
    let lists = async || {
        let mut sum = 0.0;
        for resource in ["variantautoscalings", "deployments", "pods", "configmaps", "nodes", "namespaces"] {
            sum += requests(plane, &["verb=\"LIST\"", &format!("resource=\"{resource}\"")]).await;
        }
        sum
    };
    let (before, all) = (lists().await, requests(plane, &[]).await);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        report_all(sidecar, BUSY).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    crate::say!(
        "a minute of steady load: {} list requests, {} requests of all kinds (the API server's own and renewals of the \
         Lease among them)",
        lists().await - before,
        requests(plane, &[]).await - all
    );
    assert_eq!(lists().await, before, "no lists in steady state");
}
