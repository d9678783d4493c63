//! Prometheus's XOR chunk: time stamps and values of one float series as a string of bits.
//!
//! ```text
//! chunk   = count (16 bits, big endian), sample 1, sample 2, ...
//! first   = zigzag varint of the time, 64 bits of the value
//! second  = varint of the time's delta, XOR of the value
//! further = delta of the delta: 0 | 10 + 14 | 110 + 17 | 1110 + 20 | 1111 + 64 bits, XOR of the value
//! XOR     = 0: same | 10: within the last window | 11 + 5 bits leading zeros + 6 bits length (0 is 64)
//! ```
//!
//! It is what remote-read streams, so what is recorded is kept in this form and sent as it is.

use crate::units::TimeMs;

/// Bytes of the count at the beginning.
const HEADER_BYTES: usize = 2;
/// Bytes by which a chunk's memory grows: it stays short, so doubling would waste much of it.
const GROWTH_BYTES: usize = 32;
/// Widths of a delta of deltas, with the length of the prefix of ones before them.
const DELTA_WIDTHS: [(u32, u32); 3] = [(1, 14), (2, 17), (3, 20)];
/// Most leading zeros that 5 bits can tell.
const LEADING_MAX: u32 = 31;

/// A chunk that grows.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    /// Bits of the last byte that are not used.
    free: u32,
    count: u16,
    first: i64,
    time: i64,
    delta: u64,
    value: u64,
    /// Zeros before and behind the bits of the last window; none yet when both are 64.
    window: Option<(u32, u32)>,
}

impl Encoder {
    /// Samples so far.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Times of the first and the last sample; `None` when there is none.
    pub fn span(&self) -> Option<(TimeMs, TimeMs)> {
        (self.count > 0).then_some((TimeMs(self.first), TimeMs(self.time)))
    }

    /// Memory in use, bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The chunk as it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a sample. Its time must lie after the last one's, and the chunk hold less than 65,535.
    pub fn push(&mut self, time: TimeMs, value: f64) {
        let bits = value.to_bits();
        match self.count {
            0 => {
                self.bytes.reserve_exact(GROWTH_BYTES);
                self.bytes.extend([0; HEADER_BYTES]);
                self.first = time.0;
                self.varint(((time.0 << 1) ^ (time.0 >> 63)) as u64);
                self.bits(bits, 64);
            }
            1 => {
                self.delta = time.0.wrapping_sub(self.time) as u64;
                self.varint(self.delta);
                self.xor(bits);
            }
            _ => {
                let delta = time.0.wrapping_sub(self.time) as u64;
                self.delta_of_delta(delta.wrapping_sub(self.delta) as i64);
                self.delta = delta;
                self.xor(bits);
            }
        }
        (self.time, self.value) = (time.0, bits);
        self.count += 1;
        self.bytes[..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
    }

    fn delta_of_delta(&mut self, change: i64) {
        if change == 0 {
            return self.bits(0, 1);
        }
        for (ones, width) in DELTA_WIDTHS {
            let most = 1_i64 << (width - 1);
            if (1 - most..=most).contains(&change) {
                self.bits(((1 << ones) - 1) << 1, ones + 1);
                return self.bits(change as u64, width);
            }
        }
        self.bits(0b1111, 4);
        self.bits(change as u64, 64);
    }

    fn xor(&mut self, bits: u64) {
        let change = bits ^ self.value;
        if change == 0 {
            return self.bits(0, 1);
        }
        let (leading, trailing) = (change.leading_zeros().min(LEADING_MAX), change.trailing_zeros());
        if let Some((before, behind)) = self.window
            && leading >= before
            && trailing >= behind
        {
            self.bits(0b10, 2);
            return self.bits(change >> behind, 64 - before - behind);
        }
        self.window = Some((leading, trailing));
        let length = 64 - leading - trailing;
        self.bits(0b11, 2);
        self.bits(u64::from(leading), 5);
        self.bits(u64::from(length & 63), 6);
        self.bits(change >> trailing, length);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bits(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.bits(value, 8);
    }

    /// Appends the lowest `width` bits, the highest of them first.
    fn bits(&mut self, value: u64, width: u32) {
        let mut left = width;
        while left > 0 {
            if self.free == 0 {
                if self.bytes.len() == self.bytes.capacity() {
                    self.bytes.reserve_exact(GROWTH_BYTES);
                }
                self.bytes.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let part = (value >> (left - take)) & ((1 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (part << (self.free - take)) as u8;
            }
            self.free -= take;
            left -= take;
        }
    }
}

/// Why a chunk cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XorError {
    /// Fewer bits than the samples that it announces need.
    #[error("the chunk ends within a sample")]
    Truncated,
    /// A window of more than 64 bits, or a varint of more than 64.
    #[error("the chunk holds an impossible number")]
    Impossible,
}

/// The samples of a chunk, oldest first. Ends at the first error.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    /// Position, in bits.
    at: usize,
    left: u16,
    read: u16,
    time: i64,
    delta: u64,
    value: u64,
    window: (u32, u32),
}

impl<'a> Decoder<'a> {
    /// Reads `bytes`, which may come from anywhere.
    pub fn new(bytes: &'a [u8]) -> Self {
        let left = bytes.first_chunk().map_or(0, |count| u16::from_be_bytes(*count));
        let (read, time, delta, value, window) = (0, 0, 0, 0, (0, 0));
        Decoder { bytes, at: 8 * HEADER_BYTES, left, read, time, delta, value, window }
    }

    fn sample(&mut self) -> Result<(TimeMs, f64), XorError> {
        match self.read {
            0 => {
                let zigzag = self.varint()?;
                self.time = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
                self.value = self.bits(64)?;
            }
            1 => {
                self.delta = self.varint()?;
                self.time = self.time.wrapping_add(self.delta as i64);
                self.xor()?;
            }
            _ => {
                self.delta = self.delta.wrapping_add(self.delta_of_delta()?);
                self.time = self.time.wrapping_add(self.delta as i64);
                self.xor()?;
            }
        }
        self.read = self.read.saturating_add(1);
        Ok((TimeMs(self.time), f64::from_bits(self.value)))
    }

    fn delta_of_delta(&mut self) -> Result<u64, XorError> {
        if self.bits(1)? == 0 {
            return Ok(0);
        }
        for (_, width) in DELTA_WIDTHS {
            if self.bits(1)? == 0 {
                let bits = self.bits(width)?;
                let is_negative = bits > 1 << (width - 1);
                return Ok(if is_negative { bits.wrapping_sub(1 << width) } else { bits });
            }
        }
        self.bits(64)
    }

    fn xor(&mut self) -> Result<(), XorError> {
        if self.bits(1)? == 0 {
            return Ok(());
        }
        if self.bits(1)? == 1 {
            let leading = self.bits(5)? as u32;
            let length = match self.bits(6)? as u32 {
                0 => 64,
                length => length,
            };
            let trailing = 64_u32.checked_sub(leading + length).ok_or(XorError::Impossible)?;
            self.window = (leading, trailing);
        }
        let (leading, trailing) = self.window;
        self.value ^= self.bits(64 - leading - trailing)? << trailing;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, XorError> {
        let mut value = 0;
        for shift in 0..10 {
            let byte = self.bits(8)?;
            if shift == 9 && byte > 1 {
                return Err(XorError::Impossible);
            }
            value |= (byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(XorError::Impossible)
    }

    fn bits(&mut self, width: u32) -> Result<u64, XorError> {
        let mut value = 0_u64;
        let mut left = width;
        while left > 0 {
            let byte = *self.bytes.get(self.at / 8).ok_or(XorError::Truncated)?;
            let rest = 8 - (self.at % 8) as u32;
            let take = left.min(rest);
            let part = (u64::from(byte) >> (rest - take)) & ((1 << take) - 1);
            value = value << take | part;
            self.at += take as usize;
            left -= take;
        }
        Ok(value)
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<(TimeMs, f64), XorError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let sample = self.sample();
        if sample.is_err() {
            self.left = 0;
        }
        Some(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(bytes: &[u8]) -> Vec<(i64, u64)> {
        let samples = Decoder::new(bytes).map(|sample| sample.expect("the chunk is whole"));
        samples.map(|(time, value)| (time.0, value.to_bits())).collect()
    }

    #[test]
    fn equal_values_at_equal_steps_take_two_bits() {
        let mut chunk = Encoder::default();
        (0..242).for_each(|step| chunk.push(TimeMs(1_700_000_000_000 + step * 15_000), 3.0));
        // Count, first sample (6 bytes of time, 8 of value), second delta and a bit; then 240 samples.
        assert!(chunk.bytes().len() <= 2 + 14 + 2 + 1 + 60, "{} bytes", chunk.bytes().len());
        assert_eq!(decoded(chunk.bytes()).len(), 242);
    }

    fn step() -> impl Strategy<Value = i64> {
        let edges = [1, 15_000, 15_001, 23_191, 23_192, 23_193, 80_536, 539_288, 539_289, i64::MAX / 4];
        prop_oneof![8 => 1..40_000_i64, 2 => Just(15_000), 2 => prop::sample::select(edges.to_vec())]
    }

    fn value() -> impl Strategy<Value = f64> {
        let special = [0.0, -0.0, 1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX];
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            (0..20_u32).prop_map(f64::from),
            prop::sample::select(special.to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn samples_come_back_to_the_last_bit(
            start in -1_000_000_000_000..4_000_000_000_000_i64,
            samples in prop::collection::vec((step(), value()), 0..150),
        ) {
            let mut chunk = Encoder::default();
            let mut time = start;
            let mut all = Vec::new();
            for (step, value) in samples {
                time = time.saturating_add(step);
                if all.last().is_some_and(|(last, _)| *last >= time) {
                    break;
                }
                chunk.push(TimeMs(time), value);
                all.push((time, value.to_bits()));
                prop_assert_eq!(decoded(chunk.bytes()), all.clone());
            }
            let whole = chunk.bytes();
            for cut in 0..whole.len() {
                prop_assert!(Decoder::new(&whole[..cut]).count() <= all.len());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Decoder::new(&bytes).count();
        }
    }
}
