//! The whole system with the real Prometheus: it scrapes an emulated cluster, remote-writes into the built
//! sidecar, scrapes the decisions back, and both are killed and restarted while it runs.
//!
//! The stages of a test build on one running system; it prints the delays that it saw. They are run with Debian's
//! Prometheus, which sends remote write 1.0, and with Prometheus 3, which sends 2.0.

/// Prints a line even when the test passes: what was measured is part of the result.
macro_rules! say {
    ($($arguments:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($arguments)*);
    }};
}

#[path = "../support/client.rs"]
mod client;
mod cluster;
mod configuration;
mod crashes;
mod load;
mod monitor;
#[path = "../support/process.rs"]
mod process;
mod reloads;
mod restart;
mod stack;
#[path = "../support/tools.rs"]
mod tools;

use axum::http::StatusCode;
use client::{Answer, form, get, vector};
use cluster::{Cluster, now};
use configuration::ConfigDir;
use monitor::Monitor;
use serde_json::Value;
use stack::{Prometheus, Release, Sidecar};
use std::net::SocketAddr;
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

/// One system at a time: two would slow each other down.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct World {
    release: Release,
    cluster: Cluster,
    config: ConfigDir,
    data: TempDir,
    sidecar: Sidecar,
    prometheus: Prometheus,
    monitor: Monitor,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_streams_in_and_decisions_come_out() {
    if let Some(release) = Release::packaged() {
        all_stages(release).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_3_streams_in_by_remote_write_2() {
    if let Some(release) = Release::built() {
        all_stages(release).await;
    }
}

async fn all_stages(release: Release) {
    let _turn = TURN.lock().await;
    let started = Instant::now();
    say!("with {release:?}");
    let mut world = start(release).await;
    load::a_step_raises_the_desired_count(&world).await;
    crashes::the_sidecar_dies_and_comes_back(&mut world).await;
    crashes::prometheus_dies(&mut world).await;
    reloads::files_change_in_every_way(&world).await;
    crashes::the_decision_is_held_without_input(&world).await;
    crashes::prometheus_comes_back(&mut world).await;
    reloads::an_accelerator_changes(&world).await;
    reloads::a_variant_is_deleted(&world).await;
    world.sidecar.process.assert_running();
    world.prometheus.process.assert_running();
    world.monitor.assert_no_complaint();
    say!("whole test: {:.1} s", started.elapsed().as_secs_f64());
    say!("sidecar after it: {} KiB resident", world.sidecar.process.resident_kib());
}

/// Starts everything and waits for the first decisions.
async fn start(release: Release) -> World {
    let cluster = Cluster::start().await;
    let config = ConfigDir::new();
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    let sidecar = Sidecar::start(SocketAddr::from(([127, 0, 0, 1], 0)), config.path()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    say!("idle sidecar: {} KiB resident", sidecar.process.resident_kib());
    assert_eq!(sidecar.get("/-/healthy").await.status, StatusCode::OK);
    assert_eq!(sidecar.get("/-/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let early = keda_asks(sidecar.address, &llama_query()).await.unwrap();
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE, "{}", early.text());
    assert_eq!(early.json()["status"], "error");

    let begun = Instant::now();
    let prometheus = Prometheus::start(&release, data.path(), &cluster, sidecar.address, "1s").await;
    wait_for("readiness", SOON, async || {
        (sidecar.get("/-/ready").await.status == StatusCode::OK).then_some(())
    })
    .await;
    say!("ready {:.1} s after Prometheus's start", begun.elapsed().as_secs_f64());
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
    tokio::spawn(apply_decisions(cluster.clone(), sidecar.address));
    let monitor = Monitor::start(sidecar.address);
    World { release, cluster, config, data, sidecar, prometheus, monitor }
}

/// What an HPA does, only faster.
async fn apply_decisions(cluster: Cluster, sidecar: SocketAddr) {
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
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
