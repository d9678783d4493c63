//! What queries of the past say at its edges: deletions, decisions, the beginning of the record, limits.

use crate::stream::SCRAPE_MS;
use crate::{DELETED_AT, STEPS, Sidecar, ask, data, seconds};
use serde_json::{Value, json};

const DESIRED: &str = "inferno_desired_replicas";

fn names(data: &Value) -> Vec<String> {
    let elements = data["result"].as_array().or_else(|| data.as_array()).expect("a list");
    let label = |element: &Value| match element.get("metric") {
        Some(metric) => metric["variant_name"].clone(),
        None => element["variant_name"].clone(),
    };
    let mut names: Vec<String> =
        elements.iter().map(|element| label(element).as_str().expect("named").to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn a_deleted_variant_ends_and_was_there_before() {
    let sidecar = Sidecar::recorded().await;
    let deleted = sidecar.end - (STEPS - DELETED_AT) as i64 * SCRAPE_MS;
    for (time, count) in [(deleted - SCRAPE_MS, 3), (deleted + 2 * SCRAPE_MS, 2)] {
        let answer =
            ask(sidecar.address, "/api/v1/query", &[("query", DESIRED), ("time", &seconds(time))]).await;
        assert_eq!(names(&data(&answer)).len(), count, "{}", answer.text());
    }
    let present = ask(sidecar.address, "/api/v1/query", &[("query", DESIRED)]).await;
    assert_eq!(names(&data(&present)), ["llama-8b-l40s", "qwen-14b-h100"]);
    let listed = ask(sidecar.address, "/api/v1/series", &[("match[]", DESIRED)]).await;
    assert_eq!(names(&data(&listed)).len(), 2, "what there is now");
    let (start, end) = (seconds(sidecar.end - 3_000_000), seconds(sidecar.end));
    let listed =
        ask(sidecar.address, "/api/v1/series", &[("match[]", DESIRED), ("start", &start), ("end", &end)])
            .await;
    assert_eq!(names(&data(&listed)).len(), 3, "what there was");
    let values = ask(sidecar.address, "/api/v1/label/variant_name/values", &[("start", &start)]).await;
    assert_eq!(data(&values).as_array().map(Vec::len), Some(3));
    let recent = seconds(sidecar.end - 60_000);
    let listed = ask(sidecar.address, "/api/v1/series", &[("match[]", DESIRED), ("start", &recent)]).await;
    assert_eq!(names(&data(&listed)).len(), 2);
}

/// Steps lie on whole multiples; a decision is recorded at the time of the sample that caused it.
#[tokio::test]
async fn decisions_are_recorded_when_they_are_made() {
    let sidecar = Sidecar::recorded().await;
    let raw = ask(sidecar.address, "/api/v1/query", &[("query", "inferno_desired_replicas[1h]")]).await;
    let (mut moves, mut steps) = (0, 0);
    for series in data(&raw)["result"].as_array().expect("a list") {
        let points: Vec<(i64, String)> = series["values"]
            .as_array()
            .expect("points")
            .iter()
            .map(|pair| {
                ((pair[0].as_f64().unwrap() * 1000.0).round() as i64, pair[1].as_str().unwrap().into())
            })
            .collect();
        for two in points.windows(2) {
            assert!(two[0].0 < two[1].0);
            if two[1].0 % 15_000 == 0 {
                steps += 1;
                assert_eq!(two[0].1, two[1].1, "a change is recorded before the next step");
            } else {
                moves += 1;
                assert_eq!((sidecar.end - two[1].0) % SCRAPE_MS, 0, "at the time of a sample");
            }
        }
    }
    assert!(moves > 10 && steps > 300, "{moves} moves, {steps} steps");
}

#[tokio::test]
async fn nothing_is_made_up_before_the_record_begins() {
    let sidecar = Sidecar::recorded().await;
    let begin = sidecar.end - STEPS as i64 * SCRAPE_MS;
    let early = seconds(begin - 600_000);
    // An empty vector would be zero to an autoscaler.
    for pairs in [
        vec![("query", DESIRED), ("time", &*early)],
        vec![("query", "inferno_desired_replicas offset 2h")],
        vec![("query", "sum(inferno_desired_replicas offset 2h) or vector(0)")],
    ] {
        let answer = ask(sidecar.address, "/api/v1/query", &pairs).await;
        assert_eq!(answer.status, 422, "{pairs:?}: {}", answer.text());
        assert!(answer.text().contains("nothing is recorded before"), "{}", answer.text());
    }
    // A panel shows what there is.
    let end = seconds(sidecar.end);
    let pairs = [("query", DESIRED), ("start", &*early), ("end", &*end), ("step", "60")];
    let answer = data(&ask(sidecar.address, "/api/v1/query_range", &pairs).await);
    let first =
        answer["result"].as_array().expect("a list").iter().filter_map(|line| line["values"][0][0].as_f64());
    let first = first.fold(f64::MAX, f64::min) * 1000.0;
    assert!((begin as f64..begin as f64 + 120_000.0).contains(&first), "{first} {begin}");
}

#[tokio::test]
async fn long_answers_are_refused() {
    let sidecar = Sidecar::recorded().await;
    let (start, end) = (seconds(sidecar.end - 2_400_000), seconds(sidecar.end));
    let query = "{__name__=~\".+\"}";
    let pairs = [("query", query), ("start", &*start), ("end", &*end), ("step", "0.22")];
    let answer = ask(sidecar.address, "/api/v1/query_range", &pairs).await;
    assert_eq!(answer.status, 422, "{}", &answer.text()[..answer.text().len().min(300)]);
    assert!(answer.text().contains("take a larger step"), "{}", answer.text());
}

/// KEDA's clock may be late by seconds; the answer is never one with a variant missing.
#[tokio::test]
async fn a_late_clock_gets_the_number_of_its_time_or_an_error() {
    let sidecar = Sidecar::recorded().await;
    for late in [0, 900, 4_000, 12_000, 70_000, 250_000] {
        let time = seconds(sidecar.end - late);
        let answer = ask(sidecar.address, "/api/v1/query", &[("query", DESIRED), ("time", &time)]).await;
        assert_eq!(names(&data(&answer)), ["llama-8b-l40s", "qwen-14b-h100"], "{late} ms late");
        assert_eq!(data(&answer)["resultType"], json!("vector"));
    }
    // All that was recorded has ended 20 s ago: a variant that came since had no number then.
    let yaml = inferno_sidecar::emulate::standard::CONFIG_YAML;
    crate::configure(&sidecar.engine, yaml);
    let time = seconds(sidecar.end - 20_000);
    let answer = ask(sidecar.address, "/api/v1/query", &[("query", DESIRED), ("time", &time)]).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("llama-8b-h100 had no decision yet"), "{}", answer.text());
}
