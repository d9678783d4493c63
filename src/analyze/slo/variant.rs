//! What is remembered of one variant: its iteration time, its limits, how long its replicas take to start, and by
//! how much its overloaded replicas fell short of what was computed.

use super::ReplicaTotals;
use super::capacity::{Shape, Ttft};
use super::fit::{Coefficients, Fit, OBSERVATIONS_MIN, Operation};
use super::start::{Origin, Profile, Start};
use super::ttft::{TtftCorrection, TtftFit};
use crate::units::TimeMs;
use std::collections::VecDeque;
use std::sync::Arc;

/// Start-up time of a replica while none has been measured, ms.
const STARTUP_MS: i64 = 120_000;
/// Least start-up time that is believed, and the longest that is: beyond it something else kept the replica away, ms.
const STARTUP_RANGE_MS: (i64, i64) = (10_000, 900_000);
/// Starts that are waited for at once.
const STARTS_MAX: usize = 64;
/// Tokens that an observation must rest on.
const OBSERVE_TOKENS: f64 = 20.0;
/// Requests waiting from which a replica has more than it can do.
const OVERLOAD_WAITING: f64 = 2.0;
/// Weight of one observation of a replica that has more than it can do.
const OVERLOAD_SHARE: f64 = 0.1;
/// Least correction of a capacity by what overloaded replicas get done.
const CORRECTION_MIN: f64 = 0.3;
/// Time in which a correction is forgotten, s.
const CORRECTION_S: f64 = 3600.0;
/// Running sequences from which a batch that does not grow is taken to be at its limit.
const SEQUENCES_MIN: f64 = 8.0;
/// Share of the KV cache beyond which it, and not the batch, may be what is full.
const KV_FULL: f64 = 0.85;

/// What is remembered of one variant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VariantMemory {
    /// The learned iteration time.
    pub fit: Fit,
    /// What measured times to first token say of the computed ones.
    pub ttft: TtftFit,
    /// KV cache of a replica, tokens, as it reports it; 0 while it has not.
    kv_capacity: f64,
    /// What was known before anything was seen.
    start: Option<Start>,
    /// What the iteration time starts from.
    origin: Origin,
    startup_ms: Option<i64>,
    /// Longest start-up time that is known of variants of the same model, ms.
    peers_startup_ms: Option<i64>,
    wanted: Option<u32>,
    /// When the replicas that have not shown themselves yet were wanted, oldest first.
    starts: VecDeque<TimeMs>,
    /// The same as it was when the newest samples came: what is decided upon them is no part of it.
    expected: (Option<TimeMs>, Vec<TimeMs>),
    most_running: f64,
    /// Most sequences that run together, as learned; 0 while not known.
    max_seqs: f64,
    /// Capacity of one replica as last computed, requests per s; 0 while unknown.
    pub computed_per_s: f64,
    /// What overloaded replicas fell short of that, as a share of it: 0 while they did not.
    pub shortfall: f64,
}

/// What was learned of one variant, to be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// What it started from.
    pub origin: Origin,
    /// It was seen, now or by an earlier instance, and not only told.
    pub is_learned: bool,
    /// Iteration time; `None` while too little was seen.
    pub iteration: Option<Coefficients>,
    /// Observations that the iteration time rests on, faded.
    pub observations: f64,
    /// Capacity of one replica within the targets, requests per s; `None` while unknown.
    pub capacity_per_s: Option<f64>,
    /// Share of that by which overloaded replicas fell short, 0..1.
    pub shortfall_ratio: f64,
    /// What measured times to first token add to the computed ones.
    pub ttft: TtftCorrection,
    /// Most sequences that run together, if that was seen.
    pub max_seqs: Option<f64>,
    /// KV cache of a replica, tokens, if known.
    pub kv_tokens: Option<f64>,
    /// Start-up time of a replica, ms.
    pub startup_ms: i64,
    /// Whether that was measured; a common time else.
    pub startup_is_measured: bool,
}

impl VariantMemory {
    /// What was learned, to be shown.
    pub fn summary(&self) -> Learned {
        let known = |value: f64| (value > 0.0).then_some(value);
        Learned {
            origin: self.origin.clone(),
            is_learned: self.observations() >= OBSERVATIONS_MIN,
            iteration: self.fit.coefficients(),
            observations: self.observations(),
            capacity_per_s: known(self.computed_per_s * (1.0 - self.shortfall)),
            shortfall_ratio: self.shortfall,
            ttft: self.ttft.correction(),
            max_seqs: known(self.max_seqs(0.0)),
            kv_tokens: known(self.kv_tokens()),
            startup_ms: self.startup_ms(),
            startup_is_measured: self.startup_ms.is_some()
                || self.own().is_some_and(|own| own.startup_ms.is_some()),
        }
    }

    /// Gives a variant that has seen nothing yet something to start from; it keeps the first.
    pub fn start_from(&mut self, start: Start) {
        if !self.needs_start() {
            return;
        }
        if start.is_own {
            self.shortfall = start.profile.shortfall.clamp(0.0, 1.0 - CORRECTION_MIN);
        }
        self.start = Some(start);
    }

    /// Whether it has neither seen enough nor got anything to start from.
    pub fn needs_start(&self) -> bool {
        self.start.is_none() && self.fit.observations() < OBSERVATIONS_MIN
    }

    /// Begins with what is known best: what was learned of this variant before, parameters that its object states,
    /// a profile from elsewhere.
    pub fn begin(&mut self, stated: Option<Coefficients>) {
        let given = self.start.as_ref();
        let (origin, time) = match (given, stated) {
            (Some(start), _) if start.is_own => (Origin::Own, Some(start.profile.iteration)),
            (_, Some(stated)) => (Origin::Stated, Some(stated)),
            (Some(start), None) => (Origin::Profile(start.profile.id.clone()), Some(start.profile.iteration)),
            (None, None) => (Origin::Prior, None),
        };
        self.origin = origin;
        self.fit.state(time);
    }

    /// What was learned here, as a start for others.
    pub fn profile(
        &self,
        id: Arc<str>,
        model: Arc<str>,
        accelerator: Arc<str>,
        cards: u32,
    ) -> Option<Profile> {
        Some(Profile {
            id,
            model,
            accelerator,
            cards,
            iteration: self.fit.coefficients()?,
            observations: self.fit.observations(),
            kv_tokens: self.kv_capacity,
            max_seqs: self.max_seqs,
            startup_ms: self.startup_ms,
            shortfall: self.shortfall,
        })
    }

    fn given(&self) -> Option<&Profile> {
        self.start.as_ref().map(|start| &*start.profile)
    }

    fn own(&self) -> Option<&Profile> {
        self.start.as_ref().filter(|start| start.is_own).map(|start| &*start.profile)
    }

    /// Observations of this variant, those of an earlier instance included.
    fn observations(&self) -> f64 {
        self.fit.observations().max(self.own().map_or(0.0, |own| own.observations))
    }

    /// KV cache of a replica, tokens: reported, or as given; 0 while not known.
    pub fn kv_tokens(&self) -> f64 {
        match self.given() {
            Some(given) if self.kv_capacity <= 0.0 => given.kv_tokens,
            _ => self.kv_capacity,
        }
    }

    /// Most sequences that run together: as seen, as `stated`, or as given and not disproved; 0 while not known.
    pub fn max_seqs(&self, stated: f64) -> f64 {
        let given = self.given().map_or(0.0, |given| given.max_seqs);
        let given = if self.most_running > given { 0.0 } else { given };
        [self.max_seqs, stated, given].into_iter().find(|most| *most > 0.0).unwrap_or(0.0)
    }

    /// Start-up time of a replica, from wanted to its first samples: measured, as given, like the slowest known of the
    /// same model, or a common one.
    pub fn startup_ms(&self) -> i64 {
        self.known_startup_ms().or(self.peers_startup_ms).unwrap_or(STARTUP_MS)
    }

    /// Start-up time of a replica, where it was measured or given.
    pub fn known_startup_ms(&self) -> Option<i64> {
        let given = || Some(self.given()?.startup_ms?.clamp(STARTUP_RANGE_MS.0, STARTUP_RANGE_MS.1));
        self.startup_ms.or_else(given)
    }

    /// Notes the longest start-up time that is known of variants of the same model.
    pub fn note_peers(&mut self, longest_ms: Option<i64>) {
        self.peers_startup_ms = longest_ms;
    }

    /// Notes which replicas are waited for when the samples of `at` come.
    pub fn note_expected(&mut self, at: TimeMs) {
        if self.expected.0 != Some(at) {
            self.expected.0 = Some(at);
            self.expected.1.clear();
            self.expected.1.extend(&self.starts);
        }
    }

    /// Time until the `nth` (from 1) of the replicas that are waited for is ready, ms. One that is long overdue says
    /// nothing any more, and counts as if it were wanted now.
    pub fn until_ready_ms(&self, at: TimeMs, nth: u32) -> i64 {
        let startup_ms = self.startup_ms();
        let Some(since) = self.expected.1.get(nth.saturating_sub(1) as usize) else { return startup_ms };
        let left_ms = startup_ms - at.since(*since);
        if left_ms < -startup_ms / 2 { startup_ms } else { left_ms.clamp(0, startup_ms) }
    }

    /// Notes how many replicas are wanted: each one more is a start that is waited for, each one fewer
    /// takes back the newest.
    pub fn note_wanted(&mut self, at: TimeMs, wanted: u32) {
        let before = self.wanted.replace(wanted).unwrap_or(wanted);
        for _ in before..wanted.min(before.saturating_add(STARTS_MAX as u32)) {
            if self.starts.len() == STARTS_MAX {
                self.starts.pop_front();
            }
            self.starts.push_back(at);
        }
        for _ in wanted.max(before.saturating_sub(STARTS_MAX as u32))..before {
            self.starts.pop_back();
        }
    }

    /// Notes that a new replica has shown itself: the oldest start that was waited for has ended.
    pub(super) fn note_started(&mut self, at: TimeMs) {
        let Some(since) = self.starts.pop_front() else { return };
        let took_ms = at.since(since).max(STARTUP_RANGE_MS.0);
        if took_ms > STARTUP_RANGE_MS.1 {
            return;
        }
        self.startup_ms = Some(match self.startup_ms.or_else(|| self.own()?.startup_ms) {
            // A longer start is believed at once, a shorter one by and by.
            Some(old) if took_ms < old => old - (old - took_ms) / 4,
            _ => took_ms,
        });
    }

    /// Learns from a replica that always has requests waiting: what it gets done is all it can do, so a larger
    /// capacity is wrong.
    pub(super) fn note_overload(&mut self, before: &ReplicaTotals, now: &ReplicaTotals) {
        let span_s = now.at.since(before.at) as f64 / 1000.0;
        if self.computed_per_s <= 0.0 {
            return;
        }
        if before.waiting < OVERLOAD_WAITING || now.waiting < OVERLOAD_WAITING {
            self.shortfall -= self.shortfall * (span_s / CORRECTION_S).min(1.0);
            return;
        }
        // Of admissions and completions the larger: a batch that fills up completes less at first.
        let done_per_s = (now.finished - before.finished).max(now.prompts - before.prompts) / span_s;
        let shown = 1.0 - (done_per_s / self.computed_per_s).clamp(CORRECTION_MIN, 1.0);
        self.shortfall += (shown - self.shortfall) * OVERLOAD_SHARE;
    }

    /// Learns how many sequences run together at most: a replica that keeps requests waiting while it runs the same
    /// number, with room in its cache, runs all it may.
    pub(super) fn note_sequences(&mut self, before: &ReplicaTotals, now: &ReplicaTotals) {
        let running = now.inside - now.waiting;
        self.most_running = self.most_running.max(running);
        let stuck = before.waiting >= 1.0 && now.waiting >= 1.0 && running == before.inside - before.waiting;
        let has_room = now.kv_capacity <= 0.0 || now.kv_tokens < KV_FULL * now.kv_capacity;
        if stuck && has_room && running >= SEQUENCES_MIN && running >= self.most_running {
            self.max_seqs = running;
        } else if running > self.max_seqs {
            self.max_seqs = 0.0;
        }
    }

    /// Lets the times to first token of a replica that kept up between two moments correct those computed for its load.
    pub(super) fn learn_ttft(&mut self, before: &ReplicaTotals, now: &ReplicaTotals, shape: &Shape) {
        let Some(time) = self.fit.coefficients().filter(|_| self.fit.is_trusted()) else { return };
        let prompts = now.prompts - before.prompts;
        let rate_per_s = prompts * 1000.0 / now.at.since(before.at) as f64;
        let waiting = before.readings.waiting / before.readings.count.max(1.0);
        if waiting >= OVERLOAD_WAITING || rate_per_s <= 0.0 {
            return;
        }
        let measured_ms = (now.ttft_sum_ms - before.ttft_sum_ms) / prompts;
        self.ttft.observe(Ttft::at(&time, shape, rate_per_s).mean_ms(), measured_ms, prompts);
    }

    /// Lets the fit take in what a replica did between two moments. `before.readings` are those of that time.
    pub(super) fn learn(&mut self, before: &ReplicaTotals, now: &ReplicaTotals) {
        if now.kv_capacity > 0.0 {
            self.kv_capacity = now.kv_capacity;
        }
        let span_ms = now.at.since(before.at) as f64;
        let readings = &before.readings;
        let mean = |sum: f64| sum / readings.count.max(1.0);
        let (times_ms, tokens) = match now.itl_count > 0.0 {
            true => (now.itl_sum_ms - before.itl_sum_ms, now.itl_count - before.itl_count),
            // Without that histogram: all that run, all the time, wait for the next token or the first.
            false => (mean(readings.running) * span_ms, now.generation_tokens - before.generation_tokens),
        };
        if tokens < OBSERVE_TOKENS || times_ms <= 0.0 {
            return;
        }
        let iteration_ms = times_ms / tokens;
        let prompts = now.prompt_tokens - before.prompt_tokens;
        let computed = (prompts - (now.cached_tokens - before.cached_tokens)).max(0.0);
        let operation = Operation {
            // The times of all sequences add up to the time-average of how many there were.
            sequences: times_ms / span_ms,
            prompt_tokens: computed * iteration_ms / span_ms,
            kv_tokens: mean(readings.kv_tokens),
        };
        self.fit.observe(&operation, iteration_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Readings;
    use super::*;

    #[test]
    fn a_start_up_time_is_measured_from_wanted_to_seen() {
        let mut variant = VariantMemory::default();
        variant.note_wanted(TimeMs(0), 1);
        variant.note_wanted(TimeMs(10_000), 3);
        assert_eq!((variant.startup_ms(), variant.startup_ms.is_some()), (STARTUP_MS, false));
        variant.note_started(TimeMs(100_000));
        assert_eq!((variant.startup_ms(), variant.startup_ms.is_some()), (90_000, true));
        variant.note_started(TimeMs(70_000));
        assert_eq!(variant.startup_ms(), 82_500, "a shorter one is believed by and by");
    }

    #[test]
    fn the_iteration_time_is_learned_from_generated_tokens_where_there_is_no_histogram() {
        let mut variant = VariantMemory::default();
        for step in 0..50 {
            let running = f64::from(4 + step % 20);
            let time_ms = 20.0 + 0.1 * running;
            let readings = Readings { count: 2.0, running: 2.0 * running, ..Readings::default() };
            let before = ReplicaTotals { at: TimeMs(0), readings, ..ReplicaTotals::default() };
            let generation_tokens = 60_000.0 / time_ms * running;
            variant.learn(&before, &ReplicaTotals { at: TimeMs(60_000), generation_tokens, ..before });
        }
        let found = variant.fit.coefficients().unwrap();
        let at = Operation { sequences: 14.0, ..Operation::default() };
        assert!((found.time_ms(&at) - 21.4).abs() < 0.5, "{found:?}");
    }

    #[test]
    fn a_start_that_was_taken_back_is_not_waited_for() {
        let mut variant = VariantMemory::default();
        for wanted in [1, 2, 1, u32::MAX, 0] {
            variant.note_wanted(TimeMs(i64::from(wanted % 7) * 1000), wanted);
        }
        variant.note_started(TimeMs(500_000));
        assert!(variant.startup_ms.is_none());
    }

    #[test]
    fn overloaded_replicas_correct_the_capacity_and_are_forgotten() {
        let mut variant = VariantMemory { computed_per_s: 2.0, ..VariantMemory::default() };
        let at = |seconds: i64, waiting: f64| ReplicaTotals {
            at: TimeMs(seconds * 1000),
            waiting,
            finished: seconds as f64,
            ..ReplicaTotals::default()
        };
        (0..50).for_each(|step| variant.note_overload(&at(step * 5, 20.0), &at(step * 5 + 5, 20.0)));
        assert!((variant.shortfall - 0.5).abs() < 0.01, "one per s instead of two: {}", variant.shortfall);
        (0..2000).for_each(|step| variant.note_overload(&at(step * 5, 0.0), &at(step * 5 + 5, 0.0)));
        assert!(variant.shortfall < 0.05, "{}", variant.shortfall);
    }
}
