//! Remote-write 1.0: walks `prometheus.WriteRequest` in place.
//!
//! ```text
//! WriteRequest { TimeSeries timeseries = 1; MetricMetadata metadata = 3; }
//! TimeSeries   { Label labels = 1; Sample samples = 2; Exemplar exemplars = 3; Histogram histograms = 4; }
//! Label        { string name = 1; string value = 2; }
//! Sample       { double value = 1; int64 timestamp = 2; }
//! ```
//!
//! The structure of every series is checked; the contents of labels and samples only when they are
//! read, so a series that is not ours costs a walk over its field lengths and nothing else.

use super::histogram::{HistogramError, check as check_histogram};
use super::proto::{Reader, Value, messages};
use super::{Counts, WireError, parse_sample, plain_sample, wrong_type};
use crate::limits::WRITE_SERIES_KEPT;
use crate::units::TimeMs;

/// Key of `WriteRequest.timeseries`.
const SERIES_KEY: u8 = 1 << 3 | 2;
/// Fields of a `Sample`.
const SAMPLE_FIELDS: u32 = 2;
/// How the label with the metric's name begins, up to the length of the name.
const NAME_KEY: &[u8] = b"\x0a\x08__name__\x12";

/// One `TimeSeries` message, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    message: &'a [u8],
    /// Offset of `message` in the request.
    base: usize,
    /// End of the leading run of labels within `message`; senders write labels first.
    labels_end: usize,
    /// Labels also occur after other fields, which the format allows.
    labels_scattered: bool,
    /// Number of float samples.
    pub samples: u32,
    /// Number of exemplars.
    pub exemplars: u32,
    /// Number of native histograms.
    pub histograms: u32,
}

/// Calls `visit` for every series of the request, in order.
///
/// # Errors
/// The first structural error ends the walk; series visited before it have been visited.
pub fn walk<'a>(request: &'a [u8], mut visit: impl FnMut(Series<'a>)) -> Result<Counts, WireError> {
    walk_from(request, 0, &mut visit)
}

/// As [`walk`], from the field that begins at `offset`.
fn walk_from<'a>(
    request: &'a [u8],
    offset: usize,
    mut visit: impl FnMut(Series<'a>),
) -> Result<Counts, WireError> {
    let mut counts = Counts::default();
    let mut reader = Reader::new(&request[offset..], offset);
    let mut take = |message: &'a [u8], end: usize, counts: &mut Counts| -> Result<(), WireError> {
        let base = end - message.len();
        let series = match Series::plain(message, base) {
            Some(series) => series,
            None => Series::parse_fields(message, base)?,
        };
        counts.series += 1;
        counts.samples += u64::from(series.samples);
        counts.exemplars += u64::from(series.exemplars);
        counts.histograms += u64::from(series.histograms);
        visit(series);
        Ok(())
    };
    loop {
        if let Some(message) = reader.short_message(SERIES_KEY) {
            take(message, reader.offset(), &mut counts)?;
            continue;
        }
        let Some((number, value)) = reader.field()? else { break };
        match (number, value) {
            (1, Value::Bytes(message)) => take(message, reader.offset(), &mut counts)?,
            (3, Value::Bytes(_)) => counts.metadata += 1,
            (1 | 3, _) => return Err(wrong_type(&reader)),
            _ => {} // fields of later versions are skipped, as protobuf asks
        }
    }
    Ok(counts)
}

/// Checks the structure of the whole request without using it, so that a request is either refused
/// untouched or walked to its end.
pub fn check(request: &[u8]) -> Result<Counts, WireError> {
    walk(request, |_| {})
}

/// Where the series of a request are that matter, each with what is known of it; reused from request to request.
#[derive(Debug)]
pub struct Kept<T> {
    series: Vec<(Place, T)>,
    /// Where the part begins whose series were not looked at for want of room.
    rest: usize,
}

/// A series without the request that it is part of; a decoded request is far below 4 GiB.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    end: u32,
    labels_end: u32,
    samples: u32,
    exemplars: u32,
    histograms: u32,
    labels_scattered: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept { series: Vec::new(), rest: 0 }
    }
}

impl<T: Copy> Kept<T> {
    /// As [`check`], and remembers the series for which `wanted` has an answer, so that a request of which little
    /// matters is walked once. What is remembered is bounded; the rest of a request with more is walked again.
    pub fn read<'a>(
        &mut self,
        request: &'a [u8],
        mut wanted: impl FnMut(&Series<'a>) -> Option<T>,
    ) -> Result<Counts, WireError> {
        self.series.clear();
        self.rest = 0;
        walk(request, |series| {
            if self.series.len() == WRITE_SERIES_KEPT {
                return;
            }
            self.rest = series.base + series.message.len();
            if let Some(known) = wanted(&series) {
                self.series.push((series.place(), known));
            }
        })
    }

    /// Calls `visit` for every series of the request that was wanted, with what is known of it, or not looked at,
    /// in order.
    pub fn visit<'a>(
        &self,
        request: &'a [u8],
        mut visit: impl FnMut(&Series<'a>, Option<T>),
    ) -> Result<(), WireError> {
        for (place, known) in &self.series {
            visit(&Series::at(request, place), Some(*known));
        }
        if self.series.len() == WRITE_SERIES_KEPT {
            walk_from(request, self.rest, |series| visit(&series, None))?;
        }
        Ok(())
    }
}

impl<'a> Series<'a> {
    /// The series, if it is what senders send: short labels, and one short sample behind them.
    ///
    /// Results as large as those of [`Series::parse_fields`] go through memory, which costs more than the check.
    #[inline(always)]
    fn plain(message: &'a [u8], base: usize) -> Option<Self> {
        let labels_end = short_labels_end(message);
        let is_plain = only_sample(message, labels_end).is_some();
        is_plain.then_some(Series { samples: 1, ..Series::new(message, base, labels_end) })
    }

    #[inline(always)]
    fn new(message: &'a [u8], base: usize, labels_end: usize) -> Self {
        let (labels_scattered, samples, exemplars, histograms) = (false, 0, 0, 0);
        Series { message, base, labels_end, labels_scattered, samples, exemplars, histograms }
    }

    /// Reads the fields of any series.
    #[inline(never)]
    fn parse_fields(message: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut series = Series::new(message, base, short_labels_end(message));
        let mut reader = Reader::new(&message[series.labels_end..], base + series.labels_end);
        let mut leading = true;
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Value::Bytes(_)) if leading => series.labels_end = reader.offset() - base,
                (1, Value::Bytes(_)) => series.labels_scattered = true,
                (2, Value::Bytes(_)) => series.samples += 1,
                (3, Value::Bytes(_)) => series.exemplars += 1,
                (4, Value::Bytes(_)) => series.histograms += 1,
                (1..=4, _) => return Err(wrong_type(&reader)),
                _ => {}
            }
            leading &= number == 1;
        }
        Ok(series)
    }

    fn place(&self) -> Place {
        Place {
            start: self.base as u32,
            end: (self.base + self.message.len()) as u32,
            labels_end: self.labels_end as u32,
            samples: self.samples,
            exemplars: self.exemplars,
            histograms: self.histograms,
            labels_scattered: self.labels_scattered,
        }
    }

    fn at(request: &'a [u8], place: &Place) -> Self {
        Series {
            message: &request[place.start as usize..place.end as usize],
            base: place.start as usize,
            labels_end: place.labels_end as usize,
            labels_scattered: place.labels_scattered,
            samples: place.samples,
            exemplars: place.exemplars,
            histograms: place.histograms,
        }
    }

    /// The bytes of the leading labels: equal bytes mean equal labels in equal order.
    /// `None` when labels are scattered over the message, so that these bytes are not all of them.
    pub fn label_bytes(&self) -> Option<&'a [u8]> {
        (!self.labels_scattered).then(|| &self.message[..self.labels_end])
    }

    /// Labels as (name, value) byte strings in the sender's order.
    pub fn labels(&self) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), WireError>> + use<'a> {
        messages(Reader::new(self.message, self.base), 1).map(|label| {
            let (label, base) = label?;
            parse_label(label, base)
        })
    }

    /// As [`Series::label_bytes`], without the label with the metric's name, when that comes first.
    #[inline]
    pub fn label_bytes_behind_name(&self) -> Option<&'a [u8]> {
        let (_, end) = self.leading_name().filter(|_| !self.labels_scattered)?;
        self.message.get(end..self.labels_end)
    }

    /// Value and end of the `__name__` label where it comes first and is short.
    #[inline]
    fn leading_name(&self) -> Option<(&'a [u8], usize)> {
        let (&[key, label_length], rest) = self.message.split_first_chunk::<2>()?;
        if key != 0x0a || label_length >= 0x80 {
            return None;
        }
        let label = rest.get(..usize::from(label_length))?;
        let (&[length], name) = label.strip_prefix(NAME_KEY)?.split_first_chunk::<1>()?;
        (usize::from(length) == name.len()).then_some((name, 2 + label.len()))
    }

    /// Value of the `__name__` label; `None` when there is none.
    #[inline]
    pub fn metric_name(&self) -> Result<Option<&'a [u8]>, WireError> {
        // Senders sort labels, so the name comes first as good as always.
        match self.leading_name() {
            Some((name, _)) => Ok(Some(name)),
            None => self.find_metric_name(),
        }
    }

    fn find_metric_name(&self) -> Result<Option<&'a [u8]>, WireError> {
        for label in self.labels() {
            let (name, value) = label?;
            if name == b"__name__" {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Judges every native histogram of the series.
    pub fn histograms(&self) -> impl Iterator<Item = Result<(), HistogramError>> + use<'a> {
        messages(Reader::new(self.message, self.base), 4).map(|histogram| {
            let (histogram, base) = histogram?;
            check_histogram(histogram, base)
        })
    }

    /// The float sample, where there is one alone in the form that senders write.
    #[inline]
    pub fn plain_sample(&self) -> Option<(TimeMs, f64)> {
        plain_sample(only_sample(self.message, self.labels_end)?)
    }

    /// Float samples in the sender's order.
    pub fn samples(&self) -> impl Iterator<Item = Result<(TimeMs, f64), WireError>> + use<'a> {
        // Labels come first, so the walk can start behind them.
        let behind = Reader::new(&self.message[self.labels_end..], self.base + self.labels_end);
        messages(behind, 2).map(|sample| {
            let (sample, base) = sample?;
            parse_sample(sample, base, SAMPLE_FIELDS)
        })
    }
}

/// The sample, where it is all there is behind the labels.
#[inline(always)]
fn only_sample(message: &[u8], labels_end: usize) -> Option<&[u8]> {
    match message.get(labels_end..)? {
        [0x12, length @ ..0x80, sample @ ..] if sample.len() == usize::from(*length) => Some(sample),
        _ => None,
    }
}

/// End of the leading labels that are shorter than 128 bytes, as nearly all are.
#[inline]
fn short_labels_end(message: &[u8]) -> usize {
    let mut rest = message;
    while let Some((&[0x0a, length], behind)) = rest.split_first_chunk::<2>()
        && length < 0x80
        && let Some(behind) = behind.get(usize::from(length)..)
    {
        rest = behind;
    }
    message.len() - rest.len()
}

#[inline]
fn parse_label(label: &[u8], base: usize) -> Result<(&[u8], &[u8]), WireError> {
    let (mut name, mut text): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader::new(label, base);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => name = bytes,
            (2, Value::Bytes(bytes)) => text = bytes,
            (1 | 2, _) => return Err(wrong_type(&reader)),
            _ => {}
        }
    }
    Ok((name, text))
}
