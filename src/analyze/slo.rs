//! The `slo` analyzer: learned capacity, true arrivals, and foresight as far as a replica's start-up.
//!
//! Input: what the replicas of a model have counted so far ([`ReplicaTotals`]), the targets, and the memory
//! of earlier calls. Output: the rate to be ready for and the capacity of one replica per variant, with
//! the terms of which that rate is made.
//!
//! # Map
//!
//! [`arrivals`] counts what comes, [`shape`] follows what an average request is, [`season`] what recurs, [`surges`] what
//! followed from levels like the present one. [`variant`] remembers a variant, [`start`] is what it starts from, [`fit`] learns its iteration time,
//! [`capacity`] turns that into requests per second within the targets, and [`ttft`] corrects it by measured times.
//! This file puts the terms together.
//!
//! # Time
//!
//! Everything is a function of the samples: `at` is the time of the newest one, so that time which passes
//! without samples changes nothing, and assessing twice gives the same answer.

pub mod arrivals;
pub mod capacity;
pub mod fit;
mod replica;
pub mod season;
pub mod shape;
pub mod start;
pub mod surges;
pub mod ttft;
pub mod variant;

use std::collections::VecDeque;

use crate::units::TimeMs;
use arrivals::{Arrivals, BIN_MS};
use capacity::{Capacity, Limits, Shape, Wanted, capacity};
use fit::Coefficients;
use replica::Tracked;
pub use replica::{Readings, ReplicaTotals};
use season::Season;
use shape::Requests;
use surges::Surges;
pub use variant::{Learned, VariantMemory};

/// Least time between two observations of a replica, ms: shorter ones are noise.
const OBSERVE_MS: i64 = 2_000;
/// A pod that appears this long after the model was first seen is new, ms; what it counted came since.
const SETTLED_MS: i64 = 60_000;
/// A clock that was set back by more than this begins anew, ms; by less, the newest of the replicas may just have gone.
const SET_BACK_MS: i64 = 150_000;
/// How long a model must have been watched before fewer replicas are asked for, ms: a capacity learned from a few
/// minutes under one load may be too large.
const TRUST_MS: i64 = 300_000;
/// Bins that must have been seen before anything is asked for.
const READY_BINS: i64 = 6;
/// Standard deviations of the load's own noise to be ready for while no surge has been seen.
const NOISE_SIGMAS: f64 = 1.0;
/// Largest factor by which requests that get longer raise the demand.
const WORK_RISE_MAX: f64 = 2.0;
/// Share of the TTFT target, and of the time that a request spends in the engine, for which a burst may exceed the
/// capacity: what waits for longer is not only late, it also slows down what runs.
const PATIENCE: (f64, f64) = (0.7, 0.3);
/// Least time over which the noise of the load is averaged, s.
const PATIENCE_MIN_S: f64 = 5.0;
/// Time in which a queue that will still be there when new replicas start is to be gone, ms.
const DRAIN_MS: f64 = 60_000.0;

/// What is remembered of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelMemory {
    arrivals: Arrivals,
    /// In order of their identities.
    replicas: Vec<Tracked>,
    held_back: f64,
    requests: Requests,
    first: Option<TimeMs>,
    at: Option<TimeMs>,
    /// Rates to be ready for, over the longest start-up time, each larger than all after it.
    needs: VecDeque<(TimeMs, f64)>,
    season: Season,
    surges: Surges,
    /// What surges ask for, as a factor over the rate that arrives.
    surge: Option<f64>,
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

/// What a variant is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// Time to first token, ms; 0 for none.
    pub ttft_ms: f64,
    /// Time per output token, ms; 0 for none.
    pub itl_ms: f64,
    /// Share of the requests that are to meet both.
    pub attainment: f64,
}

/// What the demand is computed for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Longest start-up time among the variants, ms.
    pub horizon_ms: i64,
    /// What the replicas that run or start will carry together, requests per s.
    pub carried_per_s: f64,
    /// Target of the time to first token, ms.
    pub ttft_ms: f64,
    /// Capacity of one replica of a typical variant.
    pub typical: Capacity,
    /// What a missed request costs, in costs of serving one.
    pub miss_cost: f64,
}

/// The rate to be ready for, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Requests per second that arrive now.
    pub arriving_per_s: f64,
    /// What the trend adds until new replicas are there.
    pub trend_per_s: f64,
    /// What came an hour or a day ago, and is about to come again, beyond these.
    pub recurring_per_s: f64,
    /// What surges as seen before, or the load's own noise while none was seen, add beyond that.
    pub surge_per_s: f64,
    /// What draining the queue adds.
    pub backlog_per_s: f64,
    /// What is kept of the highest sum of these within a start-up time, beyond the sum now.
    pub held_per_s: f64,
    /// Horizon, ms.
    pub horizon_ms: i64,
    /// Enough is known to go by it to fewer replicas.
    pub may_shrink: bool,
}

impl Demand {
    /// The rate to be ready for: the sum of the terms, requests per s.
    pub fn ready_for_per_s(&self) -> f64 {
        let coming = self.arriving_per_s + self.trend_per_s + self.recurring_per_s;
        coming + self.surge_per_s + self.backlog_per_s + self.held_per_s
    }
}

impl ModelMemory {
    /// Takes in what the model shows now. What was taken in before changes nothing.
    pub fn observe(&mut self, shown: &Shown<'_>, variants: &mut [VariantMemory]) {
        if self.at.is_some_and(|before| before.since(shown.at) > SET_BACK_MS) {
            *self = ModelMemory::default();
        }
        let first = *self.first.get_or_insert(shown.at);
        let is_settled = shown.at.since(first) >= SETTLED_MS;
        // What the scheduler lets go arrives at a replica, so that its queue may count less than nothing.
        let held_back = shown.held_back - self.held_back;
        match self.at {
            Some(before) if before < shown.at => self.arrivals.add(before, shown.at, held_back),
            Some(before) if before == shown.at && held_back != 0.0 => {
                self.arrivals.add(before - BIN_MS, before, held_back);
            }
            _ => (),
        }
        self.held_back = shown.held_back;
        for now in shown.replicas {
            self.observe_replica(now, is_settled, variants);
        }
        self.replicas.retain_mut(|replica| replica.outlasts(shown.at));
        let known = self.replicas.iter().filter_map(|replica| replica.known_until(shown.at)).min();
        self.arrivals.close(known.unwrap_or(shown.at));
        if let Some(request) = shown.request {
            let count = |sum: (f64, f64), replica: &ReplicaTotals| {
                (sum.0 + replica.prompt_tokens, sum.1 + replica.cached_tokens)
            };
            self.requests.follow(shown.at, request, shown.replicas.iter().fold((0.0, 0.0), count));
        }
        self.at = self.at.max(Some(shown.at));
    }

    /// Takes in one replica.
    fn observe_replica(&mut self, now: &ReplicaTotals, is_settled: bool, variants: &mut [VariantMemory]) {
        let variant = variants.get_mut(now.variant as usize);
        let at = match self.replicas.binary_search_by_key(&now.id, |replica| replica.now.id) {
            Ok(at) => at,
            Err(at) => {
                self.replicas.insert(at, Tracked::new(now));
                if !is_settled {
                    return;
                }
                if let Some(variant) = variant {
                    variant.note_started(now.at);
                }
                // What it holds has come to it.
                return self.replicas[at].add(now.inside, &mut self.arrivals);
            }
        };
        let replica = &mut self.replicas[at];
        if replica.silent_since.is_some() {
            // What happened meanwhile is not what arrives now.
            *replica = Tracked::new(now);
            return;
        }
        let before = std::mem::replace(&mut replica.now, *now);
        replica.is_shown = true;
        if before.at.since(replica.whole.at) >= OBSERVE_MS
            && now.at > before.at
            && let Some(variant) = variant
        {
            let old = std::mem::replace(&mut replica.whole, before);
            variant.note_sequences(&old, &before);
            variant.note_overload(&old, &before);
            let generated = (before.generated.0 - old.generated.0, before.generated.1 - old.generated.1);
            self.requests.outputs.note(generated.0, generated.1);
            let prompts = (before.prompts - old.prompts, before.prompt_tokens - old.prompt_tokens);
            self.requests.prompts.note(prompts.0, prompts.1);
            replica.learn(variant, self.requests.shape().as_ref());
        }
        replica.count(&before, &mut self.arrivals);
    }

    /// The average request, once known.
    pub fn shape(&self) -> Option<Shape> {
        self.requests.shape()
    }

    /// Capacity of one replica of a variant.
    pub fn capacity(&self, variant: &mut VariantMemory, targets: &Targets, max_seqs: f64) -> Sized {
        let (Some(shape), Some(time)) = (self.shape(), variant.fit.coefficients()) else {
            return Sized::Unknown;
        };
        if !variant.fit.is_trusted() {
            return Sized::Unknown;
        }
        let max_seqs = variant.max_seqs(max_seqs);
        let limits = Limits {
            wanted: Wanted::of(targets.attainment),
            ttft: variant.ttft.correction(),
            ttft_ms: targets.ttft_ms,
            itl_ms: targets.itl_ms,
            kv_tokens: variant.kv_tokens(),
            max_seqs,
        };
        match capacity(&time, &shape, &limits) {
            Some(found) => {
                variant.computed_per_s = found.rate_per_s;
                Sized::Known(Capacity { rate_per_s: found.rate_per_s * (1.0 - variant.shortfall), ..found })
            }
            // Not even an idle replica meets the targets: size for throughput, and say so.
            None => match capacity(&time, &shape, &Limits { ttft_ms: 0.0, itl_ms: 0.0, ..limits }) {
                Some(found) => Sized::Unreachable(found),
                None => Sized::Unknown,
            },
        }
    }

    /// The rate to be ready for.
    pub fn demand(&mut self, ask: &Ask) -> Demand {
        let dispersion = self.arrivals.dispersion();
        let arriving = self.arrivals.arriving_per_s(0, dispersion);
        let horizon_s = ask.horizon_ms as f64 / 1000.0;
        let trend = self.arrivals.trend();
        let rise = (trend.slope_per_s2 - trend.error_per_s2).max(0.0) * horizon_s;
        self.season.note(&self.arrivals, ask.horizon_ms);
        let expected = self.season.expected_per_s(ask.horizon_ms).unwrap_or_default();
        let recurring = (expected - arriving - rise).max(0.0);
        // A rise that is expected is no surge; what comes beyond it is.
        let base = arriving.max(expected);
        let surge = (base + self.surge(ask, base, dispersion) - arriving - rise - recurring).max(0.0);
        let speaking = self.replicas.iter().filter(|replica| replica.silent_since.is_none());
        let waiting: f64 = speaking.map(|replica| replica.now.waiting).sum::<f64>() + self.held_back;
        // What the replicas that are there or starting do not work off until new ones could help.
        let left = waiting - (ask.carried_per_s - arriving).max(0.0) * horizon_s;
        let backlog = left.max(0.0) * 1000.0 / DRAIN_MS;
        let now = arriving + rise + recurring + surge + backlog;
        Demand {
            arriving_per_s: arriving,
            trend_per_s: rise,
            recurring_per_s: recurring,
            surge_per_s: surge,
            backlog_per_s: backlog,
            held_per_s: self.hold(now, ask.horizon_ms) - now,
            horizon_ms: ask.horizon_ms,
            may_shrink: self.at.zip(self.first).is_some_and(|(at, first)| at.since(first) >= TRUST_MS),
        }
    }

    /// What surges ask for beyond the rate that arrives; the noise of the load while none has been seen.
    fn surge(&mut self, ask: &Ask, base_per_s: f64, dispersion: f64) -> f64 {
        let residence_s = ask.typical.residence_s;
        let patience_s = PATIENCE.0 * ask.ttft_ms / 1000.0 + PATIENCE.1 * residence_s;
        if self.surges.note(&self.arrivals, base_per_s, ask.horizon_ms, patience_s) {
            self.surges.note_work(ask.typical.work_ms, ask.horizon_ms, residence_s);
            self.surge = self.surges.headroom(base_per_s, ask.miss_cost).map(|headroom| {
                let longer = self.surges.work_rise().min(WORK_RISE_MAX);
                // More requests and longer ones are independent of each other.
                headroom.ln().hypot(longer.ln()).exp()
            });
        }
        match self.surge {
            Some(surge) => base_per_s * (surge - 1.0),
            None => NOISE_SIGMAS * (dispersion * base_per_s / patience_s.max(PATIENCE_MIN_S)).sqrt(),
        }
    }

    /// The highest need within a start-up time: a replica that was needed so recently is not given back yet.
    fn hold(&mut self, now_per_s: f64, horizon_ms: i64) -> f64 {
        let at = self.at.unwrap_or(TimeMs::MIN);
        while self.needs.back().is_some_and(|(_, need)| *need <= now_per_s) {
            self.needs.pop_back();
        }
        self.needs.push_back((at, now_per_s));
        while self.needs.front().is_some_and(|(since, _)| at.since(*since) > horizon_ms) {
            self.needs.pop_front();
        }
        self.needs.front().map_or(now_per_s, |(_, need)| *need)
    }

    /// Whether enough has been seen to size by.
    pub fn is_ready(&self) -> bool {
        self.arrivals.span_ms() >= READY_BINS * BIN_MS
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Five minutes of two replicas that complete two requests per second each, seen every 5 s; `seen` says whether
    /// the second one reports, whose counter began at `past`. Returns the rate that arrives in the end.
    fn arriving(seen: impl Fn(i64) -> bool, past: f64) -> f64 {
        let mut model = ModelMemory::default();
        let mut variants = [VariantMemory::default()];
        for step in 0..60 {
            let at = TimeMs(step * 5000);
            let replica = |id: u32, past: f64| ReplicaTotals {
                id: (id, 0),
                at,
                finished: past + step as f64 * 10.0,
                inside: 8.0,
                ..ReplicaTotals::default()
            };
            let both = [replica(1, 0.0), replica(2, past)];
            let replicas = if seen(step) { &both[..] } else { &both[..1] };
            let shown = Shown { replicas, held_back: 0.0, request: None, at };
            model.observe(&shown, &mut variants);
            model.observe(&shown, &mut variants);
        }
        model.arrivals.arriving_per_s(0, 1.0)
    }

    #[test]
    fn arrivals_are_what_completes_while_nothing_changes() {
        assert!((arriving(|_| true, 0.0) - 4.0).abs() < 1e-9);
    }

    /// Lowest rate that arrives, and highest in any bin, of two replicas that get two requests per second each, scraped every
    /// minute, the second one `apart_ms` after the first; each scrape of each is a request of its own.
    fn extremes(apart_ms: i64) -> (f64, f64) {
        let mut model = ModelMemory::default();
        let mut both = [ReplicaTotals::default(); 2];
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        for scrape in 0..50 {
            for (index, late_ms) in [0, apart_ms].into_iter().enumerate() {
                let at = TimeMs(scrape * 60_000 + late_ms);
                let finished = 2.0 * at.0 as f64 / 1000.0;
                both[index] =
                    ReplicaTotals { id: (index as u32, 0), at, finished, ..ReplicaTotals::default() };
                let reported = if scrape == 0 { &both[..=index] } else { &both[..] };
                let shown = Shown { replicas: reported, held_back: 0.0, request: None, at };
                model.observe(&shown, &mut [VariantMemory::default()]);
                let bins = model.arrivals.since(12, 12).map(|bin| bin * 1000.0 / BIN_MS as f64);
                if scrape >= 10 {
                    highest = highest.max(bins.fold(0.0, f64::max));
                    lowest = lowest.min(model.arrivals.arriving_per_s(0, 1.0));
                }
            }
        }
        (lowest, highest)
    }

    #[test]
    fn when_each_replica_is_scraped_is_no_surge_and_no_lull() {
        for apart_ms in [0, 40, 1_000, 30_000, 59_000] {
            let (lowest, highest) = extremes(apart_ms);
            assert!(lowest > 3.99 && highest < 4.01, "{apart_ms} ms apart: {lowest}, {highest}");
        }
    }

    #[test]
    fn a_replica_that_was_silent_for_a_while_is_no_surge() {
        let rate = arriving(|step| !(30..57).contains(&step), 0.0);
        assert!(rate < 4.5, "{rate}");
    }

    #[test]
    fn a_clock_that_is_set_back_is_no_surge_and_no_standstill() {
        for back_s in [10, 100, 1000, 5000] {
            let mut model = ModelMemory::default();
            let mut highest = 0.0_f64;
            for step in 0..200 {
                let set_back_s = if step < 100 { 0 } else { back_s };
                let at = TimeMs((step * 5 - set_back_s) * 1000);
                let replica = ReplicaTotals { at, finished: step as f64 * 10.0, ..ReplicaTotals::default() };
                let shown = Shown { replicas: &[replica], held_back: 0.0, request: None, at };
                model.observe(&shown, &mut [VariantMemory::default()]);
                highest = highest.max(model.arrivals.arriving_per_s(0, 1.0));
            }
            let last = model.arrivals.arriving_per_s(0, 1.0);
            assert!(highest < 2.5 && (1.5..2.5).contains(&last), "{back_s} s back: {highest}, {last}");
        }
    }

    #[test]
    fn a_replica_with_a_long_past_that_is_found_late_is_no_surge() {
        let rate = arriving(|step| step >= 57, 100_000.0);
        assert!(rate < 4.5, "{rate}");
    }
}
