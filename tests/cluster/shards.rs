//! Three instances share the models; a real Prometheus splits the stream between them.

use crate::control_plane::{ControlPlane, Wanted, free_addresses};
use crate::process::Process;
use crate::world::*;
use axum::Router;
use axum::routing::get;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

const MODELS: usize = 12;

/// What the pods of all models expose.
async fn exposition() -> String {
    let mut text = String::new();
    for model in 0..MODELS {
        for metric in ["vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:num_requests_running"] {
            text += &format!(
                "{metric}{{model_name=\"model-of-m{model}\",namespace=\"llm\",pod=\"{}\"}} 0.5\n",
                pod_name(&format!("m{model}"), 0)
            );
        }
    }
    // The model that serves counts, not the one that was asked for.
    for model in 0..MODELS {
        text += &format!(
            "llm_d_epp_flow_control_queue_size{{model_name=\"asked-for\",target_model_name=\"model-of-m{model}\",\
             namespace=\"llm\",pod=\"scheduler-0\"}} 1\n"
        );
    }
    text
}

async fn serve_exposition() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let router = Router::new().route("/metrics", get(exposition));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// The settings that the README shows, one entry per instance.
fn settings(pods: SocketAddr, sidecars: &[Sidecar]) -> String {
    let mut text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n  - job_name: vllm\n    honor_labels: true\n    \
         static_configs: [{{targets: [\"{pods}\"]}}]\nremote_write:\n"
    );
    for (index, sidecar) in sidecars.iter().enumerate() {
        let shard = format!("{index}/{}", sidecars.len());
        let output = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"))
            .args(["relabel", "--shard", &shard])
            .output()
            .expect("the sidecar runs");
        let rules = String::from_utf8(output.stdout).expect("the rules are UTF-8");
        let rules: String = rules.lines().map(|line| format!("      {line}\n")).collect();
        text += &format!(
            "  - url: http://{}/api/v1/write\n    queue_config: {{batch_send_deadline: 1s}}\n    \
             write_relabel_configs:\n{rules}",
            sidecar.address
        );
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_splits_the_stream_between_three_instances() {
    let Some(plane) = ControlPlane::start(Wanted::default()).await else { return };
    for namespace in [HOME, "llm"] {
        plane.kubectl(&["create", "namespace", namespace]);
    }
    define(&plane, OWN_DEFINITION);
    for model in 0..MODELS {
        let name = format!("m{model}");
        plane.apply(&variant_yaml(&name, ""));
        deployment(&plane, &name, 1, 1);
    }
    let mut sidecars = Vec::new();
    for index in 0..3 {
        sidecars.push(Sidecar::start(&plane, &["--shard", &format!("{index}/3")]).await);
    }
    for sidecar in &sidecars {
        sidecar.synced().await;
    }
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let file = dir.path().join("prometheus.yml");
    std::fs::write(&file, settings(serve_exposition().await, &sidecars)).expect("the folder is ours");
    let [web] = free_addresses();
    let mut prometheus = Command::new("prometheus");
    prometheus.arg(format!("--config.file={}", file.display()));
    prometheus.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    let _prometheus = Process::start("prometheus", prometheus.arg(format!("--web.listen-address={web}")));

    let mut all = BTreeSet::new();
    for (index, sidecar) in sidecars.iter().enumerate() {
        let own = wait_for("decisions of every model of the instance", async || {
            let variants = sidecar.get("/api/v1/variants").await.json()["variants"].clone();
            let variants = variants.as_array()?;
            let decided = variants.iter().filter(|it| it["decision"]["desired"].is_u64());
            let names: BTreeSet<String> = decided.map(|it| it["name"].to_string()).collect();
            (!names.is_empty() && names.len() == variants.len()).then_some(names)
        })
        .await;
        // Only series of its own models are sent to it: three of the pod, one of the scheduler's queue.
        assert_eq!(sidecar.metric("inferno_sidecar_series").await, Some(4.0 * own.len() as f64));
        assert_eq!(sidecar.metric("inferno_sidecar_replicas").await, Some(own.len() as f64));
        crate::say!("instance {index} of 3 decides {} of {MODELS} models", own.len());
        all.extend(own);
        // Each writes for its own, under a Lease of its own.
        wait_for("statuses", async || {
            sidecar.metric("inferno_sidecar_status_writes_total{outcome=\"written\"}").await
        })
        .await;
    }
    assert_eq!(all.len(), MODELS, "{all:?}");
    let leases = plane.kubectl(&["get", "leases", "-n", HOME, "-o", "name"]);
    assert_eq!(leases.lines().count(), 3, "{leases}");
}
