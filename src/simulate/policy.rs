//! Policies: who decides how many replicas there are.

use super::scenario::Scenario;
use crate::emulate::fleet::Fleet;
use crate::units::TimeMs;
use std::collections::VecDeque;

/// A policy in a simulation with one variant.
pub trait Policy {
    /// Name in reports.
    fn name(&self) -> String;
    /// How often it looks, ms.
    fn interval_ms(&self) -> i64;
    /// What it wants now; `None` keeps what there is.
    fn decide(&mut self, now: TimeMs, fleet: &Fleet) -> Option<u32>;
}

/// Sync period of the horizontal pod autoscaler, ms.
const HPA_SYNC_MS: i64 = 15_000;
/// Its default stabilisation of a scale-down, ms.
const HPA_DOWN_MS: i64 = 300_000;
/// Its default tolerance.
const HPA_TOLERANCE: f64 = 0.1;

/// The same number throughout.
pub struct Static(pub u32);

impl Policy for Static {
    fn name(&self) -> String {
        format!("static-{}", self.0)
    }

    fn interval_ms(&self) -> i64 {
        HPA_SYNC_MS
    }

    fn decide(&mut self, _: TimeMs, _: &Fleet) -> Option<u32> {
        Some(self.0)
    }
}

/// A quantity that a horizontal pod autoscaler holds at a target per replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Waiting requests, and the target per replica.
    Waiting(f64),
    /// Running and waiting requests, and the target per replica.
    InFlight(f64),
    /// Mean share of KV cache in use, and its target.
    KvUsage(f64),
}

/// The horizontal pod autoscaler over one or more metrics, with its default behaviour: tolerance of 10 %,
/// at most twice the replicas or four more per period, the highest wish of five minutes when going down.
pub struct Hpa {
    name: &'static str,
    metrics: Vec<Metric>,
    wishes: VecDeque<(TimeMs, u32)>,
}

impl Hpa {
    /// An autoscaler over `metrics`; the largest wish counts.
    pub fn new(name: &'static str, metrics: Vec<Metric>) -> Self {
        Hpa { name, metrics, wishes: VecDeque::new() }
    }
}

impl Policy for Hpa {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn interval_ms(&self) -> i64 {
        HPA_SYNC_MS
    }

    fn decide(&mut self, now: TimeMs, fleet: &Fleet) -> Option<u32> {
        let status = &fleet.variants()[0];
        let current = f64::from(status.current);
        let waiting = status.waiting as f64 + fleet.models()[0].queued() as f64;
        let wish = |metric: &Metric| {
            let ratio = match metric {
                Metric::Waiting(target) => waiting / target / current.max(1.0),
                Metric::InFlight(target) => (waiting + status.running as f64) / target / current.max(1.0),
                Metric::KvUsage(target) => status.kv_usage / target,
            };
            if (ratio - 1.0).abs() <= HPA_TOLERANCE { current } else { (ratio * current - 1e-9).ceil() }
        };
        let wished = self.metrics.iter().map(wish).fold(1.0, f64::max) as u32;
        self.wishes.push_back((now, wished));
        while self.wishes.front().is_some_and(|(at, _)| now.since(*at) > HPA_DOWN_MS) {
            self.wishes.pop_front();
        }
        let highest = self.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(wished);
        let ceiling = (2 * status.current).max(status.current + 4);
        Some(if wished > status.current { wished.min(ceiling) } else { highest.min(status.current) })
    }
}

/// A schedule made in advance by somebody who knows the whole trace: the clairvoyant policy.
pub struct Schedule {
    /// Name in reports.
    pub name: String,
    /// Replicas wanted from each bin on.
    pub counts: Vec<u32>,
    /// Length of a bin, ms.
    pub bin_ms: i64,
}

impl Schedule {
    /// The schedule that has `margin` times the fluid demand ready in every bin, replicas started ahead by
    /// their start-up time and kept while they would be wanted again within it.
    pub fn clairvoyant(scenario: &Scenario, demand: &[f64], bin_ms: i64, margin: f64) -> Self {
        let (min, max) = scenario.replicas;
        let ahead = (scenario.startup_ms / bin_ms + 1) as usize;
        let need = |bin: usize| {
            let last = (bin + ahead).min(demand.len() - 1);
            let peak = demand[bin..=last].iter().copied().fold(0.0, f64::max);
            ((peak * margin).ceil() as u32).clamp(min.max(1), max)
        };
        let counts = (0..demand.len()).map(need).collect();
        Schedule { name: "oracle".to_owned(), counts, bin_ms }
    }
}

impl Policy for Schedule {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn interval_ms(&self) -> i64 {
        self.bin_ms
    }

    fn decide(&mut self, now: TimeMs, _: &Fleet) -> Option<u32> {
        let bin = now.since(super::scenario::START) / self.bin_ms;
        self.counts.get(bin as usize).or(self.counts.last()).copied()
    }
}
