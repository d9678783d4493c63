//! Which instance decides for which models, when several share the work.
//!
//! Models are put into a fixed number of buckets by the hash that Prometheus's `hashmod` uses, so that its
//! relabelling can send each instance its part of the stream; buckets are given to instances by a jump hash,
//! so that another number of instances moves as few as possible. Pure; must not know hosts.

use super::{Kept, Problem, Snapshot};
use crate::limits::{SHARD_BUCKETS, SHARDS_MAX};
use md5::{Digest, Md5};

/// One part of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: u32,
    /// Number of parts, at least 1.
    pub count: u32,
}

impl Default for Shard {
    /// The whole.
    fn default() -> Self {
        Shard { index: 0, count: 1 }
    }
}

impl Shard {
    /// Reads `I/N`, or `ordinal/N` where the number at the end of the host's name is meant.
    pub fn parse(text: &str, host_name: impl Fn() -> String) -> Result<Shard, String> {
        let fix = "write I/N, with I from 0 to N-1, or ordinal/N";
        let (index, count) = text.split_once('/').ok_or_else(|| format!("{text:?} is no part; {fix}"))?;
        let count: u32 = count.trim().parse().map_err(|_| format!("{text:?} is no part; {fix}"))?;
        let index: u32 = match index.trim() {
            "ordinal" => {
                let host = host_name();
                let ordinal = host.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok());
                ordinal.ok_or_else(|| {
                    format!("the host name {host:?} ends in no ordinal; run as a StatefulSet or write I/N")
                })?
            }
            index => index.parse().map_err(|_| format!("{text:?} is no part; {fix}"))?,
        };
        if count == 0 || count > SHARDS_MAX {
            return Err(format!("{count} parts are not possible; write 1 to {SHARDS_MAX}"));
        }
        if index >= count {
            return Err(format!("there is no part {index} of {count}; {fix}"));
        }
        Ok(Shard { index, count })
    }

    /// Whether this part decides for a model.
    pub fn holds(self, model_id: &str) -> bool {
        self.count == 1 || owner(bucket(model_id), self.count) == self.index
    }

    /// The part of a configuration that is decided here, and what is not possible in parts.
    pub fn part_of(self, snapshot: &Snapshot) -> (Snapshot, Option<Problem>) {
        let mut part = snapshot.clone();
        if self.count == 1 {
            return (part, None);
        }
        part.variants.retain(|_, variant| self.holds(&variant.model_id));
        part.models.retain(|model, _| self.holds(&model.model_id));
        let is_limited = snapshot.models.keys().any(|model| snapshot.is_limited(model));
        let problem = is_limited.then(|| Problem {
            origin: "--shard".into(),
            object: "--shard".into(),
            field: String::new(),
            reason: "models are held within the inventory, but each instance knows only its own".into(),
            fix: "run one instance where cards are shared, or give the namespaces quotas of their own".into(),
            kept: Kept::Nothing,
        });
        (part, problem)
    }

    /// Buckets of this part, ascending.
    pub fn buckets(self) -> Vec<u32> {
        (0..SHARD_BUCKETS).filter(|bucket| owner(*bucket, self.count) == self.index).collect()
    }

    /// Relabelling for Prometheus's `write_relabel_configs` that keeps what this part needs: its models, and
    /// series that name no model.
    pub fn relabelling(self) -> String {
        let buckets: Vec<String> = self.buckets().iter().map(u32::to_string).collect();
        // The scheduler's series name the model that serves and the one that was asked for. Of a series that
        // names none, the value is empty.
        format!(
            "- source_labels: [model_name]\n  target_label: __tmp_model\n\
             - source_labels: [target_model_name]\n  regex: (.+)\n  target_label: __tmp_model\n\
             - source_labels: [__tmp_model]\n  modulus: {SHARD_BUCKETS}\n  target_label: __tmp_bucket\n  \
             action: hashmod\n- source_labels: [__tmp_model, __tmp_bucket]\n  regex: ;.*|.+;({})\n  \
             action: keep\n- regex: __tmp_.*\n  action: labeldrop\n",
            buckets.join("|")
        )
    }
}

/// The bucket of a model: the last eight bytes of the name's MD5, as Prometheus's `hashmod` has it.
pub fn bucket(model_id: &str) -> u32 {
    let digest = Md5::digest(model_id.as_bytes());
    let tail = digest[8..].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    (tail % u64::from(SHARD_BUCKETS)) as u32
}

/// The part that a bucket belongs to: jump consistent hash (Lamping and Veach, 2014). From N to N+1 parts one
/// in N+1 buckets moves, all of them to the new part.
fn owner(bucket: u32, count: u32) -> u32 {
    // Neighbouring buckets need keys that are far apart.
    let mut key = u64::from(bucket).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (mut owner, mut next): (i64, i64) = (0, 0);
    while next < i64::from(count) {
        owner = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let step = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((owner + 1) as f64 * step) as i64;
    }
    owner as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_has_one_owner_and_parts_are_even() {
        for count in 1..=16 {
            let parts: Vec<Vec<u32>> = (0..count).map(|index| Shard { index, count }.buckets()).collect();
            let mut all: Vec<u32> = parts.concat();
            all.sort_unstable();
            assert_eq!(all, (0..SHARD_BUCKETS).collect::<Vec<_>>());
            let fair = SHARD_BUCKETS as usize / count as usize;
            assert!(parts.iter().all(|part| part.len() * 2 >= fair && part.len() <= fair * 2), "{count}");
        }
    }

    #[test]
    fn one_more_part_takes_buckets_and_moves_no_others() {
        for count in 1..16 {
            let moved: Vec<u32> =
                (0..SHARD_BUCKETS).filter(|b| owner(*b, count) != owner(*b, count + 1)).collect();
            assert!(moved.iter().all(|b| owner(*b, count + 1) == count), "only to the new part");
            assert!(moved.len() as u32 <= 2 * SHARD_BUCKETS / (count + 1), "{count}: {}", moved.len());
        }
    }

    #[test]
    fn parts_are_read() {
        let host = || "inferno-sidecar-2".to_owned();
        assert_eq!(Shard::parse("1/3", host), Ok(Shard { index: 1, count: 3 }));
        assert_eq!(Shard::parse("ordinal/3", host), Ok(Shard { index: 2, count: 3 }));
        for text in ["3/3", "1", "a/b", "0/0", "ordinal/2", "-1/2"] {
            assert!(Shard::parse(text, host).is_err(), "{text}");
        }
    }
}
