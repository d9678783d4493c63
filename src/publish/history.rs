//! What was published, for as long as it is kept: one compressed series for each published number.
//!
//! Two kinds of records are made of a board. A *step* notes every number of every variant, at fixed times,
//! as a scraper would see them. A *move* notes the numbers that an autoscaler acts on, at the time of the
//! decision that changed them. A series ends with a staleness marker when its number is not published any
//! more, so what is read back is what Prometheus would have recorded.
//!
//! # Bounds
//! Samples are kept in chunks of [`HISTORY_CHUNK_SAMPLES`](crate::limits::HISTORY_CHUNK_SAMPLES), some 2 bits
//! for an unchanged number and 7 bytes for one that changes freely. Chunks leave when they are older than the
//! retention, and the oldest ones when all together exceed the memory bound: the record then reaches less
//! far back, and [`History::since`] says how far.

mod table;
mod track;

pub use table::{Selected, Table};
pub use track::{Chunk, Recorded};

use super::gauges::FAMILIES;
use super::select::Selector;
use super::{Board, Entry};
use crate::config::{Variant, VariantKey};
use crate::limits::HISTORY_CLOCK_BACK_MS;
use crate::units::TimeMs;
use std::collections::BTreeMap;
use std::sync::Arc;
use track::Track;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long a sample is kept at least, ms; 0 keeps nothing.
    pub ms: i64,
    /// Most memory of all chunks, bytes.
    pub bytes: usize,
}

/// Figures of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// Memory of chunks and what belongs to them, bytes.
    pub bytes: usize,
    /// Series.
    pub series: usize,
    /// From when on the record is complete.
    pub since: Option<TimeMs>,
    /// The memory bound has shortened the record.
    pub is_shortened: bool,
}

/// The record.
#[derive(Debug)]
pub struct History {
    retention: Retention,
    variants: BTreeMap<VariantKey, Vec<Subject>>,
    stats: HistoryStats,
    newest: TimeMs,
}

/// Series of a variant under one set of labels; another follows when its accelerator changes, say.
#[derive(Debug)]
struct Subject {
    variant: Arc<Variant>,
    variant_id: Arc<str>,
    tracks: Vec<Track>,
}

/// A request for recorded samples; both times are inclusive.
#[derive(Clone, Debug)]
pub struct Want {
    /// Series that are wanted.
    pub selector: Selector,
    /// Time of the first sample.
    pub from: TimeMs,
    /// Time of the last sample.
    pub to: TimeMs,
    /// The `wva_*` names are there too.
    pub aliases: bool,
}

/// More is wanted than is given out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} recorded samples; ask for fewer series or a shorter time")]
pub struct TooMuch {
    /// The bound.
    pub limit: usize,
}

impl History {
    /// A record of nothing yet.
    pub fn new(retention: Retention) -> Self {
        History { retention, variants: BTreeMap::new(), stats: HistoryStats::default(), newest: TimeMs::MIN }
    }

    /// Figures as of the last step.
    pub fn stats(&self) -> HistoryStats {
        self.stats
    }

    /// From when on the record is complete; `None` before the first record.
    pub fn since(&self) -> Option<TimeMs> {
        self.stats.since
    }

    /// Notes every number that `board` publishes at `at`.
    pub fn step(&mut self, board: &Board, at: TimeMs) {
        if !self.begin(at) {
            return;
        }
        let is_ready = board.not_ready().is_none();
        for (key, entry) in &board.entries {
            if !self.variants.contains_key(key) {
                self.variants.insert(key.clone(), Vec::new());
            }
            if let Some(subjects) = self.variants.get_mut(key) {
                current(subjects, entry, at).record(entry, at, is_ready, false);
            }
        }
        for (key, subjects) in &mut self.variants {
            if !board.entries.contains_key(key) {
                subjects.iter_mut().for_each(|subject| subject.end(at));
            }
        }
        self.forget(at - self.retention.ms);
        let mut share = 4;
        while self.stats.bytes > self.retention.bytes && share > 0 {
            share -= 1;
            self.stats.is_shortened = true;
            self.forget(at - self.retention.ms / 4 * share);
        }
        if self.stats.bytes > self.retention.bytes {
            // Not even the chunks that still grow fit.
            self.clear(at);
        }
    }

    /// Notes, for the variants in `keys`, the numbers that an autoscaler acts on.
    pub fn moved(&mut self, board: &Board, keys: &[VariantKey], at: TimeMs) {
        if !self.begin(at) || board.not_ready().is_some() {
            return;
        }
        for key in keys {
            match board.entries.get(key) {
                Some(entry) => {
                    let subjects = self.variants.entry(key.clone()).or_default();
                    current(subjects, entry, at).record(entry, at, true, true);
                }
                None => {
                    let subjects = self.variants.get_mut(key).into_iter().flatten();
                    subjects.for_each(|subject| subject.end(at));
                }
            }
        }
    }

    /// Whether anything is to be recorded. A clock that was set back ends the record: its times would not
    /// rise any more.
    fn begin(&mut self, at: TimeMs) -> bool {
        if self.retention.ms <= 0 {
            return false;
        }
        if self.newest.since(at) > HISTORY_CLOCK_BACK_MS {
            self.clear(at);
            self.newest = at;
        }
        self.newest = self.newest.max(at);
        self.stats.since.get_or_insert(at);
        true
    }

    fn clear(&mut self, at: TimeMs) {
        self.variants.clear();
        self.stats.since = Some(at);
        (self.stats.bytes, self.stats.series) = (0, 0);
    }

    /// Lets go of the chunks that end before `start`, and counts the rest.
    fn forget(&mut self, start: TimeMs) {
        let (mut bytes, mut series) = (0, 0);
        self.variants.retain(|_, subjects| {
            subjects.retain_mut(|subject| {
                subject.tracks.retain_mut(|track| track.forget(start));
                series += subject.tracks.len();
                bytes += subject.tracks.iter().map(Track::bytes).sum::<usize>();
                !subject.tracks.is_empty()
            });
            !subjects.is_empty()
        });
        self.stats.since = self.stats.since.map(|since| since.max(start));
        (self.stats.bytes, self.stats.series) = (bytes, series);
    }

    /// The series that are wanted, with the chunks that reach into the wanted time, sorted by labels.
    pub fn select(&self, want: &Want, samples_max: usize) -> Result<Vec<Recorded>, TooMuch> {
        let mut found = Vec::new();
        let mut samples = 0;
        let mut take = |subject: &Subject| -> Result<(), TooMuch> {
            let base = subject.base();
            for track in &subject.tracks {
                if let Some(labels) = track.chosen(want, &base) {
                    let chunks = track.chunks(want.from, want.to);
                    samples += chunks.iter().map(Chunk::samples).sum::<usize>();
                    if samples > samples_max {
                        return Err(TooMuch { limit: samples_max });
                    }
                    if !chunks.is_empty() {
                        found.extend(labels.into_iter().map(|name| subject.recorded(name, track, &chunks)));
                    }
                }
            }
            Ok(())
        };
        match want.selector.key() {
            Some(key) => self.variants.get(&key).into_iter().flatten().try_for_each(&mut take)?,
            None => self.variants.values().flatten().try_for_each(&mut take)?,
        }
        Ok(sorted(found))
    }
}

fn sorted(found: Vec<Recorded>) -> Vec<Recorded> {
    let labels: Vec<_> = found.iter().map(Recorded::labels).collect();
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_unstable_by(|a, b| labels[*a].cmp(&labels[*b]));
    drop(labels);
    let mut found: Vec<Option<Recorded>> = found.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| found[index].take()).collect()
}

/// The subject with the labels of `entry`; those with other labels end.
fn current<'t>(subjects: &'t mut Vec<Subject>, entry: &Entry, at: TimeMs) -> &'t mut Subject {
    let known = subjects.iter().position(|subject| subject.is_of(entry));
    for (index, subject) in subjects.iter_mut().enumerate() {
        if Some(index) != known {
            subject.end(at);
        }
    }
    let index = known.unwrap_or_else(|| {
        let (variant, variant_id) = (entry.variant.clone(), entry.variant_id.clone());
        subjects.push(Subject { variant, variant_id, tracks: Vec::new() });
        subjects.len() - 1
    });
    &mut subjects[index]
}

impl Subject {
    /// Whether `entry` is published under the same labels.
    fn is_of(&self, entry: &Entry) -> bool {
        Arc::ptr_eq(&self.variant, &entry.variant)
            || self.variant_id == entry.variant_id
                && self.variant.accelerator == entry.variant.accelerator
                && self.variant.controller_instance == entry.variant.controller_instance
    }

    fn record(&mut self, entry: &Entry, at: TimeMs, is_ready: bool, is_move: bool) {
        let concerned = |index: usize| !FAMILIES[index].alias && (FAMILIES[index].vital || !is_move);
        self.tracks.iter_mut().for_each(|track| track.is_seen = !concerned(track.family));
        for (index, family) in FAMILIES.iter().enumerate() {
            if !concerned(index) || family.vital && !is_ready {
                continue;
            }
            family.samples(entry, at, |extra, value| {
                let known = self.tracks.iter().position(|track| track.is(index, extra));
                let known = known.unwrap_or_else(|| {
                    self.tracks.push(Track::new(index, extra));
                    self.tracks.len() - 1
                });
                self.tracks[known].push(at, value, is_move);
            });
        }
        for track in self.tracks.iter_mut().filter(|track| !track.is_seen) {
            track.end(at);
        }
    }

    fn end(&mut self, at: TimeMs) {
        self.tracks.iter_mut().for_each(|track| track.end(at));
    }
}
