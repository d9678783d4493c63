//! The inventory against a plain sharing of everything, one replica at a time, and its properties.

use super::*;
use crate::config::{InventoryConfig, InventoryQuota};
use proptest::prelude::*;
use std::sync::Arc;

const POLICIES: [SaturationPolicy; 4] = [
    SaturationPolicy::None,
    SaturationPolicy::PriorityExhaustive,
    SaturationPolicy::PriorityRoundRobin,
    SaturationPolicy::RoundRobin,
];

fn claim(wanted: u32) -> Claim {
    Claim {
        pool: 0,
        namespace: 0,
        gpus_per_replica: 1,
        current: 0,
        wanted,
        min: 0,
        priority: 1,
        cost: 1.0,
        spare: 0.0,
        rank: 0,
    }
}

fn pools(pools: &[u64]) -> Limits {
    Limits { pools: pools.to_vec(), quotas: Vec::new() }
}

fn shared(limits: &Limits, policy: SaturationPolicy, claims: &[Claim]) -> Inventory {
    let mut inventory = Inventory::new(limits.clone(), policy);
    claims.iter().enumerate().for_each(|(id, claim)| inventory.stage(id as u32, Some(*claim)));
    inventory.settle();
    inventory
}

fn replicas(inventory: &Inventory) -> Vec<u32> {
    inventory.grants().map(|(_, grant)| grant.replicas).collect()
}

/// Limits that hold for a claim.
fn limits_of(limits: &Limits, claim: &Claim) -> Vec<usize> {
    let quotas = limits.quotas.iter().enumerate();
    let own = quotas.filter(|(_, quota)| {
        quota.namespace.is_none_or(|namespace| namespace == claim.namespace)
            && quota.pool.is_none_or(|pool| pool == claim.pool)
    });
    let pool = (claim.pool as usize).min(limits.pools.len());
    std::iter::once(pool).chain(own.map(|(at, _)| limits.pools.len() + 1 + at)).collect()
}

/// Plain sharing: all limits, all claims, one replica at a time.
fn plain(limits: &Limits, policy: SaturationPolicy, claims: &[Claim]) -> Vec<u32> {
    let mut free: Vec<u64> = limits.pools.iter().copied().chain([0]).collect();
    free.extend(limits.quotas.iter().map(|quota| quota.cards));
    let of: Vec<Vec<usize>> = claims.iter().map(|claim| limits_of(limits, claim)).collect();
    let mut granted: Vec<u32> = claims.iter().map(|claim| claim.current.min(claim.wanted)).collect();
    for (at, claim) in claims.iter().enumerate() {
        let kept = u64::from(granted[at]) * claim.cards_per_replica();
        of[at].iter().for_each(|limit| free[*limit] = free[*limit].saturating_sub(kept));
    }
    let mut order: Vec<usize> = (0..claims.len()).collect();
    let slot = |at: usize| Slot {
        claim: claims[at],
        key: claims[at].key(),
        bounds: Bounds::default(),
        places: [0; BOUNDS_MAX],
        grant: None,
        held: 0,
    };
    order.sort_by(|&a, &b| slot(a).order(&slot(b)).then(a.cmp(&b)));
    let take = |at: usize, count: u32, free: &mut Vec<u64>, granted: &mut Vec<u32>| -> bool {
        let cards = u64::from(count) * claims[at].cards_per_replica();
        let fits = of[at].iter().all(|limit| free[*limit] >= cards);
        if fits {
            of[at].iter().for_each(|limit| free[*limit] -= cards);
            granted[at] += count;
        }
        fits
    };
    if policy != SaturationPolicy::None {
        for &at in &order {
            let min = claims[at].min.min(claims[at].wanted);
            while granted[at] < min && take(at, 1, &mut free, &mut granted) {}
        }
    }
    let priority = |at: usize| claims[at].key().0;
    let together = policy == SaturationPolicy::RoundRobin;
    for group in order.chunk_by(|&a, &b| together || priority(a) == priority(b)) {
        let mut refused = Vec::new();
        for &at in group {
            let missing = claims[at].wanted - granted[at];
            if missing > 0 && !take(at, missing, &mut free, &mut granted) {
                refused.push(at);
            }
        }
        match policy {
            SaturationPolicy::None => {}
            SaturationPolicy::PriorityExhaustive => {
                for at in refused {
                    while granted[at] < claims[at].wanted && take(at, 1, &mut free, &mut granted) {}
                }
            }
            _ => {
                while !refused.is_empty() {
                    refused.retain(|&at| {
                        granted[at] < claims[at].wanted && take(at, 1, &mut free, &mut granted)
                    });
                }
            }
        }
    }
    granted
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let shape = (0..4_u32, 0..3_u32, 0..4_u32, 0..6_u32, 0..9_u32, 0..4_u32);
    let rank = (0..4_u32, 0..3_u32, 0..3_u32, 0..3_u64);
    (shape, rank).prop_map(
        |((pool, namespace, gpus_per_replica, current, wanted, min), (priority, cost, spare, rank))| Claim {
            pool,
            namespace,
            gpus_per_replica,
            current,
            wanted,
            min,
            priority,
            cost: f64::from(cost),
            spare: if spare == 2 { f64::NAN } else { f64::from(spare) },
            rank,
        },
    )
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let quota = (prop::option::of(0..3_u32), prop::option::of(0..3_u32), 0..30_u64)
        .prop_map(|(namespace, pool, cards)| Quota { namespace, pool, cards });
    (prop::collection::vec(0..40_u64, 0..4), prop::collection::vec(quota, 0..4))
        .prop_map(|(pools, quotas)| Limits { pools, quotas })
}

fn any_policy() -> impl Strategy<Value = SaturationPolicy> {
    prop::sample::select(POLICIES.to_vec())
}

fn some_claims() -> impl Strategy<Value = Vec<Claim>> {
    prop::collection::vec(any_claim(), 0..20)
}

/// What can happen to an inventory.
#[derive(Clone, Debug)]
enum Event {
    Set(u32, Claim),
    Remove(u32),
    Resize(Limits, SaturationPolicy),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..12_u32, any_claim()).prop_map(|(id, claim)| Event::Set(id, claim)),
        2 => (0..12_u32).prop_map(Event::Remove),
        1 => (any_limits(), any_policy()).prop_map(|(limits, policy)| Event::Resize(limits, policy)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn equals_the_plain_sharing(limits in any_limits(), policy in any_policy(), claims in some_claims()) {
        let inventory = shared(&limits, policy, &claims);
        prop_assert_eq!(replicas(&inventory), plain(&limits, policy, &claims));
    }

    #[test]
    fn incremental_equals_from_scratch(
        limits in any_limits(),
        policy in any_policy(),
        events in prop::collection::vec(any_event(), 1..30),
    ) {
        let mut inventory = Inventory::new(limits.clone(), policy);
        let (mut limits, mut policy) = (limits, policy);
        let mut claims: Vec<Option<Claim>> = vec![None; 12];
        for event in events {
            let before: Vec<Option<Grant>> = (0..12).map(|id| inventory.grant(id)).collect();
            match event {
                Event::Set(id, claim) => {
                    claims[id as usize] = Some(claim);
                    inventory.set(id, claim);
                }
                Event::Remove(id) => {
                    claims[id as usize] = None;
                    inventory.remove(id);
                }
                Event::Resize(new_limits, new_policy) => {
                    (limits, policy) = (new_limits, new_policy);
                    inventory.resize(limits.clone(), policy);
                }
            }
            let mut anew = Inventory::new(limits.clone(), policy);
            for (id, claim) in claims.iter().enumerate() {
                anew.stage(id as u32, *claim);
            }
            anew.settle();
            prop_assert_eq!(inventory.grants().collect::<Vec<_>>(), anew.grants().collect::<Vec<_>>());
            prop_assert_eq!(inventory.is_scarce(), anew.is_scarce());
            for pool in 0..5 {
                prop_assert_eq!(inventory.pool(pool), anew.pool(pool));
            }
            for quota in 0..4 {
                prop_assert_eq!(inventory.quota(quota), anew.quota(quota));
            }
            let is_changed = |id: &u32| {
                let now = inventory.grant(*id);
                now.is_some() && now != before[*id as usize]
            };
            let changed: Vec<u32> = (0..12).filter(is_changed).collect();
            prop_assert_eq!(inventory.changed(), changed.as_slice());
        }
    }

    #[test]
    fn limits_hold_and_running_replicas_stay(
        limits in any_limits(),
        policy in any_policy(),
        claims in some_claims(),
    ) {
        let inventory = shared(&limits, policy, &claims);
        let mut bounds: Vec<u64> = limits.pools.iter().copied().chain([0]).collect();
        bounds.extend(limits.quotas.iter().map(|quota| quota.cards));
        let mut used = vec![(0, 0); bounds.len()];
        for (id, claim) in claims.iter().enumerate() {
            let grant = inventory.grant(id as u32).unwrap();
            let kept = claim.current.min(claim.wanted);
            prop_assert!((kept..=claim.wanted).contains(&grant.replicas));
            prop_assert_eq!(grant.limited_by == LimitedBy::Nothing, grant.replicas == claim.wanted);
            for limit in limits_of(&limits, claim) {
                used[limit].0 += u64::from(grant.replicas) * claim.cards_per_replica();
                used[limit].1 += u64::from(kept) * claim.cards_per_replica();
            }
        }
        for (limit, (all, kept)) in bounds.iter().zip(used) {
            prop_assert!(all <= kept.max(*limit));
        }
    }

    #[test]
    fn what_limits_is_short_of_one_more(
        limits in any_limits(),
        policy in any_policy(),
        claims in some_claims(),
    ) {
        let inventory = shared(&limits, policy, &claims);
        for (id, claim) in claims.iter().enumerate() {
            let grant = inventory.grant(id as u32).unwrap();
            let at = match grant.limited_by {
                LimitedBy::Nothing => continue,
                LimitedBy::Inventory(pool) => inventory.pool(pool),
                LimitedBy::Quota(quota) => inventory.quota(quota),
            };
            let more = match policy {
                SaturationPolicy::None => claim.wanted - grant.replicas,
                _ => 1,
            };
            prop_assert!(at.limit.saturating_sub(at.used) < u64::from(more) * claim.cards_per_replica());
        }
    }

    #[test]
    fn numbers_of_claims_do_not_matter(
        limits in any_limits(),
        policy in any_policy(),
        mut claims in some_claims(),
        seed in any::<u64>(),
    ) {
        let seen = |claims: &[Claim]| {
            let grants = shared(&limits, policy, claims).grants().map(|(_, grant)| grant).collect::<Vec<_>>();
            let mut seen: Vec<String> =
                claims.iter().zip(grants).map(|(claim, grant)| format!("{claim:?} {grant:?}")).collect();
            seen.sort();
            seen
        };
        let before = seen(&claims);
        let count = claims.len();
        for at in 1..count {
            claims.swap(at, (seed.rotate_left(at as u32) % (at as u64 + 1)) as usize);
        }
        prop_assert_eq!(before, seen(&claims));
    }

    /// A larger pool is used at least as well. The number of replicas may still fall: one of many cards
    /// that now fits may displace several of few.
    #[test]
    fn a_larger_pool_is_never_used_less(
        cards in 0..60_u64,
        policy in any_policy(),
        claims in some_claims(),
    ) {
        let used = |cards: u64| shared(&pools(&[cards]), policy, &claims).pool(0).used;
        prop_assert!(used(cards + 1) >= used(cards));
    }

    #[test]
    fn the_higher_priority_never_gets_less(
        limits in any_limits(),
        twin in any_claim(),
        others in some_claims(),
    ) {
        let twin = Claim { current: 0, priority: 2, ..twin };
        let mut claims = vec![Claim { priority: 1, ..twin }, twin];
        claims.extend(others);
        let inventory = shared(&limits, SaturationPolicy::PriorityExhaustive, &claims);
        let of = |id: u32| inventory.grant(id).unwrap().replicas;
        prop_assert!(of(0) >= of(1));
    }

    #[test]
    fn granting_again_changes_nothing(
        limits in any_limits(),
        policy in any_policy(),
        mut claims in some_claims(),
    ) {
        let mut inventory = shared(&limits, policy, &claims);
        let first = replicas(&inventory);
        for (id, (claim, granted)) in claims.iter_mut().zip(&first).enumerate() {
            inventory.set(id as u32, *claim);
            prop_assert_eq!(inventory.changed(), &[] as &[u32]);
            claim.current = *granted;
        }
        prop_assert_eq!(replicas(&shared(&limits, policy, &claims)), first);
    }
}

#[test]
fn policies_differ_as_described() {
    // Two of priority 1 want 5 and 3, one of priority 2 wants 2; there are 7 cards.
    let claims =
        [Claim { rank: 0, ..claim(5) }, Claim { rank: 1, ..claim(3) }, Claim { priority: 2, ..claim(2) }];
    let grants = |policy| replicas(&shared(&pools(&[7]), policy, &claims));
    assert_eq!(grants(SaturationPolicy::None), [5, 0, 2]);
    assert_eq!(grants(SaturationPolicy::PriorityExhaustive), [5, 2, 0]);
    assert_eq!(grants(SaturationPolicy::PriorityRoundRobin), [5, 2, 0]);
    assert_eq!(grants(SaturationPolicy::RoundRobin), [5, 0, 2]);
    let both = [Claim { rank: 0, ..claim(9) }, Claim { rank: 1, ..claim(8) }];
    let grants = |policy| replicas(&shared(&pools(&[7]), policy, &both));
    assert_eq!(grants(SaturationPolicy::PriorityExhaustive), [7, 0]);
    assert_eq!(grants(SaturationPolicy::PriorityRoundRobin), [4, 3]);
}

#[test]
fn cards_of_an_incomplete_replica_go_to_the_next() {
    let claims = [Claim { gpus_per_replica: 4, ..claim(2) }, Claim { priority: 2, ..claim(5) }];
    let inventory = shared(&pools(&[7]), SaturationPolicy::PriorityExhaustive, &claims);
    assert_eq!(replicas(&inventory), [1, 3]);
    assert_eq!(inventory.pool(0), PoolUse { used: 7, limit: 7, wanted: 13 });
}

#[test]
fn running_replicas_are_kept_above_a_lowered_limit_and_minimums_come_first() {
    let running = Claim { current: 4, priority: 9, ..claim(4) };
    let urgent = Claim { priority: 1, ..claim(3) };
    let mut inventory = shared(&pools(&[4]), SaturationPolicy::PriorityExhaustive, &[running, urgent]);
    assert_eq!(replicas(&inventory), [4, 0]);
    inventory.resize(pools(&[3]), SaturationPolicy::PriorityExhaustive);
    assert_eq!((replicas(&inventory), inventory.pool(0).used), (vec![4, 0], 4));
    // What is not wanted any more is free at once.
    inventory.set(0, Claim { wanted: 1, ..running });
    assert_eq!((replicas(&inventory), inventory.changed()), (vec![1, 2], &[0, 1][..]));
    let minimum = Claim { min: 1, priority: 9, ..claim(3) };
    let inventory = shared(&pools(&[3]), SaturationPolicy::PriorityExhaustive, &[minimum, urgent]);
    assert_eq!(replicas(&inventory), [1, 2]);
}

#[test]
fn the_limit_that_binds_is_named() {
    let limits = Limits {
        pools: vec![10, 10],
        quotas: vec![
            Quota { namespace: Some(1), pool: None, cards: 5 },
            Quota { namespace: Some(1), pool: Some(0), cards: 3 },
            Quota { namespace: None, pool: Some(1), cards: 1 },
        ],
    };
    let policy = SaturationPolicy::PriorityExhaustive;
    let of = |claims: &[Claim]| shared(&limits, policy, claims).grants().map(|(_, g)| g).collect::<Vec<_>>();
    let grant = |replicas, limited_by| Grant { replicas, limited_by };
    assert_eq!(of(&[claim(11)]), [grant(10, LimitedBy::Inventory(0))]);
    assert_eq!(of(&[Claim { namespace: 1, ..claim(9) }]), [grant(3, LimitedBy::Quota(1))]);
    assert_eq!(of(&[Claim { pool: 1, ..claim(2) }]), [grant(1, LimitedBy::Quota(2))]);
    assert_eq!(of(&[Claim { pool: 7, ..claim(1) }]), [grant(0, LimitedBy::Inventory(7))]);
    assert_eq!(of(&[claim(10)]), [grant(10, LimitedBy::Nothing)]);
}

#[test]
fn a_configuration_becomes_limits() {
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
    let quota = |namespace: Option<&str>, accelerator: Option<&str>| InventoryQuota {
        namespace: namespace.map(Into::into),
        accelerator: accelerator.map(Into::into),
        cards: 3,
    };
    let mut config = InventoryConfig {
        quotas: vec![quota(None, Some("H100")), quota(Some("b"), None), quota(Some("gone"), Some("A100"))],
        ..InventoryConfig::default()
    };
    let of = |config: &InventoryConfig| Limits::of(config, &names(&["A100", "H100"]), &names(&["a", "b"]));
    assert_eq!(of(&config).pools, [u64::MAX, u64::MAX]);
    config.capacity.insert("A100".into(), 8);
    let limits = of(&config);
    let scopes: Vec<_> = limits.quotas.iter().map(|quota| (quota.namespace, quota.pool)).collect();
    assert_eq!(limits.pools, [8, 0]);
    assert_eq!(scopes, [(None, Some(1)), (Some(1), None), (Some(u32::MAX), Some(0))]);
}

#[test]
fn only_what_hangs_together_with_a_change_is_shared_again() {
    let claims = [claim(9), Claim { pool: 1, ..claim(9) }, Claim { rank: 1, ..claim(9) }];
    let mut inventory = shared(&pools(&[10, 5]), SaturationPolicy::PriorityExhaustive, &claims);
    assert!(inventory.is_scarce() && inventory.is_contended(1));
    inventory.set(2, Claim { rank: 1, ..claim(8) });
    assert_eq!(inventory.order, [0, 2]);
    assert_eq!(inventory.changed(), &[] as &[u32]);
    inventory.remove(1);
    assert_eq!(inventory.order, &[] as &[u32]);
    inventory.set(3, Claim { pool: 1, ..claim(5) });
    assert_eq!((inventory.order.as_slice(), inventory.is_contended(3)), (&[3][..], false));
}

#[test]
fn extremes_do_not_overflow() {
    let most = Claim { gpus_per_replica: u32::MAX, ..claim(u32::MAX) };
    for policy in POLICIES {
        let claims = vec![most; 50];
        let inventory = shared(&pools(&[u64::MAX]), policy, &claims);
        assert_eq!(inventory.pool(0).wanted, u64::MAX);
        assert!(
            inventory.grants().map(|(_, grant)| u64::from(grant.replicas)).sum::<u64>()
                >= u64::from(u32::MAX)
        );
    }
}
