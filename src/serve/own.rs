//! The sidecar's own metrics, `inferno_sidecar_*`. Counters are counted where things happen; sizes are
//! read when scraped, so they cannot drift.

use crate::cluster::metrics::ClusterMetrics;
use crate::engine::{Stats, WriteReport};
use crate::publish::Board;
use crate::publish::exposition::{Writer, write_label};
use crate::publish::history::HistoryStats;
use crate::tape::Counters;
use axum::http::StatusCode;
use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of the write duration's buckets, seconds.
const WRITE_SECONDS: [f64; 10] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0];

/// Counters of the process.
pub struct OwnMetrics {
    writes: IntCounterVec,
    write_seconds: Histogram,
    series: IntCounter,
    samples: IntCounterVec,
    rejected: IntCounter,
    queries: IntCounter,
    reloads: IntCounterVec,
    scaler: IntCounterVec,
    denied: IntCounterVec,
    external: IntCounterVec,
    certificates: IntGaugeVec,
    backfill: Backfilled,
    /// Size of the largest write request so far, bytes.
    largest_request: AtomicUsize,
    more: OnceLock<Arc<ClusterMetrics>>,
}

/// How far the backfill has come.
#[derive(Default)]
struct Backfilled {
    samples: AtomicU64,
    /// Share of the time to be filled that is filled, in thousandths.
    permille: AtomicU64,
}

impl OwnMetrics {
    /// All counters at zero.
    pub fn new() -> prometheus::Result<Self> {
        let vec = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        Ok(OwnMetrics {
            writes: vec("inferno_sidecar_write_requests_total", "Write requests answered, by code.", "code")?,
            write_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "inferno_sidecar_write_duration_seconds",
                    "From a write request's headers to its answer, decisions published.",
                )
                .buckets(WRITE_SECONDS.to_vec()),
            )?,
            series: IntCounter::new("inferno_sidecar_write_series_total", "TimeSeries messages received.")?,
            samples: vec(
                "inferno_sidecar_samples_total",
                "Samples received: used, late (older than the newest or resent; counted in used too), \
                 meaningless (not a number, infinite or negative), foreign (of series that are not ours).",
                "outcome",
            )?,
            rejected: IntCounter::new(
                "inferno_sidecar_rejected_total",
                "Series and samples refused for good (answer 400).",
            )?,
            queries: IntCounter::new("inferno_sidecar_queries_total", "Queries asked.")?,
            reloads: vec("inferno_sidecar_config_applied_total", "Configurations put in force.", "result")?,
            scaler: IntCounterVec::new(
                Opts::new(
                    "inferno_sidecar_scaler_requests_total",
                    "Requests of external scalers (gRPC) answered, streams when opened.",
                ),
                &["method", "code"],
            )?,
            denied: IntCounterVec::new(
                Opts::new(
                    "inferno_sidecar_denied_requests_total",
                    "Requests not let in, by surface (write, read, admin, external) and why.",
                ),
                &["surface", "why"],
            )?,
            certificates: IntGaugeVec::new(
                Opts::new(
                    "inferno_sidecar_certificate_expiry_timestamp_seconds",
                    "When the certificate in use ends, by listener (main, external).",
                ),
                &["listener"],
            )?,
            external: vec(
                "inferno_sidecar_external_metrics_requests_total",
                "Requests of the external metrics API answered, probes aside, by code.",
                "code",
            )?,
            backfill: Backfilled::default(),
            largest_request: AtomicUsize::default(),
            more: OnceLock::new(),
        })
    }

    /// Shows the cluster's metrics, too.
    pub fn add(&self, cluster: Arc<ClusterMetrics>) {
        // There is one cluster; a second is a mistake of ours that nobody sees.
        let _ = self.more.set(cluster);
    }

    /// A write request was answered.
    pub fn write_answered(&self, status: StatusCode, took: Duration) {
        self.writes.with_label_values(&[status.as_str()]).inc();
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// A write request announces that many bytes.
    pub fn request_announced(&self, bytes: usize) {
        self.largest_request.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Size of the largest write request since the start, bytes.
    pub fn largest_request_bytes(&self) -> usize {
        self.largest_request.load(Ordering::Relaxed)
    }

    /// A write request's samples were taken in.
    pub fn write_taken(&self, report: &WriteReport) {
        self.series.inc_by(report.counts.series);
        let foreign = report.written.samples.saturating_sub(report.used + report.meaningless);
        for (outcome, count) in [
            ("used", report.used),
            ("late", report.late),
            ("meaningless", report.meaningless),
            ("foreign", foreign),
        ] {
            self.samples.with_label_values(&[outcome]).inc_by(count);
        }
        self.rejected.inc_by(report.rejected + report.no_room);
    }

    /// The backfill has taken in `samples` in all, and `share` of its time, 0 to 1.
    pub fn backfilled(&self, samples: u64, share: f64) {
        self.backfill.samples.store(samples, Ordering::Relaxed);
        self.backfill.permille.store((share * 1000.0) as u64, Ordering::Relaxed);
    }

    /// A query was asked.
    pub fn query_asked(&self) {
        self.queries.inc();
    }

    /// An external scaler's request was answered, or its stream opened.
    pub fn scaler_called(&self, method: &str, code: tonic::Code) {
        self.scaler.with_label_values(&[method, &format!("{code:?}")]).inc();
    }

    /// A request of the external metrics API was answered.
    pub fn external_answered(&self, status: StatusCode) {
        self.external.with_label_values(&[status.as_str()]).inc();
    }

    /// A request was not let in.
    pub fn denied(&self, surface: &str, why: &str) {
        self.denied.with_label_values(&[surface, why]).inc();
    }

    /// A listener's certificate was loaded; it ends at that time, seconds since the epoch.
    pub fn certificate_loaded(&self, listener: &str, ends_s: i64) {
        self.certificates.with_label_values(&[listener]).set(ends_s);
    }

    /// A configuration was put in force.
    pub fn config_applied(&self, problems: usize) {
        self.reloads.with_label_values(&[if problems == 0 { "clean" } else { "with_problems" }]).inc();
    }

    /// Write requests answered, by code.
    pub fn write_counts(&self) -> BTreeMap<String, u64> {
        counts(&self.writes)
    }

    /// Samples received, by outcome.
    pub fn sample_counts(&self) -> BTreeMap<String, u64> {
        counts(&self.samples)
    }

    /// Writes the figures of the recorder.
    pub fn write_recorder(&self, writer: &mut Writer, counters: &Counters) {
        let name = "inferno_sidecar_recorder_records_total";
        writer.family(
            name,
            "Records of --record: written, or dropped because the disk was slow or full.",
            "counter",
        );
        for (outcome, count) in [("written", &counters.written), ("dropped", &counters.dropped)] {
            let mut labels = String::new();
            write_label(&mut labels, "outcome", outcome);
            writer.sample(name, &labels, count.load(Ordering::Relaxed) as f64);
        }
        let name = "inferno_sidecar_recorder_bytes";
        writer.family(name, "Size of the recording.", "gauge");
        writer.sample(name, "", counters.bytes.load(Ordering::Relaxed) as f64);
    }

    /// Writes everything, sizes read from `board`, `stats` and the record's.
    pub fn write(&self, writer: &mut Writer, board: &Board, stats: &Stats, record: HistoryStats) {
        for (name, help, value) in [
            ("inferno_sidecar_series", "Live series of known names.", stats.series),
            ("inferno_sidecar_series_limit", "Most live series.", stats.series_max),
            ("inferno_sidecar_replicas", "Pods known from their series.", stats.replicas),
            ("inferno_sidecar_variants", "Variants configured.", stats.variants),
            ("inferno_sidecar_models", "Models configured.", stats.models),
            ("inferno_sidecar_config_problems", "Rejected pieces of configuration.", board.problems.len()),
            ("inferno_sidecar_record_bytes", "Memory of what is recorded.", record.bytes),
            ("inferno_sidecar_record_series", "Series that are recorded.", record.series),
        ] {
            writer.family(name, help, "gauge");
            writer.sample(name, "", value as f64);
        }
        for (name, help, counts) in [
            (
                "inferno_sidecar_unmatched_replicas",
                "Live pods that belong to no variant, by reason.",
                &board.unmatched.replicas,
            ),
            (
                "inferno_sidecar_unmatched_series",
                "Series of known names that lack a label needed to use them, by reason.",
                &board.unmatched.series,
            ),
        ] {
            writer.family(name, help, "gauge");
            for (reason, count) in counts {
                let mut labels = String::new();
                write_label(&mut labels, "reason", reason);
                writer.sample(name, &labels, *count as f64);
            }
        }
        let name = "inferno_sidecar_backfill_samples_total";
        writer.family(name, "Samples read from Prometheus at the start.", "counter");
        writer.sample(name, "", self.backfill.samples.load(Ordering::Relaxed) as f64);
        let name = "inferno_sidecar_backfill_progress_ratio";
        writer.family(name, "Share of the time to be filled from Prometheus that is filled.", "gauge");
        writer.sample(name, "", self.backfill.permille.load(Ordering::Relaxed) as f64 / 1000.0);
        let name = "inferno_sidecar_record_start_seconds";
        writer.family(name, "From when on the record is complete, seconds since the epoch.", "gauge");
        if let Some(since) = record.since {
            writer.sample(name, "", since.as_secs_f64());
        }
        let name = "inferno_sidecar_model_recomputations_total";
        writer.family(name, "Recomputations of one model's decisions.", "counter");
        writer.sample(name, "", stats.recomputations as f64);
        writer.family("inferno_sidecar_build_info", "Version of the sidecar.", "gauge");
        let mut labels = String::new();
        write_label(&mut labels, "version", env!("CARGO_PKG_VERSION"));
        writer.sample("inferno_sidecar_build_info", &labels, 1.0);
        let collectors: [&dyn Collector; 11] = [
            &self.writes,
            &self.write_seconds,
            &self.series,
            &self.samples,
            &self.rejected,
            &self.queries,
            &self.reloads,
            &self.scaler,
            &self.denied,
            &self.external,
            &self.certificates,
        ];
        let more = self.more.get().map(|cluster| cluster.collect()).unwrap_or_default();
        for family in collectors.iter().flat_map(|collector| collector.collect()).chain(more) {
            write_family(writer, &family);
        }
    }
}

/// Counts by the value of their only label.
fn counts(counters: &IntCounterVec) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for family in counters.collect() {
        for metric in family.get_metric() {
            if let Some(label) = metric.get_label().first() {
                counts.insert(label.value().to_owned(), metric.get_counter().get_value() as u64);
            }
        }
    }
    counts
}

fn write_family(writer: &mut Writer, family: &MetricFamily) {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    let name = family.name();
    writer.family(name, family.help(), kind);
    for metric in family.get_metric() {
        let mut labels = String::new();
        for pair in metric.get_label() {
            write_label(&mut labels, pair.name(), pair.value());
        }
        if kind != "histogram" {
            let value = match kind {
                "counter" => metric.get_counter().get_value(),
                _ => metric.get_gauge().get_value(),
            };
            writer.sample(name, &labels, value);
            continue;
        }
        let histogram = metric.get_histogram();
        let mut bucket = |bound: &str, count: u64| {
            let mut labels = labels.clone();
            write_label(&mut labels, "le", bound);
            writer.sample(&format!("{name}_bucket"), &labels, count as f64);
        };
        for counted in histogram.get_bucket() {
            bucket(&counted.upper_bound().to_string(), counted.cumulative_count());
        }
        bucket("+Inf", histogram.get_sample_count());
        writer.sample(&format!("{name}_sum"), &labels, histogram.get_sample_sum());
        writer.sample(&format!("{name}_count"), &labels, histogram.get_sample_count() as f64);
    }
}
