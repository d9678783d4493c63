//! The board: the immutable set of current decisions that every reader renders.
//!
//! The engine replaces the board when something a reader can see has changed; readers hold an `Arc` and
//! never lock. Unchanged entries are shared between boards.

pub mod exposition;
pub mod gauges;
pub mod history;
pub mod json;
pub mod promql;
pub mod select;

use crate::analyze::slo::{Demand, Learned};
use crate::config::{Mode, Problem, SaturationConfig, Variant, VariantKey};
pub use crate::optimize::cause::Cause;
use crate::optimize::planner::{Bridge, Unknown};
use crate::series::Signal;
use crate::units::TimeMs;
use imbl::OrdMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Current decisions of all variants, as of one moment of the stream.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Grows with every board.
    pub version: u64,
    /// Version of the last board in which something changed that an autoscaler acts on: a count, a variant, or whether
    /// there are answers at all.
    pub moved: u64,
    /// Time of the newest sample that the board takes into account.
    pub stream_time: Option<TimeMs>,
    /// A configuration has been applied.
    pub configured: bool,
    /// The stream has reached the present since the start.
    pub caught_up: bool,
    /// The past is being replayed from Prometheus; writes of the present wait.
    pub filling: bool,
    /// Entries by variant.
    pub entries: OrdMap<VariantKey, Arc<Entry>>,
    /// Rejected pieces of configuration.
    pub problems: Arc<[Problem]>,
    /// What of the stream belongs to no variant.
    pub unmatched: Arc<Unmatched>,
}

/// What of the stream belongs to no variant, by reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unmatched {
    /// Live pods that joined no variant.
    pub replicas: BTreeMap<&'static str, u64>,
    /// Series of known names that do not count.
    pub series: BTreeMap<&'static str, u64>,
    /// Some of the pods, as `namespace/pod model=MODEL: reason`, to start a search from.
    pub examples: Vec<String>,
}

/// Everything published about one variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Configuration of the variant.
    pub variant: Arc<Variant>,
    /// `MODEL-ACCELERATOR-COUNT`.
    pub variant_id: Arc<str>,
    /// The labels under which it is published, as an exposition has them.
    pub labels: Arc<str>,
    /// The decision; `None` while too little is known for one.
    pub decision: Option<Decision>,
    /// Observed load.
    pub load: Load,
    /// What `slo` has learned of the variant; `None` in other modes.
    pub learned: Option<Learned>,
    /// What another mode would want, where one is asked to advise and can.
    pub advice: Option<Advice>,
    /// State of the inputs.
    pub health: Health,
    /// Scaling decisions so far.
    pub scalings: Vec<ScalingCount>,
}

/// What a mode that only advises would want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The mode.
    pub mode: Mode,
    /// Replicas that it would want.
    pub replicas: u32,
    /// Why.
    pub cause: Cause,
}

/// Scaling decisions of one direction and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingCount {
    /// Direction of the change.
    pub direction: Direction,
    /// Reason of the change.
    pub cause: Cause,
    /// How many there were.
    pub count: u64,
}

/// Direction of a change of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// More replicas.
    Up,
    /// Fewer replicas.
    Down,
}

impl Direction {
    /// The `direction` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// One plan entry with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Replicas asked for.
    pub desired: u32,
    /// Replicas asked for if there were cards for everybody; more than `desired` where `limit` binds.
    pub wanted: u32,
    /// Replicas there are, ready or not.
    pub current: u32,
    /// Replicas of `current` that are not ready.
    pub pending: u32,
    /// Replicas whose load is known.
    pub reporting: u32,
    /// Where `current` comes from.
    pub current_from: CurrentFrom,
    /// Why `desired` is what it is.
    pub cause: Cause,
    /// What holds `desired` below `wanted`.
    pub limit: Option<CardLimit>,
    /// `desired` before its last change, and stream time of that change.
    pub previous: Option<(u32, TimeMs)>,
    /// Stream time at which a difference between `desired` and `current` began.
    pub transition_since: Option<TimeMs>,
    /// Figures of the model that led to the decision.
    pub evidence: Arc<Evidence>,
}

impl Decision {
    /// desired / current; desired when there is no replica.
    pub fn desired_ratio(&self) -> f64 {
        f64::from(self.desired) / f64::from(self.current.max(1))
    }
}

/// The cards that stand against more replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardLimit {
    /// Why more is wanted.
    pub wanted_for: Cause,
    /// Accelerator type whose cards are short; `None` for those of all types together.
    pub accelerator: Option<Arc<str>>,
    /// Namespace whose quota it is; `None` for the inventory or a quota for all namespaces.
    pub namespace: Option<Arc<str>>,
    /// Cards that there are, or that the quota allows.
    pub cards: u64,
}

/// Where the number of current replicas was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentFrom {
    /// The scale target itself, in the cluster.
    TargetObject,
    /// kube-state-metrics series of the scale target.
    TargetSeries,
    /// The pods that report, for want of anything better.
    ReportingPods,
}

/// What was known of the whole model: the analyzers' figures beside the thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Mode of the model.
    pub mode: Mode,
    /// Why the mode could not decide, so that saturation did.
    pub fallback: Option<Unknown>,
    /// Requests per second to be carried, over all variants: those that arrive and the backlog's share.
    pub demand_per_s: Option<f64>,
    /// The terms of that rate, where `slo` decided.
    pub demand: Option<Demand>,
    /// Replicas of a fast variant that stand in for slower ones until these are ready.
    pub bridge: Option<Bridge>,
    /// Average spare KV usage of the replicas that are not saturated, 0..1.
    pub avg_spare_kv: f64,
    /// Average spare queue of the replicas that are not saturated.
    pub avg_spare_queue: f64,
    /// Replicas of the model at or over a threshold.
    pub saturated: u32,
    /// Replicas of the model that report.
    pub reporting: u32,
    /// One replica fewer would still keep the headroom.
    pub scale_down_safe: bool,
    /// Requests that the scheduler holds back.
    pub scheduler_queue: Option<f64>,
    /// Where the next replica of the model would be cheapest, and the second choice.
    pub next_replica: [Option<NextReplica>; 2],
    /// Thresholds in force.
    pub thresholds: SaturationConfig,
}

/// What one more replica would cost: of the variants below their maximum the one with the least cost per
/// capacity, or the least cost where some capacity is not known. Cards are not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct NextReplica {
    /// Name of the variant.
    pub variant: Arc<str>,
    /// Cost of one replica.
    pub cost: f64,
    /// Cost of a replica per request per second that it carries; `None` where not all capacities are known.
    pub cost_per_capacity: Option<f64>,
}

/// Load of a variant over the window; `None` where the input says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests arriving per second: completions plus change of requests in the engine.
    pub arrival_rate_per_s: Option<f64>,
    /// Average prompt length, tokens.
    pub avg_prompt_tokens: Option<f64>,
    /// Average generated length, tokens.
    pub avg_generation_tokens: Option<f64>,
    /// Average of the replicas' KV cache usage, 0..1.
    pub kv_usage_ratio: Option<f64>,
    /// Requests waiting, all replicas.
    pub waiting: Option<f64>,
    /// Requests running, all replicas.
    pub running: Option<f64>,
    /// Average time to first token, ms.
    pub ttft_ms: Option<f64>,
    /// Average inter-token latency, ms.
    pub itl_ms: Option<f64>,
    /// Requests per second that one replica carries up to its thresholds, extrapolated from the load.
    pub capacity_per_replica_per_s: Option<f64>,
    /// Load relative to the thresholds, 1 = at a threshold.
    pub utilization_ratio: Option<f64>,
}

/// State of a variant's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// What is wrong, worst first; empty when all is well.
    pub faults: Vec<Fault>,
    /// Newest sample that concerned the variant.
    pub newest_sample: Option<TimeMs>,
    /// Age of the newest sample from which input counts as stale, ms.
    pub stale_after_ms: i64,
    /// How the pods were joined to the variant, with counts.
    pub joins: BTreeMap<&'static str, u32>,
}

/// One thing wrong with a variant's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Samples have stopped.
    Stale,
    /// No pod of the variant has ever reported.
    NoSeries {
        /// Models that do report in the namespace, to spot a mismatch.
        models_seen: Vec<Arc<str>>,
    },
    /// Pods reported before, none does now.
    NoReplicaReports,
    /// Replicas exist that do not report.
    ReplicasSilent {
        /// How many.
        missing: u32,
    },
    /// Reporting replicas lack a signal that the analyzer needs.
    MissingSignal {
        /// The signal.
        signal: Signal,
        /// Replicas without it.
        replicas: u32,
    },
    /// Pods joined by owner or name serve a model with another name.
    ModelMismatch {
        /// The name the pods use.
        seen: Arc<str>,
    },
    /// The first decision waits until the pods that report are known to be all.
    WarmingUp,
    /// The model is to be held within the inventory, but nobody knows how many cards of its type exist.
    InventoryUnknown,
}

impl Fault {
    /// The `reason` label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Fault::Stale => "stale",
            Fault::NoSeries { .. } => "no_series",
            Fault::NoReplicaReports => "no_replica_reports",
            Fault::ReplicasSilent { .. } => "replicas_silent",
            Fault::MissingSignal { .. } => "missing_signal",
            Fault::ModelMismatch { .. } => "model_mismatch",
            Fault::WarmingUp => "warming_up",
            Fault::InventoryUnknown => "inventory_unknown",
        }
    }

    /// One sentence for a person, with what to check next.
    pub fn explain(&self, variant: &Variant) -> String {
        match self {
            Fault::Stale => {
                "samples have stopped; the last decision is held; check Prometheus and its remote_write"
                    .into()
            }
            Fault::NoSeries { models_seen } if models_seen.is_empty() => format!(
                "no pod of namespace {} has reported; check that Prometheus scrapes the pods of {} and \
                 forwards their series",
                variant.key.namespace, variant.target.name
            ),
            Fault::NoSeries { models_seen } => format!(
                "no series belong to it; modelID is {} but the pods of namespace {} serve {}; \
                 correct modelID or scaleTargetRef",
                variant.model_id,
                variant.key.namespace,
                models_seen.join(", ")
            ),
            Fault::NoReplicaReports => "no replica reports any more; the last decision is held".into(),
            Fault::ReplicasSilent { missing } => {
                format!("{missing} of its replicas do not report yet or any more; changes wait for them")
            }
            Fault::MissingSignal { signal, replicas } => format!(
                "{replicas} of its replicas report no {signal:?}; check write_relabel_configs and the \
                 engine's version"
            ),
            Fault::ModelMismatch { seen } => {
                format!("its pods serve {seen}, not {}; correct modelID", variant.model_id)
            }
            Fault::WarmingUp => {
                "waiting until the pods that report are known to be all; forward kube-state-metrics \
                 series to shorten this"
                    .into()
            }
            Fault::InventoryUnknown => format!(
                "nobody says how many cards of type {} exist, so no limit is applied; state capacity in the \
                 inventory configuration, or forward kube_node_status_allocatable and kube_node_labels",
                variant.accelerator
            ),
        }
    }
}

impl Health {
    /// Faults as of `now`, with staleness judged by the clock: a stream that has stopped cannot say so.
    pub fn at(&self, now: TimeMs) -> Vec<Fault> {
        self.stale_at(now).then_some(Fault::Stale).into_iter().chain(self.faults.iter().cloned()).collect()
    }

    /// The worst fault as of `now`.
    pub fn worst_at(&self, now: TimeMs) -> Option<&Fault> {
        if self.stale_at(now) { Some(&Fault::Stale) } else { self.faults.first() }
    }

    fn stale_at(&self, now: TimeMs) -> bool {
        self.newest_sample.is_some_and(|newest| now.since(newest) > self.stale_after_ms)
    }

    /// Age of the newest sample at `now`, ms; never negative.
    pub fn age_ms(&self, now: TimeMs) -> Option<i64> {
        self.newest_sample.map(|newest| now.since(newest).max(0))
    }
}

impl Entry {
    /// Whether a number for this variant can be given.
    pub fn decided(&self) -> bool {
        self.decision.is_some()
    }

    /// Replicas asked for; `None` without a decision.
    pub fn desired(&self) -> Option<u32> {
        self.decision.as_ref().map(|decision| decision.desired)
    }

    /// Whether this differs from `old` in what an autoscaler acts on.
    pub fn moves(&self, old: &Entry) -> bool {
        let counts = |entry: &Entry| entry.decision.as_ref().map(|plan| (plan.desired, plan.current));
        counts(self) != counts(old)
            || !Arc::ptr_eq(&self.variant, &old.variant) && self.variant != old.variant
    }

    /// Why there is no decision as of `now`, for an entry without one.
    pub fn undecided(&self, now: TimeMs) -> String {
        let fault = self.health.worst_at(now).map(|fault| fault.explain(&self.variant));
        format!(
            "variant {} has no decision yet: {}",
            self.variant.key,
            fault.as_deref().unwrap_or("its inputs are incomplete")
        )
    }
}

impl Board {
    /// Why readers must wait (503), if they must: an answer with variants missing would be read as zero.
    pub fn not_ready(&self) -> Option<String> {
        if !self.configured {
            return Some("no configuration has been applied yet".into());
        }
        if self.filling {
            return Some("the windows are being filled from Prometheus; try again".into());
        }
        if self.stream_time.is_none() && !self.entries.is_empty() {
            return Some("no remote-write sample has arrived yet; check Prometheus's remote_write".into());
        }
        if !self.caught_up && !self.entries.is_empty() {
            return Some(
                "the sender is working off its backlog; its samples are not of the present yet".into(),
            );
        }
        if !self.entries.is_empty() && !self.entries.values().any(|entry| entry.decided()) {
            return Some("no variant has a decision yet; see /api/v1/variants for what is missing".into());
        }
        None
    }
}
