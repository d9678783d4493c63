//! Configuration as the engine sees it: one immutable, validated [`Snapshot`].
//!
//! Raw Kubernetes objects (`config/objects.rs`) are turned into a snapshot and a list of [`Problem`]s
//! by `config/resolve.rs`. This module knows no files, no cluster and no serde.

pub mod check;
pub mod cluster;
mod mode;
pub mod objects;
mod problem;
pub mod resolve;
mod role;
pub mod shard;

pub use mode::Mode;
pub use problem::{Kept, Problem};
pub use role::Role;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Cost of one replica when nothing states it; the reference controller's own default.
pub const DEFAULT_VARIANT_COST: f64 = 10.0;

/// Namespace and name of a variant: the identity under which it is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariantKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name of the VariantAutoscaling that declares the variant; for an annotated HPA or ScaledObject the
    /// name of its scale target.
    pub name: Arc<str>,
}

impl VariantKey {
    /// Builds a key from its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        VariantKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for VariantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Namespace and model ID: all variants with the same key share demand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Model ID as clients send it (`model_name` of the engine's series).
    pub model_id: Arc<str>,
    /// Part of the work: variants that prefill and variants that decode are planned apart.
    pub role: Role,
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.model_id)?;
        match self.role {
            Role::Both => Ok(()),
            role => write!(f, " ({})", role.as_str()),
        }
    }
}

/// Kind of a scale target; decides which pod-name shape belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// `apps/v1` Deployment: pods `NAME-HASH-XXXXX`.
    Deployment,
    /// `apps/v1` StatefulSet: pods `NAME-ORDINAL`.
    StatefulSet,
    /// `leaderworkerset.x-k8s.io` LeaderWorkerSet: pods `NAME-GROUP` and `NAME-GROUP-WORKER`.
    LeaderWorkerSet,
}

impl TargetKind {
    /// All kinds.
    pub const ALL: [TargetKind; 3] =
        [TargetKind::Deployment, TargetKind::StatefulSet, TargetKind::LeaderWorkerSet];

    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            TargetKind::Deployment => "Deployment",
            TargetKind::StatefulSet => "StatefulSet",
            TargetKind::LeaderWorkerSet => "LeaderWorkerSet",
        }
    }
}

/// The object whose replica count is scaled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScaleTarget {
    /// Kind of the target.
    pub kind: TargetKind,
    /// Name of the target, in the variant's namespace.
    pub name: Arc<str>,
}

/// Parameters of the performance model of one replica, in milliseconds; which queueing model applies
/// follows from the variant of this enum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PerfParms {
    /// Generation A, decode only: iteration time `alpha + beta n`.
    Decode {
        /// Base time, ms.
        alpha: f64,
        /// Per concurrent request, ms.
        beta: f64,
    },
    /// Generation B: decode `alpha + beta n`, prefill `gamma + delta tokens n`.
    DecodePrefill {
        /// Decode base time, ms.
        alpha: f64,
        /// Decode time per concurrent request, ms.
        beta: f64,
        /// Prefill base time, ms.
        gamma: f64,
        /// Prefill time per token and concurrent request, ms.
        delta: f64,
    },
    /// Generation C: iteration time from a base, computed tokens and resident tokens.
    Iteration {
        /// Base time, ms.
        alpha: f64,
        /// Per computed token, ms.
        beta: f64,
        /// Per token of memory read, ms.
        gamma: f64,
    },
}

/// Performance profile of a model on one accelerator arrangement.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Accelerator name the profile was measured on.
    pub accelerator: Arc<str>,
    /// Accelerators per replica, at least 1.
    pub acc_count: u32,
    /// Model parameters, if the object gives any.
    pub perf: Option<PerfParms>,
    /// Most requests that one replica runs together; 0 when not stated.
    pub max_batch: u32,
    /// Tokens per request at which `max_batch` holds; 0 when not stated.
    pub at_tokens: u32,
}

/// SLO targets of one model in one service class; 0 means "no target".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SloTargets {
    /// Time to first token, ms.
    pub ttft_ms: f64,
    /// Time per output token (inter-token latency), ms.
    pub itl_ms: f64,
    /// Throughput, tokens per second.
    pub tps: f64,
}

impl SloTargets {
    /// Whether any target is stated.
    pub fn is_any(&self) -> bool {
        self.ttft_ms > 0.0 || self.itl_ms > 0.0 || self.tps > 0.0
    }
}

/// Where a piece of configuration came from, for messages and last-good bookkeeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VariantSource {
    /// A VariantAutoscaling object.
    VariantAutoscaling,
    /// An annotated HorizontalPodAutoscaler.
    HorizontalPodAutoscaler,
    /// An annotated KEDA ScaledObject.
    ScaledObject,
}

/// One scale target serving a model on one accelerator arrangement.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Identity under which the variant is published.
    pub key: VariantKey,
    /// Model served, as clients name it.
    pub model_id: Arc<str>,
    /// Which part of a request it serves.
    pub role: Role,
    /// What is scaled.
    pub target: ScaleTarget,
    /// Accelerator type, published as `accelerator_type`; `unknown` when nothing states it.
    pub accelerator: Arc<str>,
    /// Accelerators per replica, at least 1.
    pub acc_count: u32,
    /// Cost of one replica per hour, in the unit of the user's cost configuration; finite, >= 0.
    pub cost: f64,
    /// Lower bound on replicas, if the object states one.
    pub min_replicas: Option<u32>,
    /// Upper bound on replicas, if the object states one.
    pub max_replicas: Option<u32>,
    /// Profiles by accelerator, the variant's own accelerator first.
    pub profiles: Vec<Profile>,
    /// Service class and targets, when a class lists the model.
    pub slo: Option<VariantSlo>,
    /// Value of the `wva.llmd.ai/controller-instance` label, if any.
    pub controller_instance: Option<Arc<str>>,
    /// Kind of object that declared the variant.
    pub source: VariantSource,
}

impl Variant {
    /// Key of the model whose demand this variant shares.
    pub fn model(&self) -> ModelKey {
        ModelKey { namespace: self.key.namespace.clone(), model_id: self.model_id.clone(), role: self.role }
    }

    /// The published `variant_id`: `MODEL-ACCELERATOR-COUNT`.
    pub fn variant_id(&self) -> String {
        format!("{}-{}-{}", self.model_id, self.accelerator, self.acc_count)
    }
}

/// Share of the requests that are to meet the targets, where a class does not say.
pub const ATTAINMENT_DEFAULT: f64 = 0.99;

/// What a missed request costs in costs of serving one, where a class does not say: about what holds `attainment` of
/// bursty loads within their targets, 130 for 99 %.
pub fn miss_cost_of(attainment: f64) -> f64 {
    (1.3 / (1.0 - attainment)).round()
}

/// A variant's service class with the targets that the class states for its model.
#[derive(Clone, Debug, PartialEq)]
pub struct VariantSlo {
    /// Service class name.
    pub class: Arc<str>,
    /// Priority, 1 (highest) to 100 (lowest).
    pub priority: u32,
    /// Share of the requests that are to meet the targets, 0.5 to 0.9999.
    pub attainment: f64,
    /// What a missed request costs, in costs of serving one: how much headroom `slo` keeps for surges.
    pub miss_cost: f64,
    /// Targets for this model.
    pub targets: SloTargets,
}

/// Thresholds of the saturation analyzer and keys of the reference's newer analyzers, for one model.
///
/// The first four are compared with each replica: a replica is saturated when
/// `usage >= kv_cache_threshold` or `queue >= queue_length_threshold`.
#[derive(Clone, Debug, PartialEq)]
pub struct SaturationConfig {
    /// KV cache usage (0..1) from which a replica counts as saturated.
    pub kv_cache_threshold: f64,
    /// Waiting requests from which a replica counts as saturated.
    pub queue_length_threshold: f64,
    /// Scale up when the average spare KV usage of the non-saturated replicas is below this (0..1).
    pub kv_spare_trigger: f64,
    /// Scale up when the average spare queue of the non-saturated replicas is below this.
    pub queue_spare_trigger: f64,
    /// Token analyzer: scale up when demand exceeds this share of supply (0..1).
    pub scale_up_threshold: f64,
    /// Token analyzer: scale down when demand is below this share of supply (0..1).
    pub scale_down_boundary: f64,
    /// Reference's analyzer switch (`analyzerName`), e.g. `saturation`; empty when not stated.
    pub analyzer_name: Arc<str>,
    /// Whether scale-ups are limited by the GPU inventory.
    pub enable_limiter: bool,
    /// Weight of the model when accelerators are scarce; finite, >= 0.
    pub priority: f64,
}

impl Default for SaturationConfig {
    /// The reference controller's defaults.
    fn default() -> Self {
        SaturationConfig {
            kv_cache_threshold: 0.80,
            queue_length_threshold: 5.0,
            kv_spare_trigger: 0.10,
            queue_spare_trigger: 3.0,
            scale_up_threshold: 0.85,
            scale_down_boundary: 0.70,
            analyzer_name: "".into(),
            enable_limiter: false,
            priority: 1.0,
        }
    }
}

/// Scale-to-zero policy of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleToZero {
    /// Whether the model may go to zero replicas.
    pub enabled: bool,
    /// Time without requests after which it does, ms; positive.
    pub retention_ms: i64,
}

impl Default for ScaleToZero {
    fn default() -> Self {
        ScaleToZero { enabled: false, retention_ms: 600_000 }
    }
}

/// How long a plan must last before it is followed, per direction, ms; 0 follows at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stabilization {
    /// For a higher count.
    pub up_ms: i64,
    /// For a lower count.
    pub down_ms: i64,
}

impl Stabilization {
    /// Default of `down_ms` for the modes that size by demand, which moves with every sample.
    pub const DEMAND_DOWN_MS: i64 = 60_000;
}

/// Everything configured for one model, overrides already applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// Which analyzers decide.
    pub mode: Mode,
    /// Which analyzers only say what they would decide.
    pub advisory: Option<Mode>,
    /// Stabilisation windows.
    pub stabilization: Stabilization,
    /// Saturation thresholds.
    pub saturation: SaturationConfig,
    /// Scale-to-zero policy.
    pub scale_to_zero: ScaleToZero,
    /// Queueing-model entry, when one applies to the model.
    pub queueing: Option<QueueingConfig>,
}

/// One entry of the queueing-model configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueingConfig {
    /// Factor between the unloaded latency and an inferred SLO, > 1.
    pub slo_multiplier: f64,
    /// Whether parameters are learned online.
    pub tuning_enabled: bool,
    /// Explicit targets; 0 means "infer".
    pub targets: SloTargets,
}

impl QueueingConfig {
    /// The reference's own factor: the iteration time may grow to three times that of an idle replica.
    pub const SLO_MULTIPLIER: f64 = 3.0;
}

/// A service class with its targets.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceClass {
    /// Name of the class.
    pub name: Arc<str>,
    /// Priority, 1 (highest) to 100 (lowest).
    pub priority: u32,
    /// Share of the requests that are to meet the targets, 0.5 to 0.9999.
    pub attainment: f64,
    /// What a missed request costs, in costs of serving one.
    pub miss_cost: f64,
    /// Targets by model ID.
    pub targets: BTreeMap<Arc<str>, SloTargets>,
}

/// An accelerator type with its cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Accelerator {
    /// Name used by variants.
    pub name: Arc<str>,
    /// Device name, e.g. `NVIDIA-A100-PCIE-80GB`.
    pub device: Arc<str>,
    /// Cost of one accelerator per hour; finite, >= 0.
    pub cost: f64,
}

/// Keys of the main configuration that the decision core uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MainConfig {
    /// `WVA_LIMITED_MODE`: allocate within the cluster's inventory.
    pub limited_mode: bool,
    /// `EXPERIMENTAL_HYBRID_OPTIMIZATION`: `on`, `off` or `model-only`; empty when absent.
    pub hybrid: Arc<str>,
    /// `WVA_SCALE_TO_ZERO`: whether models may go to zero replicas when nothing else says so; already
    /// part of every [`ModelConfig`].
    pub scale_to_zero: bool,
    /// `GLOBAL_OPT_INTERVAL`, ms: period of the reference's control loop.
    pub optimization_interval_ms: Option<i64>,
    /// `PROMETHEUS_BASE_URL`, if stated.
    pub prometheus_base_url: Option<Arc<str>>,
}

/// What to do for those that cannot be granted in full when cards are scarce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SaturationPolicy {
    /// Nothing.
    #[default]
    None,
    /// In the order they failed, each gets as many replicas as fit.
    PriorityExhaustive,
    /// Within each priority, one replica each in turn.
    PriorityRoundRobin,
    /// One replica each in turn, whatever the priority.
    RoundRobin,
}

impl SaturationPolicy {
    /// All policies.
    pub const ALL: [SaturationPolicy; 4] = [
        SaturationPolicy::None,
        SaturationPolicy::PriorityExhaustive,
        SaturationPolicy::PriorityRoundRobin,
        SaturationPolicy::RoundRobin,
    ];

    /// The reference's name of the policy.
    pub const fn name(self) -> &'static str {
        match self {
            SaturationPolicy::None => "None",
            SaturationPolicy::PriorityExhaustive => "PriorityExhaustive",
            SaturationPolicy::PriorityRoundRobin => "PriorityRoundRobin",
            SaturationPolicy::RoundRobin => "RoundRobin",
        }
    }

    /// The policy of that name; unknown names mean [`SaturationPolicy::None`], as in the reference.
    pub fn from_name(name: &str) -> Self {
        SaturationPolicy::ALL.into_iter().find(|policy| policy.name() == name).unwrap_or_default()
    }
}

/// Accelerators that exist and who may have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InventoryConfig {
    /// Allocate within the inventory: `mode: limited`, or `WVA_LIMITED_MODE`. Single models can ask for
    /// it too, see [`Snapshot::is_limited`].
    pub limited: bool,
    /// How cards are shared when there are not enough.
    pub policy: SaturationPolicy,
    /// Cards by accelerator type. Empty when nothing is stated; otherwise a type that is not listed has
    /// none.
    pub capacity: BTreeMap<Arc<str>, u64>,
    /// Quotas, one per scope, sorted; where capacity is stated none is above it.
    pub quotas: Vec<InventoryQuota>,
}

/// Most cards that a namespace, or all, may have of a type, or of all types. Names a namespace, an
/// accelerator, or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InventoryQuota {
    /// Namespace it is for; `None` for all together.
    pub namespace: Option<Arc<str>>,
    /// Accelerator type it is for; `None` for all types together.
    pub accelerator: Option<Arc<str>>,
    /// Cards.
    pub cards: u64,
}

/// One immutable, validated configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Variants by key.
    pub variants: BTreeMap<VariantKey, Arc<Variant>>,
    /// Configuration of each model that has a variant.
    pub models: BTreeMap<ModelKey, Arc<ModelConfig>>,
    /// Accelerators by name.
    pub accelerators: BTreeMap<Arc<str>, Accelerator>,
    /// Service classes by key of their ConfigMap's data.
    pub classes: BTreeMap<Arc<str>, ServiceClass>,
    /// Main configuration.
    pub main: MainConfig,
    /// Inventory of accelerators.
    pub inventory: InventoryConfig,
}

impl Snapshot {
    /// Whether the model's variants are held within the inventory: all are, or `enableLimiter` of the
    /// model's saturation entry says so.
    pub fn is_limited(&self, model: &ModelKey) -> bool {
        self.inventory.limited || self.models.get(model).is_some_and(|model| model.saturation.enable_limiter)
    }
}
