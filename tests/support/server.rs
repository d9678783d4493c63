//! The real router on an ephemeral port, and requests as a remote-write sender makes them.

use crate::client::{self, Answer, vector};
use axum::body::Body;
use axum::http::{Method, Request};
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::standard::CONFIG_YAML;
use inferno_sidecar::engine::Engine;
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use inferno_sidecar::runner::{self, Clock, Handle};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::serve::{self, Context, OwnMetrics};
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The variant that most tests look at.
pub const VARIANT: &str = "qwen-14b-h100";

/// The machine's clock, ms.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis() as i64
}

pub struct Server {
    pub address: SocketAddr,
    pub engine: Handle,
    pub write_bytes: Arc<Semaphore>,
}

impl Server {
    /// A server that has no configuration yet.
    pub async fn unconfigured() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with a changed context.
    pub async fn with(change: impl FnOnce(&mut Context)) -> Self {
        Self::with_engine(Engine::new(Arc::new(Dialects::built_in())), change).await
    }

    /// A server of this engine with a changed context.
    pub async fn with_engine(engine: Engine, change: impl FnOnce(&mut Context)) -> Self {
        let (engine, _thread) = runner::spawn(engine, Clock::Wall).expect("a thread can be started");
        let own = Arc::new(OwnMetrics::new().expect("the metrics are valid"));
        let configuring = engine.clone();
        let reload = Arc::new(move || configure(&configuring));
        let mut context = Context::new(engine.clone(), true, own, reload);
        change(&mut context);
        let write_bytes = context.write_bytes.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        tokio::spawn(serve::serve(listener, serve::router(context), std::future::pending()));
        Server { address, engine, write_bytes }
    }

    /// A server with the demo's configuration and no input yet.
    pub async fn configured() -> Self {
        let server = Self::unconfigured().await;
        configure(&server.engine).expect("the engine runs");
        server
    }

    /// A server with a decision for each variant.
    pub async fn ready() -> Self {
        let server = Self::configured().await;
        let mut series = Vec::new();
        let time = now_ms() - 60_000;
        for (variant, model) in [
            (VARIANT, "Qwen/Qwen3-14B"),
            ("llama-8b-l40s", "meta-llama/Llama-3.1-8B-Instruct"),
            ("llama-8b-h100", "meta-llama/Llama-3.1-8B-Instruct"),
        ] {
            series.extend(pod(variant, model, time, 0.0));
            for name in ["kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"] {
                series.push(one(
                    &[("__name__", name), ("deployment", variant), ("namespace", "llm")],
                    time,
                    1.0,
                ));
            }
        }
        let answer = server.write(series).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        server
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.address, path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn query(&self, query: &str) -> Answer {
        self.get(&format!("/api/v1/query?{}", client::form(&[("query", query)]))).await
    }

    /// The only value that a query gives.
    pub async fn value(&self, query: &str) -> String {
        let vector = vector(&self.query(query).await);
        assert_eq!(vector.len(), 1, "{query}: {vector:?}");
        vector[0]["value"][1].as_str().expect("values are quoted").to_owned()
    }

    /// Writes series as Prometheus does.
    pub async fn write(&self, timeseries: Vec<TimeSeries>) -> Answer {
        let request = WriteRequest { timeseries, ..WriteRequest::default() };
        self.post(&PROMETHEUS, compress(&request.encode_to_vec())).await
    }

    /// Posts a body to the write endpoint with the given headers.
    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        self.try_post(headers, body).await.expect("an answer")
    }

    pub async fn try_post(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> Result<Answer, String> {
        let mut request = Request::builder().method(Method::POST).uri("/api/v1/write");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client::send(self.address, request.body(body.into()).expect("the request is valid")).await
    }
}

fn configure(engine: &Handle) -> Result<(), String> {
    let resolved = resolve(&documents("demo.yaml", CONFIG_YAML), &Resolved::default());
    engine.apply(resolved.snapshot, Arc::from(resolved.problems)).map_err(|error| error.to_string())
}

/// What Prometheus sends with a remote-write 1.0 request.
pub const PROMETHEUS: [(&str, &str); 4] = [
    ("content-encoding", "snappy"),
    ("content-type", "application/x-protobuf"),
    ("x-prometheus-remote-write-version", "0.1.0"),
    ("user-agent", "Prometheus/3.0.0"),
];

pub fn compress(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("the message is small")
}

pub fn one(labels: &[(&str, &str)], timestamp: i64, value: f64) -> TimeSeries {
    let labels =
        labels.iter().map(|(name, value)| Label { name: (*name).into(), value: (*value).into() }).collect();
    TimeSeries { labels, samples: vec![Sample { value, timestamp }], ..TimeSeries::default() }
}

/// `vllm:num_requests_waiting` of the test's pod.
pub fn waiting(timestamp: i64, value: f64) -> TimeSeries {
    of_pod("vllm:num_requests_waiting", VARIANT, "Qwen/Qwen3-14B", timestamp, value)
}

fn of_pod(metric: &str, variant: &str, model: &str, timestamp: i64, value: f64) -> TimeSeries {
    let pod = format!("{variant}-7d9c5b8f6d-bbbbb");
    let labels = [("__name__", metric), ("model_name", model), ("namespace", "llm"), ("pod", &*pod)];
    one(&labels, timestamp, value)
}

fn pod(variant: &str, model: &str, timestamp: i64, value: f64) -> Vec<TimeSeries> {
    ["vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:num_requests_running"]
        .map(|metric| of_pod(metric, variant, model, timestamp, value))
        .into()
}
