//! Bookkeeping of a run: what the clients felt, what was decided, and what that makes in figures.
//!
//! Input: the emulated fleet once per virtual second, decisions, what the autoscaler did. Output: a
//! [`Frame`] to show now and the figures for the summary. Pure; times are virtual ms since the start.

use super::plan::{Plan, STEP_MS};
use crate::config::SloTargets;
use crate::emulate::fleet::{Fleet, Model, Served, VariantStatus};
use std::collections::VecDeque;

/// Span over which rates and latencies are shown, ms.
pub const RECENT_MS: i64 = 15_000;
/// A model is short of replicas while its replicas use this share of their KV cache on average ...
const SHORT_KV: f64 = 0.80;
/// ... or this many of its requests wait per ready replica. Both are the demo's saturation thresholds.
const SHORT_WAITING: f64 = 5.0;
/// Replicas count as enough only when the load stays up for this long afterwards, ms.
const CALM_MS: i64 = 10_000;

/// A change of a number of replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// When.
    pub at_ms: i64,
    /// Index of the variant.
    pub variant: usize,
    /// Count before.
    pub from: u32,
    /// Count after.
    pub to: u32,
    /// Why; empty when somebody else decided.
    pub reason: String,
}

impl Change {
    /// More replicas than before.
    pub fn is_up(&self) -> bool {
        self.to > self.from
    }
}

/// One variant at one moment.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Name of the variant.
    pub name: String,
    /// Requests per second that reach it.
    pub arrivals_per_s: f64,
    /// Requests running.
    pub running: u64,
    /// Requests waiting in its engines.
    pub waiting: u64,
    /// Share of KV cache in use, 0..1.
    pub kv_usage: f64,
    /// Replicas that serve.
    pub ready: u32,
    /// Replicas there are.
    pub current: u32,
    /// 95th percentile of the time to first token of late, ms.
    pub ttft_p95_ms: Option<f64>,
    /// Its target, ms.
    pub ttft_slo_ms: f64,
    /// Replicas wanted, as the sidecar publishes.
    pub desired: Option<u32>,
    /// Why, in a few words.
    pub why: String,
}

/// Everything to show of one moment.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// When.
    pub at_ms: i64,
    /// The variants.
    pub rows: Vec<Row>,
    /// Requests waiting, at the schedulers too.
    pub waiting: u64,
    /// Share of the requests finished of late that met their targets.
    pub met_share: Option<f64>,
}

/// Whether the replicas were ever enough for the load while it was up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Enough {
    /// They always were.
    Always,
    /// From this long after the rise on, ms.
    After(i64),
    /// Not while the load was up, or not as far as was seen.
    Never,
}

/// What there is to know of one model.
#[derive(Debug)]
pub struct ModelTally {
    /// Model ID.
    pub id: String,
    /// Its targets.
    pub slo: SloTargets,
    /// Time to first token of each finished request, ms.
    pub ttft_ms: Vec<f32>,
    /// Time per output token of each finished request, ms.
    pub tpot_ms: Vec<f32>,
    /// Requests that came while the load was up, and those of them that met the targets.
    pub up: (u64, u64),
    /// Most requests waiting at once.
    pub waiting_max: u64,
    /// First raised decision after the rise.
    pub first_raise_ms: Option<i64>,
    /// Last time it was short of replicas while the load was up.
    short_ms: Option<i64>,
}

/// What there is to know of one variant.
#[derive(Debug, Default)]
pub struct VariantTally {
    /// Index of its model.
    pub model: usize,
    /// Status of the last second.
    pub status: Option<VariantStatus>,
    /// Most replicas ready at once.
    pub ready_max: u32,
    /// Published count of the last second.
    pub desired: Option<u32>,
    /// When a raise that nobody has applied yet was decided.
    raised_ms: Option<i64>,
    finished: u64,
    /// Recently finished requests: when, time to first token in ms, whether the targets were met.
    recent: VecDeque<(i64, f64, bool)>,
    /// Requests that had come by then: those finished and those inside.
    came: VecDeque<(i64, u64)>,
}

/// Bookkeeping of a run.
#[derive(Debug)]
pub struct Tally {
    /// What is played.
    pub plan: Plan,
    /// Time of the last second seen.
    pub at_ms: i64,
    /// The models.
    pub models: Vec<ModelTally>,
    /// The variants of all models.
    pub variants: Vec<VariantTally>,
    /// Changes of the published counts.
    pub decided: Vec<Change>,
    /// Changes that the autoscaler made.
    pub applied: Vec<Change>,
    /// Times that raises waited for the autoscaler, ms.
    pub waits_ms: Vec<i64>,
    /// Most requests waiting at once, all models.
    pub waiting_max: u64,
    /// When any model was short of replicas for the first time while the load was up.
    pub first_short_ms: Option<i64>,
    /// How long any model was, while the load was up, ms.
    pub short_ms: i64,
}

impl Tally {
    /// Bookkeeping of a run of `fleet`.
    pub fn new(plan: Plan, fleet: &Fleet) -> Self {
        let model = |model: &Model| ModelTally {
            id: model.model_id().to_owned(),
            slo: model.slo(),
            ttft_ms: Vec::new(),
            tpot_ms: Vec::new(),
            up: (0, 0),
            waiting_max: 0,
            first_raise_ms: None,
            short_ms: None,
        };
        let models: Vec<ModelTally> = fleet.models().iter().map(model).collect();
        let model_of = |status: &VariantStatus| models.iter().position(|model| model.id == status.model_id);
        let variants = fleet
            .variants()
            .into_iter()
            .map(|status| VariantTally {
                model: model_of(&status).unwrap_or_default(),
                status: Some(status),
                ..VariantTally::default()
            })
            .collect();
        Tally {
            plan,
            at_ms: 0,
            models,
            variants,
            decided: Vec::new(),
            applied: Vec::new(),
            waits_ms: Vec::new(),
            waiting_max: 0,
            first_short_ms: None,
            short_ms: 0,
        }
    }

    /// Takes in what the fleet shows at `at_ms` and the requests finished since the last time.
    pub fn second(&mut self, at_ms: i64, fleet: &Fleet, served: &[Served]) -> Frame {
        self.at_ms = at_ms;
        let start = self.plan.fleet().start;
        for one in served {
            self.note_served(one, start.0);
        }
        let statuses = fleet.variants();
        self.note_queues(fleet, &statuses);
        let mut frame =
            Frame { at_ms, waiting: fleet.models().iter().map(waiting).sum(), ..Frame::default() };
        let (mut recent, mut met) = (0_u32, 0_u32);
        for (variant, status) in self.variants.iter_mut().zip(statuses) {
            variant.forget(at_ms);
            variant.came.push_back((at_ms, variant.finished + status.running + status.waiting));
            variant.ready_max = variant.ready_max.max(status.ready);
            recent += variant.recent.len() as u32;
            met += variant.recent.iter().filter(|(_, _, met)| *met).count() as u32;
            frame.rows.push(variant.row(&status, self.models[variant.model].slo.ttft_ms));
            variant.status = Some(status);
        }
        frame.met_share = (recent > 0).then(|| f64::from(met) / f64::from(recent));
        frame
    }

    fn note_served(&mut self, one: &Served, start_ms: i64) {
        let model = &mut self.models[one.model];
        let finished = &one.finished;
        let met = finished.meets(&model.slo);
        model.ttft_ms.push(finished.ttft_ms as f32);
        model.tpot_ms.push(finished.tpot_ms as f32);
        let arrival_ms = finished.request.arrival_us.div_euclid(1000) - start_ms;
        if (self.plan.rise_ms..self.plan.fall_ms).contains(&arrival_ms) {
            model.up.0 += 1;
            model.up.1 += u64::from(met);
        }
        let of_model = self.variants.iter_mut().filter(|variant| variant.model == one.model);
        if let Some(variant) = of_model.into_iter().nth(one.variant) {
            variant.finished += 1;
            let finish_ms = finished.finish_us.div_euclid(1000) - start_ms;
            variant.recent.push_back((finish_ms, finished.ttft_ms, met));
        }
    }

    fn note_queues(&mut self, fleet: &Fleet, statuses: &[VariantStatus]) {
        let at_ms = self.at_ms;
        let up = self.plan.rise_ms < at_ms && at_ms <= self.plan.fall_ms;
        let mut any_short = false;
        self.waiting_max = self.waiting_max.max(fleet.models().iter().map(waiting).sum());
        for (index, model) in self.models.iter_mut().enumerate() {
            let waiting = waiting(&fleet.models()[index]);
            model.waiting_max = model.waiting_max.max(waiting);
            let of_model =
                || statuses.iter().zip(&self.variants).filter(|(_, variant)| variant.model == index);
            let ready: f64 = of_model().map(|(status, _)| f64::from(status.ready)).sum();
            let kv: f64 = of_model().map(|(status, _)| status.kv_usage * f64::from(status.ready)).sum();
            let short = kv >= SHORT_KV * ready || waiting as f64 >= SHORT_WAITING * ready.max(1.0);
            if up && short {
                model.short_ms = Some(at_ms);
                any_short = true;
            }
        }
        if any_short {
            self.first_short_ms.get_or_insert(at_ms);
            self.short_ms += STEP_MS;
        }
    }

    /// Takes in a published count; tells how it changed.
    pub fn publish(&mut self, variant: usize, desired: u32, reason: &str) -> Option<Change> {
        let at_ms = self.at_ms;
        let tally = &mut self.variants[variant];
        let from = tally.desired.replace(desired)?;
        if from == desired {
            return None;
        }
        let change = Change { at_ms, variant, from, to: desired, reason: reason.to_owned() };
        if change.is_up() {
            tally.raised_ms.get_or_insert(at_ms);
            let model = &mut self.models[tally.model];
            if at_ms > self.plan.rise_ms {
                model.first_raise_ms.get_or_insert(at_ms);
            }
        } else {
            tally.raised_ms = None;
        }
        self.decided.push(change.clone());
        Some(change)
    }

    /// Takes in that the autoscaler has set a count.
    pub fn apply(&mut self, variant: usize, from: u32, to: u32) -> Change {
        let change = Change { at_ms: self.at_ms, variant, from, to, reason: String::new() };
        if let Some(raised_ms) = self.variants[variant].raised_ms.take_if(|_| change.is_up()) {
            self.waits_ms.push(self.at_ms - raised_ms);
        }
        self.applied.push(change.clone());
        change
    }

    /// The first raised decision after the rise.
    pub fn first_raise(&self) -> Option<&Change> {
        self.decided.iter().find(|change| change.is_up() && change.at_ms > self.plan.rise_ms)
    }

    /// Whether a model had enough replicas.
    pub fn enough(&self, model: usize) -> Enough {
        let seen_ms = self.at_ms.min(self.plan.fall_ms);
        match self.models[model].short_ms {
            None if seen_ms > self.plan.rise_ms => Enough::Always,
            Some(short_ms) if short_ms + CALM_MS <= seen_ms => {
                Enough::After(short_ms + STEP_MS - self.plan.rise_ms)
            }
            _ => Enough::Never,
        }
    }

    /// Whether all models had enough replicas: since the last of them has.
    pub fn enough_for_all(&self) -> Enough {
        let both = |one: Enough, other: Enough| match (one, other) {
            (Enough::Never, _) | (_, Enough::Never) => Enough::Never,
            (Enough::After(a), Enough::After(b)) => Enough::After(a.max(b)),
            (Enough::Always, other) => other,
            (one, Enough::Always) => one,
        };
        (0..self.models.len()).map(|model| self.enough(model)).reduce(both).unwrap_or(Enough::Never)
    }
}

impl VariantTally {
    /// Drops what is no longer recent at `at_ms`.
    fn forget(&mut self, at_ms: i64) {
        while self.recent.front().is_some_and(|(then, ..)| at_ms - then > RECENT_MS) {
            self.recent.pop_front();
        }
        while self.came.front().is_some_and(|(then, _)| at_ms - then > RECENT_MS) {
            self.came.pop_front();
        }
    }

    fn row(&self, status: &VariantStatus, ttft_slo_ms: f64) -> Row {
        let rate = match (self.came.front(), self.came.back()) {
            (Some((from, before)), Some((until, now))) if until > from => {
                now.saturating_sub(*before) as f64 * 1000.0 / (until - from) as f64
            }
            _ => 0.0,
        };
        let mut ttft: Vec<f32> = self.recent.iter().map(|(_, ttft_ms, _)| *ttft_ms as f32).collect();
        Row {
            name: status.name.clone(),
            arrivals_per_s: rate,
            running: status.running,
            waiting: status.waiting,
            kv_usage: status.kv_usage,
            ready: status.ready,
            current: status.current,
            ttft_p95_ms: quantile(&mut ttft, 0.95),
            ttft_slo_ms,
            desired: None,
            why: String::new(),
        }
    }
}

/// Requests of a model that wait, in its engines and at its scheduler.
fn waiting(model: &Model) -> u64 {
    let engines: usize = model.replicas().map(|replica| replica.waiting()).sum();
    (engines + model.queued()) as u64
}

/// The `share` quantile (nearest rank); sorts the values.
pub fn quantile(values: &mut [f32], share: f64) -> Option<f64> {
    values.sort_unstable_by(f32::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).map(|value| f64::from(*value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::emulate::standard;
    use crate::options::{DemoFlags, Scenario};

    /// Books of a default run (load up from 2:00 to 6:00) and its fleet.
    fn tally() -> (Tally, Fleet) {
        let (scenario, duration, startup) = (Scenario::Spike, 600_000, 30_000);
        let flags = DemoFlags {
            scenario,
            mode: Mode::HYBRID,
            duration,
            speed: 10.0,
            startup,
            seed: 1,
            json: false,
            tape: Default::default(),
        };
        let plan = Plan::new(&flags).unwrap();
        let fleet = Fleet::new(standard::spec(&plan.fleet()));
        (Tally::new(plan, &fleet), fleet)
    }

    #[test]
    fn only_a_raise_after_the_rise_answers_it() {
        let (mut tally, _) = tally();
        for (at_ms, desired) in [(0, 1), (60_000, 2), (120_000, 3), (122_000, 2), (130_000, 4)] {
            tally.at_ms = at_ms;
            tally.publish(2, desired, "because");
        }
        assert_eq!(tally.decided.len(), 4, "the first count is no change");
        let first = tally.first_raise().unwrap();
        assert_eq!((first.at_ms, first.from, first.to), (130_000, 2, 4));
        assert_eq!(tally.models[1].first_raise_ms, Some(130_000));
        assert_eq!(tally.models[0].first_raise_ms, None);
    }

    #[test]
    fn a_raise_waits_until_it_is_applied_and_a_withdrawn_one_does_not_count() {
        let (mut tally, _) = tally();
        for (at_ms, desired) in [(0, 1), (2_000, 2), (4_000, 1), (6_000, 2), (9_000, 3)] {
            tally.at_ms = at_ms;
            tally.publish(0, desired, "");
        }
        tally.at_ms = 15_000;
        tally.apply(0, 1, 3);
        tally.apply(1, 2, 1);
        assert_eq!(tally.waits_ms, [9_000]);
    }

    #[test]
    fn enough_counts_from_the_last_shortage_and_must_last_while_the_load_is_up() {
        let (mut tally, fleet) = tally();
        tally.at_ms = 130_000;
        assert_eq!(tally.enough_for_all(), Enough::Always);
        tally.models[0].short_ms = Some(128_000);
        assert_eq!(tally.enough_for_all(), Enough::Never, "not for long enough yet");
        tally.at_ms = 600_000;
        assert_eq!(tally.enough_for_all(), Enough::After(9_000));
        tally.models[1].short_ms = Some(355_000);
        assert_eq!(tally.enough_for_all(), Enough::Never, "only because the load fell");
        assert_eq!(tally.second(600_000, &fleet, &[]).met_share, None);
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut values: Vec<f32> = (1..=100).rev().map(|value| value as f32).collect();
        assert_eq!(quantile(&mut values, 0.5), Some(50.0));
        assert_eq!(quantile(&mut values, 0.99), Some(99.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
