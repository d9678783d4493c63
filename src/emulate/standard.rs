//! The fleet of the demo: two models, one of them with two variants of different cost and speed.
//!
//! [`CONFIG_YAML`] is its configuration as the Kubernetes objects a user would write; names, costs and
//! targets there and here agree (tested).

use super::load::{PoissonLoad, RequestShape, Scenario};
use super::profile::{EngineProfile, IterationTime};
use super::spec::{EngineVersion, FleetSpec, ModelSpec, NodeSpec, VariantSpec};
use crate::config::{Mode, SloTargets};
use crate::units::TimeMs;

/// The matching configuration objects, as YAML documents.
pub const CONFIG_YAML: &str = include_str!("../../config/demo.yaml");

/// [`CONFIG_YAML`] with another mode for all models.
pub fn config_yaml(mode: Mode) -> String {
    CONFIG_YAML.replace("mode: hybrid", &format!("mode: {}", mode.as_str()))
}

/// Namespace of the demo's models.
pub const NAMESPACE: &str = "llm";

/// How long a removed replica may go on with its requests, ms: the default of Kubernetes.
const GRACE_MS: i64 = 30_000;

/// Kind of load change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScenarioKind {
    /// A step up after a fifth of the run, and back after three fifths.
    #[default]
    Spike,
    /// A straight rise from the first to the fourth fifth of the run.
    Ramp,
    /// A wave with one crest, half way through the run.
    Diurnal,
}

impl ScenarioKind {
    /// The scenario over a run of `duration_ms`, up to `factor` times the base rate.
    pub fn over(self, duration_ms: i64, factor: f64) -> Scenario {
        let fifth_ms = duration_ms / 5;
        match self {
            ScenarioKind::Spike => Scenario::Spike { from_ms: fifth_ms, until_ms: 3 * fifth_ms, factor },
            ScenarioKind::Ramp => Scenario::Ramp { from_ms: fifth_ms, until_ms: 4 * fifth_ms, factor },
            ScenarioKind::Diurnal => Scenario::Diurnal { period_ms: duration_ms, factor },
        }
    }
}

/// What can be chosen about the standard fleet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StandardOptions {
    /// Where its time starts.
    pub start: TimeMs,
    /// Decides names, arrivals and sizes.
    pub seed: u64,
    /// How the load changes.
    pub scenario: ScenarioKind,
    /// Over how long, ms; the load goes on after that.
    pub duration_ms: i64,
    /// Start-up time of a replica, ms.
    pub startup_ms: i64,
}

impl Default for StandardOptions {
    /// A spike within ten minutes, replicas ready after 30 s.
    fn default() -> Self {
        StandardOptions {
            // 2026-01-01, so that times look real.
            start: TimeMs(1_767_225_600_000),
            seed: 1,
            scenario: ScenarioKind::Spike,
            duration_ms: 600_000,
            startup_ms: 30_000,
        }
    }
}

/// Specification of the standard fleet.
pub fn spec(options: &StandardOptions) -> FleetSpec {
    FleetSpec {
        start: options.start,
        seed: options.seed,
        models: vec![llama(options), qwen(options)],
        nodes: ["gpu-a", "gpu-b", "gpu-c"].map(|name| NodeSpec { name: name.to_owned(), gpus: 8 }).into(),
    }
}

fn llama(options: &StandardOptions) -> ModelSpec {
    let shape = RequestShape {
        prompt_tokens: 1200.0,
        output_tokens: 250.0,
        spread: 0.6,
        max_tokens: 16_000,
        cached_share: 0.0,
    };
    let scenario = options.scenario.over(options.duration_ms, 5.0);
    ModelSpec {
        namespace: NAMESPACE.to_owned(),
        model_id: "meta-llama/Llama-3.1-8B-Instruct".to_owned(),
        slo: SloTargets { ttft_ms: 1000.0, itl_ms: 80.0, tps: 0.0 },
        load: Box::new(PoissonLoad::new(options.start, 6.0, scenario, shape, options.seed.wrapping_add(1))),
        variants: vec![
            variant("llama-8b-l40s", "L40S", 20.0, l40s_8b(), options),
            variant("llama-8b-h100", "H100", 75.0, h100_8b(), options),
        ],
    }
}

fn qwen(options: &StandardOptions) -> ModelSpec {
    let shape = RequestShape {
        prompt_tokens: 600.0,
        output_tokens: 400.0,
        spread: 0.6,
        max_tokens: 16_000,
        cached_share: 0.0,
    };
    let scenario = options.scenario.over(options.duration_ms, 4.0);
    ModelSpec {
        namespace: NAMESPACE.to_owned(),
        model_id: "Qwen/Qwen3-14B".to_owned(),
        slo: SloTargets { ttft_ms: 2000.0, itl_ms: 80.0, tps: 0.0 },
        load: Box::new(PoissonLoad::new(options.start, 4.0, scenario, shape, options.seed.wrapping_add(2))),
        variants: vec![variant("qwen-14b-h100", "H100", 75.0, h100_14b(), options)],
    }
}

fn variant(
    name: &str,
    accelerator: &str,
    cost: f64,
    profile: EngineProfile,
    options: &StandardOptions,
) -> VariantSpec {
    VariantSpec {
        name: name.to_owned(),
        accelerator: accelerator.to_owned(),
        cost,
        profile,
        engine: EngineVersion::V1,
        startup_ms: options.startup_ms,
        grace_ms: GRACE_MS,
        replicas: 1,
    }
}

/// An 8B model on an H100: values of the order of published measurements.
pub fn h100_8b() -> EngineProfile {
    let iteration = IterationTime { a_ms: 6.8, b_ms: 0.021, c_ms: 0.022, d_ms: 5.3e-5, q_ms: 0.0 };
    EngineProfile { ttft_overhead_ms: 6.5, ..EngineProfile::new(iteration, 467_280) }
}

/// An 8B model with 8-bit weights on an L40S: assumed, from the ratio of memory bandwidths.
pub fn l40s_8b() -> EngineProfile {
    let iteration = IterationTime { a_ms: 15.0, b_ms: 0.04, c_ms: 0.05, d_ms: 1.2e-4, q_ms: 0.0 };
    EngineProfile { ttft_overhead_ms: 8.0, ..EngineProfile::new(iteration, 192_000) }
}

/// A 14B model on an H100: published order of magnitude, with an assumed cost of context.
pub fn h100_14b() -> EngineProfile {
    let iteration = IterationTime { a_ms: 13.6, b_ms: 0.027, c_ms: 0.039, d_ms: 6.5e-5, q_ms: 0.0 };
    EngineProfile { ttft_overhead_ms: 9.0, ..EngineProfile::new(iteration, 281_600) }
}
