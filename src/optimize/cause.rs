//! Why a variant's count is what it is: the closed list of binding constraints.

use crate::analyze::queueing::{Binding, Target};
use crate::analyze::saturation::Trigger;

/// Why a variant's desired count is what it is: the constraint that binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Load and replicas fit.
    Steady,
    /// One more: the average spare KV cache is below its trigger.
    KvSaturation,
    /// One more: the average spare queue is below its trigger.
    QueueSaturation,
    /// One more: both are below their triggers.
    KvAndQueueSaturation,
    /// One more: every replica is saturated.
    AllSaturated,
    /// One fewer: the rest carry the load with spare capacity.
    SpareCapacity,
    /// More is wanted, but replicas are already starting.
    WaitingForPending,
    /// More is wanted, but every variant of the model is at its maximum.
    AtMaximum,
    /// The variant's lower bound.
    MinReplicas,
    /// The variant's upper bound.
    MaxReplicas,
    /// No request for the retention period.
    ScaleToZero,
    /// The cheapest variant keeps one replica.
    LastReplica,
    /// At zero, and the scheduler holds requests.
    QueuedAtZero,
    /// The time-to-first-token target.
    TtftTarget,
    /// The inter-token-latency target.
    ItlTarget,
    /// The throughput target.
    TpsTarget,
    /// The service limit of a replica; all targets hold there.
    ServiceLimit,
    /// A target that no replica can meet: as many replicas as keep the queue stable.
    Unreachable,
    /// The tokens that the replicas can hold.
    TokenCapacity,
    /// A fast variant stands in for slower replicas until they are ready.
    Bridge,
    /// Fewer are enough, but not for the whole stabilisation window yet.
    Stabilizing,
    /// An earlier change is still being carried out.
    Transition,
    /// Input is missing or stale: the last decision, or what runs, is held.
    HoldInput,
    /// More is wanted than there are cards of the accelerator type.
    Inventory,
    /// More is wanted than a quota allows.
    Quota,
}

impl Cause {
    /// Whether the saturation analyzer asked for more.
    pub fn is_saturation(self) -> bool {
        use Cause::{AllSaturated, KvAndQueueSaturation, KvSaturation, QueueSaturation};
        matches!(self, KvSaturation | QueueSaturation | KvAndQueueSaturation | AllSaturated)
    }

    /// Name of the cause, as the `reason` label and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Steady => "steady",
            Cause::KvSaturation => "kv_saturation",
            Cause::QueueSaturation => "queue_saturation",
            Cause::KvAndQueueSaturation => "kv_and_queue_saturation",
            Cause::AllSaturated => "all_saturated",
            Cause::SpareCapacity => "spare_capacity",
            Cause::WaitingForPending => "waiting_for_pending",
            Cause::AtMaximum => "at_maximum",
            Cause::MinReplicas => "min_replicas",
            Cause::MaxReplicas => "max_replicas",
            Cause::ScaleToZero => "scale_to_zero",
            Cause::LastReplica => "last_replica",
            Cause::QueuedAtZero => "queued_at_zero",
            Cause::TtftTarget => "ttft_target",
            Cause::ItlTarget => "itl_target",
            Cause::TpsTarget => "tps_target",
            Cause::ServiceLimit => "service_limit",
            Cause::Unreachable => "unreachable",
            Cause::TokenCapacity => "token_capacity",
            Cause::Bridge => "bridge",
            Cause::Stabilizing => "stabilizing",
            Cause::Transition => "transition",
            Cause::HoldInput => "hold_input",
            Cause::Inventory => "inventory",
            Cause::Quota => "quota",
        }
    }
}

impl From<Binding> for Cause {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::Target(Target::Ttft) => Cause::TtftTarget,
            Binding::Target(Target::Itl) => Cause::ItlTarget,
            Binding::Target(Target::Tps) => Cause::TpsTarget,
            Binding::ServiceLimit => Cause::ServiceLimit,
        }
    }
}

impl From<Trigger> for Cause {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Kv => Cause::KvSaturation,
            Trigger::Queue => Cause::QueueSaturation,
            Trigger::KvAndQueue => Cause::KvAndQueueSaturation,
            Trigger::AllSaturated => Cause::AllSaturated,
        }
    }
}
