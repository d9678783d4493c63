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
use super::{Counts, WireError, parse_sample, plain_sample, wrong_type};
use crate::limits::{WRITE_SYMBOLS_KEPT, WRITE_SYMBOLS_MAX};
use crate::units::TimeMs;

/// Key of `Request.symbols`.
const SYMBOL_KEY: u8 = 4 << 3 | 2;
/// Key of `Request.timeseries`.
const SERIES_KEY: u8 = 5 << 3 | 2;
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

    /// Begins the table of another request.
    pub fn clear(&mut self) {
        self.spans.clear();
    }

    /// Adds the symbol that ends at `end` in the request.
    pub fn push(&mut self, end: usize, symbol: &[u8]) -> Result<(), WireError> {
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
    /// Whether that says something.
    pub is_described: bool,
}

/// A series that is what senders send: short packed references, one short sample, and metadata that says nothing, as
/// Prometheus writes it when it knows none, or none.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// The message from the references on.
    pub from_refs: &'a [u8],
    /// Size of the references, bytes.
    pub refs_len: usize,
    /// The sample's message.
    sample: &'a [u8],
    /// Whether metadata comes with it.
    pub metadata: bool,
}

impl<'a> Plain<'a> {
    /// The series that `message` is, if it is such a one.
    #[inline(always)]
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let [0x0a, length @ ..0x80, from_refs @ ..] = message else { return None };
        let refs_len = usize::from(*length);
        let (_, [0x12, length @ ..0x80, behind @ ..]) = from_refs.split_at_checked(refs_len)? else {
            return None;
        };
        let (sample, rest) = behind.split_at_checked(usize::from(*length))?;
        let metadata = match rest {
            [] => false,
            [0x2a, 0] => true,
            _ => return None,
        };
        Some(Plain { from_refs, refs_len, sample, metadata })
    }

    /// The references as they are written.
    #[inline]
    pub fn refs(&self) -> &'a [u8] {
        &self.from_refs[..self.refs_len]
    }
}

/// A field of the request that means something.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A symbol, and where it ends in the request.
    Symbol(usize, &'a [u8]),
    /// A series, and where it ends in the request.
    Series(usize, Series<'a>),
}

/// What is done with the parts of a request, in order, until there is an error.
pub trait Visit<'a> {
    /// A plain series: its message, and where that ends in the request.
    fn plain(&mut self, end: usize, message: &'a [u8], series: Plain<'a>) -> Result<(), WireError>;
    /// Any other part.
    fn part(&mut self, part: Part<'a>) -> Result<(), WireError>;
}

/// Shows every part of a request from offset `from` on.
#[inline(always)]
pub fn visit<'a>(request: &'a [u8], from: usize, visitor: &mut impl Visit<'a>) -> Result<(), WireError> {
    let mut reader = Reader::new(&request[from..], from);
    loop {
        if let Some(message) = reader.short_message(SERIES_KEY) {
            // What nearly every part is goes through registers, which costs less than the check.
            match Plain::read(message) {
                Some(plain) => visitor.plain(reader.offset(), message, plain)?,
                None => visit_series(&reader, message, visitor)?,
            }
            continue;
        }
        if let Some(symbol) = reader.short_message(SYMBOL_KEY) {
            visitor.part(Part::Symbol(reader.offset(), symbol))?;
            continue;
        }
        let Some((number, value)) = reader.field()? else { break };
        match (number, value) {
            (4, Value::Bytes(symbol)) => visitor.part(Part::Symbol(reader.offset(), symbol))?,
            (5, Value::Bytes(message)) => visit_series(&reader, message, visitor)?,
            (4 | 5, _) => return Err(wrong_type(&reader)),
            _ => {} // fields of later versions are skipped, as protobuf asks
        }
    }
    Ok(())
}

fn visit_series<'a>(
    reader: &Reader<'a>,
    message: &'a [u8],
    visitor: &mut impl Visit<'a>,
) -> Result<(), WireError> {
    let end = reader.offset();
    visitor.part(Part::Series(end, Series::parse(message, end - message.len())?))
}

/// Calls `visit` for every part of a request from offset `from` on, in order, until there is an error.
pub fn parts<'a>(
    request: &'a [u8],
    from: usize,
    visit: impl FnMut(Part<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    self::visit(request, from, &mut Each(visit))
}

/// Shows plain series like others.
struct Each<F>(F);

impl<'a, F: FnMut(Part<'a>) -> Result<(), WireError>> Visit<'a> for Each<F> {
    fn plain(&mut self, end: usize, message: &'a [u8], series: Plain<'a>) -> Result<(), WireError> {
        self.part(Part::Series(end, Series::of_plain(message, end - message.len(), &series)))
    }

    fn part(&mut self, part: Part<'a>) -> Result<(), WireError> {
        self.0(part)
    }
}

/// Checks the structure of the whole request without using it and collects its symbol table.
pub fn check(request: &[u8], symbols: &mut Symbols) -> Result<Counts, WireError> {
    symbols.clear();
    let mut counts = Counts::default();
    parts(request, 0, |part| match part {
        Part::Symbol(end, symbol) => symbols.push(end, symbol),
        Part::Series(_, series) => {
            series.count(&mut counts);
            Ok(())
        }
    })?;
    Ok(counts)
}

/// Calls `visit` for every series of a request that has been checked, in order.
pub fn walk<'a>(request: &'a [u8], mut visit: impl FnMut(Series<'a>)) -> Result<(), WireError> {
    parts(request, 0, |part| {
        if let Part::Series(_, series) = part {
            visit(series);
        }
        Ok(())
    })
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
    /// The series that `message`, at offset `base` of its request, is, if it is what senders send.
    ///
    /// Results as large as those of [`Series::parse`] go through memory, which costs more than the check.
    #[inline(always)]
    pub fn plain(message: &'a [u8], base: usize) -> Option<Self> {
        Some(Series::of_plain(message, base, &Plain::read(message)?))
    }

    #[inline(always)]
    fn of_plain(message: &'a [u8], base: usize, plain: &Plain<'a>) -> Self {
        let (packed_refs, refs_end) = (Some(plain.refs()), 2 + plain.refs_len);
        let metadata = plain.metadata;
        Series { packed_refs, refs_end, samples: 1, metadata, ..Series::new(message, base) }
    }

    #[inline(always)]
    fn new(message: &'a [u8], base: usize) -> Self {
        let (packed_refs, refs_end) = (None, 0);
        let (samples, exemplars, histograms, metadata) = (0, 0, 0, false);
        let is_described = false;
        Series {
            message,
            base,
            packed_refs,
            refs_end,
            samples,
            exemplars,
            histograms,
            metadata,
            is_described,
        }
    }

    /// Reads the fields of any series.
    #[inline(never)]
    pub fn parse(message: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut series = Series::new(message, base);
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
                (5, Value::Bytes(metadata)) => {
                    series.metadata = true;
                    series.is_described |= !metadata.is_empty();
                }
                (1..=5, _) => return Err(wrong_type(&reader)),
                _ => {}
            }
        }
        if runs > 1 {
            series.packed_refs = None;
        }
        Ok(series)
    }

    /// Size of the message, bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a size, not a collection")]
    pub fn len(&self) -> usize {
        self.message.len()
    }

    /// The references as they are written, where they are one packed run.
    #[inline]
    pub fn packed_refs(&self) -> Option<&'a [u8]> {
        self.packed_refs
    }

    /// Adds what the series carries.
    #[inline]
    pub fn count(&self, counts: &mut Counts) {
        counts.series += 1;
        counts.samples += u64::from(self.samples);
        counts.exemplars += u64::from(self.exemplars);
        counts.histograms += u64::from(self.histograms);
        counts.metadata += u64::from(self.metadata);
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

    /// The float sample, where there is one alone in the form that senders write.
    #[inline]
    pub fn plain_sample(&self) -> Option<(TimeMs, f64)> {
        plain_sample(Plain::read(self.message)?.sample)
    }

    /// Float samples in the sender's order.
    pub fn samples(&self) -> impl Iterator<Item = Result<(TimeMs, f64), WireError>> + use<'a> {
        // Senders write the references first, so the walk can start behind them.
        let from = match self.message {
            [0x0a, length @ ..0x80, ..] => 2 + usize::from(*length),
            _ => 0,
        };
        let behind = Reader::new(&self.message[from..], self.base + from);
        messages(behind, 2).map(|sample| {
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
