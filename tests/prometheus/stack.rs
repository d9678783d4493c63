//! The processes under test: the built sidecar, and the real Prometheus that feeds and scrapes it.

use crate::client::{self, Answer};
use crate::cluster::Cluster;
use crate::process::Process;
use crate::tools;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Prometheus to test with.
#[derive(Clone, Debug)]
pub struct Release {
    program: PathBuf,
    /// Setting of the version of remote write.
    message: &'static str,
}

impl Release {
    /// Debian's, which sends remote write 1.0; `None` when it is to be skipped.
    pub fn packaged() -> Option<Self> {
        Some(Release { program: tools::packaged_prometheus()?, message: "" })
    }

    /// Prometheus 3, sending remote write 2.0; `None` when it is to be skipped.
    pub fn built() -> Option<Self> {
        let message = "    protobuf_message: io.prometheus.write.v2.Request\n";
        Some(Release { program: tools::prometheus()?, message })
    }
}

/// The sidecar as built, on loopback.
pub struct Sidecar {
    pub process: Process,
    pub address: SocketAddr,
}

impl Sidecar {
    /// Starts it on `address` (port 0: any) with the configuration folder `dir`.
    pub async fn start(address: SocketAddr, dir: &Path) -> Self {
        Self::start_with(address, dir, &[]).await
    }

    /// As [`Sidecar::start`], with further flags.
    pub async fn start_with(address: SocketAddr, dir: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
        command.args(["serve", "--log-format", "json", "--listen", &address.to_string()]);
        command.arg("--config-dir").arg(dir).args(flags);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("INFERNO_"))
        {
            command.env_remove(name);
        }
        let process = Process::start("the sidecar", &mut command);
        let line = process.line("\"listening;").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["fields"]["address"].as_str().expect("the address is logged");
        Sidecar { address: address.parse().expect("the address is one"), process }
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.address, path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The value of a gauge of a variant in `/metrics`, by a part of its labels.
    pub async fn gauge(&self, name: &str, labels: &str) -> Option<f64> {
        let answer = self.get("/metrics").await;
        let start = format!("{name}{{");
        let line = answer.text().lines().find(|line| line.starts_with(&start) && line.contains(labels))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// Prometheus with its data and settings in a folder.
pub struct Prometheus {
    pub process: Process,
    pub address: SocketAddr,
}

impl Prometheus {
    /// Writes the settings and starts it; with data in the folder it goes on where it was.
    pub async fn start(
        release: &Release,
        dir: &Path,
        cluster: &Cluster,
        sidecar: SocketAddr,
        deadline: &str,
    ) -> Self {
        let settings = dir.join("prometheus.yml");
        std::fs::write(&settings, settings_text(cluster.address, sidecar, deadline, release.message))
            .expect("the folder is ours");
        let mut command = Command::new(&release.program);
        command.arg(option("--config.file", &settings));
        command.arg(option("--storage.tsdb.path", &dir.join("data")));
        command.args(["--web.listen-address=127.0.0.1:0", "--log.format=json"]);
        let process = Process::start("prometheus", &mut command);
        let line = process.line("\"Listening on\"").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["address"].as_str().expect("the address is logged");
        Prometheus { address: address.parse().expect("the address is one"), process }
    }

    /// Answer to an instant query, `None` while Prometheus is still starting.
    pub async fn query(&self, query: &str) -> Option<Vec<serde_json::Value>> {
        let path = format!("/api/v1/query?{}", client::form(&[("query", query)]));
        let answer = client::get(self.address, &path).await.ok()?;
        (answer.status == 200).then(|| answer.json()["data"]["result"].as_array().cloned())?
    }
}

fn option(name: &str, path: &Path) -> PathBuf {
    format!("{name}={}", path.display()).into()
}

/// What an operator would write, at a scrape interval of one second.
fn settings_text(cluster: SocketAddr, sidecar: SocketAddr, deadline: &str, message: &str) -> String {
    format!(
        r#"
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: vllm
    http_sd_configs:
      - url: http://{cluster}/sd
        refresh_interval: 1s
  - job_name: kube-state-metrics
    honor_labels: true
    metrics_path: /ksm/metrics
    static_configs:
      - targets: ["{cluster}"]
        labels: {{namespace: monitoring, pod: kube-state-metrics-0}}
  - job_name: inference-scheduler
    metrics_path: /scheduler/0/metrics
    static_configs:
      - targets: ["{cluster}"]
        labels: {{namespace: llm, pod: scheduler-0}}
  # The target's own namespace moves the gauges' one to exported_namespace.
  - job_name: inferno-sidecar
    static_configs:
      - targets: ["{sidecar}"]
        labels: {{namespace: monitoring, pod: prometheus-0}}
remote_write:
  - url: http://{sidecar}/api/v1/write
{message}    queue_config:
      batch_send_deadline: {deadline}
      min_backoff: 30ms
      max_backoff: 1s
    write_relabel_configs:
      - source_labels: [__name__]
        regex: vllm:.*|kube_(deployment|replicaset|pod|node)_.*|llm_d_epp_.*|inference_extension_.*
        action: keep
"#
    )
}
