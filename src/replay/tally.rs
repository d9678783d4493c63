//! The books of one engine in a replay: the course of each variant's counts, its replica hours and cost.

use crate::config::VariantKey;
use crate::publish::{Board, Direction, Entry};
use crate::units::TimeMs;
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;
use std::sync::Arc;

const HOUR_MS: f64 = 3_600_000.0;

/// A change of a variant's counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Stream time of the change.
    pub at: TimeMs,
    /// Replicas asked for from then on; `None` without a decision.
    pub desired: Option<u32>,
    /// Replicas there are.
    pub current: u32,
    /// Why, as a code.
    pub reason: &'static str,
    /// Why, as a sentence.
    pub message: String,
}

/// What became of one variant.
#[derive(Clone, Debug)]
pub struct Course {
    /// Model served.
    pub model_id: Arc<str>,
    /// Accelerator type.
    pub accelerator: Arc<str>,
    /// Changes of its counts, in order.
    pub steps: Vec<Step>,
    /// Hours that the replicas asked for would have run, all replicas together.
    pub replica_hours: f64,
    /// Those at the cost of a replica.
    pub cost: f64,
    /// Time with a decision, hours.
    pub decided_hours: f64,
    /// Raises and cuts of the desired count.
    pub changes: [u32; 2],
    cost_per_hour: f64,
    /// Up to when the sums above go.
    summed_to: TimeMs,
}

impl Course {
    /// Largest count asked for.
    pub fn max(&self) -> u32 {
        self.steps.iter().filter_map(|step| step.desired).max().unwrap_or(0)
    }

    /// Average count asked for; `None` without a decision.
    pub fn mean(&self) -> Option<f64> {
        (self.decided_hours > 0.0).then(|| self.replica_hours / self.decided_hours)
    }

    fn sum_to(&mut self, at: TimeMs) {
        let hours = at.since(self.summed_to).max(0) as f64 / HOUR_MS;
        self.summed_to = self.summed_to.max(at);
        if let Some(desired) = self.steps.last().and_then(|step| step.desired) {
            self.decided_hours += hours;
            self.replica_hours += hours * f64::from(desired);
            self.cost += hours * f64::from(desired) * self.cost_per_hour;
        }
    }

    fn step(&mut self, step: Step) {
        let before = self.steps.iter().rev().find_map(|step| step.desired);
        match (before, step.desired) {
            (Some(before), Some(now)) if now > before => self.changes[Direction::Up as usize] += 1,
            (Some(before), Some(now)) if now < before => self.changes[Direction::Down as usize] += 1,
            _ => {}
        }
        let last = self.steps.last();
        if last.is_none_or(|last| (last.desired, last.current) != (step.desired, step.current)) {
            self.steps.push(step);
        }
    }
}

/// The courses of all variants.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By variant, also of those removed meanwhile.
    pub courses: BTreeMap<VariantKey, Course>,
}

impl Tally {
    /// Takes in the next board.
    pub fn take(&mut self, before: &Board, now: &Board) {
        let Some(at) = now.stream_time else { return };
        for change in before.entries.diff(&now.entries) {
            match change {
                DiffItem::Add(key, entry) => self.step(key, entry, at),
                DiffItem::Update { new: (key, entry), .. } => self.step(key, entry, at),
                DiffItem::Remove(key, _) => self.end(key, at, "removed"),
            }
        }
    }

    fn step(&mut self, key: &VariantKey, entry: &Entry, at: TimeMs) {
        let variant = &entry.variant;
        let course = self.courses.entry(key.clone()).or_insert_with(|| Course {
            model_id: variant.model_id.clone(),
            accelerator: variant.accelerator.clone(),
            steps: Vec::new(),
            replica_hours: 0.0,
            cost: 0.0,
            decided_hours: 0.0,
            changes: [0; 2],
            cost_per_hour: variant.cost,
            summed_to: at,
        });
        course.sum_to(at);
        course.cost_per_hour = variant.cost;
        let Some(decision) = &entry.decision else { return };
        course.step(Step {
            at,
            desired: Some(decision.desired),
            current: decision.current,
            reason: decision.cause.as_str(),
            message: decision.explain(),
        });
    }

    fn end(&mut self, key: &VariantKey, at: TimeMs, reason: &'static str) {
        if let Some(course) = self.courses.get_mut(key) {
            course.sum_to(at);
            course.step(Step { at, desired: None, current: 0, reason, message: String::new() });
        }
    }

    /// The engine ended at `at`: nothing is asked for until the next one decides.
    pub fn end_all(&mut self, at: TimeMs) {
        let keys: Vec<VariantKey> = self.courses.keys().cloned().collect();
        for key in keys {
            self.end(&key, at, "restarted");
        }
    }

    /// Brings all sums up to the end of the recording.
    pub fn finish(&mut self, at: TimeMs) {
        for course in self.courses.values_mut() {
            course.sum_to(at);
        }
    }

    /// Cost of everything asked for.
    pub fn cost(&self) -> f64 {
        self.courses.values().map(|course| course.cost).sum()
    }

    /// Replica hours of everything asked for.
    pub fn replica_hours(&self) -> f64 {
        self.courses.values().map(|course| course.replica_hours).sum()
    }
}
