//! The sidecar's own engine as a policy: the very code of `serve`, on the simulation's time.

use std::sync::Arc;

use prost::Message as _;
use serde_json::{Value, json};

use super::policy::Policy;
use super::scenario::{NAMESPACE, Scenario, VARIANT};
use crate::config::objects::{Document, DocumentContent};
use crate::config::resolve::{Resolved, resolve};
use crate::config::{Mode, VariantKey};
use crate::emulate::Collector;
use crate::emulate::fleet::Fleet;
use crate::engine::Engine;
use crate::proto::WriteRequest;
use crate::series::dialect::Dialects;
use crate::units::TimeMs;

/// An engine that is fed the fleet's scrapes by remote-write and read like any autoscaler would.
pub struct Sidecar {
    name: String,
    engine: Engine,
    collector: Collector,
    scrape_ms: i64,
    /// How often the decision is acted upon, ms.
    loop_ms: i64,
    acted: Option<TimeMs>,
    key: VariantKey,
}

impl Sidecar {
    /// The sidecar in a mode; its decisions are acted upon every `loop_ms`, at each scrape when 0.
    pub fn new(name: &str, scenario: &Scenario, mode: Mode, loop_ms: i64) -> anyhow::Result<Self> {
        let objects = objects(scenario, mode).into_iter().enumerate();
        let documents: Vec<Document> = objects
            .map(|(index, value)| Document {
                origin: format!("simulation#{index}"),
                content: DocumentContent::Object(value),
            })
            .collect();
        let resolved = resolve(&documents, &Resolved::default());
        if let Some(problem) = resolved.problems.first() {
            anyhow::bail!("configuration of the simulation: {problem}");
        }
        let dialects = Arc::new(Dialects::built_in());
        // What the engine would reject first thing, most of a scrape, is not even made up.
        let collector = Collector::of(dialects.rows().iter().map(|row| row.metric.clone()));
        let mut engine = Engine::new(dialects);
        engine.apply_snapshot(&resolved.snapshot, Arc::from([]));
        Ok(Sidecar {
            name: name.to_owned(),
            engine,
            collector,
            scrape_ms: scenario.scrape_ms,
            loop_ms,
            acted: None,
            key: VariantKey::new(NAMESPACE, VARIANT),
        })
    }

    /// The engine, to look at what it knows.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Policy for Sidecar {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn interval_ms(&self) -> i64 {
        self.scrape_ms
    }

    fn decide(&mut self, now: TimeMs, fleet: &Fleet) -> Option<u32> {
        let timeseries = self.collector.collect(fleet, now);
        let bytes = WriteRequest { timeseries, ..WriteRequest::default() }.encode_to_vec();
        // What the emulated fleet says is always a valid request of its own.
        let _ = self.engine.write_v1(&bytes, now);
        self.engine.publish();
        let is_due = self.acted.is_none_or(|acted| now.since(acted) >= self.loop_ms);
        if !is_due {
            return None;
        }
        self.acted = Some(now);
        let entry = self.engine.board().entries.get(&self.key)?;
        entry.decision.as_ref().map(|decision| decision.desired)
    }
}

/// The configuration objects of the scenario, as a user would write them.
pub fn objects(scenario: &Scenario, mode: Mode) -> Vec<Value> {
    let profile = &scenario.profile;
    let time = &profile.engine.iteration;
    let number = |value: f64| format!("{value}");
    // Only the modes that take parameters from the object get them.
    let perf = json!({
        "accelerators": [{
            "acc": profile.accelerator,
            "accCount": 1,
            "maxBatchSize": profile.engine.max_num_seqs,
            "perfParms": {"decodeParms": {
                "alpha": number(time.a_ms), "beta": number(time.c_ms), "gamma": number(time.d_ms),
            }},
        }],
    });
    let mut spec = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": VARIANT},
        "modelID": profile.model,
        "variantCost": number(profile.cost_per_hour),
        "minReplicas": scenario.replicas.0,
        "maxReplicas": scenario.replicas.1,
    });
    if mode.model {
        spec["modelProfile"] = perf;
    }
    let class = json!({
        "name": "Simulated",
        "priority": 1,
        "attainment": scenario.attainment,
        "data": [{
            "model": profile.model, "slo-tpot": scenario.slo.itl_ms, "slo-ttft": scenario.slo.ttft_ms,
        }],
    });
    let config_map = |name: &str, key: &str, text: String| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "workload-variant-autoscaler-system"},
            "data": {key: text},
        })
    };
    let variant = json!({
        "apiVersion": "llmd.ai/v1alpha1",
        "kind": "VariantAutoscaling",
        "metadata": {
            "name": VARIANT,
            "namespace": NAMESPACE,
            "labels": {"inference.optimization/acceleratorName": profile.accelerator},
        },
        "spec": spec,
    });
    let mode = json!({"mode": mode.as_str()}).to_string();
    vec![
        variant,
        config_map("service-classes-config", "simulated.yaml", class.to_string()),
        config_map("saturation-scaling-config", "default", mode),
    ]
}
