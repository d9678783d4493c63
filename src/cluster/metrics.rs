//! Metrics of the connection to the cluster: state is read when scraped, counters are counted where things
//! happen.

use super::lease::Leadership;
use crate::mirror::cluster::Health;
use arc_swap::ArcSwap;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use std::sync::{Arc, OnceLock};

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
    leader: IntGauge,
    leadership: OnceLock<Leadership>,
    statuses: IntCounterVec,
    events: IntCounterVec,
    scales: IntCounterVec,
}

impl ClusterMetrics {
    /// Metrics that read the mirror's state from `health`.
    pub fn new(health: Arc<ArcSwap<Health>>) -> prometheus::Result<Self> {
        let outcomes = |name, help| IntCounterVec::new(Opts::new(name, help), &["outcome"]);
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
            leader: IntGauge::new(
                "inferno_sidecar_leader",
                "Whether this instance may write to the cluster.",
            )?,
            leadership: OnceLock::new(),
            statuses: outcomes(
                "inferno_sidecar_status_writes_total",
                "Writes of the status of VariantAutoscalings, by outcome.",
            )?,
            events: outcomes("inferno_sidecar_events_total", "Events written, by outcome.")?,
            scales: outcomes(
                "inferno_sidecar_scale_requests_total",
                "Changes of scale targets, by outcome.",
            )?,
        })
    }

    /// A pod became ready, so many milliseconds after its creation.
    pub fn pod_started(&self, ms: i64) {
        self.startup.observe(ms as f64 / 1000.0);
    }

    /// Reads from then on whether this instance leads.
    pub fn show_leadership(&self, leadership: Leadership) {
        // Set once, at the start.
        let _ = self.leadership.set(leadership);
    }

    /// A status was written, or not.
    pub fn status_written(&self, outcome: &str) {
        self.statuses.with_label_values(&[outcome]).inc();
    }

    /// An Event was written, or not.
    pub fn event_written(&self, outcome: &str) {
        self.events.with_label_values(&[outcome]).inc();
    }

    /// A scale target was changed, or not.
    pub fn scaled(&self, outcome: &str) {
        self.scales.with_label_values(&[outcome]).inc();
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
        self.leader.set(i64::from(self.leadership.get().is_some_and(Leadership::is_mine)));
        let collectors: [&dyn Collector; 10] = [
            &self.age,
            &self.sync,
            &self.objects,
            &self.lists,
            &self.up,
            &self.startup,
            &self.leader,
            &self.statuses,
            &self.events,
            &self.scales,
        ];
        collectors.iter().flat_map(|collector| collector.collect()).collect()
    }
}
