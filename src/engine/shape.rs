//! How the packed label references of one 2.0 series differ from those of another: senders write the series of a
//! pod one after the other, so that as good as always one reference differs, the metric's or a bucket's bound.

/// Most bytes of references that are compared; longer ones are read one by one.
const BYTES_MAX: usize = 64;

/// Bytes of references that are compared at once.
const AT_ONCE: usize = 32;

/// References of up to [`AT_ONCE`] bytes, the first byte lowest.
type Words = [u64; AT_ONCE / 8];

/// References of a series without fault, as they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape<'a> {
    packed: &'a [u8],
    /// The references in words, where they are few enough to be compared at once.
    words: Option<Words>,
    /// The bits that are compared: those of the references.
    compared: Words,
    /// The bits in which others may differ that are values and as wide.
    may_differ: Words,
    /// Bit `n` is set when a label's value begins at byte `n`.
    values: u64,
    /// Where the reference of the metric's name begins.
    metric_at: usize,
    /// The reference of the metric's name.
    pub metric: u32,
}

/// How the references of a series differ from a [`Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    /// Not at all.
    Nothing,
    /// Only in the metric's name, which is this.
    Metric(u32),
    /// Only in one label's value, which is this.
    Value(u32),
    /// In the values of several labels, of which one may be the metric's name.
    Several {
        /// The metric's name.
        metric: u32,
        /// The largest of those that differ.
        largest: u32,
    },
    /// In more.
    Much,
}

impl<'a> Shape<'a> {
    /// The shape of `packed`, which are `refs`, with that of the metric's name at index `metric`.
    pub fn of(packed: &'a [u8], refs: &[u32], metric: usize) -> Self {
        let ends = packed.iter().filter(|byte| **byte < 0x80).count();
        if packed.len() > BYTES_MAX || ends != refs.len() {
            return Shape::default();
        }
        let metric_at = BYTES_MAX;
        let mut shape = Shape { packed, metric_at, metric: refs[metric], ..Shape::default() };
        let (mut index, mut begins) = (0, true);
        for (at, byte) in packed.iter().enumerate() {
            if begins && index % 2 == 1 {
                shape.values |= 1 << at;
                if index == metric {
                    shape.metric_at = at;
                }
            }
            begins = *byte < 0x80;
            index += usize::from(begins);
        }
        shape.compare_at_once();
        shape
    }

    fn compare_at_once(&mut self) {
        let (mut own, mut may_differ) = ([0; AT_ONCE], [0; AT_ONCE]);
        let Some(bytes) = own.get_mut(..self.packed.len()) else { return };
        bytes.copy_from_slice(self.packed);
        for at in (0..self.packed.len()).filter(|at| self.values >> at & 1 == 1) {
            match &self.packed[at..] {
                [..0x80, ..] => may_differ[at] = 0x7f,
                [_, ..0x80, ..] => may_differ[at..at + 2].fill(0x7f),
                _ => {} // wider ones are compared one by one
            }
        }
        let mut compared = [0; AT_ONCE];
        compared[..self.packed.len()].fill(u8::MAX);
        (self.compared, self.may_differ) = (words(&compared), words(&may_differ));
        self.words = Some(words(&own));
    }

    /// The metric's name among references that differ from these in values alone, all of them below `symbols`, and in
    /// how many; `None` where that is not easily told. The references are the first `len` bytes of `from_refs`.
    #[inline(always)]
    pub fn metric_of(&self, from_refs: &[u8], len: usize, symbols: usize) -> Option<(u32, u32)> {
        let chunk = from_refs.first_chunk::<AT_ONCE>().filter(|_| len == self.packed.len())?;
        let own = self.words.as_ref()?;
        let (mut metric, mut count) = (self.metric, 0);
        for (index, word) in words(chunk).into_iter().enumerate() {
            let mut differ = (word ^ own[index]) & self.compared[index];
            if differ & !self.may_differ[index] != 0 {
                return None;
            }
            while differ != 0 {
                let at = 8 * index + differ.trailing_zeros() as usize / 8;
                let at = at - usize::from(at > 0 && chunk[at - 1] >= 0x80);
                let (low, high) = (chunk[at], *chunk.get(at + 1)?);
                let (reference, end) = match low < 0x80 {
                    true => (u32::from(low), at + 1),
                    false => (u32::from(low & 0x7f) | u32::from(high) << 7, at + 2),
                };
                if reference as usize >= symbols {
                    return None;
                }
                if at == self.metric_at {
                    metric = reference;
                }
                count += 1;
                // A reference over the end of a word is seen again in the next one.
                differ &= u64::MAX.checked_shl(8 * (end - 8 * index) as u32).unwrap_or(0);
            }
        }
        Some((metric, count))
    }

    /// Compares other references with these.
    #[inline]
    pub fn differs(&self, packed: &[u8]) -> Differs {
        if packed.len() != self.packed.len() || packed.is_empty() {
            return Differs::Much;
        }
        let (mut found, mut end) = (Differs::Nothing, 0);
        while let Some(behind) = first_difference(&packed[end..], &self.packed[end..]) {
            let mut at = end + behind;
            if at > 0 && packed[at - 1] >= 0x80 {
                at -= 1;
            }
            // Only references of one and two bytes, both as long, are compared further.
            let (reference, width) = match (&packed[at..], &self.packed[at..]) {
                ([low @ ..0x80, ..], [..0x80, ..]) => (u32::from(*low), 1),
                ([low, high @ ..0x80, ..], [other, ..0x80, ..]) if *low.min(other) >= 0x80 => {
                    (u32::from(low & 0x7f) | u32::from(*high) << 7, 2)
                }
                _ => return Differs::Much,
            };
            if self.values >> at & 1 == 0 {
                return Differs::Much;
            }
            found = self.also(found, reference, at == self.metric_at);
            end = at + width;
        }
        found
    }

    /// What was found so far, and one more value.
    #[inline]
    fn also(&self, found: Differs, reference: u32, is_metric: bool) -> Differs {
        let (metric, largest) = match found {
            Differs::Nothing if is_metric => return Differs::Metric(reference),
            Differs::Nothing => return Differs::Value(reference),
            Differs::Metric(metric) => (metric, metric),
            Differs::Value(value) => (self.metric, value),
            Differs::Several { metric, largest } => (metric, largest),
            Differs::Much => return Differs::Much,
        };
        let metric = if is_metric { reference } else { metric };
        Differs::Several { metric, largest: largest.max(reference) }
    }

    /// The shape of references that differ from these in values alone, with their metric's name. `from_refs` begins with
    /// them.
    #[inline]
    pub fn with(mut self, packed: &'a [u8], from_refs: &[u8], metric: u32) -> Self {
        (self.packed, self.metric) = (packed, metric);
        match from_refs.first_chunk::<AT_ONCE>() {
            Some(chunk) if self.words.is_some() => self.words = Some(words(chunk)),
            _ => self.compare_at_once(),
        }
        self
    }
}

#[inline(always)]
fn words(bytes: &[u8; AT_ONCE]) -> Words {
    let chunks = bytes.as_chunks::<8>().0;
    std::array::from_fn(|index| u64::from_le_bytes(chunks[index]))
}

/// Where two equally long texts begin to differ.
#[inline]
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let (ones, one_rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    for (index, (a, b)) in ones.iter().zip(others).enumerate() {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return Some(index * 8 + differ.trailing_zeros() as usize / 8);
        }
    }
    let at = one_rest.iter().zip(other_rest).position(|(a, b)| a != b)?;
    Some(ones.len() * 8 + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `__name__`, a metric, and two labels, of which one has a value beyond 127.
    const REFS: [u32; 6] = [1, 2, 3, 300, 5, 6];
    const PACKED: [u8; 7] = [1, 2, 3, 0xac, 0x02, 5, 6];

    #[test]
    fn one_other_value_is_told_from_another_metric_and_everything_else() {
        let shape = Shape::of(&PACKED, &REFS, 1);
        let with = |at: usize, bytes: &[u8]| {
            let mut packed = PACKED;
            packed[at..at + bytes.len()].copy_from_slice(bytes);
            shape.differs(&packed)
        };
        assert_eq!(with(0, &[1]), Differs::Nothing);
        assert_eq!(with(1, &[9]), Differs::Metric(9));
        assert_eq!(with(6, &[9]), Differs::Value(9));
        assert_eq!(with(3, &[0xad]), Differs::Value(301));
        assert_eq!(with(4, &[0x03]), Differs::Value(428));
        assert_eq!(with(1, &[9, 3, 0xad]), Differs::Several { metric: 9, largest: 301 });
        assert_eq!(with(3, &[0xad, 0x02, 5, 7]), Differs::Several { metric: 2, largest: 301 });
        assert_eq!(with(1, &[9, 3, 0xad, 0x02, 5, 7]), Differs::Several { metric: 9, largest: 301 });
        assert_eq!(with(1, &[9, 3, 0xad, 0x02, 6, 7]), Differs::Much);
        // Another name, another split into references, and bytes that end within one.
        assert_eq!(with(2, &[9]), Differs::Much);
        assert_eq!(with(3, &[0x2c]), Differs::Much);
        assert_eq!(with(1, &[0x82]), Differs::Much);
        assert_eq!(with(5, &[9, 9]), Differs::Much);
        assert_eq!(with(1, &[9, 9]), Differs::Much);
        assert_eq!(with(6, &[0x86]), Differs::Much);
        assert_eq!(shape.differs(&PACKED[..6]), Differs::Much);
    }

    #[test]
    fn what_is_compared_at_once_is_what_is_compared_one_by_one() {
        const SYMBOLS: usize = 400;
        let shape = Shape::of(&PACKED, &REFS, 1);
        // Every byte with every value, and the bytes behind it: what follows the references is never looked at.
        let bytes = (0..PACKED.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte)));
        for ((at, byte), second) in bytes.flat_map(|first| [None, Some(1), Some(6)].map(|at| (first, at))) {
            let mut packed = PACKED;
            packed[at] = byte;
            if let Some(at) = second {
                packed[at] ^= 3;
            }
            let mut from_refs = [0xa5; AT_ONCE];
            from_refs[..packed.len()].copy_from_slice(&packed);
            let known = |reference: u32| (reference as usize) < SYMBOLS;
            let expected = match shape.differs(&packed) {
                Differs::Nothing => Some(shape.metric),
                Differs::Metric(metric) => Some(metric).filter(|metric| known(*metric)),
                Differs::Value(value) => Some(shape.metric).filter(|_| known(value)),
                Differs::Several { metric, largest } => Some(metric).filter(|_| known(largest)),
                Differs::Much => None,
            };
            let found = shape.metric_of(&from_refs, packed.len(), SYMBOLS);
            assert_eq!(found.map(|(metric, _)| metric), expected, "{packed:?}");
            if let Some((metric, _)) = found {
                let next = shape.with(&packed, &from_refs, metric);
                assert_eq!(next.metric_of(&from_refs, packed.len(), SYMBOLS), Some((metric, 0)));
            }
        }
    }
}
