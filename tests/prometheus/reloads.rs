//! The configuration changes while everything runs.

use crate::configuration::document;
use crate::stack::Sidecar;
use crate::{L40S, SOON, World, keda_asks, keda_query, llama_query, number, wait_for};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::Value;
use std::time::Instant;

const QWEN: &str = "/api/v1/variants/llm/qwen-14b-h100";
const LLAMA: &str = "/api/v1/variants/llm/llama-8b-l40s";

/// Waits until `pointer` in the JSON of a variant is `wanted`; returns after how many milliseconds.
async fn seen_after(sidecar: &Sidecar, path: &str, pointer: &str, wanted: Value) -> u128 {
    let begun = Instant::now();
    wait_for(&format!("{pointer} = {wanted}"), SOON, async || {
        (sidecar.get(path).await.json().pointer(pointer) == Some(&wanted)).then_some(())
    })
    .await;
    begun.elapsed().as_millis()
}

/// Waits until as many problems are listed and counted; returns the list.
async fn problems(sidecar: &Sidecar, wanted: usize) -> Vec<Value> {
    wait_for(&format!("{wanted} problems"), SOON, async || {
        let board = sidecar.get("/api/v1/variants").await.json();
        let problems = board["problems"].as_array().expect("problems are listed").clone();
        let metrics = sidecar.get("/metrics").await;
        let counted = format!("\ninferno_sidecar_config_problems {wanted}\n");
        (problems.len() == wanted && metrics.text().contains(&counted)).then_some(problems)
    })
    .await
}

/// A file renamed over the old one, a broken one, and a remounted ConfigMap.
pub async fn files_change_in_every_way(world: &World) {
    let (config, sidecar) = (&world.config, &world.sidecar);
    let desired = number(&keda_asks(sidecar.address, &llama_query()).await.unwrap());

    let thresholds = config.read("thresholds.yaml");
    config.replace(
        "thresholds.yaml",
        &thresholds.replace("queueLengthThreshold: 5", "queueLengthThreshold: 6"),
    );
    let took = seen_after(sidecar, LLAMA, "/decision/thresholds/queueLengthThreshold", 6.0.into()).await;
    say!("file renamed -> decision with the new threshold: {took} ms");
    assert!(took < 1000, "{took} ms");

    config.overwrite("thresholds.yaml", "kind: ConfigMap\n  broken: [\n");
    let listed = problems(sidecar, 1).await;
    assert!(listed[0].to_string().contains("thresholds.yaml"), "{listed:?}");
    let variant = sidecar.get(LLAMA).await.json();
    assert_eq!(variant["decision"]["thresholds"]["queueLengthThreshold"], 6.0, "the last good one stays");

    let qwen = document("name: qwen-14b-h100\n");
    config.remount(2, &qwen.replace("maxReplicas: 6", "maxReplicas: 7"));
    let took = seen_after(sidecar, QWEN, "/maxReplicas", 7.into()).await;
    say!("ConfigMap remounted -> decision with the new bound: {took} ms");
    assert!(took < 1000, "{took} ms");
    problems(sidecar, 1).await;

    config.overwrite("thresholds.yaml", &thresholds);
    problems(sidecar, 0).await;
    let variant = sidecar.get(LLAMA).await.json();
    assert_eq!(variant["decision"]["thresholds"]["queueLengthThreshold"], 5.0);
    assert_eq!(number(&keda_asks(sidecar.address, &llama_query()).await.unwrap()), desired);
}

/// At any time exactly one series, here and in Prometheus.
pub async fn an_accelerator_changes(world: &World) {
    let query = "inferno_desired_replicas{variant_name=\"llama-8b-h100\"}";
    let before = keda_asks(world.sidecar.address, query).await.unwrap();
    let before = number(&before);
    world.config.replace("h100.yaml", &world.config.read("h100.yaml").replace(": H100", ": A100"));
    wait_for("the new accelerator", SOON, async || {
        let answer = keda_asks(world.sidecar.address, query).await.unwrap();
        assert_eq!(number(&answer), before, "one series, and the count stays");
        answer.text().contains("\"accelerator_type\":\"A100\"").then_some(())
    })
    .await;
    let old = keda_query("llama-8b-h100", "H100", "meta-llama/Llama-3.1-8B-Instruct");
    let new = keda_query("llama-8b-h100", "A100", "meta-llama/Llama-3.1-8B-Instruct");
    assert_eq!(number(&keda_asks(world.sidecar.address, &new).await.unwrap()), before);
    let answer = keda_asks(world.sidecar.address, &old).await.unwrap();
    assert_eq!(answer.json()["data"]["result"], serde_json::json!([]));
    wait_for("the new accelerator in Prometheus", SOON, async || {
        let vector = world.prometheus.query(query).await?;
        assert_eq!(vector.len(), 1, "{vector:?}");
        (vector[0]["metric"]["accelerator_type"] == "A100").then_some(())
    })
    .await;
}

/// Its series are gone as soon as the deletion is in force, and nobody else's are touched.
pub async fn a_variant_is_deleted(world: &World) {
    let sidecar = &world.sidecar;
    world.config.remove("h100.yaml");
    let reload = Request::builder().method(Method::POST).uri("/-/reload").body(Body::empty()).unwrap();
    let answer = crate::client::send(sidecar.address, reload).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let metrics = sidecar.get("/metrics").await;
    assert!(!metrics.text().contains("llama-8b-h100"), "series of a deleted variant");
    assert_eq!(sidecar.get("/api/v1/variants/llm/llama-8b-h100").await.status, StatusCode::NOT_FOUND);
    // Prometheus was killed before, so it still shows what it could not end then, such as other reasons of
    // `inferno_input_healthy`; of what was live until now nothing may remain.
    let query = "{__name__=~\"(inferno|wva)_(desired|current)_.*\",variant_name=\"llama-8b-h100\"}";
    wait_for("the deletion in Prometheus", SOON, async || {
        let vector = world.prometheus.query(query).await?;
        vector.is_empty().then_some(())
    })
    .await;
    // Its pods still run; they must not be taken for those of the model's other variant.
    let variant = sidecar.get(LLAMA).await.json();
    let reporting = variant["decision"]["reporting"].as_u64().expect("a decision");
    assert!(reporting <= u64::from(world.cluster.status(L40S).current), "{variant}");
    assert_eq!(variant["input"]["joinedBy"]["owner_series"], reporting, "{variant}");
    world.monitor.assert_no_complaint();
}
