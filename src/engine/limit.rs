//! The second phase of a publication: plans are held within the inventory, and entries are made of them.
//!
//! Input: the plans of the first phase, which know of no inventory. Output: entries on the board, those of
//! the models planned anew and of every variant whose grant has changed with them. Plans never build on
//! grants, so that one plan cannot change another; what was granted only decides what is published.
//!
//! Variants of models that are not limited claim the cards that they run on and no more: those cards exist
//! and nobody else can have them.

use super::topology::{VariantId, VariantState};
use super::{Engine, Scaling};
use crate::config::{InventoryConfig, InventoryQuota};
use crate::optimize::inventory::{Claim, Grant, Inventory, LimitedBy, Limits, Quota};
use crate::optimize::limiter::pool_name;
use crate::publish::{Board, CardLimit, Cause, Decision, Direction, Entry, Fault, ScalingCount};
use ahash::AHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Priority of a variant without a service class: the lowest.
const PRIORITY_DEFAULT: u32 = 100;
/// Steps in which spare capacity is compared: finer ones would hand a card to and fro with every sample.
const SPARE_STEPS: f64 = 10.0;
/// A quota that names what no variant has.
const NOBODY: u32 = u32::MAX;

/// Cards, and who claims them.
#[derive(Debug, Default)]
pub struct Cards {
    config: InventoryConfig,
    /// Cards that nodes offer, by pool name.
    nodes: BTreeMap<String, u64>,
    inventory: Inventory,
    /// Some model is limited.
    is_active: bool,
    /// Numbers are given and claims staged anew, and every entry is made anew.
    is_due: bool,
    /// By pool: its name in the configuration of variants, and whether its cards are known.
    pools: Vec<(Arc<str>, bool)>,
    /// By variant.
    places: Vec<Place>,
}

/// What a variant's claim is made of, apart from its plan.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    pool: u32,
    namespace: u32,
    rank: u64,
}

impl Cards {
    /// Takes over a configuration.
    pub fn configure(&mut self, config: &InventoryConfig) {
        self.config = config.clone();
        self.is_due = true;
    }

    /// Takes over the cards that nodes offer, by pool name.
    pub fn set_nodes(&mut self, nodes: BTreeMap<String, u64>) {
        if self.nodes != nodes {
            self.nodes = nodes;
            self.is_due |= self.is_active && self.config.capacity.is_empty();
        }
    }

    /// Cards by pool name as configured, and those of nodes where nothing is configured.
    fn capacity(&self) -> (BTreeMap<String, u64>, bool) {
        if self.config.capacity.is_empty() {
            return (self.nodes.clone(), false);
        }
        let mut capacity = BTreeMap::new();
        for (name, cards) in &self.config.capacity {
            let known: &mut u64 = capacity.entry(pool_name(name)).or_default();
            *known = known.saturating_add(*cards);
        }
        (capacity, true)
    }

    fn is_unknown(&self, variant: VariantId) -> bool {
        let place = self.places.get(variant as usize);
        place.and_then(|place| self.pools.get(place.pool as usize)).is_some_and(|(_, is_known)| !is_known)
    }

    fn claim(&self, id: VariantId, variant: &VariantState, is_limited: bool) -> Claim {
        let place = self.places.get(id as usize).copied().unwrap_or_default();
        let plan = variant.plan.as_ref().filter(|_| is_limited);
        let (current, wanted) =
            plan.map_or((variant.pods, variant.pods), |plan| (plan.current, plan.desired));
        let spare = match plan {
            // What runs stays whatever the order is.
            Some(plan) if wanted > current => (plan.evidence.avg_spare_kv * SPARE_STEPS).round(),
            _ => 0.0,
        };
        Claim {
            pool: place.pool,
            namespace: place.namespace,
            gpus_per_replica: variant.config.acc_count,
            current,
            wanted,
            min: variant.config.min_replicas.unwrap_or(0),
            priority: variant.config.slo.as_ref().map_or(PRIORITY_DEFAULT, |slo| slo.priority),
            cost: variant.config.cost,
            spare,
            rank: place.rank,
        }
    }

    fn limit(&self, plan: &Decision, grant: Grant, variant: &VariantState) -> Option<(Cause, CardLimit)> {
        let wanted_for = plan.cause;
        match grant.limited_by {
            LimitedBy::Nothing => None,
            LimitedBy::Inventory(pool) => {
                let limits = self.inventory.limits();
                let cards = limits.pools.get(pool as usize).copied().unwrap_or(0);
                let accelerator = Some(variant.config.accelerator.clone());
                Some((Cause::Inventory, CardLimit { wanted_for, accelerator, namespace: None, cards }))
            }
            LimitedBy::Quota(quota) => {
                let InventoryQuota { namespace, accelerator, cards } =
                    self.config.quotas.get(quota as usize)?.clone();
                Some((Cause::Quota, CardLimit { wanted_for, accelerator, namespace, cards }))
            }
        }
    }
}

impl Engine {
    /// Shares the cards among the plans, and makes entries of what has changed.
    pub(super) fn share_cards(&mut self, next: &mut Option<Board>) {
        let mut proposals = std::mem::take(&mut self.proposals);
        let is_due = std::mem::take(&mut self.cards.is_due);
        if is_due {
            self.number();
        } else if self.cards.is_active {
            for (id, _) in &proposals {
                self.stage(*id);
            }
        }
        if self.cards.is_active {
            self.cards.inventory.settle();
        }
        for (id, entry) in proposals.drain(..) {
            self.make_entry(id, entry, next);
        }
        self.proposals = proposals;
        if is_due {
            let all: Vec<VariantId> = self.topology.variants.iter().map(|(id, _)| id as VariantId).collect();
            all.into_iter().for_each(|id| self.remake_entry(id, next));
        } else if self.cards.is_active {
            for at in 0..self.cards.inventory.changed().len() {
                self.remake_entry(self.cards.inventory.changed()[at], next);
            }
        }
    }

    /// Numbers pools, namespaces and ranks, and starts an inventory with all claims.
    fn number(&mut self) {
        let cards = &mut self.cards;
        cards.pools.clear();
        cards.places.clear();
        cards.is_active = self.topology.models.iter().any(|(_, model)| model.is_limited);
        if !cards.is_active {
            cards.inventory = Inventory::default();
            return;
        }
        let (capacity, is_whole) = cards.capacity();
        let mut by_key: Vec<VariantId> =
            self.topology.variants.iter().map(|(id, _)| id as VariantId).collect();
        let variant = |id: &VariantId| &*self.topology.variants[*id as usize].config;
        by_key.sort_unstable_by(|a, b| variant(a).key.cmp(&variant(b).key));
        cards.places.resize(self.topology.variants.capacity(), Place::default());
        let (mut pools, mut namespaces) = (AHashMap::new(), AHashMap::new());
        let mut limits = Limits::default();
        for (rank, id) in by_key.iter().enumerate() {
            let config = variant(id);
            let name = pool_name(&config.accelerator);
            let known = capacity.get(&name).copied().or(is_whole.then_some(0));
            let pool = *pools.entry(name).or_insert_with(|| {
                limits.pools.push(known.unwrap_or(u64::MAX));
                cards.pools.push((config.accelerator.clone(), known.is_some()));
                cards.pools.len() as u32 - 1
            });
            let count = namespaces.len() as u32;
            let namespace = *namespaces.entry(config.key.namespace.clone()).or_insert(count);
            cards.places[*id as usize] = Place { pool, namespace, rank: rank as u64 };
        }
        for InventoryQuota { namespace, accelerator, cards } in &cards.config.quotas {
            let namespace = namespace.as_ref().map(|name| namespaces.get(name).copied().unwrap_or(NOBODY));
            let pool =
                accelerator.as_ref().map(|name| pools.get(&pool_name(name)).copied().unwrap_or(NOBODY));
            limits.quotas.push(Quota { namespace, pool, cards: *cards });
        }
        cards.inventory = Inventory::new(limits, cards.config.policy);
        by_key.into_iter().for_each(|id| self.stage(id));
    }

    fn stage(&mut self, id: VariantId) {
        let variant = &self.topology.variants[id as usize];
        let is_limited = self.topology.models[variant.model as usize].is_limited;
        let claim = self.cards.claim(id, variant, is_limited);
        self.cards.inventory.stage(id, Some(claim));
    }

    /// Makes the entry on the board anew, after a change of what is granted.
    fn remake_entry(&mut self, id: VariantId, next: &mut Option<Board>) {
        let key = &self.topology.variants[id as usize].config.key;
        let entries = &next.as_ref().unwrap_or(&self.board).entries;
        if let Some(entry) = entries.get(key).map(|entry| Entry::clone(entry)) {
            self.make_entry(id, entry, next);
        }
    }

    /// Completes an entry with its decision and puts it on the board if it differs.
    fn make_entry(&mut self, id: VariantId, mut entry: Entry, next: &mut Option<Board>) {
        self.entries += 1;
        let variant = &self.topology.variants[id as usize];
        let is_limited = self.topology.models[variant.model as usize].is_limited;
        let grant = is_limited.then(|| self.cards.inventory.grant(id)).flatten();
        let decision = variant.plan.clone().map(|plan| {
            let limit = grant.and_then(|grant| Some((grant, self.cards.limit(&plan, grant, variant)?)));
            let decision = match limit {
                Some((grant, limit)) => held(plan, grant, limit),
                None => plan,
            };
            let previous = match &variant.decision {
                Some(old) if old.desired == decision.desired => old.previous,
                Some(old) => Some((old.desired, self.stream)),
                None => None,
            };
            Decision { previous, ..decision }
        });
        entry.health.faults.retain(|fault| *fault != Fault::InventoryUnknown);
        if is_limited && self.cards.is_unknown(id) {
            entry.health.faults.push(Fault::InventoryUnknown);
        }
        if let Some(decision) = &decision {
            self.note_scaling(id, decision);
        }
        let variant = &mut self.topology.variants[id as usize];
        variant.decision = decision.clone();
        entry.decision = decision;
        entry.scalings.clone_from(&variant.scalings);
        self.set_entry(next, entry);
    }

    /// Counts and reports a change of the desired count. Those that are replayed were counted in their time.
    fn note_scaling(&mut self, id: VariantId, decision: &Decision) {
        if self.filling {
            return;
        }
        let variant = &mut self.topology.variants[id as usize];
        let from = variant.decision.as_ref().map_or(decision.current, |old| old.desired);
        if from == decision.desired {
            return;
        }
        let direction = if decision.desired > from { Direction::Up } else { Direction::Down };
        let cause = decision.cause;
        match variant.scalings.iter_mut().find(|s| (s.direction, s.cause) == (direction, cause)) {
            Some(scaling) => scaling.count += 1,
            None => variant.scalings.push(ScalingCount { direction, cause, count: 1 }),
        }
        self.scalings.push(Scaling {
            variant: variant.config.key.clone(),
            from,
            to: decision.desired,
            current: decision.current,
            direction,
            cause,
            why: decision.explain(),
        });
    }
}

/// The plan, held within the inventory. What runs and is wanted is never given up for want of cards.
fn held(plan: Decision, grant: Grant, (cause, limit): (Cause, CardLimit)) -> Decision {
    let desired = grant.replicas.clamp(plan.current.min(plan.wanted), plan.wanted);
    if desired == plan.wanted {
        return plan;
    }
    let is_still = desired == plan.current && plan.reporting == plan.current;
    let transition_since = plan.transition_since.filter(|_| !is_still);
    Decision { desired, cause, limit: Some(limit), transition_since, ..plan }
}
