//! Names as Kubernetes would give them: pods of a Deployment, addresses, node names.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Letters of generated names: no vowels and no look-alikes, so that no words come out.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Pod addresses per emulated node network.
const ADDRESSES_PER_NET: u64 = 250;

/// Gives out unique names, the same ones for the same seed.
#[derive(Debug)]
pub(super) struct Namer {
    random: Pcg64Mcg,
    taken: BTreeSet<String>,
    addresses: u64,
}

impl Namer {
    pub(super) fn new(seed: u64) -> Self {
        Namer { random: Pcg64Mcg::seed_from_u64(seed), taken: BTreeSet::new(), addresses: 0 }
    }

    /// Name of the ReplicaSet of Deployment `deployment`.
    pub(super) fn replica_set(&mut self, deployment: &str) -> String {
        self.unique(deployment, 10)
    }

    /// Name of a new pod of ReplicaSet `replica_set`.
    pub(super) fn pod(&mut self, replica_set: &str) -> String {
        self.unique(replica_set, 5)
    }

    /// Name of the pod of a Deployment that has one for good.
    pub(super) fn only_pod(&mut self, deployment: &str) -> String {
        let replica_set = self.replica_set(deployment);
        self.pod(&replica_set)
    }

    /// A new pod address without port.
    pub(super) fn address(&mut self) -> String {
        let at = self.addresses;
        self.addresses += 1;
        format!(
            "10.{}.{}.{}",
            128 + at / 64_000 % 100,
            at / ADDRESSES_PER_NET % 256,
            at % ADDRESSES_PER_NET + 2
        )
    }

    fn unique(&mut self, prefix: &str, letters: usize) -> String {
        loop {
            let mut name = format!("{prefix}-");
            name.extend(
                (0..letters).map(|_| char::from(LETTERS[self.random.random_range(0..LETTERS.len())])),
            );
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}
