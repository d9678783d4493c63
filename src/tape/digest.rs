//! A publication condensed: equal digests mean that every number and every reason published is equal.

use crate::config::VariantKey;
use crate::publish::{Board, Entry};
use imbl::ordmap::DiffItem;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// Digest of what changed from one board to the next: the entries, their order and the stream time.
///
/// The text form of a float is the shortest one that reads back as the same bits, so equal text is equal
/// bits. The digest is compared between runs of the same version only.
pub fn of_change(before: &Board, now: &Board) -> u64 {
    let mut digest = Fnv::default();
    // Writing into a digest cannot fail.
    let _ = write!(digest, "{:?}|{}|{}|{}", now.stream_time, now.configured, now.caught_up, now.filling);
    for change in before.entries.diff(&now.entries) {
        let _ = match change {
            DiffItem::Add(key, entry) => add(&mut digest, key, entry),
            DiffItem::Update { new: (key, entry), .. } => add(&mut digest, key, entry),
            DiffItem::Remove(key, _) => write!(digest, "|-{key:?}"),
        };
    }
    digest.0
}

fn add(digest: &mut Fnv, key: &VariantKey, entry: &Arc<Entry>) -> fmt::Result {
    // Its labels are made of the variant.
    let Entry { variant, variant_id, labels: _, decision, load, learned, advice, health, scalings } =
        &**entry;
    write!(
        digest,
        "|{key:?}{variant:?}{variant_id}{decision:?}{load:?}{learned:?}{advice:?}{health:?}{scalings:?}"
    )
}

/// FNV-1a, 64 bits: the same in every release, which std's hashers do not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}
