//! The first pass over a request of remote-write 2.0: its structure is checked, its symbols are collected, and the
//! series are found that are to be taken in or judged. Nearly every other series differs from the one before in a
//! value or two, which is all that is looked at.

use super::super::shape::{Differs, Shape};
use super::{FOREIGN, Interned};
use crate::limits::WRITE_SERIES_KEPT;
use crate::series::dialect::Dialects;
use crate::wire::v2::{self, Part, Plain, Series, Visit};
use crate::wire::{Counts, WireError};

impl Interned {
    /// Checks the structure of a request, collects its symbols and keeps the series that are to be taken in or
    /// judged. Those behind the returned offset and number have not been looked at.
    pub(super) fn first_pass(
        &mut self,
        request: &[u8],
        dialects: &Dialects,
    ) -> Result<(Counts, Option<(usize, u32)>), WireError> {
        self.symbols.clear();
        self.kept.clear();
        let mut pass = FirstPass {
            interned: self,
            request,
            dialects,
            counts: Counts::default(),
            plain: 0,
            shapes: Default::default(),
            seen: 0,
            unseen: None,
            symbols_noted: None,
        };
        v2::visit(request, 0, &mut pass)?;
        let FirstPass { mut counts, plain, mut unseen, symbols_noted, .. } = pass;
        (counts.series, counts.samples) = (counts.series + plain, counts.samples + plain);
        // Symbols may come behind series, which then mean something else than they seemed to.
        if symbols_noted != Some(self.symbols.len()) {
            self.note_all(request);
            self.kept.clear();
            unseen = Some((0, 0));
        }
        Ok((counts, unseen))
    }

    /// Whether a series is without fault, not ours and has nothing else to be judged.
    fn is_foreign<'a>(
        &mut self,
        request: &'a [u8],
        series: &Series<'a>,
        dialects: &Dialects,
        shapes: &mut [Shape<'a>; 2],
    ) -> bool {
        let Some(packed) = series.packed_refs() else { return false };
        if series.histograms + series.exemplars > 0 || !self.all_utf8 {
            return false;
        }
        if series.is_described && self.check_metadata(series).is_err() {
            return false;
        }
        let metric = match shapes[0].differs(packed) {
            Differs::Nothing => shapes[0].metric,
            Differs::Value(reference) if (reference as usize) < self.notes.len() => shapes[0].metric,
            Differs::Metric(reference) if (reference as usize) < self.notes.len() => reference,
            Differs::Several { metric, largest } if (largest as usize) < self.notes.len() => {
                shapes[0] = shapes[0].with(packed, packed, metric);
                metric
            }
            _ => {
                let Ok(metric) = self.open(request, series) else { return false };
                if let Some(at) = self.metric_at() {
                    shapes.swap(0, 1);
                    shapes[0] = Shape::of(packed, &self.refs, at);
                }
                metric
            }
        };
        self.is_foreign_metric(request, metric, dialects)
    }

    #[inline]
    fn is_foreign_metric(&mut self, request: &[u8], metric: u32, dialects: &Dialects) -> bool {
        !self.is_ours(request, metric, dialects) && self.notes[metric as usize].flags & FOREIGN != 0
    }
}

/// The first pass over a request.
struct FirstPass<'i, 'a> {
    interned: &'i mut Interned,
    request: &'a [u8],
    dialects: &'i Dialects,
    /// What was carried by series that are not plain.
    counts: Counts,
    /// Plain series, of one sample each.
    plain: u64,
    /// References of the last series: a histogram's buckets alternate with what has no bound.
    shapes: [Shape<'a>; 2],
    /// Where the part begins whose series were not looked at yet.
    seen: usize,
    /// Offset of, and number before, the first series that found no room.
    unseen: Option<(usize, u32)>,
    symbols_noted: Option<usize>,
}

impl<'a> FirstPass<'_, 'a> {
    /// Begins a series: symbols are noted before the first one.
    #[inline(always)]
    fn begin(&mut self) {
        if self.symbols_noted.is_none() {
            self.interned.note_all(self.request);
            self.symbols_noted = Some(self.interned.symbols.len());
        }
    }

    fn number(&self) -> u32 {
        (self.counts.series + self.plain) as u32
    }

    /// Keeps a series for the second pass.
    fn keep(&mut self, end: usize, len: usize) {
        if self.interned.kept.len() == WRITE_SERIES_KEPT {
            self.unseen = Some((self.seen, self.number() - 1));
            return;
        }
        self.seen = end;
        let number = self.number();
        self.interned.kept.push(((end - len) as u32, end as u32, number));
    }

    /// Whether a plain series is told to be foreign, or not, by those before it alone.
    #[inline(always)]
    fn known(&mut self, series: &Plain<'a>) -> Option<bool> {
        if !self.interned.all_utf8 {
            return None;
        }
        let symbols = self.interned.notes.len();
        let found = |shape: &Shape<'a>| shape.metric_of(series.from_refs, series.refs_len, symbols);
        let (metric, differing) = match found(&self.shapes[0]) {
            Some(found) => found,
            None => {
                let found = found(&self.shapes[1])?;
                self.shapes.swap(0, 1);
                found
            }
        };
        if differing > 1 {
            self.shapes[0] = self.shapes[0].with(series.refs(), series.from_refs, metric);
        }
        Some(self.interned.is_foreign_metric(self.request, metric, self.dialects))
    }

    #[inline(never)]
    fn judge(&mut self, end: usize, series: &Series<'a>) {
        let number = self.number();
        self.interned.number = number;
        if !self.interned.is_foreign(self.request, series, self.dialects, &mut self.shapes) {
            self.keep(end, series.len());
        }
    }
}

impl<'a> Visit<'a> for FirstPass<'_, 'a> {
    #[inline(always)]
    fn plain(&mut self, end: usize, message: &'a [u8], series: Plain<'a>) -> Result<(), WireError> {
        self.begin();
        self.plain += 1;
        self.counts.metadata += u64::from(series.metadata);
        if self.unseen.is_some() {
            return Ok(());
        }
        match self.known(&series) {
            Some(true) => {}
            Some(false) => self.keep(end, message.len()),
            None => {
                if let Some(series) = Series::plain(message, end - message.len()) {
                    self.judge(end, &series);
                }
            }
        }
        Ok(())
    }

    fn part(&mut self, part: Part<'a>) -> Result<(), WireError> {
        match part {
            Part::Symbol(end, symbol) => self.interned.symbols.push(end, symbol),
            Part::Series(end, series) => {
                self.begin();
                series.count(&mut self.counts);
                if self.unseen.is_none() {
                    self.judge(end, &series);
                }
                Ok(())
            }
        }
    }
}
