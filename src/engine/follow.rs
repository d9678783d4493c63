//! What makes a series cheap that was sent before: senders keep the order of series, so that the one behind
//! is known, and the series of one pod share all labels but the metric's name.
//!
//! Whatever is guessed here is compared before it is believed; a wrong guess costs a hash.

use super::store::{SlotId, Store};
use crate::series::dialect::Dialects;
use crate::wire::v1::{Kept, Series};
use crate::wire::{Counts, WireError};

/// Keys of byte forms with the name in front are apart by this for two metrics, and from those of forms
/// without: an odd number, so that no two rows meet.
const ROW_STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Reused memory of the first pass over a request.
#[derive(Debug, Default)]
pub struct FirstPass {
    /// Series that matter, with the number of the row where that is all there is to say.
    pub kept: Kept<Option<u16>>,
    /// By row: the row that came after it last time.
    after: Vec<u16>,
}

impl FirstPass {
    /// Checks the structure of a request and keeps what is to be taken in or judged; the other series are only
    /// counted.
    pub fn read(&mut self, request: &[u8], dialects: &Dialects) -> Result<Counts, WireError> {
        let rows = dialects.rows();
        let FirstPass { kept, after } = self;
        after.resize(rows.len(), 0);
        let (mut last, mut foreign): (u16, &[u8]) = (0, &[]);
        kept.read(request, |series| {
            let metric = match series.metric_name() {
                Ok(Some(metric)) if !metric.is_empty() => metric,
                _ => return Some(None),
            };
            let judged = (series.histograms > 0).then_some(None);
            // Buckets repeat one name many times.
            if !dialects.has_length(metric) || metric == foreign {
                return judged;
            }
            let guess = after.get(usize::from(last)).copied().unwrap_or_default();
            if rows.get(usize::from(guess)).is_some_and(|row| row.metric.as_bytes() == metric) {
                last = guess;
                return Some(Some(guess));
            }
            let Some(row) = dialects.number(metric) else {
                foreign = metric;
                return judged;
            };
            after[usize::from(last)] = row;
            last = row;
            Some(Some(row))
        })
    }
}

/// Where the walk over one request stands.
#[derive(Debug)]
pub struct Follow<'a> {
    /// Slot of the last relevant series.
    pub previous: SlotId,
    /// Labels behind the name of the last series, with their hash: those of a pod alternate between few.
    rests: [(&'a [u8], u128); 2],
}

impl Default for Follow<'_> {
    fn default() -> Self {
        Follow { previous: SlotId::MAX, rests: [(&[], 0); 2] }
    }
}

impl<'a> Follow<'a> {
    /// Key of the byte form of a series' labels; `None` when these bytes are not all of them.
    #[inline]
    pub fn key(&mut self, series: &Series<'a>, row: u16, store: &Store) -> Option<u128> {
        let Some(rest) = series.label_bytes_behind_name().filter(|rest| !rest.is_empty()) else {
            return series.label_bytes().map(|bytes| store.hash_bytes(bytes));
        };
        if rest != self.rests[0].0 {
            self.rests.swap(0, 1);
            if rest != self.rests[0].0 {
                self.rests[0] = (rest, store.hash_bytes(rest));
            }
        }
        Some(self.rests[0].1.wrapping_add((u128::from(row) + 1).wrapping_mul(ROW_STEP)))
    }
}
