//! What an emulated fleet is made of.

use super::load::Arrivals;
use super::profile::EngineProfile;
use crate::config::SloTargets;
use crate::units::TimeMs;

/// Most replicas that one variant can be asked for; larger wishes are cut.
pub const MAX_REPLICAS: u32 = 1000;

/// Everything that makes up a fleet.
pub struct FleetSpec {
    /// Where its time starts.
    pub start: TimeMs,
    /// Decides pod names; the loads have seeds of their own.
    pub seed: u64,
    /// Models served.
    pub models: Vec<ModelSpec>,
    /// Nodes of the cluster.
    pub nodes: Vec<NodeSpec>,
}

/// A node with accelerators.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Node name.
    pub name: String,
    /// Accelerators that pods can be given.
    pub gpus: u32,
}

/// A model, its load and its variants.
pub struct ModelSpec {
    /// Kubernetes namespace of everything that serves the model.
    pub namespace: String,
    /// Model ID as clients send it.
    pub model_id: String,
    /// Targets against which attainment is counted.
    pub slo: SloTargets,
    /// The requests.
    pub load: Arrivals,
    /// Scale targets.
    pub variants: Vec<VariantSpec>,
}

/// Names by which an engine calls its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineVersion {
    /// The first generation of vLLM's engine.
    V0,
    /// The second generation, in its present form.
    #[default]
    V1,
}

/// A Deployment that serves a model on one accelerator arrangement.
#[derive(Clone, Debug)]
pub struct VariantSpec {
    /// Name of the Deployment (and of the object that declares the variant).
    pub name: String,
    /// Accelerator type.
    pub accelerator: String,
    /// Cost of one replica per hour.
    pub cost: f64,
    /// Engine parameters.
    pub profile: EngineProfile,
    /// Metric names of the engine.
    pub engine: EngineVersion,
    /// From the creation of a replica until it is ready, ms.
    pub startup_ms: i64,
    /// How long a replica that is being removed may go on with its requests, ms.
    pub grace_ms: i64,
    /// Replicas that are ready at the start.
    pub replicas: u32,
}
