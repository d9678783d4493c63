//! The loop: the fleet's scrapes go in by remote-write, the desired counts are set at once.

use inferno_sidecar::analyze::slo::start::Profile;
use inferno_sidecar::config::SloTargets;
use inferno_sidecar::config::objects::documents;
use inferno_sidecar::config::resolve::{Resolved, resolve};
use inferno_sidecar::emulate::Collector;
use inferno_sidecar::emulate::fleet::Fleet;
use inferno_sidecar::emulate::load::{PoissonLoad, RequestShape, Scenario};
use inferno_sidecar::emulate::profile::EngineProfile;
use inferno_sidecar::emulate::spec::{EngineVersion, FleetSpec, ModelSpec, VariantSpec};
use inferno_sidecar::emulate::standard;
use inferno_sidecar::engine::Engine;
use inferno_sidecar::proto::WriteRequest;
use inferno_sidecar::publish::{Entry, json};
use inferno_sidecar::series::dialect::Dialects;
use inferno_sidecar::units::TimeMs;
use prost::Message;
use serde_json::Value;
use std::sync::Arc;

pub const START: TimeMs = TimeMs(1_767_225_600_000);
/// The model of all variants.
pub const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// Its targets.
pub const SLO: SloTargets = SloTargets { ttft_ms: 2000.0, itl_ms: 80.0, tps: 0.0 };
const SCRAPE_MS: i64 = 5_000;

/// A variant on accelerators of that type, with replicas that are ready at the start.
pub fn variant(name: &str, accelerator: &str, startup_ms: i64, replicas: u32) -> VariantSpec {
    let profile: EngineProfile =
        if accelerator == "H100" { standard::h100_8b() } else { standard::l40s_8b() };
    VariantSpec {
        name: name.to_owned(),
        accelerator: accelerator.to_owned(),
        cost: if accelerator == "H100" { 75.0 } else { 20.0 },
        profile,
        engine: EngineVersion::V1,
        startup_ms,
        grace_ms: 60_000,
        replicas,
    }
}

/// The model in a namespace under a load.
pub fn model(namespace: &str, per_s: f64, scenario: Scenario, variants: Vec<VariantSpec>) -> ModelSpec {
    let shape = RequestShape {
        prompt_tokens: 1000.0,
        output_tokens: 200.0,
        spread: 0.5,
        max_tokens: 8_000,
        cached_share: 0.0,
    };
    ModelSpec {
        namespace: namespace.to_owned(),
        model_id: MODEL.to_owned(),
        slo: SLO,
        load: Box::new(PoissonLoad::new(START, per_s, scenario, shape, 7)),
        variants,
    }
}

/// The configuration of a fleet in mode `slo`; `class` is added to the service class.
pub fn configuration(models: &[ModelSpec], class: &str) -> String {
    let config_map = |name: &str, text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: system}}\n\
             data:\n  default: |\n{text}\n---\n"
        )
    };
    let mut yaml = config_map(
        "service-classes-config",
        &format!(
            "    name: gold\n    priority: 1\n    {class}\n    \
             data: [{{model: {MODEL}, slo-tpot: {}, slo-ttft: {}}}]",
            SLO.itl_ms, SLO.ttft_ms
        ),
    );
    for model in models {
        for one in &model.variants {
            yaml += &format!(
                "apiVersion: llmd.ai/v1alpha1\nkind: VariantAutoscaling\n\
                 metadata: {{name: {name}, namespace: {namespace}, \
                 labels: {{inference.optimization/acceleratorName: {accelerator}}}}}\n\
                 spec: {{scaleTargetRef: {{kind: Deployment, name: {name}}}, modelID: {MODEL}, \
                 variantCost: \"{cost}\", minReplicas: 0, maxReplicas: 30}}\n---\n",
                name = one.name,
                namespace = model.namespace,
                accelerator = one.accelerator,
                cost = one.cost,
            );
        }
    }
    yaml
}

/// The fleet under the engine's decisions, and a second engine that computes everything anew each time.
pub struct Loop {
    pub fleet: Fleet,
    collector: Collector,
    pub engine: Engine,
    oracle: Engine,
    pub resolved: Resolved,
    /// What was written and when, where that is to be kept.
    pub recorded: Option<Vec<(TimeMs, Vec<u8>)>>,
    /// Requests served, and those of them that met the targets.
    pub served: (u64, u64),
}

impl Loop {
    pub fn new(models: Vec<ModelSpec>, yaml: &str, profiles: &[Profile]) -> Self {
        let fleet = Fleet::new(FleetSpec { start: START, seed: 5, models, nodes: Vec::new() });
        let dialects = Arc::new(Dialects::built_in());
        let engine = || Engine::new(dialects.clone()).with_profiles(profiles.to_vec());
        let mut it = Loop {
            fleet,
            collector: Collector::new(),
            engine: engine(),
            oracle: engine(),
            resolved: Resolved::default(),
            recorded: None,
            served: (0, 0),
        };
        it.configure(yaml);
        it
    }

    pub fn configure(&mut self, yaml: &str) {
        self.resolved = resolve(&documents("test.yaml", yaml), &self.resolved);
        assert!(self.resolved.problems.is_empty(), "{:?}\n{yaml}", self.resolved.problems);
        for engine in [&mut self.engine, &mut self.oracle] {
            engine.apply_snapshot(&self.resolved.snapshot, Arc::from([]));
        }
    }

    /// Goes on until so many seconds have passed, and shows every step.
    pub fn run(&mut self, until_s: i64, mut each: impl FnMut(&Self, i64)) {
        while self.fleet.now() < START + until_s * 1000 {
            let now = self.fleet.now() + SCRAPE_MS;
            self.fleet.advance_to(now);
            for served in self.fleet.take_finished() {
                self.served.0 += 1;
                self.served.1 += u64::from(served.finished.meets(&SLO));
            }
            let timeseries = self.collector.collect(&self.fleet, now);
            let bytes = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
            self.engine.write_v1(&bytes, now).expect("the request is sound");
            self.oracle.write_v1(&bytes, now).expect("the request is sound");
            self.engine.publish();
            self.publish_oracle();
            if let Some(recorded) = &mut self.recorded {
                recorded.push((now, bytes));
            }
            let wanted = self.engine.board().entries.iter();
            let wanted =
                wanted.filter_map(|(key, entry)| Some((key.clone(), entry.decision.as_ref()?.desired)));
            for (key, desired) in wanted.collect::<Vec<_>>() {
                self.fleet.set_replicas(&key.namespace, &key.name, desired);
            }
            each(self, now.since(START) / 1000);
        }
    }

    /// What is computed anew, twice, is what was computed from what changed.
    fn publish_oracle(&mut self) {
        for _ in 0..2 {
            self.oracle.touch_all();
            self.oracle.publish();
            for (key, entry) in &self.engine.board().entries {
                assert_eq!(Some(entry), self.oracle.board().entries.get(key), "{key}");
            }
        }
    }

    pub fn entry(&self, name: &str) -> &Entry {
        let entries = &self.engine.board().entries;
        entries.iter().find(|(key, _)| key.to_string() == name).map(|(_, entry)| &**entry).expect("an entry")
    }

    /// The variant as `/api/v1/variants` shows it.
    pub fn shown(&self, name: &str) -> Value {
        json::entry(self.entry(name), self.fleet.now())
    }
}
