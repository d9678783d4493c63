//! One replica of a model: what it has counted, and how it is followed over time.

use super::arrivals::{Arrivals, BIN_MS};
use super::capacity::Shape;
use super::variant::VariantMemory;
use crate::units::TimeMs;

/// Least span that the fit learns from when prompts enough ended in it, and the span that is always enough, ms.
const LEARN_MS: (i64, i64) = (10_000, 60_000);
/// Prompts that are enough for the shorter span.
const LEARN_PROMPTS: f64 = 20.0;
/// Longest time between two samples of a replica that the others are made to wait for, ms.
const INTERVAL_MAX_MS: i64 = 60_000;
/// How long a replica that is silent is remembered, ms: until then it is not taken for a new one.
const SILENT_MS: i64 = 600_000;

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
    /// Sum of the times to first token, ms.
    pub ttft_sum_ms: f64,
    /// Tokens generated, also those of requests that are still running.
    pub generation_tokens: f64,
    /// Tokens in its KV cache.
    pub kv_tokens: f64,
    /// Size of the KV cache, tokens; 0 when not known.
    pub kv_capacity: f64,
    /// Sums over the readings since the fit last learned from it.
    pub readings: Readings,
}

/// Sums over several readings of gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// How many.
    pub count: f64,
    /// Tokens in the KV cache.
    pub kv_tokens: f64,
    /// Requests that run.
    pub running: f64,
    /// Requests that wait.
    pub waiting: f64,
}

/// One replica over time. The samples of one moment may come in several requests, so only what stood when newer ones
/// came is known to be whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tracked {
    pub now: ReplicaTotals,
    /// As of the newest moment that is whole.
    pub whole: ReplicaTotals,
    /// As it was when the fit last learned from it.
    pub learned: ReplicaTotals,
    pub is_shown: bool,
    /// Since when it has not reported.
    pub silent_since: Option<TimeMs>,
    /// Time of its first samples.
    first: TimeMs,
    arrived: Arrived,
}

/// What has arrived between the two newest moments at which a source was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Arrived {
    from: TimeMs,
    to: TimeMs,
    /// Less than none where samples are of different moments; later ones make up for it.
    total: f64,
}

impl Tracked {
    pub fn new(now: &ReplicaTotals) -> Self {
        let arrived = Arrived { from: now.at - BIN_MS, to: now.at, total: 0.0 };
        let (first, whole, learned) = (now.at, *now, *now);
        Tracked { now: *now, whole, learned, is_shown: true, silent_since: None, first, arrived }
    }

    /// Counts what has arrived at it since `before`, over the time between its own samples, whenever those of others
    /// came. What it completed until its first samples may be of a long past that nobody saw.
    pub fn count(&mut self, before: &ReplicaTotals, arrivals: &mut Arrivals) {
        let now = &self.now;
        let finished = if now.at == self.first { 0.0 } else { now.finished - before.finished };
        self.add(finished + now.inside - before.inside, arrivals);
    }

    /// Counts requests that have come to it until now.
    pub fn add(&mut self, count: f64, arrivals: &mut Arrivals) {
        let (at, newest) = (self.now.at, &mut self.arrived);
        if at < newest.to {
            // The clock was set back: no time passes in which these could have come.
            return;
        }
        if at > newest.to {
            *newest = Arrived { from: newest.to, to: at, total: newest.total.min(0.0) };
        }
        let counted = newest.total.max(0.0);
        newest.total += count;
        let more = newest.total.max(0.0) - counted;
        if more != 0.0 {
            arrivals.add(newest.from, at, more);
        }
    }

    /// Whether it is to be remembered, after all that report were seen.
    pub fn outlasts(&mut self, at: TimeMs) -> bool {
        if std::mem::take(&mut self.is_shown) {
            return true;
        }
        at.since(*self.silent_since.get_or_insert(at)) < SILENT_MS
    }

    /// Until when it has told what arrived: its newest samples, unless they should have been followed by others long
    /// ago. `None` while it is silent.
    pub fn known_until(&self, at: TimeMs) -> Option<TimeMs> {
        let interval_ms = self.arrived.to.since(self.arrived.from).clamp(BIN_MS, INTERVAL_MAX_MS);
        self.silent_since.is_none().then(|| self.arrived.to.max(at - 2 * interval_ms))
    }

    /// Lets the fit learn once the span since the last time is long enough: prompts are counted when they end, so
    /// that over a short span a long one would count where it was not computed.
    pub fn learn(&mut self, variant: &mut VariantMemory, shape: Option<&Shape>) {
        let (old, now) = (&mut self.learned, &self.whole);
        old.readings.count += 1.0;
        old.readings.kv_tokens += now.kv_tokens;
        old.readings.running += now.inside - now.waiting;
        old.readings.waiting += now.waiting;
        let (span_ms, prompts) = (now.at.since(old.at), now.prompts - old.prompts);
        if span_ms >= LEARN_MS.1 || span_ms >= LEARN_MS.0 && prompts >= LEARN_PROMPTS {
            variant.learn(old, now);
            if let Some(shape) = shape {
                variant.learn_ttft(old, now, shape);
            }
            *old = *now;
        }
    }
}
