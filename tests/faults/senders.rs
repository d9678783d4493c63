//! Real Prometheus servers that send twice, and pods that come, go and start anew.

use crate::fleet::{Fleet, RATE_PER_S, WAITING};
use crate::overload::sending;
use crate::real::Prometheus;
use crate::sidecar::Sidecar;
use crate::{TURN, all_along, wait_for};
use std::time::Duration;

/// Settles until both pods count in full; returns the relevant series that are live.
async fn settled(sidecar: &Sidecar) -> f64 {
    sidecar.until_desired(2).await;
    wait_for("the load of both pods", async || {
        let waiting = sidecar.figure("inferno_requests_waiting").await;
        let rate = sidecar.figure("inferno_arrival_rate_per_second").await?;
        (waiting == Some(2.0 * WAITING) && (rate / RATE_PER_S - 2.0).abs() < 0.3).then_some(())
    })
    .await;
    sidecar.figure("inferno_sidecar_series").await.expect("it is published")
}

/// Everything that would be twice as large if a sample counted twice.
async fn assert_single(sidecar: &Sidecar) {
    let waiting = sidecar.figure("inferno_requests_waiting").await.expect("the load is known");
    assert!(waiting <= 2.0 * WAITING, "{waiting} requests wait");
    let rate = sidecar.figure("inferno_arrival_rate_per_second").await.expect("the rate is known");
    assert!((1.0..3.0).contains(&(rate / RATE_PER_S)), "{rate} requests/s arrive");
    assert_eq!(sidecar.figure("inferno_current_replicas").await, Some(2.0));
    assert_eq!(sidecar.desired().await, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_prometheus_that_send_the_same_count_once() {
    let _turn = TURN.lock().await;
    for label in ["", "prometheus_replica", "__replica__", "replica"] {
        let labelled = |name: &str| match label {
            "" => "cluster: c".to_owned(),
            label => format!("cluster: c, {label}: {name}"),
        };
        let (fleet, sidecar) = (Fleet::start().await, Sidecar::start().await);
        let one = fleet.settings(sidecar.address, &labelled("prometheus-0"));
        let Some(_one) = Prometheus::start(&one, &[]).await else { return };
        let alone = settled(&sidecar).await;
        let two = fleet.settings(sidecar.address, &labelled("prometheus-1"));
        let Some(second) = Prometheus::start(&two, &[]).await else { return };
        let mut delivered = 0.0;
        while delivered < 100.0 {
            all_along(Duration::from_millis(500), async || assert_single(&sidecar).await).await;
            delivered = sending(&second, "samples_total").await;
        }
        assert_eq!(sidecar.figure("inferno_sidecar_series").await, Some(alone), "label {label:?}");
        // One of them goes, the other goes on.
        drop(second);
        all_along(Duration::from_secs(2), async || assert_single(&sidecar).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_flaps_does_not_move_the_count() {
    let _turn = TURN.lock().await;
    let (fleet, sidecar) = (Fleet::start().await, Sidecar::start().await);
    let settings = fleet.settings(sidecar.address, "");
    let Some(_prometheus) = Prometheus::start(&settings, &[]).await else { return };
    settled(&sidecar).await;
    for _ in 0..4 {
        fleet.set_down(true);
        wait_for("the pod is gone", async || {
            assert_eq!(sidecar.desired().await, Some(2));
            (sidecar.figure("inferno_requests_waiting").await == Some(WAITING)).then_some(())
        })
        .await;
        fleet.set_down(false);
        wait_for("the pod is back", async || {
            assert_eq!(sidecar.desired().await, Some(2));
            (sidecar.figure("inferno_requests_waiting").await == Some(2.0 * WAITING)).then_some(())
        })
        .await;
    }
    assert_eq!(sidecar.process.lines("scale up").len() + sidecar.process.lines("scale down").len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_starts_anew_is_no_burst_and_no_lull() {
    let _turn = TURN.lock().await;
    let (fleet, sidecar) = (Fleet::start().await, Sidecar::start().await);
    let settings = fleet.settings(sidecar.address, "");
    let Some(_prometheus) = Prometheus::start(&settings, &[]).await else { return };
    settled(&sidecar).await;
    for _ in 0..3 {
        fleet.restart();
        all_along(Duration::from_secs(3), async || assert_single(&sidecar).await).await;
    }
}
