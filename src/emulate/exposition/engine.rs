//! The metrics of one engine: a table from names, in both generations, to readings.

use super::super::fleet::{Model, Pod, Variant};
use super::super::histogram::{Histogram, ITL_BOUNDS_V0, TTFT_BOUNDS_V0};
use super::super::replica::Replica;
use super::super::request::Counters;
use super::super::spec::EngineVersion;
use super::{Family, Kind, Point, Wanted, number};

/// How a metric is read from an engine.
enum Reading {
    Gauge(fn(&Replica) -> f64),
    Counter(fn(&Counters) -> u64),
    /// A counter by `finished_reason`.
    Finished,
    /// A histogram, and how many of its bounds the v0 engine has.
    Histogram(fn(&Counters) -> &Histogram, usize),
    /// A gauge of 1 whose labels are the cache configuration.
    CacheConfig,
}

/// One metric; a name is `None` in a generation that does not have it.
struct Metric {
    v1: Option<&'static str>,
    v0: Option<&'static str>,
    help: &'static str,
    reading: Reading,
}

/// A metric that both generations call the same.
const fn both(name: &'static str, help: &'static str, reading: Reading) -> Metric {
    Metric { v1: Some(name), v0: Some(name), help, reading }
}

/// A metric of the v1 engine alone.
const fn only_v1(name: &'static str, help: &'static str, reading: Reading) -> Metric {
    Metric { v1: Some(name), v0: None, help, reading }
}

/// A metric of the v0 engine alone.
const fn only_v0(name: &'static str, help: &'static str, reading: Reading) -> Metric {
    Metric { v1: None, v0: Some(name), help, reading }
}

/// A metric under a name of its own in each generation.
const fn renamed(v1: &'static str, v0: &'static str, help: &'static str, reading: Reading) -> Metric {
    Metric { v1: Some(v1), v0: Some(v0), help, reading }
}

/// Both generations have all bounds.
const ALL: usize = usize::MAX;

const METRICS: &[Metric] = &[
    both("vllm:num_requests_running", "Requests in the batch.", Reading::Gauge(|r| r.running() as f64)),
    both("vllm:num_requests_waiting", "Requests not admitted yet.", Reading::Gauge(|r| r.waiting() as f64)),
    only_v0("vllm:num_requests_swapped", "Requests swapped out to host memory.", Reading::Gauge(|_| 0.0)),
    renamed(
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "Share of the KV cache blocks in use, 0 to 1.",
        Reading::Gauge(Replica::kv_usage),
    ),
    only_v0(
        "vllm:cpu_cache_usage_perc",
        "Share of the host KV blocks in use, 0 to 1.",
        Reading::Gauge(|_| 0.0),
    ),
    only_v1(
        "vllm:prefix_cache_queries_total",
        "Prompt tokens looked up in the prefix cache.",
        Reading::Counter(|c| c.prefix_queries),
    ),
    only_v1(
        "vllm:prefix_cache_hits_total",
        "Prompt tokens found in the prefix cache.",
        Reading::Counter(|c| c.prefix_hits),
    ),
    both(
        "vllm:num_preemptions_total",
        "Preemptions for want of KV blocks.",
        Reading::Counter(|c| c.preemptions),
    ),
    both("vllm:prompt_tokens_total", "Prompt tokens processed.", Reading::Counter(|c| c.prompt_tokens)),
    both("vllm:generation_tokens_total", "Tokens generated.", Reading::Counter(|c| c.generation_tokens)),
    both("vllm:request_success_total", "Finished requests by reason.", Reading::Finished),
    both("vllm:cache_config_info", "Configuration of the KV cache.", Reading::CacheConfig),
    both(
        "vllm:time_to_first_token_seconds",
        "Time from arrival to the first token, seconds.",
        Reading::Histogram(|c| &c.ttft_s, TTFT_BOUNDS_V0),
    ),
    renamed(
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
        "Time between two tokens of a request, seconds.",
        Reading::Histogram(|c| &c.itl_s, ITL_BOUNDS_V0),
    ),
    only_v1(
        "vllm:request_time_per_output_token_seconds",
        "Mean time per output token of finished requests, seconds.",
        Reading::Histogram(|c| &c.tpot_s, ALL),
    ),
    both(
        "vllm:e2e_request_latency_seconds",
        "Time from arrival to the last token, seconds.",
        Reading::Histogram(|c| &c.e2e_s, ALL),
    ),
    both(
        "vllm:request_queue_time_seconds",
        "Time from arrival to admission, seconds.",
        Reading::Histogram(|c| &c.queue_s, ALL),
    ),
    both(
        "vllm:request_prompt_tokens",
        "Prompt tokens per finished request.",
        Reading::Histogram(|c| &c.request_prompt_tokens, ALL),
    ),
    both(
        "vllm:request_generation_tokens",
        "Generated tokens per finished request.",
        Reading::Histogram(|c| &c.request_generation_tokens, ALL),
    ),
];

type Labels = Vec<(&'static str, String)>;

/// What the engine in `pod` exposes; `None` while it does not answer.
pub(super) fn families(
    model: &Model,
    variant: &Variant,
    pod: &Pod,
    wanted: Wanted<'_>,
) -> Option<Vec<Family>> {
    let replica = pod.replica.as_ref()?;
    let version = variant.spec.engine;
    let engine: Labels = match version {
        EngineVersion::V0 => Vec::new(),
        EngineVersion::V1 => vec![("engine", "0".to_owned())],
    };
    let named = [engine.clone(), vec![("model_name", model.model_id.clone())]].concat();
    let of_metric = |metric: &Metric| {
        let name = match version {
            EngineVersion::V0 => metric.v0,
            EngineVersion::V1 => metric.v1,
        }?;
        let counters = replica.counters();
        let one = |value: f64| vec![Point { suffix: "", labels: named.clone(), value }];
        let (kind, points) = match metric.reading {
            Reading::Gauge(read) => (Kind::Gauge, one(read(replica))),
            Reading::Counter(read) => (Kind::Counter, one(read(counters) as f64)),
            Reading::Finished => (Kind::Counter, finished(counters, &named)),
            Reading::CacheConfig => (Kind::Gauge, vec![cache_config(replica, &engine)]),
            Reading::Histogram(read, v0_bounds) => {
                let bounds = if version == EngineVersion::V0 { v0_bounds } else { ALL };
                let points = match wanted(&[name, "_bucket"].concat()) {
                    true => buckets(read(counters), bounds, &named),
                    false => Vec::new(),
                };
                (Kind::Histogram, [points, sums(read(counters), &named)].concat())
            }
        };
        Some(Family { name, help: metric.help, kind, points })
    };
    Some(METRICS.iter().filter_map(of_metric).collect())
}

fn with(labels: &Labels, name: &'static str, value: String) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value));
    labels
}

fn finished(counters: &Counters, labels: &Labels) -> Vec<Point> {
    [("stop", counters.success_stop), ("length", counters.success_length), ("abort", 0)]
        .into_iter()
        .map(|(reason, count)| Point {
            suffix: "",
            labels: with(labels, "finished_reason", reason.to_owned()),
            value: count as f64,
        })
        .collect()
}

/// The engine puts no `model_name` on this one.
fn cache_config(replica: &Replica, engine: &Labels) -> Point {
    let profile = replica.profile();
    let mut labels: Labels = vec![
        ("block_size", profile.block_size.to_string()),
        ("cache_dtype", "auto".to_owned()),
        ("enable_prefix_caching", "True".to_owned()),
    ];
    labels.extend_from_slice(engine);
    labels.push(("gpu_memory_utilization", "0.9".to_owned()));
    labels.push(("num_gpu_blocks", profile.num_gpu_blocks.to_string()));
    Point { suffix: "", labels, value: 1.0 }
}

fn buckets(histogram: &Histogram, bounds: usize, labels: &Labels) -> Vec<Point> {
    let count = histogram.count();
    histogram
        .cumulative(bounds)
        .chain([(f64::INFINITY, count)])
        .map(|(bound, below)| Point {
            suffix: "_bucket",
            labels: with(labels, "le", number(bound)),
            value: below as f64,
        })
        .collect()
}

fn sums(histogram: &Histogram, labels: &Labels) -> Vec<Point> {
    vec![
        Point { suffix: "_count", labels: labels.clone(), value: histogram.count() as f64 },
        Point { suffix: "_sum", labels: labels.clone(), value: histogram.sum() },
    ]
}
