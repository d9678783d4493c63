//! A real Prometheus 3 that writes and scrapes over TLS, with a client certificate one way and a password
//! the other.

use crate::pki::{Authority, write};
use crate::process::Process;
use crate::sidecar::*;
use inferno_sidecar::client::ClientSettings;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Set to any value to skip the tests that need the Prometheus binary.
const SKIP: &str = "INFERNO_TEST_SKIP_PROMETHEUS";

fn program() -> Option<PathBuf> {
    if std::env::var_os(SKIP).is_some() {
        eprintln!("skipped: {SKIP} is set");
        return None;
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/build");
    let output = Command::new(build).arg("prometheus").output().expect("the build script runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Prometheus cannot be built ({SKIP}=1 skips this test):\n{said}");
    Some(Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("prometheus"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_writes_and_scrapes_over_tls_with_credentials() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let (cert, key) = ours.server(&["localhost"]).write(dir.path(), "server");
    let client_ca = write(dir.path(), "clients.crt", &clients.pem());
    let (client_cert, client_key) = clients.client().write(dir.path(), "client");
    let ca = write(dir.path(), "ca.crt", &ours.pem());
    let hash = bcrypt::hash("scrape-password", 6).unwrap();
    let users = write(dir.path(), "users", &format!("prometheus:{hash}\n"));
    let password = write(dir.path(), "password", "scrape-password");
    let sidecar = Sidecar::start(&[
        ("tls-cert-file", text(&cert)),
        ("tls-private-key-file", text(&key)),
        ("tls-client-ca-file", text(&client_ca)),
        ("tls-client-cert-for", "write,admin"),
        ("read-basic-auth-file", text(&users)),
    ])
    .await;
    let (ca, target) = (text(&ca), format!("localhost:{}", sidecar.address.port()));
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         remote_write:\n  - url: https://{target}/api/v1/write\n    \
         tls_config: {{ca_file: {ca}, cert_file: {}, key_file: {}}}\n    \
         queue_config: {{batch_send_deadline: 200ms}}\n\
         scrape_configs:\n  - job_name: inferno-sidecar\n    scheme: https\n    tls_config: {{ca_file: {ca}}}\n    \
         basic_auth: {{username: prometheus, password_file: {}}}\n    static_configs: [{{targets: [\"{target}\"]}}]\n",
        text(&client_cert),
        text(&client_key),
        text(&password)
    );
    let config = write(dir.path(), "prometheus.yml", &config);
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    command.args(["--web.listen-address=127.0.0.1:0"]);
    let prometheus = Process::start("Prometheus", &mut command);
    let reader = ClientSettings {
        ca_file: Some(ca.into()),
        username: Some("prometheus".into()),
        password_file: Some(password.clone()),
        ..ClientSettings::default()
    };
    let reader = client(reader);
    let until = Instant::now() + Duration::from_secs(60);
    // What is written comes from what was scraped, so both ways work.
    loop {
        let answer = sidecar.ask(&reader, READ).await.unwrap();
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let taken =
            text.lines().find(|line| line.starts_with("inferno_sidecar_samples_total{outcome=\"foreign\"}"));
        if taken.is_some_and(|line| !line.ends_with(" 0")) {
            break;
        }
        let failures = prometheus.lines("level=ERROR");
        assert!(Instant::now() < until && failures.is_empty(), "{text}\n{failures:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for line in ["scrape-password", &*hash] {
        assert!(sidecar.process.lines(line).is_empty(), "a secret is in the log");
    }
}
