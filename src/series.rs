//! What a series means: labels to (subject, signal).
//!
//! Metric names are looked up in the dialects' table first, so a series that is not ours is rejected
//! before any of its labels is read. A dialect is data (`series/dialects/*.yaml`); this module knows the
//! signals and the things (subjects) that they describe, and no metric name.

pub mod classify;
pub mod dialect;
pub mod labels;
pub mod podname;

use serde::Deserialize;
use std::sync::Arc;

/// What a series means to us, whatever its name and engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Signal {
    /// Share of the KV cache in use, 0..1.
    KvCacheUsage,
    /// Requests waiting in the engine's queue.
    RequestsWaiting,
    /// Requests in the running batch.
    RequestsRunning,
    /// Requests completed, whatever the outcome.
    RequestsFinished,
    /// Prompt tokens processed.
    PromptTokens,
    /// Tokens generated.
    GenerationTokens,
    /// Sum of the generated lengths of completed requests, tokens.
    RequestGenerationTokensSum,
    /// Number of observations in `RequestGenerationTokensSum`.
    RequestGenerationTokensCount,
    /// Sum of the times to first token, ms.
    TimeToFirstTokenSum,
    /// Number of observations in `TimeToFirstTokenSum`.
    TimeToFirstTokenCount,
    /// Sum of the inter-token latencies, ms.
    InterTokenLatencySum,
    /// Number of observations in `InterTokenLatencySum`.
    InterTokenLatencyCount,
    /// Sum of the times spent waiting in the engine's queue, ms.
    QueueTimeSum,
    /// Number of observations in `QueueTimeSum`.
    QueueTimeCount,
    /// Shape of the KV cache, in labels `block_size` and `num_gpu_blocks`.
    CacheConfig,
    /// Prefix cache hits.
    PrefixCacheHits,
    /// Prefix cache queries.
    PrefixCacheQueries,
    /// Requests held back by the inference scheduler's flow control.
    SchedulerQueueSize,
    /// Bytes held back by the inference scheduler's flow control.
    SchedulerQueueBytes,
    /// Replicas that a scale target's spec asks for.
    TargetReplicasSpec,
    /// Pods that a scale target has, ready or not.
    TargetReplicasStatus,
    /// Pods of a scale target that are ready.
    TargetReplicasReady,
    /// Owner of a pod, in labels.
    PodOwner,
    /// Owner of a ReplicaSet, in labels.
    ReplicaSetOwner,
    /// Accelerators that a node offers.
    NodeAccelerators,
    /// Product name of a node's accelerators, in labels.
    NodeLabels,
}

/// How the values of a signal behave over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKind {
    /// Goes up and down; a window keeps maximum and average.
    Gauge,
    /// Only grows, but for resets; a window keeps the increase.
    Counter,
    /// The value says only "this is so"; the labels carry the content.
    Info,
}

impl Signal {
    /// How the signal's values behave.
    pub fn kind(self) -> SignalKind {
        use Signal::*;
        match self {
            KvCacheUsage | RequestsWaiting | RequestsRunning | SchedulerQueueSize | SchedulerQueueBytes
            | TargetReplicasSpec | TargetReplicasStatus | TargetReplicasReady | NodeAccelerators => {
                SignalKind::Gauge
            }
            RequestsFinished
            | RequestGenerationTokensSum
            | RequestGenerationTokensCount
            | PromptTokens
            | GenerationTokens
            | TimeToFirstTokenSum
            | TimeToFirstTokenCount
            | InterTokenLatencySum
            | InterTokenLatencyCount
            | QueueTimeSum
            | QueueTimeCount
            | PrefixCacheHits
            | PrefixCacheQueries => SignalKind::Counter,
            CacheConfig | PodOwner | ReplicaSetOwner | NodeLabels => SignalKind::Info,
        }
    }

    /// Whether several series of one replica (data-parallel ranks) combine to their maximum; all other
    /// signals add up.
    pub fn combines_to_max(self) -> bool {
        matches!(self, Signal::KvCacheUsage)
    }
}

/// The thing that a series describes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One serving pod.
    Replica {
        /// Namespace of the pod.
        namespace: Arc<str>,
        /// Pod name; the scrape's `instance` where the series carries no pod.
        pod: Arc<str>,
    },
    /// A scale target, as kube-state-metrics reports it.
    Target {
        /// Namespace of the target.
        namespace: Arc<str>,
        /// Kind of the target.
        kind: crate::config::TargetKind,
        /// Name of the target.
        name: Arc<str>,
    },
    /// A ReplicaSet, which stands between a Deployment and its pods.
    ReplicaSet {
        /// Namespace of the ReplicaSet.
        namespace: Arc<str>,
        /// Name of the ReplicaSet.
        name: Arc<str>,
    },
    /// The inference scheduler's queue for one model.
    Scheduler {
        /// Namespace of the scheduler.
        namespace: Arc<str>,
        /// Model the queue holds requests for.
        model: Arc<str>,
    },
    /// A node of the cluster.
    Node {
        /// Name of the node.
        name: Arc<str>,
    },
}

/// Owner of a pod or a ReplicaSet as kube-state-metrics names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Kind of the owner, e.g. `ReplicaSet`.
    pub kind: Arc<str>,
    /// Name of the owner.
    pub name: Arc<str>,
}

/// A series that is ours, with all that its labels say.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// The thing described.
    pub subject: Subject,
    /// What is said about it.
    pub signal: Signal,
    /// Among names with the same signal on one subject only those of the least rank count.
    pub rank: u8,
    /// Factor from the series' unit to the signal's.
    pub scale: f64,
    /// Model name carried by the series, if any.
    pub model: Option<Arc<str>>,
    /// Variant named outright by a label, if any.
    pub variant: Option<Arc<str>>,
    /// Owner, for `PodOwner` and `ReplicaSetOwner`.
    pub owner: Option<Owner>,
    /// KV cache capacity in tokens, for `CacheConfig`.
    pub kv_capacity_tokens: Option<f64>,
    /// Product name of the accelerators, for `NodeLabels`.
    pub product: Option<Arc<str>>,
}
