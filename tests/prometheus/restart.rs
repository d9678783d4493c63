//! After a restart the windows are filled from Prometheus, and the first decision is the one before it.

use crate::cluster::Cluster;
use crate::configuration::ConfigDir;
use crate::stack::{Prometheus, Release, Sidecar};
use crate::{L40S, SOON, TURN, keda_asks, llama_query, number, wait_for};
use axum::http::StatusCode;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_decision_after_a_restart_is_the_last_one_before_it() {
    let (Some(packaged), Some(built)) = (Release::packaged(), Release::built()) else { return };
    for release in [built, packaged] {
        let _turn = TURN.lock().await;
        restarts(&release).await;
    }
}

async fn restarts(release: &Release) {
    let cluster = Cluster::start().await;
    let config = ConfigDir::new();
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    let mut sidecar = Sidecar::start(SocketAddr::from(([127, 0, 0, 1], 0)), config.path()).await;
    let prometheus = Prometheus::start(release, data.path(), &cluster, sidecar.address, "1s").await;
    let url = format!("http://{}", prometheus.address);
    let query = llama_query();
    wait_for("a decision", SOON, async || {
        let answer = keda_asks(sidecar.address, &query).await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    // A load that one replica does not carry; nobody carries out what is decided, so it stays a wish.
    cluster.dial.turn(3_000, 40);
    wait_for("a raised decision", SOON, async || {
        (number(&keda_asks(sidecar.address, &query).await.unwrap()) > 1).then_some(())
    })
    .await;
    cluster.dial.turn(60, 0);
    // The pods work the burst off and are idle again: their present alone would not give this decision.
    wait_for("an idle pod", Duration::from_secs(60), async || {
        let waiting = sidecar.gauge("inferno_requests_waiting", L40S).await?;
        (waiting == 0.0).then_some(())
    })
    .await;
    let last = number(&keda_asks(sidecar.address, &query).await.unwrap());
    assert!(last > 1, "the wish stands");
    sidecar.process.kill();
    let begun = Instant::now();
    let flags = ["--prometheus-url", &*url];
    let restarted = Sidecar::start_with(sidecar.address, config.path(), &flags).await;
    let first = wait_for("a decision after the restart", SOON, async || {
        let answer = keda_asks(restarted.address, &query).await.ok()?;
        match answer.status {
            StatusCode::OK => Some(number(&answer)),
            status => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
                None
            }
        }
    })
    .await;
    say!("{release:?}: kill -9 -> same decision ({first}): {:.2} s", begun.elapsed().as_secs_f64());
    let line = restarted.process.line("windows filled from Prometheus").await;
    say!("{line}");
    assert_eq!(first, last, "the decision before the restart");
    let variant = restarted.get("/api/v1/variants/llm/llama-8b-l40s").await.json();
    assert!(variant["load"]["arrivalRatePerSecond"].as_f64().is_some(), "the windows are full: {variant}");
    // The stream goes on where the past ended.
    wait_for("fresh input", SOON, async || {
        let age = restarted.gauge("inferno_input_age_seconds", L40S).await?;
        (age < 3.0).then_some(())
    })
    .await;
    assert_eq!(number(&keda_asks(restarted.address, &query).await.unwrap()), last);
    let progress = restarted.get("/metrics").await;
    assert!(progress.text().contains("\ninferno_sidecar_backfill_progress_ratio 1\n"));
}
