//! Two pods and the Deployment's counts, as Prometheus scrapes them; their faults are set while it does.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::TcpListener;

/// Requests that each pod completes, per second.
pub const RATE_PER_S: f64 = 10.0;
/// Requests that wait in each pod.
pub const WAITING: f64 = 2.0;
/// The pods of the variant.
pub const PODS: [&str; 2] = ["a-7d9c5b8f6d-bbbbb", "a-7d9c5b8f6d-ccccc"];

#[derive(Clone, Copy)]
struct Pod {
    /// When its engine started: counters begin at 0.
    started: Instant,
    is_down: bool,
}

/// What is scraped.
#[derive(Clone)]
pub struct Fleet {
    pub address: SocketAddr,
    pods: Arc<Mutex<[Pod; 2]>>,
    /// KV usage of each, in thousandths.
    kv: Arc<AtomicU64>,
}

impl Fleet {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let pod = Pod { started: Instant::now(), is_down: false };
        let fleet = Fleet { address, pods: Arc::new(Mutex::new([pod; 2])), kv: Arc::new(500.into()) };
        let router = Router::new()
            .route("/pods/{number}", get(pod_text))
            .route("/ksm", get(counts_text))
            .with_state(fleet.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fleet
    }

    /// Whether the second pod can be scraped.
    pub fn set_down(&self, is_down: bool) {
        self.pods.lock().expect("nobody panics")[1].is_down = is_down;
    }

    /// KV usage of both pods from now on.
    pub fn set_kv(&self, ratio: f64) {
        self.kv.store((ratio * 1e3) as u64, Ordering::Relaxed);
    }

    /// The engine of the second pod is restarted: its counters begin anew.
    pub fn restart(&self) {
        self.pods.lock().expect("nobody panics")[1].started = Instant::now();
    }

    /// Settings of a Prometheus that scrapes it every second and writes to `sidecar`.
    pub fn settings(&self, sidecar: SocketAddr, external_labels: &str) -> String {
        let mut targets = String::new();
        for (number, pod) in PODS.iter().enumerate() {
            let _ = write!(
                targets,
                "\n      - targets: [\"{}\"]\n        \
                 labels: {{__metrics_path__: /pods/{number}, namespace: llm, pod: {pod}}}",
                self.address
            );
        }
        format!(
            r#"
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  external_labels: {{{external_labels}}}
scrape_configs:
  - job_name: vllm
    static_configs:{targets}
  - job_name: kube-state-metrics
    metrics_path: /ksm
    honor_labels: true
    static_configs:
      - targets: ["{}"]
remote_write:
  - url: http://{sidecar}/api/v1/write
    queue_config: {{batch_send_deadline: 100ms, min_backoff: 30ms, max_backoff: 1s}}
    metadata_config: {{send: false}}
"#,
            self.address
        )
    }
}

async fn pod_text(State(fleet): State<Fleet>, Path(number): Path<usize>) -> Response {
    let pod = fleet.pods.lock().expect("nobody panics")[number];
    if pod.is_down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let kv = fleet.kv.load(Ordering::Relaxed) as f64 / 1e3;
    let done = pod.started.elapsed().as_secs_f64() * RATE_PER_S;
    format!(
        "vllm:kv_cache_usage_perc{{model_name=\"m\"}} {kv}\n\
         vllm:num_requests_waiting{{model_name=\"m\"}} {WAITING}\n\
         vllm:num_requests_running{{model_name=\"m\"}} 4\n\
         vllm:request_success_total{{model_name=\"m\",finished_reason=\"stop\"}} {done}\n"
    )
    .into_response()
}

async fn counts_text() -> String {
    ["kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"]
        .map(|metric| format!("{metric}{{deployment=\"a\",namespace=\"llm\"}} 2\n"))
        .concat()
}
