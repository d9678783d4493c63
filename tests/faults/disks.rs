//! Disks without room.

use crate::sidecar::{BINARY, Scrape, Sidecar, configuration};
use crate::{TURN, client, wait_for};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};

/// Ends with the test.
struct Silent(Child);

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every write to `/dev/full` fails as on a full disk.
fn full() -> File {
    File::options().write(true).open("/dev/full").expect("Linux has it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_for_logs_costs_the_log_and_no_decision() {
    let _turn = TURN.lock().await;
    for format in ["text", "logfmt", "json"] {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(dir.path().join("all.yaml"), configuration(5)).expect("the folder is ours");
        // It cannot log which port it has, so it is told one that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address: SocketAddr = free.expect("loopback has free ports");
        let mut command = Command::new(BINARY);
        command.args(["serve", "--log", "debug", "--log-format", format]);
        command.arg(format!("--listen={address}")).arg("--config-dir").arg(dir.path());
        let child = command.stdout(full()).stderr(full()).spawn().expect("the binary runs");
        let mut silent = Silent(child);
        wait_for("an answer", async || client::get(address, "/-/healthy").await.ok()).await;
        // Each decision and each problem of the configuration would be a line.
        for (waiting, wanted) in [(2.0, "2"), (9.0, "3")] {
            wait_for("a decision", async || {
                let kv = if waiting > 5.0 { 0.95 } else { 0.5 };
                let body = Scrape::now(2, kv, waiting).body();
                assert_eq!(crate::sidecar::write(address, body).await.expect("an answer").status, 204);
                let answer = client::get(address, "/api/v1/query?query=inferno_desired_replicas").await;
                answer.expect("an answer").text().contains(&format!("\"{wanted}\"]")).then_some(())
            })
            .await;
        }
        fs::write(dir.path().join("all.yaml"), "kind: ConfigMap\n  broken: [\n").expect("the folder is ours");
        wait_for("the problem counted", async || {
            let metrics = client::get(address, "/metrics").await.expect("an answer");
            metrics.text().contains("\ninferno_sidecar_config_problems 1\n").then_some(())
        })
        .await;
        assert!(silent.0.try_wait().expect("a child can be asked").is_none(), "it has ended");
    }
}

/// Mounts a small disk at its first argument, where only this process sees it, and becomes the rest.
const SMALL_DISK: &str = "mount -t tmpfs -o size=64k none \"$0\" && exec \"$@\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_for_the_recording_costs_records_and_no_decision() {
    let _turn = TURN.lock().await;
    let disk = tempfile::tempdir().expect("a temporary folder can be made");
    let path = disk.path().to_str().expect("the path is UTF-8");
    let unshare = ["unshare", "--mount", "--map-root-user", "bash", "-c", SMALL_DISK, path];
    let can = Command::new("unshare").args(&unshare[1..]).arg("true").output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no disk can be mounted here without more rights");
        return;
    }
    let sidecar = Sidecar::start_with(&unshare, &["--record", path], |_| ()).await;
    let dropped = "inferno_sidecar_recorder_records_total{outcome=\"dropped\"}";
    wait_for("records without room", async || {
        for _ in 0..200 {
            assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
        }
        (sidecar.figure(dropped).await > Some(0.0)).then_some(())
    })
    .await;
    sidecar.process.line("cannot record; decisions are not affected").await;
    sidecar.until_desired(2).await;
    wait_for("a decision on a full disk", async || {
        assert_eq!(sidecar.write(&Scrape::now(2, 0.95, 9.0)).await.status, 204);
        (sidecar.desired().await == Some(3)).then_some(())
    })
    .await;
}
