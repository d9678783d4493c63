//! Traces from a recording of `serve --record`: one per model.
//!
//! A recording has the series that engines report, not requests. The arrivals follow by conservation: what
//! arrived at a replica between two scrapes is what it finished, plus the change of what runs and waits there;
//! what the scheduler holds back is counted the same way. They are spread evenly between the two scrapes, so
//! bursts shorter than a scrape interval are not seen. Lengths follow from the counters of tokens: around their
//! mean over [`MEAN_S`], with an assumed spread, because the counters do not tell it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ahash::AHashMap;
use prost::Message as _;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::problem::Problem;
use super::trace::{ROWS_MAX, Skipped, Trace, TraceRequest};
use crate::emulate::load::TokenCount;
use crate::proto::recording::record::Event;
use crate::proto::{WriteRequest, v2};
use crate::series::classify::classify;
use crate::series::dialect::{Dialects, Row};
use crate::series::labels::Labels;
use crate::series::{Signal, Subject};
use crate::tape::ring;
use crate::tape::segment::Reader;
use crate::units::TimeMs;
use crate::wire::{decompress, is_stale_marker};

/// Time over which the mean lengths are taken, s.
const MEAN_S: usize = 300;
/// Standard deviation of the lengths relative to their mean: that of the published chat traces.
const SPREAD: f64 = 0.8;
/// Longest prompt and generation, tokens.
const TOKENS_MAX: u32 = 1_000_000;
/// A replica first seen so long after the beginning of the recording began within it, ms.
const BEGINNING_MS: i64 = 120_000;
/// How long before its first sample such a replica began at most, ms.
const FIRST_MS: i64 = 30_000;
/// Longest recording, s: a year.
const SECONDS_MAX: i64 = 366 * 86_400;

/// Whether the folder holds a recording.
pub fn is_one(dir: &Path) -> bool {
    ring::segments(dir).is_ok_and(|segments| !segments.is_empty())
}

/// The traces of all models in the recording in `dir`; a seed decides where between two scrapes the requests
/// arrive, and their lengths.
///
/// # Errors
/// When the folder cannot be read, or has no requests in it.
pub fn read(dir: &Path, seed: u64) -> Result<Vec<Trace>, Problem> {
    let name = dir.display().to_string();
    let unreadable = |error: &dyn std::fmt::Display| {
        Problem::new(&*name, format!("cannot be read: {error}"), "check the folder of --record")
    };
    let mut seen = Seen::default();
    let mut dialects = Dialects::built_in();
    let mut buffer = Vec::new();
    for (_, path) in ring::segments(dir).map_err(|error| unreadable(&error))? {
        let file = File::open(&path).map_err(|error| unreadable(&error))?;
        let reader = Reader::new(BufReader::with_capacity(1 << 20, file));
        let mut reader = reader.map_err(|error| unreadable(&error))?;
        // A segment that was cut off is read up to its last good record.
        while let Some(event) = reader.next_event().map_err(|error| unreadable(&error))? {
            match event {
                Event::Start(start) => {
                    let tables: Vec<&str> = start.dialects.iter().map(String::as_str).collect();
                    dialects = Dialects::with_extra(&tables).map_err(|error| unreadable(&error))?;
                }
                Event::Write(write) => {
                    let message = match write.compressed {
                        false => &*write.message,
                        true => match decompress(&write.message, &mut buffer) {
                            Ok(message) => message,
                            Err(_) => continue,
                        },
                    };
                    each_series(message, write.protocol == 2, &mut |labels, samples| {
                        seen.series(&dialects, labels, samples);
                    });
                }
                _ => {}
            }
        }
    }
    let traces = seen.traces(&name, seed);
    if traces.is_empty() {
        let fix = "record a stretch in which requests are served, of at least some scrapes";
        return Err(Problem::new(name, "there are no requests in the recording", fix));
    }
    Ok(traces)
}

/// Labels of a series: names and values.
type Pairs = Vec<(String, String)>;
/// Takes a series with its samples.
type Visit<'a> = &'a mut dyn FnMut(Pairs, &[(TimeMs, f64)]);

/// Calls `visit` for every series of a write request; one that cannot be decoded has none.
fn each_series(message: &[u8], is_v2: bool, visit: Visit<'_>) {
    if !is_v2 {
        for one in WriteRequest::decode(message).unwrap_or_default().timeseries {
            let labels = one.labels.into_iter().map(|label| (label.name, label.value)).collect();
            let samples: Vec<_> = one.samples.iter().map(|s| (TimeMs(s.timestamp), s.value)).collect();
            visit(labels, &samples);
        }
        return;
    }
    let request = v2::Request::decode(message).unwrap_or_default();
    let symbol = |index: &u32| request.symbols.get(*index as usize).cloned().unwrap_or_default();
    for one in &request.timeseries {
        let (pairs, _) = one.labels_refs.as_chunks::<2>();
        let labels = pairs.iter().map(|[name, value]| (symbol(name), symbol(value))).collect();
        let samples: Vec<_> = one.samples.iter().map(|s| (TimeMs(s.timestamp), s.value)).collect();
        visit(labels, &samples);
    }
}

/// All that was seen.
#[derive(Default)]
struct Seen {
    first: Option<TimeMs>,
    /// Replicas, and what the scheduler holds back, by subject.
    places: AHashMap<Subject, Place>,
    models: BTreeMap<String, Model>,
}

/// Somewhere requests are: a replica, or the scheduler's queue.
#[derive(Default)]
struct Place {
    model: String,
    /// Time of the last samples that were settled, and of those being read.
    settled: Option<TimeMs>,
    at: Option<TimeMs>,
    signals: AHashMap<Signal, Sum>,
    /// What was known of it when it was settled.
    known: Figures,
    /// It began within the recording, with nothing counted and nothing inside.
    is_new: bool,
}

/// The series of one signal at one place, of the least rank that was seen.
#[derive(Default)]
struct Sum {
    rank: u8,
    /// By labels: the last value and, of a counter, the increase since the first.
    series: AHashMap<Pairs, (f64, f64)>,
}

/// Sums of a place.
#[derive(Clone, Copy, Default)]
struct Figures {
    finished: f64,
    inside: f64,
    prompt: f64,
    generated: f64,
}

/// What a model's places add up to, per second since the first sample.
#[derive(Default)]
struct Model {
    seconds: BTreeMap<i64, Second>,
}

#[derive(Clone, Copy, Default)]
struct Second {
    arrived: f64,
    finished: f64,
    prompt: f64,
    generated: f64,
}

impl Seen {
    fn series(&mut self, dialects: &Dialects, labels: Pairs, samples: &[(TimeMs, f64)]) {
        let metric = labels.iter().find(|(name, _)| name == "__name__").map(|(_, value)| value.as_str());
        let Some(row) = metric.and_then(|metric| dialects.row(metric.as_bytes())) else { return };
        if !is_wanted(row) {
            return;
        }
        let borrowed = labels.iter().map(|(name, value)| Ok((name.as_bytes(), value.as_bytes())));
        let Ok(read) = Labels::read(borrowed, row.metric.as_bytes()) else { return };
        let Ok(what) = classify(row, &read) else { return };
        let is_replica = matches!(what.subject, Subject::Replica { .. });
        let model = match &what.subject {
            Subject::Replica { .. } => what.model.as_deref().unwrap_or("unnamed").to_owned(),
            Subject::Scheduler { model, .. } => model.to_string(),
            _ => return,
        };
        for (time, value) in samples {
            // A replica that is gone has not sent back what was inside: its figures stay as they are.
            if is_replica && is_stale_marker(*value) {
                continue;
            }
            self.first.get_or_insert(*time);
            let first = self.first.unwrap_or(*time);
            let place = self.places.entry(what.subject.clone()).or_insert_with(|| Place {
                model: model.clone(),
                is_new: time.since(first) > BEGINNING_MS,
                ..Place::default()
            });
            if place.at.is_some_and(|at| *time > at) {
                place.settle(first, self.models.entry(place.model.clone()).or_default());
            }
            place.at = place.at.max(Some(*time));
            let sum =
                place.signals.entry(what.signal).or_insert_with(|| Sum { rank: what.rank, ..Sum::default() });
            sum.take(what.rank, &labels, *value, place.is_new);
        }
    }

    fn traces(mut self, dir: &str, seed: u64) -> Vec<Trace> {
        let Some(first) = self.first else { return Vec::new() };
        for place in self.places.values_mut() {
            place.settle(first, self.models.entry(place.model.clone()).or_default());
        }
        let traces = self.models.iter().map(|(name, model)| model.trace(&format!("{dir} {name}"), seed));
        traces.filter(|trace| !trace.requests.is_empty()).collect()
    }
}

fn is_wanted(row: &Row) -> bool {
    use Signal::*;
    matches!(
        row.signal,
        RequestsFinished
            | RequestsRunning
            | RequestsWaiting
            | PromptTokens
            | GenerationTokens
            | SchedulerQueueSize
    )
}

impl Sum {
    fn take(&mut self, rank: u8, labels: &Pairs, value: f64, is_new: bool) {
        if rank > self.rank {
            return;
        }
        if rank < self.rank {
            *self = Sum { rank, ..Sum::default() };
        }
        if is_stale_marker(value) {
            self.series.remove(labels);
            return;
        }
        if !value.is_finite() || value < 0.0 {
            return;
        }
        let before = if is_new { 0.0 } else { value };
        let (last, increase) = self.series.entry(labels.clone()).or_insert((before, 0.0));
        // A counter that is lower than before began anew.
        *increase += if value >= *last { value - *last } else { value };
        *last = value;
    }

    fn now(&self) -> f64 {
        self.series.values().map(|(last, _)| last).sum()
    }

    fn increase(&self) -> f64 {
        self.series.values().map(|(_, increase)| increase).sum()
    }
}

impl Place {
    fn figures(&self) -> Figures {
        let now = |signal| self.signals.get(&signal).map_or(0.0, Sum::now);
        let increase = |signal| self.signals.get(&signal).map_or(0.0, Sum::increase);
        Figures {
            finished: increase(Signal::RequestsFinished),
            inside: now(Signal::RequestsRunning)
                + now(Signal::RequestsWaiting)
                + now(Signal::SchedulerQueueSize),
            prompt: increase(Signal::PromptTokens),
            generated: increase(Signal::GenerationTokens),
        }
    }

    /// Takes what changed since the samples before as what happened between the two.
    fn settle(&mut self, first: TimeMs, model: &mut Model) {
        let Some(at) = self.at else { return };
        let now = self.figures();
        let from = match (self.settled, self.is_new) {
            (Some(settled), _) => settled,
            (None, true) => at + -FIRST_MS,
            // What was there at the beginning did not arrive within the recording.
            (None, false) => {
                (self.settled, self.known) = (Some(at), now);
                return;
            }
        };
        let known = std::mem::replace(&mut self.known, now);
        self.settled = Some(at);
        let finished = now.finished - known.finished;
        model.add(
            (from.since(first), at.since(first)),
            Second {
                arrived: finished + now.inside - known.inside,
                finished,
                prompt: now.prompt - known.prompt,
                generated: now.generated - known.generated,
            },
        );
    }
}

impl Model {
    /// Spreads `what` evenly between two times, ms since the first sample.
    fn add(&mut self, (from_ms, until_ms): (i64, i64), what: Second) {
        let (from, until) = (from_ms.max(0) / 1000, until_ms.max(0) / 1000);
        let until = until.max(from + 1).min(from + SECONDS_MAX);
        // A long silence is one gap, not a stretch of even load that has to be kept by the second.
        let step = ((until - from) / 3600).max(1);
        let parts = ((until - from + step - 1) / step) as f64;
        for second in (from..until).step_by(step as usize) {
            let sum = self.seconds.entry(second).or_default();
            sum.arrived += what.arrived / parts;
            sum.finished += what.finished / parts;
            sum.prompt += what.prompt / parts;
            sum.generated += what.generated / parts;
        }
    }

    fn trace(&self, name: &str, seed: u64) -> Trace {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let seconds: Vec<(i64, Second)> = self.seconds.iter().map(|(at, second)| (*at, *second)).collect();
        let overall = mean_tokens(&seconds).unwrap_or((1.0, 1.0));
        let mut requests = Vec::new();
        let mut owed = 0.0;
        let mut laws = None;
        for (index, (at, second)) in seconds.iter().enumerate() {
            if index % (MEAN_S / 5) == 0 {
                let around = index.saturating_sub(MEAN_S / 2)..(index + MEAN_S / 2).min(seconds.len());
                let (prompt, output) = mean_tokens(&seconds[around]).unwrap_or(overall);
                laws = Some((
                    TokenCount::new(prompt, SPREAD, TOKENS_MAX),
                    TokenCount::new(output, SPREAD, TOKENS_MAX),
                ));
            }
            // Negative when a request passes from one place to another between their scrapes.
            owed += second.arrived;
            let Some((prompt, output)) = &laws else { continue };
            while owed >= 0.999 && requests.len() < ROWS_MAX {
                owed -= 1.0;
                requests.push(TraceRequest {
                    arrival_ms: (*at as f64 + random.random::<f64>()) * 1000.0,
                    prompt_tokens: prompt.sample(&mut random),
                    output_tokens: output.sample(&mut random),
                });
            }
        }
        requests.sort_by(|a, b| a.arrival_ms.total_cmp(&b.arrival_ms));
        Trace { name: name.to_owned(), requests, skipped: Skipped::default(), remarks: Vec::new() }
    }
}

/// Mean prompt and generated length; `None` without a finished request.
fn mean_tokens(seconds: &[(i64, Second)]) -> Option<(f64, f64)> {
    let sum = |value: fn(&Second) -> f64| seconds.iter().map(|(_, second)| value(second)).sum::<f64>();
    let finished = sum(|s| s.finished);
    // Prompts are counted when they are computed and generations while they go on; over the window both are
    // those of the requests that finished, but for what is inside at its ends.
    (finished >= 1.0).then(|| (sum(|s| s.prompt) / finished, sum(|s| s.generated) / finished))
}
