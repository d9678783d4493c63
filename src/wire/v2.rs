//! Remote-write 2.0: walks `io.prometheus.write.v2.Request` in place.
//!
//! ```text
//! Request    { string symbols = 4; TimeSeries timeseries = 5; }
//! TimeSeries { uint32 labels_refs = 1; Sample samples = 2; Histogram histograms = 3;
//!              Exemplar exemplars = 4; Metadata metadata = 5; }
//! Sample     { double value = 1; int64 timestamp = 2; int64 start_timestamp = 3; }
//! Exemplar   { uint32 labels_refs = 1; double value = 2; int64 timestamp = 3; }
//! Metadata   { Type type = 1; uint32 help_ref = 3; uint32 unit_ref = 4; }
//! ```
//!
//! Strings are in one table, and everything else refers to them by index. Protobuf allows the table to
//! come behind the series, so [`check`] collects it, as offsets, before [`walk`] shows the first series.
//! Field 6 of a series held the created timestamp in release candidates; it is skipped like any other.

use super::histogram::{HistogramError, check as check_histogram};
use super::proto::{Reader, Value, messages};
use super::{Counts, WireError, parse_sample, wrong_type};
use crate::limits::{WRITE_SYMBOLS_KEPT, WRITE_SYMBOLS_MAX};
use crate::units::TimeMs;

/// Fields of a `Sample`.
const SAMPLE_FIELDS: u32 = 3;

/// The symbol table of one request, as offsets into it; reused from request to request.
#[derive(Debug, Default)]
pub struct Symbols {
    spans: Vec<(u32, u32)>,
}

impl Symbols {
    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no symbol.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The symbol that `reference` means in the request that the table was collected from.
    #[inline]
    pub fn get<'a>(&self, request: &'a [u8], reference: u32) -> Option<&'a [u8]> {
        let &(start, len) = self.spans.get(reference as usize)?;
        request.get(start as usize..(start + len) as usize)
    }

    /// All symbols, in order.
    pub fn iter<'a>(&self, request: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.spans.iter().map(|&(start, len)| &request[start as usize..(start + len) as usize])
    }

    /// The part of the request from the first to the last symbol.
    pub fn region<'a>(&self, request: &'a [u8]) -> &'a [u8] {
        match (self.spans.first(), self.spans.last()) {
            (Some(first), Some(last)) => &request[first.0 as usize..(last.0 + last.1) as usize],
            _ => &[],
        }
    }

    /// Gives back what an unusually large request needed.
    pub fn trim(&mut self) {
        self.spans.clear();
        self.spans.shrink_to(WRITE_SYMBOLS_KEPT);
    }

    fn push(&mut self, end: usize, symbol: &[u8]) -> Result<(), WireError> {
        let limit = WRITE_SYMBOLS_MAX;
        let (Ok(end), Ok(len)) = (u32::try_from(end), u32::try_from(symbol.len())) else {
            return Err(WireError::TooManySymbols { limit });
        };
        if self.spans.len() == limit {
            return Err(WireError::TooManySymbols { limit });
        }
        if self.spans.is_empty() && !symbol.is_empty() {
            return Err(WireError::FirstSymbol);
        }
        self.spans.push((end - len, len));
        Ok(())
    }
}

/// One `TimeSeries` message, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    message: &'a [u8],
    /// Offset of `message` in the request.
    base: usize,
    /// The only run of packed references, as senders write them.
    packed_refs: Option<&'a [u8]>,
    /// End of `packed_refs` within `message`.
    refs_end: usize,
    /// Number of float samples.
    pub samples: u32,
    /// Number of exemplars.
    pub exemplars: u32,
    /// Number of native histograms.
    pub histograms: u32,
    /// Whether metadata comes with it.
    pub metadata: bool,
}

/// Checks the structure of the whole request without using it and collects its symbol table.
pub fn check(request: &[u8], symbols: &mut Symbols) -> Result<Counts, WireError> {
    symbols.spans.clear();
    let mut counts = Counts::default();
    let mut reader = Reader::new(request, 0);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (4, Value::Bytes(symbol)) => symbols.push(reader.offset(), symbol)?,
            (5, Value::Bytes(message)) => {
                let series = Series::parse(message, reader.offset() - message.len())?;
                counts.series += 1;
                counts.samples += u64::from(series.samples);
                counts.exemplars += u64::from(series.exemplars);
                counts.histograms += u64::from(series.histograms);
                counts.metadata += u64::from(series.metadata);
            }
            (4 | 5, _) => return Err(wrong_type(&reader)),
            _ => {} // fields of later versions are skipped, as protobuf asks
        }
    }
    Ok(counts)
}

/// Calls `visit` for every series of a request that has been checked, in order.
pub fn walk<'a>(request: &'a [u8], mut visit: impl FnMut(Series<'a>)) -> Result<(), WireError> {
    let mut reader = Reader::new(request, 0);
    while let Some((number, value)) = reader.field()? {
        if let (5, Value::Bytes(message)) = (number, value) {
            visit(Series::parse(message, reader.offset() - message.len())?);
        }
    }
    Ok(())
}

/// References read from a message: all of them, or more than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefsRead {
    /// All are there.
    All,
    /// There are more than the limit.
    TooMany,
}

impl<'a> Series<'a> {
    #[inline]
    fn parse(message: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut series = Series {
            message,
            base,
            packed_refs: None,
            refs_end: 0,
            samples: 0,
            exemplars: 0,
            histograms: 0,
            metadata: false,
        };
        let mut reader = Reader::new(message, base);
        let mut runs = 0u32;
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Value::Bytes(refs)) => {
                    series.packed_refs = Some(refs);
                    series.refs_end = reader.offset() - base;
                    runs += 1;
                }
                (1, Value::Varint(_)) => runs += 2,
                (2, Value::Bytes(_)) => series.samples += 1,
                (3, Value::Bytes(_)) => series.histograms += 1,
                (4, Value::Bytes(_)) => series.exemplars += 1,
                (5, Value::Bytes(_)) => series.metadata = true,
                (1..=5, _) => return Err(wrong_type(&reader)),
                _ => {}
            }
        }
        if runs > 1 {
            series.packed_refs = None;
        }
        Ok(series)
    }

    /// Puts the label references into `refs`: name, value, name, value, in the sender's order.
    #[inline]
    pub fn read_refs(&self, refs: &mut Vec<u32>, max: usize) -> Result<RefsRead, WireError> {
        refs.clear();
        match self.packed_refs {
            Some(packed) => read_packed(packed, self.base + self.refs_end - packed.len(), refs, max),
            None => read_refs(self.message, self.base, refs, max),
        }
    }

    fn fields(&self, wanted: u32) -> impl Iterator<Item = Result<(&'a [u8], usize), WireError>> + use<'a> {
        messages(Reader::new(self.message, self.base), wanted)
    }

    /// Float samples in the sender's order.
    pub fn samples(&self) -> impl Iterator<Item = Result<(TimeMs, f64), WireError>> + use<'a> {
        self.fields(2).map(|sample| {
            let (sample, base) = sample?;
            parse_sample(sample, base, SAMPLE_FIELDS)
        })
    }

    /// Judges every native histogram of the series.
    pub fn histograms(&self) -> impl Iterator<Item = Result<(), HistogramError>> + use<'a> {
        self.fields(3).map(|histogram| {
            let (histogram, base) = histogram?;
            check_histogram(histogram, base)
        })
    }

    /// The exemplars, to be read with [`read_refs`].
    pub fn exemplars(&self) -> impl Iterator<Item = Result<(&'a [u8], usize), WireError>> + use<'a> {
        self.fields(4)
    }

    /// References to help and unit of the series' metadata; 0 where there is none.
    pub fn metadata_refs(&self) -> Result<[u32; 2], WireError> {
        let mut refs = [0; 2];
        // Repeats of a message field are merged.
        for message in self.fields(5) {
            let (message, base) = message?;
            let mut reader = Reader::new(message, base);
            while let Some((number, value)) = reader.field()? {
                match (number, value) {
                    (1, Value::Varint(_)) => {}
                    (3, Value::Varint(bits)) => refs[0] = bits as u32,
                    (4, Value::Varint(bits)) => refs[1] = bits as u32,
                    (1 | 3 | 4, _) => return Err(wrong_type(&reader)),
                    _ => {}
                }
            }
        }
        Ok(refs)
    }
}

/// Appends the references in field 1 of a message, packed or not, up to `max` in all.
pub fn read_refs(
    message: &[u8],
    base: usize,
    refs: &mut Vec<u32>,
    max: usize,
) -> Result<RefsRead, WireError> {
    let mut reader = Reader::new(message, base);
    while let Some((number, value)) = reader.field()? {
        let read = match (number, value) {
            (1, Value::Bytes(packed)) => read_packed(packed, reader.offset() - packed.len(), refs, max)?,
            (1, Value::Varint(_)) if refs.len() == max => RefsRead::TooMany,
            (1, Value::Varint(bits)) => {
                refs.push(bits as u32);
                RefsRead::All
            }
            (1, _) => return Err(wrong_type(&reader)),
            _ => RefsRead::All,
        };
        if read == RefsRead::TooMany {
            return Ok(read);
        }
    }
    Ok(RefsRead::All)
}

#[inline]
fn read_packed(packed: &[u8], base: usize, refs: &mut Vec<u32>, max: usize) -> Result<RefsRead, WireError> {
    let mut reader = Reader::new(packed, base);
    while !reader.is_empty() {
        if refs.len() == max {
            return Ok(RefsRead::TooMany);
        }
        refs.push(reader.varint()? as u32);
    }
    Ok(RefsRead::All)
}
