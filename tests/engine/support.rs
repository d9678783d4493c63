//! A small language for streams: pods, scale targets, scrapes, and an engine with a clock.

use std::sync::Arc;

use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::engine::{Engine, WriteReport};
use inferno_sidecar::proto::{Label, Sample, TimeSeries, WriteRequest};
use inferno_sidecar::publish::{Board, Decision, Entry};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::units::TimeMs;
use inferno_sidecar::wire::STALE_MARKER_BITS;
use prost::Message;

/// Where time starts in the tests, ms.
pub const START_MS: i64 = 1_767_225_600_000;
/// Namespace of everything, unless said otherwise.
pub const NAMESPACE: &str = "llm";

/// The value that ends a series.
pub fn stale() -> f64 {
    f64::from_bits(STALE_MARKER_BITS)
}

/// `seconds` after the start of the test.
pub fn at(seconds: f64) -> TimeMs {
    TimeMs(START_MS + (seconds * 1000.0) as i64)
}

/// Labels as owned pairs, `__name__` included.
pub fn labels(metric: &str, pairs: &[(&str, &str)]) -> Vec<Label> {
    let name = ("__name__", metric);
    let all = std::iter::once(&name).chain(pairs);
    all.map(|(name, value)| Label { name: name.to_string(), value: value.to_string() }).collect()
}

/// What one scrape at one moment sends.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    time: TimeMs,
    series: Vec<TimeSeries>,
}

impl Scrape {
    /// An empty scrape, `seconds` after the start.
    pub fn at(seconds: f64) -> Self {
        Scrape { time: at(seconds), series: Vec::new() }
    }

    /// Adds one series with one sample.
    pub fn with(mut self, metric: &str, pairs: &[(&str, &str)], value: f64) -> Self {
        let mut labels = labels(metric, pairs);
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        self.series.push(one(labels, value, self.time));
        self
    }

    /// Adds a series as it is.
    pub fn raw(mut self, series: TimeSeries) -> Self {
        self.series.push(series);
        self
    }

    /// Adds what a pod of vLLM v1 reports.
    pub fn pod(self, pod: &Pod) -> Self {
        let own = [("model_name", &*pod.model), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
        self.with("vllm:kv_cache_usage_perc", &own, pod.kv)
            .with("vllm:num_requests_waiting", &own, pod.waiting)
            .with("vllm:num_requests_running", &own, pod.running)
            .with(
                "vllm:request_success_total",
                &[&own[..], &[("finished_reason", "stop")]].concat(),
                pod.done,
            )
    }

    /// Ends all series of a pod.
    pub fn gone(self, pod: &Pod) -> Self {
        let ended = Pod { kv: stale(), waiting: stale(), running: stale(), done: stale(), ..pod.clone() };
        self.pod(&ended)
    }

    /// Adds what kube-state-metrics says of a Deployment: pods, and how many of them are ready.
    pub fn deployment(self, name: &str, pods: u32, ready: u32) -> Self {
        let own = [("deployment", name), ("namespace", NAMESPACE)];
        self.with("kube_deployment_status_replicas", &own, f64::from(pods))
            .with("kube_deployment_status_replicas_ready", &own, f64::from(ready))
            .with("kube_deployment_spec_replicas", &own, f64::from(pods))
    }

    /// Adds the scheduler's queue of a model under the current name.
    pub fn queue(self, model: &str, size: f64) -> Self {
        let own = [("namespace", NAMESPACE), ("target_model_name", model)];
        self.with("llm_d_epp_flow_control_queue_size", &own, size)
    }

    /// The encoded request.
    pub fn encode(&self) -> Vec<u8> {
        WriteRequest { timeseries: self.series.clone(), ..WriteRequest::default() }.encode_to_vec()
    }

    /// The same as a request of remote-write 2.0.
    pub fn encode_2(&self) -> Vec<u8> {
        crate::table::request_of(&self.series).encode_to_vec()
    }
}

/// One series with one sample.
pub fn one(labels: Vec<Label>, value: f64, time: TimeMs) -> TimeSeries {
    TimeSeries { labels, samples: vec![Sample { value, timestamp: time.0 }], ..TimeSeries::default() }
}

/// A serving pod with its readings.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub model: String,
    pub kv: f64,
    pub waiting: f64,
    pub running: f64,
    pub done: f64,
}

impl Pod {
    /// Pod number `n` of Deployment `target`, under a comfortable load.
    pub fn new(target: &str, n: usize, model: &str) -> Self {
        let suffix = ["bbbbb", "ccccc", "ddddd", "fffff", "ggggg"][n];
        Pod::named(&format!("{target}-7d9c5b8f6d-{suffix}"), model)
    }

    /// A pod of any name.
    pub fn named(name: &str, model: &str) -> Self {
        let (namespace, name, model) = (NAMESPACE.into(), name.into(), model.into());
        Pod { namespace, name, model, kv: 0.4, waiting: 0.0, running: 4.0, done: 0.0 }
    }

    /// KV usage and waiting requests.
    pub fn load(mut self, kv: f64, waiting: f64) -> Self {
        (self.kv, self.waiting) = (kv, waiting);
        self
    }

    /// No requests at all.
    pub fn idle(mut self) -> Self {
        (self.kv, self.waiting, self.running) = (0.0, 0.0, 0.0);
        self
    }
}

/// A VariantAutoscaling over a Deployment of its own name.
pub fn variant(name: &str, model: &str, spec: &str) -> String {
    variant_of(name, "Deployment", name, model, spec)
}

/// A VariantAutoscaling over any target.
pub fn variant_of(name: &str, kind: &str, target: &str, model: &str, spec: &str) -> String {
    format!(
        "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}, \
         labels: {{inference.optimization/acceleratorName: H100}}}}\n\
         spec: {{scaleTargetRef: {{kind: {kind}, name: {target}}}, modelID: {model}{spec}}}\n---\n"
    )
}

/// Saturation thresholds for one model.
pub fn thresholds(model: &str, text: &str) -> String {
    config_map("saturation-scaling-config", model, text)
}

/// Scale-to-zero policy for one model.
pub fn scale_to_zero(model: &str, retention: &str) -> String {
    let text = format!("enable_scale_to_zero: true\n    retention_period: {retention}");
    config_map("model-scale-to-zero-config", model, &text)
}

/// A limited inventory.
pub fn inventory(text: &str) -> String {
    config_entry("inventory-config", &format!("mode: limited\n    {text}"))
}

/// A ConfigMap with one entry `default`.
pub fn config_entry(name: &str, text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: system}}\n\
         data:\n  default: |\n    {text}\n---\n"
    )
}

fn config_map(name: &str, model: &str, text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: system}}\n\
         data:\n  default: \"{{}}\"\n  one: |\n    model_id: {model}\n    namespace: {NAMESPACE}\n    {text}\n---\n"
    )
}

/// An engine with its configuration source.
pub struct World {
    pub engine: Engine,
    resolved: Resolved,
    boards: usize,
}

impl World {
    /// An engine with a configuration.
    pub fn new(yaml: &str) -> Self {
        let engine = Engine::new(Arc::new(Dialects::built_in()));
        let mut world = World { engine, resolved: Resolved::default(), boards: 0 };
        world.configure(yaml);
        world
    }

    /// Replaces the configuration and publishes.
    pub fn configure(&mut self, yaml: &str) {
        self.resolved = resolve(&documents("test.yaml", yaml), &self.resolved);
        let problems = self.resolved.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(problems.is_empty(), "{problems:#?}\n{yaml}");
        self.engine.apply_snapshot(&self.resolved.snapshot, self.resolved.problems.clone().into());
        self.publish();
    }

    /// Writes a scrape at its own time and publishes.
    pub fn write(&mut self, scrape: Scrape) -> WriteReport {
        self.write_at(&scrape, scrape.time)
    }

    /// Writes a scrape when the clock shows `now`, and publishes.
    pub fn write_at(&mut self, scrape: &Scrape, now: TimeMs) -> WriteReport {
        let report = self.engine.write_v1(&scrape.encode(), now).expect("the request is sound");
        self.publish();
        report
    }

    /// As [`World::write`], without the recomputation that checks it: for counting.
    pub fn write_quietly(&mut self, scrape: Scrape) {
        self.engine.write_v1(&scrape.encode(), scrape.time).expect("the request is sound");
        self.boards += usize::from(self.engine.publish().is_some());
    }

    /// Publishes; whatever happened, publishing once more must change nothing.
    pub fn publish(&mut self) {
        self.boards += usize::from(self.engine.publish().is_some());
        let before = self.engine.board().clone();
        self.engine.touch_all();
        if let Some(again) = self.engine.publish() {
            assert_same(&before, &again, "recomputing without a change");
            panic!("a board without a visible change");
        }
    }

    /// Boards so far.
    pub fn boards(&self) -> usize {
        self.boards
    }

    /// Entry of a variant.
    pub fn entry(&self, name: &str) -> Arc<Entry> {
        let entries = &self.engine.board().entries;
        let found = entries.iter().find(|(key, _)| &*key.name == name);
        found.unwrap_or_else(|| panic!("no entry for {name}")).1.clone()
    }

    /// Decision about a variant.
    pub fn decision(&self, name: &str) -> Decision {
        self.entry(name).decision.clone().unwrap_or_else(|| panic!("no decision for {name}"))
    }

    /// Desired count and cause, e.g. `2 kv_saturation`.
    pub fn says(&self, name: &str) -> String {
        let decision = self.decision(name);
        format!("{} {}", decision.desired, decision.cause.as_str())
    }

    /// Reasons of a variant's input faults.
    pub fn faults(&self, name: &str) -> Vec<&'static str> {
        self.entry(name).health.faults.iter().map(|fault| fault.as_str()).collect()
    }
}

/// Compares what readers see of two boards, version aside.
pub fn assert_same(one: &Board, other: &Board, when: &str) {
    for (key, entry) in &one.entries {
        assert_eq!(Some(entry), other.entries.get(key), "{when}: {key}");
    }
    assert_eq!(one.entries.len(), other.entries.len(), "{when}");
    assert_eq!(one.unmatched, other.unmatched, "{when}");
    assert_eq!(one.problems, other.problems, "{when}");
}
