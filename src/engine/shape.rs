//! How the packed label references of one 2.0 series differ from those of another: senders write the series of a
//! pod one after the other, so that as good as always one reference differs, the metric's or a bucket's bound.

/// Most bytes of references that are compared; longer ones are read one by one.
const BYTES_MAX: usize = 64;

/// References of a series without fault, as they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape<'a> {
    packed: &'a [u8],
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
        let mut shape = Shape { packed, values: 0, metric_at: BYTES_MAX, metric: refs[metric] };
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
        shape
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

    /// The shape of references that differ from these in values alone, with their metric's name.
    #[inline]
    pub fn with(self, packed: &'a [u8], metric: u32) -> Self {
        Shape { packed, metric, ..self }
    }
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
}
