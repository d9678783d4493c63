//! The `slo` analyzer: learned capacity, true arrivals, and foresight as far as a replica's start-up.
//!
//! Input: what the replicas of a model have counted so far ([`ReplicaTotals`]), the targets, and the memory
//! of earlier calls. Output: the rate to be ready for and the capacity of one replica per variant, with
//! the terms of which that rate is made.
//!
//! # Map
//!
//! [`arrivals`] counts what comes; [`fit`] learns the iteration time of a variant; [`capacity`] turns it
//! into requests per second within the targets. This file keeps the memory and puts the terms together.
//!
//! # Time
//!
//! Everything is a function of the samples: `at` is the time of the newest one, so that time which passes
//! without samples changes nothing, and assessing twice gives the same answer.

pub mod arrivals;
pub mod capacity;
pub mod fit;

use std::collections::VecDeque;

use crate::units::TimeMs;
use arrivals::{Arrivals, BIN_MS};
use capacity::{Binding, Capacity, Limits, Shape, capacity};
use fit::{Coefficients, Fit, Operation};

/// Start-up time of a replica while none has been measured, ms.
const STARTUP_MS: i64 = 120_000;
/// Bounds of what is believed as a start-up time, ms.
const STARTUP_RANGE_MS: (i64, i64) = (10_000, 900_000);
/// Starts that are waited for at once, for one variant.
const STARTS_MAX: usize = 64;
/// Least time between two observations of a replica, ms: shorter ones are noise.
const OBSERVE_MS: i64 = 2_000;
/// Tokens that an observation must rest on.
const OBSERVE_TOKENS: f64 = 20.0;
/// Least span that the fit learns from when prompts enough ended in it, and the span that is always enough.
const LEARN_MS: (i64, i64) = (10_000, 60_000);
/// Prompts that are enough for the shorter span.
const LEARN_PROMPTS: f64 = 20.0;
/// Time constants of the request shape, ms: when requests get longer, which is a rise of the load like any other, and
/// when they get shorter.
const SHAPE_MS: (f64, f64) = (45_000.0, 300_000.0);
/// Weight of one observation of a replica that has more than it can do.
const OVERLOAD_SHARE: f64 = 0.1;
/// Least correction of a capacity by what overloaded replicas get done.
const CORRECTION_MIN: f64 = 0.3;
/// A pod that appears this long after the model was first seen is new; what it counted came since.
const SETTLED_MS: i64 = 60_000;
/// How long a model must have been watched before fewer replicas are asked for, ms: a capacity learned from a few
/// minutes under one load may be too large.
const TRUST_MS: i64 = 300_000;
/// Standard deviations of the load's own noise to be ready for.
const NOISE_SIGMAS: f64 = 1.0;
/// Share of the surges seen before to be ready for.
const SURGE_SHARE: f64 = 0.9;
/// Largest surge that is prepared for.
const SURGE_MAX: f64 = 2.5;
/// Time in which a queue that will still be there when new replicas start is to be gone, ms.
const DRAIN_MS: f64 = 60_000.0;

/// What one replica has counted since it was first seen, and its gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReplicaTotals {
    /// Identity that no other replica ever has.
    pub id: (u32, i64),
    /// Index of its variant.
    pub variant: u32,
    /// Time of its newest sample.
    pub at: TimeMs,
    /// Requests completed since it was first seen.
    pub finished: f64,
    /// Requests completed before that, as its counter stood.
    pub finished_before: f64,
    /// Requests inside: running and waiting.
    pub inside: f64,
    /// Of those, waiting.
    pub waiting: f64,
    /// Prompts processed.
    pub prompts: f64,
    /// Requests whose generated length is known, and the sum of those lengths.
    pub generated: (f64, f64),
    /// Prompt tokens processed.
    pub prompt_tokens: f64,
    /// Of those, found in the prefix cache.
    pub cached_tokens: f64,
    /// Sum of the times between tokens, ms.
    pub itl_sum_ms: f64,
    /// Number of those times.
    pub itl_count: f64,
    /// Tokens in its KV cache.
    pub kv_tokens: f64,
    /// Size of the KV cache, tokens; 0 when not known.
    pub kv_capacity: f64,
    /// Sum and number of the KV readings since the fit last learned from it.
    pub kv_readings: (f64, f64),
}

/// What is remembered of one variant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VariantMemory {
    /// The learned iteration time.
    pub fit: Fit,
    kv_capacity: f64,
    startup_ms: Option<i64>,
    wanted: Option<u32>,
    /// When the replicas that have not shown themselves yet were wanted, oldest first.
    starts: VecDeque<TimeMs>,
    most_running: f64,
    /// Most sequences that run together, as learned; 0 when not known.
    max_seqs: f64,
    /// Capacity of one replica as last computed, requests per s.
    computed_per_s: f64,
    /// What overloaded replicas get done, as a share of that; 1 while it is not less.
    correction: Option<f64>,
}

impl VariantMemory {
    /// Start-up time of a replica: measured, or a common one.
    pub fn startup_ms(&self) -> i64 {
        self.startup_ms.unwrap_or(STARTUP_MS)
    }

    /// Whether the start-up time has been measured.
    pub fn startup_is_measured(&self) -> bool {
        self.startup_ms.is_some()
    }

    /// Notes how many replicas are wanted: each one more is a start that is waited for, each one fewer
    /// takes back the newest.
    fn note_wanted(&mut self, at: TimeMs, wanted: u32) {
        let before = self.wanted.replace(wanted).unwrap_or(wanted);
        for _ in before..wanted.min(before + STARTS_MAX as u32) {
            if self.starts.len() == STARTS_MAX {
                self.starts.pop_front();
            }
            self.starts.push_back(at);
        }
        for _ in wanted..before {
            self.starts.pop_back();
        }
    }

    /// Notes that a new replica has shown itself: the oldest start that was waited for has ended.
    fn note_started(&mut self, at: TimeMs) {
        let Some(since) = self.starts.pop_front() else { return };
        let took_ms = at.since(since).clamp(STARTUP_RANGE_MS.0, STARTUP_RANGE_MS.1);
        self.startup_ms = Some(match self.startup_ms {
            // A longer start is believed at once, a shorter one by and by.
            Some(old) if took_ms < old => old - (old - took_ms) / 4,
            _ => took_ms,
        });
    }

    /// Learns from a replica that always has requests waiting: what it gets done is all it can do, so a larger
    /// capacity is wrong.
    fn note_overload(&mut self, before: &ReplicaTotals, now: &ReplicaTotals) {
        let span_s = now.at.since(before.at) as f64 / 1000.0;
        let is_overloaded = before.waiting >= 2.0 && now.waiting >= 2.0;
        if self.computed_per_s <= 0.0 {
            return;
        }
        let old = self.correction.unwrap_or(1.0);
        self.correction = Some(match is_overloaded {
            true => {
                // Of admissions and completions the larger: a batch that fills up completes less at first.
                let done = (now.finished - before.finished).max(now.prompts - before.prompts) / span_s;
                let share = (done / self.computed_per_s).clamp(CORRECTION_MIN, 1.0);
                old + (share - old) * OVERLOAD_SHARE
            }
            // It is forgotten slowly: about an hour.
            false => old + (1.0 - old) * (span_s / 3600.0).min(1.0),
        });
    }

    /// Learns how many sequences run together at most: a replica that keeps requests waiting while it runs
    /// the same number, with room in its cache, runs all it may.
    fn note_sequences(&mut self, before: &ReplicaTotals, now: &ReplicaTotals) {
        let running = now.inside - now.waiting;
        self.most_running = self.most_running.max(running);
        let stuck = before.waiting >= 1.0 && now.waiting >= 1.0 && running == before.inside - before.waiting;
        let has_room = now.kv_capacity <= 0.0 || now.kv_tokens < 0.85 * now.kv_capacity;
        if stuck && has_room && running >= 8.0 && running >= self.most_running {
            self.max_seqs = running;
        } else if running > self.max_seqs {
            self.max_seqs = 0.0;
        }
    }
}

/// What is remembered of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelMemory {
    arrivals: Arrivals,
    replicas: Vec<ReplicaTotals>,
    /// The replicas as they were when the fit last learned from them.
    learned: Vec<ReplicaTotals>,
    held_back: f64,
    shape: Option<Shape>,
    shape_at: Option<TimeMs>,
    first: Option<TimeMs>,
    at: Option<TimeMs>,
    /// Rates to be ready for, over the longest start-up time, each larger than all after it.
    needs: VecDeque<(TimeMs, f64)>,
    prompts: Spread,
    outputs: Spread,
    surge: Option<f64>,
    surge_bin: i64,
    /// Arrivals less than none so far: samples of different moments; later ones make up for it.
    debt: f64,
}

/// Spread of a length, from sums over intervals: a sum of `k` lengths deviates from `k` means by about
/// `sqrt(k)` standard deviations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spread {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Spread {
    /// Factor by which old intervals count less with each new one.
    const FADE: f64 = 0.995;
    /// Lengths that must have been seen.
    const COUNT_MIN: f64 = 50.0;

    fn note(&mut self, count: f64, sum: f64) {
        if !(count >= 1.0 && sum >= 0.0 && sum.is_finite()) {
            return;
        }
        let mean = if self.count > 0.0 { self.sum / self.count } else { sum / count };
        let deviation = sum - count * mean;
        self.count = self.count * Self::FADE + count;
        self.sum = self.sum * Self::FADE + sum;
        self.squares = self.squares * Self::FADE + deviation * deviation;
    }

    /// Squared coefficient of variation, within what is plausible; a common one while too little is known.
    fn cv2(&self) -> f64 {
        if self.count < Self::COUNT_MIN || self.sum <= 0.0 {
            return 1.5;
        }
        let mean = self.sum / self.count;
        (self.squares / self.count / (mean * mean)).clamp(0.1, 20.0)
    }
}

/// What one model shows now.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// All replicas that report.
    pub replicas: &'a [ReplicaTotals],
    /// Requests that the scheduler holds back.
    pub held_back: f64,
    /// Average request of the window: prompt and generated tokens, once known.
    pub request: Option<(f64, f64)>,
    /// Time of the newest sample.
    pub at: TimeMs,
}

/// The rate to be ready for, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Requests per second that arrive now.
    pub arriving_per_s: f64,
    /// What the trend adds until new replicas are there.
    pub trend_per_s: f64,
    /// What surges as seen before, or the load's own noise while none was seen, add beyond that.
    pub surge_per_s: f64,
    /// What draining the queue adds.
    pub backlog_per_s: f64,
    /// The rate to be ready for: the highest sum of these within a start-up time.
    pub ready_for_per_s: f64,
    /// Horizon, ms.
    pub horizon_ms: i64,
    /// Enough is known to go by it to fewer replicas.
    pub may_shrink: bool,
}

impl ModelMemory {
    /// Takes in what the model shows now, with the replicas last wanted of each variant. What was taken in
    /// before changes nothing.
    pub fn observe(
        &mut self,
        shown: &Shown<'_>,
        wanted: impl Iterator<Item = u32>,
        variants: &mut [VariantMemory],
    ) {
        for (variant, wanted) in variants.iter_mut().zip(wanted) {
            variant.note_wanted(shown.at, wanted);
        }
        let first = *self.first.get_or_insert(shown.at);
        let settled = shown.at.since(first) >= SETTLED_MS;
        let mut arrived = shown.held_back - self.held_back;
        for now in shown.replicas {
            let before = self.replicas.iter().find(|old| old.id == now.id);
            arrived += match before {
                Some(before) => now.finished - before.finished + now.inside - before.inside,
                None if settled => now.finished_before + now.finished + now.inside,
                None => 0.0,
            };
            let Some(variant) = variants.get_mut(now.variant as usize) else { continue };
            match before {
                None if settled => variant.note_started(now.at),
                Some(before) if now.at.since(before.at) >= OBSERVE_MS => {
                    variant.note_sequences(before, now);
                    variant.note_overload(before, now);
                    self.prompts.note(now.prompts - before.prompts, now.prompt_tokens - before.prompt_tokens);
                    let generated =
                        (now.generated.0 - before.generated.0, now.generated.1 - before.generated.1);
                    self.outputs.note(generated.0, generated.1);
                }
                _ => {}
            }
        }
        // A replica's last counts stay while its next sample is due, and until it has gone.
        let mut replicas = std::mem::take(&mut self.replicas);
        replicas.retain(|old| shown.replicas.iter().any(|now| now.id == old.id));
        for now in shown.replicas {
            match replicas.iter_mut().find(|old| old.id == now.id) {
                Some(old) => *old = *now,
                None => replicas.push(*now),
            }
        }
        self.replicas = replicas;
        self.held_back = shown.held_back;
        if let Some(since) = self.at
            && shown.at > since
        {
            arrived += self.debt;
            self.debt = arrived.min(0.0);
            self.arrivals.add(since, shown.at, arrived.max(0.0));
        } else {
            self.debt += arrived;
        }
        self.note_shape(shown);
        self.learn(shown, variants);
        self.at = self.at.max(Some(shown.at));
    }

    /// Lets the fits take in the replicas whose span since the last time is long enough: prompts are counted
    /// when they end, so that over a short span a long one would count where it was not computed.
    fn learn(&mut self, shown: &Shown<'_>, variants: &mut [VariantMemory]) {
        self.learned.retain(|old| shown.replicas.iter().any(|now| now.id == old.id));
        for now in shown.replicas {
            let Some(old) = self.learned.iter_mut().find(|old| old.id == now.id) else {
                self.learned.push(*now);
                continue;
            };
            old.kv_readings = (old.kv_readings.0 + now.kv_tokens, old.kv_readings.1 + 1.0);
            let (span_ms, prompts) = (now.at.since(old.at), now.prompts - old.prompts);
            let is_long = span_ms >= LEARN_MS.1 || span_ms >= LEARN_MS.0 && prompts >= LEARN_PROMPTS;
            if !is_long {
                continue;
            }
            if let Some(variant) = variants.get_mut(now.variant as usize) {
                learn(variant, old, now);
            }
            *old = *now;
        }
    }

    fn note_shape(&mut self, shown: &Shown<'_>) {
        let Some((prompt, output)) = shown.request else { return };
        let (prompts, cached) = shown
            .replicas
            .iter()
            .fold((0.0, 0.0), |(p, c), replica| (p + replica.prompt_tokens, c + replica.cached_tokens));
        let hit = if prompts > 0.0 { (cached / prompts).clamp(0.0, 0.95) } else { 0.0 };
        let (prompt_cv2, output_cv2) = (self.prompts.cv2(), self.outputs.cv2());
        let now = Shape { computed: prompt * (1.0 - hit), prompt, output, prompt_cv2, output_cv2 };
        let passed_ms = self.shape_at.map_or(f64::INFINITY, |at| shown.at.since(at) as f64);
        if passed_ms <= 0.0 {
            return;
        }
        self.shape = Some(match self.shape {
            None => now,
            Some(old) => {
                let blend = |old: f64, now: f64| {
                    let constant_ms = if now > old { SHAPE_MS.0 } else { SHAPE_MS.1 };
                    old + (now - old) * (1.0 - (-passed_ms / constant_ms).exp())
                };
                Shape {
                    computed: blend(old.computed, now.computed),
                    prompt: blend(old.prompt, now.prompt),
                    output: blend(old.output, now.output),
                    prompt_cv2,
                    output_cv2,
                }
            }
        });
        self.shape_at = Some(shown.at);
    }

    /// The average request, once known.
    pub fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// Capacity of one replica of a variant; `Err` when it is not known yet.
    pub fn capacity(&self, variant: &mut VariantMemory, ttft_ms: f64, itl_ms: f64, max_seqs: f64) -> Sized {
        let (Some(shape), Some(time)) = (self.shape, variant.fit.coefficients()) else {
            return Sized::Unknown;
        };
        if !variant.fit.is_trusted() {
            return Sized::Unknown;
        }
        let max_seqs = if variant.max_seqs > 0.0 { variant.max_seqs } else { max_seqs };
        let limits = Limits { ttft_ms, itl_ms, kv_tokens: variant.kv_capacity, max_seqs };
        match capacity(&time, &shape, &limits) {
            Some(found) => {
                variant.computed_per_s = found.rate_per_s;
                let rate_per_s = found.rate_per_s * variant.correction.unwrap_or(1.0);
                Sized::Known(Capacity { rate_per_s, ..found })
            }
            // Not even an idle replica meets the targets: size for throughput, and say so.
            None => match capacity(&time, &shape, &Limits { ttft_ms: 0.0, itl_ms: 0.0, ..limits }) {
                Some(found) => Sized::Unreachable(found),
                None => Sized::Unknown,
            },
        }
    }

    /// The rate to be ready for. `carried_per_s` is what the replicas that run or start will carry together
    /// and `patience_s` over how long a surge may be averaged: what a request spends in a
    /// replica and may wait.
    pub fn demand(&mut self, horizon_ms: i64, carried_per_s: f64, patience_s: f64) -> Demand {
        let at = self.at.unwrap_or(TimeMs::MIN);
        let arrivals = &self.arrivals;
        let dispersion = arrivals.dispersion();
        let arriving = arrivals.arriving_per_s(0, dispersion);
        let horizon_s = horizon_ms as f64 / 1000.0;
        let trend = arrivals.trend();
        let rise = (trend.slope_per_s2 - trend.error_per_s2).max(0.0) * horizon_s;
        let noise = NOISE_SIGMAS * (dispersion * arriving / patience_s.max(5.0)).sqrt();
        let bin = at.0.div_euclid(BIN_MS);
        if bin != self.surge_bin {
            let window = (patience_s * 1000.0 / BIN_MS as f64).round() as usize;
            self.surge = arrivals.surge(horizon_ms, window, SURGE_SHARE, dispersion);
            self.surge_bin = bin;
        }
        let surge = match self.surge {
            Some(surge) => arriving * (surge.min(SURGE_MAX) - 1.0),
            None => noise,
        };
        let beyond = (surge - rise).max(0.0);
        let waiting: f64 = self.replicas.iter().map(|replica| replica.waiting).sum::<f64>() + self.held_back;
        // What the replicas that are there or starting do not work off until new ones could help.
        let left = waiting - (carried_per_s - arriving).max(0.0) * horizon_s;
        let backlog = left.max(0.0) * 1000.0 / DRAIN_MS;
        let now = arriving + rise + beyond + backlog;
        while self.needs.back().is_some_and(|(_, need)| *need <= now) {
            self.needs.pop_back();
        }
        self.needs.push_back((at, now));
        while self.needs.front().is_some_and(|(since, _)| at.since(*since) > horizon_ms) {
            self.needs.pop_front();
        }
        Demand {
            arriving_per_s: arriving,
            trend_per_s: rise,
            surge_per_s: beyond,
            backlog_per_s: backlog,
            ready_for_per_s: self.needs.front().map_or(now, |(_, need)| *need),
            horizon_ms,
            may_shrink: self.first.is_some_and(|first| at.since(first) >= TRUST_MS),
        }
    }

    /// Whether enough has been seen to size by.
    pub fn is_ready(&self) -> bool {
        self.arrivals.span_ms() >= 6 * BIN_MS
    }
}

/// Capacity of one replica of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sized {
    /// Within the targets.
    Known(Capacity),
    /// No load is small enough for the targets; the capacity without them.
    Unreachable(Capacity),
    /// Too little is known.
    Unknown,
}

fn learn(variant: &mut VariantMemory, before: &ReplicaTotals, now: &ReplicaTotals) {
    if now.kv_capacity > 0.0 {
        variant.kv_capacity = now.kv_capacity;
    }
    let span_ms = now.at.since(before.at) as f64;
    let (times_ms, tokens) = (now.itl_sum_ms - before.itl_sum_ms, now.itl_count - before.itl_count);
    if tokens < OBSERVE_TOKENS || times_ms <= 0.0 {
        return;
    }
    let iteration_ms = times_ms / tokens;
    let computed =
        (now.prompt_tokens - before.prompt_tokens - now.cached_tokens + before.cached_tokens).max(0.0);
    let operation = Operation {
        // The times of all sequences add up to the time-average of how many there were.
        sequences: times_ms / span_ms,
        prompt_tokens: computed * iteration_ms / span_ms,
        kv_tokens: before.kv_readings.0 / before.kv_readings.1.max(1.0),
    };
    variant.fit.observe(&operation, iteration_ms);
}

/// What binds, for callers that only want the name.
pub fn binding(sized: &Sized) -> Option<Binding> {
    match sized {
        Sized::Known(found) | Sized::Unreachable(found) => Some(found.binding),
        Sized::Unknown => None,
    }
}

/// Parameters of the iteration-time model as the fit's prior.
pub fn stated(alpha: f64, beta: f64, gamma: f64) -> Option<Coefficients> {
    let usable = |value: f64| value.is_finite() && value >= 0.0;
    (alpha > 0.0 && [alpha, beta, gamma].into_iter().all(usable)).then_some(Coefficients {
        a: alpha,
        b: beta,
        c: beta,
        d: gamma,
    })
}
