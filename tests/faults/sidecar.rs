//! The binary as built, with one variant, and direct writes to it.

use crate::client::{self, Answer};
use crate::process::Process;
use crate::{now_ms, wait_for};
use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{Method, Request};
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use prost::Message;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// What the command that runs the sidecar begins with, in place of the binary itself.
pub type Wrapper<'a> = &'a [&'a str];

pub struct Sidecar {
    pub process: Process,
    pub address: SocketAddr,
    /// Parent of the folder of configuration.
    root: TempDir,
}

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_inferno-sidecar");

/// Variant `a` of model `m`, and its thresholds.
pub fn configuration(queue_length_threshold: u32) -> String {
    format!(
        "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n\
         metadata: {{name: a, namespace: llm, labels: {{inference.optimization/acceleratorName: H100}}}}\n\
         spec: {{scaleTargetRef: {{kind: Deployment, name: a}}, modelID: m, maxReplicas: 10}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: saturation-scaling-config, namespace: system}}\n\
         data:\n  default: |\n    kvCacheThreshold: 0.8\n    queueLengthThreshold: {queue_length_threshold}\n"
    )
}

impl Sidecar {
    pub async fn start() -> Self {
        Self::start_with(&[], &[], |_| ()).await
    }

    /// Starts it through `wrapper` with further flags and settings of the process.
    pub async fn start_with(wrapper: Wrapper<'_>, flags: &[&str], set: impl FnOnce(&mut Command)) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let dir = root.path().join("config");
        fs::create_dir(&dir).expect("the folder is ours");
        fs::write(dir.join("all.yaml"), configuration(5)).expect("the folder is ours");
        let words = [wrapper, &[BINARY]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.args(["serve", "--log-format", "json", "--listen", "127.0.0.1:0"]);
        command.arg("--config-dir").arg(&dir).args(flags);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("INFERNO_"))
        {
            command.env_remove(name);
        }
        set(&mut command);
        let process = Process::start("the sidecar", &mut command);
        let line = process.line("\"listening;").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["fields"]["address"].as_str().expect("the address is logged");
        Sidecar { process, address: address.parse().expect("the address is one"), root }
    }

    /// Its folder of configuration.
    pub fn config(&self) -> PathBuf {
        self.root.path().join("config")
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.address, path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A figure of `/metrics`, by the beginning of its line up to the value.
    pub async fn figure(&self, line: &str) -> Option<f64> {
        let metrics = self.get("/metrics").await;
        let found = metrics.text().lines().find(|found| {
            found.strip_prefix(line).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        });
        found?.rsplit(' ').next()?.parse().ok()
    }

    /// What an autoscaler is told; `None` while it is told nothing.
    pub async fn desired(&self) -> Option<u32> {
        let answer = self.get("/api/v1/query?query=inferno_desired_replicas").await;
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{}", answer.text());
            return None;
        }
        let found = client::vector(&answer);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]["value"][1].as_str()?.parse().ok()
    }

    pub async fn until_desired(&self, wanted: u32) {
        wait_for(&format!("{wanted} replicas wanted"), async || {
            (self.desired().await == Some(wanted)).then_some(())
        })
        .await;
    }

    /// Posts a write request as Prometheus does.
    pub async fn write(&self, scrape: &Scrape) -> Answer {
        write(self.address, scrape.body()).await.expect("an answer")
    }
}

/// Posts the body of a write request.
pub async fn write(address: SocketAddr, body: Vec<u8>) -> Result<Answer, String> {
    client::send(address, write_request().body(Body::from(body)).expect("the request is valid")).await
}

/// The head of a write request as Prometheus sends it.
pub fn write_request() -> Builder {
    Request::builder()
        .method(Method::POST)
        .uri("/api/v1/write")
        .header("content-encoding", "snappy")
        .header("content-type", "application/x-protobuf")
        .header("x-prometheus-remote-write-version", "0.1.0")
}

/// What one scrape of everything sends.
pub struct Scrape {
    time_ms: i64,
    series: Vec<TimeSeries>,
}

impl Scrape {
    /// `pods` pods of the variant with the same load, at a time by the clock, ms.
    pub fn at(time_ms: i64, pods: usize, kv: f64, waiting: f64) -> Self {
        let mut scrape = Scrape { time_ms, series: Vec::new() };
        for pod in &["a-7d9c5b8f6d-bbbbb", "a-7d9c5b8f6d-ccccc", "a-7d9c5b8f6d-ddddd"][..pods] {
            for (metric, value) in [
                ("vllm:kv_cache_usage_perc", kv),
                ("vllm:num_requests_waiting", waiting),
                ("vllm:num_requests_running", 4.0),
            ] {
                scrape.add(metric, &[("model_name", "m"), ("namespace", "llm"), ("pod", pod)], value);
            }
        }
        for metric in ["kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"] {
            scrape.add(metric, &[("deployment", "a"), ("namespace", "llm")], pods as f64);
        }
        scrape
    }

    /// The same now.
    pub fn now(pods: usize, kv: f64, waiting: f64) -> Self {
        Scrape::at(now_ms(), pods, kv, waiting)
    }

    /// Adds a series with one sample.
    pub fn add(&mut self, metric: &str, pairs: &[(&str, &str)], value: f64) {
        let label = |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into() };
        let labels = [("__name__", metric)].iter().chain(pairs).map(label).collect();
        let samples = vec![Sample { value, timestamp: self.time_ms }];
        self.series.push(TimeSeries { labels, samples, ..TimeSeries::default() });
    }

    /// The body of its write request.
    pub fn body(&self) -> Vec<u8> {
        let request = WriteRequest { timeseries: self.series.clone(), ..WriteRequest::default() };
        snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).expect("the message is small")
    }
}
