//! The world of a scenario: a control plane, the built sidecar against it, and samples as Prometheus sends
//! them.

use crate::client::{self, Answer};
use crate::control_plane::{ADMIN_TOKEN, ControlPlane};
use crate::process::Process;
use axum::body::Body;
use axum::http::Request;
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use prost::Message;
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for something that is to happen.
pub const SOON: Duration = Duration::from_secs(40);
/// The sidecar's own namespace.
pub const HOME: &str = "inferno-sidecar";
/// The definition that the chart installs.
pub const OWN_DEFINITION: &str =
    include_str!("../../charts/inferno-sidecar/crds/llmd.ai_variantautoscalings.yaml");

/// Waits until `probe` gives something.
pub async fn wait_for<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < until, "not seen within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The built sidecar.
pub struct Sidecar {
    pub process: Process,
    pub address: SocketAddr,
}

impl Sidecar {
    /// Starts it with an administrator's permissions.
    pub async fn start(plane: &ControlPlane, arguments: &[&str]) -> Self {
        Self::start_as(plane, ADMIN_TOKEN, arguments).await
    }

    /// Starts it with the permissions of `token`.
    pub async fn start_as(plane: &ControlPlane, token: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("INFERNO_") {
                command.env_remove(name);
            }
        }
        command.env("KUBECONFIG", plane.kubeconfig(token)).env("POD_NAMESPACE", HOME);
        command.args(["serve", "--source", "cluster", "--log-format", "json", "--listen", "127.0.0.1:0"]);
        let process = Process::start("the sidecar", command.args(arguments));
        let line = process.line("\"listening;").await;
        let line: Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["fields"]["address"].as_str().expect("the address is logged");
        Sidecar { address: address.parse().expect("the address is one"), process }
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.address, path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A variant as `/api/v1/variants` shows it; `None` while there is none of that name.
    pub async fn variant(&self, name: &str) -> Option<Value> {
        let answer = self.get(&format!("/api/v1/variants/llm/{name}")).await;
        (answer.status == 200).then(|| answer.json())
    }

    /// Waits until the variant is as `is_meant` wants it.
    pub async fn variant_where(&self, name: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            last = self.variant(name).await;
            if let Some(found) = last.as_ref().filter(|found| is_meant(found)) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is not as meant within {SOON:?}: {last:#?}");
    }

    pub async fn variant_gone(&self, name: &str) {
        wait_for(&format!("the end of {name}"), async || self.variant(name).await.is_none().then_some(()))
            .await;
    }

    /// Configuration problems as text.
    pub async fn problems(&self) -> String {
        self.get("/api/v1/variants").await.json()["problems"].to_string()
    }

    /// The value of a sample of `/metrics`.
    pub async fn metric(&self, start: &str) -> Option<f64> {
        let answer = self.get("/metrics").await;
        let line = answer.text().lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub async fn synced(&self) {
        self.process.line("the cluster is mirrored").await;
    }

    /// Writes what pods of the deployment `variant` report.
    pub async fn report(&self, variant: &str, model: &str, pods: usize, load: Load) {
        let now = now_ms();
        let mut timeseries = Vec::new();
        for pod in 0..pods {
            let pod = pod_name(variant, pod);
            for (metric, value) in [
                ("vllm:kv_cache_usage_perc", load.kv_cache),
                ("vllm:num_requests_waiting", load.waiting),
                ("vllm:num_requests_running", load.running),
            ] {
                let labels =
                    [("__name__", metric), ("model_name", model), ("namespace", "llm"), ("pod", &pod)];
                timeseries.push(series(&labels, now, value));
            }
        }
        self.write(timeseries).await;
    }

    pub async fn write(&self, timeseries: Vec<TimeSeries>) {
        let message = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&message).expect("the message is small");
        let request = Request::post("/api/v1/write")
            .header("content-encoding", "snappy")
            .header("content-type", "application/x-protobuf")
            .header("x-prometheus-remote-write-version", "0.1.0");
        let request = request.body(Body::from(body)).expect("the request is valid");
        let answer = client::send(self.address, request).await.expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// What a pod reports.
#[derive(Clone, Copy, Default)]
pub struct Load {
    pub kv_cache: f64,
    pub waiting: f64,
    pub running: f64,
}

/// Little to do.
pub const IDLE: Load = Load { kv_cache: 0.3, waiting: 0.0, running: 2.0 };
/// Far over the thresholds.
pub const BUSY: Load = Load { kv_cache: 0.95, waiting: 12.0, running: 40.0 };

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis() as i64
}

pub fn series(labels: &[(&str, &str)], timestamp: i64, value: f64) -> TimeSeries {
    let label = |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into() };
    TimeSeries {
        labels: labels.iter().map(label).collect(),
        samples: vec![Sample { value, timestamp }],
        ..TimeSeries::default()
    }
}

/// Name of a pod of a Deployment. It does not look like one, so that only the owner tells.
pub fn pod_name(deployment: &str, number: usize) -> String {
    format!("p{number}-of-{deployment}")
}

/// A Deployment with its pods, as its controllers would have made them.
pub fn deployment(plane: &ControlPlane, name: &str, replicas: usize, ready: usize) {
    plane.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: llm}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      nodeSelector: {{nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}}
      containers:
        - {{name: vllm, image: vllm, resources: {{limits: {{nvidia.com/gpu: "2"}}}}}}
"#
    ));
    status(plane, name, replicas, ready);
    for pod in 0..replicas {
        plane.apply(&pod_yaml(name, pod));
    }
}

/// A pod of a Deployment.
pub fn pod_yaml(deployment: &str, number: usize) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {}
  namespace: llm
  labels: {{pod-template-hash: 7d9c5b8f6d}}
  ownerReferences:
    - {{apiVersion: apps/v1, kind: ReplicaSet, name: {deployment}-7d9c5b8f6d, controller: true, uid: "1"}}
spec: {{containers: [{{name: vllm, image: vllm}}]}}
"#,
        pod_name(deployment, number)
    )
}

/// Sets the status of a Deployment.
pub fn status(plane: &ControlPlane, name: &str, replicas: usize, ready: usize) {
    let patch = format!(r#"{{"status":{{"replicas":{replicas},"readyReplicas":{ready}}}}}"#);
    plane.kubectl(&[
        "patch",
        "deployment",
        name,
        "-n",
        "llm",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ]);
}

/// A VariantAutoscaling of the newest shape, with more lines of its spec.
pub fn variant_yaml(name: &str, more: &str) -> String {
    format!(
        "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\nmetadata: {{name: {name}, namespace: llm}}\n\
         spec:\n  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}\n  \
         modelID: model-of-{name}\n{more}"
    )
}

/// Installs definitions and waits until they are served.
pub fn define(plane: &ControlPlane, yaml: &str) {
    plane.apply(yaml);
    plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
}

/// The permissions of `deploy/rbac`, changed by `change`, for the service account of the sidecar.
pub fn grant(plane: &ControlPlane, change: impl Fn(String) -> String) -> String {
    plane.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: inferno-sidecar, namespace: {HOME}}}\n"
    ));
    for rules in [
        include_str!("../../deploy/rbac/mirror.yaml"),
        include_str!("../../deploy/rbac/status.yaml"),
        include_str!("../../deploy/rbac/events.yaml"),
        include_str!("../../deploy/rbac/lease.yaml"),
        include_str!("../../deploy/rbac/actuation.yaml"),
    ] {
        plane.apply(&change(rules.to_owned()));
    }
    plane.kubectl(&["create", "token", "-n", HOME, "inferno-sidecar"]).trim().to_owned()
}
