//! The same samples in both: the same answers, to the last digits.

use crate::real::Prometheus;
use crate::remote::everything;
use crate::{Sidecar, ask, data, post, seconds};
use inferno_sidecar::proto::WriteRequest;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest difference of two numbers, relative: sums are added up in another order.
const DIFFERENCE_MAX: f64 = 1e-9;

/// Each query is asked at many times, as an instant query and as a range.
const QUERIES: &[&str] = &[
    "inferno_desired_replicas",
    "inferno_desired_replicas{variant_name=~\"llama.*\",accelerator_type!=\"H100\"}",
    "inferno_kv_cache_usage_ratio offset 7m",
    "inferno_kv_cache_usage_ratio offset -2m",
    "{__name__=~\"(inferno|wva)_desired_replicas\",exported_namespace=\"llm\"}",
    "wva_current_replicas{controller_instance=\"\"}",
    "rate(inferno_replica_scaling_total[10m])",
    "increase(inferno_replica_scaling_total[5m])",
    "increase(inferno_replica_scaling_total[47s])",
    "irate(inferno_replica_scaling_total[5m])",
    "delta(inferno_requests_waiting[3m])",
    "idelta(inferno_requests_waiting[3m])",
    "rate(inferno_requests_running[2m])",
    "avg_over_time(inferno_kv_cache_usage_ratio[5m])",
    "min_over_time(inferno_kv_cache_usage_ratio[5m] offset 3m)",
    "max_over_time(inferno_requests_waiting[90s])",
    "sum_over_time(inferno_utilization_ratio[5m])",
    "count_over_time(inferno_ttft_seconds[5m])",
    "last_over_time(inferno_ttft_seconds[10m])",
    "present_over_time(inferno_ttft_seconds[10m])",
    "stddev_over_time(inferno_kv_cache_usage_ratio[5m])",
    "stdvar_over_time(inferno_requests_running[5m])",
    "changes(inferno_desired_replicas[10m])",
    "resets(inferno_requests_running[10m])",
    "sum by (accelerator_type) (inferno_requests_running)",
    "avg without (variant_name, variant_id, accelerator_type) (inferno_kv_cache_usage_ratio)",
    "max(inferno_desired_replicas) - min(inferno_desired_replicas)",
    "count by (__name__) ({__name__=~\"inferno_.*\"})",
    "inferno_desired_replicas != inferno_current_replicas",
    "inferno_desired_replicas > bool inferno_current_replicas",
    "inferno_requests_waiting / ignoring (controller_instance) inferno_requests_running",
    "inferno_desired_replicas - on (variant_name, namespace) inferno_current_replicas",
    "inferno_desired_replicas and on (variant_name) (inferno_requests_waiting > 3)",
    "inferno_desired_replicas unless on (variant_name) (inferno_requests_waiting > 3)",
    "inferno_requests_waiting > 5 or inferno_requests_running < 4",
    "sum(inferno_desired_replicas{variant_name=\"nobody\"}) or vector(0)",
    "clamp_max(clamp_min(inferno_requests_waiting, 2), 7)",
    "clamp(inferno_kv_cache_usage_ratio, 0.2, 0.6)",
    "round(inferno_kv_cache_usage_ratio * 100, 5) + ceil(inferno_ttft_seconds) - floor(inferno_utilization_ratio)",
    "scalar(inferno_desired_replicas{variant_name=\"qwen-14b-h100\"}) * vector(2) ^ 2 % 7",
    "abs(-inferno_requests_waiting)",
    "time() - time() % 60",
    "inferno_input_healthy == 0",
    "max_over_time(inferno_desired_replicas[1h] @ end())",
    "inferno_requests_running @ start()",
    "sum by (variant_name) (rate(inferno_replica_scaling_total{direction=\"up\"}[15m])) * 3600",
];

/// Raw samples are asked for at one time only.
const RAW: &[&str] = &["{__name__=~\"inferno_.*\"}[20m]", "inferno_desired_replicas[1h]"];

/// Values of a result by labels and time.
fn values(result: &Value) -> BTreeMap<String, BTreeMap<String, String>> {
    let text = |value: &Value| value.as_str().expect("values are text").to_owned();
    let point = |pair: &Value| {
        let ms = (pair[0].as_f64().expect("a time") * 1000.0).round();
        (ms.to_string(), text(&pair[1]))
    };
    let Some(all) = result["result"].as_array() else { panic!("no list: {result}") };
    if result["resultType"] == "scalar" {
        return BTreeMap::from([(String::new(), BTreeMap::from([point(&result["result"])]))]);
    }
    let series = all.iter().map(|series| {
        let points = match series["values"].as_array() {
            Some(points) => points.iter().map(point).collect(),
            None => BTreeMap::from([point(&series["value"])]),
        };
        (series["metric"].to_string(), points)
    });
    series.collect()
}

/// Fails where two results differ.
pub fn same(what: &str, ours: &Value, theirs: &Value) {
    assert_eq!(ours["resultType"], theirs["resultType"], "{what}");
    let (ours, theirs) = (values(ours), values(theirs));
    let keys = |all: &BTreeMap<String, BTreeMap<String, String>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ours), keys(&theirs), "{what}: other series");
    for (series, ours) in &ours {
        let theirs = &theirs[series];
        let times = |all: &BTreeMap<String, String>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(times(ours), times(theirs), "{what}: {series} at other times");
        for (time, value) in ours {
            let number = |text: &str| text.parse::<f64>().expect("a number");
            let (left, right) = (number(value), number(&theirs[time]));
            let is_same = left == right
                || left.is_nan() && right.is_nan()
                || (left - right).abs() <= DIFFERENCE_MAX * left.abs().max(right.abs()).max(1.0);
            assert!(is_same, "{what}: {series} at {time}: {left}, Prometheus says {right}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_of_the_past_have_prometheus_s_answers() {
    let sidecar = Sidecar::recorded().await;
    let Some(prometheus) = Prometheus::start("", &["--web.enable-remote-write-receiver"]).await else {
        return;
    };
    let timeseries = everything(&sidecar).await;
    let samples: usize = timeseries.iter().map(|series| series.samples.len()).sum();
    let request = WriteRequest { timeseries, ..WriteRequest::default() };
    let answer = post(prometheus.address, "/api/v1/write", &request.encode_to_vec()).await;
    assert!(answer.status.is_success(), "{}", answer.text());

    let (mut compared, mut found) = (0, 0);
    let mut both = async |path: &str, pairs: &[(&str, &str)]| {
        let (ours, theirs) =
            (ask(sidecar.address, path, pairs).await, ask(prometheus.address, path, pairs).await);
        assert_eq!(ours.status, theirs.status, "{pairs:?}: {} and {}", ours.text(), theirs.text());
        let (ours, theirs) = (data(&ours), data(&theirs));
        same(&format!("{path} {pairs:?}"), &ours, &theirs);
        compared += 1;
        found += values(&ours).values().map(BTreeMap::len).sum::<usize>();
    };
    // The last time that Prometheus can know of too, and the first that is recorded and the lookback.
    let (first, last) = (sidecar.end - 40 * 60_000, sidecar.end - 3 * 60_000);
    for query in QUERIES {
        for back in [3 * 60_000 + 1, 11 * 60_000, 17 * 60_000 + 777, 20 * 60_000, 31 * 60_000] {
            both("/api/v1/query", &[("query", query), ("time", &seconds(sidecar.end - back))]).await;
        }
        for step in ["15", "37.5", "5m"] {
            let (start, end) = (seconds(first), seconds(last));
            both(
                "/api/v1/query_range",
                &[("query", query), ("start", &start), ("end", &end), ("step", step)],
            )
            .await;
        }
    }
    for query in RAW {
        both("/api/v1/query", &[("query", query), ("time", &seconds(last))]).await;
    }
    println!("{samples} samples recorded; {compared} answers with {found} values are those of Prometheus");
}
