//! Both sides are killed and started again while the load goes on.

use crate::cluster::now;
use crate::stack::{Prometheus, Sidecar};
use crate::{L40S, SOON, World, keda_asks, llama_query, number, wait_for};
use axum::http::StatusCode;
use std::time::{Duration, Instant};

/// The last decision comes back from the stream; until then the answer is 503 (held by the monitor).
pub async fn the_sidecar_dies_and_comes_back(world: &mut World) {
    let query = llama_query();
    // A wish that nobody has carried out yet is forgotten; what runs, as the stream shows it, is not.
    let before = wait_for("the decision carried out and reported", SOON, async || {
        let desired = number(&keda_asks(world.sidecar.address, &query).await.unwrap());
        let current = world.sidecar.gauge("inferno_current_replicas", L40S).await;
        (current == Some(f64::from(desired))).then_some(desired)
    })
    .await;
    world.sidecar.process.kill();
    keda_asks(world.sidecar.address, &query).await.expect_err("nobody answers");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    world.sidecar = Sidecar::start(world.sidecar.address, world.config.path()).await;
    let first = wait_for("a decision after the restart", SOON, async || {
        let answer = keda_asks(world.sidecar.address, &query).await.ok()?;
        if answer.status != StatusCode::OK {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
            assert_eq!(answer.json()["errorType"], "unavailable");
            return None;
        }
        Some(number(&answer))
    })
    .await;
    say!("sidecar's restart -> decision: {:.2} s", begun.elapsed().as_secs_f64());
    assert!(first >= before, "{first} after the restart, {before} were there");
    world.monitor.assert_no_complaint();
}

pub async fn prometheus_dies(world: &mut World) {
    let query = llama_query();
    // The sidecar has just started: from the second scrape on it knows when input is late.
    let newest = async || {
        let variant = world.sidecar.get("/api/v1/variants/llm/llama-8b-l40s").await.json();
        variant["input"]["newestSampleMs"].as_i64()
    };
    let mut seen = newest().await;
    for _ in 0..3 {
        seen = wait_for("a further scrape", SOON, async || {
            newest().await.filter(|now| Some(*now) > seen).map(Some)
        })
        .await;
    }
    world.prometheus.process.kill();
    // What was under way arrives; after that the input is silent.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = number(&keda_asks(world.sidecar.address, &query).await.unwrap());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(number(&keda_asks(world.sidecar.address, &query).await.unwrap()), held);
    let age = world.sidecar.gauge("inferno_input_age_seconds", L40S).await.expect("an age is published");
    assert!(age >= 1.5, "input age {age} s, two seconds after the stream stopped");
}

/// Long after the last sample the answer is still the last decision, and its input is called stale.
pub async fn the_decision_is_held_without_input(world: &World) {
    let query = llama_query();
    let held = number(&keda_asks(world.sidecar.address, &query).await.unwrap());
    wait_for("stale input reported", SOON, async || {
        // Until then another fault may stand there, such as a pod that had not reported yet.
        let stale = format!("variant_name=\"{L40S}\",reason=\"stale\"");
        assert_eq!(number(&keda_asks(world.sidecar.address, &query).await.unwrap()), held);
        world.sidecar.gauge("inferno_input_healthy", &stale).await
    })
    .await;
    let variant = world.sidecar.get("/api/v1/variants/llm/llama-8b-l40s").await.json();
    assert_eq!(variant["input"]["healthy"], false);
    assert_eq!(variant["input"]["faults"][0]["reason"], "stale", "{variant}");
    let age = world.sidecar.gauge("inferno_input_age_seconds", L40S).await.expect("an age is published");
    say!("input called stale at an age of {age} s, {held} replicas held");
    world.monitor.assert_no_complaint();
}

/// Prometheus replays its log and streams on, now with a shorter batch deadline.
pub async fn prometheus_comes_back(world: &mut World) {
    let begun = Instant::now();
    world.prometheus =
        Prometheus::start(&world.release, world.data.path(), &world.cluster, world.sidecar.address, "100ms")
            .await;
    wait_for("healthy input", SOON, async || {
        let healthy = world.sidecar.gauge("inferno_input_healthy", L40S).await;
        (healthy == Some(1.0)).then_some(())
    })
    .await;
    say!("Prometheus's restart -> healthy input: {:.1} s", begun.elapsed().as_secs_f64());
    world.monitor.assert_no_complaint();

    // However many there are by now, this is more than they carry. The cheaper variant may be at its bound.
    let desired = async |name: &str| world.sidecar.gauge("inferno_desired_replicas", name).await;
    let names = [L40S, "llama-8b-h100"];
    let held = [desired(names[0]).await, desired(names[1]).await];
    world.cluster.dial.turn(3000, 2000);
    let (decided, name) = wait_for("a further rise", SOON, async || {
        for (name, held) in names.into_iter().zip(held) {
            if desired(name).await > held {
                return Some((now(), name));
            }
        }
        None
    })
    .await;
    let variant = world.sidecar.get(&format!("/api/v1/variants/llm/{name}")).await.json();
    let cause = variant["decision"]["previous"]["changedAtMs"].as_i64().expect("a change has its time");
    say!("batch deadline 100 ms: sample that caused a rise -> readable: {} ms", decided.0 - cause);
    assert!(decided.0 - cause < 1_000, "a deadline of 100 ms does not explain this delay");
    let all = world.prometheus.query("count(inferno_desired_replicas)").await.expect("answered");
    assert_eq!(all[0]["value"][1], "3", "{all:?}");
}
