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
use super::{Counts, WireError, parse_sample, wrong_type};
use crate::units::TimeMs;

/// Fields of a `Sample`.
const SAMPLE_FIELDS: u32 = 2;

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
    let mut counts = Counts::default();
    let mut reader = Reader::new(request, 0);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Bytes(message)) => {
                let series = Series::parse(message, reader.offset() - message.len())?;
                counts.series += 1;
                counts.samples += u64::from(series.samples);
                counts.exemplars += u64::from(series.exemplars);
                counts.histograms += u64::from(series.histograms);
                visit(series);
            }
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

impl<'a> Series<'a> {
    fn parse(message: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut series = Series {
            message,
            base,
            labels_end: 0,
            labels_scattered: false,
            samples: 0,
            exemplars: 0,
            histograms: 0,
        };
        let mut reader = Reader::new(message, base);
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

    /// Value of the `__name__` label; `None` when there is none.
    pub fn metric_name(&self) -> Result<Option<&'a [u8]>, WireError> {
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
