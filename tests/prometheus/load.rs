//! A load step, from the first sample that shows it to the number that Prometheus scrapes back.

use crate::client::{form, get, post_form, vector};
use crate::cluster::now;
use crate::stack::Prometheus;
use crate::{L40S, SOON, World, keda_asks, llama_query, number, rfc3339_now, value_of, wait_for};

/// One more at a time, readable within the batch deadline of the sample that shows the need.
pub async fn a_step_raises_the_desired_count(world: &World) {
    let (sidecar, prometheus) = (&world.sidecar, &world.prometheus);
    let query = llama_query();
    let asked = form(&[("query", &query), ("time", &rfc3339_now())]);
    for answer in [
        keda_asks(sidecar.address, &query).await.unwrap(),
        get(sidecar.address, &format!("//api/v1/query?{asked}")).await.unwrap(),
        post_form(sidecar.address, "/api/v1/query", asked.clone()).await.unwrap(),
    ] {
        assert_eq!(number(&answer), 1);
        assert_eq!(answer.header("content-type"), "application/json");
        let element = &vector(&answer)[0];
        assert_eq!(element["metric"]["exported_namespace"], "llm");
        assert_eq!(element["metric"]["namespace"], "llm");
    }
    let element = wait_for("the gauge in Prometheus", SOON, async || {
        let vector = prometheus.query(&query).await?;
        assert!(vector.len() <= 1, "{vector:?}");
        vector.into_iter().next()
    })
    .await;
    assert_eq!(value_of(&element), 1);
    assert_eq!(element["metric"]["exported_namespace"], "llm");
    assert_eq!(element["metric"]["namespace"], "monitoring");

    let step = now();
    world.cluster.dial.turn(3000, 600);
    let (decided, desired) = wait_for("a higher desired count", SOON, async || {
        let desired = number(&keda_asks(sidecar.address, &query).await.unwrap());
        (desired > 1).then(|| (now(), desired))
    })
    .await;
    assert_eq!(desired, 2, "one more at a time");
    let variant = sidecar.get("/api/v1/variants/llm/llama-8b-l40s").await.json();
    let cause = variant["decision"]["previous"]["changedAtMs"].as_i64().expect("a change has its time");
    wait_for("the higher count in Prometheus", SOON, async || {
        let vector = prometheus.query(&query).await?;
        assert_eq!(vector.len(), 1, "{vector:?}");
        (value_of(&vector[0]) > 1).then_some(())
    })
    .await;
    let scraped = now();
    let first = first_sample_above(prometheus, 5.0).await;
    say!("load step -> first sample that shows it: {} ms", first - step.0);
    say!("that sample's time -> decision readable: {} ms", decided.0 - first);
    say!("sample that caused the decision -> decision readable: {} ms", decided.0 - cause);
    say!("load step -> decision readable: {} ms", decided.since(step));
    say!("decision readable -> same number in Prometheus: {} ms", scraped.since(decided));
    assert!(decided.0 - first < 3_000, "a second's batch deadline does not explain this delay");

    wait_for("a second replica that serves", SOON, async || {
        (world.cluster.status(L40S).ready >= 2).then_some(())
    })
    .await;
    wait_for("a third one wanted", SOON, async || {
        (number(&keda_asks(sidecar.address, &query).await.unwrap()) >= 3).then_some(())
    })
    .await;
}

/// Time of the first sample of waiting requests above `threshold`, in Prometheus's own storage, ms.
async fn first_sample_above(prometheus: &Prometheus, threshold: f64) -> i64 {
    let series = prometheus.query("vllm:num_requests_waiting{namespace=\"llm\"}[5m]").await.expect("stored");
    let samples = series.iter().flat_map(|series| series["values"].as_array().cloned().unwrap_or_default());
    samples
        .filter(|sample| sample[1].as_str().and_then(|text| text.parse::<f64>().ok()) > Some(threshold))
        .filter_map(|sample| sample[0].as_f64())
        .map(|seconds| (seconds * 1000.0).round() as i64)
        .min()
        .expect("a sample shows the step")
}
