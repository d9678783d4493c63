//! Native histograms: judged by the rules of the data model, and not used.
//!
//! Input: one `Histogram` message, the same in 1.0 and 2.0. Output: a verdict. Whether it counts in
//! integers or floats is told by the member of its `count` that is set. Nothing is allocated.

use super::proto::{Reader, Value};
use super::{WireError, is_stale_marker, wrong_type};

/// Schemas with exponential buckets. Above 8 a receiver may merge buckets, so they are valid too.
const EXPONENTIAL: std::ops::RangeInclusive<i32> = -4..=52;
/// Schema whose buckets are given by their bounds.
const CUSTOM: i32 = -53;

/// Why a histogram is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// The message is broken.
    #[error(transparent)]
    Broken(#[from] WireError),
    /// It breaks a rule of the data model.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Judges one histogram.
pub fn check(message: &[u8], base: usize) -> Result<(), HistogramError> {
    let mut histogram = Histogram::default();
    let mut reader = Reader::new(message, base);
    while let Some((number, value)) = reader.field()? {
        histogram.field(number, value, &reader)?;
    }
    histogram.verdict().map_err(HistogramError::Invalid)
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Int(u64),
    Float(f64),
}

impl Default for Number {
    fn default() -> Self {
        Number::Int(0)
    }
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Int(count) => count as f64,
            Number::Float(count) => count,
        }
    }
}

/// Sums over one side's spans and buckets; integer and float lists apart, as only one of them counts.
#[derive(Debug, Default)]
struct Side {
    spans: u64,
    span_buckets: u64,
    /// Buckets from the first to the last, gaps included.
    extent: i128,
    gap_is_negative: bool,
    starts_below_zero: bool,
    deltas: u64,
    /// Of the integer bucket read last.
    current: i128,
    total: i128,
    counts: u64,
    negative_int: bool,
    negative_float: bool,
}

impl Side {
    fn span(&mut self, message: &[u8], base: usize) -> Result<(), WireError> {
        let (mut offset, mut length) = (0, 0);
        let mut reader = Reader::new(message, base);
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Value::Varint(bits)) => offset = signed_32(bits),
                (2, Value::Varint(bits)) => length = bits as u32,
                (1 | 2, _) => return Err(wrong_type(&reader)),
                _ => {}
            }
        }
        self.gap_is_negative |= self.spans > 0 && offset < 0;
        self.starts_below_zero |= self.spans == 0 && offset < 0;
        self.spans += 1;
        self.span_buckets += u64::from(length);
        self.extent += i128::from(offset) + i128::from(length);
        Ok(())
    }

    fn delta(&mut self, bits: u64) {
        self.deltas += 1;
        self.current += i128::from((bits >> 1) as i64 ^ -((bits & 1) as i64));
        self.negative_int |= self.current < 0;
        self.total += self.current;
    }

    fn count(&mut self, count: f64) {
        self.counts += 1;
        self.negative_float |= count < 0.0;
    }

    fn verdict(&self, float: bool) -> Result<(), &'static str> {
        let (buckets, negative) =
            if float { (self.counts, self.negative_float) } else { (self.deltas, self.negative_int) };
        if self.gap_is_negative {
            return Err("spans overlap");
        }
        if self.span_buckets != buckets {
            return Err("spans do not cover exactly the buckets");
        }
        if negative { Err("a bucket counts less than nothing") } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Histogram {
    count: Number,
    zero_count: Number,
    sum: f64,
    schema: i32,
    zero_threshold: f64,
    negative: Side,
    positive: Side,
    bounds: u64,
    last_bound: f64,
    bounds_do_not_rise: bool,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            count: Number::default(),
            zero_count: Number::default(),
            sum: 0.0,
            schema: 0,
            zero_threshold: 0.0,
            negative: Side::default(),
            positive: Side::default(),
            bounds: 0,
            last_bound: f64::NEG_INFINITY,
            bounds_do_not_rise: false,
        }
    }
}

impl Histogram {
    fn field(&mut self, number: u32, value: Value<'_>, reader: &Reader<'_>) -> Result<(), WireError> {
        let base = |bytes: &[u8]| reader.offset() - bytes.len();
        match (number, value) {
            (1, Value::Varint(bits)) => self.count = Number::Int(bits),
            (2, Value::Fixed64(bits)) => self.count = Number::Float(f64::from_bits(bits)),
            (3, Value::Fixed64(bits)) => self.sum = f64::from_bits(bits),
            (4, Value::Varint(bits)) => self.schema = signed_32(bits),
            (5, Value::Fixed64(bits)) => self.zero_threshold = f64::from_bits(bits),
            (6, Value::Varint(bits)) => self.zero_count = Number::Int(bits),
            (7, Value::Fixed64(bits)) => self.zero_count = Number::Float(f64::from_bits(bits)),
            (8, Value::Bytes(span)) => self.negative.span(span, base(span))?,
            (11, Value::Bytes(span)) => self.positive.span(span, base(span))?,
            (9, value) => varints(value, reader, |bits| self.negative.delta(bits))?,
            (10, value) => floats(value, reader, |count| self.negative.count(count))?,
            (12, value) => varints(value, reader, |bits| self.positive.delta(bits))?,
            (13, value) => floats(value, reader, |count| self.positive.count(count))?,
            (14 | 15, Value::Varint(_)) => {}
            (16, value) => floats(value, reader, |bound| self.bound(bound))?,
            (1..=16, _) => return Err(wrong_type(reader)),
            _ => {}
        }
        Ok(())
    }

    fn bound(&mut self, bound: f64) {
        // Also true of NaN.
        self.bounds_do_not_rise |= bound.is_nan() || bound <= self.last_bound;
        self.bounds += 1;
        self.last_bound = bound;
    }

    fn verdict(&self) -> Result<(), &'static str> {
        if is_stale_marker(self.sum) {
            return Ok(());
        }
        let float = matches!(self.count, Number::Float(_));
        if self.schema == CUSTOM {
            self.custom_verdict()?;
        } else if !EXPONENTIAL.contains(&self.schema) {
            return Err("unknown schema");
        } else if self.bounds > 0 {
            return Err("bounds are given, but the schema has exponential buckets");
        }
        self.negative.verdict(float)?;
        self.positive.verdict(float)?;
        match (self.count, self.zero_count) {
            (Number::Int(count), zero) => {
                let Number::Int(zero) = zero else { return Err("integer count with a float zero count") };
                let buckets = self.negative.total + self.positive.total + i128::from(zero);
                // Observations that are NaN fall into no bucket.
                let fits = if self.sum.is_nan() {
                    buckets <= i128::from(count)
                } else {
                    buckets == i128::from(count)
                };
                if fits { Ok(()) } else { Err("the count is not that of the buckets") }
            }
            // Float buckets are sums of sums: their rounding errors are no fault of the sender.
            (Number::Float(count), zero) if count < 0.0 || zero.float() < 0.0 => {
                Err("it counts less than nothing")
            }
            (Number::Float(_), _) => Ok(()),
        }
    }

    fn custom_verdict(&self) -> Result<(), &'static str> {
        if self.bounds_do_not_rise {
            return Err("custom bounds must rise");
        }
        if self.last_bound == f64::INFINITY {
            return Err("custom bounds must not end in +Inf, which is implied");
        }
        if self.zero_count.float() != 0.0 || self.zero_threshold != 0.0 {
            return Err("custom buckets have no zero bucket");
        }
        if self.negative.spans + self.negative.deltas + self.negative.counts > 0 {
            return Err("custom buckets have no negative side");
        }
        let side = &self.positive;
        if side.starts_below_zero || side.gap_is_negative || side.extent > i128::from(self.bounds) + 1 {
            return Err("spans lie outside the custom bounds");
        }
        Ok(())
    }
}

/// A `sint32`.
fn signed_32(bits: u64) -> i32 {
    let bits = bits as u32;
    (bits >> 1) as i32 ^ -((bits & 1) as i32)
}

/// A repeated varint, packed or not.
fn varints(value: Value<'_>, reader: &Reader<'_>, mut visit: impl FnMut(u64)) -> Result<(), WireError> {
    match value {
        Value::Varint(bits) => visit(bits),
        Value::Bytes(packed) => {
            let mut packed = Reader::new(packed, reader.offset() - packed.len());
            while !packed.is_empty() {
                visit(packed.varint()?);
            }
        }
        _ => return Err(wrong_type(reader)),
    }
    Ok(())
}

/// A repeated double, packed or not.
fn floats(value: Value<'_>, reader: &Reader<'_>, mut visit: impl FnMut(f64)) -> Result<(), WireError> {
    match value {
        Value::Fixed64(bits) => visit(f64::from_bits(bits)),
        Value::Bytes(packed) => {
            let (numbers, rest) = packed.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(reader.error("packed doubles do not fill their field"));
            }
            numbers.iter().for_each(|number| visit(f64::from_le_bytes(*number)));
        }
        _ => return Err(wrong_type(reader)),
    }
    Ok(())
}
