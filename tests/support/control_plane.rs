//! A real Kubernetes control plane on loopback, for one test: Debian's etcd, kube-apiserver and, on
//! demand, kube-controller-manager built from their Go modules; everything in a temporary folder.

#![allow(dead_code, reason = "each test uses a part")]

use crate::certificates::{Authority, Pair, signing_key};
use crate::process::Process;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Set to any value to skip the tests that need a control plane.
const SKIP: &str = "INFERNO_TEST_SKIP_CLUSTER";
/// Token of a user in `system:masters`.
pub const ADMIN_TOKEN: &str = "admin-of-this-test";
/// Longest wait for a program to become ready; the first start on a busy machine is slow.
const START_MAX: Duration = Duration::from_secs(120);

/// Folder of the Kubernetes programs; `None` when they are to be skipped.
pub fn programs() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        if std::env::var_os(SKIP).is_some() {
            eprintln!("skipped: {SKIP} is set");
            return None;
        }
        assert!(
            Command::new("etcd").arg("--version").output().is_ok(),
            "no etcd on the PATH; tests/run installs it, {SKIP}=1 skips these tests"
        );
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/build");
        let output = Command::new(build).arg("kubernetes").output().expect("the build script runs");
        assert!(
            output.status.success(),
            "the Kubernetes programs cannot be built ({SKIP}=1 skips these tests):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let folder = String::from_utf8(output.stdout).expect("the path is UTF-8");
        Some(PathBuf::from(folder.trim()))
    };
    FOLDER.get_or_init(find).as_deref()
}

/// What a control plane is to have.
#[derive(Clone, Default)]
pub struct Wanted {
    /// Run kube-controller-manager, too: the HPA's, Deployments', ReplicaSets' and other controllers.
    pub controllers: Option<&'static str>,
    /// Further flags of kube-controller-manager.
    pub controller_flags: Vec<String>,
    /// Further flags of kube-apiserver.
    pub api_flags: Vec<String>,
    /// Further users: (token, user, groups joined by commas).
    pub users: Vec<(String, String, String)>,
}

/// A running control plane; ends when dropped.
pub struct ControlPlane {
    programs: &'static Path,
    /// `127.0.0.1:PORT` of kube-apiserver; the same after a restart.
    pub address: SocketAddr,
    /// Signs server and client certificates.
    pub authority: Authority,
    /// Signs the front proxy's certificate: what an aggregated API server must trust.
    pub front_proxy_authority: Authority,
    etcd_address: SocketAddr,
    wanted: Wanted,
    server_pair: Pair,
    proxy_pair: Pair,
    service_account_key: (PathBuf, PathBuf),
    api_server: Option<Process>,
    controller_manager: Option<Process>,
    _etcd: Process,
    /// Certificates, data and settings; goes when the programs have ended.
    pub dir: TempDir,
}

impl ControlPlane {
    /// Starts it and waits until it is ready. `None` when such tests are to be skipped.
    pub async fn start(wanted: Wanted) -> Option<Self> {
        let programs = programs()?;
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path();
        let (authority, front_proxy_authority) = (Authority::new("cluster"), Authority::new("front-proxy"));
        authority.write(path, "ca");
        front_proxy_authority.write(path, "front-proxy-ca");
        let hosts = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"];
        let mut users = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n");
        for (token, user, groups) in &wanted.users {
            users += &format!("{token},{user},{user},\"{groups}\"\n");
        }
        std::fs::write(path.join("tokens.csv"), users).expect("the folder is ours");
        let [etcd_address, etcd_peer, address] = free_addresses();
        let mut control_plane = ControlPlane {
            server_pair: authority.issue(path, "apiserver", "kube-apiserver", &hosts),
            proxy_pair: front_proxy_authority.issue(path, "front-proxy", "front-proxy-client", &[]),
            service_account_key: signing_key(path, "service-account"),
            _etcd: start_etcd(path, etcd_address, etcd_peer),
            authority,
            front_proxy_authority,
            programs,
            address,
            etcd_address,
            wanted,
            api_server: None,
            controller_manager: None,
            dir,
        };
        control_plane.start_api_server().await;
        if control_plane.wanted.controllers.is_some() {
            control_plane.start_controller_manager();
        }
        Some(control_plane)
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Starts kube-apiserver, again if need be, and waits until it is ready.
    pub async fn start_api_server(&mut self) {
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command.args(self.api_server_flags()).args(&self.wanted.api_flags);
        self.api_server = Some(Process::start("kube-apiserver", &mut command));
        let client = self.client(ADMIN_TOKEN).await;
        let until = Instant::now() + START_MAX;
        loop {
            let request = http_get("/readyz");
            if client.request_text(request).await.is_ok_and(|text| text == "ok") {
                return;
            }
            if let Some(process) = &mut self.api_server {
                process.assert_running();
            }
            assert!(Instant::now() < until, "kube-apiserver is not ready within {START_MAX:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same at another address: whoever knows the old one finds nobody there.
    pub async fn start_api_server_at(&mut self, address: SocketAddr) {
        self.address = address;
        self.start_api_server().await;
    }

    /// Ends kube-apiserver as `kill -9` does.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    fn api_server_flags(&self) -> Vec<String> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let (private, public) = &self.service_account_key;
        let mut flags = vec![
            format!("--etcd-servers=http://{}", self.etcd_address),
            format!("--secure-port={}", self.address.port()),
            format!("--tls-cert-file={}", self.server_pair.certificate.display()),
            format!("--tls-private-key-file={}", self.server_pair.key.display()),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--service-account-key-file={}", public.display()),
            format!("--service-account-signing-key-file={}", private.display()),
            format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
            format!("--proxy-client-cert-file={}", self.proxy_pair.certificate.display()),
            format!("--proxy-client-key-file={}", self.proxy_pair.key.display()),
            format!("--cert-dir={}", self.dir.path().display()),
        ];
        let fixed = [
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            // Pods are made by the tests, in namespaces whose service account nobody makes.
            "--disable-admission-plugins=ServiceAccount",
            // Requests of the tests are no reason to queue.
            "--enable-priority-and-fairness=false",
        ];
        flags.extend(fixed.map(String::from));
        flags
    }

    fn start_controller_manager(&mut self) {
        let [secure] = free_addresses();
        let controllers = self.wanted.controllers.unwrap_or("*");
        let mut command = Command::new(self.programs.join("kube-controller-manager"));
        command.arg(format!("--kubeconfig={}", self.kubeconfig(ADMIN_TOKEN).display()));
        command.arg(format!("--controllers={controllers}"));
        command.arg(format!("--secure-port={}", secure.port()));
        command.arg(format!("--service-account-private-key-file={}", self.service_account_key.0.display()));
        command.arg(format!("--root-ca-file={}", self.dir.path().join("ca.crt").display()));
        command.arg(format!("--cert-dir={}", self.dir.path().display()));
        command.args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
        command.args(&self.wanted.controller_flags);
        self.controller_manager = Some(Process::start("kube-controller-manager", &mut command));
    }

    /// A file to reach the API server with that token.
    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        // Tokens of service accounts are too long for a file's name, and differ in their ends.
        let end: String = token.chars().rev().take(32).collect();
        let path = self.dir.path().join(format!("{end}.kubeconfig"));
        std::fs::write(&path, self.kubeconfig_text(token)).expect("the folder is ours");
        path
    }

    fn kubeconfig_text(&self, token: &str) -> String {
        let (url, authority) = (self.url(), self.dir.path().join("ca.crt"));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: \"{url}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: test, user: {{token: \"{token}\"}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            authority.display()
        )
    }

    /// A client with that token.
    pub async fn client(&self, token: &str) -> kube::Client {
        let text = Kubeconfig::from_yaml(&self.kubeconfig_text(token)).expect("the text is valid");
        let config = kube::Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await;
        kube::Client::try_from(config.expect("the file is valid")).expect("the certificates are valid")
    }

    /// Runs kubectl as the administrator; panics with its complaint if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.try_kubectl(arguments);
        output.unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// Runs kubectl as the administrator: standard output, or the complaint.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg(format!("--kubeconfig={}", self.kubeconfig(ADMIN_TOKEN).display()));
        command.arg(format!("--cache-dir={}", self.dir.path().join("kubectl").display()));
        let output = command.args(arguments).output().expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Applies objects, given as YAML.
    pub fn apply(&self, yaml: &str) {
        let file = self.dir.path().join("apply.yaml");
        std::fs::write(&file, yaml).expect("the folder is ours");
        let path = file.display().to_string();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &path]);
    }
}

/// A request without a body.
pub fn http_get(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).expect("the path is valid")
}

/// Addresses on loopback that nobody listens on now.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports")
    });
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address"))
}

fn start_etcd(dir: &Path, address: SocketAddr, peer: SocketAddr) -> Process {
    let mut command = Command::new("etcd");
    command.args(["--name=test", "--log-level=warn"]);
    // What is written here need not outlive the test.
    command.arg("--unsafe-no-fsync");
    command.arg(format!("--data-dir={}", dir.join("etcd").display()));
    for flag in ["listen-client-urls", "advertise-client-urls"] {
        command.arg(format!("--{flag}=http://{address}"));
    }
    for flag in ["listen-peer-urls", "initial-advertise-peer-urls"] {
        command.arg(format!("--{flag}=http://{peer}"));
    }
    command.arg(format!("--initial-cluster=test=http://{peer}"));
    Process::start("etcd", &mut command)
}
