//! One simulation: a fleet, a policy that sets its replicas, and the tally of what the clients felt.

use super::policy::Policy;
use super::scenario::{NAMESPACE, START, Scenario, VARIANT};
use crate::emulate::fleet::Fleet;
use crate::units::TimeMs;

/// How long after the last arrival the fleet may go on to finish what is left, ms.
const DRAIN_MAX_MS: i64 = 1_800_000;
/// Interval of the course that is kept for the picture, ms.
const COURSE_MS: i64 = 15_000;

/// A moment of the run, for the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Time since the start, s.
    pub at_s: f64,
    /// Requests that arrived since the moment before, per second.
    pub arrivals_per_s: f64,
    /// Replicas wanted, existing and ready.
    pub desired: u32,
    /// Replicas that exist.
    pub current: u32,
    /// Replicas that serve.
    pub ready: u32,
    /// Requests waiting, in engines and at the scheduler.
    pub waiting: u64,
    /// Requests finished since the moment before.
    pub finished: u64,
    /// Of those, the ones that met both targets.
    pub met: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Name of the policy.
    pub policy: String,
    /// Requests that arrived.
    pub arrived: u64,
    /// Requests that were served within both targets.
    pub met: u64,
    /// Requests that were served to their end.
    pub finished: u64,
    /// Requests lost with a removed replica.
    pub lost: u64,
    /// Requests still in the fleet half an hour after the last arrival.
    pub unfinished: u64,
    /// Time that replicas existed until the last arrival, start-up included, h.
    pub replica_hours: f64,
    /// That time at the profile's cost.
    pub cost: f64,
    /// Median and 99th percentile of the time to first token, ms.
    pub ttft_ms: [f64; 2],
    /// Median and 99th percentile of the time per output token, ms.
    pub tpot_ms: [f64; 2],
    /// Most replicas at once.
    pub peak: u32,
    /// Changes of the wanted count per hour.
    pub changes_per_hour: f64,
    /// The course.
    pub course: Vec<Moment>,
}

impl Outcome {
    /// Share of the requests that met both targets, 0..1.
    pub fn attainment(&self) -> f64 {
        if self.arrived == 0 { 1.0 } else { self.met as f64 / self.arrived as f64 }
    }
}

/// Sums while a run goes on.
struct Tally {
    ttft_ms: Vec<f32>,
    tpot_ms: Vec<f32>,
    met: u64,
    desired: u32,
    changes: u64,
    outcome: Outcome,
    /// Time, ms, arrivals, finished and met at the last moment kept.
    last: (i64, u64, u64, u64),
    next_moment: i64,
}

/// Runs a scenario under a policy; `progress` is told the share that is done, now and then.
pub fn run(scenario: &Scenario, policy: &mut dyn Policy, progress: &mut dyn FnMut(f64)) -> Outcome {
    let mut fleet = Fleet::new(scenario.fleet());
    let duration_ms = scenario.trace.duration_ms();
    let mut tally = Tally::new(policy.name(), scenario.initial);
    let step_ms = policy.interval_ms().max(1);
    let mut at_ms = 0;
    while at_ms <= duration_ms {
        fleet.advance_to(START + at_ms);
        tally.collect(&mut fleet);
        if let Some(wanted) = policy.decide(START + at_ms, &fleet) {
            tally.scale(&mut fleet, wanted.clamp(scenario.replicas.0, scenario.replicas.1));
        }
        tally.note(&fleet, at_ms);
        progress(at_ms as f64 / duration_ms.max(1) as f64);
        at_ms += step_ms;
    }
    fleet.advance_to(START + duration_ms);
    tally.outcome.replica_hours = fleet.variants()[0].replica_hours;
    tally.drain(&mut fleet, START + duration_ms);
    tally.finish(&fleet, scenario, duration_ms)
}

impl Tally {
    fn new(policy: String, initial: u32) -> Self {
        Tally {
            ttft_ms: Vec::new(),
            tpot_ms: Vec::new(),
            met: 0,
            desired: initial,
            changes: 0,
            outcome: Outcome { policy, peak: initial, ..Outcome::default() },
            last: (0, 0, 0, 0),
            next_moment: 0,
        }
    }

    fn collect(&mut self, fleet: &mut Fleet) {
        let slo = fleet.models()[0].slo();
        for served in fleet.take_finished() {
            let finished = served.finished;
            self.met += u64::from(finished.meets(&slo));
            self.ttft_ms.push(finished.ttft_ms as f32);
            if finished.output_tokens > 1 {
                self.tpot_ms.push(finished.tpot_ms as f32);
            }
        }
    }

    fn scale(&mut self, fleet: &mut Fleet, wanted: u32) {
        if wanted != self.desired {
            self.changes += 1;
            self.desired = wanted;
            fleet.set_replicas(NAMESPACE, VARIANT, wanted);
        }
    }

    fn note(&mut self, fleet: &Fleet, at_ms: i64) {
        let status = &fleet.variants()[0];
        self.outcome.peak = self.outcome.peak.max(status.current);
        if at_ms < self.next_moment {
            return;
        }
        let totals = fleet.models()[0].totals();
        let (last_ms, arrived, finished, met) = self.last;
        let passed_s = (at_ms - last_ms).max(1) as f64 / 1000.0;
        self.outcome.course.push(Moment {
            at_s: at_ms as f64 / 1000.0,
            arrivals_per_s: (totals.arrived - arrived) as f64 / passed_s,
            desired: self.desired,
            current: status.current,
            ready: status.ready,
            waiting: status.waiting + fleet.models()[0].queued() as u64,
            finished: totals.finished - finished,
            met: self.met - met,
        });
        self.last = (at_ms, totals.arrived, totals.finished, self.met);
        // Counted from the start, so that a policy with another interval has as many moments.
        self.next_moment = (at_ms / COURSE_MS + 1) * COURSE_MS;
    }

    /// Lets the fleet finish what it has.
    fn drain(&mut self, fleet: &mut Fleet, from: TimeMs) {
        let mut passed_ms = 0;
        while passed_ms < DRAIN_MAX_MS && fleet.models()[0].in_flight() > 0 {
            passed_ms += 10_000;
            fleet.advance_to(from + passed_ms);
            self.collect(fleet);
        }
        self.collect(fleet);
    }

    fn finish(mut self, fleet: &Fleet, scenario: &Scenario, duration_ms: i64) -> Outcome {
        let totals = fleet.models()[0].totals();
        let outcome = &mut self.outcome;
        (outcome.arrived, outcome.finished, outcome.met) = (totals.arrived, totals.finished, self.met);
        (outcome.lost, outcome.unfinished) = (totals.killed, fleet.models()[0].in_flight());
        outcome.cost = outcome.replica_hours * scenario.profile.cost_per_hour;
        outcome.ttft_ms = quantiles(&mut self.ttft_ms);
        outcome.tpot_ms = quantiles(&mut self.tpot_ms);
        outcome.changes_per_hour = self.changes as f64 * 3_600_000.0 / duration_ms.max(1) as f64;
        self.outcome
    }
}

/// Median and 99th percentile; 0 without values.
fn quantiles(values: &mut [f32]) -> [f64; 2] {
    values.sort_unstable_by(f32::total_cmp);
    [0.5, 0.99].map(|share| {
        let index = (values.len() as f64 * share) as usize;
        values.get(index).or(values.last()).map_or(0.0, |value| f64::from(*value))
    })
}
