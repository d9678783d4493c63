//! The fleet that the engine benchmark runs: configuration, and what its pods report in a scrape.

use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::engine::Engine;
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::units::TimeMs;
use prost::Message;
use std::fmt::Write;
use std::sync::Arc;

/// When the fleet starts.
const START_MS: i64 = 1_767_225_600_000;
/// Scrape interval.
pub const INTERVAL_MS: i64 = 15_000;
/// Pods per variant.
pub const PODS: usize = 2;
/// Variants per namespace.
const PER_NAMESPACE: usize = 60;
/// Scrapes of everything before anything is measured: more than the window holds.
const WARM_UP_SCRAPES: i64 = 9;
/// The same in mode `slo`: what its replicas can do has been learned.
const LEARNING_SCRAPES: i64 = 40;
/// Series per request, as a sender with default settings has it.
pub const PER_REQUEST: usize = 2_000;
/// Accelerators of a model with several variants.
const ACCELERATORS: [&str; 3] = ["H100", "A100", "L40S"];

/// What matters of a pod: metric, value at the start, growth per scrape.
const RELEVANT: [(&str, f64, f64); 17] = [
    ("vllm:kv_cache_usage_perc", 0.4, 0.0),
    ("vllm:num_requests_waiting", 0.0, 0.0),
    ("vllm:num_requests_running", 4.0, 0.0),
    ("vllm:request_success_total", 40.0, 5.0),
    ("vllm:prompt_tokens_total", 40_960.0, 5_120.0),
    ("vllm:generation_tokens_total", 10_240.0, 1_280.0),
    ("vllm:request_generation_tokens_sum", 10_240.0, 1_280.0),
    ("vllm:request_generation_tokens_count", 40.0, 5.0),
    ("vllm:time_to_first_token_seconds_sum", 4.0, 0.5),
    ("vllm:time_to_first_token_seconds_count", 40.0, 5.0),
    ("vllm:inter_token_latency_seconds_sum", 307.2, 38.4),
    ("vllm:inter_token_latency_seconds_count", 10_240.0, 1_280.0),
    ("vllm:request_queue_time_seconds_sum", 0.4, 0.05),
    ("vllm:request_queue_time_seconds_count", 40.0, 5.0),
    ("vllm:prefix_cache_hits_total", 4_096.0, 512.0),
    ("vllm:prefix_cache_queries_total", 40_960.0, 5_120.0),
    ("vllm:cache_config_info", 1.0, 0.0),
];

/// As many from the start are enough to size by.
const NEEDED: usize = 12;

/// Histograms whose buckets nobody needs.
const HISTOGRAMS: [&str; 14] = [
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_inference_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_params_n_bucket",
    "vllm:request_params_max_tokens_bucket",
    "vllm:request_max_num_generation_tokens_bucket",
    "vllm:iteration_tokens_total_bucket",
    "http_request_duration_seconds_bucket",
];
/// Buckets of each.
const BUCKETS: usize = 20;

/// An engine and the fleet that reports to it.
pub struct Fleet {
    /// The engine.
    pub engine: Engine,
    /// Models.
    pub models: usize,
    /// Variants per model.
    pub kinds: usize,
    /// Scrapes of the warm-up.
    warm_up: i64,
}

/// `scrape` intervals after the start.
pub fn at(scrape: i64) -> TimeMs {
    TimeMs(START_MS + scrape * INTERVAL_MS)
}

fn series(metric: &str, labels: &[(&str, &str)], value: f64, time: TimeMs) -> TimeSeries {
    let name = [("__name__", metric)];
    let mut labels: Vec<Label> = name
        .iter()
        .chain(labels)
        .map(|(name, value)| Label { name: (*name).into(), value: (*value).into() })
        .collect();
    labels.sort_by(|one, other| one.name.cmp(&other.name));
    TimeSeries { labels, samples: vec![Sample { value, timestamp: time.0 }], ..TimeSeries::default() }
}

/// The encoded request.
pub fn encode(timeseries: Vec<TimeSeries>) -> Vec<u8> {
    WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec()
}

impl Fleet {
    /// A fleet that is configured and has not reported.
    pub fn cold(models: usize, kinds: usize, mode: &str) -> Self {
        let mut engine = Engine::new(Arc::new(Dialects::built_in()));
        let files = files(models, kinds, mode);
        let documents: Vec<_> = files.iter().flat_map(|file| documents("bench.yaml", file)).collect();
        let resolved = resolve(&documents, &Resolved::default());
        assert!(resolved.problems.is_empty(), "{:?}", resolved.problems.first());
        engine.apply_snapshot(&resolved.snapshot, Arc::from([]));
        engine.publish();
        let warm_up = if mode.contains("slo") { LEARNING_SCRAPES } else { WARM_UP_SCRAPES };
        Fleet { engine, models, kinds, warm_up }
    }

    /// Everything relevant is reported, one variant at a time, so that little is held besides.
    pub fn report(&mut self, scrape: i64, relevant_only: bool) {
        for variant in 0..self.models * self.kinds {
            let time = at(scrape);
            let pods = (0..PODS).flat_map(|pod| self.pod(variant * PODS + pod, scrape, time, relevant_only));
            let request = encode(target(variant, time).into_iter().chain(pods).collect());
            self.engine.write_v1(&request, time).expect("the request is sound");
        }
        self.engine.publish();
    }

    /// A fleet that has reported until every window is full.
    pub fn warm(models: usize, kinds: usize, mode: &str) -> Self {
        let mut fleet = Fleet::cold(models, kinds, mode);
        for scrape in 0..fleet.warm_up {
            for request in fleet.scrape(scrape, true, true) {
                fleet.engine.write_v1(&encode(request), at(scrape)).expect("the request is sound");
            }
            fleet.engine.publish();
        }
        let entries = &fleet.engine.board().entries;
        let evidence =
            entries.values().filter_map(|entry| entry.decision.as_ref()).map(|decision| &decision.evidence);
        let in_mode = evidence.filter(|evidence| evidence.fallback.is_none()).count();
        assert_eq!(in_mode, models * kinds, "every variant is decided, and in its mode");
        fleet
    }

    /// Number of the first scrape after the warm-up.
    pub fn next_scrape(&self) -> i64 {
        self.warm_up
    }

    /// Pods of all variants.
    pub fn pods(&self) -> usize {
        self.models * self.kinds * PODS
    }

    /// A scrape of everything, as a sender splits it up.
    pub fn scrape(&self, scrape: i64, targets: bool, relevant_only: bool) -> Vec<Vec<TimeSeries>> {
        self.scrape_at(scrape, at(scrape), targets, relevant_only)
    }

    /// The same at another time.
    pub fn scrape_at(
        &self,
        scrape: i64,
        time: TimeMs,
        targets: bool,
        relevant_only: bool,
    ) -> Vec<Vec<TimeSeries>> {
        let mut requests = vec![Vec::with_capacity(PER_REQUEST)];
        let variants = if targets { self.models * self.kinds } else { 0 };
        let targets = (0..variants).flat_map(|number| target(number, time));
        let pods = (0..self.pods()).flat_map(|pod| self.pod(pod, scrape, time, relevant_only));
        for series in targets.chain(pods) {
            if requests[requests.len() - 1].len() == PER_REQUEST {
                requests.push(Vec::with_capacity(PER_REQUEST));
            }
            requests.last_mut().expect("there is one").push(series);
        }
        requests
    }

    /// What one pod reports.
    pub fn pod(&self, pod: usize, scrape: i64, time: TimeMs, relevant_only: bool) -> Vec<TimeSeries> {
        let number = pod / PODS;
        let (namespace, variant) = (namespace(number), format!("variant-{number}"));
        let name = format!("{variant}-7d9c5b8f6d-{}", ["bbbbb", "ccccc"][pod % PODS]);
        let model = format!("org/model-{}", number / self.kinds);
        let instance = format!("10.{}.{}.{}:8000", pod >> 16, pod >> 8 & 255, pod & 255);
        let own = [
            ("container", "vllm"),
            ("endpoint", "http"),
            ("engine", "0"),
            ("instance", &*instance),
            ("job", "vllm"),
            ("model_name", &*model),
            ("namespace", &*namespace),
            ("pod", &*name),
        ];
        let mut all = Vec::new();
        // A fleet of variants on several accelerators would not fit the engine's limit of series otherwise.
        let relevant = if self.kinds > 1 { &RELEVANT[..NEEDED] } else { &RELEVANT[..] };
        for (index, (metric, start, growth)) in relevant.iter().enumerate() {
            // Gauges move a little, so that every scrape says something new.
            let moved = if index == 0 { 0.01 * (scrape % 7) as f64 } else { 0.0 };
            let value = start + growth * scrape as f64 + moved;
            let extra: &[(&str, &str)] = match *metric {
                "vllm:request_success_total" => &[("finished_reason", "stop")],
                "vllm:cache_config_info" => &[("block_size", "16"), ("num_gpu_blocks", "8192")],
                _ => &[],
            };
            all.push(series(metric, &[&own[..], extra].concat(), value, time));
        }
        let buckets = HISTOGRAMS.iter().flat_map(|metric| (0..BUCKETS).map(move |bucket| (metric, bucket)));
        for (metric, bucket) in buckets.filter(|_| !relevant_only) {
            let bound = format!("{}", 0.005 * f64::from(1 << bucket));
            let value = (scrape * (bucket as i64 + 1)) as f64;
            all.push(series(metric, &[&own[..], &[("le", &*bound)]].concat(), value, time));
        }
        all
    }
}

/// Namespace of a variant.
pub fn namespace(variant: usize) -> String {
    format!("team-{}", variant / PER_NAMESPACE)
}

/// What kube-state-metrics says of one variant's Deployment.
pub fn target(number: usize, time: TimeMs) -> Vec<TimeSeries> {
    let (namespace, name) = (namespace(number), format!("variant-{number}"));
    let own = [("deployment", &*name), ("job", "kube-state-metrics"), ("namespace", &*namespace)];
    [
        "kube_deployment_status_replicas",
        "kube_deployment_status_replicas_ready",
        "kube_deployment_spec_replicas",
    ]
    .iter()
    .map(|metric| series(metric, &own, PODS as f64, time))
    .collect()
}

/// Configuration of a fleet as files, none of which is too large.
pub fn files(models: usize, kinds: usize, mode: &str) -> Vec<String> {
    let yaml = yaml(models, kinds, mode);
    let all: Vec<&str> = yaml.split("---\n").collect();
    all.chunks(1_000).map(|file| file.join("---\n")).collect()
}

fn yaml(models: usize, kinds: usize, mode: &str) -> String {
    let mut yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: saturation-scaling-config, namespace: system}}\n\
         data:\n  default: \"mode: {mode}\"\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: service-classes-config}}\ndata:\n  gold.yaml: |\n    \
         name: gold\n    priority: 1\n    data:\n"
    );
    for model in 0..models {
        let _ = writeln!(yaml, "    - {{model: org/model-{model}, slo-tpot: 60, slo-ttft: 900}}");
    }
    for number in 0..models * kinds {
        let (model, kind) = (number / kinds, number % kinds);
        let _ = write!(
            yaml,
            "---\napiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n\
             metadata: {{name: variant-{number}, namespace: {}, \
             labels: {{inference.optimization/acceleratorName: {acc}}}}}\n\
             spec: {{scaleTargetRef: {{kind: Deployment, name: variant-{number}}}, modelID: org/model-{model}, \
             variantCost: {cost}, modelProfile: {{accelerators: [{{acc: {acc}, accCount: 1, maxBatchSize: 64, \
             perfParms: {{decodeParms: {{alpha: \"{alpha}\", beta: \"0.4\"}}, \
             prefillParms: {{gamma: \"5\", delta: \"0.01\"}}}}}}]}}}}\n",
            namespace(number),
            acc = ACCELERATORS[kind],
            cost = 40 - 10 * kind,
            alpha = 16 + 4 * kind,
        );
    }
    yaml
}
