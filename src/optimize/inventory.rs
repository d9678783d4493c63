//! Limited inventory: shares the cards that exist among the variants that want replicas, again and
//! again, at the price of what changed.
//!
//! Input: cards per accelerator type ([`Limits`]) and one [`Claim`] per variant, under a dense number of
//! the caller. Output: one [`Grant`] per claim, and which of them changed. Knows nothing of names,
//! nodes, time or the reasons behind a claim.
//!
//! # What is shared
//!
//! 1. Replicas that run and are still wanted stay: no plan takes them from one variant for another. They
//!    count even where they exceed a limit that was lowered since.
//! 2. Claims are then served in order of priority, least spare capacity, least cost, rank; what is left
//!    equal is told apart by the claim itself, and only then by number.
//! 3. Growth up to the claimed minimum comes first, over all priorities (not under
//!    [`SaturationPolicy::None`]).
//! 4. Then, priority by priority, what fits whole is granted; the [`SaturationPolicy`] decides about the
//!    rest before the next priority. [`SaturationPolicy::RoundRobin`] looks at the rest of all priorities
//!    together, at the end.
//!
//! Only whole replicas are granted. Cards that do not make one stay for others.
//!
//! # Why it is fast
//!
//! Every pool and quota keeps the sum of cards wanted from it. Where that is within the limit it is not
//! *scarce*: it cannot bind, whoever is served first, and its claims get what they want. A change
//! re-shares the claims that hang together with it through scarce pools and quotas, and no other. Nothing
//! is allocated once the working memory has grown.

mod claim;
mod share;
#[cfg(test)]
mod tests;

pub use claim::{Claim, Grant, LimitedBy, Limits, PoolUse, Quota};

use crate::config::SaturationPolicy;
use claim::Key;
use share::{BOUNDS_MAX, Bounds, Sharing, Work};
use std::cmp::Ordering;

/// A claim with its grant.
#[derive(Clone, Debug)]
struct Slot {
    claim: Claim,
    key: Key,
    bounds: Bounds,
    /// Where the claim stands in the member list of each bound.
    places: [u32; BOUNDS_MAX],
    /// The grant; `None` until the first settlement.
    grant: Option<Grant>,
    /// Cards counted as used.
    held: u64,
}

/// A pool, or a quota.
#[derive(Clone, Debug)]
struct Bound {
    limit: u64,
    /// Cards wanted by its claims.
    wanted: u128,
    /// Cards of its grants.
    used: u128,
    /// Claims that it bounds, in any order.
    members: Vec<u32>,
    scarce: bool,
    touched: bool,
    reached: bool,
}

impl Bound {
    fn new(limit: u64) -> Self {
        Bound {
            limit,
            wanted: 0,
            used: 0,
            members: Vec::new(),
            scarce: false,
            touched: false,
            reached: false,
        }
    }

    fn is_short(&self) -> bool {
        self.wanted > u128::from(self.limit)
    }
}

/// The inventory with all claims on it.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    limits: Limits,
    policy: SaturationPolicy,
    /// One per pool, one for unknown pools, one per quota.
    bounds: Vec<Bound>,
    /// Numbers of bounds by scope of the quota, sorted.
    scopes: Vec<(Option<u32>, Option<u32>, u32)>,
    slots: Vec<Option<Slot>>,
    /// Claims that changed since the last settlement.
    staged: Vec<u32>,
    /// Bounds whose demand changed since then.
    touched: Vec<u32>,
    /// Bounds that hang together with a change.
    reached: Vec<u32>,
    /// Claims to be shared again, and whether a claim is among them.
    order: Vec<u32>,
    is_ordered: Vec<bool>,
    work: Vec<Work>,
    free: Vec<u64>,
    sharing: Sharing,
    changed: Vec<u32>,
}

impl Inventory {
    /// An inventory without claims.
    pub fn new(limits: Limits, policy: SaturationPolicy) -> Self {
        let mut inventory = Inventory { policy, ..Inventory::default() };
        inventory.rebuild(limits);
        inventory
    }

    /// Sets the claim of that number; numbers should be dense. See [`Inventory::changed`] for the effect.
    pub fn set(&mut self, id: u32, claim: Claim) {
        self.stage(id, Some(claim));
        self.settle();
    }

    /// Removes a claim; its cards go to others.
    pub fn remove(&mut self, id: u32) {
        self.stage(id, None);
        self.settle();
    }

    /// Changes limits and policy; the claims stay.
    pub fn resize(&mut self, limits: Limits, policy: SaturationPolicy) {
        if limits == self.limits && policy == self.policy && self.staged.is_empty() {
            self.changed.clear();
            return;
        }
        self.policy = policy;
        self.rebuild(limits);
        self.settle();
    }

    /// Notes a claim, or its end, without sharing yet: for many changes at once. Until
    /// [`Inventory::settle`] grants are those of before.
    pub fn stage(&mut self, id: u32, claim: Option<Claim>) {
        let at = id as usize;
        if let (Some(Some(slot)), Some(claim)) = (self.slots.get(at), &claim)
            && slot.claim.is_same(claim)
        {
            return;
        }
        if at >= self.slots.len() {
            if claim.is_none() {
                return;
            }
            self.slots.resize_with(at + 1, || None);
            self.is_ordered.resize(at + 1, false);
        }
        let before = self.slots[at].take();
        let grant = before.as_ref().and_then(|slot| slot.grant);
        match (before, claim) {
            (Some(mut slot), Some(claim)) if self.bounds_of(&claim) == slot.bounds => {
                self.demand(&slot.bounds, slot.claim.cards(), claim.cards());
                (slot.claim, slot.key) = (claim, claim.key());
                self.slots[at] = Some(slot);
            }
            (before, claim) => {
                if let Some(slot) = before {
                    self.leave(&slot);
                }
                if let Some(claim) = claim {
                    self.join(id, claim, grant);
                }
            }
        }
        self.staged.push(id);
    }

    /// Shares again what hangs together with the staged changes.
    pub fn settle(&mut self) {
        self.changed.clear();
        self.reach();
        self.collect();
        self.share();
        self.assign();
    }

    /// The grant of a claim.
    pub fn grant(&self, id: u32) -> Option<Grant> {
        self.slots.get(id as usize)?.as_ref()?.grant
    }

    /// All grants, by number.
    pub fn grants(&self) -> impl Iterator<Item = (u32, Grant)> {
        let of = |(id, slot): (usize, &Option<Slot>)| Some((id as u32, slot.as_ref()?.grant?));
        self.slots.iter().enumerate().filter_map(of)
    }

    /// Claims whose grant the last change gave a new value, ascending. Removed claims are not among them.
    pub fn changed(&self) -> &[u32] {
        &self.changed
    }

    /// How full a pool is; all zero for an unknown one without claims.
    pub fn pool(&self, pool: u32) -> PoolUse {
        self.bounds.get(self.pool_bound(pool)).map(use_of).unwrap_or_default()
    }

    /// How full a quota is, by its index in [`Limits::quotas`]. Of several with the same scope the
    /// smallest one is counted for all.
    pub fn quota(&self, quota: u32) -> PoolUse {
        let Some(quota) = self.limits.quotas.get(quota as usize) else { return PoolUse::default() };
        let bound = self.scope(quota.namespace, quota.pool);
        bound.map(|bound| use_of(&self.bounds[bound as usize])).unwrap_or_default()
    }

    /// Whether more is wanted of any pool or quota than there is.
    pub fn is_scarce(&self) -> bool {
        self.bounds.iter().any(|bound| bound.scarce)
    }

    /// Whether the claim depends on what others want.
    pub fn is_contended(&self, id: u32) -> bool {
        let slot = self.slots.get(id as usize).and_then(Option::as_ref);
        slot.is_some_and(|slot| slot.bounds.iter().any(|bound| self.bounds[bound].scarce))
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn pool_bound(&self, pool: u32) -> usize {
        (pool as usize).min(self.limits.pools.len())
    }

    fn scope(&self, namespace: Option<u32>, pool: Option<u32>) -> Option<u32> {
        let found = self.scopes.binary_search_by(|scope| (scope.0, scope.1).cmp(&(namespace, pool)));
        found.ok().map(|at| self.scopes[at].2)
    }

    fn bounds_of(&self, claim: &Claim) -> Bounds {
        let mut bounds = Bounds::default();
        bounds.push(self.pool_bound(claim.pool) as u32);
        if self.scopes.is_empty() {
            return bounds;
        }
        for namespace in [None, Some(claim.namespace)] {
            for pool in [None, Some(claim.pool)] {
                if let Some(bound) = self.scope(namespace, pool) {
                    bounds.push(bound);
                }
            }
        }
        bounds
    }

    /// Builds the bounds anew and stages every claim.
    fn rebuild(&mut self, limits: Limits) {
        let pools = limits.pools.len();
        self.bounds.clear();
        self.bounds.extend(limits.pools.iter().chain([&0]).map(|cards| Bound::new(*cards)));
        self.bounds.extend(limits.quotas.iter().map(|quota| Bound::new(quota.cards)));
        let scope = |(at, quota): (usize, &Quota)| (quota.namespace, quota.pool, (pools + 1 + at) as u32);
        self.scopes = limits.quotas.iter().enumerate().map(scope).collect();
        let cards = |bound: u32| self.bounds[bound as usize].limit;
        self.scopes.sort_by_key(|scope| (scope.0, scope.1, cards(scope.2), scope.2));
        self.scopes.dedup_by_key(|scope| (scope.0, scope.1));
        self.limits = limits;
        self.touched.clear();
        self.staged.clear();
        for id in 0..self.slots.len() as u32 {
            if let Some(slot) = self.slots[id as usize].take() {
                self.join(id, slot.claim, slot.grant);
                self.staged.push(id);
            }
        }
    }

    /// Enters a claim in the lists of its bounds.
    fn join(&mut self, id: u32, claim: Claim, grant: Option<Grant>) {
        let bounds = self.bounds_of(&claim);
        let mut places = [0; BOUNDS_MAX];
        for (place, bound) in places.iter_mut().zip(bounds.iter()) {
            *place = self.bounds[bound].members.len() as u32;
            self.bounds[bound].members.push(id);
        }
        self.demand(&bounds, 0, claim.cards());
        self.slots[id as usize] = Some(Slot { claim, key: claim.key(), bounds, places, grant, held: 0 });
    }

    /// Takes a claim, which has left its slot, off the lists of its bounds.
    fn leave(&mut self, slot: &Slot) {
        for (place, bound) in slot.places.iter().zip(slot.bounds.iter()) {
            let list = &mut self.bounds[bound];
            list.used -= u128::from(slot.held);
            list.members.swap_remove(*place as usize);
            if let Some(&moved) = list.members.get(*place as usize)
                && let Some(moved) = &mut self.slots[moved as usize]
            {
                moved.set_place(bound, *place);
            }
        }
        self.demand(&slot.bounds, slot.claim.cards(), 0);
    }

    /// Replaces what is wanted of some bounds.
    fn demand(&mut self, bounds: &Bounds, before: u64, now: u64) {
        for at in bounds.iter() {
            let bound = &mut self.bounds[at];
            bound.wanted = bound.wanted - u128::from(before) + u128::from(now);
            if !bound.touched {
                bound.touched = true;
                self.touched.push(at as u32);
            }
        }
    }

    /// Starts from the touched bounds that are scarce, or were.
    fn reach(&mut self) {
        self.reached.clear();
        for &at in &self.touched {
            let bound = &mut self.bounds[at as usize];
            bound.scarce |= bound.is_short();
            if bound.scarce {
                bound.reached = true;
                self.reached.push(at);
            }
        }
    }

    /// Collects the staged claims and all that hang together through reached bounds, in their order.
    fn collect(&mut self) {
        self.order.clear();
        for &id in &self.staged {
            if self.slots[id as usize].is_some()
                && !std::mem::replace(&mut self.is_ordered[id as usize], true)
            {
                self.order.push(id);
            }
        }
        let mut next = 0;
        while let Some(&at) = self.reached.get(next) {
            next += 1;
            for place in 0..self.bounds[at as usize].members.len() {
                let id = self.bounds[at as usize].members[place];
                if !std::mem::replace(&mut self.is_ordered[id as usize], true) {
                    self.order.push(id);
                }
                let Some(slot) = &self.slots[id as usize] else { continue };
                for bound in slot.bounds.iter() {
                    let linked = &mut self.bounds[bound];
                    if linked.scarce && !std::mem::replace(&mut linked.reached, true) {
                        self.reached.push(bound as u32);
                    }
                }
            }
        }
        for &at in self.touched.iter() {
            let bound = &mut self.bounds[at as usize];
            bound.scarce = bound.is_short();
            bound.touched = false;
        }
        for &at in &self.reached {
            self.bounds[at as usize].reached = false;
        }
        self.touched.clear();
        self.staged.clear();
        let slots = &self.slots;
        let slot = |id: u32| slots[id as usize].as_ref();
        self.order.sort_unstable_by(|&a, &b| match (slot(a), slot(b)) {
            (Some(left), Some(right)) => left.order(right).then(a.cmp(&b)),
            _ => a.cmp(&b),
        });
    }

    /// Shares what the scarce bounds have among the collected claims.
    fn share(&mut self) {
        self.free.resize(self.bounds.len(), 0);
        for &at in &self.reached {
            self.free[at as usize] = self.bounds[at as usize].limit;
        }
        self.work.clear();
        for &id in &self.order {
            let Some(slot) = &self.slots[id as usize] else { continue };
            let claim = &slot.claim;
            let mut bounds = Bounds::default();
            slot.bounds
                .iter()
                .filter(|bound| self.bounds[*bound].scarce)
                .for_each(|at| bounds.push(at as u32));
            let cards = claim.cards_per_replica();
            let kept = claim.current.min(claim.wanted);
            for at in bounds.iter() {
                self.free[at] = self.free[at].saturating_sub(u64::from(kept) * cards);
            }
            let priority = slot.key.0;
            let (wanted, min) = (claim.wanted, claim.min.min(claim.wanted));
            self.work.push(Work { cards, granted: kept, wanted, min, priority, bounds });
        }
        self.sharing.share(self.policy, &mut self.work, &mut self.free);
    }

    /// Writes the grants back.
    fn assign(&mut self) {
        let pools = self.limits.pools.len();
        for (&id, work) in self.order.iter().zip(&self.work) {
            self.is_ordered[id as usize] = false;
            let Some(slot) = &mut self.slots[id as usize] else { continue };
            let scarcest = work.bounds.iter().min_by_key(|at| (self.free[*at], *at));
            let limited_by = match scarcest.filter(|_| work.granted < work.wanted) {
                None => LimitedBy::Nothing,
                Some(at) if at <= pools => LimitedBy::Inventory(slot.claim.pool),
                Some(at) => LimitedBy::Quota((at - pools - 1) as u32),
            };
            let grant = Grant { replicas: work.granted, limited_by };
            let held = u64::from(work.granted) * work.cards;
            for at in slot.bounds.iter() {
                let bound = &mut self.bounds[at];
                bound.used = bound.used - u128::from(slot.held) + u128::from(held);
            }
            slot.held = held;
            if slot.grant != Some(grant) {
                slot.grant = Some(grant);
                self.changed.push(id);
            }
        }
        self.changed.sort_unstable();
    }
}

fn use_of(bound: &Bound) -> PoolUse {
    let cards = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
    PoolUse { used: cards(bound.used), limit: bound.limit, wanted: cards(bound.wanted) }
}

impl Slot {
    fn set_place(&mut self, bound: usize, place: u32) {
        if let Some(at) = self.bounds.iter().position(|other| other == bound) {
            self.places[at] = place;
        }
    }

    /// Order in which claims are served, as far as it does not need their numbers.
    fn order(&self, other: &Slot) -> Ordering {
        let rest = |claim: &Claim| {
            let Claim { gpus_per_replica, wanted, current, min, pool, namespace, .. } = *claim;
            (gpus_per_replica, wanted, current, min, pool, namespace)
        };
        self.key.cmp(&other.key).then_with(|| rest(&self.claim).cmp(&rest(&other.claim)))
    }
}
