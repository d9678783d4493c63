//! One recorded series: chunks that are closed, and one that grows.

use super::super::gauges::{ExtraLabels, FAMILIES, labels};
use super::super::promql::Labels;
use super::{Subject, Want};
use crate::config::Variant;
use crate::limits::HISTORY_CHUNK_SAMPLES;
use crate::units::TimeMs;
use crate::wire::xor::{Decoder, Encoder};
use crate::wire::{STALE_MARKER_BITS, is_stale_marker};
use promql_parser::label::METRIC_NAME;
use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

/// Samples in Prometheus's XOR encoding.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Time of the first sample.
    pub min: TimeMs,
    /// Time of the last sample.
    pub max: TimeMs,
    /// The encoded samples.
    pub bytes: Arc<[u8]>,
}

impl Chunk {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.bytes.first_chunk().map_or(0, |count| usize::from(u16::from_be_bytes(*count)))
    }
}

/// Label pairs that a series has beside its variant's own.
type Extra = Box<[(&'static str, &'static str)]>;

/// One series.
#[derive(Debug)]
pub(super) struct Track {
    /// Index of its family in [`FAMILIES`]; never an alias.
    pub family: usize,
    extra: Extra,
    closed: VecDeque<Chunk>,
    open: Encoder,
    last: TimeMs,
    /// Did not end with a staleness marker.
    is_live: bool,
    /// Has a sample in the record that is being made.
    pub is_seen: bool,
}

impl Track {
    pub fn new(family: usize, extra: ExtraLabels<'_>) -> Self {
        Track {
            family,
            extra: extra.into(),
            closed: VecDeque::new(),
            open: Encoder::default(),
            last: TimeMs::MIN,
            is_live: false,
            is_seen: false,
        }
    }

    pub fn is(&self, family: usize, extra: ExtraLabels<'_>) -> bool {
        self.family == family && *self.extra == *extra
    }

    /// Appends a sample. A move that falls on the time of the last sample counts right after it.
    pub fn push(&mut self, at: TimeMs, value: f64, is_move: bool) {
        self.is_seen = true;
        if at > self.last {
            self.append(at, value);
        } else if is_move {
            self.append(self.last + 1, value);
        } else {
            return;
        }
        self.is_live = true;
    }

    fn append(&mut self, at: TimeMs, value: f64) {
        if self.open.count() >= HISTORY_CHUNK_SAMPLES {
            let full = std::mem::take(&mut self.open);
            self.closed.extend(chunk(&full));
        }
        self.open.push(at, value);
        self.last = at;
    }

    /// Marks the end of the series, if it has not ended yet.
    pub fn end(&mut self, at: TimeMs) {
        if self.is_live {
            self.append(at.max(self.last + 1), f64::from_bits(STALE_MARKER_BITS));
            self.is_live = false;
        }
    }

    /// Lets go of what ends before `start`; says whether anything is left.
    pub fn forget(&mut self, start: TimeMs) -> bool {
        while self.closed.front().is_some_and(|chunk| chunk.max < start) {
            self.closed.pop_front();
        }
        self.is_live || self.last >= start
    }

    pub fn bytes(&self) -> usize {
        // An `Arc` has two counts beside the bytes.
        let closed = self.closed.iter().map(|chunk| chunk.bytes.len() + 16).sum::<usize>();
        size_of::<Track>() + self.closed.capacity() * size_of::<Chunk>() + closed + self.open.capacity()
    }

    /// Chunks with samples between two times.
    pub fn chunks(&self, from: TimeMs, to: TimeMs) -> Vec<Chunk> {
        let within = |chunk: &Chunk| chunk.max >= from && chunk.min <= to;
        let closed = self.closed.iter().filter(|chunk| within(chunk)).cloned();
        let open = self.open.span().filter(|(min, max)| *max >= from && *min <= to);
        closed.chain(open.and_then(|_| chunk(&self.open))).collect()
    }

    /// Names under which the series is wanted.
    pub fn chosen(&self, want: &Want, base: &[(&str, &str)]) -> Option<Vec<&'static str>> {
        let origin = FAMILIES[self.family].name;
        let families = FAMILIES.iter().filter(|family| family.origin == origin);
        let families = families.filter(|family| want.aliases || !family.alias);
        let names: Vec<_> =
            families.map(|family| family.name).filter(|name| want.selector.matches_name(name)).collect();
        if names.is_empty() {
            return None;
        }
        let is_match = if self.extra.is_empty() {
            want.selector.matches_labels(base)
        } else {
            let mut all = base.to_vec();
            all.extend_from_slice(&self.extra);
            want.selector.matches_labels(&all)
        };
        is_match.then_some(names)
    }
}

fn chunk(open: &Encoder) -> Option<Chunk> {
    let (min, max) = open.span()?;
    Some(Chunk { min, max, bytes: open.bytes().into() })
}

/// A recorded series as readers get it.
#[derive(Clone, Debug)]
pub struct Recorded {
    name: &'static str,
    variant: Arc<Variant>,
    variant_id: Arc<str>,
    extra: Extra,
    /// Chunks, oldest first.
    pub chunks: Vec<Chunk>,
}

impl Subject {
    /// Labels of every series of the subject, without the name.
    pub(super) fn base(&self) -> Labels<'_> {
        base(&self.variant, &self.variant_id)
    }

    pub(super) fn recorded(&self, name: &'static str, track: &Track, chunks: &[Chunk]) -> Recorded {
        Recorded {
            name,
            variant: self.variant.clone(),
            variant_id: self.variant_id.clone(),
            extra: track.extra.clone(),
            chunks: chunks.to_vec(),
        }
    }
}

fn base<'a>(variant: &'a Variant, variant_id: &'a str) -> Labels<'a> {
    let mut all = Vec::with_capacity(10);
    labels(variant, variant_id, |name, value| all.push((name, value)));
    // As in the present: Prometheus renames our `namespace` when it scrapes.
    all.push(("exported_namespace", &*variant.key.namespace));
    all
}

impl Recorded {
    /// All labels, sorted by name.
    pub fn labels(&self) -> Labels<'_> {
        let mut all = base(&self.variant, &self.variant_id);
        all.extend_from_slice(&self.extra);
        all.push((METRIC_NAME, self.name));
        all.sort_unstable();
        all
    }

    /// Samples between two times, both inclusive, staleness markers among them.
    pub fn points(&self, from: TimeMs, to: TimeMs) -> impl Iterator<Item = (TimeMs, f64)> {
        let samples = self.chunks.iter().flat_map(|chunk| Decoder::new(&chunk.bytes).map_while(Result::ok));
        samples.filter(move |(time, _)| (from..=to).contains(time))
    }

    /// Values between two times, without staleness markers.
    pub fn values(&self, from: TimeMs, to: TimeMs) -> impl Iterator<Item = (TimeMs, f64)> {
        self.points(from, to).filter(|(_, value)| !is_stale_marker(*value))
    }
}
