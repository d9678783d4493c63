//! The sidecar as built, registered as the cluster's external metrics API with the files of `deploy/`.

use crate::control_plane::ControlPlane;
use crate::process::Process;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for anything that the cluster does by itself.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
/// Name under which the aggregation layer knows the sidecar.
pub const SERVICE: &str = "inferno-sidecar-external-metrics";
/// Where its metrics are.
pub const METRICS: &str = "/apis/external.metrics.k8s.io/v1beta1";

pub struct Sidecar {
    pub process: Process,
    /// Main listener.
    pub address: SocketAddr,
    /// Listener of the external metrics API.
    pub external: SocketAddr,
    /// File of the authority of the certificate made at start.
    pub ca: PathBuf,
}

impl Sidecar {
    /// Installs what `deploy/` has, starts the sidecar as its service account and waits until the
    /// aggregation layer finds it.
    pub async fn start(plane: &ControlPlane, config: &Path) -> Self {
        for namespace in ["monitoring", "llm"] {
            plane.kubectl(&["create", "namespace", namespace]);
        }
        plane.apply(&deployed("rbac.yaml"));
        let kubeconfig = plane.dir.path().join("sidecar.kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_text(plane)).expect("the folder is ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_inferno-sidecar"));
        command.args(["serve", "--log-format", "json", "--listen", "127.0.0.1:0", "--clock", "samples"]);
        command.args(["--external-metrics-listen", "127.0.0.1:0"]).arg("--config-dir").arg(config);
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("INFERNO_")) {
            command.env_remove(name);
        }
        command.env("KUBECONFIG", &kubeconfig);
        let process = Process::start("the sidecar", &mut command);
        let fields = |line: String| -> Value {
            let line: Value = serde_json::from_str(&line).expect("log lines are JSON");
            line["fields"].clone()
        };
        let address =
            |fields: Value| fields["address"].as_str().expect("it is logged").parse().expect("an address");
        let external = address(fields(process.line("external metrics API listening").await));
        let made = fields(process.line("certificate made for this run").await);
        let bundle = made["ca_bundle"].as_str().expect("the authority is logged").to_owned();
        let ca = plane.dir.path().join("external-ca.crt");
        std::fs::write(&ca, STANDARD.decode(&bundle).expect("it is base64")).expect("the folder is ours");
        let address = address(fields(process.line("\"listening;").await));
        let sidecar = Sidecar { process, address, external, ca };
        sidecar.register(plane, &bundle).await;
        sidecar
    }

    /// The Service is one that leads out of the cluster, because nothing routes into it here; the
    /// APIService believes the certificate of this run only.
    async fn register(&self, plane: &ControlPlane, bundle: &str) {
        let port = format!("port: {}", self.external.port());
        plane.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {SERVICE}, namespace: monitoring}}\n\
             spec: {{type: ExternalName, externalName: localhost}}\n"
        ));
        let service = deployed("apiservice.yaml").replace("port: 443", &port);
        plane.apply(&service.replace("insecureSkipTLSVerify: true", &format!("caBundle: {bundle}")));
        self.process.line("authentication of kube-system/extension-apiserver-authentication in force").await;
        let condition = "--for=condition=Available";
        let name = "apiservice/v1beta1.external.metrics.k8s.io";
        plane.kubectl(&["wait", condition, name, "--timeout=120s"]);
    }
}

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/external-metrics").join(name);
    std::fs::read_to_string(path).expect("the file is part of the project")
}

fn kubeconfig_text(plane: &ControlPlane) -> String {
    let token = plane.kubectl(&["create", "token", "inferno-sidecar", "-n", "monitoring"]);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: \"{}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: test, user: {{token: \"{}\"}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
        plane.url(),
        plane.dir.path().join("ca.crt").display(),
        token.trim()
    )
}

/// Waits until `look` finds something.
pub async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + WAIT_MAX;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {WAIT_MAX:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
