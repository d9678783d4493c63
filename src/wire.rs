//! Bytes of a remote-write request to borrowed series.
//!
//! Input: the body of a `POST`. Output: iterators that borrow from the decompressed buffer. Nothing here
//! knows what a series means; nothing is copied or allocated per series.

pub mod histogram;
pub mod proto;
pub mod v1;
pub mod v2;
pub mod xor;

use crate::limits::WRITE_DECODED_MAX_BYTES;
use crate::units::TimeMs;
use proto::{Reader, Value};

/// Version of the protocol, which the content type alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `prometheus.WriteRequest`.
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

/// Counts of what one request carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `TimeSeries` messages.
    pub series: u64,
    /// Float samples.
    pub samples: u64,
    /// Exemplars.
    pub exemplars: u64,
    /// Native histograms.
    pub histograms: u64,
    /// Metadata entries.
    pub metadata: u64,
}

/// Bits of Prometheus's staleness marker, a NaN that says "this series ended here".
pub const STALE_MARKER_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Whether a sample value is the staleness marker (an ordinary NaN is not).
pub fn is_stale_marker(value: f64) -> bool {
    value.to_bits() == STALE_MARKER_BITS
}

/// Why a request body could not be read. The whole request is refused; nothing of it was used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The compressed body exceeds its limit.
    #[error("compressed body of {bytes} bytes exceeds the limit of {limit}; lower max_samples_per_send")]
    CompressedTooLarge {
        /// Size received so far or announced.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// The body announces more decompressed bytes than allowed.
    #[error("body decompresses to {bytes} bytes, over the limit of {limit}; lower max_samples_per_send")]
    DecodedTooLarge {
        /// Announced size.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// The body is not a snappy block.
    #[error("body is not a valid snappy block: {0}")]
    Snappy(String),
    /// The decompressed bytes are not a valid message.
    #[error("invalid protobuf at byte {offset}: {what}")]
    Proto {
        /// Offset in the decompressed message.
        offset: usize,
        /// What was expected or found.
        what: &'static str,
    },
    /// The symbol table does not begin with the empty string.
    #[error("the first symbol must be the empty string")]
    FirstSymbol,
    /// The symbol table is too long.
    #[error("more than {limit} symbols; lower max_samples_per_send")]
    TooManySymbols {
        /// Limit in force.
        limit: usize,
    },
}

/// No snappy block grows by more than this: its densest element makes 64 bytes of 3.
const SNAPPY_RATIO_MAX: usize = 22;

/// Decompresses a snappy block into `buffer`, which only ever grows, and returns the filled part.
///
/// Both sizes are checked before anything is allocated: the announced length is read from the block's
/// header, so a decompression bomb costs nothing.
pub fn decompress<'a>(body: &[u8], buffer: &'a mut Vec<u8>) -> Result<&'a [u8], WireError> {
    decompress_within(body, buffer, WRITE_DECODED_MAX_BYTES)
}

/// The same with another limit for the size before and after, bytes.
pub fn decompress_within<'a>(
    body: &[u8],
    buffer: &'a mut Vec<u8>,
    limit: usize,
) -> Result<&'a [u8], WireError> {
    if body.len() > limit {
        return Err(WireError::CompressedTooLarge { bytes: body.len(), limit });
    }
    let snappy = |error: snap::Error| WireError::Snappy(error.to_string());
    #[allow(clippy::disallowed_methods)] // the one place where the raw functions are wrapped by the caps
    let bytes = snap::raw::decompress_len(body).map_err(snappy)?;
    if bytes > limit {
        return Err(WireError::DecodedTooLarge { bytes, limit });
    }
    if bytes > body.len() * SNAPPY_RATIO_MAX {
        let what = format!("{} bytes cannot hold the {bytes} that they announce", body.len());
        return Err(WireError::Snappy(what));
    }
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    #[allow(clippy::disallowed_methods)]
    let written = snap::raw::Decoder::new().decompress(body, buffer).map_err(snappy)?;
    Ok(&buffer[..written])
}

fn wrong_type(reader: &Reader<'_>) -> WireError {
    WireError::Proto { offset: reader.offset(), what: "field has the wrong wire type" }
}

/// Reads a `Sample`, of which the first `fields` fields are known.
#[inline]
fn parse_sample(sample: &[u8], base: usize, fields: u32) -> Result<(TimeMs, f64), WireError> {
    match plain_sample(sample) {
        Some(plain) => Ok(plain),
        None => parse_any_sample(sample, base, fields),
    }
}

/// A sample as senders write it: the value, unless it is zero, then the time as a varint of up to 8 bytes.
#[inline]
fn plain_sample(sample: &[u8]) -> Option<(TimeMs, f64)> {
    let (value, varint) = match sample {
        [0x09, a, b, c, d, e, f, g, h, 0x10, varint @ ..] => {
            (f64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), varint)
        }
        [0x10, varint @ ..] => (0.0, varint),
        _ => return None,
    };
    let (last, before) = varint.split_last()?;
    if before.len() > 7 || *last >= 0x80 || before.iter().any(|byte| *byte < 0x80) {
        return None;
    }
    let time = varint.iter().rev().fold(0i64, |time, byte| time << 7 | i64::from(byte & 0x7f));
    Some((TimeMs(time), value))
}

fn parse_any_sample(sample: &[u8], base: usize, fields: u32) -> Result<(TimeMs, f64), WireError> {
    let (mut time, mut number) = (0i64, 0f64);
    let mut reader = Reader::new(sample, base);
    while let Some((field, value)) = reader.field()? {
        match (field, value) {
            (1, Value::Fixed64(bits)) => number = f64::from_bits(bits),
            (2, Value::Varint(bits)) => time = bits as i64,
            (3, Value::Varint(_)) => {} // when the counter began
            (1..=3, _) if field <= fields => return Err(wrong_type(&reader)),
            _ => {}
        }
    }
    Ok((TimeMs(time), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decompression_bomb_is_refused_before_allocation() {
        // A varint header that announces 4 GiB - 1, followed by nothing.
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f];
        let mut buffer = Vec::new();
        let error = decompress(&bomb, &mut buffer).unwrap_err();
        assert!(matches!(error, WireError::DecodedTooLarge { .. }), "{error}");
        // 32 MiB are allowed, but seven bytes cannot hold them.
        let bomb = [0x80, 0x80, 0x80, 0x10, 0xfe, 0x01, 0x00];
        let error = decompress(&bomb, &mut buffer).unwrap_err();
        assert!(matches!(error, WireError::Snappy(_)), "{error}");
        assert_eq!(buffer.capacity(), 0);
        let densest = snap::raw::Encoder::new().compress_vec(&vec![0; 32 << 20]).unwrap();
        assert_eq!(decompress(&densest, &mut buffer).map(<[u8]>::len), Ok(32 << 20));
    }

    #[test]
    fn truncated_and_corrupt_snappy_is_an_error() {
        let body = snap::raw::Encoder::new().compress_vec(&[7u8; 1000]).unwrap();
        let mut buffer = Vec::new();
        assert_eq!(decompress(&body, &mut buffer).unwrap(), &[7u8; 1000]);
        for cut in 0..body.len() {
            assert!(decompress(&body[..cut], &mut buffer).is_err(), "cut at {cut}");
        }
        assert!(matches!(decompress(&[0xff; 40], &mut buffer), Err(WireError::Snappy(_))));
    }

    #[test]
    fn an_ordinary_nan_is_not_a_staleness_marker() {
        assert!(is_stale_marker(f64::from_bits(STALE_MARKER_BITS)));
        assert!(!is_stale_marker(f64::NAN));
        assert!(!is_stale_marker(f64::from_bits(0x7ff8_0000_0000_0001)));
    }
}
