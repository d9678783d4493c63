//! What goes into an inventory and what comes out of it. Knows nothing of sharing.

use crate::config::{InventoryConfig, InventoryQuota};
use std::sync::Arc;

/// Cards that exist and who may have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Cards per accelerator type; `u64::MAX` for no limit.
    pub pools: Vec<u64>,
    /// Quotas, in any order; where several have the same scope, the smallest holds.
    pub quotas: Vec<Quota>,
}

impl Limits {
    /// The limits of a configuration, for a caller that numbers accelerator types and namespaces by their
    /// position in `pools` and `namespaces`. Quotas keep their positions; one for a name that nobody
    /// claims binds nobody. Without any stated capacity pools have no limit, because what is not known is
    /// not zero; with it, a type that is not listed has no cards.
    pub fn of(config: &InventoryConfig, pools: &[Arc<str>], namespaces: &[Arc<str>]) -> Limits {
        let cards = |name: &Arc<str>| match config.capacity.is_empty() {
            true => u64::MAX,
            false => config.capacity.get(name).copied().unwrap_or(0),
        };
        let number = |name: &Option<Arc<str>>, names: &[Arc<str>]| {
            let at = |name: &Arc<str>| names.iter().position(|known| known == name);
            name.as_ref().map(|name| at(name).map_or(u32::MAX, |at| at as u32))
        };
        let quota = |quota: &InventoryQuota| Quota {
            namespace: number(&quota.namespace, namespaces),
            pool: number(&quota.accelerator, pools),
            cards: quota.cards,
        };
        Limits { pools: pools.iter().map(cards).collect(), quotas: config.quotas.iter().map(quota).collect() }
    }
}

/// Most cards that a namespace, or all, may have of a type, or of all types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quota {
    /// Namespace it is for, as a number of the caller; `None` for all together.
    pub namespace: Option<u32>,
    /// Pool it is for; `None` for the cards of all types together.
    pub pool: Option<u32>,
    /// Cards.
    pub cards: u64,
}

/// What one variant wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Claim {
    /// Index into [`Limits::pools`]; one beyond them has no cards.
    pub pool: u32,
    /// Namespace, as a number of the caller.
    pub namespace: u32,
    /// Cards that one replica takes; 0 counts as 1.
    pub gpus_per_replica: u32,
    /// Replicas that run now.
    pub current: u32,
    /// Replicas wanted.
    pub wanted: u32,
    /// Replicas that come before the growth of others; above `wanted` it counts as `wanted`.
    pub min: u32,
    /// Priority, 1 first; outside `1..=100` it counts as 100.
    pub priority: u32,
    /// Cost of one replica; the cheaper of two that are as urgent comes first, NaN comes last.
    pub cost: f64,
    /// Spare capacity; who has less is more urgent, NaN comes last.
    pub spare: f64,
    /// Breaks ties; usually the position of the variant's name.
    pub rank: u64,
}

/// What keeps a claim from being granted in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitedBy {
    /// Nothing: it is granted in full.
    #[default]
    Nothing,
    /// The cards of this pool.
    Inventory(u32),
    /// This one of [`Limits::quotas`].
    Quota(u32),
}

/// What one variant gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Replicas: those wanted, or fewer, but never fewer than run and are wanted.
    pub replicas: u32,
    /// What stands against more.
    pub limited_by: LimitedBy,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Cards of all grants; above the limit only when as many run already.
    pub used: u64,
    /// Cards that exist.
    pub limit: u64,
    /// Cards wanted by all claims.
    pub wanted: u64,
}

/// Sort key of a claim: priority, spare, cost and rank as integers in their order.
pub(super) type Key = (u32, u64, u64, u64);

impl Claim {
    /// Cards of one replica.
    pub(super) fn cards_per_replica(&self) -> u64 {
        u64::from(self.gpus_per_replica.max(1))
    }

    /// Cards of all replicas wanted.
    pub(super) fn cards(&self) -> u64 {
        u64::from(self.wanted) * self.cards_per_replica()
    }

    /// What it is served by.
    pub(super) fn key(&self) -> Key {
        let priority = if (1..=100).contains(&self.priority) { self.priority } else { 100 };
        (priority, ordered(self.spare), ordered(self.cost), self.rank)
    }

    /// Equality that also holds for NaN.
    pub(super) fn is_same(&self, other: &Claim) -> bool {
        let blank = |claim: &Claim| Claim { cost: 0.0, spare: 0.0, ..*claim };
        self.key() == other.key() && blank(self) == blank(other)
    }
}

/// A number as an integer of the same order; NaN comes last and -0 equals 0.
fn ordered(number: f64) -> u64 {
    if number.is_nan() {
        return u64::MAX;
    }
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}
