//! A stream of an hour and more, made up: three variants whose load goes up and down, with counters, a pod that
//! restarts, and replica counts that change.

use inferno_sidecar::proto::{Label, Sample, TimeSeries};

/// Time between two scrapes, ms.
pub const SCRAPE_MS: i64 = 15_000;

/// The variants of the demo's configuration, with their models.
pub const VARIANTS: [(&str, &str); 3] = [
    ("qwen-14b-h100", "Qwen/Qwen3-14B"),
    ("llama-8b-l40s", "meta-llama/Llama-3.1-8B-Instruct"),
    ("llama-8b-h100", "meta-llama/Llama-3.1-8B-Instruct"),
];

fn series(labels: &[(&str, &str)], timestamp: i64, value: f64) -> TimeSeries {
    let label = |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into() };
    let labels = labels.iter().map(label).collect();
    TimeSeries { labels, samples: vec![Sample { value, timestamp }], ..TimeSeries::default() }
}

/// Pods of the `variant`-th variant at scrape `step`.
fn pods(variant: usize, step: usize) -> usize {
    1 + (step / 40 + variant) % 2
}

/// What all pods and kube-state-metrics report at scrape `step`, at `time`.
pub fn scrape(step: usize, time: i64) -> Vec<TimeSeries> {
    let mut all = Vec::new();
    for (index, (variant, model)) in VARIANTS.iter().enumerate() {
        let count = pods(index, step);
        for name in ["kube_deployment_status_replicas", "kube_deployment_status_replicas_ready"] {
            let labels = [("__name__", name), ("deployment", variant), ("namespace", "llm")];
            all.push(series(&labels, time, count as f64));
        }
        for pod in 0..count {
            let wave = ((step * (index + 2) + pod * 7) as f64 / 9.0).sin();
            let served = (step % 90) as f64 * (3.0 + index as f64);
            let name = format!("{variant}-7d9c5b8f6d-bbbb{}", ["b", "c"][pod]);
            for (metric, value) in [
                ("vllm:kv_cache_usage_perc", 0.45 + 0.44 * wave),
                ("vllm:num_requests_waiting", (4.0 + 5.0 * wave).floor().max(0.0)),
                ("vllm:num_requests_running", (8.0 + 6.0 * wave).floor()),
                ("vllm:request_success_total", served),
                ("vllm:prompt_tokens_total", served * 811.0),
                ("vllm:generation_tokens_total", served * 203.0),
                ("vllm:time_to_first_token_seconds_sum", served * (0.31 + 0.1 * wave.abs())),
                ("vllm:time_to_first_token_seconds_count", served),
            ] {
                let labels =
                    [("__name__", metric), ("model_name", model), ("namespace", "llm"), ("pod", &*name)];
                all.push(series(&labels, time, value));
            }
        }
    }
    all
}
