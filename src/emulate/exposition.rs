//! What a scraper sees of an emulated fleet.
//!
//! Input: a [`Fleet`]. Output: metric [`Family`]s of each scrape [`Target`], rendered as Prometheus text
//! here and as remote-write series by [`super::Collector`]. Both come from the same families, and those
//! from one table per kind of target (`exposition/engine.rs`, `exposition/cluster.rs`), so they cannot
//! differ.

mod cluster;
mod engine;

use std::fmt::Write as _;

use super::fleet::{Fleet, Model};

/// Type of a metric family, as the text format names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Cumulative buckets with sum and count.
    Histogram,
}

/// One sample of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What follows the family's name: empty, or `_bucket`, `_sum`, `_count`.
    pub suffix: &'static str,
    /// Labels of the metric itself, without those that a scrape attaches.
    pub labels: Vec<(&'static str, String)>,
    /// Present value.
    pub value: f64,
}

/// All samples of one metric of one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Name as exposed.
    pub name: &'static str,
    /// One line of explanation.
    pub help: &'static str,
    /// Type.
    pub kind: Kind,
    /// Samples.
    pub points: Vec<Point>,
}

/// Something that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Labels that the scrape attaches where the metric has none of that name.
    pub labels: Vec<(&'static str, String)>,
    /// What it exposes.
    pub families: Vec<Family>,
}

/// Text exposition of the engine in pod `pod`; `None` while it does not answer or when there is none.
pub fn engine_text(fleet: &Fleet, pod: &str) -> Option<String> {
    fleet
        .each_pod()
        .find(|(_, _, candidate)| candidate.name == pod)
        .and_then(|(model, variant, pod)| engine::families(model, variant, pod, &|_| true))
        .map(|families| text(&families))
}

/// Text exposition of kube-state-metrics.
pub fn cluster_text(fleet: &Fleet) -> String {
    text(&cluster::families(fleet))
}

/// Text exposition of the inference scheduler of one model.
pub fn scheduler_text(model: &Model) -> String {
    text(&cluster::scheduler_families(model))
}

/// Which metrics are wanted, by the full name of a series.
pub type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// Everything that can be scraped now, in a fixed order.
pub fn targets(fleet: &Fleet) -> Vec<Target> {
    targets_with(fleet, &|_| true)
}

/// As [`targets`], but the buckets of histograms, which are most of what engines expose, only where they are
/// wanted.
pub fn targets_with(fleet: &Fleet, wanted: Wanted<'_>) -> Vec<Target> {
    let mut targets = vec![Target {
        labels: vec![
            ("namespace", "monitoring".to_owned()),
            ("pod", fleet.cluster_metrics_pod.clone()),
            ("job", "kube-state-metrics".to_owned()),
            ("instance", "10.127.0.2:8080".to_owned()),
        ],
        families: cluster::families(fleet),
    }];
    targets.extend(fleet.models().iter().enumerate().map(|(index, model)| Target {
        labels: vec![
            ("namespace", model.namespace.clone()),
            ("pod", model.scheduler_pod.clone()),
            ("job", "inference-scheduler".to_owned()),
            ("instance", format!("10.127.1.{}:9090", index + 2)),
        ],
        families: cluster::scheduler_families(model),
    }));
    targets.extend(fleet.each_pod().filter_map(|(model, variant, pod)| {
        let families = engine::families(model, variant, pod, wanted)?;
        let labels = vec![
            ("namespace", model.namespace.clone()),
            ("pod", pod.name.clone()),
            ("job", "vllm".to_owned()),
            ("instance", format!("{}:8000", pod.address)),
        ];
        Some(Target { labels, families })
    }));
    targets
}

/// The families in the Prometheus text format, version 0.0.4.
pub fn text(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name);
        for point in &family.points {
            let _ = write!(out, "{}{}", family.name, point.suffix);
            write_labels(&mut out, &point.labels);
            let _ = writeln!(out, " {}", number(point.value));
        }
    }
    out
}

fn write_labels(out: &mut String, labels: &[(&'static str, String)]) {
    for (index, (name, value)) in labels.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{name}=\"{value}\"");
    }
    if !labels.is_empty() {
        out.push('}');
    }
}

/// A float as the text format and the `le` label write it.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        format!("{value:?}")
    }
}
