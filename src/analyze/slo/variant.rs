//! What is remembered of one variant: its iteration time, its limits, how long its replicas take to start, and by
//! how much its overloaded replicas fell short of what was computed.

use std::collections::VecDeque;

use super::ReplicaTotals;
use super::capacity::{Shape, Ttft};
use super::fit::{Coefficients, Fit, Operation};
use super::ttft::TtftFit;
use crate::units::TimeMs;

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
    /// KV cache of a replica, tokens; 0 while not known.
    pub kv_capacity: f64,
    startup_ms: Option<i64>,
    wanted: Option<u32>,
    /// When the replicas that have not shown themselves yet were wanted, oldest first.
    starts: VecDeque<TimeMs>,
    most_running: f64,
    /// Most sequences that run together, as learned; 0 while not known.
    pub max_seqs: f64,
    /// Capacity of one replica as last computed, requests per s; 0 while unknown.
    pub computed_per_s: f64,
    /// What overloaded replicas fell short of that, as a share of it: 0 while they did not.
    pub shortfall: f64,
}

/// What was learned of one variant, to be shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Iteration time; `None` while too little was seen.
    pub iteration: Option<Coefficients>,
    /// Observations that the iteration time rests on, faded.
    pub observations: f64,
    /// Capacity of one replica within the targets, requests per s; `None` while unknown.
    pub capacity_per_s: Option<f64>,
    /// Share of that by which overloaded replicas fell short, 0..1.
    pub shortfall_ratio: f64,
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
            iteration: self.fit.coefficients(),
            observations: self.fit.observations(),
            capacity_per_s: known(self.computed_per_s * (1.0 - self.shortfall)),
            shortfall_ratio: self.shortfall,
            max_seqs: known(self.max_seqs),
            kv_tokens: known(self.kv_capacity),
            startup_ms: self.startup_ms(),
            startup_is_measured: self.startup_ms.is_some(),
        }
    }

    /// Start-up time of a replica, from wanted to its first samples: measured, or a common one.
    pub fn startup_ms(&self) -> i64 {
        self.startup_ms.unwrap_or(STARTUP_MS)
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
        self.startup_ms = Some(match self.startup_ms {
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
