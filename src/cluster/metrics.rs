//! Metrics of the connection to the cluster: state is read when scraped, counters are counted where things
//! happen.

use crate::mirror::cluster::Health;
use arc_swap::ArcSwap;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntGaugeVec, Opts};
use std::sync::Arc;

/// Upper bounds of the start-up time's buckets, seconds: pods of large models take minutes.
const STARTUP_SECONDS: [f64; 10] = [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 1800.0];

/// Metrics of the cluster.
pub struct ClusterMetrics {
    health: Arc<ArcSwap<Health>>,
    age: Gauge,
    sync: Gauge,
    objects: IntGaugeVec,
    lists: IntGaugeVec,
    up: IntGaugeVec,
    startup: Histogram,
}

impl ClusterMetrics {
    /// Metrics that read the mirror's state from `health`.
    pub fn new(health: Arc<ArcSwap<Health>>) -> prometheus::Result<Self> {
        let by_kind = |name, help| IntGaugeVec::new(Opts::new(name, help), &["kind"]);
        Ok(ClusterMetrics {
            health,
            age: Gauge::new(
                "inferno_sidecar_cluster_age_seconds",
                "Time since which some part of the mirrored cluster has not been followed; 0 when all is.",
            )?,
            sync: Gauge::new(
                "inferno_sidecar_cluster_sync_seconds",
                "Time from the start until the cluster was mirrored; 0 before.",
            )?,
            objects: by_kind("inferno_sidecar_cluster_objects", "Mirrored objects.")?,
            lists: by_kind(
                "inferno_sidecar_cluster_lists",
                "Lists asked of the API server since the start.",
            )?,
            up: by_kind("inferno_sidecar_cluster_up", "Whether objects of the kind are followed.")?,
            startup: Histogram::with_opts(
                HistogramOpts::new(
                    "inferno_sidecar_pod_startup_seconds",
                    "From the creation of a pod until it was ready.",
                )
                .buckets(STARTUP_SECONDS.to_vec()),
            )?,
        })
    }

    /// A pod became ready, so many milliseconds after its creation.
    pub fn pod_started(&self, ms: i64) {
        self.startup.observe(ms as f64 / 1000.0);
    }

    /// All families, with the state as it is now.
    pub fn collect(&self) -> Vec<MetricFamily> {
        let health = self.health.load();
        self.age.set(health.age().as_secs_f64());
        self.sync.set(health.synced_after.unwrap_or_default().as_secs_f64());
        for (kind, state) in &health.kinds {
            let kind = [kind.plural()];
            self.objects.with_label_values(&kind).set(state.objects as i64);
            self.lists.with_label_values(&kind).set(state.lists as i64);
            self.up.with_label_values(&kind).set(i64::from(state.is_up));
        }
        let collectors: [&dyn Collector; 6] =
            [&self.age, &self.sync, &self.objects, &self.lists, &self.up, &self.startup];
        collectors.iter().flat_map(|collector| collector.collect()).collect()
    }
}
