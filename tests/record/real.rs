//! The real Prometheus 3, built from its module.

use crate::client;
use crate::process::Process;
use crate::tools;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running Prometheus with an empty database.
pub struct Prometheus {
    pub address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts it with the given settings and flags, and waits until it is ready.
    pub async fn start(settings: &str, flags: &[&str]) -> Option<Self> {
        let program = tools::prometheus()?;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, settings).expect("the folder is ours");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.args(["--web.listen-address=127.0.0.1:0", "--log.format=json"]).args(flags);
        let process = Process::start("prometheus", &mut command);
        let line = process.line("\"Listening on\"").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["address"].as_str().expect("the address is logged");
        let address = address.parse().expect("the address is one");
        let until = Instant::now() + Duration::from_secs(20);
        while client::get(address, "/-/ready").await.is_ok_and(|answer| answer.status != 200) {
            assert!(Instant::now() < until, "Prometheus does not become ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(Prometheus { address, _process: process, _folder: folder })
    }
}
