//! A configuration that vanishes, and one that never rests.

use crate::sidecar::{Scrape, Sidecar, configuration};
use crate::{TURN, wait_for};
use std::fs;
use std::time::{Duration, Instant};

async fn problems(sidecar: &Sidecar, wanted: f64) {
    wait_for(&format!("{wanted} problems"), async || {
        (sidecar.figure("inferno_sidecar_config_problems").await == Some(wanted)).then_some(())
    })
    .await;
}

async fn threshold(sidecar: &Sidecar) -> Option<u64> {
    let variant = sidecar.get("/api/v1/variants/llm/a").await.json();
    variant.pointer("/decision/thresholds/queueLengthThreshold")?.as_f64().map(|value| value as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folder_vanishes_and_comes_back() {
    let _turn = TURN.lock().await;
    let sidecar = Sidecar::start().await;
    assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
    sidecar.until_desired(2).await;
    let (dir, away) = (sidecar.config(), sidecar.config().with_extension("away"));
    fs::rename(&dir, &away).expect("the folder is ours");
    problems(&sidecar, 1.0).await;
    // What was in force still decides.
    assert_eq!(sidecar.desired().await, Some(2));
    wait_for("a decision without the folder", async || {
        assert_eq!(sidecar.write(&Scrape::now(2, 0.95, 9.0)).await.status, 204);
        (sidecar.desired().await == Some(3)).then_some(())
    })
    .await;
    fs::write(away.join("all.yaml"), configuration(7)).expect("the folder is ours");
    fs::rename(&away, &dir).expect("the folder is ours");
    problems(&sidecar, 0.0).await;
    wait_for("what changed meanwhile", async || (threshold(&sidecar).await == Some(7)).then_some(())).await;
    fs::remove_dir_all(&dir).expect("the folder is ours");
    problems(&sidecar, 1.0).await;
    assert_eq!(threshold(&sidecar).await, Some(7));
    fs::create_dir(&dir).expect("the folder is ours");
    fs::write(dir.join("all.yaml"), configuration(6)).expect("the folder is ours");
    problems(&sidecar, 0.0).await;
    wait_for("the new one", async || (threshold(&sidecar).await == Some(6)).then_some(())).await;
    assert_eq!(sidecar.desired().await, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_in_a_fraction_of_a_minute_disturb_nobody() {
    let _turn = TURN.lock().await;
    let mut sidecar = Sidecar::start().await;
    assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
    sidecar.until_desired(2).await;
    let file = sidecar.config().join("all.yaml");
    let (before_kib, begun) = (sidecar.process.resident_kib(), Instant::now());
    let mut slowest = Duration::ZERO;
    // Eight times as fast as a thousand a minute.
    let mut pace = tokio::time::interval(Duration::from_micros(7_500));
    for round in 0..1000 {
        pace.tick().await;
        let fresh = file.with_extension("new");
        fs::write(&fresh, configuration(6 + round % 5)).expect("the folder is ours");
        fs::rename(fresh, &file).expect("the folder is ours");
        let written = Instant::now();
        assert_eq!(sidecar.write(&Scrape::now(2, 0.5, 2.0)).await.status, 204);
        slowest = slowest.max(written.elapsed());
        assert_eq!(sidecar.desired().await, Some(2), "change {round}");
    }
    let took = begun.elapsed();
    fs::write(&file, configuration(12)).expect("the folder is ours");
    let last = Instant::now();
    wait_for("the last of them in force", async || (threshold(&sidecar).await == Some(12)).then_some(()))
        .await;
    let applied = sidecar.figure("inferno_sidecar_config_applied_total").await.expect("published");
    let grown_kib = sidecar.process.resident_kib().saturating_sub(before_kib);
    say!(
        "1,000 changes in {:.1} s: {applied} times applied, slowest write {:.1} ms, the last in force after \
         {:.0} ms, {grown_kib} KiB more memory",
        took.as_secs_f64(),
        slowest.as_secs_f64() * 1e3,
        last.elapsed().as_secs_f64() * 1e3
    );
    assert!(grown_kib < 16 << 10, "{grown_kib} KiB");
    sidecar.process.assert_running();
}
