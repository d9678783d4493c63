//! From the windows of one subject to its signals at one moment, the series of a signal combined.

use super::store::{Store, Window};
use crate::limits::{RECENT_MS, WINDOW_MS};
use crate::series::Signal;
use crate::units::TimeMs;

/// The spans over which signals are read, ms.
const SPANS_MS: [i64; 2] = [WINDOW_MS, RECENT_MS];
const _: () = assert!(WINDOW_MS >= RECENT_MS, "the longer one comes first");
/// Number of signals, for tables by signal.
const SIGNALS: usize = Signal::NodeLabels as usize + 1;

/// One signal of one subject, its series combined.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Rank of the series that count; `u8::MAX` when there is none.
    pub rank: u8,
    /// Gauge: newest value. Counter: increase over the window.
    pub value: f64,
    /// Gauge: maximum over the window.
    pub max: f64,
    /// Gauge: value when the window began.
    pub at_start: f64,
    /// Counter: span of the increase, ms.
    pub span_ms: i64,
    /// Gauge: value when the short window began. Counter: increase over the short window.
    pub recent: f64,
    /// Counter: span of that increase, ms.
    pub recent_span_ms: i64,
    /// Counter: increase since it was first seen.
    pub total: f64,
}

const NOTHING: Reading = Reading {
    rank: u8::MAX,
    value: 0.0,
    max: 0.0,
    at_start: 0.0,
    span_ms: 0,
    recent: 0.0,
    recent_span_ms: 0,
    total: 0.0,
};

/// All signals of one subject at one moment.
pub struct Readings {
    by_signal: [Reading; SIGNALS],
    /// Stream time from which they may differ without a new sample.
    pub changes_at: TimeMs,
    /// Newest time at which a request was seen.
    pub active_at: Option<TimeMs>,
}

impl Readings {
    /// Reads the slots of a subject at stream time `now`.
    pub fn of(store: &Store, slots: &[u32], now: TimeMs) -> Self {
        let mut readings =
            Readings { by_signal: [NOTHING; SIGNALS], changes_at: TimeMs::MAX, active_at: None };
        for id in slots {
            let slot = &store.slots[*id as usize];
            if slot.stale || slot.last == TimeMs::MIN {
                continue;
            }
            let reading = match &slot.window {
                Window::Gauge(gauge) => {
                    let Some(course) = gauge.course(now, SPANS_MS) else { continue };
                    readings.changes_at = readings.changes_at.min(course.changes_at);
                    let (time, value) = course.last;
                    if value > 0.0 && counts_requests(slot.signal) {
                        readings.active_at = readings.active_at.max(Some(time));
                    }
                    let [at_start, recent] = course.before;
                    Reading { rank: slot.rank, value, max: course.max, at_start, recent, ..NOTHING }
                }
                Window::Counter(counter) => {
                    let ([long, recent], changes_at) = counter.increases(now, SPANS_MS);
                    readings.changes_at = readings.changes_at.min(changes_at);
                    if counts_requests(slot.signal) {
                        readings.active_at = readings.active_at.max(counter.grown_at());
                    }
                    Reading {
                        rank: slot.rank,
                        total: counter.since_first(),
                        value: long.amount,
                        span_ms: long.span_ms,
                        recent: recent.amount,
                        recent_span_ms: recent.span_ms,
                        ..NOTHING
                    }
                }
                Window::Info => continue,
            };
            readings.by_signal[slot.signal as usize].combine(slot.signal, reading);
        }
        readings
    }

    /// Whether no series counts.
    pub fn are_empty(&self) -> bool {
        self.by_signal.iter().all(|reading| reading.rank == u8::MAX)
    }

    /// The signal's reading, if any series of it counts.
    pub fn get(&self, signal: Signal) -> Option<&Reading> {
        Some(&self.by_signal[signal as usize]).filter(|reading| reading.rank < u8::MAX)
    }

    /// The signal's value, if any series of it counts.
    pub fn value(&self, signal: Signal) -> Option<f64> {
        self.get(signal).map(|reading| reading.value)
    }
}

impl Reading {
    fn combine(&mut self, signal: Signal, other: Reading) {
        if other.rank < self.rank {
            *self = other;
        } else if other.rank == self.rank {
            let merge = |a: f64, b: f64| if signal.combines_to_max() { a.max(b) } else { a + b };
            self.value = merge(self.value, other.value);
            self.max = merge(self.max, other.max);
            self.at_start = merge(self.at_start, other.at_start);
            self.span_ms = self.span_ms.max(other.span_ms);
            self.recent = merge(self.recent, other.recent);
            self.recent_span_ms = self.recent_span_ms.max(other.recent_span_ms);
            self.total += other.total;
        }
    }
}

/// Whether growth or a positive value of the signal means that a request is or was there.
fn counts_requests(signal: Signal) -> bool {
    use Signal::*;
    matches!(
        signal,
        RequestsWaiting
            | RequestsRunning
            | RequestsFinished
            | PromptTokens
            | GenerationTokens
            | SchedulerQueueSize
            | SchedulerQueueBytes
    )
}
