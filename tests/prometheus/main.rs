//! The whole system with the real Prometheus: it scrapes an emulated cluster, remote-writes into the built
//! sidecar, scrapes the decisions back, and both are killed and restarted while it runs.
//!
//! One test, because the stages build on one running system; it prints the delays that it saw.

#[path = "../support/client.rs"]
mod client;
mod cluster;
mod process;
mod stack;

use axum::http::StatusCode;
use client::{Answer, form, get, post_form, vector};
use cluster::{Cluster, now};
use serde_json::Value;
use stack::{Prometheus, Sidecar, has_prometheus};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const L40S: &str = "llama-8b-l40s";

/// The query of the sample ScaledObject, line breaks included.
fn keda_query(variant: &str, accelerator: &str, model: &str) -> String {
    format!(
        "inferno_desired_replicas{{\n  variant_name=\"{variant}\",\n  exported_namespace=\"llm\",\n  \
         accelerator_type=\"{accelerator}\",\n  variant_id=\"{model}-{accelerator}-1\"\n}}\n"
    )
}

fn llama_query() -> String {
    keda_query(L40S, "L40S", "meta-llama/Llama-3.1-8B-Instruct")
}

/// The present time as KEDA writes it: UTC, whole seconds.
fn rfc3339_now() -> String {
    jiff::Timestamp::from_second(now().0 / 1000).expect("the present is a valid time").to_string()
}

/// Asks the sidecar as KEDA does.
async fn keda_asks(sidecar: SocketAddr, query: &str) -> Result<Answer, String> {
    let pairs = form(&[("query", query), ("time", &rfc3339_now())]);
    get(sidecar, &format!("/api/v1/query?{pairs}")).await
}

fn value_of(element: &Value) -> u32 {
    let text = element["value"][1].as_str().unwrap_or_else(|| panic!("the value is not quoted: {element}"));
    text.parse().unwrap_or_else(|_| panic!("{text} is no count"))
}

/// The only number in an answer with 200.
fn number(answer: &Answer) -> u32 {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let vector = vector(answer);
    assert_eq!(vector.len(), 1, "{vector:?}");
    value_of(&vector[0])
}

/// Waits until `probe` gives something.
async fn wait_for<T>(what: &str, max: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + max;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < until, "not seen within {max:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const SOON: Duration = Duration::from_secs(30);

struct World {
    cluster: Cluster,
    config: TempDir,
    data: TempDir,
    sidecar: Sidecar,
    prometheus: Prometheus,
    /// Whether decisions are carried out.
    hpa: Arc<AtomicBool>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_streams_in_and_decisions_come_out() {
    if !has_prometheus() {
        return;
    }
    let started = Instant::now();
    let mut world = start().await;
    load_step_raises_the_desired_count(&world).await;
    println!("whole test: {:.1} s", started.elapsed().as_secs_f64());
    world.sidecar.process.assert_running();
    world.prometheus.process.assert_running();
}

fn write_config(dir: &Path) {
    let text = include_str!("../../config/demo.yaml");
    std::fs::write(dir.join("demo.yaml"), text).expect("the folder is ours");
}

/// Starts everything and waits for the first decisions.
async fn start() -> World {
    let cluster = Cluster::start().await;
    let config = tempfile::tempdir().expect("a temporary folder can be made");
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    write_config(config.path());
    let sidecar = Sidecar::start(SocketAddr::from(([127, 0, 0, 1], 0)), config.path()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("idle sidecar: {} KiB resident", sidecar.process.resident_kib());
    assert_eq!(sidecar.get("/-/healthy").await.status, StatusCode::OK);
    assert_eq!(sidecar.get("/-/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let early = keda_asks(sidecar.address, &llama_query()).await.unwrap();
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE, "{}", early.text());
    assert_eq!(early.json()["status"], "error");

    let begun = Instant::now();
    let prometheus = Prometheus::start(data.path(), &cluster, sidecar.address, "1s").await;
    wait_for("readiness", SOON, async || {
        (sidecar.get("/-/ready").await.status == StatusCode::OK).then_some(())
    })
    .await;
    println!("ready {:.1} s after Prometheus's start", begun.elapsed().as_secs_f64());
    wait_for("a decision for each variant", SOON, async || {
        let answer = sidecar.get("/api/v1/query?query=inferno_desired_replicas").await;
        // Warming up is an error, never a vector with variants missing.
        match answer.status {
            StatusCode::OK => {
                assert_eq!(vector(&answer).len(), 3, "{}", answer.text());
                Some(())
            }
            status => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
                None
            }
        }
    })
    .await;
    let hpa = Arc::new(AtomicBool::new(true));
    tokio::spawn(apply_decisions(cluster.clone(), sidecar.address, hpa.clone()));
    World { cluster, config, data, sidecar, prometheus, hpa }
}

/// What an HPA does, only faster.
async fn apply_decisions(cluster: Cluster, sidecar: SocketAddr, enabled: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if !enabled.load(Ordering::Relaxed) {
            continue;
        }
        let Ok(answer) = get(sidecar, "/api/v1/query?query=inferno_desired_replicas").await else { continue };
        if answer.status == StatusCode::OK {
            for element in vector(&answer) {
                let name =
                    element["metric"]["variant_name"].as_str().expect("every series names its variant");
                cluster.scale(name, value_of(&element));
            }
        }
    }
}

async fn load_step_raises_the_desired_count(world: &World) {
    let (sidecar, prometheus) = (&world.sidecar, &world.prometheus);
    let query = llama_query();
    let asked = form(&[("query", &query), ("time", &rfc3339_now())]);
    for answer in [
        keda_asks(sidecar.address, &query).await.unwrap(),
        get(sidecar.address, &format!("//api/v1/query?{asked}")).await.unwrap(),
        post_form(sidecar.address, "/api/v1/query", asked.clone()).await.unwrap(),
    ] {
        assert_eq!(number(&answer), 1);
        let element = &vector(&answer)[0];
        assert_eq!(element["metric"]["exported_namespace"], "llm");
        assert_eq!(element["metric"]["namespace"], "llm");
    }
    let element = wait_for("the gauge in Prometheus", SOON, async || {
        let vector = prometheus.query(&query).await?;
        assert!(vector.len() <= 1, "{vector:?}");
        vector.into_iter().next()
    })
    .await;
    assert_eq!(value_of(&element), 1);
    assert_eq!(element["metric"]["exported_namespace"], "llm");
    assert_eq!(element["metric"]["namespace"], "monitoring");

    let step = now();
    world.cluster.dial.turn(3000, 600);
    let (decided, desired) = wait_for("a higher desired count", SOON, async || {
        let desired = number(&keda_asks(sidecar.address, &query).await.unwrap());
        (desired > 1).then(|| (now(), desired))
    })
    .await;
    assert_eq!(desired, 2, "one more at a time");
    let variant = sidecar.get("/api/v1/variants/llm/llama-8b-l40s").await.json();
    let cause = variant["decision"]["previous"]["changedAtMs"].as_i64().expect("a change has its time");
    wait_for("the higher count in Prometheus", SOON, async || {
        let vector = prometheus.query(&query).await?;
        assert_eq!(vector.len(), 1, "{vector:?}");
        (value_of(&vector[0]) > 1).then_some(())
    })
    .await;
    let scraped = now();
    let first = first_sample_above(prometheus, 5.0).await;
    println!("load step -> first sample that shows it: {} ms", first - step.0);
    println!("that sample's time -> decision readable: {} ms", decided.0 - first);
    println!("sample that caused the decision -> decision readable: {} ms", decided.0 - cause);
    println!("load step -> decision readable: {} ms", decided.since(step));
    println!("decision readable -> same number in Prometheus: {} ms", scraped.since(decided));
    assert!(decided.0 - first < 3_000, "a second's batch deadline does not explain this delay");

    wait_for("a second replica that serves", SOON, async || {
        (world.cluster.status(L40S).ready >= 2).then_some(())
    })
    .await;
    wait_for("a third one wanted", SOON, async || {
        (number(&keda_asks(sidecar.address, &query).await.unwrap()) >= 3).then_some(())
    })
    .await;
    println!("{}", sidecar.get("/api/v1/variants/llm/llama-8b-l40s").await.text());
}

/// Time of the first sample of waiting requests above `threshold`, in Prometheus's own storage, ms.
async fn first_sample_above(prometheus: &Prometheus, threshold: f64) -> i64 {
    let series = prometheus.query("vllm:num_requests_waiting{namespace=\"llm\"}[5m]").await.expect("stored");
    let samples = series.iter().flat_map(|series| series["values"].as_array().cloned().unwrap_or_default());
    samples
        .filter(|sample| sample[1].as_str().and_then(|text| text.parse::<f64>().ok()) > Some(threshold))
        .filter_map(|sample| sample[0].as_f64())
        .map(|seconds| (seconds * 1000.0).round() as i64)
        .min()
        .expect("a sample shows the step")
}
