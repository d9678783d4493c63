//! Remote-write 2.0: from a symbol table and references into it to the slots that 1.0 fills too.
//!
//! What is known of a symbol is noted once per request: whether it names a metric of ours, and, once a
//! relevant series uses it, its hash. A series that is not ours costs a look at its references; one that
//! is known costs an addition per label. Only a series that is new, or strange, is read as text.

mod first_pass;

use super::ingest::WriteReport;
use super::shape::{Differs, Shape};
use super::store::{SlotId, Store, TextHash, hash_label};
use super::{Engine, ingest::Rejection};
use crate::limits::{LABEL_MAX_BYTES, LABELS_PER_SERIES_MAX, WRITE_SYMBOLS_KEPT};
use crate::series::dialect::Dialects;
use crate::series::labels::{LabelError, Labels, REPLICA_LABELS, short};
use crate::units::TimeMs;
use crate::wire::WireError;
use crate::wire::v2::{self, Part, RefsRead, Series, Symbols};

/// Most references of one label set.
const REFS_MAX: usize = 2 * LABELS_PER_SERIES_MAX;

/// The symbol is `__name__`.
const METRIC_NAME: u8 = 1;
/// The symbol is not UTF-8.
const NOT_UTF8: u8 = 1 << 1;
/// The symbol, as a metric's name, is ours.
const OURS: u8 = 1 << 2;
/// The symbol, as a metric's name, is a name and not ours.
const FOREIGN: u8 = 1 << 3;
/// The hash and the flags below are known.
const HASHED: u8 = 1 << 4;
/// As a label's name it is no part of the identity.
const REPLICA: u8 = 1 << 5;
/// Empty, too long or not UTF-8: sets of labels with it are read as text.
const STRANGE: u8 = 1 << 6;

/// What is known of one symbol.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    hash: TextHash,
    /// Stamp of the last set of labels with this symbol as a name.
    named_in: u32,
    flags: u8,
}

/// Where the walk over one request stands.
#[derive(Debug)]
struct Follow2<'a> {
    /// Slot of the last relevant series.
    previous: SlotId,
    /// Metric of the series that was recognised.
    metric: &'a [u8],
    /// References of the last series, each with the hash of its labels without the metric's name, and that of
    /// `__name__`: those of a pod alternate between few.
    shapes: [(Shape<'a>, u128, TextHash); 2],
}

impl Default for Follow2<'_> {
    fn default() -> Self {
        Follow2 { previous: SlotId::MAX, metric: &[], shapes: Default::default() }
    }
}

/// Reused memory of one request.
#[derive(Debug, Default)]
pub struct Interned {
    symbols: Symbols,
    notes: Vec<Note>,
    /// References of the series at hand.
    refs: Vec<u32>,
    /// References of the exemplar at hand.
    exemplar_refs: Vec<u32>,
    /// Number of the series at hand, from 1.
    number: u32,
    /// Number of the set of labels at hand; one that is opened twice has two.
    stamp: u32,
    /// Where the series are that matter, and their numbers, from the first pass.
    kept: Vec<(u32, u32, u32)>,
    /// Whether every symbol is UTF-8.
    all_utf8: bool,
}

impl Engine {
    /// The same as [`Engine::write_v1`] for a request of remote-write 2.0.
    pub fn write_v2(&mut self, request: &[u8], now: TimeMs) -> Result<WriteReport, WireError> {
        let mut interned = std::mem::take(&mut self.interned);
        let outcome = self.write_interned(request, now, &mut interned);
        interned.trim();
        self.interned = interned;
        let report = outcome?;
        self.end_write(now);
        Ok(report)
    }

    fn write_interned(
        &mut self,
        request: &[u8],
        now: TimeMs,
        interned: &mut Interned,
    ) -> Result<WriteReport, WireError> {
        let (counts, unseen) = interned.first_pass(request, &self.dialects)?;
        let mut report = WriteReport::of(counts);
        let mut follow = Follow2::default();
        for at in 0..interned.kept.len() {
            let (start, end, number) = interned.kept[at];
            let (base, message) = (start as usize, &request[start as usize..end as usize]);
            let series = match Series::plain(message, base) {
                Some(series) => series,
                None => Series::parse(message, base)?,
            };
            interned.number = number;
            self.take_interned(request, &series, now, interned, &mut follow, &mut report);
        }
        if let Some((from, number)) = unseen {
            interned.number = number;
            v2::parts(request, from, |part| {
                if let Part::Series(_, series) = part {
                    interned.number += 1;
                    self.take_interned(request, &series, now, interned, &mut follow, &mut report);
                }
                Ok(())
            })?;
        }
        Ok(report)
    }

    fn take_interned<'a>(
        &mut self,
        request: &'a [u8],
        series: &Series<'a>,
        now: TimeMs,
        interned: &mut Interned,
        follow: &mut Follow2<'a>,
        report: &mut WriteReport,
    ) {
        if let Some(identity) = interned.known_shape(request, series, &self.store, &self.dialects, follow)
            && let Some(slot) = self.store.slot_by_canonical(identity, follow.previous)
        {
            follow.previous = slot;
            return self.take_samples(
                slot,
                follow.metric,
                series.plain_sample(),
                series.samples(),
                now,
                report,
            );
        }
        let mut carried = [series.samples, series.histograms, series.exemplars];
        let metric_ref = match interned.open(request, series) {
            Ok(metric_ref) => metric_ref,
            Err(error) => return report.reject_series(carried, error),
        };
        let metric = interned.text(request, metric_ref);
        if series.histograms > 0 {
            carried[1] -= report.take_histograms(metric, series.histograms());
        }
        if series.exemplars > 0 {
            carried[2] -= interned.take_exemplars(series, metric, report);
        }
        if !interned.is_ours(request, metric_ref, &self.dialects) {
            return;
        }
        let identity = interned.identity(request, &self.store);
        let known = identity.and_then(|id| self.store.slot_by_canonical(id, follow.previous));
        let slot = match known {
            Some(slot) => slot,
            None => match Labels::read(interned.labels(request), metric) {
                Ok(labels) => match self.find_or_add(metric, &labels) {
                    Some(slot) => slot,
                    None => return report.refuse_new(carried),
                },
                Err(error) => return report.reject_series(carried, error),
            },
        };
        follow.previous = slot;
        if let Some(identity) = identity {
            interned.learn(series, identity, &mut follow.shapes);
        }
        self.take_samples(slot, metric, series.plain_sample(), series.samples(), now, report);
    }
}

impl Interned {
    /// Identity of a series of ours that differs from one before in the metric's name at most, which
    /// `follow` then has.
    fn known_shape<'a>(
        &mut self,
        request: &'a [u8],
        series: &Series<'a>,
        store: &Store,
        dialects: &Dialects,
        follow: &mut Follow2<'a>,
    ) -> Option<u128> {
        let packed = series.packed_refs()?;
        let is_judged = series.histograms + series.exemplars > 0;
        if is_judged || series.is_described && self.check_metadata(series).is_err() {
            return None;
        }
        let (name, rest, metric) =
            follow.shapes.iter().find_map(|(shape, rest, name)| match shape.differs(packed) {
                Differs::Metric(reference) => Some((*name, *rest, reference)),
                Differs::Nothing => Some((*name, *rest, shape.metric)),
                _ => None,
            })?;
        if metric as usize >= self.notes.len() || !self.is_ours(request, metric, dialects) {
            return None;
        }
        let hashed = self.hashed(request, metric, store);
        follow.metric = self.symbols.get(request, metric)?;
        (hashed.flags & STRANGE == 0).then(|| rest.wrapping_add(hash_label(name, hashed.hash)))
    }

    /// Remembers the shape of the series at hand, whose identity is known.
    fn learn<'a>(&self, series: &Series<'a>, identity: u128, shapes: &mut [(Shape<'a>, u128, TextHash); 2]) {
        let (Some(packed), Some(at)) = (series.packed_refs(), self.metric_at()) else { return };
        let hash = |at: usize| self.notes[self.refs[at] as usize].hash;
        let (name_hash, own) = (hash(at - 1), hash_label(hash(at - 1), hash(at)));
        shapes.swap(0, 1);
        shapes[0] = (Shape::of(packed, &self.refs, at), identity.wrapping_sub(own), name_hash);
    }

    /// Index of the metric's name among the references of the series at hand.
    fn metric_at(&self) -> Option<usize> {
        let is_name = |pair: &[u32; 2]| self.notes[pair[0] as usize].flags & METRIC_NAME != 0;
        self.refs.as_chunks::<2>().0.iter().rposition(is_name).map(|pair| 2 * pair + 1)
    }

    /// Begins the notes of a request whose symbols have been collected.
    fn note_all(&mut self, request: &[u8]) {
        self.number = 0;
        self.stamp = 0;
        self.notes.clear();
        // One look over the table, keys and lengths included, settles the usual case.
        let ascii = self.symbols.region(request).is_ascii();
        self.all_utf8 = true;
        self.notes.extend(self.symbols.iter(request).map(|symbol| {
            let mut flags = if symbol == b"__name__" { METRIC_NAME } else { 0 };
            if !ascii && std::str::from_utf8(symbol).is_err() {
                flags |= NOT_UTF8;
                self.all_utf8 = false;
            }
            Note { flags, ..Note::default() }
        }));
    }

    /// Gives back what an unusually large request needed.
    fn trim(&mut self) {
        self.symbols.trim();
        self.notes.clear();
        self.notes.shrink_to(WRITE_SYMBOLS_KEPT);
        self.kept.clear();
    }

    fn text<'a>(&self, request: &'a [u8], reference: u32) -> &'a [u8] {
        self.symbols.get(request, reference).unwrap_or_default()
    }

    /// Reads the references of the next series, checks them and returns that of its metric's name.
    fn open(&mut self, request: &[u8], series: &Series<'_>) -> Result<u32, LabelError> {
        let number = self.number;
        self.stamp += 1;
        let stamp = self.stamp;
        let read = series.read_refs(&mut self.refs, REFS_MAX);
        if read.map_err(|error| LabelError::Broken(error.to_string()))? == RefsRead::TooMany {
            let metric = format!("number {number} of the request");
            return Err(LabelError::TooMany { metric, limit: LABELS_PER_SERIES_MAX });
        }
        let (pairs, odd) = self.refs.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(LabelError::OddRefs { number, refs: self.refs.len() });
        }
        let mut metric = None;
        for &[name, value] in pairs {
            if name.max(value) as usize >= self.notes.len() {
                let (reference, symbols) = (name.max(value), self.notes.len());
                return Err(LabelError::RefOutOfRange { number, reference, symbols });
            }
            let note = &mut self.notes[name as usize];
            if note.named_in == stamp {
                return Err(self.fault(request, name, FaultKind::Duplicate));
            }
            note.named_in = stamp;
            if note.flags & METRIC_NAME != 0 {
                metric = Some(value);
            }
            if name == 0 {
                return Err(self.fault(request, name, FaultKind::EmptyName));
            }
            let either = |notes: &[Note]| notes[name as usize].flags | notes[value as usize].flags;
            if !self.all_utf8 && either(&self.notes) & NOT_UTF8 != 0 {
                return Err(self.fault(request, name, FaultKind::NotUtf8));
            }
        }
        if series.is_described {
            self.check_metadata(series)?;
        }
        metric.filter(|metric| !self.text(request, *metric).is_empty()).ok_or(LabelError::NoMetricName)
    }

    fn check_metadata(&self, series: &Series<'_>) -> Result<(), LabelError> {
        let refs = series.metadata_refs().map_err(|error| LabelError::Broken(error.to_string()))?;
        let (number, symbols) = (self.number, self.notes.len());
        match refs.into_iter().find(|reference| *reference as usize >= symbols.max(1)) {
            Some(reference) => Err(LabelError::RefOutOfRange { number, reference, symbols }),
            None => Ok(()),
        }
    }

    /// Describes what is wrong with a label, with the metric's name as far as there is one.
    fn fault(&self, request: &[u8], name: u32, kind: FaultKind) -> LabelError {
        let is_name = |pair: &&[u32; 2]| self.text(request, pair[0]) == b"__name__";
        let metric = self.refs.as_chunks::<2>().0.iter().find(is_name);
        let metric = metric.map_or("?".into(), |pair| short(self.text(request, pair[1])));
        let label = short(self.text(request, name));
        match kind {
            FaultKind::Duplicate => LabelError::Duplicate { metric, label },
            FaultKind::EmptyName => LabelError::EmptyName { metric },
            FaultKind::NotUtf8 => LabelError::NotUtf8 { metric, label },
        }
    }

    /// Checks the references of every exemplar; the number of refused ones.
    fn take_exemplars(&mut self, series: &Series<'_>, metric: &[u8], report: &mut WriteReport) -> u32 {
        let symbols = self.notes.len();
        let mut refused = 0;
        for exemplar in series.exemplars() {
            self.exemplar_refs.clear();
            let refs = &mut self.exemplar_refs;
            let read = exemplar.and_then(|(message, base)| v2::read_refs(message, base, refs, REFS_MAX));
            let sound = read == Ok(RefsRead::All)
                && refs.len().is_multiple_of(2)
                && refs.iter().all(|reference| (*reference as usize) < symbols);
            if !sound {
                refused += 1;
                report.reject_exemplar(Rejection::Exemplar { metric: short(metric) });
            }
        }
        refused
    }

    #[inline]
    fn is_ours(&mut self, request: &[u8], metric: u32, dialects: &Dialects) -> bool {
        let flags = self.notes[metric as usize].flags;
        if flags & (OURS | FOREIGN) != 0 {
            return flags & OURS != 0;
        }
        let name = self.text(request, metric);
        let (ours, is_empty) = (dialects.row(name).is_some(), name.is_empty());
        self.notes[metric as usize].flags |= match ours {
            true => OURS,
            false if is_empty => 0,
            false => FOREIGN,
        };
        ours
    }

    /// Identity of the series at hand; `None` when its labels have to be read as text.
    fn identity(&mut self, request: &[u8], store: &Store) -> Option<u128> {
        let mut identity = 0u128;
        for at in (0..self.refs.len()).step_by(2) {
            let name = self.hashed(request, self.refs[at], store);
            let value = self.hashed(request, self.refs[at + 1], store);
            if (name.flags | value.flags) & STRANGE != 0 {
                return None;
            }
            if name.flags & REPLICA == 0 {
                identity = identity.wrapping_add(hash_label(name.hash, value.hash));
            }
        }
        Some(identity)
    }

    #[inline]
    fn hashed(&mut self, request: &[u8], reference: u32, store: &Store) -> Note {
        let note = self.notes[reference as usize];
        if note.flags & HASHED != 0 { note } else { self.hash(request, reference, store) }
    }

    fn hash(&mut self, request: &[u8], reference: u32, store: &Store) -> Note {
        let text = self.text(request, reference);
        let note = &mut self.notes[reference as usize];
        note.hash = store.hash_text(text);
        note.flags |= HASHED;
        if text.is_empty() || text.len() > LABEL_MAX_BYTES || note.flags & NOT_UTF8 != 0 {
            note.flags |= STRANGE;
        }
        if REPLICA_LABELS.iter().any(|label| label.as_bytes() == text) {
            note.flags |= REPLICA;
        }
        *note
    }

    /// Labels of the series at hand as text.
    fn labels<'a>(
        &'a self,
        request: &'a [u8],
    ) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), WireError>> {
        let text = |reference| self.text(request, reference);
        self.refs.as_chunks::<2>().0.iter().map(move |&[name, value]| Ok((text(name), text(value))))
    }
}

/// What can be wrong with a label whose references are sound.
enum FaultKind {
    Duplicate,
    EmptyName,
    NotUtf8,
}
