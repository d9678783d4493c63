//! The emulated cluster in real time: pods, kube-state-metrics and service discovery over HTTP.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use inferno_sidecar::emulate::exposition::{cluster_text, engine_text, scheduler_text};
use inferno_sidecar::emulate::fleet::{Fleet, VariantStatus};
use inferno_sidecar::emulate::load::Arrival;
use inferno_sidecar::emulate::standard::{self, NAMESPACE, StandardOptions};
use inferno_sidecar::units::TimeMs;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// Start-up time of a replica, ms.
const STARTUP_MS: i64 = 3_000;

/// The machine's clock.
pub fn now() -> TimeMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    TimeMs(since_epoch.as_millis() as i64)
}

/// Sets the load of a model while it runs.
#[derive(Default)]
pub struct Dial {
    per_minute: AtomicU64,
    burst: AtomicU64,
}

impl Dial {
    /// From the next request on: `burst` requests at once, then `per_minute`.
    pub fn turn(&self, per_minute: u64, burst: u64) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
        self.burst.store(burst, Ordering::Relaxed);
    }
}

/// Requests of equal size, as the dial says.
struct Dialled {
    dial: Arc<Dial>,
    at_us: i64,
}

impl Iterator for Dialled {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let take = |left: u64| left.checked_sub(1);
        if self.dial.burst.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            self.at_us += 60_000_000 / self.dial.per_minute.load(Ordering::Relaxed).max(1) as i64;
        }
        Some(Arrival { at_us: self.at_us, prompt_tokens: 1000, output_tokens: 200, cached_tokens: 0 })
    }
}

/// The emulated cluster.
#[derive(Clone)]
pub struct Cluster {
    pub address: SocketAddr,
    /// Load of the model with two variants.
    pub dial: Arc<Dial>,
    fleet: Arc<Mutex<Fleet>>,
}

impl Cluster {
    /// Starts the fleet of the demo now, and serves it.
    pub async fn start() -> Self {
        let start = now();
        let options = StandardOptions { start, startup_ms: STARTUP_MS, ..StandardOptions::default() };
        let mut spec = standard::spec(&options);
        let dials: Vec<Arc<Dial>> = spec
            .models
            .iter_mut()
            .map(|model| {
                let dial = Arc::new(Dial::default());
                dial.turn(240, 0);
                model.load = Box::new(Dialled { dial: dial.clone(), at_us: start.0 * 1000 });
                dial
            })
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let fleet = Arc::new(Mutex::new(Fleet::new(spec)));
        let cluster = Cluster { address, dial: dials[0].clone(), fleet };
        let router = Router::new()
            .route("/pods/{name}/metrics", get(pod))
            .route(
                "/ksm/metrics",
                get(
                    |State(cluster): State<Cluster>| async move { cluster.with(|fleet| cluster_text(fleet)) },
                ),
            )
            .route("/scheduler/{model}/metrics", get(scheduler))
            .route("/sd", get(discovery))
            .with_state(cluster.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let ticking = cluster.clone();
        tokio::spawn(async move {
            loop {
                ticking.with(|_| ());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        cluster
    }

    /// Looks at the fleet as it is now.
    fn with<T>(&self, look: impl FnOnce(&mut Fleet) -> T) -> T {
        let mut fleet = self.fleet.lock().expect("no user of the fleet panics");
        fleet.advance_to(now());
        fleet.take_finished();
        look(&mut fleet)
    }

    /// Scales a variant, as an autoscaler would.
    pub fn scale(&self, name: &str, replicas: u32) {
        assert!(self.with(|fleet| fleet.set_replicas(NAMESPACE, name, replicas)), "no variant {name}");
    }

    /// Counts of a variant.
    pub fn status(&self, name: &str) -> VariantStatus {
        let all = self.with(|fleet| fleet.variants());
        all.into_iter().find(|status| status.name == name).unwrap_or_else(|| panic!("no variant {name}"))
    }
}

async fn pod(State(cluster): State<Cluster>, Path(name): Path<String>) -> Response {
    match cluster.with(|fleet| engine_text(fleet, &name)) {
        Some(text) => text.into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn scheduler(State(cluster): State<Cluster>, Path(model): Path<usize>) -> Response {
    cluster.with(|fleet| scheduler_text(&fleet.models()[model])).into_response()
}

/// Targets in the form of Prometheus's `http_sd_configs`, as its Kubernetes discovery would label them.
async fn discovery(State(cluster): State<Cluster>) -> Response {
    let pods = cluster.with(|fleet| fleet.pods());
    let groups: Vec<_> = pods
        .iter()
        .map(|pod| {
            json!({
                "targets": [cluster.address.to_string()],
                "labels": {
                    "__metrics_path__": format!("/pods/{}/metrics", pod.name),
                    "namespace": pod.namespace,
                    "pod": pod.name,
                },
            })
        })
        .collect();
    Json(groups).into_response()
}
